//! Nodes, namespaces and autoscalers.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, MetricSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use optipod_common::decide::Followed;
use optipod_common::ident::WorkloadRef;
use optipod_common::resources::{NodeFacts, Resource};

use super::pods::amounts_of;
use super::{Delta, Index, Listed};

/// Autoscalers by what they scale, then by name.
#[derive(Debug, Default)]
pub struct Scalers {
    by_target: HashMap<WorkloadRef, BTreeMap<String, BTreeMap<Resource, Option<u16>>>>,
    targets: BTreeMap<(String, String), WorkloadRef>,
}

impl Scalers {
    pub fn resources(&self, workload: &WorkloadRef) -> Vec<Followed> {
        let found: BTreeMap<Resource, Option<u16>> = self
            .by_target
            .get(workload)
            .into_iter()
            .flat_map(|s| s.values().flatten())
            .map(|(r, t)| (*r, *t))
            .collect();
        found.into_iter().map(|(resource, target)| Followed { resource, target }).collect()
    }

    fn put(&mut self, hpa: HorizontalPodAutoscaler) {
        let key = key_of(&hpa);
        self.remove(&key);
        let spec = hpa.spec;
        let target = WorkloadRef {
            kind: spec.scale_target_ref.kind,
            namespace: key.0.clone(),
            name: spec.scale_target_ref.name,
        };
        let followed = match spec.metrics {
            // the API server's default: 80 % CPU utilisation
            None => BTreeMap::from([(Resource::Cpu, Some(80))]),
            Some(metrics) if metrics.is_empty() => BTreeMap::from([(Resource::Cpu, Some(80))]),
            Some(metrics) => metrics.iter().filter_map(utilisation_of).collect(),
        };
        self.by_target.entry(target.clone()).or_default().insert(key.1.clone(), followed);
        self.targets.insert(key, target);
    }

    fn remove(&mut self, key: &(String, String)) {
        let Some(target) = self.targets.remove(key) else { return };
        if let Some(scalers) = self.by_target.get_mut(&target) {
            scalers.remove(&key.1);
            if scalers.is_empty() {
                self.by_target.remove(&target);
            }
        }
    }
}

/// The resource whose share of the request a metric follows, and its target in percent; absolute values do not depend on
/// requests.
fn utilisation_of(metric: &MetricSpec) -> Option<(Resource, Option<u16>)> {
    let resource = metric.resource.as_ref().map(|r| (&r.name, &r.target));
    let of_container = metric.container_resource.as_ref().map(|r| (&r.name, &r.target));
    let (name, target) = resource.or(of_container)?;
    match name.as_str() {
        _ if target.type_ != "Utilization" => None,
        "cpu" => Some((Resource::Cpu, percent(target.average_utilization))),
        "memory" => Some((Resource::Memory, percent(target.average_utilization))),
        _ => None,
    }
}

fn percent(value: Option<i32>) -> Option<u16> {
    value.and_then(|value| u16::try_from(value).ok())
}

/// Architecture and instance type: where the type is not known, nodes of one architecture count as alike.
fn class_of(labels: Option<&BTreeMap<String, String>>) -> String {
    let label = |name| labels.and_then(|labels| labels.get(name)).map_or("", String::as_str);
    match (label("kubernetes.io/arch"), label("node.kubernetes.io/instance-type")) {
        (architecture, "") => architecture.to_owned(),
        (architecture, kind) => format!("{architecture}/{kind}"),
    }
}

/// Why no agent sees the pods of a node.
fn unobserved(labels: Option<&BTreeMap<String, String>>) -> Option<String> {
    let label = |name| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    if label("type") == Some("virtual-kubelet") {
        return Some("it is a virtual kubelet".to_owned());
    }
    if label("kubernetes.io/os") == Some("windows") {
        return Some("it runs Windows".to_owned());
    }
    (label("eks.amazonaws.com/compute-type") == Some("fargate")).then(|| "it is Fargate".to_owned())
}

