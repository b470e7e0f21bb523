//! What a policy can ask for beside a percentile, through the real engine: strategies, start-up, weeks, pods one by one,
//! windows and steps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]
#![allow(clippy::indexing_slicing, reason = "a missing element fails the test")]
#![allow(clippy::unchecked_time_subtraction, reason = "time that runs backwards fails the test")]

mod support;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test target uses a part")]
mod world;

use std::time::Duration;

use optipod_coordinator::index::Change;
use serde_json::{Value, json};

use support::applied;
use world::{Demand, MEBIBYTE, World};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn uses(millicores: u64, mebibytes: u64) -> Demand {
    Demand { millicores, memory: mebibytes * MEBIBYTE }
}

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": "2", "memory": "1Gi"}})
}

/// One Deployment under one policy. Returns its pod.
fn deploy(world: &mut World, policy: &Value, resources: &Value, demand: Demand) -> String {
    world.policy("default", "p", policy);
    world.deployment("default", "web", resources, demand)
}

/// Takes no notice of time until `time` later.
fn skip(world: &mut World, time: Duration) {
    world.now = world.now + time;
    world.run(seconds(1));
}

#[test]
fn adaptive_shrinks_with_its_margin_and_raises_within_a_frame() {
    let mut world = World::new();
    let pod = deploy(
        &mut world,
        &json!({"strategy": {"type": "Adaptive"}, "updateStrategy": {"minChange": "5%"}}),
        &resources("1", "512Mi"),
        uses(20, 100),
    );
    world.run(seconds(120));
    assert_eq!(world.plans(), ["app: cpu request 1 > 21m, memory request 512Mi > 105Mi"]);
    world.demand(&pod, uses(400, 100));
    world.run(seconds(30));
    assert_eq!(world.plans()[1..], ["app: cpu request 21m > 460m"]);
    world.demand(&pod, uses(20, 100));
    world.run(seconds(500));
    assert_eq!(world.plans().len(), 2, "a raise stands for ten minutes: {:?}", world.plans());
}

#[test]
fn threshold_raises_at_once_and_lowers_after_its_cooldown() {
    let mut world = World::new();
    let strategy = json!({"type": "Threshold", "threshold": {"cooldown": "5m"}});
    let policy = json!({"strategy": strategy, "updateStrategy": {"resources": ["cpu"]}});
    let pod = deploy(&mut world, &policy, &resources("500m", "512Mi"), uses(450, 100));
    world.run(seconds(90));
    assert_eq!(world.plans(), ["app: cpu request 500m > 630m"]);
    let raised = world.requests[0].0;
    world.demand(&pod, uses(50, 100));
    world.run(seconds(900));
    assert_eq!(world.plans()[1..], ["app: cpu request 630m > 128m"]);
    let waited = (world.requests[1].0 - raised).as_secs();
    assert!((300..600).contains(&waited), "{waited} s");
}

#[test]
fn expression_sizes_by_the_formula_of_the_policy() {
    let mut world = World::new();
    let formula = json!({"cpu": "cpu.p(95) * 2.0 + 0.01", "memory": "memory.peak * 1.5"});
    let policy = json!({"strategy": {"type": "Expression", "expression": formula}});
    deploy(&mut world, &policy, &resources("1", "512Mi"), uses(20, 100));
    world.run(seconds(120));
    assert_eq!(world.plans(), ["app: cpu request 1 > 50m, memory request 512Mi > 150Mi"]);
}

/// The pod's container started now, and is not ready.
fn start(world: &mut World, pod: &str) {
    let at = time(world);
    world.change(pod, |json| {
        json["status"]["containerStatuses"][0]["state"] = json!({"running": {"startedAt": at}});
        json["status"]["conditions"] =
            json!([{"type": "Ready", "status": "False", "lastTransitionTime": at}]);
    });
}

