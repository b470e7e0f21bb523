//! The coordinator's mind: one owner of all state, no client, no clock. What happens goes in, effects come out.

mod breaker;
mod canary;
mod evaluate;
mod events;
mod lent;
mod resizes;
mod sizes;
mod usage;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use optipod_common::decide::{ContainerChange, Plan, Reason};
use optipod_common::frame::CgroupLimits;
use optipod_common::ident::{WorkloadContainer, WorkloadRef};
use optipod_common::ledger::Admission;
use optipod_common::policy::{Mode, Policy};
use optipod_common::progress::{Progress, in_kernel};
use optipod_common::resources::{Amounts, PodFacts};
use optipod_common::savings::Prices;
use optipod_common::store::{Evidence, Question};
use optipod_common::time::Timestamp;

use self::breaker::Breaker;
pub use self::evaluate::{PodOutcome, WorkloadOutcome};
use self::events::Events;
use self::lent::{Lent, Shrunk};
use self::resizes::Resizes;
pub use self::resizes::{End, Ended, Purpose, Subject};
use self::usage::Usage;
pub use self::version::{current as current_version, pinned};
use crate::api::recommendation::{HistoryEntry, RecommendationStatus};
use crate::api::v1alpha1::OptimizationPolicyStatus;
use crate::apply::{Accepted, Action, Refusal};
use crate::index::{CONFIG_MAP, Change, Declared, Delta, Index, Life, OwnerObject, PodKey, PolicyKey};
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::recommendations;
use crate::report::Notice;
use crate::status::{self, Problem};

/// What the engine needs to know of the flags.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Compute everything, resize nothing.
    pub dry_run: bool,
    /// Interval between frames.
    pub frame_interval: Duration,
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Patch a pod; answer with [`Engine::on_answer`].
    Resize(Box<Request>),
    /// Write a policy's status.
    WriteStatus {
        /// Whose.
        policy: PolicyKey,
        /// What.
        status: Box<OptimizationPolicyStatus>,
    },
    /// Write a workload's recommendation.
    WriteRecommendation {
        /// Whose.
        workload: WorkloadRef,
        /// Its object, when it is known: the recommendation goes with it.
        owner: Option<OwnerObject>,
        /// What.
        status: Box<RecommendationStatus>,
    },
    /// The workload is gone, or no policy is about it any more.
    DeleteRecommendation(WorkloadRef),
    /// Delete what earlier leaders left of workloads that are gone: once in a term.
    SweepRecommendations(Box<Kept>),
    /// Tell people.
    Notify(Box<Notice>),
}

/// Recommendations that are not swept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Those of these workloads.
    pub workloads: BTreeSet<WorkloadRef>,
    /// Those of these workloads, which have no pods now, as long as their policy is among `known`.
    pub resting: BTreeSet<WorkloadRef>,
    /// All policies.
    pub known: BTreeSet<PolicyKey>,
    /// Those of these policies, which cannot be read now.
    pub policies: BTreeSet<PolicyKey>,
}

impl Kept {
    /// The recommendation of this workload, which this policy wrote, stays.
    pub fn stays(&self, workload: &WorkloadRef, policy: Option<&PolicyKey>) -> bool {
        let of = |policies: &BTreeSet<PolicyKey>| policy.is_some_and(|policy| policies.contains(policy));
        self.workloads.contains(workload)
            || of(&self.policies)
            || (self.resting.contains(workload) && of(&self.known))
    }
}

/// A resize that is handed to the applier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to write.
    pub action: Action,
    /// Whose.
    pub subject: Subject,
}

/// What is remembered of a policy between evaluations.
#[derive(Default)]
struct PolicyState {
    due: Option<Timestamp>,
    evaluated: Option<Timestamp>,
    generation: Option<i64>,
    last_applied: BTreeMap<WorkloadRef, Timestamp>,
    written: Option<(OptimizationPolicyStatus, Timestamp)>,
    announced: Option<String>,
    recommendations: BTreeMap<WorkloadRef, RecommendationStatus>,
}

/// Coarse usage is kept at least this long, so that a new policy finds a day of evidence.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Time between two compactions of the store: the width of its finest slot.
const COMPACT_EVERY: Duration = Duration::from_secs(15);

/// Least time between two evaluations of policies, but for new ones, and of a policy that ends of its resizes ask for: the
/// resizes' own workloads do not wait, what its status says of them does.
const STATUS_PACE: Duration = Duration::from_secs(5);

