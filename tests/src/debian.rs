//! Debian packages for the node image, fetched beside the machine's own apt state.
//!
//! The mirror is the one that this machine already uses. The suites of the image are not the machine's, so apt gets
//! private source lists and folders. `Valid-Until` is not checked: a lab on a machine with a wrong clock, or behind a
//! frozen mirror, must still start; signatures are checked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::command::{self, command};

/// Debian's own signing keys.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The code name of the Debian release that runs here, from `os-release`.
pub fn codename(os_release: &str) -> Result<String> {
    let field = |name: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim_matches('"').to_owned())
    };
    if field("ID").as_deref() != Some("debian") {
        bail!("the lab runs on Debian 12 or newer (a container of it is enough), this is {:?}", field("ID"));
    }
    field("VERSION_CODENAME").ok_or_else(|| anyhow!("no VERSION_CODENAME in /etc/os-release"))
}

/// The base address of the mirror that apt uses for `suite` on this machine.
pub fn mirror(suite: &str) -> Result<String> {
    let targets = index_targets()?;
    let found = targets.lines().find_map(|line| line.strip_suffix(&format!(" {suite}")));
    found.map(|uri| uri.trim_end_matches('/').to_owned()).ok_or_else(|| {
        anyhow!("no apt source of this machine offers {suite}; the lab takes its mirror from there")
    })
}

/// Whether apt of this machine has a source for `suite`.
pub fn has_suite(suite: &str) -> bool {
    index_targets().is_ok_and(|targets| targets.lines().any(|line| line.ends_with(&format!(" {suite}"))))
}

fn index_targets() -> Result<String> {
    command::output(&mut command(
        "apt-get",
        ["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
    ))
}

/// A private apt for one suite, below a folder of its own.
#[derive(Debug)]
pub struct Apt {
    options: Vec<String>,
    folder: PathBuf,
}

impl Apt {
    /// Makes the source list and downloads the package index.
    pub fn new(folder: &Path, mirror: &str, suite: &str) -> Result<Self> {
        let (lists, cache) = (folder.join("lists"), folder.join("cache"));
        for path in [lists.join("partial"), cache.join("archives/partial")] {
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let sources = folder.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        let settings = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/nonexistent".to_owned(),
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Check-Valid-Until=false".to_owned(),
        ];
        let options = settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]).collect();
        let apt = Self { options, folder: folder.to_owned() };
        apt.run("apt-get", &["update"])?;
        Ok(apt)
    }

    /// The first package that `package` depends on and whose name starts with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let depends = self.run("apt-cache", &["depends", package])?;
        let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let found = names.find(|name| name.starts_with(prefix));
        found.map(str::to_owned).ok_or_else(|| anyhow!("{package} does not depend on any {prefix}*"))
    }

    /// Downloads `package`, unpacks it into `into`, and returns its version.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<String> {
        let mut download =
            command("apt-get", self.options.iter().map(String::as_str).chain(["download", package]));
        command::run(download.current_dir(&self.folder))?;
        let archive = self.archive()?;
        command::run(command("dpkg-deb", ["-x"]).arg(&archive).arg(into))?;
        let version = command::output(command("dpkg-deb", ["-f"]).arg(&archive).arg("Version"))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        Ok(version.trim().to_owned())
    }

    fn archive(&self) -> Result<PathBuf> {
        let entries =
            fs::read_dir(&self.folder).with_context(|| format!("cannot read {}", self.folder.display()))?;
        let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        paths
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or_else(|| anyhow!("apt-get download left no package in {}", self.folder.display()))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        command::output(&mut command(
            program,
            self.options.iter().map(String::as_str).chain(args.iter().copied()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codename_of_debian_is_read_and_others_are_refused() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").unwrap(), "bookworm");
        assert!(codename("ID=ubuntu\nVERSION_CODENAME=noble\n").unwrap_err().to_string().contains("Debian"));
        assert!(codename("ID=debian\n").is_err(), "sid has no code name");
    }
}
