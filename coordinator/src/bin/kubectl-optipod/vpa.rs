//! `import vpa`: `VerticalPodAutoscaler` objects become policies.

use anyhow::{Context as _, Result};
use optipod_coordinator::api::lint::lint;
use serde_json::{Map, Value, json};

use crate::files::{Located, is};
use crate::output::{Imported, Outcomes};

/// Label by which the policy finds the workload: a policy selects by label, an autoscaler by name.
const LABEL: &str = "optipod.io/vpa";

/// Policies for every autoscaler among some objects.
pub fn import(objects: &[Located]) -> Outcomes {
    let autoscalers = objects.iter().filter(|l| is(&l.object, "autoscaling.k8s.io", "VerticalPodAutoscaler"));
    autoscalers.map(|Located { place, object }| one(object).with_context(|| place.clone())).collect()
}

fn one(object: &Value) -> Result<Imported> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").context("metadata.name is missing")?;
    let kind = text("/spec/targetRef/kind").context("spec.targetRef.kind is missing")?;
    let target = text("/spec/targetRef/name").context("spec.targetRef.name is missing")?;
    let mut import = Import { name: name.to_owned(), spec: Map::new(), remarks: Vec::new() };

    // without one, kubectl takes that of its context, for both objects
    let namespace = text("/metadata/namespace");
    let value = label_value(name);
    let labels = json!({"matchLabels": {LABEL: value}});
    let group =
        text("/spec/targetRef/apiVersion").map(|version| version.split_once('/').map_or("", |(g, _)| g));
    let by = if WATCHED.iter().any(|(g, k)| *k == kind && group.is_none_or(|group| group == *g)) {
        import.remark(format!(
            "a policy selects by label: run `kubectl label{} {}/{target} {LABEL}={value}`",
            namespace.map(|namespace| format!(" --namespace {namespace}")).unwrap_or_default(),
            kind.to_lowercase()
        ));
        "workloadSelector"
    } else {
        import.remark(format!(
            "a policy selects by label, and OptiPod does not look at those of a {kind}: label the pod template of {kind}/{target}{} with {LABEL}: {value}, and the pods that run already",
            namespace.map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default()
        ));
        "podSelector"
    };
    import.remark("delete the autoscaler, or set its updateMode to Off, before this policy has mode Auto: OptiPod stands back from workloads that another one sizes".to_owned());
    import.mode(text("/spec/updatePolicy/updateMode"));
    // what its recommender does unless told otherwise; half of so long a window would be four days
    import.spec.insert(
        "metricsConfig".to_owned(),
        json!({"rollingWindow": "192h", "percentile": "P90", "safetyFactor": 1.15, "minimumCoverage": 0.05}),
    );
    import.remark("nothing shrinks before a twentieth of the eight days, some ten hours, has data (metricsConfig.minimumCoverage: 0.05): the autoscaler acts within a day, too; a larger share waits for more".to_owned());
    let mut selector = json!({"workloadKinds": [kind], by: labels});
    let policies = object.pointer("/spec/resourcePolicy/containerPolicies").and_then(Value::as_array);
    let policies = policies.cloned().unwrap_or_default();
    let excluded = import.containers(&policies);
    if let Some(selector) = selector.as_object_mut().filter(|_| !excluded.is_empty()) {
        selector.insert("excludeContainers".to_owned(), excluded.into());
    }
    import.spec.insert("selector".to_owned(), selector);
    let boost = import.common_boost(&policies, object.pointer("/spec/startupBoost"));
    import.boost(boost.as_ref());
    import.without_counterpart(object);
    import.unknown(object, &policies);
    let named = [("name", Some(name)), ("namespace", namespace)];
    let metadata: Value = named
        .into_iter()
        .filter_map(|(field, value)| Some((field.to_owned(), Value::from(value?))))
        .collect();
    let mut imported = Imported {
        policy: json!({
            "apiVersion": "optipod.io/v1alpha1",
            "kind": "OptimizationPolicy",
            "metadata": metadata,
            "spec": import.spec,
        }),
        remarks: import.remarks,
    };
    leave_out(&mut imported);
    Ok(imported)
}

