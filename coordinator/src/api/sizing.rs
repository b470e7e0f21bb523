//! Where evidence comes from, how a size comes from it, and within which bounds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::cel::{self, rule};

/// The evidence that recommendations come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsConfig {
    /// Where usage comes from. `agent`: OptiPod's own agent on every node. `prometheus` and `metrics-server` hold the
    /// same quantities at a lower resolution: the agent stands in for them in this version, and the condition
    /// `AgentStandsIn` says so. `custom` and `vpa` are refused in this version. Default: `agent`.
    #[schemars(extend("x-kubernetes-validations" = [rule("!(self in ['custom', 'vpa'])", "custom and vpa are not in this version: expected agent, or prometheus or metrics-server, for which the agent stands in")]))]
    pub provider: Provider,
    /// How far back evidence reaches: percentiles, floors such as memory's highest peak, and coverage. What `Adaptive`
    /// chooses by are costs of its own, which halve each day or two whatever the window. 15s to 2160h. Default: `24h`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("15s", "24h")]))]
    pub rolling_window: String,
    /// Percentile of usage: P50, P90, P99, or any Pn or Pn.n above P0, at most P100. `Percentile` takes that of the
    /// window, `Threshold` that of the last minutes, `Adaptive` none but for single pods (`scope: Pod`). Absent: `P90`. A
    /// policy that names it and no strategy has the strategy `Percentile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 6))]
    #[schemars(extend("x-kubernetes-validations" = [cel::percentile()]))]
    pub percentile: Option<String>,
    /// What `Percentile` multiplies the percentile with; other strategies where use of other revisions or of single pods
    /// (`scope: Pod`) raises a size. 0.1 to 10. Absent: 1.2. A policy that names it and no strategy has the strategy
    /// `Percentile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [cel::factor("1.2")]))]
    pub safety_factor: Option<f64>,
    /// Share of the window that must have data before anything shrinks. 0 to 1. Default: 0.5.
    #[schemars(extend("x-kubernetes-validations" = [cel::share("0.5")]))]
    pub minimum_coverage: f64,
    /// Memory is never recommended below its highest peak in the window. With `false`, the percentile alone counts:
    /// memory that was in use once may be missing the next time. Default: true.
    pub memory_peak_floor: bool,
}

/// Where usage comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// OptiPod's own agent on every node.
    #[default]
    Agent,
    /// Prometheus.
    Prometheus,
    /// metrics-server.
    MetricsServer,
    /// A gRPC service of the user's.
    Custom,
    /// The recommendations of a `VerticalPodAutoscaler`.
    Vpa,
}

/// How a size comes from evidence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.type) || self.type != 'Expression' || has(self.expression)", "expression must be given for type Expression, such as {cpu: \"cpu.p(95) * 1.1\"}"), rule("has(self.type) || [has(self.objective), has(self.threshold), has(self.expression)].filter(given, given).size() <= 1", "type must be given with fields of several strategies: objective is for Adaptive, threshold for Threshold, expression for Expression")]))]
pub struct Strategy {
    /// See [`StrategyType`], whose description the schema has.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<StrategyType>,
    /// Version of its algorithm that may act; another one only shows what it would do. 1 to 1000. Absent: the version
    /// that acted when the policy was evaluated first, which its status names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub version: Option<i32>,
    /// See [`Objective`], whose description the schema has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// Parameters of `Threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// Formulas of `Expression`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<Expression>,
}

/// `Percentile` = percentile times safety factor; `Threshold` = react to the share of the request that is used;
/// `Adaptive` = choose among experts by what each would have cost; `Expression` = formulas of your own. Absent: the
/// strategy that `objective`, `threshold` or `expression` is for; with none of them `Percentile` when `metricsConfig`
/// names `percentile` or `safetyFactor`, else `Adaptive`. `status.strategy` says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StrategyType {
    /// Percentile times safety factor.
    Percentile,
    /// React to the share of the request that is used.
    Threshold,
    /// Choose among experts by what each would have cost.
    Adaptive,
    /// Formulas of the user's own.
    Expression,
}

/// What `Adaptive` weighs more: `Savings`, `Balanced` or `Safe`. Default: `Balanced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Objective {
    /// Small requests.
    Savings,
    /// Between the two.
    #[default]
    Balanced,
    /// Few moments in which usage is above the request.
    Safe,
}

