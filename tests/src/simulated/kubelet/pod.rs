//! One pod on a node, from its admission to its end: what a pod worker of the kubelet does, as a state machine that is
//! asked again whenever something may have changed ([`Worker::sync`]).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceRequirements};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use optipod_common::ident::ContainerId;
use optipod_common::resources::{Amounts, QosClass, Resources, qos_class};

use super::actuate::{self, Plan, RestartOn, Running};
use super::behaviour::{self, Behaviour};
use super::containers::{Containers, Start, container_cgroup, container_id, pod_cgroup};
use super::events::{Kind as EventKind, Notice};
use super::resize::{Allocations, Desired};
use super::size::{Amount, Kind, Sizes, Slot, pod_limits, requests};
use super::{Delays, Now};
use crate::simulated::faults::ResizeFault;

/// First pause before a container that keeps ending is started again; it doubles.
const BACKOFF: Duration = Duration::from_secs(10);
/// The longest.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// Between two looks at a container that says itself whether it is ready.
const PROBE: Duration = Duration::from_secs(1);
/// A container that ran so long has its pause forgotten.
const BACKOFF_FORGOTTEN: Duration = Duration::from_mins(10);

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// `Completed`, `Error` or `OOMKilled`.
    pub reason: &'static str,
    /// When it had started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Which start of it.
    pub id: ContainerId,
}

/// What a container does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or ended and to be started again.
    Waiting {
        /// `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`, `CreateContainerConfigError`.
        reason: &'static str,
        /// May be empty.
        message: String,
    },
    /// It runs.
    Running {
        /// Since then.
        since: Timestamp,
        /// In simulated time.
        began: Duration,
        /// Which start.
        id: ContainerId,
    },
    /// It ended.
    Terminated(Ended),
}

/// A container and its history.
#[derive(Clone, Debug)]
pub struct Container {
    /// Name and kind.
    pub slot: Slot,
    /// From the spec.
    pub spec: ContainerSpec,
    restart_on: RestartOn,
    /// What it does now.
    pub state: State,
    /// How it ended the last time.
    pub last: Option<Ended>,
    /// Number of starts after the first.
    pub restarts: u32,
    /// Ready.
    pub ready: bool,
    /// To be started then, in simulated time.
    start: Option<Duration>,
    /// Until when it is not started again, and the pause after that.
    pause: Duration,
    /// What its cgroup has.
    pub actuated: Resources,
    /// What the kubelet has seen that it has.
    pub observed: Resources,
}

impl Container {
    fn new(spec: &ContainerSpec, kind: Kind, waiting: &'static str) -> Self {
        let policy = |resource: &str| {
            let mut policies = spec.resize_policy.iter().flatten();
            policies.any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
        };
        Self {
            slot: Slot { name: spec.name.clone(), kind },
            spec: spec.clone(),
            restart_on: RestartOn { cpu: policy("cpu"), memory: policy("memory") },
            state: State::Waiting { reason: waiting, message: String::new() },
            last: None,
            restarts: 0,
            ready: false,
            start: None,
            pause: Duration::ZERO,
            actuated: Resources::default(),
            observed: Resources::default(),
        }
    }

    /// True while it runs.
    pub const fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Terminated(ended) => Some(ended),
            _ => None,
        }
    }
}

/// Where the pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It may not run here.
    Rejected {
        /// Reason of the status.
        reason: String,
        /// Message of the status.
        message: String,
    },
    /// The sandbox is made, until then.
    Sandbox(Duration),
    /// Containers run, or start, or restart.
    Active,
    /// Containers are told to stop; they are gone then.
    Stopping(Duration),
    /// All containers have ended for good.
    Ended,
}

/// A resize of running containers under way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The runtime is asked then.
    Actuate(Duration),
    /// These containers are stopped; they start then.
    Restart(Duration, Vec<String>),
    /// The kubelet sees what the runtime did then.
    Observe(Duration),
    /// It failed, and is tried again then.
    Retry(Duration),
}

