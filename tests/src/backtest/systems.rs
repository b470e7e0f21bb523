//! All systems with their actuators: how often they look, how long a change takes, which changes they leave out.

use std::time::Duration;

use optipod_common::{
    policy::{Objective, Policy, Strategy, ThresholdParams, UpdateStrategy},
    replay::{Actuator, AdaptiveRule, Limit, Observation, Rule, ThresholdRule},
    resources::Resource,
};

use super::{
    opponents::{Autopilot, DecayedPercentile, Krr, NSigma, PeakHold, Static, VpaRule},
    protocol::Target,
    trace::BYTES_PER_UNIT,
};

/// A system, ready for a series.
pub enum Contender {
    /// A rule under replay.
    Rule {
        /// Size at the beginning.
        start: u64,
        /// How changes are carried out.
        actuator: Actuator,
        /// The rule.
        rule: Boxed,
    },
    /// The product's policy over the product's store.
    Policy(Box<Policy>),
    /// Knows the future.
    Hindsight,
}

/// Any rule.
pub struct Boxed(Box<dyn Rule>);

impl Rule for Boxed {
    fn observe(&mut self, seen: &Observation) -> Option<u64> {
        self.0.observe(seen)
    }
}

/// Makes a system for (resource, declared size, highest use).
type Make = Box<dyn Fn(Resource, u64, u64) -> Contender + Sync + Send>;

/// What a row of the table is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Name of the system.
    pub name: String,
    /// What it sizes.
    pub resource: Target,
    /// Ours only.
    pub objective: Option<Objective>,
}

/// See [`Label`].
pub fn label(name: &str, resource: Target, objective: Option<Objective>) -> Label {
    Label { name: name.to_owned(), resource, objective }
}

/// One row of the table.
pub struct System {
    /// Its name.
    pub name: String,
    /// What it sizes.
    pub resource: Target,
    /// Ours only.
    pub objective: Option<Objective>,
    /// Not ours.
    pub opponent: bool,
    /// See [`Contender`].
    pub make: Make,
}

/// Our lag: the stream, the decision and `pods/resize` take less than two seconds.
const OURS: Duration = Duration::from_secs(2);
/// What others leave out: decreases below 10 %, increases below 5 %. Theirs document none but VPA's, whose rule has it:
/// without one they allocate 1 % less at the same excess, for three to fifty times the resizes.
const DEAD: (u32, u32) = (50, 100);

fn actuator(lag: u64, (dead_up, dead_down): (u32, u32), sized: Target) -> Actuator {
    let limit = if sized == Target::Memory { Limit::Follows } else { Limit::Apart };
    let guarded = sized == Target::Memory;
    Actuator { lag: Duration::from_secs(lag), dead_up, dead_down, minimum: 1, limit, guarded }
}

fn opponent<R: Rule + 'static>(
    name: &str,
    sized: Target,
    lag: u64,
    dead: (u32, u32),
    rule: impl Fn(Resource, u64) -> R + Sync + Send + 'static,
) -> System {
    let actuator = actuator(lag, dead, sized);
    let make = move |resource, declared, _| Contender::Rule {
        start: declared,
        actuator,
        rule: Boxed(Box::new(rule(resource, declared))),
    };
    System { name: name.to_owned(), resource: sized, objective: None, opponent: true, make: Box::new(make) }
}

/// The threshold manager has a smallest memory request.
fn threshold(resource: Resource) -> ThresholdRule {
    let params = ThresholdParams::default();
    let floor = match resource {
        Resource::Cpu => 0,
        Resource::Memory => params.min_request_memory.0 / BYTES_PER_UNIT,
    };
    ThresholdRule::new(params, floor)
}

fn opponents(sized: Target) -> Vec<System> {
    let fixed = System {
        name: "static-peak".to_owned(),
        resource: sized,
        objective: None,
        opponent: true,
        make: Box::new(move |_, _, peak| Contender::Rule {
            start: peak,
            actuator: actuator(0, (0, 0), sized),
            rule: Boxed(Box::new(Static)),
        }),
    };
    let oracle = System {
        name: "oracle-1h".to_owned(),
        resource: sized,
        objective: None,
        opponent: true,
        make: Box::new(|_, _, _| Contender::Hindsight),
    };
    vec![
        opponent("vpa", sized, 120, (0, 0), |resource, _| VpaRule::new(resource)),
        opponent("vpa-no-minimum", sized, 120, (0, 0), |resource, _| VpaRule::without_minimum(resource)),
        opponent("peak-hold-4h", sized, 2, (20, 300), |_, _| PeakHold::new(4.0)),
        opponent("peak-hold-6h", sized, 2, (20, 300), |_, _| PeakHold::new(6.0)),
        opponent("autopilot", sized, 60, DEAD, Autopilot::new),
        opponent("krr", sized, 0, DEAD, Krr::new),
        opponent("crane", sized, 60, DEAD, DecayedPercentile::crane),
        opponent("koordinator", sized, 60, DEAD, DecayedPercentile::koordinator),
        opponent("n-sigma", sized, 60, DEAD, |_, _| NSigma::new(5.0)),
        opponent("n-sigma-3", sized, 60, DEAD, |_, _| NSigma::new(3.0)),
        opponent("threshold", sized, 5, (0, 0), |resource, _| threshold(resource)),
        opponent("declared", sized, 0, (0, 0), |_, _| Static),
        fixed,
        oracle,
    ]
}

