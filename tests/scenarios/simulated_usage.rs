//! Simulated containers as the real agent sees them: traces in, histograms out, exactly; throttling, OOM kills, resets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]
#![allow(clippy::indexing_slicing, reason = "a missing element fails the test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use optipod_agent::cgroup::parse;
use optipod_agent::cgroup::reader::{Buffer, CgroupDir};
use optipod_agent::discover::Discovery;
use optipod_agent::metrics::Metrics as AgentMetrics;
use optipod_agent::ring::{Ring, RingLimits};
use optipod_agent::sampler::{Now, Sampler, SamplerOptions};
use optipod_common::frame::{CgroupLimits, ContainerRecord, Frame};
use optipod_common::histogram::UsageHistogram;
use optipod_common::ident::ContainerId;
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::QosClass;
use optipod_common::sample::CpuCounters;
use optipod_common::store::Evidence;
use optipod_common::time::Timestamp;
use optipod_coordinator::engine::Engine;
use optipod_coordinator::index::Change;
use optipod_coordinator::ingest::IngestService;
use optipod_coordinator::lease::Leadership;
use optipod_coordinator::metrics::Metrics;
use optipod_proto::v1;
use optipod_tests::simulated::agents::{AgentOptions, Agents};
use optipod_tests::simulated::clock::Wall;
use optipod_tests::simulated::faults::{Board, Fault, Kind, Nodes};
use optipod_tests::simulated::runtime::{CgroupResources, ContainerSpec, Exit, ExitReason, Runtime};
use prost::Message as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use support::{applied, container_id, engine, key, nothing_exists, pod_uid};

const MIB: u64 = 1 << 20;
const SANDBOX_MEMORY: u64 = 300 << 10;
const SANDBOX_CPU: u64 = 15_000;
const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

// ---------------------------------------------------------------------------------------------------------------------
// A node and the sampler of a real agent

fn limits(cpu_quota_micros: Option<u64>, memory_max: Option<u64>) -> CgroupResources {
    CgroupResources { cpu_weight: 100, cpu_quota_micros, memory_max }
}

fn spec(pod: u8, name: &str, id: u8, usage: &str, resources: CgroupResources) -> ContainerSpec {
    ContainerSpec {
        pod_uid: pod_uid(pod),
        qos: QosClass::Burstable,
        name: name.to_owned(),
        id: container_id(id),
        usage: usage.parse().unwrap(),
        resources,
    }
}

struct Node {
    folder: TempDir,
    runtime: Runtime,
    sampler: Sampler,
    ring: Ring,
    now: Duration,
    step: Duration,
    exits: Vec<Exit>,
}

impl Node {
    /// A node that is sampled at every step.
    fn new(hertz: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(folder.path(), 1).unwrap();
        let options = SamplerOptions {
            epoch: 1,
            hertz,
            frame_interval: seconds(15),
            cpu_budget_millicores: 0,
            reading_clock: None,
        };
        let sampler =
            Sampler::new(options, Discovery::new(folder.path()).unwrap(), Arc::new(AgentMetrics::new(10)));
        let ring = Ring::new(RingLimits { window: seconds(1_000_000), bytes: 1 << 30 });
        let step = seconds(1) / hertz;
        Self { folder, runtime, sampler, ring, now: Duration::ZERO, step, exits: Vec::new() }
    }

