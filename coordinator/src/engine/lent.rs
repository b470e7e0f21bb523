//! What decreases take from a node and from a pool of nodes: weight of its Burstable pods, memory beyond what it has, and
//! what replacements would ask for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use optipod_common::decide::{Plan, RestartDebt};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{Amounts, NodeFacts, PodFacts, QosClass};
use optipod_common::time::Timestamp;

use crate::index::NodeLoad;

/// How far back shrinks count.
const HOUR: Duration = Duration::from_secs(3600);

/// Replacements may ask for what their pool has free, or for this share of it, in thousandths, if that is more: what was
/// given back is there to be used, and a pool in which half would come back at once cannot be rolled out.
const MOST_OWED: u64 = 500;

/// CPU that resizes of Burstable pods took from and gave to each node within the hour. It begins anew with a leader.
#[derive(Debug, Default)]
pub struct Shrunk(VecDeque<(Timestamp, String, i128)>);

impl Shrunk {
    /// The API server took a resize.
    pub fn record(&mut self, pod: &PodFacts, plan: &Plan, now: Timestamp) {
        self.0.retain(|(at, ..)| *at + HOUR > now);
        let node = pod.node.as_ref().filter(|_| pod.qos_class() == QosClass::Burstable);
        if let Some(node) = node {
            self.0.push_back((now, node.name.clone(), plan.request_growth().0));
        }
    }

    /// By how much the weight of a node's Burstable pods shrank within the hour, in thousandths. Zero where no Guaranteed pod
    /// has a weight of its own beside them: shares among the Burstable ones stay as they are asked for.
    pub fn share(&self, node: &str, load: &NodeLoad, now: Timestamp) -> u64 {
        if !load.guaranteed {
            return 0;
        }
        let recent = self.0.iter().filter(|(at, of, _)| *at + HOUR > now && of == node);
        let shrunk = -recent.map(|(.., growth)| growth).sum::<i128>();
        let shrunk = u64::try_from(shrunk).unwrap_or(0);
        (shrunk * 1000).checked_div(load.burstable.0 + shrunk).unwrap_or(0)
    }
}

/// What the last evaluation of whole policies found, for those of single workloads in between: at most an interval old.
#[derive(Debug, Default)]
pub struct Lent {
    debts: BTreeMap<String, RestartDebt>,
    /// Sum of the highest working sets of each node's pods.
    peaks: HashMap<String, Bytes>,
}

impl Lent {
    /// What was found.
    pub fn new(debts: BTreeMap<String, RestartDebt>, loads: &HashMap<String, NodeLoad>) -> Self {
        Self { debts, peaks: loads.iter().map(|(node, load)| (node.clone(), load.peaks)).collect() }
    }

    /// Adds the peaks to loads without them; returns the debts.
    pub fn complete(&self, loads: &mut HashMap<String, NodeLoad>) -> BTreeMap<String, RestartDebt> {
        for (node, load) in loads {
            load.peaks = self.peaks.get(node).copied().unwrap_or_default();
        }
        self.debts.clone()
    }
}

/// What a node's pods mean for decreases on it.
pub fn complete(node: &mut NodeFacts, load: &NodeLoad, shrunk: &Shrunk, now: Timestamp) {
    node.free = load.free(node.allocatable);
    node.admitting.clone_from(&load.admitting);
    node.overcommitted = node.allocatable.memory.is_some_and(|memory| load.peaks > memory);
    node.slice_shrunk = shrunk.share(&node.name, load, now);
}

/// What replacements of shrunk pods would ask for beyond what runs, by class of nodes.
pub fn debts<'a>(
    nodes: impl Iterator<Item = &'a NodeFacts>,
    loads: &HashMap<String, NodeLoad>,
) -> BTreeMap<String, RestartDebt> {
    let mut debts: BTreeMap<String, RestartDebt> = BTreeMap::new();
    for node in nodes {
        let none = NodeLoad::default();
        let load = loads.get(&node.name).unwrap_or(&none);
        // without what a node has nothing bounds the debt of its class
        let Amounts { cpu: Some(cpu), memory: Some(memory) } = node.allocatable else { continue };
        let free = load.free(node.allocatable).filter(|_| node.ready && !node.cordoned).unwrap_or_default();
        let most = |free: u64, all: u64| free.max(all.saturating_mul(MOST_OWED) / 1000);
        let of = Amounts {
            cpu: Some(MilliCpu(most(free.cpu.unwrap_or_default().0, cpu.0))),
            memory: Some(Bytes(most(free.memory.unwrap_or_default().0, memory.0))),
        };
        let none = RestartDebt { owed: Amounts::default(), bound: Amounts::default() };
        let debt = debts.entry(node.class.clone()).or_insert(none);
        debt.owed = plus(debt.owed, load.owed);
        debt.bound = plus(debt.bound, of);
    }
    debts
}

