//! What makes a workload due before its policy is: use above its size, an OOM kill, throttling, memory near its limit, a
//! container that starts, stops or becomes ready.
//!
//! Agents send no events of their own: what happens on a node is in its next frame. A record costs one look-up here; what
//! it makes due is evaluated alone. What waits for a pod to be admitted, or for a resize of its policy to end, is due when
//! that happened, and is not looked at before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use optipod_common::decide::Reason;
use optipod_common::frame::ContainerRecord;
use optipod_common::ident::{WorkloadContainer, WorkloadRef};
use optipod_common::news::{Levels, PACE, Sense};
use optipod_common::policy::{Mode, Percentile, Policy};
use optipod_common::resources::Amounts;
use optipod_common::time::Timestamp;

use super::evaluate::{PodOutcome, WorkloadOutcome};
use crate::index::PolicyKey;

/// Frames that end before this are replayed: what they tell is decided on with all else that comes.
const NEWS_FOR: Duration = Duration::from_secs(60);

/// Workloads that were evaluated, and those of them that something happened to.
#[derive(Debug, Default)]
pub struct Events {
    watched: HashMap<WorkloadRef, Watched>,
    agenda: Agenda,
    /// What waits for a node to admit another pod, by node.
    admissions: Waiting<String>,
    /// What waits for a resize of its policy to end, by policy.
    slots: Waiting<PolicyKey>,
}

type Waiting<K> = BTreeMap<K, BTreeSet<WorkloadRef>>;

/// Earlier than any time: due at once.
const AT_ONCE: Timestamp = Timestamp::from_unix_micros(i64::MIN);

/// When workloads are due. Every step is O(log of these).
#[derive(Debug, Default)]
struct Agenda {
    times: HashMap<WorkloadRef, Timestamp>,
    order: BTreeSet<(Timestamp, WorkloadRef)>,
}

impl Agenda {
    /// Due at that time, or when it is due anyway.
    fn put(&mut self, workload: &WorkloadRef, at: Timestamp) {
        if self.times.get(workload).is_some_and(|known| *known <= at) {
            return;
        }
        self.remove(workload);
        self.times.insert(workload.clone(), at);
        self.order.insert((at, workload.clone()));
    }

    fn remove(&mut self, workload: &WorkloadRef) {
        if let Some((workload, at)) = self.times.remove_entry(workload) {
            self.order.remove(&(at, workload));
        }
    }

    fn take(&mut self, now: Timestamp) -> BTreeSet<WorkloadRef> {
        let mut due = BTreeSet::new();
        while self.order.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, workload)) = self.order.pop_first() else { break };
            self.times.remove(&workload);
            due.insert(workload);
        }
        due
    }
}

/// A workload that a policy is in charge of.
#[derive(Debug)]
struct Watched {
    evaluated: Timestamp,
    /// It gets more while it starts: that does not wait.
    boosts: bool,
    /// Which use of CPU counts; `None` = the highest second.
    percentile: Option<Percentile>,
    /// Share of a size from which on use is news, in thousandths.
    trigger: u64,
    /// By container. What is not here had no evidence yet: its first record is news.
    levels: BTreeMap<String, Levels>,
    /// Nodes that are to admit another pod first.
    admissions: BTreeSet<String>,
    /// Its policy, while a resize of it has to end first.
    slot: Option<PolicyKey>,
}

