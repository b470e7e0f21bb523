//! Messages of the wire become values of the core, and back. Nothing else converts.

use std::collections::BTreeSet;
use std::time::Duration;

use optipod_common::frame::{CgroupLimits, ContainerRecord, Frame, PodRecord};
use optipod_common::histogram::{DecodeError, UsageHistogram};
use optipod_common::ident::{ContainerId, ContainerKey, IdentError, PodUid};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{CgroupFacts, QosClass};
use optipod_common::sample::CpuCounters;
use optipod_common::time::Timestamp;
use thiserror::Error;

use crate::v1;

/// Longest interval that a frame may describe. Agents send at least every 60 s; a longer one is a broken clock.
pub const MAX_FRAME_INTERVAL: Duration = Duration::from_secs(600);

/// Why a frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Epochs and sequences start at 1.
    #[error("{0} is 0: expected 1 or more")]
    Zero(&'static str),
    /// The interval is empty, reversed or too long.
    #[error("interval from {start} to {end} is not between 0 and 600 s long")]
    Interval {
        /// As sent.
        start: Timestamp,
        /// As sent.
        end: Timestamp,
    },
    /// A container id is not 32 bytes.
    #[error("container id has {0} bytes: expected 32")]
    ContainerId(usize),
    /// A pod UID is malformed.
    #[error(transparent)]
    PodUid(#[from] IdentError),
    /// A class that this version does not know.
    #[error("qos_class is {0}: expected 1 (Guaranteed), 2 (Burstable) or 3 (BestEffort)")]
    QosClass(i32),
    /// Each series is always sent, if only empty.
    #[error("{series} of container {container} is missing")]
    MissingSeries {
        /// Field name.
        series: &'static str,
        /// Whose.
        container: ContainerId,
    },
    /// A series is malformed.
    #[error("{series} of container {container}: {error}")]
    Series {
        /// Field name.
        series: &'static str,
        /// Whose.
        container: ContainerId,
        /// What is wrong.
        #[source]
        error: DecodeError,
    },
    /// `cpu.weight` is at most 10,000.
    #[error("cpu_weight is {0}: expected 0 to 10000")]
    CpuWeight(u32),
    /// One record per container and per pod.
    #[error("{0} appears twice")]
    Duplicate(String),
}

impl FrameError {
    /// A short name for metrics.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Zero(_) => "zero",
            Self::Interval { .. } => "interval",
            Self::ContainerId(_) => "container_id",
            Self::PodUid(_) => "pod_uid",
            Self::QosClass(_) => "qos_class",
            Self::MissingSeries { .. } | Self::Series { .. } => "series",
            Self::CpuWeight(_) => "cpu_weight",
            Self::Duplicate(_) => "duplicate",
        }
    }
}

impl From<&Frame> for v1::Frame {
    fn from(frame: &Frame) -> Self {
        Self {
            epoch: frame.epoch,
            sequence: frame.sequence,
            start_unix_micros: frame.start.unix_micros(),
            end_unix_micros: frame.end.unix_micros(),
            sample_hertz: frame.sample_hertz,
            dropped_frames: frame.dropped_frames,
            memory_stall_permille: frame.memory_stall,
            containers: frame.containers.iter().map(container_to_wire).collect(),
            pods: frame.pods.iter().map(pod_to_wire).collect(),
        }
    }
}

impl TryFrom<v1::Frame> for Frame {
    type Error = FrameError;

