//! `/v1/responses`: create, read, delete; items in, items out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::simulator::call::{Call, JsonCall};
use crate::simulator::draft::{
    Ask, Choice, Draft, Format, Tool, is_cached, responses_usage, service_tier,
};
use crate::simulator::knobs::Knobs;
use crate::simulator::pages::{Listing, page};
use crate::simulator::refusal::Refusal;
use crate::simulator::responses_stream;
use crate::simulator::text;
use crate::simulator::validate;
use crate::simulator::world::{World, locked, now};

type Object = Map<String, Value>;

/// Least `max_output_tokens` that OpenAI takes.
const LEAST_LIMIT: i64 = 16;

/// A response kept for later reading, as JSON text: its bytes are what the shelf counts.
#[derive(Debug)]
pub(super) struct StoredResponse {
    response: Bytes,
    input: Bytes,
}

pub(super) async fn create(
    State(world): State<Arc<World>>,
    request: JsonCall,
) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    let (call, knobs) = (&request.call, &request.call.knobs);
    let response = respond(&world, knobs, &object)?;
    if object.get("store") != Some(&Value::Bool(false)) {
        store(&world, &object, &response);
    }
    if validate::flag(&object, "stream")? {
        return Ok(call.events(responses_stream::events(response, knobs)));
    }
    Ok(call.json(response))
}

/// Checks a request and answers it with a finished `response` object.
pub(super) fn respond(world: &World, knobs: &Knobs, request: &Object) -> Result<Value, Refusal> {
    if !knobs.lenient {
        check(request)?;
    }
    known_previous(world, request)?;
    let ask = ask(request);
    let draft = Draft::of(&ask, knobs, world);
    Ok(finished(world, request, &ask, &draft))
}

fn check(request: &Object) -> Result<(), Refusal> {
    validate::model(request)?;
    match request.get("input") {
        Some(Value::String(_) | Value::Array(_)) => {}
        None | Some(Value::Null) if validate::given(request, "prompt").is_some() => {}
        None | Some(Value::Null) => return Err(Refusal::missing("input")),
        Some(other) => {
            return Err(Refusal::wrong_type("input", "one of a string or array of items", other));
        }
    }
    validate::decimal(request, "temperature", 0, 2)?;
    validate::decimal(request, "top_p", 0, 1)?;
    validate::integer(request, "max_output_tokens", LEAST_LIMIT, i64::MAX)?;
    validate::stream_options(request)?;
    let format = &request.get("text").unwrap_or(&Value::Null)["format"];
    if format["type"] == "json_schema" && !format["name"].is_string() {
        return Err(Refusal::missing("text.format.name"));
    }
    Ok(())
}

fn known_previous(world: &World, request: &Object) -> Result<(), Refusal> {
    let previous = request.get("previous_response_id").and_then(Value::as_str);
    match previous {
        Some(id) if locked(&world.responses).find(id).is_none() => {
            Err(Refusal::bad(format!("Previous response with id '{id}' not found."))
                .param("previous_response_id")
                .code("previous_response_not_found"))
        }
        _ => Ok(()),
    }
}

fn ask(request: &Object) -> Ask<'_> {
    let field = |name| validate::given(request, name);
    let input = field("input").unwrap_or(&Value::Null);
    let prompt_tokens = prompt_tokens(request, input);
    Ask {
        model: field("model").and_then(Value::as_str).unwrap_or_default(),
        question: question(input),
        prompt_tokens,
        prompt_hash: prompt_hash(request, prompt_tokens),
        tools: tools(field("tools")),
        choice: choice(field("tool_choice")),
        parallel: field("parallel_tool_calls") != Some(&Value::Bool(false)),
        after_tool: last_item(input).is_some_and(|item| item["type"] == "function_call_output"),
        format: format(field("text")),
        limit: field("max_output_tokens").and_then(Value::as_u64),
        stop: None,
        effort: field("reasoning").and_then(|reasoning| reasoning["effort"].as_str()),
    }
}

fn last_item(input: &Value) -> Option<&Value> {
    input.as_array().and_then(|items| items.last())
}

fn question(input: &Value) -> String {
    let items = input.as_array().map_or(&[][..], Vec::as_slice);
    match input {
        Value::String(text) => text.clone(),
        _ => {
            let last = items.iter().rfind(|item| item["role"] == "user");
            last.map(|item| text::of_content(&item["content"])).unwrap_or_default()
        }
    }
}

fn prompt_tokens(request: &Object, input: &Value) -> u64 {
    let of_item = |item: &Value| match item.get("content") {
        Some(content) => 4 + text::count(text::content_bytes(content)),
        None => 4 + text::tokens(&item.to_string()),
    };
    let said = match input {
        Value::String(text) => 4 + text::tokens(text),
        Value::Array(items) => items.iter().map(of_item).sum(),
        _ => 0,
    };
    let extra = |name| request.get(name).filter(|value| !value.is_null());
    let instructions = extra("instructions").and_then(Value::as_str).map_or(0, text::tokens);
    said + instructions + extra("tools").map_or(0, |tools| text::tokens(&tools.to_string()))
}

fn prompt_hash(request: &Object, prompt_tokens: u64) -> u64 {
    if !is_cached(prompt_tokens) {
        return 0;
    }
    let part = |name| request.get(name).map(Value::to_string).unwrap_or_default();
    let parts = ["model", "tools", "instructions", "input"].map(part);
    text::hash(parts.concat().as_bytes())
}

fn tools(tools: Option<&Value>) -> Vec<Tool<'_>> {
    let tools = tools.and_then(Value::as_array).into_iter().flatten();
    tools
        .filter(|tool| tool["type"] == "function")
        .filter_map(|tool| {
            let name = tool["name"].as_str()?;
            Some(Tool { name, parameters: tool.get("parameters") })
        })
        .collect()
}

