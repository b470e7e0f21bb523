//! Evaluates the policies that are due: evidence, sizes, decisions, requests, status.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use optipod_common::decide::{
    Backoff, CanaryProgress, Circumstances, Decision, Hold, Plan, Reason, RestartDebt, decide,
};
use optipod_common::ident::WorkloadRef;
use optipod_common::policy::{Mode, Policy};
use optipod_common::progress::Progress;
use optipod_common::recommend::ContainerRecommendation;
use optipod_common::resources::{PodFacts, Resource};
use optipod_common::time::Timestamp;

use super::lent::{self, Lent};
use super::resizes::{Purpose, Subject};
use super::sizes::{SizedPod, Sizer};
use super::{Effect, Engine, Kept, PolicyState, Request, version};
use crate::api::convert::Selector;
use crate::apply::Action;
use crate::index::{
    Held, HeldBy, Index, NodeLoad, PodKey, PolicyEntry, PolicyKey, SelectedWorkload, Selection,
};
use crate::recommendations;
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
    /// Containers that the policy leaves alone.
    pub excluded: Vec<String>,
}

/// What was written is seen through the watch after at most this time, unless the write failed.
const WATCH_LAG: Duration = Duration::from_secs(60);

/// What holds a decision for a moment is looked at again after this time, however long the policy's interval is.
const SOON: Duration = Duration::from_secs(5);

/// `RuntimeClasses` whose handlers are known to follow a resize: containers of the host's own kernel.
const RUNTIME_CLASSES: [&str; 3] = ["runc", "crun", "nvidia"];