    fn try_from(frame: v1::Frame) -> Result<Self, FrameError> {
        if frame.epoch == 0 {
            return Err(FrameError::Zero("epoch"));
        }
        if frame.sequence == 0 {
            return Err(FrameError::Zero("sequence"));
        }
        let start = Timestamp::from_unix_micros(frame.start_unix_micros);
        let end = Timestamp::from_unix_micros(frame.end_unix_micros);
        if end <= start || end.since(start) > MAX_FRAME_INTERVAL {
            return Err(FrameError::Interval { start, end });
        }
        let containers =
            frame.containers.into_iter().map(container_from_wire).collect::<Result<Vec<_>, _>>()?;
        let pods = frame.pods.iter().map(pod_from_wire).collect::<Result<Vec<_>, _>>()?;
        let mut keys = BTreeSet::new();
        if let Some(twice) = containers.iter().find(|c| !keys.insert(c.key)) {
            return Err(FrameError::Duplicate(format!("container {}", twice.key.id)));
        }
        let mut keys = BTreeSet::new();
        if let Some(twice) = pods.iter().find(|p| !keys.insert((&p.pod, p.inode))) {
            return Err(FrameError::Duplicate(format!("pod {}", twice.pod)));
        }
        Ok(Self {
            epoch: frame.epoch,
            sequence: frame.sequence,
            start,
            end,
            sample_hertz: frame.sample_hertz,
            dropped_frames: frame.dropped_frames,
            memory_stall: frame.memory_stall_permille.min(1000),
            containers,
            pods,
        })
    }
}

fn container_to_wire(record: &ContainerRecord) -> v1::ContainerRecord {
    v1::ContainerRecord {
        container_id: record.key.id.as_bytes().to_vec(),
        cgroup_inode: record.key.inode,
        pod_uid: record.pod.to_string(),
        qos_class: qos_to_wire(record.qos).into(),
        cpu_tick: Some(series_to_wire(&record.cpu_tick)),
        cpu_second: Some(series_to_wire(&record.cpu_second)),
        memory_working_set: Some(series_to_wire(&record.memory_working_set)),
        memory_total: Some(series_to_wire(&record.memory_total)),
        cpu_usage_micros: record.cpu.usage_micros,
        cfs_periods: record.cpu.periods,
        cfs_throttled_periods: record.cpu.throttled_periods,
        cfs_throttled_micros: record.cpu.throttled_micros,
        oom_kills: record.oom_kills,
        cpu_limit_millicores: record.limits.cpu.map(|c| c.0),
        memory_limit_bytes: record.limits.memory.map(|m| m.0),
        cpu_weight: record.limits.cpu_weight.map_or(0, u32::from),
        ended: record.ended,
        facts: (record.limits.facts != CgroupFacts::default()).then(|| facts_to_wire(&record.limits.facts)),
    }
}

const fn facts_to_wire(facts: &CgroupFacts) -> v1::CgroupFacts {
    v1::CgroupFacts {
        swap: facts.swap,
        memory_qos: facts.memory_qos,
        cpu_burst: facts.cpu_burst,
        cpuset: facts.exclusive_cpus,
        shmem_bytes: facts.shmem.0,
    }
}

/// What an agent can tell; other writers are for the coordinator to see.
const fn facts_from_wire(facts: &v1::CgroupFacts) -> CgroupFacts {
    CgroupFacts {
        swap: facts.swap,
        memory_qos: facts.memory_qos,
        cpu_burst: facts.cpu_burst,
        exclusive_cpus: facts.cpuset,
        foreign_writer: false,
        shmem: Bytes(facts.shmem_bytes),
    }
}

