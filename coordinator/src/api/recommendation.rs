//! `Recommendation`: what is recommended for one workload, why, and what became of it. Written by the coordinator only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::{Account, Sizes, StrategyRef, WorkloadPhase};

/// How many containers a recommendation has at most.
pub const MAX_CONTAINERS: usize = 100;

/// How many steps of one resource of one container are kept at most.
pub const MAX_STEPS: usize = 32;

/// How many experts of one step are kept at most.
pub const MAX_EXPERTS: usize = 8;

/// How many resizes are kept at most; the oldest go first.
pub const MAX_HISTORY: usize = 20;

/// Which workload a recommendation is for.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "optipod.io",
    version = "v1alpha1",
    kind = "Recommendation",
    plural = "recommendations",
    singular = "recommendation",
    namespaced,
    shortname = "orec",
    category = "optipod",
    status = "RecommendationStatus",
    derive = "PartialEq",
    doc = "What OptiPod recommends for one workload, how it came about, and what became of it. Written by OptiPod.",
    printcolumn(json_path = ".spec.workload.kind", name = "Kind", type_ = "string"),
    printcolumn(json_path = ".spec.workload.name", name = "Workload", type_ = "string"),
    printcolumn(json_path = ".status.phase", name = "Phase", type_ = "string"),
    printcolumn(json_path = ".status.reason", name = "Reason", type_ = "string"),
    printcolumn(json_path = ".status.current.cpu", name = "CPU", type_ = "string"),
    printcolumn(json_path = ".status.recommended.cpu", name = "Rec-CPU", type_ = "string"),
    printcolumn(json_path = ".status.current.memory", name = "Memory", type_ = "string"),
    printcolumn(json_path = ".status.recommended.memory", name = "Rec-Memory", type_ = "string"),
    printcolumn(json_path = ".status.confidence", name = "Confidence", type_ = "string", priority = 1),
    printcolumn(json_path = ".status.policy.name", name = "Policy", type_ = "string", priority = 1),
    printcolumn(json_path = ".status.lastApplied", name = "Applied", type_ = "date"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date")
)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::duplicated_attributes, reason = "columns have types")]
pub struct RecommendationSpec {
    /// The workload, in the namespace of this object.
    pub workload: WorkloadTarget,
}

/// Kind and name of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadTarget {
    /// Its kind: `Deployment`, `StatefulSet`, ...; `Pod` for a pod without owner.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// What is recommended, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RecommendationStatus {
    /// The policy that the workload follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRef>,
    /// How sizes come from evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyRef>,
    /// Where the workload stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<WorkloadPhase>,
    /// Why, in one word. The list of reasons is in the documentation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in words, with the numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Pods that the workload has.
    pub pods: i32,
    /// What the owner's template declares for one pod: the sum over its containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<Sizes>,
    /// What one pod has now (the largest, when they differ): the sum over its containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Sizes>,
    /// What is recommended for one pod: the sum over its containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended: Option<Sizes>,
    /// What all its pods ask for, and what becomes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Share of the window that has data, in percent: seconds that pods were seen of seconds that they ran. Of Jobs runs that
    /// were seen, of four, where that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub coverage_percent: Option<i32>,
    /// How much the evidence supports the recommendation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// One entry per container, at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub containers: Vec<RecommendedContainer>,
    /// When the recommendation last changed materially.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_recommended: Option<Time>,
    /// When a pod of the workload was last resized by OptiPod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_applied: Option<Time>,
    /// What was decided last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<LastDecision>,
    /// The last resizes, newest first, at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub history: Vec<HistoryEntry>,
    /// `Ready` (there is a recommendation), and warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its `metadata.generation` when the workload was evaluated.
    pub generation: i64,
}

/// How much the evidence supports a recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Confidence {
    /// Less than `minimumCoverage` of the window has data: nothing shrinks.
    Low,
    /// Enough to act on.
    Medium,
    /// Nearly the whole window has data, and it holds a day or more; of Jobs four runs were seen.
    High,
}

/// What is recommended for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RecommendedContainer {
    /// Its name.
    pub name: String,
    /// What the owner's template declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<Sizes>,
    /// What the pods have now (the largest, when they differ).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Sizes>,
    /// What they should have. Limits are absent where the policy does not let them move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended: Option<Sizes>,
    /// Requests are never recommended below: bounds and floors that held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_bound: Option<Sizes>,
    /// Requests are never recommended above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper_bound: Option<Sizes>,
    /// Why there is no recommendation, or why it is not applied: one word for all of the container, else one for each
    /// resource that has one, such as `cpu: Pinned`. What holds the whole pod is told in `status.reason`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceEntry>,
    /// How the recommendation came about, step by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<ResourceSteps>,
    /// The steps as text, with the evidence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub explanation: String,
}

/// The evidence behind a recommendation, in numbers, as of the last time that the recommendation changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EvidenceEntry {
    /// How far back was looked, in seconds.
    pub window_seconds: i64,
    /// Part of it that has data, less what nobody saw of the pods that ran.
    pub covered_seconds: i64,
    /// Seconds of CPU use, all pods.
    pub cpu_samples: i64,
    /// Values of memory use, all pods.
    pub memory_samples: i64,
    /// Mean CPU use.
    pub cpu_mean: String,
    /// Highest CPU use of a second, of any pod.
    pub cpu_peak: String,
    /// Mean working set.
    pub memory_mean: String,
    /// Highest working set, of any pod.
    pub memory_peak: String,
    /// Share of CFS periods throttled, such as `2.5%`.
    pub throttled: String,
    /// OOM kills.
    pub oom_kills: i64,
}

/// Steps of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceSteps {
    /// Of CPU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub cpu: Vec<StepEntry>,
    /// Of memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub memory: Vec<StepEntry>,
}

/// One step of a recommendation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StepEntry {
    /// What acted, such as `percentile`, `safety factor`, `max bound`.
    pub step: String,
    /// The value after it, as a quantity.
    pub value: String,
    /// More about it, such as the policy that a bound comes from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Of `Adaptive`: the expert that was chosen, then the cheapest of each kind, at most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub experts: Vec<ExpertEntry>,
}

/// What an expert of `Adaptive` asks for, and what following it would have cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExpertEntry {
    /// Its rule, such as `peak held 4h +5%`.
    pub expert: String,
    /// Its size, as a quantity.
    pub value: String,
    /// Unit-minutes (0.1 millicore, 64 KiB) of idle size, with missing size and resizes at their price.
    pub cost: i64,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastDecision {
    /// When it was first made like this.
    pub time: Time,
    /// What was decided.
    pub decision: DecisionKind,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in words, with the numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DecisionKind {
    /// To resize.
    Resize,
    /// To change nothing.
    Hold,
    /// To put the previous size back.
    Rollback,
}

/// One resize of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When it was written.
    pub time: Time,
    /// The pod.
    pub pod: String,
    /// What was changed, such as `web cpu 500m > 120m`.
    pub change: String,
    /// What became of it: `Done`, `Deferred`, `Infeasible`, `Error`, `Reverted`, ...
    pub outcome: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
