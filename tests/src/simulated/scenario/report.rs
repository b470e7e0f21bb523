//! What a run showed: for people, and as a file that two runs are compared by. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::Value;

use super::expect::Tried;
use super::tracker::Tracker;
use super::value::Time;
use crate::simulated::faults::Operation;
use crate::simulated::proxy::{Exchange, Outcome};

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the scenario is about.
    pub about: String,
    /// Expectations and how they were decided.
    pub tracker: Tracker,
    /// What happened, in order: simulated time and words.
    pub events: Vec<(Duration, String)>,
    /// Requests of the coordinators.
    pub requests: BTreeMap<(Operation, Outcome), u64>,
    /// Resizes by pod.
    pub resizes: BTreeMap<(String, String), Tried>,
    /// What the run cost.
    pub cost: Cost,
    /// Resizes that coordinators asked for, pod by pod: see [`sequences`].
    pub sequences: String,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Simulated nodes.
    pub nodes: u32,
    /// Pods of the scenario.
    pub pods: u64,
    /// Simulated time that passed.
    pub simulated: Duration,
    /// Real time that it took.
    pub real: Duration,
    /// Real time from nothing to all pods ready.
    pub setup: Duration,
    /// CPU time of the process, with set-up.
    pub cpu: Duration,
    /// Most memory that the process had resident, bytes.
    pub peak_resident: u64,
    /// The speed that was asked for.
    pub speed: u32,
}

impl Cost {
    /// Simulated seconds in a second, as it came.
    pub fn achieved(&self) -> f64 {
        self.simulated.as_secs_f64() / self.real.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Report {
    /// Whether all expectations held.
    pub fn passed(&self) -> bool {
        self.tracker.all_held()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "SIMULATED: {}", self.about)?;
        for (at, event) in &self.events {
            writeln!(f, "  {:>8}  {event}", seconds(*at))?;
        }
        writeln!(f, "expected:")?;
        for (expectation, verdict) in self.tracker.results() {
            let (mark, at, seen) = match verdict {
                Some(verdict) if verdict.held => ("held  ", seconds(verdict.at), verdict.seen.as_str()),
                Some(verdict) => ("FAILED", seconds(verdict.at), verdict.seen.as_str()),
                None => ("OPEN  ", String::new(), "the run broke off"),
            };
            writeln!(f, "  {mark} {expectation}\n         {at} {seen}")?;
        }
        writeln!(f, "requests of coordinators:")?;
        for ((operation, outcome), count) in &self.requests {
            let dry = if operation.dry_run { " (dry run)" } else { "" };
            writeln!(f, "  {count:>8} {} {}{dry}: {outcome}", operation.verb, operation.resource)?;
        }
        let (pods, writes, most) = self.writes();
        writeln!(f, "resizes written: {writes} for {pods} pods, at most {most} for one")?;
        let Cost { nodes, pods, simulated, real, setup, cpu, peak_resident, speed } = self.cost;
        writeln!(
            f,
            "{nodes} nodes, {pods} pods: ready after {:.1} s; {} simulated in {:.1} s: x{:.1} of x{speed}; process: {:.1} s CPU, {} MiB at most",
            setup.as_secs_f64(),
            seconds(simulated),
            real.as_secs_f64(),
            self.cost.achieved(),
            cpu.as_secs_f64(),
            peak_resident >> 20,
        )
    }
}

impl Report {
    /// Pods that were written to, writes, and the most writes to one.
    fn writes(&self) -> (usize, u64, u64) {
        let writes = self.resizes.values().map(|tried| tried.writes).filter(|writes| *writes > 0);
        (writes.clone().count(), writes.clone().sum(), writes.max().unwrap_or(0))
    }
}

/// To whole seconds: more is noise.
fn seconds(time: Duration) -> String {
    Time(Duration::from_secs(time.as_secs())).to_string()
}

/// Resizes by pod from what passed the proxy.
pub fn count_resizes<'a>(
    changes: impl IntoIterator<Item = &'a Exchange>,
    counts: &mut BTreeMap<(String, String), Tried>,
) {
    for Exchange { operation, .. } in changes {
        if operation.resource == "pods/resize" {
            let tried = counts.entry((operation.namespace.clone(), operation.name.clone())).or_default();
            if operation.dry_run {
                tried.dry_runs += 1;
            } else {
                tried.writes += 1;
            }
        }
    }
}

