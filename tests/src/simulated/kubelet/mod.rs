//! A stand-in for the kubelets of many nodes: real API objects in, the kubelet's status, Events and deletions out.
//!
//! ```text
//! api.rs        watch, status patches, Events, leases: the only part that talks to the API server
//!   fleet.rs      all nodes of this process; timers; which pod is on which node
//!     node_agent.rs one kubelet: admission, incarnations, addresses, retries of deferred resizes
//!       resize.rs     what the node has promised (pure)         actuate.rs  what the runtime is asked for (pure)
//!       pod.rs, pod/  a pod from admission to its end           behaviour.rs  annotations
//!       size.rs       sums of requests and limits               containers.rs the runtime's interface
//!   status.rs     the status that a pod should have; patch.rs: the difference to what the API server shows
//!   events.rs     reasons and texts
//! ```
//!
//! Nothing below `api.rs` waits, reads a clock or draws a random number.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

pub mod actuate;
pub mod api;
pub mod behaviour;
pub mod containers;
pub mod events;
pub mod fleet;
pub mod node_agent;
pub mod patch;
pub mod pod;
pub mod resize;
pub mod size;
pub mod status;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Simulated time since the start: counters, probes and pauses run on it.
    pub simulated: Duration,
    /// What is written into objects.
    pub wall: Timestamp,
}

/// How long a kubelet and its runtime take, in simulated time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// To make a sandbox.
    pub sandbox: Duration,
    /// To start a container.
    pub container: Duration,
    /// For a container to stop after SIGTERM.
    pub stop: Duration,
    /// From the allocation of a resize to the runtime.
    pub actuate: Duration,
    /// From the runtime to the kubelet's next look at it.
    pub observe: Duration,
    /// Until a resize that failed is tried again.
    pub retry: Duration,
    /// Between two looks at deferred resizes that nothing else caused.
    pub deferred: Duration,
    /// Between two looks at a pod that nothing else caused.
    pub resync: Duration,
}

/// As a kubelet on an idle machine: runtime calls of some 100 ms, a look at the runtime about every second, 10 s of
/// back-off after an error, deferred resizes every 3 minutes, every pod about every 90 s.
impl Default for Delays {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self {
            sandbox: millis(300),
            container: millis(200),
            stop: millis(300),
            actuate: millis(150),
            observe: millis(500),
            retry: Duration::from_secs(10),
            deferred: Duration::from_mins(3),
            resync: Duration::from_secs(90),
        }
    }
}
