//! Which cgroup belongs to which pod and container, as they come and go.
//!
//! Top down: roots, classes, pods, containers, never deeper. Each directory is watched before it is listed, so
//! nothing that appears in between is missed; a listing is compared with what was known, so every cause (an event,
//! a lost event, a new inode under an old name) goes through one path. Everything is listed again every
//! [`RESCAN_INTERVAL`] and when the kernel's queue overflowed.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use optipod_common::ident::{ContainerKey, PodUid};
use optipod_common::resources::QosClass;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use thiserror::Error;
use tracing::{debug, info, warn};

use crate::cgroup::path::{self, Child, Root};

/// Everything is listed again after this long, in case an event never came.
pub const RESCAN_INTERVAL: Duration = Duration::from_secs(10);
/// The same where inotify is refused (its instances are counted per uid).
const RESCAN_WITHOUT_INOTIFY: Duration = Duration::from_secs(1);
/// Every how many rescans roots are looked for again when some are known.
const ROOT_SEARCH_RESCANS: u32 = 6;
/// Deepest level of a root below the mount: `system.slice/docker-X.scope/kubelet.slice/kubelet-kubepods.slice`.
const ROOT_DEPTH: usize = 4;
/// Directories that one search for roots looks at: far more than a node has outside of its pods.
const ROOT_SEARCH_DIRECTORIES: usize = 4096;
/// One read of the event queue: about 100 events.
const EVENT_BUFFER_BYTES: usize = 8192;

/// Why discovery could not start.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// The mount is not cgroup v2.
    #[error(
        "{} is not a cgroup v2 mount: it has no cgroup.controllers. Expected the unified hierarchy of the host; \
         mount /sys/fs/cgroup read-only and set --cgroup-root. cgroup v1 is not supported",
        path.display()
    )]
    NotCgroup2 {
        /// As configured.
        path: PathBuf,
    },
}

/// Something came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A pod's cgroup appeared.
    PodAppeared {
        /// From the path.
        pod: PodUid,
        /// From the path.
        qos: QosClass,
        /// Of the directory.
        inode: u64,
        /// The directory.
        path: PathBuf,
    },
    /// It is gone. Its containers went before it.
    PodVanished {
        /// Which pod.
        pod: PodUid,
        /// Which life of it.
        inode: u64,
    },
    /// A container's cgroup appeared.
    ContainerAppeared {
        /// Which container.
        key: ContainerKey,
        /// From the path.
        pod: PodUid,
        /// From the path.
        qos: QosClass,
        /// The directory.
        path: PathBuf,
    },
    /// It is gone.
    ContainerVanished {
        /// Which container.
        key: ContainerKey,
    },
    /// `memory.events` of a container changed.
    ContainerMemoryEvents {
        /// Which container.
        key: ContainerKey,
    },
    /// `memory.events` of a pod changed.
    PodMemoryEvents {
        /// Which life of the pod.
        inode: u64,
    },
}

/// What a known directory is, with the inode that it had when it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Root(Root),
    Class(Root, QosClass),
    Pod {
        pod: PodUid,
        qos: QosClass,
    },
    /// Holds containers of a runtime with another cgroup driver than the kubelet's.
    Mismatched,
    Container(ContainerKey),
}

#[derive(Debug)]
struct Known {
    kind: Kind,
    inode: u64,
    /// Of the directory, and of `memory.events`.
    watches: [Option<i32>; 2],
    children: BTreeMap<String, u64>,
}

#[derive(Debug)]
enum Watched {
    Directory(PathBuf),
    ContainerEvents(ContainerKey),
    PodEvents(u64),
}

/// The kubepods trees below one mount.
#[derive(Debug)]
pub struct Discovery {
    mount: PathBuf,
    inotify: Option<OwnedFd>,
    events: Box<[MaybeUninit<u8>]>,
    watches: BTreeMap<i32, Watched>,
    known: BTreeMap<PathBuf, Known>,
    dirty: Vec<PathBuf>,
    next_rescan: Option<Duration>,
    rescans_until_search: u32,
}

