//! The status that a pod should have, field by field as kubernetes 1.36 writes it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{Amounts, QosClass, Resources};
use serde_json::{Map, Value, json};

use super::Now;
use super::containers::{LEAST_SHARES, limit_of, pod_cgroup, request_of};
use super::node_agent::NodeAgent;
use super::pod::{Container, Ended, Stage, State, Worker};
use super::resize::Condition;
use super::size::{Amount, Kind, Sizes, pod_limits, requests};

/// Conditions that only a kubelet writes.
const OWN_CONDITIONS: [&str; 8] = [
    "PodResizePending",
    "PodResizeInProgress",
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
];
/// CPU limits up to this many millicores are reported as they were asked: the kernel cannot do less.
const LEAST_LIMIT_MILLICORES: u64 = 10;

/// The status of a pod on this node.
pub fn status(node: &NodeAgent, pod: &Worker, now: Now) -> Value {
    if let Stage::Rejected { reason, message } = &pod.stage {
        return without_nulls(json!({
            "observedGeneration": pod.object.metadata.generation,
            "qosClass": class(pod.qos),
            "phase": "Failed",
            "reason": reason,
            "message": message,
            "startTime": start_time(pod),
            "conditions": foreign_conditions(&pod.object),
        }));
    }
    let allocated = node.allocations().allocated(&pod.uid);
    let nothing = Sizes::new();
    let allocated = allocated.or(pod.kept.as_ref()).unwrap_or(&nothing);
    let phase = phase(pod);
    let statuses = |regular: bool| -> Vec<Value> {
        let containers = pod.containers.iter().filter(|c| (c.slot.kind == Kind::Regular) == regular);
        containers.map(|container| container_status(pod, container, allocated)).collect()
    };
    let mut regular = statuses(true);
    regular.sort_by_key(|status| status["name"].as_str().map(str::to_owned));
    let init = statuses(false);
    let ips = pod.ip.map(|ip| json!([{"ip": ip.to_string()}]));
    let host = node.setup.address.to_string();
    let slots = pod.slots();
    let sums = stated(requests(&slots, allocated));
    without_nulls(json!({
        "observedGeneration": pod.object.metadata.generation,
        "phase": phase,
        "reason": pod.evicted.as_ref().map(|_| "Evicted"),
        "message": pod.evicted,
        "conditions": conditions(node, pod, phase, now),
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": pod.ip.map(|ip| ip.to_string()),
        "podIPs": ips,
        "startTime": start_time(pod),
        "qosClass": class(pod.qos),
        "containerStatuses": regular,
        "initContainerStatuses": (!init.is_empty()).then_some(init),
        "allocatedResources": (!sums.is_empty()).then(|| amounts(sums)),
        "resources": resources(&pod.pod_level),
    }))
}

/// Sums as a list: zero is not stated.
fn stated(Amount { cpu, memory }: Amount) -> Amounts {
    Amounts { cpu: (cpu > 0).then_some(MilliCpu(cpu)), memory: (memory > 0).then_some(Bytes(memory)) }
}

const fn class(qos: QosClass) -> &'static str {
    match qos {
        QosClass::Guaranteed => "Guaranteed",
        QosClass::Burstable => "Burstable",
        QosClass::BestEffort => "BestEffort",
    }
}

/// Times in objects have whole seconds.
fn time(at: Timestamp) -> Value {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    Value::String(whole.to_string())
}

fn start_time(pod: &Worker) -> Value {
    let known = pod.object.status.as_ref().and_then(|status| status.start_time.as_ref());
    time(known.map_or(pod.start_time, |start| start.0))
}

fn amounts(Amounts { cpu, memory }: Amounts) -> Value {
    without_nulls(json!({
        "cpu": cpu.map(|cpu| cpu.to_string()),
        "memory": memory.map(|memory| memory.to_string()),
    }))
}

fn resources(size: &Resources) -> Value {
    let part = |list: Amounts| (!list.is_empty()).then(|| amounts(list));
    without_nulls(json!({"limits": part(size.limits), "requests": part(size.requests)}))
}

/// Pod-level resources as a look at the pod finds them: sums until the API server shows that the pod runs, then what the
/// kubelet reads back from the pod's cgroup, with the rounding of `cpu.weight` and of the systemd driver. A memory
/// request stays what it was first, because the kernel knows none, until the pod ends.
pub fn pod_level(pod: &Worker, allocated: &Sizes) -> Resources {
    let slots = pod.slots();
    let status = pod.object.status.as_ref();
    let sums = stated(requests(&slots, allocated));
    if status.and_then(|status| status.phase.as_deref()) != Some("Running") {
        let limits = super::size::total(&slots, |name| {
            allocated.get(name).map_or_else(Default::default, |size| size.limits.into())
        });
        return Resources { requests: sums, limits: stated(limits) };
    }
    let observed: Sizes = pod.containers.iter().map(|c| (c.slot.name.clone(), c.observed)).collect();
    let cgroup = pod_cgroup(requests(&slots, &observed), pod_limits(&slots, &observed));
    let request = Some(request_of(&cgroup)).filter(|&request| request > LEAST_SHARES);
    let limit = limit_of(&cgroup).filter(|&limit| limit > LEAST_LIMIT_MILLICORES);
    let before = Some(pod.pod_level.requests.memory).filter(|_| phase(pod) == "Running").flatten();
    Resources {
        requests: Amounts { cpu: request.map(MilliCpu), memory: before.or(sums.memory) },
        limits: Amounts { cpu: limit.map(MilliCpu), memory: cgroup.memory_max.map(Bytes) },
    }
}

