//! Policies as people write them: what the API server refuses, what it accepts, and what it stored before it knew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use kube::core::Status;
use kube::{Client, Error};
use optipod_coordinator::api::v1alpha1::{StrategyType, WorkloadStatus};
use optipod_tests::{Lab, paths};
use serde_json::{Value, json};
use tonic::codegen::http::Request;

use crate::coordinator::OWN_NAMESPACE;
use crate::objects::{pod, resources, size, sizes};
use crate::world::{SOON, World, same, wait};

const PATH: &str = "/apis/optipod.io/v1alpha1/namespaces/default/optimizationpolicies";

/// Policies that were stored while the schema had no rules.
pub struct Stored {
    namespace: &'static str,
    invalid: &'static str,
    unreadable: &'static str,
}

/// Plays a cluster whose CRD is older than the coordinator: policies that break rules are in etcd.
pub async fn store_before_the_rules(lab: &Lab, client: &Client) -> Result<Stored> {
    let stored = Stored { namespace: "default", invalid: "stored-invalid", unreadable: "stored-unreadable" };
    let mut loose: Value = serde_yaml_ng::from_str(&fs::read_to_string(crd())?)?;
    loosen(&mut loose);
    let apply = |crd: &Value| {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        lab.kubectl_with_input(&args, &crd.to_string())
    };
    apply(&loose)?;
    lab.kubectl(&["wait", "--for=condition=Established", "crd/optimizationpolicies.optipod.io"])?;
    let broken =
        json!({"metricsConfig": {"percentile": "P0"}, "resourceBounds": {"cpu": {"min": "2", "max": "1"}}});
    for (name, spec) in [(stored.invalid, broken), (stored.unreadable, json!({"mode": "Sometimes"}))] {
        let create = || async { post(client, &object(name, &spec), "").await.is_ok().then_some(()) };
        wait("the loose schema is served", SOON, create).await?;
    }
    apply(&serde_yaml_ng::from_str(&fs::read_to_string(crd())?)?)?;
    let refused = || async {
        post(client, &object("probe", &json!({"mode": "Sometimes"})), "dryRun=All")
            .await
            .is_err()
            .then_some(())
    };
    wait("the schema of the chart is served", SOON, refused).await?;
    Ok(stored)
}

pub async fn stored_policies_that_break_rules_are_reported(world: Arc<World>) -> Result<()> {
    let Stored { namespace, invalid, unreadable } = world.stored;
    let expected = [
        (invalid, "spec.metricsConfig.percentile: \"P0\" is not a percentile"),
        (invalid, "spec.resourceBounds.cpu: min 2 is above max 1"),
        (unreadable, "Sometimes"),
    ];
    for (name, part) in expected {
        let ready = wait("condition Ready=False", SOON, async || {
            let object: Value = world
                .client
                .request(Request::get(format!("{PATH}/{name}")).body(Vec::new()).ok()?)
                .await
                .ok()?;
            let conditions = object.pointer("/status/conditions")?.as_array()?.clone();
            conditions.into_iter().find(|c| c.pointer("/type") == Some(&"Ready".into()))
        });
        let ready = ready.await?;
        same(
            "status of Ready",
            (&ready["status"], &ready["reason"]),
            (&"False".into(), &"PolicyInvalid".into()),
        )?;
        let message = ready["message"].as_str().unwrap_or_default();
        ensure!(message.contains(part), "{name}: {part:?} is not in {message:?}");
        let event = world.event(namespace, name, "PolicyInvalid").await?;
        same("type of the Event", event.type_.as_deref(), Some("Warning"))?;
        ensure!(event.note.as_deref().is_some_and(|note| note.contains(part)), "{:?}", event.note);
    }
    Ok(())
}

