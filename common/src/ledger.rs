//! Which frames were merged already.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Epochs that are remembered per node. An agent that restarts sends nothing of its last life any more, but frames
/// in flight may arrive late, and a restart storm must not grow memory.
const EPOCHS_PER_NODE: usize = 4;

/// Out-of-order frames that are remembered per epoch: a ring of 30 minutes at one frame a second.
const MAX_AHEAD: usize = 1800;

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Merge it: it was not seen before.
    New,
    /// It counts already.
    Duplicate,
    /// It cannot be told whether it counts already: its epoch is forgotten, or it is too far ahead.
    Refused,
}

/// Frames of one node. Adding is idempotent by (epoch, sequence), in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    epochs: BTreeMap<u64, EpochLedger>,
    /// Highest epoch that was forgotten.
    forgotten: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct EpochLedger {
    /// All of 1..=contiguous are merged or known to be lost.
    contiguous: u64,
    ahead: BTreeSet<u64>,
    lost: u64,
}

impl Ledger {
    /// Says whether a frame is new, and remembers it.
    pub fn admit(&mut self, epoch: u64, sequence: u64) -> Admission {
        let Some(ledger) = self.epoch(epoch) else { return Admission::Refused };
        // below the largest number, so that there is always a next one
        if sequence == 0 || sequence == u64::MAX {
            return Admission::Refused;
        }
        if sequence <= ledger.contiguous || ledger.ahead.contains(&sequence) {
            return Admission::Duplicate;
        }
        if sequence != ledger.contiguous + 1 && ledger.ahead.len() >= MAX_AHEAD {
            return Admission::Refused;
        }
        ledger.ahead.insert(sequence);
        ledger.advance();
        Admission::New
    }

    /// The agent holds nothing below `oldest` any more: what is missing there will never come.
    pub fn forget_below(&mut self, epoch: u64, oldest: u64) {
        let Some(ledger) = self.epoch(epoch) else { return };
        while ledger.contiguous + 1 < oldest {
            let next = ledger.ahead.first().copied().unwrap_or(oldest).min(oldest);
            ledger.lost += next - ledger.contiguous - 1;
            ledger.contiguous = next - 1;
            ledger.advance();
        }
    }

    /// Everything up to and including this sequence is merged (or lost for good).
    pub fn accepted(&self, epoch: u64) -> u64 {
        self.epochs.get(&epoch).map_or(0, |ledger| ledger.contiguous)
    }

    /// Frames that will never come: dropped by the agent while no coordinator took them.
    pub fn lost(&self) -> u64 {
        self.epochs.values().fold(0, |lost, ledger| lost.saturating_add(ledger.lost))
    }

    fn epoch(&mut self, epoch: u64) -> Option<&mut EpochLedger> {
        if epoch <= self.forgotten {
            return None;
        }
        self.epochs.entry(epoch).or_default();
        while self.epochs.len() > EPOCHS_PER_NODE {
            let (oldest, _) = self.epochs.pop_first()?;
            self.forgotten = oldest;
        }
        self.epochs.get_mut(&epoch)
    }
}

impl EpochLedger {
    fn advance(&mut self) {
        while self.ahead.first() == Some(&(self.contiguous + 1)) {
            self.ahead.pop_first();
            self.contiguous += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_frame_counts_once_in_any_order(order in Just((1..=40_u64).chain(1..=40).collect::<Vec<_>>()).prop_shuffle()) {
            let mut ledger = Ledger::default();
            let new = order.iter().filter(|s| ledger.admit(7, **s) == Admission::New).count();
            prop_assert_eq!(new, 40);
            prop_assert_eq!(ledger.accepted(7), 40);
        }

        #[test]
        fn accepted_never_exceeds_what_came(seen in prop::collection::btree_set(1..30_u64, 0..30)) {
            let mut ledger = Ledger::default();
            for s in &seen {
                ledger.admit(1, *s);
            }
            let expected = (1..30).take_while(|s| seen.contains(s)).last().unwrap_or(0);
            prop_assert_eq!(ledger.accepted(1), expected);
        }
    }

    #[test]
    fn what_the_agent_dropped_is_lost_once() {
        let mut ledger = Ledger::default();
        ledger.admit(1, 1);
        ledger.admit(1, 5);
        ledger.forget_below(1, 4);
        assert_eq!((ledger.accepted(1), ledger.lost()), (3, 2));
        ledger.admit(1, 4);
        assert_eq!((ledger.accepted(1), ledger.lost()), (5, 2));
        ledger.forget_below(1, 3);
        assert_eq!((ledger.accepted(1), ledger.lost()), (5, 2));
    }

    #[test]
    fn forgotten_epoch_and_sequence_zero_are_refused() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.admit(1, 0), Admission::Refused);
        for epoch in 1..=5 {
            assert_eq!(ledger.admit(epoch, 1), Admission::New);
        }
        assert_eq!(ledger.admit(1, 1), Admission::Refused);
        assert_eq!(ledger.admit(2, 1), Admission::Duplicate);
    }

    #[test]
    fn a_flood_from_far_ahead_does_not_grow_memory() {
        let mut ledger = Ledger::default();
        let refused = (2..10_000).filter(|s| ledger.admit(1, *s * 2) == Admission::Refused).count();
        assert!(refused > 8_000);
        assert_eq!(ledger.admit(1, 1), Admission::New);
    }
}
