//! Evaluates the policies that are due: evidence, sizes, decisions, requests, status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use optipod_common::decide::{Backoff, Circumstances, Decision, Hold, Plan, Reason, decide};
use optipod_common::ident::WorkloadRef;
use optipod_common::policy::{Mode, Policy};
use optipod_common::progress::Progress;
use optipod_common::recommend::ContainerRecommendation;
use optipod_common::resources::{Amounts, PodFacts};
use optipod_common::time::Timestamp;

use super::canary::Canaries;
use super::lent::{self, Lent, Standing};
use super::resizes::{Purpose, Subject};
use super::sizes::{SizedPod, Sizer};
use super::{Effect, Engine, Kept, PolicyState, Request, SILENCE, STATUS_PACE, version};
use crate::api::convert::Selector;
use crate::apply::Action;
use crate::index::{Held, HeldBy, Index, Known, PodKey, PolicyEntry, PolicyKey, SelectedWorkload, Selection};
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
    pub sizes: Arc<[ContainerRecommendation]>,
    /// Mean use of the containers that have none.
    pub unsized_use: Amounts,
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

/// `RuntimeClasses` whose handlers are known to follow a resize: containers of the host's own kernel.
const RUNTIME_CLASSES: [&str; 3] = ["runc", "crun", "nvidia"];

/// One evaluation of one policy.
struct Turn<'a> {
    /// Resizes that may still be started.
    free: usize,
    /// Nodes and pools.
    standing: &'a mut Standing,
    /// Agents may still replay to a new leader.
    starting: bool,
    /// Why the strategy only shows what it would do.
    shadow: Option<String>,
    /// Why nothing is decreased.
    breaker: Option<String>,
    now: Timestamp,
}

impl Engine {
    /// Evaluates every policy whose time has come.
    pub(super) fn evaluate_due(&mut self, starting: bool, now: Timestamp, effects: &mut Vec<Effect>) {
        let state = |entry: &PolicyEntry| self.policies.get(&entry.key);
        let is_new = |entry: &&PolicyEntry| {
            state(entry).is_none_or(|state| state.generation != Some(entry.generation))
        };
        let is_due = |entry: &&PolicyEntry| {
            is_new(entry) || state(entry).is_some_and(|state| state.due.is_none_or(|due| due <= now))
        };
        // what all of them need is gathered from the whole cluster: those that are due one after the other go together
        let rests = self.gathered.is_some_and(|at| now.since(at) < STATUS_PACE);
        let rests = rests && !self.index.policies().any(|entry| is_new(&entry));
        let due = self.index.policies().filter(is_due).filter(|_| !rests);
        let due: Vec<PolicyKey> = due.map(|entry| entry.key.clone()).collect();
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
        let unselected = deleted.into_iter().filter(|workload| !selection.has(workload));
        effects.extend(unselected.map(Effect::DeleteRecommendation));
        if !self.swept {
            self.swept = true;
            effects.push(Effect::SweepRecommendations(Box::new(self.kept(&selection))));
        }
        let mut standing = self.standing(now);
        self.gathered = Some(now);
        self.quota_owed = self.index.quota_owed();
        for key in due {
            let started = Instant::now();
            effects.extend(self.evaluate(key, (&selection, &mut standing), starting, now));
            let name = key.to_string();
            self.metrics
                .reconciliation_seconds
                .with_label_values(&[name.as_str()])
                .observe(started.elapsed().as_secs_f64());
        }
        self.lent = Lent::new(standing);
    }

    /// All nodes and pools.
    fn standing(&self, now: Timestamp) -> Standing {
        let peaks = self.usage.memory_peaks();
        let loads = self.index.node_loads(|pod| Known {
            peak: peaks.get(pod.uid.as_str()).copied().unwrap_or_default(),
            asked: self.resizes.unseen(pod),
        });
        let debts = lent::debts(self.index.nodes(), &loads);
        self.metrics.show_debts(&debts);
        Standing::new(loads, debts, &self.shrunk, now)
    }

