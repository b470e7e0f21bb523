//! Evidence and policy become the sizes of a pod's containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use optipod_common::ident::WorkloadContainer;
use optipod_common::policy::{Mode, Policy, Scope};
use optipod_common::progress::is_foreign;
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::recommend::{Asked, ContainerRecommendation, EvidenceSummary, recommend};
use optipod_common::resources::{Amounts, CgroupFacts, ContainerFacts, PodFacts};
use optipod_common::startup::{Lifetime, Phase};
use optipod_common::store::{Evidence, Question, Variant};
use optipod_common::time::Timestamp;

use super::Engine;
use crate::api::convert::Selector;
use crate::expression::Cel;
use crate::index::{PodKey, SelectedWorkload};

/// A resize this soon after start-up is a step of taking back what start-up added: `maxStep` may need several.
const TAKING_BACK: Duration = Duration::from_secs(300);

/// A cgroup and what the kubelet says of it are compared when neither changed for this long: frames, statuses and the
/// kubelet's own rounds come one after the other.
const SETTLED: Duration = Duration::from_secs(120);

/// A pod with the sizes of its containers.
pub struct SizedPod {
    pub facts: PodFacts,
    /// One per container with evidence.
    pub sizes: Arc<[ContainerRecommendation]>,
    /// Mean use of the containers that have none: excluded ones, and all where nothing is sized.
    pub unsized_use: Amounts,
}

/// Kinds of pods of one workload that are looked through for one that is alike.
const KINDS: usize = 8;

/// All that sizes depend on, but for evidence of a pod's own. Pods of one kind have the same.
#[derive(PartialEq)]
struct Kind {
    variant: Variant,
    /// By us.
    resized: bool,
    /// Without what the kubelet says of this very life.
    containers: Vec<(ContainerFacts, Phase)>,
}

/// Sizes the pods of one workload. Evidence is gathered, and sizes are computed, once for all pods that are alike.
pub struct Sizer<'a> {
    engine: &'a Engine,
    policy: &'a Policy,
    selector: &'a Selector,
    workload: &'a SelectedWorkload,
    now: Timestamp,
    /// When a pod of the workload was last resized.
    resized: Option<Timestamp>,
    evidence: BTreeMap<(String, Variant), Option<Evidence>>,
    kinds: Vec<(Kind, Arc<[ContainerRecommendation]>)>,
}

impl<'a> Sizer<'a> {
    pub fn new(
        engine: &'a Engine,
        policy: &'a Policy,
        selector: &'a Selector,
        workload: &'a SelectedWorkload,
        now: Timestamp,
    ) -> Self {
        let resized = workload.pods.iter().filter_map(|pod| engine.index.last_resize(pod)).max();
        Self {
            engine,
            policy,
            selector,
            workload,
            now,
            resized,
            evidence: BTreeMap::new(),
            kinds: Vec::new(),
        }
    }

    /// A pod with its sizes; `None` when it is gone.
    pub fn size(&mut self, pod: &PodKey) -> Option<SizedPod> {
        let mut facts = self.engine.index.facts(pod)?;
        facts.boosted = self.boosted(&facts);
        if let Some(node) = &mut facts.node {
            node.memory_stalls = self.engine.usage.stalls(&node.name, self.now);
        }
        self.complete_cgroups(&mut facts);
        let sizes = if self.policy.mode == Mode::Disabled { Arc::default() } else { self.sizes(&facts) };
        let unsized_use = self.unsized_use(&facts, &sizes);
        Some(SizedPod { facts, sizes, unsized_use })
    }

    fn unsized_use(&mut self, facts: &PodFacts, sizes: &[ContainerRecommendation]) -> Amounts {
        let variant = variant(facts);
        let mut used = Amounts::default();
        for container in &facts.containers {
            if sizes.iter().any(|size| size.container == container.name) {
                continue;
            }
            let Some(evidence) = self.evidence(&container.name, &variant) else { continue };
            let of = EvidenceSummary::of(evidence, Phase::Runtime);
            used.cpu = Some(MilliCpu(used.cpu.unwrap_or_default().0.saturating_add(of.cpu_mean.0)));
            used.memory = Some(Bytes(used.memory.unwrap_or_default().0.saturating_add(of.memory_mean.0)));
        }
        used
    }

    /// It was last resized while it was starting.
    fn boosted(&self, facts: &PodFacts) -> bool {
        let startup = &self.policy.startup;
        let boosts = startup.cpu.is_some() || startup.memory.is_some();
        facts.last_resize.filter(|_| boosts).is_some_and(|at| {
            let before = at - TAKING_BACK;
            // a container that started after the resize says nothing about it
            let ran = facts.containers.iter().filter(|c| c.started.is_none_or(|started| at >= started));
            ran.into_iter().any(|container| self.phase(facts, container, before) == Phase::Startup)
        })
    }

