//! What is accepted, but people should know.

use super::strategy_type;
use crate::api::v1alpha1::{Mode, OptimizationPolicySpec, Provider, Replacement, StrategyType};

/// Something in a policy that is accepted and does not do all that it seems to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Type of the condition that says so.
    pub condition: &'static str,
    /// Reason of the condition.
    pub reason: &'static str,
    /// Path of the field.
    pub field: &'static str,
    /// What it does, and what to do about it.
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

const NOT_IN_THIS_VERSION: &str = "NotInThisVersion";

/// Everything that a valid specification does not do in this version, or does otherwise than one may think. One warning
/// for each type of condition at most.
pub fn warnings(spec: &OptimizationPolicySpec) -> Vec<Warning> {
    let strategy = &spec.strategy;
    let kind = strategy_type(spec);
    let provider = match spec.metrics_config.provider {
        Provider::Prometheus => Some("prometheus"),
        Provider::MetricsServer => Some("metrics-server"),
        Provider::Agent | Provider::Custom | Provider::Vpa => None,
    };
    let metrics = &spec.metrics_config;
    // a resource without a formula follows the percentile
    let by_percentile = [StrategyType::Percentile, StrategyType::Expression].as_slice();
    let unused: Vec<&str> = [
        (strategy.objective.is_some(), [StrategyType::Adaptive].as_slice(), "strategy.objective"),
        (strategy.threshold.is_some(), &[StrategyType::Threshold], "strategy.threshold"),
        (strategy.expression.is_some(), &[StrategyType::Expression], "strategy.expression"),
        (metrics.percentile.is_some(), by_percentile, "metricsConfig.percentile"),
        (metrics.safety_factor.is_some(), by_percentile, "metricsConfig.safetyFactor"),
    ]
    .into_iter()
    .filter(|(given, kinds, _)| *given && !kinds.contains(&kind))
    .map(|(_, _, name)| name)
    .collect();
    let warn = |condition, reason, field, message: String| Warning { condition, reason, field, message };
    let known = spec.mode == Mode::Auto && spec.replacement == Replacement::Auto;
    [
        known.then(|| {
            warn(
                "ReplacementSizeUnknown",
                "NoAdmissionWebhook",
                "spec.replacement",
                "replaced pods start at the size of their template: no admission webhook runs in this version; set replacement: Accept or Known to choose".to_owned(),
            )
        }),
        spec.update_strategy.allow_recreate.then(|| {
            warn(
                "RecreateUnsupported",
                NOT_IN_THIS_VERSION,
                "spec.updateStrategy.allowRecreate",
                "updateStrategy.allowRecreate is accepted, but this version resizes in place only".to_owned(),
            )
        }),
        provider.map(|name| {
            warn(
                "AgentStandsIn",
                NOT_IN_THIS_VERSION,
                "spec.metricsConfig.provider",
                format!("{name} is not read in this version: the agent measures the same quantities at a higher resolution and stands in"),
            )
        }),
        (!unused.is_empty()).then(|| {
            warn(
                "FieldsUnused",
                "OtherStrategy",
                "spec.strategy",
                format!("the strategy is {kind:?}: {} is for another one, checked and not used", unused.join(", ")),
            )
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}
