//! What is checked, and by which command.

use std::{env, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{labs::Labs, summary::Cases};
use crate::{
    cache::Cache,
    command::{self, command, shown},
    images::Reference,
    network, paths,
    progress::Progress,
};

/// Cases of each property test with `--full`; the crate's own default is 256.
const FULL_CASES: &str = "4096";
/// Features and targets that need a cluster are built with the whole workspace, so that dependencies are built once.
const CLUSTER: [&str; 4] = ["test", "--workspace", "--features", "optipod-tests/cluster"];

/// A part of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Formatting.
    Fmt,
    /// Lints, warnings are errors.
    Clippy,
    /// The documentation builds without a warning.
    Docs,
    /// Unit, property, wire and pipeline tests.
    Tests,
    /// The chart before helm and a real API server.
    Chart,
    /// The coordinator before a real API server.
    Apiserver,
    /// The whole story on a real node.
    Node,
    /// `cargo lab demo`.
    Demo,
}

/// What parts share.
pub struct Context<'a> {
    /// Where logs go.
    pub cache: &'a Cache,
    /// Labs of this run.
    pub labs: &'a mut Labs,
    /// Where a person looks.
    pub progress: &'a Progress,
    /// Take longer.
    pub full: bool,
}

impl Part {
    /// In the order in which they run: what fails fast comes first.
    pub const ALL: [Self; 8] = [
        Self::Fmt,
        Self::Clippy,
        Self::Docs,
        Self::Tests,
        Self::Chart,
        Self::Apiserver,
        Self::Node,
        Self::Demo,
    ];

    /// As `--only` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Docs => "docs",
            Self::Tests => "tests",
            Self::Chart => "chart",
            Self::Apiserver => "apiserver",
            Self::Node => "node",
            Self::Demo => "demo",
        }
    }

    /// What it is, for the progress.
    pub fn announcement(self) -> String {
        let what = match self {
            Self::Fmt => "formatting",
            Self::Clippy => "lints, warnings are errors",
            Self::Docs => "documentation builds without a warning",
            Self::Tests => "unit, property, wire and pipeline tests",
            Self::Chart => "the chart before helm and a real API server",
            Self::Apiserver => "the coordinator before a real API server",
            Self::Node => "the whole story on a real node",
            Self::Demo => "what `cargo lab demo` promises",
        };
        format!("{}: {what}", self.name())
    }

    /// Whether it uses the lab without nodes.
    pub fn needs_control_plane(self) -> bool {
        matches!(self, Self::Chart | Self::Apiserver)
    }

    /// Runs it. An error is one failure; failures of single cases are in the result.
    pub fn run(self, run: &mut Context) -> Result<Cases> {
        match self {
            Self::Fmt => run.check(self, cargo(["fmt", "--all", "--check"])),
            Self::Clippy => {
                let flags = ["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"];
                run.check(self, cargo(flags))
            }
            Self::Docs => {
                let mut doc = cargo(["doc", "--workspace", "--no-deps", "--locked"]);
                doc.env("RUSTDOCFLAGS", "-D warnings");
                run.check(self, doc)
            }
            Self::Tests => {
                let mut tests = cargo(["test", "--workspace", "--no-fail-fast", "--locked"]);
                if run.full {
                    tests.env("PROPTEST_CASES", FULL_CASES);
                }
                run.cases(self, tests)
            }
            Self::Chart | Self::Apiserver => {
                let lab = run.labs.control_plane(run.progress)?;
                run.in_cluster(self, &lab, &[])
            }
            Self::Node => run.node(),
            Self::Demo => {
                let name = run.labs.name("demo");
                let demo = run.labs.program().command(&name, &["demo"]);
                run.check(self, demo)
            }
        }
    }
}

impl Context<'_> {
    /// A command that succeeds or not: one case.
    fn check(&self, part: Part, command: Command) -> Result<Cases> {
        self.execute(part, command).map(|()| Cases { passed: 1, failed: 0 })
    }

    /// A command that prints what `cargo test` prints.
    fn cases(&self, part: Part, command: Command) -> Result<Cases> {
        let done = self.execute(part, command);
        let output = command::tail(&self.cache.log(&log_name(part)), usize::MAX);
        let cases = Cases::parse(&output);
        match done {
            Ok(()) => {
                ensure!(cases.passed > 0, "no test ran");
                Ok(cases)
            }
            // what failed is in the output
            Err(_) if cases.failed > 0 => {
                eprintln!("{}", Cases::failures(&output));
                Ok(cases)
            }
            Err(error) => Err(error),
        }
    }

    /// A test target of this crate that needs a lab.
    fn in_cluster(&self, part: Part, lab: &str, environment: &[(&str, String)]) -> Result<Cases> {
        let mut command = cargo(CLUSTER);
        command.args(["--no-fail-fast", "--locked", "--test", part.name()]).env("OPTIPOD_LAB", lab);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        if self.full {
            command.env("OPTIPOD_TEST_FULL", "1");
        }
        self.cases(part, command)
    }

    fn node(&mut self) -> Result<Cases> {
        // a node needs the memory and the processor
        self.labs.release("api")?;
        let lab = self.labs.name("node");
        let program = self.labs.program().clone();
        program.run(&lab, &["up"], self.progress)?;
        self.progress.note("lab up: the node is Ready");
        let said = program.run(&lab, &["images"], self.progress)?;
        let mut environment = Vec::new();
        for (variable, image) in [
            ("OPTIPOD_AGENT_IMAGE", "optipod/agent"),
            ("OPTIPOD_COORDINATOR_IMAGE", "optipod/coordinator"),
            ("OPTIPOD_LOAD_IMAGE", "lab/load"),
        ] {
            environment.push((variable, reference(&said, image)?));
        }
        self.in_cluster(Part::Node, &lab, &environment)
    }

    fn execute(&self, part: Part, mut command: Command) -> Result<()> {
        let log = self.cache.log(&log_name(part));
        let what = shown(&command);
        command.current_dir(paths::workspace());
        let done = command::run_logged(&mut command, &log, |elapsed| {
            let last = command::tail(&log, 1);
            self.progress.note(&format!("{}: {} s: {}", part.name(), elapsed.as_secs(), last.trim()));
        });
        done.with_context(|| format!("part {}, `{what}`; all of it is in {}", part.name(), log.display()))
    }
}

fn log_name(part: Part) -> String {
    format!("test-{}", part.name())
}

fn cargo<const N: usize>(words: [&str; N]) -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), words)
}

/// The reference of an image in what `images` printed.
fn reference(said: &str, name: &str) -> Result<String> {
    let prefix = Reference { name: name.to_owned(), tag: String::new(), digest: String::new() }.image();
    let found = said.split_whitespace().find(|word| word.starts_with(&prefix));
    found.map(str::to_owned).with_context(|| {
        format!("`images` named no {name} of {}:{}:\n{said}", network::HOST, network::REGISTRY_PORT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for part in Part::ALL {
            let value = clap::ValueEnum::to_possible_value(&part).unwrap();
            assert_eq!(value.get_name(), part.name());
        }
    }

    #[test]
    fn references_are_found_in_what_images_prints() {
        let said = "images        0.1 s  building\nimages: 192.0.2.1:5000/optipod/agent:1a2b after 3.0 s\n";
        assert_eq!(reference(said, "optipod/agent").unwrap(), "192.0.2.1:5000/optipod/agent:1a2b");
        assert!(reference(said, "lab/load").unwrap_err().to_string().contains("lab/load"));
    }
}
