//! The use of the alike pods of one container of a workload.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Interval;
use super::coverage::Coverage;
use super::evidence::{Evidence, Parts};
use super::oom::OomKills;
use super::recent::{PodUse, RecentPods};
use super::throttle::{ThrottleEvidence, ThrottledLimits};
use crate::adaptive::{Adaptive, demand};
use crate::frame::ContainerRecord;
use crate::histogram::UsageHistogram;
use crate::peaks::MinutePeaks;
use crate::quantity::MilliCpu;
use crate::resources::Resource;
use crate::sample::{CpuCounters, memory_units};
use crate::startup::{Phase, StartProfile, StartSample};
use crate::time::Timestamp;

/// Width of the finest slot, and of one bit of coverage.
pub const FINE_SLOT: Duration = Duration::from_secs(15);

/// (age up to which, width of slots of that age). Beyond the last: six hours.
const TIERS: [(Duration, Duration); 3] = [
    (Duration::from_secs(300), FINE_SLOT),
    (Duration::from_secs(3600), Duration::from_secs(300)),
    (Duration::from_secs(24 * 3600), Duration::from_secs(3600)),
];
const COARSEST: Duration = Duration::from_secs(6 * 3600);

/// How far back memory is compared to tell whether it rises, and what counts as present use.
pub(super) const RECENT: Duration = Duration::from_secs(300);
/// The newest part of [`RECENT`], which is compared with the rest.
const NEWEST: Duration = Duration::from_secs(60);

/// What is remembered of a container that nobody runs any more (a suite of the weekend, a job of the week, an earlier
/// revision): as long as its hours reach back.
pub(super) const REMEMBERED: Duration = Duration::from_secs(28 * 24 * 3600);

/// Frames this far ahead of the coordinator's clock are dated back to it: their clock offset was measured wrong.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// How late a frame may come: agents hold half an hour of frames and replay them. What is older is final, so that what
/// Adaptive learned from it does not depend on the order of frames.
const FINAL_AFTER: Duration = Duration::from_secs(2100);

/// Seconds that were run are compared with those that were seen only once frames had time to arrive.
const FRAME_LAG: Duration = Duration::from_secs(60);

/// Use of one container of a workload, all alike pods together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    #[serde(with = "super::pairs")]
    slots: BTreeMap<(Timestamp, Duration), Slot>,
    covered: Coverage,
    /// Per minute the highest CPU of a second of any pod, units of 0.1 millicore.
    pub(super) cpu_peaks: MinutePeaks,
    /// Per minute the highest working set of any pod, units of 64 KiB.
    pub(super) memory_peaks: MinutePeaks,
    /// What Adaptive learned of the minutes that are final.
    cpu_adaptive: Adaptive,
    memory_adaptive: Adaptive,
    pub(super) ooms: OomKills,
    throttled: ThrottledLimits,
    pods: RecentPods,
    pub(super) starts: StartProfile,
}

/// Use in one slot of time.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Slot {
    /// By slot length: unlike lengths never merge.
    cpu_tick: BTreeMap<u32, UsageHistogram>,
    cpu_second: BTreeMap<u32, UsageHistogram>,
    working_set: BTreeMap<u32, UsageHistogram>,
    memory_total: BTreeMap<u32, UsageHistogram>,
    cpu: CpuCounters,
    oom_kills: u64,
    /// Pod-time that agents saw.
    observed: Duration,
    /// Pod-time that there was.
    ran: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            covered: Coverage::default(),
            cpu_peaks: MinutePeaks::default(),
            memory_peaks: MinutePeaks::default(),
            cpu_adaptive: Adaptive::new(Resource::Cpu),
            memory_adaptive: Adaptive::new(Resource::Memory),
            ooms: OomKills::default(),
            throttled: ThrottledLimits::default(),
            pods: RecentPods::default(),
            starts: StartProfile::default(),
        }
    }
}

