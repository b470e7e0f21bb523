//! One network namespace per instance: a bridge, a tap device per node, routes to pods and services.
//!
//! Addresses are the same in every instance (TEST-NET-1 for machines, 10.244.N.0/24 for the pods of node N,
//! 10.96.0.0/16 for services); the namespace keeps instances, and the machine's own network, apart.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{self, command};

/// The host side of the bridge: API server, DNS, registry.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The namespace's own loopback.
pub const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Address of the `kubernetes` Service: the first of the range.
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Addresses of services.
pub const SERVICES: &str = "10.96.0.0/16";
/// HTTPS port of the API server on [`HOST`].
pub const API_SERVER_PORT: u16 = 6443;
/// Plain HTTP port of the image registry on [`HOST`].
pub const REGISTRY_PORT: u16 = 5000;
/// Nodes that fit the address plan.
pub const MAX_NODES: u8 = 9;

/// Address of node `index` (from 1).
pub fn node(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + index)
}

/// Pod network of node `index` (from 1).
pub fn pods(index: u8) -> String {
    format!("10.244.{index}.0/24")
}

/// A named network namespace, as `ip netns` keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace of that name, which may not exist yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// The file that holds it.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// Creates the namespace with bridge, taps and routes for `nodes` nodes.
    pub fn create(&self, nodes: u8) -> Result<()> {
        command::run(&mut command("ip", ["netns", "add", self.name()]))?;
        let mut ip = command("ip", ["-netns", self.name(), "-batch", "-"]);
        let mut child = ip.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start ip")?;
        let mut input = child.stdin.take().context("ip has no standard input")?;
        input.write_all(layout(nodes).as_bytes()).context("cannot write to ip")?;
        drop(input);
        let done = child.wait_with_output().context("cannot wait for ip")?;
        if !done.status.success() {
            bail!("cannot lay out the network: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        // The host forwards between pods of different nodes and services.
        self.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?
            .context("cannot switch on forwarding")
    }

    /// Removes the namespace; taps and bridge go with it.
    pub fn delete(&self) -> Result<()> {
        if self.exists() {
            command::run(&mut command("ip", ["netns", "delete", self.name()]))?;
        }
        Ok(())
    }

    /// Moves the calling thread in, for good. Threads that it starts later are inside too: a process that wants to
    /// reach the cluster calls this on its main thread before it starts a runtime.
    pub fn enter(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path)
            .with_context(|| format!("no network namespace {}: is the lab up?", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter the network namespace {}", self.0))
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it opens stay inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| self.enter().map(|()| work()));
            worker.join().map_err(|_| anyhow!("a thread inside {} panicked", self.0))?
        })
    }

    /// A TCP connection made inside the namespace.
    pub fn connect(&self, address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        let stream = self.inside(|| TcpStream::connect_timeout(&address, timeout))?;
        stream.with_context(|| format!("cannot connect to {address} in {}", self.0))
    }

    /// `program` to be run inside the namespace; the process id stays that of the started child.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }
}

/// Input of `ip -batch`.
fn layout(nodes: u8) -> String {
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add br0 type bridge".to_owned(),
        format!("addr add {HOST}/24 dev br0"),
        "link set br0 up".to_owned(),
    ];
    for index in 1..=nodes {
        lines.push(format!("tuntap add dev tap{index} mode tap"));
        lines.push(format!("link set tap{index} master br0 up"));
        lines.push(format!("route add {} via {}", pods(index), node(index)));
    }
    if nodes > 0 {
        // From the host to a ClusterIP: through the first node's kube-proxy.
        lines.push(format!("route add {SERVICES} via {}", node(1)));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_has_one_tap_and_pod_route_per_node_and_services_go_through_the_first() {
        let text = layout(2);
        assert!(text.contains("tap2 master br0 up\nroute add 10.244.2.0/24 via 192.0.2.12\n"), "{text}");
        assert!(text.ends_with("route add 10.96.0.0/16 via 192.0.2.11\n"), "{text}");
        assert!(!layout(0).contains("10.96"), "without nodes nobody serves ClusterIPs");
    }
}
