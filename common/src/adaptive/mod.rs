//! Adaptive: many small sizing rules run in the shadow, the one that would have cost least decides.
//!
//! Each minute every [`Expert`] is charged for what its size would have left idle, for what use exceeded it, and for its
//! resizes; older minutes count less. The [`Objective`] is the price of missing size against idle size. This is the
//! recommender of Autopilot (Rzadca et al., `EuroSys` 2020, section 3.2.3) over peaks instead of histograms.
//!
//! It decides on minute peaks ([`crate::peaks`]), the maximum over the pods. All arithmetic is in integers: the same
//! minutes give the same size on every machine, and a state survives a checkpoint bit by bit.

mod decay;
mod experts;
mod signals;
mod tuning;

use serde::{Deserialize, Serialize};

use crate::packed::{Damaged, Pack, Packed, Reader, packed_fields};
use crate::peaks::{MINUTE, MinutePeaks};
use crate::policy::Objective;
use crate::resources::Resource;
use crate::time::Timestamp;

pub use experts::Expert;
pub use signals::Signal;
pub use tuning::{Size, Tuning, Tunings};

use experts::{EXPERTS, Forgetting, Prices, Scale, Shadow, scaled, wanted};
use signals::{FRACTION, Signals};

/// CPU use that was throttled is taken for this much more, in 1/1000: demand is unknown, so the size probes upward by a
/// constant factor each minute until nothing is throttled.
const CENSORED: u64 = 1250;
/// The same of memory that was cut off by an OOM kill at this limit: most who hit a limit need little more, and who needs
/// much more is raised again.
const AFTER_OOM: u64 = 1100;
/// Largest value, in the series' unit: beyond it levels would not fit with their fraction.
const MAX_VALUE: u64 = 1 << 44;

/// What is taken for the demand where use was cut off: CPU by throttling, memory by an OOM kill.
pub fn demand(resource: Resource, cut_off: u64) -> u64 {
    let factor = match resource {
        Resource::Cpu => CENSORED,
        Resource::Memory => AFTER_OOM,
    };
    scaled(cut_off.min(MAX_VALUE), factor)
}

/// State of one series (one resource of one container of a workload): about 4 KiB, and half of it at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adaptive {
    sizes: Size,
    /// Number of the newest minute since the Unix epoch.
    newest: Option<i64>,
    /// Minutes seen.
    seen: u64,
    signals: Signals,
    scale: Scale,
    shadows: Vec<Shadow>,
    /// By objective: each has its own size, so that a policy may change its mind without learning anew.
    savings: Governed,
    balanced: Governed,
    safe: Governed,
}

/// The size that is told, for one objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Governed {
    /// Index of the expert.
    expert: usize,
    /// Level.
    size: u64,
    /// Minute of the last decrease.
    lowered: Option<i64>,
    /// Minute of the last increase.
    raised: Option<i64>,
}

packed_fields!(Governed { expert, size, lowered, raised });

impl Pack for Adaptive {
    fn pack(&self, into: &mut Vec<u8>) {
        let Self { sizes, newest, seen, signals, scale, shadows, savings, balanced, safe } = self;
        sizes.pack(into);
        (*newest, *seen).pack(into);
        signals.pack(into);
        scale.pack(into);
        shadows.pack(into);
        for governed in [savings, balanced, safe] {
            governed.pack(into);
        }
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let sizes = Pack::unpack(from)?;
        let (newest, seen) = Pack::unpack(from)?;
        let state = Self {
            sizes,
            newest,
            seen,
            signals: Pack::unpack(from)?,
            scale: Pack::unpack(from)?,
            shadows: Pack::unpack(from)?,
            savings: Pack::unpack(from)?,
            balanced: Pack::unpack(from)?,
            safe: Pack::unpack(from)?,
        };
        let all = [&state.savings, &state.balanced, &state.safe];
        let minutes = all.iter().flat_map(|governed| [governed.lowered, governed.raised]).chain([newest]);
        let is_time = |minute| minute >= minute_of(Timestamp::MIN) && minute <= minute_of(Timestamp::MAX);
        let known = all.iter().all(|governed| governed.expert < EXPERTS.len());
        let whole = state.shadows.len() == EXPERTS.len() && known && minutes.flatten().all(is_time);
        if whole { Ok(state) } else { Err(from.damaged("not what Adaptive learned")) }
    }
}

