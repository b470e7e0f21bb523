//! One container, one pod: what was read last, and what the current interval has so far.

use std::path::{Path, PathBuf};
use std::time::Duration;

use optipod_common::frame::{CgroupLimits, ContainerRecord, PodRecord};
use optipod_common::ident::{ContainerKey, PodUid};
use optipod_common::quantity::Bytes;
use optipod_common::resources::{CgroupFacts, QosClass};
use optipod_common::sample::{CpuCounters, cpu_units, memory_units, working_set};

use crate::cgroup::parse::{self, ParseError};
use crate::cgroup::reader::{Buffer, CgroupDir, HeldFile, ReadError};
use crate::series::SeriesLog;

const SECOND: Duration = Duration::from_secs(1);
/// Failed attempts to open a new cgroup at the full rate: a runtime needs milliseconds from `mkdir` to the first
/// process. After them one attempt in as many ticks, for the empty scope that CRI-O leaves beside its containers.
const EAGER_ATTEMPTS: u32 = 30;

/// Frames from one reading of what a cgroup does beside its limits to the next: it is set when a container starts, or by
/// hand.
const FACTS_EVERY: u32 = 4;

/// Where failed reads go: file name and error.
pub type Report<'a> = &'a mut dyn FnMut(&'static str, &ReadError);

/// Shape of the series of a new container.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Slot of the tick series, milliseconds.
    pub tick_millis: u32,
    /// Seconds that a frame is expected to last.
    pub per_frame: usize,
}

#[derive(Debug)]
struct Open {
    dir: CgroupDir,
    cpu_stat: HeldFile,
    memory_current: Option<HeldFile>,
}

/// A cgroup that is waiting to have processes, is read, or is gone.
#[derive(Debug)]
enum State {
    Waiting { attempts: u32 },
    Open(Open),
    Ended,
}

impl State {
    const WAITING: Self = Self::Waiting { attempts: 0 };

    /// The open cgroup, after an attempt to open it where it is time for one.
    fn open(&mut self, path: &Path, buffer: &mut Buffer, report: Report<'_>) -> Option<&Open> {
        if let Self::Waiting { attempts } = self {
            *attempts = attempts.saturating_add(1);
            if *attempts > EAGER_ATTEMPTS && *attempts % EAGER_ATTEMPTS != 0 {
                return None;
            }
            match attempt(path, buffer, report) {
                Ok(Some(open)) => *self = Self::Open(open),
                Ok(None) => {}
                Err(error) => report("cpu.stat", &error),
            }
        }
        match self {
            Self::Open(open) => Some(open),
            Self::Waiting { .. } | Self::Ended => None,
        }
    }
}

/// Opens a cgroup; `None` when nothing lives in it.
fn attempt(path: &Path, buffer: &mut Buffer, report: Report<'_>) -> Result<Option<Open>, ReadError> {
    let dir = CgroupDir::open(path, buffer)?;
    if let Ok(false) = dir.read_once("cgroup.events", buffer, parse::populated) {
        return Ok(None);
    }
    let cpu_stat = dir.hold("cpu.stat")?;
    let memory_current = dir.hold("memory.current").map_err(|e| report("memory.current", &e)).ok();
    Ok(Some(Open { dir, cpu_stat, memory_current }))
}

/// A counter that is told as its growth per interval.
#[derive(Debug, Default)]
struct Growth {
    last: Option<u64>,
    grown: u64,
}

impl Growth {
    /// The first reading, and the first after a reset, only set the base.
    fn read(&mut self, value: u64) {
        if let Some(grown) = self.last.and_then(|last| value.checked_sub(last)) {
            self.grown = self.grown.saturating_add(grown);
        }
        self.last = Some(value);
    }

    fn take(&mut self) -> u64 {
        std::mem::take(&mut self.grown)
    }
}

/// One life of one container cgroup.
#[derive(Debug)]
pub struct Container {
    key: ContainerKey,
    pod: PodUid,
    qos: QosClass,
    path: PathBuf,
    state: State,
    /// True when anything was ever read: a cgroup that never had a process is not reported.
    seen: bool,
    last: Option<(CpuCounters, Duration)>,
    second: Option<(u64, Duration)>,
    cpu_tick: SeriesLog,
    cpu_second: SeriesLog,
    memory_working_set: SeriesLog,
    memory_total: SeriesLog,
    cpu: CpuCounters,
    oom_kills: Growth,
    limits: CgroupLimits,
    /// Records until the facts are read again.
    facts_in: u32,
}

