//! Puts the parts together: the sampler on its own thread, the rest on the caller's runtime.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use optipod_common::frame::Frame;
use optipod_common::time::Clock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::admin::{Admin, router};
use crate::config::Config;
use crate::discover::{DiscoverError, Discovery};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::ring::{Ring, RingLimits};
use crate::sampler::{Sampler, SamplerOptions, next_deadline};
use crate::transport::Transport;
use crate::uplink::{Connect, Phase, Uplink, UplinkOptions};
use crate::{clock, own};

/// Descriptors that a node may need: three for each of 250 containers, their sandboxes and pods, and some more.
const KEPT_DESCRIPTORS: u64 = 2500;

/// Why the agent does not run.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Encryption is not there yet, and plain text needs consent.
    #[error(
        "no transport: TLS is not available in this version, and frames without encryption and authentication \
         are sent only with --insecure-plaintext (OPTIPOD_AGENT_INSECURE_PLAINTEXT=true)"
    )]
    NoTransport,
    /// Discovery cannot start.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// The address of the pages is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread of the sampler cannot start.
    #[error("cannot start the sampler's thread")]
    Thread(#[source] io::Error),
    /// A part that never ends has ended.
    #[error("{0} has stopped")]
    Stopped(&'static str),
}

/// Runs until `shutdown`; then the last frame is made and gets 2 s to reach the coordinator.
///
/// # Errors
/// What is wrong at the start, or which part has died.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    if !config.insecure_plaintext {
        return Err(AgentError::NoTransport);
    }
    warn!("frames are sent without encryption and authentication");
    run_with(config, Transport::Plaintext, shutdown).await
}

/// The same with a connector of the caller.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    connector: impl Connect,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let keeps_descriptors = raise_descriptor_limit();
    let epoch = u64::try_from(clock::wall().unix_micros()).unwrap_or(1).max(1);
    let metrics = Arc::new(Metrics::new(config.metrics_max_containers));
    own::describe_host(&metrics);
    let health = Arc::new(Health::default());
    health.ticked(clock::monotonic(), false);
    let ring = Arc::new(Ring::new(RingLimits {
        window: config.ring_window,
        bytes: usize::from(config.ring_mebibytes) << 20,
    }));
    let options = SamplerOptions {
        epoch,
        hertz: config.sample_hertz,
        frame_interval: config.frame_interval,
        cpu_budget_millicores: config.cpu_budget_millicores,
        reading_clock: Some(clock::monotonic),
    };
    let discovery = Discovery::new(&config.cgroup_root)?;
    let mut sampler = Sampler::new(options, discovery, Arc::clone(&metrics));
    if !keeps_descriptors {
        sampler.open_for_each_reading();
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| AgentError::Listen { address: config.listen, source })?;
    info!(node = %config.node_name, epoch, listen = %config.listen, "agent started");

    let (interval, wanted_interval) = watch::channel(None);
    let (phase, phase_of_uplink) = watch::channel(Phase::Running);
    let stop = Arc::new(AtomicBool::new(false));
    let sampling = Sampling {
        sampler,
        interval: config.frame_interval,
        wanted_interval,
        ring: Arc::clone(&ring),
        metrics: Arc::clone(&metrics),
        health: Arc::clone(&health),
        stop: Arc::clone(&stop),
    };
    let thread_end = sampling.start()?;
    let uplink_options = UplinkOptions {
        node: config.node_name,
        epoch,
        address: config.coordinator_address,
        wall: Clock::new(clock::wall),
    };
    let uplink =
        Uplink::new(uplink_options, connector, ring, Arc::clone(&metrics), interval, phase_of_uplink);
    let uplink = Owned(tokio::spawn(uplink.run()));
    let pages = async move { axum::serve(listener, router(Admin { metrics, health })).await };
    let pages = Owned(tokio::spawn(pages));

    let parts = Parts { thread_end, uplink, pages, stop, phase };
    parts.supervise(shutdown).await
}

/// Everything that runs.
struct Parts {
    thread_end: oneshot::Receiver<()>,
    uplink: Owned<()>,
    pages: Owned<io::Result<()>>,
    stop: Arc<AtomicBool>,
    phase: watch::Sender<Phase>,
}

impl Parts {
    /// Until `shutdown`, or until a part that never ends has ended.
    async fn supervise(mut self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let ended = tokio::select! {
            () = shutdown => None,
            _ = &mut self.thread_end => Some("sampler"),
            _ = &mut self.uplink.0 => Some("uplink"),
            _ = &mut self.pages.0 => Some("admin server"),
        };
        self.stop.store(true, Ordering::Relaxed);
        if let Some(part) = ended {
            return Err(AgentError::Stopped(part));
        }
        // an error means that the thread is gone; what it pushed is sent all the same
        let _ = self.thread_end.await;
        self.phase.send_replace(Phase::Draining);
        (&mut self.uplink.0).await.map_err(|_| AgentError::Stopped("uplink"))?;
        info!("agent stopped");
        Ok(())
    }
}

/// A task that ends with its owner.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the sampler's thread owns.
struct Sampling {
    sampler: Sampler,
    interval: Duration,
    wanted_interval: watch::Receiver<Option<Duration>>,
    ring: Arc<Ring>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: Arc<AtomicBool>,
}

impl Sampling {
    /// Starts the thread. The receiver is told when it ends, also when it panics.
    fn start(self) -> Result<oneshot::Receiver<()>, AgentError> {
        let (ended, told) = oneshot::channel();
        let body = move || {
            let _ended: oneshot::Sender<()> = ended;
            self.sample();
        };
        thread::Builder::new().name("sampler".to_owned()).spawn(body).map_err(AgentError::Thread)?;
        Ok(told)
    }

    fn sample(mut self) {
        let mut deadline = clock::monotonic();
        while !self.stop.load(Ordering::Relaxed) {
            if self.wanted_interval.has_changed().unwrap_or(false) {
                let wanted = *self.wanted_interval.borrow_and_update();
                self.sampler.set_frame_interval(wanted.unwrap_or(self.interval));
            }
            let now = clock::now();
            if let Some(frame) = self.sampler.tick(now) {
                self.produced(frame);
            }
            let end = clock::monotonic();
            self.metrics.sweep_seconds.observe(end.saturating_sub(now.monotonic).as_secs_f64());
            self.health.ticked(end, self.sampler.has_roots());
            deadline = next_deadline(deadline, end, self.sampler.period());
            clock::sleep_until(deadline);
        }
        if let Some(frame) = self.sampler.flush(clock::now()) {
            self.produced(frame);
        }
    }

    fn produced(&self, frame: Frame) {
        self.metrics.observe(&frame);
        self.metrics.observe_ring(self.ring.push(frame));
    }
}

/// Raises the limit of descriptors as far as it goes. False when it stays too low to keep any.
fn raise_descriptor_limit() -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let limit = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, ?current, "descriptor limit stays");
            current
        }
    };
    let enough = limit.is_none_or(|limit| limit >= KEPT_DESCRIPTORS);
    if !enough {
        warn!(
            ?limit,
            enough = KEPT_DESCRIPTORS,
            "few descriptors: files are opened for each reading, which costs more CPU"
        );
    }
    enough
}
