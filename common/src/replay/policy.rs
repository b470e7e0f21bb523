//! What a whole policy would have done to a recorded workload of one container: the store, the recommendation and the
//! decision of the product, on use that was recorded.
//!
//! Use is taken as demand: a recorded container that was throttled wanted more than the trace says. A sample counts as
//! constant for its length, so that bursts inside it are not seen, and as one frame of an agent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Replayed, Trace, is_new_crash};
use crate::decide::{Circumstances, Decision, Plan, Reason, decide};
use crate::expression::Expressions;
use crate::frame::{CgroupLimits, ContainerRecord};
use crate::histogram::UsageHistogram;
use crate::ident::{ContainerId, ContainerKey, PodUid, WorkloadContainer, WorkloadRef};
use crate::news::{Levels, PACE, Sense};
use crate::policy::{Mode, Policy};
use crate::quantity::{Bytes, MilliCpu};
use crate::recommend::{Asked, ContainerRecommendation, recommend};
use crate::resources::{ContainerFacts, NodeFacts, PodFacts, Resource, Resources, qos_class};
use crate::sample::{CPU_UNITS_PER_MILLICORE, CpuCounters, memory_units};
use crate::startup::Phase;
use crate::store::{Interval, Question, Store, Variant};
use crate::time::Timestamp;

/// Recorded use of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Length of time that each sample describes.
    pub step: Duration,
    /// Ascending by start; where there is a gap nothing is known.
    pub samples: Vec<UsageSample>,
}

/// Use within one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    /// Start.
    pub at: Timestamp,
    /// CPU, units of 0.1 millicore.
    pub cpu: Option<u64>,
    /// Working set, bytes.
    pub memory: Option<u64>,
}

impl UsageSample {
    const fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
        }
    }
}

impl Usage {
    /// The samples of one resource, CPU in units of 0.1 millicore and memory in bytes.
    pub fn trace(&self, resource: Resource) -> Trace {
        let samples = self.samples.iter().filter_map(|sample| Some((sample.at, sample.of(resource)?)));
        Trace { step: self.step, samples: samples.collect() }
    }
}

/// What a policy would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyReplay {
    /// CPU requests in units of 0.1 millicore, one for each sample that has CPU.
    pub cpu: Replayed,
    /// Memory requests in bytes, one for each sample that has memory. Kills are those at the memory limit.
    pub memory: Replayed,
    /// Every patch, with its moment.
    pub changes: Vec<(Timestamp, Plan)>,
    /// How often the policy was evaluated.
    pub evaluations: u64,
    /// How often each reason held something back.
    pub held: BTreeMap<Reason, u64>,
    /// What the container has at the end.
    pub last: Resources,
}

/// Plays the policy on the recorded use of a container that its owner declares with these resources. Mode and dry run of
/// the policy do not count: the question is what it would have done.
pub fn replay_policy(
    policy: &Policy,
    usage: &Usage,
    declared: Resources,
    expressions: &dyn Expressions,
) -> PolicyReplay {
    let mut play = Play {
        managed: Managed::new(policy, declared, expressions),
        step: usage.step,
        in_force: declared,
        from: None,
        last_kill: None,
        result: PolicyReplay::default(),
    };
    for sample in &usage.samples {
        play.sample(sample);
    }
    let Managed { desired, evaluations, held, .. } = play.managed;
    PolicyReplay { evaluations, held, last: desired, ..play.result }
}

struct Play<'a> {
    managed: Managed<'a>,
    step: Duration,
    in_force: Resources,
    /// When what was decided is in force.
    from: Option<Timestamp>,
    last_kill: Option<Timestamp>,
    result: PolicyReplay,
}

