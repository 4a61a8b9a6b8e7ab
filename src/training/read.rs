//! Reads a captured pair as an example: what was asked with what was answered behind it, in the
//! words of chat/completions, whichever endpoint it came by.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::example::Example;
use super::tally::Reason;

/// Members of a chat message that training data may have.
const MEMBERS: [&str; 7] =
    ["role", "content", "name", "tool_calls", "tool_call_id", "weight", "function_call"];

/// What an endpoint's bodies say. The last message is the answer.
pub(super) fn pair(endpoint: &str, request: &[u8], answer: &[u8]) -> Result<Example, Reason> {
    let request = object(request).ok_or("structure.unreadable_request")?;
    let answer = object(answer).ok_or("structure.unreadable_answer")?;
    match endpoint {
        "chat/completions" => chat(request, answer),
        "responses" => super::responses::pair(&request, &answer),
        _ => Err("structure.endpoint"),
    }
}

/// What a line of an imported file says.
pub(super) fn line(members: &Map<String, Value>) -> Result<Example, Reason> {
    let Some(Value::Array(messages)) = members.get("messages") else {
        return Err("structure.unreadable_request");
    };
    let messages = messages.iter().map(message).collect::<Result<_, _>>()?;
    Ok(Example { messages, ..with_tools(members)? })
}

fn object(body: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(body).ok()
}

fn chat(request: Map<String, Value>, answer: Map<String, Value>) -> Result<Example, Reason> {
    let mut example = line(&request)?;
    let choice = answer.get("choices").and_then(|choices| choices.get(0));
    let said = choice.and_then(|choice| choice.get("message"));
    let mut said = message(said.ok_or("structure.unreadable_answer")?)?;
    if let Some(members) = said.as_object_mut() {
        members.entry("role").or_insert_with(|| "assistant".into());
    }
    example.messages.push(said);
    Ok(example)
}

/// Tools, those that are called functions still among them.
fn with_tools(members: &Map<String, Value>) -> Result<Example, Reason> {
    let list = |name: &str| members.get(name).and_then(Value::as_array).cloned();
    let tools = match (list("tools"), list("functions")) {
        (Some(tools), _) => tools,
        (None, Some(functions)) => functions
            .into_iter()
            .map(|function| json!({ "type": "function", "function": function }))
            .collect(),
        (None, None) => Vec::new(),
    };
    if tools.iter().any(|tool| tool.get("function").is_none()) {
        return Err("structure.hosted_tool");
    }
    let parallel_tool_calls = members.get("parallel_tool_calls").and_then(Value::as_bool);
    Ok(Example { tools, parallel_tool_calls, ..Example::default() })
}

/// A message without what only answers have: refusals that are null, annotations, reasoning.
fn message(given: &Value) -> Result<Value, Reason> {
    let members = given.as_object().ok_or("structure.unreadable_request")?;
    if members.get("refusal").is_some_and(|refusal| !refusal.is_null()) {
        return Err("outcome.refusal");
    }
    if members.get("audio").is_some_and(|audio| !audio.is_null()) {
        return Err("structure.audio_or_file");
    }
    let kept = members
        .iter()
        .filter(|(name, value)| MEMBERS.contains(&name.as_str()) && !value.is_null())
        .map(|(name, value)| (name.clone(), without_nulls(value)));
    Ok(Value::Object(kept.collect()))
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        value => value.clone(),
    }
}
