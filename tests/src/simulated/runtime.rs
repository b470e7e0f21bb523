//! The container runtime of one simulated node: what the kubelet asks for, and what became of it.
//!
//! It holds the models of [`super::usage`] and the files of [`super::cgroup`]. Nothing happens between two calls of
//! [`Runtime::advance`]: time is simulated, and whoever owns the clock moves it. Limits that change are in the files at
//! once, and bind from the next period on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use optipod_common::ident::{ContainerId, PodUid};
use optipod_common::resources::QosClass;
use sha2::{Digest, Sha256};

pub use super::usage::Usage;
pub use super::usage::container::CgroupResources;

use super::cgroup::{Directory, Readers, Tree, Values};
use super::usage::container::{Container, Step};
use super::usage::cpu::{Claim, CpuStat, share};
use super::usage::memory::{Level, MemoryCounters};
use super::usage::pressure::Stalls;
use super::usage::{Library, PERIOD_MICROS};

/// CPUs of a node, unless it is told otherwise: more than its containers want.
const CPUS: u64 = 1024;
/// Periods after which memory by kind, peaks and pressure of a slice are shown again: 10 s. Nobody decides on them.
const SLOW_PERIODS: u64 = 100;
/// What the pause process uses: its start, and never again.
const SANDBOX_CPU_MICROS: u64 = 15_000;
/// Memory of the pause process, bytes.
const SANDBOX_MEMORY: u64 = 75 * 4096;
/// Exit code of a process that got SIGKILL.
const KILLED: i32 = 137;

/// A container to start.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// `metadata.uid` of its pod.
    pub pod_uid: String,
    /// Class of its pod.
    pub qos: QosClass,
    /// Name in the pod.
    pub name: String,
    /// A new one for each start.
    pub id: ContainerId,
    /// What it does.
    pub usage: Usage,
    /// Of its own cgroup.
    pub resources: CgroupResources,
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// By the kernel, at `memory.max`.
    OomKilled,
    /// With code 0.
    Completed,
    /// With another code.
    Error,
}

/// A container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Of its pod.
    pub pod_uid: String,
    /// Name in the pod.
    pub name: String,
    /// Which start of it.
    pub id: ContainerId,
    /// 137 after a kill.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
}

/// The runtime of a node. A clone is the same runtime.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Mutex<Node>>);

#[derive(Debug)]
struct Node {
    seed: u64,
    cpus: u64,
    library: Library,
    /// Periods since the start.
    periods: u64,
    tree: Tree,
    kubepods: Group,
    classes: [Group; 2],
    pods: BTreeMap<String, Pod>,
    claims: Vec<Claim>,
    text: String,
    readers: Readers,
    /// Period from which on slices show everything again.
    next_slow: u64,
    files_rewritten: u64,
}

#[derive(Debug)]
struct Pod {
    qos: QosClass,
    resources: CgroupResources,
    directory: Directory,
    sandbox: Directory,
    group: Group,
    containers: BTreeMap<String, Running>,
}

#[derive(Debug)]
struct Running {
    id: ContainerId,
    container: Container,
    directory: Directory,
}

/// Sums over everything that ever was in a cgroup that holds others.
#[derive(Debug, Default)]
struct Group {
    cpu: CpuStat,
    counters: MemoryCounters,
    memory: Level,
    peak: u64,
    cpu_stalls: Stalls,
    memory_stalls: Stalls,
    /// Something ran in the period before: the timer of the quota still counts this one.
    ran: bool,
}

/// What the children of a cgroup did in one period.
#[derive(Debug, Default)]
struct Children {
    cpu_micros: u64,
    counters: MemoryCounters,
    memory: Level,
    cpu_some: u64,
    memory_some: u64,
    /// The least that any of them was fully stalled; of CPU and of memory.
    full: Option<(u64, u64)>,
}

