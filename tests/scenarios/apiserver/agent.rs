//! An agent that reports what the cases want: constant use of every container that the played kubelet started.
//!
//! It keeps all its frames and replays them to a new leader, as the wire asks for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use optipod_common::frame::{CgroupLimits, ContainerRecord, Frame};
use optipod_common::histogram::UsageHistogram;
use optipod_common::ident::{ContainerId, ContainerKey, PodUid};
use optipod_common::resources::QosClass;
use optipod_common::sample::CpuCounters;
use optipod_coordinator::ingest::now;
use optipod_proto::PROTOCOL_VERSION;
use optipod_proto::v1::agent_message::Body as Up;
use optipod_proto::v1::coordinator_message::Body as Down;
use optipod_proto::v1::telemetry_client::TelemetryClient;
use optipod_proto::v1::{AgentMessage, ClockSync, CoordinatorMessage, Hello, NotLeader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const INTERVAL: Duration = Duration::from_secs(1);

/// What one container uses.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Of which pod.
    pub pod: PodUid,
    /// CPU in millicores, all the time.
    pub cpu: u64,
    /// Memory in MiB, all the time.
    pub memory: u64,
    /// What its cgroup enforces.
    pub limits: CgroupLimits,
}

/// Everything that runs on the node.
pub type Containers = Arc<Mutex<BTreeMap<ContainerId, Usage>>>;

/// Reports to whoever leads of `targets`, for ever.
pub async fn run(node: String, containers: Containers, targets: Vec<SocketAddr>) {
    let mut agent = Agent { node, epoch: now().unix_micros().unsigned_abs(), containers, frames: Vec::new() };
    for target in targets.iter().cycle() {
        // the next one may lead
        let _ = agent.session(*target).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// What a coordinator answers to a node that says Hello and nothing more.
pub async fn greet(target: SocketAddr) -> Result<Down> {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        node: "greeter".to_owned(),
        epoch: 1,
        ..Hello::default()
    };
    let (_outbox, mut inbox) = open(target, hello).await?;
    body(inbox.message().await?)
}

fn body(message: Option<CoordinatorMessage>) -> Result<Down> {
    message.and_then(|message| message.body).context("the stream ended")
}

async fn open(
    target: SocketAddr,
    hello: Hello,
) -> Result<(mpsc::Sender<AgentMessage>, Streaming<CoordinatorMessage>)> {
    let mut client = TelemetryClient::connect(format!("http://{target}")).await?;
    let (outbox, messages) = mpsc::channel(16);
    outbox.send(AgentMessage { body: Some(Up::Hello(hello)) }).await?;
    let inbox = client.stream(ReceiverStream::new(messages)).await?.into_inner();
    Ok((outbox, inbox))
}

struct Agent {
    node: String,
    epoch: u64,
    containers: Containers,
    frames: Vec<Frame>,
}

impl Agent {
    async fn session(&mut self, target: SocketAddr) -> Result<()> {
        let held = self.frames.len() as u64;
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            node: self.node.clone(),
            epoch: self.epoch,
            oldest_sequence: held.min(1),
            newest_sequence: held,
            sent_unix_micros: now().unix_micros(),
            agent_version: "played".to_owned(),
        };
        let (outbox, mut inbox) = open(target, hello).await?;
        let resume = match body(inbox.message().await?)? {
            Down::Welcome(welcome) => welcome.resume_sequence,
            Down::NotLeader(NotLeader { .. }) => return Ok(()),
            Down::Ack(_) => bail!("an Ack before the Welcome"),
        };
        let sync = ClockSync { offset_micros: 0, round_trip_micros: 100 };
        outbox.send(AgentMessage { body: Some(Up::ClockSync(sync)) }).await?;
        let mut cursor = usize::try_from(resume)?.saturating_sub(1);
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.sample()?;
                    for frame in self.frames.iter().skip(cursor) {
                        outbox.send(AgentMessage { body: Some(Up::Frame(frame.into())) }).await?;
                    }
                    cursor = self.frames.len();
                }
                answer = inbox.message() => {
                    if !matches!(body(answer?)?, Down::Ack(_)) {
                        bail!("sent away");
                    }
                }
            }
        }
    }

    fn sample(&mut self) -> Result<()> {
        let end = now();
        let micros = i64::try_from(INTERVAL.as_micros())?;
        let containers = self.containers.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        let frame = Frame {
            epoch: self.epoch,
            sequence: self.frames.len() as u64 + 1,
            start: end.shifted(-micros),
            end,
            sample_hertz: 10,
            dropped_frames: 0,
            memory_stall: 0,
            containers: containers.iter().map(|(id, usage)| record(*id, usage)).collect(),
            pods: Vec::new(),
        };
        drop(containers);
        self.frames.push(frame);
        Ok(())
    }
}

fn record(id: ContainerId, usage: &Usage) -> ContainerRecord {
    // units of 0.1 millicore and of 64 KiB
    let (cpu, memory) = (usage.cpu * 10, usage.memory * 16);
    ContainerRecord {
        key: ContainerKey { id, inode: 1 },
        pod: usage.pod.clone(),
        qos: QosClass::Burstable,
        cpu_tick: UsageHistogram::from_values(100, [cpu; 10]),
        cpu_second: UsageHistogram::from_values(1000, [cpu]),
        memory_working_set: UsageHistogram::from_values(1000, [memory]),
        memory_total: UsageHistogram::from_values(1000, [memory]),
        cpu: CpuCounters { usage_micros: usage.cpu * 1000, ..CpuCounters::default() },
        oom_kills: 0,
        limits: usage.limits,
        ended: false,
    }
}
