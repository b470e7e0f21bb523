//! The grammar of kubepods paths. Pure; names come from the node and are never trusted.
//!
//! ```text
//! path      := prefix* root qos? pod container nested*
//! root      := "kubepods" | "kubepods.slice" | X "-kubepods.slice"          P := root without ".slice"
//! qos       := "burstable" | "besteffort" | P "-burstable.slice" | P "-besteffort.slice"
//! pod       := "pod" UID | P ("-" qos)? "-pod" UID_ ".slice"
//! container := ("cri-containerd-" | "crio-" | "docker-" | "libpod-") HEX64 ".scope" | HEX64 | "crio-" HEX64
//! alt       := prefix* (X "-")? "kubepods" ("-" qos)? "-pod" UID_ ".slice:cri-containerd:" HEX64
//! ```
//!
//! The outermost root wins, so a cluster nested in a pod belongs to the pod. `alt` is a containerd on the cgroupfs
//! driver below a kubelet on the systemd driver: its containers are not below the pod's cgroup.

use optipod_common::ident::{ContainerId, PodUid};
use optipod_common::resources::QosClass;

/// Name prefixes that runtimes give to the scope of a container.
const SCOPE_PREFIXES: [&str; 4] = ["cri-containerd-", "crio-", "docker-", "libpod-"];

/// The directory that holds all pods of a kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// `kubepods`: the cgroupfs driver.
    Cgroupfs,
    /// `kubepods.slice` or `X-kubepods.slice`: the systemd driver. Holds the name without `.slice`.
    Systemd(String),
}

/// What a directory below a root or a class is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Child {
    /// All pods of one class.
    Class(QosClass),
    /// One pod.
    Pod {
        /// From the name.
        pod: PodUid,
        /// From the name and the parent's.
        qos: QosClass,
    },
}

/// A container, and the pod that its path tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPath {
    /// The pod.
    pub pod: PodUid,
    /// Class of the pod.
    pub qos: QosClass,
    /// The runtime's id.
    pub container: ContainerId,
}

impl Root {
    /// `None` when the directory is not a root.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "kubepods" {
            return Some(Self::Cgroupfs);
        }
        let stem = name.strip_suffix(".slice")?;
        let prefix = stem.strip_suffix("kubepods")?;
        (prefix.is_empty() || (prefix.len() > 1 && prefix.ends_with('-')))
            .then(|| Self::Systemd(stem.to_owned()))
    }

    /// What `name` is, below this root (`class` is `None`) or below one of its classes.
    pub fn child(&self, class: Option<QosClass>, name: &str) -> Option<Child> {
        let pod = |uid: &str| {
            let pod = uid.parse().ok()?;
            Some(Child::Pod { pod, qos: class.unwrap_or(QosClass::Guaranteed) })
        };
        match self {
            Self::Cgroupfs => match (class, name) {
                (None, "burstable") => Some(Child::Class(QosClass::Burstable)),
                (None, "besteffort") => Some(Child::Class(QosClass::BestEffort)),
                _ => pod(name.strip_prefix("pod")?),
            },
            Self::Systemd(stem) => {
                let rest = name.strip_suffix(".slice")?.strip_prefix(stem.as_str())?;
                let rest = match class {
                    None if rest == "-burstable" => return Some(Child::Class(QosClass::Burstable)),
                    None if rest == "-besteffort" => return Some(Child::Class(QosClass::BestEffort)),
                    None | Some(QosClass::Guaranteed) => rest,
                    Some(QosClass::Burstable) => rest.strip_prefix("-burstable")?,
                    Some(QosClass::BestEffort) => rest.strip_prefix("-besteffort")?,
                };
                pod(&systemd_uid(rest.strip_prefix("-pod")?)?)
            }
        }
    }
}

/// The container whose cgroup has this name; `None` for monitors (`crio-conmon-*`) and everything else.
pub fn container(name: &str) -> Option<ContainerId> {
    let id = match name.strip_suffix(".scope") {
        Some(scope) => SCOPE_PREFIXES.iter().find_map(|prefix| scope.strip_prefix(prefix))?,
        None => name.strip_prefix("crio-").unwrap_or(name),
    };
    id.parse().ok()
}

/// A container of a runtime whose cgroup driver differs from the kubelet's: pod and container in one name.
pub fn mismatched(name: &str) -> Option<ContainerPath> {
    let (slice, id) = name.split_once(".slice:cri-containerd:")?;
    let (stem, uid) = slice.rsplit_once("-pod")?;
    let (stem, qos) = if let Some(stem) = stem.strip_suffix("-burstable") {
        (stem, QosClass::Burstable)
    } else if let Some(stem) = stem.strip_suffix("-besteffort") {
        (stem, QosClass::BestEffort)
    } else {
        (stem, QosClass::Guaranteed)
    };
    let prefix = stem.strip_suffix("kubepods")?;
    if !prefix.is_empty() && !prefix.ends_with('-') {
        return None;
    }
    Some(ContainerPath { pod: systemd_uid(uid)?.parse().ok()?, qos, container: id.parse().ok()? })
}

