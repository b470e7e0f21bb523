//! The cluster as decisions need it: who owns which pod, what it has, which policy it follows.
//!
//! In: [`Change`]s, from watches. Out: answers to questions; no client, no clock, no I/O. Objects are reduced to facts
//! when they arrive, and the objects are dropped. The index is a function of the objects that exist, whatever the order
//! in which they came (a property test holds that), except for tombstones: containers that went away stay known for
//! [`TOMBSTONE_AGE`], so that the last usage of a dead container still finds its workload; and of a pod that we resize, what
//! it had before stays known.
//!
//! Work per event is O(changed): a pod touches its own entries, a ReplicaSet or Job its own pods. [`Index::select`] is
//! O(pods x policies) and belongs to an evaluation, not to an event.

mod budgets;
mod cluster;
mod configuration;
mod containers;
mod overrides;
mod owners;
mod pods;
mod policies;
mod rollout;
mod select;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use optipod_common::decide::{Followed, Plan};
use optipod_common::ident::{ContainerId, WorkloadContainer, WorkloadRef};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{Amounts, NodeFacts, PodFacts, QosClass, Resource, Resources};
use optipod_common::time::Timestamp;

use crate::api::OptimizationPolicy;
use budgets::{Budget, Named};
use cluster::Scalers;
use containers::Containers;
use owners::{OwnerKind, Owners};
use pods::{LabelSets, PodRecord};

pub use configuration::{CONFIG_MAP, Configuration};
pub use containers::{MAX_TOMBSTONES, Origin, TOMBSTONE_AGE};
pub use overrides::{OPTIMIZE, Overrides, PIN, POLICY, PREFIX as ANNOTATION_PREFIX, PolicyChoice};
pub use pods::{EVICTION, LANGUAGE_VARIABLES, TRACKING, resources_of, tells_resources};
pub use policies::PolicyEntry;
pub use rollout::Rollout;
pub use select::{Held, HeldBy, SelectedWorkload, Selection};

/// Name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What happened to objects of one kind.
#[derive(Clone, Debug)]
pub enum Delta<K> {
    /// It was created or changed.
    Apply(Box<K>),
    /// It was deleted.
    Delete(Box<K>),
    /// These are all there are, after a list.
    Replace(Vec<K>),
}

/// What happened in the cluster.
#[derive(Clone, Debug)]
pub enum Change {
    /// To pods.
    Pods(Delta<Pod>),
    /// To objects of kind `ReplicaSet`.
    ReplicaSets(Delta<ReplicaSet>),
    /// To objects of kind `Deployment`.
    Deployments(Delta<Deployment>),
    /// To objects of kind `StatefulSet`.
    StatefulSets(Delta<StatefulSet>),
    /// To objects of kind `DaemonSet`.
    DaemonSets(Delta<DaemonSet>),
    /// To objects of kind `Job`.
    Jobs(Delta<Job>),
    /// To objects of kind `CronJob`.
    CronJobs(Delta<PartialObjectMeta<CronJob>>),
    /// To objects of kind `Rollout`.
    Rollouts(Delta<PartialObjectMeta<Rollout>>),
    /// To nodes.
    Nodes(Delta<Node>),
    /// To namespaces.
    Namespaces(Delta<Namespace>),
    /// To policies, readable or not.
    Policies(Delta<DeserializeGuard<OptimizationPolicy>>),
    /// To objects of kind `HorizontalPodAutoscaler`.
    Hpas(Delta<HorizontalPodAutoscaler>),
    /// To objects of kind `ResourceQuota`.
    Quotas(Delta<ResourceQuota>),
    /// To objects of kind `PodDisruptionBudget`.
    Budgets(Delta<PodDisruptionBudget>),
    /// To the coordinator's own settings.
    Configuration(Delta<ConfigMap>),
    /// To whether the coordinator may read a kind.
    Forbidden {
        /// Such as `Pod`.
        kind: String,
        /// What the API server says; `None` = it is read again.
        why: Option<String>,
    },
}

/// What is needed to refer to the object of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerObject {
    /// Its group and version.
    pub api_version: String,
    /// Its uid.
    pub uid: String,
}

