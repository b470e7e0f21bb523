//! What became of a resize, read from the pod's status. Events are never believed: the kubelet emits false ones.

use serde::{Deserialize, Serialize};

use crate::decide::ContainerChange;
use crate::frame::CgroupLimits;
use crate::quantity::MilliCpu;
use crate::resources::{Amounts, ContainerFacts, PodFacts, ResizeCondition, Resources};
use crate::time::Timestamp;

/// A CPU limit in status may differ by this much: the systemd driver rounds quotas up to 10 ms a second.
const CPU_LIMIT_TOLERANCE: u64 = 10;

/// A memory limit in the cgroup is one of whole pages, 64 KiB at most.
const MEMORY_LIMIT_TOLERANCE: u64 = 64 << 10;

/// A resize that was accepted by the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentResize {
    /// Of which pod.
    pub uid: String,
    /// The pod's generation after the patch.
    pub generation: i64,
    /// What was written.
    pub changes: Vec<ContainerChange>,
    /// When.
    pub at: Timestamp,
}

/// How far a resize is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// The kubelet has not seen it yet.
    Accepted,
    /// The kubelet is at it, or its status has not caught up.
    InProgress,
    /// It does not fit on the node now; the kubelet retries.
    Deferred(String),
    /// The kubelet will never do it.
    Infeasible(String),
    /// The kubelet tried and failed; it retries.
    Error(String),
    /// Desired, allocated and actual agree.
    Done,
    /// Somebody wrote other values since.
    Superseded,
    /// The pod is another one, is finished, or is being deleted.
    Gone,
}

/// Reads the progress of a resize from the pod.
///
/// `Done` needs all of: no condition, `observedGeneration` caught up, allocated and actual equal to what was sent
/// (fewer than these were seen to be wrong, in-place-resize semantics of 1.36).
pub fn progress(sent: &SentResize, pod: &PodFacts) -> Progress {
    if pod.uid != sent.uid || pod.terminating || !pod.running {
        return Progress::Gone;
    }
    let containers: Vec<(&ContainerChange, Option<&ContainerFacts>)> = sent
        .changes
        .iter()
        .map(|change| (change, pod.containers.iter().find(|c| c.name == change.container)))
        .collect();
    let still_desired = containers
        .iter()
        .all(|(change, facts)| facts.is_some_and(|f| f.desired.overlaid(change.to) == f.desired));
    if !still_desired {
        // an informer that lags behind our own patch is not a change by somebody else
        return if pod.generation < sent.generation { Progress::Accepted } else { Progress::Superseded };
    }
    // what the kubelet said about an earlier generation is no answer to this one
    let stale =
        |condition: &ResizeCondition| condition.observed_generation.is_some_and(|of| of < sent.generation);
    if let Some(pending) = &pod.pending {
        if stale(pending) {
            return Progress::Accepted;
        }
        return match pending.reason.as_str() {
            "Infeasible" => Progress::Infeasible(pending.message.clone()),
            _ => Progress::Deferred(pending.message.clone()),
        };
    }
    if let Some(condition) = &pod.in_progress {
        return match condition.reason.as_str() {
            "Error" if !stale(condition) => Progress::Error(condition.message.clone()),
            _ => Progress::InProgress,
        };
    }
    // absent by default in 1.33: there the values below have to do
    if pod.observed_generation.is_some_and(|observed| observed < sent.generation) {
        return Progress::Accepted;
    }
    let settled = containers.iter().all(|(change, facts)| facts.is_some_and(|f| matches(change.to, f)));
    if settled { Progress::Done } else { Progress::InProgress }
}

