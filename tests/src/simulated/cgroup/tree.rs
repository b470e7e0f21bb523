//! The slices above the pods of one node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use optipod_common::ident::{ContainerId, PodUid};
use optipod_common::resources::QosClass;

use super::directory::{Constants, Directory, Readers};
use super::format::Values;
use super::name;

/// Controllers of a node whose kernel has all of them.
const CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids rdma misc\n";
/// Where the files are that cgroups link to: no name of a cgroup that holds pods.
const TEMPLATES: &str = "init.scope";

/// The hierarchy of one node. Its root is what an agent gets as `--cgroup-root`.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    constants: Constants,
    /// Every sandbox is a copy of it.
    sandbox: Directory,
    /// `kubepods.slice`.
    pub kubepods: Directory,
    /// Slices of the classes that have one.
    pub classes: [(QosClass, Directory); 2],
}

impl Tree {
    /// Makes the slices in a folder that is empty or does not exist.
    ///
    /// # Errors
    /// When it holds something, or the disk refuses.
    pub fn create(root: &Path, sandbox: &Values, text: &mut String) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        if fs::read_dir(root)?.next().is_some() {
            let message =
                format!("{} is not empty: expected an empty folder for a cgroup tree", root.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        fs::write(root.join("cgroup.controllers"), CONTROLLERS)?;
        let constants = Constants::write(root.join(TEMPLATES))?;
        let mut pause = Directory::create(root.join(TEMPLATES).join("pause"), &constants)?;
        pause.show(sandbox, text, Readers::AnyTime)?;
        let path = root.join(name::KUBEPODS);
        let kubepods = Directory::create(path.clone(), &constants)?;
        let class = |qos: QosClass| {
            let name = name::class(qos).unwrap_or_default();
            Ok::<_, io::Error>((qos, Directory::create(path.join(name), &constants)?))
        };
        let classes = [class(QosClass::Burstable)?, class(QosClass::BestEffort)?];
        Ok(Self { root: root.to_owned(), constants, sandbox: pause, kubepods, classes })
    }

    /// The cgroup of a pod.
    ///
    /// # Errors
    /// When it is there already, or the disk refuses.
    pub fn pod(&self, uid: &PodUid, qos: QosClass) -> io::Result<Directory> {
        let class = self.root.join(name::KUBEPODS).join(name::class(qos).unwrap_or_default());
        Directory::create(class.join(name::pod(uid, qos)), &self.constants)
    }

    /// The cgroup of a container, below that of its pod.
    ///
    /// # Errors
    /// When it is there already, or the disk refuses.
    pub fn container(&self, pod: &Directory, id: ContainerId) -> io::Result<Directory> {
        Directory::create(pod.path().join(name::container(id)), &self.constants)
    }

    /// The cgroup of a pod's sandbox.
    ///
    /// # Errors
    /// When it is there already, or the disk refuses.
    pub fn sandbox(&self, pod: &Directory, id: ContainerId) -> io::Result<Directory> {
        Directory::copy(pod.path().join(name::container(id)), &self.sandbox)
    }
}
