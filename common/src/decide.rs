//! Sizes and facts become a plan, or reasons why not. A decision is a value; nothing here acts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::{MemoryDecrease, Mode, Policy, Replacement};
use crate::quantity::{Bytes, MilliCpu};
use crate::recommend::{ContainerRecommendation, EvidenceSummary, Sizing, amount};
use crate::resources::{Amounts, ContainerFacts, PodFacts, QosClass, Resource, Resources, qos_class};
use crate::time::Timestamp;

/// `system-cluster-critical`, the lower of the two system priorities (kubernetes `pkg/apis/scheduling`).
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A memory limit may fall to the recent peak plus this share, in thousandths. The kubelet refuses a limit below
/// `memory.current`, its reading may be seconds old, and a refused decrease needs a revert.
const MEMORY_LIMIT_MARGIN: u64 = 1100;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Why something is not done. One list for condition reasons, Event reasons, metric labels and log fields.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $name),* }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// In UpperCamelCase, as conditions and Events want it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

reasons! {
    /// The policy's mode is `Disabled`.
    ModeDisabled,
    /// The policy's mode is `Recommend`.
    ModeRecommend,
    /// The coordinator runs with dry run on.
    DryRun,
    /// Another policy with precedence selects the workload.
    PolicyConflict,
    /// `kube-system` and the coordinator's own namespace are never touched.
    ProtectedNamespace,
    /// The pod's priority is system-critical.
    SystemCritical,
    /// The pod does not run.
    PodNotRunning,
    /// The pod is being deleted.
    PodTerminating,
    /// Static pods cannot be resized.
    StaticPod,
    /// Windows pods cannot be resized.
    WindowsPod,
    /// Pod-level resources are decided at pod level.
    PodLevelResources,
    /// The node is unknown or not Ready.
    NodeNotReady,
    /// The node is cordoned or drained.
    NodeCordoned,
    /// The policy does not allow in-place resize.
    InPlaceNotAllowed,
    /// Another controller resized the pod.
    ForeignResizer,
    /// A resize of ours is under way.
    ResizeInFlight,
    /// A resize failed not long ago.
    BackingOff,
    /// As many resizes are under way as the policy allows.
    ConcurrencyLimit,
    /// The coordinator has not heard long enough since it became leader.
    CoordinatorStarting,
    /// No usage was seen.
    NoData,
    /// Too little of the window has data.
    InsufficientCoverage,
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
    /// A decrease has to wait for the cooldown.
    CooldownActive,
    /// `resizePolicy` would restart the container.
    RestartRequired,
    /// An autoscaler computes utilisation from this request.
    HpaControlsResource,
    /// The process was told this amount at its start (`resourceFieldRef`).
    ResourceCoupled,
    /// The policy forbids memory decreases.
    MemoryDecreaseForbidden,
    /// Memory in use is too close to the new limit.
    MemoryInUse,
    /// Memory use is rising.
    MemoryRising,
    /// The node is short of memory.
    NodeMemoryPressure,
    /// A replacement of the pod would start at a size that is not known.
    ReplacementSizeUnknown,
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

/// Whether a patch frees or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Only smaller values.
    Decrease,
    /// Only larger values.
    Increase,
}

/// What to write into one container: only what changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerChange {
    /// Name of the container.
    pub container: String,
    /// It is in `initContainers`.
    pub sidecar: bool,
    /// Absolute values; never a removal.
    pub to: Resources,
    /// What was there, for the same keys.
    pub from: Resources,
}

/// One patch of one pod. A plan never mixes decreases and increases: a resize is atomic, so a deferred increase would
/// keep a wanted decrease waiting. Decreases come first; the increases follow in the next evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which way.
    pub direction: Direction,
    /// At least one.
    pub changes: Vec<ContainerChange>,
}

impl fmt::Display for Plan {
    /// Such as `c: cpu request 1 > 120m, memory limit 512Mi > 96Mi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, change) in self.changes.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", change.container, describe(change))?;
        }
        Ok(())
    }
}

