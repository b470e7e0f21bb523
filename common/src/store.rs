//! Usage over time per (workload, container).
//!
//! Frames are merged into slots of time. Fresh slots are fine, old ones coarse; coarsening is merging, so it is
//! exact. Which slots exist depends only on the frames and on `now`, never on the order in which frames came.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::ContainerRecord;
use crate::histogram::{MergedHistogram, UsageHistogram};
use crate::ident::WorkloadContainer;
use crate::sample::CpuCounters;
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

/// How far back memory is compared to tell whether it rises.
const RECENT: Duration = Duration::from_secs(300);
/// The newest part of [`RECENT`], which is compared with the rest.
const NEWEST: Duration = Duration::from_secs(60);

/// Frames this far ahead of the coordinator's clock are dated back to it: their clock offset was measured wrong.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// Everything known about the use of all workloads.
#[derive(Clone, Debug, Default)]
pub struct Store {
    histories: HashMap<WorkloadContainer, History>,
}

/// Use of one container of a workload, all pods together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    slots: BTreeMap<(Timestamp, Duration), Slot>,
    /// Fine slots that had data, by their start: bits of coverage.
    covered: BTreeSet<Timestamp>,
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
}

/// What a recommendation is made from.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// How far back was looked.
    pub window: Duration,
    /// CPU use of one second, units of 0.1 millicore, all pods.
    pub cpu: MergedHistogram,
    /// Working set, units of 64 KiB, all pods.
    pub memory: MergedHistogram,
    /// Highest `memory.current` of any pod in the last five minutes, units of 64 KiB.
    pub memory_recent_peak: u64,
    /// There is data of the last five minutes.
    pub fresh: bool,
    /// The last minute's peak of memory is above that of the four minutes before; of a container that has not been
    /// seen for a minute, the last slot's above that of the slots before. True as well while there is one slot only:
    /// what fills its memory at start-up must not be taken for what it needs.
    pub memory_rising: bool,
    /// Growth of the CPU counters within the window.
    pub counters: CpuCounters,
    /// OOM kills within the window.
    pub oom_kills: u64,
    /// Part of the window that has data.
    pub covered: Duration,
}

impl Evidence {
    /// Share of CFS periods in which the container was throttled, in thousandths; 0 without a CPU limit.
    pub fn throttled_share(&self) -> u64 {
        (self.counters.throttled_periods * 1000).checked_div(self.counters.periods).unwrap_or(0)
    }
}

impl Store {
    /// Adds one record whose interval ended at `end`, by the coordinator's clock. The caller has made sure that the
    /// frame is new ([`crate::ledger::Ledger`]).
    pub fn add(
        &mut self,
        key: WorkloadContainer,
        record: &ContainerRecord,
        start: Timestamp,
        end: Timestamp,
        now: Timestamp,
    ) {
        self.histories.entry(key).or_default().add(record, start, end, now);
    }

    /// Coarsens what has aged and forgets what is older than `retention`; containers without data disappear.
    pub fn compact(&mut self, now: Timestamp, retention: Duration) {
        self.histories.retain(|_, history| {
            history.compact(now, retention);
            !history.slots.is_empty()
        });
    }

    /// Evidence of one container; `None` when there is no data at all.
    pub fn evidence(&self, key: &WorkloadContainer, now: Timestamp, window: Duration) -> Option<Evidence> {
        Some(self.histories.get(key)?.evidence(now, window))
    }

    /// One container's history.
    pub fn history(&self, key: &WorkloadContainer) -> Option<&History> {
        self.histories.get(key)
    }

    /// Number of containers with data.
    pub fn len(&self) -> usize {
        self.histories.len()
    }

    /// True when nothing is known.
    pub fn is_empty(&self) -> bool {
        self.histories.is_empty()
    }

    /// Number of slots of all containers.
    pub fn slots(&self) -> usize {
        self.histories.values().map(|history| history.slots.len()).sum()
    }
}

