//! `up` and `down`: an instance comes completely or not at all, and goes without a trace.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    base_images,
    cache::Cache,
    command::{self, command},
    control_plane,
    instance::{Instance, State},
    interrupt, network,
    node::{self, Accelerator, Size},
    paths,
    prepare::{self, Prepared},
    process::{self, Process},
    product,
    progress::Progress,
};

/// A quiet machine needs 3 s for the API server and 13 s for a node; four builds beside it must not fail the start.
const API_SERVER_WAIT: Duration = Duration::from_mins(2);
const NODE_WAIT: Duration = Duration::from_mins(4);
/// Simulated nodes that fit the simulator's address plan.
pub const MOST_SIMULATED: u16 = 5000;
/// Name of the simulator's process and log.
const SIMULATOR: &str = "simulator";
/// Each look costs a kubectl start, about 0.1 s of a core.
const POLL: Duration = Duration::from_millis(250);

/// What `up` starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes, 0 for a control plane only.
    pub nodes: u8,
    /// Simulated nodes beside them.
    pub simulated: Simulated,
    /// Size of each.
    pub size: Size,
    /// How they run; found out when not given.
    pub accelerator: Option<Accelerator>,
    /// Whether missing Debian packages may be installed.
    pub install: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            simulated: Simulated::default(),
            size: Size::default(),
            accelerator: None,
            install: false,
        }
    }
}

/// Nodes of one process that plays their kubelets.
#[derive(Debug, Clone, Default)]
pub struct Simulated {
    /// How many.
    pub count: u16,
    /// More arguments of the simulator.
    pub arguments: Vec<String>,
}

/// Starts the instance and returns when its nodes are Ready. On failure or Ctrl-C nothing of it is left but the logs'
/// last lines in the error.
pub fn up(instance: &Instance, cache: &Cache, options: &Options) -> Result<State> {
    if options.nodes > network::MAX_NODES {
        bail!("--nodes {}: the address plan has room for {}", options.nodes, network::MAX_NODES);
    }
    interrupt::install()?;
    let mut progress = Progress::new("up", prepare::STEPS + 4);
    let prepared = prepare::ensure(cache, options.install, &mut progress)?;
    let simulator =
        (options.simulated.count > 0).then(|| simulator(cache, &options.simulated, &progress)).transpose()?;
    let _lock = instance.lock()?;
    progress.step(&format!("run folder and network of {}", instance.name()));
    if let Some(state) = instance.state()?.filter(|state| state.complete && healthy(instance)) {
        return already_up(instance, state, options);
    }
    if instance.exists()? {
        progress.note("an earlier run of this name was left behind: cleaning it up");
        instance.remove()?;
    }
    match start(instance, &prepared, options, simulator, &mut progress) {
        Ok(state) => Ok(state),
        Err(error) => {
            progress.note("cleaning up");
            instance.remove()?;
            Err(error)
        }
    }
}

/// Adds simulated nodes to an instance that is up and has none.
pub fn add_simulated(instance: &Instance, cache: &Cache, simulated: &Simulated) -> Result<()> {
    let mut progress = Progress::new("simulated", 1);
    let simulator = simulator(cache, simulated, &progress)?;
    let _lock = instance.lock()?;
    let state = instance.state()?.filter(|state| state.complete && state.simulated == 0);
    let Some(state) = state else {
        bail!("{} is not up without simulated nodes", instance.name());
    };
    progress.step("starting simulated nodes");
    let begin = Instant::now();
    simulate(instance, &state, simulator)?;
    let state = State { simulated: simulated.count, ..state };
    wait_for_simulated(instance, &state, begin, &progress)?;
    instance.remember(&state)
}

/// Stops and removes the instance.
pub fn down(instance: &Instance) -> Result<()> {
    let mut progress = Progress::new("down", 1);
    let _lock = instance.lock()?;
    if !instance.exists()? {
        progress.note(&format!("{} is not up", instance.name()));
        return Ok(());
    }
    progress.step(&format!("stopping {}", instance.name()));
    let stopped = instance.remove()?;
    progress.result(&format!("{} is gone ({stopped} processes stopped)", instance.name()));
    Ok(())
}

/// Whether every recorded process still runs.
pub fn healthy(instance: &Instance) -> bool {
    let components = instance.components();
    !components.is_empty() && components.iter().all(|(_, process)| process.is_some())
}

fn already_up(instance: &Instance, state: State, options: &Options) -> Result<State> {
    let State { nodes, simulated, .. } = state;
    if (nodes, simulated) != (options.nodes, options.simulated.count) {
        bail!(
            "{} is already up with {nodes} nodes and {simulated} simulated ones: `down` first, or use another --name",
            instance.name()
        );
    }
    eprintln!("{} is already up", instance.name());
    Ok(state)
}

