//! Everything that is wrong with a policy as it is written in a file, at once.
//!
//! The API server stops at the first layer that refuses: while a type is wrong, no rule is looked at. Here the parts that
//! the schema refuses are named and taken out, then the rest is checked as if they had not been given.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::{CustomResourceExt as _, Resource as _};
use optipod_common::policy::Violation;
use serde_json::Value;

use super::convert::{Warning, edits, is_dns_label, is_dns_subdomain, strategy_type, to_policy, warnings};
use super::v1alpha1::{OptimizationPolicySpec, StrategyType};
use super::{OptimizationPolicy, Recommendation};

/// What is said about a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What makes it invalid.
    pub violations: Vec<Violation>,
    /// What it does not do, or does otherwise than one may think.
    pub warnings: Vec<Warning>,
    /// The strategy that it comes to, named or not; `None` when it cannot be read.
    pub strategy: Option<StrategyType>,
}

/// Looks at an object that is, or was meant to be, an `OptimizationPolicy`.
pub fn lint(object: &Value) -> Findings {
    let mut violations = envelope(object);
    let mut findings = match object.get("spec").filter(|spec| !spec.is_null()) {
        Some(spec) => lint_spec(spec),
        None => Findings::default(),
    };
    if object.get("spec").is_none_or(Value::is_null) {
        violations.push(Violation::new("spec", "is required: {} is a policy with all defaults"));
    }
    violations.append(&mut findings.violations);
    Findings { violations, ..findings }
}

/// Whether an object is an `OptimizationPolicy`, or its kind or group is a slip of the pen of one.
pub fn is_meant(object: &Value) -> bool {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let near = |text: &str, to: &str| edits(&text.to_ascii_lowercase(), &to.to_ascii_lowercase()) <= 3;
    let group = text("apiVersion").split('/').next().unwrap_or_default();
    let other = text("kind") == Recommendation::kind(&());
    near(text("kind"), &OptimizationPolicy::kind(&()))
        || (near(group, &OptimizationPolicy::group(&())) && !other)
}

/// Looks at a specification.
fn lint_spec(spec: &Value) -> Findings {
    let mut findings = Findings::default();
    let mut spec = spec.clone();
    let crd = OptimizationPolicy::crd();
    let schema = crd.spec.versions.first().and_then(|version| {
        version.schema.as_ref()?.open_api_v3_schema.as_ref()?.properties.as_ref()?.get("spec")
    });
    let mut pruned = Pruned::default();
    if let Some(schema) = schema
        && !pruned.prune("spec", &mut spec, schema)
    {
        spec = Value::Object(serde_json::Map::new());
    }
    findings.violations.append(&mut pruned.violations);
    // the derived function: the other one asks here
    match OptimizationPolicySpec::deserialize(&spec) {
        Ok(spec) => {
            let said = to_policy(&spec).err().unwrap_or_default();
            findings.violations.extend(said.into_iter().map(|violation| pruned.placed(violation)));
            findings.warnings = warnings(&spec);
            findings.strategy = Some(strategy_type(&spec));
        }
        Err(error) => findings.violations.push(Violation::new("spec", error)),
    }
    // a rule of its own says more about a field than its length does
    let unsaid = |limit: &Violation| findings.violations.iter().all(|said| said.field != limit.field);
    let limits: Vec<Violation> = pruned.limits.into_iter().filter(unsaid).collect();
    findings.violations.extend(limits);
    findings
}

/// Why a specification cannot be read: everything that its schema refuses and everything else that is wrong with it.
pub fn unreadable(spec: &Value, error: &dyn std::fmt::Display) -> String {
    let all: Vec<_> = lint_spec(spec).violations.iter().map(ToString::to_string).collect();
    if all.is_empty() { error.to_string() } else { all.join("; ") }
}

/// What is around the specification.
fn envelope(object: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (field, expected) in
        [("apiVersion", OptimizationPolicy::api_version(&())), ("kind", OptimizationPolicy::kind(&()))]
    {
        match object.get(field) {
            Some(given) if *given == *expected => {}
            Some(given) => violations.push(Violation::new(field, unexpected(given, &expected))),
            None => violations.push(Violation::new(field, format!("is required: expected {expected}"))),
        }
    }
    violations.extend(metadata(object.get("metadata").unwrap_or(&Value::Null)));
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for name in object.as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
        if !known.contains(&name) {
            violations.push(not_a_field(name, &known));
        }
    }
    violations
}

