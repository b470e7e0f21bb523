//! Rules that the API server checks, in the Common Expression Language.
//!
//! Written through `schemars(extend(...))` and not through `KubeSchema`: its derive copies the struct without its
//! `Default`, so a struct-level `#[serde(default)]` (one `Default` for serde, schema and Rust) does not compile with it.

use serde_json::{Value, json};

/// One rule of `x-kubernetes-validations`.
pub fn rule(rule: impl Into<String>, message: &str) -> Value {
    json!({"rule": rule.into(), "message": message})
}

/// A duration of at least `least` and at most 90 days. Fewer than 20 characters of this form cannot overflow.
pub fn duration(least: &str, example: &str) -> Value {
    rule(
        format!(
            "self.matches('^(0|([0-9]{{1,6}}(h|m|s|ms))+)$') && duration(self) >= duration('{least}') && duration(self) <= duration('2160h')"
        ),
        &format!(
            "must be a duration from {least} to 2160h, made of numbers with the units h, m, s, ms, such as {example}"
        ),
    )
}

/// A list of namespace names.
pub fn namespaces() -> Value {
    rule(
        "self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))",
        "must be namespace names: lower case letters, digits and '-', at most 63, beginning and ending with a letter or digit",
    )
}

/// One end of a range of quantities.
pub fn quantity(end: &str, comparison: &str, message: &str) -> Value {
    rule(
        format!(
            "!has(self.{end}) || (isQuantity(string(self.{end})) && quantity(string(self.{end})).compareTo(quantity('0')) {comparison} 0)"
        ),
        message,
    )
}

/// A rule over both ends of a range, whose message shows them. `text` is the function that makes an end a text: for ends
/// that are texts it must be none, since the cost of `string(text)` is estimated as if it had no maximum length.
fn in_order(rule: &str, text: &str) -> Value {
    json!({
        "rule": rule,
        "message": "min must be at most max",
        "messageExpression": format!("'min ' + {text}(self.min) + ' is above max ' + {text}(self.max) + ': min must be at most max'"),
    })
}

/// A memory quantity that is zero, or large enough to have been meant in bytes. `given` are the fields that must be there
/// on the way to `value`. True when it is no quantity: another rule says so.
pub fn memory(given: &[&str], value: &str, message: &str) -> Value {
    let mut absent: Vec<String> = given.iter().map(|field| format!("!has({field})")).collect();
    let value = format!("string({value})");
    absent.push(format!("!isQuantity({value})"));
    let absent = absent.join(" || ");
    rule(
        format!(
            "{absent} || quantity({value}).compareTo(quantity('0')) <= 0 || quantity({value}).compareTo(quantity('1Mi')) >= 0"
        ),
        message,
    )
}

/// What [`memory`] says of a field; without a name, of the one that the message is told at.
pub fn memory_message(field: &str) -> String {
    let field = if field.is_empty() { String::new() } else { format!("{field} ") };
    format!(
        "{field}must be 1Mi or more, such as 128Mi: memory is counted in bytes, where 128 is 128 bytes and 128m is a thousandth of that"
    )
}

/// A rule about a text that is the key of a label. How long the name may be is beyond regular expressions: a prefix may
/// be longer.
fn is_label_key(text: &str) -> String {
    format!(
        "{text}.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$') && size({text}.substring({text}.lastIndexOf('/') + 1)) <= 63"
    )
}

const LABEL_KEY_MESSAGE: &str = "must be the key of a label: [PREFIX/]NAME, where NAME has letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit, such as app.kubernetes.io/name";

/// Keys of a map of labels.
pub fn label_keys() -> Value {
    rule(format!("self.all(key, {})", is_label_key("key")), LABEL_KEY_MESSAGE)
}

/// The key of a label.
pub fn label_key() -> Value {
    rule(is_label_key("self"), LABEL_KEY_MESSAGE)
}

const LABEL_VALUE: &str = "matches('^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$')";
const LABEL_VALUE_MESSAGE: &str = "must be the value of a label: letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit, or nothing";

/// Values of a map of labels, as their schema.
pub fn label_value() -> Value {
    json!({
        "type": "string",
        "maxLength": 63,
        "x-kubernetes-validations": [rule(format!("self.{LABEL_VALUE}"), LABEL_VALUE_MESSAGE)],
    })
}

/// A list of values of labels.
pub fn label_values() -> Value {
    rule(format!("self.all(value, value.{LABEL_VALUE})"), LABEL_VALUE_MESSAGE)
}

/// A range of quantities is not empty. True when an end is no quantity: another rule says so.
pub fn quantities_in_order() -> Value {
    in_order(
        "!has(self.min) || !has(self.max) || !isQuantity(string(self.min)) || !isQuantity(string(self.max)) || quantity(string(self.min)).compareTo(quantity(string(self.max))) <= 0",
        "string",
    )
}

const PERCENT: &str = "matches('^[+-]?[0-9]{1,4}%$')";

fn percent(end: &str) -> String {
    format!("int(self.{end}.replace('%', '').replace('+', ''))")
}

