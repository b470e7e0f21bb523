//! A proxy in front of the real API server: what coordinators ask passes here, is counted, and goes wrong as the
//! [`Board`] says.
//!
//! It speaks plain HTTP/1.1 on loopback. The caller's own credentials travel on in its headers; the proxy has none.
//! Bodies of answers are passed on as they come, so watches work; bodies of requests are small and read whole.

mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::stream::{self, Stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tower::BoxError;
use tracing::debug;

use super::faults::{ApiFault, Board, Operation};
pub use traffic::{Exchange, Outcome, Traffic};

/// Annotation that somebody else changes when a patch is contested.
const CONTESTED: &str = "simulated.optipod.io/contested";

/// Cuts that a watch may miss while it is busy; one that missed any is cut.
const CUTS: usize = 16;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// A running proxy. Dropping it breaks all connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

struct Shared {
    /// To the API server, without credentials.
    upstream: Client,
    /// Who changes a pod between dry run and patch: may do everything.
    rival: Client,
    board: Board,
    traffic: Traffic,
    /// Resources whose watches end; all when empty.
    cuts: broadcast::Sender<Arc<[String]>>,
}

impl Proxy {
    /// Starts on a free port of loopback, in front of the API server that `config` reaches. `rival` makes the changes
    /// of a contested patch.
    ///
    /// # Errors
    /// When there is no port, or the configuration fits no client.
    pub async fn start(config: &Config, rival: Client, board: Board) -> Result<Self> {
        let mut config = config.clone();
        config.auth_info = kube::config::AuthInfo::default();
        // callers see each answer, and do what they do then
        config.default_retry = false;
        let upstream = ClientBuilder::try_from(config).context("no client for the API server")?.build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port for the fault proxy")?;
        let address = listener.local_addr()?;
        let (cuts, _) = broadcast::channel(CUTS);
        let traffic = Traffic::new(board.clone());
        let shared = Arc::new(Shared { upstream, rival, board, traffic, cuts });
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, _connections: connections })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What passed.
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// A configuration that goes through the proxy with the credentials of `identity`.
    ///
    /// # Errors
    /// Never in practice: an address is a URL.
    pub fn config(&self, identity: &Config) -> Result<Config> {
        let mut config = Config::new(format!("http://{}", self.address).parse()?);
        config.auth_info = identity.auth_info.clone();
        // as the product's own client: a retry inside the client would escape leadership
        config.default_retry = false;
        Ok(config)
    }

    /// Breaks the watches of these resources that are open now; all when empty.
    pub fn cut_watches(&self, resources: &[String]) {
        // nobody watches when nobody receives
        let _ = self.shared.cuts.send(resources.into());
    }
}

/// Serves connections until the task is dropped, and they with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(serve(stream, shared.clone())); }
                Err(error) => debug!(%error, "a connection was not accepted"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| treat(shared.clone(), request));
    // an error is a connection that was broken on purpose, or by the caller
    if let Err(error) =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
    {
        debug!(%error, "a connection ended");
    }
}

