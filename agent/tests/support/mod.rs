//! A cgroup tree of plain files, and clocks that a test sets.

#![allow(dead_code, reason = "each test target uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use optipod_agent::discover::Discovery;
use optipod_agent::metrics::Metrics;
use optipod_agent::sampler::{Now, Sampler, SamplerOptions};
use optipod_common::frame::Frame;
use optipod_common::time::Timestamp;
use tempfile::TempDir;

pub const EPOCH: u64 = 1_700_000_000_000_000;
pub const UID: &str = "d0511cd2-29d2-4215-be0f-f77bc0609d99";

/// A mount with one burstable pod slice of the systemd driver.
pub struct Tree(TempDir);

impl Tree {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        Self(dir)
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn pod(&self, uid: &str) -> PathBuf {
        let uid = uid.replace('-', "_");
        let path = self
            .root()
            .join(format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice"));
        fs::create_dir_all(&path).unwrap();
        fill(&path, 0);
        path
    }

    pub fn container(&self, uid: &str, id: u8) -> PathBuf {
        let path = self.pod(uid).join(format!("cri-containerd-{}.scope", hex(id)));
        fs::create_dir_all(&path).unwrap();
        fill(&path, 0);
        path
    }
}

pub fn hex(id: u8) -> String {
    format!("{id:02x}").repeat(32)
}

fn fill(path: &Path, usage: u64) {
    set_usage(path, usage);
    set(path, "memory.current", "10485760\n");
    set(path, "memory.stat", "anon 4194304\ninactive_file 2097152\n");
    set(path, "memory.events", "oom 0\noom_kill 0\n");
    set(path, "memory.max", "134217728\n");
    set(path, "cpu.max", "50000 100000\n");
    set(path, "cpu.weight", "4\n");
    set(path, "cgroup.events", "populated 1\nfrozen 0\n");
}

pub fn set(path: &Path, file: &str, content: &str) {
    fs::write(path.join(file), content).unwrap();
}

pub fn set_usage(path: &Path, usage: u64) {
    let text = format!("usage_usec {usage}\nuser_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n");
    set(path, "cpu.stat", &text);
}

/// A sampler and its time.
pub struct Driver {
    pub sampler: Sampler,
    pub metrics: Arc<Metrics>,
    pub now: Now,
    pub frames: Vec<Frame>,
}

impl Driver {
    pub fn new(tree: &Tree, frame_seconds: u64, cpu_budget_millicores: u32) -> Self {
        let metrics = Arc::new(Metrics::new(10));
        let options = SamplerOptions {
            epoch: EPOCH,
            hertz: 10,
            frame_interval: Duration::from_secs(frame_seconds),
            cpu_budget_millicores,
            reading_clock: None,
        };
        let discovery = Discovery::new(tree.root()).unwrap();
        let now = Now {
            monotonic: Duration::from_secs(100),
            wall: Timestamp::from_unix_seconds(1_700_000_000),
            own_cpu: Duration::ZERO,
        };
        let sampler = Sampler::new(options, discovery, Arc::clone(&metrics));
        Self { sampler, metrics, now, frames: Vec::new() }
    }

    /// One tick now; then time moves.
    pub fn tick_then(&mut self, after: Duration) {
        self.frames.extend(self.sampler.tick(self.now));
        self.now.monotonic += after;
        self.now.wall = self.now.wall + after;
    }

    /// Ticks on the grid of the current rate.
    pub fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.tick_then(self.sampler.period());
        }
    }

    pub fn flush(&mut self) -> Frame {
        let frame = self.sampler.flush(self.now).unwrap();
        self.frames.push(frame.clone());
        frame
    }
}
