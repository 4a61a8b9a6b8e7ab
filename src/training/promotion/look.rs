//! One look at a trial: what both arms came to since the last one, and what follows from that.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::background::note;
use crate::store::AliasRow;
use crate::store::Aliases;
use crate::store::Canary;
use crate::store::Compared;
use crate::store::StoreError;

use super::evidence::Block;
use super::evidence::Evidence;
use super::evidence::Finding;
use super::evidence::MEASURES;
use super::roll_back;
use super::save;
use super::take_over;
use crate::training::dataset::now;
use crate::training::order::Refusal;

/// What is compared, in the order of the evidence.
pub(super) const NAMES: [&str; MEASURES] = ["errors", "latency", "cost", "feedback"];
/// Calls of the serving arm that say what is usual.
const ENOUGH: usize = 100;

/// How often a trial is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time between two looks.
    pub every: Duration,
    /// Younger calls are left to the next look: their records may be on their way.
    pub behind: Duration,
}

impl Pace {
    /// For real traffic.
    pub const USUAL: Self =
        Self { every: Duration::from_secs(10), behind: Duration::from_secs(15) };
    /// For trying it out against the stand-in.
    pub const SIMULATED: Self =
        Self { every: Duration::from_secs(1), behind: Duration::from_secs(1) };
}

/// Looks at all trials, for ever. Several gateways may: of two looks one counts.
pub async fn watch(aliases: Aliases, pace: Pace) {
    let mut tick = tokio::time::interval(pace.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = note(look_at_all(&aliases, pace).await) {
            tracing::debug!(%error, "canaries cannot be compared");
        }
    }
}

async fn look_at_all(aliases: &Aliases, pace: Pace) -> Result<(), StoreError> {
    for mut row in aliases.all().await? {
        let behind = i64::try_from(pace.behind.as_millis()).unwrap_or(i64::MAX);
        let every = i64::try_from(pace.every.as_millis()).unwrap_or(i64::MAX);
        let until = now() - behind;
        // Another gateway has just looked.
        let due = |canary: &Canary| until - canary.looked_until >= every / 2;
        if row.canary.as_ref().is_some_and(due) {
            look(aliases, &mut row, until).await?;
        }
    }
    Ok(())
}

/// Compares the arms of a trial by the calls before `until`, in milliseconds since 1970, and takes
/// it a step on, or back.
///
/// # Errors
/// The store is away.
pub async fn look(aliases: &Aliases, row: &mut AliasRow, until: i64) -> Result<(), StoreError> {
    let Some(mut canary) = row.canary.clone() else { return Ok(()) };
    let now = now();
    let mut evidence = read(&canary.evidence);
    let calls = compare(aliases, row, &mut canary, &mut evidence, until).await?;
    canary.looked_until = until;
    canary.step_calls += calls;
    canary.evidence = written(&evidence);
    let worse = NAMES.iter().zip(&evidence).find(|(_, of)| of.finding() == Finding::Worse);
    row.updated_at = now;
    let done = if let Some((measure, of)) = worse {
        let why = reason(measure, of);
        tracing::warn!(
            alias = row.name,
            model = canary.arm.model,
            measure,
            "a canary is worse beyond chance: it is rolled back"
        );
        row.canary = Some(canary);
        roll_back(aliases, row, &why, now).await
    } else if may_go_on(&canary, &evidence, until) {
        step(aliases, row, canary, now).await
    } else {
        row.canary = Some(canary);
        save(aliases, row, None).await
    };
    match done {
        Err(Refusal::Store(error)) => Err(error),
        // Somebody else was faster.
        Err(Refusal::Refused(_)) | Ok(()) => Ok(()),
    }
}

/// Adds what the calls since the last look came to; returns how many the canary had.
async fn compare(
    aliases: &Aliases,
    row: &AliasRow,
    canary: &mut Canary,
    evidence: &mut [Evidence; MEASURES],
    until: i64,
) -> Result<u64, StoreError> {
    // What is usual is known before the calls that are held against it.
    let usual = canary.usual;
    if usual.is_none() {
        let serving = &row.serving.model;
        canary.usual = aliases.usual(&row.name, serving, canary.started_at, ENOUGH).await?;
    }
    // Higher prices were known when the model was promoted: what counts is what comes on top.
    let ratio = canary.cost_ratio.map(|ratio| ratio.max(1.0));
    let dear = usual.zip(ratio).and_then(|(of, ratio)| Some([of.dear(1.0)?, of.dear(ratio)?]));
    let of = Compared {
        alias: &row.name,
        canary: &canary.arm.model,
        since: canary.looked_until,
        until,
        slow_ms: usual.map_or(i64::MAX, |usual| usual.slow_ms()),
        dear: dear.unwrap_or([i64::MAX; 2]),
    };
    let [serving, tried] = aliases.outcomes(&of).await?;
    let block = |of: fn(&crate::store::Outcomes) -> (u64, u64)| {
        let ((canary, canary_bad), (serving, serving_bad)) = (of(&tried), of(&serving));
        Block { canary, canary_bad, serving, serving_bad }
    };
    evidence[0].add(block(|of| (of.calls, of.failed)));
    if usual.is_some() {
        evidence[1].add(block(|of| (of.calls - of.failed, of.slow)));
    }
    if dear.is_some() {
        evidence[2].add(block(|of| (of.priced, of.dear)));
    }
    let [serving, verdicts] = aliases.verdicts(&of).await?;
    evidence[3].add(Block {
        canary: verdicts.0,
        canary_bad: verdicts.1,
        serving: serving.0,
        serving_bad: serving.1,
    });
    Ok(tried.calls)
}

fn may_go_on(canary: &Canary, evidence: &[Evidence], until: i64) -> bool {
    !canary.steps.is_empty()
        && canary.step_calls >= canary.least_calls
        && until - canary.step_at >= canary.step_ms
        && evidence.iter().all(|of| of.finding() == Finding::Fine)
}

/// The next share; the last one ends the trial.
async fn step(
    aliases: &Aliases,
    row: &mut AliasRow,
    mut canary: Canary,
    now: i64,
) -> Result<(), Refusal> {
    let percent = canary.steps.remove(0);
    let told = json!({ "model": canary.arm.model, "percent": percent, "by": "comparison",
        "calls": canary.step_calls });
    tracing::info!(alias = row.name, model = canary.arm.model, percent, "a canary's share grows");
    if percent >= 100.0 {
        take_over(row, canary.arm, &told);
        return save(aliases, row, Some(("promoted", &told))).await;
    }
    row.canary = Some(Canary { percent, step_at: now, step_calls: 0, ..canary });
    save(aliases, row, Some(("share_changed", &told))).await
}

fn reason(measure: &str, of: &Evidence) -> Value {
    json!({ "by": "comparison", "measure": measure, "evidence": super::show::evidence(of) })
}

/// The evidence as its row keeps it.
pub(super) fn read(kept: &Value) -> [Evidence; MEASURES] {
    NAMES.map(|name| {
        let kept = kept.get(name).cloned().unwrap_or_default();
        serde_json::from_value(kept).unwrap_or_default()
    })
}

fn written(evidence: &[Evidence; MEASURES]) -> Value {
    NAMES.iter().zip(evidence).map(|(name, of)| ((*name).to_owned(), json!(of))).collect()
}
