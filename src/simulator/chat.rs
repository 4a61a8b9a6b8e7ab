//! `POST /v1/chat/completions`: from the request to the answer as one JSON object.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde_json::{Map, Value, json};

use crate::openai::usage::Usage;
use crate::simulator::call::JsonCall;
use crate::simulator::chat_stream;
use crate::simulator::draft::{
    Ask, Choice, Draft, Format, Tool, ToolCall, chat_usage, is_cached, service_tier,
};
use crate::simulator::knobs::Knobs;
use crate::simulator::refusal::Refusal;
use crate::simulator::text;
use crate::simulator::validate;
use crate::simulator::world::{World, now};

type Object = Map<String, Value>;

/// Tokens that a message costs beside its text.
const PER_MESSAGE: u64 = 4;
/// Answers beyond these have one choice.
const LARGE_BYTES: usize = 1 << 20;
const LARGE_CHUNKS: usize = 10_000;

/// An answer whose shape, one object or a stream, is still open.
pub(super) struct Completion {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) tier: String,
    pub(super) draft: Draft,
    pub(super) finish: &'static str,
    /// Choices, all with the same content.
    pub(super) n: u64,
    pub(super) call_ids: Vec<String>,
    /// Number of alternatives per token, if log probabilities were asked for.
    pub(super) logprobs: Option<u64>,
}

pub(super) async fn create(
    State(world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let (call, knobs) = (&request.call, &request.call.knobs);
    let completion = complete(&world, knobs, &object)?;
    if validate::flag(&object, "stream")? {
        let with_usage = object.get("stream_options").is_some_and(|o| o["include_usage"] == true);
        return Ok(call.events(chat_stream::events(&completion, with_usage, knobs)));
    }
    Ok(call.json(completion.to_value()))
}

/// Checks a request and answers it.
pub(super) fn complete(
    world: &World,
    knobs: &Knobs,
    request: &Object,
) -> Result<Completion, Refusal> {
    if !knobs.lenient {
        validate::chat(request)?;
    }
    let ask = ask(request);
    let draft = Draft::of(&ask, knobs, world);
    let n = choices(request, &draft, knobs);
    let logprobs = (request.get("logprobs") == Some(&Value::Bool(true)))
        .then(|| request.get("top_logprobs").and_then(Value::as_u64).unwrap_or(0).min(20));
    Ok(Completion {
        id: world.id("chatcmpl-"),
        created: now(),
        model: ask.model.to_owned(),
        tier: service_tier(request.get("service_tier")).to_owned(),
        finish: finish(&ask, &draft),
        call_ids: draft.calls.iter().map(|_| world.id("call_")).collect(),
        n,
        logprobs,
        draft: times(draft, n),
    })
}

/// `n`, but one for answers so large that 128 of them would not fit into memory.
fn choices(request: &Object, draft: &Draft, knobs: &Knobs) -> u64 {
    let large = draft.text.len() > LARGE_BYTES || knobs.chunks.is_some_and(|n| n > LARGE_CHUNKS);
    let asked = request.get("n").and_then(Value::as_u64).unwrap_or(1);
    if large { 1 } else { asked.clamp(1, 128) }
}

/// The usage of `n` choices: the prompt once, the output `n` times.
fn times(mut draft: Draft, n: u64) -> Draft {
    let usage = draft.usage;
    draft.usage = Usage { output: usage.output * n, reasoning: usage.reasoning * n, ..usage };
    draft
}

fn finish(ask: &Ask<'_>, draft: &Draft) -> &'static str {
    match ask.choice {
        _ if draft.cut => "length",
        _ if draft.calls.is_empty() => "stop",
        // A call that was asked for by name ends like text: OpenAI's own quirk.
        Choice::Named(_) => "stop",
        _ => "tool_calls",
    }
}

fn ask(request: &Object) -> Ask<'_> {
    let messages = request.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let field = |name| validate::given(request, name);
    let number = |name| field(name).and_then(Value::as_u64);
    let prompt_tokens = prompt_tokens(messages, field("tools"));
    let last_user = messages.iter().rfind(|message| message["role"] == "user");
    Ask {
        model: field("model").and_then(Value::as_str).unwrap_or_default(),
        question: last_user
            .map(|message| text::of_content(&message["content"]))
            .unwrap_or_default(),
        prompt_tokens,
        prompt_hash: prompt_hash(request, prompt_tokens),
        tools: tools(field("tools")),
        choice: choice(field("tool_choice")),
        parallel: field("parallel_tool_calls") != Some(&Value::Bool(false)),
        after_tool: messages.last().is_some_and(|message| message["role"] == "tool"),
        format: format(field("response_format")),
        limit: number("max_completion_tokens").or_else(|| number("max_tokens")),
        stop: field("stop"),
        effort: field("reasoning_effort").and_then(Value::as_str),
    }
}

/// Tokens of the prompt: the text of every message and the tools' definitions, simply estimated.
fn prompt_tokens(messages: &[Value], tools: Option<&Value>) -> u64 {
    let of_message = |message: &Value| {
        let calls = message.get("tool_calls").map_or(0, |calls| calls.to_string().len());
        PER_MESSAGE + text::count(text::content_bytes(&message["content"]) + calls)
    };
    let tools = tools.map_or(0, |tools| text::tokens(&tools.to_string()));
    messages.iter().map(of_message).sum::<u64>() + tools
}

fn prompt_hash(request: &Object, prompt_tokens: u64) -> u64 {
    if !is_cached(prompt_tokens) {
        return 0;
    }
    let part = |name| request.get(name).map(Value::to_string).unwrap_or_default();
    text::hash([part("model"), part("tools"), part("messages")].concat().as_bytes())
}

fn tools(tools: Option<&Value>) -> Vec<Tool<'_>> {
    let tools = tools.and_then(Value::as_array).into_iter().flatten();
    let functions = tools.filter(|tool| tool["type"] == "function").map(|tool| &tool["function"]);
    functions
        .filter_map(|function| {
            let name = function["name"].as_str()?;
            Some(Tool { name, parameters: function.get("parameters") })
        })
        .collect()
}

