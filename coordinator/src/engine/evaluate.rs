//! Evaluates the policies that are due: evidence, sizes, decisions, requests, status.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use optipod_common::decide::{Backoff, Circumstances, Decision, Hold, Plan, Reason, decide};
use optipod_common::ident::{WorkloadContainer, WorkloadRef};
use optipod_common::policy::{Mode, Policy};
use optipod_common::progress::Progress;
use optipod_common::recommend::{ContainerRecommendation, recommend};
use optipod_common::resources::PodFacts;
use optipod_common::store::Evidence;
use optipod_common::time::Timestamp;

use super::resizes::{Purpose, Subject};
use super::{Effect, Engine, PolicyState, Request};
use crate::api::convert::Selector;
use crate::apply::Action;
use crate::index::{PodKey, PolicyEntry, PolicyKey, SelectedWorkload, Selection};
use crate::report::Notice;
use crate::status;

/// What was found and decided for one workload.
#[derive(Clone, Debug)]
pub struct WorkloadOutcome {
    /// Which.
    pub workload: WorkloadRef,
    /// Its pods.
    pub pods: Vec<PodOutcome>,
}

/// What was found and decided for one pod.
#[derive(Clone, Debug)]
pub struct PodOutcome {
    /// The pod.
    pub facts: PodFacts,
    /// One per container with evidence.
    pub sizes: Vec<ContainerRecommendation>,
    /// What is to be done.
    pub decision: Decision,
    /// The resize under way.
    pub progress: Option<Progress>,
    /// The failure that is backed off from.
    pub backoff: Option<Backoff>,
}

/// What was written is seen through the watch after at most this time, unless the write failed.
const WATCH_LAG: Duration = Duration::from_secs(60);

/// One evaluation of one policy.
struct Turn {
    /// Resizes that may still be started.
    free: usize,
    /// Agents may still replay to a new leader.
    starting: bool,
    now: Timestamp,
}

impl Engine {
    /// Evaluates every policy whose time has come.
    pub(super) fn evaluate_due(&mut self, starting: bool, now: Timestamp, effects: &mut Vec<Effect>) {
        let due: Vec<PolicyKey> = self
            .index
            .policies()
            .filter(|entry| {
                self.policies.get(&entry.key).is_none_or(|state| {
                    state.generation != Some(entry.generation) || state.due.is_none_or(|due| due <= now)
                })
            })
            .map(|entry| entry.key.clone())
            .collect();
        self.forget_deleted();
        if due.is_empty() {
            return;
        }
        let selection = self.index.select();
        for key in due {
            let started = Instant::now();
            effects.extend(self.evaluate(&key, &selection, starting, now));
            let name = key.to_string();
            self.metrics
                .reconciliation_seconds
                .with_label_values(&[name.as_str()])
                .observe(started.elapsed().as_secs_f64());
        }
    }

    fn forget_deleted(&mut self) {
        let Self { policies, index, metrics, .. } = self;
        policies.retain(|key, _| {
            let exists = index.policy(key).is_some();
            if !exists {
                status::forget(metrics, key);
            }
            exists
        });
    }

    fn evaluate(
        &mut self,
        key: &PolicyKey,
        selection: &Selection,
        starting: bool,
        now: Timestamp,
    ) -> Vec<Effect> {
        let Some(entry) = self.index.policy(key).cloned() else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        let outcomes = match &entry.parsed {
            Ok((policy, selector)) if entry.refused_scope.is_none() => {
                let workloads = selection.by_policy.get(key).map_or(&[][..], Vec::as_slice);
                let limit = usize::try_from(policy.update.max_concurrent_resizes).unwrap_or(usize::MAX);
                let mut turn =
                    Turn { free: limit.saturating_sub(self.resizes.in_flight_of(key)), starting, now };
                let outcomes: Vec<_> = workloads
                    .iter()
                    .map(|workload| self.evaluate_workload(key, (policy, selector), workload, &mut turn))
                    .collect();
                for outcome in &outcomes {
                    effects.extend(self.requests(key, outcome, policy.mode, now));
                }
                outcomes
            }
            _ => Vec::new(),
        };
        let interval = match &entry.parsed {
            Ok((policy, _)) => policy.reconciliation_interval,
            Err(_) => Policy::default().reconciliation_interval,
        };
        let state = self.policies.entry(key.clone()).or_default();
        state.due = Some(now + interval);
        state.generation = Some(entry.generation);
        effects.extend(report(&entry, state, selection, &outcomes, now));
        status::show(&self.metrics, key, &outcomes);
        effects
    }

    fn evaluate_workload(
        &self,
        key: &PolicyKey,
        (policy, selector): (&Policy, &Selector),
        workload: &SelectedWorkload,
        turn: &mut Turn,
    ) -> WorkloadOutcome {
        let Turn { starting, now, .. } = *turn;
        let hpa = self.index.hpa_resources(&workload.workload);
        let mut evidence: BTreeMap<String, Option<Evidence>> = BTreeMap::new();
        let mut pods = Vec::new();
        for pod in &workload.pods {
            let Some(facts) = self.index.facts(pod) else { continue };
            let sizes = if policy.mode == Mode::Disabled {
                Vec::new()
            } else {
                self.sizes(policy, selector, &workload.workload, &facts, &mut evidence, now)
            };
            let circumstances = Circumstances {
                now,
                protected_namespace: self.protected(&facts.namespace),
                dry_run: self.settings.dry_run,
                starting,
                in_flight: self.resizes.in_flight(&facts.uid),
                slot_free: turn.free > 0,
                backoff: self.resizes.backoff(&facts.uid).cloned(),
                hpa: hpa.clone(),
                replacement_known: false,
            };
            let decision = decide(policy, &facts, &sizes, &circumstances);
            if matches!(decision, Decision::Resize { .. }) {
                turn.free -= 1;
            }
            let progress = self.resizes.state(&facts.uid).cloned();
            let backoff = circumstances.backoff.filter(|backoff| backoff.until > now);
            pods.push(PodOutcome { facts, sizes, decision, progress, backoff });
        }
        let name = key.to_string();
        let computed: usize = pods.first().map_or(0, |pod| pod.sizes.len());
        self.metrics.recommendations.with_label_values(&[name.as_str()]).inc_by(computed as u64);
        WorkloadOutcome { workload: workload.workload.clone(), pods }
    }

