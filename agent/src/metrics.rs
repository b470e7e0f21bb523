//! Every metric of the agent. The table in the README is held against this file by a test.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use optipod_common::frame::{ContainerRecord, Frame};
use optipod_common::ident::ContainerKey;
use optipod_common::sample::{CPU_UNITS_PER_MILLICORE, MEMORY_UNIT_BYTES};
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::ring::RingStatus;

const CONTAINER_LABELS: [&str; 2] = ["pod_uid", "container_id"];
const QUANTILE_LABELS: [&str; 3] = ["pod_uid", "container_id", "quantile"];
/// Quantiles of `optipod_agent_container_cpu_cores`, in 1/10,000.
const QUANTILES: [(&str, u16); 3] = [("0.5", 5000), ("0.99", 9900), ("1", 10_000)];
/// Seconds of one sweep over all containers: from one idle container to a whole tick at 10 Hz.
const SWEEP_BUCKETS: [f64; 9] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.3];
/// Digits of a container id that tell containers of one node apart, as container tools print it.
const SHORT_ID: usize = 12;

/// Handles to all metrics, and their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    per_container: PerContainer,
    containers_shown: Mutex<BTreeMap<ContainerKey, Shown>>,
    max_containers: usize,
    /// Containers beyond the limit of `/metrics`.
    pub containers_hidden: IntGauge,
    /// Container cgroups that are known.
    pub containers: IntGauge,
    /// Pod cgroups that are known.
    pub pods: IntGauge,
    /// Samples per second now.
    pub sample_hertz: IntGauge,
    /// Ticks that came more than half a period late.
    pub late_ticks: IntCounter,
    /// Time of one sweep.
    pub sweep_seconds: Histogram,
    /// Reads that gave no sample although the cgroup is there.
    pub read_errors: IntCounterVec,
    /// Frames made.
    pub frames_produced: IntCounter,
    /// Frames written to a stream, replays included.
    pub frames_sent: IntCounter,
    /// Frames that a leader has in memory.
    pub frames_accepted: IntGauge,
    /// Frames that are in a checkpoint.
    pub frames_durable: IntGauge,
    frames_dropped: IntCounter,
    ring_frames: IntGauge,
    ring_bytes: IntGauge,
    /// 1 while a leader answers.
    pub stream_connected: IntGauge,
    /// Streams and attempts that ended, by reason.
    pub stream_ends: IntCounterVec,
    /// Coordinator's clock minus ours.
    pub clock_offset_seconds: Gauge,
    /// CPU of this process.
    pub own_cpu_seconds: Gauge,
    /// Resident memory of this process.
    pub own_memory_bytes: IntGauge,
    /// Memory charged to the agent's own cgroup, descriptors and page cache included.
    pub own_cgroup_memory_bytes: IntGauge,
    /// Boot time of the node.
    pub host_boot_time_seconds: IntGauge,
    /// Processors of the node.
    pub host_cores: IntGauge,
}

#[derive(Debug)]
struct PerContainer {
    cpu_usage: CounterVec,
    periods: IntCounterVec,
    throttled_periods: IntCounterVec,
    throttled_seconds: CounterVec,
    oom_kills: IntCounterVec,
    working_set: IntGaugeVec,
    cpu_cores: GaugeVec,
}

/// Handles of one container: no lookup by label per frame.
#[derive(Debug)]
struct Shown {
    labels: [String; 2],
    cpu_usage: Counter,
    periods: IntCounter,
    throttled_periods: IntCounter,
    throttled_seconds: Counter,
    oom_kills: IntCounter,
    working_set: IntGauge,
    cpu_cores: [Gauge; 3],
}

/// Makes one metric and registers it.
fn add<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let metric = made.expect("names and labels are constants that a test registers");
    registry.register(Box::new(metric.clone())).expect("each name is registered once, which a test runs");
    metric
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("optipod_agent_{name}"), help)
}

impl PerContainer {
    fn new(r: &Registry) -> Self {
        let labels = &CONTAINER_LABELS;
        Self {
            cpu_usage: add(
                r,
                CounterVec::new(opts("container_cpu_usage_seconds_total", "CPU time used."), labels),
            ),
            periods: add(
                r,
                IntCounterVec::new(
                    opts(
                        "container_cfs_periods_total",
                        "CFS periods that had something to run under a CPU limit.",
                    ),
                    labels,
                ),
            ),
            throttled_periods: add(
                r,
                IntCounterVec::new(
                    opts(
                        "container_cfs_throttled_periods_total",
                        "CFS periods in which the CPU limit was hit.",
                    ),
                    labels,
                ),
            ),
            throttled_seconds: add(
                r,
                CounterVec::new(
                    opts("container_cfs_throttled_seconds_total", "Time throttled by the CPU limit."),
                    labels,
                ),
            ),
            oom_kills: add(
                r,
                IntCounterVec::new(
                    opts("container_oom_kills_total", "Processes killed by the OOM killer."),
                    labels,
                ),
            ),
            working_set: add(
                r,
                IntGaugeVec::new(
                    opts("container_memory_working_set_bytes", "Highest working set in the last frame."),
                    labels,
                ),
            ),
            cpu_cores: add(
                r,
                GaugeVec::new(
                    opts(
                        "container_cpu_cores",
                        "Quantiles of the CPU used per tick in the last frame, cores.",
                    ),
                    &QUANTILE_LABELS,
                ),
            ),
        }
    }

