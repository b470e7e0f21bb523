//! Google Autopilot's moving window recommender (Rzadca et al., `EuroSys` 2020, section 3.2.2).
//!
//! CPU: load-adjusted P95 of usage, half-life 12 h. Memory: highest five-minute peak of the last day. Then a margin and
//! the maximum over the last hour of recommendations. N, the margin's curve and the rounding are not published: one day
//! and 12.5 % are taken, the middle of what the paper names.

use std::collections::VecDeque;

use optipod_common::{
    replay::{Observation, Rule},
    resources::Resource,
};

use super::{histogram::DecayedHistogram, minutes::Clock};

const CPU_HALF_LIFE: f64 = 12.0 * 3600.0;
const CPU_QUANTILE: f64 = 0.95;
const MARGIN: f64 = 1.125;
const INTERVAL: f64 = 300.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;
/// A killed task is given this much more than it had.
const AFTER_OOM: f64 = 1.2;

/// One task.
#[derive(Debug, Clone)]
pub struct Autopilot {
    resource: Resource,
    histogram: DecayedHistogram,
    clock: Clock,
    elapsed: f64,
    decided: f64,
    /// Highest memory of the current five minutes.
    peak: f64,
    /// (time, five-minute peak).
    peaks: VecDeque<(f64, f64)>,
    /// (time, recommendation).
    recommended: VecDeque<(f64, f64)>,
}

impl Autopilot {
    /// A task with this declared size.
    pub fn new(resource: Resource, declared: u64) -> Self {
        Self {
            resource,
            histogram: DecayedHistogram::new(declared, CPU_HALF_LIFE),
            clock: Clock::default(),
            elapsed: 0.0,
            decided: 0.0,
            peak: 0.0,
            peaks: VecDeque::new(),
            recommended: VecDeque::new(),
        }
    }

    fn statistic(&mut self) -> f64 {
        match self.resource {
            Resource::Cpu => self.histogram.load_quantile(CPU_QUANTILE),
            Resource::Memory => {
                self.peaks.push_back((self.elapsed, self.peak));
                self.peak = 0.0;
                while self.peaks.front().is_some_and(|(at, _)| *at <= self.elapsed - DAY) {
                    self.peaks.pop_front();
                }
                self.peaks.iter().map(|(_, peak)| *peak).fold(0.0, f64::max)
            }
        }
    }
}

impl Rule for Autopilot {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        self.elapsed = self.clock.at(seen);
        let used = seen.used as f64;
        match self.resource {
            Resource::Cpu => self.histogram.add(used, self.elapsed),
            Resource::Memory => {
                let seen = if seen.oom { seen.size as f64 * AFTER_OOM } else { used };
                self.peak = self.peak.max(seen);
            }
        }
        if self.elapsed - self.decided < INTERVAL && !seen.oom {
            return None;
        }
        self.decided = self.elapsed;
        let recommended = self.statistic() * MARGIN;
        self.recommended.push_back((self.elapsed, recommended));
        while self.recommended.front().is_some_and(|(at, _)| *at <= self.elapsed - HOUR) {
            self.recommended.pop_front();
        }
        let highest = self.recommended.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        Some(super::rounded(highest))
    }
}
