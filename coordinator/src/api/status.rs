//! What OptiPod reports on a policy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sizing::StrategyType;

/// How many workloads a policy's status lists at most.
pub const MAX_WORKLOADS: usize = 100;

/// What OptiPod found and did. Written by the coordinator only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OptimizationPolicyStatus {
    /// `metadata.generation` of the policy that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The strategy in force, also where the policy leaves it out, and the version of its algorithm that may act.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyRef>,
    /// State of the policy: `Ready`, and warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Counts over all workloads of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// The workloads of the policy, at most 100; `summary.matched` counts all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace", "kind", "name"]))]
    pub workloads: Vec<WorkloadStatus>,
}

/// A strategy and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StrategyRef {
    /// Which.
    #[serde(rename = "type")]
    pub kind: StrategyType,
    /// Version of its algorithm; it changes when the same evidence would give another size.
    pub version: i32,
}

/// Counts of workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// Workloads that the policy selects.
    pub matched: i64,
    /// Workloads with a recommendation for at least one container.
    pub recommended: i64,
    /// Workloads whose pods all have the recommended size.
    pub applied: i64,
    /// Workloads that are left alone for a reason.
    pub skipped: i64,
    /// What was given back to the cluster: declared minus current requests, over all pods. Negative when more is
    /// requested than was declared.
    pub reclaimed: Totals,
    /// What the pods ask for, and what becomes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
}

/// What running pods ask for and what they use. A change of less than a tenth is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    /// What they request.
    pub requested: Totals,
    /// What they use on average, within the rolling window.
    pub used: Totals,
    /// What owners declare beyond what they request, where a replacement keeps their size.
    pub reclaimed: Totals,
    /// What they request beyond what is recommended.
    pub reclaimable: Totals,
    /// What is recommended beyond what they request.
    pub missing: Totals,
}

/// CPU and memory, summed over pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// CPU, as a quantity.
    pub cpu: String,
    /// Memory, as a quantity.
    pub memory: String,
}

/// One workload of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its kind: `Deployment`, `StatefulSet`, ...; `Pod` for a pod without owner.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Pods that it has.
    #[serde(default)]
    pub pods: i32,
    /// Where it stands.
    pub status: WorkloadPhase,
    /// Why, in one word. The list of reasons is in the documentation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in words, with the numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When a recommendation was last computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_recommendation: Option<Time>,
    /// When a pod of it was last resized by OptiPod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied: Option<Time>,
    /// One entry per container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recommendations: Vec<ContainerStatus>,
}

/// Where a workload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadPhase {
    /// Every pod has the recommended size.
    Applied,
    /// Some pods are being resized.
    InProgress,
    /// There is a recommendation that is not to be applied.
    Recommended,
    /// Left alone; `reason` says why.
    Skipped,
    /// A resize failed; `reason` says why.
    Failed,
}

/// What is recommended for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Name of the container.
    pub container: String,
    /// Recommended CPU request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Recommended memory request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Recommended CPU limit, where the policy lets limits move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<String>,
    /// Recommended memory limit, where the policy lets limits move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// What the owner's template declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<Sizes>,
    /// What the pods have now (the largest, when they differ).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Sizes>,
    /// How the recommendation came about, step by step.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub explanation: String,
}

/// Requests and limits, as quantities; absent = not stated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Sizes {
    /// CPU request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// CPU limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<String>,
    /// Memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
}
