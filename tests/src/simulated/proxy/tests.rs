//! The proxy in front of a small server that answers as an API server does.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;

use super::*;
use crate::simulated::faults::{Fault, Kind, Pods, Requests, Share};

type Seen = (Arc<Mutex<Vec<String>>>, Arc<tokio::sync::Mutex<mpsc::Receiver<String>>>);

async fn converse(stream: TcpStream, shared: Seen) {
    let service = service_fn(move |request| reply(shared.clone(), request));
    let http = hyper::server::conn::http1::Builder::new();
    // the proxy may go at any time
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

#[allow(clippy::unused_async, reason = "a service answers with a future")]
async fn reply((asked, lines): Seen, request: Request<Incoming>) -> Result<Answer, BoxError> {
    let authorization = request.headers().get("authorization");
    let authorization = authorization.map_or("", |value| value.to_str().unwrap());
    asked.lock().unwrap().push(format!("{} {} {authorization}", request.method(), request.uri()));
    let watch = request.uri().query().unwrap_or_default().contains("watch=true");
    Ok(if watch {
        let lines = stream::unfold(lines, |lines| async move {
            let line = lines.lock().await.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from(line))), lines))
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
    } else if request.method() == "GET" {
        let metadata = json!({"resourceVersion": "1"});
        answer(
            StatusCode::OK,
            &json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": []}),
        )
    } else {
        answer(StatusCode::OK, &pod("2"))
    })
}

/// A server that answers every patch with the pod `web-0`, and every watch with what the test sends.
struct Upstream {
    address: SocketAddr,
    /// Methods and paths in order, with the caller's authorization.
    asked: Arc<Mutex<Vec<String>>>,
    /// Lines for the watch that is open.
    lines: mpsc::Sender<String>,
    _task: JoinSet<()>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, receiver) = mpsc::channel::<String>(16);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let mut task = JoinSet::new();
        let shared = (asked.clone(), receiver);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(converse(stream, shared.clone()));
            }
        });
        Self { address, asked, lines, _task: task }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn pod(version: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web-0", "namespace": "default", "resourceVersion": version}})
}

struct World {
    upstream: Upstream,
    proxy: Proxy,
    board: Board,
    pods: Api<Pod>,
}

async fn world(faults: Vec<Fault>) -> World {
    let upstream = Upstream::start().await;
    let mut config = Config::new(format!("http://{}", upstream.address).parse().unwrap());
    let rival = Client::try_from(config.clone()).unwrap();
    config.auth_info = serde_json::from_value(json!({"token": "nobody's"})).unwrap();
    let board = Board::new(faults, 1);
    board.advance(Duration::ZERO);
    let proxy = Proxy::start(&config, rival, board.clone()).await.unwrap();
    let mut identity = config;
    identity.auth_info = serde_json::from_value(json!({"token": "ours"})).unwrap();
    let client = Client::try_from(proxy.config(&identity).unwrap()).unwrap();
    World { upstream, proxy, board, pods: Api::namespaced(client, "default") }
}

impl World {
    async fn resize(&self) -> Result<Pod, kube::Error> {
        let body = json!({"spec": {"containers": [{"name": "app"}]}});
        self.pods.patch_resize("web-0", &PatchParams::default(), &Patch::Strategic(body)).await
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.proxy.traffic().changes().iter().map(|change| change.outcome.unwrap()).collect()
    }
}

fn always(kind: Kind) -> Vec<Fault> {
    vec![Fault { at: Duration::ZERO, lasts: None, kind }]
}

fn api(verb: &str, fault: ApiFault) -> Vec<Fault> {
    let requests = Requests { verbs: vec![verb.to_owned()], ..Requests::default() };
    always(Kind::Api { requests, share: Share::default(), fault })
}

#[tokio::test]
async fn a_request_arrives_with_the_callers_credentials_and_is_counted() {
    let world = world(Vec::new()).await;
    assert_eq!(world.resize().await.unwrap().metadata.resource_version.as_deref(), Some("2"));
    let [line] = &world.upstream.asked()[..] else { panic!("{:?}", world.upstream.asked()) };
    assert!(line.starts_with("PATCH /api/v1/namespaces/default/pods/web-0/resize?"), "{line}");
    assert!(line.ends_with("Bearer ours"), "{line}");
    let [change] = &world.proxy.traffic().changes()[..] else { panic!("one change") };
    assert_eq!(
        (change.operation.resource.as_str(), change.outcome),
        ("pods/resize", Some(Outcome::Answered(200)))
    );
    assert_eq!(change.body["spec"]["containers"][0]["name"], "app");
}

