//! `import drm`: the environment variables of the Kubernetes Dynamic Resource Manager become a policy.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use optipod_coordinator::api::lint::lint;
use serde_json::{Map, Value, json};

use crate::files;
use crate::labels;
use crate::output::{Imported, shown};

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

/// Variables as a file has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    variables: BTreeMap<String, String>,
    /// What the file refers to and does not have.
    missing: Vec<String>,
}

/// Variables from `KEY=VALUE` lines, from a `ConfigMap`, or from the containers of a workload, in YAML or JSON. As in
/// Kubernetes, what a container states itself goes before what it takes from a `ConfigMap` as a whole.
pub fn variables(text: &str) -> Result<Found> {
    let is_object = text.trim_start().starts_with('{')
        || text.lines().any(|line| line.starts_with("kind:") || line.starts_with("apiVersion:"));
    if !is_object {
        return Ok(Found { variables: lines(text)?, missing: Vec::new() });
    }
    let objects: Vec<Value> = files::parse(text, "")?.into_iter().map(|located| located.object).collect();
    let mut maps: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut found = Found::default();
    for object in objects.iter().filter(|object| text_at(object, "/kind") == "ConfigMap") {
        let data = object.get("data").and_then(Value::as_object).into_iter().flatten();
        let data: BTreeMap<_, _> =
            data.filter_map(|(key, value)| Some((key.clone(), scalar(value)?))).collect();
        found.variables.extend(data.clone());
        maps.entry(text_at(object, "/metadata/name")).or_default().extend(data);
    }
    let containers: Vec<&Value> = objects.iter().flat_map(containers).collect();
    if maps.is_empty() && containers.is_empty() {
        let kinds: Vec<_> = objects.iter().map(|object| text_at(object, "/kind")).collect();
        bail!(
            "holds no variables ({}): expected KEY=VALUE lines, a ConfigMap, or a workload such as a Deployment with the containers that are given them",
            kinds.join(", ")
        );
    }
    for container in containers {
        found.of_container(container, &maps)?;
    }
    Ok(found)
}

/// The containers of a pod, or of what makes pods.
fn containers(object: &Value) -> &[Value] {
    let pods = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    let of = |pod| list_at(object, &format!("{pod}/containers"));
    pods.into_iter().map(of).find(|list| !list.is_empty()).unwrap_or_default()
}

impl Found {
    fn of_container(
        &mut self,
        container: &Value,
        maps: &BTreeMap<&str, BTreeMap<String, String>>,
    ) -> Result<()> {
        for source in list_at(container, "/envFrom") {
            let prefix = text_at(source, "/prefix");
            let map = text_at(source, "/configMapRef/name");
            if let Some(data) = maps.get(map) {
                let prefixed = data.iter().map(|(key, value)| (format!("{prefix}{key}"), value.clone()));
                self.variables.extend(prefixed);
            } else if map.is_empty() {
                self.missing.push(format!("Secret {}", text_at(source, "/secretRef/name")));
            } else {
                self.missing.push(format!("ConfigMap {map}"));
            }
        }
        for env in list_at(container, "/env") {
            let name = text_at(env, "/name");
            if !is_known(name) {
                continue;
            }
            let stated = env.get("value").and_then(scalar);
            let (map, key) = (
                text_at(env, "/valueFrom/configMapKeyRef/name"),
                text_at(env, "/valueFrom/configMapKeyRef/key"),
            );
            let referred = || maps.get(map).and_then(|data| data.get(key)).cloned();
            match stated.or_else(referred) {
                Some(value) => self.variables.insert(name.to_owned(), value),
                None if env.get("valueFrom").is_some() => bail!("{name}: its valueFrom is not in the file"),
                None => None,
            };
        }
        Ok(())
    }
}

fn is_known(variable: &str) -> bool {
    VARIABLES.iter().any(|(known, _)| *known == variable)
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
            bail!("line {}: {} is not KEY=VALUE", number + 1, shown(line));
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
pub fn import(found: &Found, namespace: &str, name: &str) -> Result<Imported> {
    let Found { variables, missing } = found;
    let mut remarks = vec![
        "stop the resource manager before this policy is applied: two that size the same pods undo each other".to_owned(),
    ];
    if namespace != OWN_NAMESPACE {
        remarks.push(format!(
            "the resource manager reaches into all namespaces, and so does the policy: outside OptiPod's own namespace (and those of --cluster-policy-namespaces) it is refused with ScopeRefused; if {namespace} is neither, take the namespaceSelector out"
        ));
    }
    remarks.extend(DIFFERENCES.map(str::to_owned));
    if !variables.keys().any(|variable| is_known(variable)) {
        remarks.push(
            "no variable of the resource manager was found: every number is its default, and all pods are selected"
                .to_owned(),
        );
    }
    for source in missing {
        remarks.push(format!(
            "{source} is given to a container and is not in the file: variables that it holds are not read"
        ));
    }
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
                // what is not finite is no number in JSON
                let number: Option<f64> = value.parse().ok().filter(|number: &f64| number.is_finite());
                let number = number.with_context(|| format!("{variable}: {value:?} is not a number"))?;
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
    let violations = lint(&policy).violations.into_iter();
    let wrong: Vec<_> = violations.filter_map(|v| Some(format!("{}: {v}", variable_of(&v.field)?))).collect();
    if wrong.is_empty() { Ok(Imported { policy, remarks }) } else { bail!(wrong.join("; ")) }
}

/// The variable that a field of the policy is made of.
fn variable_of(field: &str) -> Option<&'static str> {
    let is = |counterpart: &Counterpart| match counterpart {
        Counterpart::Threshold(name) | Counterpart::ThresholdMebibytes(name) => {
            field.strip_prefix("spec.strategy.threshold.") == Some(name)
        }
        Counterpart::Cooldown => field.ends_with(".cooldown"),
        Counterpart::Interval => field == "spec.reconciliationInterval",
        Counterpart::Pods => field.starts_with("spec.selector.podSelector"),
        Counterpart::None(_) => false,
    };
    VARIABLES.iter().find(|(_, counterpart)| is(counterpart)).map(|(variable, _)| *variable)
}

