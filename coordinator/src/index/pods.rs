//! A pod reduced to facts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, DownwardAPIVolumeFile, Pod, PodSpec, PodStatus, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use optipod_common::ident::{ContainerId, WorkloadContainer, WorkloadRef};
use optipod_common::quantity::Bytes;
use optipod_common::resources::{
    Amounts, ContainerFacts, InitFacts, LanguageRuntime, NodeFacts, PodFacts, QosClass, ResizeCondition,
    Resource, Resources,
};
use optipod_common::startup::Lifetime;
use optipod_common::store::Variant;
use optipod_common::time::Timestamp;

use super::containers::{Live, Origin};
use super::overrides::Overrides;
use super::owners::Link;
use super::{Delta, Index, Listed, PodKey};

/// What is kept of a pod.
#[derive(Debug)]
pub struct PodRecord {
    /// Without node and declared resources: those are looked up when asked for.
    pub facts: PodFacts,
    pub node: Option<String>,
    /// Node on which the scheduler evicts others for it, before it is bound.
    pub nominated: Option<String>,
    pub controller: Option<Link>,
    pub labels: Arc<BTreeMap<String, String>>,
    /// Of the pod itself; its controller's count where one is watched.
    pub overrides: Overrides,
    pub ids: Vec<(ContainerId, String)>,
    /// Lives of its containers that are over: the facts are about the present ones.
    over: Vec<(ContainerId, Lifetime)>,
    /// Phase Succeeded or Failed.
    pub finished: bool,
    /// The kubelet refused it for want of CPU or memory: the scheduler had counted otherwise.
    pub no_room: bool,
    /// What its containers had before we resized it, where that was seen.
    pub created: Vec<(String, Resources)>,
    /// The kubelet took it.
    pub admitted: bool,
    /// `None` while its controller was not seen.
    pub workload: Option<Arc<WorkloadRef>>,
}

/// Label sets, each held once however many pods have it.
#[derive(Debug, Default)]
pub struct LabelSets(HashSet<Arc<BTreeMap<String, String>>>);

impl LabelSets {
    fn share(&mut self, labels: BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        if let Some(shared) = self.0.get(&labels) {
            return Arc::clone(shared);
        }
        let shared = Arc::new(labels);
        self.0.insert(Arc::clone(&shared));
        shared
    }

    /// Forgets a set that nobody but the caller has any more.
    fn release(&mut self, labels: &Arc<BTreeMap<String, String>>) {
        // this one, and the one in the set
        if Arc::strong_count(labels) <= 2 {
            self.0.remove(labels);
        }
    }
}

/// Amounts of a list of resources. What cannot be read counts as not stated.
pub fn amounts_of(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    fn amount<T: FromStr>(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<T> {
        list?.get(name)?.0.parse().ok()
    }
    Amounts { cpu: amount(list, "cpu"), memory: amount(list, "memory") }
}

/// CPU and memory of a container's resources. What cannot be read counts as not stated.
pub fn resources_of(resources: Option<&ResourceRequirements>) -> Resources {
    Resources {
        requests: amounts_of(resources.and_then(|r| r.requests.as_ref())),
        limits: amounts_of(resources.and_then(|r| r.limits.as_ref())),
    }
}

/// What the usage of one container of a pod is evidence for. Without `id` it is about the life that it has now.
pub fn origin(
    nodes: &HashMap<String, NodeFacts>,
    record: &PodRecord,
    workload: &WorkloadRef,
    (id, name): (Option<&ContainerId>, &str),
) -> Origin {
    let node = record.node.as_ref().and_then(|node| nodes.get(node));
    Origin {
        container: WorkloadContainer { workload: workload.clone(), container: name.to_owned() },
        variant: Variant {
            revision: record.facts.revision.clone(),
            node_class: node.map_or_else(String::new, |node| node.class.clone()),
        },
        lifetime: record.lifetime(id, name),
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Containers that live as long as the pod, and whether each is a sidecar.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, bool)> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| (c, true));
    spec.containers.iter().map(|c| (c, false)).chain(sidecars)
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
}

/// Files that the downward API writes into a volume.
fn files(volume: &Volume) -> impl Iterator<Item = &DownwardAPIVolumeFile> {
    let own = volume.downward_api.iter().flat_map(|source| source.items.iter().flatten());
    let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
    own.chain(projected.filter_map(|source| source.downward_api.as_ref()?.items.as_ref()).flatten())
}

