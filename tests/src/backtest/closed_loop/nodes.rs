//! Memory requests on nodes: what a request frees is sold at once, and replicas of a workload peak together.
//!
//! A node holds three replicas of each of some workloads and no more memory than their requests add up to. When use
//! does not fit, the kubelet evicts the container that exceeds its request by most; it starts elsewhere.

use optipod_common::replay::Replayed;
use rayon::prelude::*;

use crate::backtest::{
    protocol::{Target, UNSCORED, replayed},
    report::SystemReport,
    statistics::{Metrics, PerSet, Seeded, intervals},
    systems::{System, label},
    trace::{Series, Set},
};

/// Containers of the same workload on a node: worse than any spreading scheduler would do.
const REPLICAS: u64 = 3;
/// Workloads on a node.
const WORKLOADS: usize = 10;
/// Random nodes for each set.
const NODES: usize = 100;
/// Sets with fewer series have nothing to draw from.
const FEWEST: usize = 4;
const SEED: u64 = 11;

pub fn run(sets: &[Set], systems: &[System]) -> Vec<SystemReport> {
    let report = |system: &System| {
        let measured: PerSet =
            sets.iter().filter_map(|set| Some((set.name.clone(), nodes(set, system)?))).collect();
        let own = intervals(&measured, std::iter::empty());
        let label = label(&system.name, Target::MemoryNode, system.objective);
        (!measured.is_empty()).then(|| SystemReport::new(label, own, measured))
    };
    let hindsight = ["oracle-1h", "static-peak"];
    let systems = systems
        .iter()
        .filter(|s| s.resource == Target::MemoryRequest && !hindsight.contains(&s.name.as_str()));
    systems.filter_map(report).collect()
}

fn nodes(set: &Set, system: &System) -> Option<Vec<Metrics>> {
    let series: Vec<&Series> =
        set.series.iter().filter(|series| series.resource == Target::MemoryRequest.measured()).collect();
    if series.len() < FEWEST {
        return None;
    }
    let sizes: Vec<(&Series, Replayed)> =
        series.par_iter().map(|series| (*series, replayed(system, series))).collect();
    let mut random = Seeded::new(SEED);
    let mut draw = || {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        random.shuffle(&mut order);
        order.truncate(WORKLOADS);
        order
    };
    let groups: Vec<Vec<usize>> = (0..NODES).map(|_| draw()).collect();
    let node =
        |group: &Vec<usize>| evictions(&group.iter().filter_map(|at| sizes.get(*at)).collect::<Vec<_>>());
    Some(groups.par_iter().map(node).collect())
}

fn evictions(group: &[&(&Series, Replayed)]) -> Metrics {
    let length = group.iter().map(|(series, _)| series.trace.samples.len()).min().unwrap_or(0);
    let skip = length / UNSCORED;
    let (mut evicted, mut over, mut allocated, mut used) = (0_u64, 0_u64, 0_u128, 0_u128);
    for at in skip..length {
        let mut containers: Vec<(u64, u64)> = group
            .iter()
            .filter_map(|(series, replayed)| {
                Some((series.trace.samples.get(at)?.1, *replayed.sizes.get(at)?))
            })
            .collect();
        let capacity: u64 = containers.iter().map(|(_, size)| size * REPLICAS).sum();
        let mut total: u64 = containers.iter().map(|(used, _)| used * REPLICAS).sum();
        allocated += u128::from(capacity);
        used += u128::from(total);
        over += u64::from(total > capacity);
        containers.sort_by_key(|(used, size)| std::cmp::Reverse(used.saturating_sub(*size)));
        let mut victims = containers.iter().flat_map(|(used, _)| (0..REPLICAS).map(move |_| *used));
        while total > capacity {
            let Some(victim) = victims.next() else { break };
            total -= victim;
            evicted += 1;
        }
    }
    let peak: u128 = group.iter().map(|(series, _)| u128::from(series.trace.peak() * REPLICAS)).sum();
    let step = group.first().map_or(0.0, |(series, _)| series.trace.step.as_secs_f64());
    let samples = (length - skip).max(1) as f64;
    let container_days = samples * step / 86_400.0 * (group.len() as u64 * REPLICAS) as f64;
    let resizes: usize = group.iter().map(|(_, replayed)| replayed.resizes.len()).sum();
    let days = length as f64 * step / 86_400.0 * group.len() as f64;
    Metrics {
        alloc: allocated as f64 / samples / peak.max(1) as f64 * 100.0,
        under: over as f64 / samples * 100.0,
        waste: (1.0 - used as f64 / allocated.max(1) as f64).max(0.0) * 100.0,
        oom_per_container_day: evicted as f64 / container_days.max(f64::MIN_POSITIVE),
        containers_with_oom: if evicted > 0 { 100.0 } else { 0.0 },
        resizes_per_day: resizes as f64 / days.max(f64::MIN_POSITIVE),
        ..Metrics::default()
    }
}