impl History {
    /// Adds one record. Only `now` decides how coarse its slot is.
    pub fn add(&mut self, record: &ContainerRecord, start: Timestamp, end: Timestamp, now: Timestamp) {
        let ahead = end.since(now);
        let (start, end) = if ahead > MAX_AHEAD { (start - ahead, end - ahead) } else { (start, end) };
        let middle = start + end.since(start) / 2;
        let slot = self.slots.entry(slot_of(middle, now)).or_default();
        for (into, from) in [
            (&mut slot.cpu_tick, &record.cpu_tick),
            (&mut slot.cpu_second, &record.cpu_second),
            (&mut slot.working_set, &record.memory_working_set),
            (&mut slot.memory_total, &record.memory_total),
        ] {
            merge_series(into, from);
        }
        slot.cpu = slot.cpu.plus(record.cpu);
        slot.oom_kills = slot.oom_kills.saturating_add(record.oom_kills);
        if !record.cpu_second.is_empty() || !record.memory_working_set.is_empty() {
            let mut at = start.floor_to(FINE_SLOT);
            // a frame covers the fine slots whose middle it holds, and at least the one that it is filed under
            self.covered.insert(middle.floor_to(FINE_SLOT));
            while at < end {
                if at + FINE_SLOT / 2 >= start && at + FINE_SLOT / 2 < end {
                    self.covered.insert(at);
                }
                at = at + FINE_SLOT;
            }
        }
    }

    /// See [`Store::compact`].
    pub fn compact(&mut self, now: Timestamp, retention: Duration) {
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
        self.covered = self.covered.split_off(&oldest);
    }

    /// See [`Store::evidence`].
    pub fn evidence(&self, now: Timestamp, window: Duration) -> Evidence {
        let from = now - window;
        let mut evidence = Evidence {
            window,
            cpu: MergedHistogram::default(),
            memory: MergedHistogram::default(),
            memory_recent_peak: 0,
            fresh: false,
            memory_rising: false,
            counters: CpuCounters::default(),
            oom_kills: 0,
            covered: Duration::ZERO,
        };
        let mut peaks = Vec::new();
        for (&(start, width), slot) in self.slots.range((from - COARSEST, Duration::ZERO)..) {
            let end = start + width;
            // coarse slots end recently and began long ago: an old peak in them says nothing about now
            if width == FINE_SLOT && end + RECENT > now {
                evidence.fresh = true;
                let peak = slot.memory_total.values().map(UsageHistogram::max).max().unwrap_or(0);
                peaks.push((end, peak));
            }
            if end <= from {
                continue;
            }
            slot.cpu_second.values().for_each(|h| evidence.cpu.add(h));
            slot.working_set.values().for_each(|h| evidence.memory.add(h));
            evidence.counters = evidence.counters.plus(slot.cpu);
            evidence.oom_kills = evidence.oom_kills.saturating_add(slot.oom_kills);
        }
        evidence.memory_recent_peak = peaks.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
        evidence.memory_rising = rising(&peaks, now);
        let slots =
            self.covered.range((from - FINE_SLOT)..).filter(|start| **start + FINE_SLOT > from).count();
        evidence.covered = (FINE_SLOT * u32::try_from(slots).unwrap_or(u32::MAX)).min(window);
        evidence
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
    }
}

/// Whether memory rises, by the peaks of the fine slots in order of their ends. See [`Evidence::memory_rising`].
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

