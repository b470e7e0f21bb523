//! What the probes ask for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The sampler is dead when it has not ticked for this long: 5 ticks at the lowest rate.
pub const MAX_SILENCE: Duration = Duration::from_secs(5);

/// Written by the sampler, read by the probes.
#[derive(Debug, Default)]
pub struct Health {
    last_tick_micros: AtomicU64,
    ready: AtomicBool,
}

impl Health {
    /// A tick has ended.
    pub fn ticked(&self, monotonic: Duration, has_roots: bool) {
        let micros = u64::try_from(monotonic.as_micros()).unwrap_or(u64::MAX);
        self.last_tick_micros.store(micros, Ordering::Relaxed);
        self.ready.store(has_roots, Ordering::Relaxed);
    }

    /// True when the sampler has ticked in the last [`MAX_SILENCE`].
    pub fn is_live(&self, monotonic: Duration) -> bool {
        let last = Duration::from_micros(self.last_tick_micros.load(Ordering::Relaxed));
        monotonic.saturating_sub(last) <= MAX_SILENCE
    }

    /// True when a kubepods root is known and was listed.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_sampler_is_dead_and_without_roots_it_is_not_ready() {
        let health = Health::default();
        assert!(!health.is_live(Duration::from_secs(60)));
        health.ticked(Duration::from_secs(60), false);
        assert!(health.is_live(Duration::from_secs(65)) && !health.is_live(Duration::from_secs(66)));
        assert!(!health.is_ready());
        health.ticked(Duration::from_secs(61), true);
        assert!(health.is_ready());
    }
}
