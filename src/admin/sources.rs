//! `/api/embeddings`: sources of documents, their runs and their index; `/api/search`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::response::Response;
use ring::hmac;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::embeddings::page::read_file;
use crate::embeddings::source;
use crate::openai::error::ApiError;
use crate::store::DocumentQuery;
use crate::store::Documents;
use crate::store::Source;
use crate::store::SourceFile;
use crate::store::SourceRun;
use crate::store::Sources;
use crate::store::StoreError;
use crate::training::order::Refusal;

use super::Parts;
use super::bad_parameter;
use super::carries;
use super::fine_tune::refused;
use super::now;
use super::page::Page;
use super::policies::LARGEST_BODY;
use super::policies::whole;
use super::store_off;

/// Sources that are listed; who has more has another kind of problem.
const MOST_SOURCES: u32 = 10_000;
/// Files of one upload.
const MOST_FILES: usize = 1_000;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(change, delete))
        .routes(routes!(refresh))
        .routes(routes!(runs))
        .routes(routes!(upload))
        .routes(routes!(documents))
        .routes(routes!(reindex))
        .routes(routes!(rollback))
        .routes(routes!(search))
        .routes(routes!(hint))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// Adds a source. Its first run is in line at once, but for files: those come first.
#[utoipa::path(
    post, path = "/api/embeddings/sources",
    request_body(content = Object, description = "name; kind: crawl, map, scrape or files, with its url where it is a site; include, exclude (patterns of paths); limit (1000 pages); schedule (cron, or {cron, timezone}); model (text-embedding-3-small); dimensions; chunking {min_tokens, max_tokens, overlap_tokens}; deadline_s"),
    responses(
        (status = 201, description = "The source", body = Object),
        (status = 400, description = "A field that cannot be used; `param` names it"),
        (status = 409, description = "There is one of that name"),
    )
)]
async fn create(State(parts): State<Parts>, body: Bytes) -> Response {
    let done = async {
        let asked = json_of(&body)?;
        let sources = opened(&parts)?;
        let made = source::define(&asked, &parts.library.outbound, now()).await?;
        if let Some(database) = &parts.database {
            database.migrate().await?;
        }
        if !sources.insert(&made).await? {
            return Err(taken(&made.name).into());
        }
        let mut last = None;
        if made.kind != "files" {
            last = Some(sources.enqueue(SourceRun::queued(made.id, "manual", false, now())).await?);
        }
        let shown = Json(source::show(&made, last.as_ref()));
        Ok((StatusCode::CREATED, shown).into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// All sources, by name, each with its last run.
#[utoipa::path(
    get, path = "/api/embeddings/sources",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 100, 100 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "asc (by name) or desc"),
    ),
    responses(
        (status = 200, description = "A list of sources", body = Object),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "The store is switched off"),
    )
)]
async fn list(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let shown = async {
        let page = Page::by_name().read(&parameters)?;
        let sources = opened(&parts)?;
        let mut data = Vec::new();
        for row in &sources.list("", MOST_SOURCES).await? {
            let last = sources.runs(row.id, (None, false), 1).await?;
            data.push(source::show(row, last.first()));
        }
        Ok(page.of(data, "id")?)
    };
    shown.await.unwrap_or_else(refused)
}

