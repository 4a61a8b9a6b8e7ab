//! Moves fine-tune jobs on: takes what is due, does the next step at the trainer, writes it down.
//!
//! A step is written down before it is done wherever doing it twice would cost: a job that was
//! being submitted when its process died is looked for, not submitted again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::background::note;
use crate::store::Checkpoint;
use crate::store::Datasets;
use crate::store::JobEvent;
use crate::store::SplitFile;
use crate::store::StoreError;
use crate::store::TrainingJob;
use crate::store::TrainingQueue;
use crate::telemetry::metrics::Metrics;

use super::dataset::now;
use super::jobs;
use super::jobs::seconds;
use super::jobs::text;
use super::order;
use super::order::Refusal;
use super::trainer::Trainer;
use super::trainer::TrainerError;

const TICK: Duration = Duration::from_secs(1);
/// A gateway that is silent for so long has lost its job to others.
const LEASE_MS: i64 = 30_000;
const BEAT: Duration = Duration::from_secs(10);
/// Between two looks at a job that another trainer has.
const ELSEWHERE_MS: i64 = 300_000;
/// Jobs that one gateway moves on at the same time.
const AT_ONCE: usize = 4;
/// Tries to delete the files of a job that has ended.
const MOST_DELETIONS: i64 = 10;
/// Pages of events that are read at one look.
const MOST_PAGES: usize = 20;

/// Moves jobs on until it is dropped.
pub struct Poller {
    queue: TrainingQueue,
    datasets: Datasets,
    trainer: Trainer,
    metrics: Arc<Metrics>,
    owner: String,
    /// Longest pause between two looks, in milliseconds; the stand-in's jobs take no time.
    longest_pause: i64,
}

/// A job was taken over by somebody else meanwhile, or the store is away: nothing more is done.
enum Stop {
    Lost,
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Poller {
    /// For the jobs of a store. `longest_pause` shortens the pauses between looks.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn new(
        datasets: Datasets,
        trainer: Trainer,
        metrics: Arc<Metrics>,
        longest_pause: Option<Duration>,
    ) -> Result<Self, StoreError> {
        let longest_pause = longest_pause.and_then(|pause| i64::try_from(pause.as_millis()).ok());
        Ok(Self {
            queue: TrainingQueue::of(datasets.database())?,
            datasets,
            trainer,
            metrics,
            owner: Uuid::now_v7().to_string(),
            longest_pause: longest_pause.unwrap_or(i64::MAX),
        })
    }

