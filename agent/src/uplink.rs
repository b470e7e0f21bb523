//! The stream to the leader: handshake, replay from the point that it names, acknowledgements, reconnect.
//!
//! A session sends each frame once, in order. Frames stay in the [`Ring`] until they are durable, so a session that
//! ends anywhere loses nothing. A slow coordinator makes the ring longer and nothing else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use optipod_common::time::{Clock, Timestamp};
use optipod_proto::v1::agent_message::Body as Up;
use optipod_proto::v1::coordinator_message::Body as Down;
use optipod_proto::v1::telemetry_client::TelemetryClient;
use optipod_proto::v1::{Ack, AgentMessage, ClockSync, CoordinatorMessage, Hello, Welcome};
use optipod_proto::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION, v1};
use prost::Message;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::ring::Ring;

/// Messages between ring and HTTP/2: enough to fill a window, few enough that backpressure is felt here.
const OUTBOX: usize = 4;
/// A coordinator that does not answer Hello in this time is treated as gone.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that the last frames get at the end of the process.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Redirects in a row that are followed at once; more are a disagreement that needs time.
const PROMPT_REDIRECTS: u32 = 3;
/// Intervals that a coordinator may ask for.
const FRAME_INTERVAL_MILLIS: std::ops::RangeInclusive<u32> = 1000..=60_000;

/// Makes channels. The seam for TLS and for tests over an in-process pipe.
pub trait Connect: Send + Sync + 'static {
    /// Opens a channel to `host:port`.
    fn connect(&self, address: &str)
    -> impl Future<Output = Result<Channel, tonic::transport::Error>> + Send;
}

/// Who we are, and where to report.
#[derive(Clone, Debug)]
pub struct UplinkOptions {
    /// Name of the node.
    pub node: String,
    /// Identifies this run: unix microseconds of its start.
    pub epoch: u64,
    /// `host:port` of the coordinator's Service.
    pub address: String,
    /// `CLOCK_REALTIME` of the node.
    pub wall: Clock,
}

/// How the process is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Frames keep coming.
    Running,
    /// The last frame is in the ring.
    Draining,
}

/// Why a session ended.
#[derive(Debug, Error)]
enum End {
    #[error("{address} does not lead; the leader is {leader:?}")]
    NotLeader { address: String, leader: String },
    #[error("cannot connect to {address}")]
    Connect { address: String, source: tonic::transport::Error },
    #[error("no answer within 5 s")]
    Silent,
    #[error("stream ended: {0}")]
    Refused(#[from] Status),
    #[error("stream was closed")]
    Closed,
    #[error("coordinator speaks wire version {0}, this agent {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("coordinator broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("frame {0} was dropped before it could be sent")]
    Dropped(u64),
    #[error("everything was sent")]
    Drained,
}

impl End {
    const fn category(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "not_leader",
            Self::Connect { .. } => "connect",
            Self::Silent => "silent",
            Self::Refused(_) => "refused",
            Self::Closed => "closed",
            Self::Version(_) => "version",
            Self::Protocol(_) => "protocol",
            Self::Dropped(_) => "dropped",
            Self::Drained => "drained",
        }
    }
}

/// Keeps one stream to the leader.
#[derive(Debug)]
pub struct Uplink<C> {
    options: UplinkOptions,
    connector: C,
    ring: Arc<Ring>,
    metrics: Arc<Metrics>,
    /// What the coordinator wants, for the sampler.
    frame_interval: watch::Sender<Option<Duration>>,
    phase: watch::Receiver<Phase>,
}

/// The two halves of an accepted stream.
struct Session {
    outbox: mpsc::Sender<AgentMessage>,
    inbox: Streaming<CoordinatorMessage>,
    /// Next sequence to send.
    cursor: u64,
    /// Highest sequence that the leader has.
    accepted: u64,
}

impl<C: Connect> Uplink<C> {
    /// Nothing happens before [`Self::run`].
    pub const fn new(
        options: UplinkOptions,
        connector: C,
        ring: Arc<Ring>,
        metrics: Arc<Metrics>,
        frame_interval: watch::Sender<Option<Duration>>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self { options, connector, ring, metrics, frame_interval, phase }
    }

    /// Reports until the phase is [`Phase::Draining`] and everything is accepted, or 2 s after it.
    pub async fn run(mut self) {
        let mut phase = self.phase.clone();
        let deadline = async move {
            // an error means that the sender is gone, which ends the process as well
            let _ = phase.wait_for(|p| *p == Phase::Draining).await;
            sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            () = self.keep_connected() => {}
            () = deadline => warn!(left = self.ring.status().frames, "not everything was accepted before the end"),
        }
        self.metrics.stream_connected.set(0);
    }

