//! Throttling as evidence: which CPU limits were too low, and for how long that counts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::ContainerRecord;
use crate::packed::packed_fields;
use crate::quantity::MilliCpu;
use crate::time::Timestamp;

/// A container that was throttled needs this much of the limit at least, in thousandths: its demand is not known, so
/// that limits probe upward by a constant factor until nothing is cut off.
const GROWTH: u64 = 1500;

/// A limit counts when it throttled in frames that ended so far apart: in the frame in which a limit changes, one limit
/// throttled and the other one is read.
const APART: Duration = Duration::from_secs(12);

/// Limits that throttled, in millicores, each with the first and the last moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ThrottledLimits {
    limits: BTreeMap<u64, (Timestamp, Timestamp)>,
}

packed_fields!(ThrottledLimits { limits });

/// A CPU limit that throttled, and how much was seen since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleEvidence {
    /// The limit.
    pub limit: MilliCpu,
    /// Time with data since it throttled for the last time.
    pub seen_since: Duration,
}

impl ThrottledLimits {
    /// What a frame that ended at `end` shows.
    pub fn add(&mut self, record: &ContainerRecord, end: Timestamp) {
        if let Some(limit) = record.limits.cpu.filter(|_| record.cpu.is_throttled()) {
            let (first, last) = self.limits.entry(limit.0).or_insert((end, end));
            (*first, *last) = ((*first).min(end), (*last).max(end));
        }
    }

    /// Forgets what is older than `oldest`, and what a higher limit says as well of those before `last`, after which
    /// frames may still come.
    pub fn compact(&mut self, oldest: Timestamp, last: Timestamp) {
        let counted: Vec<(u64, Timestamp)> = self.counted().collect();
        self.limits.retain(|limit, (_, at)| {
            let void = counted.iter().any(|(higher, later)| higher > limit && *later >= *at && *later < last);
            *at >= oldest && !void
        });
    }

    /// Nothing throttles later than `latest`.
    pub fn rewind(&mut self, latest: Timestamp) {
        for (first, last) in self.limits.values_mut() {
            (*first, *last) = ((*first).min(latest), (*last).min(latest));
        }
    }

    /// Limits that count, with the last moment of each.
    pub fn counted(&self) -> impl Iterator<Item = (u64, Timestamp)> {
        let long = self.limits.iter().filter(|(_, (first, last))| last.since(*first) >= APART);
        long.map(|(limit, (_, last))| (*limit, *last))
    }
}

impl ThrottleEvidence {
    /// What the container needs at least.
    pub fn needed(&self) -> u64 {
        self.limit.0.saturating_mul(GROWTH).div_ceil(1000)
    }

    /// The floor that it gives to a limit over `base`, what use asks for. It decays by evidence: it holds in full until a
    /// whole window was seen without throttling at this limit, and each further window halves what is left of it above
    /// the base. Time without data proves nothing.
    pub fn floor(&self, base: u64, window: Duration) -> u64 {
        let full = self.needed();
        let base = base.min(full);
        let windows = self.seen_since.as_secs().checked_div(window.as_secs()).unwrap_or(0).min(63);
        base + ((full - base) >> windows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_decays_by_what_was_seen() {
        let window = Duration::from_secs(100);
        let after =
            |seconds| ThrottleEvidence { limit: MilliCpu(1000), seen_since: Duration::from_secs(seconds) };
        assert_eq!(after(0).needed(), 1500);
        for (seconds, floor) in [(0, 1500), (99, 1500), (100, 1000), (200, 750), (1_000_000, 500)] {
            assert_eq!(after(seconds).floor(500, window), floor, "{seconds}");
        }
        assert_eq!(after(500).floor(2000, window), 1500, "no more than is known to be needed");
    }
}
