//! Limits: kept, by ratio, or with headroom above use.

use super::steps::{Step, StepKind};
use super::{PROBE, Series, round_up, times};
use crate::policy::{Factor, LimitRule, Percentile};
use crate::resources::Resource;
use crate::sample::MEMORY_UNIT_BYTES;

/// A memory limit holds the highest use it has to hold, and this much more, in thousandths: page cache, and readings
/// that are a second old.
const ROOM: u64 = 1100;

impl Series<'_> {
    /// The limit for a request; `None` = it stays.
    pub(super) fn limit(&self, request: u64, steps: &mut Vec<Step>) -> Option<u64> {
        let (limit, kind, detail) = match self.limit_rule? {
            LimitRule::Keep => return None,
            LimitRule::Ratio => (self.limit_by_ratio(request)?, StepKind::LimitRatio, String::new()),
            LimitRule::Headroom { percentile, factor } => {
                // what is not limited stays so: a limit that the owner did not declare could not be taken back
                self.current.1?;
                let (limit, detail) = self.limit_with_headroom(percentile, factor)?;
                (limit, StepKind::LimitHeadroom, detail)
            }
        };
        let is_one = kind == StepKind::LimitRatio && self.declared.0 == self.declared.1;
        let mut limit = if is_one { limit } else { round_up(limit.max(request), self.limit_grain) };
        steps.push(Step::new(kind, limit, detail));
        let (floor, why) = self.limit_floors();
        let floor = round_up(floor, self.limit_grain);
        if floor > limit && !is_one {
            limit = floor;
            steps.push(Step::new(StepKind::LimitFloor, limit, why));
        }
        Some(limit)
    }

    /// The limit that keeps the declared ratio; `None` where request or limit are not declared.
    fn limit_by_ratio(&self, request: u64) -> Option<u64> {
        let (declared_request, declared_limit) = (self.declared.0.filter(|r| *r > 0)?, self.declared.1?);
        if declared_request == declared_limit {
            return Some(request);
        }
        let limit = (u128::from(request) * u128::from(declared_limit)).div_ceil(u128::from(declared_request));
        Some(u64::try_from(limit).unwrap_or(u64::MAX))
    }

    /// A percentile of use times a factor: of CPU at the length that a limit throttles on, never from means.
    fn limit_with_headroom(&self, percentile: Percentile, factor: Factor) -> Option<(u64, String)> {
        let evidence = self.asked.evidence;
        let (values, slots) = match self.resource {
            Resource::Cpu => {
                let (length, ticks) = evidence.cpu_ticks()?;
                (ticks, format!("{length} ms slots"))
            }
            Resource::Memory => (&evidence.memory, "values".to_owned()),
        };
        let used = (self.scale)(values.quantile(percentile.permyriad())?);
        let limit = factor.times(used);
        let detail = format!("{percentile} of {} {slots} times {factor}", values.count());
        // what was cut off says too little of what is needed
        match self.current.1.filter(|_| self.is_throttled()) {
            Some(current) if times(current, PROBE) > limit => {
                Some((times(current, PROBE), format!("{detail}; probe while throttled")))
            }
            _ => Some((limit, detail)),
        }
    }

    /// What a lower memory limit has to hold, and why. It never raises: page cache fills whatever limit there is. CPU is
    /// only throttled.
    pub(super) fn limit_floors(&self) -> (u64, String) {
        let Some(current) = self.current.1.filter(|_| self.resource == Resource::Memory) else {
            return (0, String::new());
        };
        let (evidence, container) = (self.asked.evidence, self.asked.container);
        let bytes = |units: u64| units.saturating_mul(MEMORY_UNIT_BYTES);
        let tmpfs = match container.tmpfs.0 {
            0 => 0,
            size => container.cgroup.shmem.0.saturating_add(size),
        };
        [
            (times(bytes(evidence.recent.memory_peak), ROOM), "recent use and 10%"),
            (times(bytes(evidence.startup.memory), ROOM), "the highest start and 10%"),
            (tmpfs, "files in memory and the size of their volumes"),
        ]
        .into_iter()
        .max_by_key(|(floor, _)| *floor)
        .map_or((0, String::new()), |(floor, why)| (floor.min(current), why.to_owned()))
    }
}
