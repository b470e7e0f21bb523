//! From files to frames, by injected time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test helpers fail the test")]

mod support;

use std::fs;
use std::time::Duration;

use optipod_common::frame::ContainerRecord;
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{CgroupFacts, QosClass};
use proptest::prelude::*;
use support::{Driver, Tree, UID, hex, set, set_usage};

const TICK: Duration = Duration::from_millis(100);
const OTHER_UID: &str = "7922aa99-d4aa-4885-a953-82976860b23a";

#[test]
fn busy_container_becomes_exact_series() {
    let tree = Tree::new();
    let path = tree.container(UID, 0xab);
    let mut driver = Driver::new(&tree, 15, 0);
    for i in 0..=150 {
        set_usage(&path, i * 50_000);
        driver.tick_then(TICK);
    }
    assert_eq!(driver.frames.len(), 1);
    let frame = &driver.frames[0];
    assert_eq!((frame.sequence, frame.sample_hertz, frame.epoch), (1, 10, support::EPOCH));
    assert_eq!(frame.end.since(frame.start), Duration::from_secs(15));
    let [record] = frame.containers.as_slice() else { panic!("{:?}", frame.containers) };
    assert_eq!(record.key.id.to_string(), hex(0xab));
    assert_eq!((record.pod.as_str(), record.qos, record.ended), (UID, QosClass::Burstable, false));
    assert_eq!(record.cpu.usage_micros, 150 * 50_000);
    // half a core is 5000 units of 0.1 millicore
    for (series, slot, count) in [(&record.cpu_tick, 100, 150), (&record.cpu_second, 1000, 15)] {
        assert_eq!((series.slot_millis(), series.count(), series.max()), (slot, count, 5000));
        assert_eq!(series.sum(), 5000 * count);
    }
    assert_eq!((record.memory_total.count(), record.memory_total.max()), (15, 160));
    assert_eq!((record.memory_working_set.count(), record.memory_working_set.max()), (15, 128));
    assert_eq!(record.limits.cpu, Some(MilliCpu(500)));
    assert_eq!(record.limits.memory, Some(Bytes(134_217_728)));
    assert_eq!(record.limits.cpu_weight, Some(4));
    let [pod] = frame.pods.as_slice() else { panic!("{:?}", frame.pods) };
    assert_eq!((pod.pod.as_str(), pod.memory_max, pod.ended), (UID, Bytes(10_485_760), false));
}

#[test]
fn stalls_of_the_node_for_memory_are_a_share_of_the_frame() {
    let tree = Tree::new();
    tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 15, 0);
    let mut stall = |total: Option<u64>| {
        if let Some(total) = total {
            let line = |name| format!("{name} avg10=0.00 avg60=1.20 avg300=0.00 total={total}\n");
            support::set(tree.root(), "memory.pressure", &(line("some") + &line("full")));
        }
        driver.ticks(10);
        driver.flush().memory_stall
    };
    assert_eq!([stall(None), stall(Some(5_000_000))], [0, 0], "the first reading is the base");
    assert_eq!([stall(Some(5_070_000)), stall(Some(5_070_000))], [70, 0]);
}

#[test]
fn what_a_cgroup_does_beside_its_limits_is_told() {
    let tree = Tree::new();
    let path = tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 15, 0);
    driver.ticks(1);
    // a kernel without swap, and without any of the rest
    assert_eq!(driver.flush().containers[0].limits.facts, CgroupFacts::default());
    for (file, content) in [
        ("memory.swap.max", "268435456\n"),
        ("memory.swap.current", "1048576\n"),
        ("memory.high", "max\n"),
        ("memory.low", "67108864\n"),
        ("memory.min", "0\n"),
        ("cpu.max.burst", "50000\n"),
        ("cpuset.cpus", "2-3\n"),
        ("cpuset.mems", "\n"),
        ("memory.stat", "anon 4194304\ninactive_file 2097152\nshmem 524288\n"),
    ] {
        support::set(&path, file, content);
    }
    (0..4).for_each(|_| {
        driver.ticks(10);
        driver.flush();
    });
    driver.ticks(10);
    let frame = driver.flush();
    let record = &frame.containers[0];
    let shmem = Bytes(524_288);
    let told = CgroupFacts {
        swap: true,
        memory_qos: true,
        cpu_burst: true,
        exclusive_cpus: true,
        foreign_writer: false,
        shmem,
    };
    assert_eq!(record.limits.facts, told);
    // 10 MiB, 2 of them inactive, and 1 swapped
    assert_eq!((record.memory_total.max(), record.memory_working_set.max()), (176, 144));

    // a limit of 0 forbids it, and without one nothing has been swapped
    for (most, now, swaps) in [("0\n", "0\n", false), ("max\n", "0\n", false), ("max\n", "4096\n", true)] {
        support::set(&path, "memory.swap.max", most);
        support::set(&path, "memory.swap.current", now);
        (0..5).for_each(|_| {
            driver.ticks(1);
            driver.flush();
        });
        driver.ticks(1);
        assert_eq!(driver.flush().containers[0].limits.facts.swap, swaps, "{most} {now}");
    }
}

