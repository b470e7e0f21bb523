//! Which workloads a policy may reach, and which follow it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use tonic::codegen::http::Request;

use crate::coordinator::OWN_NAMESPACE;
use crate::objects::{pod, resizers, resources, size, sizes};
use crate::world::{SOON, World, same, wait};

async fn condition(world: &World, namespace: &str, policy: &str, kind: &str) -> Result<Condition> {
    let policies = world.policies(namespace);
    wait(&format!("condition {kind} of {policy}"), SOON, async || {
        let status = policies.get(policy).await.ok()?.status?;
        status.conditions.into_iter().find(|condition| condition.type_ == kind)
    })
    .await
}

pub async fn a_tenant_policy_that_reaches_further_is_refused(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("tenant").await?;
    for (name, selector, field) in [
        ("by-label", json!({"namespaceSelector": {}}), "spec.selector.namespaceSelector"),
        ("by-name", json!({"namespaces": {"allow": ["default"]}}), "spec.selector.namespaces.allow"),
        (
            "by-name-and-own",
            json!({"namespaces": {"allow": [namespace, "kube-system"]}}),
            "spec.selector.namespaces.allow",
        ),
        (
            "by-expression",
            json!({"namespaceSelector": {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}}),
            "spec.selector.namespaceSelector",
        ),
    ] {
        world.policy(&namespace, name, json!({"selector": selector})).await?;
        let ready = condition(&world, &namespace, name, "Ready").await?;
        same("Ready", (ready.status.as_str(), ready.reason.as_str()), ("False", "ScopeRefused"))?;
        let expected = format!("{field} reaches beyond namespace {namespace:?}");
        ensure!(
            ready.message.starts_with(&expected) && ready.message.contains(OWN_NAMESPACE),
            "{}",
            ready.message
        );
        world.event(&namespace, name, "ScopeRefused").await?;
    }
    Ok(())
}

pub async fn the_policy_that_lost_says_to_whom(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("conflict").await?;
    world.apply(&namespace, &pod("p", "follow", &resources("1", "", "2", ""), (100, 64))).await?;
    world.policy(&namespace, "light", json!({"mode": "Recommend"})).await?;
    world.policy(&namespace, "heavy", json!({"mode": "Recommend", "weight": 200})).await?;
    let conflict = condition(&world, &namespace, "light", "Conflict").await?;
    same("reason", conflict.reason.as_str(), "PolicyConflict")?;
    same("message", conflict.message, format!("{namespace}/Pod/p belongs to {namespace}/heavy"))?;
    world.workload((&namespace, "heavy"), "p", "the winner has the pod", |_| true).await?;
    let conditions = world.policies(&namespace).get("heavy").await?.status.context("no status")?.conditions;
    ensure!(conditions.iter().all(|c| c.type_ != "Conflict"), "{conditions:?}");
    Ok(())
}

