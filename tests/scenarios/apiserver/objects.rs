//! Objects of the API server, as cases write and read them.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use optipod_common::resources::Resources;
use optipod_coordinator::index::resources_of;
use serde_json::{Value, json};

use crate::kubelet;

/// What the first container of a pod wants.
pub fn size(pod: &Pod) -> Resources {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    resources_of(container.and_then(|container| container.resources.as_ref()))
}

/// Requests and limits as people write them; empty = not stated.
pub fn sizes(cpu: &str, memory: &str, cpu_limit: &str, memory_limit: &str) -> Resources {
    resources_of(serde_json::from_value(resources(cpu, memory, cpu_limit, memory_limit)).ok().as_ref())
}

/// The same for a pod's specification.
pub fn resources(cpu: &str, memory: &str, cpu_limit: &str, memory_limit: &str) -> Value {
    let list = |cpu: &str, memory: &str| {
        let stated = [("cpu", cpu), ("memory", memory)].into_iter().filter(|(_, amount)| !amount.is_empty());
        stated.map(|(name, amount)| (name.to_owned(), amount.into())).collect::<serde_json::Map<_, Value>>()
    };
    json!({"requests": list(cpu, memory), "limits": list(cpu_limit, memory_limit)})
}

/// A pod on the played node. `usage` is CPU in millicores and memory in MiB; `kubelet` says how resizes end.
pub fn pod(name: &str, kubelet: &str, resources: &Value, usage: (u64, u64)) -> Value {
    let mut pod = template(kubelet, resources, usage);
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    pod
}

/// The same without a name, for a workload's template.
pub fn template(kubelet: &str, resources: &Value, (cpu, memory): (u64, u64)) -> Value {
    json!({
        "metadata": {
            "labels": {kubelet::LABEL: kubelet},
            "annotations": {kubelet::CPU: cpu.to_string(), kubelet::MEMORY: memory.to_string()},
        },
        "spec": {
            "nodeName": kubelet::NODE,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "played:1", "resources": resources}],
        },
    })
}

/// Field managers that wrote `pods/resize`, with what they own.
pub fn resizers(pod: &Pod) -> Vec<(String, Value)> {
    let entries = pod.managed_fields().iter().filter(|entry| entry.subresource.as_deref() == Some("resize"));
    let fields = |entry: &ManagedFieldsEntry| entry.fields_v1.clone().map_or(Value::Null, |fields| fields.0);
    entries.map(|entry| (entry.manager.clone().unwrap_or_default(), fields(entry))).collect()
}

/// Overlays one JSON value with another.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// The kind `Rollout`, as far as its metadata goes.
pub fn rollouts() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "rollouts.argoproj.io"},
        "spec": {
            "group": "argoproj.io", "scope": "Namespaced",
            "names": {"kind": "Rollout", "plural": "rollouts", "singular": "rollout", "listKind": "RolloutList"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}],
        },
    })
}
