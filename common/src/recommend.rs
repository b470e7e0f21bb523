//! Evidence and policy become a size, with the chain of steps that led to it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::{Hold, Reason};
use crate::histogram::MergedHistogram;
use crate::policy::{LimitRule, Policy, Range, RelativePercent};
use crate::quantity::{Bytes, MilliCpu};
use crate::resources::{Amounts, Resource, Resources};
use crate::sample::{CPU_UNITS_PER_MILLICORE, MEMORY_UNIT_BYTES};
use crate::store::Evidence;

/// Smallest CPU amount that is recommended: the kubelet writes at least 1000 us of quota (10m), and reports values
/// below as allocated rather than as actual. Containers that declare less keep what they declare as floor.
pub const MIN_CPU: MilliCpu = MilliCpu(10);

/// Smallest memory amount that is recommended: below about 6 MiB a container cannot start (kubernetes issue 124786).
/// Containers that declare less keep what they declare as floor.
pub const MIN_MEMORY: Bytes = Bytes::from_mebibytes(16);

/// CPU limits are multiples of this: the systemd cgroup driver rounds quotas up to 10 ms per second, so that other
/// values differ between pod and container (kubernetes issue 129357).
const CPU_LIMIT_GRAIN: u64 = 10;

/// The size of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecommendation {
    /// Name of the container.
    pub container: String,
    /// CPU.
    pub cpu: Sizing,
    /// Memory.
    pub memory: Sizing,
    /// The evidence in numbers.
    pub evidence: EvidenceSummary,
}

impl ContainerRecommendation {
    /// The size as requests and limits.
    pub fn target(&self) -> Resources {
        let cpu = |v: Option<u64>| v.map(MilliCpu);
        let memory = |v: Option<u64>| v.map(Bytes);
        Resources {
            requests: Amounts { cpu: cpu(self.cpu.request), memory: memory(self.memory.request) },
            limits: Amounts { cpu: cpu(self.cpu.limit), memory: memory(self.memory.limit) },
        }
    }
}

/// The size of one resource of one container, in millicores or bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizing {
    /// Recommended request; `None` = no recommendation, see `hold`.
    pub request: Option<u64>,
    /// Recommended limit; `None` = the limit stays as it is.
    pub limit: Option<u64>,
    /// How it came about.
    pub steps: Vec<Step>,
    /// Why there is no recommendation.
    pub hold: Option<Hold>,
}

/// One step of a recommendation: the value after it, in millicores or bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What acted.
    pub kind: StepKind,
    /// What it made of the value.
    pub value: u64,
}

/// What can act on a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepKind {
    /// The policy's percentile of the window.
    Percentile,
    /// Times the safety factor.
    SafetyFactor,
    /// Not below the mean of the window.
    MeanFloor,
    /// Not below the highest working set of the window.
    PeakFloor,
    /// Not below what the platform can express.
    PlatformFloor,
    /// Not below `resourceBounds` min.
    BoundMin,
    /// Not above `resourceBounds` max.
    BoundMax,
    /// Rounded up to a grain.
    Rounding,
    /// Not above the limit, which is kept.
    LimitKept,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Percentile => "percentile",
            Self::SafetyFactor => "safety factor",
            Self::MeanFloor => "mean as floor",
            Self::PeakFloor => "highest peak as floor",
            Self::PlatformFloor => "platform floor",
            Self::BoundMin => "min bound",
            Self::BoundMax => "max bound",
            Self::Rounding => "rounded up",
            Self::LimitKept => "limit kept",
        })
    }
}

