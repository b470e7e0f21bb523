//! The text of a [`Usage`], as pods carry it in an annotation.
//!
//! ```text
//! usage  := item (spaces item)*                    each key at most once
//! item   := ("cpu" | "memory" | "cache") "=" demand
//! demand := shape ("+" shape)*                     their sum
//! shape  := name "(" argument ("," argument)* ")"
//! ```
//!
//! | shape | is |
//! |---|---|
//! | `constant(amount)` | always the same |
//! | `square(low,high,period)` | `low` in the first half of each period, `high` in the second |
//! | `ramp(from,to,over)` | a straight line, then `to` |
//! | `spike(base,peak,every,length)` | `base`, but `peak` for the last `length` of each `every` |
//! | `leak(start,growth,every)` | a straight line without end: `growth` more in each `every` |
//! | `daily(low,high,day)` | a wave, lowest when a simulated day begins, highest in its middle |
//! | `startup(peak,length,calm)` | `peak` at first, then `calm` |
//! | `noise(low,high,step,seed)` | evenly distributed, drawn anew for each `step`; other containers draw other values |
//! | `trace(set/series[,percent%[,offset]])` | a recorded series, scaled, begun at an offset, and over again at its end |
//!
//! Amounts are quantities as Kubernetes writes them: cores for `cpu` (`50m`, `1.5`), bytes for the others (`64Mi`).
//! Times are Kubernetes durations of at least 100 ms. All shapes but `daily` follow the age of the container, so they
//! begin anew when it restarts. What is not stated is quiet: `cpu=constant(10m) memory=constant(16Mi)`, no cache.
//!
//! ```text
//! cpu=square(50m,800m,60s) memory=ramp(64Mi,512Mi,10m)
//! cpu=trace(recorded-1s/nodeapi)+noise(0,20m,1s,7) memory=trace(recorded-memory-10hz/nodeapi)
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use optipod_common::policy::parse_duration;
use optipod_common::quantity::{Bytes, MilliCpu, QuantityError};
use thiserror::Error;

use super::demand::{Amount, Demand, LARGEST_CPU, LARGEST_MEMORY, Shape, Usage};

/// Shorter times cannot be told apart.
const SHORTEST: Duration = Duration::from_millis(100);
/// Scale of a trace.
const PERCENT: std::ops::RangeInclusive<u32> = 1..=100_000;

/// Names of shapes with their arguments.
const SHAPES: [(&str, &str); 9] = [
    ("constant", "amount"),
    ("square", "low,high,period"),
    ("ramp", "from,to,over"),
    ("spike", "base,peak,every,length"),
    ("leak", "start,growth,every"),
    ("daily", "low,high,day"),
    ("startup", "peak,length,calm"),
    ("noise", "low,high,step,seed"),
    ("trace", "set/series[,percent%[,offset]]"),
];

/// Why a text is not a usage.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UsageError {
    /// Nothing is stated.
    #[error("usage is empty: expected cpu=.., memory=.. or cache=.., separated by spaces")]
    Empty,
    /// Not `key=demand`.
    #[error("{0:?} is not part of a usage: expected cpu=.., memory=.. or cache=.., separated by spaces")]
    Item(String),
    /// A key twice.
    #[error("{0} is stated twice")]
    Twice(&'static str),
    /// Not a shape.
    #[error("{text:?} is not a demand: expected {}, or a sum of such with +", shapes())]
    Shape {
        /// What was found.
        text: String,
    },
    /// Wrong number of arguments.
    #[error("{shape} has {found} arguments: expected {shape}({expected})")]
    Arguments {
        /// Name of the shape.
        shape: &'static str,
        /// How many there are.
        found: usize,
        /// Their names.
        expected: &'static str,
    },
    /// An argument is not an amount.
    #[error("{argument} of {shape}: {source}")]
    Amount {
        /// Name of the shape.
        shape: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// Why.
        source: QuantityError,
    },
    /// An argument is something else than it should be.
    #[error("{argument} of {shape}: {message}")]
    Argument {
        /// Name of the shape.
        shape: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// What is wrong, and what is allowed.
        message: String,
    },
}

fn shapes() -> String {
    SHAPES.map(|(name, arguments)| format!("{name}({arguments})")).join(", ")
}

