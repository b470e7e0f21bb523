//! What is told about a policy: conditions, counts, one entry per workload. Pure but for the gauges of [`show`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff;
use optipod_common::decide::{Decision, Hold, Plan, Reason};
use optipod_common::ident::WorkloadRef;
use optipod_common::policy::Mode;
use optipod_common::progress::Progress;
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::recommend::ContainerRecommendation;
use optipod_common::resources::{Resource, Resources};
use optipod_common::savings::{Prices, Savings};
use optipod_common::time::Timestamp;

use crate::api::convert::{DECREASES_HELD, NOTHING_RESIZED, NOTHING_SELECTED};
use crate::api::v1alpha1::{
    ContainerStatus, MAX_WORKLOADS, OptimizationPolicyStatus, Sizes, StrategyRef, Summary, Totals,
    WorkloadPhase, WorkloadStatus,
};
use crate::engine::{PodOutcome, WorkloadOutcome, pinned};
use crate::index::{PolicyEntry, PolicyKey, Selection};
use crate::metrics::Metrics;
use crate::savings;

/// A core costs about as much as 8 GiB on the large clouds: what a millicore weighs beside memory.
const BYTES_PER_MILLICORE: u128 = (8 << 30) / 1000;

/// Of the message of a condition: the API allows 32,768.
const CONDITION_SHOWN: usize = 32_000;

/// What is wrong with a policy as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In one word.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// Builds the status of a policy. `before` keeps transition times of conditions and the history of workloads; `brake` is
/// why nothing is resized whatever the policy says.
pub fn build(
    entry: &PolicyEntry,
    selection: &Selection,
    outcomes: &[WorkloadOutcome],
    last_applied: &BTreeMap<WorkloadRef, Timestamp>,
    before: &OptimizationPolicyStatus,
    (brake, now): (Option<&str>, Timestamp),
) -> OptimizationPolicyStatus {
    let kept = &before.workloads;
    let workloads: Vec<WorkloadStatus> = outcomes
        .iter()
        .map(|outcome| {
            let old = kept.iter().find(|w| is_about(w, &outcome.workload));
            workload_status(outcome, last_applied.get(&outcome.workload), old, now)
        })
        .collect();
    let summary = summary(&workloads, outcomes, before.summary.as_ref());
    let workloads = most_wasteful(workloads, outcomes, kept);
    OptimizationPolicyStatus {
        observed_generation: Some(entry.generation),
        strategy: strategy(entry, before),
        conditions: conditions(entry, selection, before, (brake, now)),
        summary: Some(summary),
        workloads,
    }
}

/// The status that a policy has, but for the condition `Ready`, which says what is wrong.
pub fn unready(entry: &PolicyEntry, problem: &Problem, now: Timestamp) -> OptimizationPolicyStatus {
    let mut status = entry.status.clone();
    let old = status.conditions.iter().find(|c| c.type_ == "Ready" && c.status == "False");
    let ready = Condition {
        type_: "Ready".to_owned(),
        status: "False".to_owned(),
        reason: problem.reason.clone(),
        message: problem.message.chars().take(CONDITION_SHOWN).collect(),
        last_transition_time: old.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
        observed_generation: Some(entry.generation),
    };
    status.conditions.retain(|condition| condition.type_ != "Ready");
    status.conditions.insert(0, ready);
    status
}

/// Those that there is room for: where most could be given back or is missing, in order of their names. Those that were
/// shown need a tenth less, so that two that are close do not take turns.
fn most_wasteful(
    workloads: Vec<WorkloadStatus>,
    outcomes: &[WorkloadOutcome],
    shown: &[WorkloadStatus],
) -> Vec<WorkloadStatus> {
    if workloads.len() <= MAX_WORKLOADS {
        return workloads;
    }
    let waste = |outcome: &WorkloadOutcome| {
        let Savings { reclaimable, missing, .. } = savings::of([outcome]);
        let total =
            (reclaimable.cpu + missing.cpu) * BYTES_PER_MILLICORE + reclaimable.memory + missing.memory;
        let known = shown.iter().any(|workload| is_about(workload, &outcome.workload));
        if known { total * 11 / 10 } else { total }
    };
    let mut by_waste: Vec<(u128, usize)> =
        outcomes.iter().map(waste).enumerate().map(|(at, waste)| (waste, at)).collect();
    by_waste.sort_by_key(|(waste, at)| (std::cmp::Reverse(*waste), *at));
    let most: BTreeSet<usize> = by_waste.into_iter().take(MAX_WORKLOADS).map(|(_, at)| at).collect();
    workloads
        .into_iter()
        .enumerate()
        .filter(|(at, _)| most.contains(at))
        .map(|(_, workload)| workload)
        .collect()
}

