//! What the index says about pods and containers.

use optipod_common::decide::{ContainerChange, Direction, Plan};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::Resources;

use super::*;

fn cpu_and_memory(millis: u64, mebibytes: u64) -> optipod_common::resources::Amounts {
    optipod_common::resources::Amounts {
        cpu: Some(MilliCpu(millis)),
        memory: Some(Bytes::from_mebibytes(mebibytes)),
    }
}

#[test]
fn a_container_is_known_when_its_controller_is() {
    let mut index = index();
    let owned = pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1"));
    assert_eq!(put_pod(&mut index, owned.clone(), 0), []);
    assert_eq!(index.container(&id(1)), None);
    let set = || Box::new(replica_set("web-1", owner("apps/v1", "Deployment", "web")));
    assert_eq!(index.apply(Change::ReplicaSets(Delta::Apply(set())), at(0)), [id(1)]);
    let container = index.container(&id(1)).unwrap();
    assert_eq!((container.workload, container.container.as_str()), (workload("Deployment", "web"), "c"));
    assert_eq!(index.apply(Change::ReplicaSets(Delta::Apply(set())), at(0)), []);
    assert_eq!(put_pod(&mut index, owned, 0), [], "known already");
    assert_eq!(index.pod_of(&id(1)), Some(&key("p")));
}

#[test]
fn the_top_owner_is_the_workload() {
    let job = |owners: Value| -> Job {
        let meta = json!({"name": "j", "namespace": "default", "uid": "uid-j", "ownerReferences": owners});
        object(json!({"metadata": meta, "spec": {"template": {"spec": {"containers": []}}}}))
    };
    let mut index = index();
    let sets = vec![
        replica_set("bare", json!([])),
        replica_set("rolled", owner("argoproj.io/v1alpha1", "Rollout", "ro")),
    ];
    index.apply(Change::ReplicaSets(Delta::Replace(sets)), at(0));
    index.apply(Change::Jobs(Delta::Replace(vec![job(owner("batch/v1", "CronJob", "cron"))])), at(0));
    for (owners, kind, name) in [
        (json!([]), "Pod", "p"),
        (owner("v1", "Node", "n1"), "Pod", "p"),
        (owner("apps/v1", "ReplicaSet", "bare"), "ReplicaSet", "bare"),
        (owner("apps/v1", "ReplicaSet", "rolled"), "Rollout", "ro"),
        (owner("apps/v1", "StatefulSet", "db"), "StatefulSet", "db"),
        (owner("batch/v1", "Job", "j"), "CronJob", "cron"),
        (owner("postgresql.cnpg.io/v1", "Cluster", "pg"), "Cluster", "pg"),
        (owner("other.io/v1", "ReplicaSet", "x"), "ReplicaSet", "x"),
    ] {
        put_pod(&mut index, pod("p", 1, owners), 0);
        assert_eq!(index.workload_of(&key("p")), Some(&workload(kind, name)));
    }
    index.apply(Change::Jobs(Delta::Apply(Box::new(job(json!([]))))), at(0));
    put_pod(&mut index, pod("p", 1, owner("batch/v1", "Job", "j")), 0);
    assert_eq!(index.workload_of(&key("p")), Some(&workload("Job", "j")));
    assert_eq!((index.workload_count(), index.pod_count()), (1, 1));
}

#[test]
fn a_dead_container_is_known_for_a_while() {
    let mut index = web();
    index.apply(Change::Pods(Delta::Delete(Box::new(object(pod("p", 1, json!([])))))), at(1000));
    assert_eq!(index.pod_of(&id(1)), None);
    assert_eq!(index.container(&id(1)).unwrap().workload, workload("Deployment", "web"));
    put_pod(&mut index, pod("other", 9, json!([])), 1599);
    assert!(index.container(&id(1)).is_some());
    put_pod(&mut index, pod("other", 9, json!([])), 1600);
    assert_eq!(index.container(&id(1)), None);
}

