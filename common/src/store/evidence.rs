//! What a recommendation is made from.

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::History;
use super::oom::{OomEvidence, OomKills};
use super::throttle::ThrottleEvidence;
use super::{Question, Variant};
use crate::adaptive::Adaptive;
use crate::histogram::{MergedHistogram, UsageHistogram};
use crate::peaks::HourPeaks;
use crate::resources::Resource;
use crate::sample::CpuCounters;
use crate::startup::LearnedStart;
use crate::time::Timestamp;

/// Histograms by the length of their slots in milliseconds: unlike lengths never merge.
pub type ByLength = BTreeMap<u32, MergedHistogram>;

/// What a recommendation is made from: the use of the pods that it is for. What other pods used stands beside it.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// When it was gathered.
    pub now: Timestamp,
    /// How far back was looked.
    pub window: Duration,
    /// CPU use of one second, units of 0.1 millicore, all pods.
    pub cpu: ByLength,
    /// CPU use of one tick of the agent, units of 0.1 millicore, all pods.
    pub cpu_tick: ByLength,
    /// Working set, units of 64 KiB, all pods.
    pub memory: MergedHistogram,
    /// Of the last five minutes.
    pub recent: Recent,
    /// Growth of the CPU counters within the window.
    pub counters: CpuCounters,
    /// OOM kills within the window.
    pub oom_kills: u64,
    /// Sizes at which containers were killed, whenever, of pods of other revisions too.
    pub ooms: Vec<OomEvidence>,
    /// CPU limits that throttled.
    pub throttles: Vec<ThrottleEvidence>,
    /// Part of the window that has data.
    pub covered: Duration,
    /// Pod-time within the window that was seen.
    pub observed: Duration,
    /// Pod-time within the window that there was; zero where nobody counted.
    pub ran: Duration,
    /// Per hour of the last weeks the highest CPU of a second of any pod, of other revisions too: it only holds up.
    pub cpu_peaks: HourPeaks,
    /// Per hour of the last weeks the highest working set of any pod, likewise.
    pub memory_peaks: HourPeaks,
    /// What Adaptive learned of CPU.
    pub cpu_adaptive: Adaptive,
    /// What Adaptive learned of memory.
    pub memory_adaptive: Adaptive,
    /// What it learned of the memory of like pods on other nodes: memory is the same there, so the highest size counts.
    pub memory_siblings: Vec<Adaptive>,
    /// What pods of other revisions or on other nodes used.
    pub others: Option<Box<Others>>,
    /// The hour of the day (UTC) at which earlier revisions had their peak, when this one was not yet seen at it.
    pub unseen_peak_hour: Option<i64>,
    /// The pod that uses most.
    pub hottest: Option<Hottest>,
    /// What earlier starts needed.
    pub startup: LearnedStart,
}

/// Use in the last five minutes.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// There is any.
    pub fresh: bool,
    /// CPU use of one second.
    pub cpu: MergedHistogram,
    /// Working set.
    pub memory: MergedHistogram,
    /// Growth of the CPU counters since the last resize.
    pub counters: CpuCounters,
    /// Highest `memory.current` of any pod, units of 64 KiB.
    pub memory_peak: u64,
    /// The last minute's peak of memory is above that of the four minutes before; of a container that has not been
    /// seen for a minute, the last slot's above that of the slots before. True as well while there is one slot only:
    /// what fills its memory at start-up must not be taken for what it needs.
    pub memory_rising: bool,
}

/// What pods of other revisions or on other nodes used within the window. It may raise, never lower.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// CPU use of one second.
    pub cpu: ByLength,
    /// Working set.
    pub memory: MergedHistogram,
    /// What Adaptive learned of their CPU, of those that ran last.
    pub cpu_adaptive: Vec<Adaptive>,
    /// What it learned of their memory.
    pub memory_adaptive: Vec<Adaptive>,
}

/// The pod that uses most of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hottest {
    /// Uid of the pod with the highest CPU of a second, and that value.
    pub cpu: (String, u64),
    /// Uid of the pod with the highest working set, and that value.
    pub memory: (String, u64),
    /// Pods that were compared.
    pub pods: usize,
}