impl Sizing {
    /// The steps as one line, such as `percentile 100m > safety factor 120m > max bound 110m`.
    pub fn explain(&self, resource: Resource) -> String {
        let steps = self.steps.iter().map(|step| format!("{} {}", step.kind, readable(resource, step.value)));
        steps.collect::<Vec<_>>().join(" > ")
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
fn readable(resource: Resource, value: u64) -> String {
    const TENTHS: u64 = Bytes::MEBIBYTE / 10;
    if resource == Resource::Cpu || value.is_multiple_of(1 << 10) || value < TENTHS {
        return amount(resource, value);
    }
    let tenths = value.saturating_mul(10).div_ceil(Bytes::MEBIBYTE);
    format!("{}.{}Mi", tenths / 10, tenths % 10)
}

/// The evidence behind a recommendation, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceSummary {
    /// How far back was looked.
    pub window: Duration,
    /// Part of it that has data.
    pub covered: Duration,
    /// CPU values in the window.
    pub cpu_samples: u64,
    /// Memory values in the window.
    pub memory_samples: u64,
    /// Highest `memory.current` of the last minutes.
    pub memory_recent_peak: Bytes,
    /// There is data of the last minutes.
    pub fresh: bool,
    /// Memory rises.
    pub memory_rising: bool,
    /// Share of CFS periods throttled, in thousandths.
    pub throttled_share: u64,
    /// OOM kills in the window.
    pub oom_kills: u64,
}

/// Sizes one container. Pure: the same input gives the same output, and before bounds the value is exactly
/// `percentile * safetyFactor`.
///
/// `declared` is what the owner's template says (anchor of relative bounds and of limit ratios, so that repeated
/// resizes never ratchet), `desired` is what the pod says now.
pub fn recommend(
    container: &str,
    evidence: &Evidence,
    policy: &Policy,
    declared: &Resources,
    desired: &Resources,
) -> ContainerRecommendation {
    let limits_follow = !policy.update.update_requests_only;
    let cpu = Question {
        resource: Resource::Cpu,
        values: &evidence.cpu,
        scale: |units| units.div_ceil(CPU_UNITS_PER_MILLICORE),
        peak_floor: false,
        platform_floor: MIN_CPU.0,
        request_grain: 1,
        limit_grain: CPU_LIMIT_GRAIN,
        bounds: raw(policy.bounds.cpu, |c| c.0),
        relative: policy.bounds.cpu_relative,
        declared: (declared.requests.cpu.map(|c| c.0), declared.limits.cpu.map(|c| c.0)),
        current_limit: desired.limits.cpu.map(|c| c.0),
        ratio: limits_follow && policy.update.cpu_limit == LimitRule::Ratio,
    };
    let memory = Question {
        resource: Resource::Memory,
        values: &evidence.memory,
        scale: |units| units.saturating_mul(MEMORY_UNIT_BYTES),
        peak_floor: true,
        platform_floor: MIN_MEMORY.0,
        request_grain: Bytes::MEBIBYTE,
        limit_grain: Bytes::MEBIBYTE,
        bounds: raw(policy.bounds.memory, |m| m.0),
        relative: policy.bounds.memory_relative,
        declared: (declared.requests.memory.map(|m| m.0), declared.limits.memory.map(|m| m.0)),
        current_limit: desired.limits.memory.map(|m| m.0),
        ratio: limits_follow && policy.update.memory_limit == LimitRule::Ratio,
    };
    ContainerRecommendation {
        container: container.to_owned(),
        cpu: cpu.answer(container, policy),
        memory: memory.answer(container, policy),
        evidence: EvidenceSummary {
            window: evidence.window,
            covered: evidence.covered,
            cpu_samples: evidence.cpu.count(),
            memory_samples: evidence.memory.count(),
            memory_recent_peak: Bytes(evidence.memory_recent_peak.saturating_mul(MEMORY_UNIT_BYTES)),
            fresh: evidence.fresh,
            memory_rising: evidence.memory_rising,
            throttled_share: evidence.throttled_share(),
            oom_kills: evidence.oom_kills,
        },
    }
}

/// What is asked about one resource, in its own unit.
struct Question<'a> {
    resource: Resource,
    values: &'a MergedHistogram,
    scale: fn(u64) -> u64,
    peak_floor: bool,
    platform_floor: u64,
    request_grain: u64,
    limit_grain: u64,
    bounds: Range<u64>,
    relative: Range<RelativePercent>,
    /// Request and limit.
    declared: (Option<u64>, Option<u64>),
    current_limit: Option<u64>,
    ratio: bool,
}

