//! What a scenario expects, and whether it holds of what is seen. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail, ensure};
use optipod_common::resources::{Amounts, Resources};
use optipod_coordinator::api::v1alpha1::{OptimizationPolicyStatus, WorkloadStatus};
use serde::Deserialize;

use super::file::Scenario;
use super::value::{Cpu, Memory, Percent, Time};

/// One statement: when, and exactly one of the others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expectation {
    /// It holds at some moment until then.
    #[serde(default)]
    pub by: Option<Time>,
    /// It holds at this moment.
    #[serde(default)]
    pub at: Option<Time>,
    /// It holds all the time.
    #[serde(default)]
    pub always: Option<Span>,
    /// Pods have another size than their owner declares, and have it in the kernel.
    #[serde(default)]
    pub resized: Option<Resized>,
    /// Containers started again.
    #[serde(default)]
    pub restarts: Option<Restarts>,
    /// Pods whose status shows a reason.
    #[serde(default)]
    pub pods: Option<Shown>,
    /// What a policy's status says of a workload.
    #[serde(default)]
    pub status: Option<Status>,
    /// What is recommended for a container.
    #[serde(default)]
    pub recommendation: Option<Recommendation>,
    /// What pods request.
    #[serde(default)]
    pub requests: Option<Requests>,
    /// Resizes that coordinators wrote: requests that are no dry runs, whatever came of them.
    #[serde(default)]
    pub writes: Option<Count>,
    /// Resizes that coordinators tried: with the dry runs.
    #[serde(default)]
    pub tries: Option<Count>,
    /// A metric of the leading coordinator.
    #[serde(default)]
    pub metric: Option<Metric>,
}

/// From when to when; the whole run where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Span {
    /// From then on.
    #[serde(default)]
    pub from: Option<Time>,
    /// Until then.
    #[serde(default)]
    pub to: Option<Time>,
}

/// Which pods are resized.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Resized {
    /// Of this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Of this workload; of all when absent.
    #[serde(default)]
    pub workload: Option<String>,
    /// At least this share.
    #[serde(default)]
    pub at_least: Option<Percent>,
    /// At most this share.
    #[serde(default)]
    pub at_most: Option<Percent>,
}

/// How many restarts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Restarts {
    /// Of this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Of this workload; of all when absent.
    #[serde(default)]
    pub workload: Option<String>,
    /// At least, all containers together.
    #[serde(default)]
    pub at_least: Option<u64>,
    /// At most, all containers together.
    #[serde(default)]
    pub at_most: Option<u64>,
}

/// How many pods show a reason.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Shown {
    /// The pod's reason, or why a container of it waits, ended or ended the last time: `Evicted`, `OOMKilled`,
    /// `CrashLoopBackOff`, ...
    pub show: String,
    /// Of this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Of this workload; of all when absent.
    #[serde(default)]
    pub workload: Option<String>,
    /// At least so many pods.
    #[serde(default)]
    pub at_least: Option<u64>,
    /// At most so many pods.
    #[serde(default)]
    pub at_most: Option<u64>,
}

/// What a policy's status says of a workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Status {
    /// Name of the policy; any when absent.
    #[serde(default)]
    pub policy: Option<String>,
    /// Which workload.
    pub workload: String,
    /// `Applied`, `InProgress`, `Recommended`, `Skipped` or `Failed`.
    #[serde(default)]
    pub phase: Option<String>,
    /// The reason.
    #[serde(default)]
    pub reason: Option<String>,
    /// Part of the message.
    #[serde(default)]
    pub message: Option<String>,
}

/// What is recommended for a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Recommendation {
    /// Name of the policy; any when absent.
    #[serde(default)]
    pub policy: Option<String>,
    /// Which workload.
    pub workload: String,
    /// Which container.
    pub container: String,
    /// CPU request.
    #[serde(default)]
    pub cpu: Option<CpuRange>,
    /// Memory request.
    #[serde(default)]
    pub memory: Option<MemoryRange>,
}

/// What all pods of a workload request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Requests {
    /// Which workload.
    pub workload: String,
    /// Which container.
    pub container: String,
    /// CPU.
    #[serde(default)]
    pub cpu: Option<CpuRange>,
    /// Memory.
    #[serde(default)]
    pub memory: Option<MemoryRange>,
}

