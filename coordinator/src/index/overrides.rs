//! What the owner of a workload says about it by annotation: to leave it alone, to pin a resource, to choose a policy.
//!
//! Annotations are read where labels are: on the highest controller that is watched, else on the pods. One that cannot be
//! read, any other one with this prefix, and one on a pod that has such a controller holds the workload: what its owner
//! wanted is not guessed. To be left alone is heard from pods as well.

use std::borrow::Cow;
use std::collections::BTreeMap;

use optipod_common::resources::Resource;

use super::PolicyKey;

/// Prefix of every annotation that is read.
pub const PREFIX: &str = "optipod.io/";

/// `"false"` leaves the workload alone; `"true"` is the default.
pub const OPTIMIZE: &str = "optipod.io/optimize";

/// Resources that keep their size: `cpu`, `memory`, `CONTAINER/cpu`, `CONTAINER/memory`, separated by commas.
pub const PIN: &str = "optipod.io/pin";

/// The policy that the workload follows, of those that select it: `NAME` or `NAMESPACE/NAME`.
pub const POLICY: &str = "optipod.io/policy";

/// An annotation may have 256 KiB; it is shown in the status of a policy, which others share.
const VALUE_SHOWN: usize = 80;
/// Of all problems of one object together.
const PROBLEM_SHOWN: usize = 500;
/// A name of the API server has at most so many characters.
const LONGEST_NAME: usize = 253;

/// At most so many characters of a text.
fn shortened(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        Some((end, _)) => Cow::Owned(format!("{}...", text.split_at(end).0)),
        None => Cow::Borrowed(text),
    }
}

/// What annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The workload is left alone.
    pub opted_out: bool,
    /// The policy that is chosen.
    pub policy: Option<PolicyChoice>,
    /// Pinned resources; without a container, those of all.
    pins: Vec<(Option<String>, Resource)>,
    /// Why an annotation cannot be read.
    pub problem: Option<String>,
}

/// A policy that is chosen by annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChoice {
    /// Its namespace; `None` = that of the workload before any other.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl PolicyChoice {
    /// Whether a policy is the one that is named.
    pub fn is(&self, key: &PolicyKey) -> bool {
        self.name == key.name && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

impl std::fmt::Display for PolicyChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Overrides {
    /// From all annotations of an object.
    pub fn new(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let mut overrides = Self::default();
        let mut problems = Vec::new();
        for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(PREFIX)) {
            let read = match key.as_str() {
                OPTIMIZE => overrides.optimize(value),
                PIN => overrides.pin(value),
                POLICY => overrides.choose(value),
                // most likely one of these misspelt: it has to be heard rather than passed over
                _ => {
                    problems.push(format!(
                        "annotation {key} is not known: expected {OPTIMIZE}, {PIN} or {POLICY}"
                    ));
                    Ok(())
                }
            };
            if let Err(expected) = read {
                let value = shortened(value, VALUE_SHOWN);
                problems.push(format!("annotation {key}: {value:?} is not understood: expected {expected}"));
            }
        }
        overrides.problem =
            (!problems.is_empty()).then(|| shortened(&problems.join("; "), PROBLEM_SHOWN).into_owned());
        overrides
    }

    /// It says something other than to leave the workload alone.
    pub fn says_more(&self) -> bool {
        self.policy.is_some() || !self.pins.is_empty() || self.problem.is_some()
    }

    /// Containers that are pinned by name.
    pub fn pinned_containers(&self) -> impl Iterator<Item = &str> {
        self.pins.iter().filter_map(|(container, _)| container.as_deref())
    }

    /// Whether a resource of a container keeps its size.
    pub fn pins(&self, container: &str, resource: Resource) -> bool {
        let is_about = |of: &Option<String>| of.as_ref().is_none_or(|name| name == container);
        self.pins.iter().any(|(of, pinned)| *pinned == resource && is_about(of))
    }

    fn optimize(&mut self, value: &str) -> Result<(), &'static str> {
        self.opted_out = match value {
            "true" => false,
            "false" => true,
            _ => return Err("\"true\" or \"false\""),
        };
        Ok(())
    }

    fn pin(&mut self, value: &str) -> Result<(), &'static str> {
        for item in value.split(',').map(str::trim) {
            let (container, resource) = match item.split_once('/') {
                Some((container, resource)) => (Some(container), resource),
                None => (None, item),
            };
            let resource = match resource {
                "cpu" => Some(Resource::Cpu),
                "memory" => Some(Resource::Memory),
                _ => None,
            };
            match resource.filter(|_| container != Some("")) {
                Some(resource) => self.pins.push((container.map(str::to_owned), resource)),
                None => {
                    return Err("cpu, memory, CONTAINER/cpu or CONTAINER/memory, separated by commas");
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, value: &str) -> Result<(), &'static str> {
        let (namespace, name) = match value.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, value),
        };
        let named = |part: &str| (1..=LONGEST_NAME).contains(&part.len());
        if !named(name) || name.contains('/') || namespace.is_some_and(|namespace| !named(namespace)) {
            return Err("NAME or NAMESPACE/NAME of a policy");
        }
        self.policy = Some(PolicyChoice { namespace: namespace.map(str::to_owned), name: name.to_owned() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        let pairs: BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Overrides::new(Some(&pairs))
    }

    #[test]
    fn what_is_said_is_read() {
        assert_eq!(Overrides::new(None), Overrides::default());
        assert!(overrides(&[(OPTIMIZE, "false")]).opted_out);
        let pinned = overrides(&[(PIN, "cpu, app/memory"), ("other.io/pin", "x"), ("x.optipod.io/pin", "y")]);
        let of = |container, resource| pinned.pins(container, resource);
        assert!(of("app", Resource::Cpu) && of("sidecar", Resource::Cpu));
        assert!(of("app", Resource::Memory) && !of("sidecar", Resource::Memory));
        assert_eq!(pinned.problem, None);
        let key = PolicyKey { namespace: "a".into(), name: "gold".into() };
        assert!(overrides(&[(POLICY, "gold")]).policy.is_some_and(|p| p.is(&key)));
        assert!(overrides(&[(POLICY, "a/gold")]).policy.is_some_and(|p| p.is(&key)));
        assert!(!overrides(&[(POLICY, "b/gold")]).policy.is_some_and(|p| p.is(&key)));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (key, value) in [
            (OPTIMIZE, "no"),
            (OPTIMIZE, ""),
            (PIN, ""),
            (PIN, "gpu"),
            (PIN, "cpu,"),
            (PIN, "/cpu"),
            (POLICY, ""),
            (POLICY, "a/"),
            (POLICY, "/b"),
            (POLICY, "a/b/c"),
            ("optipod.io/optimise", "false"),
            ("optipod.io/Optimize", "false"),
            ("optipod.io/", ""),
            (POLICY, &"p".repeat(254)),
        ] {
            let problem = overrides(&[(key, value)]).problem.unwrap();
            assert!(problem.contains(key) && problem.contains("expected"), "{problem}");
        }
    }

    #[test]
    fn a_long_annotation_is_shown_in_part() {
        let long = "\u{e9}".repeat(100_000);
        let problem = overrides(&[(OPTIMIZE, &long)]).problem.unwrap();
        assert!(problem.chars().count() < 200 && problem.contains("expected \"true\""), "{problem}");
        let many: Vec<String> = (0..1000).map(|n| format!("optipod.io/{n}")).collect();
        let pairs: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), long.as_str())).collect();
        assert!(overrides(&pairs).problem.unwrap().chars().count() <= PROBLEM_SHOWN + 3);
    }
}