#[cfg(test)]
mod tests {
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

    fn read(text: &str) -> BTreeMap<String, String> {
        variables(text).unwrap().variables
    }

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
        assert_eq!(read(ALL).len(), VARIABLES.len(), "the text has every variable");
    }

    #[test]
    fn without_variables_the_defaults_are_the_same() {
        let Imported { policy, remarks } = policy("");
        assert!(remarks.iter().any(|r| r.starts_with("no variable of the resource manager")), "{remarks:?}");
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
        assert_eq!(read(text), expected);
        let json = r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {"LOG_LEVEL": "INFO"}}"#;
        assert_eq!(read(json), BTreeMap::from([("LOG_LEVEL".to_owned(), "INFO".to_owned())]));
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
            let found = read(&text);
            let of = |name: &str| found.get(name).map(String::as_str);
            assert_eq!(of("COOLDOWN_PERIOD_SECONDS"), Some("60"), "{text}");
            assert_eq!((of("SCALE_UP_THRESHOLD"), of("LOG_LEVEL")), (Some("0.9"), Some("INFO")));
        }
        assert!(variables(workload).unwrap_err().to_string().starts_with("LOG_LEVEL"));
    }

    #[test]
    fn pods_and_what_makes_them_are_read_and_what_holds_nothing_is_refused() {
        let containers = "{containers: [{name: c, env: [{name: LOG_LEVEL, value: INFO}]}]}";
        for spec in [
            containers.to_owned(),
            format!("{{template: {{spec: {containers}}}}}"),
            format!("{{jobTemplate: {{spec: {{template: {{spec: {containers}}}}}}}}}"),
        ] {
            let text = format!("apiVersion: v1\nkind: Any\nspec: {spec}");
            assert_eq!(read(&text).get("LOG_LEVEL").map(String::as_str), Some("INFO"), "{text}");
        }
        for kind in ["Service", "Secret"] {
            let text = format!("apiVersion: v1\nkind: {kind}\ndata: {{LOG_LEVEL: SU5GTw==}}");
            let error = variables(&text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("holds no variables ({kind}): expected")), "{error}");
        }
    }

    #[test]
    fn sources_that_are_not_in_the_file_are_told() {
        let text = "
apiVersion: v1
kind: Pod
spec: {containers: [{name: c, envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: token}}]}]}
";
        let remarks = policy(text).remarks;
        for part in ["ConfigMap settings is given", "Secret token is given", "no variable of the resource"] {
            assert!(remarks.iter().any(|remark| remark.starts_with(part)), "{part}: {remarks:?}");
        }
    }

    #[test]
    fn a_namespace_that_may_not_reach_others_is_told() {
        let told = |namespace| {
            let remarks = import(&Found::default(), namespace, "drm").unwrap().remarks;
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
            ("LABEL_SELECTOR=app=web,app=api", "LABEL_SELECTOR"),
            ("LABEL_SELECTOR=app=-web", "LABEL_SELECTOR: spec.selector.podSelector"),
            ("SCALE_UP_THRESHOLD=nan", "SCALE_UP_THRESHOLD: \"nan\" is not a number"),
            ("SCALE_DOWN_MIN_DIFF=inf", "SCALE_DOWN_MIN_DIFF: \"inf\" is not a number"),
            ("SCALE_UP_THRESHOLD=2", "SCALE_UP_THRESHOLD: spec.strategy.threshold"),
            ("SCALE_DOWN_THRESHOLD=0.9", "SCALE_DOWN_THRESHOLD: spec.strategy.threshold"),
            ("METRICS_FETCH_INTERVAL=0", "METRICS_FETCH_INTERVAL: spec.reconciliationInterval: \"0s\""),
            ("COOLDOWN_PERIOD_SECONDS=99999999", "COOLDOWN_PERIOD_SECONDS: spec."),
            ("MIN_REQUEST_MEMORY=99999999999999999", "MIN_REQUEST_MEMORY: spec."),
        ] {
            let error = format!("{:#}", import(&variables(text).unwrap(), "n", "p").unwrap_err());
            assert!(error.starts_with(part), "{error}");
        }
        assert!(variables("nonsense").is_err());
    }
}
