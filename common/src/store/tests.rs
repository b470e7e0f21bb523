use proptest::prelude::*;

use super::*;
use crate::frame::CgroupLimits;
use crate::histogram::{MergedHistogram, UsageHistogram};
use crate::ident::{ContainerId, ContainerKey};
use crate::quantity::Bytes;
use crate::resources::QosClass;
use crate::sample::CpuCounters;

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(START + seconds)
}

fn record(cpu: &[u64], memory: &[u64]) -> ContainerRecord {
    ContainerRecord {
        key: ContainerKey { id: ContainerId::from_bytes([1; 32]), inode: 1 },
        pod: "d0511cd2-29d2-4215-be0f-f77bc0609d99".parse().unwrap(),
        qos: QosClass::Burstable,
        cpu_tick: UsageHistogram::from_values(100, cpu.iter().copied()),
        cpu_second: UsageHistogram::from_values(1000, cpu.iter().copied()),
        memory_working_set: UsageHistogram::from_values(1000, memory.iter().copied()),
        memory_total: UsageHistogram::from_values(1000, memory.iter().copied()),
        cpu: CpuCounters { usage_micros: cpu.iter().sum(), ..CpuCounters::default() },
        oom_kills: 0,
        limits: CgroupLimits { memory: Some(Bytes(1)), ..CgroupLimits::default() },
        ended: false,
    }
}

fn interval(start: Timestamp, end: Timestamp) -> Interval {
    Interval { start, end, variant: Variant::default(), phase: Phase::Runtime, started: None }
}

fn add(
    history: &mut History,
    record: &ContainerRecord,
    (start, end): (Timestamp, Timestamp),
    now: Timestamp,
) {
    history.add(record, &interval(start, end), now);
}

fn evidence(history: &History, now: Timestamp, window: Duration) -> Evidence {
    let variant = Variant::default();
    let histories = BTreeMap::from([(variant.clone(), history.clone())]);
    super::evidence::gather(&histories, Question { now, window, variant: &variant, resized: None })
}

fn variant(revision: &str, node_class: &str) -> Variant {
    Variant { revision: revision.into(), node_class: node_class.into() }
}

proptest! {
    #[test]
    fn order_of_frames_does_not_matter(order in Just((0..200_i64).collect::<Vec<_>>()).prop_shuffle()) {
        let now = at(4000);
        let merged = |order: &[i64]| {
            let mut history = History::default();
            for i in order {
                let i = *i;
                let value = i.unsigned_abs() * 7;
                add(&mut history, &record(&[value], &[value]), (at(i * 15), at(i * 15 + 15)), now);
            }
            history
        };
        let sorted: Vec<_> = (0..200).collect();
        prop_assert_eq!(merged(&order), merged(&sorted));
    }

    #[test]
    fn compaction_loses_nothing_within_retention(ages in prop::collection::vec(0..80_000_i64, 1..80)) {
        let mut history = History::default();
        for age in &ages {
            add(&mut history, &record(&[5], &[9]), (at(-age - 5), at(-age)), at(-age));
        }
        history.compact(at(0), Duration::from_secs(100_000));
        let evidence = evidence(&history, at(0), Duration::from_secs(100_000));
        prop_assert_eq!(evidence.cpu_seconds().unwrap().count(), ages.len() as u64);
        prop_assert_eq!(evidence.counters.usage_micros, 5 * ages.len() as u64);
    }
}

#[test]
fn coverage_counts_time_once_however_many_pods() {
    let mut history = History::default();
    for _pod in 0..3 {
        for i in 0..4 {
            add(&mut history, &record(&[1], &[1]), (at(i * 15), at(i * 15 + 15)), at(60));
        }
    }
    assert_eq!(evidence(&history, at(60), Duration::from_secs(120)).covered, Duration::from_secs(60));
    assert_eq!(evidence(&history, at(60), Duration::from_secs(60)).covered, Duration::from_secs(60));
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let mut history = History::default();
    add(&mut history, &record(&[100], &[1]), (at(0), at(15)), at(15));
    add(&mut history, &record(&[7], &[1]), (at(200), at(215)), at(215));
    let evidence = evidence(&history, at(220), Duration::from_secs(60));
    assert_eq!((evidence.cpu_seconds().unwrap().count(), evidence.cpu_seconds().unwrap().max()), (1, 7));
}

#[test]
fn rising_memory_is_seen_and_flat_is_not() {
    for (last, rising) in [(100, false), (104, false), (120, true)] {
        let mut history = History::default();
        for i in 0..20 {
            let value = if i >= 17 { last } else { 100 };
            add(&mut history, &record(&[1], &[value]), (at(i * 15), at(i * 15 + 15)), at(300));
        }
        let evidence = evidence(&history, at(300), Duration::from_secs(300));
        assert_eq!((evidence.recent.memory_rising, evidence.recent.memory_peak), (rising, last), "{last}");
    }
}

