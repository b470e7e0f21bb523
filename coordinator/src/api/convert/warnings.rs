//! What is accepted, but people should know.

use super::strategy_type;
use crate::api::v1alpha1::{
    Amount, Bounds, Guaranteed, Limits, Mode, OptimizationPolicySpec, Provider, RelativeRange, Replacement,
    ResourceName, Rollback, Scope, StrategyType,
};

/// Something in a policy that is accepted and does not do all that it seems to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Type of the condition that says so.
    pub condition: &'static str,
    /// Reason of the condition.
    pub reason: &'static str,
    /// Path of the field.
    pub field: &'static str,
    /// What it does, and what to do about it.
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Type of the condition of a policy that is valid and in charge of nothing.
pub const NOTHING_SELECTED: &str = "NothingSelected";

/// Type of the condition of a policy in mode `Auto` that allows no way to resize.
pub const NOTHING_RESIZED: &str = "NothingResized";

/// Type of the condition of a policy that raises and never lowers.
pub const DECREASES_HELD: &str = "DecreasesHeld";

/// Kinds that pods come from without an operator, and Argo's.
const KINDS: [&str; 8] =
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Rollout", "Pod"];

/// The known kind that another one is a plural, another case, or a slip of the pen of.
fn near(kind: &str) -> Option<&'static str> {
    if KINDS.contains(&kind) {
        return None;
    }
    let lower = kind.to_ascii_lowercase();
    let singular = lower.strip_suffix('s').unwrap_or(&lower);
    KINDS.into_iter().find(|known| {
        let known = known.to_ascii_lowercase();
        // two letters of a short name make another name
        known == lower || known == singular || (known.len() > 5 && edits(&known, &lower) <= 2)
    })
}

/// Letters to insert, remove or replace on the way from one text to the other.
pub fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut before = i;
        let mut next = vec![i + 1];
        for (b, above) in to.bytes().zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or_default();
            next.push((left + 1).min(above + 1).min(before + usize::from(a != b)));
            before = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

const NOT_IN_THIS_VERSION: &str = "NotInThisVersion";

/// Everything that a valid specification does not do in this version, or does otherwise than one may think. One warning
/// for each type of condition at most.
pub fn warnings(spec: &OptimizationPolicySpec) -> Vec<Warning> {
    let selecting = [denied(spec), mistaken_kinds(spec)];
    let updating = [in_place(spec), replacement(spec), recreation(spec), limits(spec), rollback(spec)];
    let sizing = [stand_in(spec), unused(spec), many_cores(spec), nothing_enforced(spec)];
    updating.into_iter().chain(sizing).chain(selecting).flatten().collect()
}

fn in_place(spec: &OptimizationPolicySpec) -> Option<Warning> {
    (spec.mode == Mode::Auto && !spec.update_strategy.allow_in_place_resize).then(|| Warning {
        condition: NOTHING_RESIZED,
        reason: "InPlaceNotAllowed",
        field: "spec.updateStrategy.allowInPlaceResize",
        message: "the mode is Auto, and resizing in place, which is all that this version does, is not allowed: set updateStrategy.allowInPlaceResize: true, or mode: Recommend".to_owned(),
    })
}

fn replacement(spec: &OptimizationPolicySpec) -> Option<Warning> {
    let (condition, message) = match spec.replacement {
        Replacement::Auto => (
            "ReplacementSizeUnknown",
            "replaced pods start at the size of their template: no admission webhook runs in this version; set replacement: Accept or Known to choose",
        ),
        Replacement::Known => (
            DECREASES_HELD,
            "replacement: Known holds every decrease: no admission webhook runs in this version, and replaced pods start at the size of their template; replacement: Accept lowers all the same",
        ),
        Replacement::Accept => return None,
    };
    (spec.mode == Mode::Auto).then(|| Warning {
        condition,
        reason: "NoAdmissionWebhook",
        field: "spec.replacement",
        message: message.to_owned(),
    })
}