    /// Workloads that something happened to, and nothing else. The policy's status follows with the policy's own
    /// evaluation: at the end of a resize, else at its time.
    fn evaluate_events(&mut self, starting: bool, now: Timestamp, effects: &mut Vec<Effect>) {
        let mut due = self.events.take_due(now);
        if self.silent.is_none_or(|at| now.since(at) >= SILENCE) {
            due.extend(self.events.with_slot(|policy| self.free_slots(policy)).cloned());
        }
        if due.is_empty() {
            return;
        }
        let selection = self.index.select_some(&due);
        for workload in due.iter().filter(|workload| !selection.has(workload)) {
            self.events.forget(workload);
        }
        let pods = selection.by_policy.values().flatten().flat_map(|workload| &workload.pods);
        let known = |pod: &PodFacts| Known { asked: self.resizes.unseen(pod), ..Known::default() };
        let loads = self.index.node_loads_of(pods, known);
        let mut standing = self.lent.standing(loads, &self.shrunk, now);
        for (key, workloads) in &selection.by_policy {
            let Some(entry) = self.index.policy(key).filter(|_| self.policies.contains_key(key)).cloned()
            else {
                continue;
            };
            let Ok((policy, selector)) = &entry.parsed else { continue };
            let about = (policy, selector);
            let outcomes = self.evaluate_workloads(&entry, about, workloads, &mut standing, (starting, now));
            for outcome in &outcomes {
                self.metrics.event_evaluations.inc();
                effects.extend(self.requests(key, outcome, (policy.mode, policy.dry_run), now));
                self.events.evaluated((key, policy), outcome, false, now);
                let Some(state) = self.policies.get_mut(key) else { continue };
                effects.extend(tell_of((&entry, policy, &self.index), state, outcome, now));
            }
        }
        self.lent.keep(standing);
    }

    /// What is found and decided for workloads of one policy.
    fn evaluate_workloads(
        &mut self,
        entry: &PolicyEntry,
        (policy, selector): (&Policy, &Selector),
        workloads: &[SelectedWorkload],
        standing: &mut Standing,
        (starting, now): (bool, Timestamp),
    ) -> Vec<WorkloadOutcome> {
        let key = &entry.key;
        let free = self.free_slots(key);
        let said = self.policies.get(key).and_then(|state| state.written.as_ref());
        let shadow = version::shadow(policy, said.map_or(&entry.status, |(status, _)| status));
        let mut turn = Turn { free, standing, starting, shadow, breaker: self.breaker.open(now), now };
        for workload in workloads {
            self.usage.set_startup(&workload.workload, policy.startup.until);
        }
        let evaluate = |workload| self.evaluate_workload(key, (policy, selector), workload, &mut turn);
        workloads.iter().map(evaluate).collect()
    }

    /// Resizes of a policy that may still be started.
    fn free_slots(&self, key: &PolicyKey) -> usize {
        let parsed = self.index.policy(key).and_then(|entry| entry.parsed.as_ref().ok());
        let limit = parsed.map_or(0, |(policy, _)| policy.update.max_concurrent_resizes);
        usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(self.resizes.in_flight_of(key))
    }

