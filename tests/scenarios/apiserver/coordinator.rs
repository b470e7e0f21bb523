//! A real coordinator on a runtime of its own, with the token of the chart's service account.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use optipod_coordinator::run::run;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tonic::codegen::http::{Method, Request};
use tower::util::MapRequestLayer;

/// Group, resource and verb of every request that coordinators made.
pub type Requests = Arc<Mutex<BTreeSet<(String, String, String)>>>;

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
    pub fn start(index: u16, config: Config, requests: &Requests) -> Result<Self> {
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
        let requests = requests.clone();
        runtime.spawn(async move {
            let result = match client(config, requests) {
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

/// A client that writes down which right each of its requests needs.
fn client(config: Config, requests: Requests) -> Result<Client> {
    let record = MapRequestLayer::new(move |request: Request<kube::client::Body>| {
        let uri = request.uri();
        if let Some(right) = right(request.method(), uri.path(), uri.query().unwrap_or_default())
            && let Ok(mut requests) = requests.lock()
        {
            requests.insert(right);
        }
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&record).build())
}

/// Group, resource and verb that RBAC sees.
fn right(method: &Method, path: &str, query: &str) -> Option<(String, String, String)> {
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
