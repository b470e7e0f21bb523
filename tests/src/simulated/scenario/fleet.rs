//! The nodes of a scenario with what runs on them, and the one thread that moves their time.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::jiff;
use kube::Client;
use optipod_common::time::{Clock, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::file::{NodeGroup, Scenario};
use crate::simulated::agents::{AgentOptions, Agents};
use crate::simulated::clock::{Pace, Wall};
use crate::simulated::faults::{Board, Kind};
use crate::simulated::kubelet::api::{self, Events, Kubelets};
use crate::simulated::kubelet::fleet::Fleet as Nodes;
use crate::simulated::kubelet::node_agent::{NodeAgent, Setup};
use crate::simulated::kubelet::pod::Worker;
use crate::simulated::kubelet::{Delays, Now};
use crate::simulated::node::{self, FEATURES, Shape};
use crate::simulated::runtime::{Exit, ExitReason, Runtime};

/// Simulated time between two steps; agents sample as often.
const STEP: Duration = Duration::from_secs(1);
/// Samples of agents per simulated second.
const HERTZ: u32 = 1;
/// Version that kubelets report when the scenario says nothing.
const VERSION: &str = "v1.36.3";
/// What a kubelet says of a pod that it evicts for memory.
const SHORT_OF_MEMORY: &str =
    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 96Mi. ";
/// Registrations under way at once.
const TOGETHER: usize = 16;

/// Running nodes. Dropping it stops them where they are.
pub struct Fleet {
    shared: Arc<Shared>,
    time: Option<JoinHandle<Result<()>>>,
    tasks: JoinSet<Result<()>>,
    wall: Wall,
}

#[derive(Default)]
struct Shared {
    /// Milliseconds since the start of the nodes.
    simulated: AtomicU64,
    /// When the scenario began, in the same milliseconds.
    zero: OnceLock<u64>,
    stop: AtomicBool,
}

impl Shared {
    fn now(&self) -> Duration {
        Duration::from_millis(self.simulated.load(Ordering::Relaxed))
    }

    fn scenario_time(&self, simulated: Duration) -> Option<Duration> {
        Some(simulated.saturating_sub(Duration::from_millis(*self.zero.get()?)))
    }
}

/// What a fleet is started with.
pub struct Options<'a> {
    /// What it plays.
    pub scenario: &'a Scenario,
    /// What goes wrong.
    pub board: Board,
    /// Who the kubelets are.
    pub client: Client,
    /// Where cgroup files go: an empty folder.
    pub folder: &'a Path,
    /// Where agents find a coordinator.
    pub coordinator: String,
    /// Time between frames.
    pub frame_interval: Duration,
    /// The wall clock at simulated time zero.
    pub wall: Wall,
}

/// What begins to go wrong is sent here: its number on the board and what it is.
pub type News = mpsc::UnboundedReceiver<(usize, Kind)>;

