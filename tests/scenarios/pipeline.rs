//! Files of a cgroup tree in, requests to the API server out: sampler, frames, store, recommendation, decision and the
//! following of resizes, with the time as an argument.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]
#![allow(clippy::indexing_slicing, reason = "a missing element fails the test")]
#![allow(clippy::unchecked_time_subtraction, reason = "time that runs backwards fails the test")]

mod support;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test target uses a part")]
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use optipod_common::decide::{Direction, Reason};
use optipod_common::ident::WorkloadRef;
use optipod_coordinator::api::v1alpha1::WorkloadPhase;
use optipod_coordinator::apply::Refusal;
use optipod_coordinator::engine::{Purpose, Request};
use optipod_coordinator::index::{Change, Delta};
use optipod_coordinator::report::About;
use serde_json::{Value, json};

use support::{OWN_NAMESPACE, applied};
use world::{Demand, MEBIBYTE, Reaction, World};

const LITTLE: Demand = Demand { millicores: 20, memory: 16 * MEBIBYTE };

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn resources(requests: (&str, &str), limits: (&str, &str)) -> Value {
    json!({
        "requests": {"cpu": requests.0, "memory": requests.1},
        "limits": {"cpu": limits.0, "memory": limits.1},
    })
}

/// Asks for much more than [`LITTLE`].
fn too_much() -> Value {
    resources(("1", "512Mi"), ("2", "1Gi"))
}

/// What becomes of [`too_much`] when only requests are written.
const SHRUNK: &str = "app: cpu request 1 > 24m, memory request 512Mi > 20Mi";

/// One Deployment that needs more memory than it asks for, and nothing else. Returns its pod.
fn hungry(world: &mut World, policy: &Value) -> String {
    world.policy("default", "p", policy);
    let demand = Demand { millicores: 20, memory: 100 * MEBIBYTE };
    world.deployment("default", "web", &resources(("24m", "20Mi"), ("1", "1Gi")), demand)
}

const GROWN: &str = "app: memory request 20Mi > 120Mi";
const TAKEN_BACK: &str = "app: memory request 120Mi > 20Mi";

/// Answers what is meant to optimise with `reaction`, and does what takes it back.
fn unwilling(reaction: Reaction) -> Box<dyn FnMut(&Request) -> Reaction> {
    Box::new(move |request| match request.subject.purpose {
        Purpose::Optimise => reaction.clone(),
        Purpose::Revert(_) => Reaction::Done,
    })
}

fn gaps(times: &[(Duration, String)]) -> Vec<u64> {
    times.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs()).collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// What is asked for

#[test]
fn over_asking_deployment_gets_exactly_one_request_with_the_expected_plan() {
    let mut world = World::with_hertz(10);
    world.policy("default", "p", &json!({"updateStrategy": {"updateRequestsOnly": false}}));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(55));
    assert_eq!(world.plans(), [""; 0], "before half of the window has data");
    assert_eq!(world.workload("default", "p").reason, "InsufficientCoverage");
    world.run(seconds(245));
    assert_eq!(world.plans(), [format!("{SHRUNK}, memory limit 1Gi > 40Mi")]);
    let (_, request) = &world.requests[0];
    assert_eq!(request.action.plan.direction, Direction::Decrease);
    assert_eq!(request.subject.purpose, Purpose::Optimise);
    assert_eq!(world.told(), ["Resizing", "Resized"]);
    for (_, notice) in &world.notices {
        let About::Pod(_, Some(owner)) = &notice.about else { panic!("{notice:?}") };
        assert_eq!((owner.api_version.as_str(), owner.uid.as_str()), ("apps/v1", "d-web"));
    }
    assert_eq!(world.metrics.resizes.with_label_values(&["Done"]).get(), 1);
    let workload = world.workload("default", "p");
    assert_eq!(workload.status, WorkloadPhase::Applied);
    let reclaimed = &world.status("default", "p").summary.as_ref().unwrap().reclaimed;
    assert_eq!((reclaimed.cpu.as_str(), reclaimed.memory.as_str()), ("976m", "492Mi"));
}

#[test]
fn decreases_go_first_and_increases_follow_when_they_are_done() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    let demand = Demand { millicores: 20, memory: 100 * MEBIBYTE };
    world.deployment("default", "web", &resources(("1", "20Mi"), ("2", "1Gi")), demand);
    // before there is coverage only the increase is possible
    world.run(seconds(50));
    assert_eq!(world.plans(), [GROWN]);
    let mut world = World::new();
    world.policy("default", "p", &json!({"metricsConfig": {"minimumCoverage": 0.0}}));
    world.put(Change::Nodes(applied(&node(false))));
    world.deployment("default", "web", &resources(("1", "20Mi"), ("2", "1Gi")), demand);
    world.run(seconds(50));
    assert!(world.plans().is_empty(), "{:?}", world.plans());
    // the node is Ready again, and both are wanted at once
    world.put(Change::Nodes(applied(&node(true))));
    world.run(seconds(100));
    assert_eq!(world.plans(), ["app: cpu request 1 > 24m", GROWN]);
}

fn node(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({"metadata": {"name": world::NODE}, "status": {"conditions": [{"type": "Ready", "status": status}]}})
}

#[test]
fn throttled_container_grows_up_to_its_kept_limit() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    let demand = Demand { millicores: 1000, memory: 100 * MEBIBYTE };
    world.deployment("default", "web", &resources(("100m", "120Mi"), ("200m", "1Gi")), demand);
    world.run(seconds(300));
    // all that was seen used, and no further: a request lifts no throttling
    assert_eq!(world.plans(), ["app: cpu request 100m > 200m"]);
    let recommended = &world.recommendations.values().next().unwrap().containers[0];
    let last = recommended.steps.as_ref().unwrap().cpu.last().unwrap();
    assert_eq!(last.step, "throttled by the kept limit");
    assert!(last.detail.contains("declare a higher limit"), "{}", last.detail);
}

#[test]
fn bursts_that_throttle_raise_the_limit_once() {
    let mut world = World::new();
    let limits = json!({"cpu": {"type": "Ratio"}, "memory": {"type": "Keep"}});
    let strategy = json!({"updateRequestsOnly": false, "limits": limits, "cooldown": "1m"});
    let metrics = json!({"rollingWindow": "30m"});
    world.policy("default", "p", &json!({"updateStrategy": strategy, "metricsConfig": metrics}));
    let calm = Demand { millicores: 30, memory: 100 * MEBIBYTE };
    let pod = world.deployment("default", "web", &resources(("100m", "120Mi"), ("200m", "1Gi")), calm);
    world.run(seconds(1800));
    // less than one second in ten: no percentile that is asked for sees it
    for _ in 0..12 {
        world.demand(&pod, Demand { millicores: 250, ..calm });
        world.run(seconds(40));
        world.demand(&pod, calm);
        world.run(seconds(560));
    }
    let plans = world.plans();
    let limits: Vec<&str> = plans.iter().filter_map(|plan| plan.rsplit(" > ").next()).collect();
    assert_eq!(limits, ["80m", "120m", "180m", "270m"], "{plans:?}");
    assert!(world.requests[3].0 < seconds(3600), "two hours without a change");
}

