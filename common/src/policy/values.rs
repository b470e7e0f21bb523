//! Values that policies are made of: percentiles, factors, shares, percentages, ranges and durations. Each is built by
//! a parser whose error names the text, what is wrong and what is allowed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A share of the values, in 1/10,000: P99.9 = 9990.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Percentile(pub(super) u16);

impl Percentile {
    /// In 1/10,000, 10..=10,000 for P0.1 to P100.
    pub const fn permyriad(self) -> u16 {
        self.0
    }
}

impl FromStr for Percentile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "{text:?} is not a percentile: expected P50, P90, P99, or any Pn or Pnn.n above P0, at most P100"
            )
        };
        let (whole, tenths) = {
            let digits = text.strip_prefix('P').ok_or_else(error)?;
            digits.split_once('.').unwrap_or((digits, "0"))
        };
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || whole.len() > 3 || !digits(tenths) || tenths.len() != 1 {
            return Err(error());
        }
        let whole: u16 = whole.parse().map_err(|_| error())?;
        let tenths: u16 = tenths.parse().map_err(|_| error())?;
        match whole * 100 + tenths * 10 {
            permyriad @ 1..=10_000 => Ok(Self(permyriad)),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(100) {
            write!(f, "P{}", self.0 / 100)
        } else {
            write!(f, "P{}.{}", self.0 / 100, self.0 % 100 / 10)
        }
    }
}

/// A factor in thousandths: 1.2 = 1200. Multiplying rounds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Factor(pub(super) u32);

impl Factor {
    /// Smallest and largest allowed, in thousandths.
    const RANGE: std::ops::RangeInclusive<u32> = 100..=10_000;

    /// From thousandths; 0.1 to 10.
    ///
    /// # Errors
    /// When out of range.
    pub fn from_thousandths(thousandths: u32) -> Result<Self, String> {
        if Self::RANGE.contains(&thousandths) {
            Ok(Self(thousandths))
        } else {
            Err(format!(
                "{}.{:03} is not a factor: expected 0.1 to 10",
                thousandths / 1000,
                thousandths % 1000
            ))
        }
    }

    /// From a number with up to three decimals; more are rounded.
    ///
    /// # Errors
    /// When it is not a number or out of range.
    pub fn from_f64(value: f64) -> Result<Self, String> {
        thousandths(value)
            .filter(|v| Self::RANGE.contains(v))
            .map(Self)
            .ok_or_else(|| format!("{value} is not a factor: expected 0.1 to 10"))
    }