fn container_from_wire(record: v1::ContainerRecord) -> Result<ContainerRecord, FrameError> {
    let length = record.container_id.len();
    let bytes = record.container_id.try_into().map_err(|_| FrameError::ContainerId(length))?;
    let id = ContainerId::from_bytes(bytes);
    let series =
        |series: &'static str, value: Option<v1::Series>| {
            let value = value.ok_or(FrameError::MissingSeries { series, container: id })?;
            let v1::Series { slot_millis, count, sum, max, buckets } = value;
            UsageHistogram::decode(slot_millis, count, sum, max, &buckets)
                .map_err(|error| FrameError::Series { series, container: id, error })
        };
    let cpu_weight = match record.cpu_weight {
        0 => None,
        weight => {
            Some(u16::try_from(weight).ok().filter(|w| *w <= 10_000).ok_or(FrameError::CpuWeight(weight))?)
        }
    };
    Ok(ContainerRecord {
        key: ContainerKey { id, inode: record.cgroup_inode },
        pod: record.pod_uid.parse::<PodUid>()?,
        qos: qos_from_wire(record.qos_class)?,
        cpu_tick: series("cpu_tick", record.cpu_tick)?,
        cpu_second: series("cpu_second", record.cpu_second)?,
        memory_working_set: series("memory_working_set", record.memory_working_set)?,
        memory_total: series("memory_total", record.memory_total)?,
        cpu: CpuCounters {
            usage_micros: record.cpu_usage_micros,
            periods: record.cfs_periods,
            throttled_periods: record.cfs_throttled_periods,
            throttled_micros: record.cfs_throttled_micros,
        },
        oom_kills: record.oom_kills,
        limits: CgroupLimits {
            cpu: record.cpu_limit_millicores.map(MilliCpu),
            memory: record.memory_limit_bytes.map(Bytes),
            cpu_weight,
            facts: record.facts.as_ref().map(facts_from_wire).unwrap_or_default(),
        },
        ended: record.ended,
    })
}

fn pod_to_wire(record: &PodRecord) -> v1::PodRecord {
    v1::PodRecord {
        pod_uid: record.pod.to_string(),
        qos_class: qos_to_wire(record.qos).into(),
        cgroup_inode: record.inode,
        cpu_usage_micros: record.cpu_usage_micros,
        memory_max_bytes: record.memory_max.0,
        oom_kills: record.oom_kills,
        ended: record.ended,
    }
}

fn pod_from_wire(record: &v1::PodRecord) -> Result<PodRecord, FrameError> {
    Ok(PodRecord {
        pod: record.pod_uid.parse::<PodUid>()?,
        qos: qos_from_wire(record.qos_class)?,
        inode: record.cgroup_inode,
        cpu_usage_micros: record.cpu_usage_micros,
        memory_max: Bytes(record.memory_max_bytes),
        oom_kills: record.oom_kills,
        ended: record.ended,
    })
}

fn series_to_wire(histogram: &UsageHistogram) -> v1::Series {
    v1::Series {
        slot_millis: histogram.slot_millis(),
        count: histogram.count(),
        sum: histogram.sum(),
        max: histogram.max(),
        buckets: histogram.encode_buckets(),
    }
}

const fn qos_to_wire(class: QosClass) -> v1::QosClass {
    match class {
        QosClass::Guaranteed => v1::QosClass::Guaranteed,
        QosClass::Burstable => v1::QosClass::Burstable,
        QosClass::BestEffort => v1::QosClass::BestEffort,
    }
}

