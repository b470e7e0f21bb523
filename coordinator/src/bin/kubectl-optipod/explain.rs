//! `explain`: a `Recommendation` as text.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use kube::api::Api;
use optipod_coordinator::api::Recommendation;
use optipod_coordinator::api::v1alpha1::{EvidenceEntry, RecommendedContainer, Sizes, StepEntry, Totals};

use super::cluster;

/// Short names as kubectl knows them.
const SHORT: [(&str, &str); 7] = [
    ("deploy", "deployment"),
    ("sts", "statefulset"),
    ("ds", "daemonset"),
    ("rs", "replicaset"),
    ("cj", "cronjob"),
    ("po", "pod"),
    ("ro", "rollout"),
];

/// The text about one workload, from the cluster.
pub async fn fetch(workload: &str, namespace: Option<&str>, context: Option<&str>) -> Result<String> {
    let asked = asked(workload)?;
    let (client, default) = cluster::connect(context).await?;
    let namespace = namespace.map_or(default, str::to_owned);
    let api: Api<Recommendation> = Api::namespaced(client, &namespace);
    about(asked, &namespace, &cluster::list(&api, "recommendations").await?)
}

/// Kind and name.
fn asked(workload: &str) -> Result<(&str, &str)> {
    match workload.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty()) {
        Some((kind, name)) if !name.contains('/') => Ok((kind, name)),
        _ => bail!("{workload:?} is not a workload: expected KIND/NAME, such as deployment/web"),
    }
}

/// The text about the one that is asked for.
fn about((kind, name): (&str, &str), namespace: &str, all: &[Recommendation]) -> Result<String> {
    let mut named = all.iter().filter(|r| r.spec.workload.name == name);
    if let Some(found) = named.clone().find(|r| is_kind(kind, &r.spec.workload.kind)) {
        return Ok(text(found));
    }
    if let Some(first) = named.next() {
        let kinds = std::iter::once(first).chain(named).map(|r| format!("{}/{name}", r.spec.workload.kind));
        bail!(
            "there is no recommendation for {kind}/{name} in namespace {namespace}, but for {}",
            kinds.collect::<Vec<_>>().join(", ")
        );
    }
    bail!(
        "there is no recommendation for {kind}/{name} in namespace {namespace}: no policy selects it, or it has not been evaluated yet; `kubectl get optimizationpolicies` shows what each policy matched"
    )
}

/// Whether a kind is the one that is meant, as kubectl takes it: in any case, as a plural, short, with version and group.
fn is_kind(meant: &str, kind: &str) -> bool {
    let meant = meant.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let kind = kind.to_ascii_lowercase();
    let short = SHORT.iter().any(|(short, long)| *short == meant && *long == kind);
    let plural = [format!("{kind}s"), format!("{kind}es")].contains(&meant)
        || kind.strip_suffix('y').is_some_and(|stem| meant == format!("{stem}ies"));
    meant == kind || short || plural
}

/// The text about one workload.
pub fn text(recommendation: &Recommendation) -> String {
    let workload = &recommendation.spec.workload;
    let mut text = String::new();
    // writing to a text cannot fail
    let mut line = |indent: usize, label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{:indent$}{label}{value}", "");
        }
    };
    line(0, "", &format!("{}/{}", workload.kind, workload.name));
    let Some(status) = &recommendation.status else {
        line(2, "", "has not been evaluated yet");
        return text;
    };
    if let Some(policy) = &status.policy {
        line(2, "policy:      ", &format!("{}/{}", policy.namespace, policy.name));
    }
    if let Some(strategy) = &status.strategy {
        line(2, "strategy:    ", &format!("{:?}, version {}", strategy.kind, strategy.version));
    }
    let phase = status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default();
    let because = |reason: &str, message: &str| match (reason, message) {
        ("", "") => String::new(),
        ("", message) => format!(": {message}"),
        (reason, "") => format!(" ({reason})"),
        (reason, message) => format!(" ({reason}): {message}"),
    };
    line(2, "phase:       ", &format!("{phase}{}", because(&status.reason, &status.message)));
    if let Some(percent) = status.coverage_percent {
        let confidence = status.confidence.map(|c| format!(", confidence {c:?}")).unwrap_or_default();
        line(2, "coverage:    ", &format!("{percent} % of the window{confidence}"));
    }
    if let Some(account) = &status.account {
        let pair = |totals: &Totals| format!("cpu {}, memory {}", totals.cpu, totals.memory);
        let what = format!("{}; used: {}", pair(&account.requested), pair(&account.used));
        line(2, "requested:   ", &what);
    }
    for container in &status.containers {
        about_container(container, &mut line);
    }
    if let Some(decision) = &status.last_decision {
        let what = format!(
            "{:?}{} at {}",
            decision.decision,
            because(&decision.reason, &decision.message),
            decision.time.0
        );
        line(2, "decided:     ", &what);
    }
    for entry in &status.history {
        let what = format!(
            "{} {} {}: {}{}",
            entry.time.0,
            entry.pod,
            entry.change,
            entry.outcome,
            because(&entry.reason, "")
        );
        line(2, "history:     ", &what);
    }
    text
}