/// Adaptive as shipped, for one objective.
pub fn adaptive(sized: Target, objective: Objective) -> System {
    with_rule("adaptive", sized, objective, move || AdaptiveRule::new(sized.size(), objective))
}

/// Any rule of ours.
pub fn with_rule<R: Rule + 'static>(
    name: &str,
    sized: Target,
    objective: Objective,
    rule: impl Fn() -> R + Sync + Send + 'static,
) -> System {
    let mut actuator = actuator(0, (0, 0), sized);
    actuator.lag = OURS;
    let make =
        move |_, declared, _| Contender::Rule { start: declared, actuator, rule: Boxed(Box::new(rule())) };
    System {
        name: name.to_owned(),
        resource: sized,
        objective: Some(objective),
        opponent: false,
        make: Box::new(make),
    }
}

/// A policy with the defaults but for its strategy: interval, coverage, smallest change, cooldown and floors act.
pub fn policy(sized: Target, strategy: Strategy) -> System {
    let (name, objective) = match strategy {
        Strategy::Adaptive(objective) => ("policy-adaptive", Some(objective)),
        _ => ("policy-percentile", None),
    };
    // with request = limit both move, else the limit is left alone
    let update =
        UpdateStrategy { update_requests_only: sized != Target::Memory, ..UpdateStrategy::default() };
    let policy = Policy { strategy, update, ..Policy::default() };
    System {
        name: name.to_owned(),
        resource: sized,
        objective,
        opponent: false,
        make: Box::new(move |_, _, _| Contender::Policy(Box::new(policy.clone()))),
    }
}

/// Every system that is replayed.
pub fn all() -> Vec<System> {
    let mut systems = Vec::new();
    for sized in [Target::Cpu, Target::MemoryRequest, Target::Memory] {
        for objective in [Objective::Savings, Objective::Balanced, Objective::Safe] {
            systems.push(adaptive(sized, objective));
        }
        systems.push(policy(sized, Strategy::Adaptive(Objective::Balanced)));
        systems.push(policy(sized, Strategy::Percentile));
        systems.extend(opponents(sized));
    }
    systems
}

#[cfg(test)]
mod tests {
    use optipod_common::{replay::Trace, time::Timestamp};
    use proptest::prelude::*;

    use super::*;
    use crate::backtest::{protocol, trace::Series};

    const DECLARED: u64 = 500_000;

    /// Sizes while the first `values` ran, with what comes after them.
    fn sizes(system: &System, step: u32, values: &[u64], after: &[u64]) -> Vec<u64> {
        let step = Duration::from_secs(u64::from(step));
        let start = Timestamp::from_unix_seconds(1_700_006_400);
        let all = values.iter().chain(after).zip(0_u32..);
        let trace = Trace { step, samples: all.map(|(used, n)| (start + step * n, *used)).collect() };
        let series = Series { name: "series".to_owned(), resource: system.resource.measured(), trace };
        let mut sizes = protocol::replayed_from(system, &series, DECLARED, 250_000).sizes;
        sizes.truncate(values.len());
        sizes
    }

    fn causal() -> impl Iterator<Item = System> {
        // the oracle is what knows the future
        all().into_iter().filter(|system| system.name != "oracle-1h")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_future_changes_no_size_of_any_system(
            values in prop::collection::vec(1..300_000_u64, 2..120),
            one in prop::collection::vec(1..300_000_u64, 1..40),
            other in prop::collection::vec(1..300_000_u64, 1..40),
            step in prop::sample::select(vec![1_u32, 60, 300, 900]),
        ) {
            for system in causal() {
                let (one, other) = (sizes(&system, step, &values, &one), sizes(&system, step, &values, &other));
                prop_assert_eq!(one, other, "{} {:?}", system.name, system.resource);
            }
        }

        /// Long enough for half a day to be covered.
        #[test]
        fn the_future_changes_no_size_of_a_policy_that_acts(
            values in prop::collection::vec(1..100_000_u64, 30..50),
            one in prop::collection::vec(1..900_000_u64, 1..10),
            other in prop::collection::vec(1..900_000_u64, 1..10),
        ) {
            let policies = causal().filter(|system| system.name.starts_with("policy-"));
            for system in policies {
                let of = |after: &[u64]| sizes(&system, 1800, &values, after);
                let one = of(&one);
                prop_assert!(one.last() < Some(&DECLARED), "{} {:?} stays", system.name, system.resource);
                prop_assert_eq!(one, of(&other), "{} {:?}", system.name, system.resource);
            }
        }
    }
}
