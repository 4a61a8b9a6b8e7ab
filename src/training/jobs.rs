//! The states of a fine-tune job: what a provider's answer makes of it, and when to look again.
//!
//! Computes only. A provider may say anything, in any order: no state moves backwards, no end is
//! left, and what is not understood is kept word by word.

use serde_json::Value;
use serde_json::json;

use crate::metering::cost::Usd;
use crate::store::JobEvent;
use crate::store::TrainingJob;

use super::trainer::TrainerError;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
/// Looks that do not find a job before it is given up.
const STRIKES: i64 = 3;
/// How long a job is looked for whose making was not answered.
const LOST_FOR: i64 = 10 * MINUTE;
/// What of a job's events is kept in its row: lines, and characters of each.
const LOG_LINES: usize = 20;
const LOG_LINE: usize = 400;
/// What the idempotency key of a retry begins with; the job that it repeats follows.
pub const RETRY: &str = "retry:";

/// Why a job stays as it is whose provider says something new.
pub const UNKNOWN_STATUS: &str = "unknown provider status";
/// Errors of a job that are the provider's own, and may be gone the next time.
const PROVIDERS_FAULT: [&str; 4] =
    ["server_error", "internal_error", "internal_server_error", "service_unavailable"];

/// Whether a job failed through no fault of its data, and has not been tried again for that.
pub fn deserves_retry(job: &TrainingJob) -> bool {
    let code = job.error.as_ref().and_then(|error| text(error, "code"));
    let is_first = !job.idempotency_key.starts_with(RETRY);
    is_first && job.status == "failed" && code.is_some_and(|code| PROVIDERS_FAULT.contains(&code))
}

/// How far along a status is; the same for those that may follow each other.
fn rank(status: &str) -> u8 {
    match status {
        "validating_files" => 1,
        "queued" => 2,
        "running" | "paused" => 3,
        "succeeded" | "failed" | "cancelled" => 4,
        _ => 0,
    }
}

/// Takes over what a provider says of a job, at a time in milliseconds since 1970.
pub fn observe(job: &mut TrainingJob, seen: &Value, now: i64) {
    if job.has_ended() {
        return;
    }
    let said = text(seen, "status").unwrap_or_default();
    job.provider_status = Some(said.to_owned());
    job.misses = 0;
    job.estimated_finish = seconds(seen, "estimated_finish").filter(|finish| *finish > 0);
    resolve(job, seen);
    let known =
        ["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"];
    if !known.contains(&said) {
        job.status_reason = Some(UNKNOWN_STATUS.to_owned());
        job.next_poll_at = Some(now + 5 * MINUTE);
        return;
    }
    // A late answer may tell of what was; only a job that is resumed goes through its states again.
    if rank(said) < rank(&job.status) && job.status != "paused" {
        job.next_poll_at = Some(now + pause(job, now));
        return;
    }
    match said {
        "succeeded" => succeed(job, seen, now),
        "failed" => fail(job, &error_of(seen), now),
        "cancelled" => end(job, "cancelled", None, now),
        status => {
            if status == "running" {
                job.started_at.get_or_insert(now);
            }
            status.clone_into(&mut job.status);
            job.status_reason = None;
            job.next_poll_at = Some(now + pause(job, now));
        }
    }
}

/// Takes over the answer to the making of a job.
pub fn adopt(job: &mut TrainingJob, seen: &Value, now: i64) -> bool {
    let Some(id) = text(seen, "id").filter(|id| !id.is_empty()) else { return false };
    job.provider_job_id = Some(id.to_owned());
    "validating_files".clone_into(&mut job.status);
    job.status_reason = None;
    observe(job, seen, now);
    true
}

/// What the refusal or the silence of a provider makes of the making of a job.
pub fn not_made(job: &mut TrainingJob, error: &TrainerError, now: i64) {
    match error {
        // It may have been made.
        TrainerError::Unknown(_) => {
            "submit_unknown".clone_into(&mut job.status);
            job.misses = 0;
            job.status_reason = Some(error.to_string());
            job.next_poll_at = Some(now + 15 * SECOND);
        }
        error => not_sent(job, error, now),
    }
}

/// What a step that did not succeed makes of a job that is not at the provider yet.
pub fn not_sent(job: &mut TrainingJob, error: &TrainerError, now: i64) {
    let refused = |code: &str, message: &str, param: &str| json!({ "code": code, "message": message, "param": param });
    match error {
        TrainerError::Refused { code, message, param, .. } => {
            fail(job, &refused(code, message, param), now);
        }
        TrainerError::Missing(message) => {
            let message = format!("the trainer answered 404: {message}; check trainer.base_url");
            fail(job, &refused("not_found", &message, ""), now);
        }
        TrainerError::Unsent(why) | TrainerError::Unknown(why) => {
            if job.status == "submitting" {
                "pending".clone_into(&mut job.status);
            }
            job.misses += 1;
            job.status_reason = Some(why.clone());
            job.next_poll_at = Some(now + backoff(job.misses));
        }
    }
}

