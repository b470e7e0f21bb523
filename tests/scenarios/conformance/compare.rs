//! What of two histories must be the same.
//!
//! Left out is what cannot be: times, ids, addresses, names of nodes, versions, numbers of bytes in use. Compared are
//!
//! 1. every pod whenever a step had settled, whole: nothing is left then that depends on timing but the resources of
//!    the whole pod, which are read back from its cgroup at the next sync for any reason: of them only 2 holds, and
//!    a value that one shows may be missed by the other;
//! 2. for every field of every pod, the values that it had, one after the other, repetitions folded, from the first
//!    on: whether a watch shows the pod without it depends on how soon the first status comes. A kubelet writes
//!    the newest status whenever its last write is answered, so which fields change in the same write depends on
//!    timing; the order of values of one field does not. Generations are the exception: two changes of the spec in a
//!    row may be seen as one, so only their first and last value count;
//! 3. reasons and texts of all Events of a pod, without their number and order: each is written on its own;
//! 4. what the API server answered to what it refused.
//!
//! The address of a pod that is being deleted goes with its sandbox: whether the last status that a real kubelet writes of it
//! comes before or after depends on timing, so it is compared up to the deletion.
//!
//! How a container ended the last time (`lastState`) is shown by a real kubelet as long as its runtime remembers the dead
//! container, which an emulated node under load sometimes does not: it may be missing there, and where it is shown it is
//! compared.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::script::Played;

/// Fails with every difference.
pub fn compare(real: &Played, simulated: &Played) -> Result<()> {
    let mut differences = Vec::new();
    for (index, (real, simulated)) in real.settled.iter().zip(&simulated.settled).enumerate() {
        let settled = |pod: &Value| {
            let mut found = fields(pod);
            found.retain(|path, _| !path.contains(READ_AT_SYNCS));
            found
        };
        let (real, mut simulated) = (settled(real), settled(simulated));
        let real = forget(real, &mut simulated);
        differ(&format!("settled {index}"), &real, &simulated, &mut differences);
    }
    if real.settled.len() != simulated.settled.len() {
        differences.push("settled pods: not as many".to_owned());
    }
    let (mut of_real, mut of_simulated) = (histories(real), histories(simulated));
    // what is read at a sync may be missed by one and seen by the other; it may not be another value
    let missed = |path: &String, values: &Vec<Value>, other: &BTreeMap<String, Vec<Value>>| {
        path.contains(READ_AT_SYNCS) && other.get(path).is_some_and(|other| within(values, other))
    };
    let same: BTreeSet<String> = of_real
        .iter()
        .filter(|(path, values)| missed(path, values, &of_simulated))
        .chain(of_simulated.iter().filter(|(path, values)| missed(path, values, &of_real)))
        .map(|(path, _)| path.clone())
        .collect();
    of_real.retain(|path, _| !same.contains(path));
    of_simulated.retain(|path, _| !same.contains(path));
    let of_real = forget(of_real, &mut of_simulated);
    differ("history", &of_real, &of_simulated, &mut differences);
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

/// Takes `lastState` out where the real one does not show how the container ended.
fn forget<V: std::fmt::Debug>(
    mut real: BTreeMap<String, V>,
    simulated: &mut BTreeMap<String, V>,
) -> BTreeMap<String, V> {
    const LAST: &str = "/lastState";
    let restarted = |path: &String, value: &V| {
        let counts = format!("{value:?}");
        path.ends_with("/restartCount") && counts.split('"').skip(1).step_by(2).any(|count| count != "0")
    };
    let remembers = real.keys().any(|path| path.contains(&format!("{LAST}/")));
    if !remembers && real.iter().any(|(path, value)| restarted(path, value)) {
        real.retain(|path, _| !path.contains(LAST));
        simulated.retain(|path, _| !path.contains(LAST));
    }
    real
}

/// What the runtime of a node failed to do, when it did: such a run says nothing about the kubelet.
pub fn disturbed(played: &Played) -> Option<String> {
    let texts = played.history.events.iter().filter_map(|event| {
        let failed =
            matches!(event["reason"].as_str()?, "FailedKillPod" | "FailedSync" | "FailedCreatePodSandBox");
        failed.then(|| event["message"].as_str().unwrap_or_default().to_owned())
    });
    texts.into_iter().find(|text| text.contains("rpc error"))
}

/// See 1.
const READ_AT_SYNCS: &str = "/status/resources/";

/// True when `values` are left of `others` by leaving some out.
fn within(values: &[Value], others: &[Value]) -> bool {
    let mut others = others.iter();
    values.iter().all(|value| others.any(|other| other == value))
}

/// The address of a pod, and the list of them.
const ADDRESS: &str = "/status/podIP";

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
    if pod["metadata"]["deletionTimestamp"].is_string() {
        found.retain(|path, _| !path.contains(ADDRESS));
    }
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
    // usage in bytes; what other pods of the node, which are not of these tests, were promised
    let mut plain = text.to_owned();
    for before in ["below current usage (", "used: "] {
        let mut parts = plain.split(before);
        let mut shown = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            shown.push_str(before);
            shown.push('N');
            shown.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        plain = shown;
    }
    // whether the pod's own usage is known yet depends on when the kubelet last asked for it
    if let Some((before, after)) = plain.split_once("[attempting to set pod memory limit")
        && let Some((_, container)) = after.split_once(", attempting")
    {
        plain = format!("{before}attempting{}", container.replacen(']', "", 1));
    }
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
    for pod in versions {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let now = fields(pod);
        let prefix = format!("{name}/");
        let known: Vec<String> = found.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
        for path in known.iter().chain(now.keys()) {
            let value = now.get(path).cloned().unwrap_or(Value::Null);
            let values = found.entry(path.clone()).or_default();
            let first = values.is_empty() && value.is_null();
            if values.last() != Some(&value) && !first {
                values.push(value);
            }
        }
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
