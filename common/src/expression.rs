//! What a user's formula sees, and who evaluates it: the evaluator brings a parser and lives outside the pure core.

use crate::histogram::MergedHistogram;
use crate::resources::Resource;
use crate::store::Evidence;

/// Evaluates formulas. An implementation bounds length and cost, and answers the same for the same input.
pub trait Expressions {
    /// The value of a formula: cores or bytes.
    ///
    /// # Errors
    /// What is wrong, in words: no number, not finite, an unknown name.
    fn evaluate(&self, source: &str, statistics: &Statistics<'_>) -> Result<f64, String>;
}

/// Refuses every formula: for policies that have none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExpressions;

impl Expressions for NoExpressions {
    fn evaluate(&self, source: &str, _: &Statistics<'_>) -> Result<f64, String> {
        Err(format!("no evaluator for {source:?}"))
    }
}

/// The numbers that a formula may use, of one container.
#[derive(Clone, Copy, Debug)]
pub struct Statistics<'a> {
    /// Evidence within the policy's window.
    pub evidence: &'a Evidence,
    /// Present request and limit of CPU, in cores.
    pub cpu: Present,
    /// Present request and limit of memory, in bytes.
    pub memory: Present,
}

/// What a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Present {
    /// Request; 0 = none.
    pub request: f64,
    /// Limit; 0 = none.
    pub limit: f64,
}

/// Exactly representable: quantities are below 2^53.
#[allow(clippy::cast_precision_loss, reason = "quantities of containers are far below 2^53")]
const fn float(value: u64) -> f64 {
    value as f64
}

impl Statistics<'_> {
    /// Percentile of use, in cores or bytes; `permyriad` as in [`crate::policy::Percentile`]. 0 without data.
    pub fn percentile(&self, resource: Resource, permyriad: u16) -> f64 {
        let permyriad = permyriad.min(10_000);
        match resource {
            Resource::Cpu => cores(self.evidence.cpu_seconds().and_then(|cpu| cpu.quantile(permyriad))),
            Resource::Memory => bytes(self.evidence.memory.quantile(permyriad)),
        }
    }

    /// Highest use.
    pub fn peak(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => cores(self.evidence.cpu_seconds().map(MergedHistogram::max)),
            Resource::Memory => bytes(Some(self.evidence.memory.max())),
        }
    }

    /// Mean use.
    pub fn mean(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => cores(self.evidence.cpu_seconds().and_then(MergedHistogram::mean)),
            Resource::Memory => bytes(self.evidence.memory.mean()),
        }
    }

    /// Number of values.
    pub fn samples(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Cpu => self.evidence.cpu_seconds().map_or(0, MergedHistogram::count),
            Resource::Memory => self.evidence.memory.count(),
        }
    }

    /// Present request and limit.
    pub const fn present(&self, resource: Resource) -> Present {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
        }
    }

    /// Share of CFS periods that were throttled, 0 to 1.
    pub fn throttled(&self) -> f64 {
        float(self.evidence.throttled_share()) / 1000.0
    }

    /// OOM kills within the window.
    pub const fn oom_kills(&self) -> u64 {
        self.evidence.oom_kills
    }
}

fn cores(units: Option<u64>) -> f64 {
    float(units.unwrap_or(0)) / 10_000.0
}

fn bytes(units: Option<u64>) -> f64 {
    float(units.unwrap_or(0)) * 65_536.0
}

/// A formula's value in millicores or bytes, rounded up.
///
/// # Errors
/// When it is no amount.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be within range just before"
)]
pub fn to_amount(resource: Resource, value: f64) -> Result<u64, String> {
    let scaled = match resource {
        // the product of decimal fractions is a little off: 0.1 * 1.1 must not become one millicore more
        Resource::Cpu => (value * 1000.0 - 1e-6).ceil(),
        Resource::Memory => (value - 1e-6).ceil(),
    };
    if scaled.is_finite() && (0.0..9e15).contains(&scaled) {
        Ok(scaled as u64)
    } else {
        Err(format!("{value} is no amount: expected a finite number of {}, 0 or more", unit(resource)))
    }
}

const fn unit(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "cores",
        Resource::Memory => "bytes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_amounts_or_errors() {
        assert_eq!(to_amount(Resource::Cpu, 0.1 * 1.1), Ok(110));
        assert_eq!(to_amount(Resource::Cpu, 0.1101), Ok(111));
        assert_eq!(to_amount(Resource::Memory, 1.5), Ok(2));
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e17] {
            let message = to_amount(Resource::Memory, bad).unwrap_err();
            assert!(message.contains("expected a finite number of bytes"), "{message}");
        }
    }
}
