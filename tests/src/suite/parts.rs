//! What each part of `cargo lab test` does.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    Part,
    count::{Count, result_line},
};
use crate::{
    Lab,
    cache::Cache,
    command::{command, shown},
    images::Reference,
    instance::Instance,
    lifecycle::{self, Simulated},
    paths,
    product::{self, Program},
    progress::Progress,
};

/// Random cases for each property with `--full`; proptest's own default is 256.
const FULL_CASES: &str = "12800";

/// What all parts use.
pub struct Bench<'a> {
    /// Of the lab.
    pub cache: &'a Cache,
    /// Missing Debian packages may be installed.
    pub install: bool,
    /// Take longer.
    pub full: bool,
    /// Prefix of the labs' names: unique, so that several runs do not meet.
    pub name: String,
}

impl Bench<'_> {
    /// Runs one part to its end. Counts come in as they are printed, so they are there on failure as well.
    pub fn run(&self, part: Part, count: &mut Count) -> Result<()> {
        match part {
            Part::Format => single(cargo(["fmt", "--all", "--check"]), count),
            Part::Lints => single(
                cargo([
                    "clippy",
                    "--locked",
                    "--workspace",
                    "--all-targets",
                    "--all-features",
                    "--",
                    "-D",
                    "warnings",
                ]),
                count,
            ),
            Part::Docs => {
                let mut rustdoc = cargo(["doc", "--locked", "--workspace", "--no-deps"]);
                rustdoc.env("RUSTDOCFLAGS", "-D warnings");
                single(rustdoc, count)
            }
            Part::Unit => tests(
                self.cargo_test(&[
                    "--workspace",
                    "--features",
                    "optipod-tests/backtest,optipod-tests/simulated",
                ]),
                count,
            ),
            Part::Apiserver => self.apiserver(count),
            Part::Simulated => self.simulated(count),
            Part::Node => self.node(count),
            Part::Demo => self.demo(count),
        }
    }

    fn cargo_test(&self, args: &[&str]) -> Command {
        let mut cargo = cargo(["test", "--locked", "--no-fail-fast"]);
        cargo.args(args);
        if self.full {
            cargo.env("PROPTEST_CASES", FULL_CASES);
        }
        cargo
    }

    /// The targets are built before the lab starts: a lab that waits for a compiler is only noise. They are chosen from
    /// the whole workspace, as the unit tests are: with one package, cargo unites features otherwise and builds most
    /// dependencies a second time.
    fn cluster_tests(&self, targets: &[&str]) -> Result<Command> {
        let mut args = vec!["--workspace", "--features", "optipod-tests/cluster"];
        args.extend(targets.iter().flat_map(|target| ["--test", target]));
        let mut build = self.cargo_test(&args);
        build.arg("--no-run");
        succeed(build)?;
        Ok(self.cargo_test(&args))
    }

    fn apiserver(&self, count: &mut Count) -> Result<()> {
        let mut run = self.cluster_tests(&["chart", "apiserver"])?;
        self.with_lab("api", 0, |lab, name| {
            run.env("OPTIPOD_LAB", name).env("OPTIPOD_HELM", lab.helm_program());
            tests(run, count)
        })
    }

    fn simulated(&self, count: &mut Count) -> Result<()> {
        let run = self.cluster_tests(&["simulated"])?;
        self.with_lab("simulated", 0, |_, name| tests(in_lab(run, name), count))
    }

    fn node(&self, count: &mut Count) -> Result<()> {
        let mut run = self.cluster_tests(&["node"])?;
        let mut conformance = self.cluster_tests(&["conformance"])?;
        self.with_lab("node", 1, |lab, name| {
            let progress = Progress::new("images", 1);
            let images = product::build_images(self.cache, &lab.registry(), &Program::ALL, &progress)?;
            let names = ["OPTIPOD_AGENT_IMAGE", "OPTIPOD_COORDINATOR_IMAGE", "OPTIPOD_LOAD_IMAGE"];
            for (variable, image) in names.iter().zip(&images) {
                run.env(variable, Reference::image(image));
                conformance.env(variable, Reference::image(image));
            }
            let product = tests(in_lab(run, name), count);
            // a simulated node would take pods from the tests before
            let simulated = Simulated { count: 1, arguments: vec!["--cpu=2".to_owned()] };
            lifecycle::add_simulated(lab.instance(), self.cache, &simulated)?;
            product.and(tests(in_lab(conformance, name), count))
        })
    }

    fn demo(&self, count: &mut Count) -> Result<()> {
        let played = |nodes: &[&str], count: &mut Count| {
            let mut demo = command(paths::own_program(), ["--name", &format!("{}-demo", self.name), "demo"]);
            demo.arg("--cache").arg(self.cache.root()).args(nodes);
            if self.install {
                demo.arg("--yes");
            }
            single(demo, count)
        };
        played(&["--simulated"], count).and(played(&[], count))
    }

    /// A lab of its own, taken down whatever happens.
    fn with_lab(&self, suffix: &str, nodes: u8, work: impl FnOnce(&Lab, &str) -> Result<()>) -> Result<()> {
        let name = format!("{}-{suffix}", self.name);
        let instance = Instance::new(&name)?;
        let options = lifecycle::Options { nodes, install: self.install, ..lifecycle::Options::default() };
        lifecycle::up(&instance, self.cache, &options)?;
        let result = Lab::attach(&name).and_then(|lab| work(&lab, &name));
        // the result of the tests matters more than that of cleaning up, and both are told
        match (result, lifecycle::down(&instance)) {
            (Ok(()), down) => down,
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(down)) => Err(error.context(format!("and the lab is not down: {down:#}"))),
        }
    }
}

/// The back-test, optimised: a program of its own, which is built with the product's strategies.
pub fn backtest(arguments: &[String]) -> Command {
    let mut run = command(
        env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        [
            "run",
            "--quiet",
            "--locked",
            "--profile",
            "lab",
            "--package",
            "optipod-tests",
            "--features",
            "backtest",
        ],
    );
    run.arg("--manifest-path").arg(paths::workspace().join("Cargo.toml"));
    run.args(["--bin", "backtest", "--"]).args(arguments);
    run
}

fn in_lab(mut run: Command, name: &str) -> Command {
    run.env("OPTIPOD_LAB", name);
    run
}

fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args);
    cargo.current_dir(paths::workspace());
    cargo
}

/// A part that is one check.
fn single(run: Command, count: &mut Count) -> Result<()> {
    succeed(run)?;
    count.passed += 1;
    Ok(())
}

fn succeed(mut run: Command) -> Result<()> {
    let what = shown(&run);
    let status = run.status().with_context(|| format!("cannot start `{what}`"))?;
    if status.success() { Ok(()) } else { bail!("`{what}` failed ({status})") }
}

/// Runs tests, prints what they print, and counts.
fn tests(mut run: Command, count: &mut Count) -> Result<()> {
    let what = shown(&run);
    let mut child = run.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{what}`"))?;
    let output = child.stdout.take().context("a child without standard output")?;
    let mut ran = Count::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("cannot read from `{what}`"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(found) = result_line(&line) {
            ran += found;
        }
    }
    *count += ran;
    let status = child.wait().with_context(|| format!("cannot wait for `{what}`"))?;
    match (status.success(), ran.passed) {
        (true, 0) => bail!("`{what}` ran no test"),
        (true, _) => Ok(()),
        (false, _) => bail!("`{what}` failed ({status})"),
    }
}
