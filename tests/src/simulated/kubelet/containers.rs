//! What the kubelet asks of a container runtime, and what it asks the kernel for.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use optipod_common::ident::ContainerId;
use optipod_common::resources::{Amounts, QosClass, Resources};
use sha2::{Digest, Sha256};

use super::size::Amount;
use crate::simulated::runtime::{CgroupResources, ContainerSpec, Runtime};
use crate::simulated::usage::Usage;

/// A container to start.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Of its pod.
    pub pod_uid: &'a str,
    /// Class of its pod.
    pub qos: QosClass,
    /// Its name.
    pub name: &'a str,
    /// Of this start.
    pub id: ContainerId,
    /// Its cgroup.
    pub resources: CgroupResources,
    /// The annotation that says what it uses.
    pub usage: Option<&'a str>,
    /// Its pod, as the API server shows it.
    pub pod: &'a Pod,
    /// Its specification.
    pub container: &'a Container,
    /// Address of the pod.
    pub address: Option<Ipv4Addr>,
}

impl Start<'_> {
    /// What it uses: as the annotation says, or the arguments of the lab's load; next to nothing without both.
    fn usage(&self) -> Result<Usage> {
        match (self.usage, load(self.container)) {
            (Some(text), _) => {
                text.parse().with_context(|| format!("the annotation of what {} uses", self.name))
            }
            (None, Some(text)) => text.parse().with_context(|| format!("the arguments of {}", self.name)),
            (None, None) => Ok(Usage::default()),
        }
    }
}

/// Image of the lab's load, which does what its arguments say: `cargo lab images` makes it.
const LOAD: &str = "lab/load:1";

fn load(container: &Container) -> Option<String> {
    container.image.as_deref().filter(|image| image.ends_with(LOAD))?;
    let args = container.args.as_deref().unwrap_or_default();
    let value = |flag: &str| args.iter().skip_while(|arg| *arg != flag).nth(1).map(String::as_str);
    let (cpu, memory) = (value("--cpu-millicores").unwrap_or("0"), value("--memory-mib").unwrap_or("0"));
    Some(format!("cpu=constant({cpu}m) memory=constant({memory}Mi)"))
}

