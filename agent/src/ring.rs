//! Frames that no coordinator has made durable yet. Bounded by age and by bytes; the oldest go first, and what went
//! is counted in every later frame.
//!
//! The sampler's thread pushes, the uplink reads and acknowledges; the lock is held for a copy of pointers only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use optipod_common::frame::Frame;
use optipod_common::time::Timestamp;
use optipod_proto::v1;
use prost::Message;
use tokio::sync::watch;

/// What bounds a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Frames that ended longer than this before the newest one are dropped.
    pub window: Duration,
    /// Encoded bytes, the newest frame not counted.
    pub bytes: usize,
}

#[derive(Debug)]
struct Stored {
    sequence: u64,
    end: Timestamp,
    encoded: Arc<[u8]>,
}

#[derive(Debug, Default)]
struct Frames {
    stored: VecDeque<Stored>,
    bytes: usize,
    dropped: u64,
}

/// What a ring holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStatus {
    /// Lowest sequence; 0 when empty.
    pub oldest: u64,
    /// Highest sequence; 0 when empty.
    pub newest: u64,
    /// Number of frames.
    pub frames: usize,
    /// Encoded bytes.
    pub bytes: usize,
    /// Frames dropped unacknowledged since the start.
    pub dropped: u64,
}

/// Unacknowledged frames, ascending by sequence, without gaps.
#[derive(Debug)]
pub struct Ring {
    limits: RingLimits,
    frames: Mutex<Frames>,
    newest: watch::Sender<u64>,
}

impl Ring {
    /// An empty ring.
    pub fn new(limits: RingLimits) -> Self {
        Self { limits, frames: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Adds the next frame and drops what no longer fits. Never waits for the network.
    pub fn push(&self, mut frame: Frame) -> RingStatus {
        let (sequence, end) = (frame.sequence, frame.end);
        self.locked(|frames| {
            let horizon = end - self.limits.window;
            while frames.stored.front().is_some_and(|oldest| oldest.end < horizon) {
                frames.drop_oldest();
            }
            frame.dropped_frames = frames.dropped;
        });
        let encoded: Arc<[u8]> = v1::Frame::from(&frame).encode_to_vec().into();
        let status = self.locked(|frames| {
            while frames.bytes + encoded.len() > self.limits.bytes && !frames.stored.is_empty() {
                frames.drop_oldest();
            }
            frames.bytes += encoded.len();
            frames.stored.push_back(Stored { sequence, end, encoded });
            frames.status()
        });
        self.newest.send_replace(sequence);
        status
    }

    /// The frame with the lowest sequence that is not below `sequence`.
    pub fn at_or_after(&self, sequence: u64) -> Option<(u64, Arc<[u8]>)> {
        self.locked(|frames| {
            let at = frames.stored.partition_point(|s| s.sequence < sequence);
            frames.stored.get(at).map(|s| (s.sequence, Arc::clone(&s.encoded)))
        })
    }

    /// Forgets frames that are durable: everything up to and including `sequence`.
    pub fn acknowledge(&self, sequence: u64) -> RingStatus {
        self.locked(|frames| {
            while frames.stored.front().is_some_and(|s| s.sequence <= sequence) {
                frames.pop();
            }
            frames.status()
        })
    }

    /// What it holds now.
    pub fn status(&self) -> RingStatus {
        self.locked(|frames| frames.status())
    }

    /// Told of each push: the newest sequence.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn locked<T>(&self, act: impl FnOnce(&mut Frames) -> T) -> T {
        // a panic elsewhere ends the process; counters stay consistent either way
        act(&mut self.frames.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Frames {
    fn pop(&mut self) {
        if let Some(stored) = self.stored.pop_front() {
            self.bytes -= stored.encoded.len();
        }
    }

    fn drop_oldest(&mut self) {
        self.pop();
        self.dropped += 1;
    }

    fn status(&self) -> RingStatus {
        RingStatus {
            oldest: self.stored.front().map_or(0, |s| s.sequence),
            newest: self.stored.back().map_or(0, |s| s.sequence),
            frames: self.stored.len(),
            bytes: self.bytes,
            dropped: self.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(sequence: u64) -> Frame {
        let end = Timestamp::from_unix_seconds(i64::try_from(sequence).unwrap() * 15);
        Frame {
            epoch: 1,
            sequence,
            start: end - Duration::from_secs(15),
            end,
            sample_hertz: 10,
            dropped_frames: 0,
            memory_stall: 0,
            containers: Vec::new(),
            pods: Vec::new(),
        }
    }

    fn ring(window: u64, bytes: usize) -> Ring {
        Ring::new(RingLimits { window: Duration::from_secs(window), bytes })
    }

    #[test]
    fn frames_leave_on_durable_acknowledgement_only() {
        let ring = ring(1800, 1 << 20);
        (1..=4).for_each(|s| {
            ring.push(frame(s));
        });
        assert_eq!(ring.at_or_after(2).unwrap().0, 2);
        assert_eq!(ring.status().frames, 4);
        let status = ring.acknowledge(2);
        assert_eq!((status.oldest, status.newest, status.frames, status.dropped), (3, 4, 2, 0));
        assert_eq!(ring.at_or_after(1).unwrap().0, 3);
        assert_eq!(ring.at_or_after(5), None);
        assert_eq!(ring.acknowledge(99), RingStatus::default());
    }

    #[test]
    fn frames_beyond_the_window_are_dropped_and_told() {
        let ring = ring(30, 1 << 20);
        (1..=5).for_each(|s| {
            ring.push(frame(s));
        });
        let status = ring.status();
        assert_eq!((status.oldest, status.newest, status.dropped), (3, 5, 2));
        let newest = v1::Frame::decode(&*ring.at_or_after(5).unwrap().1).unwrap();
        assert_eq!((newest.sequence, newest.dropped_frames), (5, 2));
    }

    proptest! {
        #[test]
        fn ring_is_bounded_and_without_gaps(bytes in 1_usize..400, pushes in 1_u64..60, acks in prop::collection::vec(0_u64..60, 0..5)) {
            let ring = ring(1800, bytes);
            for sequence in 1..=pushes {
                let status = ring.push(frame(sequence));
                prop_assert!(status.bytes <= bytes || status.frames == 1);
                prop_assert_eq!(status.newest - status.oldest + 1, status.frames as u64);
                prop_assert!(status.dropped < sequence);
            }
            for ack in acks {
                let status = ring.acknowledge(ack);
                prop_assert!(status.oldest == 0 || status.oldest > ack);
            }
        }
    }
}
