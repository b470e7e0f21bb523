//! The whole agent in one process: real clocks, files of a test, pages over TCP.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test helpers fail the test")]

mod support;

use std::time::Duration;

use clap::Parser;
use optipod_agent::{AgentError, Config};
use support::{Tree, UID};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(tree: &Tree, more: &[&str]) -> Config {
    let root = format!("--cgroup-root={}", tree.root().display());
    let base = ["optipod-agent", "--node-name=n1", "--coordinator-address=127.0.0.1:1", &root];
    Config::parse_from(base.iter().chain(more))
}

async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

async fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

async fn until(address: &str, path: &str, wanted: &str) {
    let found = async {
        while !get(address, path).await.is_some_and(|a| a.contains(wanted)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("page never says it");
}

#[tokio::test]
async fn agent_serves_pages_and_stops_when_told() {
    let tree = Tree::new();
    let listen = free_address().await;
    let listen_flag = format!("--listen={listen}");
    let config = config(&tree, &["--insecure-plaintext", "--frame-interval=1s", &listen_flag]);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let agent = tokio::spawn(optipod_agent::run(config, async move {
        let _ = stopped.await;
    }));
    until(&listen, "/livez", "200 OK").await;
    assert!(get(&listen, "/readyz").await.unwrap().contains("503"), "no root yet");
    tree.container(UID, 1);
    until(&listen, "/readyz", "200 OK").await;
    until(
        &listen,
        "/metrics",
        "optipod_agent_container_cpu_usage_seconds_total{container_id=\"010101010101\"",
    )
    .await;
    assert!(get(&listen, "/other").await.unwrap().contains("404"));
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), agent).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn plain_text_needs_consent() {
    let tree = Tree::new();
    let error = optipod_agent::run(config(&tree, &[]), std::future::pending()).await.unwrap_err();
    assert!(matches!(error, AgentError::NoTransport));
    assert!(error.to_string().contains("--insecure-plaintext"));
}

#[tokio::test]
async fn taken_address_is_an_error_with_the_address() {
    let tree = Tree::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let listen_flag = format!("--listen={listen}");
    let config = config(&tree, &["--insecure-plaintext", &listen_flag]);
    let error = optipod_agent::run(config, std::future::pending()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {listen}"));
}
