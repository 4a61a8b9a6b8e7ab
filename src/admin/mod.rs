//! The control plane: health, metrics, policies, spend, the description of its own routes.

mod aliases;
mod datasets;
mod feedback;
mod fine_tune;
mod fine_tune_news;
mod idempotent;
mod in_force;
mod interactions;
mod keys;
mod limits;
mod models;
mod policies;
mod replay;
mod sources;
mod spend;
mod webhook_shape;
mod webhooks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use axum::Json;
use axum::Router;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header;
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::response::Response;
use ring::digest;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde::Serialize;
use utoipa::OpenApi;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::background::Board;
use crate::background::Report;
use crate::embeddings::search::Searcher;
use crate::hooks::Sender;
use crate::limits::Limits;
use crate::openai::error::ApiError;
use crate::policy::PolicyHandle;
use crate::policy::Settings;
use crate::store::BadParameter;
use crate::store::Database;
use crate::store::Idempotency;
use crate::store::KeyRing;
use crate::store::Ledger;
use crate::store::Recorder;
use crate::store::StoreError;
use crate::telemetry::metrics::Metrics;
use crate::training::trainer::Place;
use crate::upstream::outside::Allowed;

pub use policies::Figures;
pub use policies::PolicyParts;
pub use replay::replay;

/// Whether the data plane takes requests.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

const STARTING: u8 = 0;
const READY: u8 = 1;
const STOPPING: u8 = 2;

impl Readiness {
    /// The data plane accepts connections.
    pub fn start(&self) {
        // A stop that came first stays.
        let _ = self.0.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The process is on its way out.
    pub fn stop(&self) {
        self.0.store(STOPPING, Ordering::Relaxed);
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self.0.load(Ordering::Relaxed) {
            STARTING => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            READY => (StatusCode::OK, "ready"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        }
    }
}

/// How the process is.
#[derive(Clone, Default)]
pub struct Health {
    /// Whether the data plane takes requests.
    pub readiness: Arc<Readiness>,
    /// The work beside the requests.
    pub tasks: Board,
    /// The keys without which nobody gets in, where that is so.
    pub keys: Option<Arc<KeyRing>>,
}

/// What the routes use.
#[derive(Clone)]
struct Parts {
    metrics: Arc<Metrics>,
    health: Health,
    policy: Arc<PolicyHandle>,
    settings: Arc<Settings>,
    figures: Figures,
    limits: Arc<Limits>,
    recorder: Option<Arc<Recorder>>,
    database: Option<Database>,
    ledger: Option<Ledger>,
    token: Option<Arc<SecretString>>,
    trainer: Arc<Place>,
    sender: Arc<Sender>,
    idempotency: Option<Idempotency>,
    library: Library,
}

/// Documents, as far as there is a store to keep them.
#[derive(Clone, Default)]
pub struct Library {
    /// Searches them; there once the process has begun.
    pub searcher: Arc<OnceLock<Searcher>>,
    /// Where sources may lead beside the public internet.
    pub outbound: Allowed,
    /// What Firecrawl's webhooks are signed with or carry.
    pub firecrawl_secret: Option<Arc<SecretString>>,
}

#[derive(OpenApi)]
#[openapi(info(title = "weir control plane", description = "Operations of a weir gateway"))]
struct Description;

/// A status in one word, and the tasks of the process.
#[derive(Serialize, ToSchema)]
struct Status {
    status: &'static str,
    /// name, running, turns, failures, last_run, last_success, last_error.
    #[schema(value_type = Vec<Object>)]
    tasks: Vec<Report>,
}

/// Whether requests are taken, and whether what is recorded of them reaches the store.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// starting, ready, waiting (for what is missing) or draining.
    status: &'static str,
    /// What keeps it from taking requests: listener, keys.
    missing: Vec<&'static str>,
    /// ok, off, or unavailable: then records wait in the spool, and traffic goes on.
    store: &'static str,
}

/// The routes of the control plane. `/api/*` asks for `token` when there is one. To be called on
/// the runtime that serves them.
pub fn router(
    metrics: Arc<Metrics>,
    health: Health,
    policy: PolicyParts,
    store: Option<(Arc<Recorder>, Database)>,
    token: Option<SecretString>,
    (trainer, sender): (Place, Arc<Sender>),
    library: Library,
) -> Router {
    let (recorder, database) = store.unzip();
    let ledger = database.as_ref().and_then(|database| {
        let ledger = Ledger::of(database);
        ledger.inspect_err(|error| tracing::error!(%error, "spend cannot be read")).ok()
    });
    let idempotency = database.as_ref().and_then(|database| Idempotency::of(database).ok());
    let (token, trainer) = (token.map(Arc::new), Arc::new(trainer));
    let PolicyParts { policy, settings, figures, limits } = policy;
    let parts = Parts {
        metrics,
        health,
        policy,
        settings,
        figures,
        limits,
        recorder,
        database,
        ledger,
        token,
        trainer,
        sender,
        idempotency,
        library,
    };
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics_text))
        .routes(routes!(in_force::policies))
        .routes(routes!(spend::spend))
        .routes(routes!(interactions::interactions, interactions::erasure))
        .routes(routes!(interactions::interaction))
        .routes(routes!(feedback::feedback))
        .routes(routes!(models::models))
        .routes(routes!(models::model))
        .merge(limits::router())
        .merge(policies::router())
        .merge(replay::router())
        .merge(datasets::router())
        .merge(fine_tune::router())
        .merge(fine_tune_news::router())
        .merge(keys::router())
        .merge(aliases::router())
        .merge(sources::router())
        .merge(webhooks::router())
        .split_for_parts();
    let description = idempotent::described(description);
    router
        .route("/openapi.json", axum::routing::get(move || async move { Json(description) }))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(parts.clone(), idempotent::once))
        .layer(axum::middleware::from_fn_with_state(parts.clone(), authorize))
        .with_state(parts)
}

