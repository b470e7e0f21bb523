//! Means over sets and their bootstrap intervals.

use std::collections::BTreeMap;

use optipod_common::replay::Outcome;
use serde::Serialize;

/// Resamplings of a bootstrap.
const RESAMPLES: usize = 2000;
const BOOTSTRAP_SEED: u64 = 7;

/// What is measured of one series, or a mean of it. Shares are in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// Mean size, in percent of the highest use.
    pub alloc: f64,
    /// Use above the size, in percent of use.
    pub excess: f64,
    /// Time with use above the size.
    pub under: f64,
    /// Size that was not used.
    pub waste: f64,
    /// OOM kills a day.
    pub oom_per_container_day: f64,
    /// Containers with an OOM kill.
    pub containers_with_oom: f64,
    /// Resizes a day.
    pub resizes_per_day: f64,
}

impl Metrics {
    /// Of one series.
    pub fn of(outcome: &Outcome) -> Self {
        Self {
            alloc: outcome.allocation() * 100.0,
            excess: outcome.excess() * 100.0,
            under: outcome.under() * 100.0,
            waste: outcome.waste() * 100.0,
            oom_per_container_day: outcome.oom_per_day(),
            containers_with_oom: if outcome.oom_kills > 0 { 100.0 } else { 0.0 },
            resizes_per_day: outcome.resizes_per_day(),
        }
    }

    /// Name and value of each metric, as in the JSON.
    pub const fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("alloc", self.alloc),
            ("excess", self.excess),
            ("under", self.under),
            ("waste", self.waste),
            ("oom_per_container_day", self.oom_per_container_day),
            ("containers_with_oom", self.containers_with_oom),
            ("resizes_per_day", self.resizes_per_day),
        ]
    }

    fn combined(self, other: Self, with: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            alloc: with(self.alloc, other.alloc),
            excess: with(self.excess, other.excess),
            under: with(self.under, other.under),
            waste: with(self.waste, other.waste),
            oom_per_container_day: with(self.oom_per_container_day, other.oom_per_container_day),
            containers_with_oom: with(self.containers_with_oom, other.containers_with_oom),
            resizes_per_day: with(self.resizes_per_day, other.resizes_per_day),
        }
    }
}

/// Metrics of each series, by set.
pub type PerSet = BTreeMap<String, Vec<Metrics>>;

/// Mean of many.
pub fn mean<'a>(all: impl IntoIterator<Item = &'a Metrics>) -> Metrics {
    let (mut sum, mut count) = (Metrics::default(), 0.0_f64);
    for metrics in all {
        sum = sum.combined(*metrics, |a, b| a + b);
        count += 1.0;
    }
    sum.combined(sum, |value, _| value / count.max(1.0))
}

/// Mean of each set, then of the sets.
pub fn means(sets: &PerSet) -> Metrics {
    let of_sets: Vec<Metrics> = sets.values().map(mean).collect();
    mean(&of_sets)
}

/// Lower and upper end of a 95 % interval.
pub type Interval = [f64; 2];

/// Bootstrap intervals of a system.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Intervals {
    /// Of its means.
    #[serde(flatten)]
    pub own: BTreeMap<&'static str, Interval>,
    /// Of the difference to each opponent on the same series (ours minus theirs).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub minus: BTreeMap<String, BTreeMap<&'static str, Interval>>,
    /// Of each metric divided by the opponent's; `None` where the opponent's is 0 in a draw.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ratio: BTreeMap<String, BTreeMap<&'static str, Option<Interval>>>,
    /// What that ratio is below with 95 % confidence: the upper end of a one-sided interval.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ratio_below: BTreeMap<String, BTreeMap<&'static str, Option<f64>>>,
}

/// Means of each resampling of the series within their sets; systems of the same series are resampled alike.
#[derive(Debug, Clone)]
pub struct Draws(Vec<Metrics>);

impl Draws {
    /// Of one system.
    pub fn of(sets: &PerSet) -> Self {
        Self(resampled(sets))
    }
}

