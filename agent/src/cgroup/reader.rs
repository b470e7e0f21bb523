//! Held descriptors and one buffer. `pread` at offset 0 makes the kernel write the file anew, so a sample is one
//! system call. Errors carry the path; the path is put together only when there is one. Where descriptors are few,
//! nothing is held and each sample opens its file.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::parse::ParseError;

/// Longest file that is read. The kernel formats `memory.stat`, the longest, into one page.
const BUFFER_BYTES: usize = 16 * 1024;

/// A file that gave no sample.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The cgroup is gone: its file is missing, or a held descriptor answers ENODEV.
    #[error("{} is gone", path.display())]
    Gone {
        /// Which file.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot read {}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The file fills the whole buffer, so its end may be missing.
    #[error("{} is longer than {BUFFER_BYTES} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// The content is not what the kernel documents.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ParseError,
    },
}

impl ReadError {
    /// True when the cgroup went away, which is normal.
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// What all reads of a thread share: the buffer, and whether descriptors are held.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    holds: bool,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into_boxed_slice(), holds: true }
    }
}

impl Buffer {
    /// For reads that open their files each time.
    pub fn opening() -> Self {
        Self { holds: false, ..Self::default() }
    }
}

/// A file for many reads.
#[derive(Debug)]
pub struct HeldFile {
    /// `None` when it is opened for each read.
    file: Option<OwnedFd>,
    name: &'static str,
}

/// The directory of one cgroup.
#[derive(Debug)]
pub struct CgroupDir {
    path: PathBuf,
    /// `None` when files are opened by path.
    directory: Option<OwnedFd>,
}

impl CgroupDir {
    /// Opens the directory.
    ///
    /// # Errors
    /// When it is gone or refused.
    pub fn open(path: &Path, buffer: &Buffer) -> Result<Self, ReadError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Ok(Self { path: path.to_owned(), directory: buffer.holds.then_some(directory) }),
            Err(source) => Err(refused(path.to_owned(), source)),
        }
    }

    /// Opens one of its files for many reads.
    ///
    /// # Errors
    /// When it is gone or refused.
    pub fn hold(&self, name: &'static str) -> Result<HeldFile, ReadError> {
        let file = self.open_file(name)?;
        Ok(HeldFile { file: self.directory.is_some().then_some(file), name })
    }

    fn open_file(&self, name: &'static str) -> Result<OwnedFd, ReadError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = match &self.directory {
            Some(directory) => rustix::fs::openat(directory, name, flags, Mode::empty()),
            None => rustix::fs::open(self.path.join(name), flags, Mode::empty()),
        };
        opened.map_err(|source| refused(self.path.join(name), source))
    }

    /// Reads a held file.
    ///
    /// # Errors
    /// Whatever is no sample.
    pub fn read<T>(
        &self,
        held: &HeldFile,
        buffer: &mut Buffer,
        parse: fn(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        match &held.file {
            Some(file) => self.read_open(file, held.name, buffer, parse),
            None => self.read_once(held.name, buffer, parse),
        }
    }

    fn read_open<T>(
        &self,
        file: &OwnedFd,
        name: &'static str,
        buffer: &mut Buffer,
        parse: fn(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        let path = || self.path.join(name);
        let length = rustix::io::pread(file, &mut *buffer.bytes, 0).map_err(|e| refused(path(), e))?;
        match buffer.bytes.get(..length) {
            Some(bytes) if length < BUFFER_BYTES => {
                parse(bytes).map_err(|source| ReadError::Malformed { path: path(), source })
            }
            _ => Err(ReadError::TooLong { path: path() }),
        }
    }

    /// Opens, reads and closes a file that is needed rarely.
    ///
    /// # Errors
    /// Whatever is no sample.
    pub fn read_once<T>(
        &self,
        name: &'static str,
        buffer: &mut Buffer,
        parse: fn(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        let file = self.open_file(name)?;
        self.read_open(&file, name, buffer, parse)
    }
}

const fn refused(path: PathBuf, source: Errno) -> ReadError {
    match source {
        Errno::NOENT | Errno::NODEV => ReadError::Gone { path },
        source => ReadError::Refused { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::parse;
    use super::*;

    #[test]
    fn held_file_is_read_anew_each_time() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("cpu.stat");
        for mut buffer in [Buffer::default(), Buffer::opening()] {
            fs::write(&file, "usage_usec 5\n").unwrap();
            let dir = CgroupDir::open(root.path(), &buffer).unwrap();
            let held = dir.hold("cpu.stat").unwrap();
            assert_eq!((dir.directory.is_some(), held.file.is_some()), (buffer.holds, buffer.holds));
            assert_eq!(dir.read(&held, &mut buffer, parse::cpu_stat).unwrap().usage_micros, 5);
            fs::write(&file, "usage_usec 17\n").unwrap();
            assert_eq!(dir.read(&held, &mut buffer, parse::cpu_stat).unwrap().usage_micros, 17);
            assert!(dir.hold("memory.current").unwrap_err().is_gone());
        }
    }

    #[test]
    fn missing_truncated_and_endless_files_are_errors_with_the_path() {
        let root = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::default();
        let dir = CgroupDir::open(root.path(), &buffer).unwrap();
        let missing = CgroupDir::open(&root.path().join("none"), &buffer).unwrap_err();
        assert!(missing.to_string().ends_with("none is gone"));
        let mut error = |name| dir.read_once(name, &mut buffer, parse::cpu_stat).unwrap_err();
        assert!(error("cpu.stat").is_gone());
        fs::write(root.path().join("cpu.stat"), "").unwrap();
        assert!(error("cpu.stat").to_string().ends_with("cpu.stat is malformed"));
        fs::write(root.path().join("cpu.stat"), vec![b'x'; BUFFER_BYTES]).unwrap();
        assert!(error("cpu.stat").to_string().contains("longer than"));
    }
}