/// A container runtime of one node. Calls are cheap and do not wait.
pub trait Containers: Send + Sync {
    /// Makes the pod's cgroup.
    fn start_pod(&self, uid: &str, qos: QosClass, resources: CgroupResources) -> Result<()>;
    /// Changes the pod's cgroup.
    fn update_pod(&self, uid: &str, resources: CgroupResources) -> Result<()>;
    /// Starts a container.
    fn start(&self, start: Start<'_>) -> Result<()>;
    /// Changes a container's cgroup.
    fn update(&self, pod_uid: &str, name: &str, resources: CgroupResources) -> Result<()>;
    /// `memory.current`; `None` = the container does not run.
    fn memory_bytes(&self, pod_uid: &str, name: &str) -> Option<u64>;
    /// Stops a container; fine when it does not run.
    fn stop(&self, pod_uid: &str, name: &str) -> Result<()>;
    /// Removes the pod's cgroup and what is in it.
    fn remove_pod(&self, uid: &str) -> Result<()>;
    /// Whether the container says that it is ready; `None` = it says nothing, its readiness is played.
    fn ready(&self, pod_uid: &str, name: &str) -> Option<bool> {
        let _ = (pod_uid, name);
        None
    }
}

/// A runtime whose containers use nothing and have no files.
#[derive(Clone, Copy, Debug)]
pub struct Weightless;

impl Containers for Weightless {
    fn start_pod(&self, _: &str, _: QosClass, _: CgroupResources) -> Result<()> {
        Ok(())
    }
    fn update_pod(&self, _: &str, _: CgroupResources) -> Result<()> {
        Ok(())
    }
    fn start(&self, _: Start<'_>) -> Result<()> {
        Ok(())
    }
    fn update(&self, _: &str, _: &str, _: CgroupResources) -> Result<()> {
        Ok(())
    }
    fn memory_bytes(&self, _: &str, _: &str) -> Option<u64> {
        Some(0)
    }
    fn stop(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    fn remove_pod(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

impl Containers for Runtime {
    fn start_pod(&self, uid: &str, qos: QosClass, resources: CgroupResources) -> Result<()> {
        self.start_pod(uid, qos, resources)
    }
    fn update_pod(&self, uid: &str, resources: CgroupResources) -> Result<()> {
        self.update_pod(uid, resources)
    }
    fn start(&self, start: Start<'_>) -> Result<()> {
        let usage = start.usage()?;
        let Start { pod_uid, qos, name, id, resources, .. } = start;
        let (pod_uid, name) = (pod_uid.to_owned(), name.to_owned());
        self.start(ContainerSpec { pod_uid, qos, name, id, usage, resources })
    }
    fn update(&self, pod_uid: &str, name: &str, resources: CgroupResources) -> Result<()> {
        self.update(pod_uid, name, resources)
    }
    fn memory_bytes(&self, pod_uid: &str, name: &str) -> Option<u64> {
        self.memory_bytes(pod_uid, name)
    }
    fn stop(&self, pod_uid: &str, name: &str) -> Result<()> {
        self.stop(pod_uid, name)
    }
    fn remove_pod(&self, uid: &str) -> Result<()> {
        self.remove_pod(uid)
    }
}

/// The kernel's period.
const PERIOD_MICROS: u64 = 100_000;
/// Least quota that the kernel takes: 10m.
const LEAST_QUOTA_MICROS: u64 = 1_000;
/// `cpu.shares` that the kubelet writes at least; also the grain below which a request is reported as it was asked.
pub const LEAST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;

fn shares(millicores: u64) -> u64 {
    (millicores.saturating_mul(1024) / 1000).clamp(LEAST_SHARES, MOST_SHARES)
}

fn quota(millicores: u64) -> u64 {
    (millicores.saturating_mul(PERIOD_MICROS) / 1000).max(LEAST_QUOTA_MICROS)
}

/// `cpu.weight` of a pod's slice: the kubelet's straight line.
fn pod_weight(millicores: u64) -> u64 {
    1 + (shares(millicores) - LEAST_SHARES) * 9999 / (MOST_SHARES - LEAST_SHARES)
}

/// `cpu.weight` of a container's scope: the curve of runc since 1.3.2.
fn container_weight(millicores: u64) -> u64 {
    let log = (shares(millicores) as f64).log2();
    let weight = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    let weight = weight as u64;
    weight
}

/// The cgroup of a container of this size.
pub fn container_cgroup(size: &Resources) -> CgroupResources {
    let Amount { cpu, .. } = size.requests.into();
    CgroupResources {
        cpu_weight: container_weight(cpu),
        cpu_quota_micros: size.limits.cpu.filter(|limit| limit.0 > 0).map(|limit| quota(limit.0)),
        memory_max: size.limits.memory.map(|limit| limit.0).filter(|&limit| limit > 0),
    }
}

/// The cgroup of a pod; the systemd driver rounds a quota up to whole 10 ms of each second.
pub fn pod_cgroup(requests: Amount, limits: Amounts) -> CgroupResources {
    const STEP_MICROS: u64 = 10_000 * PERIOD_MICROS / 1_000_000;
    let round = |quota: u64| quota.div_ceil(STEP_MICROS) * STEP_MICROS;
    CgroupResources {
        cpu_weight: pod_weight(requests.cpu),
        cpu_quota_micros: limits.cpu.map(|limit| round(quota(limit.0))),
        memory_max: limits.memory.map(|limit| limit.0),
    }
}

/// The CPU request that the kubelet reads back from a pod's `cpu.weight`, in millicores.
pub fn request_of(resources: &CgroupResources) -> u64 {
    let shares =
        (resources.cpu_weight.saturating_sub(1)) * (MOST_SHARES - LEAST_SHARES) / 9999 + LEAST_SHARES;
    (shares * 1000).div_ceil(1024)
}

/// The CPU limit that the kubelet reads back from a pod's `cpu.max`, in millicores.
pub fn limit_of(resources: &CgroupResources) -> Option<u64> {
    resources.cpu_quota_micros.map(|quota| quota * 1000 / PERIOD_MICROS)
}

/// The id of one start of a container: the same for the same names and seed.
pub fn container_id(seed: u64, names: &[&str]) -> ContainerId {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    for name in names {
        hash.update(name.as_bytes());
        hash.update([0]);
    }
    ContainerId::from_bytes(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_measured_on_a_real_node() {
        let measured =
            [(2, 1, 1), (10, 1, 4), (50, 2, 11), (100, 4, 17), (250, 10, 35), (500, 20, 59), (1000, 39, 100)];
        for (millicores, pod, container) in measured {
            assert_eq!(
                (pod_weight(millicores), container_weight(millicores)),
                (pod, container),
                "{millicores}"
            );
        }
    }

    #[test]
    fn ids_differ_by_start_and_are_the_same_for_the_same_names() {
        let id = |seed, restart| container_id(seed, &["ns", "pod", "c", restart]);
        assert_eq!(id(1, "0"), id(1, "0"));
        assert!(id(1, "0") != id(1, "1") && id(1, "0") != id(2, "0"));
        assert_ne!(container_id(1, &["ab", "c"]), container_id(1, &["a", "bc"]));
    }
}