fn terminated(ended: &Ended) -> Value {
    json!({
        "exitCode": ended.code,
        "reason": ended.reason,
        "startedAt": time(ended.started),
        "finishedAt": time(ended.finished),
        "containerID": format!("containerd://{}", ended.id),
    })
}

fn container_status(pod: &Worker, container: &Container, allocated: &Sizes) -> Value {
    let name = &container.slot.name;
    let promised = allocated.get(name).copied().unwrap_or_default();
    let (state, id) = match &container.state {
        State::Waiting { reason, message } => {
            let id = container.last.as_ref().map(|last| last.id);
            let message = (!message.is_empty()).then_some(message);
            (without_nulls(json!({"waiting": {"reason": reason, "message": message}})), id)
        }
        State::Running { since, id, .. } => (json!({"running": {"startedAt": time(*since)}}), Some(*id)),
        State::Terminated(ended) => (json!({"terminated": terminated(ended)}), Some(ended.id)),
    };
    let last =
        container.last.as_ref().map_or_else(|| json!({}), |last| json!({"terminated": terminated(last)}));
    let image = container.spec.image.clone().unwrap_or_default();
    let seen = id.is_some();
    let actual = if container.running() { container.observed } else { promised };
    without_nulls(json!({
        "name": name,
        "state": state,
        "lastState": last,
        "ready": container.ready,
        "started": container.running(),
        "restartCount": container.restarts,
        "image": image,
        "imageID": if seen { image_id(&image) } else { String::new() },
        "containerID": id.map(|id| format!("containerd://{id}")),
        "allocatedResources": (seen && !promised.requests.is_empty()).then(|| amounts(promised.requests)),
        "resources": seen.then(|| resources(&actual)),
        "volumeMounts": mounts(container),
        "user": seen.then(|| user(pod, container)),
    }))
}

/// Stands for the digest that a registry would give.
fn image_id(image: &str) -> String {
    let repository =
        image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name);
    format!("{repository}@sha256:{}", super::containers::container_id(0, &[image]))
}

fn mounts(container: &Container) -> Option<Vec<Value>> {
    let mounts = container.spec.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let read_only = mount.read_only.unwrap_or(false);
        let (name, path) = (&mount.name, &mount.mount_path);
        if read_only {
            json!({"name": name, "mountPath": path, "readOnly": true, "recursiveReadOnly": "Disabled"})
        } else {
            json!({"name": name, "mountPath": path})
        }
    };
    Some(mounts.iter().map(status).collect())
}

/// Who the first process is: what the spec says, else root.
fn user(pod: &Worker, container: &Container) -> Value {
    let own = container.spec.security_context.as_ref();
    let all = pod.object.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let uid = own.and_then(|c| c.run_as_user).or_else(|| all.and_then(|c| c.run_as_user)).unwrap_or(0);
    let gid = own.and_then(|c| c.run_as_group).or_else(|| all.and_then(|c| c.run_as_group)).unwrap_or(0);
    let mut groups = vec![gid];
    groups.extend(all.and_then(|c| c.fs_group));
    groups.extend(all.and_then(|c| c.supplemental_groups.clone()).into_iter().flatten());
    json!({"linux": {"uid": uid, "gid": gid, "supplementalGroups": groups}})
}

/// Phase of a pod from its containers (`getPhase`).
fn phase(pod: &Worker) -> &'static str {
    if pod.evicted.is_some() && pod.stage == Stage::Ended {
        return "Failed";
    }
    let known = pod.object.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.stage == Stage::Ended && pod.containers.iter().all(|c| matches!(c.state, State::Waiting { .. })) {
        // it had ended before this process began, or before anything had started
        return if known == Some("Succeeded") { "Succeeded" } else { "Failed" };
    }
    let of = |kind: Kind| pod.containers.iter().filter(move |container| container.slot.kind == kind);
    let code = |container: &Container| match &container.state {
        State::Terminated(ended) => Some(ended.code),
        State::Waiting { .. } => container.last.as_ref().map(|last| last.code),
        State::Running { .. } => None,
    };
    let policy = pod.object.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    let init_failed = |c: &Container| matches!(&c.state, State::Terminated(e) if e.code != 0);
    if of(Kind::Init).any(init_failed) && policy == "Never" {
        return "Failed";
    }
    let initialised = of(Kind::Init).all(|c| matches!(&c.state, State::Terminated(e) if e.code == 0));
    if !initialised || of(Kind::Regular).any(|c| !c.running() && code(c).is_none()) {
        return if pod.stage == Stage::Ended { "Failed" } else { "Pending" };
    }
    if of(Kind::Regular).any(Container::running) {
        return "Running";
    }
    match (of(Kind::Regular).all(|c| code(c) == Some(0)), policy, &pod.stage) {
        (true, "Never" | "OnFailure", _) | (true, _, Stage::Ended) => "Succeeded",
        (false, "Never", _) | (false, _, Stage::Ended) => "Failed",
        _ => "Running",
    }
}

