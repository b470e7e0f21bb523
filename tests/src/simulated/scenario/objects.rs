//! The API's objects for what a scenario says. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use optipod_common::resources::{Amounts as CommonAmounts, Resources};
use optipod_coordinator::index::resources_of;
use serde_json::{Map, Value, json};

use super::expect::{SeenContainer, SeenPod};
use super::file::{Amounts, Container, ContainerType, Scenario, Workload, WorkloadKind};

/// Label of all that a scenario creates.
pub const SCENARIO: &str = "simulated.optipod.io/scenario";
/// Label of a workload's pods: its name.
pub const WORKLOAD: &str = "simulated.optipod.io/workload";
/// Label of simulated nodes.
const NODE: &str = "optipod.io/simulated";
/// Image of all containers; nobody pulls it.
const IMAGE: &str = "simulated.optipod.io/container:1";

/// Namespaces that the workloads need, `default` apart.
pub fn namespaces(scenario: &Scenario) -> Vec<Value> {
    let objects =
        scenario.objects.iter().chain(&scenario.policies).filter_map(|entry| namespace_of(entry.value()));
    let names: BTreeSet<String> =
        scenario.workloads.iter().map(|w| w.namespace.clone()).chain(objects).collect();
    let object = |name: String| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {SCENARIO: "yes"}}});
    names
        .into_iter()
        .filter(|name| !matches!(name.as_str(), "default" | "optipod-system"))
        .map(object)
        .collect()
}

fn namespace_of(object: &Value) -> Option<String> {
    Some(object.pointer("/metadata/namespace")?.as_str()?.to_owned())
}

/// Marks an object as one of a scenario, and puts it into `default` when it says no namespace.
pub fn marked(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("namespace").or_insert_with(|| "default".into());
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(SCENARIO.to_owned(), "yes".into());
        }
    }
    object
}

/// One class for each priority that is used.
pub fn priority_classes(scenario: &Scenario) -> Vec<Value> {
    let values: BTreeSet<i32> = scenario.workloads.iter().filter_map(|w| w.priority).collect();
    let object = |value: i32| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": value,
            "metadata": {"name": priority_class(value), "labels": {SCENARIO: "yes"}},
        })
    };
    values.into_iter().map(object).collect()
}

fn priority_class(value: i32) -> String {
    let sign = if value < 0 { "minus-" } else { "" };
    format!("simulated-{sign}{}", value.unsigned_abs())
}

/// What creates the pods of a workload, or the pods themselves.
pub fn workload(workload: &Workload) -> Vec<Value> {
    let (labels, annotations, pod_spec) = template(workload);
    let name_in = |name: &str| json!({"name": name, "namespace": workload.namespace, "labels": labels});
    let controller = |kind: &str, extra: Value| {
        let mut spec = json!({
            "replicas": workload.replicas,
            "selector": {"matchLabels": {WORKLOAD: workload.name}},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod_spec},
        });
        if let (Some(spec), Value::Object(extra)) = (spec.as_object_mut(), extra) {
            spec.extend(extra);
        }
        let metadata = name_in(&workload.name);
        vec![json!({"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec})]
    };
    match workload.kind {
        WorkloadKind::Deployment => controller("Deployment", json!({})),
        WorkloadKind::StatefulSet => controller(
            "StatefulSet",
            json!({"serviceName": workload.name, "podManagementPolicy": "Parallel"}),
        ),
        WorkloadKind::Pod => {
            let pod = |number: u32| {
                let mut metadata = name_in(&format!("{}-{number}", workload.name));
                if let Some(metadata) = metadata.as_object_mut() {
                    metadata.insert("annotations".to_owned(), json!(annotations));
                }
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec})
            };
            (0..workload.replicas).map(pod).collect()
        }
    }
}

type Words = BTreeMap<String, String>;

/// Labels, annotations and specification of a workload's pods.
fn template(workload: &Workload) -> (Words, Words, Value) {
    let mut labels = workload.labels.clone();
    labels.insert(SCENARIO.to_owned(), "yes".to_owned());
    labels.insert(WORKLOAD.to_owned(), workload.name.clone());
    let mut annotations = Words::new();
    for container in &workload.containers {
        if let Some(usage) = &container.usage {
            annotations.insert(format!("usage.simulated.optipod.io/{}", container.name), usage.clone());
        }
    }
    let times = [("ready-after", workload.ready_after), ("exit-after", workload.exit_after)];
    for (name, time) in times {
        if let Some(time) = time {
            // the grammar of the annotation has one unit
            annotations.insert(format!("simulated.optipod.io/{name}"), format!("{}ms", time.0.as_millis()));
        }
    }
    if let Some(code) = workload.exit_code {
        annotations.insert("simulated.optipod.io/exit-code".to_owned(), code.to_string());
    }
    let mut spec = json!({
        "nodeSelector": {NODE: "true"},
        "terminationGracePeriodSeconds": 0,
        "initContainers": containers(workload, false),
        "containers": containers(workload, true),
    });
    if let (Some(spec), Some(priority)) = (spec.as_object_mut(), workload.priority) {
        spec.insert("priorityClassName".to_owned(), priority_class(priority).into());
    }
    (labels, annotations, spec)
}

