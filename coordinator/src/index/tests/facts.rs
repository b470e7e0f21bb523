//! What the index says about pods and containers.

use optipod_common::quantity::{Bytes, MilliCpu};

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
fn a_pod_without_template_declares_what_it_has_until_we_resize_it() {
    let mut index = index();
    let mut bare = pod("p", 1, json!([]));
    put_pod(&mut index, bare.clone(), 0);
    let container = index.facts(&key("p")).unwrap().containers.remove(0);
    assert_eq!(container.declared, container.desired);
    bare["metadata"]["managedFields"] = json!([
        {"manager": "optipod-coordinator", "subresource": "resize", "time": "1970-01-01T00:01:40Z"},
        {"manager": "kubelet", "subresource": "status", "time": "1970-01-01T00:03:20Z"},
    ]);
    put_pod(&mut index, bare, 0);
    let facts = index.facts(&key("p")).unwrap();
    assert!(facts.containers[0].declared.is_empty());
    assert_eq!((facts.last_resize, facts.foreign_resizer), (Some(at(100)), None));
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
        let requests = index.node_loads(|_| Bytes(0))["n1"].requests;
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
        Change::Nodes(Delta::Replace(vec![])),
        Change::Namespaces(Delta::Replace(vec![])),
        Change::Policies(Delta::Replace(vec![])),
        Change::Hpas(Delta::Replace(vec![])),
        Change::Configuration(Delta::Replace(vec![])),
    ];
    for change in changes {
        assert!(!index.synced());
        index.apply(change, at(0));
    }
    assert!(index.synced());
}