/// Property 15: policy validation
pub async fn every_rule_of_the_crd_refuses_with_its_message(world: Arc<World>) -> Result<()> {
    let folder = paths::workspace().join("tests/scenarios/golden");
    let cases: Vec<(String, Value)> = {
        let text = fs::read_to_string(folder.join("refused-policies.yaml"))?;
        let cases: serde_json::Map<String, Value> = serde_yaml_ng::from_str(&text)?;
        cases.into_iter().collect()
    };
    let mut said = String::from("# Generated: UPDATE_GENERATED=1 cargo lab test --only apiserver\n");
    for (name, spec) in &cases {
        let refused = post(&world.client, &object(name, spec), "dryRun=All&fieldValidation=Strict").await;
        let Err(Error::Api(status)) = refused else { anyhow::bail!("{name} was not refused: {spec}") };
        write!(said, "\n{name}:\n{}", messages(&status))?;
    }
    let path = folder.join("refused-policies.txt");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, &said)?;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    for (seen, expected) in said.lines().zip(golden.lines()) {
        same("what the API server says", seen, expected)?;
    }
    same("lines", said.lines().count(), golden.lines().count())?;

    let mut rules = Vec::new();
    walk("spec", &specification()?, &mut |path, schema| {
        let of_field = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        let messages = of_field.filter_map(|rule| Some(rule.get("message")?.as_str()?.to_owned()));
        rules.extend(messages.map(|message| (path.to_owned(), message)));
    });
    ensure!(rules.len() > 80, "the CRD has hardly any rules: {rules:?}");
    let broken: Vec<(String, &str)> =
        said.lines().filter_map(|line| line.trim().split_once(": ")).map(|(f, m)| (anywhere(f), m)).collect();
    // the message of a range comes from an expression that shows both ends
    let is_broken = |(path, message): &&(String, String)| {
        broken.iter().any(|(field, said)| field == path && said.contains(message.as_str()))
    };
    let silent: Vec<_> = rules.iter().filter(|rule| !is_broken(rule)).collect();
    ensure!(silent.is_empty(), "no case of refused-policies.yaml breaks these rules: {silent:#?}");
    Ok(())
}

/// What is too long, too many, too large, missing or not on a list is refused at its own field.
pub async fn every_limit_of_the_crd_refuses_at_its_field(world: Arc<World>) -> Result<()> {
    let mut beyond = Vec::new();
    walk("spec", &specification()?, &mut |path, schema| {
        beyond.extend(
            too_much(schema).into_iter().map(|(at, value)| (format!("{path}{at}"), path.to_owned(), value)),
        );
    });
    ensure!(beyond.len() > 90, "the CRD has hardly any limits: {}", beyond.len());
    for (field, path, value) in beyond {
        let spec = placed(&path, value);
        let refused = post(&world.client, &object("limit", &spec), "dryRun=All").await;
        let Err(Error::Api(status)) = refused else { anyhow::bail!("{field} was not refused: {spec}") };
        let said = messages(&status);
        let at =
            said.lines().filter_map(|line| line.trim().split_once(": ")).any(|(f, _)| anywhere(f) == field);
        ensure!(at, "{field}: {spec}: {said}");
    }
    Ok(())
}

/// Values that a schema's limits refuse, each with what comes after the path of the field that is named.
fn too_much(schema: &Value) -> Vec<(String, Value)> {
    let count = |limit: &str| schema[limit].as_u64().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let names = |n: usize| (0..=n).map(|i| format!("n{i}"));
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let here = |value: Value| (String::new(), value);
    let is_set = schema["x-kubernetes-list-type"] == "set";
    let one = schema["items"]["enum"][0].clone();
    [
        count("maxLength").map(|n| here("a".repeat(n + 1).into())),
        count("minLength").map(|_| here("".into())),
        count("maxItems").map(|n| here(names(n).collect::<Vec<_>>().into())),
        count("minItems").map(|_| here(json!([]))),
        count("maxProperties").map(|n| here(names(n).map(|name| (name, Value::from("v"))).collect())),
        schema["maximum"].as_f64().map(|n| here(json!(n + 1.0))),
        schema["minimum"].as_f64().map(|n| here(json!(n - 1.0))),
        schema["enum"].is_array().then(|| here("none of these".into())),
        // which of the two is refused is the API server's choice
        is_set.then(|| ("[]".to_owned(), json!([one.clone(), one]))),
    ]
    .into_iter()
    .flatten()
    .chain(required.map(|name| (format!(".{name}"), json!({}))))
    .collect()
}

/// A specification that has a value at a path.
fn placed(path: &str, value: Value) -> Value {
    let inner = path.trim_start_matches("spec").replace("[]", ".[]");
    inner.split('.').filter(|part| !part.is_empty()).rev().fold(value, |value, part| match part {
        "[]" if path.ends_with("matchLabels[]") => json!({"key": value}),
        "[]" => json!([value]),
        name => json!({name: value}),
    })
}

