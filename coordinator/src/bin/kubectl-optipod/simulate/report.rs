//! What a simulation found, as text and as JSON.

use std::fmt::Write as _;

use optipod_common::replay::{Outcome, PolicyReplay, Replayed, Usage, kills_above};
use optipod_common::resources::{Resource, Resources};
use optipod_common::savings::Prices;
use serde_json::{Value, json};

/// Units of a trace in a core; see [`optipod_common::sample::CPU_UNITS_PER_MILLICORE`].
const UNITS_PER_CORE: f64 = 10_000.0;
const BYTES_PER_GIB: f64 = 1_073_741_824.0;
const BYTES_PER_MIB: f64 = 1_048_576.0;
/// Changes that are listed at most.
const LISTED: usize = 10;

/// What an answer does not say anything about.
const NOT_SIMULATED: [&str; 4] = [
    "bursts shorter than a sample, which counts as constant",
    "throttling: use is taken as demand, and CPU limits do not hold it back",
    "CPU limits with headroom, which need use at 100 ms",
    "start-ups, other pods, quotas, room on nodes and resizes that the kubelet refuses",
];

/// Without or with the policy.
type Side = fn(&Sums) -> &Outcome;
const DECLARED: Side = |sums| &sums.declared;
const POLICY: Side = |sums| &sums.policy;

/// What was recorded, and the owner's side of it.
pub struct Recorded {
    /// Use.
    pub usage: Usage,
    /// What the owner declares.
    pub declared: Resources,
    /// Of what is requested.
    pub prices: Option<Prices>,
}

/// What a policy would have done.
pub struct Simulated {
    name: String,
    replayed: PolicyReplay,
    cpu: Option<Sums>,
    memory: Option<Sums>,
}

/// One resource without and with a policy.
struct Sums {
    declared: Outcome,
    policy: Outcome,
}

impl Recorded {
    fn hours(&self) -> f64 {
        self.usage.step.as_secs_f64() * self.usage.samples.len() as f64 / 3600.0
    }

    /// Cores or GiB, times hours, of a sum of sizes.
    fn amount_hours(&self, resource: Resource, sum: u128) -> f64 {
        let unit = match resource {
            Resource::Cpu => UNITS_PER_CORE,
            Resource::Memory => BYTES_PER_GIB,
        };
        sum as f64 / unit * self.usage.step.as_secs_f64() / 3600.0
    }

    fn sums(&self, resource: Resource, with: &Replayed) -> Option<Sums> {
        let requests = self.declared.requests;
        let stated = match resource {
            Resource::Cpu => requests.cpu.map(|cpu| cpu.0 * 10),
            Resource::Memory => requests.memory.map(|memory| memory.0),
        };
        let trace = self.usage.trace(resource);
        let stated = stated.filter(|_| !trace.samples.is_empty())?;
        let limit = self.declared.limits.memory.filter(|_| resource == Resource::Memory);
        let oom_kills = limit.map_or_else(Vec::new, |limit| kills_above(&trace, limit.0));
        let still = Replayed { sizes: vec![stated; trace.samples.len()], oom_kills, resizes: Vec::new() };
        Some(Sums { declared: Outcome::of(&trace, &still, 0), policy: Outcome::of(&trace, with, 0) })
    }
}

impl Simulated {
    /// Sums up what was replayed.
    pub fn new(name: String, recorded: &Recorded, replayed: PolicyReplay) -> Self {
        let cpu = recorded.sums(Resource::Cpu, &replayed.cpu);
        let memory = recorded.sums(Resource::Memory, &replayed.memory);
        Self { name, replayed, cpu, memory }
    }

    const fn of(&self, resource: Resource) -> Option<&Sums> {
        match resource {
            Resource::Cpu => self.cpu.as_ref(),
            Resource::Memory => self.memory.as_ref(),
        }
    }

    /// What requests cost over the recording; `None` without prices.
    fn cost(&self, recorded: &Recorded, side: Side) -> Option<f64> {
        let prices = recorded.prices?;
        let hours = |resource| {
            self.of(resource).map_or(0.0, |sums| recorded.amount_hours(resource, side(sums).allocated))
        };
        Some(hours(Resource::Cpu) * prices.core_hour + hours(Resource::Memory) * prices.gibibyte_hour)
    }
}