/// What is around a pod.
pub struct Surroundings<'a> {
    /// Time.
    pub now: Now,
    /// How long things take.
    pub delays: &'a Delays,
    /// What does it.
    pub containers: &'a dyn Containers,
    /// What the node has promised.
    pub allocations: &'a mut Allocations,
    /// What goes wrong with resizes of this pod.
    pub fault: Option<ResizeFault>,
    /// For container ids.
    pub seed: u64,
    /// What is said meanwhile.
    pub notices: &'a mut Vec<Notice>,
}

/// A pod on its node.
#[derive(Clone, Debug)]
pub struct Worker {
    /// As the API server showed it last.
    pub object: Pod,
    /// UID.
    pub uid: String,
    /// Containers, init containers first.
    pub containers: Vec<Container>,
    /// Where it is.
    pub stage: Stage,
    /// The pod's address, once it has a sandbox.
    pub ip: Option<Ipv4Addr>,
    /// When the kubelet saw it first.
    pub start_time: Timestamp,
    /// Class, which does not change.
    pub qos: QosClass,
    /// What it was promised when it ended: from then on it holds nothing.
    pub kept: Option<Sizes>,
    /// Pod-level resources as the kubelet saw them at its last look.
    pub pod_level: Resources,
    /// The node is short of something: the message of the eviction.
    pub evicted: Option<String>,
    behaviour: Result<Behaviour, String>,
    incarnation: String,
    step: Option<Step>,
    /// When [`Worker::sync`] has something to do; `None` = only when something changes.
    pub due: Option<Duration>,
}

/// Requests and limits of a container.
pub fn size_of(resources: Option<&ResourceRequirements>) -> Resources {
    let amounts =
        |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
            let text = |name: &str| list.and_then(|list| list.get(name)).map(|quantity| quantity.0.as_str());
            Amounts {
                cpu: text("cpu").and_then(|text| text.parse().ok()),
                memory: text("memory").and_then(|text| text.parse().ok()),
            }
        };
    Resources {
        requests: amounts(resources.and_then(|resources| resources.requests.as_ref())),
        limits: amounts(resources.and_then(|resources| resources.limits.as_ref())),
    }
}

/// Containers of the spec with their kind, init containers first.
pub fn containers_of(pod: &Pod) -> impl Iterator<Item = (&ContainerSpec, Kind)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let kind = |container: &ContainerSpec| {
        if container.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init }
    };
    let regular = spec.map(|spec| &spec.containers).into_iter().flatten();
    init.map(move |container| (container, kind(container)))
        .chain(regular.map(|container| (container, Kind::Regular)))
}

/// What the spec wants.
pub fn desired_of(pod: &Pod) -> Desired {
    let slots = containers_of(pod).map(|(container, kind)| Slot { name: container.name.clone(), kind });
    let sizes: Sizes = containers_of(pod)
        .map(|(container, _)| (container.name.clone(), size_of(container.resources.as_ref())))
        .collect();
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.clone());
    let overhead = ResourceRequirements { requests: overhead, ..ResourceRequirements::default() };
    Desired {
        slots: slots.collect(),
        qos: qos_class(sizes.values()),
        sizes,
        overhead: size_of(Some(&overhead)).requests.into(),
        generation: pod.metadata.generation.unwrap_or(1),
        priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
    }
}

impl Worker {
    /// A pod that the kubelet has just seen. `incarnation` tells pods of the same name apart.
    pub fn new(object: Pod, uid: String, incarnation: u32, now: Now, delays: &Delays) -> Self {
        let initialised = containers_of(&object).all(|(_, kind)| kind == Kind::Regular);
        let waiting = if initialised { "ContainerCreating" } else { "PodInitializing" };
        let mut behaviour = Behaviour::of(object.annotations()).map_err(|error| format!("{error:#}"));
        let owned_by_job = object.owner_references().iter().any(|owner| owner.kind == "Job");
        if let (Ok(behaviour), true) = (&mut behaviour, owned_by_job) {
            behaviour.exit_after = behaviour.exit_after.or(Some(behaviour::JOB_DURATION));
        }
        Self {
            containers: containers_of(&object)
                .map(|(spec, kind)| Container::new(spec, kind, waiting))
                .collect(),
            stage: Stage::Sandbox(now.simulated + delays.sandbox),
            ip: None,
            start_time: now.wall,
            qos: desired_of(&object).qos,
            kept: None,
            pod_level: Resources::default(),
            evicted: None,
            behaviour,
            incarnation: incarnation.to_string(),
            step: None,
            due: Some(now.simulated),
            object,
            uid,
        }
    }

