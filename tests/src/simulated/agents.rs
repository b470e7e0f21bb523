//! Real agents on simulated nodes: the code of the product, on the trees of [`super::cgroup`], over the real wire.
//!
//! [`Agents`] runs many in this process, on simulated time and in step with the nodes: sampler, ring and uplink of each
//! are the agent's own, only its thread and its clocks are not.
//! At the speed of real time, the pods of the chart's DaemonSet run the real program: see [`super::programs`].

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use optipod_agent::discover::Discovery;
use optipod_agent::metrics::Metrics;
use optipod_agent::ring::{Ring, RingLimits};
use optipod_agent::sampler::{Now, Sampler, SamplerOptions, next_deadline};
use optipod_agent::transport::Transport;
use optipod_agent::uplink::{Phase, Uplink, UplinkOptions};
use optipod_common::frame::Frame;
use optipod_common::time::Timestamp;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::clock::Wall;
use super::faults::Board;

/// As the agent's own defaults: half an hour, or 16 MiB.
const RING: RingLimits = RingLimits { window: Duration::from_secs(1800), bytes: 16 << 20 };
/// Descriptors that the agent of a full node keeps: three for each container, sandbox and pod of 110 pods.
const DESCRIPTORS: u64 = 1000;
/// Agents of one process that watch their tree. Linux gives a user 128 event queues, and others need some.
const WATCHING: usize = 32;
/// Nodes that are worth a thread.
const NODES_PER_THREAD: usize = 16;

/// What all agents of this process share.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// `host:port` of the coordinators' Service, or of a coordinator.
    pub coordinator: String,
    /// Time between frames, until the coordinator asks for another.
    pub frame_interval: Duration,
    /// Samples per simulated second; divides 1000. Time should advance in steps of that length: as on a real node, an
    /// agent that is late has no value for the slots that it missed.
    pub hertz: u32,
    /// Wall clock at simulated time zero.
    pub start: Timestamp,
}

/// Agents of many nodes in this process.
#[derive(Debug)]
pub struct Agents {
    options: AgentOptions,
    board: Board,
    uplinks: Handle,
    nodes: Vec<Node>,
    threads: usize,
}

#[derive(Debug)]
struct Node {
    name: String,
    root: PathBuf,
    wall: Wall,
    agent: Option<Agent>,
}

/// One run of one agent.
#[derive(Debug)]
struct Agent {
    sampler: Sampler,
    next: Duration,
    ring: Arc<Ring>,
    metrics: Arc<Metrics>,
    frame_interval: watch::Receiver<Option<Duration>>,
    phase: watch::Sender<Phase>,
    uplink: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.uplink.abort();
    }
}

/// What is common to the agents that start now.
#[derive(Clone, Copy, Debug)]
struct Means {
    watches: bool,
    keeps_descriptors: bool,
}

impl Agents {
    /// No agent yet. Their streams run on `uplinks`; `board` says which are lost and whose clock is off.
    pub fn new(options: AgentOptions, board: Board, uplinks: Handle) -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self { options, board, uplinks, nodes: Vec::new(), threads }
    }

    /// An agent for a node, from the next tick on. `root` is that of [`super::runtime::Runtime::new`].
    pub fn add(&mut self, name: &str, root: &Path) {
        let (name, root) = (name.to_owned(), root.to_owned());
        self.nodes.push(Node { name, root, wall: Wall::new(self.options.start), agent: None });
    }

    /// The agent of a node dies without a word, and does not come back.
    pub fn remove(&mut self, name: &str) {
        self.nodes.retain(|node| node.name != name);
    }

    /// Simulated time is now `now` since the start: every agent whose time has come takes a sample. Those that are lost
    /// die without a word; when they are found again, they start anew.
    ///
    /// # Errors
    /// When an agent cannot start.
    pub fn tick(&mut self, now: Duration) -> Result<()> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let count = self.nodes.len();
        let means = Means {
            watches: count <= WATCHING,
            // the other half is for everything else
            keeps_descriptors: u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(DESCRIPTORS)
                <= limit / 2,
        };
        let share = count.div_ceil(self.threads).max(NODES_PER_THREAD);
        let Self { options, board, uplinks, nodes, .. } = self;
        let tick = |nodes: &mut [Node]| -> Result<()> {
            nodes.iter_mut().try_for_each(|node| node.tick(now, options, board, means, uplinks))
        };
        if count <= share {
            return tick(nodes);
        }
        thread::scope(|scope| {
            let parts: Vec<_> = nodes.chunks_mut(share).map(|part| scope.spawn(|| tick(part))).collect();
            parts.into_iter().try_for_each(|part| match part.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread of the agents panicked"),
            })
        })
    }

    /// Frames that no coordinator has accepted yet.
    pub fn waiting_frames(&self) -> u64 {
        let agents = self.nodes.iter().filter_map(|node| node.agent.as_ref());
        agents
            .map(|agent| {
                let accepted = u64::try_from(agent.metrics.frames_accepted.get()).unwrap_or(0);
                agent.ring.status().newest.saturating_sub(accepted)
            })
            .sum()
    }

    /// Every agent ends its interval, sends what it has for at most two seconds, and stops.
    ///
    /// # Errors
    /// When one of their tasks panicked.
    pub async fn stop(mut self, now: Duration) -> Result<()> {
        for node in &mut self.nodes {
            let at = node.now(now, &self.options, &self.board);
            if let Some(agent) = &mut node.agent {
                let last = agent.sampler.flush(at);
                if let Some(last) = last {
                    agent.produced(last);
                }
                agent.phase.send_replace(Phase::Draining);
            }
        }
        for agent in self.nodes.iter_mut().filter_map(|node| node.agent.as_mut()) {
            (&mut agent.uplink).await.context("an uplink panicked")?;
        }
        Ok(())
    }
}

