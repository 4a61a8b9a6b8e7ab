//! How fine-tune jobs, their events and checkpoints are shown to people and programs.

use chrono::DateTime;
use chrono::SecondsFormat;
use serde_json::Value;
use serde_json::json;

use crate::metering::cost::Usd;
use crate::store::Checkpoint;
use crate::store::JobEvent;
use crate::store::TrainingJob;

/// A job as people and programs see it: times in RFC 3339, money as decimal strings in USD.
pub fn job(job: &TrainingJob) -> Value {
    let time = |millis: Option<i64>| millis.map(rfc3339);
    let money = |micro: Option<i64>| micro.map(usd);
    json!({
        "object": "fine_tune.job",
        "id": job.job_id,
        "job_id": job.job_id,
        "created_at": rfc3339(job.created_at),
        "updated_at": rfc3339(job.updated_at),
        "team": job.team,
        "dataset_id": job.dataset_id,
        "model": job.model,
        "method": job.method,
        "hyperparameters": job.hyperparameters,
        "suffix": job.suffix,
        "seed": job.seed,
        "status": job.status,
        "status_reason": job.status_reason,
        "cost_estimate": money(job.cost_estimate),
        "cost_actual": money(job.cost_actual),
        "max_cost_usd": money(job.max_cost),
        "estimate_basis": job.estimate_basis,
        "provider": job.provider,
        "provider_base_url": job.provider_base_url,
        "provider_job_id": job.provider_job_id,
        "provider_status": job.provider_status,
        "training_file_id": job.training_file_id,
        "validation_file_id": job.validation_file_id,
        "fine_tuned_model": job.fine_tuned_model,
        "trained_tokens": job.trained_tokens,
        "result_files": job.result_files,
        "error": job.error,
        "estimated_finish": time(job.estimated_finish),
        "submitted_at": time(job.submitted_at),
        "started_at": time(job.started_at),
        "finished_at": time(job.finished_at),
        "approved_at": time(job.approved_at),
        "completion_log": job.completion_log,
        "attempts": job.attempts,
        "asked_to": job.wish,
        "next_poll_at": time(job.next_poll_at),
    })
}

/// An event as OpenAI shows it.
pub fn event(event: &JobEvent) -> Value {
    json!({
        "object": "fine_tuning.job.event", "id": event.id, "created_at": rfc3339(event.created_at),
        "level": event.level, "type": event.kind, "message": event.message, "data": event.data,
    })
}

/// A checkpoint as OpenAI shows it.
pub fn checkpoint(one: &Checkpoint) -> Value {
    json!({
        "object": "fine_tuning.job.checkpoint", "id": one.id,
        "created_at": rfc3339(one.created_at), "fine_tuned_model_checkpoint": one.model,
        "step_number": one.step, "metrics": one.metrics,
    })
}

/// Micro-USD as a decimal text in USD.
pub(super) fn usd(micro: i64) -> String {
    Usd::from_picodollars(i128::from(micro) * 1_000_000).to_string()
}

fn rfc3339(millis: i64) -> String {
    let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_a_decimal_text() {
        assert_eq!(usd(12_345_678), "12.345678");
        assert_eq!(usd(0), "0");
    }
}
