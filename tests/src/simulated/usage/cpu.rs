//! CPU time of one container, one CFS period at a time, and how containers share a node's CPUs.
//!
//! Work that arrives in a period is there at its start. The program has as many threads as it ever wanted cores at
//! once, so it runs at most that wide. Under a quota it runs until the quota is used and is throttled for the rest of
//! the period; what it could not do waits for the next period. What has waited for longer than [`PATIENCE`] periods'
//! worth of its threads is given up, as clients give up.
//!
//! `nr_periods` counts as `do_sched_cfs_period_timer` in the kernel's `kernel/sched/fair.c` does: the timer of the
//! quota fires at the end of each period, and stops after one without anything to run, which it still counts.
//! `nr_throttled` counts the periods at whose end the group waited for quota. `throttled_usec` is summed over CPUs.

use super::PERIOD_MICROS;
use super::demand::MICROSECOND_OF_WORK;

/// Periods of all its threads that a program's backlog holds at most: 5 s.
pub const PATIENCE: u64 = 50;

/// What `cpu.stat` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// `usage_usec`.
    pub usage_micros: u64,
    /// `nr_periods`.
    pub periods: u64,
    /// `nr_throttled`.
    pub throttled: u64,
    /// `throttled_usec`.
    pub throttled_micros: u64,
}

impl CpuStat {
    /// Adds what a child counted.
    pub const fn add(&mut self, other: Self) {
        self.usage_micros += other.usage_micros;
        self.periods += other.periods;
        self.throttled += other.throttled;
        self.throttled_micros += other.throttled_micros;
    }
}

/// What happened in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStep {
    /// What the counters gained.
    pub gained: CpuStat,
    /// Time in which a thread that could run waited, microseconds.
    pub some_micros: u64,
    /// Time in which all of them did.
    pub full_micros: u64,
}

/// The CPU side of one container.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// Arrived and not done, microseconds.
    backlog: u64,
    /// Less than a microsecond of work, in nanocores times microseconds.
    fraction: u128,
    threads: u64,
    /// The timer of the quota runs.
    timer: bool,
    given_up: u64,
}

impl Cpu {
    /// Work arrives at the start of a period, in nanocores times microseconds. Returns the CPU time that the program
    /// can use in it, microseconds.
    pub fn arrive(&mut self, work: u128, quota: Option<u64>) -> u64 {
        let work = work + self.fraction;
        self.fraction = work % MICROSECOND_OF_WORK;
        let micros = u64::try_from(work / MICROSECOND_OF_WORK).unwrap_or(u64::MAX);
        self.threads = self.threads.max(micros.div_ceil(PERIOD_MICROS)).max(1);
        self.backlog = self.backlog.saturating_add(micros);
        self.backlog.min(self.width()).min(quota.unwrap_or(u64::MAX))
    }

    /// Ends the period: it got this much of what [`Self::arrive`] returned.
    pub fn serve(&mut self, served: u64, quota: Option<u64>) -> CpuStep {
        let wanted = self.backlog.min(self.width());
        let could = wanted.min(quota.unwrap_or(u64::MAX));
        let served = served.min(could);
        self.backlog -= served;
        let throttled = served == could && could < wanted;
        let limited = quota.is_some();
        let runnable = wanted > 0;
        let mut gained = CpuStat {
            usage_micros: served,
            periods: u64::from(limited && (runnable || self.timer)),
            ..CpuStat::default()
        };
        self.timer = limited && runnable;
        let mut stopped = 0;
        if throttled {
            gained.throttled = 1;
            gained.throttled_micros = self.width() - served;
            stopped = gained.throttled_micros / self.threads;
        }
        // others were on the CPU meanwhile
        let queued = (could - served) / self.threads;
        let full = if self.threads == 1 { stopped + queued } else { stopped };
        let patience = self.width().saturating_mul(PATIENCE);
        self.given_up += self.backlog.saturating_sub(patience);
        self.backlog = self.backlog.min(patience);
        CpuStep {
            gained,
            some_micros: (stopped + queued).min(PERIOD_MICROS),
            full_micros: full.min(PERIOD_MICROS),
        }
    }

    /// Arrived and not done, microseconds.
    pub const fn backlog_micros(&self) -> u64 {
        self.backlog
    }

    /// Arrived and never done, microseconds.
    pub const fn given_up_micros(&self) -> u64 {
        self.given_up
    }

    /// CPU time that its threads have in a period.
    const fn width(&self) -> u64 {
        self.threads * PERIOD_MICROS
    }
}

/// What a container wants of a node's CPUs in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Microseconds.
    pub wanted: u64,
    /// `cpu.weight`, 1 to 10,000.
    pub weight: u64,
    /// What it gets; written by [`share`].
    pub granted: u64,
}

