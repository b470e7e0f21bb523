//! One namespace per case, and what happens in it.

use std::cell::Cell;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::{Cluster, MARK, SYSTEM, list, text};

/// The namespace of one case.
pub struct Space<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
    keep: Cell<bool>,
}

impl<'a> Space<'a> {
    /// The namespace of the case of that name, which may not exist yet.
    pub fn of(cluster: &'a Cluster, case: &str) -> Self {
        let name: String =
            case.rsplit("::").next().unwrap_or(case).replace('_', "-").chars().take(60).collect();
        Self { cluster, name, keep: Cell::new(false) }
    }

    /// Creates it.
    pub fn create(&self) -> Result<()> {
        self.cluster.apply(&json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.name, "labels": {MARK: ""}},
        }))
    }

    /// Later cases need what is in it.
    pub fn keep(&self) {
        self.keep.set(true);
    }

    /// What is in it.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        self.cluster.get(&[args, &["--namespace", &self.name]].concat())
    }

    /// Reasons and notes of OptiPod's Events about a pod, oldest first.
    pub fn events(&self, pod: &str) -> Result<Vec<(String, String)>> {
        let events = self.get(&["events.events.k8s.io"])?;
        let mut events: Vec<&Value> = list(&events, "/items")
            .filter(|event| text(event, "/regarding/name") == pod)
            .filter(|event| text(event, "/reportingController").contains("optipod"))
            .collect();
        events.sort_by_key(|event| text(event, "/eventTime"));
        Ok(events.into_iter().map(|event| (text(event, "/reason"), text(event, "/note"))).collect())
    }

    /// True when OptiPod said so about a pod.
    pub fn told(&self, pod: &str, reason: &str) -> Result<bool> {
        Ok(self.events(pod)?.iter().any(|(said, _)| said == reason))
    }

    /// What a policy says about a workload of this namespace.
    pub fn verdict(&self, policy: &str, workload: &str) -> Result<Value> {
        let policy = self.get(&["optimizationpolicy", policy])?;
        let status = list(&policy, "/status/workloads").find(|status| text(status, "/name") == workload);
        status.cloned().with_context(|| format!("{workload} is not in {}", policy["status"]))
    }

    /// Fails unless the policy's word on the workload is this.
    pub fn expect_verdict(&self, policy: &str, workload: &str, phase: &str, reason: &str) -> Result<Value> {
        let verdict = self.verdict(policy, workload)?;
        if (text(&verdict, "/status"), text(&verdict, "/reason")) != (phase.to_owned(), reason.to_owned()) {
            bail!("expected {phase} {reason}, found {verdict}");
        }
        Ok(verdict)
    }

    /// All that helps to understand a failure.
    pub fn diagnosis(&self) -> String {
        let mut report = String::new();
        let all = ["--namespace", &self.name];
        let questions: [&[&str]; 6] = [
            &["get", "optimizationpolicies,pods", "--output=yaml"],
            &[
                "get",
                "events.events.k8s.io",
                "--sort-by=.eventTime",
                "--output=custom-columns=TIME:.eventTime,ABOUT:.regarding.name,REASON:.reason,NOTE:.note",
            ],
            &["get", "pods,leases", "--output=wide", "--namespace", SYSTEM],
            &[
                "logs",
                "--selector=app.kubernetes.io/component=coordinator",
                "--prefix",
                "--tail=60",
                "--namespace",
                SYSTEM,
            ],
            &[
                "logs",
                "--selector=app.kubernetes.io/component=agent",
                "--prefix",
                "--tail=30",
                "--namespace",
                SYSTEM,
            ],
            &["get", "events", "--namespace", SYSTEM],
        ];
        for question in questions {
            let args = if question.contains(&SYSTEM) { question.to_vec() } else { [question, &all].concat() };
            let answer = self.cluster.kubectl(&args).unwrap_or_else(|error| format!("{error:#}"));
            let _ = writeln!(report, "$ kubectl {}\n{answer}", args.join(" "));
        }
        report
    }

    /// Removes it, without waiting, unless it is kept.
    pub fn finish(&self) {
        if !self.keep.get() {
            // what is left goes with the next run's first step
            let _ = self.cluster.kubectl(&[
                "delete",
                "namespace",
                &self.name,
                "--ignore-not-found",
                "--wait=false",
            ]);
        }
    }
}
