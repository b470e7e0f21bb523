use proptest::prelude::*;

use super::*;
use crate::adaptive::Adaptive;
use crate::expression::NoExpressions;
use crate::histogram::UsageHistogram;
use crate::policy::{Boost, Factor, Guaranteed, Objective, ResourceBounds, Scope, Strategy};
use crate::resources::{Amounts, LanguageRuntime};
use crate::store::{Hottest, Others, ThrottleEvidence};
use crate::time::Timestamp;

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
        resized: false,
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
    assert_eq!(
        r.cpu.explain(Resource::Cpu),
        "percentile 100m (P90 of 10 values) > safety factor 120m (times 1.2)"
    );
    assert_eq!((r.cpu.limit, r.memory.limit), (None, None));
}

/// Pairs 77 and 80 of VPA's unit tests: the declared ratio stays. VPA has limits of 1333m and 133 there; limits of CPU are
/// multiples of 10m here, those of memory whole mebibytes, rounded up.
#[test]
fn limits_keep_the_declared_ratio_as_those_of_vpa() {
    let mut policy = moving(LimitRule::Ratio);
    policy.update.memory_limit = LimitRule::Ratio;
    policy.safety_factor = factor(1000);
    let declared = resources((1000, 512), (2000, 512));
    let cpu = run(&policy, declared, &[10_000], &[100]).cpu;
    // one value of 10 cores, within the two digits of a histogram
    let (request, limit) = (cpu.request.unwrap(), cpu.limit.unwrap());
    assert!(request.abs_diff(10_000) <= 80 && limit.abs_diff(request * 2) < 10, "{request} and {limit}");
    let declared = resources((1500, 150), (2000, 200));
    let sizes = run(&policy, declared, &[1000], &[100]);
    let (request, limit) = (sizes.cpu.request.unwrap(), sizes.cpu.limit.unwrap());
    assert_eq!(limit, (request * 2000).div_ceil(1500).next_multiple_of(10));
    assert_eq!(sizes.memory.limit, Some(134 << 20));
}

