//! Faults as a scenario file writes them.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use super::file::Scenario;
use super::value::{Offset, Percent, Time};
use crate::simulated::faults::{ApiFault, Fault, Kind, Nodes, Pods, Requests, ResizeFault, Share};

/// One thing that goes wrong: when, and exactly one of the others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultEntry {
    /// It begins then.
    pub at: Time,
    /// It lasts this long; to the end when absent.
    #[serde(rename = "for", default)]
    pub lasts: Option<Time>,
    /// Kubelets do something else with resizes.
    #[serde(default)]
    pub resize: Option<ResizeEntry>,
    /// Nodes stop.
    #[serde(default)]
    pub node_lost: Option<NodesEntry>,
    /// Agents stop.
    #[serde(default)]
    pub agent_lost: Option<NodesEntry>,
    /// Clocks of agents are off.
    #[serde(default)]
    pub agent_clock: Option<ClockEntry>,
    /// Counters start at zero again.
    #[serde(default)]
    pub counters_reset: Option<PodsEntry>,
    /// Kubelets end pods because memory is short.
    #[serde(default)]
    pub evicted: Option<PodsEntry>,
    /// The API server misbehaves.
    #[serde(default)]
    pub api: Option<ApiEntry>,
    /// The API server is not there.
    #[serde(default)]
    pub api_down: Option<Nothing>,
    /// Watches break.
    #[serde(default)]
    pub watch_cut: Option<WatchEntry>,
    /// Somebody else changes pods between the dry run of a resize and the patch.
    #[serde(default)]
    pub conflict: Option<PodsEntry>,
    /// The leading coordinator dies.
    #[serde(default)]
    pub leader_killed: Option<Nothing>,
}

/// No more to say: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Which nodes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodesEntry {
    /// Their names; all when absent.
    #[serde(default)]
    pub nodes: Vec<String>,
}

/// Which pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodsEntry {
    /// Only of this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Only of this workload.
    #[serde(default)]
    pub workload: Option<String>,
    /// Only this share, drawn by name.
    #[serde(default)]
    pub share: Percent,
}

impl PodsEntry {
    fn pods(&self) -> Pods {
        Pods { namespace: self.namespace.clone(), workload: self.workload.clone(), share: self.share.0 }
    }
}

/// What kubelets do with resizes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResizeEntry {
    /// What.
    pub answer: ResizeAnswer,
    /// With `Slow`: how long it takes.
    #[serde(default)]
    pub after: Option<Time>,
    /// Of which pods; of all when absent.
    #[serde(default)]
    pub pods: PodsEntry,
}

/// What a kubelet does with a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum ResizeAnswer {
    /// No room now.
    Deferred,
    /// Never.
    Infeasible,
    /// Allocated, and the runtime fails.
    Error,
    /// Later.
    Slow,
}

/// Whose clock, and how far it is off.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClockEntry {
    /// Ahead, or behind with a minus.
    pub offset: Offset,
    /// On these nodes; on all when absent.
    #[serde(default)]
    pub nodes: Vec<String>,
}

/// How the API server misbehaves: for which requests, and exactly one of `latency`, `status` and `connection`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ApiEntry {
    /// Only these verbs.
    #[serde(default)]
    pub verbs: Vec<String>,
    /// Only these resources, such as `pods/resize`.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Only dry runs, or only what is none.
    #[serde(default)]
    pub dry_run: Option<bool>,
    /// Only this share of them.
    #[serde(default)]
    pub share: Percent,
    /// Answers come later; in real time.
    #[serde(default)]
    pub latency: Option<Time>,
    /// It answers with this status and does nothing: 429, 500, 503 or 504.
    #[serde(default)]
    pub status: Option<u16>,
    /// The connection breaks.
    #[serde(default)]
    pub connection: Option<Connection>,
}

/// How a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Connection {
    /// Before the API server is asked.
    Reset,
    /// After it has done what was asked.
    AnswerLost,
}

/// Which watches break.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WatchEntry {
    /// Of these resources; of all when absent.
    #[serde(default)]
    pub resources: Vec<String>,
    /// What they resume from is gone (410): they must list again.
    #[serde(default)]
    pub gone: bool,
}

const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

