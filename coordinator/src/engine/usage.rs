//! Frames become usage of workloads: counted once, joined with pods, parked while a pod is unknown.

use std::collections::HashMap;
use std::time::Duration;

use optipod_common::frame::{CgroupLimits, ContainerRecord, Frame};
use optipod_common::ident::{ContainerId, WorkloadContainer, WorkloadRef};
use optipod_common::ledger::{Admission, Ledger};
use optipod_common::policy::Until;
use optipod_common::quantity::Bytes;
use optipod_common::sample::MEMORY_UNIT_BYTES;
use optipod_common::startup::{Lifetime, Phase};
use optipod_common::store::{Evidence, Interval, PodUse, Question, Store, Variant};
use optipod_common::time::Timestamp;

use crate::index::{Index, Origin};
use crate::ingest::Accepted;

/// Usage whose pod is not known is kept this long: a pod's status follows its first cgroup by seconds, and by
/// minutes when the API server is in trouble.
const PARK_FOR: Duration = Duration::from_secs(600);

/// Records parked at once, all nodes together: about 2 KB each.
const PARK_AT_MOST: usize = 20_000;

/// Kernel limits of a container that no frame mentioned for this long are forgotten.
const KERNEL_FOR: Duration = Duration::from_secs(900);

/// Tasks of a node stall for memory from this share of the time on, in thousandths: what is left is taken from page cache
/// that is needed again.
const STALLS: u32 = 50;

/// What the last frame said of stalls counts so long: a node that is short of memory may be late with the next one.
const STALL_FOR: Duration = Duration::from_secs(300);

/// What was heard from a node that is gone is known this long: longer than any agent keeps frames, so that none counts
/// twice.
const LEDGER_FOR: Duration = Duration::from_secs(24 * 3600);

/// Which frames of a node count already.
#[derive(Default)]
struct Heard {
    ledger: Ledger,
    /// For the last time.
    at: Option<Timestamp>,
}

/// Everything that came from agents.
#[derive(Default)]
pub struct Usage {
    store: Store,
    nodes: HashMap<String, Heard>,
    /// Frames of nodes that are forgotten, which will never come.
    lost: u64,
    parked: HashMap<ContainerId, Parked>,
    parked_records: usize,
    dropped_records: u64,
    foreign_records: u64,
    kernel: HashMap<ContainerId, (CgroupLimits, Timestamp)>,
    startups: HashMap<WorkloadRef, Until>,
    /// By node: the share of its last frame in which tasks stalled for memory, in thousandths, and the end of that frame.
    stalls: HashMap<String, (u32, Timestamp)>,
    /// Until when running containers were counted.
    counted: Option<Timestamp>,
}

#[derive(Default)]
struct Parked {
    records: Vec<(ContainerRecord, Timestamp, Timestamp)>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// Nobody claims it (a sandbox, or a pod of another cluster): nothing more is parked.
    given_up: bool,
}

impl Usage {
    /// An agent connected: the sequence to resume from.
    pub fn connected(&mut self, node: &str, epoch: u64, oldest: u64, now: Timestamp) -> u64 {
        let ledger = self.ledger(node, now);
        if oldest > 0 {
            ledger.forget_below(epoch, oldest);
        }
        ledger.accepted(epoch) + 1
    }

    /// True when an agent of this node said Hello in this term.
    pub fn is_connected(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }

    fn ledger(&mut self, node: &str, now: Timestamp) -> &mut Ledger {
        let heard = self.nodes.entry(node.to_owned()).or_default();
        heard.at = Some(now);
        &mut heard.ledger
    }