    /// Names of the pod.
    pub fn names(&self) -> (String, String) {
        (self.object.namespace().unwrap_or_default(), self.object.name_any())
    }

    /// True when it will never run again.
    pub const fn finished(&self) -> bool {
        matches!(self.stage, Stage::Ended | Stage::Rejected { .. })
    }

    fn restart_policy(&self) -> &str {
        let spec = self.object.spec.as_ref();
        spec.and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    /// Whether a container that ended like this is started again.
    fn restarts(&self, container: &Container, code: i32) -> bool {
        match (container.slot.kind, self.restart_policy()) {
            (Kind::Sidecar, _) | (Kind::Regular, "Always") => true,
            (Kind::Init, "Always" | "OnFailure") | (Kind::Regular, "OnFailure") => code != 0,
            _ => false,
        }
    }

    /// Sizes of all containers that the kernel has now.
    pub fn actuated(&self) -> Sizes {
        self.containers.iter().map(|c| (c.slot.name.clone(), c.actuated)).collect()
    }

    /// The slots of its containers.
    pub fn slots(&self) -> Vec<Slot> {
        self.containers.iter().map(|container| container.slot.clone()).collect()
    }

    /// A container ended by itself, or was killed by the kernel.
    pub fn exited(&mut self, name: &str, id: ContainerId, code: i32, reason: &'static str, now: Now) {
        let Some(container) = self.containers.iter_mut().find(|c| c.slot.name == name) else { return };
        if let State::Running { since, id: running, .. } = container.state
            && running == id
        {
            container.end(Ended { code, reason, started: since, finished: now.wall, id });
            self.due = Some(now.simulated);
        }
    }

    /// Does what is due. The caller writes the status afterwards.
    pub fn sync(&mut self, around: &mut Surroundings<'_>) {
        self.due = None;
        let now = around.now.simulated;
        let leaving = self.object.metadata.deletion_timestamp.is_some() || self.evicted.is_some();
        match self.stage.clone() {
            Stage::Rejected { .. } | Stage::Ended => {}
            Stage::Stopping(until) if now < until => self.wake(until),
            Stage::Stopping(_) => self.stopped(around),
            Stage::Sandbox(_) | Stage::Active if leaving => self.stop(around),
            Stage::Sandbox(until) if now < until => self.wake(until),
            Stage::Sandbox(_) => self.begin(around),
            Stage::Active => self.run(around),
        }
    }

    fn wake(&mut self, at: Duration) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// The sandbox is there.
    fn begin(&mut self, around: &mut Surroundings<'_>) {
        let sizes = around.allocations.allocated(&self.uid).cloned().unwrap_or_default();
        let slots = self.slots();
        let cgroup = pod_cgroup(requests(&slots, &sizes), pod_limits(&slots, &sizes));
        if let Err(error) = around.containers.start_pod(&self.uid, self.qos, cgroup) {
            self.behaviour = Err(format!("{error:#}"));
        }
        self.stage = Stage::Active;
        self.run(around);
    }

    fn run(&mut self, around: &mut Surroundings<'_>) {
        let now = around.now.simulated;
        self.end_what_is_over(around);
        if self.is_over() {
            self.stop(around);
            return;
        }
        let next = self.startable();
        for index in next {
            self.start_or_wait(index, around);
        }
        self.update_readiness(around);
        self.resize(around);
        // what was started a moment ago may let others start
        if self.due.is_none() && !self.startable().is_empty() {
            self.wake(now);
        }
    }

    /// Ends containers whose time is over.
    fn end_what_is_over(&mut self, around: &mut Surroundings<'_>) {
        let Ok(behaviour) = self.behaviour else { return };
        let Now { simulated: now, wall } = around.now;
        let mut next = None;
        for container in &mut self.containers {
            let State::Running { since, began, id } = container.state else { continue };
            let (after, code) = match container.slot.kind {
                Kind::Init => (Some(behaviour::INIT_DURATION), 0),
                Kind::Sidecar => (None, 0),
                Kind::Regular => (behaviour.exit_after, behaviour.exit_code),
            };
            let Some(at) = after.map(|after| began + after) else { continue };
            if at > now {
                next = Some(next.map_or(at, |next: Duration| next.min(at)));
                continue;
            }
            // the cgroup goes with the pod when the runtime cannot stop it now
            drop(around.containers.stop(&self.uid, &container.slot.name));
            let reason = if code == 0 { "Completed" } else { "Error" };
            container.end(Ended { code, reason, started: since, finished: wall, id });
        }
        if let Some(next) = next {
            self.wake(next);
        }
    }

    /// All regular containers have ended for good, or an init container has failed for good.
    fn is_over(&self) -> bool {
        let done = |container: &Container| {
            container.ended().is_some_and(|ended| !self.restarts(container, ended.code))
        };
        let failed = |container: &Container| {
            container.slot.kind == Kind::Init
                && container.ended().is_some_and(|ended| ended.code != 0)
                && done(container)
        };
        let mut regular = self.containers.iter().filter(|c| c.slot.kind == Kind::Regular).peekable();
        self.containers.iter().any(failed) || (regular.peek().is_some() && regular.all(done))
    }

    /// Containers that may start now, in the order of the spec.
    fn startable(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, container) in self.containers.iter().enumerate() {
            let ended = container.ended();
            let wants = match &container.state {
                State::Running { .. } => false,
                State::Waiting { .. } => true,
                State::Terminated(ended) => self.restarts(container, ended.code),
            };
            match container.slot.kind {
                Kind::Init if ended.is_some_and(|ended| ended.code == 0) => {}
                Kind::Init => {
                    found.extend(wants.then_some(index));
                    return found;
                }
                Kind::Sidecar => {
                    found.extend(wants.then_some(index));
                    if !container.running() {
                        return found;
                    }
                }
                Kind::Regular => found.extend(wants.then_some(index)),
            }
        }
        found
    }

