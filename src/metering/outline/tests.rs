//! Each rule by hand.

use crate::metering::lazy::LazyPrompt;
use crate::metering::parts::PromptCount;

use super::*;

fn count(model: &str, body: &str) -> PromptCount {
    LazyPrompt::new(Encoding::of(model), model, body.as_bytes()).count()
}

fn tokens(model: &str, body: &str) -> u64 {
    count(model, body).tokens
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
    // What gpt-5 answered came in a channel.
    let answer = r#"{"messages":[{"role":"assistant","content":"Hi"}]}"#;
    assert_eq!(tokens("o3", answer), 4 + 1 + 2);
    assert_eq!(tokens("gpt-5", answer), 4 + 1 + 2 + 2);
}

#[test]
fn a_name_stands_behind_the_role_and_in_its_place_on_the_first_chat_model() {
    let body = r#"{"messages":[{"role":"user","name":"user","content":"Hi"}]}"#;
    // `:user` is one token, `user` and `Hi` too.
    assert_eq!(tokens("gpt-4o", body), 3 + 1 + 1 + 1 + 3);
    assert_eq!(tokens("gpt-3.5-turbo-0301", body), 4 + 1 + 1 + 3);
}

#[test]
fn an_image_is_counted_by_its_size_and_never_as_text() {
    let data = "A".repeat(200_000);
    let body = |image: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"hello world"}},
              {{"type":"image_url","image_url":{image}}}]}}]}}"#
        )
    };
    // 640 x 480: two tiles.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAoAAAAHgCAYAAAA10dzk";
    let sized =
        count("gpt-4o", &body(&format!(r#"{{"url":"data:image/png;base64,{png}{data}"}}"#)));
    assert_eq!(sized.tokens, 4 + 2 + (85 + 170 * 2) + 3);
    assert_eq!((sized.parts.get(Part::Images), sized.flags.is_empty()), (425, true));
    let low = count("gpt-4o", &body(r#"{"url":"https://x/y.png","detail":"low"}"#));
    assert_eq!((low.parts.get(Part::Images), low.flags.is_empty()), (85, true));
    for unknown in [r#"{"url":"https://x/y.png"}"#, r#""https://x/y.png""#, "{}", "7"] {
        let count = count("gpt-4o", &body(unknown));
        assert_eq!(count.parts.get(Part::Images), 765, "{unknown}");
        assert!(count.flags.has(Flag::UnknownImageSize), "{unknown}");
    }
}

#[test]
fn what_cannot_be_told_is_a_flag_and_no_number() {
    let item = |item: &str| format!(r#"{{"input":[{{"role":"user","content":"Hi"}},{item}]}}"#);
    let part = |part: &str| item(&format!(r#"{{"content":[{part}]}}"#));
    let hi = tokens("gpt-4o", &item("7"));
    for (body, flag, more) in [
        (
            part(r#"{"type":"input_file","file_data":"data:application/pdf;base64,AAAA"}"#),
            Flag::Files,
            3,
        ),
        (part(r#"{"type":"input_audio","input_audio":{"data":"AAAA"}}"#), Flag::Audio, 3),
        (part(r#"{"type":"input_hologram","data":"AAAA"}"#), Flag::UnknownItems, 3),
        (item(r#"{"type":"reasoning","encrypted_content":"AAAA"}"#), Flag::EncryptedReasoning, 0),
        (item(r#"{"type":"web_search_call","id":"ws_1"}"#), Flag::HostedTools, 0),
        (item(r#"{"type":"item_reference","id":"x"}"#), Flag::StoredState, 0),
        (item(r#"{"type":"dream"}"#), Flag::UnknownItems, 0),
    ] {
        let count = count("gpt-4o", &body);
        assert_eq!(count.flags.iter().collect::<Vec<_>>(), [flag], "{body}");
        assert_eq!(count.tokens, hi + more, "{body}");
    }
    let flags = |body: &str| count("gpt-4o", body).flags.iter().collect::<Vec<_>>();
    assert_eq!(flags(r#"{"input":"Hi","tools":[{"type":"web_search"}]}"#), [Flag::HostedTools]);
    assert_eq!(flags(r#"{"input":"Hi","previous_response_id":"r"}"#), [Flag::StoredState]);
    assert_eq!(flags(r#"{"prompt":{"id":"p"}}"#), [Flag::StoredState]);
    assert_eq!(flags(r#"{"messages":[],"web_search_options":{}}"#), [Flag::HostedTools]);
}

#[test]
fn an_unknown_model_is_flagged_and_counted_as_one_of_the_newest() {
    let body = r#"{"messages":[{"role":"user","content":"你好，世界"}]}"#;
    let unknown = count("house-llama", body);
    assert!(unknown.flags.has(Flag::UnknownModel));
    assert_eq!(unknown.tokens, tokens("gpt-4o", body));
    assert_ne!(unknown.tokens, tokens("gpt-4", body));
    for known in [
        "gpt-6.1-sol",
        "o4-mini",
        "ft:gpt-4o-mini:a::b",
        "text-embedding-3-small",
        "chatgpt-4o-latest",
    ] {
        assert!(count(known, body).flags.is_empty(), "{known}");
    }
}

#[test]
fn a_response_is_its_instructions_and_its_input() {
    assert_eq!(tokens("gpt-4o", r#"{"input":"hello world"}"#), 3 + 4 + 2);
    let body = r#"{"instructions":"hello world","input":[{"role":"user","content":"Hi"}]}"#;
    assert_eq!(tokens("gpt-4o", body), 3 + (4 + 2) + (4 + 1));
    let called = r#"{"input":[{"type":"function_call","call_id":"c","name":"look","arguments":"{}"},
        {"type":"function_call_output","call_id":"c","output":"Hi"}]}"#;
    // The call: 6 + `look` 1 + `{}` 1; its output: 5 + `look` 1 + 1.
    assert_eq!(tokens("gpt-4o", called), 3 + 8 + 7);
    assert_eq!(tokens("gpt-5", called), 2 + (8 + 4) + (7 + 5));
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
    assert_eq!(tokens("gpt-5", body), (4 + 6 + 7) + (3 + 1 + 1 + 2) + 2);
}

#[test]
fn tools_and_schemas_are_parts_of_their_own() {
    let tool = r#"{"type":"function","function":{"name":"look","parameters":{"type":"object",
        "properties":{"at":{"type":"string"}}}}}"#;
    let with_tool = count("gpt-4o", &format!(r#"{{"messages":[],"tools":[{tool}]}}"#));
    let shown = "namespace functions {\n\ntype look = (_: {\nat?: string,\n}) => any;\n\n} // namespace functions";
    assert_eq!(with_tool.parts.get(Part::Tools), Encoding::O200kBase.count(shown) + 9);
    assert_eq!(with_tool.parts.get(Part::Messages), 3);
    let with_schema = count(
        "gpt-4o",
        r#"{"messages":[],"response_format":{"type":"json_schema","json_schema":{"name":"x",
          "schema":{"type":"object"}}}}"#,
    );
    // {"type":"object"} is 5 tokens, its name 1, the frame 19.
    assert_eq!(with_schema.parts.get(Part::Schema), 5 + 1 + 19);
    assert_eq!(with_schema.tokens, with_schema.parts.total());
    let json = r#"{"messages":[],"response_format":{"type":"json_object"},"tools":[]}"#;
    assert_eq!(tokens("gpt-4o", json), 3);
}

#[test]
fn a_field_that_is_there_twice_counts_as_others_read_it() {
    let body = r#"{"messages":[{"role":"user","content":"hello world","content":"Hi"}]}"#;
    assert_eq!(tokens("gpt-4o", body), 4 + 1 + 3);
}

#[test]
fn a_body_of_any_shape_is_survived() {
    for body in ["", "[]", "null", "{", "{\"messages\":7}x", "\u{0}", "{\"prompt\":7}", "7"] {
        assert_eq!(tokens("gpt-4o", body), 0, "{body}");
    }
    for body in [
        r#"{"messages":7}"#,
        r#"{"messages":[1,"x",null,[],{}, {"role":1,"content":2,"tool_calls":{}}]}"#,
        r#"{"messages":[{"role":"\ud800","content":"\udc00","name":"\ud800x"}]}"#,
        r#"{"input":{"a":1},"tools":"x","text":[],"tool_choice":[]}"#,
        r#"{"messages":[],"tools":[{"function":{"name":"f","parameters":
            {"properties":{"a":{"type":[1,null],"enum":[{}]}, "b":7}}}}]}"#,
    ] {
        assert!(tokens("gpt-4o", body) < 100, "{body}");
    }
    let deep = |depth| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"messages":[],"tools":{open}1{close}}}"#)
    };
    assert_eq!(tokens("gpt-4o", &deep(199)), 3);
    // Deeper than any request may be: nothing of it is read.
    assert_eq!(tokens("gpt-4o", &deep(99_999)), 0);
}
