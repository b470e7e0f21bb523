//! One cgroup: a directory whose files are rewritten in place, and only those that change.
//!
//! Readers hold files open and read them anew, as they do with a kernel's, so a file keeps its inode: no new file is
//! renamed over it. A write over old text could be read half old and half new, since neither ext4 nor tmpfs locks
//! readers out. So a file is cut to nothing first (`O_TRUNC`) and then written by one call. Cutting takes the page
//! away from the file instead of changing it, the text goes into a new page, and the file's length grows only after
//! it. A reader therefore sees the old text, the new text, nothing, or zeros without an end of line: what the agent's
//! parsers take as no sample. It never sees a number that was not written.
//!
//! Where nobody reads meanwhile, the new text is written over the old: half the cost.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{CONSTANT, EVENTS, FILES, Values, populated};

/// Who reads while files are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Somebody may.
    AnyTime,
    /// Nobody does.
    Between,
}

/// One cgroup on disk.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    shown: Option<Values>,
}

/// Files that say the same in every cgroup: written once, linked into each.
#[derive(Debug)]
pub struct Constants {
    folder: PathBuf,
}

impl Constants {
    /// Writes them into `folder`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        for (name, text) in CONSTANT {
            fs::write(folder.join(name), text)?;
        }
        Ok(Self { folder })
    }
}

impl Directory {
    /// A cgroup without any process.
    ///
    /// # Errors
    /// When it is there already, or the disk refuses.
    pub fn create(path: PathBuf, constants: &Constants) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let mut text = String::new();
        written(populated(false, &mut text))?;
        fs::write(path.join(EVENTS), text)?;
        for (name, _) in CONSTANT {
            fs::hard_link(constants.folder.join(name), path.join(name))?;
        }
        Ok(Self { path, shown: None })
    }

    /// A cgroup that never changes, from one that is shown: its files are links, but for `memory.events`, since a
    /// watch is on the file and not on its name.
    ///
    /// # Errors
    /// When it is there already, or the disk refuses.
    pub fn copy(path: PathBuf, original: &Self) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let changing = FILES.iter().map(|file| file.name);
        for name in CONSTANT.iter().map(|(name, _)| *name).chain(changing) {
            let (from, to) = (original.path.join(name), path.join(name));
            if name == "memory.events" { fs::copy(from, to).map(drop)? } else { fs::hard_link(from, to)? }
        }
        Ok(Self { path, shown: original.shown })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rewrites what differs from what is shown; returns how many files that was. `text` is a buffer.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn show(&mut self, values: &Values, text: &mut String, readers: Readers) -> io::Result<u32> {
        let mut rewritten = 0;
        for file in &FILES {
            if self.shown.as_ref().is_some_and(|shown| (file.same)(shown, values)) {
                continue;
            }
            text.clear();
            written((file.write)(values, text))?;
            self.path.push(file.name);
            let done = match self.shown {
                Some(_) if readers == Readers::Between => overwrite(&self.path, text),
                _ => replace(&self.path, text),
            };
            self.path.pop();
            done?;
            rewritten += 1;
        }
        self.shown = Some(*values);
        Ok(rewritten)
    }

    /// What its files say.
    pub const fn shown(&self) -> Option<&Values> {
        self.shown.as_ref()
    }

    /// Removes it with its files.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    let length = text.len() as u64;
    if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    // one call: the text is shorter than a page
    file.write_all(text.as_bytes())
}

/// Writing to a `String` fails only when a `Display` does.
fn written(result: std::fmt::Result) -> io::Result<()> {
    result.map_err(io::Error::other)
}