#[test]
fn memory_of_a_container_that_just_started_rises_until_a_slot_is_like_those_before() {
    for (peaks, expected) in [
        (&[][..], false),
        (&[100], true),
        (&[50, 100], true),
        (&[50, 90, 100], true),
        (&[100, 100], false),
        (&[50, 100, 104], false),
        (&[100, 60], false),
    ] {
        let mut history = History::default();
        for (i, peak) in (0..).zip(peaks) {
            add(&mut history, &record(&[1], &[*peak]), (at(i * 15), at(i * 15 + 15)), at(i * 15 + 15));
        }
        let now = at(15 * i64::try_from(peaks.len()).unwrap());
        let seen = evidence(&history, now, Duration::from_secs(300)).recent.memory_rising;
        assert_eq!(seen, expected, "{peaks:?}");
    }
}

#[test]
fn a_clock_far_ahead_is_dated_back() {
    let mut history = History::default();
    add(&mut history, &record(&[1], &[1]), (at(100_000), at(100_015)), at(0));
    assert_eq!(evidence(&history, at(0), Duration::from_secs(60)).cpu_seconds().unwrap().count(), 1);
}

#[test]
fn a_store_without_data_forgets_the_container() {
    let mut store = Store::default();
    let workload =
        crate::ident::WorkloadRef { kind: "Deployment".into(), namespace: "n".into(), name: "w".into() };
    let key = WorkloadContainer { workload, container: "c".into() };
    let variant = Variant::default();
    let question = Question { now: at(5), window: Duration::from_secs(60), variant: &variant, resized: None };
    store.add(key.clone(), &record(&[1], &[1]), &interval(at(0), at(5)), at(5));
    assert!(store.evidence(&key, question).is_some());
    store.compact(at(1_000_000), Duration::from_secs(3600));
    assert!(store.is_empty() && store.evidence(&key, question).is_none());
}

const MINUTE: Duration = Duration::from_secs(60);

/// Uses of one minute by variant, gathered for the first one.
fn gathered(uses: &[(Variant, u64, u64)]) -> Evidence {
    let mut histories: BTreeMap<Variant, History> = BTreeMap::new();
    for (of, cpu, memory) in uses {
        let history = histories.entry(of.clone()).or_default();
        for i in 0..4 {
            add(history, &record(&[*cpu], &[*memory]), (at(i * 15), at(i * 15 + 15)), at(60));
        }
    }
    let question = Question { now: at(60), window: MINUTE, variant: &uses[0].0, resized: None };
    super::evidence::gather(&histories, question)
}

#[test]
fn unlike_pods_are_kept_apart() {
    let evidence = gathered(&[
        (variant("v2", "amd64/m5"), 10, 100),
        (variant("v1", "amd64/m5"), 999, 900),
        (variant("v2", "amd64/c7"), 500, 120),
        (variant("v2", "arm64/c7g"), 700, 800),
    ]);
    // CPU of the same kind of node only, memory of the same architecture
    assert_eq!(evidence.cpu_seconds().map(MergedHistogram::max), Some(10));
    assert_eq!(evidence.memory.max(), 120);
    assert_eq!((evidence.recent.memory_peak, evidence.covered), (120, MINUTE));
    let others = evidence.others.unwrap();
    assert_eq!(super::evidence::most(&others.cpu).map(MergedHistogram::max), Some(999));
    assert_eq!(others.memory.max(), 900);
}

#[test]
fn a_revision_without_data_of_its_own_has_only_what_others_used() {
    let mut histories = BTreeMap::new();
    let mut history = History::default();
    add(&mut history, &record(&[7], &[9]), (at(0), at(15)), at(15));
    histories.insert(variant("v1", ""), history);
    let new = variant("v2", "");
    let question = Question { now: at(15), window: MINUTE, variant: &new, resized: None };
    let evidence = super::evidence::gather(&histories, question);
    assert!(evidence.cpu_seconds().is_none() && !evidence.recent.fresh);
    assert_eq!(evidence.others.map(|others| others.memory.max()), Some(9));
}

#[test]
fn the_daily_peak_of_an_earlier_revision_has_to_be_seen_by_the_new_one() {
    let (old, new) = (variant("v1", ""), variant("v2", ""));
    let day = 24 * 3600;
    let midnight = -START.rem_euclid(day);
    let mut histories: BTreeMap<Variant, History> = BTreeMap::new();
    let mut use_of = |of: &Variant, hour: i64, cpu: u64| {
        let start = at(midnight + hour * 3600);
        let history = histories.entry(of.clone()).or_default();
        add(history, &record(&[cpu], &[1]), (start, start + FINE_SLOT), start + FINE_SLOT);
    };
    (0..24).for_each(|hour| use_of(&old, hour, if hour == 2 { 900 } else { 100 }));
    (24..26).for_each(|hour| use_of(&new, hour, 50));
    let ask = |histories: &BTreeMap<Variant, History>, hour: i64| {
        let question = Question {
            now: at(midnight + hour * 3600),
            window: Duration::from_secs(24 * 3600),
            variant: &new,
            resized: None,
        };
        super::evidence::gather(histories, question).unseen_peak_hour
    };
    assert_eq!(ask(&histories, 26), Some(2));
    let start = at(midnight + 26 * 3600);
    add(
        histories.get_mut(&new).unwrap(),
        &record(&[60], &[1]),
        (start, start + FINE_SLOT),
        start + FINE_SLOT,
    );
    assert_eq!(ask(&histories, 27), None);
}

