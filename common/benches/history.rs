//! What the store keeps of one container of a workload after a day, in memory and in a checkpoint, beside the budget.
//!
//! ```text
//! cargo bench -p optipod-common --bench history -- [PODS] [COPIES]
//! ```
//!
//! The shipped recordings of an hour, again and again for a day under a daily cycle, as an agent sends them: frames of 15 s,
//! CPU of 100 ms and of 1 s, memory of 1 s. One pod unless told otherwise; several are an hour's part apart. `idle` is a
//! container that does next to nothing, as most of a cluster do. Memory is what the process grows by, by copy (100 of them):
//! what the allocator wastes counts. Times are CPU time; that of a frame includes making it up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on stops")]
#![allow(clippy::unchecked_time_subtraction, reason = "CPU time never runs backwards")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "recorded amounts are small and above zero"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use optipod_common::adaptive::Adaptive;
use optipod_common::frame::{CgroupLimits, ContainerRecord};
use optipod_common::histogram::UsageHistogram;
use optipod_common::ident::{ContainerId, ContainerKey, WorkloadContainer, WorkloadRef};
use optipod_common::peaks::MinutePeaks;
use optipod_common::resources::{QosClass, Resource};
use optipod_common::sample::{CpuCounters, memory_units};
use optipod_common::startup::Phase;
use optipod_common::store::{History, Interval, Question, Store, Variant};
use optipod_common::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// A window of 24 h of one (workload, container), in bytes.
const BUDGET: f64 = 16.0 * 1024.0;
const NAMES: [&str; 6] = ["nodeapi", "javaapi", "redis", "postgres", "batch", "leaky"];
const DAY: i64 = 24 * 3600;
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Length of a frame in seconds.
const FRAME: i64 = 15;

/// An hour of a container.
struct Hour {
    /// CPU of each 100 ms, units of 0.1 millicore.
    ticks: Vec<u64>,
    /// Working set and `memory.current` of each second, units of 64 KiB.
    memory: Vec<(u64, u64)>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |index: usize, default: u32| arguments.get(index).map_or(default, |a| a.parse().unwrap());
    let (pods, copies) = (number(0, 1), number(1, 100));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/traces");
    let mut hours = recorded(&folder);
    hours.insert("idle", idle());

    println!("a day of {pods} pods, {copies} copies; bytes, and in parts of the budget of 16 KiB");
    // nothing is freed: what one workload left would be taken by the next
    let mut kept = Vec::new();
    let head = ["workload", "memory", "checkpoint", "Adaptive of it", "frame", "compaction", "evidence"];
    println!("{}", head.map(|title| format!("{title:>16}")).concat());
    for (name, hour) in &hours {
        let before = resident();
        let started = cpu_time();
        let (histories, compacting): (Vec<History>, Vec<Duration>) =
            (0..copies).map(|_| day(hour, pods)).unzip();
        let (filled, compacting) = (cpu_time() - started, compacting.iter().sum::<Duration>());
        let memory = (resident() - before) / u64::from(copies);
        let checkpoint = histories[0].encode();
        assert_eq!(History::decode(&checkpoint).as_ref(), Ok(&histories[0]));
        let frames = u64::from(copies) * u64::from(pods) * (DAY / FRAME).unsigned_abs();
        let bytes = |bytes: usize| format!("{bytes} ({:.2})", bytes as f64 / BUDGET);
        let per_frame = (filled - compacting).as_nanos() / u128::from(frames);
        let each = compacting.as_nanos() / u128::from(u64::from(copies) * (DAY / 60).unsigned_abs());
        let columns = [
            (*name).to_owned(),
            bytes(memory as usize),
            bytes(checkpoint.len()),
            bytes(learned(hour).encode().len() * 2),
            format!("{:.1} us", per_frame as f64 / 1e3),
            format!("{:.1} us", each as f64 / 1e3),
            format!("{:.0} us", gathering(hour, pods).as_secs_f64() * 1e6),
        ];
        kept.push(histories);
        println!("{}", columns.map(|column| format!("{column:>16}")).concat());
    }
}

/// A history after a day, and the time that compaction took of it.
fn day(hour: &Hour, pods: u32) -> (History, Duration) {
    let (mut history, mut compacting) = (History::default(), Duration::ZERO);
    fill(hour, pods, |record, interval, now, minute| {
        history.add(record, interval, now);
        if minute {
            let begun = cpu_time();
            history.compact(now, RETENTION);
            compacting += cpu_time() - begun;
        }
    });
    (history, compacting)
}

/// Hands out the frames of a day, each with the moment at which it comes, and whether a minute is over. Returns the last
/// moment.
fn fill(
    hour: &Hour,
    pods: u32,
    mut take: impl FnMut(&ContainerRecord, &Interval, Timestamp, bool),
) -> Timestamp {
    let start = Timestamp::from_unix_seconds(1_800_057_600);
    for second in (0..DAY).step_by(FRAME as usize) {
        let (from, to) = (start.shifted(second * 1_000_000), start.shifted((second + FRAME) * 1_000_000));
        for pod in 0..pods {
            let interval = Interval {
                start: from,
                end: to,
                variant: Variant::default(),
                phase: if second < 60 { Phase::Startup } else { Phase::Runtime },
                started: Some(start),
            };
            let minute = second % 60 == 0 && pod + 1 == pods;
            take(&record(hour, second + i64::from(pod) * 397, pod), &interval, to, minute);
        }
    }
    start.shifted(DAY * 1_000_000)
}