impl History {
    /// Adds one record. Only `now` decides how coarse its slot is.
    pub fn add(&mut self, record: &ContainerRecord, interval: &Interval, now: Timestamp) {
        self.rewind(now);
        let ahead = interval.end.since(now);
        let Interval { start, end, phase, started, .. } = *interval;
        let (start, end) = if ahead > MAX_AHEAD { (start - ahead, end - ahead) } else { (start, end) };
        let middle = start + end.since(start) / 2;
        let slot = self.slots.entry(slot_of(middle, now)).or_default();
        // what a limit must hold, whatever the phase
        merge_series(&mut slot.memory_total, &record.memory_total);
        slot.oom_kills = slot.oom_kills.saturating_add(record.oom_kills);
        slot.observed += end.since(start);
        if let Some(started) = started {
            self.starts.add(&StartSample {
                container: record.key.id,
                started,
                end,
                phase,
                cpu: &record.cpu_second,
                memory: record.memory_working_set.max(),
            });
        }
        if phase == Phase::Runtime {
            self.add_runtime(record, (start, middle, end), now);
        }
        if record.oom_kills > 0 {
            self.add_oom(record, (middle, end), phase);
        }
    }

    fn add_runtime(
        &mut self,
        record: &ContainerRecord,
        (start, middle, end): (Timestamp, Timestamp, Timestamp),
        now: Timestamp,
    ) {
        let slot = self.slots.entry(slot_of(middle, now)).or_default();
        for (into, from) in [
            (&mut slot.cpu_tick, &record.cpu_tick),
            (&mut slot.cpu_second, &record.cpu_second),
            (&mut slot.working_set, &record.memory_working_set),
        ] {
            merge_series(into, from);
        }
        slot.cpu = slot.cpu.plus(record.cpu);
        self.throttled.add(record, end);
        if !record.cpu_second.is_empty() {
            // of each pod by itself: that another one is throttled says nothing about this one
            let used = record.cpu_second.max();
            let needed = if record.cpu.is_throttled() { demand(Resource::Cpu, used) } else { used };
            self.cpu_peaks.record(middle, needed);
            self.pods.add(record, middle);
        }
        if !record.memory_working_set.is_empty() {
            self.memory_peaks.record(middle, record.memory_working_set.max());
        }
        if !record.cpu_second.is_empty() || !record.memory_working_set.is_empty() {
            let mut at = start.floor_to(FINE_SLOT);
            // a frame covers the fine slots whose middle it holds, and at least the one that it is filed under
            self.covered.add(middle);
            while at < end {
                if at + FINE_SLOT / 2 >= start && at + FINE_SLOT / 2 < end {
                    self.covered.add(at);
                }
                at = at + FINE_SLOT;
            }
        }
    }

    fn add_oom(&mut self, record: &ContainerRecord, (middle, end): (Timestamp, Timestamp), phase: Phase) {
        let limit = record.limits.memory.map_or(0, |limit| memory_units(limit.0));
        let size = limit.max(record.memory_total.max()).max(record.memory_working_set.max());
        self.ooms.add(size, end);
        if phase == Phase::Runtime {
            self.memory_peaks.record(middle, demand(Resource::Memory, size));
        }
    }

    /// A container ran from `start` to `end`, whether or not anybody saw it.
    pub(super) fn ran(&mut self, start: Timestamp, end: Timestamp) {
        self.slots.entry(slot_of(start, end)).or_default().ran += end.since(start);
    }

    /// Forgets what lies after `now`: the clock was wrong then, and what is true would be taken for old.
    fn rewind(&mut self, now: Timestamp) {
        let latest = now + MAX_AHEAD;
        let rings = [&self.cpu_peaks, &self.memory_peaks].map(MinutePeaks::minutes);
        let ahead = self.slots.keys().next_back().is_some_and(|(start, _)| *start > latest)
            || rings
                .into_iter()
                .any(|ring| ring.newest().is_some_and(|newest| newest > ring.slot_of(latest)));
        if !ahead {
            return;
        }
        for peaks in [&mut self.cpu_peaks, &mut self.memory_peaks] {
            peaks.rewind(latest);
        }
        for adaptive in [&mut self.cpu_adaptive, &mut self.memory_adaptive] {
            adaptive.rewind(latest);
        }
        self.slots.retain(|(start, _), _| *start <= latest);
        self.covered.rewind(latest);
        self.ooms.rewind(latest);
        self.throttled.rewind(latest);
        self.pods.rewind(latest);
        self.starts.rewind(latest);
    }

