//! What to write into a pod, and how it is called back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::MaxStep;
use crate::quantity::{Bytes, MilliCpu};
use crate::recommend::CPU_LIMIT_GRAIN;
use crate::resources::{Amounts, ContainerFacts, Resource, Resources};

/// Whether a patch frees or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Only smaller values.
    Decrease,
    /// Only larger values.
    Increase,
    /// Values of containers that restart for them: a second patch would restart them again.
    Both,
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
    /// Its `resizePolicy` restarts the container for that.
    #[serde(default)]
    pub restarts: bool,
}

/// One patch of one pod. A plan never mixes decreases and increases, unless containers restart for it: a resize is atomic,
/// so a deferred increase would keep a wanted decrease waiting. Decreases come first, except before an increase that cannot
/// wait; the rest follows in the next evaluation, and what restarts containers comes last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which way.
    pub direction: Direction,
    /// At least one.
    pub changes: Vec<ContainerChange>,
}

impl Plan {
    /// The plan that takes this one back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let direction = match self.direction {
            Direction::Decrease => Direction::Increase,
            Direction::Increase => Direction::Decrease,
            Direction::Both => Direction::Both,
        };
        let changes = self
            .changes
            .iter()
            .map(|change| ContainerChange {
                container: change.container.clone(),
                sidecar: change.sidecar,
                to: change.from,
                from: change.to,
                restarts: change.restarts,
            })
            .collect();
        Self { direction, changes }
    }

    /// This plan with one of its keys a grain nearer to what was there, for each key that may keep a request and its limit
    /// apart.
    pub(super) fn one_grain_apart(&self) -> Vec<Self> {
        let nearer = |from: u64, to: u64, grain: u64| {
            let to = if to > from { to.saturating_sub(grain) } else { to.saturating_add(grain) };
            // nothing is left of the change
            ((to > from) == (self.direction == Direction::Increase) && to != from).then_some(to)
        };
        let cpu = |from: &mut Option<MilliCpu>, to: &mut Option<MilliCpu>, grain| {
            let pair = from.zip(*to).map(|(from, to)| nearer(from.0, to.0, grain));
            *to = pair.flatten().map(MilliCpu);
            *from = from.filter(|_| to.is_some());
            pair.is_some()
        };
        let memory = |from: &mut Option<Bytes>, to: &mut Option<Bytes>| {
            let pair = from.zip(*to).map(|(from, to)| nearer(from.0, to.0, Bytes::MEBIBYTE));
            *to = pair.flatten().map(Bytes);
            *from = from.filter(|_| to.is_some());
            pair.is_some()
        };
        // a rising request meets its limit, a falling limit its request
        let mut plans = Vec::new();
        for at in 0..self.changes.len() {
            for resource in [Resource::Cpu, Resource::Memory] {
                let mut plan = self.clone();
                let Some(ContainerChange { from, to, .. }) = plan.changes.get_mut(at) else { continue };
                let changed = match (resource, self.direction) {
                    (Resource::Cpu, Direction::Increase) => {
                        cpu(&mut from.requests.cpu, &mut to.requests.cpu, 1)
                    }
                    (Resource::Cpu, Direction::Decrease) => {
                        cpu(&mut from.limits.cpu, &mut to.limits.cpu, CPU_LIMIT_GRAIN)
                    }
                    (Resource::Memory, Direction::Increase) => {
                        memory(&mut from.requests.memory, &mut to.requests.memory)
                    }
                    (Resource::Memory, Direction::Decrease) => {
                        memory(&mut from.limits.memory, &mut to.limits.memory)
                    }
                    (_, Direction::Both) => false,
                };
                plan.changes.retain(|change| !change.to.is_empty());
                if changed && !plan.changes.is_empty() {
                    plans.push(plan);
                }
            }
        }
        plans
    }

    /// How much more is requested than before, all containers together; negative for a decrease: millicores and bytes.
    pub fn request_growth(&self) -> (i128, i128) {
        let difference = |to: Option<u64>, from: Option<u64>| {
            to.zip(from).map_or(0, |(to, from)| i128::from(to) - i128::from(from))
        };
        self.changes.iter().fold((0, 0), |(cpu, memory), change| {
            let (to, from) = (change.to.requests, change.from.requests);
            (
                cpu + difference(to.cpu.map(|c| c.0), from.cpu.map(|c| c.0)),
                memory + difference(to.memory.map(|m| m.0), from.memory.map(|m| m.0)),
            )
        })
    }
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
    let restarts = if change.restarts { ", which restarts it" } else { "" };
    parts.join(", ") + restarts
}

