//! Random clusters against the rules of selection, read from the text of the policies a second time.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Where policies may reach beyond themselves: [`index`] says so.
const CLUSTER: [&str; 2] = ["optipod-system", "platform"];
const NAMESPACES: [&str; 5] = ["optipod-system", "platform", "shop", "search", "kube-system"];

#[derive(Clone, Debug)]
struct Tenant {
    namespace: &'static str,
    name: String,
    /// Its pods belong to a custom resource, else it is a pod without owner.
    owned: bool,
    pods: Vec<Said>,
}

/// Labels and annotations of one pod.
#[derive(Clone, Debug)]
struct Said {
    labels: Value,
    annotations: Value,
}

impl Tenant {
    fn kind(&self) -> &'static str {
        if self.owned { "Cluster" } else { "Pod" }
    }

    fn says(&self, annotation: &str, value: &str) -> bool {
        self.pods.iter().any(|pod| pod.annotations.get(annotation).and_then(Value::as_str) == Some(value))
    }

    /// The policies that its pods choose, each once.
    fn choices(&self) -> BTreeSet<Option<&str>> {
        self.pods.iter().map(|pod| pod.annotations.get(POLICY).and_then(Value::as_str)).collect()
    }
}

#[derive(Clone, Debug)]
struct Written {
    namespace: &'static str,
    name: String,
    spec: Value,
}

fn labels() -> impl Strategy<Value = Value> {
    (select(vec!["a", "b"]), any::<bool>()).prop_map(|(team, gold)| {
        if gold { json!({"team": team, "gold": "yes"}) } else { json!({"team": team}) }
    })
}

fn label_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        select(vec!["a", "b"]).prop_map(|team| json!({"matchLabels": {"team": team}})),
        Just(json!({"matchExpressions": [{"key": "gold", "operator": "Exists"}]})),
        Just(json!({"matchExpressions": [{"key": "gold", "operator": "DoesNotExist"}]})),
        Just(json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]})),
        Just(json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "c"]}]})),
    ]
}

fn some_namespaces() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(NAMESPACES.to_vec()), 1..3)
}

fn tenants() -> impl Strategy<Value = Vec<Tenant>> {
    let annotations = prop_oneof![
        8 => Just(json!({})),
        1 => Just(json!({OPTIMIZE: "false"})),
        1 => Just(json!({OPTIMIZE: "no"})),
        1 => Just(json!({"optipod.io/optimise": "false"})),
        2 => (0..6_usize).prop_map(|n| json!({POLICY: format!("p{n}")})),
    ];
    let pod = (labels(), annotations).prop_map(|(labels, annotations)| Said { labels, annotations });
    // pods of one template say the same, but not while it changes
    let pods = (prop::collection::vec(pod, 1..4), any::<bool>())
        .prop_map(|(pods, alike)| if alike { vec![pods[0].clone(); pods.len()] } else { pods });
    let one = (select(NAMESPACES.to_vec()), any::<bool>(), pods);
    prop::collection::vec(one, 1..8).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(i, (namespace, owned, pods))| Tenant {
            namespace,
            name: format!("w{i}"),
            owned: owned || pods.len() > 1,
            pods,
        })
        .collect()
    })
}