impl OwnerObject {
    /// As the owner of an object that goes with it; it does not wait for that.
    pub fn reference(&self, workload: &WorkloadRef) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.clone(),
            kind: workload.kind.clone(),
            name: workload.name.clone(),
            uid: self.uid.clone(),
            controller: Some(false),
            block_owner_deletion: Some(false),
        }
    }
}

/// A workload, and what its containers declare.
pub type Declared = (WorkloadRef, Vec<(String, Resources)>);

/// Where a pod stands: ready, and for each container whether it runs and how often it was started.
pub type Life = (bool, Vec<(bool, u32)>);

/// Kinds that must have been listed before the index is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listed {
    Pods,
    Owners(OwnerKind),
    Nodes,
    Namespaces,
    Policies,
    Hpas,
    Quotas,
    Budgets,
    Configuration,
}

/// How many they are: a cluster without Rollouts is complete, too.
const ALL_LISTED: usize = 14;

/// What the pods of a node ask for.
#[derive(Clone, Debug, Default)]
pub struct NodeLoad {
    /// Requests of all its containers, and what their sandboxes take.
    pub requests: Amounts,
    /// A pod that is bound to it and not admitted, or nominated for it: the scheduler made room for it there.
    pub admitting: Option<String>,
    /// CPU requests of its Burstable pods, without what falls: the weight of all of them.
    pub burstable: MilliCpu,
    /// It has Guaranteed pods.
    pub guaranteed: bool,
    /// What pods ask for less than their templates say.
    pub owed: Amounts,
    /// Peaks of the working sets of its pods, added up.
    pub peaks: Bytes,
}

/// What the coordinator knows of a pod beside what its object shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Its highest working set.
    pub peak: Bytes,
    /// A resize that was asked for and does not show yet. It counts where it takes more than what shows.
    pub asked: Option<&'a Plan>,
}

impl Known<'_> {
    /// What was asked for one container.
    fn requests(&self, container: &str) -> Amounts {
        let changes = self.asked.into_iter().flat_map(|plan| &plan.changes);
        let change = changes.into_iter().find(|change| change.container == container);
        change.map_or_else(Amounts::default, |change| change.to.requests)
    }
}

impl NodeLoad {
    /// As the scheduler counts: while a resize is under way what is asked for, allocated and actual, whichever is most; of
    /// one that the kubelet will never do, not what is asked for. Init containers run before the others. Of weight,
    /// whichever is least.
    fn add(&mut self, pod: &PodFacts, known: Known<'_>) {
        let infeasible = pod.pending.as_ref().is_some_and(|pending| pending.reason == "Infeasible");
        let (mut cpu, mut memory, mut weight) = (0_u64, 0_u64, 0_u64);
        for container in &pod.containers {
            let shown = (!infeasible).then_some(container.desired.requests);
            let actual = container.actual.map(|actual| actual.requests);
            let asked = Some(known.requests(&container.name));
            let taken = [shown, asked, container.allocated, actual].into_iter().flatten();
            let cpus = taken.clone().filter_map(|amounts| amounts.cpu);
            cpu = cpu.saturating_add(cpus.clone().max().unwrap_or_default().0);
            weight = weight.saturating_add(cpus.min().unwrap_or_default().0);
            let most = taken.filter_map(|amounts| amounts.memory).max().unwrap_or_default();
            memory = memory.saturating_add(most.0);
        }
        for init in &pod.init {
            let of_init = init.resources.requests.cpu.unwrap_or_default().0;
            (cpu, weight) = (cpu.max(of_init), weight.max(of_init));
            memory = memory.max(init.resources.requests.memory.unwrap_or_default().0);
        }
        match pod.qos_class() {
            QosClass::Burstable => self.burstable.0 = self.burstable.0.saturating_add(weight),
            QosClass::Guaranteed => self.guaranteed = true,
            QosClass::BestEffort => {}
        }
        self.take(cpu, memory);
        self.take(pod.overhead.cpu.unwrap_or_default().0, pod.overhead.memory.unwrap_or_default().0);
        self.peaks.0 = self.peaks.0.saturating_add(known.peak.0);
    }

