//! Puts OptiPod and the examples into a cluster, and takes away again exactly what it put there.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{
    cluster::{Cluster, SYSTEM, WORKLOADS},
    read::Pod,
    verdict::Story,
};
use crate::{interrupt, paths, progress::Progress};

const RELEASE: &str = "optipod";
const CRD: &str = "optimizationpolicies.optipod.io";
/// The image that the examples name.
const EXAMPLE_IMAGE: &str = "image: optipod-load:1";
/// Everything starts within half a minute on a quiet emulated node.
const READY_WAIT: Duration = Duration::from_mins(5);
/// Pods of a busy emulated node take minutes to end.
const REMOVED_WITHIN: &str = "--timeout=300s";
const POLL: Duration = Duration::from_secs(1);

/// Repositories and tags.
#[derive(Debug, Clone)]
pub struct Images {
    /// The agent's.
    pub agent: (String, String),
    /// The coordinator's.
    pub coordinator: (String, String),
    /// The workloads'.
    pub load: (String, String),
}

/// Something that was put into the cluster, to be taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// The namespace of the workloads, with the policy.
    Workloads,
    /// OptiPod's namespace.
    System,
    /// The definition of policies.
    Definition,
    /// The chart's release.
    Release,
}

/// Refuses a cluster that has what the demo would create.
pub fn check_free(cluster: &Cluster) -> Result<()> {
    let spoken = cluster.spoken();
    if cluster.exists("namespace", WORKLOADS)? {
        bail!(
            "namespace {WORKLOADS} exists, maybe of an earlier demo: `{spoken} delete namespace {WORKLOADS}`"
        );
    }
    if cluster.exists("clusterrole", "optipod-coordinator")? {
        bail!(
            "OptiPod is installed there already, and one cluster has room for one: `helm uninstall` it first"
        );
    }
    Ok(())
}

/// An example with the image filled in.
pub fn example(name: &str, images: &Images) -> Result<String> {
    let path = paths::workspace().join("deploy/examples").join(format!("{name}.yaml"));
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (repository, tag) = &images.load;
    Ok(text.replace(EXAMPLE_IMAGE, &format!("image: {repository}:{tag}")))
}

/// The workloads, as somebody has them who has no OptiPod yet.
pub fn workloads(cluster: &Cluster, images: &Images, traces: &mut Vec<Trace>) -> Result<()> {
    cluster.kubectl(&["create", "namespace", WORKLOADS])?;
    traces.push(Trace::Workloads);
    Story::ALL.iter().try_for_each(|story| cluster.apply(&example(story.workload(), images)?))
}

/// The chart, with the values of the demo.
pub fn chart(cluster: &Cluster, images: &Images, traces: &mut Vec<Trace>) -> Result<()> {
    if !cluster.exists("customresourcedefinition", CRD)? {
        traces.push(Trace::Definition);
    }
    if !cluster.exists("namespace", SYSTEM)? {
        cluster.kubectl(&["create", "namespace", SYSTEM])?;
        traces.push(Trace::System);
        // The agent's hostPath needs this where Pod Security admission is enforced.
        let level = "pod-security.kubernetes.io/enforce=privileged";
        cluster.kubectl(&["label", "namespace", SYSTEM, level])?;
    }
    // A failed installation leaves a release too.
    traces.push(Trace::Release);
    let chart = paths::workspace().join("deploy/chart").display().to_string();
    let mut args = vec!["install".to_owned(), RELEASE.to_owned(), chart];
    args.extend(["--namespace".to_owned(), SYSTEM.to_owned()]);
    for (key, value) in values(images) {
        args.extend(["--set-string".to_owned(), format!("{key}={value}")]);
    }
    for (key, value) in TYPED_VALUES {
        args.extend(["--set".to_owned(), format!("{key}={value}")]);
    }
    cluster.helm(&args).map(drop)
}

/// Values that differ from the chart's defaults. An emulated node is several times slower than a real one, so the
/// agent's CPU budget would cost it its sampling rate.
pub const TYPED_VALUES: [(&str, &str); 3] = [
    ("telemetry.insecurePlaintext", "true"),
    ("telemetry.frameInterval", "2s"),
    ("agent.cpuBudgetMillicores", "0"),
];

