//! CPU limits in a closed loop: the CFS quota of each 100 ms period, with what could not run waiting for the next one.
//!
//! Every system sees only what was let through, so a limit that is too low also hides that it is. Ours is the product: a
//! policy with `limits: {cpu: {type: Headroom}}` over the store, the recommendation and the decision.

use std::time::Duration;

use optipod_common::{
    expression::NoExpressions,
    histogram::{MergedHistogram, UsageHistogram},
    policy::{Controlled, Factor, LimitRule, Objective, Percentile, Policy, Share, Strategy, UpdateStrategy},
    quantity::MilliCpu,
    replay::{Managed, Observation, Rule},
    resources::{Amounts, Resource, Resources},
    time::Timestamp,
};
use rayon::prelude::*;

use crate::backtest::{
    opponents::Autopilot,
    protocol::Target,
    report::SystemReport,
    statistics::{Draws, Metrics, PerSet, intervals},
    systems::{Label, label},
    trace::{FineCpu, RECORDED_FINE},
};

/// A CFS period, in microseconds.
const PERIOD: u64 = 100_000;
const PERIODS_PER_SECOND: usize = 10;
/// An agent's frame, in periods; views are looked at this often, too.
const FRAME: usize = 150;
/// Quotas are whole multiples of this many microseconds per period: 10 millicores.
const GRAIN: u64 = 1000;
/// Microseconds per period of a millicore.
const MICROS_PER_MILLICORE: u64 = 100;
/// The first tenth is not scored.
const UNSCORED: usize = 10;
/// Units of a histogram: a tenth of a millicore is 10 microseconds in a period.
const MICROS_PER_UNIT: u64 = 10;
/// From a decision of ours to the quota: two seconds.
const LAG: usize = 20;

/// What happened in a period.
#[derive(Clone, Copy)]
struct Period {
    /// CPU microseconds that ran.
    served: u64,
    /// More waited.
    throttled: bool,
}

/// What sizes a limit from the periods that it saw.
trait Limiter {
    /// The quota from the next period on, microseconds per period; `None` = no limit.
    fn after(&mut self, period: Period) -> Option<u64>;
}

/// Makes a system for a workload with this many periods, and this much use in the highest of them.
type Make = fn(usize, u64) -> Box<dyn Limiter>;

/// Systems, each with what it makes a limit from.
fn systems() -> Vec<(Label, Make)> {
    let opponent = |name, make: Make| (label(name, Target::CpuLimit, None), make);
    vec![
        (label("adaptive", Target::CpuLimit, Some(Objective::Balanced)), |_, peak| {
            Box::new(Product::new(peak))
        }),
        opponent("p99.9-of-100ms", |periods, _| Box::new(View::new(periods, 1, 9990, 1000))),
        opponent("krr", |periods, _| Box::new(View::new(periods, 600, 9500, 1000))),
        opponent("vpa", |periods, _| Box::new(View::new(periods, 600, 9000, 1150))),
        opponent("crane", |periods, _| Box::new(View::new(periods, 600, 9900, 1150))),
        opponent("autopilot", |_, peak| Box::new(MovingWindow::new(peak))),
    ]
}

pub fn run(fine: &[FineCpu]) -> Vec<SystemReport> {
    let series: Vec<Vec<u64>> = fine.iter().map(periods).collect();
    let report = |(label, make): (Label, Make)| {
        let metrics: Vec<Metrics> = series.par_iter().map(|demand| throttled(demand, make)).collect();
        let measured = PerSet::from([(RECORDED_FINE.to_owned(), metrics)]);
        let own = intervals(&Draws::of(&measured), std::iter::empty());
        SystemReport::new(label, own, measured)
    };
    systems().into_iter().map(report).collect()
}

/// CPU microseconds that were asked for in each period; a reading that spans periods is spread evenly.
fn periods(series: &FineCpu) -> Vec<u64> {
    let total: u64 = series.readings.iter().map(|(delta, _)| delta).sum();
    let mut demand = vec![0_u64; usize::try_from(total / PERIOD).unwrap_or(0) + 1];
    let mut now = 0;
    for &(delta, used) in &series.readings {
        let (end, mut left, mut at) = (now + delta, used, now);
        while at < end {
            let boundary = ((at / PERIOD + 1) * PERIOD).min(end);
            let share = if boundary == end { left } else { used * (boundary - at) / delta };
            left -= share.min(left);
            if let Some(period) = demand.get_mut(usize::try_from(at / PERIOD).unwrap_or(usize::MAX)) {
                *period += share;
            }
            at = boundary;
        }
        now = end;
    }
    demand.pop();
    demand
}

/// A percentile of what was seen, times a factor: minute means hide the bursts that a quota stops.
struct View {
    /// Periods before the first limit.
    free: usize,
    /// Length of a value, in periods.
    window: usize,
    /// In 1/10,000.
    quantile: u16,
    /// In 1/1000.
    factor: u64,
    seen: usize,
    sum: u64,
    recent: UsageHistogram,
    merged: MergedHistogram,
    quota: Option<u64>,
}