    /// See [`super::Store::compact`].
    pub fn compact(&mut self, now: Timestamp, retention: Duration) {
        self.rewind(now);
        let oldest = now - retention;
        let aged: Vec<_> = self
            .slots
            .keys()
            .copied()
            .filter(|&(start, width)| start + width < oldest || slot_of(start, now) != (start, width))
            .collect();
        for key in aged {
            let Some(slot) = self.slots.remove(&key) else { continue };
            let (start, width) = key;
            if start + width < oldest {
                continue;
            }
            // a coarser slot never becomes finer: a clock that was set back leaves it as it is
            let target = slot_of(start, now);
            let target = if target.1 < width { key } else { target };
            self.slots.entry(target).or_default().merge(&slot);
        }
        self.covered.age(oldest, now - REMEMBERED);
        self.throttled.compact(now - REMEMBERED, now - FINAL_AFTER);
        self.ooms.compact(now - REMEMBERED, now - FINAL_AFTER);
        self.pods.compact(now);
        self.cpu_adaptive.settle(&self.cpu_peaks, now - FINAL_AFTER);
        self.memory_adaptive.settle(&self.memory_peaks, now - FINAL_AFTER);
        self.cpu_peaks.age(now);
        self.memory_peaks.age(now);
    }

    /// There is use within the retention.
    pub(super) fn is_in_use(&self) -> bool {
        self.slots.values().any(|slot| !slot.observed.is_zero())
    }

    /// The newest moment that anything is remembered of.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        let hours = [&self.cpu_peaks, &self.memory_peaks].map(|peaks| {
            let ring = peaks.hours().ring();
            ring.newest().map(|hour| ring.start_of(hour))
        });
        let used = self.slots.iter().rev().find(|(_, slot)| !slot.observed.is_zero());
        let others = [self.ooms.newest(), self.starts.newest(), used.map(|((start, _), _)| *start)];
        hours.into_iter().chain(others).flatten().max()
    }

    /// Time with data since `at`; beyond the retention by whole days.
    pub(super) fn covered_since(&self, at: Timestamp) -> Duration {
        self.covered.since(at)
    }

    /// What Adaptive knows at `now`.
    pub(super) fn adaptive(&self, resource: Resource, now: Timestamp) -> Adaptive {
        match resource {
            Resource::Cpu => self.cpu_adaptive.at(&self.cpu_peaks, now),
            Resource::Memory => self.memory_adaptive.at(&self.memory_peaks, now),
        }
    }

    /// See [`super::Store::settle`].
    pub fn settle(&mut self, now: Timestamp) {
        self.cpu_adaptive.settle(&self.cpu_peaks, now);
        self.memory_adaptive.settle(&self.memory_peaks, now);
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// What one pod used in the last hour.
    pub(super) fn pod(&self, pod: &str) -> Option<PodUse> {
        self.pods.of(pod)
    }

    /// Uid and highest working set of every pod in the last hour.
    pub(super) fn memory_peaks_of_pods(&self) -> impl Iterator<Item = (&str, u64)> {
        self.pods.peaks().map(|(pod, _, memory)| (pod, memory))
    }

    /// It was seen in this hour of the day (UTC) within the hour ring.
    pub(super) fn was_seen_at(&self, hour: i64) -> bool {
        self.cpu_peaks.hours().ring().iter().any(|(slot, _)| slot.rem_euclid(24) == hour)
    }

    /// Adds what `parts` asks for to the evidence. `resized`: see [`super::Question`].
    pub(super) fn add_to(&self, evidence: &mut Evidence, parts: Parts, resized: Option<Timestamp>) {
        if !parts.cpu && !parts.memory {
            return;
        }
        let (now, window) = (evidence.now, evidence.window);
        let from = now - window;
        let mut peaks = Vec::new();
        for (&(start, width), slot) in self.slots.range((from - COARSEST, Duration::ZERO)..) {
            let end = start + width;
            // coarse slots end recently and began long ago: an old peak in them says nothing about now
            let is_recent = width == FINE_SLOT && end + RECENT > now && !slot.observed.is_zero();
            if is_recent {
                // a frame is filed by its middle: the slot after the resize may hold a part from before it
                let peak = slot.memory_total.values().map(UsageHistogram::max).max().unwrap_or(0);
                peaks.push((end, peak));
                evidence.recent.fresh = true;
                slot.add_recent(evidence, parts, resized.is_none_or(|resized| start >= resized + FINE_SLOT));
            }
            // a coarse slot reaches into a short window before what it holds does
            if end > from && now - youngest(width) > from {
                slot.add_to(evidence, parts);
                if parts.coverage && end + FRAME_LAG <= now {
                    evidence.observed += slot.observed;
                    evidence.ran += slot.ran;
                }
            }
        }
        if parts.memory {
            let peak = peaks.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
            evidence.recent.memory_peak = evidence.recent.memory_peak.max(peak);
            evidence.recent.memory_rising |= rising(&peaks, now);
        }
        if parts.cpu {
            evidence.throttles.extend(self.throttled.counted().map(|(limit, at)| ThrottleEvidence {
                limit: MilliCpu(limit),
                seen_since: self.covered.since(at),
            }));
        }
        if parts.coverage {
            evidence.cpu_adaptive = self.adaptive(Resource::Cpu, now);
            evidence.memory_adaptive = self.adaptive(Resource::Memory, now);
            evidence.covered = self.covered.since(from - FINE_SLOT + Duration::from_micros(1)).min(window);
            evidence.hottest = super::evidence::hottest(self.pods.peaks());
        }
    }
}

