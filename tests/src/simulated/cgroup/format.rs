//! What the files of one cgroup say, as Linux 6.12 writes them. Kernel memory, swap and huge pages are not simulated:
//! their lines are there and zero.

use std::fmt::{self, Write};

use crate::simulated::usage::PERIOD_MICROS;
use crate::simulated::usage::container::CgroupResources;
use crate::simulated::usage::cpu::CpuStat;
use crate::simulated::usage::memory::{Level, MemoryCounters};
use crate::simulated::usage::pressure::Pressure;

/// Share of CPU time that a program spends in the kernel: one in this many microseconds.
const SYSTEM_SHARE: u64 = 5;

/// Everything that the files of one cgroup say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    /// `cpu.stat`.
    pub cpu: CpuStat,
    /// `cpu.pressure`.
    pub cpu_pressure: Pressure,
    /// `memory.current`, bytes.
    pub current: u64,
    /// The same by kind, for `memory.stat`.
    pub memory: Level,
    /// `memory.peak`, bytes.
    pub peak: u64,
    /// `memory.events` and counters of `memory.stat`.
    pub counters: MemoryCounters,
    /// `memory.pressure`.
    pub memory_pressure: Pressure,
    /// `cpu.max`, `cpu.weight`, `memory.max`.
    pub resources: CgroupResources,
    /// `cgroup.events`: something lives in it.
    pub populated: bool,
}

/// One file.
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// Whether two states read the same.
    pub same: fn(&Values, &Values) -> bool,
    /// Appends its text.
    pub write: fn(&Values, &mut String) -> fmt::Result,
}

/// Files that change. `cgroup.events` comes last: a cgroup is complete before anything lives in it.
pub const FILES: [Format; 11] = [
    Format { name: "cpu.stat", same: |a, b| a.cpu == b.cpu, write: |v, f| cpu_stat(&v.cpu, f) },
    Format {
        name: "memory.current",
        same: |a, b| a.current == b.current,
        write: |v, f| writeln!(f, "{}", v.current),
    },
    Format {
        name: "memory.stat",
        same: |a, b| a.memory == b.memory && reclaim(&a.counters) == reclaim(&b.counters),
        write: memory_stat,
    },
    Format { name: "memory.peak", same: |a, b| a.peak == b.peak, write: |v, f| writeln!(f, "{}", v.peak) },
    Format {
        name: "memory.events",
        same: |a, b| events(&a.counters) == events(&b.counters),
        write: |v, f| {
            let (max, oom, kill) = events(&v.counters);
            write!(f, "low 0\nhigh 0\nmax {max}\noom {oom}\noom_kill {kill}\noom_group_kill 0\n")
        },
    },
    Format {
        name: "cpu.pressure",
        same: |a, b| a.cpu_pressure == b.cpu_pressure,
        write: |v, f| write!(f, "{}", v.cpu_pressure),
    },
    Format {
        name: "memory.pressure",
        same: |a, b| a.memory_pressure == b.memory_pressure,
        write: |v, f| write!(f, "{}", v.memory_pressure),
    },
    Format {
        name: "cpu.max",
        same: |a, b| a.resources.cpu_quota_micros == b.resources.cpu_quota_micros,
        write: |v, f| match v.resources.cpu_quota_micros {
            Some(quota) => writeln!(f, "{quota} {PERIOD_MICROS}"),
            None => writeln!(f, "max {PERIOD_MICROS}"),
        },
    },
    Format {
        name: "cpu.weight",
        same: |a, b| a.resources.cpu_weight == b.resources.cpu_weight,
        write: |v, f| writeln!(f, "{}", v.resources.cpu_weight),
    },
    Format {
        name: "memory.max",
        same: |a, b| a.resources.memory_max == b.resources.memory_max,
        write: |v, f| match v.resources.memory_max {
            Some(max) => writeln!(f, "{max}"),
            None => writeln!(f, "max"),
        },
    },
    Format { name: EVENTS, same: |a, b| a.populated == b.populated, write: |v, f| populated(v.populated, f) },
];

/// Tells whether something lives in a cgroup.
pub const EVENTS: &str = "cgroup.events";