impl Fleet {
    /// Registers the nodes, and lets time pass.
    ///
    /// # Errors
    /// When a node cannot be registered or its files cannot be written.
    pub async fn start(options: Options<'_>) -> Result<(Self, News)> {
        let Options { scenario, board, client, folder, coordinator, frame_interval, wall } = options;
        let start = wall.now();
        let groups = scenario.nodes.iter().flat_map(|group| (0..group.count).map(move |_| shape(group)));
        let shapes: Vec<Shape> = groups.collect();
        let agent_options = AgentOptions { coordinator, frame_interval, hertz: HERTZ, start };
        let mut agents = Agents::new(agent_options, board.clone(), Handle::current());
        let (mut nodes, mut runtimes, mut names) = (Nodes::default(), Vec::new(), Vec::new());
        for (index, shape) in (1..).zip(&shapes) {
            let name = node::name(index);
            let root = folder.join(&name);
            std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
            let runtime = Runtime::new(&root, scenario.seed)?;
            runtime.set_cpus(u32::try_from(shape.cpu.0.div_ceil(1000)).unwrap_or(u32::MAX));
            let setup = Setup {
                node: name.clone(),
                capacity: shape.capacity(),
                static_cpus: shape.static_cpus,
                pod_network: node::pod_network(index),
                address: node::address(index),
                seed: scenario.seed,
                delays: Delays::default(),
            };
            nodes.add(NodeAgent::new(setup, Arc::new(runtime.clone()), board.clone()));
            agents.add(&name, &root);
            runtimes.push(runtime);
            names.push(name);
        }
        register(&client, shapes).await?;
        let kubelets = Kubelets::new(nodes, Now { simulated: Duration::ZERO, wall: moment(start)? });
        let count = u16::try_from(names.len()).context("too many nodes")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(api::run(kubelets.clone(), client.clone(), Events::Resizes));
        tasks.spawn(node::keep_ready(client.clone(), kubelets.clone()));
        let heartbeats = node::heartbeats(client, kubelets.clone(), count);
        tasks.spawn(async {
            heartbeats.await;
            bail!("the leases are no longer renewed")
        });
        let shared = Arc::new(Shared::default());
        let (sender, news) = mpsc::unbounded_channel();
        let machine = Machine {
            kubelets,
            runtimes,
            names,
            agents,
            board,
            wall: wall.clone(),
            start,
            lost: BTreeSet::new(),
            shared: shared.clone(),
            sender,
        };
        let pace = Pace::new(scenario.speed, Duration::ZERO)?;
        let time = thread::Builder::new().name("simulated time".to_owned());
        let time = time.spawn(move || machine.run(pace)).context("no thread for simulated time")?;
        Ok((Self { shared, time: Some(time), tasks, wall }, news))
    }

    /// The simulated wall clock.
    pub fn clock(&self) -> Clock {
        self.wall.clock()
    }

    /// The scenario begins: its time is zero now.
    pub fn begin(&self) {
        self.shared.zero.get_or_init(|| self.shared.simulated.load(Ordering::Relaxed));
    }

    /// Simulated time since the scenario began; zero before.
    pub fn now(&self) -> Duration {
        self.shared.scenario_time(self.shared.now()).unwrap_or_default()
    }

    /// Whether all parts live.
    ///
    /// # Errors
    /// What ended, and why.
    pub fn check(&mut self) -> Result<()> {
        if self.time.as_ref().is_none_or(JoinHandle::is_finished) {
            let ended = self.time.take().map(JoinHandle::join);
            bail!(
                "simulated time stands still: {:?}",
                ended.map(|ended| ended.map_err(|_| anyhow!("a panic")))
            );
        }
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(Ok(Ok(()))) => bail!("a part of the kubelets ended"),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Stops time, kubelets and agents.
    ///
    /// # Errors
    /// When time had stopped before, with what stopped it.
    pub async fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Some(time) = self.time.take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || time.join()).await?;
        joined.unwrap_or_else(|_| Err(anyhow!("a panic in simulated time")))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Registers nodes from the first on, several at a time.
async fn register(client: &Client, shapes: Vec<Shape>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for (index, shape) in (1..).zip(shapes) {
        if tasks.len() >= TOGETHER {
            tasks.join_next().await.transpose()?.transpose()?;
        }
        let client = client.clone();
        tasks.spawn(async move {
            let registered = node::register_one(&client, index, &shape).await;
            registered.with_context(|| format!("cannot register {}", node::name(index)))
        });
    }
    while let Some(registered) = tasks.join_next().await {
        registered??;
    }
    Ok(())
}

fn shape(group: &NodeGroup) -> Shape {
    Shape {
        cpu: group.cpu.0,
        memory: group.memory.0,
        pods: group.pods,
        kubelet_version: group.version.clone().unwrap_or_else(|| VERSION.to_owned()),
        declared_features: group
            .declared_features
            .clone()
            .unwrap_or_else(|| FEATURES.split(',').map(str::trim).map(str::to_owned).collect()),
        static_cpus: group.static_cpus,
    }
}

fn moment(time: Timestamp) -> Result<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(time.unix_micros()).context("the simulated time is no date")
}

/// Everything that moves with simulated time.
struct Machine {
    kubelets: Kubelets,
    runtimes: Vec<Runtime>,
    names: Vec<String>,
    agents: Agents,
    board: Board,
    wall: Wall,
    start: Timestamp,
    lost: BTreeSet<String>,
    shared: Arc<Shared>,
    sender: mpsc::UnboundedSender<(usize, Kind)>,
}

