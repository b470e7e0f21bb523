//! Arguments of a container, with what a pod would give its process put in: variables, mounts, names of services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use kube::ResourceExt;

/// Where the kernel's cgroup tree is on a node.
const CGROUP: &str = "/sys/fs/cgroup";
/// What listens on every address of a pod must not listen on every address of this machine.
const ANY: &str = "=0.0.0.0:";

/// A service, as its DNS name says: name and namespace.
pub type ServiceName = (String, String);

/// The variables of a container that are values or fields of its pod.
///
/// # Errors
/// A variable that comes from something else, by name.
pub fn environment(pod: &Pod, container: &Container, address: Ipv4Addr) -> Result<BTreeMap<String, String>> {
    let value = |variable: &EnvVar| -> Result<String> {
        let Some(source) = &variable.value_from else {
            return Ok(variable.value.clone().unwrap_or_default());
        };
        let field = source.field_ref.as_ref().map(|field| field.field_path.as_str());
        let spec = pod.spec.as_ref();
        Ok(match field {
            Some("metadata.name") => pod.name_any(),
            Some("metadata.namespace") => pod.namespace().unwrap_or_default(),
            Some("metadata.uid") => pod.uid().unwrap_or_default(),
            Some("spec.nodeName") => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            Some("status.podIP") => address.to_string(),
            _ => bail!(
                "variable {}: expected a value, or a fieldRef to metadata.name, metadata.namespace, metadata.uid, \
                 spec.nodeName or status.podIP",
                variable.name
            ),
        })
    };
    container.env.iter().flatten().map(|variable| Ok((variable.name.clone(), value(variable)?))).collect()
}

/// The services that arguments name.
pub fn services(container: &Container) -> BTreeSet<ServiceName> {
    container.args.iter().flatten().filter_map(|argument| service(argument)).collect()
}

/// The arguments of the process.
pub fn arguments(
    pod: &Pod,
    container: &Container,
    address: Ipv4Addr,
    cgroup_root: &Path,
    services: &BTreeMap<ServiceName, Ipv4Addr>,
) -> Result<Vec<String>> {
    let variables = environment(pod, container, address)?;
    let mounts = cgroup_mounts(pod, container);
    let place = |argument: &String| {
        let mut argument = expand(argument, &variables);
        for mount in &mounts {
            argument = argument.replace(&format!("={mount}"), &format!("={}", cgroup_root.display()));
        }
        if let Some((name, namespace)) = service(&argument)
            && let Some(address) = services.get(&(name.clone(), namespace.clone()))
        {
            argument = argument.replace(&format!("{name}.{namespace}.svc"), &address.to_string());
        }
        argument.replace(ANY, &format!("={address}:"))
    };
    Ok(container.args.iter().flatten().map(place).collect())
}

/// `$(NAME)` is the variable, `$$` a dollar, an unknown name stays: as Kubernetes expands.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|after| after.split_once(')'))
            && let Some(value) = variables.get(name)
        {
            out.push_str(value);
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Where the container has the node's cgroup tree.
fn cgroup_mounts(pod: &Pod, container: &Container) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let trees: BTreeSet<&str> = volumes
        .filter(|volume| volume.host_path.as_ref().is_some_and(|host| host.path == CGROUP))
        .map(|volume| volume.name.as_str())
        .collect();
    let mounts = container.volume_mounts.iter().flatten();
    mounts.filter(|mount| trees.contains(mount.name.as_str())).map(|mount| mount.mount_path.clone()).collect()
}

/// `--flag=name.namespace.svc:port`.
fn service(argument: &str) -> Option<ServiceName> {
    let (_, value) = argument.split_once('=')?;
    let (host, _) = value.rsplit_once(':')?;
    let (name, namespace) = host.strip_suffix(".svc")?.split_once('.')?;
    Some((name.to_owned(), namespace.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> (Pod, Container) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "agent-x", "namespace": "optipod-system"},
            "spec": {
                "nodeName": "sim-1",
                "containers": [{
                    "name": "agent",
                    "args": [
                        "--node-name=$(NODE_NAME)",
                        "--cgroup-root=/host/sys/fs/cgroup",
                        "--coordinator-address=optipod-coordinator.optipod-system.svc:9443",
                        "--listen=0.0.0.0:9464",
                        "--text=$$(NODE_NAME) $(UNKNOWN) $",
                    ],
                    "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "volumeMounts": [{"name": "cgroup", "mountPath": "/host/sys/fs/cgroup"}],
                }],
                "volumes": [{"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup"}}],
            },
        }))
        .unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        (pod, container)
    }

    #[test]
    fn arguments_are_what_they_mean_outside_of_a_pod() {
        let (pod, container) = pod();
        let name = ("optipod-coordinator".to_owned(), "optipod-system".to_owned());
        assert_eq!(services(&container), BTreeSet::from([name.clone()]));
        let services = BTreeMap::from([(name, Ipv4Addr::new(10, 96, 0, 7))]);
        let address = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(
            arguments(&pod, &container, address, Path::new("/tree"), &services).unwrap(),
            [
                "--node-name=sim-1",
                "--cgroup-root=/tree",
                "--coordinator-address=10.96.0.7:9443",
                "--listen=10.1.2.3:9464",
                "--text=$(NODE_NAME) $(UNKNOWN) $",
            ]
        );
    }

    #[test]
    fn a_variable_from_elsewhere_is_named() {
        let (pod, mut container) = pod();
        container.env = serde_json::from_value(
            json!([{"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
        )
        .unwrap();
        let error = environment(&pod, &container, Ipv4Addr::LOCALHOST).unwrap_err().to_string();
        assert!(error.starts_with("variable SECRET: expected a value"), "{error}");
    }
}
