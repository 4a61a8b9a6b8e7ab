//! Stage 7: what people thought of an answer, and what can be seen of it without them.

use std::collections::HashSet;

use serde_json::Map;
use serde_json::Value;

use crate::training::example::Example;
use crate::training::example::said;
use crate::training::example::text;
use crate::training::settings::Feedback;
use crate::training::settings::Quality;
use crate::training::tally::Reason;
use crate::training::tally::Tally;

/// Words of an answer from which on it can repeat itself.
const LEAST_WORDS: usize = 30;
/// Words that are compared at a time.
const GRAM: usize = 3;
/// Characters from which on a language can be told.
const LEAST_CHARACTERS: usize = 40;

/// What an answer is worth, from 0 to 1, by its verdicts; `None` where nobody judged it.
pub(in crate::training) fn rating(verdicts: &Map<String, Value>, by: Option<&str>) -> Option<f64> {
    let judged = verdicts.iter().filter(|(name, _)| by.is_none_or(|by| *name == by));
    let worth: Vec<f64> = judged.filter_map(|(_, value)| number(value)).collect();
    // Few enough to be exact.
    let count = u32::try_from(worth.len()).ok().filter(|count| *count > 0)?;
    Some(worth.iter().sum::<f64>() / f64::from(count))
}

/// Puts what should have been said in the place of what was said; returns what was.
pub(in crate::training) fn demonstrate(
    example: &mut Example,
    verdicts: &Map<String, Value>,
    tally: &mut Tally,
) -> Option<Value> {
    let shown = verdicts.values().filter_map(|value| value.get("demonstration")).next_back()?;
    // Only what a message of training data may have.
    let members = shown.as_object()?.iter().filter(|(name, value)| {
        matches!(name.as_str(), "role" | "content" | "name" | "tool_calls") && !value.is_null()
    });
    let shown = Value::Object(members.map(|(name, value)| (name.clone(), value.clone())).collect());
    let last = example.messages.last_mut()?;
    tally.rewrite("quality.demonstration", 1);
    Some(std::mem::replace(last, shown))
}

/// Whether people thought well enough of an answer.
pub(in crate::training) fn judged(
    verdicts: &Map<String, Value>,
    wanted: &[Feedback],
) -> Result<(), Reason> {
    for Feedback { name, min, is, required } in wanted {
        let Some(value) = verdicts.get(name) else {
            if *required {
                return Err("quality.no_feedback");
            }
            continue;
        };
        let enough = min.is_none_or(|min| number(value).is_some_and(|value| value >= min));
        let same = is.as_ref().is_none_or(|is| value.as_str() == Some(is));
        if !enough || !same {
            return Err("quality.feedback");
        }
    }
    Ok(())
}

/// Whether an example is neither too long nor too short, and its answer no stammer.
pub(in crate::training) fn sound(
    example: &Example,
    tokens: u64,
    answer_tokens: u64,
    settings: &Quality,
) -> Result<(), Reason> {
    if tokens > settings.max_tokens {
        return Err("quality.too_long");
    }
    if tokens < settings.min_tokens {
        return Err("quality.too_short");
    }
    if answer_tokens < settings.min_answer_tokens {
        return Err("quality.short_answer");
    }
    let Some(answer) = example.answer() else { return Err("structure.no_assistant") };
    if repetition(&said(answer)) > settings.max_repetition {
        return Err("quality.repetition");
    }
    language(&text(answer), &settings.languages)
}

fn language(answer: &str, allowed: &[String]) -> Result<(), Reason> {
    if allowed.is_empty() || answer.chars().count() < LEAST_CHARACTERS {
        return Ok(());
    }
    let found = whatlang::detect(answer).filter(whatlang::Info::is_reliable);
    let known = found.is_none_or(|found| allowed.iter().any(|code| *code == found.lang().code()));
    if known { Ok(()) } else { Err("quality.language") }
}

/// The part of an answer's three-word runs that stood there before, from 0 to 1.
fn repetition(answer: &str) -> f64 {
    let words: Vec<&str> = answer.split_whitespace().collect();
    if words.len() < LEAST_WORDS {
        return 0.0;
    }
    let runs: Vec<&[&str]> = words.windows(GRAM).collect();
    let distinct = runs.iter().collect::<HashSet<_>>().len();
    let count = |count: usize| u32::try_from(count).map_or(f64::MAX, f64::from);
    1.0 - count(distinct) / count(runs.len())
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(true) => Some(1.0),
        Value::Bool(false) => Some(0.0),
        value => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdicts(json: Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_rating_is_the_mean_of_bools_and_numbers_or_one_of_them() {
        let given = verdicts(json!({ "thumbs": true, "score": 0.5, "why": "long" }));
        assert_eq!(rating(&given, None), Some(0.75));
        assert_eq!(rating(&given, Some("thumbs")), Some(1.0));
        assert_eq!(rating(&given, Some("stars")), None);
        assert_eq!(rating(&verdicts(json!({ "why": "long" })), None), None);
    }

    #[test]
    fn an_answer_has_to_be_good_enough_where_it_was_judged() {
        let wanted = |required| {
            let thumbs = Feedback { name: "thumbs".to_owned(), min: Some(1.0), is: None, required };
            vec![thumbs]
        };
        let judge = |given: Value, required| judged(&verdicts(given), &wanted(required));
        assert_eq!(judge(json!({ "thumbs": true }), true), Ok(()));
        assert_eq!(judge(json!({ "thumbs": false }), false), Err("quality.feedback"));
        assert_eq!(judge(json!({}), false), Ok(()));
        assert_eq!(judge(json!({}), true), Err("quality.no_feedback"));
    }

    #[test]
    fn a_demonstration_takes_the_place_of_the_answer() {
        let messages = vec![
            json!({ "role": "user", "content": "6 x 7?" }),
            json!({ "role": "assistant", "content": "41" }),
        ];
        let (mut example, mut tally) =
            (Example { messages, ..Example::default() }, Tally::default());
        let shown = json!({ "role": "assistant", "content": "42", "refusal": null });
        let given = verdicts(json!({ "better": { "demonstration": shown } }));
        let was = demonstrate(&mut example, &given, &mut tally).unwrap();
        assert_eq!(was["content"], "41");
        assert_eq!(example.messages[1], json!({ "role": "assistant", "content": "42" }));
        assert_eq!(tally.rewritten, [("quality.demonstration", 1)].into());
    }

    #[test]
    fn stammering_length_and_language_are_seen() {
        let answer = |text: &str| Example {
            messages: vec![json!({ "role": "assistant", "content": text })],
            ..Example::default()
        };
        let settings = Quality {
            languages: vec!["eng".to_owned()],
            max_tokens: 100,
            min_tokens: 2,
            ..Quality::default()
        };
        let good =
            answer("It will rain in Bonn tomorrow, so you should take an umbrella with you.");
        assert_eq!(sound(&good, 100, 1, &settings), Ok(()));
        assert_eq!(sound(&good, 101, 1, &settings), Err("quality.too_long"));
        assert_eq!(sound(&good, 1, 1, &settings), Err("quality.too_short"));
        assert_eq!(sound(&good, 50, 0, &settings), Err("quality.short_answer"));
        let stammer = answer(&"no no ".repeat(30));
        assert_eq!(sound(&stammer, 50, 50, &settings), Err("quality.repetition"));
        let german = answer(
            "Morgen wird es in Bonn regnen, deshalb solltest du einen Regenschirm mitnehmen.",
        );
        assert_eq!(sound(&german, 50, 50, &settings), Err("quality.language"));
    }
}