    /// Counts a frame once; nothing of a refused frame is used. Records that count at once are told to `counted`.
    pub fn frame(
        &mut self,
        node: &str,
        frame: &Frame,
        index: &Index,
        now: Timestamp,
        mut counted: impl FnMut(&Origin, &ContainerRecord),
    ) -> (Admission, Accepted) {
        let ledger = self.ledger(node, now);
        let admission = ledger.admit(frame.epoch, frame.sequence);
        // There is no checkpoint yet, so nothing is durable: agents keep what they hold for the next leader.
        let accepted = Accepted { accepted: ledger.accepted(frame.epoch), durable: 0 };
        if admission == Admission::New {
            let stall = self.stalls.entry(node.to_owned()).or_insert((0, frame.end));
            // one that could not be read tells nothing
            if stall.1 <= frame.end && frame.start < frame.end {
                *stall = (frame.memory_stall, frame.end);
            }
            for record in &frame.containers {
                let id = record.key.id;
                let bound = index.pod_of(&id).and_then(|pod| index.node_of(pod));
                if bound.is_some_and(|bound| bound != node) {
                    self.foreign_records += 1;
                    continue;
                }
                let seen = self.kernel.entry(id).or_insert((record.limits, frame.end));
                if seen.1 <= frame.end {
                    *seen = (record.limits, frame.end);
                }
                match index.origin(&id) {
                    Some(origin) => {
                        counted(&origin, record);
                        self.add(origin, record, (frame.start, frame.end), now);
                    }
                    None => self.park(record, frame.start, frame.end, now),
                }
            }
        }
        (admission, accepted)
    }

    fn add(
        &mut self,
        origin: Origin,
        record: &ContainerRecord,
        (start, end): (Timestamp, Timestamp),
        now: Timestamp,
    ) {
        let Origin { container, variant, lifetime } = origin;
        let until = self.startups.get(&container.workload).copied().unwrap_or_default();
        let phase = self.store.phase(&container, until, &lifetime, start + end.since(start) / 2);
        let interval = Interval { start, end, variant, phase, started: lifetime.started };
        self.store.add(container, record, &interval, now);
    }

    /// When start-up ends, by workload, as their policies say. Others end it when the pod is ready.
    pub fn set_startup(&mut self, workload: &WorkloadRef, until: Until) {
        if until == Until::default() {
            self.startups.remove(workload);
        } else {
            self.startups.insert(workload.clone(), until);
        }
    }

    /// Running containers count as run since the last call, whether or not an agent saw them.
    fn count_running(&mut self, index: &Index, since: Timestamp, now: Timestamp) {
        for origin in index.pod_keys().flat_map(|key| index.running(key)) {
            self.store.ran(&origin.container, &origin.variant, since, now);
        }
    }

    fn park(&mut self, record: &ContainerRecord, start: Timestamp, end: Timestamp, now: Timestamp) {
        let parked = self.parked.entry(record.key.id).or_default();
        parked.last = Some(now);
        parked.first.get_or_insert(now);
        if parked.given_up || self.parked_records >= PARK_AT_MOST {
            self.dropped_records += 1;
            return;
        }
        parked.records.push((record.clone(), start, end));
        self.parked_records += 1;
    }

    /// Pods became known: what was parked for them counts now.
    pub fn join(&mut self, ids: &[ContainerId], index: &Index, now: Timestamp) {
        for id in ids {
            let Some(origin) = index.origin(id) else { continue };
            let Some(parked) = self.parked.remove(id) else { continue };
            self.parked_records -= parked.records.len();
            for (record, start, end) in parked.records {
                self.add(origin.clone(), &record, (start, end), now);
            }
        }
    }

    /// Coarsens, forgets, gives up on what nobody claims.
    pub fn compact(&mut self, index: &Index, now: Timestamp, retention: Duration) {
        if let Some(since) = self.counted.replace(now).filter(|since| *since < now) {
            self.count_running(index, since, now);
        }
        self.store.compact(now, retention);
        self.startups.retain(|workload, _| index.exists(workload));
        let lost = &mut self.lost;
        self.nodes.retain(|node, heard| {
            let kept = index.has_node(node) || heard.at.is_some_and(|at| now.since(at) < LEDGER_FOR);
            *lost = lost.saturating_add(if kept { 0 } else { heard.ledger.lost() });
            kept
        });
        self.kernel.retain(|_, (_, seen)| now.since(*seen) < KERNEL_FOR);
        for parked in self.parked.values_mut() {
            if parked.first.is_some_and(|first| now.since(first) > PARK_FOR) {
                self.parked_records -= parked.records.len();
                self.dropped_records += parked.records.len() as u64;
                parked.records = Vec::new();
                parked.given_up = true;
            }
        }
        self.parked.retain(|_, parked| parked.last.is_some_and(|last| now.since(last) < PARK_FOR));
    }

