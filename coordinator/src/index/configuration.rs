//! The `ConfigMap` that switches the dry run for all policies without a restart.

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;

use super::{Delta, Index, Listed};

/// Its name, in the coordinator's own namespace.
pub const CONFIG_MAP: &str = "optipod-config";
/// The key that holds the settings, as YAML.
const KEY: &str = "config.yaml";

/// What the `ConfigMap` says now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Compute everything, resize nothing. Also while [`Self::problem`] is there: nobody knows what was meant.
    pub dry_run: bool,
    /// What is wrong with it, with what is allowed.
    pub problem: Option<String>,
    /// Settings in it that do nothing here, with what does.
    pub ignored: Vec<&'static str>,
}

/// The settings. Those of the operator design that became fields of a policy are accepted and do nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct File {
    dry_run: bool,
    metrics_provider: Option<String>,
    #[serde(rename = "prometheusURL")]
    prometheus_url: Option<String>,
    leader_election: Option<bool>,
    reconciliation_interval: Option<String>,
}

impl Configuration {
    fn read(object: &ConfigMap) -> Self {
        let data = object.data.as_ref();
        let unknown = data.into_iter().flat_map(|data| data.keys()).find(|key| *key != KEY);
        if let Some(key) = unknown {
            return Self::wrong(format!("the key {key:?} is not known: expected {KEY:?}"));
        }
        // an empty document says nothing, and is none for the parser
        let text = data.and_then(|data| data.get(KEY)).map_or("{}", String::as_str);
        let parsed = serde_yaml_ng::from_str::<Option<File>>(text);
        match parsed {
            Ok(file) => Self::of(&file.unwrap_or_default()),
            Err(error) => Self::wrong(format!("{KEY}: {error}")),
        }
    }

    fn of(file: &File) -> Self {
        let ignored = [
            (file.metrics_provider.is_some(), "metricsProvider (metricsConfig.provider of a policy)"),
            (file.prometheus_url.is_some(), "prometheusURL (agents measure)"),
            (file.leader_election.is_some(), "leaderElection (always on)"),
            (file.reconciliation_interval.is_some(), "reconciliationInterval (of a policy)"),
        ];
        let ignored = ignored.into_iter().filter_map(|(said, name)| said.then_some(name)).collect();
        Self { dry_run: file.dry_run, problem: None, ignored }
    }

    fn wrong(problem: String) -> Self {
        Self { dry_run: true, problem: Some(problem), ignored: Vec::new() }
    }
}

impl Index {
    /// What the `ConfigMap` of the coordinator says; the defaults when there is none.
    pub const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    pub(super) fn apply_configuration(&mut self, delta: Delta<ConfigMap>) {
        let ours = |object: &ConfigMap| object.metadata.name.as_deref() == Some(CONFIG_MAP);
        match delta {
            Delta::Apply(object) if ours(&object) => self.configuration = Configuration::read(&object),
            Delta::Delete(object) if ours(&object) => self.configuration = Configuration::default(),
            Delta::Apply(_) | Delta::Delete(_) => {}
            Delta::Replace(objects) => {
                let object = objects.iter().find(|object| ours(object));
                self.configuration = object.map(Configuration::read).unwrap_or_default();
                self.listed.insert(Listed::Configuration);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, text: &str) -> Configuration {
        let object = serde_json::json!({"metadata": {"name": CONFIG_MAP}, "data": {key: text}});
        Configuration::read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_dry_run_is_switched() {
        assert!(read(KEY, "dryRun: true").dry_run);
        for off in ["dryRun: false", "", "{}", "# nothing"] {
            assert_eq!(read(KEY, off), Configuration::default(), "{off:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_resizes_nothing_and_is_named() {
        for (key, text, named) in [
            (KEY, "dryRun: maybe", "dryRun"),
            (KEY, "dryrun: false", "unknown field `dryrun`, expected"),
            (KEY, "[", "config.yaml"),
            ("dryRun", "false", "\"dryRun\" is not known: expected \"config.yaml\""),
        ] {
            let configuration = read(key, text);
            let problem = configuration.problem.unwrap_or_default();
            assert!(configuration.dry_run && problem.contains(named), "{text:?}: {problem}");
        }
    }

    #[test]
    fn the_operator_designs_own_example_is_read() {
        let example = "dryRun: false\nmetricsProvider: prometheus\nprometheusURL: http://prometheus:9090\n\
            leaderElection: true\nreconciliationInterval: 5m\n";
        let configuration = read(KEY, example);
        assert_eq!((configuration.dry_run, configuration.problem), (false, None));
        assert_eq!(configuration.ignored.len(), 4);
    }

    #[test]
    fn a_deleted_one_says_nothing() {
        let mut index = Index::new("o".to_owned(), Vec::new(), "us");
        let object = |text: &str| {
            let object = serde_json::json!({"metadata": {"name": CONFIG_MAP}, "data": {KEY: text}});
            serde_json::from_value::<ConfigMap>(object).unwrap()
        };
        index.apply_configuration(Delta::Apply(Box::new(object("dryRun: true"))));
        assert!(index.configuration().dry_run);
        index.apply_configuration(Delta::Delete(Box::new(object("dryRun: true"))));
        assert_eq!(*index.configuration(), Configuration::default());
        index.apply_configuration(Delta::Replace(vec![object("dryRun: true")]));
        assert!(index.configuration().dry_run);
        index.apply_configuration(Delta::Replace(Vec::new()));
        assert!(!index.configuration().dry_run);
    }
}
