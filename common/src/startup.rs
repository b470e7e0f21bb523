//! Start-up is not runtime: which part of a container's life a moment belongs to, and what earlier starts needed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::UsageHistogram;
use crate::ident::ContainerId;
use crate::packed::packed_fields;
use crate::policy::Until;
use crate::time::Timestamp;

/// A container that is not ready, or has not settled, for longer than this is not starting but broken or unready by
/// design: what it uses then is its use at runtime. A policy that states a duration knows better.
pub const LONGEST_START: Duration = Duration::from_secs(900);

/// How long the course of a start is followed.
const OBSERVED: Duration = Duration::from_secs(1800);

/// Starts that are remembered of one container of a workload; the oldest go first.
const STARTS: usize = 8;

/// Use is on its plateau when it stays within this share above what came last, in thousandths.
const PLATEAU: u64 = 1200;

/// Part of a container's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has just been started.
    Startup,
    /// It does what it is for.
    #[default]
    Runtime,
}

/// When a container started and became ready, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// When this life of the container started.
    pub started: Option<Timestamp>,
    /// Since when its pod is ready; `None` = it is not.
    pub ready_since: Option<Timestamp>,
}

/// Which part of its life a container is in. Without a known start it is at runtime: nothing may be kept out of the
/// evidence for want of a fact.
pub fn phase(until: Until, learned: Option<Duration>, life: &Lifetime, at: Timestamp) -> Phase {
    let Some(started) = life.started else { return Phase::Runtime };
    let age = at.since(started);
    let ended = match (until, learned) {
        (Until::For(duration), _) => age >= duration,
        _ if age >= LONGEST_START => true,
        (Until::Plateau, Some(learned)) => age >= learned,
        (Until::Ready | Until::Plateau, _) => life.ready_since.is_some_and(|ready| at >= ready),
    };
    if ended { Phase::Runtime } else { Phase::Startup }
}

/// Use of a container soon after its start, and what was learned from the starts before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartProfile {
    /// Oldest first.
    starts: Vec<Start>,
}

packed_fields!(StartProfile { starts });

/// One start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    container: ContainerId,
    at: Timestamp,
    /// Highest working set while starting, units of 64 KiB.
    memory: u64,
    /// What else is known, while frames may still come.
    open: Option<Box<OpenStart>>,
    /// What else was learned, once none may come any more.
    settled: Settled,
}

packed_fields!(Start { container, at, memory, open, settled });

/// A start of which frames may still come: some 3 KB.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OpenStart {
    /// CPU of one second while starting, units of 0.1 millicore.
    cpu: UsageHistogram,
    /// (seconds after the start, highest CPU of a second, highest working set), ascending; beyond readiness, too.
    course: Vec<(u32, u64, u64)>,
}

packed_fields!(OpenStart { cpu, course });

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Settled {
    /// P95 of CPU while starting, units of 0.1 millicore.
    cpu: u64,
    /// See [`LearnedStart::plateau`].
    plateau: Option<Duration>,
}

packed_fields!(Settled { cpu, plateau });

impl Start {
    /// P95 of CPU and plateau, as of now.
    fn learned(&self) -> Settled {
        self.open.as_ref().map_or(self.settled, |open| Settled {
            cpu: open.cpu.quantile(9500).unwrap_or(0),
            plateau: settled(&open.course),
        })
    }
}

/// What earlier starts needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedStart {
    /// Starts that were seen.
    pub starts: usize,
    /// The highest P95 of CPU of any start, units of 0.1 millicore.
    pub cpu: u64,
    /// The highest working set of any start, units of 64 KiB.
    pub memory: u64,
    /// The longest time until use settled; `None` while no start settled.
    pub plateau: Option<Duration>,
}

/// One interval of a container's life soon after its start.
#[derive(Clone, Copy, Debug)]
pub struct StartSample<'a> {
    /// Whose.
    pub container: ContainerId,
    /// When it started.
    pub started: Timestamp,
    /// End of the interval.
    pub end: Timestamp,
    /// It belongs to start-up.
    pub phase: Phase,
    /// CPU of one second, units of 0.1 millicore.
    pub cpu: &'a UsageHistogram,
    /// Highest working set, units of 64 KiB.
    pub memory: u64,
}

