//! All nodes of this process: which pod is on which, and what is due when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use optipod_common::ident::ContainerId;

use super::Now;
use super::events::Notice;
use super::node_agent::{NodeAgent, Output};
use super::pod::Worker;

/// Something that became due.
type Timer = Reverse<(Duration, String, Option<String>)>;

/// Many kubelets.
#[derive(Default)]
pub struct Fleet {
    nodes: BTreeMap<String, NodeAgent>,
    /// Node of each pod, by UID.
    index: HashMap<String, String>,
    timers: BinaryHeap<Timer>,
    /// Nodes that stand still.
    lost: BTreeSet<String>,
}

/// What calls left to do, for all nodes.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Pods whose status may differ from what the API server shows.
    pub dirty: BTreeSet<String>,
    /// Node, UID, and what is said.
    pub notices: Vec<(String, String, Notice)>,
}

impl Fleet {
    /// Adds a node.
    pub fn add(&mut self, node: NodeAgent) {
        self.nodes.insert(node.setup.node.clone(), node);
    }

    /// Its nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeAgent> {
        self.nodes.values()
    }

    /// A pod and its node.
    pub fn pod(&self, uid: &str) -> Option<(&NodeAgent, &Worker)> {
        let node = self.nodes.get(self.index.get(uid)?)?;
        Some((node, node.pod(uid)?))
    }

    /// Pods on all nodes.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True without pods.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Containers that run now.
    pub fn running(&self) -> usize {
        let containers = self.nodes.values().flat_map(NodeAgent::pods).flat_map(|pod| &pod.containers);
        containers.filter(|container| container.running()).count()
    }

    /// Nodes that stand still from now on; those that no longer do catch up.
    pub fn lose(&mut self, lost: BTreeSet<String>, now: Now, work: &mut Work) {
        let back: Vec<String> = self.lost.difference(&lost).cloned().collect();
        self.lost = lost;
        for name in back {
            let Some(node) = self.nodes.get(&name) else { continue };
            work.dirty.extend(node.pods().map(|pod| pod.uid.clone()));
            let pods: Vec<String> = node.pods().map(|pod| pod.uid.clone()).collect();
            for uid in pods {
                self.timers.push(Reverse((now.simulated, name.clone(), Some(uid))));
            }
        }
    }

    /// True while the node stands still.
    pub fn is_lost(&self, node: &str) -> bool {
        self.lost.contains(node)
    }

    /// The API server shows this pod. Older versions than the known one are ignored.
    pub fn apply(&mut self, pod: Pod, now: Now, work: &mut Work) {
        let Some(uid) = pod.uid() else { return };
        let Some(name) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
        let Some(node) = self.nodes.get_mut(&name) else { return };
        let version = |pod: &Pod| pod.resource_version().and_then(|version| version.parse::<u64>().ok());
        if node.pod(&uid).is_some_and(|known| version(&known.object) >= version(&pod)) {
            return;
        }
        self.index.insert(uid, name.clone());
        let mut out = Output::default();
        node.apply(pod, now, &mut out);
        self.take(&name, out, work);
    }

    /// The API server does not show this pod any more.
    pub fn remove(&mut self, uid: &str, now: Now, work: &mut Work) {
        let Some(name) = self.index.remove(uid) else { return };
        self.with(&name, work, |node, out| node.remove(uid, now, out));
        work.dirty.remove(uid);
    }

    /// The API server shows these pods and no others.
    pub fn retain(&mut self, uids: &BTreeSet<String>, now: Now, work: &mut Work) {
        let gone: Vec<String> = self.index.keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid, now, work);
        }
    }

    /// Does what became due.
    pub fn tick(&mut self, now: Now, work: &mut Work) {
        while self.timers.peek().is_some_and(|Reverse((at, _, _))| *at <= now.simulated) {
            let Some(Reverse((_, name, uid))) = self.timers.pop() else { return };
            if !self.lost.contains(&name) {
                self.with(&name, work, |node, out| node.wake(uid.as_deref(), now, out));
            }
        }
    }

    /// A container ended by itself, with this code and reason.
    pub fn exited(
        &mut self,
        uid: &str,
        container: (&str, ContainerId),
        ended: (i32, &'static str),
        now: Now,
        work: &mut Work,
    ) {
        let Some(name) = self.index.get(uid).cloned() else { return };
        self.with(&name, work, |node, out| node.exited(uid, container, ended, now, out));
    }

    /// Ends a pod because its node is short of something.
    pub fn evict(&mut self, uid: &str, message: &str, now: Now, work: &mut Work) {
        let Some(name) = self.index.get(uid).cloned() else { return };
        self.with(&name, work, |node, out| node.evict(uid, message, now, out));
    }

    fn with(&mut self, name: &str, work: &mut Work, act: impl FnOnce(&mut NodeAgent, &mut Output)) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let mut out = Output::default();
        act(node, &mut out);
        self.take(name, out, work);
    }

    fn take(&mut self, name: &str, out: Output, work: &mut Work) {
        let Output { dirty, wake, notices } = out;
        work.dirty.extend(dirty);
        work.notices.extend(notices.into_iter().map(|(uid, notice)| (name.to_owned(), uid, notice)));
        self.timers.extend(wake.into_iter().map(|(at, uid)| Reverse((at, name.to_owned(), uid))));
    }
}
