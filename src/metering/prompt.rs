//! The prompt tokens of a whole request, by rules fitted to 2,056 recorded requests and their
//! billed usage (November 2026).

use std::cell::Cell;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::metering::shape::Body;
use crate::metering::shape::ContentPart;
use crate::metering::shape::Message;
use crate::metering::shape::ToolCall;
use crate::metering::shape::embeds;
use crate::metering::shape::is_one_token;
use crate::metering::shape::is_system;
use crate::metering::shape::objects;
use crate::metering::shape::parsed;
use crate::metering::shape::string;
use crate::metering::tokens::Encoding;
use crate::metering::tokens::WHOLE_BYTES;
use crate::metering::tools;

/// An image or a file in a request, whatever its size: a 1024 x 1024 image on gpt-4o.
const ATTACHMENT_TOKENS: u64 = 765;
/// What frames each message.
const MESSAGE_TOKENS: u64 = 3;
/// What frames the instructions of a response.
const INSTRUCTIONS_TOKENS: u64 = 4;
/// What frames the result of a tool, beyond the message.
const TOOL_RESULT_TOKENS: u64 = 2;
/// What frames one tool call of a message, and each of several.
const ONE_CALL_TOKENS: u64 = 3;
const PARALLEL_CALL_TOKENS: u64 = 11;
/// What frames a response's function call and its output.
const CALL_ITEM_TOKENS: u64 = 6;
const OUTPUT_ITEM_TOKENS: u64 = 5;
const REASONING_OUTPUT_ITEM_TOKENS: u64 = 10;

/// Counts one request.
struct Estimate {
    encoding: Encoding,
    /// o-series and everything since gpt-5: one token of priming less.
    reasons: bool,
    gpt_5: bool,
    /// Names of the functions called so far, by call id: their results repeat them.
    called: Vec<(String, String)>,
    /// Bytes of text seen so far, and their tokens.
    seen: Cell<(u64, u64)>,
}

/// Estimates the prompt tokens of a request body; 0 when it is not a JSON object.
pub(super) fn estimate(encoding: Encoding, model: &str, body: &[u8]) -> u64 {
    if !body.trim_ascii_start().starts_with(b"{") {
        return 0;
    }
    let Ok(body) = serde_json::from_slice::<Body<'_>>(body) else {
        return 0;
    };
    let mut estimate = Estimate::new(encoding, model);
    if let Some(messages) = body.messages {
        estimate.chat(messages, &body)
    } else if body.input.is_some() || body.instructions.is_some() {
        if embeds(model, body.input) {
            estimate.plain(body.input)
        } else {
            estimate.response(&body)
        }
    } else {
        estimate.plain(body.prompt)
    }
}

impl Estimate {
    fn new(encoding: Encoding, model: &str) -> Self {
        let base = model.strip_prefix("ft:").unwrap_or(model);
        let gpt_5 = base.starts_with("gpt-5") || base.starts_with("gpt-6");
        let o_series = matches!(base.as_bytes(), [b'o', digit, ..] if digit.is_ascii_digit());
        Self {
            encoding,
            reasons: gpt_5 || o_series,
            gpt_5,
            called: Vec::new(),
            seen: Cell::default(),
        }
    }

    /// Counts a text; once a request has shown more than 1 MiB of text, by the ratio so far.
    fn text(&self, text: &str) -> u64 {
        let (seen_bytes, seen_tokens) = self.seen.get();
        let bytes = text.len() as u64;
        if seen_bytes > WHOLE_BYTES as u64 {
            return bytes.saturating_mul(seen_tokens) / seen_bytes;
        }
        let tokens = if text.is_empty() { 0 } else { self.encoding.estimate(text) };
        self.seen.set((seen_bytes + bytes, seen_tokens + tokens));
        tokens
    }

    /// A JSON string's text; 0 for any other value.
    fn string(&self, raw: Option<&RawValue>) -> u64 {
        string(raw).map_or(0, |text| self.text(&text))
    }

    fn priming(&self) -> u64 {
        if self.reasons { 2 } else { 3 }
    }

