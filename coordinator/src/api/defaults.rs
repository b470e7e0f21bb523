//! Defaults of the API, in one place. A test holds them equal to the defaults of the pure core.

use super::v1alpha1::{
    Amount, Canary, CoupledResources, Guaranteed, Headroom, Hpa, LimitRule, LimitType, Limits,
    MemoryDecrease, MetricsConfig, Mode, OptimizationPolicySpec, Provider, Replacement, ResourceBounds,
    ResourceName, RestartContainer, Rollback, Scope, Startup, Strategy, Threshold, UpdateStrategy,
    WorkloadSelector,
};

impl Default for OptimizationPolicySpec {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            dry_run: false,
            weight: 100,
            selector: WorkloadSelector::default(),
            metrics_config: MetricsConfig::default(),
            strategy: Strategy::default(),
            scope: Scope::default(),
            anticipate: false,
            resource_bounds: ResourceBounds::default(),
            startup: Startup::default(),
            update_strategy: UpdateStrategy::default(),
            initial_sizing: true,
            replacement: Replacement::default(),
            guaranteed: Guaranteed::default(),
            hpa: Hpa::default(),
            owner_sync: Vec::new(),
            reconciliation_interval: "5m".to_owned(),
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            rolling_window: "24h".to_owned(),
            percentile: None,
            safety_factor: None,
            minimum_coverage: 0.5,
            memory_peak_floor: true,
        }
    }
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self {
            allow_in_place_resize: true,
            allow_recreate: false,
            resources: vec![ResourceName::Cpu, ResourceName::Memory],
            update_requests_only: true,
            limits: Limits::default(),
            memory_decrease: MemoryDecrease::default(),
            restart_container: RestartContainer::default(),
            coupled_resources: CoupledResources::default(),
            limit_runtimes: Vec::new(),
            cooldown: "10m".to_owned(),
            min_change: None,
            max_step: None,
            deferred_deadline: "5m".to_owned(),
            max_concurrent_resizes: 10,
            windows: Vec::new(),
            canary: None,
            rollback: Rollback::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let rule = |rule| LimitRule { rule, headroom: None };
        Self { cpu: rule(LimitType::Keep), memory: rule(LimitType::Ratio) }
    }
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            scale_up_threshold: 0.8,
            scale_up_usage_multiplier: 1.4,
            scale_up_min_growth: 1.2,
            scale_down_threshold: 0.3,
            scale_down_usage_multiplier: 2.5,
            scale_down_min_diff: 0.2,
            cooldown: "10m".to_owned(),
            min_request_memory: Amount("100Mi".to_owned()),
        }
    }
}

impl Default for Startup {
    fn default() -> Self {
        Self { boost: None, until: "Ready".to_owned() }
    }
}

impl Default for Headroom {
    fn default() -> Self {
        Self { percentile: "P99.9".to_owned(), factor: 1.2 }
    }
}

impl Default for Canary {
    fn default() -> Self {
        Self { share: "10%".to_owned(), observe: "5m".to_owned() }
    }
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            on_oom: true,
            on_restart: true,
            on_throttle: "25%".to_owned(),
            on_pressure: "10%".to_owned(),
            backoff: "10m".to_owned(),
        }
    }
}
