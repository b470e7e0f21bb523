//! What evaluations cost: whole policies, single workloads, and ticks in which nothing is due.
//!
//! ```text
//! cargo bench -p optipod-tests --bench evaluation -- [WORKLOADS] [PODS] [NODES]
//! ```
//!
//! 5,000 workloads with 10 pods of one container each on 500 nodes, unless told otherwise. The bar is a second for all of
//! them: 20 us of CPU time a pod. Times are CPU time of the process, so other load on the machine changes them little.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on stops"
)]
#![allow(clippy::indexing_slicing, reason = "a missing element stops it, too")]
#![allow(clippy::unchecked_time_subtraction, reason = "CPU time never runs backwards")]

#[path = "../scenarios/support/mod.rs"]
mod support;

use std::time::Duration;

use optipod_common::frame::{CgroupLimits, ContainerRecord, Frame};
use optipod_common::histogram::UsageHistogram;
use optipod_common::ident::{ContainerId, ContainerKey};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::QosClass;
use optipod_common::sample::CpuCounters;
use optipod_common::time::Timestamp;
use optipod_coordinator::apply::Accepted;
use optipod_coordinator::engine::{Effect, Engine, Request};
use optipod_coordinator::index::{Change, Delta};
use optipod_coordinator::ingest::Ingest;
use optipod_coordinator::metrics::Metrics;
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use support::object;

/// The bar: all policies of a cluster of 50,000 pods are evaluated in a second.
const BAR: Duration = Duration::from_micros(20);
const FRAME: Duration = Duration::from_secs(15);
/// Frames of each node before the first evaluation.
const FRAMES: u64 = 12;
const EPOCH: u64 = 1_700_000_000_000_000;

struct Size {
    workloads: u32,
    pods: u32,
    nodes: u32,
}

struct Bench {
    size: Size,
    engine: Engine,
    metrics: Metrics,
    now: Timestamp,
    sequence: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |index: usize, default: u32| arguments.get(index).map_or(default, |a| a.parse().unwrap());
    let size = Size { workloads: number(0, 5000), pods: number(1, 10), nodes: number(2, 500) };
    let all = size.workloads * size.pods;
    println!("{} workloads with {} pods each on {} nodes", size.workloads, size.pods, size.nodes);
    for strategy in ["Adaptive", "Percentile"] {
        let begun = cpu_time();
        let mut bench = Bench::new(&size, strategy);
        println!(
            "{strategy}: listed and {FRAMES} frames counted in {:.1} s",
            (cpu_time() - begun).as_secs_f64()
        );
        println!("{:>44} {:>8} {:>12} {:>10} {:>8}", "", "pods", "time", "a pod", "of bar");
        bench.now = bench.now + Duration::from_secs(60);
        let asked = bench.measure("everything, for the first time", all);
        bench.now = bench.now + Duration::from_secs(310);
        bench.frames(1000);
        bench.measure("everything again", all);
        bench.rest(10);
        bench.measure("nothing is due", 0);
        for count in [1, 100, 1000] {
            bench.rest(10);
            bench.start_again(count.min(size.workloads));
            bench.measure(
                &format!("{count} workloads with a restarted pod"),
                count.min(size.workloads) * size.pods,
            );
        }
        bench.rest(10);
        let ended = asked.len();
        bench.finish(asked);
        bench.measure(&format!("{ended} resizes ended, seen for the first time"), 0);
        bench.now = bench.now + Duration::from_secs(1);
        bench.measure("and for the second", 0);
        let known = bench.metrics.store_containers.get();
        assert_eq!(known, i64::from(size.workloads), "every workload has evidence");
    }
}

impl Bench {
    fn new(size: &Size, strategy: &str) -> Self {
        let metrics = Metrics::new().unwrap();
        let engine = support::engine(&metrics, FRAME, false);
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let size = Size { ..*size };
        let mut bench = Self { size, engine, metrics, now, sequence: 0 };
        for change in support::nothing_exists().into_iter().chain(bench.cluster(strategy)) {
            bench.engine.on_change(change, now);
        }
        assert!(bench.engine.index().synced(), "a kind was not listed: nothing would be evaluated");
        bench.engine.on_leadership(true, now);
        for node in 0..bench.size.nodes {
            let (resume, _resumed) = oneshot::channel();
            let node = format!("n{node}");
            bench.engine.on_ingest(Ingest::Connected { node, epoch: EPOCH, oldest: 1, resume }, now);
        }
        for _ in 0..FRAMES {
            bench.frames(100);
        }
        bench
    }

