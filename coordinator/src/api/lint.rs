//! Everything that is wrong with a policy as it is written in a file, at once.
//!
//! The API server stops at the first layer that refuses: while a type is wrong, no rule is looked at. Here the parts that
//! the schema refuses are named and taken out, then the rest is checked as if they had not been given.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;
use optipod_common::policy::Violation;
use serde_json::Value;

use super::OptimizationPolicy;
use super::convert::{Warning, to_policy, warnings};
use super::v1alpha1::OptimizationPolicySpec;

/// What is said about a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What makes it invalid.
    pub violations: Vec<Violation>,
    /// What it does not do, or does otherwise than one may think.
    pub warnings: Vec<Warning>,
}

/// Looks at an object of kind `OptimizationPolicy`.
pub fn lint(object: &Value) -> Findings {
    let mut findings = Findings::default();
    let mut spec = object.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let crd = OptimizationPolicy::crd();
    let schema = crd.spec.versions.first().and_then(|version| {
        version.schema.as_ref()?.open_api_v3_schema.as_ref()?.properties.as_ref()?.get("spec")
    });
    if let Some(schema) = schema {
        prune("spec", &mut spec, schema, &mut findings.violations);
    }
    match serde_json::from_value::<OptimizationPolicySpec>(spec) {
        Ok(spec) => {
            findings.violations.extend(to_policy(&spec).err().unwrap_or_default());
            findings.warnings = warnings(&spec);
        }
        // a required part is missing, which is said already
        Err(_) if !findings.violations.is_empty() => {}
        Err(error) => findings.violations.push(Violation::new("spec", error)),
    }
    findings
}

/// Removes what a structural schema refuses, and names it. Returns false when the value itself has to go.
fn prune(path: &str, value: &mut Value, schema: &JSONSchemaProps, violations: &mut Vec<Violation>) -> bool {
    if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
        return true;
    }
    let mut refuse = |message: String| {
        violations.push(Violation::new(path, message));
        false
    };
    if schema.x_kubernetes_int_or_string == Some(true) {
        return value.is_string()
            || value.is_i64()
            || value.is_u64()
            || refuse(unexpected(value, "a text or an integer"));
    }
    match schema.type_.as_deref() {
        Some("object") => match value {
            Value::Object(_) => {}
            _ => return refuse(unexpected(value, "an object")),
        },
        Some("array") if !value.is_array() => return refuse(unexpected(value, "a list")),
        Some("string") if !value.is_string() => return refuse(unexpected(value, "a text")),
        Some("integer") if !value.is_i64() => return refuse(unexpected(value, "an integer")),
        Some("number") if !value.is_number() => return refuse(unexpected(value, "a number")),
        Some("boolean") if !value.is_boolean() => return refuse(unexpected(value, "true or false")),
        _ => {}
    }
    if let Some(allowed) = schema.enum_.as_ref().filter(|allowed| !allowed.iter().any(|a| a.0 == *value)) {
        let allowed: Vec<_> = allowed.iter().filter_map(|a| a.0.as_str()).collect();
        return refuse(unexpected(value, &allowed.join(", ")));
    }
    match value {
        Value::Object(fields) => prune_fields(path, fields, schema, violations),
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                let mut position = 0;
                items.retain_mut(|item| {
                    let keep = prune(&format!("{path}[{position}]"), item, schema, violations);
                    position += 1;
                    keep
                });
            }
        }
        _ => {}
    }
    true
}

fn prune_fields(
    path: &str,
    fields: &mut serde_json::Map<String, Value>,
    schema: &JSONSchemaProps,
    violations: &mut Vec<Violation>,
) {
    // the API server takes null for absent
    fields.retain(|_, value| !value.is_null());
    for name in schema.required.iter().flatten().filter(|name| !fields.contains_key(*name)) {
        violations.push(Violation::new(format!("{path}.{name}"), "is required"));
    }
    fields.retain(|name, value| {
        let path = format!("{path}.{name}");
        if let Some(schema) = schema.properties.as_ref().and_then(|properties| properties.get(name)) {
            return prune(&path, value, schema, violations);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(schema)) = &schema.additional_properties {
            return prune(&path, value, schema, violations);
        }
        let known: Vec<_> = schema.properties.iter().flatten().map(|(name, _)| name.as_str()).collect();
        violations
            .push(Violation::new(path, format!("is not a field: expected one of {}", known.join(", "))));
        false
    });
}

fn unexpected(value: &Value, expected: &str) -> String {
    format!("{value} is not allowed: expected {expected}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_layers_are_looked_at_together() {
        let findings = lint(&json!({"spec": {
            "mode": "Sometimes",
            "wieght": 1,
            "weight": "heavy",
            "selector": {"workloadKinds": [7, "deployment"], "namespaceSelector": {"matchLabels": {"a": 1}}},
            "metricsConfig": {"percentile": "P0", "safetyFactor": null},
            "resourceBounds": {"cpu": {"min": "2", "max": 1}, "memory": {"min": true}},
            "updateStrategy": {"windows": [{"from": "01:00"}]},
            "ownerSync": [{"kind": "Cluster"}],
        }}));
        let mut fields: Vec<_> = findings.violations.iter().map(|v| v.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "spec.mode",
                "spec.resourceBounds.memory.min",
                "spec.selector.namespaceSelector.matchLabels.a",
                "spec.selector.workloadKinds[0]",
                "spec.updateStrategy.windows[0].to",
                "spec.weight",
                "spec.wieght",
            ]
        );
        let findings = lint(&json!({"spec": {
            "mode": "Sometimes",
            "metricsConfig": {"percentile": "P0", "provider": "prometheus"},
            "resourceBounds": {"cpu": {"min": "2", "max": 1}},
            "ownerSync": [{"kind": "Cluster"}],
        }}));
        let fields: Vec<_> = findings.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.mode", "spec.ownerSync", "spec.metricsConfig.percentile", "spec.resourceBounds.cpu"]
        );
        assert!(findings.violations[0].message.contains("expected Auto, Recommend, Disabled"));
        assert_eq!(findings.warnings.iter().map(|w| w.condition).collect::<Vec<_>>(), ["AgentStandsIn"]);
        assert_eq!(lint(&json!({})), Findings::default());
    }
}