/// CPU between two amounts, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CpuRange {
    /// At least.
    pub from: Cpu,
    /// At most.
    pub to: Cpu,
}

/// Memory between two amounts, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MemoryRange {
    /// At least.
    pub from: Memory,
    /// At most.
    pub to: Memory,
}

/// How many resizes, by pod and in all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Count {
    /// Of pods of this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Of pods of this workload; of all when absent.
    #[serde(default)]
    pub workload: Option<String>,
    /// At most for one pod.
    #[serde(default)]
    pub per_pod_at_most: Option<u64>,
    /// At least, all pods together.
    #[serde(default)]
    pub at_least: Option<u64>,
    /// At most, all pods together.
    #[serde(default)]
    pub at_most: Option<u64>,
}

/// A metric of the leading coordinator: the sum of all series that have the labels.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Labels that a series must have.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// At least.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// At most.
    #[serde(default)]
    pub at_most: Option<f64>,
}

/// A pod of the scenario, as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The workload of the scenario that it belongs to.
    pub workload: String,
    /// Restarts of all its containers.
    pub restarts: u64,
    /// It failed or succeeded: nobody resizes it any more.
    pub ended: bool,
    /// Reasons that its status shows.
    pub shows: BTreeSet<String>,
    /// Its containers.
    pub containers: Vec<SeenContainer>,
}

/// A container of a pod, as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenContainer {
    /// Its name.
    pub name: String,
    /// What its owner declares.
    pub declared: Resources,
    /// What its pod wants.
    pub desired: Resources,
    /// What the kubelet says that it has.
    pub actual: Resources,
}

impl SeenPod {
    /// It has another size than its owner declares, and has it in the kernel.
    pub fn resized(&self) -> bool {
        self.containers.iter().any(|container| container.desired != container.declared)
            && self.containers.iter().all(|container| container.desired == container.actual)
    }
}

/// What is seen at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Pods of the scenario.
    pub pods: Vec<SeenPod>,
    /// Statuses of policies by name.
    pub policies: Vec<(String, OptimizationPolicyStatus)>,
    /// Resizes by namespace and name of the pod.
    pub resizes: BTreeMap<(String, String), Tried>,
    /// Metrics of the leading coordinator, in the text format.
    pub metrics: String,
}

/// Requests on `pods/resize` of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Dry runs.
    pub dry_runs: u64,
    /// The others.
    pub writes: u64,
}

/// Whether something holds, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// It holds.
    pub holds: bool,
    /// In words, with the numbers.
    pub seen: String,
}

impl Expectation {
    /// Whether it can be decided in this scenario.
    pub(super) fn check(&self, scenario: &Scenario) -> Result<()> {
        let whens = [self.by.is_some(), self.at.is_some(), self.always.is_some()];
        ensure!(
            whens.into_iter().filter(|said| *said).count() == 1,
            "expected exactly one of by, at and always"
        );
        let span = self.always.unwrap_or_default();
        for (field, time) in
            [("by", self.by), ("at", self.at), ("always.from", span.from), ("always.to", span.to)]
        {
            if let Some(time) = time {
                scenario.within(time).map_err(|error| error.context(field))?;
            }
        }
        let things = [
            self.resized.is_some(),
            self.restarts.is_some(),
            self.pods.is_some(),
            self.status.is_some(),
            self.recommendation.is_some(),
            self.requests.is_some(),
            self.writes.is_some(),
            self.tries.is_some(),
            self.metric.is_some(),
        ];
        ensure!(
            things.into_iter().filter(|said| *said).count() == 1,
            "expected exactly one of resized, restarts, pods, status, recommendation, requests, writes, tries and metric"
        );
        for name in self.workloads() {
            if scenario.workload(name, None).is_none() {
                bail!("workload: {name:?} is none of this scenario");
            }
        }
        ensure!(self.bounded(), "says neither what is expected at least nor at most");
        if let Some(phase) = self.status.as_ref().and_then(|status| status.phase.as_deref()) {
            let known = ["Applied", "InProgress", "Recommended", "Skipped", "Failed"];
            ensure!(known.contains(&phase), "status.phase: {phase:?}: expected {}", known.join(", "));
        }
        Ok(())
    }