impl Events {
    /// A workload was evaluated. `whole`: with its policy, at the policy's time; what events have told so far is
    /// weighed anew.
    pub fn evaluated(
        &mut self,
        (key, policy): (&PolicyKey, &Policy),
        outcome: &WorkloadOutcome,
        whole: bool,
        now: Timestamp,
    ) {
        let before = self.remove(&outcome.workload);
        if policy.mode == Mode::Disabled {
            return;
        }
        let mut levels = levels_of(outcome);
        for (name, known) in before.iter().filter(|_| !whole).flat_map(|watched| &watched.levels) {
            if let Some(new) = levels.get_mut(name) {
                new.raise(known);
            }
        }
        let Sense { percentile, trigger } = Sense::of(policy);
        let boosts = policy.startup.cpu.is_some() || policy.startup.memory.is_some();
        let held = |pod: &PodOutcome, reason| pod.decision.held().iter().any(|hold| hold.reason == reason);
        let waiting = outcome.pods.iter().filter(|pod| held(pod, Reason::NodeAdmitting));
        let admissions: BTreeSet<String> =
            waiting.filter_map(|pod| Some(pod.facts.node.as_ref()?.name.clone())).collect();
        let slot = outcome.pods.iter().any(|pod| held(pod, Reason::ConcurrencyLimit)).then(|| key.clone());
        for node in &admissions {
            self.admissions.entry(node.clone()).or_default().insert(outcome.workload.clone());
        }
        if let Some(policy) = &slot {
            self.slots.entry(policy.clone()).or_default().insert(outcome.workload.clone());
        }
        let watched = Watched { evaluated: now, boosts, percentile, trigger, levels, admissions, slot };
        self.watched.insert(outcome.workload.clone(), watched);
    }

    /// A record of one of its containers came, whose interval ended at `end`. `requests`: what its pod requests for it.
    pub fn record(
        &mut self,
        container: &WorkloadContainer,
        (record, end): (&ContainerRecord, Timestamp),
        requests: impl FnOnce() -> Amounts,
        now: Timestamp,
    ) {
        let Some(watched) = self.watched.get_mut(&container.workload) else { return };
        if now.since(end) < NEWS_FOR && watched.is_news(&container.container, record, requests) {
            self.agenda.put(&container.workload, watched.evaluated + PACE);
        }
    }

    /// Something is to be looked at: a pod of it started, stopped or became ready.
    pub fn put(&mut self, workload: &WorkloadRef) {
        let at = self.watched.get(workload).filter(|watched| !watched.boosts);
        self.agenda.put(workload, at.map_or(AT_ONCE, |watched| watched.evaluated + PACE));
    }

    /// It is to be looked at at that time, however lately it was.
    pub fn put_at(&mut self, workload: &WorkloadRef, at: Timestamp) {
        self.agenda.put(workload, at);
    }

    /// Those whose time has come, known or new.
    pub fn take_due(&mut self, now: Timestamp) -> BTreeSet<WorkloadRef> {
        self.agenda.take(now)
    }

    /// Of those that wait for a slot, as many as their policy has `free`.
    pub fn with_slot(&self, free: impl Fn(&PolicyKey) -> usize) -> impl Iterator<Item = &WorkloadRef> {
        self.slots.iter().flat_map(move |(policy, waiting)| waiting.iter().take(free(policy)))
    }

    /// Something waits for this node.
    pub fn is_awaited(&self, node: &str) -> bool {
        self.admissions.contains_key(node)
    }

    /// A node may have admitted what it had to: what waits for that is due at once.
    pub fn admitted(&mut self, node: &str) {
        for workload in self.admissions.get(node).into_iter().flatten() {
            self.agenda.put(workload, AT_ONCE);
        }
    }

    /// The clock was set: no time that was noted means anything any more.
    pub fn clock_jumped(&mut self, now: Timestamp) {
        self.watched.values_mut().for_each(|watched| watched.evaluated = watched.evaluated.min(now));
        let workloads: Vec<WorkloadRef> = self.agenda.times.keys().cloned().collect();
        for workload in &workloads {
            self.agenda.put(workload, AT_ONCE);
        }
    }

    /// No policy is in charge of it any more.
    pub fn forget(&mut self, workload: &WorkloadRef) {
        self.remove(workload);
    }

    /// Forgets workloads that are gone.
    pub fn retain(&mut self, exists: impl Fn(&WorkloadRef) -> bool) {
        let known = self.watched.keys().chain(self.agenda.times.keys());
        let gone: Vec<WorkloadRef> = known.filter(|workload| !exists(workload)).cloned().collect();
        for workload in &gone {
            self.forget(workload);
        }
    }

