//! Objects as the API server would send them, and what the index says about them.
#![allow(clippy::needless_pass_by_value, reason = "objects are written in place")]

mod facts;
mod property;
mod selection;
mod tenancy;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn id(number: u8) -> ContainerId {
    ContainerId::from_bytes([number; 32])
}

fn key(name: &str) -> PodKey {
    PodKey { namespace: "default".into(), name: name.into() }
}

fn workload(kind: &str, name: &str) -> WorkloadRef {
    WorkloadRef { kind: kind.into(), namespace: "default".into(), name: name.into() }
}

fn owner(api_version: &str, kind: &str, name: &str) -> Value {
    json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": format!("uid-{name}"), "controller": true}])
}

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}})
}

/// A running pod with one container `c` whose id is made of `number`.
fn pod(name: &str, number: u8, owners: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}-{number}"),
                     "resourceVersion": "7", "generation": 3, "ownerReferences": owners},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "resources": resources("200m", "64Mi")}]},
        "status": {"phase": "Running", "observedGeneration": 3, "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 2,
            "containerID": format!("containerd://{}", id(number)),
            "state": {"running": {}}}]},
    })
}

fn replica_set(name: &str, owners: Value) -> ReplicaSet {
    object(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "ownerReferences": owners,
                     "labels": {"from": "replicaset"}},
        "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "resources": resources("1", "512Mi")}]}}},
    }))
}

fn deployment(name: &str, labels: Value) -> Deployment {
    object(
        json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": labels}}),
    )
}

fn stateful_set(name: &str) -> StatefulSet {
    object(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"selector": {}, "serviceName": "", "template": {"spec": {"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}]}}},
    }))
}

fn policy(namespace: &str, name: &str, spec: Value) -> DeserializeGuard<OptimizationPolicy> {
    object(json!({
        "apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 1,
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec,
    }))
}

fn policy_key(namespace: &str, name: &str) -> PolicyKey {
    PolicyKey { namespace: namespace.into(), name: name.into() }
}

fn index() -> Index {
    Index::new("optipod-system".into(), vec!["platform".into()], "optipod-coordinator")
}

/// An index whose pod `p` belongs to Deployment `web` through ReplicaSet `web-1`.
fn web() -> Index {
    let mut index = index();
    put_pod(&mut index, pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1")), 0);
    index.apply(
        Change::ReplicaSets(Delta::Apply(Box::new(replica_set(
            "web-1",
            owner("apps/v1", "Deployment", "web"),
        )))),
        at(0),
    );
    index.apply(
        Change::Deployments(Delta::Apply(Box::new(deployment("web", json!({"tier": "front"}))))),
        at(0),
    );
    index
}

fn put_pod(index: &mut Index, pod: Value, seconds: i64) -> Vec<ContainerId> {
    index.apply(Change::Pods(Delta::Apply(Box::new(object(pod)))), at(seconds))
}

fn put_policy(index: &mut Index, policy: DeserializeGuard<OptimizationPolicy>) {
    index.apply(Change::Policies(Delta::Apply(Box::new(policy))), at(0));
}

/// What a policy is in charge of, by name.
fn selected(index: &Index, namespace: &str, name: &str) -> Vec<String> {
    let selection = index.select();
    let workloads = selection.by_policy.get(&policy_key(namespace, name)).cloned().unwrap_or_default();
    workloads.iter().map(|w| w.workload.to_string()).collect()
}
