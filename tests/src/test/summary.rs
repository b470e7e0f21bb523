//! Results, counted and shown.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::part::Part;

/// Lines of a failed target that are shown.
const SHOWN: usize = 60;

/// Test cases of a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cases {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl Cases {
    /// Adds up the `test result:` lines of cargo's output.
    pub fn parse(output: &str) -> Self {
        let number = |line: &str, what: &str| {
            let before = line.split(what).next()?;
            before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
        };
        let results = output.lines().filter(|line| line.starts_with("test result:"));
        results.fold(Self::default(), |sum, line| Self {
            passed: sum.passed + number(line, " passed;").unwrap_or(0),
            failed: sum.failed + number(line, " failed;").unwrap_or(0),
        })
    }

    /// What cargo's output says of failed tests: the reports between `failures:` and the result, target by target.
    pub fn failures(output: &str) -> String {
        let mut text = String::new();
        let mut report: Vec<&str> = Vec::new();
        for line in output.lines() {
            let starts = line.starts_with("---- ") || line == "failures:";
            if starts || !report.is_empty() {
                report.push(line);
            }
            if line.starts_with("test result: ") {
                for line in report.drain(..).take(SHOWN) {
                    let _ = writeln!(text, "    {line}"); // a String takes everything
                }
            }
        }
        text
    }
}

/// What became of a part.
#[derive(Debug)]
pub struct Outcome {
    part: Part,
    cases: Cases,
    took: Duration,
    error: Option<String>,
}

impl Outcome {
    /// Runs a part and takes the time.
    pub fn of(part: Part, run: impl FnOnce() -> Result<Cases>) -> Self {
        let begin = Instant::now();
        let (cases, error) = match run() {
            Ok(cases) => (cases, None),
            Err(error) => (Cases { passed: 0, failed: 1 }, Some(format!("{error:#}"))),
        };
        Self { part, cases, took: begin.elapsed(), error }
    }

    fn passed(&self) -> bool {
        self.cases.failed == 0
    }

    /// For the progress, with what went wrong.
    pub fn line(&self) -> String {
        let Self { part, cases: Cases { passed, failed }, took, error } = self;
        let word = if self.passed() { "passed" } else { "FAILED" };
        let mut text = format!("{}: {word} ({passed} passed, {failed} failed, {:.1} s)", part.name(), took.as_secs_f64());
        if let Some(error) = error {
            let _ = write!(text, "\n{error}"); // a String takes everything
        }
        text
    }
}

/// What became of all parts.
#[derive(Debug, Default)]
pub struct Summary(Vec<Outcome>);

impl Summary {
    /// One more.
    pub fn add(&mut self, outcome: Outcome) {
        self.0.push(outcome);
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.0.iter().all(Outcome::passed)
    }

    /// The table and the closing line.
    pub fn text(&self, seconds: f64) -> String {
        let mut text = format!("\n{:<12} {:<8} {:>7} {:>7} {:>10}\n", "part", "result", "passed", "failed", "time");
        let mut sum = Cases::default();
        for outcome in &self.0 {
            let Outcome { part, cases: Cases { passed, failed }, took, .. } = outcome;
            let word = if outcome.passed() { "passed" } else { "FAILED" };
            let seconds = took.as_secs_f64();
            // a String takes everything
            let _ = writeln!(text, "{:<12} {word:<8} {passed:>7} {failed:>7} {seconds:>8.1} s", part.name());
            sum = Cases { passed: sum.passed + passed, failed: sum.failed + failed };
        }
        let _ = writeln!(text, "{:<12} {:<8} {:>7} {:>7} {seconds:>8.1} s\n", "all", "", sum.passed, sum.failed);
        text + &format!("{} passed, {} failed", sum.passed, sum.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
test a ... ok
test b ... FAILED

failures:

---- b stdout ----
left: 1

failures:
    b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
test c ... ok
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn results_of_all_targets_add_up() {
        assert_eq!(Cases::parse(OUTPUT), Cases { passed: 13, failed: 1 });
        assert_eq!(Cases::parse("error: could not compile"), Cases::default());
    }

    #[test]
    fn reports_of_failed_tests_are_shown_and_passed_ones_are_not() {
        let text = Cases::failures(OUTPUT);
        assert!(text.contains("---- b stdout ----\n    left: 1\n"), "{text}");
        assert!(!text.contains("test c"), "{text}");
    }

    #[test]
    fn the_closing_line_counts_cases_and_parts_that_broke() {
        let mut summary = Summary::default();
        summary.add(Outcome::of(Part::Tests, || Ok(Cases { passed: 10, failed: 0 })));
        assert!(summary.passed());
        summary.add(Outcome::of(Part::Node, || anyhow::bail!("no /dev/net/tun")));
        assert!(!summary.passed());
        assert!(summary.text(1.0).ends_with("\n\n10 passed, 1 failed"), "{}", summary.text(1.0));
        assert!(summary.0[1].line().ends_with("\nno /dev/net/tun"), "{}", summary.0[1].line());
    }
}
