//! What all cases share: the cluster with the chart in it, a node, an agent, two coordinators.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use optipod_common::resources::Resources;
use optipod_coordinator::api::OptimizationPolicy;
use optipod_coordinator::api::v1alpha1::WorkloadStatus;
use optipod_tests::{Lab, paths};
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::coordinator::{Coordinator, OWN_NAMESPACE, Traffic};
use crate::objects::size;
use crate::policies::{self, Stored};
use crate::{agent, coordinator, kubelet, objects};

/// Half a minute of start (agents may replay) and evidence, and room for a machine under load.
pub const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
const OURS: &str = "test.optipod.io/run";

/// What all cases share.
pub struct World {
    /// The running lab.
    pub lab: Lab,
    /// May do everything.
    pub client: Client,
    /// The chart's service account.
    pub identity: Config,
    /// Leads until a case kills it.
    pub leader: RwLock<Option<Coordinator>>,
    /// Stands by.
    pub standby: RwLock<Option<Coordinator>>,
    /// What coordinators asked of the API server.
    pub traffic: Traffic,
    /// Policies that the API server stored before the rules were there.
    pub stored: Stored,
}

impl World {
    /// Installs the chart, registers the node and starts the coordinators.
    pub async fn new(lab: Lab) -> Result<Arc<Self>> {
        let config = admin(&lab).await?;
        let client = Client::try_from(config.clone())?;
        clean(&lab)?;
        let stored = policies::store_before_the_rules(&lab, &client).await?;
        kubelet::register(&client).await?;
        // coordinators watch Rollouts where they are served
        lab.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &objects::rollouts().to_string())?;
        let rollouts = ["get", "--raw", "/apis/argoproj.io/v1alpha1/rollouts"];
        wait("Rollouts are served", SOON, async || lab.kubectl(&rollouts).ok()).await?;
        let chart = paths::workspace().join("deploy/chart");
        // helm creates definitions with the first release only, and this may be a run of many in one lab
        let definition = chart.join("crds/recommendations.yaml").to_string_lossy().into_owned();
        lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &definition])?;
        let chart = chart.to_string_lossy().into_owned();
        let install =
            ["upgrade", "--install", "optipod", &chart, "--namespace", OWN_NAMESPACE, "--create-namespace"];
        let set = ["--set", "telemetry.insecurePlaintext=true"];
        lab.helm(&[&install[..], &set[..]].concat())?;
        let token = lab.kubectl(&["create", "token", "optipod-coordinator", "--namespace", OWN_NAMESPACE])?;
        let mut identity = config;
        identity.auth_info = serde_json::from_value(json!({ "token": token.trim() }))?;

        let traffic = Traffic::new(client.clone());
        let leader = coordinator::start(0, identity.clone(), &traffic)?;
        wait("the first coordinator leads", SOON, async || {
            (leader.metric("optipod_coordinator_leader", &[]).await.ok()? > 0.0 && leader.ready().await)
                .then_some(())
        })
        .await?;
        let standby = coordinator::start(1, identity.clone(), &traffic)?;
        let targets = vec![leader.telemetry, standby.telemetry];
        let containers = Arc::new(Mutex::new(BTreeMap::new()));
        tokio::spawn(kubelet::run(client.clone(), containers.clone()));
        tokio::spawn(agent::run(kubelet::NODE.to_owned(), containers, targets));
        let (leader, standby) = (RwLock::new(Some(leader)), RwLock::new(Some(standby)));
        Ok(Arc::new(Self { lab, client, identity, leader, standby, traffic, stored }))
    }

    /// A namespace for one case.
    pub async fn namespace(&self, name: &str) -> Result<String> {
        let name = format!("{name}-{}", std::process::id());
        self.named_namespace(&name, &json!({})).await?;
        Ok(name)
    }

    /// A namespace whose name and labels matter. One that an earlier run left goes first.
    pub async fn named_namespace(&self, name: &str, labels: &Value) -> Result<()> {
        let mut namespace = json!({"metadata": {"name": name, "labels": labels}});
        namespace["metadata"]["labels"][OURS] = "yes".into();
        let namespace: Namespace = serde_json::from_value(namespace)?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        wait("a new namespace", SOON, async || api.create(&PostParams::default(), &namespace).await.ok())
            .await?;
        // the service account controller makes the account that pods need
        wait("the default service account", SOON, async || {
            let api: Api<k8s_openapi::api::core::v1::ServiceAccount> =
                Api::namespaced(self.client.clone(), name);
            api.get_opt("default").await.ok()?
        })
        .await?;
        Ok(())
    }

    /// Pods of a namespace.
    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Policies of a namespace.
    pub fn policies(&self, namespace: &str) -> Api<OptimizationPolicy> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates objects from JSON, through kubectl: kinds do not matter.
    pub async fn apply(&self, namespace: &str, object: &Value) -> Result<()> {
        let (lab, namespace, input) = (self.lab.clone(), namespace.to_owned(), object.to_string());
        let create = move || {
            let args = [
                "apply",
                "--server-side",
                "--field-manager=owner",
                "--validate=strict",
                "-f",
                "-",
                "--namespace",
                &namespace,
            ];
            lab.kubectl_with_input(&args, &input)
        };
        tokio::task::spawn_blocking(create).await??;
        Ok(())
    }

    /// A policy that acts within seconds, with `extra` merged into its specification.
    pub async fn policy(&self, namespace: &str, name: &str, extra: Value) -> Result<()> {
        let mut spec = json!({
            "mode": "Auto",
            "metricsConfig": {"rollingWindow": "60s", "minimumCoverage": 0},
            "strategy": {"type": "Percentile"},
            "updateStrategy": {"cooldown": "0s"},
            "reconciliationInterval": "1s",
        });
        objects::merge(&mut spec, extra);
        let meta = json!({"name": name});
        self.apply(namespace, &json!({"apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy", "metadata": meta, "spec": spec}))
            .await
    }

    /// What the policy's status says of a workload once `test` holds.
    pub async fn workload(
        &self,
        policy: (&str, &str),
        workload: &str,
        what: &str,
        test: impl Fn(&WorkloadStatus) -> bool,
    ) -> Result<WorkloadStatus> {
        let policies = self.policies(policy.0);
        let last = Mutex::new(String::new());
        let seen = wait(what, SOON, async || {
            let status = policies.get(policy.1).await.ok()?.status.unwrap_or_default();
            if let Ok(mut last) = last.lock() {
                *last = format!("{status:#?}");
            }
            status.workloads.into_iter().find(|w| w.name == workload && test(w))
        });
        seen.await
            .with_context(|| format!("the status was {}", last.lock().map(|l| l.clone()).unwrap_or_default()))
    }

    /// The Event of that reason about an object, once it is there.
    pub async fn event(&self, namespace: &str, about: &str, reason: &str) -> Result<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        wait(&format!("an Event {reason} about {about}"), SOON, async || {
            let events = api.list(&ListParams::default()).await.ok()?;
            let fits = |e: &Event| {
                e.reason.as_deref() == Some(reason)
                    && e.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(about))
            };
            events.items.into_iter().find(fits)
        })
        .await
    }

    /// A metric of the leading coordinator.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        self.leader.read().await.as_ref().context("the leader was killed")?.metric(name, labels).await
    }

    /// Waits until the only container of a pod wants these resources.
    pub async fn until_size(&self, namespace: &str, pod: &str, wanted: Resources) -> Result<Pod> {
        let pods = self.pods(namespace);
        let found =
            wait("a new size", SOON, async || pods.get(pod).await.ok().filter(|pod| size(pod) == wanted));
        match found.await {
            Ok(pod) => Ok(pod),
            Err(error) => {
                let is = size(&pods.get(pod).await?);
                Err(error.context(format!("size of {namespace}/{pod} is {is:?}, expected {wanted:?}")))
            }
        }
    }
}

