//! The gRPC end of the stream: frames in, acknowledgements out. Holds no state of its own beyond one stream.

use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::Stream;
use optipod_common::frame::Frame;
use optipod_common::time::{Clock, Timestamp};
use optipod_proto::v1::telemetry_server::{Telemetry, TelemetryServer};
use optipod_proto::v1::{
    Ack, AgentMessage, CoordinatorMessage, Hello, NotLeader, Welcome, agent_message, coordinator_message,
};
use optipod_proto::{MAX_MESSAGE_BYTES, MAX_NODE_NAME_BYTES, PROTOCOL_VERSION};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::lease::Leadership;
use crate::metrics::Metrics;

/// An agent that says nothing after connecting holds a stream for at most this long.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers that wait for a slow agent. Acks are cumulative, so a few are plenty.
const ANSWERS: usize = 8;

/// What a stream tells the engine. Every request is answered, so a slow engine slows frames, never sampling.
#[derive(Debug)]
pub enum Ingest {
    /// An agent connected.
    Connected {
        /// Its node.
        node: String,
        /// Its run.
        epoch: u64,
        /// The lowest sequence that it still holds; 0 = none.
        oldest: u64,
        /// Gets the sequence to resume from.
        resume: oneshot::Sender<u64>,
    },
    /// A frame, already dated by the coordinator's clock.
    Frame {
        /// Whose.
        node: String,
        /// What.
        frame: Box<Frame>,
        /// Gets what is accepted.
        accepted: oneshot::Sender<Accepted>,
    },
}

/// Cumulative acknowledgement of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// In the leader's memory.
    pub accepted: u64,
    /// In a checkpoint.
    pub durable: u64,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct IngestService {
    engine: mpsc::Sender<Ingest>,
    leadership: watch::Receiver<Leadership>,
    frame_interval: Duration,
    metrics: Metrics,
    clock: Clock,
}

impl IngestService {
    /// A service that hands frames to `engine` while this process leads. Frames are dated by `clock`.
    pub fn new(
        engine: mpsc::Sender<Ingest>,
        leadership: watch::Receiver<Leadership>,
        frame_interval: Duration,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self { engine, leadership, frame_interval, metrics, clock }
    }

