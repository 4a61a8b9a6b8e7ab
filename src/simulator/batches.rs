//! `/v1/batches`: the requests of a file, answered into another file.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::openai::usage::Usage;
use crate::simulator::call::{Call, JsonCall};
use crate::simulator::chat;
use crate::simulator::completions;
use crate::simulator::draft::responses_usage;
use crate::simulator::embeddings;
use crate::simulator::files::{Content, add, stored};
use crate::simulator::knobs::Knobs;
use crate::simulator::moderations;
use crate::simulator::pages::{Listing, page};
use crate::simulator::refusal::Refusal;
use crate::simulator::responses;
use crate::simulator::validate;
use crate::simulator::world::{World, locked, now};

/// A batch is answered within this time, says OpenAI.
const WINDOW_S: u64 = 86_400;
/// Most requests of one batch.
const MAX_REQUESTS: usize = 50_000;

const ENDPOINTS: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
];

/// A batch. It is `in_progress` for two steps, then its requests are answered all at once, when
/// somebody looks.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    id: String,
    request: Map<String, Value>,
    created_at: u64,
    began: Instant,
    step: Duration,
    lines: usize,
    model: Option<String>,
    state: Progress,
}

#[derive(Clone, Debug)]
enum Progress {
    Waiting,
    Running,
    Completed(Box<Outcome>),
    Failed(Value),
    Cancelled(u64),
}

/// What the answered requests came to.
#[derive(Clone, Debug, Default)]
struct Outcome {
    completed_at: u64,
    output: String,
    errors: String,
    output_file: Option<String>,
    error_file: Option<String>,
    completed: usize,
    failed: usize,
    usage: Usage,
}

impl Batch {
    fn status(&self) -> &'static str {
        let ran = self.began.elapsed();
        match self.state {
            Progress::Completed(_) => "completed",
            Progress::Failed(_) => "failed",
            Progress::Cancelled(_) => "cancelled",
            Progress::Running => "finalizing",
            Progress::Waiting if ran < self.step => "validating",
            Progress::Waiting => "in_progress",
        }
    }

    fn is_due(&self) -> bool {
        matches!(self.state, Progress::Waiting) && self.began.elapsed() >= self.step * 3
    }

    fn to_value(&self) -> Value {
        let field = |name: &str| self.request.get(name).cloned().unwrap_or(Value::Null);
        let created = self.created_at;
        let none = Outcome::default();
        let (outcome, done) = match &self.state {
            Progress::Completed(outcome) => (&**outcome, Some(outcome.completed_at)),
            _ => (&none, None),
        };
        let failed = if let Progress::Failed(errors) = &self.state { errors } else { &Value::Null };
        let cancelled = if let Progress::Cancelled(at) = self.state { Some(at) } else { None };
        let began = (self.status() != "validating" && failed.is_null()).then_some(created);
        json!({
            "id": self.id, "object": "batch", "endpoint": field("endpoint"), "model": self.model,
            "errors": failed, "input_file_id": field("input_file_id"),
            "completion_window": field("completion_window"), "status": self.status(),
            "output_file_id": outcome.output_file, "error_file_id": outcome.error_file,
            "created_at": created, "in_progress_at": began, "expires_at": created + WINDOW_S,
            "finalizing_at": done, "completed_at": done,
            "failed_at": (!failed.is_null()).then_some(created), "expired_at": null,
            "cancelling_at": cancelled, "cancelled_at": cancelled,
            "request_counts": {
                "total": self.lines, "completed": outcome.completed, "failed": outcome.failed,
            },
            "usage": responses_usage(&outcome.usage), "metadata": field("metadata"),
        })
    }
}

