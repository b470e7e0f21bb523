//! Policies: parsed once when they arrive, and held to the scope of their namespace.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use kube::Resource as _;
use kube::core::DeserializeGuard;
use optipod_common::policy::{Policy, Violation};
use optipod_common::time::Timestamp;

use super::{Delta, Index, Listed, PolicyKey};
use crate::api::OptimizationPolicy;
use crate::api::convert::{Selector, Warning, to_policy, warnings};
use crate::api::v1alpha1::OptimizationPolicyStatus;

/// A policy as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyEntry {
    /// Its name.
    pub key: PolicyKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// What was last reported on it.
    pub status: OptimizationPolicyStatus,
    /// What it says, or all that is wrong with it.
    pub parsed: Result<(Policy, Selector), Vec<Violation>>,
    /// The stored object cannot be read at all: why. `parsed` is an error then.
    pub malformed: Option<String>,
    /// What it says and does not do, or does otherwise than one may think.
    pub warnings: Vec<Warning>,
    /// The policy reaches beyond what its namespace allows: condition `Ready=False`, reason `ScopeRefused`.
    pub refused_scope: Option<String>,
}

impl PolicyEntry {
    fn new(object: DeserializeGuard<OptimizationPolicy>, scope: &Scope) -> Self {
        let key = key_of(&object);
        let meta = object.meta().clone();
        let (status, parsed, warnings, malformed) = match object.0 {
            Ok(policy) => {
                let warnings = warnings(&policy.spec);
                (policy.status.unwrap_or_default(), to_policy(&policy.spec), warnings, None)
            }
            Err(invalid) => {
                let violations = vec![Violation::new("spec", format!("cannot be read: {}", invalid.error))];
                (OptimizationPolicyStatus::default(), Err(violations), Vec::new(), Some(invalid.error))
            }
        };
        let mut warnings = warnings;
        warnings
            .extend(parsed.as_ref().ok().and_then(|(_, selector)| scope.warning(&key.namespace, selector)));
        let refused_scope =
            parsed.as_ref().ok().and_then(|(_, selector)| scope.refusal(&key.namespace, selector));
        Self {
            key,
            uid: meta.uid.unwrap_or_default(),
            resource_version: meta.resource_version.unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.map(|t| Timestamp::from_unix_micros(t.0.as_microsecond())),
            terminating: meta.deletion_timestamp.is_some(),
            status,
            parsed,
            malformed,
            warnings,
            refused_scope,
        }
    }

    /// What the policy says and selects, when it may select at all.
    pub(super) fn effective(&self) -> Option<&(Policy, Selector)> {
        self.parsed.as_ref().ok().filter(|_| self.refused_scope.is_none())
    }

    /// Policies sort by precedence: the highest weight, then the most specific selector, then the oldest, then the name.
    pub(super) fn precedence(&self) -> impl Ord + use<'_> {
        let selector = self.parsed.as_ref().ok().map(|(_, selector)| selector);
        let weight = selector.map_or(0, |s| s.weight);
        let specific = selector.map(Selector::specificity);
        let age = self.created.map_or((1, None), |at| (0, Some(at)));
        (Reverse(weight), Reverse(specific), age, &self.key)
    }
}

/// Where policies may reach beyond their own namespace.
#[derive(Debug)]
pub struct Scope {
    cluster: Vec<String>,
}

impl Scope {
    pub fn new(own_namespace: String, mut cluster: Vec<String>) -> Self {
        cluster.push(own_namespace);
        Self { cluster }
    }

    /// What a selector that reaches only what is never touched amounts to.
    fn warning(&self, namespace: &str, selector: &Selector) -> Option<Warning> {
        let own = self.cluster.last().map(String::as_str);
        let protected = |name: &str| name == "kube-system" || Some(name) == own;
        let reached = match (&selector.allow, &selector.namespaces) {
            (Some(allow), _) => !allow.is_empty() && allow.iter().all(|name| protected(name)),
            (None, None) => protected(namespace),
            (None, Some(_)) => false,
        };
        reached.then(|| Warning {
            condition: "ProtectedNamespaceOnly",
            reason: "ProtectedNamespace",
            field: "spec.selector",
            message: "the policy covers protected namespaces only, where nothing is ever resized: give it a namespaceSelector or namespaces.allow, or create it in the namespace that it is for".to_owned(),
        })
    }

    /// Why a policy of this namespace may not have this selector.
    fn refusal(&self, namespace: &str, selector: &Selector) -> Option<String> {
        if self.cluster.iter().any(|name| name == namespace) {
            return None;
        }
        let (what, beyond) = match &selector.allow {
            Some(allow) => ("spec.selector.namespaces.allow", allow.iter().any(|name| name != namespace)),
            None => ("spec.selector.namespaceSelector", selector.namespaces.is_some()),
        };
        let where_it_may =
            || self.cluster.iter().rev().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        if beyond {
            Some(format!(
                "{what} reaches beyond namespace {namespace:?}: policies may select workloads of other namespaces only in {}; leave it out here, or create the policy there",
                where_it_may()
            ))
        } else if selector.enforced {
            Some(format!(
                "spec.resourceBounds.enforced reaches beyond this policy: policies may bind others only in {}; leave it out here, or create the policy there",
                where_it_may()
            ))
        } else {
            None
        }
    }
}

/// Whether a namespace is one that a policy is for.
pub fn selects_namespace(
    selector: &Selector,
    policy_namespace: &str,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    if selector.deny.iter().any(|name| name == namespace) {
        return false;
    }
    if selector.allow.is_none() && selector.namespaces.is_none() {
        return namespace == policy_namespace;
    }
    let allowed = selector.allow.as_ref().is_none_or(|allow| allow.iter().any(|name| name == namespace));
    // a namespace that was not seen yet has labels that nobody knows: `NotIn` must not match them
    allowed && selector.namespaces.as_ref().is_none_or(|s| labels.is_some_and(|labels| s.matches(labels)))
}

fn key_of(object: &DeserializeGuard<OptimizationPolicy>) -> PolicyKey {
    let meta = object.meta();
    PolicyKey {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

impl Index {
    pub(super) fn apply_policies(&mut self, delta: Delta<DeserializeGuard<OptimizationPolicy>>) {
        match delta {
            Delta::Apply(object) => {
                let entry = PolicyEntry::new(*object, &self.scope);
                self.policies.insert(entry.key.clone(), entry);
            }
            Delta::Delete(object) => {
                self.policies.remove(&key_of(&object));
            }
            Delta::Replace(objects) => {
                let entries = objects.into_iter().map(|object| PolicyEntry::new(object, &self.scope));
                self.policies = entries.map(|entry| (entry.key.clone(), entry)).collect();
                self.listed.insert(Listed::Policies);
            }
        }
    }
}
