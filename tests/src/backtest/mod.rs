//! The back-test: sizing systems against recorded usage, ours beside the best known ones.
//!
//! Protocol, bars and results are in `tests/BACKTEST.md`. [`optipod_common::replay`] replays a rule causally; here are
//! the opponents ([`opponents`]), the traces, the statistics and the report.

pub mod bars;
pub mod closed_loop;
pub mod opponents;
pub mod plot;
pub mod protocol;
pub mod report;
pub mod statistics;
pub mod sweep;
pub mod systems;
pub mod trace;

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use clap::Args;

use crate::paths;
use protocol::Half;
use report::Report;
use trace::Traces;

/// What the command line says.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Folder with `<set>.csv.gz` files of the columns `series`, `t_seconds`, `cpu_cores`, `memory_mib`. Without it only the
    /// recordings that ship with the project are used.
    #[arg(long, value_name = "FOLDER")]
    pub traces: Option<PathBuf>,
    /// Only these sets. Recordings (`recorded-1s`, `recorded-cpu-100hz`) may be named; the folder's own come before those
    /// that ship.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub set: Vec<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Fail when a bar that is not marked as a stretch does not hold at its 95 % bound, or could not be judged.
    #[arg(long)]
    pub check: bool,
    /// Which half of the series counts: constants are chosen on `tune` (default of a sweep), results are told of `test`
    /// (default otherwise).
    #[arg(long, value_enum)]
    pub half: Option<Half>,
    /// Sweep Adaptive's constants instead, and print what each costs.
    #[arg(long, conflicts_with_all = ["json", "check"])]
    pub sweep: bool,
    /// Draw the sweep beside the other systems into this SVG file.
    #[arg(long, value_name = "FILE", requires = "sweep")]
    pub plot: Option<PathBuf>,
}

/// Runs the back-test and prints its result.
pub fn run(options: &Options) -> Result<()> {
    let began = Instant::now();
    let shipped = paths::workspace().join("tests/data/traces");
    let Traces { sets, skipped, fine } = trace::read(options.traces.as_deref(), &shipped, &options.set)?;
    if options.sweep {
        return sweep::run(&sets, options.half.unwrap_or(Half::Tune), options.plot.as_deref());
    }
    let chosen = protocol::choose(&sets, options.half.unwrap_or(Half::Test));
    let systems = systems::all();
    let mut report = Report { skipped, ..protocol::run(&chosen, &systems) };
    closed_loop::add(&mut report, &fine, &chosen, &systems);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return checked(options, &report);
    }
    let series: usize = chosen.iter().map(|set| set.series.len()).sum();
    if options.traces.is_none() {
        println!(
            "Only the project's own recordings: an hour of six workloads. Real results need `--traces FOLDER`.\n"
        );
    }
    report::print(&report);
    bars::print(&report);
    let took = began.elapsed().as_secs_f64();
    println!("\n{series} series in {took:.1} s ({:.3} s per series)", took / series.max(1) as f64);
    checked(options, &report)
}

fn checked(options: &Options, report: &Report) -> Result<()> {
    let unmet = if options.check { bars::unmet(report) } else { Vec::new() };
    ensure!(unmet.is_empty(), "bars that do not hold:\n{}", unmet.join("\n"));
    Ok(())
}
