//! Decides which of the rows stay, where that depends on the others: turns of one conversation,
//! duplicates, pairs of answers, shares; and on which side of the split each one is.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;

use super::pool::Entry;
use super::pool::Pool;
use super::recipe::Method;
use super::recipe::Recipe;
use super::settings::SplitBy;
use super::sip::sip;
use super::stages::balance::Balance;
use super::stages::balance::Weighed;
use super::stages::near;
use super::stages::split;
use super::stages::split::Families;
use super::tally::Reason;

const USER_KEY: [u64; 2] = [0x7765_6972, 0x7573_6572];

/// A line to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The row.
    pub(super) entry: usize,
    /// The worse answer to the same question, of a pair.
    pub(super) rejected: Option<usize>,
    pub(super) validation: bool,
}

/// Chooses lines, in the order in which they are written. What is not chosen is counted.
pub(super) fn select(pool: &mut Pool, recipe: &Recipe) -> std::io::Result<Vec<Chosen>> {
    if recipe.method == Method::Supervised && recipe.stages.assemble.enabled {
        assemble(pool);
    } else {
        let late = std::mem::take(&mut pool.late);
        late.iter().for_each(|(_, reason)| pool.tally.drop(reason));
    }
    exact(&mut pool.entries);
    alike(pool, recipe);
    let mut chosen = match recipe.method {
        Method::Supervised => alone(&pool.entries),
        Method::Preference => pairs(&mut pool.entries, recipe.stages.quality.margin),
    };
    chosen.sort_unstable_by_key(|chosen| pool.entries.get(chosen.entry).map(|e| e.content));
    sides(pool, recipe, &mut chosen);
    balance(pool, recipe, &mut chosen);
    count(pool)?;
    Ok(chosen)
}

/// Rows that later ones repeat go: the last turn holds them all.
fn assemble(pool: &mut Pool) {
    pool.earlier.sort_unstable();
    pool.earlier.dedup();
    let is_earlier = |whole: u64| pool.earlier.binary_search(&whole).is_ok();
    for entry in &mut pool.entries {
        if is_earlier(entry.whole) {
            entry.dropped = Some("assemble.earlier_turn");
        }
    }
    for (whole, reason) in std::mem::take(&mut pool.late) {
        pool.tally.drop(if is_earlier(whole) { "assemble.earlier_turn" } else { reason });
    }
    pool.earlier = Vec::new();
}

/// Of rows that say the same, the best judged stays, or else the first.
fn exact(entries: &mut [Entry]) {
    let open =
        |(at, entry): (usize, &Entry)| entry.dropped.is_none().then_some((at, entry.content));
    let rows: Vec<(usize, [u8; 16])> = entries.iter().enumerate().filter_map(open).collect();
    best_of_each(entries, rows, "dedupe.exact");
}

/// Of rows with the same mark, all but the best go.
fn best_of_each<T: Eq + Hash>(
    entries: &mut [Entry],
    rows: impl IntoIterator<Item = (usize, T)>,
    reason: Reason,
) {
    let mut best: HashMap<T, usize> = HashMap::new();
    for (at, mark) in rows {
        let kept = best.entry(mark).or_insert(at);
        if *kept == at {
            continue;
        }
        let rating = |at: usize| entries.get(at).map_or(0.0, worth);
        let goes = if rating(at) > rating(*kept) { std::mem::replace(kept, at) } else { at };
        set(entries, goes, reason);
    }
}

/// Joins families of rows that are nearly the same; of those, only the best judged one stays.
fn alike(pool: &mut Pool, recipe: &Recipe) {
    let goes = |entries: &[Entry], at: u32| {
        let entry = usize::try_from(at).ok().and_then(|at| entries.get(at));
        entry.is_none_or(|entry| entry.dropped.is_some())
    };
    let Pool { entries, sketches, families, .. } = pool;
    sketches.retain(|(at, _)| !goes(entries, *at));
    let mut clusters = Families::default();
    for _ in entries.iter() {
        clusters.add();
    }
    near::pairs(sketches, recipe.stages.dedupe.near, |one, other| {
        clusters.join(one, other);
        let node = |at: u32| entries.get(usize::try_from(at).ok()?).map(|entry| entry.node);
        if let (Some(one), Some(other)) = (node(one), node(other)) {
            families.join(one, other);
        }
    });
    let sketched: Vec<u32> = std::mem::take(sketches).into_iter().map(|(at, _)| at).collect();
    // Two answers to one question may be much alike, and yet one is better.
    if !recipe.stages.dedupe.enabled || recipe.method == Method::Preference {
        return;
    }
    let rows: Vec<(usize, u32)> = sketched
        .into_iter()
        .filter_map(|at| Some((usize::try_from(at).ok()?, clusters.root(at))))
        .collect();
    best_of_each(entries, rows, "dedupe.near");
}

