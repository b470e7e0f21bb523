//! Names of cgroups as a kubelet and containerd with systemd's driver give them.

use optipod_common::ident::{ContainerId, PodUid};
use optipod_common::resources::QosClass;

/// All pods.
pub const KUBEPODS: &str = "kubepods.slice";

/// The slice of a class; Guaranteed pods have none.
pub const fn class(qos: QosClass) -> Option<&'static str> {
    match qos {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("kubepods-burstable.slice"),
        QosClass::BestEffort => Some("kubepods-besteffort.slice"),
    }
}

/// The slice of a pod. systemd reads `-` as a level.
pub fn pod(uid: &PodUid, qos: QosClass) -> String {
    let parent = class(qos).unwrap_or(KUBEPODS).trim_end_matches(".slice");
    format!("{parent}-pod{}.slice", uid.as_str().replace('-', "_"))
}

/// The scope of a container or of a pod's sandbox.
pub fn container(id: ContainerId) -> String {
    format!("cri-containerd-{id}.scope")
}

#[cfg(test)]
mod tests {
    use optipod_agent::cgroup::path;

    use super::*;

    #[test]
    fn agent_reads_the_names_back() {
        let uid: PodUid = "d0511cd2-29d2-4215-be0f-f77bc0609d99".parse().unwrap();
        let id = ContainerId::from_bytes([0x4f; 32]);
        for qos in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let levels = [Some(KUBEPODS.to_owned()), class(qos).map(str::to_owned), Some(pod(&uid, qos))];
            let mut levels: Vec<String> = levels.into_iter().flatten().collect();
            levels.push(container(id));
            let found = path::parse(&levels.join("/")).unwrap();
            assert_eq!((found.pod, found.qos, found.container), (uid.clone(), qos, id));
        }
    }
}