/// A name that the API server makes of `generateName` will do.
fn metadata(metadata: &Value) -> Option<Violation> {
    let what = "lower case letters, digits, '-' and '.', at most 253, each part between dots beginning and ending with a letter or digit, such as gold";
    match (metadata.get("name"), metadata.get("generateName")) {
        (Some(name), _) if !name.as_str().is_some_and(is_dns_subdomain) => {
            return Some(Violation::new("metadata.name", unexpected(name, what)));
        }
        (None, None) => {
            return Some(Violation::new("metadata.name", format!("is required: expected {what}")));
        }
        _ => {}
    }
    let namespace = metadata.get("namespace").filter(|given| !given.as_str().is_some_and(is_dns_label))?;
    let what = "lower case letters, digits and '-', at most 63, beginning and ending with a letter or digit";
    Some(Violation::new("metadata.namespace", unexpected(namespace, what)))
}

fn not_a_field(path: &str, known: &[&str]) -> Violation {
    Violation::new(path, format!("is not a field: expected one of {}", known.join(", ")))
}

/// What a schema refuses of a value, and what became of its lists.
#[derive(Default)]
struct Pruned {
    violations: Vec<Violation>,
    /// Too long, too many, too large; the value stays, since a rule may say it better.
    limits: Vec<Violation>,
    /// Positions that the elements of a list had, where some were taken out.
    lists: BTreeMap<String, Vec<usize>>,
}

impl Pruned {
    /// A violation with the positions that the user counts.
    fn placed(&self, violation: Violation) -> Violation {
        let Violation { mut field, mut message } = violation;
        // outer lists come first: paths of inner ones have their positions already
        for (path, kept) in &self.lists {
            field = renumbered(&field, path, kept);
            message = renumbered(&message, path, kept);
        }
        Violation { field, message }
    }

    fn refuse(&mut self, path: &str, message: String) -> bool {
        self.violations.push(Violation::new(path, message));
        false
    }

    /// Removes what a structural schema refuses, and names it. Returns false when the value itself has to go.
    fn prune(&mut self, path: &str, value: &mut Value, schema: &JSONSchemaProps) -> bool {
        if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
            return true;
        }
        if schema.x_kubernetes_int_or_string == Some(true) {
            if !(value.is_string() || value.is_i64() || value.is_u64()) {
                return self.refuse(path, unexpected(value, "a text or an integer"));
            }
        } else if let Some(expected) = mistyped(value, schema) {
            return self.refuse(path, unexpected(value, expected));
        }
        if let Some(allowed) = schema.enum_.as_ref().filter(|allowed| !allowed.iter().any(|a| a.0 == *value))
        {
            let allowed: Vec<_> = allowed.iter().filter_map(|a| a.0.as_str()).collect();
            return self.refuse(path, unexpected(value, &allowed.join(", ")));
        }
        self.limits.extend(beyond(value, schema).map(|message| Violation::new(path, message)));
        match value {
            Value::Object(fields) => self.prune_fields(path, fields, schema),
            Value::Array(items) => {
                if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                    self.prune_items(path, items, schema);
                }
                true
            }
            _ => true,
        }
    }

    fn prune_items(&mut self, path: &str, items: &mut Vec<Value>, schema: &JSONSchemaProps) {
        let mut kept = Vec::with_capacity(items.len());
        let mut position = 0;
        items.retain_mut(|item| {
            let keep = self.prune(&format!("{path}[{position}]"), item, schema);
            if keep {
                kept.push(position);
            }
            position += 1;
            keep
        });
        if kept.len() < position {
            self.lists.insert(path.to_owned(), kept);
        }
    }

    /// An object without a part that is required has to go: nothing stands for what it would have said.
    fn prune_fields(
        &mut self,
        path: &str,
        fields: &mut serde_json::Map<String, Value>,
        schema: &JSONSchemaProps,
    ) -> bool {
        // the API server takes null for absent
        fields.retain(|_, value| !value.is_null());
        fields.retain(|name, value| {
            let path = format!("{path}.{name}");
            if let Some(schema) = schema.properties.as_ref().and_then(|properties| properties.get(name)) {
                return self.prune(&path, value, schema);
            }
            if let Some(JSONSchemaPropsOrBool::Schema(schema)) = &schema.additional_properties {
                return self.prune(&path, value, schema);
            }
            let known: Vec<_> = schema.properties.iter().flatten().map(|(name, _)| name.as_str()).collect();
            self.violations.push(not_a_field(&path, &known));
            false
        });
        let mut complete = true;
        for name in schema.required.iter().flatten().filter(|name| !fields.contains_key(*name)) {
            let path = format!("{path}.{name}");
            complete = false;
            // one that was given and refused is named already
            if self.violations.iter().all(|said| said.field != path) {
                self.violations.push(Violation::new(path, "is required"));
            }
        }
        complete
    }
}

