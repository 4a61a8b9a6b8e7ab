//! What becomes of chats and completions, shape by shape.

use serde_json::Value;
use serde_json::json;

use super::chat;
use super::folded;
use super::recorded_folded;
use super::value;
use crate::openai::endpoint::Endpoint;

/// The only choice's message of a chat whose deltas are these.
fn message(deltas: &[&str]) -> Value {
    let chunks = deltas.iter().map(|delta| format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#));
    let chunks: Vec<_> = chunks.chain(["[DONE]".to_owned()]).collect();
    let events: Vec<_> = chunks.iter().map(String::as_str).collect();
    let answer = value(&chat(&events));
    assert_eq!(answer.get("weir_incomplete"), None);
    answer["choices"][0]["message"].clone()
}

#[test]
fn a_recorded_chat_becomes_one_answer_in_openais_order() {
    let answer = recorded_folded(Endpoint::ChatCompletions, "chat_usage.sse");
    let wanted = concat!(
        r#"{"id":"chatcmpl-Bx1","object":"chat.completion","created":1763900000,"#,
        r#""model":"gpt-4.1-mini-2025-04-14","choices":[{"index":0,"message":"#,
        r#"{"role":"assistant","content":"Grüß dich! 😀\nHe said \"usage\":{\"x\":1},\"choices\":[] \\ end.","#,
        r#""refusal":null},"logprobs":null,"finish_reason":"stop"}],"#,
        r#""usage":{"prompt_tokens":19,"completion_tokens":6,"total_tokens":25,"#,
        r#""prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":"#,
        r#"{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"#,
        r#""service_tier":"default","system_fingerprint":"fp_38647f5e19"}"#,
    );
    assert_eq!(answer, wanted);
}

#[test]
fn a_recorded_tool_call_is_assembled() {
    let answer = value(&recorded_folded(Endpoint::ChatCompletions, "chat_tools.sse"));
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let wanted = json!({
        "role": "assistant", "content": null,
        "tool_calls": [{
            "id": "call_1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\":\"Kraków\"}"},
        }],
    });
    assert_eq!(answer["choices"][0]["message"], wanted);
}

#[test]
fn recorded_completions_become_one_answer() {
    let answer = recorded_folded(Endpoint::Completions, "completions.sse");
    let wanted = concat!(
        r#"{"id":"cmpl-7","object":"text_completion","created":1763900000,"#,
        r#""model":"gpt-3.5-turbo-instruct","choices":[{"text":"Once upon a time","index":0,"#,
        r#""logprobs":null,"finish_reason":"length"}],"#,
        r#""usage":{"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}}"#,
    );
    assert_eq!(answer, wanted);
}

#[test]
fn parallel_tool_calls_interleaved_over_two_choices_are_told_apart() {
    let chunk = |choice: u64, call: Value| {
        json!({"choices": [{"index": choice, "delta": {"tool_calls": [call]}}]}).to_string()
    };
    let open = |choice, index: u64, name: &str| {
        let function = json!({"name": name, "arguments": ""});
        let id = format!("call_{choice}{index}");
        chunk(choice, json!({"index": index, "id": id, "type": "function", "function": function}))
    };
    let more = |choice, index: u64, piece: &str| {
        chunk(choice, json!({"index": index, "function": {"arguments": piece}}))
    };
    let events = [
        open(1, 1, "d"),
        open(0, 0, "a"),
        open(1, 0, "c"),
        more(0, 0, "{\"x"),
        open(0, 1, "b"),
        more(1, 1, "[4"),
        more(1, 0, "{}"),
        more(0, 0, "\":1}"),
        more(0, 1, "{\"y\":2}"),
        more(1, 1, "]"),
        "[DONE]".to_owned(),
    ];
    let answer = value(&chat(&events.each_ref().map(String::as_str)));
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let choice = |index: u64, calls: Value| {
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        json!({"index": index, "message": message, "finish_reason": null})
    };
    let wanted = json!([
        choice(0, json!([call("call_00", "a", "{\"x\":1}"), call("call_01", "b", "{\"y\":2}")])),
        choice(1, json!([call("call_10", "c", "{}"), call("call_11", "d", "[4]")])),
    ]);
    assert_eq!(answer["choices"], wanted);
}

#[test]
fn tool_calls_without_an_index_are_told_apart_by_their_ids() {
    let message = message(&[
        r#"{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{"}}]}"#,
        r#"{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"}"}}]}"#,
        r#"{"tool_calls":[{"id":"b","function":{"name":"g","arguments":"1"}}]}"#,
        r#"{"tool_calls":[{"function":{"arguments":"2"}}]}"#,
    ]);
    let wanted = json!([
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "g", "arguments": "12"}},
    ]);
    assert_eq!(message["tool_calls"], wanted);
}

