//! One container as a process: address, token, arguments, readiness, end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, ServiceAccount};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::arguments::{arguments, environment, services};
use super::{Launch, Settings, Shared};

/// Between two looks at readiness; also between two tries of a start that failed.
const POLL: Duration = Duration::from_secs(1);
/// What the chart's probes allow.
const PROBE: Duration = Duration::from_secs(1);
/// From SIGTERM to SIGKILL, for pods that say nothing.
const GRACE_SECONDS: i64 = 30;
/// The lab is not kept longer than that.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// Runs the process to its end; its exit code, or `None` when it was told to stop.
pub async fn run(
    shared: &Shared,
    binary: &str,
    launch: &Launch,
    ready: &AtomicBool,
    mut stopped: watch::Receiver<()>,
) -> Option<i32> {
    let name = format!("{}-{}", launch.pod.name_any(), launch.container.name);
    let log = shared.settings.folder.join(format!("{name}.log"));
    let credentials = shared.settings.folder.join(format!("{name}.kubeconfig"));
    let mut child = loop {
        let started = tokio::select! {
            started = start(shared, binary, launch, &log, &credentials) => started,
            _ = stopped.changed() => return None,
        };
        match started {
            Ok(child) => break child,
            Err(error) => note(&log, &format!("not started: {error:#}")),
        }
        tokio::select! { () = sleep(POLL) => {}, _ = stopped.changed() => return None }
    };
    let code = tokio::select! {
        ended = child.wait() => Some(ended.ok().and_then(|status| status.code()).unwrap_or(1)),
        _ = stopped.changed() => None,
        () = probe(launch, ready) => None,
    };
    if code.is_none() {
        end(&mut child, launch).await;
    }
    // what was put there by `start`
    drop(fs::remove_file(&credentials));
    drop(network("del", launch.address).await);
    code
}

async fn start(
    shared: &Shared,
    binary: &str,
    launch: &Launch,
    log: &Path,
    credentials: &PathBuf,
) -> Result<Child> {
    let Launch { pod, container, address, cgroup_root, .. } = launch;
    network("replace", *address).await?;
    let mut addresses = BTreeMap::new();
    for service in services(container) {
        let address = shared.services.address(&service).await?;
        addresses.insert(service, address);
    }
    let program = shared.settings.binaries.join(binary);
    ensure!(program.exists(), "no {}: `cargo lab images` builds it", program.display());
    // it must not outlive the simulator, however that ends
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command.args(arguments(pod, container, *address, cgroup_root, &addresses)?);
    command.envs(environment(pod, container, *address)?);
    if pod.spec.as_ref().is_none_or(|spec| spec.automount_service_account_token != Some(false)) {
        write_credentials(shared, launch, credentials).await?;
        command.env("KUBECONFIG", credentials);
    }
    let output = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {binary}"))
}

/// As the projected volume of a pod: a token of its service account, bound to the pod.
async fn write_credentials(shared: &Shared, launch: &Launch, file: &PathBuf) -> Result<()> {
    let pod = &launch.pod;
    let namespace = pod.namespace().unwrap_or_default();
    let account =
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
    };
    let spec = TokenRequestSpec {
        audiences: None,
        bound_object_ref: Some(bound),
        expiration_seconds: Some(TOKEN_SECONDS),
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(shared.client.clone(), &namespace);
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let status = answer.with_context(|| format!("no token for {namespace}/{account}"))?.status;
    let token = status.context("an answer without token")?.token;
    let Settings { server, authority, .. } = &shared.settings;
    let cluster = json!({"server": server, "certificate-authority-data": authority});
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "pod", "user": {"token": token}}],
        "contexts": [{"name": "pod", "context": {"cluster": "lab", "user": "pod", "namespace": namespace}}],
        "current-context": "pod",
    });
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(file)?;
    file.write_all(kubeconfig.to_string().as_bytes())?;
    Ok(())
}

/// Looks at the readiness probe for ever.
async fn probe(launch: &Launch, ready: &AtomicBool) {
    let probe = launch.container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref());
    loop {
        let holds = match probe {
            Some(action) => asked(&launch.container, action, launch.address).await.unwrap_or(false),
            None => true,
        };
        ready.store(holds, Ordering::Relaxed);
        sleep(POLL).await;
    }
}

async fn asked(container: &Container, action: &HTTPGetAction, address: Ipv4Addr) -> Result<bool> {
    let port = match &action.port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports
                .find(|port| port.name.as_ref() == Some(name))
                .context("no port of that name")?
                .container_port
        }
    };
    let target = SocketAddrV4::new(address, u16::try_from(port)?);
    let path = action.path.as_deref().unwrap_or("/");
    let ask = async {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer.starts_with(b"HTTP/1.") && answer.get(9) == Some(&b'2'))
    };
    timeout(PROBE, ask).await?
}

async fn end(child: &mut Child, launch: &Launch) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    // it may have ended in this moment
    let _ = kill_process(pid, Signal::TERM);
    let spec = launch.pod.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE_SECONDS);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
    if timeout(grace, child.wait()).await.is_err() {
        drop(child.kill().await);
    }
}

/// Puts an address on the loopback interface, or takes it away.
pub async fn network(verb: &str, address: Ipv4Addr) -> Result<()> {
    let address = format!("{address}/32");
    let args = ["address", verb, address.as_str(), "dev", "lo"];
    let done = Command::new("ip").args(args).output().await.context("cannot start `ip`")?;
    ensure!(
        done.status.success(),
        anyhow!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr))
    );
    Ok(())
}

/// A line of the simulator's in the log of the process.
fn note(log: &Path, text: &str) {
    let file = File::options().create(true).append(true).open(log);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "simulator: {text}")) {
        tracing::warn!(log = %log.display(), %error, text, "no log");
    }
}
