//! Plays scenarios in a lab that has a control plane and no nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Node, Pod, ResourceQuota};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, Resource, ResourceExt};
use optipod_coordinator::api::OptimizationPolicy;
use optipod_coordinator::ingest::now;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::coordinator::{OWN_NAMESPACE, Settings};
use super::coordinators::Coordinators;
use super::expect::{Tried, View};
use super::file::{Scenario, WorkloadKind};
use super::fleet::{Fleet, News, Options};
use super::objects::{self, SCENARIO};
use super::report::{Cost, Report, count_resizes, sequences};
use super::service::Service;
use super::tracker::Tracker;
use super::value::Time;
use crate::simulated::clock::Wall;
use crate::simulated::faults::{Board, Fault, Kind};
use crate::simulated::proxy::Proxy;
use crate::{Lab, paths};

/// Real time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Real time that set-up may take before the first coordinator leads.
const LEADS: Duration = Duration::from_secs(60);
/// Real time that set-up may take until all pods are ready, and this more for each.
const READY: (Duration, Duration) = (Duration::from_secs(90), Duration::from_millis(100));
/// Real time for objects that are refused at first: a namespace's account, a quota's count appear a moment later.
const ACCEPTED: Duration = Duration::from_secs(30);
/// Lease of coordinators, real time: a busy machine is no reason to lose it.
const LEASE: Duration = Duration::from_secs(8);
/// Pairs of ports that coordinators take in turn.
const PORT_SETS: u16 = 40;
/// Simulated time after which a lost node is given up: the controller manager's own patience is real time.
const GIVEN_UP: Duration = Duration::from_secs(40);
/// Real time until what is deleted is gone.
const GONE: Duration = Duration::from_secs(60);
/// What scenarios create.
const OURS: &str = "simulated.optipod.io/scenario=yes";
/// Simulated nodes.
const NODES: &str = "optipod.io/simulated=true";
/// Real time between two frames of an agent, at least.
const FRAME: Duration = Duration::from_millis(250);

/// Real time between two lines about how far it is.
const TALK: Duration = Duration::from_secs(10);

/// How far it is, on standard error, now and then.
struct Words {
    last: Option<Instant>,
}

impl Words {
    fn new(talks: bool) -> Self {
        Self { last: talks.then(Instant::now) }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(last) = self.last.as_mut().filter(|last| last.elapsed() >= TALK) {
            *last = Instant::now();
            eprintln!("  {}", line());
        }
    }
}

/// A lab with the chart in it.
pub struct Stage {
    lab: Lab,
    /// May do everything.
    config: Config,
    client: Client,
    /// The chart's service account.
    identity: Config,
    /// Scenarios played.
    played: AtomicU16,
    /// Says on standard error how far it is.
    talks: bool,
}

