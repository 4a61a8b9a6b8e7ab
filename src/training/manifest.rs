//! What a dataset says of itself: counts by reason, tokens, models, sides, and one hash.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use super::digest::sha256;
use super::emit::Emitted;
use super::pool::Pool;
use super::recipe::Recipe;
use super::tally::Tally;

/// The manifest, as the row keeps it. `until` is in milliseconds since 1970.
pub(super) fn of(pool: &Pool, recipe: &Recipe, until: i64, emitted: &Emitted) -> Value {
    let (train, validation) = (&emitted.train.about, &emitted.validation.about);
    let mut models: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in pool.entries.iter().filter(|entry| entry.dropped.is_none()) {
        let model = pool.texts.value(entry.model).map_or("", String::as_str);
        *models.entry(if model.is_empty() { "unknown" } else { model }).or_default() += 1;
    }
    let both = format!("{}\n{}\n", train.sha256, validation.sha256);
    let until = chrono::DateTime::from_timestamp_millis(until).unwrap_or_default();
    json!({
        "hash": sha256(both.as_bytes()).hex(),
        "recipe_hash": recipe.hash(),
        "model": recipe.model,
        "until": until.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "rows_read": pool.read,
        "rows_kept": train.rows + validation.rows,
        "tokens": train.tokens + validation.tokens,
        "dropped": pool.tally.dropped,
        "rewritten": pool.tally.rewritten,
        "seen": pool.tally.seen,
        "models": models,
        "splits": { "train": train, "validation": validation },
    })
}

/// What became of rows that were dropped, the most frequent reason first.
pub(super) fn reasons(tally: &Tally) -> String {
    let mut reasons: Vec<_> = tally.dropped.iter().collect();
    reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(**rows));
    if reasons.is_empty() {
        return "none were dropped".to_owned();
    }
    let told: Vec<String> =
        reasons.iter().map(|(reason, rows)| format!("{reason}: {rows}")).collect();
    format!("dropped: {}", told.join(", "))
}
