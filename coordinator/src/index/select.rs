//! Which policy each workload follows.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use optipod_common::ident::WorkloadRef;
use optipod_common::policy::{Enforced, Policy};

use super::overrides::{PIN, PREFIX};
use super::policies::selects_namespace;
use super::{Index, OPTIMIZE, Overrides, POLICY, PodKey, PolicyChoice, PolicyEntry, PolicyKey};
use crate::api::convert::Selector;

/// A workload with the pods to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedWorkload {
    /// Which workload.
    pub workload: WorkloadRef,
    /// Its pods that have not finished and that the policy's `podSelector` matches; at least one.
    pub pods: Vec<PodKey>,
    /// Why it is left alone although a policy selects it.
    pub held: Option<Held>,
    /// Bounds of other policies that hold for it, too.
    pub enforced: Vec<Enforced>,
}

impl SelectedWorkload {
    /// What the policy that it follows says about this workload.
    pub fn policy<'a>(&self, policy: &'a Policy) -> Cow<'a, Policy> {
        if self.enforced.is_empty() {
            Cow::Borrowed(policy)
        } else {
            Cow::Owned(Policy { enforced: self.enforced.clone(), ..policy.clone() })
        }
    }
}

/// Why a workload is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// In one word.
    pub by: HeldBy,
    /// In words.
    pub message: String,
}

/// What holds a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// Its owner does not want it changed.
    OptedOut,
    /// An annotation cannot be read.
    AnnotationInvalid,
    /// The policy that an annotation chooses does not select it.
    PolicyNotFound,
    /// Its controller was not seen yet.
    OwnerUnknown,
}

/// Which policy each workload follows. Policies that are invalid or out of scope select nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// What each policy is in charge of, in order. Every policy that may select has an entry, an empty one too.
    pub by_policy: BTreeMap<PolicyKey, Vec<SelectedWorkload>>,
    /// What a policy selects too, but another one is in charge of, with the name of that one.
    pub conflicts: BTreeMap<PolicyKey, Vec<(WorkloadRef, PolicyKey)>>,
    /// What a policy enforces its bounds on while another one is in charge, with the name of that one. That is what such
    /// a policy is for, and no conflict.
    pub enforcing: BTreeMap<PolicyKey, Vec<(WorkloadRef, PolicyKey)>>,
    /// Policies that reach beyond what their namespace allows, with the reason.
    pub refused_scope: BTreeMap<PolicyKey, String>,
}

impl Selection {
    /// Some policy is in charge of the workload. O(policies x log of their workloads).
    pub fn has(&self, workload: &WorkloadRef) -> bool {
        let finds =
            |list: &Vec<SelectedWorkload>| list.binary_search_by(|s| s.workload.cmp(workload)).is_ok();
        self.by_policy.values().any(finds)
    }
}

/// A policy that may select.
struct Candidate<'a> {
    key: &'a PolicyKey,
    policy: &'a Policy,
    selector: &'a Selector,
}

impl Index {
    /// Assigns workloads to policies: the one with precedence takes it, the others get a conflict. A policy with mode
    /// `Disabled` takes part: with a high weight it keeps workloads out of the hands of a broader one.
    pub fn select(&self) -> Selection {
        self.select_among(self.workloads.iter().map(|(workload, pods)| (&**workload, pods)))
    }

    /// The same of some workloads: O(these x policies).
    pub fn select_some(&self, workloads: &BTreeSet<WorkloadRef>) -> Selection {
        self.select_among(workloads.iter().filter_map(|w| Some((w, self.workloads.get(w)?))))
    }

