//! What the experts look at: decayed peaks, decayed quantiles, and the same time on earlier days.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decay::Decay;
use crate::packed::{Damaged, Pack, Reader};
use crate::peaks::PeakRing;
use crate::time::Timestamp;

/// Fractional bits of a level. The slowest hold loses 3 in 10,000 a minute: a level of ten units must show that.
pub const FRACTION: u32 = 16;

/// Half-lives of the holds, in minutes.
pub const HOLDS: [u32; 7] = [10, 30, 60, 120, 240, 480, 1440];
/// Half-life of what the quantiles are taken from, in minutes.
const QUANTILE_HALF_LIFE: u32 = 1440;
/// Days that are looked back for the same half hour.
const DAYS: i64 = 3;
const HALF_HOUR: Duration = Duration::from_secs(1800);
const HALF_HOURS: i64 = 48;

/// Where an expert takes its level from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// The highest peak, halved every so many minutes.
    Hold {
        /// Half-life in minutes.
        minutes: u32,
    },
    /// A quantile of the minute peaks of the last days, in 1/1000; never below the newest peak.
    Quantile {
        /// 950 = P95.
        thousandths: u16,
    },
    /// The highest peak of the last so many hours, then forgotten at once.
    Highest {
        /// At most 72.
        hours: u8,
    },
    /// The highest of this and the next half hour on the last three days; never below a short hold.
    SameTime,
}

/// Everything that is remembered of a series: about 1.5 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signals {
    /// Levels of [`HOLDS`].
    holds: Vec<u64>,
    histogram: Histogram,
    /// Half-hour peaks.
    days: PeakRing,
    /// Newest peak.
    newest: u64,
}

impl Default for Signals {
    fn default() -> Self {
        let slots = u32::try_from(HALF_HOURS * DAYS + 2).unwrap_or(u32::MAX);
        Self {
            holds: vec![0; HOLDS.len()],
            histogram: Histogram::default(),
            days: PeakRing::new(HALF_HOUR, slots),
            newest: 0,
        }
    }
}

impl Pack for Signals {
    fn pack(&self, into: &mut Vec<u8>) {
        self.holds.pack(into);
        self.histogram.weights.pack(into);
        self.days.pack(into);
        self.newest.pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let Self { days, .. } = Self::default();
        let holds: Vec<u64> = Pack::unpack(from)?;
        let weights: Vec<(u16, u64)> = Pack::unpack(from)?;
        let ascending = weights.windows(2).all(|pair| pair.first() < pair.last());
        let known = weights.last().is_none_or(|(bucket, _)| *bucket <= MAX_BUCKET);
        if holds.len() != HOLDS.len() || !ascending || !known {
            return Err(from.damaged("not what Adaptive looks at"));
        }
        let histogram = Histogram { weights };
        Ok(Self { holds, histogram, days: days.unpack(from)?, newest: Pack::unpack(from)? })
    }
}

impl Signals {
    /// Adds the peak of a new minute, `elapsed` minutes after the one before.
    pub fn observe(&mut self, minute: Timestamp, level: u64, elapsed: u32) {
        for (hold, half_life) in self.holds.iter_mut().zip(HOLDS) {
            *hold = Decay::over(elapsed, half_life).of(*hold).max(level);
        }
        self.histogram.decay(Decay::over(elapsed, QUANTILE_HALF_LIFE));
        self.histogram.add(level);
        self.raise(minute, level);
        self.newest = level;
    }

    /// A higher value within the newest minute.
    pub fn raise(&mut self, minute: Timestamp, level: u64) {
        self.holds.iter_mut().for_each(|hold| *hold = (*hold).max(level));
        self.days.record(minute, level >> FRACTION);
        self.newest = self.newest.max(level);
    }

    /// Forgets what was recorded for a time after `now`.
    pub fn rewind(&mut self, now: Timestamp) {
        self.days.rewind(now);
    }

    /// Level of one signal at `now`.
    pub fn level(&self, signal: Signal, now: Timestamp) -> u64 {
        match signal {
            Signal::Hold { minutes } => self.hold(minutes),
            Signal::Quantile { thousandths } => self.histogram.quantile(thousandths).max(self.newest),
            Signal::Highest { hours } => {
                let slot = self.days.slot_of(now);
                let highest = self.days.highest(slot - i64::from(hours) * 2..slot + 1);
                highest.map_or(self.newest, |units| (units << FRACTION).max(self.newest))
            }
            Signal::SameTime => self.hold(60).max(self.same_time(now).unwrap_or_else(|| self.hold(1440))),
        }
    }

