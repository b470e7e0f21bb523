//! Memory requests on nodes: what a request frees is sold at once, and replicas of a workload peak together.
//!
//! A node has as much memory as the requests of its containers add up to. When use does not fit, the kubelet evicts the
//! container that exceeds its request by most: it is gone for five minutes, then it starts again. Requests are those of
//! the workload's replicas that stay, so an eviction does not change them.

use std::time::Duration;

use optipod_common::{
    replay::{Replayed, Trace},
    time::Timestamp,
};
use rayon::prelude::*;

use crate::backtest::{
    protocol::{Target, UNSCORED, replayed},
    report::SystemReport,
    statistics::{Draws, Metrics, PerSet, Seeded, intervals},
    systems::{System, label},
    trace::{Series, Set},
};

/// What is on a node.
#[derive(Debug, Clone, Copy)]
struct Case {
    target: Target,
    workloads: usize,
    /// Replicas of each workload: more than any spreading scheduler would put there.
    replicas: usize,
    /// The first workload leaks.
    leaks: bool,
}

/// Room of one workload helps others in a mixed node; nothing helps in a node of one workload; a leak uses up room.
const CASES: [Case; 3] = [
    Case { target: Target::MemoryNode, workloads: 10, replicas: 3, leaks: false },
    Case { target: Target::MemoryNodeInPhase, workloads: 1, replicas: 10, leaks: false },
    Case { target: Target::MemoryNodeLeak, workloads: 3, replicas: 3, leaks: true },
];
/// Random nodes for each set.
const NODES: usize = 100;
/// Sets with fewer series have nothing to draw from.
const FEWEST: usize = 4;
const SEED: u64 = 11;
/// From an eviction until the container runs elsewhere, as large as before.
const RESTART: Duration = Duration::from_secs(300);
/// A leak adds the mean use in this time; then the process starts again.
const LEAK: Duration = Duration::from_secs(6 * 3600);

pub fn run(sets: &[Set], systems: &[System]) -> Vec<SystemReport> {
    let hindsight = ["oracle-1h", "static-peak"];
    let replayable = |system: &&System| {
        system.resource == Target::MemoryRequest && !hindsight.contains(&system.name.as_str())
    };
    let systems: Vec<&System> = systems.iter().filter(replayable).collect();
    systems.into_par_iter().flat_map_iter(|system| reports(sets, system)).collect()
}

/// A report of each case.
fn reports(sets: &[Set], system: &System) -> Vec<SystemReport> {
    let mut measured = CASES.map(|_| PerSet::new());
    for set in sets {
        let sized = Sized::of(set, system);
        for (case, into) in CASES.iter().zip(&mut measured) {
            into.extend(sized.nodes(*case).map(|metrics| (set.name.clone(), metrics)));
        }
    }
    let of_cases = CASES.iter().zip(measured).filter(|(_, measured)| !measured.is_empty());
    let report = |(case, measured): (&Case, PerSet)| {
        let own = intervals(&Draws::of(&measured), std::iter::empty());
        SystemReport::new(label(&system.name, case.target, system.objective), own, measured)
    };
    of_cases.map(report).collect()
}

/// The workloads of a set as one system sizes them.
struct Sized {
    calm: Vec<Workload>,
    leaking: Vec<Workload>,
}

impl Sized {
    fn of(set: &Set, system: &System) -> Self {
        let measured = Target::MemoryRequest.measured();
        let series: Vec<&Series> = set.series.iter().filter(|series| series.resource == measured).collect();
        let enough = if series.len() < FEWEST { &[][..] } else { &series[..] };
        let sized = |leak: fn(&Trace) -> Leak| {
            enough.par_iter().map(|series| Workload::of(series, leak(&series.trace), system)).collect()
        };
        Self { calm: sized(|_| Leak(0)), leaking: sized(Leak::mean) }
    }

    /// Metrics of each node; `None` where there is nothing to draw from.
    fn nodes(&self, case: Case) -> Option<Vec<Metrics>> {
        let mut random = Seeded::new(SEED);
        let mut draw = || {
            let mut order: Vec<usize> = (0..self.calm.len()).collect();
            random.shuffle(&mut order);
            order.truncate(case.workloads);
            order
        };
        let groups: Vec<Vec<usize>> = match case.workloads {
            1 => (0..self.calm.len()).map(|one| vec![one]).collect(),
            _ => (0..NODES).map(|_| draw()).collect(),
        };
        let node = |group: &Vec<usize>| {
            let workloads = group.iter().enumerate().filter_map(|(place, at)| {
                let of = if place == 0 && case.leaks { &self.leaking } else { &self.calm };
                of.get(*at)
            });
            Node::new(workloads, case.replicas).run()
        };
        (!self.calm.is_empty()).then(|| groups.par_iter().map(node).collect())
    }
}

/// What a container leaks, in units in [`LEAK`].
#[derive(Debug, Clone, Copy)]
struct Leak(u64);

