//! Evidence and policy become a size, with the chain of steps that led to it.

mod bounds;
mod limit;
mod steps;
mod strategy;

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::{Hold, Reason};
use crate::expression::Expressions;
use crate::histogram::MergedHistogram;
use crate::policy::{Guaranteed, LimitRule, Policy, Range};
use crate::quantity::{Bytes, MilliCpu};
use crate::resources::{Amounts, ContainerFacts, Resource, Resources};
use crate::sample::{CPU_UNITS_PER_MILLICORE, MEMORY_UNIT_BYTES};
use crate::startup::Phase;
use crate::store::{Evidence, PodUse};

use bounds::Fence;
pub use steps::{ExpertOpinion, Step, StepKind, amount};
use strategy::raised;

/// Smallest CPU amount that is recommended: the kubelet writes at least 1000 us of quota (10m), and reports values
/// below as allocated rather than as actual. Containers that declare less keep what they declare as floor.
pub const MIN_CPU: MilliCpu = MilliCpu(10);

/// Smallest memory amount that is recommended: below about 6 MiB a container cannot start (kubernetes issue 124786).
/// Containers that declare less keep what they declare as floor.
pub const MIN_MEMORY: Bytes = Bytes::from_mebibytes(16);

/// CPU limits are multiples of this: the systemd cgroup driver rounds quotas up to 10 ms per second, so that other
/// values differ between pod and container (kubernetes issue 129357).
pub(crate) const CPU_LIMIT_GRAIN: u64 = 10;

/// The size of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecommendation {
    /// Name of the container.
    pub container: String,
    /// CPU.
    pub cpu: Sizing,
    /// Memory.
    pub memory: Sizing,
    /// The evidence in numbers.
    pub evidence: EvidenceSummary,
}

impl ContainerRecommendation {
    /// The size as requests and limits.
    pub fn target(&self) -> Resources {
        let cpu = |v: Option<u64>| v.map(MilliCpu);
        let memory = |v: Option<u64>| v.map(Bytes);
        Resources {
            requests: Amounts { cpu: cpu(self.cpu.request), memory: memory(self.memory.request) },
            limits: Amounts { cpu: cpu(self.cpu.limit), memory: memory(self.memory.limit) },
        }
    }

    /// The size of one resource.
    pub const fn of(&self, resource: Resource) -> &Sizing {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
        }
    }
}

/// The size of one resource of one container, in millicores or bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizing {
    /// Recommended request; `None` = no recommendation, see `hold`.
    pub request: Option<u64>,
    /// Recommended limit; `None` = the limit stays as it is.
    pub limit: Option<u64>,
    /// The request is never recommended below: the highest floor that held.
    pub lower: Option<u64>,
    /// The request is never recommended above.
    pub upper: Option<u64>,
    /// The size while starting, where the policy has one and the container starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boost: Option<StartSize>,
    /// How it came about.
    pub steps: Vec<Step>,
    /// Why there is no recommendation.
    pub hold: Option<Hold>,
}

impl Sizing {
    /// The steps as one line, such as `percentile 100m (P90 of 3600 values) > safety factor 120m (times 1.2) > max bound 110m`.
    pub fn explain(&self, resource: Resource) -> String {
        steps::line(&self.steps, resource)
    }

    /// Some step was of this kind.
    pub fn has(&self, kind: StepKind) -> bool {
        self.steps.iter().any(|step| step.kind == kind)
    }
}

/// The size of one resource of one container while it starts, in millicores or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSize {
    /// Request, where the node has room for it.
    pub request: u64,
    /// Limit; `None` = as at runtime.
    pub limit: Option<u64>,
}

/// Runs of a Job that say as much as a full window: one that runs for minutes never fills a day.
pub const JOB_RUNS: u64 = 4;