impl StartProfile {
    /// Adds an interval; those long after the start are ignored. The caller has made sure that it is new.
    pub fn add(&mut self, sample: &StartSample<'_>) {
        let StartSample { container, started, end, phase, cpu, memory } = *sample;
        let age = end.since(started);
        if (age > OBSERVED && phase == Phase::Runtime) || cpu.is_empty() {
            return;
        }
        if !self.starts.iter().any(|s| s.container == container) {
            let open = OpenStart { cpu: UsageHistogram::new(cpu.slot_millis()), course: Vec::new() };
            let fresh = Start {
                container,
                at: started,
                memory: 0,
                open: Some(Box::new(open)),
                settled: Settled::default(),
            };
            let at = self.starts.partition_point(|s| (s.at, s.container) < (started, container));
            self.starts.insert(at, fresh);
            if self.starts.len() > STARTS {
                self.starts.remove(0);
            }
        }
        let Some(start) = self.starts.iter_mut().find(|s| s.container == container) else { return };
        let Some(open) = &mut start.open else { return };
        if phase == Phase::Startup {
            // unlike slot lengths never merge: the agent changed its rate in the middle of a start
            if open.cpu.merge(cpu).is_err() {
                open.cpu = cpu.clone();
            }
            start.memory = start.memory.max(memory);
        }
        let point = (u32::try_from(age.as_secs()).unwrap_or(u32::MAX), cpu.max(), memory);
        let at = open.course.partition_point(|p| *p < point);
        open.course.insert(at, point);
    }

    /// No record of before `now` comes any more.
    pub fn settle(&mut self, now: Timestamp) {
        for start in self.starts.iter_mut().filter(|start| start.at + OBSERVED < now) {
            start.settled = start.learned();
            start.open = None;
        }
    }

    /// What was learned. Starts without a value while starting (they were ready at once) count as seen.
    pub fn learned(&self) -> LearnedStart {
        let settled = || self.starts.iter().map(Start::learned);
        LearnedStart {
            starts: self.starts.len(),
            cpu: settled().map(|start| start.cpu).max().unwrap_or(0),
            memory: self.starts.iter().map(|start| start.memory).max().unwrap_or(0),
            plateau: self.plateau(),
        }
    }

    /// See [`LearnedStart::plateau`].
    pub fn plateau(&self) -> Option<Duration> {
        self.starts.iter().filter_map(|start| start.learned().plateau).max()
    }

    /// When the newest start was.
    pub fn newest(&self) -> Option<Timestamp> {
        self.starts.last().map(|start| start.at)
    }

    /// Forgets starts after `now`: a clock that was wrong recorded them.
    pub fn rewind(&mut self, now: Timestamp) {
        self.starts.retain(|start| start.at <= now);
    }

    /// True when nothing was seen.
    pub const fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
}

