//! What came after a change decides whether it is taken back.

use serde::{Deserialize, Serialize};

use super::plan::{Direction, Plan};
use super::reason::Reason;
use crate::policy::Rollback;
use crate::time::Timestamp;

/// Throttling and stall of a container, each in thousandths: of periods, of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// Share of CFS periods in which it was throttled.
    pub throttled: u64,
    /// Share of time that it was throttled.
    #[serde(default)]
    pub throttled_time: u64,
    /// Share of time that some task stalled on CPU or memory, as the kernel counts it: with the time that it was throttled.
    pub stalled: u64,
}

impl Baseline {
    /// Share of time that some task stalled for another reason than that its own limit throttled it.
    pub const fn stalled_unthrottled(&self) -> u64 {
        self.stalled.saturating_sub(self.throttled_time)
    }
}

/// What was seen of a pod since a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Aftermath {
    /// What was changed.
    pub plan: Plan,
    /// When it was done.
    pub since: Timestamp,
    /// OOM kills since.
    pub oom_kills: u64,
    /// Restarts since.
    pub restarts: u32,
    /// Before the change.
    pub before: Baseline,
    /// Since the change.
    pub after: Baseline,
    /// Of siblings that were not changed, in the same time: what they suffer too does not come from the change.
    pub siblings: Option<Baseline>,
    /// The node has room for the size before; `None` = not known.
    pub node_has_room: Option<bool>,
    /// The quota has room for the size before; `None` = not known.
    pub quota_has_room: Option<bool>,
}

/// Whether a change is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RollbackVerdict {
    /// It stays.
    Keep,
    /// It is taken back, and no decrease follows for the policy's backoff.
    TakeBack {
        /// What puts the size before back.
        plan: Plan,
        /// What came of the change.
        reason: Reason,
        /// In words.
        message: String,
    },
    /// It should be taken back and cannot be: [`Reason::RollbackDeferred`].
    Deferred {
        /// What came of the change.
        reason: Reason,
        /// Why it cannot, and what to do.
        message: String,
    },
}

/// Judges what came after a change. An increase is never to blame.
pub fn rollback(policy: &Rollback, seen: &Aftermath) -> RollbackVerdict {
    if seen.plan.direction == Direction::Increase {
        return RollbackVerdict::Keep;
    }
    let Some((reason, message)) = harm(policy, seen) else { return RollbackVerdict::Keep };
    let missing = match (seen.node_has_room, seen.quota_has_room) {
        (Some(false), _) => "the node has no room: free some, or move the pod",
        (_, Some(false)) => "the quota has no room: raise it, or shrink another workload of the namespace",
        _ => return RollbackVerdict::TakeBack { plan: seen.plan.inverse(), reason, message },
    };
    RollbackVerdict::Deferred { reason, message: format!("{message}; {missing}") }
}

fn harm(policy: &Rollback, seen: &Aftermath) -> Option<(Reason, String)> {
    if policy.on_oom && seen.oom_kills > 0 {
        return Some((Reason::OomAfterResize, format!("{} OOM kills since", seen.oom_kills)));
    }
    // those that the change itself makes are no harm
    let made = seen.plan.changes.iter().filter(|change| change.restarts).count();
    let restarts = u64::from(seen.restarts).saturating_sub(u64::try_from(made).unwrap_or(u64::MAX));
    if policy.on_restart && restarts > 0 {
        return Some((Reason::RestartAfterResize, format!("{restarts} restarts since")));
    }
    // what was there before, and what siblings suffer as well, does not come from the change
    let grown = |of: fn(&Baseline) -> u64| {
        let usual = seen.siblings.as_ref().map_or(0, of).max(of(&seen.before));
        of(&seen.after).saturating_sub(usual)
    };
    let above = |share: Option<crate::policy::Share>, grown: u64| {
        share.filter(|share| grown > u64::from(share.thousandths()))
    };
    let throttled = grown(|b| b.throttled);
    if let Some(most) = above(policy.on_throttle, throttled) {
        let message = format!("{}% more periods are throttled, {most} allowed", tenths(throttled));
        return Some((Reason::ThrottledAfterResize, message));
    }
    let stalled = grown(Baseline::stalled_unthrottled);
    let most = above(policy.on_pressure, stalled)?;
    Some((Reason::StalledAfterResize, format!("{}% more time is stalled, {most} allowed", tenths(stalled))))
}

fn tenths(thousandths: u64) -> String {
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::{container_plan, resources};

    fn seen() -> Aftermath {
        let plan = container_plan(resources((500, 256), (0, 0)), resources((200, 128), (0, 0)));
        Aftermath {
            plan,
            since: Timestamp::from_unix_seconds(0),
            oom_kills: 0,
            restarts: 0,
            before: Baseline::default(),
            after: Baseline::default(),
            siblings: None,
            node_has_room: None,
            quota_has_room: None,
        }
    }

    fn reason(verdict: &RollbackVerdict) -> Option<Reason> {
        match verdict {
            RollbackVerdict::Keep => None,
            RollbackVerdict::TakeBack { reason, .. } | RollbackVerdict::Deferred { reason, .. } => {
                Some(*reason)
            }
        }
    }

    #[test]
    fn each_harm_takes_the_change_back() {
        type Change = fn(&mut Aftermath);
        let cases: [(Option<Reason>, Change); 9] = [
            (None, |_| {}),
            (Some(Reason::OomAfterResize), |s| s.oom_kills = 1),
            (Some(Reason::RestartAfterResize), |s| s.restarts = 1),
            (Some(Reason::ThrottledAfterResize), |s| s.after.throttled = 251),
            (None, |s| (s.before.throttled, s.after.throttled) = (100, 350)),
            (Some(Reason::StalledAfterResize), |s| s.after.stalled = 101),
            (None, |s| {
                (s.after.stalled, s.siblings) = (150, Some(Baseline { stalled: 60, ..Baseline::default() }));
            }),
            (None, |s| (s.after.stalled, s.after.throttled_time) = (180, 90)),
            (None, |s| (s.oom_kills, s.plan.direction) = (1, Direction::Increase)),
        ];
        for (i, (expected, change)) in cases.into_iter().enumerate() {
            let mut seen = seen();
            change(&mut seen);
            assert_eq!(reason(&rollback(&Rollback::default(), &seen)), expected, "case {i}");
        }
    }

    #[test]
    fn what_cannot_be_put_back_says_what_to_do() {
        let verdict =
            rollback(&Rollback::default(), &Aftermath { oom_kills: 2, node_has_room: Some(false), ..seen() });
        let RollbackVerdict::Deferred { reason: Reason::OomAfterResize, message } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(message, "2 OOM kills since; the node has no room: free some, or move the pod");
    }

    #[test]
    fn a_change_is_taken_back_to_what_was_there() {
        let seen = Aftermath { restarts: 1, ..seen() };
        let RollbackVerdict::TakeBack { plan, .. } = rollback(&Rollback::default(), &seen) else { panic!() };
        assert_eq!(plan.to_string(), "c: cpu request 200m > 500m, memory request 128Mi > 256Mi");
    }
}