impl Play<'_> {
    /// The size in force during a sample comes from earlier samples only.
    fn sample(&mut self, sample: &UsageSample) {
        if self.from.is_some_and(|from| from <= sample.at) {
            self.carry_out();
        }
        let Resources { requests, limits } = self.in_force;
        if sample.cpu.is_some() {
            let cpu = requests.cpu.map_or(0, |cpu| cpu.0);
            self.result.cpu.sizes.push(cpu.saturating_mul(CPU_UNITS_PER_MILLICORE));
        }
        if sample.memory.is_some() {
            self.result.memory.sizes.push(requests.memory.map_or(0, |memory| memory.0));
        }
        let killed = sample.memory.zip(limits.memory).is_some_and(|(used, limit)| used > limit.0);
        if killed && is_new_crash(&mut self.last_kill, sample.at) {
            self.result.memory.oom_kills.push(self.result.memory.sizes.len() - 1);
        }
        self.learn(sample, killed);
        let now = sample.at + self.step;
        if let Some(plan) = self.managed.evaluate(now) {
            self.note(plan, now);
        }
    }

    /// Hands a sample to the store, in pieces no longer than a minute: peaks are kept for each.
    fn learn(&mut self, sample: &UsageSample, killed: bool) {
        let pieces = u32::try_from(self.step.as_micros().div_ceil(MINUTE.as_micros())).unwrap_or(1).max(1);
        let length = self.step / pieces;
        let mut record = self.record(sample, length);
        for piece in 0..pieces {
            record.oom_kills = u64::from(killed && piece == 0);
            let start = sample.at + length * piece;
            self.managed.see(&record, start, start + length);
        }
    }

    fn record(&self, sample: &UsageSample, length: Duration) -> ContainerRecord {
        let seconds = usize::try_from(length.as_secs()).unwrap_or(1).max(1);
        let series = |value: Option<u64>| {
            UsageHistogram::from_values(1000, value.into_iter().flat_map(|v| std::iter::repeat_n(v, seconds)))
        };
        let mut record = self.managed.record();
        // a killed container never had more than its limit
        let most = record.limits.memory.map_or(u64::MAX, |limit| limit.0);
        let memory = series(sample.memory.map(|used| memory_units(used.min(most))));
        record.cpu_second = series(sample.cpu);
        record.memory_total = memory.clone();
        record.memory_working_set = memory;
        record
    }

    fn note(&mut self, plan: Plan, now: Timestamp) {
        self.result.changes.push((now, plan));
        // as of a rule: what takes less than one sample is in force for the next
        let wait = LAG.saturating_sub(self.step);
        if wait > self.step / 2 {
            self.from.get_or_insert(now + wait - self.step / 2);
        } else {
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        let to = self.managed.resources();
        let (before, after) = (of_resources(self.in_force), of_resources(to));
        for (of, changed) in
            [(&mut self.result.cpu, before.0 != after.0), (&mut self.result.memory, before.1 != after.1)]
        {
            of.resizes.extend(changed.then_some(of.sizes.len()));
        }
        (self.in_force, self.from) = (to, None);
    }
}

/// Request and limit of CPU, and of memory.
fn of_resources(resources: Resources) -> ([Option<MilliCpu>; 2], [Option<Bytes>; 2]) {
    let Resources { requests, limits } = resources;
    ([requests.cpu, limits.cpu], [requests.memory, limits.memory])
}

/// A container under a policy, as the coordinator manages it: what its agent saw goes in, what is written comes out and
/// is in force at once. The policy is looked at each `reconciliationInterval`, and at once for what is news to the
/// coordinator: use above the size, an OOM kill, throttling, memory near its limit.
pub struct Managed<'a> {
    policy: Policy,
    expressions: &'a dyn Expressions,
    declared: Resources,
    desired: Resources,
    store: Store,
    workload: WorkloadContainer,
    pod: PodUid,
    /// Of what was seen last.
    interval: Interval,
    started: Option<Timestamp>,
    last_resize: Option<Timestamp>,
    restarts: u32,
    due: Option<Timestamp>,
    evaluated: Option<Timestamp>,
    sense: Sense,
    /// What is no news; `None` = nothing was decided on yet.
    levels: Option<Levels>,
    /// Something happened that is not decided on yet.
    news: bool,
    evaluations: u64,
    held: BTreeMap<Reason, u64>,
}

