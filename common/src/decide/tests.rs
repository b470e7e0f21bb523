use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::{MemoryDecrease, Replacement};
use crate::quantity::{Bytes, MilliCpu};
use crate::recommend::{Sizing, Step, StepKind};
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
    Plan { direction, changes: vec![ContainerChange { container: "c".into(), sidecar: false, to, from }] }
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
    let burstable =
        decide(&auto(), &pod(resources((100, 64), (200, 64))), &[size((200, None), (64, None))], &now());
    assert!(reasons(&burstable).contains(&Reason::QosWouldChange));
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
