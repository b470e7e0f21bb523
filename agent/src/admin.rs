//! `/metrics`, `/livez`, `/readyz`. Everything else is 404.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::{clock, own};

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For the probes.
    pub health: Arc<Health>,
}

/// The pages.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(admin)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    own::refresh(&admin.metrics);
    match admin.metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn livez(State(admin): State<Admin>) -> Response {
    probe(admin.health.is_live(clock::monotonic()), "the sampler has not ticked for 5 s")
}

async fn readyz(State(admin): State<Admin>) -> Response {
    probe(admin.health.is_ready(), "no kubepods cgroup was found below --cgroup-root")
}

fn probe(good: bool, otherwise: &'static str) -> Response {
    if good { "ok".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise).into_response() }
}
