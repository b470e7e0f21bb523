//! The value before bounds: exactly what the strategy's formula says, then what evidence beside it raises.

use super::steps::{ExpertOpinion, Step, StepKind};
use super::{CPU_UNITS_PER_MILLICORE, No, Series, share};
use crate::adaptive::ExpertCost;
use crate::decide::Reason;
use crate::expression::{Present, Statistics, to_amount};
use crate::histogram::MergedHistogram;
use crate::policy::{Boost, Objective, Scope, Strategy, ThresholdParams};
use crate::quantity::Bytes;
use crate::resources::{Resource, Resources};
use crate::sample::MEMORY_UNIT_BYTES;
use crate::startup::LearnedStart;
use crate::threshold::{ThresholdVerdict, threshold};

impl Series<'_> {
    /// The value before bounds.
    pub(super) fn formula(&self, steps: &mut Vec<Step>) -> Result<u64, No> {
        let own = match &self.policy.strategy {
            Strategy::Percentile => self.percentile(self.values(), steps),
            Strategy::Threshold(params) => self.threshold(params, steps),
            Strategy::Adaptive(objective) => self.adaptive(*objective, steps),
            Strategy::Expression(params) => match self.resource {
                Resource::Cpu => self.expression(params.cpu.as_deref(), steps),
                Resource::Memory => self.expression(params.memory.as_deref(), steps),
            },
        }?;
        let from_others = self.of_others(own.is_some());
        if own.is_none() && from_others.is_none() {
            return Err((Reason::NoData, "no usage was seen within the window".to_owned()));
        }
        let mut value = own.unwrap_or(0);
        for (to, kind, detail) in [
            (from_others, StepKind::Others, "another revision or kind of node may raise, never lower"),
            (self.hot_pod(), StepKind::HotPod, "of the last hour"),
            (self.probe(own.unwrap_or(0)), StepKind::Probe, "use is a lower bound of demand"),
            (
                self.anticipated(),
                StepKind::Anticipation,
                "this hour or the next had this peak in two earlier weeks",
            ),
        ] {
            value = raised(value, to, kind, detail, steps);
        }
        Ok(value)
    }

    /// Use within the window, in the series' unit.
    fn values(&self) -> Option<&MergedHistogram> {
        let evidence = self.asked.evidence;
        match self.resource {
            Resource::Cpu => evidence.cpu_seconds(),
            Resource::Memory => Some(&evidence.memory),
        }
    }

    /// Percentile times safety factor of what was used; `None` without data.
    fn with_margin(&self, used: &MergedHistogram) -> Option<u64> {
        let quantile = used.quantile(self.policy.percentile.permyriad())?;
        Some(self.policy.safety_factor.times((self.scale)(quantile)))
    }

    /// Percentile times safety factor; `None` without data.
    #[allow(clippy::unnecessary_wraps, reason = "one signature for all strategies")]
    fn percentile(&self, values: Option<&MergedHistogram>, steps: &mut Vec<Step>) -> Result<Option<u64>, No> {
        let policy = self.policy;
        let Some((quantile, count)) =
            values.and_then(|v| Some((v.quantile(policy.percentile.permyriad())?, v.count())))
        else {
            return Ok(None);
        };
        let value = (self.scale)(quantile);
        steps.push(Step::new(
            StepKind::Percentile,
            value,
            format!("{} of {count} values", policy.percentile),
        ));
        let value = policy.safety_factor.times(value);
        steps.push(Step::new(StepKind::SafetyFactor, value, format!("times {}", policy.safety_factor)));
        Ok(Some(value))
    }

    /// The policy's percentile of the last five minutes against the thresholds; without a request nothing is compared.
    fn threshold(&self, params: &ThresholdParams, steps: &mut Vec<Step>) -> Result<Option<u64>, No> {
        let recent = &self.asked.evidence.recent;
        let values = match self.resource {
            Resource::Cpu => &recent.cpu,
            Resource::Memory => &recent.memory,
        };
        let Some(quantile) = values.quantile(self.policy.percentile.permyriad()) else { return Ok(None) };
        let Some(current) = self.current.0.filter(|request| *request > 0) else {
            return Err((Reason::NotDeclared, "thresholds need a request to compare use with".to_owned()));
        };
        let used = (self.scale)(quantile);
        let detail = format!("{} of {} values of the last 5 minutes", self.policy.percentile, values.count());
        steps.push(Step::new(StepKind::Use, used, detail));
        let floor = match self.resource {
            Resource::Cpu => 0,
            Resource::Memory => params.min_request_memory.0,
        };
        let (kind, value, detail) = match threshold(params, used, current, floor) {
            ThresholdVerdict::Up(to) => {
                let detail = format!("{} of the request is used", params.scale_up_threshold);
                (StepKind::ThresholdUp, to, detail)
            }
            ThresholdVerdict::Down(to) => {
                let detail = format!("at most {} of the request is used", params.scale_down_threshold);
                (StepKind::ThresholdDown, to, detail)
            }
            ThresholdVerdict::Keep => (StepKind::ThresholdKeep, current, String::new()),
        };
        steps.push(Step::new(kind, value, detail));
        Ok(Some(value))
    }

    #[allow(clippy::unnecessary_wraps, reason = "one signature for all strategies")]
    fn adaptive(&self, objective: Objective, steps: &mut Vec<Step>) -> Result<Option<u64>, No> {
        let evidence = self.asked.evidence;
        let (own, siblings) = match self.resource {
            Resource::Cpu => (&evidence.cpu_adaptive, &[][..]),
            Resource::Memory => (&evidence.memory_adaptive, &evidence.memory_siblings[..]),
        };
        let highest = siblings.iter().chain([own]).max_by_key(|state| state.size(objective));
        let Some(target) = highest.and_then(|state| state.target(objective)) else { return Ok(None) };
        let value = (self.scale)(target.value);
        let opinion = |cost: &ExpertCost| ExpertOpinion {
            expert: cost.expert.to_string(),
            value: (self.scale)(cost.size),
            cost: cost.cost,
        };
        let chosen = target.costs.iter().filter(|cost| cost.expert == target.expert);
        let mut kinds = Vec::new();
        let cheapest = target.costs.iter().filter(|cost| {
            let kind = std::mem::discriminant(&cost.expert.signal);
            let first = !kinds.contains(&kind);
            kinds.push(kind);
            first && cost.expert != target.expert
        });
        let experts: Vec<ExpertOpinion> = chosen.chain(cheapest).map(opinion).collect();
        let (asked, price) = experts.first().map_or((value, 0), |chosen| (chosen.value, chosen.cost));
        let detail = format!("{} over {} minutes at cost {price}", target.expert, target.minutes);
        steps.push(Step { experts, ..Step::new(StepKind::Expert, asked, detail) });
        let why = if value > asked {
            "sizes fall in small steps, some time apart"
        } else {
            "the change is too small"
        };
        if value != asked {
            steps.push(Step::new(StepKind::Paced, value, why));
        }
        Ok(Some(value))
    }

    fn expression(&self, source: Option<&str>, steps: &mut Vec<Step>) -> Result<Option<u64>, No> {
        let Some(source) = source else { return self.percentile(self.values(), steps) };
        if self.values().is_none_or(|values| values.count() == 0) {
            return Ok(None);
        }
        let present = |resource| present(resource, &self.asked.container.desired);
        let statistics = Statistics {
            evidence: self.asked.evidence,
            cpu: present(Resource::Cpu),
            memory: present(Resource::Memory),
        };
        let value = self
            .asked
            .expressions
            .evaluate(source, &statistics)
            .and_then(|value| to_amount(self.resource, value))
            .map_err(|error| (Reason::ExpressionFailed, format!("{source}: {error}")))?;
        steps.push(Step::new(StepKind::Expression, value, source));
        Ok(Some(value))
    }

    /// What pods of other revisions or on other kinds of nodes needed: by Adaptive as it sized them, else by the percentile
    /// and the safety factor. It counts until these pods have evidence of their own.
    fn of_others(&self, own: bool) -> Option<u64> {
        let evidence = self.asked.evidence;
        let others = evidence.others.as_ref()?;
        let needed = u128::from(self.policy.minimum_coverage.thousandths());
        let covered = evidence.coverage().as_millis() * 1000 >= evidence.window.as_millis() * needed;
        if own && covered && evidence.unseen_peak_hour.is_none() {
            return None;
        }
        let (used, adaptive) = match self.resource {
            Resource::Cpu => (crate::store::most(&others.cpu), &others.cpu_adaptive),
            Resource::Memory => (Some(&others.memory), &others.memory_adaptive),
        };
        match self.policy.strategy {
            Strategy::Adaptive(objective) => {
                adaptive.iter().filter_map(|state| state.size(objective)).max().map(self.scale)
            }
            _ => self.with_margin(used?),
        }
    }

    /// What this pod alone needs, where each has a size of its own. It may only raise: a standby that takes over has the
    /// workload's size already.
    fn hot_pod(&self) -> Option<u64> {
        let pod = self.asked.pod.filter(|_| self.policy.scope == Scope::Pod)?;
        let used = match self.resource {
            Resource::Cpu => pod.cpu.quantile(self.policy.percentile.permyriad())?,
            Resource::Memory => pod.memory,
        };
        Some(self.policy.safety_factor.times((self.scale)(used)))
    }

    /// A limit that throttled raises the request where both move together: elsewhere no request lifts throttling.
    fn probe(&self, value: u64) -> Option<u64> {
        let (request, limit) = if self.moves_as_one() { (1, 1) } else { self.ratio()? };
        let (floor, _) = self.limit_probe(share(value, limit, request))?;
        Some(share(floor, request, limit))
    }

    fn anticipated(&self) -> Option<u64> {
        let evidence = self.asked.evidence;
        let peaks = match self.resource {
            Resource::Cpu => &evidence.cpu_peaks,
            Resource::Memory => &evidence.memory_peaks,
        };
        let peak = peaks.repeated(evidence.now).filter(|_| self.policy.anticipate)?;
        Some((self.scale)(peak))
    }

    /// What a size at runtime becomes while starting, when the policy says so.
    pub(super) fn boosted(&self, runtime: u64) -> Option<u64> {
        let learned = &self.asked.evidence.startup;
        match self.resource {
            Resource::Cpu => {
                let amount = |boost| {
                    boosted_to(
                        boost,
                        |amount: crate::quantity::MilliCpu| amount.0,
                        runtime,
                        learned_cpu(learned),
                    )
                };
                amount(self.policy.startup.cpu?)
            }
            Resource::Memory => {
                let amount =
                    |boost| boosted_to(boost, |amount: Bytes| amount.0, runtime, learned_memory(learned));
                amount(self.policy.startup.memory?)
            }
        }
    }
}

