//! `cargo lab backtest`: a program of its own, so that it runs optimised and the lab does not carry it.

use std::process::ExitCode;

use clap::Parser;
use optipod_tests::backtest::{self, Options};

/// Sizing systems against recorded usage: ours beside VPA, Autopilot, KRR, Crane, Koordinator and others.
#[derive(Debug, Parser)]
#[command(name = "backtest", bin_name = "cargo lab backtest", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match backtest::run(&Cli::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
