//! Which policy a workload follows.

use super::*;

fn namespace(name: &str, labels: Value) -> Change {
    Change::Namespaces(Delta::Apply(Box::new(object(json!({"metadata": {"name": name, "labels": labels}})))))
}

#[test]
fn without_selector_a_policy_covers_its_own_namespace() {
    let mut index = web();
    put_policy(&mut index, policy("default", "here", json!({})));
    put_policy(&mut index, policy("optipod-system", "there", json!({})));
    assert_eq!(selected(&index, "default", "here"), ["default/Deployment/web"]);
    assert_eq!(selected(&index, "optipod-system", "there"), Vec::<String>::new());
}

#[test]
fn every_part_of_a_selector_must_hold_and_deny_wins() {
    let mut index = web();
    index.apply(namespace("default", json!({"env": "prod"})), at(0));
    for (selector, expected) in [
        (json!({"namespaceSelector": {}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"env": "test"}}}), false),
        (json!({"namespaces": {"allow": ["default"]}}), true),
        (json!({"namespaces": {"allow": ["other"]}}), false),
        (json!({"namespaces": {"allow": ["default"], "deny": ["default"]}}), false),
        (json!({"namespaces": {"allow": ["other"]}, "namespaceSelector": {}}), false),
        (json!({"namespaceSelector": {}, "workloadSelector": {"matchLabels": {"tier": "front"}}}), true),
        (
            json!({"namespaceSelector": {}, "workloadSelector": {"matchLabels": {"from": "replicaset"}}}),
            false,
        ),
        (json!({"namespaceSelector": {}, "workloadKinds": ["Deployment", "DaemonSet"]}), true),
        (json!({"namespaceSelector": {}, "workloadKinds": ["DaemonSet"]}), false),
    ] {
        put_policy(&mut index, policy("optipod-system", "a", json!({"selector": selector.clone()})));
        assert_eq!(!selected(&index, "optipod-system", "a").is_empty(), expected, "{selector}");
    }
}

#[test]
fn labels_come_from_the_highest_controller_that_is_watched() {
    let mut index = index();
    let set = replica_set("rolled", owner("argoproj.io/v1alpha1", "Rollout", "ro"));
    index.apply(Change::ReplicaSets(Delta::Apply(Box::new(set))), at(0));
    put_pod(&mut index, pod("rolled-1", 1, owner("apps/v1", "ReplicaSet", "rolled")), 0);
    let mut custom = pod("pg-1", 2, owner("postgresql.cnpg.io/v1", "Cluster", "pg"));
    custom["metadata"]["labels"] = json!({"from": "pod"});
    put_pod(&mut index, custom, 0);
    for (from, expected) in [("replicaset", "default/Rollout/ro"), ("pod", "default/Cluster/pg")] {
        let spec = json!({"selector": {"workloadSelector": {"matchLabels": {"from": from}}}});
        put_policy(&mut index, policy("default", "a", spec));
        assert_eq!(selected(&index, "default", "a"), [expected]);
    }
}

#[test]
fn only_some_namespaces_reach_beyond_themselves() {
    let mut index = web();
    for (namespace, selector, refused) in [
        ("tenant", json!({"namespaceSelector": {}}), Some("spec.selector.namespaceSelector")),
        (
            "tenant",
            json!({"namespaces": {"allow": ["tenant", "default"]}}),
            Some("spec.selector.namespaces.allow"),
        ),
        ("tenant", json!({"namespaces": {"allow": ["tenant"]}, "namespaceSelector": {}}), None),
        ("tenant", json!({"namespaces": {"deny": ["default"]}}), None),
        ("platform", json!({"namespaceSelector": {}}), None),
        ("optipod-system", json!({"namespaceSelector": {}}), None),
    ] {
        index.apply(
            Change::Policies(Delta::Replace(vec![policy(
                namespace,
                "a",
                json!({"selector": selector.clone()}),
            )])),
            at(0),
        );
        let selection = index.select();
        let reason = selection.refused_scope.get(&policy_key(namespace, "a"));
        assert_eq!(reason.is_some(), refused.is_some(), "{namespace} {selector} {reason:?}");
        if let (Some(reason), Some(field)) = (reason, refused) {
            assert!(
                reason.contains(field) && reason.contains("\"optipod-system\", \"platform\""),
                "{reason}"
            );
            assert!(selection.by_policy.is_empty());
        }
    }
}

