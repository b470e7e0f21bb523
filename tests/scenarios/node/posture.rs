//! What the programs may do on the node, as its kernel sees it.

use anyhow::{Context, Result, ensure};

use crate::guest;
use crate::pod::Life;
use crate::space::Space;

/// Of `/proc/<pid>/status`.
const EXPECTED: [(&str, &str); 9] = [
    ("Uid:", "65532 65532 65532 65532"),
    ("Gid:", "65532 65532 65532 65532"),
    ("CapInh:", "0000000000000000"),
    ("CapPrm:", "0000000000000000"),
    ("CapEff:", "0000000000000000"),
    ("CapBnd:", "0000000000000000"),
    ("CapAmb:", "0000000000000000"),
    ("NoNewPrivs:", "1"),
    // a filter
    ("Seccomp:", "2"),
];

pub fn both_programs_run_without_privileges(space: &Space<'_>) -> Result<()> {
    let cluster = space.cluster;
    for component in ["agent", "coordinator"] {
        for life in Life::of_component(cluster, component)? {
            let processes = guest::processes(cluster, &life)?;
            ensure!(processes.len() == 1, "{component} has processes {processes:?}");
            for process in processes {
                let status = cluster.guest(&format!("cat /proc/{process}/status"))?;
                for (key, expected) in EXPECTED {
                    let line = status.lines().find_map(|line| line.strip_prefix(key));
                    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
                    ensure!(words.join(" ") == expected, "{component}: {key} {words:?}, not {expected}");
                }
                let complaint = cluster.guest_complaint(&format!("touch /proc/{process}/root/written"))?;
                ensure!(complaint.contains("Read-only file system"), "{component}: {complaint}");
            }
        }
    }
    Ok(())
}

/// Written through the agent's own mount, and by root: what holds root back holds the agent back.
pub fn agent_cannot_write_to_the_cgroups_it_reads(space: &Space<'_>) -> Result<()> {
    let cluster = space.cluster;
    for life in Life::of_component(cluster, "agent")? {
        let process = *guest::processes(cluster, &life)?.first().context("the agent has no process")?;
        let cgroups = format!("/proc/{process}/root/host/sys/fs/cgroup/kubepods.slice");
        cluster.guest(&format!("cat {cgroups}/cpu.stat"))?;
        for write in [format!("echo 100 > {cgroups}/cpu.weight"), format!("mkdir {cgroups}/new.slice")] {
            let complaint = cluster.guest_complaint(&write)?;
            ensure!(complaint.contains("Read-only file system"), "{complaint}");
        }
        // nothing else of the host
        let mounts = cluster.guest(&format!("cat /proc/{process}/mounts"))?;
        let device =
            |line: &&str| line.starts_with("/dev/") && !line.contains(" /etc/") && !line.contains(" /dev/");
        let foreign: Vec<_> = mounts.lines().filter(device).collect();
        ensure!(foreign.is_empty(), "mounts of the host: {foreign:?}");
    }
    Ok(())
}
