//! N-sigma (Bashir et al., "Take it to the limit", `EuroSys` 2021): mean plus N standard deviations.
//!
//! The documentation of its code runs N = 5 over 24 samples of five minutes. Two hours forget a day, so a day of minute
//! peaks is taken, in its favour; N = 3 stands beside it. Never below what is used now, and 2 % more.

use std::collections::VecDeque;

use optipod_common::replay::{Observation, Rule};

use super::minutes::Minutes;

const ROOM: f64 = 1.02;
const WINDOW: f64 = 86_400.0;
const INTERVAL: f64 = 300.0;
const AFTER_OOM: f64 = 1.3;

/// One container.
#[derive(Debug, Clone)]
pub struct NSigma {
    n: f64,
    minutes: Minutes,
    /// (time, peak of the minute).
    window: VecDeque<(f64, f64)>,
    sum: f64,
    squares: f64,
    decided: f64,
}

impl NSigma {
    /// With N standard deviations.
    pub fn new(n: f64) -> Self {
        let (minutes, window) = (Minutes::default(), VecDeque::new());
        Self { n, minutes, window, sum: 0.0, squares: 0.0, decided: 0.0 }
    }

    fn size(&self) -> f64 {
        let count = self.window.len() as f64;
        let mean = self.sum / count;
        mean + self.n * (self.squares / count - mean * mean).max(0.0).sqrt()
    }
}

impl Rule for NSigma {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        let minute = self.minutes.add(seen);
        let now = self.minutes.elapsed();
        if let Some(minute) = minute {
            self.window.push_back((now, minute.peak));
            self.sum += minute.peak;
            self.squares += minute.peak * minute.peak;
            while let Some((_, peak)) = self.window.front().copied().filter(|(at, _)| *at <= now - WINDOW) {
                self.window.pop_front();
                self.sum -= peak;
                self.squares -= peak * peak;
            }
        }
        if self.window.is_empty() || (now - self.decided < INTERVAL && !seen.oom) {
            return None;
        }
        self.decided = now;
        let floor = if seen.oom { seen.size as f64 * AFTER_OOM } else { seen.used as f64 * ROOM };
        Some(super::rounded(self.size().max(floor)))
    }
}