/// How a decrease is called back. A decrease is a loan: what it frees may be sold when it is needed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recall {
    /// What restores the size before.
    pub plan: Plan,
    /// The node has room for it now; `None` = not known.
    pub node: Option<bool>,
    /// The tightest quota has room for it now; `None` = there is none, or it is not known.
    pub quota: Option<bool>,
    /// At what size a replacement of the pod starts.
    pub replacement: ReplacementSize,
}

/// At what size a new pod starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplacementSize {
    /// At the recommended size: the admission webhook runs.
    Recommended,
    /// At the size of its template.
    Template,
}

impl fmt::Display for Recall {
    /// Such as `raise in place (room on the node: yes; quota: no); a replacement starts at its template`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |room: Option<bool>| match room {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        let replacement = match self.replacement {
            ReplacementSize::Recommended => "at the recommended size",
            ReplacementSize::Template => "at the size of its template",
        };
        let (node, quota) = (known(self.node), known(self.quota));
        write!(
            f,
            "raise in place (room on the node: {node}, in the quota: {quota}); a replacement starts {replacement}"
        )
    }
}

/// The decreases if there are any, else the increases.
pub(super) fn first_step(wanted: &[(&ContainerFacts, Resources)]) -> Option<Plan> {
    [Direction::Decrease, Direction::Increase].into_iter().find_map(|direction| step(wanted, direction))
}

/// What is raised of those whose harm ends with it: a limit that throttles, memory of a container that was killed. Nothing
/// else rides along.
pub(super) fn raises_harmed(pressing: &[(&ContainerFacts, Resources)]) -> Option<Plan> {
    let mut plan = step(pressing, Direction::Increase)?;
    // a request lifts no throttling
    for change in plan.changes.iter_mut().filter(|change| change.to.limits.cpu.is_none()) {
        (change.to.requests.cpu, change.from.requests.cpu) = (None, None);
    }
    plan.changes.retain(|change| !change.to.is_empty());
    (!plan.changes.is_empty()).then_some(plan)
}

/// All that restarts containers, at once.
pub(super) fn restarting_step(wanted: &[(&ContainerFacts, Resources)]) -> Option<Plan> {
    let direction = match (step(wanted, Direction::Decrease), step(wanted, Direction::Increase)) {
        (Some(_), Some(_)) => Direction::Both,
        (Some(plan), None) | (None, Some(plan)) => return Some(plan),
        (None, None) => return None,
    };
    step(wanted, direction)
}

/// All changes in one direction.
fn step(wanted: &[(&ContainerFacts, Resources)], direction: Direction) -> Option<Plan> {
    let changes: Vec<_> = wanted
        .iter()
        .filter_map(|(container, to)| {
            let (from, to) = only(direction, &container.desired, to);
            (!to.is_empty()).then(|| ContainerChange {
                container: container.name.clone(),
                sidecar: container.sidecar,
                restarts: container.restarts_for(to),
                to,
                from,
            })
        })
        .collect();
    (!changes.is_empty()).then_some(Plan { direction, changes })
}

/// The keys of `to` that move in this direction, with what they come from.
fn only(direction: Direction, from: &Resources, to: &Resources) -> (Resources, Resources) {
    fn pick<T: PartialOrd + Copy>(
        direction: Direction,
        from: Option<T>,
        to: Option<T>,
    ) -> (Option<T>, Option<T>) {
        let falls = direction == Direction::Decrease;
        match (from, to) {
            (Some(f), Some(t)) if t != f && (direction == Direction::Both || (t < f) == falls) => (from, to),
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

/// `to`, or as far towards it as one step may go from `from`. Rounded to `grain` towards `from`: a step is never larger
/// than allowed, except that the smallest one is one grain.
pub(super) fn one_step(from: u64, to: u64, limits: MaxStep, grain: u64) -> u64 {
    let grain = grain.max(1);
    if to > from {
        let most = limits.up.map_or(u64::MAX, |up| from.saturating_add(up.of(from)));
        let rounded = most / grain * grain;
        let smallest = from.saturating_add(1).checked_next_multiple_of(grain).unwrap_or(u64::MAX);
        to.min(rounded.max(smallest))
    } else {
        let least = limits.down.map_or(0, |down| from.saturating_sub(down.of(from)));
        let rounded = least.checked_next_multiple_of(grain).unwrap_or(least);
        to.max(rounded.min(from.saturating_sub(1) / grain * grain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_where_numbers_do() {
        let any = MaxStep::default();
        assert_eq!(one_step(u64::MAX - 1, u64::MAX, any, 1 << 20), u64::MAX);
        assert_eq!(one_step(u64::MAX, 0, any, 1 << 20), 0);
        assert_eq!(one_step(10, 25, any, 10), 25);
    }
}
