//! `/api/fine-tune` and `/api/fine-tune-status`: jobs that train a model on a dataset.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde_json::Value;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::openai::error::ApiError;
use crate::store::Datasets;
use crate::store::JobQuery;
use crate::store::REPLAYED;
use crate::store::TrainingJob;
use crate::store::TrainingQueue;
use crate::store::idempotency_key;
use crate::training::order;
use crate::training::order::Order;
use crate::training::order::Refusal;
use crate::training::show;

use super::Parts;
use super::now;
use super::page::Page;
use super::reply;
use super::store_away;
use super::store_off;

/// Jobs that are told of at once.
pub(super) const LARGEST_PAGE: u32 = 100;
/// Longest wait for a change.
const LONGEST_WAIT: u64 = 60;
/// How often somebody who waits looks.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// How long a refreshed answer waits for the trainer's.
const REFRESH: Duration = Duration::from_secs(10);

pub(super) type Parameters = Query<Vec<(String, String)>>;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(status))
        .routes(routes!(approve))
        .routes(routes!(cancel))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(retry))
        .routes(routes!(events))
        .routes(routes!(checkpoints))
}

/// Puts a fine-tune job in line, once for each Idempotency-Key.
#[utoipa::path(
    post,
    path = "/api/fine-tune",
    request_body = serde_json::Value,
    params(("Idempotency-Key" = String, Header, description = "The same key and body is the same job")),
    responses(
        (status = 200, description = "A dry run: what the job would be", body = serde_json::Value),
        (status = 202, description = "The job; above `max_cost_usd` it waits for approval", body = serde_json::Value),
        (status = 400, description = "No Idempotency-Key, or a body that cannot be used; `param` is the place in it"),
        (status = 404, description = "There is no such dataset, or the store is switched off"),
        (status = 409, description = "The dataset is not ready, or the key came with another body"),
        (status = 422, description = "Too few rows, or an example over the model's limit"),
        (status = 503, description = "The store is away now, or the trainer has no key"),
    )
)]
async fn create(State(parts): State<Parts>, headers: HeaderMap, body: Bytes) -> Response {
    match create_job(&parts, &headers, &body).await {
        Ok(answer) => answer,
        Err(refusal) => refused(refusal),
    }
}

async fn create_job(parts: &Parts, headers: &HeaderMap, body: &[u8]) -> Result<Response, Refusal> {
    let (asked, hash) = Order::parse(body)?;
    let Some(database) = &parts.database else { return Ok(store_off()) };
    let (datasets, queue) = (Datasets::of(database)?, TrainingQueue::of(database)?);
    let trainer = &parts.trainer;
    if asked.dry_run {
        let job = order::plan(&datasets, &queue, trainer, &asked, ("", &hash)).await?;
        let mut shown = show::job(&job);
        for of_a_row in ["id", "job_id", "next_poll_at"] {
            shown[of_a_row] = Value::Null;
        }
        shown["dry_run"] = true.into();
        return Ok(Json(shown).into_response());
    }
    let key = idempotency_key(headers.get("idempotency-key"))?.ok_or_else(|| {
        let message = "The header Idempotency-Key is missing: without one, a repeated request \
                       would train twice.";
        ApiError::bad_request("missing_idempotency_key", message).param("Idempotency-Key")
    })?;
    let (job, replayed) = order::place(&datasets, &queue, trainer, &asked, (key, &hash)).await?;
    Ok(accepted(&job, replayed))
}

/// One job, or a page of them, the newest first.
#[utoipa::path(
    get,
    path = "/api/fine-tune-status",
    params(
        ("job_id" = Option<String>, Query, description = "This job alone"),
        ("wait" = Option<u64>, Query, description = "With job_id: seconds to wait for another status, up to 60"),
        ("refresh" = Option<bool>, Query, description = "With job_id: asks the trainer now"),
        ("status" = Option<String>, Query, description = "Only these"),
        ("dataset_id" = Option<String>, Query, description = "Only those trained on this dataset"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A job, or a list of jobs", body = serde_json::Value),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "There is no such job, or the store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn status(State(parts): State<Parts>, Query(parameters): Parameters) -> Response {
    let shown = async {
        let asked = Asked::parse(&parameters)?;
        let Some(database) = &parts.database else { return Ok(store_off()) };
        let queue = TrainingQueue::of(database)?;
        match &asked.job {
            Some(id) => Ok(Json(show::job(&one(&queue, id, &asked).await?)).into_response()),
            None => page(&queue, &asked).await,
        }
    };
    shown.await.unwrap_or_else(refused)
}

/// Lets a job go on that waits for approval.
#[utoipa::path(
    post,
    path = "/api/fine-tune/{id}/approve",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 202, description = "The job, in line", body = serde_json::Value),
        (status = 404, description = "There is none"),
        (status = 409, description = "It does not wait for approval"),
    )
)]
async fn approve(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let done = async {
        let (queue, mut job) = opened(&parts, &id).await?;
        order::decide(&queue, &mut job, true).await?;
        Ok(accepted(&job, false))
    };
    done.await.unwrap_or_else(refused)
}

