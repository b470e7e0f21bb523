use std::sync::LazyLock;

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

/// Frames of 15 s: use, whether throttled, whether it ended with a kill at a limit of this many units.
fn frames() -> impl Strategy<Value = Vec<(usize, u64, bool, Option<u64>)>> {
    let frame = (1..5000_u64, any::<bool>(), prop::option::weighted(0.1, 1..9000_u64));
    prop::collection::vec(frame, 1..200).prop_map(|frames| {
        (0..).zip(frames).map(|(n, (used, throttled, kill))| (n, used, throttled, kill)).collect()
    })
}

fn add_frame(
    history: &mut History,
    (n, used, throttled, kill): (usize, u64, bool, Option<u64>),
    now: Timestamp,
) {
    let mut frame = record(&[used], &[used]);
    frame.cpu.periods = 150;
    frame.cpu.throttled_periods = if throttled { 150 } else { 0 };
    frame.oom_kills = u64::from(kill.is_some());
    frame.limits.memory = kill.map(|units| Bytes(units << 16));
    let start = i64::try_from(n).unwrap() * 15;
    add(history, &frame, (at(start), at(start + 15)), now);
}

proptest! {
    #[test]
    fn order_of_frames_does_not_matter(
        (sorted, shuffled) in frames().prop_flat_map(|f| (Just(f.clone()), Just(f).prop_shuffle())),
        settled in 0..3000_i64,
    ) {
        let merged = |frames: &[(usize, u64, bool, Option<u64>)]| {
            let mut history = History::default();
            for frame in frames {
                add_frame(&mut history, *frame, at(3000));
            }
            history
        };
        prop_assert_eq!(merged(&shuffled), merged(&sorted));
        // and not which of them came before the leader settled what is final
        let mut live = History::default();
        for frame in &sorted {
            let now = at(i64::try_from(frame.0).unwrap() * 15 + 15);
            add_frame(&mut live, *frame, now);
            live.compact(now, Duration::from_secs(100_000));
        }
        let mut replayed = History::default();
        let is_late = |frame: &(usize, u64, bool, Option<u64>)| i64::try_from(frame.0).unwrap() * 15 > settled;
        let (late, early): (Vec<_>, Vec<_>) = shuffled.into_iter().partition(is_late);
        for frame in early {
            add_frame(&mut replayed, frame, at(3000));
        }
        replayed.compact(at(settled), Duration::from_secs(100_000));
        for frame in late {
            add_frame(&mut replayed, frame, at(3000));
        }
        let [live, replayed] = [live, replayed].map(|history| evidence(&history, at(3000), Duration::from_secs(3000)));
        prop_assert_eq!(live.memory_adaptive, replayed.memory_adaptive);
        prop_assert_eq!(live.cpu_adaptive, replayed.cpu_adaptive);
        prop_assert_eq!(live.ooms, replayed.ooms);
    }

    #[test]
    fn compaction_loses_nothing_within_retention(ages in prop::collection::vec(0..80_000_i64, 1..80)) {
        let mut history = History::default();
        let mut ages = ages;
        ages.sort_unstable_by(|a, b| b.cmp(a));
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

fn container() -> WorkloadContainer {
    let workload =
        crate::ident::WorkloadRef { kind: "Deployment".into(), namespace: "n".into(), name: "w".into() };
    WorkloadContainer { workload, container: "c".into() }
}

#[test]
fn what_nobody_runs_any_more_is_remembered_for_four_weeks() {
    let mut store = Store::default();
    let key = container();
    let variant = Variant::default();
    let mut killed = record(&[100], &[1]);
    killed.oom_kills = 1;
    let started = Interval { started: Some(at(0)), ..interval(at(0), at(5)) };
    store.add(key.clone(), &killed, &started, at(5));
    let day = 24 * 3600;
    let ask = |store: &mut Store, now| {
        store.compact(now, MINUTE);
        store.evidence(&key, Question { now, window: MINUTE, variant: &variant, resized: None })
    };
    let evidence = ask(&mut store, at(27 * day)).unwrap();
    assert!(evidence.cpu_seconds().is_none());
    assert_eq!((evidence.startup.starts, !evidence.ooms.is_empty()), (1, true));
    assert_eq!(evidence.cpu_adaptive.size(crate::policy::Objective::Balanced), Some(105));
    assert_eq!(ask(&mut store, at(21 * day)).unwrap().cpu_peaks.hour_of_week(at(21 * day)), Some(100));
    assert!(ask(&mut store, at(29 * day)).is_none() && store.is_empty());
}

#[test]
fn of_many_revisions_those_in_use_and_the_newest_are_remembered() {
    let mut store = Store::default();
    let hour = |n: i64| at(n * 3600);
    for n in 0..20 {
        let revision = format!("v{n:02}");
        let interval = Interval { variant: variant(&revision, ""), ..interval(hour(n), hour(n) + FINE_SLOT) };
        store.add(container(), &record(&[1], &[1]), &interval, interval.end);
    }
    let kept = |store: &Store| store.variants(&container()).map(|v| v.revision.clone()).collect::<Vec<_>>();
    store.compact(hour(20), Duration::from_secs(24 * 3600));
    assert_eq!(kept(&store).len(), 20, "all have use within the retention");
    store.compact(hour(20), Duration::from_secs(3 * 3600));
    assert_eq!(kept(&store), ["v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19"]);
}

/// A suite that runs each night at 02:00, Monday to Friday, for four weeks; the pods of the weekend are gone, and each
/// Wednesday at noon there is a new revision.
#[test]
fn a_suite_of_each_night_is_known_across_deploys_and_weekends() {
    let mut store = Store::default();
    let days = 86_400;
    // a Monday, midnight
    let monday = 1_799_625_600 - START;
    let time = |day: i64, hour: i64| at(monday + day * days + hour * 3600);
    let revision = |day: i64, hour: i64| format!("v{}", (day * 24 + hour + 24 * 4 + 12) / (7 * 24));
    let mut question_at = |from: i64, day: i64, hour: i64| {
        for (day, hour) in (from..=day).flat_map(|day| (0..24).map(move |hour| (day, hour))) {
            if day % 7 < 5 {
                let use_of = if hour == 2 { 9000 } else { 100 };
                let start = time(day, hour);
                let interval = Interval {
                    variant: variant(&revision(day, hour), ""),
                    ..interval(start, start + FINE_SLOT)
                };
                store.add(container(), &record(&[use_of], &[use_of]), &interval, interval.end);
            }
            store.compact(time(day, hour) + MINUTE, Duration::from_secs(30 * 3600));
        }
        let now = time(day, hour);
        let variant = variant(&revision(day, hour), "");
        let question =
            Question { now, window: Duration::from_secs(86_400), variant: &variant, resized: None };
        store.evidence(&container(), question).unwrap()
    };
    // at the beginning of the third week, after two deploys and two weekends
    let evidence = question_at(0, 14, 1);
    for peaks in [&evidence.cpu_peaks, &evidence.memory_peaks] {
        assert_eq!(
            (peaks.hour_of_week(evidence.now), peaks.repeated(evidence.now)),
            (Some(9000), Some(9000))
        );
        let noon = time(14, 12);
        assert_eq!((peaks.hour_of_week(noon), peaks.repeated(noon)), (Some(100), Some(100)));
    }
    // on a Saturday nothing runs, and nothing ever did
    let evidence = question_at(15, 19, 2);
    assert_eq!(evidence.cpu_peaks.hour_of_week(evidence.now), None);
    // and the revision of a Wednesday afternoon was never seen at 02:00
    let evidence = question_at(20, 23, 13);
    assert_eq!(evidence.unseen_peak_hour, Some(2));
    assert_eq!(evidence.cpu_peaks.repeated(time(24, 2)), Some(9000));
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
    let sibling: Vec<_> =
        evidence.memory_siblings.iter().filter_map(|s| s.size(crate::policy::Objective::Balanced)).collect();
    assert_eq!(sibling, [126], "of the same revision and architecture");
    let others = evidence.others.unwrap();
    assert_eq!(super::evidence::most(&others.cpu).map(MergedHistogram::max), Some(999));
    assert_eq!(others.memory.max(), 900);
}

#[test]
fn what_adaptive_learned_of_other_revisions_is_known_as_long_as_they_are_the_last_that_ran() {
    let mut histories: BTreeMap<Variant, History> = BTreeMap::new();
    let hours = |n: i64| at(n * 3600);
    for (revision, hour, used) in [("v1", 0, 9000), ("v2", 60, 100), ("v3", 61, 200)] {
        let start = hours(hour);
        let history = histories.entry(variant(revision, "")).or_default();
        add(history, &record(&[used], &[used]), (start, start + FINE_SLOT), start + FINE_SLOT);
    }
    let new = variant("v4", "");
    // a weekend later
    let question =
        Question { now: hours(120), window: Duration::from_secs(86_400), variant: &new, resized: None };
    let others = super::evidence::gather(&histories, question).others.unwrap();
    for states in [&others.cpu_adaptive, &others.memory_adaptive] {
        let sizes: Vec<_> =
            states.iter().filter_map(|s| s.size(crate::policy::Objective::Balanced)).collect();
        assert_eq!(sizes, [105, 210], "what ran two days before that does not count");
    }
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
    let hours: Vec<u64> = evidence.cpu_peaks.ring().iter().map(|(_, peak)| peak).collect();
    assert_eq!((evidence.startup.memory, hours), (500, vec![10]));
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
    let oom = evidence(&history, at(75), MINUTE).ooms[0];
    assert_eq!((oom.size, oom.seen_since), (100, MINUTE));
}

#[test]
fn a_kill_of_an_earlier_revision_counts_until_this_one_is_known() {
    let (old, new) = (variant("v1", ""), variant("v2", ""));
    let mut killed = record(&[1], &[90]);
    killed.oom_kills = 1;
    killed.limits.memory = Some(Bytes(100 << 16));
    let mut histories =
        BTreeMap::from([(old.clone(), History::default()), (new.clone(), History::default())]);
    add(histories.get_mut(&old).unwrap(), &killed, (at(0), at(15)), at(15));
    let mut after = |minutes: i64, compacted: bool| {
        let own = histories.get_mut(&new).unwrap();
        for i in 1..=minutes * 4 {
            add(own, &record(&[1], &[50]), (at(i * 15), at(i * 15 + 15)), at(minutes * 60 + 15));
        }
        let now = at(minutes * 60 + 15);
        if compacted {
            own.compact(now + Duration::from_secs(4 * 86_400), Duration::from_secs(86_400));
        }
        let question = Question { now, window: MINUTE, variant: &new, resized: None };
        let oom = super::evidence::gather(&histories, question).ooms[0];
        (oom.size, oom.seen_since)
    };
    assert_eq!(after(0, false), (100, Duration::ZERO));
    assert_eq!(after(7, false), (100, 7 * MINUTE));
    // of what is older than the window, whole days count: from midnight after the kill until 10:00 a day later
    assert_eq!(after(3000, true), (100, Duration::from_secs(24 * 3600 + 10 * 3600 + 15)));
}

#[test]
fn a_clock_that_was_a_day_ahead_freezes_nothing() {
    let mut history = History::default();
    let (day, hour) = (86_400, 3600);
    let play = |history: &mut History, from: i64, to: i64, used: u64| {
        for start in (from..to).step_by(15) {
            add(history, &record(&[used], &[used]), (at(start), at(start + 15)), at(start + 15));
        }
        history.compact(at(to), Duration::from_secs(100_000));
    };
    play(&mut history, 0, hour, 1000);
    // for two hours the clock is wrong
    play(&mut history, 2 * day, 2 * day + 2 * hour, 7000);
    play(&mut history, hour, 2 * hour, 2000);
    let evidence = evidence(&history, at(2 * hour), Duration::from_secs(7200));
    assert_eq!((evidence.memory.max(), evidence.recent.memory_peak), (2000, 2000));
    assert_eq!(evidence.cpu_peaks.ring().iter().map(|(_, peak)| peak).max(), Some(2000));
    for adaptive in [&evidence.cpu_adaptive, &evidence.memory_adaptive] {
        assert_eq!(adaptive.newest(), Some(at(2 * hour - 60)));
        assert!(adaptive.size(crate::policy::Objective::Balanced).unwrap() >= 2000);
    }
    // a raise in the first minute after is seen
    play(&mut history, 2 * hour, 2 * hour + 60, 9000);
    let raised = super::tests::evidence(&history, at(2 * hour + 60), MINUTE).cpu_adaptive;
    assert!(raised.size(crate::policy::Objective::Balanced).unwrap() >= 9000);
}

#[test]
fn throttled_pods_raise_nothing_but_what_they_need_themselves() {
    for (hot_throttled, expected) in [(false, 1000), (true, 1250)] {
        let mut history = History::default();
        for (used, throttled) in [(1000, hot_throttled), (40, true)] {
            let mut frame = record(&[used], &[used]);
            frame.cpu.periods = 150;
            frame.cpu.throttled_periods = if throttled { 150 } else { 0 };
            add(&mut history, &frame, (at(0), at(15)), at(15));
        }
        let peaks = evidence(&history, at(15), MINUTE).cpu_peaks;
        assert_eq!(peaks.ring().iter().map(|(_, peak)| peak).collect::<Vec<_>>(), [expected]);
    }
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
fn a_short_window_leaves_out_what_a_coarse_slot_holds_of_before() {
    let mut history = History::default();
    for n in 0..24 {
        // two minutes of much, then little
        let used = if n < 8 { 900 } else { 100 };
        add(&mut history, &record(&[used], &[1]), (at(n * 15), at(n * 15 + 15)), at(n * 15 + 15));
        history.compact(at(n * 15 + 15), MINUTE * 60);
    }
    let mean = |window| evidence(&history, at(360), window).cpu_seconds().unwrap().mean();
    assert_eq!(mean(MINUTE * 2), Some(100));
    assert!(mean(MINUTE * 60) > Some(300));
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

/// The state after some hours with everything that can be remembered.
static VARIED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut history = History::default();
    for n in 0..900_usize {
        let used = 100 + (n as u64 * 7919) % 5000;
        add_frame(&mut history, (n, used, n.is_multiple_of(5), (n == 700).then_some(9000)), at(13_500));
    }
    for n in 0..12 {
        let interval = Interval {
            phase: Phase::Startup,
            started: Some(at(13_000)),
            ..interval(at(13_000 + n * 15), at(13_015 + n * 15))
        };
        history.add(&record(&[9000], &[900]), &interval, at(13_500));
    }
    history.ran(at(13_000), at(13_500));
    history.compact(at(13_500), MINUTE * 60);
    history.encode()
});

proptest! {
    #[test]
    fn bytes_that_are_no_state_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(History::decode(&bytes).is_err());
    }

    #[test]
    fn a_damaged_state_is_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        let mut bytes = VARIED.clone();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        prop_assert!(History::decode(&bytes).is_err());
    }

    #[test]
    fn no_clock_of_an_agent_breaks_it(frames in prop::collection::vec((any::<i64>(), 0..64_u32, any::<u64>()), 1..20)) {
        let mut history = History::default();
        for (micros, shift, used) in frames.into_iter().chain([(i64::MIN, 0, u64::MAX), (i64::MAX, 0, 0)]) {
            let start = Timestamp::from_unix_micros(micros >> shift);
            let mut frame = record(&[used], &[used]);
            frame.oom_kills = 1;
            let interval = Interval { started: Some(start), ..interval(start, start + FINE_SLOT) };
            history.add(&frame, &interval, at(0));
            history.compact(at(0), MINUTE * 60);
            evidence(&history, at(0), MINUTE * 60);
            let restored = History::decode(&history.encode());
            prop_assert_eq!(restored.as_ref(), Ok(&history));
        }
    }

    #[test]
    fn a_state_of_unlikely_values_breaks_nothing(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>(),
        shorter in any::<bool>(),
    ) {
        let mut bytes = VARIED.clone();
        let length = bytes.len() - 8;
        bytes.truncate(if shorter { cut.index(length) + 1 } else { length });
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let checksum = super::history::checksum(&bytes);
        bytes.extend(checksum.to_le_bytes());
        if let Ok(mut history) = History::decode(&bytes) {
            let again = History::decode(&history.encode());
            prop_assert_eq!(again.as_ref(), Ok(&history));
            evidence(&history, at(13_500), MINUTE * 60);
            for now in [at(13_515), at(40_000)] {
                add(&mut history, &record(&[500], &[500]), (now - FINE_SLOT, now), now);
                history.compact(now, MINUTE * 60);
                evidence(&history, now, MINUTE * 600);
            }
            history.pod("d0511cd2-29d2-4215-be0f-f77bc0609d99");
            history.settle(at(50_000));
        }
    }
}

