//! The node's disk image: a Debian tree with containerd, runc and systemd, the kernel's modules, kubelet and kube-proxy.
//!
//! Three cache entries: the Debian tree and the kernel (downloads; what the mirror had that day is recorded beside
//! them), and the image made of both, the guest files of `tests/lab/guest` and the Kubernetes binaries.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Cache, Key},
    command::{self, command},
    debian::{self, Apt},
    paths,
    progress::Progress,
    tools,
};

/// Debian suite of the node's user space: the first with containerd 2 and runc 1.3 (current cpu.weight formula).
const SUITE: &str = "forky";
/// Debian suite of the kernel: 6.12 is the long-term kernel that most clusters run.
const KERNEL_SUITE: &str = "trixie";
/// The smallest Debian kernel with every driver that the guest needs.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// Size of the root disk; sparse, so only what is used costs anything.
const DISK_SIZE: u64 = 6 << 30;
/// Documentation, translations and character sets stay out of the tree.
const EXCLUDED: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/lib/x86_64-linux-gnu/gconv/*"];
/// Run by mmdebstrap between download and unpacking: nothing in the tree itself tells the versions afterwards.
const LIST_VERSIONS: &str = r#"for deb in "$1"/var/cache/apt/archives/*.deb; do
  dpkg-deb --show --showformat='${Package} ${Version}\n' "$deb"
done"#;
/// Raise when the way in which entries are made changes.
const RECIPE: &[u8] = b"1";

/// What QEMU boots.
#[derive(Debug, Clone)]
pub struct NodeImage {
    /// Raw root disk; each node writes to an overlay of its own.
    pub disk: PathBuf,
    /// Kernel.
    pub kernel: PathBuf,
    /// Initial RAM disk: the disk driver and a first process.
    pub initrd: PathBuf,
    /// Names and versions of the Debian packages inside.
    pub packages: String,
}

impl NodeImage {
    /// Builds what the cache lacks.
    pub fn ensure(cache: &Cache, kubernetes: &Path, progress: &Progress) -> Result<Self> {
        let mirror = || -> Result<String> {
            let os_release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
            debian::mirror(&debian::codename(&os_release)?)
        };
        let tree = tree(cache, &mirror, progress)?;
        let kernel = kernel(cache, &mirror, progress)?;
        let packages = [read(&tree.join("packages"))?, read(&kernel.join("packages"))?].concat();

        let guest = paths::lab_files().join("guest");
        let files = cache::files_below(&guest)?;
        let parts = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        let kubernetes_key = tools::KUBERNETES.key(&paths::lab_files().join("tools/kubernetes"))?;
        let own = [
            ("recipe", RECIPE),
            ("packages", packages.as_bytes()),
            ("kubernetes", kubernetes_key.as_bytes()),
        ];
        let image = cache.entry("node-image", &Key::of(parts.chain(own)), |folder| {
            progress.note("assembling the node's disk image");
            assemble(folder, &tree, &kernel, kubernetes, &guest)
        })?;
        let file = |name: &str| image.join(name);
        Ok(Self { disk: file("disk.img"), kernel: file("vmlinuz"), initrd: file("initrd.cpio"), packages })
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `tree.tar`: the packages unpacked, not configured, and `packages`: their versions.
fn tree(cache: &Cache, mirror: &dyn Fn() -> Result<String>, progress: &Progress) -> Result<PathBuf> {
    let list = read(&paths::lab_files().join("guest/packages"))?;
    let key = Key::of([("recipe", RECIPE), ("suite", SUITE.as_bytes()), ("packages", list.as_bytes())]);
    cache.entry("debian-tree", &key, |folder| {
        let (root, mirror) = (folder.join("root"), mirror()?);
        progress.note(&format!("downloading and unpacking Debian {SUITE} packages with mmdebstrap"));
        let mut debstrap = command("mmdebstrap", ["--variant=extract", "--mode=root"]);
        debstrap.arg(format!("--keyring={}", debian::KEYRING));
        debstrap.arg(format!("--include={}", list.split_whitespace().collect::<Vec<_>>().join(",")));
        debstrap.args([
            "--aptopt=Acquire::Check-Valid-Until \"false\"",
            "--aptopt=APT::Install-Recommends \"false\"",
        ]);
        debstrap.args(EXCLUDED.map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
        debstrap.arg(format!("--extract-hook={LIST_VERSIONS} > '{}'", folder.join("packages").display()));
        debstrap
            .arg(SUITE)
            .arg(&root)
            .arg(format!("deb [signed-by={}] {mirror} {SUITE} main", debian::KEYRING));
        command::run_logged(&mut debstrap, &cache.log("debian-tree"), |elapsed| {
            progress.note(&format!("still unpacking Debian packages, {} s", elapsed.as_secs()));
        })?;
        command::run(command("tar", ["-cf"]).arg(folder.join("tree.tar")).arg("-C").arg(&root).arg("."))?;
        cache::remove(&root)
    })
}

/// `root/`: the kernel package unpacked, and `packages`: its version.
fn kernel(cache: &Cache, mirror: &dyn Fn() -> Result<String>, progress: &Progress) -> Result<PathBuf> {
    let key = Key::of([
        ("recipe", RECIPE),
        ("suite", KERNEL_SUITE.as_bytes()),
        ("package", KERNEL_PACKAGE.as_bytes()),
    ]);
    cache.entry("kernel", &key, |folder| {
        progress.note(&format!("downloading the kernel of Debian {KERNEL_SUITE}"));
        let (apt_folder, root) = (folder.join("apt"), folder.join("root"));
        let apt = Apt::new(&apt_folder, &mirror()?, KERNEL_SUITE)?;
        let package = apt.dependency(KERNEL_PACKAGE, "linux-image-")?;
        let version = apt.unpack(&package, &root)?;
        fs::write(folder.join("packages"), format!("{package} {version}\n"))
            .context("cannot record the version")?;
        cache::remove(&apt_folder)
    })
}

fn assemble(folder: &Path, tree: &Path, kernel: &Path, kubernetes: &Path, guest: &Path) -> Result<()> {
    let (root, kernel_copy) = (folder.join("root"), folder.join("kernel"));
    fs::create_dir(&root).context("cannot create the image's root")?;
    command::run(command("tar", ["-xf"]).arg(tree.join("tree.tar")).arg("-C").arg(&root))?;
    // `depmod` writes into the kernel's tree, and cache entries never change.
    command::run(command("cp", ["-a"]).arg(kernel.join("root")).arg(&kernel_copy))?;
    command::run(
        command("sh", [guest.join("assemble.sh").as_path(), &root, &kernel_copy, guest]).env("LC_ALL", "C"),
    )?;
    for name in ["kubelet", "kube-proxy"] {
        let target = root.join("usr/bin").join(name);
        fs::copy(kubernetes.join(name), &target)
            .with_context(|| format!("cannot copy {name} into the image"))?;
    }
    let boot = fs::read_dir(kernel_copy.join("boot")).context("the kernel package has no /boot")?;
    let vmlinuz = boot.filter_map(Result::ok).map(|entry| entry.path());
    let vmlinuz = vmlinuz
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    let vmlinuz = vmlinuz.context("the kernel package has no vmlinuz")?;
    fs::copy(vmlinuz, folder.join("vmlinuz")).context("cannot copy the kernel")?;
    initrd(folder, &root, guest)?;

    let disk = folder.join("disk.img");
    let file = File::create(&disk).context("cannot create the disk image")?;
    file.set_len(DISK_SIZE).context("cannot size the disk image")?;
    // No journal (the disk lives as long as its node), all inodes at once, nothing left to initialise in the guest.
    let mut mke2fs = command("mke2fs", ["-q", "-F", "-t", "ext4", "-O", "^has_journal,^resize_inode"]);
    mke2fs.args(["-E", "lazy_itable_init=0", "-N", "131072", "-m", "0", "-d"]).arg(&root).arg(&disk);
    command::run(&mut mke2fs)?;
    cache::remove(&root)?;
    cache::remove(&kernel_copy)
}

fn initrd(folder: &Path, root: &Path, guest: &Path) -> Result<()> {
    let content = folder.join("initrd");
    fs::create_dir(&content).context("cannot create the initial RAM disk")?;
    compile_static(&guest.join("init.c"), &content.join("init"))?;
    let modules =
        command::output(command("find", [root.join("usr/lib/modules")]).args(["-name", "virtio_blk.ko"]))?;
    let driver = modules.lines().next().context("the kernel has no virtio_blk module")?;
    fs::copy(driver, content.join("virtio_blk.ko")).context("cannot copy the disk driver")?;
    let archive = File::create(folder.join("initrd.cpio")).context("cannot create initrd.cpio")?;
    let mut cpio = command("sh", ["-ec", "find . | cpio -o -H newc --quiet"]);
    let status =
        cpio.current_dir(&content).stdout(Stdio::from(archive)).status().context("cannot run cpio")?;
    anyhow::ensure!(status.success(), "cpio failed: {status}");
    cache::remove(&content)
}

/// A static binary from one C file.
pub fn compile_static(source: &Path, binary: &Path) -> Result<()> {
    command::run(command("musl-gcc", ["-static", "-Os", "-s", "-Wall", "-o"]).arg(binary).arg(source))
}
