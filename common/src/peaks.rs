//! The highest use per minute and per hour: what Adaptive decides on.
//!
//! A slot keeps the maximum over all pods of a workload, of what each used or, where use was cut off, is taken to need.
//! A maximum needs no order and forgives repetition: frames may come late, twice or shuffled, and the ring is the same.
//! One hot pod among many is seen, where a merged percentile would hide it.

use std::time::Duration;

use crate::packed::{Damaged, Pack, Reader};
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

/// Highest peak that a slot holds, in the series' unit; larger ones are kept as this one.
pub const MAX_PEAK: u64 = (u32::MAX - 1) as u64;

/// The newest slots of a fixed width, each with the maximum of what was recorded into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeakRing {
    width: Duration,
    capacity: u32,
    /// Number of the first slot since the Unix epoch; meaningless while `slots` is empty.
    first: i64,
    /// From the oldest slot that was seen to the newest: 0 = not seen, else the peak plus one.
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

    /// Adds one observation in the series' unit. What is older than the ring reaches is ignored.
    pub fn record(&mut self, at: Timestamp, peak: u64) {
        let word = u32::try_from(peak.min(MAX_PEAK)).unwrap_or(u32::MAX - 1) + 1;
        self.raise(self.slot_of(at), word);
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
    pub fn at(&self, slot: i64) -> Option<u64> {
        peak_of(*self.slots.get(usize::try_from(slot.checked_sub(self.first)?).ok()?)?)
    }

    /// All slots that were seen, oldest first, each with its number.
    pub fn iter(&self) -> impl Iterator<Item = (i64, u64)> {
        (self.first..).zip(&self.slots).filter_map(|(slot, word)| Some((slot, peak_of(*word)?)))
    }

    /// Highest peak of the slots with these numbers; `None` when none was seen.
    pub fn highest(&self, slots: std::ops::Range<i64>) -> Option<u64> {
        slots.filter_map(|slot| self.at(slot)).max()
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

    /// Drops what lies further back from `now` than the ring reaches: nothing newer may ever come and push it out.
    pub fn age(&mut self, now: Timestamp) {
        self.forget_before(self.slot_of(now).saturating_sub(i64::from(self.capacity) - 1));
    }

    /// Drops the slots that begin after `now`: a clock that was wrong recorded them, and what is true later would be
    /// too old for the ring.
    pub fn rewind(&mut self, now: Timestamp) {
        let kept = self.slot_of(now).saturating_sub(self.first).saturating_add(1);
        self.slots.truncate(usize::try_from(kept).unwrap_or(0));
        while self.slots.pop_if(|word| *word == 0).is_some() {}
        self.first = if self.slots.is_empty() { 0 } else { self.first };
    }

    /// The slots: width and capacity are what they are for.
    pub(crate) fn pack(&self, into: &mut Vec<u8>) {
        self.first.pack(into);
        self.slots.pack(into);
    }

    /// Fills an empty ring with what [`Self::pack`] wrote.
    pub(crate) fn unpack(mut self, from: &mut Reader<'_>) -> Result<Self, Damaged> {
        (self.first, self.slots) = Pack::unpack(from)?;
        let is_time = |slot| slot >= self.slot_of(Timestamp::MIN) && slot <= self.slot_of(Timestamp::MAX);
        let fits = self.slots.len() <= usize::try_from(self.capacity).unwrap_or(usize::MAX);
        let closed = [self.slots.first(), self.slots.last()].into_iter().flatten().all(|word| *word > 0);
        let placed = match self.newest() {
            None => self.first == 0,
            Some(newest) => is_time(self.first) && is_time(newest),
        };
        if fits && closed && placed { Ok(self) } else { Err(from.damaged("not a ring of peaks")) }
    }

    fn raise(&mut self, slot: i64, word: u32) {
        if word == 0 {
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
            *kept = word.max(*kept);
        }
    }

    /// Drops the slots before `slot`, and what is empty at the new beginning: equal content is equal state.
    fn forget_before(&mut self, slot: i64) {
        let old = usize::try_from(slot.saturating_sub(self.first)).unwrap_or(0).min(self.slots.len());
        let empty = self.slots.iter().skip(old).take_while(|word| **word == 0).count();
        self.slots.drain(..old + empty);
        let dropped = i64::try_from(old + empty).unwrap_or(0);
        self.first = if self.slots.is_empty() { 0 } else { self.first + dropped };
    }
}

fn peak_of(word: u32) -> Option<u64> {
    word.checked_sub(1).map(u64::from)
}

/// Hour peaks of four weeks of one series: at most 2.7 KB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourPeaks(PeakRing);

impl Default for HourPeaks {
    fn default() -> Self {
        Self(PeakRing::new(HOUR, HOURS))
    }
}

impl HourPeaks {
    /// Adds all that `other` holds, in any order and as often as you like.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The hours.
    pub const fn ring(&self) -> &PeakRing {
        &self.0
    }

    /// Highest peak that this hour of the week and the next one had in earlier weeks; `None` unless at least one
    /// earlier week was seen. A floor for decreases (24 hours see neither Monday nor month-end).
    pub fn hour_of_week(&self, now: Timestamp) -> Option<u64> {
        self.of_weeks(now).max()
    }

    /// The same, as far as at least two earlier weeks had it: a burst that happened once is no habit.
    pub fn repeated(&self, now: Timestamp) -> Option<u64> {
        let mut weeks: Vec<u64> = self.of_weeks(now).collect();
        weeks.sort_unstable_by(|a, b| b.cmp(a));
        weeks.get(1).copied()
    }

    /// Number of earlier weeks in which this hour of the week was seen.
    pub fn weeks_known(&self, now: Timestamp) -> usize {
        let hour = self.0.slot_of(now);
        (1..=4).filter(|week| self.0.at(hour - week * WEEK).is_some()).count()
    }

    fn of_weeks(&self, now: Timestamp) -> impl Iterator<Item = u64> {
        let hour = self.0.slot_of(now);
        (1..=4).filter_map(move |week| self.0.highest(hour - week * WEEK..hour - week * WEEK + 2))
    }
}

/// Minute peaks of up to a day, and hour peaks of four weeks of one series: at most 8.5 KB, and 3 KB where minutes go once
/// they are learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinutePeaks {
    minutes: PeakRing,
    hours: HourPeaks,
}

