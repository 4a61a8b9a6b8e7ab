//! Decides which of the rows stay, where that depends on the others: turns of one conversation,
//! duplicates, pairs of answers, shares; and on which side of the split each one is.

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

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::io::Seek as _;

    use serde_json::Value;
    use serde_json::json;

    use super::*;
    use crate::training::emit::Emitted;
    use crate::training::emit::emit;
    use crate::training::examine::Examiner;
    use crate::training::recipe::FileSource;
    use crate::training::stages::contamination::Holdout;
    use crate::training::tally::Tally;

    /// What becomes of lines that a recipe takes: each kept one's place, and the counts.
    fn selected(recipe: Value, lines: &[Value]) -> (Vec<Chosen>, Pool) {
        let mut whole = json!({ "name": "n" });
        whole.as_object_mut().unwrap().extend(recipe.as_object().unwrap().clone());
        let recipe = Recipe::parse(whole.to_string().as_bytes()).unwrap();
        let holdout = Holdout::new(13);
        let examiner = Examiner { recipe: recipe.clone(), holdout, shows: true };
        let named = |name: &str| Some(name.to_owned());
        let source = FileSource {
            path: String::new(),
            conversation: named("session"),
            family: None,
            rating: named("rating"),
        };
        let mut pool = Pool::new(true).unwrap();
        for line in lines {
            let mut examined = examiner.line(&line.to_string(), &source);
            examined.about.user = line["user"].as_str().map(str::to_owned);
            pool.take(examined).unwrap();
        }
        let chosen = select(&mut pool, &recipe).unwrap();
        (chosen, pool)
    }

    fn dropped(tally: &Tally) -> Vec<(Reason, u64)> {
        tally.dropped.iter().map(|(reason, rows)| (*reason, *rows)).collect()
    }

    /// The lines of both sides.
    fn written(pool: &mut Pool, chosen: &[Chosen]) -> Vec<Value> {
        let Emitted { train, validation, .. } = emit(pool, chosen).unwrap();
        let mut text = String::new();
        for mut side in [train.file, validation.file] {
            side.rewind().unwrap();
            side.read_to_string(&mut text).unwrap();
        }
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Said in turns, the user first.
    fn said(turns: &[&str]) -> Value {
        let roles = ["user", "assistant"].into_iter().cycle();
        let message = |(role, text): (&str, &&str)| json!({ "role": role, "content": text });
        json!({ "messages": Value::from_iter(roles.zip(turns).map(message)) })
    }

    fn rated(turns: &[&str], rating: Value) -> Value {
        let mut line = said(turns);
        line["rating"] = rating;
        line
    }

    #[test]
    fn the_turns_of_a_conversation_become_its_last_one() {
        let lines = [
            said(&["rain?", "no"]),
            said(&["rain?", "no", "snow?", "yes"]),
            said(&["rain?", "no", "snow?", "yes", "how much?", "a lot"]),
            // Another answer to the first question: another branch of the same family.
            said(&["rain?", "perhaps a little in the evening"]),
        ];
        let (chosen, pool) = selected(json!({}), &lines);
        let mut kept: Vec<usize> = chosen.iter().map(|chosen| chosen.entry).collect();
        kept.sort_unstable();
        assert_eq!(kept, [2, 3]);
        assert_eq!(dropped(&pool.tally), [("assemble.earlier_turn", 2)]);
        assert_eq!(pool.tally.seen.get("families"), Some(&1));
        let off = json!({ "stages": [{ "kind": "assemble", "enabled": false }, { "kind": "dedupe", "near": 1.0 }] });
        assert_eq!(selected(off, &lines).0.len(), 4);
    }

    #[test]
    fn an_earlier_turn_is_one_even_where_the_last_one_is_dropped() {
        let long = "word ".repeat(200);
        let lines = [said(&["rain?", "no"]), said(&["rain?", "no", &long, "too much"])];
        let recipe = json!({ "stages": [{ "kind": "quality", "max_tokens": 100 }] });
        let (chosen, pool) = selected(recipe, &lines);
        assert!(chosen.is_empty());
        assert_eq!(dropped(&pool.tally), [("assemble.earlier_turn", 1), ("quality.too_long", 1)]);
    }

    #[test]
    fn of_duplicates_the_best_judged_stays() {
        let words =
            |end: &str| format!("one two three four five six seven eight nine ten eleven {end}");
        let lines = [
            rated(&["count", &words("twelve")], json!(false)),
            rated(&["count", &words("twelve")], json!(true)),
            said(&["sing", "la la la la la la la la"]),
            said(&["sing", "la la la la la la la la"]),
            rated(
                &["count on", &words("12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30")],
                json!(0.2),
            ),
            rated(
                &["count on", &words("12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 31")],
                json!(0.9),
            ),
        ];
        let (chosen, pool) = selected(json!({}), &lines);
        let mut kept: Vec<usize> = chosen.iter().map(|chosen| chosen.entry).collect();
        kept.sort_unstable();
        assert_eq!(kept, [1, 2, 5]);
        assert_eq!(dropped(&pool.tally), [("dedupe.exact", 2), ("dedupe.near", 1)]);
        let sample = pool.samples.iter().find(|sample| sample.reason == "dedupe.exact").unwrap();
        assert_eq!(sample.excerpt, format!("user: count\nassistant: {}", words("twelve")));
    }

    #[test]
    fn two_rated_answers_to_one_question_are_a_pair() {
        let lines = [
            rated(&["rain?", "no"], json!(true)),
            rated(&["rain?", "who knows"], json!(false)),
            rated(&["rain?", "hm"], json!(0.5)),
            rated(&["snow?", "yes"], json!(0.9)),
            rated(&["snow?", "maybe"], json!(0.8)),
            said(&["hail?", "no"]),
        ];
        let (chosen, mut pool) = selected(json!({ "method": "preference" }), &lines);
        let pairs: Vec<_> = chosen.iter().map(|one| (one.entry, one.rejected)).collect();
        assert_eq!(pairs, [(0, Some(1))]);
        assert_eq!(dropped(&pool.tally), [("quality.no_feedback", 1), ("quality.no_pair", 3)]);
        assert_eq!(
            written(&mut pool, &chosen),
            [json!({
                "input": { "messages": [{ "role": "user", "content": "rain?" }] },
                "preferred_output": [{ "role": "assistant", "content": "no" }],
                "non_preferred_output": [{ "role": "assistant", "content": "who knows" }],
            })]
        );
    }

    #[test]
    fn what_should_have_been_said_and_what_was_are_a_pair() {
        let better = json!({ "role": "assistant", "content": "no, but bring a coat" });
        let line = rated(&["rain?", "no"], json!({ "demonstration": better }));
        let other = rated(&["snow?", "yes"], json!(true));
        let (chosen, mut pool) =
            selected(json!({ "method": "preference" }), &[line.clone(), other]);
        assert_eq!(dropped(&pool.tally), [("quality.no_pair", 1)]);
        let pairs = written(&mut pool, &chosen);
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0]["preferred_output"], json!([better]));
        assert_eq!(pairs[0]["non_preferred_output"][0]["content"], "no");
        let (chosen, mut pool) = selected(json!({}), &[line]);
        let lines = written(&mut pool, &chosen);
        assert_eq!(lines[0]["messages"][1], better);
    }

    #[test]
    fn families_stay_on_their_side_when_others_come() {
        let answer =
            |at: u32| format!("answer {at} {} {} {} {}", at * 7, at * 11, at * 13, at * 17);
        let line = |at: u32| {
            let mut line = said(&[&format!("question {at}?"), &answer(at)]);
            line["session"] = json!(format!("s{}", at / 2));
            line
        };
        let sides = |count: u32| {
            let lines: Vec<Value> = (0..count).map(line).collect();
            let recipe = json!({ "split": { "validation": 0.3 } });
            let (mut chosen, pool) = selected(recipe, &lines);
            chosen.sort_unstable_by_key(|one| one.entry);
            assert_eq!(chosen.len(), lines.len(), "{:?}", pool.tally.dropped);
            chosen.iter().map(|one| one.validation).collect::<Vec<bool>>()
        };
        let (few, many) = (sides(60), sides(100));
        assert_eq!(few, many[..60]);
        assert!(many.chunks(2).all(|family| family[0] == family[1]), "a session is on one side");
        let kept = many.iter().filter(|validation| **validation).count();
        // 50 sessions, 15 expected, with a standard deviation of 3.2.
        assert!((5 * 2..=25 * 2).contains(&kept), "{kept}");
    }

    #[test]
    fn what_one_user_said_is_on_one_side_where_that_is_wanted() {
        let line = |at: u32| {
            let mut line = said(&[&format!("question {at}?"), &format!("{}", at * 7919)]);
            line["user"] = json!(format!("u{}", at % 10));
            line
        };
        let lines: Vec<Value> = (0..80).map(line).collect();
        let sides = |by: &str| {
            let recipe = json!({ "split": { "validation": 0.5, "by": by } });
            let (chosen, _) = selected(recipe, &lines);
            assert_eq!(chosen.len(), 80);
            let mut sides = [[false; 2]; 10];
            chosen.iter().for_each(|one| sides[one.entry % 10][usize::from(one.validation)] = true);
            sides.iter().filter(|sides| **sides == [true, true]).count()
        };
        assert_eq!(sides("user"), 0);
        assert_eq!(sides("conversation"), 10, "8 questions each: not all on one side by chance");
    }

    #[test]
    fn caps_keep_the_same_rows_whatever_order_they_come_in() {
        let mut lines: Vec<Value> =
            (0..20).map(|at| said(&[&format!("{at}?"), &format!("number {at}")])).collect();
        let kept = |lines: &[Value]| {
            let (chosen, mut pool) = selected(json!({ "caps": { "rows": 5 } }), lines);
            let lines: Vec<String> = chosen
                .iter()
                .map(|one| {
                    let place = pool.entries[one.entry].place;
                    pool.line(place).unwrap()
                })
                .collect();
            assert_eq!(dropped(&pool.tally), [("balance.rows", 15)]);
            lines
        };
        let first = kept(&lines);
        lines.reverse();
        assert_eq!(kept(&lines), first);
    }
}