impl Machine {
    fn run(mut self, mut pace: Pace) -> Result<()> {
        let begin = Instant::now();
        let mut simulated = Duration::ZERO;
        while !self.shared.stop.load(Ordering::Relaxed) {
            simulated += STEP;
            thread::sleep(pace.wait(simulated, begin.elapsed()));
            self.step(simulated)?;
        }
        Ok(())
    }

    fn step(&mut self, simulated: Duration) -> Result<()> {
        let wall = self.start + simulated;
        self.wall.set(wall);
        let millis = u64::try_from(simulated.as_millis()).unwrap_or(u64::MAX);
        self.shared.simulated.store(millis, Ordering::Relaxed);
        if let Some(time) = self.shared.scenario_time(simulated) {
            self.wrong(time)?;
        }
        self.kubelets.advance(Now { simulated, wall: moment(wall)? });
        for exits in advance(&self.runtimes, simulated)? {
            for Exit { pod_uid, name, id, code, reason } in exits {
                let reason = match reason {
                    ExitReason::OomKilled => "OOMKilled",
                    ExitReason::Completed => "Completed",
                    ExitReason::Error => "Error",
                };
                self.kubelets.exited(&pod_uid, (&name, id), (code, reason));
            }
        }
        self.agents.tick(simulated)
    }

    /// Lets go wrong what the board says of this moment.
    fn wrong(&mut self, time: Duration) -> Result<()> {
        for (number, kind) in self.board.advance(time) {
            match kind {
                Kind::CountersReset(_) => self.reset_counters(number)?,
                Kind::Evicted(_) => self.evict(number),
                _ => {}
            }
            // nobody listens at the end
            let _ = self.sender.send((number, kind));
        }
        let lost: BTreeSet<String> =
            self.names.iter().filter(|name| self.board.node_lost(name)).cloned().collect();
        if lost != self.lost {
            self.kubelets.lose(lost.clone());
            self.lost = lost;
        }
        Ok(())
    }

    /// Node, UID and running containers of the pods that a fault is about.
    fn concerned(&self, number: usize) -> Vec<(String, String, Vec<String>)> {
        self.kubelets.look(|fleet| {
            let pods = fleet.nodes().flat_map(|node| node.pods().map(|pod| (node.setup.node.clone(), pod)));
            let concerned = pods.filter(|(_, pod)| {
                let (namespace, name) = pod.names();
                self.board.concerns(number, &namespace, &name)
            });
            let running = |pod: &Worker| {
                let running = pod.containers.iter().filter(|container| container.running());
                running.map(|container| container.slot.name.clone()).collect()
            };
            concerned.map(|(node, pod)| (node, pod.uid.clone(), running(pod))).collect()
        })
    }

    fn evict(&self, number: usize) {
        for (_, uid, _) in self.concerned(number) {
            self.kubelets.evict(&uid, SHORT_OF_MEMORY);
        }
    }

    fn reset_counters(&self, number: usize) -> Result<()> {
        for (node, uid, containers) in self.concerned(number) {
            let runtime = self.names.iter().zip(&self.runtimes).find(|(name, _)| **name == node);
            for container in containers {
                if let Some((_, runtime)) = runtime {
                    runtime.reset_counters(&uid, &container)?;
                }
            }
        }
        Ok(())
    }
}

/// Moves what containers use, on all cores.
fn advance(runtimes: &[Runtime], simulated: Duration) -> Result<Vec<Vec<Exit>>> {
    let share = runtimes.len().div_ceil(thread::available_parallelism().map_or(1, NonZero::get)).max(16);
    let advance = |part: &[Runtime]| -> Result<Vec<Vec<Exit>>> {
        part.iter().map(|runtime| runtime.advance(simulated)).collect()
    };
    if runtimes.len() <= share {
        return advance(runtimes);
    }
    thread::scope(|scope| {
        let parts: Vec<_> = runtimes.chunks(share).map(|part| scope.spawn(move || advance(part))).collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.join().map_err(|_| anyhow!("a thread of the runtimes panicked"))??);
        }
        Ok(all)
    })
}