/// What a size follows.
struct Seen<'a> {
    shadows: &'a [Shadow],
    scale: Scale,
    /// Of the newest minute.
    level: u64,
    /// Number of the newest minute.
    minute: i64,
}

/// A size and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptiveTarget {
    /// The size in the series' unit, rounded up.
    pub value: u64,
    /// The expert that is followed.
    pub expert: Expert,
    /// Minutes that were seen.
    pub minutes: u64,
    /// What each expert would have cost, cheapest first.
    pub costs: Vec<ExpertCost>,
}

/// What following one expert would have cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertCost {
    /// Which.
    pub expert: Expert,
    /// The size that it asks for now, in the series' unit.
    pub size: u64,
    /// Unit-minutes of idle size, with missing size and resizes at their price, halved each day; saturates.
    pub cost: u64,
}

impl Adaptive {
    /// A series without a past, to size the request of a resource.
    pub fn new(resource: Resource) -> Self {
        Self::sizing(resource.into())
    }

    /// A series without a past. A memory limit is moved far more carefully than a request.
    pub fn sizing(sizes: Size) -> Self {
        Self {
            sizes,
            newest: None,
            seen: 0,
            signals: Signals::default(),
            scale: Scale::default(),
            shadows: vec![Shadow::default(); EXPERTS.len()],
            savings: Governed::default(),
            balanced: Governed::default(),
            safe: Governed::default(),
        }
    }

    /// What is sized.
    pub const fn sizes(&self) -> Size {
        self.sizes
    }

    /// The newest minute that was seen.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest.map(|minute| Timestamp::from_unix_seconds(minute.saturating_mul(60)))
    }

    /// Adds the peak of a minute. The newest minute may come again with a higher peak; older ones are ignored, see
    /// [`Self::at`].
    pub fn observe(&mut self, minute: Timestamp, peak: u64) {
        self.observe_with(&Tunings::of(self.sizes), minute, peak);
    }

    /// As [`Self::observe`], with other constants than the shipped ones: for sweeps.
    pub fn observe_with(&mut self, tunings: &Tunings, minute: Timestamp, peak: u64) {
        self.observe_level(tunings, minute, peak.min(MAX_VALUE) << FRACTION);
    }

    fn observe_level(&mut self, tunings: &Tunings, minute: Timestamp, level: u64) {
        let number = minute_of(minute);
        let elapsed = match self.newest {
            Some(newest) if number < newest => return,
            Some(newest) => u32::try_from(number - newest).unwrap_or(u32::MAX),
            None => 1,
        };
        if elapsed == 0 {
            self.signals.raise(minute, level);
            self.scale.raise(level);
        } else {
            self.newest = Some(number);
            self.seen = self.seen.saturating_add(1);
            self.signals.observe(minute, level, elapsed);
            let wanted = wanted(&self.signals, minute);
            let forgetting = Forgetting::over(elapsed);
            self.scale.observe(level, forgetting);
            for (shadow, wanted) in self.shadows.iter_mut().zip(wanted) {
                shadow.observe(level, wanted, forgetting);
            }
        }
        let seen = Seen { shadows: &self.shadows, scale: self.scale, level, minute: number };
        self.savings.follow(&tunings.savings, &seen);
        self.balanced.follow(&tunings.balanced, &seen);
        self.safe.follow(&tunings.safe, &seen);
    }

    /// Adds the minutes of the ring that are new and end before `up_to`.
    pub fn settle(&mut self, peaks: &MinutePeaks, up_to: Timestamp) {
        let ring = peaks.minutes();
        let end = ring.slot_of(up_to);
        for (slot, peak) in ring.iter().filter(|(slot, _)| *slot < end) {
            if self.newest.is_none_or(|newest| slot > newest) {
                self.observe(ring.start_of(slot), peak);
            }
        }
    }

    /// [`Self::settle`] would change something.
    pub(crate) fn may_learn(state: &Packed<Self>, peaks: &MinutePeaks, up_to: Timestamp) -> bool {
        let (_, newest): (Size, Option<i64>) = state.peek();
        let ring = peaks.minutes();
        let end = ring.slot_of(up_to);
        ring.iter().any(|(slot, _)| slot < end && newest.is_none_or(|newest| slot > newest))
    }

    /// A clock that was wrong had moved on to a time after `now`: what was learned stays, and goes on from here.
    pub fn rewind(&mut self, now: Timestamp) {
        let minute = minute_of(now);
        if self.newest.is_none_or(|newest| newest <= minute) {
            return;
        }
        self.newest = Some(minute);
        self.signals.rewind(now);
        for governed in [&mut self.savings, &mut self.balanced, &mut self.safe] {
            governed.lowered = governed.lowered.map(|at| at.min(minute));
            governed.raised = governed.raised.map(|at| at.min(minute));
        }
    }

    /// The state as bytes, as a checkpoint holds it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.pack(&mut bytes);
        bytes
    }

    /// The state as of `now`: `self` plus the minutes that the ring has beyond it. Keep `self` settled only as far as
    /// frames can no longer come late, and the size does not depend on the order in which they came.
    #[must_use]
    pub fn at(mut self, peaks: &MinutePeaks, now: Timestamp) -> Self {
        self.settle(peaks, now + MINUTE);
        self
    }

    /// The size for an objective, rounded up to the series' unit; `None` before the first minute.
    pub fn size(&self, objective: Objective) -> Option<u64> {
        self.newest.map(|_| units(self.governed(objective).size))
    }

    /// The size for an objective and why; `None` before the first minute.
    pub fn target(&self, objective: Objective) -> Option<AdaptiveTarget> {
        let governed = self.governed(objective);
        let tunings = Tunings::of(self.sizes);
        let tuning = tunings.get(objective);
        let expert = *EXPERTS.get(governed.expert)?;
        let prices = Prices::of(tuning, self.scale);
        let cost = |shadow: &Shadow| u64::try_from(shadow.cost(&prices) >> FRACTION).unwrap_or(u64::MAX);
        let mut costs: Vec<ExpertCost> = EXPERTS
            .iter()
            .zip(&self.shadows)
            .map(|(expert, shadow)| ExpertCost {
                expert: *expert,
                size: units(shadow.size),
                cost: cost(shadow),
            })
            .collect();
        costs.sort_by_key(|entry| entry.cost);
        Some(AdaptiveTarget { value: self.size(objective)?, expert, minutes: self.seen, costs })
    }

    const fn governed(&self, objective: Objective) -> &Governed {
        match objective {
            Objective::Savings => &self.savings,
            Objective::Balanced => &self.balanced,
            Objective::Safe => &self.safe,
        }
    }
}