/// What is pinned; a policy that is invalid now keeps what it had.
fn strategy(entry: &PolicyEntry, before: &OptimizationPolicyStatus) -> Option<StrategyRef> {
    match &entry.parsed {
        Ok((policy, _)) => Some(pinned(policy, before)),
        Err(_) => before.strategy.clone(),
    }
}

/// The condition `Ready` when it is `False`.
pub fn problem(status: &OptimizationPolicyStatus) -> Option<Problem> {
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready" && c.status == "False")?;
    Some(Problem { reason: ready.reason.clone(), message: ready.message.clone() })
}

/// True when the two say different things; times of recommendations and counts of values alone are no news.
pub fn differs(before: &OptimizationPolicyStatus, after: &OptimizationPolicyStatus) -> bool {
    let plain = |status: &OptimizationPolicyStatus| {
        let mut status = status.clone();
        for workload in &mut status.workloads {
            workload.last_recommendation = None;
            // counts of values change with every evaluation; what they lead to stands beside them
            workload.recommendations.iter_mut().for_each(|container| container.explanation.clear());
            // countdowns change with every evaluation and say nothing new
            if !workload.reason.is_empty() {
                workload.message.retain(|c| !c.is_ascii_digit());
            }
        }
        status
    };
    plain(before) != plain(after)
}

/// Sets the gauges of one policy.
pub fn show(metrics: &Metrics, key: &PolicyKey, outcomes: &[WorkloadOutcome], prices: Option<Prices>) {
    clear(metrics, key);
    let labels = [key.namespace.as_str(), key.name.as_str()];
    let mut updated = 0;
    let mut skipped: BTreeMap<String, i64> = BTreeMap::new();
    for outcome in outcomes {
        match phase(outcome) {
            (WorkloadPhase::Applied, ..) => updated += 1,
            (WorkloadPhase::InProgress, ..) => {}
            (_, reason, _) => *skipped.entry(reason).or_default() += 1,
        }
    }
    savings::show(metrics, labels, &savings::of(outcomes), prices);
    let count = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
    metrics.workloads_monitored.with_label_values(&labels).set(count);
    metrics.workloads_updated.with_label_values(&labels).set(updated);
    for (reason, count) in skipped {
        metrics.workloads_skipped.with_label_values(&[labels[0], labels[1], reason.as_str()]).set(count);
    }
}

/// Removes everything that is measured of one policy.
pub fn forget(metrics: &Metrics, key: &PolicyKey) {
    clear(metrics, key);
    let name = key.to_string();
    // absent labels are not an error here
    let _ = metrics.reconciliation_seconds.remove_label_values(&[name.as_str()]);
    let _ = metrics.recommendations.remove_label_values(&[name.as_str()]);
    for method in ["InPlace", "Revert"] {
        let _ = metrics.applications.remove_label_values(&[name.as_str(), method]);
    }
    for reason in Reason::ALL {
        let _ = metrics.reconciliation_errors.remove_label_values(&[name.as_str(), reason.as_str()]);
    }
}

/// Removes the gauges of one policy.
fn clear(metrics: &Metrics, key: &PolicyKey) {
    let labels = [key.namespace.as_str(), key.name.as_str()];
    // absent labels are not an error here
    let _ = metrics.workloads_monitored.remove_label_values(&labels);
    let _ = metrics.workloads_updated.remove_label_values(&labels);
    savings::forget(metrics, labels);
    for reason in Reason::ALL {
        let _ = metrics.workloads_skipped.remove_label_values(&[labels[0], labels[1], reason.as_str()]);
    }
}