impl Evidence {
    /// No evidence.
    pub fn none(now: Timestamp, window: Duration) -> Self {
        Self {
            now,
            window,
            cpu: ByLength::new(),
            cpu_tick: ByLength::new(),
            memory: MergedHistogram::default(),
            recent: Recent::default(),
            counters: CpuCounters::default(),
            oom_kills: 0,
            ooms: Vec::new(),
            throttles: Vec::new(),
            covered: Duration::ZERO,
            observed: Duration::ZERO,
            ran: Duration::ZERO,
            cpu_peaks: HourPeaks::default(),
            memory_peaks: HourPeaks::default(),
            cpu_adaptive: Adaptive::new(Resource::Cpu),
            memory_adaptive: Adaptive::new(Resource::Memory),
            memory_siblings: Vec::new(),
            others: None,
            unseen_peak_hour: None,
            hottest: None,
            startup: LearnedStart::default(),
        }
    }

    /// CPU use of one second.
    pub fn cpu_seconds(&self) -> Option<&MergedHistogram> {
        most(&self.cpu)
    }

    /// CPU use of the shortest slots that there is enough of: 100 ms is the period that a CPU limit throttles on.
    pub fn cpu_ticks(&self) -> Option<(u32, &MergedHistogram)> {
        let most = self.cpu_tick.values().map(MergedHistogram::count).max()?;
        // a rate that the agent kept for a moment only says too little
        let enough = self.cpu_tick.iter().find(|(_, histogram)| histogram.count() * 10 >= most);
        enough.map(|(length, histogram)| (*length, histogram))
    }

    /// Share of CFS periods in which the container was throttled, in thousandths; 0 without a CPU limit.
    pub fn throttled_share(&self) -> u64 {
        self.counters.throttled_share()
    }

    /// The same of the last minutes since the last resize.
    pub fn throttled_now(&self) -> u64 {
        self.recent.counters.throttled_share()
    }

    /// Share of pod-time that nobody saw, in thousandths.
    pub fn unseen(&self) -> u64 {
        let (observed, ran) = (self.observed.as_millis(), self.ran.as_millis());
        u64::try_from(ran.saturating_sub(observed) * 1000 / ran.max(1)).unwrap_or(1000)
    }

    /// Part of the window that has data, less the share of pod-time that nobody saw.
    pub fn coverage(&self) -> Duration {
        let (observed, ran) = (self.observed.as_millis(), self.ran.as_millis());
        if ran <= observed {
            return self.covered;
        }
        let seen = self.covered.as_millis() * observed / ran.max(1);
        Duration::from_millis(u64::try_from(seen).unwrap_or(u64::MAX))
    }
}

/// The histogram of the slot length that has most values.
pub(crate) fn most(by_length: &ByLength) -> Option<&MergedHistogram> {
    by_length.values().max_by_key(|histogram| histogram.count())
}

/// What is taken of a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// Use of CPU: of the same kind of node only.
    pub cpu: bool,
    /// Use of memory: of the same architecture.
    pub memory: bool,
    /// Coverage and what was learned: of the very same pods.
    pub coverage: bool,
}

pub(super) fn add(by_length: &mut ByLength, part: &UsageHistogram) {
    by_length.entry(part.slot_millis()).or_default().add(part);
}

pub(super) fn hottest<'a>(pods: impl Iterator<Item = (&'a str, u64, u64)>) -> Option<Hottest> {
    let mut count = 0;
    let (mut top_cpu, mut top_memory) = (None, None);
    for (pod, cpu, memory) in pods {
        count += 1;
        let higher = |top: Option<(&'a str, u64)>, value| match top {
            Some(top) if value <= top.1 => Some(top),
            _ => Some((pod, value)),
        };
        (top_cpu, top_memory) = (higher(top_cpu, cpu), higher(top_memory, memory));
    }
    let (cpu, memory) = (top_cpu?, top_memory?);
    Some(Hottest { cpu: (cpu.0.to_owned(), cpu.1), memory: (memory.0.to_owned(), memory.1), pods: count })
}

