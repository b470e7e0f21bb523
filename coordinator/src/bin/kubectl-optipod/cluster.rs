//! The cluster of the kubeconfig.

use std::fmt::Debug;

use anyhow::{Context as _, Error, Result, anyhow};
use kube::api::{Api, ListParams};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use serde::de::DeserializeOwned;

/// A client, and the namespace that the kubeconfig's context names.
pub async fn connect(context: Option<&str>) -> Result<(Client, String)> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = Config::from_kubeconfig(&options).await.context("kubeconfig")?;
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config)?, namespace))
}

/// All objects of a kind of OptiPod's.
pub async fn list<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, what: &'static str) -> Result<Vec<K>> {
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(error) => Err(explained(error, what)),
    }
}

fn explained(error: kube::Error, what: &'static str) -> Error {
    match error {
        kube::Error::Api(status) if status.code == 404 => anyhow!(
            "{what}: the cluster does not know the kind: OptiPod is not installed there, or in a version without it"
        ),
        error => Error::new(error).context(what),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_cluster_without_optipod_is_told_from_one_that_refuses() {
        let of = |code, message| {
            let status = Status::failure(message, "Any").with_code(code);
            format!("{:#}", explained(kube::Error::Api(Box::new(status)), "recommendations"))
        };
        assert!(of(404, "404 page not found").contains("OptiPod is not installed"));
        let refused = of(403, "user u cannot list");
        assert!(
            refused.starts_with("recommendations: ") && refused.contains("user u cannot list"),
            "{refused}"
        );
    }
}
