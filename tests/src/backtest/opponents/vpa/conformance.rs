//! The numbers of VPA's own unit tests (kubernetes/autoscaler at 55c37cd5eb), asked of the opponent.
//!
//! Pairs of input and output are numbered as in our list of them: 1-16 histogram, decay and checkpoints
//! (`pkg/recommender/util`), 17-26 estimators (`logic`), 27-40 memory windows and OOM kills (`model`, `input/oom`).
//! VPA counts in linear buckets of width 1, where the value n lies in bucket n, and in half-lives of an hour. Here n
//! stands for bucket n of the CPU histogram and a day for that hour: percentiles and decay know of no more.
//!
//! Not applicable, because the opponent has nothing that could give the answer:
//! - 5, and the bucketing of 1 and 3: linear buckets are of VPA's tests only; all its histograms are exponential.
//! - 10, merging: one container has one histogram. That the order of samples does not matter is held here.
//! - 11-15: a replay never restarts: no checkpoints. That favours VPA, which then loses up to a day of memory peaks.
//! - 24 and 25: a replay sizes one container and one resource at a time.
//! - 35: another window length is a setting per VPA (alpha); 27 and 32 hold the same rules for the default of a day.
//! - 36-39: a replay hands over OOM kills; no pod status or event is read.
//! - 40: a replay has one container, from beginning to end: nothing is collected.
//!
//! Of the recommender's formats (41-45, `model`, `routines`), the updater (46-76, `pkg/updater`) and limits, capping and
//! boosts (77-89, `pkg/utils/vpa`, `pkg/admission-controller`) a replay knows of the rule in 55 and 56, held here. Pairs about
//! what OptiPod itself does are held where it does it: 77, 80 and 82 in `optipod_common::recommend` (its tests name them).
//! Not applicable:
//! - 41-43, 45: rounding of recommendations is off in VPA's default flags; OptiPod rounds as its step chain says.
//! - 44: 69.946 millicores are 69 there; OptiPod and the opponent round requests up, to 70.
//! - 46-54: in which order pods are updated: a replay has one pod, OptiPod resizes by its own order (raises first).
//! - 57: a quick OOM kill updates only a pod younger than ten minutes; the opponent takes every kill, in its favour.
//! - 58, 68-74, 76: verdicts of VPA's in-place modes; OptiPod follows a resize by `progress`, with its own tests.
//! - 59: eviction requirements are an API of VPA; `import vpa` names them as having no counterpart.
//! - 60-67, 75: eviction tolerance and rate limits: nothing is evicted in a replay, nor by this version of OptiPod.
//! - 78, 84-87: limits and proportions from a LimitRange: OptiPod dry-runs a resize and holds it with `LimitRangeViolated`.
//! - 79: a limit without a request declares the request too; where they are equal the pod is Guaranteed, and
//!   `guaranteed: MoveTogether` keeps them so. No limit stays none: `never a key that the owner did not declare`.
//! - 81: amounts here end at 2^64 and saturate; no annotation is written.
//! - 83: a global maximum is an `enforced` policy, with its own tests.
//! - 88: with limits kept a request is capped at its limit, which the step chain says.
//! - 89: boosts are of limits first (hazards: the request follows where the node has room), with their own tests.
//!
//! A negative CPU sample (27) cannot be written down: millicores are unsigned.

use super::{
    Buckets, DAY, EPSILON, Estimator, Histogram, Recommendation, by_confidence, updates, with_margin,
};

/// Midnight, where weights count as they are.
const T: i64 = 19_700 * DAY;
const HOUR: i64 = 3600;
const MIB: f64 = 1024.0 * 1024.0;
/// Stands for VPA's bytes where those are less than its first bucket.
const GB: f64 = 1e9;

fn histogram() -> Histogram {
    Estimator::default().cpu
}

/// A value that lies in this bucket.
fn within(buckets: &Buckets, bucket: usize) -> f64 {
    f64::midpoint(buckets.start(bucket), buckets.start(bucket + 1))
}