fn is_about(status: &WorkloadStatus, workload: &WorkloadRef) -> bool {
    status.namespace == workload.namespace && status.kind == workload.kind && status.name == workload.name
}

fn conditions(
    entry: &PolicyEntry,
    selection: &Selection,
    before: &OptimizationPolicyStatus,
    (brake, now): (Option<&str>, Timestamp),
) -> Vec<Condition> {
    let condition = |type_: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let old = before.conditions.iter().find(|c| c.type_ == type_ && c.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(CONDITION_SHOWN).collect(),
            last_transition_time: old.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
            observed_generation: Some(entry.generation),
        }
    };
    let mut conditions = Vec::new();
    match (&entry.parsed, &entry.refused_scope) {
        (Err(violations), _) => {
            let messages: Vec<_> = violations.iter().map(ToString::to_string).collect();
            conditions.push(condition("Ready", false, "PolicyInvalid", messages.join("; ")));
        }
        (Ok(_), Some(refused)) => conditions.push(condition("Ready", false, "ScopeRefused", refused.clone())),
        (Ok((policy, _)), None) => {
            let message = match (policy.mode, brake) {
                (Mode::Auto, _) if policy.dry_run => "nothing is resized in a dry run",
                (Mode::Auto, Some(why)) => why,
                (Mode::Auto, None) if warned(entry, NOTHING_RESIZED) => {
                    "nothing is resized: no way to is allowed"
                }
                (Mode::Auto, None) if warned(entry, DECREASES_HELD) => "pods are raised and never lowered",
                (Mode::Auto, None) => "pods are resized",
                (Mode::Recommend, _) => "nothing is resized in mode Recommend",
                (Mode::Disabled, _) => "it is disabled",
            };
            conditions.push(condition(
                "Ready",
                true,
                "PolicyValid",
                format!("the policy is valid; {message}"),
            ));
            let warnings = entry.warnings.iter();
            conditions.extend(warnings.map(|w| condition(w.condition, true, w.reason, w.message.clone())));
        }
    }
    let listed = |all: &[(WorkloadRef, PolicyKey)], verb: &str| {
        let names: Vec<_> = all.iter().take(5).map(|(w, winner)| format!("{w} {verb} {winner}")).collect();
        let more = if all.len() > 5 { format!(" and {} more", all.len() - 5) } else { String::new() };
        format!("{}{more}", names.join("; "))
    };
    let (lost, bound) = (selection.conflicts.get(&entry.key), selection.enforcing.get(&entry.key));
    if let Some(lost) = lost {
        let message = listed(lost, "belongs to");
        conditions.push(condition("Conflict", true, Reason::PolicyConflict.as_str(), message));
    }
    if let Some(bound) = bound {
        let message =
            format!("its bounds hold for workloads of other policies: {}", listed(bound, "follows"));
        conditions.push(condition("Enforced", true, "BoundsHold", message));
    }
    let matched = selection.by_policy.get(&entry.key);
    let said = warned(entry, NOTHING_SELECTED);
    if matched.is_some_and(Vec::is_empty) && lost.is_none() && bound.is_none() && !said {
        let message =
            "no workload that has pods matches all of spec.selector: look at namespaces, kinds and labels";
        conditions.push(condition(NOTHING_SELECTED, true, "NoWorkloadMatches", message.to_owned()));
    }
    conditions
}

fn warned(entry: &PolicyEntry, condition: &str) -> bool {
    entry.warnings.iter().any(|warning| warning.condition == condition)
}

