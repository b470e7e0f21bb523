//! What of two histories must be the same.
//!
//! Left out is what cannot be: times, ids, addresses, names of nodes, versions, numbers of bytes in use. Compared are
//!
//! 1. every pod whenever a step had settled, whole: nothing is left then that depends on timing;
//! 2. for every field of every pod, the values that it had, one after the other, repetitions folded. A kubelet writes
//!    the newest status whenever its last write is answered, so which fields change in the same write depends on
//!    timing; the order of values of one field does not. Generations are the exception: two changes of the spec in a
//!    row may be seen as one, so only their first and last value count;
//! 3. reasons and texts of all Events of a pod, without their number and order: each is written on its own;
//! 4. what the API server answered to what it refused.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::script::Played;

/// Fails with every difference.
pub fn compare(real: &Played, simulated: &Played) -> Result<()> {
    let mut differences = Vec::new();
    for (index, (real, simulated)) in real.settled.iter().zip(&simulated.settled).enumerate() {
        let (real, simulated) = (fields(real), fields(simulated));
        differ(&format!("settled {index}"), &real, &simulated, &mut differences);
    }
    if real.settled.len() != simulated.settled.len() {
        differences.push("settled pods: not as many".to_owned());
    }
    differ("history", &histories(real), &histories(simulated), &mut differences);
    differ("events", &events(real), &events(simulated), &mut differences);
    let refusals = |played: &Played| -> Vec<String> {
        played.refusals.iter().map(|refusal| plain(&refusal.to_string())).collect()
    };
    let (real, simulated) = (refusals(real), refusals(simulated));
    if real != simulated {
        differences.push(format!("refusals\n  real      {real:?}\n  simulated {simulated:?}"));
    }
    if differences.is_empty() { Ok(()) } else { bail!("{}", differences.join("\n")) }
}

fn differ<V: PartialEq + std::fmt::Debug>(
    what: &str,
    real: &BTreeMap<String, V>,
    simulated: &BTreeMap<String, V>,
    differences: &mut Vec<String>,
) {
    let keys: BTreeSet<&String> = real.keys().chain(simulated.keys()).collect();
    for key in keys {
        let (real, simulated) = (real.get(key), simulated.get(key));
        if real != simulated {
            differences.push(format!("{what} {key}\n  real      {real:?}\n  simulated {simulated:?}"));
        }
    }
}

/// Fields that are not compared, by the end of their path.
const LEFT_OUT: [&str; 14] = [
    "Time",
    "At",
    "Timestamp",
    "containerID",
    "imageID",
    "/image",
    "podIP",
    "podIPs/0/ip",
    "hostIP",
    "hostIPs/0/ip",
    "lastProbeTime",
    "uid",
    "resourceVersion",
    "nodeName",
];

/// Every field of a pod that is compared, by path; conditions by type, containers by name.
fn fields(pod: &Value) -> BTreeMap<String, Value> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let shown = json!({
        "generation": pod["metadata"]["generation"],
        "deleted": pod["metadata"]["deletionTimestamp"].is_string(),
        "grace": pod["metadata"]["deletionGracePeriodSeconds"],
        "resources": pod["spec"]["containers"][0]["resources"],
        "status": pod["status"],
    });
    let mut found = BTreeMap::new();
    flatten(name, &shown, &mut found);
    found
}

fn flatten(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                flatten(&format!("{path}/{name}"), value, found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let keys: Vec<String> = items
                .iter()
                .enumerate()
                .map(|(index, item)| {
                    let key = item["type"].as_str().or(item["name"].as_str());
                    key.map_or_else(|| index.to_string(), str::to_owned)
                })
                .collect();
            if path.ends_with("/conditions") {
                found.insert(format!("{path} in order"), json!(keys));
            }
            for (key, item) in keys.iter().zip(items) {
                flatten(&format!("{path}/{key}"), item, found);
            }
        }
        Value::Null => {}
        leaf => {
            let left_out = LEFT_OUT.iter().any(|end| path.ends_with(end));
            // that it is there matters nevertheless
            let shown = if left_out { json!("present") } else { json!(plain(&leaf.to_string())) };
            found.insert(path.to_owned(), shown);
        }
    }
}

/// Without what differs between any two runs.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    // usage in bytes
    while let Some((before, after)) = rest.split_once("below current usage (") {
        plain.push_str(before);
        plain.push_str("below current usage (N");
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    plain.push_str(rest);
    let words = plain.split_inclusive([' ', '"', ',', '(', ')', '/', '_']);
    let word = |word: &str| {
        let bare = word.trim_end_matches([' ', '"', ',', '(', ')', '/', '_']);
        let uid = bare.len() == 36 && bare.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        let node = matches!(bare, "n1" | "sim-1") || bare.starts_with("conformance-");
        if uid || node { word.replace(bare, "X") } else { word.to_owned() }
    };
    words.map(word).collect()
}

/// Values of each field, one after the other.
fn histories(played: &Played) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let versions = played.history.pods.iter().filter(|pod| pod["gone"] != true);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for pod in versions {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let number = seen.entry(name.to_owned()).or_default();
        let now = fields(pod);
        let prefix = format!("{name}/");
        let known: Vec<String> = found.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
        for path in known.iter().chain(now.keys()) {
            let value = now.get(path).cloned().unwrap_or(Value::Null);
            let values = found.entry(path.clone()).or_insert_with(|| {
                // a field that comes later was absent before
                if *number > 0 { vec![Value::Null] } else { Vec::new() }
            });
            if values.last() != Some(&value) {
                values.push(value);
            }
        }
        *number += 1;
    }
    for (_, values) in found.iter_mut().filter(|(path, _)| path.ends_with("observedGeneration")) {
        let last = values.len().saturating_sub(1);
        let mut index = 0;
        values.retain(|value| {
            index += 1;
            index == 1 || index > last || value.is_null()
        });
        values.dedup();
    }
    found
}

/// Events of each pod.
fn events(played: &Played) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in &played.history.events {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let pod = text("/involvedObject/name").to_owned();
        let line = format!(
            "{} {} {} {}: {}",
            text("/source/component"),
            text("/type"),
            text("/reason"),
            text("/involvedObject/fieldPath"),
            plain(text("/message"))
        );
        found.entry(pod).or_default().insert(line);
    }
    found
}