    /// Starts a pod of one container, with the number of both.
    fn run(&self, number: u8, usage: &str, resources: CgroupResources) {
        self.runtime.start_pod(&pod_uid(number), QosClass::Burstable, resources).unwrap();
        self.runtime.start(spec(number, "app", number, usage, resources)).unwrap();
    }

    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += self.step;
            self.exits.extend(self.runtime.advance(self.now).unwrap());
            let frame = self.sampler.tick(self.clocks());
            if let Some(frame) = frame {
                self.ring.push(frame);
            }
        }
    }

    fn clocks(&self) -> Now {
        Now { monotonic: self.now, wall: START + self.now, own_cpu: Duration::ZERO }
    }

    /// Everything that was sampled so far, after the way over the wire.
    fn frames(&mut self) -> Vec<Frame> {
        let last = self.sampler.flush(self.clocks());
        if let Some(last) = last {
            self.ring.push(last);
        }
        let newest = self.ring.status().newest;
        let decoded = |sequence| {
            let (_, bytes) = self.ring.at_or_after(sequence).unwrap();
            Frame::try_from(v1::Frame::decode(&*bytes).unwrap()).unwrap()
        };
        (1..=newest).map(decoded).collect()
    }

    fn file(&self, path: &str) -> String {
        fs::read_to_string(self.folder.path().join("kubepods.slice").join(path)).unwrap()
    }
}

fn scope(id: ContainerId) -> String {
    format!("cri-containerd-{id}.scope")
}

fn pod_slice(number: u8) -> String {
    let uid = pod_uid(number).replace('-', "_");
    format!("kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice")
}

/// What all frames say about one container.
#[derive(Debug, PartialEq, Eq)]
struct Sampled {
    cpu_tick: UsageHistogram,
    cpu_second: UsageHistogram,
    working_set: UsageHistogram,
    total: UsageHistogram,
    cpu: CpuCounters,
    oom_kills: u64,
}

fn sampled(frames: &[Frame], id: ContainerId) -> Sampled {
    let records: Vec<&ContainerRecord> =
        frames.iter().flat_map(|frame| &frame.containers).filter(|record| record.key.id == id).collect();
    let merged = |series: fn(&ContainerRecord) -> &UsageHistogram| {
        let mut sum = UsageHistogram::new(series(records[0]).slot_millis());
        for record in &records {
            sum.merge(series(record)).unwrap();
        }
        sum
    };
    Sampled {
        cpu_tick: merged(|record| &record.cpu_tick),
        cpu_second: merged(|record| &record.cpu_second),
        working_set: merged(|record| &record.memory_working_set),
        total: merged(|record| &record.memory_total),
        cpu: records.iter().fold(CpuCounters::default(), |sum, record| sum.plus(record.cpu)),
        oom_kills: records.iter().map(|record| record.oom_kills).sum(),
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Trace in, histogram out

/// CPU microseconds used, and memory bytes (all, working set), at milliseconds since the container's start.
struct Truth {
    used: Box<dyn Fn(u64) -> u64>,
    memory: Box<dyn Fn(u64) -> (u64, u64)>,
}

/// What an agent that reads at every step must have: its first reading is after one step, and only the base. The last
/// period of 100 ms shows the memory of its start.
fn expected(truth: &Truth, step: u64, end: u64) -> Sampled {
    let units = |micros: u64, millis: u64| (micros * 10 + millis / 2) / millis;
    let used = |from: u64, to: u64| units((truth.used)(to) - (truth.used)(from), to - from);
    let ticks = (step..end).step_by(usize::try_from(step).unwrap());
    let seconds: Vec<u64> = (step..=end - 1000).step_by(1000).collect();
    let memory: Vec<(u64, u64)> = seconds.iter().map(|from| (truth.memory)(from + 1000 - 100)).collect();
    let unit = 64 << 10;
    Sampled {
        cpu_tick: UsageHistogram::from_values(
            u32::try_from(step).unwrap(),
            ticks.map(|from| used(from, from + step)),
        ),
        cpu_second: UsageHistogram::from_values(1000, seconds.iter().map(|from| used(*from, from + 1000))),
        working_set: UsageHistogram::from_values(1000, memory.iter().map(|(_, bytes)| bytes.div_ceil(unit))),
        total: UsageHistogram::from_values(1000, memory.iter().map(|(bytes, _)| bytes.div_ceil(unit))),
        cpu: CpuCounters { usage_micros: (truth.used)(end) - (truth.used)(step), ..CpuCounters::default() },
        oom_kills: 0,
    }
}

#[track_caller]
fn gives_its_own_histograms(usage: &str, truth: &Truth, length: u64) {
    for hertz in [10_u32, 2, 1] {
        let mut node = Node::new(hertz);
        node.run(1, usage, limits(None, None));
        node.advance(seconds(length));
        let step = u64::from(1000 / hertz);
        let found = sampled(&node.frames(), container_id(1));
        assert_eq!(found, expected(truth, step, length * 1000), "{usage} at {hertz} Hz");
    }
}

/// Columns of a recorded file, times ten to the power of `places`: read without the code under test.
fn columns(file: &str, names: &[&str], places: u32) -> Vec<Vec<u64>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/traces").join(file);
    let mut text = String::new();
    GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let indexes: Vec<usize> = names
        .iter()
        .map(|name| header.trim_end().split(',').position(|column| column == *name).unwrap())
        .collect();
    let fixed = |cell: &str| {
        let (whole, fraction) = cell.split_once('.').unwrap_or((cell, ""));
        let fraction = format!("{fraction:0<width$}", width = places as usize);
        format!("{whole}{fraction}").parse::<u64>().unwrap()
    };
    let cells = |index: &usize| {
        rows.lines().map(|row| fixed(row.split(',').nth(*index).unwrap())).collect::<Vec<u64>>()
    };
    indexes.iter().map(cells).collect()
}

fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096)
}

