//! Requests, limits, QoS class, and the facts about a pod that decisions are made from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, MilliCpu};
use crate::time::Timestamp;

/// Kubernetes quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum QosClass {
    /// Every container has requests equal to limits for CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

/// The resources that can be resized in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        })
    }
}

/// An amount of each resource; `None` = not stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

impl Amounts {
    /// True when nothing is stated.
    pub const fn is_empty(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none()
    }

    /// `change` where it states something, else `self`.
    #[must_use]
    pub fn overlaid(self, change: Self) -> Self {
        Self { cpu: change.cpu.or(self.cpu), memory: change.memory.or(self.memory) }
    }
}

/// Requests and limits of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// What the scheduler reserves.
    #[serde(default)]
    pub requests: Amounts,
    /// What the kernel enforces.
    #[serde(default)]
    pub limits: Amounts,
}

impl Resources {
    /// `change` where it states something, else `self`.
    #[must_use]
    pub fn overlaid(self, change: Self) -> Self {
        Self {
            requests: self.requests.overlaid(change.requests),
            limits: self.limits.overlaid(change.limits),
        }
    }

    /// True when nothing is stated.
    pub const fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }
}

/// QoS class of a pod with these containers (kubernetes `pkg/apis/core/v1/helper/qos`, CPU and memory only; a zero
/// amount counts as not stated there, and does here).
pub fn qos_class<'a>(containers: impl IntoIterator<Item = &'a Resources>) -> QosClass {
    let (mut guaranteed, mut stated) = (true, false);
    for Resources { requests, limits } in containers {
        let positive = |cpu: Option<MilliCpu>, memory: Option<Bytes>| {
            (cpu.filter(|c| c.0 > 0), memory.filter(|m| m.0 > 0))
        };
        let (request, limit) = (positive(requests.cpu, requests.memory), positive(limits.cpu, limits.memory));
        stated |= request != (None, None) || limit != (None, None);
        guaranteed &= limit.0.is_some()
            && limit.1.is_some()
            && request.0.is_none_or(|r| Some(r) == limit.0)
            && request.1.is_none_or(|r| Some(r) == limit.1);
    }
    match (stated, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// A condition of `pods/resize` progress, as the kubelet wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeCondition {
    /// `Deferred`, `Infeasible`, `Error` or empty.
    pub reason: String,
    /// The kubelet's text.
    pub message: String,
    /// Generation of the pod that the condition is about: of the last attempt for `PodResizePending`, of the start for
    /// `PodResizeInProgress`. Absent before 1.34.
    pub observed_generation: Option<i64>,
}

/// What is known about a pod when it is decided on. Written by the coordinator's index from the API server's objects.
/// A fact that nobody observed has its default, and the guard that reads it stays silent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one pod, each read by its own guard")]
pub struct PodFacts {
    /// `metadata.uid`: fences every write.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion`: fences every write.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `status.observedGeneration`.
    pub observed_generation: Option<i64>,
    /// Which template it came from: the hash that its controller put on it as a label; empty without.
    pub revision: String,
    /// `status.qosClass`: fixed when the pod was created; `None` before the kubelet wrote it.
    pub qos: Option<QosClass>,
    /// `status.phase` is `Running`.
    pub running: bool,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// When it became ready for the first time, as far as its condition tells.
    pub ready_since: Option<Timestamp>,
    /// It was last resized while it was starting.
    pub boosted: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Mirror pod of a static pod.
    pub mirror: bool,
    /// `spec.os.name` is `windows`.
    pub windows: bool,
    /// `spec.resources` is set: pod-level resources.
    pub pod_level_resources: bool,
    /// `spec.priority`.
    pub priority: i32,
    /// `spec.runtimeClassName`.
    pub runtime_class: Option<String>,
    /// `spec.overhead`: what the sandbox takes beside the containers.
    pub overhead: Amounts,
    /// A Job runs it.
    pub job: bool,
    /// A DaemonSet runs it.
    pub daemon: bool,
    /// A queue or gang scheduler manages it (Kueue, Volcano, ...): its name.
    pub queue: Option<String>,
    /// Argo CD or Flux applies this very pod and would undo a resize: its name.
    pub gitops: Option<String>,
    /// An annotation forbids to evict it.
    pub eviction_forbidden: bool,
    /// Node that the pod is bound to, when it is known.
    pub node: Option<NodeFacts>,
    /// `PodResizePending`.
    pub pending: Option<ResizeCondition>,
    /// `PodResizeInProgress`.
    pub in_progress: Option<ResizeCondition>,
    /// When our field manager last wrote `pods/resize` (`managedFields[].time`).
    pub last_resize: Option<Timestamp>,
    /// Another field manager that wrote `pods/resize`.
    pub foreign_resizer: Option<String>,
    /// Containers and restartable init containers, in the order of the spec.
    pub containers: Vec<ContainerFacts>,
    /// Init containers that run to their end before the others start. Nothing is changed in them; what admission would
    /// change in them is seen.
    pub init: Vec<InitFacts>,
    /// Names of ephemeral containers.
    pub ephemeral: Vec<String>,
}

impl PodFacts {
    /// The class that the pod has and keeps: what the kubelet says, else computed from all its containers, those for
    /// initialisation included, as the API server does.
    pub fn qos_class(&self) -> QosClass {
        self.qos.unwrap_or_else(|| self.qos_class_with(|container| container.desired))
    }

    /// The class that the API server would compute if containers had these resources.
    pub fn qos_class_with(&self, resources: impl Fn(&ContainerFacts) -> Resources) -> QosClass {
        let containers: Vec<Resources> = self.containers.iter().map(resources).collect();
        qos_class(containers.iter().chain(self.init.iter().map(|init| &init.resources)))
    }

    /// Name and resources of every container, those for initialisation included.
    pub fn all_resources(&self) -> impl Iterator<Item = (&str, Resources)> {
        let containers = self.containers.iter().map(|c| (c.name.as_str(), c.desired));
        containers.chain(self.init.iter().map(|init| (init.name.as_str(), init.resources)))
    }
}

/// An init container that runs to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InitFacts {
    /// Name in the pod.
    pub name: String,
    /// Its resources.
    pub resources: Resources,
}

