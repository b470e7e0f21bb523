//! Small sizing rules that run in the shadow of the real size, and what each would have cost.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::decay::Decay;
use super::signals::{FRACTION, Signal, Signals};
use super::tuning::Tuning;
use crate::packed::packed_fields;
use crate::time::Timestamp;

/// Half-life of idle size and of resizes, in minutes: what was a day ago counts half.
const IDLE_MEMORY: u32 = 24 * 60;
/// Half-life of missing size, in minutes. It is rare, so it takes longer to know how often it happens.
const MISSING_MEMORY: u32 = 48 * 60;
/// An expert goes down when its level has fallen by this share, in 1/1000: it is judged as the size that would follow it.
const DEAD_DOWN: u64 = 260;
/// Largest ratio of peak to mean that counts, in 1/1000: beyond it the mean is noise.
const SPIKIEST: u128 = 1_000_000;

/// One sizing rule: a level times one plus a margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expert {
    /// Where the level comes from.
    pub signal: Signal,
    /// What is added, in 1/1000.
    pub margin: u16,
}

impl Expert {
    const fn hold(minutes: u32, margin: u16) -> Self {
        Self { signal: Signal::Hold { minutes }, margin }
    }

    const fn quantile(thousandths: u16, margin: u16) -> Self {
        Self { signal: Signal::Quantile { thousandths }, margin }
    }

    const fn highest(hours: u8, margin: u16) -> Self {
        Self { signal: Signal::Highest { hours }, margin }
    }

    const fn same_time(margin: u16) -> Self {
        Self { signal: Signal::SameTime, margin }
    }

    /// The size for a level.
    pub fn size(self, level: u64) -> u64 {
        scaled(level, 1000 + u64::from(self.margin))
    }
}

impl fmt::Display for Expert {
    /// Such as `peak held 4h +5%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signal {
            Signal::Hold { minutes } if minutes.is_multiple_of(60) => {
                write!(f, "peak held {}h", minutes / 60)
            }
            Signal::Hold { minutes } => write!(f, "peak held {minutes}m"),
            Signal::Quantile { thousandths } => write!(f, "P{} of the day", f64::from(thousandths) / 10.0),
            Signal::Highest { hours } => write!(f, "highest of {hours}h"),
            Signal::SameTime => write!(f, "same time of earlier days"),
        }?;
        write!(f, " +{}%", f64::from(self.margin) / 10.0)
    }
}

/// The experts. The order breaks ties: the first is what a container without a past gets.
pub const EXPERTS: [Expert; 47] = [
    Expert::hold(240, 50),
    Expert::hold(240, 100),
    Expert::hold(240, 200),
    Expert::hold(240, 400),
    Expert::hold(240, 800),
    Expert::hold(10, 50),
    Expert::hold(10, 100),
    Expert::hold(10, 200),
    Expert::hold(10, 400),
    Expert::hold(10, 800),
    Expert::hold(30, 50),
    Expert::hold(30, 100),
    Expert::hold(30, 200),
    Expert::hold(30, 400),
    Expert::hold(30, 800),
    Expert::hold(60, 50),
    Expert::hold(60, 100),
    Expert::hold(60, 200),
    Expert::hold(60, 400),
    Expert::hold(60, 800),
    Expert::hold(120, 50),
    Expert::hold(120, 200),
    Expert::hold(480, 50),
    Expert::hold(480, 100),
    Expert::hold(480, 200),
    Expert::hold(480, 400),
    Expert::hold(1440, 20),
    Expert::hold(1440, 50),
    Expert::hold(1440, 150),
    Expert::same_time(50),
    Expert::same_time(150),
    Expert::same_time(350),
    Expert::same_time(800),
    Expert::quantile(900, 100),
    Expert::quantile(950, 100),
    Expert::quantile(990, 50),
    Expert::quantile(990, 150),
    Expert::quantile(950, 300),
    Expert::quantile(900, 500),
    Expert::highest(6, 50),
    Expert::highest(6, 150),
    Expert::highest(24, 20),
    Expert::highest(24, 100),
    Expert::highest(24, 200),
    Expert::highest(72, 20),
    Expert::highest(72, 100),
    Expert::highest(72, 250),
];

