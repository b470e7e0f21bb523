//! Container ids, of living pods and for a while of dead ones.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use optipod_common::ident::{ContainerId, WorkloadContainer};
use optipod_common::startup::Lifetime;
use optipod_common::store::Variant;
use optipod_common::time::Timestamp;

use super::PodKey;

/// How long a container stays known after it went away.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(600);

/// How many containers that went away are kept at most; the oldest go first. About 30 MiB when full.
pub const MAX_TOMBSTONES: usize = 100_000;

/// A container of a pod that exists.
#[derive(Debug)]
pub struct Live {
    pub pod: PodKey,
    pub name: String,
}

/// What the usage of a container is evidence for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Workload and name of the container.
    pub container: WorkloadContainer,
    /// Revision of its pod and kind of its node.
    pub variant: Variant,
    /// When it started and became ready.
    pub lifetime: Lifetime,
}

#[derive(Debug, Default)]
pub struct Containers {
    live: HashMap<ContainerId, Live>,
    gone: HashMap<ContainerId, (Timestamp, Origin)>,
    /// In order of time; an entry counts only if its time is the one in `gone`.
    queue: VecDeque<(Timestamp, ContainerId)>,
}

impl Containers {
    pub fn live(&self, id: &ContainerId) -> Option<&Live> {
        self.live.get(id)
    }

    pub fn gone(&self, id: &ContainerId) -> Option<&Origin> {
        self.gone.get(id).map(|(_, origin)| origin)
    }

    pub fn insert(&mut self, id: ContainerId, live: Live) {
        self.live.insert(id, live);
    }

    pub fn remove(&mut self, id: &ContainerId) {
        self.live.remove(id);
    }

    /// Remembers whose it was.
    pub fn bury(&mut self, id: ContainerId, origin: Origin, now: Timestamp) {
        self.gone.insert(id, (now, origin));
        self.queue.push_back((now, id));
        while self.queue.len() > MAX_TOMBSTONES {
            self.forget_oldest();
        }
    }

    /// Forgets what went away too long ago.
    pub fn expire(&mut self, now: Timestamp) {
        while self.queue.front().is_some_and(|(at, _)| *at + TOMBSTONE_AGE <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((at, id)) = self.queue.pop_front()
            && self.gone.get(&id).is_some_and(|(buried, _)| *buried == at)
        {
            self.gone.remove(&id);
        }
    }
}
