//! A node of plain files, an API server of JSON values and a kubelet that does what a test says, around the real
//! sampler and the real engine. Time moves when the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use optipod_agent::discover::Discovery;
use optipod_agent::metrics::Metrics as AgentMetrics;
use optipod_agent::sampler::{Now, Sampler, SamplerOptions};
use optipod_common::decide::{ContainerChange, Reason};
use optipod_common::frame::Frame;
use optipod_common::ident::WorkloadRef;
use optipod_common::resources::Amounts;
use optipod_common::time::Timestamp;
use optipod_coordinator::FIELD_MANAGER;
use optipod_coordinator::api::recommendation::RecommendationStatus;
use optipod_coordinator::api::v1alpha1::{OptimizationPolicyStatus, WorkloadStatus};
use optipod_coordinator::apply::{Accepted, Refusal};
use optipod_coordinator::engine::{Effect, Engine, Purpose, Request};
use optipod_coordinator::index::{Change, Delta, PolicyKey};
use optipod_coordinator::ingest::Ingest;
use optipod_coordinator::metrics::Metrics;
use optipod_coordinator::report::Notice;
use optipod_proto::v1;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::support::{applied, container_id, engine, nothing_exists, object, pod_uid};

pub const NODE: &str = "node-1";
pub const MEBIBYTE: u64 = 1 << 20;
const FRAME_INTERVAL: Duration = Duration::from_secs(15);
const EPOCH: u64 = 1_700_000_000_000_000;

/// How the kubelet takes a resize.
#[derive(Clone, Debug)]
pub enum Reaction {
    /// It is done within the second, and the cgroup has it.
    Done,
    /// Nothing at all.
    Ignored,
    /// `PodResizePending` with this reason.
    Pending(&'static str),
    /// `PodResizeInProgress` with reason `Error`.
    Error,
}

/// What a workload wants to use.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    pub millicores: u64,
    pub memory: u64,
}

pub struct Pod {
    pub json: Value,
    /// In the order of the spec.
    containers: Vec<Process>,
}

/// What runs in a container.
struct Process {
    demand: Demand,
    cgroup: PathBuf,
    used_micros: u64,
    periods: u64,
    throttled: u64,
}

type Kubelet = Box<dyn FnMut(&Request) -> Reaction>;
type ApiServer = Box<dyn FnMut(&Request) -> Option<Refusal>>;

pub struct World {
    root: TempDir,
    sampler: Sampler,
    hertz: u32,
    monotonic: Duration,
    start: Timestamp,
    pub now: Timestamp,
    pub engine: Engine,
    pub metrics: Metrics,
    /// Frames that the agent's ring holds.
    ring: Vec<Frame>,
    /// What the watches would list, but for pods.
    objects: Vec<Change>,
    pub pods: BTreeMap<String, Pod>,
    /// When, and what.
    pub requests: Vec<(Duration, Request)>,
    pub notices: Vec<(Duration, Notice)>,
    pub statuses: BTreeMap<PolicyKey, OptimizationPolicyStatus>,
    pub recommendations: BTreeMap<WorkloadRef, RecommendationStatus>,
    pub kubelet: Kubelet,
    pub refuse: ApiServer,
    /// A pod that the watch is behind of: it says nothing about it.
    pub behind: Option<String>,
    pub dry_run: bool,
    made: u8,
}

impl World {
    pub fn new() -> Self {
        Self::with_hertz(1)
    }