    /// Looks every second for what is due.
    pub async fn run(self) {
        let (this, room) = (Arc::new(self), Arc::new(Semaphore::new(AT_ONCE)));
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            if let Err(error) = note(Self::look(&this, &room).await) {
                tracing::debug!(%error, "fine-tune jobs cannot be looked for");
            }
        }
    }

    async fn look(this: &Arc<Self>, room: &Arc<Semaphore>) -> Result<(), StoreError> {
        this.metrics.training_jobs(&this.queue.counts(now()).await?);
        this.metrics.datasets(&this.datasets.counts().await?);
        while let Ok(place) = Arc::clone(room).try_acquire_owned() {
            let now = now();
            let Some(job) = this.queue.claim(&this.owner, now, now + LEASE_MS).await? else {
                break;
            };
            let this = Arc::clone(this);
            tokio::spawn(async move {
                this.attend(job).await;
                drop(place);
            });
        }
        Ok(())
    }

    /// Does the next step of a job, as long as it is ours.
    async fn attend(&self, job: TrainingJob) {
        let id = job.job_id;
        tokio::select! {
            done = self.step(job) => match done {
                Ok(()) => {}
                // Whoever has it now goes on.
                Err(Stop::Lost) => tracing::debug!(job = %id, "a fine-tune job was changed meanwhile"),
                Err(Stop::Store(error)) => tracing::warn!(job = %id, %error, "a fine-tune job waits"),
            },
            () = self.lose(id) => tracing::warn!(job = %id, "a fine-tune job went to another gateway"),
        }
    }

    /// Keeps the lease; returns once it is somebody else's.
    async fn lose(&self, id: Uuid) {
        loop {
            tokio::time::sleep(BEAT).await;
            match self.queue.renew(id, &self.owner, now() + LEASE_MS).await {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => tracing::debug!(job = %id, %error, "a lease cannot be renewed"),
            }
        }
    }

    async fn step(&self, mut job: TrainingJob) -> Result<(), Stop> {
        let before = job.clone();
        if self.is_elsewhere(&job) {
            let TrainingJob { provider_base_url, .. } = &job;
            let reason =
                format!("it is at {provider_base_url}, which is not this gateway's trainer");
            job.status_reason = Some(reason);
            job.next_poll_at = Some(now() + ELSEWHERE_MS);
            return self.settle(&before, job, None).await;
        }
        let handled = self.advance(&mut job).await?;
        self.settle(&before, job, handled.as_deref()).await
    }

    /// Does what the status asks for; returns the wish that was granted.
    async fn advance(&self, job: &mut TrainingJob) -> Result<Option<String>, Stop> {
        let wish = job.wish.clone();
        match job.status.as_str() {
            "pending" | "uploading" => match wish.as_deref() {
                Some("cancel") => jobs::end(job, "cancelled", None, now()),
                // Nothing to pause yet.
                Some(_) => job.status_reason = Some("it is not at the trainer yet".to_owned()),
                None => self.submit(job).await?,
            },
            // Whoever submitted it did not live to see the answer.
            "submitting" => {
                let died = "the gateway stopped while it submitted".to_owned();
                jobs::not_made(job, &TrainerError::Unknown(died), now());
                return Ok(None);
            }
            "submit_unknown" => {
                self.look_for(job).await;
                return Ok(None);
            }
            "succeeded" | "failed" | "cancelled" => self.finish(job).await?,
            _ => return self.poll(job).await,
        }
        Ok(wish)
    }

    /// Whether something of it is at another trainer than ours: a setting was changed meanwhile. The
    /// stand-in is somewhere else each time.
    fn is_elsewhere(&self, job: &TrainingJob) -> bool {
        let at_trainer = job.provider_job_id.is_some() || job.training_file_id.is_some();
        let simulated = self.longest_pause < i64::MAX;
        at_trainer && !simulated && job.provider_base_url != self.trainer.place.base_url
    }

    /// Writes down what has changed, and gives the job back.
    async fn settle(
        &self,
        before: &TrainingJob,
        mut job: TrainingJob,
        handled: Option<&str>,
    ) -> Result<(), Stop> {
        let soonest = now().saturating_add(self.longest_pause);
        job.next_poll_at = job.next_poll_at.map(|next| next.min(soonest));
        let same = TrainingJob { next_poll_at: before.next_poll_at, ..job.clone() };
        if same == *before && handled.is_none() {
            return Ok(self.queue.release(&job, &self.owner, job.next_poll_at).await?);
        }
        if before.status != job.status {
            let TrainingJob { job_id, status, status_reason, .. } = &job;
            tracing::info!(job = %job_id, status, reason = status_reason, "a fine-tune job moved on");
        }
        self.save(&mut job, handled, false).await
    }

    async fn save(
        &self,
        job: &mut TrainingJob,
        handled: Option<&str>,
        keeps: bool,
    ) -> Result<(), Stop> {
        job.updated_at = now();
        if self.queue.save(job, handled, keeps).await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// Uploads the files and makes the job; each step is written down before the next.
    async fn submit(&self, job: &mut TrainingJob) -> Result<(), Stop> {
        let Some(dataset) = self.datasets.find(&job.dataset_id.to_string()).await? else {
            gone(job);
            return Ok(());
        };
        let again = job.status == "uploading";
        "uploading".clone_into(&mut job.status);
        job.provider.clone_from(&self.trainer.place.name);
        job.provider_base_url.clone_from(&self.trainer.place.base_url);
        self.save(job, None, true).await?;
        for (side, file) in [("train", &dataset.train), ("validation", &dataset.validation)] {
            let known =
                if side == "train" { &job.training_file_id } else { &job.validation_file_id };
            let (None, Some(file)) = (known, file.as_ref().filter(|file| file.rows > 0)) else {
                continue;
            };
            match self.upload(job.job_id, side, file, again).await {
                Ok(Some(id)) if side == "train" => job.training_file_id = Some(id),
                Ok(Some(id)) => job.validation_file_id = Some(id),
                Ok(None) => {
                    gone(job);
                    return Ok(());
                }
                Err(error) => {
                    jobs::not_sent(job, &error, now());
                    return Ok(());
                }
            }
            self.save(job, None, true).await?;
        }
        self.make(job).await
    }

    /// Makes the job at the trainer, once.
    async fn make(&self, job: &mut TrainingJob) -> Result<(), Stop> {
        "submitting".clone_into(&mut job.status);
        job.attempts += 1;
        job.submitted_at = Some(now());
        self.save(job, None, true).await?;
        match self.trainer.create(&request(job)).await {
            Ok(made) if jobs::adopt(job, &made, now()) => {}
            Ok(_) => {
                let odd = TrainerError::Unknown("the trainer's answer has no id".to_owned());
                jobs::not_made(job, &odd, now());
            }
            Err(error) => jobs::not_made(job, &error, now()),
        }
        Ok(())
    }

    /// Uploads a file under a name of its own, unless an upload before got through without an
    /// answer. `None` where the file is not in the object store.
    async fn upload(
        &self,
        job: Uuid,
        side: &str,
        file: &SplitFile,
        again: bool,
    ) -> Result<Option<String>, TrainerError> {
        let name = format!("weir-{job}-{side}.jsonl");
        if again && let Some(id) = self.trainer.file_named(&name).await? {
            return Ok(Some(id));
        }
        let (Some(key), Some(objects)) = (&file.key, self.datasets.objects()) else {
            return Ok(None);
        };
        let read = objects.read(key).await;
        match read.map_err(|error| TrainerError::Unsent(error.to_string()))? {
            Some(pieces) => self.trainer.upload(&name, file.bytes, pieces).await.map(Some),
            None => Ok(None),
        }
    }

    /// Looks for a job whose making was not answered.
    async fn look_for(&self, job: &mut TrainingJob) {
        let (id, file) = (job.job_id.to_string(), job.training_file_id.clone().unwrap_or_default());
        match self.trainer.look_for(&id, &file).await {
            Ok(Some(found)) if jobs::adopt(job, &found, now()) => {
                tracing::info!(job = %job.job_id, "a fine-tune job without an answer was found");
            }
            Ok(_) => jobs::not_found_yet(job, now()),
            Err(error) => {
                job.status_reason = Some(error.to_string());
                job.next_poll_at = Some(now() + 60_000);
            }
        }
    }

    /// Does what was asked for, then looks how the job is; returns the wish that was granted.
    async fn poll(&self, job: &mut TrainingJob) -> Result<Option<String>, Stop> {
        let id = job.provider_job_id.clone().unwrap_or_default();
        let wish = job.wish.clone();
        let mut refused = None;
        if let Some(wish) = &wish {
            match self.trainer.change(&id, wish).await {
                Ok(_) => {}
                Err(error @ (TrainerError::Refused { .. } | TrainerError::Missing(_))) => {
                    refused = Some(format!("{wish}: {error}"));
                }
                // The wish stays.
                Err(error) => {
                    jobs::not_seen(job, &error, now());
                    return Ok(None);
                }
            }
        }
        match self.trainer.job(&id).await {
            Ok(seen) => {
                jobs::observe(job, &seen, now());
                if job.status_reason.as_deref() == Some(jobs::UNKNOWN_STATUS) {
                    self.metrics.unknown_training_status();
                }
                if let Err(error) = self.story(job, &id).await? {
                    tracing::debug!(job = %job.job_id, %error, "a fine-tune job's events are not told");
                }
            }
            Err(error) => jobs::not_seen(job, &error, now()),
        }
        if refused.is_some() && !job.has_ended() {
            job.status_reason = refused;
        }
        Ok(wish)
    }

    /// Takes over the events since the last look, and the checkpoints.
    async fn story(
        &self,
        job: &mut TrainingJob,
        id: &str,
    ) -> Result<Result<(), TrainerError>, Stop> {
        if matches!(job.status.as_str(), "validating_files" | "queued") {
            return Ok(Ok(()));
        }
        let events = match self.events(id, job.last_event_id.as_deref()).await {
            Ok(events) => events,
            Err(error) => return Ok(Err(error)),
        };
        self.queue.add_events(job.job_id, &events).await?;
        jobs::log(job, &events);
        if let Some(last) = events.last() {
            job.last_event_id = Some(last.id.clone());
        }
        match self.trainer.story(id, "checkpoints", None).await {
            Ok(page) => {
                let all = list(&page).iter().filter_map(checkpoint).collect::<Vec<_>>();
                self.queue.add_checkpoints(job.job_id, &all).await?;
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// The events after one that is known, the oldest first.
    async fn events(&self, id: &str, last: Option<&str>) -> Result<Vec<JobEvent>, TrainerError> {
        let mut events: Vec<JobEvent> = Vec::new();
        for _ in 0..MOST_PAGES {
            let after = events.last().map(|event| event.id.clone());
            let page = self.trainer.story(id, "events", after.as_deref()).await?;
            let told = list(&page).iter().filter_map(event).collect::<Vec<_>>();
            let known = told.iter().position(|event| Some(event.id.as_str()) == last);
            let more = known.is_none() && page.get("has_more") == Some(&Value::Bool(true));
            let fresh = known.unwrap_or(told.len());
            let more = more && fresh > 0;
            events.extend(told.into_iter().take(fresh));
            if !more {
                break;
            }
        }
        events.reverse();
        Ok(events)
    }

    /// What is left to do for a job that has ended. All of it may be done twice.
    async fn finish(&self, job: &mut TrainingJob) -> Result<(), Stop> {
        if jobs::deserves_retry(job) {
            match order::retry(&self.queue, job).await {
                Ok((again, _)) => {
                    tracing::info!(job = %job.job_id, again = %again.job_id, "the trainer failed by its own fault: the job is tried once more");
                }
                Err(Refusal::Store(error)) => return Err(error.into()),
                // It was changed in this moment.
                Err(Refusal::Refused(_)) => return Err(Stop::Lost),
            }
        }
        if let Err(error) = self.copy_results(job).await {
            tracing::warn!(job = %job.job_id, %error, "a result file is not copied");
            job.misses += 1;
            let again = job.misses < MOST_DELETIONS;
            job.next_poll_at = again.then(|| now() + job.misses * 60_000);
            if again {
                return Ok(());
            }
        }
        self.clean_up(job).await;
        Ok(())
    }

    /// Copies what the trainer has measured into the object store: its files go some day.
    async fn copy_results(&self, job: &mut TrainingJob) -> Result<(), TrainerError> {
        let Some(objects) = self.datasets.objects() else { return Ok(()) };
        let to_come = job.result_files.iter_mut().filter(|(_, key)| key.is_empty());
        for (at, (id, key)) in to_come.enumerate() {
            // A file that is gone has nothing to copy.
            let content = match self.trainer.content(id).await {
                Err(TrainerError::Missing(_)) => continue,
                content => content?,
            };
            let place = format!("fine-tune-results/{}/{at}.csv", job.job_id);
            let put = objects.put(&place, content).await;
            put.map_err(|error| TrainerError::Unsent(error.to_string()))?;
            *key = place;
        }
        Ok(())
    }

    /// Deletes the training files at the provider: they hold people's words.
    async fn clean_up(&self, job: &mut TrainingJob) {
        for side in [&mut job.training_file_id, &mut job.validation_file_id] {
            let Some(id) = side else { continue };
            match self.trainer.delete_file(id).await {
                Ok(()) => *side = None,
                Err(error) => {
                    job.misses += 1;
                    tracing::warn!(job = %job.job_id, file = id, %error, "a training file is not deleted");
                    let again = job.misses < MOST_DELETIONS;
                    job.next_poll_at = again.then(|| now() + job.misses * 60_000);
                    return;
                }
            }
        }
        job.next_poll_at = None;
    }
}

fn gone(job: &mut TrainingJob) {
    let message = "the dataset's files are gone";
    let error = json!({ "code": "dataset_gone", "message": message, "param": "dataset_id" });
    jobs::fail(job, &error, now());
}

/// What the trainer is asked for.
fn request(job: &TrainingJob) -> Value {
    let method = json!({
        "type": job.method,
        (job.method.as_str()): { "hyperparameters": job.hyperparameters },
    });
    let mut request = json!({
        "model": job.model,
        "training_file": job.training_file_id,
        "method": method,
        "metadata": { "gateway_job_id": job.job_id, "dataset_id": job.dataset_id },
    });
    let optional = [
        ("validation_file", job.validation_file_id.clone().map(Value::from)),
        ("suffix", job.suffix.clone().map(Value::from)),
        ("seed", job.seed.map(Value::from)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            request[name] = value;
        }
    }
    request
}

fn list(page: &Value) -> &[Value] {
    page.get("data").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn event(told: &Value) -> Option<JobEvent> {
    let field = |name, otherwise: &str| text(told, name).unwrap_or(otherwise).to_owned();
    Some(JobEvent {
        id: text(told, "id")?.to_owned(),
        created_at: seconds(told, "created_at").unwrap_or_else(now),
        level: field("level", "info"),
        kind: field("type", "message"),
        message: field("message", ""),
        data: told.get("data").filter(|data| data.is_object()).cloned(),
    })
}

fn checkpoint(told: &Value) -> Option<Checkpoint> {
    Some(Checkpoint {
        id: text(told, "id")?.to_owned(),
        created_at: seconds(told, "created_at").unwrap_or_else(now),
        step: told.get("step_number").and_then(Value::as_i64).unwrap_or_default(),
        model: text(told, "fine_tuned_model_checkpoint")?.to_owned(),
        metrics: told.get("metrics").cloned().unwrap_or_else(|| json!({})),
    })
}
