//! One pod on a node, from its admission to its end: what a pod worker of the kubelet does, as a state machine that is
//! asked again whenever something may have changed ([`Worker::sync`]).

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use optipod_common::ident::ContainerId;
use optipod_common::resources::{QosClass, Resources};

pub use self::container::{Container, Ended, State};
pub use self::spec::{containers_of, desired_of, reported, size_of};
use super::behaviour::{self, Behaviour};
use super::containers::{Containers, pod_cgroup};
use super::events::{Kind as EventKind, Notice};
use super::resize::Allocations;
use super::size::{Kind, Sizes, Slot, pod_limits, requests};
use super::{Delays, Now};
use crate::simulated::faults::ResizeFault;

mod container;
mod resize;
mod spec;
mod start;

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
