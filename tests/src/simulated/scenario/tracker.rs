//! When expectations are decided. Pure.

use std::time::Duration;

use super::expect::{Expectation, Judgement, Span, View};
use super::value::Time;

/// All expectations of a run, and how each was decided.
#[derive(Clone, Debug)]
pub struct Tracker {
    entries: Vec<Entry>,
    end: Duration,
}

#[derive(Clone, Debug)]
struct Entry {
    expectation: Expectation,
    last: Option<Judgement>,
    verdict: Option<Verdict>,
}

/// How an expectation was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It held.
    pub held: bool,
    /// When that was clear.
    pub at: Duration,
    /// What was seen then.
    pub seen: String,
}

impl Tracker {
    /// Nothing is decided. The run is over at `end`.
    pub fn new(expectations: Vec<Expectation>, end: Duration) -> Self {
        let entry = |expectation| Entry { expectation, last: None, verdict: None };
        Self { entries: expectations.into_iter().map(entry).collect(), end }
    }

    /// Judges what is not decided yet by what is seen `now`.
    pub fn look(&mut self, now: Duration, view: &View) {
        let end = self.end;
        for entry in self.entries.iter_mut().filter(|entry| entry.verdict.is_none()) {
            entry.look(now, view, end);
        }
    }

    /// Whether nothing is open.
    pub fn decided(&self) -> bool {
        self.entries.iter().all(|entry| entry.verdict.is_some())
    }

    /// Expectations that are not decided.
    pub fn open(&self) -> usize {
        self.entries.iter().filter(|entry| entry.verdict.is_none()).count()
    }

    /// Expectations in the order of the file. What is open was not decided: the run broke off.
    pub fn results(&self) -> impl Iterator<Item = (&Expectation, Option<&Verdict>)> {
        self.entries.iter().map(|entry| (&entry.expectation, entry.verdict.as_ref()))
    }

    /// Whether all held.
    pub fn all_held(&self) -> bool {
        self.entries.iter().all(|entry| entry.verdict.as_ref().is_some_and(|verdict| verdict.held))
    }
}

impl Entry {
    fn look(&mut self, now: Duration, view: &View, end: Duration) {
        let Expectation { by, at, always, .. } = &self.expectation;
        if let Some(Time(by)) = *by {
            let judgement = self.expectation.judge(view);
            if judgement.holds || now >= by {
                self.decide(now, judgement);
            }
        } else if let Some(Time(at)) = *at {
            if now >= at {
                self.decide(now, self.expectation.judge(view));
            }
        } else if let Some(Span { from, to }) = *always {
            let to = to.map_or(end, |to| to.0);
            if now < from.unwrap_or_default().0 {
                return;
            }
            // what is seen after the end says nothing about before, unless nothing was seen before
            let judgement = match self.last.take().filter(|_| now > to) {
                Some(last) => last,
                None => self.expectation.judge(view),
            };
            if !judgement.holds || now >= to {
                self.decide(now, judgement);
            } else {
                self.last = Some(judgement);
            }
        }
    }

    fn decide(&mut self, at: Duration, judgement: Judgement) {
        let Judgement { holds: held, seen } = judgement;
        self.verdict = Some(Verdict { held, at, seen });
    }
}

#[cfg(test)]
mod tests {
    use super::super::expect::SeenPod;
    use super::*;

    fn view(restarts: u64) -> View {
        View { pods: vec![SeenPod { restarts, ..SeenPod::default() }], ..View::default() }
    }

    /// Looks every ten seconds at so many restarts; the verdict with its moment in seconds.
    fn play(text: &str, restarts: &[u64]) -> Option<(bool, u64)> {
        let expectation = serde_yaml_ng::from_str(text).unwrap();
        let mut tracker = Tracker::new(vec![expectation], Duration::from_secs(60));
        for (look, restarts) in restarts.iter().enumerate() {
            tracker.look(Duration::from_secs(10 * look as u64), &view(*restarts));
        }
        let (_, verdict) = tracker.results().next().unwrap();
        assert_eq!(tracker.all_held(), verdict.is_some_and(|verdict| verdict.held));
        verdict.map(|verdict| (verdict.held, verdict.at.as_secs()))
    }

    #[test]
    fn by_is_the_first_moment_at_which_it_holds() {
        let text = "{by: 20s, restarts: {atLeast: 2}}";
        assert_eq!(play(text, &[0, 2, 0, 0]), Some((true, 10)));
        assert_eq!(play(text, &[0, 1, 1, 2]), Some((false, 20)));
        assert_eq!(play(text, &[0, 1]), None);
    }

    #[test]
    fn at_is_one_moment() {
        let text = "{at: 15s, restarts: {atMost: 0}}";
        assert_eq!(play(text, &[9, 9, 0]), Some((true, 20)));
        assert_eq!(play(text, &[0, 0, 1]), Some((false, 20)));
    }

    #[test]
    fn always_ends_at_the_first_violation() {
        assert_eq!(play("{always: {}, restarts: {atMost: 0}}", &[0, 0, 1, 0]), Some((false, 20)));
        assert_eq!(play("{always: {}, restarts: {atMost: 0}}", &[0; 7]), Some((true, 60)));
        assert_eq!(
            play("{always: {from: 20s, to: 30s}, restarts: {atMost: 0}}", &[1, 1, 0, 0, 1]),
            Some((true, 30))
        );
        assert_eq!(play("{always: {to: 15s}, restarts: {atMost: 0}}", &[0, 0, 1]), Some((true, 20)));
    }
}
