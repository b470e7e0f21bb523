//! Least privilege, measured: coordinators ran with the chart's roles, and every request was written down.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::coordinator::OWN_NAMESPACE;
use crate::world::{World, same};

type Rights = BTreeSet<(String, String, String)>;

/// Runs after all other cases: by then every part of the coordinator has worked.
pub async fn the_chart_grants_exactly_what_is_used(world: Arc<World>) -> Result<()> {
    let mut granted = Rights::new();
    for kind in ["clusterrole", "role"] {
        let get = ["get", kind, "optipod-coordinator", "--namespace", OWN_NAMESPACE, "-o", "json"];
        let role: Value = serde_json::from_str(&world.lab.kubectl(&get)?)?;
        for rule in role["rules"].as_array().context("a role without rules")? {
            let list = |key: &str| -> Vec<String> {
                let values = rule[key].as_array().into_iter().flatten();
                values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
            };
            for (group, resource) in
                list("apiGroups").iter().flat_map(|g| list("resources").into_iter().map(move |r| (g, r)))
            {
                granted.extend(list("verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    let used = world.traffic.rights()?;
    same("used without being granted", used.difference(&granted).collect::<Vec<_>>(), Vec::new())?;
    same("granted without being used", granted.difference(&used).collect::<Vec<_>>(), Vec::new())
}
