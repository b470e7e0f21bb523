//! `cargo lab simulate FILE`: a control plane of its own, and the scenario of a file on simulated nodes.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{
    cache::Cache, command::command, instance::Instance, interrupt, lifecycle, product, progress::Progress,
};

/// The lab that is started when no name is given.
pub const NAME: &str = "optipod-simulate";

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The scenario (see tests/SIMULATED.md).
    file: PathBuf,
    /// Write what was written to each pod, in order, so that two runs can be compared.
    #[arg(long, value_name = "FILE")]
    sequences: Option<PathBuf>,
    /// Play with an optimised build: many nodes need it. Compiles for some minutes, once.
    #[arg(long)]
    release: bool,
    /// Leave the control plane running at the end.
    #[arg(long)]
    keep: bool,
}

/// Plays a scenario; an error when it could not be played, or when an expectation failed.
pub fn run(name: &str, cache: &Cache, options: &Options, install: bool) -> Result<()> {
    interrupt::install()?;
    let Options { file, sequences, release, keep } = options;
    let file = file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
    let instance = Instance::new(name)?;
    if instance.state()?.is_some_and(|state| state.complete) && lifecycle::healthy(&instance) {
        bail!("lab {name:?} is up already: `cargo lab --name {name} down` first, or use another --name");
    }
    // before the lab: a control plane that waits for a compiler is only noise
    let program = product::build_simulator(cache, *release, &Progress::new("simulate", 1))?;
    let up = lifecycle::Options { nodes: 0, install, ..lifecycle::Options::default() };
    lifecycle::up(&instance, cache, &up)?;
    let mut play = command(program, ["--play"]);
    play.arg(&file).env("OPTIPOD_LAB", name);
    if let Some(sequences) = sequences {
        play.arg("--sequences").arg(sequences);
    }
    let status = play.status().context("cannot start the simulator");
    let down = if *keep { Ok(()) } else { lifecycle::down(&instance) };
    let status = status?;
    down?;
    if status.success() { Ok(()) } else { bail!("{}: see the report above", file.display()) }
}
