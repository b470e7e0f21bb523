//! The use of the alike pods of one container of a workload.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Interval;
use super::coverage::Coverage;
use super::evidence::{Evidence, Parts};
use super::oom::OomKills;
use super::recent::{PodUse, RecentPods};
use super::throttle::{ThrottleEvidence, ThrottledLimits};
use crate::adaptive::{Adaptive, demand};
use crate::frame::ContainerRecord;
use crate::histogram::UsageHistogram;
use crate::packed::{Damaged, Pack, Packed, Reader, packed_fields};
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

/// Of [`History::encode`]: another one for other fields, experts or codes.
const FORMAT: u8 = 1;

/// How late a frame may come: agents hold half an hour of frames and replay them. What is older is final, so that what
/// Adaptive learned from it does not depend on the order of frames.
const FINAL_AFTER: Duration = Duration::from_secs(2100);

/// Seconds that were run are compared with those that were seen only once frames had time to arrive.
const FRAME_LAG: Duration = Duration::from_secs(60);

/// Use of one container of a workload, all alike pods together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    slots: BTreeMap<(Timestamp, Duration), Slot>,
    covered: Coverage,
    /// Per minute the highest CPU of a second of any pod, units of 0.1 millicore.
    pub(super) cpu_peaks: MinutePeaks,
    /// Per minute the highest working set of any pod, units of 64 KiB.
    pub(super) memory_peaks: MinutePeaks,
    /// What Adaptive learned of the minutes that are final.
    cpu_adaptive: Packed<Adaptive>,
    memory_adaptive: Packed<Adaptive>,
    pub(super) ooms: OomKills,
    throttled: ThrottledLimits,
    pods: RecentPods,
    pub(super) starts: StartProfile,
}

/// One slot of time.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Slot {
    /// Pod-time that agents saw.
    observed: Duration,
    /// Pod-time that there was.
    ran: Duration,
    used: Packed<Used>,
}

packed_fields!(Slot { observed, ran, used });

/// Use in one slot of time.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Used {
    /// By length of what one value describes: unlike lengths never merge.
    cpu_tick: Vec<UsageHistogram>,
    cpu_second: Vec<UsageHistogram>,
    working_set: Vec<UsageHistogram>,
    /// Highest `memory.current` of any pod, units of 64 KiB.
    memory_peak: u64,
    cpu: CpuCounters,
    oom_kills: u64,
}

packed_fields!(Used { cpu_tick, cpu_second, working_set, memory_peak, cpu, oom_kills });

impl Default for History {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            covered: Coverage::default(),
            cpu_peaks: MinutePeaks::default(),
            memory_peaks: MinutePeaks::default(),
            cpu_adaptive: Packed::new(&Adaptive::new(Resource::Cpu)),
            memory_adaptive: Packed::new(&Adaptive::new(Resource::Memory)),
            ooms: OomKills::default(),
            throttled: ThrottledLimits::default(),
            pods: RecentPods::default(),
            starts: StartProfile::default(),
        }
    }
}

packed_fields!(History {
    slots,
    covered,
    cpu_peaks,
    memory_peaks,
    cpu_adaptive,
    memory_adaptive,
    ooms,
    throttled,
    pods,
    starts
});

impl History {
    /// The state as bytes, for a checkpoint.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        self.pack(&mut bytes);
        let checksum = checksum(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// Whatever is not a state of this format, bit by bit.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Reader::new(bytes);
        let (body, stated) = bytes.split_last_chunk().ok_or_else(|| reader.damaged("it is too short"))?;
        if checksum(body) != u64::from_le_bytes(*stated) {
            return Err(reader.damaged("its checksum is wrong"));
        }
        reader = Reader::new(body);
        if u8::unpack(&mut reader)? != FORMAT {
            return Err(reader.damaged("its format is another"));
        }
        let history = Self::unpack(&mut reader)?;
        reader.finish()?;
        let known = |width: &Duration| *width == COARSEST || TIERS.iter().any(|(_, tier)| tier == width);
        if !history.slots.keys().all(|(_, width)| known(width)) {
            return Err(reader.damaged("a slot has a width of its own"));
        }
        Ok(history)
    }

