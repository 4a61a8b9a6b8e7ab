//! What is asked for when a fine-tune job is made: read, held against dataset, trainer and ceiling,
//! and put in line.

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use crate::metering::catalogue::Catalogue;
use crate::metering::cost::Usd;
use crate::openai::error::ApiError;
use crate::store::DatasetRow;
use crate::store::Datasets;
use crate::store::StoreError;
use crate::store::TrainingJob;
use crate::store::TrainingQueue;

use super::dataset::now;
use super::digest::sha256;
use super::jobs;
use super::provider::Terms;
use super::provider::default_epochs;
use super::show::usd;
use super::trainer::Place;

/// OpenAI's limits (its API description, 2026).
const LONGEST_SUFFIX: usize = 64;
const LARGEST_SEED: i64 = 2_147_483_647;
/// Characters of an idempotency key.
const LONGEST_KEY: usize = 255;

/// What is asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// An id, a name (its last version), or a version such as `support@3`.
    pub dataset_id: String,
    /// The base.
    pub model: String,
    /// supervised or dpo; the dataset's when left out.
    #[serde(default)]
    pub method: Option<String>,
    /// As the trainer wants them.
    #[serde(default)]
    pub hyperparameters: Map<String, Value>,
    /// A part of the tuned model's name.
    #[serde(default)]
    pub suffix: Option<String>,
    /// For the same result twice.
    #[serde(default)]
    pub seed: Option<i64>,
    /// Above it somebody has to approve: a decimal, as a string or a number.
    #[serde(default)]
    pub max_cost_usd: Option<Value>,
    /// Whether only to say what it would cost.
    #[serde(default)]
    pub dry_run: bool,
}

/// Why there is no job.
#[derive(Debug)]
pub enum Refusal {
    /// It cannot be had.
    Refused(Box<ApiError>),
    /// The store does not do it now.
    Store(StoreError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Order {
    /// Reads the body of `POST /api/fine-tune`, with what tells bodies apart.
    ///
    /// # Errors
    /// What cannot be used, and where.
    pub fn parse(body: &[u8]) -> Result<(Self, String), ApiError> {
        let json: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request("invalid_json", format!("The body is no JSON: {error}."))
        })?;
        let hash = sha256(json.to_string().as_bytes()).hex();
        let order: Self = serde_path_to_error::deserialize(json).map_err(|error| {
            let how = "write {\"dataset_id\": \"support\", \"model\": \"gpt-4.1-mini\"}";
            bad(&error.path().to_string(), &format!("{}; {how}", error.inner()))
        })?;
        order.check()?;
        Ok((order, hash))
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.suffix.as_ref().is_some_and(|s| !(1..=LONGEST_SUFFIX).contains(&s.chars().count()))
        {
            return Err(bad("suffix", "it has to be 1 to 64 characters long"));
        }
        if self.seed.is_some_and(|seed| !(0..=LARGEST_SEED).contains(&seed)) {
            return Err(bad("seed", "it has to be between 0 and 2147483647"));
        }
        self.ceiling()?;
        self.hyperparameters.iter().try_for_each(|(name, value)| hyperparameter(name, value))
    }

