//! Which policy each workload follows.

use std::collections::BTreeMap;

use optipod_common::ident::WorkloadRef;

use super::policies::selects_namespace;
use super::{Index, PodKey, PolicyEntry, PolicyKey};

/// A workload with the pods to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedWorkload {
    /// Which workload.
    pub workload: WorkloadRef,
    /// Its pods that have not finished; at least one.
    pub pods: Vec<PodKey>,
}

/// Which policy each workload follows. Policies that are invalid or out of scope select nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// What each policy is in charge of. Every policy that may select has an entry, an empty one too.
    pub by_policy: BTreeMap<PolicyKey, Vec<SelectedWorkload>>,
    /// What a policy selects too, but another one is in charge of, with the name of that one.
    pub conflicts: BTreeMap<PolicyKey, Vec<(WorkloadRef, PolicyKey)>>,
    /// Policies that reach beyond what their namespace allows, with the reason.
    pub refused_scope: BTreeMap<PolicyKey, String>,
}

impl Index {
    /// Assigns workloads to policies: the one with precedence takes it, the others get a conflict. A policy with mode
    /// `Disabled` takes part: with a high weight it keeps workloads out of the hands of a broader one.
    pub fn select(&self) -> Selection {
        let mut selection = Selection::default();
        let mut policies: Vec<&PolicyEntry> = Vec::new();
        for entry in self.policies.values() {
            if let Some(reason) = &entry.refused_scope {
                selection.refused_scope.insert(entry.key.clone(), reason.clone());
            } else if entry.effective().is_some() {
                selection.by_policy.insert(entry.key.clone(), Vec::new());
                policies.push(entry);
            }
        }
        policies.sort_by_key(|entry| entry.precedence());
        for (workload, pods) in &self.workloads {
            let labels =
                pods.first().and_then(|key| self.pods.get(key)).and_then(|pod| self.owners.labels(pod));
            let mut matching =
                policies.iter().filter(|entry| self.selects(entry, workload, labels)).map(|entry| &entry.key);
            let Some(winner) = matching.next() else { continue };
            for loser in matching {
                let lost = (WorkloadRef::clone(workload), winner.clone());
                selection.conflicts.entry(loser.clone()).or_default().push(lost);
            }
            let selected = SelectedWorkload {
                workload: WorkloadRef::clone(workload),
                pods: pods.iter().cloned().collect(),
            };
            selection.by_policy.entry(winner.clone()).or_default().push(selected);
        }
        selection
    }

    fn selects(
        &self,
        entry: &PolicyEntry,
        workload: &WorkloadRef,
        labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let Some(selector) = entry.effective() else { return false };
        let namespace_labels = self.namespaces.get(&workload.namespace);
        let labels_match = || match (&selector.workloads, labels) {
            (None, _) => true,
            (Some(wanted), Some(labels)) => wanted.matches(labels),
            // its controller was not seen yet
            (Some(_), None) => false,
        };
        (selector.kinds.is_empty() || selector.kinds.contains(&workload.kind))
            && selects_namespace(selector, &entry.key.namespace, &workload.namespace, namespace_labels)
            && labels_match()
    }
}
