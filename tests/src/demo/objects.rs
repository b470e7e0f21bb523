//! Objects as kubectl prints them, as far as the demo reads them, and what it keeps of them. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    quantity,
    read::{Happening, Opinion, Pod, Sizes},
};

#[derive(Deserialize)]
pub(super) struct List {
    pub(super) items: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    name: String,
    uid: String,
    labels: BTreeMap<String, String>,
    pub(super) deletion_timestamp: Option<String>,
    creation_timestamp: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodObject {
    pub(super) metadata: Metadata,
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
    pub(super) fn reduced(self) -> Pod {
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
pub(super) struct PolicyObject {
    pub(super) status: PolicyStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PolicyStatus {
    pub(super) workloads: Vec<WorkloadObject>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadObject {
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
    pub(super) fn reduced(self) -> (String, Opinion) {
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
pub(super) struct EventObject {
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
    pub(super) fn reduced(self) -> Option<Happening> {
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
