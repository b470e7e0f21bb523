//! The result as JSON and as tables.

use std::collections::BTreeMap;

use optipod_common::policy::Objective;
use serde::Serialize;

use super::{
    protocol::Target,
    statistics::{Intervals, Metrics, PerSet, mean, means},
    systems::Label,
    trace::Skipped,
};

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Names of the sets that have series.
    pub sets: Vec<String>,
    /// Series of either half that were not replayed.
    pub skipped: Skipped,
    /// One entry for each system, resource and objective.
    pub systems: Vec<SystemReport>,
}

/// One system on one resource.
#[derive(Debug, Clone, Serialize)]
pub struct SystemReport {
    /// Its name.
    pub name: String,
    /// What it sizes.
    pub resource: Target,
    /// Ours only.
    pub objective: Option<Objective>,
    /// Means over the sets.
    #[serde(flatten)]
    pub means: Metrics,
    /// Bootstrap intervals.
    pub ci95: Intervals,
    /// Mean of each set.
    pub per_set: BTreeMap<String, Metrics>,
    /// Of each series: what the bars resample.
    #[serde(skip)]
    pub measured: PerSet,
}

impl SystemReport {
    /// From what was measured.
    pub fn new(label: Label, ci95: Intervals, measured: PerSet) -> Self {
        let Label { name, resource, objective } = label;
        let per_set = measured.iter().map(|(name, series)| (name.clone(), mean(series))).collect();
        Self { name, resource, objective, means: means(&measured), ci95, per_set, measured }
    }
}

impl Report {
    /// One system's entry.
    pub fn find(&self, name: &str, resource: Target, objective: Option<Objective>) -> Option<&SystemReport> {
        self.systems.iter().find(|s| s.name == name && s.resource == resource && s.objective == objective)
    }
}

/// A resize costs 6 to 8 stored writes: the middle.
const WRITES: f64 = 7.0;

/// Prints a table for each resource, by allocation.
pub fn print(report: &Report) {
    println!("sets: {}\n", report.sets.join(", "));
    for (why, count) in &report.skipped {
        println!("{count} series skipped: {why}\n");
    }
    let titles = [
        (Target::Cpu, "CPU request"),
        (Target::MemoryRequest, "Memory request, the limit stays declared"),
        (Target::Memory, "Memory, request and limit as one"),
        (
            Target::CpuLimit,
            "CPU limit, closed loop in 100 ms periods: under = periods throttled, excess = CPU time delayed",
        ),
        (
            Target::MemoryNode,
            "Nodes of ten workloads, as large as their memory requests: OOM/day = evictions per container-day",
        ),
        (Target::MemoryNodeInPhase, "Nodes of one workload in ten replicas"),
        (Target::MemoryNodeLeak, "Nodes of three workloads, of which one leaks"),
    ];
    for (resource, title) in titles {
        let mut rows: Vec<&SystemReport> =
            report.systems.iter().filter(|system| system.resource == resource).collect();
        if rows.is_empty() {
            continue;
        }
        rows.sort_by(|a, b| a.means.alloc.total_cmp(&b.means.alloc));
        println!("## {title}\n");
        println!(
            "| system | alloc % | waste % | excess % | under % | OOM/day | with OOM % | resizes/day | writes/day |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
        for row in rows {
            let name = match row.objective {
                Some(objective) => format!("**{} {objective:?}**", row.name),
                None => row.name.clone(),
            };
            let Metrics { alloc, excess, under, waste, .. } = row.means;
            let Metrics { oom_per_container_day, containers_with_oom, resizes_per_day, .. } = row.means;
            println!(
                "| {name} | {alloc:.1} | {waste:.1} | {excess:.2} | {under:.2} | {oom_per_container_day:.3} | {containers_with_oom:.1} | {resizes_per_day:.1} | {:.0} |",
                resizes_per_day * WRITES
            );
        }
        println!();
    }
}