impl Children {
    /// Pressure of a parent is not the sum of its children's. Something waits in it at least as long as in the child
    /// that waits longest; everything waits in it at most as long as in the child that waits least.
    fn add(&mut self, step: &Step, memory: Level) {
        self.cpu_micros += step.cpu.usage_micros;
        self.counters.add(step.memory);
        self.memory = self.memory.plus(memory);
        self.cpu_some = self.cpu_some.max(step.cpu_stalls.0);
        self.memory_some = self.memory_some.max(step.memory_stalls.0);
        let (cpu, memory) = self.full.unwrap_or((u64::MAX, u64::MAX));
        self.full = Some((cpu.min(step.cpu_stalls.1), memory.min(step.memory_stalls.1)));
    }

    fn merge(&mut self, other: &Self) {
        self.cpu_micros += other.cpu_micros;
        self.counters.add(other.counters);
        self.memory = self.memory.plus(other.memory);
        self.cpu_some = self.cpu_some.max(other.cpu_some);
        self.memory_some = self.memory_some.max(other.memory_some);
        self.full = match (self.full, other.full) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.min(b.1))),
            (a, b) => a.or(b),
        };
    }
}

impl Group {
    /// Ends a period. The quota of a pod is the sum of its containers', so it never throttles before they are.
    fn step(&mut self, children: &Children, limited: bool) {
        let runs = children.cpu_micros > 0;
        self.cpu.usage_micros += children.cpu_micros;
        self.cpu.periods += u64::from(limited && (runs || self.ran));
        self.ran = limited && runs;
        self.counters.add(children.counters);
        self.memory = children.memory;
        self.peak = self.peak.max(children.memory.total());
        let (cpu_full, memory_full) = children.full.unwrap_or_default();
        self.cpu_stalls.step(children.cpu_some, cpu_full);
        self.memory_stalls.step(children.memory_some, memory_full);
    }

    const fn values(&self, resources: CgroupResources, populated: bool) -> Values {
        Values {
            cpu: self.cpu,
            cpu_pressure: self.cpu_stalls.pressure(),
            current: self.memory.total(),
            memory: self.memory,
            peak: self.peak,
            counters: self.counters,
            memory_pressure: self.memory_stalls.pressure(),
            resources,
            populated,
        }
    }
}

impl Running {
    const fn values(&self) -> Values {
        let container = &self.container;
        Values {
            cpu: container.cpu_stat(),
            cpu_pressure: container.cpu_pressure(),
            current: container.memory().held().total(),
            memory: container.memory().held(),
            peak: container.memory().peak(),
            counters: container.memory_counters(),
            memory_pressure: container.memory_pressure(),
            resources: container.resources(),
            populated: container.is_alive(),
        }
    }
}

const fn sandbox_memory() -> Level {
    Level::anonymous(SANDBOX_MEMORY)
}

impl Runtime {
    /// A node without pods whose cgroup root is `root`: a folder that is empty or does not exist, best on a tmpfs.
    /// Names and noise follow from `seed`.
    ///
    /// # Errors
    /// When the folder holds something, or cannot be written.
    pub fn new(root: &Path, seed: u64) -> Result<Self> {
        let pause = Group { memory: sandbox_memory(), peak: SANDBOX_MEMORY, ..Group::default() };
        let mut pause = pause.values(CgroupResources { cpu_weight: 1, ..CgroupResources::UNLIMITED }, true);
        pause.cpu.usage_micros = SANDBOX_CPU_MICROS;
        let mut text = String::new();
        let tree = Tree::create(root, &pause, &mut text)
            .with_context(|| format!("cannot make the cgroup tree {}", root.display()))?;
        let mut node = Node {
            seed,
            cpus: CPUS,
            library: Library::default(),
            periods: 0,
            tree,
            kubepods: Group::default(),
            classes: Default::default(),
            pods: BTreeMap::new(),
            claims: Vec::new(),
            text,
            readers: Readers::AnyTime,
            next_slow: 0,
            files_rewritten: 0,
        };
        node.show()?;
        Ok(Self(Arc::new(Mutex::new(node))))
    }

