//! What one node has promised to its pods, and what becomes of those that ask for something else: the kubelet's
//! allocation manager as a pure state machine.
//!
//! A pod holds what is allocated to it or what its status in the API still shows, whichever is more; a resize is
//! accepted when it fits beside what all others hold. Reference: kubernetes 1.36, `pkg/kubelet/allocation`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use optipod_common::resources::QosClass;

use super::events::{Kind as EventKind, Notice, resize_message};
use super::size::{Amount, Sizes, Slot, requests};
use crate::simulated::faults::ResizeFault;

/// Reason of `PodResizePending` that is tried again.
pub const DEFERRED: &str = "Deferred";
/// Reason of `PodResizePending` that is not.
pub const INFEASIBLE: &str = "Infeasible";
/// Reason of `PodResizeInProgress` when the runtime did not do it.
pub const ERROR: &str = "Error";

/// What the node has for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// CPU and memory.
    pub amount: Amount,
    /// Pods.
    pub pods: usize,
}

/// A pod as its spec wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Its containers, in the order of the spec.
    pub slots: Vec<Slot>,
    /// Their requests and limits.
    pub sizes: Sizes,
    /// What its runtime class adds.
    pub overhead: Amount,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.priority`.
    pub priority: i32,
    /// Class.
    pub qos: QosClass,
}

impl Desired {
    fn requests(&self, sizes: &Sizes) -> Amount {
        requests(&self.slots, sizes) + self.overhead
    }
}

/// A condition about a resize; its status is always `True`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Reason, may be empty.
    pub reason: String,
    /// Message, may be empty.
    pub message: String,
    /// Of the attempt, or of the start.
    pub generation: i64,
    /// When the reason became this one.
    pub since: Timestamp,
    /// When it was looked at last.
    pub probed: Timestamp,
}

impl Condition {
    fn update(old: Option<&Self>, reason: &str, message: &str, generation: i64, now: Timestamp) -> Self {
        let since = old.filter(|old| old.reason == reason).map_or(now, |old| old.since);
        Self { reason: reason.to_owned(), message: message.to_owned(), generation, since, probed: now }
    }
}

/// Why a pod may not run here: `reason` and `message` of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `OutOfcpu`, `OutOfmemory`, `OutOfpods`, `Infeasible`.
    pub reason: String,
    /// The kubelet's text.
    pub message: String,
}

#[derive(Clone, Debug)]
struct Entry {
    desired: Desired,
    allocated: Sizes,
    /// Requests that the status in the API shows.
    reported: Amount,
    pending: Option<Condition>,
    progress: Option<Condition>,
}

impl Entry {
    fn held(&self) -> Amount {
        self.desired.requests(&self.allocated).max(self.reported + self.desired.overhead)
    }

    fn increases(&self) -> bool {
        let (new, old) = (self.desired.requests(&self.desired.sizes), self.desired.requests(&self.allocated));
        old.shrinks(new)
    }
}

/// What a look at the queue changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Pods whose status must be written, and whose containers may have to be resized.
    pub sync: Vec<String>,
    /// By pod.
    pub notices: Vec<(String, Notice)>,
}

/// Everything that one node has promised.
#[derive(Clone, Debug)]
pub struct Allocations {
    capacity: Capacity,
    /// The CPU manager gives whole cores to Guaranteed pods and cannot change them.
    static_cpus: bool,
    pods: BTreeMap<String, Entry>,
    held: Amount,
    /// UIDs of pods that want another size, in the order in which they are tried.
    queue: Vec<String>,
}

impl Allocations {
    /// Nothing yet.
    pub const fn new(capacity: Capacity, static_cpus: bool) -> Self {
        let held = Amount { cpu: 0, memory: 0 };
        Self { capacity, static_cpus, pods: BTreeMap::new(), held, queue: Vec::new() }
    }

    /// Takes a new pod at the size of its spec, or at `allocated` when it was allocated before.
    pub fn admit(&mut self, uid: &str, desired: Desired, allocated: Option<Sizes>) -> Result<(), Refused> {
        let allocated = allocated.unwrap_or_else(|| desired.sizes.clone());
        if self.pods.len() >= self.capacity.pods {
            let (used, capacity) = (self.pods.len(), self.capacity.pods);
            return Err(lacking("pods", 1, used as u64, capacity as u64));
        }
        self.fits(desired.requests(&allocated), self.held)?;
        let entry = Entry { desired, allocated, reported: Amount::default(), pending: None, progress: None };
        self.held = self.held + entry.held();
        self.pods.insert(uid.to_owned(), entry);
        Ok(())
    }

    fn fits(&self, wanted: Amount, others: Amount) -> Result<(), Refused> {
        let Amount { cpu, memory } = self.capacity.amount;
        if wanted.cpu > 0 && wanted.cpu > cpu.saturating_sub(others.cpu) {
            return Err(lacking("cpu", wanted.cpu, others.cpu, cpu));
        }
        if wanted.memory > 0 && wanted.memory > memory.saturating_sub(others.memory) {
            return Err(lacking("memory", wanted.memory, others.memory, memory));
        }
        Ok(())
    }

    /// The spec is `desired` now. The caller tries the queue next.
    pub fn desire(&mut self, uid: &str, desired: Desired) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.desired = desired;
        if entry.desired.sizes == entry.allocated {
            entry.pending = None;
            self.queue.retain(|queued| queued != uid);
        } else {
            if !self.queue.iter().any(|queued| queued == uid) {
                self.queue.push(uid.to_owned());
            }
            self.sort();
        }
    }

    /// What increases nothing first, then priority, class, and how long it has waited.
    fn sort(&mut self) {
        let pods = &self.pods;
        self.queue.retain(|uid| pods.contains_key(uid));
        self.queue.sort_by_cached_key(|uid| {
            pods.get(uid).map(|entry| {
                let since = entry.pending.as_ref().map(|pending| pending.since);
                (
                    entry.increases(),
                    Reverse(entry.desired.priority),
                    entry.desired.qos != QosClass::Guaranteed,
                    since.is_none(),
                    since,
                )
            })
        });
    }

    /// Tries every resize of the queue once. `fault` may make one end otherwise.
    pub fn retry(&mut self, now: Timestamp, fault: impl Fn(&str) -> Option<ResizeFault>) -> Changes {
        let mut changes = Changes::default();
        for uid in std::mem::take(&mut self.queue) {
            let Some(entry) = self.pods.get(&uid) else { continue };
            let before = entry.pending.as_ref().map(identity);
            let (allocated, notice) = self.attempt(&uid, now, fault(&uid));
            let Some(entry) = self.pods.get(&uid) else { continue };
            if entry.pending.as_ref().is_some_and(|pending| pending.reason == DEFERRED) {
                self.queue.push(uid.clone());
            }
            if allocated || entry.pending.as_ref().map(identity) != before {
                changes.sync.push(uid.clone());
            }
            changes.notices.extend(notice.map(|notice| (uid, notice)));
        }
        changes
    }

    /// True with what is said about it when the desired size is allocated now.
    fn attempt(&mut self, uid: &str, now: Timestamp, fault: Option<ResizeFault>) -> (bool, Option<Notice>) {
        let Some(entry) = self.pods.get(uid) else { return (false, None) };
        let (held, desired) = (entry.held(), entry.desired.clone());
        let others = self.held.without(held);
        let verdict = self.judge(&desired, &entry.allocated, others, fault);
        let Some(entry) = self.pods.get_mut(uid) else { return (false, None) };
        match verdict {
            Ok(()) => {
                entry.allocated.clone_from(&desired.sizes);
                entry.pending = None;
                entry.progress = Some(Condition::update(None, "", "", desired.generation, now));
                self.held = others + entry.held();
                let message =
                    resize_message("started", &desired.slots, &desired.sizes, desired.generation, "");
                (true, Some(Notice::new(EventKind::ResizeStarted, message)))
            }
            Err(Refused { reason, message }) => {
                let shown = if reason == INFEASIBLE { INFEASIBLE } else { DEFERRED };
                let generation = desired.generation;
                let pending = Condition::update(entry.pending.as_ref(), shown, &message, generation, now);
                let old = entry.pending.replace(pending);
                let told = old.is_some_and(|old| old.reason == shown && old.generation == generation);
                let text = resize_message(&reason, &desired.slots, &desired.sizes, generation, &message);
                let kind = if reason == INFEASIBLE {
                    EventKind::ResizeInfeasible
                } else {
                    EventKind::ResizeDeferred
                };
                (false, (!told).then(|| Notice::new(kind, text)))
            }
        }
    }

    fn judge(
        &self,
        desired: &Desired,
        allocated: &Sizes,
        others: Amount,
        fault: Option<ResizeFault>,
    ) -> Result<(), Refused> {
        let cpu_changes = || {
            desired.sizes.iter().any(|(name, new)| {
                let old = allocated.get(name).copied().unwrap_or_default();
                (new.requests.cpu, new.limits.cpu) != (old.requests.cpu, old.limits.cpu)
            })
        };
        if fault == Some(ResizeFault::Infeasible) {
            let message = "In-place resize of containers with swap is not supported.";
            return Err(Refused { reason: INFEASIBLE.to_owned(), message: message.to_owned() });
        }
        if self.static_cpus && desired.qos == QosClass::Guaranteed && cpu_changes() {
            let message = "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
            return Err(Refused { reason: INFEASIBLE.to_owned(), message: message.to_owned() });
        }
        let wanted = desired.requests(&desired.sizes);
        if fault == Some(ResizeFault::Deferred) {
            // as if others had taken all that is left
            return Err(lacking("cpu", wanted.cpu, self.capacity.amount.cpu, self.capacity.amount.cpu));
        }
        self.fits(wanted, others)
    }

    /// The status in the API shows these requests now. True when others may have room for that reason.
    pub fn report(&mut self, uid: &str, reported: Amount) -> bool {
        let Some(entry) = self.pods.get_mut(uid) else { return false };
        let before = entry.held();
        entry.reported = reported;
        let after = entry.held();
        self.held = self.held.without(before) + after;
        after.shrinks(before) && !self.queue.is_empty()
    }

    /// The pod has ended or is gone: it holds nothing. True when it held something.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(entry) = self.pods.remove(uid) else { return false };
        self.held = self.held.without(entry.held());
        self.queue.retain(|queued| queued != uid);
        true
    }

    /// Sizes that the pod was promised.
    pub fn allocated(&self, uid: &str) -> Option<&Sizes> {
        self.pods.get(uid).map(|entry| &entry.allocated)
    }

    /// `PodResizePending` and `PodResizeInProgress`.
    pub fn conditions(&self, uid: &str) -> (Option<&Condition>, Option<&Condition>) {
        self.pods.get(uid).map_or((None, None), |entry| (entry.pending.as_ref(), entry.progress.as_ref()))
    }

    /// A running container has not got what is allocated: the condition appears, or stays as it is.
    pub fn in_progress(&mut self, uid: &str, now: Timestamp) {
        if let Some(entry) = self.pods.get_mut(uid).filter(|entry| entry.progress.is_none()) {
            entry.progress = Some(Condition::update(None, "", "", entry.desired.generation, now));
        }
    }

    /// The runtime did not do it. Returns what is said about it unless that was said before.
    pub fn failed(&mut self, uid: &str, message: &str, now: Timestamp) -> Option<Notice> {
        let entry = self.pods.get_mut(uid)?;
        let generation = entry.progress.as_ref().map_or(entry.desired.generation, |old| old.generation);
        let condition = Condition::update(entry.progress.as_ref(), ERROR, message, generation, now);
        let same = entry.progress.as_ref().map(identity) == Some(identity(&condition));
        entry.progress = Some(condition);
        let Desired { slots, .. } = &entry.desired;
        let text = resize_message("error", slots, &entry.allocated, generation, message);
        (!same).then(|| Notice::new(EventKind::ResizeError, text))
    }

    /// Every running container has what is allocated. Returns what is said when something was in progress.
    pub fn completed(&mut self, uid: &str) -> Option<Notice> {
        let entry = self.pods.get_mut(uid)?;
        let Condition { generation, .. } = entry.progress.take()?;
        let text = resize_message("completed", &entry.desired.slots, &entry.allocated, generation, "");
        Some(Notice::new(EventKind::ResizeCompleted, text))
    }

    /// True while some resize waits for room.
    pub fn waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What all pods hold.
    pub const fn held(&self) -> Amount {
        self.held
    }
}

/// What of a condition a person sees change.
fn identity(condition: &Condition) -> (String, String, i64) {
    (condition.reason.clone(), condition.message.clone(), condition.generation)
}

fn lacking(resource: &str, requested: u64, used: u64, capacity: u64) -> Refused {
    Refused {
        reason: format!("OutOf{resource}"),
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
