//! The protocol: which series count, how each system is carried out, what is measured.

use clap::ValueEnum;
use optipod_common::{
    adaptive::Size,
    expression::NoExpressions,
    policy::Policy,
    quantity::{Bytes, MilliCpu},
    replay::{Outcome, Replayed, Trace, Usage, UsageSample, replay, replay_policy},
    resources::{Amounts, Resource, Resources},
    time::Timestamp,
};
use rayon::prelude::*;
use serde::Serialize;

use super::{
    report::{Report, SystemReport},
    statistics::{Draws, Metrics, PerSet, Seeded, intervals},
    systems::{Contender, System, label},
    trace::{BYTES_PER_UNIT, Series, Set, UNITS_PER_MILLICORE},
};

/// Declared size: typical over-provisioning is twice the peak.
const DECLARED: u64 = 2;
/// Part of a series that is not scored: one in this many samples, from the beginning.
pub const UNSCORED: usize = 10;
/// Units of a trace in a tenth of a millicore.
const UNITS_PER_TENTH: u64 = UNITS_PER_MILLICORE / 10;
/// Splits the series of each set; another seed would be another experiment.
const SPLIT_SEED: u64 = 42;

/// Which series count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Half {
    /// Those that constants were chosen on.
    Tune,
    /// The held-out ones.
    Test,
    /// Both.
    All,
}

/// The series of a half; a resource with a single series in a set is in both halves.
pub fn choose(sets: &[Set], half: Half) -> Vec<Set> {
    sets.iter()
        .map(|set| {
            let of = |resource| {
                let all: Vec<&Series> = set.series.iter().filter(|s| s.resource == resource).collect();
                half_of(&all, half)
            };
            let series = of(Resource::Cpu).into_iter().chain(of(Resource::Memory)).cloned().collect();
            Set { name: set.name.clone(), series }
        })
        .collect()
}

fn half_of<'a>(all: &[&'a Series], half: Half) -> Vec<&'a Series> {
    if half == Half::All || all.len() < 2 {
        return all.to_vec();
    }
    let mut shuffled = all.to_vec();
    Seeded::new(SPLIT_SEED).shuffle(&mut shuffled);
    let (tune, test) = shuffled.split_at(all.len() / 2);
    let mut chosen = if half == Half::Tune { tune.to_vec() } else { test.to_vec() };
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    chosen
}

/// Replays one system over one series.
pub fn replayed(system: &System, series: &Series) -> Replayed {
    let peak = series.trace.peak();
    replayed_from(system, series, peak.saturating_mul(DECLARED), peak)
}

/// As [`replayed`], of a container with this declared size and this highest use.
pub(super) fn replayed_from(system: &System, series: &Series, declared: u64, peak: u64) -> Replayed {
    match (system.make)(series.resource, declared, peak) {
        Contender::Rule { start, actuator, mut rule } => replay(&series.trace, start, &actuator, &mut rule),
        Contender::Policy(policy) => under_policy(&policy, system.resource, series, declared),
        Contender::Hindsight => super::opponents::oracle(&series.trace),
    }
}

/// Replays a policy in the product's units: a tenth of a millicore, bytes.
fn under_policy(policy: &Policy, sized: Target, series: &Series, declared: u64) -> Replayed {
    let Trace { step, samples } = &series.trace;
    let usage = |of: fn(Timestamp, u64) -> UsageSample| Usage {
        step: *step,
        samples: samples.iter().map(|(at, used)| of(*at, *used)).collect(),
    };
    let mut replayed = match series.resource {
        Resource::Cpu => {
            let cpu = MilliCpu(declared.div_ceil(UNITS_PER_MILLICORE));
            let requests = Amounts { cpu: Some(cpu), memory: None };
            let usage =
                usage(|at, used| UsageSample { at, cpu: Some(used.div_ceil(UNITS_PER_TENTH)), memory: None });
            replay_policy(policy, &usage, Resources { requests, limits: Amounts::default() }, &NoExpressions)
                .cpu
        }
        Resource::Memory => {
            let requests = Amounts { cpu: None, memory: Some(Bytes(declared * BYTES_PER_UNIT)) };
            let limits = if sized == Target::Memory { requests } else { Amounts::default() };
            let usage = usage(|at, used| UsageSample { at, cpu: None, memory: Some(used * BYTES_PER_UNIT) });
            replay_policy(policy, &usage, Resources { requests, limits }, &NoExpressions).memory
        }
    };
    for size in &mut replayed.sizes {
        *size = match series.resource {
            Resource::Cpu => *size * UNITS_PER_TENTH,
            Resource::Memory => *size / BYTES_PER_UNIT,
        };
    }
    replayed
}