    /// What agents read of the containers' cgroups beside their use, and whether something else writes them.
    fn complete_cgroups(&self, facts: &mut PodFacts) {
        let Engine { index, usage, .. } = self.engine;
        let pod = PodKey { namespace: facts.namespace.clone(), name: facts.name.clone() };
        let resized = facts.last_resize.is_some_and(|at| at + SETTLED > self.now);
        let settles = resized || facts.pending.is_some() || facts.in_progress.is_some();
        for container in &mut facts.containers {
            let lives = index.container_ids(&pod).filter(|(_, name)| *name == container.name);
            let Some((seen, until)) =
                lives.filter_map(|(id, _)| usage.in_kernel(id)).max_by_key(|(_, until)| *until)
            else {
                continue;
            };
            let young = container.started.is_some_and(|started| started + SETTLED > self.now);
            let stale = *until + SETTLED < self.now;
            let said = container.actual.filter(|actual| actual.limits == container.desired.limits);
            let foreign =
                said.filter(|_| !settles && !young && !stale).is_some_and(|said| is_foreign(said, seen));
            container.cgroup = CgroupFacts { foreign_writer: foreign, ..seen.facts };
        }
    }

    fn sizes(&mut self, facts: &PodFacts) -> Arc<[ContainerRecommendation]> {
        let kind = self.kind(facts);
        let shared = self.policy.scope == Scope::Workload;
        if let Some((_, sizes)) = self.kinds.iter().find(|(known, _)| shared && *known == kind) {
            return Arc::clone(sizes);
        }
        let sizes: Vec<ContainerRecommendation> = kind
            .containers
            .iter()
            .filter_map(|(container, phase)| self.container(facts, (container, *phase), &kind.variant))
            .collect();
        let sizes: Arc<[ContainerRecommendation]> = sizes.into();
        if shared && self.kinds.len() < KINDS {
            self.kinds.push((kind, Arc::clone(&sizes)));
        }
        sizes
    }

    fn kind(&self, facts: &PodFacts) -> Kind {
        let included = facts.containers.iter().filter(|container| !self.selector.excludes(&container.name));
        let lasting = |container: &ContainerFacts| ContainerFacts {
            allocated: None,
            actual: None,
            running: false,
            started: None,
            restarts: 0,
            cgroup: CgroupFacts { shmem: container.cgroup.shmem, ..CgroupFacts::default() },
            ..container.clone()
        };
        Kind {
            variant: variant(facts),
            resized: facts.last_resize.is_some(),
            containers: included.map(|c| (lasting(c), self.phase(facts, c, self.now))).collect(),
        }
    }

    fn container(
        &mut self,
        facts: &PodFacts,
        (container, phase): (&ContainerFacts, Phase),
        variant: &Variant,
    ) -> Option<ContainerRecommendation> {
        let Self { engine, policy, .. } = *self;
        let key = self.key(&container.name);
        let pod = (policy.scope == Scope::Pod).then(|| engine.usage.pod(&key, variant, &facts.uid)).flatten();
        let asked = Asked {
            container,
            evidence: self.evidence(&container.name, variant)?,
            pod: pod.as_ref(),
            phase,
            resized: facts.last_resize.is_some(),
            expressions: &Cel,
        };
        Some(recommend(policy, asked))
    }

    fn evidence(&mut self, container: &str, variant: &Variant) -> Option<&Evidence> {
        let question =
            Question { now: self.now, window: self.policy.rolling_window, variant, resized: self.resized };
        let (engine, key) = (self.engine, self.key(container));
        let known = self.evidence.entry((container.to_owned(), variant.clone()));
        known.or_insert_with(|| engine.usage.evidence(&key, question)).as_ref()
    }

    fn key(&self, container: &str) -> WorkloadContainer {
        WorkloadContainer { workload: self.workload.workload.clone(), container: container.to_owned() }
    }

    /// Which part of its life a container was in.
    fn phase(&self, facts: &PodFacts, container: &ContainerFacts, at: Timestamp) -> Phase {
        let key = self.key(&container.name);
        let life =
            Lifetime { started: container.started, ready_since: facts.ready_since.filter(|_| facts.ready) };
        self.engine.usage.phase(&key, self.policy.startup.until, &life, at)
    }
}

fn variant(facts: &PodFacts) -> Variant {
    let node_class = facts.node.as_ref().map_or_else(String::new, |node| node.class.clone());
    Variant { revision: facts.revision.clone(), node_class }
}
