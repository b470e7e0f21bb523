//! What the lab says while it works: a numbered step, the time since the start, and what took how long.

use std::time::{Duration, Instant};

/// Longest silence while one step runs; then a line says that it still does.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// Reports one command's steps on standard error; standard output stays for results.
#[derive(Debug)]
pub struct Progress {
    command: &'static str,
    total: usize,
    current: usize,
    start: Instant,
}

impl Progress {
    /// Starts the clock of `command`, which has `total` steps.
    pub fn new(command: &'static str, total: usize) -> Self {
        Self { command, total, current: 0, start: Instant::now() }
    }

    /// The next numbered step begins.
    pub fn step(&mut self, text: &str) {
        self.current += 1;
        // A command that grew a step must not print [8/7].
        self.total = self.total.max(self.current);
        let Self { command, total, current, .. } = self;
        eprintln!("{command} [{current}/{total}] {:>6.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    /// Something happened within the current step.
    pub fn note(&self, text: &str) {
        eprintln!("{}       {:>6.1} s  {text}", self.command, self.seconds());
    }

    /// A result on standard output, with the time it took since the command started.
    pub fn result(&self, text: &str) {
        println!("{}: {text} after {:.1} s", self.command, self.seconds());
    }

    /// Seconds since the command started.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}
