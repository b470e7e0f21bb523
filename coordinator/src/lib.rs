#![doc = include_str!("../README.md")]

pub mod admin;
pub mod api;
pub mod apply;
pub mod config;
pub mod engine;
pub mod expression;
pub mod index;
pub mod ingest;
pub mod lease;
pub mod metrics;
pub mod recommendations;
pub mod report;
pub mod run;
pub mod savings;
pub mod scribe;
pub mod status;
pub mod watch;

/// Field manager of every write. `pods/resize` entries of any other manager are somebody else's resizes.
pub const FIELD_MANAGER: &str = "optipod-coordinator";
