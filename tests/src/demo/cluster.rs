//! The cluster that the demo plays on: a lab, or one that the reader already has.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{
    read::{self, Look, Pod},
    verdict::{Cgroup, Snapshot},
};
use crate::{
    Lab, command,
    instance::{self, Instance},
};

/// Namespace of the demo's workloads and policy.
pub const WORKLOADS: &str = "optipod-demo";
/// Namespace of OptiPod.
pub const SYSTEM: &str = "optipod-system";
/// Nothing that is asked takes longer on a healthy cluster; without it kubectl waits forever for a lost one.
const PATIENCE: &str = "--request-timeout=20s";

/// Ways to reach it.
#[derive(Debug, Clone)]
pub enum Cluster {
    /// Through the lab's network.
    Lab(Lab),
    /// Through a kubeconfig.
    Context(Clients),
}

/// Clients of a cluster that is not started here.
#[derive(Debug, Clone)]
pub struct Clients {
    /// The kubectl binary.
    pub kubectl: PathBuf,
    /// The helm binary.
    pub helm: PathBuf,
    /// Name of the context.
    pub context: String,
    /// Another file than `KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
}

impl Clients {
    /// The lab that this kubeconfig belongs to: it has a registry to put images into.
    pub fn lab(&self) -> Option<Instance> {
        let file = self.kubeconfig.clone().or_else(|| std::env::var_os("KUBECONFIG").map(PathBuf::from))?;
        let file = file.canonicalize().ok()?;
        let instances = instance::names().into_iter().filter_map(|name| Instance::new(&name).ok());
        instances.into_iter().find(|instance| same(&instance.kubeconfig(), &file))
    }

    fn command(&self, program: &Path, context_flag: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(context_flag).arg(&self.context).stdin(Stdio::null());
        if let Some(file) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(file);
        }
        command
    }
}

fn same(path: &Path, canonical: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == canonical)
}

impl Cluster {
    /// Runs kubectl and returns what it printed.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        command::output(self.kubectl_command().args(args))
    }

    /// Runs helm and returns what it printed.
    pub fn helm<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        let mut command = match self {
            Self::Lab(lab) => lab.command(lab.helm_program()),
            Self::Context(clients) => clients.command(&clients.helm, "--kube-context"),
        };
        command::output(command.args(args))
    }

    /// Applies a manifest to the workloads' namespace; unknown fields are errors.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let args = ["--namespace", WORKLOADS, "apply", "--validate=strict", "--filename", "-"];
        command::output_with_input(self.kubectl_command().args(args), manifest).map(drop)
    }

    /// How a person calls kubectl on this cluster.
    pub fn spoken(&self) -> String {
        match self {
            Self::Lab(lab) => format!("cargo lab --name {} kubectl", lab.instance().name()),
            Self::Context(Clients { context, .. }) => format!("kubectl --context {context}"),
        }
    }

    /// Whether an object of the cluster exists.
    pub fn exists(&self, kind: &str, name: &str) -> Result<bool> {
        let found = self.kubectl(&["get", kind, name, "--ignore-not-found", "--output", "name", PATIENCE])?;
        Ok(!found.trim().is_empty())
    }

    /// Pods, policy and Events of the demo.
    pub fn look(&self, policy_known: bool) -> Result<Look> {
        let kinds = if policy_known { "pods,optimizationpolicies.optipod.io,events" } else { "pods" };
        read::look(&self.kubectl(&["--namespace", WORKLOADS, "get", kinds, "--output", "json", PATIENCE])?)
    }

    /// The page of the agent on that node.
    pub fn agent_page(&self, node: &str) -> Result<String> {
        let (field, selector) = (format!("--field-selector=spec.nodeName={node}"), AGENTS);
        let get = ["--namespace", SYSTEM, "get", "pods", selector, &field, "--output", "name", PATIENCE];
        let name = self.kubectl(&get)?;
        let name = name.lines().next().and_then(|line| line.strip_prefix("pod/"));
        let name = name.with_context(|| format!("no agent on node {node}"))?;
        let page = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:9464/proxy/metrics");
        self.kubectl(&["get", "--raw", &page, PATIENCE])
    }

    /// The kernel's limits of the pod's container: read in the node where that is possible, else by the container, which
    /// pays for it: what `exec` burns counts as its usage, much on an emulated node.
    pub fn cgroup(&self, pod: &Pod) -> Result<Cgroup> {
        let text = match self {
            Self::Lab(lab) => match lab.simulated_cgroups(&pod.node) {
                Some(root) => {
                    let script = cgroup_script(&root.to_string_lossy(), &pod.container_id);
                    command::output(&mut command::command("sh", ["-c", &script]))?
                }
                None => lab.guest_shell(&pod.node, &cgroup_script("/sys/fs/cgroup", &pod.container_id))?,
            },
            Self::Context(_) => {
                let exec = ["--namespace", WORKLOADS, "exec", &pod.name, "--container", &pod.container];
                self.kubectl(&[exec.as_slice(), &["--", "/optipod-load", "cgroup"]].concat())?
            }
        };
        Cgroup::parse(&text).with_context(|| format!("cannot read the cgroup of {}", pod.name))
    }

    /// The pod with its cgroup.
    pub fn snapshot(&self, pod: &Pod) -> Result<Snapshot> {
        Ok(Snapshot { pod: pod.clone(), cgroup: self.cgroup(pod)? })
    }

    fn kubectl_command(&self) -> Command {
        match self {
            Self::Lab(lab) => lab.command(lab.kubectl_program()),
            Self::Context(clients) => clients.command(&clients.kubectl, "--context"),
        }
    }
}

/// Selects the agents' pods.
pub const AGENTS: &str = "--selector=app.kubernetes.io/component=agent";
/// Selects the coordinators' pods.
pub const COORDINATORS: &str = "--selector=app.kubernetes.io/component=coordinator";

/// An id is hex digits: nothing to quote.
fn cgroup_script(root: &str, container_id: &str) -> String {
    let hex: String = container_id.chars().filter(char::is_ascii_hexdigit).collect();
    format!(
        "cd \"$(find '{root}' -type d -name '*{hex}*' | head -n 1)\" && \
         for file in cpu.max cpu.weight memory.max; do echo \"$file $(cat $file)\"; done"
    )
}
