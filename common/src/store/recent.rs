//! What each pod used lately: who is the hottest, and what a hot shard needs more than its siblings.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::ContainerRecord;
use crate::histogram::{MergedHistogram, UsageHistogram};
use crate::time::Timestamp;

/// Width of a slot.
const SLOT: Duration = Duration::from_secs(900);
/// How far back: about 1 KB a pod.
const REACH: Duration = Duration::from_secs(3600);

/// The last hour of every pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecentPods(BTreeMap<String, BTreeMap<Timestamp, PodSlot>>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PodSlot {
    cpu: UsageHistogram,
    /// Highest working set, units of 64 KiB.
    memory: u64,
}

/// Use of one pod in the last hour.
#[derive(Clone, Debug, Default)]
pub struct PodUse {
    /// CPU of one second, units of 0.1 millicore.
    pub cpu: MergedHistogram,
    /// Highest working set, units of 64 KiB.
    pub memory: u64,
}

impl RecentPods {
    pub fn add(&mut self, record: &ContainerRecord, middle: Timestamp) {
        let slots = match self.0.get_mut(record.pod.as_str()) {
            Some(slots) => slots,
            None => self.0.entry(record.pod.as_str().to_owned()).or_default(),
        };
        let cpu = &record.cpu_second;
        let slot = slots
            .entry(middle.floor_to(SLOT))
            .or_insert_with(|| PodSlot { cpu: UsageHistogram::new(cpu.slot_millis()), memory: 0 });
        // a second stays a second; an agent that sends others is not this one
        if slot.cpu.slot_millis() == cpu.slot_millis() {
            let merged = slot.cpu.merge(cpu);
            debug_assert!(merged.is_ok(), "equal slot lengths");
        }
        slot.memory = slot.memory.max(record.memory_working_set.max());
    }

    pub fn compact(&mut self, now: Timestamp) {
        self.0.retain(|_, slots| {
            slots.retain(|start, _| *start + SLOT + REACH > now);
            !slots.is_empty()
        });
    }

    /// Forgets what lies after `now`.
    pub fn rewind(&mut self, now: Timestamp) {
        for slots in self.0.values_mut() {
            slots.retain(|start, _| *start <= now);
        }
    }

    pub fn of(&self, pod: &str) -> Option<PodUse> {
        let slots = self.0.get(pod)?;
        let mut found = PodUse::default();
        for slot in slots.values() {
            found.cpu.add(&slot.cpu);
            found.memory = found.memory.max(slot.memory);
        }
        Some(found)
    }

    /// (pod, highest CPU of a second, highest working set) of every pod.
    pub fn peaks(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.0.iter().map(|(pod, slots)| {
            let cpu = slots.values().map(|slot| slot.cpu.max()).max().unwrap_or(0);
            let memory = slots.values().map(|slot| slot.memory).max().unwrap_or(0);
            (pod.as_str(), cpu, memory)
        })
    }
}
