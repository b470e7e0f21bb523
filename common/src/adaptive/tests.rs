use proptest::prelude::*;

use super::*;

const OBJECTIVES: [Objective; 3] = [Objective::Savings, Objective::Balanced, Objective::Safe];

fn minute(n: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000 + n * 60)
}

fn seen(peaks: impl IntoIterator<Item = u64>) -> Adaptive {
    let mut adaptive = Adaptive::new(Resource::Cpu);
    peaks.into_iter().zip(0..).for_each(|(peak, n)| adaptive.observe(minute(n), peak));
    adaptive
}

fn size(adaptive: &Adaptive, objective: Objective) -> u64 {
    adaptive.size(objective).unwrap()
}

#[test]
fn nothing_seen_is_no_size() {
    let adaptive = Adaptive::new(Resource::Memory);
    assert_eq!((adaptive.size(Objective::Safe), adaptive.target(Objective::Safe)), (None, None));
}

#[test]
fn flat_use_is_covered_with_a_small_margin() {
    let adaptive = seen([1000; 1500]);
    for objective in OBJECTIVES {
        assert!((1000..=1150).contains(&size(&adaptive, objective)), "{}", size(&adaptive, objective));
    }
}

#[test]
fn a_step_up_is_covered_in_its_minute_and_a_step_down_follows() {
    let mut adaptive = seen([100; 600]);
    adaptive.observe(minute(600), 800);
    assert!(OBJECTIVES.iter().all(|objective| size(&adaptive, *objective) >= 800));
    (601..2600).for_each(|n| adaptive.observe(minute(n), 100));
    assert!(size(&adaptive, Objective::Savings) < 200);
}

#[test]
fn throttled_use_probes_upward_until_it_is_uncensored() {
    let mut adaptive = seen([100; 600]);
    let mut limit = size(&adaptive, Objective::Balanced);
    // demand is 1000, use is what the limit lets through
    let minutes = (600..700).take_while(|n| {
        let used = limit.min(1000);
        adaptive.observe(minute(*n), if limit < 1000 { demand(Resource::Cpu, used) } else { used });
        limit = size(&adaptive, Objective::Balanced);
        limit < 1000
    });
    assert!(minutes.count() < 12, "geometric growth from 105 to 1000");
}

#[test]
fn an_oom_kill_raises_above_the_limit() {
    let mut adaptive = Adaptive::new(Resource::Memory);
    (0..600).for_each(|n| adaptive.observe(minute(n), 500));
    adaptive.observe(minute(600), demand(Resource::Memory, 700));
    assert!(OBJECTIVES.iter().all(|objective| size(&adaptive, *objective) >= 770));
}

#[test]
fn a_target_names_its_expert_and_what_the_others_cost() {
    let adaptive = seen((0..3000).map(|n| if n % 60 == 0 { 900 } else { 100 }));
    let target = adaptive.target(Objective::Balanced).unwrap();
    assert_eq!(target.costs.len(), EXPERTS.len());
    assert_eq!(target.minutes, 3000);
    assert!(target.costs.windows(2).all(|pair| pair[0].cost <= pair[1].cost));
    let followed = target.costs.iter().find(|entry| entry.expert == target.expert).unwrap();
    let cheapest = &target.costs[0];
    assert!(
        followed.cost <= cheapest.cost + cheapest.cost / 20,
        "{followed:?} is followed, {cheapest:?} is cheapest"
    );
    assert_eq!(Expert { signal: Signal::Hold { minutes: 240 }, margin: 50 }.to_string(), "peak held 4h +5%");
}

#[test]
fn objectives_are_ordered_by_how_often_use_exceeds_them() {
    let mut random = 1_u64;
    let mut adaptive = seen([100]);
    let mut exceeded = [0; 3];
    for n in 1..5000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let high = (random >> 33).trailing_zeros() >= 6;
        let level = if high { 900 } else { 100 + (random >> 40) % 50 };
        for (count, objective) in exceeded.iter_mut().zip(OBJECTIVES) {
            *count += u32::from(level > size(&adaptive, objective));
        }
        adaptive.observe(minute(n), level);
    }
    assert!(exceeded[0] > exceeded[1] && exceeded[1] >= exceeded[2], "{exceeded:?}");
}

