//! What a whole answer says about itself, read beside the bytes that go to the client.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::Value;

use crate::openai::request::string;
use crate::openai::scan;
use crate::openai::usage::Usage;

static FINISH_REASON: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(br#""finish_reason""#));
static WEB_SEARCH_CALL: LazyLock<Finder<'_>> =
    LazyLock::new(|| Finder::new(br#""web_search_call""#));

/// The facts of one answer that is not a stream, from any endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerFacts {
    /// The answer's own id, such as `chatcmpl-…`.
    pub id: Option<String>,
    /// The model that answered, as the provider names it.
    pub model: Option<String>,
    /// The tier that the call was served and is billed in.
    pub service_tier: Option<String>,
    /// What was used; None when the answer does not say.
    pub usage: Option<Usage>,
    /// The first choice's `finish_reason`, or the `status` of a response.
    pub finish_reason: Option<String>,
}

impl AnswerFacts {
    /// Reads the facts of a whole answer. None when the body is not a JSON object. One pass, by the
    /// same scanner that reads requests.
    pub fn read(body: &[u8]) -> Option<Self> {
        let mut facts = Self::default();
        let mut status = None;
        let (mut is_response, mut searches) = (false, 0);
        let (members, usage) = scan::answer_with(body, b"usage").ok()?;
        facts.usage = usage.and_then(|usage| Usage::from_members(body, &usage));
        for member in members.list {
            let value = member.value.of(body);
            match member.name.of(body) {
                b"id" => facts.id = text(value),
                b"model" => facts.model = text(value),
                b"service_tier" => facts.service_tier = text(value),
                b"object" => is_response = value == br#""response""#,
                b"status" => status = Some(value),
                b"choices" => facts.finish_reason = finish_reason(value),
                b"output" => searches = web_searches(value),
                _ => {}
            }
        }
        if let Some(usage) = &mut facts.usage {
            usage.web_searches = searches;
        }
        // Files, jobs and batches have a status of another kind.
        if is_response {
            facts.finish_reason = status.and_then(text);
        }
        Some(facts)
    }

    /// The text that the model wrote, in the order of the answer, for an estimate where usage is
    /// missing: contents, refusals, names and arguments of tool calls. Empty when there is none.
    pub fn output_text(body: &[u8]) -> String {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            return String::new();
        };
        let mut pieces = Vec::new();
        for choice in list(&answer, "choices") {
            push(&mut pieces, choice.get("text"));
            if let Some(message) = choice.get("message") {
                push_message(&mut pieces, message);
            }
        }
        for item in list(&answer, "output") {
            push_item(&mut pieces, item);
        }
        pieces.join("\n")
    }
}

/// A JSON string's text; None for any other value.
fn text(value: &[u8]) -> Option<String> {
    string(value).map(Cow::into_owned)
}

/// The first `finish_reason` of `choices`. Inside a JSON string its quotes would be escaped, so
/// what a model writes cannot be taken for it.
fn finish_reason(choices: &[u8]) -> Option<String> {
    let after = choices.get(FINISH_REASON.find(choices)? + FINISH_REASON.needle().len()..)?;
    let value = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let end = value.iter().skip(1).position(|&byte| byte == b'"')? + 2;
    value.starts_with(b"\"").then(|| text(value.get(..end)?))?
}

/// The searches among a response's output items; opening a page and finding in it cost nothing.
pub(super) fn web_searches(output: &[u8]) -> u64 {
    // Inside a JSON string the quotes would be escaped: what a model writes is not taken for it.
    if WEB_SEARCH_CALL.find(output).is_none() {
        return 0;
    }
    let items: Vec<Value> = serde_json::from_slice(output).unwrap_or_default();
    let searches = items.iter().filter(|item| {
        let action = item.pointer("/action/type").and_then(Value::as_str);
        item.get("type").is_some_and(|kind| kind == "web_search_call")
            && action.is_none_or(|action| action == "search")
    });
    u64::try_from(searches.count()).unwrap_or(u64::MAX)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn push<'a>(pieces: &mut Vec<&'a str>, value: Option<&'a Value>) {
    pieces.extend(value.and_then(Value::as_str).filter(|piece| !piece.is_empty()));
}

/// A function or custom tool: its name and what it was called with.
fn push_call<'a>(pieces: &mut Vec<&'a str>, call: &'a Value) {
    push(pieces, call.get("name"));
    push(pieces, call.get("arguments"));
    push(pieces, call.get("input"));
}

fn push_message<'a>(pieces: &mut Vec<&'a str>, message: &'a Value) {
    push(pieces, message.get("content"));
    push_parts(pieces, list(message, "content"));
    push(pieces, message.get("refusal"));
    pieces.extend(message.pointer("/audio/transcript").and_then(Value::as_str));
    for call in list(message, "tool_calls") {
        for kind in ["function", "custom"] {
            if let Some(called) = call.get(kind) {
                push_call(pieces, called);
            }
        }
    }
    if let Some(call) = message.get("function_call") {
        push_call(pieces, call);
    }
}

