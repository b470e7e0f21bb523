#![doc = include_str!("../README.md")]

pub mod decide;
pub mod frame;
pub mod histogram;
pub mod ident;
pub mod ledger;
pub mod policy;
pub mod progress;
pub mod quantity;
pub mod recommend;
pub mod resources;
pub mod sample;
pub mod store;
pub mod time;
