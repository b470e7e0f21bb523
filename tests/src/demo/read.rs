//! What the API server answers, reduced to what the demo looks at. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::quantity;

/// Requests and limits of one container, in millicores and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// CPU request.
    pub cpu_request: Option<u64>,
    /// CPU limit.
    pub cpu_limit: Option<u64>,
    /// Memory request.
    pub memory_request: Option<u64>,
    /// Memory limit.
    pub memory_limit: Option<u64>,
}

/// A running pod of the demo; it has one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Value of its label `app`: the workload's name.
    pub workload: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Where it runs.
    pub node: String,
    /// Its container's name.
    pub container: String,
    /// Its container's identity, without the runtime's prefix.
    pub container_id: String,
    /// How often the container was restarted.
    pub restarts: u64,
    /// What the pod spec says.
    pub wanted: Sizes,
    /// What the kubelet says that it has done.
    pub done: Sizes,
    /// Whether the container runs.
    pub running: bool,
}

/// What the policy's status says about one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opinion {
    /// `Applied`, `InProgress`, ...
    pub phase: String,
    /// Why, in one word; may be empty.
    pub reason: String,
    /// Why, in words; may be empty.
    pub message: String,
    /// What is recommended for the container.
    pub recommended: Option<Sizes>,
    /// How that came about.
    pub explanation: String,
}

/// One Event about a pod of the demo.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happening {
    /// Tells Events apart, and a repeated one from its predecessor.
    pub key: String,
    /// When it was first seen, as the API writes it; sorts.
    pub at: String,
    /// Who says it.
    pub source: String,
    /// The pod.
    pub pod: String,
    /// In one word.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// One look at the demo's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Pods that are not on their way out, by workload.
    pub pods: BTreeMap<String, Pod>,
    /// What the policy says, by workload.
    pub opinions: BTreeMap<String, Opinion>,
    /// What OptiPod and the kubelet said about resizes, oldest first.
    pub happenings: Vec<Happening>,
}