    fn workloads(&self) -> impl Iterator<Item = &str> {
        let optional = [
            self.resized.as_ref().and_then(|e| e.workload.as_deref()),
            self.restarts.as_ref().and_then(|e| e.workload.as_deref()),
            self.pods.as_ref().and_then(|e| e.workload.as_deref()),
            self.writes.as_ref().and_then(|e| e.workload.as_deref()),
            self.tries.as_ref().and_then(|e| e.workload.as_deref()),
            self.status.as_ref().map(|e| e.workload.as_str()),
            self.recommendation.as_ref().map(|e| e.workload.as_str()),
            self.requests.as_ref().map(|e| e.workload.as_str()),
        ];
        optional.into_iter().flatten()
    }

    /// Whether it can be wrong.
    fn bounded(&self) -> bool {
        let count = |e: &Count| e.per_pod_at_most.is_some() || e.at_least.is_some() || e.at_most.is_some();
        self.resized.as_ref().is_none_or(|e| e.at_least.is_some() || e.at_most.is_some())
            && self.restarts.as_ref().is_none_or(|e| e.at_least.is_some() || e.at_most.is_some())
            && self.pods.as_ref().is_none_or(|e| e.at_least.is_some() || e.at_most.is_some())
            && self
                .status
                .as_ref()
                .is_none_or(|e| e.phase.is_some() || e.reason.is_some() || e.message.is_some())
            && self.recommendation.as_ref().is_none_or(|e| e.cpu.is_some() || e.memory.is_some())
            && self.requests.as_ref().is_none_or(|e| e.cpu.is_some() || e.memory.is_some())
            && self.writes.as_ref().is_none_or(count)
            && self.tries.as_ref().is_none_or(count)
            && self.metric.as_ref().is_none_or(|e| e.at_least.is_some() || e.at_most.is_some())
    }

    /// Whether it holds of this view.
    pub fn judge(&self, view: &View) -> Judgement {
        self.resized
            .as_ref()
            .map(|e| e.judge(view))
            .or_else(|| self.restarts.as_ref().map(|e| e.judge(view)))
            .or_else(|| self.pods.as_ref().map(|e| e.judge(view)))
            .or_else(|| self.status.as_ref().map(|e| e.judge(view)))
            .or_else(|| self.recommendation.as_ref().map(|e| e.judge(view)))
            .or_else(|| self.requests.as_ref().map(|e| e.judge(view)))
            .or_else(|| self.writes.as_ref().map(|e| e.judge(view, |tried| tried.writes)))
            .or_else(|| self.tries.as_ref().map(|e| e.judge(view, |tried| tried.writes + tried.dry_runs)))
            .or_else(|| self.metric.as_ref().map(|e| e.judge(view)))
            .unwrap_or(Judgement { holds: false, seen: "nothing is expected".to_owned() })
    }
}

fn within<T: PartialOrd>(value: &T, at_least: Option<&T>, at_most: Option<&T>) -> bool {
    at_least.is_none_or(|least| value >= least) && at_most.is_none_or(|most| value <= most)
}

fn selected<'a>(
    view: &'a View,
    namespace: Option<&'a str>,
    workload: Option<&'a str>,
) -> impl Iterator<Item = &'a SeenPod> {
    view.pods.iter().filter(move |pod| {
        namespace.is_none_or(|namespace| pod.namespace == namespace)
            && workload.is_none_or(|workload| pod.workload == workload)
    })
}

impl Resized {
    fn judge(&self, view: &View) -> Judgement {
        let pods = selected(view, self.namespace.as_deref(), self.workload.as_deref());
        let pods: Vec<_> = pods.filter(|pod| !pod.ended).collect();
        let count = pods.iter().filter(|pod| pod.resized()).count();
        let share = if pods.is_empty() { 0.0 } else { count as f64 / pods.len() as f64 };
        let bound = |percent: Option<Percent>| percent.map(|percent| percent.0.value());
        let holds =
            !pods.is_empty() && within(&share, bound(self.at_least).as_ref(), bound(self.at_most).as_ref());
        Judgement { holds, seen: format!("{count} of {} pods are resized", pods.len()) }
    }
}