#[test]
fn a_restarted_container_has_two_ids_then_a_tombstone() {
    let mut index = web();
    let mut restarted = pod("p", 2, owner("apps/v1", "ReplicaSet", "web-1"));
    let last = json!({"terminated": {"exitCode": 137, "containerID": format!("containerd://{}", id(1))}});
    restarted["status"]["containerStatuses"][0]["lastState"] = last;
    assert_eq!(put_pod(&mut index, restarted, 5), [id(2)]);
    assert_eq!(index.container_ids(&key("p")).collect::<Vec<_>>(), [(&id(2), "c"), (&id(1), "c")]);
    put_pod(&mut index, pod("p", 3, owner("apps/v1", "ReplicaSet", "web-1")), 6);
    for number in 1..=3 {
        assert!(index.container(&id(number)).is_some(), "{number}");
    }
    assert_eq!(index.container_ids(&key("p")).count(), 1);
}

#[test]
fn each_life_of_a_container_has_its_own_start() {
    let time = |seconds: i64| at(1_800_000_000 + seconds);
    // 2027-01-15T08:00:00Z is 1_800_000_000
    let state = |kind: &str, minute: u8, number: u8| {
        let mut state = json!({"startedAt": format!("2027-01-15T08:{minute:02}:00Z")});
        if kind == "terminated" {
            state["exitCode"] = 137.into();
            state["containerID"] = format!("containerd://{}", id(number)).into();
        }
        json!({ kind: state })
    };
    let ready = |minute: u8| json!([{"type": "Ready", "status": "True", "lastTransitionTime": format!("2027-01-15T08:{minute:02}:00Z")}]);
    let made = |number: u8, now: Value, last: Value, conditions: Value| {
        let mut pod = pod("p", number, owner("apps/v1", "ReplicaSet", "web-1"));
        pod["status"]["containerStatuses"][0]["state"] = now;
        pod["status"]["containerStatuses"][0]["lastState"] = last;
        pod["status"]["conditions"] = conditions;
        pod
    };
    let life = |index: &Index, number| {
        let lifetime = index.origin(&id(number)).unwrap().lifetime;
        (lifetime.started, lifetime.ready_since)
    };
    let mut index = web();
    put_pod(&mut index, made(1, state("running", 0, 1), json!({}), ready(2)), 0);
    assert_eq!(life(&index, 1), (Some(time(0)), Some(time(120))));
    // killed: its last frame is about the life that began at 08:00 and was ready at 08:02
    put_pod(&mut index, made(1, state("terminated", 0, 1), json!({}), json!([])), 0);
    assert_eq!(life(&index, 1), (Some(time(0)), Some(time(120))));
    put_pod(&mut index, made(2, state("running", 9, 2), state("terminated", 0, 1), json!([])), 0);
    assert_eq!(life(&index, 1), (Some(time(0)), Some(time(120))));
    assert_eq!(life(&index, 2), (Some(time(540)), None));
    // one that never was ready
    put_pod(&mut index, made(3, state("running", 10, 3), state("terminated", 9, 2), json!([])), 0);
    assert_eq!((life(&index, 2), life(&index, 3)), ((Some(time(540)), None), (Some(time(600)), None)));
    // of a life that nobody saw it is not known when it was ready
    let mut index = web();
    put_pod(&mut index, made(5, state("running", 9, 5), state("terminated", 0, 4), json!([])), 0);
    assert_eq!(life(&index, 4), (Some(time(0)), Some(time(0))));
}

#[test]
fn revisions_are_told_apart_whatever_made_the_pod() {
    for (label, expected) in [
        ("pod-template-hash", "abc"),
        ("rollouts-pod-template-hash", "abc"),
        ("controller-revision-hash", "abc"),
        ("app", ""),
    ] {
        let mut index = web();
        let mut pod = pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1"));
        pod["metadata"]["labels"] = json!({label: "abc"});
        put_pod(&mut index, pod, 0);
        assert_eq!(index.facts(&key("p")).unwrap().revision, expected);
        assert_eq!(index.origin(&id(1)).unwrap().variant.revision, expected);
    }
}

#[test]
fn a_pod_outlives_its_controller() {
    let mut index = web();
    let set = replica_set("web-1", json!([]));
    index.apply(Change::ReplicaSets(Delta::Delete(Box::new(set))), at(1));
    assert_eq!(index.workload_of(&key("p")), None);
    assert_eq!(index.container(&id(1)).unwrap().workload, workload("Deployment", "web"));
    assert_eq!(index.pods_of(&workload("Deployment", "web")).count(), 0);
}

