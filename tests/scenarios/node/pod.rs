//! The one pod of a Deployment as the API server shows it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use optipod_common::quantity::{Bytes, MilliCpu};
use serde_json::Value;

use crate::cluster::{Cluster, SYSTEM, eventually, list, text};
use crate::manifests::{Demand, deployment};
use crate::space::Space;

/// Requests and limits in millicores and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub cpu_request: u64,
    pub memory_request: u64,
    pub cpu_limit: u64,
    pub memory_limit: u64,
}

impl Size {
    fn read(resources: &Value) -> Result<Self> {
        let cpu = |pointer: &str| -> Result<u64> {
            let quantity = text(resources, pointer);
            Ok(quantity.parse::<MilliCpu>().with_context(|| format!("{pointer} of {resources}"))?.0)
        };
        let memory = |pointer: &str| -> Result<u64> {
            let quantity = text(resources, pointer);
            Ok(quantity.parse::<Bytes>().with_context(|| format!("{pointer} of {resources}"))?.0)
        };
        Ok(Self {
            cpu_request: cpu("/requests/cpu")?,
            memory_request: memory("/requests/memory")?,
            cpu_limit: cpu("/limits/cpu")?,
            memory_limit: memory("/limits/memory")?,
        })
    }
}

/// One life of the first container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub pod: String,
    pub pod_uid: String,
    pub container_id: String,
    pub restarts: i64,
}

impl Life {
    /// From the JSON of a pod.
    pub fn read(pod: &Value) -> Result<Self> {
        let name = text(pod, "/metadata/name");
        let status = pod.pointer("/status/containerStatuses/0");
        let status = status.with_context(|| format!("{name} has no container yet"))?;
        ensure!(status.pointer("/state/running").is_some(), "{name} does not run: {status}");
        let id = text(status, "/containerID");
        Ok(Self {
            pod: name,
            pod_uid: text(pod, "/metadata/uid"),
            container_id: id.rsplit_once("//").map_or(id.clone(), |(_, id)| id.to_owned()),
            restarts: status.pointer("/restartCount").and_then(Value::as_i64).context("no restartCount")?,
        })
    }

    /// Of all pods of one component of the release.
    pub fn of_component(cluster: &Cluster, component: &str) -> Result<Vec<Self>> {
        let selector = format!("app.kubernetes.io/component={component}");
        let pods = cluster.get(&["pods", "--namespace", SYSTEM, "--selector", &selector])?;
        let living = list(&pods, "/items").filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        let lives: Vec<Self> = living.map(Self::read).collect::<Result<_>>()?;
        ensure!(!lives.is_empty(), "no {component} runs");
        Ok(lives)
    }
}

/// A running pod with one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub life: Life,
    /// What the spec says.
    pub wanted: Size,
    /// What the kubelet says that the container has.
    pub actual: Size,
    /// Counts changes of the spec. The resourceVersion also counts what a busy kubelet says of the pod's conditions.
    pub generation: i64,
    /// Who wrote what: manager and subresource.
    pub writers: BTreeSet<(String, String)>,
    /// Somebody wrote through `pods/resize`.
    pub resized: bool,
}

impl Pod {
    /// The only pod of a Deployment that is not being deleted, when it runs.
    pub fn of(space: &Space<'_>, deployment: &str) -> Result<Self> {
        let pods =
            space.get(&["pods", "--show-managed-fields", "--selector", &format!("app={deployment}")])?;
        let mut living =
            list(&pods, "/items").filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        let pod = living.next().with_context(|| format!("{deployment} has no pod"))?;
        ensure!(living.next().is_none(), "{deployment} has more than one pod");
        let resources = |pointer: &str| {
            let resources = pod.pointer(pointer);
            Size::read(resources.with_context(|| format!("no {pointer} in a pod of {deployment}"))?)
        };
        let entries = list(pod, "/metadata/managedFields");
        let writers: BTreeSet<_> =
            entries.map(|entry| (text(entry, "/manager"), text(entry, "/subresource"))).collect();
        Ok(Self {
            life: Life::read(pod)?,
            wanted: resources("/spec/containers/0/resources")?,
            actual: resources("/status/containerStatuses/0/resources")?,
            generation: pod
                .pointer("/metadata/generation")
                .and_then(Value::as_i64)
                .context("no generation")?,
            resized: writers.iter().any(|(_, subresource)| subresource == "resize"),
            writers,
        })
    }

    /// Creates a Deployment and waits until its pod runs.
    pub fn start(space: &Space<'_>, name: &str, demand: Demand) -> Result<Self> {
        space.cluster.apply(&deployment(space, name, demand))?;
        eventually(&format!("the pod of {name} runs"), || Self::of(space, name))
    }

    /// Fails unless it is still the same container, which did not restart.
    pub fn expect_same_life(&self, before: &Self) -> Result<()> {
        ensure!(self.life == before.life, "another life: {before:?} became {self:?}");
        ensure!(self.life.restarts == 0, "restarted: {self:?}");
        Ok(())
    }

    /// Waits until OptiPod called a resize of this pod done that leaves it as `expected`, in spec and status alike.
    pub fn resized_to(space: &Space<'_>, deployment: &str, expected: impl Fn(&Size) -> bool) -> Result<Self> {
        eventually(&format!("{deployment} is resized as expected"), || {
            let pod = Self::of(space, deployment)?;
            ensure!(pod.wanted == pod.actual, "spec and status differ: {pod:?}");
            ensure!(expected(&pod.actual), "not the expected size: {pod:?}");
            ensure!(pod.resized, "nobody resized {pod:?}");
            let events = space.events(&pod.life.pod)?;
            ensure!(events.last().is_some_and(|(reason, _)| reason == "Resized"), "not done: {events:?}");
            Ok(pod)
        })
    }
}