impl Node {
    /// The clocks of the node; simulated time is its monotonic clock, too.
    fn now(&self, now: Duration, options: &AgentOptions, board: &Board) -> Now {
        let wall = (options.start + now).shifted(board.agent_clock_offset(&self.name));
        Now { monotonic: now, wall, own_cpu: Duration::ZERO }
    }

    fn tick(
        &mut self,
        now: Duration,
        options: &AgentOptions,
        board: &Board,
        means: Means,
        uplinks: &Handle,
    ) -> Result<()> {
        if board.agent_lost(&self.name) {
            self.agent = None;
            return Ok(());
        }
        let at = self.now(now, options, board);
        self.wall.set(at.wall);
        let agent = if let Some(agent) = &mut self.agent {
            agent
        } else {
            let agent = Agent::start(&self.name, &self.root, at, &self.wall, options, means, uplinks)
                .with_context(|| format!("cannot start the agent of {}", self.name))?;
            self.agent.insert(agent)
        };
        agent.tick(at, options);
        Ok(())
    }
}

impl Agent {
    fn start(
        node: &str,
        root: &Path,
        at: Now,
        wall: &Wall,
        options: &AgentOptions,
        means: Means,
        uplinks: &Handle,
    ) -> Result<Self> {
        let epoch = u64::try_from(at.wall.unix_micros()).unwrap_or(1).max(1);
        let metrics = Arc::new(Metrics::new(0));
        let ring = Arc::new(Ring::new(RING));
        let discovery = if means.watches { Discovery::new(root)? } else { Discovery::by_listing(root)? };
        let sampler_options = SamplerOptions {
            epoch,
            hertz: options.hertz,
            frame_interval: options.frame_interval,
            cpu_budget_millicores: 0,
            reading_clock: None,
        };
        let mut sampler = Sampler::new(sampler_options, discovery, Arc::clone(&metrics));
        if !means.keeps_descriptors {
            sampler.open_for_each_reading();
        }
        let uplink_options = UplinkOptions {
            node: node.to_owned(),
            epoch,
            address: options.coordinator.clone(),
            wall: wall.clock(),
        };
        let (interval, frame_interval) = watch::channel(None);
        let (phase, phase_of_uplink) = watch::channel(Phase::Running);
        let uplink = Uplink::new(
            uplink_options,
            Transport::Plaintext,
            Arc::clone(&ring),
            Arc::clone(&metrics),
            interval,
            phase_of_uplink,
        );
        let uplink = uplinks.spawn(uplink.run());
        Ok(Self { sampler, next: at.monotonic, ring, metrics, frame_interval, phase, uplink })
    }

    fn tick(&mut self, at: Now, options: &AgentOptions) {
        if self.frame_interval.has_changed().unwrap_or(false) {
            let wanted = *self.frame_interval.borrow_and_update();
            self.sampler.set_frame_interval(wanted.unwrap_or(options.frame_interval));
        }
        if at.monotonic < self.next {
            return;
        }
        let frame = self.sampler.tick(at);
        if let Some(frame) = frame {
            self.produced(frame);
        }
        self.next = next_deadline(self.next, at.monotonic, self.sampler.period());
    }

    fn produced(&self, frame: Frame) {
        self.metrics.observe(&frame);
        self.metrics.observe_ring(self.ring.push(frame));
    }
}
