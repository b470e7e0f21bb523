//! Background processes of an instance: started detached, found again, and stopped without touching anything else.
//!
//! Every process carries the instance's name in its environment. That, not a process id from a file, says what may be
//! killed: it survives a crash between start and bookkeeping, and a reused id cannot match.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{command::shown, instance::Instance, network::Namespace};

/// Environment variable that marks a process as part of the instance that it names.
const MARK: &str = "OPTIPOD_LAB_INSTANCE";
/// SIGKILL takes effect within milliseconds; a large QEMU needs some time to give its memory back.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// A process with the moment of its start, which tells it from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub id: i32,
    /// Clock ticks from boot to its start.
    started: u64,
}

impl Process {
    /// The running process of that id.
    pub fn of(id: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        parse_stat(&stat).map(|started| Self { id, started })
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        Self::of(self.id) == Some(self)
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, started) = text.trim().split_once(' ')?;
        Some(Self { id: id.parse().ok()?, started: started.parse().ok()? })
    }
}

/// Start time from `/proc/ID/stat`; none for a zombie, which runs no more. The name field may hold anything.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Starts `command` (made by [`Namespace::command`] or not) detached from the terminal, output into the component's log.
pub fn spawn(
    instance: &Instance,
    component: &str,
    program: &Command,
    namespace: &Namespace,
) -> Result<Process> {
    let log = instance.log(component);
    let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let errors = output.try_clone().context("cannot duplicate a log descriptor")?;
    let mut command = namespace.command("setsid");
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env(MARK, instance.name()).current_dir(instance.folder());
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = command.spawn().with_context(|| format!("cannot start `{}`", shown(program)))?;
    let id = i32::try_from(child.id()).context("a process id beyond the kernel's range")?;
    let process =
        Process::of(id).ok_or_else(|| anyhow!("{component} ended at once: see {}", log.display()))?;
    let path = instance.pid_file(component);
    fs::write(&path, format!("{} {}\n", process.id, process.started))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(process)
}

/// The process that the pid file names, while it runs.
pub fn recorded(pid_file: &Path) -> Option<Process> {
    let process = Process::parse(&fs::read_to_string(pid_file).ok()?)?;
    process.alive().then_some(process)
}

/// Every running process of that instance, except the caller.
pub fn marked(name: &str) -> Result<Vec<Process>> {
    let mark = format!("{MARK}={name}");
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.filter_map(Result::ok) {
        let file_name = entry.file_name();
        let Some(id) = file_name.to_str().filter(|&id| id != own).and_then(|id| id.parse().ok()) else {
            continue;
        };
        // A process may end while we look at it: then it is not one of ours any more.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.extend(Process::of(id));
        }
    }
    Ok(found)
}

/// Kills every process of that instance and waits until they are gone. Nothing is worth a clean shutdown: the data
/// goes with the run folder.
pub fn stop_all(name: &str) -> Result<usize> {
    let deadline = Instant::now() + KILL_WAIT;
    let (mut stopped, mut quiet) = (0, 0);
    loop {
        let alive = marked(name)?;
        // Twice: in the middle of `execve` a process shows no environment for a moment.
        quiet = if alive.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok(stopped);
        }
        stopped = stopped.max(alive.len());
        if Instant::now() > deadline {
            bail!("processes {:?} do not end", alive.iter().map(|process| process.id).collect::<Vec<_>>());
        }
        for process in alive {
            if let Some(id) = Pid::from_raw(process.id) {
                // It may have ended since we looked; the next round tells.
                let _ = kill_process(id, Signal::KILL);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_odd_name_is_parsed_and_zombie_is_not_running() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 777 1 1";
        assert_eq!(parse_stat(&format!("7 (a) b) S {rest}")), Some(777));
        assert_eq!(parse_stat(&format!("7 (a) Z {rest}")), None);
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn pid_file_of_an_earlier_process_with_the_same_id_names_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let own = Process::of(std::process::id().try_into().unwrap()).unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, format!("{} {}\n", own.id, own.started)).unwrap();
        assert_eq!(recorded(&path), Some(own));
        fs::write(&path, format!("{} {}\n", own.id, own.started + 1)).unwrap();
        assert_eq!(recorded(&path), None);
    }

    #[test]
    fn only_marked_processes_are_stopped() {
        let sleep = |mark: &str| Command::new("sleep").arg("60").env(MARK, mark).spawn().unwrap();
        let (mut ours, mut other) = (sleep("unit-test-ours"), sleep("unit-test-other"));
        assert_eq!(stop_all("unit-test-ours").unwrap(), 1);
        assert!(!ours.wait().unwrap().success() && other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