/// The intervals of a system beside its opponents.
pub fn intervals<'a>(ours: &Draws, opponents: impl Iterator<Item = (&'a str, &'a Draws)>) -> Intervals {
    let Draws(samples) = ours;
    let mut result = Intervals { own: interval(samples, |m| *m), ..Intervals::default() };
    for (name, Draws(theirs)) in opponents {
        let paired: Vec<(Metrics, Metrics)> = samples.iter().copied().zip(theirs.iter().copied()).collect();
        result.minus.insert(name.to_owned(), interval(&paired, |(a, b)| a.combined(*b, |x, y| x - y)));
        let ratio = spread(&paired, |(a, b)| a.combined(*b, |x, y| if y > 0.0 { x / y } else { f64::NAN }));
        let of = |values: &[f64], end| {
            let divided = values.iter().all(|value| value.is_finite());
            divided.then(|| at(values, end))
        };
        let both = |values: &[f64]| Some([of(values, 25)?, of(values, 975)?]);
        let named = |(name, values): (&&'static str, &Vec<f64>)| (*name, both(values));
        result.ratio.insert(name.to_owned(), ratio.iter().map(named).collect());
        let below = ratio.iter().map(|(name, values)| (*name, of(values, 950)));
        result.ratio_below.insert(name.to_owned(), below.collect());
    }
    result
}

/// A difference that a bar asks to be at most 0: its mean, and what it is below with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Excess {
    /// Ours minus what is allowed.
    pub mean: f64,
    /// Upper end of a one-sided interval.
    pub bound: f64,
}

/// `metric` of ours minus `part` of theirs (without them: minus `part` itself), resampled in pairs.
pub fn excess(ours: &PerSet, theirs: Option<&PerSet>, metric: fn(&Metrics) -> f64, part: f64) -> Excess {
    let allowed = |theirs: Option<&Metrics>| theirs.map_or(part, |theirs| part * metric(theirs));
    let mean = metric(&means(ours)) - allowed(theirs.map(means).as_ref());
    let others = theirs.map(resampled);
    let differences = resampled(ours)
        .into_iter()
        .enumerate()
        .map(|(draw, ours)| metric(&ours) - allowed(others.as_ref().and_then(|others| others.get(draw))));
    let mut differences: Vec<f64> = differences.collect();
    differences.sort_by(f64::total_cmp);
    Excess { mean, bound: at(&differences, 950) }
}

fn resampled(sets: &PerSet) -> Vec<Metrics> {
    let mut random = Seeded::new(BOOTSTRAP_SEED);
    let mut draw = || {
        let of_sets: Vec<Metrics> = sets
            .values()
            .map(|series| mean((0..series.len()).filter_map(|_| series.get(random.below(series.len())))))
            .collect();
        mean(&of_sets)
    };
    (0..RESAMPLES).map(|_| draw()).collect()
}

/// Values of each metric over the samples, ascending.
fn spread<T>(samples: &[T], metrics: impl Fn(&T) -> Metrics) -> BTreeMap<&'static str, Vec<f64>> {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        for (name, value) in metrics(sample).named() {
            values.entry(name).or_default().push(value);
        }
    }
    for values in values.values_mut() {
        values.sort_by(f64::total_cmp);
    }
    values
}

/// The middle 95 % of each metric.
fn interval<T>(samples: &[T], metrics: impl Fn(&T) -> Metrics) -> BTreeMap<&'static str, Interval> {
    let ends = |(name, values): (_, Vec<f64>)| (name, [at(&values, 25), at(&values, 975)]);
    spread(samples, metrics).into_iter().map(ends).collect()
}

/// The value below which so many thousandths of the ascending values are.
fn at(values: &[f64], thousandths: usize) -> f64 {
    values.get(values.len().saturating_sub(1) * thousandths / 1000).copied().unwrap_or(0.0)
}

