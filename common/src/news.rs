//! What is worth a decision before its time: use above the size, an OOM kill, throttling, memory near its limit.

use std::time::Duration;

use crate::frame::ContainerRecord;
use crate::histogram::MergedHistogram;
use crate::policy::{Percentile, Policy, Strategy};
use crate::recommend::{ContainerRecommendation, Sizing, StepKind};
use crate::resources::Amounts;
use crate::sample::{CPU_UNITS_PER_MILLICORE, MEMORY_UNIT_BYTES};

/// Least time between two decisions that news ask for: the frames of a workload's pods come one after the other, and a
/// resize takes about as long.
pub const PACE: Duration = Duration::from_secs(5);

/// Throttled frames that are news: a limit counts as too low after the second one.
const TOLD: u8 = 2;

/// Memory is near its limit from this share on, in thousandths.
const NEAR: u64 = 900;

/// From which use on a record is news, by the strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Which use of CPU counts; `None` = the highest second.
    pub percentile: Option<Percentile>,
    /// Share of a size from which on use is news, in thousandths.
    pub trigger: u64,
}

/// What is no news about a container, however often it is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Millicores; `None` = whatever it uses, its size stays: bounds or a limit end it, or it has none.
    cpu: Option<u64>,
    /// Bytes.
    memory: Option<u64>,
    /// Highest memory that was decided on, in bytes.
    peak: u64,
    /// Throttling was decided on.
    throttled: u8,
}

impl Sense {
    /// Of the policy's strategy.
    pub fn of(policy: &Policy) -> Self {
        let percentile = match &policy.strategy {
            Strategy::Adaptive(_) => None,
            Strategy::Percentile | Strategy::Threshold(_) | Strategy::Expression(_) => {
                Some(policy.percentile)
            }
        };
        let trigger = match &policy.strategy {
            Strategy::Threshold(params) => u64::from(params.scale_up_threshold.thousandths()),
            _ => 1000,
        };
        Self { percentile, trigger }
    }

    /// Whether a record is to be decided on at once; if so, the same is no news again. `requests`: what its pod requests
    /// for the container, looked up only for what may be news.
    pub fn is_news(
        self,
        levels: &mut Levels,
        record: &ContainerRecord,
        requests: impl FnOnce() -> Amounts,
    ) -> bool {
        let Self { percentile, trigger } = self;
        let beyond = |level: Option<u64>, used: u64, size: Option<u64>| {
            level.is_some_and(|level| used > level.max(size.unwrap_or(0)).saturating_mul(trigger) / 1000)
        };
        let highest = record.cpu_second.max().div_ceil(CPU_UNITS_PER_MILLICORE);
        // no percentile is above the highest value, and what is not beyond the level does not raise it
        let cpu = match percentile.filter(|_| beyond(levels.cpu, highest, None)) {
            None => highest,
            Some(percentile) => {
                let mut values = MergedHistogram::default();
                values.add(&record.cpu_second);
                let value = values.quantile(percentile.permyriad()).unwrap_or(0);
                value.div_ceil(CPU_UNITS_PER_MILLICORE)
            }
        };
        let memory = record.memory_working_set.max().saturating_mul(MEMORY_UNIT_BYTES);
        let requests = (beyond(levels.cpu, cpu, None) || beyond(levels.memory, memory, None)).then(requests);
        let more = requests.is_some_and(|Amounts { cpu: request, memory: requested }| {
            beyond(levels.cpu, cpu, request.map(|r| r.0))
                || beyond(levels.memory, memory, requested.map(|r| r.0))
        });
        let throttled = levels.cpu.is_some() && record.cpu.is_throttled();
        let near = |limit: u64| memory.saturating_mul(1000) >= limit.saturating_mul(NEAR);
        let near = memory > levels.peak && record.limits.memory.is_some_and(|limit| near(limit.0));
        let news = record.oom_kills > 0 || more || near || (throttled && levels.throttled < TOLD);
        if news {
            let told = Levels {
                cpu: levels.cpu.map(|_| cpu),
                memory: levels.memory.map(|_| memory),
                peak: memory,
                throttled: levels.throttled.saturating_add(throttled.into()),
            };
            levels.raise(&told);
        }
        news
    }
}

impl Levels {
    /// What was decided on with this recommendation.
    pub fn of(size: &ContainerRecommendation) -> Self {
        let ContainerRecommendation { cpu, memory, evidence, .. } = size;
        Self { cpu: level(cpu), memory: level(memory), peak: evidence.memory_peak.0, throttled: 0 }
    }

    /// The higher of both; what is without a level stays so.
    pub fn raise(&mut self, other: &Self) {
        let higher = |own: Option<u64>, other: Option<u64>| own.map(|own| own.max(other.unwrap_or(0)));
        *self = Self {
            cpu: higher(self.cpu, other.cpu),
            memory: higher(self.memory, other.memory),
            peak: self.peak.max(other.peak),
            throttled: self.throttled.max(other.throttled),
        };
    }
}

/// The size that use is compared with.
fn level(sizing: &Sizing) -> Option<u64> {
    let ends = [StepKind::BoundMax, StepKind::EnforcedMax, StepKind::LimitKept];
    sizing.request.filter(|_| !ends.iter().any(|kind| sizing.has(*kind)))
}