/// One sample each of bucket, weight and time.
fn filled(samples: &[(usize, f64, i64)]) -> Histogram {
    let mut histogram = histogram();
    for (bucket, weight, at) in samples {
        histogram.add(within(&histogram.buckets, *bucket), *weight, *at);
    }
    histogram
}

/// The bucket at whose start a percentile lies.
fn reached(histogram: &Histogram, share: f64) -> usize {
    let percentile = histogram.percentile(share);
    let starts_there = |bucket: &usize| histogram.buckets.start(*bucket).to_bits() == percentile.to_bits();
    (0..histogram.buckets.count).find(starts_there).unwrap()
}

fn assert_percentiles(pair: u32, histogram: &Histogram, expected: &[(f64, usize)]) {
    for (share, bucket) in expected {
        assert_eq!(reached(histogram, *share), *bucket, "pair {pair}, percentile {share}");
    }
}

fn assert_close(ours: f64, theirs: f64, tolerance: f64, what: &str) {
    assert!((ours - theirs).abs() <= theirs.abs() * tolerance, "{what}: {ours}, VPA has {theirs}");
}

/// Whether a histogram holds just these values, each with a weight and a time.
fn assert_holds(pair: u32, histogram: &Histogram, samples: &[(f64, f64, i64)]) {
    let mut expected = Histogram::new(histogram.buckets);
    for (value, weight, at) in samples {
        expected.add(*value, *weight, *at);
    }
    assert_eq!(histogram.reference, expected.reference, "pair {pair}");
    assert_close(histogram.total, expected.total, 1e-12, &format!("pair {pair}, total"));
    for (bucket, (ours, theirs)) in histogram.weights.iter().zip(&expected.weights).enumerate() {
        assert_close(*ours, *theirs, 1e-12, &format!("pair {pair}, bucket {bucket}"));
    }
}

/// Whether the memory histogram holds one peak of so many MiB per window, named by its end.
fn assert_peaks(pair: u32, estimator: &Estimator, peaks: &[(f64, i64)]) {
    let samples: Vec<_> = peaks.iter().map(|(mib, end)| (mib * MIB, 1.0, *end)).collect();
    assert_holds(pair, &estimator.memory, &samples);
    // buckets are 5 % wide: the running window tells bytes
    let (window, (mib, end)) = (estimator.window.unwrap(), peaks.last().unwrap());
    assert_eq!(window.end, *end, "pair {pair}");
    assert_close(window.memory.max(window.oom), mib * MIB, 1e-12, &format!("pair {pair}, peak"));
}

/// Samples of 1 core, one every two minutes.
fn sampled_every_two_minutes(samples: i64) -> Estimator {
    let mut estimator = Estimator::default();
    (0..samples).for_each(|n| estimator.cpu(T + n * 120, 1000));
    estimator
}

#[test]
fn pair_1_percentile_is_the_end_of_its_bucket() {
    let histogram = filled(&[(1, 1.0, T), (2, 2.0, T), (3, 3.0, T), (4, 4.0, T)]);
    let lower = [(0.0, 2), (0.1, 2), (0.2, 3), (0.3, 3), (0.4, 4), (0.5, 4), (0.6, 4)];
    assert_percentiles(1, &histogram, &lower);
    assert_percentiles(1, &histogram, &[(0.7, 5), (0.8, 5), (0.9, 5), (1.0, 5)]);
}

#[test]
fn pair_2_percentiles_of_nothing_are_0() {
    assert_percentiles(2, &histogram(), &[(-0.5, 0), (0.0, 0), (0.5, 0), (1.0, 0), (1.5, 0)]);
}

#[test]
fn pair_3_percentiles_out_of_range_are_lowest_and_highest() {
    let mut histogram = filled(&[(1, 0.1, T), (2, 0.2, T)]);
    assert_percentiles(3, &histogram, &[(-0.1, 2), (1.1, 3)]);
    histogram.add(0.0, 0.1, T);
    histogram.add(1e6, 0.2, T);
    // the last bucket has no end: its start
    assert_percentiles(3, &histogram, &[(-0.1, 1), (1.1, 175)]);
}

