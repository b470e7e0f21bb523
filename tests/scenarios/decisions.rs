//! Golden scenarios: a policy, a pod and its use in, the recommendation and the decision with their reasons out.
//!
//! Each file under `golden/decisions/` holds scenarios: a line `=== what is shown`, what differs from the usual pod as
//! YAML, a line `---`, and what comes of it. What is shown begins with the name of a hazard and a colon where there is one
//! (`HAZARDS`). `UPDATE_GENERATED=1 cargo test -p optipod-tests --test decisions` writes what
//! comes of it anew; read the difference before it is committed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]
#![allow(clippy::indexing_slicing, reason = "a missing element fails the test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use optipod_common::decide::{Aftermath, Circumstances, Reason, decide, rollback};
use optipod_common::frame::{CgroupLimits, ContainerRecord};
use optipod_common::histogram::UsageHistogram;
use optipod_common::ident::{ContainerId, ContainerKey, WorkloadContainer, WorkloadRef};
use optipod_common::policy::{Policy, Violation, parse_duration};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::recommend::{Asked, recommend};
use optipod_common::resources::{Amounts, PodFacts, QosClass, Resource};
use optipod_common::sample::CpuCounters;
use optipod_common::savings::{Quantities, Savings, savings};
use optipod_common::startup::Phase;
use optipod_common::store::{Evidence, Interval, Question, Store, Variant};
use optipod_common::time::Timestamp;
use optipod_coordinator::FIELD_MANAGER;
use optipod_coordinator::api::convert::to_policy;
use optipod_coordinator::expression::Cel;
use optipod_coordinator::index::{Change, Delta, Index};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Thursday, 2027-01-14, 08:00 UTC.
const NOW: i64 = 1_799_913_600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Input {
    /// Over a policy of mode `Auto` and strategy `Percentile`.
    policy: Value,
    /// Over the usual pod.
    pod: Value,
    /// Over its container `app`.
    container: Value,
    /// Over its node.
    node: Value,
    /// Over circumstances without anything in the way.
    at: Value,
    /// Oldest first.
    usage: Vec<Use>,
    /// It is starting.
    starting: bool,
    /// What came after a change; then this is judged.
    aftermath: Value,
    /// What the pod has given back so far is shown, too.
    savings: bool,
    /// Times everything is decided; what was decided is done in between.
    rounds: u32,
    /// Which policy each pod follows is shown instead.
    cluster: Option<Cluster>,
}

/// Policies and pods without owners of the namespace `shop`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    /// Specifications by name.
    policies: BTreeMap<String, Value>,
    /// Metadata by name.
    pods: BTreeMap<String, Value>,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            policy: Value::Null,
            pod: Value::Null,
            container: Value::Null,
            node: Value::Null,
            at: Value::Null,
            usage: vec![Use::default()],
            starting: false,
            aftermath: Value::Null,
            savings: false,
            rounds: 1,
            cluster: None,
        }
    }
}

/// What the pods of one kind used for some time.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Use {
    #[serde(rename = "for")]
    lasting: String,
    /// How long ago it ended.
    ago: String,
    cpu: MilliCpu,
    memory: Bytes,
    /// Percent of CFS periods.
    throttled: u64,
    /// Limit that throttled.
    cpu_limit: Option<MilliCpu>,
    /// CPU of one tick in ten, where it is another.
    burst: Option<MilliCpu>,
    oom_kills: u64,
    /// Limit at which kills happened.
    limit: Option<Bytes>,
    revision: String,
    node_class: String,
    /// Milliseconds of a tick of the agent.
    tick: u32,
    /// Which pod of the workload; the one that is decided about is 0.
    pod: u8,
    /// It belongs to start-up.
    startup: bool,
    /// When it started is known: it is one run.
    run: bool,
    /// Agents saw only this many percent of the time that pods ran.
    seen: u32,
}

