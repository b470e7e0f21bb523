//! `OptimizationPolicy`, version v1alpha1: what users write.
//!
//! The schema refuses what it can with a message that says what is allowed; doc comments of the fields are the
//! descriptions that `kubectl explain` shows.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::cel::{self, rule};
use super::lint;

pub use super::amount::Amount;
pub use super::labels::{LabelExpression, LabelOperator, LabelSelector};
pub use super::recommendation::{
    Confidence, DecisionKind, EvidenceEntry, ExpertEntry, HistoryEntry, LastDecision, MAX_CONTAINERS,
    MAX_EXPERTS, MAX_HISTORY, MAX_STEPS, PolicyRef, Recommendation, RecommendationSpec, RecommendationStatus,
    RecommendedContainer, ResourceSteps, StepEntry, WorkloadTarget,
};
pub use super::selector::{Namespaces, WorkloadSelector};
pub use super::sizing::{
    Boost, Bounds, Expression, MetricsConfig, Objective, Provider, RelativeBounds, RelativeRange,
    ResourceBounds, Startup, Strategy, StrategyType, Threshold,
};
pub use super::status::{
    Account, ContainerStatus, MAX_WORKLOADS, OptimizationPolicyStatus, Sizes, StrategyRef, Summary, Totals,
    WorkloadPhase, WorkloadStatus,
};
pub use super::update::{
    Canary, CoupledResources, Day, Headroom, LimitRule, LimitRuntime, LimitType, Limits, MaxStep,
    MemoryDecrease, ResourceName, RestartContainer, Rollback, UpdateStrategy, Window, WindowChange,
};

/// Which workloads are right-sized, from what evidence, within which bounds, and how.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "optipod.io",
    version = "v1alpha1",
    kind = "OptimizationPolicy",
    plural = "optimizationpolicies",
    singular = "optimizationpolicy",
    namespaced,
    shortname = "opol",
    category = "optipod",
    status = "OptimizationPolicyStatus",
    derive = "PartialEq",
    doc = "Says which workloads OptiPod right-sizes, from what evidence, within which bounds, and how.",
    printcolumn(json_path = ".spec.mode", name = "Mode", type_ = "string"),
    printcolumn(
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        name = "Ready",
        type_ = "string"
    ),
    printcolumn(json_path = ".status.summary.matched", name = "Matched", type_ = "integer"),
    printcolumn(json_path = ".status.summary.applied", name = "Applied", type_ = "integer"),
    printcolumn(json_path = ".status.summary.skipped", name = "Skipped", type_ = "integer"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    printcolumn(json_path = ".status.strategy.type", name = "Strategy", type_ = "string", priority = 1)
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[allow(clippy::duplicated_attributes, reason = "columns have types")]
pub struct OptimizationPolicySpec {
    /// What OptiPod may do: `Auto` recommends and resizes, `Recommend` (the default) only recommends, `Disabled` does
    /// neither and keeps the workloads from other policies of lower precedence. Default: `Recommend`.
    pub mode: Mode,
    /// Compute and report everything, change nothing, whatever the mode. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Which policy a workload follows when several select it: the highest weight, then the most specific selector
    /// (labels of workloads or pods, then kinds, then namespaces by name), then the oldest. 0 to 1000000. Default: 100.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
    /// Which workloads the policy is for. Default: every workload in the policy's own namespace.
    pub selector: WorkloadSelector,
    /// The evidence that recommendations come from.
    pub metrics_config: MetricsConfig,
    /// How a size comes from evidence. Absent: `Percentile` when `metricsConfig` names `percentile` or `safetyFactor`, else
    /// `Adaptive`.
    pub strategy: Strategy,
    /// One size for all pods of a workload (`Workload`), or more for a pod that needs more than the others (`Pod`).
    /// Default: `Workload`.
    pub scope: Scope,
    /// Raise before a burst that repeats (such as the tests each night at 02:00), when the history by hour of the week
    /// supports it. Nothing is ever lowered for that. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anticipate: bool,
    /// Sizes that recommendations stay within.
    pub resource_bounds: ResourceBounds,
    /// What is different while a container starts.
    pub startup: Startup,
    /// How changes are carried out.
    pub update_strategy: UpdateStrategy,
    /// New pods are created at the recommended size, where the admission webhook runs. This version has none: new pods
    /// start at the size of their template. Default: true.
    pub initial_sizing: bool,
    /// Whether a decrease needs a known size of the pod's replacement (a replaced pod starts at the template's size):
    /// `Known` = no decrease without, `Accept` = decrease anyway, `Auto` = `Known` where the admission webhook runs,
    /// else `Accept` with a warning condition. Default: `Auto`.
    pub replacement: Replacement,
    /// What happens to pods of class Guaranteed, whose requests equal their limits: `Hold` = they are left alone,
    /// `MoveTogether` = request and limit move together (limits are written then, whatever `updateRequestsOnly` says).
    /// Default: `Hold`.
    pub guaranteed: Guaranteed,
    /// What happens to a resource whose utilisation a HorizontalPodAutoscaler follows: `Hold` = it is left alone at what
    /// the owner declares, `KeepUtilisation` = the request moves such that the autoscaler sees the same utilisation.
    /// Default: `Hold`.
    pub hpa: Hpa,
    /// Owners whose own resources are kept in step. Must be empty in this version.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = [rule("size(self) == 0", "is not in this version: leave it empty")]))]
    pub owner_sync: Vec<OwnerSync>,
    /// Time between two evaluations of a workload; events are acted on at once. 1s to 2160h. Default: `5m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("1s", "5m")]))]
    pub reconciliation_interval: String,
}

/// What is derived is a function of its own (`remote`): one that cannot read a specification knows the first thing that is
/// wrong, and people want all of them.
impl<'de> Deserialize<'de> for OptimizationPolicySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Self::deserialize(&value).map_err(|error| de::Error::custom(lint::unreadable(&value, &error)))
    }
}

impl Serialize for OptimizationPolicySpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// What OptiPod may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Recommend and resize.
    Auto,
    /// Recommend only.
    #[default]
    Recommend,
    /// Neither.
    Disabled,
}

/// One size for all pods of a workload, or one for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// One for all.
    #[default]
    Workload,
    /// More for a pod that needs more.
    Pod,
}

/// Whether a decrease needs a known size of the replacement pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Replacement {
    /// `Known` where the admission webhook runs, else `Accept` with a warning condition.
    #[default]
    Auto,
    /// No decrease without.
    Known,
    /// Decrease anyway.
    Accept,
}

/// What happens to pods of class Guaranteed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Guaranteed {
    /// They are left alone.
    #[default]
    Hold,
    /// Request and limit move together.
    MoveTogether,
}

/// What happens to a resource that an autoscaler follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Hpa {
    /// It is left alone.
    #[default]
    Hold,
    /// The utilisation that the autoscaler sees stays the same.
    KeepUtilisation,
}

/// An owner whose own resources are kept in step. Its fields come with the version that carries it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct OwnerSync {}