/// What one system makes of one series.
pub fn score(system: &System, series: &Series) -> Metrics {
    let skip = series.trace.samples.len() / UNSCORED;
    Metrics::of(&Outcome::of(&series.trace, &replayed(system, series), skip))
}

/// Runs every system over every series of its resource.
pub fn run(sets: &[Set], systems: &[System]) -> Report {
    let measured: Vec<(&System, PerSet)> =
        systems.par_iter().map(|system| (system, measure(system, sets))).collect();
    // what no set has a series of is not a row of zeros
    let measured: Vec<(&System, PerSet, Draws)> = measured
        .into_par_iter()
        .filter(|(_, of)| !of.is_empty())
        .map(|(system, of)| {
            let draws = Draws::of(&of);
            (system, of, draws)
        })
        .collect();
    let reports = measured
        .par_iter()
        .map(|(system, measured_one, draws)| {
            let opponents = measured.iter().filter(|(other, ..)| {
                system.objective.is_some() && other.opponent && other.resource == system.resource
            });
            let opponents = opponents.map(|(other, _, theirs)| (other.name.as_str(), theirs));
            let label = label(&system.name, system.resource, system.objective);
            SystemReport::new(label, intervals(draws, opponents), measured_one.clone())
        })
        .collect();
    let sets = sets.iter().filter(|set| !set.series.is_empty()).map(|set| set.name.clone());
    Report { sets: sets.collect(), systems: reports, ..Report::default() }
}

/// Metrics of each series, by set; sets without series of the resource are left out.
pub fn measure(system: &System, sets: &[Set]) -> PerSet {
    sets.iter()
        .filter_map(|set| {
            let series: Vec<&Series> =
                set.series.iter().filter(|series| series.resource == system.resource.measured()).collect();
            let metrics: Vec<Metrics> = series.par_iter().map(|series| score(system, series)).collect();
            (!metrics.is_empty()).then(|| (set.name.clone(), metrics))
        })
        .collect()
}

/// What is sized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Target {
    /// CPU request.
    #[serde(rename = "cpu")]
    Cpu,
    /// Memory, request and limit as one.
    #[serde(rename = "memory")]
    Memory,
    /// Memory request; the limit stays where it was declared.
    #[serde(rename = "memory-request")]
    MemoryRequest,
    /// CPU limit in 100 ms periods, closed loop.
    #[serde(rename = "cpu-limit")]
    CpuLimit,
    /// Memory requests of the containers of a node, closed loop.
    #[serde(rename = "memory-node")]
    MemoryNode,
    /// The same on nodes of one workload, whose replicas peak together.
    #[serde(rename = "memory-node-in-phase")]
    MemoryNodeInPhase,
    /// The same beside a workload that leaks.
    #[serde(rename = "memory-node-leak")]
    MemoryNodeLeak,
}

impl Target {
    /// As Adaptive names it.
    pub const fn size(self) -> Size {
        match self {
            Self::Cpu | Self::CpuLimit => Size::CpuRequest,
            Self::MemoryRequest | Self::MemoryNode | Self::MemoryNodeInPhase | Self::MemoryNodeLeak => {
                Size::MemoryRequest
            }
            Self::Memory => Size::MemoryLimit,
        }
    }