fn choice(choice: Option<&Value>) -> Choice<'_> {
    match choice {
        Some(Value::String(word)) if word == "none" => Choice::Never,
        Some(Value::String(word)) if word == "required" => Choice::Required,
        Some(Value::Object(choice)) => {
            choice.get("name").and_then(Value::as_str).map_or(Choice::Auto, Choice::Named)
        }
        _ => Choice::Auto,
    }
}

fn format(text: Option<&Value>) -> Format<'_> {
    let format = text.and_then(|text| text.get("format"));
    match format.and_then(|format| format["type"].as_str()) {
        Some("json_schema") => Format::Schema(format.and_then(|format| format.get("schema"))),
        Some("json_object") => Format::JsonObject,
        _ => Format::Text,
    }
}

fn finished(world: &World, request: &Object, ask: &Ask<'_>, draft: &Draft) -> Value {
    let field = |name, absent: Value| request.get(name).cloned().unwrap_or(absent);
    let (status, incomplete) = if draft.cut {
        ("incomplete", json!({"reason": "max_output_tokens"}))
    } else {
        ("completed", Value::Null)
    };
    let created = now();
    json!({
        "id": world.id("resp_"), "object": "response", "created_at": created, "status": status,
        "background": field("background", json!(false)), "completed_at": created, "error": null,
        "incomplete_details": incomplete, "instructions": field("instructions", Value::Null),
        "max_output_tokens": field("max_output_tokens", Value::Null), "model": ask.model,
        "output": output(world, draft, status),
        "parallel_tool_calls": field("parallel_tool_calls", json!(true)),
        "previous_response_id": field("previous_response_id", Value::Null),
        "reasoning": {"effort": ask.effort, "summary": null},
        "service_tier": service_tier(request.get("service_tier")),
        "store": field("store", json!(true)), "temperature": field("temperature", json!(1.0)),
        "text": field("text", json!({"format": {"type": "text"}})),
        "tool_choice": field("tool_choice", json!("auto")), "tools": field("tools", json!([])),
        "top_p": field("top_p", json!(1.0)), "truncation": field("truncation", json!("disabled")),
        "usage": responses_usage(&draft.usage), "user": field("user", Value::Null),
        "metadata": field("metadata", json!({})),
    })
}

fn output(world: &World, draft: &Draft, status: &str) -> Value {
    if draft.calls.is_empty() {
        let part = json!({
            "type": "output_text", "text": draft.text, "annotations": [], "logprobs": [],
        });
        return json!([{
            "id": world.id("msg_"), "type": "message", "status": status, "role": "assistant",
            "content": [part],
        }]);
    }
    let calls = draft.calls.iter().map(|call| {
        json!({
            "id": world.id("fc_"), "type": "function_call", "status": "completed",
            "call_id": world.id("call_"), "name": call.name, "arguments": call.arguments,
        })
    });
    calls.collect()
}

fn store(world: &World, request: &Object, response: &Value) {
    let Some(id) = response["id"].as_str() else { return };
    let items = input_items(world, request.get("input").unwrap_or(&Value::Null));
    let [response, input] =
        [response, &items].map(|value| Bytes::from(serde_json::to_vec(value).unwrap_or_default()));
    let bytes = response.len() + input.len();
    locked(&world.responses).put(id, bytes, StoredResponse { response, input });
}

/// The input as items with ids: text becomes a user message.
fn input_items(world: &World, input: &Value) -> Value {
    match input {
        Value::String(text) => json!([{
            "id": world.id("msg_"), "type": "message", "status": "completed", "role": "user",
            "content": [{"type": "input_text", "text": text}],
        }]),
        Value::Array(items) => items.iter().map(|item| with_id(world, item)).collect(),
        _ => json!([]),
    }
}

fn with_id(world: &World, item: &Value) -> Value {
    let mut item = item.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.entry("type").or_insert_with(|| json!("message"));
        fields.entry("id").or_insert_with(|| json!(world.id("msg_")));
    }
    item
}

fn not_found(id: &str) -> Refusal {
    Refusal::new(404, format!("Response with id '{id}' not found."))
}

pub(super) async fn read(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    let stored = locked(&world.responses).find(&id).map(|stored| stored.response.clone());
    Ok(call.bytes("application/json", stored.ok_or_else(|| not_found(&id))?))
}

pub(super) async fn delete(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    locked(&world.responses).take(&id).ok_or_else(|| not_found(&id))?;
    Ok(call.json(json!({"id": id, "object": "response", "deleted": true})))
}

/// Only background responses can be cancelled, and here all are finished at once.
pub(super) async fn cancel(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    _call: Call,
) -> Result<Response<Body>, Refusal> {
    locked(&world.responses).find(&id).ok_or_else(|| not_found(&id))?;
    Err(Refusal::bad("Cannot cancel a synchronous response."))
}

pub(super) async fn input(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    let stored = locked(&world.responses).find(&id).map(|stored| stored.input.clone());
    let items = serde_json::from_slice(&stored.ok_or_else(|| not_found(&id))?).unwrap_or_default();
    Ok(call.json(page(items, &Listing::of(&query, 20)?)?))
}

pub(super) async fn input_tokens(request: JsonCall) -> Result<Response<Body>, Refusal> {
    let object = request.object()?;
    validate::model(&object)?;
    let input = object.get("input").unwrap_or(&Value::Null);
    let tokens = prompt_tokens(&object, input);
    Ok(request.call.json(json!({"object": "response.input_tokens", "input_tokens": tokens})))
}
