//! Evidence, strategy, bounds and start-up.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use optipod_common::policy::{
    Boost, ExpressionParams, Factor, Objective, Provider, ResourceBounds, Share, Startup, Strategy,
    ThresholdParams, Until, parse_duration,
};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::Resource;

use super::check::Check;
use crate::api::v1alpha1 as api;
use crate::expression::try_out;

/// The longest start-up that a duration may describe.
const LONGEST_STARTUP: Duration = Duration::from_secs(24 * 3600);

pub fn provider(provider: api::Provider, check: &mut Check) -> Provider {
    match provider {
        api::Provider::Agent => Provider::Agent,
        api::Provider::Prometheus => Provider::Prometheus,
        api::Provider::MetricsServer => Provider::MetricsServer,
        api::Provider::Custom | api::Provider::Vpa => {
            check.wrong(
                "spec.metricsConfig.provider",
                "custom and vpa are not in this version: expected agent, or prometheus or metrics-server, for which the agent stands in",
            );
            Provider::Agent
        }
    }
}

/// The strategy that a policy asks for, named or not. The fields of `strategy` belong to one strategy each and speak for
/// it. Without them a policy that names a percentile or a safety factor means them: policies that were written when
/// `Percentile` was the only strategy, the operator design's example first, keep acting as they did. What says nothing
/// gets the strategy that does best on recorded use.
pub fn strategy_type(spec: &api::OptimizationPolicySpec) -> api::StrategyType {
    let api::Strategy { kind, objective, threshold, expression, .. } = &spec.strategy;
    let metrics = &spec.metrics_config;
    if let Some(kind) = kind {
        *kind
    } else if objective.is_some() {
        api::StrategyType::Adaptive
    } else if threshold.is_some() {
        api::StrategyType::Threshold
    } else if expression.is_some() {
        api::StrategyType::Expression
    } else if metrics.percentile.is_some() || metrics.safety_factor.is_some() {
        api::StrategyType::Percentile
    } else {
        api::StrategyType::Adaptive
    }
}

pub fn strategy(spec: &api::OptimizationPolicySpec, check: &mut Check) -> Strategy {
    let strategy = &spec.strategy;
    let fields = [strategy.objective.is_some(), strategy.threshold.is_some(), strategy.expression.is_some()];
    if strategy.kind.is_none() && fields.iter().filter(|given| **given).count() > 1 {
        check.wrong(
            "spec.strategy.type",
            "must be given with fields of several strategies: objective is for Adaptive, threshold for Threshold, expression for Expression",
        );
    }
    // what is given is checked, also for another type
    let threshold = strategy.threshold.as_ref().map(|given| threshold(given, check)).unwrap_or_default();
    let expression = strategy.expression.as_ref().map(|given| expression(given, check)).unwrap_or_default();
    match strategy_type(spec) {
        api::StrategyType::Percentile => Strategy::Percentile,
        api::StrategyType::Threshold => Strategy::Threshold(threshold),
        api::StrategyType::Adaptive => Strategy::Adaptive(match strategy.objective.unwrap_or_default() {
            api::Objective::Savings => Objective::Savings,
            api::Objective::Balanced => Objective::Balanced,
            api::Objective::Safe => Objective::Safe,
        }),
        api::StrategyType::Expression => {
            if strategy.expression.is_none() {
                check.wrong(
                    "spec.strategy.expression",
                    "must be given for type Expression, such as {cpu: \"cpu.p(95) * 1.1\"}",
                );
            }
            Strategy::Expression(expression)
        }
    }
}

pub fn strategy_version(strategy: &api::Strategy, check: &mut Check) -> Option<u32> {
    let version = strategy.version?;
    let allowed = u32::try_from(version).ok().filter(|version| (1..=1000).contains(version));
    if allowed.is_none() {
        check.wrong("spec.strategy.version", format!("{version} is not a version: expected 1 to 1000"));
    }
    allowed
}

fn threshold(given: &api::Threshold, check: &mut Check) -> ThresholdParams {
    let field = |name: &str| format!("spec.strategy.threshold.{name}");
    let before = check.0.len();
    let defaults = ThresholdParams::default();
    check.memory(&field("minRequestMemory"), Some(&given.min_request_memory));
    let mut share =
        |name: &str, value: f64, default| check.take(field(name), Share::from_f64(value), default);
    let scale_up_threshold = share("scaleUpThreshold", given.scale_up_threshold, defaults.scale_up_threshold);
    let scale_down_threshold =
        share("scaleDownThreshold", given.scale_down_threshold, defaults.scale_down_threshold);
    let scale_down_min_diff =
        share("scaleDownMinDiff", given.scale_down_min_diff, defaults.scale_down_min_diff);
    let mut factor = |name: &str, value: f64, default| check.take(field(name), multiplier(value), default);
    let params = ThresholdParams {
        scale_up_threshold,
        scale_up_usage_multiplier: factor(
            "scaleUpUsageMultiplier",
            given.scale_up_usage_multiplier,
            defaults.scale_up_usage_multiplier,
        ),
        scale_up_min_growth: factor(
            "scaleUpMinGrowth",
            given.scale_up_min_growth,
            defaults.scale_up_min_growth,
        ),
        scale_down_threshold,
        scale_down_usage_multiplier: factor(
            "scaleDownUsageMultiplier",
            given.scale_down_usage_multiplier,
            defaults.scale_down_usage_multiplier,
        ),
        scale_down_min_diff,
        cooldown: check.duration(field("cooldown"), &given.cooldown, Duration::ZERO),
        min_request_memory: check.take(
            field("minRequestMemory"),
            Bytes::from_str(given.min_request_memory.as_str()),
            defaults.min_request_memory,
        ),
    };
    // relations of numbers that are wrong themselves say nothing
    if check.0.len() == before
        && let Err(wrong) = params.check()
    {
        for (name, message) in wrong {
            check.wrong(field(name), message);
        }
    }
    params
}

