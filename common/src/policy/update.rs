//! How changes are carried out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{Factor, Percent, Percentile, Share};
use super::windows::Window;
use crate::resources::LanguageRuntime;

/// What happens to a limit when its request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitRule {
    /// It stays; the request is held below it.
    Keep,
    /// It keeps the ratio to the request that the owner declared.
    Ratio,
    /// It follows usage: a percentile of it (CPU at 100 ms, the period that the limit throttles on), times a factor,
    /// never below the request.
    Headroom {
        /// Of the window.
        percentile: Percentile,
        /// At least 1.
        factor: Factor,
    },
}

/// Whether memory may shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryDecrease {
    /// Never.
    Never,
    /// When use is below the new value with a margin, and not rising.
    Guarded,
}

/// What happens to a container that a resize would restart (`resizePolicy: RestartContainer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartContainer {
    /// The resource is left alone.
    #[default]
    Hold,
    /// It is resized and restarts, one pod of a workload at a time, all that restarts it in one patch.
    OneAtATime,
}

/// What happens to a resource that the process was told at its start (`resourceFieldRef`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoupledResources {
    /// It is left alone.
    #[default]
    Hold,
    /// It moves: the process sees it when its container starts anew.
    Move,
}

/// Which resources are changed; the others are recommended only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controlled {
    /// CPU is.
    pub cpu: bool,
    /// Memory is.
    pub memory: bool,
}

/// Largest change at once, relative to the current value; a larger one is made in several steps. `None` = any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxStep {
    /// Of an increase.
    pub up: Option<Percent>,
    /// Of a decrease; below 100 %.
    pub down: Option<Percent>,
}

/// A change goes to some pods first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Share of the workload's pods, at least one pod.
    pub share: Share,
    /// How long they are watched before the others follow.
    pub observe: Duration,
}

impl Canary {
    /// How many of the workload's pods try a change first.
    pub fn first_of(&self, pods: u64) -> u64 {
        pods.saturating_mul(u64::from(self.share.thousandths())).div_ceil(1000).max(1)
    }
}

/// What takes a change back, and for how long the workload is left alone then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// An OOM kill.
    pub on_oom: bool,
    /// A restart.
    pub on_restart: bool,
    /// Throttling of more than this share of periods; `None` = not.
    pub on_throttle: Option<Share>,
    /// Stall on CPU or memory of more than this share of time; `None` = not.
    pub on_pressure: Option<Share>,
    /// How long no decrease follows.
    pub backoff: Duration,
}

impl Default for Rollback {
    /// The defaults of the API.
    fn default() -> Self {
        Self {
            on_oom: true,
            on_restart: true,
            on_throttle: Some(Share(250)),
            on_pressure: Some(Share(100)),
            backoff: Duration::from_secs(600),
        }
    }
}

/// How changes are carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the API's own switches")]
pub struct UpdateStrategy {
    /// `pods/resize` may be called.
    pub allow_in_place_resize: bool,
    /// Pods may be evicted where in place is impossible.
    pub allow_recreate: bool,
    /// Which resources are changed.
    pub resources: Controlled,
    /// Limits are never written.
    pub update_requests_only: bool,
    /// Rule for CPU limits, when they may be written.
    pub cpu_limit: LimitRule,
    /// Rule for memory limits, when they may be written.
    pub memory_limit: LimitRule,
    /// Whether memory may shrink.
    pub memory_decrease: MemoryDecrease,
    /// What happens to containers that a resize would restart.
    pub restart_container: RestartContainer,
    /// What happens to resources that the process was told.
    pub coupled_resources: CoupledResources,
    /// Runtimes whose CPU limit moves although they follow it while they run.
    pub limit_runtimes: Vec<LanguageRuntime>,
    /// Time after our last resize of a pod before a decrease.
    pub cooldown: Duration,
    /// Changes below this share of the current value are not made; `None` = what is right for the strategy, see
    /// [`super::Policy::min_change`].
    pub min_change: Option<Share>,
    /// Largest change at once.
    pub max_step: MaxStep,
    /// A resize that is Deferred for longer is taken back.
    pub deferred_deadline: Duration,
    /// Resizes of this policy under way at once.
    pub max_concurrent_resizes: u32,
    /// When changes are made; empty = always. No two overlap.
    pub windows: Vec<Window>,
    /// Some pods first; `None` = all alike.
    pub canary: Option<Canary>,
    /// What takes a change back.
    pub rollback: Rollback,
}

impl Default for UpdateStrategy {
    /// The defaults of the API.
    fn default() -> Self {
        Self {
            allow_in_place_resize: true,
            allow_recreate: false,
            resources: Controlled { cpu: true, memory: true },
            update_requests_only: true,
            cpu_limit: LimitRule::Keep,
            memory_limit: LimitRule::Ratio,
            memory_decrease: MemoryDecrease::Guarded,
            restart_container: RestartContainer::Hold,
            coupled_resources: CoupledResources::Hold,
            limit_runtimes: Vec::new(),
            cooldown: Duration::from_secs(600),
            min_change: None,
            max_step: MaxStep::default(),
            deferred_deadline: Duration::from_secs(300),
            max_concurrent_resizes: 10,
            windows: Vec::new(),
            canary: None,
            rollback: Rollback::default(),
        }
    }
}
