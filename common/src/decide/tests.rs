use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::{Guaranteed, Hpa, MemoryDecrease, Replacement, Share};
use crate::quantity::{Bytes, MilliCpu};
use crate::recommend::{Sizing, StartSize, Step, StepKind};
use crate::resources::{Amounts, NodeFacts, ResizeCondition, qos_class};
use crate::time::Timestamp;

/// Requests and limits in millicores and MiB; 0 = not stated.
pub fn resources(requests: (u64, u64), limits: (u64, u64)) -> Resources {
    let of = |(cpu, memory): (u64, u64)| Amounts {
        cpu: (cpu > 0).then_some(MilliCpu(cpu)),
        memory: (memory > 0).then_some(Bytes::from_mebibytes(memory)),
    };
    Resources { requests: of(requests), limits: of(limits) }
}

pub fn container(name: &str, desired: Resources) -> ContainerFacts {
    ContainerFacts {
        name: name.into(),
        desired,
        declared: desired,
        running: true,
        ..ContainerFacts::default()
    }
}

pub fn pod(desired: Resources) -> PodFacts {
    PodFacts {
        uid: "u".into(),
        namespace: "default".into(),
        name: "p".into(),
        resource_version: "1".into(),
        generation: 1,
        observed_generation: Some(1),
        running: true,
        ready: true,
        node: Some(NodeFacts { name: "n".into(), ready: true, ..NodeFacts::default() }),
        containers: vec![container("c", desired)],
        ..PodFacts::default()
    }
}

/// A plan that changes `c`; a decrease when it asks for less CPU.
pub fn container_plan(from: Resources, to: Resources) -> Plan {
    let direction =
        if to.requests.cpu < from.requests.cpu { Direction::Decrease } else { Direction::Increase };
    let change = ContainerChange { container: "c".into(), sidecar: false, to, from, restarts: false };
    Plan { direction, changes: vec![change] }
}

fn sizing(request: u64, limit: Option<u64>) -> Sizing {
    let steps = vec![Step::new(StepKind::Percentile, request, "")];
    Sizing { request: Some(request), limit, steps, ..Sizing::default() }
}

/// Recommendation in millicores and MiB.
fn size(cpu: (u64, Option<u64>), memory: (u64, Option<u64>)) -> ContainerRecommendation {
    ContainerRecommendation {
        container: "c".into(),
        cpu: sizing(cpu.0, cpu.1),
        memory: sizing(memory.0 << 20, memory.1.map(|m| m << 20)),
        evidence: EvidenceSummary {
            window: Duration::from_secs(100),
            covered: Duration::from_secs(100),
            cpu_samples: 100,
            memory_samples: 100,
            memory_recent_peak: Bytes::from_mebibytes(20),
            fresh: true,
            ..EvidenceSummary::default()
        },
    }
}

fn auto() -> Policy {
    Policy { mode: Mode::Auto, ..Policy::default() }
}

fn now() -> Circumstances {
    Circumstances::at(Timestamp::from_unix_seconds(10_000))
}

fn plan(decision: &Decision) -> String {
    match decision {
        Decision::Resize { plan, .. } => plan.to_string(),
        other => panic!("{other}"),
    }
}