impl Restarts {
    fn judge(&self, view: &View) -> Judgement {
        let pods = selected(view, self.namespace.as_deref(), self.workload.as_deref());
        let count = pods.map(|pod| pod.restarts).sum::<u64>();
        let holds = within(&count, self.at_least.as_ref(), self.at_most.as_ref());
        Judgement { holds, seen: format!("{count} restarts") }
    }
}

impl Shown {
    fn judge(&self, view: &View) -> Judgement {
        let pods: Vec<_> = selected(view, self.namespace.as_deref(), self.workload.as_deref()).collect();
        let count = pods.iter().filter(|pod| pod.shows.contains(&self.show)).count();
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let holds = within(&count, self.at_least.as_ref(), self.at_most.as_ref());
        Judgement { holds, seen: format!("{count} of {} pods show {}", pods.len(), self.show) }
    }
}

/// What the policies of that name (of any name) say of a workload.
fn said<'a>(view: &'a View, policy: Option<&'a str>, workload: &'a str) -> Vec<&'a WorkloadStatus> {
    let policies = view.policies.iter().filter(|(name, _)| policy.is_none_or(|policy| policy == name));
    policies.flat_map(|(_, status)| &status.workloads).filter(|w| w.name == workload).collect()
}

impl Status {
    fn judge(&self, view: &View) -> Judgement {
        let said = said(view, self.policy.as_deref(), &self.workload);
        let fits = |w: &&WorkloadStatus| {
            self.phase.as_ref().is_none_or(|phase| *phase == format!("{:?}", w.status))
                && self.reason.as_ref().is_none_or(|reason| *reason == w.reason)
                && self.message.as_ref().is_none_or(|message| w.message.contains(message.as_str()))
        };
        let holds = said.iter().any(fits);
        let words = |w: &&WorkloadStatus| format!("{:?} {} {:?}", w.status, w.reason, w.message);
        let seen = said.iter().map(words).collect::<Vec<_>>().join("; ");
        Judgement { holds, seen: if seen.is_empty() { "nothing is said of it".to_owned() } else { seen } }
    }
}

impl Recommendation {
    fn judge(&self, view: &View) -> Judgement {
        let said = said(view, self.policy.as_deref(), &self.workload);
        let found = said.iter().flat_map(|w| &w.recommendations).find(|c| c.container == self.container);
        let Some(found) = found else {
            return Judgement { holds: false, seen: "nothing is recommended".to_owned() };
        };
        let cpu = found.cpu.as_deref().and_then(|text| text.parse().ok());
        let memory = found.memory.as_deref().and_then(|text| text.parse().ok());
        judge_amounts(Amounts { cpu, memory }, self.cpu, self.memory)
    }
}

impl Requests {
    fn judge(&self, view: &View) -> Judgement {
        let pods = selected(view, None, Some(&self.workload)).filter(|pod| !pod.ended);
        let containers = pods.flat_map(|pod| &pod.containers).filter(|c| c.name == self.container);
        let judged: Vec<_> =
            containers.map(|c| judge_amounts(c.desired.requests, self.cpu, self.memory)).collect();
        let wrong = judged.iter().find(|judgement| !judgement.holds);
        match wrong.or(judged.first()) {
            Some(judgement) => judgement.clone(),
            None => Judgement { holds: false, seen: "there is no such container".to_owned() },
        }
    }
}

fn judge_amounts(amounts: Amounts, cpu: Option<CpuRange>, memory: Option<MemoryRange>) -> Judgement {
    let cpu_fits = cpu.is_none_or(|range| {
        amounts.cpu.is_some_and(|cpu| within(&cpu, Some(&range.from.0), Some(&range.to.0)))
    });
    let memory_fits = memory.is_none_or(|range| {
        amounts.memory.is_some_and(|memory| within(&memory, Some(&range.from.0), Some(&range.to.0)))
    });
    let shown = |amount: Option<String>| amount.unwrap_or_else(|| "none".to_owned());
    let cpu = shown(amounts.cpu.map(|amount| amount.to_string()));
    let memory = shown(amounts.memory.map(|amount| amount.to_string()));
    Judgement { holds: cpu_fits && memory_fits, seen: format!("cpu {cpu}, memory {memory}") }
}

