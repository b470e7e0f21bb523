//! What is told about a workload, and what keeps a recommendation from being carried out.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use optipod_coordinator::api::Recommendation;
use optipod_coordinator::api::v1alpha1::{RecommendationStatus, StrategyRef, StrategyType};
use optipod_coordinator::index::CONFIG_MAP;
use serde_json::json;

use crate::coordinator::OWN_NAMESPACE;
use crate::objects::{pod, resizers, resources, size, sizes};
use crate::world::{SOON, World, same, wait};

/// Property 10: recommendation format completeness
pub async fn it_tells_how_it_came_about_and_goes_with_its_workload(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("told").await?;
    world.apply(&namespace, &pod("p", "follow", &resources("1", "", "2", ""), (100, 64))).await?;
    world.policy(&namespace, "auto", json!({})).await?;
    let told: Api<Recommendation> = Api::namespaced(world.client.clone(), &namespace);
    let resized = |status: &RecommendationStatus| status.history.iter().any(|entry| entry.outcome == "Done");
    let status = wait("a resize in the history", SOON, async || {
        told.get_opt("pod-p").await.ok()??.status.filter(resized)
    })
    .await?;
    same("change", status.history[0].change.as_str(), "app: cpu request 1 > 120m")?;
    let strategy = StrategyRef { kind: StrategyType::Percentile, version: 1 };
    same("strategy", status.strategy.clone(), Some(strategy.clone()))?;
    let owners = told.get("pod-p").await?.metadata.owner_references.unwrap_or_default();
    let owners: Vec<_> = owners.into_iter().map(|owner| (owner.kind, Some(owner.uid))).collect();
    let uid = world.pods(&namespace).get("p").await?.metadata.uid;
    same("owner", owners, vec![("Pod".to_owned(), uid)])?;
    same("policy", status.policy.map(|policy| policy.name), Some("auto".to_owned()))?;
    let container = status.containers.first().context("no container")?;
    let steps = container.steps.clone().unwrap_or_default();
    let chain: Vec<_> = steps.cpu.iter().map(|step| (step.step.as_str(), step.value.as_str())).collect();
    ensure!(
        chain.contains(&("percentile", "100m")) && chain.contains(&("safety factor", "120m")),
        "{chain:?}"
    );
    let account = status.account.context("no account")?;
    same("used", account.used.cpu.as_str(), "100m")?;
    let policy = world.policies(&namespace).get("auto").await?.status.unwrap_or_default();
    same("pinned strategy", policy.strategy, Some(strategy))?;
    let shown = world.lab.kubectl(&["get", "orec", "--namespace", &namespace])?;
    ensure!(shown.contains("REC-CPU") && shown.contains("120m"), "{shown}");

    world.pods(&namespace).delete("p", &DeleteParams::default().grace_period(0)).await?;
    wait("the recommendation goes", SOON, async || told.get_opt("pod-p").await.ok()?.is_none().then_some(()))
        .await
}

pub async fn a_strategy_of_another_version_only_shows(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("versions").await?;
    world.apply(&namespace, &pod("p", "follow", &resources("1", "", "2", ""), (100, 64))).await?;
    world.policy(&namespace, "auto", json!({"strategy": {"version": 7}})).await?;
    let shadow = |w: &optipod_coordinator::api::v1alpha1::WorkloadStatus| w.reason == "StrategyShadow";
    let status = world.workload((&namespace, "auto"), "p", "reason StrategyShadow", shadow).await?;
    ensure!(status.message.contains("cpu request 1 > 120m"), "the difference is shown: {}", status.message);
    same("size", size(&world.pods(&namespace).get("p").await?), sizes("1", "", "2", ""))?;
    let patch = Patch::Merge(json!({"spec": {"strategy": {"version": 1}}}));
    world.policies(&namespace).patch("auto", &PatchParams::default(), &patch).await?;
    world.until_size(&namespace, "p", sizes("120m", "", "2", "")).await?;
    let policy = world.policies(&namespace).get("auto").await?.status.unwrap_or_default();
    same("pinned version", policy.strategy.map(|strategy| strategy.version), Some(1))
}

/// Property 29: global dry-run mode
pub async fn a_dry_run_is_switched_while_coordinators_run(world: Arc<World>) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), OWN_NAMESPACE);
    let say = async |text: &str| {
        let patch = Patch::Merge(json!({"data": {"config.yaml": text}}));
        maps.patch(CONFIG_MAP, &PatchParams::default(), &patch).await.map(drop)
    };
    let told = async |value: f64| {
        wait("the coordinator has read it", SOON, async || {
            let shown = world.metric("optipod_coordinator_dry_run", &[]).await.ok()?;
            (shown.to_bits() == value.to_bits()).then_some(())
        })
        .await
    };
    same("at the start", world.metric("optipod_coordinator_dry_run", &[]).await?, 0.0)?;
    say("dryRun: true").await?;
    told(1.0).await?;
    let namespace = world.namespace("dry-run").await?;
    world.apply(&namespace, &pod("p", "follow", &resources("1", "", "2", ""), (100, 64))).await?;
    world.policy(&namespace, "auto", json!({})).await?;
    let dry = |w: &optipod_coordinator::api::v1alpha1::WorkloadStatus| w.reason == "DryRun";
    let status = world.workload((&namespace, "auto"), "p", "reason DryRun", dry).await?;
    same("recommended", status.recommendations[0].cpu.as_deref(), Some("120m"))?;

    // off, but with a mistake beside it: nobody knows what was meant, so nothing is resized
    say("dryRun: false\ndry: run").await?;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    same("with a mistake", world.metric("optipod_coordinator_dry_run", &[]).await?, 1.0)?;
    let pod = world.pods(&namespace).get("p").await?;
    same("size and resizers", (size(&pod), resizers(&pod)), (sizes("1", "", "2", ""), Vec::new()))?;

    say("dryRun: false").await?;
    world.until_size(&namespace, "p", sizes("120m", "", "2", "")).await?;
    told(0.0).await
}