/// The evidence behind a recommendation, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each read by its own guard")]
pub struct EvidenceSummary {
    /// How far back was looked.
    pub window: Duration,
    /// Part of it that has data, less what nobody saw of the pods that ran.
    pub covered: Duration,
    /// Pod-time in the window that nobody saw, in thousandths.
    pub unseen: u64,
    /// Containers that were seen from their start in the last weeks, the newest ones: for a Job, its runs.
    pub runs: u64,
    /// CPU values in the window.
    pub cpu_samples: u64,
    /// Memory values in the window.
    pub memory_samples: u64,
    /// Mean CPU in the window.
    pub cpu_mean: MilliCpu,
    /// Highest CPU of a second in the window, of any pod.
    pub cpu_peak: MilliCpu,
    /// Mean working set in the window.
    pub memory_mean: Bytes,
    /// Highest working set in the window, of any pod.
    pub memory_peak: Bytes,
    /// Highest CPU of a second of the last minutes, of any pod.
    pub cpu_recent_peak: MilliCpu,
    /// Highest working set of the last minutes, of any pod.
    pub memory_recent_use: Bytes,
    /// Highest `memory.current` of the last minutes.
    pub memory_recent_peak: Bytes,
    /// There is data of the last minutes.
    pub fresh: bool,
    /// Memory rises.
    pub memory_rising: bool,
    /// Share of CFS periods throttled, in thousandths.
    pub throttled_share: u64,
    /// The same since the last resize, within the last minutes.
    pub throttled_now: u64,
    /// OOM kills in the window.
    pub oom_kills: u64,
    /// Pods of other revisions or on other nodes were looked at.
    pub others: bool,
    /// Hour of the day (UTC) of the earlier revisions' peak, when this revision was not seen at it.
    pub unseen_peak_hour: Option<i64>,
    /// The container is starting: its size may be above that at runtime.
    pub starting: bool,
    /// The pod that uses most CPU, and how much, when there are several.
    pub hottest_cpu: Option<(String, MilliCpu)>,
    /// The pod that uses most memory, and how much, when there are several.
    pub hottest_memory: Option<(String, Bytes)>,
}

impl EvidenceSummary {
    /// Of the evidence for a container in this part of its life.
    pub fn of(evidence: &Evidence, phase: Phase) -> Self {
        let bytes = |units: u64| Bytes(units.saturating_mul(MEMORY_UNIT_BYTES));
        let hottest = evidence.hottest.as_ref().filter(|hottest| hottest.pods > 1);
        Self {
            window: evidence.window,
            covered: evidence.coverage(),
            unseen: evidence.unseen(),
            runs: u64::try_from(evidence.startup.starts).unwrap_or(u64::MAX),
            cpu_samples: evidence.cpu_seconds().map_or(0, MergedHistogram::count),
            memory_samples: evidence.memory.count(),
            cpu_mean: MilliCpu(
                evidence
                    .cpu_seconds()
                    .and_then(MergedHistogram::mean)
                    .unwrap_or(0)
                    .div_ceil(CPU_UNITS_PER_MILLICORE),
            ),
            cpu_peak: MilliCpu(
                evidence.cpu_seconds().map_or(0, MergedHistogram::max).div_ceil(CPU_UNITS_PER_MILLICORE),
            ),
            memory_mean: bytes(evidence.memory.mean().unwrap_or(0)),
            memory_peak: bytes(evidence.memory.max()),
            cpu_recent_peak: MilliCpu(evidence.recent.cpu.max().div_ceil(CPU_UNITS_PER_MILLICORE)),
            memory_recent_use: bytes(evidence.recent.memory.max()),
            memory_recent_peak: bytes(evidence.recent.memory_peak),
            fresh: evidence.recent.fresh,
            memory_rising: evidence.recent.memory_rising,
            throttled_share: evidence.throttled_share(),
            throttled_now: evidence.throttled_now(),
            oom_kills: evidence.oom_kills,
            others: evidence.others.is_some(),
            unseen_peak_hour: evidence.unseen_peak_hour,
            starting: phase == Phase::Startup,
            hottest_cpu: hottest
                .map(|h| (h.cpu.0.clone(), MilliCpu(h.cpu.1.div_ceil(CPU_UNITS_PER_MILLICORE)))),
            hottest_memory: hottest.map(|h| (h.memory.0.clone(), bytes(h.memory.1))),
        }
    }