/// Asks until there is an answer.
pub async fn wait<T, F: Future<Output = Option<T>>>(
    what: &str,
    patience: Duration,
    ask: impl Fn() -> F,
) -> Result<T> {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("{what}: not within {} s", patience.as_secs())
}

/// Equality with both sides in the error.
#[allow(clippy::needless_pass_by_value, reason = "both sides are made for this call")]
pub fn same<T: PartialEq + Debug>(what: &str, seen: T, expected: T) -> Result<()> {
    if seen == expected { Ok(()) } else { bail!("{what}: {seen:#?}, expected {expected:#?}") }
}

async fn admin(lab: &Lab) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(lab.kubeconfig())?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// What an earlier run in the same lab left must not be acted on.
fn clean(lab: &Lab) -> Result<()> {
    for crd in ["optimizationpolicies.optipod.io", "recommendations.optipod.io"] {
        lab.kubectl(&["delete", "crd", crd, "--ignore-not-found"])?;
    }
    lab.kubectl(&["delete", "lease", "--all", "--namespace", OWN_NAMESPACE])?;
    let selector = format!("{OURS}=yes");
    lab.kubectl(&["delete", "namespace", "-l", &selector, "--wait=false"])?;
    for namespace in ["kube-system", OWN_NAMESPACE] {
        lab.kubectl(&[
            "delete",
            "pod",
            "-l",
            kubelet::LABEL,
            "--namespace",
            namespace,
            "--force",
            "--ignore-not-found",
        ])?;
    }
    Ok(())
}