impl<'a> Managed<'a> {
    /// A container of which nothing is known yet. Mode and dry run of the policy do not count.
    pub fn new(policy: &Policy, declared: Resources, expressions: &'a dyn Expressions) -> Self {
        let workload = WorkloadRef {
            kind: "Deployment".to_owned(),
            namespace: "replay".to_owned(),
            name: "replay".to_owned(),
        };
        // the store looks up both names for each record, and libc compares empty ones slowly
        let variant = Variant { revision: "replay".to_owned(), node_class: "replay".to_owned() };
        let nothing = Timestamp::from_unix_seconds(0);
        Self {
            policy: Policy { mode: Mode::Auto, dry_run: false, ..policy.clone() },
            expressions,
            declared,
            desired: declared,
            store: Store::default(),
            workload: WorkloadContainer { workload, container: "container".to_owned() },
            pod: pod_uid(),
            interval: Interval {
                start: nothing,
                end: nothing,
                variant,
                phase: Phase::Runtime,
                started: None,
            },
            started: None,
            last_resize: None,
            restarts: 0,
            due: None,
            evaluated: None,
            sense: Sense::of(policy),
            levels: None,
            news: false,
            evaluations: 0,
            held: BTreeMap::new(),
        }
    }

    /// Requests and limits in force.
    pub const fn resources(&self) -> Resources {
        self.desired
    }

    /// What an agent sends of it when it used nothing.
    pub fn record(&self) -> ContainerRecord {
        ContainerRecord {
            key: ContainerKey { id: ContainerId::from_bytes([1; 32]), inode: 1 },
            pod: self.pod.clone(),
            qos: qos_class([&self.desired]),
            cpu_tick: UsageHistogram::new(100),
            cpu_second: UsageHistogram::new(1000),
            memory_working_set: UsageHistogram::new(1000),
            memory_total: UsageHistogram::new(1000),
            cpu: CpuCounters::default(),
            oom_kills: 0,
            limits: CgroupLimits {
                cpu: self.desired.limits.cpu,
                memory: self.desired.limits.memory,
                ..CgroupLimits::default()
            },
            ended: false,
        }
    }

    /// Takes in a frame: what an agent saw from `start` to `end`.
    pub fn see(&mut self, record: &ContainerRecord, start: Timestamp, end: Timestamp) {
        let requests = || self.desired.requests;
        self.news |= match &mut self.levels {
            Some(levels) => self.sense.is_news(levels, record, requests),
            None => true,
        };
        self.started.get_or_insert(start);
        self.restarts = self.restarts.saturating_add(u32::try_from(record.oom_kills).unwrap_or(u32::MAX));
        (self.interval.start, self.interval.end) = (start, end);
        self.store.add(self.workload.clone(), record, &self.interval, end);
        self.store.ran(&self.workload, &self.interval.variant, start, end);
    }

    /// Evaluates the policy when it is due or there is news, and carries out what it decides.
    pub fn evaluate(&mut self, now: Timestamp) -> Option<Plan> {
        let whole = self.due.is_none_or(|due| due <= now);
        let news = self.news && self.evaluated.is_none_or(|last| now.since(last) >= PACE);
        if !whole && !news {
            return None;
        }
        if whole {
            self.due = Some(now + self.policy.reconciliation_interval);
        }
        (self.news, self.evaluated) = (false, Some(now));
        self.evaluations += 1;
        self.store.compact(now, self.policy.rolling_window.max(RETENTION));
        self.store.settle(now);
        let question = Question {
            now,
            window: self.policy.rolling_window,
            variant: &self.interval.variant,
            resized: self.last_resize,
        };
        let evidence = self.store.evidence(&self.workload, question)?;
        let container = self.container();
        let asked = Asked {
            container: &container,
            evidence: &evidence,
            pod: None,
            phase: Phase::Runtime,
            resized: self.last_resize.is_some(),
            expressions: self.expressions,
        };
        let sizes = [recommend(&self.policy, asked)];
        self.decided_on(&sizes[0], whole);
        let pod = self.pod(container);
        let decision = decide(&self.policy, &pod, &sizes, &Circumstances::at(now));
        for hold in decision.held() {
            *self.held.entry(hold.reason).or_default() += 1;
        }
        let Decision::Resize { plan, .. } = decision else { return None };
        for change in &plan.changes {
            self.desired = self.desired.overlaid(change.to);
        }
        self.last_resize = Some(now);
        // the other direction of the same recommendation follows at once, as in the product
        self.due = Some(now);
        Some(plan)
    }