    /// In thousandths.
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// `value` times the factor, rounded up; saturates.
    pub fn times(self, value: u64) -> u64 {
        let product = (u128::from(value) * u128::from(self.0)).div_ceil(1000);
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

/// A share between 0 and 1, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(pub(super) u16);

impl Share {
    /// From a number between 0 and 1.
    ///
    /// # Errors
    /// When it is not.
    pub fn from_f64(value: f64) -> Result<Self, String> {
        thousandths(value)
            .and_then(|v| u16::try_from(v).ok())
            .filter(|v| *v <= 1000)
            .map(Self)
            .ok_or_else(|| format!("{value} is not a share: expected 0 to 1"))
    }

    /// In thousandths.
    pub const fn thousandths(self) -> u16 {
        self.0
    }

    /// From a text such as `10%`.
    ///
    /// # Errors
    /// When it is not a percentage between 0 % and 100 %, or has more decimals than a share holds.
    pub fn from_percent(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not a percentage: expected 0% to 100% with at most one decimal");
        let number = text.strip_suffix('%').ok_or_else(error)?;
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        if !digits(whole, 3) || !digits(tenths, 1) {
            return Err(error());
        }
        let tenths: u16 = format!("{whole}{tenths}").parse().map_err(|_| error())?;
        if tenths <= 1000 { Ok(Self(tenths)) } else { Err(error()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10.0)
    }
}

fn digits(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be within u32 just before"
)]
fn thousandths(value: f64) -> Option<u32> {
    let scaled = (value * 1000.0).round();
    (scaled.is_finite() && (0.0..=f64::from(u32::MAX)).contains(&scaled)).then_some(scaled as u32)
}

/// A signed percentage relative to what the owner declares, such as `-20%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelativePercent(i32);

impl RelativePercent {
    /// The smallest whole value that is at least `declared` moved by the percentage; saturates.
    pub fn at_least(self, declared: u64) -> u64 {
        u64::try_from(self.hundredths(declared).div_ceil(100)).unwrap_or(u64::MAX)
    }

    /// The largest whole value that is at most `declared` moved by the percentage; saturates.
    pub fn at_most(self, declared: u64) -> u64 {
        u64::try_from(self.hundredths(declared) / 100).unwrap_or(u64::MAX)
    }

    fn hundredths(self, declared: u64) -> u128 {
        u128::from(declared) * u128::from((100 + self.0).max(0).unsigned_abs())
    }
}

impl FromStr for RelativePercent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "{text:?} is not a relative bound: expected a signed percentage from -99% to +1000%, such as -20% or +20%"
            )
        };
        let number = text.strip_suffix('%').ok_or_else(error)?;
        let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        number.parse().ok().filter(|n| (-99..=1000).contains(n)).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for RelativePercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+}%", self.0)
    }
}

/// The size of one change as a percentage of the current value, above 0 % and at most 1000 %, in tenths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Percent(u16);

impl Percent {
    /// This part of a value, rounded down; saturates.
    pub fn of(self, value: u64) -> u64 {
        u64::try_from(u128::from(value) * u128::from(self.0) / 1000).unwrap_or(u64::MAX)
    }

    /// In tenths of a percent, 1..=10,000.
    pub const fn permille(self) -> u16 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!("{text:?} is not a step: expected a percentage above 0% and at most 1000%, such as 30%")
        };
        let number = text.strip_suffix('%').ok_or_else(error)?;
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        if !digits(whole, 4) || !digits(tenths, 1) {
            return Err(error());
        }
        let whole: u16 = whole.parse().map_err(|_| error())?;
        let tenths: u16 = tenths.parse().map_err(|_| error())?;
        whole
            .checked_mul(10)
            .and_then(|w| w.checked_add(tenths))
            .filter(|p| (1..=10_000).contains(p))
            .map(Self)
            .ok_or_else(error)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10.0)
    }
}

/// Smallest and largest allowed; `None` = unbounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range<T> {
    /// Not below.
    pub min: Option<T>,
    /// Not above.
    pub max: Option<T>,
}

impl<T> Default for Range<T> {
    fn default() -> Self {
        Self { min: None, max: None }
    }
}

impl<T: PartialOrd + fmt::Display + Copy> Range<T> {
    /// A range that is not empty.
    ///
    /// # Errors
    /// When the minimum is above the maximum.
    pub fn new(min: Option<T>, max: Option<T>) -> Result<Self, String> {
        match (min, max) {
            (Some(min), Some(max)) if min > max => {
                Err(format!("min {min} is above max {max}: expected min at most max"))
            }
            _ => Ok(Self { min, max }),
        }
    }
}

