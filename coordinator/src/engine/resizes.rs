//! Follows every resize from the accepted patch to its end, and remembers failures.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use optipod_common::decide::{Backoff, ContainerChange, Direction, Plan, Reason};
use optipod_common::ident::WorkloadRef;
use optipod_common::progress::{Progress, SentResize, progress};
use optipod_common::resources::{Amounts, PodFacts, Resources};
use optipod_common::time::Timestamp;

use crate::apply::{Accepted, Refusal};
use crate::index::{PodKey, PolicyKey};

/// `Error` is retried by the kubelet on each sync; while it lasts the allocated size is already the new one, so a
/// restart would start with it. Transient ones (`missing container memory usage`) clear within seconds.
const ERROR_DEADLINE: Duration = Duration::from_secs(30);

/// A kubelet that does nothing for this long is down or stuck (bugs 2, 6 of the semantics page).
const SILENCE_DEADLINE: Duration = Duration::from_secs(300);

/// A container that does not run (it crashed and the kubelet waits) gets its new size when it starts again; the kubelet
/// waits up to 5 minutes between two starts.
const CRASHED_DEADLINE: Duration = Duration::from_secs(900);

/// A refused revert is tried again after this pause, then after twice, three times, .. as long.
const REVERT_PAUSE: Duration = Duration::from_secs(1);
const REVERT_TRIES: u32 = 5;

/// An answer that has not come after this long will not: each patch takes 10 s at most, and a thousand may wait before it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(900);

/// After this long without word from the agent a finished resize counts as unverified.
const VERIFY_DEADLINE: Duration = Duration::from_secs(60);

/// Why a resize is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To reach the recommended size.
    Optimise,
    /// To take back a resize that the kubelet will not do.
    Revert(Reason),
}

/// Whose resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The policy that wants it.
    pub policy: PolicyKey,
    /// The workload of the pod.
    pub workload: WorkloadRef,
    /// The pod.
    pub pod: PodKey,
    /// Its uid.
    pub uid: String,
    /// Why.
    pub purpose: Purpose,
}

/// How a resize ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub subject: Subject,
    /// What was written.
    pub plan: Plan,
    /// When it was accepted.
    pub sent: Timestamp,
    /// How.
    pub end: End,
    /// Containers that restarted meanwhile.
    pub restarted: Vec<String>,
}

/// Ways to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The kubelet has done it; `true` = the agent saw the new limits in the cgroup, or there is nothing to see.
    Done(bool),
    /// It failed and has to be taken back by this plan.
    Failed {
        /// Why.
        reason: Reason,
        /// In the kubelet's words.
        message: String,
    },
    /// The pod is gone, or somebody else wrote other values.
    Void(Progress),
}

struct Tracked {
    subject: Subject,
    plan: Plan,
    sent: SentResize,
    state: Progress,
    since: Timestamp,
    restarts: BTreeMap<String, u32>,
}

/// A resize that was handed to the applier.
struct Asked {
    policy: PolicyKey,
    plan: Plan,
    at: Timestamp,
}

/// Failures of one pod in a row.
struct Failures {
    pod: PodKey,
    count: u32,
    backoff: Backoff,
}

/// A revert that the API server did not take.
struct PutOff {
    subject: Subject,
    plan: Plan,
    due: Timestamp,
    tries: u32,
}

/// All resizes under way and all failures that are not forgotten.
#[derive(Default)]
pub struct Resizes {
    /// By uid; kept while it is tried again, so that tries are counted.
    put_off: HashMap<String, PutOff>,
    /// Handed to the applier, no answer yet.
    asked: HashMap<String, Asked>,
    tracked: HashMap<String, Tracked>,
    failures: HashMap<String, Failures>,
}

impl Resizes {
    /// Nothing more is done to this pod until the answer is in.
    pub fn asked(&mut self, subject: &Subject, plan: &Plan, now: Timestamp) {
        let asked = Asked { policy: subject.policy.clone(), plan: plan.clone(), at: now };
        self.asked.insert(subject.uid.clone(), asked);
    }

