//! Sizes and facts become a plan, or reasons why not. A decision is a value; nothing here acts.

mod circumstances;
mod plan;
mod pod;
mod reason;
mod recreate;
mod resource;
mod restart;
mod rollback;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::{Mode, Policy, allowed_now};
use crate::quantity::{Bytes, MilliCpu};
use crate::recommend::{ContainerRecommendation, EvidenceSummary, StepKind};
use crate::resources::{Amounts, ContainerFacts, PodFacts, QosClass, Resource, Resources};
use crate::sample::THROTTLED;

pub use circumstances::{Backoff, CanaryProgress, Circumstances, Followed, RestartDebt};
pub use plan::{ContainerChange, Direction, Plan, Recall, ReplacementSize};
pub use pod::SYSTEM_CRITICAL_PRIORITY;
pub use reason::{Hold, Reason};
pub use rollback::{Aftermath, Baseline, RollbackVerdict, rollback};

use plan::{first_step, raises_harmed, restarting_step};
use resource::Subject;

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Patch it.
    Resize {
        /// What to write.
        plan: Plan,
        /// What it rests on, and how it is called back.
        grounds: Grounds,
        /// What is not done, and why.
        held: Vec<Hold>,
    },
    /// Evict it, so that its replacement is created with the new size: the fallback where a resize in place is
    /// impossible and the policy allows it.
    Recreate {
        /// What the replacement is to have.
        plan: Plan,
        /// Why it cannot be done in place.
        because: Hold,
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

/// What a resize rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grounds {
    /// Evidence of each container that is changed.
    pub evidence: Vec<(String, EvidenceSummary)>,
    /// How a decrease is called back; `None` for increases.
    pub recall: Option<Recall>,
    /// Waiting does harm: an OOM kill or throttling. It is neither put off nor counted against budgets.
    pub emergency: bool,
}

impl Decision {
    fn hold(hold: Hold) -> Self {
        Self::Hold { held: vec![hold], would: None }
    }

    /// Everything that is not done.
    pub fn held(&self) -> &[Hold] {
        match self {
            Self::Resize { held, .. } | Self::Recreate { held, .. } | Self::Hold { held, .. } => held,
        }
    }
}

impl fmt::Display for Decision {
    /// Several lines: what is done and why, then what is not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resize { plan, grounds, .. } => {
                let lane = if grounds.emergency { " (emergency)" } else { "" };
                writeln!(f, "resize{lane} {plan}")?;
                if let Some(recall) = &grounds.recall {
                    writeln!(f, "  called back by: {recall}")?;
                }
            }
            Self::Recreate { plan, because, .. } => writeln!(f, "recreate with {plan}: {because}")?,
            Self::Hold { would: Some(plan), .. } => writeln!(f, "hold, else {plan}")?,
            Self::Hold { .. } => writeln!(f, "hold")?,
        }
        self.held().iter().try_for_each(|hold| writeln!(f, "  {hold}"))
    }
}

/// Decides on one pod. Pure.
pub fn decide(
    policy: &Policy,
    pod: &PodFacts,
    sizes: &[ContainerRecommendation],
    at: &Circumstances,
) -> Decision {
    if let Some((reason, message)) = pod::guard(policy, pod, at) {
        return Decision::hold(Hold::of_pod(reason, message));
    }
    let qos = pod.qos_class();
    let mut held = Vec::new();
    let mut wanted: Vec<(&ContainerFacts, Resources)> = Vec::new();
    let mut pressing: Vec<(&ContainerFacts, Resources)> = Vec::new();
    let mut restarting: Vec<(&ContainerFacts, Resources)> = Vec::new();
    let mut free = pod.node.as_ref().and_then(|node| node.free);
    for container in &pod.containers {
        let Some(size) = sizes.iter().find(|s| s.container == container.name) else { continue };
        let (mut to, mut now, mut anew) = (Resources::default(), Resources::default(), Resources::default());
        for resource in [Resource::Cpu, Resource::Memory] {
            match (Subject { policy, pod, container, size, at, qos, resource, free }).change() {
                Ok(change) => {
                    if container.restarts(resource) {
                        anew = anew.overlaid(change);
                    } else {
                        to = to.overlaid(change);
                        if is_urgent(size, resource) {
                            now = now.overlaid(change);
                        }
                    }
                    free = free.map(|free| less(free, container.desired.requests, change.requests));
                }
                Err(refusal) => held.push(refusal),
            }
        }
        wanted.push((container, to));
        pressing.push((container, now));
        restarting.push((container, anew));
    }
    let emergency = raises_harmed(&pressing);
    let plan = emergency.clone().or_else(|| first_step(&wanted)).or_else(|| restarting_step(&restarting));
    let Some(plan) = plan else {
        if held.is_empty() {
            held.push(Hold::of_pod(Reason::NoData, "no container of the pod has a recommendation"));
        }
        return Decision::Hold { held, would: None };
    };
    let plan = match within_class(pod, plan, qos) {
        Ok(plan) => plan,
        Err(refusal) => {
            held.push(refusal);
            return Decision::Hold { held, would: None };
        }
    };
    let grounds = grounds(pod, &plan, sizes, at, emergency.is_some());
    let refusal = plan_guard(policy, &plan, &grounds, at).or_else(|| restart::guard(policy, pod, &plan, at));
    if let Some(hold) = refusal {
        held.insert(0, hold);
        return Decision::Hold { held, would: Some(plan) };
    }
    if let Some(because) = recreate::needed(policy, pod) {
        return match recreate::guard(policy, pod, at) {
            Some(refusal) => {
                held.splice(0..0, [because, refusal]);
                Decision::Hold { held, would: Some(plan) }
            }
            None => Decision::Recreate { plan, because, held },
        };
    }
    Decision::Resize { plan, grounds, held }
}