/// What should have been said is best; what nobody judged stands between good and bad.
fn worth(entry: &Entry) -> f32 {
    if entry.demonstrated { f32::MAX } else { entry.rating.unwrap_or(0.5) }
}

fn set(entries: &mut [Entry], at: usize, reason: Reason) {
    if let Some(entry) = entries.get_mut(at) {
        entry.dropped = Some(reason);
    }
}

fn alone(entries: &[Entry]) -> Vec<Chosen> {
    let kept = entries.iter().enumerate().filter(|(_, entry)| entry.dropped.is_none());
    kept.map(|(entry, _)| Chosen { entry, rejected: None, validation: false }).collect()
}

/// The best and the worst answer to each question, where one is better by far enough; where a
/// person showed what should have been said, that is the better one.
fn pairs(entries: &mut [Entry], margin: f64) -> Vec<Chosen> {
    let mut questions: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut chosen = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        if entry.demonstrated {
            chosen.push(Chosen { entry: at, rejected: None, validation: false });
        } else {
            questions.entry(entry.prompt).or_default().push(at);
        }
    }
    let mut questions: Vec<Vec<usize>> = questions.into_values().collect();
    questions.sort_unstable();
    for mut answers in questions {
        let rating = |at: usize| entries.get(at).map_or(0.0, worth);
        answers.sort_by(|one, other| rating(*other).total_cmp(&rating(*one)));
        let pair = match answers[..] {
            [best, .., worst] if f64::from(rating(best) - rating(worst)) >= margin => {
                Some((best, worst))
            }
            _ => None,
        };
        for at in answers {
            if pair.is_none_or(|(best, worst)| at != best && at != worst) {
                set(entries, at, "quality.no_pair");
            }
        }
        if let Some((entry, worst)) = pair {
            chosen.push(Chosen { entry, rejected: Some(worst), validation: false });
        }
    }
    chosen
}

/// Puts each family to one side.
fn sides(pool: &mut Pool, recipe: &Recipe, chosen: &mut [Chosen]) {
    if recipe.split.by == SplitBy::User {
        for at in 0..pool.entries.len() {
            let known = pool.entries.get(at).and_then(|entry| Some((entry.node, entry.user?)));
            let named =
                known.and_then(|(node, user)| Some((node, pool.texts.value(user)?.clone())));
            if let Some((node, user)) = named {
                let user = pool.node(sip(USER_KEY, user.as_bytes()));
                pool.families.join(node, user);
            }
        }
    }
    let mut families = HashMap::new();
    for chosen in chosen {
        let Some(entry) = pool.entries.get(chosen.entry) else { continue };
        let root = pool.families.root(entry.node);
        let name = usize::try_from(root).ok().and_then(|root| pool.names.get(root));
        let name = name.copied().unwrap_or_default();
        chosen.validation = split::is_validation(name, &recipe.split);
        *families.entry(name).or_insert(0_u64) += 1;
    }
    pool.tally.see("families", u64::try_from(families.len()).unwrap_or(u64::MAX));
}

/// Those that answer come first: refusals may be a part of them.
fn balance(pool: &mut Pool, recipe: &Recipe, chosen: &mut Vec<Chosen>) {
    let mut balance = Balance::new(&recipe.caps);
    let Pool { entries, tools, .. } = pool;
    for refusing in [false, true] {
        for chosen in chosen.iter() {
            let Some(entry) = entries.get_mut(chosen.entry) else { continue };
            if entry.refuses != refusing {
                continue;
            }
            let weighed = Weighed {
                team: entry.team,
                key: entry.key,
                system: entry.system,
                tools: tools.value(entry.tools).map_or(&[], Vec::as_slice),
                refuses: entry.refuses,
            };
            entry.dropped = balance.admit(weighed).err();
        }
    }
    chosen.retain(|chosen| entries.get(chosen.entry).is_some_and(|e| e.dropped.is_none()));
}

/// Counts what went, and shows some of it.
fn count(pool: &mut Pool) -> std::io::Result<()> {
    for at in 0..pool.entries.len() {
        let Some(entry) = pool.entries.get(at) else { continue };
        let Some(reason) = entry.dropped else { continue };
        let (id, place) = (entry.id, entry.place);
        pool.tally.drop(reason);
        if pool.shows && pool.wants(reason) {
            let line: serde_json::Value = serde_json::from_str(&pool.line(place)?)?;
            let messages = line.get("messages").and_then(serde_json::Value::as_array);
            let excerpt = messages.map(|messages| super::examine::excerpt(messages));
            pool.show(Some(id).filter(|id| !id.is_nil()), reason, excerpt);
        }
    }
    Ok(())
}