impl Container {
    /// A container that was found just now.
    pub fn new(key: ContainerKey, pod: PodUid, qos: QosClass, path: PathBuf, slots: Slots) -> Self {
        let Slots { tick_millis, per_frame } = slots;
        let ticks = per_frame * usize::try_from(1000 / tick_millis.max(1)).unwrap_or(1);
        Self {
            key,
            pod,
            qos,
            path,
            state: State::WAITING,
            seen: false,
            last: None,
            second: None,
            cpu_tick: SeriesLog::new(tick_millis, ticks),
            cpu_second: SeriesLog::new(1000, per_frame),
            memory_working_set: SeriesLog::new(1000, per_frame),
            memory_total: SeriesLog::new(1000, per_frame),
            cpu: CpuCounters::default(),
            oom_kills: Growth::default(),
            limits: CgroupLimits::default(),
            facts_in: 0,
        }
    }

    /// Which container.
    pub const fn key(&self) -> ContainerKey {
        self.key
    }

    /// True when its cgroup is gone.
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Its cgroup is gone: what was read so far is told in one last record.
    pub fn end(&mut self) {
        self.state = State::Ended;
    }

    /// A cgroup with the same key is there (again): the descriptors are of the old one, and so are the counters.
    pub fn revive(&mut self) {
        self.state = State::WAITING;
        self.last = None;
        self.second = None;
        self.oom_kills.last = None;
    }

    /// The slot length of the tick series changes; only between two frames.
    pub fn set_tick_slot(&mut self, slot_millis: u32) {
        self.cpu_tick.set_slot_millis(slot_millis);
    }

    /// Reads `cpu.stat` at `now`; `second` also ends a slot of the one-second series.
    pub fn read_cpu(
        &mut self,
        now: Duration,
        period: Duration,
        second: bool,
        buffer: &mut Buffer,
        report: Report<'_>,
    ) {
        let first = !matches!(self.state, State::Open(_));
        let Some(open) = self.state.open(&self.path, buffer, report) else { return };
        let reading = match open.dir.read(&open.cpu_stat, buffer, parse::cpu_stat) {
            Ok(reading) => reading,
            Err(error) => return report("cpu.stat", &error),
        };
        self.seen = true;
        if first {
            self.read_memory_events(buffer, report);
            // the first reading of memory needs to know of swap
            self.read_facts(buffer, report);
        }
        let delta = self.last.and_then(|(last, at)| Some((reading.since(last)?, now.saturating_sub(at))));
        self.last = Some((reading, now));
        let Some((delta, elapsed)) = delta else {
            // the first reading, or a counter that went backwards
            self.second = Some((reading.usage_micros, now));
            return;
        };
        self.cpu = self.cpu.plus(delta);
        if is_slot(elapsed, period)
            && let Some(units) = cpu_units(delta.usage_micros, elapsed)
        {
            self.cpu_tick.push(units);
        }
        if second {
            self.end_second(reading.usage_micros, now);
        }
    }

    fn end_second(&mut self, usage_micros: u64, now: Duration) {
        let Some((base, at)) = self.second.replace((usage_micros, now)) else { return };
        let elapsed = now.saturating_sub(at);
        if is_slot(elapsed, SECOND)
            && let Some(units) = cpu_units(usage_micros.saturating_sub(base), elapsed)
        {
            self.cpu_second.push(units);
        }
    }

    /// Reads `memory.current` and what of it is given back first.
    pub fn read_memory(&mut self, buffer: &mut Buffer, report: Report<'_>) {
        let State::Open(Open { dir, memory_current: Some(held), .. }) = &self.state else { return };
        let current = match dir.read(held, buffer, parse::memory_current) {
            Ok(current) => current,
            Err(error) => return report("memory.current", &error),
        };
        let swapped = if self.limits.facts.swap {
            match dir.read_once("memory.swap.current", buffer, parse::amount) {
                Ok(swapped) => swapped.unwrap_or(0),
                Err(error) => return report("memory.swap.current", &error),
            }
        } else {
            0
        };
        self.memory_total.push(memory_units(current.saturating_add(swapped)));
        match dir.read_once("memory.stat", buffer, parse::inactive_file) {
            Ok(inactive) => {
                let needed = working_set(current, inactive).saturating_add(swapped);
                self.memory_working_set.push(memory_units(needed));
            }
            Err(error) => report("memory.stat", &error),
        }
    }

