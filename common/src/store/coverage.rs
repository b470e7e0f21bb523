//! Which time has data: one bit for each fine slot of the recent past, the number of them for each day before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::FINE_SLOT;
use crate::packed::packed_fields;
use crate::time::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Fine slots with data: 40 bytes an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    /// By the start of the hour: a bit for each of its 240 slots.
    recent: BTreeMap<Timestamp, [u64; 4]>,
    /// Slots of hours that are no longer told apart, by the start of their day.
    before: BTreeMap<Timestamp, u32>,
}

packed_fields!(Coverage { recent, before });

/// Word and bit of the slot that holds `at`.
fn place(at: Timestamp) -> (Timestamp, usize, u64) {
    let hour = at.floor_to(HOUR);
    let slot = at.since(hour).as_secs() / FINE_SLOT.as_secs();
    (hour, usize::try_from(slot / 64).unwrap_or(0), 1 << (slot % 64))
}

impl Coverage {
    /// The fine slot that holds `at` has data.
    pub fn add(&mut self, at: Timestamp) {
        let (hour, word, bit) = place(at);
        if let Some(word) = self.recent.entry(hour).or_default().get_mut(word) {
            *word |= bit;
        }
    }

    /// Time with data in slots that begin at `from` or later; beyond the recent past by whole days.
    pub fn since(&self, from: Timestamp) -> Duration {
        let (hour, first, bit) = place(from + FINE_SLOT - Duration::from_micros(1));
        let slots = |hour_of: &Timestamp, words: &[u64; 4]| -> u32 {
            let words = words.iter().enumerate().map(|(n, word)| match n.cmp(&first) {
                _ if *hour_of != hour => *word,
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => word & !(bit - 1),
                std::cmp::Ordering::Greater => *word,
            });
            words.map(u64::count_ones).sum()
        };
        let recent: u32 = self.recent.range(hour..).map(|(hour, words)| slots(hour, words)).sum();
        let before = self.before.range(from..).map(|(_, slots)| *slots);
        FINE_SLOT * before.fold(recent, u32::saturating_add)
    }

    /// Keeps the hours that end after `oldest` slot by slot, those before by the day as far back as `remembered`.
    pub fn age(&mut self, oldest: Timestamp, remembered: Timestamp) {
        while let Some(hour) = self.recent.first_entry().filter(|hour| *hour.key() + HOUR <= oldest) {
            let (hour, words) = hour.remove_entry();
            let slots = self.before.entry(hour.floor_to(DAY)).or_default();
            *slots = slots.saturating_add(words.into_iter().map(u64::count_ones).sum());
        }
        self.before = self.before.split_off(&remembered);
    }

    /// Forgets the slots that begin after `now`.
    pub fn rewind(&mut self, now: Timestamp) {
        self.before.retain(|day, _| *day <= now);
        self.recent.retain(|hour, _| *hour <= now);
        let (hour, last, bit) = place(now);
        if let Some(words) = self.recent.get_mut(&hour) {
            for (n, word) in words.iter_mut().enumerate() {
                *word &= match n.cmp(&last) {
                    std::cmp::Ordering::Less => u64::MAX,
                    std::cmp::Ordering::Equal => bit | (bit - 1),
                    std::cmp::Ordering::Greater => 0,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    proptest! {
        #[test]
        fn counts_what_a_set_of_slots_would(
            slots in prop::collection::vec(0..20_000_i64, 0..200), from in 0..20_000_i64, now in 0..20_000_i64,
        ) {
            let mut coverage = Coverage::default();
            let mut set = BTreeSet::new();
            for slot in slots {
                coverage.add(at(slot));
                set.insert(at(slot).floor_to(FINE_SLOT));
            }
            let since = |set: &BTreeSet<Timestamp>| {
                FINE_SLOT * u32::try_from(set.range(at(from)..).count()).unwrap()
            };
            prop_assert_eq!(coverage.since(at(from)), since(&set));
            coverage.rewind(at(now));
            set.retain(|start| *start <= at(now));
            prop_assert_eq!(coverage.since(at(from)), since(&set));
        }
    }

    #[test]
    fn what_is_old_counts_by_the_day() {
        let mut coverage = Coverage::default();
        // two days from 08:00 on, a slot each hour
        (0..48).for_each(|hour| coverage.add(at(hour * 3600)));
        let slots = |coverage: &Coverage, from| coverage.since(at(from)).as_secs() / 15;
        assert_eq!((slots(&coverage, 0), slots(&coverage, 1)), (48, 47));
        coverage.age(at(47 * 3600), at(-86_400));
        assert_eq!(
            (slots(&coverage, -9 * 3600), slots(&coverage, 0), slots(&coverage, 46 * 3600)),
            (48, 32, 1)
        );
        coverage.age(at(1000 * 3600), at(900 * 3600));
        assert_eq!(coverage, Coverage::default());
    }
}