    fn start_or_wait(&mut self, index: usize, around: &mut Surroundings<'_>) {
        let Now { simulated: now, .. } = around.now;
        let (namespace, pod) = self.names();
        let uid = self.uid.clone();
        let Some(container) = self.containers.get_mut(index) else { return };
        if let Err(message) = &self.behaviour {
            container.state =
                State::Waiting { reason: "CreateContainerConfigError", message: message.clone() };
            return;
        }
        let at = *container.start.get_or_insert_with(|| match container.state {
            // the first restart comes at once, as that of a container that was stopped for a resize
            State::Terminated(_) => now + container.pause.max(around.delays.container),
            _ => now + around.delays.container,
        });
        if now >= at {
            self.start(index, around);
            return;
        }
        if let State::Terminated(ended) = &container.state
            && !container.pause.is_zero()
        {
            let (minutes, seconds) = (container.pause.as_secs() / 60, container.pause.as_secs() % 60);
            let pause = if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") };
            let name = &container.slot.name;
            let message =
                format!("back-off {pause} restarting failed container={name} pod={pod}_{namespace}({uid})");
            let text = format!("Back-off restarting failed container {name} in pod {pod}_{namespace}({uid})");
            around.notices.push(Notice::of(EventKind::BackOff, text, name, container.slot.kind));
            container.last = Some(ended.clone());
            container.state = State::Waiting { reason: "CrashLoopBackOff", message };
        }
        self.wake(at);
    }

