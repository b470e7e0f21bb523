//! A real uplink and ring against the real ingest service and engine, over loopback TCP: whatever happens on the way,
//! what the coordinator counts is exactly what was sampled.

#![allow(clippy::indexing_slicing, reason = "a missing element fails the test")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use optipod_agent::metrics::Metrics as AgentMetrics;
use optipod_agent::ring::{Ring, RingLimits};
use optipod_agent::transport::Transport;
use optipod_agent::uplink::{Phase, Uplink, UplinkOptions};
use optipod_common::frame::{CgroupLimits, ContainerRecord, Frame, PodRecord};
use optipod_common::histogram::{MergedHistogram, UsageHistogram};
use optipod_common::ident::{ContainerKey, WorkloadContainer};
use optipod_common::quantity::Bytes;
use optipod_common::resources::QosClass;
use optipod_common::sample::CpuCounters;
use optipod_common::store::Evidence;
use optipod_common::time::Clock;
use optipod_coordinator::engine::Engine;
use optipod_coordinator::index::{Change, Delta};
use optipod_coordinator::ingest::{IngestService, now};
use optipod_coordinator::lease::Leadership;
use optipod_coordinator::metrics::Metrics;
use optipod_proto::v1::agent_message::Body as Up;
use optipod_proto::v1::coordinator_message::Body as Down;
use optipod_proto::v1::telemetry_client::TelemetryClient;
use optipod_proto::v1::{Ack, AgentMessage, CoordinatorMessage, Hello, Welcome};
use optipod_proto::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION, v1};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Status, Streaming};

use support::{applied, container_id, engine, key, nothing_exists, pod_uid};

const NODE: &str = "node-1";
const FRAME_INTERVAL: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(3600);
/// Nothing here takes a second; this is for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

// ---------------------------------------------------------------------------------------------------------------------
// What was sampled, and what the coordinator made of it

/// Everything that must be equal on both sides.
#[derive(Debug, PartialEq, Eq, Default)]
struct Sums {
    counters: CpuCounters,
    oom_kills: u64,
    cpu: (u64, u64, Option<u64>, Vec<Option<u64>>),
    memory: (u64, u64, Option<u64>, Vec<Option<u64>>),
}

fn shape(histogram: &MergedHistogram) -> (u64, u64, Option<u64>, Vec<Option<u64>>) {
    let quantiles = [1, 1000, 2500, 5000, 7500, 9000, 9900, 9990, 10_000];
    let quantiles = quantiles.iter().map(|q| histogram.quantile(*q)).collect();
    (histogram.count(), histogram.max(), histogram.mean(), quantiles)
}

impl Sums {
    fn of(evidence: Option<&Evidence>) -> Self {
        let Some(evidence) = evidence else { return Self::sampled(&[], 0) };
        Self {
            counters: evidence.counters,
            oom_kills: evidence.oom_kills,
            cpu: shape(evidence.cpu_seconds().unwrap()),
            memory: shape(&evidence.memory),
        }
    }

    /// Of the records of one container in some frames.
    fn sampled<'a>(frames: impl IntoIterator<Item = &'a Frame>, container: u8) -> Self {
        let (mut cpu, mut memory) = (MergedHistogram::default(), MergedHistogram::default());
        let mut sums = Self::default();
        let records = frames.into_iter().flat_map(|frame| &frame.containers);
        for record in records.filter(|r| r.key.id == container_id(container)) {
            sums.counters = sums.counters.plus(record.cpu);
            sums.oom_kills += record.oom_kills;
            cpu.add(&record.cpu_second);
            memory.add(&record.memory_working_set);
        }
        Self { cpu: shape(&cpu), memory: shape(&memory), ..sums }
    }
}

/// A frame whose numbers no other frame has. Two containers, in two pods.
fn frame(epoch: u64, sequence: u64) -> Frame {
    let salt = sequence * 7919 + epoch % 1000 * 31;
    let values = |factor: u64| (0..10).map(move |i| (salt * factor + i * i * 37) % 20_011);
    let record = |container: u8| ContainerRecord {
        key: ContainerKey { id: container_id(container), inode: 100 + u64::from(container) },
        pod: pod_uid(container).parse().unwrap(),
        qos: QosClass::Burstable,
        cpu_tick: UsageHistogram::from_values(100, values(3)),
        cpu_second: UsageHistogram::from_values(1000, values(5 + u64::from(container))),
        memory_working_set: UsageHistogram::from_values(1000, values(11 + u64::from(container))),
        memory_total: UsageHistogram::from_values(1000, values(13)),
        cpu: CpuCounters {
            usage_micros: salt * u64::from(container),
            periods: sequence,
            throttled_periods: sequence / 2,
            throttled_micros: salt / 3,
        },
        oom_kills: u64::from(sequence.is_multiple_of(5)),
        limits: CgroupLimits::default(),
        ended: false,
    };
    // all within the last five minutes, whatever their number is
    let start = now() - Duration::from_secs(240) + Duration::from_millis(200 * sequence);
    Frame {
        epoch,
        sequence,
        start,
        end: start + Duration::from_millis(200),
        sample_hertz: 10,
        dropped_frames: 0,
        memory_stall: 0,
        pods: vec![PodRecord {
            pod: pod_uid(1).parse().unwrap(),
            qos: QosClass::Burstable,
            inode: 9,
            cpu_usage_micros: salt,
            memory_max: Bytes(salt),
            oom_kills: 0,
            ended: false,
        }],
        containers: vec![record(1), record(2)],
    }
}

