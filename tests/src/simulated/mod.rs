//! Simulated nodes: kubelets, containers and agents without machines, on a real control plane.
//!
//! `tests/SIMULATED.md` says what is simulated and what is real.

pub mod agents;
pub mod cgroup;
pub mod clock;
pub mod faults;
pub mod kubelet;
pub mod node;
pub mod programs;
pub mod proxy;
pub mod runtime;
pub mod scenario;
pub mod usage;