    /// `whole`: at the policy's time; what news have told so far is weighed anew.
    fn decided_on(&mut self, size: &ContainerRecommendation, whole: bool) {
        let mut levels = Levels::of(size);
        if let Some(known) = self.levels.as_ref().filter(|_| !whole) {
            levels.raise(known);
        }
        self.levels = Some(levels);
    }

    fn container(&self) -> ContainerFacts {
        ContainerFacts {
            name: self.workload.container.clone(),
            desired: self.desired,
            declared: self.declared,
            allocated: Some(self.desired.requests),
            actual: Some(self.desired),
            running: true,
            started: self.started,
            restarts: self.restarts,
            ..ContainerFacts::default()
        }
    }

    fn pod(&self, container: ContainerFacts) -> PodFacts {
        PodFacts {
            uid: self.pod.as_str().to_owned(),
            namespace: self.workload.workload.namespace.clone(),
            name: "pod".to_owned(),
            resource_version: "1".to_owned(),
            generation: 1,
            observed_generation: Some(1),
            qos: Some(qos_class([&self.declared])),
            running: true,
            ready: true,
            ready_since: self.started,
            last_resize: self.last_resize,
            node: Some(NodeFacts { name: "node".to_owned(), ready: true, ..NodeFacts::default() }),
            containers: vec![container],
            ..PodFacts::default()
        }
    }
}

/// Minutes are what peaks are kept of.
const MINUTE: Duration = Duration::from_secs(60);

/// From a decision to the size in force: the stream, the decision and `pods/resize` take less.
const LAG: Duration = Duration::from_secs(2);

/// As the coordinator keeps it: what a day's cycle can show.
const RETENTION: Duration = Duration::from_hours(24);

