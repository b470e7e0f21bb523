//! What the kernel of the node enforces.

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::pod::{Life, Pod};

/// Files of a container's cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// `cpu.max`: microseconds of each 100,000.
    pub cpu_quota: u64,
    /// `cpu.weight`.
    pub cpu_weight: u64,
    /// `memory.max`.
    pub memory_max: u64,
    /// `usage_usec` of `cpu.stat`, in seconds.
    pub cpu_seconds: f64,
    /// Time since boot at which it was read, in seconds.
    pub at: f64,
    /// `nr_periods` of `cpu.stat`.
    pub periods: u64,
    /// `nr_throttled` of `cpu.stat`.
    pub throttled: u64,
}

impl Cgroup {
    /// Of the container of a Burstable pod.
    pub fn of(cluster: &Cluster, pod: &Pod) -> Result<Self> {
        let folder = folder(&pod.life);
        let files = cluster
            .guest(&format!("cd {folder} && grep . cpu.max cpu.weight memory.max cpu.stat /proc/uptime"))?;
        let word = |key: &str| -> Result<&str> {
            let line = files.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next())
                .with_context(|| format!("no {key} in {files}"))
        };
        let number =
            |key: &str| -> Result<u64> { word(key)?.parse().with_context(|| format!("{key} of {files}")) };
        ensure!(files.contains("cpu.max:") && files.contains(" 100000"), "another period: {files}");
        Ok(Self {
            cpu_quota: number("cpu.max:")?,
            cpu_weight: number("cpu.weight:")?,
            memory_max: number("memory.max:")?,
            cpu_seconds: number("cpu.stat:usage_usec ")? as f64 / 1e6,
            at: word("/proc/uptime:")?.parse()?,
            periods: number("cpu.stat:nr_periods ")?,
            throttled: number("cpu.stat:nr_throttled ")?,
        })
    }

    /// Fails unless the kernel enforces what the API server shows.
    pub fn expect_to_enforce(&self, pod: &Pod) -> Result<()> {
        let size = &pod.actual;
        let quota = size.cpu_limit * 100;
        ensure!(self.cpu_quota == quota, "cpu.max is {}, not {quota}: {pod:?}", self.cpu_quota);
        let weights = weights(size.cpu_request);
        ensure!(
            weights.contains(&self.cpu_weight),
            "cpu.weight is {}, none of {weights:?}: {pod:?}",
            self.cpu_weight
        );
        let limit = size.memory_limit;
        ensure!(self.memory_max == limit, "memory.max is {}, not {limit}: {pod:?}", self.memory_max);
        Ok(())
    }
}

/// Path of the container's cgroup, with the systemd driver.
fn folder(life: &Life) -> String {
    let uid = life.pod_uid.replace('-', "_");
    format!(
        "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-{}.scope",
        life.container_id
    )
}

/// `cpu.weight` of a request. runc changed the formula in 1.3.2, from a straight line through (2, 1) and
/// (262144, 10000) to a curve that also maps the default of 1024 shares to the default weight 100.
fn weights(millicores: u64) -> [u64; 2] {
    let shares = (millicores * 1024 / 1000).max(2);
    let line = 1 + (shares - 2) * 9999 / 262_142;
    let log = (shares as f64).log2();
    let curve = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    [line, curve as u64]
}

/// Process ids of a container.
pub fn processes(cluster: &Cluster, life: &Life) -> Result<Vec<u32>> {
    let text = cluster.guest(&format!("cat {}/cgroup.procs", folder(life)))?;
    text.lines().map(|line| line.trim().parse().with_context(|| format!("{line:?} is no process"))).collect()
}

/// Ends a container's processes without a word to anybody.
pub fn kill(cluster: &Cluster, life: &Life) -> Result<()> {
    cluster.guest(&format!("kill -9 $(cat {}/cgroup.procs)", folder(life))).map(drop)
}
