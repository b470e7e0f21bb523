//! What decreases take from a node and from a pool of nodes: weight of its Burstable pods, memory beyond what it has, and
//! what replacements would ask for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use optipod_common::decide::{Plan, RestartDebt};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::resources::{Amounts, NodeFacts, PodFacts, QosClass, Resources};
use optipod_common::time::Timestamp;

use crate::index::NodeLoad;

/// How far back shrinks count.
const HOUR: Duration = Duration::from_secs(3600);

/// Replacements may ask for what their pool has free, or for this share of it, in thousandths, if that is more: what was
/// given back is there to be used, and a pool in which half would come back at once cannot be rolled out.
const MOST_OWED: u64 = 500;

/// CPU that resizes of Burstable pods took from and gave to each node within the hour. A decrease counts from when it is
/// asked for, unless it is refused, an increase from when it is taken. It begins anew with a leader.
#[derive(Debug, Default)]
pub struct Shrunk {
    /// Decreases without an answer: node and growth in millicores, by uid of the pod.
    asked: HashMap<String, (String, i128)>,
    taken: VecDeque<(Timestamp, String, i128)>,
}

impl Shrunk {
    /// A resize is handed to the applier.
    pub fn asked(&mut self, pod: &PodFacts, plan: &Plan) {
        if let Some((node, growth)) = growth_of(pod, plan).filter(|(_, growth)| *growth < 0) {
            self.asked.insert(pod.uid.clone(), (node.to_owned(), growth));
        }
    }

    /// The API server took it.
    pub fn accepted(&mut self, pod: &PodFacts, plan: &Plan, now: Timestamp) {
        self.asked.remove(&pod.uid);
        self.taken.retain(|(at, ..)| *at + HOUR > now);
        if let Some((node, growth)) = growth_of(pod, plan) {
            self.taken.push_back((now, node.to_owned(), growth));
        }
    }

    /// The API server did not.
    pub fn refused(&mut self, uid: &str) {
        self.asked.remove(uid);
    }

    /// By how much requests shrank, in millicores, by node; negative where they grew.
    pub fn by_node(&self, now: Timestamp) -> HashMap<&str, i128> {
        let taken =
            self.taken.iter().filter(|(at, ..)| *at + HOUR > now).map(|(_, node, growth)| (node, growth));
        let asked = self.asked.values().map(|(node, growth)| (node, growth));
        let mut shrunk: HashMap<&str, i128> = HashMap::new();
        for (node, growth) in taken.chain(asked) {
            *shrunk.entry(node).or_default() -= growth;
        }
        shrunk
    }
}

/// Where a Burstable pod is, and by how many millicores its requests grow.
fn growth_of<'a>(pod: &'a PodFacts, plan: &Plan) -> Option<(&'a str, i128)> {
    let node = pod.node.as_ref().filter(|_| pod.qos_class() == QosClass::Burstable)?;
    Some((&node.name, plan.request_growth().0))
}

/// What the last evaluation found, for those of single workloads after it.
#[derive(Debug, Default)]
pub struct Lent {
    /// Found for whole policies, and what was decided since.
    debts: BTreeMap<String, RestartDebt>,
    /// Sum of the highest working sets of each node's pods; at most an interval old.
    peaks: HashMap<String, Bytes>,
}

impl Lent {
    /// What was found, with what was decided.
    pub fn new(Standing { loads, debts, .. }: Standing) -> Self {
        Self { debts, peaks: loads.into_iter().map(|(node, load)| (node, load.peaks)).collect() }
    }

    /// What single workloads are decided on: loads of their nodes that lack the peaks.
    pub fn standing(
        &self,
        mut loads: HashMap<String, NodeLoad>,
        shrunk: &Shrunk,
        now: Timestamp,
    ) -> Standing {
        for (node, load) in &mut loads {
            load.peaks = self.peaks.get(node).copied().unwrap_or_default();
        }
        Standing::new(loads, self.debts.clone(), shrunk, now)
    }

    /// What was decided for single workloads counts until whole policies are evaluated.
    pub fn keep(&mut self, standing: Standing) {
        self.debts = standing.debts;
    }

    /// A resize was refused: what it would have owed is not owed.
    pub fn refused(&mut self, pod: &PodFacts, plan: &Plan) {
        let Some(debt) = pod.node.as_ref().and_then(|node| self.debts.get_mut(&node.class)) else { return };
        let not = owed_by(pod, plan);
        debt.owed = Amounts {
            cpu: debt.owed.cpu.map(|cpu| MilliCpu(cpu.0.saturating_sub(not.cpu.unwrap_or_default().0))),
            memory: debt.owed.memory.map(|m| Bytes(m.0.saturating_sub(not.memory.unwrap_or_default().0))),
        };
    }
}

