//! How containers of a pod start, start again and become ready.

use std::time::Duration;

use kube::ResourceExt;

use super::container::State;
use super::{Surroundings, Worker};
use crate::simulated::kubelet::Now;
use crate::simulated::kubelet::containers::{Start, container_cgroup, container_id};
use crate::simulated::kubelet::events::{Kind as EventKind, Notice};
use crate::simulated::kubelet::size::{Kind, Slot};

/// First pause before a container that keeps ending is started again; it doubles.
const BACKOFF: Duration = Duration::from_secs(10);
/// The longest.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// Between two looks at a container that says itself whether it is ready.
const PROBE: Duration = Duration::from_secs(1);

impl Worker {
    /// Starts a container, or says until when it waits.
    pub(super) fn start_or_wait(&mut self, index: usize, around: &mut Surroundings<'_>) {
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

    pub(super) fn start(&mut self, index: usize, around: &mut Surroundings<'_>) {
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

    pub(super) fn update_readiness(&mut self, around: &Surroundings<'_>) {
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
}