    async fn keep_connected(&mut self) {
        let mut backoff = Backoff::default();
        let mut address = self.options.address.clone();
        let mut redirects = 0;
        loop {
            let started = Instant::now();
            let end = self.session(&address).await;
            let was_connected = self.metrics.stream_connected.get() == 1;
            self.metrics.stream_connected.set(0);
            self.metrics.stream_ends.with_label_values(&[end.category()]).inc();
            if was_connected {
                redirects = 0;
                backoff.reset();
            }
            address = match end {
                End::Drained => return,
                End::NotLeader { leader, .. } if !leader.is_empty() && redirects < PROMPT_REDIRECTS => {
                    redirects += 1;
                    info!(%leader, "redirected");
                    address = leader;
                    continue;
                }
                end => {
                    let lasted = started.elapsed();
                    warn!(error = &end as &dyn std::error::Error, %address, ?lasted, "stream ended");
                    redirects = 0;
                    self.options.address.clone()
                }
            };
            sleep(backoff.wait()).await;
        }
    }

    /// One stream from Hello to its end.
    async fn session(&mut self, address: &str) -> End {
        match self.handshake(address).await {
            Ok(session) => {
                info!(%address, resume = session.cursor, "stream accepted");
                self.metrics.stream_connected.set(1);
                self.exchange(session).await
            }
            Err(end) => end,
        }
    }

    async fn handshake(&self, address: &str) -> Result<Session, End> {
        let connect = timeout(HANDSHAKE_TIMEOUT, self.connector.connect(address));
        let channel = connect.await.map_err(|_| End::Silent)?;
        let channel = channel.map_err(|source| End::Connect { address: address.to_owned(), source })?;
        let mut client = TelemetryClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let sent = self.options.wall.now();
        let hello = self.hello(sent);
        let oldest = hello.oldest_sequence;
        outbox.send(message(Up::Hello(hello))).await.map_err(|_| End::Closed)?;
        let answer = async {
            let mut inbox = client.stream(ReceiverStream::new(messages)).await?.into_inner();
            let first = inbox.message().await?;
            Ok::<_, Status>((inbox, first))
        };
        let (inbox, first) = timeout(HANDSHAKE_TIMEOUT, answer).await.map_err(|_| End::Silent)??;
        let received = self.options.wall.now();
        match first.and_then(|m| m.body) {
            Some(Down::Welcome(welcome)) => {
                let sync = clock_sync(sent, &welcome, received);
                self.welcomed(&welcome, sync)?;
                outbox.send(message(Up::ClockSync(sync))).await.map_err(|_| End::Closed)?;
                let cursor = welcome.resume_sequence.max(oldest).max(1);
                Ok(Session { outbox, inbox, cursor, accepted: cursor - 1 })
            }
            Some(Down::NotLeader(answer)) => {
                Err(End::NotLeader { address: address.to_owned(), leader: answer.leader_address })
            }
            Some(Down::Ack(_)) => Err(End::Protocol("acknowledgement before welcome")),
            None => Err(End::Closed),
        }
    }