    fn chat(&mut self, messages: &RawValue, body: &Body<'_>) -> u64 {
        let messages: Vec<Message<'_>> = objects(messages);
        let mut tokens = self.priming();
        let mut has_system = false;
        for message in &messages {
            has_system |= is_system(message);
            tokens += self.message(message);
        }
        let tools = body.tools.and_then(parsed::<Value>);
        if let Some(rendered) = tools.as_ref().and_then(tools::render) {
            let frame = if has_system { 5 } else { 9 } + if self.gpt_5 { 81 } else { 0 };
            tokens += self.text(&rendered) + frame + self.forced(body.tool_choice);
        }
        tokens + self.schema(body.response_format, "/json_schema", 19)
    }

    fn message(&mut self, message: &Message<'_>) -> u64 {
        let role = string(message.role).unwrap_or_default();
        let content = self.content(message.content) + self.string(message.refusal);
        if role == "tool" || role == "function" {
            let name = self.called(message.tool_call_id).or_else(|| string(message.name));
            let name = name.map_or(0, |name| self.text(&name));
            return MESSAGE_TOKENS + content + name + TOOL_RESULT_TOKENS;
        }
        let name = string(message.name).map_or(0, |name| self.text(&format!(":{name}")));
        let role = if is_one_token(&role) { 1 } else { self.text(&role) };
        MESSAGE_TOKENS + role + content + name + self.calls(message.tool_calls)
    }

    fn calls(&mut self, raw: Option<&RawValue>) -> u64 {
        let calls: Vec<ToolCall> = raw.map(objects).unwrap_or_default();
        let frame = if calls.len() == 1 { ONE_CALL_TOKENS } else { PARALLEL_CALL_TOKENS };
        let mut tokens = 0;
        for call in calls {
            let Some(function) = call.function else { continue };
            let name = function.name.unwrap_or_default();
            let arguments = function.arguments.unwrap_or_default();
            tokens += frame + self.text(&name) + self.text(&arguments);
            self.called.push((call.id.unwrap_or_default(), name));
        }
        tokens
    }

    /// The name of the function that a result is for.
    fn called(&self, id: Option<&RawValue>) -> Option<String> {
        let id = string(id)?;
        let (_, name) = self.called.iter().rev().find(|(known, _)| *known == id)?;
        Some(name.clone())
    }

    /// The text parts of one message are one text; anything else is an attachment.
    fn content(&self, raw: Option<&RawValue>) -> u64 {
        let Some(raw) = raw else { return 0 };
        if let Some(text) = string(Some(raw)) {
            return self.text(&text);
        }
        let parts: Vec<ContentPart<'_>> = objects(raw);
        let (mut joined, mut attached) = (String::new(), 0);
        for part in parts {
            match string(part.text).or_else(|| string(part.refusal)) {
                Some(text) => joined.push_str(&text),
                None if part.r#type.is_some() => attached += ATTACHMENT_TOKENS,
                None => {}
            }
        }
        self.text(&joined) + attached
    }

    fn response(&mut self, body: &Body<'_>) -> u64 {
        let mut tokens = self.priming();
        if let Some(instructions) = string(body.instructions) {
            tokens += INSTRUCTIONS_TOKENS + self.text(&instructions);
        }
        if let Some(text) = string(body.input) {
            tokens += MESSAGE_TOKENS + 1 + self.text(&text);
        }
        for item in &body.input.map(objects).unwrap_or_default() {
            tokens += self.item(item);
        }
        let tools = body.tools.and_then(parsed::<Value>);
        if let Some(rendered) = tools.as_ref().and_then(tools::render) {
            let frame = if self.reasons { 8 } else { 2 };
            tokens += self.text(&rendered) + frame + self.forced(body.tool_choice);
        }
        tokens + self.schema(body.text, "/format", if self.reasons { 0 } else { 11 })
    }