#[test]
fn containers_come_and_go_by_inotify() {
    let tree = Tree::new();
    tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 60, 0);
    driver.ticks(2);
    let path = tree.container(OTHER_UID, 2);
    // far less than a rescan later
    driver.ticks(2);
    set_usage(&path, 7000);
    driver.ticks(1);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    driver.ticks(1);
    let frame = driver.flush();
    let summary: Vec<_> =
        frame.containers.iter().map(|c| (c.key.id.to_string(), c.cpu.usage_micros, c.ended)).collect();
    assert_eq!(summary, [(hex(1), 0, false), (hex(2), 7000, true)]);
    let ended: Vec<_> = frame.pods.iter().map(|p| (p.pod.as_str(), p.ended)).collect();
    assert_eq!(ended, [(UID, false), (OTHER_UID, true)]);
    driver.ticks(1);
    let next = driver.flush();
    assert_eq!((next.containers.len(), next.pods.len(), next.sequence), (1, 1, 2));
}

#[test]
fn recreated_cgroup_is_another_life() {
    let tree = Tree::new();
    let path = tree.container(UID, 1);
    set_usage(&path, 900);
    let mut driver = Driver::new(&tree, 60, 0);
    driver.ticks(2);
    fs::rename(&path, tree.root().join("kept")).unwrap();
    tree.container(UID, 1);
    driver.ticks(2);
    let frame = driver.flush();
    let lives: Vec<bool> = frame.containers.iter().map(|c| c.ended).collect();
    assert_eq!(lives, [true, false]);
    assert_ne!(frame.containers[0].key.inode, frame.containers[1].key.inode);
    assert!(frame.containers.iter().all(|c| c.cpu.usage_micros == 0));
}

#[test]
fn roots_that_appear_later_are_found() {
    let tree = Tree::new();
    let mut driver = Driver::new(&tree, 60, 0);
    driver.ticks(1);
    assert!(!driver.sampler.has_roots());
    tree.container(UID, 1);
    driver.ticks(110);
    assert!(driver.sampler.has_roots());
    assert_eq!(driver.flush().containers.len(), 1);
}

#[test]
fn reset_counter_is_no_sample() {
    let tree = Tree::new();
    let path = tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 60, 0);
    for usage in [1_000_000, 1_010_000, 5_000, 9_000] {
        set_usage(&path, usage);
        driver.ticks(1);
    }
    let record = only(driver.flush().containers);
    assert_eq!(record.cpu.usage_micros, 14_000);
    assert_eq!((record.cpu_tick.count(), record.cpu_tick.max()), (2, 1000));
}

#[test]
fn truncated_and_vanished_files_are_no_sample_and_lose_nothing() {
    let tree = Tree::new();
    let path = tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 60, 0);
    driver.ticks(1);
    for content in ["", "usage_usec 99", "user_usec 3\n", "usage_usec x\n"] {
        set(&path, "cpu.stat", content);
        set(&path, "memory.current", "");
        driver.ticks(1);
    }
    set_usage(&path, 50_000);
    driver.ticks(1);
    let record = only(driver.flush().containers);
    assert_eq!(record.cpu.usage_micros, 50_000);
    assert!(record.cpu_tick.is_empty(), "the slot was five ticks long");
    let page = String::from_utf8(driver.metrics.render().unwrap()).unwrap();
    assert!(page.contains("optipod_agent_read_errors_total{file=\"cpu.stat\"} 4\n"), "{page}");
}