fn pod_uid() -> PodUid {
    "00000000000040008000000000000001".parse().expect("32 hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::NoExpressions;
    use crate::policy::{Objective, Strategy};
    use crate::resources::Amounts;

    const HOUR: i64 = 60;

    /// One sample a minute, from Monday 00:00.
    fn usage(minutes: i64, of: impl Fn(i64) -> (u64, u64)) -> Usage {
        let samples = (0..minutes).map(|minute| {
            let (millis, mebibytes) = of(minute);
            UsageSample {
                at: Timestamp::from_unix_seconds(1_800_000_000 + minute * 60),
                cpu: Some(millis * CPU_UNITS_PER_MILLICORE),
                memory: Some(mebibytes << 20),
            }
        });
        Usage { step: Duration::from_secs(60), samples: samples.collect() }
    }

    fn declared(cpu: u64, memory: u64, limit: Option<u64>) -> Resources {
        let amounts = |cpu, memory: u64| Amounts { cpu, memory: Some(Bytes(memory << 20)) };
        Resources {
            requests: amounts(Some(MilliCpu(cpu)), memory),
            limits: limit.map_or_else(Amounts::default, |limit| amounts(None, limit)),
        }
    }

    /// Half of its window has data after an hour.
    fn short() -> Policy {
        Policy { rolling_window: Duration::from_hours(2), ..Policy::default() }
    }

    fn adaptive() -> Policy {
        Policy { strategy: Strategy::Adaptive(Objective::Balanced), ..short() }
    }

    fn replayed(policy: &Policy, usage: &Usage, declared: Resources) -> PolicyReplay {
        replay_policy(policy, usage, declared, &NoExpressions)
    }

    #[test]
    fn an_idle_container_shrinks_once_and_is_never_short() {
        let usage = usage(12 * HOUR, |_| (100, 64));
        let policy = Policy { mode: Mode::Disabled, dry_run: true, ..short() };
        let result = replayed(&policy, &usage, declared(1000, 512, None));
        let cpu = super::super::Outcome::of(&usage.trace(Resource::Cpu), &result.cpu, 0);
        assert_eq!((cpu.under, cpu.resizes, result.memory.resizes.len()), (0, 1, 1), "{:?}", result.changes);
        assert_eq!(result.cpu.sizes.len(), usage.samples.len());
        assert_eq!(result.last.requests.cpu, Some(MilliCpu(120)));
        assert!(result.held.contains_key(&Reason::ChangeTooSmall), "{:?}", result.held);
    }

    #[test]
    fn the_past_does_not_know_the_future() {
        let of = |end: u64| move |minute: i64| if minute < 6 * HOUR { (100, 64) } else { (end, end) };
        let sizes = |end| replayed(&short(), &usage(8 * HOUR, of(end)), declared(500, 256, None)).cpu.sizes;
        let cut = usize::try_from(6 * HOUR).unwrap();
        assert_eq!(sizes(90)[..cut], sizes(450)[..cut]);
        assert_ne!(sizes(90), sizes(450));
    }

    #[test]
    fn use_above_the_memory_limit_is_a_kill_and_the_request_follows() {
        let usage = usage(6 * HOUR, |minute| (100, if minute < 5 * HOUR { 64 } else { 200 }));
        let result = replayed(&short(), &usage, declared(200, 128, Some(160)));
        assert!(!result.memory.oom_kills.is_empty(), "{result:?}");
        let free = replayed(&short(), &usage, declared(200, 128, None));
        assert_eq!(free.memory.oom_kills, [] as [usize; 0]);
    }

    #[test]
    fn use_above_the_size_is_decided_on_at_once_and_counts_from_the_next_sample() {
        // half an hour away from the policy's turn
        let policy = Policy { reconciliation_interval: Duration::from_hours(1), ..adaptive() };
        let raised = 6 * HOUR + 30;
        let usage = usage(7 * HOUR, |minute| (if minute < raised { 100 } else { 400 }, 64));
        let result = replayed(&policy, &usage, declared(1000, 512, None));
        let at = |minute: i64| result.cpu.sizes[usize::try_from(minute).unwrap()];
        let before = at(raised);
        assert!(before < 4000, "{before}");
        assert!(at(raised + 1) >= 4000, "{:?}", result.changes);
        assert!(
            result.cpu.resizes.contains(&usize::try_from(raised + 1).unwrap()),
            "{:?}",
            result.cpu.resizes
        );
    }

    #[test]
    fn a_kill_is_decided_on_at_once() {
        let policy = Policy { reconciliation_interval: Duration::from_hours(1), ..adaptive() };
        let killed = 6 * HOUR + 30;
        let used = |end: u64| move |minute: i64| (100, if minute < killed { 64 } else { end });
        let evaluated = |end| {
            let usage = usage(killed + 1, used(end));
            replayed(&policy, &usage, declared(200, 128, Some(160))).evaluations
        };
        assert_eq!(evaluated(200), evaluated(64) + 1);
    }

    #[test]
    fn of_samples_of_a_second_the_next_one_is_too_early() {
        let policy = Policy { rolling_window: Duration::from_secs(600), ..adaptive() };
        let mut usage = usage(1200, |second| (if second < 1000 { 100 } else { 400 }, 64));
        usage.step = Duration::from_secs(1);
        for (sample, second) in usage.samples.iter_mut().zip(0..) {
            sample.at = Timestamp::from_unix_seconds(1_800_000_000 + second);
        }
        let sizes = replayed(&policy, &usage, declared(300, 64, None)).cpu.sizes;
        let raised = sizes.iter().position(|size| *size >= 4000);
        assert_eq!(raised, Some(1002), "{:?}", &sizes[990..1010]);
    }

    #[test]
    fn a_resource_that_was_not_recorded_is_left_as_it_is() {
        let mut usage = usage(6 * HOUR, |_| (100, 64));
        usage.samples.iter_mut().for_each(|sample| sample.memory = None);
        let result = replayed(&short(), &usage, declared(1000, 512, None));
        assert_eq!((result.memory.sizes.len(), result.memory.resizes.len()), (0, 0));
        assert_eq!(result.last.requests.memory, Some(Bytes(512 << 20)));
        assert!(result.held.contains_key(&Reason::NoData), "{:?}", result.held);
    }

    #[test]
    fn nothing_recorded_is_nothing_done() {
        let result = replayed(&short(), &Usage::default(), declared(1000, 512, None));
        assert_eq!(result, PolicyReplay { last: declared(1000, 512, None), ..PolicyReplay::default() });
    }
}
