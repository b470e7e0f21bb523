//! Causal replay: what a sizing rule would have done to a recorded workload, in savings, risk and resizes.
//!
//! The size in force during a sample comes from earlier samples only, and a resize takes the time that its system takes.
//! Use is open loop: a recorded workload does not slow down because it would have been throttled. Memory can close the
//! loop ([`Limit::Follows`]): use above the size is an OOM kill, and the rule sees the kill instead of the use.

mod policy;
mod rules;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

pub use policy::{Managed, PolicyReplay, Usage, UsageSample, replay_policy};
pub use rules::{AdaptiveRule, ThresholdRule};

/// OOM kills within this time of one that was counted are the same crash loop.
const CRASH_LOOP: Duration = Duration::from_secs(300);
/// A memory decrease needs this much room above use, in 1/1000; the kubelet refuses it otherwise.
const DECREASE_ROOM: u64 = 1020;
/// After an OOM kill the size grows by at least this, in 1/1000.
const RESTART_GROWTH: u64 = 1050;

/// Recorded use of one resource of one container, in any unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Length of time that each value describes.
    pub step: Duration,
    /// (start, use), ascending by start; where there is a gap nothing is known.
    pub samples: Vec<(Timestamp, u64)>,
}

impl Trace {
    /// Highest use; 0 when empty.
    pub fn peak(&self) -> u64 {
        self.samples.iter().map(|(_, used)| *used).max().unwrap_or(0)
    }
}

/// What a rule sees of one sample.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// End of the sample.
    pub at: Timestamp,
    /// Length of the sample.
    pub step: Duration,
    /// Use; after an OOM kill, the size that was in force.
    pub used: u64,
    /// Size in force.
    pub size: u64,
    /// The container was killed for going over the size.
    pub oom: bool,
}

/// A sizing rule under replay.
pub trait Rule {
    /// Sees a sample; returns the size that it wants from now on, or `None` to stay.
    fn observe(&mut self, seen: &Observation) -> Option<u64>;
}

/// What becomes of use above the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// The size is a request; the limit is elsewhere.
    Apart,
    /// The size is the memory limit as well: use above it is an OOM kill.
    Follows,
}

/// How a system carries out what its rule wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actuator {
    /// Time from the sample to the size in force; never less than one sample.
    pub lag: Duration,
    /// Increases below this share of the size are not made, in 1/1000.
    pub dead_up: u32,
    /// Decreases below this share of the size are not made, in 1/1000.
    pub dead_down: u32,
    /// Smallest size.
    pub minimum: u64,
    /// See [`Limit`].
    pub limit: Limit,
    /// Memory: the size never goes below use.
    pub guarded: bool,
}

/// The samples in which a limit that stays kills, a crash loop counted once in five minutes.
pub fn kills_above(trace: &Trace, limit: u64) -> Vec<usize> {
    let mut last = None;
    let kills = trace.samples.iter().enumerate().filter(|(_, (_, used))| *used > limit);
    kills.filter(|(_, (at, _))| is_new_crash(&mut last, *at)).map(|(sample, _)| sample).collect()
}

/// Whether a kill counts; `last` is the last one that did.
fn is_new_crash(last: &mut Option<Timestamp>, at: Timestamp) -> bool {
    let new = last.is_none_or(|last| at.since(last) >= CRASH_LOOP);
    if new {
        *last = Some(at);
    }
    new
}

/// What happened in a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// The size in force during each sample.
    pub sizes: Vec<u64>,
    /// The samples in which it was killed, a crash loop counted once in five minutes.
    pub oom_kills: Vec<usize>,
    /// The samples before which the size changed; one behind the last sample for a change after it.
    pub resizes: Vec<usize>,
}

/// Replays a trace. `start` is the size that the owner declares.
pub fn replay(trace: &Trace, start: u64, actuator: &Actuator, rule: &mut impl Rule) -> Replayed {
    let mut world =
        World { size: start, due: None, last_oom: None, previous: None, result: Replayed::default() };
    world.result.sizes.reserve(trace.samples.len());
    for &(start, used) in &trace.samples {
        world.apply_due(start, actuator);
        world.result.sizes.push(world.size);
        let oom = actuator.limit == Limit::Follows && used > world.size;
        let served = if oom { world.size } else { used };
        if oom {
            world.count_oom(start);
        }
        let seen =
            Observation { at: start + trace.step, step: trace.step, used: served, size: world.size, oom };
        if let Some(wanted) = rule.observe(&seen) {
            world.plan(wanted, &seen, actuator);
        }
        world.previous = Some(used);
    }
    world.result
}

struct World {
    size: u64,
    /// A change under way: (size, from which start of a sample on).
    due: Option<(u64, Timestamp)>,
    last_oom: Option<Timestamp>,
    /// Use in the sample before.
    previous: Option<u64>,
    result: Replayed,
}

