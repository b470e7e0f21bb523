//! CPU limits in a closed loop: the CFS quota of each 100 ms period, with what could not run waiting for the next one.
//!
//! Every system derives a limit from the use that it saw, through its own window: minute means hide the bursts that a
//! quota stops. It sees only what was let through, so a limit that is too low also hides that it is.

use optipod_common::{
    histogram::{MergedHistogram, UsageHistogram},
    policy::Objective,
};
use rayon::prelude::*;

use crate::backtest::{
    protocol::Target,
    report::SystemReport,
    statistics::{Metrics, PerSet, intervals},
    systems::label,
    trace::{FineCpu, RECORDED_FINE},
};

/// A CFS period, in microseconds.
const PERIOD: u64 = 100_000;
const PERIODS_PER_SECOND: u64 = 10;
/// Limits are looked at this often, in periods: an agent's frame.
const DECISION: usize = 150;
/// Quotas are whole multiples of this many microseconds per period: 10 millicores.
const GRAIN: u64 = 1000;
/// The first tenth runs without a limit and is not scored.
const UNSCORED: usize = 10;
/// Units of a histogram: a tenth of a millicore is 10 microseconds in a period.
const MICROS_PER_UNIT: u64 = 10;

/// How a system sees use and sizes a limit from it.
struct View {
    name: &'static str,
    objective: Option<Objective>,
    /// Length of a value, in periods.
    window: usize,
    /// In 1/10,000.
    quantile: u16,
    /// In 1/1000.
    factor: u64,
    /// Raises at once when periods are throttled, as the agent tells.
    events: bool,
}

const fn view(name: &'static str, window: usize, quantile: u16, factor: u64) -> View {
    View { name, objective: None, window, quantile, factor, events: false }
}

const VIEWS: [View; 6] = [
    View {
        name: "adaptive",
        objective: Some(Objective::Balanced),
        window: 1,
        quantile: 9990,
        factor: 1000,
        events: true,
    },
    view("p99.9-of-100ms", 1, 9990, 1000),
    view("krr", 600, 9500, 1000),
    view("vpa", 600, 9000, 1150),
    view("crane", 600, 9900, 1150),
    view("autopilot", 10, 9500, 1125),
];

/// Reaction to throttling: an event reaches the kernel within two seconds.
const REACTION: usize = 20;
/// A limit that throttles grows by this, in 1/1000,
const PROBE: u64 = 1250;
/// and stays for this many periods.
const HELD: usize = 30 * 60 * 10;

pub fn run(fine: &[FineCpu]) -> Vec<SystemReport> {
    let series: Vec<Vec<u64>> = fine.iter().map(periods).collect();
    let report = |view: &View| {
        let metrics: Vec<Metrics> = series.par_iter().map(|demand| throttled(demand, view)).collect();
        let measured = PerSet::from([(RECORDED_FINE.to_owned(), metrics)]);
        let own = intervals(&measured, std::iter::empty());
        SystemReport::new(label(view.name, Target::CpuLimit, view.objective), own, measured)
    };
    VIEWS.iter().map(report).collect()
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

/// What a system has seen, in values of its window.
struct Seen {
    window: usize,
    filled: usize,
    sum: u64,
    recent: UsageHistogram,
    merged: MergedHistogram,
}

impl Seen {
    fn new(window: usize) -> Self {
        let recent = UsageHistogram::new(u32::try_from(window).unwrap_or(1) * 100);
        Self { window, filled: 0, sum: 0, recent, merged: MergedHistogram::default() }
    }

    fn add(&mut self, used: u64) {
        (self.filled, self.sum) = (self.filled + 1, self.sum + used);
        if self.filled == self.window {
            self.recent.record((self.sum / self.window as u64).div_ceil(MICROS_PER_UNIT));
            (self.filled, self.sum) = (0, 0);
        }
    }

    /// Quota in microseconds per period.
    fn quota(&mut self, view: &View) -> Option<u64> {
        self.merged.add(&self.recent);
        self.recent = UsageHistogram::new(self.recent.slot_millis());
        let quota = self.merged.quantile(view.quantile)? * MICROS_PER_UNIT;
        Some((quota * view.factor).div_ceil(1000).next_multiple_of(GRAIN))
    }
}

fn throttled(demand: &[u64], view: &View) -> Metrics {
    let mut seen = Seen::new(view.window);
    let mut quota: Option<u64> = None;
    let mut raise: Option<(usize, u64)> = None;
    let mut held: Option<(u64, usize)> = None;
    let (mut backlog, mut stopped, mut delayed, mut asked, mut allowed) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    let (mut changes, scored_from) = (0_u32, demand.len() / UNSCORED);
    for (period, &wanted) in demand.iter().enumerate() {
        let ready = wanted + backlog;
        let served = quota.map_or(ready, |quota| ready.min(quota));
        let now_waiting = ready - served;
        if period >= scored_from {
            stopped += u64::from(now_waiting > 0);
            delayed += now_waiting.saturating_sub(backlog);
            asked += wanted;
            allowed += quota.unwrap_or(0);
        }
        backlog = now_waiting;
        seen.add(served);
        if view.events && backlog > 0 && raise.is_none() {
            raise = quota
                .map(|quota| (period + REACTION, (quota * PROBE).div_ceil(1000).next_multiple_of(GRAIN)));
        }
        let mut next = quota;
        if period + 1 >= scored_from && (period + 1) % DECISION == 0 {
            next = seen.quota(view).or(quota);
        }
        if let Some((_, size)) = raise.filter(|(due, _)| *due <= period) {
            held = Some((size, period + HELD));
            raise = None;
        }
        if let Some((size, _)) = held.filter(|(_, until)| *until > period) {
            next = next.map(|next| next.max(size));
        }
        changes += u32::from(quota.is_some() && next != quota);
        quota = next;
    }
    let scored = (demand.len() - scored_from).max(1) as f64;
    let peak = demand.iter().copied().max().unwrap_or(1).max(1) as f64;
    let days = demand.len() as f64 / (PERIODS_PER_SECOND * 86_400) as f64;
    Metrics {
        alloc: allowed as f64 / scored / peak * 100.0,
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
        let only_median = view("test", 1, 5000, 1000);
        let metrics = throttled(&demand, &only_median);
        // without slack the backlog never drains
        assert!((metrics.under - 1000.0 / 2700.0 * 100.0).abs() < 0.1, "{metrics:?}");
        let with_events = View { events: true, ..only_median };
        assert!(throttled(&demand, &with_events).under < 3.0);
    }
}