/// Files that say the same in every cgroup, for ever.
pub const CONSTANT: [(&str, &str); 2] = [
    ("cpuset.cpus", "\n"),
    (
        "io.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    ),
];

/// `cgroup.events`.
pub fn populated(populated: bool, f: &mut String) -> fmt::Result {
    write!(f, "populated {}\nfrozen 0\n", u8::from(populated))
}

const fn events(counters: &MemoryCounters) -> (u64, u64, u64) {
    (counters.max, counters.oom, counters.oom_kill)
}

const fn reclaim(counters: &MemoryCounters) -> (u64, u64) {
    (counters.reclaimed_pages, counters.refault_pages)
}

fn cpu_stat(cpu: &CpuStat, f: &mut String) -> fmt::Result {
    let system = cpu.usage_micros / SYSTEM_SHARE;
    let user = cpu.usage_micros - system;
    write!(
        f,
        "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\nnice_usec 0\ncore_sched.force_idle_usec 0\n\
         nr_periods {}\nnr_throttled {}\nthrottled_usec {}\nnr_bursts 0\nburst_usec 0\n",
        cpu.usage_micros, cpu.periods, cpu.throttled, cpu.throttled_micros
    )
}

fn memory_stat(values: &Values, f: &mut String) -> fmt::Result {
    let Level { anon, inactive_file, active_file } = values.memory;
    let MemoryCounters { reclaimed_pages, refault_pages, .. } = values.counters;
    write!(
        f,
        "anon {anon}\nfile {file}\nkernel 0\nkernel_stack 0\npagetables 0\nsec_pagetables 0\npercpu 0\nsock 0\n\
         vmalloc 0\nshmem 0\nzswap 0\nzswapped 0\nfile_mapped 0\nfile_dirty 0\nfile_writeback 0\nswapcached 0\n\
         anon_thp 0\nfile_thp 0\nshmem_thp 0\ninactive_anon {anon}\nactive_anon 0\ninactive_file {inactive_file}\n\
         active_file {active_file}\nunevictable 0\nslab_reclaimable 0\nslab_unreclaimable 0\nslab 0\n\
         workingset_refault_anon 0\nworkingset_refault_file {refault_pages}\nworkingset_activate_anon 0\n\
         workingset_activate_file 0\nworkingset_restore_anon 0\nworkingset_restore_file 0\n\
         workingset_nodereclaim 0\npgscan {reclaimed_pages}\npgsteal {reclaimed_pages}\npgscan_kswapd 0\n\
         pgscan_direct {reclaimed_pages}\npgscan_khugepaged 0\npgsteal_kswapd 0\npgsteal_direct {reclaimed_pages}\n\
         pgsteal_khugepaged 0\npgfault 0\npgmajfault {refault_pages}\npgrefill 0\npgactivate 0\npgdeactivate 0\n\
         pglazyfree 0\npglazyfreed 0\nthp_fault_alloc 0\nthp_collapse_alloc 0\n",
        file = inactive_file + active_file,
    )
}

#[cfg(test)]
mod tests {
    use optipod_agent::cgroup::parse;
    use optipod_common::quantity::{Bytes, MilliCpu};
    use optipod_common::sample::CpuCounters;

    use super::*;

    #[test]
    fn agent_reads_back_what_is_written() {
        let values = Values {
            cpu: CpuStat { usage_micros: 27_001, periods: 12, throttled: 3, throttled_micros: 4500 },
            cpu_pressure: Pressure::default(),
            current: 24_576,
            memory: Level { anon: 8192, inactive_file: 4096, active_file: 12_288 },
            peak: 40_960,
            counters: MemoryCounters { max: 9, oom: 2, oom_kill: 1, reclaimed_pages: 7, refault_pages: 5 },
            memory_pressure: Pressure::default(),
            resources: CgroupResources {
                cpu_weight: 79,
                cpu_quota_micros: Some(50_000),
                memory_max: Some(1 << 27),
            },
            populated: true,
        };
        let text = |name: &str| {
            let mut text = String::new();
            let file = FILES.iter().find(|file| file.name == name).unwrap();
            (file.write)(&values, &mut text).unwrap();
            text.into_bytes()
        };
        let expected =
            CpuCounters { usage_micros: 27_001, periods: 12, throttled_periods: 3, throttled_micros: 4500 };
        assert_eq!(parse::cpu_stat(&text("cpu.stat")), Ok(expected));
        assert_eq!(parse::memory_current(&text("memory.current")), Ok(24_576));
        assert_eq!(parse::memory_current(&text("memory.peak")), Ok(40_960));
        assert_eq!(parse::inactive_file(&text("memory.stat")), Ok(4096));
        assert_eq!(parse::oom_kill(&text("memory.events")), Ok(1));
        assert_eq!(parse::cpu_max(&text("cpu.max")), Ok(Some(MilliCpu(500))));
        assert_eq!(parse::cpu_weight(&text("cpu.weight")), Ok(Some(79)));
        assert_eq!(parse::memory_max(&text("memory.max")), Ok(Some(Bytes(1 << 27))));
        assert_eq!(parse::populated(&text("cgroup.events")), Ok(true));
        let unlimited = Values { resources: CgroupResources::UNLIMITED, ..values };
        let mut text = String::new();
        for name in ["cpu.max", "memory.max"] {
            (FILES.iter().find(|file| file.name == name).unwrap().write)(&unlimited, &mut text).unwrap();
        }
        assert_eq!(text, "max 100000\nmax\n");
    }

    #[test]
    fn files_that_read_differently_are_not_the_same() {
        let quiet = Values {
            cpu: CpuStat::default(),
            cpu_pressure: Pressure::default(),
            current: 0,
            memory: Level::default(),
            peak: 0,
            counters: MemoryCounters::default(),
            memory_pressure: Pressure::default(),
            resources: CgroupResources::UNLIMITED,
            populated: false,
        };
        let mut stalled = Pressure::default();
        stalled.some.total_micros = 1;
        let busy = Values {
            cpu: CpuStat { usage_micros: 1, ..CpuStat::default() },
            cpu_pressure: stalled,
            current: 4096,
            memory: Level::anonymous(4096),
            peak: 4096,
            counters: MemoryCounters { oom_kill: 1, ..MemoryCounters::default() },
            memory_pressure: stalled,
            resources: CgroupResources { cpu_weight: 1, cpu_quota_micros: Some(1000), memory_max: Some(1) },
            populated: true,
        };
        for file in &FILES {
            let mut texts = [String::new(), String::new()];
            for (values, text) in [quiet, busy].iter().zip(&mut texts) {
                (file.write)(values, text).unwrap();
                assert!((file.same)(values, values), "{}", file.name);
            }
            assert_ne!(texts[0], texts[1], "{}", file.name);
            assert!(!(file.same)(&quiet, &busy), "{}", file.name);
        }
    }
}
