#![doc = include_str!("../README.md")]

pub mod convert;

/// Generated from `optipod/v1/telemetry.proto`.
#[allow(missing_docs, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("optipod.v1");
}

/// The wire version that this crate speaks. A peer with another version is refused.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest message in bytes, either way. A node with 500 containers needs about 100 KB for a frame of
/// 15 s at 10 Hz; the limit leaves room for 60 s frames at 100 Hz.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Longest node name: a DNS subdomain.
pub const MAX_NODE_NAME_BYTES: usize = 253;