/// What forbids or puts off a plan as a whole.
fn plan_guard(policy: &Policy, plan: &Plan, grounds: &Grounds, at: &Circumstances) -> Option<Hold> {
    let would = |reason| Some(Hold::of_pod(reason, format!("would change {plan}")));
    if policy.mode == Mode::Recommend {
        return would(Reason::ModeRecommend);
    }
    if at.dry_run || policy.dry_run {
        return would(Reason::DryRun);
    }
    // to wait does harm: neither an upgrade of ours nor a budget keeps it waiting
    if grounds.emergency {
        return None;
    }
    if let Some(shadow) = &at.shadow {
        return Some(Hold::of_pod(Reason::StrategyShadow, format!("{shadow}; it would change {plan}")));
    }
    let kinds: &[bool] = match plan.direction {
        Direction::Decrease => &[true],
        Direction::Increase => &[false],
        Direction::Both => &[true, false],
    };
    if !kinds.iter().all(|decrease| allowed_now(&policy.update.windows, *decrease, at.now)) {
        let windows: Vec<String> = policy.update.windows.iter().map(ToString::to_string).collect();
        return Some(Hold::of_pod(Reason::OutsideWindow, format!("allowed in {}", windows.join("; "))));
    }
    if let Some(message) = canary_waits(policy, at) {
        return Some(Hold::of_pod(Reason::CanaryObserving, message));
    }
    if at.write_budget_spent {
        return Some(Hold::of_pod(Reason::WriteBudgetSpent, "other resizes are worth more"));
    }
    if !at.slot_free {
        return would(Reason::ConcurrencyLimit);
    }
    None
}

/// Some pods try a change first: these may change, or the others were watched long enough.
fn canary_waits(policy: &Policy, at: &Circumstances) -> Option<String> {
    let (canary, progress) = (policy.update.canary?, at.canary?);
    let first = canary.first_of(progress.pods);
    if progress.changed < first {
        return None;
    }
    let seen = progress.since.map(|since| at.now.since(since));
    if seen.is_some_and(|seen| seen >= canary.observe) {
        return None;
    }
    let (seen, needed) = (seen.unwrap_or_default().as_secs(), canary.observe.as_secs());
    Some(format!("{first} of {} pods try the change first, for {seen} s of {needed} s", progress.pods))
}

fn grounds(
    pod: &PodFacts,
    plan: &Plan,
    sizes: &[ContainerRecommendation],
    at: &Circumstances,
    emergency: bool,
) -> Grounds {
    let changed = |name: &str| plan.changes.iter().any(|change| change.container == name);
    let concerned = || sizes.iter().filter(|size| changed(&size.container));
    let evidence = concerned().map(|size| (size.container.clone(), size.evidence.clone())).collect();
    let decrease = plan.direction != Direction::Increase;
    let (cpu, memory) = plan.request_growth();
    let room = |free: crate::resources::Amounts| {
        let covers = |free: Option<u64>, owed: i128| free.is_none_or(|free| i128::from(free) >= -owed);
        covers(free.cpu.map(|c| c.0), cpu) && covers(free.memory.map(|m| m.0), memory)
    };
    let recall = decrease.then(|| Recall {
        plan: plan.inverse(),
        node: pod.node.as_ref().and_then(|node| node.free).map(room),
        quota: at.quota_free.map(room),
        replacement: if at.replacement_known {
            ReplacementSize::Recommended
        } else {
            ReplacementSize::Template
        },
    });
    Grounds { evidence, recall, emergency }
}

/// It was killed for memory, or is throttled: to wait with a raise does harm.
fn is_urgent(size: &ContainerRecommendation, resource: Resource) -> bool {
    match resource {
        Resource::Cpu => size.evidence.throttled_now > THROTTLED,
        Resource::Memory => size.memory.has(StepKind::OomFloor),
    }
}

/// What is left of a node when the requests of a container become others.
fn less(free: Amounts, from: Amounts, to: Amounts) -> Amounts {
    let left = |free: u64, from: Option<u64>, to: Option<u64>| {
        to.zip(from).map_or(free, |(to, from)| free.saturating_sub(to.saturating_sub(from)))
    };
    Amounts {
        cpu: free.cpu.map(|c| MilliCpu(left(c.0, from.cpu.map(|c| c.0), to.cpu.map(|c| c.0)))),
        memory: free.memory.map(|m| Bytes(left(m.0, from.memory.map(|m| m.0), to.memory.map(|m| m.0)))),
    }
}

fn class_after(pod: &PodFacts, plan: &Plan) -> QosClass {
    pod.qos_class_with(|container| {
        let change = plan.changes.iter().find(|c| c.container == container.name);
        change.map_or(container.desired, |c| container.desired.overlaid(c.to))
    })
}

/// The API server refuses a change of the QoS class; so do we, before asking. Where the last difference between a request
/// and its limit would go, one grain of it stays.
fn within_class(pod: &PodFacts, plan: Plan, class: QosClass) -> Result<Plan, Hold> {
    let new = class_after(pod, &plan);
    if new == class {
        return Ok(plan);
    }
    let apart = plan.one_grain_apart().into_iter().find(|plan| class_after(pod, plan) == class);
    let message = format!("{class:?} would become {new:?} by {plan}");
    apart.ok_or_else(|| Hold::of_pod(Reason::QosWouldChange, message))
}

#[cfg(test)]
pub(crate) mod tests;