/// Start and width of the slot that holds `at`.
fn slot_of(at: Timestamp, now: Timestamp) -> (Timestamp, Duration) {
    let age = now.since(at);
    let width = TIERS.iter().find(|(up_to, _)| age <= *up_to).map_or(COARSEST, |(_, width)| *width);
    (at.floor_to(width), width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::CgroupLimits;
    use crate::ident::{ContainerId, ContainerKey};
    use crate::quantity::Bytes;
    use crate::resources::QosClass;

    const START: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(START + seconds)
    }

    fn record(cpu: &[u64], memory: &[u64]) -> ContainerRecord {
        ContainerRecord {
            key: ContainerKey { id: ContainerId::from_bytes([1; 32]), inode: 1 },
            pod: "d0511cd2-29d2-4215-be0f-f77bc0609d99".parse().unwrap(),
            qos: QosClass::Burstable,
            cpu_tick: UsageHistogram::from_values(100, cpu.iter().copied()),
            cpu_second: UsageHistogram::from_values(1000, cpu.iter().copied()),
            memory_working_set: UsageHistogram::from_values(1000, memory.iter().copied()),
            memory_total: UsageHistogram::from_values(1000, memory.iter().copied()),
            cpu: CpuCounters { usage_micros: cpu.iter().sum(), ..CpuCounters::default() },
            oom_kills: 0,
            limits: CgroupLimits { memory: Some(Bytes(1)), ..CgroupLimits::default() },
            ended: false,
        }
    }

    proptest! {
        #[test]
        fn order_of_frames_does_not_matter(order in Just((0..200_i64).collect::<Vec<_>>()).prop_shuffle()) {
            let now = at(4000);
            let add = |order: &[i64]| {
                let mut history = History::default();
                for i in order {
                    let i = *i;
                    let value = i.unsigned_abs() * 7;
                    history.add(&record(&[value], &[value]), at(i * 15), at(i * 15 + 15), now);
                }
                history
            };
            let sorted: Vec<_> = (0..200).collect();
            prop_assert_eq!(add(&order), add(&sorted));
        }

        #[test]
        fn compaction_loses_nothing_within_retention(ages in prop::collection::vec(0..80_000_i64, 1..80)) {
            let mut history = History::default();
            for age in &ages {
                history.add(&record(&[5], &[9]), at(-age - 5), at(-age), at(-age));
            }
            history.compact(at(0), Duration::from_secs(100_000));
            let evidence = history.evidence(at(0), Duration::from_secs(100_000));
            prop_assert_eq!(evidence.cpu.count(), ages.len() as u64);
            prop_assert_eq!(evidence.counters.usage_micros, 5 * ages.len() as u64);
        }
    }

    #[test]
    fn coverage_counts_time_once_however_many_pods() {
        let mut history = History::default();
        for _pod in 0..3 {
            for i in 0..4 {
                history.add(&record(&[1], &[1]), at(i * 15), at(i * 15 + 15), at(60));
            }
        }
        assert_eq!(history.evidence(at(60), Duration::from_secs(120)).covered, Duration::from_secs(60));
        assert_eq!(history.evidence(at(60), Duration::from_secs(60)).covered, Duration::from_secs(60));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut history = History::default();
        history.add(&record(&[100], &[1]), at(0), at(15), at(15));
        history.add(&record(&[7], &[1]), at(200), at(215), at(215));
        let evidence = history.evidence(at(220), Duration::from_secs(60));
        assert_eq!((evidence.cpu.count(), evidence.cpu.max()), (1, 7));
    }

    #[test]
    fn rising_memory_is_seen_and_flat_is_not() {
        for (last, rising) in [(100, false), (104, false), (120, true)] {
            let mut history = History::default();
            for i in 0..20 {
                let value = if i >= 17 { last } else { 100 };
                history.add(&record(&[1], &[value]), at(i * 15), at(i * 15 + 15), at(300));
            }
            let evidence = history.evidence(at(300), Duration::from_secs(300));
            assert_eq!((evidence.memory_rising, evidence.memory_recent_peak), (rising, last), "{last}");
        }
    }

    #[test]
    fn memory_of_a_container_that_just_started_rises_until_a_slot_is_like_those_before() {
        for (peaks, expected) in [
            (&[][..], false),
            (&[100], true),
            (&[50, 100], true),
            (&[50, 90, 100], true),
            (&[100, 100], false),
            (&[50, 100, 104], false),
            (&[100, 60], false),
        ] {
            let mut history = History::default();
            for (i, peak) in (0..).zip(peaks) {
                history.add(&record(&[1], &[*peak]), at(i * 15), at(i * 15 + 15), at(i * 15 + 15));
            }
            let now = at(15 * i64::try_from(peaks.len()).unwrap());
            let seen = history.evidence(now, Duration::from_secs(300)).memory_rising;
            assert_eq!(seen, expected, "{peaks:?}");
        }
    }

    #[test]
    fn a_clock_far_ahead_is_dated_back() {
        let mut history = History::default();
        history.add(&record(&[1], &[1]), at(100_000), at(100_015), at(0));
        assert_eq!(history.evidence(at(0), Duration::from_secs(60)).cpu.count(), 1);
    }

    #[test]
    fn a_store_without_data_forgets_the_container() {
        let mut store = Store::default();
        let workload =
            crate::ident::WorkloadRef { kind: "Deployment".into(), namespace: "n".into(), name: "w".into() };
        let key = WorkloadContainer { workload, container: "c".into() };
        store.add(key.clone(), &record(&[1], &[1]), at(0), at(5), at(5));
        assert!(store.evidence(&key, at(5), Duration::from_secs(60)).is_some());
        store.compact(at(1_000_000), Duration::from_secs(3600));
        assert!(store.is_empty() && store.evidence(&key, at(5), Duration::from_secs(60)).is_none());
    }
}
