//! The fallback: a new pod where a resize in place is impossible.

use super::circumstances::Circumstances;
use super::reason::{Hold, Reason};
use crate::policy::Policy;
use crate::resources::PodFacts;

/// Why the change cannot be made in place; `None` when it can.
pub(super) fn needed(policy: &Policy, pod: &PodFacts) -> Option<Hold> {
    if !policy.update.allow_in_place_resize {
        let message = "updateStrategy.allowInPlaceResize is false";
        return Some(Hold::of_pod(Reason::InPlaceNotAllowed, message));
    }
    let why = pod.node.as_ref()?.no_in_place.as_ref()?;
    Some(Hold::of_pod(Reason::InPlaceUnsupported, why.clone()))
}

/// Why no new pod is made either.
pub(super) fn guard(policy: &Policy, pod: &PodFacts, at: &Circumstances) -> Option<Hold> {
    let (reason, message) = if !policy.update.allow_recreate {
        (Reason::RecreateNotAllowed, "updateStrategy.allowRecreate is false".to_owned())
    } else if pod.eviction_forbidden {
        (Reason::EvictionForbidden, "an annotation of the pod forbids to evict it".to_owned())
    } else if at.ready_pods.is_some_and(|ready| ready <= 1) {
        (Reason::LastReadyReplica, "no other pod of the workload is ready".to_owned())
    } else if at.disruptions_allowed == Some(0) {
        (Reason::DisruptionBudget, "its PodDisruptionBudget allows no disruption now".to_owned())
    } else if !at.can_recreate {
        let message = "updateStrategy.allowRecreate is set, but this version does not evict pods: delete the pod by hand to give it its size";
        (Reason::RecreateUnsupported, message.to_owned())
    } else {
        return None;
    };
    Some(Hold::of_pod(reason, message))
}
