//! `import vpa`: `VerticalPodAutoscaler` objects become policies.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::files::{Located, is};
use crate::output::Imported;

/// Label by which the policy finds the workload: a policy selects by label, an autoscaler by name.
const LABEL: &str = "optipod.io/vpa";

/// Policies for every autoscaler among some objects.
pub fn import(objects: &[Located]) -> Result<Vec<Imported>> {
    let autoscalers = objects.iter().filter(|l| is(&l.object, "autoscaling.k8s.io", "VerticalPodAutoscaler"));
    autoscalers.map(|Located { place, object }| one(object).with_context(|| place.clone())).collect()
}

fn one(object: &Value) -> Result<Imported> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").context("metadata.name is missing")?;
    let kind = text("/spec/targetRef/kind").context("spec.targetRef.kind is missing")?;
    let target = text("/spec/targetRef/name").context("spec.targetRef.name is missing")?;
    let mut import = Import { name: name.to_owned(), spec: Map::new(), remarks: Vec::new() };

    let namespace = text("/metadata/namespace").unwrap_or("default");
    import.remark(format!(
        "a policy selects by label: run `kubectl label --namespace {namespace} {}/{target} {LABEL}={name}`",
        kind.to_lowercase()
    ));
    import.remark("delete the autoscaler, or set its updateMode to Off, before this policy has mode Auto: OptiPod stands back from workloads that another one sizes".to_owned());
    import.mode(text("/spec/updatePolicy/updateMode"));
    // what its recommender does unless told otherwise
    import.spec.insert(
        "metricsConfig".to_owned(),
        json!({"rollingWindow": "192h", "percentile": "P90", "safetyFactor": 1.15}),
    );
    let mut selector = json!({"workloadKinds": [kind], "workloadSelector": {"matchLabels": {LABEL: name}}});
    let policies = object.pointer("/spec/resourcePolicy/containerPolicies").and_then(Value::as_array);
    let policies = policies.cloned().unwrap_or_default();
    let excluded = import.containers(&policies);
    if let Some(selector) = selector.as_object_mut().filter(|_| !excluded.is_empty()) {
        selector.insert("excludeContainers".to_owned(), excluded.into());
    }
    import.spec.insert("selector".to_owned(), selector);
    let of_all = policies.iter().find(|p| p["containerName"] == "*");
    import.boost(of_all.and_then(|p| p.get("startupBoost")).or_else(|| object.pointer("/spec/startupBoost")));
    import.without_counterpart(object);
    Ok(Imported {
        policy: json!({
            "apiVersion": "optipod.io/v1alpha1",
            "kind": "OptimizationPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": import.spec,
        }),
        remarks: import.remarks,
    })
}

struct Import {
    name: String,
    spec: Map<String, Value>,
    remarks: Vec<String>,
}

impl Import {
    fn remark(&mut self, remark: String) {
        self.remarks.push(remark);
    }

    fn update(&mut self, field: &str, value: Value) {
        let update = self.spec.entry("updateStrategy").or_insert_with(|| Value::Object(Map::new()));
        if let Some(update) = update.as_object_mut() {
            update.insert(field.to_owned(), value);
        }
    }

    fn mode(&mut self, mode: Option<&str>) {
        let (ours, recreate) = match mode {
            Some("Off") => ("Recommend", false),
            Some("Initial") => {
                self.remark("updateMode Initial: sizing new pods needs the admission webhook, which this version does not have; the policy only recommends".to_owned());
                ("Recommend", false)
            }
            Some("InPlace") => ("Auto", false),
            Some("InPlaceOrRecreate" | "Recreate" | "Auto") | None => ("Auto", true),
            Some(other) => {
                self.remark(format!("updateMode {other} is not known: the policy only recommends"));
                ("Recommend", false)
            }
        };
        self.spec.insert("mode".to_owned(), ours.into());
        if recreate {
            self.update("allowRecreate", true.into());
        }
    }