/// A volume tells processes a resource of a container.
pub fn tells_resources(volume: &Volume) -> bool {
    files(volume).any(|file| file.resource_field_ref.is_some())
}

/// What environment and files of a pod's containers tell them about which resource of which container.
fn coupled(spec: &PodSpec) -> BTreeSet<(&str, Resource)> {
    let told = containers(spec).flat_map(|(container, _)| {
        container.env.iter().flatten().filter_map(move |env| {
            let reference = env.value_from.as_ref()?.resource_field_ref.as_ref()?;
            Some((container.name.as_str(), reference))
        })
    });
    let written = spec.volumes.iter().flatten().flat_map(files);
    let written = written.filter_map(|file| Some(("", file.resource_field_ref.as_ref()?)));
    told.chain(written)
        .filter_map(|(container, reference)| {
            let of = reference.container_name.as_deref().filter(|name| !name.is_empty());
            Some((of.unwrap_or(container), reference.resource.rsplit('.').next()?))
        })
        .filter_map(|(container, resource)| match resource {
            "cpu" => Some((container, Resource::Cpu)),
            "memory" => Some((container, Resource::Memory)),
            _ => None,
        })
        .collect()
}

fn restarts(container: &Container, resource: &str) -> bool {
    let policies = container.resize_policy.iter().flatten();
    policies.into_iter().any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
}

/// The runtime that a container's environment is meant for: variables that only one of them reads.
fn language(container: &Container) -> Option<LanguageRuntime> {
    container.env.iter().flatten().find_map(|variable| match variable.name.as_str() {
        "JAVA_TOOL_OPTIONS" | "JDK_JAVA_OPTIONS" | "JAVA_OPTS" => Some(LanguageRuntime::Jvm),
        "NODE_OPTIONS" => Some(LanguageRuntime::Node),
        "GODEBUG" | "GOGC" | "GOMEMLIMIT" => Some(LanguageRuntime::Go),
        _ => None,
    })
}

/// Names of the variables that `language` looks at.
pub const LANGUAGE_VARIABLES: [&str; 7] =
    ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_OPTS", "NODE_OPTIONS", "GODEBUG", "GOGC", "GOMEMLIMIT"];

/// Sizes of the volumes in memory that a container mounts: one without a limit of its own is as large as the kubelet makes
/// it, which is the memory limit.
fn tmpfs(spec: &PodSpec, container: &Container) -> Bytes {
    let sizes = container.volume_mounts.iter().flatten().filter_map(|mount| {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
        let empty = volume.empty_dir.as_ref().filter(|e| e.medium.as_deref() == Some("Memory"))?;
        let limit = empty.size_limit.as_ref().and_then(|limit| limit.0.parse::<Bytes>().ok());
        limit.filter(|limit| limit.0 > 0).or(resources_of(container.resources.as_ref()).limits.memory)
    });
    Bytes(sizes.fold(0, |sum, size| sum.saturating_add(size.0)))
}

fn container_facts(
    spec: &PodSpec,
    (container, sidecar): (&Container, bool),
    status: Option<&ContainerStatus>,
    coupled: &BTreeSet<(&str, Resource)>,
) -> ContainerFacts {
    let running = status.and_then(|s| s.state.as_ref()).and_then(|state| state.running.as_ref());
    ContainerFacts {
        name: container.name.clone(),
        sidecar,
        desired: resources_of(container.resources.as_ref()),
        declared: Resources::default(),
        allocated: status.and_then(|s| s.allocated_resources.as_ref()).map(|a| amounts_of(Some(a))),
        actual: status.and_then(|s| s.resources.as_ref()).map(|r| resources_of(Some(r))),
        cpu_restarts: restarts(container, "cpu"),
        memory_restarts: restarts(container, "memory"),
        running: running.is_some(),
        started: running.and_then(|running| running.started_at.as_ref()).map(|time| timestamp(&time.0)),
        restarts: status.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0)),
        cpu_coupled: coupled.contains(&(&container.name, Resource::Cpu)),
        memory_coupled: coupled.contains(&(&container.name, Resource::Memory)),
        tmpfs: tmpfs(spec, container),
        language: language(container),
        ..ContainerFacts::default()
    }
}

