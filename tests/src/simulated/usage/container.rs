//! One container: demand in, counters out.

use super::cpu::{Claim, Cpu, CpuStat};
use super::demand::{Moment, Source, Usage};
use super::memory::{Level, Memory, MemoryCounters};
use super::pressure::{Pressure, Stalls};
use super::trace::{Library, TraceError};

/// What the kubelet writes into a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupResources {
    /// `cpu.weight`, 1 to 10,000.
    pub cpu_weight: u64,
    /// CPU microseconds per period of 100 ms; `None` = no limit.
    pub cpu_quota_micros: Option<u64>,
    /// `memory.max`, bytes; `None` = no limit.
    pub memory_max: Option<u64>,
}

impl CgroupResources {
    /// As the kernel makes a cgroup.
    pub const UNLIMITED: Self = Self { cpu_weight: 100, cpu_quota_micros: None, memory_max: None };
}

/// What happened to a container in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// CPU counters gained.
    pub cpu: CpuStat,
    /// Memory counters gained.
    pub memory: MemoryCounters,
    /// CPU: time in which something waited, and in which everything did, microseconds.
    pub cpu_stalls: (u64, u64),
    /// The same of memory.
    pub memory_stalls: (u64, u64),
    /// The kernel killed it.
    pub killed: bool,
}

/// A container from its start to its end.
#[derive(Clone, Debug)]
pub struct Container {
    wants_cpu: Source,
    wants_memory: Source,
    wants_cache: Option<Source>,
    /// When it started, periods.
    started: u64,
    resources: CgroupResources,
    alive: bool,
    cpu: Cpu,
    cpu_stat: CpuStat,
    cpu_stalls: Stalls,
    memory: Memory,
    memory_counters: MemoryCounters,
    memory_stalls: Stalls,
}

impl Container {
    /// Starts at a period of the simulation. Noise differs between containers by their `salt`.
    ///
    /// # Errors
    /// When a trace is not there.
    pub fn start(
        usage: &Usage,
        resources: CgroupResources,
        started: u64,
        library: &Library,
        salt: u64,
    ) -> Result<Self, TraceError> {
        let load = |demand, salt| Source::load(demand, library, salt);
        Ok(Self {
            wants_cpu: load(&usage.cpu, salt)?,
            wants_memory: load(&usage.memory, salt)?,
            wants_cache: usage.cache.as_ref().map(|cache| load(cache, salt)).transpose()?,
            started,
            resources,
            alive: true,
            cpu: Cpu::default(),
            cpu_stat: CpuStat::default(),
            cpu_stalls: Stalls::default(),
            memory: Memory::default(),
            memory_counters: MemoryCounters::default(),
            memory_stalls: Stalls::default(),
        })
    }

    /// Period `now` begins: what the container wants of the node's CPUs.
    pub fn claim(&mut self, now: u64) -> Claim {
        if !self.alive {
            return Claim::default();
        }
        let work = self.wants_cpu.work(self.moment(now));
        let wanted = self.cpu.arrive(work, self.resources.cpu_quota_micros);
        Claim { wanted, weight: self.resources.cpu_weight, granted: 0 }
    }

    /// Period `now` ends, with this much CPU time.
    pub fn step(&mut self, now: u64, granted: u64) -> Step {
        if !self.alive {
            return Step::default();
        }
        let moment = self.moment(now);
        let mut wanted = self.wants_memory.level(moment);
        if let Some(cache) = &self.wants_cache {
            wanted = wanted.plus(Level::cache(cache.level(moment).total()));
        }
        let memory = self.memory.step(wanted, self.resources.memory_max);
        let cpu = self.cpu.serve(granted, self.resources.cpu_quota_micros);
        self.cpu_stat.add(cpu.gained);
        self.cpu_stalls.step(cpu.some_micros, cpu.full_micros);
        self.memory_counters.add(memory.gained);
        self.memory_stalls.step(memory.stalled_micros, memory.stalled_micros);
        self.alive = !memory.killed;
        Step {
            cpu: cpu.gained,
            memory: memory.gained,
            cpu_stalls: (cpu.some_micros, cpu.full_micros),
            memory_stalls: (memory.stalled_micros, memory.stalled_micros),
            killed: memory.killed,
        }
    }

    /// New limits, from the next period on.
    pub const fn update(&mut self, resources: CgroupResources) {
        self.resources = resources;
    }

    /// Counters start at zero again.
    pub fn reset_counters(&mut self) {
        self.cpu_stat = CpuStat::default();
        self.memory_counters = MemoryCounters::default();
    }

    /// Whether the kernel has not killed it.
    pub const fn is_alive(&self) -> bool {
        self.alive
    }

    /// Limits in force.
    pub const fn resources(&self) -> CgroupResources {
        self.resources
    }

    /// `cpu.stat`.
    pub const fn cpu_stat(&self) -> CpuStat {
        self.cpu_stat
    }

    /// Memory that it holds.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// `memory.events` and the like.
    pub const fn memory_counters(&self) -> MemoryCounters {
        self.memory_counters
    }

    /// `cpu.pressure`.
    pub const fn cpu_pressure(&self) -> Pressure {
        self.cpu_stalls.pressure()
    }

    /// `memory.pressure`.
    pub const fn memory_pressure(&self) -> Pressure {
        self.memory_stalls.pressure()
    }

    const fn moment(&self, now: u64) -> Moment {
        Moment { age: now.saturating_sub(self.started), now }
    }
}