    /// How much of what should be known is, in thousandths: of the window; of a Job, whose pods run for a part of it, of
    /// its runs where that is more.
    pub fn coverage(&self, job: bool) -> u64 {
        let time = self.covered.as_millis() * 1000 / self.window.as_millis().max(1);
        let time = u64::try_from(time).unwrap_or(u64::MAX).min(1000);
        let runs = self.runs.min(JOB_RUNS) * (1000 - self.unseen.min(1000)) / JOB_RUNS;
        if job { time.max(runs) } else { time }
    }

    /// As text, such as `86400 s of 86400 s have data, 86400 values of CPU and 86400 of memory`.
    pub fn text(&self) -> String {
        let Self { window, covered, cpu_samples, memory_samples, .. } = self;
        let mut text = format!(
            "{} s of {} s have data, {cpu_samples} values of CPU and {memory_samples} of memory",
            covered.as_secs(),
            window.as_secs()
        );
        // writing to a String cannot fail
        if let Some((pod, cpu)) = &self.hottest_cpu {
            let _ = write!(text, "; hottest pod {pod} used up to {cpu}");
        }
        if self.oom_kills > 0 {
            let _ = write!(text, "; {} OOM kills", self.oom_kills);
        }
        text
    }
}

/// What is sized.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The container. `declared` is what the owner's template says (anchor of relative bounds and of limit ratios, so
    /// that repeated resizes never ratchet), `desired` is what the pod says now.
    pub container: &'a ContainerFacts,
    /// Its evidence.
    pub evidence: &'a Evidence,
    /// What this very pod used lately, where the policy sizes pods one by one.
    pub pod: Option<&'a PodUse>,
    /// Part of the container's life.
    pub phase: Phase,
    /// We have resized the pod.
    pub resized: bool,
    /// What evaluates the formulas of the strategy `Expression`.
    pub expressions: &'a dyn Expressions,
}

/// Sizes one container. Pure: the same input gives the same output, and before bounds the value is exactly what the
/// strategy's formula says.
pub fn recommend(policy: &Policy, asked: Asked<'_>) -> ContainerRecommendation {
    ContainerRecommendation {
        container: asked.container.name.clone(),
        cpu: Series::cpu(policy, asked).answer(),
        memory: Series::memory(policy, asked).answer(),
        evidence: EvidenceSummary::of(asked.evidence, asked.phase),
    }
}

type No = (Reason, String);

/// One resource of one container, in its own unit.
struct Series<'a> {
    policy: &'a Policy,
    asked: Asked<'a>,
    resource: Resource,
    scale: fn(u64) -> u64,
    platform_floor: u64,
    request_grain: u64,
    limit_grain: u64,
    /// Request and limit.
    declared: (Option<u64>, Option<u64>),
    /// Request and limit.
    current: (Option<u64>, Option<u64>),
    /// `None` = limits are not written.
    limit_rule: Option<LimitRule>,
}

impl<'a> Series<'a> {
    fn cpu(policy: &'a Policy, asked: Asked<'a>) -> Self {
        let container = asked.container;
        let pair = |of: &Resources| (of.requests.cpu.map(|c| c.0), of.limits.cpu.map(|c| c.0));
        Self {
            policy,
            asked,
            resource: Resource::Cpu,
            scale: |units| units.div_ceil(CPU_UNITS_PER_MILLICORE),
            platform_floor: MIN_CPU.0,
            request_grain: 1,
            limit_grain: CPU_LIMIT_GRAIN,
            declared: pair(&container.declared),
            current: pair(&container.desired),
            limit_rule: (!policy.update.update_requests_only).then_some(policy.update.cpu_limit),
        }
    }

