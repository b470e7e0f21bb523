//! How often to sample: as configured, less when the agent itself costs more than its budget. Pure.

use std::time::Duration;

/// Rates to fall back to, samples per second.
const LADDER: [u32; 4] = [10, 5, 2, 1];
/// Intervals in a row that must allow the next higher rate before it is taken: no oscillation around the budget.
const CALM_INTERVALS: u32 = 4;

/// The sampling rate and what it depends on.
#[derive(Clone, Debug)]
pub struct Rate {
    configured: u32,
    current: u32,
    budget_millicores: u32,
    calm: u32,
}

/// The rate changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateChange {
    /// Samples per second until now.
    pub from: u32,
    /// Samples per second from now on.
    pub to: u32,
    /// What the agent used, millicores.
    pub used_millicores: u64,
}

impl Rate {
    /// Starts at `hertz` (above zero). A budget of 0 never lowers it.
    pub const fn new(hertz: u32, budget_millicores: u32) -> Self {
        Self { configured: hertz, current: hertz, budget_millicores, calm: 0 }
    }

    /// Samples per second.
    pub const fn hertz(&self) -> u32 {
        self.current
    }

    /// Time between two samples.
    pub const fn period(&self) -> Duration {
        Duration::from_millis(self.slot_millis() as u64)
    }

    /// The same in milliseconds.
    pub const fn slot_millis(&self) -> u32 {
        1000 / self.current
    }

    /// Judges one interval; says when the rate changed.
    pub fn judge(&mut self, used: Duration, elapsed: Duration) -> Option<RateChange> {
        if self.budget_millicores == 0 || elapsed.is_zero() {
            return None;
        }
        let used_millicores =
            u64::try_from(used.as_micros() * 1000 / elapsed.as_micros()).unwrap_or(u64::MAX);
        let budget = u64::from(self.budget_millicores);
        let to = if used_millicores > budget {
            self.calm = 0;
            self.lower()?
        } else {
            let higher = self.higher()?;
            // at the higher rate it would cost at most this
            if used_millicores * u64::from(higher) > budget * u64::from(self.current) {
                self.calm = 0;
                return None;
            }
            self.calm += 1;
            if self.calm < CALM_INTERVALS {
                return None;
            }
            self.calm = 0;
            higher
        };
        let from = std::mem::replace(&mut self.current, to);
        Some(RateChange { from, to, used_millicores })
    }

    fn lower(&self) -> Option<u32> {
        LADDER.into_iter().find(|step| *step < self.current)
    }

    fn higher(&self) -> Option<u32> {
        let step = LADDER.into_iter().rev().find(|step| *step > self.current).unwrap_or(self.configured);
        Some(step.min(self.configured)).filter(|step| *step > self.current)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn millicores(m: u64) -> Duration {
        Duration::from_micros(m * 1000)
    }

    #[test]
    fn over_budget_falls_step_by_step_and_stays_at_one() {
        let mut rate = Rate::new(10, 10);
        let steps: Vec<u32> = (0..5)
            .map(|_| {
                rate.judge(millicores(11), SECOND);
                rate.hertz()
            })
            .collect();
        assert_eq!(steps, [5, 2, 1, 1, 1]);
    }

    #[test]
    fn rate_returns_after_calm_intervals_only() {
        let mut rate = Rate::new(10, 10);
        let down = rate.judge(millicores(15), SECOND);
        assert_eq!(down, Some(RateChange { from: 10, to: 5, used_millicores: 15 }));
        // 6 would be 12 at 10 Hz
        assert!((0..20).all(|_| rate.judge(millicores(6), SECOND).is_none()));
        let steps: Vec<bool> = (0..4).map(|_| rate.judge(millicores(4), SECOND).is_some()).collect();
        assert_eq!(steps, [false, false, false, true]);
        assert_eq!(rate.hertz(), 10);
    }

    #[test]
    fn no_budget_never_changes() {
        let mut rate = Rate::new(10, 0);
        assert_eq!(rate.judge(millicores(900), SECOND), None);
    }

    proptest! {
        #[test]
        fn rate_stays_between_one_and_configured(
            hertz in prop::sample::select(vec![1_u32, 2, 5, 10, 20, 25]),
            uses in prop::collection::vec(0_u64..40, 0..60),
        ) {
            let mut rate = Rate::new(hertz, 10);
            for used in uses {
                rate.judge(millicores(used), SECOND);
                prop_assert!((1..=hertz).contains(&rate.hertz()));
                prop_assert_eq!(rate.slot_millis() * rate.hertz(), 1000);
            }
        }
    }
}
