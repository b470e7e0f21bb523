//! What policies must not do, and which policies there cannot be.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::{SYSTEM, eventually, list, text};
use crate::manifests::{OVER_ASKING, deployment, policy};
use crate::pod::Pod;
use crate::space::Space;

/// Several evaluations, and more than the coverage that a decrease needs.
const LONG_ENOUGH: Duration = Duration::from_secs(20);

/// Fails unless nobody touched the pod for [`LONG_ENOUGH`].
fn expect_untouched(space: &Space<'_>, name: &str, settled: &Pod) -> Result<()> {
    sleep(LONG_ENOUGH);
    let after = Pod::of(space, name)?;
    ensure!(after == *settled, "{settled:?} became {after:?}");
    ensure!(!after.resized, "somebody resized {after:?}");
    let events = space.events(&after.life.pod)?;
    ensure!(events.is_empty(), "{events:?}");
    Ok(())
}

/// Property 8: recommend mode prevents modifications
pub fn recommend_mode_changes_nothing(space: &Space<'_>) -> Result<()> {
    space.create()?;
    Pod::start(space, "watched", OVER_ASKING)?;
    space.cluster.apply(&policy(&space.name, "recommend", &json!({"mode": "Recommend"})))?;
    eventually("there is a recommendation", || {
        let verdict = space.expect_verdict("recommend", "watched", "Recommended", "ModeRecommend")?;
        let container = verdict.pointer("/recommendations/0").context("no recommendation")?;
        let cpu = text(container, "/cpu");
        ensure!(text(container, "/container") == "app" && !cpu.is_empty() && cpu != "200m", "{verdict}");
        ensure!(text(container, "/current/cpu") == "200m", "{verdict}");
        ensure!(text(container, "/explanation").contains("percentile"), "{verdict}");
        Ok(())
    })?;
    expect_untouched(space, "watched", &Pod::of(space, "watched")?)?;
    space.expect_verdict("recommend", "watched", "Recommended", "ModeRecommend").map(drop)
}

/// Property 19: disabled mode stops processing
pub fn disabled_mode_changes_nothing(space: &Space<'_>) -> Result<()> {
    space.create()?;
    Pod::start(space, "left-alone", OVER_ASKING)?;
    let disabled = policy(&space.name, "hands-off", &json!({"mode": "Disabled", "weight": 200}));
    space.cluster.apply(&disabled)?;
    // it also keeps weaker policies away
    space.cluster.apply(&policy(&space.name, "weaker", &json!({})))?;
    eventually("the policy says that it does nothing", || {
        space.expect_verdict("hands-off", "left-alone", "Skipped", "ModeDisabled")
    })?;
    eventually("the weaker policy says to whom it lost", || {
        let weaker = space.get(&["optimizationpolicy", "weaker"])?;
        let mut conditions = list(&weaker, "/status/conditions");
        ensure!(conditions.any(|c| text(c, "/reason") == "PolicyConflict"), "{}", weaker["status"]);
        Ok(())
    })?;
    expect_untouched(space, "left-alone", &Pod::of(space, "left-alone")?)
}

/// The whole table is in `scenarios/golden`; these go the way that a person's go, through kubectl.
/// Property 15: policy validation
pub fn invalid_policies_are_refused_with_field_and_rule(space: &Space<'_>) -> Result<()> {
    space.create()?;
    let refused: [(Value, &str, &str); 6] = [
        (
            json!({"mode": "Automatic"}),
            "spec.mode",
            "supported values: \"Auto\", \"Recommend\", \"Disabled\"",
        ),
        (json!({"weight": -1}), "spec.weight", "should be greater than or equal to 0"),
        (
            json!({"metricsConfig": {"percentile": "P0"}}),
            "spec.metricsConfig.percentile",
            "must be a percentile above P0, at most P100",
        ),
        (
            json!({"updateStrategy": {"cooldown": "1d"}}),
            "spec.updateStrategy.cooldown",
            "must be a duration from 0s to 2160h",
        ),
        (
            json!({"resourceBounds": {"cpu": {"min": "2", "max": "500m"}}}),
            "spec.resourceBounds.cpu",
            "min 2 is above max 500m: min must be at most max",
        ),
        (json!({"modus": "Auto"}), "spec.modus", "unknown field"),
    ];
    for (changes, field, rule) in refused {
        let complaint = match space.cluster.apply(&policy(&space.name, "invalid", &changes)) {
            Ok(()) => bail!("{changes} was accepted"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(complaint.contains(field), "{changes}: no {field:?} in {complaint}");
        ensure!(complaint.contains(rule), "{changes}: no {rule:?} in {complaint}");
    }
    let left = space.get(&["optimizationpolicies"])?;
    ensure!(list(&left, "/items").next().is_none(), "accepted: {left}");
    Ok(())
}

pub fn system_pods_and_own_namespace_are_never_touched(space: &Space<'_>) -> Result<()> {
    const SYSTEM_POD: &str = "optipod-scenario";
    let cluster = space.cluster;
    let mut workload = deployment(space, SYSTEM_POD, OVER_ASKING);
    workload["metadata"]["namespace"] = json!("kube-system");
    cluster.apply(&workload)?;
    let selector = json!({"namespaceSelector": {}, "namespaces": {"allow": [SYSTEM, "kube-system"]}});
    let everything = json!({"selector": selector, "updateStrategy": {"updateRequestsOnly": false}});
    cluster.apply(&policy(SYSTEM, "everything", &everything))?;
    let refused = |workload: &str| -> Result<()> {
        let policy = cluster.get(&["optimizationpolicy", "everything", "--namespace", SYSTEM])?;
        let status = list(&policy, "/status/workloads").find(|status| text(status, "/name") == workload);
        let status = status.with_context(|| format!("{workload} is not in {}", policy["status"]))?;
        ensure!(text(status, "/reason") == "ProtectedNamespace", "{status}");
        Ok(())
    };
    let all = ["optipod-agent", "optipod-coordinator", SYSTEM_POD];
    eventually("the policy says why it does nothing", || all.iter().try_for_each(|name| refused(name)))?;
    sleep(LONG_ENOUGH);
    all.iter().try_for_each(|name| refused(name))?;
    for namespace in [SYSTEM, "kube-system"] {
        let pods = cluster.get(&["pods", "--show-managed-fields", "--namespace", namespace])?;
        ensure!(list(&pods, "/items").next().is_some(), "no pods in {namespace}");
        for pod in list(&pods, "/items") {
            let mut managers = list(pod, "/metadata/managedFields");
            ensure!(managers.all(|entry| text(entry, "/subresource") != "resize"), "resized: {pod}");
        }
    }
    cluster.kubectl(&["delete", "optimizationpolicy", "everything", "--namespace", SYSTEM])?;
    cluster
        .kubectl(&["delete", "deployment", SYSTEM_POD, "--namespace", "kube-system", "--wait=false"])
        .map(drop)
}
