//! Everything that the API showed of the pods and Events of a namespace.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::task::JoinHandle;

/// Nothing here takes longer, also on an emulated node under load.
const PATIENCE: Duration = Duration::from_secs(150);
/// A status is settled when it stays so long; kubelets look at their runtime about every second.
const QUIET: Duration = Duration::from_secs(4);

/// Versions of objects in the order in which they were shown.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Of pods.
    pub pods: Vec<Value>,
    /// Of Events.
    pub events: Vec<Value>,
}

/// A watch that goes on in the background.
pub struct Recorder {
    history: Arc<Mutex<(History, Instant)>>,
    tasks: [JoinHandle<()>; 2],
}

impl Recorder {
    /// Records what happens in a namespace from now on.
    pub fn start(client: &Client, namespace: &str) -> Self {
        let history = Arc::new(Mutex::new((History::default(), Instant::now())));
        let pods = record(api::<Pod>(client, namespace), history.clone(), |history| &mut history.pods);
        let events = record(api::<Event>(client, namespace), history.clone(), |history| &mut history.events);
        Self { history, tasks: [tokio::spawn(pods), tokio::spawn(events)] }
    }

    fn lock(&self) -> MutexGuard<'_, (History, Instant)> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version of a pod.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let named = |pod: &&Value| pod["metadata"]["name"] == name;
        self.lock().0.pods.iter().rev().find(named).cloned()
    }

    /// Waits until no pod and no Event changed for a while.
    pub async fn settled(&self) {
        loop {
            let since = self.lock().1.elapsed();
            match QUIET.checked_sub(since) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }

    /// Ends the watch.
    pub fn stop(self) -> History {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.lock().0.clone()
    }
}

fn api<K: kube::Resource<DynamicType = ()>>(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<K>(&()))
}

async fn record(
    api: Api<DynamicObject>,
    history: Arc<Mutex<(History, Instant)>>,
    list: fn(&mut History) -> &mut Vec<Value>,
) {
    let mut changes = pin!(watcher(api, watcher::Config::default()));
    while let Some(change) = changes.next().await {
        let (object, gone) = match change {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => (object, false),
            Ok(watcher::Event::Delete(object)) => (object, true),
            // the watch starts again by itself; a gap would show as a difference
            Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => continue,
        };
        let known = object.resource_version();
        let Ok(mut value) = serde_json::to_value(object) else { continue };
        if gone {
            value["gone"] = Value::Bool(true);
        }
        let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = list(&mut history.0);
        let version = |value: &Value| value["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        if gone || !versions.iter().any(|old| version(old) == known) {
            versions.push(value);
            history.1 = Instant::now();
        }
    }
}

/// Asks again until there is an answer.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    mut probe: impl FnMut() -> F,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = probe().await.with_context(|| what.to_owned())? {
            return Ok(answer);
        }
        if begin.elapsed() > PATIENCE {
            bail!("waited {} s until {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