fn frames(epoch: u64, sequences: impl IntoIterator<Item = u64>) -> Vec<Frame> {
    sequences.into_iter().map(|sequence| frame(epoch, sequence)).collect()
}

/// A pod without owner, with one container.
fn pod(byte: u8, node: &str) -> Change {
    Change::Pods(applied(&json!({
        "metadata": {"namespace": "default", "name": format!("pod-{byte}"), "uid": pod_uid(byte), "resourceVersion": "1"},
        "spec": {"nodeName": node, "containers": [{"name": "app", "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "app", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
            "containerID": format!("containerd://{}", container_id(byte)),
            "state": {"running": {}},
        }]},
    })))
}

fn app_of(byte: u8) -> WorkloadContainer {
    key("Pod", "default", &format!("pod-{byte}"), "app")
}

// ---------------------------------------------------------------------------------------------------------------------
// A coordinator

/// Ingest service and engine, wired as `run` does it.
struct Coordinator {
    engine: Arc<Mutex<Engine>>,
    metrics: Metrics,
    leadership: watch::Sender<Leadership>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

const fn leads_until(until: Instant) -> Leadership {
    Leadership { until: Some(until), address: String::new() }
}

fn leads() -> Leadership {
    leads_until(Instant::now().checked_add(Duration::from_secs(3600)).unwrap())
}

impl Coordinator {
    /// One that leads and knows both pods.
    async fn leader() -> Self {
        let coordinator = Self::start(leads()).await;
        coordinator.learn(pod(1, NODE));
        coordinator.learn(pod(2, NODE));
        coordinator
    }

    async fn start(leadership: Leadership) -> Self {
        let metrics = Metrics::new().unwrap();
        let engine = Arc::new(Mutex::new(engine(&metrics, FRAME_INTERVAL, false)));
        for change in nothing_exists() {
            engine.lock().unwrap().on_change(change, now());
        }
        let (leadership, watched) = watch::channel(leadership);
        let (sender, mut ingest) = mpsc::channel(4);
        let clock = Clock::new(now);
        let service = IngestService::new(sender, watched.clone(), FRAME_INTERVAL, metrics.clone(), clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let server = Server::builder().add_service(service.into_server());
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        let turned = Arc::clone(&engine);
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            loop {
                let message = tokio::select! {
                    Some(message) = ingest.recv() => Some(message),
                    _ = ticks.tick() => None,
                };
                let mut engine = turned.lock().unwrap();
                engine.on_leadership(watched.borrow().holds(Instant::now()), now());
                match message {
                    Some(message) => engine.on_ingest(message, now()),
                    None => drop(engine.tick(now())),
                }
            }
        });
        Self { engine, metrics, leadership, address, _tasks: tasks }
    }

    fn learn(&self, change: Change) {
        self.engine.lock().unwrap().on_change(change, now());
    }

    fn sums(&self, container: u8) -> Sums {
        let engine = self.engine.lock().unwrap();
        Sums::of(engine.evidence(&app_of(container), now(), WINDOW).as_ref())
    }

    /// Waits until both containers have exactly what these frames have, then makes sure that it stays so.
    async fn has_exactly(&self, frames: &[Frame]) {
        let wanted = [1, 2].map(|container| Sums::sampled(frames, container));
        let found = || [1, 2].map(|container| self.sums(container));
        let deadline = Instant::now() + PATIENCE;
        while found() != wanted && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(found(), wanted);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(found(), wanted, "more came than was sampled");
    }

