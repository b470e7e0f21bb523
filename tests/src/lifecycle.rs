//! `up` and `down`: an instance comes completely or not at all, and goes without a trace.

use std::{
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
    progress::Progress,
};

/// A quiet machine needs 3 s for the API server and 13 s for a node; four builds beside it must not fail the start.
const API_SERVER_WAIT: Duration = Duration::from_mins(2);
const NODE_WAIT: Duration = Duration::from_mins(4);
/// Each look costs a kubectl start, about 0.1 s of a core.
const POLL: Duration = Duration::from_millis(250);

/// What `up` starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes, 0 for a control plane only.
    pub nodes: u8,
    /// Size of each.
    pub size: Size,
    /// How they run; found out when not given.
    pub accelerator: Option<Accelerator>,
    /// Whether missing Debian packages may be installed.
    pub install: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 1, size: Size::default(), accelerator: None, install: false }
    }
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
    let _lock = instance.lock()?;
    progress.step(&format!("run folder and network of {}", instance.name()));
    if let Some(state) = instance.state()?.filter(|state| state.complete && healthy(instance)) {
        return already_up(instance, state, options);
    }
    if instance.exists()? {
        progress.note("an earlier run of this name was left behind: cleaning it up");
        instance.remove()?;
    }
    match start(instance, &prepared, options, &mut progress) {
        Ok(state) => Ok(state),
        Err(error) => {
            progress.note("cleaning up");
            instance.remove()?;
            Err(error)
        }
    }
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
    let State { nodes, .. } = state;
    if nodes != options.nodes {
        bail!("{} is already up with {nodes} nodes: `down` first, or use another --name", instance.name());
    }
    eprintln!("{} is already up", instance.name());
    Ok(state)
}

fn start(
    instance: &Instance,
    prepared: &Prepared,
    options: &Options,
    progress: &mut Progress,
) -> Result<State> {
    let Options { nodes, size, accelerator, .. } = *options;
    let begin = Instant::now();
    instance.create()?;
    let mut state = State { tools: prepared.tools.clone(), nodes, complete: false };
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
    progress.step(&format!("waiting for {nodes} node(s)"));
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    for (name, _) in &guests {
        let get = ["get", "node", name, "--ignore-not-found", "-o", ready];
        wait(instance, NODE_WAIT, name, || {
            ask(instance, &state, &get).is_some_and(|answer| answer == "True")
        })?;
        let since = begin.elapsed().as_secs_f64();
        progress.result(&format!("node {name} Ready ({since:.1} s after its start)"));
    }
    if guests.is_empty() {
        progress.result("control plane ready");
    }
    state.complete = true;
    instance.remember(&state)?;
    Ok(state)
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
            let log = logs_of(instance, if what.starts_with('n') { what } else { control_plane::API_SERVER });
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