/// Changes a source: fields that are given are replaced, null takes one away. Another model, other
/// dimensions or another chunking makes a new index beside the one that answers, with the next run.
#[utoipa::path(
    patch, path = "/api/embeddings/sources/{id}",
    params(("id" = String, Path, description = "Its id or name")),
    request_body = Object,
    responses(
        (status = 200, description = "The source", body = Object),
        (status = 400, description = "A field that cannot be used; `param` names it"),
        (status = 404, description = "There is none"),
    )
)]
async fn change(State(parts): State<Parts>, Path(id): Path<String>, body: Bytes) -> Response {
    let done = async {
        let patch = json_of(&body)?;
        let sources = opened(&parts)?;
        let before = found(&sources, &id).await?;
        let after = source::redefine(&before, &patch, &parts.library.outbound, now()).await?;
        if !sources.update(&after).await? {
            return Err(taken(&after.name).into());
        }
        let last = sources.runs(after.id, (None, false), 1).await?;
        Ok(Json(source::show(&after, last.first())).into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// Deletes a source, its runs, its files and its index.
#[utoipa::path(
    delete, path = "/api/embeddings/sources/{id}",
    params(("id" = String, Path, description = "Its id or name")),
    responses(
        (status = 200, description = "It is gone; `documents` says how many went with it", body = Object),
        (status = 404, description = "There is none"),
    )
)]
async fn delete(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let done = async {
        let sources = opened(&parts)?;
        let row = found(&sources, &id).await?;
        // The index last: a search of a source that is not there finds nothing.
        sources.delete(row.id).await?;
        let documents = index(&parts)?.delete_source(&row.id.to_string()).await?;
        Ok(Json(json!({ "object": "embedding.source.deleted", "id": row.id, "deleted": true,
            "documents": documents }))
        .into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// Puts a run in line; one that waits already is that one.
#[utoipa::path(
    post, path = "/api/embeddings/sources/{id}/refresh",
    params(("id" = String, Path, description = "Its id or name")),
    request_body(content = Object, description = "Nothing, or {\"full\": true}: embeds everything again"),
    responses(
        (status = 202, description = "The run", body = Object),
        (status = 404, description = "There is none"),
    )
)]
async fn refresh(State(parts): State<Parts>, Path(id): Path<String>, body: Bytes) -> Response {
    let done = async {
        let full = wants_full(&body)?;
        let sources = opened(&parts)?;
        let row = found(&sources, &id).await?;
        let run = sources.enqueue(SourceRun::queued(row.id, "manual", full, now())).await?;
        Ok((StatusCode::ACCEPTED, Json(source::show_run(&run))).into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// The runs of a source, the newest first.
#[utoipa::path(
    get, path = "/api/embeddings/sources/{id}/runs",
    params(
        ("id" = String, Path, description = "Its id or name"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of runs", body = Object),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "There is no such source"),
    )
)]
async fn runs(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let shown = async {
        let page = Page::newest().read(&parameters)?;
        let after = match &page.after {
            Some(after) => {
                Some(Uuid::try_parse(after).map_err(|_| bad("after", "is no run's id"))?)
            }
            None => None,
        };
        let sources = opened(&parts)?;
        let row = found(&sources, &id).await?;
        let after = (after, page.ascending);
        let runs = sources.runs(row.id, after, page.limit + 1).await?;
        Ok(page.shown(runs.iter().map(source::show_run).collect(), "id"))
    };
    shown.await.unwrap_or_else(refused)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    files: Vec<File>,
    /// Whether files that are not among these go.
    #[serde(default)]
    replace: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    text: String,
}

/// Uploads Markdown, HTML or plain text to a source of the kind files, and refreshes it.
#[utoipa::path(
    post, path = "/api/embeddings/sources/{id}/files",
    params(("id" = String, Path, description = "Its id or name")),
    request_body(content = Object, description = "{\"files\": [{\"name\", \"text\"}], \"replace\": false}"),
    responses(
        (status = 202, description = "The run that takes them in", body = Object),
        (status = 400, description = "A file that cannot be read, or a source of another kind"),
        (status = 404, description = "There is no such source"),
        (status = 413, description = "More than 16 MiB at once"),
    )
)]
async fn upload(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let done = async {
        let body = whole(body)?;
        let how = r#"write {"files": [{"name": "a.md", "text": "…"}]}"#;
        let asked: Upload = serde_json::from_slice(&body)
            .map_err(|error| bad("files", &format!("{error}; {how}")))?;
        let sources = opened(&parts)?;
        let row = found(&sources, &id).await?;
        if row.kind != "files" {
            return Err(bad("id", "only a source of the kind files takes uploads").into());
        }
        if asked.files.is_empty() || asked.files.len() > MOST_FILES {
            return Err(bad("files", &format!("1 to {MOST_FILES} of them at once")).into());
        }
        let mut files = Vec::new();
        for file in asked.files {
            let read = read_file(&file.name, file.text.as_bytes());
            let (title, text) = read.map_err(|message| bad("files", &message))?;
            if file.name.is_empty() || file.name.len() > 500 {
                return Err(bad("files", "a name has 1 to 500 bytes").into());
            }
            files.push(SourceFile { name: file.name, title, text });
        }
        sources.put_files(row.id, &files, asked.replace, now()).await?;
        let run = sources.enqueue(SourceRun::queued(row.id, "manual", false, now())).await?;
        Ok((StatusCode::ACCEPTED, Json(source::show_run(&run))).into_response())
    };
    done.await.unwrap_or_else(refused)
}

/// Documents of the indexes that answer.
#[utoipa::path(
    get, path = "/api/embeddings/documents",
    params(
        ("source" = Option<String>, Query, description = "Only those of this source, by id or name"),
        ("state" = Option<String>, Query, description = "indexed, missing or deleted"),
        ("limit" = Option<u32>, Query, description = "Documents of a page"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "asc or desc"),
    ),
    responses(
        (status = 200, description = "A list of documents", body = Object),
        (status = 400, description = "A parameter that cannot be used"),
    )
)]
async fn documents(
    State(parts): State<Parts>,
    Query(mut parameters): Query<Vec<(String, String)>>,
) -> Response {
    let shown = async {
        let sources = opened(&parts)?;
        for (_, value) in parameters.iter_mut().filter(|(name, _)| name == "source") {
            *value = found(&sources, value).await?.id.to_string();
        }
        let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        match DocumentQuery::parse(parameters) {
            Ok(query) => Ok(Json(index(&parts)?.list(&query).await?).into_response()),
            Err(error) => Ok(bad_parameter(error)),
        }
    };
    shown.await.unwrap_or_else(refused)
}

