//! Sizes that a policy allows.

use serde::{Deserialize, Serialize};

use super::values::{Range, RelativePercent};
use crate::quantity::{Bytes, MilliCpu};

/// Bounds of the sizes that a policy allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceBounds {
    /// Absolute bounds of the CPU request.
    pub cpu: Range<MilliCpu>,
    /// Absolute bounds of the memory request.
    pub memory: Range<Bytes>,
    /// Bounds of the CPU request around what the owner declares.
    pub cpu_relative: Range<RelativePercent>,
    /// Bounds of the memory request around what the owner declares.
    pub memory_relative: Range<RelativePercent>,
}

/// Bounds of a cluster policy marked `enforced`: they are intersected with those of every other policy, so that tenants
/// can only narrow them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The policy that enforces them, as `namespace/name`.
    pub policy: String,
    /// Its bounds.
    pub bounds: ResourceBounds,
}