    /// What the template of a container says beyond what the container asks for now, or is to ask for.
    fn owe(&mut self, declared: Amounts, desired: Amounts, asked: Amounts) {
        let more = |declared: Option<u64>, desired: Option<u64>, asked: Option<u64>| {
            let least = desired.map(|desired| desired.min(asked.unwrap_or(desired)));
            declared.zip(least).map_or(0, |(declared, least)| declared.saturating_sub(least))
        };
        let Amounts { cpu, memory } = self.owed;
        let more_cpu = more(declared.cpu.map(|c| c.0), desired.cpu.map(|c| c.0), asked.cpu.map(|c| c.0));
        let more_memory =
            more(declared.memory.map(|m| m.0), desired.memory.map(|m| m.0), asked.memory.map(|m| m.0));
        self.owed = Amounts {
            cpu: Some(MilliCpu(cpu.unwrap_or_default().0.saturating_add(more_cpu))),
            memory: Some(Bytes(memory.unwrap_or_default().0.saturating_add(more_memory))),
        };
    }

    /// More is asked for: millicores and bytes.
    pub fn take(&mut self, cpu: u64, memory: u64) {
        let Amounts { cpu: before, memory: memory_before } = self.requests;
        self.requests = Amounts {
            cpu: Some(MilliCpu(before.unwrap_or_default().0.saturating_add(cpu))),
            memory: Some(Bytes(memory_before.unwrap_or_default().0.saturating_add(memory))),
        };
    }

    /// What is left of what a node has to give; `None` where that is not known.
    pub fn free(&self, allocatable: Amounts) -> Option<Amounts> {
        let (cpu, memory) = (allocatable.cpu?, allocatable.memory?);
        let taken = (self.requests.cpu.unwrap_or_default(), self.requests.memory.unwrap_or_default());
        Some(Amounts {
            cpu: Some(MilliCpu(cpu.0.saturating_sub(taken.0.0))),
            memory: Some(Bytes(memory.0.saturating_sub(taken.1.0))),
        })
    }
}

/// The cluster as decisions need it.
#[derive(Debug)]
pub struct Index {
    own_namespace: String,
    scope: policies::Scope,
    field_manager: &'static str,
    pods: HashMap<PodKey, PodRecord>,
    /// Pods without those that have finished, by workload.
    workloads: BTreeMap<Arc<WorkloadRef>, BTreeSet<PodKey>>,
    /// Pods whose workload is named by their controller's own owner.
    by_controller: HashMap<String, BTreeSet<PodKey>>,
    /// Pods that are bound to a node, or nominated for it.
    by_node: HashMap<String, BTreeSet<PodKey>>,
    containers: Containers,
    /// Label sets of pods; those of one template share theirs.
    labels: LabelSets,
    owners: Owners,
    /// What earlier leaders said that workloads declare.
    told: HashMap<WorkloadRef, Vec<(String, Resources)>>,
    nodes: HashMap<String, NodeFacts>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    policies: BTreeMap<PolicyKey, PolicyEntry>,
    scalers: Scalers,
    /// What each quota leaves of requests.
    quotas: Named<Amounts>,
    budgets: Named<Budget>,
    configuration: Configuration,
    listed: BTreeSet<Listed>,
    /// What the API server says of kinds that may not be read.
    forbidden: BTreeMap<String, String>,
}

impl Index {
    /// An empty index. `own_namespace` and `cluster_policy_namespaces` are where policies may reach into other
    /// namespaces; `field_manager` is how our own resizes are told from those of others.
    pub fn new(
        own_namespace: String,
        cluster_policy_namespaces: Vec<String>,
        field_manager: &'static str,
    ) -> Self {
        Self {
            own_namespace: own_namespace.clone(),
            scope: policies::Scope::new(own_namespace, cluster_policy_namespaces),
            field_manager,
            pods: HashMap::new(),
            workloads: BTreeMap::new(),
            by_controller: HashMap::new(),
            by_node: HashMap::new(),
            containers: Containers::default(),
            labels: LabelSets::default(),
            owners: Owners::default(),
            told: HashMap::new(),
            nodes: HashMap::new(),
            namespaces: HashMap::new(),
            policies: BTreeMap::new(),
            scalers: Scalers::default(),
            quotas: Named::default(),
            budgets: Named::default(),
            configuration: Configuration::default(),
            listed: BTreeSet::new(),
            forbidden: BTreeMap::new(),
        }
    }

