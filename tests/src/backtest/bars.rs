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
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Holds => "holds",
            Self::MeanOnly => "mean holds, bound does not",
            Self::Missed => "**missed**",
        })
    }
}

/// One relation and whether it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What is asked.
    pub what: String,
    /// Ours.
    pub ours: f64,
    /// What is allowed.
    pub allowed: f64,
    /// The difference of the two.
    pub excess: Excess,
    /// Asked for, not promised.
    pub stretch: bool,
}

impl Bar {
    /// By the mean and the bound.
    pub fn verdict(&self) -> Verdict {
        match self.excess {
            Excess { mean, .. } if mean > 0.0 => Verdict::Missed,
            Excess { bound, .. } if bound > 0.0 => Verdict::MeanOnly,
            _ => Verdict::Holds,
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
    ours: Option<&'a SystemReport>,
    bars: Vec<Bar>,
}

/// All bars that the run can judge.
pub fn all(report: &Report) -> Vec<Bar> {
    let row = |resource, objective| Row {
        report,
        ours: report.find("adaptive", resource, Some(objective)),
        bars: Vec::new(),
    };
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
    fn part(mut self, metric: Metric, part: f64, other: &str) -> Self {
        let theirs = self.ours.and_then(|ours| self.report.find(other, ours.resource, None));
        if let Some(theirs) = theirs {
            self.push(&format!("{} <= {part:.2} of {other}'s", metric.0), metric, part, Some(theirs));
        }
        self
    }

    /// At most this.
    fn most(mut self, metric: Metric, most: f64) -> Self {
        self.push(&format!("{} <= {most}", metric.0), metric, most, None);
        self
    }

    fn push(&mut self, what: &str, (_, metric): Metric, part: f64, theirs: Option<&SystemReport>) {
        let Some(ours) = self.ours else { return };
        let resource = serde_json::to_value(ours.resource).unwrap_or_default();
        let resource = resource.as_str().unwrap_or_default();
        let objective = ours.objective.map(|o| format!(" {o:?}")).unwrap_or_default();
        self.bars.push(Bar {
            what: format!("{resource}{objective}: {what}"),
            ours: metric(&ours.means),
            allowed: theirs.map_or(part, |theirs| part * metric(&theirs.means)),
            excess: excess(&ours.measured, theirs.map(|theirs| &theirs.measured), metric, part),
            stretch: false,
        });
    }

    /// The last bar is asked for, not promised.
    fn stretch(mut self) -> Self {
        if let Some(bar) = self.bars.last_mut().filter(|_| self.ours.is_some()) {
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
        let Bar { what, ours, allowed, excess: Excess { mean, bound }, stretch } = &bar;
        let stretch = if *stretch { " (stretch)" } else { "" };
        println!(
            "| {what}{stretch} | {ours:.3} | {allowed:.3} | {mean:.3} | {bound:.3} | {} |",
            bar.verdict()
        );
    }
}

/// The bars that are promised and missed.
pub fn missed(report: &Report) -> Vec<String> {
    let missed = all(report).into_iter().filter(|bar| !bar.stretch && bar.verdict() == Verdict::Missed);
    missed.map(|bar| format!("{}: {:.3}, allowed {:.3}", bar.what, bar.ours, bar.allowed)).collect()
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
            sets: Vec::new(),
            systems: vec![system("adaptive", Target::Cpu, Some(Objective::Savings), series), theirs.clone()],
        };
        let judged = |series: &[Metrics]| verdicts(&of(series), "alloc <= 1.01 of krr's");
        assert_eq!(judged(&[alloc(90.0), alloc(95.0), alloc(101.0)]), [Verdict::Holds]);
        assert_eq!(judged(&[alloc(80.0), alloc(80.0), alloc(130.0)]), [Verdict::MeanOnly]);
        assert_eq!(judged(&[alloc(101.0), alloc(101.0), alloc(102.0)]), [Verdict::Missed]);
        assert_eq!(
            missed(&of(&[alloc(102.0)])),
            ["cpu Savings: alloc <= 1.01 of krr's: 102.000, allowed 101.000"]
        );
    }

    #[test]
    fn a_stretch_that_is_missed_is_no_failure() {
        let many = Metrics { resizes_per_day: 60.0, ..Metrics::default() };
        let report = Report {
            sets: Vec::new(),
            systems: vec![system("adaptive", Target::Cpu, Some(Objective::Savings), &[many])],
        };
        assert_eq!(verdicts(&report, "resizes_per_day"), [Verdict::Missed]);
        assert_eq!(missed(&report), [] as [String; 0]);
        let balanced = Report {
            systems: vec![system("adaptive", Target::Cpu, Some(Objective::Balanced), &[many])],
            ..report
        };
        assert_eq!(missed(&balanced).len(), 1);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(all(&Report { sets: Vec::new(), systems: Vec::new() }), []);
    }
}