    pub fn with_hertz(hertz: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::create_dir_all(root.path().join("kubepods.slice/kubepods-burstable.slice")).unwrap();
        let agent_metrics = Arc::new(AgentMetrics::new(10));
        let options = SamplerOptions {
            epoch: EPOCH,
            hertz,
            frame_interval: FRAME_INTERVAL,
            cpu_budget_millicores: 0,
            reading_clock: None,
        };
        let sampler = Sampler::new(options, Discovery::new(root.path()).unwrap(), agent_metrics);
        let metrics = Metrics::new().unwrap();
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let mut world = Self {
            root,
            sampler,
            hertz,
            monotonic: Duration::from_secs(1000),
            start,
            now: start,
            engine: engine(&metrics, FRAME_INTERVAL, false),
            metrics,
            ring: Vec::new(),
            objects: Vec::new(),
            pods: BTreeMap::new(),
            requests: Vec::new(),
            notices: Vec::new(),
            statuses: BTreeMap::new(),
            recommendations: BTreeMap::new(),
            kubelet: Box::new(|_| Reaction::Done),
            refuse: Box::new(|_| None),
            behind: None,
            dry_run: false,
            made: 0,
        };
        for namespace in ["default", "kube-system", super::support::OWN_NAMESPACE] {
            world.put(Change::Namespaces(applied(&json!({"metadata": {"name": namespace}}))));
        }
        world.put(Change::Nodes(applied(&json!({
            "metadata": {"name": NODE},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))));
        world.start_coordinator();
        world
    }

    /// A coordinator that knows nothing becomes the leader, lists the cluster and gets what agents hold.
    pub fn start_coordinator(&mut self) {
        self.metrics = Metrics::new().unwrap();
        self.engine = engine(&self.metrics, FRAME_INTERVAL, self.dry_run);
        for change in nothing_exists().into_iter().chain(self.objects.clone()) {
            self.engine.on_change(change, self.now);
        }
        let pods: Vec<Change> = self.pods.values().map(|pod| Change::Pods(applied(&pod.json))).collect();
        for change in pods {
            self.engine.on_change(change, self.now);
        }
        self.engine.on_leadership(true, self.now);
        let (resume, mut resumed) = oneshot::channel();
        let oldest = self.ring.first().map_or(0, |frame| frame.sequence);
        self.engine
            .on_ingest(Ingest::Connected { node: NODE.to_owned(), epoch: EPOCH, oldest, resume }, self.now);
        assert_eq!(resumed.try_recv(), Ok(1));
        for frame in self.ring.clone() {
            self.deliver(&frame);
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.now.since(self.start)
    }

    /// An object other than a pod.
    pub fn put(&mut self, change: Change) {
        self.objects.push(change.clone());
        self.engine.on_change(change, self.now);
    }

    /// A policy is deleted.
    pub fn delete_policy(&mut self, namespace: &str, name: &str) {
        self.put(Change::Policies(Delta::Delete(Box::new(object(&json!({
            "apiVersion": "optipod.io/v1alpha1",
            "kind": "OptimizationPolicy",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {},
        }))))));
    }

    /// A policy with these fields over the settings that tests share.
    pub fn policy(&mut self, namespace: &str, name: &str, spec: &Value) {
        let mut merged = json!({
            "mode": "Auto",
            "metricsConfig": {"rollingWindow": "2m"},
            "strategy": {"type": "Percentile"},
            "updateStrategy": {"cooldown": "0s"},
            "reconciliationInterval": "10s",
        });
        merge(&mut merged, spec);
        self.put(Change::Policies(applied(&json!({
            "apiVersion": "optipod.io/v1alpha1",
            "kind": "OptimizationPolicy",
            "metadata": {
                "namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"),
                "resourceVersion": "1", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": merged,
        }))));
    }

    /// A Deployment with one running pod. Returns the pod's name.
    pub fn deployment(&mut self, namespace: &str, name: &str, resources: &Value, demand: Demand) -> String {
        let template = json!({"spec": {"containers": [{"name": "app", "resources": resources}]}});
        let spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template});
        self.put(Change::Deployments(applied(&json!({
            "metadata": {"namespace": namespace, "name": name, "uid": format!("d-{name}"), "labels": {"app": name}},
            "spec": spec,
        }))));
        self.put(Change::ReplicaSets(applied(&json!({
            "metadata": {
                "namespace": namespace, "name": format!("{name}-1"), "uid": format!("r-{name}"),
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": format!("d-{name}"), "controller": true}],
            },
            "spec": spec,
        }))));
        self.pod_of(namespace, name, resources, demand)
    }