#[test]
fn recorded_seconds_come_out_as_they_went_in() {
    for series in ["nodeapi", "javaapi", "batch", "leaky"] {
        let cpu = columns("recorded-1s.csv.gz", &[&format!("{series}_cpu_cores")], 5).remove(0);
        let memory = columns("recorded-1s.csv.gz", &[&format!("{series}_ws_mib_max")], 2).remove(0);
        let row = |millis: u64| usize::try_from(millis / 1000).unwrap();
        let truth = Truth {
            // 0.00001 cores are 10 microseconds a second
            used: Box::new(move |at| {
                cpu[..row(at)].iter().sum::<u64>() * 10 + cpu[row(at)] * (at % 1000) / 100
            }),
            memory: Box::new(move |at| {
                let bytes = pages((memory[row(at)] * MIB + 50) / 100);
                (bytes, bytes)
            }),
        };
        let usage = format!("cpu=trace(recorded-1s/{series}) memory=trace(recorded-1s/{series})");
        gives_its_own_histograms(&usage, &truth, 120);
    }
}

#[test]
fn recorded_hundredths_of_a_second_come_out_as_they_went_in() {
    for series in ["redis", "postgres"] {
        let mut cpu = columns("recorded-cpu-100hz.csv.gz", &["delta_t_us", &format!("{series}_cpu_us")], 0);
        let (used, times) = (cpu.pop().unwrap(), cpu.pop().unwrap());
        let cumulative = |deltas: Vec<u64>| {
            deltas.into_iter().scan(0, |sum, delta| {
                *sum += delta;
                Some(*sum)
            })
        };
        let times: Vec<u64> = cumulative(times).collect();
        let used: Vec<u64> = cumulative(used).collect();
        let names = ["current", "rss", "inactive_file"].map(|part| format!("{series}_{part}_kib"));
        let mut memory =
            columns("recorded-memory-10hz.csv.gz", &["delta_t_us", &names[0], &names[1], &names[2]], 0);
        let memory_times: Vec<u64> = cumulative(memory.remove(0)).collect();
        let truth = Truth {
            used: Box::new(move |at| {
                let at = at * 1000;
                let next = times.partition_point(|time| *time <= at);
                let (from, to) = (times[next - 1], times[next]);
                used[next - 1] + (used[next] - used[next - 1]) * (at - from) / (to - from)
            }),
            memory: Box::new(move |at| {
                let row = memory_times.partition_point(|time| *time <= at * 1000) - 1;
                let [current, rss, inactive] = [0, 1, 2].map(|part| memory[part][row] << 10);
                let parts = [inactive, rss, current - inactive - rss].map(pages);
                (parts.iter().sum(), parts[1] + parts[2])
            }),
        };
        let usage =
            format!("cpu=trace(recorded-cpu-100hz/{series}) memory=trace(recorded-memory-10hz/{series})");
        gives_its_own_histograms(&usage, &truth, 60);
    }
}

