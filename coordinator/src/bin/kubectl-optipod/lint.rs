//! `lint`: everything that is wrong with policies in files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use optipod_coordinator::api::lint::{is_meant, lint};
use serde_json::Value;

use crate::files::{self, Located};

/// Looks at all policies in some files. One that cannot be read does not keep the others from being looked at.
pub fn files(paths: &[PathBuf]) -> Report {
    let (mut objects, mut unreadable) = (Vec::new(), String::new());
    for path in paths {
        match files::objects(std::slice::from_ref(path)) {
            Ok(mut found) => objects.append(&mut found),
            // writing to a text cannot fail
            Err(error) => _ = writeln!(unreadable, "error: {error:#}"),
        }
    }
    let report =
        if objects.is_empty() && !unreadable.is_empty() { Report::default() } else { report(&objects) };
    let valid = report.valid && unreadable.is_empty();
    Report { text: report.text + &unreadable, valid, ..report }
}

/// What is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For people.
    pub text: String,
    /// Objects of other kinds.
    pub passed_over: Vec<String>,
    /// There is a policy, and every one is valid.
    pub valid: bool,
}

/// Looks at all policies among some objects.
fn report(objects: &[Located]) -> Report {
    let (mut text, mut policies, mut invalid) = (String::new(), 0, 0);
    let (meant, others): (Vec<_>, Vec<_>) = objects.iter().partition(|located| is_meant(&located.object));
    let mut names: BTreeMap<[Option<&str>; 2], &str> = BTreeMap::new();
    for Located { place, object } in meant {
        let findings = lint(object);
        policies += 1;
        invalid += usize::from(!findings.violations.is_empty());
        let verdict = match findings.strategy.filter(|_| findings.violations.is_empty()) {
            Some(strategy) => format!("valid, strategy {strategy:?}"),
            None => "invalid".to_owned(),
        };
        // writing to a text cannot fail
        let _ = writeln!(text, "{place}: {verdict}");
        for violation in &findings.violations {
            let _ = writeln!(text, "  error: {violation}");
        }
        for warning in &findings.warnings {
            let _ = writeln!(text, "  warning: {warning}");
        }
        let name = ["/metadata/namespace", "/metadata/name"]
            .map(|pointer| object.pointer(pointer).and_then(Value::as_str));
        if let Some(before) = names.insert(name, place).filter(|_| name[1].is_some()) {
            let _ = writeln!(
                text,
                "  warning: metadata.name: is that of {before}, too: the one that is applied last stays"
            );
        }
    }
    if policies == 0 {
        text.push_str("no object of kind OptimizationPolicy (optipod.io) was found\n");
    }
    let passed_over = others.into_iter().map(|located| located.place.clone()).collect();
    Report { text, passed_over, valid: policies > 0 && invalid == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::parse;

    #[test]
    fn every_policy_of_a_file_is_judged() {
        let text = "
apiVersion: optipod.io/v1alpha1
kind: OptimizationPolicy
metadata: {name: good}
spec: {mode: Auto}
---
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: other}}
  - apiVersion: optipod.io/v1alpha1
    kind: OptimizationPolicy
    metadata: {name: bad}
    spec: {metricsConfig: {percentile: P0, safetyFactor: -1}}
";
        let found = report(&parse(text, "policies.yaml").unwrap());
        assert!(!found.valid);
        let lines: Vec<_> = found.text.lines().collect();
        assert_eq!(lines[0], "policies.yaml: OptimizationPolicy/good: valid, strategy Adaptive");
        assert!(lines[1].starts_with("  warning: spec.replacement: replaced pods"), "{}", lines[1]);
        assert_eq!(lines[2], "policies.yaml: OptimizationPolicy/bad: invalid");
        assert!(
            lines[3].starts_with("  error: spec.metricsConfig.percentile: \"P0\" is not"),
            "{}",
            lines[3]
        );
        assert!(lines[4].starts_with("  error: spec.metricsConfig.safetyFactor: -1 is not"), "{}", lines[4]);
        assert_eq!(lines.len(), 5);
        assert_eq!(found.passed_over, ["policies.yaml: ConfigMap/other"]);
        assert!(!report(&[]).valid, "a file without policies is a mistake");
    }

    #[test]
    fn two_of_one_name_are_told() {
        let policy = |metadata: &str| {
            format!(
                "{{apiVersion: optipod.io/v1alpha1, kind: OptimizationPolicy, metadata: {metadata}, spec: {{}}}}\n"
            )
        };
        let told = |one: &str, other: &str| {
            let text = format!("{}---\n{}", policy(one), policy(other));
            let found = report(&parse(&text, "p").unwrap());
            found.text.contains("warning: metadata.name: is that of p: OptimizationPolicy/a, too")
        };
        assert!(told("{name: a}", "{name: a}"));
        assert!(told("{name: a, namespace: n}", "{name: a, namespace: n}"));
        assert!(!told("{name: a, namespace: n}", "{name: a, namespace: m}"));
        assert!(!told("{generateName: a-}", "{generateName: a-}"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_beside_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let good = at(
            "good.yaml",
            "{apiVersion: optipod.io/v1alpha1, kind: OptimizationPolicy, metadata: {name: good}, spec: {}}",
        );
        let broken = at("broken.yaml", "a: [1,");
        let missing = folder.path().join("missing.yaml");
        assert!(files(std::slice::from_ref(&good)).valid);
        let found = files(&[broken, good, missing]);
        assert!(!found.valid);
        for part in ["good: valid", "broken.yaml: did not find", "missing.yaml: No such file"] {
            assert!(found.text.contains(part), "{}", found.text);
        }
    }

    #[test]
    fn a_policy_whose_kind_or_group_is_misspelt_is_not_passed_over() {
        let good =
            "apiVersion: optipod.io/v1alpha1\nkind: OptimizationPolicy\nmetadata: {name: good}\nspec: {}\n";
        for (from, to, expected) in [
            (
                "OptimizationPolicy",
                "OptimisationPolicy",
                "  error: kind: \"OptimisationPolicy\" is not allowed: expected OptimizationPolicy",
            ),
            (
                "optipod.io/",
                "optipod/",
                "  error: apiVersion: \"optipod/v1alpha1\" is not allowed: expected optipod.io/v1alpha1",
            ),
            ("name: good", "nam: good", "  error: metadata.name: is required"),
        ] {
            let text = format!("{good}---\n{}", good.replace(from, to));
            let found = report(&parse(&text, "p").unwrap());
            assert!(!found.valid && found.text.contains(expected), "{}", found.text);
        }
    }
}
