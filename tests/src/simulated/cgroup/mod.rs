//! cgroup v2 of a simulated node on disk: the names and formats of real kernels, in ordinary files.
//!
//! | file | subject |
//! |---|---|
//! | `name` | names of slices and scopes, as systemd's driver gives them |
//! | `format` | what each file says |
//! | `directory` | one cgroup: its files, rewritten in place when they change |
//! | `tree` | the slices above the pods |
//!
//! What differs from a kernel: a removed file can still be read by who holds it open (the kernel answers ENODEV), and
//! a file that is read while it is rewritten may be empty (see [`directory`]). Put the tree on a tmpfs: a disk would
//! only be worn.

pub mod directory;
pub mod format;
pub mod name;
pub mod tree;

pub use directory::{Directory, Readers};
pub use format::Values;
pub use tree::Tree;
