//! The Kubernetes API of OptiPod: what users write, what they read back, and its way into the pure core.
//!
//! In: objects as the API server stores them. Out: [`v1alpha1`] types, and [`convert::to_policy`] for decisions.
//! A stored object may be anything (an older schema, a hand that went around validation): reading never panics, and
//! conversion checks again everything that the schema's rules check.

pub mod amount;
mod cel;
pub mod convert;
mod defaults;
pub mod labels;
pub mod lint;
pub mod recommendation;
pub mod selector;
pub mod sizing;
pub mod status;
pub mod update;
pub mod v1alpha1;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use v1alpha1::{OptimizationPolicy, Recommendation};

/// Every custom resource definition of this version, as the chart installs them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![OptimizationPolicy::crd(), Recommendation::crd()]
}

#[cfg(test)]
mod tests;