impl Leak {
    fn mean(trace: &Trace) -> Self {
        let sum: u128 = trace.samples.iter().map(|(_, used)| u128::from(*used)).sum();
        Self(u64::try_from(sum / (trace.samples.len() as u128).max(1)).unwrap_or(u64::MAX))
    }

    /// Leaked so far by what runs for so long.
    fn after(self, ran: Duration) -> u64 {
        let part = u128::from(self.0) * (ran.as_micros() % LEAK.as_micros()) / LEAK.as_micros();
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// The series with the leak of a container that is never evicted.
    fn of(self, series: &Series) -> Series {
        let mut leaking = series.clone();
        let begin = leaking.trace.samples.first().map(|(at, _)| *at);
        for (at, used) in &mut leaking.trace.samples {
            *used += begin.map_or(0, |begin| self.after(at.since(begin)));
        }
        leaking
    }
}

/// A workload and the request of its containers over time.
struct Workload {
    trace: Trace,
    peak: u64,
    sizes: Replayed,
    leak: Leak,
}

impl Workload {
    fn of(series: &Series, leak: Leak, system: &System) -> Self {
        let leaking = leak.of(series);
        let sizes = replayed(system, &leaking);
        Self { trace: series.trace.clone(), peak: leaking.trace.peak(), sizes, leak }
    }
}

/// A workload on a node.
struct Tenant<'a> {
    workload: &'a Workload,
    /// Samples that have begun.
    begun: usize,
    replicas: Vec<Replica>,
}

#[derive(Debug, Clone, Copy)]
struct Replica {
    /// It runs from here on.
    since: Timestamp,
    /// It was evicted at least once.
    evicted: bool,
}

impl Tenant<'_> {
    fn unscored(&self) -> usize {
        self.workload.trace.samples.len() / UNSCORED
    }

    /// Use without leak and request at a time; `None` where nothing is known, and in what is not scored.
    fn at(&mut self, now: Timestamp) -> Option<(u64, u64)> {
        let Trace { step, samples } = &self.workload.trace;
        while samples.get(self.begun).is_some_and(|(at, _)| *at <= now) {
            self.begun += 1;
        }
        let last = self.begun.checked_sub(1).filter(|last| *last >= self.unscored())?;
        let (at, used) = samples.get(last).filter(|(at, _)| now.since(*at) < *step)?;
        debug_assert!(*at <= now, "it has begun");
        Some((*used, *self.workload.sizes.sizes.get(last)?))
    }
}

struct Node<'a> {
    tenants: Vec<Tenant<'a>>,
    /// Moments at which any sample begins.
    times: Vec<Timestamp>,
}

/// A container that runs: its use, its request, and which one it is.
#[derive(Debug, Clone, Copy)]
struct Running {
    used: u64,
    size: u64,
    tenant: usize,
    replica: usize,
}

impl<'a> Node<'a> {
    fn new(workloads: impl Iterator<Item = &'a Workload>, replicas: usize) -> Self {
        let tenant = |workload: &'a Workload| {
            let since = workload.trace.samples.first().map_or(Timestamp::from_unix_seconds(0), |(at, _)| *at);
            Tenant { workload, begun: 0, replicas: vec![Replica { since, evicted: false }; replicas] }
        };
        let tenants: Vec<Tenant<'_>> = workloads.map(tenant).collect();
        let samples = tenants.iter().flat_map(|tenant| &tenant.workload.trace.samples);
        let mut times: Vec<Timestamp> = samples.map(|(at, _)| *at).collect();
        times.sort_unstable();
        times.dedup();
        Self { tenants, times }
    }

    fn run(mut self) -> Metrics {
        let mut sum = Sum::default();
        for now in std::mem::take(&mut self.times) {
            let (mut running, mut capacity) = (Vec::new(), 0);
            for (tenant, of) in self.tenants.iter_mut().enumerate() {
                let Some((base, size)) = of.at(now) else { continue };
                capacity += size * of.replicas.len() as u64;
                sum.peak += u128::from(of.workload.peak) * of.replicas.len() as u128;
                sum.seconds += of.workload.trace.step.as_secs_f64() * of.replicas.len() as f64;
                for (replica, one) in of.replicas.iter().enumerate().filter(|(_, one)| one.since <= now) {
                    let used = base + of.workload.leak.after(now.since(one.since));
                    running.push(Running { used, size, tenant, replica });
                }
            }
            let mut total: u64 = running.iter().map(|one| one.used).sum();
            sum.moments += u64::from(capacity > 0);
            sum.over += u64::from(total > capacity);
            sum.allocated += u128::from(capacity);
            sum.used += u128::from(total);
            sum.missing += u128::from(total.saturating_sub(capacity));
            if total > capacity {
                running.sort_by_key(|one| std::cmp::Reverse(one.used.saturating_sub(one.size)));
            }
            for one in running.iter().take_while(|one| {
                let over = total > capacity;
                total -= one.used;
                over
            }) {
                self.evict(one, now);
                sum.evictions += 1;
            }
        }
        self.metrics(&sum)
    }

    fn evict(&mut self, one: &Running, now: Timestamp) {
        let tenant = self.tenants.get_mut(one.tenant);
        if let Some(replica) = tenant.and_then(|tenant| tenant.replicas.get_mut(one.replica)) {
            *replica = Replica { since: now + RESTART, evicted: true };
        }
    }

    fn metrics(&self, sum: &Sum) -> Metrics {
        let part = |part: u128, whole: u128| part as f64 / whole.max(1) as f64 * 100.0;
        let days = sum.seconds / 86_400.0;
        let replicas = || self.tenants.iter().flat_map(|tenant| &tenant.replicas);
        let resizes = |tenant: &Tenant<'_>| {
            let scored = tenant.workload.sizes.resizes.iter().filter(|at| **at >= tenant.unscored()).count();
            scored * tenant.replicas.len()
        };
        Metrics {
            alloc: part(sum.allocated, sum.peak),
            excess: part(sum.missing, sum.used),
            under: part(sum.over.into(), sum.moments.into()),
            waste: 100.0 - part(sum.used - sum.missing, sum.allocated),
            oom_per_container_day: sum.evictions as f64 / days.max(f64::MIN_POSITIVE),
            containers_with_oom: part(
                replicas().filter(|replica| replica.evicted).count() as u128,
                replicas().count() as u128,
            ),
            resizes_per_day: self.tenants.iter().map(resizes).sum::<usize>() as f64
                / days.max(f64::MIN_POSITIVE),
        }
    }
}

