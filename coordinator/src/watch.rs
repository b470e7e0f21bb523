//! Watches of everything that the index needs, as one stream of changes.
//!
//! In: list and watch of the API server. Out: [`Change`]s on a bounded channel: when the receiver is slow, the watches
//! wait. Objects are trimmed to what the index reads before they wait there. No writes.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EphemeralContainer, Namespace, Node, Pod, PodSpec, PodTemplateSpec, ResourceQuota,
    Volume,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use crate::api::OptimizationPolicy;
use crate::index::{
    ANNOTATION_PREFIX, CONFIG_MAP, Change, Delta, EVICTION, LANGUAGE_VARIABLES, Rollout, TRACKING,
    tells_resources,
};

/// Annotation that marks the mirror of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How often the API server is asked whether it knows a kind that may not be installed: as soon as a new custom resource
/// has its first pods, or so.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Watches every kind that the index needs, until the receiver is dropped or the set is. Needs `list` and `watch` on
/// pods, nodes, namespaces, the controllers of `apps` and `batch`, Rollouts, autoscalers, quotas, disruption budgets and
/// policies, and on its own `ConfigMap` in `namespace`.
pub fn spawn(client: &Client, namespace: &str, changes: &Sender<Change>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let mut watch = Watch { client, changes, tasks: &mut tasks };
    watch.kind::<Pod>(Change::Pods, trim_pod);
    watch.kind::<ReplicaSet>(Change::ReplicaSets, |o| {
        trim_meta(&mut o.metadata);
        o.status = None;
        if let Some(template) = o.spec.as_mut().and_then(|s| s.template.as_mut()) {
            trim_template(template);
        }
    });
    watch.kind::<Deployment>(Change::Deployments, |o| {
        trim_meta(&mut o.metadata);
        (o.spec, o.status) = (None, None);
    });
    watch.kind::<StatefulSet>(Change::StatefulSets, |o| {
        trim_meta(&mut o.metadata);
        o.status = None;
        if let Some(spec) = o.spec.as_mut() {
            spec.volume_claim_templates = None;
            trim_template(&mut spec.template);
        }
    });
    watch.kind::<DaemonSet>(Change::DaemonSets, |o| {
        trim_meta(&mut o.metadata);
        o.status = None;
        if let Some(spec) = o.spec.as_mut() {
            trim_template(&mut spec.template);
        }
    });
    watch.kind::<Job>(Change::Jobs, |o| {
        trim_meta(&mut o.metadata);
        o.status = None;
        if let Some(spec) = o.spec.as_mut() {
            trim_template(&mut spec.template);
        }
    });
    watch.kind::<PartialObjectMeta<CronJob>>(Change::CronJobs, |o| trim_meta(&mut o.metadata));
    watch.where_served::<PartialObjectMeta<Rollout>>(Change::Rollouts, |o| trim_meta(&mut o.metadata));
    watch.kind::<Node>(Change::Nodes, |o| {
        trim_meta(&mut o.metadata);
        if let Some(status) = o.status.as_mut() {
            (status.images, status.volumes_attached, status.volumes_in_use) = (None, None, None);
        }
    });
    watch.kind::<Namespace>(Change::Namespaces, |o| {
        trim_meta(&mut o.metadata);
        (o.spec, o.status) = (None, None);
    });
    watch.kind::<DeserializeGuard<OptimizationPolicy>>(Change::Policies, |o| trim_meta(o.meta_mut()));
    watch.kind::<HorizontalPodAutoscaler>(Change::Hpas, |o| {
        trim_meta(&mut o.metadata);
        o.status = None;
    });
    watch.kind::<ResourceQuota>(Change::Quotas, |o| trim_meta(&mut o.metadata));
    watch.kind::<PodDisruptionBudget>(Change::Budgets, |o| {
        trim_meta(&mut o.metadata);
        if let Some(status) = o.status.as_mut() {
            (status.disrupted_pods, status.conditions) = (None, None);
        }
    });
    let settings = Api::namespaced(client.clone(), namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    watch.objects::<ConfigMap>(&settings, &only, Change::Configuration, |o| trim_meta(&mut o.metadata));
    tasks
}

struct Watch<'a> {
    client: &'a Client,
    changes: &'a Sender<Change>,
    tasks: &'a mut JoinSet<()>,
}