    /// Bounds, resources and limits. Returns the containers that are left alone.
    fn containers(&mut self, policies: &[Value]) -> Vec<Value> {
        let name =
            |policy: &Value| policy.get("containerName").and_then(Value::as_str).unwrap_or("*").to_owned();
        let off = |policy: &Value| policy.get("mode").and_then(Value::as_str) == Some("Off");
        if policies.iter().any(|p| name(p) == "*" && off(p)) {
            self.remark("containerPolicies: mode Off for * with other containers on has no counterpart: the policy only recommends; list the containers to leave alone in selector.excludeContainers".to_owned());
            self.spec.insert("mode".to_owned(), "Recommend".into());
        }
        let excluded: Vec<Value> =
            policies.iter().filter(|p| off(p) && name(p) != "*").map(|p| name(p).into()).collect();
        let on: Vec<&Value> = policies.iter().filter(|p| !off(p)).collect();
        let bounds = self.bounds(&on);
        if !bounds.is_empty() {
            self.spec.insert("resourceBounds".to_owned(), bounds.into());
        }
        for (field, meaning) in [("controlledResources", "resources"), ("controlledValues", "values")] {
            let different = on.iter().any(|p| p.get(field) != on.first().and_then(|first| first.get(field)));
            if different {
                self.remark(format!("containerPolicies: {field} differs between containers: a policy has one answer for all, that of the first is taken for {meaning}"));
            }
        }
        let first = on.first();
        if let Some(resources) = first.and_then(|p| p.get("controlledResources")) {
            self.update("resources", resources.clone());
        }
        if first.and_then(|p| p.get("controlledValues")).and_then(Value::as_str) != Some("RequestsOnly") {
            self.update("updateRequestsOnly", false.into());
            self.update("limits", json!({"cpu": {"type": "Ratio"}, "memory": {"type": "Ratio"}}));
        }
        for policy in on {
            for field in [
                "oomBumpUpRatio",
                "oomMinBumpUp",
                "memoryAggregationIntervalSeconds",
                "memoryAggregationIntervalCount",
            ] {
                if policy.get(field).is_some() {
                    self.remark(format!("containerPolicies: {field} has no counterpart: evidence of OOM kills raises memory in OptiPod's own way"));
                }
            }
        }
        excluded
    }

    /// `minAllowed` and `maxAllowed`. Those of the only policy are taken; of several, the widest.
    fn bounds(&mut self, policies: &[&Value]) -> Map<String, Value> {
        let mut bounds = Map::new();
        for resource in ["cpu", "memory"] {
            let mut range = Map::new();
            for (theirs, ours) in [("minAllowed", "min"), ("maxAllowed", "max")] {
                let given: Vec<Option<&Value>> =
                    policies.iter().map(|p| p.get(theirs).and_then(|list| list.get(resource))).collect();
                let Some(Some(first)) = given.first() else {
                    if given.iter().any(Option::is_some) {
                        self.remark(format!("containerPolicies: {theirs}.{resource} is not the same for all containers: no bound is set, since a policy has one for all"));
                    }
                    continue;
                };
                if given.iter().all(|other| *other == Some(first)) {
                    range.insert(ours.to_owned(), (*first).clone());
                } else {
                    self.remark(format!("containerPolicies: {theirs}.{resource} is not the same for all containers: no bound is set, since a policy has one for all"));
                }
            }
            if !range.is_empty() {
                bounds.insert(resource.to_owned(), range.into());
            }
        }
        bounds
    }

    fn boost(&mut self, boost: Option<&Value>) {
        let Some(cpu) = boost.and_then(|b| b.get("cpu")) else { return };
        let size = match (cpu.get("type").and_then(Value::as_str), cpu.get("factor"), cpu.get("quantity")) {
            (Some("Quantity"), _, Some(quantity)) => {
                self.remark("startupBoost: a quantity is the size while starting here; the autoscaler adds it to the request".to_owned());
                quantity.clone()
            }
            (_, Some(factor), _) => format!("{factor}x").into(),
            _ => {
                self.remark("startupBoost: neither factor nor quantity is given: left out".to_owned());
                return;
            }
        };
        let until = match cpu.get("durationSeconds").and_then(Value::as_u64) {
            Some(seconds) if seconds > 0 => {
                self.remark("startupBoost: durationSeconds counts from the start of the container here; the autoscaler counts from Ready".to_owned());
                format!("{seconds}s")
            }
            _ => "Ready".to_owned(),
        };
        self.spec.insert("startup".to_owned(), json!({"boost": {"cpu": size}, "until": until}));
    }