/// One end of a range of signed percentages.
pub fn relative(end: &str, example: &str) -> Value {
    let value = percent(end);
    rule(
        format!("!has(self.{end}) || (self.{end}.{PERCENT} && {value} >= -99 && {value} <= 1000)"),
        &format!("{end} must be a signed percentage from -99% to +1000%, such as {example}"),
    )
}

/// A range of signed percentages is not empty. True when an end is no percentage: another rule says so.
pub fn relatives_in_order() -> Value {
    let (min, max) = (percent("min"), percent("max"));
    in_order(
        &format!(
            "!has(self.min) || !has(self.max) || !self.min.{PERCENT} || !self.max.{PERCENT} || {min} <= {max}"
        ),
        "",
    )
}

/// A percentile above P0.
pub fn percentile() -> Value {
    rule(
        "self.matches('^P([0-9]{1,2}([.][0-9])?|100([.]0)?)$') && !self.matches('^P0{1,2}([.]0)?$')",
        "must be a percentile above P0, at most P100, with at most one decimal, such as P50, P90, P99 or P99.9",
    )
}

/// A number from 0.1 to 10.
pub fn factor(example: &str) -> Value {
    rule("self >= 0.1 && self <= 10.0", &format!("must be a number from 0.1 to 10, such as {example}"))
}

/// A number from 1 to 10; relations to others may leave less.
pub fn multiplier(example: &str) -> Value {
    rule("self >= 1.0 && self <= 10.0", &format!("must be a number from 1 to 10, such as {example}"))
}

/// A number from 0 to 1.
pub fn share(example: &str) -> Value {
    rule("self >= 0.0 && self <= 1.0", &format!("must be a number from 0 to 1, such as {example}"))
}

/// A percentage from 0 % to 100 %.
pub fn percentage(example: &str) -> Value {
    rule(
        "self.matches('^([0-9]{1,2}([.][0-9])?|100([.]0)?)%$')",
        &format!("must be a percentage from 0% to 100% with at most one decimal, such as {example}"),
    )
}

/// The size of one increase.
pub fn step_up() -> Value {
    rule(
        "self.matches('^([0-9]{1,3}([.][0-9])?|1000([.]0)?)%$') && !self.matches('^0+([.]0)?%$')",
        "must be a percentage above 0%, at most 1000%, such as 100%",
    )
}

/// The size of one decrease.
pub fn step_down() -> Value {
    rule(
        "self.matches('^[0-9]{1,2}([.][0-9])?%$') && !self.matches('^0+([.]0)?%$')",
        "must be a percentage above 0% and below 100%, such as 30%",
    )
}

/// A size while starting.
pub fn boost(resource: &str, example: &str) -> Value {
    let value = format!("string(self.{resource})");
    rule(
        format!(
            "!has(self.{resource}) || {value} == 'learned' || {value}.matches('^([1-9]([.][0-9]{{1,3}})?|10)x$') || (isQuantity({value}) && quantity({value}).compareTo(quantity('0')) > 0)"
        ),
        &format!(
            "{resource} must be a factor from 1x to 10x such as 2x, a quantity above zero such as {example}, or learned"
        ),
    )
}

/// When start-up ends.
pub fn until() -> Value {
    rule(
        "self in ['Ready', 'learned'] || (self.matches('^(0|([0-9]{1,6}(h|m|s|ms))+)$') && duration(self) >= duration('1s') && duration(self) <= duration('24h'))",
        "must be Ready, learned, or a duration from 1s to 24h, such as 2m",
    )
}

/// A local time of day.
pub fn time_of_day(last: &str) -> Value {
    let midnight = if last == "24:00" { " || self == '24:00'" } else { "" };
    rule(
        format!("self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$'){midnight}"),
        &format!("must be a time of day from 00:00 to {last}, such as \"01:30\""),
    )
}

/// A name of the IANA time zone database, as far as the API server knows it.
pub fn time_zone() -> Value {
    rule(
        "self.matches('^[A-Za-z][A-Za-z0-9+_/-]*$') && timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0",
        "must be a time zone of the IANA database, such as UTC or Europe/Paris",
    )
}

/// A window ends after it begins. Texts of this form sort like times.
pub fn window_in_order() -> Value {
    rule(
        "self.from < self.to",
        "to must be after from: a window ends on the day it begins on, at 24:00 at the latest; write one that passes midnight as two",
    )
}

/// No two windows of one time zone share a moment. Each overlaps with itself; one that ends before it begins with none,
/// which another rule says. Which ones they are, the condition and lint say: an expression that lists them costs more than
/// the API server grants.
pub fn windows_apart() -> Value {
    rule(
        "self.all(a, self.filter(b, a.timeZone == b.timeZone && a.days.exists(day, day in b.days) && a.from < b.to && b.from < a.to).size() <= 1)",
        "must not overlap: windows of one time zone share no moment",
    )
}

/// Names of containers, with wildcards.
pub fn container_globs() -> Value {
    rule(
        "self.all(name, name.matches('^[a-z0-9*]([-a-z0-9*]*[a-z0-9*])?$'))",
        "must be container names, where * stands for any characters: lower case letters, digits, '-' and '*', such as istio-proxy or *-agent",
    )
}
