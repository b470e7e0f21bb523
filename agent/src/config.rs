//! Every flag. The table in the README is held against this file by a test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use optipod_proto::MAX_NODE_NAME_BYTES;

/// Where the host's cgroup v2 hierarchy is mounted, outside of a container.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// 9464 is what Prometheus exporters of applications use by convention.
const LISTEN: &str = "0.0.0.0:9464";
/// One sample per CFS period (100 ms). Kernels of 250 Hz cannot tell shorter slots apart.
const SAMPLE_HERTZ: &str = "10";
/// Of the coordinator's recent slots.
const FRAME_INTERVAL: &str = "15s";
/// Measured need is 4 to 10 millicores for 250 containers.
const CPU_BUDGET_MILLICORES: &str = "10";
/// Longer than a rollout of the coordinator that went wrong and was put right.
const RING_WINDOW: &str = "1800s";
/// 30 minutes of 250 containers at 15 s are about 8 MiB.
const RING_MEBIBYTES: &str = "16";
/// Seven series per container and three quantiles: 5,000 series.
const METRICS_MAX_CONTAINERS: &str = "500";
/// Rates whose slot is a whole number of milliseconds and not below what 250 Hz kernels can tell apart.
const RATES: [u32; 7] = [1, 2, 4, 5, 10, 20, 25];

/// Reads cgroup v2 of this node and streams usage histograms to the `OptiPod` coordinator.
#[derive(Clone, Debug, Parser)]
#[command(name = "optipod-agent", version)]
pub struct Config {
    /// Name of the Kubernetes node that this agent runs on.
    #[arg(long, env = "NODE_NAME", value_parser = node_name)]
    pub node_name: String,
    /// host:port of the coordinator's telemetry Service.
    #[arg(long, env = "OPTIPOD_AGENT_COORDINATOR_ADDRESS", value_parser = address)]
    pub coordinator_address: String,
    /// Send frames without encryption and authentication. For local runs.
    #[arg(long, env = "OPTIPOD_AGENT_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
    /// Mount of the host's cgroup v2 hierarchy.
    #[arg(long, env = "OPTIPOD_AGENT_CGROUP_ROOT", default_value = CGROUP_ROOT)]
    pub cgroup_root: PathBuf,
    /// Address of /metrics, /livez and /readyz.
    #[arg(long, env = "OPTIPOD_AGENT_LISTEN", default_value = LISTEN)]
    pub listen: SocketAddr,
    /// CPU samples per second: 1, 2, 4, 5, 10, 20 or 25.
    #[arg(long, env = "OPTIPOD_AGENT_SAMPLE_HERTZ", default_value = SAMPLE_HERTZ, value_parser = hertz)]
    pub sample_hertz: u32,
    /// Time between frames, 1s to 60s. The coordinator may ask for another.
    #[arg(long, env = "OPTIPOD_AGENT_FRAME_INTERVAL", default_value = FRAME_INTERVAL, value_parser = frame_interval)]
    pub frame_interval: Duration,
    /// CPU that the agent may use, in 1/1000 of a core, before it samples less often. 0 = no limit.
    #[arg(long, env = "OPTIPOD_AGENT_CPU_BUDGET_MILLICORES", default_value = CPU_BUDGET_MILLICORES)]
    pub cpu_budget_millicores: u32,
    /// Age at which frames that are not durable are dropped.
    #[arg(long, env = "OPTIPOD_AGENT_RING_WINDOW", default_value = RING_WINDOW, value_parser = seconds)]
    pub ring_window: Duration,
    /// Memory for frames that are not durable, in MiB.
    #[arg(long, env = "OPTIPOD_AGENT_RING_MEBIBYTES", default_value = RING_MEBIBYTES, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ring_mebibytes: u16,
    /// Containers that /metrics shows; the rest is sampled and counted.
    #[arg(long, env = "OPTIPOD_AGENT_METRICS_MAX_CONTAINERS", default_value = METRICS_MAX_CONTAINERS)]
    pub metrics_max_containers: usize,
    /// What to log: a level, or directives as of `tracing_subscriber::EnvFilter`.
    #[arg(long, env = "OPTIPOD_AGENT_LOG", default_value = "info")]
    pub log: String,
    /// How to log.
    #[arg(long, env = "OPTIPOD_AGENT_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A DNS subdomain (RFC 1123), as the API server demands of node names.
fn node_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    if text.len() <= MAX_NODE_NAME_BYTES && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "not a node name: expected a lower-case DNS subdomain of at most {MAX_NODE_NAME_BYTES} characters"
        ))
    }
}

fn address(text: &str) -> Result<String, String> {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|p| p > 0);
    match text.rsplit_once(':') {
        Some((host, number)) if !host.is_empty() && !host.contains('/') && port(number) => {
            Ok(text.to_owned())
        }
        _ => Err("expected host:port, such as optipod-coordinator.optipod-system:8443".to_owned()),
    }
}

fn hertz(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|h| RATES.contains(h))
        .ok_or_else(|| "expected 1, 2, 4, 5, 10, 20 or 25".to_owned())
}

/// Whole seconds, with or without `s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse().ok().filter(|s| *s > 0);
    number.map(Duration::from_secs).ok_or_else(|| "expected whole seconds, such as 15s".to_owned())
}

fn frame_interval(text: &str) -> Result<Duration, String> {
    let interval = seconds(text)?;
    if (1..=60).contains(&interval.as_secs()) { Ok(interval) } else { Err("expected 1s to 60s".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(more: &[&str]) -> Result<Config, clap::Error> {
        let base = ["optipod-agent", "--node-name=n1", "--coordinator-address=c:1"];
        Config::try_parse_from(base.iter().chain(more))
    }

    #[test]
    fn defaults_are_as_documented() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.sample_hertz, 10);
        assert_eq!(config.frame_interval, Duration::from_secs(15));
        assert!(!config.insecure_plaintext);
        Config::command().debug_assert();
    }

    #[test]
    fn wrong_values_are_refused() {
        let rows = [
            "--node-name=Node",
            "--node-name=a..b",
            "--node-name=-a",
            "--sample-hertz=3",
            "--sample-hertz=100",
            "--frame-interval=0s",
            "--frame-interval=61s",
            "--frame-interval=1m",
            "--coordinator-address=c",
            "--coordinator-address=http://c:1",
            "--coordinator-address=c:0",
            "--listen=9464",
            "--ring-mebibytes=0",
        ];
        for row in rows {
            let args = ["optipod-agent", "--node-name=n1", "--coordinator-address=c:1"];
            let (flag, _) = row.split_once('=').unwrap();
            let args = args.iter().filter(|a| !a.starts_with(flag)).chain([&row]);
            assert!(Config::try_parse_from(args).is_err(), "{row}");
        }
        assert!(parse(&["--frame-interval=5"]).is_ok());
    }

    #[test]
    fn readme_names_every_flag_with_its_variable_and_default() {
        let readme = include_str!("../README.md");
        for arg in
            Config::command().get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()))
        {
            let variable = arg.get_env().unwrap().to_str().unwrap();
            let defaults = arg.get_default_values();
            let default = defaults.first().map_or(String::new(), |d| d.to_str().unwrap().to_owned());
            let row = format!("| `--{}` | `{variable}` | {default} |", arg.get_long().unwrap());
            assert!(readme.contains(&row), "README.md lacks {row}");
        }
    }
}