    fn show(&self, record: &ContainerRecord) -> Shown {
        let mut id = record.key.id.to_string();
        id.truncate(SHORT_ID);
        let labels = [record.pod.to_string(), id];
        let [pod, id] = [labels[0].as_str(), labels[1].as_str()];
        let values = &[pod, id];
        Shown {
            cpu_usage: self.cpu_usage.with_label_values(values),
            periods: self.periods.with_label_values(values),
            throttled_periods: self.throttled_periods.with_label_values(values),
            throttled_seconds: self.throttled_seconds.with_label_values(values),
            oom_kills: self.oom_kills.with_label_values(values),
            working_set: self.working_set.with_label_values(values),
            cpu_cores: QUANTILES.map(|(name, _)| self.cpu_cores.with_label_values(&[pod, id, name])),
            labels,
        }
    }

    fn hide(&self, shown: &Shown) {
        let values = [shown.labels[0].as_str(), shown.labels[1].as_str()];
        // cannot fail: the labels were made by `show`
        let _ = self.cpu_usage.remove_label_values(&values);
        let _ = self.periods.remove_label_values(&values);
        let _ = self.throttled_periods.remove_label_values(&values);
        let _ = self.throttled_seconds.remove_label_values(&values);
        let _ = self.oom_kills.remove_label_values(&values);
        let _ = self.working_set.remove_label_values(&values);
        for (name, _) in QUANTILES {
            let _ = self.cpu_cores.remove_label_values(&[values[0], values[1], name]);
        }
    }
}

