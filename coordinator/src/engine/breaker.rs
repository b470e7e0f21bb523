//! Stops decreases in the whole cluster when resizes do harm.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use optipod_common::time::Timestamp;

/// How far back harm counts.
const REACH: Duration = Duration::from_secs(3600);

/// Fewer resizes than this say nothing about a rate.
const LEAST: usize = 10;

/// More harm than this, in percent of the resizes, opens the breaker.
const MOST: usize = 10;

/// A pod that a node refuses for want of room within this time after a raise there was refused because of it: from its
/// binding to its admission a pod needs seconds.
const ADMISSION: Duration = Duration::from_secs(60);

/// Resizes of the last hour, and which of them did harm.
#[derive(Debug, Default)]
pub struct Breaker {
    resizes: VecDeque<(Timestamp, bool)>,
    /// When requests on a node were raised last.
    raised: HashMap<String, Timestamp>,
}

impl Breaker {
    /// A resize ended.
    pub fn record(&mut self, at: Timestamp, harm: bool) {
        self.resizes.push_back((at, harm));
        while self.resizes.front().is_some_and(|(first, _)| *first + REACH < at) {
            self.resizes.pop_front();
        }
    }

    /// Requests on a node were raised.
    pub fn raised(&mut self, node: &str, at: Timestamp) {
        self.raised.retain(|_, raised| *raised + ADMISSION > at);
        self.raised.insert(node.to_owned(), at);
    }

    /// A node had no room for the pod of a Job, which is lost. True when a raise of ours took it.
    pub fn lost(&mut self, node: &str, at: Timestamp) -> bool {
        let ours = self.raised.get(node).is_some_and(|raised| *raised + ADMISSION > at);
        if ours {
            self.record(at, true);
        }
        ours
    }

    /// Why nothing may be decreased.
    pub fn open(&self, now: Timestamp) -> Option<String> {
        let recent = || self.resizes.iter().filter(|(at, _)| *at + REACH >= now);
        let (all, harmed) = (recent().count(), recent().filter(|(_, harm)| *harm).count());
        (all >= LEAST && harmed * 100 > all * MOST).then(|| {
            format!(
                "{harmed} of {all} resizes of the last hour did harm (a restart, or a Job's pod without room), {MOST}% is the most"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    #[test]
    fn harm_opens_the_breaker_for_an_hour() {
        let mut breaker = Breaker::default();
        (0..9).for_each(|n| breaker.record(at(n), n < 2));
        assert_eq!(breaker.open(at(9)), None, "too few to tell");
        breaker.record(at(9), false);
        assert!(breaker.open(at(9)).is_some_and(|why| why.contains("2 of 10")));
        assert_eq!(breaker.open(at(3700)), None);
    }

    #[test]
    fn a_lost_job_is_harm_where_a_raise_came_before_it() {
        let mut breaker = Breaker::default();
        (0..9).for_each(|n| breaker.record(at(n), n < 1));
        breaker.raised("a", at(10));
        assert!(!breaker.lost("b", at(12)) && !breaker.lost("a", at(70)), "of another node, or long ago");
        assert_eq!(breaker.open(at(70)), None);
        breaker.raised("a", at(71));
        assert!(breaker.lost("a", at(73)));
        assert!(breaker.open(at(73)).is_some_and(|why| why.contains("2 of 10")));
    }
}
