//! The lab's cluster with OptiPod in it, and one namespace per case.

use std::env;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use optipod_tests::{Lab, paths};
use serde_json::Value;

use crate::space::Space;

/// Namespace of the release.
pub const SYSTEM: &str = "optipod-system";
/// Nothing here takes longer, also on an emulated node under load.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// Marks namespaces of cases.
pub const MARK: &str = "optipod-scenario";

/// A running lab, with the images that are tested.
pub struct Cluster {
    lab: Lab,
    node: String,
    agent: String,
    coordinator: String,
    /// Reference of the workload simulator.
    pub load: String,
}

impl Cluster {
    /// The lab and the images that the environment names.
    pub fn attach() -> Result<Self> {
        let needed = |name: &str| {
            env::var(name).ok().filter(|value| !value.is_empty()).with_context(|| {
                format!(
                    "{name} is not set: run `cargo lab test`; or start a lab with `cargo lab up`, fill its registry \
                     with `cargo lab images`, and name it in OPTIPOD_LAB and the images in OPTIPOD_AGENT_IMAGE, \
                     OPTIPOD_COORDINATOR_IMAGE and OPTIPOD_LOAD_IMAGE"
                )
            })
        };
        let lab = Lab::attach(&needed("OPTIPOD_LAB")?)?;
        let node = lab.nodes().first().context("these tests need a lab with a node")?.clone();
        let (agent, coordinator) = (needed("OPTIPOD_AGENT_IMAGE")?, needed("OPTIPOD_COORDINATOR_IMAGE")?);
        Ok(Self { lab, node, agent, coordinator, load: needed("OPTIPOD_LOAD_IMAGE")? })
    }

    /// Installation, definition and namespaces of an earlier run.
    pub fn remove_leftovers(&self) -> Result<()> {
        self.lab.helm(&["uninstall", "optipod", "--namespace", SYSTEM, "--ignore-not-found", "--wait"])?;
        self.kubectl(&["delete", "namespace", SYSTEM, "--ignore-not-found"])?;
        self.kubectl(&["delete", "namespace", "--selector", MARK])?;
        self.kubectl(&[
            "delete",
            "customresourcedefinition",
            "optimizationpolicies.optipod.io",
            "--ignore-not-found",
        ])?;
        Ok(())
    }

    /// Installs the chart, or upgrades it with `more` values, and waits until everything is ready.
    pub fn release(&self, more: &[&str]) -> Result<()> {
        let chart = paths::workspace().join("deploy/chart");
        let mut args: Vec<String> =
            ["upgrade", "--install", "optipod", "--namespace", SYSTEM, "--create-namespace"]
                .map(str::to_owned)
                .to_vec();
        args.push(chart.to_string_lossy().into_owned());
        let mut set = |value: String| args.extend(["--set".to_owned(), value]);
        for (component, image) in [("agent", &self.agent), ("coordinator", &self.coordinator)] {
            let (repository, tag) = image.rsplit_once(':').with_context(|| format!("{image} has no tag"))?;
            set(format!("{component}.image.repository={repository},{component}.image.tag={tag}"));
        }
        set("telemetry.insecurePlaintext=true,telemetry.frameInterval=2s".to_owned());
        // an emulated node is slow: the sampling rate must not drop for that
        set("agent.cpuBudgetMillicores=0".to_owned());
        for value in more {
            set((*value).to_owned());
        }
        self.lab.helm(&args)?;
        for workload in ["deployment/optipod-coordinator", "daemonset/optipod-agent"] {
            self.kubectl(&["rollout", "status", workload, "--namespace", SYSTEM, "--timeout=300s"])?;
        }
        Ok(())
    }

    /// Installs the chart and waits until the leader hears the agent.
    pub fn install(&self) -> Result<()> {
        let begin = Instant::now();
        let connected = self.release(&[]).and_then(|()| {
            eventually("the leader has frames", || {
                let frames = self.metric(&self.leader()?, NEW_FRAMES)?;
                ensure!(frames > 0.0, "no frames yet");
                Ok(())
            })
        });
        println!("installed after {:.1} s", begin.elapsed().as_secs_f64());
        connected.with_context(|| Space::of(self, "install").diagnosis())
    }

    /// Removes the release.
    pub fn uninstall(&self) -> Result<()> {
        self.lab.helm(&["uninstall", "optipod", "--namespace", SYSTEM, "--wait"]).map(drop)
    }

    /// Runs kubectl.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.lab.kubectl(args)
    }

    /// An object, or a list of objects.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], args].concat())?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Creates or changes an object as a person does.
    pub fn apply(&self, manifest: &Value) -> Result<()> {
        self.lab.kubectl_with_input(&["apply", "--filename=-"], &manifest.to_string()).map(drop)
    }

    /// Runs a shell command on the node.
    pub fn guest(&self, shell_command: &str) -> Result<String> {
        self.lab.guest_shell(&self.node, shell_command)
    }

    /// As [`Cluster::guest`], for a command that must fail: what it complains about.
    pub fn guest_complaint(&self, shell_command: &str) -> Result<String> {
        let done = self.lab.guest_run(&self.node, shell_command)?;
        ensure!(done.status != 0, "`{shell_command}` succeeded: {}", done.output);
        Ok(done.output)
    }

    /// Name of the pod that holds the Lease.
    pub fn leader(&self) -> Result<String> {
        let lease = self.get(&["lease", "optipod-coordinator", "--namespace", SYSTEM])?;
        let holder = text(&lease, "/spec/holderIdentity");
        ensure!(!holder.is_empty(), "nobody leads");
        Ok(holder)
    }

    /// Name of the node's agent.
    pub fn agent(&self) -> Result<String> {
        let selector = "app.kubernetes.io/component=agent";
        let pods = self.get(&["pods", "--namespace", SYSTEM, "--selector", selector])?;
        let name = text(&pods, "/items/0/metadata/name");
        ensure!(!name.is_empty(), "no agent");
        Ok(name)
    }

    /// All metrics of a pod of the release.
    pub fn metrics(&self, pod: &str) -> Result<String> {
        self.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}:9464/proxy/metrics")])
    }

    /// One series of a pod of the release; 0 while it is absent.
    pub fn metric(&self, pod: &str, series: &str) -> Result<f64> {
        let metrics = self.metrics(pod)?;
        value_of(&metrics, series)
    }
}

/// Frames that a coordinator counted.
pub const NEW_FRAMES: &str = "optipod_coordinator_frames_total{result=\"new\"}";

/// One series of a page of metrics; 0 while it is absent.
pub fn value_of(metrics: &str, series: &str) -> Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(Ok(0.0), |value| value.parse().with_context(|| format!("{series} {value} is no number")))
}

/// The text at a JSON pointer; empty when there is none.
pub fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Elements of the list at a JSON pointer.
pub fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Asks again every second until there is no error. The last one says what was missing.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match probe() {
            Err(error) if begin.elapsed() > PATIENCE => {
                let waited = begin.elapsed().as_secs();
                return Err(error.context(format!("waited {waited} s until {what}")));
            }
            Err(_) => sleep(Duration::from_secs(1)),
            Ok(value) => return Ok(value),
        }
    }
}