/// Allocated and actual values equal the wanted ones, as far as the kubelet reports them.
fn matches(wanted: Resources, facts: &ContainerFacts) -> bool {
    let allocated = facts.allocated.unwrap_or_default();
    let actual = facts.actual.unwrap_or_default();
    let holds = |wanted: Amounts, seen: Amounts| {
        wanted.cpu.is_none_or(|w| Some(w) == seen.cpu) && wanted.memory.is_none_or(|w| Some(w) == seen.memory)
    };
    let limit = |seen: Option<MilliCpu>, wanted: MilliCpu| {
        seen.is_some_and(|s| s.0.abs_diff(wanted.0) <= CPU_LIMIT_TOLERANCE)
    };
    holds(wanted.requests, allocated)
        && holds(wanted.requests, actual.requests)
        && wanted.limits.cpu.is_none_or(|w| limit(actual.limits.cpu, w))
        && wanted.limits.memory.is_none_or(|w| Some(w) == actual.limits.memory)
}

/// Whether a change has reached the kernel, by what the agent read; `None` where the change has no exact counterpart
/// in a cgroup file (requests: memory has none, CPU becomes a weight by a formula of the runtime's version).
pub fn in_kernel(change: &ContainerChange, seen: &CgroupLimits) -> Option<bool> {
    let limits = change.to.limits;
    let cpu = limits.cpu.map(|w| seen.cpu.is_some_and(|s| s.0.abs_diff(w.0) <= CPU_LIMIT_TOLERANCE));
    let memory = limits.memory.map(|w| seen.memory == Some(w));
    match (cpu, memory) {
        (None, None) => None,
        (cpu, memory) => Some(cpu.unwrap_or(true) && memory.unwrap_or(true)),
    }
}