    /// CPUs that containers share by weight when they want more.
    pub fn set_cpus(&self, cpus: u32) {
        self.lock().cpus = cpus.max(1).into();
    }

    /// Nobody reads the tree during [`Self::advance`], as with agents in step with the simulation. It costs half then.
    pub fn set_read_in_step(&self) {
        self.lock().readers = Readers::Between;
    }

    /// Where series of `trace(..)` come from, instead of those that come with the project.
    pub fn set_library(&self, library: Library) {
        self.lock().library = library;
    }

    /// Makes the cgroup of a pod and starts its sandbox.
    ///
    /// # Errors
    /// When the pod is there already, its uid is none, or the disk refuses.
    pub fn start_pod(&self, uid: &str, qos: QosClass, resources: CgroupResources) -> Result<()> {
        let mut node = self.lock();
        if node.pods.contains_key(uid) {
            bail!("pod {uid} runs already");
        }
        let name: PodUid = uid.parse()?;
        let sandbox_id = node.sandbox_id(uid);
        let directory = node.tree.pod(&name, qos).with_context(|| format!("cannot start pod {uid}"))?;
        let sandbox = node.tree.sandbox(&directory, sandbox_id)?;
        let cpu = CpuStat { usage_micros: SANDBOX_CPU_MICROS, ..CpuStat::default() };
        let group = Group { cpu, memory: sandbox_memory(), peak: SANDBOX_MEMORY, ..Group::default() };
        let mut pod = Pod { qos, resources, directory, sandbox, group, containers: BTreeMap::new() };
        let Node { text, kubepods, classes, .. } = &mut *node;
        pod.directory.show(&pod.group.values(resources, true), text, Readers::AnyTime)?;
        for group in [Some(kubepods), class_of(classes, qos)].into_iter().flatten() {
            group.cpu.usage_micros += SANDBOX_CPU_MICROS;
            group.memory = group.memory.plus(sandbox_memory());
        }
        node.pods.insert(uid.to_owned(), pod);
        Ok(())
    }

    /// Changes the limits of a pod.
    ///
    /// # Errors
    /// When there is no such pod, or the disk refuses.
    pub fn update_pod(&self, uid: &str, resources: CgroupResources) -> Result<()> {
        let mut node = self.lock();
        let Node { pods, text, .. } = &mut *node;
        let pod = pods.get_mut(uid).with_context(|| unknown_pod(uid))?;
        pod.resources = resources;
        pod.directory.show(&pod.group.values(resources, true), text, Readers::AnyTime)?;
        Ok(())
    }

    /// Starts a container. One of the same name that has ended is removed first.
    ///
    /// # Errors
    /// When there is no such pod or trace, the container runs already, or the disk refuses.
    pub fn start(&self, spec: ContainerSpec) -> Result<()> {
        let ContainerSpec { pod_uid, qos, name, id, usage, resources } = spec;
        let mut node = self.lock();
        let salt = node.salt(id);
        let Node { pods, tree, library, periods, text, .. } = &mut *node;
        let pod = pods.get_mut(&pod_uid).with_context(|| unknown_pod(&pod_uid))?;
        if pod.qos != qos {
            bail!("container {name} of pod {pod_uid} is {qos:?}, its pod {:?}", pod.qos);
        }
        if pod.containers.get(&name).is_some_and(|running| running.container.is_alive()) {
            bail!("container {name} of pod {pod_uid} runs already");
        }
        let start = || format!("cannot start container {name} of pod {pod_uid}");
        let container = Container::start(&usage, resources, *periods, library, salt).with_context(start)?;
        if let Some(ended) = pod.containers.remove(&name) {
            ended.directory.remove().with_context(start)?;
        }
        let directory = tree.container(&pod.directory, id).with_context(start)?;
        let mut running = Running { id, container, directory };
        running.directory.show(&running.values(), text, Readers::AnyTime).with_context(start)?;
        pod.containers.insert(name, running);
        Ok(())
    }