fn describe(change: &ContainerChange) -> String {
    let mut parts = Vec::new();
    for (what, from, to) in [
        ("request", change.from.requests, change.to.requests),
        ("limit", change.from.limits, change.to.limits),
    ] {
        if let (Some(from), Some(to)) = (from.cpu, to.cpu) {
            parts.push(format!("cpu {what} {from} > {to}"));
        }
        if let (Some(from), Some(to)) = (from.memory, to.memory) {
            parts.push(format!("memory {what} {from} > {to}"));
        }
    }
    parts.join(", ")
}

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Patch it.
    Resize {
        /// What to write.
        plan: Plan,
        /// What is not done, and why.
        held: Vec<Hold>,
    },
    /// Leave it.
    Hold {
        /// Why; at least one.
        held: Vec<Hold>,
        /// What would be done if the mode or dry run did not forbid it.
        would: Option<Plan>,
    },
}

impl Decision {
    fn hold(reason: Reason, message: impl Into<String>) -> Self {
        Self::Hold { held: vec![Hold::of_pod(reason, message)], would: None }
    }

    /// Everything that is not done.
    pub fn held(&self) -> &[Hold] {
        match self {
            Self::Resize { held, .. } | Self::Hold { held, .. } => held,
        }
    }
}

/// What a decision depends on beside policy, pod and recommendation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each read by its own guard")]
pub struct Circumstances {
    /// Now.
    pub now: Timestamp,
    /// The namespace is `kube-system`, or holds OptiPod itself.
    pub protected_namespace: bool,
    /// Dry run is on.
    pub dry_run: bool,
    /// Nothing is written while agents still replay to a new leader.
    pub starting: bool,
    /// A resize of this pod is under way.
    pub in_flight: bool,
    /// One more resize is allowed now.
    pub slot_free: bool,
    /// Backing off after a failure: until when, and what failed.
    pub backoff: Option<Backoff>,
    /// Resources whose utilisation an HPA follows.
    pub hpa: Vec<Resource>,
    /// New pods get the recommended size from the admission webhook.
    pub replacement_known: bool,
}

/// A failed resize is not repeated before this time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Not before.
    pub until: Timestamp,
    /// What failed.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// Decides on one pod. Pure.
pub fn decide(
    policy: &Policy,
    pod: &PodFacts,
    sizes: &[ContainerRecommendation],
    at: &Circumstances,
) -> Decision {
    if let Some((reason, message)) = pod_guard(policy, pod, at) {
        return Decision::hold(reason, message);
    }
    let qos = qos_class(pod.containers.iter().map(|c| &c.desired));
    let mut held = Vec::new();
    let mut wanted = Vec::new();
    for container in &pod.containers {
        let Some(size) = sizes.iter().find(|s| s.container == container.name) else { continue };
        let mut to = Resources::default();
        for resource in [Resource::Cpu, Resource::Memory] {
            match (Subject { policy, pod, container, size, at, qos, resource }).change() {
                Ok(change) => to = to.overlaid(change),
                Err(refusal) => held.push(refusal),
            }
        }
        if !to.is_empty() {
            wanted.push((container, to));
        }
    }
    let Some(plan) = first_step(&wanted) else {
        if held.is_empty() {
            held.push(Hold::of_pod(Reason::NoData, "no container of the pod has a recommendation"));
        }
        return Decision::Hold { held, would: None };
    };
    if let Some(hold) = qos_guard(pod, &plan, qos) {
        held.push(hold);
        return Decision::Hold { held, would: None };
    }
    let forbidden = match policy.mode {
        Mode::Recommend => Some(Reason::ModeRecommend),
        _ if at.dry_run => Some(Reason::DryRun),
        _ if !at.slot_free => Some(Reason::ConcurrencyLimit),
        _ => None,
    };
    match forbidden {
        Some(reason) => {
            held.insert(0, Hold::of_pod(reason, format!("would change {plan}")));
            Decision::Hold { held, would: Some(plan) }
        }
        None => Decision::Resize { plan, held },
    }
}

