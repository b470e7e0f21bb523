//! The CRD in the chart is the one that this code means.

use std::collections::{BTreeMap, BTreeSet};

use optipod_common::decide::Reason;
use serde_json::json;

use super::convert::warnings;
use super::*;

#[test]
fn generated_crds_are_up_to_date() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/crds");
    for crd in crds() {
        let path = format!("{folder}/{}.yaml", crd.spec.names.plural);
        let header = "# Generated: UPDATE_GENERATED=1 cargo test -p optipod-coordinator api::\n";
        generated::check(&path, &format!("{header}{}", serde_yaml_ng::to_string(&crd).unwrap()));
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), crds().len(), "a file of a CRD that is no more");
}

#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docs/reference.md");
    generated::check(path, &reference::markdown(&crds()));
}

#[test]
fn the_guide_explains_every_reason_and_no_other() {
    let expected: BTreeMap<_, _> =
        Reason::ALL.iter().map(|reason| (reason.as_str(), reason.meaning().trim())).collect();
    let guide = guide();
    let rows = reference::rows(&guide, "Reasons");
    assert_eq!(rows.len(), expected.len());
    assert_eq!(rows.into_iter().collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn the_guide_explains_every_warning_and_no_other() {
    let everything = json!({
        "mode": "Auto",
        "selector": {"namespaces": {"allow": ["a"], "deny": ["a"]}, "workloadKinds": ["Deployments"]},
        "metricsConfig": {"provider": "prometheus"},
        "strategy": {"type": "Percentile", "objective": "Safe"},
        "resourceBounds": {"enforced": true},
        "updateStrategy": {"allowInPlaceResize": false, "allowRecreate": true, "limits": {"cpu": {"type": "Ratio"}}, "rollback": {"onOOM": false}},
    });
    let known = json!({"mode": "Auto", "replacement": "Known", "resourceBounds": {"cpu": {"min": 100}}});
    let policies: Vec<_> =
        [everything, known].map(|spec| warnings(&serde_json::from_value(spec).unwrap())).into();
    let of_a_policy = policies.iter().flatten().map(|warning| warning.condition);
    let expected: BTreeSet<_> =
        of_a_policy.chain(["Conflict", "Enforced", "ProtectedNamespaceOnly"]).collect();
    let guide = guide();
    let rows = reference::rows(&guide, "Warnings");
    assert_eq!(rows.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(), expected);
    assert_eq!(rows.len(), expected.len());
}

fn guide() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docs/policies.md");
    std::fs::read_to_string(path).unwrap()
}

mod reference;

/// Files that are made from code.
pub mod generated {
    /// Compares a file with what the code says, or writes it when `UPDATE_GENERATED` is set.
    pub fn check(path: &str, expected: &str) {
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, expected).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(stored, expected, "{path}: write it anew with UPDATE_GENERATED=1");
    }
}

mod conversion {
    use optipod_common::policy::{Objective, Policy, Strategy};
    use serde_json::{Value, json};

    use crate::api::convert::{to_policy, warnings};
    use crate::api::v1alpha1::OptimizationPolicySpec;

    fn spec(value: Value) -> OptimizationPolicySpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn defaults_of_the_api_are_those_of_the_core() {
        let (policy, selector) = to_policy(&spec(json!({}))).unwrap();
        let adaptive = Strategy::Adaptive(Objective::Balanced);
        assert_eq!(policy, Policy { strategy: adaptive, ..Policy::default() });
        assert_eq!((selector.weight, selector.kinds.len()), (100, 0));
        let (policy, _) = to_policy(&spec(json!({"metricsConfig": {"percentile": "P90"}}))).unwrap();
        assert_eq!(policy, Policy::default());
    }