/// When the course of a start reached its plateau: from there on CPU and memory stay near what the last third shows.
/// `None` when the course is too short to have a last third, or when the last third still moves.
fn settled(course: &[(u32, u64, u64)]) -> Option<Duration> {
    let tail = course.get(course.len() / 3 * 2..).filter(|tail| tail.len() >= 3)?;
    let highest = |of: fn(&(u32, u64, u64)) -> u64| tail.iter().map(of).max();
    let (cpu, memory) = (highest(|p| p.1)?, highest(|p| p.2)?);
    let lowest_memory = tail.iter().map(|p| p.2).min()?;
    // the exact maximum of a series may be any number
    let within = |value: u64, of: u64| u128::from(value) * 1000 <= u128::from(of) * u128::from(PLATEAU);
    if !within(memory, lowest_memory) {
        return None;
    }
    let near = |point: &&(u32, u64, u64)| within(point.1, cpu) && within(memory, point.2);
    let unsettled = course.iter().rposition(|point| !near(&point)).map_or(0, |at| at + 1);
    course.get(unsettled).map(|point| Duration::from_secs(point.0.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    #[test]
    fn start_up_ends_as_the_policy_says() {
        let life = |ready: Option<i64>| Lifetime { started: Some(at(0)), ready_since: ready.map(at) };
        let minute = Duration::from_secs(60);
        for (until, learned, ready, seconds, expected) in [
            (Until::Ready, None, None, 30, Phase::Startup),
            (Until::Ready, None, Some(40), 39, Phase::Startup),
            (Until::Ready, None, Some(40), 40, Phase::Runtime),
            (Until::Ready, None, None, 900, Phase::Runtime),
            (Until::For(minute), None, Some(1), 59, Phase::Startup),
            (Until::For(minute), None, None, 60, Phase::Runtime),
            (Until::For(minute * 60), None, None, 3599, Phase::Startup),
            (Until::For(minute * 60), None, None, 3600, Phase::Runtime),
            (Until::Plateau, Some(minute * 60), None, 900, Phase::Runtime),
            (Until::Plateau, Some(minute), Some(1), 59, Phase::Startup),
            (Until::Plateau, Some(minute), None, 60, Phase::Runtime),
            (Until::Plateau, None, Some(20), 20, Phase::Runtime),
        ] {
            assert_eq!(phase(until, learned, &life(ready), at(seconds)), expected, "{until:?} {seconds}");
        }
        let unknown = Lifetime { started: None, ready_since: None };
        assert_eq!(phase(Until::Ready, None, &unknown, at(0)), Phase::Runtime);
    }

    #[test]
    fn starts_are_learned_whatever_the_order_of_their_frames() {
        let points: Vec<(i64, u64, u64)> = (1..=12)
            .map(|n: i64| (n * 15, if n <= 4 { 9000 } else { 500 }, (100 * n.unsigned_abs()).min(400)))
            .collect();
        let profile = |order: &mut dyn Iterator<Item = &(i64, u64, u64)>| {
            let mut profile = StartProfile::default();
            for (age, cpu, memory) in order {
                let phase = if *age <= 60 { Phase::Startup } else { Phase::Runtime };
                let histogram = UsageHistogram::from_values(1000, [*cpu]);
                profile.add(&StartSample {
                    container: ContainerId::from_bytes([1; 32]),
                    started: at(0),
                    end: at(*age),
                    phase,
                    cpu: &histogram,
                    memory: *memory,
                });
            }
            profile
        };
        let forward = profile(&mut points.iter());
        assert_eq!(forward, profile(&mut points.iter().rev()));
        let learned = forward.learned();
        assert_eq!(
            (learned.starts, learned.memory, learned.plateau),
            (1, 400, Some(Duration::from_secs(75)))
        );
        assert!((9000..9100).contains(&learned.cpu), "{learned:?}");
        assert_eq!(settled(&[(15, u64::MAX, u64::MAX); 9]), Some(Duration::from_secs(15)));
    }

    #[test]
    fn a_start_that_is_long_over_keeps_what_was_learned() {
        let mut profile = StartProfile::default();
        let see = |profile: &mut StartProfile, age: i64| {
            let cpu = UsageHistogram::from_values(1000, [if age < 60 { 9000 } else { 500 }]);
            let phase = if age < 60 { Phase::Startup } else { Phase::Runtime };
            let (container, started) = (ContainerId::from_bytes([1; 32]), at(0));
            profile.add(&StartSample { container, started, end: at(age), phase, cpu: &cpu, memory: 400 });
        };
        (1..=12).for_each(|n| see(&mut profile, n * 15));
        let learned = profile.learned();
        profile.settle(at(1800));
        assert!(profile.starts[0].open.is_some(), "frames may still come");
        profile.settle(at(1801));
        assert!(profile.starts[0].open.is_none());
        see(&mut profile, 45);
        assert_eq!(profile.learned(), learned);
    }

    #[test]
    fn only_the_newest_starts_are_remembered_and_long_lives_are_none() {
        let mut profile = StartProfile::default();
        let histogram = UsageHistogram::from_values(1000, [10]);
        for start in 0..20_u8 {
            profile.add(&StartSample {
                container: ContainerId::from_bytes([start; 32]),
                started: at(i64::from(start) * 100),
                end: at(i64::from(start) * 100 + 15),
                phase: Phase::Startup,
                cpu: &histogram,
                memory: u64::from(start),
            });
        }
        assert_eq!((profile.learned().starts, profile.starts[0].memory), (STARTS, 12));
        let mut late = StartProfile::default();
        late.add(&StartSample {
            container: ContainerId::from_bytes([1; 32]),
            started: at(0),
            end: at(3600),
            phase: Phase::Runtime,
            cpu: &histogram,
            memory: 1,
        });
        assert!(late.is_empty());
    }
}
