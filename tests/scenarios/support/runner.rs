//! Runs cases and says so in the words of `cargo test`, so that one reader understands both.

use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use optipod_tests::Lab;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

/// A case at work.
type Run = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One statement about the system.
pub struct Case<W: 'static> {
    /// Module and function.
    pub name: &'static str,
    /// Shows that it holds.
    pub run: fn(Arc<W>) -> Run,
}

/// A case from a function.
macro_rules! case {
    ($module:ident::$name:ident) => {
        $crate::runner::Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |world| Box::pin($crate::$module::$name(world)),
        }
    };
}
pub(crate) use case;

/// Runs the cases that the command line asks for in the lab that `OPTIPOD_LAB` names, those of `together` side by side
/// and first. A case fails after `patience`. `log` is the component that the lab logs this process under; `prepare`
/// makes what the cases share.
pub fn main<W, F>(
    log: &str,
    patience: Duration,
    prepare: impl FnOnce(Lab) -> F,
    together: &'static [Case<W>],
    alone: &'static [Case<W>],
) -> ExitCode
where
    W: Send + Sync + 'static,
    F: Future<Output = Result<Arc<W>>>,
{
    match begin(log, patience, prepare, together, alone) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin<W, F>(
    log: &str,
    patience: Duration,
    prepare: impl FnOnce(Lab) -> F,
    together: &'static [Case<W>],
    alone: &'static [Case<W>],
) -> Result<bool>
where
    W: Send + Sync + 'static,
    F: Future<Output = Result<Arc<W>>>,
{
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen = |cases: &'static [Case<W>]| -> Vec<&'static Case<W>> {
        cases.iter().filter(|case| selected(case, &wanted)).collect()
    };
    let (together, alone) = (chosen(together), chosen(alone));
    let name = std::env::var("OPTIPOD_LAB").context(
        "OPTIPOD_LAB does not name a lab: run `cargo lab test`, or `cargo lab up --control-plane-only --name NAME` first",
    )?;
    let lab = Lab::attach(&name)?;
    lab.enter()?;
    let log = lab.instance().log(log);
    let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let filter = EnvFilter::new(std::env::var("OPTIPOD_LOG").unwrap_or_else(|_| "info".to_owned()));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(file)).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let world = prepare(lab).await.context("cannot prepare the cluster")?;
        Ok(run(&world, patience, &together, &alone).await)
    })
}

/// Whether the words on the command line ask for it; all are asked for when there are none.
fn selected<W>(case: &Case<W>, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|word| case.name.contains(word.as_str()))
}

/// True when all hold.
async fn run<W: Send + Sync + 'static>(
    world: &Arc<W>,
    patience: Duration,
    together: &[&'static Case<W>],
    alone: &[&'static Case<W>],
) -> bool {
    let begin = Instant::now();
    println!("\nrunning {} tests", together.len() + alone.len());
    let mut failures = Vec::new();
    let mut tasks = JoinSet::new();
    for case in together {
        tasks.spawn(attempt(world.clone(), patience, case));
    }
    while let Some(ended) = tasks.join_next().await {
        failures.extend(ended.unwrap_or_else(|error| Some(("a case", anyhow!("{error}")))));
    }
    for case in alone {
        failures.extend(attempt(world.clone(), patience, case).await);
    }
    for (name, error) in &failures {
        println!("\n---- {name} ----\n{error:#}");
    }
    let (all, failed) = (together.len() + alone.len(), failures.len());
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        all - failed,
        begin.elapsed().as_secs_f64()
    );
    failed == 0
}

async fn attempt<W>(
    world: Arc<W>,
    patience: Duration,
    case: &'static Case<W>,
) -> Option<(&'static str, anyhow::Error)> {
    let begin = Instant::now();
    // on a task of its own, so that a panic is a failure of this case
    let running = tokio::spawn((case.run)(world));
    let abort = running.abort_handle();
    let ended = tokio::time::timeout(patience, running).await;
    // what goes on would disturb the others
    abort.abort();
    let result = match ended {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => Err(anyhow!("{panicked}")),
        Err(_) => Err(anyhow!("not finished after {} s", patience.as_secs())),
    };
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    println!("test {} ... {verdict} ({:.1} s)", case.name, begin.elapsed().as_secs_f64());
    result.err().map(|error| (case.name, error))
}
