//! Reading cgroup v2: which paths are containers, what their files say, and how they are read.

pub mod parse;
pub mod path;
pub mod reader;
