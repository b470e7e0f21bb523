//! Decayed percentile plus margin: Crane and Koordinator.
//!
//! Crane (gocrane/crane at 2b0ddae8): P99 plus 15 %, half-life 24 h for CPU, 48 h for memory.
//! Koordinator (koordinator-sh/koordinator at a7a1b76b, peak prediction): CPU P95 with 12 h, memory P98 with 24 h, plus
//! 10 %, trained each minute. Its cold start (a pod counts with its request for a day) is left out, in its favour.

use optipod_common::{
    replay::{Observation, Rule},
    resources::Resource,
};

use super::{histogram::DecayedHistogram, minutes::Minutes};

const HOUR: f64 = 3600.0;
/// Both learn of a kill: the size grows by this and stays there for a half-life.
const AFTER_OOM: f64 = 1.2;

/// One container.
#[derive(Debug, Clone)]
pub struct DecayedPercentile {
    resource: Resource,
    quantile: f64,
    margin: f64,
    half_life: f64,
    interval: f64,
    histogram: DecayedHistogram,
    minutes: Minutes,
    decided: f64,
    /// Size after the last kill, and when that was.
    held: Option<(f64, f64)>,
}

impl DecayedPercentile {
    /// Crane's recommender.
    pub fn crane(resource: Resource, declared: u64) -> Self {
        let half_life = match resource {
            Resource::Cpu => 24.0 * HOUR,
            Resource::Memory => 48.0 * HOUR,
        };
        Self::new(resource, declared, 0.99, 1.15, half_life, 300.0)
    }

    /// Koordinator's peak prediction.
    pub fn koordinator(resource: Resource, declared: u64) -> Self {
        match resource {
            Resource::Cpu => Self::new(resource, declared, 0.95, 1.1, 12.0 * HOUR, 60.0),
            Resource::Memory => Self::new(resource, declared, 0.98, 1.1, 24.0 * HOUR, 60.0),
        }
    }

    fn new(
        resource: Resource,
        declared: u64,
        quantile: f64,
        margin: f64,
        half_life: f64,
        interval: f64,
    ) -> Self {
        let histogram = DecayedHistogram::new(declared, half_life);
        let (minutes, decided, held) = (Minutes::default(), 0.0, None);
        Self { resource, quantile, margin, half_life, interval, histogram, minutes, decided, held }
    }
}

impl Rule for DecayedPercentile {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        if let Some(minute) = self.minutes.add(seen) {
            let value = match self.resource {
                Resource::Cpu => minute.mean,
                Resource::Memory => minute.peak,
            };
            self.histogram.add(value, self.minutes.elapsed());
        }
        let now = self.minutes.elapsed();
        if seen.oom {
            let raised = seen.size as f64 * AFTER_OOM;
            self.held = Some((raised.max(self.held.map_or(0.0, |(size, _)| size)), now));
        } else if now - self.decided < self.interval {
            return None;
        }
        self.decided = now;
        let size = self.histogram.quantile(self.quantile) * self.margin;
        let held = self.held.filter(|(_, at)| now - at < self.half_life).map_or(0.0, |(size, _)| size);
        Some(super::rounded(size.max(held)))
    }
}