#[test]
fn declared_is_what_the_template_says() {
    let mut index = web();
    let facts = index.facts(&key("p")).unwrap();
    assert_eq!(facts.containers[0].desired.requests, cpu_and_memory(200, 64));
    assert_eq!(facts.containers[0].declared.requests, cpu_and_memory(1000, 512));

    index.apply(Change::StatefulSets(Delta::Apply(Box::new(stateful_set("db")))), at(0));
    put_pod(&mut index, pod("db-0", 2, owner("apps/v1", "StatefulSet", "db")), 0);
    let declared = index.facts(&key("db-0")).unwrap().containers[0].declared;
    assert_eq!(declared.limits, cpu_and_memory(2000, 1024));
    assert_eq!(declared.requests, declared.limits, "as the API server completes pods");
}

#[test]
fn a_pod_without_template_declares_what_it_had_before_we_resized_it() {
    let mut index = index();
    put_pod(&mut index, pod("p", 1, json!([])), 0);
    assert_eq!(declared(&index, "p"), Some(cpu_and_memory(200, 64)));
    for version in [8, 9] {
        let mut resized = resized(pod("p", 1, json!([])));
        resized["metadata"]["resourceVersion"] = version.to_string().into();
        put_pod(&mut index, resized, 0);
        assert_eq!(declared(&index, "p"), Some(cpu_and_memory(200, 64)));
    }
    let facts = index.facts(&key("p")).unwrap();
    assert_eq!(facts.containers[0].desired.requests, cpu_and_memory(50, 64));
    assert_eq!((facts.last_resize, facts.foreign_resizer), (Some(at(100)), None));
    // another pod of that name
    put_pod(&mut index, resized(pod("p", 2, json!([]))), 0);
    assert_eq!(declared(&index, "p"), None);
}

/// A pod that we have resized.
fn resized(mut pod: Value) -> Value {
    pod["metadata"]["managedFields"] = json!([
        {"manager": "optipod-coordinator", "subresource": "resize", "time": "1970-01-01T00:01:40Z"},
        {"manager": "kubelet", "subresource": "status", "time": "1970-01-01T00:03:20Z"},
    ]);
    pod["spec"]["containers"][0]["resources"] = resources("50m", "64Mi");
    pod
}

/// What the only container of a pod declares; `None` when nobody can tell.
fn declared(index: &Index, pod: &str) -> Option<optipod_common::resources::Amounts> {
    let container = index.facts(&key(pod)).unwrap().containers.remove(0);
    (!container.declaration_unknown).then_some(container.declared.requests)
}

#[test]
fn a_pod_resized_before_it_was_seen_declares_what_a_sibling_has_or_an_earlier_leader_said() {
    let mut index = index();
    let of_cluster = || owner("postgresql.cnpg.io/v1", "Cluster", "pg");
    put_pod(&mut index, resized(pod("pg-1", 1, of_cluster())), 0);
    assert_eq!(declared(&index, "pg-1"), None);
    put_pod(&mut index, pod("pg-2", 2, of_cluster()), 0);
    assert_eq!(declared(&index, "pg-1"), Some(cpu_and_memory(200, 64)));
    let told = |cpu| {
        let requests = cpu_and_memory(cpu, 64);
        let resources = optipod_common::resources::Resources { requests, ..Default::default() };
        (workload("Cluster", "pg"), vec![("c".to_owned(), resources)])
    };
    assert!(!index.told(told(400)), "it is known");
    index.apply(Change::Pods(Delta::Delete(Box::new(object(pod("pg-2", 2, of_cluster()))))), at(1));
    assert!(index.told(told(300)));
    assert_eq!(declared(&index, "pg-1"), Some(cpu_and_memory(300, 64)));
    // the owner of this one was not seen
    put_pod(&mut index, pod("db-0", 3, owner("apps/v1", "StatefulSet", "db")), 0);
    assert_eq!(declared(&index, "db-0"), None);
}

