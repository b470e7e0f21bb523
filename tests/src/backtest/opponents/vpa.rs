//! The Kubernetes Vertical Pod Autoscaler with its default flags (kubernetes/autoscaler at 55c37cd5eb, 1.8.0-dev).
//!
//! The estimator is integer-exact against the outputs of the original (`tests/data/vpa-golden.json.gz`) and gives the
//! numbers of its unit tests. Around it the updater's rule: resize when the request is outside the bounds, after an OOM
//! kill, or, from the twelfth hour on, when it is off by a tenth.

use optipod_common::{
    replay::{Observation, Rule},
    resources::Resource,
};

use super::minutes::Minutes;
use crate::backtest::trace::{CPU_UNITS, MEMORY_UNITS};

/// Buckets grow by 5 %.
const RATIO: f64 = 1.05;
/// Lighter buckets count as empty: a thousandth of the smallest weight of a sample.
const EPSILON: f64 = 0.0001;
const CPU_WEIGHT: f64 = 0.1;
const DAY: i64 = 86_400;
/// Beyond this exponent of decay, weights are scaled down.
const MAX_EXPONENT: i64 = 100;
const MARGIN: f64 = 0.15;
const MAX_AMOUNT: f64 = 1e14;
/// Smallest recommendations for a pod of one container: 25 millicores, 250 MiB.
const MIN_CPU: i64 = 25;
const MIN_MEMORY: i64 = 250 << 20;
const OOM_MIN_BUMP: f64 = 100.0 * 1024.0 * 1024.0;
const OOM_RATIO: f64 = 1.2;

/// Buckets each wider than the one before.
#[derive(Debug, Clone, Copy)]
struct Buckets {
    first: f64,
    ratio: f64,
    count: usize,
}

impl Buckets {
    /// As many as it takes for the last one to begin at `largest` or above.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundreds")]
    fn up_to(largest: f64, first: f64, ratio: f64) -> Self {
        let buckets = Self { first, ratio, count: 0 };
        Self { count: buckets.position(largest).ceil() as usize + 1, ..buckets }
    }

    /// Inverse of [`Self::start`]: its whole part is the bucket in which a value lies.
    fn position(&self, value: f64) -> f64 {
        (value * (self.ratio - 1.0) / self.first + 1.0).ln() / self.ratio.ln()
    }

    fn start(&self, bucket: usize) -> f64 {
        if bucket == 0 {
            return 0.0;
        }
        self.first * (self.ratio.powf(bucket as f64) - 1.0) / (self.ratio - 1.0)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "above 0 and capped")]
    fn bucket(&self, value: f64) -> usize {
        if value < self.first {
            return 0;
        }
        (self.position(value) as usize).min(self.count - 1)
    }
}

/// The decaying histogram of VPA: a day halves a weight.
#[derive(Debug, Clone)]
struct Histogram {
    buckets: Buckets,
    weights: Vec<f64>,
    total: f64,
    /// Unix time at which a weight counts as it is.
    reference: Option<i64>,
}

impl Histogram {
    fn new(buckets: Buckets) -> Self {
        Self { buckets, weights: vec![0.0; buckets.count], total: 0.0, reference: None }
    }

    fn factor(&mut self, at: i64) -> f64 {
        let reference = self.reference.unwrap_or(i64::MIN / 2);
        if at > reference.saturating_add(DAY * MAX_EXPONENT) {
            let moved = (at + DAY / 2).div_euclid(DAY) * DAY;
            #[allow(clippy::cast_possible_truncation, reason = "days between two dates")]
            let exponent = ((reference - moved) as f64 / DAY as f64).round().max(-2000.0) as i32;
            let scale = f64::from(exponent).exp2();
            self.weights.iter_mut().for_each(|weight| *weight *= scale);
            self.weights.iter_mut().filter(|weight| **weight < EPSILON).for_each(|weight| *weight = 0.0);
            self.total = self.weights.iter().sum();
            self.reference = Some(moved);
        }
        ((at - self.reference.unwrap_or(at)) as f64 / DAY as f64).exp2()
    }

    fn add(&mut self, value: f64, weight: f64, at: i64) {
        let weight = weight * self.factor(at);
        let bucket = self.buckets.bucket(value);
        if let Some(kept) = self.weights.get_mut(bucket) {
            *kept += weight;
        }
        self.total += weight;
    }

