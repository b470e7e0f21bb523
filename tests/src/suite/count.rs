//! Counts test cases from what `cargo test` prints.

use std::ops::AddAssign;

/// Test cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// That passed.
    pub passed: u64,
    /// That failed.
    pub failed: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Reads one line: `test result: ok. 12 passed; 0 failed; ...` as libtest writes it. `None` for every other line.
pub fn result_line(line: &str) -> Option<Count> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let number = |word: &str| {
        let part = numbers.split(';').find(|part| part.trim_end().ends_with(word))?;
        part.trim().split(' ').next()?.parse().ok()
    };
    Some(Count { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_of_libtest_are_counted_and_nothing_else() {
        let ok =
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.26s";
        assert_eq!(result_line(ok), Some(Count { passed: 12, failed: 0 }));
        let bad = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(result_line(bad), Some(Count { passed: 1, failed: 2 }));
        for other in ["", "test a::b ... ok", "test result: ok", "running 3 tests", "12 passed, 0 failed"] {
            assert_eq!(result_line(other), None, "{other}");
        }
    }
}