#[test]
fn late_tick_counts_in_the_exact_counters_only() {
    let tree = Tree::new();
    let path = tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 60, 0);
    driver.ticks(1);
    driver.now.monotonic += TICK;
    set_usage(&path, 40_000);
    driver.ticks(1);
    let record = only(driver.flush().containers);
    assert_eq!(driver.metrics.late_ticks.get(), 1);
    assert_eq!((record.cpu.usage_micros, record.cpu_tick.count()), (40_000, 0));
}

#[test]
fn oom_kills_are_read_when_they_happen() {
    let tree = Tree::new();
    let path = tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 60, 0);
    driver.ticks(2);
    set(&path, "memory.events", "oom 2\noom_kill 2\n");
    driver.ticks(1);
    // the runtime removes the cgroup before the frame ends
    fs::remove_dir_all(&path).unwrap();
    driver.ticks(1);
    let record = only(driver.flush().containers);
    assert_eq!((record.oom_kills, record.ended), (2, true));
}

#[test]
fn over_budget_lowers_the_rate_between_frames() {
    let tree = Tree::new();
    tree.container(UID, 1);
    let mut driver = Driver::new(&tree, 1, 10);
    for _ in 0..25 {
        driver.now.own_cpu += driver.sampler.period() / 50;
        driver.ticks(1);
    }
    let seen: Vec<_> = driver
        .frames
        .iter()
        .map(|f| (f.sample_hertz, f.containers[0].cpu_tick.slot_millis(), f.containers[0].cpu_tick.count()))
        .collect();
    assert_eq!(seen[..4], [(10, 100, 10), (5, 200, 5), (2, 500, 2), (1, 1000, 1)]);
    assert_eq!(driver.metrics.sample_hertz.get(), 1);
}

#[test]
fn empty_scopes_and_monitors_are_not_containers() {
    let tree = Tree::new();
    let empty = tree.container(UID, 1);
    set(&empty, "cgroup.events", "populated 0\nfrozen 0\n");
    let monitor = tree.pod(UID).join(format!("crio-conmon-{}.scope", hex(2)));
    fs::create_dir_all(&monitor).unwrap();
    set_usage(&monitor, 5);
    let mut driver = Driver::new(&tree, 60, 0);
    driver.ticks(20);
    assert!(driver.flush().containers.is_empty());
    set(&empty, "cgroup.events", "populated 1\nfrozen 0\n");
    driver.ticks(20);
    assert_eq!(driver.flush().containers.len(), 1);
}

#[test]
fn cgroup_v1_is_refused_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let error = optipod_agent::discover::Discovery::new(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains(&dir.path().display().to_string()) && error.contains("cgroup.controllers"),
        "{error}"
    );
}

fn only(records: Vec<ContainerRecord>) -> ContainerRecord {
    assert_eq!(records.len(), 1);
    records.into_iter().next().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn frames_sum_to_last_minus_first(
        steps in prop::collection::vec((0_u64..200_000, 20_u64..400, prop::bool::weighted(0.1)), 1..60),
        first in 0_u64..1_000_000,
    ) {
        let tree = Tree::new();
        let path = tree.container(UID, 1);
        set_usage(&path, first);
        let mut driver = Driver::new(&tree, 1, 0);
        let mut usage = first;
        driver.ticks(1);
        for (used, millis, broken) in steps {
            usage += used;
            if broken { set(&path, "cpu.stat", "usage_usec 1") } else { set_usage(&path, usage) }
            driver.tick_then(Duration::from_millis(millis));
        }
        set_usage(&path, usage);
        driver.tick_then(TICK);
        driver.flush();
        let total: u64 = driver.frames.iter().flat_map(|f| &f.containers).map(|c| c.cpu.usage_micros).sum();
        prop_assert_eq!(total, usage - first);
        let sequences: Vec<u64> = driver.frames.iter().map(|f| f.sequence).collect();
        prop_assert_eq!(sequences, (1..=driver.frames.len() as u64).collect::<Vec<_>>());
        for frame in &driver.frames {
            prop_assert!(frame.end > frame.start);
            let wire = optipod_proto::v1::Frame::from(frame);
            let back = optipod_common::frame::Frame::try_from(wire);
            prop_assert_eq!(back.as_ref(), Ok(frame));
        }
    }
}