pub(super) async fn create(
    State(world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    check(&object)?;
    let input = validate::text(&object, "input_file_id")?;
    let file = stored(&world, input)?;
    let text = file.content.kept.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let fault = fault(&lines, validate::text(&object, "endpoint")?);
    let first: Value = lines.first().and_then(|l| serde_json::from_str(l).ok()).unwrap_or_default();
    let batch = Batch {
        id: world.id("batch_"),
        created_at: now(),
        began: Instant::now(),
        step: request.call.knobs.job_step(),
        lines: lines.len(),
        model: first["body"]["model"].as_str().map(str::to_owned),
        state: fault.map_or(Progress::Waiting, Progress::Failed),
        request: object,
    };
    let value = batch.to_value();
    locked(&world.batches).put(batch.id.clone(), request.body.len(), batch);
    Ok(request.call.json(value))
}

fn check(request: &Map<String, Value>) -> Result<(), Refusal> {
    validate::text(request, "input_file_id")?;
    let endpoint = validate::text(request, "endpoint")?;
    if !ENDPOINTS.contains(&endpoint) {
        let message = format!("Invalid value: '{endpoint}'. Supported values are: {ENDPOINTS:?}.");
        let message = message.replace('"', "'");
        return Err(Refusal::bad(message).param("endpoint").code("invalid_value"));
    }
    if validate::text(request, "completion_window")? != "24h" {
        let message = "Invalid value for 'completion_window': only '24h' is supported.";
        return Err(Refusal::bad(message).param("completion_window").code("invalid_value"));
    }
    Ok(())
}

/// The first line that cannot be run, as `errors` of a failed batch.
fn fault(lines: &[&str], endpoint: &str) -> Option<Value> {
    let error = |code: &str, message: &str, line: Option<usize>| {
        json!({"object": "list", "data": [
            {"code": code, "message": message, "param": null, "line": line},
        ]})
    };
    if lines.is_empty() {
        return Some(error("empty_file", "The input file has no requests.", None));
    }
    if lines.len() > MAX_REQUESTS {
        return Some(error("too_many_tasks", "A batch has at most 50000 requests.", None));
    }
    for (index, line) in lines.iter().enumerate() {
        let number = Some(index + 1);
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            let message = "This line is not parseable as valid JSON.";
            return Some(error("invalid_json_line", message, number));
        };
        if !line["custom_id"].is_string() {
            return Some(error("missing_required_parameter", "Missing custom_id.", number));
        }
        if line["url"] != endpoint {
            let message = "The URL provided for this request does not match the batch endpoint.";
            return Some(error("mismatched_url", message, number));
        }
    }
    None
}

/// Answers the requests of every batch that is due, also when the looker goes away meanwhile.
async fn answer_due(world: &Arc<World>) {
    let world = world.clone();
    let _ = tokio::spawn(async move { run_due(&world).await }).await;
}

/// A batch is taken by one looker only.
async fn run_due(world: &World) {
    let mut due = Vec::new();
    {
        let mut batches = locked(&world.batches);
        for id in batches.ids() {
            let Some(batch) = batches.find_mut(&id) else { continue };
            if batch.is_due() {
                due.push(batch.clone());
                batch.state = Progress::Running;
            }
        }
    }
    for batch in due {
        let outcome = run(world, &batch).await;
        if let Some(batch) = locked(&world.batches).find_mut(&batch.id) {
            batch.state = Progress::Completed(Box::new(outcome));
        }
    }
}

async fn run(world: &World, batch: &Batch) -> Outcome {
    let mut outcome = Outcome { completed_at: now(), ..Outcome::default() };
    let input = batch.request.get("input_file_id").and_then(Value::as_str).unwrap_or_default();
    let Ok(file) = stored(world, input) else { return outcome };
    let kept = file.content.kept.unwrap_or_default();
    for line in String::from_utf8_lossy(&kept).lines().filter(|line| !line.trim().is_empty()) {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        outcome.take(world, &line);
        // A long batch lets others in between its requests.
        tokio::task::yield_now().await;
    }
    let file = |name: &str, text: &mut String| {
        let text = std::mem::take(text);
        let content = Content::of(text.into());
        (content.size_bytes > 0).then(|| add(world, name, "batch_output", content).id)
    };
    outcome.output_file = file("batch_output.jsonl", &mut outcome.output);
    outcome.error_file = file("batch_errors.jsonl", &mut outcome.errors);
    outcome
}