    fn memory(policy: &'a Policy, asked: Asked<'a>) -> Self {
        let container = asked.container;
        let pair = |of: &Resources| (of.requests.memory.map(|m| m.0), of.limits.memory.map(|m| m.0));
        Self {
            policy,
            asked,
            resource: Resource::Memory,
            scale: |units| units.saturating_mul(MEMORY_UNIT_BYTES),
            platform_floor: MIN_MEMORY.0,
            request_grain: Bytes::MEBIBYTE,
            limit_grain: Bytes::MEBIBYTE,
            declared: pair(&container.declared),
            current: pair(&container.desired),
            limit_rule: (!policy.update.update_requests_only).then_some(policy.update.memory_limit),
        }
    }

    fn answer(&self) -> Sizing {
        let mut sizing = Sizing::default();
        match self.size(&mut sizing) {
            Ok((request, limit)) => {
                (sizing.request, sizing.limit) = (Some(request), limit);
                sizing.boost = self.boost(request, limit, &mut sizing);
            }
            Err((reason, message)) => {
                sizing.hold =
                    Some(Hold::of_resource(reason, &self.asked.container.name, self.resource, message));
            }
        }
        sizing
    }

    fn size(&self, sizing: &mut Sizing) -> Result<(u64, Option<u64>), No> {
        let formula = self.formula(&mut sizing.steps)?;
        let fence = self.fence()?;
        if self.moves_as_one() {
            return self.one(formula, fence, sizing).map(|value| (value, Some(value)));
        }
        (sizing.lower, sizing.upper) = (fence.highest_floor(), fence.max());
        let steps = &mut sizing.steps;
        let mut value = fence.hold(formula, steps)?;

        // declared equal means one number for both, so both have the limit's grain
        let equal = self.ratio().is_some_and(|(request, limit)| request == limit);
        let grain = if equal { self.limit_grain } else { self.request_grain };
        let rounded = round_up(value, grain);
        if rounded != value && fence.max().is_none_or(|max| rounded <= max) {
            value = rounded;
            steps.push(Step::new(StepKind::Rounding, value, format!("to multiples of {}", self.show(grain))));
        }
        if let Some(limit) = self.limit(value, steps) {
            return Ok((value, Some(limit)));
        }
        let Some(limit) = self.kept_limit() else { return Ok((value, None)) };
        if value > limit {
            if let Some((kind, min)) = fence.min().filter(|(_, min)| *min > limit) {
                let message = format!(
                    "{kind} {} is above the limit {}, which is kept",
                    self.show(min),
                    self.show(limit)
                );
                return Err((Reason::BoundsDisjoint, message));
            }
            value = limit;
            steps.push(Step::new(StepKind::LimitKept, value, String::new()));
        }
        self.tell_throttling(value, steps);
        if self.current.1 == Some(limit) {
            return Ok((value, None));
        }
        if self.asked.phase == Phase::Runtime {
            steps.push(Step::new(StepKind::LimitDeclared, limit, ""));
        }
        Ok((value, Some(limit)))
    }

    /// Request and limit of a Guaranteed container: one number, which holds what each of them has to hold.
    fn one(&self, formula: u64, mut fence: Fence, sizing: &mut Sizing) -> Result<u64, No> {
        let steps = &mut sizing.steps;
        let mut value = formula;
        if let Some((used, detail)) = self.high_ticks() {
            value = raised(value, Some(used), StepKind::LimitHeadroom, &detail, steps);
        }
        let (floor, why) = self.limit_floors();
        fence.raise(StepKind::LimitFloor, floor, why);
        (sizing.lower, sizing.upper) = (fence.highest_floor(), fence.max());
        value = fence.hold(value, steps)?;
        let grain = self.limit_grain;
        let rounded = match round_up(value, grain) {
            up if fence.max().is_none_or(|max| up <= max) => up,
            _ if value / grain * grain >= sizing.lower.unwrap_or(0) => value / grain * grain,
            _ => value,
        };
        if rounded != value {
            steps.push(Step::new(
                StepKind::Rounding,
                rounded,
                format!("to multiples of {}", self.show(grain)),
            ));
        }
        Ok(rounded)
    }

