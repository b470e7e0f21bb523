//! From what is allocated to what the runtime does: which containers are updated, which restart, and when the kubelet
//! does not even try. Reference: kubernetes 1.36, `pkg/kubelet/kuberuntime`, `computePodResizeAction` and
//! `validateMemoryResizeAction`.

use optipod_common::quantity::Bytes;
use optipod_common::resources::{Amounts, Resources};

/// Which changes need a restart (`resizePolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartOn {
    /// Of a CPU request or limit.
    pub cpu: bool,
    /// Of a memory request or limit.
    pub memory: bool,
}

/// A container that runs.
#[derive(Clone, Debug)]
pub struct Running<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it was promised.
    pub allocated: Resources,
    /// What it has.
    pub actuated: Resources,
    /// Its resize policy.
    pub restart_on: RestartOn,
    /// `memory.current`; `None` = nobody knows yet.
    pub memory_bytes: Option<u64>,
}

impl Running<'_> {
    fn changes(&self) -> (bool, bool) {
        let of = |pick: fn(&Amounts) -> u64| {
            let both = |size: &Resources| (pick(&size.requests), pick(&size.limits));
            both(&self.allocated) != both(&self.actuated)
        };
        (of(|a| a.cpu.map_or(0, |cpu| cpu.0)), of(|a| a.memory.map_or(0, |memory| memory.0)))
    }

    /// The lower memory limit that it is to get.
    fn lower_memory_limit(&self) -> Option<u64> {
        let Bytes(new) = self.allocated.limits.memory.filter(|limit| limit.0 > 0)?;
        let old = self.actuated.limits.memory.map_or(0, |limit| limit.0);
        (old == 0 || new < old).then_some(new)
    }
}

/// What to do about the running containers of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers that are stopped and started with their new size.
    pub restart: Vec<String>,
    /// Containers that get their new size as they run.
    pub update: Vec<String>,
    /// Why nothing is updated now; restarts happen nevertheless.
    pub refused: Option<String>,
}

/// Compares what is with what was promised. `pod_memory_limit` is that of the pod's cgroup, now and wanted.
pub fn plan(running: &[Running<'_>], pod_memory_limit: (Option<u64>, Option<u64>)) -> Plan {
    let mut plan = Plan::default();
    let mut memory_changes = Vec::new();
    for container in running {
        let (cpu, memory) = container.changes();
        let RestartOn { cpu: on_cpu, memory: on_memory } = container.restart_on;
        if (cpu && on_cpu) || (memory && on_memory) {
            plan.restart.push(container.name.to_owned());
        } else if cpu || memory {
            plan.update.push(container.name.to_owned());
            if memory {
                memory_changes.push(container);
            }
        }
    }
    if !memory_changes.is_empty() || !plan.restart.is_empty() {
        // a container that is stopped first uses nothing any more
        let stays = |container: &&Running<'_>| !plan.restart.iter().any(|name| name == container.name);
        let staying: Vec<&Running<'_>> = running.iter().filter(stays).collect();
        plan.refused = refusal(&memory_changes, &staying, pod_memory_limit);
    }
    plan
}

fn refusal(
    changes: &[&Running<'_>],
    staying: &[&Running<'_>],
    (now, wanted): (Option<u64>, Option<u64>),
) -> Option<String> {
    let lower_pod_limit = wanted.filter(|wanted| now.is_none_or(|now| *wanted < now));
    let lower: Vec<_> =
        changes.iter().filter_map(|change| Some((change, change.lower_memory_limit()?))).collect();
    let mut errors = Vec::new();
    // a pod whose containers nobody has measured yet has no usage either
    let pod_usage: u64 = staying.iter().filter_map(|container| container.memory_bytes).sum();
    if let Some(limit) = lower_pod_limit {
        if staying.iter().any(|container| container.memory_bytes.is_none()) {
            errors.push("missing pod memory usage".to_owned());
        } else if !staying.is_empty() && pod_usage >= limit {
            errors.push(format!(
                "attempting to set pod memory limit ({limit}) below current usage ({pod_usage})"
            ));
        }
    }
    for (container, limit) in lower {
        match container.memory_bytes {
            None => errors.push(format!("missing container {:?} memory usage", container.name)),
            // the kubelet prints the usage of the pod here
            Some(usage) if usage >= limit => errors.push(format!(
                "attempting to set container {:?} memory limit ({limit}) below current usage ({pod_usage})",
                container.name
            )),
            Some(_) => {}
        }
    }
    let list = match errors.as_slice() {
        [] => return None,
        [one] => one.clone(),
        _ => format!("[{}]", errors.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use optipod_common::quantity::MilliCpu;

    const MIB: u64 = 1 << 20;

    fn size(cpu: u64, request: u64, limit: u64) -> Resources {
        Resources {
            requests: Amounts { cpu: Some(MilliCpu(cpu)), memory: Some(Bytes(request * MIB)) },
            limits: Amounts { cpu: Some(MilliCpu(cpu * 2)), memory: Some(Bytes(limit * MIB)) },
        }
    }

    fn running(actuated: Resources, allocated: Resources, used: u64) -> Running<'static> {
        let memory_bytes = Some(used * MIB);
        Running { name: "c", allocated, actuated, restart_on: RestartOn::default(), memory_bytes }
    }

    #[test]
    fn cpu_and_growing_memory_are_updated_whatever_is_used() {
        let cpu = running(size(100, 50, 100), size(200, 50, 100), 99);
        let grow = running(size(100, 50, 100), size(100, 50, 200), 99);
        for (container, wanted) in [(cpu, 100), (grow, 200)] {
            let plan = plan(&[container], (Some(100 * MIB), Some(wanted * MIB)));
            assert_eq!(plan, Plan { update: vec!["c".to_owned()], ..Plan::default() });
        }
    }

    #[test]
    fn limit_at_or_below_usage_is_refused_for_pod_and_container() {
        let refused =
            plan(&[running(size(100, 50, 200), size(100, 50, 81), 81)], (Some(200 * MIB), Some(81 * MIB)));
        let usage = 81 * MIB;
        let expected = format!(
            "cannot decrease memory limits: [attempting to set pod memory limit ({usage}) below current usage ({usage}), \
             attempting to set container \"c\" memory limit ({usage}) below current usage ({usage})]"
        );
        assert_eq!(refused.refused, Some(expected));
        let room =
            plan(&[running(size(100, 50, 200), size(100, 50, 82), 81)], (Some(200 * MIB), Some(82 * MIB)));
        assert_eq!(room.refused, None);
    }

    #[test]
    fn memory_request_alone_restarts_a_container_whose_memory_policy_says_so() {
        let mut container = running(size(100, 50, 100), size(100, 60, 100), 10);
        container.restart_on.memory = true;
        let plan = plan(&[container], (Some(100 * MIB), Some(100 * MIB)));
        assert_eq!(plan, Plan { restart: vec!["c".to_owned()], ..Plan::default() });
    }

    #[test]
    fn unknown_usage_refuses_a_lower_limit_and_nothing_else() {
        let mut container = running(size(100, 50, 200), size(50, 50, 100), 0);
        container.memory_bytes = None;
        let refused = plan(&[container.clone()], (None, None)).refused.unwrap();
        assert_eq!(refused, "cannot decrease memory limits: missing container \"c\" memory usage");
        container.allocated = size(50, 50, 200);
        assert_eq!(plan(&[container], (None, None)).refused, None);
    }
}