#[derive(Default)]
struct Sum {
    /// Moments with a container, and those with more use than memory.
    moments: u64,
    over: u64,
    evictions: u64,
    allocated: u128,
    used: u128,
    missing: u128,
    peak: u128,
    /// Container-seconds.
    seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// One value a minute, beginning after so many minutes, with this request.
    fn workload(begin: u32, values: &[u64], size: u64) -> Workload {
        let start = Timestamp::from_unix_seconds(1_700_006_400) + MINUTE * begin;
        let samples: Vec<_> =
            values.iter().zip(0_u32..).map(|(used, n)| (start + MINUTE * n, *used)).collect();
        let sizes = Replayed { sizes: vec![size; values.len()], ..Replayed::default() };
        let trace = Trace { step: MINUTE, samples };
        Workload { peak: trace.peak(), trace, sizes, leak: Leak(0) }
    }

    /// So much, but for some minutes from one on.
    fn with_peak(used: u64, peak: u64, minutes: std::ops::Range<usize>) -> Vec<u64> {
        (0..100).map(|minute| if minutes.contains(&minute) { peak } else { used }).collect()
    }

    fn run(workloads: &[Workload], replicas: usize) -> Metrics {
        Node::new(workloads.iter(), replicas).run()
    }

    #[test]
    fn who_is_evicted_is_gone_for_a_while() {
        let spiky = workload(0, &with_peak(50, 130, 40..60), 100);
        let calm = workload(0, &[100; 100], 100);
        let metrics = run(&[spiky, calm], 1);
        // 20 minutes of peak: it comes back three times while it lasts
        let container_days = 2.0 * 90.0 / 1440.0;
        assert!((metrics.oom_per_container_day * container_days - 4.0).abs() < 1e-6, "{metrics:?}");
        assert!((metrics.under - 4.0 / 90.0 * 100.0).abs() < 1e-6, "{metrics:?}");
        assert!((metrics.containers_with_oom - 50.0).abs() < 1e-6, "{metrics:?}");
    }

    #[test]
    fn room_of_one_helps_another_and_replicas_do_not() {
        let spiky = || workload(0, &with_peak(50, 130, 40..60), 100);
        let roomy = workload(0, &[50; 100], 100);
        assert!(run(&[spiky(), roomy], 1).oom_per_container_day < 1e-9);
        assert!(run(&[spiky()], 10).oom_per_container_day > 0.0);
    }

    #[test]
    fn containers_meet_by_time_and_not_by_sample() {
        // both peak in their own minute 40, half an hour apart: the other's room is enough
        let of = |begin| workload(begin, &with_peak(50, 140, 40..50), 100);
        assert!(run(&[of(0), of(30)], 1).oom_per_container_day < 1e-9);
        assert!(run(&[of(0), of(0)], 1).oom_per_container_day > 0.0);
    }

    #[test]
    fn an_evicted_leak_starts_again() {
        let leak = Leak(100);
        assert_eq!((leak.after(LEAK / 2), leak.after(LEAK + LEAK / 4)), (50, 25));
        let mut leaking = workload(0, &[100; 1000], 130);
        leaking.leak = leak;
        let metrics = run(&[leaking], 1);
        // 30 above is reached after 108 minutes, again and again
        let days = 900.0 / 1440.0;
        assert!((7.0..=10.0).contains(&(metrics.oom_per_container_day * days)), "{metrics:?}");
    }
}
