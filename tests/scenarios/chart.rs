//! The chart: helm's own checks, every rendered object before a real API server, values that must be refused.
//!
//! Needs a lab, named by `OPTIPOD_LAB`: `cargo lab test` starts one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use optipod_tests::{Lab, paths};

/// Settings that every rendering needs.
const PLAINTEXT: &str = "telemetry.insecurePlaintext=true";

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let Ok(name) = std::env::var("OPTIPOD_LAB") else {
            panic!("OPTIPOD_LAB does not name a lab: run `cargo lab test`, or `cargo lab up` first");
        };
        Lab::attach(&name).unwrap()
    })
}

fn chart() -> PathBuf {
    paths::workspace().join("deploy/chart")
}

fn helm(words: &[&str], values: Option<&Path>) -> anyhow::Result<String> {
    let (chart, values) = (chart(), values.map(|path| path.display().to_string()));
    let mut args: Vec<&str> = words.to_vec();
    args.push(chart.to_str().unwrap());
    args.extend(values.iter().flat_map(|path| ["--values", path.as_str()]));
    lab().helm(&args)
}

fn value_files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(chart().join("ci")).unwrap();
    let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    files
}

fn render(values: &Path) -> String {
    helm(&["template", "optipod", "--namespace", "chart-test", "--include-crds"], Some(values)).unwrap()
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    for values in value_files() {
        helm(&["lint", "--strict", "--quiet"], Some(&values)).unwrap();
    }
}

/// Kinds of the Prometheus Operator are not in the lab: their objects are looked at, not sent.
#[test]
fn every_rendered_object_is_accepted_by_a_real_api_server() {
    lab()
        .kubectl_with_input(
            &["apply", "-f", "-"],
            "{apiVersion: v1, kind: Namespace, metadata: {name: chart-test}}",
        )
        .unwrap();
    for values in value_files() {
        let text = render(&values);
        let (known, foreign): (Vec<&str>, Vec<&str>) = text
            .split("\n---\n")
            .filter(|document| document.contains("kind:"))
            .partition(|document| !document.contains("monitoring.coreos.com"));
        assert!(known.len() > 8, "{} objects with {}", known.len(), values.display());
        let full = values.ends_with("full-values.yaml");
        assert_eq!(foreign.len(), if full { 2 } else { 0 }, "PodMonitors with {}", values.display());
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        let said = lab().kubectl_with_input(&apply, &known.join("\n---\n"));
        let said = said.unwrap_or_else(|error| panic!("{}: {error:#}", values.display()));
        assert_eq!(said.lines().count(), known.len(), "{said}");
    }
}

#[test]
fn values_that_are_wrong_are_refused_with_their_name() {
    for (set, part) in [
        ("telemetry.frameIntervall=5s", "frameIntervall"),
        ("telemetry.frameInterval=soon", "frameInterval"),
        ("coordinator.replicas=0", "replicas"),
        ("coordinator.replicas=two", "replicas"),
        ("log.format=xml", "format"),
        ("agent.sampleHertz=3", "sampleHertz"),
        ("agent.image.pullPolicy=Sometimes", "pullPolicy"),
        ("coordinator.leaderElection.leaseDuration=fifteen", "leaseDuration"),
        ("listenAddress=nowhere", "listenAddress"),
    ] {
        let refused = helm(&["template", "optipod", "--set", PLAINTEXT, "--set", set], None);
        let error = refused.expect_err(set).to_string();
        assert!(error.contains(part) && error.contains("schema"), "{set}: {error}");
    }
}

#[test]
fn plain_text_between_agent_and_coordinator_is_a_decision() {
    let error = helm(&["template", "optipod"], None).unwrap_err().to_string();
    assert!(error.contains("telemetry.insecurePlaintext=true"), "{error}");
}

/// Which rights are *used* is measured by the scenarios before the API server; here is what people are told.
#[test]
fn the_documented_rights_are_those_of_the_chart() {
    let text = render(&chart().join("ci/default-values.yaml"));
    let documents =
        text.split("\n---\n").filter_map(|d| serde_yaml_ng::from_str::<serde_json::Value>(d).ok());
    let roles = documents.filter(|d| {
        matches!(d["kind"].as_str(), Some("ClusterRole" | "Role"))
            && d["metadata"]["name"] == "optipod-coordinator"
    });
    let page = std::fs::read_to_string(paths::workspace().join("deploy/docs/security.md")).unwrap();
    let mut seen = 0;
    for rule in roles.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default()) {
        seen += 1;
        let words = |key: &str| -> Vec<String> {
            rule[key].as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        let names = words("resourceNames");
        for resource in words("resources") {
            let resource = names.first().map_or(resource.clone(), |name| format!("{resource}/{name}"));
            let row = page.lines().find(|line| {
                line.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`{resource}`")))
            });
            let Some(row) = row else { panic!("{resource} is not in deploy/docs/security.md") };
            let verbs = row.split('|').nth(2).unwrap().trim();
            assert_eq!(verbs, words("verbs").join(", "), "verbs of {resource}");
        }
    }
    assert!(seen > 8, "{seen} rules");
}