/// Embeds all of a source again.
#[utoipa::path(
    post, path = "/api/embeddings/indexes/{alias}/reindex",
    params(("alias" = String, Path, description = "The source's name or id")),
    responses(
        (status = 202, description = "The run", body = Object),
        (status = 404, description = "There is no such source"),
    )
)]
async fn reindex(State(parts): State<Parts>, Path(alias): Path<String>) -> Response {
    refresh(State(parts), Path(alias), Bytes::from_static(br#"{"full": true}"#)).await
}

/// Lets the index that answered before answer again.
#[utoipa::path(
    post, path = "/api/embeddings/indexes/{alias}/rollback",
    params(("alias" = String, Path, description = "The source's name or id")),
    responses(
        (status = 200, description = "The index that answers now", body = Object),
        (status = 404, description = "There is no such source"),
        (status = 409, description = "There is no index of before"),
    )
)]
async fn rollback(State(parts): State<Parts>, Path(alias): Path<String>) -> Response {
    let done = async {
        let row = found(&opened(&parts)?, &alias).await?;
        match index(&parts)?.roll_back(&row.id.to_string()).await {
            Ok(live) => Ok(Json(json!({ "object": "embedding.index", "source": row.name,
                "generation": live.generation, "model": live.shape.model,
                "dimensions": live.shape.dimensions, "chunker": live.shape.chunker,
                "status": live.status.as_str() }))
            .into_response()),
            Err(StoreError::Refused(message)) => {
                Err(ApiError::new(409, "invalid_request_error", "nothing_to_roll_back", message)
                    .into())
            }
            Err(error) => Err(Refusal::Store(error)),
        }
    };
    done.await.unwrap_or_else(refused)
}

/// The passages of a source that fit a question best.
#[utoipa::path(
    post, path = "/api/search",
    request_body(content = Object, description = "query, source; top_k (6), filter {url_prefix, metadata}"),
    responses(
        (status = 200, description = "A list of passages; `degraded` where only words were compared", body = Object),
        (status = 400, description = "A field that cannot be used; `param` names it"),
        (status = 404, description = "There is no such source, or the store is switched off"),
        (status = 409, description = "It has no index yet"),
    )
)]
async fn search(State(parts): State<Parts>, body: Bytes) -> Response {
    let Some(searcher) = parts.library.searcher.get() else { return store_off() };
    match searcher.answer(&body, None).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refused(error.into()),
    }
}

