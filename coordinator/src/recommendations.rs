//! What is told about one workload: its `Recommendation`. Pure.

use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use optipod_common::decide::{Decision, Reason};
use optipod_common::ident::WorkloadRef;
use optipod_common::policy::{Mode, Policy, Strategy};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::recommend::{ContainerRecommendation, EvidenceSummary, ExpertOpinion, Sizing, amount};
use optipod_common::resources::{Amounts, Resource, Resources};
use optipod_common::time::Timestamp;

use crate::api::recommendation::{
    Confidence, DecisionKind, EvidenceEntry, ExpertEntry, HistoryEntry, LastDecision, MAX_CONTAINERS,
    MAX_EXPERTS, MAX_HISTORY, MAX_STEPS, PolicyRef, RecommendationStatus, RecommendedContainer,
    ResourceSteps, StepEntry,
};
use crate::api::sizing::StrategyType;
use crate::api::status::{Sizes, StrategyRef};
use crate::engine::{PodOutcome, WorkloadOutcome, current_version};
use crate::index::PolicyKey;
use crate::savings;
use crate::status::{largest, phase, sizes, time};

/// Evidence of a day or more supports a decision through a daily peak.
const DAY_SECONDS: u64 = 24 * 3600;

/// Why a container has no recommendation, where it is no reason of a decision.
const EXCLUDED: &str = "Excluded";
const INIT_CONTAINER: &str = "InitContainer";
const EPHEMERAL_CONTAINER: &str = "EphemeralContainer";