impl Count {
    fn judge(&self, view: &View, count: impl Fn(&Tried) -> u64) -> Judgement {
        let counted = |pod: &SeenPod| {
            let key = (pod.namespace.clone(), pod.name.clone());
            view.resizes.get(&key).map_or(0, &count)
        };
        let pods = selected(view, self.namespace.as_deref(), self.workload.as_deref());
        let pods: Vec<_> = pods.map(|pod| (counted(pod), pod)).collect();
        let total: u64 = pods.iter().map(|(count, _)| count).sum();
        let most = pods.iter().max_by_key(|(count, _)| *count);
        let (peak, whose) =
            most.map_or((0, String::new()), |(count, pod)| (*count, format!(" ({})", pod.name)));
        let holds = within(&total, self.at_least.as_ref(), self.at_most.as_ref())
            && within(&peak, None, self.per_pod_at_most.as_ref());
        Judgement { holds, seen: format!("{total} for {} pods, at most {peak} for one{whose}", pods.len()) }
    }
}

impl Metric {
    fn judge(&self, view: &View) -> Judgement {
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let value = sum(&view.metrics, &self.name, &labels);
        let holds = within(&value, self.at_least.as_ref(), self.at_most.as_ref());
        Judgement { holds, seen: format!("{value}") }
    }
}

/// Sum of all series of a metric that have the labels (as `name="value"`); 0 when there is none.
pub fn sum(metrics: &str, name: &str, labels: &[String]) -> f64 {
    let wanted = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label.as_str()))
    };
    metrics.lines().filter(wanted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match (self.by, self.at, self.always) {
            (Some(by), ..) => format!("by {by}"),
            (_, Some(at), _) => format!("at {at}"),
            (.., Some(Span { from, to })) => {
                let from = from.map_or_else(String::new, |from| format!(" from {from}"));
                let to = to.map_or_else(String::new, |to| format!(" to {to}"));
                format!("always{from}{to}")
            }
            _ => String::new(),
        };
        write!(f, "{when}: {}", self.words())
    }
}