    fn item(&mut self, item: &Message<'_>) -> u64 {
        match string(item.r#type).as_deref() {
            Some("function_call") => {
                let name = string(item.name).unwrap_or_default();
                let tokens = self.text(&name) + self.string(item.arguments);
                self.called.push((string(item.call_id).unwrap_or_default(), name));
                CALL_ITEM_TOKENS + tokens
            }
            Some("function_call_output") => {
                let frame =
                    if self.reasons { REASONING_OUTPUT_ITEM_TOKENS } else { OUTPUT_ITEM_TOKENS };
                let name = self.called(item.call_id).map_or(0, |name| self.text(&name));
                frame + name + self.content(item.output)
            }
            // Reasoning that comes back encrypted, hosted calls, references: not to be told.
            Some(kind) if kind != "message" => 0,
            _ => self.message(item),
        }
    }

    /// `tool_choice` that names one tool.
    fn forced(&self, choice: Option<&RawValue>) -> u64 {
        let Some(choice) = choice.and_then(parsed::<Value>) else { return 0 };
        let name = choice.pointer("/function/name").or_else(|| choice.get("name"));
        name.and_then(Value::as_str).map_or(0, |name| self.text(name) + 4)
    }

    fn schema(&self, raw: Option<&RawValue>, place: &str, frame: u64) -> u64 {
        let Some(format) = raw.and_then(parsed::<Value>) else { return 0 };
        let Some(format) = format.pointer(place) else { return 0 };
        let Some(schema) = format.get("schema") else { return 0 };
        let named = ["name", "description"].iter().filter_map(|key| format.get(key)?.as_str());
        let named: u64 = named.map(|text| self.text(text)).sum();
        self.text(&tools::without_titles(schema.clone(), 0).to_string()) + named + frame
    }

    /// A prompt or a text to embed: a string, strings, token ids, or lists of token ids.
    fn plain(&self, raw: Option<&RawValue>) -> u64 {
        let Some(raw) = raw else { return 0 };
        if let Some(text) = string(Some(raw)) {
            return self.text(&text);
        }
        let elements: Vec<&RawValue> = parsed(raw).unwrap_or_default();
        elements.into_iter().map(|element| self.element(element)).sum()
    }

    fn element(&self, raw: &RawValue) -> u64 {
        match raw.get().as_bytes().first() {
            Some(b'"') => self.string(Some(raw)),
            Some(b'[') => {
                let ids: Vec<serde::de::IgnoredAny> = parsed(raw).unwrap_or_default();
                u64::try_from(ids.len()).unwrap_or(u64::MAX)
            }
            Some(b'0'..=b'9') => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(model: &str, body: &str) -> u64 {
        estimate(Encoding::of(model), model, body.as_bytes())
    }

    #[test]
    fn a_chat_is_its_messages_and_their_frames() {
        let body = r#"{"messages":[{"role":"system","content":"Hi"},
            {"role":"user","content":[{"type":"text","text":"hello"},
                {"type":"text","text":" world"}]}]}"#;
        // Two messages of 3 + 1 for the role, 1 and 2 of text, and 3 of priming.
        assert_eq!(tokens("gpt-4o", body), 2 * 4 + 1 + 2 + 3);
        // Reasoning models are primed with one less.
        assert_eq!(tokens("gpt-5", body), 2 * 4 + 1 + 2 + 2);
        assert_eq!(tokens("o3", body), 2 * 4 + 1 + 2 + 2);
    }