    /// As a tonic service with the wire's message limits.
    pub fn into_server(self) -> TelemetryServer<Self> {
        TelemetryServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

type Answers = mpsc::Sender<Result<CoordinatorMessage, Status>>;

#[tonic::async_trait]
impl Telemetry for IngestService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let service = self.clone();
        tokio::spawn(async move {
            service.metrics.streams.inc();
            if let Err(status) = service.serve(request.into_inner(), &answers).await {
                // the agent is gone when this cannot be delivered
                let _ = answers.send(Err(status)).await;
            }
            service.metrics.streams.dec();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl IngestService {
    /// Serves one stream to its end.
    async fn serve(&self, mut messages: Streaming<AgentMessage>, answers: &Answers) -> Result<(), Status> {
        let mut leadership = self.leadership.clone();
        let hello = tokio::time::timeout(HELLO_TIMEOUT, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello within 10 s"))??;
        let received = self.clock.now().unix_micros();
        let Some(agent_message::Body::Hello(hello)) = hello.and_then(|m| m.body) else {
            return Err(Status::invalid_argument("the first message of a stream must be Hello"));
        };
        check_hello(&hello)?;
        if !leadership.borrow_and_update().holds(Instant::now()) {
            return self.send_away(answers).await;
        }
        let (resume, resumed) = oneshot::channel();
        let Hello { node, epoch, oldest_sequence: oldest, .. } = hello;
        self.ask(Ingest::Connected { node: node.clone(), epoch, oldest, resume }).await?;
        let resume_sequence = resumed.await.map_err(|_| stopping())?;
        info!(node, epoch, oldest, resume_sequence, version = hello.agent_version, "agent connected");
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            resume_sequence,
            hello_received_unix_micros: received,
            sent_unix_micros: self.clock.now().unix_micros(),
            frame_interval_millis: u32::try_from(self.frame_interval.as_millis()).unwrap_or(0),
        };
        send(answers, coordinator_message::Body::Welcome(welcome)).await?;
        let mut offset_micros = 0;
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                changed = leadership.changed() => {
                    changed.map_err(|_| stopping())?;
                    if leadership.borrow_and_update().holds(Instant::now()) {
                        continue;
                    }
                    return self.send_away(answers).await;
                }
            };
            match message.map(|m| m.body) {
                None => return Ok(()),
                Some(Some(agent_message::Body::ClockSync(sync))) => offset_micros = sync.offset_micros,
                Some(Some(agent_message::Body::Frame(frame))) if frame.epoch != epoch => {
                    return Err(Status::invalid_argument(format!(
                        "frame of epoch {}: this stream said Hello with epoch {epoch}",
                        frame.epoch
                    )));
                }
                Some(Some(agent_message::Body::Frame(frame))) => {
                    self.frame(&node, frame, offset_micros, answers).await?;
                }
                Some(Some(agent_message::Body::Hello(_))) => {
                    return Err(Status::invalid_argument("Hello is the first message of a stream only"));
                }
                Some(None) => return Err(Status::invalid_argument("a message of unknown kind")),
            }
        }
    }

    /// Hands one frame to the engine. A malformed frame is refused and counted; the stream goes on, so that one bad
    /// record does not silence a node.
    async fn frame(
        &self,
        node: &str,
        frame: optipod_proto::v1::Frame,
        offset_micros: i64,
        answers: &Answers,
    ) -> Result<(), Status> {
        let (epoch, sequence) = (frame.epoch, frame.sequence);
        let mut frame = match Frame::try_from(frame) {
            Ok(frame) => frame,
            Err(error) => {
                self.metrics.frames_refused.with_label_values(&[error.category()]).inc();
                warn!(node, sequence, %error, "malformed frame refused");
                if sequence == 0 {
                    return Ok(());
                }
                nothing_in(epoch, sequence, self.clock.now())
            }
        };
        frame.start = frame.start.shifted(offset_micros);
        frame.end = frame.end.shifted(offset_micros);
        let (accepted, answer) = oneshot::channel();
        self.ask(Ingest::Frame { node: node.to_owned(), frame: Box::new(frame), accepted }).await?;
        let Accepted { accepted, durable } = answer.await.map_err(|_| stopping())?;
        let ack = Ack { epoch, accepted_sequence: accepted, durable_sequence: durable };
        send(answers, coordinator_message::Body::Ack(ack)).await
    }

    async fn ask(&self, request: Ingest) -> Result<(), Status> {
        self.engine.send(request).await.map_err(|_| stopping())
    }

    async fn send_away(&self, answers: &Answers) -> Result<(), Status> {
        let leader_address = self.leadership.borrow().address.clone();
        send(answers, coordinator_message::Body::NotLeader(NotLeader { leader_address })).await
    }
}

async fn send(answers: &Answers, body: coordinator_message::Body) -> Result<(), Status> {
    let message = CoordinatorMessage { body: Some(body) };
    answers.send(Ok(message)).await.map_err(|_| Status::cancelled("the agent is gone"))
}

/// Stands for a frame that cannot be read. It never will be, so its sequence counts as seen: a gap would hold back the
/// acknowledgement of all that follows, and the agent would send it again on every stream.
const fn nothing_in(epoch: u64, sequence: u64, at: Timestamp) -> Frame {
    Frame {
        epoch,
        sequence,
        start: at,
        end: at,
        sample_hertz: 0,
        dropped_frames: 0,
        memory_stall: 0,
        containers: Vec::new(),
        pods: Vec::new(),
    }
}

fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

fn check_hello(hello: &Hello) -> Result<(), Status> {
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err(Status::failed_precondition(format!(
            "protocol version {} is not spoken here: expected {PROTOCOL_VERSION}",
            hello.protocol_version
        )));
    }
    let name = hello.node.as_str();
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    if name.is_empty() || name.len() > MAX_NODE_NAME_BYTES || !name.bytes().all(fits) {
        return Err(Status::invalid_argument(
            "node is not a node name: expected 1 to 253 lowercase letters, digits, '-' and '.'",
        ));
    }
    if hello.epoch == 0 {
        return Err(Status::invalid_argument("epoch is 0: expected unix microseconds of the agent's start"));
    }
    if hello.oldest_sequence > hello.newest_sequence {
        return Err(Status::invalid_argument("oldest_sequence is above newest_sequence"));
    }
    Ok(())
}

/// The wall clock of this machine.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
