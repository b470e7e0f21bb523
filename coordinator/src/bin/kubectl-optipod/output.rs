//! What goes to standard output and standard error.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use optipod_coordinator::api::lint::lint;
use serde_json::Value;

/// A policy that was made from something else.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The policy.
    pub policy: Value,
    /// What has no counterpart, and what is to be done by hand.
    pub remarks: Vec<String>,
}

/// Writes to standard output.
pub fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

/// Writes a line to standard error.
pub fn error(line: &str) {
    // there is nowhere left to say that this failed
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints policies as YAML documents, and remarks to standard error. A policy that would be refused is an error.
pub fn imported(imported: &[Imported]) -> Result<ExitCode> {
    if imported.is_empty() {
        bail!("no object of the expected kind was found");
    }
    for Imported { policy, remarks } in imported {
        let name = policy.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let findings = lint(policy);
        if !findings.violations.is_empty() {
            let all: Vec<_> = findings.violations.iter().map(ToString::to_string).collect();
            bail!("{name}: what was imported is not a valid policy: {}", all.join("; "));
        }
        print(&format!("---\n{}", serde_yaml_ng::to_string(policy)?))?;
        for remark in remarks {
            error(&format!("{name}: {remark}"));
        }
        for warning in findings.warnings {
            error(&format!("{name}: {warning}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