impl Governed {
    /// Chooses an expert and moves the size towards what it asks for: up at once, down calmly.
    fn follow(&mut self, tuning: &Tuning, seen: &Seen<'_>) {
        let &Seen { shadows, scale, level, minute } = seen;
        let prices = Prices::of(tuning, scale);
        let costs = shadows.iter().map(|shadow| shadow.cost(&prices)).enumerate();
        let Some((cheapest, lowest)) = costs.min_by_key(|(_, cost)| *cost) else { return };
        let Some(kept) = shadows.get(self.expert) else { return };
        if lowest + lowest * u128::from(tuning.switch) / 1000 < kept.cost(&prices) {
            self.expert = cheapest;
        }
        let Some(shadow) = shadows.get(self.expert) else { return };
        let close = level > scaled(self.size, u64::from(tuning.trigger));
        // the first size of all is no answer to an overrun
        let urgent = self.size > 0 && (level > self.size || (close && shadow.rose));
        let burst = if urgent { scaled(level, 1000 + u64::from(tuning.burst)) } else { 0 };
        let wanted = shadow.size.max(burst);
        let since = |at: Option<i64>, minutes| at.is_none_or(|at| minute - at >= i64::from(minutes));
        let cooled = since(self.lowered, tuning.cooldown) && since(self.raised, tuning.settle);
        if wanted > scaled(self.size, 1000 + u64::from(tuning.dead_up)) {
            self.size = wanted;
            self.raised = Some(minute);
        } else if cooled && wanted < scaled(self.size, 1000 - u64::from(tuning.dead_down)) {
            self.size = wanted;
            self.lowered = Some(minute);
        }
    }
}

/// Number of a minute since the Unix epoch.
const fn minute_of(at: Timestamp) -> i64 {
    at.unix_micros().div_euclid(60_000_000)
}

/// A level in the series' unit, rounded up.
const fn units(level: u64) -> u64 {
    level.div_ceil(1 << FRACTION)
}

#[cfg(test)]
mod tests;
