//! What is requested, used, given back and still missing, as gauges and in statuses. Pure but for [`show`].

use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::savings::{Prices, Quantities, Savings, savings};

use crate::api::status::{Account, Totals};
use crate::engine::WorkloadOutcome;
use crate::metrics::Metrics;

/// A mean that moved by less than this share, in percent, is no news: statuses keep what they said.
const NEWS_PERCENT: u64 = 10;

/// A difference below these millicores and bytes is no news, however small the amounts are.
const GRAIN: (u64, u64) = (10, 16 << 20);

/// Memory in statuses is rounded to this.
const MEBIBYTE: u64 = 1 << 20;

/// The account of all pods of some workloads.
pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a WorkloadOutcome>) -> Savings {
    let mut total = Savings::default();
    for outcome in outcomes {
        outcome.pods.iter().for_each(|pod| total += savings(&pod.facts, &pod.sizes, pod.unsized_use));
    }
    total
}

/// The account as a status shows it. `before` is what it showed last.
pub fn account(savings: &Savings, before: Option<&Account>) -> Account {
    let totals = |of: Quantities, kept: fn(&Account) -> &Totals| totals(of, before.map(kept));
    Account {
        requested: totals(savings.requested, |account| &account.requested),
        used: totals(savings.used, |account| &account.used),
        reclaimed: totals(savings.reclaimed, |account| &account.reclaimed),
        reclaimable: totals(savings.reclaimable, |account| &account.reclaimable),
        missing: totals(savings.missing, |account| &account.missing),
    }
}

fn totals(of: Quantities, before: Option<&Totals>) -> Totals {
    let amount = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
    let cpu = MilliCpu(amount(of.cpu));
    let memory = amount(of.memory);
    let memory = Bytes(memory.saturating_add(MEBIBYTE / 2) / MEBIBYTE * MEBIBYTE);
    let kept = |text: &str, old: Option<u64>, new: u64, grain: u64| {
        old.filter(|old| near(*old, new, grain)).map(|_| text.to_owned())
    };
    let said = |totals: &Totals| {
        let old_cpu = totals.cpu.parse::<MilliCpu>().ok().map(|cpu| cpu.0);
        let old_memory = totals.memory.parse::<Bytes>().ok().map(|memory| memory.0);
        (kept(&totals.cpu, old_cpu, cpu.0, GRAIN.0), kept(&totals.memory, old_memory, memory.0, GRAIN.1))
    };
    let (kept_cpu, kept_memory) = before.map(said).unwrap_or_default();
    Totals {
        cpu: kept_cpu.unwrap_or_else(|| cpu.to_string()),
        memory: kept_memory.unwrap_or_else(|| memory.to_string()),
    }
}

/// Too little has changed to say so.
fn near(old: u64, new: u64, grain: u64) -> bool {
    let difference = old.abs_diff(new);
    difference < grain || difference.saturating_mul(100) < old.saturating_mul(NEWS_PERCENT)
}

/// Sets the gauges of one policy.
pub fn show(metrics: &Metrics, [namespace, policy]: [&str; 2], total: &Savings, prices: Option<Prices>) {
    let gauge = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
    for (name, amount) in accounts(total) {
        let labels = [namespace, policy, name];
        metrics.cpu.with_label_values(&labels).set(gauge(amount.cpu));
        metrics.memory.with_label_values(&labels).set(gauge(amount.memory));
    }
    if let Some(prices) = prices {
        let saved = prices.per_hour(total.reclaimed);
        metrics.saved_per_hour.with_label_values(&[namespace, policy]).set(saved);
    }
}

/// Removes the gauges of one policy.
pub fn forget(metrics: &Metrics, [namespace, policy]: [&str; 2]) {
    // absent labels are not an error here
    let _ = metrics.saved_per_hour.remove_label_values(&[namespace, policy]);
    for (name, _) in accounts(&Savings::default()) {
        let labels = [namespace, policy, name];
        let _ = metrics.cpu.remove_label_values(&labels);
        let _ = metrics.memory.remove_label_values(&labels);
    }
}

fn accounts(of: &Savings) -> [(&'static str, Quantities); 5] {
    [
        ("requested", of.requested),
        ("used", of.used),
        ("reclaimed", of.reclaimed),
        ("reclaimable", of.reclaimable),
        ("missing", of.missing),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(requested: u128, used: u128) -> Savings {
        let cpu = |cores: u128| Quantities { cpu: cores * 1000, memory: (cores << 30) + 1 };
        Savings { requested: cpu(requested), used: cpu(used), ..Savings::default() }
    }

    #[test]
    fn amounts_are_told_as_people_write_them() {
        let told = account(&cores(60, 40), None);
        assert_eq!((told.requested.cpu.as_str(), told.requested.memory.as_str()), ("60", "60Gi"));
        assert_eq!((told.used.cpu.as_str(), told.used.memory.as_str()), ("40", "40Gi"));
        assert_eq!((told.missing.cpu.as_str(), told.missing.memory.as_str()), ("0", "0"));
    }

    #[test]
    fn a_mean_that_moves_a_little_is_no_news() {
        let first = account(&cores(60, 40), None);
        assert_eq!(account(&cores(60, 43), Some(&first)), first);
        assert_eq!(account(&cores(60, 44), Some(&first)).used.cpu, "44");
        // what was said is the measure, not the value before: it does not creep away
        let still = account(&cores(60, 43), Some(&first));
        assert_eq!(account(&cores(60, 46), Some(&still)).used.cpu, "46");
        assert_eq!(account(&cores(60, 1), Some(&account(&cores(60, 0), None))).used.cpu, "1");
        // an idle container between one millicore and two
        let idle = |cpu| Savings { used: Quantities { cpu, memory: 0 }, ..Savings::default() };
        assert_eq!(account(&idle(2), Some(&account(&idle(1), None))).used.cpu, "1m");
    }
}
