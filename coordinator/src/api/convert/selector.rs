//! Which workloads a policy is for, and with which precedence.

use super::check::{Check, is_container_glob, is_dns_label, is_kind};
use crate::api::labels::LabelSelector;
use crate::api::v1alpha1 as api;

/// Which workloads a policy is for, and with which precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Precedence among policies that select the same workload.
    pub weight: u32,
    /// Namespaces by label; `None` = not given, an empty selector = all.
    pub namespaces: Option<LabelSelector>,
    /// Workloads by label.
    pub workloads: Option<LabelSelector>,
    /// Pods by label.
    pub pods: Option<LabelSelector>,
    /// Only these namespaces; `None` = not given.
    pub allow: Option<Vec<String>>,
    /// Never these namespaces.
    pub deny: Vec<String>,
    /// Only these kinds; empty = all.
    pub kinds: Vec<String>,
    /// Containers that are left alone; `*` stands for any characters.
    pub exclude_containers: Vec<String>,
    /// The bounds hold for workloads of other policies, too.
    pub enforced: bool,
}

impl Selector {
    /// Whether a container is left alone.
    pub fn excludes(&self, container: &str) -> bool {
        self.exclude_containers.iter().any(|glob| matches(glob, container))
    }

    /// How narrowly it selects. Compared from left to right: labels of workloads or pods, kinds, namespaces by name (or
    /// the policy's own), namespaces by label.
    pub fn specificity(&self) -> [bool; 4] {
        let given = |selector: &Option<LabelSelector>| selector.as_ref().is_some_and(|s| !s.is_empty());
        let own = self.allow.is_none() && self.namespaces.is_none();
        [
            given(&self.workloads) || given(&self.pods),
            !self.kinds.is_empty(),
            own || self.allow.is_some(),
            given(&self.namespaces),
        ]
    }
}

/// Whether a name is one that a pattern stands for. Each `*` takes as little as it can: with nothing but such wildcards
/// that finds a match if there is one.
fn matches(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    let rest = parts.try_fold(rest, |rest, part| rest.split_once(part).map(|(_, tail)| tail));
    rest.is_some_and(|rest| rest.ends_with(last))
}

/// Checks the selector of a specification.
pub fn selector(spec: &api::OptimizationPolicySpec, check: &mut Check) -> Selector {
    let selector = &spec.selector;
    check.labels("spec.selector.namespaceSelector", selector.namespace_selector.as_ref());
    check.labels("spec.selector.workloadSelector", selector.workload_selector.as_ref());
    check.labels("spec.selector.podSelector", selector.pod_selector.as_ref());
    let namespaces = selector.namespaces.clone().unwrap_or_default();
    if namespaces.allow.as_ref().is_some_and(Vec::is_empty) {
        check.wrong(
            "spec.selector.namespaces.allow",
            "must not be empty when given: leave it out to allow every namespace that the policy may reach",
        );
    }
    let what = "a namespace name: expected lower case letters, digits and '-', at most 63, beginning and ending with a letter or digit";
    let allow = namespaces.allow.as_deref().unwrap_or_default();
    check.names("spec.selector.namespaces.allow", allow, what, is_dns_label);
    check.names("spec.selector.namespaces.deny", &namespaces.deny, what, is_dns_label);
    let what = "a kind: expected UpperCamelCase, such as Deployment, StatefulSet, DaemonSet, CronJob, Rollout or Pod";
    check.names("spec.selector.workloadKinds", &selector.workload_kinds, what, is_kind);
    let what = "a container name: expected lower case letters, digits, '-', and '*' for any characters, such as istio-proxy or *-agent";
    check.names("spec.selector.excludeContainers", &selector.exclude_containers, what, is_container_glob);
    Selector {
        weight: check.integer("spec.weight", spec.weight, 0..=1_000_000),
        namespaces: selector.namespace_selector.clone(),
        workloads: selector.workload_selector.clone(),
        pods: selector.pod_selector.clone(),
        allow: namespaces.allow,
        deny: namespaces.deny,
        kinds: selector.workload_kinds.clone(),
        exclude_containers: selector.exclude_containers.clone(),
        enforced: spec.resource_bounds.enforced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (glob, yes, no) in [
            ("istio-proxy", &["istio-proxy"][..], &["istio-proxy2", "xistio-proxy", ""][..]),
            ("istio-*", &["istio-", "istio-proxy"], &["istio", "my-istio-x"]),
            ("*-agent", &["a-agent", "-agent"], &["agent", "a-agent-b"]),
            ("*", &["", "anything"], &[]),
            ("a*b*c", &["abc", "axbyc", "abbcc"], &["ab", "acb", "abcd"]),
            ("*ab*ab", &["abab", "xabyab"], &["ab", "aab"]),
        ] {
            assert!(yes.iter().all(|name| matches(glob, name)), "{glob} {yes:?}");
            assert!(no.iter().all(|name| !matches(glob, name)), "{glob} {no:?}");
        }
    }

    #[test]
    fn labels_are_more_specific_than_kinds_and_kinds_than_namespaces() {
        let labels = |key: &str| LabelSelector {
            match_labels: [(key.to_owned(), String::new())].into(),
            ..LabelSelector::default()
        };
        let all = Some(LabelSelector::default());
        let everything = Selector { namespaces: all.clone(), ..Selector::default() };
        let by_namespace_label = Selector { namespaces: Some(labels("n")), ..Selector::default() };
        let own = Selector::default();
        let kinds = Selector { kinds: vec!["Pod".into()], ..everything.clone() };
        let pods = Selector { pods: Some(labels("p")), ..everything.clone() };
        let both = Selector { kinds: vec!["Pod".into()], ..pods.clone() };
        let ladder = [&everything, &by_namespace_label, &own, &kinds, &pods, &both];
        assert!(ladder.is_sorted_by(|a, b| a.specificity() < b.specificity()), "{ladder:?}");
        let empty = Selector { workloads: all, ..everything.clone() };
        assert_eq!(empty.specificity(), everything.specificity(), "an empty selector selects no less");
    }
}
