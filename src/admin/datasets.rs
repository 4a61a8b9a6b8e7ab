//! `/api/datasets`: training data, from a recipe to files that do not change any more.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde_json::Value;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openai::error::ApiError;
use crate::store::DatasetQuery;
use crate::store::DatasetRow;
use crate::store::Datasets;
use crate::store::NotDeleted;
use crate::training;
use crate::training::dataset;
use crate::training::dataset::BuildError;
use crate::training::publish::publish;
use crate::training::recipe::BadRecipe;
use crate::training::recipe::Recipe;

use super::Parts;
use super::bad_parameter;
use super::reply;
use super::store_away;
use super::store_off;

/// How long an answer waits for a build that may be a short one.
const SHORT: Duration = Duration::from_secs(3);
/// Datasets that are built or previewed at the same time: traffic needs the cores, too.
const BUILDS: usize = 2;
/// Rows that a preview reads, when nobody says how many, and at most.
const ROWS: u64 = 10_000;
const MOST_ROWS: u64 = 100_000;

static ROOM: Semaphore = Semaphore::const_new(BUILDS);

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new()
        .routes(routes!(datasets, create))
        .routes(routes!(preview_of_recipe))
        .routes(routes!(dataset, delete))
        .routes(routes!(preview_of_dataset))
        .routes(routes!(export))
        .routes(routes!(publish_dataset))
}

/// Pages of datasets, the newest first.
#[utoipa::path(
    get,
    path = "/api/datasets",
    params(
        ("name" = Option<String>, Query, description = "Versions of this name"),
        ("status" = Option<String>, Query, description = "building, ready, failed or archived"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of datasets", body = serde_json::Value),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn datasets(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let datasets = match opened(&parts) {
        Ok(datasets) => datasets,
        Err(refused) => return refused,
    };
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = match DatasetQuery::parse(parameters) {
        Ok(query) => query,
        Err(error) => return bad_parameter(error),
    };
    match datasets.page(&query).await {
        Ok(page) => Json(page).into_response(),
        Err(error) => store_away(&error),
    }
}

/// Builds a dataset by a recipe. Answers with it when that takes no more than three seconds, else
/// with a row that is `building`.
#[utoipa::path(
    post,
    path = "/api/datasets",
    request_body = serde_json::Value,
    responses(
        (status = 201, description = "The dataset, ready", body = serde_json::Value),
        (status = 202, description = "The dataset, building", body = serde_json::Value),
        (status = 400, description = "A recipe that cannot be used; `param` is the place in it"),
        (status = 404, description = "The store is switched off"),
        (status = 422, description = "Fewer than 10 rows are left; `counts` has the reasons"),
        (status = 503, description = "The store is away, or others are being built"),
    )
)]
async fn create(State(parts): State<Parts>, body: Bytes) -> Response {
    let recipe = match recipe(&body) {
        Ok(recipe) => recipe,
        Err(error) => return bad_recipe(error),
    };
    let datasets = match opened(&parts) {
        Ok(datasets) => datasets,
        Err(refused) => return refused,
    };
    let Ok(room) = ROOM.try_acquire() else { return busy() };
    let row = match dataset::create(&datasets, &recipe).await {
        Ok(row) => row,
        Err(error) => return refused(&error, None),
    };
    let work = dataset::in_background(datasets, row.clone());
    // The build goes on when the client has left.
    let build = tokio::spawn(async move {
        let built = work.await;
        drop(room);
        built
    });
    match tokio::time::timeout(SHORT, build).await {
        Err(_) => (StatusCode::ACCEPTED, Json(row)).into_response(),
        Ok(Ok(Ok(Ok(row)))) => (StatusCode::CREATED, Json(row)).into_response(),
        Ok(Ok(Ok(Err(error)))) => refused(&error, Some(&row)),
        Ok(Ok(Err(error)) | Err(error)) => {
            tracing::error!(dataset = %row.id, %error, "a build stopped");
            (StatusCode::ACCEPTED, Json(row)).into_response()
        }
    }
}

/// One dataset with its manifest.
#[utoipa::path(
    get,
    path = "/api/datasets/{id}",
    params(("id" = String, Path, description = "An id, a name (its last version), or name@version")),
    responses(
        (status = 200, description = "The dataset", body = serde_json::Value),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn dataset(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    match found(&parts, &id).await {
        Ok((_, row)) => Json(row).into_response(),
        Err(refused) => refused,
    }
}

/// Deletes a dataset and its files.
#[utoipa::path(
    delete,
    path = "/api/datasets/{id}",
    params(("id" = String, Path, description = "An id, a name (its last version), or name@version")),
    responses(
        (status = 200, description = "It is deleted", body = serde_json::Value),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 409, description = "It is being built, or a fine-tune job was made with it"),
        (status = 503, description = "The store is away now"),
    )
)]
async fn delete(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let (datasets, row) = match found(&parts, &id).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    match datasets.delete(row.id).await {
        Ok(()) => {
            let told = json!({ "object": "dataset.deleted", "id": row.id, "deleted": true });
            Json(told).into_response()
        }
        Err(NotDeleted::Missing) => missing(&id),
        Err(NotDeleted::InUse(why)) => {
            let message = format!("The dataset `{id}` cannot be deleted: {why}.");
            reply(&ApiError::new(409, "invalid_request_error", "dataset_in_use", message))
        }
        Err(NotDeleted::Store(error)) => store_away(&error),
    }
}