#[test]
fn a_policy_that_covers_only_what_is_never_touched_says_so() {
    let mut index = index();
    for (namespace, selector, told) in [
        ("optipod-system", json!({}), true),
        ("kube-system", json!({}), true),
        ("optipod-system", json!({"namespaces": {"allow": ["kube-system", "optipod-system"]}}), true),
        ("optipod-system", json!({"namespaces": {"allow": ["kube-system", "shop"]}}), false),
        ("optipod-system", json!({"namespaceSelector": {}}), false),
        ("platform", json!({}), false),
    ] {
        put_policy(&mut index, policy(namespace, "a", json!({"selector": selector.clone()})));
        let warnings = &index.policy(&policy_key(namespace, "a")).unwrap().warnings;
        let found = warnings.iter().any(|w| w.condition == "ProtectedNamespaceOnly");
        assert_eq!(found, told, "{namespace} {selector}");
    }
}

#[test]
fn precedence_is_weight_then_specificity_then_age_then_name() {
    let spec = |weight: i32, selector: Value| json!({"weight": weight, "selector": selector});
    let labelled = || json!({"workloadSelector": {"matchLabels": {"tier": "front"}}});
    let mut older = policy("default", "z", spec(100, json!({})));
    kube::Resource::meta_mut(&mut older).creation_timestamp = Some(object(json!("2025-01-01T00:00:00Z")));
    let steps = [
        (policy("default", "b", spec(100, json!({}))), "b"),
        (policy("default", "a", spec(100, json!({}))), "a"),
        (older, "z"),
        (policy("default", "m", spec(100, labelled())), "m"),
        (policy("default", "n", spec(101, json!({}))), "n"),
        (policy("default", "o", json!({"mode": "Disabled", "weight": 102})), "o"),
    ];
    let mut index = web();
    for (policy, winner) in steps {
        put_policy(&mut index, policy);
        assert_eq!(selected(&index, "default", winner), ["default/Deployment/web"], "{winner}");
    }
    let selection = index.select();
    let lost = (workload("Deployment", "web"), policy_key("default", "o"));
    assert_eq!(selection.conflicts.len(), 5);
    assert_eq!(selection.conflicts[&policy_key("default", "a")], [lost]);
    assert_eq!(selection.by_policy[&policy_key("default", "a")], []);
}

#[test]
fn a_policy_that_cannot_be_read_is_an_entry_and_selects_nothing() {
    let mut index = web();
    put_policy(&mut index, policy("default", "garbage", json!({"mode": "Sometimes"})));
    put_policy(&mut index, policy("default", "wrong", json!({"metricsConfig": {"percentile": "P0"}})));
    let entry = index.policy(&policy_key("default", "garbage")).unwrap();
    assert!(entry.malformed.as_ref().unwrap().contains("Sometimes"), "{entry:?}");
    assert!(entry.parsed.is_err() && entry.generation == 1 && entry.uid == "uid-garbage");
    let entry = index.policy(&policy_key("default", "wrong")).unwrap();
    assert_eq!(entry.parsed.as_ref().unwrap_err()[0].field, "spec.metricsConfig.percentile");
    assert_eq!(entry.malformed, None);
    assert_eq!(index.policies().count(), 2);
    assert_eq!(index.select(), Selection::default());
    put_policy(&mut index, policy("default", "garbage", json!({})));
    assert_eq!(selected(&index, "default", "garbage"), ["default/Deployment/web"]);
}

