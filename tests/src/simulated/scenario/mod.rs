//! Scenarios: a file says what runs, what goes wrong and what must hold; the player makes it happen.
//!
//! ```text
//! file      the file, and what is wrong with it: value, faults, expect
//! player    plays one in a lab, with
//!   fleet         nodes, runtimes and agents, and the thread that moves their time
//!   coordinators  real ones in this process (coordinator), behind a Service
//!   objects       API objects for what the file says
//! tracker   when expectations are decided
//! report    what a run showed
//! ```

pub mod coordinator;
pub mod coordinators;
pub mod expect;
pub mod faults;
pub mod file;
pub mod fleet;
pub mod objects;
pub mod player;
pub mod report;
pub mod service;
pub mod tracker;
pub mod value;

pub use file::Scenario;
pub use player::{Stage, play_file};
pub use report::Report;

#[cfg(test)]
mod tests;
