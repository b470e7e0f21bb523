//! `OptimizationPolicy`, version v1alpha1: what users write.
//!
//! The schema refuses what it can with a message that says what is allowed; doc comments of the fields are the
//! descriptions that `kubectl explain` shows.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cel::{self, rule};

pub use super::amount::Amount;
pub use super::labels::{LabelExpression, LabelOperator, LabelSelector};
pub use super::status::{
    ContainerStatus, MAX_WORKLOADS, OptimizationPolicyStatus, Reclaimed, Sizes, Summary, WorkloadPhase,
    WorkloadStatus,
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
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date")
)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::duplicated_attributes, reason = "columns have types")]
pub struct OptimizationPolicySpec {
    /// What OptiPod may do: `Auto` recommends and resizes, `Recommend` (the default) only recommends, `Disabled` does
    /// neither and keeps the workloads from other policies of lower precedence. Default: `Recommend`.
    pub mode: Mode,
    /// Which policy a workload follows when several select it: the highest weight, then the one with a
    /// `workloadSelector`, then the oldest. 0 to 1000000. Default: 100.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
    /// Which workloads the policy is for. Default: every workload in the policy's own namespace.
    pub selector: WorkloadSelector,
    /// The evidence that recommendations come from.
    pub metrics_config: MetricsConfig,
    /// Sizes that recommendations stay within.
    pub resource_bounds: ResourceBounds,
    /// How changes are carried out.
    pub update_strategy: UpdateStrategy,
    /// Whether a decrease needs a known size of the pod's replacement (a replaced pod starts at the template's size):
    /// `Known` = no decrease without, `Accept` = decrease anyway, `Auto` = `Known` where the admission webhook runs,
    /// else `Accept` with a warning condition. Default: `Auto`.
    pub replacement: Replacement,
    /// Time between two evaluations of a workload; events are acted on at once. 1s to 2160h. Default: `5m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("1s", "5m")]))]
    pub reconciliation_interval: String,
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

/// Which workloads a policy is for. Everything that is given must hold; `namespaces.deny` always wins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Namespaces by their labels; `{}` = all. Only policies in OptiPod's own namespace (or one that
    /// `--cluster-policy-namespaces` names) reach beyond their own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Workloads by the labels of the Deployment, StatefulSet, DaemonSet, ... (of the pod, when it has no owner, or one
    /// that OptiPod does not watch).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<LabelSelector>,
    /// Namespaces by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Namespaces>,
    /// Kinds of workloads, such as `Deployment`, `StatefulSet`, `DaemonSet`, `ReplicaSet`, `CronJob`, `Job`, `Rollout`,
    /// `Pod` (pods without owner) or the kind of a custom resource that owns pods. At most 32. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.all(kind, kind.matches('^[A-Z][A-Za-z0-9]*$'))", "must be kinds in UpperCamelCase, such as Deployment, StatefulSet, DaemonSet, CronJob, Rollout or Pod")]))]
    pub workload_kinds: Vec<String>,
    /// Names of containers that are left alone, such as `istio-proxy`. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))", "must be container names: lower case letters, digits and '-', such as istio-proxy")]))]
    pub exclude_containers: Vec<String>,
}

/// Namespaces by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespaces {
    /// Only these namespaces. Not empty when given, at most 256. Default: no restriction by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [rule("size(self) > 0", "must not be empty when given: leave it out to allow every namespace that the policy may reach"), cel::namespaces()]))]
    pub allow: Option<Vec<String>>,
    /// Never these namespaces, whatever else says so. At most 256.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [cel::namespaces()]))]
    pub deny: Vec<String>,
}

/// The evidence that recommendations come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsConfig {
    /// Where usage comes from. This version has `agent`: OptiPod's own agent on every node. Default: `agent`.
    pub provider: Provider,
    /// How far back evidence reaches. 15s to 2160h. Default: `24h`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("15s", "24h")]))]
    pub rolling_window: String,
    /// Percentile of usage that is asked for: P50, P90, P99, or any Pn or Pn.n above P0, at most P100. Default: `P90`.
    #[schemars(length(max = 6))]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.matches('^P([0-9]{1,2}([.][0-9])?|100([.]0)?)$') && !self.matches('^P0{1,2}([.]0)?$')", "must be a percentile above P0, at most P100, with at most one decimal, such as P50, P90, P99 or P99.9")]))]
    pub percentile: String,
    /// What the percentile is multiplied with. 0.1 to 10. Default: 1.2.
    #[schemars(extend("x-kubernetes-validations" = [rule("self >= 0.1 && self <= 10.0", "must be a number from 0.1 to 10, such as 1.2")]))]
    pub safety_factor: f64,
    /// Share of the window that must have data before anything shrinks. 0 to 1. Default: 0.5.
    #[schemars(extend("x-kubernetes-validations" = [rule("self >= 0.0 && self <= 1.0", "must be a number from 0 to 1, such as 0.5")]))]
    pub minimum_coverage: f64,
}