#[test]
fn start_raises_the_limit_and_its_end_takes_it_back() {
    let mut world = World::new();
    let startup = json!({"boost": {"cpu": "2x"}, "until": "90s"});
    world.policy("default", "p", &json!({"startup": startup}));
    let pod = world.deployment(
        "default",
        "web",
        &resources(("100m", "120Mi"), ("200m", "1Gi")),
        Demand { millicores: 80, memory: 100 * MEBIBYTE },
    );
    world.run(seconds(100));
    assert!(world.plans().is_empty(), "without a start nothing is known of: {:?}", world.plans());
    let sibling = world.pod_of(
        "default",
        "web",
        &resources(("100m", "120Mi"), ("200m", "1Gi")),
        Demand { millicores: 80, memory: 100 * MEBIBYTE },
    );
    world.change(&sibling, |json| {
        json["status"]["containerStatuses"][0]["state"] =
            json!({"running": {"startedAt": "2027-01-15T08:01:40Z"}});
    });
    world.run(seconds(200));
    assert_eq!(
        world.plans(),
        ["app: cpu limit 200m > 400m", "app: cpu request 100m > 96m, cpu limit 400m > 200m"]
    );
    assert!(
        world.requests.iter().all(|(_, request)| request.action.pod.name == sibling),
        "{pod} has started"
    );
    let ended = world.requests[1].0;
    assert!((seconds(190)..seconds(215)).contains(&ended), "{ended:?}");
}

#[test]
fn throttled_container_grows_with_its_limit_until_it_has_what_it_needs() {
    let mut world = World::new();
    let limits = json!({"cpu": {"type": "Ratio"}, "memory": {"type": "Keep"}});
    let strategy = json!({"updateRequestsOnly": false, "limits": limits});
    world.policy("default", "p", &json!({"updateStrategy": strategy}));
    let demand = Demand { millicores: 1000, memory: 100 * MEBIBYTE };
    world.deployment("default", "web", &resources(("100m", "120Mi"), ("200m", "1Gi")), demand);
    world.run(seconds(1800));
    let plans = world.plans();
    let increases = world.requests.iter().all(|(_, r)| r.action.plan.direction == Direction::Increase);
    assert!(increases, "{plans:?}");
    assert_eq!(
        plans.first().map(String::as_str),
        Some("app: cpu request 100m > 240m, cpu limit 200m > 480m")
    );
    assert!(
        plans.last().unwrap().contains("> 1200m, ") || plans.last().unwrap().contains("> 1.2"),
        "{plans:?}"
    );
    assert!(plans.len() <= 5, "{plans:?}");
}

#[test]
fn what_restarts_goes_one_pod_after_the_other_while_another_is_ready() {
    let mut world = World::new();
    world.policy("default", "p", &json!({"updateStrategy": {"restartContainer": "OneAtATime"}}));
    world.deployment("default", "web", &too_much(), LITTLE);
    (0..2).for_each(|_| drop(world.pod_of("default", "web", &too_much(), LITTLE)));
    let pods: Vec<String> = world.pods.keys().cloned().collect();
    let becomes = |world: &mut World, pod: &str, ready: &str| {
        world.change(pod, |json| {
            let policy = |name| json!({"resourceName": name, "restartPolicy": "RestartContainer"});
            json["spec"]["containers"][0]["resizePolicy"] = json!([policy("cpu"), policy("memory")]);
            json["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
        });
    };
    becomes(&mut world, &pods[0], "True");
    for pod in &pods[1..] {
        becomes(&mut world, pod, "False");
    }
    world.run(seconds(200));
    assert_eq!(world.plans(), [""; 0]);
    let reason = &world.workload("default", "p").reason;
    assert!(["LastReadyReplica", "OtherPodDisrupted"].contains(&reason.as_str()), "{reason}");
    // the kubelet restarts a container for its resize: the pod is not ready for a while
    let restarted = Rc::new(RefCell::new(Vec::new()));
    let names = Rc::clone(&restarted);
    world.kubelet = Box::new(move |request: &Request| {
        names.borrow_mut().push(request.action.pod.name.clone());
        Reaction::Done
    });
    let budget = |allowed: u8| {
        let status = json!({"disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3});
        let meta = json!({"namespace": "default", "name": "b"});
        Change::Budgets(applied(&json!({"metadata": meta, "spec": {"selector": {}}, "status": status})))
    };
    world.put(budget(0));
    for pod in &pods {
        becomes(&mut world, pod, "True");
    }
    world.run(seconds(60));
    assert_eq!(
        (world.plans().len(), world.workload("default", "p").reason.as_str()),
        (0, "DisruptionBudget")
    );
    world.put(budget(1));
    for turn in 1..=3 {
        (0..60).take_while(|_| restarted.borrow().len() < turn).for_each(|_| world.run(seconds(1)));
        let pod = restarted.borrow().last().cloned().unwrap();
        assert_eq!(restarted.borrow().len(), turn, "one at a time: {restarted:?}");
        becomes(&mut world, &pod, "False");
        world.run(seconds(60));
        assert_eq!(restarted.borrow().len(), turn, "{pod} is not ready: {restarted:?}");
        becomes(&mut world, &pod, "True");
    }
    world.run(seconds(300));
    restarted.borrow_mut().sort_unstable();
    assert_eq!(*restarted.borrow(), pods, "each once");
    assert_eq!(world.plans()[0], format!("{SHRUNK}, which restarts it"));
    assert_eq!(world.metrics.restarts_during_resize.get(), 0, "what was asked for is no harm");
}

#[test]
fn memory_is_not_lowered_while_the_node_stalls_for_it() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    world.deployment("default", "web", &too_much(), LITTLE);
    for second in 0..200 {
        world.stall_for_memory(second * 60_000);
        world.run(seconds(1));
    }
    assert_eq!(world.plans(), ["app: cpu request 1 > 24m"]);
    assert_eq!(world.workload("default", "p").reason, "NodeMemoryPressure");
    world.run(seconds(60));
    assert_eq!(world.plans()[1..], ["app: memory request 512Mi > 20Mi"]);
}

#[test]
fn what_a_cgroup_does_beside_its_limits_holds_its_container() {
    let mut world = World::new();
    world.policy("default", "p", &json!({"updateStrategy": {"updateRequestsOnly": false}}));
    let swaps = world.deployment("default", "swaps", &too_much(), LITTLE);
    world.write_file(&swaps, "memory.swap.max", "268435456\n");
    world.write_file(&swaps, "memory.swap.current", "1048576\n");
    let written = world.deployment("default", "written", &too_much(), LITTLE);
    world.write_file(&written, "memory.max", "2147483648\n");
    world.run(seconds(300));
    let plans: Vec<(String, String)> =
        world.requests.iter().map(|(_, r)| (r.action.pod.name.clone(), r.action.plan.to_string())).collect();
    // 16 MiB in memory and one that is swapped
    assert_eq!(plans, [(swaps, "app: cpu request 1 > 24m".to_owned())]);
    let reason = |name: &str| {
        let said = world.status("default", "p").workloads.iter().find(|w| w.name == name).unwrap();
        (said.reason.clone(), said.recommendations[0].memory.clone().unwrap())
    };
    assert_eq!(reason("swaps"), ("SwapEnabled".to_owned(), "21Mi".to_owned()));
    assert_eq!(reason("written").0, "ForeignCgroupWriter");
}

#[test]
fn decreases_stop_when_others_spend_what_they_freed_of_a_quota() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    // used up, and it stays so: somebody takes what is given back
    world.put(Change::Quotas(applied(&json!({
        "metadata": {"namespace": "default", "name": "q"},
        "spec": {"hard": {"requests.cpu": "2"}}, "status": {"used": {"requests.cpu": "2"}},
    }))));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(200));
    assert_eq!(world.plans(), [SHRUNK], "nobody waits for it yet");
    world.deployment("default", "api", &too_much(), LITTLE);
    world.run(seconds(200));
    assert_eq!(world.plans()[1..], ["app: memory request 512Mi > 20Mi"]);
    let held = world.status("default", "p").workloads.iter().find(|w| w.name == "api").unwrap();
    assert_eq!(held.reason, "QuotaHeadroom", "{}", held.message);
}