/// A path without positions and keys.
fn anywhere(field: &str) -> String {
    let mut path = String::new();
    let mut inside = false;
    for c in field.replace("matchLabels.key", "matchLabels[]").chars() {
        inside = (inside || c == '[') && c != ']';
        if !inside || c == '[' {
            path.push(c);
        }
    }
    path
}

/// The schema of a policy's specification.
fn specification() -> Result<Value> {
    let crd: Value = serde_yaml_ng::from_str(&fs::read_to_string(crd())?)?;
    Ok(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone())
}

/// The example of the design that the product comes from, word for word: what it raises is raised.
pub async fn the_operator_designs_example_applies_unchanged_and_acts(world: Arc<World>) -> Result<()> {
    let namespace = "production";
    world.named_namespace(namespace, &json!({"environment": "production"})).await?;
    let mut wanting = pod("wanting", "follow", &resources("50m", "32Mi", "1", "1Gi"), (100, 64));
    wanting["metadata"]["labels"]["optimize"] = "true".into();
    world.apply(namespace, &wanting).await?;
    let mut other = pod("other", "follow", &resources("50m", "32Mi", "1", "1Gi"), (100, 64));
    other["metadata"]["labels"]["optimize"] = "false".into();
    world.apply(namespace, &other).await?;
    // the example looks every five minutes: it has to find evidence when it looks first
    world.policy(namespace, "probe", json!({"mode": "Recommend", "weight": 0})).await?;
    for pod in ["wanting", "other"] {
        let seen = |w: &WorkloadStatus| !w.recommendations.is_empty();
        world.workload((namespace, "probe"), pod, "evidence", seen).await?;
    }
    let path = paths::workspace().join("tests/scenarios/golden/operator-design-policy.yaml");
    let text = fs::read_to_string(path)?;
    let lab = world.lab.clone();
    let apply = move || lab.kubectl_with_input(&["apply", "--validate=strict", "-f", "-"], &text);
    tokio::task::spawn_blocking(apply).await??;

    // its minimum of memory, and P90 times 1.2 of CPU
    world.until_size(namespace, "wanting", sizes("120m", "128Mi", "1", "1Gi")).await?;
    let selected = |w: &WorkloadStatus| w.namespace == namespace;
    world.workload((OWN_NAMESPACE, "production-workloads"), "wanting", "its status", selected).await?;
    same(
        "the other pod",
        size(&world.pods(namespace).get("other").await?),
        sizes("50m", "32Mi", "1", "1Gi"),
    )?;
    let stands_in = wait("condition AgentStandsIn", SOON, async || {
        let status = world.policies(OWN_NAMESPACE).get("production-workloads").await.ok()?.status?;
        status.conditions.into_iter().find(|c| c.type_ == "AgentStandsIn")
    });
    ensure!(stands_in.await?.message.starts_with("prometheus is not read in this version"));
    let status = world.policies(OWN_NAMESPACE).get("production-workloads").await?.status.unwrap_or_default();
    same("strategy", status.strategy.map(|strategy| strategy.kind), Some(StrategyType::Percentile))?;
    world.policies(OWN_NAMESPACE).delete("production-workloads", &kube::api::DeleteParams::default()).await?;
    Ok(())
}

pub async fn a_policy_may_have_every_field(world: Arc<World>) -> Result<()> {
    let path = paths::workspace().join("deploy/examples/policy-every-field.yaml");
    let policy: Value = serde_yaml_ng::from_str(&fs::read_to_string(path)?)?;
    let stored = post(&world.client, &policy, "dryRun=All&fieldValidation=Strict").await?;
    let mut missing = Vec::new();
    missing_fields("spec", &specification()?, &stored["spec"], &mut missing);
    // fields that exclude others of the example
    missing.retain(|field| {
        !matches!(field.as_str(), "spec.ownerSync" | "spec.updateStrategy.limits.memory.headroom")
    });
    same("fields that the example leaves out", missing, Vec::new())
}