fn choice(choice: Option<&Value>) -> Choice<'_> {
    match choice {
        Some(Value::String(word)) if word == "none" => Choice::Never,
        Some(Value::String(word)) if word == "required" => Choice::Required,
        Some(Value::Object(choice)) => {
            let name = choice.get("function").and_then(|function| function["name"].as_str());
            name.map_or(Choice::Auto, Choice::Named)
        }
        _ => Choice::Auto,
    }
}

fn format(format: Option<&Value>) -> Format<'_> {
    match format.and_then(|format| format["type"].as_str()) {
        Some("json_schema") => {
            Format::Schema(format.and_then(|format| format["json_schema"].get("schema")))
        }
        Some("json_object") => Format::JsonObject,
        _ => Format::Text,
    }
}

impl Completion {
    /// `chat.completion`, the answer without a stream.
    pub(super) fn to_value(&self) -> Value {
        let message = self.message();
        let logprobs = self.logprobs.map(|n| logprobs(&self.draft.text, n));
        let choice = |index| {
            json!({
                "index": index, "message": message, "logprobs": logprobs,
                "finish_reason": self.finish,
            })
        };
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created,
            "model": self.model, "choices": (0..self.n).map(choice).collect::<Vec<_>>(),
            "usage": chat_usage(&self.draft.usage), "service_tier": self.tier,
            "system_fingerprint": fingerprint(&self.model),
        })
    }

    fn message(&self) -> Value {
        let content = self.draft.calls.is_empty().then_some(&self.draft.text);
        let mut message = json!({
            "role": "assistant", "content": content, "refusal": null, "annotations": [],
        });
        if !self.draft.calls.is_empty() {
            let calls = self.calls().map(|(id, call)| {
                json!({
                    "id": id, "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                })
            });
            message["tool_calls"] = calls.collect();
        }
        message
    }

    /// The tool calls with their ids.
    pub(super) fn calls(&self) -> impl Iterator<Item = (&String, &ToolCall)> {
        self.call_ids.iter().zip(&self.draft.calls)
    }
}

/// `logprobs` of a choice or a chunk: one token per piece, the alternatives all alike.
pub(super) fn logprobs(content: &str, alternatives: u64) -> Value {
    let token = |piece: &str| json!({"token": piece, "logprob": -0.1, "bytes": piece.as_bytes()});
    let tokens = text::pieces(content, None).into_iter().map(|piece| {
        let mut entry = token(piece);
        entry["top_logprobs"] = (0..alternatives).map(|_| token(piece)).collect();
        entry
    });
    json!({"content": tokens.collect::<Vec<_>>(), "refusal": null})
}

/// `system_fingerprint`: the same for a model in every answer.
pub(super) fn fingerprint(model: &str) -> String {
    format!("fp_{:010x}", text::hash(model.as_bytes()) & 0xff_ffff_ffff)
}