fn reasons(decision: &Decision) -> Vec<Reason> {
    match decision {
        Decision::Hold { held, .. } => held.iter().map(|h| h.reason).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn over_asking_pod_shrinks_requests_only() {
    let decision =
        decide(&auto(), &pod(resources((1000, 512), (0, 0))), &[size((120, None), (24, None))], &now());
    assert_eq!(plan(&decision), "c: cpu request 1 > 120m, memory request 512Mi > 24Mi");
}

#[test]
fn decreases_come_before_increases_in_a_plan_of_their_own() {
    let wants = [size((400, None), (24, None))];
    let mut pod = pod(resources((100, 512), (0, 0)));
    let first = decide(&auto(), &pod, &wants, &now());
    assert_eq!(plan(&first), "c: memory request 512Mi > 24Mi");
    pod.containers[0].desired = resources((100, 24), (0, 0));
    pod.last_resize = Some(now().now);
    assert_eq!(plan(&decide(&auto(), &pod, &wants, &now())), "c: cpu request 100m > 400m");
}

#[test]
fn limits_move_with_requests_when_recommended() {
    let pod = pod(resources((100, 64), (200, 128)));
    let decision = decide(&auto(), &pod, &[size((240, Some(480)), (64, Some(128)))], &now());
    assert_eq!(plan(&decision), "c: cpu request 100m > 240m, cpu limit 200m > 480m");
}

#[test]
fn a_limit_that_was_not_declared_is_never_added() {
    let pod = pod(resources((100, 64), (0, 0)));
    let decision = decide(&auto(), &pod, &[size((240, Some(480)), (64, Some(128)))], &now());
    assert_eq!(plan(&decision), "c: cpu request 100m > 240m");
}

#[test]
fn every_pod_guard_has_its_reason() {
    type Change = (Reason, fn(&mut Policy, &mut PodFacts, &mut Circumstances));
    let cases: &[Change] = &[
        (Reason::ModeDisabled, |policy, _, _| policy.mode = Mode::Disabled),
        (Reason::ModeRecommend, |policy, _, _| policy.mode = Mode::Recommend),
        (Reason::DryRun, |_, _, at| at.dry_run = true),
        (Reason::ConcurrencyLimit, |_, _, at| at.slot_free = false),
        (Reason::ProtectedNamespace, |_, _, at| at.protected_namespace = true),
        (Reason::SystemCritical, |_, pod, _| pod.priority = 2_000_001_000),
        (Reason::StaticPod, |_, pod, _| pod.mirror = true),
        (Reason::WindowsPod, |_, pod, _| pod.windows = true),
        (Reason::PodTerminating, |_, pod, _| pod.terminating = true),
        (Reason::PodNotRunning, |_, pod, _| pod.running = false),
        (Reason::PodLevelResources, |_, pod, _| pod.pod_level_resources = true),
        (Reason::NodeNotReady, |_, pod, _| pod.node = None),
        (Reason::NodeNotReady, |_, pod, _| pod.node.as_mut().unwrap().ready = false),
        (Reason::NodeCordoned, |_, pod, _| pod.node.as_mut().unwrap().cordoned = true),
        (Reason::ForeignResizer, |_, pod, _| pod.foreign_resizer = Some("vpa".into())),
        (Reason::InPlaceNotAllowed, |policy, _, _| policy.update.allow_in_place_resize = false),
        (Reason::ResizeInFlight, |_, _, at| at.in_flight = true),
        (Reason::ResizeInFlight, |_, pod, _| {
            pod.pending = Some(ResizeCondition {
                reason: "Deferred".into(),
                message: "no room".into(),
                observed_generation: None,
            });
        }),
        (Reason::BackingOff, |_, _, at| {
            let until = at.now + Duration::from_secs(5);
            at.backoff = Some(Backoff { until, reason: Reason::ResizeInfeasible, message: "swap".into() });
        }),
    ];
    for (reason, change) in cases {
        let (mut policy, mut pod, mut at) = (auto(), pod(resources((1000, 512), (0, 0))), now());
        change(&mut policy, &mut pod, &mut at);
        let decision = decide(&policy, &pod, &[size((120, None), (24, None))], &at);
        assert_eq!(reasons(&decision).first(), Some(reason));
    }
}

#[test]
fn every_resource_guard_has_its_reason() {
    type Change = (Reason, fn(&mut Policy, &mut PodFacts, &mut ContainerRecommendation, &mut Circumstances));
    let cases: &[Change] = &[
        (Reason::CoordinatorStarting, |_, _, _, at| at.starting = true),
        (Reason::InsufficientCoverage, |_, _, size, _| size.evidence.covered = Duration::from_secs(49)),
        (Reason::InsufficientCoverage, |_, _, size, _| size.evidence.fresh = false),
        (Reason::CooldownActive, |_, pod, _, at| pod.last_resize = Some(at.now - Duration::from_secs(599))),
        (Reason::ReplacementSizeUnknown, |policy, _, _, _| policy.replacement = Replacement::Known),
        (Reason::MemoryDecreaseForbidden, |policy, _, _, _| {
            policy.update.memory_decrease = MemoryDecrease::Never;
        }),
        (Reason::NodeMemoryPressure, |_, pod, _, _| pod.node.as_mut().unwrap().memory_pressure = true),
        (Reason::MemoryRising, |_, _, size, _| size.evidence.memory_rising = true),
        (Reason::MemoryInUse, |_, _, size, _| {
            size.memory.limit = Some(30 << 20);
            size.evidence.memory_recent_peak = Bytes::from_mebibytes(28);
        }),
        (Reason::RestartRequired, |_, pod, _, _| pod.containers[0].memory_restarts = true),
        (Reason::ResourceCoupled, |_, pod, _, _| pod.containers[0].memory_coupled = true),
        (Reason::HpaControlsResource, |_, _, _, at| {
            at.hpa = vec![Followed { resource: Resource::Memory, target: Some(80) }];
        }),
        (Reason::ChangeTooSmall, |_, _, size, _| size.memory = sizing(500 << 20, None)),
        (Reason::BoundsDisjoint, |_, _, size, _| {
            size.memory.hold = Some(Hold::of_resource(Reason::BoundsDisjoint, "c", Resource::Memory, "x"));
        }),
        (Reason::NotDeclared, |_, pod, _, _| pod.containers[0].desired.requests.memory = None),
    ];
    for (reason, change) in cases {
        // CPU already fits, so that memory alone decides
        let (mut policy, mut pod, mut at) = (auto(), pod(resources((120, 512), (500, 512))), now());
        let mut wanted = size((120, None), (24, None));
        change(&mut policy, &mut pod, &mut wanted, &mut at);
        let decision = decide(&policy, &pod, &[wanted], &at);
        assert!(reasons(&decision).contains(reason), "{reason}: {decision:?}");
    }
}

#[test]
fn recommend_mode_says_what_it_would_do() {
    let policy = Policy { mode: Mode::Recommend, ..auto() };
    let decision =
        decide(&policy, &pod(resources((1000, 512), (0, 0))), &[size((120, None), (24, None))], &now());
    let Decision::Hold { held, would: Some(would) } = decision else { panic!("no preview") };
    assert_eq!(held[0].message, format!("would change {would}"));
}

#[test]
fn qos_class_never_changes() {
    let wanted = [size((120, Some(120)), (24, Some(24)))];
    let guaranteed = decide(&auto(), &pod(resources((200, 64), (200, 64))), &wanted, &now());
    assert_eq!(reasons(&guaranteed), [Reason::GuaranteedMovesLimits, Reason::GuaranteedMovesLimits]);
    let best_effort = decide(&auto(), &pod(Resources::default()), &wanted, &now());
    assert_eq!(reasons(&best_effort), [Reason::BestEffortImmutable, Reason::BestEffortImmutable]);
    // a request that reaches the limit of every resource would make it Guaranteed
    let wanted = [size((200, None), (64, None))];
    let burstable = decide(&auto(), &pod(resources((100, 64), (200, 64))), &wanted, &now());
    assert_eq!(plan(&burstable), "c: cpu request 100m > 199m", "one grain keeps the class");
    let mut any = auto();
    any.update.min_change = Share::from_percent("0%").ok();
    let nothing_left = decide(&any, &pod(resources((199, 64), (200, 64))), &wanted, &now());
    assert!(reasons(&nothing_left).contains(&Reason::QosWouldChange));
    // a limit that falls to its request, too
    let lower = [size((100, Some(100)), (64, Some(64)))];
    let falling = decide(&auto(), &pod(resources((100, 64), (200, 64))), &lower, &now());
    assert_eq!(plan(&falling), "c: cpu limit 200m > 110m");
}

fn emergency(decision: &Decision) -> bool {
    matches!(decision, Decision::Resize { grounds: Grounds { emergency: true, .. }, .. })
}

#[test]
fn an_emergency_raises_what_ends_the_harm_and_nothing_else() {
    let mut wanted = size((240, Some(480)), (128, None));
    let container = pod(resources((100, 64), (200, 1000)));
    assert_eq!(
        plan(&decide(&auto(), &container, &[wanted.clone()], &now())),
        "c: cpu request 100m > 240m, memory request 64Mi > 128Mi, cpu limit 200m > 480m"
    );
    wanted.evidence.throttled_now = 300;
    let late = Circumstances { slot_free: false, shadow: Some("version 2".into()), ..now() };
    let throttled = decide(&auto(), &container, &[wanted.clone()], &late);
    assert!(emergency(&throttled));
    assert_eq!(plan(&throttled), "c: cpu request 100m > 240m, cpu limit 200m > 480m");
    // no request lifts throttling
    wanted.cpu.limit = None;
    wanted.cpu.request = Some(200);
    let request_only = decide(&auto(), &container, &[wanted.clone()], &now());
    assert!(!emergency(&request_only));
    assert_eq!(plan(&request_only), "c: cpu request 100m > 200m, memory request 64Mi > 128Mi");
    assert_eq!(reasons(&decide(&auto(), &container, &[wanted.clone()], &late))[0], Reason::StrategyShadow);
    wanted.memory.steps.push(Step::new(StepKind::OomFloor, 128 << 20, ""));
    let killed = decide(&auto(), &container, &[wanted], &late);
    assert!(emergency(&killed));
    assert_eq!(plan(&killed), "c: memory request 64Mi > 128Mi");
}

fn starting(cpu: StartSize) -> ContainerRecommendation {
    let mut wanted = size((120, None), (64, None));
    wanted.cpu.boost = Some(cpu);
    wanted.evidence.starting = true;
    wanted
}

#[test]
fn a_start_raises_the_limit_and_the_request_only_where_the_node_has_it_free() {
    let boost = StartSize { request: 600, limit: Some(2000) };
    let mut pod = pod(resources((400, 64), (1000, 128)));
    let both = "c: cpu request 400m > 600m, cpu limit 1 > 2";
    for (free, expected) in
        [(None, "c: cpu limit 1 > 2"), (Some(100), "c: cpu limit 1 > 2"), (Some(200), both)]
    {
        let free = free.map(|cpu| Amounts { cpu: Some(MilliCpu(cpu)), memory: None });
        pod.node.as_mut().unwrap().free = free;
        assert_eq!(plan(&decide(&auto(), &pod, &[starting(boost)], &now())), expected, "{free:?}");
    }
    // what the first container takes, the second does not find
    pod.containers.push(container("d", resources((400, 64), (1000, 128))));
    let second = ContainerRecommendation { container: "d".into(), ..starting(boost) };
    let shared = decide(&auto(), &pod, &[starting(boost), second], &now());
    assert_eq!(plan(&shared), format!("{both}; d: cpu limit 1 > 2"));
}

#[test]
fn what_a_start_added_is_taken_back_step_by_step_with_every_guard_but_time() {
    let mut policy = auto();
    policy.update.max_step.down = "30%".parse().ok();
    let mut pod = pod(resources((1000, 512), (4000, 1024)));
    pod.containers[0].declared = resources((400, 256), (1000, 512));
    (pod.boosted, pod.last_resize) = (true, Some(now().now));
    let mut wanted = size((120, Some(1000)), (64, Some(512)));
    wanted.evidence.covered = Duration::ZERO;
    wanted.evidence.memory_recent_peak = Bytes::from_mebibytes(600);
    let mut steps = Vec::new();
    while let Decision::Resize { plan, .. } = decide(&policy, &pod, &[wanted.clone()], &now()) {
        pod.containers[0].desired = pod.containers[0].desired.overlaid(plan.changes[0].to);
        steps.push(plan.to_string());
    }
    assert_eq!(steps[0], "c: cpu request 1 > 700m, cpu limit 4 > 2800m", "memory is in use");
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert_eq!(pod.containers[0].desired, resources((400, 512), (1000, 1024)));
    wanted.evidence.memory_recent_peak = Bytes::from_mebibytes(200);
    policy.update.max_step.down = None;
    let back = decide(&policy, &pod, &[wanted], &now());
    assert_eq!(plan(&back), "c: memory request 512Mi > 256Mi, memory limit 1Gi > 512Mi");
}

#[test]
fn one_number_stays_one_on_the_way() {
    let mut policy = Policy { guaranteed: Guaranteed::MoveTogether, ..auto() };
    policy.update.max_step.down = "30%".parse().ok();
    let wanted = [size((100, Some(100)), (64, Some(64)))];
    let decision = decide(&policy, &pod(resources((490, 64), (490, 64))), &wanted, &now());
    assert_eq!(plan(&decision), "c: cpu request 490m > 350m, cpu limit 490m > 350m");
}

#[test]
fn an_autoscalers_target_is_kept_within_the_limit_that_belongs_to_the_request() {
    let policy = Policy { hpa: Hpa::KeepUtilisation, ..auto() };
    let mut at = now();
    at.hpa = vec![Followed { resource: Resource::Cpu, target: Some(50) }];
    let pod = pod(resources((100, 64), (200, 1000)));
    let mut wanted = size((120, None), (64, None));
    wanted.evidence.cpu_mean = MilliCpu(150);
    assert_eq!(plan(&decide(&policy, &pod, &[wanted.clone()], &at)), "c: cpu request 100m > 200m");
    wanted.cpu.limit = Some(240);
    wanted.cpu.steps.push(Step::new(StepKind::LimitRatio, 240, ""));
    let ratio = decide(&policy, &pod, &[wanted], &at);
    assert_eq!(plan(&ratio), "c: cpu request 100m > 300m, cpu limit 200m > 600m");
}

#[test]
fn an_autoscaler_gets_the_declared_size_back_whatever_the_recommendation() {
    let mut at = now();
    at.hpa = vec![Followed { resource: Resource::Cpu, target: Some(50) }];
    let mut pod = pod(resources((100, 64), (0, 0)));
    pod.containers[0].declared = resources((400, 64), (0, 0));
    let mut wanted = size((120, None), (64, None));
    wanted.cpu.hold = Some(Hold::of_resource(Reason::BoundsDisjoint, "c", Resource::Cpu, "x"));
    assert_eq!(plan(&decide(&auto(), &pod, &[wanted.clone()], &at)), "c: cpu request 100m > 400m");
    pod.containers[0].desired = pod.containers[0].declared;
    assert!(reasons(&decide(&auto(), &pod, &[wanted], &at)).contains(&Reason::HpaControlsResource));
}

#[test]
fn an_expired_backoff_does_not_hold() {
    let mut at = now();
    at.backoff = Some(Backoff { until: at.now, reason: Reason::Conflict, message: String::new() });
    let decision =
        decide(&auto(), &pod(resources((1000, 512), (0, 0))), &[size((120, None), (24, None))], &at);
    assert!(matches!(decision, Decision::Resize { .. }));
}

#[test]
fn an_unknown_container_is_no_plan() {
    let mut other = size((120, None), (24, None));
    other.container = "gone".into();
    let decision = decide(&auto(), &pod(resources((1000, 512), (0, 0))), &[other], &now());
    assert_eq!(reasons(&decision), [Reason::NoData]);
}

proptest! {
    #[test]
    fn plans_are_valid_resizes(
        request in (1..4000_u64, 1..2000_u64),
        limit_over in (prop::option::of(0..4000_u64), prop::option::of(0..2000_u64)),
        wanted in (1..4000_u64, 1..2000_u64),
        wanted_over in (prop::option::of(0..4000_u64), prop::option::of(0..2000_u64)),
    ) {
        let limits = (limit_over.0.map_or(0, |o| request.0 + o), limit_over.1.map_or(0, |o| request.1 + o));
        let mut pod = pod(resources(request, limits));
        let cap = |value: u64, limit: u64, over: Option<u64>| if limit > 0 && over.is_none() { value.min(limit) } else { value };
        let wanted = (cap(wanted.0, limits.0, wanted_over.0), cap(wanted.1, limits.1, wanted_over.1));
        let size = size((wanted.0, wanted_over.0.map(|o| wanted.0 + o)), (wanted.1, wanted_over.1.map(|o| wanted.1 + o)));
        let class = qos_class([&pod.containers[0].desired]);
        // at most two steps reach the target or a reason; each step is something the API server accepts
        for _ in 0..2 {
            let Decision::Resize { plan, .. } = decide(&auto(), &pod, std::slice::from_ref(&size), &now()) else { break };
            let change = &plan.changes[0];
            let before = pod.containers[0].desired;
            let after = before.overlaid(change.to);
            prop_assert_eq!(qos_class([&after]), class);
            prop_assert!(after.limits.cpu.is_none_or(|l| after.requests.cpu.is_none_or(|r| r <= l)), "{:?}", after);
            prop_assert!(after.limits.memory.is_none_or(|l| after.requests.memory.is_none_or(|r| r <= l)), "{:?}", after);
            prop_assert_eq!(after.limits.cpu.is_some(), before.limits.cpu.is_some());
            prop_assert_eq!(before.overlaid(change.from), before);
            pod.containers[0].desired = after;
        }
    }
}