/// A job whose making was not answered was looked for and not found.
pub fn not_found_yet(job: &mut TrainingJob, now: i64) {
    job.misses += 1;
    let lost_for = now - job.submitted_at.unwrap_or(now);
    if job.misses >= STRIKES && lost_for >= LOST_FOR {
        job.misses = 0;
        job.status_reason = Some("the trainer never got it; it is submitted again".to_owned());
        "pending".clone_into(&mut job.status);
        job.next_poll_at = Some(now);
        return;
    }
    let next = if job.misses < 2 { MINUTE } else { 5 * MINUTE };
    job.next_poll_at = Some(now + next);
}

/// A job could not be looked at.
pub fn not_seen(job: &mut TrainingJob, error: &TrainerError, now: i64) {
    job.status_reason = Some(error.to_string());
    if !matches!(error, TrainerError::Missing(_)) {
        job.next_poll_at = Some(now + MINUTE);
        return;
    }
    job.misses += 1;
    if job.misses >= STRIKES {
        let message = format!("{STRIKES} times in a row the trainer knew no such job");
        let error = json!({ "code": "provider_job_missing", "message": message, "param": null });
        fail(job, &error, now);
    } else {
        job.next_poll_at = Some(now + 5 * MINUTE);
    }
}

/// Ends a job as failed. `error` has code, message and param.
pub fn fail(job: &mut TrainingJob, error: &Value, now: i64) {
    let message = text(error, "message").unwrap_or("the trainer gives no reason").to_owned();
    job.error = Some(error.clone());
    end(job, "failed", Some(message), now);
}

/// Ends a job; what is left to do is to clean up after it.
pub fn end(job: &mut TrainingJob, status: &str, reason: Option<String>, now: i64) {
    status.clone_into(&mut job.status);
    job.status_reason = reason;
    job.estimated_finish = None;
    job.misses = 0;
    job.finished_at.get_or_insert(now);
    job.next_poll_at = Some(now);
}

fn succeed(job: &mut TrainingJob, seen: &Value, now: i64) {
    let Some(model) = text(seen, "fine_tuned_model").filter(|model| !model.is_empty()) else {
        "running".clone_into(&mut job.status);
        let reason = "the trainer says succeeded and names no model yet";
        job.status_reason = Some(reason.to_owned());
        job.next_poll_at = Some(now + 30 * SECOND);
        return;
    };
    job.fine_tuned_model = Some(model.to_owned());
    job.trained_tokens = seen.get("trained_tokens").and_then(Value::as_i64);
    job.cost_actual = job.trained_tokens.and_then(|tokens| cost(job, tokens));
    let files = seen.get("result_files").and_then(Value::as_array);
    for id in files.into_iter().flatten().filter_map(Value::as_str) {
        job.result_files.entry(id.to_owned()).or_default();
    }
    job.finished_at = seconds(seen, "finished_at");
    end(job, "succeeded", None, now);
}

/// The cost of so many trained tokens in micro-USD, at the price of the estimate.
pub fn cost(job: &TrainingJob, tokens: i64) -> Option<i64> {
    let price = text(&job.estimate_basis, "usd_per_million_tokens")?;
    let price = Usd::per_token(price).ok()?;
    micro(price.times(u64::try_from(tokens).ok()?))
}

/// An amount in micro-USD, rounded up: an estimate is no less than it costs.
pub fn micro(amount: Usd) -> Option<i64> {
    let pico = amount.picodollars();
    i64::try_from(pico.div_euclid(1_000_000) + i128::from(pico.rem_euclid(1_000_000) > 0)).ok()
}

/// What the provider made of `auto`; the estimate follows.
fn resolve(job: &mut TrainingJob, seen: &Value) {
    let by_method = format!("/method/{}/hyperparameters", job.method);
    let resolved = seen.pointer(&by_method).or_else(|| seen.get("hyperparameters"));
    let epochs = |of: Option<&Value>| of.and_then(|of| of.get("n_epochs")?.as_i64());
    let Some(epochs) = epochs(resolved).or_else(|| epochs(seen.get("hyperparameters"))) else {
        return;
    };
    let Some(basis) = job.estimate_basis.as_object_mut() else { return };
    basis.insert("n_epochs".to_owned(), epochs.into());
    let tokens = basis.get("tokens").and_then(Value::as_i64).unwrap_or_default();
    job.cost_estimate = cost(job, tokens.saturating_mul(epochs)).or(job.cost_estimate);
}

