//! The simulated kubelet against the real one: the same script of pods and resizes is played on a real node and on a
//! simulated one, and what the API showed of it is compared field by field.
//!
//! `OPTIPOD_LAB` names a lab with a node of each kind and the same CPU, `OPTIPOD_LOAD_IMAGE` an image of the workload
//! simulator; `cargo lab test --only node` does both. Words on the command line select cases by name.

#![allow(clippy::indexing_slicing, reason = "reading a JSON value by key does not panic")]

mod compare;
mod record;
mod script;

use std::future::Future;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use optipod_tests::Lab;
use serde_json::json;

use crate::script::{CASES, Case, Side};

/// How often a case is played again because the runtime of the real node failed.
const AGAIN: u32 = 2;

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
    let name = std::env::var("OPTIPOD_LAB").context(
        "OPTIPOD_LAB does not name a lab: run `cargo lab test --only node`, or `cargo lab up --nodes 1 --simulated 1 --simulated-cpu 2`",
    )?;
    let image = std::env::var("OPTIPOD_LOAD_IMAGE")
        .context("OPTIPOD_LOAD_IMAGE names no image: `cargo lab images --only load` prints it")?;
    let lab = Lab::attach(&name)?;
    let kubeconfig = Kubeconfig::read_from(lab.kubeconfig())?;
    lab.enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let [real, simulated] = nodes(&client).await?;
        let sides = [
            Side::new(&client, "conformance-real", &real, &image),
            Side::new(&client, "conformance-simulated", &simulated, &image),
        ];
        Box::pin(play(&sides)).await
    })
}

/// A real node and a simulated one of the same size.
async fn nodes(client: &Client) -> Result<[String; 2]> {
    let nodes: Api<Node> = Api::all(client.clone());
    let all = nodes.list(&ListParams::default()).await?.items;
    let simulated = |node: &&Node| node.labels().contains_key("optipod.io/simulated");
    let find = |wanted: bool| all.iter().find(|node| simulated(node) == wanted);
    let real = find(false).context("the lab has no real node")?;
    let simulated = find(true).context("the lab has no simulated node")?;
    let cpu = |node: &Node| {
        node.status.as_ref().and_then(|status| status.allocatable.as_ref()?.get("cpu").cloned())
    };
    ensure!(
        cpu(real) == cpu(simulated),
        "allocatable CPU differs ({:?} and {:?}): start the lab with --simulated-cpu",
        cpu(real),
        cpu(simulated)
    );
    Ok([real.name_any(), simulated.name_any()])
}

async fn play(sides: &[Side; 2]) -> Result<bool> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let asked = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let cases: Vec<_> = CASES.iter().filter(|case| asked(case.name)).collect();
    for side in sides {
        Box::pin(with_namespace(side, script::pull_image(side))).await?;
    }
    let begin = Instant::now();
    println!("\nrunning {} tests", cases.len());
    let (alone, together): (Vec<&Case>, Vec<&Case>) = cases.iter().copied().partition(|case| case.alone);
    let mut results = join_all(together.into_iter().map(|case| attempt(case, sides))).await;
    for case in alone {
        results.push(Box::pin(attempt(case, sides)).await);
    }
    let failures: Vec<_> = results.into_iter().flatten().collect();
    for (name, error) in &failures {
        println!("\n---- {name} ----\n{error:#}");
    }
    let result = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        cases.len() - failures.len(),
        failures.len(),
        CASES.len() - cases.len(),
        begin.elapsed().as_secs_f64()
    );
    Ok(failures.is_empty())
}

/// Plays a case on both nodes at once; its failure, if it fails.
async fn attempt(case: &Case, [real, simulated]: &[Side; 2]) -> Option<(&'static str, anyhow::Error)> {
    let start = Instant::now();
    let (real, simulated) = (real.of(case), simulated.of(case));
    let mut disturbances = 0;
    let result = loop {
        let played = tokio::join!(
            with_namespace(&real, script::play(case, &real)),
            with_namespace(&simulated, script::play(case, &simulated))
        );
        let (compared, disturbed) = match played {
            (Ok(real), Ok(simulated)) => (compare::compare(&real, &simulated), compare::disturbed(&real)),
            (Err(error), _) => (Err(error.context("on the real node")), None),
            (_, Err(error)) => (Err(error.context("on the simulated node")), None),
        };
        match disturbed.filter(|_| compared.is_err() && disturbances < AGAIN) {
            None => break compared,
            Some(text) => {
                disturbances += 1;
                println!("{}: the runtime of the real node failed, so it is played again: {text}", case.name);
            }
        }
    };
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    println!("test {} ... {verdict} ({:.1} s)", case.name, start.elapsed().as_secs_f64());
    if let Err(error) = &result {
        // the others may take minutes
        println!("{error:#}");
    }
    result.err().map(|error| (case.name, error))
}

/// Does that in an empty namespace, and removes it.
async fn with_namespace<T>(side: &Side, work: impl Future<Output = Result<T>>) -> Result<T> {
    let namespaces: Api<Namespace> = Api::all(side.client.clone());
    if namespaces.get_opt(&side.namespace).await?.is_some() {
        namespaces.delete(&side.namespace, &DeleteParams::default()).await?;
        record::until("the namespace of an earlier run is gone", || async {
            Ok(namespaces.get_opt(&side.namespace).await?.is_none().then_some(()))
        })
        .await?;
    }
    let namespace = json!({"metadata": {"name": side.namespace}});
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    let done = work.await;
    // what is left goes with the next run's first step
    drop(namespaces.delete(&side.namespace, &DeleteParams::default()).await);
    done
}
