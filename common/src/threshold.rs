//! The reactive strategy: up at once when a share of the request is used, down after a pause when little is.
//!
//! Source: the threshold manager that `strategy.threshold` takes its fields from. It looks at one value, keeps nothing.

use serde::{Deserialize, Serialize};

use crate::policy::ThresholdParams;

/// What the thresholds say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThresholdVerdict {
    /// Use is between the thresholds, or too near to what it would become.
    Keep,
    /// Use reached the upper threshold.
    Up(u64),
    /// Use fell to the lower threshold.
    Down(u64),
}

/// Sizes one resource from its present use.
///
/// `usage`, `current` (the request in force) and `floor` (smallest request, `minRequestMemory` for memory, else 0) are
/// in the same unit. How soon after a resize it may go down is decided where all cooldowns are.
pub fn threshold(params: &ThresholdParams, usage: u64, current: u64, floor: u64) -> ThresholdVerdict {
    if reaches(usage, params.scale_up_threshold.thousandths(), current) {
        let wanted = params
            .scale_up_usage_multiplier
            .times(usage)
            .max(params.scale_up_min_growth.times(current))
            .max(floor);
        return ThresholdVerdict::Up(wanted);
    }
    if reaches(current, 1000, usage) && !exceeds(usage, params.scale_down_threshold.thousandths(), current) {
        let wanted = params.scale_down_usage_multiplier.times(usage).max(floor);
        let saved = current.saturating_sub(wanted);
        if saved > 0 && reaches(saved, params.scale_down_min_diff.thousandths(), current) {
            return ThresholdVerdict::Down(wanted);
        }
    }
    ThresholdVerdict::Keep
}

/// `value >= share * of`.
fn reaches(value: u64, thousandths: u16, of: u64) -> bool {
    u128::from(value) * 1000 >= u128::from(of) * u128::from(thousandths)
}

/// `value > share * of`.
fn exceeds(value: u64, thousandths: u16, of: u64) -> bool {
    u128::from(value) * 1000 > u128::from(of) * u128::from(thousandths)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thresholds_act_as_the_manager_documents() {
        let params = ThresholdParams::default();
        for (usage, current, expected) in [
            (799, 1000, ThresholdVerdict::Keep),
            (800, 1000, ThresholdVerdict::Up(1200)),
            (900, 1000, ThresholdVerdict::Up(1260)),
            (301, 1000, ThresholdVerdict::Keep),
            (300, 1000, ThresholdVerdict::Down(750)),
            (0, 1000, ThresholdVerdict::Down(100)),
            (10, 120, ThresholdVerdict::Keep),
        ] {
            assert_eq!(threshold(&params, usage, current, 100), expected, "{usage} of {current}");
        }
    }

    proptest! {
        #[test]
        fn scaling_everything_scales_the_result(usage in 0..100_000_u64, current in 1..100_000_u64, k in 1..1000_u64) {
            let params = ThresholdParams::default();
            let once = threshold(&params, usage * 1000, current * 1000, 0);
            let scaled = threshold(&params, usage * 1000 * k, current * 1000 * k, 0);
            let times = match once {
                ThresholdVerdict::Up(v) => ThresholdVerdict::Up(v * k),
                ThresholdVerdict::Down(v) => ThresholdVerdict::Down(v * k),
                ThresholdVerdict::Keep => ThresholdVerdict::Keep,
            };
            prop_assert_eq!(scaled, times);
        }

        #[test]
        fn more_use_never_means_less(usage in 0..100_000_u64, more in 0..100_000_u64, current in 1..100_000_u64) {
            let params = ThresholdParams::default();
            let size = |usage| match threshold(&params, usage, current, 0) {
                ThresholdVerdict::Up(v) | ThresholdVerdict::Down(v) => v,
                ThresholdVerdict::Keep => current,
            };
            prop_assert!(size(usage) <= size(usage + more));
        }
    }
}
