//! Node objects and leases: what a kubelet says about its node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use optipod_common::quantity::{Bytes, MilliCpu};
use serde_json::{Value, json};
use tracing::warn;

use super::kubelet::api::Kubelets;
use super::kubelet::resize::Capacity;
use super::kubelet::size::Amount;

/// Marks the nodes.
pub const LABEL: &str = "optipod.io/simulated";
/// Where leases of nodes are.
const LEASES: &str = "kube-node-lease";
/// A kubelet's: the controller manager gives it up after 40 s without a renewal.
const LEASE_SECONDS: i32 = 40;
/// A kubelet renews this often.
const RENEW: Duration = Duration::from_secs(10);
/// Writes under way at once.
const TOGETHER: usize = 16;
/// What a kubelet of 1.36 declares.
pub const FEATURES: &str = "ExtendWebSocketsToKubelet,InPlacePodLevelResourcesVerticalScaling,\
    InPlacePodVerticalScalingInitContainers,RestartAllContainersOnContainerExits";
/// Most pods of a node: its pod network has 254 addresses.
pub const MOST_PODS: u16 = 250;
/// Nodes that fit the address plan (198.18.0.0/16).
pub const MOST_NODES: u16 = 5000;

/// What the nodes of a simulation have. All are alike.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Shape {
    /// CPU of a node, all of it for pods.
    #[arg(long, default_value = "4")]
    pub cpu: MilliCpu,
    /// Memory of a node, all of it for pods.
    #[arg(long, default_value = "8Gi")]
    pub memory: Bytes,
    /// Pods of a node.
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PODS)))]
    pub pods: u16,
    /// Version that the kubelets report.
    #[arg(long, default_value = "v1.36.3")]
    pub kubelet_version: String,
    /// Features that the nodes declare.
    #[arg(long, value_delimiter = ',', default_value = FEATURES)]
    pub declared_features: Vec<String>,
    /// CPU manager with policy `static`: CPU of Guaranteed pods cannot be resized.
    #[arg(long)]
    pub static_cpus: bool,
}

impl Shape {
    /// What a node has for pods.
    pub fn capacity(&self) -> Capacity {
        let amount = Amount { cpu: self.cpu.0, memory: self.memory.0 };
        Capacity { amount, pods: usize::from(self.pods) }
    }
}

/// Name of node `index` (from 1).
pub fn name(index: u16) -> String {
    format!("sim-{index}")
}

/// Address of node `index`: of the range for benchmarks, where nothing answers.
pub fn address(index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// Network of the pods of node `index`: a /24 of the shared address space.
pub fn pod_network(index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(100, 64 + high, low, 0)
}

fn labels(name: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", "amd64"),
        (LABEL, "true"),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn conditions(now: Timestamp) -> Value {
    let at = Time(now);
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": at, "lastTransitionTime": at,
        })
    };
    json!([
        condition(
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available"
        ),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status (simulated)"),
    ])
}