fn timestamp(time: &k8s_openapi::jiff::Timestamp) -> Timestamp {
    Timestamp::from_unix_micros(time.as_microsecond())
}

/// Init containers that run to their end.
fn init_facts(spec: &PodSpec) -> Vec<InitFacts> {
    let plain = spec.init_containers.iter().flatten().filter(|container| !is_sidecar(container));
    plain
        .map(|container| InitFacts {
            name: container.name.clone(),
            resources: resources_of(container.resources.as_ref()),
        })
        .collect()
}

/// The queue or gang scheduler that counts a pod's requests, by the labels that they put on it.
fn queue(labels: &BTreeMap<String, String>) -> Option<String> {
    let known = [
        ("kueue.x-k8s.io/queue-name", "Kueue"),
        ("kueue.x-k8s.io/managed", "Kueue"),
        ("volcano.sh/job-name", "Volcano"),
        ("scheduling.x-k8s.io/pod-group", "a pod group"),
    ];
    known.into_iter().find(|(label, _)| labels.contains_key(*label)).map(|(_, name)| name.to_owned())
}

/// Who applies a pod that has no owner.
fn gitops(meta: &ObjectMeta) -> Option<String> {
    if meta.owner_references.iter().flatten().next().is_some() {
        return None;
    }
    let known = [
        ("argocd.argoproj.io/instance", "Argo CD"),
        ("kustomize.toolkit.fluxcd.io/name", "Flux"),
        ("helm.toolkit.fluxcd.io/name", "Flux"),
    ];
    let has = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().is_some_and(|map| map.contains_key(key))
    };
    let by_label = known.into_iter().find(|(label, _)| has(&meta.labels, label)).map(|(_, name)| name);
    let by_annotation = has(&meta.annotations, TRACKING).then_some("Argo CD");
    by_label.or(by_annotation).map(str::to_owned)
}

/// Annotation by which Argo CD tracks what it applies, unless it is told to use labels.
pub const TRACKING: &str = "argocd.argoproj.io/tracking-id";

/// Annotations by which people forbid to evict a pod.
pub const EVICTION: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")];

fn qos(status: &PodStatus) -> Option<QosClass> {
    match status.qos_class.as_deref()? {
        "Guaranteed" => Some(QosClass::Guaranteed),
        "Burstable" => Some(QosClass::Burstable),
        "BestEffort" => Some(QosClass::BestEffort),
        _ => None,
    }
}

fn condition(status: &PodStatus, kind: &str) -> Option<ResizeCondition> {
    let found = status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")?;
    let (reason, message) = (found.reason.clone(), found.message.clone());
    Some(ResizeCondition {
        reason: reason.unwrap_or_default(),
        message: message.unwrap_or_default(),
        observed_generation: found.observed_generation,
    })
}

/// Field managers that wrote `pods/resize`, with the time.
fn resizers(meta: &ObjectMeta) -> impl Iterator<Item = (&str, Option<Timestamp>)> {
    let time = |entry: &ManagedFieldsEntry| {
        entry.time.as_ref().map(|t| Timestamp::from_unix_micros(t.0.as_microsecond()))
    };
    let entries = meta.managed_fields.iter().flatten();
    entries
        .filter(|e| e.subresource.as_deref() == Some("resize"))
        .map(move |e| (e.manager.as_deref().unwrap_or_default(), time(e)))
}

/// Labels by which controllers tell the pods of one revision from those of another.
const REVISIONS: [&str; 3] = ["rollouts-pod-template-hash", "pod-template-hash", "controller-revision-hash"];

/// Lives that are over, each with its start: a container that is not running any more, and the one before.
fn over(status: &ContainerStatus) -> impl Iterator<Item = (ContainerId, Timestamp)> {
    [&status.state, &status.last_state].into_iter().flatten().filter_map(|state| {
        let ended = state.terminated.as_ref()?;
        let id = ContainerId::from_status(ended.container_id.as_deref()?).ok()?;
        Some((id, timestamp(&ended.started_at.as_ref()?.0)))
    })
}

