//! Stage 5: one form for the same text, and without what the recipe prunes.

use std::borrow::Cow;

use serde_json::Value;
use unicode_normalization::IsNormalized;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::is_nfc_quick;

use crate::training::example::Example;
use crate::training::example::role;
use crate::training::settings::Normalise;
use crate::training::tally::Reason;
use crate::training::tally::Tally;

/// Shapes of what changes from call to call: `0` is a digit, `x` a hex digit, the rest itself.
/// Longer ones first.
const SHAPES: [(&str, &str); 5] = [
    ("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "<UUID>"),
    ("0000-00-00", "<DATE>"),
    ("00/00/0000", "<DATE>"),
    ("00:00:00", "<TIME>"),
    ("00:00", "<TIME>"),
];

/// Brings the texts of an example into one form.
pub(in crate::training) fn normalise(
    example: &mut Example,
    settings: &Normalise,
    tally: &mut Tally,
) -> Result<(), Reason> {
    if !settings.enabled {
        return Ok(());
    }
    let mut messages = Vec::with_capacity(example.messages.len());
    for mut message in std::mem::take(&mut example.messages) {
        let is_system = role(&message) == "system";
        let prunes = is_system || role(&message) == "user";
        for_each_text(&mut message, |text| {
            composed_and_trimmed(text, tally);
            if prunes {
                prune(text, &settings.prune, tally);
            }
            if is_system && settings.volatile {
                let without = templated(text);
                if without != *text {
                    *text = without.into_owned();
                    tally.rewrite("normalise.volatile", 1);
                }
            }
        });
        // A system prompt that was pruned whole is no message.
        if !(is_system && message.get("content").is_some_and(|content| content == "")) {
            messages.push(message);
        }
    }
    example.messages = messages;
    let empty = example.answer().is_none_or(|answer| {
        answer.get("tool_calls").is_none() && answer.get("content").is_none_or(|text| text == "")
    });
    if empty { Err("normalise.empty_answer") } else { Ok(()) }
}

/// Calls with each text of a message: its content, or those of its parts.
pub(in crate::training) fn for_each_text(message: &mut Value, mut change: impl FnMut(&mut String)) {
    match message.get_mut("content") {
        Some(Value::String(text)) => change(text),
        Some(Value::Array(parts)) => {
            for part in parts {
                if let Some(Value::String(text)) = part.get_mut("text") {
                    change(text);
                }
            }
        }
        _ => {}
    }
}

fn composed_and_trimmed(text: &mut String, tally: &mut Tally) {
    if !text.is_ascii() && is_nfc_quick(text.chars()) != IsNormalized::Yes {
        let composed: String = text.nfc().collect();
        if composed != *text {
            *text = composed;
            tally.rewrite("normalise.composed", 1);
        }
    }
    let trimmed = text.trim();
    if trimmed.len() < text.len() {
        *text = trimmed.to_owned();
        tally.rewrite("normalise.trimmed", 1);
    }
}

fn prune(text: &mut String, pieces: &[String], tally: &mut Tally) {
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        let times = text.matches(piece.as_str()).count();
        if times > 0 {
            *text = text.replace(piece.as_str(), "").trim().to_owned();
            tally.rewrite("normalise.pruned", u64::try_from(times).unwrap_or(u64::MAX));
        }
    }
}

/// A text with placeholders for dates, times and UUIDs.
pub(in crate::training) fn templated(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut out, mut done, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        let found = SHAPES.iter().find(|(shape, _)| fits(bytes, at, shape.as_bytes()));
        let Some((shape, placeholder)) = found else {
            at += 1;
            continue;
        };
        // Shapes are ASCII, so that they begin and end at characters.
        out.push_str(text.get(done..at).unwrap_or_default());
        out.push_str(placeholder);
        at += shape.len();
        done = at;
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(done..).unwrap_or_default());
    Cow::Owned(out)
}

/// Whether a shape stands there by itself, not within a longer word or number.
fn fits(bytes: &[u8], at: usize, shape: &[u8]) -> bool {
    let Some(given) = bytes.get(at..at + shape.len()) else { return false };
    let alike = |(given, shape): (&u8, &u8)| match shape {
        b'0' => given.is_ascii_digit(),
        b'x' => given.is_ascii_hexdigit(),
        other => given == other,
    };
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    // An ISO time stands behind its date's T.
    let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() && **byte != b'T' && **byte != b'Z';
    given.iter().zip(shape).all(alike)
        && before.filter(is_word).is_none()
        && bytes.get(at + shape.len()).filter(is_word).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn done(system: &str, settings: &Normalise) -> (Vec<Value>, Tally) {
        let messages = vec![
            json!({ "role": "system", "content": system }),
            json!({ "role": "user", "content": [{ "type": "text", "text": " cafe\u{301}\n" }] }),
            json!({ "role": "assistant", "content": "ok" }),
        ];
        let (mut example, mut tally) =
            (Example { messages, ..Example::default() }, Tally::default());
        normalise(&mut example, settings, &mut tally).unwrap();
        (example.messages, tally)
    }

    #[test]
    fn texts_are_composed_trimmed_and_pruned() {
        let prune = vec!["Do as I say. ".to_owned()];
        let (messages, tally) =
            done("Do as I say. Be brief.", &Normalise { prune, ..Normalise::default() });
        assert_eq!(messages[0]["content"], "Be brief.");
        assert_eq!(messages[1]["content"][0]["text"], "caf\u{e9}");
        let expected =
            [("normalise.composed", 1), ("normalise.pruned", 1), ("normalise.trimmed", 1)];
        assert_eq!(tally.rewritten, expected.into());
        let prune = vec!["Be brief.".to_owned()];
        let (messages, _) = done("Be brief.", &Normalise { prune, ..Normalise::default() });
        assert_eq!(messages.len(), 2, "a prompt that was pruned whole is no message");
    }

    #[test]
    fn what_changes_from_call_to_call_becomes_a_placeholder() {
        let id = "019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b";
        let said =
            format!("Now: 2026-11-23T21:43:49Z, 11/23/2026 09:05, id {id}; not 1234-56-789.");
        assert_eq!(
            templated(&said),
            "Now: <DATE>T<TIME>Z, <DATE> <TIME>, id <UUID>; not 1234-56-789."
        );
        let settings = Normalise { volatile: true, ..Normalise::default() };
        assert_eq!(done("It is 2026-11-23.", &settings).0[0]["content"], "It is <DATE>.");
        assert_eq!(
            done("It is 2026-11-23.", &Normalise::default()).0[0]["content"],
            "It is 2026-11-23."
        );
    }
}
