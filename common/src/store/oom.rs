//! OOM kills as evidence: what was too small, and for how long that counts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::packed::packed_fields;
use crate::time::Timestamp;

/// What a killed container needs at least, in thousandths of what it had: the same step as VPA's.
const GROWTH: u64 = 1200;

/// Amounts that proved too small, units of 64 KiB, each with the last moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OomKills {
    sizes: BTreeMap<u64, Timestamp>,
}

packed_fields!(OomKills { sizes });

impl OomKills {
    /// A container that had `size` was killed.
    pub fn add(&mut self, size: u64, at: Timestamp) {
        let last = self.sizes.entry(size).or_insert(at);
        *last = at.max(*last);
    }

    /// Forgets what is older than `oldest`, and what a higher size says as well of those before `last`, after which
    /// frames may still come.
    pub fn compact(&mut self, oldest: Timestamp, last: Timestamp) {
        let all: Vec<(u64, Timestamp)> = self.iter().collect();
        self.sizes.retain(|size, at| {
            let void = all.iter().any(|(higher, later)| higher > size && *later >= *at && *later < last);
            *at >= oldest && !void
        });
    }

    /// Nothing happened later than `latest`.
    pub fn rewind(&mut self, latest: Timestamp) {
        self.sizes.values_mut().for_each(|at| *at = latest.min(*at));
    }

    /// Those that say something: a kill says nothing beside a later one at a higher size.
    pub fn telling(&self) -> Vec<(u64, Timestamp)> {
        let mut latest = None;
        let mut telling: Vec<_> = self.iter().collect();
        telling.reverse();
        telling.retain(|(_, at)| {
            let new = latest.is_none_or(|latest| *at > latest);
            latest = latest.max(Some(*at));
            new
        });
        telling
    }

    /// Each size with the last moment.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Timestamp)> {
        self.sizes.iter().map(|(size, at)| (*size, *at))
    }

    /// The last kill.
    pub fn newest(&self) -> Option<Timestamp> {
        self.sizes.values().max().copied()
    }
}

/// An OOM kill, and how much those it is evidence for were seen since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomEvidence {
    /// When.
    pub at: Timestamp,
    /// What the container had when it was killed, units of 64 KiB.
    pub size: u64,
    /// Time with data since then, of the pods that are asked for.
    pub seen_since: Duration,
}

impl OomEvidence {
    /// The floor that it gives over `peak`, the highest use since. It decays by evidence: it holds in full until a whole
    /// window was seen without another kill, and each further window halves what is left of it above the peak. Time
    /// without data proves nothing.
    pub fn floor(&self, peak: u64, window: Duration) -> u64 {
        let full = self.size.saturating_mul(GROWTH).div_ceil(1000);
        let windows = self.seen_since.as_secs().checked_div(window.as_secs()).unwrap_or(0).min(63);
        let above = full.saturating_sub(peak);
        if windows == 0 { full } else { peak.saturating_add(above >> windows).min(full.max(peak)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_decays_by_what_was_seen() {
        let window = Duration::from_secs(100);
        let after = |seconds| OomEvidence {
            at: Timestamp::from_unix_seconds(0),
            size: 1000,
            seen_since: Duration::from_secs(seconds),
        };
        for (seconds, floor) in [(0, 1200), (99, 1200), (100, 900), (200, 750), (1_000_000, 600)] {
            assert_eq!(after(seconds).floor(600, window), floor, "{seconds}");
        }
        assert_eq!(after(0).floor(2000, window), 1200);
        assert_eq!(after(100).floor(2000, window), 2000);
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn kills(all: &[(u64, i64)]) -> OomKills {
        let mut kills = OomKills::default();
        for (size, second) in all {
            kills.add(*size, at(*second));
        }
        kills
    }

    #[test]
    fn kills_in_any_order_are_one_evidence() {
        assert_eq!(kills(&[(50, 1), (40, 2), (50, 3)]), kills(&[(50, 3), (50, 1), (40, 2)]));
    }

    #[test]
    fn a_small_kill_does_not_bring_back_what_a_larger_one_proved_long_ago() {
        let all = kills(&[(8000, 1), (250, 100)]);
        assert_eq!(all.telling(), [(8000, at(1)), (250, at(100))]);
    }

    #[test]
    fn what_a_larger_kill_says_too_is_forgotten_and_so_is_what_is_old() {
        let mut all = kills(&[(40, 5), (50, 6), (30, 9), (70, 1)]);
        all.compact(at(2), at(100));
        assert_eq!(all, kills(&[(50, 6), (30, 9)]));
        all.compact(at(2), at(3));
        assert_eq!(all, kills(&[(50, 6), (30, 9)]));
    }
}
