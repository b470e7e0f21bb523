//! Between the fleet and the API server: one watch of all bound pods, status patches, Events, final deletions.
//!
//! A pod has at most one write under way; what changes meanwhile goes into its next patch, as with the kubelet's status
//! manager. The number of writes under way is bounded, for statuses and Events apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use optipod_common::ident::ContainerId;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::Now;
use super::containers::container_id;
use super::events::Notice;
use super::fleet::{Fleet, Work};
use super::patch::difference;
use super::pod::Stage;
use super::status::status;

/// Status patches and deletions under way at once: more only queue up in the API server of a small machine.
const STATUS_WRITES: usize = 16;
/// Events under way at once.
const EVENT_WRITES: usize = 8;
/// A refused write is tried again after this time.
const RETRY: Duration = Duration::from_millis(500);

/// Which Events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Events {
    /// All that a kubelet writes.
    All,
    /// About resizes and warnings only: for many pods.
    Resizes,
}

/// What was written so far.
#[derive(Debug, Default)]
pub struct Writes {
    /// Status patches.
    pub statuses: AtomicU64,
    /// Events made or counted up.
    pub events: AtomicU64,
    /// Final deletions.
    pub deletions: AtomicU64,
    /// Refused, and tried again.
    pub errors: AtomicU64,
}

/// The kubelets of this process. Clones are the same.
#[derive(Clone)]
pub struct Kubelets(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Notify,
    writes: Writes,
}

struct State {
    fleet: Fleet,
    work: Work,
    now: Now,
}

