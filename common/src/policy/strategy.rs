//! How a size comes from evidence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{Factor, Share};
use crate::quantity::Bytes;

/// How a size comes from evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// The policy's percentile of the window times its safety factor.
    #[default]
    Percentile,
    /// Reacts to the share of the request that is used.
    Threshold(ThresholdParams),
    /// Chooses among experts by what each would have cost.
    Adaptive(Objective),
    /// The user's own formulas.
    Expression(ExpressionParams),
}

impl Strategy {
    /// Version of its algorithm: it changes when the same evidence would give another size.
    pub const fn version(&self) -> u32 {
        match self {
            Self::Percentile | Self::Threshold(_) | Self::Adaptive(_) | Self::Expression(_) => 1,
        }
    }
}

/// What the adaptive strategy weighs more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objective {
    /// Small requests.
    Savings,
    /// Between the two.
    #[default]
    Balanced,
    /// Few moments in which usage is above the request.
    Safe,
}

/// Parameters of the threshold strategy. Invariants: `scale_down_threshold < scale_up_threshold`, and neither kind of
/// resize leads straight into the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThresholdParams {
    /// Share of the request from which on a container grows.
    pub scale_up_threshold: Share,
    /// What usage is multiplied with for the larger size; above 1.
    pub scale_up_usage_multiplier: Factor,
    /// What the request is multiplied with at least; at least 1.
    pub scale_up_min_growth: Factor,
    /// Share of the request up to which a container shrinks.
    pub scale_down_threshold: Share,
    /// What usage is multiplied with for the smaller size; above 1.
    pub scale_down_usage_multiplier: Factor,
    /// Smallest decrease, as a share of the request.
    pub scale_down_min_diff: Share,
    /// Time after a resize before a decrease.
    pub cooldown: Duration,
    /// Memory is never recommended below.
    pub min_request_memory: Bytes,
}

impl Default for ThresholdParams {
    /// The defaults of the API.
    fn default() -> Self {
        Self {
            scale_up_threshold: Share(800),
            scale_up_usage_multiplier: Factor(1400),
            scale_up_min_growth: Factor(1200),
            scale_down_threshold: Share(300),
            scale_down_usage_multiplier: Factor(2500),
            scale_down_min_diff: Share(200),
            cooldown: Duration::from_secs(600),
            min_request_memory: Bytes::from_mebibytes(100),
        }
    }
}

impl ThresholdParams {
    /// Checks the invariants.
    ///
    /// # Errors
    /// Everything that is wrong, with the name of the field as users write it.
    pub fn check(&self) -> Result<(), Vec<(&'static str, String)>> {
        let one = 1000;
        let mut wrong = Vec::new();
        let mut expect = |holds: bool, field: &'static str, message: String| {
            if !holds {
                wrong.push((field, message));
            }
        };
        expect(
            self.scale_down_threshold < self.scale_up_threshold,
            "scaleDownThreshold",
            format!(
                "{} is not below scaleUpThreshold {}: expected a smaller share",
                self.scale_down_threshold, self.scale_up_threshold
            ),
        );
        expect(
            self.scale_up_usage_multiplier.thousandths() > one,
            "scaleUpUsageMultiplier",
            format!("{} leaves no room above usage: expected more than 1", self.scale_up_usage_multiplier),
        );
        expect(
            self.scale_up_min_growth.thousandths() >= one,
            "scaleUpMinGrowth",
            format!("{} would shrink what needs more: expected 1 or more", self.scale_up_min_growth),
        );
        let after_decrease = u64::from(self.scale_down_usage_multiplier.thousandths())
            * u64::from(self.scale_up_threshold.thousandths());
        expect(
            after_decrease > 1_000_000,
            "scaleDownUsageMultiplier",
            format!(
                "{} is too small for scaleUpThreshold {}: a container that just shrank would grow again; expected more than {:.3}",
                self.scale_down_usage_multiplier,
                self.scale_up_threshold,
                1000.0 / f64::from(self.scale_up_threshold.thousandths().max(1))
            ),
        );
        let after_increase = u64::from(self.scale_up_usage_multiplier.thousandths())
            * u64::from(self.scale_down_threshold.thousandths());
        expect(
            after_increase < 1_000_000,
            "scaleUpUsageMultiplier",
            format!(
                "{} is too large for scaleDownThreshold {}: a container that just grew would shrink again",
                self.scale_up_usage_multiplier, self.scale_down_threshold
            ),
        );
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// The user's own formulas, in the Common Expression Language. A resource without a formula follows the percentile
/// strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpressionParams {
    /// CPU request in cores.
    pub cpu: Option<String>,
    /// Memory request in bytes.
    pub memory: Option<String>,
}

impl ExpressionParams {
    /// Longest formula that is accepted, in bytes.
    pub const MAX_LENGTH: usize = 512;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_that_would_oscillate_are_named() {
        assert_eq!(ThresholdParams::default().check(), Ok(()));
        let fields = |params: ThresholdParams| -> Vec<&str> {
            params.check().unwrap_err().into_iter().map(|(field, _)| field).collect()
        };
        let d = ThresholdParams::default;
        assert_eq!(
            fields(ThresholdParams { scale_down_threshold: Share(800), ..d() })[0],
            "scaleDownThreshold"
        );
        assert_eq!(
            fields(ThresholdParams { scale_up_usage_multiplier: Factor(1000), ..d() }),
            ["scaleUpUsageMultiplier"]
        );
        assert_eq!(
            fields(ThresholdParams { scale_up_usage_multiplier: Factor(4000), ..d() }),
            ["scaleUpUsageMultiplier"]
        );
        assert_eq!(fields(ThresholdParams { scale_up_min_growth: Factor(999), ..d() }), ["scaleUpMinGrowth"]);
        assert_eq!(
            fields(ThresholdParams { scale_down_usage_multiplier: Factor(1250), ..d() }),
            ["scaleDownUsageMultiplier"]
        );
        assert_eq!(ThresholdParams { scale_down_usage_multiplier: Factor(1251), ..d() }.check(), Ok(()));
    }
}
