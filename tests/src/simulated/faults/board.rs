//! Where kubelets, agents and the proxy ask what goes wrong now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::whom::Draw;
use super::{ApiFault, Fault, Kind, Operation, ResizeFault, Treatment};

/// All faults of a scenario and the simulated time that decides which are there. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    seed: u64,
    faults: Vec<Fault>,
    /// `None` = the scenario has not begun.
    now: Option<Duration>,
    /// Faults that were told to have begun.
    begun: BTreeSet<usize>,
    /// Requests of each kind so far: a share of requests is drawn by their number.
    asked: BTreeMap<(usize, String), u64>,
    /// Resources whose next watch is told that its version is too old, by fault.
    gone: BTreeMap<usize, BTreeSet<String>>,
}

impl Board {
    /// A board of these faults before the start: nothing goes wrong until [`Board::advance`] was called. Shares are
    /// drawn from `seed`.
    pub fn new(faults: Vec<Fault>, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { seed, faults, ..State::default() })))
    }

    /// Simulated time since the start is `now`. Returns what began since the last call, with its number for
    /// [`Board::concerns`].
    pub fn advance(&self, now: Duration) -> Vec<(usize, Kind)> {
        let mut state = self.lock();
        state.now = Some(now);
        let State { faults, begun, gone, .. } = &mut *state;
        let mut news = Vec::new();
        for (number, fault) in faults.iter().enumerate() {
            if fault.at <= now && begun.insert(number) {
                if matches!(fault.kind, Kind::WatchCut { gone: true, .. }) {
                    gone.insert(number, BTreeSet::new());
                }
                news.push((number, fault.kind.clone()));
            }
        }
        news
    }

    /// Simulated time since the start, as last told; zero before the start.
    pub fn now(&self) -> Duration {
        self.lock().now.unwrap_or_default()
    }

    /// What the kubelet of `node` does with a resize of this pod instead of following it at once. The latest fault
    /// that concerns the pod counts.
    pub fn resize(&self, _node: &str, namespace: &str, pod: &str, _uid: &str) -> Option<ResizeFault> {
        self.lock().active().rev().find_map(|(draw, kind)| match kind {
            Kind::Resize { pods, fault } if pods.contain(namespace, pod, draw) => Some(*fault),
            _ => None,
        })
    }

    /// Whether the node is lost now.
    pub fn node_lost(&self, node: &str) -> bool {
        self.lock().active().any(|(_, kind)| matches!(kind, Kind::NodeLost(nodes) if nodes.contain(node)))
    }

    /// Whether the node's agent is lost now. It is when the node is.
    pub fn agent_lost(&self, node: &str) -> bool {
        let lost = |kind: &Kind| match kind {
            Kind::AgentLost(nodes) | Kind::NodeLost(nodes) => nodes.contain(node),
            _ => false,
        };
        self.lock().active().any(|(_, kind)| lost(kind))
    }

    /// How far the clock of the node's agent is ahead, in microseconds.
    pub fn agent_clock_offset(&self, node: &str) -> i64 {
        let offset = |kind: &Kind| match kind {
            Kind::AgentClock { nodes, offset_micros } if nodes.contain(node) => *offset_micros,
            _ => 0,
        };
        self.lock().active().fold(0, |sum, (_, kind)| sum.saturating_add(offset(kind)))
    }

    /// Whether the fault of that number, which is about pods, concerns this one.
    pub fn concerns(&self, number: usize, namespace: &str, pod: &str) -> bool {
        let state = self.lock();
        let draw = Draw { seed: state.seed, fault: number };
        state.faults.get(number).is_some_and(|fault| match &fault.kind {
            Kind::Resize { pods, .. }
            | Kind::CountersReset(pods)
            | Kind::Evicted(pods)
            | Kind::Conflict(pods) => pods.contain(namespace, pod, draw),
            _ => false,
        })
    }

    /// What happens to a request of a coordinator.
    pub fn request(&self, operation: &Operation) -> Treatment {
        let mut state = self.lock();
        let State { seed, faults, now, asked, gone, .. } = &mut *state;
        let mut treatment = Treatment::default();
        let active = |fault: &Fault| now.is_some_and(|now| fault.active(now));
        for (number, fault) in faults.iter().enumerate().filter(|(_, fault)| active(fault)) {
            let draw = Draw { seed: *seed, fault: number };
            match &fault.kind {
                Kind::Api { requests, share, fault } if requests.contain(operation) => {
                    let name = format!(
                        "{} {} {}/{} {}",
                        operation.verb,
                        operation.resource,
                        operation.namespace,
                        operation.name,
                        operation.dry_run
                    );
                    let count = asked.entry((number, name.clone())).or_default();
                    *count += 1;
                    if draw.hits(*share, &[&name, &count.to_string()]) {
                        match fault {
                            ApiFault::Latency(time) => treatment.latency += *time,
                            other => treatment.fault = treatment.fault.or(Some(*other)),
                        }
                    }
                }
                Kind::WatchCut { resources, .. } if operation.verb == "watch" => {
                    let listed = resources.is_empty() || resources.contains(&operation.resource);
                    let told = gone.get_mut(&number).filter(|_| listed);
                    treatment.gone |= told.is_some_and(|told| told.insert(operation.resource.clone()));
                }
                Kind::Conflict(pods) => {
                    treatment.contested |= operation.verb == "patch"
                        && operation.resource == "pods/resize"
                        && !operation.dry_run
                        && pods.contain(&operation.namespace, &operation.name, draw);
                }
                _ => {}
            }
        }
        treatment
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // every change is complete in itself, so a panic elsewhere leaves nothing half done
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn active(&self) -> impl DoubleEndedIterator<Item = (Draw, &Kind)> {
        self.faults
            .iter()
            .enumerate()
            .filter(|(_, fault)| self.now.is_some_and(|now| fault.active(now)))
            .map(|(number, fault)| (Draw { seed: self.seed, fault: number }, &fault.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Nodes, Pods, Requests, Share};
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fault(at: u64, lasts: Option<u64>, kind: Kind) -> Fault {
        Fault { at: secs(at), lasts: lasts.map(secs), kind }
    }

    fn patch(name: &str) -> Operation {
        let path = format!("/api/v1/namespaces/default/pods/{name}/resize");
        Operation::parse("PATCH", &path, "").expect("a resource")
    }

    #[test]
    fn a_fault_begins_and_ends_in_time() {
        let lost = Kind::NodeLost(Nodes(vec!["sim-2".to_owned()]));
        let board = Board::new(vec![fault(10, Some(5), lost.clone())], 1);
        let seen: Vec<bool> = [9, 10, 14, 15]
            .into_iter()
            .map(|at| {
                board.advance(secs(at));
                board.node_lost("sim-2") && board.agent_lost("sim-2")
            })
            .collect();
        assert_eq!(seen, [false, true, true, false]);
        board.advance(secs(12));
        assert!(!board.node_lost("sim-1"));
        let again = Board::new(vec![fault(10, Some(5), lost.clone())], 1);
        assert_eq!(again.advance(secs(11)), [(0, lost)]);
        assert_eq!(again.advance(secs(12)), []);
    }

    #[test]
    fn the_latest_fault_of_a_pod_counts() {
        let refuse = |fault, workload: &str| Kind::Resize {
            pods: Pods { workload: Some(workload.to_owned()), ..Pods::default() },
            fault,
        };
        let faults = vec![
            fault(0, None, refuse(ResizeFault::Deferred, "web")),
            fault(5, None, refuse(ResizeFault::Infeasible, "web")),
        ];
        let board = Board::new(faults, 1);
        let asked = |pod| board.resize("sim-1", "default", pod, "u");
        assert_eq!(asked("web-0"), None, "nothing goes wrong before the start");
        board.advance(secs(0));
        assert_eq!(asked("web-0"), Some(ResizeFault::Deferred));
        board.advance(secs(5));
        assert_eq!(asked("web-0"), Some(ResizeFault::Infeasible));
        assert_eq!(asked("api-0"), None);
    }

    #[test]
    fn clocks_add_up() {
        let off = |micros| Kind::AgentClock { nodes: Nodes::default(), offset_micros: micros };
        let board = Board::new(vec![fault(0, None, off(500)), fault(0, None, off(-2_000))], 1);
        board.advance(secs(0));
        assert_eq!(board.agent_clock_offset("sim-1"), -1_500);
    }

    #[test]
    fn a_share_of_requests_does_not_depend_on_the_order_of_pods() {
        let errors = || {
            let kind = Kind::Api {
                requests: Requests::default(),
                share: Share::new(0.5).expect("between 0 and 1"),
                fault: ApiFault::Status(503),
            };
            let board = Board::new(vec![fault(0, None, kind)], 7);
            board.advance(secs(0));
            board
        };
        let (there, back) = (errors(), errors());
        let names: Vec<String> = (0..50).map(|i| format!("web-{i}")).collect();
        let forth: Vec<_> = names.iter().map(|name| there.request(&patch(name)).fault).collect();
        let mut reverse: Vec<_> = names.iter().rev().map(|name| back.request(&patch(name)).fault).collect();
        reverse.reverse();
        assert_eq!(forth, reverse);
        let second: Vec<_> = names.iter().map(|name| there.request(&patch(name)).fault).collect();
        assert_ne!(forth, second, "the second request of a pod has a draw of its own");
    }

    #[test]
    fn latency_adds_to_another_fault() {
        let api = |fault| Kind::Api { requests: Requests::default(), share: Share::default(), fault };
        let slow = api(ApiFault::Latency(secs(1)));
        let board = Board::new(vec![fault(0, None, slow), fault(0, None, api(ApiFault::Reset))], 1);
        board.advance(secs(0));
        let expected = Treatment { latency: secs(1), fault: Some(ApiFault::Reset), ..Treatment::default() };
        assert_eq!(board.request(&patch("web-0")), expected);
    }

    #[test]
    fn a_cut_watch_is_told_once_that_its_version_is_gone() {
        let cut = Kind::WatchCut { resources: vec!["pods".to_owned()], gone: true };
        let board = Board::new(vec![fault(1, None, cut)], 1);
        let watch = |resource: &str| {
            let path = format!("/api/v1/{resource}");
            board.request(&Operation::parse("GET", &path, "watch=true").expect("a resource")).gone
        };
        assert!(!watch("pods"));
        board.advance(secs(1));
        assert!(!watch("nodes"));
        assert!(watch("pods"));
        assert!(!watch("pods"));
    }

    #[test]
    fn only_the_patch_itself_is_contested() {
        let board = Board::new(vec![fault(0, None, Kind::Conflict(Pods::default()))], 1);
        board.advance(secs(0));
        assert!(board.request(&patch("web-0")).contested);
        let dry = Operation { dry_run: true, ..patch("web-0") };
        assert!(!board.request(&dry).contested);
    }
}