/// How much older minutes still count.
#[derive(Clone, Copy, Debug)]
pub struct Forgetting {
    idle: Decay,
    missing: Decay,
}

impl Forgetting {
    /// After so many minutes.
    pub fn over(elapsed: u32) -> Self {
        Self { idle: Decay::over(elapsed, IDLE_MEMORY), missing: Decay::over(elapsed, MISSING_MEMORY) }
    }
}

/// One minute, in counts of minutes that are halved.
const ONE_MINUTE: u64 = 1 << FRACTION;

/// What a series is measured against: its highest use ever and its mean use of the last day or two, as levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    peak: u64,
    /// Sum of the minute peaks, halved each day.
    used: u64,
    /// Those minutes in [`ONE_MINUTE`], halved alike.
    minutes: u64,
}

packed_fields!(Scale { peak, used, minutes });

impl Scale {
    /// Adds a new minute.
    pub fn observe(&mut self, level: u64, forgetting: Forgetting) {
        self.used = forgetting.idle.of(self.used).saturating_add(level);
        self.minutes = forgetting.idle.of(self.minutes).saturating_add(ONE_MINUTE);
        self.raise(level);
    }

    /// A higher value within the newest minute.
    pub fn raise(&mut self, level: u64) {
        self.peak = self.peak.max(level);
    }

    /// Peak divided by mean, in 1/1000; at least 1000.
    fn spikiness(self) -> u128 {
        let mean_times_minutes = u128::from(self.used).max(1);
        let peak_times_minutes = (u128::from(self.peak) * u128::from(self.minutes)) >> FRACTION;
        (peak_times_minutes * 1000 / mean_times_minutes).clamp(1000, SPIKIEST)
    }
}

/// The size that an expert would have given, and what came of it. Sums are in unit-minutes with the fraction of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// Level; 0 until the first minute.
    pub size: u64,
    /// The newest minute raised it.
    pub rose: bool,
    overrun: u64,
    /// Minutes with use above the size, in [`ONE_MINUTE`].
    exceeded: u64,
    slack: u64,
    changed: u64,
}

packed_fields!(Shadow { size, rose, overrun, exceeded, slack, changed });

impl Shadow {
    /// Judges the size against a new minute, then moves it.
    pub fn observe(&mut self, level: u64, wanted: u64, forgetting: Forgetting) {
        if self.size == 0 {
            self.size = wanted;
            return;
        }
        let Forgetting { idle, missing } = forgetting;
        self.overrun = missing.of(self.overrun).saturating_add(level.saturating_sub(self.size));
        self.exceeded =
            missing.of(self.exceeded).saturating_add(if level > self.size { ONE_MINUTE } else { 0 });
        self.slack = idle.of(self.slack).saturating_add(self.size.saturating_sub(level));
        self.changed = idle.of(self.changed);
        self.rose = wanted > self.size;
        if self.rose || wanted < scaled(self.size, 1000 - DEAD_DOWN) {
            self.changed = self.changed.saturating_add(wanted);
            self.size = wanted;
        }
    }

    /// What the expert would have cost, in unit-minutes of idle size with the fraction of a level.
    pub fn cost(&self, prices: &Prices) -> u128 {
        let exceeded = (u128::from(self.exceeded) * u128::from(prices.peak)) >> FRACTION;
        per_thousand(
            u128::from(self.overrun) * prices.overrun
                + exceeded * prices.exceed
                + u128::from(self.changed) * prices.change,
        ) + u128::from(self.slack)
    }
}

