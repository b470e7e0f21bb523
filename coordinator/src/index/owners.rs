//! Controllers of pods: who is at the top, what its labels are, what the pod template declares.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use optipod_common::ident::{ContainerId, WorkloadRef};
use optipod_common::resources::Resources;
use optipod_common::time::Timestamp;

use super::overrides::Overrides;
use super::pods::{PodRecord, resources_of};
use super::rollout::Rollout;
use super::{Declared, Delta, Index, Listed, OwnerObject};

/// Kinds of controllers that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    ReplicaSet,
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    /// Of Argo Rollouts, where its kind is served.
    Rollout,
}

impl OwnerKind {
    /// Group and version, and name of the kind.
    const fn api(self) -> (&'static str, &'static str) {
        match self {
            Self::ReplicaSet => ("apps/v1", "ReplicaSet"),
            Self::Deployment => ("apps/v1", "Deployment"),
            Self::StatefulSet => ("apps/v1", "StatefulSet"),
            Self::DaemonSet => ("apps/v1", "DaemonSet"),
            Self::Job => ("batch/v1", "Job"),
            Self::CronJob => ("batch/v1", "CronJob"),
            Self::Rollout => ("argoproj.io/v1alpha1", "Rollout"),
        }
    }

    /// Its template is the one that its pods came from, when it is their controller.
    const fn has_template(self) -> bool {
        !matches!(self, Self::Deployment | Self::CronJob | Self::Rollout)
    }

    fn of(api_version: &str, kind: &str) -> Option<Self> {
        let all = [
            Self::ReplicaSet,
            Self::Deployment,
            Self::StatefulSet,
            Self::DaemonSet,
            Self::Job,
            Self::CronJob,
            Self::Rollout,
        ];
        all.into_iter().find(|known| known.api() == (api_version, kind))
    }

    /// Its own controller, if it has one, is the workload: `ReplicaSet` > `Deployment` or `Rollout`, `Job` > `CronJob`.
    /// Other controllers are workloads themselves, also when a custom resource owns them: what two of one database use
    /// must not be mixed.
    const fn is_intermediate(self) -> bool {
        matches!(self, Self::ReplicaSet | Self::Job)
    }
}

/// A controller reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// When it is a kind that is watched.
    pub watched: Option<OwnerKind>,
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
}

impl Link {
    /// The controller of an object. A node is none: it "owns" static pods.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let owner = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))?;
        (owner.kind != "Node" || owner.api_version != "v1").then(|| Self {
            watched: OwnerKind::of(&owner.api_version, &owner.kind),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        })
    }

    fn is_intermediate(&self) -> bool {
        self.watched.is_some_and(OwnerKind::is_intermediate)
    }
}

/// What is kept of a controller.
#[derive(Debug)]
pub struct Owner {
    /// The workload that it is, unless it is between one and its pods.
    top: Option<WorkloadRef>,
    controller: Option<Link>,
    labels: BTreeMap<String, String>,
    overrides: Overrides,
    /// Resources of the pod template by container; empty where they are not asked for.
    template: BTreeMap<String, Resources>,
}

impl Owner {
    fn new(kind: OwnerKind, meta: &ObjectMeta, template: Option<&PodTemplateSpec>) -> Self {
        let spec = template.and_then(|t| t.spec.as_ref());
        let containers =
            spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
        let controller = Link::of(meta);
        let top = (!kind.is_intermediate() || controller.is_none()).then(|| WorkloadRef {
            kind: kind.api().1.to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        });
        Self {
            top,
            controller,
            labels: meta.labels.clone().unwrap_or_default(),
            overrides: Overrides::new(meta.annotations.as_ref()),
            template: containers
                .map(|c| (c.name.clone(), declared_of(resources_of(c.resources.as_ref()))))
                .collect(),
        }
    }
}

