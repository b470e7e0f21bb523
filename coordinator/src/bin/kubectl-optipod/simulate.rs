//! `simulate`: what a policy would have done to a recorded workload, in resizes, savings and risk.

mod trace;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use optipod_common::policy::{Policy, Violation};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::replay::{Outcome, PolicyReplay, Replayed, Usage, kills_above, replay_policy};
use optipod_common::resources::{Amounts, Resource, Resources};
use optipod_coordinator::api::convert::to_policy;
use optipod_coordinator::api::lint::lint;
use optipod_coordinator::expression::Cel;
use serde_json::Value;

use super::files::{self, is};

/// Units of a trace in a core; see [`optipod_common::sample::CPU_UNITS_PER_MILLICORE`].
const UNITS_PER_CORE: f64 = 10_000.0;
const BYTES_PER_GIB: f64 = 1_073_741_824.0;
/// Changes that are listed at most.
const LISTED: usize = 10;

/// What is simulated.
#[derive(Debug, Args)]
pub struct Options {
    /// CSV with the columns `t_seconds`, `cpu_cores` and `memory_mib` (one of the two is enough) and perhaps `series`;
    /// an empty cell is a missing value; - for standard input.
    pub usage: PathBuf,
    /// YAML with the policy; the only one in it, or the one that --name names.
    #[arg(long, short = 'f')]
    pub policy: PathBuf,
    /// Name of the policy.
    #[arg(long)]
    pub name: Option<String>,
    /// Only this series of the CSV; needed when it has several.
    #[arg(long)]
    pub series: Option<String>,
    /// CPU request that the owner declares, such as 500m.
    #[arg(long)]
    pub cpu_request: Option<MilliCpu>,
    /// CPU limit that the owner declares.
    #[arg(long)]
    pub cpu_limit: Option<MilliCpu>,
    /// Memory request that the owner declares, such as 256Mi.
    #[arg(long)]
    pub memory_request: Option<Bytes>,
    /// Memory limit that the owner declares.
    #[arg(long)]
    pub memory_limit: Option<Bytes>,
}

/// Reads the files and plays the policy.
pub fn run(options: &Options) -> Result<String> {
    let policy = policy(&files::objects(std::slice::from_ref(&options.policy))?, options.name.as_deref())?;
    let place = options.usage.display().to_string();
    let usage = trace::read(&files::text(&options.usage)?, options.series.as_deref()).context(place)?;
    let declared = declared(options)?;
    let replayed = replay_policy(&policy, &usage, declared, &Cel);
    Ok(text(&usage, declared, &replayed))
}

fn policy(objects: &[files::Located], name: Option<&str>) -> Result<Policy> {
    let named = |object: &Value| {
        let found = object.pointer("/metadata/name").and_then(Value::as_str);
        name.is_none_or(|name| found == Some(name))
    };
    let policies: Vec<_> = objects
        .iter()
        .filter(|located| is(&located.object, "optipod.io", "OptimizationPolicy") && named(&located.object))
        .collect();
    let [located] = policies[..] else {
        let hint = if policies.is_empty() { "" } else { ": choose one with --name" };
        bail!(
            "{} policies{} were found, expected one{hint}",
            policies.len(),
            name.map_or_else(String::new, |name| format!(" named {name:?}"))
        );
    };
    let refused = |violations: &[Violation]| {
        let all: Vec<_> = violations.iter().map(ToString::to_string).collect();
        anyhow!("{}: {}", located.place, all.join("; "))
    };
    // it also sees what the schema refuses
    let violations = lint(&located.object).violations;
    if !violations.is_empty() {
        return Err(refused(&violations));
    }
    let spec = located.object.get("spec").cloned().unwrap_or_else(|| serde_json::json!({}));
    let (policy, _) = to_policy(&serde_json::from_value(spec)?).map_err(|violations| refused(&violations))?;
    Ok(policy)
}

fn declared(options: &Options) -> Result<Resources> {
    let requests = Amounts { cpu: options.cpu_request, memory: options.memory_request };
    let limits = Amounts { cpu: options.cpu_limit, memory: options.memory_limit };
    // as the API server has it: a request that is not said is the limit
    let requests = limits.overlaid(requests);
    ensure!(
        !requests.is_empty(),
        "nothing is declared: expected --cpu-request, --memory-request or limits, since what nobody declares is never changed"
    );
    let above = |request: Option<u64>, limit: Option<u64>| request.zip(limit).is_some_and(|(r, l)| r > l);
    let cpu = above(requests.cpu.map(|c| c.0), limits.cpu.map(|c| c.0));
    let memory = above(requests.memory.map(|m| m.0), limits.memory.map(|m| m.0));
    ensure!(!cpu && !memory, "a request is above its limit");
    Ok(Resources { requests, limits })
}