impl Watch<'_> {
    fn kind<K>(&mut self, wrap: fn(Delta<K>) -> Change, trim: fn(&mut K))
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.objects(&Api::all(self.client.clone()), &watcher::Config::default(), wrap, trim);
    }

    /// A kind that may not be installed, or later: whether it is served is asked for again and again.
    fn where_served<K>(&mut self, wrap: fn(Delta<K>) -> Change, trim: fn(&mut K))
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (client, changes) = (self.client.clone(), self.changes.clone());
        let api = Api::<K>::all(client.clone());
        self.tasks.spawn(async move {
            while !changes.is_closed() {
                if is_served::<K>(&client).await {
                    tracing::info!(kind = %K::kind(&()), "the kind is served: it is watched");
                    let events = watcher(api.clone(), watcher::Config::default()).default_backoff();
                    tokio::select! {
                        () = follow(events.modify(trim), &changes, wrap) => {}
                        () = until_not_served::<K>(&client) => {}
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                    () = changes.closed() => return,
                }
            }
        });
    }

    fn objects<K>(
        &mut self,
        api: &Api<K>,
        which: &watcher::Config,
        wrap: fn(Delta<K>) -> Change,
        trim: fn(&mut K),
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (api, which, changes) = (api.clone(), which.clone(), self.changes.clone());
        self.tasks.spawn(async move {
            while !changes.is_closed() {
                let events = watcher(api.clone(), which.clone()).default_backoff().modify(trim);
                follow(events, &changes, wrap).await;
                if !changes.is_closed() {
                    tracing::error!(kind = %K::kind(&()), "the watch ended; starting it again");
                }
            }
        });
    }
}

/// The API server knows the kind. Every authenticated client may ask that (`system:discovery`). An API server that does
/// not answer may know it: the watch itself tries again then.
async fn is_served<K: Resource<DynamicType = ()>>(client: &Client) -> bool {
    match client.list_api_group_resources(&K::api_version(&())).await {
        Ok(list) => list.resources.iter().any(|resource| resource.kind == K::kind(&())),
        Err(kube::Error::Api(status)) if status.code == 404 => false,
        Err(_) => true,
    }
}

/// Returns when the kind was removed: its watch would fail for ever.
async fn until_not_served<K: Resource<DynamicType = ()>>(client: &Client) {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        if !is_served::<K>(client).await {
            return;
        }
    }
}

/// Passes on what one watch tells, until it ends or nobody listens.
async fn follow<K: Resource<DynamicType = ()>>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    changes: &Sender<Change>,
    wrap: fn(Delta<K>) -> Change,
) {
    let kind = K::kind(&());
    let mut events = std::pin::pin!(events);
    let mut listed = Vec::new();
    let mut forbidden = false;
    loop {
        let event = tokio::select! {
            () = changes.closed() => return,
            event = events.next() => event,
        };
        let delta = match event {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(%kind, %error, "the watch failed; trying again");
                let Some(why) = refusal(&error).filter(|_| !forbidden) else { continue };
                forbidden = true;
                let change = Change::Forbidden { kind: kind.clone().into_owned(), why: Some(why) };
                if changes.send(change).await.is_err() {
                    return;
                }
                continue;
            }
            Some(Ok(event)) => match event {
                watcher::Event::Init => {
                    listed = Vec::new();
                    continue;
                }
                watcher::Event::InitApply(object) => {
                    listed.push(object);
                    continue;
                }
                watcher::Event::InitDone => Delta::Replace(std::mem::take(&mut listed)),
                watcher::Event::Apply(object) => Delta::Apply(Box::new(object)),
                watcher::Event::Delete(object) => Delta::Delete(Box::new(object)),
            },
        };
        if changes.send(wrap(delta)).await.is_err() {
            return;
        }
        if std::mem::take(&mut forbidden) {
            let change = Change::Forbidden { kind: kind.clone().into_owned(), why: None };
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// What the API server says when the coordinator may not read a kind. Other failures pass by themselves.
fn refusal(error: &watcher::Error) -> Option<String> {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return match error {
            watcher::Error::WatchError(status) if status.code == 403 => Some(status.message.clone()),
            _ => None,
        };
    };
    match error {
        kube::Error::Api(status) if status.code == 403 => Some(status.message.clone()),
        _ => None,
    }
}

fn trim_meta(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = meta.annotations.as_mut() {
        annotations.retain(|key, _| key.starts_with(ANNOTATION_PREFIX));
    }
    meta.finalizers = None;
}

/// Keeps names and resources of the containers.
fn trim_template(template: &mut PodTemplateSpec) {
    template.metadata = None;
    let Some(spec) = template.spec.as_mut() else { return };
    let PodSpec { containers, init_containers, .. } = std::mem::take(spec);
    spec.containers = containers.into_iter().map(trim_container).collect();
    spec.init_containers = init_containers.map(|list| list.into_iter().map(trim_container).collect());
}

fn trim_container(container: Container) -> Container {
    Container { name: container.name, resources: container.resources, ..Container::default() }
}

/// Keeps what the index reads: a list of all pods is held at once, and most of a pod is volumes, probes and environment.
fn trim_pod(pod: &mut Pod) {
    if let Some(entries) = pod.metadata.managed_fields.as_mut() {
        entries.retain(|entry| entry.subresource.as_deref() == Some("resize"));
        for entry in entries {
            entry.fields_v1 = None;
        }
    }
    if let Some(annotations) = pod.metadata.annotations.as_mut() {
        annotations.retain(|key, _| {
            let known = key == MIRROR || key == TRACKING || EVICTION.iter().any(|(name, _)| name == key);
            known || key.starts_with(ANNOTATION_PREFIX)
        });
    }
    pod.metadata.finalizers = None;
    if let Some(spec) = pod.spec.as_mut() {
        let full = std::mem::take(spec);
        let trim = |list: Vec<Container>| list.into_iter().map(trim_pod_container).collect();
        *spec = PodSpec {
            containers: trim(full.containers),
            init_containers: full.init_containers.map(trim),
            ephemeral_containers: full.ephemeral_containers.map(|list| {
                let named = |c: EphemeralContainer| EphemeralContainer { name: c.name, ..Default::default() };
                list.into_iter().map(named).collect()
            }),
            node_name: full.node_name,
            os: full.os,
            priority: full.priority,
            runtime_class_name: full.runtime_class_name,
            overhead: full.overhead,
            volumes: full.volumes.map(|list| list.into_iter().filter(is_of_interest).collect()),
            resources: full.resources,
            ..PodSpec::default()
        };
    }
    if let Some(status) = pod.status.as_mut() {
        (status.pod_ips, status.host_ips, status.ephemeral_container_statuses) = (None, None, None);
    }
}

/// It is in memory, or tells its readers a resource.
fn is_of_interest(volume: &Volume) -> bool {
    let in_memory = volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref() == Some("Memory"));
    in_memory || tells_resources(volume)
}