    /// A resize reaches the kernel.
    ///
    /// # Errors
    /// When there is no such container, or the disk refuses.
    pub fn update(&self, pod_uid: &str, name: &str, resources: CgroupResources) -> Result<()> {
        self.change(pod_uid, name, |container| container.update(resources))
    }

    /// Counters of a container start at zero again; those of its pod go on.
    ///
    /// # Errors
    /// When there is no such container, or the disk refuses.
    pub fn reset_counters(&self, pod_uid: &str, name: &str) -> Result<()> {
        self.change(pod_uid, name, Container::reset_counters)
    }

    /// `memory.current` of a container.
    pub fn memory_bytes(&self, pod_uid: &str, name: &str) -> Option<u64> {
        let node = self.lock();
        let running = node.pods.get(pod_uid)?.containers.get(name)?;
        Some(running.container.memory().held().total())
    }

    /// Kills a container, and removes it.
    ///
    /// # Errors
    /// When there is no such container, or the disk refuses.
    pub fn stop(&self, pod_uid: &str, name: &str) -> Result<()> {
        let mut node = self.lock();
        let pod = node.pods.get_mut(pod_uid).with_context(|| unknown_pod(pod_uid))?;
        let running = pod.containers.remove(name).with_context(|| unknown(pod_uid, name))?;
        running.directory.remove().with_context(|| format!("cannot stop {name} of pod {pod_uid}"))
    }

    /// Kills a pod with its containers and its sandbox, and removes it.
    ///
    /// # Errors
    /// When there is no such pod, or the disk refuses.
    pub fn remove_pod(&self, uid: &str) -> Result<()> {
        let pod = self.lock().pods.remove(uid).with_context(|| unknown_pod(uid))?;
        let containers = pod.containers.into_values().map(|running| running.directory);
        let directories = containers.chain([pod.sandbox, pod.directory]);
        for directory in directories {
            directory.remove().with_context(|| format!("cannot remove pod {uid}"))?;
        }
        Ok(())
    }

