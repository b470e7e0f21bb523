//! Exponential forgetting in integers, so that every machine computes the same.

/// 1 in the fixed point of a factor.
const ONE: u64 = 1 << 32;
/// ln 2 in that fixed point.
const LN_2: u64 = 2_977_044_472;
/// Terms of the series of e^-y for y < ln 2: the remainder is below 2^-32.
const TERMS: u64 = 11;

/// `2^(-elapsed / half_life)` as a multiplier. A zero half-life forgets everything at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decay {
    factor: u64,
    halvings: u32,
}

impl Decay {
    /// Both in minutes.
    pub fn over(elapsed: u32, half_life: u32) -> Self {
        if half_life == 0 {
            return Self { factor: 0, halvings: 0 };
        }
        let part = (u64::from(elapsed % half_life) << 32) / u64::from(half_life);
        let y = (part * LN_2) >> 32;
        let (mut sum, mut term, mut negative) = (ONE, ONE, true);
        for k in 1..=TERMS {
            term = ((term * y) >> 32) / k;
            sum = if negative { sum - term } else { sum + term };
            negative = !negative;
        }
        Self { factor: sum, halvings: (elapsed / half_life).min(127) }
    }

    /// What is left of `value`, rounded down.
    pub fn of(self, value: u64) -> u64 {
        let left = ((u128::from(value) * u128::from(self.factor)) >> 32) >> self.halvings;
        u64::try_from(left).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_power_of_two(elapsed in 0..100_000_u32, half_life in 1..10_000_u32) {
            let value = 1_u64 << 50;
            let expected = 2_f64.powf(50.0 - f64::from(elapsed) / f64::from(half_life));
            let got = Decay::over(elapsed, half_life).of(value) as f64;
            prop_assert!((got - expected).abs() <= expected * 1e-8 + 1.0, "{got} instead of {expected}");
        }
    }

    #[test]
    fn halves_after_the_half_life_and_forgets_with_none() {
        assert_eq!(Decay::over(240, 240).of(1000), 500);
        assert_eq!(Decay::over(0, 240).of(1000), 1000);
        assert_eq!(Decay::over(1, 0).of(1000), 0);
        assert_eq!(Decay::over(u32::MAX, 1).of(u64::MAX), 0);
    }
}