    #[test]
    fn an_image_counts_a_flat_amount_and_is_never_read_as_text() {
        let image = "A".repeat(200_000);
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"hello world"}},
              {{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
        );
        assert_eq!(tokens("gpt-4o", &body), 4 + 2 + 765 + 3);
        let body = format!(
            r#"{{"input":[{{"role":"user","content":[
              {{"type":"input_file","file_data":"data:application/pdf;base64,{image}"}},
              {{"type":"input_text","text":"hello world"}}]}}]}}"#
        );
        assert_eq!(tokens("gpt-4o", &body), 4 + 765 + 2 + 3);
    }

    #[test]
    fn a_response_is_its_instructions_and_its_input() {
        assert_eq!(tokens("gpt-4o", r#"{"input":"hello world"}"#), 3 + 4 + 2);
        let body = r#"{"instructions":"hello world","input":[{"role":"user","content":"Hi"}]}"#;
        assert_eq!(tokens("gpt-4o", body), 3 + (4 + 2) + (4 + 1));
    }

    #[test]
    fn prompts_and_texts_to_embed_have_no_frame() {
        let model = "gpt-3.5-turbo-instruct";
        assert_eq!(tokens(model, r#"{"prompt":"hello world"}"#), 2);
        assert_eq!(tokens(model, r#"{"prompt":["hello world","Hi"]}"#), 3);
        assert_eq!(tokens(model, r#"{"prompt":[11,22,33]}"#), 3);
        let model = "text-embedding-3-small";
        assert_eq!(tokens(model, r#"{"input":"hello world"}"#), 2);
        assert_eq!(tokens(model, r#"{"input":[[1,2],[3,4,5]]}"#), 5);
        assert_eq!(tokens("house-embedder", r#"{"input":["hello world","Hi"]}"#), 3);
    }

    #[test]
    fn tool_calls_and_results_are_counted() {
        let body = r#"{"messages":[
            {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",
              "function":{"name":"look","arguments":"hello world"}}]},
            {"role":"tool","tool_call_id":"c1","content":"Hi"}]}"#;
        // 3 + 1 + the call (3 + 1 + 2), then 3 + 1 of text + 1 for `look` + 2; 3 of priming.
        assert_eq!(tokens("gpt-4o", body), (4 + 6) + (3 + 1 + 1 + 2) + 3);
    }

    #[test]
    fn tools_and_schemas_add_to_the_prompt() {
        let plain = tokens("gpt-4o", r#"{"messages":[]}"#);
        let tool = r#"{"type":"function","function":{"name":"look","parameters":{"type":"object",
            "properties":{"at":{"type":"string"}}}}}"#;
        let with_tool = tokens("gpt-4o", &format!(r#"{{"messages":[],"tools":[{tool}]}}"#));
        assert!((plain + 20..plain + 60).contains(&with_tool), "{with_tool}");
        let with_schema = tokens(
            "gpt-4o",
            r#"{"messages":[],"response_format":{"type":"json_schema","json_schema":{"name":"x",
              "schema":{"type":"object"}}}}"#,
        );
        // {"type":"object"} is 5 tokens, its name 1, the frame 19.
        assert_eq!(with_schema, plain + 5 + 1 + 19);
        let json = r#"{"messages":[],"response_format":{"type":"json_object"},"tools":[]}"#;
        assert_eq!(tokens("gpt-4o", json), plain);
    }

    #[test]
    fn a_long_conversation_is_counted_by_its_beginning() {
        let message = format!(r#"{{"role":"user","content":"{}"}}"#, "word ".repeat(80_000));
        let of = |count: usize| {
            let messages = vec![message.as_str(); count].join(",");
            tokens("gpt-4o", &format!(r#"{{"messages":[{messages}]}}"#))
        };
        // 400,000 bytes each: the fourth and later ones are scaled, and all are alike.
        let (three, six) = (of(3) - 3, of(6) - 3);
        assert!(six.abs_diff(2 * three) * 1000 <= six, "{three} {six}");
    }

    #[test]
    fn a_body_of_any_shape_is_survived() {
        for body in ["", "[]", "null", "{", "{\"messages\":7}x", "\u{0}", "{\"prompt\":{}}"] {
            assert_eq!(tokens("gpt-4o", body), 0, "{body}");
        }
        for body in [
            r#"{"messages":7}"#,
            r#"{"messages":[1,"x",null,[],{}, {"role":1,"content":2,"tool_calls":{}}]}"#,
            r#"{"input":{"a":1},"tools":"x","text":[],"tool_choice":[]}"#,
            r#"{"messages":[],"tools":[{"function":{"name":"f","parameters":
                {"properties":{"a":{"type":[1,null],"enum":[{}]}, "b":7}}}}]}"#,
        ] {
            assert!(tokens("gpt-4o", body) < 100, "{body}");
        }
        let deep =
            format!(r#"{{"messages":[],"tools":{}1{}}}"#, "[".repeat(99_999), "]".repeat(99_999));
        assert_eq!(tokens("gpt-4o", &deep), 3);
    }
}