fn ready(world: &mut World, pod: &str) {
    let at = time(world);
    world.change(pod, |json| {
        json["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
    });
}

fn time(world: &World) -> String {
    let at = k8s_openapi::jiff::Timestamp::from_microsecond(world.now.unix_micros()).unwrap();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[test]
fn start_up_is_boosted_and_the_boost_is_taken_back() {
    boosted_and_back(false);
    boosted_and_back(true);
}

/// The node has room, so that the request is raised too.
fn make_room(to: &mut World) {
    let node = json!({
        "metadata": {"name": world::NODE},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"cpu": "8", "memory": "16Gi"},
        },
    });
    to.put(Change::Nodes(applied(&node)));
}

fn boosted_and_back(room: bool) {
    let mut world = World::new();
    if room {
        make_room(&mut world);
    }
    let policy = json!({"startup": {"boost": {"cpu": "3x"}}, "updateStrategy": {"resources": ["cpu"]}});
    world.policy("default", "p", &policy);
    // what one pod uses at runtime is known
    let old = world.deployment("default", "web", &resources("24m", "512Mi"), uses(20, 100));
    world.run(seconds(90));
    assert_eq!(world.plans(), [""; 0]);
    let pod = world.pod_of("default", "web", &resources("24m", "512Mi"), uses(20, 100));
    start(&mut world, &pod);
    world.run(seconds(60));
    let boosted = if room { "app: cpu request 24m > 72m, cpu limit 2 > 6" } else { "app: cpu limit 2 > 6" };
    assert_eq!(world.plans(), [boosted]);
    assert_eq!(world.requests[0].1.action.pod.name, pod);
    ready(&mut world, &pod);
    world.run(seconds(120));
    let back = if room { "app: cpu request 72m > 24m, cpu limit 6 > 2" } else { "app: cpu limit 6 > 2" };
    assert_eq!(world.plans()[1..], [back]);
    assert_ne!(old, pod);
}

#[test]
fn start_up_is_boosted_to_what_earlier_starts_needed() {
    let mut world = World::new();
    make_room(&mut world);
    let policy = json!({"startup": {"boost": {"cpu": "learned"}}, "updateStrategy": {"resources": ["cpu"]}});
    world.policy("default", "p", &policy);
    let first = world.deployment("default", "web", &resources("24m", "512Mi"), uses(500, 100));
    start(&mut world, &first);
    world.run(seconds(45));
    ready(&mut world, &first);
    world.demand(&first, uses(20, 100));
    world.run(seconds(240));
    let before = world.plans();
    let second = world.pod_of("default", "web", &resources("24m", "512Mi"), uses(20, 100));
    start(&mut world, &second);
    world.run(seconds(30));
    let boosted: Vec<_> =
        world.requests.iter().filter(|(_, request)| request.action.pod.name == second).collect();
    assert_eq!(boosted[0].1.action.plan.to_string(), "app: cpu request 24m > 500m", "after {before:?}");
}

#[test]
fn hour_of_the_week_holds_decreases_and_a_repeated_burst_is_raised_for() {
    let mut world = World::new();
    let pod = world.deployment("default", "web", &resources("400m", "512Mi"), uses(300, 100));
    let cpu = |more: Value| {
        let mut policy = more;
        policy["updateStrategy"] = json!({"resources": ["cpu"], "cooldown": "0s"});
        policy
    };
    world.run(seconds(120));
    world.demand(&pod, uses(20, 100));
    // the same hour a week later
    skip(&mut world, 7 * DAY - seconds(121));
    world.policy("default", "p", &cpu(json!({})));
    world.run(seconds(150));
    assert_eq!(world.plans(), ["app: cpu request 400m > 300m"]);
    // three hours later nothing holds it
    skip(&mut world, seconds(3 * 3600));
    world.run(seconds(150));
    assert_eq!(world.plans()[1..], ["app: cpu request 300m > 24m"]);
    world.delete_policy("default", "p");
    // a second week with the burst, and the third is raised for before it comes
    world.demand(&pod, uses(250, 100));
    skip(&mut world, 7 * DAY - seconds(3 * 3600 + 301));
    world.run(seconds(120));
    world.demand(&pod, uses(20, 100));
    skip(&mut world, 7 * DAY - seconds(3600));
    world.policy("default", "p", &cpu(json!({"anticipate": true})));
    world.run(seconds(60));
    assert_eq!(world.plans()[2..], ["app: cpu request 24m > 250m"]);
}

