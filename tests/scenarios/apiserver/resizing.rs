//! What is written, to which pods, and what is not.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use optipod_coordinator::FIELD_MANAGER;
use optipod_coordinator::api::v1alpha1::WorkloadPhase;
use serde_json::json;

use crate::coordinator::CONTESTED;
use crate::objects::{merge, pod, resizers, resources, size, sizes, template};
use crate::world::{SOON, World, same, wait};

/// Property 2: sufficient data triggers updates
/// Property 3: updates preserve limits
/// Property 23: status timestamp tracking
pub async fn requests_shrink_and_nothing_else_changes(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("shrink").await?;
    let mut template = template("follow", &resources("1", "512Mi", "2", "1Gi"), (100, 64));
    template["metadata"]["labels"]["app"] = "web".into();
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    world
        .apply(&namespace, &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}))
        .await?;
    // so much evidence that CPU and memory shrink together: of one slot of 15 s nobody knows whether memory still rises
    let covered = json!({"metricsConfig": {"minimumCoverage": 0.5}});
    world.policy(&namespace, "auto", covered).await?;
    let name = wait("a pod of the Deployment", SOON, async || {
        let pods = world.pods(&namespace).list(&ListParams::default()).await.ok()?;
        pods.items.first().map(ResourceExt::name_any)
    });
    let name = name.await?;
    // 100m and 64Mi in use, times 1.2; memory in whole MiB
    let after = world.until_size(&namespace, &name, sizes("120m", "77Mi", "2", "1Gi")).await?;
    let owned = json!({"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {"f:resources": {"f:requests": {"f:cpu": {}, "f:memory": {}}}}}}});
    same("owner of the resize", resizers(&after), vec![(FIELD_MANAGER.to_owned(), owned)])?;
    same("generation", after.metadata.generation, Some(2))?;

    let applied = |w: &optipod_coordinator::api::v1alpha1::WorkloadStatus| w.status == WorkloadPhase::Applied;
    let status = world.workload((&namespace, "auto"), "web", "phase Applied", applied).await?;
    same("kind and pods", (status.kind.as_str(), status.pods), ("Deployment", 1))?;
    ensure!(status.last_applied.is_some() && status.reason.is_empty(), "{status:?}");
    let container = status.recommendations.first().context("no recommendation")?;
    same(
        "recommended",
        (container.cpu.as_deref(), container.memory.as_deref()),
        (Some("120m"), Some("77Mi")),
    )?;
    let declared = container.declared.clone().unwrap_or_default();
    same("declared", (declared.cpu.as_deref(), declared.memory.as_deref()), (Some("1"), Some("512Mi")))?;
    let resizing = world.event(&namespace, &name, "Resizing").await?;
    let expected = format!("app: cpu request 1 > 120m, memory request 512Mi > 77Mi; policy {namespace}/auto");
    same("note of the Event", resizing.note, Some(expected))?;
    world.event(&namespace, &name, "Resized").await?;
    let summary =
        world.policies(&namespace).get("auto").await?.status.and_then(|s| s.summary).unwrap_or_default();
    same("summary", (summary.matched, summary.applied, summary.skipped), (1, 1, 0))?;
    same("reclaimed", (summary.reclaimed.cpu.as_str(), summary.reclaimed.memory.as_str()), ("880m", "435Mi"))
}

pub async fn a_throttled_container_grows_with_its_limit(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("grow").await?;
    world.apply(&namespace, &pod("p", "follow", &resources("100m", "64Mi", "200m", ""), (180, 53))).await?;
    let limits = json!({"updateRequestsOnly": false, "limits": {"cpu": {"type": "Ratio"}}});
    world.policy(&namespace, "auto", json!({"updateStrategy": limits})).await?;
    let after = world.until_size(&namespace, "p", sizes("216m", "64Mi", "440m", "")).await?;
    let owned = json!({"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {"f:resources": {"f:limits": {"f:cpu": {}}, "f:requests": {"f:cpu": {}}}}}}});
    same("owner of the resize", resizers(&after), vec![(FIELD_MANAGER.to_owned(), owned)])?;
    let resized = world.event(&namespace, "p", "Resized").await?;
    // the agent saw the new quota in the cgroup; the request waits while the node is to admit a pod of another test
    let note = resized.note.unwrap_or_default();
    let expected = format!("cpu limit 200m > 440m; policy {namespace}/auto");
    ensure!(note.ends_with(&expected), "note of the Event: {note}, expected its end to be {expected}");
    Ok(())
}

/// Property 8: recommend mode prevents modifications
/// Property 18: recommend mode stores only
/// Property 19: disabled mode stops processing
pub async fn recommend_and_disabled_change_nothing(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("hands-off").await?;
    for (name, mode) in [("recommend", "Recommend"), ("disabled", "Disabled"), ("auto", "Auto")] {
        let mut pod = pod(name, "follow", &resources("1", "", "2", ""), (100, 64));
        pod["metadata"]["labels"]["mode"] = mode.into();
        world.apply(&namespace, &pod).await?;
        let selector = json!({"workloadSelector": {"matchLabels": {"mode": mode}}});
        world.policy(&namespace, name, json!({"mode": mode, "selector": selector})).await?;
    }
    // by then the others would have been resized as well
    world.until_size(&namespace, "auto", sizes("120m", "", "2", "")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (name, reason) in [("recommend", "ModeRecommend"), ("disabled", "ModeDisabled")] {
        let pod = world.pods(&namespace).get(name).await?;
        same("size", size(&pod), sizes("1", "", "2", ""))?;
        same("resizers", resizers(&pod), Vec::new())?;
        let status = world.workload((&namespace, name), name, "its reason", |w| w.reason == reason).await?;
        let cpu = status.recommendations.first().and_then(|c| c.cpu.clone());
        let expected = (name == "recommend").then(|| "120m".to_owned());
        same("recommendation", cpu, expected)?;
    }
    Ok(())
}

pub async fn a_pod_deleted_in_the_middle_is_forgotten(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("deleted").await?;
    let over_asking = pod("p", "ignore", &resources("1", "", "2", ""), (100, 64));
    world.apply(&namespace, &over_asking).await?;
    world.policy(&namespace, "auto", json!({})).await?;
    world.until_size(&namespace, "p", sizes("120m", "", "2", "")).await?;
    let in_flight = |w: &optipod_coordinator::api::v1alpha1::WorkloadStatus| w.reason == "ResizeInFlight";
    world.workload((&namespace, "auto"), "p", "ResizeInFlight", in_flight).await?;
    world.pods(&namespace).delete("p", &DeleteParams::default().grace_period(0)).await?;
    wait("the workload leaves the status", SOON, async || {
        let status = world.policies(&namespace).get("auto").await.ok()?.status?;
        status.workloads.is_empty().then_some(())
    })
    .await?;
    // one of the same name is another pod and gets its own resize
    let mut again = over_asking;
    again["metadata"]["labels"][crate::kubelet::LABEL] = "follow".into();
    world.apply(&namespace, &again).await?;
    world.until_size(&namespace, "p", sizes("120m", "", "2", "")).await?;
    world.event(&namespace, "p", "Resized").await?;
    let policy = format!("{namespace}/auto");
    same("patches", world.metric("optipod_applications_total", &[("policy", &policy)]).await?, 2.0)
}

pub async fn a_pod_that_somebody_else_changes_is_resized_by_a_fresh_decision(
    world: Arc<World>,
) -> Result<()> {
    let namespace = world.namespace("moving").await?;
    let mut contested = pod("p", "follow", &resources("100m", "", "2", ""), (400, 64));
    merge(&mut contested, json!({"metadata": {"annotations": {CONTESTED: "yes"}}}));
    world.apply(&namespace, &contested).await?;
    world.policy(&namespace, "auto", json!({})).await?;
    world.until_size(&namespace, "p", sizes("480m", "", "2", "")).await?;
    let policy = format!("{namespace}/auto");
    let conflicts = [("policy", policy.as_str()), ("error_type", "Conflict")];
    same("conflicts", world.metric("optipod_reconciliation_errors_total", &conflicts).await?, 2.0)?;
    world.event(&namespace, "p", "Resized").await?;
    Ok(())
}