    /// Some pods of a container that there is evidence of: the newest kind in order.
    pub fn any_variant(&self, key: &WorkloadContainer) -> Option<Variant> {
        self.store.variants(key).last().cloned()
    }

    /// Which part of its life a container is in.
    pub fn phase(&self, key: &WorkloadContainer, until: Until, life: &Lifetime, at: Timestamp) -> Phase {
        self.store.phase(key, until, life, at)
    }

    /// What one pod used in the last hour.
    pub fn pod(&self, key: &WorkloadContainer, variant: &Variant, uid: &str) -> Option<PodUse> {
        self.store.pod(key, variant, uid)
    }

    /// The highest working set of each pod in the last hour, all its containers together, by uid.
    pub fn memory_peaks(&self) -> HashMap<&str, Bytes> {
        let mut peaks: HashMap<&str, Bytes> = HashMap::new();
        for (pod, units) in self.store.memory_peaks() {
            let peak = peaks.entry(pod).or_default();
            peak.0 = peak.0.saturating_add(units.saturating_mul(MEMORY_UNIT_BYTES));
        }
        peaks
    }

    /// Evidence of one container of a workload.
    pub fn evidence(&self, key: &WorkloadContainer, question: Question<'_>) -> Option<Evidence> {
        self.store.evidence(key, question)
    }

    /// Limits that the agent read from the cgroup, and until when its frame reaches.
    pub fn in_kernel(&self, id: &ContainerId) -> Option<&(CgroupLimits, Timestamp)> {
        self.kernel.get(id)
    }

    /// Tasks of this node stall for memory.
    pub fn stalls(&self, node: &str, now: Timestamp) -> bool {
        let last = self.stalls.get(node).filter(|(_, end)| now.since(*end) < STALL_FOR);
        last.is_some_and(|(stall, _)| *stall >= STALLS)
    }

    /// The store, for its numbers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Frames that will never come.
    pub fn lost_frames(&self) -> u64 {
        self.nodes.values().map(|heard| heard.ledger.lost()).fold(self.lost, u64::saturating_add)
    }

    /// Records that wait for their pod.
    pub const fn parked_records(&self) -> usize {
        self.parked_records
    }

    /// Records of containers that are not on the node that sent them, since the last call.
    pub const fn take_foreign(&mut self) -> u64 {
        std::mem::replace(&mut self.foreign_records, 0)
    }

    /// Records whose pod never became known, since the last call.
    pub const fn take_dropped(&mut self) -> u64 {
        std::mem::replace(&mut self.dropped_records, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_forgotten_when_it_cannot_come_back() {
        let at = |hours: i64| Timestamp::from_unix_seconds(1_800_000_000 + hours * 3600);
        let index = Index::new("optipod-system".into(), Vec::new(), "optipod-coordinator");
        let workload = WorkloadRef { kind: "Job".into(), namespace: "shop".into(), name: "once".into() };
        let mut usage = Usage::default();
        usage.set_startup(&workload, Until::Plateau);
        assert_eq!(usage.connected("n", 1, 5, at(0)), 5);
        usage.compact(&index, at(23), Duration::ZERO);
        assert!(usage.startups.is_empty());
        assert!(usage.is_connected("n"), "its agent may send again what counts already");
        usage.compact(&index, at(24), Duration::ZERO);
        assert!(!usage.is_connected("n"));
        assert_eq!(usage.lost_frames(), 4, "what was lost stays lost");
    }
}
