//! What simulated nodes cost: CPU time and files written per simulated second, without a control plane.
//!
//! ```text
//! cargo bench -p optipod-tests --features simulated --bench simulated_nodes -- [NODES] [PODS] [FOLDER]
//! ```
//!
//! 300 nodes with 20 pods of one container each, unless told otherwise. The folder is for the cgroup trees; best on a
//! tmpfs. Times are CPU time of the process, so other load on the machine changes them little.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on stops")]
#![allow(clippy::unchecked_time_subtraction, reason = "CPU time never runs backwards")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use optipod_common::ident::ContainerId;
use optipod_common::resources::QosClass;
use optipod_common::time::Timestamp;
use optipod_tests::simulated::agents::{AgentOptions, Agents};
use optipod_tests::simulated::faults::Board;
use optipod_tests::simulated::runtime::{CgroupResources, ContainerSpec, Runtime};
use rustix::time::{ClockId, clock_gettime};

/// What containers do, in turn.
const USAGES: [&str; 5] = [
    "cpu=constant(10m) memory=constant(16Mi)",
    "cpu=trace(recorded-1s/nodeapi) memory=trace(recorded-1s/nodeapi)",
    "cpu=daily(50m,800m,24h)+noise(0,50m,1s,1) memory=constant(128Mi) cache=constant(64Mi)",
    "cpu=square(20m,400m,60s) memory=ramp(32Mi,256Mi,10m)",
    "cpu=trace(recorded-cpu-100hz/redis) memory=trace(recorded-memory-10hz/redis)",
];
const SIMULATED: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |index: usize, default: u32| arguments.get(index).map_or(default, |a| a.parse().unwrap());
    let (nodes, pods) = (number(0, 300), number(1, 20));
    let shared_memory = Path::new("/dev/shm");
    let parent = arguments.get(2).map_or_else(
        || if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() },
        PathBuf::from,
    );
    let folder = tempfile::tempdir_in(parent).unwrap();
    println!("{nodes} nodes with {pods} pods each in {}", folder.path().display());

    let started = cpu_time();
    let runtimes: Vec<(String, PathBuf, Runtime)> = (0..nodes)
        .map(|node| {
            let (name, root) = (format!("sim-{node}"), folder.path().join(format!("sim-{node}")));
            let runtime = Runtime::new(&root, node.into()).unwrap();
            runtime.set_read_in_step();
            (0..pods).for_each(|pod| start(&runtime, node, pod));
            (name, root, runtime)
        })
        .collect();
    println!("start: {:.2} s", (cpu_time() - started).as_secs_f64());

    let uplinks = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut now = Duration::ZERO;
    println!("{:>12} {:>12} {:>12} {:>12} {:>12}", "step", "nodes", "agents", "files", "at most");
    for step in [100, 1000, 5000].map(Duration::from_millis) {
        let hertz = u32::try_from(1000 / step.as_millis().min(1000)).unwrap();
        let options = AgentOptions {
            coordinator: "127.0.0.1:9".to_owned(),
            frame_interval: Duration::from_secs(15),
            hertz,
            start: Timestamp::from_unix_seconds(1_800_000_000),
        };
        let mut agents = Agents::new(options, Board::default(), uplinks.handle().clone());
        for (name, root, _) in &runtimes {
            agents.add(name, root);
        }
        agents.tick(now).unwrap();
        let rewritten = || runtimes.iter().map(|(_, _, runtime)| runtime.files_rewritten()).sum::<u64>();
        let (end, files) = (now + SIMULATED, rewritten());
        let (mut of_nodes, mut of_agents) = (Duration::ZERO, Duration::ZERO);
        while now < end {
            now += step;
            let begun = cpu_time();
            for (_, _, runtime) in &runtimes {
                runtime.advance(now).unwrap();
            }
            let advanced = cpu_time();
            agents.tick(now).unwrap();
            of_nodes += advanced - begun;
            of_agents += cpu_time() - advanced;
        }
        let seconds = SIMULATED.as_secs_f64();
        let per_second = |time: Duration| time.as_secs_f64() / seconds;
        println!(
            "{:>12} {:>10.1}ms {:>10.1}ms {:>10.0}/s {:>11.1}x",
            format!("{step:?}"),
            per_second(of_nodes) * 1e3,
            per_second(of_agents) * 1e3,
            (rewritten() - files) as f64 / seconds,
            1.0 / per_second(of_nodes + of_agents),
        );
    }
    println!("CPU time and files rewritten per simulated second; the speed that one core allows");
}

fn start(runtime: &Runtime, node: u32, pod: u32) {
    let uid = format!("{node:08x}-0000-4000-8000-{pod:012x}");
    let resources =
        CgroupResources { cpu_weight: 100, cpu_quota_micros: Some(50_000), memory_max: Some(512 << 20) };
    let mut id = [0; 32];
    for (byte, value) in id.iter_mut().zip(node.to_le_bytes().into_iter().chain(pod.to_le_bytes())) {
        *byte = value;
    }
    let usage = USAGES.iter().cycle().nth(usize::try_from(pod).unwrap()).unwrap();
    runtime.start_pod(&uid, QosClass::Burstable, resources).unwrap();
    let spec = ContainerSpec {
        pod_uid: uid,
        qos: QosClass::Burstable,
        name: "app".to_owned(),
        id: ContainerId::from_bytes(id),
        usage: usage.parse().unwrap(),
        resources,
    };
    runtime.start(spec).unwrap();
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap())
}