impl Outcome {
    fn take(&mut self, world: &World, line: &Value) {
        let answer = answer(world, line);
        let (status, body) = match &answer {
            Ok(body) => (200, body.clone()),
            Err(refusal) => (refusal.status, refusal.to_value()),
        };
        let out = json!({
            "id": world.id("batch_req_"), "custom_id": line["custom_id"], "error": null,
            "response": {"status_code": status, "request_id": world.id("req_"), "body": body},
        });
        match answer {
            Ok(body) => {
                self.completed += 1;
                self.count(&body["usage"]);
                self.output.push_str(&format!("{out}\n"));
            }
            Err(_) => {
                self.failed += 1;
                self.errors.push_str(&format!("{out}\n"));
            }
        }
    }

    /// Adds a `usage` of either shape.
    fn count(&mut self, usage: &Value) {
        let either = |a: &str, b: &str| usage[a].as_u64().or(usage[b].as_u64()).unwrap_or(0);
        let part = |a: &str, b: &str, name: &str| {
            usage[a][name].as_u64().or(usage[b][name].as_u64()).unwrap_or(0)
        };
        let (inputs, outputs) = (
            ("prompt_tokens_details", "input_tokens_details"),
            ("completion_tokens_details", "output_tokens_details"),
        );
        self.usage.input += either("prompt_tokens", "input_tokens");
        self.usage.output += either("completion_tokens", "output_tokens");
        self.usage.cached_input += part(inputs.0, inputs.1, "cached_tokens");
        self.usage.reasoning += part(outputs.0, outputs.1, "reasoning_tokens");
    }
}

/// Answers one request as its endpoint would.
fn answer(world: &World, line: &Value) -> Result<Value, Refusal> {
    let knobs = Knobs { no_usage: false, ..world.knobs.clone() };
    let body = line["body"].as_object().ok_or_else(|| Refusal::missing("body"))?;
    match line["url"].as_str() {
        Some("/v1/responses") => responses::respond(world, &knobs, body),
        Some("/v1/completions") => completions::complete(world, &knobs, body),
        Some("/v1/moderations") => moderations::judge(world, body),
        Some("/v1/embeddings") => {
            let bytes = embeddings::embed(&knobs, body)?;
            Ok(serde_json::from_slice(&bytes).unwrap_or_default())
        }
        _ => chat::complete(world, &knobs, body).map(|completion| completion.to_value()),
    }
}

fn found(world: &World, id: &str) -> Result<Batch, Refusal> {
    let batch = locked(&world.batches).find(id).cloned();
    batch.ok_or_else(|| {
        Refusal::new(404, format!("No batch found with id '{id}'.")).param("batch_id")
    })
}

pub(super) async fn read(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    answer_due(&world).await;
    Ok(call.json(found(&world, &id)?.to_value()))
}

pub(super) async fn list(
    State(world): State<Arc<World>>,
    Query(query): Query<Vec<(String, String)>>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    answer_due(&world).await;
    let batches = locked(&world.batches).iter().map(Batch::to_value).collect();
    Ok(call.json(page(batches, &Listing::of(&query, 20)?)?))
}

pub(super) async fn cancel(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    found(&world, &id)?;
    let mut batches = locked(&world.batches);
    let Some(batch) = batches.find_mut(&id) else { return Err(Refusal::no_such("Batch", &id)) };
    if !matches!(batch.state, Progress::Waiting) {
        let message = format!("Cannot cancel a batch with status '{}'.", batch.status());
        return Err(Refusal::new(409, message));
    }
    batch.state = Progress::Cancelled(now());
    Ok(call.json(batch.to_value()))
}