impl Discovery {
    /// Checks the mount. Nothing is listed before the first [`Self::poll`].
    ///
    /// # Errors
    /// When the mount is not cgroup v2.
    pub fn new(mount: &Path) -> Result<Self, DiscoverError> {
        let inotify = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                warn!(%error, "inotify refused; new containers are found by listing once a second");
                None
            }
        };
        Self::with_events(mount, inotify)
    }

    /// The same without the kernel's events, whose queues are counted per user: what comes and goes is found by listing
    /// once a second.
    ///
    /// # Errors
    /// When the mount is not cgroup v2.
    pub fn by_listing(mount: &Path) -> Result<Self, DiscoverError> {
        Self::with_events(mount, None)
    }

    fn with_events(mount: &Path, inotify: Option<OwnedFd>) -> Result<Self, DiscoverError> {
        if !mount.join("cgroup.controllers").is_file() {
            return Err(DiscoverError::NotCgroup2 { path: mount.to_owned() });
        }
        Ok(Self {
            mount: mount.to_owned(),
            inotify,
            events: vec![MaybeUninit::uninit(); EVENT_BUFFER_BYTES].into_boxed_slice(),
            watches: BTreeMap::new(),
            known: BTreeMap::new(),
            dirty: Vec::new(),
            next_rescan: None,
            rescans_until_search: 0,
        })
    }

    /// The cgroup of the whole node.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// True when a kubepods root was found.
    pub fn has_roots(&self) -> bool {
        self.known.values().any(|known| matches!(known.kind, Kind::Root(_) | Kind::Mismatched))
    }

    /// Appends what changed since the last call. `now` is monotonic. Without events and between rescans this is one
    /// system call and no allocation.
    pub fn poll(&mut self, now: Duration, changes: &mut Vec<Change>) {
        let overflowed = self.drain(changes);
        if overflowed {
            info!("inotify queue overflowed; everything is listed again");
        }
        if overflowed || self.next_rescan.is_none_or(|at| now >= at) {
            let interval = if self.inotify.is_some() { RESCAN_INTERVAL } else { RESCAN_WITHOUT_INOTIFY };
            self.next_rescan = Some(now + interval);
            self.dirty.clear();
            self.rescan(changes);
        } else if !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            dirty.sort_unstable();
            dirty.dedup();
            for path in dirty {
                self.list(&path, changes);
            }
        }
    }

    /// Reads the event queue; true when the kernel lost events.
    fn drain(&mut self, changes: &mut Vec<Change>) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut reader = inotify::Reader::new(inotify, &mut self.events);
        let mut overflowed = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return overflowed,
                Err(error) => {
                    warn!(%error, "inotify cannot be read");
                    return true;
                }
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                overflowed = true;
            } else if flags.contains(ReadFlags::IGNORED) {
                self.watches.remove(&event.wd());
            } else {
                match self.watches.get(&event.wd()) {
                    Some(Watched::Directory(path)) if flags.contains(ReadFlags::ISDIR) => {
                        self.dirty.push(path.clone());
                    }
                    Some(Watched::ContainerEvents(key)) => {
                        changes.push(Change::ContainerMemoryEvents { key: *key });
                    }
                    Some(Watched::PodEvents(inode)) => {
                        changes.push(Change::PodMemoryEvents { inode: *inode });
                    }
                    Some(Watched::Directory(_)) | None => {}
                }
            }
        }
    }

    fn rescan(&mut self, changes: &mut Vec<Change>) {
        if self.rescans_until_search == 0 || !self.has_roots() {
            self.rescans_until_search = ROOT_SEARCH_RESCANS;
            self.search_roots(changes);
        }
        self.rescans_until_search -= 1;
        let directories: Vec<PathBuf> = self
            .known
            .iter()
            .filter(|(_, known)| !matches!(known.kind, Kind::Container(_)))
            .map(|(path, _)| path.clone())
            .collect();
        for path in directories {
            self.list(&path, changes);
        }
    }

    /// Looks for roots from the mount down, breadth first, not below what it finds.
    fn search_roots(&mut self, changes: &mut Vec<Change>) {
        let mount_name = self.mount.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(root) = Root::from_name(mount_name) {
            let mount = self.mount.clone();
            self.found(&mount, Kind::Root(root), changes);
            return;
        }
        let mut queue = std::collections::VecDeque::from([(self.mount.clone(), 0)]);
        for _ in 0..ROOT_SEARCH_DIRECTORIES {
            let Some((directory, depth)) = queue.pop_front() else { return };
            let Ok(children) = subdirectories(&directory) else { continue };
            let mut mismatched = false;
            for (name, _) in children {
                let path = directory.join(&name);
                if let Some(root) = Root::from_name(&name) {
                    self.found(&path, Kind::Root(root), changes);
                } else if path::mismatched(&name).is_some() {
                    mismatched = true;
                } else if depth + 1 < ROOT_DEPTH {
                    queue.push_back((path, depth + 1));
                }
            }
            if mismatched {
                self.found(&directory, Kind::Mismatched, changes);
            }
        }
    }

    fn found(&mut self, path: &Path, kind: Kind, changes: &mut Vec<Change>) {
        let Ok(metadata) = fs::metadata(path) else { return };
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        match self.known.get(path) {
            Some(known) if known.inode == inode => {}
            known => {
                if known.is_some() {
                    self.forget(path, changes);
                }
                info!(path = %path.display(), ?kind, "root found");
                self.learn(path, kind, inode, changes);
            }
        }
    }

    /// Compares a directory with what was known of it.
    fn list(&mut self, path: &Path, changes: &mut Vec<Change>) {
        let Some(known) = self.known.get(path) else { return };
        let present = match subdirectories(path) {
            Ok(present) => present,
            Err(error) if is_gone(&error) => {
                // the parent's listing ends it too; a root has no parent that is listed
                self.forget(path, changes);
                return;
            }
            Err(error) => {
                warn!(%error, path = %path.display(), "directory cannot be listed");
                return;
            }
        };
        let kind = known.kind.clone();
        let gone: Vec<String> = known
            .children
            .iter()
            .filter(|(name, inode)| present.get(*name) != Some(*inode))
            .map(|(name, _)| name.clone())
            .collect();
        let new: Vec<(String, u64)> = present
            .into_iter()
            .filter(|(name, _)| !known.children.contains_key(name) || gone.contains(name))
            .collect();
        for name in gone {
            self.forget(&path.join(&name), changes);
            if let Some(known) = self.known.get_mut(path) {
                known.children.remove(&name);
            }
        }
        for (name, inode) in new {
            let Some((child, pod)) = classify(&kind, &name, inode) else { continue };
            let path_of_child = path.join(&name);
            if let Some(known) = self.known.get_mut(path) {
                known.children.insert(name, inode);
            }
            if let (Kind::Container(key), Some((pod, qos))) = (&child, pod) {
                let (key, path) = (*key, path_of_child.clone());
                changes.push(Change::ContainerAppeared { key, pod, qos, path });
            }
            self.learn(&path_of_child, child, inode, changes);
        }
    }

    /// Remembers a new directory, watches it and lists it.
    fn learn(&mut self, path: &Path, kind: Kind, inode: u64, changes: &mut Vec<Change>) {
        debug!(path = %path.display(), ?kind, inode, "appeared");
        let mut watch_directory = |path: &Path| {
            let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
            self.watch(path, flags, Watched::Directory(path.to_owned()))
        };
        let watches = match &kind {
            Kind::Container(key) => [self.watch_events(path, Watched::ContainerEvents(*key)), None],
            Kind::Pod { pod, qos } => {
                let directory = watch_directory(path);
                let (pod, path) = (pod.clone(), path.to_owned());
                let events = self.watch_events(&path, Watched::PodEvents(inode));
                changes.push(Change::PodAppeared { pod, qos: *qos, inode, path });
                [directory, events]
            }
            Kind::Root(_) | Kind::Class(..) | Kind::Mismatched => [watch_directory(path), None],
        };
        let is_directory = !matches!(kind, Kind::Container(_));
        self.known.insert(path.to_owned(), Known { kind, inode, watches, children: BTreeMap::new() });
        if is_directory {
            self.list(path, changes);
        }
    }

    /// Forgets a directory and everything below it, containers before their pod.
    fn forget(&mut self, path: &Path, changes: &mut Vec<Change>) {
        let Some(known) = self.known.remove(path) else { return };
        debug!(path = %path.display(), "vanished");
        for name in known.children.keys() {
            self.forget(&path.join(name), changes);
        }
        for watch in known.watches.into_iter().flatten() {
            self.watches.remove(&watch);
            if let Some(inotify) = &self.inotify {
                // fails where the kernel removed it first
                let _ = inotify::remove_watch(inotify, watch);
            }
        }
        match known.kind {
            Kind::Container(key) => changes.push(Change::ContainerVanished { key }),
            Kind::Pod { pod, .. } => changes.push(Change::PodVanished { pod, inode: known.inode }),
            Kind::Root(_) | Kind::Class(..) | Kind::Mismatched => {}
        }
    }

    fn watch_events(&mut self, directory: &Path, watched: Watched) -> Option<i32> {
        self.watch(&directory.join("memory.events"), WatchFlags::MODIFY, watched)
    }

    fn watch(&mut self, path: &Path, flags: WatchFlags, watched: Watched) -> Option<i32> {
        match inotify::add_watch(self.inotify.as_ref()?, path, flags) {
            Ok(watch) => {
                self.watches.insert(watch, watched);
                Some(watch)
            }
            Err(Errno::NOENT) => None,
            Err(error) => {
                warn!(%error, path = %path.display(), "cannot be watched; it is listed every 10 s");
                None
            }
        }
    }
}

type PodOf = (PodUid, QosClass);

/// What a directory below `parent` is; for a container with its pod.
fn classify(parent: &Kind, name: &str, inode: u64) -> Option<(Kind, Option<PodOf>)> {
    let child = |root: &Root, class| match root.child(class, name)? {
        Child::Class(class) => Some((Kind::Class(root.clone(), class), None)),
        Child::Pod { pod, qos } => Some((Kind::Pod { pod, qos }, None)),
    };
    match parent {
        Kind::Root(root) => child(root, None),
        Kind::Class(root, class) => child(root, Some(*class)),
        Kind::Pod { pod, qos } => {
            let key = ContainerKey { id: path::container(name)?, inode };
            Some((Kind::Container(key), Some((pod.clone(), *qos))))
        }
        Kind::Mismatched => {
            let found = path::mismatched(name)?;
            let key = ContainerKey { id: found.container, inode };
            Some((Kind::Container(key), Some((found.pod, found.qos))))
        }
        Kind::Container(_) => None,
    }
}

fn subdirectories(path: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|t| t.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            found.insert(name, entry.ino());
        }
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}