    /// The ceiling in micro-USD.
    fn ceiling(&self) -> Result<Option<i64>, ApiError> {
        let text = match &self.max_cost_usd {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let amount = text.parse::<Usd>().ok().filter(|amount| *amount >= Usd::ZERO);
        let micro = amount.and_then(|amount| i64::try_from(amount.picodollars() / 1_000_000).ok());
        let wrong = || bad("max_cost_usd", "write it as a decimal such as \"12.50\"");
        micro.map(Some).ok_or_else(wrong)
    }

    fn epochs(&self) -> Option<i64> {
        self.hyperparameters.get("n_epochs").and_then(Value::as_i64)
    }
}

fn hyperparameter(name: &str, value: &Value) -> Result<(), ApiError> {
    if value == "auto" {
        return Ok(());
    }
    let place = format!("hyperparameters.{name}");
    let whole = |most: i64| value.as_i64().is_some_and(|n| (1..=most).contains(&n));
    let number = |most: f64| value.as_f64().is_some_and(|n| n > 0.0 && n <= most);
    let (fine, wanted) = match name {
        "n_epochs" => (whole(50), "a whole number from 1 to 50"),
        "batch_size" => (whole(256), "a whole number from 1 to 256"),
        "learning_rate_multiplier" => (number(f64::MAX), "a number over 0"),
        "beta" => (number(2.0), "a number over 0 and at most 2"),
        _ => {
            let known = "n_epochs, batch_size, learning_rate_multiplier and beta";
            return Err(bad(&place, &format!("there is no such one; there are {known}")));
        }
    };
    if fine { Ok(()) } else { Err(bad(&place, &format!("it has to be auto or {wanted}"))) }
}

fn bad(param: &str, message: &str) -> ApiError {
    let told = format!("`{param}`: {message}.");
    ApiError::bad_request("invalid_parameter", told).param(param.to_owned())
}

/// The job that an order comes to; not in line yet.
///
/// # Errors
/// The dataset or the model cannot be used, or the store is away.
pub async fn plan(
    datasets: &Datasets,
    queue: &TrainingQueue,
    place: &Place,
    order: &Order,
    (key, hash): (&str, &str),
) -> Result<TrainingJob, Refusal> {
    let dataset = ready(datasets, &order.dataset_id).await?;
    let (method, terms) = terms(place, order, &dataset)?;
    if let Some(most) = terms.tokens_per_example
        && let Some((line, tokens)) = queue.too_long(dataset.id, most).await?
    {
        let message = format!(
            "Line {line} of the training file has {tokens} tokens, and `{}` takes at most {most}; \
             build the dataset with a smaller `quality.max_tokens`.",
            order.model
        );
        return Err(ApiError::new(422, "invalid_request_error", "example_too_long", message).into());
    }
    let now = now();
    let mut job = TrainingJob {
        job_id: Uuid::now_v7(),
        created_at: now,
        updated_at: now,
        team: dataset.team.clone(),
        dataset_id: dataset.id,
        model: order.model.clone(),
        method: method.to_owned(),
        hyperparameters: order.hyperparameters.clone().into(),
        suffix: order.suffix.clone(),
        seed: order.seed,
        status: "pending".to_owned(),
        max_cost: order.ceiling()?,
        provider: place.name.clone(),
        provider_base_url: place.base_url.clone(),
        next_poll_at: Some(now),
        idempotency_key: key.to_owned(),
        request_hash: hash.to_owned(),
        ..TrainingJob::default()
    };
    estimate(&mut job, place, order, &dataset, terms);
    hold_to_ceiling(&mut job);
    Ok(job)
}

/// The method, and what it costs here.
fn terms<'a>(
    place: &Place,
    order: &'a Order,
    dataset: &'a DatasetRow,
) -> Result<(&'a str, Terms), ApiError> {
    let method = order.method.as_deref().unwrap_or(&dataset.method);
    if method != dataset.method {
        let message = format!(
            "`method`: the dataset is for {}, not for {method}; leave `method` out or build another \
             dataset.",
            dataset.method
        );
        return Err(ApiError::bad_request("method_mismatch", message).param("method"));
    }
    let terms = place.profile.terms(&order.model, method).map_err(|message| {
        let message = format!("`model`: {message}.");
        ApiError::bad_request("model_not_tunable", message).param("model")
    })?;
    let rows = dataset.train.as_ref().map_or(0, |train| train.rows);
    if rows >= place.profile.min_rows {
        return Ok((method, terms));
    }
    let message = format!(
        "The dataset has {rows} rows to train on, and {} wants at least {}.",
        place.name, place.profile.min_rows
    );
    Err(ApiError::new(422, "invalid_request_error", "too_few_rows", message))
}

/// What a job may cost, and by which figures.
fn estimate(
    job: &mut TrainingJob,
    place: &Place,
    order: &Order,
    dataset: &DatasetRow,
    terms: Terms,
) {
    let train = dataset.train.clone().unwrap_or_default();
    let default = i64::try_from(default_epochs(train.rows)).unwrap_or(1);
    let epochs = order.epochs().unwrap_or(default);
    let per_million = terms.per_token.map(|price| price.times(1_000_000).to_string());
    let price = place.profile.prices_from.as_deref().zip(place.profile.prices_as_of.as_deref());
    let price = price.filter(|_| per_million.is_some());
    let ends = Catalogue::builtin().get(&order.model).and_then(|base| base.shutdown);
    job.estimate_basis = json!({
        "rows": train.rows, "tokens": train.tokens, "n_epochs": epochs,
        "usd_per_million_tokens": per_million,
        "price": price.map(|(from, date)| format!("{from}, {date}")),
        // Nothing is promoted whose base ends soon: whoever orders it is to know.
        "base_shutdown": ends.map(|day| day.to_string()),
    });
    let tokens = i64::try_from(train.tokens).unwrap_or(i64::MAX);
    job.cost_estimate = jobs::cost(job, tokens.saturating_mul(epochs));
}

