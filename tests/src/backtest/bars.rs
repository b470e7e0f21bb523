//! The bars: relations between systems in one run.
//!
//! All compare means; where a bar asks for less allocation, the 95 % bootstrap bound of the paired ratio must hold too.
//! The intervals of the other ratios are printed beside them.

use optipod_common::policy::Objective;

use super::{
    protocol::Target,
    report::{Report, SystemReport},
    statistics::Interval,
};

/// One relation and whether it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What is asked.
    pub what: String,
    /// The measured number.
    pub measured: String,
    /// It holds.
    pub holds: bool,
}

/// Ours on one resource, and the opponents beside it.
struct Row<'a> {
    report: &'a Report,
    ours: &'a SystemReport,
    bars: Vec<Bar>,
}

/// All bars that the run can judge.
pub fn all(report: &Report) -> Vec<Bar> {
    let mut bars = Vec::new();
    let row = |resource, objective| {
        let ours = report.find("adaptive", resource, Some(objective))?;
        Some(Row { report, ours, bars: Vec::new() })
    };
    if let Some(mut row) = row(Target::Cpu, Objective::Balanced) {
        for other in ["autopilot", "vpa", "vpa-no-minimum", "crane"] {
            row.alloc_ratio(other, 0.9);
            row.not_more(other, "excess", 1.0);
        }
        row.not_more("koordinator", "alloc", 1.0);
        row.not_more("koordinator", "excess", 0.5);
        row.at_most("resizes a day", row.ours.means.resizes_per_day, 15.0);
        bars.extend(row.bars);
    }
    if let Some(mut row) = row(Target::Cpu, Objective::Savings) {
        row.not_more("krr", "alloc", 1.01);
        row.not_more("krr", "excess", 1.0 / 3.0);
        row.at_most("resizes a day", row.ours.means.resizes_per_day, 50.0);
        bars.extend(row.bars);
    }
    if let Some(mut row) = row(Target::Cpu, Objective::Safe) {
        row.alloc_ratio("autopilot", 0.93);
        row.not_more("autopilot", "excess", 0.55);
        row.not_more("autopilot", "under", 0.5);
        row.at_most("resizes a day", row.ours.means.resizes_per_day, 30.0);
        bars.extend(row.bars);
    }
    if let Some(mut row) = row(Target::MemoryRequest, Objective::Balanced) {
        row.at_most("request in % of the peak", row.ours.means.alloc, 97.0);
        row.at_most("% of the time above the request", row.ours.means.under, 0.5);
        bars.extend(row.bars);
    }
    if let Some(mut row) = row(Target::Memory, Objective::Balanced) {
        row.not_more("autopilot", "alloc", 1.0);
        row.not_more("autopilot", "oom_per_container_day", 0.8);
        bars.extend(row.bars);
    }
    if let Some(mut row) = row(Target::CpuLimit, Objective::Balanced) {
        row.at_most("% of periods throttled", row.ours.means.under, 0.3);
        bars.extend(row.bars);
    }
    bars
}

impl Row<'_> {
    fn push(&mut self, what: &str, measured: String, holds: bool) {
        let resource = serde_json::to_value(self.ours.resource).unwrap_or_default();
        let resource = resource.as_str().unwrap_or_default();
        let objective = self.ours.objective.map(|o| format!(" {o:?}")).unwrap_or_default();
        self.bars.push(Bar { what: format!("{resource}{objective}: {what}"), measured, holds });
    }

    fn at_most(&mut self, what: &str, value: f64, most: f64) {
        self.push(&format!("{what} <= {most}"), format!("{value:.2}"), value <= most);
    }

    /// Allocation at most this part of an opponent's, at the one-sided bound.
    fn alloc_ratio(&mut self, other: &str, most: f64) {
        let Some(theirs) = self.report.find(other, self.ours.resource, None) else { return };
        let ratio = self.ours.means.alloc / theirs.means.alloc;
        let bound = self.ours.ci95.ratio_below.get(other).and_then(|of| of.get("alloc")).copied();
        let bound = bound.unwrap_or(ratio);
        let measured = format!("{ratio:.3}, bound {bound:.3}");
        self.push(&format!("alloc <= {most} of {other}'s"), measured, ratio <= most && bound <= most);
    }

    /// A metric at most this part of an opponent's: the mean is, or is not significantly above.
    fn not_more(&mut self, other: &str, metric: &'static str, most: f64) {
        let Some(theirs) = self.report.find(other, self.ours.resource, None) else { return };
        let value = |of: &SystemReport| {
            of.means.named().into_iter().find(|(name, _)| *name == metric).map_or(0.0, |(_, value)| value)
        };
        let (ours, theirs) = (value(self.ours), value(theirs));
        let ratio = if theirs > 0.0 { ours / theirs } else { f64::from(u8::from(ours > 0.0)) };
        let [low, high] = self.interval(other, metric).unwrap_or([ratio, ratio]);
        let measured = format!("{ratio:.3} [{low:.3}, {high:.3}]");
        self.push(&format!("{metric} <= {most:.2} of {other}'s"), measured, ratio <= most);
    }

    /// Of the ratio to the opponent.
    fn interval(&self, other: &str, metric: &str) -> Option<Interval> {
        self.ours.ci95.ratio.get(other)?.get(metric).copied()
    }
}

/// Prints each bar with its number.
pub fn print(report: &Report) {
    println!("## Bars\n\n| bar | measured | |\n|---|---|---|");
    for Bar { what, measured, holds } in all(report) {
        println!("| {what} | {measured} | {} |", if holds { "holds" } else { "**missed**" });
    }
}
