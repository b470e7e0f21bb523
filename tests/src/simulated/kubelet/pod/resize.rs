//! How running containers of a pod come to what is allocated.

use std::time::Duration;

use super::container::{Container, Ended, State};
use super::{Step, Surroundings, Worker};
use crate::simulated::faults::ResizeFault;
use crate::simulated::kubelet::Now;
use crate::simulated::kubelet::actuate::{self, Plan, Running};
use crate::simulated::kubelet::containers::{container_cgroup, pod_cgroup};
use crate::simulated::kubelet::events::{Kind as EventKind, Notice};
use crate::simulated::kubelet::size::{Kind, Sizes, pod_limits, requests};

impl Worker {
    /// Brings running containers to what is allocated.
    pub(super) fn resize(&mut self, around: &mut Surroundings<'_>) {
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
}