/// What a recipe would make of the first rows, and samples of what each stage would drop.
#[utoipa::path(
    post,
    path = "/api/datasets/preview",
    request_body = serde_json::Value,
    params(("rows" = Option<u64>, Query, description = "Rows that are read: 1 to 100,000, 10,000 when left out")),
    responses(
        (status = 200, description = "Counts and samples by stage", body = serde_json::Value),
        (status = 400, description = "A recipe that cannot be used; `param` is the place in it"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store is away, or others are being built"),
    )
)]
async fn preview_of_recipe(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
    body: Bytes,
) -> Response {
    let datasets = match opened(&parts) {
        Ok(datasets) => datasets,
        Err(refused) => return refused,
    };
    match recipe(&body) {
        Ok(recipe) => preview(datasets, recipe, &parameters).await,
        Err(error) => bad_recipe(error),
    }
}

/// The same for the recipe of a dataset, and the rows of today.
#[utoipa::path(
    post,
    path = "/api/datasets/{id}/preview",
    params(
        ("id" = String, Path, description = "An id, a name (its last version), or name@version"),
        ("rows" = Option<u64>, Query, description = "Rows that are read: 1 to 100,000, 10,000 when left out"),
    ),
    responses(
        (status = 200, description = "Counts and samples by stage", body = serde_json::Value),
        (status = 400, description = "A recipe that cannot be used here"),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 503, description = "The store is away, or others are being built"),
    )
)]
async fn preview_of_dataset(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let (datasets, row) = match found(&parts, &id).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    match recipe(row.recipe.to_string().as_bytes()) {
        Ok(recipe) => preview(datasets, recipe, &parameters).await,
        Err(error) => bad_recipe(error),
    }
}

/// The JSONL of one side, as a stream.
#[utoipa::path(
    get,
    path = "/api/datasets/{id}/export",
    params(
        ("id" = String, Path, description = "An id, a name (its last version), or name@version"),
        ("split" = Option<String>, Query, description = "train (when left out) or validation"),
    ),
    responses(
        (status = 200, description = "Lines of JSON", body = String, content_type = "application/jsonl"),
        (status = 400, description = "Another split"),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 409, description = "It is not ready"),
        (status = 503, description = "The store or the object store is away now"),
    )
)]
async fn export(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let side = match only(&parameters, "split") {
        Ok(None | Some("train")) => Side::Train,
        Ok(Some("validation" | "valid")) => Side::Validation,
        Ok(Some(other)) => {
            let message = format!("`{other}` is neither train nor validation");
            return wrong("split", &message);
        }
        Err(refused) => return refused,
    };
    let (datasets, row) = match ready(&parts, &id).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let (file, name) = match side {
        Side::Train => (&row.train, "train"),
        Side::Validation => (&row.validation, "validation"),
    };
    let (Some(file), Some(objects)) = (file, datasets.objects()) else { return missing(&id) };
    let named = format!("attachment; filename=\"{}-{}.{name}.jsonl\"", row.name, row.version);
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::CONTENT_LENGTH, file.bytes.to_string()),
        (header::CONTENT_DISPOSITION, named),
        (header::ETAG, format!("\"{}\"", file.sha256)),
    ];
    let Some(key) = &file.key else { return headers.into_response() };
    match objects.read(key).await {
        Ok(Some(lines)) => (headers, Body::from_stream(lines)).into_response(),
        Ok(None) => {
            let message = format!("The file `{key}` is not in the object store any more.");
            reply(&ApiError::new(404, "invalid_request_error", "not_found", message))
        }
        Err(error) => refused(&error.into(), None),
    }
}

/// Writes the manifest beside the files, in the object store.
#[utoipa::path(
    post,
    path = "/api/datasets/{id}/publish",
    params(("id" = String, Path, description = "An id, a name (its last version), or name@version")),
    responses(
        (status = 200, description = "Where it lies", body = serde_json::Value),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 409, description = "It is not ready"),
        (status = 503, description = "The store or the object store is away now"),
    )
)]
async fn publish_dataset(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let (datasets, row) = match ready(&parts, &id).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    match publish(&datasets, &row, None).await {
        Ok(published) => Json(published).into_response(),
        Err(error) => refused(&error, None),
    }
}