/// Serves the control plane until the process ends.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: std::net::TcpListener, router: Router) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(listener, router).await
}

/// Binds the control plane's socket. Processes share the port while one takes over from another.
///
/// # Errors
/// The address cannot be used.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Whether the process is alive, and how the work beside its requests goes. A task that fails does
/// not make the process a dead one: then it would be started again for nothing.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Status)))]
async fn healthz(State(parts): State<Parts>) -> Json<Status> {
    Json(Status { status: "ok", tasks: parts.health.tasks.reports() })
}

/// Whether the data plane takes requests, and what is missing. A store that is away does not stop it,
/// but where virtual keys are asked for it has to be there once.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = Ready), (status = 503, body = Ready)))]
async fn readyz(State(parts): State<Parts>) -> (StatusCode, Json<Ready>) {
    let (mut code, mut status) = parts.health.readiness.status();
    let mut missing = Vec::new();
    if status == "starting" {
        missing.push("listener");
    }
    // Without its keys it would refuse every call with 503: a balancer had better know.
    if parts.health.keys.as_ref().is_some_and(|keys| !keys.is_loaded()) {
        missing.push("keys");
        if status == "ready" {
            (code, status) = (StatusCode::SERVICE_UNAVAILABLE, "waiting");
        }
    }
    let store = match parts.recorder.as_ref().map(|recorder| recorder.store_is_available()) {
        Some(true) => "ok",
        Some(false) => "unavailable",
        None => "off",
    };
    (code, Json(Ready { status, missing, store }))
}

/// Every metric in Prometheus' text format; as OpenMetrics, with exemplars, where that is asked for.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
async fn metrics_text(State(parts): State<Parts>, headers: HeaderMap) -> impl IntoResponse {
    let tasks = parts.health.tasks.reports();
    let tasks = tasks.iter().map(|task| (task.name, task.running, task.failures));
    parts.metrics.background(tasks);
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (kind, text) = parts.metrics.render_for(accept.unwrap_or_default());
    ([(header::CONTENT_TYPE, kind)], text)
}

async fn authorize(State(parts): State<Parts>, request: Request, next: Next) -> Response {
    let guarded = request.uri().path().starts_with("/api");
    match &parts.token {
        Some(token) if guarded && !carries(request.headers(), token) => reply(&ApiError::new(
            401,
            "invalid_request_error",
            "invalid_api_key",
            "The control plane wants `Authorization: Bearer` with the value of WEIR_ADMIN_TOKEN.",
        )),
        _ => next.run(request).await,
    }
}

/// Compares digests, so that the time says nothing about the token.
fn carries(headers: &HeaderMap, token: &SecretString) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    let hash = |bytes| digest::digest(&digest::SHA256, bytes);
    hash(given).as_ref() == hash(token.expose_secret().as_bytes()).as_ref()
}

async fn not_found(request: Request) -> Response {
    let message = format!("There is nothing at {}. See /openapi.json.", request.uri().path());
    reply(&ApiError::new(404, "invalid_request_error", "not_found", message))
}

async fn method_not_allowed(request: Request) -> Response {
    let message = format!("{} is not served at {}.", request.method(), request.uri().path());
    reply(&ApiError::new(405, "invalid_request_error", "method_not_allowed", message))
}

/// What is answered where the store is switched off.
fn store_off() -> Response {
    let message = "`store` is off: this gateway keeps nothing of its calls.";
    reply(&ApiError::new(404, "invalid_request_error", "store_off", message))
}

/// What is answered where a parameter, or the body, cannot be used.
fn bad_parameter(error: BadParameter) -> Response {
    let refused = ApiError::bad_request("invalid_parameter", error.to_string());
    reply(&refused.param(error.name))
}

fn store_away(error: &StoreError) -> Response {
    tracing::warn!(%error, "the store cannot be used");
    reply(&ApiError::new(503, "api_error", "store_unavailable", error.to_string()))
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn reply(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], error.to_json()).into_response()
}