/// What coordinators wrote to each pod and what was refused, in order, without what differs from run to run: uid,
/// versions, times; dry runs that succeeded, which change nothing; and conflicts, which depend on the moment at which
/// somebody else wrote. Two runs of one scenario are compared by it. `generated` says of a pod whether its name comes
/// from the API server, and from which workload: such pods stand under the workload's name, sorted.
pub fn sequences<'a>(
    changes: impl IntoIterator<Item = &'a Exchange>,
    generated: impl Fn(&str, &str) -> Option<String>,
) -> String {
    let mut pods: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for Exchange { operation, body, outcome, .. } in changes {
        let conflict = *outcome == Some(Outcome::Answered(409));
        let tried = operation.dry_run && outcome.is_some_and(Outcome::done);
        if operation.resource == "pods/resize" && !conflict && !tried {
            let step = if operation.dry_run { "dry-run" } else { "patch" };
            let spec = body.get("spec").unwrap_or(&Value::Null);
            let outcome = outcome.map_or_else(|| "under way".to_owned(), |outcome| outcome.to_string());
            let lines = pods.entry((&operation.namespace, &operation.name)).or_default();
            // writing to a string cannot fail
            let _ = writeln!(lines, "  {step} {spec}: {outcome}");
        }
    }
    let mut blocks: Vec<String> = pods
        .into_iter()
        .map(|((namespace, name), lines)| {
            let name = generated(namespace, name).map_or_else(|| name.to_owned(), |of| format!("{of}-*"));
            format!("{namespace}/{name}\n{lines}")
        })
        .collect();
    blocks.sort();
    blocks.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn exchange(name: &str, dry_run: bool, version: &str, status: u16) -> Exchange {
        let path = format!("/api/v1/namespaces/default/pods/{name}/resize");
        let query = if dry_run { "dryRun=All" } else { "" };
        Exchange {
            at: Duration::from_secs(1),
            operation: Operation::parse("PATCH", &path, query).unwrap(),
            body: json!({"metadata": {"resourceVersion": version}, "spec": {"containers": []}}),
            outcome: Some(Outcome::Answered(status)),
        }
    }

    #[test]
    fn sequences_leave_out_what_differs_from_run_to_run() {
        let run = |names: [&str; 2], version: &str, conflicts: bool| {
            let contested = [exchange(names[0], true, version, 200), exchange(names[0], false, version, 409)];
            let changes = [
                exchange(names[0], true, version, 200),
                exchange(names[1], true, version, 403),
                exchange(names[0], false, version, 200),
            ];
            let changes = contested.iter().filter(|_| conflicts).chain(&changes);
            sequences(changes, |_, name| name.starts_with("web-").then(|| "web".to_owned()))
        };
        let text = run(["web-x7", "db-0"], "5", false);
        assert_eq!(
            text,
            "default/db-0\n  dry-run {\"containers\":[]}: 403\ndefault/web-*\n  patch {\"containers\":[]}: 200\n"
        );
        assert_eq!(text, run(["web-q2", "db-0"], "99", true));
        assert_ne!(text, run(["web-q2", "db-1"], "99", false));
    }

    #[test]
    fn resizes_are_counted_by_pod() {
        let asked = |name, dry_run| exchange(name, dry_run, "", 200);
        let mut counts = BTreeMap::new();
        count_resizes(&[asked("a", true), asked("a", false), asked("b", true)], &mut counts);
        let of = |name: &str| counts.get(&("default".to_owned(), name.to_owned())).copied();
        assert_eq!(of("a"), Some(Tried { dry_runs: 1, writes: 1 }));
        assert_eq!(of("b"), Some(Tried { dry_runs: 1, writes: 0 }));
        assert_eq!(of("c"), None);
    }

    #[test]
    fn the_report_names_what_failed() {
        let expectation = serde_yaml_ng::from_str("{at: 5s, restarts: {atLeast: 1}}").unwrap();
        let mut tracker = Tracker::new(vec![expectation], Duration::from_secs(10));
        tracker.look(Duration::from_secs(6), &super::super::expect::View::default());
        let report = Report {
            about: "nothing happens".to_owned(),
            tracker,
            events: vec![(Duration::from_secs(3), "node sim-1 is lost".to_owned())],
            requests: BTreeMap::new(),
            resizes: BTreeMap::new(),
            cost: Cost {
                simulated: Duration::from_secs(60),
                real: Duration::from_secs(2),
                speed: 60,
                ..Cost::default()
            },
            sequences: String::new(),
        };
        let text = report.to_string();
        assert!(!report.passed());
        assert!(text.contains("FAILED at 5s: restarts: at least 1\n         6s 0 restarts"), "{text}");
        assert!(text.contains("3s  node sim-1 is lost"), "{text}");
        assert!(text.contains("x30.0 of x60"), "{text}");
    }
}
