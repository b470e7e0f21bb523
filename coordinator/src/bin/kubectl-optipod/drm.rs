//! `import drm`: the environment variables of the Kubernetes Dynamic Resource Manager become a policy.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::files;
use crate::labels;
use crate::output::Imported;

/// What happens to a variable.
enum Counterpart {
    /// A number of the threshold strategy.
    Threshold(&'static str),
    /// Seconds before a decrease, which the threshold strategy and the update each have.
    Cooldown,
    /// Mebibytes of the threshold strategy.
    ThresholdMebibytes(&'static str),
    /// Seconds between evaluations.
    Interval,
    /// Pods by label.
    Pods,
    /// None: why.
    None(&'static str),
}

/// Every variable of the resource manager.
const VARIABLES: &[(&str, Counterpart)] = &[
    (
        "METRICS_SERVER_URL",
        Counterpart::None("usage comes from OptiPod's agents, metrics-server is not asked"),
    ),
    ("VERIFY_CERT", Counterpart::None("there is no connection to metrics-server whose certificate matters")),
    ("METRICS_FETCH_INTERVAL", Counterpart::Interval),
    ("KUBE_STATE_METRICS_URL", Counterpart::None("requests and limits are read from the API server")),
    ("LOG_LEVEL", Counterpart::None("set log.level in the values of OptiPod's chart")),
    ("LABEL_SELECTOR", Counterpart::Pods),
    ("SCALE_UP_THRESHOLD", Counterpart::Threshold("scaleUpThreshold")),
    ("SCALE_UP_USAGE_MULTIPLIER", Counterpart::Threshold("scaleUpUsageMultiplier")),
    ("SCALE_UP_MIN_GROWTH", Counterpart::Threshold("scaleUpMinGrowth")),
    ("SCALE_DOWN_THRESHOLD", Counterpart::Threshold("scaleDownThreshold")),
    ("SCALE_DOWN_USAGE_MULTIPLIER", Counterpart::Threshold("scaleDownUsageMultiplier")),
    ("SCALE_DOWN_MIN_DIFF", Counterpart::Threshold("scaleDownMinDiff")),
    ("COOLDOWN_PERIOD_SECONDS", Counterpart::Cooldown),
    ("MIN_REQUEST_MEMORY", Counterpart::ThresholdMebibytes("minRequestMemory")),
];

/// OptiPod's own namespace, unless told otherwise.
const OWN_NAMESPACE: &str = "optipod-system";

/// What the resource manager does not do and OptiPod does whatever the strategy.
const DIFFERENCES: [&str; 4] = [
    "memory is not lowered below its highest use in metricsConfig.rollingWindow, which the resource manager does not look at: metricsConfig.memoryPeakFloor: false lowers it all the same",
    "memory is not lowered while its use rises or is near the new size (updateStrategy.memoryDecrease: Guarded)",
    "use is the P90 of the last minutes and not one reading: metricsConfig.percentile: P100 takes the highest",
    "the request of a Guaranteed pod is its limit, and both move as one number, which holds what a limit has to hold; guaranteed: Hold leaves such pods alone",
];

/// Seconds between two looks of the resource manager, unless told otherwise.
const DEFAULT_INTERVAL: u64 = 30;

/// Variables from `KEY=VALUE` lines, from a `ConfigMap`, or from the containers of a workload, in YAML or JSON. As in
/// Kubernetes, what a container states itself goes before what it takes from a `ConfigMap` as a whole.
pub fn variables(text: &str) -> Result<BTreeMap<String, String>> {
    let is_object = text.trim_start().starts_with('{')
        || text.lines().any(|line| line.starts_with("kind:") || line.starts_with("apiVersion:"));
    if !is_object {
        return lines(text);
    }
    let objects: Vec<Value> = files::parse(text, "")?.into_iter().map(|located| located.object).collect();
    let mut maps: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut variables = BTreeMap::new();
    for object in objects.iter().filter(|object| object.get("data").is_some()) {
        let data = object.get("data").and_then(Value::as_object).into_iter().flatten();
        let data: BTreeMap<_, _> =
            data.filter_map(|(key, value)| Some((key.clone(), scalar(value)?))).collect();
        variables.extend(data.clone());
        maps.entry(text_at(object, "/metadata/name")).or_default().extend(data);
    }
    for container in objects.iter().flat_map(|object| list_at(object, "/spec/template/spec/containers")) {
        for source in list_at(container, "/envFrom") {
            let data = maps.get(text_at(source, "/configMapRef/name")).into_iter().flatten();
            let prefix = text_at(source, "/prefix");
            variables.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
        }
        for env in list_at(container, "/env") {
            let name = text_at(env, "/name");
            if !VARIABLES.iter().any(|(variable, _)| *variable == name) {
                continue;
            }
            let stated = env.get("value").and_then(scalar);
            let (map, key) = (
                text_at(env, "/valueFrom/configMapKeyRef/name"),
                text_at(env, "/valueFrom/configMapKeyRef/key"),
            );
            let referred = || maps.get(map).and_then(|data| data.get(key)).cloned();
            match stated.or_else(referred) {
                Some(value) => variables.insert(name.to_owned(), value),
                None if env.get("valueFrom").is_some() => bail!("{name}: its valueFrom is not in the file"),
                None => None,
            };
        }
    }
    Ok(variables)
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn lines(text: &str) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            bail!("line {}: {line:?} is not KEY=VALUE", number + 1);
        };
        let value = value.trim().trim_matches(['"', '\'']);
        variables.insert(key.trim().to_owned(), value.to_owned());
    }
    Ok(variables)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The policy that says the same.
pub fn import(variables: &BTreeMap<String, String>, namespace: &str, name: &str) -> Result<Imported> {
    let mut remarks = vec![
        "stop the resource manager before this policy is applied: two that size the same pods undo each other".to_owned(),
    ];
    if namespace != OWN_NAMESPACE {
        remarks.push(format!(
            "the resource manager reaches into all namespaces, and so does the policy: outside OptiPod's own namespace (and those of --cluster-policy-namespaces) it is refused with ScopeRefused; if {namespace} is neither, take the namespaceSelector out"
        ));
    }
    remarks.extend(DIFFERENCES.map(str::to_owned));
    let (mut threshold, mut interval) = (Map::new(), DEFAULT_INTERVAL);
    // the resource manager sizes memory only, request and limit together; the thresholds are the smallest change
    let mut update = Map::from_iter(
        [
            ("resources", json!(["memory"])),
            ("updateRequestsOnly", json!(false)),
            ("limits", json!({"memory": {"type": "Ratio"}})),
            ("minChange", json!("0%")),
        ]
        .map(|(field, value)| (field.to_owned(), value)),
    );
    let mut selector = json!({"namespaceSelector": {}});
    for (variable, value) in variables {
        let Some((_, counterpart)) = VARIABLES.iter().find(|(known, _)| known == variable) else {
            remarks.push(format!("{variable} is not a variable of the resource manager: left out"));
            continue;
        };
        let whole = || -> Result<u64> {
            value.parse().with_context(|| format!("{variable}: {value:?} is not a whole number of 0 or more"))
        };
        match counterpart {
            Counterpart::Threshold(field) => {
                let number: f64 =
                    value.parse().with_context(|| format!("{variable}: {value:?} is not a number"))?;
                threshold.insert((*field).to_owned(), json!(number));
            }
            Counterpart::Cooldown => {
                let cooldown = Value::from(format!("{}s", whole()?));
                threshold.insert("cooldown".to_owned(), cooldown.clone());
                update.insert("cooldown".to_owned(), cooldown);
            }
            Counterpart::ThresholdMebibytes(field) => {
                threshold.insert((*field).to_owned(), format!("{}Mi", whole()?).into());
            }
            Counterpart::Interval => interval = whole()?,
            Counterpart::Pods if value.trim().is_empty() => {}
            Counterpart::Pods => {
                let pods = labels::parse(value).with_context(|| format!("{variable}: {value:?}"))?;
                if let Some(selector) = selector.as_object_mut() {
                    selector.insert("podSelector".to_owned(), pods);
                }
            }
            Counterpart::None(why) => remarks.push(format!("{variable} has no counterpart: {why}")),
        }
    }
    let mut strategy = json!({"type": "Threshold"});
    if let Some(strategy) = strategy.as_object_mut().filter(|_| !threshold.is_empty()) {
        strategy.insert("threshold".to_owned(), threshold.into());
    }
    let policy = json!({
        "apiVersion": "optipod.io/v1alpha1",
        "kind": "OptimizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "mode": "Auto",
            "selector": selector,
            // it acts on what it sees, however short a time that is
            "metricsConfig": {"minimumCoverage": 0},
            "strategy": strategy,
            "updateStrategy": update,
            "guaranteed": "MoveTogether",
            "reconciliationInterval": format!("{interval}s"),
        },
    });
    Ok(Imported { policy, remarks })
}

#[cfg(test)]
mod tests {
    use optipod_coordinator::api::lint::lint;

