//! What a decision depends on beside policy, pod and recommendation.

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use crate::resources::{Amounts, Resource};
use crate::time::Timestamp;

/// What a decision depends on beside policy, pod and recommendation. What is not known has its default, and the guard
/// that reads it stays silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each read by its own guard")]
pub struct Circumstances {
    /// Now.
    pub now: Timestamp,
    /// The namespace is `kube-system`, or holds `OptiPod` itself.
    pub protected_namespace: bool,
    /// Dry run is on for the whole coordinator.
    pub dry_run: bool,
    /// Nothing is written while agents still replay to a new leader.
    pub starting: bool,
    /// The clock jumped within the last interval.
    pub clock_jumped: bool,
    /// What is wrong with the source of metrics.
    pub metrics_problem: Option<String>,
    /// A resize of this pod is under way.
    pub in_flight: bool,
    /// One more resize is allowed now.
    pub slot_free: bool,
    /// The cluster's writes are spent on resizes of more value.
    pub write_budget_spent: bool,
    /// Backing off after a failure: until when, and what failed.
    pub backoff: Option<Backoff>,
    /// Why the workload is left alone after repeated failures.
    pub paused: Option<String>,
    /// Harm to resized pods in the whole cluster: why nothing is decreased.
    pub breaker: Option<String>,
    /// A new version of the strategy that is not pinned yet, and how it differs.
    pub shadow: Option<String>,
    /// How far the canaries of this change are.
    pub canary: Option<CanaryProgress>,
    /// Resources whose utilisation an HPA follows.
    pub hpa: Vec<Followed>,
    /// The workload's owner rolls out a new revision, or analyses one.
    pub owner_progressing: bool,
    /// New pods get the recommended size from the admission webhook.
    pub replacement_known: bool,
    /// What replacements would ask for beyond the running pods, in the quota and node pool of this pod.
    pub restart_debt: Option<RestartDebt>,
    /// What the tightest `ResourceQuota` of the namespace leaves.
    pub quota_free: Option<Amounts>,
    /// What pods of the namespace ask for less than their templates say: what they may ask for again.
    pub quota_owed: Option<Amounts>,
    /// A raise that waits for room may evict other pods (KEP-5836).
    pub deferred_preempts: bool,
    /// Classes of container runtimes (`RuntimeClass`) that are known to follow a resize.
    pub runtime_classes: Vec<String>,
    /// Pods are evicted and created anew where that is needed and allowed.
    pub can_recreate: bool,
    /// Ready pods of the workload.
    pub ready_pods: Option<u32>,
    /// Disruptions that the `PodDisruptionBudget`s of this pod allow now; `None` without one.
    pub disruptions_allowed: Option<u32>,
    /// Another pod of the workload that is being resized or is not ready, in words.
    pub disrupted: Option<String>,
}

impl Circumstances {
    /// Nothing in the way.
    pub const fn at(now: Timestamp) -> Self {
        Self {
            now,
            protected_namespace: false,
            dry_run: false,
            starting: false,
            clock_jumped: false,
            metrics_problem: None,
            in_flight: false,
            slot_free: true,
            write_budget_spent: false,
            backoff: None,
            paused: None,
            breaker: None,
            shadow: None,
            canary: None,
            hpa: Vec::new(),
            owner_progressing: false,
            replacement_known: false,
            restart_debt: None,
            quota_free: None,
            quota_owed: None,
            deferred_preempts: false,
            runtime_classes: Vec::new(),
            can_recreate: false,
            ready_pods: None,
            disruptions_allowed: None,
            disrupted: None,
        }
    }
}

/// A failed resize is not repeated before this time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Not before.
    pub until: Timestamp,
    /// What failed.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// A resource whose utilisation a `HorizontalPodAutoscaler` follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Which.
    pub resource: Resource,
    /// Its target in percent of the request; `None` = not known.
    pub target: Option<u16>,
}

/// Pods of a workload that try a change first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryProgress {
    /// Pods of the workload.
    pub pods: u64,
    /// Pods that have the new size, or are on their way to it.
    pub changed: u64,
    /// Since when as many have it as try it first.
    pub since: Option<Timestamp>,
}

/// What replacements of shrunk pods would ask for beyond what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartDebt {
    /// How much.
    pub owed: Amounts,
    /// How much may be owed.
    pub bound: Amounts,
}

impl RestartDebt {
    /// More of this resource is owed than may be.
    pub fn is_full(&self, resource: Resource) -> bool {
        match resource {
            Resource::Cpu => self.owed.cpu.zip(self.bound.cpu).is_some_and(|(owed, bound)| owed > bound),
            Resource::Memory => {
                self.owed.memory.zip(self.bound.memory).is_some_and(|(owed, bound)| owed > bound)
            }
        }
    }
}
