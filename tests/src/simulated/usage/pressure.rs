//! Pressure stall information of one cgroup and one resource, as `kernel/sched/psi.c` accounts for it.
//!
//! `total` grows by the stalled time. The averages are brought up to date every two seconds (`PSI_FREQ`): the share of
//! the last two seconds, in percent and in fixed point, goes into a running mean with the kernel's constants for 10,
//! 60 and 300 seconds (`calc_avgs`, and `calc_load` of `include/linux/sched/loadavg.h`).

use std::fmt;

use super::PERIOD_MICROS;

/// Bits behind the point.
const FSHIFT: u32 = 11;
const FIXED_1: u64 = 1 << FSHIFT;
/// 1/e^(2s/10s), 1/e^(2s/60s), 1/e^(2s/300s) in fixed point.
const DECAY: [u64; 3] = [1677, 1981, 2034];
/// Periods between two updates of the averages.
const UPDATE_PERIODS: u64 = 20;

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Percent of 10, 60 and 300 seconds, in fixed point.
    averages: [u64; 3],
    /// Microseconds.
    pub total_micros: u64,
}

/// Both lines of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Something waited.
    pub some: Line,
    /// Everything waited.
    pub full: Line,
}

/// A [`Pressure`] that is kept up to date.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stalls {
    pressure: Pressure,
    /// Totals at the last update of the averages.
    base: (u64, u64),
    periods: u64,
}

impl Stalls {
    /// A period ends in which something was stalled for `some` microseconds, and everything for `full`.
    pub fn step(&mut self, some: u64, full: u64) {
        let Self { pressure, base, periods } = self;
        pressure.some.total_micros += some;
        pressure.full.total_micros += full;
        *periods += 1;
        if *periods == UPDATE_PERIODS {
            *periods = 0;
            pressure.some.update(base.0);
            pressure.full.update(base.1);
            *base = (pressure.some.total_micros, pressure.full.total_micros);
        }
    }

    /// What the file says.
    pub const fn pressure(&self) -> Pressure {
        self.pressure
    }
}

impl Line {
    fn update(&mut self, base: u64) {
        let length = UPDATE_PERIODS * PERIOD_MICROS;
        let percent = (self.total_micros - base).min(length) * 100 / length * FIXED_1;
        for (average, decay) in self.averages.iter_mut().zip(DECAY) {
            let mut load = *average * decay + percent * (FIXED_1 - decay);
            if percent >= *average {
                load += FIXED_1 - 1;
            }
            *average = load / FIXED_1;
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (average, seconds) in self.averages.iter().zip([10, 60, 300]) {
            let (whole, hundredths) = (average >> FSHIFT, ((average & (FIXED_1 - 1)) * 100) >> FSHIFT);
            write!(f, "avg{seconds}={whole}.{hundredths:02} ")?;
        }
        write!(f, "total={}", self.total_micros)
    }
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "some {}\nfull {}\n", self.some, self.full)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_stalled_reads_as_on_an_idle_machine() {
        let line = "avg10=0.00 avg60=0.00 avg300=0.00 total=0";
        assert_eq!(Pressure::default().to_string(), format!("some {line}\nfull {line}\n"));
    }

    #[test]
    fn averages_go_towards_the_share_and_back() {
        let mut stalls = Stalls::default();
        (0..600).for_each(|_| stalls.step(PERIOD_MICROS / 2, 0));
        // after 60 s of 50 %: all of it in 10 s, 1 - 1/e of it in 60 s, 1 - e^(-1/5) of it in 300 s
        let [ten, sixty, three_hundred] = stalls.pressure().some.averages.map(|a| a as f64 / FIXED_1 as f64);
        assert!((ten - 50.0).abs() < 0.5, "{ten}");
        assert!((sixty - 31.6).abs() < 1.0, "{sixty}");
        assert!((three_hundred - 9.1).abs() < 1.0, "{three_hundred}");
        assert_eq!(stalls.pressure().some.total_micros, 30_000_000);
        assert_eq!(stalls.pressure().full, Line::default());
        (0..600).for_each(|_| stalls.step(0, 0));
        assert!(stalls.pressure().some.to_string().starts_with("avg10=0."), "{}", stalls.pressure().some);
    }

    proptest! {
        #[test]
        fn averages_stay_between_zero_and_a_hundred_and_totals_grow(
            stalled in prop::collection::vec((0..=PERIOD_MICROS, 0_u64..=100), 0..300),
        ) {
            let mut stalls = Stalls::default();
            for (some, percent) in stalled {
                let before = stalls.pressure();
                stalls.step(some, some * percent / 100);
                let now = stalls.pressure();
                prop_assert_eq!(now.some.total_micros, before.some.total_micros + some);
                prop_assert!(now.full.total_micros <= now.some.total_micros);
                prop_assert!(now.some.averages.iter().all(|average| *average <= 100 * FIXED_1));
            }
        }
    }
}