/// Passes a request on, or does what the board says. An error breaks the connection without an answer.
async fn treat(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, BoxError> {
    let uri = request.uri();
    let operation = Operation::parse(request.method().as_str(), uri.path(), uri.query().unwrap_or_default());
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let Some(operation) = operation else {
        return shared.forward(parts, body).await;
    };
    let sent = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let treatment = shared.board.request(&operation);
    if !treatment.latency.is_zero() {
        tokio::time::sleep(treatment.latency).await;
    }
    // a place in the order of what reached the API server, taken before it is asked
    let exchange = shared.traffic.begin(&operation, sent);
    let broken = |outcome: Outcome, why: &str| {
        shared.traffic.end(&exchange, outcome);
        Err(BoxError::from(why.to_owned()))
    };
    match treatment.fault {
        Some(ApiFault::Status(code)) => {
            shared.traffic.end(&exchange, Outcome::Played(code));
            return Ok(refuse(code));
        }
        Some(ApiFault::Reset) => return broken(Outcome::Reset, "reset by the scenario"),
        _ => {}
    }
    if treatment.gone {
        shared.traffic.end(&exchange, Outcome::Played(410));
        return Ok(gone());
    }
    if treatment.contested {
        shared.contest(&operation).await?;
    }
    let watched = operation.verb == "watch";
    let cuts = shared.cuts.subscribe();
    let answer = match shared.forward(parts, body).await {
        Ok(answer) => answer,
        Err(error) => return broken(Outcome::Unreachable, &error.to_string()),
    };
    let status = answer.status().as_u16();
    if treatment.fault == Some(ApiFault::AnswerLost) {
        // the API server has done it when its answer is complete
        answer.into_body().collect().await?;
        return broken(Outcome::AnswerLost(status), "answer lost by the scenario");
    }
    shared.traffic.end(&exchange, Outcome::Answered(status));
    if !watched {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(
        head,
        BodyExt::boxed_unsync(StreamBody::new(until_cut(body, cuts, operation.resource))),
    ))
}

impl Shared {
    async fn forward(&self, mut parts: hyper::http::request::Parts, body: Bytes) -> Result<Answer, BoxError> {
        // belong to the connection; the client has its own
        for header in [HOST, CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
            parts.headers.remove(header);
        }
        let mut uri = hyper::http::uri::Parts::default();
        uri.path_and_query = parts.uri.path_and_query().cloned();
        parts.uri = uri.try_into()?;
        let request = Request::from_parts(parts, kube::client::Body::from(body));
        let (mut parts, body) = self.upstream.send(request).await?.into_parts();
        strip(&mut parts.headers);
        Ok(Response::from_parts(parts, BodyExt::boxed_unsync(BodyExt::map_err(body, Into::into))))
    }

    /// Somebody else changes the pod, so that the version that the patch names is an old one.
    async fn contest(&self, operation: &Operation) -> Result<(), BoxError> {
        let pods: Api<Pod> = Api::namespaced(self.rival.clone(), &operation.namespace);
        let change = json!({"metadata": {"annotations": {CONTESTED: self.traffic.contested().to_string()}}});
        match pods.patch(&operation.name, &PatchParams::default(), &Patch::Merge(change)).await {
            // a pod that is gone cannot be contested
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop).map_err(Into::into),
        }
    }
}

fn strip(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}

/// The body until its watch is cut: then it breaks.
fn until_cut<B>(
    body: B,
    cuts: broadcast::Receiver<Arc<[String]>>,
    resource: String,
) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + 'static
where
    B: Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
{
    stream::unfold(Some((body, cuts, resource)), |state| async move {
        let (mut body, mut cuts, resource) = state?;
        let frame = tokio::select! {
            frame = body.frame() => frame?,
            () = cut(&mut cuts, &resource) => return Some((Err("watch cut by the scenario".into()), None)),
        };
        Some((frame, Some((body, cuts, resource))))
    })
}

/// Completes when watches of the resource are cut.
async fn cut(cuts: &mut broadcast::Receiver<Arc<[String]>>, resource: &str) {
    loop {
        match cuts.recv().await {
            Ok(resources) if !resources.is_empty() && !resources.iter().any(|name| name == resource) => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            // the proxy ends, and all connections with it
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// A `Status` object as the API server's own.
fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn refuse(code: u16) -> Answer {
    let reason = match code {
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    };
    let body = status(code, reason, &format!("status {code} by the scenario"));
    answer(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &body)
}

/// As the watch cache tells it: an event in a watch that has begun.
fn gone() -> Answer {
    let object = status(410, "Expired", "too old resource version: gone by the scenario");
    answer(StatusCode::OK, &json!({"type": "ERROR", "object": object}))
}

fn answer(code: StatusCode, body: &Value) -> Answer {
    let body = Full::from(format!("{body}\n")).map_err(|never| match never {});
    let mut answer = Response::new(BodyExt::boxed_unsync(body));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests;
