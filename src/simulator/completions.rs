//! `POST /v1/completions`: the older endpoint, text in and text out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde_json::{Map, Value, json};

use crate::openai::usage::Usage;
use crate::simulator::call::JsonCall;
use crate::simulator::chat::fingerprint;
use crate::simulator::chat_stream::json_text;
use crate::simulator::draft::chat_usage;
use crate::simulator::knobs::Knobs;
use crate::simulator::play::Event;
use crate::simulator::refusal::Refusal;
use crate::simulator::text;
use crate::simulator::validate;
use crate::simulator::world::{World, now};

/// What OpenAI answers at most when `max_tokens` is absent.
const DEFAULT_LIMIT: u64 = 16;

/// An answer whose shape, one object or a stream, is still open.
struct Answer {
    head: Value,
    choices: Vec<Choice>,
    usage: Usage,
}

struct Choice {
    text: String,
    finish: &'static str,
}

pub(super) async fn create(
    State(world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let (call, knobs) = (&request.call, &request.call.knobs);
    let answer = answer(&world, knobs, &object)?;
    if validate::flag(&object, "stream")? {
        let asked = object.get("stream_options").is_some_and(|o| o["include_usage"] == true);
        return Ok(call.events(answer.events(asked && !knobs.no_usage, knobs)));
    }
    Ok(call.json(answer.into_value()))
}

/// Checks a request and answers it with one object.
pub(super) fn complete(
    world: &World,
    knobs: &Knobs,
    request: &Map<String, Value>,
) -> Result<Value, Refusal> {
    answer(world, knobs, request).map(Answer::into_value)
}

fn answer(world: &World, knobs: &Knobs, request: &Map<String, Value>) -> Result<Answer, Refusal> {
    let model = validate::model(request)?;
    validate::decimal(request, "temperature", 0, 2)?;
    validate::stream_options(request)?;
    let n = validate::integer(request, "n", 1, 128)?.unwrap_or(1);
    let given = validate::integer(request, "max_tokens", 0, i64::MAX)?;
    let sized = knobs.bytes.is_some() || knobs.chunks.is_some();
    let limit = given.or((!sized).then_some(DEFAULT_LIMIT));
    let prompts = prompts(request.get("prompt").unwrap_or(&Value::Null))?;
    let stop = request.get("stop").unwrap_or(&Value::Null);
    let echo = validate::flag(request, "echo")?;
    let mut choices = Vec::new();
    for prompt in &prompts {
        choices.extend((0..n).map(|_| choice(prompt, limit, stop, echo, knobs)));
    }
    let usage = Usage {
        input: prompts.iter().map(|prompt| prompt.tokens).sum(),
        output: choices.iter().map(|choice| text::tokens(&choice.text)).sum(),
        ..Usage::default()
    };
    let head = json!({
        "id": world.id("cmpl-"), "object": "text_completion", "created": now(), "model": model,
        "system_fingerprint": fingerprint(model),
    });
    Ok(Answer { head, choices, usage })
}

struct Prompt {
    text: String,
    tokens: u64,
}

/// A prompt is a text, a list of texts, a list of tokens or a list of lists of tokens.
fn prompts(prompt: &Value) -> Result<Vec<Prompt>, Refusal> {
    let of_text = |text: &str| Prompt { text: text.to_owned(), tokens: text::tokens(text) };
    let of_tokens = |tokens: &[Value]| Prompt {
        text: format!("{} tokens", tokens.len()),
        tokens: u64::try_from(tokens.len()).unwrap_or(u64::MAX),
    };
    match prompt {
        Value::Null => Ok(vec![of_text("<|endoftext|>")]),
        Value::String(text) => Ok(vec![of_text(text)]),
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            Ok(vec![of_tokens(items)])
        }
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(of_text(text)),
                Value::Array(tokens) => Ok(of_tokens(tokens)),
                other => Err(Refusal::wrong_type("prompt", "a string or array", other)),
            })
            .collect(),
        other => Err(Refusal::wrong_type("prompt", "a string or a non-empty array", other)),
    }
}

fn choice(prompt: &Prompt, limit: Option<u64>, stop: &Value, echo: bool, knobs: &Knobs) -> Choice {
    let mut text = text::answer(&prompt.text, knobs);
    text::cut_at_stop(&mut text, stop);
    let cut = text::cut_to_tokens(&mut text, limit);
    if echo {
        text.insert_str(0, &prompt.text);
    }
    Choice { text, finish: if cut { "length" } else { "stop" } }
}

impl Answer {
    fn into_value(self) -> Value {
        let choices = self.choices.into_iter().enumerate().map(|(index, choice)| {
            json!({
                "text": choice.text, "index": index, "logprobs": null,
                "finish_reason": choice.finish,
            })
        });
        let mut value = self.head;
        value["choices"] = choices.collect();
        value["usage"] = chat_usage(&self.usage);
        value
    }

    fn events(&self, with_usage: bool, knobs: &Knobs) -> Vec<Event> {
        let head = self.head.to_string();
        let head = head.strip_suffix('}').unwrap_or_default();
        let tail = if with_usage { r#","usage":null"# } else { "" };
        let chunk = |index: usize, text: &str, finish: &str, content| {
            let text = json_text(text);
            Event::data(
                &format!(
                    r#"{head},"choices":[{{"text":{text},"index":{index},"logprobs":null,"finish_reason":{finish}}}]{tail}}}"#
                ),
                content,
            )
        };
        let mut events = Vec::new();
        for (index, choice) in self.choices.iter().enumerate() {
            let pieces = text::pieces(&choice.text, knobs.chunks);
            events.extend(pieces.into_iter().map(|piece| chunk(index, piece, "null", true)));
            events.push(chunk(index, "", &json_text(choice.finish), false));
        }
        if with_usage {
            let usage = chat_usage(&self.usage);
            events.push(Event::data(&format!(r#"{head},"choices":[],"usage":{usage}}}"#), false));
        }
        events.push(Event::data("[DONE]", false));
        events
    }
}