impl Default for Use {
    fn default() -> Self {
        Self {
            lasting: "24h".to_owned(),
            ago: "0s".to_owned(),
            cpu: MilliCpu(100),
            memory: Bytes::from_mebibytes(100),
            throttled: 0,
            cpu_limit: None,
            burst: None,
            oom_kills: 0,
            limit: None,
            revision: "v2".to_owned(),
            node_class: "amd64".to_owned(),
            tick: 100,
            pod: 0,
            startup: false,
            run: false,
            seen: 100,
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(NOW)
}

fn key() -> WorkloadContainer {
    let workload = WorkloadRef { kind: "Deployment".into(), namespace: "shop".into(), name: "web".into() };
    WorkloadContainer { workload, container: "app".into() }
}

/// Uid of a pod of the workload.
fn uid(pod: u8) -> String {
    format!("d0511cd2-29d2-4215-be0f-f77bc0609d{pod:02x}")
}

/// Frames of a minute, in order of time.
fn store(usage: &[Use]) -> Store {
    let mut frames = Vec::new();
    for part in usage {
        let end = now() - parse_duration(&part.ago).unwrap();
        let minutes = u32::try_from(parse_duration(&part.lasting).unwrap().as_secs() / 60).unwrap();
        let started = (part.startup || part.run).then(|| end - Duration::from_secs(60) * minutes);
        frames.extend(
            (0..minutes).map(|minute| (end - Duration::from_secs(60) * minute, part, minute == 0, started)),
        );
    }
    frames.sort_by_key(|(until, ..)| *until);
    let mut store = Store::default();
    for (until, part, last, started) in frames {
        let variant = Variant { revision: part.revision.clone(), node_class: part.node_class.clone() };
        let start = until - Duration::from_secs(60);
        let phase = if part.startup { Phase::Startup } else { Phase::Runtime };
        let interval = Interval { start, end: until, variant: variant.clone(), phase, started };
        store.add(key(), &record(part, last), &interval, until);
        if part.seen < 100 {
            let ran = Duration::from_secs(60) * 100 / part.seen;
            store.ran(&key(), &variant, until - ran, until);
        }
        if last {
            store.compact(until, Duration::from_secs(90 * 24 * 3600));
        }
    }
    store
}

fn record(part: &Use, last: bool) -> ContainerRecord {
    let cpu = part.cpu.0 * 10;
    let memory = part.memory.0 >> 16;
    ContainerRecord {
        key: ContainerKey { id: ContainerId::from_bytes([part.pod; 32]), inode: 1 },
        pod: uid(part.pod).parse().unwrap(),
        qos: QosClass::Burstable,
        cpu_tick: UsageHistogram::from_values(
            part.tick,
            std::iter::repeat_n(cpu, 9).chain([part.burst.map_or(cpu, |burst| burst.0 * 10)]),
        ),
        cpu_second: UsageHistogram::from_values(1000, std::iter::repeat_n(cpu, 6)),
        memory_working_set: UsageHistogram::from_values(1000, std::iter::repeat_n(memory, 6)),
        memory_total: UsageHistogram::from_values(1000, std::iter::repeat_n(memory, 6)),
        cpu: CpuCounters {
            usage_micros: 0,
            periods: if part.throttled > 0 { 600 } else { 0 },
            throttled_periods: part.throttled * 6,
            throttled_micros: 0,
        },
        oom_kills: if last { part.oom_kills } else { 0 },
        limits: CgroupLimits { cpu: part.cpu_limit, memory: part.limit, ..CgroupLimits::default() },
        ended: false,
    }
}

fn usual_pod() -> Value {
    let resources =
        json!({"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
    json!({
        "uid": "u", "namespace": "shop", "name": "web-1", "resourceVersion": "1", "generation": 1,
        "observedGeneration": 1, "revision": "v2", "running": true, "ready": true,
        "node": {
            "name": "node-1", "class": "amd64", "ready": true,
            "allocatable": {"cpu": "4", "memory": "8Gi"}, "free": {"cpu": "2", "memory": "4Gi"},
        },
        "containers": [{"name": "app", "running": true, "desired": resources, "declared": resources}],
    })
}

/// Puts `change` over `base`; `-5m` and `+5m` are times around now.
fn over(base: &mut Value, change: &Value) {
    match (base, change) {
        (_, Value::Null) => {}
        (base @ Value::Null, change @ Value::Object(_)) => {
            *base = json!({});
            over(base, change);
        }
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    base.remove(key);
                } else {
                    over(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, Value::String(text)) => *base = moment(text).unwrap_or_else(|| text.as_str().into()),
        (base, change) => *base = change.clone(),
    }
}

fn moment(text: &str) -> Option<Value> {
    let at = if let Some(before) = text.strip_prefix('-') {
        now() - parse_duration(before).ok()?
    } else {
        now() + parse_duration(text.strip_prefix('+')?).ok()?
    };
    Some(at.unix_micros().into())
}

fn policy(change: &Value) -> Policy {
    read(change).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

fn read(change: &Value) -> Result<Policy, Vec<Violation>> {
    let mut spec = json!({"mode": "Auto", "strategy": {"type": "Percentile"}});
    // percentages such as -20% are no times
    merge(&mut spec, change);
    to_policy(&serde_json::from_value(spec).unwrap()).map(|(policy, _)| policy)
}

fn merge(base: &mut Value, change: &Value) {
    match (base, change) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change.clone(),
    }
}

fn run(input: &Input) -> String {
    if let Some(cluster) = &input.cluster {
        return select(cluster);
    }
    if !input.aftermath.is_null() {
        return judge(input);
    }
    let policy = match read(&input.policy) {
        Ok(policy) => policy,
        Err(wrong) => {
            let mut text = String::new();
            for wrong in wrong {
                writeln!(text, "refused: {wrong}").unwrap();
            }
            return text;
        }
    };
    let mut pod = usual_pod();
    over(&mut pod, &input.pod);
    over(&mut pod["node"], &input.node);
    over(&mut pod["containers"][0], &input.container);
    let mut pod: PodFacts = serde_json::from_value(pod).unwrap_or_else(|error| panic!("pod: {error}"));
    let mut at = serde_json::to_value(Circumstances::at(now())).unwrap();
    over(&mut at, &input.at);
    let at: Circumstances = serde_json::from_value(at).unwrap_or_else(|error| panic!("at: {error}"));
    let store = store(&input.usage);
    let variant = Variant {
        revision: pod.revision.clone(),
        node_class: pod.node.as_ref().map_or_else(String::new, |node| node.class.clone()),
    };
    let mut text = String::new();
    for round in 1..=input.rounds {
        if input.rounds > 1 {
            writeln!(text, "round {round}").unwrap();
        }
        let question = Question {
            now: now(),
            window: policy.rolling_window,
            variant: &variant,
            resized: pod.last_resize,
        };
        let evidence =
            store.evidence(&key(), question).unwrap_or_else(|| Evidence::none(now(), policy.rolling_window));
        let phase = if input.starting { Phase::Startup } else { Phase::Runtime };
        let used = store.pod(&key(), &variant, &uid(0));
        let mut sizes = Vec::new();
        for container in &pod.containers {
            let asked = Asked {
                container,
                evidence: &evidence,
                pod: used.as_ref(),
                phase,
                resized: pod.last_resize.is_some(),
                expressions: &Cel,
            };
            let size = recommend(&policy, asked);
            for resource in [Resource::Cpu, Resource::Memory] {
                let sizing = size.of(resource);
                let steps = sizing.explain(resource);
                let name = &size.container;
                match &sizing.hold {
                    Some(hold) => writeln!(text, "{name} {resource}: {}: {}", hold.reason, hold.message),
                    None => writeln!(text, "{name} {resource}: {steps}"),
                }
                .unwrap();
            }
            sizes.push(size);
        }
        if input.savings {
            let Savings { requested, reclaimed, .. } = savings(&pod, &sizes, Amounts::default());
            let cpu = |of: Quantities| MilliCpu(of.cpu.try_into().unwrap());
            let memory = |of: Quantities| Bytes(of.memory.try_into().unwrap());
            let (asks, asks_memory) = (cpu(requested), memory(requested));
            let (gave, gave_memory) = (cpu(reclaimed), memory(reclaimed));
            writeln!(text, "asks for {asks} {asks_memory}, gave back {gave} {gave_memory}").unwrap();
        }
        let decision = decide(&policy, &pod, &sizes, &at);
        write!(text, "{decision}").unwrap();
        if let optipod_common::decide::Decision::Resize { plan, .. } = &decision {
            for change in &plan.changes {
                let container = pod.containers.iter_mut().find(|c| c.name == change.container).unwrap();
                container.desired = container.desired.overlaid(change.to);
            }
        }
    }
    text
}

/// Which policy each pod follows, or why it follows none.
fn select(cluster: &Cluster) -> String {
    fn read<T: DeserializeOwned>(value: Value) -> Delta<T> {
        let object = serde_json::from_value(value).unwrap_or_else(|error| panic!("cluster: {error}"));
        Delta::Apply(Box::new(object))
    }
    let meta = |name: &str, more: &Value| {
        let mut meta = json!({"namespace": "shop", "name": name, "uid": name, "resourceVersion": "1"});
        merge(&mut meta, more);
        meta
    };
    let mut index = Index::new("optipod-system".to_owned(), Vec::new(), FIELD_MANAGER);
    let namespace = read(json!({"metadata": {"name": "shop"}}));
    index.apply(Change::Namespaces(namespace), now());
    for (name, spec) in &cluster.policies {
        let object = json!({"apiVersion": "optipod.io/v1alpha1", "kind": "OptimizationPolicy",
            "metadata": meta(name, &Value::Null), "spec": spec});
        index.apply(Change::Policies(read(object)), now());
    }
    for (name, more) in &cluster.pods {
        let object = json!({"metadata": meta(name, more), "spec": {"containers": [{"name": "app"}]}});
        index.apply(Change::Pods(read(object)), now());
    }
    let selection = index.select();
    let mut text = String::new();
    for (policy, workloads) in &selection.by_policy {
        for workload in workloads {
            match &workload.held {
                None => writeln!(text, "{} follows {policy}", workload.workload),
                Some(held) => {
                    writeln!(
                        text,
                        "{} follows {policy}\n  {:?}: {}",
                        workload.workload, held.by, held.message
                    )
                }
            }
            .unwrap();
        }
    }
    for (policy, lost) in &selection.conflicts {
        for (workload, winner) in lost {
            writeln!(text, "{policy}\n  {}: {workload} belongs to {winner}", Reason::PolicyConflict).unwrap();
        }
    }
    text
}

fn judge(input: &Input) -> String {
    let from = json!({"requests": {"cpu": "1", "memory": "512Mi"}});
    let to = json!({"requests": {"cpu": "200m", "memory": "128Mi"}});
    let mut seen = json!({
        "plan": {"direction": "Decrease", "changes": [{"container": "app", "sidecar": false, "from": from, "to": to}]},
        "since": now().unix_micros(), "oomKills": 0, "restarts": 0,
        "before": {"throttled": 0, "stalled": 0}, "after": {"throttled": 0, "stalled": 0},
        "siblings": null, "nodeHasRoom": null, "quotaHasRoom": null,
    });
    over(&mut seen, &input.aftermath);
    let seen: Aftermath = serde_json::from_value(seen).unwrap_or_else(|error| panic!("aftermath: {error}"));
    match rollback(&policy(&input.policy).update.rollback, &seen) {
        optipod_common::decide::RollbackVerdict::Keep => "keep\n".to_owned(),
        optipod_common::decide::RollbackVerdict::TakeBack { plan, reason, message } => {
            format!("take back {plan}\n  {reason}: {message}\n")
        }
        optipod_common::decide::RollbackVerdict::Deferred { reason, message } => {
            format!("{}\n  {reason}: {message}\n", Reason::RollbackDeferred)
        }
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/golden/decisions")
}

fn files() -> Vec<(PathBuf, String)> {
    let mut files: Vec<_> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn scenarios_come_out_as_written() {
    let mut wrong = String::new();
    for (path, text) in files() {
        let mut anew = String::new();
        let mut scenarios = text.split("=== ");
        anew.push_str(scenarios.next().unwrap_or_default());
        for scenario in scenarios {
            let (title, rest) = scenario.split_once('\n').unwrap_or((scenario, ""));
            let (input, _) = rest.split_once("---\n").unwrap_or((rest, ""));
            let parsed: Input = if input.trim().is_empty() {
                Input::default()
            } else {
                serde_yaml_ng::from_str(input).unwrap_or_else(|error| panic!("{title}: {error}"))
            };
            writeln!(anew, "=== {title}\n{}\n---\n{}", input.trim_end(), run(&parsed)).unwrap();
        }
        let anew = anew.trim_end().to_owned() + "\n";
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, &anew).unwrap();
        } else if anew != text {
            let at = anew.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or(0);
            let line = |text: &str| text.lines().nth(at).unwrap_or("nothing").to_owned();
            let (is, was) = (line(&anew), line(&text));
            writeln!(wrong, "{}:{}: {is:?} instead of {was:?}", path.display(), at + 1).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}UPDATE_GENERATED=1 writes them anew");
}

#[test]
fn each_reason_has_a_scenario() {
    let outcomes: String = files()
        .iter()
        .flat_map(|(_, text)| text.split("---\n").skip(1))
        .filter_map(|part| part.split("=== ").next())
        .collect();
    let missing: Vec<&str> = Reason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .filter(|reason| !outcomes.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == *reason))
        .collect();
    assert!(missing.is_empty(), "no scenario shows {missing:?}");
}

/// What a resize changes around a pod, by the name that scenarios have before their colon.
const HAZARDS: &[(&str, &str)] = &[
    // ---- what must not be taken for granted
    ("A1", "a running size is not a replacement size"),
    ("A2", "a change may not be possible to take back"),
    ("A3", "raises reserve, so they come first"),
    ("A4", "writing to an owner rolls its pods"),
    ("A5", "merged percentiles hide the hot pod"),
    ("A6", "another revision is other evidence"),
    ("A7", "less requested memory is evicted earlier"),
    ("A8", "a peak of a lifetime has the start in it"),
    ("A9", "less CPU for Burstable pods is less for all of them"),
    ("A10", "Guaranteed and BestEffort pods keep their class"),
    ("A11", "slots of different length do not merge"),
    ("A12", "resizes cost writes"),
    ("A13", "an autoscaler computes with the request"),
    ("A14", "a day is not a week"),
    ("A15", "somebody else writes the cgroup"),
    ("A16", "a new version of a strategy is a storm"),
    // ---- situations
    ("node autoscalers", "their annotations are respected"),
    ("start-up boost", "limits, and requests where the node has room"),
    ("draining", "nodes and pods that are about to go"),
    ("admission", "pods that are bound and not admitted"),
    ("lost Job", "a raise may take the room of a pod that is bound"),
    ("quota", "room for the last step back"),
    ("MemoryQoS", "a memory request is enforced"),
    ("swap", "memory says too little"),
    ("static managers", "CPUs and memory of a container's own"),
    ("pod-level resources", "the pod has the size, not the container"),
    ("resourceFieldRef", "the process was told its size"),
    ("fixed heap", "JVM, Node: sized from the memory limit at start"),
    ("Go", "parallelism follows the CPU limit"),
    ("RuntimeClass", "sandboxes do not follow"),
    ("overhead", "what a sandbox takes is requested, too"),
    ("DaemonSet", "new nodes run the template's size"),
    ("unobserved", "no agent sees the pod"),
    ("node classes", "CPUs are unlike"),
    ("singleton", "a standby may be promoted"),
    ("Job", "running pods are only raised"),
    ("queue", "requests are counted by somebody else"),
    ("RestartContainer", "a resize restarts"),
    ("GitOps", "a tool would undo it"),
    ("cpu.max.burst", "the kernel refuses a lower limit"),
    ("tmpfs", "files are memory"),
    ("PSI", "a stall because of the container's own limit is none"),
    ("new neighbour", "a stall that siblings have, too"),
    ("new leader", "replays are not in yet"),
    ("clock jump", "ages are wrong"),
    ("breaker", "harm stops decreases"),
];

/// The hazards that no title names.
fn unnamed<'a>(hazards: &[(&'a str, &str)], titles: &[&str]) -> Vec<&'a str> {
    let shown =
        |hazard: &str| titles.iter().any(|title| title.split_once(": ").is_some_and(|t| t.0 == hazard));
    hazards.iter().map(|(name, _)| *name).filter(|name| !shown(name)).collect()
}

#[test]
fn each_hazard_has_a_scenario() {
    let files = files();
    let titles: Vec<&str> = files
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.strip_prefix("=== "))
        .collect();
    assert_eq!(unnamed(HAZARDS, &titles), Vec::<&str>::new(), "no scenario is about these");
    // a hazard that nobody shows is found, and one that is only mentioned does not count as shown
    let invented = [("swap", ""), ("holdout", ""), ("limit", "")];
    assert_eq!(unnamed(&invented, &["swap: held", "a limit: with a holdout"]), ["holdout", "limit"]);
}