/// What a template declares. A limit without a request declares the request too: the API server copies it into every
/// pod (`SetDefaults_Pod`), whereas templates keep the gap. What a LimitRange adds to pods is not declared: the owner
/// did not ask for it, so relative bounds and ratios have nothing to hold on to there, and where the owner states
/// nothing else, recommendations are bounded by absolute bounds only.
fn declared_of(template: Resources) -> Resources {
    Resources { requests: template.limits.overlaid(template.requests), limits: template.limits }
}

/// A kind of controller that is watched.
pub trait Controller {
    const KIND: OwnerKind;
    fn meta(&self) -> &ObjectMeta;
    fn template(&self) -> Option<&PodTemplateSpec>;
}

macro_rules! controllers {
    ($($kind:ident: |$object:ident| $template:expr;)*) => {
        $(impl Controller for $kind {
            const KIND: OwnerKind = OwnerKind::$kind;
            fn meta(&self) -> &ObjectMeta {
                kube::Resource::meta(self)
            }
            fn template(&self) -> Option<&PodTemplateSpec> {
                let $object = self;
                $template
            }
        })*
    };
}
controllers! {
    ReplicaSet: |o| o.spec.as_ref()?.template.as_ref();
    // the ReplicaSet's template is the one that its pods came from
    Deployment: |_o| None;
    StatefulSet: |o| o.spec.as_ref().map(|s| &s.template);
    DaemonSet: |o| o.spec.as_ref().map(|s| &s.template);
    Job: |o| o.spec.as_ref().map(|s| &s.template);
}

/// Kinds of which the metadata is enough: the template that their pods came from is that of what is in between.
macro_rules! metadata_only {
    ($($kind:ident)*) => {
        $(impl Controller for PartialObjectMeta<$kind> {
            const KIND: OwnerKind = OwnerKind::$kind;
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn template(&self) -> Option<&PodTemplateSpec> {
                None
            }
        })*
    };
}
metadata_only! { CronJob Rollout }

/// Controllers by uid.
#[derive(Debug, Default)]
pub struct Owners {
    by_uid: HashMap<OwnerKind, HashMap<String, Owner>>,
    /// Those that are workloads: kind and uid.
    by_name: BTreeMap<WorkloadRef, (OwnerKind, String)>,
    /// Rollouts were listed: their kind is served here.
    rollouts: bool,
}

impl Owners {
    fn get(&self, link: &Link) -> Option<&Owner> {
        self.by_uid.get(&link.watched?)?.get(&link.uid)
    }

    /// An object that was not seen will be: its kind is watched, and is served here.
    fn is_seen(&self, link: &Link) -> bool {
        link.watched.is_some_and(|kind| kind != OwnerKind::Rollout || self.rollouts)
    }

    /// The object of a workload that is watched.
    pub fn named(&self, workload: &WorkloadRef) -> Option<OwnerObject> {
        let (kind, uid) = self.by_name.get(workload)?;
        Some(OwnerObject { api_version: kind.api().0.to_owned(), uid: uid.clone() })
    }

    /// All workloads whose objects are watched.
    pub fn tops(&self) -> impl Iterator<Item = &WorkloadRef> {
        self.by_name.keys()
    }

    /// The object of the workload that a pod belongs to; `None` when it is the pod itself, or was not seen.
    pub fn object_of(&self, pod: &PodRecord) -> Option<OwnerObject> {
        let link = pod.controller.as_ref()?;
        let above = if link.is_intermediate() { self.get(link)?.controller.as_ref() } else { None };
        let top = above.unwrap_or(link);
        Some(OwnerObject { api_version: top.api_version.clone(), uid: top.uid.clone() })
    }

    fn put(&mut self, kind: OwnerKind, uid: &str, owner: Owner) -> Option<Owner> {
        if let Some(top) = &owner.top {
            self.by_name.insert(top.clone(), (kind, uid.to_owned()));
        }
        self.by_uid.entry(kind).or_default().insert(uid.to_owned(), owner)
    }