    use super::*;

    const ALL: &str = "
# as in its README
METRICS_SERVER_URL=https://metrics-server.kube-system.svc.cluster.local
VERIFY_CERT=true
METRICS_FETCH_INTERVAL=45
KUBE_STATE_METRICS_URL=http://ksm:8080
LOG_LEVEL=INFO
export LABEL_SELECTOR=\"app=web,tier in (a,b)\"
SCALE_UP_THRESHOLD=0.75
SCALE_UP_USAGE_MULTIPLIER=1.5
SCALE_UP_MIN_GROWTH=1.25
SCALE_DOWN_THRESHOLD=0.25
SCALE_DOWN_USAGE_MULTIPLIER=2
SCALE_DOWN_MIN_DIFF=0.1
COOLDOWN_PERIOD_SECONDS=300
MIN_REQUEST_MEMORY=64
";

    fn policy(text: &str) -> Imported {
        import(&variables(text).unwrap(), "optipod-system", "drm").unwrap()
    }

    #[test]
    fn every_variable_is_carried_over_or_named() {
        let Imported { policy, remarks } = policy(ALL);
        assert_eq!(
            policy["spec"]["strategy"]["threshold"],
            json!({"scaleUpThreshold": 0.75, "scaleUpUsageMultiplier": 1.5, "scaleUpMinGrowth": 1.25,
                   "scaleDownThreshold": 0.25, "scaleDownUsageMultiplier": 2.0, "scaleDownMinDiff": 0.1,
                   "cooldown": "300s", "minRequestMemory": "64Mi"})
        );
        assert_eq!(policy["spec"]["reconciliationInterval"], "45s");
        assert_eq!(policy["spec"]["selector"]["podSelector"]["matchLabels"], json!({"app": "web"}));
        assert_eq!(lint(&policy).violations, []);
        let named =
            |variable: &str| remarks.iter().any(|r| r.contains(&format!("{variable} has no counterpart")));
        for variable in ["METRICS_SERVER_URL", "VERIFY_CERT", "KUBE_STATE_METRICS_URL", "LOG_LEVEL"] {
            assert!(named(variable), "{variable}: {remarks:?}");
        }
        assert_eq!(remarks.len(), 5 + DIFFERENCES.len());
        assert_eq!(
            policy["spec"]["updateStrategy"],
            json!({"resources": ["memory"], "updateRequestsOnly": false, "limits": {"memory": {"type": "Ratio"}},
                   "minChange": "0%", "cooldown": "300s"})
        );
        assert_eq!(policy["spec"]["metricsConfig"], json!({"minimumCoverage": 0}));
        assert_eq!(policy["spec"]["guaranteed"], "MoveTogether");
        assert!(remarks.iter().any(|r| r.contains("Guaranteed pod")), "{remarks:?}");
        assert_eq!(variables(ALL).unwrap().len(), VARIABLES.len(), "the text has every variable");
    }