    /// Takes in a change. Returns the containers whose workload is known from now on, so that usage that came before
    /// may be joined.
    pub fn apply(&mut self, change: Change, now: Timestamp) -> Vec<ContainerId> {
        self.containers.expire(now);
        match change {
            Change::Pods(delta) => return self.apply_pods(delta, now),
            Change::ReplicaSets(delta) => return self.apply_owners(delta, now),
            Change::Deployments(delta) => return self.apply_owners(delta, now),
            Change::StatefulSets(delta) => return self.apply_owners(delta, now),
            Change::DaemonSets(delta) => return self.apply_owners(delta, now),
            Change::Jobs(delta) => return self.apply_owners(delta, now),
            Change::CronJobs(delta) => return self.apply_owners(delta, now),
            Change::Rollouts(delta) => return self.apply_owners(delta, now),
            Change::Nodes(delta) => self.apply_nodes(delta),
            Change::Namespaces(delta) => self.apply_namespaces(delta),
            Change::Policies(delta) => self.apply_policies(delta),
            Change::Hpas(delta) => self.apply_hpas(delta),
            Change::Quotas(delta) => self.apply_quotas(delta),
            Change::Budgets(delta) => self.apply_budgets(delta),
            Change::Configuration(delta) => self.apply_configuration(delta),
            Change::Forbidden { kind, why: Some(why) } => drop(self.forbidden.insert(kind, why)),
            Change::Forbidden { kind, why: None } => drop(self.forbidden.remove(&kind)),
        }
        Vec::new()
    }

    /// Why not all that is needed of the cluster can be read; `None` = nobody forbids it.
    pub fn forbidden(&self) -> Option<String> {
        let whys: Vec<&str> = self.forbidden.values().map(String::as_str).collect();
        (!whys.is_empty()).then(|| whys.join("; "))
    }

    /// Every kind was listed once: what is not here does not exist.
    pub fn synced(&self) -> bool {
        self.listed.len() == ALL_LISTED
    }

    /// Workload and name of a container, also for a while after it went away. `None` when it was never seen, or when the
    /// controller of its pod was not seen yet.
    pub fn container(&self, id: &ContainerId) -> Option<WorkloadContainer> {
        let live = self.containers.live(id).and_then(|live| {
            let workload = self.pods.get(&live.pod)?.workload.as_deref()?.clone();
            Some(WorkloadContainer { workload, container: live.name.clone() })
        });
        live.or_else(|| self.containers.gone(id).map(|origin| origin.container.clone()))
    }

    /// What the usage of a container is evidence for; known as long as [`Self::container`] is.
    pub fn origin(&self, id: &ContainerId) -> Option<Origin> {
        let live = self.containers.live(id).and_then(|live| {
            let record = self.pods.get(&live.pod)?;
            Some(pods::origin(&self.nodes, record, record.workload.as_deref()?, (Some(id), &live.name)))
        });
        live.or_else(|| self.containers.gone(id).cloned())
    }

    /// Running containers of a pod, each with what its usage is evidence for.
    pub fn running(&self, key: &PodKey) -> impl Iterator<Item = Origin> {
        let record = self.pods.get(key).filter(|record| record.facts.running);
        record.into_iter().flat_map(|record| {
            let running = record.facts.containers.iter().filter(|container| container.running);
            running.filter_map(|container| {
                Some(pods::origin(&self.nodes, record, record.workload.as_deref()?, (None, &container.name)))
            })
        })
    }

    /// When we last resized a pod.
    pub fn last_resize(&self, key: &PodKey) -> Option<Timestamp> {
        self.pods.get(key)?.facts.last_resize
    }

    /// Where a pod stands. Another answer than before is an event.
    pub fn life(&self, key: &PodKey) -> Option<Life> {
        let facts = &self.pods.get(key)?.facts;
        let containers = facts.containers.iter().map(|c| (facts.running && c.running, c.restarts));
        Some((facts.ready, containers.collect()))
    }

