//! What Adaptive's constants trade against each other: a grid, its Pareto front, and both as a picture.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use optipod_common::{
    adaptive::{Tuning, Tunings},
    policy::Objective,
    replay::AdaptiveRule,
};

use super::{
    plot::{self, Chart, Mark, Point},
    protocol::{Half, Target, choose, measure},
    statistics::{Metrics, means},
    systems::{self, with_rule},
    trace::Set,
};

/// What the shipped constants are multiplied with, in percent.
const OVERRUN_PERCENT: [u32; 6] = [10, 30, 100, 250, 600, 2000];
const CHANGE_PERCENT: [u32; 3] = [30, 100, 400];
const COOLDOWN_PERCENT: [u32; 2] = [25, 100];
/// What an exceeded minute costs, as in [`Tuning::exceed_weight`].
const EXCEED_WEIGHTS: [u32; 2] = [0, 23_000];

/// Sizes nothing that could be looked for: twice the peak is off the chart.
const NOT_PLOTTED: &str = "declared";

/// Prints the grid for each size, cheapest first; rows that no other row beats in everything are marked. With `plot`
/// draws CPU requests and memory limits beside the other systems.
pub fn run(sets: &[Set], half: Half, plot: Option<&Path>) -> Result<()> {
    let chosen = choose(sets, half);
    let mut charts = Vec::new();
    for (sized, title, harm) in [
        (Target::Cpu, "CPU request", Some(EXCESS)),
        (Target::MemoryRequest, "Memory request", None),
        (Target::Memory, "Memory, request and limit as one", Some(KILLS)),
    ] {
        let mut rows: Vec<(Tuning, Metrics)> =
            grid(sized).into_iter().map(|tuning| (tuning, one(&chosen, sized, tuning))).collect();
        rows.sort_by(|(_, a), (_, b)| a.alloc.total_cmp(&b.alloc));
        print(&format!("{title}, {half:?} half"), &rows);
        if let Some(harm) = harm.filter(|_| plot.is_some()) {
            let swept = rows.iter().map(|(_, metrics)| harm.point(metrics, Mark::Swept));
            let points = swept.chain(named(&chosen, sized, harm)).collect();
            charts.push(Chart { title: title.to_owned(), harm: harm.0.to_owned(), points });
        }
    }
    match plot {
        Some(path) => {
            fs::write(path, plot::svg(&charts)).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(()),
    }
}

/// What is drawn upwards.
#[derive(Clone, Copy)]
struct Harm(&'static str, fn(&Metrics) -> f64);

const EXCESS: Harm = Harm("use above the size, % of use", |metrics| metrics.excess);
const KILLS: Harm = Harm("OOM kills per container-day", |metrics| metrics.oom_per_container_day);

impl Harm {
    fn point(self, metrics: &Metrics, mark: Mark) -> Point {
        Point { allocation: metrics.alloc, harm: (self.1)(metrics), mark }
    }
}

/// What ships and the other systems.
fn named(sets: &[Set], sized: Target, harm: Harm) -> Vec<Point> {
    let systems = systems::all();
    let plotted = systems.iter().filter(|system| system.resource == sized && system.name != NOT_PLOTTED);
    let point = |system: &systems::System| {
        let measured = measure(system, sets);
        let mark = match system.objective {
            Some(objective) => Mark::Ours(format!("{} {objective:?}", system.name)),
            None => Mark::Other(system.name.clone()),
        };
        (!measured.is_empty()).then(|| harm.point(&means(&measured), mark))
    };
    plotted.filter_map(point).collect()
}

fn print(title: &str, rows: &[(Tuning, Metrics)]) {
    println!("## {title}\n");
    println!(
        "| overrun weight | exceed weight | change weight | cooldown min | alloc % | excess % | under % | OOM/day | resizes/day | |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    for (tuning, metrics) in rows {
        let Tuning { overrun_weight, exceed_weight, change_weight, cooldown, .. } = tuning;
        let Metrics { alloc, excess, under, oom_per_container_day, resizes_per_day, .. } = metrics;
        let front = if rows.iter().any(|(_, other)| beats(other, metrics)) { "" } else { "front" };
        println!(
            "| {overrun_weight} | {exceed_weight} | {change_weight} | {cooldown} | {alloc:.1} | {excess:.2} | {under:.2} | {oom_per_container_day:.3} | {resizes_per_day:.1} | {front} |"
        );
    }
    println!();
}

fn grid(sized: Target) -> Vec<Tuning> {
    let base = Tunings::of(sized.size()).balanced;
    let of = |value: u32, percent: u32| (value * percent).div_ceil(100);
    let mut grid = Vec::new();
    for overrun_weight in OVERRUN_PERCENT.map(|percent| of(base.overrun_weight, percent)) {
        for exceed_weight in EXCEED_WEIGHTS {
            for change_weight in CHANGE_PERCENT.map(|percent| of(base.change_weight, percent)) {
                for cooldown in COOLDOWN_PERCENT.map(|percent| of(base.cooldown, percent)) {
                    grid.push(Tuning { overrun_weight, exceed_weight, change_weight, cooldown, ..base });
                }
            }
        }
    }
    grid
}

fn one(sets: &[Set], sized: Target, tuning: Tuning) -> Metrics {
    let tunings = Tunings { savings: tuning, balanced: tuning, safe: tuning };
    let rule = move || AdaptiveRule::tuned(sized.size(), Objective::Balanced, tunings);
    means(&measure(&with_rule("sweep", sized, Objective::Balanced, rule), sets))
}

/// Better in something that matters, worse in nothing.
fn beats(a: &Metrics, b: &Metrics) -> bool {
    let pairs = [
        (a.alloc, b.alloc),
        (a.excess, b.excess),
        (a.under, b.under),
        (a.oom_per_container_day, b.oom_per_container_day),
        (a.resizes_per_day, b.resizes_per_day),
    ];
    pairs.iter().all(|(a, b)| a <= b) && pairs.iter().any(|(a, b)| a < b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_less_time_under_is_not_beaten() {
        let cheap = Metrics { alloc: 50.0, under: 2.0, ..Metrics::default() };
        assert!(beats(&Metrics { alloc: 49.0, ..cheap }, &cheap));
        assert!(!beats(&Metrics { alloc: 49.0, under: 2.1, ..cheap }, &cheap));
        assert!(!beats(&cheap, &cheap));
    }
}