    /// Evidence is one for all pods of a workload; sizes are per pod, since pods may differ in what they have now.
    fn sizes(
        &self,
        policy: &Policy,
        selector: &Selector,
        workload: &WorkloadRef,
        facts: &PodFacts,
        evidence: &mut BTreeMap<String, Option<Evidence>>,
        now: Timestamp,
    ) -> Vec<ContainerRecommendation> {
        let mut sizes = Vec::new();
        for container in facts.containers.iter().filter(|c| !selector.exclude_containers.contains(&c.name)) {
            let found = evidence.entry(container.name.clone()).or_insert_with(|| {
                let key = WorkloadContainer { workload: workload.clone(), container: container.name.clone() };
                self.usage.evidence(&key, now, policy.rolling_window)
            });
            if let Some(found) = found {
                sizes.push(recommend(
                    &container.name,
                    found,
                    policy,
                    &container.declared,
                    &container.desired,
                ));
            }
        }
        sizes
    }

    fn protected(&self, namespace: &str) -> bool {
        namespace == "kube-system" || namespace == self.settings.namespace
    }

    fn requests(
        &mut self,
        key: &PolicyKey,
        outcome: &WorkloadOutcome,
        mode: Mode,
        now: Timestamp,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let may_write = mode == Mode::Auto && !self.settings.dry_run;
        for pod in outcome.pods.iter().filter(|pod| may_write && is_ours_under_way(pod)) {
            if pod.backoff.is_none() && !self.resizes.in_flight(&pod.facts.uid) {
                self.resizes.adopt(&subject(key, outcome, pod), &pod.facts, now);
            }
        }
        for pod in &outcome.pods {
            let Decision::Resize { plan, .. } = &pod.decision else { continue };
            let subject = subject(key, outcome, pod);
            let action = action(&subject, plan, &pod.facts);
            self.resizes.asked(&subject);
            effects.push(Effect::Resize(Box::new(Request { action, subject })));
        }
        effects
    }
}

/// The kubelet is at a resize of ours.
fn is_ours_under_way(pod: &PodOutcome) -> bool {
    let PodFacts { pending, in_progress, last_resize, foreign_resizer, .. } = &pod.facts;
    let ours = last_resize.is_some() && foreign_resizer.is_none();
    ours && (pending.is_some() || in_progress.is_some())
}

fn subject(key: &PolicyKey, outcome: &WorkloadOutcome, pod: &PodOutcome) -> Subject {
    Subject {
        policy: key.clone(),
        workload: outcome.workload.clone(),
        pod: PodKey { namespace: pod.facts.namespace.clone(), name: pod.facts.name.clone() },
        uid: pod.facts.uid.clone(),
        purpose: Purpose::Optimise,
    }
}

fn action(subject: &Subject, plan: &Plan, facts: &PodFacts) -> Action {
    let before = facts.containers.iter().map(|c| (c.name.as_str(), c.desired));
    Action {
        pod: subject.pod.clone(),
        uid: subject.uid.clone(),
        resource_version: facts.resource_version.clone(),
        expected: Action::expectation(plan, before),
        plan: plan.clone(),
    }
}

/// The status, when it says something new, and an Event, when the policy itself is wrong.
fn report(
    entry: &PolicyEntry,
    state: &mut PolicyState,
    selection: &Selection,
    outcomes: &[WorkloadOutcome],
    now: Timestamp,
) -> Vec<Effect> {
    let mut effects = Vec::new();
    let before = state.written.as_ref().map_or(&entry.status, |(status, _)| status);
    let status = status::build(entry, selection, outcomes, &state.last_applied, before, now);
    if let Some(problem) = status::problem(&status) {
        if state.announced.as_ref() != Some(&problem.message) {
            state.announced = Some(problem.message.clone());
            effects.push(Effect::Notify(Box::new(Notice::invalid_policy(entry, &problem))));
        }
    } else {
        state.announced = None;
    }
    // a write that failed shows as a difference to what the watch sees, once the watch had time to see it
    let settled = state.written.as_ref().is_none_or(|(_, at)| now.since(*at) >= WATCH_LAG);
    if status::differs(before, &status) || (settled && status::differs(&entry.status, &status)) {
        state.written = Some((status.clone(), now));
        effects.push(Effect::WriteStatus { policy: entry.key.clone(), status: Box::new(status) });
    }
    effects
}

impl PodOutcome {
    /// The reason that says most about why nothing more is done: not the size of a change that is fine as it is.
    pub fn main_hold(&self) -> Option<&Hold> {
        self.decision.held().iter().find(|hold| hold.reason != Reason::ChangeTooSmall)
    }
}