fn summary(workloads: &[WorkloadStatus], outcomes: &[WorkloadOutcome], before: Option<&Summary>) -> Summary {
    let count = |test: &dyn Fn(&WorkloadStatus) -> bool| {
        i64::try_from(workloads.iter().filter(|w| test(w)).count()).unwrap_or(i64::MAX)
    };
    let containers = outcomes.iter().flat_map(|o| &o.pods).flat_map(|p| &p.facts.containers);
    let (mut cpu, mut memory) = (0_i128, 0_i128);
    for container in containers {
        let (declared, desired) = (container.declared.requests, container.desired.requests);
        if let (Some(declared), Some(desired)) = (declared.cpu, desired.cpu) {
            cpu += i128::from(declared.0) - i128::from(desired.0);
        }
        if let (Some(declared), Some(desired)) = (declared.memory, desired.memory) {
            memory += i128::from(declared.0) - i128::from(desired.0);
        }
    }
    let signed = |value: i128, show: fn(u64) -> String| {
        let magnitude = show(u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX));
        if value < 0 { format!("-{magnitude}") } else { magnitude }
    };
    Summary {
        matched: i64::try_from(workloads.len()).unwrap_or(i64::MAX),
        recommended: count(&|w| !w.recommendations.is_empty()),
        applied: count(&|w| w.status == WorkloadPhase::Applied),
        skipped: count(&|w| matches!(w.status, WorkloadPhase::Skipped | WorkloadPhase::Failed)),
        reclaimed: Totals {
            cpu: signed(cpu, |v| MilliCpu(v).to_string()),
            memory: signed(memory, |v| Bytes(v).to_string()),
        },
        account: Some(savings::account(&savings::of(outcomes), before.and_then(|b| b.account.as_ref()))),
    }
}

/// Of what is said of a workload: others (API server, webhooks, owners) write parts of it, and all share one status.
const MESSAGE_SHOWN: usize = 1000;

fn workload_status(
    outcome: &WorkloadOutcome,
    applied: Option<&Timestamp>,
    old: Option<&WorkloadStatus>,
    now: Timestamp,
) -> WorkloadStatus {
    let WorkloadOutcome { workload, pods } = outcome;
    let (status, reason, message) = phase(outcome);
    let message = message.chars().take(MESSAGE_SHOWN).collect();
    let recommendations: Vec<ContainerStatus> = pods
        .first()
        .map(|pod| pod.sizes.iter().map(|size| container_status(size, pods)).collect())
        .unwrap_or_default();
    let fresh = !recommendations.is_empty();
    let last_recommendation =
        fresh.then(|| time(now)).or_else(|| old.and_then(|o| o.last_recommendation.clone()));
    // Disabled keeps the history
    let recommendations =
        if fresh { recommendations } else { old.map(|o| o.recommendations.clone()).unwrap_or_default() };
    WorkloadStatus {
        namespace: workload.namespace.clone(),
        kind: workload.kind.clone(),
        name: workload.name.clone(),
        pods: i32::try_from(pods.len()).unwrap_or(i32::MAX),
        status,
        reason,
        message,
        last_recommendation,
        last_applied: applied.map(|at| time(*at)).or_else(|| old.and_then(|o| o.last_applied.clone())),
        recommendations,
    }
}

/// Where a workload stands, why in one word, and why in words. The pod that is worst off speaks for all.
pub(crate) fn phase(outcome: &WorkloadOutcome) -> (WorkloadPhase, String, String) {
    let phases = outcome.pods.iter().map(|pod| (pod, pod_phase(pod)));
    let worst = phases.min_by_key(|(_, (phase, ..))| match phase {
        WorkloadPhase::Failed => 0,
        WorkloadPhase::InProgress => 1,
        WorkloadPhase::Skipped => 2,
        WorkloadPhase::Recommended => 3,
        WorkloadPhase::Applied => 4,
    });
    let Some((pod, (phase, reason, words))) = worst else {
        let message = "the workload has no pods".to_owned();
        return (WorkloadPhase::Skipped, Reason::PodNotRunning.to_string(), message);
    };
    (phase, reason.map_or_else(String::new, |reason| reason.to_string()), words.of(&pod.facts.name))
}

/// What is said of a pod; put into words only where it speaks for all.
enum Words<'a> {
    Nothing,
    Text(&'a str),
    Held(&'a Hold),
    Resize(&'a Plan),
    Recreate(&'a Plan, &'a Hold),
}

impl Words<'_> {
    fn of(&self, name: &str) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Text(text) => format!("{name}: {text}"),
            Self::Held(Hold { container: Some(container), resource: Some(resource), message, .. }) => {
                format!("{name}: {container} {resource}: {message}")
            }
            Self::Held(hold) => format!("{name}: {}", hold.message),
            Self::Resize(plan) => format!("{name}: {plan}"),
            Self::Recreate(plan, because) => {
                format!("{name}: a new pod is to have {plan}: {}", because.message)
            }
        }
    }
}