fn qos_from_wire(class: i32) -> Result<QosClass, FrameError> {
    match v1::QosClass::try_from(class) {
        Ok(v1::QosClass::Guaranteed) => Ok(QosClass::Guaranteed),
        Ok(v1::QosClass::Burstable) => Ok(QosClass::Burstable),
        Ok(v1::QosClass::BestEffort) => Ok(QosClass::BestEffort),
        Ok(v1::QosClass::Unspecified) | Err(_) => Err(FrameError::QosClass(class)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn histogram(slot: u32) -> impl Strategy<Value = UsageHistogram> {
        prop::collection::vec(0..1_000_000_u64, 0..20).prop_map(move |v| UsageHistogram::from_values(slot, v))
    }

    fn container(id: u8) -> impl Strategy<Value = ContainerRecord> {
        let series = (histogram(100), histogram(1000), histogram(1000), histogram(1000));
        let limits = (prop::option::of(any::<u64>()), prop::option::of(any::<u64>()), 0..=10_000_u16);
        (series, limits, any::<[u32; 5]>(), any::<bool>()).prop_map(
            move |(series, limits, numbers, ended)| {
                let [usage, periods, throttled, micros, oom] = numbers.map(u64::from);
                ContainerRecord {
                    key: ContainerKey { id: ContainerId::from_bytes([id; 32]), inode: usage },
                    pod: "d0511cd2-29d2-4215-be0f-f77bc0609d99".parse().unwrap(),
                    qos: QosClass::Burstable,
                    cpu_tick: series.0,
                    cpu_second: series.1,
                    memory_working_set: series.2,
                    memory_total: series.3,
                    cpu: CpuCounters {
                        usage_micros: usage,
                        periods,
                        throttled_periods: throttled,
                        throttled_micros: micros,
                    },
                    oom_kills: oom,
                    limits: CgroupLimits {
                        cpu: limits.0.map(MilliCpu),
                        memory: limits.1.map(Bytes),
                        cpu_weight: Some(limits.2).filter(|w| *w > 0),
                        facts: CgroupFacts {
                            swap: ended,
                            memory_qos: oom % 2 == 0,
                            cpu_burst: usage % 2 == 0,
                            exclusive_cpus: periods % 2 == 0,
                            foreign_writer: false,
                            shmem: Bytes(micros),
                        },
                    },
                    ended,
                }
            },
        )
    }

    fn frame() -> impl Strategy<Value = Frame> {
        (container(1), container(2), 1..u64::MAX, 1..u64::MAX, 1..600_000_000_i64).prop_map(
            |(a, b, epoch, sequence, length)| Frame {
                epoch,
                sequence,
                start: Timestamp::from_unix_micros(1_000_000),
                end: Timestamp::from_unix_micros(1_000_000 + length),
                sample_hertz: 10,
                dropped_frames: 3,
                memory_stall: 70,
                pods: vec![PodRecord {
                    pod: a.pod.clone(),
                    qos: QosClass::Guaranteed,
                    inode: 5,
                    cpu_usage_micros: epoch,
                    memory_max: Bytes(sequence),
                    oom_kills: 1,
                    ended: true,
                }],
                containers: vec![a, b],
            },
        )
    }

    proptest! {
        #[test]
        fn frame_round_trips_through_bytes(frame in frame()) {
            let bytes = v1::Frame::from(&frame).encode_to_vec();
            let back = Frame::try_from(v1::Frame::decode(bytes.as_slice()).unwrap());
            prop_assert_eq!(back, Ok(frame));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = v1::Frame::decode(bytes.as_slice()) {
                let _ = Frame::try_from(message);
            }
        }

        #[test]
        fn damaged_frames_never_panic(frame in frame(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = v1::Frame::from(&frame).encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(message) = v1::Frame::decode(bytes.as_slice()) {
                let _ = Frame::try_from(message);
            }
        }
    }

    #[test]
    fn refusals_name_the_field() {
        let good = v1::Frame {
            epoch: 1,
            sequence: 1,
            start_unix_micros: 1,
            end_unix_micros: 2,
            ..Default::default()
        };
        assert!(Frame::try_from(good.clone()).is_ok());
        let refused = |frame: v1::Frame| Frame::try_from(frame).unwrap_err().to_string();
        assert_eq!(refused(v1::Frame { sequence: 0, ..good.clone() }), "sequence is 0: expected 1 or more");
        assert!(refused(v1::Frame { end_unix_micros: 1, ..good.clone() }).starts_with("interval from"));
        let pod = v1::PodRecord { pod_uid: "x".into(), qos_class: 9, ..Default::default() };
        assert!(refused(v1::Frame { pods: vec![pod.clone()], ..good.clone() }).contains("is not a pod UID"));
        let pod = v1::PodRecord { pod_uid: "d0511cd2-29d2-4215-be0f-f77bc0609d99".into(), ..pod };
        assert!(refused(v1::Frame { pods: vec![pod], ..good.clone() }).starts_with("qos_class is 9"));
        let short = v1::ContainerRecord { container_id: vec![1; 31], ..Default::default() };
        assert_eq!(
            refused(v1::Frame { containers: vec![short], ..good }),
            "container id has 31 bytes: expected 32"
        );
    }
}
