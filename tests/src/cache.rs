//! Everything slow is made once and kept under the user's cache folder, keyed by what it was made from.
//!
//! An entry is a folder `<kind>-<key>`. It is built in `tmp/` under an exclusive file lock and renamed when it is
//! complete: two runs at once build it once, and a killed build leaves only a folder in `tmp/`, which the next run
//! removes. Entries never change.

use std::{
    env,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

/// Environment variable that moves the cache.
pub const ENVIRONMENT: &str = "OPTIPOD_LAB_CACHE";
/// Hex digits of a key: 64 bits are plenty for a folder of dozens.
const KEY_DIGITS: usize = 16;

/// The cache folder of this user.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens (creates) the cache at `path`, or where the user's caches are, and removes what killed builds left.
    pub fn open(path: Option<PathBuf>) -> Result<Self> {
        let root = match path {
            Some(path) => std::path::absolute(path).context("cannot resolve the cache folder")?,
            None => default_root()?,
        };
        for folder in ["tmp", "locks", "log"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let cache = Self { root };
        cache.sweep()?;
        Ok(cache)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the output of the build of `name` goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// The folder of an entry when it is complete.
    pub fn find(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        Some(self.root.join(entry_name(kind, key))).filter(|path| path.is_dir())
    }

    /// The entry's folder, built by `build` in an empty folder if it does not exist yet.
    pub fn entry(&self, kind: &str, key: &Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        if let Some(path) = self.find(kind, key) {
            return Ok(path);
        }
        let name = entry_name(kind, key);
        let _lock = self.lock(&name)?;
        if let Some(path) = self.find(kind, key) {
            return Ok(path);
        }
        let temporary = self.root.join("tmp").join(&name);
        remove(&temporary)?;
        fs::create_dir_all(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
        if let Err(error) = build(&temporary) {
            drop(remove(&temporary));
            return Err(error.context(format!("cannot build {kind}")));
        }
        let path = self.root.join(&name);
        fs::rename(&temporary, &path).with_context(|| format!("cannot rename to {}", path.display()))?;
        Ok(path)
    }

    /// Waits for the lock of that name; it is released when the file is dropped, also by a crash.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join("locks").join(name);
        let file = open_lock(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        eprintln!("waiting for another run that builds {name}");
        flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    fn sweep(&self) -> Result<()> {
        let temporary = self.root.join("tmp");
        for entry in
            fs::read_dir(&temporary).with_context(|| format!("cannot read {}", temporary.display()))?
        {
            let entry = entry.context("cannot read the cache folder")?;
            let lock = open_lock(&self.root.join("locks").join(entry.file_name()))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// What an entry is made from; any change of any part is another entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key over labelled parts; labels and lengths are hashed too, so parts cannot run into each other.
    pub fn of<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut hash = Sha256::new();
        for (label, bytes) in parts {
            hash.update((label.len() as u64).to_le_bytes());
            hash.update(label.as_bytes());
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let mut digits = hex::encode(hash.finalize());
        digits.truncate(KEY_DIGITS);
        Self(digits)
    }

    /// The key as text, to be a part of another key.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Every regular file below `folder` with its relative path, sorted: the parts of a key.
pub fn files_below(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(&current).with_context(|| format!("cannot read {}", current.display()))? {
            let path = entry.with_context(|| format!("cannot read {}", current.display()))?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let relative = path.strip_prefix(folder).unwrap_or(&path);
            found.push((relative.to_string_lossy().into_owned(), bytes));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a folder with all it holds; it is no error when there is none.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Opens (creates) a lock file without locking it.
pub fn open_lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn entry_name(kind: &str, Key(key): &Key) -> String {
    format!("{kind}-{key}")
}

fn default_root() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let caches =
        caches.ok_or_else(|| anyhow!("neither XDG_CACHE_HOME nor HOME is set: say --cache FOLDER"))?;
    Ok(caches.join("optipod-lab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().to_owned())).unwrap();
        (folder, cache)
    }

    #[test]
    fn parts_that_run_together_have_different_keys() {
        let one = Key::of([("a", b"bc".as_slice()), ("d", b"")]);
        let other = Key::of([("a", b"b".as_slice()), ("cd", b"")]);
        assert_ne!(one, other);
        assert_eq!(one, Key::of([("a", b"bc".as_slice()), ("d", b"")]));
    }

    #[test]
    fn complete_entry_is_not_built_again() {
        let (_folder, cache) = cache();
        let key = Key::of([("k", b"1".as_slice())]);
        let path = cache.entry("thing", &key, |folder| Ok(fs::write(folder.join("f"), "x")?)).unwrap();
        let again = cache.entry("thing", &key, |_| Err(anyhow!("built twice"))).unwrap();
        assert_eq!((path.clone(), fs::read_to_string(path.join("f")).unwrap()), (again, "x".to_owned()));
    }

    #[test]
    fn failed_build_leaves_nothing() {
        let (_folder, cache) = cache();
        let key = Key::of([("k", b"1".as_slice())]);
        let error = cache.entry("thing", &key, |folder| {
            fs::write(folder.join("f"), "half")?;
            Err(anyhow!("no network"))
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("no network"));
        assert!(cache.find("thing", &key).is_none());
        assert_eq!(fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn leftover_of_a_killed_build_is_removed_unless_somebody_builds_it() {
        let (folder, cache) = cache();
        for name in ["dead-1", "alive-2"] {
            fs::create_dir(cache.root().join("tmp").join(name)).unwrap();
        }
        let _building = cache.lock("alive-2").unwrap();
        Cache::open(Some(folder.path().to_owned())).unwrap();
        assert!(!cache.root().join("tmp/dead-1").exists() && cache.root().join("tmp/alive-2").exists());
    }
}
