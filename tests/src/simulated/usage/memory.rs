//! Memory of one container: what it wants, what `memory.max` leaves of it, and what the kernel does about the rest.
//!
//! Anonymous memory is kept until the program gives it back; page cache is taken first, inactive before active. When
//! anonymous memory alone exceeds `memory.max`, the OOM killer ends the container. A program that finds less cache
//! than it reads from, reads it again: a tenth of what is missing in each period (all of it in a second), for which
//! it waits at [`REFAULT_BYTES_PER_SECOND`]. Sizes are whole pages, rounded up.

use super::PERIOD_MICROS;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Speed at which page cache that was reclaimed is read again: a good network disk.
pub const REFAULT_BYTES_PER_SECOND: u64 = 256 << 20;
/// Periods in which the whole missing cache is read again.
const REFAULT_PERIODS: u64 = 10;

/// Memory by kind, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Of the program itself: cannot be reclaimed without swap.
    pub anon: u64,
    /// Page cache that is reclaimed first.
    pub inactive_file: u64,
    /// Page cache that is reclaimed next.
    pub active_file: u64,
}

impl Level {
    /// Anonymous memory only.
    pub const fn anonymous(bytes: u64) -> Self {
        Self { anon: bytes, inactive_file: 0, active_file: 0 }
    }

    /// Inactive page cache only.
    pub const fn cache(bytes: u64) -> Self {
        Self { anon: 0, inactive_file: bytes, active_file: 0 }
    }

    /// All of it: `memory.current`.
    pub const fn total(self) -> u64 {
        self.anon + self.inactive_file + self.active_file
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            anon: self.anon.saturating_add(other.anon),
            inactive_file: self.inactive_file.saturating_add(other.inactive_file),
            active_file: self.active_file.saturating_add(other.active_file),
        }
    }

    /// A percentage of it, rounded down.
    #[must_use]
    pub fn scaled(self, percent: u32) -> Self {
        let scale = |bytes: u64| bytes.saturating_mul(percent.into()) / 100;
        Self {
            anon: scale(self.anon),
            inactive_file: scale(self.inactive_file),
            active_file: scale(self.active_file),
        }
    }

    /// Whole pages, rounded up.
    #[must_use]
    pub const fn in_pages(self) -> Self {
        Self {
            anon: self.anon.next_multiple_of(PAGE),
            inactive_file: self.inactive_file.next_multiple_of(PAGE),
            active_file: self.active_file.next_multiple_of(PAGE),
        }
    }
}

/// What memory files say beyond the level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCounters {
    /// `max` of `memory.events`: periods in which the limit was in the way.
    pub max: u64,
    /// `oom` of `memory.events`.
    pub oom: u64,
    /// `oom_kill` of `memory.events`.
    pub oom_kill: u64,
    /// `pgscan` and `pgsteal` of `memory.stat`: pages reclaimed.
    pub reclaimed_pages: u64,
    /// `workingset_refault_file` of `memory.stat`: pages of cache read again.
    pub refault_pages: u64,
}

impl MemoryCounters {
    /// Adds what a child counted.
    pub const fn add(&mut self, other: Self) {
        self.max += other.max;
        self.oom += other.oom;
        self.oom_kill += other.oom_kill;
        self.reclaimed_pages += other.reclaimed_pages;
        self.refault_pages += other.refault_pages;
    }
}

/// What happened in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStep {
    /// What the counters gained.
    pub gained: MemoryCounters,
    /// Time spent waiting for memory, microseconds.
    pub stalled_micros: u64,
    /// The kernel killed the container.
    pub killed: bool,
}

/// The memory side of one container.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    held: Level,
    peak: u64,
}

