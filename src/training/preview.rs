//! Shows what a recipe would do, without doing it: counts, and a few rows that each stage drops.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use crate::store::Datasets;

use super::dataset::BuildError;
use super::dataset::now;
use super::dataset::run;
use super::emit::emit;
use super::gather::Reading;
use super::recipe::Recipe;
use super::select::select;
use super::tally::Tally;

/// The stages in their order.
const STAGES: [&str; 12] = [
    "consent",
    "outcome",
    "structure",
    "assemble",
    "normalise",
    "redact",
    "quality",
    "dedupe",
    "contamination",
    "split",
    "balance",
    "emit",
];
/// Lines that are shown whole.
const LINES: usize = 3;

/// What a recipe would make of the first `most` rows. To be run where waiting is allowed.
///
/// # Errors
/// The recipe cannot be used, or the store is away.
pub async fn preview(
    datasets: &Datasets,
    recipe: &Recipe,
    most: u64,
    workers: usize,
) -> Result<Value, BuildError> {
    let reading = Reading { until: now(), most, workers };
    let mut pool = run(datasets, recipe, reading, true, None).await?;
    let chosen = select(&mut pool, recipe)?;
    let mut lines = Vec::new();
    for one in chosen.iter().take(LINES) {
        if let Some(entry) = pool.entries.get(one.entry) {
            let place = entry.place;
            let line = serde_json::from_str::<Value>(&pool.line(place)?);
            lines.push(line.map_err(std::io::Error::from)?);
        }
    }
    let emitted = emit(&mut pool, &chosen)?;
    let (train, validation) = (&emitted.train.about, &emitted.validation.about);
    Ok(json!({
        "object": "dataset.preview",
        "recipe": recipe.to_json(),
        "recipe_hash": recipe.hash(),
        "rows_read": pool.read,
        "all_rows_read": pool.read < most,
        "rows_kept": { "train": train.rows, "validation": validation.rows },
        "tokens": { "train": train.tokens, "validation": validation.tokens },
        "seen": pool.tally.seen,
        "stages": STAGES.map(|stage| stage_of(stage, &pool.tally, &pool.samples)),
        "examples": lines,
    }))
}

fn stage_of(stage: &str, tally: &Tally, samples: &[super::pool::Sample]) -> Value {
    let of = |counts: &BTreeMap<&'static str, u64>| -> BTreeMap<String, u64> {
        let reason = |(reason, rows): (&&str, &u64)| {
            Some((reason.strip_prefix(stage)?.strip_prefix('.')?.to_owned(), *rows))
        };
        counts.iter().filter_map(reason).collect()
    };
    let samples = samples.iter().filter_map(|sample| {
        let reason = sample.reason.strip_prefix(stage)?.strip_prefix('.')?;
        let id = sample.id.map(|id| id.to_string());
        Some(json!({ "interaction_id": id, "reason": reason, "excerpt": sample.excerpt }))
    });
    json!({
        "kind": stage,
        "dropped": of(&tally.dropped),
        "rewritten": of(&tally.rewritten),
        "samples": samples.collect::<Vec<_>>(),
    })
}
