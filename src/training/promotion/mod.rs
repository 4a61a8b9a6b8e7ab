//! Promotion: a tuned model takes over a name step by step, and goes back by itself when it is worse.
//!
//! [`begin`] puts a model on trial, [`look`] compares both arms and takes the next step, [`roll_back`]
//! takes it back by hand. `evidence` is the test.

mod base;
mod evidence;
mod look;
pub mod show;
mod terms;

pub use evidence::Finding;
pub use look::Pace;
pub use look::look;
pub use look::watch;
pub use terms::Terms;

use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use crate::metering::catalogue::Catalogue;
use crate::openai::error::ApiError;
use crate::store::AliasRow;
use crate::store::Aliases;
use crate::store::Arm;
use crate::store::Canary;
use crate::store::Datasets;
use crate::store::StoreError;
use crate::store::TrainingJob;

use super::order::Refusal;
use super::recipe::Recipe;

/// A promotion that is asked for.
#[derive(Clone, Debug)]
pub struct Promotion {
    /// The name, the share and the steps.
    pub terms: Terms,
    /// What was trained, and how.
    pub arm: Arm,
    /// What answers the other calls where the alias is new.
    pub base: String,
    /// How many times as much a call costs at the new model's prices; `None` where one has none.
    pub cost_ratio: Option<f64>,
}

impl Promotion {
    /// The promotion of an arm, whose base must not end soon. `today` is in days since 1970.
    ///
    /// # Errors
    /// The base ends soon.
    pub fn of(
        terms: Terms,
        arm: Arm,
        base: &str,
        catalogue: &Catalogue,
        today: i64,
    ) -> Result<Self, ApiError> {
        base::check_life(catalogue, &arm.model, today)?;
        let base = terms.base.clone().unwrap_or_else(|| base.to_owned());
        let cost_ratio = base::price_ratio(catalogue, &arm.model, &base);
        Ok(Self { terms, arm, base, cost_ratio })
    }
}

/// What the prompts of a dataset were pruned of.
///
/// # Errors
/// The store is away.
pub async fn pruned_by(datasets: &Datasets, dataset: Uuid) -> Result<Vec<String>, StoreError> {
    let found = datasets.find(&dataset.to_string()).await?;
    let recipe = found.and_then(|row| Recipe::parse(row.recipe.to_string().as_bytes()).ok());
    Ok(recipe.map(|recipe| recipe.stages.normalise.prune).unwrap_or_default())
}

/// The arm that a job has trained.
///
/// # Errors
/// 409 when it has trained none.
pub fn arm_of(job: &TrainingJob, prune: Vec<String>) -> Result<Arm, ApiError> {
    let Some(model) = job.fine_tuned_model.clone().filter(|_| job.status == "succeeded") else {
        let message = format!(
            "The job is {}: only one that has succeeded has a model to promote.",
            job.status
        );
        return Err(conflict("job_not_succeeded", message));
    };
    Ok(Arm { model, prune, job_id: Some(job.job_id), dataset_id: Some(job.dataset_id) })
}

/// Puts a model on trial under an alias; at 100 % it takes over at once. The same model again, at
/// another share, changes the share of the trial that runs.
///
/// # Errors
/// Another model is on trial, this one serves already, or the store is away.
pub async fn begin(aliases: &Aliases, asked: &Promotion, now: i64) -> Result<AliasRow, Refusal> {
    let Promotion { terms, arm, base, cost_ratio } = asked;
    let found = aliases.find(&terms.alias).await?;
    let serving = Arm { model: base.clone(), ..Arm::default() };
    let mut row = found.unwrap_or_else(|| AliasRow {
        name: terms.alias.clone(),
        created_at: now,
        serving,
        ..AliasRow::default()
    });
    row.updated_at = now;
    if row.serving.model == arm.model {
        let message = format!("`{}` serves `{}` already.", arm.model, terms.alias);
        return Err(conflict("already_promoted", message).into());
    }
    let running = row.canary.take();
    if let Some(other) = running.as_ref().filter(|other| other.arm.model != arm.model) {
        let message = format!(
            "`{}` is on trial under `{}`; roll it back first, or wait for its end.",
            other.arm.model, terms.alias
        );
        return Err(conflict("canary_running", message).into());
    }
    let by_hand = json!({ "model": arm.model, "percent": terms.percent, "by": "request" });
    let kind = if terms.percent >= 100.0 {
        take_over(&mut row, arm.clone(), &by_hand);
        "promoted"
    } else {
        let kind = if running.is_some() { "share_changed" } else { "canary_started" };
        row.canary = Some(canary(running, asked, *cost_ratio, now));
        kind
    };
    save(aliases, &mut row, Some((kind, &by_hand))).await?;
    Ok(row)
}

/// A trial by new terms; what one that runs has shown goes on counting.
fn canary(running: Option<Canary>, asked: &Promotion, cost_ratio: Option<f64>, now: i64) -> Canary {
    let terms = &asked.terms;
    let began = running.unwrap_or_else(|| Canary {
        started_at: now,
        looked_until: now,
        ..Canary::default()
    });
    Canary {
        arm: asked.arm.clone(),
        percent: terms.percent,
        steps: terms.steps.clone(),
        step_ms: terms.step_ms,
        least_calls: terms.least_calls,
        step_at: now,
        step_calls: 0,
        cost_ratio,
        ..began
    }
}

/// Ends the trial of an alias, or brings back what served before the last promotion.
///
/// # Errors
/// There is nothing to go back to, or the store is away.
pub async fn roll_back(
    aliases: &Aliases,
    row: &mut AliasRow,
    why: &Value,
    now: i64,
) -> Result<(), Refusal> {
    row.updated_at = now;
    let from = match row.canary.take() {
        Some(canary) => canary.arm,
        None => {
            let Some(previous) = row.previous.take() else {
                let message = format!(
                    "`{}` has no model on trial and none that served before: there is nothing to \
                     go back to.",
                    row.name
                );
                return Err(conflict("nothing_to_roll_back", message).into());
            };
            std::mem::replace(&mut row.serving, previous)
        }
    };
    let mut told = why.clone();
    told["model"] = from.model.into();
    told["back_to"] = row.serving.model.as_str().into();
    row.outcome = Some(outcome("rolled_back", &told, now));
    save(aliases, row, Some(("rolled_back", &told))).await
}

/// The model on trial serves from now on.
fn take_over(row: &mut AliasRow, arm: Arm, why: &Value) {
    row.canary = None;
    row.previous = Some(std::mem::replace(&mut row.serving, arm));
    row.outcome = Some(outcome("promoted", why, row.updated_at));
}

fn outcome(result: &str, why: &Value, at: i64) -> Value {
    let mut told = why.clone();
    told["result"] = result.into();
    told["at"] = show::time(at).into();
    told
}

async fn save(
    aliases: &Aliases,
    row: &mut AliasRow,
    told: Option<(&str, &Value)>,
) -> Result<(), Refusal> {
    if aliases.save(row, told).await? {
        return Ok(());
    }
    let message = format!("`{}` was changed meanwhile; look at it and try again.", row.name);
    Err(conflict("alias_changed", message).into())
}

fn conflict(code: &'static str, message: String) -> ApiError {
    ApiError::new(409, "invalid_request_error", code, message)
}
