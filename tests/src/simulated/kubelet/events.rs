//! What a kubelet says about a pod: reasons and texts of kubernetes 1.36.

use optipod_common::resources::{Amounts, Resources};
use serde::Serialize;

use super::size::{Kind as ContainerKind, Sizes, Slot};

/// Reason of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The image is there.
    Pulled,
    /// A container was made.
    Created,
    /// A container runs.
    Started,
    /// A container is stopped.
    Killing,
    /// A container that failed waits before it is started again.
    BackOff,
    /// The node is short of something.
    Evicted,
    /// The pod may not run here; the reason of its status.
    Rejected(String),
    /// A resize was allocated.
    ResizeStarted,
    /// A resize was carried out.
    ResizeCompleted,
    /// A resize waits.
    ResizeDeferred,
    /// A resize is impossible.
    ResizeInfeasible,
    /// A resize failed.
    ResizeError,
}

impl Kind {
    /// `reason` of the Event.
    pub fn reason(&self) -> &str {
        match self {
            Self::Pulled => "Pulled",
            Self::Created => "Created",
            Self::Started => "Started",
            Self::Killing => "Killing",
            Self::BackOff => "BackOff",
            Self::Evicted => "Evicted",
            Self::Rejected(reason) => reason,
            Self::ResizeStarted => "ResizeStarted",
            Self::ResizeCompleted => "ResizeCompleted",
            Self::ResizeDeferred => "ResizeDeferred",
            Self::ResizeInfeasible => "ResizeInfeasible",
            Self::ResizeError => "ResizeError",
        }
    }

    /// True for news of a resize.
    pub const fn is_about_resize(&self) -> bool {
        matches!(
            self,
            Self::ResizeStarted
                | Self::ResizeCompleted
                | Self::ResizeDeferred
                | Self::ResizeInfeasible
                | Self::ResizeError
        )
    }

    /// `type` of the Event.
    pub const fn severity(&self) -> &'static str {
        match self {
            Self::Pulled
            | Self::Created
            | Self::Started
            | Self::Killing
            | Self::ResizeStarted
            | Self::ResizeCompleted => "Normal",
            Self::BackOff
            | Self::Evicted
            | Self::Rejected(_)
            | Self::ResizeDeferred
            | Self::ResizeInfeasible
            | Self::ResizeError => "Warning",
        }
    }
}

/// Something to say about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Reason.
    pub kind: Kind,
    /// Text.
    pub message: String,
    /// `involvedObject.fieldPath`, when it is about one container.
    pub field: Option<String>,
}

impl Notice {
    /// About the pod.
    pub const fn new(kind: Kind, message: String) -> Self {
        Self { kind, message, field: None }
    }

    /// About one of its containers.
    pub fn of(kind: Kind, message: String, name: &str, container: ContainerKind) -> Self {
        let list = if container == ContainerKind::Regular { "containers" } else { "initContainers" };
        Self { kind, message, field: Some(format!("spec.{list}{{{name}}}")) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Line<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Line<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    resources: Requirements,
}

/// Limits before requests, as Go's encoder writes the type.
#[derive(Serialize)]
struct Requirements {
    #[serde(skip_serializing_if = "Amounts::is_empty")]
    limits: Amounts,
    #[serde(skip_serializing_if = "Amounts::is_empty")]
    requests: Amounts,
}

/// `Pod resize started: {...}`.
pub fn resize_message(what: &str, slots: &[Slot], sizes: &Sizes, generation: i64, error: &str) -> String {
    let line = |slot: &'_ Slot| {
        let Resources { requests, limits } = sizes.get(&slot.name).copied().unwrap_or_default();
        Requirements { limits, requests }
    };
    let lines = |regular: bool| -> Vec<Line<'_>> {
        let slots = slots.iter().filter(|slot| (slot.kind == ContainerKind::Regular) == regular);
        slots.map(|slot| Line { name: &slot.name, resources: line(slot) }).collect()
    };
    let summary = Summary { init_containers: lines(false), containers: lines(true), generation, error };
    match serde_json::to_string(&summary) {
        Ok(json) => format!("Pod resize {what}: {json}"),
        Err(_) => format!("Pod resize {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optipod_common::quantity::{Bytes, MilliCpu};

    #[test]
    fn resize_message_is_the_kubelets_word_for_word() {
        let slots = [Slot { name: "c".to_owned(), kind: ContainerKind::Regular }];
        let size = Resources {
            requests: Amounts { cpu: Some(MilliCpu(100)), memory: Some(Bytes(64 << 20)) },
            limits: Amounts { cpu: Some(MilliCpu(1000)), memory: None },
        };
        let sizes = Sizes::from([("c".to_owned(), size)]);
        let text = resize_message("OutOfcpu", &slots, &sizes, 2, "no room");
        let json = r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"},"requests":{"cpu":"100m","memory":"64Mi"}}}],"generation":2,"error":"no room"}"#;
        assert_eq!(text, format!("Pod resize OutOfcpu: {json}"));
    }
}
