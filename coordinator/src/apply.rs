//! The only place that writes `pods/resize`. An [`Action`] leaves it nothing to choose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::core::Status;
use kube::{Client, ResourceExt};
use optipod_common::decide::{ContainerChange, Plan, Reason};
use optipod_common::resources::{Amounts, Resources};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::FIELD_MANAGER;
use crate::index::{PodKey, resources_of};
use crate::lease::Leadership;

/// A write that takes longer is given up: leadership that was checked before it may be over after it.
const PATIENCE: Duration = Duration::from_secs(5);

/// One patch of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Which pod.
    pub pod: PodKey,
    /// Fence: not another pod of the same name.
    pub uid: String,
    /// Fence: nothing changed since the decision.
    pub resource_version: String,
    /// What to write.
    pub plan: Plan,
    /// Resources of every container after the patch, by name: admission must not sneak in more.
    pub expected: BTreeMap<String, Resources>,
}

/// A patch that the API server accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The pod's generation after it.
    pub generation: i64,
}

/// A patch that was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// In the words of who refused.
    pub message: String,
}

/// Dry run, as seen by what was decided before it was switched on.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<AtomicBool>);

impl Brake {
    /// On: nothing is written from now on.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes resizes while this process leads.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    leadership: watch::Receiver<Leadership>,
    brake: Brake,
}

impl Applier {
    /// An applier whose every write checks leadership and brake first.
    pub fn new(client: Client, leadership: watch::Receiver<Leadership>, brake: Brake) -> Self {
        Self { client, leadership, brake }
    }

    /// Dry-runs the patch, compares what would come of it with what is wanted, then writes it.
    ///
    /// # Errors
    /// A [`Refusal`] with the reason, whoever refused.
    pub async fn resize(&self, action: &Action) -> Result<Accepted, Refusal> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &action.pod.namespace);
        let body = patch_body(action);
        self.check()?;
        let tried = patch(&pods, action, &body, true).await?;
        admission_added(&tried, &action.expected)
            .map_or(Ok(()), |message| Err(Refusal { reason: Reason::AdmissionMutates, message }))?;
        self.check()?;
        let pod = patch(&pods, action, &body, false).await?;
        Ok(Accepted { generation: pod.metadata.generation.unwrap_or(0) })
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.brake.is_on() {
            let message = "the dry run was switched on after this was decided".to_owned();
            Err(Refusal { reason: Reason::DryRun, message })
        } else if self.leadership.borrow().holds(Instant::now()) {
            Ok(())
        } else {
            let message = "this coordinator does not lead any more".to_owned();
            Err(Refusal { reason: Reason::NotLeader, message })
        }
    }
}

async fn patch(pods: &Api<Pod>, action: &Action, body: &Value, dry_run: bool) -> Result<Pod, Refusal> {
    let params =
        PatchParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let unavailable = |message: String| Refusal { reason: Reason::ApiUnavailable, message };
    let patch = Patch::Strategic(body);
    let answer = tokio::time::timeout(PATIENCE, pods.patch_resize(&action.pod.name, &params, &patch)).await;
    answer.map_err(|_| unavailable("the API server has not answered for 5 s".to_owned()))?.map_err(|error| {
        match error {
            kube::Error::Api(status) => refusal(&status),
            error => unavailable(error.to_string()),
        }
    })
}

/// Strategic merge patch that holds only what changes: server-side apply would read an omitted key as a removal, and
/// a `null` would let defaulting copy the limit into the request.
fn patch_body(action: &Action) -> Value {
    let list = |sidecar: bool| -> Vec<Value> {
        action.plan.changes.iter().filter(|change| change.sidecar == sidecar).map(container_body).collect()
    };
    let mut spec = serde_json::Map::new();
    for (key, containers) in [("containers", list(false)), ("initContainers", list(true))] {
        if !containers.is_empty() {
            spec.insert(key.to_owned(), Value::Array(containers));
        }
    }
    json!({
        "metadata": { "uid": action.uid, "resourceVersion": action.resource_version },
        "spec": spec,
    })
}

fn container_body(change: &ContainerChange) -> Value {
    let amounts = |amounts: Amounts| {
        let mut map = serde_json::Map::new();
        if let Some(cpu) = amounts.cpu {
            map.insert("cpu".to_owned(), cpu.to_string().into());
        }
        if let Some(memory) = amounts.memory {
            map.insert("memory".to_owned(), memory.to_string().into());
        }
        map
    };
    let mut resources = serde_json::Map::new();
    for (key, map) in [("requests", amounts(change.to.requests)), ("limits", amounts(change.to.limits))] {
        if !map.is_empty() {
            resources.insert(key.to_owned(), Value::Object(map));
        }
    }
    json!({ "name": change.container, "resources": resources })
}

/// What admission would write beside what was asked for: LimitRange defaults, for example, could never be taken back.
fn admission_added(pod: &Pod, expected: &BTreeMap<String, Resources>) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let differs = |container: &Container| {
        let wanted = expected.get(&container.name)?;
        let got = resources_of(container.resources.as_ref());
        (got != *wanted).then(|| {
            let show = |r: &Resources| serde_json::to_string(r).unwrap_or_default();
            format!("container {} would get {} instead of {}", container.name, show(&got), show(wanted))
        })
    };
    containers.into_iter().find_map(differs)
}