#[test]
fn pods_that_gitops_tools_apply_are_told_from_those_that_their_owners_make() {
    let mut index = index();
    let mut gitops = |annotations: Value, labels: Value, owners: Value| {
        let mut pod = pod("p", 1, owners);
        (pod["metadata"]["annotations"], pod["metadata"]["labels"]) = (annotations, labels);
        put_pod(&mut index, pod, 0);
        index.facts(&key("p")).unwrap().gitops
    };
    let tracked = || json!({"argocd.argoproj.io/tracking-id": "shop:/Pod:default/p"});
    assert_eq!(gitops(tracked(), json!({}), json!([])).as_deref(), Some("Argo CD"));
    assert_eq!(gitops(tracked(), json!({}), owner("apps/v1", "ReplicaSet", "web-1")), None);
    let label = || json!({"argocd.argoproj.io/instance": "shop"});
    assert_eq!(gitops(json!({}), label(), json!([])).as_deref(), Some("Argo CD"));
    // Argo CD's older default, which charts set as well
    assert_eq!(gitops(json!({}), json!({"app.kubernetes.io/instance": "shop"}), json!([])), None);
}

#[test]
fn every_fact_of_a_pod_is_read() {
    let mut index = index();
    let node = json!({"metadata": {"name": "n1"}, "spec": {"unschedulable": true}, "status": {"conditions": [
        {"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "False"}]}});
    index.apply(Change::Nodes(Delta::Replace(vec![object(node)])), at(0));
    let mut rich = pod("p", 1, json!([]));
    rich["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    rich["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    rich["metadata"]["managedFields"] = json!([{"manager": "vpa-updater", "subresource": "resize"}]);
    rich["spec"]["os"] = json!({"name": "windows"});
    rich["spec"]["priority"] = json!(2_000_001_000);
    rich["spec"]["resources"] = json!({});
    rich["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    rich["spec"]["initContainers"] = json!([
        {"name": "setup"},
        {"name": "proxy", "restartPolicy": "Always", "resources": resources("oops", "1Mi"), "env": [
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "c"}}},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory"}}},
            {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.ephemeral-storage"}}}]},
    ]);
    rich["status"]["conditions"] = json!([
        {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "no room"},
        {"type": "PodResizeInProgress", "status": "True"}]);
    rich["status"]["containerStatuses"][0]["allocatedResources"] = json!({"cpu": "100m", "memory": "32Mi"});
    rich["status"]["containerStatuses"][0]["resources"] = resources("150m", "32Mi");
    put_pod(&mut index, rich, 0);
    let facts = index.facts(&key("p")).unwrap();
    assert!(facts.running && facts.terminating && facts.mirror && facts.windows && facts.pod_level_resources);
    assert_eq!((facts.priority, facts.generation, facts.observed_generation), (2_000_001_000, 3, Some(3)));
    assert_eq!((facts.uid.as_str(), facts.resource_version.as_str()), ("uid-p-1", "7"));
    assert_eq!(facts.foreign_resizer.as_deref(), Some("vpa-updater"));
    let pending = facts.pending.unwrap();
    assert_eq!((pending.reason.as_str(), pending.message.as_str()), ("Deferred", "no room"));
    assert_eq!(facts.in_progress.unwrap().reason, "");
    let node = facts.node.unwrap();
    assert!(node.ready && node.cordoned && !node.memory_pressure);
    let [c, proxy] = facts.containers.as_slice() else { panic!("{:?}", facts.containers) };
    assert!(c.memory_restarts && !c.cpu_restarts && c.cpu_coupled && !c.memory_coupled && c.running);
    assert_eq!((c.restarts, c.allocated), (2, Some(cpu_and_memory(100, 32))));
    assert_eq!(c.actual.unwrap().requests, cpu_and_memory(150, 32));
    assert!(proxy.sidecar && !proxy.cpu_coupled && proxy.memory_coupled && !proxy.running);
    assert_eq!(proxy.desired.requests.cpu, None, "what cannot be read is not stated");
}

#[test]
fn finished_pods_are_no_workload() {
    let mut index = web();
    let mut done = pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1"));
    done["status"]["phase"] = json!("Succeeded");
    put_pod(&mut index, done, 0);
    assert_eq!(index.pods_of(&workload("Deployment", "web")).count(), 0);
    assert!(index.container(&id(1)).is_some() && index.facts(&key("p")).is_some());
}

#[test]
fn a_node_is_loaded_as_the_scheduler_counts() {
    let mut index = index();
    let mut resized = pod("p", 1, json!([]));
    resized["spec"]["initContainers"] = json!([{"name": "i", "resources": resources("100m", "256Mi")}]);
    let status = &mut resized["status"]["containerStatuses"][0];
    status["allocatedResources"] = json!({"cpu": "500m", "memory": "32Mi"});
    status["resources"] = resources("300m", "128Mi");
    let load = |index: &mut Index, pod: Value| {
        put_pod(index, pod, 0);
        let requests = index.node_loads(|_| Known::default())["n1"].requests;
        (requests.cpu.unwrap().to_string(), requests.memory.unwrap().to_string())
    };
    assert_eq!(load(&mut index, resized.clone()), ("500m".to_owned(), "256Mi".to_owned()));
    resized["spec"]["containers"][0]["resources"] = resources("4", "1Gi");
    assert_eq!(load(&mut index, resized.clone()), ("4".to_owned(), "1Gi".to_owned()));
    // what the kubelet will never do takes nothing
    resized["status"]["conditions"] =
        json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
    assert_eq!(load(&mut index, resized), ("500m".to_owned(), "256Mi".to_owned()));
}

#[test]
fn the_tightest_quota_and_budget_count() {
    let mut index = index();
    let mut labelled = pod("p", 1, json!([]));
    labelled["metadata"]["labels"] = json!({"app": "web", "tier": "front"});
    put_pod(&mut index, labelled, 0);
    assert_eq!((index.quota_free("default"), index.disruptions_allowed(&key("p"))), (None, None));
    let quota = |name: &str, spec: Value, used: Value| {
        let meta = json!({"name": name, "namespace": "default"});
        let quota = object(json!({"metadata": meta, "spec": spec, "status": {"used": used}}));
        Change::Quotas(Delta::Apply(Box::new(quota)))
    };
    for change in [
        quota("a", json!({"hard": {"requests.cpu": "4", "pods": "9"}}), json!({"requests.cpu": "3500m"})),
        quota("b", json!({"hard": {"cpu": "3", "memory": "2Gi"}}), json!({"cpu": "1", "memory": "3Gi"})),
        quota("c", json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}), json!({"cpu": "1"})),
    ] {
        index.apply(change, at(0));
    }
    let free = index.quota_free("default").unwrap();
    assert_eq!((free.cpu.unwrap().to_string(), free.memory), ("500m".to_owned(), Some(Bytes(0))));
    assert_eq!(index.quota_free("other"), None);
    // its template says 1 and 512Mi, and it asks for 200m and 64Mi
    let owned = pod("q", 2, owner("apps/v1", "ReplicaSet", "web-1"));
    put_pod(&mut index, owned, 0);
    index.apply(Change::ReplicaSets(Delta::Apply(Box::new(replica_set("web-1", json!([]))))), at(0));
    let debt = index.quota_owed()["default"];
    assert_eq!(
        (debt.cpu.unwrap().to_string(), debt.memory.unwrap().to_string()),
        ("800m".into(), "448Mi".into())
    );

    let budget = |name: &str, selector: Value, allowed: i32| {
        let meta = json!({"name": name, "namespace": "default"});
        let spec = json!({"selector": selector});
        let status = json!({"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        Change::Budgets(Delta::Apply(Box::new(object(
            json!({"metadata": meta, "spec": spec, "status": status}),
        ))))
    };
    let expressions = json!([{"key": "tier", "operator": "In", "values": ["front", "back"]}]);
    for change in [
        budget("of-others", json!({"matchLabels": {"app": "db"}}), 0),
        budget("of-none", Value::Null, 0),
        budget("of-app", json!({"matchLabels": {"app": "web"}}), 2),
        budget("of-tier", json!({"matchExpressions": expressions}), 1),
    ] {
        index.apply(change, at(0));
    }
    assert_eq!(index.disruptions_allowed(&key("p")), Some(1));
    index.apply(budget("of-all", json!({}), 0), at(0));
    assert_eq!(index.disruptions_allowed(&key("p")), Some(0));
    index.apply(Change::Budgets(Delta::Replace(vec![])), at(0));
    assert_eq!(index.disruptions_allowed(&key("p")), None);
}

#[test]
fn nodes_that_are_about_to_go_or_that_nobody_sees_are_known() {
    let of = |meta: Value, spec: Value| {
        let mut index = index();
        let mut metadata = json!({"name": "n"});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let node = json!({"metadata": metadata, "spec": spec, "status": {}});
        index.apply(Change::Nodes(Delta::Apply(Box::new(object(node)))), at(0));
        let node = index.nodes().next().unwrap().clone();
        (node.cordoned, node.unobserved)
    };
    let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
    assert_eq!(of(json!({}), taint("dedicated")), (false, None));
    for leaving in [
        json!({"unschedulable": true}),
        taint("karpenter.sh/disrupted"),
        taint("ToBeDeletedByClusterAutoscaler"),
    ] {
        assert_eq!(of(json!({}), leaving), (true, None));
    }
    assert!(of(json!({"deletionTimestamp": "2027-01-15T08:00:00Z"}), json!({})).0);
    let labelled = |key: &str, value: &str| of(json!({"labels": {key: value}}), json!({})).1;
    assert_eq!(labelled("kubernetes.io/os", "linux"), None);
    assert_eq!(labelled("kubernetes.io/os", "windows").unwrap(), "it runs Windows");
    assert_eq!(labelled("type", "virtual-kubelet").unwrap(), "it is a virtual kubelet");
    assert_eq!(labelled("eks.amazonaws.com/compute-type", "fargate").unwrap(), "it is Fargate");
}

#[test]
fn what_environment_and_files_tell_a_process_is_coupled() {
    let of = |spec: Value| {
        let mut index = index();
        let mut pod = pod("p", 1, json!([]));
        let (to, from) = (pod["spec"].as_object_mut().unwrap(), spec.as_object().unwrap());
        to.extend(from.clone());
        put_pod(&mut index, pod, 0);
        let container = index.facts(&key("p")).unwrap().containers.remove(0);
        (container.cpu_coupled, container.memory_coupled)
    };
    let told = |resource: &str| json!({"containerName": "c", "resource": resource});
    let env = json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]);
    assert_eq!(of(json!({"containers": [{"name": "c", "env": env}]})), (true, false));
    let items = |resource: &str| json!([{"path": "f", "resourceFieldRef": told(resource)}]);
    let own = json!([{"name": "v", "downwardAPI": {"items": items("requests.memory")}}]);
    assert_eq!(of(json!({"volumes": own})), (false, true));
    let sources = json!([{"downwardAPI": {"items": items("limits.cpu")}}]);
    assert_eq!(of(json!({"volumes": [{"name": "v", "projected": {"sources": sources}}]})), (true, false));
    let labels = json!([{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    assert_eq!(of(json!({"volumes": [{"name": "v", "downwardAPI": {"items": labels}}]})), (false, false));
}

#[test]
fn a_resize_that_does_not_show_yet_counts_where_it_takes_more() {
    let index = web();
    let facts = index.facts(&key("p")).unwrap();
    let desired = facts.containers[0].desired;
    let plan = |millis, mebibytes| {
        let to = Resources { requests: cpu_and_memory(millis, mebibytes), ..Resources::default() };
        let changes = vec![ContainerChange {
            container: "c".into(),
            sidecar: false,
            to,
            from: desired,
            restarts: false,
        }];
        Plan { direction: Direction::Increase, changes }
    };
    // 200m and 64Mi of 1 and 512Mi that are declared
    for (asked, requests, weight, owed) in
        [(plan(700, 16), (700, 64), 200, (800, 496)), (plan(50, 512), (200, 512), 50, (950, 448))]
    {
        let load = &index.node_loads(|_| Known { asked: Some(&asked), ..Known::default() })["n1"];
        assert_eq!(load.requests, cpu_and_memory(requests.0, requests.1));
        assert_eq!((load.burstable, load.owed), (MilliCpu(weight), cpu_and_memory(owed.0, owed.1)));
    }
}

#[test]
fn a_volume_in_memory_without_a_size_is_as_large_as_the_limit() {
    let of = |empty_dir: Value| {
        let mut index = index();
        let mut pod = pod("p", 1, json!([]));
        pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": empty_dir}]);
        let container = &mut pod["spec"]["containers"][0];
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        container["resources"]["limits"] = json!({"memory": "1Gi"});
        put_pod(&mut index, pod, 0);
        index.facts(&key("p")).unwrap().containers[0].tmpfs
    };
    assert_eq!(of(json!({"medium": "Memory", "sizeLimit": "64Mi"})), Bytes::from_mebibytes(64));
    assert_eq!(of(json!({"medium": "Memory"})), Bytes::from_mebibytes(1024));
    assert_eq!(of(json!({})), Bytes(0));
}

#[test]
fn autoscalers_on_utilisation_hold_a_resource() {
    let hpa = |name: &str, target: &str, metrics: Value| -> HorizontalPodAutoscaler {
        let target = json!({"kind": "Deployment", "name": target, "apiVersion": "apps/v1"});
        let spec = json!({"maxReplicas": 3, "scaleTargetRef": target, "metrics": metrics});
        object(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}))
    };
    let of = |name: &str, kind: &str| json!({"type": "Resource", "resource": {"name": name, "target": {"type": kind}}});
    let followed = |index: &Index, kind: &str, name: &str| -> Vec<Resource> {
        index.hpa_resources(&workload(kind, name)).iter().map(|followed| followed.resource).collect()
    };
    let mut index = index();
    let put = |index: &mut Index, hpa| index.apply(Change::Hpas(Delta::Apply(Box::new(hpa))), at(0));
    put(&mut index, hpa("a", "web", json!([of("memory", "Utilization"), of("cpu", "AverageValue")])));
    put(&mut index, hpa("b", "api", json!([])));
    assert_eq!(followed(&index, "Deployment", "web"), [Resource::Memory]);
    assert_eq!(followed(&index, "Deployment", "api"), [Resource::Cpu]);
    assert_eq!(followed(&index, "StatefulSet", "api"), []);
    put(&mut index, hpa("a", "api", json!([of("memory", "Utilization")])));
    assert_eq!(followed(&index, "Deployment", "web"), []);
    assert_eq!(followed(&index, "Deployment", "api"), [Resource::Cpu, Resource::Memory]);
}

