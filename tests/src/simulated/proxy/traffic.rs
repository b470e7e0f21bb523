//! What passed the proxy, in order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::simulated::faults::{Board, Operation};

/// All requests that coordinators made. Clones share it.
#[derive(Clone, Debug)]
pub struct Traffic {
    board: Board,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Reads are counted only: a fleet makes many.
    counts: BTreeMap<(Operation, Outcome), u64>,
    /// Writes and dry runs, in the order in which they came.
    changes: Vec<Exchange>,
    contested: u64,
}

/// One change, or dry run of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// Simulated time since the start.
    pub at: Duration,
    /// What was asked.
    pub operation: Operation,
    /// With which body; null when it was no JSON.
    pub body: Value,
    /// What came of it; `None` while it is under way.
    pub outcome: Option<Outcome>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The API server answered with this status.
    Answered(u16),
    /// The API server answered with this status, and the caller never heard of it.
    AnswerLost(u16),
    /// The scenario answered with this status; the API server was not asked.
    Played(u16),
    /// The scenario broke the connection; the API server was not asked.
    Reset,
    /// The API server did not answer.
    Unreachable,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "{status}"),
            Self::AnswerLost(status) => write!(f, "{status}, answer lost"),
            Self::Played(status) => write!(f, "{status} (fault)"),
            Self::Reset => f.write_str("reset (fault)"),
            Self::Unreachable => f.write_str("no answer"),
        }
    }
}

impl Outcome {
    /// The API server has done what was asked, whether or not the caller knows.
    pub const fn done(self) -> bool {
        matches!(self, Self::Answered(200..=299) | Self::AnswerLost(200..=299))
    }
}

/// A request that has begun.
pub(super) struct Begun {
    operation: Operation,
    /// Place among the changes.
    change: Option<usize>,
}

impl Traffic {
    /// Nothing has passed; `board` tells the time.
    pub(super) fn new(board: Board) -> Self {
        Self { board, state: Arc::default() }
    }

    pub(super) fn begin(&self, operation: &Operation, body: Value) -> Begun {
        let at = self.board.now();
        let mut state = self.lock();
        let change = (operation.writes() || operation.dry_run).then_some(state.changes.len());
        if change.is_some() {
            state.changes.push(Exchange { at, operation: operation.clone(), body, outcome: None });
        }
        Begun { operation: operation.clone(), change }
    }

    pub(super) fn end(&self, begun: &Begun, outcome: Outcome) {
        let mut state = self.lock();
        if let Some(exchange) = begun.change.and_then(|place| state.changes.get_mut(place)) {
            exchange.outcome = Some(outcome);
        }
        // what the name of an object tells is in the changes
        let operation =
            Operation { namespace: String::new(), name: String::new(), ..begun.operation.clone() };
        *state.counts.entry((operation, outcome)).or_default() += 1;
    }

    /// Number of this contested patch, from 1.
    pub(super) fn contested(&self) -> u64 {
        let mut state = self.lock();
        state.contested += 1;
        state.contested
    }

    /// Requests by operation (without namespace and name) and outcome.
    pub fn counts(&self) -> BTreeMap<(Operation, Outcome), u64> {
        self.lock().counts.clone()
    }

    /// Writes and dry runs so far, in the order in which they came.
    pub fn changes(&self) -> Vec<Exchange> {
        self.lock().changes.clone()
    }

    /// Writes and dry runs from the `first` on (from 0), in the order in which they came.
    pub fn changes_since(&self, first: usize) -> Vec<Exchange> {
        self.lock().changes.get(first..).unwrap_or_default().to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // every change is complete in itself, so a panic elsewhere leaves nothing half done
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
