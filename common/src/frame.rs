//! What one node saw in one interval.

use serde::{Deserialize, Serialize};

use crate::histogram::UsageHistogram;
use crate::ident::{ContainerKey, PodUid};
use crate::quantity::{Bytes, MilliCpu};
use crate::resources::{CgroupFacts, QosClass};
use crate::sample::CpuCounters;
use crate::time::Timestamp;

/// A delta: everything in it is about the interval only. Identified by (node, epoch, sequence).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// One run of the agent: unix microseconds of its start.
    pub epoch: u64,
    /// From 1, without gaps.
    pub sequence: u64,
    /// Start of the interval by the agent's clock.
    pub start: Timestamp,
    /// End of the interval; after `start`.
    pub end: Timestamp,
    /// Rate of the sampler, samples per second.
    pub sample_hertz: u32,
    /// Frames of this epoch that the agent had to drop before they were acknowledged.
    pub dropped_frames: u64,
    /// Share of the interval in which some task of the node stalled for memory, in thousandths; 0 where nobody counts.
    pub memory_stall: u32,
    /// One record per container that was seen.
    pub containers: Vec<ContainerRecord>,
    /// One record per pod that was seen.
    pub pods: Vec<PodRecord>,
}

/// One container in one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Which life of which container.
    pub key: ContainerKey,
    /// Pod, from the path.
    pub pod: PodUid,
    /// Class, from the path.
    pub qos: QosClass,
    /// CPU of one tick, units of 0.1 millicore.
    pub cpu_tick: UsageHistogram,
    /// CPU of one second, units of 0.1 millicore.
    pub cpu_second: UsageHistogram,
    /// Working set and what of it is swapped, units of 64 KiB.
    pub memory_working_set: UsageHistogram,
    /// `memory.current` and what is swapped, units of 64 KiB.
    pub memory_total: UsageHistogram,
    /// Growth of the CPU counters.
    pub cpu: CpuCounters,
    /// Growth of `oom_kill` in `memory.events`.
    pub oom_kills: u64,
    /// Limits in force in the cgroup.
    pub limits: CgroupLimits,
    /// The container was gone at the end.
    pub ended: bool,
}

/// What the cgroup enforces, and how, as read from its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// `cpu.max` as millicores, rounded up; `None` for `max`.
    pub cpu: Option<MilliCpu>,
    /// `memory.max`; `None` for `max`.
    pub memory: Option<Bytes>,
    /// `cpu.weight`; `None` when it could not be read.
    pub cpu_weight: Option<u16>,
    /// What it does beside that; what could not be read has its default.
    pub facts: CgroupFacts,
}

/// One pod in one interval, all its containers and its sandbox included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Pod, from the path.
    pub pod: PodUid,
    /// Class, from the path.
    pub qos: QosClass,
    /// Inode of the pod's cgroup.
    pub inode: u64,
    /// Growth of `usage_usec`.
    pub cpu_usage_micros: u64,
    /// Highest reading of `memory.current`, bytes.
    pub memory_max: Bytes,
    /// Growth of `oom_kill`.
    pub oom_kills: u64,
    /// The pod was gone at the end.
    pub ended: bool,
}
