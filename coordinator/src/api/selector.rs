//! Which workloads a policy is for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cel::{self, rule};
use super::labels::LabelSelector;

/// Which workloads a policy is for. Everything that is given must hold; `namespaces.deny` always wins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Namespaces by their labels; `{}` = all. Only policies in OptiPod's own namespace (or one that
    /// `--cluster-policy-namespaces` names) reach beyond their own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Workloads by the labels of the Deployment, StatefulSet, DaemonSet, ... (of the pod, when it has no owner, or one
    /// that OptiPod does not watch).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<LabelSelector>,
    /// Pods by their own labels. A workload is selected when one of its pods is; pods that do not match are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Namespaces>,
    /// Kinds of workloads, such as `Deployment`, `StatefulSet`, `DaemonSet`, `ReplicaSet`, `CronJob`, `Job`, `Rollout`,
    /// `Pod` (pods without owner) or the kind of a custom resource that owns pods. At most 32. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.all(kind, kind.matches('^[A-Z][A-Za-z0-9]*$'))", "must be kinds in UpperCamelCase, such as Deployment, StatefulSet, DaemonSet, CronJob, Rollout or Pod")]))]
    pub workload_kinds: Vec<String>,
    /// Names of containers that are left alone, such as `istio-proxy`; `*` stands for any characters. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [cel::container_globs()]))]
    pub exclude_containers: Vec<String>,
}

/// Namespaces by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespaces {
    /// Only these namespaces. Not empty when given, at most 256. Default: no restriction by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [rule("size(self) > 0", "must not be empty when given: leave it out to allow every namespace that the policy may reach"), cel::namespaces()]))]
    pub allow: Option<Vec<String>>,
    /// Never these namespaces, whatever else says so. At most 256.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    #[schemars(extend("x-kubernetes-validations" = [cel::namespaces()]))]
    pub deny: Vec<String>,
}