    /// Adds one record. Only `now` decides how coarse its slot is.
    pub fn add(&mut self, record: &ContainerRecord, interval: &Interval, now: Timestamp) {
        self.rewind(now);
        let ahead = interval.end.since(now);
        let Interval { start, end, phase, started, .. } = *interval;
        let (start, end) = if ahead > MAX_AHEAD { (start - ahead, end - ahead) } else { (start, end) };
        let middle = start + end.since(start) / 2;
        let slot = self.slots.entry(slot_of(middle, now)).or_default();
        slot.observed = slot.observed.saturating_add(end.since(start));
        slot.used.change(|used| {
            // what a limit must hold, whatever the phase
            used.memory_peak = used.memory_peak.max(record.memory_total.max());
            used.oom_kills = used.oom_kills.saturating_add(record.oom_kills);
            if phase == Phase::Runtime {
                merge_series(&mut used.cpu_tick, &record.cpu_tick);
                merge_series(&mut used.cpu_second, &record.cpu_second);
                merge_series(&mut used.working_set, &record.memory_working_set);
                used.cpu = used.cpu.plus(record.cpu);
            }
        });
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
            self.add_runtime(record, (start, middle, end));
        }
        if record.oom_kills > 0 {
            self.add_oom(record, (middle, end), phase);
        }
    }

    fn add_runtime(
        &mut self,
        record: &ContainerRecord,
        (start, middle, end): (Timestamp, Timestamp, Timestamp),
    ) {
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
        let slot = self.slots.entry(slot_of(start, end)).or_default();
        slot.ran = slot.ran.saturating_add(end.since(start));
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
            adaptive.change(|state| state.rewind(latest));
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
        self.starts.settle(now - FINAL_AFTER);
        self.settle(now - FINAL_AFTER);
        self.cpu_peaks.age(now, now - FINAL_AFTER);
        self.memory_peaks.age(now, now - FINAL_AFTER);
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
            Resource::Cpu => self.cpu_adaptive.get().at(&self.cpu_peaks, now),
            Resource::Memory => self.memory_adaptive.get().at(&self.memory_peaks, now),
        }
    }

    /// See [`super::Store::settle`].
    pub fn settle(&mut self, now: Timestamp) {
        for (adaptive, peaks) in
            [(&mut self.cpu_adaptive, &self.cpu_peaks), (&mut self.memory_adaptive, &self.memory_peaks)]
        {
            if Adaptive::may_learn(adaptive, peaks, now) {
                adaptive.change(|state| state.settle(peaks, now));
            }
        }
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
            // a coarse slot reaches into a short window before what it holds does
            let is_within = end > from && now - youngest(width) > from;
            if !is_recent && !is_within {
                continue;
            }
            let used = slot.used.get();
            if is_recent {
                // a frame is filed by its middle: the slot after the resize may hold a part from before it
                peaks.push((end, used.memory_peak));
                evidence.recent.fresh = true;
                used.add_recent(evidence, parts, resized.is_none_or(|resized| start >= resized + FINE_SLOT));
            }
            if is_within {
                used.add_to(evidence, parts);
                if parts.coverage && end + FRAME_LAG <= now {
                    evidence.observed = evidence.observed.saturating_add(slot.observed);
                    evidence.ran = evidence.ran.saturating_add(slot.ran);
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
        self.observed = self.observed.saturating_add(other.observed);
        self.ran = self.ran.saturating_add(other.ran);
        self.used.change(|used| used.merge(&other.used.get()));
    }
}

impl Used {
    fn merge(&mut self, other: &Self) {
        for (into, from) in [
            (&mut self.cpu_tick, &other.cpu_tick),
            (&mut self.cpu_second, &other.cpu_second),
            (&mut self.working_set, &other.working_set),
        ] {
            for series in from {
                merge_series(into, series);
            }
        }
        self.memory_peak = self.memory_peak.max(other.memory_peak);
        self.cpu = self.cpu.plus(other.cpu);
        self.oom_kills = self.oom_kills.saturating_add(other.oom_kills);
    }

    fn add_to(&self, evidence: &mut Evidence, parts: Parts) {
        if parts.cpu {
            self.cpu_second.iter().for_each(|h| super::evidence::add(&mut evidence.cpu, h));
            self.cpu_tick.iter().for_each(|h| super::evidence::add(&mut evidence.cpu_tick, h));
            evidence.counters = evidence.counters.plus(self.cpu);
        }
        if parts.memory {
            self.working_set.iter().for_each(|h| evidence.memory.add(h));
            evidence.oom_kills = evidence.oom_kills.saturating_add(self.oom_kills);
        }
    }

    /// `since_resize`: the slot is from after the last resize.
    fn add_recent(&self, evidence: &mut Evidence, parts: Parts, since_resize: bool) {
        if parts.cpu {
            self.cpu_second.iter().for_each(|h| evidence.recent.cpu.add(h));
            if since_resize {
                evidence.recent.counters = evidence.recent.counters.plus(self.cpu);
            }
        }
        if parts.memory {
            self.working_set.iter().for_each(|h| evidence.recent.memory.add(h));
        }
    }
}

/// FNV-1a of 64 bits.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Whether memory rises, by the peaks of the fine slots in order of their ends. See [`super::Recent::memory_rising`].
fn rising(peaks: &[(Timestamp, u64)], now: Timestamp) -> bool {
    let older = peaks.partition_point(|(end, _)| *end + NEWEST <= now);
    let older = if older == 0 { peaks.len().saturating_sub(1) } else { older };
    let (before, newest) = peaks.split_at(older);
    let highest = |side: &[(Timestamp, u64)]| side.iter().map(|(_, peak)| *peak).max();
    match (highest(before), highest(newest)) {
        // 5 %: twice the granularity of a 64 KiB unit for a container of 3 MiB, and above the noise of page cache
        (Some(before), Some(newest)) => newest.saturating_mul(20) > before.saturating_mul(21),
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

/// Adds a series to those of its slot length, which are in order of it.
fn merge_series(into: &mut Vec<UsageHistogram>, from: &UsageHistogram) {
    if from.is_empty() {
        return;
    }
    match into.binary_search_by_key(&from.slot_millis(), UsageHistogram::slot_millis) {
        Ok(at) => {
            let merged = into.get_mut(at).map(|series| series.merge(from));
            debug_assert!(matches!(merged, Some(Ok(()))), "equal slot lengths");
        }
        Err(at) => into.insert(at, from.clone()),
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