    fn subtract(&mut self, value: f64, weight: f64, at: i64) {
        let weight = weight * self.factor(at);
        let bucket = self.buckets.bucket(value);
        if let Some(kept) = self.weights.get_mut(bucket) {
            // what would be lighter than a bucket that counts goes too, also from the total
            let gone = if *kept - weight < EPSILON { *kept } else { weight };
            *kept -= gone;
            self.total -= gone;
        }
    }

    fn percentile(&self, share: f64) -> f64 {
        let heavy = |(_, weight): &(usize, &f64)| **weight >= EPSILON;
        let mut heavy_ones = self.weights.iter().enumerate().filter(heavy).map(|(bucket, _)| bucket);
        let Some(lowest) = heavy_ones.next() else { return 0.0 };
        let highest = heavy_ones.next_back().unwrap_or(lowest);
        let threshold = share * self.total;
        let mut sum = 0.0;
        let reached = self.weights.iter().enumerate().take(highest).skip(lowest).find(|(_, weight)| {
            sum += **weight;
            sum >= threshold
        });
        let bucket = reached.map_or(highest, |(bucket, _)| bucket);
        self.buckets.start((bucket + 1).min(self.buckets.count - 1))
    }
}

/// What VPA recommends for one resource: millicores or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recommendation {
    /// P90 with margin.
    pub target: i64,
    /// P50 with margin, less confident when young.
    pub lower: i64,
    /// P95 with margin, wider when young.
    pub upper: i64,
}

/// Peak of the running day.
#[derive(Debug, Clone, Copy)]
struct Window {
    end: i64,
    /// Time of the latest sample.
    last: i64,
    memory: f64,
    oom: f64,
}

/// VPA's model of one container.
#[derive(Debug, Clone)]
pub struct Estimator {
    cpu: Histogram,
    memory: Histogram,
    window: Option<Window>,
    first: Option<i64>,
    last: i64,
    samples: u64,
    /// Smallest recommendations, millicores and bytes.
    minima: (i64, i64),
}

impl Default for Estimator {
    fn default() -> Self {
        Self {
            cpu: Histogram::new(Buckets::up_to(1000.0, 0.01, RATIO)),
            memory: Histogram::new(Buckets::up_to(1e12, 1e7, RATIO)),
            window: None,
            first: None,
            last: 0,
            samples: 0,
            minima: (MIN_CPU, MIN_MEMORY),
        }
    }
}

impl Estimator {
    /// A CPU sample at a Unix time; refused unless later than the one before.
    pub fn cpu(&mut self, at: i64, millicores: u64) {
        if self.samples > 0 && at <= self.last {
            return;
        }
        self.first.get_or_insert(at);
        self.last = at;
        self.samples += 1;
        self.cpu.add(millicores as f64 / 1000.0, CPU_WEIGHT, at);
    }

    /// A memory sample; refused when earlier than the one before or negative.
    pub fn memory(&mut self, at: i64, bytes: f64) {
        if bytes < 0.0 || self.window.is_some_and(|window| at < window.last) {
            return;
        }
        self.memory_sample(at, bytes, false);
    }

    /// An OOM kill of a container with this memory request; refused when a day older than the latest sample.
    pub fn oom(&mut self, at: i64, request: f64) {
        if self.window.is_some_and(|window| at < window.last - DAY) {
            return;
        }
        let used = request.max(self.window.map_or(0.0, |window| window.memory));
        self.memory_sample(at, (used + OOM_MIN_BUMP).max(used * OOM_RATIO).trunc(), true);
    }

    fn memory_sample(&mut self, at: i64, bytes: f64, oom: bool) {
        let mut window = self.window.unwrap_or(Window { end: at, last: at, memory: 0.0, oom: 0.0 });
        window.last = at;
        let mut is_peak = false;
        if at < window.end {
            let old = window.memory.max(window.oom);
            if old != 0.0 && bytes > old {
                self.memory.subtract(old, 1.0, window.end);
                is_peak = true;
            }
        } else {
            window.end += (at - window.end) / DAY * DAY + DAY;
            (window.memory, window.oom) = (0.0, 0.0);
            is_peak = true;
        }
        if is_peak {
            self.memory.add(bytes, 1.0, window.end);
            *(if oom { &mut window.oom } else { &mut window.memory }) = bytes;
        }
        self.window = Some(window);
    }

    /// Millicores.
    pub fn recommend_cpu(&self) -> Recommendation {
        self.recommend(&self.cpu, 1000.0, self.minima.0)
    }