fn opted_out(index: &Index, pod: &str) -> Option<bool> {
    index.overrides(&key(pod)).map(|overrides| overrides.opted_out)
}

fn keeps_off(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
        "annotations": {"optipod.io/optimize": "false"}}})
}

#[test]
fn cron_jobs_and_rollouts_speak_for_their_pods() {
    let mut index = index();
    let job: Job = object(json!({"metadata": {"name": "j", "namespace": "default", "uid": "uid-j",
        "ownerReferences": owner("batch/v1", "CronJob", "cron")}}));
    index.apply(Change::Jobs(Delta::Apply(Box::new(job))), at(0));
    put_pod(&mut index, pod("of-job", 1, owner("batch/v1", "Job", "j")), 0);
    assert_eq!(opted_out(&index, "of-job"), None, "its CronJob was not seen");
    index.apply(Change::CronJobs(Delta::Apply(Box::new(object(keeps_off("cron"))))), at(0));
    assert_eq!(opted_out(&index, "of-job"), Some(true));

    let set = replica_set("rolled", owner("argoproj.io/v1alpha1", "Rollout", "ro"));
    index.apply(Change::ReplicaSets(Delta::Apply(Box::new(set))), at(0));
    put_pod(&mut index, pod("of-rollout", 2, owner("apps/v1", "ReplicaSet", "rolled")), 0);
    assert_eq!(opted_out(&index, "of-rollout"), Some(false), "the kind is not served here");
    index.apply(Change::Rollouts(Delta::Replace(vec![])), at(0));
    assert_eq!(opted_out(&index, "of-rollout"), None, "now it is, and this one was not seen");
    index.apply(Change::Rollouts(Delta::Apply(Box::new(object(keeps_off("ro"))))), at(0));
    assert_eq!(opted_out(&index, "of-rollout"), Some(true));
    assert_eq!(index.workload_of(&key("of-rollout")), Some(&workload("Rollout", "ro")));
}

