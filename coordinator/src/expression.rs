//! Formulas of the strategy `Expression`: the Common Expression Language, cut down to arithmetic.
//!
//! The parser is CEL's; what it gives is walked here over numbers only. There is nothing to loop over, no string, list or
//! map to grow, and no name but those below, so a formula takes as many steps as it has operators, at most its length.
//!
//! `cpu` and `memory` each have `p(n)` (percentile, 0 to 100), `peak`, `mean`, `samples`, `request`, `limit`; there are
//! `cpu.throttled` (share of periods), `memory.oomKills`, `min(..)`, `max(..)`. CPU is in cores, memory in bytes.

use std::cmp::Ordering;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use cel::parser::Parser;
use optipod_common::expression::{Expressions, Present, Statistics, to_amount};
use optipod_common::policy::ExpressionParams;
use optipod_common::resources::Resource;
use optipod_common::store::Evidence;
use optipod_common::time::Timestamp;

/// Nesting of brackets and conditions that is handed to the parser, which recurses through some twenty functions for
/// each level: nobody writes half of it, and the stack of a thread holds several times as much.
const DEPTH: u16 = 12;

/// What a formula may use.
const NAMES: &str = "cpu.p(95), memory.p(99), .peak, .mean, .samples, .request, .limit, cpu.throttled, memory.oomKills, min(a, b), max(a, b)";

/// Evaluates formulas.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cel;

impl Expressions for Cel {
    fn evaluate(&self, source: &str, statistics: &Statistics<'_>) -> Result<f64, String> {
        match value(&parse(source)?, statistics)? {
            Value::Number(number) => Ok(number),
            Value::Truth(_) => Err("the formula is true or false: expected an amount".to_owned()),
        }
    }
}

/// Tries a formula with a container that uses and has typical amounts, and with one that has nothing.
///
/// # Errors
/// What is wrong, in words.
pub fn try_out(resource: Resource, source: &str) -> Result<(), String> {
    let now = Timestamp::from_unix_seconds(0);
    let mut typical = Evidence::none(now, std::time::Duration::from_secs(86_400));
    let cpu = optipod_common::histogram::UsageHistogram::from_values(1000, (1..=100).map(|n| n * 20));
    let memory = optipod_common::histogram::UsageHistogram::from_values(1000, (1..=100).map(|n| 1000 + n));
    typical.cpu.entry(1000).or_default().add(&cpu);
    typical.memory.add(&memory);
    let has =
        (Present { request: 0.5, limit: 1.0 }, Present { request: 268_435_456.0, limit: 536_870_912.0 });
    let nothing = (Present::default(), Present::default());
    for (cpu, memory) in [has, nothing] {
        let statistics = Statistics { evidence: &typical, cpu, memory };
        let value = Cel.evaluate(source, &statistics)?;
        to_amount(resource, value)?;
    }
    Ok(())
}

/// Text in quotes and comments, of which formulas have no use: brackets within would hide others from the count of them.
const HIDES: [&str; 4] = ["'", "\"", "`", "//"];