/// Reads the answer to `kubectl get pods,optimizationpolicies,events -o json`.
pub fn look(json: &str) -> Result<Look> {
    let list: List = serde_json::from_str(json).context("kubectl's answer is not a list")?;
    let mut look = Look::default();
    for item in list.items {
        match item.get("kind").and_then(Value::as_str) {
            Some("Pod") => {
                let pod: PodObject = serde_json::from_value(item).context("cannot read a pod")?;
                if pod.metadata.deletion_timestamp.is_none() {
                    let pod = pod.reduced();
                    look.pods.insert(pod.workload.clone(), pod);
                }
            }
            Some("OptimizationPolicy") => {
                let policy: PolicyObject = serde_json::from_value(item).context("cannot read a policy")?;
                look.opinions.extend(policy.status.workloads.into_iter().map(WorkloadObject::reduced));
            }
            Some("Event") => {
                let event: EventObject = serde_json::from_value(item).context("cannot read an Event")?;
                look.happenings.extend(event.reduced());
            }
            _ => {}
        }
    }
    look.happenings.sort_by(|left, right| left.at.cmp(&right.at));
    Ok(look)
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    uid: String,
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
    creation_timestamp: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodObject {
    metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    resources: Resources,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    container_statuses: Vec<ContainerObject>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerObject {
    #[serde(rename = "containerID")]
    container_id: String,
    restart_count: u64,
    resources: Resources,
    state: BTreeMap<String, Value>,
}

impl Resources {
    fn sizes(&self) -> Sizes {
        let cpu =
            |from: &BTreeMap<String, String>| from.get("cpu").and_then(|text| quantity::millicores(text));
        let memory =
            |from: &BTreeMap<String, String>| from.get("memory").and_then(|text| quantity::bytes(text));
        let Self { requests, limits } = self;
        Sizes {
            cpu_request: cpu(requests),
            cpu_limit: cpu(limits),
            memory_request: memory(requests),
            memory_limit: memory(limits),
        }
    }
}

impl PodObject {
    fn reduced(self) -> Pod {
        let Self { mut metadata, spec, status } = self;
        let container = spec.containers.into_iter().next().unwrap_or_default();
        let state = status.container_statuses.into_iter().next().unwrap_or_default();
        let (_, id) = state.container_id.split_once("://").unwrap_or_default();
        Pod {
            workload: metadata.labels.remove("app").unwrap_or_default(),
            name: metadata.name,
            uid: metadata.uid,
            node: spec.node_name,
            container: container.name,
            container_id: id.to_owned(),
            restarts: state.restart_count,
            wanted: container.resources.sizes(),
            done: state.resources.sizes(),
            running: state.state.contains_key("running"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PolicyObject {
    status: PolicyStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PolicyStatus {
    workloads: Vec<WorkloadObject>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadObject {
    name: String,
    status: String,
    reason: String,
    message: String,
    recommendations: Vec<Recommendation>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Recommendation {
    cpu: Option<String>,
    memory: Option<String>,
    cpu_limit: Option<String>,
    memory_limit: Option<String>,
    explanation: String,
}

impl WorkloadObject {
    fn reduced(self) -> (String, Opinion) {
        let first = self.recommendations.into_iter().next();
        let explanation = first.as_ref().map(|first| first.explanation.clone()).unwrap_or_default();
        let cpu = |text: &Option<String>| text.as_deref().and_then(quantity::millicores);
        let memory = |text: &Option<String>| text.as_deref().and_then(quantity::bytes);
        let recommended = first.map(|first| Sizes {
            cpu_request: cpu(&first.cpu),
            cpu_limit: cpu(&first.cpu_limit),
            memory_request: memory(&first.memory),
            memory_limit: memory(&first.memory_limit),
        });
        let Self { name, status, reason, message, .. } = self;
        (name, Opinion { phase: status, reason, message, recommended, explanation })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EventObject {
    metadata: Metadata,
    involved_object: Involved,
    reason: String,
    message: String,
    reporting_component: String,
    source: Source,
    count: Option<u64>,
    series: Option<Series>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Involved {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    component: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Series {
    count: u64,
}

impl EventObject {
    /// None for what tells nothing about a resize: scheduling, pulling, starting. What the kubelet says about a resize
    /// that it starts or has done repeats OptiPod's own words as JSON.
    fn reduced(self) -> Option<Happening> {
        let Self { metadata, involved_object, reason, message, reporting_component, source, count, series } =
            self;
        let source = if reporting_component.is_empty() { source.component } else { reporting_component };
        let ours = source.starts_with("optipod");
        if !ours && !reason.starts_with("Resize") {
            return None;
        }
        let message = if ours || !matches!(reason.as_str(), "ResizeStarted" | "ResizeCompleted") {
            message
        } else {
            message.split_once(':').map_or(message.as_str(), |(words, _)| words).to_owned()
        };
        let times = series.map(|series| series.count).or(count).unwrap_or(1);
        Some(Happening {
            key: format!("{}/{times}", metadata.name),
            at: metadata.creation_timestamp,
            source,
            pod: involved_object.name,
            reason,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_keeps_living_pods_opinions_and_resizes() {
        let json = serde_json::json!({ "items": [
            { "kind": "Pod",
              "metadata": { "name": "a-1", "uid": "u", "labels": { "app": "a" } },
              "spec": { "nodeName": "n1", "containers": [{ "name": "app", "resources": {
                  "requests": { "cpu": "29m", "memory": "24Mi" }, "limits": { "cpu": "60m" } } }] },
              "status": { "containerStatuses": [{ "containerID": "containerd://c", "restartCount": 0,
                  "state": { "running": {} }, "resources": { "requests": { "cpu": "1" } } }] } },
            { "kind": "Pod", "metadata": { "name": "a-0", "labels": { "app": "a" }, "deletionTimestamp": "now" } },
            { "kind": "OptimizationPolicy", "status": { "workloads": [{ "name": "a", "status": "Applied",
                  "recommendations": [{ "cpu": "29m", "explanation": "cpu: ..." }] }] } },
            { "kind": "OptimizationPolicy" },
            { "kind": "Event", "reason": "Pulled", "reportingComponent": "kubelet" },
            { "kind": "Event", "reason": "ResizeCompleted", "reportingComponent": "kubelet",
              "metadata": { "creationTimestamp": "2" }, "message": "Pod resize completed: {}" },
            { "kind": "Event", "reason": "Resizing", "reportingComponent": "optipod-coordinator",
              "metadata": { "name": "e", "creationTimestamp": "1" }, "message": "app: cpu request 1 > 29m",
              "series": { "count": 2 } },
        ]});
        let look = look(&json.to_string()).unwrap();
        let pod = &look.pods["a"];
        assert_eq!((pod.name.as_str(), pod.container_id.as_str(), pod.running), ("a-1", "c", true));
        assert_eq!((pod.wanted.cpu_request, pod.wanted.memory_request), (Some(29), Some(24 << 20)));
        assert_eq!((pod.done.cpu_request, pod.done.cpu_limit), (Some(1000), None));
        assert_eq!(look.opinions["a"].recommended.unwrap().cpu_request, Some(29));
        let said: Vec<_> = look.happenings.iter().map(|h| (h.key.as_str(), h.message.as_str())).collect();
        assert_eq!(said, [("e/2", "app: cpu request 1 > 29m"), ("/1", "Pod resize completed")]);
    }
}
