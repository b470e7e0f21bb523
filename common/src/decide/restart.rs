//! Resizes that restart containers: the kubelet does that without asking any `PodDisruptionBudget`.

use std::time::Duration;

use super::circumstances::Circumstances;
use super::plan::Plan;
use super::reason::{Hold, Reason};
use crate::policy::Policy;
use crate::resources::PodFacts;

/// Least time between two resizes that restart a container: one that restarts again and again is started later each time,
/// as if it crashed (kubernetes issue 125205).
const PAUSE: Duration = Duration::from_secs(300);

/// Why containers of the pod are not restarted now; `None` for a plan that restarts none.
pub(super) fn guard(policy: &Policy, pod: &PodFacts, plan: &Plan, at: &Circumstances) -> Option<Hold> {
    if !plan.changes.iter().any(|change| change.restarts) {
        return None;
    }
    let pause = policy.update.cooldown.max(PAUSE);
    let waits = pod.last_resize.map(|last| (last + pause).since(at.now)).filter(|left| !left.is_zero());
    let others = at.ready_pods.map(|ready| ready.saturating_sub(u32::from(pod.ready)));
    let (reason, message) = if others.is_none_or(|others| others == 0) {
        (Reason::LastReadyReplica, "no other pod of the workload is known to be ready".to_owned())
    } else if let Some(other) = &at.disrupted {
        (Reason::OtherPodDisrupted, other.clone())
    } else if at.disruptions_allowed == Some(0) {
        (Reason::DisruptionBudget, "its PodDisruptionBudget allows no disruption now".to_owned())
    } else if let Some(left) = waits {
        let left = left.as_secs();
        (Reason::CooldownActive, format!("{left} s are left between two resizes that restart it"))
    } else {
        return None;
    };
    Some(Hold::of_pod(reason, message))
}