    fn start(&mut self, index: usize, around: &mut Surroundings<'_>) {
        let Now { simulated: now, wall } = around.now;
        let (namespace, pod) = self.names();
        let size = around.allocations.allocated(&self.uid);
        let Some(container) = self.containers.get_mut(index) else { return };
        let Slot { name, kind } = container.slot.clone();
        let size = size.and_then(|sizes| sizes.get(&name)).copied().unwrap_or_default();
        if let State::Terminated(ended) = &container.state {
            container.last = Some(ended.clone());
        }
        if container.last.is_some() {
            container.restarts += 1;
        }
        let restart = container.restarts.to_string();
        let id = container_id(around.seed, &[&namespace, &pod, &self.incarnation, &name, &restart]);
        let annotations = self.object.annotations();
        let usage = annotations
            .get(&format!("usage.simulated.optipod.io/{name}"))
            .or_else(|| annotations.get("simulated.optipod.io/usage"));
        let start = Start {
            pod_uid: &self.uid,
            qos: self.qos,
            name: &name,
            id,
            resources: container_cgroup(&size),
            usage: usage.map(String::as_str),
            pod: &self.object,
            container: &container.spec,
            address: self.ip,
        };
        container.start = None;
        if let Err(error) = around.containers.start(start) {
            self.behaviour = Err(format!("{error:#}"));
            self.wake(now);
            return;
        }
        let pause = container.pause;
        container.pause = if pause.is_zero() { BACKOFF } else { (pause * 2).min(LONGEST_BACKOFF) };
        container.state = State::Running { since: wall, began: now, id };
        (container.actuated, container.observed) = (size, size);
        let image = container.spec.image.as_deref().unwrap_or_default();
        let texts = [
            (
                EventKind::Pulled,
                format!(
                    "Container image {image:?} already present on machine and can be accessed by the pod"
                ),
            ),
            (EventKind::Created, "Container created".to_owned()),
            (EventKind::Started, "Container started".to_owned()),
        ];
        around.notices.extend(texts.map(|(event, text)| Notice::of(event, text, &name, kind)));
        self.wake(now);
    }

    fn update_readiness(&mut self, around: &Surroundings<'_>) {
        let now = around.now.simulated;
        let delay = self.behaviour.as_ref().ok().and_then(|behaviour| behaviour.ready_after);
        let mut next = None;
        for container in &mut self.containers {
            let State::Running { began, .. } = container.state else {
                container.ready =
                    container.slot.kind == Kind::Init && container.ended().is_some_and(|e| e.code == 0);
                continue;
            };
            if container.slot.kind == Kind::Init {
                continue;
            }
            if let Some(ready) = around.containers.ready(&self.uid, &container.slot.name) {
                container.ready = ready;
                let at = now + PROBE;
                next = Some(next.map_or(at, |next: Duration| next.min(at)));
                continue;
            }
            let probe = container.spec.readiness_probe.as_ref();
            let probe = probe.map(|probe| probe.initial_delay_seconds.unwrap_or(0).max(0).unsigned_abs());
            let delay = match container.slot.kind {
                Kind::Regular => delay.or(probe.map(|seconds| Duration::from_secs(u64::from(seconds)))),
                _ => probe.map(|seconds| Duration::from_secs(u64::from(seconds))),
            };
            let at = began + delay.unwrap_or_default();
            container.ready = now >= at;
            if !container.ready {
                next = Some(next.map_or(at, |next: Duration| next.min(at)));
            }
        }
        if let Some(next) = next {
            self.wake(next);
        }
    }

