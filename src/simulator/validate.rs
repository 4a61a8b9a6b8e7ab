//! What OpenAI refuses in a request, in its words: shared checks, and those of chat/completions.

use serde_json::{Map, Value};

use crate::simulator::refusal::Refusal;

type Object = Map<String, Value>;

/// Beginnings of model names that the stand-in knows.
const FAMILIES: [&str; 18] = [
    "gpt-",
    "o1",
    "o3",
    "o4",
    "chatgpt-",
    "chat-latest",
    "text-embedding-",
    "text-moderation-",
    "ft:",
    "davinci-",
    "babbage-",
    "tts-",
    "whisper-",
    "omni-moderation",
    "dall-e",
    "computer-use",
    "sora-",
    "house-",
];

/// Families that do not chat.
const NOT_CHAT: [&str; 8] = [
    "text-embedding-",
    "text-moderation-",
    "whisper-",
    "tts-",
    "dall-e",
    "omni-moderation",
    "davinci-",
    "babbage-",
];

/// Top-level fields of chat/completions (API specification 2.3, 2026).
const CHAT_FIELDS: [&str; 37] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

const ROLES: [&str; 6] = ["system", "assistant", "user", "function", "tool", "developer"];

/// True if a model of this name is known by its family.
pub(super) fn is_known_model(model: &str) -> bool {
    FAMILIES.iter().any(|family| model.starts_with(family))
}

/// The request's model: there, a string, and known.
pub(super) fn model(request: &Object) -> Result<&str, Refusal> {
    match request.get("model") {
        None | Some(Value::Null) => Err(Refusal::bad("you must provide a model parameter")),
        Some(Value::String(model)) if model.is_empty() => {
            Err(Refusal::bad("you must provide a model parameter"))
        }
        Some(Value::String(model)) if is_known_model(model) => Ok(model),
        Some(Value::String(model)) => Err(Refusal::no_model(model)),
        Some(other) => Err(Refusal::wrong_type("model", "a string", other)),
    }
}

/// A string that must be there.
pub(super) fn text<'a>(request: &'a Object, name: &str) -> Result<&'a str, Refusal> {
    match request.get(name) {
        None | Some(Value::Null) => Err(Refusal::missing(name)),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(Refusal::wrong_type(name, "a string", other)),
    }
}

/// A decimal within bounds, if it is there.
pub(super) fn decimal(request: &Object, name: &str, least: i32, most: i32) -> Result<(), Refusal> {
    let Some(value) = given(request, name) else { return Ok(()) };
    let number = value.as_f64().ok_or_else(|| Refusal::wrong_type(name, "a decimal", value))?;
    if number < f64::from(least) {
        return Err(below("decimal", name, &least.to_string(), value));
    }
    if number > f64::from(most) {
        return Err(above("decimal", name, &most.to_string(), value));
    }
    Ok(())
}

/// An integer within bounds, if it is there.
pub(super) fn integer(
    request: &Object,
    name: &str,
    least: i64,
    most: i64,
) -> Result<Option<u64>, Refusal> {
    let Some(value) = given(request, name) else { return Ok(None) };
    let number = value.as_i64().ok_or_else(|| Refusal::wrong_type(name, "an integer", value))?;
    if number < least {
        return Err(below("integer", name, &least.to_string(), value));
    }
    if number > most {
        return Err(above("integer", name, &most.to_string(), value));
    }
    Ok(u64::try_from(number).ok())
}

fn below(kind: &str, name: &str, least: &str, got: &Value) -> Refusal {
    Refusal::bad(format!(
        "Invalid '{name}': {kind} below minimum value. Expected a value >= {least}, but got {got} \
         instead."
    ))
    .param(name)
    .code(format!("{kind}_below_min_value"))
}

fn above(kind: &str, name: &str, most: &str, got: &Value) -> Refusal {
    Refusal::bad(format!(
        "Invalid '{name}': {kind} above maximum value. Expected a value <= {most}, but got {got} \
         instead."
    ))
    .param(name)
    .code(format!("{kind}_above_max_value"))
}

/// A flag, if it is there.
pub(super) fn flag(request: &Object, name: &str) -> Result<bool, Refusal> {
    match given(request, name) {
        None => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(other) => Err(Refusal::wrong_type(name, "a boolean", other)),
    }
}

