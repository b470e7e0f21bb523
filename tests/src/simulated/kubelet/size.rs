//! Requests and limits of a pod as the kubelet adds them up.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::ops::Add;

use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{Amounts, Resources};

/// How long a container lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs to its end before the others start.
    Init,
    /// An init container that goes on (`restartPolicy: Always`).
    Sidecar,
    /// As long as the pod.
    Regular,
}

/// A container of a pod, in the order of the spec: init containers first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
}

/// Requests and limits by container.
pub type Sizes = BTreeMap<String, Resources>;

/// An amount of CPU and memory; what is not stated is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Millicores.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
}

impl Amount {
    /// The larger of both, resource by resource.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }

    /// True when some resource is smaller than in `other`.
    pub const fn shrinks(self, other: Self) -> bool {
        self.cpu < other.cpu || self.memory < other.memory
    }

    /// `self` without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(other.cpu), memory: self.memory.saturating_sub(other.memory) }
    }
}

impl From<Amounts> for Amount {
    fn from(Amounts { cpu, memory }: Amounts) -> Self {
        Self { cpu: cpu.map_or(0, |MilliCpu(cpu)| cpu), memory: memory.map_or(0, |Bytes(memory)| memory) }
    }
}

impl Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { cpu: self.cpu.saturating_add(other.cpu), memory: self.memory.saturating_add(other.memory) }
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

/// What a pod counts for, without overhead: everything that runs together, or what one init container needs beside
/// the sidecars that started before it, whichever is more (`component-helpers/resource`).
pub fn total(slots: &[Slot], amount: impl Fn(&str) -> Amount) -> Amount {
    let (mut sidecars, mut starting, mut running) = (Amount::default(), Amount::default(), Amount::default());
    for Slot { name, kind } in slots {
        let own = amount(name);
        match kind {
            Kind::Init => starting = starting.max(own + sidecars),
            Kind::Sidecar => {
                sidecars = sidecars + own;
                starting = starting.max(sidecars);
            }
            Kind::Regular => running = running + own,
        }
    }
    starting.max(running + sidecars)
}

/// Requests that a pod counts for.
pub fn requests(slots: &[Slot], sizes: &Sizes) -> Amount {
    total(slots, |name| sizes.get(name).map_or(Amount::default(), |size| size.requests.into()))
}

/// Which resources are stated in the limits of every container, and their sums: what the pod's cgroup gets.
pub fn pod_limits(slots: &[Slot], sizes: &Sizes) -> Amounts {
    let limits = |name: &str| sizes.get(name).map_or_else(Amounts::default, |size| size.limits);
    let sum = total(slots, |name| limits(name).into());
    let all = |stated: fn(&Amounts) -> bool| slots.iter().all(|slot| stated(&limits(&slot.name)));
    Amounts {
        cpu: all(|limits| limits.cpu.is_some_and(|cpu| cpu.0 > 0)).then_some(MilliCpu(sum.cpu)),
        memory: all(|limits| limits.memory.is_some_and(|memory| memory.0 > 0)).then_some(Bytes(sum.memory)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(kinds: &[Kind]) -> Vec<Slot> {
        kinds.iter().enumerate().map(|(i, &kind)| Slot { name: i.to_string(), kind }).collect()
    }

    #[test]
    fn init_containers_count_beside_the_sidecars_before_them_and_the_rest_together() {
        use Kind::{Init, Regular, Sidecar};

        let cpu = |values: &[u64], kinds: &[Kind]| {
            total(&slots(kinds), |name| Amount { cpu: values[name.parse::<usize>().unwrap()], memory: 0 }).cpu
        };
        assert_eq!(cpu(&[100, 200], &[Regular, Regular]), 300);
        assert_eq!(cpu(&[500, 200], &[Init, Regular]), 500);
        assert_eq!(cpu(&[100, 500, 200], &[Sidecar, Init, Regular]), 600);
        assert_eq!(cpu(&[500, 100, 200], &[Init, Sidecar, Regular]), 500);
        assert_eq!(cpu(&[300, 100, 250], &[Init, Sidecar, Regular]), 350);
    }

    #[test]
    fn pod_has_a_limit_only_when_every_container_has_one() {
        let limit = |cpu: Option<u64>, memory: Option<u64>| Resources {
            limits: Amounts { cpu: cpu.map(MilliCpu), memory: memory.map(Bytes) },
            ..Resources::default()
        };
        let sizes = Sizes::from([
            ("0".to_owned(), limit(Some(100), Some(10))),
            ("1".to_owned(), limit(None, Some(20))),
        ]);
        let limits = pod_limits(&slots(&[Kind::Regular, Kind::Regular]), &sizes);
        assert_eq!(limits, Amounts { cpu: None, memory: Some(Bytes(30)) });
    }
}
