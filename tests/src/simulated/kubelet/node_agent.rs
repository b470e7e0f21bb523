//! The kubelet of one node: which pods it takes, what it asks their workers, when it tries deferred resizes again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use optipod_common::ident::ContainerId;

use super::containers::Containers;
use super::events::{Kind as EventKind, Notice};
use super::pod::{Stage, Surroundings, Worker, desired_of, reported};
use super::resize::{Allocations, Capacity, Refused};
use super::size::Sizes;
use super::status::pod_level;
use super::{Delays, Now};
use crate::simulated::faults::Board;

/// What a kubelet is made of.
#[derive(Clone)]
pub struct Setup {
    /// Name of its node.
    pub node: String,
    /// What the node has for pods.
    pub capacity: Capacity,
    /// CPU manager with policy `static`.
    pub static_cpus: bool,
    /// First address of pods; the last octet counts up to 254.
    pub pod_network: Ipv4Addr,
    /// Address of the node.
    pub address: Ipv4Addr,
    /// For container ids and addresses.
    pub seed: u64,
    /// How long things take.
    pub delays: Delays,
}

/// What a call left to do.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Pods whose status may differ from what the API server shows.
    pub dirty: BTreeSet<String>,
    /// When to look at which pod again, in simulated time; no pod: at deferred resizes.
    pub wake: Vec<(Duration, Option<String>)>,
    /// What is said, by UID.
    pub notices: Vec<(String, Notice)>,
}

/// One kubelet.
pub struct NodeAgent {
    /// What it is made of.
    pub setup: Setup,
    containers: Arc<dyn Containers>,
    board: Board,
    allocations: Allocations,
    pods: BTreeMap<String, Worker>,
    addresses: BTreeMap<u8, String>,
    /// How many pods of a name there were.
    incarnations: BTreeMap<(String, String), u32>,
    /// Deferred resizes are looked at then.
    retry: Option<Duration>,
}

impl NodeAgent {
    /// A kubelet without pods.
    pub fn new(setup: Setup, containers: Arc<dyn Containers>, board: Board) -> Self {
        let allocations = Allocations::new(setup.capacity, setup.static_cpus);
        Self {
            setup,
            containers,
            board,
            allocations,
            pods: BTreeMap::new(),
            addresses: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            retry: None,
        }
    }

    /// Its pods.
    pub fn pods(&self) -> impl Iterator<Item = &Worker> {
        self.pods.values()
    }

    /// A pod.
    pub fn pod(&self, uid: &str) -> Option<&Worker> {
        self.pods.get(uid)
    }

    /// What the node has promised.
    pub const fn allocations(&self) -> &Allocations {
        &self.allocations
    }

    /// A pod of this node was created or changed.
    pub fn apply(&mut self, pod: Pod, now: Now, out: &mut Output) {
        let Some(uid) = pod.uid() else { return };
        if self.pods.contains_key(&uid) {
            self.change(&uid, pod, now, out);
        } else {
            self.add(&uid, pod, now, out);
        }
    }