    fn hello(&self, sent: Timestamp) -> Hello {
        let held = self.ring.status();
        Hello {
            protocol_version: PROTOCOL_VERSION,
            node: self.options.node.clone(),
            epoch: self.options.epoch,
            oldest_sequence: held.oldest,
            newest_sequence: held.newest,
            sent_unix_micros: sent.unix_micros(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn welcomed(&self, welcome: &Welcome, sync: ClockSync) -> Result<(), End> {
        if welcome.protocol_version != PROTOCOL_VERSION {
            return Err(End::Version(welcome.protocol_version));
        }
        let (offset_micros, round_trip_micros) = (sync.offset_micros, sync.round_trip_micros);
        debug!(offset_micros, round_trip_micros, "clocks compared");
        self.metrics.clock_offset_seconds.set(offset_micros as f64 / 1e6);
        let millis = welcome.frame_interval_millis;
        if FRAME_INTERVAL_MILLIS.contains(&millis) {
            self.frame_interval.send_replace(Some(Duration::from_millis(millis.into())));
        } else if millis == 0 {
            self.frame_interval.send_replace(None);
        } else {
            warn!(millis, "frame interval of the coordinator ignored: expected 1000 to 60000");
        }
        Ok(())
    }

    /// Frames up, acknowledgements down, until the stream ends or everything is accepted at the end of the process.
    async fn exchange(&mut self, session: Session) -> End {
        let Session { outbox, mut inbox, mut cursor, mut accepted } = session;
        let mut newest = self.ring.watch();
        let mut phase = self.phase.clone();
        loop {
            let draining = *phase.borrow_and_update() == Phase::Draining;
            let last = *newest.borrow_and_update();
            if draining && accepted >= last {
                return End::Drained;
            }
            let pending = cursor <= last;
            tokio::select! {
                answer = inbox.message() => match answer {
                    Ok(Some(message)) => if let Some(end) = self.heard(message, &mut accepted) { return end },
                    Ok(None) => return End::Closed,
                    Err(status) => return End::Refused(status),
                },
                permit = outbox.reserve(), if pending => {
                    let Ok(permit) = permit else { return End::Closed };
                    // A gap that the coordinator does not know of would hold back every later acknowledgement; the next
                    // Hello tells it where the ring begins.
                    let Some(frame) = self.next_frame(cursor) else { return End::Dropped(cursor) };
                    cursor += 1;
                    permit.send(message(Up::Frame(frame)));
                    self.metrics.frames_sent.inc();
                }
                // fails when the sender is gone, which ends the process as well
                Ok(()) = newest.changed(), if !pending => {}
                Ok(()) = phase.changed() => {}
            }
        }
    }

    /// The frame at the cursor, while the ring holds it.
    fn next_frame(&self, cursor: u64) -> Option<v1::Frame> {
        let (_, encoded) = self.ring.at_or_after(cursor).filter(|(sequence, _)| *sequence == cursor)?;
        Some(v1::Frame::decode(&*encoded).expect("encoded by `Ring::push` from the same type"))
    }

    fn heard(&self, message: CoordinatorMessage, accepted: &mut u64) -> Option<End> {
        match message.body? {
            Down::Ack(ack) => self.acknowledged(ack, accepted),
            Down::NotLeader(answer) => {
                let address = self.options.address.clone();
                return Some(End::NotLeader { address, leader: answer.leader_address });
            }
            Down::Welcome(_) => return Some(End::Protocol("second welcome")),
        }
        None
    }

    fn acknowledged(&self, ack: Ack, accepted: &mut u64) {
        let Ack { epoch, accepted_sequence, durable_sequence } = ack;
        if epoch != self.options.epoch || durable_sequence > accepted_sequence {
            warn!(epoch, accepted_sequence, durable_sequence, "acknowledgement ignored");
            return;
        }
        *accepted = (*accepted).max(accepted_sequence);
        self.metrics.frames_accepted.set(i64::try_from(accepted_sequence).unwrap_or(i64::MAX));
        if durable_sequence > 0 {
            // what was not sent on this stream can be durable from an earlier one, but never before it was made
            let status = self.ring.acknowledge(durable_sequence);
            self.metrics.frames_durable.set(i64::try_from(durable_sequence).unwrap_or(i64::MAX));
            self.metrics.observe_ring(status);
        }
    }
}

const fn message(body: Up) -> AgentMessage {
    AgentMessage { body: Some(body) }
}

/// Offset and round trip as in RFC 5905 section 8: `sent` and `received` by our clock, the other two by theirs.
fn clock_sync(sent: Timestamp, welcome: &Welcome, received: Timestamp) -> ClockSync {
    let [t0, t3] = [sent, received].map(|t| i128::from(t.unix_micros()));
    let [t1, t2] = [welcome.hello_received_unix_micros, welcome.sent_unix_micros].map(i128::from);
    let offset = i64::try_from(i128::midpoint(t1 - t0, t2 - t3)).unwrap_or(0);
    let round_trip = u64::try_from((t3 - t0) - (t2 - t1)).unwrap_or(0);
    ClockSync { offset_micros: offset, round_trip_micros: round_trip }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_theirs_minus_ours_and_the_round_trip_excludes_their_time() {
        let at = Timestamp::from_unix_micros;
        // their clock is 5000 ahead, each way takes 100, they think for 40
        let welcome =
            Welcome { hello_received_unix_micros: 6100, sent_unix_micros: 6140, ..Welcome::default() };
        let sync = clock_sync(at(1000), &welcome, at(1240));
        assert_eq!(sync, ClockSync { offset_micros: 5000, round_trip_micros: 200 });
        let absurd = Welcome { hello_received_unix_micros: i64::MIN, sent_unix_micros: i64::MAX, ..welcome };
        assert_eq!(clock_sync(at(i64::MAX), &absurd, at(i64::MIN)).round_trip_micros, 0);
    }
}
