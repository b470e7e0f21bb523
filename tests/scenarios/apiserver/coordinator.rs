//! A real coordinator on a runtime of its own, with the token of the chart's service account.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config, ResourceExt};
use optipod_coordinator::run::run;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
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

/// The namespace that the chart is installed in.
pub const OWN_NAMESPACE: &str = "optipod-system";

/// Lease duration of the tests.
pub const LEASE: Duration = Duration::from_secs(3);

/// A running coordinator. Dropping it kills it: nothing is flushed, no lease released.
pub struct Coordinator {
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<Result<()>>>,
    /// Where agents connect.
    pub telemetry: SocketAddr,
    admin: SocketAddr,
}

impl Coordinator {
    /// Starts the `index`-th (from 0): name and ports follow from that.
    pub fn start(index: u16, config: Config, traffic: &Traffic) -> Result<Self> {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + index));
        let (telemetry, admin) = (at(9443), at(9543));
        let flags = [
            "optipod-coordinator".to_owned(),
            format!("--listen={telemetry}"),
            format!("--admin-listen={admin}"),
            format!("--namespace={OWN_NAMESPACE}"),
            format!("--pod-name=coordinator-{index}-{}", std::process::id()),
            "--pod-ip=127.0.0.1".to_owned(),
            "--lease-owner-deployment=optipod-coordinator".to_owned(),
            format!("--lease-duration={}s", LEASE.as_secs()),
            "--renew-interval=1s".to_owned(),
            "--frame-interval=1s".to_owned(),
            "--insecure-plaintext".to_owned(),
        ];
        let flags = optipod_coordinator::config::Config::try_parse_from(flags)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (finish, ended) = oneshot::channel();
        let traffic = traffic.clone();
        runtime.spawn(async move {
            let result = match client(config, traffic) {
                // a dropped sender is a stop, too
                Ok(client) => run(flags, client, async { drop(stopped.await) }).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &result {
                eprintln!("coordinator-{index} ended: {error:#}");
            }
            // nobody listens when it was killed
            let _ = finish.send(result);
        });
        Ok(Self { runtime: Some(runtime), stop: Some(stop), ended: Some(ended), telemetry, admin })
    }

    /// As SIGTERM does.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        let ended = self.ended.take().context("stopped twice")?;
        tokio::time::timeout(Duration::from_secs(20), ended).await.context("does not stop")??
    }

    /// The value of one metric; labels as `name="value"` pairs that must all be there. 0 when there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let text = get(self.admin, "/metrics").await?;
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let of_name = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label.as_str()))
        };
        let values =
            text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Whether `/readyz` says so.
    pub async fn ready(&self) -> bool {
        get(self.admin, "/readyz").await.is_ok_and(|body| body == "ok")
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("no body in {answer:?}"))?;
    Ok(body.to_owned())
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
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = match *parts.first()? {
        "api" => "",
        "apis" => parts.remove(1),
        _ => return None,
    };
    let mut rest = parts.get(2..)?;
    if let ["namespaces", _, inner @ ..] = rest
        && !inner.is_empty()
    {
        rest = inner;
    }
    let (resource, named) = match rest {
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, sub, ..] => (format!("{resource}/{sub}"), true),
        [] => return None,
    };
    let verb = match method.as_str() {
        "GET" if named => "get",
        "GET" if query.contains("watch=true") => "watch",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        _ => "delete",
    };
    Some((group.to_owned(), resource, verb.to_owned()))
}