impl View {
    fn new(periods: usize, window: usize, quantile: u16, factor: u64) -> Self {
        let recent = UsageHistogram::new(u32::try_from(window).unwrap_or(1) * 100);
        let (free, merged) = (periods / UNSCORED, MergedHistogram::default());
        Self { free, window, quantile, factor, seen: 0, sum: 0, recent, merged, quota: None }
    }
}

impl Limiter for View {
    fn after(&mut self, period: Period) -> Option<u64> {
        (self.seen, self.sum) = (self.seen + 1, self.sum + period.served);
        if self.seen.is_multiple_of(self.window) {
            self.recent.record((self.sum / self.window as u64).div_ceil(MICROS_PER_UNIT));
            self.sum = 0;
        }
        if self.seen >= self.free && self.seen.is_multiple_of(FRAME) {
            self.merged.add(&self.recent);
            self.recent = UsageHistogram::new(self.recent.slot_millis());
            let quantile = self.merged.quantile(self.quantile).map(|units| units * MICROS_PER_UNIT);
            let quota = quantile.map(|used| (used * self.factor).div_ceil(1000).next_multiple_of(GRAIN));
            self.quota = quota.or(self.quota);
        }
        self.quota
    }
}

/// The moving window of the CPU request, on seconds, as a limit: Autopilot sets limits.
struct MovingWindow {
    rule: Autopilot,
    seen: u32,
    sum: u64,
    quota: Option<u64>,
}

impl MovingWindow {
    fn new(peak: u64) -> Self {
        // a peak of so much in a tenth of a second, declared twice
        let declared = peak * PERIODS_PER_SECOND as u64 * 2;
        Self { rule: Autopilot::new(Resource::Cpu, declared), seen: 0, sum: 0, quota: None }
    }
}

impl Limiter for MovingWindow {
    fn after(&mut self, period: Period) -> Option<u64> {
        (self.seen, self.sum) = (self.seen + 1, self.sum + period.served);
        if (self.seen as usize).is_multiple_of(PERIODS_PER_SECOND) {
            let step = Duration::from_secs(1);
            let at = Timestamp::from_unix_seconds(0) + step * (self.seen / 10);
            let seen = Observation { at, step, used: self.sum, size: self.quota.unwrap_or(0), oom: false };
            self.sum = 0;
            let wanted = self.rule.observe(&seen);
            let quota = wanted.map(|micros| (micros / PERIODS_PER_SECOND as u64).next_multiple_of(GRAIN));
            self.quota = quota.or(self.quota);
        }
        self.quota
    }
}

/// A container whose owner declares twice its peak as the limit, under a policy that gives the limit headroom.
struct Product {
    managed: Managed<'static>,
    frame: Vec<Period>,
    frames: u32,
    /// A quota that is on its way, and the periods until it is in force.
    due: Option<(u64, usize)>,
    quota: Option<u64>,
}

impl Product {
    fn new(peak: u64) -> Self {
        let millis = |micros: u64| MilliCpu(micros.next_multiple_of(GRAIN) / MICROS_PER_MILLICORE);
        let cpu = |cpu| Amounts { cpu: Some(cpu), memory: None };
        let declared = Resources { requests: cpu(millis(peak)), limits: cpu(millis(peak * 2)) };
        let managed = Managed::new(&policy(), declared, &NoExpressions);
        let quota = quota(&managed);
        Self { managed, frame: Vec::with_capacity(FRAME), frames: 0, due: None, quota }
    }
}

/// Defaults, but for the recording's length: an hour of evidence, of which six minutes are enough.
fn policy() -> Policy {
    let percentile: Percentile = "P99.9".parse().expect("within P0.1 and P100");
    let factor = Factor::from_f64(1.2).expect("within 0.1 and 100");
    Policy {
        rolling_window: Duration::from_hours(1),
        minimum_coverage: Share::from_f64(0.1).expect("within 0 and 1"),
        strategy: Strategy::Adaptive(Objective::Balanced),
        update: UpdateStrategy {
            resources: Controlled { cpu: true, memory: false },
            update_requests_only: false,
            cpu_limit: LimitRule::Headroom { percentile, factor },
            ..UpdateStrategy::default()
        },
        ..Policy::default()
    }
}

fn quota(managed: &Managed<'_>) -> Option<u64> {
    managed.resources().limits.cpu.map(|cpu| cpu.0 * MICROS_PER_MILLICORE)
}

