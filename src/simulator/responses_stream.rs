//! The stream of responses: a finished response told as events, numbered from 0.

use serde_json::{Value, json};

use crate::simulator::knobs::Knobs;
use crate::simulator::play::Event;
use crate::simulator::text;

/// Bytes of function call arguments in one delta.
const ARGUMENT_STEP: usize = 16;

/// All events of a finished response. The last one is `response.completed` or
/// `response.incomplete` and carries the usage.
pub(super) fn events(mut response: Value, knobs: &Knobs) -> Vec<Event> {
    let mut teller = Teller { sequence: 0, events: Vec::new() };
    if knobs.no_usage {
        response["usage"] = Value::Null;
    }
    let begun = begun(&response);
    teller.tell("response.created", json!({"response": begun}));
    teller.tell("response.in_progress", json!({"response": begun}));
    for (index, item) in response["output"].as_array().into_iter().flatten().enumerate() {
        match item["type"].as_str() {
            Some("function_call") => teller.function_call(index, item),
            _ => teller.message(index, item, knobs),
        }
    }
    let last = if response["status"] == "incomplete" {
        "response.incomplete"
    } else {
        "response.completed"
    };
    teller.tell(last, json!({"response": response}));
    teller.events
}

/// The response as it was before anything was said.
fn begun(response: &Value) -> Value {
    let mut begun = response.clone();
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    begun["completed_at"] = Value::Null;
    begun["incomplete_details"] = Value::Null;
    begun
}

struct Teller {
    sequence: u64,
    events: Vec<Event>,
}

impl Teller {
    fn tell(&mut self, name: &str, fields: Value) {
        self.push(name, fields, false);
    }

    fn push(&mut self, name: &str, mut fields: Value, content: bool) {
        fields["type"] = json!(name);
        fields["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        self.events.push(Event::named(name, &fields.to_string(), content));
    }

    fn message(&mut self, index: usize, item: &Value, knobs: &Knobs) {
        let (id, part) = (&item["id"], &item["content"][0]);
        let words = part["text"].as_str().unwrap_or_default();
        let at = json!({"item_id": id, "output_index": index, "content_index": 0});
        let with = |name: &str, value: Value| {
            let mut fields = at.clone();
            fields[name] = value;
            fields
        };
        let mut opened = item.clone();
        opened["status"] = json!("in_progress");
        opened["content"] = json!([]);
        let mut empty = part.clone();
        empty["text"] = json!("");
        self.tell("response.output_item.added", json!({"output_index": index, "item": opened}));
        self.tell("response.content_part.added", with("part", empty));
        for piece in text::pieces(words, knobs.chunks) {
            let mut fields = with("delta", json!(piece));
            fields["logprobs"] = json!([]);
            self.push("response.output_text.delta", fields, true);
        }
        let mut done = with("text", json!(words));
        done["logprobs"] = json!([]);
        self.tell("response.output_text.done", done);
        self.tell("response.content_part.done", with("part", part.clone()));
        self.tell("response.output_item.done", json!({"output_index": index, "item": item}));
    }

    fn function_call(&mut self, index: usize, item: &Value) {
        let arguments = item["arguments"].as_str().unwrap_or_default();
        let at = json!({"item_id": item["id"], "output_index": index});
        let mut opened = item.clone();
        opened["status"] = json!("in_progress");
        opened["arguments"] = json!("");
        self.tell("response.output_item.added", json!({"output_index": index, "item": opened}));
        let steps = arguments.len().div_ceil(ARGUMENT_STEP);
        for piece in text::pieces(arguments, Some(steps)) {
            let mut fields = at.clone();
            fields["delta"] = json!(piece);
            self.push("response.function_call_arguments.delta", fields, true);
        }
        let mut done = at;
        done["name"] = item["name"].clone();
        done["arguments"] = json!(arguments);
        self.tell("response.function_call_arguments.done", done);
        self.tell("response.output_item.done", json!({"output_index": index, "item": item}));
    }
}
