//! Cluster addresses of services: each is put on the loopback interface, and its ports lead to ready endpoints, as
//! kube-proxy does on a node.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::arguments::ServiceName;
use super::process::network;

/// The services that are forwarded.
pub struct Services {
    client: Client,
    known: Mutex<HashMap<ServiceName, Ipv4Addr>>,
}

impl Services {
    /// None yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The cluster address of a service, once connections to it are forwarded.
    pub async fn address(&self, service: &ServiceName) -> Result<Ipv4Addr> {
        let mut known = self.known.lock().await;
        if let Some(address) = known.get(service) {
            return Ok(*address);
        }
        let (name, namespace) = service;
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let found = services.get(name).await.with_context(|| format!("service {namespace}/{name}"))?;
        let spec = found.spec.unwrap_or_default();
        let address: Ipv4Addr = spec
            .cluster_ip
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("service {namespace}/{name} has no IPv4 cluster address"))?;
        network("replace", address).await?;
        for port in spec.ports.unwrap_or_default() {
            let at = SocketAddrV4::new(address, u16::try_from(port.port)?);
            let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
            let (client, service) = (self.client.clone(), service.clone());
            tokio::spawn(forward(listener, client, service, port.name));
        }
        known.insert(service.clone(), address);
        Ok(address)
    }
}

async fn forward(listener: TcpListener, client: Client, service: ServiceName, port: Option<String>) {
    for turn in 0_usize.. {
        let Ok((mut incoming, _)) = listener.accept().await else { continue };
        let (client, service, port) = (client.clone(), service.clone(), port.clone());
        tokio::spawn(async move {
            let connected = async {
                let endpoints = endpoints(&client, &service, port.as_deref()).await?;
                let count = endpoints.len().max(1);
                let endpoint = endpoints.get(turn % count).context("no ready endpoint")?;
                let mut outgoing = TcpStream::connect(endpoint).await?;
                tokio::io::copy_bidirectional(&mut incoming, &mut outgoing).await?;
                anyhow::Ok(())
            };
            // the caller sees a closed connection, as it would behind kube-proxy
            if let Err(error) = connected.await {
                tracing::debug!(service = service.0, error = format!("{error:#}"), "connection ended");
            }
        });
    }
}

async fn endpoints(client: &Client, service: &ServiceName, port: Option<&str>) -> Result<Vec<SocketAddr>> {
    let (name, namespace) = service;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let mut found = Vec::new();
    for slice in slices.list(&selector).await? {
        let mut ports = slice.ports.iter().flatten();
        let Some(number) = ports.find(|p| p.name.as_deref() == port).and_then(|p| p.port) else { continue };
        let number = u16::try_from(number)?;
        for endpoint in slice.endpoints.unwrap_or_default() {
            if endpoint.conditions.is_some_and(|conditions| conditions.ready == Some(true)) {
                let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
                found.extend(addresses.map(|address| SocketAddr::new(address, number)));
            }
        }
    }
    Ok(found)
}
