//! A container of a pod: what it does, how it ended, when it starts again.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container as ContainerSpec;
use k8s_openapi::jiff::Timestamp;
use optipod_common::ident::ContainerId;
use optipod_common::resources::Resources;

use crate::simulated::kubelet::actuate::RestartOn;
use crate::simulated::kubelet::size::{Kind, Slot};

/// A container that ran so long has its pause forgotten.
const BACKOFF_FORGOTTEN: Duration = Duration::from_mins(10);

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// `Completed`, `Error` or `OOMKilled`.
    pub reason: &'static str,
    /// When it had started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Which start of it.
    pub id: ContainerId,
}

/// What a container does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or ended and to be started again.
    Waiting {
        /// `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`, `CreateContainerConfigError`.
        reason: &'static str,
        /// May be empty.
        message: String,
    },
    /// It runs.
    Running {
        /// Since then.
        since: Timestamp,
        /// In simulated time.
        began: Duration,
        /// Which start.
        id: ContainerId,
    },
    /// It ended.
    Terminated(Ended),
}

/// A container and its history.
#[derive(Clone, Debug)]
pub struct Container {
    /// Name and kind.
    pub slot: Slot,
    /// From the spec.
    pub spec: ContainerSpec,
    pub(super) restart_on: RestartOn,
    /// What it does now.
    pub state: State,
    /// How it ended the last time.
    pub last: Option<Ended>,
    /// Number of starts after the first.
    pub restarts: u32,
    /// Ready.
    pub ready: bool,
    /// To be started then, in simulated time.
    pub(super) start: Option<Duration>,
    /// Until when it is not started again, and the pause after that.
    pub(super) pause: Duration,
    /// What its cgroup has.
    pub actuated: Resources,
    /// What the kubelet has seen that it has.
    pub observed: Resources,
}

impl Container {
    pub(super) fn new(spec: &ContainerSpec, kind: Kind, waiting: &'static str) -> Self {
        let policy = |resource: &str| {
            let mut policies = spec.resize_policy.iter().flatten();
            policies.any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
        };
        Self {
            slot: Slot { name: spec.name.clone(), kind },
            spec: spec.clone(),
            restart_on: RestartOn { cpu: policy("cpu"), memory: policy("memory") },
            state: State::Waiting { reason: waiting, message: String::new() },
            last: None,
            restarts: 0,
            ready: false,
            start: None,
            pause: Duration::ZERO,
            actuated: Resources::default(),
            observed: Resources::default(),
        }
    }

    /// True while it runs.
    pub const fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub(super) fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Terminated(ended) => Some(ended),
            _ => None,
        }
    }

    /// It ended by itself, or was stopped.
    pub(super) fn end(&mut self, ended: Ended) {
        let ran = ended.finished.duration_since(ended.started).unsigned_abs();
        if ran >= BACKOFF_FORGOTTEN {
            self.pause = Duration::ZERO;
        }
        // a first end is followed by a start without a pause
        if self.last.is_none() && self.restarts == 0 {
            self.pause = Duration::ZERO;
        }
        self.ready = false;
        self.start = None;
        self.state = State::Terminated(ended);
    }
}
