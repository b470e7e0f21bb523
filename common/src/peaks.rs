//! The highest use per minute and per hour: what Adaptive decides on.
//!
//! A slot keeps the maximum over all pods of a workload. A maximum needs no order and forgives repetition: frames may
//! come late, twice or shuffled, and the ring is the same. One hot pod among many is seen, where a merged percentile
//! would hide it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Width of the fine slots.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Width of the coarse slots.
pub const HOUR: Duration = Duration::from_secs(3600);

/// Fine slots: one day, 4 bytes each.
const MINUTES: u32 = 24 * 60;
/// Coarse slots: four weeks, so that each hour of the week was seen up to four times.
const HOURS: u32 = 28 * 24;
/// Hours in a week.
const WEEK: i64 = 7 * 24;

const SEEN: u32 = 1 << 31;
const CENSORED: u32 = 1 << 30;
/// Highest peak that a slot holds, in the series' unit; larger ones are kept as this one.
pub const MAX_PEAK: u64 = (CENSORED - 1) as u64;

/// What is known of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// Highest use of any pod, in the series' unit.
    pub value: u64,
    /// Some pod was throttled: demand may have been higher.
    pub censored: bool,
}

/// The newest slots of a fixed width, each with the maximum of what was recorded into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakRing {
    width: Duration,
    capacity: u32,
    /// Number of the first slot since the Unix epoch; meaningless while `slots` is empty.
    first: i64,
    /// From the oldest slot that was seen to the newest.
    slots: Vec<u32>,
}

impl PeakRing {
    /// An empty ring of `capacity` slots. A zero width is taken as one microsecond.
    pub const fn new(width: Duration, capacity: u32) -> Self {
        Self { width, capacity, first: 0, slots: Vec::new() }
    }

    /// Number of the slot that holds `at`, counted from the Unix epoch.
    pub fn slot_of(&self, at: Timestamp) -> i64 {
        at.unix_micros().div_euclid(i64::try_from(self.width.as_micros()).unwrap_or(i64::MAX).max(1))
    }

    /// Adds one observation. What is older than the ring reaches is ignored.
    pub fn record(&mut self, at: Timestamp, peak: Peak) {
        let slot = self.slot_of(at);
        let value = u32::try_from(peak.value.min(MAX_PEAK)).unwrap_or(CENSORED - 1);
        self.raise(slot, SEEN | value | if peak.censored { CENSORED } else { 0 });
    }

    /// Adds all that `other` holds; the result does not depend on which was merged into which. Rings of unlike width
    /// describe different things: then nothing is added.
    pub fn merge(&mut self, other: &Self) {
        if self.slots.is_empty() && (self.width, self.capacity) == (other.width, other.capacity) {
            self.clone_from(other);
        } else if self.width == other.width {
            for (slot, word) in (other.first..).zip(&other.slots) {
                self.raise(slot, *word);
            }
        }
    }

    /// The peak of a slot; `None` when nothing was recorded into it.
    pub fn at(&self, slot: i64) -> Option<Peak> {
        let word = *self.slots.get(usize::try_from(slot.checked_sub(self.first)?).ok()?)?;
        peak_of(word)
    }

    /// All slots that were seen, oldest first, each with its number.
    pub fn iter(&self) -> impl Iterator<Item = (i64, Peak)> {
        (self.first..).zip(&self.slots).filter_map(|(slot, word)| Some((slot, peak_of(*word)?)))
    }

    /// Highest peak of the slots with these numbers; `None` when none was seen.
    pub fn highest(&self, slots: std::ops::Range<i64>) -> Option<u64> {
        slots.filter_map(|slot| self.at(slot)).map(|peak| peak.value).max()
    }

    /// Number of the newest slot; `None` when the ring is empty.
    pub fn newest(&self) -> Option<i64> {
        let length = i64::try_from(self.slots.len()).unwrap_or(i64::MAX);
        (length > 0).then(|| self.first.saturating_add(length - 1))
    }

    /// Start of a slot.
    pub fn start_of(&self, slot: i64) -> Timestamp {
        let width = i64::try_from(self.width.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros(slot.saturating_mul(width))
    }

    fn raise(&mut self, slot: i64, word: u32) {
        if word & SEEN == 0 {
            return;
        }
        let capacity = i64::from(self.capacity);
        match self.newest() {
            None => {
                self.first = slot;
                self.slots.push(word);
                return;
            }
            Some(newest) if slot > newest => {
                if slot.saturating_sub(self.first) >= capacity {
                    self.forget_before(slot - capacity + 1);
                }
                if self.slots.is_empty() {
                    self.first = slot;
                }
                self.slots.resize(usize::try_from(slot - self.first).unwrap_or(0) + 1, 0);
            }
            Some(newest) if slot <= newest.saturating_sub(capacity) => return,
            Some(_) if slot < self.first => {
                let missing = usize::try_from(self.first - slot).unwrap_or(0);
                self.slots.splice(0..0, std::iter::repeat_n(0, missing));
                self.first = slot;
            }
            Some(_) => {}
        }
        let index = usize::try_from(slot - self.first).unwrap_or(usize::MAX);
        if let Some(kept) = self.slots.get_mut(index) {
            let value = (*kept & (CENSORED - 1)).max(word & (CENSORED - 1));
            *kept = SEEN | value | ((*kept | word) & CENSORED);
        }
    }

    /// Drops the slots before `slot`, and what is empty at the new beginning: equal content is equal state.
    fn forget_before(&mut self, slot: i64) {
        let old = usize::try_from(slot.saturating_sub(self.first)).unwrap_or(0).min(self.slots.len());
        let empty = self.slots.iter().skip(old).take_while(|word| **word & SEEN == 0).count();
        self.slots.drain(..old + empty);
        self.first += i64::try_from(old + empty).unwrap_or(0);
    }
}

fn peak_of(word: u32) -> Option<Peak> {
    (word & SEEN != 0)
        .then(|| Peak { value: u64::from(word & (CENSORED - 1)), censored: word & CENSORED != 0 })
}

/// Minute peaks of a day and hour peaks of four weeks of one series: at most 8.5 KB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinutePeaks {
    minutes: PeakRing,
    hours: PeakRing,
}

