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