#[test]
fn pair_4_bucket_lighter_than_epsilon_is_empty() {
    assert_eq!(reached(&filled(&[(1, 0.5 * EPSILON, T)]), 1.0), 0);
    let mut histogram = filled(&[(1, 2.5 * EPSILON, T)]);
    let value = within(&histogram.buckets, 1);
    assert_eq!(reached(&histogram, 1.0), 2);
    histogram.subtract(value, EPSILON, T);
    assert_eq!(reached(&histogram, 1.0), 2, "1.5 epsilon is not empty");
    histogram.subtract(value, EPSILON, T);
    assert_eq!(reached(&histogram, 1.0), 0, "half an epsilon is empty");
    // VPA takes the rest off the total as well
    assert!(histogram.total.abs() < 1e-15, "{}", histogram.total);
}

#[test]
fn pair_6_buckets_grow_exponentially() {
    let buckets = Buckets::up_to(500.0, 40.0, 1.5);
    assert_eq!(buckets.count, 6);
    for (bucket, start) in [0.0, 40.0, 100.0, 190.0, 325.0, 527.5].into_iter().enumerate() {
        assert_close(buckets.start(bucket), start, 1e-15, &format!("pair 6, start of bucket {bucket}"));
    }
    for (value, bucket) in [(-1.0, 0), (39.99, 0), (40.0, 1), (100.0, 2), (900.0, 5)] {
        assert_eq!(buckets.bucket(value), bucket, "pair 6, bucket of {value}");
    }
}

#[test]
fn pair_7_heavy_sample_fades() {
    let histogram = filled(&[(2, 1000.0, T), (1, 1.0, T + 20 * DAY)]);
    assert_percentiles(7, &histogram, &[(0.999, 2), (1.0, 3)]);
}

#[test]
fn pair_8_sample_a_hundred_half_lives_old_is_gone() {
    let histogram = filled(&[(2, 1.0, T), (1, 1.0, T + 101 * DAY)]);
    assert_percentiles(8, &histogram, &[(1.0, 2)]);
}

#[test]
fn pair_9_each_half_life_counts_half() {
    let histogram = filled(&[(1, 1.0, T), (2, 2.0, T + DAY), (3, 3.0, T + 2 * DAY), (4, 4.0, T + 3 * DAY)]);
    let expected =
        [(0.0, 2), (0.02, 2), (0.03, 3), (0.1, 3), (0.11, 4), (0.34, 4), (0.35, 5), (0.5, 5), (1.0, 5)];
    assert_percentiles(9, &histogram, &expected);
}

#[test]
fn pair_10_order_of_samples_does_not_matter() {
    let samples = [(1, 1.0, T), (2, 1.0, T + DAY), (2, 1.0, T + 2 * DAY), (3, 1.0, T + DAY)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 1, 3, 0], [2, 3, 0, 1], [1, 0, 3, 2]] {
        let histogram = filled(&order.map(|n: usize| samples[n]));
        // 1; 2 and 4; 2: the first sample decides what a weight counts in, hence shares
        for (bucket, share) in [(1, 1.0 / 9.0), (2, 6.0 / 9.0), (3, 2.0 / 9.0)] {
            let what = format!("pair 10, {order:?}, bucket {bucket}");
            assert_close(histogram.weights[bucket] / histogram.total, share, 1e-12, &what);
        }
    }
}

#[test]
fn pair_16_default_buckets() {
    let Estimator { cpu, memory, .. } = Estimator::default();
    assert_eq!((cpu.buckets.count, memory.buckets.count), (176, 176));
    assert_eq!(format!("{:.1}", cpu.buckets.start(175)), "1021.1");
    assert_eq!(format!("{:.4e}", memory.buckets.start(175)), "1.0211e12");
}

