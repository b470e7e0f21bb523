//! Whether the demo showed what it promises. Pure: two snapshots in, a list of checks out.

use anyhow::{Context, Result};

use super::{
    quantity::{show_bytes, show_millicores},
    read::{Pod, Sizes},
};

/// How far `cpu.max` may be from the limit, in millicores: systemd rounds to percents.
const CPU_TOLERANCE: u64 = 10;
/// The kernel counts memory in pages.
const PAGE: u64 = 4096;

/// Which way a workload is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Asks for more than it uses.
    OverAsking,
    /// Is throttled at its limit.
    UnderAsking,
}

impl Story {
    /// Both, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::OverAsking, Self::UnderAsking];

    /// Name of the Deployment and of its file.
    pub fn workload(self) -> &'static str {
        match self {
            Self::OverAsking => "over-asking",
            Self::UnderAsking => "under-asking",
        }
    }
}

/// What the kernel enforces for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// `cpu.max` as it is written there.
    pub cpu_max: String,
    /// `cpu.weight`.
    pub cpu_weight: u64,
    /// `memory.max` as it is written there.
    pub memory_max: String,
}

impl Cgroup {
    /// Reads lines of file name and value, as `optipod-load cgroup` prints them.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |file: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(file)?.strip_prefix(' '));
            found.map(str::trim).with_context(|| format!("no {file} in {text:?}"))
        };
        let weight = value("cpu.weight")?;
        let cpu_weight = weight.parse().with_context(|| format!("cpu.weight is {weight:?}"))?;
        Ok(Self {
            cpu_max: value("cpu.max")?.to_owned(),
            cpu_weight,
            memory_max: value("memory.max")?.to_owned(),
        })
    }

    /// `cpu.max` in millicores; none without a limit.
    pub fn cpu_limit(&self) -> Option<u64> {
        let (quota, period) = self.cpu_max.split_once(' ')?;
        quota.parse::<u64>().ok()?.checked_mul(1000)?.checked_div(period.parse().ok()?)
    }

    fn memory_limit(&self) -> Option<u64> {
        self.memory_max.parse().ok()
    }
}

/// A workload's pod and its container's cgroup at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The pod.
    pub pod: Pod,
    /// Its container's cgroup.
    pub cgroup: Cgroup,
}

/// One thing that must be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Whether it is.
    pub holds: bool,
    /// What, with the numbers.
    pub text: String,
}

fn check(holds: bool, text: String) -> Check {
    Check { holds, text }
}

/// Whether the pod spec says what the story promises, and the kubelet has done it: worth a look into the cgroup.
pub fn resized(story: Story, before: &Sizes, pod: &Pod) -> bool {
    pod.wanted == pod.done && moves(story, before, &pod.wanted).iter().all(|check| check.holds)
}

/// Whether the pod is another one or was restarted: then waiting is pointless.
pub fn lost(before: &Pod, after: &Pod) -> bool {
    !identity(before, after).iter().all(|check| check.holds)
}

/// Everything that must be true of one workload.
pub fn checks(story: Story, before: &Snapshot, after: &Snapshot) -> Vec<Check> {
    let (old, new) = (&before.pod, &after.pod);
    let mut checks = identity(old, new);
    checks.extend(moves(story, &old.wanted, &new.wanted));
    checks.push(check(new.wanted == new.done, "the kubelet reports the sizes of the pod spec".to_owned()));
    for (when, Snapshot { pod, cgroup }) in [("before", before), ("after", after)] {
        let enforced = cgroup.cpu_limit();
        let near = |limit: u64| enforced.is_some_and(|value| value.abs_diff(limit) <= CPU_TOLERANCE);
        let limit = shown_cpu(pod.wanted.cpu_limit);
        let text = format!("cpu.max {when} is {}, the limit {limit}", cgroup.cpu_max);
        checks.push(check(pod.wanted.cpu_limit.is_some_and(near), text));
        let limit = pod.wanted.memory_limit;
        let text = format!("memory.max {when} is {}, the limit {}", cgroup.memory_max, shown_memory(limit));
        let pages = |value: Option<u64>| value.map(|value| value / PAGE);
        checks.push(check(limit.is_some() && pages(cgroup.memory_limit()) == pages(limit), text));
    }
    let (was, is) = (before.cgroup.cpu_weight, after.cgroup.cpu_weight);
    let direction = is.cmp(&was) == new.wanted.cpu_request.cmp(&old.wanted.cpu_request);
    checks.push(check(direction, format!("cpu.weight follows the CPU request: {was} > {is}")));
    if story == Story::UnderAsking {
        let grown = after.cgroup.cpu_limit() > before.cgroup.cpu_limit();
        let text = format!("cpu.max grew: {} > {}", before.cgroup.cpu_max, after.cgroup.cpu_max);
        checks.push(check(grown, text));
    }
    checks
}

