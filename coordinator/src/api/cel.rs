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