    fn without_counterpart(&mut self, object: &Value) {
        for (pointer, why) in [
            ("/spec/updatePolicy/minReplicas", "resizes in place do not take a replica away"),
            (
                "/spec/updatePolicy/evictionRequirements",
                "resizes in place evict nothing; see updateStrategy.memoryDecrease and windows",
            ),
            ("/spec/updatePolicy/evictAfterOOMSeconds", "memory is raised at once after an OOM kill"),
            ("/spec/recommenders", "OptiPod recommends"),
        ] {
            if object.pointer(pointer).is_some() {
                let field = pointer.trim_start_matches('/').replace('/', ".");
                self.remark(format!("{field} has no counterpart: {why}"));
            }
        }
        let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
        for key in annotations.into_iter().flat_map(Map::keys).filter(|k| k.starts_with("vpa-post-processor"))
        {
            self.remarks.push(format!("annotation {key} of {} has no counterpart", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use optipod_coordinator::api::lint::lint;

    use super::*;
    use crate::files::parse;

    fn imported(spec: &str) -> Imported {
        let text = format!(
            "apiVersion: autoscaling.k8s.io/v1\nkind: VerticalPodAutoscaler\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}"
        );
        let mut all = import(&parse(&text, "vpa.yaml").unwrap()).unwrap();
        let one = all.remove(0);
        assert_eq!(lint(&one.policy).violations, [], "{}", one.policy);
        one
    }

    fn says(imported: &Imported, part: &str) -> bool {
        imported.remarks.iter().any(|remark| remark.contains(part))
    }

    #[test]
    fn a_full_autoscaler_becomes_a_policy() {
        let imported = imported(
            "{targetRef: {apiVersion: apps/v1, kind: Deployment, name: front}, updatePolicy: {updateMode: InPlaceOrRecreate, minReplicas: 1},
              resourcePolicy: {containerPolicies: [
                {containerName: '*', minAllowed: {cpu: 50m, memory: 64Mi}, maxAllowed: {cpu: '2'}, controlledResources: [cpu], controlledValues: RequestsOnly},
                {containerName: istio-proxy, mode: 'Off'}]},
              startupBoost: {cpu: {type: Factor, factor: 3, durationSeconds: 30}}, recommenders: [{name: other}]}",
        );
        let spec = &imported.policy["spec"];
        assert_eq!(imported.policy["metadata"], json!({"name": "web", "namespace": "shop"}));
        assert_eq!(spec["mode"], "Auto");
        assert_eq!(
            spec["resourceBounds"],
            json!({"cpu": {"min": "50m", "max": "2"}, "memory": {"min": "64Mi"}})
        );
        assert_eq!(spec["updateStrategy"], json!({"allowRecreate": true, "resources": ["cpu"]}));
        assert_eq!(
            spec["selector"],
            json!({"workloadKinds": ["Deployment"], "workloadSelector": {"matchLabels": {LABEL: "web"}}, "excludeContainers": ["istio-proxy"]})
        );
        assert_eq!(spec["startup"], json!({"boost": {"cpu": "3x"}, "until": "30s"}));
        assert!(says(&imported, "deployment/front optipod.io/vpa=web"));
        assert!(says(&imported, "minReplicas has no counterpart") && says(&imported, "spec.recommenders"));
    }

    #[test]
    fn modes_and_limits_mean_the_same() {
        let target = "targetRef: {kind: StatefulSet, name: db}";
        for (mode, expected) in [
            ("'Off'", "Recommend"),
            ("Initial", "Recommend"),
            ("Recreate", "Auto"),
            ("InPlace", "Auto"),
            ("New", "Recommend"),
        ] {
            let imported = imported(&format!("{{{target}, updatePolicy: {{updateMode: {mode}}}}}"));
            assert_eq!(imported.policy["spec"]["mode"], expected, "{mode}");
        }
        let plain = imported(&format!("{{{target}}}"));
        assert_eq!(plain.policy["spec"]["mode"], "Auto");
        assert_eq!(plain.policy["spec"]["updateStrategy"]["limits"]["cpu"]["type"], "Ratio");
        assert_eq!(plain.policy["spec"]["updateStrategy"]["updateRequestsOnly"], false);
    }

    #[test]
    fn bounds_that_differ_between_containers_are_not_guessed() {
        let imported = imported(
            "{targetRef: {kind: Deployment, name: front}, resourcePolicy: {containerPolicies: [
                {containerName: a, minAllowed: {cpu: 50m}, maxAllowed: {memory: 1Gi}}, {containerName: b, maxAllowed: {memory: 1Gi}}]}}",
        );
        assert_eq!(imported.policy["spec"]["resourceBounds"], json!({"memory": {"max": "1Gi"}}));
        assert!(says(&imported, "minAllowed.cpu is not the same"));
    }

    #[test]
    fn an_object_without_target_is_named() {
        let text =
            "apiVersion: autoscaling.k8s.io/v1\nkind: VerticalPodAutoscaler\nmetadata: {name: web}\nspec: {}";
        let error = format!("{:#}", import(&parse(text, "vpa.yaml").unwrap()).unwrap_err());
        assert!(error.contains("VerticalPodAutoscaler/web") && error.contains("targetRef.kind"), "{error}");
    }
}