#[test]
fn a_workload_without_pods_rests_as_long_as_its_object_exists() {
    let mut index = web();
    let (web, set) = (workload("Deployment", "web"), workload("ReplicaSet", "web-1"));
    let of = |index: &Index, workload| index.owner_of(workload).map(|owner| (owner.api_version, owner.uid));
    let known = Some(("apps/v1".to_owned(), "uid-web".to_owned()));
    assert_eq!((index.rests(&web), of(&index, &web)), (false, known.clone()));
    let gone = object(pod("p", 1, owner("apps/v1", "ReplicaSet", "web-1")));
    index.apply(Change::Pods(Delta::Delete(Box::new(gone))), at(1));
    assert_eq!((index.rests(&web), of(&index, &web)), (true, known));
    assert!(!index.rests(&set), "it is between the workload and its pods");
    assert!(index.resting().eq([web.clone()]));
    // one of the same name came before the old one was seen to go
    let mut anew = deployment("web", json!({}));
    anew.metadata.uid = Some("uid-anew".to_owned());
    index.apply(Change::Deployments(Delta::Apply(Box::new(anew))), at(2));
    index.apply(Change::Deployments(Delta::Delete(Box::new(deployment("web", json!({}))))), at(2));
    assert_eq!(of(&index, &web).map(|(_, uid)| uid).as_deref(), Some("uid-anew"));
    index.apply(Change::Deployments(Delta::Replace(vec![])), at(3));
    assert!(!index.rests(&web));
}