/// A text with the positions after a path replaced by those that the elements had.
fn renumbered(text: &str, path: &str, kept: &[usize]) -> String {
    let opening = format!("{path}[");
    let mut parts = text.split(opening.as_str());
    let mut anew = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(']').unwrap_or((part, ""));
        let position = number.parse().ok().and_then(|n: usize| kept.get(n));
        let number = position.map_or_else(|| number.to_owned(), ToString::to_string);
        anew = format!("{anew}{opening}{number}]{rest}");
    }
    anew
}

/// What a value should be and is not.
fn mistyped(value: &Value, schema: &JSONSchemaProps) -> Option<&'static str> {
    let (fits, expected) = match schema.type_.as_deref()? {
        "object" => (value.is_object(), "an object"),
        "array" => (value.is_array(), "a list"),
        "string" => (value.is_string(), "a text"),
        "integer" => (value.is_i64(), "an integer"),
        "number" => (value.is_number(), "a number"),
        "boolean" => (value.is_boolean(), "true or false"),
        _ => return None,
    };
    (!fits).then_some(expected)
}

/// How a value is beyond what its schema allows.
fn beyond(value: &Value, schema: &JSONSchemaProps) -> Option<String> {
    let counted = |count: usize, what: &str, least: Option<i64>, most: Option<i64>| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if most.is_some_and(|most| count > most) {
            Some(format!("has {count} {what}: expected at most {}", most.unwrap_or_default()))
        } else if least.is_some_and(|least| count < least) {
            Some(format!("has {count} {what}: expected at least {}", least.unwrap_or_default()))
        } else {
            None
        }
    };
    match value {
        Value::String(text) => {
            counted(text.chars().count(), "characters", schema.min_length, schema.max_length)
        }
        Value::Object(fields) => {
            counted(fields.len(), "entries", schema.min_properties, schema.max_properties)
        }
        Value::Array(items) => {
            let is_set = schema.x_kubernetes_list_type.as_deref() == Some("set");
            let twice =
                items.iter().enumerate().find(|(i, item)| items.iter().skip(i + 1).any(|o| o == *item));
            match twice.filter(|_| is_set) {
                Some((_, item)) => Some(format!("has {item} twice: expected each at most once")),
                None => counted(items.len(), "elements", schema.min_items, schema.max_items),
            }
        }
        Value::Number(number) => {
            let number = number.as_f64()?;
            let most = schema.maximum.filter(|most| number > *most).map(|most| format!("at most {most}"));
            let least = schema.minimum.filter(|least| number < *least).map(|l| format!("at least {l}"));
            Some(format!("{number} is out of range: expected {}", most.or(least)?))
        }
        _ => None,
    }
}