#[test]
fn a_custom_tools_input_and_an_old_function_call_are_joined() {
    let custom = message(&[
        r#"{"content":"","tool_calls":[{"index":0,"id":"c","type":"custom","custom":{"name":"sql","input":"se"}}]}"#,
        r#"{"tool_calls":[{"index":0,"custom":{"input":"lect"}}]}"#,
    ]);
    let call = json!({"id": "c", "type": "custom", "custom": {"name": "sql", "input": "select"}});
    assert_eq!(custom, json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    let old = message(&[
        r#"{"role":"assistant","content":null,"function_call":{"name":"get_","arguments":""}}"#,
        r#"{"function_call":{"name":"it","arguments":"{}"}}"#,
    ]);
    let call = json!({"name": "get_it", "arguments": "{}"});
    assert_eq!(old, json!({"role": "assistant", "content": null, "function_call": call}));
}

#[test]
fn a_refusal_leaves_no_content() {
    let message = message(&[
        r#"{"role":"assistant","content":"","refusal":null}"#,
        r#"{"refusal":"I can"}"#,
        r#"{"refusal":"not."}"#,
    ]);
    assert_eq!(message, json!({"role": "assistant", "content": null, "refusal": "I cannot."}));
}

#[test]
fn an_empty_answer_stays_an_empty_text() {
    let nothing = message(&[r#"{"role":"assistant","content":"","refusal":null}"#, "{}"]);
    assert_eq!(nothing, json!({"role": "assistant", "content": "", "refusal": null}));
    assert_eq!(message(&["{}"]), json!({"role": "assistant", "content": null}));
}

#[test]
fn log_probabilities_are_appended_and_their_numbers_kept_as_written() {
    let chunk = |logprobs: &str| {
        format!(r#"{{"choices":[{{"index":0,"delta":{{}},"logprobs":{logprobs}}}]}}"#)
    };
    let answer = chat(&[
        &chunk("null"),
        &chunk(
            r#"{"content":[{"token":"a","logprob":-0.10000000000000000555,"top_logprobs":[]}],"refusal":null}"#,
        ),
        &chunk(r#"{"content":[],"refusal":[{"token":"n","logprob":-9999.0}]}"#),
        &chunk(r#"{"content":[{"token":"b","logprob":-1e-300},{"token":"c","logprob":0.0}]}"#),
        "[DONE]",
    ]);
    let wanted = concat!(
        r#""logprobs":{"content":[{"token":"a","logprob":-0.10000000000000000555,"top_logprobs":[]},"#,
        r#"{"token":"b","logprob":-1e-300},{"token":"c","logprob":0.0}],"#,
        r#""refusal":[{"token":"n","logprob":-9999.0}]},"finish_reason":null"#,
    );
    assert!(answer.contains(wanted), "{answer}");
}

#[test]
fn completions_join_texts_and_log_probabilities_by_choice() {
    let chunk = |index, text: &str, logprobs: &str, finish: &str| {
        format!(
            r#"{{"id":"c","choices":[{{"text":"{text}","index":{index},"logprobs":{logprobs},"finish_reason":{finish},"stop_reason":7}}]}}"#
        )
    };
    let answer = folded(
        Endpoint::Completions,
        &[
            &chunk(1, "x", "null", "null"),
            &chunk(
                0,
                "a",
                r#"{"tokens":["a"],"token_logprobs":[null],"top_logprobs":null,"text_offset":[0]}"#,
                "null",
            ),
            &chunk(
                0,
                "b",
                r#"{"tokens":["b"],"token_logprobs":[-0.50],"top_logprobs":[{"b":-0.50}],"text_offset":[1]}"#,
                r#""stop""#,
            ),
            &chunk(1, "y", "null", r#""length""#),
            "[DONE]",
        ],
    );
    let wanted = concat!(
        r#"{"id":"c","object":"text_completion","choices":["#,
        r#"{"text":"ab","index":0,"logprobs":{"tokens":["a","b"],"token_logprobs":[null,-0.50],"#,
        r#""top_logprobs":[{"b":-0.50}],"text_offset":[0,1]},"finish_reason":"stop","stop_reason":7},"#,
        r#"{"text":"xy","index":1,"logprobs":null,"finish_reason":"length","stop_reason":7}]}"#,
    );
    assert_eq!(answer, wanted);
}

#[test]
fn sound_is_joined_and_its_id_stays_one() {
    let message = message(&[
        r#"{"role":"assistant","content":null,"audio":{"id":"audio_1","transcript":"He"}}"#,
        r#"{"audio":{"id":"audio_1","data":"UklG"}}"#,
        r#"{"audio":{"transcript":"llo","data":"Rg=="}}"#,
        r#"{"audio":{"expires_at":1763903600}}"#,
    ]);
    let audio = json!({
        "id": "audio_1", "transcript": "Hello", "data": "UklGRg==", "expires_at": 1_763_903_600,
    });
    assert_eq!(message, json!({"role": "assistant", "content": null, "audio": audio}));
}

#[test]
fn fields_that_nobody_knows_survive_and_those_of_streams_do_not() {
    let answer = chat(&[
        r#"{"id":"","object":"x","provider":"p1","x":{"a":1},"obfuscation":"zz","choices":[]}"#,
        r#"{"id":"c1","created":12345678901234567890,"choices":[{"index":0,"delta":{"role":"assistant","reasoning":"so","more":{"text":"a","n":1,"deep":{"list":[1]}},"list":[1.0],"flag":false},"filter":{"ok":true}}]}"#,
        r#"{"id":"c1","x":null,"provider":"p2","weir_incomplete":"no","choices":[{"index":0,"delta":{"role":"assistant","reasoning":"-so","more":{"text":"b","n":2e0,"deep":{"list":[2,3]}},"list":["é"],"flag":true,"flat":null},"filter":null,"finish_reason":"stop"}],"usage":null}"#,
        "[DONE]",
    ]);
    let wanted = concat!(
        r#"{"id":"c1","object":"chat.completion","created":12345678901234567890,"choices":[{"index":0,"#,
        r#""message":{"role":"assistant","content":null,"reasoning":"so-so","#,
        r#""more":{"text":"ab","n":2e0,"deep":{"list":[1,2,3]}},"list":[1.0,"é"],"flag":true,"flat":null},"#,
        r#""finish_reason":"stop","filter":{"ok":true}}],"provider":"p2","x":{"a":1}}"#,
    );
    assert_eq!(answer, wanted);
}

#[test]
fn surrogates_cut_apart_make_one_character_again() {
    let message = message(&[r#"{"content":"a\ud83d"}"#, r#"{"content":"\ude00b"}"#]);
    assert_eq!(message["content"], "a😀b");
}