/// Guards that concern the whole pod.
fn pod_guard(policy: &Policy, pod: &PodFacts, at: &Circumstances) -> Option<(Reason, String)> {
    let fixed =
        |condition: bool, reason: Reason, message: &str| condition.then(|| (reason, message.to_owned()));
    fixed(policy.mode == Mode::Disabled, Reason::ModeDisabled, "the policy is disabled")
        .or_else(|| {
            fixed(
                at.protected_namespace,
                Reason::ProtectedNamespace,
                "pods of kube-system and of OptiPod's own namespace are never resized",
            )
        })
        .or_else(|| {
            (pod.priority >= SYSTEM_CRITICAL_PRIORITY).then(|| {
                let message = format!("priority {} is system-critical: such pods evict others", pod.priority);
                (Reason::SystemCritical, message)
            })
        })
        .or_else(|| fixed(pod.mirror, Reason::StaticPod, "static pods cannot be resized"))
        .or_else(|| fixed(pod.windows, Reason::WindowsPod, "Windows pods cannot be resized"))
        .or_else(|| fixed(pod.terminating, Reason::PodTerminating, "the pod is being deleted"))
        .or_else(|| fixed(!pod.running, Reason::PodNotRunning, "the pod is not in phase Running"))
        .or_else(|| {
            fixed(pod.pod_level_resources, Reason::PodLevelResources, "the pod has pod-level resources")
        })
        .or_else(|| match &pod.node {
            None => Some((Reason::NodeNotReady, "the pod's node is not known".to_owned())),
            Some(node) if !node.ready => {
                Some((Reason::NodeNotReady, format!("node {} is not Ready", node.name)))
            }
            Some(node) if node.cordoned => {
                Some((Reason::NodeCordoned, format!("node {} is cordoned", node.name)))
            }
            Some(_) => None,
        })
        .or_else(|| {
            let manager = pod.foreign_resizer.as_ref()?;
            Some((Reason::ForeignResizer, format!("field manager {manager:?} resized this pod")))
        })
        .or_else(|| {
            fixed(
                !policy.update.allow_in_place_resize,
                Reason::InPlaceNotAllowed,
                "updateStrategy.allowInPlaceResize is false",
            )
        })
        .or_else(|| fixed(at.in_flight, Reason::ResizeInFlight, "a resize of this pod is under way"))
        .or_else(|| {
            let condition = pod.pending.as_ref().or(pod.in_progress.as_ref())?;
            let message = format!("the kubelet is at a resize: {} {}", condition.reason, condition.message);
            Some((Reason::ResizeInFlight, message.trim_end().to_owned()))
        })
        .or_else(|| {
            let backoff = at.backoff.as_ref().filter(|b| b.until > at.now)?;
            let seconds = backoff.until.since(at.now).as_secs();
            let message = format!("{}: {}; next try in {seconds} s", backoff.reason, backoff.message);
            Some((Reason::BackingOff, message))
        })
}

/// One resource of one container of one pod.
struct Subject<'a> {
    policy: &'a Policy,
    pod: &'a PodFacts,
    container: &'a ContainerFacts,
    size: &'a ContainerRecommendation,
    at: &'a Circumstances,
    qos: QosClass,
    resource: Resource,
}