/// The container that a path relative to the cgroup2 root belongs to; directories below a container are its own.
pub fn parse(path: &str) -> Option<ContainerPath> {
    let mut components = path.split('/').filter(|c| !c.is_empty());
    let root = loop {
        let name = components.next()?;
        if let Some(found) = mismatched(name) {
            return Some(found);
        }
        if let Some(root) = Root::from_name(name) {
            break root;
        }
    };
    let (pod, qos) = match root.child(None, components.next()?)? {
        Child::Pod { pod, qos } => (pod, qos),
        Child::Class(class) => match root.child(Some(class), components.next()?)? {
            Child::Pod { pod, qos } => (pod, qos),
            Child::Class(_) => return None,
        },
    };
    Some(ContainerPath { pod, qos, container: container(components.next()?)? })
}

/// systemd reads `-` as a level, so the kubelet writes `_`.
fn systemd_uid(escaped: &str) -> Option<String> {
    (!escaped.contains('-')).then(|| escaped.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "d0511cd2-29d2-4215-be0f-f77bc0609d99";
    const STATIC_UID: &str = "6a1aa2ae6d3b5bcc9d80e0c8ef4c1f9c";

    fn id() -> String {
        "f93e0b1c".repeat(8)
    }

    fn uid_() -> String {
        UID.replace('-', "_")
    }

    /// Path templates: `{i}` container id, `{u}` UID, `{v}` UID as systemd has it, `{s}` UID of a static pod.
    fn expand(template: &str) -> String {
        template.replace("{i}", &id()).replace("{u}", UID).replace("{v}", &uid_()).replace("{s}", STATIC_UID)
    }

    #[test]
    fn sample_paths_are_recognised() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        let rows = [
            // kepler's samples: CRI-O, containerd, docker; both drivers; all classes
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{v}.slice/crio-{i}.scope",
                Burstable,
                UID,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{v}.slice/cri-containerd-{i}.scope",
                BestEffort,
                UID,
            ),
            ("/kubepods.slice/kubepods-pod{v}.slice/cri-containerd-{i}.scope", Guaranteed, UID),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{v}.slice/docker-{i}.scope",
                Burstable,
                UID,
            ),
            ("/kubepods.slice/kubepods-pod{v}.slice/libpod-{i}.scope", Guaranteed, UID),
            ("/kubepods/burstable/pod{u}/{i}", Burstable, UID),
            ("/kubepods/besteffort/pod{u}/{i}", BestEffort, UID),
            ("/kubepods/pod{u}/{i}", Guaranteed, UID),
            (
                "/system.slice/containerd.service/kubepods-besteffort-pod{v}.slice:cri-containerd:{i}",
                BestEffort,
                UID,
            ),
            // static pod: the config hash
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{s}.slice/cri-containerd-{i}.scope",
                Burstable,
                STATIC_UID,
            ),
            // crun's child, systemd in a container
            ("/kubepods.slice/kubepods-pod{v}.slice/crio-{i}.scope/container", Guaranteed, UID),
            // docker in docker and a cluster in a pod belong to the outer container
            ("/kubepods/burstable/pod{u}/{i}/docker/1111", Burstable, UID),
            (
                "/kubepods.slice/kubepods-pod{v}.slice/cri-containerd-{i}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod6a1aa2ae_6d3b_5bcc_9d80_e0c8ef4c1f9c.slice/cri-containerd-0000000000000000000000000000000000000000000000000000000000000000.scope",
                Guaranteed,
                UID,
            ),
            // kind, from inside the node and from the host
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{v}.slice/cri-containerd-{i}.scope",
                Burstable,
                UID,
            ),
            (
                "/system.slice/docker-0000.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{v}.slice/cri-containerd-{i}.scope",
                BestEffort,
                UID,
            ),
            // cgroupfs CRI-O, k3s
            ("/kubepods/burstable/pod{u}/crio-{i}", Burstable, UID),
            ("/k3s/kubepods/besteffort/pod{u}/{i}", BestEffort, UID),
        ];
        for (template, qos, pod) in rows {
            let path = expand(template);
            let expected = ContainerPath { pod: pod.parse().unwrap(), qos, container: id().parse().unwrap() };
            assert_eq!(parse(&path), Some(expected), "{path}");
        }
    }

    #[test]
    fn foreign_and_malformed_paths_are_nothing() {
        let rows = [
            // the two negatives of the samples, then a monitor and near misses
            "/system.slice/docker-{i}.scope",
            "/system.slice/kubelet.service",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{v}.slice/crio-conmon-{i}.scope",
            "/user.slice/user-1000.slice/libpod-{i}.scope",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-pod{v}.slice/crio-{i}.scope",
            "/kubepods.slice/kubepods-burstable-pod{v}.slice/crio-{i}.scope",
            "/kubepods.slice/kubepods-pod{u}.slice/crio-{i}.scope",
            "/kubepods/burstable/burstable/pod{u}/{i}",
            "/notkubepods.slice/kubepods-pod{v}.slice/crio-{i}.scope",
            "/kubepods/pod{u}/{i}0",
            "/kubepods/pod{u}",
            "/kubepods",
            "",
            "/system.slice/xkubepods-pod{v}.slice:cri-containerd:{i}",
        ];
        for template in rows {
            assert_eq!(parse(&expand(template)), None, "{template}");
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics(path in "(/?(kubepods|burstable|\\.slice|-|pod|crio-|:cri-containerd:|[a-f0-9_]{1,64}|.{0,5}))*") {
            let _ = parse(&path);
        }

        #[test]
        fn any_bytes_never_panic(path in ".*") {
            let _ = parse(&path);
        }
    }
}