fn error_of(seen: &Value) -> Value {
    let error = seen.get("error").filter(|error| error.is_object());
    let field = |name: &str| error.and_then(|error| error.get(name)).cloned().unwrap_or_default();
    json!({ "code": field("code"), "message": field("message"), "param": field("param") })
}

/// Until the next look at a job that is at the provider.
fn pause(job: &TrainingJob, now: i64) -> i64 {
    match job.status.as_str() {
        "validating_files" => 15 * SECOND,
        "running" => {
            let left = job.estimated_finish.map_or(2 * MINUTE, |finish| finish - now);
            left.clamp(30 * SECOND, 2 * MINUTE)
        }
        "paused" => 10 * MINUTE,
        _ => MINUTE,
    }
}

fn backoff(misses: i64) -> i64 {
    let doubled = u32::try_from(misses.clamp(0, 6)).unwrap_or(6);
    (5 * SECOND * 2_i64.pow(doubled)).min(5 * MINUTE)
}

/// Adds events to the end of the log in a job's row.
pub fn log(job: &mut TrainingJob, events: &[JobEvent]) {
    let told = events.iter().map(|event| {
        let time = chrono::DateTime::from_timestamp_millis(event.created_at).unwrap_or_default();
        let time = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let message = event.message.replace(['\n', '\r'], " ");
        let line = format!("{time} {} {message}", event.level);
        line.chars().take(LOG_LINE).collect::<String>()
    });
    let mut lines: Vec<String> = job.completion_log.lines().map(str::to_owned).collect();
    lines.extend(told);
    let kept = lines.split_off(lines.len().saturating_sub(LOG_LINES));
    job.completion_log = kept.join("\n");
}

/// A text member.
pub(super) fn text<'a>(of: &'a Value, name: &str) -> Option<&'a str> {
    of.get(name).and_then(Value::as_str)
}

