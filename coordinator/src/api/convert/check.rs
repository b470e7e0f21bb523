//! Takes values from fields and collects everything that is wrong with them.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use optipod_common::policy::{Range, Violation, parse_duration};
use optipod_common::quantity::Bytes;

use crate::api::cel::memory_message;
use crate::api::labels::{LabelOperator, LabelSelector};
use crate::api::v1alpha1 as api;

/// The longest duration that a policy may name.
const LONGEST: Duration = Duration::from_secs(90 * 24 * 3600);

/// Collects violations while values are taken from fields.
pub struct Check(pub Vec<Violation>);

impl Check {
    /// A violation without a value.
    pub fn wrong(&mut self, field: impl Into<String>, message: impl Display) {
        self.0.push(Violation::new(field, message));
    }

    /// The value, or the fallback and a violation.
    pub fn take<T, E: Display>(&mut self, field: impl Into<String>, value: Result<T, E>, fallback: T) -> T {
        value.unwrap_or_else(|error| {
            self.0.push(Violation::new(field, error));
            fallback
        })
    }

    /// A duration from `least` to 90 days.
    pub fn duration(&mut self, field: impl Into<String>, text: &str, least: Duration) -> Duration {
        let value = parse_duration(text).and_then(|duration| {
            if (least..=LONGEST).contains(&duration) {
                Ok(duration)
            } else {
                Err(format!("{text:?} is out of range: expected {} to 2160h", seconds(least)))
            }
        });
        self.take(field, value, least)
    }

    /// An integer within a range.
    pub fn integer(&mut self, field: &str, value: i32, allowed: std::ops::RangeInclusive<u32>) -> u32 {
        let converted = u32::try_from(value).ok().filter(|v| allowed.contains(v)).ok_or_else(|| {
            format!("{value} is out of range: expected {} to {}", allowed.start(), allowed.end())
        });
        self.take(field, converted, *allowed.start())
    }

    /// A range of parsed texts.
    pub fn range<T>(&mut self, field: &str, min: Option<&str>, max: Option<&str>) -> Range<T>
    where
        T: FromStr + PartialOrd + Display + Copy,
        T::Err: Display,
    {
        let mut end = |name: &str, text: Option<&str>| {
            let parsed = text.map(str::parse).transpose();
            self.take(format!("{field}.{name}"), parsed, None)
        };
        let (min, max) = (end("min", min), end("max", max));
        let range = Range::new(min, max);
        self.take(field, range, Range { min: None, max: None })
    }

    /// A range of quantities whose maximum is above `zero`.
    pub fn bounds<T>(&mut self, field: &str, bounds: Option<&api::Bounds>, zero: T) -> Range<T>
    where
        T: FromStr + PartialOrd + Display + Copy,
        T::Err: Display,
    {
        let text = |amount: &Option<api::Amount>| amount.as_ref().map(|a| a.as_str().to_owned());
        let (min, max) = bounds.map_or((None, None), |b| (text(&b.min), text(&b.max)));
        let range = self.range(field, min.as_deref(), max.as_deref());
        if range.max.is_some_and(|max| max <= zero) {
            self.0
                .push(Violation::new(format!("{field}.max"), "0 is not a maximum: expected more than zero"));
        }
        range
    }

    /// An amount of memory that is zero, or large enough to have been meant in bytes.
    pub fn memory(&mut self, field: &str, given: Option<&api::Amount>) {
        let bytes = given.and_then(|amount| amount.as_str().parse::<Bytes>().ok());
        if let (Some(given), Some(_)) = (given, bytes.filter(|b| (1..1 << 20).contains(&b.0))) {
            let message = format!("{:?} is too little: {}", given.as_str(), memory_message("it"));
            self.wrong(field, message);
        }
    }

    /// Names in a list that are not what they should be.
    pub fn names(&mut self, field: &str, names: &[String], what: &str, valid: fn(&str) -> bool) {
        for (i, name) in names.iter().enumerate().filter(|(_, name)| !valid(name)) {
            self.0.push(Violation::new(format!("{field}[{i}]"), format!("{name:?} is not {what}")));
        }
    }

    /// A label selector.
    pub fn labels(&mut self, field: &str, selector: Option<&LabelSelector>) {
        for (key, value) in selector.iter().flat_map(|s| &s.match_labels) {
            if !is_label_key(key) {
                self.wrong(format!("{field}.matchLabels"), format!("{key:?} is not {A_KEY}"));
            }
            if !is_label_value(value) {
                self.wrong(format!("{field}.matchLabels.{key}"), format!("{value:?} is not {A_VALUE}"));
            }
        }
        for (i, expression) in selector.iter().flat_map(|s| &s.match_expressions).enumerate() {
            let field = format!("{field}.matchExpressions[{i}]");
            let wants_values = matches!(expression.operator, LabelOperator::In | LabelOperator::NotIn);
            if wants_values == expression.values.is_empty() {
                let message = "values must be given for the operators In and NotIn, and must not be given for Exists and DoesNotExist";
                self.wrong(&field, message);
            }
            if !is_label_key(&expression.key) {
                self.wrong(format!("{field}.key"), format!("{:?} is not {A_KEY}", expression.key));
            }
            self.names(&format!("{field}.values"), &expression.values, A_VALUE, is_label_value);
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

const A_KEY: &str = "the key of a label: expected [PREFIX/]NAME, where NAME has letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit, such as app.kubernetes.io/name";
const A_VALUE: &str = "the value of a label: expected letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit, or nothing";

fn is_label_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && ends(name.chars().next())
        && ends(name.chars().next_back())
}

fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    is_label_name(name) && prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(is_dns_label))
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_label_name(value)
}

pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_dns_part(name)
}

/// A name of most objects.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_part)
}

fn is_dns_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

pub fn is_kind(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// A container name, where `*` stands for any characters.
pub fn is_container_glob(name: &str) -> bool {
    name.len() <= 63 && !name.is_empty() && {
        let plain = name.replace('*', "x");
        is_dns_label(&plain)
    }
}