impl Limiter for Product {
    fn after(&mut self, period: Period) -> Option<u64> {
        self.due = self.due.map(|(quota, left)| (quota, left.saturating_sub(1)));
        if let Some((quota, _)) = self.due.filter(|(_, left)| *left == 0) {
            (self.quota, self.due) = (Some(quota), None);
        }
        self.frame.push(period);
        if self.frame.len() == FRAME {
            let length = Duration::from_micros(PERIOD * FRAME as u64);
            let start = Timestamp::from_unix_seconds(0) + length * self.frames;
            self.frames += 1;
            let units = |micros: u64| micros.div_ceil(MICROS_PER_UNIT);
            let mut record = self.managed.record();
            let ticks = self.frame.iter().map(|period| units(period.served));
            record.cpu_tick = UsageHistogram::from_values(100, ticks);
            let seconds = self.frame.chunks(PERIODS_PER_SECOND);
            let mean = |second: &[Period]| second.iter().map(|period| period.served).sum::<u64>() / 10;
            record.cpu_second = UsageHistogram::from_values(1000, seconds.map(|second| units(mean(second))));
            record.cpu.usage_micros = self.frame.iter().map(|period| period.served).sum();
            let count = |is: fn(&&Period) -> bool| self.frame.iter().filter(is).count() as u64;
            record.cpu.periods = count(|period| period.served > 0);
            record.cpu.throttled_periods = count(|period| period.throttled);
            self.frame.clear();
            self.managed.see(&record, start, start + length);
            if self.managed.evaluate(start + length).is_some() {
                self.due = quota(&self.managed).map(|quota| (quota, LAG));
            }
        }
        self.quota
    }
}

fn throttled(demand: &[u64], make: Make) -> Metrics {
    let peak = demand.iter().copied().max().unwrap_or(1).max(1);
    let mut limiter = make(demand.len(), peak);
    let mut quota: Option<u64> = None;
    let (mut backlog, mut stopped, mut delayed, mut asked, mut allowed) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    let (mut changes, scored_from) = (0_u32, demand.len() / UNSCORED);
    for (period, &wanted) in demand.iter().enumerate() {
        let ready = wanted + backlog;
        let served = quota.map_or(ready, |quota| ready.min(quota));
        let waiting = ready - served;
        let next = limiter.after(Period { served, throttled: waiting > 0 });
        if period >= scored_from {
            stopped += u64::from(waiting > 0);
            delayed += waiting.saturating_sub(backlog);
            asked += wanted;
            allowed += quota.unwrap_or(0);
            changes += u32::from(quota.is_some() && next != quota);
        }
        (backlog, quota) = (waiting, next);
    }
    let scored = (demand.len() - scored_from).max(1) as f64;
    let days = scored / (PERIODS_PER_SECOND * 86_400) as f64;
    Metrics {
        alloc: allowed as f64 / scored / peak as f64 * 100.0,
        excess: delayed as f64 / asked.max(1) as f64 * 100.0,
        under: stopped as f64 / scored * 100.0,
        waste: (1.0 - asked as f64 / allowed.max(1) as f64).max(0.0) * 100.0,
        resizes_per_day: f64::from(changes) / days,
        ..Metrics::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_across_periods_is_spread_and_nothing_is_lost() {
        let series = FineCpu { name: "a".into(), readings: vec![(50_000, 10), (100_000, 40), (60_000, 6)] };
        assert_eq!(periods(&series), [30, 25]);
    }

    #[test]
    fn what_could_not_run_waits() {
        // a steady 10 ms per period, and once 40 ms
        let mut demand = vec![10_000; 3000];
        demand[2000] = 40_000;
        let metrics = throttled(&demand, |periods, _| Box::new(View::new(periods, 1, 5000, 1000)));
        // without slack the backlog never drains
        assert!((metrics.under - 1000.0 / 2700.0 * 100.0).abs() < 0.1, "{metrics:?}");
    }

    #[test]
    fn the_product_lowers_a_generous_limit_and_raises_one_that_throttles() {
        // ten minutes of 10 ms per period with one burst, then 60 ms in each
        let mut demand = vec![10_000; 20_000];
        demand[100] = 80_000;
        let product = |demand: &[u64]| throttled(demand, |_, peak| Box::new(Product::new(peak)));
        let calm = product(&demand);
        assert!(calm.alloc < 100.0 && calm.under < 1e-9, "{calm:?}");
        demand[10_000..].fill(60_000);
        let busy = product(&demand);
        assert!(busy.under > 0.0 && busy.under < 50.0, "{busy:?}");
        assert!(busy.alloc > calm.alloc, "{busy:?}");
    }

    #[test]
    fn the_moving_window_weighs_work() {
        // a tenth of the time does more than half of the work: its level is the limit
        let demand: Vec<u64> = (0..20_000).map(|n| if n / 10 % 10 == 0 { 50_000 } else { 5_000 }).collect();
        let metrics = throttled(&demand, |_, peak| Box::new(MovingWindow::new(peak)));
        assert!(metrics.under < 1e-9 && metrics.alloc > 100.0, "{metrics:?}");
    }
}