impl Question<'_> {
    fn answer(&self, container: &str, policy: &Policy) -> Sizing {
        let mut sizing = Sizing { request: None, limit: None, steps: Vec::new(), hold: None };
        match self.size(policy, &mut sizing.steps) {
            Ok((request, limit)) => (sizing.request, sizing.limit) = (Some(request), limit),
            Err((reason, message)) => {
                sizing.hold = Some(Hold::of_resource(reason, container, self.resource, message));
            }
        }
        sizing
    }

    fn size(&self, policy: &Policy, steps: &mut Vec<Step>) -> Result<(u64, Option<u64>), (Reason, String)> {
        let show = |value| amount(self.resource, value);
        let (Some(quantile), Some(mean)) =
            (self.values.quantile(policy.percentile.permyriad()), self.values.mean())
        else {
            return Err((Reason::NoData, "no usage was seen within the window".to_owned()));
        };
        let mut value = (self.scale)(quantile);
        steps.push(Step { kind: StepKind::Percentile, value });
        value = policy.safety_factor.times(value);
        steps.push(Step { kind: StepKind::SafetyFactor, value });

        if self.declared.0.is_none() && (self.relative.min.is_some() || self.relative.max.is_some()) {
            let message = "relative bounds need what the owner declares, which is not known";
            return Err((Reason::NotDeclared, message.to_owned()));
        }

        // All floors and ceilings are intersected before any of them acts.
        let peak = (self.scale)(self.values.max());
        let (bound_min, bound_max) = self.bounds_around_declared();
        let platform = self.platform_floor.min(self.declared.0.unwrap_or(self.platform_floor));
        let floors = [
            Some((StepKind::MeanFloor, (self.scale)(mean))),
            self.peak_floor.then_some((StepKind::PeakFloor, peak)),
            Some((StepKind::PlatformFloor, platform)),
            bound_min.map(|min| (StepKind::BoundMin, min)),
        ];
        let highest_floor = floors.into_iter().flatten().max_by_key(|(_, floor)| *floor);
        if let (Some((kind, floor)), Some(max)) = (highest_floor, bound_max)
            && floor > max
        {
            return Err((
                Reason::BoundsDisjoint,
                format!("{kind} {} is above max bound {}", show(floor), show(max)),
            ));
        }
        for (kind, floor) in floors.into_iter().flatten() {
            if value < floor {
                value = floor;
                steps.push(Step { kind, value });
            }
        }
        if let Some(max) = bound_max.filter(|max| value > *max) {
            value = max;
            steps.push(Step { kind: StepKind::BoundMax, value });
        }
        // declared equal means one number for both, so both have the limit's grain
        let equal = self.ratio && self.declared.0.is_some() && self.declared.0 == self.declared.1;
        let grain = if equal { self.limit_grain } else { self.request_grain };
        let rounded = round_up(value, grain);
        if rounded != value && bound_max.is_none_or(|max| rounded <= max) {
            value = rounded;
            steps.push(Step { kind: StepKind::Rounding, value });
        }

        if let Some(limit) = Some(value).filter(|_| self.ratio).and_then(|value| self.limit_by_ratio(value)) {
            return Ok((value, Some(limit)));
        }
        if let Some(limit) = self.current_limit.filter(|limit| value > *limit) {
            if let Some(min) = bound_min.filter(|min| *min > limit) {
                return Err((
                    Reason::BoundsDisjoint,
                    format!("min bound {} is above the limit {}, which is kept", show(min), show(limit)),
                ));
            }
            value = limit;
            steps.push(Step { kind: StepKind::LimitKept, value });
        }
        Ok((value, None))
    }

    /// Absolute and relative bounds in one. A relative bound needs something declared.
    fn bounds_around_declared(&self) -> (Option<u64>, Option<u64>) {
        let relative = |bound: Option<RelativePercent>| Some(bound?.of(self.declared.0?));
        let (min, max) = (relative(self.relative.min), relative(self.relative.max));
        (self.bounds.min.max(min), [self.bounds.max, max].into_iter().flatten().min())
    }

    /// The limit that keeps the declared ratio; `None` where request or limit are not declared.
    fn limit_by_ratio(&self, request: u64) -> Option<u64> {
        let (declared_request, declared_limit) = (self.declared.0.filter(|r| *r > 0)?, self.declared.1?);
        let limit = (u128::from(request) * u128::from(declared_limit)).div_ceil(u128::from(declared_request));
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        if declared_request == declared_limit {
            Some(request)
        } else {
            Some(round_up(limit, self.limit_grain))
        }
    }
}

fn raw<T>(range: Range<T>, value: impl Fn(T) -> u64) -> Range<u64> {
    Range { min: range.min.map(&value), max: range.max.map(&value) }
}

