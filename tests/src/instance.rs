//! One running lab: its name, its folder, and what it remembers between commands.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{cache, network::Namespace, process, tools::Tools};

/// The instance that commands mean when they do not say `--name`.
pub const DEFAULT_NAME: &str = "optipod-lab";
/// Namespaces are machine-wide, so are run folders. On disk, not in `/run`: they hold etcd's data and the nodes' disks;
/// short, since they hold Unix sockets.
const RUN: &str = "/var/lib/optipod-lab";
/// Longest name: with the folder before it, a socket path stays below 108 bytes.
const NAME_LENGTH: usize = 40;

/// A named instance, running or not.
#[derive(Debug, Clone)]
pub struct Instance {
    name: String,
    folder: PathBuf,
}

/// What `up` wrote down for the commands that follow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Binaries that this instance runs.
    pub tools: Tools,
    /// Number of nodes; 0 with `--control-plane-only`.
    pub nodes: u8,
    /// Number of simulated nodes.
    #[serde(default)]
    pub simulated: u16,
    /// Whether `up` got to its end.
    pub complete: bool,
}

impl Instance {
    /// The instance of that name.
    pub fn new(name: &str) -> Result<Self> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > NAME_LENGTH || !name.chars().all(valid) || name.starts_with('-') {
            bail!("--name {name:?}: 1 to {NAME_LENGTH} of a-z, 0-9 and '-', not '-' first");
        }
        Ok(Self { name: name.to_owned(), folder: Path::new(RUN).join(name) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its run folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its network.
    pub fn namespace(&self) -> Namespace {
        Namespace::new(format!("lab-{}", self.name))
    }

    /// Folder of logs.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Log of one component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    /// Cgroup files of the simulated nodes, a folder each.
    pub fn cgroups(&self) -> PathBuf {
        self.folder.join("cgroups")
    }

    /// Pid file of one component.
    pub fn pid_file(&self, component: &str) -> PathBuf {
        self.folder.join("pid").join(component)
    }

    /// Folder of certificates and kubeconfigs.
    pub fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki().join("admin.conf")
    }

    /// Who the simulated nodes are to the API server.
    pub fn simulator_config(&self) -> PathBuf {
        self.pki().join("simulator.conf")
    }

    /// What the registry serves.
    pub fn registry(&self) -> PathBuf {
        self.folder.join("registry")
    }

    /// Makes the empty run folder, for root only: it holds keys.
    pub fn create(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in [self.folder.clone(), self.logs(), self.pki(), self.folder.join("pid"), self.registry()]
        {
            let mut builder = fs::DirBuilder::new();
            let made = builder.mode(0o700).recursive(true).create(&folder);
            made.with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(())
    }

    /// What `up` wrote down, none when this name was never started or was taken down.
    pub fn state(&self) -> Result<Option<State>> {
        match fs::read(self.state_file()) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.state_file().display())),
        }
    }

    /// Writes the state down, complete or not at all.
    pub fn remember(&self, state: &State) -> Result<()> {
        let temporary = self.state_file().with_extension("tmp");
        let bytes = serde_json::to_vec_pretty(state).context("cannot write the state down")?;
        fs::write(&temporary, bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
        fs::rename(&temporary, self.state_file()).context("cannot rename the state file")
    }

    /// Whether anything of this instance exists: folder, namespace or process.
    pub fn exists(&self) -> Result<bool> {
        Ok(self.folder.exists() || self.namespace().exists() || !process::marked(&self.name)?.is_empty())
    }

    /// Names of the components that have a pid file, with their process while it runs.
    pub fn components(&self) -> Vec<(String, Option<process::Process>)> {
        let Ok(entries) = fs::read_dir(self.folder.join("pid")) else { return Vec::new() };
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut found: Vec<_> =
            paths.filter_map(|path| name(&path).map(|name| (name, process::recorded(&path)))).collect();
        found.sort_by(|left, right| left.0.cmp(&right.0));
        found
    }

    /// The lock that `up` and `down` hold; an error says that another one runs now.
    pub fn lock(&self) -> Result<File> {
        fs::create_dir_all(RUN).with_context(|| format!("cannot create {RUN} (the lab needs root)"))?;
        let file = cache::open_lock(&Path::new(RUN).join(format!("{}.lock", self.name)))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another `lab up` or `lab down` of {:?} runs now: wait, or stop it with Ctrl-C", self.name);
        }
        Ok(file)
    }

    /// Stops and removes all of it; fine when there is nothing.
    pub fn remove(&self) -> Result<usize> {
        let stopped = process::stop_all(&self.name)?;
        self.namespace().delete()?;
        cache::remove(&self.folder)?;
        Ok(stopped)
    }

    fn state_file(&self) -> PathBuf {
        self.folder.join("state.json")
    }
}

/// Names of all instances that have a run folder.
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(RUN) else { return Vec::new() };
    let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_or_break_a_socket_path_are_refused() {
        for bad in ["", "../x", "a/b", "A", "-x", &"x".repeat(41)] {
            assert!(Instance::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Instance::new("two").unwrap().namespace().name(), "lab-two");
    }
}