fn pod_phase(pod: &PodOutcome) -> (WorkloadPhase, Option<Reason>, Words<'_>) {
    let say = |phase, reason, text| (phase, Some(reason), Words::Text(text));
    match &pod.progress {
        Some(Progress::Deferred(message)) => {
            return say(WorkloadPhase::InProgress, Reason::ResizeDeferred, message);
        }
        Some(Progress::Infeasible(message)) => {
            return say(WorkloadPhase::Failed, Reason::ResizeInfeasible, message);
        }
        Some(Progress::Error(message)) => {
            return say(WorkloadPhase::InProgress, Reason::ResizeError, message);
        }
        Some(_) => return say(WorkloadPhase::InProgress, Reason::ResizeInFlight, "a resize is under way"),
        None => {}
    }
    if let Some(backoff) = &pod.backoff {
        return say(WorkloadPhase::Failed, backoff.reason, &backoff.message);
    }
    match (&pod.decision, pod.main_hold()) {
        (Decision::Resize { plan, .. }, _) => (WorkloadPhase::InProgress, None, Words::Resize(plan)),
        (Decision::Recreate { plan, because, .. }, _) => {
            (WorkloadPhase::InProgress, Some(because.reason), Words::Recreate(plan, because))
        }
        (Decision::Hold { .. }, Some(hold)) => {
            let phase = match hold.reason {
                Reason::ModeRecommend | Reason::DryRun | Reason::StrategyShadow => WorkloadPhase::Recommended,
                _ => WorkloadPhase::Skipped,
            };
            (phase, Some(hold.reason), Words::Held(hold))
        }
        (Decision::Hold { .. }, None) => (WorkloadPhase::Applied, None, Words::Nothing),
    }
}

fn container_status(size: &ContainerRecommendation, pods: &[PodOutcome]) -> ContainerStatus {
    let target = size.target();
    let facts = || pods.iter().flat_map(|p| &p.facts.containers).filter(|c| c.name == size.container);
    let declared = facts().next().map(|c| sizes(&c.declared));
    let current = facts().map(|c| c.desired).reduce(largest).map(|r| sizes(&r));
    ContainerStatus {
        container: size.container.clone(),
        cpu: target.requests.cpu.map(|v| v.to_string()),
        memory: target.requests.memory.map(|v| v.to_string()),
        cpu_limit: target.limits.cpu.map(|v| v.to_string()),
        memory_limit: target.limits.memory.map(|v| v.to_string()),
        declared,
        current,
        explanation: explanation(size),
    }
}

/// How a recommendation came about, in one line, with its evidence.
pub(crate) fn explanation(size: &ContainerRecommendation) -> String {
    let each = [Resource::Cpu, Resource::Memory].map(|resource| {
        let sizing = size.of(resource);
        let steps = sizing.explain(resource);
        match &sizing.hold {
            Some(hold) if steps.is_empty() => format!("{resource}: {}: {}", hold.reason, hold.message),
            Some(hold) => format!("{resource}: {steps} > {}: {}", hold.reason, hold.message),
            None => format!("{resource}: {steps}"),
        }
    });
    format!("{}; {}", each.join("; "), size.evidence.text())
}

pub(crate) fn sizes(resources: &Resources) -> Sizes {
    let Resources { requests, limits } = resources;
    Sizes {
        cpu: requests.cpu.map(|v| v.to_string()),
        memory: requests.memory.map(|v| v.to_string()),
        cpu_limit: limits.cpu.map(|v| v.to_string()),
        memory_limit: limits.memory.map(|v| v.to_string()),
    }
}

pub(crate) fn largest(a: Resources, b: Resources) -> Resources {
    let amounts = |a: optipod_common::resources::Amounts, b: optipod_common::resources::Amounts| {
        optipod_common::resources::Amounts { cpu: a.cpu.max(b.cpu), memory: a.memory.max(b.memory) }
    };
    Resources { requests: amounts(a.requests, b.requests), limits: amounts(a.limits, b.limits) }
}

/// As the API writes it: whole seconds.
pub fn time(at: Timestamp) -> Time {
    let seconds = at.unix_micros().div_euclid(1_000_000);
    Time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}