impl FaultEntry {
    /// The faults that it stands for.
    ///
    /// # Errors
    /// When it does not say exactly one thing, or says it wrong.
    pub fn faults(&self) -> Result<Vec<Fault>> {
        let mut kinds = Vec::new();
        let mut things = 0;
        let mut thing = |found: Vec<Kind>| {
            things += 1;
            kinds.extend(found);
        };
        if let Some(entry) = &self.resize {
            thing(vec![Kind::Resize { pods: entry.pods.pods(), fault: entry.fault()? }]);
        }
        if let Some(entry) = &self.node_lost {
            thing(vec![Kind::NodeLost(Nodes(entry.nodes.clone()))]);
        }
        if let Some(entry) = &self.agent_lost {
            thing(vec![Kind::AgentLost(Nodes(entry.nodes.clone()))]);
        }
        if let Some(entry) = &self.agent_clock {
            let nodes = Nodes(entry.nodes.clone());
            thing(vec![Kind::AgentClock { nodes, offset_micros: entry.offset.micros }]);
        }
        if let Some(entry) = &self.counters_reset {
            thing(vec![Kind::CountersReset(entry.pods())]);
        }
        if let Some(entry) = &self.evicted {
            thing(vec![Kind::Evicted(entry.pods())]);
        }
        if let Some(entry) = &self.api {
            thing(vec![entry.kind()?]);
        }
        if self.api_down.is_some() {
            let refused =
                Kind::Api { requests: Requests::default(), share: Share::default(), fault: ApiFault::Reset };
            thing(vec![refused, Kind::WatchCut { resources: Vec::new(), gone: false }]);
        }
        if let Some(entry) = &self.watch_cut {
            thing(vec![Kind::WatchCut { resources: entry.resources.clone(), gone: entry.gone }]);
        }
        if let Some(entry) = &self.conflict {
            thing(vec![Kind::Conflict(entry.pods())]);
        }
        if self.leader_killed.is_some() {
            thing(vec![Kind::LeaderKilled]);
        }
        ensure!(
            things == 1,
            "says {things} things: expected exactly one of resize, nodeLost, agentLost, agentClock, countersReset, \
             evicted, api, apiDown, watchCut, conflict, leaderKilled"
        );
        let moment = self.counters_reset.is_some()
            || self.evicted.is_some()
            || self.watch_cut.is_some()
            || self.leader_killed.is_some();
        ensure!(self.lasts.is_none() || !moment, "for: this happens at one moment and does not last");
        let lasts = self.lasts.map(|time| time.0);
        Ok(kinds.into_iter().map(|kind| Fault { at: self.at.0, lasts, kind }).collect())
    }

    /// Whether the nodes and workloads that it names are there.
    pub(super) fn check_names(&self, nodes: &[String], scenario: &Scenario) -> Result<()> {
        let lost = [&self.node_lost, &self.agent_lost].into_iter().flatten().map(|entry| &entry.nodes);
        let named = lost.chain(self.agent_clock.as_ref().map(|entry| &entry.nodes)).flatten();
        for name in named {
            ensure!(nodes.contains(name), "nodes: {name:?} is none: expected sim-1 to sim-{}", nodes.len());
        }
        let pods = [
            self.resize.as_ref().map(|entry| &entry.pods),
            self.counters_reset.as_ref(),
            self.evicted.as_ref(),
            self.conflict.as_ref(),
        ];
        for entry in pods.into_iter().flatten() {
            if let Some(name) = &entry.workload
                && scenario.workload(name, entry.namespace.as_deref()).is_none()
            {
                bail!("workload: {name:?} is none of this scenario");
            }
        }
        Ok(())
    }
}

impl ResizeEntry {
    fn fault(&self) -> Result<ResizeFault> {
        Ok(match (self.answer, self.after) {
            (ResizeAnswer::Slow, Some(time)) => ResizeFault::Slow(time.0),
            (ResizeAnswer::Slow, None) => bail!("resize.after: `Slow` needs a time, such as 20s"),
            (_, Some(_)) => bail!("resize.after: only `Slow` takes a time"),
            (ResizeAnswer::Deferred, None) => ResizeFault::Deferred,
            (ResizeAnswer::Infeasible, None) => ResizeFault::Infeasible,
            (ResizeAnswer::Error, None) => ResizeFault::Error,
        })
    }
}

impl ApiEntry {
    fn kind(&self) -> Result<Kind> {
        let fault = match (self.latency, self.status, self.connection) {
            (Some(Time(latency)), None, None) => {
                ensure!(latency <= Duration::from_secs(60), "api.latency: expected at most 60s of real time");
                ApiFault::Latency(latency)
            }
            (None, Some(status), None) => {
                let known = [429, 500, 503, 504];
                ensure!(known.contains(&status), "api.status: {status}: expected 429, 500, 503 or 504");
                ApiFault::Status(status)
            }
            (None, None, Some(Connection::Reset)) => ApiFault::Reset,
            (None, None, Some(Connection::AnswerLost)) => ApiFault::AnswerLost,
            _ => bail!("api: expected exactly one of latency, status and connection"),
        };
        for verb in &self.verbs {
            ensure!(VERBS.contains(&verb.as_str()), "api.verbs: {verb:?}: expected {}", VERBS.join(", "));
        }
        let requests =
            Requests { verbs: self.verbs.clone(), resources: self.resources.clone(), dry_run: self.dry_run };
        Ok(Kind::Api { requests, share: self.share.0, fault })
    }
}