    /// Takes a workload out of everything.
    fn remove(&mut self, workload: &WorkloadRef) -> Option<Watched> {
        self.agenda.remove(workload);
        let watched = self.watched.remove(workload)?;
        for node in &watched.admissions {
            leave(&mut self.admissions, node, workload);
        }
        if let Some(policy) = &watched.slot {
            leave(&mut self.slots, policy, workload);
        }
        Some(watched)
    }
}

fn leave<K: Ord>(waiting: &mut Waiting<K>, key: &K, workload: &WorkloadRef) {
    if let Some(workloads) = waiting.get_mut(key) {
        workloads.remove(workload);
        if workloads.is_empty() {
            waiting.remove(key);
        }
    }
}

impl Watched {
    fn is_news(&mut self, name: &str, record: &ContainerRecord, requests: impl FnOnce() -> Amounts) -> bool {
        let Self { percentile, trigger, .. } = *self;
        let Some(levels) = self.levels.get_mut(name) else { return true };
        Sense { percentile, trigger }.is_news(levels, record, requests)
    }
}

fn levels_of(outcome: &WorkloadOutcome) -> BTreeMap<String, Levels> {
    let mut levels: BTreeMap<String, Levels> = BTreeMap::new();
    for pod in &outcome.pods {
        for name in &pod.excluded {
            levels.entry(name.clone()).or_default();
        }
        for size in pod.sizes.iter() {
            let container = &size.container;
            let own = Levels::of(size);
            match levels.get_mut(container) {
                Some(known) => known.raise(&own),
                None => {
                    levels.insert(container.clone(), own);
                }
            }
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use optipod_common::frame::CgroupLimits;
    use optipod_common::histogram::UsageHistogram;
    use optipod_common::ident::{ContainerId, ContainerKey};
    use optipod_common::policy::{Boost, Factor, Objective, Strategy};
    use optipod_common::quantity::{Bytes, MilliCpu};
    use optipod_common::recommend::{ContainerRecommendation, Sizing, StepKind};
    use optipod_common::resources::{NodeFacts, PodFacts, QosClass};
    use optipod_common::sample::CpuCounters;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn key() -> PolicyKey {
        PolicyKey { namespace: "shop".into(), name: "p".into() }
    }

    fn app() -> WorkloadContainer {
        let workload =
            WorkloadRef { kind: "Deployment".into(), namespace: "shop".into(), name: "web".into() };
        WorkloadContainer { workload, container: "app".into() }
    }

    fn sizing(request: u64, steps: &[StepKind]) -> Sizing {
        let steps =
            steps.iter().map(|kind| optipod_common::recommend::Step::new(*kind, request, "")).collect();
        Sizing { request: Some(request), steps, ..Sizing::default() }
    }

    /// One container whose recommended size is 100m and 64Mi.
    fn outcome(steps: &[StepKind]) -> WorkloadOutcome {
        let size = ContainerRecommendation {
            container: "app".into(),
            cpu: sizing(100, steps),
            memory: sizing(64 << 20, &[]),
            evidence: optipod_common::recommend::EvidenceSummary::default(),
        };
        let decision = optipod_common::decide::Decision::Hold { held: Vec::new(), would: None };
        let pod = PodOutcome {
            facts: PodFacts::default(),
            sizes: [size].into(),
            unsized_use: optipod_common::resources::Amounts::default(),
            decision,
            progress: None,
            backoff: None,
            excluded: vec!["proxy".into()],
        };
        WorkloadOutcome { workload: app().workload, pods: vec![pod] }
    }

    fn policy() -> Policy {
        Policy { strategy: Strategy::Adaptive(Objective::Balanced), mode: Mode::Auto, ..Policy::default() }
    }

    fn used(millicores: u64, mebibytes: u64) -> ContainerRecord {
        let memory = UsageHistogram::from_values(1000, [mebibytes * 16]);
        ContainerRecord {
            key: ContainerKey { id: ContainerId::from_bytes([1; 32]), inode: 1 },
            pod: "d0511cd2-29d2-4215-be0f-f77bc0609d99".parse().unwrap(),
            qos: QosClass::Burstable,
            cpu_tick: UsageHistogram::new(100),
            cpu_second: UsageHistogram::from_values(1000, [millicores * 10]),
            memory_working_set: memory.clone(),
            memory_total: memory,
            cpu: CpuCounters { periods: 100, ..CpuCounters::default() },
            oom_kills: 0,
            limits: CgroupLimits { memory: Some(Bytes::from_mebibytes(1024)), ..CgroupLimits::default() },
            ended: false,
        }
    }

    /// Whether a record makes the workload due, whose pod requests 200m and 64Mi.
    fn is_news(events: &mut Events, record: &ContainerRecord) -> bool {
        let requests = || Amounts { cpu: Some(MilliCpu(200)), memory: Some(Bytes::from_mebibytes(64)) };
        events.record(&app(), (record, at(10)), requests, at(11));
        !events.take_due(at(100)).is_empty()
    }

    fn evaluated(steps: &[StepKind]) -> Events {
        let mut events = Events::default();
        events.evaluated((&key(), &policy()), &outcome(steps), true, at(0));
        events
    }

    #[test]
    fn use_above_both_sizes_is_news_until_it_was_decided_on() {
        let mut events = evaluated(&[]);
        for no_news in [used(50, 32), used(150, 64)] {
            assert!(!is_news(&mut events, &no_news));
        }
        assert!(is_news(&mut events, &used(201, 32)));
        assert!(!is_news(&mut events, &used(201, 32)), "the same again");
        events.evaluated((&key(), &policy()), &outcome(&[]), false, at(20));
        assert!(!is_news(&mut events, &used(201, 32)), "it was decided on alone");
        assert!(is_news(&mut events, &used(300, 32)));
        assert!(is_news(&mut events, &used(50, 65)));
        events.evaluated((&key(), &policy()), &outcome(&[]), true, at(30));
        assert!(is_news(&mut events, &used(201, 32)), "the policy's turn weighs anew");
    }

    #[test]
    fn kills_throttling_and_memory_near_its_limit_are_news() {
        let mut killed = used(1, 1);
        killed.oom_kills = 1;
        let mut throttled = used(1, 1);
        throttled.cpu.throttled_periods = 3;
        let mut near = used(1, 60);
        near.limits.memory = Some(Bytes::from_mebibytes(64));
        for record in [&killed, &throttled, &near] {
            assert!(is_news(&mut evaluated(&[]), record), "{record:?}");
        }
        let mut events = evaluated(&[]);
        assert!((0..3).map(|_| is_news(&mut events, &throttled)).eq([true, true, false]));
        // a bound or a limit that is kept: nothing comes of it
        for end in [StepKind::BoundMax, StepKind::LimitKept] {
            let mut events = evaluated(&[end]);
            assert!(!is_news(&mut events, &throttled) && !is_news(&mut events, &used(900, 1)), "{end:?}");
            assert!(is_news(&mut events, &killed));
        }
    }

    #[test]
    fn first_use_is_news_and_that_of_an_excluded_container_is_not() {
        let mut events = evaluated(&[]);
        let unseen = WorkloadContainer { container: "new".into(), ..app() };
        let proxy = WorkloadContainer { container: "proxy".into(), ..app() };
        let stranger = WorkloadRef { name: "other".into(), ..app().workload };
        events.record(&proxy, (&used(900, 900), at(10)), Amounts::default, at(11));
        events.record(
            &WorkloadContainer { workload: stranger, ..app() },
            (&used(900, 900), at(10)),
            Amounts::default,
            at(11),
        );
        assert!(events.take_due(at(20)).is_empty());
        events.record(&unseen, (&used(1, 1), at(10)), Amounts::default, at(600));
        assert!(events.take_due(at(600)).is_empty(), "it is replayed");
        events.record(&unseen, (&used(1, 1), at(10)), Amounts::default, at(11));
        assert_eq!(events.take_due(at(20)).len(), 1);
    }

    #[test]
    fn a_workload_is_evaluated_every_five_seconds_at_most_unless_its_start_is_boosted() {
        let mut events = evaluated(&[]);
        events.put(&app().workload);
        assert!(events.take_due(at(4)).is_empty());
        assert_eq!(events.take_due(at(5)).len(), 1);
        assert!(events.take_due(at(6)).is_empty(), "once");
        let mut boosts = policy();
        boosts.startup.cpu = Some(Boost::Times(Factor::from_thousandths(2000).unwrap()));
        events.evaluated((&key(), &boosts), &outcome(&[]), true, at(10));
        events.put(&app().workload);
        assert_eq!(events.take_due(at(10)).len(), 1);
        // one that nobody evaluated yet
        let new = WorkloadRef { name: "new".into(), ..app().workload };
        events.put(&new);
        assert_eq!(events.take_due(at(10)).into_iter().collect::<Vec<_>>(), [new]);
    }

    /// Held for this reason on node `n`.
    fn held(reason: Reason) -> WorkloadOutcome {
        let mut outcome = outcome(&[]);
        let hold = optipod_common::decide::Hold::of_pod(reason, "");
        let node = NodeFacts { name: "n".into(), ..NodeFacts::default() };
        outcome.pods[0].facts.node = Some(node);
        outcome.pods[0].decision = optipod_common::decide::Decision::Hold { held: vec![hold], would: None };
        outcome
    }

    #[test]
    fn what_waits_for_an_admission_or_a_slot_is_due_when_it_is_there_and_not_before() {
        let mut boosts = policy();
        boosts.startup.cpu = Some(Boost::Times(Factor::from_thousandths(2000).unwrap()));
        let mut events = Events::default();
        let evaluate = |events: &mut Events, reason| {
            events.evaluated((&key(), &boosts), &held(reason), false, at(0));
        };
        evaluate(&mut events, Reason::NodeAdmitting);
        assert!(events.take_due(at(3600)).is_empty());
        assert!(events.is_awaited("n") && !events.is_awaited("m"));
        events.admitted("n");
        assert_eq!(events.take_due(at(0)).len(), 1, "at once");
        evaluate(&mut events, Reason::ConcurrencyLimit);
        assert!(!events.is_awaited("n"));
        assert!(events.take_due(at(3600)).is_empty());
        let with_slot = |events: &Events, free| {
            events.with_slot(|policy| if *policy == key() { free } else { 0 }).count()
        };
        assert_eq!((with_slot(&events, 0), with_slot(&events, 2)), (0, 1));
        evaluate(&mut events, Reason::ChangeTooSmall);
        assert_eq!(with_slot(&events, 2), 0);
    }

    #[test]
    fn workloads_that_are_gone_are_forgotten_with_all_that_they_wait_for() {
        let mut events = Events::default();
        events.evaluated((&key(), &policy()), &held(Reason::NodeAdmitting), false, at(0));
        events.put(&app().workload);
        events.put(&WorkloadRef { name: "unknown".into(), ..app().workload });
        events.retain(|_| false);
        assert!(events.agenda.times.is_empty() && events.agenda.order.is_empty());
        assert!(events.watched.is_empty() && events.admissions.is_empty());
        events.evaluated((&key(), &policy()), &held(Reason::ConcurrencyLimit), false, at(0));
        events.forget(&app().workload);
        assert!(events.slots.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nothing_waiting() {
        let mut events = evaluated(&[]);
        events.put(&app().workload);
        events.clock_jumped(at(-3600));
        assert_eq!(events.take_due(at(-3600)).len(), 1);
        events.put(&app().workload);
        assert_eq!(events.take_due(at(-3595)).len(), 1);
    }
}