/// A time in seconds since 1970, in milliseconds.
pub(super) fn seconds(of: &Value, name: &str) -> Option<i64> {
    of.get(name).and_then(Value::as_i64)?.checked_mul(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    #[test]
    fn only_the_providers_own_failures_are_tried_again_and_once() {
        let failed = |code: &str, key: &str| {
            let mut job = TrainingJob { idempotency_key: key.to_owned(), ..job("running") };
            fail(&mut job, &json!({"code": code, "message": "no", "param": null}), NOW);
            deserves_retry(&job)
        };
        assert!(failed("server_error", "k"));
        assert!(!failed("invalid_training_file", "k"));
        assert!(!failed("server_error", "retry:1"));
        assert!(!deserves_retry(&job("running")));
    }

    fn job(status: &str) -> TrainingJob {
        TrainingJob {
            model: "gpt-4.1-mini".to_owned(),
            method: "supervised".to_owned(),
            status: status.to_owned(),
            cost_estimate: Some(15),
            estimate_basis: json!({"tokens": 1, "n_epochs": 3, "usd_per_million_tokens": "5"}),
            provider_job_id: Some("ftjob-1".to_owned()),
            submitted_at: Some(0),
            ..TrainingJob::default()
        }
    }

    fn seen(status: &str) -> Value {
        let model = (status == "succeeded").then_some("ft:gpt-4.1-mini:a::b");
        json!({"id": "ftjob-1", "status": status, "fine_tuned_model": model,
            "trained_tokens": 300, "error": {"code": null, "message": null, "param": null}})
    }

    fn after(from: &str, said: &str) -> TrainingJob {
        let mut job = job(from);
        observe(&mut job, &seen(said), NOW);
        job
    }

    #[test]
    fn no_state_moves_backwards_and_no_end_is_left() {
        let order = ["validating_files", "queued", "running", "succeeded"];
        for (at, from) in order.iter().enumerate() {
            for (then, said) in order.iter().enumerate() {
                assert_eq!(after(from, said).status, order[at.max(then)], "{from} then {said}");
            }
        }
        for end in ["succeeded", "failed", "cancelled"] {
            for said in ["running", "succeeded", "failed", "cancelled", "odd"] {
                assert_eq!(after(end, said), job(end), "{end} then {said}");
            }
        }
    }

    #[test]
    fn a_paused_job_goes_on_where_the_provider_says() {
        for said in ["validating_files", "queued", "running", "cancelled"] {
            assert_eq!(after("paused", said).status, said);
        }
        assert_eq!(after("running", "paused").status, "paused");
    }

    #[test]
    fn an_unknown_status_is_kept_word_by_word_and_changes_nothing() {
        let job = after("queued", "Awaiting_GPU ☃");
        assert_eq!(job.status, "queued");
        assert_eq!(job.provider_status.as_deref(), Some("Awaiting_GPU ☃"));
        assert_eq!(job.status_reason.as_deref(), Some("unknown provider status"));
        assert_eq!(job.next_poll_at, Some(NOW + 300_000));
    }

    #[test]
    fn success_without_a_model_is_none_yet() {
        let mut job = job("running");
        observe(&mut job, &json!({"status": "succeeded", "fine_tuned_model": null}), NOW);
        assert_eq!((job.status.as_str(), job.next_poll_at), ("running", Some(NOW + 30_000)));
    }

    #[test]
    fn what_was_trained_is_what_it_costs() {
        // 300 tokens at 5 USD per million: 1500 micro-USD.
        let job = after("running", "succeeded");
        assert_eq!((job.cost_actual, job.trained_tokens), (Some(1500), Some(300)));
        assert_eq!(job.next_poll_at, Some(NOW), "to clean up");
    }

    #[test]
    fn epochs_that_the_provider_chose_change_the_estimate() {
        let mut job = job("queued");
        observe(&mut job, &json!({"status": "running", "hyperparameters": {"n_epochs": 4}}), NOW);
        // 1 token x 4 epochs at 5 USD per million.
        assert_eq!((job.cost_estimate, &job.estimate_basis["n_epochs"]), (Some(20), &json!(4)));
        let by_method = json!({"supervised": {"hyperparameters": {"n_epochs": 2}}});
        observe(&mut job, &json!({"status": "running", "method": by_method}), NOW);
        assert_eq!(job.cost_estimate, Some(10));
    }

    #[test]
    fn three_times_404_is_the_end_and_an_answer_between_begins_again() {
        let missing = TrainerError::Missing("no such job".to_owned());
        let mut job = job("running");
        not_seen(&mut job, &missing, NOW);
        not_seen(&mut job, &missing, NOW);
        observe(&mut job, &seen("running"), NOW);
        assert_eq!(job.misses, 0);
        (0..3).for_each(|_| not_seen(&mut job, &missing, NOW));
        assert_eq!(job.status, "failed");
        assert_eq!(job.error.unwrap()["code"], "provider_job_missing");
    }

    #[test]
    fn a_lost_answer_is_looked_for_ten_minutes_before_it_is_asked_again() {
        let mut job = job("submitting");
        job.submitted_at = Some(NOW);
        not_made(&mut job, &TrainerError::Unknown("closed".to_owned()), NOW);
        assert_eq!((job.status.as_str(), job.next_poll_at), ("submit_unknown", Some(NOW + 15_000)));
        for (at, next) in [(15_000, 75_000), (75_000, 375_000), (375_000, 675_000)] {
            not_found_yet(&mut job, NOW + at);
            assert_eq!(
                (job.status.as_str(), job.next_poll_at),
                ("submit_unknown", Some(NOW + next))
            );
        }
        not_found_yet(&mut job, NOW + 675_000);
        assert_eq!(job.status, "pending");
    }

    #[test]
    fn what_was_surely_not_made_is_asked_again_and_a_refusal_is_the_end() {
        let mut job = job("submitting");
        not_made(&mut job, &TrainerError::Unsent("no route".to_owned()), NOW);
        assert_eq!((job.status.as_str(), job.next_poll_at), ("pending", Some(NOW + 10_000)));
        let (code, message) = ("model_not_available".to_owned(), "no such model".to_owned());
        let refused =
            TrainerError::Refused { status: 400, code, message, param: "model".to_owned() };
        not_made(&mut job, &refused, NOW);
        assert_eq!(job.status, "failed");
        assert_eq!(job.status_reason.as_deref(), Some("no such model"));
    }

    #[test]
    fn the_row_keeps_the_last_lines_of_the_log() {
        let event = |n: i64| JobEvent {
            id: n.to_string(),
            created_at: n * 1000,
            level: "info".to_owned(),
            kind: "message".to_owned(),
            message: format!("step\n{n}"),
            data: None,
        };
        let mut job = job("running");
        let events: Vec<_> = (0..25).map(event).collect();
        log(&mut job, &events);
        let lines: Vec<_> = job.completion_log.lines().collect();
        assert_eq!((lines.len(), lines[0]), (20, "1970-01-01T00:00:05Z info step 5"));
    }

    #[test]
    fn parts_of_a_micro_dollar_are_rounded_up() {
        assert_eq!(micro(Usd::from_picodollars(1)), Some(1));
        assert_eq!(micro(Usd::from_picodollars(2_000_000)), Some(2));
    }
}