#[test]
fn a_job_that_finds_no_room_after_a_raise_counts_as_harm() {
    let mut world = World::new();
    hungry(&mut world, &json!({}));
    let refused = |world: &mut World| {
        let pod = world.run_of("default", "night", &too_much(), LITTLE);
        world.change(&pod, |json| json["status"] = json!({"phase": "Failed", "reason": "OutOfcpu"}));
        world.metrics.jobs_lost.get()
    };
    assert_eq!(refused(&mut world), 0, "nothing was raised");
    while world.requests.is_empty() {
        world.run(seconds(1));
    }
    assert_eq!(world.plans(), [GROWN]);
    assert_eq!([refused(&mut world), refused(&mut world)], [1, 2]);
    world.run(seconds(60));
    assert_eq!(refused(&mut world), 2, "long after it");
}

#[test]
fn modes_recommend_and_disabled_change_nothing() {
    for (mode, reason, recommended) in
        [("Recommend", "ModeRecommend", true), ("Disabled", "ModeDisabled", false)]
    {
        let mut world = World::new();
        world.policy("default", "p", &json!({"mode": mode}));
        world.deployment("default", "web", &too_much(), LITTLE);
        world.run(seconds(600));
        assert_eq!(world.plans(), [""; 0], "{mode}");
        assert!(world.notices.is_empty(), "{mode}: {:?}", world.told());
        let workload = world.workload("default", "p");
        assert_eq!(workload.reason, reason);
        let cpu = workload.recommendations.first().and_then(|c| c.cpu.as_deref());
        assert_eq!(cpu, recommended.then_some("24m"), "{mode}");
    }
}

#[test]
fn dry_run_decides_everything_and_asks_for_nothing() {
    let mut world = World::new();
    world.dry_run = true;
    world.start_coordinator();
    world.policy("default", "p", &json!({}));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(300));
    assert!(world.plans().is_empty(), "{:?}", world.plans());
    let workload = world.workload("default", "p");
    assert_eq!(workload.reason, "DryRun");
    assert!(workload.message.contains(SHRUNK), "{}", workload.message);
}

#[test]
fn system_namespaces_and_system_critical_pods_are_never_asked_for() {
    let mut world = World::new();
    world.policy(OWN_NAMESPACE, "all", &json!({"selector": {"namespaceSelector": {}}}));
    for (namespace, name) in [("kube-system", "dns"), (OWN_NAMESPACE, "coordinator")] {
        world.deployment(namespace, name, &too_much(), LITTLE);
    }
    let critical = world.deployment("default", "cni", &too_much(), LITTLE);
    world.change(&critical, |json| json["spec"]["priority"] = 2_000_000_000.into());
    let ordinary = world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(600));
    let asked: Vec<&str> = world.requests.iter().map(|(_, r)| r.action.pod.name.as_str()).collect();
    assert_eq!(asked, [ordinary.as_str()]);
    let reasons: Vec<(&str, &str)> = world
        .status(OWN_NAMESPACE, "all")
        .workloads
        .iter()
        .map(|w| (w.name.as_str(), w.reason.as_str()))
        .filter(|(name, _)| *name != "web")
        .collect();
    for expected in
        [("dns", "ProtectedNamespace"), ("coordinator", "ProtectedNamespace"), ("cni", "SystemCritical")]
    {
        assert!(reasons.contains(&expected), "{reasons:?}");
    }
}

#[test]
fn policy_of_a_tenant_that_reaches_beyond_its_namespace_does_nothing() {
    let mut world = World::new();
    world.policy("default", "greedy", &json!({"selector": {"namespaceSelector": {}}}));
    world.put(Change::Namespaces(applied(&json!({"metadata": {"name": "other"}}))));
    world.deployment("other", "web", &too_much(), LITTLE);
    world.deployment("default", "own", &too_much(), LITTLE);
    world.run(seconds(300));
    assert!(world.plans().is_empty(), "{:?}", world.plans());
    let ready = &world.status("default", "greedy").conditions[0];
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "ScopeRefused"));
    assert_eq!(world.told(), ["ScopeRefused"], "one Event, not one per evaluation");
}

#[test]
fn a_policy_that_keeps_pods_from_shrinking_says_so_where_it_says_that_it_is_ready() {
    for (spec, condition, message) in [
        (json!({"replacement": "Known"}), "DecreasesHeld", "pods are raised and never lowered"),
        (
            json!({"updateStrategy": {"allowInPlaceResize": false}}),
            "NothingResized",
            "nothing is resized: no way to is allowed",
        ),
    ] {
        let mut world = World::new();
        world.policy("default", "gold", &spec);
        world.deployment("default", "web", &too_much(), LITTLE);
        world.run(seconds(300));
        assert!(world.plans().is_empty(), "{spec}: {:?}", world.plans());
        let conditions = &world.status("default", "gold").conditions;
        assert_eq!(conditions[0].message, format!("the policy is valid; {message}"), "{spec}");
        assert!(conditions.iter().any(|c| c.type_ == condition), "{spec}: {conditions:?}");
    }
}

#[test]
fn of_two_policies_the_weightier_acts_and_the_other_says_why_it_does_not() {
    let mut world = World::new();
    world.policy("default", "light", &json!({"resourceBounds": {"cpu": {"min": "500m"}}}));
    world.policy("default", "heavy", &json!({"weight": 200, "resourceBounds": {"cpu": {"min": "300m"}}}));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(300));
    assert_eq!(world.plans(), ["app: cpu request 1 > 300m, memory request 512Mi > 20Mi"]);
    assert_eq!(world.requests[0].1.subject.policy.name, "heavy");
    let conflict =
        world.status("default", "light").conditions.iter().find(|c| c.type_ == "Conflict").unwrap();
    assert_eq!(conflict.reason, "PolicyConflict");
    assert_eq!(conflict.message, "default/Deployment/web belongs to default/heavy");
    assert!(world.status("default", "heavy").conditions.iter().all(|c| c.type_ != "Conflict"));
}

#[test]
fn recommendation_lives_as_long_as_some_policy_is_in_charge() {
    let mut world = World::new();
    world.policy("default", "light", &json!({}));
    world.deployment("default", "web", &too_much(), LITTLE);
    let whose = |world: &World| {
        let policies =
            world.recommendations.values().map(|status| status.policy.clone().unwrap_or_default().name);
        policies.collect::<Vec<_>>()
    };
    world.run(seconds(60));
    assert_eq!(whose(&world), ["light"]);
    world.policy("default", "heavy", &json!({"weight": 200}));
    world.run(seconds(60));
    assert_eq!(whose(&world), ["heavy"], "the policy that lost does not delete what the other one wrote");
    world.delete_policy("default", "heavy");
    world.run(seconds(60));
    assert_eq!(whose(&world), ["light"]);
    world.delete_policy("default", "light");
    world.run(seconds(60));
    assert_eq!(whose(&world), [""; 0]);
}

#[test]
fn new_leader_sweeps_what_an_earlier_one_left_of_what_is_gone() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(60));
    let (web, status) = world.recommendations.first_key_value().map(|(w, s)| (w.clone(), s.clone())).unwrap();
    world.recommendations.insert(WorkloadRef { name: "gone".to_owned(), ..web.clone() }, status);
    world.start_coordinator();
    world.run(seconds(60));
    assert_eq!(world.recommendations.keys().collect::<Vec<_>>(), [&web]);
}

