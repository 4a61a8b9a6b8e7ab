//! The stream of chat/completions: role, content, finish, usage, `[DONE]`.

use serde_json::{Value, json};

use crate::simulator::chat::{Completion, fingerprint, logprobs};
use crate::simulator::draft::chat_usage;
use crate::simulator::knobs::Knobs;
use crate::simulator::play::Event;
use crate::simulator::text;

/// Bytes of tool call arguments in one chunk.
const ARGUMENT_STEP: usize = 16;

/// All events of a stream. With `with_usage` a last chunk carries the usage, and every other chunk
/// `"usage":null`.
pub(super) fn events(completion: &Completion, with_usage: bool, knobs: &Knobs) -> Vec<Event> {
    let writer = Writer::new(completion, with_usage && !knobs.no_usage);
    let mut events = writer.roles();
    if completion.draft.calls.is_empty() {
        writer.content(knobs, &mut events);
    } else {
        writer.tool_calls(&mut events);
    }
    events.extend((0..completion.n).map(|index| {
        let finish = json_text(completion.finish);
        writer.chunk(index, "{}", "null", &finish, false)
    }));
    if writer.with_usage {
        events.push(writer.usage());
    }
    events.push(Event::data("[DONE]", false));
    events
}

/// Writes chunks. What is the same in all of them is serialised once.
struct Writer<'a> {
    completion: &'a Completion,
    head: String,
    tail: &'static str,
    with_usage: bool,
}

impl<'a> Writer<'a> {
    fn new(completion: &'a Completion, with_usage: bool) -> Self {
        let head = format!(
            r#"{{"id":"{}","object":"chat.completion.chunk","created":{},"model":{},"service_tier":{},"system_fingerprint":"{}","choices":["#,
            completion.id,
            completion.created,
            json_text(&completion.model),
            json_text(&completion.tier),
            fingerprint(&completion.model),
        );
        let tail = if with_usage { r#"],"usage":null}"# } else { "]}" };
        Self { completion, head, tail, with_usage }
    }

    fn chunk(&self, index: u64, delta: &str, logprobs: &str, finish: &str, content: bool) -> Event {
        let (head, tail) = (&self.head, self.tail);
        let frame = format!(
            "data: {head}{{\"index\":{index},\"delta\":{delta},\"logprobs\":{logprobs},\
             \"finish_reason\":{finish}}}{tail}\n\n"
        );
        Event { frame: frame.into(), content }
    }

    fn roles(&self) -> Vec<Event> {
        let content = if self.completion.draft.calls.is_empty() { r#""""# } else { "null" };
        let delta = format!(r#"{{"role":"assistant","content":{content},"refusal":null}}"#);
        (0..self.completion.n).map(|i| self.chunk(i, &delta, "null", "null", false)).collect()
    }

    fn content(&self, knobs: &Knobs, events: &mut Vec<Event>) {
        for piece in text::pieces(&self.completion.draft.text, knobs.chunks) {
            let delta = format!(r#"{{"content":{}}}"#, json_text(piece));
            let alternatives = self.completion.logprobs;
            let logprobs = alternatives.map_or(Value::Null, |n| logprobs(piece, n)).to_string();
            let choices = 0..self.completion.n;
            events.extend(choices.map(|i| self.chunk(i, &delta, &logprobs, "null", true)));
        }
    }

    fn tool_calls(&self, events: &mut Vec<Event>) {
        for (place, (id, call)) in self.completion.calls().enumerate() {
            let opening = json!({"tool_calls": [{
                "index": place, "id": id, "type": "function",
                "function": {"name": call.name, "arguments": ""},
            }]});
            self.to_all(&opening, events);
            let steps = call.arguments.len().div_ceil(ARGUMENT_STEP);
            for piece in text::pieces(&call.arguments, Some(steps)) {
                let function = json!({"index": place, "function": {"arguments": piece}});
                self.to_all(&json!({"tool_calls": [function]}), events);
            }
        }
    }

    fn to_all(&self, delta: &Value, events: &mut Vec<Event>) {
        let delta = delta.to_string();
        let choices = 0..self.completion.n;
        events.extend(choices.map(|i| self.chunk(i, &delta, "null", "null", true)));
    }

    /// The chunk without choices.
    fn usage(&self) -> Event {
        let usage = chat_usage(&self.completion.draft.usage);
        Event::data(&format!(r#"{}],"usage":{usage}}}"#, self.head), false)
    }
}

/// A string as JSON text.
pub(super) fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
