//! Wires the parts together and keeps them alive: one task, one owner, bounded channels.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use optipod_common::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::FIELD_MANAGER;
use crate::admin::{Health, router};
use crate::apply::{Accepted, Applier, Brake, Refusal};
use crate::config::Config;
use crate::engine::{Effect, Engine, Kept, Request, Settings};
use crate::index::{CONFIG_MAP, Change, Configuration, Declared, Index};
use crate::ingest::{Ingest, IngestService, now};
use crate::lease::{Candidate, Leadership, elect};
use crate::metrics::Metrics;
use crate::report::Desk;
use crate::scribe::{self, Entry};
use crate::watch::spawn;

/// Reaction time to a change of a pod under resize.
const TICK: Duration = Duration::from_millis(500);

/// Changes that wait for the engine: a rollout of a large Deployment in one burst; beyond it the watches wait.
const CHANGES: usize = 1024;

/// Frames that wait for the engine: one each of a few hundred nodes; beyond it agents wait.
const FRAMES: usize = 256;

/// Effects that wait for the API server; beyond it the engine drops nothing, it waits.
const EFFECTS: usize = 1024;

/// Patches under way at once, all policies together.
const PATCHES: usize = 16;

/// A keepalive without answer for this long ends an agent's stream.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Runs the coordinator until `shutdown` completes or a part dies.
///
/// # Errors
/// When something cannot be started, or a part that must live has ended.
pub async fn run(config: Config, client: Client, shutdown: impl Future<Output = ()>) -> Result<()> {
    run_with(config, client, Clock::new(now), shutdown).await
}

/// The same with a clock of the caller: what is decided, and how frames are dated, follows it. Leadership, Events and
/// whatever else concerns the API server stay with real time.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    client: Client,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    config.check().map_err(anyhow::Error::msg)?;
    let metrics = Metrics::new()?;
    let health = Health::default();
    let (stop, stopped) = watch::channel(false);
    let (publish, leadership) = watch::channel(Leadership::default());
    let (change_sender, changes) = mpsc::channel(CHANGES);
    let (ingest_sender, ingest) = mpsc::channel(FRAMES);

    let telemetry =
        TcpListener::bind(config.listen).await.with_context(|| format!("--listen {}", config.listen))?;
    let admin = TcpListener::bind(config.admin_listen)
        .await
        .with_context(|| format!("--admin-listen {}", config.admin_listen))?;
    let candidate = Candidate {
        namespace: config.namespace.clone(),
        lease: config.lease_name.clone(),
        identity: config.pod_name.clone(),
        address: std::net::SocketAddr::new(config.pod_ip, telemetry.local_addr()?.port()).to_string(),
        owner: config.lease_owner_deployment.clone(),
        duration: config.lease_duration,
        renew: config.renew_interval,
    };
    let service = IngestService::new(
        ingest_sender,
        leadership.clone(),
        config.frame_interval,
        metrics.clone(),
        clock.clone(),
    );
    let settings = Settings { dry_run: config.dry_run, frame_interval: config.frame_interval };
    let index = Index::new(config.namespace.clone(), config.cluster_policy_namespaces.clone(), FIELD_MANAGER);
    let brake = Brake::default();
    let engine = EngineTask {
        engine: Engine::new(settings, index, metrics.clone()).with_prices(config.prices()),
        applier: Applier::new(client.clone(), leadership.clone(), brake.clone()),
        brake,
        unswept: Arc::default(),
        desk: Desk::new(client.clone(), &config.pod_name),
        leadership: leadership.clone(),
        health: health.clone(),
        clock,
    };
    info!(listen = %telemetry.local_addr()?, admin = %admin.local_addr()?, dry_run = config.dry_run, "coordinator starts");

    let mut watches = spawn(&client, &config.namespace, &change_sender);
    let mut election = tokio::spawn(elect(client, candidate, publish, stopped.clone()));
    let mut engine = tokio::spawn(engine.run(changes, ingest, stopped.clone()));
    let mut grpc = tokio::spawn(
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(TcpListenerStream::new(telemetry), until(stopped.clone())),
    );
    let mut http = tokio::spawn(
        axum::serve(admin, router(metrics, health)).with_graceful_shutdown(until(stopped)).into_future(),
    );

    let ended = tokio::select! {
        () = shutdown => None,
        Some(ended) = watches.join_next() => Some(format!("watch ended: {ended:?}")),
        ended = &mut election => Some(format!("election ended: {ended:?}")),
        ended = &mut engine => Some(format!("engine ended: {ended:?}")),
        ended = &mut grpc => Some(format!("gRPC server ended: {ended:?}")),
        ended = &mut http => Some(format!("HTTP server ended: {ended:?}")),
    };
    stop.send_replace(true);
    if let Some(what) = ended {
        bail!(what);
    }
    info!("shutting down");
    // The Lease is given back first of all, so that a standby takes over at once.
    if tokio::time::timeout(Duration::from_secs(5), election).await.is_err() {
        warn!("the lease was not released within 5 s");
    }
    Ok(())
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // a dropped sender is a stop, too
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Statuses and Events are written one after the other, before the patches that wait behind them: none may hang.
async fn in_time(what: &str, write: impl Future<Output = ()>) {
    if tokio::time::timeout(Duration::from_secs(5), write).await.is_err() {
        warn!("{what} not written: the API server has not answered for 5 s");
    }
}

