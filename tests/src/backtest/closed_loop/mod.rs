//! What an open-loop replay cannot show: limits that throttle, and nodes that run out of memory.

mod limits;
mod nodes;

use super::{
    report::Report,
    systems::System,
    trace::{FineCpu, RECORDED_FINE, Set},
};

/// Adds CPU limits on the 100 Hz recording, then memory requests packed on nodes.
pub fn add(report: &mut Report, fine: &[FineCpu], sets: &[Set], systems: &[System]) {
    if !fine.is_empty() {
        report.systems.extend(limits::run(fine));
        report.sets.push(RECORDED_FINE.to_owned());
    }
    report.systems.extend(nodes::run(sets, systems));
}
