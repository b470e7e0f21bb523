//! What a namespace may still ask for, and how many pods may still be disrupted.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::Amounts;

use super::{Delta, Index, Known, Listed, NodeLoad, PodKey};
use crate::api::v1alpha1::{LabelExpression, LabelOperator, LabelSelector};

/// Objects by namespace and name, each reduced to what is asked of it.
#[derive(Debug)]
pub(super) struct Named<T>(HashMap<String, BTreeMap<String, T>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Named<T> {
    fn of(&self, namespace: &str) -> impl Iterator<Item = &T> {
        self.0.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    fn put(&mut self, namespace: String, name: String, value: Option<T>) {
        if let Some(value) = value {
            self.0.entry(namespace).or_default().insert(name, value);
        } else if let Some(all) = self.0.get_mut(&namespace) {
            all.remove(&name);
            if all.is_empty() {
                self.0.remove(&namespace);
            }
        }
    }

    /// True when it was listed.
    fn apply<K: kube::ResourceExt>(&mut self, delta: Delta<K>, reduce: fn(&K) -> Option<T>) -> bool {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match delta {
            Delta::Apply(object) => {
                let (namespace, name) = key(&object);
                self.put(namespace, name, reduce(&object));
            }
            Delta::Delete(object) => {
                let (namespace, name) = key(&object);
                self.put(namespace, name, None);
            }
            Delta::Replace(objects) => {
                self.0.clear();
                for object in objects {
                    let (namespace, name) = key(&object);
                    self.put(namespace, name, reduce(&object));
                }
                return true;
            }
        }
        false
    }
}

/// What a `ResourceQuota` leaves of requests. One with scopes is about some pods, which its scopes alone do not tell: it
/// leaves out nothing here.
fn left(quota: &ResourceQuota) -> Option<Amounts> {
    fn amount<T: FromStr>(list: Option<&BTreeMap<String, Quantity>>, names: [&str; 2]) -> Option<T> {
        let list = list?;
        names.iter().find_map(|name| list.get(*name)?.0.parse().ok())
    }
    let spec = quota.spec.as_ref()?;
    if spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()) || spec.scope_selector.is_some() {
        return None;
    }
    let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
    let (cpu, memory) = (["requests.cpu", "cpu"], ["requests.memory", "memory"]);
    let hard = spec.hard.as_ref();
    Some(Amounts {
        cpu: amount(hard, cpu).map(|hard: MilliCpu| {
            MilliCpu(hard.0.saturating_sub(amount(used, cpu).unwrap_or(MilliCpu(0)).0))
        }),
        memory: amount(hard, memory)
            .map(|hard: Bytes| Bytes(hard.0.saturating_sub(amount(used, memory).unwrap_or(Bytes(0)).0))),
    })
}

/// Which pods a `PodDisruptionBudget` is about, and how many of them may be disrupted now.
#[derive(Debug)]
pub(super) struct Budget {
    selector: LabelSelector,
    allowed: u32,
}

/// A budget without a selector is about no pod. One that its controller has not counted allows nothing.
fn budget(object: &PodDisruptionBudget) -> Option<Budget> {
    let selector = selector(object.spec.as_ref()?.selector.as_ref()?);
    let allowed = object.status.as_ref().and_then(|status| status.disruptions_allowed);
    let allowed = allowed.and_then(|allowed| u32::try_from(allowed).ok()).unwrap_or(0);
    Some(Budget { selector, allowed })
}

fn selector(of: &meta::LabelSelector) -> LabelSelector {
    let expressions = of.match_expressions.iter().flatten().filter_map(|expression| {
        let operator = match expression.operator.as_str() {
            "In" => LabelOperator::In,
            "NotIn" => LabelOperator::NotIn,
            "Exists" => LabelOperator::Exists,
            "DoesNotExist" => LabelOperator::DoesNotExist,
            _ => return None,
        };
        let (key, values) = (expression.key.clone(), expression.values.clone().unwrap_or_default());
        Some(LabelExpression { key, operator, values })
    });
    LabelSelector {
        match_labels: of.match_labels.clone().unwrap_or_default(),
        match_expressions: expressions.collect(),
    }
}

impl Index {
    pub(super) fn apply_quotas(&mut self, delta: Delta<ResourceQuota>) {
        if self.quotas.apply(delta, left) {
            self.listed.insert(Listed::Quotas);
        }
    }

    pub(super) fn apply_budgets(&mut self, delta: Delta<PodDisruptionBudget>) {
        if self.budgets.apply(delta, budget) {
            self.listed.insert(Listed::Budgets);
        }
    }

    /// What the tightest quota of a namespace leaves of each resource; `None` where nothing is limited.
    pub fn quota_free(&self, namespace: &str) -> Option<Amounts> {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            a.into_iter().chain(b).min()
        }
        self.quotas
            .of(namespace)
            .copied()
            .reduce(|a, b| Amounts { cpu: least(a.cpu, b.cpu), memory: least(a.memory, b.memory) })
    }

    /// What pods of each namespace with a quota ask for less than their templates say. O(pods), where there are quotas.
    pub fn quota_owed(&self) -> BTreeMap<String, Amounts> {
        let limited = |namespace: &str| self.quotas.of(namespace).next().is_some();
        let mut owed: BTreeMap<String, NodeLoad> = BTreeMap::new();
        if self.quotas.0.is_empty() {
            return BTreeMap::new();
        }
        for (key, record) in
            self.pods.iter().filter(|(key, record)| !record.finished && limited(&key.namespace))
        {
            self.owe(record, Known::default(), owed.entry(key.namespace.clone()).or_default());
        }
        owed.into_iter().map(|(namespace, load)| (namespace, load.owed)).collect()
    }

    /// How many disruptions the budgets of a pod allow now; `None` where it has none.
    pub fn disruptions_allowed(&self, pod: &PodKey) -> Option<u32> {
        let labels = &self.pods.get(pod)?.labels;
        let budgets = self.budgets.of(&pod.namespace).filter(|budget| budget.selector.matches(labels));
        budgets.map(|budget| budget.allowed).min()
    }
}