/// One evaluation of one policy.
struct Turn<'a> {
    /// Resizes that may still be started.
    free: usize,
    /// What the pods of each node ask for.
    loads: &'a mut HashMap<String, NodeLoad>,
    /// What replacements would ask for beyond what runs, by class of nodes.
    debts: &'a BTreeMap<String, RestartDebt>,
    /// Agents may still replay to a new leader.
    starting: bool,
    /// Why the strategy only shows what it would do.
    shadow: Option<String>,
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
        let deleted = self.forget_deleted();
        self.evaluate_whole(&due, deleted, starting, now, effects);
        self.evaluate_events(starting, now, effects);
    }

    /// Whole policies, each with its status.
    fn evaluate_whole(
        &mut self,
        due: &[PolicyKey],
        deleted: Vec<WorkloadRef>,
        starting: bool,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if due.is_empty() && deleted.is_empty() && self.swept {
            return;
        }
        let selection = self.index.select();
        let unselected = deleted.into_iter().filter(|workload| !is_selected(&selection, workload));
        effects.extend(unselected.map(Effect::DeleteRecommendation));
        if !self.swept {
            self.swept = true;
            effects.push(Effect::SweepRecommendations(Box::new(self.kept(&selection))));
        }
        let peaks = self.usage.memory_peaks();
        let mut loads = self.index.node_loads(|uid| peaks.get(uid).copied().unwrap_or_default());
        drop(peaks);
        let debts = lent::debts(self.index.nodes(), &loads);
        self.metrics.show_debts(&debts);
        self.lent = Lent::new(debts.clone(), &loads);
        self.quota_owed = self.index.quota_owed();
        for key in due {
            let started = Instant::now();
            effects.extend(self.evaluate(key, (&selection, &mut loads, &debts), starting, now));
            let name = key.to_string();
            self.metrics
                .reconciliation_seconds
                .with_label_values(&[name.as_str()])
                .observe(started.elapsed().as_secs_f64());
        }
    }

    /// Workloads that something happened to, and nothing else. The policy's status follows with the policy's own
    /// evaluation: at the end of a resize, else at its time.
    fn evaluate_events(&mut self, starting: bool, now: Timestamp, effects: &mut Vec<Effect>) {
        let due = self.events.take_due(now);
        if due.is_empty() {
            return;
        }
        let selection = self.index.select_some(&due);
        for workload in due.iter().filter(|workload| !is_selected(&selection, workload)) {
            self.events.forget(workload);
        }
        let pods = selection.by_policy.values().flatten().flat_map(|workload| &workload.pods);
        let mut loads = self.index.node_loads_of(pods);
        let debts = self.lent.complete(&mut loads);
        for (key, workloads) in &selection.by_policy {
            let Some(entry) = self.index.policy(key).filter(|_| self.policies.contains_key(key)).cloned()
            else {
                continue;
            };
            let Ok((policy, selector)) = &entry.parsed else { continue };
            let standing = (&mut loads, &debts);
            let outcomes =
                self.evaluate_workloads(&entry, (policy, selector), workloads, standing, (starting, now));
            for outcome in &outcomes {
                self.metrics.event_evaluations.inc();
                effects.extend(self.requests(key, outcome, (policy.mode, policy.dry_run), now));
                self.events.evaluated(policy, outcome, false, now);
                if outcome.pods.iter().any(waits_for_a_moment) {
                    self.events.put(&outcome.workload);
                }
                let Some(state) = self.policies.get_mut(key) else { continue };
                effects.extend(tell_of((&entry, policy, &self.index), state, outcome, now));
            }
        }
    }

    /// What is found and decided for workloads of one policy.
    fn evaluate_workloads(
        &mut self,
        entry: &PolicyEntry,
        (policy, selector): (&Policy, &Selector),
        workloads: &[SelectedWorkload],
        (loads, debts): (&mut HashMap<String, NodeLoad>, &BTreeMap<String, RestartDebt>),
        (starting, now): (bool, Timestamp),
    ) -> Vec<WorkloadOutcome> {
        let key = &entry.key;
        let limit = usize::try_from(policy.update.max_concurrent_resizes).unwrap_or(usize::MAX);
        let free = limit.saturating_sub(self.resizes.in_flight_of(key));
        let said = self.policies.get(key).and_then(|state| state.written.as_ref());
        let shadow = version::shadow(policy, said.map_or(&entry.status, |(status, _)| status));
        let mut turn = Turn { free, loads, debts, starting, shadow, now };
        for workload in workloads {
            self.usage.set_startup(&workload.workload, policy.startup.until);
        }
        let evaluate = |workload| self.evaluate_workload(key, (policy, selector), workload, &mut turn);
        workloads.iter().map(evaluate).collect()
    }

    /// Forgets policies that were deleted; returns the workloads that they were in charge of.
    fn forget_deleted(&mut self) -> Vec<WorkloadRef> {
        let Self { policies, index, metrics, .. } = self;
        let mut workloads = Vec::new();
        policies.retain(|key, state| {
            let exists = index.policy(key).is_some();
            if !exists {
                status::forget(metrics, key);
                workloads.extend(std::mem::take(&mut state.recommendations).into_keys());
            }
            exists
        });
        workloads
    }

    /// Which recommendations of earlier leaders stay.
    fn kept(&self, selection: &Selection) -> Kept {
        let selected = selection.by_policy.values().flatten().map(|selected| selected.workload.clone());
        let selected = selected.filter(|workload| !self.index.is_protected(&workload.namespace));
        // a policy that cannot be read now selects nothing, and what it said before is not wrong
        let silent = |entry: &&PolicyEntry| entry.parsed.is_err() || entry.refused_scope.is_some();
        Kept {
            workloads: selected.collect(),
            resting: self.index.resting().collect(),
            known: self.index.policies().map(|entry| entry.key.clone()).collect(),
            policies: self.index.policies().filter(silent).map(|entry| entry.key.clone()).collect(),
        }
    }

    fn evaluate(
        &mut self,
        key: &PolicyKey,
        (selection, loads, debts): (
            &Selection,
            &mut HashMap<String, NodeLoad>,
            &BTreeMap<String, RestartDebt>,
        ),
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
                let about = (policy, selector);
                let outcomes =
                    self.evaluate_workloads(&entry, about, workloads, (loads, debts), (starting, now));
                for outcome in &outcomes {
                    effects.extend(self.requests(key, outcome, (policy.mode, policy.dry_run), now));
                    self.events.evaluated(policy, outcome, true, now);
                }
                outcomes
            }
            _ => Vec::new(),
        };
        let interval = match &entry.parsed {
            Ok((policy, _)) => policy.reconciliation_interval,
            Err(_) => Policy::default().reconciliation_interval,
        };
        // what only waits for something that passes does not wait for the interval
        let passes = outcomes.iter().flat_map(|outcome| &outcome.pods).any(waits_for_a_moment);
        let interval = if passes { interval.min(SOON) } else { interval };
        let brake = self.brake();
        let state = self.policies.entry(key.clone()).or_default();
        state.due = Some(now + interval);
        state.generation = Some(entry.generation);
        effects.extend(report(&entry, state, selection, &outcomes, (brake.as_deref(), now)));
        if let Ok((policy, _)) = &entry.parsed {
            effects.extend(tell((&entry, policy, &self.index), state, (&outcomes, selection), now));
        }
        status::show(&self.metrics, key, &outcomes, self.prices);
        effects
    }

    fn evaluate_workload(
        &self,
        key: &PolicyKey,
        (policy, selector): (&Policy, &Selector),
        workload: &SelectedWorkload,
        turn: &mut Turn<'_>,
    ) -> WorkloadOutcome {
        let now = turn.now;
        let policy = &*workload.policy(policy);
        let mut sizing = Sizer::new(self, policy, selector, workload, turn.loads, now);
        let sized: Vec<SizedPod> = workload.pods.iter().filter_map(|pod| sizing.size(pod)).collect();
        let mut shared = Circumstances {
            dry_run: self.dry_run(),
            shadow: turn.shadow.clone(),
            starting: turn.starting,
            clock_jumped: self.jumped.is_some_and(|at| now.since(at) < policy.reconciliation_interval),
            breaker: self.breaker.open(now),
            hpa: self.index.hpa_resources(&workload.workload),
            canary: canary(policy, &sized, |uid| self.resizes.in_flight(uid), now),
            owner_progressing: is_progressing(&sized),
            runtime_classes: RUNTIME_CLASSES.map(str::to_owned).to_vec(),
            ready_pods: u32::try_from(sized.iter().filter(|pod| pod.facts.ready).count()).ok(),
            ..Circumstances::at(now)
        };
        let mut disrupted = disrupted(&sized, |uid| self.resizes.in_flight(uid));
        let mut pods = Vec::new();
        for SizedPod { mut facts, sizes } in sized {
            if let Some(node) = &mut facts.node {
                // less what was decided for the pods before this one
                node.free = turn.loads.get(&node.name).and_then(|load| load.free(node.allocatable));
            }
            let excluded = facts.containers.iter().map(|container| &container.name);
            let excluded = excluded.filter(|name| selector.excludes(name)).cloned().collect();
            let circumstances = Circumstances {
                protected_namespace: self.index.is_protected(&facts.namespace),
                in_flight: self.resizes.in_flight(&facts.uid),
                slot_free: turn.free > 0,
                backoff: self.resizes.backoff(&facts.uid).cloned(),
                quota_free: self.index.quota_free(&facts.namespace),
                quota_owed: self.quota_owed.get(&facts.namespace).copied(),
                disruptions_allowed: self.index.disruptions_allowed(&PodKey {
                    namespace: facts.namespace.clone(),
                    name: facts.name.clone(),
                }),
                disrupted: disrupted.iter().find(|(uid, _)| *uid != facts.uid).map(|(_, why)| why.clone()),
                restart_debt: facts.node.as_ref().and_then(|node| turn.debts.get(&node.class)).copied(),
                ..shared.clone()
            };
            let decision = match &workload.held {
                Some(held) => held_back(held),
                None => decide(policy, &facts, &sizes, &circumstances),
            };
            if let Decision::Resize { plan, .. } = &decision {
                if let Some(load) = facts.node.as_ref().and_then(|node| turn.loads.get_mut(&node.name)) {
                    let (cpu, memory) = plan.request_growth();
                    load.take(u64::try_from(cpu).unwrap_or(0), u64::try_from(memory).unwrap_or(0));
                }
                disrupted.push((facts.uid.clone(), format!("pod {} is being resized", facts.name)));
                // an emergency is decided without a free slot
                turn.free = turn.free.saturating_sub(1);
                if let Some(canary) = &mut shared.canary {
                    canary.changed += 1;
                    canary.since = canary.since.or(Some(now));
                }
            }
            let progress = self.resizes.state(&facts.uid).cloned();
            let backoff = circumstances.backoff.filter(|backoff| backoff.until > now);
            pods.push(PodOutcome { facts, sizes, decision, progress, backoff, excluded });
        }
        let name = key.to_string();
        let computed: usize = pods.first().map_or(0, |pod| pod.sizes.len());
        self.metrics.recommendations.with_label_values(&[name.as_str()]).inc_by(computed as u64);
        WorkloadOutcome { workload: workload.workload.clone(), pods }
    }

    fn requests(
        &mut self,
        key: &PolicyKey,
        outcome: &WorkloadOutcome,
        (mode, dry_run): (Mode, bool),
        now: Timestamp,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let may_write = mode == Mode::Auto && !dry_run && !self.dry_run();
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

/// Something is held for a reason that passes within seconds, as a rule.
fn waits_for_a_moment(pod: &PodOutcome) -> bool {
    let passing = [Reason::NodeAdmitting, Reason::ConcurrencyLimit, Reason::CoordinatorStarting];
    pod.decision.held().iter().any(|hold| passing.contains(&hold.reason))
}

/// A workload that is left alone although a policy selects it.
fn held_back(held: &Held) -> Decision {
    let reason = match held.by {
        HeldBy::OptedOut => Reason::OptedOut,
        HeldBy::AnnotationInvalid => Reason::AnnotationInvalid,
        HeldBy::PolicyNotFound => Reason::PolicyNotFound,
        HeldBy::OwnerUnknown => Reason::OwnerUnknown,
    };
    Decision::Hold { held: vec![Hold::of_pod(reason, held.message.clone())], would: None }
}

/// A pod has its size when it is within this share of it, in thousandths: a recommendation drifts while pods are observed.
const CANARY_NEAR: u64 = 50;

/// How many pods have the recommended size or are on their way to it, and since when; only where some pods try a change
/// first.
fn canary(
    policy: &Policy,
    pods: &[SizedPod],
    in_flight: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Option<CanaryProgress> {
    let canary = policy.update.canary?;
    let least = u64::from(policy.min_change().thousandths()).max(CANARY_NEAR);
    let near = |from: Option<u64>, to: Option<u64>| match (from, to) {
        (Some(from), Some(to)) => from.abs_diff(to).saturating_mul(1000) < from.saturating_mul(least.max(1)),
        _ => true,
    };
    let has_its_size = |pod: &&SizedPod| {
        pod.sizes.iter().all(|size| {
            let container = pod.facts.containers.iter().find(|c| c.name == size.container);
            container.is_none_or(|c| {
                let now = c.desired.requests;
                near(now.cpu.map(|c| c.0), size.of(Resource::Cpu).request)
                    && near(now.memory.map(|m| m.0), size.of(Resource::Memory).request)
            })
        })
    };
    // a step of several is watched as well, before the others follow
    let resized = |pod: &&SizedPod| pod.facts.last_resize.is_some_and(|at| now.since(at) < canary.observe);
    let changed: Vec<&SizedPod> =
        pods.iter().filter(|pod| in_flight(&pod.facts.uid) || resized(pod) || has_its_size(pod)).collect();
    let since = |pod: &&SizedPod| {
        let started = pod.facts.containers.iter().filter_map(|c| c.started).max();
        if in_flight(&pod.facts.uid) { Some(now) } else { pod.facts.last_resize.or(started) }
    };
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let first = usize::try_from(canary.first_of(count(pods.len()))).unwrap_or(usize::MAX);
    let mut times: Vec<Timestamp> = changed.iter().filter_map(since).collect();
    times.sort_unstable();
    Some(CanaryProgress {
        pods: count(pods.len()),
        changed: count(changed.len()),
        since: times.get(first - 1).copied(),
    })
}

/// Pods that are being resized or are not ready, by uid, each in words.
fn disrupted(pods: &[SizedPod], in_flight: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let why = |pod: &PodFacts| {
        if in_flight(&pod.uid) || pod.pending.is_some() || pod.in_progress.is_some() {
            Some(format!("pod {} is being resized", pod.name))
        } else {
            (!pod.ready || pod.terminating).then(|| format!("pod {} is not ready", pod.name))
        }
    };
    pods.iter().filter_map(|pod| Some((pod.facts.uid.clone(), why(&pod.facts)?))).collect()
}

/// Pods of two revisions run at once: whatever owns them is on its way from one to the other.
fn is_progressing(pods: &[SizedPod]) -> bool {
    let mut revisions = pods.iter().filter(|pod| !pod.facts.terminating).map(|pod| &pod.facts.revision);
    revisions.next().is_some_and(|first| revisions.any(|other| other != first))
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
    let before = facts.all_resources();
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
    (brake, now): (Option<&str>, Timestamp),
) -> Vec<Effect> {
    let mut effects = Vec::new();
    let before = state.written.as_ref().map_or(&entry.status, |(status, _)| status);
    let status = status::build(entry, selection, outcomes, &state.last_applied, before, (brake, now));
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

/// Some policy is in charge of the workload.
fn is_selected(selection: &Selection, workload: &WorkloadRef) -> bool {
    selection.by_policy.values().flatten().any(|selected| selected.workload == *workload)
}

/// Recommendations that say something new, and those whose workload is gone.
fn tell(
    (entry, policy, index): (&PolicyEntry, &Policy, &Index),
    state: &mut PolicyState,
    (outcomes, selection): (&[WorkloadOutcome], &Selection),
    now: Timestamp,
) -> Vec<Effect> {
    let mut effects: Vec<Effect> =
        outcomes.iter().filter_map(|outcome| tell_of((entry, policy, index), state, outcome, now)).collect();
    let about: BTreeSet<&WorkloadRef> = outcomes.iter().map(|outcome| &outcome.workload).collect();
    state.recommendations.retain(|workload, _| {
        if about.contains(workload) || index.rests(workload) {
            return true;
        }
        // what another policy is in charge of now has its object from that one
        if !is_selected(selection, workload) {
            effects.push(Effect::DeleteRecommendation(workload.clone()));
        }
        false
    });
    effects
}

/// The Recommendation of one workload, when it says something new.
fn tell_of(
    (entry, policy, index): (&PolicyEntry, &Policy, &Index),
    state: &mut PolicyState,
    outcome: &WorkloadOutcome,
    now: Timestamp,
) -> Option<Effect> {
    let workload = outcome.workload.clone();
    if index.is_protected(&workload.namespace) {
        return None;
    }
    let before = state.recommendations.remove(&workload);
    let applied = state.last_applied.get(&workload).copied();
    let about = (&entry.key, entry.generation, policy);
    let status = recommendations::build(about, outcome, applied, before.as_ref(), now);
    let news = before.as_ref().is_none_or(|before| recommendations::differs(before, &status));
    // what was not written is compared again next time
    let known = if news { status.clone() } else { before.unwrap_or_default() };
    state.recommendations.insert(workload.clone(), known);
    news.then(|| {
        let owner = index.owner_of(&workload);
        Effect::WriteRecommendation { workload, owner, status: Box::new(status) }
    })
}

impl PodOutcome {
    /// The reason that says most about why nothing more is done: not the size of a change that is fine as it is.
    pub fn main_hold(&self) -> Option<&Hold> {
        self.decision.held().iter().find(|hold| hold.reason != Reason::ChangeTooSmall)
    }
}