#[test]
fn what_waits_for_a_pod_to_be_admitted_is_decided_on_when_it_is() {
    for killed in [false, true] {
        let mut world = World::new();
        let startup = json!({"boost": {"cpu": "2x"}});
        let policy = json!({"reconciliationInterval": "1h", "startup": startup});
        let of = resources(("24m", "20Mi"), ("1", "64Mi"));
        let wanting = Demand { millicores: 20, memory: (if killed { 16 } else { 50 }) * MEBIBYTE };
        let web = world.deployment("default", "web", &of, wanting);
        let late = world.deployment("default", "late", &resources(("24m", "20Mi"), ("1", "1Gi")), LITTLE);
        world.change(&late, |pod| pod["status"]["phase"] = "Pending".into());
        world.run(seconds(60));
        if killed {
            world.kill_for_memory(&web);
            world.run(seconds(20));
        }
        world.policy("default", "p", &policy);
        world.run(seconds(20));
        let status = world.status("default", "p").workloads.iter().find(|w| w.name == "web").unwrap();
        assert_eq!(status.reason, "NodeAdmitting", "{}", status.message);
        // an event finds it waiting still
        world.change(&web, |pod| pod["status"]["containerStatuses"][0]["restartCount"] = 1.into());
        world.run(seconds(10));
        let evaluations = |world: &World| {
            let whole = world.metrics.reconciliation_seconds.with_label_values(&["default/p"]);
            (whole.get_sample_count(), world.metrics.event_evaluations.get())
        };
        let evaluated = evaluations(&world);
        world.run(seconds(60));
        assert_eq!(evaluations(&world), evaluated, "nothing happened");
        assert!(world.plans().is_empty(), "{:?}", world.plans());
        world.change(&late, |pod| pod["status"]["phase"] = "Running".into());
        world.run(seconds(1));
        assert!(world.plans()[0].starts_with("app: memory request 20Mi > "), "{:?}", world.plans());
        assert_eq!(world.plans().len(), 1);
    }
}

#[test]
fn slot_that_is_free_again_is_used_at_once() {
    let mut world = World::new();
    let one = json!({"maxConcurrentResizes": 1});
    for name in ["a", "b", "c"] {
        world.deployment("default", name, &too_much(), LITTLE);
    }
    world.run(seconds(100));
    world.policy("default", "p", &by_events(&json!({"updateStrategy": one})));
    world.run(seconds(10));
    // two ticks until a resize counts as done
    let times: Vec<u64> = world.requests.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [101, 103, 105], "{:?}", world.plans());
}

#[test]
fn silent_api_server_is_not_asked_for_one_workload_after_the_other() {
    let mut world = World::new();
    for number in 0..20 {
        world.deployment("default", &format!("w{number}"), &too_much(), LITTLE);
    }
    world.run(seconds(100));
    world.refuse = Box::new(|_| Some(Refusal { reason: Reason::ApiUnavailable, message: "503".to_owned() }));
    world.policy("default", "p", &by_events(&json!({"updateStrategy": {"maxConcurrentResizes": 1}})));
    world.run(seconds(60));
    // one each 5 s, and those that are tried again after 5, 10, 20, .. s
    assert!(world.requests.len() <= 30, "{}", world.requests.len());
    world.refuse = Box::new(|_| None);
    world.run(seconds(600));
    assert_eq!(world.metrics.resizes.with_label_values(&["Done"]).get(), 20);
}

#[test]
fn pods_that_come_with_a_list_are_events_too() {
    let mut world = World::new();
    let first = world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(120));
    world.policy("default", "p", &by_events(&json!({})));
    world.run(seconds(60));
    assert_eq!(world.plans(), [SHRUNK]);
    // the watch broke before the pod came
    world.behind = Some(format!("web-1-{}", 2));
    let second = world.pod_of("default", "web", &too_much(), LITTLE);
    assert_eq!(Some(&second), world.behind.as_ref());
    world.run(seconds(10));
    world.behind = None;
    let list = [&first, &second].map(|pod| support::object(&world.pods[pod].json));
    world.engine.on_change(Change::Pods(Delta::Replace(list.into())), world.now);
    world.run(seconds(10));
    assert_eq!(world.plans(), [SHRUNK, SHRUNK]);
}

#[test]
fn policies_that_are_due_one_after_the_other_are_evaluated_together() {
    let mut world = World::new();
    world.deployment("default", "web", &too_much(), LITTLE);
    let count = |world: &World, name: &str| {
        world.metrics.reconciliation_seconds.with_label_values(&[name]).get_sample_count()
    };
    for name in ["p", "q", "r"] {
        world.policy("default", name, &json!({}));
        world.run(seconds(1));
        assert_eq!(count(&world, &format!("default/{name}")), 1, "new ones do not wait");
    }
    world.run(seconds(60));
    let all = |world: &World| ["p", "q", "r"].map(|name| count(world, &format!("default/{name}")));
    let (mut before, mut times) = (all(&world), Vec::new());
    for second in 0..60 {
        world.run(seconds(1));
        let after = all(&world);
        if after != before {
            times.push(second);
        }
        before = after;
    }
    assert!(times.len() > 5 && times.windows(2).all(|pair| pair[1] - pair[0] >= 5), "{times:?}");
}

#[test]
fn clock_that_is_set_back_stops_no_evaluation() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(100));
    let evaluated = |world: &World| {
        world.metrics.reconciliation_seconds.with_label_values(&["default/p"]).get_sample_count()
    };
    let before = evaluated(&world);
    world.now = world.now - seconds(7200);
    world.run(seconds(60));
    assert!(evaluated(&world) >= before + 5, "{} after {before}", evaluated(&world));
}

/// The node of the world with this much CPU, and more memory than anybody asks for.
fn node_with(cpu: &str) -> Value {
    let mut node = node(true);
    node["status"]["allocatable"] = json!({"cpu": cpu, "memory": "64Gi"});
    node
}

/// Reasons of the workloads of policy `p`, by their names.
fn reasons(world: &World) -> Vec<(&str, &str)> {
    let status = world.status("default", "p");
    let mut reasons: Vec<_> = status.workloads.iter().map(|w| (w.name.as_str(), w.reason.as_str())).collect();
    reasons.sort_unstable();
    reasons
}

#[test]
fn what_one_workload_gives_back_counts_for_the_next_in_the_same_turn() {
    // half of what the node has may be owed: two of three give back
    let mut world = World::new();
    world.put(Change::Nodes(applied(&node_with("4"))));
    for name in ["a", "b", "c"] {
        world.deployment("default", name, &resources(("1500m", "20Mi"), ("2", "1Gi")), LITTLE);
    }
    world.policy("default", "p", &json!({}));
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(200));
    let shrunk: Vec<_> = world.requests.iter().map(|(_, r)| r.subject.workload.name.as_str()).collect();
    assert_eq!(shrunk, ["a", "b"]);
    assert_eq!(reasons(&world)[2], ("c", "RestartDebt"));

    // beside a Guaranteed pod the Burstable ones lose a fifth of their weight in an hour, and the one that exceeds it
    let mut world = World::new();
    world.put(Change::Nodes(applied(&node_with("64"))));
    world.deployment("default", "even", &resources(("1", "1Gi"), ("1", "1Gi")), LITTLE);
    for name in ["a", "b"] {
        world.deployment("default", name, &resources(("1", "20Mi"), ("2", "1Gi")), LITTLE);
    }
    world.policy("default", "p", &json!({}));
    world.run(seconds(600));
    let shrunk: Vec<_> = world.requests.iter().map(|(_, r)| r.subject.workload.name.as_str()).collect();
    assert_eq!(shrunk, ["a"]);
    assert_eq!(reasons(&world)[1], ("b", "SliceShrinkBudget"));
}

#[test]
fn room_that_was_asked_for_is_not_given_again_while_the_watch_is_behind() {
    let mut world = World::new();
    let startup = json!({"boost": {"cpu": "3x"}, "until": "90s"});
    world.policy("default", "p", &json!({"startup": startup, "reconciliationInterval": "1h"}));
    // what two starts want beyond 100m each is there once
    world.put(Change::Nodes(applied(&node_with("600m"))));
    let of = resources(("100m", "120Mi"), ("300m", "1Gi"));
    let demand = Demand { millicores: 80, memory: 100 * MEBIBYTE };
    for name in ["web", "db"] {
        world.deployment("default", name, &of, demand);
    }
    world.run(seconds(100));
    assert!(world.plans().is_empty(), "{:?}", world.plans());
    let start = |world: &mut World, name: &str| {
        let pod = world.pod_of("default", name, &of, demand);
        world.change(&pod, |json| {
            let running = json!({"running": {"startedAt": "2027-01-15T08:01:40Z"}});
            json["status"]["containerStatuses"][0]["state"] = running;
        });
        pod
    };
    world.behind = Some(start(&mut world, "web"));
    world.run(seconds(2));
    assert_eq!(world.plans(), ["app: cpu request 100m > 288m, cpu limit 300m > 900m"]);
    start(&mut world, "db");
    world.run(seconds(2));
    assert_eq!(world.plans()[1..], ["app: cpu limit 300m > 900m"]);
}

