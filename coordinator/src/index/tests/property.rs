//! Any order of events gives the index that the objects give when they are listed once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One event: object `which` of a small universe exists from now on (in one of several variants), or no more.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pod(usize, u8),
    ReplicaSet(usize, u8),
    Deployment(usize, u8),
    StatefulSet(usize, u8),
    Policy(usize, u8),
}

const GONE: u8 = 4;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..5_usize, 0..=GONE).prop_map(|(w, v)| Step::Pod(w, v)),
        1 => (0..2_usize, 0..=GONE).prop_map(|(w, v)| Step::ReplicaSet(w, v)),
        1 => (0..2_usize, 0..=GONE).prop_map(|(w, v)| Step::Deployment(w, v)),
        1 => (0..2_usize, 0..=GONE).prop_map(|(w, v)| Step::StatefulSet(w, v)),
        1 => (0..3_usize, 0..=GONE).prop_map(|(w, v)| Step::Policy(w, v)),
    ]
}

fn some_pod(which: usize, variant: u8) -> Pod {
    let owners = match variant {
        0 => owner("apps/v1", "ReplicaSet", "rs-0"),
        1 => owner("apps/v1", "ReplicaSet", "rs-1"),
        2 => owner("apps/v1", "StatefulSet", "sts-0"),
        _ => json!([]),
    };
    let number = u8::try_from(which).unwrap() * 8 + variant % 2;
    let mut pod = pod(&format!("p-{which}"), number, owners);
    if variant == 2 {
        pod["status"]["phase"] = json!("Failed");
    }
    object(pod)
}

fn some_replica_set(which: usize, variant: u8) -> ReplicaSet {
    let owners = match variant {
        0 => json!([]),
        n => owner("apps/v1", "Deployment", &format!("d-{}", n % 2)),
    };
    replica_set(&format!("rs-{which}"), owners)
}

fn some_policy(which: usize, variant: u8) -> DeserializeGuard<OptimizationPolicy> {
    let spec = match variant {
        0 => json!({}),
        1 => json!({"weight": 200}),
        2 => json!({"selector": {"workloadSelector": {"matchLabels": {"v": "1"}}}}),
        _ => json!({"selector": {"workloadKinds": ["StatefulSet", "Pod"]}}),
    };
    policy("default", &format!("policy-{which}"), spec)
}

fn one<K>(variant: u8, object: K) -> Delta<K> {
    if variant == GONE { Delta::Delete(Box::new(object)) } else { Delta::Apply(Box::new(object)) }
}

fn event(step: Step) -> Change {
    match step {
        Step::Pod(which, v) => Change::Pods(one(v, some_pod(which, v))),
        Step::ReplicaSet(which, v) => Change::ReplicaSets(one(v, some_replica_set(which, v))),
        Step::Deployment(which, v) => {
            Change::Deployments(one(v, deployment(&format!("d-{which}"), json!({"v": v.to_string()}))))
        }
        Step::StatefulSet(which, v) => Change::StatefulSets(one(v, stateful_set(&format!("sts-{which}")))),
        Step::Policy(which, v) => Change::Policies(one(v, some_policy(which, v))),
    }
}

/// Lists of what exists after the steps.
fn lists(steps: &[Step]) -> Vec<Change> {
    let mut exists: BTreeMap<(u8, usize), Step> = BTreeMap::new();
    for step in steps {
        let (kind, which, variant) = match *step {
            Step::Pod(w, v) => (0, w, v),
            Step::ReplicaSet(w, v) => (1, w, v),
            Step::Deployment(w, v) => (2, w, v),
            Step::StatefulSet(w, v) => (3, w, v),
            Step::Policy(w, v) => (4, w, v),
        };
        if variant == GONE {
            exists.remove(&(kind, which));
        } else {
            exists.insert((kind, which), *step);
        }
    }
    let (mut pods, mut sets, mut deployments, mut stateful, mut policies) =
        (vec![], vec![], vec![], vec![], vec![]);
    for step in exists.into_values() {
        match event(step) {
            Change::Pods(Delta::Apply(o)) => pods.push(*o),
            Change::ReplicaSets(Delta::Apply(o)) => sets.push(*o),
            Change::Deployments(Delta::Apply(o)) => deployments.push(*o),
            Change::StatefulSets(Delta::Apply(o)) => stateful.push(*o),
            Change::Policies(Delta::Apply(o)) => policies.push(*o),
            other => panic!("{other:?}"),
        }
    }
    vec![
        Change::Policies(Delta::Replace(policies)),
        Change::StatefulSets(Delta::Replace(stateful)),
        Change::Deployments(Delta::Replace(deployments)),
        Change::ReplicaSets(Delta::Replace(sets)),
        Change::Pods(Delta::Replace(pods)),
    ]
}

/// All answers of an index but those about the dead.
fn answers(index: &Index) -> impl PartialEq + std::fmt::Debug + use<> {
    let pods: Vec<_> = (0..5)
        .map(|which| {
            let key = key(&format!("p-{which}"));
            let ids: Vec<_> = index
                .container_ids(&key)
                .map(|(id, name)| {
                    // without workload, the answer may be a tombstone's
                    let known = index.workload_of(&key).and_then(|_| index.container(id));
                    (*id, name.to_owned(), index.pod_of(id).cloned(), known)
                })
                .collect();
            (index.facts(&key), index.workload_of(&key).cloned(), ids)
        })
        .collect();
    let policies: Vec<_> = index.policies().cloned().collect();
    (pods, policies, index.select(), index.pod_count(), index.workload_count())
}

proptest! {
    #[test]
    fn order_does_not_matter(steps in prop::collection::vec(step(), 0..40), relist in 0..40_usize) {
        let (mut live, mut fresh) = (index(), index());
        for (i, step) in steps.iter().enumerate() {
            live.apply(event(*step), at(0));
            if i == relist {
                for change in lists(&steps[..=i]) {
                    live.apply(change, at(0));
                }
            }
        }
        for change in lists(&steps) {
            fresh.apply(change, at(0));
        }
        prop_assert_eq!(answers(&live), answers(&fresh));
    }

    #[test]
    fn a_container_is_told_as_new_exactly_when_its_workload_becomes_known(
        steps in prop::collection::vec(step(), 0..40)
    ) {
        let mut index = index();
        for step in steps {
            let before = index.containers_with_workload();
            let told: BTreeSet<ContainerId> = index.apply(event(step), at(0)).into_iter().collect();
            let after = index.containers_with_workload();
            prop_assert_eq!(told, &after - &before);
        }
    }
}

impl Index {
    fn containers_with_workload(&self) -> BTreeSet<ContainerId> {
        let known = self.pods.values().filter(|pod| pod.workload.is_some());
        known.flat_map(|pod| pod.ids.iter().map(|(id, _)| *id)).collect()
    }
}