    /// Brings running containers to what is allocated.
    fn resize(&mut self, around: &mut Surroundings<'_>) {
        let now = around.now;
        let allocated = around.allocations.allocated(&self.uid).cloned().unwrap_or_default();
        let want = |container: &Container| allocated.get(&container.slot.name).copied().unwrap_or_default();
        let differs = self.containers.iter().any(|c| c.running() && c.actuated != want(c));
        match self.step.take() {
            Some(Step::Restart(at, names)) if now.simulated < at => {
                self.step = Some(Step::Restart(at, names));
                self.wake(at);
            }
            Some(Step::Restart(_, names)) => self.restart(&names, around),
            Some(Step::Observe(at)) if !differs && now.simulated < at => {
                self.step = Some(Step::Observe(at));
                self.wake(at);
            }
            Some(Step::Actuate(at) | Step::Retry(at)) if differs && now.simulated >= at => {
                self.actuate(&allocated, around);
            }
            Some(step @ (Step::Actuate(at) | Step::Retry(at))) if differs && !self.fresh(around) => {
                self.step = Some(step);
                self.wake(at);
            }
            _ if differs => {
                self.observe();
                around.allocations.in_progress(&self.uid, now.wall);
                let slow = match around.fault {
                    Some(ResizeFault::Slow(time)) => time,
                    _ => Duration::ZERO,
                };
                let at = now.simulated + around.delays.actuate + slow;
                self.step = Some(Step::Actuate(at));
                self.wake(at);
            }
            _ => {
                self.observe();
                around.notices.extend(around.allocations.completed(&self.uid));
            }
        }
    }

    /// A new allocation has replaced the one that failed: it is tried without delay.
    fn fresh(&self, around: &Surroundings<'_>) -> bool {
        let (_, progress) = around.allocations.conditions(&self.uid);
        matches!(self.step, Some(Step::Retry(_)))
            && progress.is_some_and(|progress| progress.reason.is_empty())
    }

    fn observe(&mut self) {
        for container in &mut self.containers {
            container.observed = container.actuated;
        }
    }

    fn actuate(&mut self, allocated: &Sizes, around: &mut Surroundings<'_>) {
        let now = around.now;
        let slots = self.slots();
        let running: Vec<Running<'_>> = self
            .containers
            .iter()
            .filter(|container| container.running())
            .map(|container| Running {
                name: &container.slot.name,
                allocated: allocated.get(&container.slot.name).copied().unwrap_or_default(),
                actuated: container.actuated,
                restart_on: container.restart_on,
                memory_bytes: around.containers.memory_bytes(&self.uid, &container.slot.name),
            })
            .collect();
        let limit = |sizes: &Sizes| pod_limits(&slots, sizes).memory.map(|limit| limit.0);
        let Plan { restart, update, refused } =
            actuate::plan(&running, (limit(&self.actuated()), limit(allocated)));
        let failed = match around.fault {
            Some(ResizeFault::Error) => Some("the runtime refused the new resources (simulated)".to_owned()),
            _ => refused.or_else(|| self.update(&update, allocated, around)),
        };
        if let Some(message) = failed {
            let notice = around.allocations.failed(&self.uid, &message, now.wall);
            around.notices.extend(notice);
            let at = now.simulated + around.delays.retry;
            self.step = Some(Step::Retry(at));
            self.wake(at);
            return;
        }
        if restart.is_empty() {
            let at = now.simulated + around.delays.observe;
            self.step = Some(Step::Observe(at));
            self.wake(at);
            return;
        }
        for name in &restart {
            let text = format!("Container {name} resize requires restart");
            let kind = slots.iter().find(|slot| slot.name == *name).map_or(Kind::Regular, |slot| slot.kind);
            around.notices.push(Notice::of(EventKind::Killing, text, name, kind));
            // starting it again replaces it
            drop(around.containers.stop(&self.uid, name));
        }
        let at = now.simulated + around.delays.stop + around.delays.container;
        self.step = Some(Step::Restart(at, restart));
        self.wake(at);
    }