#[test]
fn each_container_is_named_with_what_is_done_with_it() {
    let mut world = World::new();
    let pod = world.deployment("default", "web", &too_much(), LITTLE);
    world.change(&pod, |json| {
        json["spec"]["initContainers"] = json!([{"name": "migrate", "resources": too_much()}]);
        json["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]);
        let proxy = json!({"name": "proxy", "resources": too_much()});
        json["spec"]["containers"].as_array_mut().unwrap().extend([proxy, json!({"name": "unseen"})]);
    });
    world.policy("default", "p", &json!({"mode": "Recommend", "selector": {"excludeContainers": ["proxy"]}}));
    world.run(seconds(120));
    let status = world.recommendations.values().next().unwrap();
    let named: Vec<_> = status.containers.iter().map(|c| (c.name.as_str(), c.reason.as_str())).collect();
    let expected = [
        ("app", ""),
        ("proxy", "Excluded"),
        ("unseen", "NoData"),
        ("migrate", "InitContainer"),
        ("debug", "EphemeralContainer"),
    ];
    assert_eq!(named, expected);
    let others = status.containers.iter().skip(1);
    assert!(others.clone().all(|c| c.recommended.is_none() && !c.explanation.is_empty()));
}

#[test]
fn each_resource_of_a_container_has_its_own_reason() {
    let reason_of = |spec: Value| {
        let mut world = World::new();
        world.deployment("default", "web", &too_much(), LITTLE);
        world.policy("default", "p", &spec);
        world.run(seconds(180));
        world.recommendations.values().next().unwrap().containers[0].reason.clone()
    };
    let memory_only = json!({"updateStrategy": {"resources": ["memory"], "memoryDecrease": "Never"}});
    assert_eq!(reason_of(memory_only), "cpu: NotControlled, memory: MemoryDecreaseForbidden");
    let long = json!({"metricsConfig": {"rollingWindow": "24h"}});
    assert_eq!(reason_of(long), "InsufficientCoverage");
    let cpu_wrong = json!({"strategy": {"type": "Expression", "expression": {"cpu": "1.0 - cpu.limit"}},
        "updateStrategy": {"memoryDecrease": "Never"}});
    assert_eq!(reason_of(cpu_wrong), "cpu: ExpressionFailed, memory: MemoryDecreaseForbidden");
}

#[test]
fn status_names_the_hundred_workloads_with_most_to_give_back_or_missing() {
    let mut world = World::new();
    let right = resources(("24m", "20Mi"), ("1", "1Gi"));
    let busy = Demand { millicores: 20, memory: 16 * MEBIBYTE };
    for number in 0..100 {
        world.deployment("default", &format!("a{number}"), &right, busy);
    }
    world.deployment("default", "z", &too_much(), LITTLE);
    world.policy("default", "p", &json!({"mode": "Recommend", "reconciliationInterval": "20s"}));
    world.run(seconds(60));
    let status = world.status("default", "p");
    assert_eq!(status.workloads.len(), 100);
    assert_eq!(status.workloads.last().map(|workload| workload.name.as_str()), Some("z"));
    assert_eq!(status.summary.as_ref().unwrap().matched, 101);
}

// ---------------------------------------------------------------------------------------------------------------------
// What does not wait for the interval

/// A policy that is evaluated when it is new, and then by events only.
fn by_events(fields: &Value) -> Value {
    let mut policy = json!({"reconciliationInterval": "1h", "metricsConfig": {"minimumCoverage": 0.0}});
    for (key, value) in fields.as_object().unwrap() {
        policy[key] = value.clone();
    }
    policy
}

#[test]
fn use_above_the_size_is_followed_within_a_frame_and_a_moment() {
    for strategy in ["Adaptive", "Percentile", "Threshold"] {
        let mut world = World::new();
        let resources = resources(("100m", "64Mi"), ("2", "1Gi"));
        let pod =
            world.deployment("default", "web", &resources, Demand { millicores: 60, memory: 40 * MEBIBYTE });
        let other = Demand { millicores: 60, memory: 40 * MEBIBYTE };
        world.deployment("default", "other", &resources, other);
        world.run(seconds(120));
        let cooldown = json!({"cooldown": "1h"});
        world.policy(
            "default",
            "p",
            &by_events(&json!({"strategy": {"type": strategy}, "updateStrategy": cooldown})),
        );
        world.run(seconds(120));
        world.requests.clear();
        let quiet = world.metrics.event_evaluations.get();
        world.run(seconds(120));
        assert_eq!(world.metrics.event_evaluations.get(), quiet, "{strategy}: the same use is no event");
        let began = world.elapsed();
        world.demand(&pod, Demand { millicores: 1000, memory: 200 * MEBIBYTE });
        world.run(seconds(40));
        let mut raises = world.requests.iter().filter(|(_, r)| r.action.plan.to_string().contains("memory"));
        let (at, raise) = raises.next().unwrap_or_else(|| panic!("{strategy}: {:?}", world.optimising()));
        assert_eq!(raise.action.plan.direction, Direction::Increase, "{strategy}: {}", raise.action.plan);
        // a frame is 15 s long, and two of one workload are decided on in 5 s
        assert!((*at - began).as_secs() <= 25, "{strategy}: {:?}", world.optimising());
        let concerned = world.requests.iter().all(|(_, r)| r.subject.workload.name == "web");
        assert!(concerned, "{strategy}: {:?}", world.plans());
        // less use again: no event, and the cooldown holds
        let raises = world.requests.len();
        world.demand(&pod, Demand { millicores: 10, memory: 20 * MEBIBYTE });
        world.run(seconds(300));
        let decreases = world.requests[raises..].iter().map(|(_, r)| r.action.plan.direction);
        assert!(decreases.clone().all(|direction| direction == Direction::Increase), "{strategy}");
    }
}

#[test]
fn new_replica_of_a_known_workload_gets_its_size_at_once() {
    let mut world = World::new();
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(120));
    world.policy("default", "p", &by_events(&json!({})));
    world.run(seconds(60));
    assert_eq!(world.plans(), [SHRUNK]);
    world.pod_of("default", "web", &too_much(), LITTLE);
    world.run(seconds(10));
    assert_eq!(world.plans(), [SHRUNK, SHRUNK]);
}

#[test]
fn second_run_of_a_cron_job_is_decided_with_what_the_first_used() {
    let mut world = World::new();
    let little = resources(("24m", "20Mi"), ("1", "1Gi"));
    let demand = Demand { millicores: 20, memory: 100 * MEBIBYTE };
    let first = world.run_of("default", "nightly", &little, demand);
    world.policy("default", "p", &json!({"metricsConfig": {"rollingWindow": "1h"}}));
    world.run(seconds(60));
    assert_eq!(world.plans(), [GROWN]);
    world.delete(&first);
    world.run(seconds(600));
    let kept: Vec<_> =
        world.recommendations.iter().map(|(w, s)| (w.kind.as_str(), s.containers.len())).collect();
    assert_eq!(kept, [("CronJob", 1)], "between two runs");
    // nothing was measured of the second run when it is raised
    world.run_of("default", "nightly", &little, demand);
    world.run(seconds(7));
    assert_eq!(world.plans(), [GROWN, GROWN]);
    let cron_job = json!({"metadata": {"namespace": "default", "name": "nightly", "uid": "c-nightly"}});
    let pods: Vec<String> = world.pods.keys().cloned().collect();
    for pod in pods {
        world.delete(&pod);
    }
    world.put(Change::CronJobs(Delta::Delete(Box::new(support::object(&cron_job)))));
    world.run(seconds(60));
    assert!(world.recommendations.is_empty(), "the CronJob is gone");
}

