//! Turns a call of `/v1/responses` into the messages of chat/completions.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::example::Example;
use super::tally::Reason;

/// What was asked and answered. What the provider remembers is not known here: a call that goes on
/// from a `previous_response_id` cannot be learned from.
pub(super) fn pair(
    request: &Map<String, Value>,
    answer: &Map<String, Value>,
) -> Result<Example, Reason> {
    if ["previous_response_id", "conversation", "prompt"]
        .iter()
        .any(|name| request.get(*name).is_some_and(|value| !value.is_null()))
    {
        return Err("structure.context_at_provider");
    }
    let mut messages = Vec::new();
    if let Some(instructions) = request.get("instructions").and_then(Value::as_str) {
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    match request.get("input") {
        Some(Value::String(text)) => messages.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => take(items, &mut messages)?,
        _ => return Err("structure.unreadable_request"),
    }
    let asked = messages.len();
    match answer.get("output") {
        Some(Value::Array(items)) => take(items, &mut messages)?,
        _ => return Err("structure.unreadable_answer"),
    }
    if messages.len() == asked {
        return Err("structure.no_assistant");
    }
    let parallel_tool_calls = request.get("parallel_tool_calls").and_then(Value::as_bool);
    Ok(Example { messages, tools: tools(request)?, parallel_tool_calls, rejected: None })
}

fn tools(request: &Map<String, Value>) -> Result<Vec<Value>, Reason> {
    let tools = request.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let function = |tool: &Value| {
        let mut function = tool.as_object()?.clone();
        let is_function = function.remove("type")? == "function";
        function.retain(|_, value| !value.is_null());
        is_function.then(|| json!({ "type": "function", "function": function }))
    };
    tools.iter().map(|tool| function(tool).ok_or("structure.hosted_tool")).collect()
}

fn take(items: &[Value], messages: &mut Vec<Value>) -> Result<(), Reason> {
    for item in items {
        let field = |name: &str| item.get(name).cloned().unwrap_or_default();
        match item.get("type").and_then(Value::as_str) {
            None | Some("message") => messages.push(message(item)?),
            Some("function_call") => push_call(
                messages,
                json!({
                    "id": field("call_id"),
                    "type": "function",
                    "function": { "name": field("name"), "arguments": field("arguments") },
                }),
            ),
            Some("function_call_output") => {
                let content = match field("output") {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                let id = field("call_id");
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
            }
            // What the model thought is not shown to anybody, and not to be learned.
            Some("reasoning") => {}
            Some(_) => return Err("structure.unsupported_item"),
        }
    }
    Ok(())
}

/// Calls in a row are one message's.
fn push_call(messages: &mut Vec<Value>, call: Value) {
    let last = messages.last_mut().filter(|last| last["role"] == "assistant");
    match last.and_then(Value::as_object_mut) {
        Some(last) => {
            let calls = last.entry("tool_calls").or_insert_with(|| json!([]));
            if let Some(calls) = calls.as_array_mut() {
                calls.push(call);
            }
        }
        None => messages.push(json!({ "role": "assistant", "tool_calls": [call] })),
    }
}

fn message(item: &Value) -> Result<Value, Reason> {
    let role = item.get("role").and_then(Value::as_str).ok_or("structure.unsupported_item")?;
    let content = match item.get("content") {
        Some(Value::String(text)) => json!(text),
        Some(Value::Array(parts)) => content(parts)?,
        _ => return Err("structure.unsupported_item"),
    };
    Ok(json!({ "role": role, "content": content }))
}

/// Parts; those that are text alone become one.
fn content(parts: &[Value]) -> Result<Value, Reason> {
    let mut list = Vec::new();
    for part in parts {
        list.push(match part.get("type").and_then(Value::as_str) {
            Some("input_text" | "output_text" | "text") => {
                json!({ "type": "text", "text": part.get("text").cloned().unwrap_or_default() })
            }
            Some("input_image") => match part.get("image_url").and_then(Value::as_str) {
                Some(url) => json!({ "type": "image_url", "image_url": { "url": url } }),
                None => return Err("structure.unsupported_item"),
            },
            Some("refusal") => return Err("outcome.refusal"),
            _ => return Err("structure.unsupported_item"),
        });
    }
    let texts: Option<Vec<&str>> = list.iter().map(|part| part.get("text")?.as_str()).collect();
    Ok(texts.map_or_else(|| list.clone().into(), |texts| texts.join("").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(request: Value, answer: Value) -> Result<Example, Reason> {
        pair(request.as_object().unwrap(), answer.as_object().unwrap())
    }

    #[test]
    fn items_become_messages() {
        let request = json!({
            "instructions": "Be brief.",
            "input": [
                { "role": "user", "content": [{ "type": "input_text", "text": "Rain?" }] },
                { "type": "reasoning", "summary": [] },
                { "type": "function_call", "call_id": "c", "name": "rain", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c", "output": "no" },
            ],
            "tools": [{ "type": "function", "name": "rain", "strict": null, "parameters": {} }],
        });
        let said = json!([{ "type": "output_text", "text": "No.", "annotations": [] }]);
        let answer =
            json!({ "output": [{ "type": "message", "role": "assistant", "content": said }] });
        let example = of(request, answer).unwrap();
        assert_eq!(
            Value::from(example.messages),
            json!([
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": "Rain?" },
                { "role": "assistant", "tool_calls": [{ "id": "c", "type": "function",
                    "function": { "name": "rain", "arguments": "{}" } }] },
                { "role": "tool", "tool_call_id": "c", "content": "no" },
                { "role": "assistant", "content": "No." },
            ])
        );
        let tool = json!({ "type": "function", "function": { "name": "rain", "parameters": {} } });
        assert_eq!(example.tools, [tool]);
    }

    #[test]
    fn what_the_provider_remembers_or_does_itself_is_not_learned() {
        let answer = json!({ "output": [] });
        for (request, reason) in [
            (
                json!({ "input": "x", "previous_response_id": "resp_1" }),
                "structure.context_at_provider",
            ),
            (json!({ "input": [{ "type": "web_search_call" }] }), "structure.unsupported_item"),
            (json!({ "input": "x" }), "structure.no_assistant"),
        ] {
            assert_eq!(of(request, answer.clone()).unwrap_err(), reason);
        }
    }
}
