//! What makes a workload due before its policy is: use above its size, an OOM kill, throttling, memory near its limit, a
//! container that starts, stops or becomes ready.
//!
//! Agents send no events of their own: what happens on a node is in its next frame. A record costs one look-up here; what
//! it makes due is evaluated alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use optipod_common::frame::ContainerRecord;
use optipod_common::histogram::MergedHistogram;
use optipod_common::ident::{WorkloadContainer, WorkloadRef};
use optipod_common::policy::{Mode, Percentile, Policy, Strategy};
use optipod_common::recommend::{ContainerRecommendation, Sizing, StepKind, THROTTLED};
use optipod_common::resources::Amounts;
use optipod_common::sample::{CPU_UNITS_PER_MILLICORE, MEMORY_UNIT_BYTES};
use optipod_common::time::Timestamp;

use super::evaluate::WorkloadOutcome;
use crate::index::PolicyKey;

/// Least time between two evaluations of a workload that events ask for: its pods' frames come one after the other, and
/// a resize takes about as long.
const PACE: Duration = Duration::from_secs(5);

/// Frames that end before this are replayed: what they tell is decided on with all else that comes.
const NEWS_FOR: Duration = Duration::from_secs(60);

/// Memory is near its limit from this share on, in thousandths.
const NEAR: u64 = 900;

/// Workloads that were evaluated, and those of them that something happened to.
#[derive(Debug, Default)]
pub struct Events {
    watched: HashMap<WorkloadRef, Watched>,
    due: BTreeSet<WorkloadRef>,
}

/// A workload that a policy is in charge of.
#[derive(Debug)]
struct Watched {
    policy: PolicyKey,
    evaluated: Timestamp,
    /// Which use of CPU counts; `None` = the highest second.
    percentile: Option<Percentile>,
    /// Share of a size from which on use is news, in thousandths.
    trigger: u64,
    /// By container. What is not here had no evidence yet: its first record is news.
    levels: BTreeMap<String, Levels>,
}

/// What is no news about a container, however often it is seen.
#[derive(Clone, Copy, Debug, Default)]
struct Levels {
    /// Millicores; `None` = whatever it uses, its size stays: bounds or a limit end it, or it has none.
    cpu: Option<u64>,
    /// Bytes.
    memory: Option<u64>,
    /// Highest memory that was decided on, in bytes.
    peak: u64,
    /// Throttling was decided on.
    throttled: bool,
}

impl Events {
    /// A workload was evaluated. `whole`: with its policy, at the policy's time; what events have told so far is
    /// weighed anew.
    pub fn evaluated(
        &mut self,
        (key, policy): (&PolicyKey, &Policy),
        outcome: &WorkloadOutcome,
        whole: bool,
        now: Timestamp,
    ) {
        self.due.remove(&outcome.workload);
        if policy.mode == Mode::Disabled {
            self.watched.remove(&outcome.workload);
            return;
        }
        let mut levels = levels_of(outcome);
        let before = self.watched.get(&outcome.workload).filter(|_| !whole);
        for (name, known) in before.into_iter().flat_map(|watched| &watched.levels) {
            if let Some(new) = levels.get_mut(name) {
                new.raise(known);
            }
        }
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
        let watched = Watched { policy: key.clone(), evaluated: now, percentile, trigger, levels };
        self.watched.insert(outcome.workload.clone(), watched);
    }

    /// A record of one of its containers came, whose interval ended at `end`. `requests`: what its pod requests for it.
    pub fn record(
        &mut self,
        container: &WorkloadContainer,
        (record, end): (&ContainerRecord, Timestamp),
        requests: impl FnOnce() -> Amounts,
        now: Timestamp,
    ) {
        let Some(watched) = self.watched.get_mut(&container.workload) else { return };
        if now.since(end) < NEWS_FOR && watched.is_news(&container.container, record, requests) {
            self.due.insert(container.workload.clone());
        }
    }

    /// A pod of it started, stopped or became ready.
    pub fn lived(&mut self, workload: &WorkloadRef) {
        if self.watched.contains_key(workload) {
            self.due.insert(workload.clone());
        }
    }

    /// Something about it is only waited for.
    pub fn look_again(&mut self, workload: &WorkloadRef) {
        self.due.insert(workload.clone());
    }

