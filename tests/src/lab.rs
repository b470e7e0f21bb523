//! A running instance as tests, demo and commands use it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    instance::{Instance, State},
    lifecycle, node, shell,
};

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    instance: Instance,
    state: State,
}

impl Lab {
    /// The running instance of that name.
    pub fn attach(name: &str) -> Result<Self> {
        let instance = Instance::new(name)?;
        let state = instance.state().context("cannot attach to the lab")?;
        match state {
            Some(state) if state.complete && lifecycle::healthy(&instance) => Ok(Self { instance, state }),
            Some(state) if !state.complete => {
                bail!("lab {name:?} has not finished starting: wait for `cargo lab up`, or run it again")
            }
            Some(_) => bail!(
                "a part of lab {name:?} has died, see `cargo lab status`: run `cargo lab down` and `up`"
            ),
            None => bail!("lab {name:?} is not up: run `cargo lab up`"),
        }
    }

    /// Name, folders, logs, namespace.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.state.nodes).map(node::name).collect()
    }

    /// What a simulated node has at `/sys/fs/cgroup`; `None` when the node is not simulated.
    pub fn simulated_cgroups(&self, node: &str) -> Option<PathBuf> {
        Some(self.instance.cgroups().join(node)).filter(|folder| folder.is_dir())
    }

    /// The administrator's kubeconfig; its server is reachable only inside the namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.instance.kubeconfig()
    }

    /// Folder that the registry serves: images written there can be pulled at once.
    pub fn registry(&self) -> PathBuf {
        self.instance.registry()
    }

    /// The kubectl binary.
    pub fn kubectl_program(&self) -> PathBuf {
        self.state.tools.kubectl()
    }

    /// The helm binary.
    pub fn helm_program(&self) -> PathBuf {
        self.state.tools.helm()
    }

    /// Moves the calling thread, and those it starts from now on, into the lab's network: call it on the main thread
    /// before a runtime starts, and after everything that needs the internet.
    pub fn enter(&self) -> Result<()> {
        self.instance.namespace().enter()
    }

    /// `program` inside the lab's network with the lab's kubeconfig; kubectl and helm keep their caches in the run
    /// folder, not in the person's home.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let folder = self.instance.folder();
        let mut command = self.instance.namespace().command(program);
        command.env("KUBECONFIG", self.kubeconfig());
        command.env("KUBECACHEDIR", folder.join("kubectl-cache"));
        for kind in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{kind}_HOME"), folder.join("helm").join(kind.to_ascii_lowercase()));
        }
        command
    }

    /// Runs kubectl and returns what it printed; an error carries what it complained about.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        command::output(self.command(self.kubectl_program()).args(args))
    }

    /// As [`Lab::kubectl`], with `input` on standard input, for `apply -f -`.
    pub fn kubectl_with_input<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Result<String> {
        command::output_with_input(self.command(self.kubectl_program()).args(args), input)
    }

    /// Runs helm and returns what it printed.
    pub fn helm<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        command::output(self.command(self.helm_program()).args(args))
    }

    /// Runs a shell command as root in a node and returns what it printed.
    pub fn guest_shell(&self, node: &str, shell_command: &str) -> Result<String> {
        shell::output(&self.instance.namespace(), node::index(node, self.state.nodes)?, shell_command)
    }

    /// As [`Lab::guest_shell`], whatever the exit status.
    pub fn guest_run(&self, node: &str, shell_command: &str) -> Result<shell::Done> {
        shell::run(&self.instance.namespace(), node::index(node, self.state.nodes)?, shell_command)
    }

    /// A shell in a node on standard input and output.
    pub fn guest_interactive(&self, node: &str) -> Result<()> {
        shell::interactive(&self.instance.namespace(), node::index(node, self.state.nodes)?)
    }

    /// The log of a host component, or of a service in a node (`n1/kubelet`).
    pub fn log(&self, component: &str) -> Result<String> {
        if let Some((node, service)) = component.split_once('/') {
            if service.contains(['/', '\'']) {
                bail!("{service:?} is not the name of a service");
            }
            return self.guest_shell(node, &format!("cat '/var/log/{service}.log'"));
        }
        read_log(&self.instance.log(component))
    }

    /// Names that [`Lab::log`] understands.
    pub fn log_names(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.instance.logs()).into_iter().flatten().filter_map(Result::ok);
        let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let mut names: Vec<String> = files.filter_map(|file| stem(file.path())).collect();
        names.sort();
        let services = ["kubelet", "containerd", "kube-proxy"];
        names
            .extend(self.nodes().iter().flat_map(|node| services.map(|service| format!("{node}/{service}"))));
        names
    }
}

fn read_log(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("no log {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
