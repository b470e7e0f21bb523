//! Robusta KRR, strategy `simple` (robusta-dev/krr at d6baa74).
//!
//! CPU request: P95 over the history. Memory: maximum plus 15 %; what it makes of OOM kills is off by default. Nothing is
//! recommended from fewer than 100 points, which are 75 s apart. KRR prints a report; that somebody applies it every hour
//! is an assumption in its favour.

use optipod_common::{
    replay::{Observation, Rule},
    resources::Resource,
};

use super::{histogram::DecayedHistogram, minutes::Minutes};

const QUANTILE: f64 = 0.95;
const MEMORY_MARGIN: f64 = 1.15;
const INTERVAL: f64 = 3600.0;
/// `points_required` of `timeframe_duration`, in seconds.
const REQUIRED: f64 = 100.0 * 75.0;

/// One container.
#[derive(Debug, Clone)]
pub struct Krr {
    resource: Resource,
    histogram: DecayedHistogram,
    highest: f64,
    minutes: Minutes,
    decided: f64,
}

impl Krr {
    /// A container with this declared size.
    pub fn new(resource: Resource, declared: u64) -> Self {
        let histogram = DecayedHistogram::new(declared, f64::INFINITY);
        Self { resource, histogram, highest: 0.0, minutes: Minutes::default(), decided: 0.0 }
    }
}

impl Rule for Krr {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        if let Some(minute) = self.minutes.add(seen) {
            self.highest = self.highest.max(minute.peak);
            self.histogram.add(minute.mean, 0.0);
        }
        let now = self.minutes.elapsed();
        if self.minutes.observed() < REQUIRED || now - self.decided < INTERVAL {
            return None;
        }
        self.decided = now;
        let size = match self.resource {
            Resource::Cpu => self.histogram.quantile(QUANTILE),
            Resource::Memory => self.highest * MEMORY_MARGIN,
        };
        Some(super::rounded(size))
    }
}
