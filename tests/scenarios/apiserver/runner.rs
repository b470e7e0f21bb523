//! Runs cases and says so in the words of `cargo test`, so that one reader understands both.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;

use crate::world::World;

/// Nothing here takes longer, also on a machine under load.
const PATIENCE: Duration = Duration::from_secs(180);

/// A case at work.
type Run = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One statement about the system.
pub struct Case {
    /// Module and function.
    pub name: &'static str,
    /// Shows that it holds.
    pub run: fn(Arc<World>) -> Run,
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

/// Whether the words on the command line ask for it; all are asked for when there are none.
pub fn selected(case: &Case, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|word| case.name.contains(word.as_str()))
}

/// True when all hold.
pub async fn run(world: &Arc<World>, together: &[&'static Case], alone: &[&'static Case]) -> bool {
    let begin = Instant::now();
    println!("\nrunning {} tests", together.len() + alone.len());
    let mut failures = Vec::new();
    let mut tasks = JoinSet::new();
    for case in together {
        tasks.spawn(attempt(world.clone(), case));
    }
    while let Some(ended) = tasks.join_next().await {
        failures.extend(ended.unwrap_or_else(|error| Some(("a case", anyhow!("{error}")))));
    }
    for case in alone {
        failures.extend(attempt(world.clone(), case).await);
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

async fn attempt(world: Arc<World>, case: &'static Case) -> Option<(&'static str, anyhow::Error)> {
    let begin = Instant::now();
    // on a task of its own, so that a panic is a failure of this case
    let ended = tokio::time::timeout(PATIENCE, tokio::spawn((case.run)(world))).await;
    let result = match ended {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => Err(anyhow!("{panicked}")),
        Err(_) => Err(anyhow!("not finished after {} s", PATIENCE.as_secs())),
    };
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    println!("test {} ... {verdict} ({:.1} s)", case.name, begin.elapsed().as_secs_f64());
    result.err().map(|error| (case.name, error))
}