/// Parses a duration as Kubernetes writes it (`24h`, `1h30m`, `500ms`); Go's `time.ParseDuration` without signs,
/// fractions and units below a millisecond, and at most 90 days.
///
/// # Errors
/// When it is not.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || {
        format!(
            "{text:?} is not a duration: expected numbers with the units h, m, s, ms, such as 24h or 1h30m, at most 2160h"
        )
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0).ok_or_else(error)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let millis = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(error()),
        };
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis)).ok_or_else(error)?;
        total = total.checked_add(part).ok_or_else(error)?;
        rest = tail;
    }
    if text.is_empty() || total > 90 * 24 * 3_600_000 {
        Err(error())
    } else {
        Ok(Duration::from_millis(total))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quantity::MilliCpu;

    #[test]
    fn percentile_accepts_what_it_says() {
        for (text, permyriad) in [
            ("P50", 5000),
            ("P90", 9000),
            ("P99", 9900),
            ("P99.9", 9990),
            ("P100", 10_000),
            ("P0.1", 10),
            ("P1", 100),
        ] {
            let parsed: Percentile = text.parse().unwrap();
            assert_eq!((parsed.permyriad(), parsed.to_string().as_str()), (permyriad, text));
        }
        for bad in
            ["P0", "P100.1", "P0.0", "99", "p99", "P", "P.5", "P5.", "P99.99", "P-1", "P1000", "P 50", "P+5"]
        {
            let message = bad.parse::<Percentile>().unwrap_err();
            assert!(message.contains(bad) && message.contains("P100"), "{message}");
        }
    }

    #[test]
    fn durations_as_kubernetes_writes_them() {
        for (text, seconds) in [
            ("24h", 86_400),
            ("5m", 300),
            ("1h30m", 5400),
            ("90s", 90),
            ("0", 0),
            ("0s", 0),
            ("2160h", 7_776_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "5", "h", "-5m", "1.5h", "5d", "5 m", "99999999999999999999h", "2161h", "m5"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn relative_bounds_are_around_the_declared_value() {
        let percent = |text: &str| text.parse::<RelativePercent>();
        for (text, declared, at_least, at_most) in [
            ("-20%", 1000, 800, 800),
            ("+20%", 1000, 1200, 1200),
            ("20%", 1000, 1200, 1200),
            ("+10%", 1001, 1102, 1101),
            ("-99%", 10, 1, 0),
            ("+1000%", u64::MAX, u64::MAX, u64::MAX),
        ] {
            let percent = percent(text).unwrap();
            assert_eq!(
                (percent.at_least(declared), percent.at_most(declared)),
                (at_least, at_most),
                "{text}"
            );
        }
        for bad in ["-120%", "-100%", "20", "%", "+%", "1001%", "+-5%", "2.5%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_and_factors_name_what_is_allowed() {
        assert_eq!(Share::from_percent("10%").unwrap().thousandths(), 100);
        assert_eq!(Share::from_percent("2.5%").unwrap().thousandths(), 25);
        assert_eq!(Share::from_percent("100.0%").unwrap().thousandths(), 1000);
        for bad in ["10", "101%", "-1%", "inf%", "NaN%", "1e1%", "%", "0.04%", "100.1%", "1.%", ".5%"] {
            assert!(Share::from_percent(bad).is_err(), "{bad}");
        }
        assert_eq!(Factor::from_f64(1.2).unwrap().times(100), 120);
        assert_eq!(Factor::from_f64(1.2).unwrap().times(1), 2);
        for bad in [0.0, -1.0, 10.1, f64::NAN, f64::INFINITY] {
            assert!(Factor::from_f64(bad).is_err(), "{bad}");
        }
        assert!(Range::new(Some(MilliCpu(2)), Some(MilliCpu(1))).is_err());
    }

    #[test]
    fn steps_are_parts_of_the_current_value() {
        assert_eq!("30%".parse::<Percent>().unwrap().of(1000), 300);
        assert_eq!("1000%".parse::<Percent>().unwrap().of(u64::MAX), u64::MAX);
        assert_eq!("2.5%".parse::<Percent>().unwrap().to_string(), "2.5%");
        for bad in ["0%", "0.0%", "1000.1%", "9999%", "10", "-5%", "+5%", "%", "1.25%"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,20}") {
            let _ = text.parse::<Percentile>();
            let _ = text.parse::<Percent>();
            let _ = text.parse::<RelativePercent>();
            let _ = Share::from_percent(&text);
            let _ = parse_duration(&text);
        }
    }
}