impl Stage {
    /// Installs the chart; the lab's network must have been entered.
    ///
    /// # Errors
    /// When the chart cannot be installed.
    pub async fn new(lab: Lab) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(lab.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config.clone())?;
        let chart = paths::workspace().join("deploy/chart").to_string_lossy().into_owned();
        // what the chart would run is not what runs here: its rights and its types are what is needed
        lab.helm(&[
            "upgrade",
            "--install",
            "optipod",
            &chart,
            "--namespace",
            OWN_NAMESPACE,
            "--create-namespace",
            "--set",
            "telemetry.insecurePlaintext=true",
            "--set",
            "coordinator.replicas=1",
            "--set",
            "coordinator.nodeSelector.simulated\\.optipod\\.io/coordinator=none",
            "--set",
            "agent.nodeSelector.simulated\\.optipod\\.io/agent=none",
        ])?;
        let token = lab.kubectl(&["create", "token", "optipod-coordinator", "--namespace", OWN_NAMESPACE])?;
        let mut identity = config.clone();
        identity.auth_info = serde_json::from_value(json!({ "token": token.trim() }))?;
        Ok(Self { lab, config, client, identity, played: AtomicU16::new(0), talks: false })
    }

    /// Says on standard error how far it is.
    #[must_use]
    pub fn talking(self) -> Self {
        Self { talks: true, ..self }
    }

    /// Plays a scenario from nothing to its end, and cleans up.
    ///
    /// # Errors
    /// When it could not be played. Expectations that did not hold are in the report.
    pub async fn play(&self, scenario: &Scenario) -> Result<Report> {
        self.clean().await?;
        let played = self.play_in_clean(scenario).await;
        let cleaned = self.clean().await;
        let report = played?;
        cleaned.map(|()| report)
    }

    async fn play_in_clean(&self, scenario: &Scenario) -> Result<Report> {
        let begin = (Instant::now(), cpu_time()?);
        let mut faults: Vec<Fault> = Vec::new();
        for entry in &scenario.faults {
            faults.extend(entry.faults()?);
        }
        let board = Board::new(faults, scenario.seed);
        let proxy = Proxy::start(&self.config, self.client.clone(), board.clone()).await?;
        let wall = Wall::new(now());
        // at the speed of real time every second as the product does, and never too often for this machine
        let interval = Duration::from_secs((FRAME * scenario.speed).as_secs().clamp(1, 15));
        let settings = Settings { lease: LEASE, frame_interval: interval, clock: wall.clock() };
        let coordinators = Coordinators::start(
            self.ports(),
            scenario.coordinators,
            settings,
            proxy.config(&self.identity)?,
        )?;
        let service = Service::start(coordinators.addresses()).await?;
        until_led(&coordinators).await?;
        let folder = self.cgroups();
        let options = Options {
            scenario,
            board: board.clone(),
            client: self.client.clone(),
            folder: &folder,
            coordinator: service.address().to_string(),
            frame_interval: interval,
            wall,
        };
        let (fleet, news) = Fleet::start(options).await?;
        let (pods, _watch) = self.watch_pods();
        let mut play = Play {
            stage: self,
            scenario,
            board,
            proxy,
            coordinators,
            fleet,
            news,
            pods,
            resizes: BTreeMap::new(),
            seen: 0,
            events: Vec::new(),
            tasks: JoinSet::new(),
        };
        play.set_up().await?;
        let setup = begin.0.elapsed();
        let (tracker, simulated, real) = play.run().await?;
        let changes = play.proxy.traffic().changes();
        let generated = |namespace: &str, pod: &str| {
            let workloads = scenario.workloads.iter().filter(|w| w.kind == WorkloadKind::Deployment);
            let mut of =
                workloads.filter(|w| w.namespace == namespace && pod.starts_with(&format!("{}-", w.name)));
            of.next().map(|w| w.name.clone())
        };
        let report = Report {
            about: scenario.about.clone(),
            tracker,
            events: play.events,
            requests: play.proxy.traffic().counts(),
            resizes: play.resizes,
            cost: Cost {
                nodes: scenario.node_count(),
                pods: scenario.pod_count(),
                simulated,
                real,
                setup,
                cpu: cpu_time()?.saturating_sub(begin.1),
                peak_resident: peak_resident()?,
                speed: scenario.speed,
            },
            sequences: sequences(&changes, generated),
        };
        // first the others: they would say that nodes are gone
        drop(play.coordinators);
        play.fleet.stop().await?;
        Ok(report)
    }

    /// Ports that the coordinators of the scenario before do not hold: a killed one closes its own a moment later.
    fn ports(&self) -> u16 {
        self.played.fetch_add(1, Ordering::Relaxed) % PORT_SETS * 2
    }

    fn cgroups(&self) -> PathBuf {
        self.lab.instance().folder().join("scenario-cgroups")
    }

    /// Pods of scenarios as they change, while the set lives.
    fn watch_pods(&self) -> (Store<Pod>, JoinSet<()>) {
        let (store, writer) = reflector::store();
        let api: Api<Pod> = Api::all(self.client.clone());
        let watched = watcher(api, watcher::Config::default().labels(SCENARIO)).default_backoff();
        let watched = watched.modify(|pod| pod.metadata.managed_fields = None).reflect(writer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut watched = std::pin::pin!(watched);
            while watched.next().await.is_some() {}
        });
        (store, tasks)
    }

    /// Takes away what a scenario left. Policies first, so that nothing is resized on the way.
    async fn clean(&self) -> Result<()> {
        let client = &self.client;
        remove::<OptimizationPolicy>(client, "").await?;
        remove::<Deployment>(client, OURS).await?;
        remove::<StatefulSet>(client, OURS).await?;
        remove::<LimitRange>(client, OURS).await?;
        remove::<ResourceQuota>(client, OURS).await?;
        let begin = Instant::now();
        // the controllers may not have seen yet that their owners are gone
        while remove::<Pod>(client, OURS).await? > 0 {
            if begin.elapsed() > GONE {
                bail!("pods of an earlier scenario are still there after {} s", GONE.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Api::<Node>::all(client.clone()).delete_collection(&at_once(), &selected(NODES)).await?;
        Api::<PriorityClass>::all(client.clone()).delete_collection(&at_once(), &selected(OURS)).await?;
        let leases: Api<Lease> = Api::namespaced(client.clone(), OWN_NAMESPACE);
        leases.delete_collection(&at_once(), &ListParams::default()).await?;
        self.clean_namespaces().await?;
        let folder = self.cgroups();
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", folder.display()))
            }
            _ => Ok(()),
        }
    }

    async fn clean_namespaces(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let begin = Instant::now();
        loop {
            let left = namespaces.list_metadata(&selected(OURS)).await?.items;
            if left.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > GONE {
                bail!("namespaces of an earlier scenario are still there after {} s", GONE.as_secs());
            }
            for namespace in left.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
                namespaces.delete(&namespace.name_any(), &at_once()).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Creates objects, as a person would; a refusal that passes within seconds is waited out.
    async fn apply(&self, objects: Vec<Value>) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let begin = Instant::now();
        loop {
            let (lab, list) = (self.lab.clone(), list.clone());
            let apply = move || {
                let args =
                    ["apply", "--server-side", "--field-manager=scenario", "--validate=strict", "-f", "-"];
                lab.kubectl_with_input(&args, &list)
            };
            match tokio::task::spawn_blocking(apply).await? {
                Err(error) if begin.elapsed() > ACCEPTED => return Err(error),
                Err(_) => tokio::time::sleep(LOOK).await,
                Ok(_) => return Ok(()),
            }
        }
    }
}

fn at_once() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() }
}

