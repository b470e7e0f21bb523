//! `cargo lab test`: every part in turn, its output as it comes, one summary at the end.
//!
//! A part that cannot run on this machine fails; nothing is skipped.

use std::{
    collections::BTreeSet,
    process::{self, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::ValueEnum;

use crate::{cache::Cache, interrupt, progress::Progress};
use count::Count;

pub mod count;
pub mod parts;

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only these parts, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Also what takes longer than a gate should: fifty times as many random cases for each property.
    #[arg(long)]
    pub full: bool,
}

/// The parts, in the order in which they run: what fails fastest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// rustfmt.
    Format,
    /// clippy, all targets, warnings are errors.
    Lints,
    /// rustdoc, warnings are errors.
    Docs,
    /// Unit, property, pipeline, wire and workspace tests: no cluster.
    Unit,
    /// The chart and the coordinator on a real control plane.
    Apiserver,
    /// Scenarios on simulated nodes.
    Simulated,
    /// The installed product on a real node.
    Node,
    /// The demo, from an empty lab to its verdict.
    Demo,
}

/// How one part went.
struct Outcome {
    part: Part,
    count: Count,
    took: Duration,
    error: Option<anyhow::Error>,
}

/// Runs the parts. The exit code is 0 only if all of them passed and at least one test ran.
pub fn run(cache: &Cache, options: &Options, install: bool) -> Result<ExitCode> {
    interrupt::install()?;
    let chosen: BTreeSet<Part> = options.only.iter().copied().collect();
    let parts = Part::value_variants().iter().filter(|part| chosen.is_empty() || chosen.contains(part));
    let parts: Vec<Part> = parts.copied().collect();
    let mut progress = Progress::new("test", parts.len());
    let bench = parts::Bench { cache, install, full: options.full, name: format!("test-{}", process::id()) };
    let mut outcomes = Vec::new();
    for part in parts {
        progress.step(part.describe());
        let start = Instant::now();
        let mut count = Count::default();
        let error = interrupt::check().and_then(|()| bench.run(part, &mut count)).err();
        if let Some(error) = &error {
            progress.note(&format!("{part:?} failed: {error:#}"));
        }
        let interrupted = interrupt::raised();
        outcomes.push(Outcome { part, count, took: start.elapsed(), error });
        if interrupted {
            break;
        }
    }
    Ok(summary(&outcomes, progress.seconds()))
}

fn summary(outcomes: &[Outcome], seconds: f64) -> ExitCode {
    println!("\n{:<10} {:>8} {:>8} {:>9}", "part", "passed", "failed", "seconds");
    let mut total = Count::default();
    for Outcome { part, count, took, error } in outcomes {
        let mut count = *count;
        // A part that failed without a failed test of its own (it could not start, a lint) counts as one.
        if error.is_some() && count.failed == 0 {
            count.failed = 1;
        }
        let name = format!("{part:?}").to_lowercase();
        println!("{name:<10} {:>8} {:>8} {:>9.1}", count.passed, count.failed, took.as_secs_f64());
        total += count;
    }
    for Outcome { part, error, .. } in outcomes {
        if let Some(error) = error {
            println!("{part:?}: {error:#}");
        }
    }
    println!("after {seconds:.0} s\n{} passed, {} failed", total.passed, total.failed);
    if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Part {
    fn describe(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lints => "lints",
            Self::Docs => "documentation",
            Self::Unit => "unit, property, pipeline, wire and workspace tests",
            Self::Apiserver => "chart and coordinator on a real control plane",
            Self::Simulated => "scenarios on simulated nodes",
            Self::Node => "the product on a real node",
            Self::Demo => "the demo",
        }
    }
}
