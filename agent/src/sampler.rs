//! The tick: read > sample > series > frame. One thread, no async, no allocation in a tick that changes nothing.
//!
//! Time comes in with [`Now`], so tests drive a sampler without sleeping. Exact counters are differences of
//! cumulative readings, so a late or failed read delays usage into the next reading and never loses it; the slot of
//! a histogram value must have the right length, so such a reading gives no value there.

use std::sync::Arc;
use std::time::Duration;

use optipod_common::frame::Frame;
use optipod_common::time::Timestamp;
use tracing::{info, warn};

use crate::cgroup::reader::{Buffer, ReadError};
use crate::discover::{Change, Discovery};
use crate::metrics::Metrics;
use crate::rate::Rate;
use crate::subject::{Container, Pod, Slots, Stalled};

/// A slow reading is taken once a second: memory, pods, the one-second CPU series.
const SECOND: Duration = Duration::from_secs(1);
/// Longest interval that a frame may describe (`optipod_proto::convert::MAX_FRAME_INTERVAL`): after a longer stop of
/// the process the frame says that its usage is of the last ten minutes.
const MAX_INTERVAL: Duration = optipod_proto::convert::MAX_FRAME_INTERVAL;

/// The clocks, read once per tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Duration,
    /// `CLOCK_REALTIME`.
    pub wall: Timestamp,
    /// CPU time of this process so far.
    pub own_cpu: Duration,
}

/// What a sampler needs to know.
#[derive(Clone, Copy, Debug)]
pub struct SamplerOptions {
    /// Identifies this run of the agent: unix microseconds of its start.
    pub epoch: u64,
    /// Samples per second at most; divides 1000.
    pub hertz: u32,
    /// Time between frames.
    pub frame_interval: Duration,
    /// CPU that the agent may use before it samples less often; 0 = no limit.
    pub cpu_budget_millicores: u32,
    /// Monotonic clock for the time of each single reading; without it all readings of a tick have the tick's time.
    pub reading_clock: Option<fn() -> Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    start: Now,
    next_second: Duration,
    last_tick: Duration,
}

/// Reads every container and pod of the node.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rate: Rate,
    discovery: Discovery,
    changes: Vec<Change>,
    buffer: Buffer,
    containers: Vec<Container>,
    pods: Vec<Pod>,
    stalled: Stalled,
    interval: Option<Interval>,
    sequence: u64,
    metrics: Arc<Metrics>,
}

impl Sampler {
    /// Nothing is read before the first [`Self::tick`].
    pub fn new(options: SamplerOptions, discovery: Discovery, metrics: Arc<Metrics>) -> Self {
        let rate = Rate::new(options.hertz.max(1), options.cpu_budget_millicores);
        metrics.sample_hertz.set(rate.hertz().into());
        Self {
            options,
            rate,
            discovery,
            changes: Vec::new(),
            buffer: Buffer::default(),
            containers: Vec::new(),
            pods: Vec::new(),
            stalled: Stalled::default(),
            interval: None,
            sequence: 0,
            metrics,
        }
    }

    /// Opens files for each reading, instead of keeping three descriptors for each cgroup. For processes that have few:
    /// a reading costs about three times as much. Before the first tick only.
    pub fn open_for_each_reading(&mut self) {
        self.buffer = Buffer::opening();
    }

    /// Time between two ticks at the current rate.
    pub const fn period(&self) -> Duration {
        self.rate.period()
    }

    /// Changes the time between frames, at once.
    pub const fn set_frame_interval(&mut self, interval: Duration) {
        self.options.frame_interval = interval;
    }

    /// True when a kubepods root was found.
    pub fn has_roots(&self) -> bool {
        self.discovery.has_roots()
    }

    /// Reads once. Gives a frame when its interval is over.
    pub fn tick(&mut self, now: Now) -> Option<Frame> {
        let period = self.rate.period();
        let half = period / 2;
        let mut interval = self.interval.unwrap_or(Interval {
            start: now,
            next_second: now.monotonic + SECOND,
            last_tick: now.monotonic,
        });
        if now.monotonic.saturating_sub(interval.last_tick) > period + half {
            self.metrics.late_ticks.inc();
        }
        interval.last_tick = now.monotonic;
        let second = now.monotonic + half >= interval.next_second;
        if second {
            interval.next_second = following(interval.next_second, now.monotonic + half, SECOND);
        }
        self.interval = Some(interval);
        self.discover(now);
        self.read(now, period, second);
        let elapsed = now.monotonic.saturating_sub(interval.start.monotonic);
        if elapsed + half >= self.options.frame_interval { self.flush(now) } else { None }
    }

