//! Usage over time per (workload, container), kept apart by what is not alike: revisions of the template and classes of
//! nodes.
//!
//! Frames are merged into slots of time. Fresh slots are fine, old ones coarse; coarsening is merging, so it is
//! exact. Which slots exist depends only on the frames and on `now`, never on the order in which frames came.

mod coverage;
mod evidence;
mod history;
mod oom;
mod recent;
mod throttle;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::ContainerRecord;
use crate::ident::WorkloadContainer;
use crate::policy::Until;
use crate::startup::{Lifetime, Phase};
use crate::time::Timestamp;

pub(crate) use evidence::most;
pub use evidence::{ByLength, Evidence, Hottest, Others, Recent};
use history::REMEMBERED;
pub use history::{FINE_SLOT, History};
pub use oom::OomEvidence;
pub use recent::PodUse;
pub use throttle::ThrottleEvidence;

/// Kinds of pods of one container of a workload that are remembered while nobody runs them: about 10 KB each.
const VARIANTS: usize = 8;

/// What makes pods of one workload unlike: evidence is kept for each apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Variant {
    /// Hash of the template that its controller put on the pod; empty where there is none.
    pub revision: String,
    /// Architecture and type of the node, separated by `/`; empty where it is not known.
    pub node_class: String,
}

impl Variant {
    fn architecture(&self) -> &str {
        self.node_class.split('/').next().unwrap_or_default()
    }
}

/// What a record is about, beside its content.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Start by the coordinator's clock.
    pub start: Timestamp,
    /// End by the coordinator's clock.
    pub end: Timestamp,
    /// Which pods it is evidence for.
    pub variant: Variant,
    /// Part of the container's life.
    pub phase: Phase,
    /// When this life of the container started, if known.
    pub started: Option<Timestamp>,
}

/// Which evidence is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Now.
    pub now: Timestamp,
    /// How far back.
    pub window: Duration,
    /// For which pods.
    pub variant: &'a Variant,
    /// When a pod of the workload was last resized: throttling before it says nothing about the size it has now.
    pub resized: Option<Timestamp>,
}

/// Everything known about the use of all workloads.
#[derive(Clone, Debug, Default)]
pub struct Store {
    histories: HashMap<WorkloadContainer, BTreeMap<Variant, History>>,
}

impl Store {
    /// Adds one record. The caller has made sure that the frame is new ([`crate::ledger::Ledger`]).
    pub fn add(
        &mut self,
        key: WorkloadContainer,
        record: &ContainerRecord,
        interval: &Interval,
        now: Timestamp,
    ) {
        let variants = self.histories.entry(key).or_default();
        match variants.get_mut(&interval.variant) {
            Some(history) => history.add(record, interval, now),
            None => variants.entry(interval.variant.clone()).or_default().add(record, interval, now),
        }
    }

    /// A container ran from `start` to `end`, whether or not anybody saw it.
    pub fn ran(&mut self, key: &WorkloadContainer, variant: &Variant, start: Timestamp, end: Timestamp) {
        if let Some(history) = self.histories.get_mut(key).and_then(|variants| variants.get_mut(variant)) {
            history.ran(start, end);
        }
    }

    /// Coarsens what has aged and forgets what is older than `retention`. What has no use within it is remembered for
    /// four weeks by its hours, starts, kills and what Adaptive learned, the newest variants of a workload only.
    pub fn compact(&mut self, now: Timestamp, retention: Duration) {
        self.histories.retain(|_, variants| {
            for history in variants.values_mut() {
                history.compact(now, retention);
            }
            let mut idle: Vec<(Option<Timestamp>, Variant)> = variants
                .iter()
                .filter(|(_, history)| !history.is_in_use())
                .map(|(variant, history)| (history.newest(), variant.clone()))
                .collect();
            idle.sort_unstable_by(|a, b| b.cmp(a));
            let room = VARIANTS.saturating_sub(variants.len() - idle.len());
            let is_old = |newest: Option<Timestamp>| newest.is_none_or(|at| now.since(at) >= REMEMBERED);
            for (place, (newest, variant)) in idle.into_iter().enumerate() {
                if place >= room || is_old(newest) {
                    variants.remove(&variant);
                }
            }
            !variants.is_empty()
        });
    }

    /// No record of before `now` comes any more: what Adaptive learns of the minutes before it is final. The same evidence
    /// for less work, where records come in order.
    pub fn settle(&mut self, now: Timestamp) {
        self.histories.values_mut().flat_map(BTreeMap::values_mut).for_each(|history| history.settle(now));
    }

    /// Evidence of one container; `None` when there is no data at all, of no variant.
    pub fn evidence(&self, key: &WorkloadContainer, question: Question<'_>) -> Option<Evidence> {
        Some(evidence::gather(self.histories.get(key)?, question))
    }

    /// Kinds of pods that there is data of.
    pub fn variants(&self, key: &WorkloadContainer) -> impl Iterator<Item = &Variant> {
        self.histories.get(key).into_iter().flat_map(BTreeMap::keys)
    }

    /// Which part of its life a container is in at `at`.
    pub fn phase(&self, key: &WorkloadContainer, until: Until, life: &Lifetime, at: Timestamp) -> Phase {
        let learned = || {
            let variants = self.histories.get(key)?.values();
            variants.filter_map(|history| history.starts.plateau()).max()
        };
        let learned = (until == Until::Plateau).then(learned).flatten();
        crate::startup::phase(until, learned, life, at)
    }

    /// What one pod used in the last hour.
    pub fn pod(&self, key: &WorkloadContainer, variant: &Variant, pod: &str) -> Option<PodUse> {
        self.histories.get(key)?.get(variant)?.pod(pod)
    }

    /// Uid and highest working set (units of 64 KiB) in the last hour of every pod, once for each of its containers.
    pub fn memory_peaks(&self) -> impl Iterator<Item = (&str, u64)> {
        self.histories.values().flat_map(BTreeMap::values).flat_map(History::memory_peaks_of_pods)
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
        self.histories.values().flat_map(BTreeMap::values).map(History::slots).sum()
    }
}

#[cfg(test)]
mod tests;
