//! The policy from outside: files checked before they are used, and decisions explained.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::limits::Limits;
use crate::openai::error::ApiError;
use crate::policy;
use crate::policy::AssumedKey;
use crate::policy::CaseResult;
use crate::policy::Checked;
use crate::policy::Diagnostic;
use crate::policy::Explanation;
use crate::policy::Live;
use crate::policy::Policy;
use crate::policy::PolicyHandle;
use crate::policy::Scenario;
use crate::policy::Settings;
use crate::policy::Sources;

use super::Parts;
use super::reply;

/// Largest body: a folder is read into memory before it is checked.
pub(super) const LARGEST_BODY: usize = 16 << 20;
/// Most files of a folder.
const MOST_FILES: usize = 1_000;
/// Largest file, and one byte: what is longer is refused as a policy file.
const LARGEST_FILE: u64 = (1 << 20) + 1;

/// Calls back with how the models of a policy are doing now.
pub type Figures = Arc<dyn Fn(&Policy, &mut dyn FnMut(&dyn Live)) + Send + Sync>;

/// What the routes about policies use.
pub struct PolicyParts {
    /// The policy in force.
    pub policy: Arc<PolicyHandle>,
    /// What files that are sent in are checked against.
    pub settings: Arc<Settings>,
    /// How the models are doing.
    pub figures: Figures,
    /// What is used of its limits.
    pub limits: Arc<Limits>,
}

/// Policy files by name; those of tests begin with `tests/`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Files {
    files: BTreeMap<String, String>,
}

/// What a check says.
#[derive(Serialize, ToSchema)]
struct Validated {
    /// Whether a gateway would use these files.
    ok: bool,
    /// The revision that they would be.
    revision: String,
    /// Errors and warnings: severity, message, file, line, column, width, text, help, first.
    #[schema(value_type = Vec<Object>)]
    diagnostics: Vec<Diagnostic>,
    /// What became of each test: name, place, passed, why. Empty when an error kept them from being run.
    #[schema(value_type = Vec<Object>)]
    tests: Vec<CaseResult>,
}

/// A request that may come.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The request's body.
    #[schema(value_type = Object)]
    request: Box<RawValue>,
    /// chat/completions, responses, completions or embeddings; without it the body tells.
    #[serde(default)]
    endpoint: Option<String>,
    /// The client's headers.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Who calls: name, team, tags, budget_left_usd, budget_used.
    #[serde(default)]
    #[schema(value_type = Object)]
    key: AssumedKey,
}

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new()
        .routes(routes!(validate))
        .routes(routes!(explain))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// Checks policy files and runs their tests, without using them.
#[utoipa::path(
    post,
    path = "/api/policies/validate",
    request_body(
        description = "Files by name as JSON, or the folder as a tar file.",
        content((Files = "application/json"), (Vec<u8> = "application/x-tar"))
    ),
    responses((status = 200, body = Validated), (status = 400), (status = 413), (status = 415))
)]
async fn validate(
    State(parts): State<Parts>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(move || {
        let body = whole(body)?;
        let files = match content_type(&headers).as_str() {
            "" | "application/json" => of_json(&body)?,
            "application/x-tar" => of_tar(&body)?,
            other => return Err(unsupported(other)),
        };
        let sources = Sources::of(files);
        let settings = Settings { today: Some(today()), ..(*parts.settings).clone() };
        let (Checked { policy, diagnostics, .. }, tested) = Policy::verify(&sources, &settings);
        let (ok, tests) = (policy.is_some(), tested.cases);
        Ok(Json(Validated { ok, revision: sources.revision(), diagnostics, tests }))
    })
    .await
}

/// Says where a request would go under the policy in force, and why.
#[utoipa::path(
    post,
    path = "/api/route/explain",
    request_body = Question,
    responses((status = 200, description = "The decision: policy, asked, route, model, upstream, fallback, refused, every rule that was looked at with its outcome and inputs, every candidate with its expected cost.", body = Object), (status = 400), (status = 413))
)]
async fn explain(State(parts): State<Parts>, body: Result<Bytes, BytesRejection>) -> Response {
    answer(move || {
        let question: Question = serde_json::from_slice(&whole(body)?).map_err(invalid_json)?;
        let scenario = scenario(question)?;
        let policy = parts.policy.current();
        let mut answer = Err(ApiError::new(500, "api_error", "internal_error", "No figures."));
        (parts.figures)(&policy, &mut |live| {
            answer = scenario.decide(&policy, live).map(|(explanation, _)| explanation);
        });
        let explanation: Explanation = answer?;
        Ok(Json(explanation))
    })
    .await
}

/// Answers with what `work` gives. It runs off the reactor: checking a folder and counting a long
/// prompt take milliseconds.
async fn answer<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<Json<T>, ApiError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(json)) => (StatusCode::OK, json).into_response(),
        Ok(Err(error)) => reply(&error),
        Err(_) => {
            let message = "The gateway could not answer; its log says why.";
            reply(&ApiError::new(500, "api_error", "internal_error", message))
        }
    }
}

