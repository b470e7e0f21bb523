//! Waiting between attempts: exponential, with jitter, so that a thousand agents do not return in one instant.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// Grows with each attempt.
#[derive(Debug)]
pub struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: FIRST }
    }
}

impl Backoff {
    /// The next wait: between half of the ceiling and all of it.
    pub fn wait(&mut self) -> Duration {
        // the standard library's only source of randomness: keys of a hasher
        let random = RandomState::new().hash_one(0);
        let half = self.ceiling / 2;
        let jitter = Duration::from_micros(random % u64::try_from(half.as_micros()).unwrap_or(1).max(1));
        self.ceiling = (self.ceiling * 2).min(LONGEST);
        half + jitter
    }

    /// Something worked: the next wait is short again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_ten_seconds_and_reset() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..20).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[19] >= LONGEST / 2 && waits[19] <= LONGEST);
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