    /// Reads what the cgroup does beside its limits. A file that is not there (a kernel without swap, a controller that is
    /// off) says nothing of the kind.
    fn read_facts(&mut self, buffer: &mut Buffer, report: Report<'_>) {
        let State::Open(Open { dir, .. }) = &self.state else { return };
        self.facts_in = FACTS_EVERY;
        let mut amount = |file: &'static str, parse: fn(&[u8]) -> Result<Option<u64>, ParseError>| {
            dir.read_once(file, buffer, parse).map_err(|error| report(file, &error)).ok()
        };
        let set = |amount: Option<Option<u64>>| amount.flatten().is_some_and(|amount| amount > 0);
        // without a limit of its own a container swaps only where something is swapped
        let swap = set(amount("memory.swap.max", parse::amount))
            || set(amount("memory.swap.current", parse::amount));
        let memory_qos = amount("memory.high", parse::amount).is_some_and(|high| high.is_some())
            || amount("memory.low", parse::amount).is_some_and(|low| low != Some(0))
            || amount("memory.min", parse::amount).is_some_and(|min| min != Some(0));
        let names = |bytes: &[u8]| parse::names_any(bytes).map(|any| Some(u64::from(any)));
        let exclusive_cpus = set(amount("cpuset.cpus", names)) || set(amount("cpuset.mems", names));
        let cpu_burst = set(amount("cpu.max.burst", parse::amount));
        let shmem = amount("memory.stat", |bytes| parse::shmem(bytes).map(Some)).flatten().unwrap_or(0);
        self.limits.facts = CgroupFacts {
            swap,
            memory_qos,
            cpu_burst,
            exclusive_cpus,
            foreign_writer: false,
            shmem: Bytes(shmem),
        };
    }

    /// Reads `memory.events`.
    pub fn read_memory_events(&mut self, buffer: &mut Buffer, report: Report<'_>) {
        if let State::Open(open) = &self.state {
            read_oom_kills(&open.dir, &mut self.oom_kills, buffer, report);
        }
    }

    /// What the interval had; `None` when nothing was ever read.
    pub fn record(&mut self, buffer: &mut Buffer, report: Report<'_>) -> Option<ContainerRecord> {
        if !self.seen {
            return None;
        }
        self.read_memory_events(buffer, report);
        self.read_limits(buffer, report);
        self.facts_in = self.facts_in.saturating_sub(1);
        if self.facts_in == 0 {
            self.read_facts(buffer, report);
        }
        Some(ContainerRecord {
            key: self.key,
            pod: self.pod.clone(),
            qos: self.qos,
            cpu_tick: self.cpu_tick.take(),
            cpu_second: self.cpu_second.take(),
            memory_working_set: self.memory_working_set.take(),
            memory_total: self.memory_total.take(),
            cpu: std::mem::take(&mut self.cpu),
            oom_kills: self.oom_kills.take(),
            limits: self.limits,
            ended: self.has_ended(),
        })
    }

    /// A limit that cannot be read stays what it was.
    fn read_limits(&mut self, buffer: &mut Buffer, report: Report<'_>) {
        let State::Open(open) = &self.state else { return };
        let dir = &open.dir;
        read_into(&mut self.limits.cpu, dir, "cpu.max", buffer, parse::cpu_max, report);
        read_into(&mut self.limits.memory, dir, "memory.max", buffer, parse::memory_max, report);
        read_into(&mut self.limits.cpu_weight, dir, "cpu.weight", buffer, parse::cpu_weight, report);
    }
}

fn read_into<T>(
    value: &mut T,
    dir: &CgroupDir,
    file: &'static str,
    buffer: &mut Buffer,
    parse: fn(&[u8]) -> Result<T, ParseError>,
    report: Report<'_>,
) {
    match dir.read_once(file, buffer, parse) {
        Ok(read) => *value = read,
        Err(error) => report(file, &error),
    }
}