impl World {
    fn apply_due(&mut self, now: Timestamp, actuator: &Actuator) {
        let Some((wanted, _)) = self.due.filter(|(_, from)| *from <= now) else { return };
        self.due = None;
        let refused = actuator.guarded
            && wanted < self.size
            && self.previous.is_some_and(|used| wanted < scaled(used, DECREASE_ROOM));
        if !refused {
            self.set(wanted);
        }
    }

    /// The size of the samples that follow.
    fn set(&mut self, size: u64) {
        if size != self.size {
            self.result.resizes.push(self.result.sizes.len());
            self.size = size;
        }
    }

    fn count_oom(&mut self, now: Timestamp) {
        if is_new_crash(&mut self.last_oom, now) {
            self.result.oom_kills.push(self.result.sizes.len() - 1);
        }
    }

    fn plan(&mut self, wanted: u64, seen: &Observation, actuator: &Actuator) {
        let wanted = wanted.max(actuator.minimum);
        if seen.oom {
            self.due = None;
            self.set(wanted.max(scaled(self.size, RESTART_GROWTH)).max(self.size + 1));
            return;
        }
        let wanted = if actuator.guarded { wanted.max(scaled(seen.used, DECREASE_ROOM)) } else { wanted };
        let up = wanted > scaled(self.size, 1000 + u64::from(actuator.dead_up));
        let down = wanted < scaled(self.size, 1000_u64.saturating_sub(actuator.dead_down.into()));
        if !up && !down {
            return;
        }
        // a sample ends where the next one starts: what takes less than one sample is in force for the next
        let wait = actuator.lag.saturating_sub(seen.step);
        let half = seen.step / 2;
        let from = if wait > half { seen.at + wait - half } else { seen.at };
        self.due = match self.due {
            // a change under way keeps its time and takes the higher size
            Some((pending, from)) if pending >= wanted => Some((pending, from)),
            Some((_, from)) => Some((wanted, from)),
            None => Some((wanted, from)),
        };
    }
}

/// Use and size of a trace in sums, from which every share is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Samples that count.
    pub samples: u64,
    /// Length of a sample.
    pub step: Duration,
    /// Sum of the sizes, unit-samples.
    pub allocated: u128,
    /// Sum of use.
    pub used: u128,
    /// Sum of use above the size.
    pub missing: u128,
    /// Samples with use above the size.
    pub under: u64,
    /// Highest use in the whole trace.
    pub peak: u64,
    /// Kills within them, see [`Replayed::oom_kills`].
    pub oom_kills: u64,
    /// Resizes within them, see [`Replayed::resizes`].
    pub resizes: u64,
}

impl Outcome {
    /// Sums of a replay without its first `skip` samples, and what happened in them.
    pub fn of(trace: &Trace, replayed: &Replayed, skip: usize) -> Self {
        let counted = |samples: &[usize]| samples.iter().filter(|sample| **sample >= skip).count() as u64;
        let mut outcome = Self {
            step: trace.step,
            peak: trace.peak(),
            oom_kills: counted(&replayed.oom_kills),
            resizes: counted(&replayed.resizes),
            ..Self::default()
        };
        for (&(_, used), &size) in trace.samples.iter().zip(&replayed.sizes).skip(skip) {
            outcome.samples += 1;
            outcome.allocated += u128::from(size);
            outcome.used += u128::from(used);
            outcome.missing += u128::from(used.saturating_sub(size));
            outcome.under += u64::from(used > size);
        }
        outcome
    }

    /// Mean size, as a share of the highest use.
    pub fn allocation(&self) -> f64 {
        ratio(self.allocated, u128::from(self.peak) * u128::from(self.samples))
    }

    /// Share of use that was above the size.
    pub fn excess(&self) -> f64 {
        ratio(self.missing, self.used)
    }

    /// Share of the time in which use was above the size.
    pub fn under(&self) -> f64 {
        ratio(self.under.into(), self.samples.into())
    }

    /// Share of the size that was not used.
    pub fn waste(&self) -> f64 {
        if self.allocated == 0 { 0.0 } else { 1.0 - ratio(self.used - self.missing, self.allocated) }
    }

    /// Resizes per day.
    pub fn resizes_per_day(&self) -> f64 {
        self.per_day(self.resizes)
    }

    /// OOM kills per day.
    pub fn oom_per_day(&self) -> f64 {
        self.per_day(self.oom_kills)
    }

    fn per_day(&self, count: u64) -> f64 {
        let days = self.step.as_secs_f64() * self.samples as f64 / 86_400.0;
        if days > 0.0 { count as f64 / days } else { 0.0 }
    }
}

/// 0 for nothing of nothing.
fn ratio(part: u128, whole: u128) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Rounded up; saturates.
fn scaled(value: u64, thousandths: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(thousandths)).div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