    fn frames_by_result(&self, result: &str) -> u64 {
        self.metrics.frames.with_label_values(&[result]).get()
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: does not come true");
        sleep(Duration::from_millis(5)).await;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A network

/// A TCP proxy that can be cut.
struct Network {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    cut: watch::Sender<u64>,
    accepted: Arc<Mutex<usize>>,
    _task: JoinSet<()>,
}

impl Network {
    async fn to(target: SocketAddr) -> Self {
        Self::with_budgets(target, []).await
    }

    /// Connection `n` dies after so many bytes from the agent, in the middle of whatever they belong to; later ones
    /// live.
    async fn with_budgets(target: SocketAddr, budgets: impl IntoIterator<Item = usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let (cut, cuts) = watch::channel(0);
        let mut budgets: VecDeque<usize> = budgets.into_iter().collect();
        let accepted = Arc::new(Mutex::new(0));
        let (towards, count) = (Arc::clone(&target), Arc::clone(&accepted));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (inbound, _) = listener.accept().await.unwrap();
                *count.lock().unwrap() += 1;
                let target = *towards.lock().unwrap();
                let budget = budgets.pop_front();
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                connections.spawn(async move {
                    tokio::select! {
                        () = carry(inbound, target, budget) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, target, cut, accepted, _task: task }
    }

    fn redirect(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }

    fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    fn connections(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

/// Carries bytes both ways until one side ends or the budget is used up.
async fn carry(inbound: TcpStream, target: SocketAddr, budget: Option<usize>) {
    let Ok(outbound) = TcpStream::connect(target).await else { return };
    let (mut from_agent, mut to_agent) = inbound.into_split();
    let (mut from_server, mut to_server) = outbound.into_split();
    let up = async move {
        let mut left = budget.unwrap_or(usize::MAX);
        let mut buffer = [0; 4096];
        while left > 0 {
            let room = buffer.len().min(left);
            match from_agent.read(&mut buffer[..room]).await {
                Ok(count @ 1..) => {
                    left -= count;
                    if to_server.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => return,
            }
        }
        // what was written gets there: the cut is behind it, not in front of it
        sleep(Duration::from_millis(20)).await;
    };
    let down = async move { drop(tokio::io::copy(&mut from_server, &mut to_agent).await) };
    tokio::select! { () = up => {}, () = down => {} }
}

// ---------------------------------------------------------------------------------------------------------------------
// An agent

/// Ring and uplink of one run of an agent.
struct Agent {
    epoch: u64,
    ring: Arc<Ring>,
    metrics: Arc<AgentMetrics>,
    phase: watch::Sender<Phase>,
    uplink: JoinSet<()>,
}

impl Agent {
    fn start(epoch: u64, address: SocketAddr) -> Self {
        Self::with_ring(epoch, address, RingLimits { window: Duration::from_secs(1800), bytes: 16 << 20 })
    }

    fn with_ring(epoch: u64, address: SocketAddr, limits: RingLimits) -> Self {
        let (ring, metrics) = (Arc::new(Ring::new(limits)), Arc::new(AgentMetrics::new(10)));
        let (interval, _) = watch::channel(None);
        let (phase, phase_ofuplink) = watch::channel(Phase::Running);
        let options = UplinkOptions {
            node: NODE.to_owned(),
            epoch,
            address: address.to_string(),
            wall: Clock::new(optipod_agent::clock::wall),
        };
        let connection = Uplink::new(
            options,
            Transport::Plaintext,
            Arc::clone(&ring),
            Arc::clone(&metrics),
            interval,
            phase_ofuplink,
        );
        let mut task = JoinSet::new();
        task.spawn(connection.run());
        Self { epoch, ring, metrics, phase, uplink: task }
    }

    /// Samples these frames.
    fn sample(&self, sequences: impl IntoIterator<Item = u64>) -> Vec<Frame> {
        let frames = frames(self.epoch, sequences);
        for frame in &frames {
            self.ring.push(frame.clone());
        }
        frames
    }

    fn ends(&self, category: &str) -> u64 {
        self.metrics.stream_ends.with_label_values(&[category]).get()
    }

    fn accepted(&self) -> i64 {
        self.metrics.frames_accepted.get()
    }
}

/// A stream of which each message is the test's own.
struct RawStream {
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<CoordinatorMessage>,
}

const fn hello(epoch: u64, oldest: u64, newest: u64) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        node: String::new(),
        epoch,
        oldest_sequence: oldest,
        newest_sequence: newest,
        sent_unix_micros: 0,
        agent_version: String::new(),
    }
}

impl RawStream {
    async fn open(address: SocketAddr, first: Option<Up>) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let mut client = TelemetryClient::new(channel).max_encoding_message_size(usize::MAX);
        let (up, messages) = mpsc::channel(64);
        if let Some(body) = first {
            up.send(AgentMessage { body: Some(body) }).await.unwrap();
        }
        let down = client.stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { up, down }
    }

    /// After Hello and Welcome.
    async fn welcomed(address: SocketAddr, hello: Hello) -> (Self, Welcome) {
        let hello = Hello { node: if hello.node.is_empty() { NODE.to_owned() } else { hello.node }, ..hello };
        let mut stream = Self::open(address, Some(Up::Hello(hello))).await;
        match stream.next().await {
            Ok(Some(Down::Welcome(welcome))) => (stream, welcome),
            other => panic!("expected Welcome, got {other:?}"),
        }
    }

    /// Why a stream that begins like this is refused.
    async fn refusal(address: SocketAddr, first: Up) -> Status {
        let mut stream = Self::open(address, Some(first)).await;
        stream.next().await.expect_err("it is accepted")
    }

    async fn send(&self, body: Up) {
        self.up.send(AgentMessage { body: Some(body) }).await.unwrap();
    }

    async fn frame(&self, frame: &Frame) {
        self.send(Up::Frame(frame.into())).await;
    }

    async fn next(&mut self) -> Result<Option<Down>, Status> {
        let message = timeout(PATIENCE, self.down.message()).await.expect("the coordinator is silent")?;
        Ok(message.and_then(|m| m.body))
    }

    async fn ack(&mut self) -> Ack {
        match self.next().await {
            Ok(Some(Down::Ack(ack))) => ack,
            other => panic!("expected Ack, got {other:?}"),
        }
    }

    /// Sends a frame and waits until it is answered.
    async fn accepted_after(&mut self, frame: &Frame) -> u64 {
        self.frame(frame).await;
        self.ack().await.accepted_sequence
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Frames on their way

#[tokio::test]
async fn frames_of_a_quiet_network_add_up_exactly() {
    let coordinator = Coordinator::leader().await;
    let agent = Agent::start(7, coordinator.address);
    let mut sampled = agent.sample(1..=20);
    coordinator.has_exactly(&sampled).await;
    sampled.extend(agent.sample(21..=40));
    coordinator.has_exactly(&sampled).await;
    until("all is acknowledged", || agent.accepted() == 40).await;
    // nothing is durable without a checkpoint, so nothing may be forgotten
    assert_eq!(agent.ring.status().frames, 40);
    assert_eq!((coordinator.frames_by_result("new"), coordinator.frames_by_result("duplicate")), (40, 0));
}

#[tokio::test]
async fn connection_cut_in_the_middle_of_any_message_loses_and_doubles_nothing() {
    let coordinator = Coordinator::leader().await;
    // the handshake has about 300 bytes, a frame about 700: cuts within preface, Hello, first and later frames
    let budgets = [40, 700, 1111, 1500, 2222, 3001, 4096, 5003, 7001, 9999];
    let network = Network::with_budgets(coordinator.address, budgets).await;
    let agent = Agent::start(7, network.address);
    let mut sampled = agent.sample(1..=30);
    coordinator.has_exactly(&sampled).await;
    // the budgets of later connections are used up by new frames
    for round in 0..20 {
        if network.connections() > budgets.len() {
            break;
        }
        let first = 31 + round * 20;
        sampled.extend(agent.sample(first..first + 20));
        coordinator.has_exactly(&sampled).await;
    }
    assert!(network.connections() > budgets.len(), "only {} connections", network.connections());
}

#[tokio::test]
async fn acknowledgements_lost_on_the_way_back_double_nothing() {
    let coordinator = Coordinator::leader().await;
    let network = Network::to(coordinator.address).await;
    let agent = Agent::start(7, network.address);
    let mut sampled = Vec::new();
    for round in 0..6 {
        sampled.extend(agent.sample(round * 5 + 1..=round * 5 + 5));
        // some frames of the round have arrived, their acknowledgements perhaps not
        until("a frame arrives", || coordinator.frames_by_result("new") > round * 5).await;
        network.cut();
    }
    coordinator.has_exactly(&sampled).await;
}

#[tokio::test]
async fn frame_sent_twice_counts_once_on_one_stream_and_on_two() {
    let coordinator = Coordinator::leader().await;
    let sampled = frames(7, 1..=3);
    let (mut first, welcome) = RawStream::welcomed(coordinator.address, hello(7, 1, 3)).await;
    assert_eq!(welcome.resume_sequence, 1);
    assert_eq!(first.accepted_after(&sampled[0]).await, 1);
    assert_eq!(first.accepted_after(&sampled[0]).await, 1);
    assert_eq!(first.accepted_after(&sampled[1]).await, 2);
    // a half-dead connection beside the new one
    let (mut second, welcome) = RawStream::welcomed(coordinator.address, hello(7, 1, 3)).await;
    assert_eq!(welcome.resume_sequence, 3);
    assert_eq!(second.accepted_after(&sampled[1]).await, 2);
    assert_eq!(second.accepted_after(&sampled[2]).await, 3);
    assert_eq!(first.accepted_after(&sampled[2]).await, 3);
    coordinator.has_exactly(&sampled).await;
    assert_eq!((coordinator.frames_by_result("new"), coordinator.frames_by_result("duplicate")), (3, 3));
}

#[tokio::test]
async fn reordered_frames_count_once_and_are_accepted_when_the_gap_closes() {
    let coordinator = Coordinator::leader().await;
    let sampled = frames(7, 1..=5);
    let (mut stream, _) = RawStream::welcomed(coordinator.address, hello(7, 1, 5)).await;
    let mut acks = Vec::new();
    for sequence in [3, 2, 5, 1, 5, 4, 2] {
        acks.push(stream.accepted_after(&sampled[sequence - 1]).await);
    }
    assert_eq!(acks, [0, 0, 0, 3, 3, 5, 5]);
    coordinator.has_exactly(&sampled).await;
}

#[tokio::test]
async fn lost_frame_is_asked_for_again_by_the_resume_point() {
    let coordinator = Coordinator::leader().await;
    let sampled = frames(7, 1..=4);
    let (mut stream, _) = RawStream::welcomed(coordinator.address, hello(7, 1, 4)).await;
    for sequence in [1, 2, 4] {
        stream.accepted_after(&sampled[sequence - 1]).await;
    }
    drop(stream);
    let (mut stream, welcome) = RawStream::welcomed(coordinator.address, hello(7, 1, 4)).await;
    assert_eq!(welcome.resume_sequence, 3);
    assert_eq!(stream.accepted_after(&sampled[2]).await, 4);
    coordinator.has_exactly(&sampled).await;
}

#[tokio::test]
async fn malformed_frame_is_refused_and_counted_and_the_stream_goes_on() {
    let coordinator = Coordinator::leader().await;
    let sampled = frames(7, [1, 3, 4]);
    let (mut stream, _) = RawStream::welcomed(coordinator.address, hello(7, 1, 4)).await;
    assert_eq!(stream.accepted_after(&sampled[0]).await, 1);
    let mut bad = v1::Frame::from(&frame(7, 2));
    bad.containers[1].pod_uid = "not-a-uid".to_owned();
    stream.send(Up::Frame(bad)).await;
    // It will never be readable, so it must not hold back the acknowledgement of what follows.
    assert_eq!(stream.ack().await.accepted_sequence, 2);
    assert_eq!(stream.accepted_after(&sampled[1]).await, 3);
    assert_eq!(stream.accepted_after(&sampled[2]).await, 4);
    coordinator.has_exactly(&sampled).await;
    assert_eq!(coordinator.metrics.frames_refused.with_label_values(&["pod_uid"]).get(), 1);
}

#[tokio::test]
async fn frame_without_a_sequence_is_refused_without_an_answer() {
    let coordinator = Coordinator::leader().await;
    let sampled = frames(7, [1]);
    let (mut stream, _) = RawStream::welcomed(coordinator.address, hello(7, 1, 1)).await;
    stream.send(Up::Frame(v1::Frame { sequence: 0, ..v1::Frame::from(&frame(7, 1)) })).await;
    assert_eq!(stream.accepted_after(&sampled[0]).await, 1);
    coordinator.has_exactly(&sampled).await;
    assert_eq!(coordinator.metrics.frames_refused.with_label_values(&["zero"]).get(), 1);
}

#[tokio::test]
async fn usage_that_comes_before_its_pod_is_joined_when_the_pod_is_known() {
    let coordinator = Coordinator::start(leads()).await;
    let agent = Agent::start(7, coordinator.address);
    let mut sampled = agent.sample(1..=5);
    until("frames arrive", || coordinator.frames_by_result("new") == 5).await;
    coordinator.has_exactly(&[]).await;
    coordinator.learn(pod(1, NODE));
    assert_eq!(coordinator.sums(1), Sums::sampled(&sampled, 1));
    coordinator.learn(pod(2, NODE));
    sampled.extend(agent.sample(6..=8));
    coordinator.has_exactly(&sampled).await;
}

#[tokio::test]
async fn last_usage_of_a_container_counts_when_its_pod_is_gone_already() {
    let coordinator = Coordinator::leader().await;
    let agent = Agent::start(7, coordinator.address);
    let mut sampled = agent.sample(1..=3);
    coordinator.has_exactly(&sampled).await;
    let Change::Pods(Delta::Apply(gone)) = pod(1, NODE) else { panic!("a pod was applied") };
    coordinator.learn(Change::Pods(Delta::Delete(gone)));
    sampled.extend(agent.sample(4..=5));
    coordinator.has_exactly(&sampled).await;
}

#[tokio::test]
async fn record_of_a_container_on_another_node_is_refused_and_the_rest_counts() {
    let coordinator = Coordinator::start(leads()).await;
    coordinator.learn(pod(1, NODE));
    coordinator.learn(pod(2, "node-2"));
    let agent = Agent::start(7, coordinator.address);
    let sampled = agent.sample(1..=4);
    until("frames arrive", || coordinator.sums(1) == Sums::sampled(&sampled, 1)).await;
    assert_eq!(coordinator.sums(2), Sums::sampled(&[], 2));
    assert_eq!(coordinator.metrics.records_foreign.get(), 4);
    // the other node's own agent may speak for it
    let (mut other, _) =
        RawStream::welcomed(coordinator.address, Hello { node: "node-2".to_owned(), ..hello(9, 1, 1) }).await;
    let theirs = frame(9, 1);
    other.accepted_after(&theirs).await;
    assert_eq!(coordinator.sums(2), Sums::sampled([&theirs], 2));
    assert_eq!(coordinator.sums(1), Sums::sampled(&sampled, 1));
}

// ---------------------------------------------------------------------------------------------------------------------
// Restarts and leaders

#[tokio::test]
async fn restarted_coordinator_gets_everything_that_the_ring_holds() {
    let coordinator = Coordinator::leader().await;
    let network = Network::to(coordinator.address).await;
    let agent = Agent::start(7, network.address);
    let mut sampled = agent.sample(1..=10);
    coordinator.has_exactly(&sampled).await;
    for round in 1..=3 {
        let next = Coordinator::leader().await;
        network.redirect(next.address);
        network.cut();
        sampled.extend(agent.sample(round * 10 + 1..=round * 10 + 10));
        next.has_exactly(&sampled).await;
    }
}

#[tokio::test]
async fn restarted_agent_is_not_counted_twice() {
    let coordinator = Coordinator::leader().await;
    let network = Network::to(coordinator.address).await;
    let old = Agent::start(7, network.address);
    let mut sampled = old.sample(1..=6);
    coordinator.has_exactly(&sampled).await;
    drop(old);
    let new = Agent::start(8, network.address);
    sampled.extend(new.sample(1..=9));
    coordinator.has_exactly(&sampled).await;
    // a frame of the old run that was under way, and one that had arrived
    let late = frame(7, 7);
    let (mut stream, welcome) = RawStream::welcomed(coordinator.address, hello(7, 1, 7)).await;
    assert_eq!(welcome.resume_sequence, 7);
    assert_eq!(stream.accepted_after(&sampled[2]).await, 6);
    assert_eq!(stream.accepted_after(&late).await, 7);
    sampled.push(late);
    coordinator.has_exactly(&sampled).await;
}

#[tokio::test]
async fn standby_names_the_leader_and_the_agent_follows() {
    let leader = Coordinator::leader().await;
    let standby = Coordinator::start(Leadership { until: None, address: leader.address.to_string() }).await;
    let agent = Agent::start(7, standby.address);
    let sampled = agent.sample(1..=5);
    leader.has_exactly(&sampled).await;
    assert_eq!(standby.frames_by_result("new"), 0);
    assert_eq!(agent.ends("not_leader"), 1);
}

#[tokio::test]
async fn standby_that_knows_no_leader_is_asked_again() {
    let standby = Coordinator::start(Leadership::default()).await;
    standby.learn(pod(1, NODE));
    standby.learn(pod(2, NODE));
    let agent = Agent::start(7, standby.address);
    let sampled = agent.sample(1..=5);
    until("it is sent away", || agent.ends("not_leader") > 0).await;
    standby.leadership.send_replace(leads());
    standby.has_exactly(&sampled).await;
}

#[tokio::test]
async fn leadership_lost_in_mid_stream_moves_the_agent_and_its_ring() {
    let first = Coordinator::leader().await;
    let second = Coordinator::leader().await;
    let agent = Agent::start(7, first.address);
    let mut sampled = agent.sample(1..=10);
    first.has_exactly(&sampled).await;
    first.leadership.send_replace(Leadership { until: None, address: second.address.to_string() });
    sampled.extend(agent.sample(11..=15));
    second.has_exactly(&sampled).await;
    // what the first one merged is not mixed with what it will merge again
    first.has_exactly(&[]).await;
    second.leadership.send_replace(Leadership { until: None, address: first.address.to_string() });
    first.leadership.send_replace(leads());
    sampled.extend(agent.sample(16..=20));
    first.has_exactly(&sampled).await;
}

#[tokio::test]
async fn leadership_that_lapses_and_comes_back_replays_everything() {
    let coordinator = Coordinator::leader().await;
    let agent = Agent::start(7, coordinator.address);
    let mut sampled = agent.sample(1..=10);
    coordinator.has_exactly(&sampled).await;
    // The renewal is late: the engine sees that the time is over, the streams are told nothing but the new time.
    coordinator.leadership.send_if_modified(|leadership| {
        leadership.until = Some(Instant::now());
        false
    });
    until("the engine starts anew", || coordinator.sums(1) == Sums::sampled(&[], 1)).await;
    coordinator.leadership.send_replace(leads());
    sampled.extend(agent.sample(11..=12));
    coordinator.has_exactly(&sampled).await;
    until("all is acknowledged", || agent.accepted() == 12).await;
}

#[tokio::test]
async fn overflowed_ring_tells_what_it_dropped_and_the_stream_resumes_behind_it() {
    let coordinator = Coordinator::leader().await;
    let network = Network::to(coordinator.address).await;
    let one = {
        let ring = Ring::new(RingLimits { window: Duration::from_secs(1800), bytes: 1 << 20 });
        ring.push(frame(7, 1)).bytes
    };
    let limits = RingLimits { window: Duration::from_secs(1800), bytes: one * 8 };
    let agent = Agent::with_ring(7, network.address, limits);
    let mut sampled = agent.sample(1..=4);
    coordinator.has_exactly(&sampled).await;
    // nobody is there for longer than the ring reaches
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    network.redirect(nowhere);
    network.cut();
    until("the agent notices", || agent.metrics.stream_connected.get() == 0).await;
    let away = agent.sample(5..=30);
    let held = agent.ring.status();
    assert!(held.dropped > 10 && held.oldest > 5, "{held:?}");
    sampled.extend(away.into_iter().filter(|frame| frame.sequence >= held.oldest));
    network.redirect(coordinator.address);
    coordinator.has_exactly(&sampled).await;
    // 1 to 4 had arrived before they were dropped
    until("the loss is known", || {
        u64::try_from(coordinator.metrics.frames_lost.get()).unwrap() == held.dropped - 4
    })
    .await;
    sampled.extend(agent.sample(31..=33));
    coordinator.has_exactly(&sampled).await;
    until("all is acknowledged", || agent.accepted() == 33).await;
    let (_, newest) = agent.ring.at_or_after(33).unwrap();
    let newest: v1::Frame = prost_decode(&newest);
    assert!(newest.dropped_frames >= held.dropped, "{} of {}", newest.dropped_frames, held.dropped);
}

#[tokio::test]
async fn ring_that_overflows_in_mid_stream_leaves_no_gap_in_the_acknowledgements() {
    let coordinator = Coordinator::leader().await;
    let one = {
        let ring = Ring::new(RingLimits { window: Duration::from_secs(1800), bytes: 1 << 20 });
        ring.push(frame(7, 1)).bytes
    };
    let limits = RingLimits { window: Duration::from_secs(1800), bytes: one * 8 };
    let agent = Agent::with_ring(7, coordinator.address, limits);
    let mut sampled = agent.sample(1..=4);
    coordinator.has_exactly(&sampled).await;
    // one thread runs all tasks: nothing is sent while this pushes
    let burst = agent.sample(5..=60);
    let oldest = agent.ring.status().oldest;
    assert!(oldest > 20, "{oldest}");
    sampled.extend(burst.into_iter().filter(|frame| frame.sequence >= oldest));
    coordinator.has_exactly(&sampled).await;
    until("all is acknowledged", || agent.accepted() == 60).await;
    assert_eq!(u64::try_from(coordinator.metrics.frames_lost.get()).unwrap(), oldest - 5);
}

fn prost_decode<M: prost::Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap()
}

#[tokio::test]
async fn last_frames_of_a_stopping_agent_arrive() {
    let coordinator = Coordinator::leader().await;
    let mut agent = Agent::start(7, coordinator.address);
    let sampled = agent.sample(1..=10);
    agent.phase.send_replace(Phase::Draining);
    timeout(PATIENCE, agent.uplink.join_next()).await.expect("it ends").unwrap().unwrap();
    coordinator.has_exactly(&sampled).await;
}

// ---------------------------------------------------------------------------------------------------------------------
// Refusals

#[tokio::test]
async fn unknown_protocol_version_is_refused_with_the_version_that_is_spoken() {
    let coordinator = Coordinator::leader().await;
    for version in [0, PROTOCOL_VERSION + 1] {
        let hello = Hello { protocol_version: version, node: NODE.to_owned(), ..hello(7, 0, 0) };
        let status = RawStream::refusal(coordinator.address, Up::Hello(hello)).await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        let expected = format!("protocol version {version} is not spoken here: expected {PROTOCOL_VERSION}");
        assert_eq!(status.message(), expected);
    }
}

#[tokio::test]
async fn stream_that_does_not_begin_with_hello_is_refused() {
    let coordinator = Coordinator::leader().await;
    let status = RawStream::refusal(coordinator.address, Up::Frame((&frame(7, 1)).into())).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("must be Hello"), "{status}");
    coordinator.has_exactly(&[]).await;
}

#[tokio::test]
async fn malformed_hello_is_refused_by_field() {
    let coordinator = Coordinator::leader().await;
    let good = Hello { node: NODE.to_owned(), ..hello(7, 1, 2) };
    let cases = [
        (Hello { node: String::new(), ..good.clone() }, "node is not a node name"),
        (Hello { node: "Node_1".to_owned(), ..good.clone() }, "node is not a node name"),
        (Hello { node: "n".repeat(254), ..good.clone() }, "node is not a node name"),
        (Hello { epoch: 0, ..good.clone() }, "epoch is 0"),
        (Hello { oldest_sequence: 3, ..good }, "oldest_sequence is above newest_sequence"),
    ];
    for (hello, expected) in cases {
        let status = RawStream::refusal(coordinator.address, Up::Hello(hello)).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{status}");
    }
}

#[tokio::test]
async fn second_hello_and_frame_of_another_epoch_end_the_stream() {
    let coordinator = Coordinator::leader().await;
    for (body, expected) in [
        (Up::Hello(Hello { node: NODE.to_owned(), ..hello(7, 0, 0) }), "Hello is the first message"),
        (Up::Frame((&frame(8, 1)).into()), "frame of epoch 8: this stream said Hello with epoch 7"),
    ] {
        let (mut stream, _) = RawStream::welcomed(coordinator.address, hello(7, 0, 0)).await;
        stream.send(body).await;
        let status = stream.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{status}");
    }
    coordinator.has_exactly(&[]).await;
}

#[tokio::test]
async fn message_above_the_limit_is_refused_and_others_are_not_hurt() {
    let coordinator = Coordinator::leader().await;
    let agent = Agent::start(7, coordinator.address);
    let sampled = agent.sample(1..=3);
    let (mut stream, _) =
        RawStream::welcomed(coordinator.address, Hello { node: "node-2".to_owned(), ..hello(9, 1, 1) }).await;
    let mut huge = v1::Frame::from(&frame(9, 1));
    huge.containers[0].pod_uid = "x".repeat(MAX_MESSAGE_BYTES);
    stream.send(Up::Frame(huge)).await;
    let status = stream.next().await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    coordinator.has_exactly(&sampled).await;
}

#[tokio::test]
async fn sequences_at_the_end_of_their_range_hurt_nobody() {
    let coordinator = Coordinator::leader().await;
    let last = u64::MAX;
    for epoch in [1, 2, last] {
        let (mut stream, _) = RawStream::welcomed(coordinator.address, hello(epoch, last, last)).await;
        stream.frame(&frame_at_the_end(epoch)).await;
        // answered or refused, as long as the coordinator lives
        let _ = stream.next().await;
    }
    let (mut other, _) =
        RawStream::welcomed(coordinator.address, Hello { node: "node-2".to_owned(), ..hello(9, 1, 1) }).await;
    assert_eq!(other.accepted_after(&Frame { containers: Vec::new(), ..frame(9, 1) }).await, 1);
}

fn frame_at_the_end(epoch: u64) -> Frame {
    Frame { epoch, sequence: u64::MAX, containers: Vec::new(), ..frame(1, 1) }
}

#[tokio::test]
async fn silence_after_connecting_ends_the_stream_with_a_reason() {
    let coordinator = Coordinator::leader().await;
    let mut stream = RawStream::open(coordinator.address, None).await;
    let status = stream.next().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "no Hello within 10 s"));
}

#[tokio::test]
async fn clock_of_the_agent_far_off_does_not_move_usage_out_of_the_window() {
    let coordinator = Coordinator::leader().await;
    let (mut stream, _) = RawStream::welcomed(coordinator.address, hello(7, 1, 2)).await;
    let day = 86_400_000_000;
    let ahead =
        |frame: Frame| Frame { start: frame.start.shifted(day), end: frame.end.shifted(day), ..frame };
    stream.send(Up::ClockSync(v1::ClockSync { offset_micros: -day, round_trip_micros: 100 })).await;
    let sampled = frames(7, 1..=2);
    for frame in &sampled {
        stream.accepted_after(&ahead(frame.clone())).await;
    }
    coordinator.has_exactly(&sampled).await;
}