/// The answer for people: one policy in detail, several in a table.
pub fn text(recorded: &Recorded, simulated: &[Simulated]) -> String {
    let mut text = String::new();
    // writing to a text cannot fail
    let _ = writeln!(
        text,
        "{} samples of {} s, {:.1} h in all",
        recorded.usage.samples.len(),
        recorded.usage.step.as_secs_f64(),
        recorded.hours()
    );
    let _ = writeln!(text, "not simulated: {}\n", NOT_SIMULATED.join("; "));
    match simulated {
        [one] => detail(&mut text, recorded, one),
        several => compare(&mut text, recorded, several),
    }
    text
}

fn detail(text: &mut String, recorded: &Recorded, simulated: &Simulated) {
    let Simulated { name, replayed, .. } = simulated;
    // writing to a text cannot fail
    let _ =
        writeln!(text, "{name}: {} evaluations, {} resizes\n", replayed.evaluations, replayed.changes.len());
    let _ = writeln!(
        text,
        "{:<22} {:>12} {:>10} {:>12} {:>12} {:>12} {:>10}",
        "", "mean request", "used", "time above", "use above", "resizes/day", "OOM kills"
    );
    for resource in [Resource::Cpu, Resource::Memory] {
        let Some(sums) = simulated.of(resource) else {
            let _ = writeln!(text, "{resource}: not recorded, or not declared");
            continue;
        };
        row(text, resource, "as declared", &sums.declared);
        row(text, resource, "with the policy", &sums.policy);
        let amount = given_back(recorded, resource, sums);
        let unit = match resource {
            Resource::Cpu => "core-hours",
            Resource::Memory => "GiB-hours",
        };
        let what = if amount < 0.0 { "more" } else { "given back" };
        let _ = writeln!(text, "  {:.2} {unit} {what}", amount.abs());
    }
    if let (Some(before), Some(after)) =
        (simulated.cost(recorded, DECLARED), simulated.cost(recorded, POLICY))
    {
        let _ = writeln!(text, "cost of the requests: {before:.4} as declared, {after:.4} with the policy");
    }
    if !replayed.changes.is_empty() {
        let _ = writeln!(text, "\nresizes:");
        let hidden = replayed.changes.len().saturating_sub(LISTED);
        for (at, plan) in replayed.changes.iter().take(LISTED) {
            let _ = writeln!(text, "  t={} s  {plan}", at.unix_micros().div_euclid(1_000_000));
        }
        if hidden > 0 {
            let _ = writeln!(text, "  and {hidden} more");
        }
    }
    if !replayed.held.is_empty() {
        let _ = writeln!(text, "\nheld back, by reason:");
        let mut held: Vec<_> = replayed.held.iter().collect();
        held.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), reason.as_str()));
        for (reason, count) in held {
            let _ = writeln!(text, "  {count:>7}  {reason}: {}", reason.meaning().trim());
        }
    }
}

/// A row for each policy, under that of what is declared.
fn compare(text: &mut String, recorded: &Recorded, simulated: &[Simulated]) {
    let declared = simulated.iter().take(1).map(|first| ("as declared", first, DECLARED));
    let policies = simulated.iter().map(|one| (one.name.as_str(), one, POLICY));
    let sides: Vec<(&str, &Simulated, Side)> = declared.chain(policies).collect();
    let width = sides.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    let cost = if recorded.prices.is_some() { "cost" } else { "" };
    // writing to a text cannot fail
    let _ = writeln!(
        text,
        "{:<width$} {:>8} {:>12} {:>12} {:>12} {:>12} {:>12} {:>10} {cost:>10}",
        "", "resizes", "cpu request", "time above", "use above", "memory req.", "time above", "OOM kills"
    );
    for (name, one, side) in sides {
        let cell = |resource, of: fn(Resource, &Outcome) -> String| {
            one.of(resource).map_or_else(|| "-".to_owned(), |sums| of(resource, side(sums)))
        };
        let mean = |resource, outcome: &Outcome| shown(resource, outcome, outcome.allocated);
        let under = |_, outcome: &Outcome| format!("{:.2} %", outcome.under() * 100.0);
        let resizes: u64 = [Resource::Cpu, Resource::Memory]
            .into_iter()
            .filter_map(|resource| one.of(resource))
            .map(|sums| side(sums).resizes)
            .sum();
        let _ = writeln!(
            text,
            "{name:<width$} {resizes:>8} {:>12} {:>12} {:>12} {:>12} {:>12} {:>10} {:>10}",
            cell(Resource::Cpu, mean),
            cell(Resource::Cpu, under),
            cell(Resource::Cpu, |_, outcome| format!("{:.2} %", outcome.excess() * 100.0)),
            cell(Resource::Memory, mean),
            cell(Resource::Memory, under),
            cell(Resource::Memory, |_, outcome| outcome.oom_kills.to_string()),
            one.cost(recorded, side).map_or_else(String::new, |cost| format!("{cost:.4}")),
        );
    }
}