/// After the API server was silent, or asked for patience, what waits for a slot waits this much longer.
const SILENCE: Duration = Duration::from_secs(5);

/// A tick that comes this much before the last one, or this much after it, shows that the clock jumped.
const CLOCK_BACK: Duration = Duration::from_secs(5);
const CLOCK_AHEAD: Duration = Duration::from_secs(300);

/// How pods stand: which of them is where, and where each is in its life.
struct Stands {
    lives: Vec<(PodKey, Option<Life>)>,
    /// Nodes.
    places: BTreeSet<String>,
}

/// All state. Methods take the time as an argument and return what is to be done.
pub struct Engine {
    settings: Settings,
    metrics: Metrics,
    index: Index,
    usage: Usage,
    resizes: Resizes,
    policies: BTreeMap<PolicyKey, PolicyState>,
    leading_since: Option<Timestamp>,
    compacted: Option<Timestamp>,
    ticked: Option<Timestamp>,
    jumped: Option<Timestamp>,
    breaker: Breaker,
    shrunk: Shrunk,
    lent: Lent,
    /// What pods of namespaces with a quota may ask for again, as the last evaluation of whole policies found it.
    quota_owed: BTreeMap<String, Amounts>,
    events: Events,
    /// When policies were evaluated for the last time.
    gathered: Option<Timestamp>,
    /// When the API server was silent for the last time.
    silent: Option<Timestamp>,
    prices: Option<Prices>,
    /// What earlier leaders left was looked through in this term.
    swept: bool,
    /// Agents had their time to replay in this term.
    caught_up: bool,
}

impl Engine {
    /// An engine that knows nothing and does not lead.
    pub fn new(settings: Settings, index: Index, metrics: Metrics) -> Self {
        Self {
            settings,
            metrics,
            index,
            usage: Usage::default(),
            resizes: Resizes::default(),
            policies: BTreeMap::new(),
            leading_since: None,
            compacted: None,
            ticked: None,
            jumped: None,
            breaker: Breaker::default(),
            shrunk: Shrunk::default(),
            lent: Lent::default(),
            quota_owed: BTreeMap::new(),
            events: Events::default(),
            gathered: None,
            silent: None,
            prices: None,
            swept: false,
            caught_up: false,
        }
    }

    /// With prices, what is given back is told in money, too.
    #[must_use]
    pub fn with_prices(self, prices: Option<Prices>) -> Self {
        Self { prices, ..self }
    }

    /// The cluster view.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// What is known about the use of one container of a workload.
    pub fn evidence(
        &self,
        container: &WorkloadContainer,
        now: Timestamp,
        window: Duration,
    ) -> Option<Evidence> {
        let variant = self.usage.any_variant(container)?;
        let question = Question { now, window, variant: &variant, resized: None };
        self.usage.evidence(container, question)
    }

    /// This process starts to lead or stops. A new leader starts with what agents replay: nothing that another
    /// leader merged may be mixed with what this one merges again.
    pub fn on_leadership(&mut self, leads: bool, now: Timestamp) {
        if leads == self.leading_since.is_some() {
            return;
        }
        self.leading_since = leads.then_some(now);
        self.usage = Usage::default();
        self.resizes = Resizes::default();
        self.shrunk = Shrunk::default();
        self.lent = Lent::default();
        self.quota_owed.clear();
        self.events = Events::default();
        self.policies.clear();
        self.swept = false;
        self.caught_up = false;
        self.metrics.leader.set(leads.into());
    }

    /// The cluster changed.
    pub fn on_change(&mut self, change: Change, now: Timestamp) {
        let pod = match &change {
            Change::Pods(Delta::Apply(pod)) => Some(PodKey::of(pod)),
            _ => None,
        };
        let was_lost = pod.as_ref().is_some_and(|pod| self.index.lost_job(pod).is_some());
        let before = self.stands(&change);
        let was_dry = self.dry_run();
        let known = self.index.apply(change, now);
        self.usage.join(&known, &self.index, now);
        let lost = pod.as_ref().filter(|_| !was_lost).and_then(|pod| self.index.lost_job(pod));
        if lost.is_some_and(|node| self.breaker.lost(node, now)) {
            self.metrics.jobs_lost.inc();
        }
        if let Some(before) = before.filter(|_| self.leading_since.is_some()) {
            self.wake(&before);
        }
        if self.dry_run() != was_dry {
            self.policies.values_mut().for_each(|state| state.due = Some(now));
        }
        self.metrics.dry_run.set(self.dry_run().into());
    }

