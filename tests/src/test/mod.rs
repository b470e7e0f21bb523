//! `cargo lab test`: every check of the project, in parts, with one summary.
//!
//! ```text
//! fmt > clippy > docs > tests > chart > apiserver > node > demo
//!            control plane ......^        node, images ^
//! ```
//!
//! Checks are children: cargo, and this program's own `up`, `images`, `down` and `demo`. The control plane starts beside
//! the first parts. Labs are named after this process and are taken down whatever happens. A part that cannot run has
//! failed: nothing is skipped. Every part's whole output is in the cache's `log` folder.

mod labs;
mod part;
mod summary;

use std::process::ExitCode;

use anyhow::{Context, Result};

pub use self::part::Part;
use self::{
    labs::{Labs, Program},
    part::Context as Run,
    summary::{Outcome, Summary},
};
use crate::{cache::Cache, interrupt, progress::Progress};

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What takes longer than a gate should, too: more cases of property tests, longer soaks.
    #[arg(long)]
    full: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
}

/// Runs the parts and prints the summary; success only if everything passed.
pub fn run(cache: &Cache, options: &Options, install: bool) -> Result<ExitCode> {
    interrupt::install()?;
    let chosen = |part: &Part| options.only.is_empty() || options.only.contains(part);
    let parts: Vec<Part> = Part::ALL.into_iter().filter(chosen).collect();
    let mut progress = Progress::new("test", parts.len());
    let program = Program::own(cache, install)?;
    let mut labs = Labs::new(program);
    if parts.iter().any(|part| part.needs_control_plane()) {
        labs.start_control_plane()?;
    }
    let mut summary = Summary::default();
    for part in parts {
        progress.step(&part.announcement());
        let mut run = Run { cache, labs: &mut labs, progress: &progress, full: options.full };
        let outcome = Outcome::of(part, || part.run(&mut run));
        // what was interrupted says nothing about the project
        interrupt::check().inspect_err(|_| progress.note("stopping: cleaning up"))?;
        progress.note(&outcome.line());
        summary.add(outcome);
    }
    labs.down().context("cannot take the labs down")?;
    println!("{}", summary.text(progress.seconds()));
    Ok(if summary.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
