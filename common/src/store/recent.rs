//! What each pod used lately: who is the hottest, and what a hot shard needs more than its siblings.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::frame::ContainerRecord;
use crate::histogram::{MergedHistogram, UsageHistogram};
use crate::packed::{Packed, packed_fields};
use crate::time::Timestamp;

/// Width of a slot.
const SLOT: Duration = Duration::from_secs(900);
/// How far back: about 1 KB a pod.
const REACH: Duration = Duration::from_secs(3600);

/// The last hour of every pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RecentPods {
    pods: BTreeMap<String, Vec<PodSlot>>,
}

packed_fields!(RecentPods { pods });

#[derive(Clone, Debug, PartialEq, Eq)]
struct PodSlot {
    start: Timestamp,
    cpu: Packed<UsageHistogram>,
    /// Highest CPU of a second, units of 0.1 millicore.
    cpu_peak: u64,
    /// Highest working set, units of 64 KiB.
    memory: u64,
}

packed_fields!(PodSlot { start, cpu, cpu_peak, memory });

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
        let slots = match self.pods.get_mut(record.pod.as_str()) {
            Some(slots) => slots,
            None => self.pods.entry(record.pod.as_str().to_owned()).or_default(),
        };
        let (start, cpu) = (middle.floor_to(SLOT), &record.cpu_second);
        let at = slots.partition_point(|slot| slot.start < start);
        if slots.get(at).is_none_or(|slot| slot.start != start) {
            let cpu = Packed::new(&UsageHistogram::new(cpu.slot_millis()));
            slots.insert(at, PodSlot { start, cpu, cpu_peak: 0, memory: 0 });
        }
        let Some(slot) = slots.get_mut(at) else { return };
        slot.cpu.change(|merged| {
            // a second stays a second; an agent that sends others is not this one
            if merged.merge(cpu).is_ok() {
                slot.cpu_peak = slot.cpu_peak.max(cpu.max());
            }
        });
        slot.memory = slot.memory.max(record.memory_working_set.max());
    }

    pub fn compact(&mut self, now: Timestamp) {
        self.pods.retain(|_, slots| {
            slots.retain(|slot| slot.start + SLOT + REACH > now);
            !slots.is_empty()
        });
    }

    /// Forgets what lies after `now`.
    pub fn rewind(&mut self, now: Timestamp) {
        for slots in self.pods.values_mut() {
            slots.retain(|slot| slot.start <= now);
        }
    }

    pub fn of(&self, pod: &str) -> Option<PodUse> {
        let slots = self.pods.get(pod)?;
        let mut found = PodUse::default();
        for slot in slots {
            found.cpu.add(&slot.cpu.get());
            found.memory = found.memory.max(slot.memory);
        }
        Some(found)
    }

    /// (pod, highest CPU of a second, highest working set) of every pod.
    pub fn peaks(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.pods.iter().map(|(pod, slots)| {
            let cpu = slots.iter().map(|slot| slot.cpu_peak).max().unwrap_or(0);
            let memory = slots.iter().map(|slot| slot.memory).max().unwrap_or(0);
            (pod.as_str(), cpu, memory)
        })
    }
}