/// The regular containers, or those that start before them, in the order of the scenario.
fn containers(workload: &Workload, regular: bool) -> Vec<Value> {
    let of_this = |c: &&Container| (c.kind == ContainerType::Regular) == regular;
    workload.containers.iter().filter(of_this).map(container).collect()
}

fn container(container: &Container) -> Value {
    let mut policies = Vec::new();
    for (resource, policy) in
        [("cpu", container.resize_policy.cpu), ("memory", container.resize_policy.memory)]
    {
        if let Some(policy) = policy {
            policies.push(json!({"resourceName": resource, "restartPolicy": format!("{policy:?}")}));
        }
    }
    let mut object = json!({
        "name": container.name,
        "image": IMAGE,
        "resources": {"requests": amounts(container.requests), "limits": amounts(container.limits)},
    });
    if let Some(object) = object.as_object_mut() {
        // an init container that runs once may not have one
        if !policies.is_empty() {
            object.insert("resizePolicy".to_owned(), policies.into());
        }
        if container.kind == ContainerType::Sidecar {
            object.insert("restartPolicy".to_owned(), "Always".into());
        }
    }
    object
}

fn amounts(amounts: Amounts) -> Value {
    let mut map = Map::new();
    if let Some(cpu) = amounts.cpu {
        map.insert("cpu".to_owned(), cpu.0.to_string().into());
    }
    if let Some(memory) = amounts.memory {
        map.insert("memory".to_owned(), memory.0.to_string().into());
    }
    Value::Object(map)
}

/// What a container of the scenario declares; a request that is absent is its limit, as the API server has it.
pub fn declared(container: &Container) -> Resources {
    let common = |amounts: Amounts| CommonAmounts {
        cpu: amounts.cpu.map(|cpu| cpu.0),
        memory: amounts.memory.map(|memory| memory.0),
    };
    let (requests, limits) = (common(container.requests), common(container.limits));
    Resources { requests: limits.overlaid(requests), limits }
}

/// A pod as expectations see it; `None` for one that belongs to no workload of the scenario.
pub fn seen(pod: &Pod, scenario: &Scenario) -> Option<SeenPod> {
    let namespace = pod.namespace()?;
    let workload = scenario.workload(pod.labels().get(WORKLOAD)?, Some(&namespace))?;
    let status = pod.status.as_ref();
    let statuses: Vec<&ContainerStatus> = status
        .iter()
        .flat_map(|status| [&status.init_container_statuses, &status.container_statuses])
        .flatten()
        .flatten()
        .collect();
    let spec = pod.spec.as_ref();
    let specs = || spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let container = |container: &Container| {
        let spec = specs().find(|spec| spec.name == container.name);
        let status = statuses.iter().find(|status| status.name == container.name);
        SeenContainer {
            name: container.name.clone(),
            declared: declared(container),
            desired: resources_of(spec.and_then(|spec| spec.resources.as_ref())),
            actual: resources_of(status.and_then(|status| status.resources.as_ref())),
        }
    };
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
    let moments = statuses.iter().flat_map(|status| [&status.state, &status.last_state]).flatten();
    let reasons = moments.flat_map(|state| {
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        waiting.into_iter().chain(state.terminated.as_ref().and_then(|ended| ended.reason.clone()))
    });
    let shows = reasons.chain(status.and_then(|status| status.reason.clone())).collect();
    let restarts = statuses.iter().map(|status| u64::try_from(status.restart_count).unwrap_or(0)).sum();
    Some(SeenPod {
        name: pod.name_any(),
        workload: workload.name.clone(),
        restarts,
        ended: matches!(phase.as_str(), "Failed" | "Succeeded"),
        shows,
        containers: workload.containers.iter().map(container).collect(),
        namespace,
    })
}

/// Whether all containers of a pod are ready.
pub fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