    fn add(&mut self, uid: &str, pod: Pod, now: Now, out: &mut Output) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let incarnation = self.incarnations.entry((namespace, name)).or_default();
        let mut worker = Worker::new(pod, uid.to_owned(), *incarnation, now, &self.setup.delays);
        *incarnation += 1;
        let phase = worker.object.status.as_ref().and_then(|status| status.phase.clone());
        if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
            // it ended before this process began
            worker.stage = Stage::Ended;
        } else if let Err(Refused { reason, message }) =
            self.allocations.admit(uid, desired_of(&worker.object), None)
        {
            let notice = Notice::new(EventKind::Rejected(reason.clone()), message.clone());
            out.notices.push((uid.to_owned(), notice));
            worker.stage = Stage::Rejected { reason, message: format!("Pod was rejected: {message}") };
        }
        self.pods.insert(uid.to_owned(), worker);
        self.sync(uid, now, out);
    }

    fn change(&mut self, uid: &str, pod: Pod, now: Now, out: &mut Output) {
        let Some(worker) = self.pods.get_mut(uid) else { return };
        let new = desired_of(&pod);
        let old = std::mem::replace(&mut worker.object, pod);
        let deleted = worker.object.metadata.deletion_timestamp != old.metadata.deletion_timestamp;
        let resized = new.sizes != desired_of(&old).sizes;
        let stale = new.generation != old.metadata.generation.unwrap_or(1);
        let shows = reported(&worker.object, &new.slots);
        let mut look = false;
        if resized && !worker.finished() {
            self.allocations.desire(uid, new);
            look = true;
        }
        look |= self.allocations.report(uid, shows);
        if deleted || stale {
            self.sync(uid, now, out);
        } else {
            // somebody may have written what is the kubelet's
            out.dirty.insert(uid.to_owned());
        }
        if look {
            self.try_deferred(now, out);
        }
    }

    /// The pod is gone from the API server.
    pub fn remove(&mut self, uid: &str, now: Now, out: &mut Output) {
        if self.pods.remove(uid).is_none() {
            return;
        }
        self.addresses.retain(|_, owner| owner != uid);
        // a force deletion comes without a word before
        drop(self.containers.remove_pod(uid));
        self.allocations.release(uid);
        if self.allocations.waiting() {
            self.try_deferred(now, out);
        }
    }

    /// A timer went off; without a pod, that of deferred resizes.
    pub fn wake(&mut self, uid: Option<&str>, now: Now, out: &mut Output) {
        match uid {
            Some(uid) => {
                let due = self.pods.get(uid).and_then(|worker| worker.due);
                if due.is_some_and(|due| due <= now.simulated) {
                    self.sync(uid, now, out);
                }
            }
            None => {
                if self.retry.is_some_and(|at| at <= now.simulated) {
                    self.retry = None;
                    self.try_deferred(now, out);
                }
            }
        }
    }

    /// A container ended by itself.
    pub fn exited(
        &mut self,
        uid: &str,
        container: (&str, ContainerId),
        ended: (i32, &'static str),
        now: Now,
        out: &mut Output,
    ) {
        if let Some(worker) = self.pods.get_mut(uid) {
            worker.exited(container.0, container.1, ended.0, ended.1, now);
            self.sync(uid, now, out);
        }
    }

    /// Ends a pod because the node is short of something.
    pub fn evict(&mut self, uid: &str, message: &str, now: Now, out: &mut Output) {
        if let Some(worker) = self.pods.get_mut(uid).filter(|worker| !worker.finished()) {
            worker.evicted = Some(message.to_owned());
            out.notices.push((uid.to_owned(), Notice::new(EventKind::Evicted, message.to_owned())));
            self.sync(uid, now, out);
        }
    }

    fn sync(&mut self, uid: &str, now: Now, out: &mut Output) {
        let Some(mut worker) = self.pods.remove(uid) else { return };
        let (namespace, name) = worker.names();
        let held = self.allocations.held();
        let mut notices = Vec::new();
        let mut around = Surroundings {
            now,
            delays: &self.setup.delays,
            containers: self.containers.as_ref(),
            fault: self.board.resize(&self.setup.node, &namespace, &name, uid),
            allocations: &mut self.allocations,
            seed: self.setup.seed,
            notices: &mut notices,
        };
        worker.sync(&mut around);
        if matches!(worker.stage, Stage::Active) && worker.ip.is_none() {
            worker.ip = self.address(&worker, uid);
        }
        let nothing = Sizes::new();
        let allocated = self.allocations.allocated(uid).or(worker.kept.as_ref()).unwrap_or(&nothing);
        worker.pod_level = pod_level(&worker, allocated);
        if !worker.finished() {
            let resync = now.simulated + self.setup.delays.resync;
            let due = worker.due.map_or(resync, |due| due.min(resync));
            worker.due = Some(due);
            out.wake.push((due, Some(uid.to_owned())));
        }
        out.notices.extend(notices.into_iter().map(|notice| (uid.to_owned(), notice)));
        out.dirty.insert(uid.to_owned());
        self.pods.insert(uid.to_owned(), worker);
        if self.allocations.held().shrinks(held) && self.allocations.waiting() {
            self.try_deferred(now, out);
        }
    }

    fn try_deferred(&mut self, now: Now, out: &mut Output) {
        let (board, pods, node) = (&self.board, &self.pods, &self.setup.node);
        let changes = self.allocations.retry(now.wall, |uid| {
            let (namespace, name) = pods.get(uid)?.names();
            board.resize(node, &namespace, &name, uid)
        });
        out.notices.extend(changes.notices);
        for uid in changes.sync {
            self.sync(&uid, now, out);
        }
        if self.allocations.waiting() && self.retry.is_none_or(|at| at <= now.simulated) {
            let at = now.simulated + self.setup.delays.deferred;
            self.retry = Some(at);
            out.wake.push((at, None));
        }
    }

    /// The address of the pod: the node's, or one that its name leads to.
    fn address(&mut self, worker: &Worker, uid: &str) -> Option<Ipv4Addr> {
        let spec = worker.object.spec.as_ref()?;
        if spec.host_network == Some(true) {
            return Some(self.setup.address);
        }
        let (namespace, name) = worker.names();
        let id =
            super::containers::container_id(self.setup.seed, &[&namespace, &name, "address"]).to_string();
        let start = u16::from_str_radix(id.get(..4)?, 16).ok()?;
        let octet = (0..254).find_map(|step| {
            let octet = u8::try_from((start.wrapping_add(step)) % 254 + 1).ok()?;
            (!self.addresses.contains_key(&octet)).then_some(octet)
        })?;
        self.addresses.insert(octet, uid.to_owned());
        let [a, b, c, _] = self.setup.pod_network.octets();
        Some(Ipv4Addr::new(a, b, c, octet))
    }
}
