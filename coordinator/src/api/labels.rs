//! Label selectors: the type that users write, and what it means.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cel::{self, rule};

/// A label selector as everywhere in Kubernetes: all of it must hold. An empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be present with exactly this value. At most 64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = cel::label_value(), "x-kubernetes-validations" = [cel::label_keys()]))]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels, all of which must hold. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub match_expressions: Vec<LabelExpression>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0", "values must be given for the operators In and NotIn, and must not be given for Exists and DoesNotExist")]))]
pub struct LabelExpression {
    /// Key of the label.
    #[schemars(length(min = 1, max = 317), extend("x-kubernetes-validations" = [cel::label_key()]))]
    pub key: String,
    /// How the label is compared.
    pub operator: LabelOperator,
    /// Values to compare with: at least one for `In` and `NotIn`, none for `Exists` and `DoesNotExist`. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)), extend("x-kubernetes-validations" = [cel::label_values()]))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// The label is present with one of the values.
    In,
    /// The label is absent, or has none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl LabelSelector {
    /// True when it matches everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is selected; the semantics of apimachinery's `LabelSelectorAsSelector`.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|v| self.values.contains(v)),
            LabelOperator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn expression(operator: LabelOperator, values: &[&str]) -> LabelSelector {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        let expression = LabelExpression { key: "a".into(), operator, values };
        LabelSelector { match_expressions: vec![expression], ..LabelSelector::default() }
    }

    #[test]
    fn operators_mean_what_kubernetes_says() {
        let (one, two, none) = (labels(&[("a", "1")]), labels(&[("a", "2")]), labels(&[("b", "1")]));
        for (operator, values, expected) in [
            (LabelOperator::In, &["1", "3"][..], [true, false, false]),
            (LabelOperator::NotIn, &["1", "3"], [false, true, true]),
            (LabelOperator::Exists, &[], [true, true, false]),
            (LabelOperator::DoesNotExist, &[], [false, false, true]),
        ] {
            let selector = expression(operator, values);
            assert_eq!([&one, &two, &none].map(|l| selector.matches(l)), expected, "{operator:?}");
        }
    }

    #[test]
    fn everything_must_hold() {
        let mut selector = expression(LabelOperator::Exists, &[]);
        selector.match_labels = labels(&[("b", "1")]);
        assert!(selector.matches(&labels(&[("a", ""), ("b", "1"), ("c", "x")])));
        assert!(!selector.matches(&labels(&[("a", ""), ("b", "2")])));
        assert!(!selector.matches(&labels(&[("b", "1")])));
        assert!(LabelSelector::default().matches(&labels(&[])) && LabelSelector::default().is_empty());
    }
}