fn trim_pod_container(container: Container) -> Container {
    let mut env = container.env.unwrap_or_default();
    env.retain(|variable| {
        let coupled = variable.value_from.as_ref().is_some_and(|from| from.resource_field_ref.is_some());
        coupled || LANGUAGE_VARIABLES.contains(&variable.name.as_str())
    });
    for variable in &mut env {
        variable.value = None;
    }
    Container {
        name: container.name,
        resources: container.resources,
        resize_policy: container.resize_policy,
        restart_policy: container.restart_policy,
        volume_mounts: container.volume_mounts,
        env: (!env.is_empty()).then_some(env),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use optipod_common::time::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::index::{Index, PodKey};

    #[test]
    fn a_trimmed_pod_tells_the_same_facts() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "u", "resourceVersion": "1", "generation": 2,
                "labels": {"x": "y"}, "annotations": {MIRROR: "m", TRACKING: "app:/Pod:a/p", "big": "x"}, "finalizers": ["f"],
                "managedFields": [
                    {"manager": "us", "subresource": "resize", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {}}},
                    {"manager": "kubelet", "subresource": "status", "time": "2026-01-01T00:00:00Z"},
                    {"manager": "them", "subresource": "resize", "time": "2026-01-01T00:00:00Z"}]},
            "spec": {"nodeName": "n", "priority": 5, "os": {"name": "windows"}, "resources": {}, "volumes": [{"name": "v"}, {"name": "d", "downwardAPI": {"items": [
                    {"path": "m", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory"}}]}}],
                "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
                "ephemeralContainers": [{"name": "debug", "image": "x"}],
                "containers": [{"name": "c", "image": "x", "resources": {"limits": {"cpu": "1"}},
                    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
                    "env": [{"name": "A", "value": "b"},
                        {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]},
            "status": {"phase": "Running", "observedGeneration": 2, "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "PodResizePending", "status": "True", "reason": "Deferred"}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 1,
                    "allocatedResources": {"cpu": "1"}, "containerID": format!("containerd://{}", "4f".repeat(32))}]},
        }))
        .unwrap();
        let facts = |pod: Pod| {
            let mut index = Index::new("o".into(), vec![], "us");
            index.apply(Change::Pods(Delta::Apply(Box::new(pod))), Timestamp::from_unix_seconds(0));
            let key = PodKey { namespace: "a".into(), name: "p".into() };
            let ids: Vec<_> = index.container_ids(&key).map(|(id, name)| (*id, name.to_owned())).collect();
            (index.facts(&key).unwrap(), ids)
        };
        let mut trimmed = pod.clone();
        trim_pod(&mut trimmed);
        assert!(serde_json::to_string(&trimmed).unwrap().len() < serde_json::to_string(&pod).unwrap().len());
        assert_eq!(facts(trimmed), facts(pod));
    }
}
