//! Leader election by a Lease.
//!
//! As client-go does: every write is a PUT fenced by resourceVersion, so of two candidates that both saw an expired
//! Lease one loses. Expiry is judged by this process's monotonic clock from the moment it saw the last renewal, so
//! clocks of nodes may differ. A leader believes in itself only until `renewal + 2/3 lease duration`, so it has
//! stopped before another may start. Resizes are fenced by uid and resourceVersion on top.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::watch;
use tracing::{info, warn};

/// Where the leader serves agents.
const ADDRESS_ANNOTATION: &str = "optipod.io/address";

/// Who leads, as far as this process knows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Leadership {
    /// This process leads until then (monotonic clock); `None` = it does not lead.
    pub until: Option<Instant>,
    /// `host:port` of the leader's telemetry endpoint; empty when unknown.
    pub address: String,
}

impl Leadership {
    /// True while this process may write.
    pub fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// What an election needs to know.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Identity: unique per process.
    pub identity: String,
    /// `host:port` that standbys send agents to.
    pub address: String,
    /// Deployment that owns the Lease; empty = none.
    pub owner: String,
    /// After this long without renewal a Lease is free.
    pub duration: Duration,
    /// Time between renewals.
    pub renew: Duration,
}

impl Candidate {
    /// A slow API server gets this long to answer: two tries fit before leadership runs out.
    fn patience(&self) -> Duration {
        self.duration / 3
    }
}

/// The last state of the Lease and when it was first seen in it.
struct Observed {
    holder: String,
    renewed: Option<jiff::Timestamp>,
    since: Instant,
}

/// Runs the election until `stop` changes; then gives the Lease back.
pub async fn elect(
    client: Client,
    candidate: Candidate,
    publish: watch::Sender<Leadership>,
    mut stop: watch::Receiver<bool>,
) {
    let api: Api<Lease> = Api::namespaced(client.clone(), &candidate.namespace);
    let mut observed: Option<Observed> = None;
    let mut interval = tokio::time::interval(candidate.renew);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            _ = stop.changed() => break,
        }
        let started = Instant::now();
        let round =
            tokio::time::timeout(candidate.patience(), attempt(&client, &api, &candidate, &mut observed));
        match round.await {
            Ok(Ok(Standing::Leads)) => {
                let until = Some(started + candidate.duration * 2 / 3);
                let led = publish.borrow().until.is_some();
                publish.send_replace(Leadership { until, address: candidate.address.clone() });
                if !led {
                    info!(identity = candidate.identity, "leading");
                }
            }
            Ok(Ok(Standing::Follows(address))) => {
                if publish.borrow().until.is_some() {
                    warn!(identity = candidate.identity, "lost the lease");
                }
                publish.send_replace(Leadership { until: None, address });
            }
            Ok(Err(error)) => warn!(%error, lease = candidate.lease, "cannot renew or acquire the lease"),
            Err(_elapsed) => {
                warn!(lease = candidate.lease, "API server is slow: lease neither renewed nor lost");
            }
        }
        let expired = publish.borrow().until.is_some_and(|until| Instant::now() >= until);
        if expired {
            warn!(identity = candidate.identity, "leadership ran out without renewal");
            publish.send_replace(Leadership::default());
        }
    }
    let led = publish.borrow().until.is_some();
    publish.send_replace(Leadership::default());
    if led && let Err(error) = release(&api, &candidate).await {
        warn!(%error, "cannot release the lease: the next leader waits for its expiry");
    }
}

/// What one round found.
enum Standing {
    Leads,
    /// Somebody else leads, at this address; empty when it is not known.
    Follows(String),
}

/// One round of the election.
async fn attempt(
    client: &Client,
    api: &Api<Lease>,
    candidate: &Candidate,
    observed: &mut Option<Observed>,
) -> kube::Result<Standing> {
    let Some(mut lease) = api.get_opt(&candidate.lease).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(candidate.lease.clone()),
                namespace: Some(candidate.namespace.clone()),
                annotations: Some([(ADDRESS_ANNOTATION.to_owned(), candidate.address.clone())].into()),
                owner_references: owner(client, candidate).await?.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(held_by(candidate, None)),
        };
        return won(api.create(&PostParams::default(), &lease).await);
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let renewed = spec.renew_time.as_ref().map(|time| time.0);
    if observed.as_ref().is_none_or(|o| o.holder != holder || o.renewed != renewed) {
        *observed = Some(Observed { holder: holder.clone(), renewed, since: Instant::now() });
    }
    // the holder's own lease duration counts: it may have been started with another one
    let promised = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    let expiry = promised.unwrap_or(candidate.duration).max(candidate.duration);
    let expired = observed.as_ref().is_some_and(|o| o.since.elapsed() >= expiry);
    if holder != candidate.identity && !holder.is_empty() && !expired {
        let address = lease.annotations().get(ADDRESS_ANNOTATION).cloned();
        return Ok(Standing::Follows(address.unwrap_or_default()));
    }
    lease.annotations_mut().insert(ADDRESS_ANNOTATION.to_owned(), candidate.address.clone());
    lease.spec = Some(held_by(candidate, Some(&spec)));
    won(api.replace(&candidate.lease, &PostParams::default(), &lease).await)
}

/// A conflict means that somebody else was faster; that is not an error.
fn won(result: kube::Result<Lease>) -> kube::Result<Standing> {
    match result {
        Ok(_) => Ok(Standing::Leads),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Standing::Follows(String::new())),
        Err(error) => Err(error),
    }
}

fn held_by(candidate: &Candidate, before: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(jiff::Timestamp::now());
    let kept = before.filter(|spec| spec.holder_identity.as_deref() == Some(&candidate.identity));
    LeaseSpec {
        holder_identity: Some(candidate.identity.clone()),
        lease_duration_seconds: i32::try_from(candidate.duration.as_secs()).ok(),
        acquire_time: kept.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: match (before, kept) {
            (Some(spec), Some(_)) => spec.lease_transitions,
            (Some(spec), None) => Some(spec.lease_transitions.unwrap_or(0).saturating_add(1)),
            (None, _) => Some(0),
        },
        ..LeaseSpec::default()
    }
}

async fn release(api: &Api<Lease>, candidate: &Candidate) -> kube::Result<()> {
    let mut lease = api.get(&candidate.lease).await?;
    let Some(spec) =
        lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&candidate.identity))
    else {
        return Ok(());
    };
    spec.holder_identity = Some(String::new());
    spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
    lease.annotations_mut().remove(ADDRESS_ANNOTATION);
    api.replace(&candidate.lease, &PostParams::default(), &lease).await?;
    info!("released the lease");
    Ok(())
}

/// The Lease goes with the Deployment. Without one (a local run) it stays.
async fn owner(client: &Client, candidate: &Candidate) -> kube::Result<Option<OwnerReference>> {
    if candidate.owner.is_empty() {
        return Ok(None);
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &candidate.namespace);
    let deployment = deployments.get(&candidate.owner).await?;
    Ok(deployment.owner_ref(&()))
}