#[test]
fn pods_that_nobody_sees_lower_the_coverage() {
    let mut history = History::default();
    for i in 0..8 {
        add(&mut history, &record(&[1], &[1]), (at(i * 15), at(i * 15 + 15)), at(120));
    }
    // two pods ran, one was seen
    history.ran(at(0), at(60));
    history.ran(at(0), at(60));
    let evidence = evidence(&history, at(120), Duration::from_secs(120));
    assert_eq!((evidence.covered, evidence.coverage()), (Duration::from_secs(120), Duration::from_secs(60)));
}

#[test]
fn start_up_is_not_evidence_of_runtime_but_of_the_next_start() {
    let mut history = History::default();
    let starting = Interval { phase: Phase::Startup, started: Some(at(0)), ..interval(at(0), at(15)) };
    history.add(&record(&[900], &[500]), &starting, at(15));
    let running = Interval { started: Some(at(0)), ..interval(at(15), at(30)) };
    history.add(&record(&[10], &[80]), &running, at(30));
    let evidence = evidence(&history, at(30), MINUTE);
    assert_eq!(evidence.cpu_seconds().map(MergedHistogram::max), Some(10));
    assert_eq!((evidence.memory.max(), evidence.covered), (80, Duration::from_secs(15)));
    // what is in use is in use
    assert_eq!(evidence.recent.memory_peak, 500);
    assert_eq!((evidence.startup.memory, evidence.cpu_peaks.highest(at(30), MINUTE)), (500, Some(10)));
}

#[test]
fn ticks_of_unlike_length_never_merge() {
    let mut history = History::default();
    let mut slow = record(&[40], &[1]);
    slow.cpu_tick = UsageHistogram::from_values(500, [7777; 2]);
    for i in 0..4 {
        add(&mut history, &record(&[5; 100], &[1]), (at(i * 15), at(i * 15 + 15)), at(60));
        add(&mut history, &slow, (at(i * 15), at(i * 15 + 15)), at(60));
    }
    let evidence = evidence(&history, at(60), MINUTE);
    let (length, ticks) = evidence.cpu_ticks().unwrap();
    assert_eq!((length, ticks.max(), evidence.cpu_tick.len()), (100, 5, 2));
}

#[test]
fn an_oom_kill_is_remembered_with_what_was_too_small() {
    let mut history = History::default();
    let mut killed = record(&[1], &[90]);
    killed.oom_kills = 1;
    killed.limits.memory = Some(Bytes(100 << 16));
    add(&mut history, &killed, (at(0), at(15)), at(15));
    for i in 1..5 {
        add(&mut history, &record(&[1], &[50]), (at(i * 15), at(i * 15 + 15)), at(75));
    }
    let oom = evidence(&history, at(75), MINUTE).oom.unwrap();
    assert_eq!((oom.size, oom.seen_since), (100, MINUTE));
}

#[test]
fn throttling_before_a_resize_says_nothing_about_the_size_after_it() {
    let mut history = History::default();
    for i in 0..8 {
        let mut throttled = record(&[1], &[1]);
        throttled.cpu.periods = 150;
        throttled.cpu.throttled_periods = if i < 4 { 150 } else { 0 };
        add(&mut history, &throttled, (at(i * 15), at(i * 15 + 15)), at(120));
    }
    let histories = BTreeMap::from([(Variant::default(), history)]);
    let variant = Variant::default();
    let ask = |resized| {
        let question = Question { now: at(120), window: MINUTE * 2, variant: &variant, resized };
        super::evidence::gather(&histories, question).throttled_now()
    };
    assert_eq!((ask(None), ask(Some(at(60)))), (500, 0));
}

#[test]
fn limits_that_throttled_are_remembered_whatever_the_order_of_frames() {
    let frame = |i: i64| {
        let mut throttled = record(&[1], &[1]);
        let limit = if i < 4 { 200 } else { 300 };
        // in the frame in which the limit is raised, the lower one throttled and the higher one is read
        throttled.limits.cpu = Some(crate::quantity::MilliCpu(limit));
        throttled.cpu.periods = 150;
        throttled.cpu.throttled_periods = if i <= 4 { 30 } else { 3 };
        (throttled, (at(i * 15), at(i * 15 + 15)))
    };
    let known = |order: &mut dyn Iterator<Item = i64>| {
        let mut history = History::default();
        for (record, times) in order.map(frame) {
            add(&mut history, &record, times, at(120));
        }
        history.compact(at(120), MINUTE * 60);
        evidence(&history, at(120), MINUTE).throttles
    };
    let forward = known(&mut (0..8));
    let expected = ThrottleEvidence { limit: crate::quantity::MilliCpu(200), seen_since: MINUTE };
    assert_eq!(forward, [expected]);
    assert_eq!(known(&mut (0..8).rev()), forward);
}