impl Kubelets {
    /// These nodes, at this time.
    pub fn new(fleet: Fleet, now: Now) -> Self {
        let state = Mutex::new(State { fleet, work: Work::default(), now });
        Self(Arc::new(Inner { state, changed: Notify::new(), writes: Writes::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // every change is complete in itself, so a panic elsewhere leaves nothing half done
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, act: impl FnOnce(&mut Fleet, Now, &mut Work)) {
        let mut state = self.lock();
        let State { fleet, work, now } = &mut *state;
        act(fleet, *now, work);
        let waiting = !work.dirty.is_empty() || !work.notices.is_empty();
        drop(state);
        if waiting {
            self.0.changed.notify_one();
        }
    }

    /// It is `now`: does what is due. Whoever owns the clock calls this.
    pub fn advance(&self, now: Now) {
        self.lock().now = now;
        self.change(Fleet::tick);
    }

    /// A container ended by itself, with this code and reason.
    pub fn exited(&self, pod: &str, container: (&str, ContainerId), ended: (i32, &'static str)) {
        self.change(|fleet, now, work| fleet.exited(pod, container, ended, now, work));
    }

    /// These nodes stand still; all others run.
    pub fn lose(&self, nodes: BTreeSet<String>) {
        self.change(|fleet, now, work| fleet.lose(nodes, now, work));
    }

    /// Ends a pod because its node is short of something.
    pub fn evict(&self, pod: &str, message: &str) {
        self.change(|fleet, now, work| fleet.evict(pod, message, now, work));
    }

    /// True while the node stands still.
    pub fn is_lost(&self, node: &str) -> bool {
        self.lock().fleet.is_lost(node)
    }

    /// Looks at the nodes.
    pub fn look<T>(&self, at: impl FnOnce(&Fleet) -> T) -> T {
        at(&self.lock().fleet)
    }

    /// What was written so far.
    pub fn writes(&self) -> &Writes {
        &self.0.writes
    }
}

/// Serves the pods of all nodes until the watch fails for good.
pub async fn run(kubelets: Kubelets, client: Client, events: Events) -> Result<()> {
    let api: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields("spec.nodeName!=");
    let trimmed = watcher(api, config).modify(|pod| pod.metadata.managed_fields = None);
    let mut pods = pin!(trimmed.default_backoff());
    let mut writer = Writer::new(kubelets.clone(), client, events);
    let mut listed = None;
    loop {
        tokio::select! {
            event = pods.next() => match event {
                None => bail!("the watch of pods ended"),
                Some(Err(error)) => warn!(%error, "watch of pods"),
                Some(Ok(event)) => take(&kubelets, event, &mut listed, &mut writer),
            },
            () = kubelets.0.changed.notified() => {}
            Some(done) = writer.statuses.join_next() => writer.written(done?),
            Some(done) = writer.events.join_next() => done?,
        }
        writer.start();
    }
}

fn take(
    kubelets: &Kubelets,
    event: watcher::Event<Pod>,
    listed: &mut Option<BTreeSet<String>>,
    writer: &mut Writer,
) {
    match event {
        watcher::Event::Init => *listed = Some(BTreeSet::new()),
        watcher::Event::InitApply(pod) => {
            if let Some(listed) = listed {
                listed.extend(pod.uid());
            }
            kubelets.change(|fleet, now, work| fleet.apply(pod, now, work));
        }
        watcher::Event::InitDone => {
            if let Some(listed) = listed.take() {
                kubelets.change(|fleet, now, work| fleet.retain(&listed, now, work));
            }
        }
        watcher::Event::Apply(pod) => kubelets.change(|fleet, now, work| fleet.apply(pod, now, work)),
        watcher::Event::Delete(pod) => {
            let uid = pod.uid().unwrap_or_default();
            writer.told.remove(&uid);
            kubelets.change(|fleet, now, work| fleet.remove(&uid, now, work));
        }
    }
}

/// A write about a pod.
enum Job {
    Patch { name: String, namespace: String, patch: Value },
    Delete { name: String, namespace: String },
}

/// The outcome of a write about the pod of that UID.
struct Written {
    uid: String,
    pod: Option<Pod>,
    again: bool,
}

/// Names and numbers of the Events about a pod.
type Told = BTreeMap<(String, String, String), (String, i32)>;

struct Writer {
    kubelets: Kubelets,
    client: Client,
    which: Events,
    queue: VecDeque<String>,
    queued: BTreeSet<String>,
    /// Pods with a write under way; true: there is more to write.
    under_way: BTreeMap<String, bool>,
    statuses: JoinSet<Written>,
    said: VecDeque<(String, String, Notice)>,
    told: BTreeMap<String, Told>,
    events: JoinSet<()>,
}

impl Writer {
    fn new(kubelets: Kubelets, client: Client, which: Events) -> Self {
        Self {
            kubelets,
            client,
            which,
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            under_way: BTreeMap::new(),
            statuses: JoinSet::new(),
            said: VecDeque::new(),
            told: BTreeMap::new(),
            events: JoinSet::new(),
        }
    }

    fn enqueue(&mut self, uid: String) {
        if let Some(more) = self.under_way.get_mut(&uid) {
            *more = true;
        } else if self.queued.insert(uid.clone()) {
            self.queue.push_back(uid);
        }
    }

    /// Starts as many writes as may be under way.
    fn start(&mut self) {
        let Work { dirty, notices } = std::mem::take(&mut self.kubelets.lock().work);
        for uid in dirty {
            self.enqueue(uid);
        }
        let all = self.which == Events::All;
        let wanted =
            |notice: &Notice| all || notice.kind.is_about_resize() || notice.kind.severity() == "Warning";
        self.said.extend(notices.into_iter().filter(|(_, _, notice)| wanted(notice)));
        while self.statuses.len() < STATUS_WRITES {
            let Some(uid) = self.queue.pop_front() else { break };
            self.queued.remove(&uid);
            if let Some(job) = self.job(&uid) {
                self.under_way.insert(uid.clone(), false);
                self.statuses.spawn(write(self.client.clone(), self.kubelets.clone(), uid, job));
            }
        }
        while self.events.len() < EVENT_WRITES {
            let Some((node, uid, notice)) = self.said.pop_front() else { break };
            self.tell(&node, &uid, &notice);
        }
    }

    fn written(&mut self, Written { uid, pod, again }: Written) {
        let more = self.under_way.remove(&uid).unwrap_or(false);
        let changed = pod.is_some();
        if let Some(mut pod) = pod {
            pod.metadata.managed_fields = None;
            self.kubelets.change(|fleet, now, work| fleet.apply(pod, now, work));
        }
        // after the last status of a pod comes its deletion
        if more || again || changed {
            self.enqueue(uid);
        }
    }

    /// What is to be written about a pod now.
    fn job(&self, uid: &str) -> Option<Job> {
        let state = self.kubelets.lock();
        let (node, pod) = state.fleet.pod(uid)?;
        if state.fleet.is_lost(&node.setup.node) {
            return None;
        }
        let (namespace, name) = pod.names();
        let shown = serde_json::to_value(&pod.object.status).unwrap_or_default();
        let deleted = pod.object.metadata.deletion_timestamp.is_some();
        // whoever ended before this process began keeps the status that it has
        let earlier = pod.stage == Stage::Ended && pod.kept.is_none();
        let phase = pod.object.status.as_ref().and_then(|status| status.phase.as_deref());
        let known = matches!(phase, Some("Succeeded" | "Failed")) && earlier;
        match difference(&shown, &status(node, pod, state.now)) {
            Some(change) if !known => {
                let patch = json!({"metadata": {"uid": uid}, "status": change});
                Some(Job::Patch { name, namespace, patch })
            }
            _ => (deleted && pod.finished()).then_some(Job::Delete { name, namespace }),
        }
    }

    fn tell(&mut self, node: &str, uid: &str, notice: &Notice) {
        let (namespace, name, now) = {
            let state = self.kubelets.lock();
            let Some((_, pod)) = state.fleet.pod(uid) else { return };
            let (namespace, name) = pod.names();
            (namespace, name, state.now)
        };
        let key = (
            notice.kind.reason().to_owned(),
            notice.message.clone(),
            notice.field.clone().unwrap_or_default(),
        );
        let told = self.told.entry(uid.to_owned()).or_default();
        let number = told.len().to_string();
        let (event, count) = told.entry(key).or_insert_with(|| {
            let id = container_id(0, &[uid, &number]).to_string();
            (format!("{name}.{}", id.get(..16).unwrap_or_default()), 0)
        });
        *count += 1;
        let (event, count) = (event.clone(), *count);
        let body = event_body(node, uid, (&namespace, &name), (&event, count), notice, now);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let kubelets = self.kubelets.clone();
        self.events.spawn(async move {
            let result = if count == 1 {
                match serde_json::from_value(body) {
                    Ok(body) => api.create(&PostParams::default(), &body).await.map(drop),
                    Err(error) => Err(kube::Error::SerdeError(error)),
                }
            } else {
                let patch = json!({"count": body.get("count"), "lastTimestamp": body.get("lastTimestamp")});
                api.patch(&event, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            };
            // nothing depends on an Event; a namespace that goes away takes none
            match result {
                Ok(()) => drop(kubelets.writes().events.fetch_add(1, Ordering::Relaxed)),
                Err(error) => debug!(%error, %event, "event"),
            }
        });
    }
}

fn event_body(
    node: &str,
    uid: &str,
    (namespace, pod): (&str, &str),
    (name, count): (&str, i32),
    notice: &Notice,
    now: Now,
) -> Value {
    let second = k8s_openapi::jiff::Timestamp::from_second(now.wall.as_second()).unwrap_or(now.wall);
    let time = second.to_string();
    let about = json!({
        "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod, "uid": uid,
        "fieldPath": notice.field,
    });
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": about,
        "reason": notice.kind.reason(),
        "message": notice.message,
        "type": notice.kind.severity(),
        "count": count,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet",
        "reportingInstance": node,
    })
}

async fn write(client: Client, kubelets: Kubelets, uid: String, job: Job) -> Written {
    let writes = kubelets.writes();
    let result = match &job {
        Job::Patch { name, namespace, patch } => {
            let api: Api<Pod> = Api::namespaced(client, namespace);
            let patched = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            writes.statuses.fetch_add(1, Ordering::Relaxed);
            patched.map(Some)
        }
        Job::Delete { name, namespace } => {
            let api: Api<Pod> = Api::namespaced(client, namespace);
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            writes.deletions.fetch_add(1, Ordering::Relaxed);
            api.delete(name, &now).await.map(|_| None)
        }
    };
    match result {
        Ok(pod) => Written { uid, pod, again: false },
        // it is gone, or another one has its name
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
            debug!(%uid, %status, "write about a pod");
            Written { uid, pod: None, again: false }
        }
        Err(error) => {
            warn!(%uid, %error, "write about a pod");
            writes.errors.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY).await;
            Written { uid, pod: None, again: true }
        }
    }
}
