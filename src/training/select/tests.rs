//! What is kept of rows that depend on each other.

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
    let (chosen, mut pool) = selected(json!({ "method": "preference" }), &[line.clone(), other]);
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
    let answer = |at: u32| format!("answer {at} {} {} {} {}", at * 7, at * 11, at * 13, at * 17);
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
