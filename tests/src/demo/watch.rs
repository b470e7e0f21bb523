//! Watches OptiPod at work until both workloads have their size, or time is up.

use std::{
    collections::{BTreeMap, HashSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    cluster::{AGENTS, COORDINATORS, Cluster, SYSTEM, WORKLOADS},
    read::{Look, Pod},
    screen::Screen,
    usage::{self, Histogram},
    verdict::{self, Snapshot, Story},
    view::{self, Scene},
};
use crate::interrupt;

/// From the policy to the verdict; a quiet emulated node needs less than a minute.
const LIMIT: Duration = Duration::from_mins(3);
/// Each look costs two kubectl starts, about 0.2 s of a core.
const POLL: Duration = Duration::from_secs(1);
/// Evidence of the start of a workload leaves a 60 s window late: sizes may go on moving a little.
const SETTLE: Duration = Duration::from_secs(20);

/// How it ended.
#[derive(Debug)]
pub struct Finish {
    /// The last complete snapshots, in the order of [`Story::ALL`].
    pub after: Vec<Snapshot>,
    /// From the policy to the first changed pod spec.
    pub first: Duration,
    /// From the policy to the verdict.
    pub all: Duration,
}

/// One demo being watched.
pub struct Watch<'a> {
    cluster: &'a Cluster,
    before: &'a [Snapshot],
    histograms: BTreeMap<String, Histogram>,
    told: HashSet<String>,
    begin: Instant,
    first: Option<Duration>,
    sized: Option<Instant>,
}

impl<'a> Watch<'a> {
    /// Starts the clock; `before` is in the order of [`Story::ALL`].
    pub fn new(cluster: &'a Cluster, before: &'a [Snapshot]) -> Self {
        let (histograms, told) = (BTreeMap::new(), HashSet::new());
        Self { cluster, before, histograms, told, begin: Instant::now(), first: None, sized: None }
    }