/// Pair 82 of VPA's unit tests: a recommendation below the minimum is the minimum, one above the maximum the maximum.
#[test]
fn recommendations_are_capped_as_those_of_vpa() {
    let mebibytes = |amount| Some(Bytes::from_mebibytes(amount));
    let bounds = ResourceBounds {
        cpu: Range { min: Some(MilliCpu(40)), max: Some(MilliCpu(45)) },
        memory: Range { min: mebibytes(40), max: mebibytes(45) },
        ..ResourceBounds::default()
    };
    let policy = Policy { bounds, safety_factor: factor(1000), ..Policy::default() };
    let declared = resources((1000, 512), (0, 0));
    let low = run(&policy, declared, &[30], &[42]);
    assert_eq!((low.cpu.request, low.memory.request), (Some(40), Some(42 << 20)));
    // the mean, which is a floor, is below the maximum
    let spiky = [vec![1; 88], vec![300; 12]].concat();
    assert_eq!(run(&policy, declared, &spiky, &[42]).cpu.request, Some(45));
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
fn a_new_revision_begins_with_what_adaptive_gave_the_one_before() {
    let mut policy = Policy { strategy: Strategy::Adaptive(Objective::Balanced), ..Policy::default() };
    let mut evidence = Evidence::none(Timestamp::from_unix_seconds(1_800_000_000), Duration::from_secs(60));
    let mut before = Adaptive::new(Resource::Cpu);
    // a hot pod: its peak is in no percentile of the merged use
    before.observe(evidence.now, 9000);
    let mut others = Others { cpu_adaptive: vec![before], ..Others::default() };
    others.cpu.entry(1000).or_default().add(&UsageHistogram::from_values(1000, [100; 50]));
    evidence.others = Some(Box::new(others));
    let declared = resources((2000, 512), (0, 0));
    let cpu = |policy: &Policy| size(policy, &evidence, declared, declared).cpu;
    assert_eq!(
        cpu(&policy).explain(Resource::Cpu),
        "what other pods needed 945m (another revision or kind of node may raise, never lower)"
    );
    policy.strategy = Strategy::Percentile;
    assert_eq!(
        cpu(&policy).explain(Resource::Cpu),
        "what other pods needed 12m (another revision or kind of node may raise, never lower)"
    );
}

#[test]
fn with_scope_pod_a_hot_pod_has_more_and_no_other_less() {
    // ninety-nine pods at 100m and 50 MiB, one at 1000m and 500 MiB
    let use_of = |cpu: u64, memory: u64| {
        let mut pod = PodUse { memory: memory * 16, ..PodUse::default() };
        pod.cpu.add(&UsageHistogram::from_values(1000, [cpu * 10]));
        pod
    };
    let shares = |of: [u64; 2]| [vec![of[0]; 99], vec![of[1]]].concat();
    let mut evidence = evidence(&shares([100, 1000]), &shares([50, 500]));
    evidence.hottest = Some(Hottest { cpu: ("hot".into(), 10_000), memory: ("hot".into(), 8000), pods: 100 });
    evidence.cpu_adaptive.observe(evidence.now, 10_000);
    evidence.memory_adaptive.observe(evidence.now, 8000);
    let declared = resources((2000, 1024), (0, 0));
    let container =
        ContainerFacts { name: "c".into(), desired: declared, declared, ..ContainerFacts::default() };
    let strategies = [Strategy::Percentile, Strategy::Adaptive(Objective::Balanced)];
    for (strategy, scope, pod, expected) in [
        (0, Scope::Workload, Some(use_of(100, 50)), (122, 500)),
        (0, Scope::Pod, Some(use_of(100, 50)), (122, 500)),
        (0, Scope::Pod, Some(use_of(1000, 500)), (1200, 600)),
        (1, Scope::Workload, Some(use_of(100, 50)), (1050, 525)),
        // a standby that does nothing has the workload's size, the hot one what it needs, an unknown one as much as all
        (1, Scope::Pod, Some(use_of(0, 0)), (1050, 525)),
        (1, Scope::Pod, Some(use_of(1000, 500)), (1200, 600)),
        (1, Scope::Pod, None, (1050, 525)),
    ] {
        let policy = Policy { strategy: strategies[strategy].clone(), scope, ..Policy::default() };
        let asked = Asked { pod: pod.as_ref(), ..asked(&container, &evidence) };
        let sizes = recommend(&policy, asked);
        let got = (sizes.cpu.request.unwrap(), sizes.memory.request.unwrap() >> 20);
        assert_eq!(got, expected, "{strategy} {scope:?} {}", sizes.cpu.explain(Resource::Cpu));
    }
}

#[test]
fn memory_is_known_from_like_pods_on_another_kind_of_node() {
    let policy = Policy { strategy: Strategy::Adaptive(Objective::Balanced), ..Policy::default() };
    let mut evidence = evidence(&[10], &[100]);
    let declared = resources((2000, 4096), (0, 0));
    let mut sibling = Adaptive::new(Resource::Memory);
    sibling.observe(evidence.now, 2048 * 16);
    evidence.memory_siblings.push(sibling);
    let of =
        |evidence: &Evidence| size(&policy, evidence, declared, declared).memory.request.map(|m| m >> 20);
    assert_eq!(of(&evidence), Some(2151), "nothing was learned on nodes of its own kind");
    evidence.memory_adaptive.observe(evidence.now, 100 * 16);
    assert_eq!(of(&evidence), Some(2151), "a hot pod there may be here tomorrow");
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

fn throttled(evidence: &mut Evidence, limit: u64, seen_since: u64) {
    let seen_since = Duration::from_secs(seen_since);
    evidence.throttles.push(ThrottleEvidence { limit: MilliCpu(limit), seen_since });
}

fn moving(rule: LimitRule) -> Policy {
    let mut policy = Policy::default();
    policy.update.update_requests_only = false;
    policy.update.cpu_limit = rule;
    policy
}

fn headroom() -> LimitRule {
    LimitRule::Headroom { percentile: "P99.9".parse().unwrap(), factor: factor(1500) }
}

fn factor(thousandths: u32) -> Factor {
    Factor::from_thousandths(thousandths).unwrap()
}

#[test]
fn a_limit_that_throttled_is_probed_above_and_the_request_only_where_it_moves_with_it() {
    let declared = resources((100, 64), (200, 0));
    let mut seen = evidence(&[20; 100], &[50]);
    seen.cpu_tick.entry(100).or_default().add(&UsageHistogram::from_values(100, [300; 100]));
    throttled(&mut seen, 200, 0);
    for (policy, expected, text) in [
        (moving(LimitRule::Ratio), (150, Some(300)), "probe above throttling 150m > limit by ratio 300m"),
        (moving(headroom()), (24, Some(300)), "limit with headroom 50m > probe above throttling 300m"),
        (moving(LimitRule::Keep), (24, None), "throttled by the kept limit 24m"),
        (Policy::default(), (24, None), "throttled by the kept limit 24m"),
    ] {
        let r = size(&policy, &seen, declared, declared);
        assert_eq!((r.cpu.request, r.cpu.limit), (Some(expected.0), expected.1), "{text}");
        let chain: Vec<String> =
            r.cpu.steps.iter().map(|s| format!("{} {}", s.kind, amount(Resource::Cpu, s.value))).collect();
        assert!(chain.join(" > ").ends_with(text), "{chain:?}");
    }
    let kept = size(&Policy::default(), &seen, declared, declared);
    let detail = &kept.cpu.steps.last().unwrap().detail;
    assert!(detail.starts_with("200m throttles") && detail.contains("limits.cpu.type"), "{detail}");
    // once the owner declares more, there is nothing to tell
    let more = resources((100, 64), (400, 0));
    assert!(!size(&Policy::default(), &seen, more, more).cpu.has(StepKind::Throttled));
}

#[test]
fn a_probe_stays_while_bursts_need_it() {
    let declared = resources((100, 64), (200, 0));
    let mut seen = evidence(&[20; 100], &[50]);
    let bursts = std::iter::repeat_n(200, 2000).chain([2500]);
    seen.cpu_tick.entry(100).or_default().add(&UsageHistogram::from_values(100, bursts));
    throttled(&mut seen, 200, 100_000);
    let r = size(&moving(headroom()), &seen, declared, declared);
    assert_eq!(r.cpu.limit, Some(280), "{}", r.cpu.explain(Resource::Cpu));
}

#[test]
fn a_probe_decays_by_what_was_seen_and_does_not_come_back_by_itself() {
    let declared = resources((100, 64), (200, 0));
    let sizes = [0, 59, 60, 120, 600].map(|seconds| {
        let mut seen = evidence(&[20; 100], &[50]);
        throttled(&mut seen, 200, seconds);
        let desired = resources((150, 64), (300, 0));
        size(&moving(LimitRule::Ratio), &seen, declared, desired).cpu.request.unwrap()
    });
    assert_eq!(sizes, [150, 150, 87, 56, 24]);
}

fn guaranteed() -> Policy {
    Policy { guaranteed: Guaranteed::MoveTogether, ..Policy::default() }
}

#[test]
fn the_limit_of_a_guaranteed_container_holds_its_bursts() {
    let one = resources((1000, 512), (1000, 512));
    let mut seen = evidence(&[100; 100], &[50]);
    seen.cpu_tick.entry(100).or_default().add(&UsageHistogram::from_values(100, [4000; 100]));
    for policy in [guaranteed(), Policy { update: moving(headroom()).update, ..guaranteed() }] {
        let r = size(&policy, &seen, one, one);
        assert_eq!((r.cpu.request, r.cpu.limit), (Some(400), Some(400)), "{}", r.cpu.explain(Resource::Cpu));
    }
    seen.recent.memory_peak = 100 * 16;
    let r = size(&guaranteed(), &seen, one, one);
    assert_eq!((r.memory.request, r.memory.limit), (Some(110 << 20), Some(110 << 20)));
}

fn boosts(cpu: Boost<MilliCpu>, memory: Boost<Bytes>) -> Policy {
    let startup = crate::policy::Startup { cpu: Some(cpu), memory: Some(memory), ..Default::default() };
    Policy { startup, ..Policy::default() }
}

#[test]
fn a_start_boosts_declared_cpu_limits_that_no_runtime_follows() {
    let twice = boosts(Boost::Times(factor(2000)), Boost::Times(factor(2000)));
    let seen = evidence(&[100; 10], &[50]);
    let sized = |language, declared: Resources, desired: Resources, phase, resized| {
        let name = "c".to_owned();
        let container = ContainerFacts { name, desired, declared, language, ..ContainerFacts::default() };
        recommend(&twice, Asked { phase, resized, ..asked(&container, &seen) })
    };
    let declared = resources((200, 64), (400, 128));
    let (cpu, memory) = (StartSize { request: 240, limit: Some(800) }, 120 << 20);
    let start = |language, declared| {
        let r = sized(language, declared, declared, Phase::Startup, false);
        (r.cpu.boost.unwrap(), r.memory.boost.unwrap())
    };
    // what runs may be a JVM that nothing tells of
    let kept = StartSize { request: memory, limit: None };
    assert_eq!(start(None, declared), (cpu, kept));
    assert_eq!(start(Some(LanguageRuntime::Jvm), declared), (cpu, kept));
    assert_eq!(start(Some(LanguageRuntime::Go), declared), (StartSize { limit: None, ..cpu }, kept));
    let without = start(None, resources((200, 64), (0, 0)));
    assert_eq!((without.0.limit, without.1.limit), (None, None), "nothing that is not declared");
    // a boosted limit is not boosted again, and goes back afterwards
    let boosted = resources((240, 120), (800, 128));
    let again = sized(None, declared, boosted, Phase::Startup, true);
    assert_eq!((again.cpu.boost, again.cpu.limit), (Some(cpu), Some(400)));
    let after = sized(None, declared, boosted, Phase::Runtime, true);
    assert_eq!((after.cpu.boost, after.cpu.request, after.cpu.limit), (None, Some(120), Some(400)));
    assert_eq!((after.memory.request, after.memory.limit), (Some(60 << 20), None));
    // of a policy that boosts no more, too, and what we did not raise stays
    let desired = resources((240, 120), (800, 256));
    let container = ContainerFacts { name: "c".into(), desired, declared, ..ContainerFacts::default() };
    let dropped = |resized| {
        let r = recommend(&Policy::default(), Asked { resized, ..asked(&container, &seen) });
        (r.cpu.limit, r.memory.limit)
    };
    assert_eq!(dropped(true), (Some(400), Some(128 << 20)));
    assert_eq!(dropped(false), (None, None));
    // request and limit in one are not boosted either
    let policy = Policy { guaranteed: Guaranteed::MoveTogether, ..twice.clone() };
    let one = resources((400, 128), (400, 128));
    let container =
        ContainerFacts { name: "c".into(), desired: one, declared: one, ..ContainerFacts::default() };
    let r = recommend(&policy, Asked { phase: Phase::Startup, ..asked(&container, &seen) });
    assert_eq!((r.cpu.boost.map(|b| b.limit), r.memory.boost), (Some(Some(240)), None));
}

#[test]
fn short_runs_of_a_job_cover_it() {
    let hour = Duration::from_secs(3600);
    let covers = |runs, unseen, job| {
        let covered = hour / 4;
        EvidenceSummary { window: hour * 24, covered, unseen, runs, ..EvidenceSummary::default() }
            .coverage(job)
    };
    assert_eq!([covers(0, 0, true), covers(2, 0, true), covers(9, 0, true)], [10, 500, 1000]);
    assert_eq!(covers(9, 0, false), 10, "restarts of a server are no runs");
    assert_eq!(covers(4, 600, true), 400, "of the pod-time that was seen");
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
    fn siblings_of_different_size_are_recommended_the_same(
        values in prop::collection::vec(1..4000_u64, 1..20),
        limits in prop::collection::vec((1..4000_u64, 0..300_u64), 0..3),
        sibling in (1..4000_u64, 0..4000_u64),
        by_use: bool,
    ) {
        let mut seen = evidence(&values, &[50]);
        seen.cpu_tick.entry(100).or_default().add(&UsageHistogram::from_values(100, values.clone()));
        for (limit, seconds) in limits {
            throttled(&mut seen, limit, seconds);
        }
        let policy = moving(if by_use { headroom() } else { LimitRule::Ratio });
        let declared = resources((100, 64), (250, 0));
        let of = |request, limit| {
            let r = size(&policy, &seen, declared, resources((request, 64), (limit, 0)));
            (r.cpu.request, r.cpu.limit)
        };
        prop_assert_eq!(of(100, 250), of(sibling.0, sibling.0 + sibling.1));
    }

    /// Property 4: bounds enforcement
    #[test]
    fn one_number_stays_within_bounds(
        values in prop::collection::vec(1..4000_u64, 1..20),
        memory in 1..300_u64,
        recent in 1..400_u64,
        max in (10..3000_u64, 16..300_u64),
    ) {
        let mut seen = evidence(&values, &[memory]);
        seen.cpu_tick.entry(100).or_default().add(&UsageHistogram::from_values(100, values.iter().map(|v| v * 20)));
        seen.recent.memory_peak = recent * 16;
        let bounds = ResourceBounds {
            cpu: Range { min: None, max: Some(MilliCpu(max.0)) },
            memory: Range { min: None, max: Some(Bytes::from_mebibytes(max.1)) },
            ..ResourceBounds::default()
        };
        let one = resources((1000, 512), (1000, 512));
        let r = size(&Policy { bounds, ..guaranteed() }, &seen, one, one);
        for (sizing, max) in [(&r.cpu, max.0), (&r.memory, max.1 << 20)] {
            prop_assert_eq!(sizing.request, sizing.limit);
            prop_assert!(sizing.request.is_none_or(|request| request <= max), "{:?}", sizing);
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
