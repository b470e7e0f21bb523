//! Limits: kept, by ratio, or with headroom above use.

use super::steps::{Step, StepKind};
use super::{Series, round_up, share, times};
use crate::policy::{Factor, LimitRule, Percentile};
use crate::resources::Resource;
use crate::sample::MEMORY_UNIT_BYTES;
use crate::store::ThrottleEvidence;

/// A limit holds the highest use it has to hold, and this much more, in thousandths: page cache, and readings that are a
/// second old; bursts that a slot does not show in full.
const ROOM: u64 = 1100;

/// A limit throttles what is above it: of a Guaranteed container it holds this much of its slots, per ten thousand.
const HIGH_TICKS: u16 = 9990;

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
        let mut limit = round_up(limit.max(request), self.limit_grain);
        steps.push(Step::new(kind, limit, detail));
        let (floor, why) = self.limit_floors();
        // by ratio the request has probed, and a bound of it bounds both
        let probe = if kind == StepKind::LimitHeadroom { self.limit_probe(limit) } else { None };
        let (probe, throttled) = probe.unwrap_or_default();
        for (floor, kind, why) in [(floor, StepKind::LimitFloor, why), (probe, StepKind::Probe, throttled)] {
            let floor = round_up(floor, self.limit_grain);
            if floor > limit {
                limit = floor;
                steps.push(Step::new(kind, limit, why));
            }
        }
        Some(limit)
    }

    /// CPU limits of this container that throttled.
    pub(super) fn throttles(&self) -> impl Iterator<Item = &ThrottleEvidence> {
        let cpu = self.resource == Resource::Cpu;
        self.asked.evidence.throttles.iter().filter(move |_| cpu)
    }

    /// What throttling asks of a limit, over what use asks for, and why. It falls no further than to what bursts still
    /// need: they would be throttled again, and again.
    pub(super) fn limit_probe(&self, limit: u64) -> Option<(u64, String)> {
        let window = self.asked.evidence.window;
        let bursts = self.asked.evidence.cpu_ticks().map_or(0, |(_, ticks)| (self.scale)(ticks.max()));
        let base = limit.max(times(bursts, ROOM));
        let floor = |evidence: &ThrottleEvidence| evidence.floor(base, window);
        let highest = self.throttles().max_by_key(|evidence| floor(evidence))?;
        Some((floor(highest), format!("throttled at {}", highest.limit)))
    }

    /// The limit that is kept. What it has above the declared one we added, while starting or by another rule than the
    /// policy has now, and is not kept.
    pub(super) fn kept_limit(&self) -> Option<u64> {
        let current = self.current.1?;
        let added = self.asked.resized;
        Some(self.declared.1.filter(|_| added).map_or(current, |declared| declared.min(current)))
    }

    /// Says that the limit which is kept throttles: what has to be changed is not the request.
    pub(super) fn tell_throttling(&self, value: u64, steps: &mut Vec<Step>) {
        let Some(kept) = self.kept_limit() else { return };
        let window = self.asked.evidence.window;
        let holds = |evidence: &&ThrottleEvidence| evidence.limit.0 >= kept && evidence.seen_since < window;
        if self.throttles().any(|evidence| holds(&evidence)) {
            let detail = format!(
                "{} throttles, and no request helps: declare a higher limit, or let it move \
                 (updateStrategy.updateRequestsOnly: false, limits.cpu.type: Ratio or Headroom)",
                self.show(kept)
            );
            steps.push(Step::new(StepKind::Throttled, value, detail));
        }
    }

    /// Declared request and limit, where the limit keeps their ratio.
    pub(super) fn ratio(&self) -> Option<(u64, u64)> {
        self.current.1.filter(|_| self.limit_rule == Some(LimitRule::Ratio))?;
        Some((self.declared.0.filter(|request| *request > 0)?, self.declared.1.filter(|limit| *limit > 0)?))
    }

    /// The highest CPU use at the length that a limit throttles on, but for one slot in a thousand.
    pub(super) fn high_ticks(&self) -> Option<(u64, String)> {
        let (length, ticks) = self.asked.evidence.cpu_ticks().filter(|_| self.resource == Resource::Cpu)?;
        let used = (self.scale)(ticks.quantile(HIGH_TICKS)?);
        Some((used, format!("P99.9 of {} {length} ms slots", ticks.count())))
    }

    /// The limit that keeps the declared ratio; `None` where request or limit are not declared.
    fn limit_by_ratio(&self, request: u64) -> Option<u64> {
        let (declared_request, declared_limit) = (self.declared.0.filter(|r| *r > 0)?, self.declared.1?);
        Some(share(request, declared_limit, declared_request))
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
        Some((limit, detail))
    }

    /// What a lower memory limit has to hold, and why. It never raises: page cache fills whatever limit there is. CPU is
    /// only throttled.
    pub(super) fn limit_floors(&self) -> (u64, String) {
        let Some(current) = self.current.1.filter(|_| self.resource == Resource::Memory) else {
            return (0, String::new());
        };
        let (evidence, container) = (self.asked.evidence, self.asked.container);
        let bytes = |units: u64| units.saturating_mul(MEMORY_UNIT_BYTES);
        let tmpfs = container.cgroup.shmem.0.saturating_add(container.tmpfs.0);
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
