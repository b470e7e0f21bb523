//! The real coordinator against a real API server, with the rights that the chart gives it.
//!
//! A lab without nodes (`cargo lab up --control-plane-only`) is named by `OPTIPOD_LAB`; `cargo lab test` does both.
//! Coordinators run in this process, each on a runtime of its own, so that one can die without a word. Played are the
//! kubelet ([`kubelet`]) and an agent ([`agent`]); everything else is real. Cases run side by side, each in a namespace
//! of its own; those that stop coordinators come after all others. `cargo lab logs coordinators` has their log.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by key does not panic, and a panic fails the case"
)]

mod agent;
mod conditions;
mod coordinator;
mod kubelet;
mod leadership;
mod objects;
mod policies;
mod recommendations;
mod refusals;
mod resizing;
mod rights;
#[path = "../support/runner.rs"]
mod runner;
mod scope;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use crate::runner::{Case, case};
use crate::world::World;

/// No case takes longer, also on a machine under load.
const PATIENCE: Duration = Duration::from_secs(180);

/// Side by side.
const TOGETHER: &[Case<World>] = &[
    case!(policies::every_rule_of_the_crd_refuses_with_its_message),
    case!(policies::every_limit_of_the_crd_refuses_at_its_field),
    case!(policies::the_operator_designs_example_applies_unchanged_and_acts),
    case!(policies::a_policy_may_have_every_field),
    case!(policies::every_example_is_accepted),
    case!(policies::a_policy_that_says_nothing_is_adaptive),
    case!(policies::columns_show_what_a_person_wants_to_see),
    case!(policies::stored_policies_that_break_rules_are_reported),
    case!(scope::a_tenant_policy_that_reaches_further_is_refused),
    case!(scope::tenants_have_the_rights_that_the_guide_names),
    case!(scope::a_tenant_never_reaches_a_neighbour),
    case!(scope::a_tenant_can_only_narrow_enforced_bounds),
    case!(scope::annotations_opt_out_pin_and_choose),
    case!(scope::the_policy_that_lost_says_to_whom),
    case!(scope::protected_pods_are_never_touched),
    case!(resizing::requests_shrink_and_nothing_else_changes),
    case!(resizing::a_throttled_container_grows_with_its_limit),
    case!(resizing::recommend_and_disabled_change_nothing),
    case!(resizing::a_pod_deleted_in_the_middle_is_forgotten),
    case!(resizing::a_pod_that_somebody_else_changes_is_resized_by_a_fresh_decision),
    case!(recommendations::it_tells_how_it_came_about_and_goes_with_its_workload),
    case!(recommendations::a_strategy_of_another_version_only_shows),
    case!(refusals::a_limit_range_is_reported_and_not_asked_again_at_once),
    case!(refusals::a_quota_is_reported_and_not_asked_again_at_once),
    case!(refusals::defaults_of_a_limit_range_do_not_sneak_in),
    case!(conditions::a_deferred_resize_is_taken_back_after_its_deadline),
    case!(conditions::an_infeasible_resize_is_taken_back_at_once),
    case!(leadership::a_standby_names_the_leader_and_the_lease_has_an_owner),
];

/// One after the other, after those.
const ALONE: &[Case<World>] = &[
    case!(recommendations::a_dry_run_is_switched_while_coordinators_run),
    case!(leadership::a_standby_finishes_what_a_killed_leader_began),
    case!(leadership::a_leader_that_stops_gives_the_lease_back),
    case!(rights::the_chart_grants_exactly_what_is_used),
];

fn main() -> ExitCode {
    runner::main("coordinators", PATIENCE, World::new, TOGETHER, ALONE)
}
