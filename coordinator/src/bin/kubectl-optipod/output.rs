//! What goes to standard output and standard error.

use std::borrow::Cow;
use std::io::{ErrorKind, Write as _};
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

/// Writes to standard output. A reader that has seen enough, such as `head`, is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(printable(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// A text that someone else wrote, for a message: not longer than a line.
pub fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{more}")
}

/// Writes a line to standard error.
pub fn error(line: &str) {
    // there is nowhere left to say that this failed
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// Lines without what a terminal takes for a command: names and messages come from files and from the cluster.
fn printable(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(commands) {
        let escaped = |c: char| if commands(c) { c.escape_default().to_string() } else { c.to_string() };
        Cow::Owned(text.chars().map(escaped).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// What became of some objects.
pub type Outcomes = Vec<Result<Imported>>;

/// Prints policies as YAML documents, then remarks and errors to standard error. All are judged before the first is
/// printed; one that failed does not keep the others back.
pub fn imported(outcomes: Outcomes) -> Result<ExitCode> {
    let judged: Vec<_> = outcomes.into_iter().map(|outcome| outcome.and_then(judged)).collect();
    for (policy, _) in judged.iter().flatten() {
        print(policy)?;
    }
    let mut code = ExitCode::SUCCESS;
    for outcome in &judged {
        match outcome {
            Ok((_, remarks)) => remarks.iter().for_each(|remark| error(remark)),
            Err(failed) => {
                code = ExitCode::FAILURE;
                error(&format!("error: {failed:#}"));
            }
        }
    }
    Ok(code)
}

/// The document, and everything that is said about it. A policy that would be refused is an error.
fn judged(imported: Imported) -> Result<(String, Vec<String>)> {
    let Imported { policy, remarks } = imported;
    let name = policy.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let findings = lint(&policy);
    if !findings.violations.is_empty() {
        let all: Vec<_> = findings.violations.iter().map(ToString::to_string).collect();
        bail!("{name}: what was imported is not a valid policy: {}", all.join("; "));
    }
    let warnings = findings.warnings.iter().map(ToString::to_string);
    let said = remarks.into_iter().chain(warnings).map(|remark| format!("{name}: {remark}")).collect();
    Ok((format!("---\n{}", serde_yaml_ng::to_string(&policy)?), said))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn terminals_are_not_commanded() {
        assert_eq!(printable("ä\tb\n"), "ä\tb\n");
        assert_eq!(printable("\u{1b}[2Ja\r\u{9b}b"), "\\u{1b}[2Ja\\r\\u{9b}b");
    }

    #[test]
    fn what_is_shown_of_a_text_fits_a_line() {
        assert_eq!(shown("a\n"), "\"a\\n\"");
        assert_eq!(shown(&"ä".repeat(61)), format!("\"{}\"...", "ä".repeat(60)));
    }

    #[test]
    fn what_the_api_server_would_refuse_is_not_printed() {
        let policy = |spec: Value| Imported {
            policy: json!({"apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy", "metadata": {"name": "p"}, "spec": spec}),
            remarks: vec!["a remark".to_owned()],
        };
        let (text, said) = judged(policy(json!({"mode": "Auto"}))).unwrap();
        assert!(text.starts_with("---\n") && text.contains("mode: Auto"), "{text}");
        assert!(said[0] == "p: a remark" && said[1].starts_with("p: spec.replacement: "), "{said:?}");
        let refused = judged(policy(json!({"weight": -1}))).unwrap_err().to_string();
        assert!(refused.starts_with("p: what was imported is not a valid policy: spec.weight"), "{refused}");
    }
}
