#![doc = include_str!("../README.md")]

pub mod admin;
pub mod backoff;
pub mod cgroup;
pub mod clock;
pub mod config;
pub mod discover;
pub mod health;
pub mod metrics;
pub mod own;
pub mod rate;
pub mod ring;
pub mod run;
pub mod sampler;
pub mod series;
pub mod subject;
pub mod transport;
pub mod uplink;

pub use config::Config;
pub use run::{AgentError, run, run_with};
