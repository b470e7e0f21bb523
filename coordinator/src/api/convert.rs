//! From what users wrote to what decisions are made from. Pure; names everything that is wrong at once.
//!
//! The API server has checked most of it by the schema's rules already. Objects stored before a rule existed, and
//! clusters whose CRD is older than the coordinator, make the second check necessary.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use optipod_common::policy::{
    Factor, LimitRule, MemoryDecrease, Mode, Percentile, Policy, Range, Replacement, ResourceBounds, Share,
    UpdateStrategy, Violation, parse_duration,
};

use optipod_common::quantity::{Bytes, MilliCpu};

use super::labels::{LabelOperator, LabelSelector};
use super::v1alpha1 as api;

const DAY: u64 = 24 * 3600;
/// The longest duration that a policy may name.
const LONGEST: Duration = Duration::from_secs(90 * DAY);

/// Which workloads a policy is for, and with which precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Precedence among policies that select the same workload.
    pub weight: u32,
    /// Namespaces by label; `None` = not given, an empty selector = all.
    pub namespaces: Option<LabelSelector>,
    /// Workloads by label.
    pub workloads: Option<LabelSelector>,
    /// Only these namespaces; `None` = not given.
    pub allow: Option<Vec<String>>,
    /// Never these namespaces.
    pub deny: Vec<String>,
    /// Only these kinds; empty = all.
    pub kinds: Vec<String>,
    /// Containers that are left alone.
    pub exclude_containers: Vec<String>,
}

/// Collects violations while values are taken from fields.
struct Check(Vec<Violation>);

impl Check {
    /// The value, or the fallback and a violation.
    fn take<T, E: Display>(&mut self, field: impl Into<String>, value: Result<T, E>, fallback: T) -> T {
        value.unwrap_or_else(|error| {
            self.0.push(Violation::new(field, error));
            fallback
        })
    }

    fn duration(&mut self, field: &str, text: &str, least: Duration) -> Duration {
        let value = parse_duration(text).and_then(|duration| {
            if (least..=LONGEST).contains(&duration) {
                Ok(duration)
            } else {
                Err(format!("{text:?} is out of range: expected {} to 2160h", seconds(least)))
            }
        });
        self.take(field, value, least)
    }

    fn integer(&mut self, field: &str, value: i32, allowed: std::ops::RangeInclusive<u32>) -> u32 {
        let converted = u32::try_from(value).ok().filter(|v| allowed.contains(v)).ok_or_else(|| {
            format!("{value} is out of range: expected {} to {}", allowed.start(), allowed.end())
        });
        self.take(field, converted, *allowed.start())
    }

    /// A range of parsed texts.
    fn range<T>(&mut self, field: &str, min: Option<&str>, max: Option<&str>) -> Range<T>
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

    fn bounds<T>(&mut self, field: &str, bounds: Option<&api::Bounds>, zero: T) -> Range<T>
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

    /// Names in a list that are not what they should be.
    fn names(&mut self, field: &str, names: &[String], what: &str, valid: fn(&str) -> bool) {
        for (i, name) in names.iter().enumerate().filter(|(_, name)| !valid(name)) {
            self.0.push(Violation::new(format!("{field}[{i}]"), format!("{name:?} is not {what}")));
        }
    }