/// A day of one pod at the rates of an agent, whose use lies within `spread` units.
fn day(spread: u64) -> History {
    let mut history = History::default();
    let mut random = 1_u64;
    for n in 0..24 * 240_i64 {
        let mut used = |count: usize| -> Vec<u64> {
            let next = |_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                1000 + (random >> 33) % spread
            };
            (0..count).map(next).collect()
        };
        let mut frame = record(&used(15), &used(15));
        frame.cpu_tick = UsageHistogram::from_values(100, used(150));
        frame.oom_kills = u64::from(n == 3000);
        let started = (n < 4).then(|| at(0));
        let interval = Interval { started, ..interval(at(n * 15), at(n * 15 + 15)) };
        history.add(&frame, &interval, at(n * 15 + 15));
        if n % 4 == 0 {
            history.compact(at(n * 15 + 15), Duration::from_secs(24 * 3600));
        }
    }
    history
}

#[test]
fn a_history_of_a_day_survives_a_checkpoint_and_its_size_is_bounded() {
    // how much the slots take depends on how many buckets use touches; all else does not
    for (spread, most) in [(10, 20 << 10), (1000, 44 << 10)] {
        let history = day(spread);
        let bytes = history.encode();
        assert_eq!(History::decode(&bytes).as_ref(), Ok(&history));
        assert!(bytes.len() < most, "{} bytes for use within {spread} units", bytes.len());
    }
}