#[test]
fn with_scope_pod_the_hot_pod_has_more_and_its_siblings_do_not() {
    // a hot pod has the policy's factor above what it uses itself; no pod has less than the workload
    for (scope, expected) in [("Pod", ["420m", "480m"]), ("Workload", ["420m", "420m"])] {
        let mut world = World::new();
        let policy = json!({
            "scope": scope, "strategy": {"type": "Adaptive"}, "metricsConfig": {"percentile": "P50"},
            "updateStrategy": {"resources": ["cpu"]},
        });
        let cold = deploy(&mut world, &policy, &resources("1", "512Mi"), uses(25, 100));
        for _ in 0..2 {
            world.pod_of("default", "web", &resources("1", "512Mi"), uses(25, 100));
        }
        let hot = world.pod_of("default", "web", &resources("1", "512Mi"), uses(400, 100));
        world.run(seconds(300));
        let request =
            |pod: &str| world.pods[pod].json["spec"]["containers"][0]["resources"]["requests"]["cpu"].clone();
        assert_eq!([request(&cold), request(&hot)], expected, "{scope}: {:?}", world.plans());
        let told = &world.recommendations.values().next().unwrap().containers[0].explanation;
        assert_eq!(told.contains("cpu of 4 pods"), scope == "Pod", "{told}");
    }
}

#[test]
fn decreases_wait_for_their_window_and_increases_do_not() {
    let mut world = World::new();
    // it is Friday, 08:00 UTC
    let window =
        json!({"days": ["Fri"], "from": "09:00", "to": "10:00", "timeZone": "UTC", "allow": "Decrease"});
    let policy = json!({"updateStrategy": {"windows": [window]}});
    deploy(&mut world, &policy, &resources("1", "64Mi"), uses(20, 100));
    world.run(seconds(300));
    assert_eq!(world.plans(), ["app: memory request 64Mi > 120Mi"]);
    assert_eq!(world.workload("default", "p").reason, "OutsideWindow");
    skip(&mut world, seconds(3600));
    world.run(seconds(150));
    assert_eq!(world.plans()[1..], ["app: cpu request 1 > 24m"]);
}

#[test]
fn sizes_move_by_one_step_at_a_time() {
    let mut world = World::new();
    let steps = json!({"maxStep": {"up": "100%", "down": "50%"}, "resources": ["cpu"]});
    let pod = deploy(&mut world, &json!({"updateStrategy": steps}), &resources("1", "512Mi"), uses(150, 100));
    world.run(seconds(180));
    let to: Vec<String> =
        world.plans().iter().map(|plan| plan.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(to, ["500m", "250m", "180m"]);
    world.demand(&pod, uses(1500, 100));
    world.run(seconds(120));
    let plans = world.plans();
    let to: Vec<&str> = plans[3..].iter().map(|plan| plan.rsplit(' ').next().unwrap()).collect();
    assert_eq!(to[..3], ["360m", "720m", "1440m"], "{plans:?}");
}

#[test]
fn nothing_shrinks_while_a_rollout_has_pods_of_two_revisions() {
    for label in ["rollouts-pod-template-hash", "pod-template-hash", "controller-revision-hash"] {
        let mut world = World::new();
        let old = deploy(&mut world, &json!({}), &resources("1", "512Mi"), uses(20, 100));
        let new = world.pod_of("default", "web", &resources("1", "512Mi"), uses(20, 100));
        for (pod, revision) in [(&old, "v1"), (&new, "v2")] {
            world.change(pod, |json| json["metadata"]["labels"] = json!({label: revision}));
        }
        world.run(seconds(180));
        assert_eq!(world.plans(), [""; 0], "{label}");
        assert_eq!(world.workload("default", "p").reason, "OwnerProgressing", "{label}");
        world.delete(&old);
        world.run(seconds(120));
        assert_eq!(world.plans().len(), 1, "{label}");
    }
}
