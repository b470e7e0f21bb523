//! Why something is not done: one list for condition reasons, Event reasons, metric labels and log fields.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resources::Resource;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// Why something is not done, or why it is taken back.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[doc = $doc])* $name),* }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// In UpperCamelCase, as conditions and Events want it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*)),* }
            }
        }
    };
}

reasons! {
    // ---- what people asked for
    /// The policy's mode is `Disabled`.
    ModeDisabled,
    /// The policy's mode is `Recommend`.
    ModeRecommend,
    /// Dry run is on, for the coordinator or for the policy.
    DryRun,
    /// Another policy with precedence selects the workload.
    PolicyConflict,
    /// The workload's owner opted out by annotation.
    OptedOut,
    /// An annotation of the workload cannot be read.
    AnnotationInvalid,
    /// The policy that the workload's annotation names does not select it.
    PolicyNotFound,
    /// The workload's controller was not seen yet: what its annotations say is not known.
    OwnerUnknown,
    /// An annotation of the workload pins this resource.
    Pinned,
    /// The policy only recommends this resource.
    NotControlled,
    /// The policy does not allow in-place resize.
    InPlaceNotAllowed,
    /// The policy's windows do not allow this kind of change now.
    OutsideWindow,
    /// The policy forbids memory decreases.
    MemoryDecreaseForbidden,
    /// A new version of the strategy runs in shadow: it shows its difference and acts when it is pinned.
    StrategyShadow,
    // ---- what is never touched
    /// `kube-system` and the coordinator's own namespace are never touched.
    ProtectedNamespace,
    /// The pod's priority is system-critical.
    SystemCritical,
    /// Static pods cannot be resized.
    StaticPod,
    /// Windows pods cannot be resized.
    WindowsPod,
    /// Pod-level resources are decided at pod level.
    PodLevelResources,
    /// The pod's `RuntimeClass` is not known to follow a resize (Kata, gVisor).
    RuntimeClassNotAllowed,
    /// Argo CD or Flux applies this very pod and would undo a resize.
    GitOpsOwned,
    /// A queue or gang scheduler manages the pod and counts its requests.
    QueueManaged,
    // ---- what cannot be done now
    /// The pod does not run.
    PodNotRunning,
    /// The pod is being deleted.
    PodTerminating,
    /// The node is unknown or not Ready.
    NodeNotReady,
    /// The node is cordoned or drained.
    NodeCordoned,
    /// No agent can see the pods of this node.
    NodeNotObserved,
    /// The node's kubelet cannot resize in place.
    InPlaceUnsupported,
    /// Another controller resizes the pod.
    ForeignResizer,
    /// Something else than the kubelet writes the container's cgroup.
    ForeignCgroupWriter,
    /// A resize of ours is under way.
    ResizeInFlight,
    /// A resize failed not long ago.
    BackingOff,
    /// Resizes of the workload failed again and again: it is left alone.
    WorkloadPaused,
    /// As many resizes are under way as the policy allows.
    ConcurrencyLimit,
    /// The writes that the cluster may take are spent.
    WriteBudgetSpent,
    /// Other pods of the workload try the change first.
    CanaryObserving,
    // ---- evidence
    /// The coordinator has not heard long enough since it became leader.
    CoordinatorStarting,
    /// The clock jumped: one interval has to pass before anything shrinks.
    ClockJumped,
    /// The source of metrics does not answer.
    MetricsUnavailable,
    /// No usage was seen.
    NoData,
    /// Too little of the window has data.
    InsufficientCoverage,
    /// This revision of the workload was not seen through a daily peak.
    RevisionUnproven,
    /// The workload's owner rolls out a new revision.
    OwnerProgressing,
    /// The container is still starting.
    StartingUp,
    /// The policy's expression failed.
    ExpressionFailed,
    // ---- the value
    /// Bounds and floors leave no value.
    BoundsDisjoint,
    /// The owner declares no request: it could not be taken back.
    NotDeclared,
    /// A `BestEffort` pod would change its QoS class.
    BestEffortImmutable,
    /// A Guaranteed pod's request cannot move without its limit.
    GuaranteedMovesLimits,
    /// The pod's QoS class would change.
    QosWouldChange,
    /// The change is below `minChange`.
    ChangeTooSmall,
    /// The change is less than one step of the cgroup's weight, and frees nothing that can be scheduled.
    BelowWeightStep,
    // ---- the container
    /// `resizePolicy` would restart the container.
    RestartRequired,
    /// An autoscaler computes utilisation from this request.
    HpaControlsResource,
    /// The process was told this amount at its start (`resourceFieldRef`).
    ResourceCoupled,
    /// The static CPU or Memory manager gave the container exclusive CPUs or memory.
    ExclusiveCpus,
    /// The container may swap: its memory use says too little.
    SwapEnabled,
    /// The runtime fixed its heap at start from the memory limit.
    HeapFixedAtStart,
    /// The runtime follows its CPU limit while it runs.
    RuntimeFollowsLimit,
    /// `cpu.max.burst` is set: the kernel refuses a lower CPU limit.
    CpuBurst,
    // ---- decreases
    /// A decrease has to wait for the cooldown.
    CooldownActive,
    /// The pods of a running Job are only raised.
    JobRunning,
    /// Memory in use is too close to the new value.
    MemoryInUse,
    /// Memory use is rising.
    MemoryRising,
    /// The node is short of memory.
    NodeMemoryPressure,
    /// The peaks of the node's pods add up to more memory than it has.
    NodeOvercommitted,
    /// Requests of the node's Burstable pods shrank enough within the hour.
    SliceShrinkBudget,
    /// A replacement of the pod would start at a size that is not known.
    ReplacementSizeUnknown,
    /// Replacements would ask for so much more than the running pods that no more is lent.
    RestartDebt,
    /// The quota has no room for the way back of earlier decreases.
    QuotaHeadroom,
    /// Harm to resized pods rose: no decreases in the whole cluster.
    BreakerOpen,
    // ---- increases
    /// A pod waits to be admitted by the node.
    NodeAdmitting,
    /// The node has no room, and the raise might evict others.
    WouldPreempt,
    // ---- restarts, and recreation, the fallback
    /// The change needs a new pod, and the policy does not allow that.
    RecreateNotAllowed,
    /// The change needs a new pod, and this version does not evict pods.
    RecreateUnsupported,
    /// It is the last ready replica.
    LastReadyReplica,
    /// A PodDisruptionBudget allows no disruption.
    DisruptionBudget,
    /// Another pod of the workload is being resized or is not ready: one restarts at a time.
    OtherPodDisrupted,
    /// An annotation forbids to evict the pod.
    EvictionForbidden,
    // ---- what the API server said
    /// The API server or the kubelet refused: a LimitRange.
    LimitRangeViolated,
    /// The API server refused: a ResourceQuota.
    QuotaExceeded,
    /// The API server refused: the node is too small.
    NodeCapacity,
    /// The API server refused: permissions or admission.
    Forbidden,
    /// The API server refused: invalid.
    Invalid,
    /// Admission would change more than was asked for.
    AdmissionMutates,
    /// The pod changed in between.
    Conflict,
    /// The API server could not be reached or failed.
    ApiUnavailable,
    /// The coordinator lost leadership before the write.
    NotLeader,
    // ---- what the kubelet made of it
    /// The kubelet waits for room on the node.
    ResizeDeferred,
    /// The kubelet will never do it.
    ResizeInfeasible,
    /// The kubelet failed to do it.
    ResizeError,
    /// The kubelet did not finish in time.
    ResizeTimeout,
    /// The pod went away in between.
    PodGone,
    // ---- what came after it
    /// The container was killed for memory after a change.
    OomAfterResize,
    /// The container restarted after a change.
    RestartAfterResize,
    /// The container was throttled after a change.
    ThrottledAfterResize,
    /// The container stalled after a change.
    StalledAfterResize,
    /// The previous size cannot be put back now.
    RollbackDeferred,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One *no* with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why.
    pub reason: Reason,
    /// Which container, when it is about one.
    pub container: Option<String>,
    /// Which resource, when it is about one.
    pub resource: Option<Resource>,
    /// In words, with the numbers.
    pub message: String,
}

impl Hold {
    /// About the whole pod.
    pub fn of_pod(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, container: None, resource: None, message: message.into() }
    }

    /// About one resource of one container.
    pub fn of_resource(
        reason: Reason,
        container: &str,
        resource: Resource,
        message: impl Into<String>,
    ) -> Self {
        Self {
            reason,
            container: Some(container.to_owned()),
            resource: Some(resource),
            message: message.into(),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.container, &self.resource) {
            (Some(container), Some(resource)) => {
                write!(f, "{container} {resource}: {}: {}", self.reason, self.message)
            }
            _ => write!(f, "{}: {}", self.reason, self.message),
        }
    }
}