/// At most as many characters as a message shows.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Usage {
    type Err = UsageError;
    fn from_str(text: &str) -> Result<Self, UsageError> {
        let (mut cpu, mut memory, mut cache) = (None, None, None);
        for item in text.split_whitespace() {
            let (key, demand) = item.split_once('=').ok_or_else(|| UsageError::Item(shown(item)))?;
            let (slot, key, amount) = match key {
                "cpu" => (&mut cpu, "cpu", Amount::Cpu),
                "memory" => (&mut memory, "memory", Amount::Memory),
                "cache" => (&mut cache, "cache", Amount::Memory),
                _ => return Err(UsageError::Item(shown(item))),
            };
            if slot.replace(parse_demand(demand, amount)?).is_some() {
                return Err(UsageError::Twice(key));
            }
        }
        if cpu.is_none() && memory.is_none() && cache.is_none() {
            return Err(UsageError::Empty);
        }
        let quiet = Self::default();
        Ok(Self { cpu: cpu.unwrap_or(quiet.cpu), memory: memory.unwrap_or(quiet.memory), cache })
    }
}

fn parse_demand(text: &str, amount: Amount) -> Result<Demand, UsageError> {
    let mut shapes = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find(')').ok_or_else(|| UsageError::Shape { text: shown(rest) })?;
        let (shape, after) = rest.split_at(end + 1);
        shapes.push(parse_shape(shape, amount)?);
        if after.is_empty() {
            return Ok(Demand { amount, shapes });
        }
        rest = after.strip_prefix('+').ok_or_else(|| UsageError::Shape { text: shown(after) })?;
    }
}

fn parse_shape(text: &str, amount: Amount) -> Result<Shape, UsageError> {
    let unknown = || UsageError::Shape { text: shown(text) };
    let (name, arguments) = text.strip_suffix(')').and_then(|t| t.split_once('(')).ok_or_else(unknown)?;
    let (shape, expected) = SHAPES.into_iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
    let given: Vec<&str> = arguments.split(',').collect();
    let arguments = Arguments { shape, amount };
    let wrong = || UsageError::Arguments { shape, found: given.len(), expected };
    Ok(match (shape, given.as_slice()) {
        ("constant", [value]) => Shape::Constant(arguments.amount("amount", value)?),
        ("square", [low, high, period]) => Shape::Square {
            low: arguments.amount("low", low)?,
            high: arguments.amount("high", high)?,
            period: arguments.time("period", period, SHORTEST * 2)?,
        },
        ("ramp", [from, to, over]) => Shape::Ramp {
            from: arguments.amount("from", from)?,
            to: arguments.amount("to", to)?,
            over: arguments.time("over", over, SHORTEST)?,
        },
        ("spike", [base, peak, every, length]) => {
            let every = arguments.time("every", every, SHORTEST)?;
            let length = arguments.time("length", length, SHORTEST)?;
            if length > every {
                return Err(arguments.wrong("length", "is longer than every".to_owned()));
            }
            Shape::Spike {
                base: arguments.amount("base", base)?,
                peak: arguments.amount("peak", peak)?,
                every,
                length,
            }
        }
        ("leak", [start, growth, every]) => Shape::Leak {
            start: arguments.amount("start", start)?,
            growth: arguments.amount("growth", growth)?,
            every: arguments.time("every", every, SHORTEST)?,
        },
        ("daily", [low, high, day]) => Shape::Daily {
            low: arguments.amount("low", low)?,
            high: arguments.amount("high", high)?,
            day: arguments.time("day", day, SHORTEST * 2)?,
        },
        ("startup", [peak, length, calm]) => Shape::Startup {
            peak: arguments.amount("peak", peak)?,
            length: arguments.time("length", length, SHORTEST)?,
            calm: arguments.amount("calm", calm)?,
        },
        ("noise", [low, high, step, seed]) => {
            let (low, high) = (arguments.amount("low", low)?, arguments.amount("high", high)?);
            if low > high {
                return Err(arguments.wrong("low", "is above high".to_owned()));
            }
            let step = arguments.time("step", step, SHORTEST)?;
            let number = || arguments.wrong("seed", format!("{seed:?} is not a number of 64 bits"));
            Shape::Noise { low, high, step, seed: seed.parse().map_err(|_| number())? }
        }
        ("trace", [path, scale @ ..]) if scale.len() <= 2 => {
            let (set, series) = arguments.trace(path)?;
            let percent = scale.first().map_or(Ok(100), |text| arguments.percent(text))?;
            let zero = Duration::ZERO;
            let offset = scale.get(1).map_or(Ok(zero), |text| arguments.time("offset", text, zero))?;
            Shape::Trace { set, series, percent, offset }
        }
        _ => return Err(wrong()),
    })
}

/// Parses the arguments of one shape.
#[derive(Clone, Copy)]
struct Arguments {
    shape: &'static str,
    amount: Amount,
}

impl Arguments {
    const fn wrong(self, argument: &'static str, message: String) -> UsageError {
        UsageError::Argument { shape: self.shape, argument, message }
    }