    /// What was asked for and does not show in the pod yet: without an answer, or with one that the watch is behind.
    pub fn unseen(&self, pod: &PodFacts) -> Option<&Plan> {
        let asked = self.asked.get(&pod.uid).map(|asked| &asked.plan);
        let taken = || self.tracked.get(&pod.uid).filter(|taken| pod.generation < taken.sent.generation);
        asked.or_else(|| taken().map(|taken| &taken.plan))
    }

    /// The API server accepted: from now on it is followed.
    pub fn accepted(
        &mut self,
        subject: Subject,
        plan: Plan,
        accepted: &Accepted,
        facts: Option<&PodFacts>,
        now: Timestamp,
    ) {
        self.asked.remove(&subject.uid);
        self.put_off.remove(&subject.uid);
        let uid = subject.uid.clone();
        let sent = SentResize {
            uid: uid.clone(),
            generation: accepted.generation,
            changes: plan.changes.clone(),
            at: now,
        };
        let restarts = facts.map(restarts).unwrap_or_default();
        let state = Progress::Accepted;
        self.tracked.insert(uid, Tracked { subject, plan, sent, state, since: now, restarts });
    }

    /// Follows a resize of ours that another leader sent, or whose taking back was refused: what the kubelet has not
    /// done yet is the difference between desired and allocated or actual values.
    pub fn adopt(&mut self, subject: &Subject, facts: &PodFacts, now: Timestamp) {
        let changes: Vec<ContainerChange> = facts
            .containers
            .iter()
            .filter_map(|container| {
                let before = Resources {
                    requests: container.allocated.unwrap_or_default(),
                    limits: container.actual.unwrap_or_default().limits,
                };
                let (from, to) = difference(&before, &container.desired);
                let name = container.name.clone();
                (!to.is_empty()).then_some(ContainerChange {
                    container: name,
                    sidecar: container.sidecar,
                    restarts: container.restarts_for(to),
                    to,
                    from,
                })
            })
            .collect();
        if changes.is_empty() {
            return;
        }
        let rises = |change: &ContainerChange| {
            change.to.requests.cpu > change.from.requests.cpu
                || change.to.requests.memory > change.from.requests.memory
        };
        let direction = if changes.iter().any(rises) { Direction::Increase } else { Direction::Decrease };
        let accepted = Accepted { generation: facts.generation };
        self.accepted(subject.clone(), Plan { direction, changes }, &accepted, Some(facts), now);
    }

    /// A revert met a conflict or a silent API server: it is tried again soon, since until then the pod waits with a
    /// size that the kubelet will not give it. False when it was tried often enough.
    pub fn put_off(&mut self, subject: &Subject, plan: &Plan, now: Timestamp) -> bool {
        self.asked.remove(&subject.uid);
        let tries = self.put_off.remove(&subject.uid).map_or(0, |put_off| put_off.tries) + 1;
        if tries > REVERT_TRIES {
            return false;
        }
        let due = now + REVERT_PAUSE * tries;
        let put_off = PutOff { subject: subject.clone(), plan: plan.clone(), due, tries };
        self.put_off.insert(subject.uid.clone(), put_off);
        true
    }

    /// Reverts whose time has come again.
    pub fn due_put_off(&self, now: Timestamp) -> Vec<(Subject, Plan)> {
        let waits = |put_off: &&PutOff| put_off.due <= now && !self.asked.contains_key(&put_off.subject.uid);
        self.put_off.values().filter(waits).map(|p| (p.subject.clone(), p.plan.clone())).collect()
    }

    /// This revert is wanted no more.
    pub fn forget_put_off(&mut self, uid: &str) {
        self.put_off.remove(uid);
    }

    /// The patch was not made.
    pub fn refused(&mut self, subject: &Subject, refusal: &Refusal, now: Timestamp) {
        self.asked.remove(&subject.uid);
        self.fail(subject, refusal.reason, &refusal.message, now);
    }

