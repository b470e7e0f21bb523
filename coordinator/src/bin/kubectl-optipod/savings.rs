//! `savings`: what policies gave back and what is left, as a table.

use anyhow::{Result, bail};
use kube::ResourceExt as _;
use kube::api::Api;
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::savings::{Prices, Quantities};
use optipod_coordinator::api::OptimizationPolicy;
use optipod_coordinator::api::v1alpha1::{Account, Totals};

use super::cluster;

const HEADER: [&str; 7] = ["POLICY", "WORKLOADS", "REQUESTED", "USED", "RECLAIMED", "RECLAIMABLE", "MISSING"];

/// The table of the policies of one namespace, or of all.
pub async fn fetch(namespace: Option<&str>, prices: Option<Prices>, context: Option<&str>) -> Result<String> {
    let (client, _) = cluster::connect(context).await?;
    let api: Api<OptimizationPolicy> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let policies = cluster::list(&api, "policies").await?;
    if policies.is_empty() {
        bail!(
            "there is no policy{}",
            namespace.map(|name| format!(" in namespace {name}")).unwrap_or_default()
        );
    }
    Ok(text(&policies, prices))
}

/// The table, and what it comes to.
pub fn text(policies: &[OptimizationPolicy], prices: Option<Prices>) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    let mut sum = Sum::default();
    for policy in policies {
        let name = format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any());
        let summary = policy.status.as_ref().and_then(|status| status.summary.as_ref());
        let Some((summary, account)) = summary.and_then(|summary| Some((summary, summary.account.as_ref()?)))
        else {
            let mut row = [const { String::new() }; 7];
            (row[0], row[1]) = (name, "not evaluated".to_owned());
            rows.push(row);
            continue;
        };
        sum.add(account);
        let shown =
            [&account.requested, &account.used, &account.reclaimed, &account.reclaimable, &account.missing];
        let [requested, used, reclaimed, reclaimable, missing] = shown.map(pair);
        rows.push([name, summary.matched.to_string(), requested, used, reclaimed, reclaimable, missing]);
    }
    let width =
        |column: usize| rows.iter().map(|row| row.get(column).map_or(0, String::len)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    };
    let table: String = rows.iter().map(line).collect();
    let money = prices.map(|prices| sum.money(prices)).unwrap_or_default();
    format!("{table}\n{}{money}", sum.text())
}

fn pair(totals: &Totals) -> String {
    format!("{} / {}", totals.cpu, totals.memory)
}

/// Hours of a month, on average.
const MONTH: f64 = 730.0;

/// Over all policies: a workload follows one policy, so nothing is counted twice.
#[derive(Default)]
struct Sum {
    requested: Quantities,
    used: Quantities,
    reclaimed: Quantities,
    reclaimable: Quantities,
}

impl Sum {
    fn add(&mut self, account: &Account) {
        let amounts = |totals: &Totals| {
            let (cpu, memory) = (totals.cpu.parse::<MilliCpu>(), totals.memory.parse::<Bytes>());
            Quantities {
                cpu: cpu.map_or(0, |cpu| cpu.0.into()),
                memory: memory.map_or(0, |memory| memory.0.into()),
            }
        };
        self.requested += amounts(&account.requested);
        self.used += amounts(&account.used);
        self.reclaimed += amounts(&account.reclaimed);
        self.reclaimable += amounts(&account.reclaimable);
    }

    fn money(&self, prices: Prices) -> String {
        let told = |of: Quantities| {
            let hour = prices.per_hour(of);
            format!("{hour:.2} an hour, {:.0} a month", hour * MONTH)
        };
        format!(
            "reclaimed: {}; reclaimable: {}; still requested: {}\n",
            told(self.reclaimed),
            told(self.reclaimable),
            told(self.requested)
        )
    }

    fn text(&self) -> String {
        let percent = |used: u128, of: u128| match of {
            0 => String::new(),
            of => format!(" ({} %)", used * 100 / of),
        };
        let cores = |millis: u128| format!("{}.{}", millis / 1000, millis % 1000 / 100);
        let gibibytes = |bytes: u128| {
            let tenths = (bytes * 10) >> 30;
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        let Self { requested, used, .. } = self;
        format!(
            "{} cores requested, {} used{}; {} GiB of memory requested, {} used{}\n",
            cores(requested.cpu),
            cores(used.cpu),
            percent(used.cpu, requested.cpu),
            gibibytes(requested.memory),
            gibibytes(used.memory),
            percent(used.memory, requested.memory),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str, status: &serde_json::Value) -> OptimizationPolicy {
        serde_json::from_value(json!({
            "apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy",
            "metadata": {"namespace": "shop", "name": name}, "spec": {}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn sixty_cores_requested_forty_used() {
        let totals = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let gold = json!({"summary": {"matched": 42, "reclaimed": totals("12", "18Gi"), "account": {
            "requested": totals("50", "100Gi"), "used": totals("34500m", "60Gi"), "reclaimed": totals("12", "18Gi"),
            "reclaimable": totals("5", "1Gi"), "missing": totals("250m", "0")}}});
        let silver = json!({"summary": {"matched": 1, "reclaimed": totals("-500m", "0"), "account": {
            "requested": totals("10", "512Mi"), "used": totals("5500m", "256Mi"), "reclaimed": totals("0", "0"),
            "reclaimable": totals("0", "0"), "missing": totals("0", "0")}}});
        let expected = "\
POLICY        WORKLOADS       REQUESTED    USED            RECLAIMED   RECLAIMABLE   MISSING
shop/gold     42              50 / 100Gi   34500m / 60Gi   12 / 18Gi   5 / 1Gi       250m / 0
shop/silver   1               10 / 512Mi   5500m / 256Mi   0 / 0       0 / 0         0 / 0
shop/new      not evaluated

60.0 cores requested, 40.0 used (66 %); 100.5 GiB of memory requested, 60.2 used (59 %)
";
        let policies = [policy("gold", &gold), policy("silver", &silver), policy("new", &json!(null))];
        assert_eq!(text(&policies, None), expected);
        let prices = Prices { core_hour: 0.04, gibibyte_hour: 0.005 };
        let money = "reclaimed: 0.57 an hour, 416 a month; reclaimable: 0.21 an hour, 150 a month; still requested: 2.90 an hour, 2119 a month\n";
        assert_eq!(text(&policies, Some(prices)), format!("{expected}{money}"));
    }

    #[test]
    fn nothing_requested_is_no_share() {
        assert_eq!(
            text(&[policy("new", &json!(null))], None).lines().last(),
            Some("0.0 cores requested, 0.0 used; 0.0 GiB of memory requested, 0.0 used")
        );
    }
}
