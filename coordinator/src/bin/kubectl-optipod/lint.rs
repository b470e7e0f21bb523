//! `lint`: everything that is wrong with policies in files.

use std::fmt::Write as _;

use optipod_coordinator::api::lint::lint;

use crate::files::{Located, is};

/// What is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// For people.
    pub text: String,
    /// There is a policy, and every one is valid.
    pub valid: bool,
}

/// Looks at all policies among some objects.
pub fn report(objects: &[Located]) -> Report {
    let (mut text, mut policies, mut invalid) = (String::new(), 0, 0);
    for Located { place, object } in
        objects.iter().filter(|l| is(&l.object, "optipod.io", "OptimizationPolicy"))
    {
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
    }
    if policies == 0 {
        text.push_str("no object of kind OptimizationPolicy (optipod.io) was found\n");
    }
    Report { text, valid: policies > 0 && invalid == 0 }
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
        assert!(!report(&[]).valid, "a file without policies is a mistake");
    }
}
