//! Tells people: policy statuses and Events. The only writer of both.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Client, Resource, ResourceExt as _};
use optipod_common::decide::{Plan, Reason};
use optipod_common::ident::WorkloadRef;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::FIELD_MANAGER;
use crate::api::Recommendation;
use crate::api::recommendation::{RecommendationSpec, RecommendationStatus, WorkloadTarget};
use crate::api::v1alpha1::{OptimizationPolicy, OptimizationPolicyStatus};
use crate::apply::Refusal;
use crate::engine::{End, Ended, Kept, Purpose, Subject};
use crate::index::{Declared, OwnerObject, PolicyEntry, PolicyKey};
use crate::recommendations;
use crate::status::Problem;

/// The API allows 1024 bytes.
const NOTE_BYTES: usize = 1000;

/// Something that people should know, as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub about: About,
    /// Warning or normal.
    pub warning: bool,
    /// In one word.
    pub reason: String,
    /// What was tried.
    pub action: String,
    /// In words.
    pub note: String,
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A pod, by a policy, and the object of its workload, when it is known and another one.
    Pod(Box<Subject>, Option<OwnerObject>),
    /// A policy and its uid.
    Policy(PolicyKey, String),
}

impl Notice {
    fn pod(subject: &Subject, warning: bool, reason: &str, note: &str) -> Self {
        let action = if subject.purpose == Purpose::Optimise { "Resize" } else { "Revert" };
        let about = About::Pod(Box::new(subject.clone()), None);
        let note = format!("{note}; policy {}", subject.policy);
        Self { about, warning, reason: reason.to_owned(), action: action.to_owned(), note }
    }

    /// It is about this workload, too.
    #[must_use]
    pub fn of(mut self, owner: Option<OwnerObject>) -> Self {
        if let About::Pod(subject, of) = &mut self.about
            && subject.workload.kind != "Pod"
        {
            *of = owner;
        }
        self
    }

    /// The API server accepted a patch.
    pub fn resizing(subject: &Subject, plan: &Plan) -> Self {
        match subject.purpose {
            Purpose::Optimise => Self::pod(subject, false, "Resizing", &plan.to_string()),
            Purpose::Revert(reason) => {
                Self::pod(subject, true, "Reverting", &format!("{plan}; because of {reason}"))
            }
        }
    }

    /// The kubelet has done it.
    pub fn done(ended: &Ended) -> Self {
        let verified =
            if ended.end == End::Done(true) { "" } else { "; not seen in the cgroup (Unverified)" };
        if ended.restarted.is_empty() {
            Self::pod(&ended.subject, false, "Resized", &format!("{}{verified}", ended.plan))
        } else {
            let names = ended.restarted.join(", ");
            Self::pod(
                &ended.subject,
                true,
                "RestartedDuringResize",
                &format!("{}{verified}; restarted: {names}", ended.plan),
            )
        }
    }

    /// The patch was not made.
    pub fn refused(subject: &Subject, plan: &Plan, refusal: &Refusal) -> Self {
        Self::pod(subject, true, refusal.reason.as_str(), &format!("{}; wanted: {plan}", refusal.message))
    }

    /// The kubelet did not do it.
    pub fn failed(subject: &Subject, plan: &Plan, reason: Reason, message: &str) -> Self {
        Self::pod(subject, true, reason.as_str(), &format!("{message}; wanted: {plan}"))
    }

    /// The policy is wrong.
    pub fn invalid_policy(entry: &PolicyEntry, problem: &Problem) -> Self {
        Self {
            about: About::Policy(entry.key.clone(), entry.uid.clone()),
            warning: true,
            reason: problem.reason.clone(),
            action: "Validate".to_owned(),
            note: problem.message.clone(),
        }
    }
}

/// Writes statuses and Events. A failure is never retried here: it is logged, and a policy's status that was not written
/// is written by a later evaluation; those of Recommendations go back to the caller.
#[derive(Clone)]
pub struct Desk {
    client: Client,
    pod_name: String,
}

impl Desk {
    /// A reporter that signs with the name of this pod.
    pub fn new(client: Client, pod_name: &str) -> Self {
        Self { client, pod_name: pod_name.to_owned() }
    }

    /// Replaces the status of a policy.
    pub async fn write_status(&self, key: &PolicyKey, status: &OptimizationPolicyStatus) {
        // the answer is not read beyond its metadata: a policy that cannot be read gets its status, too
        let policies: Api<PartialObjectMeta<OptimizationPolicy>> =
            Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let mut patch = json!({ "status": status });
        // a merge keeps what is not named: the last workload would stay for ever
        if status.workloads.is_empty()
            && let Some(status) = patch.get_mut("status").and_then(Value::as_object_mut)
        {
            status.insert("workloads".to_owned(), json!([]));
        }
        let patch = Patch::Merge(patch);
        match policies.patch_status(&key.name, &params, &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => warn!(policy = %key, %error, "policy status not written"),
        }
    }