fn round_up(value: u64, grain: u64) -> u64 {
    value.checked_next_multiple_of(grain).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::UsageHistogram;
    use crate::policy::{Factor, ResourceBounds};
    use crate::sample::CpuCounters;

    fn evidence(cpu: &[u64], memory_mebibytes: &[u64]) -> Evidence {
        let mut merged = (MergedHistogram::default(), MergedHistogram::default());
        merged.0.add(&UsageHistogram::from_values(1000, cpu.iter().map(|m| m * 10)));
        merged.1.add(&UsageHistogram::from_values(1000, memory_mebibytes.iter().map(|m| m * 16)));
        Evidence {
            window: Duration::from_secs(60),
            cpu: merged.0,
            memory: merged.1,
            memory_recent_peak: 0,
            fresh: true,
            memory_rising: false,
            counters: CpuCounters::default(),
            oom_kills: 0,
            covered: Duration::from_secs(60),
        }
    }

    fn resources(request: (u64, u64), limit: (u64, u64)) -> Resources {
        let of = |(cpu, memory): (u64, u64)| Amounts {
            cpu: (cpu > 0).then_some(MilliCpu(cpu)),
            memory: (memory > 0).then_some(Bytes::from_mebibytes(memory)),
        };
        Resources { requests: of(request), limits: of(limit) }
    }

    fn run(policy: &Policy, declared: Resources, cpu: &[u64], memory: &[u64]) -> ContainerRecommendation {
        recommend("c", &evidence(cpu, memory), policy, &declared, &declared)
    }

    #[test]
    fn before_bounds_the_value_is_the_formula() {
        let r = run(&Policy::default(), resources((1000, 512), (0, 0)), &[100; 10], &[50; 10]);
        assert_eq!((r.cpu.request, r.memory.request), (Some(120), Some(60 << 20)));
        assert_eq!(r.cpu.explain(Resource::Cpu), "percentile 100m > safety factor 120m");
        assert_eq!((r.cpu.limit, r.memory.limit), (None, None));
    }

    #[test]
    fn explanations_show_bytes_that_people_can_read() {
        let steps = vec![
            Step { kind: StepKind::Percentile, value: 16832 << 10 },
            Step { kind: StepKind::SafetyFactor, value: 20_683_162 },
            Step { kind: StepKind::BoundMin, value: 24 << 20 },
        ];
        let sizing = Sizing { request: Some(24 << 20), limit: None, steps, hold: None };
        let text = sizing.explain(Resource::Memory);
        assert_eq!(text, "percentile 16832Ki > safety factor 19.8Mi > min bound 24Mi");
    }

    #[test]
    fn memory_never_falls_below_the_peak() {
        let mut values = vec![20; 99];
        values.push(300);
        let r = run(&Policy::default(), resources((1000, 512), (0, 0)), &[100], &values);
        assert_eq!(r.memory.request, Some(300 << 20));
        assert!(r.memory.steps.iter().any(|s| s.kind == StepKind::PeakFloor));
    }

    #[test]
    fn disjoint_bounds_hold_and_name_both_sides() {
        let bounds = ResourceBounds {
            memory: Range { min: None, max: Some(Bytes::from_mebibytes(64)) },
            ..ResourceBounds::default()
        };
        let r = run(&Policy { bounds, ..Policy::default() }, resources((100, 512), (0, 0)), &[10], &[100]);
        let hold = r.memory.hold.unwrap();
        assert_eq!(hold.reason, Reason::BoundsDisjoint);
        assert_eq!(hold.message, "highest peak as floor 100Mi is above max bound 64Mi");
        assert!(r.cpu.request.is_some());
    }

    #[test]
    fn relative_bounds_anchor_at_what_is_declared() {
        let bounds = ResourceBounds {
            cpu_relative: Range { min: "-20%".parse().ok(), max: "+20%".parse().ok() },
            ..ResourceBounds::default()
        };
        let policy = Policy { bounds, ..Policy::default() };
        let declared = resources((1000, 512), (0, 0));
        let shrunk = resources((800, 512), (0, 0));
        for (usage, expected) in [(10, 800), (900, 1080), (1100, 1200)] {
            let r = recommend("c", &evidence(&[usage], &[50]), &policy, &declared, &shrunk);
            assert_eq!(r.cpu.request, Some(expected), "{usage}");
        }
        let beyond = recommend("c", &evidence(&[5000], &[50]), &policy, &declared, &shrunk);
        assert_eq!(beyond.cpu.hold.map(|h| h.reason), Some(Reason::BoundsDisjoint));
    }

    #[test]
    fn relative_bounds_without_a_declared_request_hold() {
        let bounds = ResourceBounds {
            cpu_relative: Range { min: "-20%".parse().ok(), max: None },
            ..ResourceBounds::default()
        };
        let policy = Policy { bounds, ..Policy::default() };
        let shrunk = resources((800, 512), (0, 0));
        let r = recommend("c", &evidence(&[10], &[50]), &policy, &Resources::default(), &shrunk);
        assert_eq!(r.cpu.hold.map(|h| h.reason), Some(Reason::NotDeclared));
        assert!(r.memory.request.is_some());
    }

    #[test]
    fn a_limit_that_the_template_does_not_declare_is_kept_and_bounds_the_request() {
        let mut policy = Policy::default();
        policy.update.update_requests_only = false;
        policy.update.cpu_limit = LimitRule::Ratio;
        let (declared, desired) = (resources((100, 64), (0, 0)), resources((100, 64), (200, 0)));
        let r = recommend("c", &evidence(&[900], &[50]), &policy, &declared, &desired);
        assert_eq!((r.cpu.request, r.cpu.limit), (Some(200), None));
    }

    #[test]
    fn limits_keep_their_ratio_only_when_asked() {
        let declared = resources((100, 64), (200, 128));
        let keep = run(&Policy::default(), declared, &[190], &[60]);
        assert_eq!((keep.cpu.request, keep.cpu.limit), (Some(200), None));
        let mut policy = Policy::default();
        policy.update.update_requests_only = false;
        policy.update.cpu_limit = LimitRule::Ratio;
        let ratio = run(&policy, declared, &[190], &[60]);
        assert_eq!((ratio.cpu.request, ratio.cpu.limit), (Some(228), Some(460)));
        assert_eq!((ratio.memory.request, ratio.memory.limit), (Some(72 << 20), Some(144 << 20)));
        let equal = run(&policy, resources((100, 64), (100, 64)), &[95], &[60]);
        assert_eq!((equal.cpu.request, equal.cpu.limit), (Some(120), Some(120)));
    }

    #[test]
    fn without_data_there_is_no_recommendation() {
        let r = run(&Policy::default(), resources((100, 64), (0, 0)), &[], &[50]);
        assert_eq!(r.cpu.hold.map(|h| h.reason), Some(Reason::NoData));
        assert!(r.memory.request.is_some());
    }

    proptest! {
        #[test]
        fn recommendation_stays_within_bounds(
            values in prop::collection::vec(1..20_000_u64, 1..50),
            min in prop::option::of(1..4000_u64),
            span in prop::option::of(0..4000_u64),
            factor in 100..3000_u32,
            declared in 1..8000_u64,
        ) {
            let max = span.map(|s| min.unwrap_or(1) + s);
            let bounds = ResourceBounds { cpu: Range { min: min.map(MilliCpu), max: max.map(MilliCpu) }, ..ResourceBounds::default() };
            let policy = Policy { bounds, safety_factor: Factor::from_thousandths(factor).unwrap(), ..Policy::default() };
            let r = run(&policy, resources((declared, 64), (0, 0)), &values, &[50]);
            if let Some(request) = r.cpu.request {
                prop_assert!(min.is_none_or(|m| request >= m) && max.is_none_or(|m| request <= m));
                let mean = values.iter().sum::<u64>() / values.len() as u64;
                prop_assert!(request >= mean);
            } else {
                prop_assert_eq!(r.cpu.hold.map(|h| h.reason), Some(Reason::BoundsDisjoint));
            }
        }

        #[test]
        fn repeated_resizes_do_not_ratchet(usage in 1..5000_u64, start in 10..5000_u64) {
            let bounds = ResourceBounds {
                cpu_relative: Range { min: "-20%".parse().ok(), max: "+20%".parse().ok() },
                ..ResourceBounds::default()
            };
            let policy = Policy { bounds, ..Policy::default() };
            let declared = resources((start, 64), (0, 0));
            let mut desired = declared;
            let first = recommend("c", &evidence(&[usage], &[50]), &policy, &declared, &desired).cpu.request;
            for _ in 0..3 {
                let next = recommend("c", &evidence(&[usage], &[50]), &policy, &declared, &desired).cpu.request;
                prop_assert_eq!(next, first);
                desired.requests.cpu = next.map(MilliCpu).or(desired.requests.cpu);
            }
        }
    }
}
