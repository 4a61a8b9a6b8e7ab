//! How a request is built: how many messages, images and tools it has. Read when somebody asks.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::openai::request::RequestView;

/// Counts of what a request holds. What is not of the API's form counts as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Chat messages, or items of a response's input; a text alone is one.
    pub messages: usize,
    /// Images in their contents.
    pub images: usize,
    /// Tools offered.
    pub tools: usize,
    /// Whether the answer has to fit a JSON schema.
    pub json_schema: bool,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Format<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    format: Option<&'a RawValue>,
}

impl Shape {
    /// Reads it from the fields `messages` or `input`, `tools`, and `response_format` or `text`.
    pub fn read(view: &RequestView, body: &[u8]) -> Self {
        let raw = |name| view.raw(body, name).unwrap_or_default();
        let said = match raw("messages") {
            b"" => raw("input"),
            messages => messages,
        };
        let items: Vec<&RawValue> = serde_json::from_slice(said).unwrap_or_default();
        let is_schema = |raw| serde_json::from_slice(raw).is_ok_and(|format| asks_schema(&format));
        Self {
            messages: if said.starts_with(b"\"") { 1 } else { items.len() },
            images: items.iter().map(|item| images(item.get())).sum(),
            tools: serde_json::from_slice::<Vec<&RawValue>>(raw("tools"))
                .map_or(0, |all| all.len()),
            json_schema: is_schema(raw("response_format")) || is_schema(raw("text")),
        }
    }
}

/// Images among the content parts of one message.
fn images(item: &str) -> usize {
    let content = serde_json::from_str::<Item<'_>>(item).ok().and_then(|item| item.content);
    let parts = content.map(|content| serde_json::from_str::<Vec<Part<'_>>>(content.get()));
    let Some(Ok(parts)) = parts else { return 0 };
    let is_image = |part: &&Part<'_>| {
        matches!(part.r#type.map(RawValue::get), Some("\"image_url\"" | "\"input_image\""))
    };
    parts.iter().filter(is_image).count()
}

/// Chat says `{"type": "json_schema"}`, responses `{"format": {"type": "json_schema"}}`.
fn asks_schema(format: &Format<'_>) -> bool {
    match (format.r#type, format.format) {
        (Some(kind), _) => kind.get() == "\"json_schema\"",
        (None, Some(inner)) => serde_json::from_str::<Part<'_>>(inner.get())
            .is_ok_and(|inner| inner.r#type.is_some_and(|kind| kind.get() == "\"json_schema\"")),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(body: &str) -> Shape {
        Shape::read(&RequestView::parse(body.as_bytes()).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_chat_is_counted() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"user",
            "content":[{"type":"text","text":"b"},{"type":"image_url","image_url":{"url":"x"}}]}],
            "tools":[{"type":"function"}],"response_format":{"type":"json_schema"}}"#;
        let expected = Shape { messages: 2, images: 1, tools: 1, json_schema: true };
        assert_eq!(shape(body), expected);
    }

    #[test]
    fn a_response_is_counted() {
        let body = r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_image"},
            {"type":"input_image"}]}],"text":{"format":{"type":"json_schema"}}}"#;
        let expected = Shape { messages: 1, images: 2, tools: 0, json_schema: true };
        assert_eq!(shape(body), expected);
        assert_eq!(shape(r#"{"model":"m","input":"hi"}"#).messages, 1);
    }

    #[test]
    fn what_has_another_form_counts_as_absent() {
        let body = r#"{"model":"m","messages":{"a":1},"tools":"x","response_format":7,"text":[]}"#;
        assert_eq!(shape(body), Shape::default());
        let body = r#"{"model":"m","messages":[1,null,{"content":{}},{"content":[5]}]}"#;
        assert_eq!(shape(body), Shape { messages: 4, ..Shape::default() });
    }
}