/// What is known about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one node, each read by its own guard")]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Architecture and instance type: CPU use is comparable within one class. Empty when not known.
    pub class: String,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// `spec.unschedulable`, or it is about to go: it is being deleted, or an autoscaler has tainted it for that.
    pub cordoned: bool,
    /// Condition `MemoryPressure` is `True`.
    pub memory_pressure: bool,
    /// Tasks of the node stall for memory (pressure stall information).
    pub memory_stalls: bool,
    /// The peaks of working sets of its pods add up to more than it has.
    pub overcommitted: bool,
    /// `status.allocatable`.
    pub allocatable: Amounts,
    /// Allocatable minus the requests of its pods; zero where they ask for more. `None` = not known.
    pub free: Option<Amounts>,
    /// A pod that is bound to it and not yet admitted, or nominated for it.
    pub admitting: Option<String>,
    /// Why pods on it cannot be resized in place: an old kubelet, a feature gate that is off.
    pub no_in_place: Option<String>,
    /// What keeps agents from seeing its pods: virtual kubelet, Fargate, Windows, cgroup v1.
    pub unobserved: Option<String>,
    /// By how much requests of Burstable pods on it shrank within the last hour, in thousandths of their sum.
    pub slice_shrunk: u64,
}

/// A language runtime that reads its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LanguageRuntime {
    /// The heap is sized from the memory limit at start.
    Jvm,
    /// GOMAXPROCS follows the CPU limit (1.25 and later).
    Go,
    /// The heap is sized at start.
    Node,
}

impl LanguageRuntime {
    /// It sizes its heap from the memory limit when it starts.
    pub const fn fixes_heap(self) -> bool {
        matches!(self, Self::Jvm | Self::Node)
    }

    /// Its parallelism follows the CPU limit while it runs.
    pub const fn follows_limit(self) -> bool {
        matches!(self, Self::Go)
    }
}

