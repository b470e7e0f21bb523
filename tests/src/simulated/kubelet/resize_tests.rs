//! What holds of a node's promises, by example and by random histories.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{Amounts, QosClass, Resources};
use proptest::prelude::*;

use super::*;
use crate::simulated::kubelet::size::Kind;

const CAPACITY: Capacity = Capacity { amount: Amount { cpu: 2000, memory: 1 << 30 }, pods: 5 };

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

fn size(cpu: u64, memory_mib: u64) -> Sizes {
    let requests = Amounts { cpu: Some(MilliCpu(cpu)), memory: Some(Bytes(memory_mib << 20)) };
    Sizes::from([("c".to_owned(), Resources { requests, limits: Amounts::default() })])
}

fn desired(cpu: u64, memory_mib: u64, generation: i64) -> Desired {
    Desired {
        slots: vec![Slot { name: "c".to_owned(), kind: Kind::Regular }],
        sizes: size(cpu, memory_mib),
        overhead: Amount::default(),
        generation,
        priority: 0,
        qos: QosClass::Burstable,
    }
}

fn node(cpus: &[(&str, u64)]) -> Allocations {
    let mut node = Allocations::new(CAPACITY, false);
    for (uid, cpu) in cpus {
        node.admit(uid, desired(*cpu, 100, 1), None).unwrap();
    }
    node
}

fn reasons(changes: &Changes) -> Vec<(&str, &str)> {
    changes.notices.iter().map(|(uid, notice)| (uid.as_str(), notice.kind.reason())).collect()
}

#[test]
fn pod_that_does_not_fit_is_refused_with_the_kubelets_words() {
    let mut node = node(&[("a", 1500)]);
    let refused = node.admit("b", desired(501, 1, 1), None).unwrap_err();
    assert_eq!(refused.reason, "OutOfcpu");
    let words = "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000";
    assert_eq!(refused.message, words);
    assert_eq!(node.admit("b", desired(1, 1000, 1), None).unwrap_err().reason, "OutOfmemory");
    for uid in ["b", "c", "d", "e"] {
        node.admit(uid, desired(0, 0, 1), None).unwrap();
    }
    assert_eq!(node.admit("f", desired(0, 0, 1), None).unwrap_err().reason, "OutOfpods");
}

#[test]
fn resize_that_fits_is_allocated_at_once_and_starts() {
    let mut node = node(&[("a", 500)]);
    node.desire("a", desired(1900, 100, 2));
    let changes = node.retry(at(1), |_| None);
    assert_eq!(
        (changes.sync.as_slice(), reasons(&changes)),
        (&["a".to_owned()][..], vec![("a", "ResizeStarted")])
    );
    assert_eq!(node.allocated("a"), Some(&size(1900, 100)));
    let (pending, progress) = node.conditions("a");
    assert!(pending.is_none());
    assert_eq!(progress.map(|p| (p.reason.as_str(), p.generation)), Some(("", 2)));
    assert_eq!(node.completed("a").unwrap().kind.reason(), "ResizeCompleted");
    assert!(node.completed("a").is_none(), "completed twice");
}

#[test]
fn deferred_resize_is_told_once_and_accepted_when_a_neighbour_goes() {
    let mut node = node(&[("a", 1000), ("b", 900)]);
    node.desire("a", desired(1500, 100, 2));
    assert_eq!(reasons(&node.retry(at(1), |_| None)), [("a", "ResizeDeferred")]);
    assert_eq!(node.allocated("a"), Some(&size(1000, 100)), "nothing of a deferred resize is allocated");
    let again = node.retry(at(2), |_| None);
    assert_eq!(again, Changes::default(), "nothing changed, nothing is told");
    let pending = node.conditions("a").0.unwrap();
    assert_eq!((pending.reason.as_str(), pending.since, pending.probed), (DEFERRED, at(1), at(2)));
    assert!(node.release("b"));
    assert_eq!(reasons(&node.retry(at(3), |_| None)), [("a", "ResizeStarted")]);
    assert!(!node.waiting());
}