    fn remove(&mut self, kind: OwnerKind, uid: &str) -> Option<Owner> {
        let owner = self.by_uid.get_mut(&kind)?.remove(uid)?;
        // another object of its name may be there already
        if let Some(top) = &owner.top
            && self.by_name.get(top).is_some_and(|(_, known)| known == uid)
        {
            self.by_name.remove(top);
        }
        Some(owner)
    }

    /// The workload of a pod; `None` while an object between them was not seen.
    pub fn workload(&self, namespace: &str, pod: &str, controller: Option<&Link>) -> Option<WorkloadRef> {
        let named = |kind: &str, name: &str| {
            let (kind, namespace, name) = (kind.to_owned(), namespace.to_owned(), name.to_owned());
            WorkloadRef { kind, namespace, name }
        };
        match controller {
            None => Some(named("Pod", pod)),
            Some(link) if link.is_intermediate() => {
                let top = self.get(link)?.controller.as_ref().unwrap_or(link);
                Some(named(&top.kind, &top.name))
            }
            Some(link) => Some(named(&link.kind, &link.name)),
        }
    }

    /// Labels that a workload selector looks at: of the highest controller that is watched, else of the pod. `None`
    /// while that controller was not seen.
    pub fn labels<'a>(&'a self, pod: &'a PodRecord) -> Option<&'a BTreeMap<String, String>> {
        self.top(pod).map(|top| top.map_or(&*pod.labels, |owner| &owner.labels))
    }

    /// What the same object says by annotation.
    pub fn overrides<'a>(&'a self, pod: &'a PodRecord) -> Option<&'a Overrides> {
        self.top(pod).map(|top| top.map_or(&pod.overrides, |owner| &owner.overrides))
    }

    /// The highest controller of a pod that is watched; `Some(None)` = there is none, the pod speaks for itself; `None` =
    /// it was not seen.
    #[allow(clippy::option_option, reason = "not there and not seen are two answers")]
    fn top(&self, pod: &PodRecord) -> Option<Option<&Owner>> {
        let Some(link) = pod.controller.as_ref().filter(|link| self.is_seen(link)) else {
            return Some(None);
        };
        let direct = self.get(link)?;
        match direct.controller.as_ref().filter(|top| link.is_intermediate() && self.is_seen(top)) {
            Some(top) => self.get(top).map(Some),
            None => Some(Some(direct)),
        }
    }
}

impl Index {
    pub(super) fn apply_owners<K: Controller>(
        &mut self,
        delta: Delta<K>,
        now: Timestamp,
    ) -> Vec<ContainerId> {
        match delta {
            Delta::Apply(object) => self.put_owner(&*object, now),
            Delta::Delete(object) => {
                let uid = object.meta().uid.as_deref().unwrap_or_default();
                self.remove_owner(K::KIND, uid, now);
                Vec::new()
            }
            Delta::Replace(objects) => {
                let kept: BTreeSet<&str> = objects.iter().filter_map(|o| o.meta().uid.as_deref()).collect();
                let known = self.owners.by_uid.entry(K::KIND).or_default();
                let lost: Vec<String> =
                    known.keys().filter(|uid| !kept.contains(uid.as_str())).cloned().collect();
                for uid in lost {
                    self.remove_owner(K::KIND, &uid, now);
                }
                if K::KIND == OwnerKind::Rollout {
                    self.owners.rollouts = true;
                } else {
                    self.listed.insert(Listed::Owners(K::KIND));
                }
                objects.iter().flat_map(|object| self.put_owner(object, now)).collect()
            }
        }
    }

    fn put_owner<K: Controller>(&mut self, object: &K, now: Timestamp) -> Vec<ContainerId> {
        let Some(uid) = object.meta().uid.clone() else { return Vec::new() };
        let owner = Owner::new(K::KIND, object.meta(), object.template());
        let controller = owner.controller.clone();
        let old = self.owners.put(K::KIND, &uid, owner);
        let same = old.is_some_and(|old| old.controller == controller);
        if same || !K::KIND.is_intermediate() { Vec::new() } else { self.resolve_pods_of(&uid, now) }
    }