/// Parameters of the strategy `Threshold`, for CPU and memory alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("self.scaleDownThreshold < self.scaleUpThreshold", "scaleDownThreshold must be below scaleUpThreshold"), rule("self.scaleUpUsageMultiplier > 1.0 && self.scaleUpUsageMultiplier * self.scaleDownThreshold < 1.0", "scaleUpUsageMultiplier must be above 1 and below 1 / scaleDownThreshold: otherwise a container that just grew would shrink again"), rule("self.scaleDownUsageMultiplier * self.scaleUpThreshold > 1.0", "scaleDownUsageMultiplier must be above 1 / scaleUpThreshold: otherwise a container that just shrank would grow again")]))]
pub struct Threshold {
    /// Share of the request from which on a container grows, at once. 0 to 1. Default: 0.8.
    #[schemars(extend("x-kubernetes-validations" = [cel::share("0.8")]))]
    pub scale_up_threshold: f64,
    /// What usage is multiplied with for the larger size. Above 1, at most 10, and below 1 / `scaleDownThreshold`. Default: 1.4.
    #[schemars(extend("x-kubernetes-validations" = [cel::multiplier("1.4")]))]
    pub scale_up_usage_multiplier: f64,
    /// What the request is multiplied with at least when it grows. 1 to 10. Default: 1.2.
    #[schemars(extend("x-kubernetes-validations" = [cel::multiplier("1.2")]))]
    pub scale_up_min_growth: f64,
    /// Share of the request up to which a container shrinks. 0 to 1, below `scaleUpThreshold`. Default: 0.3.
    #[schemars(extend("x-kubernetes-validations" = [cel::share("0.3")]))]
    pub scale_down_threshold: f64,
    /// What usage is multiplied with for the smaller size. Above 1 / `scaleUpThreshold`, at most 10. Default: 2.5.
    #[schemars(extend("x-kubernetes-validations" = [cel::multiplier("2.5")]))]
    pub scale_down_usage_multiplier: f64,
    /// Smallest decrease, as a share of the request. 0 to 1. Default: 0.2.
    #[schemars(extend("x-kubernetes-validations" = [cel::share("0.2")]))]
    pub scale_down_min_diff: f64,
    /// Time after a resize before a decrease. 0s to 2160h. Default: `10m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("0s", "10m")]))]
    pub cooldown: String,
    /// Memory is never recommended below. 0, or 1Mi and more. Default: `100Mi`.
    #[schemars(extend("x-kubernetes-validations" = [rule("isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) >= 0", "must be a quantity that is not negative, such as 100Mi"), cel::memory(&[], "self", &cel::memory_message(""))]))]
    pub min_request_memory: Amount,
}

/// Formulas in the Common Expression Language. A resource without formula follows `Percentile`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("has(self.cpu) || has(self.memory)", "cpu or memory must be given")]))]
pub struct Expression {
    /// CPU request in cores, such as `cpu.p(95) * 1.1`. At most 512 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub cpu: Option<String>,
    /// Memory request in bytes, such as `max(memory.peak, memory.p(99)) * 1.15`. At most 512 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub memory: Option<String>,
}

/// Sizes that recommendations stay within.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [cel::memory(&["self.memory", "self.memory.min"], "self.memory.min", &cel::memory_message("memory.min")), cel::memory(&["self.memory", "self.memory.max"], "self.memory.max", &cel::memory_message("memory.max"))]))]
pub struct ResourceBounds {
    /// Bounds of CPU requests, in cores: `100m`, `4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Bounds>,
    /// Bounds of memory requests, in bytes: `128Mi`, `8Gi`; 1Mi at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bounds>,
    /// Bounds around what the owner's template declares (not around the resized pod). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_to_declared: Option<RelativeBounds>,
    /// These bounds hold for every workload that the policy selects, also for one that follows another policy: both are
    /// intersected. Only in OptiPod's own namespace, or one that `--cluster-policy-namespaces` names. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enforced: bool,
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

/// Start-up is not runtime: other sizes, and other evidence. What is used while a container starts never counts for
/// requests at runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Startup {
    /// More than at runtime while starting: it raises declared CPU limits, also with `updateRequestsOnly: true`, and requests
    /// of CPU and memory where the node has it free. It is taken back when start-up ends. A memory limit is never raised (a
    /// heap that was sized from it outlives it), nor a CPU limit for Go unless `limitRuntimes` names it. Default: as at
    /// runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boost: Option<Boost>,
    /// When start-up ends: `Ready` (the pod is), a duration from 1s to 24h after the container started, or `learned`
    /// (usage is on the plateau that earlier starts reached). Default: `Ready`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::until()]))]
    pub until: String,
}

/// Sizes while starting: a factor (`2x`, at most `10x`) of the request, and for CPU of the limit, a quantity that they reach
/// at least, or `learned` (what earlier starts needed).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [cel::boost("cpu", "500m"), cel::boost("memory", "512Mi"), cel::memory(&["self.memory"], "self.memory", &cel::memory_message("memory"))]))]
pub struct Boost {
    /// Of CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
    /// Of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
}
