//! Workloads of known size and policies in a hurry.

use crate::space::Space;
use serde_json::{Value, json};

/// What a container asks for and what it uses.
#[derive(Clone, Copy)]
pub struct Demand {
    /// CPU and memory request.
    pub requests: (&'static str, &'static str),
    /// CPU and memory limit.
    pub limits: (&'static str, &'static str),
    /// Millicores and mebibytes that it uses.
    pub uses: (u32, u32),
}

/// Asks for much more than it uses.
pub const OVER_ASKING: Demand =
    Demand { requests: ("200m", "128Mi"), limits: ("400m", "256Mi"), uses: (20, 16) };

/// A Deployment of the workload simulator; its container is called `app`.
pub fn deployment(space: &Space<'_>, name: &str, demand: Demand) -> Value {
    let Demand { requests, limits, uses } = demand;
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": space.name, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 2,
                    "containers": [{
                        "name": "app",
                        "image": space.cluster.load,
                        "args": [format!("--cpu-millicores={}", uses.0), format!("--memory-mib={}", uses.1)],
                        "resources": {
                            "requests": {"cpu": requests.0, "memory": requests.1},
                            "limits": {"cpu": limits.0, "memory": limits.1},
                        },
                    }],
                },
            },
        },
    })
}

/// A policy for everything in its namespace; `changes` are merged into its spec.
pub fn policy(namespace: &str, name: &str, changes: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "optipod.io/v1alpha1",
        "kind": "OptimizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "mode": "Auto",
            "replacement": "Accept",
            "reconciliationInterval": "2s",
            "metricsConfig": {"rollingWindow": "30s", "minimumCoverage": 0.3},
            "strategy": {"type": "Percentile"},
            // usage of a few millicores is never steady, on an emulated node least of all, where a resize takes seconds
            "resourceBounds": {"cpu": {"min": "50m"}, "memory": {"min": "24Mi"}},
            "updateStrategy": {"cooldown": "0s", "minChange": "40%"},
        },
    });
    merge(&mut policy["spec"], changes);
    policy
}

/// As RFC 7396 does it, without removals.
fn merge(target: &mut Value, changes: &Value) {
    match (target, changes) {
        (Value::Object(target), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, changes) => *target = changes.clone(),
    }
}
