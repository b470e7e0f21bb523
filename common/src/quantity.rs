//! Exact Kubernetes quantities.
//!
//! Grammar and suffixes: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
//! Parsing rounds up (as `Quantity.MilliValue` and `Quantity.Value` do), never down: a request that was rounded
//! down could be smaller than what was asked for.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text that is not a quantity that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not of the form `<number><suffix>`.
    #[error(
        "{0:?} is not a quantity: expected a number with an optional suffix such as m, Ki, Mi, Gi, k, M, G or an exponent"
    )]
    Malformed(String),
    /// Resources are never negative.
    #[error("{0:?} is negative: resources are zero or more")]
    Negative(String),
    /// More than 64 bits hold.
    #[error("{0:?} is too large: at most 2^63 - 1 bytes or millicores")]
    TooLarge(String),
}

/// CPU in millicores. 1000 = one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MilliCpu(pub u64);

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

impl Bytes {
    /// One mebibyte.
    pub const MEBIBYTE: u64 = 1 << 20;

    /// From mebibytes; saturates.
    pub const fn from_mebibytes(count: u64) -> Self {
        Self(count.saturating_mul(Self::MEBIBYTE))
    }
}

/// Parses a quantity and returns it times `scale`, rounded up.
fn parse_scaled(text: &str, scale: u128) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Malformed(text.chars().take(80).collect());
    let too_large = || QuantityError::TooLarge(text.chars().take(80).collect());
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..)),
        Some(b'+') => (false, text.get(1..)),
        _ => (false, Some(text)),
    };
    let unsigned = unsigned.ok_or_else(malformed)?;
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let (mut numerator, mut denominator) = suffix_factor(suffix).ok_or_else(malformed)?;
    numerator = numerator.checked_mul(scale).ok_or_else(too_large)?;
    let digits: String = [whole, fraction.trim_end_matches('0')].concat();
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err(QuantityError::Negative(text.chars().take(80).collect()));
    }
    let mantissa: u128 = significant.parse().map_err(|_| too_large())?;
    let places = u32::try_from(fraction.trim_end_matches('0').len()).map_err(|_| too_large())?;
    denominator =
        10_u128.checked_pow(places).and_then(|p| p.checked_mul(denominator)).ok_or_else(too_large)?;
    let value = mantissa.checked_mul(numerator).ok_or_else(too_large)?.div_ceil(denominator);
    u64::try_from(value).ok().filter(|v| *v <= i64::MAX.unsigned_abs()).ok_or_else(too_large)
}

/// Factor of a suffix as a fraction.
fn suffix_factor(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_u128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

impl FromStr for MilliCpu {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse_scaled(text, 1000).map(Self)
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse_scaled(text, 1).map(Self)
    }
}

impl fmt::Display for MilliCpu {
    /// Canonical form: `250m`, `2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            f.pad(&(self.0 / 1000).to_string())
        } else {
            f.pad(&format!("{}m", self.0))
        }
    }
}

impl fmt::Display for Bytes {
    /// Canonical form: the largest binary suffix that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = [("Ei", 60_u32), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)]
            .into_iter()
            .find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((suffix, shift)) => f.pad(&format!("{}{suffix}", self.0 >> shift)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

macro_rules! text_conversions {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = QuantityError;
            fn try_from(text: String) -> Result<Self, QuantityError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
        impl Sum for $type {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                Self(iter.fold(0, |total, value| total.saturating_add(value.0)))
            }
        }
    };
}
text_conversions!(MilliCpu);
text_conversions!(Bytes);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parse_known_forms() {
        for (text, millis) in [
            ("100m", 100),
            ("1", 1000),
            ("0.5", 500),
            ("1.5", 1500),
            ("4000m", 4000),
            ("1n", 1),
            ("250u", 1),
            ("1e3", 1_000_000),
            ("0.1145", 115),
            ("+2", 2000),
            (".5", 500),
            ("5.", 5000),
            ("1e-3", 1),
            ("0", 0),
            ("-0", 0),
        ] {
            assert_eq!(text.parse::<MilliCpu>(), Ok(MilliCpu(millis)), "{text}");
        }
        for (text, bytes) in [
            ("128Mi", 128 << 20),
            ("8Gi", 8 << 30),
            ("1k", 1000),
            ("1.5Gi", 3 << 29),
            ("100", 100),
            ("1100m", 2),
            ("2E", 2_000_000_000_000_000_000),
        ] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn parse_malformed_names_the_value() {
        for bad in
            ["", " ", "m", "1.2.3", "1 Gi", "1gi", "0x10", "1e", "1e99", "NaN", "١", "1mm", "-", ".", "--1"]
        {
            let error = bad.parse::<Bytes>().unwrap_err();
            assert!(matches!(error, QuantityError::Malformed(_)), "{bad}: {error}");
        }
        assert_eq!("-1".parse::<Bytes>(), Err(QuantityError::Negative("-1".into())));
        assert_eq!("99999Ei".parse::<Bytes>(), Err(QuantityError::TooLarge("99999Ei".into())));
    }

    proptest! {
        #[test]
        fn display_round_trips(value in 0..=i64::MAX.unsigned_abs()) {
            prop_assert_eq!(Bytes(value).to_string().parse::<Bytes>(), Ok(Bytes(value)));
            prop_assert_eq!(MilliCpu(value).to_string().parse::<MilliCpu>(), Ok(MilliCpu(value)));
        }

        #[test]
        fn parse_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<MilliCpu>();
        }
    }
}