#[test]
fn bare_pods_and_custom_owners_are_referred_to() {
    let mut index = index();
    put_pod(&mut index, pod("bare", 1, json!([])), 0);
    put_pod(&mut index, pod("pg-1", 2, owner("postgresql.cnpg.io/v1", "Cluster", "pg")), 0);
    let bare = index.owner_of(&workload("Pod", "bare")).unwrap();
    assert_eq!((bare.api_version.as_str(), bare.uid.as_str()), ("v1", "uid-bare-1"));
    let reference = index.owner_of(&workload("Cluster", "pg")).unwrap().reference(&workload("Cluster", "pg"));
    assert_eq!((reference.api_version.as_str(), reference.uid.as_str()), ("postgresql.cnpg.io/v1", "uid-pg"));
    assert_eq!((reference.controller, reference.block_owner_deletion), (Some(false), Some(false)));
}

#[test]
fn a_pod_that_room_is_made_for_counts_as_waiting() {
    let mut index = web();
    let mut waits = pod("waits", 9, json!([]));
    waits["spec"].as_object_mut().unwrap().remove("nodeName");
    waits["status"] = json!({"phase": "Pending", "nominatedNodeName": "n1"});
    put_pod(&mut index, waits.clone(), 0);
    let admitting = |index: &Index| index.node_loads(|_| Known::default())["n1"].admitting.clone();
    assert_eq!(admitting(&index).as_deref(), Some("default/waits"));
    let load = &index.node_loads_of([&key("p")], |_| Known::default())["n1"];
    assert_eq!((load.admitting.as_deref(), load.requests), (Some("default/waits"), cpu_and_memory(200, 64)));
    waits["status"] = json!({"phase": "Pending", "nominatedNodeName": ""});
    put_pod(&mut index, waits, 1);
    assert_eq!(admitting(&index), None);
}

#[test]
fn synced_after_every_kind_was_listed() {
    let mut index = index();
    let changes = [
        Change::Pods(Delta::Replace(vec![])),
        Change::ReplicaSets(Delta::Replace(vec![])),
        Change::Deployments(Delta::Replace(vec![])),
        Change::StatefulSets(Delta::Replace(vec![])),
        Change::DaemonSets(Delta::Replace(vec![])),
        Change::Jobs(Delta::Replace(vec![])),
        Change::CronJobs(Delta::Replace(vec![])),
        Change::Nodes(Delta::Replace(vec![])),
        Change::Namespaces(Delta::Replace(vec![])),
        Change::Policies(Delta::Replace(vec![])),
        Change::Hpas(Delta::Replace(vec![])),
        Change::Quotas(Delta::Replace(vec![])),
        Change::Budgets(Delta::Replace(vec![])),
        Change::Configuration(Delta::Replace(vec![])),
    ];
    for change in changes {
        assert!(!index.synced());
        index.apply(change, at(0));
    }
    assert!(index.synced());
}