    fn select_among<'a>(
        &self,
        workloads: impl Iterator<Item = (&'a WorkloadRef, &'a BTreeSet<PodKey>)>,
    ) -> Selection {
        let mut selection = Selection::default();
        let mut entries: Vec<&PolicyEntry> = Vec::new();
        for entry in self.policies.values() {
            if let Some(reason) = &entry.refused_scope {
                selection.refused_scope.insert(entry.key.clone(), reason.clone());
            } else if entry.effective().is_some() {
                selection.by_policy.insert(entry.key.clone(), Vec::new());
                entries.push(entry);
            }
        }
        entries.sort_by_key(|entry| entry.precedence());
        let candidates: Vec<Candidate<'_>> = entries
            .into_iter()
            .filter_map(|entry| {
                let (policy, selector) = entry.effective()?;
                Some(Candidate { key: &entry.key, policy, selector })
            })
            .collect();
        for (workload, pods) in workloads {
            let matching: Vec<(&Candidate<'_>, Vec<PodKey>)> = candidates
                .iter()
                .filter_map(|candidate| Some((candidate, self.selected_pods(candidate, workload, pods)?)))
                .collect();
            self.assign(workload, pods, matching, &mut selection);
        }
        selection
    }

    /// Gives a workload to one of the policies that select it, which come in order of precedence.
    fn assign(
        &self,
        workload: &WorkloadRef,
        pods: &BTreeSet<PodKey>,
        matching: Vec<(&Candidate<'_>, Vec<PodKey>)>,
        selection: &mut Selection,
    ) {
        if matching.is_empty() {
            return;
        }
        let (choice, held) = match self.said(pods) {
            Ok(choice) => (choice, None),
            Err(held) => (None, Some(held)),
        };
        let chosen = choice.map(|choice| {
            let named = || matching.iter().position(|(c, _)| choice.is(c.key));
            let own =
                |(c, _): &(&Candidate<'_>, _)| choice.is(c.key) && c.key.namespace == workload.namespace;
            matching.iter().position(own).or_else(named).ok_or(choice)
        });
        let held = match &chosen {
            Some(Err(choice)) => Some(Held {
                by: HeldBy::PolicyNotFound,
                message: format!("annotation {POLICY}: policy {choice} does not select this workload"),
            }),
            _ => held,
        };
        let winner = chosen.and_then(Result::ok).unwrap_or(0);
        let enforced = matching
            .iter()
            .enumerate()
            .filter(|(i, (c, _))| *i != winner && c.selector.enforced)
            .map(|(_, (c, _))| Enforced { policy: c.key.to_string(), bounds: c.policy.bounds })
            .collect();
        let Some(winning) = matching.get(winner).map(|(c, _)| c.key) else { return };
        for (i, (candidate, pods)) in matching.into_iter().enumerate() {
            if i == winner {
                let selected = selection.by_policy.entry(candidate.key.clone()).or_default();
                selected.push(SelectedWorkload {
                    workload: workload.clone(),
                    pods,
                    held: held.clone(),
                    enforced: Vec::clone(&enforced),
                });
            } else {
                let lost = (workload.clone(), winning.clone());
                let Selection { conflicts, enforcing, .. } = &mut *selection;
                let told = if candidate.selector.enforced { enforcing } else { conflicts };
                told.entry(candidate.key.clone()).or_default().push(lost);
            }
        }
    }

    /// The policy that the owner of a workload chooses by annotation, or why the workload is left alone. Every pod is
    /// asked: without a controller that is watched each speaks for itself, and one that is to be left alone, or that
    /// nobody understands, speaks for all.
    fn said(&self, pods: &BTreeSet<PodKey>) -> Result<Option<&PolicyChoice>, Held> {
        let held = |by, message| Err(Held { by, message });
        let mut all = Vec::with_capacity(pods.len());
        for pod in pods {
            let Some(overrides) = self.overrides(pod) else {
                let message = format!("the controller of pod {} was not seen yet", pod.name);
                return held(HeldBy::OwnerUnknown, message);
            };
            all.push((pod, overrides));
        }
        let own = || pods.iter().filter_map(|pod| Some((pod, &self.pods.get(pod)?.overrides)));
        if all.iter().copied().chain(own()).any(|(_, overrides)| overrides.opted_out) {
            return held(HeldBy::OptedOut, format!("annotation {OPTIMIZE} is \"false\""));
        }
        // pods carry the annotations of their template: those that nobody would read are told instead
        let passed_over =
            own().zip(&all).find(|((_, own), (_, read))| own.says_more() && !std::ptr::eq(*own, *read));
        if let Some(((pod, _), _)) = passed_over {
            let message = format!(
                "annotations {PREFIX}... of pod {}: expected them on its owner, only {OPTIMIZE} is read on pods too",
                pod.name
            );
            return held(HeldBy::AnnotationInvalid, message);
        }
        if let Some(problem) = all.iter().find_map(|(_, overrides)| overrides.problem.as_ref()) {
            return held(HeldBy::AnnotationInvalid, problem.clone());
        }
        let mut pinned = all.iter().flat_map(|(_, overrides)| overrides.pinned_containers());
        let exists =
            |name: &&str| pods.iter().flat_map(|pod| self.container_names(pod)).any(|known| known == *name);
        if let Some(unknown) = pinned.find(|name| !exists(name)) {
            let known: BTreeSet<&str> = pods.iter().flat_map(|pod| self.container_names(pod)).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            let message =
                format!("annotation {PIN}: there is no container {unknown:?}: expected one of {known}");
            return held(HeldBy::AnnotationInvalid, message);
        }
        let Some((first, Overrides { policy, .. })) = all.first() else { return Ok(None) };
        if let Some((other, overrides)) = all.iter().find(|(_, overrides)| overrides.policy != *policy) {
            let says = |choice: &Option<PolicyChoice>| {
                choice.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
            };
            let message = format!(
                "annotation {POLICY}: pods of one workload must agree: {} says {}, {} says {}",
                first.name,
                says(policy),
                other.name,
                says(&overrides.policy)
            );
            return held(HeldBy::AnnotationInvalid, message);
        }
        Ok(policy.as_ref())
    }

    /// The pods of a workload that a policy selects; `None` when it does not select the workload.
    fn selected_pods(
        &self,
        candidate: &Candidate<'_>,
        workload: &WorkloadRef,
        pods: &BTreeSet<PodKey>,
    ) -> Option<Vec<PodKey>> {
        let Candidate { key, selector, .. } = candidate;
        let namespace_labels = self.namespaces.get(&workload.namespace);
        if !(selector.kinds.is_empty() || selector.kinds.contains(&workload.kind))
            || !selects_namespace(selector, &key.namespace, &workload.namespace, namespace_labels)
        {
            return None;
        }
        if let Some(wanted) = &selector.workloads {
            // labels are not known while the controller was not seen; pods that speak for themselves have to agree
            let matches = |pod| Some(wanted.matches(self.owners.labels(self.pods.get(pod)?)?));
            if !pods.iter().all(|pod| matches(pod) == Some(true)) {
                return None;
            }
        }
        let matches = |pod: &&PodKey| {
            let Some(wanted) = &selector.pods else { return true };
            self.pods.get(*pod).is_some_and(|record| wanted.matches(&record.labels))
        };
        let selected: Vec<PodKey> = pods.iter().filter(matches).cloned().collect();
        (!selected.is_empty()).then_some(selected)
    }
}
