//! What a program wants over time. A demand is a sum of shapes; a shape is a function of the age of the container, of
//! simulated time (`daily`), or of a recorded series.
//!
//! Everything is evaluated once a period of 100 ms, at its start, in integers, so the outcome does not depend on the
//! steps in which time advances.

use std::sync::Arc;
use std::time::Duration;

use super::PERIOD_MICROS;
use super::memory::Level;
use super::trace::{CpuTrace, Library, MemoryTrace, TraceError};

/// CPU that is asked for at most, millicores: larger than any node.
pub const LARGEST_CPU: u64 = 1_000_000;
/// Memory that is asked for at most, bytes: 16 TiB.
pub const LARGEST_MEMORY: u64 = 1 << 44;
/// Work of one microsecond of one core, in nanocores times microseconds.
pub const MICROSECOND_OF_WORK: u128 = 1_000_000_000;

/// Nanocores in a millicore.
const NANOCORES: u64 = 1_000_000;

/// What is measured in a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Millicores.
    Cpu,
    /// Bytes.
    Memory,
}

/// A function of time. Amounts are millicores or bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Always the same.
    Constant(u64),
    /// `low` in the first half of each period, `high` in the second.
    Square {
        /// First half.
        low: u64,
        /// Second half.
        high: u64,
        /// Both halves.
        period: Duration,
    },
    /// From one amount to another in a straight line, and then the latter.
    Ramp {
        /// At the start.
        from: u64,
        /// At the end.
        to: u64,
        /// Of the line.
        over: Duration,
    },
    /// `base`, but `peak` at the end of each period.
    Spike {
        /// Mostly.
        base: u64,
        /// At the end.
        peak: u64,
        /// From peak to peak.
        every: Duration,
        /// Of the peak.
        length: Duration,
    },
    /// Grows without end in a straight line.
    Leak {
        /// At the start.
        start: u64,
        /// More of it in each period.
        growth: u64,
        /// The period.
        every: Duration,
    },
    /// A wave with its trough at the start of each simulated day and its crest in the middle.
    Daily {
        /// Trough.
        low: u64,
        /// Crest.
        high: u64,
        /// Length of a day.
        day: Duration,
    },
    /// `peak` at first, then `calm`.
    Startup {
        /// At first.
        peak: u64,
        /// How long.
        length: Duration,
        /// After it.
        calm: u64,
    },
    /// Evenly distributed between two amounts, drawn anew for each step.
    Noise {
        /// At least.
        low: u64,
        /// At most.
        high: u64,
        /// How long a draw holds.
        step: Duration,
        /// Other numbers for another seed.
        seed: u64,
    },
    /// A recorded series.
    Trace {
        /// File without extension.
        set: String,
        /// Series in it.
        series: String,
        /// Of the recorded amount.
        percent: u32,
        /// Where in the series the container begins.
        offset: Duration,
    },
}

/// A sum of shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// What it is about.
    pub amount: Amount,
    /// At least one.
    pub shapes: Vec<Shape>,
}

/// What a container uses. [`str::parse`] reads it; the grammar is in [`super::grammar`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU that the program would use if it could.
    pub cpu: Demand,
    /// Memory of the program.
    pub memory: Demand,
    /// Files that it reads again and again: page cache, given back first.
    pub cache: Option<Demand>,
}

impl Default for Usage {
    /// A quiet container: 10m and 16Mi.
    fn default() -> Self {
        let constant = |amount, value| Demand { amount, shapes: vec![Shape::Constant(value)] };
        Self { cpu: constant(Amount::Cpu, 10), memory: constant(Amount::Memory, 16 << 20), cache: None }
    }
}

/// A point in the life of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Periods since the container started.
    pub age: u64,
    /// Periods since the simulation started.
    pub now: u64,
}

/// A demand with its traces at hand.
#[derive(Clone, Debug)]
pub struct Source {
    unit: u64,
    largest: u128,
    shapes: Vec<Loaded>,
    salt: u64,
}

#[derive(Clone, Debug)]
enum Loaded {
    Shape(Shape),
    Cpu { trace: Arc<CpuTrace>, percent: u32, offset: u64 },
    Memory { trace: Arc<MemoryTrace>, percent: u32, offset: u64 },
}