/// What a minute costs beside the size that idles in it, in 1/1000 of an idle unit.
///
/// Idle size is judged as a share of the highest use, which is what would have to be bought; missing size as a share of
/// the work that has to wait for it. In a series whose peak is twenty times its mean a missing unit therefore weighs
/// twenty times as much as in a flat one.
#[derive(Clone, Copy, Debug)]
pub struct Prices {
    /// Of a missing unit.
    overrun: u128,
    /// Of a minute with use above the size, for each unit of [`Self::peak`].
    exceed: u128,
    /// Of a unit of a new size.
    change: u128,
    /// Highest use ever, a level.
    peak: u64,
}

impl Prices {
    /// Of a series.
    pub fn of(tuning: &Tuning, scale: Scale) -> Self {
        Self {
            overrun: u128::from(tuning.overrun_weight) * scale.spikiness() / 1000,
            exceed: u128::from(tuning.exceed_weight),
            change: u128::from(tuning.change_weight),
            peak: scale.peak,
        }
    }
}

/// Level of every expert's signal, times its margin. Experts of the same signal stand side by side.
pub fn wanted(signals: &Signals, now: Timestamp) -> [u64; EXPERTS.len()] {
    let mut known: Option<(Signal, u64)> = None;
    EXPERTS.map(|expert| {
        let level = match known {
            Some((signal, level)) if signal == expert.signal => level,
            _ => signals.level(expert.signal, now),
        };
        known = Some((expert.signal, level));
        expert.size(level)
    })
}

/// `value * thousandths / 1000`, rounded down; saturates.
pub fn scaled(value: u64, thousandths: u64) -> u64 {
    let product = u128::from(value) * u128::from(thousandths);
    u64::try_from(per_thousand(product)).unwrap_or(u64::MAX)
}

/// A thousandth, rounded down. Nearly all values fit 64 bits, where the division costs a tenth.
fn per_thousand(value: u128) -> u128 {
    u64::try_from(value).map_or_else(|_| value / 1000, |value| u128::from(value / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adaptive::Tunings;
    use crate::policy::Objective;

    /// Cost of one missing unit in a series with this peak and mean.
    fn cost_of_a_miss(peak: u64, mean: u64) -> u128 {
        let forgetting = Forgetting::over(1);
        let mut scale = Scale::default();
        (0..1000).for_each(|_| scale.observe(mean << FRACTION, forgetting));
        scale.raise(peak << FRACTION);
        let mut shadow = Shadow { size: 100 << FRACTION, ..Shadow::default() };
        shadow.observe(101 << FRACTION, 0, forgetting);
        let tuning = *Tunings::of(super::super::Size::CpuRequest).get(Objective::Balanced);
        shadow.cost(&Prices::of(&Tuning { change_weight: 0, exceed_weight: 0, ..tuning }, scale))
    }

    #[test]
    fn a_missing_unit_weighs_more_where_the_peak_is_far_above_the_mean() {
        let flat = cost_of_a_miss(100, 100);
        let spiky = cost_of_a_miss(2000, 100);
        let ratio = spiky as f64 / flat as f64;
        assert!((ratio - 20.0).abs() < 0.1, "{ratio}");
    }

    #[test]
    fn nothing_used_is_not_infinitely_spiky() {
        assert_eq!(Scale::default().spikiness(), 1000);
        assert_eq!(Scale { peak: u64::MAX, used: 0, minutes: ONE_MINUTE }.spikiness(), SPIKIEST);
        let full = Shadow {
            size: 1,
            rose: true,
            overrun: u64::MAX,
            exceeded: u64::MAX,
            slack: u64::MAX,
            changed: u64::MAX,
        };
        let scale = Scale { peak: u64::MAX, used: 0, minutes: u64::MAX };
        for size in [super::super::Size::CpuRequest, super::super::Size::MemoryLimit] {
            full.cost(&Prices::of(Tunings::of(size).get(Objective::Safe), scale));
        }
    }
}