/// Cancels a job, also at the trainer.
#[utoipa::path(
    post,
    path = "/api/fine-tune/{id}/cancel",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 202, description = "The job, which is cancelled or will be", body = serde_json::Value),
        (status = 404, description = "There is none"),
        (status = 409, description = "It has ended"),
    )
)]
async fn cancel(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    asked_to(&parts, &id, "cancel").await
}

/// Pauses a job at the trainer.
#[utoipa::path(
    post,
    path = "/api/fine-tune/{id}/pause",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 202, description = "The job, which will be paused", body = serde_json::Value),
        (status = 404, description = "There is none"),
        (status = 409, description = "It has ended, or waits for approval"),
    )
)]
async fn pause(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    asked_to(&parts, &id, "pause").await
}

/// Lets a paused job go on.
#[utoipa::path(
    post,
    path = "/api/fine-tune/{id}/resume",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 202, description = "The job, which will go on", body = serde_json::Value),
        (status = 404, description = "There is none"),
        (status = 409, description = "It has ended, or waits for approval"),
    )
)]
async fn resume(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    asked_to(&parts, &id, "resume").await
}

/// Puts a new job in line that asks for the same as one that failed or was cancelled.
#[utoipa::path(
    post,
    path = "/api/fine-tune/{id}/retry",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 202, description = "The new job", body = serde_json::Value),
        (status = 404, description = "There is none"),
        (status = 409, description = "It goes on, or has succeeded"),
    )
)]
async fn retry(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let done = async {
        let (queue, job) = opened(&parts, &id).await?;
        let (again, replayed) = order::retry(&queue, &job).await?;
        Ok(accepted(&again, replayed))
    };
    done.await.unwrap_or_else(refused)
}

/// What the trainer told of a job, the newest first.
#[utoipa::path(
    get,
    path = "/api/fine-tune/{id}/events",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of events", body = serde_json::Value),
        (status = 404, description = "There is no such job"),
    )
)]
async fn events(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    Query(parameters): Parameters,
) -> Response {
    let shown = async {
        let page = Page::newest().read(&parameters)?;
        let (queue, job) = opened(&parts, &id).await?;
        let after = (page.after.as_deref(), page.ascending);
        let events = queue.events(job.job_id, after, page.limit + 1).await?;
        Ok(page.shown(events.iter().map(show::event).collect(), "id"))
    };
    shown.await.unwrap_or_else(refused)
}

/// The checkpoints of a job, the last one first.
#[utoipa::path(
    get,
    path = "/api/fine-tune/{id}/checkpoints",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of checkpoints", body = serde_json::Value),
        (status = 404, description = "There is no such job"),
    )
)]
async fn checkpoints(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    Query(parameters): Parameters,
) -> Response {
    let shown = async {
        let page = Page::newest().read(&parameters)?;
        let (queue, job) = opened(&parts, &id).await?;
        let after = (page.after.as_deref(), page.ascending);
        let all = queue.checkpoints(job.job_id, after, page.limit + 1).await?;
        Ok(page.shown(all.iter().map(show::checkpoint).collect(), "id"))
    };
    shown.await.unwrap_or_else(refused)
}

/// What is asked of the status.
struct Asked {
    job: Option<String>,
    wait: Duration,
    refresh: bool,
    query: JobQuery,
    page: Page,
}