/// Taints of nodes that are about to go: Karpenter (and its earlier name), cluster-autoscaler, the cloud's own shutdown.
/// Unlike `kubectl drain` they leave `spec.unschedulable` alone.
const LEAVING: [&str; 5] = [
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
    "node.cloudprovider.kubernetes.io/shutdown",
    "node.kubernetes.io/out-of-service",
];

/// Its pods are about to go somewhere else.
fn is_leaving(meta: &ObjectMeta, spec: &NodeSpec) -> bool {
    let taints = spec.taints.iter().flatten().any(|taint| LEAVING.contains(&taint.key.as_str()));
    taints || spec.unschedulable == Some(true) || meta.deletion_timestamp.is_some()
}

/// Why a node's kubelet cannot resize in place, by its version: 1.33 was the first to do it by default.
fn no_in_place(version: &str) -> Option<String> {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    ((major, minor) < (1, 33))
        .then(|| format!("kubelet {version} does not resize in place: 1.33 or later does"))
}

fn key_of(hpa: &HorizontalPodAutoscaler) -> (String, String) {
    (hpa.metadata.namespace.clone().unwrap_or_default(), hpa.metadata.name.clone().unwrap_or_default())
}

fn node_facts(node: Node) -> NodeFacts {
    let (spec, status) = (node.spec.unwrap_or_default(), node.status.unwrap_or_default());
    let cordoned = is_leaving(&node.metadata, &spec);
    let conditions = status.conditions.unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    let is_true = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    NodeFacts {
        class: class_of(labels),
        unobserved: unobserved(labels),
        no_in_place: status.node_info.and_then(|info| no_in_place(&info.kubelet_version)),
        allocatable: amounts_of(status.allocatable.as_ref()),
        name: node.metadata.name.unwrap_or_default(),
        ready: is_true("Ready"),
        cordoned,
        memory_pressure: is_true("MemoryPressure"),
        ..NodeFacts::default()
    }
}

fn labels_of(namespace: Namespace) -> (String, BTreeMap<String, String>) {
    let meta = namespace.metadata;
    (meta.name.unwrap_or_default(), meta.labels.unwrap_or_default())
}

impl Index {
    pub(super) fn apply_nodes(&mut self, delta: Delta<Node>) {
        match delta {
            Delta::Apply(node) => {
                let facts = node_facts(*node);
                self.nodes.insert(facts.name.clone(), facts);
            }
            Delta::Delete(node) => {
                self.nodes.remove(&node.metadata.name.unwrap_or_default());
            }
            Delta::Replace(nodes) => {
                self.nodes = nodes.into_iter().map(node_facts).map(|f| (f.name.clone(), f)).collect();
                self.listed.insert(Listed::Nodes);
            }
        }
    }

    pub(super) fn apply_namespaces(&mut self, delta: Delta<Namespace>) {
        match delta {
            Delta::Apply(namespace) => {
                let (name, labels) = labels_of(*namespace);
                self.namespaces.insert(name, labels);
            }
            Delta::Delete(namespace) => {
                self.namespaces.remove(&namespace.metadata.name.unwrap_or_default());
            }
            Delta::Replace(namespaces) => {
                self.namespaces = namespaces.into_iter().map(labels_of).collect();
                self.listed.insert(Listed::Namespaces);
            }
        }
    }

    pub(super) fn apply_hpas(&mut self, delta: Delta<HorizontalPodAutoscaler>) {
        match delta {
            Delta::Apply(hpa) => self.scalers.put(*hpa),
            Delta::Delete(hpa) => self.scalers.remove(&key_of(&hpa)),
            Delta::Replace(hpas) => {
                self.scalers = Scalers::default();
                for hpa in hpas {
                    self.scalers.put(hpa);
                }
                self.listed.insert(Listed::Hpas);
            }
        }
    }
}
