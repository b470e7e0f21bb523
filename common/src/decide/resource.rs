//! One resource of one container of one pod: the change, or why there is none.

use std::time::Duration;

use super::circumstances::{Circumstances, Followed};
use super::plan::one_step;
use super::reason::{Hold, Reason};
use crate::policy::{
    CoupledResources, Guaranteed, Hpa, MemoryDecrease, Policy, Replacement, RestartContainer, Strategy,
};
use crate::quantity::{Bytes, MilliCpu};
use crate::recommend::{
    CPU_LIMIT_GRAIN, ContainerRecommendation, EvidenceSummary, JOB_RUNS, Sizing, StepKind, amount,
};
use crate::resources::{Amounts, ContainerFacts, PodFacts, QosClass, Resource, Resources};

/// Memory may fall to the recent peak plus this share, in thousandths. The kubelet refuses a limit below
/// `memory.current`, its reading may be seconds old, and a refused decrease needs a revert.
const MEMORY_MARGIN: u64 = 1100;

/// One step of `cpu.weight` in millicores: 1..10000 for 2..262144 shares of 1024 to a core (KEP-2254).
const WEIGHT_STEP: u64 = 26;

/// Requests of a node's Burstable pods may shrink by this much within an hour, in thousandths: their sum is the weight of
/// all of them against the Guaranteed ones and the system.
const SLICE_BUDGET: u64 = 200;

/// Within it lies a daily peak.
const DAY: Duration = Duration::from_secs(86_400);

/// One resource of one container of one pod.
pub(super) struct Subject<'a> {
    pub policy: &'a Policy,
    pub pod: &'a PodFacts,
    pub container: &'a ContainerFacts,
    pub size: &'a ContainerRecommendation,
    pub at: &'a Circumstances,
    pub qos: QosClass,
    pub resource: Resource,
    /// What the containers before this one leave of the node.
    pub free: Option<Amounts>,
}

/// What to write: request and limit, each with what is there.
#[derive(Clone, Copy)]
struct Wanted {
    request: (u64, u64),
    limit: Option<(u64, u64)>,
}

impl Wanted {
    const fn request_falls(&self) -> bool {
        self.request.1 < self.request.0
    }

    fn lower_limit(&self) -> Option<u64> {
        self.limit.filter(|(from, to)| to < from).map(|(_, to)| to)
    }

    fn decreases(&self) -> bool {
        self.request_falls() || self.lower_limit().is_some()
    }

    fn increases(&self) -> bool {
        self.request.1 > self.request.0 || self.limit.is_some_and(|(from, to)| to > from)
    }
}