impl Default for MinutePeaks {
    fn default() -> Self {
        Self { minutes: PeakRing::new(MINUTE, MINUTES), hours: HourPeaks::default() }
    }
}

impl Pack for MinutePeaks {
    fn pack(&self, into: &mut Vec<u8>) {
        self.minutes.pack(into);
        self.hours.0.pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let Self { minutes, hours } = Self::default();
        Ok(Self { minutes: minutes.unpack(from)?, hours: HourPeaks(hours.0.unpack(from)?) })
    }
}

impl MinutePeaks {
    /// Adds one observation of one pod: the highest use, or what it is known to need beyond that.
    pub fn record(&mut self, at: Timestamp, value: u64) {
        self.minutes.record(at, value);
        self.hours.0.record(at, value);
    }

    /// The minutes of the last day.
    pub const fn minutes(&self) -> &PeakRing {
        &self.minutes
    }

    /// The hours of the last four weeks.
    pub const fn hours(&self) -> &HourPeaks {
        &self.hours
    }

    /// Drops the hours that are older than the ring reaches, and the minutes before `learned`, after which no more is
    /// learned from them.
    pub fn age(&mut self, now: Timestamp, learned: Timestamp) {
        self.minutes.forget_before(self.minutes.slot_of(learned));
        self.minutes.age(now);
        self.hours.0.age(now);
    }

    /// See [`PeakRing::rewind`].
    pub fn rewind(&mut self, now: Timestamp) {
        self.minutes.rewind(now);
        self.hours.0.rewind(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minute(n: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + n * 60)
    }

    fn ring(records: &[(i64, u64)]) -> PeakRing {
        let mut ring = PeakRing::new(MINUTE, MINUTES);
        for (at, value) in records {
            ring.record(minute(*at), *value);
        }
        ring
    }

    /// Hours with one peak, counted back from now, in weeks and hours.
    fn hours(records: &[(i64, i64, u64)]) -> HourPeaks {
        let mut peaks = MinutePeaks::default();
        for (weeks, hours, value) in records {
            peaks.record(minute(-(weeks * 168 + hours) * 60), *value);
        }
        peaks.hours().clone()
    }

    proptest! {
        #[test]
        fn order_and_repetition_change_nothing(
            (sorted, shuffled) in prop::collection::vec((0..4000_i64, 0..1000_u64), 1..200)
                .prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle()))
        ) {
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
            let ring = ring(&values.iter().map(|value| (5, *value)).collect::<Vec<_>>());
            prop_assert_eq!(ring.iter().map(|(_, peak)| peak).collect::<Vec<_>>(), [*values.iter().max().unwrap()]);
        }

