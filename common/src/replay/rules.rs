//! The strategies of a policy as rules that can be replayed.

use std::time::Duration;

use super::{Observation, Rule};
use crate::adaptive::{Adaptive, Size, Tunings, demand};
use crate::policy::{Objective, ThresholdParams};
use crate::resources::Resource;
use crate::threshold::{ThresholdVerdict, threshold};
use crate::time::Timestamp;

/// How a kill of a container raises the size at once, in 1/1000 of the limit.
const AFTER_OOM: u64 = 1200;

/// `strategy: Adaptive` at one decision a minute, and at once for use above the size.
#[derive(Clone, Debug)]
pub struct AdaptiveRule {
    state: Adaptive,
    objective: Objective,
    tunings: Tunings,
    /// Size told last.
    told: Option<u64>,
    /// Highest use of the minute so far, and which minute it is.
    minute: Option<(i64, u64)>,
}

impl AdaptiveRule {
    /// As shipped.
    pub fn new(size: Size, objective: Objective) -> Self {
        Self::tuned(size, objective, Tunings::of(size))
    }

    /// With other constants, for sweeps.
    pub fn tuned(size: Size, objective: Objective, tunings: Tunings) -> Self {
        Self { state: Adaptive::sizing(size), objective, tunings, told: None, minute: None }
    }

    fn close(&mut self, minute: i64, peak: u64) {
        let at = Timestamp::from_unix_seconds(minute.saturating_mul(60));
        self.state.observe_with(&self.tunings, at, peak);
    }
}

impl Rule for AdaptiveRule {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        // the sample belongs to the minute in which it started
        let minute = (seen.at - seen.step).unix_micros().div_euclid(60_000_000);
        let used = if seen.oom { demand(Resource::Memory, seen.size) } else { seen.used };
        let peak = match self.minute {
            Some((open, peak)) if open == minute => peak.max(used),
            _ => used,
        };
        self.minute = Some((minute, peak));
        let ends = seen.at.unix_micros().rem_euclid(60_000_000) == 0 || seen.step >= Duration::from_secs(60);
        if ends || seen.oom || used > seen.size {
            self.close(minute, peak);
        }
        let size = self.state.size(self.objective)?;
        let changed = self.told != Some(size) || size != seen.size;
        self.told = Some(size);
        changed.then_some(size)
    }
}

/// `strategy: Threshold`: looks at each sample.
#[derive(Clone, Debug)]
pub struct ThresholdRule {
    params: ThresholdParams,
    floor: u64,
    resized: Option<Timestamp>,
    /// Size at the sample before.
    size: Option<u64>,
}

impl ThresholdRule {
    /// `floor` is the smallest size, in the unit of the trace.
    pub const fn new(params: ThresholdParams, floor: u64) -> Self {
        Self { params, floor, resized: None, size: None }
    }
}

impl Rule for ThresholdRule {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        if self.size.is_some_and(|size| size != seen.size) {
            self.resized = Some(seen.at);
        }
        self.size = Some(seen.size);
        let cooled = self.resized.is_none_or(|at| seen.at.since(at) >= self.params.cooldown);
        match threshold(&self.params, seen.used, seen.size, self.floor) {
            ThresholdVerdict::Up(size) => Some(size),
            ThresholdVerdict::Down(size) if cooled => Some(size),
            _ => seen.oom.then(|| grown(seen.size)),
        }
    }
}

fn grown(size: u64) -> u64 {
    u64::try_from((u128::from(size) * u128::from(AFTER_OOM)).div_ceil(1000)).unwrap_or(u64::MAX)
}
