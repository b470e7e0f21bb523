//! Nodes that are not there: registers them, keeps them Ready, and runs the pods that are bound to them.
//!
//! `cargo lab up --simulated N` starts it. Where the API server is, and who it is there, says `KUBECONFIG`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::config::Kubeconfig;
use optipod_tests::simulated::clock::Pace;
use optipod_tests::simulated::faults::Board;
use optipod_tests::simulated::kubelet::api::{self, Events, Kubelets};
use optipod_tests::simulated::kubelet::containers::{Containers, Weightless};
use optipod_tests::simulated::kubelet::fleet::Fleet;
use optipod_tests::simulated::kubelet::node_agent::{NodeAgent, Setup};
use optipod_tests::simulated::kubelet::{Delays, Now};
use optipod_tests::simulated::node::{self, MOST_NODES, Shape};
use optipod_tests::simulated::programs::containers::WithPrograms;
use optipod_tests::simulated::programs::{Programs, Settings};
use optipod_tests::simulated::runtime::{ExitReason, Runtime};
use optipod_tests::simulated::scenario;
use tracing::{error, info, warn};

/// Real time between two looks at what is due: a tenth of what a kubelet needs for anything.
const TICK: Duration = Duration::from_millis(50);
/// Simulated time between two looks at what containers use: agents as processes sample ten times a second.
const FINE_STEP: Duration = Duration::from_millis(100);
/// The same for many nodes, whose files could not be written ten times a second.
const COARSE_STEP: Duration = Duration::from_secs(1);
/// Up to so many nodes steps are fine.
const FINE_NODES: usize = 10;
/// Real time between two lines about the process itself.
const REPORT: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
#[command(name = "simulator", about)]
struct Cli {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_NODES)))]
    nodes: u16,
    #[command(flatten)]
    shape: Shape,
    /// Choices that a real node would leave to chance follow from this number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many times faster than real time usage, probes and back-off go; leases are always renewed in real time.
    #[arg(long, default_value_t = 1)]
    speed: u32,
    /// Which Events about pods are written.
    #[arg(long, value_enum, default_value_t = Events::All)]
    events: Events,
    /// Folder for the cgroup files of the nodes; without it containers use nothing and have no files.
    #[arg(long, value_name = "FOLDER")]
    cgroups: Option<PathBuf>,
    /// Folder of OptiPod's binaries: its images run as processes; without it they are quiet containers.
    #[arg(long, value_name = "FOLDER", requires_all = ["cgroups", "logs"])]
    programs: Option<PathBuf>,
    /// Folder for the logs and credentials of these processes.
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// Play this scenario in the lab that `OPTIPOD_LAB` names, and nothing else.
    #[arg(long, value_name = "FILE")]
    play: Option<PathBuf>,
    /// With --play: write what was written to each pod, in order.
    #[arg(long, value_name = "FILE", requires = "play")]
    sequences: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(file) = &cli.play {
        return match scenario::play_file(file, cli.sequences.as_deref()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    tracing_subscriber::fmt().with_ansi(false).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.context("cannot start a runtime").and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let started = Timestamp::now();
    let runtimes = runtimes(&cli)?;
    let client = Client::try_default().await.context("KUBECONFIG names no usable cluster")?;
    let programs = programs(&cli, &client)?;
    let mut fleet = Fleet::default();
    for index in 1..=cli.nodes {
        let setup = Setup {
            node: node::name(index),
            capacity: cli.shape.capacity(),
            static_cpus: cli.shape.static_cpus,
            pod_network: node::pod_network(index),
            address: node::address(index),
            seed: cli.seed,
            delays: Delays::default(),
        };
        let runtime = runtimes.get(usize::from(index) - 1).cloned();
        let containers: Arc<dyn Containers> = match (runtime, programs.clone(), &cli.cgroups) {
            (Some(runtime), Some(programs), Some(root)) => {
                Arc::new(WithPrograms { runtime, programs, cgroup_root: root.join(node::name(index)) })
            }
            (Some(runtime), ..) => Arc::new(runtime),
            (None, ..) => Arc::new(Weightless),
        };
        fleet.add(NodeAgent::new(setup, containers, Board::default()));
    }
    let kubelets = Kubelets::new(fleet, Now { simulated: Duration::ZERO, wall: started });
    node::register(&client, cli.nodes, &cli.shape).await?;
    info!(nodes = cli.nodes, "registered");

    let heartbeats = node::heartbeats(client.clone(), kubelets.clone(), cli.nodes);
    let ready = node::keep_ready(client.clone(), kubelets.clone());
    let pods = api::run(kubelets.clone(), client, cli.events);
    let time = keep_time(kubelets.clone(), runtimes, programs, cli.speed, started);
    tokio::select! {
        () = heartbeats => bail!("the leases are no longer renewed"),
        ended = ready => ended,
        ended = pods => ended,
        ended = time => ended,
        () = report(kubelets, cli.nodes) => Ok(()),
        ended = tokio::signal::ctrl_c() => ended.context("cannot wait for a signal"),
    }
}

fn runtimes(cli: &Cli) -> Result<Vec<Runtime>> {
    let Some(root) = &cli.cgroups else { return Ok(Vec::new()) };
    let cpus = u32::try_from(cli.shape.cpu.0.div_ceil(1000)).unwrap_or(u32::MAX);
    (1..=cli.nodes)
        .map(|index| {
            let folder = root.join(node::name(index));
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            let runtime = Runtime::new(&folder, cli.seed)?;
            runtime.set_cpus(cpus);
            Ok(runtime)
        })
        .collect()
}

/// What runs OptiPod's own images, when that is wanted.
fn programs(cli: &Cli, client: &Client) -> Result<Option<Programs>> {
    let (Some(binaries), Some(folder)) = (&cli.programs, &cli.logs) else { return Ok(None) };
    if cli.speed != 1 {
        bail!("--programs needs --speed 1: processes live in real time");
    }
    let kubeconfig = Kubeconfig::read().context("KUBECONFIG")?;
    let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref());
    let cluster = cluster.context("KUBECONFIG has no cluster")?;
    let authority = cluster.certificate_authority_data.as_ref().context("KUBECONFIG has no authority")?;
    let settings = Settings {
        binaries: binaries.clone(),
        folder: folder.clone(),
        server: cluster.server.clone().context("KUBECONFIG has no server")?,
        authority: authority.clone(),
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(Some(Programs::new(settings, client.clone(), tokio::runtime::Handle::current())))
}

/// Moves simulated time: what is due first, then what containers use.
async fn keep_time(
    kubelets: Kubelets,
    runtimes: Vec<Runtime>,
    programs: Option<Programs>,
    speed: u32,
    started: Timestamp,
) -> Result<()> {
    let begin = Instant::now();
    let mut pace = Pace::new(speed, Duration::ZERO)?;
    let step = if runtimes.len() <= FINE_NODES { FINE_STEP } else { COARSE_STEP };
    let (mut simulated, mut used) = (Duration::ZERO, Duration::ZERO);
    loop {
        simulated += TICK * speed;
        tokio::time::sleep(pace.wait(simulated, begin.elapsed())).await;
        let wall = started.checked_add(SignedDuration::try_from(simulated)?)?;
        kubelets.advance(Now { simulated, wall });
        if simulated >= used + step {
            used = simulated;
            let runtimes = runtimes.clone();
            let exits = tokio::task::spawn_blocking(move || {
                runtimes.iter().map(|runtime| runtime.advance(simulated)).collect::<Vec<_>>()
            });
            let ended = programs.as_ref().map(Programs::take_exits).unwrap_or_default();
            for exits in exits.await?.into_iter().chain([Ok(ended)]) {
                for exit in exits? {
                    let reason = match exit.reason {
                        ExitReason::OomKilled => "OOMKilled",
                        ExitReason::Completed => "Completed",
                        ExitReason::Error => "Error",
                    };
                    kubelets.exited(&exit.pod_uid, (&exit.name, exit.id), (exit.code, reason));
                }
            }
        }
    }
}

/// A line about the process, for ever.
async fn report(kubelets: Kubelets, nodes: u16) {
    let mut round = tokio::time::interval(REPORT);
    loop {
        round.tick().await;
        let (pods, containers) = kubelets.look(|fleet| (fleet.len(), fleet.running()));
        let writes = kubelets.writes();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        match process() {
            Ok((rss_mib, cpu_seconds)) => info!(
                nodes,
                pods,
                containers,
                statuses = count(&writes.statuses),
                events = count(&writes.events),
                deletions = count(&writes.deletions),
                errors = count(&writes.errors),
                rss_mib,
                cpu_seconds,
                "status"
            ),
            Err(error) => warn!("{error:#}"),
        }
    }
}

/// Resident memory in MiB and CPU time in seconds of this process.
fn process() -> Result<(u64, f64)> {
    let stat = procfs::process::Process::myself()?.stat()?;
    let rss = stat.rss * procfs::page_size();
    let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    Ok((rss >> 20, cpu))
}
