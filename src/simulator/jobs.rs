//! `/v1/fine_tuning/jobs`: jobs whose state is a function of the time they have run.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::simulator::call::{Call, JsonCall};
use crate::simulator::files::{Content, StoredFile, stored};
use crate::simulator::job_story;
use crate::simulator::pages::{Listing, page};
use crate::simulator::refusal::Refusal;
use crate::simulator::text;
use crate::simulator::training::Training;
use crate::simulator::validate;
use crate::simulator::world::{World, locked, now};

/// Steps of a job: validating, queued, then running for two.
const STEPS_TO_QUEUED: u32 = 1;
const STEPS_TO_RUNNING: u32 = 2;
const STEPS_TO_END: u32 = 4;

/// Families that can be tuned, more generously than at OpenAI.
const TUNABLE: [&str; 9] =
    ["gpt-4", "gpt-3.5", "gpt-5", "gpt-6", "o4-mini", "babbage-", "davinci-", "ft:", "house-"];

/// A fine-tune job. Its state is not stored but follows from `ran`, `since` and `ended`.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) created_at: u64,
    request: Map<String, Value>,
    pub(super) model: String,
    pub(super) training: Training,
    step: Duration,
    /// The last status, in place of `succeeded`.
    end: String,
    /// Time run before the last pause.
    ran: Duration,
    /// Running since; absent while paused.
    since: Option<Instant>,
    cancelled: bool,
    settled: bool,
}