/// Takes out bounds and boosts that an autoscaler may have and a policy may not, such as a factor beyond ours. What is
/// wrong elsewhere, such as in the selector, would leave a policy that reaches further: it stays and is an error.
fn leave_out(imported: &mut Imported) {
    let optional =
        |field: &str| ["spec.resourceBounds.", "spec.startup."].iter().any(|p| field.starts_with(p));
    for violation in lint(&imported.policy).violations.into_iter().filter(|v| optional(&v.field)) {
        let pointer = format!("/{}", violation.field.replace('.', "/"));
        if let Some((parent, name)) = pointer.rsplit_once('/')
            && let Some(fields) = imported.policy.pointer_mut(parent).and_then(Value::as_object_mut)
            && fields.remove(name).is_some()
        {
            imported.remarks.push(format!("{violation}: left out"));
        }
    }
}

/// Kinds whose own labels OptiPod looks at, with their groups.
const WATCHED: [(&str, &str); 7] = [
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("apps", "ReplicaSet"),
    ("batch", "Job"),
    ("batch", "CronJob"),
    ("argoproj.io", "Rollout"),
];

/// Fields of an autoscaler that something is made of, or said about.
const KNOWN: [(&str, &[&str]); 6] = [
    ("/spec", &["targetRef", "updatePolicy", "resourcePolicy", "recommenders", "startupBoost"]),
    ("/spec/targetRef", &["apiVersion", "kind", "name"]),
    ("/spec/updatePolicy", &["updateMode", "minReplicas", "evictionRequirements", "evictAfterOOMSeconds"]),
    ("/spec/resourcePolicy", &["containerPolicies"]),
    ("/spec/startupBoost", &["cpu"]),
    ("/spec/startupBoost/cpu", &["type", "factor", "quantity", "durationSeconds"]),
];

/// The same of the policy of a container.
const KNOWN_OF_CONTAINERS: [&str; 11] = [
    "containerName",
    "mode",
    "minAllowed",
    "maxAllowed",
    "controlledResources",
    "controlledValues",
    "startupBoost",
    "oomBumpUpRatio",
    "oomMinBumpUp",
    "memoryAggregationIntervalSeconds",
    "memoryAggregationIntervalCount",
];

/// A name as the value of a label, which has at most 63 characters: a longer one is cut, and told apart by a number that
/// is made of all of it (FNV-1a).
fn label_value(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let start: String = name.chars().take(54).collect();
    format!("{start}-{hash:08x}")
}

/// A quantity as a policy has it. Kubernetes takes `0.5` for `"0.5"`.
fn quantity(given: &Value) -> Value {
    if given.is_f64() { given.to_string().into() } else { given.clone() }
}

fn name_of(policy: &Value) -> &str {
    policy.get("containerName").and_then(Value::as_str).unwrap_or("*")
}

