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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use optipod_common::{
        replay::{Actuator, Limit, Observation, Rule, Trace, replay},
        resources::Resource,
        time::Timestamp,
    };

    use super::*;

    /// The size after a day of much use, a gap of so many days, and six hours of little use.
    fn size_after(gap: u32, rule: &mut impl Rule) -> u64 {
        let (minute, day) = (Duration::from_secs(60), Duration::from_hours(24));
        let begin = Timestamp::from_unix_seconds(1_700_006_400);
        let much = (0..1440).map(|n| (begin + minute * n, 1000));
        let little = (0..360).map(|n| (begin + day * (1 + gap) + minute * n, 100));
        let trace = Trace { step: minute, samples: much.chain(little).collect() };
        let lag = Duration::ZERO;
        let actuator =
            Actuator { lag, dead_up: 0, dead_down: 0, minimum: 1, limit: Limit::Apart, guarded: false };
        *replay(&trace, 2000, &actuator, rule).sizes.last().unwrap()
    }

    #[test]
    fn what_decays_does_so_in_a_gap() {
        for resource in [Resource::Cpu, Resource::Memory] {
            let sizes = |gap| {
                [
                    size_after(gap, &mut Autopilot::new(resource, 2000)),
                    size_after(gap, &mut DecayedPercentile::crane(resource, 2000)),
                    size_after(gap, &mut DecayedPercentile::koordinator(resource, 2000)),
                    size_after(gap, &mut NSigma::new(3.0)),
                    size_after(gap, &mut PeakHold::new(6.0)),
                ]
            };
            let (with, without) = (sizes(40), sizes(0));
            assert!(with.iter().all(|size| *size < 130), "{resource:?}: {with:?}");
            assert!(without[..3].iter().all(|size| *size > 900), "{resource:?}: {without:?}");
        }
    }

    #[test]
    fn a_gap_is_no_history_for_a_report_that_needs_points() {
        let points = |gap| {
            let mut krr = Krr::new(Resource::Cpu, 2000);
            let step = Duration::from_secs(60);
            let at = |n: u32| Timestamp::from_unix_seconds(1_700_006_400) + step * n;
            let see = |n| Observation { at: at(n), step, used: 100, size: 2000, oom: false };
            let seen = (0..100).chain(gap..gap + 20);
            seen.filter_map(|n| krr.observe(&see(n))).count()
        };
        assert_eq!((points(10_000), points(100)), (0, 0));
    }
}
