//! How bytes reach the coordinator.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::uplink::Connect;

/// A dead leader is noticed after one interval and one timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The kinds of connections. TLS with a projected token is to be the next, and the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/2 without encryption and without authentication.
    Plaintext,
}

impl Connect for Transport {
    async fn connect(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let scheme = match self {
            Self::Plaintext => "http",
        };
        configured(Endpoint::from_shared(format!("{scheme}://{address}"))?).connect().await
    }
}

/// Timeouts and keepalive of every channel, also of those that tests make.
pub fn configured(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}
