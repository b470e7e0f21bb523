//! What the kubelet refuses, told by the pod's conditions: said, taken back, not repeated at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use optipod_coordinator::api::v1alpha1::{WorkloadPhase, WorkloadStatus};
use serde_json::json;

use crate::kubelet;
use crate::objects::{pod, resources, size, sizes};
use crate::world::{World, same};

const DEADLINE: Duration = Duration::from_secs(12);
const WATCHED: Duration = Duration::from_secs(20);

pub async fn a_deferred_resize_is_taken_back_after_its_deadline(world: Arc<World>) -> Result<()> {
    let namespace = start(&world, "deferred", "defer").await?;
    world.until_size(&namespace, "p", sizes("480m", "", "2", "")).await?;
    let begin = Instant::now();
    let waiting = |w: &WorkloadStatus| w.status == WorkloadPhase::InProgress && w.reason == "ResizeDeferred";
    let status = world.workload((&namespace, "auto"), "p", "ResizeDeferred", waiting).await?;
    same("message", status.message, format!("p: {}", kubelet::DEFERRED))?;
    world.until_size(&namespace, "p", sizes("100m", "", "2", "")).await?;
    // seen in polls of 0.2 s, begun a moment before the kubelet deferred it
    ensure!(
        begin.elapsed() + Duration::from_millis(500) > DEADLINE,
        "taken back after {:?}",
        begin.elapsed()
    );
    taken_back(&world, &namespace, "ResizeDeferred", kubelet::DEFERRED).await
}

pub async fn an_infeasible_resize_is_taken_back_at_once(world: Arc<World>) -> Result<()> {
    let namespace = start(&world, "infeasible", "refuse").await?;
    world.event(&namespace, "p", "Reverting").await?;
    world.until_size(&namespace, "p", sizes("100m", "", "2", "")).await?;
    taken_back(&world, &namespace, "ResizeInfeasible", kubelet::INFEASIBLE).await
}

async fn start(world: &World, name: &str, kubelet: &str) -> Result<String> {
    let namespace = world.namespace(name).await?;
    world.apply(&namespace, &pod("p", kubelet, &resources("100m", "", "2", ""), (400, 64))).await?;
    let deadline = json!({"updateStrategy": {"deferredDeadline": format!("{}s", DEADLINE.as_secs())}});
    world.policy(&namespace, "auto", deadline).await?;
    Ok(namespace)
}

/// Events and status say why; then nothing happens for long.
async fn taken_back(world: &World, namespace: &str, reason: &str, message: &str) -> Result<()> {
    let event = world.event(namespace, "p", reason).await?;
    let expected = format!("{message}; wanted: app: cpu request 100m > 480m; policy {namespace}/auto");
    same("note", event.note, Some(expected))?;
    let reverting = world.event(namespace, "p", "Reverting").await?;
    let expected = format!("app: cpu request 480m > 100m; because of {reason}; policy {namespace}/auto");
    same("note", reverting.note, Some(expected))?;
    let failed = |w: &WorkloadStatus| w.status == WorkloadPhase::Failed && w.reason == reason;
    world.workload((namespace, "auto"), "p", "phase Failed", failed).await?;
    tokio::time::sleep(WATCHED).await;
    let policy = format!("{namespace}/auto");
    for method in ["InPlace", "Revert"] {
        let labels = [("policy", policy.as_str()), ("method", method)];
        same(method, world.metric("optipod_applications_total", &labels).await?, 1.0)?;
    }
    let pod = world.pods(namespace).get("p").await?;
    same("size", size(&pod), sizes("100m", "", "2", ""))?;
    same("generation", pod.metadata.generation, Some(3))?;
    world.workload((namespace, "auto"), "p", "the reason stays", failed).await?;
    Ok(())
}
