#![doc = include_str!("../README.md")]

pub mod base_images;
pub mod cache;
pub mod command;
pub mod control_plane;
pub mod debian;
pub mod guest;
pub mod images;
pub mod instance;
pub mod interrupt;
pub mod kubeconfig;
pub mod lab;
pub mod lifecycle;
pub mod network;
pub mod node;
pub mod paths;
pub mod pki;
pub mod prepare;
pub mod prerequisites;
pub mod process;
pub mod product;
pub mod progress;
pub mod registry;
pub mod shell;
pub mod tools;

pub use lab::Lab;
