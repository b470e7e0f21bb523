//! `savings`: what policies gave back and what is left, as a table.

use anyhow::{Context as _, Result, bail};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_coordinator::api::OptimizationPolicy;
use optipod_coordinator::api::v1alpha1::{Account, Totals};

use super::cluster;

const HEADER: [&str; 7] = ["POLICY", "WORKLOADS", "REQUESTED", "USED", "RECLAIMED", "RECLAIMABLE", "MISSING"];

/// The table of the policies of one namespace, or of all.
pub async fn fetch(namespace: Option<&str>, context: Option<&str>) -> Result<String> {
    let (client, _) = cluster::connect(context).await?;
    let api: Api<OptimizationPolicy> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let policies = api.list(&ListParams::default()).await.context("policies")?.items;
    if policies.is_empty() {
        bail!(
            "there is no policy{}",
            namespace.map(|name| format!(" in namespace {name}")).unwrap_or_default()
        );
    }
    Ok(text(&policies))
}

/// The table, and what it comes to.
pub fn text(policies: &[OptimizationPolicy]) -> String {
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
            [&account.requested, &account.used, &summary.reclaimed, &account.reclaimable, &account.missing];
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
    format!("{table}\n{}", sum.text())
}

fn pair(totals: &Totals) -> String {
    format!("{} / {}", totals.cpu, totals.memory)
}

/// Over all policies: a workload follows one policy, so nothing is counted twice.
#[derive(Default)]
struct Sum {
    requested: (u64, u64),
    used: (u64, u64),
}

impl Sum {
    fn add(&mut self, account: &Account) {
        let add = |sum: &mut (u64, u64), totals: &Totals| {
            let (cpu, memory) = (totals.cpu.parse::<MilliCpu>(), totals.memory.parse::<Bytes>());
            sum.0 = sum.0.saturating_add(cpu.map_or(0, |cpu| cpu.0));
            sum.1 = sum.1.saturating_add(memory.map_or(0, |memory| memory.0));
        };
        add(&mut self.requested, &account.requested);
        add(&mut self.used, &account.used);
    }

    fn text(&self) -> String {
        let percent = |(used, of): (u64, u64)| match of {
            0 => String::new(),
            of => format!(" ({} %)", u128::from(used) * 100 / u128::from(of)),
        };
        let cores = |millis: u64| format!("{}.{}", millis / 1000, millis % 1000 / 100);
        let gibibytes = |bytes: u64| {
            let tenths = (u128::from(bytes) * 10) >> 30;
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        format!(
            "{} cores requested, {} used{}; {} GiB of memory requested, {} used{}\n",
            cores(self.requested.0),
            cores(self.used.0),
            percent((self.used.0, self.requested.0)),
            gibibytes(self.requested.1),
            gibibytes(self.used.1),
            percent((self.used.1, self.requested.1)),
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
            "requested": totals("50", "100Gi"), "used": totals("34500m", "60Gi"),
            "reclaimable": totals("5", "1Gi"), "missing": totals("250m", "0")}}});
        let silver = json!({"summary": {"matched": 1, "reclaimed": totals("-500m", "0"), "account": {
            "requested": totals("10", "512Mi"), "used": totals("5500m", "256Mi"),
            "reclaimable": totals("0", "0"), "missing": totals("0", "0")}}});
        let expected = "\
POLICY        WORKLOADS       REQUESTED    USED            RECLAIMED   RECLAIMABLE   MISSING
shop/gold     42              50 / 100Gi   34500m / 60Gi   12 / 18Gi   5 / 1Gi       250m / 0
shop/silver   1               10 / 512Mi   5500m / 256Mi   -500m / 0   0 / 0         0 / 0
shop/new      not evaluated

60.0 cores requested, 40.0 used (66 %); 100.5 GiB of memory requested, 60.2 used (59 %)
";
        let policies = [policy("gold", &gold), policy("silver", &silver), policy("new", &json!(null))];
        assert_eq!(text(&policies), expected);
    }

    #[test]
    fn nothing_requested_is_no_share() {
        assert_eq!(
            text(&[policy("new", &json!(null))]).lines().last(),
            Some("0.0 cores requested, 0.0 used; 0.0 GiB of memory requested, 0.0 used")
        );
    }
}
