//! The uplink against a coordinator that the test plays, over an in-process pipe.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test helpers fail the test")]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use optipod_agent::metrics::Metrics;
use optipod_agent::ring::{Ring, RingLimits};
use optipod_agent::uplink::{Connect, Phase, Uplink, UplinkOptions};
use optipod_common::frame::Frame;
use optipod_common::time::{Clock, Timestamp};
use optipod_proto::v1::agent_message::Body as Up;
use optipod_proto::v1::coordinator_message::Body as Down;
use optipod_proto::v1::telemetry_server::{Telemetry, TelemetryServer};
use optipod_proto::v1::{Ack, AgentMessage, CoordinatorMessage, Hello, NotLeader, Welcome};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

const EPOCH: u64 = 77;
const PATIENCE: Duration = Duration::from_secs(20);

/// Hands each stream to the test.
struct Played(mpsc::Sender<Stream1>);

/// One stream, from the coordinator's side.
struct Stream1 {
    up: Streaming<AgentMessage>,
    down: mpsc::Sender<Result<CoordinatorMessage, Status>>,
}

#[tonic::async_trait]
impl Telemetry for Played {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (down, messages) = mpsc::channel(8);
        let stream = Stream1 { up: request.into_inner(), down };
        self.0.send(stream).await.map_err(|_| Status::unavailable("test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

impl Stream1 {
    async fn next(&mut self) -> Option<Up> {
        let message = timeout(PATIENCE, self.up.message()).await.expect("agent is silent");
        message.ok().flatten().and_then(|m| m.body)
    }

    async fn hello(&mut self) -> Hello {
        match self.next().await {
            Some(Up::Hello(hello)) => hello,
            other => panic!("expected Hello, got {other:?}"),
        }
    }

    async fn frame(&mut self) -> u64 {
        match self.next().await {
            Some(Up::Frame(frame)) => frame.sequence,
            other => panic!("expected Frame, got {other:?}"),
        }
    }

    async fn send(&self, body: Down) {
        self.down.send(Ok(CoordinatorMessage { body: Some(body) })).await.unwrap();
    }

    /// Hello, Welcome, `ClockSync`.
    async fn welcome(&mut self, resume_sequence: u64) -> Hello {
        let hello = self.hello().await;
        let now = hello.sent_unix_micros + 3_000_000;
        self.send(Down::Welcome(Welcome {
            protocol_version: 1,
            resume_sequence,
            hello_received_unix_micros: now,
            sent_unix_micros: now,
            frame_interval_millis: 5000,
        }))
        .await;
        match self.next().await {
            Some(Up::ClockSync(sync)) => {
                assert!((sync.offset_micros - 3_000_000).abs() < 1_000_000, "{sync:?}");
            }
            other => panic!("expected ClockSync, got {other:?}"),
        }
        hello
    }

    async fn ack(&self, accepted_sequence: u64, durable_sequence: u64) {
        self.send(Down::Ack(Ack { epoch: EPOCH, accepted_sequence, durable_sequence })).await;
    }
}

/// Connects to the played coordinator and remembers the addresses that were asked for.
#[derive(Clone)]
struct Pipe {
    server: mpsc::Sender<Result<DuplexStream, std::io::Error>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Connect for Pipe {
    async fn connect(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        self.asked.lock().unwrap().push(address.to_owned());
        let server = self.server.clone();
        let connector = tower::service_fn(move |_| {
            let server = server.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                server.send(Ok(theirs)).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://pipe").connect_with_connector(connector).await
    }
}

struct Lab {
    ring: Arc<Ring>,
    metrics: Arc<Metrics>,
    streams: mpsc::Receiver<Stream1>,
    asked: Arc<Mutex<Vec<String>>>,
    phase: watch::Sender<Phase>,
    interval: watch::Receiver<Option<Duration>>,
    uplink: JoinHandle<()>,
}

impl Lab {
    fn start() -> Self {
        let (streams_in, streams) = mpsc::channel(4);
        let (server, connections) = mpsc::channel(4);
        let played = TelemetryServer::new(Played(streams_in));
        let serve = Server::builder().add_service(played);
        tokio::spawn(serve.serve_with_incoming(ReceiverStream::new(connections)));
        let asked = Arc::default();
        let pipe = Pipe { server, asked: Arc::clone(&asked) };
        let limits = RingLimits { window: Duration::from_secs(1800), bytes: 1 << 20 };
        let (ring, metrics) = (Arc::new(Ring::new(limits)), Arc::new(Metrics::new(10)));
        let (interval_out, interval) = watch::channel(None);
        let (phase, phase_in) = watch::channel(Phase::Running);
        let options = UplinkOptions {
            node: "n1".to_owned(),
            epoch: EPOCH,
            address: "service:1".to_owned(),
            wall: Clock::new(optipod_agent::clock::wall),
        };
        let uplink =
            Uplink::new(options, pipe, Arc::clone(&ring), Arc::clone(&metrics), interval_out, phase_in);
        let uplink = tokio::spawn(uplink.run());
        Self { ring, metrics, streams, asked, phase, interval, uplink }
    }

    async fn stream(&mut self) -> Stream1 {
        timeout(PATIENCE, self.streams.recv()).await.expect("agent does not connect").unwrap()
    }

    fn push(&self, sequence: u64) {
        let start = Timestamp::from_unix_seconds(i64::try_from(sequence).unwrap());
        self.ring.push(Frame {
            epoch: EPOCH,
            sequence,
            start,
            end: start + Duration::from_secs(1),
            sample_hertz: 10,
            dropped_frames: 0,
            memory_stall: 0,
            containers: vec![],
            pods: vec![],
        });
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        timeout(PATIENCE, async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("condition does not come true");
    }
}

#[tokio::test]
async fn frames_are_sent_once_per_stream_and_replayed_until_durable() {
    let mut lab = Lab::start();
    (1..=3).for_each(|s| lab.push(s));
    let mut stream = lab.stream().await;
    let hello = stream.welcome(1).await;
    assert_eq!((hello.node.as_str(), hello.epoch, hello.protocol_version), ("n1", EPOCH, 1));
    assert_eq!((hello.oldest_sequence, hello.newest_sequence), (1, 3));
    for expected in 1..=3 {
        assert_eq!(stream.frame().await, expected);
    }
    stream.ack(3, 2).await;
    lab.until(|lab| lab.ring.status().oldest == 3).await;
    lab.push(4);
    assert_eq!(stream.frame().await, 4);
    assert_eq!(*lab.interval.borrow(), Some(Duration::from_secs(5)));
    assert_eq!(lab.metrics.stream_connected.get(), 1);

    // the leader dies: accepted is not durable
    drop(stream);
    let mut next = lab.stream().await;
    let hello = next.welcome(3).await;
    assert_eq!((hello.oldest_sequence, hello.newest_sequence), (3, 4));
    assert_eq!((next.frame().await, next.frame().await), (3, 4));
}

#[tokio::test]
async fn redirect_is_followed_at_once_and_forgotten_when_it_fails() {
    let mut lab = Lab::start();
    let mut standby = lab.stream().await;
    standby.hello().await;
    standby.send(Down::NotLeader(NotLeader { leader_address: "leader:2".to_owned() })).await;
    drop(standby);
    let mut leader = lab.stream().await;
    leader.welcome(1).await;
    assert_eq!(*lab.asked.lock().unwrap(), ["service:1", "leader:2"]);
    drop(leader);
    lab.stream().await.welcome(1).await;
    assert_eq!(lab.asked.lock().unwrap()[2], "service:1");
}

#[tokio::test]
async fn wrong_acknowledgements_are_ignored() {
    let mut lab = Lab::start();
    (1..=2).for_each(|s| lab.push(s));
    let mut stream = lab.stream().await;
    stream.welcome(1).await;
    stream.send(Down::Ack(Ack { epoch: EPOCH + 1, accepted_sequence: 2, durable_sequence: 2 })).await;
    stream.ack(1, 2).await;
    stream.ack(1, 1).await;
    lab.until(|lab| lab.ring.status().oldest == 2).await;
}

#[tokio::test]
async fn refused_version_and_closed_streams_are_retried() {
    let mut lab = Lab::start();
    let stream = lab.stream().await;
    stream.down.send(Err(Status::failed_precondition("speaks 2"))).await.unwrap();
    drop(stream);
    lab.stream().await.welcome(1).await;
    lab.until(|lab| lab.metrics.stream_ends.with_label_values(&["refused"]).get() == 1).await;
}

#[tokio::test]
async fn drain_ends_when_the_last_frame_is_accepted() {
    let mut lab = Lab::start();
    let mut stream = lab.stream().await;
    stream.welcome(1).await;
    lab.push(1);
    lab.phase.send_replace(Phase::Draining);
    assert_eq!(stream.frame().await, 1);
    assert!(!lab.uplink.is_finished());
    stream.ack(1, 0).await;
    timeout(Duration::from_millis(1500), &mut lab.uplink).await.expect("drains at once").unwrap();
}

#[tokio::test]
async fn drain_without_a_coordinator_ends_after_two_seconds() {
    let mut lab = Lab::start();
    lab.push(1);
    let _stream = lab.stream().await;
    lab.phase.send_replace(Phase::Draining);
    timeout(Duration::from_secs(5), &mut lab.uplink).await.expect("gives up").unwrap();
}