impl Metrics {
    /// All metrics, at zero. At most `max_containers` containers are shown.
    pub fn new(max_containers: usize) -> Self {
        let registry = Registry::new();
        let r = &registry;
        let int = |name: &str, help: &str| add(r, IntGauge::with_opts(opts(name, help)));
        let count = |name: &str, help: &str| add(r, IntCounter::with_opts(opts(name, help)));
        let build =
            add(r, IntGaugeVec::new(opts("build_info", "1, with the version of the binary."), &["version"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let sweep = opts("sweep_seconds", "Time of one tick over all containers.");
        let sweep = HistogramOpts::from(sweep).buckets(SWEEP_BUCKETS.to_vec());
        Self {
            per_container: PerContainer::new(r),
            containers_shown: Mutex::default(),
            max_containers,
            containers_hidden: int(
                "containers_hidden",
                "Containers that are sampled but beyond the limit of this page.",
            ),
            containers: int("containers", "Container cgroups that are known."),
            pods: int("pods", "Pod cgroups that are known."),
            sample_hertz: int("sample_hertz", "Samples per second now."),
            late_ticks: count("late_ticks_total", "Ticks that came more than half a period late."),
            sweep_seconds: add(r, Histogram::with_opts(sweep)),
            read_errors: add(
                r,
                IntCounterVec::new(
                    opts("read_errors_total", "Reads that gave no sample although the cgroup exists."),
                    &["file"],
                ),
            ),
            frames_produced: count("frames_produced_total", "Frames made."),
            frames_sent: count("frames_sent_total", "Frames written to a stream, replays included."),
            frames_accepted: int(
                "frames_accepted",
                "Highest sequence of this run that a leader has in memory.",
            ),
            frames_durable: int("frames_durable", "Highest sequence of this run that is in a checkpoint."),
            frames_dropped: count(
                "frames_dropped_total",
                "Frames dropped before they were durable, because the ring was full.",
            ),
            ring_frames: int("ring_frames", "Frames kept for replay."),
            ring_bytes: int("ring_bytes", "Encoded bytes of the frames kept for replay."),
            stream_connected: int("stream_connected", "1 while the leader answers."),
            stream_ends: add(
                r,
                IntCounterVec::new(
                    opts("stream_ends_total", "Streams and attempts that ended, by reason."),
                    &["reason"],
                ),
            ),
            clock_offset_seconds: add(
                r,
                Gauge::with_opts(opts(
                    "clock_offset_seconds",
                    "Clock of the coordinator minus ours, at the last handshake.",
                )),
            ),
            own_cpu_seconds: add(r, Gauge::with_opts(opts("own_cpu_seconds", "CPU time of this process."))),
            own_memory_bytes: int("own_memory_bytes", "Resident memory of this process."),
            own_cgroup_memory_bytes: int(
                "own_cgroup_memory_bytes",
                "Memory charged to the cgroup of this container; 0 when unknown.",
            ),
            host_boot_time_seconds: int("host_boot_time_seconds", "Unix time at which the node booted."),
            host_cores: int("host_cores", "Processors of the node."),
            registry,
        }
    }

    /// Adds a frame to the metrics of its containers.
    pub fn observe(&self, frame: &Frame) {
        self.frames_produced.inc();
        let mut shown = self.containers_shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hidden = 0;
        for record in &frame.containers {
            if record.ended {
                if let Some(gone) = shown.remove(&record.key) {
                    self.per_container.hide(&gone);
                }
                continue;
            }
            if !shown.contains_key(&record.key) {
                if shown.len() >= self.max_containers {
                    hidden += 1;
                    continue;
                }
                shown.insert(record.key, self.per_container.show(record));
            }
            if let Some(handles) = shown.get(&record.key) {
                handles.add(record);
            }
        }
        self.containers_hidden.set(hidden);
    }

    /// Shows what the ring holds.
    pub fn observe_ring(&self, status: RingStatus) {
        self.ring_frames.set(i64::try_from(status.frames).unwrap_or(i64::MAX));
        self.ring_bytes.set(i64::try_from(status.bytes).unwrap_or(i64::MAX));
        self.frames_dropped.inc_by(status.dropped.saturating_sub(self.frames_dropped.get()));
    }

    /// The page in the Prometheus text format.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(page)
    }
}

impl Shown {
    fn add(&self, record: &ContainerRecord) {
        self.cpu_usage.inc_by(seconds(record.cpu.usage_micros));
        self.periods.inc_by(record.cpu.periods);
        self.throttled_periods.inc_by(record.cpu.throttled_periods);
        self.throttled_seconds.inc_by(seconds(record.cpu.throttled_micros));
        self.oom_kills.inc_by(record.oom_kills);
        if !record.memory_working_set.is_empty() {
            let bytes = record.memory_working_set.max().saturating_mul(MEMORY_UNIT_BYTES);
            self.working_set.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        for (gauge, (_, permyriad)) in self.cpu_cores.iter().zip(QUANTILES) {
            if let Some(units) = record.cpu_tick.quantile(permyriad) {
                gauge.set(units as f64 / (CPU_UNITS_PER_MILLICORE * 1000) as f64);
            }
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use optipod_common::frame::CgroupLimits;
    use optipod_common::histogram::UsageHistogram;
    use optipod_common::ident::ContainerId;
    use optipod_common::resources::QosClass;
    use optipod_common::sample::CpuCounters;
    use optipod_common::time::Timestamp;

    use super::*;

    fn record(id: u8, ended: bool) -> ContainerRecord {
        ContainerRecord {
            key: ContainerKey { id: ContainerId::from_bytes([id; 32]), inode: 1 },
            pod: "d0511cd2-29d2-4215-be0f-f77bc0609d99".parse().unwrap(),
            qos: QosClass::Burstable,
            cpu_tick: UsageHistogram::from_values(100, [10, 10, 10_000]),
            cpu_second: UsageHistogram::new(1000),
            memory_working_set: UsageHistogram::from_values(1000, [16]),
            memory_total: UsageHistogram::new(1000),
            cpu: CpuCounters { usage_micros: 1_500_000, ..CpuCounters::default() },
            oom_kills: 1,
            limits: CgroupLimits::default(),
            ended,
        }
    }

    fn frame(containers: Vec<ContainerRecord>) -> Frame {
        let end = Timestamp::from_unix_seconds(15);
        let start = end - Duration::from_secs(15);
        Frame {
            epoch: 1,
            sequence: 1,
            start,
            end,
            sample_hertz: 10,
            dropped_frames: 0,
            memory_stall: 0,
            containers,
            pods: vec![],
        }
    }

    fn page(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render().unwrap()).unwrap()
    }

    #[test]
    fn container_is_shown_while_it_lives() {
        let metrics = Metrics::new(500);
        metrics.observe(&frame(vec![record(0xab, false)]));
        metrics.observe(&frame(vec![record(0xab, false)]));
        let text = page(&metrics);
        let labels = r#"container_id="abababababab",pod_uid="d0511cd2-29d2-4215-be0f-f77bc0609d99""#;
        assert!(
            text.contains(&format!("optipod_agent_container_cpu_usage_seconds_total{{{labels}}} 3\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("optipod_agent_container_memory_working_set_bytes{{{labels}}} 1048576\n"))
        );
        assert!(text.contains(&format!("optipod_agent_container_cpu_cores{{{labels},quantile=\"1\"}} 1\n")));
        metrics.observe(&frame(vec![record(0xab, true)]));
        assert!(!page(&metrics).contains("abababababab"));
    }

    #[test]
    fn containers_beyond_the_limit_are_counted() {
        let metrics = Metrics::new(1);
        metrics.observe(&frame(vec![record(1, false), record(2, false), record(3, false)]));
        let text = page(&metrics);
        assert!(text.contains("optipod_agent_containers_hidden 2\n"));
        assert!(!text.contains("020202020202"));
    }

    #[test]
    fn readme_names_every_metric() {
        let metrics = Metrics::new(1);
        metrics.observe(&frame(vec![record(1, false)]));
        metrics.read_errors.with_label_values(&["cpu.stat"]).inc();
        metrics.stream_ends.with_label_values(&["refused"]).inc();
        let readme = include_str!("../README.md");
        for family in metrics.registry.gather() {
            assert!(
                readme.contains(&format!("`{}`", family.name())),
                "{} is not in README.md",
                family.name()
            );
        }
    }
}