    /// How the pods of a change stand before it; `None` when it is about something else.
    fn stands(&self, change: &Change) -> Option<Stands> {
        let pods: BTreeSet<PodKey> = match change {
            Change::Pods(Delta::Apply(pod) | Delta::Delete(pod)) => BTreeSet::from([PodKey::of(pod)]),
            Change::Pods(Delta::Replace(pods)) => {
                pods.iter().map(PodKey::of).chain(self.index.pod_keys().cloned()).collect()
            }
            _ => return None,
        };
        let places = pods.iter().filter_map(|pod| self.index.place_of(pod)).map(str::to_owned).collect();
        let lives = pods.into_iter().map(|pod| (self.index.life(&pod), pod));
        Some(Stands { lives: lives.map(|(life, pod)| (pod, life)).collect(), places })
    }

    /// Makes due what a change of pods is about, and what waited for it.
    fn wake(&mut self, before: &Stands) {
        let Self { index, events, .. } = self;
        let changed = before.lives.iter().filter(|(pod, life)| index.life(pod) != *life);
        changed.filter_map(|(pod, _)| index.workload_of(pod)).for_each(|workload| events.put(workload));
        let after = before.lives.iter().filter_map(|(pod, _)| index.place_of(pod));
        let places: BTreeSet<&str> = before.places.iter().map(String::as_str).chain(after).collect();
        for node in places {
            if events.is_awaited(node) && index.admitting(node).is_none() {
                events.admitted(node);
            }
        }
    }

    /// What earlier leaders left could not be looked through: it is asked for again.
    pub const fn sweep_again(&mut self) {
        self.swept = false;
    }

    /// What Recommendations of earlier leaders say that workloads declare.
    pub fn on_declared(&mut self, declared: Vec<Declared>) {
        for (workload, containers) in declared {
            if self.index.told((workload.clone(), containers)) {
                self.events.put(&workload);
            }
        }
    }

    /// Why nothing is resized, whatever policies say.
    fn brake(&self) -> Option<String> {
        let configuration = self.index.configuration();
        if let Some(why) = self.index.forbidden() {
            return Some(format!(
                "nothing is resized while the coordinator may not read all that it needs: {why}"
            ));
        }
        match &configuration.problem {
            Some(problem) => {
                Some(format!("nothing is resized while ConfigMap {CONFIG_MAP} cannot be read: {problem}"))
            }
            None if configuration.dry_run => {
                Some(format!("nothing is resized in a dry run (ConfigMap {CONFIG_MAP})"))
            }
            None => self.settings.dry_run.then(|| "nothing is resized in a dry run (--dry-run)".to_owned()),
        }
    }

    /// Nothing may be resized, whatever policies say.
    pub fn dry_run(&self) -> bool {
        self.settings.dry_run || self.index.configuration().dry_run || self.index.forbidden().is_some()
    }

    /// An agent said something.
    pub fn on_ingest(&mut self, ingest: Ingest, now: Timestamp) {
        match ingest {
            Ingest::Connected { node, epoch, oldest, resume } => {
                // the agent is gone when nobody listens
                let _ = resume.send(self.usage.connected(&node, epoch, oldest, now));
            }
            // A stream of an earlier term (the lease lapsed and came back): what it sent then is not here. Without an
            // answer the stream ends, and the agent says Hello and replays.
            Ingest::Frame { node, accepted, .. } if !self.usage.is_connected(&node) => drop(accepted),
            Ingest::Frame { node, frame, accepted } => {
                let Self { index, usage, events, .. } = self;
                let (admission, answer) = usage.frame(&node, &frame, index, now, |origin, record| {
                    let requests = || index.requests(&record.key.id).unwrap_or_default();
                    events.record(&origin.container, (record, frame.end), requests, now);
                });
                self.metrics.records_foreign.inc_by(self.usage.take_foreign());
                let result = match admission {
                    Admission::New => "new",
                    Admission::Duplicate => "duplicate",
                    Admission::Refused => "refused",
                };
                self.metrics.frames.with_label_values(&[result]).inc();
                if admission == Admission::New {
                    let took = now.since(frame.end).as_secs_f64();
                    self.metrics.collection_seconds.with_label_values(&["agent"]).observe(took);
                }
                let _ = accepted.send(answer);
            }
        }
    }