        #[test]
        fn what_a_wrong_clock_recorded_is_as_if_it_had_not_been(
            records in prop::collection::vec((0..1000_i64, 0..1000_u64), 0..50), ahead in 0..3000_i64, now in 0..1000_i64,
        ) {
            let (kept, wrong): (Vec<_>, Vec<_>) = records.iter().copied().partition(|(at, _)| *at <= now);
            let mut rewound = ring(&kept);
            for (at, value) in &wrong {
                rewound.record(minute(at + ahead), *value);
            }
            rewound.rewind(minute(now));
            // what the ring had pushed out is lost
            let expected = ring(&kept);
            prop_assert!(rewound.iter().all(|(slot, peak)| expected.at(slot) == Some(peak)));
            if wrong.iter().all(|(at, _)| at + ahead < 1440) {
                prop_assert_eq!(rewound.iter().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
            }
            rewound.record(minute(now), 7);
            prop_assert!(rewound.at(rewound.slot_of(minute(now))) >= Some(7));
        }
    }

    #[test]
    fn a_day_of_minutes_takes_less_than_six_kilobytes() {
        let ring = ring(&(0..5000).map(|n| (n, 7)).collect::<Vec<_>>());
        assert_eq!(ring.slots.len() * 4, 5760);
        assert_eq!(ring.iter().count(), 1440);
    }

    #[test]
    fn what_is_older_than_the_ring_reaches_goes_without_anything_new() {
        let mut ring = ring(&[(0, 7), (100, 8)]);
        ring.age(minute(1439));
        assert_eq!(ring.iter().count(), 2);
        ring.age(minute(1440));
        assert_eq!(ring.iter().map(|(_, peak)| peak).collect::<Vec<_>>(), [8]);
        ring.age(minute(1_000_000));
        assert_eq!(ring.iter().count(), 0);
    }

    #[test]
    fn minutes_that_are_learned_go_and_hours_stay() {
        let mut peaks = MinutePeaks::default();
        (0..120).for_each(|n| peaks.record(minute(n), 7));
        peaks.age(minute(120), minute(100));
        assert_eq!((peaks.minutes().iter().count(), peaks.hours().ring().iter().count()), (20, 2));
        peaks.record(minute(50), 9);
        peaks.age(minute(120), minute(100));
        assert_eq!((peaks.minutes().iter().count(), peaks.hours().ring().iter().count()), (20, 2));
    }

    #[test]
    fn hour_of_week_needs_an_earlier_week() {
        assert_eq!(hours(&[(0, 0, 900)]).hour_of_week(minute(10)), None);
        let peaks = hours(&[(1, 0, 900), (0, 0, 5)]);
        assert_eq!(peaks.hour_of_week(minute(0)), Some(900));
        assert_eq!((peaks.weeks_known(minute(0)), peaks.weeks_known(minute(-1440))), (1, 0));
    }

    #[test]
    fn a_burst_repeats_as_far_as_two_weeks_had_it() {
        for (weeks, expected) in [
            (&[(1, 0, 900)][..], None),
            (&[(1, 0, 900), (2, 0, 100)], Some(100)),
            (&[(1, 0, 900), (2, -1, 700), (3, 0, 100)], Some(700)),
            (&[(1, 0, 900), (2, 3, 700)], None),
        ] {
            assert_eq!(hours(weeks).repeated(minute(0)), expected, "{weeks:?}");
        }
    }

    #[test]
    fn peaks_beyond_the_grid_are_kept_as_the_highest() {
        assert_eq!(ring(&[(0, u64::MAX)]).iter().next().map(|(_, peak)| peak), Some(MAX_PEAK));
    }
}