fn given_back(recorded: &Recorded, resource: Resource, sums: &Sums) -> f64 {
    recorded.amount_hours(resource, sums.declared.allocated)
        - recorded.amount_hours(resource, sums.policy.allocated)
}

/// Mean of a sum.
fn shown(resource: Resource, outcome: &Outcome, sum: u128) -> String {
    let mean = sum as f64 / outcome.samples.max(1) as f64;
    match resource {
        Resource::Cpu => format!("{:.3}", mean / UNITS_PER_CORE),
        Resource::Memory => format!("{:.0} Mi", mean / BYTES_PER_MIB),
    }
}

fn row(text: &mut String, resource: Resource, what: &str, outcome: &Outcome) {
    let label = format!("{resource} {what}");
    // writing to a text cannot fail
    let _ = writeln!(
        text,
        "{label:<22} {:>12} {:>10} {:>10.2} % {:>10.2} % {:>12.1} {:>10}",
        shown(resource, outcome, outcome.allocated),
        shown(resource, outcome, outcome.used),
        outcome.under() * 100.0,
        outcome.excess() * 100.0,
        outcome.resizes_per_day(),
        outcome.oom_kills
    );
}

/// The answer for programs: cores and MiB, shares in percent, what is given back in core-hours and GiB-hours.
pub fn json(recorded: &Recorded, simulated: &[Simulated]) -> Value {
    let resource = |one: &Simulated, resource, side: Side| {
        let Some(sums) = one.of(resource) else { return Value::Null };
        let outcome = side(sums);
        let unit = match resource {
            Resource::Cpu => UNITS_PER_CORE,
            Resource::Memory => BYTES_PER_MIB,
        };
        let mean = |sum: u128| sum as f64 / outcome.samples.max(1) as f64 / unit;
        json!({
            "meanRequest": mean(outcome.allocated),
            "meanUse": mean(outcome.used),
            "timeAbove": outcome.under() * 100.0,
            "useAbove": outcome.excess() * 100.0,
            "resizesPerDay": outcome.resizes_per_day(),
            "oomKills": outcome.oom_kills,
            "givenBack": recorded.amount_hours(resource, sums.declared.allocated)
                - recorded.amount_hours(resource, outcome.allocated),
        })
    };
    let side = |one: &Simulated, side: Side| {
        [
            ("cpu", resource(one, Resource::Cpu, side)),
            ("memory", resource(one, Resource::Memory, side)),
            ("cost", one.cost(recorded, side).into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    };
    let policies: Vec<Value> = simulated
        .iter()
        .map(|one| {
            let changes: Vec<Value> = one
                .replayed
                .changes
                .iter()
                .map(|(at, plan)| {
                    json!({"seconds": at.unix_micros().div_euclid(1_000_000), "plan": plan.to_string()})
                })
                .collect();
            let held: serde_json::Map<String, Value> = one
                .replayed
                .held
                .iter()
                .map(|(reason, count)| (reason.as_str().to_owned(), (*count).into()))
                .collect();
            let rest = [
                ("name", one.name.clone().into()),
                ("evaluations", one.replayed.evaluations.into()),
                ("changes", changes.into()),
                ("held", held.into()),
            ];
            let rest = rest.map(|(name, value): (_, Value)| (name.to_owned(), value));
            side(one, POLICY).into_iter().chain(rest).collect::<Value>()
        })
        .collect();
    json!({
        "samples": recorded.usage.samples.len(),
        "stepSeconds": recorded.usage.step.as_secs_f64(),
        "hours": recorded.hours(),
        "notSimulated": NOT_SIMULATED,
        "declared": simulated.first().map(|one| Value::from_iter(side(one, DECLARED))),
        "policies": policies,
    })
}
