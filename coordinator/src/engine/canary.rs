//! Pods of a workload that try a change before the others.

use std::collections::HashMap;

use optipod_common::decide::{CanaryProgress, Decision, Reason};
use optipod_common::policy::Canary;
use optipod_common::resources::PodFacts;
use optipod_common::time::Timestamp;

/// What is held for one of these stays as it is, whatever comes: a pod may have its size all the same.
const STAYS: [Reason; 18] = [
    Reason::ChangeTooSmall,
    Reason::BelowWeightStep,
    Reason::NotControlled,
    Reason::Pinned,
    Reason::NotDeclared,
    Reason::MemoryDecreaseForbidden,
    Reason::BestEffortImmutable,
    Reason::GuaranteedMovesLimits,
    Reason::RestartRequired,
    Reason::HpaControlsResource,
    Reason::ResourceCoupled,
    Reason::ExclusiveCpus,
    Reason::SwapEnabled,
    Reason::HeapFixedAtStart,
    Reason::RuntimeFollowsLimit,
    Reason::CpuBurst,
    Reason::ForeignCgroupWriter,
    Reason::JobRunning,
];

/// Which pods have the new size or are on their way to it.
#[derive(Debug)]
pub struct Canaries {
    canary: Canary,
    pods: u64,
    /// Since when, by uid: now, while there is a way to go.
    tried: HashMap<String, Timestamp>,
    /// The same in order.
    times: Vec<Timestamp>,
}

impl Canaries {
    /// Of pods, each with whether a resize of it is under way, and with what would be decided if none had to wait for
    /// another.
    pub fn new<'a>(
        canary: Canary,
        pods: impl Iterator<Item = (&'a PodFacts, bool, Decision)>,
        now: Timestamp,
    ) -> Self {
        let (mut count, mut tried) = (0, HashMap::new());
        for (pod, in_flight, decision) in pods {
            count += 1;
            if let Some(since) = since(canary, (pod, in_flight), &decision, now) {
                tried.insert(pod.uid.clone(), since);
            }
        }
        let mut times: Vec<Timestamp> = tried.values().copied().collect();
        times.sort_unstable();
        Self { canary, pods: count, tried, times }
    }

    /// How far they are.
    pub fn progress(&self) -> CanaryProgress {
        let first = usize::try_from(self.canary.first_of(self.pods)).unwrap_or(usize::MAX);
        CanaryProgress {
            pods: self.pods,
            changed: u64::try_from(self.tried.len()).unwrap_or(u64::MAX),
            since: self.times.get(first - 1).copied(),
        }
    }

    /// A resize of this pod was decided: a further step of one that is counted counts no further.
    pub fn decided(&mut self, uid: &str, now: Timestamp) {
        if let Some(before) = self.tried.insert(uid.to_owned(), now)
            && let Ok(at) = self.times.binary_search(&before)
        {
            self.times.remove(at);
        }
        let at = self.times.partition_point(|time| *time <= now);
        self.times.insert(at, now);
    }
}

/// Since when a pod has the new size, or took a step towards it; `None` = it has to change yet.
fn since(
    canary: Canary,
    (pod, in_flight): (&PodFacts, bool),
    decision: &Decision,
    now: Timestamp,
) -> Option<Timestamp> {
    if in_flight {
        return Some(now);
    }
    // a step of several is watched as well, before the others follow
    if let Some(at) = pod.last_resize.filter(|at| now.since(*at) < canary.observe) {
        return Some(at);
    }
    let Decision::Hold { held, would: None } = decision else { return None };
    let has = |reasons: &[Reason]| held.iter().any(|hold| reasons.contains(&hold.reason));
    if pod.last_resize.is_some() && has(&[Reason::CooldownActive]) {
        return Some(now);
    }
    let has_its_size = held.iter().all(|hold| STAYS.contains(&hold.reason))
        && has(&[Reason::ChangeTooSmall, Reason::BelowWeightStep]);
    let started = pod.containers.iter().filter_map(|container| container.started).max();
    pod.last_resize.or(started).filter(|_| has_its_size)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use optipod_common::decide::{Direction, Grounds, Hold, Plan};
    use optipod_common::policy::Share;
    use optipod_common::resources::ContainerFacts;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn canaries(pods: &[(&str, Option<i64>, Decision)]) -> Canaries {
        let facts: Vec<PodFacts> = pods
            .iter()
            .map(|(uid, resized, _)| PodFacts {
                uid: (*uid).to_owned(),
                last_resize: resized.map(at),
                containers: vec![ContainerFacts { started: Some(at(-9000)), ..ContainerFacts::default() }],
                ..PodFacts::default()
            })
            .collect();
        let canary = Canary { share: Share::from_f64(0.4).unwrap(), observe: Duration::from_secs(300) };
        let pods = facts.iter().zip(pods).map(|(facts, (.., decision))| (facts, false, decision.clone()));
        Canaries::new(canary, pods, at(0))
    }

    fn held(reasons: &[Reason]) -> Decision {
        Decision::Hold { held: reasons.iter().map(|reason| Hold::of_pod(*reason, "")).collect(), would: None }
    }

    fn resize() -> Decision {
        let plan = Plan { direction: Direction::Decrease, changes: Vec::new() };
        Decision::Resize { plan, grounds: Grounds::default(), held: Vec::new() }
    }

    #[test]
    fn a_pod_counts_once_however_many_steps_it_takes() {
        let mut canaries = canaries(&[
            ("a", Some(-100), resize()),
            ("b", None, resize()),
            ("c", None, resize()),
            ("d", None, resize()),
        ]);
        let progress = |canaries: &Canaries| (canaries.progress().changed, canaries.progress().since);
        assert_eq!(progress(&canaries), (1, None));
        canaries.decided("a", at(0));
        assert_eq!(progress(&canaries), (1, None), "of two");
        canaries.decided("b", at(0));
        assert_eq!(progress(&canaries), (2, Some(at(0))));
    }

    #[test]
    fn a_pod_has_its_size_when_nothing_more_comes_and_is_on_its_way_while_it_cools_down() {
        for (reasons, resized, since) in [
            (&[Reason::ChangeTooSmall, Reason::BelowWeightStep][..], Some(-900), Some(at(-900))),
            (&[Reason::ChangeTooSmall, Reason::MemoryDecreaseForbidden], None, Some(at(-9000))),
            // of which nothing is said about its size
            (&[Reason::NoData], None, None),
            (&[Reason::Pinned, Reason::NotControlled], None, None),
            // the rest of the change is to come
            (&[Reason::ChangeTooSmall, Reason::MemoryRising], Some(-900), None),
            (&[Reason::ChangeTooSmall, Reason::CooldownActive], Some(-500), Some(at(0))),
            (&[Reason::ChangeTooSmall, Reason::CooldownActive], Some(-100), Some(at(-100))),
        ] {
            let canaries = canaries(&[("a", resized, held(reasons))]);
            assert_eq!(canaries.progress().since, since, "{reasons:?}");
        }
    }
}
