//! Writes Recommendations: in order for each workload, the newest in place of the one that waits, and never one
//! workload twice within five seconds. What failed is tried again, unless something newer is to be said.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use optipod_common::ident::WorkloadRef;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::api::recommendation::RecommendationStatus;
use crate::index::OwnerObject;
use crate::lease::Leadership;
use crate::report::Desk;

/// Least time between two writes of one workload: a resize is several changes of its status within seconds, and whoever
/// watches wants the last.
const PACE: Duration = Duration::from_secs(5);

/// Longest time until a write that failed is tried again.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Writes under way at once: many at the start, few afterwards.
const WRITERS: usize = 4;

/// A write that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is to become of a workload's Recommendation.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// It says this, and goes with this object, when that is known.
    Write(Box<RecommendationStatus>, Option<OwnerObject>),
    /// It goes away: its workload is gone.
    Delete,
}

/// Starts the writer. It ends when the sender is dropped; what waits then is said by the next leader, which
/// also sweeps what is gone.
pub fn spawn(
    desk: Desk,
    leadership: watch::Receiver<Leadership>,
) -> mpsc::UnboundedSender<(WorkloadRef, Entry)> {
    // the channel stays short: the other end of it does nothing but sort into the backlog, which is bounded by the
    // number of workloads
    let (sender, mut entries) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut backlog = Backlog::default();
        let mut writers = JoinSet::new();
        loop {
            let mut changed = leadership.clone();
            changed.mark_unchanged();
            // what a leader of before has to say would overwrite what the new one says
            if !leadership.borrow().holds(Instant::now()) {
                backlog.clear();
            }
            while writers.len() < WRITERS
                && let Some((workload, entry)) = backlog.take(Instant::now())
            {
                let desk = desk.clone();
                writers.spawn(async move {
                    let written = write(&desk, &workload, &entry).await;
                    (workload, entry, written)
                });
            }
            let due = backlog.due().filter(|_| writers.len() < WRITERS);
            tokio::select! {
                entry = entries.recv() => match entry {
                    Some((workload, entry)) => backlog.put(workload, entry, Instant::now()),
                    None => return,
                },
                Some(ended) = writers.join_next() => match ended {
                    Ok((workload, _, true)) => backlog.written(&workload, Instant::now()),
                    Ok((workload, entry, false)) => backlog.failed(&workload, entry, Instant::now()),
                    // nobody knows whose it was: all that are being written may be written again
                    Err(error) => {
                        warn!(%error, "a writer of recommendations died");
                        backlog.forget_writers(Instant::now());
                    }
                },
                () = sleep_until(due), if due.is_some() => {}
                // a term that ended while nothing was due; at shutdown nobody changes it any more
                Ok(()) = changed.changed() => {}
            }
        }
    });
    sender
}