/// Where usage comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// OptiPod's own agent on every node.
    #[default]
    Agent,
}

/// Sizes that recommendations stay within.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceBounds {
    /// Bounds of CPU requests, in cores: `100m`, `4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Bounds>,
    /// Bounds of memory requests, in bytes: `128Mi`, `8Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bounds>,
    /// Bounds around what the owner's template declares (not around the resized pod). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_to_declared: Option<RelativeBounds>,
}

/// Smallest and largest request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [cel::quantity("min", ">=", "min must be a quantity that is not negative, such as 100m or 128Mi"), cel::quantity("max", ">", "max must be a quantity above zero, such as 4 or 8Gi"), cel::quantities_in_order()]))]
pub struct Bounds {
    /// Never below. Default: no lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Amount>,
    /// Never above. Default: no upper bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Amount>,
}

/// Bounds around what the owner's template declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RelativeBounds {
    /// Of CPU requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<RelativeRange>,
    /// Of memory requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<RelativeRange>,
}

/// Smallest and largest change relative to the declared request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [cel::relative("min", "-20%"), cel::relative("max", "+20%"), cel::relatives_in_order()]))]
pub struct RelativeRange {
    /// Never below the declared request moved by this percentage: -99% to +1000%. Default: no lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub min: Option<String>,
    /// Never above the declared request moved by this percentage: -99% to +1000%. Default: no upper bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub max: Option<String>,
}

/// How changes are carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "the API's own switches")]
pub struct UpdateStrategy {
    /// Running pods may be resized in place, without a restart. Default: true.
    pub allow_in_place_resize: bool,
    /// Pods may be evicted where a resize in place is impossible. This version does not carry that out: it is accepted
    /// and answered with a warning condition. Default: false.
    pub allow_recreate: bool,
    /// Only requests are written. With `false`, limits follow `limits`. Default: true.
    pub update_requests_only: bool,
    /// What happens to limits when `updateRequestsOnly` is false.
    pub limits: Limits,
    /// Whether memory may shrink: `Never`, or `Guarded` = when use is well below the new value and not rising.
    /// Default: `Guarded`.
    pub memory_decrease: MemoryDecrease,
    /// Time after OptiPod's last resize of a pod before a decrease; increases are immediate. 0s to 2160h.
    /// Default: `10m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("0s", "10m")]))]
    pub cooldown: String,
    /// Changes below this share of the current value are not made. 0% to 100%. Default: `10%`.
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.matches('^([0-9]{1,2}([.][0-9]{1,3})?|100([.]0{1,3})?)%$')", "must be a percentage from 0% to 100%, such as 10%")]))]
    pub min_change: String,
    /// A resize that the kubelet keeps Deferred for longer is taken back. 1s to 2160h. Default: `5m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("1s", "5m")]))]
    pub deferred_deadline: String,
    /// Resizes of this policy that may be under way at once. 1 to 10000. Default: 10.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent_resizes: i32,
}

/// What happens to limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// To CPU limits. Default: `{type: Keep}`.
    pub cpu: LimitRule,
    /// To memory limits. Default: `{type: Ratio}`.
    pub memory: LimitRule,
}

/// What happens to one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitRule {
    /// `Keep` = it stays, and the request is held below it; `Ratio` = it keeps the ratio to the request that the owner
    /// declares.
    #[serde(rename = "type")]
    pub rule: LimitType,
}

/// Rule for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitType {
    /// It stays.
    Keep,
    /// It keeps the declared ratio to the request.
    Ratio,
}

/// Whether memory may shrink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemoryDecrease {
    /// Never.
    Never,
    /// When use is below the new value with a margin, and not rising.
    #[default]
    Guarded,
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
