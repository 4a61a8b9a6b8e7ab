//! Stage 4: the turns of a conversation, each of which repeats those before it, become one row.

use serde_json::Value;

use crate::training::example::Example;
use crate::training::example::calls;
use crate::training::example::role;
use crate::training::example::text;
use crate::training::sip::sip;

use super::normalise::templated;

const KEY: [u64; 2] = [0x7765_6972, 0x0063_6861_696e];

/// Where an example stands in its conversation, by hashes of what was said until then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::training) struct Chain {
    /// Until the first thing that the user says: what tells conversations apart that have no name.
    pub(in crate::training) opening: u64,
    /// Before the answer: two examples with the same one are two answers to one question.
    pub(in crate::training) prompt: u64,
    /// With the answer.
    pub(in crate::training) whole: u64,
    /// After each earlier answer: examples that end there are a part of this one.
    pub(in crate::training) earlier: Vec<u64>,
}

/// Follows an example from its beginning.
pub(in crate::training) fn follow(example: &Example) -> Chain {
    let tools = Value::from(example.tools.clone()).to_string();
    let mut now = sip(KEY, tools.as_bytes());
    let mut chain = Chain::default();
    let mut opened = false;
    let last = example.messages.len().saturating_sub(1);
    for (at, message) in example.messages.iter().enumerate() {
        if at == last {
            chain.prompt = now;
        }
        now = next(now, message);
        if !opened {
            chain.opening = now;
            opened = role(message) == "user";
        }
        if at < last && role(message) == "assistant" {
            chain.earlier.push(now);
        }
    }
    chain.whole = now;
    chain
}

/// What was said until a message, and that. Ids of calls differ from one telling to the next, and
/// dates in a system prompt from one day to the next.
fn next(before: u64, message: &Value) -> u64 {
    let mut told = before.to_le_bytes().to_vec();
    let mut tell = |text: &str| {
        told.extend_from_slice(text.as_bytes());
        told.push(0);
    };
    tell(role(message));
    match message.get("content") {
        Some(Value::Array(parts)) if parts.iter().any(|part| part.get("text").is_none()) => {
            tell(&Value::from(parts.clone()).to_string());
        }
        _ if role(message) == "system" => tell(templated(&text(message)).trim()),
        _ => tell(text(message).trim()),
    }
    for call in calls(message) {
        for place in ["/function/name", "/function/arguments"] {
            tell(call.pointer(place).and_then(Value::as_str).unwrap_or_default());
        }
    }
    sip(KEY, &told)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(messages: &Value) -> Chain {
        follow(&Example { messages: messages.as_array().unwrap().clone(), ..Example::default() })
    }

    #[test]
    fn a_later_turn_holds_the_earlier_ones() {
        let [a, b, c, d] = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
            .map(|(role, text)| json!({ "role": role, "content": text }));
        let first = told(&json!([a, b]));
        let second = told(&json!([a, b, c, d]));
        assert_eq!(second.earlier, [first.whole]);
        assert_eq!(first.opening, second.opening);
        let again = told(&json!([a, b, c, b]));
        assert_eq!(again.prompt, second.prompt);
        assert_ne!(again.whole, second.whole);
        // The same said as parts, and with other ids of its calls.
        let parts = json!([{ "role": "user", "content": [{ "type": "text", "text": "a" }] }, b]);
        assert_eq!(told(&parts), first);
    }

    #[test]
    fn the_date_in_a_system_prompt_makes_no_other_conversation() {
        let on = |day: &str| {
            told(&json!([{ "role": "system", "content": format!("Today is {day}.") },
                { "role": "user", "content": "hi" }, { "role": "assistant", "content": "hello" }]))
        };
        assert_eq!(on("2026-11-23"), on("2026-11-24"));
    }
}
