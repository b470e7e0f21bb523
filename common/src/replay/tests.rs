use proptest::prelude::*;

use super::*;
use crate::adaptive::{Size, demand};
use crate::policy::{Objective, ThresholdParams};
use crate::resources::Resource;

const MINUTE: Duration = Duration::from_secs(60);

fn trace(values: &[u64]) -> Trace {
    let start = Timestamp::from_unix_seconds(1_800_000_000);
    let samples = values.iter().zip(0_u32..).map(|(value, n)| (start + MINUTE * n, *value)).collect();
    Trace { step: MINUTE, samples }
}

fn actuator(lag: u64, limit: Limit) -> Actuator {
    Actuator {
        lag: Duration::from_secs(lag),
        dead_up: 0,
        dead_down: 0,
        minimum: 1,
        limit,
        guarded: limit == Limit::Follows,
    }
}

/// Wants what it sees.
struct Follow;

impl Rule for Follow {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        Some(seen.used)
    }
}

#[test]
fn a_size_comes_from_earlier_samples_and_after_the_lag() {
    let usage = trace(&[5, 6, 7, 8, 9]);
    let sizes = |lag| replay(&usage, 100, &actuator(lag, Limit::Apart), &mut Follow).sizes;
    assert_eq!(sizes(2), [100, 5, 6, 7, 8]);
    assert_eq!(sizes(60), [100, 5, 6, 7, 8]);
    // a pending size takes the higher one and keeps its time
    assert_eq!(sizes(180), [100, 100, 100, 7, 7]);
}

#[test]
fn use_above_a_memory_limit_is_a_kill_and_a_crash_loop_counts_once() {
    let usage = trace(&[10, 10, 50, 50, 50, 50, 50, 50, 50]);
    let result = replay(&usage, 10, &actuator(2, Limit::Follows), &mut Follow);
    assert_eq!(result.oom_kills, [2, 7], "{result:?}");
    assert!(result.sizes.windows(2).all(|pair| pair[1] >= pair[0]), "{result:?}");
}

#[test]
fn adaptive_takes_a_kill_for_the_demand_that_the_store_takes_it_for() {
    let mut rule = AdaptiveRule::new(Size::MemoryLimit, Objective::Balanced);
    let start = Timestamp::from_unix_seconds(1_800_000_000);
    let mut see = |n: u32, used, oom| {
        rule.observe(&Observation { at: start + MINUTE * n, step: MINUTE, used, size: 1000, oom })
    };
    (1..600).for_each(|n| {
        see(n, 500, false);
    });
    let needed = demand(Resource::Memory, 1000);
    assert!(see(600, 1000, true) >= Some(needed));
}

#[test]
fn sums_give_the_shares() {
    let usage = trace(&[10, 20, 40]);
    let replayed = Replayed { sizes: vec![20, 20, 20], oom_kills: vec![2], resizes: vec![0, 2] };
    let outcome = Outcome::of(&usage, &replayed, 0);
    assert!((outcome.allocation() - 0.5).abs() < 1e-9);
    assert!((outcome.excess() - 20.0 / 70.0).abs() < 1e-9);
    assert!((outcome.under() - 1.0 / 3.0).abs() < 1e-9);
    assert!((outcome.waste() - (1.0 - 50.0 / 60.0)).abs() < 1e-9);
    assert!((outcome.resizes_per_day() - 2.0 * 480.0).abs() < 1e-9);
    let scored = Outcome::of(&usage, &replayed, 1);
    assert_eq!((scored.samples, scored.resizes, scored.oom_kills), (2, 1, 1));
    assert!((scored.resizes_per_day() - 720.0).abs() < 1e-9);
}

proptest! {
    #[test]
    fn the_future_does_not_change_the_past(
        values in prop::collection::vec(1..1000_u64, 2..200), cut in 1..200_usize
    ) {
        let cut = cut.min(values.len() - 1);
        let sizes = |values: &[u64]| {
            let mut rule = AdaptiveRule::new(Size::CpuRequest, Objective::Balanced);
            replay(&trace(values), 2000, &actuator(2, Limit::Apart), &mut rule).sizes
        };
        prop_assert_eq!(&sizes(&values)[..cut], &sizes(&values[..cut])[..]);
    }

    #[test]
    fn scaling_a_trace_scales_the_sizes(values in prop::collection::vec(1..1000_u64, 2..300), k in 1..50_u64) {
        let sizes = |k: u64| {
            let scaled: Vec<u64> = values.iter().map(|v| v * 1000 * k).collect();
            let mut rule = ThresholdRule::new(ThresholdParams::default(), 0);
            replay(&trace(&scaled), 2_000_000 * k, &actuator(2, Limit::Apart), &mut rule).sizes
        };
        let once: Vec<u64> = sizes(1).iter().map(|size| size * k).collect();
        for (one, other) in once.iter().zip(sizes(k)) {
            // each resize rounds up to the unit
            prop_assert!(one.abs_diff(other) <= one / 1000 + k, "{one} and {other}");
        }
    }
}
