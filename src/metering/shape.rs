//! The fields of a request that become prompt tokens, each raw until it is asked for.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The fields that become prompt tokens. Raw, so that a field of an unexpected type costs only
/// itself and images are never unpacked.
#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    pub(super) messages: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) tools: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) tool_choice: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) response_format: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) text: Option<&'a RawValue>,
}

/// A chat message, or an item of a response's input.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(default, borrow)]
    pub(super) r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) role: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) content: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) output: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) tool_call_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) call_id: Option<&'a RawValue>,
}

/// One call in an assistant's message.
#[derive(Deserialize)]
pub(super) struct ToolCall {
    pub(super) id: Option<String>,
    pub(super) function: Option<Function>,
}

/// What a call names.
#[derive(Deserialize)]
pub(super) struct Function {
    pub(super) name: Option<String>,
    pub(super) arguments: Option<String>,
}

/// One part of a message's content.
#[derive(Deserialize)]
pub(super) struct ContentPart<'a> {
    #[serde(borrow)]
    pub(super) r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) text: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) refusal: Option<&'a RawValue>,
}

/// A JSON string's text; None for any other value.
pub(super) fn string(raw: Option<&RawValue>) -> Option<String> {
    parsed(raw?)
}

/// A value of the expected shape.
pub(super) fn parsed<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// The objects of an array; elements of another kind are passed over.
pub(super) fn objects<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Vec<T> {
    let elements: Vec<&RawValue> = parsed(raw).unwrap_or_default();
    elements.into_iter().filter(|raw| raw.get().starts_with('{')).filter_map(parsed).collect()
}

/// Whether `input` is text to embed: a list of anything but items tells, a string does not.
pub(super) fn embeds(model: &str, input: Option<&RawValue>) -> bool {
    let first = input.and_then(parsed::<Vec<&RawValue>>).and_then(|list| list.first().copied());
    let of_texts = first.is_some_and(|first| !first.get().starts_with('{'));
    of_texts || model.starts_with("text-embedding-")
}

/// Whether a message is from the one who set the model up.
pub(super) fn is_system(message: &Message<'_>) -> bool {
    matches!(string(message.role).as_deref(), Some("system" | "developer"))
}

/// Roles that every encoding has one token for.
pub(super) fn is_one_token(role: &str) -> bool {
    matches!(role, "system" | "developer" | "user" | "assistant")
}
