//! Pods, agents and leaders that go away at the wrong moment.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use optipod_common::quantity::MilliCpu;
use serde_json::json;

use crate::cluster::{NEW_FRAMES, PATIENCE, SYSTEM, eventually, list, text, value_of};
use crate::guest::{self, Cgroup};
use crate::manifests::{Demand, OVER_ASKING, policy};
use crate::pod::{Life, Pod};
use crate::space::Space;

/// Resizes whose pod went away.
const VOID: &str = "optipod_coordinator_resizes_total{outcome=\"PodGone\"}";

/// How the first container's recommendation came about.
const EXPLANATION: &str = "/recommendations/0/explanation";

/// Fails when a coordinator restarted or complained.
fn expect_calm_coordinators(space: &Space<'_>) -> Result<()> {
    for life in Life::of_component(space.cluster, "coordinator")? {
        ensure!(life.restarts == 0, "restarted: {life:?}");
        let log = space.cluster.kubectl(&["logs", &life.pod, "--namespace", SYSTEM])?;
        let loud = |line: &&str| line.contains("\"ERROR\"") || line.contains("panicked");
        let complaints: Vec<_> = log.lines().filter(loud).collect();
        ensure!(complaints.is_empty(), "{complaints:?}");
    }
    Ok(())
}

/// Waits for the Event that says that a resize of a workload's pod began. Returns the pod.
fn resizing(space: &Space<'_>, workload: &str) -> Result<Pod> {
    let pod = eventually("the pod runs", || Pod::of(space, workload))?;
    let begin = Instant::now();
    while !space.told(&pod.life.pod, "Resizing")? {
        ensure!(begin.elapsed() < PATIENCE, "no resize of {pod:?} began");
        sleep(Duration::from_millis(50));
    }
    Ok(pod)
}

/// A memory limit that changes is done only when the next frame shows it, so there is a second or two in between; who
/// comes too late tries again with the replacement.
pub fn pod_deleted_in_the_middle_is_followed_by_its_replacement(space: &Space<'_>) -> Result<()> {
    space.create()?;
    let cluster = space.cluster;
    let void = || cluster.metric(&cluster.leader()?, VOID);
    let void_before = void()?;
    Pod::start(space, "short-lived", OVER_ASKING)?;
    space.cluster.apply(&policy(
        &space.name,
        "shrink",
        &json!({"updateStrategy": {"updateRequestsOnly": false}}),
    ))?;
    let mut hit = false;
    for _ in 0..3 {
        let pod = resizing(space, "short-lived")?;
        let name = pod.life.pod.as_str();
        space.cluster.kubectl(&[
            "delete",
            "pod",
            name,
            "--namespace",
            &space.name,
            "--force",
            "--grace-period=0",
        ])?;
        eventually("there is a replacement", || {
            let new = Pod::of(space, "short-lived")?;
            ensure!(new.life.pod_uid != pod.life.pod_uid, "still {pod:?}");
            Ok(())
        })?;
        if !space.told(name, "Resized")? {
            hit = true;
            break;
        }
    }
    ensure!(hit, "three resizes were done before their pod could be deleted");
    eventually("the leader lets go of the resize", || {
        let now = void()?;
        ensure!(now > void_before, "{VOID} was {void_before} and is {now}");
        Ok(())
    })?;
    let replacement = Pod::resized_to(space, "short-lived", |size| size.cpu_request < 100)?;
    ensure!(replacement.life.restarts == 0, "{replacement:?}");
    expect_calm_coordinators(space)
}