/// Firecrawl's webhooks. What they say is not believed: a page that has changed brings a run, whose
/// own look decides. Signed by the cloud, or with the key as a bearer from one's own server.
#[utoipa::path(
    post, path = "/hooks/firecrawl/{source_id}",
    params(("source_id" = String, Path, description = "The source's id")),
    responses(
        (status = 200, description = "Heard", body = Object),
        (status = 401, description = "Neither signed nor with the secret"),
    )
)]
async fn hint(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let done = async {
        let body = whole(body)?;
        if !is_firecrawls(&parts, &headers, &body) {
            let message = "The request is neither signed by Firecrawl nor has the secret.";
            return Err(
                ApiError::new(401, "invalid_request_error", "invalid_signature", message).into()
            );
        }
        let sources = opened(&parts)?;
        let row = found(&sources, &id).await?;
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let kind = told.get("type").and_then(Value::as_str).unwrap_or_default();
        let job = told.get("id").and_then(Value::as_str).unwrap_or_default();
        // What comes of our own crawl brings no other one.
        let ours = sources.began_job(row.id, &format!("crawl/{job}")).await?
            || sources.began_job(row.id, &format!("batch/scrape/{job}")).await?;
        let news = matches!(kind, "monitor.page" | "monitor.check.completed" | "crawl.completed");
        if news && !ours {
            sources.enqueue(SourceRun::queued(row.id, "webhook", false, now())).await?;
        }
        Ok(Json(json!({ "received": true })).into_response())
    };
    done.await.unwrap_or_else(refused)
}

fn is_firecrawls(parts: &Parts, headers: &HeaderMap, body: &[u8]) -> bool {
    let Some(secret) = &parts.library.firecrawl_secret else { return false };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(signature) = text("x-firecrawl-signature").and_then(|s| s.strip_prefix("sha256=")) {
        let bytes: Option<Vec<u8>> = (0..signature.len() / 2)
            .map(|at| u8::from_str_radix(signature.get(2 * at..2 * at + 2)?, 16).ok())
            .collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        return bytes.is_some_and(|bytes| hmac::verify(&key, body, &bytes).is_ok());
    }
    carries(headers, secret)
}

fn json_of(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request("invalid_json", format!("The body is no JSON: {error}."))
    })
}

fn wants_full(body: &[u8]) -> Result<bool, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(false);
    }
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    match asked.get("full") {
        Some(Value::Bool(full)) => Ok(*full),
        None if asked.as_object().is_some_and(serde_json::Map::is_empty) => Ok(false),
        _ => Err(bad("full", "it has to be true or false, and nothing else stands beside it")),
    }
}

async fn found(sources: &Sources, named: &str) -> Result<Source, Refusal> {
    let missing = || {
        let message = format!("There is no source `{named}`.");
        ApiError::new(404, "invalid_request_error", "source_not_found", message)
    };
    sources.find(named).await?.ok_or_else(|| missing().into())
}

fn opened(parts: &Parts) -> Result<Sources, Refusal> {
    Ok(parts.library.searcher.get().map(|searcher| searcher.sources.clone()).ok_or_else(off)?)
}

fn index(parts: &Parts) -> Result<&Documents, Refusal> {
    Ok(parts.library.searcher.get().map(|searcher| &searcher.documents).ok_or_else(off)?)
}

fn off() -> ApiError {
    let message = "`store` is off: this gateway keeps no documents.";
    ApiError::new(404, "invalid_request_error", "store_off", message)
}

fn taken(name: &str) -> ApiError {
    let message = format!("There is a source `{name}` already.");
    ApiError::new(409, "invalid_request_error", "name_taken", message).param("name")
}

fn bad(field: &str, message: &str) -> ApiError {
    ApiError::bad_request("invalid_parameter", format!("`{field}`: {message}."))
        .param(field.to_owned())
}