async fn write(desk: &Desk, workload: &WorkloadRef, entry: &Entry) -> bool {
    let write = async {
        match entry {
            Entry::Write(status, owner) => desk.write_recommendation(workload, owner.as_ref(), status).await,
            Entry::Delete => desk.delete_recommendation(workload).await,
        }
    };
    match tokio::time::timeout(TIMEOUT, write).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(%workload, %error, "recommendation not written; it is tried again");
            false
        }
        Err(_) => {
            warn!(%workload, "recommendation not written: no answer for 5 s; it is tried again");
            false
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// What is to be written. Each workload is in it once, and is handed out only when nobody writes it.
#[derive(Debug, Default)]
struct Backlog {
    waiting: HashMap<WorkloadRef, Entry>,
    /// When each of those that wait and are not being written may be written; the number keeps the order of arrival.
    queue: BTreeMap<(Instant, u64), WorkloadRef>,
    writing: HashSet<WorkloadRef>,
    /// Those being written whose entry is of an earlier term.
    abandoned: HashSet<WorkloadRef>,
    /// Those that were written a moment ago, until when they rest.
    resting: HashMap<WorkloadRef, Instant>,
    /// Those whose last write failed, with the time that was waited after it.
    failures: HashMap<WorkloadRef, Duration>,
    arrivals: u64,
}

impl Backlog {
    /// Replaces what waits for this workload.
    fn put(&mut self, workload: WorkloadRef, entry: Entry, now: Instant) {
        let waited = self.waiting.insert(workload.clone(), entry).is_some();
        if !waited && !self.writing.contains(&workload) {
            let from = self.resting.get(&workload).map_or(now, |until| (*until).max(now));
            self.enqueue(workload, from);
        }
    }

    /// The next that may be written, if any. It is being written until [`Self::written`] or [`Self::failed`].
    fn take(&mut self, now: Instant) -> Option<(WorkloadRef, Entry)> {
        let first = self.queue.first_entry().filter(|first| first.key().0 <= now)?;
        let workload = first.remove();
        let entry = self.waiting.remove(&workload)?;
        self.writing.insert(workload.clone());
        Some((workload, entry))
    }

    /// When the next may be written.
    fn due(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    fn written(&mut self, workload: &WorkloadRef, now: Instant) {
        self.abandoned.remove(workload);
        self.failures.remove(workload);
        self.rest(workload, now, PACE);
    }

    /// It is tried again later, unless there is news by now.
    fn failed(&mut self, workload: &WorkloadRef, entry: Entry, now: Instant) {
        if self.abandoned.remove(workload) {
            return self.rest(workload, now, PACE);
        }
        let wait = self.failures.get(workload).map_or(PACE, |last| (*last * 2).min(LONGEST_WAIT));
        self.failures.insert(workload.clone(), wait);
        self.waiting.entry(workload.clone()).or_insert(entry);
        self.rest(workload, now, wait);
    }

    fn rest(&mut self, workload: &WorkloadRef, now: Instant, time: Duration) {
        self.writing.remove(workload);
        self.resting.retain(|_, until| *until > now);
        self.resting.insert(workload.clone(), now + time);
        if self.waiting.contains_key(workload) {
            self.enqueue(workload.clone(), now + time);
        }
    }

    /// Nothing waits any more; what is being written goes on, and is not tried again.
    fn clear(&mut self) {
        self.waiting.clear();
        self.queue.clear();
        self.failures.clear();
        self.resting.clear();
        self.abandoned.clone_from(&self.writing);
    }

    /// Whoever is being written may be written again.
    fn forget_writers(&mut self, now: Instant) {
        self.abandoned.clear();
        for workload in std::mem::take(&mut self.writing) {
            self.rest(&workload, now, PACE);
        }
    }

    fn enqueue(&mut self, workload: WorkloadRef, from: Instant) {
        self.arrivals += 1;
        self.queue.insert((from, self.arrivals), workload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> WorkloadRef {
        WorkloadRef { kind: "Deployment".to_owned(), namespace: "shop".to_owned(), name: name.to_owned() }
    }

    fn says(message: &str) -> Entry {
        let message = message.to_owned();
        Entry::Write(Box::new(RecommendationStatus { message, ..RecommendationStatus::default() }), None)
    }

    #[test]
    fn the_newest_replaces_the_one_that_waits() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        backlog.put(workload("web"), says("1"), now);
        backlog.put(workload("api"), says("other"), now);
        backlog.put(workload("web"), says("2"), now);
        assert_eq!(backlog.take(now), Some((workload("web"), says("2"))));
        assert_eq!(backlog.take(now), Some((workload("api"), says("other"))));
        assert_eq!(backlog.take(now), None);
    }

    #[test]
    fn one_workload_is_never_written_twice_at_once_and_rests_in_between() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        backlog.put(workload("web"), says("1"), now);
        assert!(backlog.take(now).is_some());
        backlog.put(workload("web"), says("2"), now);
        assert_eq!(backlog.take(now + PACE), None, "it is being written");
        let done = now + Duration::from_secs(1);
        backlog.written(&workload("web"), done);
        assert_eq!(backlog.take(done), None, "it rests");
        assert_eq!(backlog.due(), Some(done + PACE));
        assert_eq!(backlog.take(done + PACE), Some((workload("web"), says("2"))));

        backlog.written(&workload("web"), done + PACE);
        assert_eq!(backlog.due(), None);
        backlog.put(workload("web"), Entry::Delete, done + PACE);
        assert_eq!(backlog.due(), Some(done + PACE * 2), "it rests also when the news comes later");
    }

    #[test]
    fn what_failed_is_tried_again_ever_later() {
        let (mut backlog, mut now) = (Backlog::default(), Instant::now());
        backlog.put(workload("web"), says("1"), now);
        for wait in [5, 10, 20, 40, 80, 160, 300, 300] {
            let (workload, entry) = backlog.take(now).expect("its time has come");
            backlog.failed(&workload, entry, now);
            assert_eq!(backlog.due(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        assert_eq!(backlog.take(now), Some((workload("web"), says("1"))));
        backlog.written(&workload("web"), now);
        backlog.put(workload("web"), says("2"), now);
        assert_eq!(backlog.due(), Some(now + PACE), "a success makes up for all failures");
    }

    #[test]
    fn news_during_a_write_that_fails_wins() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        backlog.put(workload("web"), says("1"), now);
        let (web, old) = backlog.take(now).expect("it waits");
        backlog.put(workload("web"), says("2"), now);
        backlog.failed(&web, old, now);
        assert_eq!(backlog.take(now + PACE), Some((workload("web"), says("2"))));
    }

    #[test]
    fn a_leader_of_before_says_nothing() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        backlog.put(workload("web"), says("1"), now);
        backlog.clear();
        assert_eq!((backlog.take(now), backlog.due()), (None, None));
        backlog.put(workload("web"), says("2"), now);
        let (web, old) = backlog.take(now).expect("it waits");
        backlog.clear();
        backlog.failed(&web, old, now);
        assert_eq!(backlog.due(), None, "what a term began, another does not repeat");
    }

    #[test]
    fn a_writer_that_died_blocks_nobody() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        backlog.put(workload("web"), says("1"), now);
        assert!(backlog.take(now).is_some());
        backlog.put(workload("web"), says("2"), now);
        backlog.forget_writers(now);
        assert_eq!(backlog.take(now + PACE), Some((workload("web"), says("2"))));
    }
}