    /// Asks the runtime; `Some` is why it failed. Containers that were done before stay done.
    fn update(&mut self, names: &[String], allocated: &Sizes, around: &Surroundings<'_>) -> Option<String> {
        let slots = self.slots();
        let cgroup = pod_cgroup(requests(&slots, allocated), pod_limits(&slots, allocated));
        if let Err(error) = around.containers.update_pod(&self.uid, cgroup) {
            return Some(format!("{error:#}"));
        }
        for container in self.containers.iter_mut().filter(|c| names.contains(&c.slot.name)) {
            let size = allocated.get(&container.slot.name).copied().unwrap_or_default();
            let cgroup = container_cgroup(&size);
            if let Err(error) = around.containers.update(&self.uid, &container.slot.name, cgroup) {
                return Some(format!("{error:#}"));
            }
            container.actuated = size;
        }
        None
    }

    /// Containers that were stopped for their resize come back.
    fn restart(&mut self, names: &[String], around: &mut Surroundings<'_>) {
        let Now { simulated: now, wall } = around.now;
        let indices: Vec<usize> = self
            .containers
            .iter()
            .enumerate()
            .filter(|(_, container)| names.contains(&container.slot.name))
            .map(|(index, _)| index)
            .collect();
        for index in indices {
            if let Some(container) = self.containers.get_mut(index)
                && let State::Running { since, id, .. } = container.state
            {
                container.end(Ended { code: 0, reason: "Completed", started: since, finished: wall, id });
                self.start(index, around);
            }
        }
        let at = now + around.delays.observe;
        self.step = Some(Step::Observe(at));
        self.wake(at);
    }

    /// Tells all running containers to stop.
    fn stop(&mut self, around: &mut Surroundings<'_>) {
        let now = around.now.simulated;
        let running: Vec<Slot> =
            self.containers.iter().filter(|c| c.running()).map(|c| c.slot.clone()).collect();
        for Slot { name, kind } in &running {
            let text = format!("Stopping container {name}");
            around.notices.push(Notice::of(EventKind::Killing, text, name, *kind));
        }
        let grace = self.object.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0);
        let grace = Duration::from_secs(grace.unsigned_abs());
        let delay = if running.is_empty() { Duration::ZERO } else { around.delays.stop.min(grace) };
        self.stage = Stage::Stopping(now + delay);
        self.step = None;
        self.wake(now + delay);
    }

    fn stopped(&mut self, around: &mut Surroundings<'_>) {
        let wall = around.now.wall;
        for container in &mut self.containers {
            if let State::Running { since, id, .. } = container.state {
                container.end(Ended { code: 0, reason: "Completed", started: since, finished: wall, id });
            }
            container.ready = false;
        }
        // nobody could do more about a cgroup that stays
        drop(around.containers.remove_pod(&self.uid));
        self.kept = around.allocations.allocated(&self.uid).cloned();
        around.allocations.release(&self.uid);
        self.stage = Stage::Ended;
    }
}

impl Container {
    fn end(&mut self, ended: Ended) {
        let ran = ended.finished.duration_since(ended.started).unsigned_abs();
        if ran >= BACKOFF_FORGOTTEN {
            self.pause = Duration::ZERO;
        }
        // a first end is followed by a start without a pause
        if self.last.is_none() && self.restarts == 0 {
            self.pause = Duration::ZERO;
        }
        self.ready = false;
        self.start = None;
        self.state = State::Terminated(ended);
    }
}

/// CPU and memory requests that a status shows, as the kubelet adds them up.
pub fn reported(pod: &Pod, slots: &[Slot]) -> Amount {
    let status = pod.status.as_ref();
    let statuses = |status: &k8s_openapi::api::core::v1::PodStatus| {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        all.map(|status| {
            let allocated = ResourceRequirements {
                requests: status.allocated_resources.clone(),
                ..ResourceRequirements::default()
            };
            let allocated: Amount = size_of(Some(&allocated)).requests.into();
            let actual: Amount = size_of(status.resources.as_ref()).requests.into();
            (status.name.clone(), allocated.max(actual))
        })
        .collect::<BTreeMap<_, _>>()
    };
    let amounts = status.map(statuses).unwrap_or_default();
    super::size::total(slots, |name| amounts.get(name).copied().unwrap_or_default())
}