    /// Bytes.
    pub fn recommend_memory(&self) -> Recommendation {
        self.recommend(&self.memory, 1.0, self.minima.1)
    }

    #[allow(clippy::cast_possible_truncation, reason = "VPA truncates")]
    fn recommend(&self, histogram: &Histogram, scale: f64, floor: i64) -> Recommendation {
        let confidence = self.confidence(DAY);
        let share = |share| with_margin((histogram.percentile(share) * scale) as i64, MARGIN);
        Recommendation {
            target: share(0.9).max(floor),
            lower: by_confidence(share(0.5), confidence, 0.001, -2.0).max(floor),
            upper: by_confidence(share(0.95), confidence, 1.0, 1.0).max(floor),
        }
    }

    /// How many intervals are known of: 1 after one with a sample a minute.
    fn confidence(&self, interval: i64) -> f64 {
        let lifetime = (self.last - self.first.unwrap_or(self.last)) as f64 / interval as f64;
        lifetime.min(self.samples as f64 / (interval as f64 / 60.0))
    }
}

/// An amount and a fraction of it.
#[allow(clippy::cast_possible_truncation, reason = "VPA truncates")]
fn with_margin(amount: i64, fraction: f64) -> i64 {
    amount + (amount as f64 * fraction) as i64
}

/// An amount, the further off the less confidence there is: above for a positive exponent, below for a negative one.
#[allow(clippy::cast_possible_truncation, reason = "VPA truncates")]
fn by_confidence(amount: i64, confidence: f64, multiplier: f64, exponent: f64) -> i64 {
    (amount as f64 * (1.0 + multiplier / confidence).powf(exponent)).min(MAX_AMOUNT) as i64
}

/// VPA under replay: a sample a minute, its updater a minute later.
#[derive(Debug, Clone)]
pub struct VpaRule {
    resource: Resource,
    estimator: Estimator,
    minutes: Minutes,
    begin: Option<i64>,
}

/// A pod younger than this is resized only when it is out of bounds.
const YOUNG: i64 = 12 * 3600;
/// An older one when it is off by this.
const DIFFERENCE: f64 = 0.1;

impl VpaRule {
    /// A container that nothing is known of, with VPA's defaults.
    pub fn new(resource: Resource) -> Self {
        Self { resource, estimator: Estimator::default(), minutes: Minutes::default(), begin: None }
    }

    /// As [`Self::new`], without the smallest recommendation for a pod.
    pub fn without_minimum(resource: Resource) -> Self {
        let estimator = Estimator { minima: (1, 1), ..Estimator::default() };
        Self { estimator, ..Self::new(resource) }
    }
}

impl Rule for VpaRule {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^53, not negative")]
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        let now = seen.at.unix_micros() / 1_000_000;
        let begin = *self.begin.get_or_insert(now);
        let units = match self.resource {
            Resource::Cpu => CPU_UNITS / 1000.0,
            Resource::Memory => MEMORY_UNITS / (1024.0 * 1024.0),
        };
        let minute = self.minutes.add(seen);
        if let Some(minute) = minute {
            // a recording with longer steps does not take minutes, and with them confidence, from VPA
            let minutes = i64::try_from(seen.step.as_secs() / 60).unwrap_or(i64::MAX).max(1);
            for at in (0..minutes).rev().map(|ago| now - ago * 60) {
                match self.resource {
                    // metrics-server hands out whole millicores, rounded up
                    Resource::Cpu => self.estimator.cpu(at, (minute.mean / units).ceil() as u64),
                    Resource::Memory => {
                        // confidence counts CPU samples only: there is one for each of memory
                        self.estimator.cpu(at, 0);
                        self.estimator.memory(at, minute.peak / units);
                    }
                }
            }
        }
        if seen.oom {
            self.estimator.oom(now, seen.size as f64 / units);
        }
        if minute.is_none() && !seen.oom {
            return None;
        }
        let recommended = match self.resource {
            Resource::Cpu => self.estimator.recommend_cpu(),
            Resource::Memory => self.estimator.recommend_memory(),
        };
        let resize = seen.oom || updates(seen.size as f64 / units, &recommended, now - begin, DIFFERENCE);
        resize.then(|| super::rounded(recommended.target as f64 * units))
    }
}

