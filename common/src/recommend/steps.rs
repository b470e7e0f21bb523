//! The steps of a recommendation, as data and as text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, MilliCpu};
use crate::resources::Resource;

/// One step of a recommendation: the value after it, in millicores or bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What acted.
    pub kind: StepKind,
    /// What it made of the value.
    pub value: u64,
    /// More about it: the percentile and its count, the factor, the expert, the policy that a bound comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Of the adaptive strategy: the expert that was chosen, then the cheapest of each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertOpinion>,
}

/// What an expert of the adaptive strategy asks for, and what following it would have cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertOpinion {
    /// Its rule, such as `peak held 4h +5%`.
    pub expert: String,
    /// Millicores or bytes.
    pub value: u64,
    /// Unit-minutes of idle size, with missing size and resizes at their price.
    pub cost: u64,
}

impl Step {
    /// A step.
    pub fn new(kind: StepKind, value: u64, detail: impl Into<String>) -> Self {
        Self { kind, value, detail: detail.into(), experts: Vec::new() }
    }
}

/// What can act on a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepKind {
    /// The policy's percentile of the window.
    Percentile,
    /// Times the safety factor.
    SafetyFactor,
    /// The size that the adaptive strategy's expert asks for.
    Expert,
    /// What the adaptive strategy makes of it now: it goes up at once and comes down calmly.
    Paced,
    /// The value of the user's formula.
    Expression,
    /// Present use, which the thresholds are compared with.
    Use,
    /// Use reached the upper threshold.
    ThresholdUp,
    /// Use fell to the lower threshold.
    ThresholdDown,
    /// Between the thresholds: what there is.
    ThresholdKeep,
    /// What pods of other revisions or on other nodes needed.
    Others,
    /// What this pod needs more than its siblings.
    HotPod,
    /// A limit throttled: demand is not known, so the limit probes upward, and the request where it moves with it.
    Probe,
    /// The limit throttles and is kept: no request helps.
    Throttled,
    /// Raised before a burst that repeats at this hour of the week.
    Anticipation,
    /// The request while starting, where the node has room for it.
    Boost,
    /// The limit while starting.
    BoostLimit,
    /// What start-up, or another rule before, added to the limit is taken back.
    LimitDeclared,
    /// Not below the mean of the window.
    MeanFloor,
    /// Not below the highest working set of the window.
    PeakFloor,
    /// Not below what an OOM kill proved too small.
    OomFloor,
    /// Not lowered below the peak that this hour of the week had.
    HourOfWeekFloor,
    /// Not below what the platform can express.
    PlatformFloor,
    /// Not below `resourceBounds` min.
    BoundMin,
    /// Not above `resourceBounds` max.
    BoundMax,
    /// Not below the min bound of a policy that enforces it.
    EnforcedMin,
    /// Not above the max bound of a policy that enforces it.
    EnforcedMax,
    /// Rounded up to a grain.
    Rounding,
    /// Not above the limit, which is kept.
    LimitKept,
    /// The limit keeps its declared ratio to the request.
    LimitRatio,
    /// The limit follows use with headroom.
    LimitHeadroom,
    /// The limit is not below what it has to hold: the request, recent use, a start, files in memory.
    LimitFloor,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Percentile => "percentile",
            Self::SafetyFactor => "safety factor",
            Self::Expert => "expert",
            Self::Paced => "paced",
            Self::Expression => "expression",
            Self::Use => "use",
            Self::ThresholdUp => "above the upper threshold",
            Self::ThresholdDown => "below the lower threshold",
            Self::ThresholdKeep => "kept by the thresholds",
            Self::Others => "what other pods needed",
            Self::HotPod => "hot pod",
            Self::Probe => "probe above throttling",
            Self::Throttled => "throttled by the kept limit",
            Self::Anticipation => "ahead of a repeated burst",
            Self::Boost => "start-up boost",
            Self::BoostLimit => "limit while starting",
            Self::LimitDeclared => "declared limit again",
            Self::MeanFloor => "mean as floor",
            Self::PeakFloor => "highest peak as floor",
            Self::OomFloor => "OOM kill as floor",
            Self::HourOfWeekFloor => "hour of the week as floor",
            Self::PlatformFloor => "platform floor",
            Self::BoundMin => "min bound",
            Self::BoundMax => "max bound",
            Self::EnforcedMin => "enforced min bound",
            Self::EnforcedMax => "enforced max bound",
            Self::Rounding => "rounded up",
            Self::LimitKept => "limit kept",
            Self::LimitRatio => "limit by ratio",
            Self::LimitHeadroom => "limit with headroom",
            Self::LimitFloor => "limit floor",
        })
    }
}

/// A value in the canonical form of its resource.
pub fn amount(resource: Resource, value: u64) -> String {
    match resource {
        Resource::Cpu => MilliCpu(value).to_string(),
        Resource::Memory => Bytes(value).to_string(),
    }
}

/// As [`amount`], but bytes that no binary suffix divides are shown in mebibytes with one decimal, rounded up.
pub(super) fn readable(resource: Resource, value: u64) -> String {
    const TENTHS: u64 = Bytes::MEBIBYTE / 10;
    if resource == Resource::Cpu || value.is_multiple_of(1 << 10) || value < TENTHS {
        return amount(resource, value);
    }
    let tenths = value.saturating_mul(10).div_ceil(Bytes::MEBIBYTE);
    format!("{}.{}Mi", tenths / 10, tenths % 10)
}

/// The steps as one line, each with what there is to say about it.
pub(super) fn line(steps: &[Step], resource: Resource) -> String {
    let steps = steps.iter().map(|step| said(step.kind, step.value, &step.detail, resource));
    steps.collect::<Vec<_>>().join(" > ")
}

/// What acted, the value after it, and more about it.
pub(super) fn said(kind: StepKind, value: u64, detail: &str, resource: Resource) -> String {
    let value = readable(resource, value);
    if detail.is_empty() { format!("{kind} {value}") } else { format!("{kind} {value} ({detail})") }
}
