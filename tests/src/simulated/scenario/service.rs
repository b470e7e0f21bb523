//! The Service of the coordinators, as agents see it: an address that leads to one that lives.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A running Service. Dropping it breaks all connections.
pub struct Service {
    address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Service {
    /// Starts on a free port of loopback; connections lead to one of `backends` after the other, those that do not
    /// accept left out.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(backends: Vec<SocketAddr>) -> Result<Self> {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).await.context("no port for the coordinators' Service")?;
        let address = listener.local_addr()?;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, backends));
        Ok(Self { address, _connections: connections })
    }

    /// Where agents connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, mut backends: Vec<SocketAddr>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(forward(stream, backends.clone()));
                // the next one begins at the next
                if !backends.is_empty() {
                    backends.rotate_left(1);
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(mut stream: TcpStream, backends: Vec<SocketAddr>) {
    for backend in backends {
        if let Ok(mut connection) = TcpStream::connect(backend).await {
            // either side may go at any time; the other one sees that
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut connection).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn backend(says: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::io::AsyncWriteExt::write_all(&mut stream, says).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn connections_go_round_and_leave_out_the_dead() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead_address = dead.local_addr().unwrap();
        drop(dead);
        let backends = vec![dead_address, backend(b"a").await, backend(b"b").await];
        let service = Service::start(backends).await.unwrap();
        let mut seen = String::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(service.address()).await.unwrap();
            stream.read_to_string(&mut seen).await.unwrap();
        }
        assert_eq!(seen, "aab");
    }
}