impl Source {
    /// Loads the traces of a demand. Noise differs between containers by their `salt`.
    ///
    /// # Errors
    /// When a trace is not there.
    pub fn load(demand: &Demand, library: &Library, salt: u64) -> Result<Self, TraceError> {
        let load = |shape: &Shape| match shape {
            Shape::Trace { set, series, percent, offset } => {
                let (percent, offset) = (*percent, micros(*offset));
                Ok(match demand.amount {
                    Amount::Cpu => Loaded::Cpu { trace: library.cpu(set, series)?, percent, offset },
                    Amount::Memory => Loaded::Memory { trace: library.memory(set, series)?, percent, offset },
                })
            }
            shape => Ok(Loaded::Shape(shape.clone())),
        };
        let (unit, largest) = match demand.amount {
            Amount::Cpu => (NANOCORES, LARGEST_CPU * NANOCORES),
            Amount::Memory => (1, LARGEST_MEMORY),
        };
        let shapes = demand.shapes.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { unit, largest: largest.into(), shapes, salt })
    }

    /// CPU work that arrives in the period that begins at `moment`, in nanocores times microseconds.
    pub fn work(&self, moment: Moment) -> u128 {
        let work = |loaded: &Loaded| match loaded {
            Loaded::Shape(shape) => self.value(shape, moment) * u128::from(PERIOD_MICROS),
            Loaded::Cpu { trace, percent, offset } => {
                let from = (moment.age * PERIOD_MICROS).saturating_add(*offset);
                trace.work(from, from.saturating_add(PERIOD_MICROS)) * u128::from(*percent) / 100
            }
            Loaded::Memory { .. } => 0,
        };
        let sum = self.shapes.iter().map(work).sum::<u128>();
        sum.min(self.largest * u128::from(PERIOD_MICROS))
    }

    /// Memory that is wanted at `moment`.
    pub fn level(&self, moment: Moment) -> Level {
        self.shapes.iter().fold(Level::default(), |sum, loaded| {
            sum.plus(match loaded {
                Loaded::Shape(shape) => Level::anonymous(narrow(self.value(shape, moment).min(self.largest))),
                Loaded::Memory { trace, percent, offset } => {
                    let at = (moment.age * PERIOD_MICROS).saturating_add(*offset);
                    trace.at(at).scaled(*percent)
                }
                Loaded::Cpu { .. } => Level::default(),
            })
        })
    }

    /// Value of a shape in nanocores or bytes.
    fn value(&self, shape: &Shape, moment: Moment) -> u128 {
        let unit = u128::from(self.unit);
        let amount = |amount: u64| u128::from(amount) * unit;
        let age = u128::from(moment.age) * u128::from(PERIOD_MICROS);
        let length = |duration: Duration| duration.as_micros().max(1);
        match *shape {
            Shape::Constant(value) => amount(value),
            Shape::Square { low, high, period } => {
                let second_half = age % length(period) * 2 >= length(period);
                amount(if second_half { high } else { low })
            }
            Shape::Ramp { from, to, over } => {
                let (at, over) = (age.min(length(over)), length(over));
                (amount(from) * (over - at) + amount(to) * at) / over
            }
            Shape::Spike { base, peak, every, length: peak_length } => {
                let left = length(every) - age % length(every);
                amount(if left <= peak_length.as_micros() { peak } else { base })
            }
            Shape::Leak { start, growth, every } => {
                amount(start) + amount(growth).saturating_mul(age) / length(every)
            }
            Shape::Daily { low, high, day } => {
                let now = u128::from(moment.now) * u128::from(PERIOD_MICROS);
                let height = wave(now % length(day), length(day));
                (amount(low) * (WAVE - height) + amount(high) * height) / WAVE
            }
            Shape::Startup { peak, length: at_first, calm } => {
                amount(if age < at_first.as_micros() { peak } else { calm })
            }
            Shape::Noise { low, high, step, seed } => {
                let draw = draw(self.salt, seed, narrow(age / length(step)));
                let range = amount(high) - amount(low) + 1;
                amount(low) + u128::from(draw) * range / (u128::from(u64::MAX) + 1)
            }
            // loaded as what it is
            Shape::Trace { .. } => 0,
        }
    }
}

/// Height of the crest of [`wave`].
const WAVE: u128 = 1 << 20;

