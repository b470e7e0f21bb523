//! Small sizing rules that run in the shadow of the real size, and what each would have cost.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::decay::Decay;
use super::signals::{Signal, Signals};
use super::tuning::Tuning;
use crate::time::Timestamp;

/// Half-life of what the experts cost, in minutes: what was a day ago counts half.
pub const MEMORY: u32 = 24 * 60;
/// An expert goes down when its level has fallen by this share, in 1/1000: it is judged as the size that would follow it.
const DEAD_DOWN: u64 = 300;

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

/// The size that an expert would have given, and what came of it. Sums are in unit-minutes with the fraction of a level,
/// halved each day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// Level; 0 until the first minute.
    pub size: u64,
    /// The newest minute raised it.
    pub rose: bool,
    overrun: u64,
    exceeded: u64,
    slack: u64,
    changed: u64,
}

impl Shadow {
    /// Judges the size against a new minute, then moves it.
    pub fn observe(&mut self, level: u64, wanted: u64, decay: Decay) {
        if self.size == 0 {
            self.size = wanted;
            return;
        }
        self.overrun = decay.of(self.overrun).saturating_add(level.saturating_sub(self.size));
        self.exceeded = decay.of(self.exceeded).saturating_add(if level > self.size { self.size } else { 0 });
        self.slack = decay.of(self.slack).saturating_add(self.size.saturating_sub(level));
        self.changed = decay.of(self.changed);
        self.rose = wanted > self.size;
        if self.rose || wanted < scaled(self.size, 1000 - DEAD_DOWN) {
            self.changed = self.changed.saturating_add(wanted);
            self.size = wanted;
        }
    }

    /// What the expert would have cost, in unit-minutes of idle size with the fraction of a level.
    pub fn cost(&self, tuning: &Tuning) -> u128 {
        u128::from(self.overrun) * u128::from(tuning.overrun_weight)
            + u128::from(self.exceeded) * u128::from(tuning.exceed_weight) / 1000
            + u128::from(self.slack)
            + u128::from(self.changed) * u128::from(tuning.change_weight) / 1000
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
    u64::try_from(u128::from(value) * u128::from(thousandths) / 1000).unwrap_or(u64::MAX)
}
