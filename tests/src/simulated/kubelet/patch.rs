//! The smallest strategic merge patch from one status to another.

use serde_json::{Map, Value, json};

/// Lists that the API server merges by a key, with that key. All others are replaced.
const MERGED_LISTS: [(&str, &str); 3] = [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// The patch of `status`; `None` when nothing differs.
pub fn difference(old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut patch = Map::new();
    for (name, value) in new {
        let before = old.get(name).unwrap_or(&Value::Null);
        match MERGED_LISTS.iter().find(|(list, _)| list == name) {
            Some((_, key)) => {
                if let Some((changes, order)) = merged(before, value, key) {
                    patch.insert(name.clone(), changes);
                    patch.insert(format!("$setElementOrder/{name}"), order);
                }
            }
            None => {
                if let Some(change) = field(before, value) {
                    patch.insert(name.clone(), change);
                }
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn field(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let mut patch = Map::new();
            for (name, value) in after {
                if let Some(change) = field(before.get(name).unwrap_or(&Value::Null), value) {
                    patch.insert(name.clone(), change);
                }
            }
            for name in before.keys().filter(|name| !after.contains_key(*name)) {
                patch.insert(name.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (old != new).then(|| new.clone()),
    }
}

/// Changed and removed elements, and the order of what stays.
fn merged(old: &Value, new: &Value, key: &str) -> Option<(Value, Value)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    if old == new {
        return None;
    }
    let find = |list: &[Value], id: &Value| list.iter().find(|item| &item[key] == id).cloned();
    let mut changes = Vec::new();
    for item in &new {
        match find(&old, &item[key]) {
            None => changes.push(item.clone()),
            Some(before) => {
                if let Some(Value::Object(mut change)) = field(&before, item) {
                    change.insert(key.to_owned(), item[key].clone());
                    changes.push(Value::Object(change));
                }
            }
        }
    }
    let gone = old.iter().filter(|item| find(&new, &item[key]).is_none());
    changes.extend(gone.map(|item| json!({"$patch": "delete", key: item[key]})));
    let order = new.iter().map(|item| json!({key: item[key]})).collect();
    Some((Value::Array(changes), Value::Array(order)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_statuses_need_no_patch() {
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(difference(&status, &status), None);
    }

    #[test]
    fn only_what_differs_is_sent_and_lists_with_a_key_are_merged() {
        let old = json!({
            "phase": "Pending",
            "hostIP": "198.18.0.1",
            "conditions": [
                {"type": "PodResizePending", "status": "True"},
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                {"type": "PodScheduled", "status": "True"},
            ],
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
            "message": "gone",
        });
        let new = json!({
            "phase": "Running",
            "hostIP": "198.18.0.1",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
            "resources": {"requests": {"cpu": "2", "memory": "1Gi"}},
        });
        let expected = json!({
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "True", "reason": null},
                {"$patch": "delete", "type": "PodResizePending"},
            ],
            "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "PodScheduled"}],
            "resources": {"requests": {"cpu": "2"}},
            "message": null,
        });
        assert_eq!(difference(&old, &new), Some(expected));
    }
}
