//! What is different while a container starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::Factor;
use crate::quantity::{Bytes, MilliCpu};

/// Start-up is not runtime: other sizes, and other evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startup {
    /// CPU while starting: of the limit, and of the request where the node has it free; `None` = as at runtime.
    pub cpu: Option<Boost<MilliCpu>>,
    /// Memory while starting: of the request only, where the node has it free; `None` = as at runtime.
    pub memory: Option<Boost<Bytes>>,
    /// When start-up ends.
    pub until: Until,
}

/// A size while starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boost<T> {
    /// So many times the size at runtime; at least 1.
    Times(Factor),
    /// This amount, when it is more than the size at runtime.
    Amount(T),
    /// What earlier starts of the workload needed.
    Learned,
}

/// When start-up ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// When the pod is Ready.
    #[default]
    Ready,
    /// So long after the container started.
    For(Duration),
    /// When usage has settled on a plateau, as learned from earlier starts.
    Plateau,
}
