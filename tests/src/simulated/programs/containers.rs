//! A container runtime of a simulated node that runs OptiPod's own images as processes.

use std::path::PathBuf;

use anyhow::Result;
use optipod_common::resources::QosClass;

use super::{Launch, Programs};
use crate::simulated::kubelet::containers::{Containers, Start};
use crate::simulated::runtime::{CgroupResources, Runtime};

/// Containers as the runtime plays them, and beside those of OptiPod's images a process each: its cgroup files say
/// that it is quiet.
pub struct WithPrograms {
    /// Plays cgroups.
    pub runtime: Runtime,
    /// Runs processes.
    pub programs: Programs,
    /// Folder of the node's cgroup files.
    pub cgroup_root: PathBuf,
}

impl Containers for WithPrograms {
    fn start_pod(&self, uid: &str, qos: QosClass, resources: CgroupResources) -> Result<()> {
        self.runtime.start_pod(uid, qos, resources)
    }
    fn update_pod(&self, uid: &str, resources: CgroupResources) -> Result<()> {
        self.runtime.update_pod(uid, resources)
    }
    fn start(&self, start: Start<'_>) -> Result<()> {
        let image = start.container.image.as_deref().unwrap_or_default();
        if let Some(address) = start.address.filter(|_| self.programs.runs(image)) {
            self.programs.start(Launch {
                pod: start.pod.clone(),
                container: start.container.clone(),
                id: start.id,
                address,
                cgroup_root: self.cgroup_root.clone(),
            });
        }
        Containers::start(&self.runtime, start)
    }
    fn update(&self, pod_uid: &str, name: &str, resources: CgroupResources) -> Result<()> {
        self.runtime.update(pod_uid, name, resources)
    }
    fn memory_bytes(&self, pod_uid: &str, name: &str) -> Option<u64> {
        self.runtime.memory_bytes(pod_uid, name)
    }
    fn stop(&self, pod_uid: &str, name: &str) -> Result<()> {
        self.programs.stop(pod_uid, name);
        self.runtime.stop(pod_uid, name)
    }
    fn remove_pod(&self, uid: &str) -> Result<()> {
        self.programs.stop_pod(uid);
        self.runtime.remove_pod(uid)
    }
    fn ready(&self, pod_uid: &str, name: &str) -> Option<bool> {
        self.programs.ready(pod_uid, name)
    }
}