pub(super) fn whole(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejected| match rejected.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            413,
            "invalid_request_error",
            "request_too_large",
            format!("The body is larger than {} MiB. Send less.", LARGEST_BODY >> 20),
        ),
        _ => ApiError::bad_request("invalid_request", "The body could not be read to its end."),
    })
}

/// The kind of body without its parameters, such as a charset.
fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

fn unsupported(kind: &str) -> ApiError {
    let message = format!("The body is `{kind}`. Send application/json or application/x-tar.");
    ApiError::new(415, "invalid_request_error", "unsupported_media_type", message)
}

pub(super) fn invalid_json(error: serde_json::Error) -> ApiError {
    ApiError::bad_request("invalid_json", format!("The body cannot be used: {error}."))
}

fn of_json(body: &[u8]) -> Result<BTreeMap<String, String>, ApiError> {
    let Files { files } = serde_json::from_slice(body).map_err(invalid_json)?;
    as_folder(files)
}

/// Files by the names that they have in a policy folder.
pub(super) fn as_folder(
    files: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ApiError> {
    let mut named = BTreeMap::new();
    for (path, text) in files {
        let Some(name) = file_name(Path::new(&path)) else {
            let message = format!("`{path}` is no *.yaml file.");
            return Err(ApiError::bad_request("invalid_file", message).param("files"));
        };
        add(&mut named, name, text)?;
    }
    Ok(named)
}

fn of_tar(body: &[u8]) -> Result<BTreeMap<String, String>, ApiError> {
    let broken = |error: std::io::Error| {
        ApiError::bad_request("invalid_tar", format!("The tar file cannot be read: {error}."))
    };
    let mut named = BTreeMap::new();
    for entry in tar::Archive::new(body).entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        // As a folder on disk: whatever else lies in it is not read.
        let (true, Some(name)) = (entry.header().entry_type().is_file(), file_name(&path)) else {
            continue;
        };
        let mut bytes = Vec::new();
        entry.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(broken)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            let message = format!("`{}` is not UTF-8; save it as UTF-8.", path.display());
            ApiError::bad_request("invalid_file", message)
        })?;
        add(&mut named, name, text)?;
    }
    Ok(named)
}

fn add(named: &mut BTreeMap<String, String>, name: String, text: String) -> Result<(), ApiError> {
    if named.len() == MOST_FILES {
        let message = format!("There are more than {MOST_FILES} files. Send fewer.");
        return Err(ApiError::bad_request("too_many_files", message));
    }
    if named.contains_key(&name) {
        let message = format!("`{name}` is there twice. Send one folder.");
        return Err(ApiError::bad_request("duplicate_file", message));
    }
    named.insert(name, text);
    Ok(())
}

/// A file's name in its policy folder, wherever that folder lies; `None` for what the folder's
/// reader leaves out.
fn file_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
    if !yaml || name.starts_with(['.', '#']) {
        return None;
    }
    let folder = path.parent().and_then(Path::file_name);
    Some(if folder.is_some_and(|folder| folder == "tests") {
        format!("tests/{name}")
    } else {
        name.to_owned()
    })
}

fn scenario(question: Question) -> Result<Scenario, ApiError> {
    let invalid = |param, message: String| {
        ApiError::bad_request("invalid_value", format!("{message}.")).param(param)
    };
    let endpoint = question.endpoint.as_deref().map(policy::endpoint_named).transpose();
    let pairs = question.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(Scenario {
        body: question.request.get().as_bytes().to_vec(),
        endpoint: endpoint.map_err(|message| invalid("endpoint", message))?,
        headers: policy::headers(pairs).map_err(|message| invalid("headers", message))?,
        key: question.key,
        unix_s: now_s(),
        ..Scenario::default()
    })
}

/// Seconds since 1970, UTC.
fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Days since 1970-01-01, UTC.
pub(super) fn today() -> i64 {
    i64::try_from(now_s() / 86_400).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Option<String> {
        file_name(Path::new(path))
    }

    #[test]
    fn a_folder_may_lie_anywhere_in_a_tar_file() {
        assert_eq!(name("./routing.yaml").as_deref(), Some("routing.yaml"));
        assert_eq!(name("policies/routing.yml").as_deref(), Some("routing.yml"));
        assert_eq!(name("a/policies/tests/x.yaml").as_deref(), Some("tests/x.yaml"));
        assert_eq!(name("tests/x.yaml").as_deref(), Some("tests/x.yaml"));
        for other in ["schema.json", ".draft.yaml", "tests/", "README", "#a.yaml"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn a_tar_file_is_read_with_its_long_names() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}/tests/x.yaml", "a".repeat(150));
        for (path, text) in
            [("./routing.yaml", "routes: []"), (&long, "tests: []"), ("x.json", "{}")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        let files = of_tar(&builder.into_inner().unwrap()).unwrap();
        let expected = [("routing.yaml", "routes: []"), ("tests/x.yaml", "tests: []")];
        assert!(files.iter().map(|(name, text)| (name.as_str(), text.as_str())).eq(expected));
    }

    #[test]
    fn what_is_no_tar_file_is_an_error() {
        assert_eq!(of_tar(&[7; 2_000]).unwrap_err().code, "invalid_tar");
        assert!(of_tar(&[0; 1_024]).unwrap().is_empty());
    }
}