    /// Forgets policies that were deleted; returns the workloads that they were in charge of.
    fn forget_deleted(&mut self) -> Vec<WorkloadRef> {
        let Self { policies, index, metrics, events, .. } = self;
        let mut workloads = Vec::new();
        policies.retain(|key, state| {
            let exists = index.policy(key).is_some();
            if !exists {
                status::forget(metrics, key);
                workloads.extend(std::mem::take(&mut state.recommendations).into_keys());
            }
            exists
        });
        for workload in &workloads {
            events.forget(workload);
        }
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
        (selection, standing): (&Selection, &mut Standing),
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
                let outcomes = self.evaluate_workloads(&entry, about, workloads, standing, (starting, now));
                for outcome in &outcomes {
                    effects.extend(self.requests(key, outcome, (policy.mode, policy.dry_run), now));
                    self.events.evaluated((key, policy), outcome, true, now);
                }
                outcomes
            }
            _ => Vec::new(),
        };
        let interval = match &entry.parsed {
            Ok((policy, _)) => policy.reconciliation_interval,
            Err(_) => Policy::default().reconciliation_interval,
        };
        let brake = self.brake();
        let state = self.policies.entry(key.clone()).or_default();
        (state.due, state.evaluated) = (Some(now + interval), Some(now));
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
        let mut sizing = Sizer::new(self, policy, selector, workload, now);
        let mut sized: Vec<SizedPod> = workload.pods.iter().filter_map(|pod| sizing.size(pod)).collect();
        let mut at = Circumstances {
            dry_run: self.dry_run(),
            shadow: turn.shadow.clone(),
            starting: turn.starting,
            clock_jumped: self.jumped.is_some_and(|at| now.since(at) < policy.reconciliation_interval),
            breaker: turn.breaker.clone(),
            hpa: self.index.hpa_resources(&workload.workload),
            owner_progressing: is_progressing(&sized),
            runtime_classes: RUNTIME_CLASSES.map(str::to_owned).to_vec(),
            ready_pods: u32::try_from(sized.iter().filter(|pod| pod.facts.ready).count()).ok(),
            ..Circumstances::at(now)
        };
        let mut disrupted = disrupted(&sized, |uid| self.resizes.in_flight(uid));
        let mut canaries = policy.update.canary.filter(|_| workload.held.is_none()).map(|canary| {
            let alone = sized.iter_mut().map(|SizedPod { facts, sizes, .. }| {
                self.complete(facts, &mut at, turn);
                at.slot_free = true;
                let decision = decide(policy, facts, sizes, &at);
                (&*facts, at.in_flight, decision)
            });
            Canaries::new(canary, alone, now)
        });
        let mut pods = Vec::with_capacity(sized.len());
        for SizedPod { mut facts, sizes, unsized_use } in sized {
            let excluded = facts.containers.iter().map(|container| &container.name);
            let excluded = excluded.filter(|name| selector.excludes(name)).cloned().collect();
            self.complete(&mut facts, &mut at, turn);
            at.canary = canaries.as_ref().map(Canaries::progress);
            at.disrupted = disrupted.iter().find(|(uid, _)| *uid != facts.uid).map(|(_, why)| why.clone());
            let decision = match &workload.held {
                Some(held) => held_back(held),
                None => decide(policy, &facts, &sizes, &at),
            };
            if let Decision::Resize { plan, .. } = &decision {
                turn.standing.decided(&facts, plan);
                disrupted.push((facts.uid.clone(), format!("pod {} is being resized", facts.name)));
                // an emergency is decided without a free slot
                turn.free = turn.free.saturating_sub(1);
                if let Some(canaries) = &mut canaries {
                    canaries.decided(&facts.uid, now);
                }
            }
            let progress = self.resizes.state(&facts.uid).cloned();
            let backoff = at.backoff.take().filter(|backoff| backoff.until > now);
            pods.push(PodOutcome { facts, sizes, unsized_use, decision, progress, backoff, excluded });
        }
        let name = key.to_string();
        let computed: usize = pods.first().map_or(0, |pod| pod.sizes.len());
        self.metrics.recommendations.with_label_values(&[name.as_str()]).inc_by(computed as u64);
        WorkloadOutcome { workload: workload.workload.clone(), pods }
    }

    /// What only the whole cluster and this turn tell about a pod.
    fn complete(&self, facts: &mut PodFacts, at: &mut Circumstances, turn: &Turn<'_>) {
        if let Some(node) = &mut facts.node {
            turn.standing.complete(node);
        }
        at.protected_namespace = self.index.is_protected(&facts.namespace);
        at.in_flight = self.resizes.in_flight(&facts.uid);
        at.slot_free = turn.free > 0;
        at.backoff = self.resizes.backoff(&facts.uid).cloned();
        at.quota_free = self.index.quota_free(&facts.namespace);
        at.quota_owed = self.quota_owed.get(&facts.namespace).copied();
        let pod = PodKey { namespace: facts.namespace.clone(), name: facts.name.clone() };
        at.disruptions_allowed = self.index.disruptions_allowed(&pod);
        at.restart_debt = facts.node.as_ref().and_then(|node| turn.standing.debt(&node.class));
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
            effects.push(self.ask(Request { action, subject }, &pod.facts, now));
        }
        effects
    }
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
    state.last_applied.retain(|workload, _| index.exists(workload));
    state.recommendations.retain(|workload, _| {
        if about.contains(workload) || index.rests(workload) {
            return true;
        }
        // what another policy is in charge of now has its object from that one
        if !selection.has(workload) {
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
    /// The reason that says most about why nothing more is done: not the size of a change that is fine as it is, nor a
    /// resource that the policy leaves alone.
    pub fn main_hold(&self) -> Option<&Hold> {
        let at_rest = |reason| matches!(reason, Reason::ChangeTooSmall | Reason::NotControlled);
        self.decision.held().iter().find(|hold| !at_rest(hold.reason))
    }
}