/// Shares `capacity` microseconds by weight, work-conserving: what one does not want, the others get. Grants add up to
/// the capacity or to all that is wanted, whichever is less. The kernel shares level by level (class, pod, container);
/// as the kubelet gives a parent the sum of its children's weights, one level comes to about the same.
pub fn share(capacity: u64, claims: &mut [Claim]) {
    let total: u64 = claims.iter().map(|claim| claim.wanted).sum();
    if total <= capacity {
        for claim in claims {
            claim.granted = claim.wanted;
        }
        return;
    }
    for claim in claims.iter_mut() {
        claim.granted = 0;
    }
    let mut left = capacity;
    loop {
        let open = |claim: &&mut Claim| claim.granted < claim.wanted;
        let weights: u64 = claims.iter_mut().filter(open).map(|claim| claim.weight.max(1)).sum();
        if left == 0 || weights == 0 {
            return;
        }
        let round = left;
        for claim in claims.iter_mut().filter(|claim| claim.granted < claim.wanted) {
            // the last microseconds of a round that weights do not divide go to whoever comes first
            let part = (u128::from(round) * u128::from(claim.weight.max(1)) / u128::from(weights)).max(1);
            let part = u64::try_from(part).unwrap_or(u64::MAX).min(claim.wanted - claim.granted).min(left);
            claim.granted += part;
            left -= part;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Microseconds of work.
    fn micros(count: u64) -> u128 {
        u128::from(count) * MICROSECOND_OF_WORK
    }

    /// Runs periods without competition.
    fn run(cpu: &mut Cpu, arriving: &[u64], quota: Option<u64>) -> CpuStat {
        let mut sum = CpuStat::default();
        for work in arriving {
            let wanted = cpu.arrive(micros(*work), quota);
            sum.add(cpu.serve(wanted, quota).gained);
        }
        sum
    }

    #[test]
    fn every_second_period_is_throttled_when_work_of_one_and_a_half_quotas_comes_every_second_period() {
        let mut cpu = Cpu::default();
        // 30 ms every 200 ms against 20 ms per period
        let arriving: Vec<u64> = [30_000, 0].repeat(500);
        let stat = run(&mut cpu, &arriving, Some(20_000));
        let expected = CpuStat {
            usage_micros: 500 * 30_000,
            periods: 1000,
            throttled: 500,
            throttled_micros: 500 * 80_000,
        };
        assert_eq!(stat, expected);
        assert_eq!((cpu.backlog_micros(), cpu.given_up_micros()), (0, 0));
    }

    #[test]
    fn periods_count_while_there_is_something_to_run_and_once_after_it() {
        let mut cpu = Cpu::default();
        assert_eq!(run(&mut cpu, &[0, 0, 0], Some(50_000)).periods, 0);
        assert_eq!(run(&mut cpu, &[10, 0, 0, 0], Some(50_000)).periods, 2);
        assert_eq!(run(&mut cpu, &[10, 10], None).periods, 0);
    }

    #[test]
    fn throttled_time_is_summed_over_the_threads() {
        let mut cpu = Cpu::default();
        // two and a half cores for a quota of one: three threads run for a third of the period
        let wanted = cpu.arrive(micros(250_000), Some(100_000));
        let step = cpu.serve(wanted, Some(100_000));
        assert_eq!(step.gained.throttled_micros, 200_000);
        assert_eq!((step.some_micros, step.full_micros), (66_666, 66_666));
    }

    #[test]
    fn waiting_for_others_is_pressure_and_not_throttling() {
        let mut cpu = Cpu::default();
        assert_eq!(cpu.arrive(micros(80_000), None), 80_000);
        let step = cpu.serve(20_000, None);
        assert_eq!((step.gained.throttled, step.some_micros), (0, 60_000));
        assert_eq!(cpu.backlog_micros(), 60_000);
    }

    #[test]
    fn capacity_is_shared_by_weight_and_what_is_left_goes_to_who_wants_more() {
        let claim = |wanted, weight| Claim { wanted, weight, granted: 0 };
        let mut claims = [claim(100_000, 100), claim(100_000, 300), claim(5_000, 100)];
        share(105_000, &mut claims);
        assert_eq!(claims.map(|c| c.granted), [25_000, 75_000, 5_000]);
    }

    proptest! {
        #[test]
        fn what_arrives_is_done_waits_or_was_given_up(
            arriving in prop::collection::vec((0_u64..400_000, prop::option::of(1_000_u64..300_000), 0_u64..=100), 1..200),
        ) {
            let mut cpu = Cpu::default();
            let (mut done, mut arrived) = (CpuStat::default(), 0);
            for (work, quota, percent) in arriving {
                arrived += work;
                let wanted = cpu.arrive(micros(work), quota);
                prop_assert!(wanted <= quota.unwrap_or(u64::MAX));
                let step = cpu.serve(wanted * percent / 100, quota);
                prop_assert!(step.gained.usage_micros <= wanted);
                prop_assert!(step.gained.throttled <= step.gained.periods);
                prop_assert!(step.full_micros <= step.some_micros && step.some_micros <= PERIOD_MICROS);
                done.add(step.gained);
                prop_assert_eq!(done.usage_micros + cpu.backlog_micros() + cpu.given_up_micros(), arrived);
                prop_assert!(cpu.backlog_micros() <= PATIENCE * 4 * PERIOD_MICROS);
            }
        }

        #[test]
        fn fractions_of_a_microsecond_are_not_lost(works in prop::collection::vec(0_u128..5_000_000_000, 1..200)) {
            let mut cpu = Cpu::default();
            let mut used = 0;
            for work in &works {
                let wanted = cpu.arrive(*work, None);
                used += cpu.serve(wanted, None).gained.usage_micros;
            }
            prop_assert_eq!(u128::from(used), works.iter().sum::<u128>() / MICROSECOND_OF_WORK);
        }

        #[test]
        fn grants_are_wanted_and_add_up(
            capacity in 0_u64..1_000_000,
            wants in prop::collection::vec((0_u64..500_000, 1_u64..10_000), 0..30),
        ) {
            let mut claims: Vec<Claim> =
                wants.iter().map(|(wanted, weight)| Claim { wanted: *wanted, weight: *weight, granted: 0 }).collect();
            share(capacity, &mut claims);
            prop_assert!(claims.iter().all(|claim| claim.granted <= claim.wanted));
            let wanted: u64 = claims.iter().map(|claim| claim.wanted).sum();
            prop_assert_eq!(claims.iter().map(|claim| claim.granted).sum::<u64>(), wanted.min(capacity));
        }
    }
}