    fn amount(self, argument: &'static str, text: &str) -> Result<u64, UsageError> {
        let (parsed, largest) = match self.amount {
            Amount::Cpu => (text.parse::<MilliCpu>().map(|cpu| cpu.0), LARGEST_CPU),
            Amount::Memory => (text.parse::<Bytes>().map(|memory| memory.0), LARGEST_MEMORY),
        };
        let value = parsed.map_err(|source| UsageError::Amount { shape: self.shape, argument, source })?;
        if value > largest {
            let largest = Written(self.amount, largest);
            return Err(self.wrong(argument, format!("{text:?} is too large: at most {largest}")));
        }
        Ok(value)
    }

    fn time(self, argument: &'static str, text: &str, shortest: Duration) -> Result<Duration, UsageError> {
        let time = parse_duration(text).map_err(|message| self.wrong(argument, message))?;
        if time < shortest {
            let shortest = Time(shortest);
            return Err(self.wrong(argument, format!("{text:?} is too short: at least {shortest}")));
        }
        Ok(time)
    }

    fn percent(self, text: &str) -> Result<u32, UsageError> {
        let percent = text.strip_suffix('%').and_then(|digits| digits.parse().ok());
        percent.filter(|percent| PERCENT.contains(percent)).ok_or_else(|| {
            let message = format!("{text:?} is not a scale: expected 1% to {}%", PERCENT.end());
            self.wrong("percent", message)
        })
    }

    /// The file's name is never a path.
    fn trace(self, text: &str) -> Result<(String, String), UsageError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match text.split_once('/') {
            Some((set, series)) if !set.is_empty() && !series.is_empty() && set.chars().all(plain) => {
                Ok((set.to_owned(), series.to_owned()))
            }
            _ => {
                let message = format!(
                    "{:?} is not a series: expected set/series, such as recorded-1s/nodeapi",
                    shown(text)
                );
                Err(self.wrong("set/series", message))
            }
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu={} memory={}", self.cpu, self.memory)?;
        self.cache.iter().try_for_each(|cache| write!(f, " cache={cache}"))
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, shape) in self.shapes.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            write_shape(f, shape, self.amount)?;
        }
        Ok(())
    }
}

fn write_shape(f: &mut fmt::Formatter<'_>, shape: &Shape, amount: Amount) -> fmt::Result {
    let a = |value: u64| Written(amount, value);
    let t = Time;
    match shape {
        Shape::Constant(value) => write!(f, "constant({})", a(*value)),
        Shape::Square { low, high, period } => write!(f, "square({},{},{})", a(*low), a(*high), t(*period)),
        Shape::Ramp { from, to, over } => write!(f, "ramp({},{},{})", a(*from), a(*to), t(*over)),
        Shape::Spike { base, peak, every, length } => {
            write!(f, "spike({},{},{},{})", a(*base), a(*peak), t(*every), t(*length))
        }
        Shape::Leak { start, growth, every } => {
            write!(f, "leak({},{},{})", a(*start), a(*growth), t(*every))
        }
        Shape::Daily { low, high, day } => write!(f, "daily({},{},{})", a(*low), a(*high), t(*day)),
        Shape::Startup { peak, length, calm } => {
            write!(f, "startup({},{},{})", a(*peak), t(*length), a(*calm))
        }
        Shape::Noise { low, high, step, seed } => {
            write!(f, "noise({},{},{},{seed})", a(*low), a(*high), t(*step))
        }
        Shape::Trace { set, series, percent, offset } => {
            write!(f, "trace({set}/{series}")?;
            if *percent != 100 || !offset.is_zero() {
                write!(f, ",{percent}%")?;
            }
            if !offset.is_zero() {
                write!(f, ",{}", t(*offset))?;
            }
            f.write_str(")")
        }
    }
}

struct Written(Amount, u64);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Amount::Cpu => MilliCpu(self.1).fmt(f),
            Amount::Memory => Bytes(self.1).fmt(f),
        }
    }
}