/// The deepest nesting of brackets, plus all conditions, each of which may nest in the one before.
fn nesting(source: &str) -> u16 {
    let (mut depth, mut deepest, mut conditions) = (0_u16, 0_u16, 0_u16);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth = depth.saturating_add(1),
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'?' => conditions = conditions.saturating_add(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest.saturating_add(conditions)
}

fn parse(source: &str) -> Result<IdedExpr, String> {
    if source.len() > ExpressionParams::MAX_LENGTH {
        return Err(format!("has {} bytes: at most {} are read", source.len(), ExpressionParams::MAX_LENGTH));
    }
    if HIDES.iter().any(|hides| source.contains(hides)) {
        return Err(format!("uses more than numbers: expected {NAMES} and arithmetic"));
    }
    if nesting(source) > DEPTH {
        return Err(format!("cannot be read: nests deeper than {DEPTH} levels"));
    }
    Parser::new().parse(source).map_err(|errors| {
        let text = errors.to_string();
        format!("cannot be read: {}", text.lines().next().unwrap_or("syntax error"))
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Number(f64),
    Truth(bool),
}

impl Value {
    fn number(self) -> Result<f64, String> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Truth(_) => Err("a condition stands where a number is expected".to_owned()),
        }
    }

    fn truth(self) -> Result<bool, String> {
        match self {
            Self::Truth(truth) => Ok(truth),
            Self::Number(_) => Err("a number stands where a condition is expected".to_owned()),
        }
    }
}

/// As exact as formulas need it: whole numbers are counts and factors.
#[allow(clippy::cast_precision_loss, reason = "whole numbers of formulas are small")]
fn value(expression: &IdedExpr, statistics: &Statistics<'_>) -> Result<Value, String> {
    match &expression.expr {
        Expr::Literal(LiteralValue::Double(number)) => Ok(Value::Number(*number.inner())),
        Expr::Literal(LiteralValue::Int(number)) => Ok(Value::Number(*number.inner() as f64)),
        Expr::Literal(LiteralValue::UInt(number)) => Ok(Value::Number(*number.inner() as f64)),
        Expr::Literal(LiteralValue::Boolean(truth)) => Ok(Value::Truth(*truth.inner())),
        Expr::Select(select) => field(select, statistics).map(Value::Number),
        Expr::Call(call) => called(call, statistics),
        _ => Err(format!("uses more than numbers: expected {NAMES} and arithmetic")),
    }
}

fn series(expression: &IdedExpr) -> Result<Resource, String> {
    match &expression.expr {
        Expr::Ident(name) if name == "cpu" => Ok(Resource::Cpu),
        Expr::Ident(name) if name == "memory" => Ok(Resource::Memory),
        Expr::Ident(name) => Err(format!("{name:?} is not known: expected {NAMES}")),
        _ => Err(format!("expected {NAMES}")),
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of values are far below 2^53")]
fn field(select: &SelectExpr, statistics: &Statistics<'_>) -> Result<f64, String> {
    let resource = series(&select.operand)?;
    let present = statistics.present(resource);
    match (select.field.as_str(), resource) {
        _ if select.test => Err("has() is not known".to_owned()),
        ("peak", _) => Ok(statistics.peak(resource)),
        ("mean", _) => Ok(statistics.mean(resource)),
        ("samples", _) => Ok(statistics.samples(resource) as f64),
        ("request", _) => Ok(present.request),
        ("limit", _) => Ok(present.limit),
        ("throttled", Resource::Cpu) => Ok(statistics.throttled()),
        ("oomKills", Resource::Memory) => Ok(statistics.oom_kills() as f64),
        (field, _) => Err(format!("{resource}.{field} is not known: expected {NAMES}")),
    }
}

fn called(call: &CallExpr, statistics: &Statistics<'_>) -> Result<Value, String> {
    let CallExpr { func_name, target, args } = call;
    let of = |expression: &IdedExpr| value(expression, statistics);
    match (func_name.as_str(), target.as_deref(), args.as_slice()) {
        ("p", Some(target), [share]) => {
            percentile(series(target)?, of(share)?.number()?, statistics).map(Value::Number)
        }
        ("min" | "max", None, [first, rest @ ..]) => {
            let mut best = of(first)?.number()?;
            for other in rest {
                let other = of(other)?.number()?;
                // what is no number stays so
                best = match func_name.as_str() {
                    _ if best.is_nan() || other.is_nan() => f64::NAN,
                    "min" => best.min(other),
                    _ => best.max(other),
                };
            }
            Ok(Value::Number(best))
        }
        (operators::CONDITIONAL, None, [condition, then, otherwise]) => {
            of(if of(condition)?.truth()? { then } else { otherwise })
        }
        (operators::NEGATE, None, [one]) => Ok(Value::Number(-of(one)?.number()?)),
        (operators::LOGICAL_NOT, None, [one]) => Ok(Value::Truth(!of(one)?.truth()?)),
        (operator, None, [left, right]) => binary(operator, of(left)?, of(right)?),
        (name, ..) => Err(format!("{name:?} is not known: expected {NAMES} and arithmetic")),
    }
}

fn binary(operator: &str, left: Value, right: Value) -> Result<Value, String> {
    if matches!(operator, operators::LOGICAL_AND | operators::LOGICAL_OR) {
        let (left, right) = (left.truth()?, right.truth()?);
        return Ok(Value::Truth(if operator == operators::LOGICAL_AND {
            left && right
        } else {
            left || right
        }));
    }
    let (left, right) = (left.number()?, right.number()?);
    let divisor = || if right == 0.0 { Err("divides by zero".to_owned()) } else { Ok(right) };
    match operator {
        operators::ADD => Ok(Value::Number(left + right)),
        operators::SUBSTRACT => Ok(Value::Number(left - right)),
        operators::MULTIPLY => Ok(Value::Number(left * right)),
        operators::DIVIDE => Ok(Value::Number(left / divisor()?)),
        operators::MODULO => Ok(Value::Number(left % divisor()?)),
        // exact, as CEL compares: 0 is -0, and what is no number is equal to nothing
        operators::EQUALS => Ok(Value::Truth(left.partial_cmp(&right).is_some_and(Ordering::is_eq))),
        operators::NOT_EQUALS => Ok(Value::Truth(left.partial_cmp(&right).is_none_or(Ordering::is_ne))),
        operators::LESS => Ok(Value::Truth(left < right)),
        operators::LESS_EQUALS => Ok(Value::Truth(left <= right)),
        operators::GREATER => Ok(Value::Truth(left > right)),
        operators::GREATER_EQUALS => Ok(Value::Truth(left >= right)),
        name => Err(format!("{name:?} is not known: expected {NAMES} and arithmetic")),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0 to 100")]
fn percentile(resource: Resource, share: f64, statistics: &Statistics<'_>) -> Result<f64, String> {
    if (0.0..=100.0).contains(&share) {
        Ok(statistics.percentile(resource, (share * 100.0).round() as u16))
    } else {
        Err(format!("{resource}.p({share}): expected a percentile from 0 to 100"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn evaluate(source: &str) -> Result<f64, String> {
        let mut evidence =
            Evidence::none(Timestamp::from_unix_seconds(0), std::time::Duration::from_secs(60));
        let of = |values: &[u64]| {
            optipod_common::histogram::UsageHistogram::from_values(1000, values.iter().copied())
        };
        evidence.cpu.entry(1000).or_default().add(&of(&[1000, 2000, 3000, 4000]));
        evidence.memory.add(&of(&[16; 4]));
        let present = Present { request: 0.2, limit: 0.0 };
        Cel.evaluate(source, &Statistics { evidence: &evidence, cpu: present, memory: present })
    }

    #[test]
    fn formulas_are_arithmetic_over_the_statistics() {
        let mebibyte = 1_048_576.0;
        for (source, expected) in [
            ("cpu.peak", 0.4),
            ("cpu.peak * 1.5 + 1", 1.6),
            ("max(memory.peak, memory.p(99)) * 2", 2.0 * mebibyte),
            ("min(1, 2, 0.5)", 0.5),
            ("cpu.request > 0.1 ? cpu.request * 2 : cpu.mean", 0.4),
            ("-(1 - 3)", 2.0),
            ("cpu.samples", 4.0),
            ("memory.limit == 0.0 ? 1 : memory.peak / memory.limit", 1.0),
            ("10 % 4", 2.0),
            ("!(1 < 2) || 2 >= 2 && true ? 7 : 8", 7.0),
        ] {
            let value = evaluate(source).unwrap();
            assert!((value - expected).abs() < 1e-9, "{source}: {value}");
        }
    }

    #[test]
    fn formulas_that_reach_beyond_are_refused_with_a_reason() {
        let deep = "(".repeat(100) + "1" + &")".repeat(100);
        let conditions = "true ? 1 : ".repeat(40) + "1";
        let long = "1 + ".repeat(200) + "1";
        // each quoted bracket takes one off a count that does not know quotes
        let hidden = "(')'+".repeat(80) + "1" + &")".repeat(80);
        for (source, expected) in [
            ("[1, 2].map(x, x * 2)", "uses more than numbers"),
            ("[1, 2].all(x, x > 0)", "uses more than numbers"),
            ("cpu", "uses more than numbers"),
            ("disk.peak", "\"disk\" is not known"),
            ("cpu.oomKills", "cpu.oomKills is not known"),
            ("cpu.p(101)", "from 0 to 100"),
            ("cpu.peak / 0", "divides by zero"),
            ("cpu.peak > 1", "true or false"),
            ("1 + true", "a number is expected"),
            ("env(1)", "\"env\" is not known"),
            ("env('HOME')", "uses more than numbers"),
            (hidden.as_str(), "uses more than numbers"),
            ("(//)\n1)", "uses more than numbers"),
            ("'x' + 'y'", "uses more than numbers"),
            ("1 +", "cannot be read"),
            (deep.as_str(), "nests deeper"),
            (conditions.as_str(), "nests deeper"),
            (long.as_str(), "at most 512"),
            ("", "cannot be read"),
        ] {
            let error = evaluate(source).unwrap_err();
            assert!(error.contains(expected), "{source}: {error}");
        }
    }

    #[test]
    fn the_largest_formulas_fit_on_the_stack() {
        let depth = usize::from(DEPTH);
        let nested = "(".repeat(depth) + "1" + &")".repeat(depth);
        assert_eq!(evaluate(&nested), Ok(1.0));
        assert_eq!(evaluate(&("1+".repeat(255) + "1")), Ok(256.0));
        assert!(evaluate(&("-".repeat(511) + "1")).is_ok_and(|value| value.abs() <= 1.0));
    }

    #[test]
    fn a_trial_finds_what_is_no_amount() {
        assert_eq!(try_out(Resource::Cpu, "cpu.p(95) * 1.1"), Ok(()));
        assert_eq!(try_out(Resource::Memory, "max(memory.peak, memory.p(99)) * 1.15"), Ok(()));
        assert!(try_out(Resource::Cpu, "0 - cpu.peak").unwrap_err().contains("no amount"));
        // a container without a limit is typical, too
        assert!(try_out(Resource::Cpu, "cpu.peak / cpu.limit").unwrap_err().contains("divides by zero"));
    }

    #[test]
    fn what_is_no_number_does_not_hide() {
        let none = "1e308 * 10 - 1e308 * 10";
        for source in [none.to_owned(), format!("max({none}, 1)"), format!("min(1, {none})")] {
            assert!(
                evaluate(&source).unwrap().is_nan() && try_out(Resource::Cpu, &source).is_err(),
                "{source}"
            );
        }
        assert_eq!(evaluate("-(0.0) == 0.0 ? 1 : 2"), Ok(1.0));
        assert_eq!(evaluate(&format!("{none} == {none} ? 1 : 2")), Ok(2.0));
    }

    const FRAGMENTS: [&str; 34] = [
        "cpu.p(95)",
        "memory.p(99.9)",
        "cpu.peak",
        "memory.mean",
        "cpu.throttled",
        "memory.oomKills",
        "cpu.request",
        "memory.limit",
        "disk.peak",
        "cpu",
        "x",
        "1",
        "0",
        "2.5",
        "1e308",
        "-",
        "+",
        "*",
        "/",
        "%",
        "(",
        ")",
        "?",
        ":",
        "min(",
        "max(",
        ",",
        "<",
        "==",
        "&&",
        "!",
        "[1, 2].map(x, x)",
        "'",
        "true",
    ];

    proptest! {
        #[test]
        fn formulas_of_known_words_are_amounts_or_refused(
            words in prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 1..80)
        ) {
            let source = words.concat();
            for resource in [Resource::Cpu, Resource::Memory] {
                if let (Ok(()), Ok(value)) = (try_out(resource, &source), evaluate(&source)) {
                    prop_assert!(!source.contains("disk") && !source.contains("map"), "{source}");
                    prop_assert!(!value.is_nan() || to_amount(resource, value).is_err(), "{source}: {value}");
                }
                if let Err(message) = try_out(resource, &source) {
                    prop_assert!(!message.is_empty());
                }
            }
        }

        #[test]
        fn no_formula_panics_or_hangs(source in "[a-z0-9 .+*/()<>?:,!&|%\\[\\]-]{0,80}") {
            let _ = evaluate(&source);
        }
    }
}