    /// Ends the interval now; `None` when no time has passed since the last frame.
    pub fn flush(&mut self, now: Now) -> Option<Frame> {
        let interval = self.interval?;
        let elapsed = now.monotonic.checked_sub(interval.start.monotonic).filter(|e| e.as_micros() > 0)?;
        let end = interval.start.wall + elapsed;
        let start = interval.start.wall.max(end - MAX_INTERVAL);
        let mut report = reporter(&self.metrics);
        let containers =
            self.containers.iter_mut().filter_map(|c| c.record(&mut self.buffer, &mut report)).collect();
        let pods = self.pods.iter_mut().filter_map(|p| p.record(&mut self.buffer, &mut report)).collect();
        let stalled = self.stalled.read(self.discovery.mount(), &mut self.buffer, &mut report);
        drop(report);
        let memory_stall = u32::try_from(u128::from(stalled) * 1000 / elapsed.as_micros()).unwrap_or(1000);
        self.containers.retain(|c| !c.has_ended());
        self.pods.retain(|p| !p.has_ended());
        self.sequence += 1;
        let frame = Frame {
            epoch: self.options.epoch,
            sequence: self.sequence,
            start,
            end,
            sample_hertz: self.rate.hertz(),
            dropped_frames: 0,
            memory_stall: memory_stall.min(1000),
            containers,
            pods,
        };
        self.interval = Some(Interval { start: now, ..interval });
        self.limit_self(now.own_cpu.saturating_sub(interval.start.own_cpu), elapsed);
        Some(frame)
    }

    /// Lowers or raises the rate. Logs are empty here, so each histogram has one slot length.
    fn limit_self(&mut self, used: Duration, elapsed: Duration) {
        let Some(change) = self.rate.judge(used, elapsed) else { return };
        let budget = self.options.cpu_budget_millicores;
        let (from, to, used_millicores) = (change.from, change.to, change.used_millicores);
        if to < from {
            warn!(from, to, used_millicores, budget, "own CPU is over its budget: sampling less often");
        } else {
            info!(from, to, used_millicores, budget, "own CPU allows sampling more often");
        }
        self.metrics.sample_hertz.set(to.into());
        let slot = self.rate.slot_millis();
        self.containers.iter_mut().for_each(|c| c.set_tick_slot(slot));
    }

    fn discover(&mut self, now: Now) {
        self.discovery.poll(now.monotonic, &mut self.changes);
        if self.changes.is_empty() {
            return;
        }
        let slots = Slots {
            tick_millis: self.rate.slot_millis(),
            per_frame: usize::try_from(self.options.frame_interval.as_secs() + 1).unwrap_or(1),
        };
        let mut report = reporter(&self.metrics);
        for change in self.changes.drain(..) {
            match change {
                Change::PodAppeared { pod, qos, inode, path } => {
                    match self.pods.iter_mut().find(|p| p.is(inode, &pod)) {
                        Some(known) => known.revive(),
                        None => self.pods.push(Pod::new(pod, qos, inode, path)),
                    }
                }
                Change::PodVanished { pod, inode } => {
                    self.pods.iter_mut().filter(|p| p.is(inode, &pod)).for_each(Pod::end);
                }
                Change::ContainerAppeared { key, pod, qos, path } => {
                    match self.containers.iter_mut().find(|c| c.key() == key) {
                        Some(known) => known.revive(),
                        None => self.containers.push(Container::new(key, pod, qos, path, slots)),
                    }
                }
                Change::ContainerVanished { key } => {
                    self.containers.iter_mut().filter(|c| c.key() == key).for_each(Container::end);
                }
                Change::ContainerMemoryEvents { key } => {
                    for container in self.containers.iter_mut().filter(|c| c.key() == key) {
                        container.read_memory_events(&mut self.buffer, &mut report);
                    }
                }
                Change::PodMemoryEvents { inode } => {
                    for pod in self.pods.iter_mut().filter(|p| p.inode() == inode) {
                        pod.read_memory_events(&mut self.buffer, &mut report);
                    }
                }
            }
        }
        let live = self.containers.iter().filter(|c| !c.has_ended()).count();
        self.metrics.containers.set(i64::try_from(live).unwrap_or(i64::MAX));
        let live = self.pods.iter().filter(|p| !p.has_ended()).count();
        self.metrics.pods.set(i64::try_from(live).unwrap_or(i64::MAX));
    }

    fn read(&mut self, now: Now, period: Duration, second: bool) {
        let clock = self.options.reading_clock;
        let time = || clock.map_or(now.monotonic, |clock| clock());
        let mut report = reporter(&self.metrics);
        for container in &mut self.containers {
            container.read_cpu(time(), period, second, &mut self.buffer, &mut report);
            if second {
                container.read_memory(&mut self.buffer, &mut report);
            }
        }
        for pod in &mut self.pods {
            // its base is read as early as possible
            if second || pod.is_waiting() {
                pod.read(&mut self.buffer, &mut report);
            }
        }
    }
}

/// Counts reads that failed. A cgroup that went away is normal.
fn reporter(metrics: &Metrics) -> impl FnMut(&'static str, &ReadError) + '_ {
    |file, error| {
        if !error.is_gone() {
            metrics.read_errors.with_label_values(&[file]).inc();
            tracing::debug!(error = error as &dyn std::error::Error, "no sample");
        }
    }
}

/// The first of `at`, `at + step`, `at + 2 * step`, ... that is after `now`.
fn following(at: Duration, now: Duration, step: Duration) -> Duration {
    let behind = now.saturating_sub(at);
    let steps = u32::try_from(behind.as_nanos() / step.as_nanos().max(1)).unwrap_or(u32::MAX);
    at + step.saturating_mul(steps.saturating_add(1))
}

/// When to tick next: on the grid of the period, at least half a period away, so that after a late tick no slot is
/// shorter than half of what it should be.
pub fn next_deadline(previous: Duration, now: Duration, period: Duration) -> Duration {
    following(previous, now + period / 2, period).max(previous + period)
}
