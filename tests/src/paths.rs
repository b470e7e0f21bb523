//! Where the sources of this workspace are: the lab always runs from a checkout.

use std::path::{Path, PathBuf};

/// The workspace's top folder.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// `tests/lab`: pins, guest files, configurations.
pub fn lab_files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab")
}

/// This program, to be started again while it runs: cargo may have replaced or removed the file that it was started from.
pub fn own_program() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_program_runs_after_its_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy");
        std::fs::copy("/bin/sh", &copy).unwrap();
        let script = "rm \"$0\" && exec \"/proc/$$/exe\" -c 'echo again'";
        let done = std::process::Command::new(&copy).args(["-c", script]).arg(&copy).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stdout), "again\n", "{done:?}");
        assert!(own_program().exists());
    }
}