/// Ids of the containers of a pod that are right-sized, and of the previous life of those that restarted.
fn container_ids(status: &PodStatus, facts: &[ContainerFacts]) -> Vec<(ContainerId, String)> {
    statuses(status)
        .filter(|s| facts.iter().any(|c| c.name == s.name))
        .flat_map(|s| {
            let last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref());
            let ids =
                s.container_id.as_deref().into_iter().chain(last.and_then(|t| t.container_id.as_deref()));
            ids.filter_map(|id| ContainerId::from_status(id).ok()).map(|id| (id, s.name.clone()))
        })
        .collect()
}

impl PodRecord {
    fn new(pod: Pod, key: &PodKey, field_manager: &str, labels: &mut LabelSets) -> Self {
        let (meta, spec) = (pod.metadata, pod.spec.unwrap_or_default());
        let status = pod.status.unwrap_or_default();
        let coupled = coupled(&spec);
        let containers: Vec<_> = containers(&spec)
            .map(|(container, sidecar)| {
                let status = statuses(&status).find(|s| s.name == container.name);
                container_facts(&spec, (container, sidecar), status, &coupled)
            })
            .collect();
        let phase = status.phase.as_deref().unwrap_or_default();
        let controller = Link::of(&meta);
        let none = BTreeMap::new();
        let own = meta.labels.as_ref().unwrap_or(&none);
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        let ours = resizers(&meta).filter(|(manager, _)| *manager == field_manager);
        let others = resizers(&meta).filter(|(manager, _)| *manager != field_manager);
        let facts = PodFacts {
            revision: REVISIONS.iter().find_map(|label| own.get(*label)).cloned().unwrap_or_default(),
            qos: qos(&status),
            ready: ready.is_some_and(|c| c.status == "True"),
            ready_since: ready.and_then(|c| c.last_transition_time.as_ref()).map(|time| timestamp(&time.0)),
            runtime_class: spec.runtime_class_name.clone(),
            overhead: amounts_of(spec.overhead.as_ref()),
            job: controller.as_ref().is_some_and(|link| link.kind == "Job"),
            daemon: controller.as_ref().is_some_and(|link| link.kind == "DaemonSet"),
            queue: queue(own),
            gitops: gitops(&meta),
            eviction_forbidden: EVICTION.iter().any(|(key, value)| {
                meta.annotations.as_ref().and_then(|a| a.get(*key)).is_some_and(|v| v == value)
            }),
            init: init_facts(&spec),
            ephemeral: spec.ephemeral_containers.iter().flatten().map(|c| c.name.clone()).collect(),
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            observed_generation: status.observed_generation,
            running: phase == "Running",
            terminating: meta.deletion_timestamp.is_some(),
            mirror: meta.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")),
            windows: spec.os.as_ref().is_some_and(|os| os.name == "windows"),
            pod_level_resources: spec.resources.is_some(),
            priority: spec.priority.unwrap_or_default(),
            node: None,
            pending: condition(&status, "PodResizePending"),
            in_progress: condition(&status, "PodResizeInProgress"),
            last_resize: ours.filter_map(|(_, time)| time).max(),
            foreign_resizer: others.max_by_key(|(_, time)| *time).map(|(manager, _)| manager.to_owned()),
            containers,
            ..PodFacts::default()
        };
        Self {
            admitted: status.start_time.is_some() || phase != "Pending",
            ids: container_ids(&status, &facts.containers),
            // when it was ready is not known: it counts as its use at runtime
            over: statuses(&status)
                .flat_map(over)
                .map(|(id, started)| (id, Lifetime { started: Some(started), ready_since: Some(started) }))
                .collect(),
            facts,
            node: spec.node_name.filter(|name| !name.is_empty()),
            nominated: status.nominated_node_name.filter(|name| !name.is_empty()),
            controller,
            labels: labels.share(meta.labels.unwrap_or_default()),
            overrides: Overrides::new(meta.annotations.as_ref()),
            created: Vec::new(),
            finished: matches!(phase, "Succeeded" | "Failed"),
            no_room: phase == "Failed"
                && matches!(status.reason.as_deref(), Some("OutOfcpu" | "OutOfmemory")),
            workload: None,
        }
    }

    /// When a container started and became ready.
    fn lifetime(&self, id: Option<&ContainerId>, name: &str) -> Lifetime {
        let over = id.and_then(|id| self.over.iter().find(|(over, _)| over == id));
        over.map_or_else(
            || Lifetime {
                started: self.facts.containers.iter().find(|c| c.name == name).and_then(|c| c.started),
                ready_since: self.facts.ready_since.filter(|_| self.facts.ready),
            },
            |(_, lifetime)| *lifetime,
        )
    }