    /// Shows what happens until both workloads were resized in place; an error on a lost pod or when time is up.
    pub fn run(&mut self, screen: &mut Screen) -> Result<Finish> {
        let mut trouble = None;
        loop {
            interrupt::check()?;
            match self.cluster.look(true) {
                Ok(look) => {
                    self.measure();
                    self.show(&look, screen)?;
                    if let Some(finish) = self.finished(&look)? {
                        screen.keep();
                        return Ok(finish);
                    }
                }
                // A busy machine may lose an answer; the next look asks again.
                Err(error) => trouble = Some(error),
            }
            if self.begin.elapsed() > LIMIT {
                screen.keep();
                let trouble = trouble.map(|error| format!("; last trouble: {error:#}")).unwrap_or_default();
                bail!("not both workloads were resized within {} s{trouble}", LIMIT.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    fn stories(&self) -> impl Iterator<Item = (Story, &'a Snapshot)> + use<'a> {
        Story::ALL.into_iter().zip(self.before)
    }

    /// Adds a frame to the histograms. Usage is for the eye only: without it the story goes on.
    fn measure(&mut self) {
        let mut pages: BTreeMap<&str, Option<String>> = BTreeMap::new();
        for (story, before) in Story::ALL.into_iter().zip(self.before) {
            let Pod { node, container_id, .. } = &before.pod;
            let page = pages.entry(node).or_insert_with(|| self.cluster.agent_page(node).ok());
            let usage = page.as_deref().and_then(|page| usage::of(page, container_id));
            if let Some(usage) = usage {
                self.histograms.entry(story.workload().to_owned()).or_default().add(usage);
            }
        }
    }

    fn show(&mut self, look: &Look, screen: &mut Screen) -> Result<()> {
        for happening in &look.happenings {
            if self.told.insert(happening.key.clone()) {
                screen.stamp(&view::happening(happening))?;
            }
        }
        let none = Histogram::default();
        let (mut block, mut lines) = (format!("\n{:>6.1} s\n", screen.seconds()), Vec::new());
        for (story, before) in self.stories() {
            let workload = story.workload();
            let Some(pod) = look.pods.get(workload) else { continue };
            let histogram = self.histograms.get(workload).unwrap_or(&none);
            let opinion = look.opinions.get(workload);
            let scene = Scene { before: &before.pod.wanted, pod, opinion, histogram };
            block += &scene.block();
            lines.push(scene.line());
        }
        screen.show(&block, lines)
    }

    fn finished(&mut self, look: &Look) -> Result<Option<Finish>> {
        let mut sized = true;
        for (story, before) in self.stories() {
            let Some(pod) = look.pods.get(story.workload()) else { return Ok(None) };
            if verdict::lost(&before.pod, pod) {
                bail!("{} is another pod now, or its container was restarted: {pod:?}", pod.name);
            }
            if pod.wanted != before.pod.wanted && self.first.is_none() {
                self.first = Some(self.begin.elapsed());
            }
            sized &= verdict::resized(story, &before.pod.wanted, pod);
        }
        if !sized {
            return Ok(None);
        }
        // Until OptiPod itself says that both have their size; but a little to and fro need not end within our time.
        let since = *self.sized.get_or_insert_with(Instant::now);
        let settled = Story::ALL.iter().all(|story| {
            look.opinions.get(story.workload()).is_some_and(|opinion| opinion.phase != "InProgress")
        });
        if !settled && since.elapsed() < SETTLE {
            return Ok(None);
        }
        self.confirmed(look)
    }

    /// What the kernel enforces, read between two looks: it belongs to the pod as one of them saw it. A pod that moved
    /// on meanwhile is no failure; where `exec` is slow, its own CPU time is enough to move it.
    fn confirmed(&mut self, look: &Look) -> Result<Option<Finish>> {
        let (mut after, mut holds) = (Vec::new(), true);
        for (story, before) in self.stories() {
            let workload = story.workload();
            let Some(pod) = look.pods.get(workload) else { return Ok(None) };
            let cgroup = self.cluster.cgroup(pod)?;
            let again = self.cluster.look(true)?;
            let Some(later) = again.pods.get(workload) else { return Ok(None) };
            let of = |pod: &Pod| Snapshot { pod: pod.clone(), cgroup: cgroup.clone() };
            let right =
                |after: &Snapshot| verdict::checks(story, before, after).iter().all(|check| check.holds);
            let found = [of(later), of(pod)].into_iter().find(right);
            holds &= found.is_some();
            after.push(found.unwrap_or_else(|| of(later)));
        }
        // What does not hold now may still come: the kubelet reports before systemd has written everything.
        if !holds && self.begin.elapsed() < LIMIT {
            self.sized = None;
            return Ok(None);
        }
        let all = self.begin.elapsed();
        Ok(Some(Finish { after, first: self.first.unwrap_or(all), all }))
    }

    /// The histograms at the end, one workload after the other.
    pub fn histograms(&self) -> String {
        let show = |story: Story| {
            let histogram = self.histograms.get(story.workload())?;
            Some(format!("{}\n  used      {}\n", story.workload(), view::used(histogram)))
        };
        Story::ALL.into_iter().filter_map(show).collect()
    }
}

/// What a person needs who asks why it did not work.
pub fn diagnostics(cluster: &Cluster) -> String {
    let tail = "--tail=40";
    let questions: [(&str, Vec<&str>); 5] = [
        (
            "policies",
            vec!["--namespace", WORKLOADS, "get", "optimizationpolicies.optipod.io", "--output", "yaml"],
        ),
        ("pods", vec!["get", "pods", "--all-namespaces", "--output", "wide"]),
        (
            "events",
            vec!["--namespace", WORKLOADS, "get", "events", "--sort-by", ".metadata.creationTimestamp"],
        ),
        ("coordinators", vec!["--namespace", SYSTEM, "logs", COORDINATORS, "--prefix", tail]),
        ("agents", vec!["--namespace", SYSTEM, "logs", AGENTS, "--prefix", tail]),
    ];
    let answer = |(title, args): &(&str, Vec<&str>)| {
        let text = cluster.kubectl(args).unwrap_or_else(|error| format!("{error:#}\n"));
        format!("--- {title}\n{text}")
    };
    questions.iter().map(answer).collect()
}
