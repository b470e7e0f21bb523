//! The labs of one run: started through this program's own commands, always taken down.

use std::{
    env,
    fs::File,
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    cache::Cache,
    command::{self, command},
    interrupt,
    progress::Progress,
};

/// How often a start in the background is asked whether it is over.
const POLL: Duration = Duration::from_millis(200);

/// This program, as a child: cargo may replace the file while we run, so nothing here depends on the running image.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    cache: PathBuf,
    install: bool,
    logs: Cache,
}

impl Program {
    /// The running one.
    pub fn own(cache: &Cache, install: bool) -> Result<Self> {
        let path = env::current_exe().context("cannot find the lab's own program")?;
        Ok(Self { path, cache: cache.root().to_owned(), install, logs: cache.clone() })
    }

    /// One of its commands for the lab of that name.
    pub fn command(&self, lab: &str, words: &[&str]) -> Command {
        let mut command = command(&self.path, ["--name", lab, "--cache"]);
        command.arg(&self.cache).args(self.install.then_some("--yes")).args(words);
        command
    }

    /// Runs one of its commands to the end; the log is the part's own.
    pub fn run(&self, lab: &str, words: &[&str], progress: &Progress) -> Result<String> {
        let log = self.logs.log(&format!("test-lab-{}", words.first().unwrap_or(&"")));
        let what = words.join(" ");
        command::run_logged(&mut self.command(lab, words), &log, |elapsed| {
            progress.note(&format!("lab {what}: {} s: {}", elapsed.as_secs(), command::tail(&log, 1).trim()));
        })?;
        Ok(command::tail(&log, usize::MAX))
    }
}

/// All labs of this run.
#[derive(Debug)]
pub struct Labs {
    program: Program,
    starting: Option<Child>,
    control_plane: Option<std::result::Result<(), String>>,
    names: Vec<String>,
}

impl Labs {
    /// None yet.
    pub fn new(program: Program) -> Self {
        Self { program, starting: None, control_plane: None, names: Vec::new() }
    }

    /// The program whose commands start labs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// A name that no other run has; what has it is taken down at the end.
    pub fn name(&mut self, kind: &str) -> String {
        let name = format!("test-{kind}-{}", std::process::id());
        if !self.names.contains(&name) {
            self.names.push(name.clone());
        }
        name
    }

    /// Starts API server and friends beside whatever comes first.
    pub fn start_control_plane(&mut self) -> Result<()> {
        let name = self.name("api");
        let log = self.control_plane_log();
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let errors = output.try_clone().context("cannot duplicate a log descriptor")?;
        let mut up = self.program.command(&name, &["up", "--control-plane-only"]);
        self.starting = Some(up.stdout(output).stderr(errors).spawn().context("cannot start the lab")?);
        Ok(())
    }

    /// The name of the lab without nodes, once it is up. An error every time, when it did not start.
    pub fn control_plane(&mut self, progress: &Progress) -> Result<String> {
        if let Some(mut child) = self.starting.take() {
            let mut told = std::time::Instant::now();
            let status = loop {
                if let Some(status) = child.try_wait().context("cannot wait for the lab")? {
                    break status;
                }
                if let Err(interrupted) = interrupt::check() {
                    self.starting = Some(child);
                    return Err(interrupted);
                }
                if told.elapsed() > crate::progress::HEARTBEAT {
                    told = std::time::Instant::now();
                    progress.note(&format!("lab up: {}", command::tail(&self.control_plane_log(), 1).trim()));
                }
                thread::sleep(POLL);
            };
            let failure = || format!("the control plane did not start:\n{}", command::tail(&self.control_plane_log(), 30));
            self.control_plane = Some(if status.success() { Ok(()) } else { Err(failure()) });
        }
        match &self.control_plane {
            Some(Ok(())) => Ok(self.name("api")),
            Some(Err(failure)) => bail!("{failure}"),
            None => bail!("no control plane was asked for"),
        }
    }

    /// Takes one lab down before the end, to make room for another.
    pub fn release(&mut self, kind: &str) -> Result<()> {
        let name = self.name(kind);
        self.take_down(&name)
    }

    /// Takes all of them down.
    pub fn down(&mut self) -> Result<()> {
        if let Some(mut child) = self.starting.take() {
            // `down` cleans up after a killed `up`
            drop(child.kill());
            drop(child.wait());
        }
        let names = self.names.clone();
        let results: Vec<Result<()>> = names.iter().map(|name| self.take_down(name)).collect();
        results.into_iter().collect()
    }

    fn take_down(&mut self, name: &str) -> Result<()> {
        command::run(&mut self.program.command(name, &["down"]))?;
        self.names.retain(|other| other != name);
        Ok(())
    }

    fn control_plane_log(&self) -> PathBuf {
        self.program.logs.log("test-lab-control-plane")
    }
}

impl Drop for Labs {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("error: cannot take a lab down, `cargo lab clean` does: {error:#}");
        }
    }
}