/// A time in its largest unit.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let unit = units.into_iter().find(|(unit, _)| millis.is_multiple_of(*unit) && millis > 0);
        let (unit, name) = unit.unwrap_or((1, "ms"));
        write!(f, "{}{name}", millis / unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (text, expected) in [
            ("", "usage is empty: expected cpu=.."),
            ("cpu", "\"cpu\" is not part of a usage: expected cpu=.."),
            ("disk=constant(1)", "\"disk=constant(1)\" is not part of a usage"),
            ("cpu=constant(1) cpu=constant(1)", "cpu is stated twice"),
            ("cpu=100m", "\"100m\" is not a demand: expected constant(amount), square(low,high,period)"),
            ("cpu=sine(1,2)", "\"sine(1,2)\" is not a demand"),
            ("cpu=constant(1)constant(2)", "\"constant(2)\" is not a demand"),
            ("cpu=constant(1)+", "\"\" is not a demand"),
            ("cpu=square(1,2)", "square has 2 arguments: expected square(low,high,period)"),
            ("cpu=trace(a/b,1%,1s,1)", "trace has 4 arguments"),
            ("cpu=constant(x)", "amount of constant: \"x\" is not a quantity"),
            ("cpu=constant(-1)", "amount of constant: \"-1\" is negative"),
            ("cpu=constant(1001)", "amount of constant: \"1001\" is too large: at most 1000"),
            ("memory=constant(17Ti)", "too large: at most 16Ti"),
            ("cpu=square(1,2,100ms)", "period of square: \"100ms\" is too short: at least 200ms"),
            ("cpu=ramp(1,2,3)", "over of ramp: \"3\" is not a duration"),
            ("cpu=spike(1,2,1s,2s)", "length of spike: is longer than every"),
            ("cpu=noise(2,1,1s,1)", "low of noise: is above high"),
            ("cpu=noise(1,2,1s,x)", "seed of noise: \"x\" is not a number"),
            ("cpu=trace(nodeapi)", "set/series of trace: \"nodeapi\" is not a series: expected set/series"),
            ("cpu=trace(../x/y)", "set/series of trace: \"../x/y\" is not a series"),
            ("cpu=trace(a/b,150)", "percent of trace: \"150\" is not a scale: expected 1% to 100000%"),
        ] {
            let error = text.parse::<Usage>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_stated_is_quiet() {
        let usage: Usage = "cpu=constant(1)".parse().unwrap();
        assert_eq!(usage.to_string(), "cpu=constant(1) memory=constant(16Mi)");
        assert_eq!(Usage::default().to_string(), "cpu=constant(10m) memory=constant(16Mi)");
    }

    fn amount() -> impl Strategy<Value = u64> {
        prop_oneof![0..=LARGEST_CPU, (0..=LARGEST_CPU / 1000).prop_map(|cores| cores * 1000)]
    }

    fn time() -> impl Strategy<Value = Duration> {
        let millis = prop_oneof![200_u64..7_776_000_000, (1_u64..2160).prop_map(|hours| hours * 3_600_000)];
        millis.prop_map(Duration::from_millis)
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            amount().prop_map(Shape::Constant),
            (amount(), amount(), time()).prop_map(|(low, high, period)| Shape::Square { low, high, period }),
            (amount(), amount(), time()).prop_map(|(from, to, over)| Shape::Ramp { from, to, over }),
            (amount(), amount(), time(), time()).prop_map(|(base, peak, a, b)| Shape::Spike {
                base,
                peak,
                every: a.max(b),
                length: a.min(b)
            }),
            (amount(), amount(), time()).prop_map(|(start, growth, every)| Shape::Leak {
                start,
                growth,
                every
            }),
            (amount(), amount(), time()).prop_map(|(low, high, day)| Shape::Daily { low, high, day }),
            (amount(), time(), amount()).prop_map(|(peak, length, calm)| Shape::Startup {
                peak,
                length,
                calm
            }),
            (amount(), amount(), time(), any::<u64>()).prop_map(|(a, b, step, seed)| Shape::Noise {
                low: a.min(b),
                high: a.max(b),
                step,
                seed
            }),
            ("[a-z0-9-]{1,9}", "[a-z/_:]{1,9}", PERCENT, prop_oneof![Just(Duration::ZERO), time()])
                .prop_map(|(set, series, percent, offset)| Shape::Trace { set, series, percent, offset }),
        ]
    }

    fn demand(amount: Amount) -> impl Strategy<Value = Demand> {
        prop::collection::vec(shape(), 1..4).prop_map(move |shapes| Demand { amount, shapes })
    }

    proptest! {
        #[test]
        fn text_of_a_usage_gives_the_same_usage(
            cpu in demand(Amount::Cpu),
            memory in demand(Amount::Memory),
            cache in prop::option::of(demand(Amount::Memory)),
        ) {
            let usage = Usage { cpu, memory, cache };
            prop_assert_eq!(usage.to_string().parse::<Usage>(), Ok(usage));
        }

        #[test]
        fn no_text_panics(text in "(cpu|memory|cache|x)?=?[a-z]{0,8}[(]?[a-z0-9,.%/+-]{0,20}[)]?\\PC{0,5}") {
            let _ = text.parse::<Usage>();
        }
    }
}
