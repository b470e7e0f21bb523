//! The kubectl plug-in: `kubectl optipod ...`.

mod cluster;
mod drm;
mod explain;
mod files;
mod labels;
mod lint;
mod output;
mod prices;
mod savings;
mod simulate;
mod vpa;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

/// Looks at OptiPod's policies and recommendations, and makes policies from what other tools are told.
#[derive(Debug, Parser)]
#[command(name = "kubectl-optipod", bin_name = "kubectl optipod", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names everything that is wrong with policies in files, without a cluster. Fails when something is.
    Lint {
        /// YAML files, or - for standard input. Objects of other kinds are passed over, and named.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Makes a policy from the configuration of another tool. The policy goes to standard output, what has no
    /// counterpart to standard error.
    Import {
        #[command(subcommand)]
        source: Source,
    },
    /// Shows what is recommended for a workload, how it came about, and what became of it.
    Explain {
        /// KIND/NAME, such as deployment/web, with the kind as kubectl takes it.
        workload: String,
        /// Namespace of the workload. Default: that of the kubeconfig.
        #[arg(long, short)]
        namespace: Option<String>,
        /// Context of the kubeconfig.
        #[arg(long)]
        context: Option<String>,
    },
    /// Plays a policy on recorded use of a container: what it would have done, in resizes, savings and risk.
    Simulate(simulate::Options),
    /// Shows what workloads request and use, what was given back, and what is left, by policy.
    Savings {
        /// Only policies of this namespace. Default: all.
        #[arg(long, short)]
        namespace: Option<String>,
        #[command(flatten)]
        prices: prices::Options,
        /// Context of the kubeconfig.
        #[arg(long)]
        context: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Source {
    /// The Kubernetes Dynamic Resource Manager: its environment variables.
    Drm {
        /// KEY=VALUE lines, or YAML with a `ConfigMap` or a workload that holds them; - for standard input.
        file: PathBuf,
        /// Name of the policy.
        #[arg(long, default_value = "dynamic-resource-manager")]
        name: String,
        /// Namespace of the policy: OptiPod's own, since the resource manager reaches into all.
        #[arg(long, default_value = "optipod-system")]
        namespace: String,
    },
    /// `VerticalPodAutoscaler` objects: a policy for each.
    Vpa {
        /// YAML, or - for standard input. Objects of other kinds are passed over.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            output::error(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Command::Lint { files } => {
            let report = lint::files(files);
            output::print(&report.text)?;
            if !report.passed_over.is_empty() {
                output::error(&format!("passed over: {}", report.passed_over.join(", ")));
            }
            Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Import { source: Source::Drm { file, name, namespace } } => {
            let found = drm::variables(&files::text(file)?);
            let found = found.with_context(|| file.display().to_string())?;
            output::imported(vec![drm::import(&found, namespace, name)])
        }
        Command::Import { source: Source::Vpa { file } } => {
            let found = vpa::import(&files::objects(std::slice::from_ref(file))?);
            ensure!(
                !found.is_empty(),
                "no object of kind VerticalPodAutoscaler (autoscaling.k8s.io) was found"
            );
            output::imported(found)
        }
        Command::Explain { workload, namespace, context } => {
            let text = explain::fetch(workload, namespace.as_deref(), context.as_deref());
            output::print(&wait(text)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Simulate(options) => {
            output::print(&simulate::run(options)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Savings { namespace, prices, context } => {
            let table = savings::fetch(namespace.as_deref(), prices.prices(), context.as_deref());
            output::print(&wait(table)?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_takes_its_arguments() {
        Arguments::command().debug_assert();
        for line in [
            "lint a.yaml -",
            "import drm drm.env --name drm --namespace optipod-system",
            "import vpa -",
            "explain deploy/web -n shop --context lab",
            "simulate use.csv -f policy.yaml --cpu-request 500m --memory-limit 1Gi --price-core-hour 1 --price-gibibyte-hour 1",
            "savings -n shop --price-core-hour 1 --price-gibibyte-hour 1",
        ] {
            let words = std::iter::once("kubectl-optipod").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
        let one = ["kubectl-optipod", "savings", "--price-core-hour", "1"];
        assert!(Arguments::try_parse_from(one).is_err(), "one price is none");
    }
}