/// Logs what the `ConfigMap` says, when that is new.
fn tell_configuration(before: &Configuration, after: &Configuration) {
    if before == after {
        return;
    }
    let Configuration { dry_run, problem, ignored } = after;
    if let Some(problem) = problem {
        warn!(config_map = CONFIG_MAP, problem, "the configuration cannot be read: nothing is resized");
    } else {
        info!(config_map = CONFIG_MAP, dry_run, "the configuration is read");
    }
    if !ignored.is_empty() {
        warn!(config_map = CONFIG_MAP, "settings that do nothing here: {}", ignored.join(", "));
    }
}

/// Time between two attempts to look through what earlier leaders left.
const SWEEP_AGAIN: Duration = Duration::from_secs(30);

/// Looks through them and passes on what they declare; sets `again` a while after a failure, since by then others are to
/// be kept.
async fn sweep(desk: Desk, kept: Box<Kept>, again: Arc<AtomicBool>, declared: mpsc::Sender<Vec<Declared>>) {
    match desk.sweep_recommendations(&kept).await {
        // the engine is gone when nobody listens
        Ok(found) => drop(declared.send(found).await),
        Err(error) => {
            warn!(%error, "recommendations of earlier leaders are looked through later");
            tokio::time::sleep(SWEEP_AGAIN).await;
            again.store(true, Ordering::Relaxed);
        }
    }
}

struct EngineTask {
    engine: Engine,
    applier: Applier,
    brake: Brake,
    /// The last sweep failed.
    unswept: Arc<AtomicBool>,
    desk: Desk,
    leadership: watch::Receiver<Leadership>,
    health: Health,
    clock: Clock,
}

impl EngineTask {
    /// Turns the engine until `stopped`.
    async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        mut ingest: mpsc::Receiver<Ingest>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let (answers, mut answered) = mpsc::channel(EFFECTS);
        // once in a term
        let (tells, mut told) = mpsc::channel(1);
        let effects = self.spawn_effects(answers, tells);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                Some(change) = changes.recv() => {
                    let before = self.engine.index().configuration().clone();
                    self.engine.on_change(change, self.clock.now());
                    tell_configuration(&before, self.engine.index().configuration());
                    self.brake.set(self.engine.dry_run());
                    Vec::new()
                }
                Some(message) = ingest.recv() => {
                    self.lead();
                    self.engine.on_ingest(message, self.clock.now());
                    Vec::new()
                }
                Some((request, answer)) = answered.recv() => self.engine.on_answer(request, answer, self.clock.now()),
                Some(declared) = told.recv() => {
                    self.engine.on_declared(declared);
                    Vec::new()
                }
                _ = ticks.tick() => {
                    self.lead();
                    self.health.turned();
                    if self.unswept.swap(false, Ordering::Relaxed) {
                        self.engine.sweep_again();
                    }
                    if self.engine.index().synced() {
                        self.health.set_ready();
                    }
                    self.engine.tick(self.clock.now())
                }
                _ = stopped.changed() => return,
            };
            for effect in due {
                if effects.send(effect).await.is_err() {
                    return;
                }
            }
        }
    }

    fn lead(&mut self) {
        let leads = self.leadership.borrow().holds(Instant::now());
        self.engine.on_leadership(leads, self.clock.now());
    }

    /// Effects run beside the engine: statuses and Events in order, patches and Recommendations in parallel.
    fn spawn_effects(
        &self,
        answers: mpsc::Sender<(Request, Result<Accepted, Refusal>)>,
        tells: mpsc::Sender<Vec<Declared>>,
    ) -> mpsc::Sender<Effect> {
        let (sender, mut effects) = mpsc::channel(EFFECTS);
        let (applier, desk, leadership) = (self.applier.clone(), self.desk.clone(), self.leadership.clone());
        let unswept = self.unswept.clone();
        let slots = Arc::new(tokio::sync::Semaphore::new(PATCHES));
        let scribe = scribe::spawn(desk.clone(), leadership.clone());
        tokio::spawn(async move {
            while let Some(effect) = effects.recv().await {
                match effect {
                    // what a leader of before has to say would overwrite what the new one says
                    Effect::WriteStatus { .. } | Effect::SweepRecommendations(_)
                        if !leadership.borrow().holds(Instant::now()) => {}
                    // the scribe lives as long as this task
                    Effect::WriteRecommendation { workload, owner, status } => {
                        let _ = scribe.send((workload, Entry::Write(status, owner)));
                    }
                    Effect::DeleteRecommendation(workload) => {
                        let _ = scribe.send((workload, Entry::Delete));
                    }
                    Effect::SweepRecommendations(kept) => {
                        tokio::spawn(sweep(desk.clone(), kept, unswept.clone(), tells.clone()));
                    }
                    Effect::WriteStatus { policy, status } => {
                        in_time("policy status", desk.write_status(&policy, &status)).await;
                    }
                    Effect::Notify(notice) => in_time("Event", desk.notify(&notice)).await,
                    Effect::Resize(request) => {
                        let (applier, answers) = (applier.clone(), answers.clone());
                        let Ok(slot) = slots.clone().acquire_owned().await else { return };
                        tokio::spawn(async move {
                            let answer = applier.resize(&request.action).await;
                            drop(slot);
                            // the engine is gone when nobody listens
                            let _ = answers.send((*request, answer)).await;
                        });
                    }
                }
            }
        });
        sender
    }
}
