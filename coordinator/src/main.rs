//! The coordinator's process: parse, run, exit code.

use anyhow::{Context, Result};
use clap::Parser;
use optipod_coordinator::config::{Config, LogFormat};
use optipod_coordinator::run::run;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<()> {
    let config = Config::parse();
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("--log-level {:?}", config.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    match config.log_format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.init(),
    }
    let mut kubernetes = kube::Config::infer().await.context("no Kubernetes credentials")?;
    // A retry inside the client would be a write whose leadership was checked minutes ago.
    kubernetes.default_retry = false;
    let client = kube::Client::try_from(kubernetes).context("no client for the API server")?;
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
    };
    run(config, client, shutdown).await
}