fn identity(before: &Pod, after: &Pod) -> Vec<Check> {
    let same_pod = before.uid == after.uid && !after.uid.is_empty();
    let same_container = before.container_id == after.container_id && !after.container_id.is_empty();
    vec![
        check(same_pod, format!("it is the same pod: {} > {}", before.uid, after.uid)),
        check(same_container, format!("same container: {} > {}", before.container_id, after.container_id)),
        check(after.restarts == 0, format!("restarts: {}", after.restarts)),
    ]
}

fn moves(story: Story, before: &Sizes, after: &Sizes) -> Vec<Check> {
    let below =
        |new: Option<u64>, old: Option<u64>| matches!((new, old), (Some(new), Some(old)) if new < old);
    let cpu = |old, new| format!("{} > {}", shown_cpu(old), shown_cpu(new));
    let memory = |old, new| format!("{} > {}", shown_memory(old), shown_memory(new));
    match story {
        Story::OverAsking => vec![
            check(
                below(after.cpu_request, before.cpu_request),
                format!("the CPU request is lower: {}", cpu(before.cpu_request, after.cpu_request)),
            ),
            check(
                below(after.memory_request, before.memory_request),
                format!(
                    "the memory request is lower: {}",
                    memory(before.memory_request, after.memory_request)
                ),
            ),
        ],
        Story::UnderAsking => vec![check(
            below(before.cpu_limit, after.cpu_limit),
            format!("the CPU limit is higher: {}", cpu(before.cpu_limit, after.cpu_limit)),
        )],
    }
}

/// A CPU amount for a person, `-` when there is none.
pub fn shown_cpu(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), show_millicores)
}

/// A memory amount for a person, `-` when there is none.
pub fn shown_memory(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), show_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(cpu: (u64, u64), memory: (u64, u64), cgroup: (&str, u64, &str)) -> Snapshot {
        let wanted = Sizes {
            cpu_request: Some(cpu.0),
            cpu_limit: Some(cpu.1),
            memory_request: Some(memory.0 << 20),
            memory_limit: Some(memory.1 << 20),
        };
        let pod = Pod { uid: "u".into(), container_id: "c".into(), wanted, done: wanted, ..Pod::default() };
        let text = format!("cpu.max {}\ncpu.weight {}\nmemory.max {}\n", cgroup.0, cgroup.1, cgroup.2);
        Snapshot { pod, cgroup: Cgroup::parse(&text).unwrap() }
    }

    fn over() -> (Snapshot, Snapshot) {
        let before = snapshot((1000, 2000), (512, 1024), ("200000 100000", 100, "1073741824"));
        (before, snapshot((29, 60), (24, 48), ("6000 100000", 7, "50331648")))
    }

    fn failed(story: Story, before: &Snapshot, after: &Snapshot) -> Vec<String> {
        let checks = checks(story, before, after);
        checks.into_iter().filter(|check| !check.holds).map(|check| check.text).collect()
    }

    #[test]
    fn both_stories_hold() {
        let (before, after) = over();
        assert_eq!(failed(Story::OverAsking, &before, &after), Vec::<String>::new());
        let before = snapshot((100, 200), (32, 128), ("20000 100000", 17, "134217728"));
        let after = snapshot((408, 820), (24, 96), ("82000 100000", 50, "100663296"));
        assert_eq!(failed(Story::UnderAsking, &before, &after), Vec::<String>::new());
    }

    #[test]
    fn each_lie_is_found() {
        let (before, good) = over();
        let mut other = good.clone();
        other.pod.uid = "v".to_owned();
        other.pod.restarts = 1;
        assert_eq!(failed(Story::OverAsking, &before, &other), ["it is the same pod: u > v", "restarts: 1"]);
        assert!(lost(&before.pod, &other.pod) && !lost(&before.pod, &good.pod));

        let stale = Snapshot { cgroup: before.cgroup.clone(), ..good.clone() };
        let said = failed(Story::OverAsking, &before, &stale);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said.iter().any(|text| text == "cpu.max after is 200000 100000, the limit 60m"), "{said:?}");

        let unlimited = Snapshot {
            cgroup: Cgroup { cpu_max: "max 100000".into(), ..good.cgroup.clone() },
            ..good.clone()
        };
        assert_eq!(failed(Story::OverAsking, &before, &unlimited).len(), 1);

        assert!(failed(Story::UnderAsking, &before, &good).len() >= 2, "a shrunk limit is no growth");
    }

    #[test]
    fn nothing_is_resized_before_the_kubelet_says_so() {
        let (before, mut after) = over();
        assert!(resized(Story::OverAsking, &before.pod.wanted, &after.pod));
        assert!(!resized(Story::OverAsking, &before.pod.wanted, &before.pod));
        after.pod.done = before.pod.done;
        assert!(!resized(Story::OverAsking, &before.pod.wanted, &after.pod));
    }

    #[test]
    fn missing_cgroup_file_is_an_error() {
        assert!(Cgroup::parse("cpu.max max 100000\nmemory.max max\n").is_err());
    }
}