impl Memory {
    /// The program wants this at the start of a period.
    pub fn step(&mut self, wanted: Level, max: Option<u64>) -> MemoryStep {
        let wanted = wanted.in_pages();
        let max = max.map_or(u64::MAX, |max| max - max % PAGE);
        if wanted.anon > max {
            self.held = Level::default();
            self.peak = self.peak.max(max);
            let gained = MemoryCounters { max: 1, oom: 1, oom_kill: 1, ..MemoryCounters::default() };
            return MemoryStep { gained, killed: true, stalled_micros: 0 };
        }
        let room = max - wanted.anon;
        let active_file = wanted.active_file.min(room);
        let inactive_file = wanted.inactive_file.min(room - active_file);
        let held = Level { anon: wanted.anon, inactive_file, active_file };
        let missing = wanted.total() - held.total();
        let before = std::mem::replace(&mut self.held, held);
        self.peak = self.peak.max(held.total());
        if missing == 0 {
            return MemoryStep::default();
        }
        let refault_pages = (missing / PAGE).div_ceil(REFAULT_PERIODS);
        let pushed_out = (before.total() - before.anon).saturating_sub(held.total() - held.anon) / PAGE;
        let gained = MemoryCounters {
            max: 1,
            reclaimed_pages: refault_pages + pushed_out,
            refault_pages,
            ..MemoryCounters::default()
        };
        let micros = u128::from(refault_pages * PAGE) * 1_000_000 / u128::from(REFAULT_BYTES_PER_SECOND);
        let stalled_micros = u64::try_from(micros).unwrap_or(u64::MAX).min(PERIOD_MICROS);
        MemoryStep { gained, stalled_micros, killed: false }
    }

    /// What it holds.
    pub const fn held(&self) -> Level {
        self.held
    }

    /// The most that it ever held, bytes.
    pub const fn peak(&self) -> u64 {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn cache_is_taken_before_the_program_is_killed() {
        let mut memory = Memory::default();
        let wanted = |anon: u64| Level { anon: anon * MIB, inactive_file: 40 * MIB, active_file: 20 * MIB };
        let max = Some(100 * MIB);
        assert_eq!(memory.step(wanted(30), max), MemoryStep::default());
        assert_eq!(memory.held().total(), 90 * MIB);
        let step = memory.step(wanted(60), max);
        assert_eq!(memory.held(), Level { anon: 60 * MIB, inactive_file: 20 * MIB, active_file: 20 * MIB });
        assert_eq!((step.gained.max, step.killed), (1, false));
        // 20 MiB are missing: 2 MiB are read again, and 20 MiB were pushed out
        assert_eq!((step.gained.refault_pages, step.gained.reclaimed_pages), (512, 512 + 5120));
        assert_eq!(step.stalled_micros, 7812);
        memory.step(wanted(95), max);
        assert_eq!(memory.held(), Level { anon: 95 * MIB, inactive_file: 0, active_file: 5 * MIB });
        let step = memory.step(wanted(101), max);
        assert_eq!((step.killed, step.gained.oom, step.gained.oom_kill), (true, 1, 1));
        assert_eq!((memory.held().total(), memory.peak()), (0, 100 * MIB));
    }

    #[test]
    fn sizes_are_whole_pages() {
        let mut memory = Memory::default();
        memory.step(Level::anonymous(1), None);
        assert_eq!(memory.held().total(), PAGE);
        assert!(memory.step(Level::anonymous(PAGE + 1), Some(2 * PAGE - 1)).killed);
    }

    proptest! {
        #[test]
        fn memory_never_exceeds_its_limit_and_gets_what_fits(
            steps in prop::collection::vec((0_u64..200, 0_u64..200, 0_u64..200, prop::option::of(1_u64..300)), 1..50),
        ) {
            let mut memory = Memory::default();
            for (anon, inactive_file, active_file, max) in steps {
                let wanted = Level { anon: anon * PAGE, inactive_file: inactive_file * PAGE, active_file: active_file * PAGE };
                let max = max.map(|max| max * PAGE);
                let step = memory.step(wanted, max);
                prop_assert!(memory.held().total() <= max.unwrap_or(u64::MAX));
                prop_assert!(memory.peak() >= memory.held().total());
                prop_assert!(step.stalled_micros <= PERIOD_MICROS);
                prop_assert_eq!(step.killed, wanted.anon > max.unwrap_or(u64::MAX));
                if !step.killed {
                    prop_assert_eq!(memory.held().total(), wanted.total().min(max.unwrap_or(u64::MAX)));
                    prop_assert_eq!(memory.held().anon, wanted.anon);
                    prop_assert!(memory.held().inactive_file == 0 || memory.held().active_file == wanted.active_file);
                }
            }
        }
    }
}