/// Limits of the cgroup differ from those that the kubelet says it has set: something else writes them (a QoS agent, a
/// plug-in of the runtime). A CPU limit that is missing there is one that the kubelet does not enforce (`cpuCFSQuota`,
/// exclusive CPUs). Only for a container whose last resize is long done.
pub fn is_foreign(said: Resources, seen: &CgroupLimits) -> bool {
    let cpu = match (said.limits.cpu, seen.cpu) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(said), Some(seen)) => said.0.abs_diff(seen.0) > CPU_LIMIT_TOLERANCE,
    };
    let memory = match (said.limits.memory, seen.memory) {
        (None, None) => false,
        (Some(said), Some(seen)) => said.0.abs_diff(seen.0) >= MEMORY_LIMIT_TOLERANCE,
        (Some(_), None) | (None, Some(_)) => true,
    };
    cpu || memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::{container, pod, resources};
    use crate::quantity::Bytes;

    fn sent() -> SentResize {
        let to = Resources {
            requests: Amounts { cpu: Some(MilliCpu(200)), memory: None },
            ..Resources::default()
        };
        let from = Resources::default();
        let change = ContainerChange { container: "c".into(), sidecar: false, to, from, restarts: false };
        SentResize {
            uid: "u".into(),
            generation: 2,
            changes: vec![change],
            at: Timestamp::from_unix_seconds(0),
        }
    }

    fn settled() -> PodFacts {
        let mut container = container("c", resources((200, 64), (400, 128)));
        container.allocated = Some(container.desired.requests);
        container.actual = Some(container.desired);
        PodFacts {
            generation: 2,
            observed_generation: Some(2),
            containers: vec![container],
            ..pod(Resources::default())
        }
    }

    fn condition(reason: &str) -> ResizeCondition {
        ResizeCondition { reason: reason.into(), message: "m".into(), observed_generation: None }
    }

    #[test]
    fn done_needs_every_sign() {
        assert_eq!(progress(&sent(), &settled()), Progress::Done);
        let mut unobserved = settled();
        unobserved.observed_generation = Some(1);
        assert_eq!(progress(&sent(), &unobserved), Progress::Accepted);
        let mut unallocated = settled();
        unallocated.containers[0].allocated = Some(Amounts { cpu: Some(MilliCpu(100)), memory: None });
        assert_eq!(progress(&sent(), &unallocated), Progress::InProgress);
        let mut unactuated = settled();
        unactuated.containers[0].actual = None;
        assert_eq!(progress(&sent(), &unactuated), Progress::InProgress);
    }

    #[test]
    fn conditions_are_told_apart() {
        let with = |pending, in_progress| PodFacts { pending, in_progress, ..settled() };
        assert_eq!(
            progress(&sent(), &with(Some(condition("Deferred")), None)),
            Progress::Deferred("m".into())
        );
        assert_eq!(
            progress(&sent(), &with(Some(condition("Infeasible")), None)),
            Progress::Infeasible("m".into())
        );
        assert_eq!(progress(&sent(), &with(None, Some(condition("Error")))), Progress::Error("m".into()));
        assert_eq!(progress(&sent(), &with(None, Some(condition("")))), Progress::InProgress);
    }

    #[test]
    fn what_was_said_about_an_earlier_generation_is_no_answer() {
        let of = |observed_generation| ResizeCondition { observed_generation, ..condition("Infeasible") };
        let with = |generation| PodFacts { pending: Some(of(generation)), ..settled() };
        assert_eq!(progress(&sent(), &with(Some(1))), Progress::Accepted);
        assert_eq!(progress(&sent(), &with(Some(2))), Progress::Infeasible("m".into()));
        let error = ResizeCondition { observed_generation: Some(1), ..condition("Error") };
        let pod = PodFacts { in_progress: Some(error), ..settled() };
        assert_eq!(progress(&sent(), &pod), Progress::InProgress);
    }

    #[test]
    fn without_observed_generation_the_values_decide() {
        assert_eq!(progress(&sent(), &PodFacts { observed_generation: None, ..settled() }), Progress::Done);
    }

    #[test]
    fn another_writer_or_another_pod_ends_it() {
        let mut other = settled();
        other.containers[0].desired.requests.cpu = Some(MilliCpu(999));
        assert_eq!(progress(&sent(), &other), Progress::Superseded);
        let behind = PodFacts { generation: 1, ..other };
        assert_eq!(progress(&sent(), &behind), Progress::Accepted);
        assert_eq!(progress(&sent(), &PodFacts { uid: "other".into(), ..settled() }), Progress::Gone);
        assert_eq!(progress(&sent(), &PodFacts { terminating: true, ..settled() }), Progress::Gone);
    }

    #[test]
    fn limits_that_the_kubelet_did_not_set_are_foreign() {
        let foreign = |limits: (u64, u64), cpu: Option<u64>, memory: Option<u64>| {
            let (cpu, memory) = (cpu.map(MilliCpu), memory.map(Bytes));
            is_foreign(resources((0, 0), limits), &CgroupLimits { cpu, memory, ..CgroupLimits::default() })
        };
        let mebibytes = |n: u64| Some(n << 20);
        assert!(!foreign((417, 128), Some(420), mebibytes(128)), "rounded by the systemd driver");
        assert!(!foreign((417, 128), None, Some((128 << 20) - 4096)), "CPU limits are not enforced here");
        assert!(!foreign((0, 0), None, None));
        assert!(foreign((400, 128), Some(800), mebibytes(128)));
        assert!(foreign((400, 128), Some(400), mebibytes(256)));
        assert!(foreign((0, 128), Some(400), mebibytes(128)), "a limit where there is none");
        assert!(foreign((400, 128), Some(400), None));
    }

    #[test]
    fn limits_are_verified_in_the_kernel_and_requests_are_not() {
        let mut change = sent().changes.remove(0);
        let seen =
            CgroupLimits { cpu: Some(MilliCpu(420)), memory: Some(Bytes(64)), ..CgroupLimits::default() };
        assert_eq!(in_kernel(&change, &seen), None);
        change.to.limits.cpu = Some(MilliCpu(417));
        assert_eq!(in_kernel(&change, &seen), Some(true));
        change.to.limits.memory = Some(Bytes(65));
        assert_eq!(in_kernel(&change, &seen), Some(false));
    }
}