/// The reason behind a status of the API server. Texts: kubernetes 1.36 `ValidatePodResize`, LimitRanger, quota.
fn refusal(status: &Status) -> Refusal {
    let message = status.message.clone();
    let cause = |name: &str| {
        status.details.as_ref().is_some_and(|details| details.causes.iter().any(|c| c.reason == name))
    };
    let reason = match status.code {
        404 => Reason::PodGone,
        409 => Reason::Conflict,
        403 if cause("NodeCapacity") => Reason::NodeCapacity,
        403 if message.contains("exceeded quota") || message.contains("failed quota") => {
            Reason::QuotaExceeded
        }
        403 if is_limit_range(&message) => Reason::LimitRangeViolated,
        401 | 403 => Reason::Forbidden,
        422 if message.contains("metadata.uid") => Reason::PodGone,
        400 | 422 => Reason::Invalid,
        _ => Reason::ApiUnavailable,
    };
    Refusal { reason, message }
}

/// LimitRanger says `minimum cpu usage per Container is ..`, `maximum memory usage per Pod is ..` and
/// `cpu max limit to request ratio per Container is ..`.
fn is_limit_range(message: &str) -> bool {
    ["minimum ", "maximum ", " max limit to request ratio "].iter().any(|part| message.contains(part))
        && [" per Container", " per Pod"].iter().any(|part| message.contains(part))
}

impl Action {
    /// The pod's state after the patch, from its state before.
    pub fn expectation<'a>(
        plan: &Plan,
        containers: impl IntoIterator<Item = (&'a str, Resources)>,
    ) -> BTreeMap<String, Resources> {
        containers
            .into_iter()
            .map(|(name, before)| {
                let change = plan.changes.iter().find(|change| change.container == name);
                (name.to_owned(), change.map_or(before, |change| before.overlaid(change.to)))
            })
            .collect()
    }
}

/// `namespace/name` for logs.
pub fn pod_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use optipod_common::decide::Direction;
    use optipod_common::quantity::{Bytes, MilliCpu};

    use super::*;

    fn action() -> Action {
        let to = Resources {
            requests: Amounts { cpu: Some(MilliCpu(120)), memory: Some(Bytes(96 << 20)) },
            limits: Amounts { cpu: Some(MilliCpu(240)), memory: None },
        };
        let change = |container: &str, sidecar, to| ContainerChange {
            container: container.into(),
            sidecar,
            to,
            from: Resources::default(),
            restarts: false,
        };
        let only_cpu = Resources {
            requests: Amounts { cpu: Some(MilliCpu(20)), memory: None },
            limits: Amounts::default(),
        };
        let changes = vec![change("app", false, to), change("proxy", true, only_cpu)];
        Action {
            pod: PodKey { namespace: "default".into(), name: "p".into() },
            uid: "u".into(),
            resource_version: "7".into(),
            plan: Plan { direction: Direction::Decrease, changes },
            expected: BTreeMap::new(),
        }
    }

    #[test]
    fn the_patch_holds_only_what_changes_and_both_fences() {
        assert_eq!(
            patch_body(&action()),
            json!({
                "metadata": {"uid": "u", "resourceVersion": "7"},
                "spec": {
                    "containers": [{"name": "app", "resources": {"requests": {"cpu": "120m", "memory": "96Mi"}, "limits": {"cpu": "240m"}}}],
                    "initContainers": [{"name": "proxy", "resources": {"requests": {"cpu": "20m"}}}],
                },
            })
        );
    }

    #[test]
    fn what_admission_adds_is_seen() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "0.12"}, "limits": {"cpu": "500m"}}}]},
        }))
        .unwrap();
        let wanted = Resources {
            requests: Amounts { cpu: Some(MilliCpu(120)), memory: None },
            limits: Amounts::default(),
        };
        let message = admission_added(&pod, &BTreeMap::from([("app".to_owned(), wanted)])).unwrap();
        assert!(message.contains("500m"), "{message}");
        let with_limit = Resources { limits: Amounts { cpu: Some(MilliCpu(500)), memory: None }, ..wanted };
        assert_eq!(admission_added(&pod, &BTreeMap::from([("app".to_owned(), with_limit)])), None);
    }

    #[test]
    fn refusals_are_told_apart() {
        let status = |code, message: &str| Status { code, message: message.into(), ..Status::default() };
        let cases = [
            (409, "Operation cannot be fulfilled: the object has been modified", Reason::Conflict),
            (404, "pods \"p\" not found", Reason::PodGone),
            (
                422,
                "Pod \"p\" is invalid: metadata.uid: Invalid value: \"u\": field is immutable",
                Reason::PodGone,
            ),
            (
                422,
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
                Reason::Invalid,
            ),
            (
                403,
                "pods \"x\" is forbidden: [minimum cpu usage per Container is 50m, but request is 20m]",
                Reason::LimitRangeViolated,
            ),
            (
                403,
                "pods \"x\" is forbidden: exceeded quota: q, requested: requests.cpu=100m",
                Reason::QuotaExceeded,
            ),
            (
                403,
                "pods \"p\" is forbidden: User \"x\" cannot patch resource \"pods/resize\"",
                Reason::Forbidden,
            ),
            (503, "etcdserver: request timed out", Reason::ApiUnavailable),
            (429, "too many requests", Reason::ApiUnavailable),
        ];
        for (code, message, reason) in cases {
            assert_eq!(refusal(&status(code, message)).reason, reason, "{message}");
        }
    }
}