#[test]
fn synthetic_shapes_come_out_as_they_went_in() {
    let constant = |bytes: u64| Box::new(move |_: u64| (bytes, bytes));
    // 100 ms of 50m are 5 ms, of 800m 80 ms
    let square = Truth {
        used: Box::new(|at| {
            let (rounds, rest) = (at / 4000, at % 4000);
            rounds * 1_700_000 + rest.min(2000) * 50 + rest.saturating_sub(2000) * 800
        }),
        memory: constant(64 * MIB),
    };
    gives_its_own_histograms("cpu=square(50m,800m,4s) memory=constant(64Mi)", &square, 60);
    let ramp = Truth {
        used: Box::new(|at| at * 1500),
        memory: Box::new(|at| {
            let bytes = pages(MIB + 9 * MIB * at.min(30_000) / 30_000);
            (bytes, bytes)
        }),
    };
    gives_its_own_histograms("cpu=constant(1500m) memory=ramp(1Mi,10Mi,30s)", &ramp, 60);
    let cached = Truth { used: Box::new(|at| at * 10), memory: Box::new(|_| (48 * MIB, 16 * MIB)) };
    gives_its_own_histograms("memory=constant(16Mi) cache=constant(32Mi)", &cached, 30);
}

#[test]
fn counters_do_not_depend_on_the_steps_of_time() {
    let usage =
        "cpu=trace(recorded-cpu-100hz/javaapi)+noise(0,300m,700ms,3) memory=trace(recorded-1s/javaapi)";
    let files = |step: Duration| {
        let node = Node::new(1);
        node.run(1, usage, limits(Some(25_000), Some(64 * MIB)));
        let mut now = Duration::ZERO;
        while now < seconds(300) {
            now = (now + step).min(seconds(300));
            node.runtime.advance(now).unwrap();
        }
        ["cpu.stat", "memory.current", "memory.stat", "memory.peak", "cpu.pressure", "memory.events"]
            .map(|file| node.file(&format!("{}/{}/{file}", pod_slice(1), scope(container_id(1)))))
    };
    let fine = files(millis(100));
    assert!(!fine[0].contains("nr_throttled 0\n"), "{}", fine[0]);
    for step in [millis(130), seconds(1), millis(7300), seconds(300)] {
        assert_eq!(files(step), fine, "{step:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Throttling, kills, resets

#[test]
fn throttling_arrives_in_frames_with_the_share_that_follows_from_the_quota() {
    let mut node = Node::new(10);
    // 30 ms every 200 ms against 20 ms a period: every second period is throttled, for 80 ms
    node.run(1, "cpu=square(0,300m,200ms)", limits(Some(20_000), None));
    node.advance(seconds(60));
    let frames = node.frames();
    let cpu = sampled(&frames, container_id(1)).cpu;
    // from the first reading, after 100 ms without work, to the last: 299 whole rounds and a first half
    assert_eq!(cpu.usage_micros, 299 * 30_000 + 20_000);
    assert_eq!((cpu.periods, cpu.throttled_periods), (599, 300));
    assert_eq!(cpu.throttled_micros, 300 * 80_000);
    let limits_seen = frames.last().unwrap().containers.iter().find(|c| c.key.id == container_id(1)).unwrap();
    let expected = CgroupLimits {
        cpu: Some(MilliCpu(200)),
        memory: None,
        cpu_weight: Some(100),
        ..CgroupLimits::default()
    };
    assert_eq!(limits_seen.limits, expected);
    let pressure = node.file(&format!("{}/{}/cpu.pressure", pod_slice(1), scope(container_id(1))));
    // 80 ms of every 200 ms
    assert!(pressure.starts_with("some avg10=39."), "{pressure}");
}

#[test]
fn kill_at_the_limit_arrives_in_frames_and_the_container_starts_anew() {
    let mut node = Node::new(10);
    // 10 MiB more in each second: 50 MiB are passed after five
    let usage = "memory=leak(0,10Mi,1s)";
    node.run(1, usage, limits(None, Some(50 * MIB)));
    node.advance(seconds(5));
    assert!(node.exits.is_empty(), "{:?}", node.exits);
    assert_eq!(node.runtime.memory_bytes(&pod_uid(1), "app"), Some(49 * MIB));
    node.advance(seconds(1));
    let killed = Exit {
        pod_uid: pod_uid(1),
        name: "app".to_owned(),
        id: container_id(1),
        code: 137,
        reason: ExitReason::OomKilled,
    };
    assert_eq!(node.exits, [killed]);
    let events = |path: &str| node.file(&format!("{}/{path}memory.events", pod_slice(1)));
    let expected = "low 0\nhigh 0\nmax 1\noom 1\noom_kill 1\noom_group_kill 0\n";
    assert_eq!(
        (events(&format!("{}/", scope(container_id(1)))).as_str(), events("").as_str()),
        (expected, expected)
    );
    // the kubelet starts it again; the old cgroup goes
    node.runtime.start(spec(1, "app", 2, usage, limits(None, Some(50 * MIB)))).unwrap();
    node.advance(seconds(4));
    assert_eq!(node.runtime.memory_bytes(&pod_uid(1), "app"), Some(39 * MIB));
    let frames = node.frames();
    assert_eq!(sampled(&frames, container_id(1)).oom_kills, 1);
    assert_eq!(sampled(&frames, container_id(2)).oom_kills, 0);
    let pods: u64 = frames.iter().flat_map(|frame| &frame.pods).map(|pod| pod.oom_kills).sum();
    assert_eq!(pods, 1);
    let ended = frames.iter().flat_map(|frame| &frame.containers).filter(|c| c.ended);
    assert_eq!(ended.map(|c| c.key.id).collect::<Vec<_>>(), [container_id(1)]);
}

#[test]
fn reclaim_keeps_a_container_with_cache_alive_and_counts_it() {
    let mut node = Node::new(1);
    node.run(1, "memory=constant(60Mi) cache=constant(100Mi)", limits(None, Some(100 * MIB)));
    node.advance(seconds(30));
    assert!(node.exits.is_empty(), "{:?}", node.exits);
    let found = sampled(&node.frames(), container_id(1));
    assert_eq!((found.total.max(), found.working_set.max()), (1600, 960));
    let stat = node.file(&format!("{}/{}/memory.stat", pod_slice(1), scope(container_id(1))));
    // 60 MiB of cache are missing: 6 MiB are read again in each of 300 periods
    assert!(stat.contains("\nworkingset_refault_file 460800\n"), "{stat}");
    let pressure = node.file(&format!("{}/{}/memory.pressure", pod_slice(1), scope(container_id(1))));
    assert!(pressure.starts_with("some avg10=21."), "{pressure}");
}

#[test]
fn limits_that_change_are_in_the_cgroup_at_once_and_bind_from_the_next_period() {
    let mut node = Node::new(10);
    node.run(1, "cpu=constant(800m)", limits(Some(20_000), None));
    node.advance(seconds(10));
    let path = format!("{}/{}", pod_slice(1), scope(container_id(1)));
    let bigger = limits(Some(200_000), Some(128 * MIB));
    node.runtime.update_pod(&pod_uid(1), bigger).unwrap();
    node.runtime.update(&pod_uid(1), "app", bigger).unwrap();
    for path in [pod_slice(1), path] {
        assert_eq!(node.file(&format!("{path}/cpu.max")), "200000 100000\n");
        assert_eq!(node.file(&format!("{path}/memory.max")), format!("{}\n", 128 * MIB));
    }
    node.advance(seconds(60));
    let frames = node.frames();
    let record = frames.last().unwrap().containers.iter().find(|c| c.key.id == container_id(1)).unwrap();
    assert_eq!(record.limits.memory, Some(Bytes(128 * MIB)));
    // what waited is done first, on one thread; then the demand itself
    assert_eq!((record.cpu_tick.max(), record.cpu.throttled_periods), (8000, 0));
    let most = frames.iter().flat_map(|frame| &frame.containers).map(|c| c.cpu_tick.max()).max();
    assert_eq!(most, Some(10_000));
}

#[test]
fn counters_that_start_again_give_no_negative_and_no_huge_sample() {
    let mut node = Node::new(10);
    node.run(1, "cpu=constant(500m)", limits(None, None));
    node.advance(seconds(20));
    node.runtime.reset_counters(&pod_uid(1), "app").unwrap();
    node.advance(seconds(20));
    let frames = node.frames();
    let found = sampled(&frames, container_id(1));
    assert_eq!((found.cpu_tick.max(), found.cpu_tick.sum() / found.cpu_tick.count()), (5000, 5000));
    assert_eq!(found.cpu_second.max(), 5000);
    // one period of 50 ms is lost in the reset, and one before the first reading
    assert_eq!(found.cpu.usage_micros, (400 - 2) * 50_000);
    // the pod's own counters went on: it is read once a second, last at 39.1 s
    let pods: u64 = frames.iter().flat_map(|frame| &frame.pods).map(|pod| pod.cpu_usage_micros).sum();
    assert_eq!(pods, 390 * 50_000);
}

#[test]
fn slices_carry_the_sums_of_what_is_in_them() {
    let mut node = Node::new(1);
    node.run(1, "cpu=constant(300m) memory=constant(10Mi)", limits(None, None));
    node.runtime
        .start(spec(1, "side", 3, "cpu=constant(200m) memory=constant(5Mi)", limits(None, None)))
        .unwrap();
    node.run(2, "cpu=constant(100m) memory=constant(20Mi)", limits(None, None));
    node.advance(seconds(10));
    let read = |path: &str| {
        let cpu = parse::cpu_stat(node.file(&format!("{path}/cpu.stat")).as_bytes()).unwrap().usage_micros;
        (cpu, parse::memory_current(node.file(&format!("{path}/memory.current")).as_bytes()).unwrap())
    };
    assert_eq!(read(&pod_slice(1)), (5_000_000 + SANDBOX_CPU, 15 * MIB + SANDBOX_MEMORY));
    assert_eq!(read(&pod_slice(2)), (1_000_000 + SANDBOX_CPU, 20 * MIB + SANDBOX_MEMORY));
    let all = (6_000_000 + 2 * SANDBOX_CPU, 35 * MIB + 2 * SANDBOX_MEMORY);
    assert_eq!(read("kubepods-burstable.slice"), all);
    assert_eq!(read("."), all);
    assert_eq!(read("kubepods-besteffort.slice"), (0, 0));
    // what is over stays in the sums
    node.runtime.stop(&pod_uid(1), "side").unwrap();
    node.runtime.remove_pod(&pod_uid(2)).unwrap();
    node.advance(seconds(10));
    let read = |path: &str| {
        let cpu = parse::cpu_stat(node.file(&format!("{path}/cpu.stat")).as_bytes()).unwrap().usage_micros;
        (cpu, parse::memory_current(node.file(&format!("{path}/memory.current")).as_bytes()).unwrap())
    };
    assert_eq!(read(&pod_slice(1)), (8_000_000 + SANDBOX_CPU, 10 * MIB + SANDBOX_MEMORY));
    assert_eq!(read("."), (9_000_000 + 2 * SANDBOX_CPU, 10 * MIB + SANDBOX_MEMORY));
    assert!(!node.folder.path().join("kubepods.slice").join(pod_slice(2)).exists());
}

#[test]
fn containers_share_the_cpus_of_a_node_by_weight() {
    let mut node = Node::new(1);
    node.runtime.set_cpus(2);
    for (number, weight) in [(1, 100), (2, 300)] {
        let resources = CgroupResources { cpu_weight: weight, ..limits(None, None) };
        node.run(number, "cpu=constant(4)", resources);
    }
    node.advance(seconds(21));
    let frames = node.frames();
    let used = [1, 2].map(|id| sampled(&frames, container_id(id)).cpu.usage_micros);
    assert_eq!(used, [10_000_000, 30_000_000]);
}

#[test]
fn what_is_asked_of_a_runtime_in_vain_is_refused_with_names() {
    let node = Node::new(1);
    let runtime = &node.runtime;
    node.run(1, "cpu=constant(1)", limits(None, None));
    let again = spec(1, "app", 2, "cpu=constant(1)", limits(None, None));
    let traced = spec(1, "other", 2, "cpu=trace(none/x)", limits(None, None));
    for (result, expected) in [
        (runtime.start(again), "container app of pod 00000000-0000-4000-8000-000000000001 runs already"),
        (runtime.start(traced), "no trace \"none\""),
        (runtime.start_pod(&pod_uid(1), QosClass::Burstable, limits(None, None)), "runs already"),
        (runtime.start_pod("pod", QosClass::Burstable, limits(None, None)), "\"pod\" is not a pod UID"),
        (runtime.stop(&pod_uid(1), "none"), "there is no container none in pod"),
        (runtime.remove_pod("none"), "there is no pod none on this node"),
        (Runtime::new(node.folder.path(), 1).map(drop), "is not empty"),
    ] {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(runtime.memory_bytes(&pod_uid(1), "none"), None);
}

#[test]
fn reader_beside_the_writer_never_sees_a_number_that_was_not_written() {
    let node = Node::new(1);
    // a tenth of a millisecond in each period: usage goes through many lengths, and is always a multiple
    node.run(1, "cpu=constant(1m)", limits(None, None));
    let path: PathBuf =
        node.folder.path().join("kubepods.slice").join(pod_slice(1)).join(scope(container_id(1)));
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let done = Arc::clone(&done);
        thread::spawn(move || {
            let mut buffer = Buffer::default();
            let directory = CgroupDir::open(&path, &buffer).unwrap();
            let held = directory.hold("cpu.stat").unwrap();
            let (mut last, mut seen) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                // nothing or a cut text is no sample
                let Ok(stat) = directory.read(&held, &mut buffer, parse::cpu_stat) else { continue };
                assert!(
                    stat.usage_micros >= last && stat.usage_micros.is_multiple_of(100),
                    "{last} {stat:?}"
                );
                seen += u64::from(stat.usage_micros > last);
                last = stat.usage_micros;
            }
            (last, seen)
        })
    };
    for period in 1..=5_000_u64 {
        node.runtime.advance(millis(period * 100)).unwrap();
        assert!(!reader.is_finished(), "the reader found something");
    }
    done.store(true, Ordering::Relaxed);
    let (last, seen) = reader.join().unwrap();
    assert!(last <= 500_000 && seen > 100, "{seen} values seen, the last {last}");
}

// ---------------------------------------------------------------------------------------------------------------------
// Agents of several nodes over the wire

/// Nothing here takes a second; this is for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ingest service and engine on simulated time.
struct Coordinator {
    engine: Arc<Mutex<Engine>>,
    wall: Wall,
    address: SocketAddr,
    _leadership: watch::Sender<Leadership>,
    _tasks: JoinSet<()>,
}

impl Coordinator {
    async fn start() -> Self {
        let metrics = Metrics::new().unwrap();
        let engine = Arc::new(Mutex::new(engine(&metrics, seconds(5), false)));
        let wall = Wall::new(START);
        for change in nothing_exists() {
            engine.lock().unwrap().on_change(change, START);
        }
        let leads = Leadership { until: Instant::now().checked_add(seconds(3600)), address: String::new() };
        let (leadership, watched) = watch::channel(leads);
        let (sender, mut ingest) = mpsc::channel(4);
        let service = IngestService::new(sender, watched, seconds(5), metrics, wall.clock());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let server = Server::builder().add_service(service.into_server());
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        let (turned, clock) = (Arc::clone(&engine), wall.clock());
        engine.lock().unwrap().on_leadership(true, START);
        tasks.spawn(async move {
            while let Some(message) = ingest.recv().await {
                let mut engine = turned.lock().unwrap();
                engine.on_ingest(message, clock.now());
                drop(engine.tick(clock.now()));
            }
        });
        Self { engine, wall, address, _leadership: leadership, _tasks: tasks }
    }

    fn learn(&self, number: u8, node: &str) {
        let pod = json!({
            "metadata": {"namespace": "default", "name": format!("pod-{number}"), "uid": pod_uid(number), "resourceVersion": "1"},
            "spec": {"nodeName": node, "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "app", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
                "containerID": format!("containerd://{}", container_id(number)),
                "state": {"running": {}},
            }]},
        });
        self.engine.lock().unwrap().on_change(Change::Pods(applied(&pod)), START);
    }

    fn evidence(&self, number: u8) -> Option<Evidence> {
        let app = key("Pod", "default", &format!("pod-{number}"), "app");
        self.engine.lock().unwrap().evidence(&app, self.wall.now(), seconds(3600))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_many_nodes_tell_a_coordinator_exactly_what_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start().await;
    // the second agent is lost for 30 s, the clock of the third is an hour ahead
    let faults = vec![
        Fault {
            at: seconds(60),
            lasts: Some(seconds(30)),
            kind: Kind::AgentLost(Nodes(vec!["sim-2".to_owned()])),
        },
        Fault {
            at: Duration::ZERO,
            lasts: None,
            kind: Kind::AgentClock { nodes: Nodes(vec!["sim-3".to_owned()]), offset_micros: 3_600_000_000 },
        },
    ];
    let board = Board::new(faults, 1);
    let options = AgentOptions {
        coordinator: coordinator.address.to_string(),
        frame_interval: seconds(5),
        hertz: 1,
        start: START,
    };
    let mut agents = Agents::new(options, board.clone(), tokio::runtime::Handle::current());
    // enough for several threads, and for listing instead of events
    let nodes: BTreeMap<u8, Runtime> = (1..=34)
        .map(|number| {
            let (name, root) = (format!("sim-{number}"), folder.path().join(format!("sim-{number}")));
            let runtime = Runtime::new(&root, number.into()).unwrap();
            runtime.start_pod(&pod_uid(number), QosClass::Burstable, limits(None, None)).unwrap();
            let usage = format!("cpu=constant({number}00m) memory=constant({number}Mi)");
            runtime.start(spec(number, "app", number, &usage, limits(None, None))).unwrap();
            agents.add(&name, &root);
            coordinator.learn(number, &name);
            (number, runtime)
        })
        .collect();
    let end = 120;
    for second in 1..=end {
        board.advance(seconds(second));
        coordinator.wall.set(START + seconds(second));
        for runtime in nodes.values() {
            runtime.advance(seconds(second)).unwrap();
        }
        agents.tick(seconds(second)).unwrap();
        // simulated time waits for the wire, as far as the wire is there
        let deadline = Instant::now() + PATIENCE;
        while agents.waiting_frames() > 0 && Instant::now() < deadline {
            tokio::time::sleep(millis(1)).await;
        }
        assert_eq!(agents.waiting_frames(), 0, "frames wait after {second} s");
    }
    agents.stop(seconds(end)).await.unwrap();
    for number in nodes.keys().copied() {
        let evidence = coordinator.evidence(number).unwrap();
        // the first reading is the base; the lost agent told its last frame at 56 s and began anew at 90 s
        let seen = if number == 2 { (56 - 1) + (end - 90) } else { end - 1 };
        let expected = seen * u64::from(number) * 100_000;
        assert_eq!(evidence.counters.usage_micros, expected, "sim-{number}");
        assert_eq!(evidence.cpu_seconds().unwrap().max(), u64::from(number) * 1000, "sim-{number}");
        assert_eq!(evidence.memory.max(), u64::from(number) * 16, "sim-{number}");
    }
}