fn start(
    instance: &Instance,
    prepared: &Prepared,
    options: &Options,
    simulator: Option<Command>,
    progress: &mut Progress,
) -> Result<State> {
    let Options { nodes, size, accelerator, .. } = *options;
    let begin = Instant::now();
    instance.create()?;
    let mut state =
        State { tools: prepared.tools.clone(), nodes, simulated: options.simulated.count, complete: false };
    instance.remember(&state)?;
    instance.namespace().create(nodes)?;
    control_plane::write_identities(instance, nodes)?;
    interrupt::check()?;

    progress.step("starting the control plane");
    control_plane::start(instance, &prepared.tools, nodes > 0)?;
    let mut guests = Vec::new();
    if nodes > 0 {
        start_registry(instance, prepared)?;
        let accelerator = accelerator.unwrap_or_else(Accelerator::detect);
        progress
            .step(&format!("booting {nodes} node(s) with {accelerator:?} and waiting for the API server"));
        for index in 1..=nodes {
            let process = node::start(instance, &prepared.image, index, nodes, size, accelerator)?;
            guests.push((node::name(index), process));
        }
    }
    wait(instance, API_SERVER_WAIT, "the API server", || {
        ask(instance, &state, &["get", "--raw=/readyz"]).is_some_and(|answer| answer == "ok")
    })?;
    progress.note("API server ready");
    if let Some(simulator) = simulator {
        simulate(instance, &state, simulator)?;
    }
    progress.step(&format!("waiting for {} node(s)", u16::from(nodes) + state.simulated));
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    for (name, _) in &guests {
        let get = ["get", "node", name, "--ignore-not-found", "-o", ready];
        wait(instance, NODE_WAIT, name, || {
            ask(instance, &state, &get).is_some_and(|answer| answer == "True")
        })?;
        let since = begin.elapsed().as_secs_f64();
        progress.result(&format!("node {name} Ready ({since:.1} s after its start)"));
    }
    wait_for_simulated(instance, &state, begin, progress)?;
    if guests.is_empty() {
        progress.result("control plane ready");
    }
    state.complete = true;
    instance.remember(&state)?;
    Ok(state)
}

/// Builds the process that plays the simulated nodes. OptiPod's own images are processes there, of the binaries that
/// `cargo lab images` makes.
fn simulator(cache: &Cache, simulated: &Simulated, progress: &Progress) -> Result<Command> {
    let Simulated { count, arguments } = simulated;
    let mut command =
        command(product::build_simulator(cache, false, progress)?, ["--nodes", &count.to_string()]);
    command.arg("--programs").arg(product::binaries(cache)).args(arguments);
    Ok(command)
}

/// Starts the process that plays the simulated nodes, with the rights that it needs.
fn simulate(instance: &Instance, state: &State, mut simulator: Command) -> Result<()> {
    let rights = paths::lab_files().join("control-plane/simulator.yaml");
    // roles of the API server itself appear a moment after it is ready
    wait(instance, API_SERVER_WAIT, "the simulator's rights", || {
        let file = rights.to_string_lossy();
        ask(instance, state, &["apply", "--filename", &file]).is_some()
    })?;
    simulator.arg("--cgroups").arg(instance.cgroups()).arg("--logs").arg(instance.logs());
    simulator.env("KUBECONFIG", instance.simulator_config());
    process::spawn(instance, SIMULATOR, &simulator, &instance.namespace()).map(drop)
}

fn wait_for_simulated(instance: &Instance, state: &State, begin: Instant, progress: &Progress) -> Result<()> {
    let wanted = usize::from(state.simulated);
    if wanted == 0 {
        return Ok(());
    }
    let ready = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
    let list = ["get", "nodes", "--selector", "optipod.io/simulated=true", "--output", ready];
    wait(instance, NODE_WAIT, SIMULATOR, || {
        let answer = ask(instance, state, &list).unwrap_or_default();
        answer.split_whitespace().filter(|word| *word == "True").count() >= wanted
    })?;
    let since = begin.elapsed().as_secs_f64();
    progress.result(&format!("{wanted} simulated node(s) Ready ({since:.1} s after the start)"));
    Ok(())
}

/// The registry is this program again, in the background.
fn start_registry(instance: &Instance, prepared: &Prepared) -> Result<Process> {
    base_images::install(&prepared.base_images, &instance.registry())?;
    let mut registry = command(paths::own_program(), ["__registry", "--dir"]);
    registry.arg(instance.registry());
    process::spawn(instance, "registry", &registry, &instance.namespace())
}

/// kubectl's answer, none while the API server does not give one.
fn ask(instance: &Instance, state: &State, args: &[&str]) -> Option<String> {
    let mut kubectl = instance.namespace().command(state.tools.kubectl());
    kubectl.args(args).arg("--request-timeout=5s").env("KUBECONFIG", instance.kubeconfig());
    kubectl.env("KUBECACHEDIR", instance.folder().join("kubectl-cache"));
    command::output(&mut kubectl).ok()
}

/// Waits for `done`; fails at once when a process of the instance has died, with the end of its log.
fn wait(instance: &Instance, limit: Duration, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        interrupt::check()?;
        for (component, process) in instance.components() {
            if process.is_none() {
                let log = logs_of(instance, &component);
                bail!("{component} ended while {what} was waited for; the end of its log:\n{log}");
            }
        }
        if Instant::now() > deadline {
            let log = logs_of(
                instance,
                if instance.log(what).exists() || what.starts_with('n') {
                    what
                } else {
                    control_plane::API_SERVER
                },
            );
            bail!("{what} is not ready after {} s; the end of the log:\n{log}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn logs_of(instance: &Instance, component: &str) -> String {
    let node = component.strip_prefix("qemu-").unwrap_or(component);
    let logs =
        [component.to_owned(), node::console(node)].map(|name| command::tail(&instance.log(&name), 20));
    logs.join("\n")
}
