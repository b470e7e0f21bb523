//! What the API server answers, reduced to what the demo looks at. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::objects::{EventObject, List, PodObject, PolicyObject, WorkloadObject};

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