impl Subject<'_> {
    fn hold(&self, reason: Reason, message: impl Into<String>) -> Hold {
        Hold::of_resource(reason, &self.container.name, self.resource, message)
    }

    fn sizing(&self) -> &Sizing {
        match self.resource {
            Resource::Cpu => &self.size.cpu,
            Resource::Memory => &self.size.memory,
        }
    }

    fn current(&self) -> (Option<u64>, Option<u64>) {
        let Resources { requests, limits } = self.container.desired;
        match self.resource {
            Resource::Cpu => (requests.cpu.map(|c| c.0), limits.cpu.map(|c| c.0)),
            Resource::Memory => (requests.memory.map(|m| m.0), limits.memory.map(|m| m.0)),
        }
    }

    /// The change of this resource, or why there is none.
    fn change(&self) -> Result<Resources, Hold> {
        let sizing = self.sizing();
        if let Some(hold) = &sizing.hold {
            return Err(hold.clone());
        }
        let request = sizing.request.ok_or_else(|| self.hold(Reason::NoData, "no recommendation"))?;
        let (current_request, current_limit) = self.current();
        let Some(current) = current_request.filter(|r| *r > 0) else {
            return Err(match self.qos {
                QosClass::BestEffort => {
                    self.hold(Reason::BestEffortImmutable, "a BestEffort pod cannot get requests")
                }
                _ => self.hold(Reason::NotDeclared, "the owner declares no request"),
            });
        };
        if self.qos == QosClass::Guaranteed {
            return Err(
                self.hold(Reason::GuaranteedMovesLimits, "request and limit of a Guaranteed pod are one")
            );
        }
        let limit = sizing.limit.filter(|_| current_limit.is_some());
        self.any_direction()?;
        self.worth_it(current, request, current_limit.zip(limit))?;
        if request < current || limit < current_limit.filter(|_| limit.is_some()) {
            self.decrease(request < current, limit.filter(|l| current_limit.is_some_and(|c| *l < c)))?;
        }
        Ok(self
            .resources(Some(request).filter(|r| *r != current), limit.filter(|l| current_limit != Some(*l))))
    }

    fn resources(&self, request: Option<u64>, limit: Option<u64>) -> Resources {
        let amounts = |value: Option<u64>| match self.resource {
            Resource::Cpu => Amounts { cpu: value.map(MilliCpu), memory: None },
            Resource::Memory => Amounts { cpu: None, memory: value.map(Bytes) },
        };
        Resources { requests: amounts(request), limits: amounts(limit) }
    }

    fn any_direction(&self) -> Result<(), Hold> {
        let (restarts, coupled) = match self.resource {
            Resource::Cpu => (self.container.cpu_restarts, self.container.cpu_coupled),
            Resource::Memory => (self.container.memory_restarts, self.container.memory_coupled),
        };
        if restarts {
            return Err(self.hold(Reason::RestartRequired, "resizePolicy is RestartContainer"));
        }
        if coupled {
            let message = "resourceFieldRef hands this amount to the process, which would not see the change";
            return Err(self.hold(Reason::ResourceCoupled, message));
        }
        if self.at.hpa.contains(&self.resource) {
            let message = "a HorizontalPodAutoscaler computes utilisation from this request";
            return Err(self.hold(Reason::HpaControlsResource, message));
        }
        Ok(())
    }

    /// Nothing is written for a change below `minChange` of both request and limit.
    fn worth_it(&self, current: u64, request: u64, limit: Option<(u64, u64)>) -> Result<(), Hold> {
        let least = u128::from(self.policy.update.min_change.thousandths());
        let large = |from: u64, to: u64| {
            from != to && u128::from(from.abs_diff(to)) * 1000 >= u128::from(from) * least
        };
        if large(current, request) || limit.is_some_and(|(from, to)| large(from, to)) {
            return Ok(());
        }
        let (from, to) = (amount(self.resource, current), amount(self.resource, request));
        let message = format!("{from} > {to} is below minChange {}", self.policy.update.min_change);
        Err(self.hold(Reason::ChangeTooSmall, message))
    }

    fn decrease(&self, request_falls: bool, lower_limit: Option<u64>) -> Result<(), Hold> {
        let EvidenceSummary { window, covered, memory_recent_peak, memory_rising, .. } = self.size.evidence;
        if self.at.starting {
            let message = "agents may still replay to the new leader";
            return Err(self.hold(Reason::CoordinatorStarting, message));
        }
        if !self.size.evidence.fresh {
            let message = "no usage was seen in the last 5 minutes";
            return Err(self.hold(Reason::InsufficientCoverage, message));
        }
        let needed = u128::from(self.policy.minimum_coverage.thousandths());
        if covered.as_millis() * 1000 < window.as_millis() * needed {
            let message = format!(
                "{} s of {} s have data, {} needed before anything shrinks",
                covered.as_secs(),
                window.as_secs(),
                self.policy.minimum_coverage
            );
            return Err(self.hold(Reason::InsufficientCoverage, message));
        }
        if let Some(last) = self.pod.last_resize
            && last + self.policy.update.cooldown > self.at.now
        {
            let left = (last + self.policy.update.cooldown).since(self.at.now).as_secs();
            return Err(self.hold(Reason::CooldownActive, format!("{left} s of the cooldown are left")));
        }
        if self.policy.replacement == Replacement::Known && !self.at.replacement_known {
            let message = "a replacement would start at template size: no admission webhook runs";
            return Err(self.hold(Reason::ReplacementSizeUnknown, message));
        }
        if self.resource == Resource::Cpu {
            return Ok(());
        }
        if self.policy.update.memory_decrease == MemoryDecrease::Never {
            return Err(self.hold(Reason::MemoryDecreaseForbidden, "updateStrategy.memoryDecrease is Never"));
        }
        if self.pod.node.as_ref().is_some_and(|n| n.memory_pressure) {
            return Err(self.hold(Reason::NodeMemoryPressure, "the node has MemoryPressure"));
        }
        if memory_rising && (request_falls || lower_limit.is_some()) {
            return Err(self.hold(Reason::MemoryRising, "memory use has risen in the last minute"));
        }
        let least = memory_recent_peak.0.saturating_mul(MEMORY_LIMIT_MARGIN) / 1000;
        if let Some(limit) = lower_limit.filter(|limit| *limit < least) {
            let message =
                format!("limit {} is below the recent peak {memory_recent_peak} plus 10%", Bytes(limit));
            return Err(self.hold(Reason::MemoryInUse, message));
        }
        Ok(())
    }
}