    /// Request and limit are one number here: the container looks Guaranteed, and the policy moves both.
    fn moves_as_one(&self) -> bool {
        let Resources { requests, limits } = self.asked.container.desired;
        let full = requests.cpu.is_some() && requests.memory.is_some();
        self.policy.guaranteed == Guaranteed::MoveTogether && full && requests == limits
    }

    /// The size while starting, when it is above that at runtime.
    fn boost(&self, request: u64, limit: Option<u64>, sizing: &mut Sizing) -> Option<StartSize> {
        let limit_is_request = self.moves_as_one();
        if self.asked.phase == Phase::Runtime || (limit_is_request && !self.may_boost_limit()) {
            return None;
        }
        let most = sizing.upper.unwrap_or(u64::MAX);
        let mut start = StartSize { request: self.boosted(request)?.min(most).max(request), limit: None };
        let at_runtime = limit.or(self.kept_limit());
        if limit_is_request {
            let grain = self.limit_grain;
            let up = round_up(start.request, grain);
            start.request = if up <= most { up } else { (start.request / grain * grain).max(request) };
            start.limit = Some(start.request);
        } else if self.may_boost_limit() {
            let higher = |limit: u64| self.boosted(limit).unwrap_or(limit).max(start.request).max(limit);
            start.limit = at_runtime.map(|limit| round_up(higher(limit), self.limit_grain));
        }
        if let Some(limit) = start.limit.or(at_runtime) {
            start.request = start.request.min(limit);
        }
        for (kind, to, from) in [
            (StepKind::Boost, Some(start.request), Some(request)),
            (StepKind::BoostLimit, start.limit, at_runtime),
        ] {
            if let Some(to) = to.filter(|to| Some(*to) > from) {
                sizing.steps.push(Step::new(kind, to, "until start-up ends"));
            }
        }
        (start.request > request || start.limit > at_runtime).then_some(start)
    }

    /// A CPU limit that the owner declared, and that no runtime follows. Never one of memory: a heap that was sized from a
    /// higher limit outlives it, to take the limit back kills, and what runs in a container is not told reliably.
    fn may_boost_limit(&self) -> bool {
        let follows = self.asked.container.language.filter(|language| language.follows_limit());
        let held = follows.is_some_and(|language| !self.policy.update.limit_runtimes.contains(&language));
        self.resource == Resource::Cpu && self.declared.1.is_some() && !held
    }

    fn show(&self, value: u64) -> String {
        amount(self.resource, value)
    }

    fn fence(&self) -> Result<Fence, No> {
        Fence::around(self)
    }

    fn bounds_of(&self, bounds: &crate::policy::ResourceBounds) -> (Range<u64>, Range<u64>) {
        let declared = self.declared.0;
        let relative = |range: Range<crate::policy::RelativePercent>| Range {
            min: range.min.zip(declared).map(|(percent, declared)| percent.at_least(declared)),
            max: range.max.zip(declared).map(|(percent, declared)| percent.at_most(declared)),
        };
        match self.resource {
            Resource::Cpu => (raw(bounds.cpu, |c| c.0), relative(bounds.cpu_relative)),
            Resource::Memory => (raw(bounds.memory, |m| m.0), relative(bounds.memory_relative)),
        }
    }
}

fn raw<T>(range: Range<T>, value: impl Fn(T) -> u64) -> Range<u64> {
    Range { min: range.min.map(&value), max: range.max.map(&value) }
}

fn round_up(value: u64, grain: u64) -> u64 {
    value.checked_next_multiple_of(grain).unwrap_or(value)
}

/// `value` times `part` by `whole`, rounded up; saturates.
fn share(value: u64, part: u64, whole: u64) -> u64 {
    let product = (u128::from(value) * u128::from(part)).div_ceil(u128::from(whole.max(1)));
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// `value` times thousandths, rounded up; saturates.
fn times(value: u64, thousandths: u64) -> u64 {
    share(value, thousandths, 1000)
}

#[cfg(test)]
mod tests;