impl Asked {
    fn parse(parameters: &[(String, String)]) -> Result<Self, ApiError> {
        let (job, query) = (None, JobQuery::default());
        let mut asked =
            Self { job, wait: Duration::ZERO, refresh: false, query, page: Page::newest() };
        for (name, value) in parameters {
            if !asked.page.set(name, value)? {
                asked.set(name, value).map_err(|message| wrong(name, &message))?;
            }
        }
        if let Some(after) = &asked.page.after {
            let id = Uuid::try_parse(after).map_err(|_| wrong("after", &no_id(after)))?;
            asked.query.after = Some(id);
        }
        (asked.query.limit, asked.query.ascending) = (asked.page.limit + 1, asked.page.ascending);
        Ok(asked)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "job_id" => self.job = Some(value.to_owned()),
            "wait" => {
                let wait = value.parse().ok().filter(|wait| *wait <= LONGEST_WAIT);
                let wait =
                    wait.ok_or_else(|| format!("`{value}` is not between 0 and {LONGEST_WAIT}"))?;
                self.wait = Duration::from_secs(wait);
            }
            "refresh" => {
                self.refresh = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(format!("`{value}` is neither true nor false")),
                }
            }
            "status" => self.query.status = Some(value.to_owned()),
            "dataset_id" => {
                self.query.dataset = Some(Uuid::try_parse(value).map_err(|_| no_id(value))?);
            }
            _ => {
                let known = "job_id, wait, refresh, status, dataset_id, limit, after and order";
                return Err(format!("is no parameter; there are {known}"));
            }
        }
        Ok(())
    }
}

/// One job: asked of the trainer when wanted, and waited for.
async fn one(queue: &TrainingQueue, id: &str, asked: &Asked) -> Result<TrainingJob, Refusal> {
    let mut job = found(queue, id).await?;
    let began = Instant::now();
    let was = job.status.clone();
    if asked.refresh {
        let moment = now();
        let mut due = queue.ask(job.job_id, None, moment).await?;
        // Whoever polls says when it looks again.
        while due && began.elapsed() < REFRESH {
            tokio::time::sleep(LOOK).await;
            job = found(queue, id).await?;
            due = job.next_poll_at == Some(moment);
        }
    }
    while job.status == was && !job.has_ended() && began.elapsed() < asked.wait {
        tokio::time::sleep(LOOK).await;
        job = found(queue, id).await?;
    }
    Ok(job)
}

async fn page(queue: &TrainingQueue, asked: &Asked) -> Result<Response, Refusal> {
    let jobs = queue.list(&asked.query).await?;
    Ok(asked.page.shown(jobs.iter().map(show::job).collect(), "id"))
}

fn no_id(value: &str) -> String {
    format!("`{value}` is no id")
}

async fn asked_to(parts: &Parts, id: &str, wish: &str) -> Response {
    let done = async {
        let (queue, mut job) = opened(parts, id).await?;
        order::wish(&queue, &mut job, wish).await?;
        Ok(accepted(&found(&queue, id).await?, false))
    };
    done.await.unwrap_or_else(refused)
}

async fn opened(parts: &Parts, id: &str) -> Result<(TrainingQueue, TrainingJob), Refusal> {
    let Some(database) = &parts.database else { return Err(missing(id).into()) };
    let queue = TrainingQueue::of(database)?;
    let job = found(&queue, id).await?;
    Ok((queue, job))
}

pub(super) async fn found(queue: &TrainingQueue, id: &str) -> Result<TrainingJob, Refusal> {
    let job = match Uuid::try_parse(id) {
        Ok(id) => queue.find(id).await?,
        Err(_) => None,
    };
    job.ok_or_else(|| missing(id).into())
}

fn accepted(job: &TrainingJob, replayed: bool) -> Response {
    let answer = (StatusCode::ACCEPTED, Json(show::job(job)));
    if replayed { ([(REPLAYED, "true")], answer).into_response() } else { answer.into_response() }
}

fn missing(id: &str) -> ApiError {
    let message = format!("There is no fine-tune job `{id}`.");
    ApiError::new(404, "invalid_request_error", "not_found", message)
}

pub(super) fn wrong(parameter: &str, message: &str) -> ApiError {
    let told = format!("`{parameter}`: {message}.");
    ApiError::bad_request("invalid_parameter", told).param(parameter.to_owned())
}

pub(super) fn refused(refusal: Refusal) -> Response {
    match refusal {
        Refusal::Refused(error) => reply(&error),
        Refusal::Store(error) => store_away(&error),
    }
}
