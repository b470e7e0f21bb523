use proptest::prelude::*;

use super::*;
use crate::expression::NoExpressions;
use crate::histogram::UsageHistogram;
use crate::policy::{Factor, ResourceBounds};
use crate::resources::Amounts;

fn evidence(cpu: &[u64], memory_mebibytes: &[u64]) -> Evidence {
    let window = Duration::from_secs(60);
    let mut evidence = Evidence::none(Timestamp::from_unix_seconds(1_800_000_000), window);
    if !cpu.is_empty() {
        let values = UsageHistogram::from_values(1000, cpu.iter().map(|m| m * 10));
        evidence.cpu.entry(1000).or_default().add(&values);
        evidence.recent.cpu.add(&values);
    }
    let memory = UsageHistogram::from_values(1000, memory_mebibytes.iter().map(|m| m * 16));
    evidence.memory.add(&memory);
    evidence.recent.memory.add(&memory);
    evidence.recent.fresh = true;
    evidence.covered = window;
    evidence
}

/// Sizes a container that has `desired` and whose owner declares `declared`.
fn size(
    policy: &Policy,
    evidence: &Evidence,
    declared: Resources,
    desired: Resources,
) -> ContainerRecommendation {
    let container = ContainerFacts { name: "c".into(), desired, declared, ..ContainerFacts::default() };
    recommend(policy, asked(&container, evidence))
}

fn asked<'a>(container: &'a ContainerFacts, evidence: &'a Evidence) -> Asked<'a> {
    Asked {
        container,
        evidence,
        pod: None,
        phase: Phase::Runtime,
        last_resize: None,
        expressions: &NoExpressions,
    }
}

fn resources(request: (u64, u64), limit: (u64, u64)) -> Resources {
    let of = |(cpu, memory): (u64, u64)| Amounts {
        cpu: (cpu > 0).then_some(MilliCpu(cpu)),
        memory: (memory > 0).then_some(Bytes::from_mebibytes(memory)),
    };
    Resources { requests: of(request), limits: of(limit) }
}

fn run(policy: &Policy, declared: Resources, cpu: &[u64], memory: &[u64]) -> ContainerRecommendation {
    size(policy, &evidence(cpu, memory), declared, declared)
}

#[test]
fn before_bounds_the_value_is_the_formula() {
    let r = run(&Policy::default(), resources((1000, 512), (0, 0)), &[100; 10], &[50; 10]);
    assert_eq!((r.cpu.request, r.memory.request), (Some(120), Some(60 << 20)));
    assert_eq!(r.cpu.explain(Resource::Cpu), "percentile 100m > safety factor 120m");
    assert_eq!((r.cpu.limit, r.memory.limit), (None, None));
}

#[test]
fn explanations_show_bytes_that_people_can_read() {
    let steps = vec![
        Step::new(StepKind::Percentile, 16832 << 10, ""),
        Step::new(StepKind::SafetyFactor, 20_683_162, ""),
        Step::new(StepKind::BoundMin, 24 << 20, ""),
    ];
    let sizing = Sizing { request: Some(24 << 20), steps, ..Sizing::default() };
    let text = sizing.explain(Resource::Memory);
    assert_eq!(text, "percentile 16832Ki > safety factor 19.8Mi > min bound 24Mi");
}

#[test]
fn memory_never_falls_below_the_peak() {
    let mut values = vec![20; 99];
    values.push(300);
    let r = run(&Policy::default(), resources((1000, 512), (0, 0)), &[100], &values);
    assert_eq!(r.memory.request, Some(300 << 20));
    assert!(r.memory.steps.iter().any(|s| s.kind == StepKind::PeakFloor));
}

#[test]
fn disjoint_bounds_hold_and_name_both_sides() {
    let bounds = ResourceBounds {
        memory: Range { min: None, max: Some(Bytes::from_mebibytes(64)) },
        ..ResourceBounds::default()
    };
    let r = run(&Policy { bounds, ..Policy::default() }, resources((100, 512), (0, 0)), &[10], &[100]);
    let hold = r.memory.hold.unwrap();
    assert_eq!(hold.reason, Reason::BoundsDisjoint);
    assert_eq!(hold.message, "highest peak as floor 100Mi is above max bound 64Mi");
    assert!(r.cpu.request.is_some());
}

#[test]
fn relative_bounds_anchor_at_what_is_declared() {
    let bounds = ResourceBounds {
        cpu_relative: Range { min: "-20%".parse().ok(), max: "+20%".parse().ok() },
        ..ResourceBounds::default()
    };
    let policy = Policy { bounds, ..Policy::default() };
    let declared = resources((1000, 512), (0, 0));
    let shrunk = resources((800, 512), (0, 0));
    for (usage, expected) in [(10, 800), (900, 1080), (1100, 1200)] {
        let r = size(&policy, &evidence(&[usage], &[50]), declared, shrunk);
        assert_eq!(r.cpu.request, Some(expected), "{usage}");
    }
    let beyond = size(&policy, &evidence(&[5000], &[50]), declared, shrunk);
    assert_eq!(beyond.cpu.hold.map(|h| h.reason), Some(Reason::BoundsDisjoint));
}