    /// The clock was set back: what was to last still lasts as long.
    pub fn set_back(&mut self, by: Duration) {
        self.asked.values_mut().for_each(|asked| asked.at = asked.at - by);
        self.put_off.values_mut().for_each(|put_off| put_off.due = put_off.due - by);
        for tracked in self.tracked.values_mut() {
            (tracked.since, tracked.sent.at) = (tracked.since - by, tracked.sent.at - by);
        }
        self.failures.values_mut().for_each(|failures| failures.backoff.until = failures.backoff.until - by);
    }

    /// Reads the progress of every resize. Ended ones are returned and followed no longer.
    pub fn follow<'a>(
        &mut self,
        now: Timestamp,
        facts: impl Fn(&PodKey) -> Option<PodFacts>,
        deferred_deadline: impl Fn(&PolicyKey) -> Duration,
        seen_in_kernel: impl Fn(&PodKey, &ContainerChange, Timestamp) -> Option<bool> + 'a,
    ) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.tracked.retain(|_, tracked| {
            let pod = facts(&tracked.subject.pod);
            let state = pod.as_ref().map_or(Progress::Gone, |pod| progress(&tracked.sent, pod));
            if std::mem::discriminant(&state) != std::mem::discriminant(&tracked.state) {
                tracked.since = now;
            }
            // a finished state must be seen in two rounds: the kubelet's status flaps between old and new
            let settled = state == tracked.state;
            tracked.state = state.clone();
            let lasted = now.since(tracked.since);
            let failed = |reason, message: &str| Some(End::Failed { reason, message: message.to_owned() });
            let end = match &state {
                Progress::Done if settled => {
                    let verdicts: Vec<_> = tracked
                        .plan
                        .changes
                        .iter()
                        .filter_map(|change| seen_in_kernel(&tracked.subject.pod, change, tracked.sent.at))
                        .collect();
                    match verdicts.iter().all(|seen| *seen) {
                        true => Some(End::Done(true)),
                        false if lasted > VERIFY_DEADLINE => Some(End::Done(false)),
                        false => None,
                    }
                }
                Progress::Gone | Progress::Superseded => Some(End::Void(state.clone())),
                Progress::Infeasible(message) => failed(Reason::ResizeInfeasible, message),
                Progress::Deferred(message) if lasted >= deferred_deadline(&tracked.subject.policy) => {
                    failed(Reason::ResizeDeferred, message)
                }
                Progress::Error(message) if lasted >= ERROR_DEADLINE => failed(Reason::ResizeError, message),
                Progress::Accepted | Progress::InProgress
                    if lasted >= silence(&tracked.plan, pod.as_ref()) =>
                {
                    failed(Reason::ResizeTimeout, "the kubelet has not finished in time")
                }
                _ => None,
            };
            let Some(end) = end else { return true };
            let after = pod.as_ref().map(restarts).unwrap_or_default();
            let restarted = tracked
                .restarts
                .iter()
                .filter(|(name, before)| {
                    // the one that its resizePolicy makes is no harm
                    let made = tracked.plan.changes.iter().any(|c| c.container == **name && c.restarts);
                    after.get(*name).is_some_and(|count| *count > **before + u32::from(made))
                })
                .map(|(name, _)| name.clone())
                .collect();
            ended.push(Ended {
                subject: tracked.subject.clone(),
                plan: tracked.plan.clone(),
                sent: tracked.sent.at,
                end,
                restarted,
            });
            false
        });
        for end in &ended {
            match &end.end {
                End::Done(_) if end.subject.purpose == Purpose::Optimise => {
                    self.failures.remove(&end.subject.uid);
                }
                End::Failed { reason, message } => self.fail(&end.subject, *reason, message, now),
                End::Done(_) | End::Void(_) => {}
            }
        }
        ended
    }

    /// What keeps this pod from being resized again.
    pub fn backoff(&self, uid: &str) -> Option<&Backoff> {
        self.failures.get(uid).map(|failures| &failures.backoff)
    }

    /// The state of this pod's resize, when one is under way.
    pub fn state(&self, uid: &str) -> Option<&Progress> {
        self.tracked.get(uid).map(|tracked| &tracked.state)
    }

    /// True while a resize of this pod is under way.
    pub fn in_flight(&self, uid: &str) -> bool {
        self.asked.contains_key(uid) || self.tracked.contains_key(uid) || self.put_off.contains_key(uid)
    }

    /// Resizes under way of one policy.
    pub fn in_flight_of(&self, policy: &PolicyKey) -> usize {
        let tracked = self.tracked.values().filter(|t| t.subject.policy == *policy).count();
        tracked + self.asked.values().filter(|asked| asked.policy == *policy).count()
    }

    /// All resizes under way.
    pub fn count(&self) -> usize {
        self.asked.len() + self.tracked.len()
    }

    /// Forgets failures of pods that are gone, and what will never be answered.
    pub fn retain(&mut self, now: Timestamp, exists: impl Fn(&PodKey, &str) -> bool) {
        self.asked.retain(|_, asked| now.since(asked.at) < ANSWER_DEADLINE);
        self.failures.retain(|uid, failures| exists(&failures.pod, uid));
        self.put_off.retain(|uid, put_off| exists(&put_off.subject.pod, uid));
    }

    fn fail(&mut self, subject: &Subject, reason: Reason, message: &str, now: Timestamp) {
        let count = self.failures.get(&subject.uid).map_or(0, |failures| failures.count);
        let (first, longest) = pause(reason);
        let wait = first.saturating_mul(1 << count.min(16)).min(longest);
        let backoff = Backoff { until: now + wait, reason, message: message.to_owned() };
        // the fence at work is no failure that should lengthen the next real one's pause
        let counts = !matches!(reason, Reason::Conflict | Reason::NotLeader);
        let count = count.saturating_add(u32::from(counts));
        let failures = Failures { pod: subject.pod.clone(), count, backoff };
        self.failures.insert(subject.uid.clone(), failures);
    }
}