/// Fields of the schema that an object does not have.
fn missing_fields(path: &str, schema: &Value, value: &Value, missing: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match (value.get(name), field["items"].is_object()) {
            (None, _) => missing.push(path),
            (Some(list), true) => missing_fields(&path, &field["items"], &list[0], missing),
            (Some(value), false) => missing_fields(&path, field, value, missing),
        }
    }
}

pub async fn every_example_is_accepted(world: Arc<World>) -> Result<()> {
    let mut seen = 0;
    for entry in fs::read_dir(paths::workspace().join("deploy/examples"))? {
        let path = entry?.path();
        let lab = world.lab.clone();
        let create = move || {
            let args = ["create", "--dry-run=server", "--validate=strict", "--namespace=default", "-f"];
            lab.kubectl(&[&args[..], &[&path.to_string_lossy()]].concat())
        };
        tokio::task::spawn_blocking(create).await??;
        seen += 1;
    }
    ensure!(seen >= 8, "{seen} examples");
    Ok(())
}

pub async fn columns_show_what_a_person_wants_to_see(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("columns").await?;
    world.policy(&namespace, "empty", json!({"mode": "Recommend"})).await?;
    let table = wait("a policy that is Ready", SOON, async || {
        let (lab, namespace) = (world.lab.clone(), namespace.clone());
        let get = move || lab.kubectl(&["get", "opol", "--namespace", &namespace]);
        let table = tokio::task::spawn_blocking(get).await.ok()?.ok()?;
        table.contains("True").then_some(table)
    });
    let table = table.await?;
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    same(
        "header",
        words.first().cloned(),
        Some(vec!["NAME", "MODE", "READY", "MATCHED", "APPLIED", "SKIPPED", "AGE"]),
    )?;
    let row = words.get(1).and_then(|row| row.get(..6)).map(<[&str]>::to_vec);
    same("row", row, Some(vec!["empty", "Recommend", "True", "0", "0", "0"]))?;
    let conditions = world.policies(&namespace).get("empty").await?.status.unwrap_or_default().conditions;
    ensure!(conditions.iter().any(|c| c.type_ == "NothingSelected"), "{conditions:?}");
    Ok(())
}

/// The smallest policy has the strategy that does best, and says so.
pub async fn a_policy_that_says_nothing_is_adaptive(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("newcomer").await?;
    let mut policy = object("plain", &json!({}));
    policy["metadata"]["namespace"] = namespace.as_str().into();
    world.apply(&namespace, &policy).await?;
    let strategy = wait("the strategy in the status", SOON, async || {
        world.policies(&namespace).get("plain").await.ok()?.status?.strategy
    });
    same("strategy", strategy.await?.kind, StrategyType::Adaptive)?;
    let (lab, place) = (world.lab.clone(), namespace.clone());
    let get = move || lab.kubectl(&["get", "opol", "--output", "wide", "--namespace", &place]);
    let table = tokio::task::spawn_blocking(get).await??;
    ensure!(table.contains("STRATEGY") && table.contains("Adaptive"), "{table}");
    Ok(())
}

fn crd() -> PathBuf {
    paths::workspace().join("deploy/chart/crds/optimizationpolicies.yaml")
}

fn object(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy", "metadata": {"name": name}, "spec": spec})
}

async fn post(client: &Client, object: &Value, query: &str) -> kube::Result<Value> {
    let request = Request::post(format!("{PATH}?{query}")).header("content-type", "application/json");
    let body = object.to_string().into_bytes();
    client.request(request.body(body).map_err(Error::HttpError)?).await
}

/// One line per cause, without the remark that there may be more.
fn messages(status: &Status) -> String {
    let causes =
        status.details.iter().flat_map(|details| &details.causes).filter(|cause| cause.field != "<nil>");
    let lines: BTreeSet<String> =
        causes.map(|cause| format!("  {}: {}\n", cause.field, cause.message)).collect();
    if lines.is_empty() { format!("  {}\n", status.message) } else { lines.into_iter().collect() }
}

/// Removes everything that refuses a value.
fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for key in ["x-kubernetes-validations", "enum", "maximum", "minimum"] {
                map.remove(key);
            }
            map.values_mut().for_each(loosen);
        }
        Value::Array(list) => list.iter_mut().for_each(loosen),
        _ => {}
    }
}

/// Visits each field of a schema with its path; `[]` stands for any element.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&format!("{path}[]"), &schema[inner], visit);
        }
    }
}
