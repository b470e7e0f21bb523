//! Scenario files: the shipped ones, the documented one, and those with mistakes.

use std::collections::BTreeSet;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::expect::{
    Count, CpuRange, Expectation, MemoryRange, Metric, Recommendation, Requests, Resized, Restarts, Shown,
    Span, Status,
};
use super::faults::{ApiEntry, ClockEntry, FaultEntry, NodesEntry, PodsEntry, ResizeEntry, WatchEntry};
use super::file::{Amounts, Container, NodeGroup, ObjectEntry, ResizePolicies, Scenario, Workload};
use crate::paths;

const PAGE: &str = include_str!("../../../SIMULATED.md");

const SMALL: &str = "
about: small
duration: 1m
nodes: [{count: 1, cpu: 4, memory: 8Gi}]
workloads:
  - name: web
    kind: Pod
    containers: [{name: app, requests: {cpu: 100m}}]
expect:
  - {by: 1m, resized: {workload: web, atLeast: 100%}}
";

fn error(text: &str) -> String {
    Scenario::parse(text, Path::new(".")).err().map_or_else(String::new, |error| format!("{error:#}"))
}

#[test]
fn every_shipped_scenario_is_one() {
    let folder = paths::workspace().join("tests/simulations");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        assert_eq!(Scenario::read(&file).err().map(|error| format!("{error:#}")), None);
    }
}

#[test]
fn the_page_has_a_scenario_that_works() {
    let blocks: Vec<&str> =
        PAGE.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 1);
    for block in blocks {
        Scenario::parse(block, Path::new(".")).unwrap();
    }
}

/// Names of the fields of a type, from the error that an unknown one gets.
fn fields<T: DeserializeOwned>() -> BTreeSet<String> {
    let error =
        serde_yaml_ng::from_str::<T>("{zzz: 1}").err().expect("an unknown field is refused").to_string();
    let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    let names: BTreeSet<String> = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!names.is_empty(), "{error}");
    names
}