/// sin² of half a turn per `day`, by Bhaskara's approximation of the sine (off by less than 0.2 %): integers give the
/// same on every machine.
fn wave(at: u128, day: u128) -> u128 {
    let product = at * (day - at);
    let sine = ((16 * product) << 20) / (5 * day * day - 4 * product);
    (sine * sine) >> 20
}

/// One of 2^64 numbers, evenly (splitmix64).
fn draw(salt: u64, seed: u64, index: u64) -> u64 {
    [salt, seed, index].into_iter().fold(0_u64, |state, word| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn micros(duration: Duration) -> u64 {
    narrow(duration.as_micros())
}

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        let usage: Usage = text.parse().unwrap();
        Source::load(&usage.cpu, &Library::default(), 1).unwrap()
    }

    /// Millicores at some seconds of age.
    fn millicores(text: &str, seconds: &[u64]) -> Vec<u128> {
        let source = source(text);
        let at = |second: &u64| Moment { age: second * 10, now: second * 10 };
        seconds
            .iter()
            .map(|second| source.work(at(second)) / (u128::from(PERIOD_MICROS * NANOCORES)))
            .collect()
    }

    #[test]
    fn shapes_are_what_they_say() {
        for (text, seconds, expected) in [
            ("cpu=constant(50m)", vec![0, 9], vec![50, 50]),
            ("cpu=square(50m,800m,60s)", vec![0, 29, 30, 59, 60], vec![50, 50, 800, 800, 50]),
            ("cpu=ramp(100m,200m,10s)", vec![0, 5, 10, 99], vec![100, 150, 200, 200]),
            ("cpu=ramp(200m,100m,10s)", vec![0, 5, 10], vec![200, 150, 100]),
            ("cpu=spike(10m,1,60s,5s)", vec![0, 54, 55, 59, 60], vec![10, 10, 1000, 1000, 10]),
            ("cpu=leak(10m,1m,10s)", vec![0, 10, 95], vec![10, 11, 19]),
            (
                "cpu=daily(100m,900m,24h)",
                vec![0, 21_600, 43_200, 64_800, 86_400],
                vec![100, 498, 900, 498, 100],
            ),
            ("cpu=startup(1,30s,20m)", vec![0, 29, 30], vec![1000, 1000, 20]),
            ("cpu=constant(1m)+constant(2m)", vec![0], vec![3]),
        ] {
            assert_eq!(millicores(text, &seconds), expected, "{text}");
        }
    }

    #[test]
    fn noise_stays_in_its_range_fills_it_and_differs_by_seed_and_salt() {
        let drawn = |text: &str, salt| {
            let usage: Usage = text.parse().unwrap();
            let source = Source::load(&usage.memory, &Library::default(), salt).unwrap();
            let at = |age| source.level(Moment { age, now: 0 }).anon;
            (0..1000).map(at).collect::<Vec<_>>()
        };
        let first = drawn("memory=noise(1,4,100ms,7)", 1);
        for value in 1..=4 {
            let share = first.iter().filter(|v| **v == value).count();
            assert!((200..=300).contains(&share), "{value}: {share} of 1000");
        }
        assert_eq!(first, drawn("memory=noise(1,4,100ms,7)", 1));
        assert_ne!(first, drawn("memory=noise(1,4,100ms,8)", 1));
        assert_ne!(first, drawn("memory=noise(1,4,100ms,7)", 2));
        let held = drawn("memory=noise(0,1000000,1s,7)", 1);
        assert!(held.chunks(10).all(|second| second.iter().all(|v| *v == second[0])));
    }

    #[test]
    fn traces_are_scaled_and_begin_at_their_offset() {
        let second = |text: &str, at: u64| {
            let source = source(text);
            let work = |age| source.work(Moment { age, now: 0 });
            (at * 10..at * 10 + 10).map(work).sum::<u128>() / MICROSECOND_OF_WORK
        };
        // the first two rows of the file
        assert_eq!(second("cpu=trace(recorded-1s/nodeapi)", 0), 143_720);
        assert_eq!(second("cpu=trace(recorded-1s/nodeapi)", 1), 133_620);
        assert_eq!(second("cpu=trace(recorded-1s/nodeapi,200%,1s)", 0), 267_240);
    }
}
