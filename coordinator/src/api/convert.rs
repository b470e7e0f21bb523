//! From what users wrote to what decisions are made from. Pure; names everything that is wrong at once.
//!
//! The API server has checked most of it by the schema's rules already. Objects stored before a rule existed, and
//! clusters whose CRD is older than the coordinator, make the second check necessary.

mod check;
mod selector;
mod sizing;
mod update;
mod warnings;

use std::str::FromStr;
use std::time::Duration;

use optipod_common::policy::{
    Factor, Guaranteed, Hpa, Mode, Percentile, Policy, Replacement, Scope, Share, Violation,
};

use super::v1alpha1 as api;
use check::Check;

pub(super) use check::{is_dns_label, is_dns_subdomain};
pub use selector::Selector;
pub use sizing::strategy_type;
pub(super) use warnings::edits;
pub use warnings::{DECREASES_HELD, NOTHING_RESIZED, NOTHING_SELECTED, Warning, warnings};

/// Checks a specification and turns it into what decisions are made from.
///
/// # Errors
/// All that is wrong, each with the path of its field.
pub fn to_policy(spec: &api::OptimizationPolicySpec) -> Result<(Policy, Selector), Vec<Violation>> {
    let mut check = Check(Vec::new());
    let defaults = Policy::default();
    let metrics = &spec.metrics_config;
    let selector = selector::selector(spec, &mut check);
    if !spec.owner_sync.is_empty() {
        check.wrong("spec.ownerSync", "is not in this version: leave it empty");
    }
    let policy = Policy {
        mode: match spec.mode {
            api::Mode::Auto => Mode::Auto,
            api::Mode::Recommend => Mode::Recommend,
            api::Mode::Disabled => Mode::Disabled,
        },
        dry_run: spec.dry_run,
        provider: sizing::provider(metrics.provider, &mut check),
        rolling_window: check.duration(
            "spec.metricsConfig.rollingWindow",
            &metrics.rolling_window,
            Duration::from_secs(15),
        ),
        percentile: check.take(
            "spec.metricsConfig.percentile",
            metrics.percentile.as_deref().map_or(Ok(defaults.percentile), Percentile::from_str),
            defaults.percentile,
        ),
        safety_factor: check.take(
            "spec.metricsConfig.safetyFactor",
            metrics.safety_factor.map_or(Ok(defaults.safety_factor), Factor::from_f64),
            defaults.safety_factor,
        ),
        minimum_coverage: check.take(
            "spec.metricsConfig.minimumCoverage",
            Share::from_f64(metrics.minimum_coverage),
            defaults.minimum_coverage,
        ),
        memory_peak_floor: metrics.memory_peak_floor,
        strategy: sizing::strategy(spec, &mut check),
        strategy_version: sizing::strategy_version(&spec.strategy, &mut check),
        scope: match spec.scope {
            api::Scope::Workload => Scope::Workload,
            api::Scope::Pod => Scope::Pod,
        },
        anticipate: spec.anticipate,
        bounds: sizing::resource_bounds(&spec.resource_bounds, &mut check),
        enforced: Vec::new(),
        startup: sizing::startup(&spec.startup, &mut check),
        update: update::update_strategy(&spec.update_strategy, &mut check),
        initial_sizing: spec.initial_sizing,
        replacement: match spec.replacement {
            api::Replacement::Auto => Replacement::Auto,
            api::Replacement::Known => Replacement::Known,
            api::Replacement::Accept => Replacement::Accept,
        },
        guaranteed: match spec.guaranteed {
            api::Guaranteed::Hold => Guaranteed::Hold,
            api::Guaranteed::MoveTogether => Guaranteed::MoveTogether,
        },
        hpa: match spec.hpa {
            api::Hpa::Hold => Hpa::Hold,
            api::Hpa::KeepUtilisation => Hpa::KeepUtilisation,
        },
        reconciliation_interval: check.duration(
            "spec.reconciliationInterval",
            &spec.reconciliation_interval,
            Duration::from_secs(1),
        ),
    };
    if check.0.is_empty() { Ok((policy, selector)) } else { Err(check.0) }
}