    /// The applier answered.
    pub fn on_answer(
        &mut self,
        request: Request,
        answer: Result<Accepted, Refusal>,
        now: Timestamp,
    ) -> Vec<Effect> {
        let Request { action, subject } = request;
        let policy = subject.policy.to_string();
        let owner = self.index.owner_of(&subject.workload);
        let notice = match answer {
            Ok(accepted) => {
                self.silent = None;
                let method = if subject.purpose == Purpose::Optimise { "InPlace" } else { "Revert" };
                self.metrics.applications.with_label_values(&[policy.as_str(), method]).inc();
                let notice = Notice::resizing(&subject, &action.plan).of(owner);
                let facts = self.facts_of(&subject);
                match &facts {
                    Some(facts) => self.shrunk.accepted(facts, &action.plan, now),
                    None => self.shrunk.refused(&subject.uid),
                }
                let (cpu, memory) = action.plan.request_growth();
                if let Some(node) = self.index.node_of(&subject.pod).filter(|_| cpu > 0 || memory > 0) {
                    self.breaker.raised(node, now);
                }
                self.resizes.accepted(subject, action.plan, &accepted, facts.as_ref(), now);
                notice
            }
            Err(refusal) => {
                self.metrics
                    .reconciliation_errors
                    .with_label_values(&[policy.as_str(), refusal.reason.as_str()])
                    .inc();
                self.metrics.resizes.with_label_values(&[refusal.reason.as_str()]).inc();
                if refusal.reason == Reason::ApiUnavailable {
                    self.silent = Some(now);
                }
                self.shrunk.refused(&subject.uid);
                // what takes something back was not counted there
                if let Some(facts) = self.facts_of(&subject)
                    && subject.purpose == Purpose::Optimise
                {
                    self.lent.refused(&facts, &action.plan);
                }
                let passing = matches!(refusal.reason, Reason::Conflict | Reason::ApiUnavailable);
                let revert = subject.purpose != Purpose::Optimise;
                if passing && revert && self.resizes.put_off(&subject, &action.plan, now) {
                    return Vec::new();
                }
                self.resizes.refused(&subject, &refusal, now);
                // what passes within seconds is tried when it has; the rest is told at once
                let passed =
                    self.resizes.backoff(&subject.uid).filter(|_| passing).map(|backoff| backoff.until);
                self.reevaluate(&subject, passed.unwrap_or(now));
                // a conflict is the fence at work, not news
                if matches!(
                    refusal.reason,
                    Reason::Conflict | Reason::NotLeader | Reason::DryRun | Reason::PodGone
                ) {
                    return Vec::new();
                }
                Notice::refused(&subject, &action.plan, &refusal).of(owner)
            }
        };
        vec![Effect::Notify(Box::new(notice))]
    }

