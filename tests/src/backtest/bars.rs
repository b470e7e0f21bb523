//! The bars: relations between systems in one run.
//!
//! Each asks that a difference (ours minus what is allowed) is not above 0: of the means, and at the upper end of its
//! one-sided 95 % interval, systems resampled in pairs.

use std::fmt;

use optipod_common::policy::Objective;

use super::{
    protocol::Target,
    report::{Report, SystemReport},
    statistics::{Excess, Metrics, excess},
};

/// How a bar is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The means hold it, and the 95 % bound too.
    Holds,
    /// The means hold it; other series of the same kind may not.
    MeanOnly,
    /// The means do not hold it.
    Missed,
    /// The run has no series for it, or not the opponent.
    Unjudged,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Holds => "holds",
            Self::MeanOnly => "mean holds, bound does not",
            Self::Missed => "**missed**",
            Self::Unjudged => "not judged",
        })
    }
}

/// One relation and whether it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What is asked.
    pub what: String,
    /// `None` where the run measured nothing to judge it by.
    pub measured: Option<Measured>,
    /// Asked for, not promised.
    pub stretch: bool,
}

/// Both sides of a bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Ours.
    pub ours: f64,
    /// What is allowed.
    pub allowed: f64,
    /// The difference of the two.
    pub excess: Excess,
}

impl Bar {
    /// By the mean and the bound.
    pub fn verdict(&self) -> Verdict {
        match self.measured.map(|measured| measured.excess) {
            None => Verdict::Unjudged,
            Some(Excess { mean, .. }) if mean > 0.0 => Verdict::Missed,
            Some(Excess { bound, .. }) if bound > 0.0 => Verdict::MeanOnly,
            Some(_) => Verdict::Holds,
        }
    }
}

/// A metric by its name in the JSON.
type Metric = (&'static str, fn(&Metrics) -> f64);

const ALLOC: Metric = ("alloc", |metrics| metrics.alloc);
const EXCESS: Metric = ("excess", |metrics| metrics.excess);
const UNDER: Metric = ("under", |metrics| metrics.under);
const OOM: Metric = ("oom_per_container_day", |metrics| metrics.oom_per_container_day);
const RESIZES: Metric = ("resizes_per_day", |metrics| metrics.resizes_per_day);

/// Ours on one resource, and the opponents beside it.
struct Row<'a> {
    report: &'a Report,
    resource: Target,
    objective: Objective,
    bars: Vec<Bar>,
}

/// All bars, also those that the run cannot judge.
pub fn all(report: &Report) -> Vec<Bar> {
    let row = |resource, objective| Row { report, resource, objective, bars: Vec::new() };
    let mut balanced = row(Target::Cpu, Objective::Balanced);
    for other in ["autopilot", "vpa", "vpa-no-minimum", "crane"] {
        balanced = balanced.part(ALLOC, 0.9, other).part(EXCESS, 1.0, other);
    }
    let balanced =
        balanced.part(ALLOC, 1.0, "koordinator").part(EXCESS, 0.5, "koordinator").most(RESIZES, 15.0);
    let savings = row(Target::Cpu, Objective::Savings)
        .part(ALLOC, 1.01, "krr")
        .part(EXCESS, 1.0 / 3.0, "krr")
        .most(RESIZES, 50.0)
        .stretch();
    let safe = row(Target::Cpu, Objective::Safe)
        .part(ALLOC, 0.93, "autopilot")
        .part(EXCESS, 0.55, "autopilot")
        .part(UNDER, 0.5, "autopilot")
        .most(RESIZES, 30.0)
        .stretch();
    let request = row(Target::MemoryRequest, Objective::Balanced).most(ALLOC, 97.0).most(UNDER, 0.5);
    let tracking = row(Target::Memory, Objective::Balanced)
        .part(ALLOC, 1.0, "autopilot")
        .stretch()
        .part(OOM, 0.8, "autopilot")
        .stretch();
    let limit = row(Target::CpuLimit, Objective::Balanced).most(UNDER, 0.3);
    [balanced, savings, safe, request, tracking, limit].into_iter().flat_map(|row| row.bars).collect()
}

impl Row<'_> {
    /// At most this part of an opponent's.
    fn part(self, metric: Metric, part: f64, other: &str) -> Self {
        let what = format!("{} <= {part:.2} of {other}'s", metric.0);
        let theirs = self.report.find(other, self.resource, None);
        let measured = theirs.and_then(|theirs| self.measured(metric, part, Some(theirs)));
        self.with(&what, measured)
    }

    /// At most this.
    fn most(self, metric: Metric, most: f64) -> Self {
        let measured = self.measured(metric, most, None);
        self.with(&format!("{} <= {most}", metric.0), measured)
    }

    fn measured(&self, (_, metric): Metric, part: f64, theirs: Option<&SystemReport>) -> Option<Measured> {
        let ours = self.report.find("adaptive", self.resource, Some(self.objective))?;
        Some(Measured {
            ours: metric(&ours.means),
            allowed: theirs.map_or(part, |theirs| part * metric(&theirs.means)),
            excess: excess(&ours.measured, theirs.map(|theirs| &theirs.measured), metric, part),
        })
    }

    fn with(mut self, what: &str, measured: Option<Measured>) -> Self {
        let resource = serde_json::to_value(self.resource).unwrap_or_default();
        let resource = resource.as_str().unwrap_or_default();
        let what = format!("{resource} {:?}: {what}", self.objective);
        self.bars.push(Bar { what, measured, stretch: false });
        self
    }

    /// The last bar is asked for, not promised.
    fn stretch(mut self) -> Self {
        if let Some(bar) = self.bars.last_mut() {
            bar.stretch = true;
        }
        self
    }
}

