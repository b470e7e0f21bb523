//! The scenario file: what it may say, and what is wrong with one that says something else.
//!
//! `tests/SIMULATED.md` is its reference; a test holds that every field here is documented there.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::expect::Expectation;
use super::faults::FaultEntry;
use super::value::{Cpu, Memory, Time};
use crate::simulated::node::MOST_PODS;
use crate::simulated::usage::Usage;

/// Nodes that one scenario may have.
const MAX_NODES: u32 = 1000;
/// Pods that one scenario may create.
const MAX_PODS: u64 = 20_000;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// What shares and traces are drawn from.
    #[serde(default)]
    pub seed: u64,
    /// Simulated seconds in a second, 1 to 1,000.
    #[serde(default = "one")]
    pub speed: u32,
    /// It ends then, or earlier when all expectations are decided.
    pub duration: Time,
    /// How many coordinators, 1 or 2: one leads.
    #[serde(default = "one")]
    pub coordinators: u32,
    /// Groups of equal nodes; they are numbered through.
    pub nodes: Vec<NodeGroup>,
    /// What runs.
    pub workloads: Vec<Workload>,
    /// Other objects of the API: quotas, limit ranges.
    #[serde(default)]
    pub objects: Vec<ObjectEntry>,
    /// Policies.
    #[serde(default)]
    pub policies: Vec<ObjectEntry>,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<FaultEntry>,
    /// What must hold.
    pub expect: Vec<Expectation>,
}

const fn one() -> u32 {
    1
}

/// Equal nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeGroup {
    /// How many.
    pub count: u32,
    /// Allocatable CPU of each.
    pub cpu: Cpu,
    /// Allocatable memory of each.
    pub memory: Memory,
    /// Pods that each may have.
    #[serde(default = "pods_per_node")]
    pub pods: u16,
    /// Version that the kubelet reports; that of the control plane when absent.
    #[serde(default)]
    pub version: Option<String>,
    /// Features that the nodes declare; those of the version of the control plane when absent.
    #[serde(default)]
    pub declared_features: Option<Vec<String>>,
    /// CPU manager with policy `static`: CPU of Guaranteed pods cannot be resized.
    #[serde(default)]
    pub static_cpus: bool,
}

const fn pods_per_node() -> u16 {
    110
}

/// Pods of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    /// Its name; pods of it begin with it.
    pub name: String,
    /// Where it is; made when it is not there.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// What creates the pods.
    pub kind: WorkloadKind,
    /// How many pods.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Labels of the workload and its pods.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Priority of the pods.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Its pods are ready this long after their start.
    #[serde(default)]
    pub ready_after: Option<Time>,
    /// Its containers end this long after their start.
    #[serde(default)]
    pub exit_after: Option<Time>,
    /// With this code; 0 when absent.
    #[serde(default)]
    pub exit_code: Option<u8>,
    /// Containers of each pod.
    pub containers: Vec<Container>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What creates pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum WorkloadKind {
    /// A Deployment: names of its pods differ from run to run.
    Deployment,
    /// A StatefulSet that starts its pods in parallel.
    StatefulSet,
    /// Pods without an owner, named as those of a StatefulSet.
    Pod,
}

/// One container of a workload's pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// When it runs.
    #[serde(rename = "type", default)]
    pub kind: ContainerType,
    /// What it asks for.
    #[serde(default)]
    pub requests: Amounts,
    /// What it may use.
    #[serde(default)]
    pub limits: Amounts,
    /// What it uses, in the grammar of usage.
    #[serde(default)]
    pub usage: Option<String>,
    /// What a resize does to it.
    #[serde(default)]
    pub resize_policy: ResizePolicies,
}

/// When a container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ContainerType {
    /// As long as its pod.
    #[default]
    Regular,
    /// Once, before the others.
    Init,
    /// As long as its pod, started before the regular ones: an init container that is restarted always.
    Sidecar,
}

/// CPU and memory; what is absent is not stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Amounts {
    /// Of CPU.
    #[serde(default)]
    pub cpu: Option<Cpu>,
    /// Of memory.
    #[serde(default)]
    pub memory: Option<Memory>,
}

/// What a resize of each resource does to a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResizePolicies {
    /// A resize of CPU.
    #[serde(default)]
    pub cpu: Option<ResizePolicy>,
    /// A resize of memory.
    #[serde(default)]
    pub memory: Option<ResizePolicy>,
}

/// What a resize does to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum ResizePolicy {
    /// It goes on.
    NotRequired,
    /// It starts again.
    RestartContainer,
}

/// An object of the API, written out or in a file, and when it is created.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ObjectEntry {
    /// When: at the start for policies, before the workloads for other objects.
    #[serde(default)]
    pub at: Option<Time>,
    /// The object.
    #[serde(default)]
    pub object: Option<Value>,
    /// A file that holds it, named from the scenario's folder.
    #[serde(default)]
    pub file: Option<String>,
}