    /// Which use is replayed.
    pub const fn measured(self) -> Resource {
        match self {
            Self::Cpu | Self::CpuLimit => Resource::Cpu,
            Self::Memory
            | Self::MemoryRequest
            | Self::MemoryNode
            | Self::MemoryNodeInPhase
            | Self::MemoryNodeLeak => Resource::Memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use optipod_common::policy::Objective;

    use super::*;
    use crate::{backtest::systems, backtest::trace::read, paths};

    /// The first minutes of the shipped recordings.
    fn short() -> Vec<Set> {
        let mut sets = read(None, &paths::workspace().join("tests/data/traces"), &[]).unwrap().sets;
        sets.iter_mut().flat_map(|set| &mut set.series).for_each(|series| series.trace.samples.truncate(400));
        sets
    }

    #[test]
    fn halves_share_nothing_and_miss_nothing() {
        let sets = short();
        let names = |half| -> BTreeSet<(String, bool)> {
            let chosen = choose(&sets, half);
            let series = chosen.iter().flat_map(|set| &set.series);
            series.map(|s| (s.name.clone(), s.resource == Resource::Cpu)).collect()
        };
        let (tune, test) = (names(Half::Tune), names(Half::Test));
        assert!(tune.is_disjoint(&test));
        assert_eq!(tune.union(&test).cloned().collect::<BTreeSet<_>>(), names(Half::All));
        assert_eq!((tune.len(), test.len()), (6, 6));
    }

    #[test]
    fn what_no_set_has_a_series_of_is_no_row() {
        let mut sets = short();
        for set in &mut sets {
            set.series.retain(|series| series.resource == Resource::Cpu);
        }
        let systems = [
            systems::adaptive(Target::Cpu, Objective::Safe),
            systems::adaptive(Target::Memory, Objective::Safe),
        ];
        let report = run(&sets, &systems);
        assert_eq!(report.systems.iter().map(|system| system.resource).collect::<Vec<_>>(), [Target::Cpu]);
    }

    #[test]
    fn a_set_without_series_is_not_listed() {
        let mut sets = choose(&short(), Half::Test);
        sets.push(Set { name: "empty".to_owned(), series: Vec::new() });
        let report = run(&sets, &[systems::adaptive(Target::Cpu, Objective::Safe)]);
        assert_eq!(report.sets, ["recorded-1s"]);
    }

    #[test]
    fn the_report_has_the_promised_fields_and_repeats() {
        let sets = choose(&short(), Half::Test);
        let report = || serde_json::to_value(run(&sets, &systems::all())).unwrap();
        let first = report();
        assert_eq!(first, report());
        assert_eq!(first["sets"], serde_json::json!(["recorded-1s"]));
        let systems = first["systems"].as_array().unwrap();
        for resource in ["cpu", "memory", "memory-request"] {
            let of = |name: &str, objective: serde_json::Value| {
                let found = systems
                    .iter()
                    .find(|s| s["name"] == name && s["resource"] == resource && s["objective"] == objective);
                found.unwrap_or_else(|| panic!("{name} {objective} is missing for {resource}"))
            };
            for objective in ["Savings", "Balanced", "Safe"] {
                let ours = of("adaptive", objective.into());
                for metric in Metrics::default().named().map(|(name, _)| name) {
                    assert!(ours[metric].is_f64() && ours["ci95"][metric].is_array(), "{metric}: {ours}");
                    assert!(ours["per_set"]["recorded-1s"][metric].is_f64(), "{metric}: {ours}");
                }
                assert!(ours["ci95"]["ratio"]["autopilot"]["alloc"].is_array(), "{ours}");
                let opponents = ours["ci95"]["minus"].as_object().unwrap();
                assert!(opponents.keys().all(|name| !name.starts_with("policy-")), "{opponents:?}");
            }
            for opponent in [
                "vpa",
                "autopilot",
                "krr",
                "crane",
                "koordinator",
                "n-sigma",
                "threshold",
                "static-peak",
                "oracle-1h",
            ] {
                of(opponent, serde_json::Value::Null);
            }
            let peak = of("static-peak", serde_json::Value::Null);
            assert_eq!((&peak["alloc"], &peak["excess"]), (&100.0.into(), &0.0.into()));
        }
    }
}
