//! Real coordinators with the token of the chart's service account, and what they ask of the API server.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config, ResourceExt};
use optipod_common::time::Clock;
use optipod_tests::simulated::faults::Operation;
use optipod_tests::simulated::scenario::coordinator::Settings;
pub use optipod_tests::simulated::scenario::coordinator::{Coordinator, OWN_NAMESPACE};
use serde_json::json;
use tonic::codegen::http::{Method, Request};
use tower::{BoxError, ServiceBuilder};

/// Group, resource and verb that RBAC sees.
pub type Right = (String, String, String);

/// What the coordinators ask of the API server passes here.
#[derive(Clone)]
pub struct Traffic {
    rights: Arc<Mutex<BTreeSet<Right>>>,
    /// Who changes a pod between a decision and its patch: may do everything.
    rival: Client,
}

/// Requests of one coordinator that wait for a connection; beyond it callers wait.
const REQUESTS_WAITING: usize = 64;

/// A pod with this annotation is changed by somebody else just before the first dry run of a resize, and again just
/// before the first patch: each time the fence must hold.
pub const CONTESTED: &str = "test.optipod.io/contested";

/// Lease duration of the tests.
pub const LEASE: Duration = Duration::from_secs(3);

/// Starts the `index`-th (from 0): name and ports follow from that.
pub fn start(index: u16, config: Config, traffic: &Traffic) -> Result<Coordinator> {
    let clock = Clock::new(optipod_coordinator::ingest::now);
    let settings = Settings { lease: LEASE, frame_interval: Duration::from_secs(1), clock };
    let (name, traffic) = (format!("coordinator-{index}-{}", std::process::id()), traffic.clone());
    Coordinator::start(index, &name, settings, move || client(config, traffic))
}

impl Traffic {
    /// Nothing was asked yet.
    pub fn new(rival: Client) -> Self {
        Self { rights: Arc::default(), rival }
    }

    /// Every right that a request needed.
    pub fn rights(&self) -> Result<BTreeSet<Right>> {
        Ok(self.rights.lock().map_err(|_| anyhow!("a thread panicked"))?.clone())
    }

    async fn pass(self, request: Request<Body>) -> Result<Request<Body>, BoxError> {
        let uri = request.uri();
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
        if let Some(right) = right(request.method(), &path, &query)
            && let Ok(mut rights) = self.rights.lock()
        {
            rights.insert(right);
        }
        if let ["api", "v1", "namespaces", namespace, "pods", pod, "resize"] =
            path.trim_matches('/').split('/').collect::<Vec<_>>()[..]
        {
            let step = if query.contains("dryRun=All") { "dry-run" } else { "patch" };
            self.contest(namespace, pod, step).await?;
        }
        Ok(request)
    }

    async fn contest(&self, namespace: &str, pod: &str, step: &str) -> Result<(), BoxError> {
        let pods: Api<Pod> = Api::namespaced(self.rival.clone(), namespace);
        let (mark, seen) = (format!("{CONTESTED}-{step}"), pods.get(pod).await?);
        if seen.annotations().contains_key(CONTESTED) && !seen.annotations().contains_key(&mark) {
            let change = json!({"metadata": {"annotations": {mark: "changed"}}});
            pods.patch(pod, &PatchParams::default(), &Patch::Merge(change)).await?;
        }
        Ok(())
    }
}

/// A client whose requests pass `traffic`.
fn client(config: Config, traffic: Traffic) -> Result<Client> {
    let layer = ServiceBuilder::new()
        .filter_async(move |request: Request<Body>| traffic.clone().pass(request))
        .buffer(REQUESTS_WAITING);
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

/// Group, resource and verb that RBAC sees.
fn right(method: &Method, path: &str, query: &str) -> Option<Right> {
    let Operation { group, resource, verb, .. } = Operation::parse(method.as_str(), path, query)?;
    Some((group, resource, verb))
}