#[test]
fn every_field_is_documented() {
    let all = [
        fields::<Scenario>(),
        fields::<NodeGroup>(),
        fields::<Workload>(),
        fields::<Container>(),
        fields::<Amounts>(),
        fields::<ResizePolicies>(),
        fields::<ObjectEntry>(),
        fields::<FaultEntry>(),
        fields::<ResizeEntry>(),
        fields::<NodesEntry>(),
        fields::<PodsEntry>(),
        fields::<ClockEntry>(),
        fields::<ApiEntry>(),
        fields::<WatchEntry>(),
        fields::<Expectation>(),
        fields::<Span>(),
        fields::<Resized>(),
        fields::<Restarts>(),
        fields::<Shown>(),
        fields::<Status>(),
        fields::<Recommendation>(),
        fields::<Requests>(),
        fields::<Count>(),
        fields::<Metric>(),
        fields::<CpuRange>(),
        fields::<MemoryRange>(),
    ];
    let inside: Vec<&str> = PAGE.split('`').skip(1).step_by(2).collect();
    let documented = |name: &str| {
        inside.iter().any(|code| code.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name))
    };
    let missing: Vec<String> = all.into_iter().flatten().filter(|name| !documented(name)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn every_demand_is_documented_with_its_arguments() {
    let error = "cpu=nothing()".parse::<crate::simulated::usage::Usage>().unwrap_err().to_string();
    let (_, list) = error.split_once("expected ").unwrap();
    let demands: Vec<&str> = list.split("), ").filter(|demand| demand.contains('(')).collect();
    assert!(demands.len() > 5, "{demands:?}");
    for demand in demands {
        assert!(PAGE.contains(&format!("`{})`", demand.trim_end_matches(')'))), "{demand}");
    }
}

#[test]
fn the_small_one_is_a_scenario() {
    let scenario = Scenario::parse(SMALL, Path::new(".")).unwrap();
    assert_eq!((scenario.node_count(), scenario.pod_count(), scenario.speed), (1, 1, 1));
}

#[test]
fn mistakes_are_named_with_their_path_and_what_is_allowed() {
    let fault = |text: &str| format!("{SMALL}faults: [{text}]\n");
    let expectation = |text: &str| SMALL.replace("{by: 1m, resized: {workload: web, atLeast: 100%}}", text);
    let cases = [
        (SMALL.replace("cpu: 4", "cpu: four"), "nodes[0].cpu: \"four\" is not an amount of CPU"),
        (SMALL.replace("count: 1", "cuont: 1"), "nodes[0]: unknown field `cuont`, expected one of `count`"),
        (SMALL.replace("kind: Pod", "kind: Job"), "workloads[0].kind: unknown variant `Job`, expected"),
        (SMALL.replace("duration: 1m", "duration: 1"), "duration: \"1\" is not a duration: expected numbers"),
        (format!("{SMALL}speed: 5000\n"), "speed: 5000 is not one: expected 1 to 1000"),
        (
            SMALL.replace("{name: app, ", "{name: app, usage: cpu=lots, "),
            "workloads[0] (web): containers[0].usage: \"lots\" is not a demand",
        ),
        (fault("{at: 1s}"), "faults[0]: says 0 things: expected exactly one of resize, nodeLost"),
        (fault("{at: 1s, apiDown: {}, conflict: {}}"), "faults[0]: says 2 things"),
        (fault("{at: 2m, apiDown: {}}"), "faults[0].at: 2m is after the end: expected at most 1m"),
        (fault("{at: 1s, for: 1s, leaderKilled: {}}"), "faults[0]: for: this happens at one moment"),
        (fault("{at: 1s, resize: {answer: Slow}}"), "faults[0]: resize.after: `Slow` needs a time"),
        (
            fault("{at: 1s, nodeLost: {nodes: [sim-9]}}"),
            "faults[0]: nodes: \"sim-9\" is none: expected sim-1",
        ),
        (fault("{at: 1s, conflict: {workload: x}}"), "faults[0]: workload: \"x\" is none of this scenario"),
        (fault("{at: 1s, evicted: {workload: x}}"), "faults[0]: workload: \"x\" is none of this scenario"),
        (fault("{at: 1s, for: 1s, evicted: {}}"), "faults[0]: for: this happens at one moment"),
        (
            SMALL.replace("{name: app, ", "{name: app, type: Init, "),
            "workloads[0] (web): containers: expected at least one of type Regular",
        ),
        (fault("{at: 1s, api: {status: 418}}"), "faults[0]: api.status: 418: expected 429, 500, 503 or 504"),
        (fault("{at: 1s, api: {verbs: [patch]}}"), "expected exactly one of latency, status and connection"),
        (expectation("{resized: {atLeast: 1%}}"), "expect[0]: expected exactly one of by, at and always"),
        (
            expectation("{by: 1m, resized: {}}"),
            "expect[0]: says neither what is expected at least nor at most",
        ),
        (expectation("{by: 1m}"), "expect[0]: expected exactly one of resized, restarts"),
        (expectation("{by: 9m, restarts: {atMost: 0}}"), "expect[0]: by: 9m is after the end"),
        (
            expectation("{by: 1m, status: {workload: web, phase: Done}}"),
            "expect[0]: status.phase: \"Done\": expected Applied, InProgress",
        ),
    ];
    for (text, expected) in cases {
        let error = error(&text);
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
    }
}

#[test]
fn pods_of_two_workloads_cannot_be_mixed_up() {
    let two = |name: &str| {
        let second = format!(
            "  - {{name: {name}, kind: Pod, containers: [{{name: app, requests: {{cpu: 1m}}}}]}}\nexpect:"
        );
        SMALL.replace("expect:", &second)
    };
    assert!(
        error(&two("web-api")).contains("workloads[1] (web-api): name: its pods could be those of \"web\"")
    );
    assert!(error(&two("web")).contains("name: is there twice"));
    assert_eq!(error(&two("api")), "");
}

#[test]
fn a_policy_may_be_in_a_file_beside_the_scenario() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.yaml"), "{kind: OptimizationPolicy, metadata: {name: p}}")
        .unwrap();
    let text = format!("{SMALL}policies: [{{file: policy.yaml}}]\n");
    let scenario = Scenario::parse(&text, folder.path()).unwrap();
    assert_eq!(scenario.policies[0].value()["metadata"]["name"], "p");
    assert!(error(&text).contains("policies[0]: file: cannot read"), "{}", error(&text));
    let wrong = format!("{SMALL}policies: [{{object: {{kind: Pod}}}}]\n");
    assert!(error(&wrong).contains("policies[0]: kind: \"Pod\": expected \"OptimizationPolicy\""));
}