    fn hold(&self, minutes: u32) -> u64 {
        let of = |wanted| HOLDS.iter().zip(&self.holds).find(|(half_life, _)| **half_life == wanted);
        of(minutes).map_or(self.newest, |(_, level)| *level)
    }

    fn same_time(&self, now: Timestamp) -> Option<u64> {
        let slot = self.days.slot_of(now);
        let of_day = |day: i64| {
            let start = slot - day * HALF_HOURS;
            self.days.highest(start..start + 2)
        };
        (1..=DAYS).filter_map(of_day).max().map(|units| units << FRACTION)
    }
}

/// Decayed weights of logarithmic buckets, eight per power of two (9 % wide), sparse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Histogram {
    /// (bucket, weight), ascending by bucket.
    weights: Vec<(u16, u64)>,
}

/// Highest bucket whose bounds are levels.
const MAX_BUCKET: u16 = 63 * 8 + 6;

/// Weight of one new minute.
const WEIGHT: u64 = 1 << 32;
/// What weighs less than a ten-thousandth of a minute is forgotten.
const NEGLIGIBLE: u64 = WEIGHT / 10_000;

impl Histogram {
    fn decay(&mut self, by: Decay) {
        self.weights.retain_mut(|(_, weight)| {
            *weight = by.of(*weight);
            *weight > NEGLIGIBLE
        });
    }

    fn add(&mut self, level: u64) {
        let bucket = bucket_of(level);
        match self.weights.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => {
                if let Some((_, weight)) = self.weights.get_mut(at) {
                    *weight = weight.saturating_add(WEIGHT);
                }
            }
            Err(at) => self.weights.insert(at, (bucket, WEIGHT)),
        }
    }

    /// Upper bound of the bucket in which the quantile lies; 0 when empty.
    fn quantile(&self, thousandths: u16) -> u64 {
        let total: u128 = self.weights.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let wanted = total * u128::from(thousandths) / 1000;
        let mut sum = 0_u128;
        let found = self.weights.iter().find(|(_, weight)| {
            sum += u128::from(*weight);
            sum >= wanted
        });
        found.map_or(0, |(bucket, _)| highest_of(*bucket))
    }
}

/// Bucket of a level: its power of two and the three bits below.
fn bucket_of(level: u64) -> u16 {
    if level < 8 {
        return 0;
    }
    let power = level.ilog2();
    let below = (level >> (power - 3)) & 7;
    u16::try_from(u64::from(power) * 8 + below).unwrap_or(u16::MAX)
}

fn highest_of(bucket: u16) -> u64 {
    if bucket == 0 {
        return 8;
    }
    let (power, below) = (u32::from(bucket / 8), u64::from(bucket % 8));
    ((9 + below) << power.saturating_sub(3)) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_level_within_an_eighth(level in 8..1_u64 << 60) {
            let top = highest_of(bucket_of(level));
            prop_assert!(top >= level && top - level <= level / 8, "{level} in a bucket up to {top}");
        }

        #[test]
        fn quantiles_follow_the_sorted_values(values in prop::collection::vec(1..1_000_000_u64, 1..300)) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.add(value << FRACTION);
            }
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let index = (values.len() * 950).div_ceil(1000).max(1) - 1;
            let exact = sorted[index] << FRACTION;
            let got = histogram.quantile(950);
            prop_assert!(got >= exact / 9 * 8 && got <= exact + exact / 8, "{got} for {exact}");
        }
    }

    #[test]
    fn the_same_half_hour_of_yesterday_is_a_level() {
        let mut signals = Signals::default();
        let at = |minute: i64| Timestamp::from_unix_seconds(1_800_000_000 + minute * 60);
        (0..1440).for_each(|n| {
            let level = if (600..610).contains(&n) { 900 } else { 100 };
            signals.observe(at(n), level << FRACTION, 1);
        });
        assert_eq!(signals.level(Signal::SameTime, at(1440 + 605)) >> FRACTION, 900);
        assert_eq!(signals.level(Signal::SameTime, at(1440 + 300)) >> FRACTION, 100);
    }
}