    /// One more pod of a Deployment.
    pub fn pod_of(&mut self, namespace: &str, name: &str, resources: &Value, demand: Demand) -> String {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-1"),
            "uid": format!("r-{name}"), "controller": true}]);
        self.pod(namespace, name, &owner, resources, demand)
    }

    /// One run of a CronJob, with its pod. Returns the pod's name.
    pub fn run_of(&mut self, namespace: &str, name: &str, resources: &Value, demand: Demand) -> String {
        let run = format!("{name}-{}", self.made);
        self.put(Change::CronJobs(applied(
            &json!({"metadata": {"namespace": namespace, "name": name, "uid": format!("c-{name}")}}),
        )));
        self.put(Change::Jobs(applied(&json!({
            "metadata": {
                "namespace": namespace, "name": run, "uid": format!("j-{run}"),
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": format!("c-{name}"), "controller": true}],
            },
            "spec": {"template": {"spec": {"containers": [{"name": "app", "resources": resources}]}}},
        }))));
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": run,
            "uid": format!("j-{run}"), "controller": true}]);
        self.pod(namespace, &run, &owner, resources, demand)
    }

    /// A running pod with these owners and one container `app`.
    pub fn pod(
        &mut self,
        namespace: &str,
        name: &str,
        owners: &Value,
        resources: &Value,
        demand: Demand,
    ) -> String {
        self.pod_with(namespace, name, owners, &[("app", resources, demand)])
    }

    /// A running pod with these owners and containers.
    pub fn pod_with(
        &mut self,
        namespace: &str,
        name: &str,
        owners: &Value,
        containers: &[(&str, &Value, Demand)],
    ) -> String {
        let pod = self.made + 1;
        let uid = pod_uid(pod);
        let pod_name = format!("{name}-1-{pod}");
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        let pod_cgroup = self.root.path().join("kubepods.slice/kubepods-burstable.slice").join(slice);
        let (mut processes, mut specs, mut statuses) = (Vec::new(), Vec::new(), Vec::new());
        for &(container, resources, demand) in containers {
            self.made += 1;
            let id = container_id(self.made);
            let cgroup = pod_cgroup.join(format!("cri-containerd-{id}.scope"));
            for dir in [&pod_cgroup, &cgroup] {
                new_cgroup(dir);
            }
            processes.push(Process { demand, cgroup, used_micros: 0, periods: 0, throttled: 0 });
            specs.push(json!({"name": container, "resources": resources}));
            statuses.push(json!({
                "name": container, "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
                "containerID": format!("containerd://{id}"), "state": {"running": {}},
                "resources": resources, "allocatedResources": resources["requests"],
            }));
        }
        let json = json!({
            "metadata": {
                "namespace": namespace, "name": pod_name, "uid": uid, "resourceVersion": "1", "generation": 1,
                "ownerReferences": owners,
            },
            "spec": {"nodeName": NODE, "containers": specs},
            "status": {
                "phase": "Running", "observedGeneration": 1, "conditions": [], "containerStatuses": statuses,
            },
        });
        self.pods.insert(pod_name.clone(), Pod { json, containers: processes });
        self.actuate(&pod_name);
        self.tell(&pod_name);
        pod_name
    }

    /// From now on the first container of a pod wants to use this.
    pub fn demand(&mut self, pod: &str, demand: Demand) {
        self.pods.get_mut(pod).unwrap().containers[0].demand = demand;
    }

    /// Changes a pod and tells the watch.
    pub fn change(&mut self, pod: &str, change: impl FnOnce(&mut Value)) {
        let json = &mut self.pods.get_mut(pod).unwrap().json;
        change(json);
        let version: u64 = json["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        json["metadata"]["resourceVersion"] = (version + 1).to_string().into();
        self.tell(pod);
    }

    fn tell(&mut self, pod: &str) {
        if self.behind.as_deref() == Some(pod) {
            return;
        }
        self.engine.on_change(Change::Pods(applied(&self.pods[pod].json)), self.now);
    }

    /// The kernel kills the first container for memory; it goes on at once.
    pub fn kill_for_memory(&self, pod: &str) {
        fs::write(self.pods[pod].containers[0].cgroup.join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
    }

    /// Tasks of the node have stalled for memory for so many microseconds altogether.
    pub fn stall_for_memory(&self, micros: u64) {
        let line = format!("avg10=0.00 avg60=0.00 avg300=0.00 total={micros}\n");
        fs::write(self.root.path().join("memory.pressure"), format!("some {line}full {line}")).unwrap();
    }

    /// Writes a file of the cgroup of a pod's container.
    pub fn write_file(&self, pod: &str, file: &str, content: &str) {
        fs::write(self.pods[pod].containers[0].cgroup.join(file), content).unwrap();
    }

    /// The pod is gone, with its cgroup.
    pub fn delete(&mut self, pod: &str) {
        let gone = self.pods.remove(pod).unwrap();
        let delta = optipod_coordinator::index::Delta::Delete(Box::new(super::support::object(&gone.json)));
        self.engine.on_change(Change::Pods(delta), self.now);
        fs::remove_dir_all(gone.containers[0].cgroup.parent().unwrap()).unwrap();
    }

    /// Lets the time pass.
    pub fn run(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.second();
        }
    }

    fn second(&mut self) {
        let period = Duration::from_secs(1) / self.hertz;
        for _ in 0..self.hertz {
            self.monotonic += period;
            self.now = self.now + period;
            self.use_resources(period);
            let now = Now { monotonic: self.monotonic, wall: self.now, own_cpu: Duration::ZERO };
            if let Some(frame) = self.sampler.tick(now) {
                self.deliver(&frame);
                self.ring.push(frame);
            }
        }
        let effects = self.engine.tick(self.now);
        self.carry_out(effects);
    }

    fn use_resources(&mut self, period: Duration) {
        for pod in self.pods.values_mut().flat_map(|pod| &mut pod.containers) {
            let quota = fs::read_to_string(pod.cgroup.join("cpu.max")).unwrap();
            let quota = quota.split(' ').next().and_then(|q| q.parse::<u64>().ok()).map(|q| q / 100);
            let allowed = quota.map_or(pod.demand.millicores, |quota| quota.min(pod.demand.millicores));
            let micros = u64::try_from(period.as_micros()).unwrap();
            pod.used_micros += allowed * micros / 1000;
            pod.periods += u64::from(quota.is_some()) * micros / 100_000;
            pod.throttled += u64::from(allowed < pod.demand.millicores) * micros / 100_000;
            let stat = format!(
                "usage_usec {}\nuser_usec 0\nnr_periods {}\nnr_throttled {}\nthrottled_usec 0\n",
                pod.used_micros, pod.periods, pod.throttled
            );
            fs::write(pod.cgroup.join("cpu.stat"), stat).unwrap();
            fs::write(pod.cgroup.join("memory.current"), format!("{}\n", pod.demand.memory)).unwrap();
        }
    }

    /// Through the bytes of the wire.
    fn deliver(&mut self, frame: &Frame) {
        let bytes = v1::Frame::from(frame).encode_to_vec();
        let frame = Frame::try_from(v1::Frame::decode(bytes.as_slice()).unwrap()).unwrap();
        let (accepted, mut answer) = oneshot::channel();
        let sequence = frame.sequence;
        let message = Ingest::Frame { node: NODE.to_owned(), frame: Box::new(frame), accepted };
        self.engine.on_ingest(message, self.now);
        assert_eq!(answer.try_recv().unwrap().accepted, sequence);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Notify(notice) => self.notices.push((self.elapsed(), *notice)),
                Effect::WriteStatus { policy, status } => {
                    self.statuses.insert(policy, *status);
                }
                Effect::WriteRecommendation { workload, status, .. } => {
                    self.recommendations.insert(workload, *status);
                }
                Effect::DeleteRecommendation(workload) => {
                    self.recommendations.remove(&workload);
                }
                Effect::SweepRecommendations(kept) => {
                    self.recommendations.retain(|workload, status| {
                        let policy = status.policy.clone();
                        let policy = policy.map(|p| PolicyKey { namespace: p.namespace, name: p.name });
                        kept.stays(workload, policy.as_ref())
                    });
                }
                Effect::Resize(request) => {
                    self.requests.push((self.elapsed(), Request::clone(&request)));
                    let answer = self.patch(&request);
                    effects.extend(self.engine.on_answer(*request.clone(), answer.clone(), self.now));
                    if answer.is_ok() {
                        self.react(&request);
                    }
                }
            }
        }
    }

    /// The API server: refuses, or writes what the plan says and nothing else.
    fn patch(&mut self, request: &Request) -> Result<Accepted, Refusal> {
        if let Some(refusal) = (self.refuse)(request) {
            return Err(refusal);
        }
        let name = request.action.pod.name.clone();
        let Some(pod) = self.pods.get(&name) else {
            return Err(Refusal { reason: Reason::PodGone, message: "not found".to_owned() });
        };
        let meta = &pod.json["metadata"];
        assert_eq!(meta["uid"], request.action.uid, "fence");
        assert_eq!(meta["resourceVersion"], request.action.resource_version, "fence");
        let plan = request.action.plan.clone();
        let at = k8s_openapi::jiff::Timestamp::from_microsecond(self.now.unix_micros()).unwrap();
        // whole seconds, as the API writes it
        let time = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.write(&name, FIELD_MANAGER, &time, &plan.changes);
        let generation = self.pods[&name].json["metadata"]["generation"].as_i64().unwrap();
        Ok(Accepted { generation })
    }

    /// A write to `pods/resize`.
    pub fn write(&mut self, pod: &str, manager: &str, time: &str, changes: &[ContainerChange]) {
        self.change(pod, |json| {
            let generation = json["metadata"]["generation"].as_i64().unwrap() + 1;
            json["metadata"]["generation"] = generation.into();
            let entry =
                json!({"manager": manager, "operation": "Update", "subresource": "resize", "time": time});
            match json["metadata"]["managedFields"].as_array_mut() {
                Some(list) => {
                    list.retain(|e| e["manager"] != manager);
                    list.push(entry);
                }
                None => json["metadata"]["managedFields"] = json!([entry]),
            }
            for change in changes {
                let containers = json["spec"]["containers"].as_array_mut().unwrap();
                let container = containers.iter_mut().find(|c| c["name"] == change.container).unwrap();
                let resources = &mut container["resources"];
                for (part, amounts) in [("requests", change.to.requests), ("limits", change.to.limits)] {
                    let Amounts { cpu, memory } = amounts;
                    if let Some(cpu) = cpu {
                        resources[part]["cpu"] = cpu.to_string().into();
                    }
                    if let Some(memory) = memory {
                        resources[part]["memory"] = memory.to_string().into();
                    }
                }
            }
        });
    }

    fn react(&mut self, request: &Request) {
        let pod = request.action.pod.name.clone();
        match (self.kubelet)(request) {
            Reaction::Done => {
                self.finish(&pod);
                if request.action.plan.changes.iter().any(|change| change.restarts) {
                    self.change(&pod, |json| {
                        let count = &mut json["status"]["containerStatuses"][0]["restartCount"];
                        *count = (count.as_u64().unwrap() + 1).into();
                    });
                }
            }
            Reaction::Ignored => {}
            Reaction::Pending(reason) => {
                self.observe(&pod);
                self.condition(&pod, "PodResizePending", Some((reason, "no room")));
            }
            Reaction::Error => {
                self.observe(&pod);
                self.allocate(&pod);
                self.condition(&pod, "PodResizeInProgress", Some(("Error", "runtime says no")));
            }
        }
    }

    /// Everything that a kubelet does when a resize works.
    pub fn finish(&mut self, pod: &str) {
        self.observe(pod);
        self.allocate(pod);
        self.condition(pod, "PodResizePending", None);
        self.condition(pod, "PodResizeInProgress", None);
        self.actuate(pod);
        self.show_actual(pod);
    }

    pub fn observe(&mut self, pod: &str) {
        self.change(pod, |json| {
            json["status"]["observedGeneration"] = json["metadata"]["generation"].clone();
        });
    }

    pub fn allocate(&mut self, pod: &str) {
        self.change(pod, |json| {
            for (index, container) in
                json["spec"]["containers"].as_array().unwrap().clone().iter().enumerate()
            {
                let requests = container["resources"]["requests"].clone();
                json["status"]["containerStatuses"][index]["allocatedResources"] = requests;
            }
        });
    }

    pub fn show_actual(&mut self, pod: &str) {
        self.change(pod, |json| {
            for (index, container) in
                json["spec"]["containers"].as_array().unwrap().clone().iter().enumerate()
            {
                json["status"]["containerStatuses"][index]["resources"] = container["resources"].clone();
            }
        });
    }

    /// Limits reach the cgroup.
    pub fn actuate(&self, pod: &str) {
        let Pod { json, containers } = &self.pods[pod];
        for (index, Process { cgroup, .. }) in containers.iter().enumerate() {
            let limits = &json["spec"]["containers"][index]["resources"]["limits"];
            if let Some(cpu) = limits["cpu"].as_str() {
                let cpu: optipod_common::quantity::MilliCpu = cpu.parse().unwrap();
                fs::write(cgroup.join("cpu.max"), format!("{} 100000\n", cpu.0 * 100)).unwrap();
            }
            if let Some(memory) = limits["memory"].as_str() {
                let memory: optipod_common::quantity::Bytes = memory.parse().unwrap();
                fs::write(cgroup.join("memory.max"), format!("{}\n", memory.0)).unwrap();
            }
        }
    }

    /// Sets or clears a condition.
    pub fn condition(&mut self, pod: &str, kind: &str, value: Option<(&str, &str)>) {
        self.change(pod, |json| {
            let list = json["status"]["conditions"].as_array_mut().unwrap();
            list.retain(|c| c["type"] != kind);
            if let Some((reason, message)) = value {
                list.push(json!({"type": kind, "status": "True", "reason": reason, "message": message}));
            }
        });
    }

    /// Requests to reach a recommended size, with their time.
    pub fn optimising(&self) -> Vec<(Duration, String)> {
        self.requests_with(|purpose| purpose == Purpose::Optimise)
    }

    /// Requests to take something back, with their time.
    pub fn reverting(&self) -> Vec<(Duration, String)> {
        self.requests_with(|purpose| purpose != Purpose::Optimise)
    }

    fn requests_with(&self, wanted: impl Fn(Purpose) -> bool) -> Vec<(Duration, String)> {
        let matching = self.requests.iter().filter(|(_, request)| wanted(request.subject.purpose));
        matching.map(|(at, request)| (*at, request.action.plan.to_string())).collect()
    }

    /// Plans of all requests, in order.
    pub fn plans(&self) -> Vec<String> {
        self.requests.iter().map(|(_, request)| request.action.plan.to_string()).collect()
    }

    /// Reasons of all notices about pods and policies, in order.
    pub fn told(&self) -> Vec<&str> {
        self.notices.iter().map(|(_, notice)| notice.reason.as_str()).collect()
    }

    pub fn status(&self, namespace: &str, name: &str) -> &OptimizationPolicyStatus {
        &self.statuses[&PolicyKey { namespace: namespace.to_owned(), name: name.to_owned() }]
    }

    /// The only workload of a policy.
    pub fn workload(&self, namespace: &str, name: &str) -> &WorkloadStatus {
        let list = &self.status(namespace, name).workloads;
        assert_eq!(list.len(), 1, "{list:?}");
        &list[0]
    }
}

/// The files of an idle cgroup.
fn new_cgroup(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for (file, content) in [
        ("cpu.stat", "usage_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"),
        ("memory.current", "0\n"),
        ("memory.stat", "anon 0\ninactive_file 0\n"),
        ("memory.events", "oom 0\noom_kill 0\n"),
        ("memory.max", "max\n"),
        ("cpu.max", "max 100000\n"),
        ("cpu.weight", "4\n"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
    ] {
        fs::write(dir.join(file), content).unwrap();
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
