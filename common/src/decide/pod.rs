//! Guards that concern the whole pod.

use super::circumstances::Circumstances;
use super::reason::Reason;
use crate::policy::{Mode, Policy};
use crate::resources::PodFacts;

/// `system-cluster-critical`, the lower of the two system priorities (kubernetes `pkg/apis/scheduling`).
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

type No = (Reason, String);

/// The first guard that says no.
pub(super) fn guard(policy: &Policy, pod: &PodFacts, at: &Circumstances) -> Option<No> {
    asked(policy, at)
        .or_else(|| never(pod, at))
        .or_else(|| lifecycle(pod))
        .or_else(|| node(pod))
        .or_else(|| others(pod))
        .or_else(|| progress(pod, at))
}

fn fixed(condition: bool, reason: Reason, message: &str) -> Option<No> {
    condition.then(|| (reason, message.to_owned()))
}

fn asked(policy: &Policy, at: &Circumstances) -> Option<No> {
    fixed(policy.mode == Mode::Disabled, Reason::ModeDisabled, "the policy is disabled").or_else(|| {
        let problem = at.metrics_problem.as_ref()?;
        Some((Reason::MetricsUnavailable, problem.clone()))
    })
}

fn never(pod: &PodFacts, at: &Circumstances) -> Option<No> {
    fixed(
        at.protected_namespace,
        Reason::ProtectedNamespace,
        "pods of kube-system and of OptiPod's own namespace are never resized",
    )
    .or_else(|| {
        (pod.priority >= SYSTEM_CRITICAL_PRIORITY).then(|| {
            let message = format!("priority {} is system-critical: such pods evict others", pod.priority);
            (Reason::SystemCritical, message)
        })
    })
    .or_else(|| fixed(pod.mirror, Reason::StaticPod, "static pods cannot be resized"))
    .or_else(|| fixed(pod.windows, Reason::WindowsPod, "Windows pods cannot be resized"))
    .or_else(|| fixed(pod.pod_level_resources, Reason::PodLevelResources, "the pod has pod-level resources"))
    .or_else(|| {
        let class = pod.runtime_class.as_ref().filter(|class| !at.runtime_classes.contains(class))?;
        let message = format!("RuntimeClass {class:?} is not among those that are known to follow a resize");
        Some((Reason::RuntimeClassNotAllowed, message))
    })
}

fn lifecycle(pod: &PodFacts) -> Option<No> {
    fixed(pod.terminating, Reason::PodTerminating, "the pod is being deleted")
        .or_else(|| fixed(!pod.running, Reason::PodNotRunning, "the pod is not in phase Running"))
}

fn node(pod: &PodFacts) -> Option<No> {
    let Some(node) = &pod.node else {
        return Some((Reason::NodeNotReady, "the pod's node is not known".to_owned()));
    };
    let name = &node.name;
    if !node.ready {
        return Some((Reason::NodeNotReady, format!("node {name} is not Ready")));
    }
    if node.cordoned {
        return Some((Reason::NodeCordoned, format!("node {name} is cordoned")));
    }
    let why = node.unobserved.as_ref()?;
    Some((Reason::NodeNotObserved, format!("no agent sees pods of node {name}: {why}")))
}

fn others(pod: &PodFacts) -> Option<No> {
    let resizer = || {
        let manager = pod.foreign_resizer.as_ref()?;
        Some((Reason::ForeignResizer, format!("field manager {manager:?} resized this pod")))
    };
    let queue = || {
        let queue = pod.queue.as_ref()?;
        Some((Reason::QueueManaged, format!("{queue} counts the requests of this pod")))
    };
    let gitops = || {
        let tool = pod.gitops.as_ref()?;
        Some((Reason::GitOpsOwned, format!("{tool} applies this very pod and would undo a resize")))
    };
    resizer().or_else(queue).or_else(gitops)
}

fn progress(pod: &PodFacts, at: &Circumstances) -> Option<No> {
    fixed(at.in_flight, Reason::ResizeInFlight, "a resize of this pod is under way")
        .or_else(|| {
            let condition = pod.pending.as_ref().or(pod.in_progress.as_ref())?;
            let message = format!("the kubelet is at a resize: {} {}", condition.reason, condition.message);
            Some((Reason::ResizeInFlight, message.trim_end().to_owned()))
        })
        .or_else(|| Some((Reason::WorkloadPaused, at.paused.clone()?)))
        .or_else(|| {
            let backoff = at.backoff.as_ref().filter(|b| b.until > at.now)?;
            let seconds = backoff.until.since(at.now).as_secs();
            let message = format!("{}: {}; next try in {seconds} s", backoff.reason, backoff.message);
            Some((Reason::BackingOff, message))
        })
}