fn values(images: &Images) -> [(&'static str, &str); 4] {
    [
        ("agent.image.repository", images.agent.0.as_str()),
        ("agent.image.tag", images.agent.1.as_str()),
        ("coordinator.image.repository", images.coordinator.0.as_str()),
        ("coordinator.image.tag", images.coordinator.1.as_str()),
    ]
}

/// Waits until OptiPod and the workloads run; the workloads' pods in the order of [`Story::ALL`].
pub fn ready(cluster: &Cluster, progress: &Progress) -> Result<Vec<Pod>> {
    let deadline = Instant::now() + READY_WAIT;
    let mut told = String::new();
    loop {
        interrupt::check()?;
        let state = look(cluster);
        let (text, pods) = match state {
            Ok((parts, pods)) => {
                (parts.join(", "), Some(pods).filter(|_| parts.iter().all(|part| ready_part(part))))
            }
            Err(error) => (format!("no answer: {error:#}"), None),
        };
        if text != told {
            progress.note(&text);
        }
        if let Some(pods) = pods.filter(|pods| pods.len() == Story::ALL.len()) {
            return Ok(pods);
        }
        if Instant::now() > deadline {
            bail!("not ready after {} s: {text}", READY_WAIT.as_secs());
        }
        told = text;
        thread::sleep(POLL);
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    replicas: Option<u32>,
    ready_replicas: u32,
    desired_number_scheduled: Option<u32>,
    number_ready: u32,
}

/// `name ready/wanted` of each part, and the workloads' running pods.
fn look(cluster: &Cluster) -> Result<(Vec<String>, Vec<Pod>)> {
    let get = ["--namespace", SYSTEM, "get", "daemonsets,deployments", "--output", "json"];
    let list: List =
        serde_json::from_str(&cluster.kubectl(&get)?).context("kubectl's answer is not a list")?;
    let ours = list.items.into_iter().filter(|item| item.metadata.name.starts_with("optipod-"));
    let mut parts: Vec<String> = ours
        .map(|Item { metadata, status }| {
            let wanted = status.replicas.or(status.desired_number_scheduled).unwrap_or_default();
            format!("{} {}/{wanted}", metadata.name, status.ready_replicas + status.number_ready)
        })
        .collect();
    let mut found = cluster.look(false)?.pods;
    let mut pods = Vec::new();
    for story in Story::ALL {
        let pod = found.remove(story.workload()).filter(|pod| pod.running && !pod.container_id.is_empty());
        parts.push(format!("{} {}/1", story.workload(), u8::from(pod.is_some())));
        pods.extend(pod);
    }
    Ok((parts, pods))
}

/// `name 2/2`; nothing of 0 is ready.
fn ready_part(part: &str) -> bool {
    let numbers = part.rsplit_once(' ').and_then(|(_, numbers)| numbers.split_once('/'));
    numbers.is_some_and(|(ready, wanted)| ready == wanted && ready != "0")
}

/// Takes the traces away, last first; all of them even if one resists.
pub fn remove(cluster: &Cluster, traces: &[Trace], progress: &Progress) -> Result<()> {
    let delete = |kind: &str, name: &str| {
        progress.note(&format!("deleting {kind} {name}"));
        cluster.kubectl(&["delete", kind, name, "--ignore-not-found", REMOVED_WITHIN]).map(drop)
    };
    if traces.contains(&Trace::Workloads) {
        // Both namespaces end at the same time; what went wrong here is said when it is waited for.
        drop(cluster.kubectl(&["delete", "namespace", WORKLOADS, "--ignore-not-found", "--wait=false"]));
    }
    let done = traces.iter().rev().map(|trace| match trace {
        Trace::Workloads => delete("namespace", WORKLOADS),
        Trace::System => delete("namespace", SYSTEM),
        Trace::Definition => delete("customresourcedefinition", CRD),
        Trace::Release => {
            progress.note(&format!("uninstalling the release {RELEASE}"));
            let uninstall = ["uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found", "--wait"];
            cluster.helm(&uninstall).map(drop)
        }
    });
    let errors: Vec<String> = done.filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if !errors.is_empty() {
        bail!("not everything was removed: {}", errors.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        let image = |name: &str| (format!("registry/{name}"), "7".to_owned());
        Images { agent: image("agent"), coordinator: image("coordinator"), load: image("load") }
    }

    #[test]
    fn examples_name_the_image_that_is_filled_in() {
        for story in Story::ALL {
            let text = example(story.workload(), &images()).unwrap();
            assert!(text.contains("\n          image: registry/load:7\n") && !text.contains(EXAMPLE_IMAGE));
        }
        assert!(example("policy-demo", &images()).unwrap().contains("kind: OptimizationPolicy"));
    }

    #[test]
    fn only_what_is_complete_is_ready() {
        let ready =
            ["optipod-agent 1/1", "optipod-coordinator 1/2", "optipod-agent 0/0", "x"].map(ready_part);
        assert_eq!(ready, [true, false, false, false]);
    }
}
