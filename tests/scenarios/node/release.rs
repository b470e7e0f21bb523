//! The chart: replaced by another version, and removed.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{SYSTEM, eventually, list, text};
use crate::guest::Cgroup;
use crate::manifests::{OVER_ASKING, policy};
use crate::pod::{Life, Pod};
use crate::space::Space;

/// The workload `served`, after OptiPod made it smaller.
fn resized(space: &Space<'_>) -> Result<Pod> {
    let both = json!({"updateStrategy": {"updateRequestsOnly": false}});
    space.cluster.apply(&policy(&space.name, "shrink", &both))?;
    Pod::resized_to(space, "served", |size| size.cpu_request < 100)
}

/// Property 31: upgrade preservation
pub fn upgraded_release_goes_on_resizing(space: &Space<'_>) -> Result<()> {
    let cluster = space.cluster;
    space.create()?;
    Pod::start(space, "served", OVER_ASKING)?;
    cluster.apply(&policy(&space.name, "shrink", &json!({"mode": "Recommend"})))?;
    eventually("there is a recommendation", || {
        space.expect_verdict("shrink", "served", "Recommended", "ModeRecommend")
    })?;
    let stored = space.get(&["optimizationpolicy", "shrink"])?;
    let told = space.get(&["recommendations.optipod.io"])?;
    ensure!(list(&told, "/items").count() == 1, "{told}");
    let all = || -> Result<Vec<Life>> {
        Ok([Life::of_component(cluster, "agent")?, Life::of_component(cluster, "coordinator")?].concat())
    };
    let before = all()?;
    cluster.release(&["telemetry.frameInterval=3s"])?;
    let after = eventually("no pod of the old release is left", || {
        let after = all()?;
        ensure!(after.len() == before.len(), "{after:?}");
        Ok(after)
    })?;
    for life in &after {
        ensure!(!before.iter().any(|old| old.pod_uid == life.pod_uid), "{} was not replaced", life.pod);
        ensure!(life.restarts == 0, "restarted: {life:?}");
    }
    let leader = eventually("a new pod leads", || {
        let leader = cluster.leader()?;
        ensure!(after.iter().any(|life| life.pod == leader), "{leader} still leads");
        Ok(leader)
    })?;
    let arguments = cluster.get(&["pod", &leader, "--namespace", SYSTEM])?;
    let mut arguments = list(&arguments, "/spec/containers/0/args");
    ensure!(arguments.any(|argument| argument == "--frame-interval=3s"), "the new value did not arrive");
    expect_kept(space, &stored, &told)?;
    space.keep();
    resized(space).map(drop)
}

/// Fails unless a policy and its recommendation are the same objects, and say what they said or something newer.
fn expect_kept(space: &Space<'_>, stored: &Value, told: &Value) -> Result<()> {
    let identity = |object: &Value| {
        ["/metadata/uid", "/metadata/generation", "/spec", "/status/policy"]
            .map(|field| object.pointer(field).cloned().unwrap_or_default())
    };
    let now = space.get(&["optimizationpolicy", "shrink"])?;
    ensure!(identity(&now) == identity(stored), "{stored} became {now}");
    let said = |policy: &Value| text(policy, "/status/workloads/0/lastRecommendation");
    // in one format of fixed width, so later times are greater
    ensure!(!said(stored).is_empty() && said(&now) >= said(stored), "{stored} became {now}");
    let now = space.get(&["recommendations.optipod.io"])?;
    let identities = |told: &Value| list(told, "/items").map(identity).collect::<Vec<_>>();
    ensure!(identities(&now) == identities(told), "{told} became {now}");
    Ok(())
}

/// Everything of ours, by the chart's labels, in all namespaces.
fn labelled(space: &Space<'_>) -> Result<BTreeSet<String>> {
    let cluster = space.cluster;
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "--output=name"])?;
    // recommendations stay with the policies: people may want to read them
    let stays = |kind: &str| kind.starts_with("events") || kind.starts_with("recommendations.optipod.io");
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !stays(kind)).collect();
    let ours = ["--all-namespaces", "--selector", "app.kubernetes.io/part-of=optipod", "--ignore-not-found"];
    let names = cluster.kubectl(&[&["get", &kinds.join(","), "--output=name"], &ours[..]].concat())?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Everything in the release's namespace but Events, and what Kubernetes puts into each namespace.
fn in_namespace(space: &Space<'_>) -> Result<BTreeSet<String>> {
    let cluster = space.cluster;
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "--namespaced", "--output=name"])?;
    // recommendations stay with the policies: people may want to read them
    let stays = |kind: &str| kind.starts_with("events") || kind.starts_with("recommendations.optipod.io");
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !stays(kind)).collect();
    let kinds = kinds.join(",");
    let names =
        cluster.kubectl(&["get", &kinds, "--output=name", "--namespace", SYSTEM, "--ignore-not-found"])?;
    let everywhere = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    Ok(names.lines().filter(|name| !everywhere.contains(name)).map(str::to_owned).collect())
}

pub fn uninstalled_release_leaves_workloads_alone(space: &Space<'_>) -> Result<()> {
    const DEFINITION: &str = "optimizationpolicies.optipod.io";
    let cluster = space.cluster;
    space.create()?;
    Pod::start(space, "served", OVER_ASKING)?;
    resized(space)?;
    // what still happens before the removal is none of its doing
    cluster.apply(&policy(&space.name, "shrink", &json!({"mode": "Recommend"})))?;
    eventually("resizing has ended", || {
        let policy = space.get(&["optimizationpolicy", "shrink"])?;
        ensure!(policy["status"]["observedGeneration"] == policy["metadata"]["generation"], "{policy}");
        let phase = text(&space.verdict("shrink", "served")?, "/status");
        ensure!(phase != "InProgress", "{phase}");
        Ok(())
    })?;
    let before = Pod::of(space, "served")?;
    let kernel = Cgroup::of(cluster, &before)?;
    let ours = labelled(space)?;
    let kind = |kind: &str| ours.iter().any(|name| name.starts_with(kind));
    ensure!(kind("clusterrole.") && kind("deployment.") && kind("daemonset.") && kind("pod/"), "{ours:?}");
    ensure!(in_namespace(space)?.contains("lease.coordination.k8s.io/optipod-coordinator"), "no Lease");

    cluster.uninstall()?;
    eventually("nothing of ours is left", || {
        let left: Vec<String> = labelled(space)?.union(&in_namespace(space)?).cloned().collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    cluster.get(&["customresourcedefinition", DEFINITION])?;
    let policy = space.get(&["optimizationpolicy", "shrink"])?;
    ensure!(text(&policy, "/spec/mode") == "Recommend", "{policy}");

    let after = Pod::of(space, "served")?;
    after.expect_same_life(&before)?;
    ensure!((after.wanted, after.actual) == (before.wanted, before.actual), "{before:?} became {after:?}");
    let limits = |cgroup: &Cgroup| (cgroup.cpu_quota, cgroup.cpu_weight, cgroup.memory_max);
    ensure!(limits(&Cgroup::of(cluster, &after)?) == limits(&kernel), "the kernel enforces something else");
    Ok(())
}
