//! Samples of any length as minutes: what a metrics pipeline keeps.

use optipod_common::{replay::Observation, time::Timestamp};

/// Time since the first sample began, gaps included: what decays does so while nothing is seen.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    began: Option<Timestamp>,
    elapsed: f64,
}

impl Clock {
    /// Seconds at the end of a sample.
    pub fn at(&mut self, seen: &Observation) -> f64 {
        let began = *self.began.get_or_insert(seen.at - seen.step);
        self.elapsed = seen.at.since(began).as_secs_f64();
        self.elapsed
    }
}

/// Mean and peak of a minute.
#[derive(Debug, Clone, Copy)]
pub struct Minute {
    /// Mean use.
    pub mean: f64,
    /// Highest use.
    pub peak: f64,
}

/// Collects samples until a minute is full; a longer sample is a minute of its own.
#[derive(Debug, Clone, Default)]
pub struct Minutes {
    clock: Clock,
    observed: f64,
    filled: f64,
    sum: f64,
    peak: f64,
}

impl Minutes {
    /// Adds a sample; returns the minute that it completes.
    pub fn add(&mut self, seen: &Observation) -> Option<Minute> {
        let (step, used) = (seen.step.as_secs_f64(), seen.used as f64);
        self.clock.at(seen);
        self.observed += step;
        self.filled += step;
        self.sum += used * step;
        self.peak = self.peak.max(used);
        if self.filled < 60.0 {
            return None;
        }
        let minute = Minute { mean: self.sum / self.filled, peak: self.peak };
        (self.filled, self.sum, self.peak) = (0.0, 0.0, 0.0);
        Some(minute)
    }

    /// Seconds since the first sample began.
    pub const fn elapsed(&self) -> f64 {
        self.clock.elapsed
    }

    /// Seconds of samples so far.
    pub const fn observed(&self) -> f64 {
        self.observed
    }
}