/// Nodes and pools of one turn. What is decided for one pod counts for those after it, seen or not.
#[derive(Debug)]
pub struct Standing {
    loads: HashMap<String, NodeLoad>,
    debts: BTreeMap<String, RestartDebt>,
    /// By how much requests of a node's Burstable pods shrank, in millicores.
    shrunk: HashMap<String, i128>,
}

impl Standing {
    /// With what the index says of these nodes, what their pools owe, and what was taken from them.
    pub fn new(
        loads: HashMap<String, NodeLoad>,
        debts: BTreeMap<String, RestartDebt>,
        shrunk: &Shrunk,
        now: Timestamp,
    ) -> Self {
        let shrunk = shrunk.by_node(now);
        let shrunk = shrunk.into_iter().filter(|(node, _)| loads.contains_key(*node));
        let shrunk = shrunk.map(|(node, by)| (node.to_owned(), by)).collect();
        Self { loads, debts, shrunk }
    }

    /// What a node's pods mean for the next decision on it.
    pub fn complete(&self, node: &mut NodeFacts) {
        let Some(load) = self.loads.get(&node.name) else { return };
        node.free = load.free(node.allocatable);
        node.admitting.clone_from(&load.admitting);
        node.overcommitted = node.allocatable.memory.is_some_and(|memory| load.peaks > memory);
        node.slice_shrunk = self.slice_shrunk(&node.name, load);
    }

    /// By how much the weight of a node's Burstable pods shrank within the hour, in thousandths. Zero where no Guaranteed pod
    /// has a weight of its own beside them: shares among the Burstable ones stay as they are asked for.
    fn slice_shrunk(&self, node: &str, load: &NodeLoad) -> u64 {
        let shrunk = self.shrunk.get(node).filter(|_| load.guaranteed).copied().unwrap_or(0);
        let shrunk = u64::try_from(shrunk).unwrap_or(0);
        shrunk.saturating_mul(1000).checked_div(load.burstable.0.saturating_add(shrunk)).unwrap_or(0)
    }

    /// What replacements in a pool of nodes would ask for.
    pub fn debt(&self, class: &str) -> Option<RestartDebt> {
        self.debts.get(class).copied()
    }

    /// A resize was decided.
    pub fn decided(&mut self, pod: &PodFacts, plan: &Plan) {
        let Some(node) = &pod.node else { return };
        let (cpu, memory) = plan.request_growth();
        let grown = |growth: i128| u64::try_from(growth).unwrap_or(0);
        if let Some(load) = self.loads.get_mut(&node.name) {
            // what falls is there when it has fallen
            load.take(grown(cpu), grown(memory));
        }
        if let Some((name, growth)) = growth_of(pod, plan).filter(|(_, growth)| *growth < 0) {
            *self.shrunk.entry(name.to_owned()).or_default() -= growth;
            if let Some(load) = self.loads.get_mut(name) {
                load.burstable.0 = load.burstable.0.saturating_sub(grown(-growth));
            }
        }
        if let Some(debt) = self.debts.get_mut(&node.class) {
            debt.owed = plus(debt.owed, owed_by(pod, plan));
        }
    }
}

