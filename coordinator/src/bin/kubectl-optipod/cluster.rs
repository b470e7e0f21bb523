//! The cluster of the kubeconfig.

use anyhow::{Context as _, Result};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};

/// A client, and the namespace that the kubeconfig's context names.
pub async fn connect(context: Option<&str>) -> Result<(Client, String)> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = Config::from_kubeconfig(&options).await.context("kubeconfig")?;
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config)?, namespace))
}