impl Expectation {
    fn words(&self) -> String {
        let of = |workload: Option<&str>| workload.map_or_else(String::new, |name| format!(" of {name}"));
        let bounds = |least: Option<String>, most: Option<String>| {
            let least = least.map(|least| format!("at least {least}"));
            let most = most.map(|most| format!("at most {most}"));
            least.into_iter().chain(most).collect::<Vec<_>>().join(", ")
        };
        let percent =
            |percent: Option<Percent>| percent.map(|percent| format!("{}%", percent.0.value() * 100.0));
        let text = |number: Option<u64>| number.map(|number| number.to_string());
        let count = |what: &str, e: &Count| {
            let each = e.per_pod_at_most.map(|most| format!("at most {most} for one pod"));
            let all = Some(bounds(text(e.at_least), text(e.at_most))).filter(|all| !all.is_empty());
            let words = each.into_iter().chain(all).collect::<Vec<_>>().join(", ");
            format!("{what}{}: {words}", of(e.workload.as_deref()))
        };
        let ranges = |cpu: Option<CpuRange>, memory: Option<MemoryRange>| {
            let cpu = cpu.map(|range| format!("cpu {} to {}", range.from.0, range.to.0));
            let memory = memory.map(|range| format!("memory {} to {}", range.from.0, range.to.0));
            cpu.into_iter().chain(memory).collect::<Vec<_>>().join(", ")
        };
        if let Some(e) = &self.resized {
            return format!(
                "pods{} resized: {}",
                of(e.workload.as_deref()),
                bounds(percent(e.at_least), percent(e.at_most))
            );
        }
        if let Some(e) = &self.restarts {
            return format!(
                "restarts{}: {}",
                of(e.workload.as_deref()),
                bounds(text(e.at_least), text(e.at_most))
            );
        }
        if let Some(e) = &self.pods {
            return format!(
                "pods{} that show {}: {}",
                of(e.workload.as_deref()),
                e.show,
                bounds(text(e.at_least), text(e.at_most))
            );
        }
        if let Some(e) = &self.status {
            let said = [&e.phase, &e.reason, &e.message].into_iter().flatten();
            let said = said.map(String::as_str).collect::<Vec<_>>().join(" ");
            return format!("status of {}: {said}", e.workload);
        }
        if let Some(e) = &self.recommendation {
            return format!("recommendation for {}/{}: {}", e.workload, e.container, ranges(e.cpu, e.memory));
        }
        if let Some(e) = &self.requests {
            return format!("requests of {}/{}: {}", e.workload, e.container, ranges(e.cpu, e.memory));
        }
        if let Some(e) = &self.writes {
            return count("resizes written", e);
        }
        if let Some(e) = &self.tries {
            return count("resizes tried", e);
        }
        self.metric.as_ref().map_or_else(String::new, |e| {
            let number = |number: Option<f64>| number.map(|number| number.to_string());
            format!("metric {}: {}", e.name, bounds(number(e.at_least), number(e.at_most)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optipod_common::quantity::{Bytes, MilliCpu};
    use optipod_coordinator::api::v1alpha1::{ContainerStatus, WorkloadPhase};

    fn expectation(text: &str) -> Expectation {
        serde_yaml_ng::from_str(text).unwrap()
    }

    fn amounts(cpu: u64, memory: u64) -> Resources {
        let requests = Amounts { cpu: Some(MilliCpu(cpu)), memory: Some(Bytes::from_mebibytes(memory)) };
        Resources { requests, limits: Amounts::default() }
    }

    fn pod(name: &str, declared: u64, desired: u64, actual: u64) -> SeenPod {
        let container = SeenContainer {
            name: "app".to_owned(),
            declared: amounts(declared, 64),
            desired: amounts(desired, 64),
            actual: amounts(actual, 64),
        };
        SeenPod {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            workload: "web".to_owned(),
            containers: vec![container],
            ..SeenPod::default()
        }
    }

    fn holds(expectation_text: &str, view: &View) -> bool {
        expectation(expectation_text).judge(view).holds
    }

    #[test]
    fn a_pod_is_resized_when_the_kernel_has_what_is_wanted() {
        assert!(!pod("a", 100, 100, 100).resized(), "as declared");
        assert!(!pod("a", 100, 50, 100).resized(), "not carried out");
        assert!(pod("a", 100, 50, 50).resized());
        let view = View { pods: vec![pod("a", 100, 50, 50), pod("b", 100, 100, 100)], ..View::default() };
        assert!(holds("{by: 1m, resized: {workload: web, atLeast: 50%}}", &view));
        assert!(!holds("{by: 1m, resized: {workload: web, atLeast: 51%}}", &view));
        assert!(!holds("{by: 1m, resized: {workload: web, atMost: 49%}}", &view));
        assert!(!holds("{by: 1m, resized: {workload: web, atMost: 100%}}", &View::default()), "no pods");
    }

    #[test]
    fn what_pods_show_is_counted_and_the_dead_are_not_resized() {
        let shows = BTreeSet::from(["Evicted".to_owned()]);
        let dead = SeenPod { ended: true, shows, ..pod("dead", 100, 100, 100) };
        let view = View { pods: vec![pod("a", 100, 50, 50), dead], ..View::default() };
        assert!(holds("{by: 1m, pods: {workload: web, show: Evicted, atLeast: 1, atMost: 1}}", &view));
        assert!(!holds("{by: 1m, pods: {show: Evicted, atLeast: 2}}", &view));
        assert!(holds("{always: {}, pods: {show: OOMKilled, atMost: 0}}", &view));
        assert!(holds("{by: 1m, resized: {workload: web, atLeast: 100%}}", &view));
        let all = "{by: 1m, requests: {workload: web, container: app, cpu: {from: 50m, to: 50m}}}";
        assert!(holds(all, &view));
    }

    #[test]
    fn writes_and_tries_are_counted_for_each_pod() {
        let tried = |dry_runs, writes| Tried { dry_runs, writes };
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let view = View {
            pods: vec![pod("a", 100, 50, 50), pod("b", 100, 50, 50)],
            resizes: BTreeMap::from([
                (key("a"), tried(3, 1)),
                (key("b"), tried(1, 1)),
                (key("foreign"), tried(9, 9)),
            ]),
            ..View::default()
        };
        assert!(holds("{always: {}, writes: {perPodAtMost: 1, atMost: 2, atLeast: 2}}", &view));
        assert!(!holds("{always: {}, writes: {atMost: 1}}", &view));
        assert!(holds("{always: {}, tries: {perPodAtMost: 4}}", &view));
        assert!(!holds("{always: {}, tries: {perPodAtMost: 3}}", &view));
        assert!(holds("{always: {}, writes: {workload: db, atMost: 0}}", &view));
    }

    #[test]
    fn statuses_and_recommendations_are_those_of_the_policy() {
        let recommendation = ContainerStatus {
            container: "app".to_owned(),
            cpu: Some("120m".to_owned()),
            memory: Some("64Mi".to_owned()),
            ..ContainerStatus::default()
        };
        let workload = WorkloadStatus {
            namespace: "default".to_owned(),
            kind: "Deployment".to_owned(),
            name: "web".to_owned(),
            pods: 1,
            status: WorkloadPhase::Failed,
            reason: "DeferredDeadline".to_owned(),
            message: "the node had no room for 5m".to_owned(),
            last_recommendation: None,
            last_applied: None,
            recommendations: vec![recommendation],
        };
        let status =
            OptimizationPolicyStatus { workloads: vec![workload], ..OptimizationPolicyStatus::default() };
        let view = View { policies: vec![("p".to_owned(), status)], ..View::default() };
        assert!(holds(
            "{at: 1m, status: {workload: web, phase: Failed, reason: DeferredDeadline, message: no room}}",
            &view
        ));
        assert!(!holds("{at: 1m, status: {workload: web, reason: Infeasible}}", &view));
        assert!(!holds("{at: 1m, status: {policy: q, workload: web, phase: Failed}}", &view));
        assert!(holds(
            "{at: 1m, recommendation: {workload: web, container: app, cpu: {from: 100m, to: 120m}}}",
            &view
        ));
        assert!(!holds(
            "{at: 1m, recommendation: {workload: web, container: app, cpu: {from: 121m, to: 200m}}}",
            &view
        ));
        assert!(!holds(
            "{at: 1m, recommendation: {workload: web, container: db, cpu: {from: 1m, to: 200m}}}",
            &view
        ));
    }

    #[test]
    fn requests_are_those_of_all_pods() {
        let view = View { pods: vec![pod("a", 100, 50, 50), pod("b", 100, 90, 90)], ..View::default() };
        assert!(holds(
            "{at: 1m, requests: {workload: web, container: app, cpu: {from: 50m, to: 90m}}}",
            &view
        ));
        assert!(!holds(
            "{at: 1m, requests: {workload: web, container: app, cpu: {from: 50m, to: 80m}}}",
            &view
        ));
    }

    #[test]
    fn metrics_are_summed_over_their_series() {
        let metrics = "a_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 100\n".to_owned();
        let view = View { metrics, ..View::default() };
        assert!(holds("{at: 1m, metric: {name: a_total, atLeast: 5, atMost: 5}}", &view));
        assert!(holds("{at: 1m, metric: {name: a_total, labels: {x: '2'}, atLeast: 3, atMost: 3}}", &view));
        assert!(!holds("{at: 1m, metric: {name: b_total, atLeast: 1}}", &view));
    }

    #[test]
    fn an_expectation_reads_as_a_sentence() {
        let text = expectation("{by: 90s, resized: {workload: web, atLeast: 100%}}").to_string();
        assert_eq!(text, "by 1m30s: pods of web resized: at least 100%");
        let text = expectation("{always: {from: 1m}, writes: {perPodAtMost: 2}}").to_string();
        assert_eq!(text, "always from 1m: resizes written: at most 2 for one pod");
    }
}