#[test]
fn resource_that_an_autoscaler_follows_is_left_alone_and_the_other_is_not() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
    world.put(Change::Hpas(applied(&json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "maxReplicas": 5, "metrics": [metric],
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        },
    }))));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(300));
    assert_eq!(world.plans(), ["app: memory request 512Mi > 20Mi"]);
    assert_eq!(world.workload("default", "p").reason, "HpaControlsResource");
}

#[test]
fn cooldown_holds_the_next_decrease_and_no_increase() {
    let mut world = World::new();
    let policy = json!({"updateStrategy": {"cooldown": "10m"}});
    world.policy("default", "p", &policy);
    let pod = world.deployment("default", "web", &too_much(), LITTLE);
    // the clock of the API server, which writes managedFields, is the world's
    world.change(&pod, |json| {
        json["metadata"]["managedFields"] = json!([{
            "manager": "optipod-coordinator", "operation": "Update", "subresource": "resize",
            "time": "2027-01-15T08:00:00Z",
        }]);
    });
    assert_eq!(world.now.unix_micros(), 1_800_000_000_000_000);
    world.run(seconds(590));
    assert!(world.plans().is_empty(), "{:?}", world.plans());
    assert_eq!(world.workload("default", "p").reason, "CooldownActive");
    world.run(seconds(30));
    assert_eq!(world.plans(), [SHRUNK]);
}

#[test]
fn no_more_resizes_are_under_way_than_the_policy_allows() {
    let mut world = World::new();
    world.policy("default", "p", &json!({"updateStrategy": {"maxConcurrentResizes": 2}}));
    let first = world.deployment("default", "web", &too_much(), LITTLE);
    for _ in 0..4 {
        world.pod_of("default", "web", &too_much(), LITTLE);
    }
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(200));
    assert_eq!(world.requests.len(), 2);
    assert_eq!(world.metrics.resizes_in_flight.get(), 2);
    assert_eq!(world.requests[0].1.action.pod.name, first);
    world.finish(&first);
    world.run(seconds(30));
    assert_eq!(world.requests.len(), 3);
}

#[test]
fn container_killed_for_memory_does_not_wait_for_a_slot() {
    let mut world = World::new();
    world.policy("default", "p", &json!({"updateStrategy": {"maxConcurrentResizes": 1}}));
    let over_asking = world.deployment("default", "web", &too_much(), LITTLE);
    let killed = world.deployment("default", "db", &resources(("24m", "20Mi"), ("1", "64Mi")), LITTLE);
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(100));
    let asked = |world: &World| -> Vec<String> {
        world.requests.iter().map(|(_, request)| request.action.pod.name.clone()).collect()
    };
    assert_eq!(asked(&world), [over_asking.as_str()]);
    world.kill_for_memory(&killed);
    world.run(seconds(40));
    assert_eq!(asked(&world), [over_asking.as_str(), killed.as_str()], "{:?}", world.plans());
}

#[test]
fn one_canary_tries_the_change_before_the_others() {
    let mut world = World::new();
    let canary = json!({"share": "10%", "observe": "5m"});
    world.policy("default", "p", &json!({"updateStrategy": {"canary": canary}}));
    let first = world.deployment("default", "web", &too_much(), LITTLE);
    for _ in 0..4 {
        world.pod_of("default", "web", &too_much(), LITTLE);
    }
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(120));
    let asked: Vec<&str> = world.requests.iter().map(|(_, r)| r.action.pod.name.as_str()).collect();
    assert_eq!(asked, [first.as_str()], "while its resize is under way");
    assert_eq!(world.workload("default", "p").reason, "ResizeInFlight");
    world.finish(&first);
    world.kubelet = Box::new(|_| Reaction::Done);
    world.run(seconds(240));
    assert_eq!(world.requests.len(), 1, "while it is watched");
    world.run(seconds(120));
    assert_eq!(world.requests.len(), 5);
    // less memory is watched through a daily peak
    let plans = world.plans();
    assert!(
        plans[0].contains("memory") && plans[1..].iter().all(|plan| !plan.contains("memory")),
        "{plans:?}"
    );
}

#[test]
fn canary_takes_all_its_steps_before_the_others_follow() {
    let mut world = World::new();
    // it cools down longer than it is watched, and ends where the rest is below one step of weight
    let strategy = json!({
        "canary": {"share": "10%", "observe": "1m"}, "cooldown": "2m", "maxStep": {"down": "50%"}, "memoryDecrease": "Never",
    });
    world.policy("default", "p", &json!({"updateStrategy": strategy}));
    let first = world.deployment("default", "web", &too_much(), LITTLE);
    for _ in 0..2 {
        world.pod_of("default", "web", &too_much(), LITTLE);
    }
    world.run(seconds(1800));
    let pods: Vec<&str> = world.requests.iter().map(|(_, r)| r.action.pod.name.as_str()).collect();
    let steps = pods.iter().filter(|pod| **pod == first).count();
    assert!(steps > 3, "{:?}", world.plans());
    assert!(pods[..steps].iter().all(|pod| *pod == first), "{pods:?}");
    assert_eq!(pods.len(), 3 * steps, "{:?}", world.optimising());
    let followed = &world.requests[steps..];
    assert!(followed.chunks(2).all(|pair| pair[0].0 == pair[1].0), "{:?}", world.optimising());
    assert!((followed[0].0 - world.requests[steps - 1].0).as_secs() >= 60, "{:?}", world.optimising());
}

#[test]
fn canary_tries_a_limit_too() {
    let mut world = World::with_hertz(10);
    let headroom = json!({"type": "Headroom", "headroom": {"percentile": "P99", "factor": 2.0}});
    let strategy = json!({
        "canary": {"share": "10%", "observe": "1m"}, "updateRequestsOnly": false,
        "limits": {"cpu": headroom, "memory": {"type": "Keep"}},
    });
    world.policy("default", "p", &json!({"updateStrategy": strategy}));
    let right = resources(("24m", "20Mi"), ("2", "1Gi"));
    world.deployment("default", "web", &right, LITTLE);
    for _ in 0..2 {
        world.pod_of("default", "web", &right, LITTLE);
    }
    world.run(seconds(110));
    assert_eq!(world.plans().len(), 1, "{:?}", world.plans());
    world.run(seconds(60));
    assert_eq!(world.plans(), [world.plans()[0].as_str(); 3]);
}

// ---------------------------------------------------------------------------------------------------------------------
// What becomes of it

#[test]
fn resize_is_done_only_when_every_sign_is_there_twice() {
    let mut world = World::new();
    let pod = hungry(&mut world, &json!({}));
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(40));
    assert_eq!(world.plans(), [GROWN]);
    let not_done = |world: &mut World, after: &str| {
        world.run(seconds(10));
        assert_eq!(world.told(), ["Resizing"], "done after {after}");
        assert_eq!(world.metrics.resizes_in_flight.get(), 1);
    };
    not_done(&mut world, "nothing");
    world.condition(&pod, "PodResizeInProgress", Some(("", "")));
    world.observe(&pod);
    not_done(&mut world, "observedGeneration");
    world.allocate(&pod);
    not_done(&mut world, "allocatedResources");
    world.show_actual(&pod);
    not_done(&mut world, "resources");
    // the kubelet's status flaps: all signs are there for one look only
    world.condition(&pod, "PodResizeInProgress", None);
    world.run(seconds(1));
    assert_eq!(world.told(), ["Resizing"]);
    world.condition(&pod, "PodResizeInProgress", Some(("", "")));
    not_done(&mut world, "a flap");
    world.condition(&pod, "PodResizeInProgress", None);
    world.run(seconds(1));
    assert_eq!(world.told(), ["Resizing"]);
    world.run(seconds(1));
    assert_eq!(world.told(), ["Resizing", "Resized"]);
    world.run(seconds(600));
    assert_eq!(world.plans(), [GROWN]);
}