/// A field that is there and not null.
pub(super) fn given<'a>(request: &'a Object, name: &str) -> Option<&'a Value> {
    request.get(name).filter(|value| !value.is_null())
}

/// `stream_options` goes with `stream` only.
pub(super) fn stream_options(request: &Object) -> Result<(), Refusal> {
    let streams = flag(request, "stream")?;
    if streams || given(request, "stream_options").is_none() {
        return Ok(());
    }
    let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
    Err(Refusal::bad(message).param("stream_options"))
}

/// Everything chat/completions checks, in OpenAI's order: fields, model, messages, settings.
pub(super) fn chat(request: &Object) -> Result<(), Refusal> {
    model_given(request)?;
    unknown_fields(request)?;
    chat_model(model(request)?)?;
    messages(request)?;
    decimal(request, "temperature", 0, 2)?;
    decimal(request, "top_p", 0, 1)?;
    decimal(request, "frequency_penalty", -2, 2)?;
    decimal(request, "presence_penalty", -2, 2)?;
    integer(request, "n", 1, 128)?;
    integer(request, "top_logprobs", 0, 20)?;
    limits(request)?;
    stream_options(request)?;
    tools(request)?;
    response_format(request)
}

/// A request without a model is refused before anything else is looked at.
fn model_given(request: &Object) -> Result<(), Refusal> {
    match given(request, "model") {
        None => model(request).map(|_| ()),
        Some(_) => Ok(()),
    }
}

fn chat_model(model: &str) -> Result<(), Refusal> {
    if !NOT_CHAT.iter().any(|family| model.starts_with(family)) {
        return Ok(());
    }
    let message = "This is not a chat model and thus not supported in the v1/chat/completions \
                   endpoint. Did you mean to use v1/completions?";
    Err(Refusal::new(404, message).param("model"))
}

fn unknown_fields(request: &Object) -> Result<(), Refusal> {
    let unknown: Vec<&str> =
        request.keys().map(String::as_str).filter(|key| !CHAT_FIELDS.contains(key)).collect();
    match unknown.as_slice() {
        [] => Ok(()),
        [one] => Err(Refusal::bad(format!("Unrecognized request argument supplied: {one}"))),
        many => {
            let names = many.join(", ");
            Err(Refusal::bad(format!("Unrecognized request arguments supplied: {names}")))
        }
    }
}

fn limits(request: &Object) -> Result<(), Refusal> {
    let old = integer(request, "max_tokens", 1, i64::MAX)?;
    let new = integer(request, "max_completion_tokens", 1, i64::MAX)?;
    if old.is_none() || new.is_none() {
        return Ok(());
    }
    let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not \
                   supported.";
    Err(Refusal::bad(message).param("max_tokens").code("invalid_parameter_combination"))
}

fn messages(request: &Object) -> Result<(), Refusal> {
    let messages = match request.get("messages") {
        None | Some(Value::Null) => return Err(Refusal::missing("messages")),
        Some(Value::Array(messages)) => messages,
        Some(other) => return Err(Refusal::wrong_type("messages", "an array of objects", other)),
    };
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, \
                       but got an empty array instead.";
        return Err(Refusal::bad(message).param("messages").code("empty_array"));
    }
    messages.iter().enumerate().try_for_each(|(index, message)| one_message(index, message))?;
    tool_answers(messages)
}

fn one_message(index: usize, message: &Value) -> Result<(), Refusal> {
    let at = format!("messages[{index}]");
    let fields =
        message.as_object().ok_or_else(|| Refusal::wrong_type(&at, "an object", message))?;
    let role_at = format!("{at}.role");
    let role = match fields.get("role") {
        None => return Err(Refusal::missing(role_at)),
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(Refusal::wrong_type(role_at, "a string", other)),
    };
    if !ROLES.contains(&role) {
        let message = format!(
            "Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', \
             'function', 'tool', and 'developer'."
        );
        return Err(Refusal::bad(message).param(role_at).code("invalid_value"));
    }
    message_content(index, role, fields)
}