#[test]
fn pair_17_percentile_estimates_are_within_a_bucket() {
    let Estimator { mut cpu, mut memory, .. } = Estimator::default();
    for n in [1.0, 2.0, 3.0] {
        cpu.add(n, 1.0, T);
        memory.add(n * GB, 1.0, T);
    }
    assert_close(cpu.percentile(0.2), 1.0, 0.05, "pair 17, CPU");
    assert_close(memory.percentile(0.5), 2.0 * GB, 0.05, "pair 17, memory");
}

#[test]
fn pair_18_confidence_multiplier_of_nine_samples() {
    let confidence = sampled_every_two_minutes(9).confidence(DAY);
    assert_close(confidence, 0.00625, 1e-15, "pair 18, confidence");
    assert_eq!(by_confidence(3140, confidence, 0.1, 2.0), 907_460);
    assert_eq!(by_confidence(3_140_000_000, confidence, 0.1, 2.0), 907_460_000_000);
}

#[test]
fn pair_19_confidence_multiplier_of_a_shorter_interval() {
    let confidence = sampled_every_two_minutes(9).confidence(18 * 60);
    assert_close(confidence, 0.5, 1e-15, "pair 19, confidence");
    assert_eq!(by_confidence(3140, confidence, 0.1, 2.0), 4521);
    assert_eq!(by_confidence(3_140_000_000, confidence, 0.1, 2.0), 4_521_600_000);
}

#[test]
fn pair_20_no_history_is_no_confidence() {
    let confidence = Estimator::default().confidence(DAY);
    assert_eq!(by_confidence(3140, confidence, 1.0, 1.0), 100_000_000_000_000);
    assert_eq!(by_confidence(3140, confidence, 1.0, -1.0), 0);
}

#[test]
fn pair_21_margin_is_added() {
    assert_eq!(with_margin(3140, 0.1), 3454);
    assert_eq!(with_margin(3_140_000_000, 0.1), 3_454_000_000);
}

#[test]
fn pair_22_minimum_lifts_what_is_below_it_only() {
    let recommended = |minima| {
        let mut estimator = Estimator { minima, ..Estimator::default() };
        estimator.cpu(T, 3140);
        estimator.memory(T, 2e7);
        (estimator.recommend_cpu().target, estimator.recommend_memory().target)
    };
    let (cpu, memory) = recommended((0, 0));
    assert!(cpu > 3140 && (20_000_000..400_000_000).contains(&memory), "{cpu}, {memory}");
    assert_eq!(recommended((200, 400_000_000)), (cpu, 400_000_000));
}

#[test]
fn pair_23_smallest_recommendation_of_one_container() {
    let mut estimator = Estimator::default();
    estimator.cpu(T, 1);
    estimator.memory(T, 1e6);
    assert_eq!((estimator.recommend_cpu().target, estimator.recommend_memory().target), (25, 250 << 20));
}

#[test]
fn pair_26_flat_use_for_a_day() {
    let mut estimator = Estimator::default();
    for n in 0..1440 {
        estimator.cpu(T + n * 60, 100);
        estimator.memory(T + n * 60, 400.0 * MIB);
    }
    assert_eq!(estimator.recommend_cpu(), Recommendation { target: 126, lower: 125, upper: 252 });
    let Recommendation { target, lower, upper } = estimator.recommend_memory();
    let mib = [target, lower, upper].map(|bytes| format!("{:.1}", bytes as f64 / MIB));
    assert_eq!(mib, ["488.1", "487.1", "976.5"]);
}