fn recreation(spec: &OptimizationPolicySpec) -> Option<Warning> {
    spec.update_strategy.allow_recreate.then(|| Warning {
        condition: "RecreateUnsupported",
        reason: NOT_IN_THIS_VERSION,
        field: "spec.updateStrategy.allowRecreate",
        message: "updateStrategy.allowRecreate is accepted, but this version resizes in place only"
            .to_owned(),
    })
}

fn limits(spec: &OptimizationPolicySpec) -> Option<Warning> {
    let (update, default) = (&spec.update_strategy, Limits::default());
    let (reason, message) = if update.update_requests_only && update.limits != default {
        // a Guaranteed pod has one number, whatever the rules
        let rest = match spec.guaranteed {
            Guaranteed::Hold => "",
            Guaranteed::MoveTogether => {
                "; guaranteed: MoveTogether moves limits of Guaranteed pods, without these rules"
            }
        };
        let message = "updateStrategy.limits says how limits follow, and updateRequestsOnly keeps them where they are: set updateRequestsOnly: false, or leave limits out";
        ("RequestsOnly", format!("{message}{rest}"))
    } else {
        let given = [
            (ResourceName::Cpu, "cpu", update.limits.cpu != default.cpu),
            (ResourceName::Memory, "memory", update.limits.memory != default.memory),
        ];
        let (_, name, _) =
            given.into_iter().find(|(resource, _, given)| *given && !update.resources.contains(resource))?;
        let message = format!(
            "updateStrategy.limits.{name} is of a resource that updateStrategy.resources does not name: it is recommended and not written; add {name} to resources, or leave limits.{name} out"
        );
        ("NotControlled", message)
    };
    Some(Warning { condition: "LimitsUnused", reason, field: "spec.updateStrategy.limits", message })
}

fn rollback(spec: &OptimizationPolicySpec) -> Option<Warning> {
    (spec.update_strategy.rollback != Rollback::default()).then(|| Warning {
        condition: "RollbackUnsupported",
        reason: NOT_IN_THIS_VERSION,
        field: "spec.updateStrategy.rollback",
        message: "updateStrategy.rollback is accepted, but this version puts nothing back after a change that the kubelet has carried out".to_owned(),
    })
}

fn stand_in(spec: &OptimizationPolicySpec) -> Option<Warning> {
    let name = match spec.metrics_config.provider {
        Provider::Prometheus => "prometheus",
        Provider::MetricsServer => "metrics-server",
        Provider::Agent | Provider::Custom | Provider::Vpa => return None,
    };
    Some(Warning {
        condition: "AgentStandsIn",
        reason: NOT_IN_THIS_VERSION,
        field: "spec.metricsConfig.provider",
        message: format!(
            "{name} is not read in this version: the agent measures the same quantities at a higher resolution and stands in"
        ),
    })
}

fn unused(spec: &OptimizationPolicySpec) -> Option<Warning> {
    use StrategyType::{Adaptive, Expression, Percentile, Threshold};
    let (strategy, metrics, kind) = (&spec.strategy, &spec.metrics_config, strategy_type(spec));
    let by_pod = spec.scope == Scope::Pod;
    // a resource without a formula follows the percentile times the factor
    let formulas = strategy.expression.as_ref().is_some_and(|e| e.cpu.is_some() && e.memory.is_some());
    let margin = match kind {
        Percentile => Use::Full,
        Expression if !formulas => Use::Full,
        Adaptive if !by_pod => Use::None,
        Adaptive | Expression | Threshold => Use::Part,
    };
    let of = |uses: bool| if uses { Use::Full } else { Use::None };
    let given = [
        (strategy.objective.is_some(), of(kind == Adaptive), "strategy.objective"),
        (strategy.threshold.is_some(), of(kind == Threshold), "strategy.threshold"),
        (strategy.expression.is_some(), of(kind == Expression), "strategy.expression"),
        (
            metrics.percentile.is_some(),
            if kind == Threshold { Use::Full } else { margin },
            "metricsConfig.percentile",
        ),
        (metrics.safety_factor.is_some(), margin, "metricsConfig.safetyFactor"),
    ];
    let named = |used: Use| {
        let names = given.iter().filter(|(given, use_, _)| *given && *use_ == used).map(|(.., name)| *name);
        names.collect::<Vec<_>>().join(", ")
    };
    let (unused, part) = (named(Use::None), named(Use::Part));
    let mut said = Vec::new();
    if !unused.is_empty() {
        said.push(format!("does not use {unused}: what is given there is checked and has no effect"));
    }
    if !part.is_empty() {
        let whose = match (kind, by_pod) {
            (Adaptive, _) => "a single pod (scope: Pod)",
            (_, true) => "other revisions or of a single pod (scope: Pod)",
            (_, false) => "other revisions",
        };
        said.push(format!("uses {part} only where use of {whose} raises a size"));
    }
    (!said.is_empty()).then(|| Warning {
        condition: "FieldsUnused",
        reason: "OtherStrategy",
        field: "spec.strategy",
        message: format!("the strategy is {kind:?}, which {}", said.join("; it ")),
    })
}