/// `SplitMix64`: the same numbers on every machine and in every version.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = u128::from(self.bits()) * (end as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(alloc: f64) -> Metrics {
        Metrics { alloc, ..Metrics::default() }
    }

    #[test]
    fn small_sets_weigh_as_much_as_large_ones() {
        let sets = PerSet::from([
            ("a".to_owned(), vec![metrics(10.0)]),
            ("b".to_owned(), vec![metrics(20.0), metrics(40.0), metrics(30.0)]),
        ]);
        assert!((means(&sets).alloc - 20.0).abs() < 1e-9);
    }

    #[test]
    fn a_paired_difference_is_tighter_than_the_means() {
        let of = |plus: f64| (0..40).map(|n| metrics(f64::from(n) + plus)).collect::<Vec<_>>();
        let (ours, theirs) =
            (PerSet::from([("a".to_owned(), of(0.0))]), PerSet::from([("a".to_owned(), of(1.0))]));
        let intervals = intervals(&Draws::of(&ours), std::iter::once(("b", &Draws::of(&theirs))));
        let [low, high] = intervals.own["alloc"];
        assert!(low < 19.5 && high > 19.5 && high - low > 2.0, "{low}..{high}");
        let [low, high] = intervals.minus["b"]["alloc"];
        assert!((low + 1.0).abs() < 1e-9 && (high + 1.0).abs() < 1e-9, "{low}..{high}");
    }

    #[test]
    fn there_is_no_ratio_to_an_opponent_that_has_none_of_it() {
        let of = |alloc: f64, excess: f64| vec![Metrics { alloc, excess, ..Metrics::default() }; 3];
        let with_one = |mut series: Vec<Metrics>| {
            series[0].excess = 2.0;
            series
        };
        let set = |series| PerSet::from([("a".to_owned(), series)]);
        let (ours, none, some, all) =
            (set(of(1.0, 3.0)), set(of(2.0, 0.0)), set(with_one(of(2.0, 0.0))), set(of(2.0, 2.0)));
        let opponents = [("none", Draws::of(&none)), ("some", Draws::of(&some)), ("all", Draws::of(&all))];
        let opponents = opponents.iter().map(|(name, draws)| (*name, draws));
        let intervals = intervals(&Draws::of(&ours), opponents);
        for opponent in ["none", "some"] {
            // one series of three has some: a draw without it has nothing to divide by
            assert_eq!(intervals.ratio[opponent]["excess"], None, "{opponent}");
            assert_eq!(intervals.ratio_below[opponent]["excess"], None, "{opponent}");
            assert_eq!(intervals.ratio[opponent]["alloc"], Some([0.5, 0.5]), "{opponent}");
        }
        assert_eq!(intervals.ratio["all"]["excess"], Some([1.5, 1.5]));
        assert_eq!(intervals.ratio_below["all"]["excess"], Some(1.5));
        let json = serde_json::to_value(&intervals).unwrap();
        assert!(json["ratio"]["none"]["excess"].is_null(), "{json}");
    }

    #[test]
    fn a_bar_is_judged_by_the_paired_difference() {
        let of = |times: f64| {
            PerSet::from([("a".to_owned(), (1..40).map(|n| metrics(f64::from(n) * times)).collect())])
        };
        let alloc = |metrics: &Metrics| metrics.alloc;
        // a tenth less on every series, however far apart the series are
        let less = excess(&of(0.9), Some(&of(1.0)), alloc, 0.9);
        assert!(less.mean.abs() < 1e-9 && less.bound.abs() < 1e-9, "{less:?}");
        let more = excess(&of(0.91), Some(&of(1.0)), alloc, 0.9);
        assert!((more.mean - 0.2).abs() < 1e-9 && more.bound > more.mean, "{more:?}");
        let absolute = excess(&of(1.0), None, alloc, 21.0);
        assert!((absolute.mean + 1.0).abs() < 1e-9 && absolute.bound > 0.5, "{absolute:?}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_repeats() {
        let shuffled = || {
            let mut items: Vec<u32> = (0..50).collect();
            Seeded::new(1).shuffle(&mut items);
            items
        };
        let mut sorted = shuffled();
        assert_eq!(sorted, shuffled());
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
}