/// Prints each bar with its numbers.
pub fn print(report: &Report) {
    println!(
        "## Bars\n\n| bar | ours | allowed | ours - allowed | its 95 % bound | |\n|---|---:|---:|---:|---:|---|"
    );
    for bar in all(report) {
        let Bar { what, measured, stretch } = &bar;
        let stretch = if *stretch { " (stretch)" } else { "" };
        let numbers = match measured {
            Some(Measured { ours, allowed, excess: Excess { mean, bound } }) => {
                format!("{ours:.3} | {allowed:.3} | {mean:.3} | {bound:.3}")
            }
            None => "| | |".to_owned(),
        };
        println!("| {what}{stretch} | {numbers} | {} |", bar.verdict());
    }
}

/// The bars that are promised and do not hold at their bound, each with why.
pub fn unmet(report: &Report) -> Vec<String> {
    let unmet = all(report).into_iter().filter(|bar| !bar.stretch && bar.verdict() != Verdict::Holds);
    let why = |bar: Bar| match bar.measured {
        Some(Measured { ours, allowed, excess: Excess { bound, .. } }) => {
            format!("{}: {ours:.3}, allowed {allowed:.3}, above it by {bound:.3} at the bound", bar.what)
        }
        None => format!("{}: not judged, the run has no series or not the opponent", bar.what),
    };
    unmet.map(why).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::{
        statistics::{Intervals, PerSet},
        systems::label,
    };

    fn system(
        name: &str,
        resource: Target,
        objective: Option<Objective>,
        series: &[Metrics],
    ) -> SystemReport {
        let measured = PerSet::from([("a".to_owned(), series.to_vec())]);
        SystemReport::new(label(name, resource, objective), Intervals::default(), measured)
    }

    fn alloc(alloc: f64) -> Metrics {
        Metrics { alloc, ..Metrics::default() }
    }

    fn verdicts(report: &Report, what: &str) -> Vec<Verdict> {
        let bars = all(report).into_iter().filter(|bar| bar.what.contains(what));
        bars.map(|bar| bar.verdict()).collect()
    }

    #[test]
    fn a_bar_holds_by_its_bound_by_its_mean_or_not() {
        let theirs = system("krr", Target::Cpu, None, &[alloc(100.0), alloc(100.0), alloc(100.0)]);
        let of = |series: &[Metrics]| Report {
            systems: vec![system("adaptive", Target::Cpu, Some(Objective::Savings), series), theirs.clone()],
            ..Report::default()
        };
        let judged = |series: &[Metrics]| verdicts(&of(series), "alloc <= 1.01 of krr's");
        assert_eq!(judged(&[alloc(90.0), alloc(95.0), alloc(101.0)]), [Verdict::Holds]);
        assert_eq!(judged(&[alloc(80.0), alloc(80.0), alloc(130.0)]), [Verdict::MeanOnly]);
        assert_eq!(judged(&[alloc(101.0), alloc(101.0), alloc(102.0)]), [Verdict::Missed]);
        let unmet = |series: &[Metrics]| unmet_of(&of(series), "cpu Savings: alloc");
        assert_eq!(unmet(&[alloc(90.0), alloc(95.0), alloc(101.0)]), [] as [String; 0]);
        assert_eq!(
            unmet(&[alloc(102.0)]),
            ["cpu Savings: alloc <= 1.01 of krr's: 102.000, allowed 101.000, above it by 1.000 at the bound"]
        );
        // by the mean alone is not what is promised
        assert_eq!(unmet(&[alloc(80.0), alloc(80.0), alloc(130.0)]).len(), 1);
    }

    fn unmet_of(report: &Report, what: &str) -> Vec<String> {
        unmet(report).into_iter().filter(|bar| bar.contains(what)).collect()
    }

    #[test]
    fn a_stretch_that_is_missed_is_no_failure() {
        let many = Metrics { resizes_per_day: 60.0, ..Metrics::default() };
        let objectives = [Objective::Savings, Objective::Balanced];
        let systems = objectives.map(|one| system("adaptive", Target::Cpu, Some(one), &[many])).to_vec();
        let report = Report { systems, ..Report::default() };
        assert_eq!(verdicts(&report, "cpu Savings: resizes_per_day"), [Verdict::Missed]);
        assert_eq!(unmet_of(&report, "cpu Savings: resizes_per_day"), [] as [String; 0]);
        assert_eq!(unmet_of(&report, "cpu Balanced: resizes_per_day").len(), 1);
    }

    #[test]
    fn what_was_not_measured_is_not_judged_and_not_kept() {
        let report = Report::default();
        let bars = all(&report);
        assert!(bars.iter().all(|bar| bar.verdict() == Verdict::Unjudged), "{bars:?}");
        let promised = bars.iter().filter(|bar| !bar.stretch);
        let unmet = unmet(&report);
        assert_eq!(unmet.len(), promised.count());
        let limit = "cpu-limit Balanced: under <= 0.3: not judged, the run has no series or not the opponent";
        assert_eq!(unmet.last().map(String::as_str), Some(limit));
    }
}