/// By how much more replacements would ask for than what runs, once a plan is done.
fn owed_by(pod: &PodFacts, plan: &Plan) -> Amounts {
    let mut owed = Amounts::default();
    for change in &plan.changes {
        let Some(container) = pod.containers.iter().find(|c| c.name == change.container) else { continue };
        let below = |of: Resources| {
            let below = |declared: Option<u64>, of: Option<u64>| {
                declared.zip(of).map_or(0, |(d, of)| d.saturating_sub(of))
            };
            let (declared, of) = (container.declared.requests, of.requests);
            (
                below(declared.cpu.map(|c| c.0), of.cpu.map(|c| c.0)),
                below(declared.memory.map(|m| m.0), of.memory.map(|m| m.0)),
            )
        };
        let (after, before) = (below(change.to), below(change.from));
        let more = Amounts {
            cpu: Some(MilliCpu(after.0.saturating_sub(before.0))),
            memory: Some(Bytes(after.1.saturating_sub(before.1))),
        };
        owed = plus(owed, more);
    }
    owed
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
    use optipod_common::resources::{ContainerFacts, Resource};

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

    fn change(from: u64, to: u64) -> Plan {
        let resources = |of| Resources { requests: cpu(of), limits: Amounts::default() };
        let (from, to) = (resources(from), resources(to));
        let changes =
            vec![ContainerChange { container: "c".into(), sidecar: false, to, from, restarts: false }];
        Plan { direction: Direction::Decrease, changes }
    }

    fn pod(uid: &str, qos: QosClass) -> PodFacts {
        let declared = Resources { requests: cpu(1000), limits: Amounts::default() };
        let container = ContainerFacts { name: "c".into(), declared, ..ContainerFacts::default() };
        let (uid, node) = (uid.to_owned(), Some(node("n")));
        PodFacts { uid, qos: Some(qos), node, containers: vec![container], ..PodFacts::default() }
    }

    fn standing(load: NodeLoad, shrunk: &Shrunk, now: Timestamp) -> Standing {
        let loads = HashMap::from([("n".to_owned(), load)]);
        let debts = debts([node("n")].iter(), &loads);
        Standing::new(loads, debts, shrunk, now)
    }

    fn shrunk_by(standing: &Standing, name: &str) -> u64 {
        let mut node = node(name);
        standing.complete(&mut node);
        node.slice_shrunk
    }

    #[test]
    fn the_weight_of_burstable_pods_shrinks_for_an_hour() {
        let mut shrunk = Shrunk::default();
        shrunk.accepted(&pod("a", QosClass::Burstable), &change(1000, 400), now());
        shrunk.accepted(&pod("b", QosClass::Guaranteed), &change(1000, 100), now());
        shrunk.accepted(&pod("c", QosClass::Burstable), &change(100, 200), now());
        let load = NodeLoad { burstable: MilliCpu(1500), guaranteed: true, ..NodeLoad::default() };
        assert_eq!(shrunk_by(&standing(load.clone(), &shrunk, now()), "n"), 250);
        assert_eq!(shrunk_by(&standing(load.clone(), &shrunk, now()), "other"), 0);
        let alone = NodeLoad { guaranteed: false, ..load.clone() };
        assert_eq!(shrunk_by(&standing(alone, &shrunk, now()), "n"), 0);
        assert_eq!(shrunk_by(&standing(load, &shrunk, now() + HOUR), "n"), 0);
    }

    #[test]
    fn a_decrease_counts_from_when_it_is_asked_for_unless_it_is_refused() {
        let of = |shrunk: &Shrunk| shrunk.by_node(now()).get("n").copied().unwrap_or(0);
        let (pod, less, more) = (pod("a", QosClass::Burstable), change(1000, 400), change(400, 1000));
        let mut shrunk = Shrunk::default();
        shrunk.asked(&pod, &less);
        assert_eq!(of(&shrunk), 600);
        shrunk.refused("a");
        assert_eq!(of(&shrunk), 0);
        shrunk.asked(&pod, &less);
        shrunk.accepted(&pod, &less, now());
        assert_eq!(of(&shrunk), 600, "once");
        shrunk.asked(&pod, &more);
        assert_eq!(of(&shrunk), 600, "what was only asked for gives nothing back");
        shrunk.accepted(&pod, &more, now());
        assert_eq!(of(&shrunk), 0);
    }

    #[test]
    fn what_is_decided_for_one_pod_counts_for_the_next() {
        let load = NodeLoad {
            requests: cpu(2000),
            burstable: MilliCpu(2000),
            guaranteed: true,
            owed: cpu(100),
            ..NodeLoad::default()
        };
        let shrunk = Shrunk::default();
        let mut turn = standing(load, &shrunk, now());
        let first = pod("a", QosClass::Burstable);
        turn.decided(&first, &change(1000, 500));
        assert_eq!(shrunk_by(&turn, "n"), 250);
        assert_eq!(turn.debt("").unwrap().owed.cpu, Some(MilliCpu(600)));
        // beyond what is declared nothing is owed
        turn.decided(&pod("b", QosClass::Burstable), &change(1600, 900));
        assert_eq!(turn.debt("").unwrap().owed.cpu, Some(MilliCpu(700)));
        turn.decided(&pod("c", QosClass::Burstable), &change(100, 1600));
        let mut node = node("n");
        turn.complete(&mut node);
        assert_eq!(node.free.unwrap().cpu, Some(MilliCpu(500)), "what falls is not there yet");
        // what was refused is not owed
        let mut lent = Lent::new(turn);
        lent.refused(&first, &change(1000, 500));
        assert_eq!(
            lent.standing(HashMap::new(), &shrunk, now()).debt("").unwrap().owed.cpu,
            Some(MilliCpu(200))
        );
    }

    #[test]
    fn peaks_beyond_what_a_node_has_are_overcommitted() {
        let shown = |peaks| {
            let mut node = node("n");
            node.allocatable.memory = Some(Bytes::from_mebibytes(1000));
            let load = NodeLoad { peaks: Bytes::from_mebibytes(peaks), ..NodeLoad::default() };
            standing(load, &Shrunk::default(), now()).complete(&mut node);
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