#[test]
fn limit_counts_as_done_when_the_agent_saw_it_in_the_cgroup() {
    let mut world = World::new();
    world.policy("default", "p", &json!({"updateStrategy": {"updateRequestsOnly": false}}));
    let pod = world.deployment("default", "web", &too_much(), LITTLE);
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(75));
    assert_eq!(world.requests.len(), 1);
    // the status says so, the cgroup does not
    world.observe(&pod);
    world.allocate(&pod);
    world.show_actual(&pod);
    world.run(seconds(20));
    assert_eq!(world.told(), ["Resizing"]);
    world.actuate(&pod);
    world.run(seconds(20));
    assert_eq!(world.told(), ["Resizing", "Resized"]);
    assert_eq!(world.metrics.resizes.with_label_values(&["Done"]).get(), 1);
}

#[test]
fn limit_that_never_reaches_the_cgroup_ends_unverified() {
    let mut world = World::new();
    world.policy("default", "p", &json!({"updateStrategy": {"updateRequestsOnly": false}}));
    let pod = world.deployment("default", "web", &too_much(), LITTLE);
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(75));
    world.observe(&pod);
    world.allocate(&pod);
    world.show_actual(&pod);
    world.run(seconds(90));
    assert_eq!(world.metrics.resizes.with_label_values(&["DoneUnverified"]).get(), 1);
    assert!(world.notices.last().unwrap().1.note.contains("Unverified"));
}

#[test]
fn deferred_resize_is_taken_back_after_its_deadline_and_backed_off() {
    let mut world = World::new();
    hungry(&mut world, &json!({"updateStrategy": {"deferredDeadline": "60s"}}));
    world.kubelet = unwilling(Reaction::Pending("Deferred"));
    world.run(seconds(70));
    assert_eq!(world.plans(), [GROWN]);
    let first = world.requests[0].0;
    world.run(seconds(40));
    assert_eq!(world.plans()[..2], [GROWN, TAKEN_BACK]);
    let revert = &world.requests[1];
    assert_eq!(revert.1.subject.purpose, Purpose::Revert(Reason::ResizeDeferred));
    let waited = (revert.0 - first).as_secs();
    assert!((60..=62).contains(&waited), "{waited} s");
    assert!(world.told().contains(&"ResizeDeferred"));
    let workload = world.workload("default", "p");
    assert_eq!((workload.status, workload.reason.as_str()), (WorkloadPhase::Failed, "ResizeDeferred"));
    world.run(seconds(3600) - world.elapsed());
    // each failure doubles the pause: 60, 120, .. after 60 s of waiting
    let (tried, taken_back) = (world.optimising(), world.reverting());
    assert_eq!((tried.len(), taken_back.len()), (6, 6), "{tried:?}");
    for (gap, expected) in gaps(&tried).into_iter().zip([120, 180, 300, 540, 1020]) {
        assert!((expected..=expected + 15).contains(&gap), "{gap} s instead of {expected}");
    }
}

#[test]
fn deferred_resize_that_gets_room_in_time_is_done() {
    let mut world = World::new();
    let pod = hungry(&mut world, &json!({"updateStrategy": {"deferredDeadline": "60s"}}));
    world.kubelet = unwilling(Reaction::Pending("Deferred"));
    world.run(seconds(60));
    assert_eq!(world.told(), ["Resizing"]);
    world.finish(&pod);
    world.run(seconds(600));
    assert_eq!(world.plans(), [GROWN]);
    assert_eq!(world.told(), ["Resizing", "Resized"]);
}

#[test]
fn infeasible_resize_is_taken_back_at_once_and_tried_three_times_an_hour_at_most() {
    let mut world = World::new();
    hungry(&mut world, &json!({}));
    world.kubelet = unwilling(Reaction::Pending("Infeasible"));
    world.run(seconds(3600));
    let (tried, taken_back) = (world.optimising(), world.reverting());
    assert_eq!((tried.len(), taken_back.len()), (3, 3), "{tried:?}");
    for (first, back) in tried.iter().zip(&taken_back) {
        assert_eq!((first.1.as_str(), back.1.as_str()), (GROWN, TAKEN_BACK));
        assert!(back.0 - first.0 <= seconds(1), "{:?}", back.0 - first.0);
    }
    for (gap, expected) in gaps(&tried).into_iter().zip([600, 1200]) {
        assert!((expected..=expected + 15).contains(&gap), "{gap} s instead of {expected}");
    }
    assert_eq!(world.metrics.resizes.with_label_values(&["ResizeInfeasible"]).get(), 3);
    let requests =
        &world.pods.values().next().unwrap().json["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!(requests["memory"], "20Mi", "what was there is there again");
}

#[test]
fn error_that_passes_is_waited_for_and_one_that_stays_is_taken_back() {
    let mut world = World::new();
    let pod = hungry(&mut world, &json!({}));
    world.kubelet = unwilling(Reaction::Error);
    while world.requests.is_empty() {
        world.run(seconds(1));
    }
    world.run(seconds(20));
    world.finish(&pod);
    world.run(seconds(60));
    assert_eq!((world.plans(), world.told()), (vec![GROWN.to_owned()], vec!["Resizing", "Resized"]));

    let mut world = World::new();
    hungry(&mut world, &json!({}));
    world.kubelet = unwilling(Reaction::Error);
    world.run(seconds(100));
    assert_eq!(world.plans()[..2], [GROWN, TAKEN_BACK]);
    assert_eq!(world.requests[1].1.subject.purpose, Purpose::Revert(Reason::ResizeError));
    let waited = (world.requests[1].0 - world.requests[0].0).as_secs();
    assert!((30..=32).contains(&waited), "{waited} s");
}

#[test]
fn kubelet_that_does_nothing_is_given_five_minutes() {
    let mut world = World::new();
    hungry(&mut world, &json!({}));
    world.kubelet = unwilling(Reaction::Ignored);
    world.run(seconds(345));
    assert_eq!(world.plans(), [GROWN, TAKEN_BACK]);
    assert_eq!(world.requests[1].1.subject.purpose, Purpose::Revert(Reason::ResizeTimeout));
    let waited = (world.requests[1].0 - world.requests[0].0).as_secs();
    assert!((300..=302).contains(&waited), "{waited} s");
}

#[test]
fn revert_that_fails_too_is_left_as_it_is() {
    let mut world = World::new();
    hungry(&mut world, &json!({}));
    world.kubelet = Box::new(|_| Reaction::Pending("Infeasible"));
    world.run(seconds(600));
    assert_eq!(world.plans(), [GROWN, TAKEN_BACK]);
    assert_eq!(world.metrics.resizes_in_flight.get(), 0);
}

#[test]
fn pod_deleted_in_the_middle_ends_its_resize_and_its_successor_gets_its_own() {
    let mut world = World::new();
    let pod = hungry(&mut world, &json!({}));
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(40));
    assert_eq!(world.plans(), [GROWN]);
    world.change(&pod, |json| json["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:40Z"));
    world.run(seconds(5));
    assert_eq!(world.metrics.resizes_in_flight.get(), 0);
    world.delete(&pod);
    world.run(seconds(400));
    assert_eq!(world.plans(), [GROWN], "no revert of a pod that is gone");
    assert!(!world.told().contains(&"ResizeTimeout"));
    world.kubelet = Box::new(|_| Reaction::Done);
    let demand = Demand { millicores: 20, memory: 100 * MEBIBYTE };
    let next = world.pod_of("default", "web", &resources(("24m", "20Mi"), ("1", "1Gi")), demand);
    world.run(seconds(60));
    assert_eq!(world.plans(), [GROWN, GROWN]);
    assert_eq!(world.requests[1].1.action.pod.name, next);
}