/// Puts together the evidence for one variant.
pub(super) fn gather(variants: &BTreeMap<Variant, History>, question: Question<'_>) -> Evidence {
    let Question { now, window, variant, resized } = question;
    let mut evidence = Evidence::none(now, window);
    let mut others = Evidence::none(now, window);
    let (mut any_other, mut kills, mut own) = (false, OomKills::default(), Vec::new());
    let (mut cpu_adaptive, mut memory_adaptive) = (Vec::new(), Vec::new());
    for (of, history) in variants {
        let same_revision = of.revision == variant.revision;
        let parts = Parts {
            cpu: same_revision && of.node_class == variant.node_class,
            memory: same_revision && of.architecture() == variant.architecture(),
            coverage: of == variant,
        };
        history.add_to(&mut evidence, parts, resized);
        let rest = Parts { cpu: !parts.cpu, memory: !parts.memory, coverage: false };
        if rest.cpu || rest.memory {
            any_other = true;
            history.add_to(&mut others, rest, resized);
        }
        cpu_adaptive.extend(rest.cpu.then(|| history.adaptive(Resource::Cpu, now)));
        memory_adaptive.extend(rest.memory.then(|| history.adaptive(Resource::Memory, now)));
        let sibling = parts.memory && !parts.coverage;
        evidence.memory_siblings.extend(sibling.then(|| history.adaptive(Resource::Memory, now)));
        evidence.cpu_peaks.merge(history.cpu_peaks.hours());
        evidence.memory_peaks.merge(history.memory_peaks.hours());
        history.ooms.iter().for_each(|(size, at)| kills.add(size, at));
        own.extend(parts.memory.then_some(history));
        let learned = history.starts.learned();
        let known = &mut evidence.startup;
        *known = LearnedStart {
            starts: known.starts + learned.starts,
            cpu: known.cpu.max(learned.cpu),
            memory: known.memory.max(learned.memory),
            plateau: known.plateau.max(learned.plateau),
        };
    }
    // those that are seen no more are forgotten with the window, as their histogram is
    evidence.memory_siblings.retain(|state| state.newest().is_some_and(|at| at + window >= now));
    // the kill of an earlier revision counts until this one is known
    let seen_since = |at| own.iter().map(|history| history.covered_since(at)).max().unwrap_or_default();
    evidence.ooms = kills
        .telling()
        .into_iter()
        .map(|(size, at)| OomEvidence { at, size, seen_since: seen_since(at) })
        .collect();
    if any_other {
        let Evidence { cpu, memory, .. } = others;
        evidence.unseen_peak_hour = unseen_peak_hour(variants, variant);
        evidence.others = Some(Box::new(Others {
            cpu,
            memory,
            cpu_adaptive: latest(cpu_adaptive, window),
            memory_adaptive: latest(memory_adaptive, window),
        }));
    }
    evidence
}

/// Those that were seen within `window` before the last time that any of them was: what ran weeks ago may have been
/// wrong, and what ran before a weekend without pods is the newest that there is.
fn latest(mut states: Vec<Adaptive>, window: Duration) -> Vec<Adaptive> {
    let newest = states.iter().filter_map(Adaptive::newest).max();
    states.retain(|state| state.newest().zip(newest).is_some_and(|(at, newest)| at + window >= newest));
    states
}

/// Hours of a day that earlier revisions must have been seen in before their highest one is taken for the daily peak.
const HOURS_OF_A_DAY: usize = 20;

/// The hour of the day of the other revisions' highest CPU, when the asked revision has not been seen at it.
fn unseen_peak_hour(variants: &BTreeMap<Variant, History>, variant: &Variant) -> Option<i64> {
    let others = variants.iter().filter(|(of, _)| of.revision != variant.revision);
    let mut by_hour: BTreeMap<i64, u64> = BTreeMap::new();
    for (_, history) in others {
        for (slot, peak) in history.cpu_peaks.hours().ring().iter() {
            let highest = by_hour.entry(slot.rem_euclid(24)).or_default();
            *highest = peak.max(*highest);
        }
    }
    let (hour, _) =
        by_hour.iter().max_by_key(|(_, value)| **value).filter(|_| by_hour.len() >= HOURS_OF_A_DAY)?;
    let seen = variants.iter().any(|(of, own)| of.revision == variant.revision && own.was_seen_at(*hour));
    (!seen).then_some(*hour)
}