impl Job {
    fn steps(&self) -> u32 {
        let ran = self.ran + self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let steps = ran.as_micros() / self.step.as_micros().max(1);
        u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// The status now.
    pub(super) fn status(&self) -> &str {
        let steps = self.steps();
        match &self.training.fault {
            _ if self.cancelled => "cancelled",
            Some(_) if steps >= STEPS_TO_QUEUED => "failed",
            _ if self.since.is_none() => "paused",
            _ if steps >= STEPS_TO_END => &self.end,
            _ if steps >= STEPS_TO_RUNNING => "running",
            _ if steps >= STEPS_TO_QUEUED => "queued",
            _ => "validating_files",
        }
    }

    fn ended(&self) -> bool {
        is_end(self.status())
    }

    /// When the job ends if nobody stops it: near enough for one that was stopped.
    fn finished_at(&self) -> u64 {
        self.created_at + (self.step * STEPS_TO_END).as_secs()
    }

    /// How far the job came, for its events: 0 validating to 3 ended.
    pub(super) fn stage(&self) -> u8 {
        match self.steps() {
            STEPS_TO_END.. => 3,
            STEPS_TO_RUNNING.. => 2,
            STEPS_TO_QUEUED.. => 1,
            _ => 0,
        }
    }

    /// `ft:<base>:<organisation>:<suffix>:<id>`.
    pub(super) fn tuned_name(&self) -> String {
        let suffix = self.request.get("suffix").and_then(Value::as_str).unwrap_or_default();
        let id = text::hash(self.id.as_bytes());
        let base = self
            .model
            .strip_prefix("ft:")
            .map_or(self.model.as_str(), |name| name.split(':').next().unwrap_or_default());
        format!("ft:{base}:simulator:{suffix}:{:08x}", id & 0xffff_ffff)
    }

    /// The id of the metrics file that a finished job leaves.
    fn result_file(&self) -> String {
        self.id.replacen("ftjob-", "file-result-", 1)
    }

    fn error(&self, status: &str) -> Value {
        match (&self.training.fault, status) {
            (Some(fault), "failed") => json!({
                "code": "invalid_training_file", "param": "training_file", "message": fault,
            }),
            (None, "failed") => json!({
                "code": "server_error", "param": null, "message": "The job failed.",
            }),
            // A healthy job's error is an object of nulls: one of the API's quirks.
            _ => json!({"code": null, "param": null, "message": null}),
        }
    }

    fn hyperparameters(&self) -> Value {
        let known = self.stage() > 0;
        let (epochs, auto) = (json!(self.training.epochs), json!("auto"));
        json!({
            "n_epochs": if known { epochs } else { auto.clone() },
            "batch_size": if known { json!(1) } else { auto.clone() },
            "learning_rate_multiplier": if known { json!(1.8) } else { auto },
        })
    }

    pub(super) fn to_value(&self) -> Value {
        let field = |name: &str| self.request.get(name).cloned().unwrap_or(Value::Null);
        // Asked once: time goes on, and all fields have to tell of one moment.
        let status = self.status();
        let succeeded = status == "succeeded";
        let made = succeeded.then(|| self.tuned_name());
        let trained = succeeded.then_some(self.training.tokens * self.training.epochs);
        let results: Vec<String> = succeeded.then(|| self.result_file()).into_iter().collect();
        let hyperparameters = self.hyperparameters();
        let supervised = json!({
            "type": "supervised", "supervised": {"hyperparameters": hyperparameters},
        });
        json!({
            "object": "fine_tuning.job", "id": self.id, "model": self.model,
            "created_at": self.created_at, "finished_at": is_end(status).then(|| self.finished_at()),
            "fine_tuned_model": made, "organization_id": "org-simulator",
            "result_files": results, "status": status,
            "validation_file": field("validation_file"), "training_file": field("training_file"),
            "hyperparameters": hyperparameters, "trained_tokens": trained, "error": self.error(status),
            "user_provided_suffix": field("suffix"),
            "seed": self.request.get("seed").cloned().unwrap_or(json!(0)),
            "estimated_finish": null, "integrations": [],
            "method": self.request.get("method").cloned().unwrap_or(supervised),
            "metadata": field("metadata"),
        })
    }
}

/// Leaves the model and the metrics file of every job that succeeded since the last look.
pub(super) fn settle_all(world: &World) {
    let mut done = Vec::new();
    {
        let mut jobs = locked(&world.jobs);
        for id in jobs.ids() {
            let Some(job) = jobs.find_mut(&id) else { continue };
            if !job.settled && job.status() == "succeeded" {
                job.settled = true;
                done.push(job.clone());
            }
        }
    }
    for job in done {
        let name = job.tuned_name();
        let model = json!({
            "id": name, "object": "model", "created": now(), "owned_by": "org-simulator",
            "shutdown_date": null,
        });
        locked(&world.tuned).put(name, 64, model);
        let metrics = Content::of(Bytes::from(job_story::metrics_csv()));
        let file = StoredFile {
            id: job.result_file(),
            filename: "step_metrics.csv".to_owned(),
            purpose: "fine-tune-results".to_owned(),
            created_at: now(),
            content: metrics,
        };
        locked(&world.files).put(file.id.clone(), file.content.held(), file);
    }
}

pub(super) async fn create(
    State(world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let model = base_model(&object)?;
    let training = training_file(&world, &object, "training_file")?;
    if validate::given(&object, "validation_file").is_some() {
        training_file(&world, &object, "validation_file")?;
    }
    check_suffix(&object)?;
    let knobs = &request.call.knobs;
    let job = Job {
        id: world.id("ftjob-"),
        created_at: now(),
        model,
        training: Training::of(&training, asked_epochs(&object)),
        request: object,
        step: knobs.job_step(),
        end: knobs.job_end.clone().unwrap_or_else(|| "succeeded".to_owned()),
        ran: Duration::ZERO,
        since: Some(Instant::now()),
        cancelled: false,
        settled: false,
    };
    let value = job.to_value();
    locked(&world.jobs).put(job.id.clone(), request.body.len(), job);
    Ok(request.call.json(value))
}

/// The model to tune: known, and of a family that can be tuned.
fn base_model(request: &Map<String, Value>) -> Result<String, Refusal> {
    let model = validate::model(request)?;
    if TUNABLE.iter().any(|family| model.starts_with(family)) {
        return Ok(model.to_owned());
    }
    let message = format!("Model {model} is not available for fine-tuning or does not exist.");
    Err(Refusal::bad(message).param("model").code("model_not_available"))
}

fn asked_epochs(request: &Map<String, Value>) -> Option<u64> {
    let old = request.get("hyperparameters").and_then(|all| all["n_epochs"].as_u64());
    let method = request.get("method").unwrap_or(&Value::Null);
    let kind = method["type"].as_str().unwrap_or("supervised");
    old.or(method[kind]["hyperparameters"]["n_epochs"].as_u64())
}

fn training_file(
    world: &World,
    request: &Map<String, Value>,
    field: &str,
) -> Result<StoredFile, Refusal> {
    let id = validate::text(request, field)?;
    let file = stored(world, id).map_err(|_| {
        Refusal::bad(format!("invalid {field}: {id}")).param(field).code("invalid_file")
    })?;
    if file.purpose == "fine-tune" {
        return Ok(file);
    }
    let message =
        format!("File '{id}' has purpose '{}', but must have purpose 'fine-tune'.", file.purpose);
    Err(Refusal::bad(message).param(field).code("invalid_file_purpose"))
}

fn check_suffix(request: &Map<String, Value>) -> Result<(), Refusal> {
    let suffix = validate::given(request, "suffix").and_then(Value::as_str);
    if suffix.is_none_or(|suffix| (1..=64).contains(&suffix.len())) {
        return Ok(());
    }
    let message = "Invalid 'suffix': expected a string of 1 to 64 characters.";
    Err(Refusal::bad(message).param("suffix").code("string_above_max_length"))
}

fn not_found(id: &str) -> Refusal {
    Refusal::new(404, format!("Could not find fine tune: {id}"))
        .param("fine_tune_id")
        .code("fine_tune_not_found")
}

fn found(world: &World, id: &str) -> Result<Job, Refusal> {
    settle_all(world);
    locked(&world.jobs).find(id).cloned().ok_or_else(|| not_found(id))
}

pub(super) async fn list(
    State(world): State<Arc<World>>,
    Query(query): Query<Vec<(String, String)>>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    settle_all(&world);
    let jobs = locked(&world.jobs)
        .iter()
        .filter(|job| has_metadata(job, &query))
        .map(Job::to_value)
        .collect();
    Ok(call.json(page(jobs, &Listing::of(&query, 20)?)?))
}

/// `metadata[key]=value` in the query keeps only jobs that carry it.
fn has_metadata(job: &Job, query: &[(String, String)]) -> bool {
    query.iter().all(|(name, wanted)| {
        let key = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']'));
        let carried = job.request.get("metadata");
        key.is_none_or(|key| carried.is_some_and(|all| all[key] == wanted.as_str()))
    })
}

