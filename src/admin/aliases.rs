//! `/api/aliases` and the promotion of fine-tuned models.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openai::error::ApiError;
use crate::store::AliasRow;
use crate::store::Aliases;
use crate::store::Compared;
use crate::store::Database;
use crate::store::Datasets;
use crate::store::Outcomes;
use crate::store::TrainingQueue;
use crate::training::order::Refusal;
use crate::training::promotion;
use crate::training::promotion::Promotion;
use crate::training::promotion::Terms;
use crate::training::promotion::show;

use super::Parts;
use super::fine_tune::Parameters;
use super::fine_tune::found as found_job;
use super::fine_tune::refused;
use super::now;
use super::page::Page;
use super::policies::today;

/// Events of an alias that are shown with it.
const EVENTS: u32 = 20;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new()
        .routes(routes!(promote))
        .routes(routes!(list))
        .routes(routes!(one, delete))
        .routes(routes!(rollback))
}

/// Leads a share of an alias's calls to the model that a job has trained.
#[utoipa::path(
    post,
    path = "/api/fine-tune/{id}/promote",
    params(("id" = String, Path, description = "The job's id")),
    request_body(content = Object, description = "alias; percent (5), steps ([5, 10, 25, 50, 100]), step_minutes (30), min_calls (200), base (what answers the other calls of a new alias: the job's)"),
    responses(
        (status = 202, description = "The alias, with the model on trial", body = Object),
        (status = 400, description = "A body that cannot be used; `param` is the field"),
        (status = 404, description = "There is no such job, or the store is switched off"),
        (status = 409, description = "The job has no model, it serves already, or another is on trial"),
        (status = 422, description = "The model's base is shut down within 30 days"),
        (status = 503, description = "The store is away now"),
    )
)]
async fn promote(State(parts): State<Parts>, Path(id): Path<String>, body: Bytes) -> Response {
    let done = async {
        let terms = Terms::parse(&body)?;
        let database = opened(&parts)?;
        let job = found_job(&TrainingQueue::of(database)?, &id).await?;
        let datasets = Datasets::of(database)?;
        let prune = promotion::pruned_by(&datasets, job.dataset_id).await?;
        let arm = promotion::arm_of(&job, prune)?;
        let policy = parts.policy.current();
        let asked = Promotion::of(terms, arm, &job.model, policy.catalogue(), today())?;
        let row = promotion::begin(&Aliases::of(database)?, &asked, now()).await?;
        Ok((StatusCode::ACCEPTED, Json(show::alias(&row))).into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// All aliases, by name.
#[utoipa::path(
    get,
    path = "/api/aliases",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 100, 100 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "asc (by name) or desc"),
    ),
    responses(
        (status = 200, description = "A list of aliases", body = Object),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store is away now"),
    )
)]
async fn list(State(parts): State<Parts>, Query(parameters): Parameters) -> Response {
    let shown = async {
        let page = Page::by_name().read(&parameters)?;
        let rows = Aliases::of(opened(&parts)?)?.all().await?;
        Ok(page.of(rows.iter().map(show::alias).collect(), "id")?)
    };
    shown.await.unwrap_or_else(refused)
}

/// An alias, the comparison of its arms, and what was done with it.
#[utoipa::path(
    get,
    path = "/api/aliases/{name}",
    params(("name" = String, Path, description = "The alias")),
    responses(
        (status = 200, description = "The alias with `comparison` and `events`", body = Object),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 503, description = "The store is away now"),
    )
)]
async fn one(State(parts): State<Parts>, Path(name): Path<String>) -> Response {
    let shown = async {
        let aliases = Aliases::of(opened(&parts)?)?;
        let row = found(&aliases, &name).await?;
        let mut shown = show::alias(&row);
        shown["comparison"] = show::comparison(&row, &compared(&aliases, &row).await?);
        shown["events"] = json!(aliases.events(&name, EVENTS).await?);
        Ok(Json(shown).into_response())
    };
    shown.await.unwrap_or_else(refused)
}

/// Ends the trial of an alias, or brings back what served before the last promotion.
#[utoipa::path(
    post,
    path = "/api/aliases/{name}/rollback",
    params(("name" = String, Path, description = "The alias")),
    responses(
        (status = 200, description = "The alias", body = Object),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 409, description = "There is nothing to go back to"),
        (status = 503, description = "The store is away now"),
    )
)]
async fn rollback(State(parts): State<Parts>, Path(name): Path<String>) -> Response {
    let done = async {
        let aliases = Aliases::of(opened(&parts)?)?;
        let mut row = found(&aliases, &name).await?;
        promotion::roll_back(&aliases, &mut row, &json!({ "by": "request" }), now()).await?;
        Ok(Json(show::alias(&row)).into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// Takes an alias away: its name is an ordinary model's from then on.
#[utoipa::path(
    delete,
    path = "/api/aliases/{name}",
    params(("name" = String, Path, description = "The alias")),
    responses(
        (status = 200, description = "It is gone", body = Object),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 503, description = "The store is away now"),
    )
)]
async fn delete(State(parts): State<Parts>, Path(name): Path<String>) -> Response {
    let done = async {
        if !Aliases::of(opened(&parts)?)?.delete(&name, now()).await? {
            return Err(missing(&name).into());
        }
        let gone = json!({ "object": "alias.deleted", "id": name, "deleted": true });
        Ok(Json(gone).into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// What all calls of the trial came to.
async fn compared(aliases: &Aliases, row: &AliasRow) -> Result<[Outcomes; 2], Refusal> {
    let Some(canary) = &row.canary else { return Ok(Default::default()) };
    let dear = canary.usual.and_then(|usual| usual.dear(1.0)).unwrap_or(i64::MAX);
    let of = Compared {
        alias: &row.name,
        canary: &canary.arm.model,
        since: canary.started_at,
        until: now() + 1,
        slow_ms: canary.usual.map_or(i64::MAX, |usual| usual.slow_ms()),
        dear: [dear; 2],
    };
    Ok(aliases.outcomes(&of).await?)
}

async fn found(aliases: &Aliases, name: &str) -> Result<AliasRow, Refusal> {
    aliases.find(name).await?.ok_or_else(|| missing(name).into())
}

fn opened(parts: &Parts) -> Result<&Database, Refusal> {
    parts.database.as_ref().ok_or_else(|| off().into())
}

fn off() -> ApiError {
    let message = "`store` is off: this gateway keeps neither jobs nor aliases.";
    ApiError::new(404, "invalid_request_error", "store_off", message)
}

fn missing(name: &str) -> ApiError {
    let message = format!("There is no alias `{name}`.");
    ApiError::new(404, "invalid_request_error", "not_found", message)
}
