//! Objects of the API server and helpers that more than one scenario needs.

#![allow(dead_code, reason = "each test target uses a part")]

use std::time::Duration;

use optipod_common::ident::{ContainerId, WorkloadContainer, WorkloadRef};
use optipod_coordinator::FIELD_MANAGER;
use optipod_coordinator::engine::{Engine, Settings};
use optipod_coordinator::index::{Change, Delta, Index};
use optipod_coordinator::metrics::Metrics;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where the coordinator of the tests runs.
pub const OWN_NAMESPACE: &str = "optipod-system";

/// An object of the API server from its JSON.
pub fn object<K: DeserializeOwned>(json: &Value) -> K {
    serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{error} in {json:#}"))
}

/// It was created or changed.
pub fn applied<K: DeserializeOwned>(json: &Value) -> Delta<K> {
    Delta::Apply(Box::new(object(json)))
}

/// The id of a container from one byte.
pub const fn container_id(byte: u8) -> ContainerId {
    ContainerId::from_bytes([byte; 32])
}

/// The UID of a pod from one byte.
pub fn pod_uid(byte: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{byte:02x}")
}

/// A container of a workload.
pub fn key(kind: &str, namespace: &str, name: &str, container: &str) -> WorkloadContainer {
    let workload =
        WorkloadRef { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
    WorkloadContainer { workload, container: container.to_owned() }
}

/// An engine that knows nothing yet.
pub fn engine(metrics: &Metrics, frame_interval: Duration, dry_run: bool) -> Engine {
    let settings = Settings { dry_run, frame_interval };
    let index = Index::new(OWN_NAMESPACE.to_owned(), Vec::new(), FIELD_MANAGER);
    Engine::new(settings, index, metrics.clone())
}

/// The empty first list of every kind.
pub fn nothing_exists() -> Vec<Change> {
    vec![
        Change::Namespaces(Delta::Replace(Vec::new())),
        Change::Nodes(Delta::Replace(Vec::new())),
        Change::Deployments(Delta::Replace(Vec::new())),
        Change::ReplicaSets(Delta::Replace(Vec::new())),
        Change::StatefulSets(Delta::Replace(Vec::new())),
        Change::DaemonSets(Delta::Replace(Vec::new())),
        Change::Jobs(Delta::Replace(Vec::new())),
        Change::CronJobs(Delta::Replace(Vec::new())),
        Change::Hpas(Delta::Replace(Vec::new())),
        Change::Quotas(Delta::Replace(Vec::new())),
        Change::Budgets(Delta::Replace(Vec::new())),
        Change::Configuration(Delta::Replace(Vec::new())),
        Change::Policies(Delta::Replace(Vec::new())),
        Change::Pods(Delta::Replace(Vec::new())),
    ]
}