fn about_container(container: &RecommendedContainer, line: &mut impl FnMut(usize, &str, &str)) {
    line(2, "container ", &container.name);
    line(4, "declared:    ", &sizes(container.declared.as_ref()));
    line(4, "current:     ", &sizes(container.current.as_ref()));
    line(4, "recommended: ", &sizes(container.recommended.as_ref()));
    line(4, "at least:    ", &sizes(container.lower_bound.as_ref()));
    line(4, "at most:     ", &sizes(container.upper_bound.as_ref()));
    line(4, "reason:      ", &container.reason);
    if let Some(steps) = &container.steps {
        for (name, steps) in [("cpu:         ", &steps.cpu), ("memory:      ", &steps.memory)] {
            line(4, name, &chain(steps));
            // the chosen expert is in the chain
            for expert in steps.iter().flat_map(|step| step.experts.iter().skip(1)) {
                let what =
                    format!("{} would ask for {} at cost {}", expert.expert, expert.value, expert.cost);
                line(6, "", &what);
            }
        }
    }
    if let Some(evidence) = &container.evidence {
        line(4, "evidence:    ", &numbers(evidence));
    }
    line(4, "explanation: ", &container.explanation);
}

fn chain(steps: &[StepEntry]) -> String {
    let step = |entry: &StepEntry| {
        let detail = if entry.detail.is_empty() { String::new() } else { format!(" ({})", entry.detail) };
        format!("{} {}{detail}", entry.step, entry.value)
    };
    steps.iter().map(step).collect::<Vec<_>>().join(" > ")
}

fn numbers(of: &EvidenceEntry) -> String {
    format!(
        "{} of {} s; cpu {} values, mean {}, peak {}, throttled {}; memory {} values, mean {}, peak {}, {} OOM kills",
        of.covered_seconds,
        of.window_seconds,
        of.cpu_samples,
        of.cpu_mean,
        of.cpu_peak,
        of.throttled,
        of.memory_samples,
        of.memory_mean,
        of.memory_peak,
        of.oom_kills
    )
}