/// The same policy resizes one ordinary pod, which shows that only protection kept it from the others.
pub async fn protected_pods_are_never_touched(world: Arc<World>) -> Result<()> {
    let ordinary = world.namespace("ordinary").await?;
    let over_asking = resources("1", "", "2", "");
    let mut critical = pod("critical", "follow", &over_asking, (100, 64));
    critical["spec"]["priorityClassName"] = "system-cluster-critical".into();
    world.apply(&ordinary, &critical).await?;
    for namespace in ["kube-system", OWN_NAMESPACE] {
        world.apply(namespace, &pod("protected", "follow", &over_asking, (100, 64))).await?;
    }
    world.apply(&ordinary, &pod("ordinary", "follow", &over_asking, (100, 64))).await?;
    let selector = json!({"namespaces": {"allow": ["kube-system", OWN_NAMESPACE, ordinary]}});
    world.policy(OWN_NAMESPACE, "cluster", json!({"selector": selector})).await?;

    world.until_size(&ordinary, "ordinary", sizes("120m", "", "2", "")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (namespace, name, reason) in [
        ("kube-system", "protected", "ProtectedNamespace"),
        (OWN_NAMESPACE, "protected", "ProtectedNamespace"),
        (ordinary.as_str(), "critical", "SystemCritical"),
    ] {
        let held = |w: &optipod_coordinator::api::v1alpha1::WorkloadStatus| w.namespace == namespace;
        let status = world.workload((OWN_NAMESPACE, "cluster"), name, "its status", held).await?;
        same(&format!("reason of {namespace}/{name}"), status.reason.as_str(), reason)?;
        let pod = world.pods(namespace).get(name).await?;
        same("size", size(&pod), sizes("1", "", "2", ""))?;
        same("resizers", resizers(&pod), Vec::new())?;
    }
    Ok(())
}

/// Every way in which a tenant may try to have power over a neighbour's pods, with the neighbour's pod as the witness.
/// Property 27: multi-tenant scoping
pub async fn a_tenant_never_reaches_a_neighbour(world: Arc<World>) -> Result<()> {
    let (tenant, neighbour) = (world.namespace("attacker").await?, world.namespace("neighbour").await?);
    let over_asking = resources("1", "", "2", "");
    let mut lured = pod("lured", "follow", &over_asking, (100, 64));
    lured["metadata"]["annotations"]["optipod.io/policy"] = format!("{tenant}/everything").into();
    world.apply(&neighbour, &lured).await?;
    world.apply(&tenant, &pod("own", "follow", &over_asking, (100, 64))).await?;
    world.policy(&neighbour, "watch", json!({"mode": "Recommend"})).await?;
    world.policy(&tenant, "everything", json!({"weight": 1_000_000})).await?;
    let enforced = json!({"resourceBounds": {"enforced": true, "cpu": {"max": "10m"}}});
    world.policy(&tenant, "enforcing", enforced).await?;

    let ready = condition(&world, &tenant, "enforcing", "Ready").await?;
    same("Ready", (ready.status.as_str(), ready.reason.as_str()), ("False", "ScopeRefused"))?;
    ensure!(ready.message.starts_with("spec.resourceBounds.enforced"), "{}", ready.message);
    // the tenant's own pod shows that its policy acts
    world.until_size(&tenant, "own", sizes("120m", "", "2", "")).await?;
    let held = |w: &optipod_coordinator::api::v1alpha1::WorkloadStatus| w.reason == "PolicyNotFound";
    let status = world.workload((&neighbour, "watch"), "lured", "a policy that does not reach", held).await?;
    ensure!(status.message.contains(&format!("{tenant}/everything does not select")), "{}", status.message);
    let reached = world.policies(&tenant).get("everything").await?.status.context("no status")?.workloads;
    ensure!(reached.iter().all(|w| w.namespace == tenant), "{reached:?}");
    let witness = world.pods(&neighbour).get("lured").await?;
    same("size of the neighbour's pod", size(&witness), sizes("1", "", "2", ""))?;
    same("resizers", resizers(&witness), Vec::new())
}

/// The cluster's roles `edit` and `view`, bound in one namespace.
pub async fn tenants_have_the_rights_that_the_guide_names(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("rights").await?;
    for role in ["edit", "view"] {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user(&namespace, role)}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        });
        world.apply(&namespace, &binding).await?;
    }
    world.policy(&namespace, "own", json!({"mode": "Recommend"})).await?;
    let (policies, own) = ("apis/optipod.io/v1alpha1", "optimizationpolicies/own");
    let spec = json!({"spec": {"weight": 7}});
    let named = |name: &str| json!({"apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy", "metadata": {"name": name}, "spec": {}});
    let status = json!({"status": {"observedGeneration": 99}});
    let recommendation = json!({"apiVersion": "optipod.io/v1alpha1", "kind": "Recommendation",
        "metadata": {"name": "deployment-web"}, "spec": {"workload": {"kind": "Deployment", "name": "web"}}});
    let none = Value::Null;
    // method, group, namespace, rest, body, whether edit may, whether view may
    for (method, group, place, rest, body, edit, view) in [
        ("POST", policies, namespace.as_str(), "optimizationpolicies", &named("mine"), true, false),
        ("PATCH", policies, &namespace, own, &spec, true, false),
        ("GET", policies, &namespace, own, &none, true, true),
        ("GET", policies, &namespace, "optimizationpolicies", &none, true, true),
        ("GET", policies, &namespace, "recommendations", &none, true, true),
        ("POST", policies, OWN_NAMESPACE, "optimizationpolicies", &named("mine"), false, false),
        ("GET", policies, OWN_NAMESPACE, "optimizationpolicies", &none, false, false),
        ("PATCH", policies, &namespace, "optimizationpolicies/own/status", &status, false, false),
        ("POST", policies, &namespace, "recommendations", &recommendation, false, false),
        ("PATCH", policies, &namespace, "recommendations/deployment-web/status", &status, false, false),
        ("PATCH", "api/v1", OWN_NAMESPACE, "configmaps/optipod-config", &json!({"data": {}}), false, false),
        ("GET", "api/v1", OWN_NAMESPACE, "configmaps/optipod-config", &none, false, false),
    ] {
        for (role, may) in [("edit", edit), ("view", view)] {
            // the roles are put together by a controller
            wait(&format!("{role}: {method} {place}/{rest}: {may}"), SOON, async || {
                let url = format!(
                    "/{group}/namespaces/{place}/{rest}?{}",
                    if method == "GET" { "" } else { "dryRun=All" }
                );
                let request = Request::builder().method(method).uri(url);
                let request = request.header("impersonate-user", user(&namespace, role)).header(
                    "content-type",
                    if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
                );
                let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
                let answer = world.client.request::<Value>(request.body(body).ok()?).await;
                let forbidden = matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403);
                (if may { answer.is_ok() } else { forbidden }).then_some(())
            })
            .await?;
        }
    }
    Ok(())
}

