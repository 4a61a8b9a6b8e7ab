//! What tells of fine-tune jobs as it happens: the stream of their changes to whoever listens, and
//! the webhooks that the trainer sends.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use axum::response::Response;
use axum::response::sse::Event;
use axum::response::sse::KeepAlive;
use axum::response::sse::Sse;
use futures_util::Stream;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::openai::error::ApiError;
use crate::store::TrainingJob;
use crate::store::TrainingQueue;
use crate::training::hint::Signed;
use crate::training::show;

use super::Parts;
use super::fine_tune::LARGEST_PAGE;
use super::fine_tune::LOOK;
use super::fine_tune::Parameters;
use super::fine_tune::found;
use super::fine_tune::refused;
use super::fine_tune::wrong;
use super::now;
use super::reply;
use super::store_off;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new().routes(routes!(stream)).routes(routes!(told_by_trainer))
}

/// Changes of status as server-sent events, as they happen.
#[utoipa::path(
    get,
    path = "/api/fine-tune-status/stream",
    params(("job_id" = Option<String>, Query, description = "This job alone, from its status now to its end")),
    responses(
        (status = 200, description = "Events `fine_tune.status_changed` whose data is the job", content_type = "text/event-stream"),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "There is no such job, or the store is switched off"),
    )
)]
async fn stream(State(parts): State<Parts>, Query(parameters): Parameters) -> Response {
    let begun = async {
        let job = only(&parameters, "job_id")?;
        let Some(database) = &parts.database else { return Ok(store_off()) };
        let queue = TrainingQueue::of(database)?;
        let mut changes = Changes {
            since: now(),
            job: None,
            queue,
            known: HashMap::new(),
            next: VecDeque::new(),
            ended: false,
        };
        if let Some(id) = job {
            let job = found(&changes.queue, id).await?;
            changes.job = Some(job.job_id);
            changes.add(job);
        }
        Ok(Sse::new(changes.events()).keep_alive(KeepAlive::default()).into_response())
    };
    begun.await.unwrap_or_else(refused)
}

/// A webhook of the trainer: says that a job may have changed. What it says is looked up, not
/// believed.
#[utoipa::path(
    post,
    path = "/hooks/openai",
    request_body = serde_json::Value,
    responses(
        (status = 200, description = "It is taken note of"),
        (status = 400, description = "The signature or the body cannot be used"),
        (status = 404, description = "There is no webhook secret, or the store is switched off"),
        (status = 503, description = "The store is away: to be sent again"),
    )
)]
async fn told_by_trainer(State(parts): State<Parts>, headers: HeaderMap, body: Bytes) -> Response {
    let secret = parts.trainer.webhook_secret.expose_secret();
    if secret.is_empty() {
        let message = "`trainer.webhook_secret` is empty: webhooks cannot be checked.";
        let error = ApiError::new(404, "invalid_request_error", "webhooks_off", message);
        return reply(&error);
    }
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signed = Signed {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signatures: header("webhook-signature"),
    };
    if let Err(message) = signed.verify(secret, &body, now() / 1000) {
        let error = ApiError::bad_request("invalid_signature", message);
        return reply(&error);
    }
    let taken = async {
        let Some(database) = &parts.database else { return Ok(store_off()) };
        let queue = TrainingQueue::of(database)?;
        let event: Value = serde_json::from_slice(&body)
            .map_err(|error| ApiError::bad_request("invalid_json", error.to_string()))?;
        let text = |place: &str| event.pointer(place).and_then(Value::as_str).unwrap_or_default();
        if queue.receive(signed.id, text("/type"), now()).await?
            && let Some(job) = queue.at_provider(text("/data/id")).await?
        {
            queue.ask(job.job_id, None, now()).await?;
        }
        Ok(Json(json!({ "received": true })).into_response())
    };
    taken.await.unwrap_or_else(refused)
}

/// The changes of jobs from a time on.
struct Changes {
    queue: TrainingQueue,
    since: i64,
    /// This one alone.
    job: Option<Uuid>,
    /// What was told last of each.
    known: HashMap<Uuid, String>,
    next: VecDeque<TrainingJob>,
    ended: bool,
}

impl Changes {
    fn add(&mut self, job: TrainingJob) {
        self.since = self.since.max(job.updated_at);
        if self.known.insert(job.job_id, job.status.clone()).as_ref() != Some(&job.status) {
            self.next.push_back(job);
        }
    }

    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures_util::stream::unfold(self, async |mut changes| {
            let job = changes.next().await?;
            let data = show::job(&job).to_string();
            let event = Event::default().event("fine_tune.status_changed").data(data);
            Some((Ok(event), changes))
        })
    }

    async fn next(&mut self) -> Option<TrainingJob> {
        loop {
            if let Some(job) = self.next.pop_front() {
                self.ended = self.job.is_some() && job.has_ended();
                return Some(job);
            }
            if self.ended {
                return None;
            }
            tokio::time::sleep(LOOK).await;
            // A store that is away now may be back later: the client waits.
            let changed = match self.job {
                Some(id) => self.queue.find(id).await.map(|job| job.into_iter().collect()),
                None => self.queue.changed(self.since, LARGEST_PAGE).await,
            };
            changed.unwrap_or_default().into_iter().for_each(|job| self.add(job));
        }
    }
}

fn only<'a>(parameters: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, ApiError> {
    match parameters.iter().find(|(given, _)| given != name) {
        Some((other, _)) => Err(wrong(other, &format!("is no parameter; there is {name}"))),
        None => Ok(parameters.last().map(|(_, value)| value.as_str())),
    }
}