/// What may cost more than its ceiling waits for somebody's word.
fn hold_to_ceiling(job: &mut TrainingJob) {
    let Some(most) = job.max_cost else { return };
    let reason = match job.cost_estimate {
        Some(cost) if cost <= most => return,
        Some(cost) => format!("it may cost {} USD, and the ceiling is {}", usd(cost), usd(most)),
        None => format!("its price is not known, and the ceiling is {} USD", usd(most)),
    };
    "awaiting_approval".clone_into(&mut job.status);
    job.status_reason = Some(reason);
    job.next_poll_at = None;
}

async fn ready(datasets: &Datasets, named: &str) -> Result<DatasetRow, Refusal> {
    let found = datasets.find(named).await?;
    let dataset = found.ok_or_else(|| {
        let message = format!("There is no dataset `{named}`.");
        ApiError::new(404, "invalid_request_error", "dataset_not_found", message)
            .param("dataset_id")
    })?;
    if dataset.status == "ready" {
        return Ok(dataset);
    }
    let message = format!("The dataset `{named}` is {}, not ready.", dataset.status);
    Err(ApiError::new(409, "invalid_request_error", "dataset_not_ready", message)
        .param("dataset_id")
        .into())
}

/// Puts a job in line by its idempotency key: the job, and whether it was there before.
///
/// # Errors
/// The order or the key cannot be used, or the store is away.
pub async fn place(
    datasets: &Datasets,
    queue: &TrainingQueue,
    place: &Place,
    order: &Order,
    (key, hash): (&str, &str),
) -> Result<(TrainingJob, bool), Refusal> {
    if key.is_empty() || key.chars().count() > LONGEST_KEY {
        return Err(bad("Idempotency-Key", "it has to be 1 to 255 characters long").into());
    }
    if let Some(before) = queue.keyed(key).await? {
        return replayed(before, hash);
    }
    if !place.has_key {
        let message = "`trainer.api_key` is empty; set it, or OPENAI_API_KEY, and start again.";
        return Err(ApiError::new(503, "api_error", "trainer_not_configured", message).into());
    }
    let job = plan(datasets, queue, place, order, (key, hash)).await?;
    if queue.insert(&job).await? {
        return Ok((job, false));
    }
    match queue.keyed(key).await? {
        Some(before) => replayed(before, hash),
        None => Err(conflict("The job was deleted in this moment; try again.").into()),
    }
}

fn replayed(before: TrainingJob, hash: &str) -> Result<(TrainingJob, bool), Refusal> {
    if before.request_hash == hash {
        return Ok((before, true));
    }
    let message = "This Idempotency-Key came with another body before; take a new one.";
    Err(ApiError::new(409, "invalid_request_error", "idempotency_key_reused", message).into())
}

/// Puts a job in line that asks for the same as one that did not succeed.
///
/// # Errors
/// It goes on or has succeeded, or the store is away.
pub async fn retry(
    queue: &TrainingQueue,
    job: &TrainingJob,
) -> Result<(TrainingJob, bool), Refusal> {
    if !matches!(job.status.as_str(), "failed" | "cancelled") {
        let message =
            format!("The job is {}; only one that failed or was cancelled is retried.", job.status);
        return Err(conflict(&message).into());
    }
    // One retry of a job is one job, however often it is asked for.
    let key = format!("{}{}", jobs::RETRY, job.job_id);
    if let Some(before) = queue.keyed(&key).await? {
        return Ok((before, true));
    }
    let now = now();
    let mut again = TrainingJob {
        job_id: Uuid::now_v7(),
        created_at: now,
        updated_at: now,
        team: job.team.clone(),
        dataset_id: job.dataset_id,
        model: job.model.clone(),
        method: job.method.clone(),
        hyperparameters: job.hyperparameters.clone(),
        suffix: job.suffix.clone(),
        seed: job.seed,
        status: "pending".to_owned(),
        status_reason: Some(format!("a retry of {}", job.job_id)),
        cost_estimate: job.cost_estimate,
        max_cost: job.max_cost,
        estimate_basis: job.estimate_basis.clone(),
        provider: job.provider.clone(),
        provider_base_url: job.provider_base_url.clone(),
        next_poll_at: Some(now),
        idempotency_key: key.clone(),
        request_hash: job.request_hash.clone(),
        approved_at: job.approved_at,
        ..TrainingJob::default()
    };
    if again.approved_at.is_none() {
        hold_to_ceiling(&mut again);
    }
    let fresh = queue.insert(&again).await?;
    let row = queue.keyed(&key).await?.unwrap_or(again);
    Ok((row, !fresh))
}