fn status(index: u16, shape: &Shape, now: Timestamp) -> Value {
    let size = json!({
        "cpu": shape.cpu.to_string(),
        "memory": shape.memory.to_string(),
        "pods": shape.pods.to_string(),
        "ephemeral-storage": "100Gi",
    });
    let name = name(index);
    json!({
        "capacity": size,
        "allocatable": size,
        "conditions": conditions(now),
        "addresses": [
            {"type": "InternalIP", "address": address(index)},
            {"type": "Hostname", "address": name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "kubeletVersion": shape.kubelet_version,
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "containerd://2.1.9",
            "operatingSystem": "linux",
            "architecture": "amd64",
            "osImage": "Simulated node",
            "kernelVersion": "6.12.0-simulated",
            "machineID": format!("{index:032x}"),
            "systemUUID": format!("{index:032x}"),
            "bootID": format!("00000000-0000-4000-8000-{index:012x}"),
        },
        "declaredFeatures": shape.declared_features,
    })
}

/// Makes nodes `1..=count` exist and Ready, with fresh leases.
pub async fn register(client: &Client, count: u16, shape: &Shape) -> Result<()> {
    stream::iter((1..=count).map(Ok))
        .try_for_each_concurrent(TOGETHER, |index| async move {
            register_one(client, index, shape)
                .await
                .with_context(|| format!("cannot register {}", name(index)))
        })
        .await
}

/// Makes one node exist and Ready, with a fresh lease.
pub async fn register_one(client: &Client, index: u16, shape: &Shape) -> Result<()> {
    let (nodes, name) = (Api::<Node>::all(client.clone()), name(index));
    let network = format!("{}/24", pod_network(index));
    let node = json!({
        "metadata": {"name": name, "labels": labels(&name)},
        "spec": {"podCIDR": network, "podCIDRs": [network]},
    });
    let node = match nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await {
        Ok(node) => node,
        Err(kube::Error::Api(status)) if status.code == 409 => nodes.get(&name).await?,
        Err(error) => return Err(error.into()),
    };
    if !node.labels().contains_key(LABEL) {
        bail!("a node of this name exists and is not simulated (it has no label {LABEL})");
    }
    renew(client, &name, node.uid().as_deref()).await?;
    let status = json!({"status": status(index, shape, Timestamp::now())});
    nodes.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

/// Renews the lease of a node; makes it when the node's UID is given.
async fn renew(client: &Client, name: &str, owner: Option<&str>) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let spec = json!({
        "holderIdentity": name,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": MicroTime(Timestamp::now()),
    });
    if let Some(uid) = owner {
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
        let lease = json!({"metadata": {"name": name, "ownerReferences": owner}, "spec": spec});
        let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        match leases.create(&PostParams::default(), &lease).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map(drop),
        }
    }
    leases.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.map(drop)
}

/// Renews all leases, for ever, in real time. A node that stands still is left out.
pub async fn heartbeats(client: Client, kubelets: Kubelets, count: u16) {
    let mut round = tokio::time::interval(RENEW / 10);
    let mut slice = 0_u16;
    loop {
        round.tick().await;
        // a tenth of the nodes each time, so that requests do not come in bursts
        slice = (slice + 1) % 10;
        let due = (1..=count).filter(|index| index % 10 == slice).map(name);
        let due = due.filter(|name| !kubelets.is_lost(name));
        let client = &client;
        stream::iter(due)
            .for_each_concurrent(TOGETHER, |name| async move {
                if let Err(error) = renew(client, &name, None).await {
                    warn!(%error, node = %name, "lease");
                }
            })
            .await;
    }
}

/// Says that a node is Ready when the control plane has given it up and it does not stand still.
pub async fn keep_ready(client: Client, kubelets: Kubelets) -> Result<()> {
    let nodes: Api<Node> = Api::all(client);
    let config = watcher::Config::default().labels(LABEL);
    let mut changes = pin!(watcher(nodes.clone(), config).default_backoff().applied_objects());
    let mut doubted = BTreeSet::new();
    let mut round = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            change = changes.next() => match change {
                None => bail!("the watch of nodes ended"),
                Some(Err(error)) => warn!(%error, "watch of nodes"),
                Some(Ok(node)) => {
                    let ready = is_ready(&node);
                    if ready { doubted.remove(&node.name_any()); } else { doubted.insert(node.name_any()); }
                }
            },
            _ = round.tick(), if !doubted.is_empty() => {
                let back = doubted.iter().filter(|name| !kubelets.is_lost(name)).cloned();
                for name in back.collect::<Vec<_>>() {
                    let status = json!({"status": {"conditions": conditions(Timestamp::now())}});
                    let patch = Patch::Strategic(status);
                    if let Err(error) = nodes.patch_status(&name, &PatchParams::default(), &patch).await {
                        warn!(%error, node = %name, "node status");
                    }
                    doubted.remove(&name);
                }
            }
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_addresses_and_networks_of_their_own() {
        assert_eq!(
            (name(300), address(300), pod_network(300)),
            ("sim-300".to_owned(), Ipv4Addr::new(198, 18, 1, 44), Ipv4Addr::new(100, 65, 44, 0),)
        );
        // the last one is still inside 100.64.0.0/10
        assert_eq!(pod_network(MOST_NODES), Ipv4Addr::new(100, 83, 136, 0));
    }
}