impl Subject<'_> {
    fn hold(&self, reason: Reason, message: impl Into<String>) -> Hold {
        Hold::of_resource(reason, &self.container.name, self.resource, message)
    }

    fn refuse(&self, when: bool, reason: Reason, message: impl Into<String>) -> Result<(), Hold> {
        if when { Err(self.hold(reason, message)) } else { Ok(()) }
    }

    fn sizing(&self) -> &Sizing {
        self.size.of(self.resource)
    }

    fn of(&self, resources: &Resources) -> (Option<u64>, Option<u64>) {
        let Resources { requests, limits } = resources;
        match self.resource {
            Resource::Cpu => (requests.cpu.map(|c| c.0), limits.cpu.map(|c| c.0)),
            Resource::Memory => (requests.memory.map(|m| m.0), limits.memory.map(|m| m.0)),
        }
    }

    fn show(&self, value: u64) -> String {
        amount(self.resource, value)
    }

    /// The change of this resource, or why there is none.
    pub fn change(&self) -> Result<Resources, Hold> {
        let recommended = self.recommended();
        let recommended = if self.is_left_to_autoscaler() { recommended.ok() } else { Some(recommended?) };
        let (current_request, current_limit) = self.of(&self.container.desired);
        let Some(current) = current_request.filter(|r| *r > 0) else {
            return Err(match self.qos {
                QosClass::BestEffort => {
                    self.hold(Reason::BestEffortImmutable, "a BestEffort pod cannot get requests")
                }
                _ => self.hold(Reason::NotDeclared, "the owner declares no request"),
            });
        };
        self.class()?;
        self.any_direction()?;
        let (request, limit) = match (self.followed(), recommended) {
            (Some(followed), recommended) => self.beside_autoscaler(followed, current, recommended)?,
            (None, Some(recommended)) => recommended,
            (None, None) => return Err(self.hold(Reason::NoData, "no recommendation")),
        };
        let limit = current_limit.zip(limit);
        let wanted = Wanted { request: (current, request), limit };
        let wanted = self.while_starting(wanted, current_limit).unwrap_or(wanted);
        self.worth_it(wanted)?;
        let wanted = match wanted.decreases().then(|| self.lowered(wanted)) {
            None => wanted,
            Some(Ok(wanted)) => wanted,
            // what may not fall does not keep the other half from rising
            Some(Err(hold)) => self.rising(wanted).ok_or(hold)?,
        };
        let wanted = if wanted.increases() { self.increase(wanted)? } else { wanted };
        self.limit_of_runtime(wanted)?;
        Ok(self.stepped(wanted))
    }

    /// What rises of a request and a limit; what would fall stays. Of Guaranteed pods they are one number.
    fn rising(&self, wanted: Wanted) -> Option<Wanted> {
        let up = |(from, to): (u64, u64)| (from, to.max(from));
        let limit = wanted.limit.map(up);
        let ceiling = limit.map(|(_, to)| to).or(self.of(&self.container.desired).1).unwrap_or(u64::MAX);
        let (from, to) = up(wanted.request);
        let rising = Wanted { request: (from, to.min(ceiling).max(from)), limit };
        (self.qos != QosClass::Guaranteed && rising.increases()).then_some(rising)
    }

    /// Recommended request and limit.
    fn recommended(&self) -> Result<(u64, Option<u64>), Hold> {
        let Sizing { request, limit, hold, .. } = self.sizing();
        match (hold, request) {
            (Some(hold), _) => Err(hold.clone()),
            (None, Some(request)) => Ok((*request, *limit)),
            (None, None) => Err(self.hold(Reason::NoData, "no recommendation")),
        }
    }

    /// The size while starting, when it is above what there is: the limit, and the request where the node has it free.
    /// Nothing falls meanwhile.
    fn while_starting(&self, wanted: Wanted, current_limit: Option<u64>) -> Option<Wanted> {
        let boost =
            self.sizing().boost.filter(|_| self.size.evidence.starting && self.followed().is_none())?;
        let (current, runtime) = wanted.request;
        let growth = boost.request.saturating_sub(current);
        let has_room = growth == 0 || self.room().is_some_and(|room| growth <= room);
        if !has_room && self.qos == QosClass::Guaranteed {
            return None;
        }
        let limit = wanted.limit.map(|(_, to)| to);
        let limit = current_limit.map(|from| (from, boost.limit.or(limit).unwrap_or(from).max(from)));
        let request = if has_room { boost.request } else { runtime };
        let request = limit.map_or(request, |(_, limit)| request.min(limit)).max(current);
        let wanted = Wanted { request: (current, request), limit };
        wanted.increases().then_some(wanted)
    }

    /// One step towards what is wanted.
    fn stepped(&self, wanted: Wanted) -> Resources {
        let limits = self.policy.update.max_step;
        let (request_grain, limit_grain) = match self.resource {
            // one number stays one on the way
            Resource::Cpu if self.qos == QosClass::Guaranteed => (CPU_LIMIT_GRAIN, CPU_LIMIT_GRAIN),
            Resource::Cpu => (1, CPU_LIMIT_GRAIN),
            Resource::Memory => (Bytes::MEBIBYTE, Bytes::MEBIBYTE),
        };
        let step = |(from, to): (u64, u64), grain| {
            (from != to).then(|| one_step(from, to, limits, grain)).filter(|to| *to != from)
        };
        let request = step(wanted.request, request_grain);
        let limit = wanted.limit.and_then(|limit| step(limit, limit_grain));
        // a request never passes its limit on the way
        let ceiling = limit.or(wanted.limit.map(|(from, _)| from));
        let request = request.map(|request| ceiling.map_or(request, |ceiling| request.min(ceiling)));
        let amounts = |value: Option<u64>| match self.resource {
            Resource::Cpu => Amounts { cpu: value.map(MilliCpu), memory: None },
            Resource::Memory => Amounts { cpu: None, memory: value.map(Bytes) },
        };
        Resources { requests: amounts(request), limits: amounts(limit) }
    }

    fn class(&self) -> Result<(), Hold> {
        if self.qos != QosClass::Guaranteed {
            return Ok(());
        }
        self.refuse(
            self.container.cgroup.exclusive_cpus,
            Reason::ExclusiveCpus,
            "a static CPU or Memory manager gave the container CPUs or memory of its own",
        )?;
        self.refuse(
            self.policy.guaranteed == Guaranteed::Hold,
            Reason::GuaranteedMovesLimits,
            "request and limit of a Guaranteed pod are one; guaranteed: MoveTogether moves both",
        )
    }

    fn any_direction(&self) -> Result<(), Hold> {
        let container = self.container;
        let (coupled, pinned, controlled) = match self.resource {
            Resource::Cpu => (container.cpu_coupled, container.cpu_pinned, self.policy.update.resources.cpu),
            Resource::Memory => {
                (container.memory_coupled, container.memory_pinned, self.policy.update.resources.memory)
            }
        };
        self.refuse(!controlled, Reason::NotControlled, "the policy only recommends it")?;
        self.refuse(pinned, Reason::Pinned, "an annotation of the workload pins it")?;
        let update = &self.policy.update;
        let restarts =
            container.restarts(self.resource) && update.restart_container == RestartContainer::Hold;
        let message =
            "resizePolicy is RestartContainer; restartContainer: OneAtATime restarts one pod after the other";
        self.refuse(restarts, Reason::RestartRequired, message)?;
        let message = "resourceFieldRef hands this amount to the process, which would not see the change; \
                       coupledResources: Move moves it all the same";
        let held = coupled && update.coupled_resources == CoupledResources::Hold;
        self.refuse(held, Reason::ResourceCoupled, message)?;
        let message = "the cgroup differs from what the kubelet says: something else writes it";
        self.refuse(container.cgroup.foreign_writer, Reason::ForeignCgroupWriter, message)?;
        let swaps = self.resource == Resource::Memory && container.cgroup.swap;
        self.refuse(swaps, Reason::SwapEnabled, "memory.swap.max is not 0: use is more than memory shows")
    }

    /// The autoscaler on the same resource.
    fn followed(&self) -> Option<Followed> {
        self.at.hpa.iter().find(|followed| followed.resource == self.resource).copied()
    }

    /// An autoscaler follows the resource, and the policy leaves it to it.
    fn is_left_to_autoscaler(&self) -> bool {
        self.policy.hpa == Hpa::Hold && self.followed().is_some()
    }

    /// What an autoscaler on the same resource leaves: the declared size, or the request that keeps its target, with the
    /// limit that belongs to it.
    fn beside_autoscaler(
        &self,
        followed: Followed,
        current: u64,
        recommended: Option<(u64, Option<u64>)>,
    ) -> Result<(u64, Option<u64>), Hold> {
        if let (Hpa::KeepUtilisation, Some((_, limit))) = (self.policy.hpa, recommended) {
            let target = followed.target.filter(|t| *t > 0).ok_or_else(|| {
                self.hold(Reason::HpaControlsResource, "the autoscaler's target utilisation is not known")
            })?;
            let mean = match self.resource {
                Resource::Cpu => self.size.evidence.cpu_mean.0,
                Resource::Memory => self.size.evidence.memory_mean.0,
            };
            let kept = mean.saturating_mul(100).div_ceil(u64::from(target));
            let (lower, upper) = (self.sizing().lower.unwrap_or(0), self.sizing().upper.unwrap_or(u64::MAX));
            return Ok(self.with_limit(kept.min(upper).max(lower), limit));
        }
        let (declared, declared_limit) = self.of(&self.container.declared);
        let stands = match declared {
            // held at a shrunk size, the autoscaler would scale out for ever
            Some(declared) if declared != current => return Ok((declared, declared_limit)),
            Some(_) => "is as declared",
            None if self.container.declaration_unknown => "stays: what was declared is not known",
            None => "stays: the owner declares none",
        };
        let message =
            format!("a HorizontalPodAutoscaler computes utilisation from this request, which {stands}");
        Err(self.hold(Reason::HpaControlsResource, message))
    }

    /// Another request than the recommended one, with the limit that the policy's rule gives it.
    fn with_limit(&self, request: u64, recommended: Option<u64>) -> (u64, Option<u64>) {
        let grain = match self.resource {
            Resource::Cpu => CPU_LIMIT_GRAIN,
            Resource::Memory => Bytes::MEBIBYTE,
        };
        let up = |value: u64| value.checked_next_multiple_of(grain).unwrap_or(value);
        if self.qos == QosClass::Guaranteed {
            return (up(request), Some(up(request)));
        }
        let steps = &self.sizing().steps;
        let by_ratio = steps.iter().any(|step| step.kind == StepKind::LimitRatio);
        let limit = recommended.map(|recommended| {
            let (declared, declared_limit) = self.of(&self.container.declared);
            let ratio = declared.filter(|declared| *declared > 0).zip(declared_limit).filter(|_| by_ratio);
            let by_rule = ratio.map_or(recommended, |(declared, limit)| {
                let scaled = u128::from(request) * u128::from(limit) / u128::from(declared);
                u64::try_from(scaled).unwrap_or(u64::MAX)
            });
            let floors = steps.iter().filter(|step| step.kind == StepKind::LimitFloor);
            up(floors.map(|step| step.value).fold(by_rule.max(request), u64::max))
        });
        // a limit that is kept bounds the request
        let ceiling = limit.or(self.of(&self.container.desired).1).unwrap_or(u64::MAX);
        (request.min(ceiling), limit)
    }

    /// Nothing is written for a change below `minChange` of both request and limit, unless use is above the request, or
    /// for one that the kernel and the scheduler do not see.
    fn worth_it(&self, wanted: Wanted) -> Result<(), Hold> {
        let least_share = self.policy.min_change();
        let least = u128::from(least_share.thousandths());
        let large = |(from, to): (u64, u64)| {
            from != to && u128::from(from.abs_diff(to)) * 1000 >= u128::from(from) * least
        };
        let (from, to) = wanted.request;
        let limit = wanted.limit.is_some_and(large);
        let needed = to > from && self.exceeds(from);
        if !large(wanted.request) && !limit && !needed {
            let (from, to) = (self.show(from), self.show(to));
            let message = format!("{from} > {to} is below minChange {least_share}");
            return Err(self.hold(Reason::ChangeTooSmall, message));
        }
        let small = self.resource == Resource::Cpu && !limit && from.abs_diff(to) < WEIGHT_STEP && to < from;
        let message = format!("{} > {} frees less than {WEIGHT_STEP}m", self.show(from), self.show(to));
        self.refuse(small, Reason::BelowWeightStep, message)
    }

    /// Use is above a request. Of CPU that is what the strategy looks at: the highest second for Adaptive, the value before
    /// margins for the others, for which some seconds are always above it. Memory above its request is evicted first.
    fn exceeds(&self, request: u64) -> bool {
        let evidence = &self.size.evidence;
        let sizing = self.sizing();
        let before_margins = [StepKind::Percentile, StepKind::Use, StepKind::Probe, StepKind::OomFloor];
        let peak = match self.resource {
            Resource::Cpu => evidence.cpu_recent_peak.0,
            Resource::Memory => evidence.memory_recent_use.0,
        };
        let looks_at_peaks =
            self.resource == Resource::Memory || matches!(self.policy.strategy, Strategy::Adaptive(_));
        (looks_at_peaks && peak > request)
            || sizing.steps.iter().any(|step| before_margins.contains(&step.kind) && step.value > request)
    }

    /// What is wanted of a decrease: all of it, or the end of a start-up boost.
    fn lowered(&self, wanted: Wanted) -> Result<Wanted, Hold> {
        let Err(hold) = self.decrease(wanted, false) else { return Ok(wanted) };
        let waits = matches!(hold.reason, Reason::CooldownActive | Reason::InsufficientCoverage);
        let Some(wanted) = self.after_boost(wanted).filter(|_| waits) else { return Err(hold) };
        self.decrease(wanted, true)?;
        Ok(wanted)
    }

    /// What a start-up boost added is taken back when start-up ends, without waiting for evidence: what is declared was
    /// enough at the time before.
    fn after_boost(&self, wanted: Wanted) -> Option<Wanted> {
        if !self.pod.boosted || self.size.evidence.starting {
            return None;
        }
        let (declared, declared_limit) = self.of(&self.container.declared);
        let back = |(from, to): (u64, u64), declared: Option<u64>| {
            (from, if to < from { declared.map_or(from, |declared| to.max(declared)).min(from) } else { to })
        };
        let wanted = Wanted {
            request: back(wanted.request, declared),
            limit: wanted.limit.map(|limit| back(limit, declared_limit)),
        };
        wanted.decreases().then_some(wanted)
    }

    /// Every guard of a decrease; the end of a boost waits neither for coverage nor for the cooldown.
    fn decrease(&self, wanted: Wanted, boost_ends: bool) -> Result<(), Hold> {
        self.trusted()?;
        self.proven(boost_ends)?;
        self.lent(wanted)?;
        if let Some(last) = self.pod.last_resize.filter(|_| !boost_ends)
            && last + self.policy.cooldown() > self.at.now
        {
            let left = (last + self.policy.cooldown()).since(self.at.now).as_secs();
            return Err(self.hold(Reason::CooldownActive, format!("{left} s of the cooldown are left")));
        }
        match self.resource {
            Resource::Cpu => self.less_cpu(wanted),
            Resource::Memory => self.less_memory(wanted),
        }
    }

    /// The state of the coordinator and of the fleet.
    fn trusted(&self) -> Result<(), Hold> {
        let at = self.at;
        self.refuse(at.starting, Reason::CoordinatorStarting, "agents may still replay to the new leader")?;
        self.refuse(at.clock_jumped, Reason::ClockJumped, "the clock jumped within the last interval")?;
        match &at.breaker {
            Some(harm) => Err(self.hold(Reason::BreakerOpen, harm.clone())),
            None => Ok(()),
        }
    }

    /// The evidence for less.
    fn proven(&self, boost_ends: bool) -> Result<(), Hold> {
        let evidence = &self.size.evidence;
        let EvidenceSummary { window, covered, .. } = evidence;
        self.refuse(evidence.starting, Reason::StartingUp, "start-up needs more than runtime")?;
        let next = if self.at.replacement_known {
            "the next run starts at the new size"
        } else {
            "the next run starts at the size of its template and is decided with what this one used"
        };
        let runs = evidence.runs.min(JOB_RUNS);
        let message = format!("a running Job is only raised: {next}; {runs} of {JOB_RUNS} runs were seen");
        self.refuse(self.pod.job, Reason::JobRunning, message)?;
        let message = "no usage was seen in the last 5 minutes";
        self.refuse(!evidence.fresh, Reason::InsufficientCoverage, message)?;
        let needed = u64::from(self.policy.minimum_coverage.thousandths());
        let message = format!(
            "{} s of {} s have data, {} needed before anything shrinks",
            covered.as_secs(),
            window.as_secs(),
            self.policy.minimum_coverage
        );
        let too_little = evidence.coverage(self.pod.job) < needed;
        self.refuse(too_little && !boost_ends, Reason::InsufficientCoverage, message)?;
        let message = "its owner rolls out a new revision";
        self.refuse(self.at.owner_progressing, Reason::OwnerProgressing, message)?;
        match evidence.unseen_peak_hour {
            Some(hour) => {
                let message = format!(
                    "earlier revisions had their daily peak at {hour:02}:00 UTC, this one was not seen then"
                );
                Err(self.hold(Reason::RevisionUnproven, message))
            }
            None => Ok(()),
        }
    }

    /// A decrease is a loan: it must be possible to call it back.
    fn lent(&self, wanted: Wanted) -> Result<(), Hold> {
        let unknown = self.policy.replacement == Replacement::Known && !self.at.replacement_known;
        let message = "a replacement would start at template size: no admission webhook runs";
        self.refuse(unknown, Reason::ReplacementSizeUnknown, message)?;
        if !wanted.request_falls() {
            return Ok(());
        }
        let debt = self.at.restart_debt.filter(|debt| debt.is_full(self.resource));
        let full = debt.is_some() && !self.at.replacement_known;
        self.refuse(full, Reason::RestartDebt, "replacements would ask for more than the cluster may owe")?;
        // what this decrease frees is there for its own way back; what earlier ones freed may be spent
        let of = |amounts: Option<Amounts>| {
            amounts.and_then(|amounts| match self.resource {
                Resource::Cpu => amounts.cpu.map(|c| c.0),
                Resource::Memory => amounts.memory.map(|m| m.0),
            })
        };
        match of(self.at.quota_free).zip(of(self.at.quota_owed)).filter(|(free, owed)| free < owed) {
            Some((free, owed)) => {
                let (free, owed) = (self.show(free), self.show(owed));
                let message =
                    format!("the quota leaves {free}, pods of the namespace may need {owed} back already");
                Err(self.hold(Reason::QuotaHeadroom, message))
            }
            None => Ok(()),
        }
    }

    fn less_cpu(&self, wanted: Wanted) -> Result<(), Hold> {
        let shrunk = self.pod.node.as_ref().map_or(0, |node| node.slice_shrunk);
        let spent = wanted.request_falls() && self.qos == QosClass::Burstable && shrunk >= SLICE_BUDGET;
        let message = format!(
            "requests of the node's Burstable pods shrank by {}.{}% within the hour",
            shrunk / 10,
            shrunk % 10
        );
        self.refuse(spent, Reason::SliceShrinkBudget, message)?;
        let burst = wanted.lower_limit().is_some() && self.container.cgroup.cpu_burst;
        self.refuse(burst, Reason::CpuBurst, "cpu.max.burst is set: the kernel refuses a lower limit")
    }

    /// Pods that try less memory first are watched for a day, whatever the policy says: minutes at night see no peak.
    fn seen_through_a_daily_peak(&self) -> Result<(), Hold> {
        let (Some(canary), Some(progress)) = (self.policy.update.canary, self.at.canary) else {
            return Ok(());
        };
        let first = canary.first_of(progress.pods);
        let seen = progress.since.map(|since| self.at.now.since(since)).unwrap_or_default();
        let message = format!(
            "{first} of {} pods try less memory first, for {} h of the {} h of a day",
            progress.pods,
            seen.as_secs() / 3600,
            DAY.as_secs() / 3600
        );
        self.refuse(progress.changed >= first && seen < DAY, Reason::CanaryObserving, message)
    }

    fn less_memory(&self, wanted: Wanted) -> Result<(), Hold> {
        let never = self.policy.update.memory_decrease == MemoryDecrease::Never;
        self.refuse(never, Reason::MemoryDecreaseForbidden, "updateStrategy.memoryDecrease is Never")?;
        self.seen_through_a_daily_peak()?;
        if let Some(node) = &self.pod.node {
            self.refuse(node.memory_pressure, Reason::NodeMemoryPressure, "the node has MemoryPressure")?;
            let message = "tasks of the node stall for memory";
            self.refuse(node.memory_stalls, Reason::NodeMemoryPressure, message)?;
            let message = "the peaks of the node's pods add up to more memory than it has";
            self.refuse(node.overcommitted && wanted.request_falls(), Reason::NodeOvercommitted, message)?;
        }
        let EvidenceSummary { memory_recent_peak, memory_rising, .. } = self.size.evidence;
        self.refuse(memory_rising, Reason::MemoryRising, "memory use has risen in the last minute")?;
        if let (Some(_), Some(language)) = (wanted.lower_limit(), self.container.language)
            && language.fixes_heap()
        {
            let message = format!("{language:?} sized its heap from the limit when it started");
            return Err(self.hold(Reason::HeapFixedAtStart, message));
        }
        let least = u128::from(memory_recent_peak.0) * u128::from(MEMORY_MARGIN) / 1000;
        // with MemoryQoS the kernel reclaims above the request
        let enforced = wanted.request_falls() && self.container.cgroup.memory_qos;
        let values = [("limit", wanted.lower_limit()), ("request", enforced.then_some(wanted.request.1))];
        for (what, value) in values {
            if let Some(value) = value.filter(|value| u128::from(*value) < least) {
                let message =
                    format!("{what} {} is below the recent peak {memory_recent_peak} plus 10%", Bytes(value));
                return Err(self.hold(Reason::MemoryInUse, message));
            }
        }
        Ok(())
    }

    /// What may rise. While the node has a pod to admit no request does, not of a container that was killed either: that pod
    /// has its place nowhere else and is lost without it, and it is admitted within seconds as a rule. A limit takes no room.
    fn increase(&self, wanted: Wanted) -> Result<Wanted, Hold> {
        let Some(node) = &self.pod.node else { return Ok(wanted) };
        let growth = wanted.request.1.saturating_sub(wanted.request.0);
        if let Some(waiting) = node.admitting.as_ref().filter(|_| growth > 0) {
            let message = format!("{waiting} waits to be admitted by node {}", node.name);
            let limit = Wanted { request: (wanted.request.0, wanted.request.0), ..wanted };
            let rises = self.qos != QosClass::Guaranteed && limit.increases();
            return if rises { Ok(limit) } else { Err(self.hold(Reason::NodeAdmitting, message)) };
        }
        match self.room().filter(|free| growth > *free) {
            Some(free) if self.at.deferred_preempts => {
                let (free, growth) = (self.show(free), self.show(growth));
                let message = format!("node {} has {free} left, {growth} more is wanted", node.name);
                Err(self.hold(Reason::WouldPreempt, message))
            }
            _ => Ok(wanted),
        }
    }

    /// What is left of the node for requests.
    fn room(&self) -> Option<u64> {
        match self.resource {
            Resource::Cpu => self.free?.cpu.map(|cpu| cpu.0),
            Resource::Memory => self.free?.memory.map(|memory| memory.0),
        }
    }

    /// Go follows its CPU limit while it runs: its parallelism would change.
    fn limit_of_runtime(&self, wanted: Wanted) -> Result<(), Hold> {
        let moves = self.resource == Resource::Cpu && wanted.limit.is_some_and(|(from, to)| from != to);
        let follows = self.container.language.filter(|language| language.follows_limit());
        let held = follows.filter(|language| moves && !self.policy.update.limit_runtimes.contains(language));
        let message = "GOMAXPROCS would follow the CPU limit; limitRuntimes: [Go] lets it";
        self.refuse(held.is_some(), Reason::RuntimeFollowsLimit, message)
    }
}