    /// What the first lists hold.
    fn cluster(&self, strategy: &str) -> Vec<Change> {
        let Size { workloads, pods, nodes } = self.size;
        let policy = json!({
            "metadata": {"namespace": "optipod-system", "name": "all", "generation": 1, "resourceVersion": "1"},
            "spec": {"mode": "Auto", "strategy": {"type": strategy}, "selector": {"namespaceSelector": {}},
                "metricsConfig": {"rollingWindow": "2m"}, "updateStrategy": {"maxConcurrentResizes": 1000}},
        });
        let node = |n| {
            json!({"metadata": {"name": format!("n{n}")}, "status": {
                "conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "64", "memory": "256Gi"}}})
        };
        let template = json!({"spec": {"containers": [{"name": "app", "resources": resources()}]}});
        let spec = |n| json!({"selector": {"matchLabels": {"app": format!("w{n}")}}, "template": template});
        let deployment = |n| json!({"metadata": {"namespace": "shop", "name": format!("w{n}"), "uid": format!("d{n}")}, "spec": spec(n)});
        let set = |n| {
            json!({"metadata": {"namespace": "shop", "name": format!("w{n}-1"), "uid": format!("r{n}"), "ownerReferences":
                [{"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("w{n}"), "uid": format!("d{n}"), "controller": true}]},
                "spec": spec(n)})
        };
        vec![
            Change::Namespaces(listed(
                ["shop", "optipod-system"].map(|name| json!({"metadata": {"name": name}})),
            )),
            Change::Nodes(listed((0..nodes).map(node))),
            Change::Deployments(listed((0..workloads).map(deployment))),
            Change::ReplicaSets(listed((0..workloads).map(set))),
            Change::Policies(listed([policy])),
            Change::Pods(listed((0..workloads * pods).map(|n| self.pod(n, 0)))),
        ]
    }

    fn pod(&self, number: u32, restarts: u32) -> Value {
        let (workload, node) = (number / self.size.pods, number % self.size.nodes);
        json!({
            "metadata": {"namespace": "shop", "name": format!("w{workload}-1-{number}"), "uid": uid(number),
                "resourceVersion": "1", "generation": 1,
                "labels": {"app": format!("w{workload}"), "pod-template-hash": "1"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("w{workload}-1"),
                    "uid": format!("r{workload}"), "controller": true}]},
            "spec": {"nodeName": format!("n{node}"), "containers": [{"name": "app", "resources": resources()}]},
            "status": {"phase": "Running", "observedGeneration": 1, "conditions": [], "containerStatuses": [{
                "name": "app", "ready": true, "restartCount": restarts, "image": "i", "imageID": "i",
                "containerID": format!("containerd://{}", id(number)), "state": {"running": {}},
                "resources": resources(), "allocatedResources": resources()["requests"]}]},
        })
    }

    /// The next frame of every node: its containers use this much, or twice.
    fn frames(&mut self, millicores: u64) {
        self.sequence += 1;
        let (start, end) = (self.now, self.now + FRAME);
        self.now = end;
        let Size { workloads, pods, nodes } = self.size;
        for node in 0..nodes {
            let of_node = (node..workloads * pods).step_by(usize::try_from(nodes).unwrap());
            let containers = of_node.map(|pod| record(pod, millicores)).collect();
            let frame = Frame {
                memory_stall: 0,
                epoch: EPOCH,
                sequence: self.sequence,
                start,
                end,
                sample_hertz: 10,
                dropped_frames: 0,
                containers,
                pods: Vec::new(),
            };
            let (accepted, _answer) = oneshot::channel();
            let message = Ingest::Frame { node: format!("n{node}"), frame: Box::new(frame), accepted };
            self.engine.on_ingest(message, end);
        }
    }

    /// One pod of each of the first workloads restarts.
    fn start_again(&mut self, workloads: u32) {
        for workload in 0..workloads {
            let restarts = u32::try_from(self.now.unix_micros() / 1_000_000 % 1_000_000).unwrap();
            let pod = self.pod(workload * self.size.pods, restarts);
            self.engine.on_change(Change::Pods(Delta::Apply(Box::new(object(&pod)))), self.now);
        }
    }

    /// The API server takes resizes, and the kubelet does them at once.
    fn finish(&mut self, requests: Vec<Request>) {
        for request in requests {
            let name = &request.action.pod.name;
            let number: u32 = name.rsplit('-').next().unwrap().parse().unwrap();
            let mut pod = self.pod(number, 0);
            let to = request.action.plan.changes[0].to.requests;
            let containers = &mut pod["spec"]["containers"][0]["resources"]["requests"];
            if let Some(MilliCpu(cpu)) = to.cpu {
                containers["cpu"] = format!("{cpu}m").into();
            }
            if let Some(Bytes(memory)) = to.memory {
                containers["memory"] = memory.to_string().into();
            }
            let requests = pod["spec"]["containers"][0]["resources"].clone();
            pod["metadata"]["generation"] = 2.into();
            pod["status"]["observedGeneration"] = 2.into();
            pod["status"]["containerStatuses"][0]["allocatedResources"] = requests["requests"].clone();
            pod["status"]["containerStatuses"][0]["resources"] = requests;
            self.engine.on_answer(request, Ok(Accepted { generation: 2 }), self.now);
            self.engine.on_change(Change::Pods(Delta::Apply(Box::new(object(&pod)))), self.now);
        }
    }

    /// Lets time pass, and what it brings: none of it is in what is measured next.
    fn rest(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.engine.tick(self.now);
        self.now = self.now + Duration::from_secs(1);
    }

    /// One tick. Returns what it asks for.
    fn measure(&mut self, what: &str, pods: u32) -> Vec<Request> {
        let begun = cpu_time();
        let effects = self.engine.tick(self.now);
        let took = cpu_time() - begun;
        let micros = took.as_secs_f64() * 1e6;
        let a_pod = micros / f64::from(pods.max(1));
        let of_bar = format!("{:.0}%", a_pod / BAR.as_secs_f64() / 1e4);
        let (a_pod, of_bar) =
            if pods == 0 { (String::new(), String::new()) } else { (format!("{a_pod:.1} us"), of_bar) };
        println!("{what:>44} {pods:>8} {:>9.2} ms {a_pod:>10} {of_bar:>8}", micros / 1e3);
        let requests = effects.into_iter().filter_map(|effect| match effect {
            Effect::Resize(request) => Some(*request),
            _ => None,
        });
        requests.collect()
    }
}

fn resources() -> Value {
    json!({"requests": {"cpu": "400m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}})
}

fn uid(pod: u32) -> String {
    format!("00000000-0000-4000-8000-{pod:012x}")
}

fn id(pod: u32) -> ContainerId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&pod.to_be_bytes());
    ContainerId::from_bytes(bytes)
}

fn record(pod: u32, millicores: u64) -> ContainerRecord {
    let used = |second: u64| millicores * 10 * (1 + (second + u64::from(pod)) % 2);
    let memory = UsageHistogram::from_values(1000, (0..15).map(|second| (100 + second) * 16));
    ContainerRecord {
        key: ContainerKey { id: id(pod), inode: 1 },
        pod: uid(pod).parse().unwrap(),
        qos: QosClass::Burstable,
        cpu_tick: UsageHistogram::from_values(100, (0..150).map(used)),
        cpu_second: UsageHistogram::from_values(1000, (0..15).map(used)),
        memory_working_set: memory.clone(),
        memory_total: memory,
        cpu: CpuCounters { periods: 150, ..CpuCounters::default() },
        oom_kills: 0,
        limits: CgroupLimits { memory: Some(Bytes::from_mebibytes(1024)), ..CgroupLimits::default() },
        ended: false,
    }
}

fn listed<K: DeserializeOwned>(objects: impl IntoIterator<Item = Value>) -> Delta<K> {
    Delta::Replace(objects.into_iter().map(|json| object(&json)).collect())
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap())
}
