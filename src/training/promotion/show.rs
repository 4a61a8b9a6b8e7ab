//! How aliases and the comparison of their arms are shown.

use chrono::DateTime;
use chrono::SecondsFormat;
use serde_json::Value;
use serde_json::json;

use crate::metering::money::Usd;
use crate::store::AliasRow;
use crate::store::Arm;
use crate::store::Canary;
use crate::store::Outcomes;

use super::evidence::Evidence;
use super::evidence::threshold;
use super::look::NAMES;
use super::look::read;

/// An alias.
pub fn alias(row: &AliasRow) -> Value {
    json!({
        "object": "alias",
        "id": row.name,
        "name": row.name,
        "status": if row.canary.is_some() { "canary" } else { "stable" },
        "model": row.serving.model,
        "serving": arm(&row.serving),
        "canary": row.canary.as_ref().map(canary),
        "previous": row.previous.as_ref().map(arm),
        "last_outcome": row.outcome,
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
    })
}

fn arm(arm: &Arm) -> Value {
    json!({ "model": arm.model, "job_id": arm.job_id, "dataset_id": arm.dataset_id,
        "pruned_texts": arm.prune.len() })
}

fn canary(canary: &Canary) -> Value {
    let mut shown = arm(&canary.arm);
    let terms = json!({
        "percent": canary.percent,
        "next_steps": canary.steps,
        "step_minutes": canary.step_ms as f64 / 60_000.0,
        "min_calls": canary.least_calls,
        "calls_in_step": canary.step_calls,
        "started_at": time(canary.started_at),
        "step_started_at": time(canary.step_at),
        "compared_until": time(canary.looked_until),
        "price_ratio": canary.cost_ratio,
    });
    if let (Value::Object(shown), Value::Object(terms)) = (&mut shown, terms) {
        shown.extend(terms);
    }
    shown
}

/// The comparison of an alias's arms: all calls of the trial, and what the test makes of them.
pub fn comparison(row: &AliasRow, arms: &[Outcomes; 2]) -> Value {
    let Some(canary) = &row.canary else { return Value::Null };
    let measures = NAMES.iter().zip(read(&canary.evidence));
    let test: serde_json::Map<_, _> =
        measures.map(|(name, of)| ((*name).to_owned(), evidence(&of))).collect();
    let usual = canary.usual.map(|usual| {
        let cost = usual.dear(1.0).map(usd);
        json!({ "slow_ms": usual.slow_ms(), "dear_usd": cost })
    });
    json!({
        "serving": outcomes(&row.serving.model, &arms[0]),
        "canary": outcomes(&canary.arm.model, &arms[1]),
        "counts_as_above": usual,
        "rolls_back_at": threshold(),
        "test": test,
    })
}

fn outcomes(model: &str, of: &Outcomes) -> Value {
    let went = of.calls - of.failed;
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    json!({
        "model": model,
        "calls": of.calls,
        "failed": of.failed,
        "error_rate": share(of.failed, of.calls),
        "mean_latency_ms": (went > 0).then_some(of.mean_ms.round()),
        "slow_share": share(of.slow, went),
        "mean_cost_usd": (of.priced > 0).then(|| usd(rounded(of.mean_picodollars))),
        "unpriced": went - of.priced,
    })
}

/// What a test has seen, and what it says.
pub(super) fn evidence(of: &Evidence) -> Value {
    json!({ "finding": of.finding(), "evidence": of.value(),
        "canary": { "of": of.total.canary, "bad": of.total.canary_bad },
        "serving": { "of": of.total.serving, "bad": of.total.serving_bad } })
}

fn usd(picodollars: i64) -> String {
    Usd::from_picodollars(picodollars.into()).to_string()
}

#[expect(clippy::cast_possible_truncation, reason = "a mean cost of a call is small")]
fn rounded(mean: f64) -> i64 {
    mean.round() as i64
}

/// A time in milliseconds since 1970, in RFC 3339.
pub(super) fn time(millis: i64) -> String {
    let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
