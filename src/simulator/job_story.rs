//! What a fine-tune job tells while it runs: events, checkpoints and its metrics file.

use serde_json::{Value, json};

use crate::simulator::jobs::Job;

/// Training steps that every job is told in.
const STEPS: u32 = 10;

/// Loss and accuracy after a training step: falling and rising, the same for every job.
fn metrics(step: u32) -> (f64, f64) {
    let step = f64::from(step);
    (2.0 / (1.0 + step), 1.0 - 0.5 / (1.0 + step))
}

/// Events so far, oldest first.
pub(super) fn events(job: &Job) -> Vec<Value> {
    let mut told = vec![
        message(format!("Created fine-tuning job: {}", job.id)),
        message("Validating training file".to_owned()),
    ];
    if job.stage() >= 1 && job.training.fault.is_none() {
        told.push(message("Files validated, moving job to queued state".to_owned()));
    }
    if job.stage() >= 2 && job.training.fault.is_none() {
        told.push(message("Fine-tuning job started".to_owned()));
        told.extend((1..=STEPS).map(step_event));
    }
    told.extend(ending(job));
    let numbered = told.into_iter().enumerate().map(|(n, mut event)| {
        event["object"] = json!("fine_tuning.job.event");
        event["id"] = json!(format!("{}-{n:03}", job.id.replacen("ftjob-", "ftevent-", 1)));
        event["created_at"] = json!(job.created_at);
        event
    });
    numbered.collect()
}

fn ending(job: &Job) -> Vec<Value> {
    match job.status() {
        "succeeded" => vec![
            message(format!("New fine-tuned model created: {}", job.tuned_name())),
            message("The job has successfully completed".to_owned()),
        ],
        "failed" => {
            let why = job.training.fault.as_deref().unwrap_or("The job failed.");
            vec![json!({"level": "error", "type": "message", "message": why, "data": null})]
        }
        "cancelled" => vec![message("Fine-tuning job cancelled".to_owned())],
        "paused" => vec![message("Fine-tuning job paused".to_owned())],
        _ => Vec::new(),
    }
}

fn message(text: String) -> Value {
    json!({"level": "info", "type": "message", "message": text, "data": null})
}

fn step_event(step: u32) -> Value {
    let (loss, accuracy) = metrics(step);
    json!({
        "level": "info", "type": "metrics",
        "message": format!("Step {step}/{STEPS}: training loss={loss:.2}"),
        "data": {
            "step": step, "total_steps": STEPS, "train_loss": loss,
            "train_mean_token_accuracy": accuracy,
        },
    })
}

/// The checkpoints of a job that succeeded, oldest first: after half of the steps and after all.
pub(super) fn checkpoints(job: &Job) -> Vec<Value> {
    if job.status() != "succeeded" {
        return Vec::new();
    }
    let checkpoint = |step: u32| {
        let (loss, accuracy) = metrics(step);
        let name = job.tuned_name();
        // The last checkpoint is the model itself.
        let name = if step == STEPS { name } else { format!("{name}:ckpt-step-{step}") };
        json!({
            "object": "fine_tuning.job.checkpoint",
            "id": format!("{}-{step}", job.id.replacen("ftjob-", "ftckpt_", 1)),
            "created_at": job.created_at, "fine_tuned_model_checkpoint": name,
            "fine_tuning_job_id": job.id, "step_number": step,
            "metrics": {
                "step": step, "train_loss": loss, "train_mean_token_accuracy": accuracy,
                "full_valid_loss": loss, "full_valid_mean_token_accuracy": accuracy,
            },
        })
    };
    [STEPS / 2, STEPS].map(checkpoint).to_vec()
}

/// The metrics file of a job that succeeded.
pub(super) fn metrics_csv() -> String {
    let header = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n";
    let rows = (1..=STEPS).map(|step| {
        let (loss, accuracy) = metrics(step);
        format!("{step},{loss:.5},{accuracy:.5},,\n")
    });
    std::iter::once(header.to_owned()).chain(rows).collect()
}