/// Name of the object for a workload, in the workload's namespace: unlike kinds may share a name.
pub fn object_name(workload: &WorkloadRef) -> String {
    let name = format!("{}-{}", workload.kind.to_ascii_lowercase(), workload.name);
    name.chars().take(253).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Builds the status. `before` keeps times and history.
pub fn build(
    (key, generation, policy): (&PolicyKey, i64, &Policy),
    outcome: &WorkloadOutcome,
    last_applied: Option<Timestamp>,
    before: Option<&RecommendationStatus>,
    now: Timestamp,
) -> RecommendationStatus {
    let (phase, reason, message) = phase(outcome);
    let first = outcome.pods.first();
    let recommended: &[ContainerRecommendation] = first.map_or(&[], |pod| &pod.sizes);
    let sized = recommended.iter().map(|size| container(size, &outcome.pods));
    let containers: Vec<RecommendedContainer> =
        sized.chain(left_alone(outcome, policy)).take(MAX_CONTAINERS).collect();
    let job = first.is_some_and(|pod| pod.facts.job);
    let least = recommended.iter().map(|size| {
        let whole = job || size.evidence.covered.as_secs() >= DAY_SECONDS;
        (size.evidence.coverage(job) / 10, whole)
    });
    let least = least.min();
    let confidence = least.map(|(percent, whole)| {
        let enough = percent * 10 >= u64::from(policy.minimum_coverage.thousandths());
        match enough {
            false => Confidence::Low,
            true if percent >= 90 && whole => Confidence::High,
            true => Confidence::Medium,
        }
    });
    let mut status = RecommendationStatus {
        policy: Some(PolicyRef { namespace: key.namespace.clone(), name: key.name.clone(), generation }),
        strategy: Some(StrategyRef { kind: kind_of(&policy.strategy), version: current_version(policy) }),
        phase: Some(phase),
        reason,
        message,
        pods: i32::try_from(outcome.pods.len()).unwrap_or(i32::MAX),
        declared: first.map(|pod| sizes(&total(pod.facts.containers.iter().map(|c| c.declared)))),
        current: first.map(|_| sizes(&total(current(&outcome.pods)))),
        recommended: (!recommended.is_empty())
            .then(|| sizes(&total(recommended.iter().map(ContainerRecommendation::target)))),
        account: first.map(|_| {
            savings::account(&savings::of([outcome]), before.and_then(|before| before.account.as_ref()))
        }),
        coverage_percent: least.and_then(|(percent, _)| i32::try_from(percent.min(100)).ok()),
        confidence,
        containers,
        last_recommended: None,
        last_applied: last_applied.map(time),
        last_decision: first.map(|pod| decision(pod, now)),
        history: Vec::new(),
        conditions: Vec::new(),
    };
    status.conditions = vec![ready(&status, generation, before, now)];
    keep(&mut status, before, now);
    status
}

/// Times and history that stay from one status to the next.
fn keep(status: &mut RecommendationStatus, before: Option<&RecommendationStatus>, now: Timestamp) {
    let Some(before) = before else {
        status.last_recommended = status.recommended.is_some().then(|| time(now));
        return;
    };
    let same = before.recommended == status.recommended;
    status.last_recommended = match &before.last_recommended {
        Some(at) if same => Some(at.clone()),
        _ => status.recommended.is_some().then(|| time(now)),
    };
    status.last_applied = status.last_applied.take().or_else(|| before.last_applied.clone());
    status.history.clone_from(&before.history);
    if let (Some(new), Some(old)) = (&mut status.last_decision, &before.last_decision)
        && (new.decision, &new.reason) == (old.decision, &old.reason)
    {
        new.time = old.time.clone();
    }
    restore(status, before);
}

/// No size is known now: a policy that is disabled, or a leader that has not heard yet. What was recommended stays, but
/// for containers that are excluded by now.
fn restore(status: &mut RecommendationStatus, before: &RecommendationStatus) {
    if status.recommended.is_some() || before.recommended.is_none() {
        return;
    }
    let known = before.containers.iter().filter(|known| known.steps.is_some());
    for known in known {
        match status.containers.iter_mut().find(|container| container.name == known.name) {
            Some(container) if container.reason == EXCLUDED => {}
            Some(container) => container.clone_from(known),
            None => status.containers.push(known.clone()),
        }
    }
    status.recommended.clone_from(&before.recommended);
    status.last_recommended.clone_from(&before.last_recommended);
    status.coverage_percent = status.coverage_percent.or(before.coverage_percent);
    status.confidence = status.confidence.or(before.confidence);
}

/// True when the two say different things. Countdowns, counts of values and coverage below the next ten percent are no
/// news: an object is not written for them.
pub fn differs(before: &RecommendationStatus, after: &RecommendationStatus) -> bool {
    let plain = |status: &RecommendationStatus| {
        let mut status = status.clone();
        status.coverage_percent = status.coverage_percent.map(|percent| percent / 10);
        status.message.retain(|c| !c.is_ascii_digit());
        if let Some(decision) = &mut status.last_decision {
            decision.message.retain(|c| !c.is_ascii_digit());
        }
        for condition in &mut status.conditions {
            condition.message.retain(|c| !c.is_ascii_digit());
        }
        for container in &mut status.containers {
            container.explanation.clear();
            container.steps = None;
            container.evidence = None;
        }
        status
    };
    plain(before) != plain(after)
}

/// Adds a resize to the history, newest first.
pub fn remember(status: &mut RecommendationStatus, entry: HistoryEntry) {
    status.history.insert(0, entry);
    status.history.truncate(MAX_HISTORY);
}

/// What another leader wrote stays: its history, and times that this one does not know.
pub fn merge(status: &mut RecommendationStatus, stored: &RecommendationStatus) {
    for entry in &stored.history {
        if !status.history.iter().any(|known| (&known.time, &known.pod) == (&entry.time, &entry.pod)) {
            status.history.push(entry.clone());
        }
    }
    status.history.sort_by_key(|entry| std::cmp::Reverse(entry.time.0));
    status.history.truncate(MAX_HISTORY);
    status.last_applied = status.last_applied.take().or_else(|| stored.last_applied.clone());
    if stored.recommended == status.recommended {
        status.last_recommended = stored.last_recommended.clone().or_else(|| status.last_recommended.take());
    }
    // what nobody can tell any more once the pods are resized
    for container in status.containers.iter_mut().filter(|container| container.declared.is_none()) {
        let known = stored.containers.iter().find(|known| known.name == container.name);
        container.declared = known.and_then(|known| known.declared.clone());
    }
    restore(status, stored);
}

/// What a status says that containers declare.
pub fn declared(status: &RecommendationStatus) -> Vec<(String, Resources)> {
    fn parsed<T: FromStr>(text: Option<&String>) -> Option<T> {
        text.and_then(|text| text.parse().ok())
    }
    let containers = status.containers.iter();
    let stated = containers.filter_map(|container| {
        let Sizes { cpu, memory, cpu_limit, memory_limit } = container.declared.as_ref()?;
        let amounts = |cpu: &Option<String>, memory: &Option<String>| Amounts {
            cpu: parsed(cpu.as_ref()),
            memory: parsed(memory.as_ref()),
        };
        let declared = Resources { requests: amounts(cpu, memory), limits: amounts(cpu_limit, memory_limit) };
        Some((container.name.clone(), declared))
    });
    stated.collect()
}

/// The API's name of a strategy.
pub const fn kind_of(strategy: &Strategy) -> StrategyType {
    match strategy {
        Strategy::Percentile => StrategyType::Percentile,
        Strategy::Threshold(_) => StrategyType::Threshold,
        Strategy::Adaptive(_) => StrategyType::Adaptive,
        Strategy::Expression(_) => StrategyType::Expression,
    }
}

fn decision(pod: &PodOutcome, now: Timestamp) -> LastDecision {
    let kind = match &pod.decision {
        Decision::Resize { .. } => DecisionKind::Resize,
        Decision::Recreate { .. } | Decision::Hold { .. } => DecisionKind::Hold,
    };
    let hold = pod.main_hold().or_else(|| pod.decision.held().first());
    let reason = match &pod.decision {
        Decision::Resize { .. } => String::new(),
        Decision::Recreate { because, .. } => because.reason.to_string(),
        Decision::Hold { .. } => hold.map_or_else(String::new, |hold| hold.reason.to_string()),
    };
    // the API allows 32,768 characters for all of the object's text
    let message = pod.decision.to_string().trim_end().chars().take(4000).collect();
    LastDecision { time: time(now), decision: kind, reason, message }
}

fn ready(
    status: &RecommendationStatus,
    generation: i64,
    before: Option<&RecommendationStatus>,
    now: Timestamp,
) -> Condition {
    let has_value = |c: &RecommendedContainer| {
        c.recommended.as_ref().is_some_and(|sizes| sizes.cpu.is_some() || sizes.memory.is_some())
    };
    let (value, reason, message) = if status.containers.iter().any(has_value) {
        ("True", "Recommended", "there is a recommendation".to_owned())
    } else {
        ("False", "NoRecommendation", format!("there is no recommendation: {}", status.message))
    };
    let old = before.and_then(|b| b.conditions.iter().find(|c| c.type_ == "Ready" && c.status == value));
    Condition {
        type_: "Ready".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(32_000).collect(),
        last_transition_time: old.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
        observed_generation: Some(generation),
    }
}

/// Containers that are not sized, each with what is done with it.
fn left_alone(outcome: &WorkloadOutcome, policy: &Policy) -> Vec<RecommendedContainer> {
    let Some(pod) = outcome.pods.first() else { return Vec::new() };
    let facts = &pod.facts;
    let mut named = Vec::new();
    let mut name = |name: &str, current: Option<Resources>, reason: &str, explanation: &str| {
        named.push(RecommendedContainer {
            name: name.to_owned(),
            current: current.map(|resources| sizes(&resources)),
            reason: reason.to_owned(),
            explanation: explanation.to_owned(),
            ..RecommendedContainer::default()
        });
    };
    for container in &facts.containers {
        let sized = pod.sizes.iter().any(|size| size.container == container.name);
        let current = Some(container.desired);
        if pod.excluded.contains(&container.name) {
            name(&container.name, current, EXCLUDED, "selector.excludeContainers of the policy names it");
        } else if !sized && policy.mode != Mode::Disabled {
            let reason = Reason::NoData.as_str();
            name(&container.name, current, reason, "no usage of it was seen");
        }
    }
    for init in &facts.init {
        let why = "it runs to its end before the others start: nothing is learned of it in time";
        name(&init.name, Some(init.resources), INIT_CONTAINER, why);
    }
    for ephemeral in &facts.ephemeral {
        name(ephemeral, None, EPHEMERAL_CONTAINER, "it has no resources of its own");
    }
    named
}

fn container(size: &ContainerRecommendation, pods: &[PodOutcome]) -> RecommendedContainer {
    let facts = || pods.iter().flat_map(|p| &p.facts.containers).filter(|c| c.name == size.container);
    let bound = |of: fn(&Sizing) -> Option<u64>| {
        let amounts = Amounts { cpu: of(&size.cpu).map(MilliCpu), memory: of(&size.memory).map(Bytes) };
        (!amounts.is_empty()).then(|| sizes(&Resources { requests: amounts, limits: Amounts::default() }))
    };
    let steps = |resource: Resource| {
        size.of(resource)
            .steps
            .iter()
            .take(MAX_STEPS)
            .map(|step| StepEntry {
                step: step.kind.to_string(),
                value: amount(resource, step.value),
                detail: step.detail.clone(),
                experts: step
                    .experts
                    .iter()
                    .take(MAX_EXPERTS)
                    .map(|opinion| expert(resource, opinion))
                    .collect(),
            })
            .collect()
    };
    let target = size.target();
    RecommendedContainer {
        name: size.container.clone(),
        declared: facts().find(|c| !c.declaration_unknown).map(|c| sizes(&c.declared)),
        current: facts().map(|c| c.desired).reduce(largest).map(|r| sizes(&r)),
        recommended: (!target.is_empty()).then(|| sizes(&target)),
        lower_bound: bound(|sizing| sizing.lower),
        upper_bound: bound(|sizing| sizing.upper),
        reason: reason(size, pods.first()),
        evidence: Some(evidence(&size.evidence)),
        steps: Some(ResourceSteps { cpu: steps(Resource::Cpu), memory: steps(Resource::Memory) }),
        explanation: crate::status::explanation(size) + &differences(&size.container, pods),
    }
}

/// Why resources of a container have no recommendation, or why it is not applied to the pod whose size is told.
fn reason(size: &ContainerRecommendation, pod: Option<&PodOutcome>) -> String {
    let of = |resource| {
        let held = pod.into_iter().flat_map(|pod| pod.decision.held());
        // the size of a change that is fine as it is says nothing
        let mut held = held.filter(|hold| {
            hold.container.as_ref() == Some(&size.container)
                && hold.resource == Some(resource)
                && hold.reason != Reason::ChangeTooSmall
        });
        size.of(resource).hold.as_ref().or_else(|| held.next()).map(|hold| hold.reason)
    };
    match (of(Resource::Cpu), of(Resource::Memory)) {
        (None, None) => String::new(),
        (Some(cpu), Some(memory)) if cpu == memory => cpu.to_string(),
        (Some(cpu), Some(memory)) => format!("cpu: {cpu}, memory: {memory}"),
        (Some(cpu), None) => format!("cpu: {cpu}"),
        (None, Some(memory)) => format!("memory: {memory}"),
    }
}

fn expert(resource: Resource, ExpertOpinion { expert, value, cost }: &ExpertOpinion) -> ExpertEntry {
    ExpertEntry { expert: expert.clone(), value: amount(resource, *value), cost: count(*cost) }
}

fn evidence(of: &EvidenceSummary) -> EvidenceEntry {
    EvidenceEntry {
        window_seconds: count(of.window.as_secs()),
        covered_seconds: count(of.covered.as_secs()),
        cpu_samples: count(of.cpu_samples),
        memory_samples: count(of.memory_samples),
        cpu_mean: of.cpu_mean.to_string(),
        cpu_peak: of.cpu_peak.to_string(),
        memory_mean: of.memory_mean.to_string(),
        memory_peak: of.memory_peak.to_string(),
        throttled: format!("{}.{}%", of.throttled_share / 10, of.throttled_share % 10),
        oom_kills: count(of.oom_kills),
    }
}

fn count(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// Where pods are sized one by one: what is recommended to all of them.
fn differences(container: &str, pods: &[PodOutcome]) -> String {
    let sizes = || pods.iter().flat_map(|pod| pod.sizes.iter()).filter(|size| size.container == container);
    let range = |resource| {
        let requests = || sizes().filter_map(move |size| size.of(resource).request);
        let (least, most) = requests().min().zip(requests().max()).filter(|(least, most)| least < most)?;
        Some(format!(
            "; {resource} of {} pods {} to {}",
            requests().count(),
            amount(resource, least),
            amount(resource, most)
        ))
    };
    [Resource::Cpu, Resource::Memory].into_iter().filter_map(range).collect()
}

/// The largest of each container, over all pods.
fn current(pods: &[PodOutcome]) -> impl Iterator<Item = Resources> {
    let names = pods.first().into_iter().flat_map(|pod| pod.facts.containers.iter().map(|c| &c.name));
    names.map(|name| {
        let same = pods.iter().flat_map(|p| &p.facts.containers).filter(|c| c.name == *name);
        same.map(|c| c.desired).reduce(largest).unwrap_or_default()
    })
}

fn total(all: impl Iterator<Item = Resources>) -> Resources {
    let plus = |a: Amounts, b: Amounts| Amounts {
        cpu: sum(a.cpu.map(|c| c.0), b.cpu.map(|c| c.0)).map(MilliCpu),
        memory: sum(a.memory.map(|m| m.0), b.memory.map(|m| m.0)).map(Bytes),
    };
    all.fold(Resources::default(), |a, b| Resources {
        requests: plus(a.requests, b.requests),
        limits: plus(a.limits, b.limits),
    })
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, cpu: Option<&str>) -> RecommendedContainer {
        let sizes = |cpu: &str| Sizes { cpu: Some(cpu.to_owned()), ..Sizes::default() };
        RecommendedContainer {
            name: name.to_owned(),
            declared: cpu.map(|_| sizes("1")),
            recommended: cpu.map(sizes),
            steps: cpu.map(|_| ResourceSteps::default()),
            ..RecommendedContainer::default()
        }
    }

    fn stored() -> RecommendationStatus {
        RecommendationStatus {
            containers: vec![container("app", Some("120m")), container("proxy", Some("10m"))],
            recommended: Some(Sizes { cpu: Some("130m".to_owned()), ..Sizes::default() }),
            coverage_percent: Some(80),
            confidence: Some(Confidence::High),
            last_recommended: Some(time(Timestamp::from_unix_seconds(100))),
            ..RecommendationStatus::default()
        }
    }

    #[test]
    fn a_leader_that_knows_no_size_leaves_those_of_the_one_before() {
        let mut status = RecommendationStatus::default();
        merge(&mut status, &stored());
        assert_eq!(status, stored());
        // one that is excluded by now is not told a size
        let excluded = RecommendedContainer { reason: EXCLUDED.to_owned(), ..container("proxy", None) };
        let unknown = RecommendedContainer { reason: "NoData".to_owned(), ..container("app", None) };
        let containers = vec![unknown, excluded];
        let mut status = RecommendationStatus { containers, ..RecommendationStatus::default() };
        merge(&mut status, &stored());
        let cpu: Vec<_> =
            status.containers.iter().map(|c| c.recommended.clone().and_then(|r| r.cpu)).collect();
        assert_eq!(cpu, [Some("120m".to_owned()), None]);
        assert_eq!(status.containers[1].reason, EXCLUDED);
    }

    #[test]
    fn a_leader_that_knows_sizes_replaces_those_of_the_one_before() {
        let mut new = stored();
        new.containers = vec![RecommendedContainer { declared: None, ..container("app", Some("200m")) }];
        new.recommended = Some(Sizes { cpu: Some("200m".to_owned()), ..Sizes::default() });
        let mut status = new.clone();
        merge(&mut status, &stored());
        assert_eq!(status.recommended, new.recommended);
        assert_eq!(status.containers.len(), 1);
        let declared = Resources {
            requests: Amounts { cpu: Some(MilliCpu(1000)), memory: None },
            limits: Amounts::default(),
        };
        assert_eq!(
            super::declared(&status),
            [("app".to_owned(), declared)],
            "what nobody else can tell stays"
        );
    }
}