fn policies() -> impl Strategy<Value = Vec<Written>> {
    let selector = (
        prop::option::of(label_selector()),
        prop::option::of(label_selector()),
        prop::option::of(label_selector()),
        prop::option::of(some_namespaces()),
        prop::option::of(some_namespaces()),
        prop_oneof![Just(&[][..]), Just(&["Pod", "Deployment"][..]), Just(&["Pod", "Cluster"][..])],
    );
    let one = (select(NAMESPACES.to_vec()), selector, 0..3_i32, any::<bool>());
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(
            |(i, (namespace, (by_namespace, by_workload, by_pod, allow, deny, kinds), weight, enforced))| {
                let mut selector = json!({});
                for (key, part) in [
                    ("namespaceSelector", by_namespace),
                    ("workloadSelector", by_workload),
                    ("podSelector", by_pod),
                ] {
                    if let Some(part) = part {
                        selector[key] = part;
                    }
                }
                for (key, list) in [("allow", allow), ("deny", deny)] {
                    if let Some(list) = list {
                        selector["namespaces"][key] = json!(list);
                    }
                }
                if !kinds.is_empty() {
                    selector["workloadKinds"] = json!(kinds);
                }
                let mut spec = json!({"weight": weight, "selector": selector});
                if enforced {
                    spec["resourceBounds"] = json!({"enforced": true, "cpu": {"max": "1"}});
                }
                Written { namespace, name: format!("p{i}"), spec }
            },
        )
        .collect()
    })
}

/// Labels of a namespace: teams by its first letter.
fn labels_of_namespace(namespace: &str) -> Value {
    if namespace.starts_with('s') { json!({"team": "a"}) } else { json!({"team": "b", "gold": "yes"}) }
}

fn holds(selector: Option<&Value>, labels: &Value) -> bool {
    let Some(selector) = selector else { return true };
    let exact =
        selector["matchLabels"].as_object().into_iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().all(|e| {
        let found = labels.get(e["key"].as_str().unwrap());
        let listed = found.is_some_and(|f| e["values"].as_array().is_some_and(|l| l.contains(f)));
        match e["operator"].as_str().unwrap() {
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            "In" => listed,
            _ => !listed,
        }
    });
    exact && expressions
}

fn listed(policy: &Written, list: &str, namespace: &str) -> Option<bool> {
    let list = policy.spec["selector"]["namespaces"].get(list)?.as_array()?;
    Some(list.iter().any(|name| name == namespace))
}

/// Whether a policy asks for this workload, its rights aside.
fn asks_for(policy: &Written, tenant: &Tenant) -> bool {
    let selector = &policy.spec["selector"];
    let reaches =
        listed(policy, "allow", tenant.namespace).is_some() || selector.get("namespaceSelector").is_some();
    listed(policy, "deny", tenant.namespace) != Some(true)
        && listed(policy, "allow", tenant.namespace) != Some(false)
        && (reaches || policy.namespace == tenant.namespace)
        && holds(selector.get("namespaceSelector"), &labels_of_namespace(tenant.namespace))
        && selector["workloadKinds"].as_array().is_none_or(|kinds| kinds.iter().any(|k| k == tenant.kind()))
        && tenant.pods.iter().all(|pod| holds(selector.get("workloadSelector"), &pod.labels))
        && tenant.pods.iter().any(|pod| holds(selector.get("podSelector"), &pod.labels))
}

fn cluster(tenants: &[Tenant], policies: &[Written]) -> Index {
    let mut index = index();
    for namespace in NAMESPACES {
        let object =
            object(json!({"metadata": {"name": namespace, "labels": labels_of_namespace(namespace)}}));
        index.apply(Change::Namespaces(Delta::Apply(Box::new(object))), at(0));
    }
    let pods = tenants.iter().flat_map(|t| std::iter::repeat(t).zip(t.pods.iter().enumerate()));
    for (number, (tenant, (i, said))) in (0..).zip(pods) {
        let owners =
            if tenant.owned { owner("db.example.com/v1", "Cluster", &tenant.name) } else { json!([]) };
        let name = if tenant.owned { format!("{}-{i}", tenant.name) } else { tenant.name.clone() };
        let mut pod = pod(&name, number, owners);
        pod["metadata"]["namespace"] = tenant.namespace.into();
        pod["metadata"]["labels"] = said.labels.clone();
        pod["metadata"]["annotations"] = said.annotations.clone();
        put_pod(&mut index, pod, 0);
    }
    for written in policies {
        put_policy(&mut index, policy(written.namespace, &written.name, written.spec.clone()));
    }
    index
}