fn is_off(policy: &Value) -> bool {
    policy.get("mode").and_then(Value::as_str) == Some("Off")
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
        let (off, on): (Vec<&Value>, Vec<&Value>) = policies.iter().partition(|policy| is_off(policy));
        if off.iter().any(|policy| name_of(policy) == "*") {
            let what = if on.is_empty() {
                "mode Off for all containers: the policy only recommends"
            } else {
                "mode Off for * with other containers on has no counterpart: the policy only recommends; list the containers to leave alone in selector.excludeContainers"
            };
            self.remark(format!("containerPolicies: {what}"));
            self.spec.insert("mode".to_owned(), "Recommend".into());
        }
        let bounds = self.bounds(&on);
        if !bounds.is_empty() {
            self.spec.insert("resourceBounds".to_owned(), bounds.into());
        }
        self.controlled(&on, off.iter().any(|policy| name_of(policy) == "*"));
        for policy in &on {
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
        off.iter().map(|policy| name_of(policy)).filter(|name| *name != "*").map(Value::from).collect()
    }

    /// What is written: where containers differ, what changes least. Those without a policy of their own have the
    /// autoscaler's defaults, unless `*` says otherwise.
    fn controlled(&mut self, on: &[&Value], others_off: bool) {
        let default = json!({});
        let mut all = on.to_vec();
        if !others_off && on.iter().all(|policy| name_of(policy) != "*") {
            all.push(&default);
        }
        let resources = |policy: &&Value| match policy.get("controlledResources").and_then(Value::as_array) {
            Some(list) => {
                ["cpu", "memory"].into_iter().filter(|name| list.iter().any(|l| l == name)).collect()
            }
            None => vec!["cpu", "memory"],
        };
        let answers: Vec<Vec<&str>> = all.iter().map(resources).collect();
        let common: Vec<&str> =
            ["cpu", "memory"].into_iter().filter(|name| answers.iter().all(|a| a.contains(name))).collect();
        if answers.iter().any(|answer| *answer != common) {
            self.remark(format!(
                "containerPolicies: controlledResources differs between containers: a policy has one answer for all, those that all have are taken ({})",
                if common.is_empty() { "none: the policy only recommends".to_owned() } else { common.join(", ") }
            ));
        } else if common.is_empty() {
            self.remark("containerPolicies: controlledResources names neither cpu nor memory: the policy only recommends".to_owned());
        }
        if common.is_empty() {
            self.spec.insert("mode".to_owned(), "Recommend".into());
        } else if common.len() == 1 {
            self.update("resources", json!(common));
        }
        let requests_only =
            |policy: &&Value| policy.get("controlledValues").and_then(Value::as_str) == Some("RequestsOnly");
        if all.iter().any(requests_only) {
            if !all.iter().all(requests_only) {
                self.remark("containerPolicies: controlledValues differs between containers: a policy has one answer for all, limits stay".to_owned());
            }
            self.remark("Guaranteed pods are left alone: limits stay, and no pod leaves its QoS class in place; guaranteed: MoveTogether moves request and limit of such pods as one number".to_owned());
        } else {
            self.update("updateRequestsOnly", false.into());
            let limits =
                ["cpu", "memory"].into_iter().filter(|name| common.is_empty() || common.contains(name));
            let limits: Map<_, _> = limits.map(|name| (name.to_owned(), json!({"type": "Ratio"}))).collect();
            self.update("limits", limits.into());
            self.spec.insert("guaranteed".to_owned(), "MoveTogether".into());
            self.remark("Guaranteed pods are sized as well, request and limit as one number; guaranteed: Hold leaves them alone".to_owned());
        }
    }

    /// `minAllowed` and `maxAllowed`: those that `*` has and no container has otherwise. One for a named container would
    /// bind all of them.
    fn bounds(&mut self, on: &[&Value]) -> Map<String, Value> {
        let mut bounds = Map::new();
        for resource in ["cpu", "memory"] {
            let mut range = Map::new();
            for (theirs, ours) in [("minAllowed", "min"), ("maxAllowed", "max")] {
                let of = |policy: &&Value| policy.get(theirs)?.get(resource).map(quantity);
                let all = on.iter().find(|policy| name_of(policy) == "*").and_then(of);
                match all.filter(|all| on.iter().all(|policy| of(policy).as_ref() == Some(all))) {
                    Some(bound) => {
                        range.insert(ours.to_owned(), bound);
                    }
                    None if on.iter().any(|policy| of(policy).is_some()) => {
                        let whose: Vec<_> = on
                            .iter()
                            .filter_map(|policy| Some(format!("{}: {}", name_of(policy), of(policy)?)))
                            .collect();
                        self.remark(format!(
                            "containerPolicies: {theirs}.{resource} is not the same for all containers ({}): no bound is set, since a policy has one for all; set resourceBounds.{resource}.{ours} if one suits all",
                            whose.join(", ")
                        ));
                    }
                    None => {}
                }
            }
            if !range.is_empty() {
                bounds.insert(resource.to_owned(), range.into());
            }
        }
        bounds
    }

    /// The boost of all containers, where they have one: that of `*`, else that of the object.
    fn common_boost(&mut self, policies: &[Value], of_object: Option<&Value>) -> Option<Value> {
        let of_all =
            policies.iter().find(|policy| name_of(policy) == "*").and_then(|p| p.get("startupBoost"));
        let common = of_all.or(of_object);
        let mut agree = true;
        for policy in policies.iter().filter(|policy| !is_off(policy)) {
            if policy.get("startupBoost").is_some_and(|boost| Some(boost) != common) {
                agree = false;
                self.remark(format!(
                    "startupBoost of container {} has no counterpart: a policy has one boost for all, and none is set",
                    name_of(policy)
                ));
            }
        }
        common.filter(|_| agree).cloned()
    }

    fn boost(&mut self, boost: Option<&Value>) {
        let Some(cpu) = boost.and_then(|b| b.get("cpu")) else { return };
        let size = match (cpu.get("type").and_then(Value::as_str), cpu.get("factor"), cpu.get("quantity")) {
            (Some("Quantity"), _, Some(quantity)) => {
                self.remark("startupBoost: a quantity is the size while starting here; the autoscaler adds it to the request".to_owned());
                self::quantity(quantity)
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

    /// Names what a newer autoscaler may have, and what is misspelt.
    fn unknown(&mut self, object: &Value, policies: &[Value]) {
        let strange = |value: &Value, known: &[&str]| -> Vec<String> {
            let names = value.as_object().into_iter().flatten().map(|(name, _)| name);
            names.filter(|name| !known.contains(&name.as_str())).cloned().collect()
        };
        for (pointer, known) in KNOWN {
            let path = pointer.trim_start_matches('/').replace('/', ".");
            for name in object.pointer(pointer).map(|value| strange(value, known)).unwrap_or_default() {
                self.remark(format!("{path}.{name} is not known: left out"));
            }
        }
        for policy in policies {
            for name in strange(policy, &KNOWN_OF_CONTAINERS) {
                self.remark(format!(
                    "containerPolicies: {name} of {} is not known: left out",
                    name_of(policy)
                ));
            }
            for list in ["minAllowed", "maxAllowed"] {
                for name in policy.get(list).map(|l| strange(l, &["cpu", "memory"])).unwrap_or_default() {
                    self.remark(format!(
                        "containerPolicies: {list}.{name} has no counterpart: OptiPod sizes cpu and memory"
                    ));
                }
            }
        }
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
        let mut all = import(&parse(&text, "vpa.yaml").unwrap());
        let one = all.remove(0).unwrap();
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
                {containerName: '*', minAllowed: {cpu: 0.05, memory: 64Mi}, maxAllowed: {cpu: '2'}, controlledResources: [cpu], controlledValues: RequestsOnly},
                {containerName: istio-proxy, mode: 'Off'}]},
              startupBoost: {cpu: {type: Factor, factor: 3, durationSeconds: 30}}, recommenders: [{name: other}]}",
        );
        let spec = &imported.policy["spec"];
        assert_eq!(imported.policy["metadata"], json!({"name": "web", "namespace": "shop"}));
        assert_eq!(spec["mode"], "Auto");
        assert_eq!(
            spec["resourceBounds"],
            json!({"cpu": {"min": "0.05", "max": "2"}, "memory": {"min": "64Mi"}})
        );
        assert_eq!(spec["updateStrategy"], json!({"allowRecreate": true, "resources": ["cpu"]}));
        assert_eq!(
            spec["selector"],
            json!({"workloadKinds": ["Deployment"], "workloadSelector": {"matchLabels": {LABEL: "web"}}, "excludeContainers": ["istio-proxy"]})
        );
        assert_eq!(spec["startup"], json!({"boost": {"cpu": "3x"}, "until": "30s"}));
        assert!(says(&imported, "deployment/front optipod.io/vpa=web"));
        assert!(says(&imported, "minReplicas has no counterpart") && says(&imported, "spec.recommenders"));
        assert_eq!(spec.get("guaranteed"), None);
        assert!(says(&imported, "Guaranteed pods are left alone"));
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
        let none = imported(&format!(
            "{{{target}, resourcePolicy: {{containerPolicies: [{{containerName: '*', controlledResources: []}}]}}}}"
        ));
        assert_eq!(none.policy["spec"]["mode"], "Recommend");
        assert!(says(&none, "names neither cpu nor memory: the policy only recommends"));
        let memory = imported(&format!(
            "{{{target}, resourcePolicy: {{containerPolicies: [{{containerName: '*', controlledResources: [memory]}}]}}}}"
        ));
        assert_eq!(memory.policy["spec"]["updateStrategy"]["limits"], json!({"memory": {"type": "Ratio"}}));
        assert_eq!(plain.policy["spec"]["metricsConfig"]["minimumCoverage"], 0.05);
        assert!(says(&plain, "nothing shrinks before a twentieth of the eight days"));
        assert_eq!(plain.policy["spec"]["guaranteed"], "MoveTogether");
        assert!(says(&plain, "Guaranteed pods are sized as well"));
    }

    #[test]
    fn bounds_that_differ_between_containers_are_not_guessed() {
        let imported = imported(
            "{targetRef: {kind: Deployment, name: front}, resourcePolicy: {containerPolicies: [
                {containerName: '*', minAllowed: {cpu: 50m}, maxAllowed: {memory: 1Gi}}, {containerName: b, maxAllowed: {memory: 1Gi}}]}}",
        );
        assert_eq!(imported.policy["spec"]["resourceBounds"], json!({"memory": {"max": "1Gi"}}));
        assert!(says(&imported, "minAllowed.cpu is not the same"));
    }

    #[test]
    fn values_beyond_those_of_a_policy_are_left_out_and_named() {
        let imported = imported(
            "{targetRef: {kind: Deployment, name: front}, startupBoost: {cpu: {factor: 12}}, resourcePolicy: {containerPolicies: [
                {containerName: '*', minAllowed: {cpu: 4, memory: 100}, maxAllowed: {cpu: 2, memory: 1Gi}}]}}",
        );
        let spec = &imported.policy["spec"];
        assert_eq!(spec["resourceBounds"], json!({"memory": {"max": "1Gi"}}));
        assert_eq!(spec["startup"]["boost"], json!({}));
        for part in [
            "spec.startup.boost.cpu: \"12x\" is not a boost",
            "spec.resourceBounds.memory.min: \"100\" is too little",
            "spec.resourceBounds.cpu: min 4 is above max 2",
        ] {
            assert!(
                imported.remarks.iter().any(|r| r.starts_with(part) && r.ends_with(": left out")),
                "{part}: {:?}",
                imported.remarks
            );
        }
    }

    #[test]
    fn what_is_for_one_container_does_not_bind_the_others() {
        let imported = imported(
            "{targetRef: {kind: Deployment, name: front}, resourcePolicy: {containerPolicies: [
                {containerName: app, maxAllowed: {cpu: 100m}, controlledResources: [memory], controlledValues: RequestsOnly,
                 startupBoost: {cpu: {type: Factor, factor: 2}}}]}}",
        );
        let spec = &imported.policy["spec"];
        assert_eq!((spec.get("resourceBounds"), spec.get("startup")), (None, None));
        assert_eq!(spec["updateStrategy"], json!({"allowRecreate": true, "resources": ["memory"]}));
        for part in [
            "maxAllowed.cpu is not the same for all containers (app: \"100m\")",
            "startupBoost of container app",
            "controlledResources differs",
            "controlledValues differs",
        ] {
            assert!(says(&imported, part), "{part}: {:?}", imported.remarks);
        }
    }

    #[test]
    fn all_containers_off_is_not_some_containers_off() {
        let policies = |list: &str| {
            imported(&format!(
                "{{targetRef: {{kind: Deployment, name: front}}, resourcePolicy: {{containerPolicies: [{list}]}}}}"
            ))
        };
        let all = policies("{containerName: '*', mode: 'Off'}");
        assert!(says(&all, "mode Off for all containers: the policy only recommends"), "{:?}", all.remarks);
        assert_eq!(all.policy["spec"]["mode"], "Recommend");
        let some = policies("{containerName: '*', mode: 'Off'}, {containerName: app}");
        assert!(says(&some, "mode Off for * with other containers on"), "{:?}", some.remarks);
    }

    #[test]
    fn kinds_whose_labels_are_not_looked_at_are_found_by_their_pods() {
        for (target, by) in [
            ("{apiVersion: v1, kind: ReplicationController, name: old}", "podSelector"),
            ("{apiVersion: db.example.com/v1, kind: Cluster, name: pg}", "podSelector"),
            ("{apiVersion: db.example.com/v1, kind: Deployment, name: odd}", "podSelector"),
            ("{apiVersion: batch/v1, kind: CronJob, name: nightly}", "workloadSelector"),
            ("{kind: DaemonSet, name: agent}", "workloadSelector"),
        ] {
            let imported = imported(&format!("{{targetRef: {target}}}"));
            assert_eq!(
                imported.policy["spec"]["selector"][by],
                json!({"matchLabels": {LABEL: "web"}}),
                "{target}"
            );
            assert_eq!(says(&imported, "label the pod template"), by == "podSelector", "{target}");
        }
    }

    #[test]
    fn a_name_that_is_no_label_is_cut_and_stays_itself() {
        let (long, other) = ("a".repeat(80), "a".repeat(81));
        assert_eq!(label_value("web"), "web");
        assert_eq!(label_value(&long).len(), 63);
        assert_ne!(label_value(&long), label_value(&other));
    }

    #[test]
    fn fields_that_nobody_knows_are_named() {
        let imported = imported(
            "{targetRef: {kind: Deployment, name: front}, updatePolcy: {}, updatePolicy: {updateMode: 'Off', someday: 1},
              resourcePolicy: {containerPolicies: [{containerName: '*', maxAlowed: {cpu: 1}, minAllowed: {gpu: 1}}]}}",
        );
        for part in
            ["spec.updatePolcy is not known", "spec.updatePolicy.someday", "maxAlowed of *", "minAllowed.gpu"]
        {
            assert!(says(&imported, part), "{part}: {:?}", imported.remarks);
        }
    }

    #[test]
    fn a_namespace_that_is_not_given_is_not_made_up() {
        let text = "apiVersion: autoscaling.k8s.io/v1\nkind: VerticalPodAutoscaler\nmetadata: {name: web}\nspec: {targetRef: {kind: Deployment, name: front}}";
        let one = import(&parse(text, "vpa.yaml").unwrap()).remove(0).unwrap();
        assert_eq!(one.policy["metadata"], json!({"name": "web"}));
        assert!(says(&one, "`kubectl label deployment/front optipod.io/vpa=web`"), "{:?}", one.remarks);
    }

    #[test]
    fn an_object_without_target_is_named() {
        let text =
            "apiVersion: autoscaling.k8s.io/v1\nkind: VerticalPodAutoscaler\nmetadata: {name: web}\nspec: {}";
        let good = text.replace("{}", "{targetRef: {kind: Deployment, name: front}}");
        let both = import(&parse(&format!("{text}\n---\n{good}"), "vpa.yaml").unwrap());
        let error = format!("{:#}", both[0].as_ref().unwrap_err());
        assert!(both[1].is_ok(), "one that says nothing does not keep the others back");
        assert!(error.contains("VerticalPodAutoscaler/web") && error.contains("targetRef.kind"), "{error}");
    }
}