    /// Writes a workload's recommendation; creates its object when there is none.
    ///
    /// # Errors
    /// What the API server said, or that it said nothing; a namespace that is gone is none.
    pub async fn write_recommendation(
        &self,
        workload: &WorkloadRef,
        owner: Option<&OwnerObject>,
        status: &RecommendationStatus,
    ) -> Result<(), kube::Error> {
        let objects: Api<Recommendation> = Api::namespaced(self.client.clone(), &workload.namespace);
        let name = recommendations::object_name(workload);
        let mut status = status.clone();
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let create = || async {
            let target = WorkloadTarget { kind: workload.kind.clone(), name: workload.name.clone() };
            let mut object = Recommendation::new(&name, RecommendationSpec { workload: target });
            object.metadata.owner_references = owner.map(|owner| vec![owner.reference(workload)]);
            objects.create(&params, &object).await
        };
        let found = match objects.get_opt(&name).await {
            Ok(Some(stored)) => {
                if let Some(said) = &stored.status {
                    recommendations::merge(&mut status, said);
                }
                if is_about_another(&stored, workload, owner) {
                    let this = Preconditions { uid: stored.metadata.uid.clone(), resource_version: None };
                    let gone = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
                    match objects.delete(&name, &gone).await {
                        Err(kube::Error::Api(status)) if status.code == 404 => create().await,
                        Err(error) => Err(error),
                        Ok(_) => create().await,
                    }
                } else {
                    Ok(stored)
                }
            }
            Ok(None) => create().await,
            Err(error) => Err(error),
        };
        let written = match found {
            // all of it at once: what is not said any more goes away, and its resourceVersion is the fence
            Ok(object) => {
                let object = Recommendation { status: Some(status), ..object };
                objects.replace_status(&name, &params, &object).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        match written {
            // the namespace is going away
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            written => written,
        }
    }

    /// Removes the recommendation of a workload that is gone.
    ///
    /// # Errors
    /// What the API server said, or that it said nothing; an object that is gone is none.
    pub async fn delete_recommendation(&self, workload: &WorkloadRef) -> Result<(), kube::Error> {
        let objects: Api<Recommendation> = Api::namespaced(self.client.clone(), &workload.namespace);
        match objects.delete(&recommendations::object_name(workload), &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the recommendations of workloads that no policy is in charge of any more. Returns what the others say that
    /// their workloads declare.
    ///
    /// # Errors
    /// What the API server said, or that it said nothing.
    pub async fn sweep_recommendations(&self, kept: &Kept) -> Result<Vec<Declared>, kube::Error> {
        let all: Api<Recommendation> = Api::all(self.client.clone());
        let mut declared = Vec::new();
        for object in all.list(&ListParams::default()).await? {
            let WorkloadTarget { kind, name } = object.spec.workload.clone();
            let workload = WorkloadRef { kind, namespace: object.namespace().unwrap_or_default(), name };
            let status = object.status.unwrap_or_default();
            let containers = recommendations::declared(&status);
            let policy = status.policy;
            let policy = policy.map(|policy| PolicyKey { namespace: policy.namespace, name: policy.name });
            if !kept.stays(&workload, policy.as_ref()) {
                info!(%workload, "no policy is in charge of it any more: its recommendation is deleted");
                self.delete_recommendation(&workload).await?;
            } else if !containers.is_empty() {
                declared.push((workload, containers));
            }
        }
        Ok(declared)
    }

    /// Logs the notice and publishes it as an Event.
    pub async fn notify(&self, notice: &Notice) {
        let Notice { about, warning, reason, note, .. } = notice;
        let (regarding, secondary, name) = match about {
            About::Pod(subject, owner) => {
                let (regarding, related) = references(subject, owner.as_ref());
                (regarding, Some(related), format!("{} of {}", subject.pod, subject.workload))
            }
            About::Policy(key, uid) => (policy_reference(key, uid), None, key.to_string()),
        };
        if *warning {
            warn!(about = name, reason, "{note}");
        } else {
            info!(about = name, reason, "{note}");
        }
        let namespace = regarding.namespace.clone().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let event = self.event(notice, regarding, secondary);
        match events.create(&PostParams::default(), &event).await {
            Ok(_) => {}
            // the namespace is going away, and the pod with it
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => warn!(about = name, %error, "Event not published"),
        }
    }

    /// Every notice is an Event of its own. Merging them into series, as event recorders do, would keep the note of the
    /// first only, and the note says which sizes were written. Back-off bounds their number.
    fn event(&self, notice: &Notice, regarding: ObjectReference, related: Option<ObjectReference>) -> Event {
        let now = jiff::Timestamp::now();
        // as client-go does; a generateName may not end with a dot
        let name = regarding.name.as_deref().unwrap_or_default().chars().take(200).collect::<String>();
        let name = format!("{}.{:x}", name.trim_end_matches(['.', '-']), now.as_nanosecond());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(notice.action.clone()),
            event_time: Some(MicroTime(now)),
            note: Some(cut(&notice.note)),
            reason: Some(notice.reason.clone()),
            regarding: Some(regarding),
            related,
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(self.pod_name.clone()),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

fn reference(api_version: &str, kind: &str, namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    }
}

/// It belongs to an earlier object of the workload's name, and is about to go with that one.
fn is_about_another(stored: &Recommendation, workload: &WorkloadRef, owner: Option<&OwnerObject>) -> bool {
    let mut owners = stored.metadata.owner_references.iter().flatten();
    owners.any(|known| {
        let named = known.kind == workload.kind && known.name == workload.name;
        named && owner.is_some_and(|owner| owner.uid != known.uid)
    })
}

/// The pod, and its workload: one Event is about both. A pod that is its own workload has its policy beside it.
fn references(subject: &Subject, owner: Option<&OwnerObject>) -> (ObjectReference, ObjectReference) {
    let pod = reference("v1", "Pod", &subject.pod.namespace, &subject.pod.name, &subject.uid);
    let WorkloadRef { kind, namespace, name } = &subject.workload;
    let related = match owner {
        Some(owner) => reference(&owner.api_version, kind, namespace, name, &owner.uid),
        None => policy_reference(&subject.policy, ""),
    };
    (pod, related)
}

fn policy_reference(key: &PolicyKey, uid: &str) -> ObjectReference {
    let (version, kind) = (OptimizationPolicy::api_version(&()), OptimizationPolicy::kind(&()));
    reference(&version, &kind, &key.namespace, &key.name, uid)
}

fn cut(note: &str) -> String {
    let end =
        note.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= NOTE_BYTES).last();
    note.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_the_pod_and_its_workload() {
        let subject = Subject {
            policy: PolicyKey { namespace: "shop".into(), name: "p".into() },
            workload: WorkloadRef { kind: "Deployment".into(), namespace: "shop".into(), name: "web".into() },
            pod: crate::index::PodKey { namespace: "shop".into(), name: "web-1-a".into() },
            uid: "u".into(),
            purpose: Purpose::Optimise,
        };
        let owner = OwnerObject { api_version: "apps/v1".into(), uid: "d".into() };
        let plan = Plan { direction: optipod_common::decide::Direction::Decrease, changes: Vec::new() };
        let about = |subject: &Subject| {
            let notice = Notice::resizing(subject, &plan).of(Some(owner.clone()));
            assert!(notice.note.ends_with("; policy shop/p"), "{}", notice.note);
            let About::Pod(subject, owner) = notice.about else { panic!("it is about a pod") };
            references(&subject, owner.as_ref())
        };
        let (pod, workload) = about(&subject);
        assert_eq!(pod, reference("v1", "Pod", "shop", "web-1-a", "u"));
        assert_eq!(workload, reference("apps/v1", "Deployment", "shop", "web", "d"));
        let bare = WorkloadRef { kind: "Pod".into(), name: "web-1-a".into(), ..subject.workload.clone() };
        let (_, policy) = about(&Subject { workload: bare, ..subject });
        assert_eq!(policy.kind.as_deref(), Some("OptimizationPolicy"));
    }

    #[test]
    fn a_recommendation_of_an_earlier_object_of_that_name_is_told_from_one_of_this() {
        let workload =
            WorkloadRef { kind: "Deployment".into(), namespace: "shop".into(), name: "web".into() };
        let target = WorkloadTarget { kind: "Deployment".into(), name: "web".into() };
        let owner = |uid: &str| OwnerObject { api_version: "apps/v1".into(), uid: uid.into() };
        let mut stored = Recommendation::new("deployment-web", RecommendationSpec { workload: target });
        let another =
            |stored: &Recommendation, owner: Option<&OwnerObject>| is_about_another(stored, &workload, owner);
        assert!(!another(&stored, Some(&owner("new"))), "it has no owner");
        let somebody = WorkloadRef { kind: "Team".into(), ..workload.clone() };
        let owners = [owner("old").reference(&workload), owner("team").reference(&somebody)];
        stored.metadata.owner_references = Some(owners.to_vec());
        assert!(another(&stored, Some(&owner("new"))));
        assert!(!another(&stored, Some(&owner("old"))));
        assert!(!another(&stored, None));
    }

    #[test]
    fn long_notes_are_cut_at_a_character() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(""), "");
        let cut = cut(&"ä".repeat(1000));
        assert_eq!(cut.len(), 1000);
    }
}
