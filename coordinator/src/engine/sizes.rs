//! Evidence and policy become the sizes of a pod's containers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use optipod_common::ident::WorkloadContainer;
use optipod_common::policy::{Mode, Policy, Scope};
use optipod_common::progress::is_foreign;
use optipod_common::recommend::{Asked, ContainerRecommendation, recommend};
use optipod_common::resources::{CgroupFacts, ContainerFacts, PodFacts};
use optipod_common::startup::{Lifetime, Phase};
use optipod_common::store::{Evidence, Question, Variant};
use optipod_common::time::Timestamp;

use super::Engine;
use crate::api::convert::Selector;
use crate::expression::Cel;
use crate::index::{NodeLoad, PodKey, SelectedWorkload};

/// A resize this soon after start-up is a step of taking back what start-up added: `maxStep` may need several.
const TAKING_BACK: Duration = Duration::from_secs(300);

/// A cgroup and what the kubelet says of it are compared when neither changed for this long: frames, statuses and the
/// kubelet's own rounds come one after the other.
const SETTLED: Duration = Duration::from_secs(120);

/// A pod with the sizes of its containers.
pub struct SizedPod {
    pub facts: PodFacts,
    /// One per container with evidence.
    pub sizes: Vec<ContainerRecommendation>,
}

/// Sizes the pods of one workload. Evidence is gathered once for all pods that are alike.
pub struct Sizer<'a> {
    engine: &'a Engine,
    policy: &'a Policy,
    selector: &'a Selector,
    workload: &'a SelectedWorkload,
    loads: &'a HashMap<String, NodeLoad>,
    now: Timestamp,
    /// When a pod of the workload was last resized.
    resized: Option<Timestamp>,
    evidence: BTreeMap<(String, Variant), Option<Evidence>>,
}

impl<'a> Sizer<'a> {
    pub fn new(
        engine: &'a Engine,
        policy: &'a Policy,
        selector: &'a Selector,
        workload: &'a SelectedWorkload,
        loads: &'a HashMap<String, NodeLoad>,
        now: Timestamp,
    ) -> Self {
        let resized = workload.pods.iter().filter_map(|pod| engine.index.last_resize(pod)).max();
        Self { engine, policy, selector, workload, loads, now, resized, evidence: BTreeMap::new() }
    }

    /// A pod with its sizes; `None` when it is gone.
    pub fn size(&mut self, pod: &PodKey) -> Option<SizedPod> {
        let mut facts = self.engine.index.facts(pod)?;
        self.complete(&mut facts);
        let sizes = if self.policy.mode == Mode::Disabled { Vec::new() } else { self.sizes(&facts) };
        Some(SizedPod { facts, sizes })
    }

    /// What only the whole cluster and the policy tell about a pod.
    fn complete(&self, facts: &mut PodFacts) {
        if let Some(node) = &mut facts.node {
            node.memory_stalls = self.engine.usage.stalls(&node.name, self.now);
        }
        if let Some(node) = &mut facts.node
            && let Some(load) = self.loads.get(&node.name)
        {
            super::lent::complete(node, load, &self.engine.shrunk, self.now);
        }
        let startup = &self.policy.startup;
        let boosts = startup.cpu.is_some() || startup.memory.is_some();
        facts.boosted = facts.last_resize.filter(|_| boosts).is_some_and(|at| {
            let before = at - TAKING_BACK;
            // a container that started after the resize says nothing about it
            let ran = facts.containers.iter().filter(|c| c.started.is_none_or(|started| at >= started));
            ran.into_iter().any(|container| self.phase(facts, container, before) == Phase::Startup)
        });
        self.complete_cgroups(facts);
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

    fn sizes(&mut self, facts: &PodFacts) -> Vec<ContainerRecommendation> {
        let variant = Variant {
            revision: facts.revision.clone(),
            node_class: facts.node.as_ref().map_or_else(String::new, |node| node.class.clone()),
        };
        let selector = self.selector;
        let included = facts.containers.iter().filter(|container| !selector.excludes(&container.name));
        included.filter_map(|container| self.container(facts, container, &variant)).collect()
    }

    fn container(
        &mut self,
        facts: &PodFacts,
        container: &ContainerFacts,
        variant: &Variant,
    ) -> Option<ContainerRecommendation> {
        let phase = self.phase(facts, container, self.now);
        let Self { engine, policy, workload, now, resized, .. } = *self;
        let key =
            WorkloadContainer { workload: workload.workload.clone(), container: container.name.clone() };
        let pod = (policy.scope == Scope::Pod).then(|| engine.usage.pod(&key, variant, &facts.uid)).flatten();
        let question = Question { now, window: policy.rolling_window, variant, resized };
        let evidence = self
            .evidence
            .entry((container.name.clone(), variant.clone()))
            .or_insert_with(|| engine.usage.evidence(&key, question));
        let asked = Asked {
            container,
            evidence: evidence.as_ref()?,
            pod: pod.as_ref(),
            phase,
            last_resize: facts.last_resize,
            expressions: &Cel,
        };
        Some(recommend(policy, asked))
    }

    /// Which part of its life a container was in.
    fn phase(&self, facts: &PodFacts, container: &ContainerFacts, at: Timestamp) -> Phase {
        let key =
            WorkloadContainer { workload: self.workload.workload.clone(), container: container.name.clone() };
        let life =
            Lifetime { started: container.started, ready_since: facts.ready_since.filter(|_| facts.ready) };
        self.engine.usage.phase(&key, self.policy.startup.until, &life, at)
    }
}