    /// Those whose time has come, by policy.
    pub fn take_due(&mut self, now: Timestamp) -> BTreeMap<PolicyKey, BTreeSet<WorkloadRef>> {
        let Self { watched, due } = self;
        let mut taken: BTreeMap<PolicyKey, BTreeSet<WorkloadRef>> = BTreeMap::new();
        due.retain(|workload| {
            let Some(known) = watched.get(workload) else { return false };
            if now.since(known.evaluated) < PACE {
                return true;
            }
            taken.entry(known.policy.clone()).or_default().insert(workload.clone());
            false
        });
        taken
    }

    /// Forgets workloads that are gone.
    pub fn retain(&mut self, exists: impl Fn(&WorkloadRef) -> bool) {
        self.watched.retain(|workload, _| exists(workload));
    }
}

impl Watched {
    fn is_news(&mut self, name: &str, record: &ContainerRecord, requests: impl FnOnce() -> Amounts) -> bool {
        let Some(levels) = self.levels.get_mut(name) else { return true };
        let cpu = match self.percentile {
            None => record.cpu_second.max(),
            Some(percentile) => {
                let mut values = MergedHistogram::default();
                values.add(&record.cpu_second);
                values.quantile(percentile.permyriad()).unwrap_or(0)
            }
        };
        let cpu = cpu.div_ceil(CPU_UNITS_PER_MILLICORE);
        let memory = record.memory_working_set.max().saturating_mul(MEMORY_UNIT_BYTES);
        let trigger = self.trigger;
        let beyond = |level: Option<u64>, used: u64, size: Option<u64>| {
            level.is_some_and(|level| used > level.max(size.unwrap_or(0)).saturating_mul(trigger) / 1000)
        };
        // the request is looked up only for what may be news
        let requests = (beyond(levels.cpu, cpu, None) || beyond(levels.memory, memory, None)).then(requests);
        let more = requests.is_some_and(|Amounts { cpu: request, memory: requested }| {
            beyond(levels.cpu, cpu, request.map(|r| r.0))
                || beyond(levels.memory, memory, requested.map(|r| r.0))
        });
        let throttled = levels.cpu.is_some()
            && record.cpu.throttled_periods.saturating_mul(1000)
                > record.cpu.periods.saturating_mul(THROTTLED);
        let near = |limit: u64| memory.saturating_mul(1000) >= limit.saturating_mul(NEAR);
        let near = memory > levels.peak && record.limits.memory.is_some_and(|limit| near(limit.0));
        let news = record.oom_kills > 0 || more || near || (throttled && !levels.throttled);
        if news {
            let told = Levels {
                cpu: levels.cpu.map(|_| cpu),
                memory: levels.memory.map(|_| memory),
                peak: memory,
                throttled,
            };
            levels.raise(&told);
        }
        news
    }
}

impl Levels {
    /// The higher of both; what is without a level stays so.
    fn raise(&mut self, other: &Self) {
        let higher = |own: Option<u64>, other: Option<u64>| own.map(|own| own.max(other.unwrap_or(0)));
        *self = Self {
            cpu: higher(self.cpu, other.cpu),
            memory: higher(self.memory, other.memory),
            peak: self.peak.max(other.peak),
            throttled: self.throttled || other.throttled,
        };
    }
}

fn levels_of(outcome: &WorkloadOutcome) -> BTreeMap<String, Levels> {
    let mut levels: BTreeMap<String, Levels> = BTreeMap::new();
    for pod in &outcome.pods {
        for name in &pod.excluded {
            levels.entry(name.clone()).or_default();
        }
        for size in &pod.sizes {
            let ContainerRecommendation { container, cpu, memory, evidence } = size;
            let own = Levels {
                cpu: level(cpu),
                memory: level(memory),
                peak: evidence.memory_peak.0,
                throttled: false,
            };
            match levels.get_mut(container) {
                Some(known) => known.raise(&own),
                None => {
                    levels.insert(container.clone(), own);
                }
            }
        }
    }
    levels
}

/// The size that use is compared with.
fn level(sizing: &Sizing) -> Option<u64> {
    let ends = [StepKind::BoundMax, StepKind::EnforcedMax, StepKind::LimitKept];
    sizing.request.filter(|_| !ends.iter().any(|kind| sizing.has(*kind)))
}