#[derive(Clone, Copy)]
enum Side {
    Train,
    Validation,
}

async fn preview(datasets: Datasets, recipe: Recipe, parameters: &[(String, String)]) -> Response {
    let rows = match only(parameters, "rows") {
        Ok(None) => ROWS,
        Ok(Some(rows)) => match rows.parse().ok().filter(|rows| (1..=MOST_ROWS).contains(rows)) {
            Some(rows) => rows,
            None => return wrong("rows", &format!("`{rows}` is not between 1 and {MOST_ROWS}")),
        },
        Err(refused) => return refused,
    };
    let Ok(_room) = ROOM.try_acquire() else { return busy() };
    let runtime = Handle::current();
    let work = move || {
        runtime.block_on(training::preview(&datasets, &recipe, rows, dataset::beside_traffic()))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(seen)) => Json(seen).into_response(),
        Ok(Err(error)) => refused(&error, None),
        Err(error) => refused(&std::io::Error::other(error).into(), None),
    }
}

/// A recipe from outside: files of this machine are not for everybody with a token.
fn recipe(body: &[u8]) -> Result<Recipe, BadRecipe> {
    let recipe = Recipe::parse(body)?;
    match recipe.files().into_iter().next() {
        None => Ok(recipe),
        Some((place, _)) => {
            let message = "files of the gateway's machine are read by `weir dataset build` only";
            Err(BadRecipe::at(place, message))
        }
    }
}

#[expect(clippy::result_large_err, reason = "the error is the answer")]
fn opened(parts: &Parts) -> Result<Datasets, Response> {
    let database = parts.database.as_ref().ok_or_else(store_off)?;
    Datasets::of(database).map_err(|error| store_away(&error))
}

async fn found(parts: &Parts, id: &str) -> Result<(Datasets, DatasetRow), Response> {
    let datasets = opened(parts)?;
    match datasets.find(id).await {
        Ok(Some(row)) => Ok((datasets, row)),
        Ok(None) => Err(missing(id)),
        Err(error) => Err(store_away(&error)),
    }
}

async fn ready(parts: &Parts, id: &str) -> Result<(Datasets, DatasetRow), Response> {
    let (datasets, row) = found(parts, id).await?;
    if row.status == "ready" {
        return Ok((datasets, row));
    }
    let why = row.error.map_or_else(String::new, |error| format!(": {}", error.message));
    let message = format!("The dataset `{id}` is {}{why}.", row.status);
    Err(reply(&ApiError::new(409, "invalid_request_error", "dataset_not_ready", message)))
}

/// The value of the only parameter that there may be.
#[expect(clippy::result_large_err, reason = "the error is the answer")]
fn only<'a>(parameters: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, Response> {
    match parameters.iter().find(|(given, _)| given != name) {
        Some((other, _)) => Err(wrong(other, &format!("is no parameter; there is {name}"))),
        None => Ok(parameters.last().map(|(_, value)| value.as_str())),
    }
}

fn wrong(parameter: &str, message: &str) -> Response {
    let error = ApiError::bad_request("invalid_parameter", format!("`{parameter}`: {message}"));
    reply(&error.param(parameter.to_owned()))
}

fn bad_recipe(error: BadRecipe) -> Response {
    let refused = ApiError::bad_request("invalid_recipe", error.to_string());
    reply(&refused.param(error.path))
}

/// What came in the way of a build.
fn refused(error: &BuildError, row: Option<&DatasetRow>) -> Response {
    match error {
        BuildError::Recipe(bad) => bad_recipe(bad.clone()),
        BuildError::TooFewRows { stats, rows, .. } => {
            let counts = stats.get("dropped").cloned().unwrap_or_default();
            let told: Value = json!({ "error": {
                "message": format!("{error}."),
                "type": "invalid_request_error",
                "param": null,
                "code": error.code(),
                "rows": rows,
                "counts": counts,
                "dataset_id": row.map(|row| row.id),
            }});
            (StatusCode::UNPROCESSABLE_ENTITY, Json(told)).into_response()
        }
        BuildError::Gone => {
            let message = "Words in it were erased while it was built; build it again.";
            reply(&ApiError::new(409, "invalid_request_error", "dataset_archived", message))
        }
        error => {
            tracing::warn!(%error, "a dataset cannot be worked on");
            reply(&ApiError::new(503, "api_error", error.code(), error.to_string()))
        }
    }
}

fn busy() -> Response {
    let message = format!("{BUILDS} datasets are being built or previewed; try again later.");
    let mut answer = reply(&ApiError::new(503, "api_error", "server_overloaded", message));
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("10"));
    answer
}

fn missing(id: &str) -> Response {
    let id: String = id.chars().take(100).collect();
    let message = format!("There is no dataset `{id}`.");
    reply(&ApiError::new(404, "invalid_request_error", "not_found", message))
}