    /// Takes over what an earlier state of the pod knew of lives that are over now.
    fn learn(&mut self, earlier: &Self) {
        for (id, lifetime) in &mut self.over {
            if let Some((_, name)) = earlier.ids.iter().find(|(known, _)| known == id) {
                let known = earlier.lifetime(Some(id), name);
                lifetime.ready_since =
                    if known.started.is_some() { known.ready_since } else { lifetime.ready_since };
            }
        }
    }
}

impl PodRecord {
    /// Where it is, or is to be.
    pub fn place(&self) -> Option<&str> {
        self.node.as_deref().or(self.nominated.as_deref())
    }
}

impl PodKey {
    /// The name of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl Index {
    pub(super) fn apply_pods(&mut self, delta: Delta<Pod>, now: Timestamp) -> Vec<ContainerId> {
        match delta {
            Delta::Apply(pod) => self.put_pod(*pod, now),
            Delta::Delete(pod) => {
                self.remove_pod(&PodKey::of(&pod), &[], now);
                Vec::new()
            }
            Delta::Replace(pods) => {
                let kept: BTreeSet<PodKey> = pods.iter().map(PodKey::of).collect();
                let lost: Vec<PodKey> = self.pods.keys().filter(|key| !kept.contains(key)).cloned().collect();
                for key in lost {
                    self.remove_pod(&key, &[], now);
                }
                self.listed.insert(Listed::Pods);
                pods.into_iter().flat_map(|pod| self.put_pod(pod, now)).collect()
            }
        }
    }

    fn put_pod(&mut self, pod: Pod, now: Timestamp) -> Vec<ContainerId> {
        let key = PodKey::of(&pod);
        let mut record = PodRecord::new(pod, &key, self.field_manager, &mut self.labels);
        if let Some(earlier) = self.pods.get(&key) {
            record.learn(earlier);
        }
        if record.facts.last_resize.is_some()
            && let Some(before) = self.pods.get(&key).filter(|before| before.facts.uid == record.facts.uid)
        {
            let containers = before.facts.containers.iter();
            record.created = match before.facts.last_resize {
                None => containers.map(|container| (container.name.clone(), container.desired)).collect(),
                Some(_) => before.created.clone(),
            };
        }
        let known = self.remove_pod(&key, &record.ids, now);
        for (id, name) in &record.ids {
            self.containers.insert(*id, Live { pod: key.clone(), name: name.clone() });
        }
        if let Some(link) = &record.controller {
            self.by_controller.entry(link.uid.clone()).or_default().insert(key.clone());
        }
        if let Some(node) = record.place() {
            self.by_node.entry(node.to_owned()).or_default().insert(key.clone());
        }
        self.pods.insert(key.clone(), record);
        let mut resolved = self.resolve(&key, now);
        resolved.retain(|id| !known.contains(id));
        resolved
    }

    /// Removes a pod and buries its containers, but for those that `stay`. Returns the ids whose workload was known.
    fn remove_pod(
        &mut self,
        key: &PodKey,
        stay: &[(ContainerId, String)],
        now: Timestamp,
    ) -> BTreeSet<ContainerId> {
        let Some(record) = self.pods.remove(key) else { return BTreeSet::new() };
        if let Some(link) = &record.controller
            && let Some(pods) = self.by_controller.get_mut(&link.uid)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.by_controller.remove(&link.uid);
            }
        }
        if let Some(node) = record.place()
            && let Some(pods) = self.by_node.get_mut(node)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.by_node.remove(node);
            }
        }
        if let Some(workload) = &record.workload
            && let Some(pods) = self.workloads.get_mut(workload)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.workloads.remove(workload);
            }
        }
        self.labels.release(&record.labels);
        for (id, name) in record.ids.iter().filter(|(id, _)| !stay.iter().any(|(kept, _)| kept == id)) {
            self.containers.remove(id);
            if let Some(workload) = &record.workload {
                let origin = origin(&self.nodes, &record, workload, (Some(id), name));
                self.containers.bury(*id, origin, now);
            }
        }
        if record.workload.is_some() {
            record.ids.into_iter().map(|(id, _)| id).collect()
        } else {
            BTreeSet::new()
        }
    }
}
