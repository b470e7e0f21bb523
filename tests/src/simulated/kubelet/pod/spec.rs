//! What a pod's object wants, and what its status shows, as amounts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceRequirements};
use optipod_common::resources::{Amounts, Resources, qos_class};

use crate::simulated::kubelet::resize::Desired;
use crate::simulated::kubelet::size::{self, Amount, Kind, Sizes, Slot};

/// Requests and limits of a container.
pub fn size_of(resources: Option<&ResourceRequirements>) -> Resources {
    let amounts =
        |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
            let text = |name: &str| list.and_then(|list| list.get(name)).map(|quantity| quantity.0.as_str());
            Amounts {
                cpu: text("cpu").and_then(|text| text.parse().ok()),
                memory: text("memory").and_then(|text| text.parse().ok()),
            }
        };
    Resources {
        requests: amounts(resources.and_then(|resources| resources.requests.as_ref())),
        limits: amounts(resources.and_then(|resources| resources.limits.as_ref())),
    }
}

/// Containers of the spec with their kind, init containers first.
pub fn containers_of(pod: &Pod) -> impl Iterator<Item = (&ContainerSpec, Kind)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let kind = |container: &ContainerSpec| {
        if container.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init }
    };
    let regular = spec.map(|spec| &spec.containers).into_iter().flatten();
    init.map(move |container| (container, kind(container)))
        .chain(regular.map(|container| (container, Kind::Regular)))
}

/// What the spec wants.
pub fn desired_of(pod: &Pod) -> Desired {
    let slots = containers_of(pod).map(|(container, kind)| Slot { name: container.name.clone(), kind });
    let sizes: Sizes = containers_of(pod)
        .map(|(container, _)| (container.name.clone(), size_of(container.resources.as_ref())))
        .collect();
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.clone());
    let overhead = ResourceRequirements { requests: overhead, ..ResourceRequirements::default() };
    Desired {
        slots: slots.collect(),
        qos: qos_class(sizes.values()),
        sizes,
        overhead: size_of(Some(&overhead)).requests.into(),
        generation: pod.metadata.generation.unwrap_or(1),
        priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
    }
}

/// CPU and memory requests that a status shows, as the kubelet adds them up.
pub fn reported(pod: &Pod, slots: &[Slot]) -> Amount {
    let status = pod.status.as_ref();
    let statuses = |status: &k8s_openapi::api::core::v1::PodStatus| {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        all.map(|status| {
            let allocated = ResourceRequirements {
                requests: status.allocated_resources.clone(),
                ..ResourceRequirements::default()
            };
            let allocated: Amount = size_of(Some(&allocated)).requests.into();
            let actual: Amount = size_of(status.resources.as_ref()).requests.into();
            (status.name.clone(), allocated.max(actual))
        })
        .collect::<BTreeMap<_, _>>()
    };
    let amounts = status.map(statuses).unwrap_or_default();
    size::total(slots, |name| amounts.get(name).copied().unwrap_or_default())
}