fn multiplier(value: f64) -> Result<Factor, String> {
    let factor = Factor::from_f64(value).ok().filter(|factor| factor.thousandths() >= 1000);
    factor.ok_or_else(|| format!("{value} is not a multiplier: expected 1 to 10"))
}

fn expression(given: &api::Expression, check: &mut Check) -> ExpressionParams {
    if given.cpu.is_none() && given.memory.is_none() {
        check.wrong("spec.strategy.expression", "cpu or memory must be given");
    }
    for (resource, formula) in [(Resource::Cpu, &given.cpu), (Resource::Memory, &given.memory)] {
        let Some(formula) = formula else { continue };
        let length = formula.len();
        if formula.trim().is_empty() || length > ExpressionParams::MAX_LENGTH {
            let message =
                format!("has {length} bytes: expected a formula of 1 to {}", ExpressionParams::MAX_LENGTH);
            check.wrong(format!("spec.strategy.expression.{resource}"), message);
        } else if let Err(error) = try_out(resource, formula) {
            check.wrong(format!("spec.strategy.expression.{resource}"), format!("{formula:?}: {error}"));
        }
    }
    ExpressionParams { cpu: given.cpu.clone(), memory: given.memory.clone() }
}

pub fn resource_bounds(bounds: &api::ResourceBounds, check: &mut Check) -> ResourceBounds {
    let relative = bounds.relative_to_declared.clone().unwrap_or_default();
    let (cpu, memory) = (relative.cpu.unwrap_or_default(), relative.memory.unwrap_or_default());
    for (end, given) in bounds.memory.iter().flat_map(|m| [("min", &m.min), ("max", &m.max)]) {
        check.memory(&format!("spec.resourceBounds.memory.{end}"), given.as_ref());
    }
    let field = "spec.resourceBounds.relativeToDeclared";
    ResourceBounds {
        cpu: check.bounds("spec.resourceBounds.cpu", bounds.cpu.as_ref(), MilliCpu(0)),
        memory: check.bounds("spec.resourceBounds.memory", bounds.memory.as_ref(), Bytes(0)),
        cpu_relative: check.range(&format!("{field}.cpu"), cpu.min.as_deref(), cpu.max.as_deref()),
        memory_relative: check.range(
            &format!("{field}.memory"),
            memory.min.as_deref(),
            memory.max.as_deref(),
        ),
    }
}

pub fn startup(startup: &api::Startup, check: &mut Check) -> Startup {
    let boost = startup.boost.clone().unwrap_or_default();
    check.memory("spec.startup.boost.memory", boost.memory.as_ref());
    let until = match startup.until.as_str() {
        "Ready" => Ok(Until::Ready),
        "learned" => Ok(Until::Plateau),
        text => parse_duration(text)
            .ok()
            .filter(|d| (Duration::from_secs(1)..=LONGEST_STARTUP).contains(d))
            .map(Until::For)
            .ok_or_else(|| format!("{text:?} is not an end of start-up: expected Ready, learned, or a duration from 1s to 24h, such as 2m")),
    };
    Startup {
        cpu: check.take("spec.startup.boost.cpu", size::<MilliCpu>(boost.cpu.as_ref(), "500m"), None),
        memory: check.take("spec.startup.boost.memory", size::<Bytes>(boost.memory.as_ref(), "512Mi"), None),
        until: check.take("spec.startup.until", until, Until::Ready),
    }
}

fn size<T>(text: Option<&api::Amount>, example: &str) -> Result<Option<Boost<T>>, String>
where
    T: FromStr + Default + PartialOrd,
    T::Err: Display,
{
    let Some(text) = text.map(api::Amount::as_str) else { return Ok(None) };
    let error = || {
        format!(
            "{text:?} is not a boost: expected a factor from 1x to 10x such as 2x, a quantity above zero such as {example}, or learned"
        )
    };
    if text == "learned" {
        return Ok(Some(Boost::Learned));
    }
    let boost = match text.strip_suffix('x') {
        Some(number) if number.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            let factor = number.parse().ok().and_then(|n| Factor::from_f64(n).ok());
            factor.filter(|f| f.thousandths() >= 1000).map(Boost::Times)
        }
        Some(_) => None,
        None => text.parse::<T>().ok().filter(|amount| *amount > T::default()).map(Boost::Amount),
    };
    boost.map(Some).ok_or_else(error)
}