fn push_parts<'a>(pieces: &mut Vec<&'a str>, parts: &'a [Value]) {
    for part in parts {
        push(pieces, part.get("text"));
        push(pieces, part.get("refusal"));
    }
}

/// One item of a response's `output`.
fn push_item<'a>(pieces: &mut Vec<&'a str>, item: &'a Value) {
    match item.get("type").and_then(Value::as_str) {
        Some("function_call" | "custom_tool_call") => push_call(pieces, item),
        _ => push_parts(pieces, list(item, "content")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,
        "model":"gpt-5-2025-08-07","choices":[
          {"index":0,"message":{"role":"assistant","content":"Hi \"you\"","refusal":null},
           "finish_reason":"stop"},
          {"index":1,"message":{"role":"assistant","content":null,"tool_calls":[
            {"id":"c","type":"function","function":{"name":"look","arguments":"{\"at\":1}"}}]},
           "finish_reason":"tool_calls"}],
        "usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13},
        "service_tier":"flex","system_fingerprint":null}"#;

    #[test]
    fn searches_of_a_response_are_counted_and_openings_of_pages_are_not() {
        let body = r#"{"object":"response","status":"completed","output":[
            {"type":"web_search_call","action":{"type":"search","query":"x"}},
            {"type":"web_search_call","action":{"type":"open_page"}},
            {"type":"web_search_call"},
            {"type":"message","content":[{"type":"output_text","text":"\"web_search_call\""}]}],
            "usage":{"input_tokens":1,"output_tokens":2}}"#;
        let facts = AnswerFacts::read(body.as_bytes()).unwrap();
        assert_eq!(facts.usage.unwrap().web_searches, 2);
    }

    #[test]
    fn a_chat_answer_tells_model_tier_usage_and_the_first_finish_reason() {
        let facts = AnswerFacts::read(CHAT.as_bytes()).unwrap();
        assert_eq!(facts.model.as_deref(), Some("gpt-5-2025-08-07"));
        assert_eq!(facts.service_tier.as_deref(), Some("flex"));
        assert_eq!(facts.finish_reason.as_deref(), Some("stop"));
        assert_eq!(facts.usage, Some(Usage { input: 9, output: 4, ..Usage::default() }));
    }

    #[test]
    fn a_response_tells_its_status() {
        let body = br#"{"object":"response","status":"incomplete","model":"o3","output":[],
            "service_tier":null,"usage":{"input_tokens":2,"output_tokens":3}}"#;
        let facts = AnswerFacts::read(body).unwrap();
        assert_eq!(facts.finish_reason.as_deref(), Some("incomplete"));
        assert_eq!(facts.service_tier, None);
        assert_eq!(facts.usage, Some(Usage { input: 2, output: 3, ..Usage::default() }));
    }

    #[test]
    fn an_embeddings_answer_is_skipped_through_to_its_usage() {
        let vector = vec!["0.0123"; 1536].join(",");
        let body = format!(
            r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":[{vector}]}}],
               "model":"text-embedding-3-small","usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#
        );
        let facts = AnswerFacts::read(body.as_bytes()).unwrap();
        assert_eq!(facts.usage, Some(Usage { input: 8, ..Usage::default() }));
        assert_eq!(facts.finish_reason, None);
    }

    #[test]
    fn fields_of_an_unexpected_type_cost_only_themselves() {
        let body = br#"{"model":7,"service_tier":{},"usage":[1,2],"choices":"x","status":"ok"}"#;
        assert_eq!(AnswerFacts::read(body), Some(AnswerFacts::default()));
        let body = br#"{"object":"file","status":"processed","model":"m\u00e9"}"#;
        let facts = AnswerFacts::read(body).unwrap();
        assert_eq!((facts.model.as_deref(), facts.finish_reason), (Some("m\u{e9}"), None));
    }

    #[test]
    fn what_is_not_an_object_has_no_facts() {
        for body in ["", "[]", "null", "[[1],[2]]", "{\"model\":", "<html>"] {
            assert_eq!(AnswerFacts::read(body.as_bytes()), None, "{body}");
        }
        assert_eq!(AnswerFacts::read(b"{}"), Some(AnswerFacts::default()));
    }

    #[test]
    fn the_written_text_of_a_chat_holds_contents_and_tool_calls() {
        assert_eq!(AnswerFacts::output_text(CHAT.as_bytes()), "Hi \"you\"\nlook\n{\"at\":1}");
    }

    #[test]
    fn the_written_text_of_a_response_holds_messages_and_calls() {
        let body = br#"{"object":"response","output":[
            {"type":"reasoning","summary":[{"type":"summary_text","text":"hidden"}]},
            {"type":"message","content":[{"type":"output_text","text":"Yes."},
                {"type":"refusal","refusal":"No."}]},
            {"type":"function_call","name":"f","arguments":"{}","call_id":"x"}]}"#;
        assert_eq!(AnswerFacts::output_text(body), "Yes.\nNo.\nf\n{}");
        let body = br#"{"object":"text_completion","choices":[{"text":"once","index":0}]}"#;
        assert_eq!(AnswerFacts::output_text(body), "once");
        assert_eq!(AnswerFacts::output_text(b"not json"), "");
    }
}
