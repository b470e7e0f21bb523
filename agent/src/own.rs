//! The agent's view of itself and of the host, refreshed when `/metrics` is asked for.
//!
//! Not for the tick: these libraries open by path and allocate on each call.

use std::path::Path;

use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::{Cgroup, hierarchies};
use procfs::{CurrentSI, WithCurrentSystemInfo};

use crate::metrics::Metrics;

/// Where a container with its own cgroup namespace sees its own cgroup.
const OWN_CGROUP: &str = "/sys/fs/cgroup";

/// Fills the metrics about this process, its cgroup and the host. What cannot be read keeps its value.
pub fn refresh(metrics: &Metrics) {
    if let Ok(stat) = procfs::process::Process::myself().and_then(|me| me.stat()) {
        let ticks = (stat.utime + stat.stime) as f64;
        metrics.own_cpu_seconds.set(ticks / procfs::ticks_per_second() as f64);
        metrics.own_memory_bytes.set(i64::try_from(stat.rss_bytes().get()).unwrap_or(i64::MAX));
    }
    if let Some(bytes) = cgroup_memory() {
        metrics.own_cgroup_memory_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Facts about the host that do not change.
pub fn describe_host(metrics: &Metrics) {
    if let Ok(stat) = procfs::KernelStats::current() {
        metrics.host_boot_time_seconds.set(i64::try_from(stat.btime).unwrap_or(i64::MAX));
        metrics.host_cores.set(i64::try_from(stat.cpu_time.len()).unwrap_or(i64::MAX));
    }
}

/// `memory.current` of our own cgroup; `None` in the root cgroup, which has none.
fn cgroup_memory() -> Option<u64> {
    if !Path::new(OWN_CGROUP).join("memory.current").exists() {
        return None;
    }
    let cgroup = Cgroup::load(hierarchies::auto(), "");
    let memory: &MemController = cgroup.controller_of()?;
    Some(memory.memory_stat().usage_in_bytes).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_memory_and_the_host_has_cores() {
        let metrics = Metrics::new(1);
        refresh(&metrics);
        describe_host(&metrics);
        assert!(metrics.own_memory_bytes.get() > 100_000);
        assert!(metrics.host_cores.get() >= 1);
        assert!(metrics.host_boot_time_seconds.get() > 1_000_000_000);
    }
}