#[test]
fn values_of_another_writer_end_the_resize_and_keep_us_away() {
    let mut world = World::new();
    let pod = hungry(&mut world, &json!({}));
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(40));
    let mut changes = world.requests[0].1.action.plan.changes.clone();
    changes[0].to.requests.memory = "64Mi".parse().ok();
    world.write(&pod, "kubectl", "2027-01-15T08:00:41Z", &changes);
    world.run(seconds(900));
    assert_eq!(world.plans(), [GROWN]);
    assert_eq!(world.metrics.resizes_in_flight.get(), 0);
    assert_eq!(world.workload("default", "p").reason, "ForeignResizer");
}

// ---------------------------------------------------------------------------------------------------------------------
// Refusals of the API server

#[test]
fn exceeded_quota_is_asked_again_after_pauses_that_double() {
    let mut world = World::new();
    hungry(&mut world, &json!({}));
    world.refuse = Box::new(|_| {
        Some(Refusal { reason: Reason::QuotaExceeded, message: "exceeded quota: q".to_owned() })
    });
    world.run(seconds(7200));
    let tried = world.optimising();
    assert_eq!(tried.len(), 7, "{tried:?}");
    for (gap, expected) in gaps(&tried).into_iter().zip([60, 120, 240, 480, 960, 1920]) {
        assert!((expected..=expected + 12).contains(&gap), "{gap} s instead of {expected}");
    }
    assert!(world.reverting().is_empty(), "nothing was written, nothing is taken back");
    assert_eq!(world.told(), ["QuotaExceeded"; 7]);
    let workload = world.workload("default", "p");
    assert_eq!((workload.status, workload.reason.as_str()), (WorkloadPhase::Failed, "QuotaExceeded"));
    assert!(workload.message.contains("exceeded quota: q"), "{}", workload.message);
}

#[test]
fn conflict_is_tried_again_within_seconds_and_is_no_news() {
    let mut world = World::new();
    hungry(&mut world, &json!({}));
    let left = Rc::new(RefCell::new(2));
    let counter = Rc::clone(&left);
    world.refuse = Box::new(move |_| {
        let mut left = counter.borrow_mut();
        let refused = *left > 0;
        *left -= i32::from(refused);
        refused.then(|| Refusal { reason: Reason::Conflict, message: "modified".to_owned() })
    });
    world.run(seconds(90));
    let tried = world.optimising();
    assert_eq!(tried.len(), 3);
    assert!(gaps(&tried).iter().all(|gap| *gap <= 14), "{tried:?}");
    assert_eq!(world.told(), ["Resizing", "Resized"]);
}

#[test]
fn limit_range_refusal_of_one_pod_does_not_hold_its_sibling() {
    let mut world = World::new();
    let refused = hungry(&mut world, &json!({}));
    let demand = Demand { millicores: 20, memory: 100 * MEBIBYTE };
    let sibling = world.pod_of("default", "web", &resources(("24m", "20Mi"), ("1", "1Gi")), demand);
    let name = refused.clone();
    world.refuse = Box::new(move |request| {
        let refusal = Refusal { reason: Reason::LimitRangeViolated, message: "maximum memory".to_owned() };
        (request.action.pod.name == name).then_some(refusal)
    });
    world.run(seconds(600));
    let of = |pod: &str| world.requests.iter().filter(|(_, r)| r.action.pod.name == pod).count();
    assert_eq!((of(&refused), of(&sibling)), (4, 1));
}

// ---------------------------------------------------------------------------------------------------------------------
// A new leader

#[test]
fn new_leader_decreases_nothing_until_it_has_heard_and_then_decides_the_same() {
    let story = |restart: bool| {
        let mut world = World::new();
        world.policy("default", "p", &json!({}));
        world.deployment("default", "web", &too_much(), LITTLE);
        world.run(seconds(50));
        if restart {
            world.start_coordinator();
        }
        world.run(seconds(250));
        let (at, request) = world.requests[0].clone();
        assert_eq!(world.requests.len(), 1);
        (at, request)
    };
    let ((at, expected), (late, found)) = (story(false), story(true));
    assert_eq!(found, expected);
    assert!(at < seconds(75), "{at:?}");
    // 10 s for agents to return, two frames of 15 s
    assert!((seconds(90)..=seconds(101)).contains(&late), "{late:?}");
}

#[test]
fn new_leader_lets_a_resize_of_the_old_one_finish_and_repeats_nothing() {
    let mut world = World::new();
    let pod = hungry(&mut world, &json!({}));
    world.kubelet = Box::new(|_| Reaction::Ignored);
    world.run(seconds(40));
    assert_eq!(world.plans(), [GROWN]);
    world.start_coordinator();
    world.run(seconds(20));
    world.finish(&pod);
    world.run(seconds(600));
    assert_eq!(world.plans(), [GROWN]);
    assert_eq!(world.workload("default", "p").status, WorkloadPhase::Applied);
}

#[test]
fn new_leader_takes_back_what_the_old_one_left_deferred() {
    let mut world = World::new();
    hungry(&mut world, &json!({"updateStrategy": {"deferredDeadline": "60s"}}));
    world.kubelet = Box::new(|_| Reaction::Pending("Deferred"));
    world.run(seconds(40));
    assert_eq!(world.plans(), [GROWN]);
    world.kubelet = unwilling(Reaction::Pending("Deferred"));
    world.start_coordinator();
    let restarted = world.elapsed();
    world.run(seconds(120));
    assert_eq!(world.plans()[..2], [GROWN, TAKEN_BACK]);
    let waited = (world.requests[1].0 - restarted).as_secs();
    assert!((60..=80).contains(&waited), "the deadline starts anew with the new leader: {waited} s");
}

#[test]
fn resize_that_somebody_else_left_pending_is_left_alone() {
    let mut world = World::new();
    let pod = hungry(&mut world, &json!({}));
    world.condition(&pod, "PodResizePending", Some(("Deferred", "no room")));
    world.run(seconds(600));
    assert!(world.plans().is_empty(), "{:?}", world.plans());
    assert_eq!(world.workload("default", "p").reason, "ResizeInFlight");
}

#[test]
fn follower_asks_for_nothing() {
    let mut world = World::new();
    world.policy("default", "p", &json!({}));
    world.deployment("default", "web", &too_much(), LITTLE);
    world.run(seconds(50));
    world.engine.on_leadership(false, world.now);
    assert!(world.engine.tick(world.now + seconds(100)).is_empty());
}

#[test]
fn what_is_used_is_told_of_all_that_is_requested() {
    for (mode, excluded) in
        [("Recommend", json!([])), ("Recommend", json!(["proxy"])), ("Disabled", json!([]))]
    {
        let mut world = World::new();
        let spec = json!({"mode": mode, "selector": {"excludeContainers": excluded}});
        world.policy("default", "p", &spec);
        let owner = json!([{"apiVersion": "example.org/v1", "kind": "Fleet", "name": "f", "uid": "u", "controller": true}]);
        let uses = |millicores, mebibytes: u64| Demand { millicores, memory: mebibytes * MEBIBYTE };
        let resources = json!({"requests": {"cpu": "1", "memory": "512Mi"}});
        world.pod_with(
            "default",
            "f",
            &owner,
            &[("app", &resources, uses(600, 200)), ("proxy", &resources, uses(300, 100))],
        );
        world.run(seconds(150));
        let account = world.status("default", "p").summary.as_ref().unwrap().account.clone().unwrap();
        let said = [account.requested.cpu, account.used.cpu, account.requested.memory, account.used.memory];
        assert_eq!(said, ["2", "900m", "1Gi", "300Mi"], "{mode} {excluded}");
    }
}