fn selected(labels: &str) -> ListParams {
    if labels.is_empty() { ListParams::default() } else { ListParams::default().labels(labels) }
}

/// Deletes objects with these labels in all namespaces; how many there were.
async fn remove<K>(client: &Client, labels: &str) -> Result<usize>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let found = Api::<K>::all(client.clone()).list_metadata(&selected(labels)).await?.items;
    let count = found.len();
    let namespaces: BTreeSet<String> =
        found.into_iter().filter_map(|object| object.metadata.namespace).collect();
    for namespace in namespaces {
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        api.delete_collection(&at_once(), &selected(labels)).await?;
    }
    Ok(count)
}

/// A scenario under way.
struct Play<'a> {
    stage: &'a Stage,
    scenario: &'a Scenario,
    board: Board,
    proxy: Proxy,
    coordinators: Coordinators,
    fleet: Fleet,
    news: News,
    pods: Store<Pod>,
    resizes: BTreeMap<(String, String), Tried>,
    /// Changes that are counted in `resizes`.
    seen: usize,
    events: Vec<(Duration, String)>,
    tasks: JoinSet<()>,
}

impl Play<'_> {
    /// Creates everything that is there before time zero, and waits until all pods are ready.
    async fn set_up(&mut self) -> Result<()> {
        let Self { stage, scenario, .. } = self;
        let first: Vec<Value> =
            objects::namespaces(scenario).into_iter().chain(objects::priority_classes(scenario)).collect();
        stage.apply(first).await?;
        let before = scenario.objects.iter().filter(|entry| entry.at.is_none());
        stage.apply(before.map(|entry| objects::marked(entry.value())).collect()).await?;
        stage.apply(scenario.workloads.iter().flat_map(objects::workload).collect()).await?;
        let begin = Instant::now();
        let mut words = Words::new(stage.talks);
        let (fixed, each) = READY;
        let wanted = usize::try_from(scenario.pod_count())?;
        let patience = fixed + each * u32::try_from(wanted)?;
        loop {
            self.fleet.check()?;
            let state = self.pods.state();
            let ready = state.iter().filter(|pod| objects::ready(pod)).count();
            if ready == wanted {
                return Ok(());
            }
            words.say(|| format!("{ready} of {wanted} pods are ready"));
            if begin.elapsed() > patience {
                let waiting = state.iter().find(|pod| !objects::ready(pod));
                let example =
                    waiting.map(|pod| format!("; for example {}: {:?}", pod.name_any(), pod.status));
                bail!(
                    "{ready} of {wanted} pods are ready after {} s{}",
                    patience.as_secs(),
                    example.unwrap_or_default()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// From time zero to the end; how it was decided, and how much simulated and real time it took.
    async fn run(&mut self) -> Result<(Tracker, Duration, Duration)> {
        let mut tracker = Tracker::new(self.scenario.expect.clone(), self.scenario.duration.0);
        let policies = self.scenario.policies.iter().map(|entry| (entry.at.unwrap_or_default(), entry));
        let objects = self.scenario.objects.iter().filter_map(|entry| Some((entry.at?, entry)));
        let mut waiting: Vec<_> = policies.chain(objects).collect();
        waiting.sort_by_key(|(at, _)| *at);
        waiting.reverse();
        let begin = Instant::now();
        let mut words = Words::new(self.stage.talks);
        self.fleet.begin();
        loop {
            self.fleet.check()?;
            let now = self.fleet.now();
            while let Some((_, entry)) = waiting.pop_if(|(at, _)| at.0 <= now) {
                let object = objects::marked(entry.value());
                let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let event = format!("{} {} is created", text("/kind"), text("/metadata/name"));
                self.stage.apply(vec![object]).await?;
                self.events.push((self.fleet.now(), event));
            }
            while let Ok((number, kind)) = self.news.try_recv() {
                self.happens(number, &kind).await;
            }
            for name in self.coordinators.restart()? {
                self.events.push((self.fleet.now(), format!("{name} is started")));
            }
            // what is seen is from after this moment
            let look = Instant::now();
            let now = self.fleet.now();
            let view = self.view().await?;
            tracker.look(now, &view);
            words.say(|| {
                let resized = view.pods.iter().filter(|pod| pod.resized()).count();
                let (open, all) = (tracker.open(), self.scenario.expect.len());
                format!(
                    "{}: {resized} of {} pods are resized; {open} of {all} expectations are open",
                    Time(now),
                    view.pods.len()
                )
            });
            if tracker.decided() || now >= self.scenario.duration.0 {
                return Ok((tracker, now, begin.elapsed()));
            }
            // thousands of pods take a while to look at, and the machine is needed for other things
            tokio::time::sleep(LOOK.max(look.elapsed() * 4)).await;
        }
    }

    /// A fault began.
    async fn happens(&mut self, number: usize, kind: &Kind) {
        let mut event = format!("fault {number}: {}", describe(kind));
        match kind {
            Kind::WatchCut { resources, .. } => self.proxy.cut_watches(resources),
            Kind::LeaderKilled => {
                let name = self.coordinators.kill_leader().await;
                event = format!("{event}: {}", name.as_deref().unwrap_or("nobody leads"));
            }
            Kind::NodeLost(nodes) => {
                let lost = (1..=self.scenario.node_count()).map(|number| format!("sim-{number}"));
                for name in lost.filter(|name| nodes.contain(name)) {
                    let (board, client) = (self.board.clone(), self.stage.client.clone());
                    let patience = GIVEN_UP / self.scenario.speed;
                    self.tasks.spawn(give_up(name, board, client, patience));
                }
            }
            _ => {}
        }
        self.events.push((self.fleet.now(), event));
    }

    async fn view(&mut self) -> Result<View> {
        let changes = self.proxy.traffic().changes_since(self.seen);
        self.seen += changes.len();
        count_resizes(&changes, &mut self.resizes);
        let pods = self.pods.state();
        let pods = pods.iter().filter_map(|pod| objects::seen(pod, self.scenario)).collect();
        let api: Api<OptimizationPolicy> = Api::all(self.stage.client.clone());
        let policies = api.list(&ListParams::default()).await?.items;
        let policies = policies.into_iter().map(|p| (p.name_any(), p.status.unwrap_or_default())).collect();
        let metrics = match self.coordinators.leader().await {
            Some((leader, _)) => leader.metrics().await.unwrap_or_default(),
            None => String::new(),
        };
        Ok(View { pods, policies, resizes: self.resizes.clone(), metrics })
    }
}

/// What the controller manager does with a node that does not renew its lease, in simulated time.
async fn give_up(name: String, board: Board, client: Client, patience: Duration) {
    tokio::time::sleep(patience).await;
    if !board.node_lost(&name) {
        return;
    }
    let unknown = json!({
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.",
    });
    let patch = Patch::Strategic(json!({"status": {"conditions": [unknown]}}));
    let nodes: Api<Node> = Api::all(client);
    if let Err(error) = nodes.patch_status(&name, &PatchParams::default(), &patch).await {
        tracing::warn!(%error, node = %name, "node status");
    }
}

fn describe(kind: &Kind) -> String {
    let list = |names: &[String]| if names.is_empty() { "all".to_owned() } else { names.join(", ") };
    match kind {
        Kind::Resize { fault, .. } => format!("resizes are {fault:?}"),
        Kind::NodeLost(nodes) => format!("nodes are lost: {}", list(&nodes.0)),
        Kind::AgentLost(nodes) => format!("agents are lost: {}", list(&nodes.0)),
        Kind::AgentClock { nodes, offset_micros } => {
            format!("clocks are off by {} s: {}", offset_micros / 1_000_000, list(&nodes.0))
        }
        Kind::CountersReset(_) => "counters start again".to_owned(),
        Kind::Evicted(_) => "pods are evicted".to_owned(),
        Kind::Api { fault, share, .. } => format!("API server: {fault:?} for {}%", share.value() * 100.0),
        Kind::WatchCut { resources, gone } => {
            format!("watches break{}: {}", if *gone { ", version gone" } else { "" }, list(resources))
        }
        Kind::Conflict(_) => "somebody else changes pods".to_owned(),
        Kind::LeaderKilled => "the leader is killed".to_owned(),
    }
}

async fn until_led(coordinators: &Coordinators) -> Result<()> {
    let begin = Instant::now();
    while coordinators.leader().await.is_none() {
        if begin.elapsed() > LEADS {
            bail!("no coordinator leads after {} s", LEADS.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// CPU time of this process.
fn cpu_time() -> Result<Duration> {
    let stat = procfs::process::Process::myself()?.stat()?;
    Ok(Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64))
}

/// Most memory that this process had resident, bytes.
fn peak_resident() -> Result<u64> {
    let status = procfs::process::Process::myself()?.status()?;
    Ok(status.vmhwm.context("the kernel does not tell the peak of resident memory")? * 1024)
}

/// Plays the scenario of a file in the lab that `OPTIPOD_LAB` names and prints the report; the sequences of resizes go
/// to `sequences`. True when all expectations held. Call it on the main thread, before any runtime starts.
///
/// # Errors
/// When it could not be played.
pub fn play_file(file: &Path, sequences: Option<&Path>) -> Result<bool> {
    let scenario = Scenario::read(file)?;
    let name = std::env::var("OPTIPOD_LAB").context("OPTIPOD_LAB does not name a lab")?;
    let lab = Lab::attach(&name)?;
    lab.enter()?;
    let log = lab.instance().log("scenario");
    let log = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(log)).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let stage = Stage::new(lab).await.context("cannot prepare the cluster")?.talking();
        stage.play(&scenario).await
    })?;
    print!("{report}");
    if let Some(path) = sequences {
        std::fs::write(path, &report.sequences)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.passed())
}
