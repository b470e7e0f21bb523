//! What goes wrong in a scenario: when, what, and to whom. Values only; whoever can fail asks the [`Board`].

mod board;
mod requests;
mod whom;

use std::time::Duration;

pub use self::board::Board;
pub use self::requests::{ApiFault, Operation, Requests, Treatment};
pub use self::whom::{Nodes, Pods, Share};

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Begins then, in simulated time since the start.
    pub at: Duration,
    /// Ends after this much simulated time; never when `None`. What happens at one moment does not last.
    pub lasts: Option<Duration>,
    /// What.
    pub kind: Kind,
}

impl Fault {
    /// Whether it is there at `now`.
    pub fn active(&self, now: Duration) -> bool {
        now.checked_sub(self.at).is_some_and(|age| self.lasts.is_none_or(|lasts| age < lasts))
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The kubelet does not follow a resize as it would.
    Resize {
        /// Of these pods.
        pods: Pods,
        /// What it does instead.
        fault: ResizeFault,
    },
    /// Nodes stop: no heartbeat, no status, no agent.
    NodeLost(Nodes),
    /// Agents stop; their nodes go on.
    AgentLost(Nodes),
    /// Clocks of agents are off.
    AgentClock {
        /// On these nodes.
        nodes: Nodes,
        /// Microseconds; positive: ahead.
        offset_micros: i64,
    },
    /// Counters of all containers of these pods start at zero again. At one moment.
    CountersReset(Pods),
    /// The node is short of memory: its kubelet ends these pods. At one moment.
    Evicted(Pods),
    /// The API server misbehaves towards coordinators.
    Api {
        /// For these requests.
        requests: Requests,
        /// A share of them, drawn for each.
        share: Share,
        /// How.
        fault: ApiFault,
    },
    /// All watches of coordinators end. At one moment.
    WatchCut {
        /// Of these resources; of all when empty.
        resources: Vec<String>,
        /// The next watch of each is told that its version is too old (410), so that it must list again.
        gone: bool,
    },
    /// Somebody else changes a pod between the dry run of a resize and the patch.
    Conflict(Pods),
    /// The leading coordinator dies without a word. At one moment.
    LeaderKilled,
}

/// What a kubelet does with a resize instead of following it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeFault {
    /// The node has no room for it now.
    Deferred,
    /// The node can never do it.
    Infeasible,
    /// It is allocated, and the runtime fails to carry it out.
    Error,
    /// It is carried out after this much simulated time.
    Slow(Duration),
}
