//! A node and its kubelet, played through the API: pods get a status, resizes are carried out, deferred or refused as
//! the pod's label says, in the order and with the fields of the real one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStatus, Node, Pod, PodCondition, PodStatus,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use optipod_common::frame::CgroupLimits;
use optipod_common::ident::ContainerId;
use optipod_common::resources::Resources;
use optipod_coordinator::index::resources_of;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::agent::{Containers, Usage};

/// The only node.
pub const NODE: &str = "played";
/// Pods with this label have this kubelet; its value says how resizes end: `follow`, `defer`, `refuse` or `ignore`.
pub const LABEL: &str = "test.optipod.io/kubelet";
/// Annotation: constant CPU use in millicores.
pub const CPU: &str = "test.optipod.io/cpu";
/// Annotation: constant memory use in MiB.
pub const MEMORY: &str = "test.optipod.io/memory";
/// What a deferred resize is told.
pub const DEFERRED: &str =
    "Node didn't have enough resource: cpu, requested: 900, used: 1300, capacity: 2000";
/// What an infeasible resize is told.
pub const INFEASIBLE: &str = "In-place resize of containers with swap is not supported.";

/// A round of the kubelet.
const ROUND: Duration = Duration::from_millis(250);
/// The controller manager waits 40 s for it.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Makes the node Ready.
pub async fn register(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    if nodes.get_opt(NODE).await?.is_none() {
        let node = serde_json::from_value(
            json!({"metadata": {"name": NODE, "labels": {"kubernetes.io/os": "linux"}}}),
        )?;
        nodes.create(&PostParams::default(), &node).await?;
    }
    beat(&nodes).await
}

async fn beat(nodes: &Api<Node>) -> Result<()> {
    let size = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
    let now = jiff::Timestamp::now();
    let ready = json!({"type": "Ready", "status": "True", "reason": "Played", "message": "", "lastHeartbeatTime": Time(now)});
    let status = json!({"status": {"capacity": size, "allocatable": size, "conditions": [ready]}});
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

/// Plays on, for ever.
pub async fn run(client: Client, containers: Containers) {
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    let bound = ListParams::default().fields(&format!("spec.nodeName={NODE}"));
    let mut beaten = Instant::now();
    loop {
        tokio::time::sleep(ROUND).await;
        if beaten.elapsed() > HEARTBEAT {
            beaten = Instant::now();
            let _ = beat(&nodes).await; // the next one comes
        }
        let Ok(list) = pods.list(&bound).await else { continue };
        let mut alive = BTreeMap::new();
        for pod in list {
            let ours = pod.labels().contains_key(LABEL);
            let wanted = if ours { sync(&pod, &mut alive) } else { Some(admitted(&pod)) };
            if wanted.as_ref() != pod.status.as_ref() {
                let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
                let pod = Pod { status: wanted, ..pod };
                // somebody else wrote in between: the next round sees it
                let _ = api.replace_status(&pod.name_any(), &PostParams::default(), &pod).await;
            }
        }
        if let Ok(mut containers) = containers.lock() {
            *containers = alive;
        }
    }
}

/// The status of a pod that is not played: the node has taken it, and nothing runs.
fn admitted(pod: &Pod) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    status.start_time.get_or_insert_with(|| Time(whole_second()));
    status
}

/// The status that the pod should have; its containers join `alive`.
fn sync(pod: &Pod, alive: &mut BTreeMap<ContainerId, Usage>) -> Option<PodStatus> {
    let spec = pod.spec.as_ref()?;
    let before = pod.status.clone().unwrap_or_default();
    let reported = before.container_statuses.clone().unwrap_or_default();
    let old = |name: &str| reported.iter().find(|status| status.name == name);
    let pending = spec.containers.iter().any(|c| old(&c.name).is_some_and(|old| !carried_out(c, old)));
    let mode = pod.labels().get(LABEL)?.as_str();
    let (reason, message) = match mode {
        "defer" => ("Deferred", DEFERRED),
        "refuse" => ("Infeasible", INFEASIBLE),
        _ => ("", ""),
    };
    if mode == "ignore" && pending {
        return pod.status.clone();
    }
    let stays = pending && !reason.is_empty();
    let mut status = PodStatus {
        phase: Some("Running".to_owned()),
        observed_generation: pod.metadata.generation,
        ..before
    };
    let conditions = status.conditions.get_or_insert_default();
    // start-up ends when the pod is ready
    if !conditions.iter().any(|c| c.type_ == "Ready") {
        conditions.push(PodCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(whole_second())),
            ..PodCondition::default()
        });
    }
    conditions.retain(|c| c.type_ != "PodResizePending" || stays);
    if stays && !conditions.iter().any(|c| c.type_ == "PodResizePending") {
        conditions.push(PodCondition {
            type_: "PodResizePending".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
    }
    let statuses: Vec<_> = spec
        .containers
        .iter()
        .map(|container| match old(&container.name) {
            Some(old) if stays => old.clone(),
            old => running(pod, container, old),
        })
        .collect();
    for status in &statuses {
        alive.extend(usage(pod, status).ok());
    }
    status.container_statuses = Some(statuses);
    Some(status)
}

/// Allocated and actual are what is desired.
fn carried_out(container: &Container, status: &ContainerStatus) -> bool {
    resources_of(status.resources.as_ref()) == resources_of(container.resources.as_ref())
}

fn running(pod: &Pod, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let resources = container.resources.clone().unwrap_or_default();
    let resources = ResourceRequirements { claims: None, ..resources };
    let started = || ContainerState {
        running: Some(ContainerStateRunning { started_at: Some(Time(whole_second())) }),
        ..ContainerState::default()
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        ready: true,
        started: Some(true),
        container_id: Some(format!("containerd://{}", container_id(pod, &container.name))),
        state: old.map_or_else(|| Some(started()), |old| old.state.clone()),
        allocated_resources: resources
            .requests
            .clone()
            .filter(|r: &BTreeMap<String, Quantity>| !r.is_empty()),
        resources: Some(resources),
        ..ContainerStatus::default()
    }
}

fn whole_second() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn container_id(pod: &Pod, name: &str) -> ContainerId {
    let text = format!("{}/{name}", pod.uid().unwrap_or_default());
    ContainerId::from_bytes(Sha256::digest(text).into())
}

fn usage(pod: &Pod, status: &ContainerStatus) -> Result<(ContainerId, Usage)> {
    let amount = |annotation: &str| -> Result<u64> {
        Ok(pod.annotations().get(annotation).context("this pod uses nothing")?.parse()?)
    };
    let Resources { limits, .. } = resources_of(status.resources.as_ref());
    let usage = Usage {
        pod: pod.uid().unwrap_or_default().parse()?,
        cpu: amount(CPU)?,
        memory: amount(MEMORY)?,
        limits: CgroupLimits { cpu: limits.cpu, memory: limits.memory, ..CgroupLimits::default() },
    };
    Ok((container_id(pod, &status.name), usage))
}
