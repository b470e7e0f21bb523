//! Decayed logarithmic histogram, buckets 2 % wide: for systems whose own buckets are not published.

/// Width of a bucket.
const RATIO: f64 = 1.02;
/// From a ten-thousandth of the declared size to twenty times as much.
const BUCKETS: usize = 620;
/// Weights grow with time instead of shrinking; beyond this exponent they are scaled down.
const LARGEST_EXPONENT: f64 = 500.0;

/// Weights by value.
#[derive(Debug, Clone)]
pub struct DecayedHistogram {
    lowest: f64,
    /// Seconds; infinite = never forgets.
    half_life: f64,
    /// Exponent that is already divided out.
    reference: f64,
    weights: Vec<f64>,
}

impl DecayedHistogram {
    /// For values around `declared`.
    pub fn new(declared: u64, half_life: f64) -> Self {
        let lowest = (declared as f64 * 1e-4).max(1.0);
        Self { lowest, half_life, reference: 0.0, weights: vec![0.0; BUCKETS] }
    }

    /// Adds one value at a time in seconds since the beginning.
    pub fn add(&mut self, value: f64, now: f64) {
        let mut exponent = now / self.half_life - self.reference;
        if exponent > LARGEST_EXPONENT {
            self.weights.iter_mut().for_each(|weight| *weight *= (-exponent).exp2());
            self.reference += exponent;
            exponent = 0.0;
        }
        let bucket = self.bucket(value);
        if let Some(weight) = self.weights.get_mut(bucket) {
            *weight += exponent.exp2();
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "above 0 and capped")]
    fn bucket(&self, value: f64) -> usize {
        if value <= self.lowest {
            return 0;
        }
        (((value / self.lowest).ln() / RATIO.ln()) as usize + 1).min(BUCKETS - 1)
    }

    /// Upper bound of the bucket in which a share of the weight is reached.
    pub fn quantile(&self, share: f64) -> f64 {
        self.reached(share, |_| 1.0)
    }

    /// As [`Self::quantile`], each value weighted with itself: a share of the *work* fits.
    pub fn load_quantile(&self, share: f64) -> f64 {
        self.reached(share, |top| top)
    }

    fn reached(&self, share: f64, by: impl Fn(f64) -> f64) -> f64 {
        let weighted = || {
            let tops = std::iter::successors(Some(self.lowest), |top| Some(top * RATIO));
            self.weights.iter().zip(tops).map(|(weight, top)| (weight * by(top), top))
        };
        let total: f64 = weighted().map(|(weight, _)| weight).sum();
        let mut sum = 0.0;
        let found = weighted().find(|(weight, _)| {
            sum += weight;
            total > 0.0 && sum >= share * total * (1.0 - 1e-12)
        });
        found.map_or(0.0, |(_, top)| top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut histogram = DecayedHistogram::new(1000, f64::INFINITY);
        (1..=100).for_each(|n| histogram.add(f64::from(n) * 10.0, 0.0));
        let p95 = histogram.quantile(0.95);
        assert!((950.0..=950.0 * RATIO).contains(&p95), "{p95}");
        // half of the work is done above 707
        let load = histogram.load_quantile(0.5);
        assert!((700.0..=730.0).contains(&load), "{load}");
    }

    #[test]
    fn old_values_fade_however_long_it_runs() {
        let mut histogram = DecayedHistogram::new(1000, 60.0);
        histogram.add(1000.0, 0.0);
        (0..100_000).for_each(|minute| histogram.add(10.0, f64::from(minute) * 60.0));
        assert!(histogram.quantile(0.99) < 11.0);
    }
}