/// The answer for people.
fn text(usage: &Usage, declared: Resources, replayed: &PolicyReplay) -> String {
    let mut text = String::new();
    let hours = usage.step.as_secs_f64() * usage.samples.len() as f64 / 3600.0;
    // writing to a text cannot fail
    let _ = writeln!(
        text,
        "{} samples of {} s, {hours:.1} h in all; {} evaluations, {} resizes",
        usage.samples.len(),
        usage.step.as_secs_f64(),
        replayed.evaluations,
        replayed.changes.len()
    );
    let _ = writeln!(text, "a sample counts as constant: bursts shorter than it are not seen\n");
    let _ = writeln!(
        text,
        "{:<22} {:>12} {:>10} {:>12} {:>12} {:>12} {:>10}",
        "", "mean request", "used", "time above", "use above", "resizes/day", "OOM kills"
    );
    for resource in [Resource::Cpu, Resource::Memory] {
        let (stated, after) = match resource {
            Resource::Cpu => (declared.requests.cpu.map(|cpu| cpu.0 * 10), &replayed.cpu),
            Resource::Memory => (declared.requests.memory.map(|memory| memory.0), &replayed.memory),
        };
        let trace = usage.trace(resource);
        let Some(stated) = stated.filter(|_| !trace.samples.is_empty()) else {
            let _ = writeln!(text, "{resource}: not recorded, or not declared");
            continue;
        };
        let limit = declared.limits.memory.filter(|_| resource == Resource::Memory);
        let oom_kills = limit.map_or_else(Vec::new, |limit| kills_above(&trace, limit.0));
        let still = Replayed { sizes: vec![stated; trace.samples.len()], oom_kills, resizes: Vec::new() };
        let (before, after) = (Outcome::of(&trace, &still, 0), Outcome::of(&trace, after, 0));
        row(&mut text, resource, "as declared", &before);
        row(&mut text, resource, "with the policy", &after);
        let given_back =
            (before.allocated as f64 - after.allocated as f64) * usage.step.as_secs_f64() / 3600.0;
        let (amount, unit) = match resource {
            Resource::Cpu => (given_back / UNITS_PER_CORE, "core-hours"),
            Resource::Memory => (given_back / BYTES_PER_GIB, "GiB-hours"),
        };
        let what = if amount < 0.0 { "more" } else { "given back" };
        let _ = writeln!(text, "  {:.2} {unit} {what}", amount.abs());
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
    text
}

fn row(text: &mut String, resource: Resource, what: &str, outcome: &Outcome) {
    let mean = |sum: u128| sum as f64 / outcome.samples.max(1) as f64;
    let shown = |sum: u128| match resource {
        Resource::Cpu => format!("{:.3}", mean(sum) / UNITS_PER_CORE),
        Resource::Memory => format!("{:.0} Mi", mean(sum) / 1_048_576.0),
    };
    let label = format!("{resource} {what}");
    // writing to a text cannot fail
    let _ = writeln!(
        text,
        "{label:<22} {:>12} {:>10} {:>10.2} % {:>10.2} % {:>12.1} {:>10}",
        shown(outcome.allocated),
        shown(outcome.used),
        outcome.under() * 100.0,
        outcome.excess() * 100.0,
        outcome.resizes_per_day(),
        outcome.oom_kills
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: optipod.io/v1alpha1
kind: OptimizationPolicy
metadata: {name: gold}
spec:
  metricsConfig: {rollingWindow: 2h}
";

    fn options(cpu: &str) -> Options {
        Options {
            usage: "-".into(),
            policy: "-".into(),
            name: None,
            series: None,
            cpu_request: Some(cpu.parse().unwrap()),
            cpu_limit: None,
            memory_request: None,
            memory_limit: None,
        }
    }

    #[test]
    fn savings_risk_and_resizes_are_told() {
        let rows: Vec<String> = (0..360).map(|minute| format!("{},0.1", minute * 60)).collect();
        let usage = trace::read(&format!("t_seconds,cpu_cores\n{}\n", rows.join("\n")), None).unwrap();
        let declared = declared(&options("1")).unwrap();
        let policy = policy(&files::parse(POLICY, "p").unwrap(), None).unwrap();
        let text = text(&usage, declared, &replay_policy(&policy, &usage, declared, &Cel));
        for expected in [
            "360 samples of 60 s, 6.0 h in all",
            "cpu as declared               1.000      0.100       0.00 %       0.00 %          0.0          0",
            "core-hours given back",
            "memory: not recorded, or not declared",
            "container: cpu request 1 > 120m",
            "ChangeTooSmall",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
    }

    #[test]
    fn kills_are_counted_alike_before_and_after() {
        let rows: Vec<String> = (0..60).map(|minute| format!("{},200", minute * 60)).collect();
        let usage = trace::read(&format!("t_seconds,memory_mib\n{}\n", rows.join("\n")), None).unwrap();
        let options = Options {
            cpu_request: None,
            memory_request: Some(Bytes(64 << 20)),
            memory_limit: Some(Bytes(160 << 20)),
            ..options("1")
        };
        let declared = declared(&options).unwrap();
        let policy = policy(&files::parse(POLICY, "p").unwrap(), None).unwrap();
        let text = text(&usage, declared, &replay_policy(&policy, &usage, declared, &Cel));
        let kills: Vec<&str> = text
            .lines()
            .filter(|l| l.starts_with("memory "))
            .filter_map(|l| l.split(' ').next_back())
            .collect();
        assert_eq!(kills, ["12", "12"], "{text}");
    }

    #[test]
    fn what_is_asked_for_wrong_is_named() {
        let two = format!("{POLICY}---{}", POLICY.replace("gold", "silver"));
        let two = files::parse(&two, "p").unwrap();
        let error = |name| policy(&two, name).unwrap_err().to_string();
        assert_eq!(error(None), "2 policies were found, expected one: choose one with --name");
        assert_eq!(error(Some("x")), "0 policies named \"x\" were found, expected one");
        assert!(policy(&two, Some("silver")).is_ok());
        let bad = files::parse(&POLICY.replace("2h", "2d"), "p").unwrap();
        assert!(policy(&bad, None).unwrap_err().to_string().contains("rollingWindow"));

        let mut none = options("1");
        none.cpu_request = None;
        assert!(declared(&none).unwrap_err().to_string().contains("nothing is declared"));
        let above = Options { cpu_limit: Some(MilliCpu(10)), ..options("1") };
        assert!(declared(&above).unwrap_err().to_string().contains("above its limit"));
    }
}