fn unexpected(value: &Value, expected: &str) -> String {
    format!("{value} is not allowed: expected {expected}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(spec: &Value) -> Vec<String> {
        lint_spec(spec).violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn all_layers_are_looked_at_together() {
        let mut found = fields(&json!({
            "mode": "Sometimes",
            "wieght": 1,
            "weight": "heavy",
            "selector": {"workloadKinds": [7, "deployment"], "namespaceSelector": {"matchLabels": {"a": 1}}},
            "metricsConfig": {"percentile": "P0", "safetyFactor": null},
            "resourceBounds": {"cpu": {"min": "2", "max": 1}, "memory": {"min": true}},
            "updateStrategy": {
                "windows": [{"from": "01:00"}, {"from": "9", "to": "12:00"}],
                "limits": {"memory": {}},
                "resources": ["cpu", "cpu"],
            },
            "ownerSync": [{"kind": "Cluster"}],
        }));
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "spec.metricsConfig.percentile",
                "spec.mode",
                "spec.ownerSync",
                "spec.resourceBounds.cpu",
                "spec.resourceBounds.memory.min",
                "spec.selector.namespaceSelector.matchLabels.a",
                "spec.selector.workloadKinds[0]",
                "spec.selector.workloadKinds[1]",
                "spec.updateStrategy.limits.memory.type",
                "spec.updateStrategy.resources",
                "spec.updateStrategy.windows[0].to",
                "spec.updateStrategy.windows[1].from",
                "spec.weight",
                "spec.wieght",
            ]
        );
        let findings = lint_spec(&json!({"mode": "Sometimes", "metricsConfig": {"provider": "prometheus"}}));
        assert!(findings.violations[0].message.contains("expected Auto, Recommend, Disabled"));
        assert_eq!(findings.warnings.iter().map(|w| w.condition).collect::<Vec<_>>(), ["AgentStandsIn"]);
    }

    #[test]
    fn a_specification_that_cannot_be_read_says_everything() {
        let spec = json!({"mode": "Sometimes", "weight": "heavy", "metricsConfig": {"percentile": "P0"}});
        let error = serde_json::from_value::<OptimizationPolicySpec>(spec).unwrap_err().to_string();
        for field in ["spec.mode", "spec.weight", "spec.metricsConfig.percentile"] {
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn positions_are_those_of_the_file() {
        let windows =
            json!([{"from": "01:00"}, {"from": "02:00", "to": "04:00"}, 7, {"from": "03:00", "to": "05:00"}]);
        let findings = lint_spec(&json!({"updateStrategy": {"windows": windows}}));
        let overlap = findings.violations.iter().find(|v| v.message.contains("overlaps")).unwrap();
        assert_eq!(overlap.field, "spec.updateStrategy.windows[3]");
        assert!(overlap.message.contains("spec.updateStrategy.windows[1]"), "{overlap}");
        let nested = json!([{"key": 1}, {"key": "a", "operator": "In", "values": [1, "b", "c d"]}]);
        assert_eq!(
            fields(&json!({"selector": {"podSelector": {"matchExpressions": nested}}})).last().unwrap(),
            "spec.selector.podSelector.matchExpressions[1].values[2]"
        );
    }

    #[test]
    fn limits_of_the_schema_are_said_once() {
        let many: Vec<String> = (0..65).map(|n| format!("c{n}")).collect();
        assert_eq!(
            fields(&json!({"selector": {"excludeContainers": many}})),
            ["spec.selector.excludeContainers"]
        );
        let found = lint_spec(&json!({"weight": -1, "metricsConfig": {"percentile": "P99.99999"}}));
        assert_eq!(found.violations.len(), 2, "{found:?}");
        assert!(found.violations.iter().all(|v| !v.message.contains("characters")), "{found:?}");
    }

    #[test]
    fn what_is_around_the_specification_is_looked_at() {
        let policy = |changed: &str, to: Value| {
            let mut policy = json!({"apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy",
                "metadata": {"name": "gold.v1"}, "spec": {}, "status": {}});
            policy[changed] = to;
            policy
        };
        assert_eq!(lint(&policy("status", json!({}))).violations, []);
        for (object, field) in [
            (policy("spec", Value::Null), "spec"),
            (policy("sepc", json!({"mode": "Auto"})), "sepc"),
            (policy("spec", json!([])), "spec"),
            (policy("apiVersion", json!("optipod.io/v2")), "apiVersion"),
            (policy("kind", json!("OptimisationPolicy")), "kind"),
            (policy("metadata", json!({})), "metadata.name"),
            (policy("metadata", json!("gold")), "metadata.name"),
            (policy("metadata", json!({"name": 7})), "metadata.name"),
            (policy("metadata", json!({"name": "Gold"})), "metadata.name"),
            (policy("metadata", json!({"name": "a..b"})), "metadata.name"),
            (policy("metadata", json!({"name": "a".repeat(254)})), "metadata.name"),
            (policy("metadata", json!({"name": "gold", "namespace": "a.b"})), "metadata.namespace"),
        ] {
            let found: Vec<_> = lint(&object).violations.into_iter().map(|v| v.field).collect();
            assert_eq!(found, [field], "{object}");
        }
        assert_eq!(lint(&policy("metadata", json!({"generateName": "gold-"}))).violations, []);
        let all: Vec<_> = lint(&json!({})).violations.into_iter().map(|v| v.field).collect();
        assert_eq!(all, ["apiVersion", "kind", "metadata.name", "spec"]);
    }

    #[test]
    fn a_slip_of_the_pen_is_a_policy_and_other_kinds_are_not() {
        for (version, kind, meant) in [
            ("optipod.io/v1alpha1", "OptimizationPolicy", true),
            ("optipod.io/v1alpha1", "OptimisationPolicy", true),
            ("optipod.io/v1alpha1", "optimizationpolicies", true),
            ("optipod.io/v1alpha1", "Policy", true),
            ("optipod/v1alpha1", "OptimizationPolicy", true),
            ("optipod.io", "OptimizationPolicy", true),
            ("v1", "OptimizationPolicy", true),
            ("optipod.io/v1alpha1", "Recommendation", false),
            ("policy/v1", "PodDisruptionBudget", false),
            ("networking.k8s.io/v1", "NetworkPolicy", false),
            ("v1", "ConfigMap", false),
        ] {
            assert_eq!(is_meant(&json!({"apiVersion": version, "kind": kind})), meant, "{version} {kind}");
        }
        assert!(is_meant(&json!({"kind": "OptimizationPolicy"})));
        assert!(!is_meant(&json!("text")) && !is_meant(&json!({"apiVersion": 1, "kind": []})));
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_here() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/scenarios/golden/refused-policies.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let cases: BTreeMap<String, Value> = serde_yaml_ng::from_str(&text).unwrap();
        let passed: Vec<&String> =
            cases.iter().filter(|(_, spec)| fields(spec).is_empty()).map(|(name, _)| name).collect();
        assert!(cases.len() > 100 && passed.is_empty(), "{passed:?}");
    }
}
