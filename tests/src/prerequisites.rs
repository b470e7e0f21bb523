//! What the machine must have, checked first and all at once; what is missing is installed or named exactly.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{self, command},
    debian,
    progress::Progress,
};

/// Debian packages and why: the node image (`mmdebstrap` to `xz-utils`), static C for the guest's first process and
/// the pause container, the test image's shell, the network namespace.
const PACKAGES: [&str; 11] = [
    "mmdebstrap",
    "e2fsprogs",
    "kmod",
    "cpio",
    "xz-utils",
    "gcc",
    "musl-tools",
    "busybox-static",
    "iproute2",
    "util-linux",
    "debian-archive-keyring",
];
/// The emulator. Debian 12's own (7.2) cannot run the guest: its TCG lacks what the kernel's cmpxchg16b needs.
const EMULATOR: [&str; 4] = ["qemu-system-x86", "qemu-utils", "seabios", "ipxe-qemu"];
/// Oldest QEMU that runs the guest.
const QEMU_MAJOR: u32 = 8;
/// Oldest Go that Kubernetes 1.36 builds with.
const GO: (u32, u32) = (1, 26);
/// Where the backports source goes when the machine has none.
const BACKPORTS: &str = "/etc/apt/sources.list.d/optipod-lab-backports.sources";

/// Checks everything; with `install`, installs the missing Debian packages.
pub fn ensure(install: bool, progress: &Progress) -> Result<()> {
    let mut problems = machine_problems();
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = match debian::codename(&os_release) {
        Ok(codename) => codename,
        Err(error) => {
            problems.push(error.to_string());
            bail!(report(&problems));
        }
    };
    let steps = missing_packages(&codename)?;
    let root = rustix::process::geteuid().is_root();
    let may_install = install && root;
    if !steps.is_empty() && !may_install {
        let script: Vec<String> = steps.iter().map(|step| format!("      {step}")).collect();
        problems.push(format!(
            "Debian packages are missing; say --yes to let the lab install them, or run as root:\n{}",
            script.join("\n")
        ));
    }
    if !problems.is_empty() {
        bail!(report(&problems));
    }
    for step in &steps {
        progress.note(&format!("installing: {}", step.lines().next().unwrap_or_default()));
        let mut shell = Command::new("sh");
        shell.args(["-ec", step]).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command::run(&mut shell).context("cannot install the Debian packages")?;
    }
    Ok(())
}

fn report(problems: &[String]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("  - {problem}")).collect();
    format!("this machine cannot run the lab yet:\n{}", lines.join("\n"))
}

fn machine_problems() -> Vec<String> {
    let mut problems = Vec::new();
    if !rustix::process::geteuid().is_root() {
        problems.push(
            "the lab needs root for its network namespace: run it as root, or with `sudo -E`".to_owned(),
        );
    }
    if env::consts::ARCH != "x86_64" {
        problems.push(format!("the guest is x86_64, this machine is {}", env::consts::ARCH));
    }
    if !Path::new("/dev/net/tun").exists() {
        problems.push("no /dev/net/tun: `modprobe tun`, or give the container that device".to_owned());
    }
    match command::output(&mut command("go", ["env", "GOVERSION"])) {
        Ok(version) if go_version(&version) >= Some(GO) => {}
        Ok(version) => {
            problems.push(format!("Go {}.{} or newer is needed, found {}", GO.0, GO.1, version.trim()));
        }
        Err(_) => problems.push(format!("Go {}.{} or newer is needed: see go.dev/doc/install", GO.0, GO.1)),
    }
    problems
}

fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Shell commands that install what is missing; none when nothing is.
fn missing_packages(codename: &str) -> Result<Vec<String>> {
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|package| !installed(package)).collect();
    let emulator = qemu_major() < Some(QEMU_MAJOR) || EMULATOR.iter().any(|package| !installed(package));
    if missing.is_empty() && !emulator {
        return Ok(Vec::new());
    }
    let backports = format!("{codename}-backports");
    let from_backports = emulator && codename == "bookworm";
    let mut steps = Vec::new();
    if from_backports && !debian::has_suite(&backports) {
        let mirror = debian::mirror(codename)?;
        steps.push(format!(
            "printf 'Types: deb\\nURIs: {mirror}\\nSuites: {backports}\\nComponents: main\\nSigned-By: {}\\n' > {BACKPORTS}",
            debian::KEYRING
        ));
    }
    steps.push("apt-get update".to_owned());
    let install = "apt-get install --yes --no-install-recommends";
    if !missing.is_empty() {
        steps.push(format!("{install} {}", missing.join(" ")));
    }
    if emulator {
        let target = if from_backports { format!(" --target-release {backports}") } else { String::new() };
        steps.push(format!("{install}{target} {}", EMULATOR.join(" ")));
    }
    Ok(steps)
}

fn installed(package: &str) -> bool {
    let status =
        command::output(&mut command("dpkg-query", ["--show", "--showformat=${db:Status-Status}", package]));
    status.is_ok_and(|status| status == "installed")
}

fn qemu_major() -> Option<u32> {
    let text = command::output(&mut command("qemu-system-x86_64", ["--version"])).ok()?;
    let (_, version) = text.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_compare_by_number() {
        assert_eq!(go_version("go1.26.8\n"), Some((1, 26)));
        assert!(go_version("go1.9") < Some(GO));
        assert_eq!(go_version("devel"), None);
    }

    #[test]
    fn report_names_every_problem() {
        let text = report(&["no tun".to_owned(), "no Go".to_owned()]);
        assert!(text.contains("- no tun\n") && text.ends_with("- no Go"), "{text}");
    }
}
