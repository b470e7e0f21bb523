//! The control plane and its clients, built with `go build` from published modules that `tests/lab/tools/` pins.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Cache, Key},
    command::{self, command},
    paths,
    progress::Progress,
};

/// Raise when the way in which binaries are made changes.
const RECIPE: &[u8] = b"1";

/// One Go module below `tests/lab/tools/` and the binaries that come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// The folder's name.
    pub name: &'static str,
    /// Version of the module that is built, as its `go.mod` pins it; stamped into the binaries that show one.
    version: &'static str,
    /// Binary name and package.
    binaries: &'static [(&'static str, &'static str)],
    stamp: Stamp,
}

/// How the version gets into the binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// It is a constant in the source.
    InSource,
    Kubernetes,
    Helm,
}

/// API server, controllers, scheduler, kubelet, proxy, client.
pub const KUBERNETES: Tool = Tool {
    name: "kubernetes",
    version: "1.36.3",
    binaries: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ],
    stamp: Stamp::Kubernetes,
};
/// The API server's store.
pub const ETCD: Tool = Tool {
    name: "etcd",
    version: "3.6.16",
    binaries: &[("etcd", "go.etcd.io/etcd/server/v3")],
    stamp: Stamp::InSource,
};
/// The chart's client.
pub const HELM: Tool = Tool {
    name: "helm",
    version: "4.3.1",
    binaries: &[("helm", "helm.sh/helm/v4/cmd/helm")],
    stamp: Stamp::Helm,
};
/// Cluster DNS, with the plugins that the lab uses.
pub const COREDNS: Tool =
    Tool { name: "coredns", version: "1.15.0", binaries: &[("coredns", ".")], stamp: Stamp::InSource };

/// Every tool, in the order in which they are built.
pub const ALL: [Tool; 4] = [KUBERNETES, ETCD, HELM, COREDNS];

impl Tool {
    /// The folder with the binaries, built if the cache has none for exactly these sources, flags and compiler.
    pub fn ensure(&self, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
        let source = paths::lab_files().join("tools").join(self.name);
        let (key, flags) = (self.key(&source)?, self.flags());
        cache.entry(&format!("tool-{}", self.name), &key, |folder| {
            progress.note(&format!("building {} {} with go build", self.name, self.version));
            let mut go = command("go", flags.iter().map(String::as_str));
            // A single binary is named here (`server` would be etcd's own name); several go into the folder, which the
            // trailing separator says, each under its package's name.
            let output = if let [(name, _)] = self.binaries { *name } else { "" };
            go.arg("-o").arg(format!("{}/{output}", folder.display()));
            go.args(self.binaries.iter().map(|(_, package)| package)).current_dir(&source);
            go.envs([("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOWORK", "off")]);
            let log = cache.log(&format!("tool-{}", self.name));
            command::run_logged(&mut go, &log, |elapsed| {
                let done = self.binaries.iter().filter(|(name, _)| folder.join(name).exists()).count();
                let total = self.binaries.len();
                progress.note(&format!(
                    "still building {}: {done}/{total} binaries, {} s",
                    self.name,
                    elapsed.as_secs()
                ));
            })
        })
    }

    /// The identity of the binaries.
    pub fn key(&self, source: &Path) -> Result<Key> {
        let files = cache::files_below(source)?;
        let flags = self.flags().join("\n");
        let go = command::output(&mut command("go", ["version"])).context("cannot ask Go for its version")?;
        let parts = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        Ok(Key::of(parts.chain([("recipe", RECIPE), ("flags", flags.as_bytes()), ("go", go.as_bytes())])))
    }

    fn flags(&self) -> Vec<String> {
        let linker = format!("-ldflags=-s -w{}", self.stamps());
        ["build", "-trimpath", "-mod=readonly", "-buildvcs=false"]
            .map(str::to_owned)
            .into_iter()
            .chain([linker])
            .collect()
    }

    fn stamps(&self) -> String {
        let version = self.version;
        match self.stamp {
            Stamp::InSource => String::new(),
            Stamp::Helm => {
                let package = "helm.sh/helm/v4/internal/version";
                format!(" -X {package}.version=v{version} -X {package}.gitTreeState=clean")
            }
            Stamp::Kubernetes => {
                let package = "k8s.io/component-base/version";
                let mut numbers = version.split('.');
                let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
                format!(
                    " -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} \
                     -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
                )
            }
        }
    }
}

/// Where each tool's binaries are.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Tools {
    /// Folder of the Kubernetes binaries.
    pub kubernetes: PathBuf,
    /// Folder of `etcd`.
    pub etcd: PathBuf,
    /// Folder of `helm`.
    pub helm: PathBuf,
    /// Folder of `coredns`.
    pub coredns: PathBuf,
}

impl Tools {
    /// Builds what is missing.
    pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Self> {
        let ensure = |tool: Tool| tool.ensure(cache, progress);
        Ok(Self {
            kubernetes: ensure(KUBERNETES)?,
            etcd: ensure(ETCD)?,
            helm: ensure(HELM)?,
            coredns: ensure(COREDNS)?,
        })
    }

    /// The `kubectl` binary.
    pub fn kubectl(&self) -> PathBuf {
        self.kubernetes.join("kubectl")
    }

    /// The `helm` binary.
    pub fn helm(&self) -> PathBuf {
        self.helm.join("helm")
    }
}

/// Name, version and size of every binary, for a person to read.
pub fn inventory(tools: &Tools) -> Result<Vec<String>> {
    let folders = [&tools.kubernetes, &tools.etcd, &tools.helm, &tools.coredns];
    let mut lines = Vec::new();
    for (tool, folder) in ALL.iter().zip(folders) {
        for (name, _) in tool.binaries {
            let path = folder.join(name);
            let size = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
            lines.push(format!("{name} {} ({} MiB)", tool.version, size >> 20));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_versions_are_the_ones_that_the_stamps_claim() {
        for tool in ALL {
            let path = paths::lab_files().join("tools").join(tool.name).join("go.mod");
            let module = fs::read_to_string(path).unwrap();
            assert!(
                module.contains(&format!("v{}", tool.version)),
                "{}: {} is not in go.mod",
                tool.name,
                tool.version
            );
        }
    }

    #[test]
    fn key_changes_with_the_pins() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("go.sum"), "a").unwrap();
        let before = ETCD.key(folder.path()).unwrap();
        fs::write(folder.path().join("go.sum"), "b").unwrap();
        assert_ne!(before, ETCD.key(folder.path()).unwrap());
        assert_ne!(before, HELM.key(folder.path()).unwrap());
    }
}