#[test]
fn a_pod_selector_leaves_other_pods_alone() {
    let mut index = web();
    let mut canary = pod("canary", 2, owner("apps/v1", "ReplicaSet", "web-1"));
    canary["metadata"]["labels"] = json!({"track": "canary"});
    put_pod(&mut index, canary, 0);
    let spec = json!({"selector": {"podSelector": {"matchLabels": {"track": "canary"}}}});
    put_policy(&mut index, policy("default", "a", spec));
    let selection = index.select();
    let [of_web] = selection.by_policy[&policy_key("default", "a")].as_slice() else {
        panic!("{selection:?}")
    };
    assert_eq!(
        (&of_web.workload, of_web.pods.as_slice()),
        (&workload("Deployment", "web"), &[key("canary")][..])
    );
    put_policy(
        &mut index,
        policy("default", "a", json!({"selector": {"podSelector": {"matchLabels": {"track": "x"}}}})),
    );
    assert_eq!(selected(&index, "default", "a"), Vec::<String>::new());
}

#[test]
fn of_a_pod_with_an_owner_only_that_it_is_left_alone_is_heard_and_the_rest_is_told() {
    let mut index = web();
    put_policy(&mut index, policy("default", "a", json!({})));
    let held = |index: &Index| index.select().by_policy[&policy_key("default", "a")][0].held.clone();
    for (said, by, words) in [
        (json!({OPTIMIZE: "false"}), Some(HeldBy::OptedOut), ""),
        (json!({OPTIMIZE: "true"}), None, ""),
        (json!({PIN: "cpu"}), Some(HeldBy::AnnotationInvalid), "of pod p: expected them on its owner"),
        (json!({POLICY: "a"}), Some(HeldBy::AnnotationInvalid), "of pod p"),
        (json!({OPTIMIZE: "no"}), Some(HeldBy::AnnotationInvalid), "of pod p"),
    ] {
        let mut pod = pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1"));
        pod["metadata"]["annotations"] = said.clone();
        put_pod(&mut index, pod, 1);
        let held = held(&index);
        assert_eq!(held.as_ref().map(|h| h.by), by, "{said}");
        assert!(held.is_none_or(|h| h.message.contains(words)), "{said}");
    }
    put_pod(&mut index, pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1")), 2);
    for (said, by, words) in [
        ((OPTIMIZE, "false"), Some(HeldBy::OptedOut), ""),
        ((PIN, "c/cpu"), None, ""),
        ((PIN, "cpu,a/memory"), Some(HeldBy::AnnotationInvalid), "no container \"a\": expected one of c"),
    ] {
        let mut owner = deployment("web", json!({}));
        owner.metadata.annotations = Some([(said.0.to_owned(), said.1.to_owned())].into());
        index.apply(Change::Deployments(Delta::Apply(Box::new(owner))), at(2));
        let held = held(&index);
        assert_eq!(held.as_ref().map(|h| h.by), by, "{said:?}");
        assert!(held.as_ref().is_none_or(|h| h.message.contains(words)), "{said:?} {held:?}");
    }
}

#[test]
fn while_the_owner_was_not_seen_nothing_it_may_have_said_is_passed_over() {
    let held = |index: &Index| {
        let of_default = index.select().by_policy[&policy_key("default", "a")].clone();
        of_default.into_iter().map(|w| w.held.map(|held| held.by)).collect::<Vec<_>>()
    };
    let mut index = index();
    put_policy(&mut index, policy("default", "a", json!({})));
    put_pod(&mut index, pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1")), 0);
    assert_eq!(held(&index), [], "the workload itself is not known");
    let set = replica_set("web-1", owner("apps/v1", "Deployment", "web"));
    index.apply(Change::ReplicaSets(Delta::Apply(Box::new(set))), at(0));
    assert_eq!(held(&index), [Some(HeldBy::OwnerUnknown)]);
    let mut owned = deployment("web", json!({}));
    owned.metadata.annotations = Some([(OPTIMIZE.to_owned(), "false".to_owned())].into());
    index.apply(Change::Deployments(Delta::Apply(Box::new(owned))), at(1));
    assert_eq!(held(&index), [Some(HeldBy::OptedOut)]);
    index.apply(Change::Deployments(Delta::Apply(Box::new(deployment("web", json!({}))))), at(2));
    assert_eq!(held(&index), [None]);
    // kinds that are not watched have nothing to wait for
    let custom = pod("pg-1", 2, owner("postgresql.cnpg.io/v1", "Cluster", "pg"));
    put_pod(&mut index, custom, 3);
    assert_eq!(held(&index), [None, None]);
    put_pod(&mut index, pod("db-0", 3, owner("apps/v1", "StatefulSet", "db")), 4);
    assert_eq!(held(&index), [None, None, Some(HeldBy::OwnerUnknown)]);
}

#[test]
fn each_pod_of_an_owner_that_is_not_watched_is_asked() {
    let mut index = index();
    let put = |index: &mut Index, name: &str, number: u8, annotations: Value, labels: Value| {
        let mut pod = pod(name, number, owner("postgresql.cnpg.io/v1", "Cluster", "pg"));
        pod["metadata"]["annotations"] = annotations;
        pod["metadata"]["labels"] = labels;
        put_pod(index, pod, 0);
    };
    put_policy(&mut index, policy("default", "a", json!({})));
    put(&mut index, "pg-1", 1, json!({}), json!({"tier": "db"}));
    for (said, by, words) in [
        (json!({OPTIMIZE: "false"}), Some(HeldBy::OptedOut), "\"false\""),
        (json!({OPTIMIZE: "maybe"}), Some(HeldBy::AnnotationInvalid), "maybe"),
        (json!({POLICY: "b"}), Some(HeldBy::AnnotationInvalid), "pg-1 says none, pg-2 says b"),
        (json!({OPTIMIZE: "true"}), None, ""),
    ] {
        put(&mut index, "pg-2", 2, said.clone(), json!({"tier": "db"}));
        let held = index.select().by_policy[&policy_key("default", "a")][0].held.clone();
        assert_eq!(held.as_ref().map(|h| h.by), by, "{said}");
        assert!(held.is_none_or(|h| h.message.contains(words)), "{said}");
    }
    let by_label = json!({"selector": {"workloadSelector": {"matchLabels": {"tier": "db"}}}});
    put_policy(&mut index, policy("default", "a", by_label));
    assert_eq!(selected(&index, "default", "a"), ["default/Cluster/pg"]);
    put(&mut index, "pg-2", 2, json!({}), json!({"tier": "cache"}));
    assert_eq!(selected(&index, "default", "a"), Vec::<String>::new(), "its pods do not agree");
}

#[test]
fn enforced_bounds_hold_for_the_workloads_of_others() {
    let mut index = web();
    let bounds = json!({"enforced": true, "cpu": {"max": "2"}});
    let bounds = || bounds.clone();
    let all = json!({"weight": 0, "selector": {"namespaceSelector": {}}, "resourceBounds": bounds()});
    index.apply(namespace("default", json!({})), at(0));
    put_policy(&mut index, policy("optipod-system", "cluster", all));
    put_policy(&mut index, policy("default", "a", json!({})));
    let selection = index.select();
    let own = &selection.by_policy[&policy_key("default", "a")][0];
    assert_eq!(own.enforced.len(), 1);
    assert_eq!(own.enforced[0].policy, "optipod-system/cluster");
    let binds = (workload("Deployment", "web"), policy_key("default", "a"));
    assert_eq!(selection.enforcing[&policy_key("optipod-system", "cluster")], [binds]);
    assert!(selection.conflicts.is_empty(), "{:?}", selection.conflicts);
    let stated = own.policy(&optipod_common::policy::Policy::default()).enforced.clone();
    assert_eq!(stated, own.enforced);
    put_policy(&mut index, policy("default", "a", json!({"resourceBounds": bounds()})));
    let reason = index.select().refused_scope[&policy_key("default", "a")].clone();
    assert!(reason.starts_with("spec.resourceBounds.enforced"), "{reason}");
}