    /// Moves time to `to` since the start, in whole periods of 100 ms (what is left waits for the next call), and
    /// rewrites the files that changed. Returns what ended by itself. Time never goes backwards.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn advance(&self, to: Duration) -> Result<Vec<Exit>> {
        let mut node = self.lock();
        let target = to.as_micros() / u128::from(PERIOD_MICROS);
        let target = u64::try_from(target).unwrap_or(u64::MAX);
        let mut exits = Vec::new();
        while node.periods < target {
            node.step(&mut exits);
        }
        node.show()?;
        Ok(exits)
    }

    /// Files rewritten so far: what a simulation costs a disk.
    pub fn files_rewritten(&self) -> u64 {
        self.lock().files_rewritten
    }

    fn change(&self, pod_uid: &str, name: &str, change: impl FnOnce(&mut Container)) -> Result<()> {
        let mut node = self.lock();
        let Node { pods, text, .. } = &mut *node;
        let pod = pods.get_mut(pod_uid).with_context(|| unknown_pod(pod_uid))?;
        let running = pod.containers.get_mut(name).with_context(|| unknown(pod_uid, name))?;
        change(&mut running.container);
        running.directory.show(&running.values(), text, Readers::AnyTime)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Node> {
        // models are stepped as a whole; after a panic elsewhere they are what they were
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// One period of every container.
    fn step(&mut self, exits: &mut Vec<Exit>) {
        let now = self.periods;
        let mut claims = std::mem::take(&mut self.claims);
        claims.clear();
        for pod in self.pods.values_mut() {
            claims.extend(pod.containers.values_mut().map(|running| running.container.claim(now)));
        }
        share(self.cpus * PERIOD_MICROS, &mut claims);
        let mut granted = claims.iter().map(|claim| claim.granted);
        let mut all = Children::default();
        let mut of_class = [Children::default(), Children::default()];
        for (uid, pod) in &mut self.pods {
            let mut children = Children { memory: sandbox_memory(), ..Children::default() };
            for (name, running) in &mut pod.containers {
                let granted = granted.next().unwrap_or(0);
                if !running.container.is_alive() {
                    continue;
                }
                let step = running.container.step(now, granted);
                children.add(&step, running.container.memory().held());
                if step.killed {
                    exits.push(Exit {
                        pod_uid: uid.clone(),
                        name: name.clone(),
                        id: running.id,
                        code: KILLED,
                        reason: ExitReason::OomKilled,
                    });
                }
            }
            pod.group.step(&children, pod.resources.cpu_quota_micros.is_some());
            all.merge(&children);
            if let Some(of_class) = class_of(&mut of_class, pod.qos) {
                of_class.merge(&children);
            }
        }
        drop(granted);
        self.claims = claims;
        self.kubepods.step(&all, false);
        for (group, children) in self.classes.iter_mut().zip(&of_class) {
            group.step(children, false);
        }
        self.periods += 1;
    }

    /// Rewrites what changed.
    fn show(&mut self) -> Result<()> {
        let all = self.periods >= self.next_slow;
        if all {
            self.next_slow = self.periods + SLOW_PERIODS;
        }
        let Self { tree, kubepods, classes, pods, text, readers, .. } = self;
        let mut rewritten = 0;
        let mut populated = [false; 2];
        for pod in pods.values_mut() {
            for running in pod.containers.values_mut() {
                rewritten += running.directory.show(&running.values(), text, *readers)?;
            }
            let values = pod.group.values(pod.resources, true);
            rewritten += show_slice(&mut pod.directory, &values, all, text, *readers)?;
            if let Some(populated) = class_of(&mut populated, pod.qos) {
                *populated = true;
            }
        }
        for ((group, populated), (_, directory)) in classes.iter().zip(populated).zip(&mut tree.classes) {
            let values = group.values(CgroupResources::UNLIMITED, populated);
            rewritten += show_slice(directory, &values, all, text, *readers)?;
        }
        let values = kubepods.values(CgroupResources::UNLIMITED, !pods.is_empty());
        rewritten += show_slice(&mut tree.kubepods, &values, all, text, *readers)?;
        self.files_rewritten += u64::from(rewritten);
        Ok(())
    }

    fn sandbox_id(&self, pod_uid: &str) -> ContainerId {
        let digest = Sha256::new().chain_update(self.seed.to_le_bytes()).chain_update("sandbox of ");
        ContainerId::from_bytes(digest.chain_update(pod_uid).finalize().into())
    }

    fn salt(&self, id: ContainerId) -> u64 {
        let digest = Sha256::new().chain_update(self.seed.to_le_bytes()).chain_update(id.as_bytes());
        let bytes: [u8; 32] = digest.finalize().into();
        bytes.iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte))
    }
}

/// Shows a slice; what is slow only when `all` is asked for.
fn show_slice(
    directory: &mut Directory,
    values: &Values,
    all: bool,
    text: &mut String,
    readers: Readers,
) -> std::io::Result<u32> {
    match directory.shown() {
        Some(&Values { cpu_pressure, memory, peak, memory_pressure, .. }) if !all => {
            let values = Values { cpu_pressure, memory, peak, memory_pressure, ..*values };
            directory.show(&values, text, readers)
        }
        _ => directory.show(values, text, readers),
    }
}

/// Of a class that has a slice of its own, in the order of [`Tree`].
const fn class_of<T>(classes: &mut [T; 2], qos: QosClass) -> Option<&mut T> {
    let [burstable, best_effort] = classes;
    match qos {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some(burstable),
        QosClass::BestEffort => Some(best_effort),
    }
}

fn unknown_pod(uid: &str) -> String {
    format!("there is no pod {uid} on this node")
}

fn unknown(pod_uid: &str, name: &str) -> String {
    format!("there is no container {name} in pod {pod_uid}")
}