#[test]
fn room_of_a_shrunken_neighbour_is_free_only_when_its_status_says_so() {
    let mut node = node(&[("a", 1000), ("b", 900)]);
    node.report("b", Amount { cpu: 900, memory: 0 });
    node.desire("a", desired(1500, 100, 2));
    node.retry(at(1), |_| None);
    node.desire("b", desired(100, 100, 2));
    assert_eq!(reasons(&node.retry(at(2), |_| None)), [("b", "ResizeStarted")]);
    assert!(node.report("b", Amount { cpu: 100, memory: 0 }), "others may have room now");
    assert_eq!(reasons(&node.retry(at(3), |_| None)), [("a", "ResizeStarted")]);
}

#[test]
fn infeasible_resize_is_not_tried_again_until_the_spec_changes() {
    let mut node = node(&[("a", 500)]);
    node.desire("a", desired(600, 100, 2));
    let infeasible = |_: &str| Some(ResizeFault::Infeasible);
    assert_eq!(reasons(&node.retry(at(1), infeasible)), [("a", "ResizeInfeasible")]);
    assert!(!node.waiting());
    assert_eq!(node.retry(at(2), |_| None), Changes::default());
    node.desire("a", desired(500, 100, 3));
    assert_eq!(node.conditions("a"), (None, None), "reverted: nothing is pending");
}

#[test]
fn static_cpus_make_only_cpu_of_guaranteed_pods_infeasible() {
    let mut node = Allocations::new(CAPACITY, true);
    let guaranteed =
        |cpu, memory, generation| Desired { qos: QosClass::Guaranteed, ..desired(cpu, memory, generation) };
    node.admit("g", guaranteed(500, 100, 1), None).unwrap();
    node.desire("g", guaranteed(600, 100, 2));
    assert_eq!(reasons(&node.retry(at(1), |_| None)), [("g", "ResizeInfeasible")]);
    node.desire("g", guaranteed(500, 200, 3));
    assert_eq!(reasons(&node.retry(at(2), |_| None)), [("g", "ResizeStarted")]);
}

#[test]
fn queue_goes_by_decrease_priority_class_and_waiting_time() {
    let mut node = Allocations::new(Capacity { pods: 9, ..CAPACITY }, false);
    let uids = ["late", "early", "guaranteed", "important", "shrinking"];
    for uid in uids {
        node.admit(uid, desired(400, 100, 1), None).unwrap();
    }
    let deferred = |_: &str| Some(ResizeFault::Deferred);
    let wish = |uid: &str| Desired {
        priority: i32::from(uid == "important"),
        qos: if uid == "guaranteed" { QosClass::Guaranteed } else { QosClass::Burstable },
        ..desired(if uid == "shrinking" { 300 } else { 500 }, 100, 2)
    };
    for (second, uid) in ["early", "late", "guaranteed", "important", "shrinking"].iter().enumerate() {
        node.desire(uid, wish(uid));
        node.retry(at(i64::try_from(second).unwrap()), deferred);
    }
    // a change of the spec sorts the queue
    node.desire("early", Desired { generation: 3, ..wish("early") });
    assert_eq!(node.queue, ["shrinking", "important", "guaranteed", "early", "late"]);
}

#[test]
fn error_is_told_when_its_text_changes_and_keeps_the_generation_of_the_start() {
    let mut node = node(&[("a", 500)]);
    node.desire("a", desired(600, 100, 2));
    node.retry(at(1), |_| None);
    assert!(node.failed("a", "first", at(2)).is_some());
    assert!(node.failed("a", "first", at(3)).is_none());
    assert!(node.failed("a", "second", at(4)).is_some());
    let progress = node.conditions("a").1.unwrap().clone();
    assert_eq!((progress.reason.as_str(), progress.generation, progress.since), (ERROR, 2, at(2)));
    node.in_progress("a", at(5));
    assert_eq!(node.conditions("a").1, Some(&progress), "what is in progress stays as it is");
}

