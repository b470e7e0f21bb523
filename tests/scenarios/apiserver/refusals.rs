//! What the API server refuses is said with its reason, and not asked again in a tight loop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use optipod_coordinator::api::v1alpha1::{WorkloadPhase, WorkloadStatus};
use serde_json::{Value, json};

use crate::objects::{pod, resizers, resources, size};
use crate::world::{SOON, World, same, wait};

/// Long enough that a loop at any pace of the engine (0.5 s a turn, 1 s an evaluation) would show.
const WATCHED: Duration = Duration::from_secs(20);

struct Refused<'a> {
    namespace: &'a str,
    reason: &'a str,
    part: &'a str,
}

impl Refused<'_> {
    /// Status and Event say why, the pod is as it was, and one attempt was made.
    async fn hold(&self, world: &World) -> Result<()> {
        let Self { namespace, reason, part } = *self;
        let before = size(&world.pods(namespace).get("p").await?);
        let failed = |w: &WorkloadStatus| w.status == WorkloadPhase::Failed && w.reason == reason;
        let status = world.workload((namespace, "auto"), "p", reason, failed).await?;
        ensure!(status.message.contains(part), "{part:?} is not in {:?}", status.message);
        let event = world.event(namespace, "p", reason).await?;
        ensure!(event.note.as_deref().is_some_and(|note| note.contains(part)), "{:?}", event.note);
        same("type of the Event", event.type_.as_deref(), Some("Warning"))?;
        tokio::time::sleep(WATCHED).await;
        let policy = format!("{namespace}/auto");
        let labels = [("policy", policy.as_str()), ("error_type", reason)];
        same("attempts", world.metric("optipod_reconciliation_errors_total", &labels).await?, 1.0)?;
        let event = world.event(namespace, "p", reason).await?;
        same("Events of a series", event.series.map_or(1, |series| series.count), 1)?;
        let pod = world.pods(namespace).get("p").await?;
        same("size", size(&pod), before)?;
        same("resizers", resizers(&pod), Vec::new())?;
        world.workload((namespace, "auto"), "p", "the reason stays", failed).await?;
        Ok(())
    }
}

fn limit_range(limit: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": {"limits": [limit]}})
}

pub async fn a_limit_range_is_reported_and_not_asked_again_at_once(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("limit-range").await?;
    let limits =
        json!({"type": "Container", "min": {"cpu": "200m"}, "max": {"cpu": "4"}, "default": {"cpu": "2"}});
    world.apply(&namespace, &limit_range(&limits)).await?;
    world.apply(&namespace, &pod("p", "follow", &resources("1", "", "2", ""), (100, 64))).await?;
    world.policy(&namespace, "auto", json!({})).await?;
    let part = "minimum cpu usage per Container is 200m, but request is 120m";
    Refused { namespace: &namespace, reason: "LimitRangeViolated", part }.hold(&world).await
}

/// Property 26: failure event creation
pub async fn a_quota_is_reported_and_not_asked_again_at_once(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("quota").await?;
    let spec = json!({"hard": {"requests.cpu": "200m"}});
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": spec});
    world.apply(&namespace, &quota).await?;
    wait("the quota controller counts", SOON, async || {
        let api = kube::Api::<k8s_openapi::api::core::v1::ResourceQuota>::namespaced(
            world.client.clone(),
            &namespace,
        );
        api.get("quota").await.ok()?.status?.used
    })
    .await?;
    world.apply(&namespace, &pod("p", "follow", &resources("100m", "", "2", ""), (400, 64))).await?;
    world.policy(&namespace, "auto", json!({})).await?;
    let part = "exceeded quota: quota, requested: requests.cpu=380m, used: requests.cpu=100m, limited: requests.cpu=200m";
    Refused { namespace: &namespace, reason: "QuotaExceeded", part }.hold(&world).await
}

/// A default that came after the pod would be added by any resize and could never be taken back.
pub async fn defaults_of_a_limit_range_do_not_sneak_in(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("defaults").await?;
    world.apply(&namespace, &pod("p", "follow", &resources("100m", "", "", ""), (400, 64))).await?;
    let defaults = json!({"type": "Container", "default": {"cpu": "500m", "memory": "128Mi"}});
    world.apply(&namespace, &limit_range(&defaults)).await?;
    world.policy(&namespace, "auto", json!({})).await?;
    Refused { namespace: &namespace, reason: "AdmissionMutates", part: "128Mi" }.hold(&world).await
}