/// What an agent read of a container's cgroup beside its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of one cgroup, each read by its own guard"
)]
pub struct CgroupFacts {
    /// `memory.swap.max` is a number that is not 0, or something is swapped.
    pub swap: bool,
    /// `memory.high`, `memory.low` or `memory.min` follow the memory request (feature `MemoryQoS`).
    pub memory_qos: bool,
    /// `cpu.max.burst` is not 0.
    pub cpu_burst: bool,
    /// `cpuset.cpus` or `cpuset.mems` of its own: a static CPU or Memory manager gave it exclusive ones.
    pub exclusive_cpus: bool,
    /// The limits differ from those that the kubelet reports: something else writes them. Seen by the coordinator.
    pub foreign_writer: bool,
    /// `shmem` of `memory.stat`: files in tmpfs.
    pub shmem: Bytes,
}

/// What is known about a container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each read by its own guard")]
pub struct ContainerFacts {
    /// Name in the pod.
    pub name: String,
    /// `initContainers` with `restartPolicy: Always`.
    pub sidecar: bool,
    /// `spec.containers[].resources` of the pod: desired.
    pub desired: Resources,
    /// The same of the owner's template: what people declared. Equal to `desired` at creation.
    pub declared: Resources,
    /// Nobody can tell what was declared: no template is watched, and the pod was resized before it was first seen.
    pub declaration_unknown: bool,
    /// `status.containerStatuses[].allocatedResources`: requests only.
    pub allocated: Option<Amounts>,
    /// `status.containerStatuses[].resources`: actual.
    pub actual: Option<Resources>,
    /// `resizePolicy` of CPU is `RestartContainer`.
    pub cpu_restarts: bool,
    /// `resizePolicy` of memory is `RestartContainer`.
    pub memory_restarts: bool,
    /// State is `running`.
    pub running: bool,
    /// When it was started for the last time.
    pub started: Option<Timestamp>,
    /// `restartCount`.
    pub restarts: u32,
    /// `resourceFieldRef` hands CPU to the process.
    pub cpu_coupled: bool,
    /// `resourceFieldRef` hands memory to the process.
    pub memory_coupled: bool,
    /// An annotation pins the CPU of this container.
    pub cpu_pinned: bool,
    /// An annotation pins the memory of this container.
    pub memory_pinned: bool,
    /// `sizeLimit` of the `emptyDir` volumes of medium `Memory` that it mounts, added up.
    pub tmpfs: Bytes,
    /// What runs in it, as far as its image or environment tells.
    pub language: Option<LanguageRuntime>,
    /// From its cgroup.
    pub cgroup: CgroupFacts,
}

impl ContainerFacts {
    /// Its `resizePolicy` restarts it when this resource changes.
    pub const fn restarts(&self, resource: Resource) -> bool {
        match resource {
            Resource::Cpu => self.cpu_restarts,
            Resource::Memory => self.memory_restarts,
        }
    }

    /// Its `resizePolicy` restarts it for this change. The kubelet does so for a request alone, too.
    pub const fn restarts_for(&self, change: Resources) -> bool {
        let Resources { requests, limits } = change;
        (self.cpu_restarts && (requests.cpu.is_some() || limits.cpu.is_some()))
            || (self.memory_restarts && (requests.memory.is_some() || limits.memory.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(cpu: u64, memory: u64) -> Amounts {
        Amounts { cpu: (cpu > 0).then_some(MilliCpu(cpu)), memory: (memory > 0).then_some(Bytes(memory)) }
    }

    fn class(requests: Amounts, limits: Amounts) -> QosClass {
        qos_class([&Resources { requests, limits }])
    }

    #[test]
    fn qos_class_is_kubernetes_own() {
        assert_eq!(class(amounts(0, 0), amounts(0, 0)), QosClass::BestEffort);
        assert_eq!(class(amounts(100, 64), amounts(100, 64)), QosClass::Guaranteed);
        assert_eq!(class(amounts(0, 0), amounts(100, 64)), QosClass::Guaranteed);
        assert_eq!(class(amounts(100, 64), amounts(200, 64)), QosClass::Burstable);
        assert_eq!(class(amounts(100, 0), amounts(100, 0)), QosClass::Burstable);
        let full = Resources { requests: amounts(1, 1), limits: amounts(1, 1) };
        assert_eq!(qos_class([&full, &Resources::default()]), QosClass::Burstable);
        assert_eq!(qos_class([]), QosClass::BestEffort);
    }
}