fn read_oom_kills(dir: &CgroupDir, kills: &mut Growth, buffer: &mut Buffer, report: Report<'_>) {
    match dir.read_once("memory.events", buffer, parse::oom_kill) {
        Ok(value) => kills.read(value),
        Err(error) => report("memory.events", &error),
    }
}

/// True when a slot has about the length that the series says: between half and one and a half of it. The value is
/// an average over the real time; what is averaged over twice the time is another series.
fn is_slot(elapsed: Duration, nominal: Duration) -> bool {
    elapsed * 2 >= nominal && elapsed * 2 <= nominal * 3
}

/// How long tasks of the node stalled for memory.
#[derive(Debug, Default)]
pub struct Stalled(Growth);

impl Stalled {
    /// Microseconds since the last reading; 0 for the first, and where the kernel does not count.
    pub fn read(&mut self, mount: &Path, buffer: &mut Buffer, report: Report<'_>) -> u64 {
        let read = CgroupDir::open(mount, buffer)
            .and_then(|dir| dir.read_once("memory.pressure", buffer, parse::stalled_micros));
        match read {
            Ok(total) => self.0.read(total),
            Err(error) => report("memory.pressure", &error),
        }
        self.0.take()
    }
}

/// One life of one pod cgroup: all containers, the sandbox, and what containers used between their last reading and
/// their end.
#[derive(Debug)]
pub struct Pod {
    uid: PodUid,
    qos: QosClass,
    inode: u64,
    path: PathBuf,
    state: State,
    seen: bool,
    cpu: Growth,
    memory_max: u64,
    oom_kills: Growth,
}

impl Pod {
    /// A pod that was found just now.
    pub const fn new(uid: PodUid, qos: QosClass, inode: u64, path: PathBuf) -> Self {
        let (cpu, oom_kills) = (Growth { last: None, grown: 0 }, Growth { last: None, grown: 0 });
        Self { uid, qos, inode, path, state: State::WAITING, seen: false, cpu, memory_max: 0, oom_kills }
    }

    /// Inode of its cgroup.
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// True when it is this life of this pod.
    pub fn is(&self, inode: u64, uid: &PodUid) -> bool {
        self.inode == inode && self.uid == *uid
    }

    /// True when its cgroup is gone.
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// True until it was opened.
    pub const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Its cgroup is gone.
    pub fn end(&mut self) {
        self.state = State::Ended;
    }

    /// A cgroup with the same inode is there (again).
    pub fn revive(&mut self) {
        self.state = State::WAITING;
        self.cpu.last = None;
        self.oom_kills.last = None;
    }

    /// Reads `cpu.stat` and `memory.current`.
    pub fn read(&mut self, buffer: &mut Buffer, report: Report<'_>) {
        let first = !matches!(self.state, State::Open(_));
        let Some(open) = self.state.open(&self.path, buffer, report) else { return };
        match open.dir.read(&open.cpu_stat, buffer, parse::cpu_stat) {
            Ok(reading) => self.cpu.read(reading.usage_micros),
            Err(error) => return report("cpu.stat", &error),
        }
        if let Some(held) = &open.memory_current {
            match open.dir.read(held, buffer, parse::memory_current) {
                Ok(current) => self.memory_max = self.memory_max.max(current),
                Err(error) => report("memory.current", &error),
            }
        }
        self.seen = true;
        if first {
            self.read_memory_events(buffer, report);
        }
    }

    /// Reads `memory.events`.
    pub fn read_memory_events(&mut self, buffer: &mut Buffer, report: Report<'_>) {
        if let State::Open(open) = &self.state {
            read_oom_kills(&open.dir, &mut self.oom_kills, buffer, report);
        }
    }

    /// What the interval had; `None` when nothing was ever read.
    pub fn record(&mut self, buffer: &mut Buffer, report: Report<'_>) -> Option<PodRecord> {
        if !self.seen {
            return None;
        }
        self.read_memory_events(buffer, report);
        Some(PodRecord {
            pod: self.uid.clone(),
            qos: self.qos,
            inode: self.inode,
            cpu_usage_micros: self.cpu.take(),
            memory_max: Bytes(std::mem::take(&mut self.memory_max)),
            oom_kills: self.oom_kills.take(),
            ended: self.has_ended(),
        })
    }
}