impl Slot {
    fn merge(&mut self, other: &Self) {
        for (into, from) in [
            (&mut self.cpu_tick, &other.cpu_tick),
            (&mut self.cpu_second, &other.cpu_second),
            (&mut self.working_set, &other.working_set),
            (&mut self.memory_total, &other.memory_total),
        ] {
            for series in from.values() {
                merge_series(into, series);
            }
        }
        self.cpu = self.cpu.plus(other.cpu);
        self.oom_kills = self.oom_kills.saturating_add(other.oom_kills);
        self.observed += other.observed;
        self.ran += other.ran;
    }

    fn add_to(&self, evidence: &mut Evidence, parts: Parts) {
        if parts.cpu {
            let by_length = |merged: &mut BTreeMap<u32, _>, series: &BTreeMap<u32, UsageHistogram>| {
                for (length, histogram) in series {
                    super::evidence::add(merged, *length, histogram);
                }
            };
            by_length(&mut evidence.cpu, &self.cpu_second);
            by_length(&mut evidence.cpu_tick, &self.cpu_tick);
            evidence.counters = evidence.counters.plus(self.cpu);
        }
        if parts.memory {
            self.working_set.iter().for_each(|(_, h)| evidence.memory.add(h));
            evidence.oom_kills = evidence.oom_kills.saturating_add(self.oom_kills);
        }
    }

    /// `since_resize`: the slot is from after the last resize.
    fn add_recent(&self, evidence: &mut Evidence, parts: Parts, since_resize: bool) {
        if parts.cpu {
            self.cpu_second.values().for_each(|h| evidence.recent.cpu.add(h));
            if since_resize {
                evidence.recent.counters = evidence.recent.counters.plus(self.cpu);
            }
        }
        if parts.memory {
            self.working_set.values().for_each(|h| evidence.recent.memory.add(h));
        }
    }
}

/// Whether memory rises, by the peaks of the fine slots in order of their ends. See [`super::Recent::memory_rising`].
fn rising(peaks: &[(Timestamp, u64)], now: Timestamp) -> bool {
    let older = peaks.partition_point(|(end, _)| *end + NEWEST <= now);
    let older = if older == 0 { peaks.len().saturating_sub(1) } else { older };
    let (before, newest) = peaks.split_at(older);
    let highest = |side: &[(Timestamp, u64)]| side.iter().map(|(_, peak)| *peak).max();
    match (highest(before), highest(newest)) {
        // 5 %: twice the granularity of a 64 KiB unit for a container of 3 MiB, and above the noise of page cache
        (Some(before), Some(newest)) => newest * 20 > before * 21,
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

fn merge_series(into: &mut BTreeMap<u32, UsageHistogram>, from: &UsageHistogram) {
    if !from.is_empty() {
        let length = from.slot_millis();
        let merged = into.entry(length).or_insert_with(|| UsageHistogram::new(length)).merge(from);
        debug_assert!(merged.is_ok(), "series are keyed by their slot length");
    }
}

/// What a slot of this width holds is at least so old: finer slots are filed in it by the age of their start.
fn youngest(width: Duration) -> Duration {
    let finer = TIERS.iter().rev().find(|(_, finer)| *finer < width);
    finer.map_or(Duration::ZERO, |(up_to, width)| up_to.saturating_sub(*width))
}

/// Start and width of the slot that holds `at`.
fn slot_of(at: Timestamp, now: Timestamp) -> (Timestamp, Duration) {
    let age = now.since(at);
    let width = TIERS.iter().find(|(up_to, _)| age <= *up_to).map_or(COARSEST, |(_, width)| *width);
    (at.floor_to(width), width)
}
