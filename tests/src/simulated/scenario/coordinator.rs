//! A real coordinator in this process, on a runtime of its own, so that it can die without a word.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use kube::Client;
use optipod_common::time::Clock;
use optipod_coordinator::run::run_with;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::expect::sum;

/// The namespace that the chart is installed in.
pub const OWN_NAMESPACE: &str = "optipod-system";

/// The port of agents of the first coordinator; the others have those above.
const TELEMETRY_PORT: u16 = 9443;
/// The port of metrics of the first coordinator; the others have those above.
const ADMIN_PORT: u16 = 9543;

/// Time that a stop may take.
const STOP: Duration = Duration::from_secs(20);

/// How a coordinator runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lease duration, real time.
    pub lease: Duration,
    /// Time between two frames of an agent, on the clock.
    pub frame_interval: Duration,
    /// What it decides by.
    pub clock: Clock,
}

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
    /// Starts one on the ports of `slot` (from 0), under a name of its own. `client` makes its client on the runtime
    /// of the coordinator.
    ///
    /// # Errors
    /// When a thread or a setting is refused. What goes wrong later is told on standard error.
    pub fn start(
        slot: u16,
        name: &str,
        settings: Settings,
        client: impl FnOnce() -> Result<Client> + Send + 'static,
    ) -> Result<Self> {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + slot));
        let (telemetry, admin) = (at(TELEMETRY_PORT), at(ADMIN_PORT));
        let flags = [
            "optipod-coordinator".to_owned(),
            format!("--listen={telemetry}"),
            format!("--admin-listen={admin}"),
            format!("--namespace={OWN_NAMESPACE}"),
            format!("--pod-name={name}"),
            "--pod-ip=127.0.0.1".to_owned(),
            "--lease-owner-deployment=optipod-coordinator".to_owned(),
            format!("--lease-duration={}ms", settings.lease.as_millis()),
            format!("--renew-interval={}ms", settings.lease.as_millis() / 3),
            format!("--frame-interval={}s", settings.frame_interval.as_secs()),
            "--insecure-plaintext".to_owned(),
        ];
        let flags = optipod_coordinator::config::Config::try_parse_from(flags)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (finish, ended) = oneshot::channel();
        let (name, clock) = (name.to_owned(), settings.clock);
        runtime.spawn(async move {
            let result = match client() {
                // a dropped sender is a stop, too
                Ok(client) => run_with(flags, client, clock, async { drop(stopped.await) }).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &result {
                eprintln!("{name} ended: {error:#}");
            }
            // nobody listens when it was killed
            let _ = finish.send(result);
        });
        Ok(Self { runtime: Some(runtime), stop: Some(stop), ended: Some(ended), telemetry, admin })
    }

    /// As SIGTERM does.
    ///
    /// # Errors
    /// When it ended with one, or does not stop.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        let ended = self.ended.take().context("stopped twice")?;
        tokio::time::timeout(STOP, ended).await.context("does not stop")??
    }

    /// All metrics, in the text format.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        get(self.admin, "/metrics").await
    }

    /// The value of one metric; labels as `name="value"` pairs that must all be there. 0 when there is none.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        Ok(sum(&self.metrics().await?, name, &labels))
    }

    /// Whether it leads.
    pub async fn leads(&self) -> bool {
        self.metric("optipod_coordinator_leader", &[]).await.is_ok_and(|value| value > 0.0)
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
