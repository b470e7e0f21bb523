#![doc = include_str!("../README.md")]

pub mod api;
pub mod index;
pub mod watch;