    /// Follows resizes and evaluates the policies that are due. Call about twice a second.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Effect> {
        self.show_sizes();
        self.watch_clock(now);
        let Some(since) = self.leading_since else { return Vec::new() };
        if !self.index.synced() {
            return self.tell_unread(now);
        }
        let mut effects = self.follow(now);
        for (subject, plan) in self.resizes.due_put_off(now) {
            let uid = subject.uid.clone();
            match self.take_back(subject, plan, now) {
                Some(effect) => effects.push(effect),
                None => self.resizes.forget_put_off(&uid),
            }
        }
        self.compact(now);
        // Agents reconnect within their backoff of 10 s and replay at once; a frame interval later all is in.
        let starting = now.since(since) < Duration::from_secs(10) + self.settings.frame_interval * 2;
        if !starting && !self.caught_up {
            self.caught_up = true;
            // what was found while agents replayed is not what they had
            self.policies.values_mut().for_each(|state| state.due = Some(now));
        }
        self.evaluate_due(starting, now, &mut effects);
        effects
    }

    /// Every policy says that the cluster cannot be read, when somebody has to do something about that.
    fn tell_unread(&mut self, now: Timestamp) -> Vec<Effect> {
        let Some(why) = self.index.forbidden() else { return Vec::new() };
        let message = format!(
            "nothing is recommended or resized while the coordinator may not read all that it needs: {why}"
        );
        let problem = Problem { reason: "PermissionMissing".to_owned(), message };
        let mut effects = Vec::new();
        for entry in self.index.policies() {
            let state = self.policies.entry(entry.key.clone()).or_default();
            if state.announced.as_ref() == Some(&problem.message) {
                continue;
            }
            state.announced = Some(problem.message.clone());
            let status = status::unready(entry, &problem, now);
            state.written = Some((status.clone(), now));
            effects.push(Effect::Notify(Box::new(Notice::invalid_policy(entry, &problem))));
            effects.push(Effect::WriteStatus { policy: entry.key.clone(), status: Box::new(status) });
        }
        effects
    }

    /// A clock that was set, or a process that was stopped, makes ages wrong. What was to be done at a time that a clock of
    /// before said is done now: it may not come again for hours.
    fn watch_clock(&mut self, now: Timestamp) {
        let Some(before) = self.ticked.replace(now) else { return };
        let back = before.since(now);
        if back > CLOCK_BACK {
            self.leading_since = self.leading_since.map(|since| since.min(now));
            self.policies.values_mut().for_each(|state| (state.due, state.evaluated) = (Some(now), None));
            self.events.clock_jumped(now);
            self.resizes.set_back(back);
            (self.compacted, self.gathered, self.silent) = (None, None, None);
        }
        if back > CLOCK_BACK || now.since(before) > CLOCK_AHEAD {
            self.jumped = Some(now);
        }
    }

    fn follow(&mut self, now: Timestamp) -> Vec<Effect> {
        let Self { index, usage, resizes, .. } = self;
        let deadlines: BTreeMap<&PolicyKey, Duration> = index
            .policies()
            .filter_map(|entry| Some((&entry.key, entry.parsed.as_ref().ok()?.0.update.deferred_deadline)))
            .collect();
        let default = Policy::default().update.deferred_deadline;
        let seen = |pod: &PodKey, change: &ContainerChange, sent: Timestamp| {
            // a frame from before the patch proves nothing
            let lives = index.container_ids(pod).filter(|(_, name)| *name == change.container);
            let limits = lives.filter_map(|(id, _)| usage.in_kernel(id)).max_by_key(|(_, until)| *until);
            match limits {
                Some((limits, until)) if *until > sent => in_kernel(change, limits),
                _ => in_kernel(change, &CgroupLimits::default()).map(|_| false),
            }
        };
        let deadline = |policy: &PolicyKey| deadlines.get(policy).copied().unwrap_or(default);
        let ended = resizes.follow(now, |pod| index.facts(pod), deadline, seen);
        ended.into_iter().flat_map(|end| self.on_end(&end, now)).collect()
    }

    fn on_end(&mut self, ended: &Ended, now: Timestamp) -> Vec<Effect> {
        let Ended { subject, plan, sent, end, restarted } = ended;
        let owner = self.index.owner_of(&subject.workload);
        let mut effects = Vec::new();
        let outcome = match end {
            End::Done(true) => "Done",
            End::Done(false) => "DoneUnverified",
            End::Failed { reason, .. } => reason.as_str(),
            End::Void(Progress::Superseded) => "Superseded",
            End::Void(_) => Reason::PodGone.as_str(),
        };
        self.metrics.resizes.with_label_values(&[outcome]).inc();
        effects.extend(self.remember(ended, outcome));
        self.metrics.restarts_during_resize.inc_by(restarted.len() as u64);
        self.breaker.record(now, !restarted.is_empty());
        match end {
            End::Done(_) => {
                self.metrics.resize_seconds.observe(now.since(*sent).as_secs_f64());
                if let Some(state) = self.policies.get_mut(&subject.policy) {
                    state.last_applied.insert(subject.workload.clone(), now);
                }
                effects.push(Effect::Notify(Box::new(Notice::done(ended).of(owner))));
            }
            End::Failed { reason, message } => {
                effects.push(Effect::Notify(Box::new(
                    Notice::failed(subject, plan, *reason, message).of(owner),
                )));
                // a revert that fails too is left as it is: the backoff holds, people are told
                if subject.purpose == Purpose::Optimise {
                    effects.extend(self.revert(subject, plan, *reason, now));
                }
            }
            End::Void(_) => {}
        }
        self.reevaluate(subject, now);
        effects
    }

    /// A resize becomes part of the workload's history.
    fn remember(&mut self, ended: &Ended, outcome: &str) -> Option<Effect> {
        let Ended { subject, plan, sent, .. } = ended;
        let state = self.policies.get_mut(&subject.policy)?;
        let status = state.recommendations.get_mut(&subject.workload)?;
        let reason = match subject.purpose {
            Purpose::Optimise => String::new(),
            Purpose::Revert(reason) => reason.to_string(),
        };
        let entry = HistoryEntry {
            time: crate::status::time(*sent),
            pod: subject.pod.name.clone(),
            change: plan.to_string(),
            outcome: if subject.purpose == Purpose::Optimise { outcome } else { "Reverted" }.to_owned(),
            reason,
        };
        recommendations::remember(status, entry);
        let (workload, status) = (subject.workload.clone(), Box::new(status.clone()));
        let owner = self.index.owner_of(&workload);
        Some(Effect::WriteRecommendation { workload, owner, status })
    }

    /// Puts back what was there. A resize that waits or fails still counts for scheduler and quota, and a restart
    /// would start with it.
    fn revert(&mut self, subject: &Subject, plan: &Plan, reason: Reason, now: Timestamp) -> Option<Effect> {
        let subject = Subject { purpose: Purpose::Revert(reason), ..subject.clone() };
        self.take_back(subject, plan.inverse(), now)
    }

    fn take_back(&mut self, subject: Subject, plan: Plan, now: Timestamp) -> Option<Effect> {
        // a policy that was switched off or deleted meanwhile changes nothing any more
        let (policy, _) = self.index.policy(&subject.policy)?.parsed.as_ref().ok()?;
        if policy.mode != Mode::Auto || policy.dry_run || self.dry_run() {
            return None;
        }
        let facts = self.facts_of(&subject)?;
        let before = facts.all_resources();
        let expected = Action::expectation(&plan, before);
        let action = Action {
            pod: subject.pod.clone(),
            uid: facts.uid.clone(),
            resource_version: facts.resource_version.clone(),
            plan,
            expected,
        };
        Some(self.ask(Request { action, subject }, &facts, now))
    }

    /// Hands a resize to the applier. From now on it counts.
    fn ask(&mut self, request: Request, facts: &PodFacts, now: Timestamp) -> Effect {
        let Request { action, subject } = &request;
        self.shrunk.asked(facts, &action.plan);
        self.resizes.asked(subject, &action.plan, now);
        Effect::Resize(Box::new(request))
    }

    /// The pod of a resize, if it is still the same one.
    fn facts_of(&self, subject: &Subject) -> Option<PodFacts> {
        self.index.facts(&subject.pod).filter(|facts| facts.uid == subject.uid)
    }

    /// At that time the workload of a resize is evaluated, and its policy, whose status is about all of them, at its pace.
    fn reevaluate(&mut self, subject: &Subject, at: Timestamp) {
        self.events.put_at(&subject.workload, at);
        if let Some(state) = self.policies.get_mut(&subject.policy) {
            let at = state.evaluated.map_or(at, |evaluated| at.max(evaluated + STATUS_PACE));
            state.due = Some(state.due.map_or(at, |due| due.min(at)));
        }
    }

    fn compact(&mut self, now: Timestamp) {
        if self.compacted.is_some_and(|at| now.since(at) < COMPACT_EVERY) {
            return;
        }
        self.compacted = Some(now);
        let windows = self.index.policies().filter_map(|e| Some(e.parsed.as_ref().ok()?.0.rolling_window));
        let retention = windows.fold(RETENTION, Duration::max);
        self.usage.compact(&self.index, now, retention);
        let index = &self.index;
        self.resizes.retain(now, |pod, uid| index.facts(pod).is_some_and(|facts| facts.uid == uid));
        self.events.retain(|workload| index.exists(workload));
        // O(containers): not at every tick
        let slots = self.usage.store().slots();
        self.metrics.store_slots.set(i64::try_from(slots).unwrap_or(i64::MAX));
    }

    fn show_sizes(&mut self) {
        let set =
            |gauge: &prometheus::IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.metrics.store_containers, self.usage.store().len());
        set(&self.metrics.records_parked, self.usage.parked_records());
        set(&self.metrics.resizes_in_flight, self.resizes.count());
        set(&self.metrics.pods, self.index.pod_count());
        self.metrics.records_dropped.inc_by(self.usage.take_dropped());
        self.metrics.frames_lost.set(i64::try_from(self.usage.lost_frames()).unwrap_or(i64::MAX));
    }
}
