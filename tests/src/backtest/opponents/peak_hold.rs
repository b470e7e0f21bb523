//! Decayed peak-hold: the highest minute, halved every few hours, plus 5 %. The simplest rule that is hard to beat, and
//! the floor for ours; one number of state.

use optipod_common::replay::{Observation, Rule};

use super::minutes::Minutes;

const MARGIN: f64 = 1.05;
const AFTER_OOM: f64 = 1.2;

/// One container.
#[derive(Debug, Clone)]
pub struct PeakHold {
    /// Seconds.
    half_life: f64,
    held: f64,
    observed: f64,
    minutes: Minutes,
}

impl PeakHold {
    /// With a half-life in hours.
    pub fn new(hours: f64) -> Self {
        Self { half_life: hours * 3600.0, held: 0.0, observed: 0.0, minutes: Minutes::default() }
    }
}

impl Rule for PeakHold {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        let minute = self.minutes.add(seen);
        let peak = if seen.oom { seen.size as f64 * AFTER_OOM } else { minute?.peak };
        let elapsed = self.minutes.elapsed() - self.observed;
        self.observed = self.minutes.elapsed();
        self.held = peak.max(self.held * (-elapsed / self.half_life).exp2());
        Some(super::rounded(self.held * MARGIN))
    }
}
