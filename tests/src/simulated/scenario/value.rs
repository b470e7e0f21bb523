//! The small values that scenario files are made of, each with an error that says what is allowed.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use optipod_common::policy::parse_duration;
use optipod_common::quantity::{Bytes, MilliCpu};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::simulated::faults::Share;

/// A span of simulated time, or a moment counted from the start: `90s`, `5m`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let mut rest = millis;
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        if millis == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| parse_duration(text).map(Self))
    }
}

/// How far a clock is ahead (`30s`) or behind (`-30s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Microseconds; negative is behind.
    pub micros: i64,
}

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| {
            let (sign, span) = text.strip_prefix('-').map_or((1, text), |span| (-1, span));
            let micros = i64::try_from(parse_duration(span)?.as_micros()).unwrap_or(i64::MAX);
            Ok(Self { micros: sign * micros })
        })
    }
}

/// A share in percent: `5%`, `100%`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percent(pub Share);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| {
            let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
            let share = number.and_then(|number| Share::new(number / 100.0));
            share.map(Self).ok_or_else(|| format!("{text:?} is not a share: expected 0% to 100%, such as 5%"))
        })
    }
}

/// An amount of CPU: `500m`, `"2"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu(pub MilliCpu);

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| {
            let error = |error| format!("{text:?} is not an amount of CPU: {error}; expected 500m or \"2\"");
            text.parse().map(Self).map_err(error)
        })
    }
}

/// An amount of memory: `256Mi`, `2Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(pub Bytes);

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |text| {
            let error =
                |error| format!("{text:?} is not an amount of memory: {error}; expected 256Mi or 2Gi");
            text.parse().map(Self).map_err(error)
        })
    }
}

/// A text, or a whole number that was written without quotes, as `parse` understands it.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    // parsed inside of the visitor: there the path of the field is known to an error
    deserializer.deserialize_any(Text(parse, PhantomData))
}

struct Text<P, T>(P, PhantomData<T>);

impl<P: Fn(&str) -> Result<T, String>, T> Visitor<'_> for Text<P, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: for<'de> Deserialize<'de>>(text: &str) -> String {
        serde_yaml_ng::from_str::<T>(text).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        for text in ["90s", "5m", "1h30m", "1500ms", "0s"] {
            let time: Time = serde_yaml_ng::from_str(text).unwrap();
            let again: Time = serde_yaml_ng::from_str(&time.to_string()).unwrap();
            assert_eq!(again, time, "{text}");
        }
        assert!(error::<Time>("5").contains("\"5\" is not a duration: expected"), "{}", error::<Time>("5"));
    }

    #[test]
    fn clocks_may_be_behind() {
        let offset = |text| serde_yaml_ng::from_str::<Offset>(text).unwrap().micros;
        assert_eq!((offset("30s"), offset("-45s")), (30_000_000, -45_000_000));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        assert!(error::<Percent>("120%").contains("expected 0% to 100%"));
        assert!(error::<Percent>("5").contains("expected 0% to 100%"));
        assert!(error::<Cpu>("lots").contains("\"lots\" is not an amount of CPU"));
        assert!(error::<Memory>("12x").contains("\"12x\" is not an amount of memory"));
        assert!(error::<Memory>("[1]").contains("expected text"), "{}", error::<Memory>("[1]"));
        assert_eq!(serde_yaml_ng::from_str::<Cpu>("2").unwrap(), Cpu(MilliCpu(2000)));
    }
}
