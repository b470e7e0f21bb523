//! `/metrics`, `/livez`, `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tracing::error;

use crate::ingest::now;
use crate::metrics::Metrics;

/// The engine turns at least this often, or the process is not alive.
const STALLED: Duration = Duration::from_secs(30);

/// What the probes tell. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
    turned: Arc<AtomicI64>,
}

impl Health {
    /// Every first list of the watches is in.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// The engine is alive.
    pub fn turned(&self) {
        self.turned.store(now().unix_micros(), Ordering::Relaxed);
    }

    fn alive(&self) -> bool {
        let turned = self.turned.load(Ordering::Relaxed);
        let silent = now().unix_micros().saturating_sub(turned);
        // before the first turn the start-up is watched by the kubelet's initial delay
        turned == 0 || u128::from(silent.unsigned_abs()) < STALLED.as_micros()
    }
}

/// The routes.
pub fn router(metrics: Metrics, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .route(
            "/livez",
            get(|State(s): State<(Metrics, Health)>| async move {
                probe(s.1.alive(), "the engine has not turned for 30 s")
            }),
        )
        .route(
            "/readyz",
            get(|State(s): State<(Metrics, Health)>| async move {
                probe(s.1.ready.load(Ordering::Relaxed), "the first lists of the watches are not complete")
            }),
        )
        .with_state((metrics, health))
}

async fn serve_metrics(State((metrics, _)): State<(Metrics, Health)>) -> impl IntoResponse {
    match metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            error!(%error, "metrics cannot be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

fn probe(good: bool, otherwise: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}