    fn labels(&mut self, field: &str, selector: Option<&LabelSelector>) {
        for (i, expression) in selector.iter().flat_map(|s| &s.match_expressions).enumerate() {
            let wants_values = matches!(expression.operator, LabelOperator::In | LabelOperator::NotIn);
            if wants_values == expression.values.is_empty() {
                let message = "values must be given for the operators In and NotIn, and must not be given for Exists and DoesNotExist";
                self.0.push(Violation::new(format!("{field}.matchExpressions[{i}]"), message));
            }
            if expression.key.is_empty() {
                let message = "is empty: expected the key of a label";
                self.0.push(Violation::new(format!("{field}.matchExpressions[{i}].key"), message));
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_kind(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Checks a specification and turns it into what decisions are made from.
///
/// # Errors
/// All that is wrong, each with the path of its field.
pub fn to_policy(spec: &api::OptimizationPolicySpec) -> Result<(Policy, Selector), Vec<Violation>> {
    let mut check = Check(Vec::new());
    let defaults = Policy::default();
    let metrics = &spec.metrics_config;
    let selector = selector(spec, &mut check);
    let policy = Policy {
        mode: match spec.mode {
            api::Mode::Auto => Mode::Auto,
            api::Mode::Recommend => Mode::Recommend,
            api::Mode::Disabled => Mode::Disabled,
        },
        rolling_window: check.duration(
            "spec.metricsConfig.rollingWindow",
            &metrics.rolling_window,
            Duration::from_secs(15),
        ),
        percentile: check.take(
            "spec.metricsConfig.percentile",
            Percentile::from_str(&metrics.percentile),
            defaults.percentile,
        ),
        safety_factor: check.take(
            "spec.metricsConfig.safetyFactor",
            Factor::from_f64(metrics.safety_factor),
            defaults.safety_factor,
        ),
        minimum_coverage: check.take(
            "spec.metricsConfig.minimumCoverage",
            Share::from_f64(metrics.minimum_coverage),
            defaults.minimum_coverage,
        ),
        bounds: resource_bounds(&spec.resource_bounds, &mut check),
        update: update_strategy(&spec.update_strategy, &mut check),
        replacement: match spec.replacement {
            api::Replacement::Auto => Replacement::Auto,
            api::Replacement::Known => Replacement::Known,
            api::Replacement::Accept => Replacement::Accept,
        },
        reconciliation_interval: check.duration(
            "spec.reconciliationInterval",
            &spec.reconciliation_interval,
            Duration::from_secs(1),
        ),
    };
    if check.0.is_empty() { Ok((policy, selector)) } else { Err(check.0) }
}

fn selector(spec: &api::OptimizationPolicySpec, check: &mut Check) -> Selector {
    let selector = &spec.selector;
    check.labels("spec.selector.namespaceSelector", selector.namespace_selector.as_ref());
    check.labels("spec.selector.workloadSelector", selector.workload_selector.as_ref());
    let namespaces = selector.namespaces.clone().unwrap_or_default();
    if namespaces.allow.as_ref().is_some_and(Vec::is_empty) {
        let message =
            "must not be empty when given: leave it out to allow every namespace that the policy may reach";
        check.0.push(Violation::new("spec.selector.namespaces.allow", message));
    }
    let what = "a namespace name: expected lower case letters, digits and '-', at most 63, beginning and ending with a letter or digit";
    let allow = namespaces.allow.as_deref().unwrap_or_default();
    check.names("spec.selector.namespaces.allow", allow, what, is_dns_label);
    check.names("spec.selector.namespaces.deny", &namespaces.deny, what, is_dns_label);
    let what = "a kind: expected UpperCamelCase, such as Deployment, StatefulSet, DaemonSet, CronJob, Rollout or Pod";
    check.names("spec.selector.workloadKinds", &selector.workload_kinds, what, is_kind);
    let what = "a container name: expected lower case letters, digits and '-', such as istio-proxy";
    check.names("spec.selector.excludeContainers", &selector.exclude_containers, what, is_dns_label);
    Selector {
        weight: check.integer("spec.weight", spec.weight, 0..=1_000_000),
        namespaces: selector.namespace_selector.clone(),
        workloads: selector.workload_selector.clone(),
        allow: namespaces.allow,
        deny: namespaces.deny,
        kinds: selector.workload_kinds.clone(),
        exclude_containers: selector.exclude_containers.clone(),
    }
}

fn resource_bounds(bounds: &api::ResourceBounds, check: &mut Check) -> ResourceBounds {
    let relative = bounds.relative_to_declared.clone().unwrap_or_default();
    let (cpu, memory) = (relative.cpu.unwrap_or_default(), relative.memory.unwrap_or_default());
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

fn update_strategy(strategy: &api::UpdateStrategy, check: &mut Check) -> UpdateStrategy {
    let limit = |rule: &api::LimitRule| match rule.rule {
        api::LimitType::Keep => LimitRule::Keep,
        api::LimitType::Ratio => LimitRule::Ratio,
    };
    let field = |name: &str| format!("spec.updateStrategy.{name}");
    UpdateStrategy {
        allow_in_place_resize: strategy.allow_in_place_resize,
        allow_recreate: strategy.allow_recreate,
        update_requests_only: strategy.update_requests_only,
        cpu_limit: limit(&strategy.limits.cpu),
        memory_limit: limit(&strategy.limits.memory),
        memory_decrease: match strategy.memory_decrease {
            api::MemoryDecrease::Never => MemoryDecrease::Never,
            api::MemoryDecrease::Guarded => MemoryDecrease::Guarded,
        },
        cooldown: check.duration(&field("cooldown"), &strategy.cooldown, Duration::ZERO),
        min_change: check.take(
            field("minChange"),
            Share::from_percent(&strategy.min_change),
            UpdateStrategy::default().min_change,
        ),
        deferred_deadline: check.duration(
            &field("deferredDeadline"),
            &strategy.deferred_deadline,
            Duration::from_secs(1),
        ),
        max_concurrent_resizes: check.integer(
            &field("maxConcurrentResizes"),
            strategy.max_concurrent_resizes,
            1..=10_000,
        ),
    }
}