#[test]
fn the_state_is_small_and_survives_a_checkpoint() {
    let mut adaptive = seen((0..6000).map(|n| 100 + n * n % 977));
    let bytes = adaptive.encode();
    assert!(bytes.len() < 2500, "{} bytes", bytes.len());
    let mut restored = Adaptive::unpack(&mut Reader::new(&bytes)).unwrap();
    assert_eq!(restored, adaptive);
    for n in 6000..6100 {
        adaptive.observe(minute(n), 500);
        restored.observe(minute(n), 500);
    }
    assert_eq!(restored, adaptive);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn scaling_use_scales_the_size(peaks in prop::collection::vec(100..1000_u64, 1..400), k in 2..64_u64) {
        let scaled = seen(peaks.iter().map(|peak| peak * k));
        let plain = seen(peaks.iter().copied());
        // powers of two keep every bucket and every rounding
        if k.is_power_of_two() {
            for objective in OBJECTIVES {
                let (one, other) = (size(&plain, objective) * k, size(&scaled, objective));
                prop_assert!(other <= one && one - other <= k, "{one} and {other}");
            }
        }
        for objective in OBJECTIVES {
            let (newest, bound) = (peaks[peaks.len() - 1] * k, peaks.iter().max().unwrap() * k * 2);
            let size = size(&scaled, objective);
            prop_assert!(size >= newest && size <= bound, "{size} for {newest} of at most {bound}");
        }
    }

    #[test]
    fn frames_in_any_order_give_the_same_size(
        (sorted, shuffled) in prop::collection::vec(1..1000_u64, 1..300)
            .prop_map(|peaks| (0..).zip(peaks).collect::<Vec<(i64, u64)>>())
            .prop_flat_map(|frames| (Just(frames.clone()), Just(frames).prop_shuffle()))
    ) {
        let at_end = |frames: &[(i64, u64)]| {
            let mut peaks = MinutePeaks::default();
            for (n, peak) in frames {
                peaks.record(minute(*n), *peak);
            }
            Adaptive::new(Resource::Cpu).at(&peaks, minute(300))
        };
        prop_assert_eq!(at_end(&sorted), at_end(&shuffled));
        prop_assert_eq!(at_end(&sorted), seen(sorted.iter().map(|(_, peak)| *peak)));
    }

    #[test]
    fn settling_in_parts_is_settling_at_once(peaks in prop::collection::vec(1..1000_u64, 10..300), cut in 0..300_i64) {
        let mut ring = MinutePeaks::default();
        peaks.iter().zip(0..).for_each(|(peak, n)| ring.record(minute(n), *peak));
        let whole = Adaptive::new(Resource::Cpu).at(&ring, minute(300));
        let mut settled = Adaptive::new(Resource::Cpu);
        settled.settle(&ring, minute(cut));
        prop_assert_eq!(settled.at(&ring, minute(300)), whole);
    }

    #[test]
    fn no_use_and_no_clock_breaks_it(steps in prop::collection::vec((any::<i64>(), 0..64_u32, any::<u64>()), 1..50)) {
        let mut adaptive = Adaptive::new(Resource::Memory);
        for (micros, shift, peak) in steps {
            let at = Timestamp::from_unix_micros(micros >> shift);
            adaptive.observe(at, peak);
            adaptive.observe(at, demand(Resource::Memory, peak));
        }
        adaptive.observe(Timestamp::MAX, u64::MAX);
        let restored = Adaptive::unpack(&mut Reader::new(&adaptive.encode()));
        prop_assert_eq!(restored, Ok(adaptive.clone()));
        prop_assert!(adaptive.size(Objective::Safe).is_some());
    }
}

/// Sizes for a series with bursts, throttling and a kill, all objectives, as one number.
fn fingerprint() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut random = 1_u64;
    for resource in [Resource::Cpu, Resource::Memory] {
        let mut state = Adaptive::new(resource);
        for minute in 0..10_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = random >> 60;
            let burst = if minute % 1440 < 30 || noise == 0 { 3000 } else { 0 };
            let peak = 1000 + (minute / 2000) * 150 + noise * 20 + burst;
            let at = Timestamp::from_unix_seconds(1_800_000_000 + i64::try_from(minute).unwrap() * 60);
            // a level may lie between two units
            let level = peak << FRACTION;
            let cut_off = resource == Resource::Cpu && minute % 977 == 0;
            let level = if cut_off { scaled(level, CENSORED) } else { level };
            state.observe_level(&Tunings::of(state.sizes), at, level);
            if minute == 7000 {
                state.observe(at, demand(Resource::Memory, 5000));
            }
            for objective in [Objective::Savings, Objective::Balanced, Objective::Safe] {
                hash = (hash ^ state.size(objective).unwrap()).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    hash
}

/// Policies pin the version that acts (`status.strategy`): other sizes under the same version would act unseen.
#[test]
fn other_sizes_have_another_version() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/adaptive/version.txt");
    let version = crate::policy::Strategy::Adaptive(Objective::default()).version();
    let expected = format!("version {version} sizes a fixed series as {:016x}\n", fingerprint());
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        stored, expected,
        "Adaptive gives other sizes than before: if a release had the version that is stored, raise \
         Strategy::version(); then UPDATE_GENERATED=1 cargo test -p optipod-common other_sizes"
    );
}