/// How long the kubelet may be silent about this plan.
fn silence(plan: &Plan, pod: Option<&PodFacts>) -> Duration {
    let changed = |name: &str| plan.changes.iter().any(|change| change.container == name);
    let crashed = pod.is_some_and(|pod| pod.containers.iter().any(|c| changed(&c.name) && !c.running));
    if crashed { CRASHED_DEADLINE } else { SILENCE_DEADLINE }
}

/// First and longest pause after a failure; doubled in between.
fn pause(reason: Reason) -> (Duration, Duration) {
    let seconds = |first, longest| (Duration::from_secs(first), Duration::from_secs(longest));
    match reason {
        // the pod's own status moved; the next evaluation sees it
        Reason::Conflict | Reason::NotLeader => seconds(2, 60),
        Reason::ApiUnavailable => seconds(5, 300),
        Reason::ResizeInfeasible => seconds(600, 6 * 3600),
        _ => seconds(60, 3600),
    }
}

/// The keys that both state and that differ, before and after.
fn difference(before: &Resources, after: &Resources) -> (Resources, Resources) {
    fn pick<T: PartialEq + Copy>(before: Option<T>, after: Option<T>) -> (Option<T>, Option<T>) {
        if before.is_some() && after.is_some() && before != after { (before, after) } else { (None, None) }
    }
    let amounts = |before: Amounts, after: Amounts| {
        let (cpu, memory) = (pick(before.cpu, after.cpu), pick(before.memory, after.memory));
        (Amounts { cpu: cpu.0, memory: memory.0 }, Amounts { cpu: cpu.1, memory: memory.1 })
    };
    let requests = amounts(before.requests, after.requests);
    let limits = amounts(before.limits, after.limits);
    (
        Resources { requests: requests.0, limits: limits.0 },
        Resources { requests: requests.1, limits: limits.1 },
    )
}

fn restarts(pod: &PodFacts) -> BTreeMap<String, u32> {
    pod.containers.iter().map(|c| (c.name.clone(), c.restarts)).collect()
}
