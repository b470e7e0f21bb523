//! Two readings of cumulative counters become one sample.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::packed::packed_fields;

/// One CPU usage unit of the histograms: 0.1 millicore.
pub const CPU_UNITS_PER_MILLICORE: u64 = 10;
/// One memory usage unit of the histograms: 64 KiB (the batch of the kernel's per-CPU memory counters is of that order).
pub const MEMORY_UNIT_BYTES: u64 = 64 * 1024;

/// Throttled in more periods than this, in thousandths, use is a lower bound of demand. A limit that holds P99.9 of
/// 100 ms throttles 2 periods in a thousand (`tests/BACKTEST.md`), at times several within one frame of 150 periods: three
/// of them are still the noise of a generous limit.
pub const THROTTLED: u64 = 20;

/// `cpu.stat` of one cgroup. Cumulative since the cgroup exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuCounters {
    /// `usage_usec`.
    pub usage_micros: u64,
    /// `nr_periods`: CFS periods that had something to run; 0 without a CPU limit.
    pub periods: u64,
    /// `nr_throttled`.
    pub throttled_periods: u64,
    /// `throttled_usec`.
    pub throttled_micros: u64,
}

packed_fields!(CpuCounters { usage_micros, periods, throttled_periods, throttled_micros });

impl CpuCounters {
    /// What was used between `earlier` and `self`; `None` when any counter went backwards (a reset is no sample,
    /// never a zero).
    pub fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            usage_micros: self.usage_micros.checked_sub(earlier.usage_micros)?,
            periods: self.periods.checked_sub(earlier.periods)?,
            throttled_periods: self.throttled_periods.checked_sub(earlier.throttled_periods)?,
            throttled_micros: self.throttled_micros.checked_sub(earlier.throttled_micros)?,
        })
    }

    /// Share of the periods that were throttled, in thousandths; 0 without a CPU limit.
    pub fn throttled_share(self) -> u64 {
        let share = (u128::from(self.throttled_periods) * 1000).checked_div(self.periods.into());
        u64::try_from(share.unwrap_or(0)).unwrap_or(u64::MAX)
    }

    /// It was throttled in more than [`THROTTLED`] of its periods: use is a lower bound of demand.
    pub fn is_throttled(self) -> bool {
        u128::from(self.throttled_periods) * 1000 > u128::from(self.periods) * u128::from(THROTTLED)
    }

    /// Sum of two deltas; saturates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            usage_micros: self.usage_micros.saturating_add(other.usage_micros),
            periods: self.periods.saturating_add(other.periods),
            throttled_periods: self.throttled_periods.saturating_add(other.throttled_periods),
            throttled_micros: self.throttled_micros.saturating_add(other.throttled_micros),
        }
    }
}

/// Average use over `elapsed` in units of 0.1 millicore, rounded to nearest; `None` when no time passed.
pub fn cpu_units(usage_micros: u64, elapsed: Duration) -> Option<u64> {
    let elapsed = elapsed.as_micros();
    if elapsed == 0 {
        return None;
    }
    let units =
        (u128::from(usage_micros) * u128::from(CPU_UNITS_PER_MILLICORE) * 1000 + elapsed / 2) / elapsed;
    Some(u64::try_from(units).unwrap_or(u64::MAX))
}

/// Bytes in units of 64 KiB, rounded up: a working set is never reported smaller than it is.
pub const fn memory_units(bytes: u64) -> u64 {
    bytes.div_ceil(MEMORY_UNIT_BYTES)
}

/// Working set as the kubelet computes it for eviction: `memory.current - inactive_file`, at least zero
/// (cadvisor `container/libcontainer/handler.go`, `setMemoryStats`).
pub const fn working_set(current: u64, inactive_file: u64) -> u64 {
    current.saturating_sub(inactive_file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counter_that_went_backwards_is_no_sample() {
        let before = CpuCounters { usage_micros: 10, periods: 4, throttled_periods: 2, throttled_micros: 9 };
        assert_eq!(CpuCounters { usage_micros: 9, ..before }.since(before), None);
        assert_eq!(CpuCounters { throttled_micros: 8, ..before }.since(before), None);
        assert_eq!(before.since(before), Some(CpuCounters::default()));
    }

    #[test]
    fn throttled_is_more_than_three_periods_of_a_frame() {
        let of =
            |throttled_periods, periods| CpuCounters { periods, throttled_periods, ..CpuCounters::default() };
        assert_eq!([0, 3, 4].map(|throttled| of(throttled, 150).is_throttled()), [false, false, true]);
        assert_eq!((of(3, 150).throttled_share(), of(0, 0).throttled_share()), (20, 0));
        assert!(of(u64::MAX, u64::MAX).is_throttled() && !of(0, 0).is_throttled());
        assert_eq!(of(u64::MAX, u64::MAX).throttled_share(), 1000);
    }

    #[test]
    fn one_busy_core_is_ten_thousand_units() {
        assert_eq!(cpu_units(100_000, Duration::from_millis(100)), Some(10_000));
        assert_eq!(cpu_units(5, Duration::ZERO), None);
    }

    proptest! {
        #[test]
        fn deltas_add_up(a in 0_u64..1 << 40, b in 0_u64..1 << 20, c in 0_u64..1 << 20) {
            let at = |usage_micros| CpuCounters { usage_micros, ..CpuCounters::default() };
            let first = at(a + b).since(at(a)).unwrap();
            let second = at(a + b + c).since(at(a + b)).unwrap();
            prop_assert_eq!(Some(first.plus(second)), at(a + b + c).since(at(a)));
        }
    }
}
