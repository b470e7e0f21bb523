//! The systems that ours is compared with, each written from its paper, documentation or code.

mod autopilot;
mod fixed;
mod histogram;
mod krr;
mod minutes;
mod n_sigma;
mod peak_hold;
mod percentile;
mod vpa;

pub use autopilot::Autopilot;
pub use fixed::{Static, oracle};
pub use krr::Krr;
pub use n_sigma::NSigma;
pub use peak_hold::PeakHold;
pub use percentile::DecayedPercentile;
pub use vpa::VpaRule;

/// A size in whole units, rounded up.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn rounded(size: f64) -> u64 {
    size.ceil() as u64
}
