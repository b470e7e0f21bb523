//! One case for each file, and the same file again.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use optipod_tests::paths;
use optipod_tests::simulated::scenario::{Report, Scenario, Stage};

fn file(name: &str) -> PathBuf {
    paths::workspace().join("tests/simulations").join(format!("{name}.yaml"))
}

async fn play(stage: &Stage, scenario: &Scenario) -> Result<Report> {
    let report = stage.play(scenario).await?;
    println!("{report}");
    ensure!(report.passed(), "expectations failed:\n{report}");
    Ok(report)
}

async fn play_file(stage: &Stage, name: &str) -> Result<()> {
    play(stage, &Scenario::read(&file(name))?).await.map(drop)
}

pub async fn three_nodes_and_300_pods_are_resized_without_a_restart(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "three-nodes").await
}

pub async fn refusals_have_reasons_and_are_not_tried_in_a_loop(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "refusals").await
}

pub async fn lost_nodes_and_agents_lead_to_no_wrong_resize(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "nodes-and-agents").await
}

pub async fn nothing_shrinks_on_stale_data(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "stale-data").await
}

pub async fn what_pods_go_through_changes_no_promise(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "lives-of-pods").await
}

pub async fn nodes_that_cannot_resize_are_named(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "odd-nodes").await
}

pub async fn a_bad_api_server_breaks_nothing(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "bad-api-server").await
}

pub async fn a_killed_leader_leaves_nothing_half_done(stage: Arc<Stage>) -> Result<()> {
    play_file(&stage, "leader-killed").await
}

pub async fn the_same_seed_asks_the_same_of_each_pod(stage: Arc<Stage>) -> Result<()> {
    let scenario = Scenario::read(&file("same-again"))?;
    let first = play(&stage, &scenario).await?.sequences;
    let again = play(&stage, &scenario).await?.sequences;
    ensure!(first == again, "the same seed asked differently; first:\n{first}\nagain:\n{again}");
    let other = play(&stage, &Scenario { seed: scenario.seed + 1, ..scenario }).await?.sequences;
    ensure!(first != other, "another seed asked the same:\n{first}");
    Ok(())
}
