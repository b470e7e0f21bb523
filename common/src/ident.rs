//! Names that cannot be malformed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::packed::{Damaged, Pack, Reader};

/// A text that is not the identifier that it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{value:?} is not a {what}: expected {expected}")]
pub struct IdentError {
    what: &'static str,
    value: String,
    expected: &'static str,
}

/// UID of a pod as its cgroup path tells it: 8-4-4-4-12 hexadecimal digits, or 32 of them for static pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodUid(String);

impl PodUid {
    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodUid {
    type Err = IdentError;
    fn from_str(text: &str) -> Result<Self, IdentError> {
        let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
        let dashed = || {
            let parts: Vec<&str> = text.split('-').collect();
            parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|p| hex(p))
        };
        if (text.len() == 32 && hex(text)) || (text.len() == 36 && dashed()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(IdentError {
                what: "pod UID",
                value: text.chars().take(80).collect(),
                expected: "8-4-4-4-12 or 32 hexadecimal digits",
            })
        }
    }
}

impl TryFrom<String> for PodUid {
    type Error = IdentError;
    fn try_from(text: String) -> Result<Self, IdentError> {
        text.parse()
    }
}

impl From<PodUid> for String {
    fn from(uid: PodUid) -> Self {
        uid.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Container id of the runtime: 32 bytes, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId([u8; 32]);

impl ContainerId {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From the `containerID` of a pod's status, such as `containerd://4f..`.
    pub fn from_status(text: &str) -> Result<Self, IdentError> {
        text.rsplit_once("://").map_or(text, |(_, id)| id).parse()
    }
}

impl FromStr for ContainerId {
    type Err = IdentError;
    fn from_str(text: &str) -> Result<Self, IdentError> {
        let error = || IdentError {
            what: "container id",
            value: text.chars().take(80).collect(),
            expected: "64 hexadecimal digits",
        };
        if text.len() != 64 || !text.is_ascii() {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            // from_str_radix accepts a sign
            if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl Pack for ContainerId {
    fn pack(&self, into: &mut Vec<u8>) {
        self.0.pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Pack::unpack(from).map(Self)
    }
}

impl TryFrom<String> for ContainerId {
    type Error = IdentError;
    fn try_from(text: String) -> Result<Self, IdentError> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContainerId({self})")
    }
}

/// One life of one container cgroup. A restart gives a new id; a recreated cgroup a new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// The runtime's id.
    pub id: ContainerId,
    /// Inode of the cgroup directory.
    pub inode: u64,
}

/// Who owns a pod, after following controller references to the top.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Kind of the owner (`Deployment`, `StatefulSet`, ...); `Pod` for a bare pod.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}

/// One container of a workload: usage of all replicas is kept under this key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadContainer {
    /// The owner of the pods.
    pub workload: WorkloadRef,
    /// Name of the container in the pod template.
    pub container: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_uid_malformed_is_refused() {
        for bad in [
            "",
            "x",
            "d0511cd2-29d2-4215-be0f-f77bc0609d9",
            "d0511cd229d24215-be0f-f77bc0609d99----",
            "+0511cd2-29d2-4215-be0f-f77bc0609d99",
        ] {
            assert!(bad.parse::<PodUid>().is_err(), "{bad}");
        }
        assert!("d0511cd2-29d2-4215-be0f-f77bc0609d99".parse::<PodUid>().is_ok());
        assert!("d0511cd229d24215be0ff77bc0609d99".parse::<PodUid>().is_ok());
    }

    #[test]
    fn container_id_round_trips_and_refuses_signs() {
        let text = "4f".repeat(32);
        assert_eq!(ContainerId::from_status(&format!("containerd://{text}")).unwrap().to_string(), text);
        assert!("+f".repeat(32).parse::<ContainerId>().is_err());
        assert!("4f".repeat(31).parse::<ContainerId>().is_err());
    }
}