#[tokio::test]
async fn a_played_status_never_reaches_the_api_server() {
    for code in [429, 500, 503, 504] {
        let world = world(api("patch", ApiFault::Status(code))).await;
        let error = world.resize().await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == code), "{error}");
        assert_eq!(world.upstream.asked(), [""; 0]);
        assert_eq!(world.outcomes(), [Outcome::Played(code)]);
    }
}

#[tokio::test]
async fn a_reset_is_no_answer() {
    let world = world(api("patch", ApiFault::Reset)).await;
    let error = world.resize().await.unwrap_err();
    assert!(!matches!(&error, kube::Error::Api(_)), "{error}");
    assert_eq!(world.upstream.asked(), [""; 0]);
    assert_eq!(world.outcomes(), [Outcome::Reset]);
}

#[tokio::test]
async fn a_lost_answer_is_a_write_that_happened() {
    let world = world(api("patch", ApiFault::AnswerLost)).await;
    let error = world.resize().await.unwrap_err();
    assert!(!matches!(&error, kube::Error::Api(_)), "{error}");
    assert_eq!(world.upstream.asked().len(), 1);
    assert_eq!(world.outcomes(), [Outcome::AnswerLost(200)]);
    assert!(Outcome::AnswerLost(200).done() && !Outcome::Played(200).done());
}

#[tokio::test]
async fn latency_delays_the_answer_and_nothing_else() {
    let latency = Duration::from_millis(200);
    let world = world(api("patch", ApiFault::Latency(latency))).await;
    let begin = Instant::now();
    world.resize().await.unwrap();
    assert!(begin.elapsed() >= latency);
    assert_eq!(world.outcomes(), [Outcome::Answered(200)]);
}

#[tokio::test]
async fn somebody_else_changes_a_contested_pod_just_before_the_patch() {
    let world = world(always(Kind::Conflict(Pods::default()))).await;
    world.resize().await.unwrap();
    let asked = world.upstream.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].starts_with("PATCH /api/v1/namespaces/default/pods/web-0?"), "{asked:?}");
    assert!(asked[1].contains("/pods/web-0/resize"), "{asked:?}");
    // what the rival did is not ours
    assert_eq!(world.outcomes().len(), 1);
}

#[tokio::test]
async fn a_watch_streams_until_it_is_cut() {
    let world = world(Vec::new()).await;
    let mut events = std::pin::pin!(world.pods.watch(&kube::api::WatchParams::default(), "1").await.unwrap());
    for version in ["5", "6"] {
        let event = json!({"type": "MODIFIED", "object": pod(version)});
        world.upstream.lines.send(format!("{event}\n")).await.unwrap();
        let seen = events.try_next().await.unwrap().unwrap();
        assert!(
            matches!(&seen, kube::api::WatchEvent::Modified(pod) if pod.metadata.resource_version.as_deref() == Some(version)),
            "{seen:?}"
        );
    }
    world.proxy.cut_watches(&["nodes".to_owned()]);
    let event = json!({"type": "MODIFIED", "object": pod("7")});
    world.upstream.lines.send(format!("{event}\n")).await.unwrap();
    assert!(events.try_next().await.unwrap().is_some(), "a cut of another resource does not matter");
    world.proxy.cut_watches(&["pods".to_owned()]);
    // a broken watch is an error or an end, never an event
    assert!(!matches!(events.next().await, Some(Ok(_))));
}

#[tokio::test]
async fn after_410_a_watcher_lists_again() {
    let world = world(vec![Fault {
        at: Duration::from_secs(1),
        lasts: None,
        kind: Kind::WatchCut { resources: Vec::new(), gone: true },
    }])
    .await;
    let mut events =
        std::pin::pin!(watcher(world.pods.clone(), watcher::Config::default()).default_backoff());
    while !matches!(events.next().await.unwrap().unwrap(), watcher::Event::InitDone) {}
    let event = json!({"type": "ADDED", "object": pod("5")});
    world.upstream.lines.send(format!("{event}\n")).await.unwrap();
    assert!(matches!(events.next().await.unwrap().unwrap(), watcher::Event::Apply(_)));
    world.board.advance(Duration::from_secs(1));
    world.proxy.cut_watches(&[]);
    let again = async { while !matches!(events.next().await.unwrap(), Ok(watcher::Event::Init)) {} };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("a second list");
    let played = world.proxy.traffic().counts();
    assert!(
        played
            .keys()
            .any(|(operation, outcome)| operation.verb == "watch" && *outcome == Outcome::Played(410))
    );
}
