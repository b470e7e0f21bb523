//! A policy that cannot be wrong: every part is built by a parser that names what is wrong and what is allowed.

mod bounds;
mod startup;
mod strategy;
mod update;
mod values;
mod windows;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use bounds::{Enforced, ResourceBounds};
pub use startup::{Boost, Startup, Until};
pub use strategy::{ExpressionParams, Objective, Strategy, ThresholdParams};
pub use update::{
    Canary, Controlled, CoupledResources, LimitRule, MaxStep, MemoryDecrease, RestartContainer, Rollback,
    UpdateStrategy,
};
pub use values::{Factor, Percent, Percentile, Range, RelativePercent, Share, parse_duration};
pub use windows::{Days, MinuteOfDay, Window, WindowChange, ZoneName, allowed_now, overlaps};

/// One thing that is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{field}: {message}")]
pub struct Violation {
    /// Path of the field, such as `spec.metricsConfig.percentile`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Violation {
    /// A violation of one field.
    pub fn new(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }
}

/// What the coordinator may do with the workloads of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Recommend and resize.
    Auto,
    /// Recommend only.
    Recommend,
    /// Neither; the status keeps its history.
    Disabled,
}

/// Where the evidence comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provider {
    /// `OptiPod`'s own agent on every node.
    #[default]
    Agent,
    /// Prometheus. The agent measures the same quantities and stands in where no Prometheus is connected.
    Prometheus,
    /// metrics-server. The agent measures the same quantities and stands in where it is not connected.
    MetricsServer,
}

/// One size for all pods of a workload, or one for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// All pods of a workload get the same size.
    #[default]
    Workload,
    /// A pod that needs more than the workload's size gets more; none gets less.
    Pod,
}

/// Whether a decrease needs a known size of the replacement pod (a replaced pod starts at template size).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replacement {
    /// `Known` where the admission webhook runs, else `Accept` with a warning condition.
    Auto,
    /// No decrease without.
    Known,
    /// Decrease anyway.
    Accept,
}

/// What happens to containers whose request equals their limit in a pod of class Guaranteed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guaranteed {
    /// They are left alone.
    #[default]
    Hold,
    /// Request and limit move together.
    MoveTogether,
}

/// What happens to a resource whose utilisation a `HorizontalPodAutoscaler` follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hpa {
    /// The request goes back to what the owner declares, then it is left alone.
    #[default]
    Hold,
    /// The request follows usage such that the utilisation that the autoscaler sees stays at its target.
    KeepUtilisation,
}

/// What the pure core needs to know of an `OptimizationPolicy`. Selectors stay with the coordinator's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the API's own switches")]
pub struct Policy {
    /// What may be done.
    pub mode: Mode,
    /// Everything is computed, nothing is changed but status.
    pub dry_run: bool,
    /// Where evidence comes from.
    pub provider: Provider,
    /// How far back evidence reaches.
    pub rolling_window: Duration,
    /// Which percentile of use is asked for.
    pub percentile: Percentile,
    /// What it is multiplied with.
    pub safety_factor: Factor,
    /// Share of the window that must have data before anything shrinks.
    pub minimum_coverage: Share,
    /// Memory is never recommended below the highest peak in the window.
    pub memory_peak_floor: bool,
    /// How a size comes from evidence.
    pub strategy: Strategy,
    /// Version of its algorithm that may act; `None` = the one that acted first.
    pub strategy_version: Option<u32>,
    /// One size for all pods of a workload, or one for each.
    pub scope: Scope,
    /// Raise before a burst that repeats, when the hour-of-week history supports it.
    pub anticipate: bool,
    /// Allowed sizes.
    pub bounds: ResourceBounds,
    /// Bounds of other policies that hold here too, whatever this policy says.
    pub enforced: Vec<Enforced>,
    /// What is different while a container starts.
    pub startup: Startup,
    /// How changes are made.
    pub update: UpdateStrategy,
    /// New pods are created at the recommended size, where the admission webhook runs.
    pub initial_sizing: bool,
    /// See [`Replacement`].
    pub replacement: Replacement,
    /// See [`Guaranteed`].
    pub guaranteed: Guaranteed,
    /// See [`Hpa`].
    pub hpa: Hpa,
    /// Time between evaluations.
    pub reconciliation_interval: Duration,
}

impl Policy {
    /// Changes below this share of the current value are not made. Left out, Adaptive has none beside its own bands: it
    /// stays where it is until a raise of 2 to 4 % or a decrease of 1 to 15 % is due, and that is what the back-test
    /// measured. The values of the other strategies move with every frame.
    pub fn min_change(&self) -> Share {
        let own = match self.strategy {
            Strategy::Adaptive(_) => Share(0),
            Strategy::Percentile | Strategy::Threshold(_) | Strategy::Expression(_) => Share(100),
        };
        self.update.min_change.unwrap_or(own)
    }

    /// Least time between a resize and a decrease: the strategy `Threshold` has one of its own, and the longer one counts.
    pub fn cooldown(&self) -> Duration {
        match &self.strategy {
            Strategy::Threshold(params) => self.update.cooldown.max(params.cooldown),
            Strategy::Percentile | Strategy::Adaptive(_) | Strategy::Expression(_) => self.update.cooldown,
        }
    }
}

impl Default for Policy {
    /// What the API means by a policy that names a percentile and nothing else: its defaults, and the strategy that
    /// needs no state.
    fn default() -> Self {
        Self {
            mode: Mode::Recommend,
            dry_run: false,
            provider: Provider::Agent,
            rolling_window: Duration::from_secs(24 * 3600),
            percentile: Percentile(9000),
            safety_factor: Factor(1200),
            minimum_coverage: Share(500),
            memory_peak_floor: true,
            strategy: Strategy::default(),
            strategy_version: None,
            scope: Scope::Workload,
            anticipate: false,
            bounds: ResourceBounds::default(),
            enforced: Vec::new(),
            startup: Startup::default(),
            update: UpdateStrategy::default(),
            initial_sizing: true,
            replacement: Replacement::Auto,
            guaranteed: Guaranteed::Hold,
            hpa: Hpa::Hold,
            reconciliation_interval: Duration::from_secs(300),
        }
    }
}
