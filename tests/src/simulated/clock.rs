//! Simulated time: how it follows real time, and the wall clock that it shows. Nobody in here reads a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use optipod_common::time::{Clock, Timestamp};
use thiserror::Error;

/// How many times faster than real time simulated time may go.
pub const SPEEDS: std::ops::RangeInclusive<u32> = 1..=1000;

/// A speed that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("speed {0} is out of range: expected 1 to 1000")]
pub struct SpeedError(pub u32);

/// How simulated time follows real time: a straight line, cut where the machine cannot keep up.
///
/// Whoever moves simulated time asks [`Pace::wait`] before each step. When it comes late, simulated time has fallen
/// behind for good: it goes on from where it is, at the same speed, so no step is ever longer than it should be.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    speed: u32,
    /// Real time at which simulated time was `simulated`, on the current line.
    real: Duration,
    simulated: Duration,
    /// Real time at the start.
    started: Duration,
}

impl Pace {
    /// Simulated time is zero at this (monotonic) real time.
    ///
    /// # Errors
    /// When the speed is out of range.
    pub fn new(speed: u32, real: Duration) -> Result<Self, SpeedError> {
        if !SPEEDS.contains(&speed) {
            return Err(SpeedError(speed));
        }
        Ok(Self { speed, real, simulated: Duration::ZERO, started: real })
    }

    /// Real time to wait until simulated time may be `next`; zero when it is late.
    pub fn wait(&mut self, next: Duration, real: Duration) -> Duration {
        let due = self.real + next.saturating_sub(self.simulated) / self.speed;
        if real > due {
            (self.real, self.simulated) = (real, next);
        }
        due.saturating_sub(real)
    }

    /// The speed as wanted.
    pub const fn speed(&self) -> u32 {
        self.speed
    }

    /// The speed since the start as it was, when simulated time is now `simulated`; `None` when no time has passed.
    pub fn achieved(&self, simulated: Duration, real: Duration) -> Option<f64> {
        let passed = real.saturating_sub(self.started).as_secs_f64();
        (passed > 0.0).then(|| simulated.as_secs_f64() / passed)
    }
}

/// The wall clock of the simulation. A clone shows the same time.
#[derive(Clone, Debug)]
pub struct Wall(Arc<AtomicI64>);

impl Wall {
    /// A clock that stands at `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(start.unix_micros())))
    }

    /// Puts it to a time.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.unix_micros(), Ordering::Relaxed);
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(self.0.load(Ordering::Relaxed))
    }

    /// As the agent and the coordinator take it.
    pub fn clock(&self) -> Clock {
        let wall = self.clone();
        Clock::new(move || wall.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn steps_come_at_the_speed_that_was_asked_for() {
        let mut pace = Pace::new(10, millis(500)).unwrap();
        assert_eq!(pace.wait(millis(100), millis(500)), millis(10));
        assert_eq!(pace.wait(millis(200), millis(510)), millis(10));
        assert_eq!(pace.wait(millis(300), millis(530)), millis(0));
        assert_eq!(pace.achieved(millis(300), millis(530)), Some(10.0));
    }

    #[test]
    fn time_that_was_lost_is_not_caught_up() {
        let mut pace = Pace::new(10, millis(0)).unwrap();
        assert_eq!(pace.wait(millis(100), millis(500)), millis(0));
        assert_eq!(pace.wait(millis(200), millis(500)), millis(10));
        assert_eq!(pace.achieved(millis(200), millis(510)).map(f64::round), Some(0.0));
    }

    #[test]
    fn speeds_out_of_range_are_refused() {
        assert_eq!(Pace::new(0, millis(0)).unwrap_err(), SpeedError(0));
        assert_eq!(
            Pace::new(1001, millis(0)).unwrap_err().to_string(),
            "speed 1001 is out of range: expected 1 to 1000"
        );
        assert!(Pace::new(1000, millis(0)).is_ok());
    }

    #[test]
    fn every_clone_of_a_clock_shows_the_same_time() {
        let wall = Wall::new(Timestamp::from_unix_seconds(5));
        let clock = wall.clock();
        wall.set(Timestamp::from_unix_seconds(9));
        assert_eq!(clock.now(), Timestamp::from_unix_seconds(9));
    }
}