fn foreign_conditions(pod: &Pod) -> Vec<Value> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let foreign = conditions.filter(|condition| !OWN_CONDITIONS.contains(&condition.type_.as_str()));
    foreign.filter_map(|condition| serde_json::to_value(condition).ok()).collect()
}

fn conditions(node: &NodeAgent, pod: &Worker, phase: &str, now: Now) -> Vec<Value> {
    let status = pod.object.status.as_ref();
    let shown: BTreeMap<&str, &PodCondition> = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .map(|condition| (condition.type_.as_str(), condition))
        .collect();
    let condition = |kind: &str, (holds, reason, message): (bool, &str, String)| {
        let holds = if holds { "True" } else { "False" };
        let since = shown.get(kind).filter(|shown| shown.status == holds);
        let since =
            since.and_then(|shown| shown.last_transition_time.as_ref()).map_or(now.wall, |since| since.0);
        without_nulls(json!({
            "type": kind,
            "status": holds,
            "reason": (!reason.is_empty()).then_some(reason),
            "message": (!message.is_empty()).then_some(message),
            "lastTransitionTime": time(since),
            "observedGeneration": pod.object.metadata.generation,
        }))
    };
    let mut found = foreign_conditions(&pod.object);
    let (pending, progress) = node.allocations().conditions(&pod.uid);
    found.extend(pending.map(|pending| resize_condition("PodResizePending", pending)));
    found.extend(progress.map(|progress| resize_condition("PodResizeInProgress", progress)));
    if pod.evicted.is_some() && pod.stage == Stage::Ended {
        let message = pod.evicted.clone().unwrap_or_default();
        found.retain(|condition| condition["type"] != "DisruptionTarget");
        found.push(condition("DisruptionTarget", (true, "TerminationByKubelet", message)));
    }
    let sandbox = matches!(pod.stage, Stage::Active | Stage::Stopping(_)) && pod.ip.is_some();
    let ready = ready(pod, phase);
    found.push(condition("PodReadyToStartContainers", (sandbox, "", String::new())));
    found.push(condition("Initialized", initialised(pod, phase)));
    found.push(condition("Ready", gates(pod, &found, ready.clone())));
    found.push(condition("ContainersReady", ready));
    found.push(condition("PodScheduled", (true, "", String::new())));
    found
}

fn resize_condition(kind: &str, condition: &Condition) -> Value {
    without_nulls(json!({
        "type": kind,
        "status": "True",
        "reason": (!condition.reason.is_empty()).then_some(&condition.reason),
        "message": (!condition.message.is_empty()).then_some(&condition.message),
        "lastProbeTime": time(condition.probed),
        "lastTransitionTime": time(condition.since),
        "observedGeneration": condition.generation,
    }))
}

type Verdict = (bool, &'static str, String);

fn initialised(pod: &Worker, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return (true, "PodCompleted", String::new());
    }
    let started = |c: &Container| c.slot.kind == Kind::Regular && (c.running() || c.last.is_some());
    let done = |c: &&Container| match c.slot.kind {
        Kind::Regular => true,
        Kind::Sidecar => c.running(),
        Kind::Init => c.ready,
    };
    let incomplete: Vec<&str> =
        pod.containers.iter().filter(|c| !done(c)).map(|c| c.slot.name.as_str()).collect();
    if incomplete.is_empty() || pod.containers.iter().any(started) {
        return (true, "", String::new());
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    (false, "ContainersNotInitialized", message)
}

fn ready(pod: &Worker, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return (false, "PodCompleted", String::new()),
        "Failed" => return (false, "PodFailed", String::new()),
        _ => {}
    }
    let counts = |c: &&Container| c.slot.kind != Kind::Init && !c.ready;
    let unready: Vec<&str> = pod.containers.iter().filter(counts).map(|c| c.slot.name.as_str()).collect();
    if unready.is_empty() {
        return (true, "", String::new());
    }
    (false, "ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

/// Readiness gates come on top of ready containers.
fn gates(pod: &Worker, conditions: &[Value], ready: Verdict) -> Verdict {
    let gates = pod.object.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    if !ready.0 {
        return ready;
    }
    let missing = gates.into_iter().flatten().filter_map(|gate| {
        let kind = &gate.condition_type;
        match conditions.iter().find(|condition| condition["type"] == kind.as_str()) {
            None => Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(condition) if condition["status"] != "True" => {
                let status = condition["status"].as_str().unwrap_or_default();
                Some(format!("the status of pod readiness gate {kind:?} is not \"True\", but {status}"))
            }
            Some(_) => None,
        }
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() { ready } else { (false, "ReadinessGatesNotReady", missing.join(", ")) }
}

/// What is not there is not written.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