impl Scenario {
    /// Reads and checks a file, and the files that it names.
    ///
    /// # Errors
    /// Say which field is wrong, why, and what is allowed.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new(".")))
            .with_context(|| format!("{} is not a scenario", path.display()))
    }

    /// The same from text; `folder` is where files that it names are.
    ///
    /// # Errors
    /// As [`Scenario::read`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let mut scenario: Self = serde_yaml_ng::from_str(text)?;
        for (field, entries) in [("objects", &mut scenario.objects), ("policies", &mut scenario.policies)] {
            for (index, entry) in entries.iter_mut().enumerate() {
                entry.resolve(folder).with_context(|| format!("{field}[{index}]"))?;
            }
        }
        scenario.check()?;
        Ok(scenario)
    }

    /// Simulated nodes, all groups together.
    pub fn node_count(&self) -> u32 {
        self.nodes.iter().fold(0, |sum, group| sum.saturating_add(group.count))
    }

    /// Pods of all workloads.
    pub fn pod_count(&self) -> u64 {
        self.workloads.iter().map(|workload| u64::from(workload.replicas)).sum()
    }

    /// The workload of that name, in that namespace where one is said.
    pub fn workload(&self, name: &str, namespace: Option<&str>) -> Option<&Workload> {
        self.workloads
            .iter()
            .find(|w| w.name == name && namespace.is_none_or(|namespace| w.namespace == namespace))
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=1000).contains(&self.speed), "speed: {} is not one: expected 1 to 1000", self.speed);
        ensure!(!self.duration.0.is_zero(), "duration: expected more than 0s");
        ensure!(
            (1..=2).contains(&self.coordinators),
            "coordinators: {} is not possible: expected 1 or 2",
            self.coordinators
        );
        let (nodes, pods) = (self.node_count(), self.pod_count());
        ensure!((1..=MAX_NODES).contains(&nodes), "nodes: {nodes} in all: expected 1 to {MAX_NODES}");
        for (index, group) in self.nodes.iter().enumerate() {
            ensure!(
                (1..=MOST_PODS).contains(&group.pods),
                "nodes[{index}].pods: {}: expected 1 to {MOST_PODS}",
                group.pods
            );
        }
        ensure!(pods <= MAX_PODS, "workloads: {pods} pods in all: expected at most {MAX_PODS}");
        for (index, workload) in self.workloads.iter().enumerate() {
            self.check_workload(workload)
                .with_context(|| format!("workloads[{index}] ({})", workload.name))?;
        }
        for (index, entry) in self.policies.iter().enumerate() {
            entry.check_policy().with_context(|| format!("policies[{index}]"))?;
        }
        for (field, entries) in [("objects", &self.objects), ("policies", &self.policies)] {
            for (index, entry) in entries.iter().enumerate() {
                self.within(entry.at.unwrap_or_default()).with_context(|| format!("{field}[{index}].at"))?;
            }
        }
        let names: Vec<String> = (1..=nodes).map(|number| format!("sim-{number}")).collect();
        for (index, entry) in self.faults.iter().enumerate() {
            let place = || format!("faults[{index}]");
            self.within(entry.at).with_context(|| format!("{}.at", place()))?;
            let faults = entry.faults().with_context(place)?;
            entry.check_names(&names, self).with_context(place)?;
            ensure!(!faults.is_empty(), "{}: nothing goes wrong", place());
        }
        ensure!(!self.expect.is_empty(), "expect: a scenario without expectations shows nothing");
        for (index, expectation) in self.expect.iter().enumerate() {
            expectation.check(self).with_context(|| format!("expect[{index}]"))?;
        }
        Ok(())
    }

    /// Whether a moment comes before the end.
    pub(super) fn within(&self, at: Time) -> Result<()> {
        ensure!(at <= self.duration, "{at} is after the end: expected at most {}", self.duration);
        Ok(())
    }

    fn check_workload(&self, workload: &Workload) -> Result<()> {
        let mut regular = workload.containers.iter().filter(|c| c.kind == ContainerType::Regular);
        ensure!(regular.next().is_some(), "containers: expected at least one of type Regular");
        let twins = self.workloads.iter().filter(|other| other.namespace == workload.namespace);
        for other in twins.clone() {
            let prefix = format!("{}-", other.name);
            ensure!(
                !workload.name.starts_with(&prefix),
                "name: its pods could be those of {:?}: choose one that does not begin with {prefix:?}",
                other.name
            );
        }
        ensure!(twins.filter(|other| other.name == workload.name).count() == 1, "name: is there twice");
        for (index, container) in workload.containers.iter().enumerate() {
            if let Some(usage) = &container.usage {
                usage.parse::<Usage>().with_context(|| format!("containers[{index}].usage"))?;
            }
        }
        Ok(())
    }
}

impl ObjectEntry {
    /// The object as it is created.
    pub fn value(&self) -> &Value {
        self.object.as_ref().unwrap_or(&Value::Null)
    }

    fn resolve(&mut self, folder: &Path) -> Result<()> {
        match (&self.object, &self.file) {
            (Some(_), None) => Ok(()),
            (None, Some(file)) => {
                let path = folder.join(file);
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("file: cannot read {}", path.display()))?;
                self.object =
                    Some(serde_yaml_ng::from_str(&text).with_context(|| format!("file {}", path.display()))?);
                Ok(())
            }
            _ => bail!("expected either `object` or `file`"),
        }
    }

    fn check_policy(&self) -> Result<()> {
        let kind = self.value().get("kind").and_then(Value::as_str).unwrap_or_default();
        ensure!(kind == "OptimizationPolicy", "kind: {kind:?}: expected \"OptimizationPolicy\"");
        Ok(())
    }
}
