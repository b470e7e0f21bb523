//! Defaults of the API, in one place. A test holds them equal to the defaults of the pure core.

use super::v1alpha1::{
    LimitRule, LimitType, Limits, MemoryDecrease, MetricsConfig, Mode, OptimizationPolicySpec, Provider,
    Replacement, ResourceBounds, UpdateStrategy, WorkloadSelector,
};

impl Default for OptimizationPolicySpec {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            weight: 100,
            selector: WorkloadSelector::default(),
            metrics_config: MetricsConfig::default(),
            resource_bounds: ResourceBounds::default(),
            update_strategy: UpdateStrategy::default(),
            replacement: Replacement::default(),
            reconciliation_interval: "5m".to_owned(),
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            rolling_window: "24h".to_owned(),
            percentile: "P90".to_owned(),
            safety_factor: 1.2,
            minimum_coverage: 0.5,
        }
    }
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self {
            allow_in_place_resize: true,
            allow_recreate: false,
            update_requests_only: true,
            limits: Limits::default(),
            memory_decrease: MemoryDecrease::default(),
            cooldown: "10m".to_owned(),
            min_change: "10%".to_owned(),
            deferred_deadline: "5m".to_owned(),
            max_concurrent_resizes: 10,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu: LimitRule { rule: LimitType::Keep }, memory: LimitRule { rule: LimitType::Ratio } }
    }
}