/// How much a strategy does with a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Full,
    Part,
    None,
}

/// Whole cores that are as likely to have been meant as millicores.
const MANY_CORES: u64 = 64;

fn many_cores(spec: &OptimizationPolicySpec) -> Option<Warning> {
    let bounds = spec.resource_bounds.cpu.clone().unwrap_or_default();
    let boost = spec.startup.boost.clone().unwrap_or_default();
    let given = [
        ("spec.resourceBounds.cpu.min", bounds.min),
        ("spec.resourceBounds.cpu.max", bounds.max),
        ("spec.startup.boost.cpu", boost.cpu),
    ];
    let many = |amount: &Amount| amount.as_str().parse().is_ok_and(|cores: u64| cores >= MANY_CORES);
    let (field, amount) =
        given.into_iter().find_map(|(field, amount)| Some((field, amount.filter(|amount| many(amount))?)))?;
    Some(Warning {
        condition: "ManyCores",
        reason: "NoUnit",
        field,
        message: format!(
            "{} is {amount} cores, as CPU without a unit is counted in cores: write {amount}m where millicores are meant",
            field.trim_start_matches("spec.")
        ),
    })
}

fn nothing_enforced(spec: &OptimizationPolicySpec) -> Option<Warning> {
    let bounds = &spec.resource_bounds;
    let given = |bounds: &Option<Bounds>| bounds.as_ref().is_some_and(|b| *b != Bounds::default());
    let relative = bounds.relative_to_declared.clone().unwrap_or_default();
    let moved =
        |range: &Option<RelativeRange>| range.as_ref().is_some_and(|r| *r != RelativeRange::default());
    let any = given(&bounds.cpu) || given(&bounds.memory) || moved(&relative.cpu) || moved(&relative.memory);
    (bounds.enforced && !any).then(|| Warning {
        condition: "NothingEnforced",
        reason: "NoBounds",
        field: "spec.resourceBounds.enforced",
        message: "resourceBounds.enforced makes bounds hold for workloads of other policies, and there are none: set cpu, memory or relativeToDeclared, or leave enforced out".to_owned(),
    })
}

fn denied(spec: &OptimizationPolicySpec) -> Option<Warning> {
    let namespaces = spec.selector.namespaces.as_ref()?;
    let allow = namespaces.allow.as_ref().filter(|allow| !allow.is_empty())?;
    allow.iter().all(|name| namespaces.deny.contains(name)).then(|| Warning {
        condition: NOTHING_SELECTED,
        reason: "AllowIsDenied",
        field: "spec.selector.namespaces",
        message: "every namespace of namespaces.allow is in namespaces.deny, which wins: the policy selects nothing".to_owned(),
    })
}

fn mistaken_kinds(spec: &OptimizationPolicySpec) -> Option<Warning> {
    let kinds = spec.selector.workload_kinds.iter();
    let mistaken: Vec<String> =
        kinds.filter_map(|kind| Some(format!("{kind} looks like {}", near(kind)?))).collect();
    (!mistaken.is_empty()).then(|| Warning {
        condition: "KindUnknown",
        reason: "NotAKnownKind",
        field: "spec.selector.workloadKinds",
        message: format!(
            "{}: kinds are {}, or the kind of a custom resource that owns pods, which is taken as it is written",
            mistaken.join(", "),
            KINDS.join(", ")
        ),
    })
}