fn user(namespace: &str, role: &str) -> String {
    format!("{namespace}-{role}")
}

/// Bounds that the cluster enforces hold for a tenant's policy, whatever its weight.
pub async fn a_tenant_can_only_narrow_enforced_bounds(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("bound").await?;
    world.apply(&namespace, &pod("p", "follow", &resources("1", "", "2", ""), (100, 64))).await?;
    let cluster = json!({
        "mode": "Recommend", "weight": 0,
        "selector": {"namespaces": {"allow": [namespace]}},
        "resourceBounds": {"enforced": true, "cpu": {"min": "300m"}},
    });
    world.policy(OWN_NAMESPACE, "enforced-floor", cluster).await?;
    let own = json!({"weight": 1000, "resourceBounds": {"cpu": {"min": "10m", "max": "500m"}}});
    world.policy(&namespace, "own", own).await?;
    world.until_size(&namespace, "p", sizes("300m", "", "2", "")).await?;
    let enforced = condition(&world, OWN_NAMESPACE, "enforced-floor", "Enforced").await?;
    ensure!(
        enforced.message.ends_with(&format!("{namespace}/Pod/p follows {namespace}/own")),
        "{}",
        enforced.message
    );
    let policy = world.policies(OWN_NAMESPACE).get("enforced-floor").await?;
    let conditions = policy.status.unwrap_or_default().conditions;
    ensure!(conditions.iter().all(|c| c.type_ != "Conflict"), "{conditions:?}");
    Ok(())
}

/// What people write at their workloads is heard.
pub async fn annotations_opt_out_pin_and_choose(world: Arc<World>) -> Result<()> {
    let namespace = world.namespace("annotated").await?;
    for (name, key, value) in [
        ("opted-out", "optipod.io/optimize", "false"),
        ("pinned", "optipod.io/pin", "app/cpu"),
        ("unclear", "optipod.io/pin", "gpu"),
        ("misspelt", "optipod.io/optimise", "false"),
        ("chosen", "optipod.io/policy", "gentle"),
        ("plain", "example.com/optimize", "false"),
    ] {
        let mut annotated = pod(name, "follow", &resources("1", "", "2", ""), (100, 64));
        annotated["metadata"]["annotations"][key] = value.into();
        world.apply(&namespace, &annotated).await?;
    }
    let gentle = json!({"weight": 1, "resourceBounds": {"cpu": {"min": "500m"}}});
    world.policy(&namespace, "gentle", gentle).await?;
    world.policy(&namespace, "usual", json!({})).await?;
    world.until_size(&namespace, "plain", sizes("120m", "", "2", "")).await?;
    world.until_size(&namespace, "chosen", sizes("500m", "", "2", "")).await?;
    for (name, reason) in [
        ("opted-out", "OptedOut"),
        ("pinned", "Pinned"),
        ("unclear", "AnnotationInvalid"),
        ("misspelt", "AnnotationInvalid"),
    ] {
        let held = |w: &optipod_coordinator::api::v1alpha1::WorkloadStatus| w.reason == reason;
        world.workload((&namespace, "usual"), name, reason, held).await?;
        same(name, size(&world.pods(&namespace).get(name).await?), sizes("1", "", "2", ""))?;
    }
    Ok(())
}