/// The kernel's counters go on while the agent is dead. What a new agent counts begins with its own first sample: it
/// must not report the container's whole past as usage of its first second, and frames of the old agent must not count
/// again. Seen at three places: the agent's own sum against the kernel's, the number of frames that the leader counted
/// against those that were made, and the leader's mean usage against the kernel's. The mean shows in a recommendation
/// whose percentile is next to nothing, since it is the floor. The past in one second would double it at least; usage
/// on a busy emulated node moves by a tenth or two from one half minute to the next.
pub fn agent_killed_comes_back_without_double_counting(space: &Space<'_>) -> Result<()> {
    space.create()?;
    let cluster = space.cluster;
    let demand = Demand { requests: ("400m", "64Mi"), limits: ("800m", "128Mi"), uses: (100, 16) };
    let steady = Pod::start(space, "steady", demand)?;
    let started = Cgroup::of(cluster, &steady)?;
    let metrics = json!({"percentile": "P0.1", "safetyFactor": 1.0});
    let bounds = json!({"cpu": {"min": "1m"}});
    let mean = json!({"mode": "Recommend", "metricsConfig": metrics, "resourceBounds": bounds});
    cluster.apply(&policy(&space.name, "mean", &mean))?;
    eventually("there is a mean, and the busy start is out of the window of the next one", || {
        let verdict = space.expect_verdict("mean", "steady", "Recommended", "ModeRecommend")?;
        ensure!(text(&verdict, EXPLANATION).contains("mean as floor"), "{verdict}");
        let age = Cgroup::of(cluster, &steady)?.at - started.at;
        ensure!(age > 35.0, "{age} s old");
        Ok(())
    })?;

    let leader = cluster.leader()?;
    let old = Life::of_component(cluster, "agent")?.remove(0);
    let asked = Instant::now();
    let frames_before = cluster.metric(&leader, NEW_FRAMES)?;
    let before = Cgroup::of(cluster, &steady)?;
    guest::kill(cluster, &old)?;
    let last_frames = asked.elapsed().as_secs_f64() / 2.0 + 1.0;
    let new = eventually("the kubelet starts a new agent, which is heard", || {
        let life = Life::of_component(cluster, "agent")?.remove(0);
        ensure!(life.restarts == old.restarts + 1 && life.container_id != old.container_id, "{life:?}");
        let accepted = cluster.metric(&life.pod, "optipod_agent_frames_accepted")?;
        ensure!(accepted >= 8.0, "{accepted} frames accepted");
        Ok(life)
    })?;

    let frames = cluster.metric(&leader, NEW_FRAMES)? - frames_before;
    let page = cluster.metrics(&new.pod)?;
    let produced = value_of(&page, "optipod_agent_frames_produced_total")?;
    ensure!(
        frames <= produced + last_frames,
        "the leader counted {frames} frames, the new agent made {produced}, the old one at most {last_frames}"
    );
    eventually("the leader has every frame", || {
        let frames = cluster.metric(&leader, NEW_FRAMES)? - frames_before;
        ensure!(frames >= produced, "{frames} of {produced}");
        Ok(())
    })?;
    let short_id: String = steady.life.container_id.chars().take(12).collect();
    let sum = "optipod_agent_container_cpu_usage_seconds_total{";
    let series = page.lines().find(|line| line.starts_with(sum) && line.contains(&short_id));
    let series = series.with_context(|| format!("the new agent does not show {short_id}"))?;
    let counted: f64 = series.rsplit(' ').next().unwrap_or_default().parse()?;
    let now = Cgroup::of(cluster, &steady)?;
    let kernel = now.cpu_seconds - before.cpu_seconds;
    ensure!(counted > 0.0 && counted <= kernel, "the agent counted {counted} s, the kernel {kernel} s");
    // the leader's mean is about its window, the kernel's about the time since the kill: they meet
    eventually("the leader's mean is the kernel's", || {
        let now = Cgroup::of(cluster, &steady)?;
        let kernel = (now.cpu_seconds - before.cpu_seconds) / (now.at - before.at);
        let verdict = space.verdict("mean", "steady")?;
        let mean = text(&verdict, "/recommendations/0/cpu").parse::<MilliCpu>()?.0 as f64 / 1000.0;
        ensure!((mean / kernel - 1.0).abs() < 0.4, "the mean is {mean}, the kernel's {kernel}: {verdict}");
        Ok(())
    })
}

/// Two workloads, one resize at a time: when the first has begun the second is still to come. The leader dies without
/// giving the Lease back. What the next leader knows, it knows from the agent, which holds its frames until they are
/// durable.
pub fn leader_killed_in_the_middle_is_succeeded(space: &Space<'_>) -> Result<()> {
    space.create()?;
    let cluster = space.cluster;
    let workloads = ["first", "second"];
    for name in workloads {
        Pod::start(space, name, OVER_ASKING)?;
    }
    let one_by_one = json!({"updateStrategy": {"updateRequestsOnly": false, "maxConcurrentResizes": 1}});
    cluster.apply(&policy(&space.name, "shrink", &one_by_one))?;
    let begin = Instant::now();
    let resizing = || -> Result<bool> {
        let events = space.get(&["events.events.k8s.io"])?;
        Ok(list(&events, "/items").any(|event| text(event, "/reason") == "Resizing"))
    };
    while !resizing()? {
        ensure!(begin.elapsed() < PATIENCE, "no resize began");
        sleep(Duration::from_millis(50));
    }
    let leader = cluster.leader()?;
    let produced = cluster.metric(&cluster.agent()?, "optipod_agent_frames_produced_total")?;
    let dead = Life::of_component(cluster, "coordinator")?.into_iter().find(|life| life.pod == leader);
    let dead = dead.with_context(|| format!("{leader} leads but does not run"))?;
    guest::kill(cluster, &dead)?;
    cluster.kubectl(&["delete", "pod", &leader, "--namespace", SYSTEM, "--force", "--grace-period=0"])?;
    let killed = Instant::now();
    let unfinished = |name: &str| -> Result<bool> { Ok(Pod::of(space, name)?.wanted.cpu_request >= 100) };
    if !unfinished("first")? && !unfinished("second")? {
        bail!("both workloads were resized before the leader could be killed");
    }

    let successor = eventually("somebody else leads", || {
        let now = cluster.leader()?;
        ensure!(now != leader, "{now} still leads");
        Ok(now)
    })?;
    let took = killed.elapsed();
    ensure!(took < Duration::from_secs(60), "{successor} took over after {took:?}; the Lease lasts 15 s");
    eventually("the new leader has what the agent held", || {
        let frames = cluster.metric(&successor, NEW_FRAMES)?;
        ensure!(frames >= produced, "{frames} frames of {produced}");
        Ok(())
    })?;
    for name in workloads {
        eventually("both are resized", || {
            let pod = Pod::of(space, name)?;
            ensure!(pod.wanted == pod.actual && pod.wanted.cpu_request < 100, "{pod:?}");
            ensure!(pod.life.restarts == 0, "{pod:?}");
            Cgroup::of(cluster, &pod)?.expect_to_enforce(&pod)
        })?;
        eventually("the policy calls them applied", || space.expect_verdict("shrink", name, "Applied", ""))?;
    }
    expect_calm_coordinators(space)
}
