//! Nodes: QEMU guests that boot the node image, each with a disk overlay and a configuration disk of its own.

use std::{fs, fs::File, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    cache,
    command::{self, command},
    guest::NodeImage,
    instance::Instance,
    network, paths,
    process::{self, Process},
};

/// The configuration disk holds a dozen small files.
const CONFIGURATION_DISK: u64 = 2 << 20;
/// Kernel command line: no udev names, quiet systemd, pressure stall information, fast rather than hardened.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 TERM=dumb net.ifnames=0 systemd.unit=node.target systemd.show_status=0 \
                                mitigations=off nokaslr apparmor=0 psi=1 random.trust_cpu=on panic=5";

/// Name of node `index` (from 1).
pub fn name(index: u8) -> String {
    format!("n{index}")
}

/// Index of the node of that name.
pub fn index(name: &str, nodes: u8) -> Result<u8> {
    let index = name.strip_prefix('n').and_then(|digits| digits.parse().ok());
    match index.filter(|index| (1..=nodes).contains(index)) {
        Some(index) => Ok(index),
        None if nodes == 0 => bail!("this instance has no nodes"),
        None => bail!("no node {name:?}: this instance has n1 to n{nodes}"),
    }
}

/// Size of a node.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self { cpus: 2, memory_mib: 2048 }
    }
}

/// How the guest's instructions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// In hardware.
    Kvm,
    /// Translated by QEMU: two to five times slower, works everywhere.
    Tcg,
}

impl Accelerator {
    /// KVM when a virtual CPU can really be made with it: a `/dev/kvm` that exists may still not work.
    pub fn detect() -> Self {
        let mut probe =
            command("qemu-system-x86_64", ["-nodefaults", "-no-user-config", "-machine", "q35", "-S"]);
        probe
            .args(["-accel", "kvm", "-cpu", "host", "-display", "none", "-monitor", "none", "-qmp", "stdio"]);
        let quit = r#"{"execute": "qmp_capabilities"} {"execute": "quit"}"#;
        let works = command::output_with_input(&mut probe, quit).is_ok();
        if works { Self::Kvm } else { Self::Tcg }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
        }
    }
}

/// Starts node `index` of `nodes`.
pub fn start(
    instance: &Instance,
    image: &NodeImage,
    index: u8,
    nodes: u8,
    size: Size,
    accelerator: Accelerator,
) -> Result<Process> {
    let name = name(index);
    let configuration = configuration_disk(instance, index, nodes)?;
    let overlay = instance.folder().join(format!("{name}.qcow2"));
    let mut create = command("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
    command::run(create.arg(&image.disk).arg(&overlay))?;

    let mut qemu =
        command("qemu-system-x86_64", ["-name", &name, "-nodefaults", "-no-user-config", "-no-reboot"]);
    qemu.args(["-machine", "q35", "-display", "none"]).args(accelerator.arguments());
    qemu.args(["-smp", &size.cpus.to_string(), "-m", &size.memory_mib.to_string()]);
    qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
    qemu.arg("-append").arg(format!("{KERNEL_ARGUMENTS} systemd.machine_id={index:032x}"));
    qemu.arg("-serial").arg(format!("file:{}", instance.log(&console(&name)).display()));
    qemu.arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", instance.folder().join(format!("{name}.qmp")).display()));
    let root = format!("if=none,id=root,file={},format=qcow2,cache=unsafe,discard=unmap", overlay.display());
    let config = format!("if=none,id=config,file={},format=raw,readonly=on", configuration.display());
    // The order of the disks is their name in the guest: vda, vdb.
    qemu.args(["-drive", &root, "-device", "virtio-blk-pci,drive=root"]);
    qemu.args(["-drive", &config, "-device", "virtio-blk-pci,drive=config"]);
    qemu.arg("-netdev").arg(format!("tap,id=net,ifname=tap{index},script=no,downscript=no"));
    qemu.arg("-device").arg(format!("virtio-net-pci,netdev=net,mac=52:54:00:00:02:{:02x}", 0x10 + index));
    process::spawn(instance, &format!("qemu-{name}"), &qemu, &instance.namespace())
}

/// Log component of a node's serial console.
pub fn console(name: &str) -> String {
    format!("{name}-console")
}

/// The read-only disk that the guest mounts at `/etc/kubernetes`.
fn configuration_disk(instance: &Instance, index: u8, nodes: u8) -> Result<PathBuf> {
    let (name, pki) = (name(index), instance.pki());
    let folder = instance.folder().join(format!("{name}.config"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let from_pki = [
        ("ca.crt".to_owned(), "ca.crt"),
        (format!("{name}.crt"), "kubelet.crt"),
        (format!("{name}.key"), "kubelet.key"),
        (format!("{name}.conf"), "kubelet.conf"),
        ("proxy.conf".to_owned(), "proxy.conf"),
    ];
    let static_files = paths::lab_files().join("node");
    let copies = from_pki.iter().map(|(source, target)| (pki.join(source), *target));
    let copies =
        copies.chain(["kubelet.yaml", "kube-proxy.yaml"].map(|file| (static_files.join(file), file)));
    for (source, target) in copies {
        fs::copy(&source, folder.join(target))
            .with_context(|| format!("cannot copy {}", source.display()))?;
    }
    let network = fs::read_to_string(static_files.join("10-lab.conflist"))
        .context("cannot read the CNI configuration")?;
    fs::write(folder.join("10-lab.conflist"), network.replace("INDEX", &index.to_string()))
        .context("cannot write the CNI configuration")?;
    fs::write(folder.join("node.env"), environment(index, nodes)).context("cannot write node.env")?;

    let disk = instance.folder().join(format!("{name}.config.img"));
    let file = File::create(&disk).with_context(|| format!("cannot create {}", disk.display()))?;
    file.set_len(CONFIGURATION_DISK).context("cannot size the configuration disk")?;
    command::run(command("mke2fs", ["-q", "-F", "-t", "ext2", "-m", "0", "-d"]).arg(&folder).arg(&disk))?;
    cache::remove(&folder)?;
    Ok(disk)
}

/// What the guest's scripts read.
fn environment(index: u8, nodes: u8) -> String {
    let peers = (1..=nodes).filter(|&peer| peer != index);
    let peers: Vec<String> =
        peers.map(|peer| format!("{}@{}", network::pods(peer), network::node(peer))).collect();
    format!(
        "NODE_NAME={}\nNODE_IP={}\nGATEWAY={}\nPEERS=\"{}\"\n",
        name(index),
        network::node(index),
        network::HOST,
        peers.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_routes_to_every_other_node() {
        assert_eq!(
            environment(1, 2),
            "NODE_NAME=n1\nNODE_IP=192.0.2.11\nGATEWAY=192.0.2.1\nPEERS=\"10.244.2.0/24@192.0.2.12\"\n"
        );
        assert!(environment(1, 1).ends_with("PEERS=\"\"\n"));
    }

    #[test]
    fn only_nodes_of_the_instance_have_an_index() {
        assert_eq!(index("n2", 2).unwrap(), 2);
        for bad in ["n3", "n0", "x1", ""] {
            assert!(index(bad, 2).is_err(), "{bad}");
        }
    }
}
