//! Every flag of the coordinator. Parsed once; `--help` is the reference.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use optipod_common::policy::parse_duration;
use optipod_common::savings::Prices;

/// Right-sizes Kubernetes pods in place.
#[derive(Clone, Debug, Parser)]
#[command(name = "optipod-coordinator", version)]
pub struct Config {
    /// Where agents connect (gRPC).
    #[arg(long, env = "OPTIPOD_COORDINATOR_LISTEN", default_value = "0.0.0.0:9443")]
    pub listen: SocketAddr,

    /// Where /metrics, /livez and /readyz are served (HTTP).
    #[arg(long, env = "OPTIPOD_COORDINATOR_ADMIN_LISTEN", default_value = "0.0.0.0:9464")]
    pub admin_listen: SocketAddr,

    /// Namespace that the coordinator runs in: its Lease is there, and no pod there is ever resized.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Name of the coordinator's pod: its identity in the Lease.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,

    /// IP of the coordinator's pod: standbys send agents there while it leads.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: IpAddr,

    /// Name of the Lease.
    #[arg(long, default_value = "optipod-coordinator")]
    pub lease_name: String,

    /// Deployment that owns the Lease, so that it disappears with it; none when empty.
    #[arg(long, default_value = "")]
    pub lease_owner_deployment: String,

    /// A standby takes over when the leader has not renewed for this long.
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    pub lease_duration: Duration,

    /// Time between renewals. At most a third of the lease duration.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub renew_interval: Duration,

    /// More namespaces whose policies may select workloads in other namespaces.
    #[arg(long, value_delimiter = ',')]
    pub cluster_policy_namespaces: Vec<String>,

    /// Compute everything, resize nothing.
    #[arg(long, env = "OPTIPOD_COORDINATOR_DRY_RUN")]
    pub dry_run: bool,

    /// Interval between frames that agents are asked for, 1 s to 60 s.
    #[arg(long, default_value = "15s", value_parser = parse_frame_interval)]
    pub frame_interval: Duration,

    /// Serve agents in plain text. Needed in this version, which has no TLS yet; telemetry can then be read and
    /// forged by whoever is on the network between nodes.
    #[arg(long)]
    pub insecure_plaintext: bool,

    /// Price of one requested core for one hour, in any currency. With both prices the metric
    /// `optipod_saved_cost_per_hour` tells what is given back. 0 or more.
    #[arg(long, value_parser = parse_price, requires = "price_gibibyte_hour")]
    pub price_core_hour: Option<f64>,

    /// Price of one requested GiB of memory for one hour.
    #[arg(long, value_parser = parse_price, requires = "price_core_hour")]
    pub price_gibibyte_hour: Option<f64>,

    /// Log lines as JSON or as text.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// What is logged, as tracing-subscriber's `EnvFilter` writes it.
    #[arg(long, env = "OPTIPOD_LOG", default_value = "info")]
    pub log_level: String,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

fn parse_frame_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("{text:?} is not a frame interval: expected 1s to 60s"))
    }
}

fn parse_price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    price.ok_or_else(|| format!("{text:?} is not a price: expected a number, 0 or more, such as 0.04"))
}

impl Config {
    /// Prices, where both are set.
    pub fn prices(&self) -> Option<Prices> {
        Some(Prices { core_hour: self.price_core_hour?, gibibyte_hour: self.price_gibibyte_hour? })
    }

    /// What no single flag can say.
    ///
    /// # Errors
    /// Names the flags that do not fit together.
    pub fn check(&self) -> Result<(), String> {
        if !self.insecure_plaintext {
            return Err("TLS between agents and coordinator is not in this version: pass --insecure-plaintext to accept plain text".to_owned());
        }
        if self.renew_interval.is_zero() || self.renew_interval * 3 > self.lease_duration {
            return Err(format!(
                "--renew-interval {:?} does not fit --lease-duration {:?}: expected above zero and at most a third of it",
                self.renew_interval, self.lease_duration
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [&str; 7] =
        ["optipod-coordinator", "--namespace", "ns", "--pod-name", "p", "--pod-ip", "10.0.0.1"];

    fn parse(extra: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(REQUIRED.iter().chain(extra))
    }

    #[test]
    fn plain_text_needs_its_flag() {
        assert!(parse(&[]).unwrap().check().unwrap_err().contains("--insecure-plaintext"));
        assert_eq!(parse(&["--insecure-plaintext"]).unwrap().check(), Ok(()));
    }

    #[test]
    fn intervals_that_do_not_fit_are_refused() {
        let config = parse(&["--insecure-plaintext", "--renew-interval", "6s"]).unwrap();
        assert!(config.check().unwrap_err().contains("--renew-interval"));
        for bad in ["500ms", "61s", "x"] {
            assert!(parse(&["--frame-interval", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn prices_come_together_and_are_not_negative() {
        let both = parse(&["--price-core-hour", "0.04", "--price-gibibyte-hour", "0.005"]).unwrap();
        assert_eq!(both.prices(), Some(Prices { core_hour: 0.04, gibibyte_hour: 0.005 }));
        assert!(parse(&["--price-core-hour", "0.04"]).is_err());
        assert!(parse(&["--price-core-hour", "-1", "--price-gibibyte-hour", "1"]).is_err());
        assert_eq!(parse(&[]).unwrap().prices(), None);
    }

    #[test]
    fn namespaces_are_separated_by_commas() {
        let config = parse(&["--cluster-policy-namespaces", "a,b"]).unwrap();
        assert_eq!(config.cluster_policy_namespaces, ["a", "b"]);
    }
}
