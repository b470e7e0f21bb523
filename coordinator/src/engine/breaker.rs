//! Stops decreases in the whole cluster when they do harm.

use std::collections::VecDeque;
use std::time::Duration;

use optipod_common::time::Timestamp;

/// How far back harm counts.
const REACH: Duration = Duration::from_secs(3600);

/// Fewer resizes than this say nothing about a rate.
const LEAST: usize = 10;

/// More harm than this, in percent of the resizes, opens the breaker.
const MOST: usize = 10;

/// Resizes of the last hour, and which of them did harm.
#[derive(Debug, Default)]
pub struct Breaker(VecDeque<(Timestamp, bool)>);

impl Breaker {
    /// A resize ended.
    pub fn record(&mut self, at: Timestamp, harm: bool) {
        self.0.push_back((at, harm));
        while self.0.front().is_some_and(|(first, _)| *first + REACH < at) {
            self.0.pop_front();
        }
    }

    /// Why nothing may be decreased.
    pub fn open(&self, now: Timestamp) -> Option<String> {
        let recent = || self.0.iter().filter(|(at, _)| *at + REACH >= now);
        let (all, harmed) = (recent().count(), recent().filter(|(_, harm)| *harm).count());
        (all >= LEAST && harmed * 100 > all * MOST).then(|| {
            format!("containers restarted in {harmed} of {all} resizes of the last hour, {MOST}% is the most")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harm_opens_the_breaker_for_an_hour() {
        let at = |seconds: i64| Timestamp::from_unix_seconds(1_800_000_000 + seconds);
        let mut breaker = Breaker::default();
        (0..9).for_each(|n| breaker.record(at(n), n < 2));
        assert_eq!(breaker.open(at(9)), None, "too few to tell");
        breaker.record(at(9), false);
        assert!(breaker.open(at(9)).is_some_and(|why| why.contains("2 of 10")));
        assert_eq!(breaker.open(at(3700)), None);
    }
}
