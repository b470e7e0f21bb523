//! OptiPod's own two programs, as processes of this machine: their pods are bound to simulated nodes by the real
//! scheduler, the chart is the real chart, and what runs is this checkout's binary with the arguments of the pod.
//!
//! ```text
//! arguments.rs   what mounts, variables and names of services would be in a pod, put into the arguments (pure)
//! process.rs     one container: address, token, process, readiness, end
//! containers.rs  the runtime of a node that starts them
//! service.rs     cluster addresses of services, forwarded to ready endpoints
//! ```
//!
//! There is no isolation: processes run as the user of the simulator, share its network namespace, and bind the pod's
//! address, which is put on the loopback interface. Liveness probes are not asked.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::{Client, ResourceExt};
use optipod_common::ident::ContainerId;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::simulated::runtime::{Exit, ExitReason};

mod arguments;
pub mod containers;
mod process;
mod service;

/// Images whose programs are run: end of the repository, name of the binary.
const PROGRAMS: [(&str, &str); 2] =
    [("optipod/agent", "optipod-agent"), ("optipod/coordinator", "optipod-coordinator")];

/// What processes need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the binaries.
    pub binaries: PathBuf,
    /// Folder for logs and credentials.
    pub folder: PathBuf,
    /// URL of the API server.
    pub server: String,
    /// Certificate of its authority, as a kubeconfig has it: PEM in base64.
    pub authority: String,
}

/// A container that is to run as a process.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The pod, as the API server shows it.
    pub pod: Pod,
    /// Which of its containers.
    pub container: Container,
    /// Which start of it.
    pub id: ContainerId,
    /// Address of the pod.
    pub address: Ipv4Addr,
    /// What the node has at `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
}

/// The processes of all simulated nodes.
#[derive(Clone)]
pub struct Programs {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    client: Client,
    runtime: Handle,
    services: service::Services,
    running: Mutex<HashMap<(String, String), Running>>,
    exits: Mutex<Vec<Exit>>,
}

struct Running {
    id: ContainerId,
    ready: Arc<AtomicBool>,
    /// Dropping it stops the process.
    _stop: watch::Sender<()>,
}

impl Programs {
    /// Nothing runs yet. Tasks are spawned on `runtime`.
    pub fn new(settings: Settings, client: Client, runtime: Handle) -> Self {
        let services = service::Services::new(client.clone());
        let (running, exits) = Default::default();
        Self { shared: Arc::new(Shared { settings, client, runtime, services, running, exits }) }
    }

    /// True when containers of this image are processes.
    pub fn runs(&self, image: &str) -> bool {
        binary(image).is_some()
    }

    /// Starts a process; what goes wrong is in its log and is tried again.
    pub fn start(&self, launch: Launch) {
        let Some(binary) = launch.container.image.as_deref().and_then(binary) else { return };
        let key = (launch.pod.uid().unwrap_or_default(), launch.container.name.clone());
        let (stop, stopped) = watch::channel(());
        let (id, ready) = (launch.id, Arc::<AtomicBool>::default());
        let running = Running { id, ready: ready.clone(), _stop: stop };
        lock(&self.shared.running).insert(key.clone(), running);
        let shared = self.shared.clone();
        self.shared.runtime.spawn(async move {
            let code = process::run(&shared, binary, &launch, &ready, stopped).await;
            ready.store(false, Ordering::Relaxed);
            let Some(code) = code else { return };
            let (pod_uid, name) = key.clone();
            let mut running = lock(&shared.running);
            if running.get(&key).is_some_and(|running| running.id == id) {
                running.remove(&key);
                drop(running);
                let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
                lock(&shared.exits).push(Exit { pod_uid, name, id, code, reason });
            }
        });
    }

    /// Whether the process says that it is ready; `None` when this container is not a process.
    pub fn ready(&self, pod_uid: &str, name: &str) -> Option<bool> {
        let key = (pod_uid.to_owned(), name.to_owned());
        lock(&self.shared.running).get(&key).map(|running| running.ready.load(Ordering::Relaxed))
    }

    /// Tells the process to end; it is not reported by [`Self::take_exits`].
    pub fn stop(&self, pod_uid: &str, name: &str) {
        lock(&self.shared.running).remove(&(pod_uid.to_owned(), name.to_owned()));
    }

    /// Tells all processes of a pod to end.
    pub fn stop_pod(&self, pod_uid: &str) {
        lock(&self.shared.running).retain(|(uid, _), _| uid != pod_uid);
    }

    /// Processes that ended by themselves since the last call.
    pub fn take_exits(&self) -> Vec<Exit> {
        std::mem::take(&mut *lock(&self.shared.exits))
    }
}

/// The program of an image such as `ghcr.io/optipod/agent:1.0`.
fn binary(image: &str) -> Option<&'static str> {
    let image = image.split('@').next()?;
    let repository = match image.rsplit_once(':') {
        // a colon before the last slash is that of a port
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    };
    let of =
        |end: &str| repository.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    PROGRAMS.iter().find(|(end, _)| of(end)).map(|(_, binary)| *binary)
}

/// A thread that panicked left nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_optipod_are_known_by_the_end_of_their_repository() {
        for (image, expected) in [
            ("ghcr.io/optipod/agent:1.2", Some("optipod-agent")),
            ("192.0.2.1:5000/optipod/coordinator:abc", Some("optipod-coordinator")),
            ("192.0.2.1:5000/optipod/agent", Some("optipod-agent")),
            ("optipod/agent@sha256:00", Some("optipod-agent")),
            ("notoptipod/agent:1", None),
            ("optipod/agents", None),
            ("lab/load:1", None),
        ] {
            assert_eq!(binary(image), expected, "{image}");
        }
    }
}
