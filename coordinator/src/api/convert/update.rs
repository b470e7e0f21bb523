//! How changes are carried out.

use std::time::Duration;

use optipod_common::policy::{
    Canary, Controlled, CoupledResources, Days, Factor, LimitRule, MaxStep, MemoryDecrease, MinuteOfDay,
    Percent, Policy, RestartContainer, Rollback, Share, UpdateStrategy, Window, WindowChange, ZoneName,
    overlaps,
};
use optipod_common::resources::LanguageRuntime;

use super::check::Check;
use crate::api::v1alpha1 as api;

fn field(name: &str) -> String {
    format!("spec.updateStrategy.{name}")
}

pub fn update_strategy(strategy: &api::UpdateStrategy, check: &mut Check) -> UpdateStrategy {
    if strategy.resources.is_empty() {
        check.wrong(field("resources"), "must not be empty: expected cpu, memory or both");
    }
    UpdateStrategy {
        allow_in_place_resize: strategy.allow_in_place_resize,
        allow_recreate: strategy.allow_recreate,
        resources: Controlled {
            cpu: strategy.resources.contains(&api::ResourceName::Cpu),
            memory: strategy.resources.contains(&api::ResourceName::Memory),
        },
        update_requests_only: strategy.update_requests_only,
        cpu_limit: limit("cpu", &strategy.limits.cpu, check),
        memory_limit: limit("memory", &strategy.limits.memory, check),
        memory_decrease: match strategy.memory_decrease {
            api::MemoryDecrease::Never => MemoryDecrease::Never,
            api::MemoryDecrease::Guarded => MemoryDecrease::Guarded,
        },
        restart_container: match strategy.restart_container {
            api::RestartContainer::Hold => RestartContainer::Hold,
            api::RestartContainer::OneAtATime => RestartContainer::OneAtATime,
        },
        coupled_resources: match strategy.coupled_resources {
            api::CoupledResources::Hold => CoupledResources::Hold,
            api::CoupledResources::Move => CoupledResources::Move,
        },
        limit_runtimes: strategy
            .limit_runtimes
            .iter()
            .map(|runtime| match runtime {
                api::LimitRuntime::Go => LanguageRuntime::Go,
            })
            .collect(),
        cooldown: check.duration(field("cooldown"), &strategy.cooldown, Duration::ZERO),
        min_change: strategy.min_change.as_deref().map(|share| {
            check.take(field("minChange"), Share::from_percent(share), Policy::default().min_change())
        }),
        max_step: max_step(strategy.max_step.as_ref(), check),
        deferred_deadline: check.duration(
            field("deferredDeadline"),
            &strategy.deferred_deadline,
            Duration::from_secs(1),
        ),
        max_concurrent_resizes: check.integer(
            &field("maxConcurrentResizes"),
            strategy.max_concurrent_resizes,
            1..=10_000,
        ),
        windows: windows(&strategy.windows, check),
        canary: strategy.canary.as_ref().map(|canary| Canary {
            share: check.take(
                field("canary.share"),
                Share::from_percent(&canary.share),
                Policy::default().min_change(),
            ),
            observe: check.duration(field("canary.observe"), &canary.observe, Duration::from_secs(1)),
        }),
        rollback: rollback(&strategy.rollback, check),
    }
}

fn limit(resource: &str, rule: &api::LimitRule, check: &mut Check) -> LimitRule {
    let field = |name: &str| field(&format!("limits.{resource}.{name}"));
    if rule.rule != api::LimitType::Headroom && rule.headroom.is_some() {
        check.wrong(field("headroom"), "is for type Headroom only");
    }
    match rule.rule {
        api::LimitType::Keep => LimitRule::Keep,
        api::LimitType::Ratio => LimitRule::Ratio,
        api::LimitType::Headroom => {
            let headroom = rule.headroom.clone().unwrap_or_default();
            let factor = Factor::from_f64(headroom.factor)
                .ok()
                .filter(|f| f.thousandths() >= 1000)
                .ok_or_else(|| format!("{} is not a headroom: expected 1 to 10", headroom.factor));
            match (headroom.percentile.parse(), factor) {
                (Ok(percentile), Ok(factor)) => LimitRule::Headroom { percentile, factor },
                (percentile, factor) => {
                    if let Err(error) = percentile {
                        check.wrong(field("headroom.percentile"), error);
                    }
                    if let Err(error) = factor {
                        check.wrong(field("headroom.factor"), error);
                    }
                    LimitRule::Keep
                }
            }
        }
    }
}

fn max_step(step: Option<&api::MaxStep>, check: &mut Check) -> MaxStep {
    let Some(step) = step else { return MaxStep::default() };
    let down = step.down.as_deref().map(|text| {
        text.parse::<Percent>().ok().filter(|p| p.permille() < 1000).ok_or_else(|| {
            format!("{text:?} is not a decrease: expected a percentage above 0% and below 100%, such as 30%")
        })
    });
    MaxStep {
        up: check.take(field("maxStep.up"), step.up.as_deref().map(str::parse).transpose(), None),
        down: check.take(field("maxStep.down"), down.transpose(), None),
    }
}

fn windows(given: &[api::Window], check: &mut Check) -> Vec<Window> {
    let before = check.0.len();
    let windows: Vec<Window> =
        given.iter().enumerate().filter_map(|(i, window)| one_window(i, window, check)).collect();
    // positions are those of the user only when every window is one
    let pairs = if check.0.len() == before { overlaps(&windows) } else { Vec::new() };
    for (first, second) in pairs {
        let other = field(&format!("windows[{first}]"));
        let message = format!("overlaps {other}: windows of one time zone share no moment");
        check.wrong(field(&format!("windows[{second}]")), message);
    }
    windows
}

fn one_window(position: usize, window: &api::Window, check: &mut Check) -> Option<Window> {
    let field = |name: &str| field(&format!("windows[{position}]{name}"));
    let days: u8 = window.days.iter().fold(0, |days, day| days | 1 << (*day as u8));
    if days == 0 {
        check.wrong(field(".days"), "must not be empty: leave it out for every day");
    }
    let from = check.take(field(".from"), window.from.parse::<MinuteOfDay>().map(Some), None);
    let to = check.take(field(".to"), window.to.parse::<MinuteOfDay>().map(Some), None);
    let zone = check.take(field(".timeZone"), window.time_zone.parse::<ZoneName>().map(Some), None);
    let allow = match window.allow {
        api::WindowChange::Decrease => WindowChange::Decrease,
        api::WindowChange::Any => WindowChange::Any,
    };
    let window = Window::new(Days::from_bits(days), (from?, to?), zone?, allow).map(Some);
    check.take(field(""), window, None)
}

fn rollback(rollback: &api::Rollback, check: &mut Check) -> Rollback {
    let defaults = Rollback::default();
    let mut share = |name: &str, text: &str, default| {
        check.take(field(&format!("rollback.{name}")), Share::from_percent(text).map(Some), default)
    };
    Rollback {
        on_oom: rollback.on_oom,
        on_restart: rollback.on_restart,
        on_throttle: share("onThrottle", &rollback.on_throttle, defaults.on_throttle),
        on_pressure: share("onPressure", &rollback.on_pressure, defaults.on_pressure),
        backoff: check.duration(field("rollback.backoff"), &rollback.backoff, Duration::ZERO),
    }
}