/// Lets a job go on that waits for somebody's word, or (without `approves`) ends it.
///
/// # Errors
/// It does not wait, or the store is away.
pub async fn decide(
    queue: &TrainingQueue,
    job: &mut TrainingJob,
    approves: bool,
) -> Result<(), Refusal> {
    let now = now();
    if job.status != "awaiting_approval" {
        let message = format!("The job is {}; nobody has to approve it.", job.status);
        return Err(conflict(&message).into());
    }
    if approves {
        "pending".clone_into(&mut job.status);
        job.status_reason = None;
        job.approved_at = Some(now);
        job.next_poll_at = Some(now);
    } else {
        jobs::end(job, "cancelled", None, now);
        job.next_poll_at = None;
    }
    job.updated_at = now;
    if queue.save(job, None, false).await? {
        return Ok(());
    }
    Err(conflict("The job was changed in this moment; look at it and try again.").into())
}

/// Asks for a job to be cancelled, paused or resumed; whoever polls it does so.
///
/// # Errors
/// It has ended, or the store is away.
pub async fn wish(queue: &TrainingQueue, job: &mut TrainingJob, wish: &str) -> Result<(), Refusal> {
    if wish == "cancel" && job.status == "awaiting_approval" {
        return decide(queue, job, false).await;
    }
    if queue.ask(job.job_id, Some(wish), now()).await? {
        return Ok(());
    }
    let message = format!("The job is {}; it cannot be asked to {wish}.", job.status);
    Err(conflict(&message).into())
}

fn conflict(message: &str) -> ApiError {
    ApiError::new(409, "invalid_request_error", "invalid_job_state", message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_its_place() {
        let cases = [
            (r#"{"model":"m"}"#, "dataset_id"),
            (r#"{"dataset_id":"d","model":"m","modle":1}"#, "modle"),
            (r#"{"dataset_id":"d","model":"m","suffix":""}"#, "suffix"),
            (r#"{"dataset_id":"d","model":"m","seed":-1}"#, "seed"),
            (r#"{"dataset_id":"d","model":"m","max_cost_usd":"much"}"#, "max_cost_usd"),
            (r#"{"dataset_id":"d","model":"m","max_cost_usd":-1}"#, "max_cost_usd"),
            (
                r#"{"dataset_id":"d","model":"m","hyperparameters":{"n_epochs":0}}"#,
                "hyperparameters.n_epochs",
            ),
            (
                r#"{"dataset_id":"d","model":"m","hyperparameters":{"beta":2.5}}"#,
                "hyperparameters.beta",
            ),
            (
                r#"{"dataset_id":"d","model":"m","hyperparameters":{"epochs":3}}"#,
                "hyperparameters.epochs",
            ),
            ("[", "no JSON"),
        ];
        for (body, expected) in cases {
            let message = Order::parse(body.as_bytes()).unwrap_err().message;
            assert!(message.contains(expected), "{body}: {message}");
        }
    }

    #[test]
    fn the_order_of_members_makes_no_other_body() {
        let hash = |body: &str| Order::parse(body.as_bytes()).unwrap().1;
        let one = hash(r#"{"dataset_id":"d","model":"m"}"#);
        assert_eq!(one, hash(r#"{ "model": "m", "dataset_id": "d" }"#));
        assert_ne!(one, hash(r#"{"dataset_id":"d","model":"n"}"#));
    }
}