/// One event in the life of a node.
#[derive(Clone, Debug)]
enum Step {
    Admit(u8, u64, u64),
    Desire(u8, u64, u64, i32),
    Retry,
    Refuse(ResizeFault),
    Actuated(u8),
    Release(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pod = 0..7_u8;
    let step = prop_oneof![
        (pod.clone(), 0..1500_u64, 0..800_u64).prop_map(|(p, c, m)| Step::Admit(p, c, m)),
        (pod.clone(), 0..1500_u64, 0..800_u64, 0..3_i32).prop_map(|(p, c, m, r)| Step::Desire(p, c, m, r)),
        Just(Step::Retry),
        prop_oneof![Just(ResizeFault::Deferred), Just(ResizeFault::Infeasible)].prop_map(Step::Refuse),
        pod.clone().prop_map(Step::Actuated),
        pod.prop_map(Step::Release),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// The node never promises more than it has; a pod that is gone holds nothing; what waits is deferred; a resize is
    /// allocated as a whole or not at all.
    #[test]
    fn promises_never_exceed_the_node(steps in steps()) {
        let mut node = Allocations::new(CAPACITY, false);
        let mut wishes: BTreeMap<String, Desired> = BTreeMap::new();
        for (second, step) in steps.into_iter().enumerate() {
            let now = at(i64::try_from(second).unwrap());
            let generation = now.as_second() + 2;
            match step {
                Step::Admit(pod, cpu, memory) => {
                    let (uid, wish) = (pod.to_string(), desired(cpu, memory, 1));
                    if !wishes.contains_key(&uid) && node.admit(&uid, wish.clone(), None).is_ok() {
                        wishes.insert(uid, wish);
                    }
                }
                Step::Desire(pod, cpu, memory, priority) => {
                    let (uid, wish) = (pod.to_string(), Desired { priority, ..desired(cpu, memory, generation) });
                    if let Some(known) = wishes.get_mut(&uid) {
                        known.clone_from(&wish);
                        node.desire(&uid, wish);
                    }
                }
                Step::Retry => {
                    let before: Vec<(String, Sizes)> =
                        wishes.keys().map(|uid| (uid.clone(), node.allocated(uid).unwrap().clone())).collect();
                    let changes = node.retry(now, |_| None);
                    for (uid, old) in before {
                        let new = node.allocated(&uid).unwrap();
                        prop_assert!(*new == old || (*new == wishes[&uid].sizes && changes.sync.contains(&uid)));
                    }
                }
                Step::Refuse(fault) => drop(node.retry(now, |_| Some(fault))),
                Step::Actuated(pod) => {
                    let uid = pod.to_string();
                    if let Some(sizes) = node.allocated(&uid).cloned() {
                        node.report(&uid, requests(&desired(0, 0, 1).slots, &sizes));
                        node.completed(&uid);
                        prop_assert!(node.conditions(&uid).1.is_none());
                    }
                }
                Step::Release(pod) => {
                    let uid = pod.to_string();
                    prop_assert_eq!(node.release(&uid), wishes.remove(&uid).is_some());
                }
            }
            let promised: Amount =
                wishes.values().zip(wishes.keys()).map(|(wish, uid)| wish.requests(node.allocated(uid).unwrap())).sum();
            let held: Amount = node.pods.values().map(Entry::held).sum();
            prop_assert_eq!(held, node.held());
            prop_assert!(!held.shrinks(promised), "{:?} of {:?}", held, promised);
            prop_assert!(!CAPACITY.amount.shrinks(held), "{:?} on {:?}", held, CAPACITY);
            prop_assert_eq!(node.pods.len(), wishes.len());
            for uid in &node.queue {
                prop_assert!(node.allocated(uid) != Some(&wishes[uid].sizes), "{} waits for what it has", uid);
            }
            for (uid, wish) in &wishes {
                let (pending, _) = node.conditions(uid);
                if node.allocated(uid) == Some(&wish.sizes) {
                    prop_assert!(pending.is_none(), "{} has what it wants", uid);
                }
            }
        }
    }
}
