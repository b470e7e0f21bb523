//! The product's programs as images: built static by cargo into the cache, written into an instance's registry.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    cache::Cache,
    command::{self, command},
    images::{self, Reference, write_image},
    paths,
    progress::Progress,
};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "lab";
/// The user of every image, as the chart expects it: nobody, without capabilities.
const USER: &str = "65532:65532";
/// Plays simulated nodes.
const SIMULATOR: &str = "simulator";
/// Hex digits of a content tag.
const TAG_DIGITS: usize = 12;

/// A program of this workspace that runs in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Program {
    /// `optipod-agent`.
    Agent,
    /// `optipod-coordinator`.
    Coordinator,
    /// `optipod-load`, the workload simulator.
    Load,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Coordinator, Self::Load];

    fn binary(self) -> &'static str {
        match self {
            Self::Agent => "optipod-agent",
            Self::Coordinator => "optipod-coordinator",
            Self::Load => "optipod-load",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Agent => "optipod-agent",
            Self::Coordinator => "optipod-coordinator",
            Self::Load => "optipod-tests",
        }
    }

    fn image(self) -> &'static str {
        match self {
            Self::Agent => "optipod/agent",
            Self::Coordinator => "optipod/coordinator",
            Self::Load => "lab/load",
        }
    }

    /// The load's tag is fixed so that manifests can name it; product tags follow the content.
    fn fixed_tag(self) -> Option<&'static str> {
        (self == Self::Load).then_some("1")
    }
}

/// Builds `programs` and writes their images into `registry`; needs the crates registry when its crates are not there
/// yet, so call it outside the lab's network. The references come in the order of `programs`.
pub fn build_images(
    cache: &Cache,
    registry: &Path,
    programs: &[Program],
    progress: &Progress,
) -> Result<Vec<Reference>> {
    if programs.is_empty() {
        bail!("no program to build");
    }
    // Two checkouts share the folder: nobody may rebuild between our build and our reading of the binaries.
    let _lock = cache.lock("cargo-target")?;
    let target = cache.root().join("cargo-target");
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), ["build", "--locked"]);
    cargo.args(["--profile", PROFILE, "--target", TARGET]).arg("--target-dir").arg(&target);
    for program in programs {
        cargo.args(["--package", program.package(), "--bin", program.binary()]);
    }
    cargo.current_dir(paths::workspace()).env("RUSTFLAGS", "-C target-feature=+crt-static");
    let log = cache.log("cargo-build");
    progress.note("building static binaries with cargo");
    command::run_logged(&mut cargo, &log, |elapsed| {
        let last = command::tail(&log, 1);
        progress.note(&format!("still building, {} s: {}", elapsed.as_secs(), last.trim()));
    })?;
    programs.iter().map(|&program| write(&binaries(cache), registry, program)).collect()
}

/// Folder of the static binaries.
pub fn binaries(cache: &Cache) -> PathBuf {
    cache.root().join("cargo-target").join(TARGET).join(PROFILE)
}

/// Builds the program that plays simulated nodes, for this machine; call it outside the lab's network.
pub fn build_simulator(cache: &Cache, release: bool, progress: &Progress) -> Result<PathBuf> {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), ["build", "--locked"]);
    // A test target is named so that cargo unites features as it does for all tests: otherwise it builds most
    // dependencies a second time.
    cargo.args(["--workspace", "--features", "optipod-tests/cluster", "--bin", SIMULATOR, "--test", "chart"]);
    cargo.arg("--message-format=json-render-diagnostics").current_dir(paths::workspace());
    if release {
        cargo.args(["--profile", PROFILE]);
    }
    let log = cache.log("cargo-simulator");
    progress.note("building the simulator with cargo");
    command::run_logged(&mut cargo, &log, |elapsed| {
        progress.note(&format!("still building, {} s", elapsed.as_secs()));
    })?;
    let messages = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let simulator = message.pointer("/target/name")?.as_str()? == SIMULATOR;
        simulator.then(|| message.get("executable")?.as_str().map(PathBuf::from)).flatten()
    };
    messages.lines().find_map(executable).context("cargo does not say where it put the simulator")
}

fn write(binaries: &Path, registry: &Path, program: Program) -> Result<Reference> {
    let (name, path) = (program.binary(), binaries.join(program.binary()));
    let bytes = fs::read(&path).with_context(|| format!("cargo made no {}", path.display()))?;
    let mut tag = images::digest(&bytes).split_off("sha256:".len());
    tag.truncate(TAG_DIGITS);
    let inside = format!("/{name}");
    let tag = program.fixed_tag().unwrap_or(&tag);
    write_image(registry, program.image(), tag, &[&inside], &[(&inside, &path)], USER)
}
