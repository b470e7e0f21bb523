//! A policy that cannot be wrong: every part is built by a parser that names what is wrong and what is allowed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::quantity::{Bytes, MilliCpu};

/// One thing that is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{field}: {message}")]
pub struct Violation {
    /// Path of the field, such as `spec.metricsConfig.percentile`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Violation {
    /// A violation of one field.
    pub fn new(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }
}

/// What the coordinator may do with the workloads of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Recommend and resize.
    Auto,
    /// Recommend only.
    Recommend,
    /// Neither; the status keeps its history.
    Disabled,
}

/// A share of the values, in 1/10,000: P99.9 = 9990.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Percentile(u16);

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
pub struct Factor(u32);

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
pub struct Share(u16);

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
    /// When it is not a percentage between 0 % and 100 %.
    pub fn from_percent(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not a percentage: expected 0% to 100%");
        let number = text.strip_suffix('%').ok_or_else(error)?;
        if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(error());
        }
        let value: f64 = number.parse().map_err(|_| error())?;
        Self::from_f64(value / 100.0).map_err(|_| error())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10.0)
    }
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
    /// `declared` moved by the percentage, rounded up.
    pub fn of(self, declared: u64) -> u64 {
        let factor = u128::from((100 + self.0).max(0).unsigned_abs());
        u64::try_from((u128::from(declared) * factor).div_ceil(100)).unwrap_or(u64::MAX)
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

/// Bounds of the sizes that a policy allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceBounds {
    /// Absolute bounds of the CPU request.
    pub cpu: Range<MilliCpu>,
    /// Absolute bounds of the memory request.
    pub memory: Range<Bytes>,
    /// Bounds of the CPU request around what the owner declares.
    pub cpu_relative: Range<RelativePercent>,
    /// Bounds of the memory request around what the owner declares.
    pub memory_relative: Range<RelativePercent>,
}

/// What happens to a limit when its request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitRule {
    /// It stays; the request is held below it.
    Keep,
    /// It keeps the ratio to the request that the owner declared.
    Ratio,
}

/// Whether memory may shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryDecrease {
    /// Never.
    Never,
    /// When use is below the new value with a margin, and not rising.
    Guarded,
}

/// Whether a decrease needs a known size of the replacement pod (a replaced pod starts at template size).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replacement {
    /// `Known` where the admission webhook runs, else `Accept` with a warning condition.
    Auto,
    /// No decrease without.
    Known,
    /// Decrease anyway.
    Accept,
}

/// How changes are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the API's own switches")]
pub struct UpdateStrategy {
    /// `pods/resize` may be called.
    pub allow_in_place_resize: bool,
    /// Pods may be evicted where in place is impossible.
    pub allow_recreate: bool,
    /// Limits are never written.
    pub update_requests_only: bool,
    /// Rule for CPU limits, when they may be written.
    pub cpu_limit: LimitRule,
    /// Rule for memory limits, when they may be written.
    pub memory_limit: LimitRule,
    /// Whether memory may shrink.
    pub memory_decrease: MemoryDecrease,
    /// Time after our last resize of a pod before a decrease.
    pub cooldown: Duration,
    /// Changes below this share of the current value are not made.
    pub min_change: Share,
    /// A resize that is Deferred for longer is taken back.
    pub deferred_deadline: Duration,
    /// Resizes of this policy under way at once.
    pub max_concurrent_resizes: u32,
}

impl Default for UpdateStrategy {
    /// The defaults of the API.
    fn default() -> Self {
        Self {
            allow_in_place_resize: true,
            allow_recreate: false,
            update_requests_only: true,
            cpu_limit: LimitRule::Keep,
            memory_limit: LimitRule::Ratio,
            memory_decrease: MemoryDecrease::Guarded,
            cooldown: Duration::from_secs(600),
            min_change: Share(100),
            deferred_deadline: Duration::from_secs(300),
            max_concurrent_resizes: 10,
        }
    }
}

/// What the pure core needs to know of an `OptimizationPolicy`. Selectors stay with the coordinator's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What may be done.
    pub mode: Mode,
    /// How far back evidence reaches.
    pub rolling_window: Duration,
    /// Which percentile of use is asked for.
    pub percentile: Percentile,
    /// What it is multiplied with.
    pub safety_factor: Factor,
    /// Share of the window that must have data before anything shrinks.
    pub minimum_coverage: Share,
    /// Allowed sizes.
    pub bounds: ResourceBounds,
    /// How changes are made.
    pub update: UpdateStrategy,
    /// See [`Replacement`].
    pub replacement: Replacement,
    /// Time between evaluations.
    pub reconciliation_interval: Duration,
}

impl Default for Policy {
    /// The defaults of the API.
    fn default() -> Self {
        Self {
            mode: Mode::Recommend,
            rolling_window: Duration::from_secs(24 * 3600),
            percentile: Percentile(9000),
            safety_factor: Factor(1200),
            minimum_coverage: Share(500),
            bounds: ResourceBounds::default(),
            update: UpdateStrategy::default(),
            replacement: Replacement::Auto,
            reconciliation_interval: Duration::from_secs(300),
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
        assert_eq!(percent("-20%").unwrap().of(1000), 800);
        assert_eq!(percent("+20%").unwrap().of(1000), 1200);
        assert_eq!(percent("20%").unwrap().of(1000), 1200);
        for bad in ["-120%", "-100%", "20", "%", "+%", "1001%", "+-5%", "2.5%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_and_factors_name_what_is_allowed() {
        assert_eq!(Share::from_percent("10%").unwrap().thousandths(), 100);
        assert_eq!(Share::from_percent("2.5%").unwrap().thousandths(), 25);
        for bad in ["10", "101%", "-1%", "inf%", "NaN%", "1e1%", "%"] {
            assert!(Share::from_percent(bad).is_err(), "{bad}");
        }
        assert_eq!(Factor::from_f64(1.2).unwrap().times(100), 120);
        assert_eq!(Factor::from_f64(1.2).unwrap().times(1), 2);
        for bad in [0.0, -1.0, 10.1, f64::NAN, f64::INFINITY] {
            assert!(Factor::from_f64(bad).is_err(), "{bad}");
        }
        assert!(Range::new(Some(MilliCpu(2)), Some(MilliCpu(1))).is_err());
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,20}") {
            let _ = text.parse::<Percentile>();
            let _ = text.parse::<RelativePercent>();
            let _ = Share::from_percent(&text);
            let _ = parse_duration(&text);
        }
    }
}
