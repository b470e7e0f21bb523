//! What an open-loop replay cannot show: limits that throttle, and nodes that run out of memory.

mod limits;
mod nodes;

use std::path::Path;

use anyhow::Result;

use super::{report::SystemReport, systems::System, trace::Set};

/// CPU limits on the project's own 100 Hz recording, then memory requests packed on nodes.
pub fn run(shipped: &Path, sets: &[Set], systems: &[System]) -> Result<Vec<SystemReport>> {
    let mut reports = limits::run(&shipped.join("recorded-cpu-100hz.csv.gz"))?;
    reports.extend(nodes::run(sets, systems));
    Ok(reports)
}