/// The decreases if there are any, else the increases.
fn first_step(wanted: &[(&ContainerFacts, Resources)]) -> Option<Plan> {
    [Direction::Decrease, Direction::Increase].into_iter().find_map(|direction| {
        let changes: Vec<_> = wanted
            .iter()
            .filter_map(|(container, to)| {
                let (from, to) = only(direction, &container.desired, to);
                let sidecar = container.sidecar;
                (!to.is_empty()).then(|| ContainerChange {
                    container: container.name.clone(),
                    sidecar,
                    to,
                    from,
                })
            })
            .collect();
        (!changes.is_empty()).then_some(Plan { direction, changes })
    })
}

/// The keys of `to` that move in this direction, with what they come from.
fn only(direction: Direction, from: &Resources, to: &Resources) -> (Resources, Resources) {
    fn pick<T: PartialOrd + Copy>(
        direction: Direction,
        from: Option<T>,
        to: Option<T>,
    ) -> (Option<T>, Option<T>) {
        match (from, to) {
            (Some(f), Some(t)) if (t < f) == (direction == Direction::Decrease) && t != f => (from, to),
            _ => (None, None),
        }
    }
    let amounts = |from: Amounts, to: Amounts| {
        let cpu = pick(direction, from.cpu, to.cpu);
        let memory = pick(direction, from.memory, to.memory);
        (Amounts { cpu: cpu.0, memory: memory.0 }, Amounts { cpu: cpu.1, memory: memory.1 })
    };
    let requests = amounts(from.requests, to.requests);
    let limits = amounts(from.limits, to.limits);
    (
        Resources { requests: requests.0, limits: limits.0 },
        Resources { requests: requests.1, limits: limits.1 },
    )
}

/// The API server refuses a change of the QoS class; so do we, before asking.
fn qos_guard(pod: &PodFacts, plan: &Plan, class: QosClass) -> Option<Hold> {
    let after: Vec<Resources> = pod
        .containers
        .iter()
        .map(|container| {
            let change = plan.changes.iter().find(|c| c.container == container.name);
            change.map_or(container.desired, |c| container.desired.overlaid(c.to))
        })
        .collect();
    let new = qos_class(&after);
    (new != class)
        .then(|| Hold::of_pod(Reason::QosWouldChange, format!("{class:?} would become {new:?} by {plan}")))
}

#[cfg(test)]
pub(crate) mod tests;