    #[test]
    fn a_strategy_that_is_left_out_follows_from_what_is_given() {
        let (percentile, objective) = (json!({"percentile": "P95"}), json!({"objective": "Safe"}));
        for (metrics, strategy, expected) in [
            (json!({}), json!({}), "Adaptive(Balanced)"),
            (json!({"rollingWindow": "1h"}), json!({"version": 1}), "Adaptive(Balanced)"),
            (percentile.clone(), json!({}), "Percentile"),
            (json!({"safetyFactor": 1.5}), json!({}), "Percentile"),
            (json!({}), objective.clone(), "Adaptive(Safe)"),
            (percentile.clone(), objective, "Adaptive(Safe)"),
            (percentile.clone(), json!({"type": "Adaptive"}), "Adaptive(Balanced)"),
            (json!({}), json!({"type": "Percentile"}), "Percentile"),
            (json!({}), json!({"threshold": {"cooldown": "1m"}}), "cooldown: 60s"),
            (json!({}), json!({"expression": {"cpu": "cpu.p(95)"}}), "cpu: Some(\"cpu.p(95)\")"),
        ] {
            let spec = spec(json!({"metricsConfig": metrics, "strategy": strategy.clone()}));
            let (policy, _) = to_policy(&spec).unwrap();
            assert!(format!("{:?}", policy.strategy).contains(expected), "{strategy} {:?}", policy.strategy);
        }
        let two = json!({"strategy": {"objective": "Safe", "threshold": {}}});
        assert_eq!(to_policy(&spec(two)).unwrap_err()[0].field, "spec.strategy.type");
    }

    #[test]
    fn what_does_not_do_what_it_seems_to_say_is_told() {
        for (value, condition) in [
            (json!({"updateStrategy": {"limits": {"cpu": {"type": "Ratio"}}}}), Some("LimitsUnused")),
            (json!({"updateStrategy": {"limits": {"memory": {"type": "Ratio"}}}}), None),
            (
                json!({"updateStrategy": {"updateRequestsOnly": false, "limits": {"cpu": {"type": "Ratio"}}}}),
                None,
            ),
            (
                json!({"guaranteed": "MoveTogether", "updateStrategy": {"limits": {"cpu": {"type": "Ratio"}}}}),
                Some("LimitsUnused"),
            ),
            (
                json!({"updateStrategy": {"updateRequestsOnly": false, "resources": ["memory"], "limits": {"cpu": {"type": "Ratio"}}}}),
                Some("LimitsUnused"),
            ),
            (
                json!({"updateStrategy": {"updateRequestsOnly": false, "resources": ["cpu"], "limits": {"cpu": {"type": "Ratio"}}}}),
                None,
            ),
            (json!({"mode": "Auto", "replacement": "Accept"}), None),
            (json!({"mode": "Auto"}), Some("ReplacementSizeUnknown")),
            (json!({"mode": "Auto", "replacement": "Known"}), Some("DecreasesHeld")),
            (json!({"replacement": "Known", "updateStrategy": {"allowInPlaceResize": false}}), None),
            (
                json!({"mode": "Auto", "replacement": "Accept", "updateStrategy": {"allowInPlaceResize": false}}),
                Some("NothingResized"),
            ),
            (json!({"resourceBounds": {"cpu": {"min": 100}}}), Some("ManyCores")),
            (json!({"resourceBounds": {"cpu": {"min": 63, "max": "64"}}}), Some("ManyCores")),
            (json!({"startup": {"boost": {"cpu": "500"}}}), Some("ManyCores")),
            (json!({"resourceBounds": {"cpu": {"min": "100m", "max": 63}}}), None),
            (json!({"resourceBounds": {"enforced": true}}), Some("NothingEnforced")),
            (
                json!({"resourceBounds": {"enforced": true, "cpu": {}, "relativeToDeclared": {"memory": {}}}}),
                Some("NothingEnforced"),
            ),
            (
                json!({"resourceBounds": {"enforced": true, "relativeToDeclared": {"cpu": {"min": "-20%"}}}}),
                None,
            ),
            (json!({"updateStrategy": {"rollback": {"onThrottle": "5%"}}}), Some("RollbackUnsupported")),
            (json!({"updateStrategy": {"rollback": {"onOOM": true}}}), None),
            (
                json!({"selector": {"namespaces": {"allow": ["a", "b"], "deny": ["b", "a", "c"]}}}),
                Some("NothingSelected"),
            ),
            (json!({"selector": {"namespaces": {"allow": ["a", "b"], "deny": ["b"]}}}), None),
            (json!({"selector": {"workloadKinds": ["Daemonset"]}}), Some("KindUnknown")),
            (json!({"selector": {"workloadKinds": ["Pods"]}}), Some("KindUnknown")),
            (json!({"selector": {"workloadKinds": ["Deploymnet"]}}), Some("KindUnknown")),
            (
                json!({"selector": {"workloadKinds": ["CronJob", "Rollout", "Cluster", "Node", "Kafka"]}}),
                None,
            ),
        ] {
            let found: Vec<_> = warnings(&spec(value.clone())).iter().map(|w| w.condition).collect();
            assert_eq!(found, Vec::from_iter(condition), "{value}");
        }
    }