/// 60 % of what was recorded at midnight, 140 % at noon.
fn scaled(ticks: &[u64], second: i64) -> Vec<u64> {
    let of_day = (second % DAY) as f64 / DAY as f64;
    let factor = 1.0 - 0.4 * (of_day * std::f64::consts::TAU).cos();
    ticks.iter().map(|units| (*units as f64 * factor) as u64).collect()
}

fn record(hour: &Hour, second: i64, pod: u32) -> ContainerRecord {
    let at = (second % 3585) as usize;
    let frame = FRAME as usize;
    let ticks = scaled(&hour.ticks[at * 10..(at + frame) * 10], second);
    let seconds: Vec<u64> = ticks.chunks(10).map(|second| second.iter().sum::<u64>() / 10).collect();
    let memory = &hour.memory[at..at + frame];
    let used = ticks.iter().sum::<u64>() * 10;
    let mut id = [0; 32];
    id[..4].copy_from_slice(&pod.to_le_bytes());
    ContainerRecord {
        key: ContainerKey { id: ContainerId::from_bytes(id), inode: 1 },
        pod: format!("{pod:032x}").parse().unwrap(),
        qos: QosClass::Burstable,
        cpu_tick: UsageHistogram::from_values(100, ticks),
        cpu_second: UsageHistogram::from_values(1000, seconds),
        memory_working_set: UsageHistogram::from_values(1000, memory.iter().map(|(used, _)| *used)),
        memory_total: UsageHistogram::from_values(1000, memory.iter().map(|(_, total)| *total)),
        cpu: CpuCounters { usage_micros: used, ..CpuCounters::default() },
        oom_kills: 0,
        limits: CgroupLimits::default(),
        ended: false,
    }
}

/// What Adaptive alone keeps of the CPU after a day.
fn learned(hour: &Hour) -> Adaptive {
    let mut peaks = MinutePeaks::default();
    let start = Timestamp::from_unix_seconds(1_800_057_600);
    for second in (0..DAY).step_by(FRAME as usize) {
        let peak = record(hour, second, 0).cpu_second.max();
        peaks.record(start.shifted(second * 1_000_000), peak);
    }
    Adaptive::new(Resource::Cpu).at(&peaks, start.shifted(DAY * 1_000_000))
}

/// Time that it takes to gather the evidence of a day.
fn gathering(hour: &Hour, pods: u32) -> Duration {
    let workload = WorkloadRef { kind: "Deployment".into(), namespace: "shop".into(), name: "web".into() };
    let key = WorkloadContainer { workload, container: "app".to_owned() };
    let (mut store, variant) = (Store::default(), Variant::default());
    let now = fill(hour, pods, |record, interval, now, minute| {
        store.add(key.clone(), record, interval, now);
        if minute {
            store.compact(now, RETENTION);
        }
    });
    let question = Question { now, window: RETENTION, variant: &variant, resized: None };
    let begun = cpu_time();
    for _ in 0..20 {
        std::hint::black_box(store.evidence(&key, question));
    }
    (cpu_time() - begun) / 20
}

/// A sidecar that waits: a fraction of a millicore, and a second of work a minute.
fn idle() -> Hour {
    let ticks = (0..36_000).map(|n| if n % 600 < 10 { 40 + n % 7 } else { u64::from(n % 13 == 0) });
    Hour { ticks: ticks.collect(), memory: (0..3600).map(|n| (130 + n / 900, 150 + n / 600)).collect() }
}

fn recorded(folder: &Path) -> BTreeMap<&'static str, Hour> {
    let cpu = table(&folder.join("recorded-cpu-100hz.csv.gz"), 100_000, |tick, used| tick + used);
    let memory = folder.join("recorded-memory-10hz.csv.gz");
    let memory = table(&memory, 1_000_000, u64::max);
    let hour = |name| {
        // 100 microseconds of a tick are a millicore
        let ticks = cpu[&format!("{name}_cpu_us")].iter().map(|micros| micros / 10);
        let second = |kib: &u64| memory_units(kib * 1024);
        let column = |of: &str| memory[&format!("{name}_{of}_kib")].iter().map(second);
        // the process's own memory stands for the working set
        let memory = column("rss").zip(column("current"));
        Hour { ticks: ticks.take(36_000).collect(), memory: memory.take(3600).collect() }
    };
    NAMES.map(|name| (name, hour(name))).into()
}

/// What the readings of each column come to within each step.
fn table(path: &Path, step_micros: u64, with: fn(u64, u64) -> u64) -> BTreeMap<String, Vec<u64>> {
    let mut lines = BufReader::new(MultiGzDecoder::new(File::open(path).unwrap())).lines();
    let header = lines.next().unwrap().unwrap();
    let names: Vec<String> = header.split(',').skip(1).map(str::to_owned).collect();
    let mut columns: Vec<Vec<u64>> = vec![Vec::with_capacity(40_000); names.len()];
    let mut now = 0;
    for line in lines {
        let line = line.unwrap();
        let mut cells = line.split(',').map(|cell| cell.parse::<u64>().unwrap());
        let step = (now / step_micros) as usize;
        now += cells.next().unwrap();
        for (column, reading) in columns.iter_mut().zip(cells) {
            column.resize(column.len().max(step + 1), 0);
            column[step] = with(column[step], reading);
        }
    }
    names.into_iter().zip(columns).collect()
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap())
}

/// Bytes of memory of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
