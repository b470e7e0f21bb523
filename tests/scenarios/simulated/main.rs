//! Scenarios on simulated nodes: the files of `tests/simulations`, played on a real control plane with real
//! controllers, scheduler, coordinators and agents. `tests/SIMULATED.md` says what is simulated.
//!
//! A lab without nodes (`cargo lab up --control-plane-only`) is named by `OPTIPOD_LAB`; `cargo lab test` does both.
//! One after the other: each has the cluster for itself. `cargo lab logs scenarios` has the coordinators' log.

mod played;
#[path = "../support/runner.rs"]
mod runner;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use optipod_tests::simulated::scenario::Stage;

use crate::runner::{Case, case};

/// Simulated time is late on a machine under load, and a case plays up to three files.
const PATIENCE: Duration = Duration::from_secs(600);

const ALONE: &[Case<Stage>] = &[
    case!(played::three_nodes_and_300_pods_are_resized_without_a_restart),
    case!(played::refusals_have_reasons_and_are_not_tried_in_a_loop),
    case!(played::lost_nodes_and_agents_lead_to_no_wrong_resize),
    case!(played::nothing_shrinks_on_stale_data),
    case!(played::what_pods_go_through_changes_no_promise),
    case!(played::nodes_that_cannot_resize_are_named),
    case!(played::a_bad_api_server_breaks_nothing),
    case!(played::a_killed_leader_leaves_nothing_half_done),
    case!(played::the_same_seed_asks_the_same_of_each_pod),
];

fn main() -> ExitCode {
    let prepare = |lab| async { Ok(Arc::new(Stage::new(lab).await?)) };
    runner::main("scenarios", PATIENCE, prepare, &[], ALONE)
}