#[test]
fn relative_bounds_are_none_without_a_declared_request_and_hold_where_it_is_not_known() {
    let bounds = ResourceBounds {
        cpu_relative: Range { min: "-20%".parse().ok(), max: None },
        ..ResourceBounds::default()
    };
    let policy = Policy { bounds, ..Policy::default() };
    let shrunk = resources((800, 512), (0, 0));
    let used = evidence(&[10], &[50]);
    let r = size(&policy, &used, Resources::default(), shrunk);
    assert_eq!((r.cpu.hold, r.cpu.request), (None, Some(12)));
    let container = ContainerFacts {
        name: "c".into(),
        desired: shrunk,
        declaration_unknown: true,
        ..ContainerFacts::default()
    };
    let r = recommend(&policy, asked(&container, &used));
    assert_eq!(r.cpu.hold.map(|h| h.reason), Some(Reason::NotDeclared));
    assert!(r.memory.request.is_some());
}

#[test]
fn a_limit_that_the_template_does_not_declare_is_kept_and_bounds_the_request() {
    let mut policy = Policy::default();
    policy.update.update_requests_only = false;
    policy.update.cpu_limit = LimitRule::Ratio;
    let (declared, desired) = (resources((100, 64), (0, 0)), resources((100, 64), (200, 0)));
    let r = size(&policy, &evidence(&[900], &[50]), declared, desired);
    assert_eq!((r.cpu.request, r.cpu.limit), (Some(200), None));
}

#[test]
fn limits_keep_their_ratio_only_when_asked() {
    let declared = resources((100, 64), (200, 128));
    let keep = run(&Policy::default(), declared, &[190], &[60]);
    assert_eq!((keep.cpu.request, keep.cpu.limit), (Some(200), None));
    let mut policy = Policy::default();
    policy.update.update_requests_only = false;
    policy.update.cpu_limit = LimitRule::Ratio;
    let ratio = run(&policy, declared, &[190], &[60]);
    assert_eq!((ratio.cpu.request, ratio.cpu.limit), (Some(228), Some(460)));
    assert_eq!((ratio.memory.request, ratio.memory.limit), (Some(72 << 20), Some(144 << 20)));
    let equal = run(&policy, resources((100, 64), (100, 64)), &[95], &[60]);
    assert_eq!((equal.cpu.request, equal.cpu.limit), (Some(120), Some(120)));
}

#[test]
fn without_data_there_is_no_recommendation() {
    let r = run(&Policy::default(), resources((100, 64), (0, 0)), &[], &[50]);
    assert_eq!(r.cpu.hold.map(|h| h.reason), Some(Reason::NoData));
    assert!(r.memory.request.is_some());
}

proptest! {
    #[test]
    fn recommendation_stays_within_bounds(
        values in prop::collection::vec(1..20_000_u64, 1..50),
        min in prop::option::of(1..4000_u64),
        span in prop::option::of(0..4000_u64),
        factor in 100..3000_u32,
        declared in 1..8000_u64,
    ) {
        let max = span.map(|s| min.unwrap_or(1) + s);
        let bounds = ResourceBounds { cpu: Range { min: min.map(MilliCpu), max: max.map(MilliCpu) }, ..ResourceBounds::default() };
        let policy = Policy { bounds, safety_factor: Factor::from_thousandths(factor).unwrap(), ..Policy::default() };
        let r = run(&policy, resources((declared, 64), (0, 0)), &values, &[50]);
        if let Some(request) = r.cpu.request {
            prop_assert!(min.is_none_or(|m| request >= m) && max.is_none_or(|m| request <= m));
            let mean = values.iter().sum::<u64>() / values.len() as u64;
            prop_assert!(request >= mean);
        } else {
            prop_assert_eq!(r.cpu.hold.map(|h| h.reason), Some(Reason::BoundsDisjoint));
        }
    }

    #[test]
    fn repeated_resizes_do_not_ratchet(usage in 1..5000_u64, start in 10..5000_u64) {
        let bounds = ResourceBounds {
            cpu_relative: Range { min: "-20%".parse().ok(), max: "+20%".parse().ok() },
            ..ResourceBounds::default()
        };
        let policy = Policy { bounds, ..Policy::default() };
        let declared = resources((start, 64), (0, 0));
        let mut desired = declared;
        let first = size(&policy, &evidence(&[usage], &[50]), declared, desired).cpu.request;
        for _ in 0..3 {
            let next = size(&policy, &evidence(&[usage], &[50]), declared, desired).cpu.request;
            prop_assert_eq!(next, first);
            desired.requests.cpu = next.map(MilliCpu).or(desired.requests.cpu);
        }
    }
}