    #[test]
    fn without_variables_the_defaults_are_the_same() {
        let Imported { policy, .. } = policy("");
        assert_eq!(policy["spec"]["strategy"], json!({"type": "Threshold"}));
        assert_eq!(policy["spec"]["reconciliationInterval"], "30s");
        assert_eq!(policy["spec"]["selector"], json!({"namespaceSelector": {}}));
        assert_eq!(lint(&policy).violations, []);
    }

    #[test]
    fn variables_come_from_manifests_too() {
        let text = "
apiVersion: v1
kind: ConfigMap
data: {SCALE_UP_THRESHOLD: '0.9'}
---
apiVersion: apps/v1
kind: Deployment
spec: {template: {spec: {containers: [{name: c, env: [{name: COOLDOWN_PERIOD_SECONDS, value: '60'}, {name: HOME, value: /}]}]}}}
";
        let expected = [("COOLDOWN_PERIOD_SECONDS", "60"), ("SCALE_UP_THRESHOLD", "0.9")];
        let expected: BTreeMap<_, _> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(variables(text).unwrap(), expected);
        let json = r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {"LOG_LEVEL": "INFO"}}"#;
        assert_eq!(variables(json).unwrap(), BTreeMap::from([("LOG_LEVEL".to_owned(), "INFO".to_owned())]));
    }

    #[test]
    fn what_a_container_states_itself_counts_wherever_the_config_map_stands() {
        let workload = "
apiVersion: apps/v1
kind: Deployment
spec: {template: {spec: {containers: [{name: c, envFrom: [{configMapRef: {name: settings}}], env: [
  {name: COOLDOWN_PERIOD_SECONDS, value: '60'}, {name: LOG_LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}]}]}}}
";
        let map = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COOLDOWN_PERIOD_SECONDS: '900', SCALE_UP_THRESHOLD: '0.9', level: INFO}
";
        for text in [format!("{workload}---{map}"), format!("{map}---{workload}")] {
            let found = variables(&text).unwrap();
            let of = |name: &str| found.get(name).map(String::as_str);
            assert_eq!(of("COOLDOWN_PERIOD_SECONDS"), Some("60"), "{text}");
            assert_eq!((of("SCALE_UP_THRESHOLD"), of("LOG_LEVEL")), (Some("0.9"), Some("INFO")));
        }
        assert!(variables(workload).unwrap_err().to_string().starts_with("LOG_LEVEL"));
    }

    #[test]
    fn a_namespace_that_may_not_reach_others_is_told() {
        let told = |namespace| {
            let remarks = import(&BTreeMap::new(), namespace, "drm").unwrap().remarks;
            remarks.iter().any(|remark| remark.contains("ScopeRefused"))
        };
        assert!(told("shop") && !told(OWN_NAMESPACE));
    }

    #[test]
    fn what_is_no_value_is_named() {
        for (text, part) in [
            ("SCALE_UP_THRESHOLD=high", "SCALE_UP_THRESHOLD"),
            ("COOLDOWN_PERIOD_SECONDS=-5", "COOLDOWN_PERIOD_SECONDS"),
            ("LABEL_SELECTOR=a b", "LABEL_SELECTOR"),
        ] {
            let error = format!("{:#}", import(&variables(text).unwrap(), "n", "p").unwrap_err());
            assert!(error.starts_with(part), "{error}");
        }
        assert!(variables("nonsense").is_err());
    }
}