    fn remove_owner(&mut self, kind: OwnerKind, uid: &str, now: Timestamp) {
        if self.owners.remove(kind, uid).is_some() && kind.is_intermediate() {
            self.resolve_pods_of(uid, now);
        }
    }

    /// The pods of a controller whose own owner became known, changed, or is known no more.
    fn resolve_pods_of(&mut self, uid: &str, now: Timestamp) -> Vec<ContainerId> {
        let keys: Vec<_> = self.by_controller.get(uid).into_iter().flatten().cloned().collect();
        keys.iter().flat_map(|key| self.resolve(key, now)).collect()
    }

    /// Finds the workload of a pod anew.
    pub(super) fn resolve(&mut self, key: &super::PodKey, now: Timestamp) -> Vec<ContainerId> {
        let Some(record) = self.pods.get_mut(key) else { return Vec::new() };
        let found = self.owners.workload(&key.namespace, &key.name, record.controller.as_ref());
        let old = record.workload.take();
        if let Some(old) = &old {
            if let Some(pods) = self.workloads.get_mut(old) {
                pods.remove(key);
                if pods.is_empty() {
                    self.workloads.remove(old);
                }
            }
            if found.is_none() {
                for (id, name) in &record.ids {
                    let origin = super::pods::origin(&self.nodes, record, old, (Some(id), name));
                    self.containers.bury(*id, origin, now);
                }
            }
        }
        let Some(found) = found else { return Vec::new() };
        let found = match self.workloads.get_key_value(&found) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(found),
        };
        if !record.finished {
            self.workloads.entry(Arc::clone(&found)).or_default().insert(key.clone());
        }
        record.workload = Some(found);
        if old.is_none() { record.ids.iter().map(|(id, _)| *id).collect() } else { Vec::new() }
    }

    /// What the owner declares for a container; `None` = nobody can tell. Without a template that names it (pods without
    /// owner, owners of kinds that are not watched, containers that admission put in) it is what the pod was created
    /// with: what it has until we resize it, what it had then, what a sibling has that was not resized, or what was
    /// told of the workload before.
    pub(super) fn declared(&self, pod: &PodRecord, container: &str, desired: Resources) -> Option<Resources> {
        if let Some(link) =
            pod.controller.as_ref().filter(|link| link.watched.is_some_and(OwnerKind::has_template))
        {
            let template = &self.owners.get(link)?.template;
            if let Some(declared) = template.get(container) {
                return Some(*declared);
            }
        }
        if pod.facts.last_resize.is_none() {
            return Some(desired);
        }
        let named = |list: &[(String, Resources)]| {
            list.iter().find(|(name, _)| name == container).map(|(_, declared)| *declared)
        };
        named(&pod.created)
            .or_else(|| self.of_sibling(pod, container))
            .or_else(|| named(self.told.get(pod.workload.as_deref()?)?))
    }

    /// What a pod of the same revision and workload has, which was not resized.
    fn of_sibling(&self, pod: &PodRecord, container: &str) -> Option<Resources> {
        let siblings = self.workloads.get(pod.workload.as_deref()?)?.iter();
        let mut unresized = siblings.filter_map(|key| self.pods.get(key)).filter(|sibling| {
            sibling.facts.last_resize.is_none() && sibling.facts.revision == pod.facts.revision
        });
        let same = |sibling: &PodRecord| {
            sibling.facts.containers.iter().find(|c| c.name == container).map(|c| c.desired)
        };
        unresized.find_map(same)
    }

    /// What an earlier leader said that the containers of a workload declare. Kept where nobody else can tell; true then.
    pub fn told(&mut self, (workload, declared): Declared) -> bool {
        let pods = self.workloads.get(&workload).into_iter().flatten().filter_map(|key| self.pods.get(key));
        let unknown = pods
            .flat_map(|pod| pod.facts.containers.iter().map(move |c| (pod, c)))
            .any(|(pod, container)| self.declared(pod, &container.name, container.desired).is_none());
        if unknown {
            self.told.insert(workload, declared);
        }
        unknown
    }
}