    /// The node that had no room for this pod of a Job: it is lost, and the Job makes another one or fails.
    pub fn lost_job(&self, key: &PodKey) -> Option<&str> {
        let record = self.pods.get(key).filter(|record| record.no_room && record.facts.job)?;
        record.node.as_deref()
    }

    /// What the pod of a living container requests for it.
    pub fn requests(&self, id: &ContainerId) -> Option<Amounts> {
        let live = self.containers.live(id)?;
        let containers = &self.pods.get(&live.pod)?.facts.containers;
        containers.iter().find(|container| container.name == live.name).map(|c| c.desired.requests)
    }

    /// Names of all pods.
    pub fn pod_keys(&self) -> impl Iterator<Item = &PodKey> {
        self.pods.keys()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeFacts> {
        self.nodes.values()
    }

    /// What the pods of every node ask for. O(pods): for an evaluation of whole policies.
    pub fn node_loads<'a>(&self, known: impl Fn(&PodFacts) -> Known<'a>) -> HashMap<String, NodeLoad> {
        self.by_node.keys().map(|node| (node.clone(), self.node_load(node, &known))).collect()
    }

    /// The same of the nodes that these pods are on.
    pub fn node_loads_of<'a, 'b>(
        &self,
        pods: impl IntoIterator<Item = &'a PodKey>,
        known: impl Fn(&PodFacts) -> Known<'b>,
    ) -> HashMap<String, NodeLoad> {
        let nodes: BTreeSet<&str> = pods.into_iter().filter_map(|pod| self.node_of(pod)).collect();
        nodes.into_iter().map(|node| (node.to_owned(), self.node_load(node, &known))).collect()
    }

