//! Runs cases and says so in the words of `cargo test`, so that one reader understands both.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::cluster::Cluster;
use crate::space::Space;

/// One statement about the system.
pub struct Case {
    /// Module and function.
    pub name: &'static str,
    /// Shows that it holds, in a namespace of its own.
    pub run: fn(&Space<'_>) -> Result<()>,
}

/// A case from a function.
macro_rules! case {
    ($module:ident::$name:ident) => {
        $crate::runner::Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: $crate::$module::$name,
        }
    };
}
pub(crate) use case;

/// True when all hold.
pub fn run(cluster: &Cluster, together: &[&Case], alone: &[&Case], known: usize) -> bool {
    let begin = Instant::now();
    let all = together.len() + alone.len();
    println!("\nrunning {all} tests");
    let mut failures: Vec<(&str, String)> = thread::scope(|scope| {
        let runs: Vec<_> = together.iter().map(|case| scope.spawn(move || attempt(cluster, case))).collect();
        // a panic of a case is caught in the attempt
        runs.into_iter().filter_map(|run| run.join().ok().flatten()).collect()
    });
    failures.extend(alone.iter().filter_map(|case| attempt(cluster, case)));
    if !failures.is_empty() {
        println!("\nfailures:");
        for (name, error) in &failures {
            println!("\n---- {name} ----\n{error}");
        }
        println!("\nfailures:");
        for (name, _) in &failures {
            println!("    {name}");
        }
    }
    let failed = failures.len();
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        all - failed,
        known - all,
        begin.elapsed().as_secs_f64()
    );
    failed == 0
}

fn attempt(cluster: &Cluster, case: &Case) -> Option<(&'static str, String)> {
    let begin = Instant::now();
    let space = Space::of(cluster, case.name);
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(&space)))
        .unwrap_or_else(|_| Err(anyhow!("panicked, see above")));
    let word = if result.is_ok() { "ok" } else { "FAILED" };
    // as `--report-time` of libtest writes it
    println!("test {} ... {word} <{:.3}s>", case.name, begin.elapsed().as_secs_f64());
    if let Err(error) = result {
        // all of it comes at the end
        println!("    {}: {error:#}", case.name);
        return Some((case.name, format!("{error:#}\n\n{}", space.diagnosis())));
    }
    space.finish();
    None
}