/// The higher of the two.
pub(super) fn raised(
    value: u64,
    to: Option<u64>,
    kind: StepKind,
    detail: &str,
    steps: &mut Vec<Step>,
) -> u64 {
    match to.filter(|to| *to > value) {
        Some(to) => {
            steps.push(Step::new(kind, to, detail));
            to
        }
        None => value,
    }
}

fn boosted_to<T>(boost: Boost<T>, raw: fn(T) -> u64, runtime: u64, learned: Option<u64>) -> Option<u64> {
    match boost {
        Boost::Times(factor) => Some(factor.times(runtime)),
        Boost::Amount(amount) => Some(raw(amount)),
        Boost::Learned => learned,
    }
}

fn learned_cpu(learned: &LearnedStart) -> Option<u64> {
    (learned.starts > 0).then(|| learned.cpu.div_ceil(CPU_UNITS_PER_MILLICORE))
}

fn learned_memory(learned: &LearnedStart) -> Option<u64> {
    (learned.starts > 0).then(|| learned.memory.saturating_mul(MEMORY_UNIT_BYTES))
}

/// Requests and limits as formulas see them.
#[allow(clippy::cast_precision_loss, reason = "quantities of containers are far below 2^53")]
fn present(resource: Resource, of: &Resources) -> Present {
    let Resources { requests, limits } = of;
    match resource {
        Resource::Cpu => {
            let cores = |cpu: Option<crate::quantity::MilliCpu>| cpu.map_or(0.0, |c| c.0 as f64 / 1000.0);
            Present { request: cores(requests.cpu), limit: cores(limits.cpu) }
        }
        Resource::Memory => {
            let bytes = |memory: Option<Bytes>| memory.map_or(0.0, |m| m.0 as f64);
            Present { request: bytes(requests.memory), limit: bytes(limits.memory) }
        }
    }
}
