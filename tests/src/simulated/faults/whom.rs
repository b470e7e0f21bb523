//! Whom a fault concerns.

use sha2::{Digest, Sha256};

/// Nodes by name; all when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(pub Vec<String>);

impl Nodes {
    /// Whether the node is one of them.
    pub fn contain(&self, node: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| name == node)
    }
}

/// Pods by namespace, workload and share; all where nothing is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pods {
    /// Only of this namespace.
    pub namespace: Option<String>,
    /// Only those of this workload: pods of that name, or whose name begins with it and a dash.
    pub workload: Option<String>,
    /// Only this share of them, drawn by the pod's name.
    pub share: Share,
}

impl Pods {
    /// Whether the pod is one of them; `draw` is the fault's own, so that two faults hit different pods.
    pub fn contain(&self, namespace: &str, pod: &str, draw: Draw) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.workload.as_deref().is_none_or(|workload| belongs(pod, workload))
            && draw.hits(self.share, &[namespace, pod])
    }
}

fn belongs(pod: &str, workload: &str) -> bool {
    pod.strip_prefix(workload).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// A share, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// Of `value`, 0 to 1.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The number, 0 to 1.
    pub const fn value(self) -> f64 {
        self.0
    }
}

impl Default for Share {
    fn default() -> Self {
        Self(1.0)
    }
}

/// Draws by seed, number of the fault and name: the same names are hit in every run, in whatever order they ask.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Of the scenario.
    pub seed: u64,
    /// Index of the fault.
    pub fault: usize,
}

impl Draw {
    /// Whether the one with these names belongs to the share.
    pub fn hits(self, share: Share, names: &[&str]) -> bool {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update((self.fault as u64).to_le_bytes());
        for name in names {
            hash.update(name.as_bytes());
            hash.update([0]);
        }
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        f64::from(u32::from_le_bytes([a, b, c, d])) < share.0 * f64::from(u32::MAX)
            || share == Share::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(value: f64) -> Share {
        Share::new(value).expect("between 0 and 1")
    }

    #[test]
    fn a_workload_is_not_the_one_whose_name_begins_alike() {
        assert!(belongs("web-7d9-x2", "web") && belongs("web", "web"));
        assert!(!belongs("webapi-0", "web") && !belongs("we", "web"));
    }

    #[test]
    fn a_share_is_drawn_by_name_and_differs_between_faults_and_seeds() {
        let hit = |seed, fault| -> Vec<usize> {
            let draw = Draw { seed, fault };
            (0..1000).filter(|i| draw.hits(share(0.05), &["default", &format!("web-{i}")])).collect()
        };
        assert_eq!(hit(1, 0), hit(1, 0));
        assert_ne!(hit(1, 0), hit(1, 1));
        assert_ne!(hit(1, 0), hit(2, 0));
        // 50 expected, standard deviation 7
        assert!((25..=75).contains(&hit(1, 0).len()), "{}", hit(1, 0).len());
    }

    #[test]
    fn all_and_none_are_exact() {
        let draw = Draw { seed: 3, fault: 0 };
        assert!((0..1000).all(|i| draw.hits(Share::default(), &[&i.to_string()])));
        assert!((0..1000).all(|i| !draw.hits(share(0.0), &[&i.to_string()])));
        assert_eq!(Share::new(1.01), None);
        assert_eq!(Share::new(f64::NAN), None);
    }
}