fn sizes(sizes: Option<&Sizes>) -> String {
    let Some(Sizes { cpu, memory, cpu_limit, memory_limit }) = sizes else { return String::new() };
    let named = [("cpu", cpu), ("memory", memory), ("cpu limit", cpu_limit), ("memory limit", memory_limit)];
    let given = named.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)));
    given.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_named_as_kubectl_names_them() {
        for (meant, kind) in [
            ("deployment", "Deployment"),
            ("Deployment", "Deployment"),
            ("deploy", "Deployment"),
            ("deployments", "Deployment"),
            ("deployment.apps", "Deployment"),
            ("deployments.v1.apps", "Deployment"),
            ("sts", "StatefulSet"),
            ("ds", "DaemonSet"),
            ("rs", "ReplicaSet"),
            ("cj", "CronJob"),
            ("po", "Pod"),
            ("clusters.db.example.com", "Cluster"),
            ("proxies", "Proxy"),
        ] {
            assert!(is_kind(meant, kind), "{meant}");
        }
        for (meant, kind) in [("deploy", "Deploy2"), ("sts", "Deployment"), ("job", "CronJob")] {
            assert!(!is_kind(meant, kind), "{meant}");
        }
    }

    #[test]
    fn one_that_is_not_there_is_told_from_one_of_another_kind() {
        let all: Vec<Recommendation> = [("Deployment", "web"), ("CronJob", "web"), ("Job", "db")]
            .map(|(kind, name)| {
                let spec = json!({"workload": {"kind": kind, "name": name}});
                serde_json::from_value(json!({"apiVersion": "optipod.io/v1alpha1", "kind": "Recommendation",
                    "metadata": {"name": "any"}, "spec": spec}))
                .unwrap()
            })
            .into();
        let of = |workload| about(asked(workload).unwrap(), "shop", &all).map_err(|error| error.to_string());
        assert!(of("deploy/web").unwrap().starts_with("Deployment/web"));
        assert!(of("sts/web").unwrap_err().ends_with("shop, but for Deployment/web, CronJob/web"));
        assert!(of("sts/other").unwrap_err().contains("no policy selects it"));
        for bad in ["web", "/web", "deployment/", "a/b/c"] {
            assert!(asked(bad).unwrap_err().to_string().contains("expected KIND/NAME"), "{bad}");
        }
    }

    #[test]
    fn a_recommendation_reads_as_a_story() {
        let recommendation: Recommendation = serde_json::from_value(json!({
            "apiVersion": "optipod.io/v1alpha1", "kind": "Recommendation", "metadata": {"name": "deployment-web"},
            "spec": {"workload": {"kind": "Deployment", "name": "web"}},
            "status": {
                "policy": {"namespace": "shop", "name": "gold", "generation": 2},
                "strategy": {"type": "Adaptive", "version": 1},
                "phase": "Skipped", "reason": "CooldownActive", "message": "web-1: 120 s left",
                "account": {"requested": {"cpu": "3", "memory": "192Mi"}, "used": {"cpu": "280m", "memory": "150Mi"}}, "coveragePercent": 80, "confidence": "Medium",
                "containers": [{"name": "app", "declared": {"cpu": "1"}, "recommended": {"cpu": "120m", "memory": "64Mi"},
                    "evidence": {"windowSeconds": 100, "coveredSeconds": 80, "cpuSamples": 80, "memorySamples": 80, "cpuMean": "90m",
                        "cpuPeak": "110m", "memoryMean": "60Mi", "memoryPeak": "64Mi", "throttled": "2.5%", "oomKills": 1},
                    "steps": {"cpu": [{"step": "expert", "value": "100m", "detail": "peak held 4h +5% over 80 minutes at cost 7",
                        "experts": [{"expert": "peak held 4h +5%", "value": "100m", "cost": 7}, {"expert": "P95 of the day +5%", "value": "90m", "cost": 9}]}, {"step": "max bound", "value": "120m", "detail": "enforced by a/b"}]}}],
                "lastDecision": {"time": "2026-01-05T10:00:00Z", "decision": "Hold", "reason": "CooldownActive"},
                "history": [{"time": "2026-01-05T09:58:00Z", "pod": "web-1", "change": "app cpu 1 > 120m", "outcome": "Done"}],
            },
        }))
        .unwrap();
        let expected = "Deployment/web
  policy:      shop/gold
  strategy:    Adaptive, version 1
  phase:       Skipped (CooldownActive): web-1: 120 s left
  coverage:    80 % of the window, confidence Medium
  requested:   cpu 3, memory 192Mi; used: cpu 280m, memory 150Mi
  container app
    declared:    cpu 1
    recommended: cpu 120m, memory 64Mi
    cpu:         expert 100m (peak held 4h +5% over 80 minutes at cost 7) > max bound 120m (enforced by a/b)
      P95 of the day +5% would ask for 90m at cost 9
    evidence:    80 of 100 s; cpu 80 values, mean 90m, peak 110m, throttled 2.5%; memory 80 values, mean 60Mi, peak 64Mi, 1 OOM kills
  decided:     Hold (CooldownActive) at 2026-01-05T10:00:00Z
  history:     2026-01-05T09:58:00Z web-1 app cpu 1 > 120m: Done
";
        assert_eq!(text(&recommendation), expected);
    }
}
