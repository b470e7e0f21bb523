//! OptiPod on a real node: real kubelet, real containers, real cgroups.
//!
//! A lab with a node is named by `OPTIPOD_LAB`, images in its registry by `OPTIPOD_AGENT_IMAGE`,
//! `OPTIPOD_COORDINATOR_IMAGE` and `OPTIPOD_LOAD_IMAGE`; `cargo lab test` does all of it. What an earlier run left is
//! removed first. Then the chart is installed, and cases run in three groups: side by side what disturbs nobody, one
//! after the other what kills agents and leaders, at the end what replaces and removes the installation. Each case has
//! a namespace of its own. Words on the command line select cases by name.

#![allow(clippy::indexing_slicing, reason = "a missing element fails the case")]

mod cluster;
mod faults;
mod guest;
mod manifests;
mod pod;
mod policies;
mod posture;
mod release;
mod resizing;
mod runner;
mod space;

use std::process::ExitCode;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::runner::{Case, case};

/// Side by side.
const TOGETHER: &[Case] = &[
    case!(resizing::cpu_request_and_limit_shrink_in_place),
    case!(resizing::throttled_container_grows_in_place),
    case!(resizing::memory_request_falls_with_limits_untouched),
    case!(policies::recommend_mode_changes_nothing),
    case!(policies::disabled_mode_changes_nothing),
    case!(policies::invalid_policies_are_refused_with_field_and_rule),
    case!(policies::system_pods_and_own_namespace_are_never_touched),
    case!(faults::pod_deleted_in_the_middle_is_followed_by_its_replacement),
    case!(posture::both_programs_run_without_privileges),
    case!(posture::agent_cannot_write_to_the_cgroups_it_reads),
];

/// One after the other, after those.
const ALONE: &[Case] = &[
    case!(faults::agent_killed_comes_back_without_double_counting),
    case!(faults::leader_killed_in_the_middle_is_succeeded),
    case!(release::upgraded_release_goes_on_resizing),
    case!(release::uninstalled_release_leaves_workloads_alone),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked = |case: &&Case| {
        let mut names = words.iter().filter(|word| !word.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|word| case.name.contains(word.as_str()))
    };
    let (together, alone): (Vec<_>, Vec<_>) =
        (TOGETHER.iter().filter(asked).collect(), ALONE.iter().filter(asked).collect());
    if words.iter().any(|word| word == "--list") {
        together.iter().chain(&alone).for_each(|case| println!("{}: test", case.name));
        return Ok(true);
    }
    let cluster = Cluster::attach()?;
    cluster.remove_leftovers()?;
    cluster.install()?;
    Ok(runner::run(&cluster, &together, &alone, TOGETHER.len() + ALONE.len()))
}