impl Default for MinutePeaks {
    fn default() -> Self {
        Self { minutes: PeakRing::new(MINUTE, MINUTES), hours: PeakRing::new(HOUR, HOURS) }
    }
}

impl MinutePeaks {
    /// Adds one observation of one pod: the highest use, and whether it was throttled.
    pub fn record(&mut self, at: Timestamp, value: u64, censored: bool) {
        self.minutes.record(at, Peak { value, censored });
        self.hours.record(at, Peak { value, censored });
    }

    /// Adds all that `other` holds, in any order and as often as you like.
    pub fn merge(&mut self, other: &Self) {
        self.minutes.merge(&other.minutes);
        self.hours.merge(&other.hours);
    }

    /// The minutes of the last day.
    pub const fn minutes(&self) -> &PeakRing {
        &self.minutes
    }

    /// The hours of the last four weeks.
    pub const fn hours(&self) -> &PeakRing {
        &self.hours
    }

    /// Highest peak of the last `window` before and including the minute of `now`; `None` without data.
    pub fn highest(&self, now: Timestamp, window: Duration) -> Option<u64> {
        let slots = i64::try_from(window.as_secs().div_ceil(MINUTE.as_secs())).unwrap_or(i64::MAX);
        let last = self.minutes.slot_of(now);
        let first = last.saturating_sub(slots.min(i64::from(MINUTES)));
        self.minutes.highest(first..last.saturating_add(1))
    }

    /// Highest peak that this hour of the week and the next one had in earlier weeks; `None` unless at least one
    /// earlier week was seen. A floor for decreases (24 hours see neither Monday nor month-end).
    pub fn hour_of_week(&self, now: Timestamp) -> Option<u64> {
        let hour = self.hours.slot_of(now);
        (1..=4).filter_map(|week| self.hours.highest(hour - week * WEEK..hour - week * WEEK + 2)).max()
    }

    /// Number of earlier weeks in which this hour of the week was seen.
    pub fn weeks_known(&self, now: Timestamp) -> usize {
        let hour = self.hours.slot_of(now);
        (1..=4).filter(|week| self.hours.at(hour - week * WEEK).is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minute(n: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + n * 60)
    }

    proptest! {
        #[test]
        fn order_and_repetition_change_nothing(
            (sorted, shuffled) in prop::collection::vec((0..4000_i64, 0..1000_u64, any::<bool>()), 1..200)
                .prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle()))
        ) {
            let ring = |records: &[(i64, u64, bool)]| {
                let mut peaks = MinutePeaks::default();
                for (at, value, censored) in records {
                    peaks.record(minute(*at), *value, *censored);
                }
                peaks
            };
            let whole = ring(&sorted);
            prop_assert_eq!(&whole, &ring(&shuffled));
            let (left, right) = shuffled.split_at(shuffled.len() / 2);
            let mut merged = ring(left);
            merged.merge(&ring(right));
            merged.merge(&ring(left));
            prop_assert_eq!(&whole, &merged);
        }

        #[test]
        fn a_slot_has_the_maximum_of_its_minute(values in prop::collection::vec(0..1000_u64, 1..20)) {
            let mut peaks = MinutePeaks::default();
            for value in &values {
                peaks.record(minute(5), *value, false);
            }
            prop_assert_eq!(peaks.highest(minute(5), MINUTE), values.iter().copied().max());
        }
    }

    #[test]
    fn a_day_of_minutes_takes_less_than_six_kilobytes() {
        let mut ring = PeakRing::new(MINUTE, MINUTES);
        (0..5000).for_each(|n| ring.record(minute(n), Peak { value: 7, censored: false }));
        assert_eq!(ring.slots.len() * 4, 5760);
        assert_eq!(ring.iter().count(), 1440);
    }

    #[test]
    fn one_throttled_pod_marks_the_minute() {
        let mut peaks = MinutePeaks::default();
        peaks.record(minute(0), 10, false);
        peaks.record(minute(0), 4, true);
        assert_eq!(
            peaks.minutes().iter().last().map(|(_, peak)| peak),
            Some(Peak { value: 10, censored: true })
        );
    }

    #[test]
    fn hour_of_week_needs_an_earlier_week() {
        let mut peaks = MinutePeaks::default();
        peaks.record(minute(0), 900, false);
        assert_eq!(peaks.hour_of_week(minute(10)), None);
        peaks.record(minute(7 * 1440), 5, false);
        assert_eq!(peaks.hour_of_week(minute(7 * 1440)), Some(900));
        assert_eq!((peaks.weeks_known(minute(7 * 1440)), peaks.weeks_known(minute(6 * 1440))), (1, 0));
    }

    #[test]
    fn peaks_beyond_the_grid_are_kept_as_the_highest() {
        let mut peaks = MinutePeaks::default();
        peaks.record(minute(0), u64::MAX, false);
        assert_eq!(peaks.highest(minute(0), MINUTE), Some(MAX_PEAK));
    }
}
