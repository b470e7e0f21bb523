//! Requests of a coordinator to the API server, and what happens to them.

use std::time::Duration;

/// Which requests a fault concerns; all where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Verbs as RBAC has them: get, list, watch, create, update, patch, delete.
    pub verbs: Vec<String>,
    /// Resources with their subresource, such as `pods` and `pods/resize`.
    pub resources: Vec<String>,
    /// Only dry runs, or only what is none.
    pub dry_run: Option<bool>,
}

impl Requests {
    /// Whether the operation is one of them.
    pub fn contain(&self, operation: &Operation) -> bool {
        let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
        named(&self.verbs, &operation.verb)
            && named(&self.resources, &operation.resource)
            && self.dry_run.is_none_or(|wanted| wanted == operation.dry_run)
    }
}

/// A request as the API server understands it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation {
    /// As RBAC has it: get, list, watch, create, update, patch, delete.
    pub verb: String,
    /// API group; empty for the core.
    pub group: String,
    /// Resource with its subresource, such as `pods/resize`.
    pub resource: String,
    /// Empty for what has none, and for requests over all namespaces.
    pub namespace: String,
    /// Of the object; empty for lists and creations.
    pub name: String,
    /// Nothing is stored.
    pub dry_run: bool,
}

impl Operation {
    /// From a request's method (`GET`), path and query; `None` for what is no resource, such as `/version`.
    pub fn parse(method: &str, path: &str, query: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, name) = match rest {
            [resource] => ((*resource).to_owned(), ""),
            [resource, name] => ((*resource).to_owned(), *name),
            [resource, name, sub @ ..] => (format!("{resource}/{}", sub.join("/")), *name),
            [] => return None,
        };
        let mut parameters = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let watch = parameters.clone().any(|(key, value)| key == "watch" && matches!(value, "true" | "1"));
        let verb = match method {
            "GET" if watch => "watch",
            "GET" if name.is_empty() => "list",
            "GET" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            _ => "delete",
        };
        Some(Self {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dry_run: parameters.any(|(key, value)| key == "dryRun" && value == "All"),
        })
    }

    /// Whether it changes what is stored.
    pub fn writes(&self) -> bool {
        !self.dry_run && !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// How the API server misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// The answer comes later. In real time, like all that the network does.
    Latency(Duration),
    /// It is not asked, and this status is the answer.
    Status(u16),
    /// It is not asked, and the connection breaks.
    Reset,
    /// It does what is asked, and the connection breaks before the answer.
    AnswerLost,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Real time to wait before anything else.
    pub latency: Duration,
    /// The first other fault that concerns it.
    pub fault: Option<ApiFault>,
    /// Somebody else changes the pod first.
    pub contested: bool,
    /// The watch is told that its version is too old.
    pub gone: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, path: &str, query: &str) -> String {
        Operation::parse(method, path, query).map_or_else(String::new, |o| {
            format!("{} {}|{} {}/{} {}", o.verb, o.group, o.resource, o.namespace, o.name, o.dry_run)
        })
    }

    #[test]
    fn requests_are_understood_as_the_api_server_does() {
        let cases = [
            ("GET", "/api/v1/pods", "watch=true&resourceVersion=5", "watch |pods / false"),
            ("GET", "/api/v1/pods", "limit=500", "list |pods / false"),
            ("GET", "/api/v1/nodes/sim-1", "", "get |nodes /sim-1 false"),
            ("GET", "/api/v1/namespaces/a", "", "get |namespaces /a false"),
            (
                "PATCH",
                "/api/v1/namespaces/a/pods/p/resize",
                "fieldManager=optipod&dryRun=All",
                "patch |pods/resize a/p true",
            ),
            (
                "POST",
                "/apis/events.k8s.io/v1/namespaces/a/events",
                "",
                "create events.k8s.io|events a/ false",
            ),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "", "delete apps|deployments a/d false"),
            ("GET", "/version", "", ""),
        ];
        for (method, path, query, expected) in cases {
            assert_eq!(parse(method, path, query), expected, "{method} {path}?{query}");
        }
    }

    #[test]
    fn dry_runs_and_reads_write_nothing() {
        let of = |method: &str, query: &str| {
            Operation::parse(method, "/api/v1/namespaces/a/pods/p/resize", query).is_some_and(|o| o.writes())
        };
        assert!(of("PATCH", ""));
        assert!(!of("PATCH", "dryRun=All"));
        assert!(!of("GET", ""));
    }

    #[test]
    fn what_is_not_said_concerns_all() {
        let patch = Operation::parse("PATCH", "/api/v1/namespaces/a/pods/p/resize", "").expect("a resource");
        let requests = |verbs: &[&str], resources: &[&str], dry_run| Requests {
            verbs: verbs.iter().map(ToString::to_string).collect(),
            resources: resources.iter().map(ToString::to_string).collect(),
            dry_run,
        };
        assert!(requests(&[], &[], None).contain(&patch));
        assert!(requests(&["patch"], &["pods/resize"], Some(false)).contain(&patch));
        assert!(!requests(&["list"], &[], None).contain(&patch));
        assert!(!requests(&[], &["pods"], None).contain(&patch));
        assert!(!requests(&[], &[], Some(true)).contain(&patch));
    }
}