fn find<'a>(policies: &'a [Written], key: &PolicyKey) -> &'a Written {
    policies.iter().find(|p| p.namespace == key.namespace && p.name == key.name).unwrap()
}

proptest! {
    /// Property 27: policies select by namespace, labels and lists, deny wins, and none reaches where it may not.
    #[test]
    fn nobody_reaches_beyond_what_their_namespace_allows(tenants in tenants(), policies in policies()) {
        let selection = cluster(&tenants, &policies).select();
        for (key, workloads) in &selection.by_policy {
            let policy = find(&policies, key);
            for workload in workloads {
                let namespace = workload.workload.namespace.as_str();
                prop_assert!(namespace == key.namespace || CLUSTER.contains(&policy.namespace), "{key} {namespace}");
                prop_assert_ne!(listed(policy, "deny", namespace), Some(true));
                for enforced in &workload.enforced {
                    let by = enforced.policy.split_once('/').unwrap().0;
                    prop_assert!(CLUSTER.contains(&by), "{} enforces", enforced.policy);
                }
            }
        }
        for (key, lost) in selection.conflicts.iter().chain(&selection.enforcing) {
            for (workload, _) in lost {
                prop_assert!(workload.namespace == key.namespace || CLUSTER.contains(&key.namespace.as_str()));
            }
        }
    }

    /// Property 16: every workload that a policy may and does ask for follows exactly one policy, the others know it.
    #[test]
    fn every_workload_that_is_asked_for_has_one_policy(tenants in tenants(), policies in policies()) {
        let selection = cluster(&tenants, &policies).select();
        let refused = |p: &Written| selection.refused_scope.contains_key(&policy_key(p.namespace, &p.name));
        for tenant in &tenants {
            let asking: BTreeSet<PolicyKey> = policies
                .iter()
                .filter(|p| !refused(p) && asks_for(p, tenant))
                .map(|p| policy_key(p.namespace, &p.name))
                .collect();
            let is = |w: &WorkloadRef| w.name == tenant.name;
            let winners: Vec<&PolicyKey> = selection
                .by_policy
                .iter()
                .filter(|(_, workloads)| workloads.iter().any(|w| is(&w.workload)))
                .map(|(key, _)| key)
                .collect();
            let losers: BTreeSet<&PolicyKey> = selection
                .conflicts
                .iter()
                .chain(&selection.enforcing)
                .filter(|(_, lost)| lost.iter().any(|(w, _)| is(w)))
                .map(|(key, _)| key)
                .collect();
            prop_assert_eq!(winners.len(), usize::from(!asking.is_empty()), "{:?} {:?}", tenant, asking);
            let both: BTreeSet<&PolicyKey> = losers.iter().copied().chain(winners.iter().copied()).collect();
            prop_assert_eq!(both, asking.iter().collect::<BTreeSet<_>>());
            let choices = tenant.choices();
            let opted_out = tenant.says(OPTIMIZE, "false");
            let unclear = tenant.says(OPTIMIZE, "no") || tenant.says("optipod.io/optimise", "false") || choices.len() > 1;
            let chosen = choices.first().copied().flatten().filter(|_| !opted_out && !unclear);
            for winner in winners {
                let weight = |key: &PolicyKey| find(&policies, key).spec["weight"].as_i64();
                let named = asking.iter().any(|key| Some(key.name.as_str()) == chosen);
                if named {
                    prop_assert_eq!(Some(winner.name.as_str()), chosen);
                } else {
                    prop_assert!(losers.iter().all(|loser| weight(loser) <= weight(winner)));
                }
                let held = selection.by_policy[winner].iter().find(|w| is(&w.workload)).unwrap().held.as_ref();
                let expected = if opted_out {
                    Some(HeldBy::OptedOut)
                } else if unclear {
                    Some(HeldBy::AnnotationInvalid)
                } else {
                    chosen.filter(|_| !named).map(|_| HeldBy::PolicyNotFound)
                };
                prop_assert_eq!(held.map(|h| h.by), expected);
            }
        }
    }
}
