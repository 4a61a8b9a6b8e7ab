//! The stand-in for OpenAI: the API's routes with made-up answers, used by `weir serve --simulate`,
//! `weir simulate`, the tests and the benches. The same request gets the same answer; knobs make it
//! slow, short, broken or refusing.

mod batches;
mod call;
mod chat;
mod chat_stream;
mod completions;
mod draft;
mod embeddings;
mod files;
mod job_story;
mod jobs;
mod knobs;
mod media;
mod models;
mod moderations;
mod pages;
mod play;
mod realtime;
mod refusal;
mod responses;
mod responses_stream;
mod schema;
mod serve;
mod shelf;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::client;
mod text;
mod training;
mod uploads;
mod validate;
mod world;

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub use crate::simulator::knobs::{KnobError, Knobs};

use crate::simulator::refusal::Refusal;
use crate::simulator::world::World;

/// A simulated OpenAI. What it remembers (files, jobs, responses) is bounded, in memory and shared
/// by all routers made from it.
pub struct Simulator {
    world: Arc<World>,
}

impl Simulator {
    /// A stand-in whose every answer obeys these knobs, unless a request turns its own.
    pub fn new(knobs: Knobs) -> Self {
        Self { world: Arc::new(World::new(knobs)) }
    }

    /// The routes under `/v1`, for a server of the caller's own.
    pub fn router(&self) -> Router {
        let routes = Router::new().merge(answers()).merge(kept()).merge(trained());
        routes
            .fallback(unknown_url)
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::disable())
            .layer(from_fn_with_state(self.world.clone(), call::stamp))
            .with_state(self.world.clone())
    }

    /// Serves HTTP/1.1 and HTTP/2 (prior knowledge) until `stop` resolves; answers in progress then
    /// have 2 s to end.
    ///
    /// # Errors
    /// None today: connections that fail are dropped, failed accepts are tried again.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        serve::serve(self.router(), listener, stop).await
    }
}

/// Endpoints that answer at once.
fn answers() -> Router<Arc<World>> {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/moderations", post(moderations::create))
        .route("/v1/images/generations", post(media::generate_images))
        .route("/v1/audio/speech", post(media::speak))
        .route("/v1/audio/transcriptions", post(media::transcribe))
        .route("/v1/realtime", get(realtime::connect))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::read).delete(models::delete))
}

/// Endpoints whose objects can be read again.
fn kept() -> Router<Arc<World>> {
    Router::new()
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/responses/{id}", get(responses::read).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input))
        .route("/v1/files", post(files::create).get(files::list))
        .route("/v1/files/{id}", get(files::read).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/uploads", post(uploads::create))
        .route("/v1/uploads/{id}/parts", post(uploads::add_part))
        .route("/v1/uploads/{id}/complete", post(uploads::complete))
        .route("/v1/uploads/{id}/cancel", post(uploads::cancel))
}

/// Endpoints whose objects change with time.
fn trained() -> Router<Arc<World>> {
    Router::new()
        .route("/v1/fine_tuning/jobs", post(jobs::create).get(jobs::list))
        .route("/v1/fine_tuning/jobs/{id}", get(jobs::read))
        .route("/v1/fine_tuning/jobs/{id}/events", get(jobs::events))
        .route("/v1/fine_tuning/jobs/{id}/checkpoints", get(jobs::checkpoints))
        .route("/v1/fine_tuning/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/fine_tuning/jobs/{id}/pause", post(jobs::pause))
        .route("/v1/fine_tuning/jobs/{id}/resume", post(jobs::resume))
        .route("/v1/batches", post(batches::create).get(batches::list))
        .route("/v1/batches/{id}", get(batches::read))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
}

async fn unknown_url(request: Request) -> Refusal {
    Refusal::unknown_url(request.method().as_str(), request.uri().path())
}

async fn wrong_method(request: Request) -> Refusal {
    Refusal::wrong_method(request.method().as_str(), request.uri().path())
}