fn message_content(index: usize, role: &str, fields: &Object) -> Result<(), Refusal> {
    match fields.get("content") {
        Some(Value::String(_) | Value::Array(_)) => Ok(()),
        None | Some(Value::Null) if matches!(role, "assistant" | "function") => Ok(()),
        None => Err(Refusal::missing(format!("messages[{index}].content"))),
        Some(Value::Null) => {
            let message = "Invalid value for 'content': expected a string, got null.";
            Err(Refusal::bad(message).param(format!("messages.[{index}].content")))
        }
        Some(other) => {
            let expected = "one of a string or array of objects";
            Err(Refusal::wrong_type(format!("messages[{index}].content"), expected, other))
        }
    }
}

/// Every tool call is answered by the tool messages right behind it, and no other tool message is.
fn tool_answers(messages: &[Value]) -> Result<(), Refusal> {
    let mut open: Vec<&str> = Vec::new();
    let mut calls_seen = false;
    for (index, message) in messages.iter().enumerate() {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str();
            let id =
                id.ok_or_else(|| Refusal::missing(format!("messages[{index}].tool_call_id")))?;
            match open.iter().position(|call| *call == id) {
                Some(place) => drop(open.remove(place)),
                None => return Err(stray_tool_message(index, calls_seen)),
            }
            continue;
        }
        unanswered(index, &open)?;
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        open = calls.filter_map(|call| call["id"].as_str()).collect();
        calls_seen = !open.is_empty();
    }
    unanswered(messages.len(), &open)
}

fn stray_tool_message(index: usize, calls_seen: bool) -> Refusal {
    if calls_seen {
        let message = "Invalid parameter: 'tool_call_id' not found in 'tool_calls' of previous \
                       message.";
        return Refusal::bad(message).param(format!("messages.[{index}].tool_call_id"));
    }
    let message = "Invalid parameter: messages with role 'tool' must be a response to a \
                   preceeding message with 'tool_calls'.";
    Refusal::bad(message).param(format!("messages.[{index}].role"))
}

fn unanswered(index: usize, open: &[&str]) -> Result<(), Refusal> {
    if open.is_empty() {
        return Ok(());
    }
    let ids = open.join(", ");
    let message = format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to \
         each 'tool_call_id'. The following tool_call_ids did not have response messages: {ids}"
    );
    Err(Refusal::bad(message).param(format!("messages.[{index}].role")))
}

fn tools(request: &Object) -> Result<(), Refusal> {
    let tools = match given(request, "tools") {
        None if given(request, "tool_choice").is_some_and(|choice| choice != "none") => {
            let message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when \
                           'tools' are specified.";
            return Err(Refusal::bad(message).param("tool_choice"));
        }
        None => return Ok(()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(Refusal::wrong_type("tools", "an array of objects", other)),
    };
    for (index, tool) in tools.iter().enumerate() {
        let nameless = tool["type"] == "function" && !tool["function"]["name"].is_string();
        if nameless {
            return Err(Refusal::missing(format!("tools[{index}].function.name")));
        }
    }
    Ok(())
}

fn response_format(request: &Object) -> Result<(), Refusal> {
    let Some(format) = given(request, "response_format") else { return Ok(()) };
    match format["type"].as_str() {
        Some("json_schema") => named_schema(&format["json_schema"]),
        Some("json_object") => mentions_json(request),
        Some("text") => Ok(()),
        Some(other) => {
            let message = format!(
                "Invalid value: '{other}'. Supported values are: 'json_object', 'json_schema', and \
                 'text'."
            );
            Err(Refusal::bad(message).param("response_format.type").code("invalid_value"))
        }
        None => Err(Refusal::missing("response_format.type")),
    }
}

fn named_schema(schema: &Value) -> Result<(), Refusal> {
    if !schema.is_object() {
        return Err(Refusal::missing("response_format.json_schema"));
    }
    if !schema["name"].is_string() {
        return Err(Refusal::missing("response_format.json_schema.name"));
    }
    Ok(())
}

fn mentions_json(request: &Object) -> Result<(), Refusal> {
    let said = request.get("messages").map(Value::to_string).unwrap_or_default();
    if said.to_ascii_lowercase().contains("json") {
        return Ok(());
    }
    let message = "'messages' must contain the word 'json' in some form, to use \
                   'response_format' of type 'json_object'.";
    Err(Refusal::bad(message).param("messages"))
}