    #[test]
    fn what_is_for_another_strategy_is_told() {
        let percentile = json!({"percentile": "P95"});
        let factor = json!({"safetyFactor": 2});
        let one = json!({"expression": {"cpu": "cpu.mean"}});
        let both = json!({"expression": {"cpu": "cpu.mean", "memory": "memory.peak"}});
        let adaptive = json!({"type": "Adaptive"});
        let threshold = json!({"type": "Threshold"});
        for (metrics, strategy, scope, told) in [
            (&percentile, &json!({}), "Workload", None),
            (&percentile, &adaptive, "Workload", Some("does not use metricsConfig.percentile: ")),
            (&factor, &adaptive, "Workload", Some("does not use metricsConfig.safetyFactor: ")),
            (&factor, &adaptive, "Pod", Some("only where use of a single pod (scope: Pod) raises a size")),
            (&percentile, &threshold, "Pod", None),
            (
                &factor,
                &threshold,
                "Workload",
                Some("uses metricsConfig.safetyFactor only where use of other revisions raises"),
            ),
            (&factor, &threshold, "Pod", Some("only where use of other revisions or of a single pod")),
            (&factor, &one, "Workload", None),
            (&factor, &both, "Workload", Some("only where use of other revisions raises")),
            (&json!({}), &json!({"objective": "Safe"}), "Workload", None),
            (
                &json!({}),
                &json!({"type": "Percentile", "objective": "Safe"}),
                "Workload",
                Some("does not use strategy.objective: "),
            ),
            (
                &factor,
                &json!({"type": "Threshold", "objective": "Safe"}),
                "Workload",
                Some("has no effect; it uses metricsConfig.safetyFactor only"),
            ),
        ] {
            let value = json!({"metricsConfig": metrics, "strategy": strategy, "scope": scope});
            let found = warnings(&spec(value.clone())).into_iter().find(|w| w.condition == "FieldsUnused");
            assert_eq!(found.is_some(), told.is_some(), "{value} {found:?}");
            assert!(found.as_ref().is_none_or(|w| w.message.contains(told.unwrap())), "{value} {found:?}");
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "one table")]
    fn every_violation_is_named_at_once() {
        let long = "a".repeat(64);
        for (value, fields) in [
            (json!({"weight": -1}), &["spec.weight"][..]),
            (
                json!({"metricsConfig": {"percentile": "P0", "safetyFactor": 0.09, "minimumCoverage": 2, "rollingWindow": "10s"}}),
                &[
                    "spec.metricsConfig.minimumCoverage",
                    "spec.metricsConfig.percentile",
                    "spec.metricsConfig.rollingWindow",
                    "spec.metricsConfig.safetyFactor",
                ],
            ),
            (
                json!({"resourceBounds": {"cpu": {"min": 4, "max": "2"}, "memory": {"min": "8GB", "max": "-1"}}}),
                &[
                    "spec.resourceBounds.cpu",
                    "spec.resourceBounds.memory.max",
                    "spec.resourceBounds.memory.min",
                ],
            ),
            (json!({"resourceBounds": {"cpu": {"max": 0}}}), &["spec.resourceBounds.cpu.max"]),
            (
                json!({"resourceBounds": {"memory": {"min": "128m", "max": 128}}, "startup": {"boost": {"memory": "512m"}},
                    "strategy": {"threshold": {"minRequestMemory": 100}}}),
                &[
                    "spec.resourceBounds.memory.max",
                    "spec.resourceBounds.memory.min",
                    "spec.startup.boost.memory",
                    "spec.strategy.threshold.minRequestMemory",
                ],
            ),
            (
                json!({"selector": {"workloadSelector": {"matchLabels": {"a b": "ok", "app": "-x"}},
                    "podSelector": {"matchExpressions": [{"key": "x/y/z", "operator": "In", "values": ["ok", "no way"]}]}}}),
                &[
                    "spec.selector.podSelector.matchExpressions[0].key",
                    "spec.selector.podSelector.matchExpressions[0].values[1]",
                    "spec.selector.workloadSelector.matchLabels",
                    "spec.selector.workloadSelector.matchLabels.app",
                ],
            ),
            (
                json!({"updateStrategy": {"windows": [{"from": "01:00", "to": "03:00"}, {"from": "02:00", "to": "05:00"}, {"from": "04:00", "to": "06:00"}]}}),
                &["spec.updateStrategy.windows[1]", "spec.updateStrategy.windows[2]"],
            ),
            (
                json!({"resourceBounds": {"relativeToDeclared": {"cpu": {"min": "-100%"}, "memory": {"min": "5%", "max": "-5%"}}}}),
                &[
                    "spec.resourceBounds.relativeToDeclared.cpu.min",
                    "spec.resourceBounds.relativeToDeclared.memory",
                ],
            ),
            (
                json!({"updateStrategy": {"cooldown": "soon", "minChange": "101%", "deferredDeadline": "0s", "maxConcurrentResizes": 0}}),
                &[
                    "spec.updateStrategy.cooldown",
                    "spec.updateStrategy.deferredDeadline",
                    "spec.updateStrategy.maxConcurrentResizes",
                    "spec.updateStrategy.minChange",
                ],
            ),
            (json!({"reconciliationInterval": "500ms"}), &["spec.reconciliationInterval"]),
            (json!({"selector": {"namespaces": {"allow": []}}}), &["spec.selector.namespaces.allow"]),
            (
                json!({"selector": {"namespaces": {"allow": ["ok", long], "deny": ["-x"]}}}),
                &["spec.selector.namespaces.allow[1]", "spec.selector.namespaces.deny[0]"],
            ),
            (
                json!({"strategy": {"type": "Expression"}, "ownerSync": [{}], "metricsConfig": {"provider": "vpa"}}),
                &["spec.metricsConfig.provider", "spec.ownerSync", "spec.strategy.expression"],
            ),
            (
                json!({"strategy": {"type": "Threshold", "threshold": {"scaleUpThreshold": 2, "cooldown": "x", "minRequestMemory": "1MB", "scaleUpMinGrowth": 11}}}),
                &[
                    "spec.strategy.threshold.cooldown",
                    "spec.strategy.threshold.minRequestMemory",
                    "spec.strategy.threshold.scaleUpMinGrowth",
                    "spec.strategy.threshold.scaleUpThreshold",
                ],
            ),
            (
                json!({"strategy": {"threshold": {"scaleDownThreshold": 0.9}}}),
                &[
                    "spec.strategy.threshold.scaleDownThreshold",
                    "spec.strategy.threshold.scaleUpUsageMultiplier",
                ],
            ),
            (
                json!({"strategy": {"threshold": {"scaleDownThreshold": 0.9, "scaleUpMinGrowth": 0.5}}}),
                &["spec.strategy.threshold.scaleUpMinGrowth"],
            ),
            (json!({"strategy": {"expression": {}}}), &["spec.strategy.expression"]),
            (
                json!({"strategy": {"expression": {"cpu": " ", "memory": "x".repeat(513)}}}),
                &["spec.strategy.expression.cpu", "spec.strategy.expression.memory"],
            ),
            (
                json!({"strategy": {"type": "Expression", "expression": {"cpu": "cpu.p(95) * 1.1 +", "memory": "disk.peak"}}}),
                &["spec.strategy.expression.cpu", "spec.strategy.expression.memory"],
            ),
            (
                json!({"startup": {"boost": {"cpu": "0.9x", "memory": "0"}, "until": "0s"}}),
                &["spec.startup.boost.cpu", "spec.startup.boost.memory", "spec.startup.until"],
            ),
            (
                json!({"startup": {"boost": {"cpu": "-1", "memory": "1e3x"}, "until": "25h"}}),
                &["spec.startup.boost.cpu", "spec.startup.boost.memory", "spec.startup.until"],
            ),
            (
                json!({"updateStrategy": {"resources": [], "maxStep": {"up": "0%", "down": "100%"},
                    "limits": {"cpu": {"type": "Headroom", "headroom": {"percentile": "P0", "factor": 0.5}}, "memory": {"type": "Keep", "headroom": {}}},
                    "canary": {"share": "10", "observe": "0s"}, "rollback": {"onThrottle": "x", "onPressure": "101%", "backoff": "-1s"}}}),
                &[
                    "spec.updateStrategy.canary.observe",
                    "spec.updateStrategy.canary.share",
                    "spec.updateStrategy.limits.cpu.headroom.factor",
                    "spec.updateStrategy.limits.cpu.headroom.percentile",
                    "spec.updateStrategy.limits.memory.headroom",
                    "spec.updateStrategy.maxStep.down",
                    "spec.updateStrategy.maxStep.up",
                    "spec.updateStrategy.resources",
                    "spec.updateStrategy.rollback.backoff",
                    "spec.updateStrategy.rollback.onPressure",
                    "spec.updateStrategy.rollback.onThrottle",
                ],
            ),
            (
                json!({"updateStrategy": {"windows": [
                    {"days": [], "from": "1:00", "to": "24:01", "timeZone": "Europe/Atlantis"}, {"from": "05:00", "to": "05:00"}]}}),
                &[
                    "spec.updateStrategy.windows[0].days",
                    "spec.updateStrategy.windows[0].from",
                    "spec.updateStrategy.windows[0].timeZone",
                    "spec.updateStrategy.windows[0].to",
                    "spec.updateStrategy.windows[1]",
                ],
            ),
            (
                json!({"updateStrategy": {"windows": [
                    {"from": "01:00", "to": "02:00"}, {"days": ["Sun"], "from": "00:00", "to": "24:00"}]}}),
                &["spec.updateStrategy.windows[1]"],
            ),
            (
                json!({"selector": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn"}]}}}),
                &["spec.selector.podSelector.matchExpressions[0]"],
            ),
            (
                json!({"selector": {"workloadKinds": ["pod"], "excludeContainers": ["a b"]}}),
                &["spec.selector.excludeContainers[0]", "spec.selector.workloadKinds[0]"],
            ),
            (
                json!({"selector": {"workloadSelector": {"matchExpressions": [
                    {"key": "a", "operator": "In"}, {"key": "", "operator": "Exists"}, {"key": "a", "operator": "DoesNotExist", "values": ["x"]}]}}}),
                &[
                    "spec.selector.workloadSelector.matchExpressions[0]",
                    "spec.selector.workloadSelector.matchExpressions[1].key",
                    "spec.selector.workloadSelector.matchExpressions[2]",
                ],
            ),
        ] {
            let violations = to_policy(&spec(value.clone())).unwrap_err();
            let mut found: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
            found.sort_unstable();
            assert_eq!(found, fields, "{value}");
        }
    }

    #[test]
    fn what_users_write_reaches_the_core() {
        let (policy, selector) = to_policy(&spec(json!({
            "mode": "Auto", "weight": 7, "replacement": "Accept", "reconciliationInterval": "1s",
            "selector": {"namespaceSelector": {}, "namespaces": {"deny": ["kube-system"]}, "excludeContainers": ["istio-proxy"]},
            "metricsConfig": {"rollingWindow": "15s", "percentile": "P99.9", "safetyFactor": 1, "minimumCoverage": 0},
            "resourceBounds": {"cpu": {"min": "100m", "max": 4}, "memory": {"max": 8_589_934_592_i64},
                               "relativeToDeclared": {"cpu": {"min": "-20%", "max": "+20%"}}},
            "updateStrategy": {"updateRequestsOnly": false, "limits": {"cpu": {"type": "Ratio"}}, "cooldown": "0s", "minChange": "2.5%"},
        })))
        .unwrap();
        shows(
            &policy,
            &[
                "Auto",
                "rolling_window: 15s",
                "Percentile(9990)",
                "Factor(1000)",
                "min: Some(MilliCpu(100)), max: Some(MilliCpu(4000))",
                "max: Some(Bytes(8589934592))",
                "RelativePercent(-20)",
                "update_requests_only: false",
                "cpu_limit: Ratio",
                "memory_limit: Ratio",
                "cooldown: 0ns",
                "Share(25)",
                "replacement: Accept",
                "reconciliation_interval: 1s",
            ],
        );
        assert_eq!((selector.weight, selector.deny.as_slice()), (7, ["kube-system".to_owned()].as_slice()));
        assert!(selector.namespaces.unwrap().is_empty() && selector.allow.is_none());
        assert_eq!(selector.exclude_containers, ["istio-proxy"]);
    }

    #[test]
    fn every_choice_reaches_the_core() {
        for (value, part) in [
            (json!({"dryRun": true}), "dry_run: true"),
            (json!({"metricsConfig": {"provider": "prometheus"}}), "provider: Prometheus"),
            (json!({"metricsConfig": {"provider": "metrics-server"}}), "provider: MetricsServer"),
            (json!({"metricsConfig": {"memoryPeakFloor": false}}), "memory_peak_floor: false"),
            (json!({"strategy": {"type": "Adaptive"}}), "Adaptive(Balanced)"),
            (json!({"strategy": {"type": "Adaptive", "objective": "Safe"}}), "Adaptive(Safe)"),
            (json!({"strategy": {"type": "Adaptive", "objective": "Savings"}}), "Adaptive(Savings)"),
            (json!({"strategy": {"type": "Threshold"}}), "scale_up_threshold: Share(800)"),
            (
                json!({"strategy": {"type": "Threshold", "threshold": {"minRequestMemory": 2_097_152}}}),
                "min_request_memory: Bytes(2097152)",
            ),
            (
                json!({"strategy": {"type": "Expression", "expression": {"cpu": "cpu.p(95)"}}}),
                "cpu: Some(\"cpu.p(95)\"), memory: None",
            ),
            (json!({"scope": "Pod"}), "scope: Pod"),
            (json!({"anticipate": true}), "anticipate: true"),
            (json!({"startup": {"boost": {"cpu": "2x"}}}), "Times(Factor(2000))"),
            (json!({"startup": {"boost": {"cpu": 2}}}), "Amount(MilliCpu(2000))"),
            (
                json!({"startup": {"boost": {"memory": "learned"}, "until": "learned"}}),
                "memory: Some(Learned), until: Plateau",
            ),
            (json!({"startup": {"until": "2m"}}), "until: For(120s)"),
            (json!({"updateStrategy": {"resources": ["memory"]}}), "Controlled { cpu: false, memory: true }"),
            (
                json!({"updateStrategy": {"limits": {"cpu": {"type": "Headroom"}}}}),
                "cpu_limit: Headroom { percentile: Percentile(9990), factor: Factor(1200) }",
            ),
            (
                json!({"updateStrategy": {"maxStep": {"up": "100%"}}}),
                "MaxStep { up: Some(Percent(1000)), down: None }",
            ),
            (
                json!({"updateStrategy": {"windows": [{"days": ["Tue", "Mon"], "from": "01:00", "to": "24:00", "allow": "Any"}]}}),
                "Window { days: Days(3), from: MinuteOfDay(60), to: MinuteOfDay(1440), zone: ZoneName(\"UTC\"), allow: Any }",
            ),
            (json!({"updateStrategy": {"canary": {}}}), "Canary { share: Share(100), observe: 300s }"),
            (json!({"updateStrategy": {"rollback": {"onOOM": false}}}), "on_oom: false"),
            (json!({"initialSizing": false}), "initial_sizing: false"),
            (json!({"guaranteed": "MoveTogether"}), "guaranteed: MoveTogether"),
            (json!({"hpa": "KeepUtilisation"}), "hpa: KeepUtilisation"),
        ] {
            let (policy, _) =
                to_policy(&spec(value.clone())).unwrap_or_else(|error| panic!("{value}: {error:?}"));
            assert_ne!(policy, Policy::default(), "{value}");
            shows(&policy, &[part]);
        }
    }

    /// Every part occurs in the debug text.
    fn shows(policy: &Policy, parts: &[&str]) {
        let text = format!("{policy:?}");
        for part in parts {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