pub(super) async fn read(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    Ok(call.json(found(&world, &id)?.to_value()))
}

pub(super) async fn events(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    let events = job_story::events(&found(&world, &id)?);
    Ok(call.json(page(events, &Listing::of(&query, 20)?)?))
}

pub(super) async fn checkpoints(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    let checkpoints = job_story::checkpoints(&found(&world, &id)?);
    Ok(call.json(page(checkpoints, &Listing::of(&query, 10)?)?))
}

pub(super) async fn cancel(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    change(&world, &id, &call, |job| job.cancelled = true)
}

pub(super) async fn pause(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    change(&world, &id, &call, |job| {
        job.ran += job.since.take().map_or(Duration::ZERO, |since| since.elapsed());
    })
}

pub(super) async fn resume(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    change(&world, &id, &call, |job| {
        job.since.get_or_insert_with(Instant::now);
    })
}

/// Changes a job that has not ended.
fn change(
    world: &World,
    id: &str,
    call: &Call,
    change: impl FnOnce(&mut Job),
) -> Result<Response<Body>, Refusal> {
    let mut jobs = locked(&world.jobs);
    let job = jobs.find_mut(id).ok_or_else(|| not_found(id))?;
    if job.ended() {
        let message = format!("Job {id} has already ended: its status is {}.", job.status());
        return Err(Refusal::bad(message).code("invalid_job_state"));
    }
    change(job);
    Ok(call.json(job.to_value()))
}

fn is_end(status: &str) -> bool {
    matches!(status, "succeeded" | "failed" | "cancelled")
}
