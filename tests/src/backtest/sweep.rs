//! What Adaptive's constants trade against each other: a grid on the tune half, and its Pareto front.

use optipod_common::{
    adaptive::{Tuning, Tunings},
    policy::Objective,
    replay::AdaptiveRule,
};

use super::{
    protocol::{Half, Target, choose, measure},
    statistics::{Metrics, means},
    systems::with_rule,
    trace::Set,
};

const OVERRUN_WEIGHTS: [u32; 6] = [10, 30, 100, 300, 1000, 3000];
const CHANGE_WEIGHTS: [u32; 3] = [500, 4000, 16_000];
const COOLDOWNS: [u32; 2] = [30, 240];

/// Prints the grid for each size, cheapest first; rows that no other row beats in everything are marked.
pub fn run(sets: &[Set]) {
    let tune = choose(sets, Half::Tune);
    for (sized, title) in [
        (Target::Cpu, "CPU request"),
        (Target::MemoryRequest, "Memory request"),
        (Target::Memory, "Memory limit"),
    ] {
        let mut rows: Vec<(Tuning, Metrics)> =
            grid(sized).into_iter().map(|tuning| (tuning, one(&tune, sized, tuning))).collect();
        rows.sort_by(|(_, a), (_, b)| a.alloc.total_cmp(&b.alloc));
        println!("## {title}, tune half\n");
        println!(
            "| overrun weight | change weight | cooldown min | alloc % | excess % | under % | OOM/day | resizes/day | |"
        );
        println!("|---:|---:|---:|---:|---:|---:|---:|---:|---|");
        for (tuning, metrics) in &rows {
            let Tuning { overrun_weight, change_weight, cooldown, .. } = tuning;
            let Metrics { alloc, excess, under, oom_per_container_day, resizes_per_day, .. } = metrics;
            let front = if rows.iter().any(|(_, other)| beats(other, metrics)) { "" } else { "front" };
            println!(
                "| {overrun_weight} | {change_weight} | {cooldown} | {alloc:.1} | {excess:.2} | {under:.2} | {oom_per_container_day:.3} | {resizes_per_day:.1} | {front} |"
            );
        }
        println!();
    }
}

fn grid(sized: Target) -> Vec<Tuning> {
    let base = Tunings::of(sized.size()).balanced;
    let of =
        |overrun_weight, change_weight, cooldown| Tuning { overrun_weight, change_weight, cooldown, ..base };
    OVERRUN_WEIGHTS
        .iter()
        .flat_map(|o| CHANGE_WEIGHTS.iter().flat_map(move |c| COOLDOWNS.iter().map(move |d| of(*o, *c, *d))))
        .collect()
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
        (a.oom_per_container_day, b.oom_per_container_day),
        (a.resizes_per_day, b.resizes_per_day),
    ];
    pairs.iter().all(|(a, b)| a <= b) && pairs.iter().any(|(a, b)| a < b)
}