    /// What a node's pods ask for, and which of them it has not admitted yet. O(pods of the node).
    fn node_load<'a>(&self, node: &str, known: &impl Fn(&PodFacts) -> Known<'a>) -> NodeLoad {
        let mut load = NodeLoad::default();
        for (_, record) in self.placed(node).filter(|(_, record)| record.node.is_some()) {
            let known = known(&record.facts);
            load.add(&record.facts, known);
            self.owe(record, known, &mut load);
        }
        load.admitting = self.admitting(node).map(ToString::to_string);
        load
    }

    /// Pods that are bound to a node or nominated for it, without finished ones.
    fn placed(&self, node: &str) -> impl Iterator<Item = (&PodKey, &PodRecord)> {
        let keys = self.by_node.get(node).into_iter().flatten();
        let placed = keys.filter_map(|key| Some((key, self.pods.get(key)?)));
        placed.filter(|(_, record)| !record.finished)
    }

    /// A pod that a node has not admitted yet, or that is nominated for it.
    pub fn admitting(&self, node: &str) -> Option<&PodKey> {
        self.placed(node).filter(|(_, record)| !record.admitted).map(|(key, _)| key).last()
    }

    /// The node that a pod is bound to or nominated for.
    pub fn place_of(&self, pod: &PodKey) -> Option<&str> {
        self.pods.get(pod)?.place()
    }

    /// What the template of a pod says beyond what the pod asks for now.
    fn owe(&self, record: &PodRecord, known: Known<'_>, load: &mut NodeLoad) {
        for container in &record.facts.containers {
            let declared = self.declared(record, &container.name, container.desired);
            let declared = declared.unwrap_or(container.desired);
            load.owe(declared.requests, container.desired.requests, known.requests(&container.name));
        }
    }

    /// The pod that a container is in, while it exists.
    pub fn pod_of(&self, id: &ContainerId) -> Option<&PodKey> {
        self.containers.live(id).map(|live| &live.pod)
    }

    /// Names of a pod's containers that have resources of their own.
    fn container_names(&self, pod: &PodKey) -> impl Iterator<Item = &str> {
        self.pods.get(pod).into_iter().flat_map(|pod| {
            let init = pod.facts.init.iter().map(|init| init.name.as_str());
            pod.facts.containers.iter().map(|container| container.name.as_str()).chain(init)
        })
    }

    /// Ids and names of a pod's containers, the previous life of a restarted one included.
    pub fn container_ids<'a>(
        &'a self,
        pod: &PodKey,
    ) -> impl Iterator<Item = (&'a ContainerId, &'a str)> + use<'a> {
        self.pods.get(pod).into_iter().flat_map(|p| p.ids.iter().map(|(id, name)| (id, name.as_str())))
    }

    /// Everything that a decision needs to know about a pod.
    pub fn facts(&self, key: &PodKey) -> Option<PodFacts> {
        let record = self.pods.get(key)?;
        let mut facts = record.facts.clone();
        facts.node = record.node.as_ref().and_then(|name| self.nodes.get(name)).cloned();
        let overrides = self.owners.overrides(record);
        for container in &mut facts.containers {
            let declared = self.declared(record, &container.name, container.desired);
            container.declaration_unknown = declared.is_none();
            container.declared = declared.unwrap_or_default();
            let pins = |resource| overrides.is_some_and(|o| o.pins(&container.name, resource));
            (container.cpu_pinned, container.memory_pinned) = (pins(Resource::Cpu), pins(Resource::Memory));
        }
        Some(facts)
    }

    /// The workload that a pod belongs to. `None` while its controller was not seen.
    pub fn workload_of(&self, key: &PodKey) -> Option<&WorkloadRef> {
        self.pods.get(key)?.workload.as_deref()
    }

    /// What the owner of a pod's workload says by annotation. `None` while its controller was not seen.
    pub fn overrides(&self, key: &PodKey) -> Option<&Overrides> {
        self.owners.overrides(self.pods.get(key)?)
    }

    /// Name of the node that a pod is bound to.
    pub fn node_of(&self, key: &PodKey) -> Option<&str> {
        self.pods.get(key)?.node.as_deref()
    }

    /// Pods of a workload, without finished ones.
    pub fn pods_of(&self, workload: &WorkloadRef) -> impl Iterator<Item = &PodKey> {
        self.workloads.get(workload).into_iter().flatten()
    }

    /// The object that a workload is: of one that has pods, what owns them, else what is watched.
    pub fn owner_of(&self, workload: &WorkloadRef) -> Option<OwnerObject> {
        if workload.kind == "Pod" {
            let key = PodKey { namespace: workload.namespace.clone(), name: workload.name.clone() };
            let uid = self.pods.get(&key)?.facts.uid.clone();
            return Some(OwnerObject { api_version: "v1".to_owned(), uid });
        }
        let pod = self.workloads.get(workload).and_then(BTreeSet::first);
        let of_pod = pod.and_then(|pod| self.owners.object_of(self.pods.get(pod)?));
        of_pod.or_else(|| self.owners.named(workload))
    }

    /// A workload has no pods that have not finished, and its object exists: a CronJob between two runs, a Deployment
    /// that is scaled to nothing.
    pub fn rests(&self, workload: &WorkloadRef) -> bool {
        !self.workloads.contains_key(workload)
            && !self.is_protected(&workload.namespace)
            && self.owners.named(workload).is_some()
    }

    /// A workload has pods that have not finished, or its object exists.
    pub fn exists(&self, workload: &WorkloadRef) -> bool {
        self.workloads.contains_key(workload) || self.rests(workload)
    }

    /// A node of this name exists.
    pub fn has_node(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// Workloads whose objects exist, and that have no pods.
    pub fn resting(&self) -> impl Iterator<Item = WorkloadRef> {
        self.owners.tops().filter(|workload| self.rests(workload)).cloned()
    }

    /// Nothing is done in `kube-system`, nor where the coordinator runs.
    pub fn is_protected(&self, namespace: &str) -> bool {
        namespace == "kube-system" || namespace == self.own_namespace
    }

    /// How many pods there are, finished ones included.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// How many workloads have pods.
    pub fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// All policies, readable or not, by name.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyEntry> {
        self.policies.values()
    }

    /// One policy.
    pub fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        self.policies.get(key)
    }

    /// Resources of a workload whose utilisation a HorizontalPodAutoscaler follows, with its targets.
    pub fn hpa_resources(&self, workload: &WorkloadRef) -> Vec<Followed> {
        self.scalers.resources(workload)
    }
}
