//! Sizes that change, from the policy down to the kernel.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::eventually;
use crate::guest::Cgroup;
use crate::manifests::{Demand, OVER_ASKING, policy};
use crate::pod::Pod;
use crate::space::Space;

const MEBIBYTE: u64 = 1 << 20;

/// Requests and limits together.
fn both() -> serde_json::Value {
    json!({"updateRequestsOnly": false, "limits": {"cpu": {"type": "Ratio"}, "memory": {"type": "Ratio"}}})
}

/// Property 21: in-place resize preference
pub fn cpu_request_and_limit_shrink_in_place(space: &Space<'_>) -> Result<()> {
    space.create()?;
    let before = Pod::start(space, "over-asking", OVER_ASKING)?;
    Cgroup::of(space.cluster, &before)?.expect_to_enforce(&before)?;
    space.cluster.apply(&policy(&space.name, "shrink", &json!({"updateStrategy": both()})))?;
    let after = Pod::resized_to(space, "over-asking", |size| {
        size.cpu_request < 100 && size.cpu_limit < 200 && size.memory_limit < 128 * MEBIBYTE
    })?;
    after.expect_same_life(&before)?;
    eventually("the kernel enforces the new size", || {
        let pod = Pod::of(space, "over-asking")?;
        pod.expect_same_life(&before)?;
        ensure!(pod.actual.cpu_limit == pod.actual.cpu_request.div_ceil(5) * 10, "another ratio: {pod:?}");
        Cgroup::of(space.cluster, &pod)?.expect_to_enforce(&pod)
    })?;
    eventually("the policy calls it applied", || {
        space.expect_verdict("shrink", "over-asking", "Applied", "")
    })?;
    Ok(())
}

pub fn throttled_container_grows_in_place(space: &Space<'_>) -> Result<()> {
    space.create()?;
    let demand = Demand { requests: ("40m", "32Mi"), limits: ("100m", "128Mi"), uses: (250, 16) };
    let before = Pod::start(space, "under-asking", demand)?;
    let grow = json!({
        "updateStrategy": both(),
        // the steps are large at first and small at the end
        "metricsConfig": {"percentile": "P100"},
        "resourceBounds": {"cpu": {"max": "1"}, "memory": {"min": "32Mi", "max": "32Mi"}},
    });
    let mut grow = policy(&space.name, "grow", &grow);
    grow["spec"]["updateStrategy"]["minChange"] = json!("10%");
    space.cluster.apply(&grow)?;
    eventually("the container is throttled", || {
        let cgroup = Cgroup::of(space.cluster, &before)?;
        ensure!(cgroup.throttled > 0, "{cgroup:?}");
        Ok(())
    })?;
    // what is enough depends on what the node gives: the end of the throttling tells
    let after = Pod::resized_to(space, "under-asking", |size| size.cpu_limit >= 250)?;
    after.expect_same_life(&before)?;
    eventually("the kernel enforces it and the throttling ends", || {
        let pod = Pod::of(space, "under-asking")?;
        pod.expect_same_life(&before)?;
        let begin = Cgroup::of(space.cluster, &pod)?;
        begin.expect_to_enforce(&pod)?;
        sleep(Duration::from_secs(5));
        let end = Cgroup::of(space.cluster, &pod)?;
        ensure!(end.periods > begin.periods + 10, "it does not run: {begin:?} {end:?}");
        ensure!(end.throttled == begin.throttled, "still throttled: {begin:?} {end:?}");
        Ok(())
    })
}

/// Property 3: updates preserve limits
pub fn memory_request_falls_with_limits_untouched(space: &Space<'_>) -> Result<()> {
    space.create()?;
    let demand = Demand { requests: ("50m", "192Mi"), limits: ("200m", "256Mi"), uses: (10, 32) };
    let before = Pod::start(space, "roomy", demand)?;
    let kernel_before = Cgroup::of(space.cluster, &before)?;
    space.cluster.apply(&policy(
        &space.name,
        "requests",
        &json!({"updateStrategy": {"updateRequestsOnly": true, "minChange": "10%"}}),
    ))?;
    // the first resize may come while the memory is still being filled
    let fits = 32 * MEBIBYTE..96 * MEBIBYTE;
    let after = Pod::resized_to(space, "roomy", |size| fits.contains(&size.memory_request))?;
    after.expect_same_life(&before)?;
    let limits = |pod: &Pod| (pod.wanted.cpu_limit, pod.wanted.memory_limit);
    ensure!(limits(&after) == limits(&before), "limits moved: {before:?} became {after:?}");
    let kernel_after = Cgroup::of(space.cluster, &after)?;
    kernel_after.expect_to_enforce(&after)?;
    let limits = |cgroup: &Cgroup| (cgroup.cpu_quota, cgroup.memory_max);
    ensure!(limits(&kernel_after) == limits(&kernel_before), "{kernel_before:?} became {kernel_after:?}");
    Ok(())
}