fn plus(a: Amounts, b: Amounts) -> Amounts {
    Amounts {
        cpu: Some(MilliCpu(a.cpu.unwrap_or_default().0.saturating_add(b.cpu.unwrap_or_default().0))),
        memory: Some(Bytes(a.memory.unwrap_or_default().0.saturating_add(b.memory.unwrap_or_default().0))),
    }
}

#[cfg(test)]
mod tests {
    use optipod_common::decide::{ContainerChange, Direction};
    use optipod_common::resources::{Resource, Resources};

    use super::*;

    fn cpu(cpu: u64) -> Amounts {
        Amounts { cpu: Some(MilliCpu(cpu)), memory: Some(Bytes(0)) }
    }

    fn node(name: &str) -> NodeFacts {
        NodeFacts { name: name.into(), ready: true, allocatable: cpu(4000), ..NodeFacts::default() }
    }

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000)
    }

    #[test]
    fn the_weight_of_burstable_pods_shrinks_for_an_hour() {
        let resources = |of| Resources { requests: cpu(of), limits: Amounts::default() };
        let change = |from, to| {
            let (from, to) = (resources(from), resources(to));
            let changes =
                vec![ContainerChange { container: "c".into(), sidecar: false, to, from, restarts: false }];
            Plan { direction: Direction::Decrease, changes }
        };
        let pod = |qos| PodFacts { qos: Some(qos), node: Some(node("n")), ..PodFacts::default() };
        let mut shrunk = Shrunk::default();
        shrunk.record(&pod(QosClass::Burstable), &change(1000, 400), now());
        shrunk.record(&pod(QosClass::Guaranteed), &change(1000, 100), now());
        shrunk.record(&pod(QosClass::Burstable), &change(100, 200), now());
        let load = NodeLoad { burstable: MilliCpu(1500), guaranteed: true, ..NodeLoad::default() };
        assert_eq!(shrunk.share("n", &load, now()), 250);
        assert_eq!(shrunk.share("other", &load, now()), 0);
        assert_eq!(shrunk.share("n", &NodeLoad { guaranteed: false, ..load.clone() }, now()), 0);
        assert_eq!(shrunk.share("n", &load, now() + HOUR), 0);
    }

    #[test]
    fn peaks_beyond_what_a_node_has_are_overcommitted() {
        let shown = |peaks| {
            let mut node = node("n");
            node.allocatable.memory = Some(Bytes::from_mebibytes(1000));
            let load = NodeLoad { peaks: Bytes::from_mebibytes(peaks), ..NodeLoad::default() };
            complete(&mut node, &load, &Shrunk::default(), now());
            node.overcommitted
        };
        assert_eq!((shown(1000), shown(1001)), (false, true));
    }

    #[test]
    fn a_pool_owes_what_it_has_free_or_half_of_it_at_most() {
        let debt = |owed, requests| {
            let load = NodeLoad { owed: cpu(owed), requests: cpu(requests), ..NodeLoad::default() };
            let loads = HashMap::from([("a".to_owned(), load)]);
            let nodes = [node("a"), NodeFacts { cordoned: true, ..node("b") }];
            debts(nodes.iter(), &loads)[""]
        };
        let given_back = debt(3500, 500);
        assert_eq!((given_back.owed.cpu, given_back.bound.cpu), (Some(MilliCpu(3500)), Some(MilliCpu(5500))));
        assert!(!given_back.is_full(Resource::Cpu));
        // all that was given back is used by others
        assert!(!debt(4000, 4000).is_full(Resource::Cpu) && debt(4001, 4000).is_full(Resource::Cpu));
    }
}