#[test]
fn pair_27_one_peak_per_window() {
    let mut estimator = Estimator::default();
    for (hours, millicores, memory) in [(0, 3140, 5.0), (12, 6280, 10.0), (24, 1570, 2.0)] {
        estimator.cpu(T + hours * HOUR, millicores);
        estimator.memory(T + hours * HOUR, memory * GB);
    }
    let cpu = [(3140.0, 0), (6280.0, 12), (1570.0, 24)]
        .map(|(millicores, hours)| (millicores / 1000.0, 0.1, T + hours * HOUR));
    let peaks = [(10.0 * GB, 1.0, T + DAY), (2.0 * GB, 1.0, T + 2 * DAY)];
    assert_holds(27, &estimator.cpu, &cpu);
    assert_holds(27, &estimator.memory, &peaks);
    // refused: of the same time, negative, out of order
    estimator.cpu(T + DAY, 1000);
    estimator.memory(T + 2 * DAY, -GB);
    estimator.memory(T + 23 * HOUR, 20.0 * GB);
    assert_holds(27, &estimator.cpu, &cpu);
    assert_eq!(estimator.samples, 3);
    assert_holds(27, &estimator.memory, &peaks);
}

#[test]
fn pairs_28_and_29_oom_kill_adds_a_fifth_but_100_mib_at_least() {
    for (pair, request, expected) in [(28, 1000.0, 1200.0), (29, 1.0, 101.0)] {
        let mut estimator = Estimator::default();
        estimator.oom(T, request * MIB);
        assert_peaks(pair, &estimator, &[(expected, T + DAY)]);
    }
}

#[test]
fn pair_30_oom_kill_below_the_known_peak_counts_from_the_peak() {
    let mut estimator = Estimator::default();
    estimator.memory(T, 3000.0 * MIB);
    estimator.oom(T, 1000.0 * MIB);
    assert_peaks(30, &estimator, &[(3600.0, T + DAY)]);
}

#[test]
fn pair_31_repeated_oom_kills_do_not_run_away() {
    let mut estimator = Estimator::default();
    for (request, expected) in [(1000.0, 1200.0), (999.0, 1200.0), (999.0, 1200.0), (2000.0, 2400.0)] {
        estimator.oom(T, request * MIB);
        assert_peaks(31, &estimator, &[(expected, T + DAY)]);
    }
}

#[test]
fn pair_32_oom_kill_of_long_ago_is_refused() {
    let mut estimator = Estimator::default();
    estimator.memory(T, 1000.0 * MIB);
    estimator.oom(T - 30 * HOUR, 1000.0 * MIB);
    assert_peaks(32, &estimator, &[(1000.0, T + DAY)]);
}

#[test]
fn pair_33_oom_kill_opens_a_window() {
    let mut estimator = Estimator::default();
    estimator.memory(T, 2000.0 * MIB);
    estimator.oom(T + 48 * HOUR, 1000.0 * MIB);
    assert_peaks(33, &estimator, &[(2000.0, T + DAY), (2400.0, T + 3 * DAY)]);
}

#[test]
fn pair_34_oom_kill_just_before_its_window_counts() {
    let mut estimator = Estimator::default();
    estimator.memory(T, 1500.0 * MIB);
    estimator.memory(T + DAY, 2000.0 * MIB);
    estimator.oom(T + DAY - 1, 1000.0 * MIB);
    assert_peaks(34, &estimator, &[(1500.0, T + DAY), (2400.0, T + 2 * DAY)]);
}

/// Request, target and bounds of a container whose request is off by so many percent, within its bounds or not.
fn off_by(percent: i64, within: bool) -> (f64, Recommendation) {
    let target = 10 * (100 + percent);
    (1000.0, Recommendation { target, lower: if within { 1 } else { target - 1 }, upper: target * 2 })
}

#[test]
fn pair_55_an_old_pod_is_updated_when_it_is_off_enough_or_out_of_range() {
    for ((request, recommended), expected) in
        [(off_by(25, true), false), (off_by(400, true), true), (off_by(25, false), true)]
    {
        assert_eq!(updates(request, &recommended, 13 * HOUR, 0.5), expected, "{recommended:?}");
    }
}

#[test]
fn pair_56_a_young_pod_is_updated_only_when_it_is_out_of_range() {
    for ((request, recommended), expected) in
        [(off_by(25, true), false), (off_by(400, true), false), (off_by(25, false), true)]
    {
        assert_eq!(updates(request, &recommended, 11 * HOUR, 0.5), expected, "{recommended:?}");
    }
}
