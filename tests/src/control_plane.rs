//! etcd, API server, controller manager, scheduler and DNS as processes in the instance's namespace.

use std::{fs, net::IpAddr, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{
    command::command,
    instance::Instance,
    kubeconfig::kubeconfig,
    network::{API_SERVER_PORT, HOST, SERVICES},
    paths,
    pki::{self, Authority},
    process,
    tools::Tools,
};

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";
/// The API server's log name, which others wait on.
pub const API_SERVER: &str = "kube-apiserver";

/// Components with an identity and a kubeconfig: file stem, user, group.
const CLIENTS: [(&str, &str, Option<&str>); 5] = [
    ("admin", "admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
    // its rights: control-plane/simulator.yaml
    ("simulator", "optipod-simulator", None),
];

/// Writes every certificate, key and kubeconfig of an instance with `nodes` nodes.
pub fn write_identities(instance: &Instance, nodes: u8) -> Result<()> {
    let (folder, authority) = (instance.pki(), Authority::new()?);
    authority.identity.write(&folder, "ca")?;
    pki::write_service_account_key(&folder)?;
    authority.api_server()?.write(&folder, "apiserver")?;
    let kubelet_client =
        authority.issue("kube-apiserver-kubelet-client", Some("system:masters"), &[], &[])?;
    kubelet_client.write(&folder, "apiserver-kubelet")?;
    authority.issue("front-proxy-client", None, &[], &[])?.write(&folder, "front-proxy")?;

    let configure = |stem: &str, identity: &pki::Identity| {
        let text = kubeconfig(instance.name(), &authority.identity.certificate, identity);
        let path = folder.join(stem).with_extension("conf");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for (stem, user, group) in CLIENTS {
        let identity = authority.issue(user, group, &[], &[])?;
        configure(stem, &identity)?;
    }
    for index in 1..=nodes {
        let name = crate::node::name(index);
        let identity = authority.node(&name, IpAddr::V4(crate::network::node(index)))?;
        identity.write(&folder, &name)?;
        configure(&name, &identity)?;
    }
    Ok(())
}

/// Starts all of it at once: every part waits for those that it needs.
pub fn start(instance: &Instance, tools: &Tools, dns: bool) -> Result<()> {
    let mut parts = vec![
        ("etcd", etcd(instance, tools)),
        (API_SERVER, api_server(instance, tools)),
        ("kube-controller-manager", controller_manager(instance, tools)),
        ("kube-scheduler", scheduler(instance, tools)),
    ];
    if dns {
        let mut coredns = command(tools.coredns.join("coredns"), ["-conf"]);
        coredns
            .arg(paths::lab_files().join("control-plane/Corefile"))
            .env("KUBECONFIG", instance.kubeconfig());
        parts.push(("coredns", coredns));
    }
    let namespace = instance.namespace();
    parts.iter().try_for_each(|(name, part)| process::spawn(instance, name, part, &namespace).map(drop))
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn etcd(instance: &Instance, tools: &Tools) -> Command {
    let mut etcd = command(tools.etcd.join("etcd"), ["--name=lab", "--unsafe-no-fsync", "--log-level=warn"]);
    etcd.arg(flag("data-dir", &instance.folder().join("etcd")));
    etcd.args(["listen-client-urls", "advertise-client-urls"].map(|name| format!("--{name}={ETCD}")));
    etcd.args(
        ["listen-peer-urls", "initial-advertise-peer-urls"].map(|name| format!("--{name}={ETCD_PEER}")),
    );
    etcd.arg(format!("--initial-cluster=lab={ETCD_PEER}"));
    etcd
}

fn api_server(instance: &Instance, tools: &Tools) -> Command {
    let pki = instance.pki();
    let file = |name: &str, file: &str| flag(name, &pki.join(file));
    let mut server = command(
        tools.kubernetes.join(API_SERVER),
        [
            format!("--etcd-servers={ETCD}"),
            "--bind-address=0.0.0.0".to_owned(),
            format!("--secure-port={API_SERVER_PORT}"),
            format!("--advertise-address={HOST}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        ],
    );
    server.args([
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("client-ca-file", "ca.crt"),
        file("service-account-key-file", "sa.pub"),
        file("service-account-signing-key-file", "sa.key"),
        file("kubelet-certificate-authority", "ca.crt"),
        file("kubelet-client-certificate", "apiserver-kubelet.crt"),
        file("kubelet-client-key", "apiserver-kubelet.key"),
        file("requestheader-client-ca-file", "ca.crt"),
        file("proxy-client-cert-file", "front-proxy.crt"),
        file("proxy-client-key-file", "front-proxy.key"),
        flag("cert-dir", instance.folder()),
    ]);
    server.args([
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        // Webhooks and aggregated APIs are dialled at their endpoints: no kube-proxy runs on this side.
        "--enable-aggregator-routing=true",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    ]);
    server
}

fn controller_manager(instance: &Instance, tools: &Tools) -> Command {
    let pki = instance.pki();
    let file = |name: &str, file: &str| flag(name, &pki.join(file));
    let mut manager = command(
        tools.kubernetes.join("kube-controller-manager"),
        [
            file("kubeconfig", "controller-manager.conf"),
            file("service-account-private-key-file", "sa.key"),
            file("root-ca-file", "ca.crt"),
            file("cluster-signing-cert-file", "ca.crt"),
            file("cluster-signing-key-file", "ca.key"),
            flag("cert-dir", instance.folder()),
        ],
    );
    manager.args([
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        // Pod networks are fixed per node and there is no cloud.
        "--controllers=*,-nodeipam,-cloud-node-lifecycle-controller",
    ]);
    manager
}

fn scheduler(instance: &Instance, tools: &Tools) -> Command {
    let mut scheduler = command(
        tools.kubernetes.join("kube-scheduler"),
        [flag("kubeconfig", &instance.pki().join("scheduler.conf")), flag("cert-dir", instance.folder())],
    );
    scheduler.args(["--bind-address=127.0.0.1", "--leader-elect=false"]);
    scheduler
}
