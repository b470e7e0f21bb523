//! One leads, the other takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use optipod_proto::v1::NotLeader;
use optipod_proto::v1::coordinator_message::Body as Down;
use serde_json::json;

use crate::agent::greet;
use crate::coordinator::{self, LEASE, OWN_NAMESPACE};
use crate::objects::{pod, resources, sizes};
use crate::world::{SOON, World, same, wait};

async fn lease(world: &World) -> Result<Lease> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), OWN_NAMESPACE);
    Ok(leases.get("optipod-coordinator").await?)
}

pub async fn a_standby_names_the_leader_and_the_lease_has_an_owner(world: Arc<World>) -> Result<()> {
    let leader = world.leader.read().await.as_ref().context("the leader was killed")?.telemetry;
    let standby = world.standby.read().await.as_ref().context("no standby")?.telemetry;
    wait("the standby knows the leader", SOON, async || {
        let answer = greet(standby).await.ok()?;
        (answer == Down::NotLeader(NotLeader { leader_address: leader.to_string() })).then_some(())
    })
    .await?;
    ensure!(matches!(greet(leader).await?, Down::Welcome(_)), "the leader does not welcome");
    let owners = lease(&world).await?.metadata.owner_references.unwrap_or_default();
    let owners: Vec<_> = owners.iter().map(|owner| (owner.kind.as_str(), owner.name.as_str())).collect();
    same("owners of the Lease", owners, vec![("Deployment", "optipod-coordinator")])
}

pub async fn a_standby_finishes_what_a_killed_leader_began(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("failover").await?;
    world.apply(&namespace, &pod("begun", "ignore", &resources("1", "", "2", ""), (100, 64))).await?;
    world.apply(&namespace, &pod("waits", "follow", &resources("1", "", "2", ""), (100, 64))).await?;
    // one at a time: the second is not begun while the first is under way
    world.policy(&namespace, "auto", json!({"updateStrategy": {"maxConcurrentResizes": 1}})).await?;
    world.until_size(&namespace, "begun", sizes("120m", "", "2", "")).await?;
    drop(world.leader.write().await.take().context("no leader")?);
    let killed = Instant::now();

    let standby = world.standby.read().await;
    let standby = standby.as_ref().context("no standby")?;
    wait("the standby leads", SOON, async || {
        (standby.metric("optipod_coordinator_leader", &[]).await.ok()? > 0.0).then_some(())
    })
    .await?;
    let took = killed.elapsed();
    ensure!(took < LEASE + Duration::from_secs(5), "took over after {took:?}");
    world.until_size(&namespace, "waits", sizes("120m", "", "2", "")).await?;
    world.event(&namespace, "waits", "Resized").await?;
    let pod = world.pods(&namespace).get("begun").await?;
    same("generation of the pod that was begun", pod.metadata.generation, Some(2))
}

pub async fn a_leader_that_stops_gives_the_lease_back(world: Arc<World>) -> Result<()> {
    let second = coordinator::start(2, world.identity.clone(), &world.traffic)?;
    wait("the new standby is ready", SOON, async || second.ready().await.then_some(())).await?;
    let holder = |lease: Lease| lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    let before = holder(lease(&world).await?);
    let stopped = world.standby.write().await.take().context("no leader")?;
    stopped.stop().await?;
    let given_back = Instant::now();
    wait("the standby leads", SOON, async || {
        (second.metric("optipod_coordinator_leader", &[]).await.ok()? > 0.0).then_some(())
    })
    .await?;
    // a round of the election, not the end of the lease
    ensure!(given_back.elapsed() < LEASE, "took over {:?} after the release", given_back.elapsed());
    let after = holder(lease(&world).await?);
    ensure!(after != before && after.starts_with("coordinator-2-"), "{before} > {after}");
    second.stop().await?;
    same("holder after the last one stopped", holder(lease(&world).await?), String::new())
}
