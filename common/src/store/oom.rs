//! OOM kills as evidence: what was too small, and for how long that counts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::packed::packed_fields;
use crate::time::Timestamp;

/// What a killed container needs at least, in thousandths of what it had: the same step as VPA's.
const GROWTH: u64 = 1200;

/// The highest amount that proved too small, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OomKill {
    /// When.
    pub at: Timestamp,
    /// What the container had when it was killed, units of 64 KiB.
    pub size: u64,
}

packed_fields!(OomKill { at, size });

impl OomKill {
    /// Of two kills the higher size counts, from the later moment.
    pub fn merge(old: Option<Self>, new: Self) -> Self {
        old.map_or(new, |old| Self { at: old.at.max(new.at), size: old.size.max(new.size) })
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

    #[test]
    fn kills_in_any_order_are_one_evidence() {
        let kill = |at, size| OomKill { at: Timestamp::from_unix_seconds(at), size };
        let forward = OomKill::merge(Some(kill(1, 50)), kill(2, 40));
        assert_eq!(forward, OomKill::merge(Some(kill(2, 40)), kill(1, 50)));
        assert_eq!(forward, kill(2, 50));
    }
}