/// The updater's rule for a container so many seconds old: it is outside of its bounds, or off by a share and not young.
fn updates(request: f64, recommended: &Recommendation, age: i64, difference: f64) -> bool {
    let Recommendation { target, lower, upper } = *recommended;
    let outside = request < lower as f64 || request > upper as f64;
    let off = (target as f64 - request).abs() >= difference * request;
    outside || (age >= YOUNG && off)
}

#[cfg(test)]
mod conformance;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use flate2::read::GzDecoder;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        cpu_buckets: GoldenBuckets,
        memory_buckets: GoldenBuckets,
        cpu_find_bucket: Vec<Probe>,
        memory_find_bucket: Vec<Probe>,
        traces: Vec<GoldenTrace>,
    }

    #[derive(Deserialize)]
    struct GoldenBuckets {
        #[serde(rename = "num_buckets")]
        count: usize,
        epsilon: f64,
        bucket_starts: Vec<f64>,
    }

    #[derive(Deserialize)]
    struct Probe {
        value: f64,
        #[serde(rename = "bucket")]
        index: usize,
    }

    #[derive(Deserialize)]
    struct GoldenTrace {
        name: String,
        step_seconds: i64,
        t0_unix: i64,
        cpu_millicores: Vec<u64>,
        memory_bytes: Vec<u64>,
        oom_events: Option<Vec<Oom>>,
        expected: Vec<Expected>,
    }

    #[derive(Deserialize)]
    struct Oom {
        at_minute: i64,
        request_bytes: u64,
    }

    #[derive(Deserialize)]
    struct Expected {
        after_n_samples: usize,
        target_cpu_m: i64,
        lower_cpu_m: i64,
        upper_cpu_m: i64,
        target_mem_bytes: i64,
        lower_mem_bytes: i64,
        upper_mem_bytes: i64,
    }

    fn golden() -> Golden {
        let path = crate::paths::workspace().join("tests/data/vpa-golden.json.gz");
        serde_json::from_reader(GzDecoder::new(File::open(path).unwrap())).unwrap()
    }

    #[test]
    fn buckets_are_those_of_vpa() {
        let Golden { cpu_buckets, memory_buckets, cpu_find_bucket, memory_find_bucket, .. } = golden();
        let Estimator { cpu, memory, .. } = Estimator::default();
        for (Histogram { buckets, .. }, expected, probes) in
            [(cpu, cpu_buckets, cpu_find_bucket), (memory, memory_buckets, memory_find_bucket)]
        {
            assert_eq!((expected.count, expected.bucket_starts.len()), (buckets.count, buckets.count));
            assert!((expected.epsilon - EPSILON).abs() < 1e-12);
            for (bucket, start) in expected.bucket_starts.iter().enumerate() {
                let ours = buckets.start(bucket);
                assert!((ours - start).abs() <= start * 1e-12, "bucket {bucket}: {ours}, VPA has {start}");
            }
            for probe in probes {
                assert_eq!(buckets.bucket(probe.value), probe.index, "{}", probe.value);
            }
        }
    }

    #[test]
    fn estimates_are_those_of_vpa_to_the_last_digit() {
        let traces = golden().traces;
        assert_eq!(traces.len(), 10);
        for trace in traces {
            let mut estimator = Estimator::default();
            let mut expected = trace.expected.iter().peekable();
            let samples = trace.cpu_millicores.iter().zip(&trace.memory_bytes);
            for ((millicores, bytes), n) in samples.zip(0_usize..) {
                let minute = i64::try_from(n).unwrap();
                let at = trace.t0_unix + trace.step_seconds * minute;
                estimator.cpu(at, *millicores);
                estimator.memory(at, *bytes as f64);
                for oom in trace.oom_events.iter().flatten().filter(|oom| oom.at_minute == minute) {
                    estimator.oom(at, oom.request_bytes as f64);
                }
                let Some(point) = expected.next_if(|point| point.after_n_samples == n + 1) else { continue };
                let cpu = (point.target_cpu_m, point.lower_cpu_m, point.upper_cpu_m);
                let memory = (point.target_mem_bytes, point.lower_mem_bytes, point.upper_mem_bytes);
                let ours = |r: Recommendation| (r.target, r.lower, r.upper);
                assert_eq!(ours(estimator.recommend_cpu()), cpu, "{} CPU after {}", trace.name, n + 1);
                assert_eq!(
                    ours(estimator.recommend_memory()),
                    memory,
                    "{} memory after {}",
                    trace.name,
                    n + 1
                );
            }
            assert!(expected.next().is_none(), "{}: points were left out", trace.name);
        }
    }
}
