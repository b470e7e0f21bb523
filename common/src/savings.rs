//! What right-sizing gave back, what is still missing, and what it costs.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::recommend::ContainerRecommendation;
use crate::resources::{Amounts, PodFacts};

/// CPU in millicores and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantities {
    /// Millicores.
    pub cpu: u128,
    /// Bytes.
    pub memory: u128,
}

impl AddAssign for Quantities {
    fn add_assign(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
    }
}

/// The account of one or many pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Savings {
    /// What running pods ask for.
    pub requested: Quantities,
    /// What they use on average.
    pub used: Quantities,
    /// What owners declare beyond what running pods ask for.
    pub reclaimed: Quantities,
    /// What is recommended beyond what running pods ask for.
    pub missing: Quantities,
    /// What running pods ask for beyond what is recommended.
    pub reclaimable: Quantities,
}

impl AddAssign for Savings {
    fn add_assign(&mut self, other: Self) {
        self.requested += other.requested;
        self.used += other.used;
        self.reclaimed += other.reclaimed;
        self.missing += other.missing;
        self.reclaimable += other.reclaimable;
    }
}

/// Prices of what is requested.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Of one core for one hour.
    pub core_hour: f64,
    /// Of one GiB for one hour.
    pub gibibyte_hour: f64,
}

impl Prices {
    /// Cost of one hour.
    #[allow(clippy::cast_precision_loss, reason = "money is rounded anyway")]
    pub fn per_hour(&self, of: Quantities) -> f64 {
        let gibibytes = of.memory as f64 / 1_073_741_824.0;
        of.cpu as f64 / 1000.0 * self.core_hour + gibibytes * self.gibibyte_hour
    }
}

/// The account of one pod; `unsized_use` is the mean use of its containers without a size. What its sandbox takes is requested as well. Of a DaemonSet nothing counts as given back: nodes
/// are made for the size of its template, and one that follows declares what the pods have.
pub fn savings(pod: &PodFacts, sizes: &[ContainerRecommendation], unsized_use: Amounts) -> Savings {
    let (requested, used) = (quantities(pod.overhead), quantities(unsized_use));
    let mut account = Savings { requested, used, ..Savings::default() };
    for container in &pod.containers {
        let has = quantities(container.desired.requests);
        account.requested += has;
        if !pod.daemon {
            account.reclaimed += beyond(container.declared.requests, container.desired.requests);
        }
        if let Some(size) = sizes.iter().find(|size| size.container == container.name) {
            let wanted = size.target().requests;
            account.missing += beyond(wanted, container.desired.requests);
            account.reclaimable += beyond(container.desired.requests, wanted);
            let mean = Amounts { cpu: Some(size.evidence.cpu_mean), memory: Some(size.evidence.memory_mean) };
            account.used += quantities(mean);
        }
    }
    account
}

fn quantities(amounts: Amounts) -> Quantities {
    Quantities {
        cpu: amounts.cpu.map_or(0, |cpu| cpu.0.into()),
        memory: amounts.memory.map_or(0, |memory| memory.0.into()),
    }
}

/// How much `more` is above `less`, where both are stated.
fn beyond(more: Amounts, less: Amounts) -> Quantities {
    let cpu = more.cpu.zip(less.cpu).map_or(0, |(more, less)| more.0.saturating_sub(less.0));
    let memory = more.memory.zip(less.memory).map_or(0, |(more, less)| more.0.saturating_sub(less.0));
    Quantities { cpu: cpu.into(), memory: memory.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::{pod, resources};
    use crate::quantity::MilliCpu;

    #[test]
    fn what_was_given_back_counts_but_for_pods_of_every_node() {
        let mut pod = pod(resources((200, 640), (0, 0)));
        pod.containers[0].declared = resources((1000, 512), (0, 0));
        pod.overhead = Amounts { cpu: Some(MilliCpu(50)), memory: None };
        let unsized_use = Amounts { cpu: Some(MilliCpu(70)), memory: None };
        let account = savings(&pod, &[], unsized_use);
        assert_eq!(account.used, Quantities { cpu: 70, memory: 0 });
        assert_eq!(account.requested, Quantities { cpu: 250, memory: 640 << 20 });
        assert_eq!(account.reclaimed, Quantities { cpu: 800, memory: 0 });
        pod.daemon = true;
        assert_eq!(savings(&pod, &[], unsized_use).reclaimed, Quantities::default());
    }

    #[test]
    fn prices_are_per_core_and_gibibyte() {
        let prices = Prices { core_hour: 0.04, gibibyte_hour: 0.005 };
        let cost = prices.per_hour(Quantities { cpu: 2500, memory: 4 << 30 });
        assert!((cost - 0.12).abs() < 1e-9, "{cost}");
    }
}
