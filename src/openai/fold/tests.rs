use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

use super::*;
use crate::openai::events::Event;
use crate::openai::fuzzed;

mod whole;

/// The folded answer as text. Lines are the data of events; `[DONE]` may be the last.
fn folded(endpoint: Endpoint, events: &[&str]) -> String {
    let mut fold = Fold::new(endpoint).unwrap();
    for event in events {
        match *event {
            "[DONE]" => fold.done(),
            event => fold.event(event.as_bytes()),
        }
    }
    String::from_utf8(fold.finish().unwrap()).unwrap()
}

fn chat(events: &[&str]) -> String {
    folded(Endpoint::ChatCompletions, events)
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

/// The only choice's message of a chat whose deltas are these.
fn message(deltas: &[&str]) -> Value {
    let chunks = deltas.iter().map(|delta| format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#));
    let chunks: Vec<_> = chunks.chain(["[DONE]".to_owned()]).collect();
    let events: Vec<_> = chunks.iter().map(String::as_str).collect();
    let answer = value(&chat(&events));
    assert_eq!(answer.get("weir_incomplete"), None);
    answer["choices"][0]["message"].clone()
}

/// The data of a recorded stream's events.
fn recorded(file: &str) -> Vec<String> {
    let path = format!("{}/tests/fixtures/streams/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let events = text.split("\n\n").filter_map(|event| Event::read(event.as_bytes()));
    events.map(|event| String::from_utf8(event.data.into_owned()).unwrap()).collect()
}

fn recorded_folded(endpoint: Endpoint, file: &str) -> String {
    let events = recorded(file);
    folded(endpoint, &events.iter().map(String::as_str).collect::<Vec<_>>())
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

#[test]
fn a_stream_that_was_cut_says_so() {
    let chunk = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}],"usage":null}"#;
    let wanted = concat!(
        r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"#,
        r#""message":{"role":"assistant","content":"Hel"},"finish_reason":null}],"#,
        r#""weir_incomplete":"the stream ended early"}"#,
    );
    assert_eq!(chat(&[chunk]), wanted);
}

#[test]
fn errors_are_kept_and_what_is_no_json_is_told() {
    let error = r#"{"error":{"message":"overloaded","code":null}}"#;
    let answer = value(&chat(&[r#"{"choices":[{"delta":{"content":"a"}}],"error":null}"#, error]));
    assert_eq!(answer["error"], json!({"message": "overloaded", "code": null}));
    assert_eq!(answer["choices"][0]["message"]["content"], "a");
    assert_eq!(answer["weir_incomplete"], "the stream ended early");

    let mut fold = Fold::new(Endpoint::Completions).unwrap();
    fold.event(b"{oops");
    fold.error(br#"{"message":"overloaded"}"#);
    fold.done();
    let wanted = concat!(
        r#"{"object":"text_completion","choices":[],"error":{"message":"overloaded"},"#,
        r#""weir_incomplete":"an event could not be read"}"#,
    );
    assert_eq!(String::from_utf8(fold.finish().unwrap()).unwrap(), wanted);
}

#[test]
fn a_field_that_changes_its_type_is_told() {
    let answer = value(&chat(&[
        r#"{"choices":[{"delta":{"content":"abc"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"text"}]}}]}"#,
        "[DONE]",
    ]));
    assert_eq!(answer["choices"][0]["message"]["content"], json!([{"type": "text"}]));
    assert_eq!(answer["weir_incomplete"], "an event could not be read");
}

#[test]
fn nothing_gives_nothing() {
    for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Responses] {
        assert_eq!(Fold::new(endpoint).unwrap().finish(), None);
    }
    for endpoint in [Endpoint::Embeddings, Endpoint::Other] {
        assert!(Fold::new(endpoint).is_none());
    }
}

#[test]
fn an_answer_beyond_the_bound_is_given_up() {
    let mebibyte = "x".repeat(1 << 20);
    let chunk = format!(r#"{{"choices":[{{"delta":{{"content":"{mebibyte}"}}}}]}}"#);
    let grown = |chunks: usize| {
        let mut fold = Fold::new(Endpoint::ChatCompletions).unwrap();
        (0..chunks).for_each(|_| fold.event(chunk.as_bytes()));
        fold.finish().map(|answer| answer.len() >> 20)
    };
    // 31 MiB of text and a few bytes more fit, 32 MiB and a few bytes more do not.
    assert_eq!((grown(31), grown(32)), (Some(31), None));
}

#[test]
fn fields_without_end_are_bounded() {
    let fields: Vec<_> = (0..3000).map(|n| format!(r#""f{n}":{n}"#)).collect();
    let answer = value(&chat(&[&format!("{{{}}}", fields.join(",")), "[DONE]"]));
    // A thousand of them, `object`, `choices` and the reason.
    assert_eq!(answer.as_object().unwrap().len(), 1003);
    assert_eq!(answer["weir_incomplete"], "an event could not be read");
}

#[test]
fn a_finished_response_is_its_last_events_bytes() {
    let events = recorded("responses.sse");
    let last = events.last().unwrap();
    let (_, response) = last.split_once(r#""response":"#).unwrap();
    let answer = recorded_folded(Endpoint::Responses, "responses.sse");
    assert_eq!(answer, response.strip_suffix('}').unwrap());
}

#[test]
fn a_response_cut_anywhere_keeps_what_was_said() {
    let events = recorded("responses.sse");
    let events: Vec<_> = events.iter().map(String::as_str).collect();
    // Without the first three: the item is known only by what is said in it.
    let texts = ["", "", "", "", "Hi", "Hi there", "Hi there! How?", "Hi there! How?"];
    for (last, text) in texts.into_iter().enumerate() {
        let answer = value(&folded(Endpoint::Responses, &events[..=last]));
        let said = answer["output"][0]["content"][0]["text"].as_str().unwrap_or_default();
        assert_eq!((said, &answer["id"]), (text, &json!("resp_67c9")), "{last}");
        assert_eq!(answer["status"], "in_progress");
        assert_eq!(answer["weir_incomplete"], "the stream ended early");
    }
    let answer = folded(Endpoint::Responses, &events[..9]);
    let item = concat!(
        r#""output":[{"id":"msg_1","type":"message","status":"completed","role":"assistant","#,
        r#""content":[{"type":"output_text","text":"Hi there! How?","annotations":[]}]}],"service_tier""#,
    );
    assert!(answer.contains(item), "{answer}");
}

#[test]
fn a_cut_response_has_its_items_in_order_whatever_their_kind() {
    let event = |kind: &str, at: Value, fields: Value| {
        let mut event = json!({"type": format!("response.{kind}")});
        for (name, value) in at.as_object().unwrap().iter().chain(fields.as_object().unwrap()) {
            event[name] = value.clone();
        }
        event.to_string()
    };
    let item = |index: u64, item: Value| {
        event("output_item.added", json!({"output_index": index}), json!({"item": item}))
    };
    let at = |index: u64, part: u64| json!({"output_index": index, "content_index": part});
    let summary = json!({"output_index": 0, "summary_index": 0});
    let call = json!({"output_index": 2});
    let events = [
        event("created", json!({}), json!({"response": {"id": "r", "output": [], "error": null}})),
        item(2, json!({"type": "function_call", "name": "f", "arguments": ""})),
        item(0, json!({"type": "reasoning", "summary": []})),
        item(1, json!({"type": "message", "content": [], "role": "assistant"})),
        event(
            "reasoning_summary_part.added",
            summary.clone(),
            json!({"part": {"type": "summary_text", "text": ""}}),
        ),
        event("reasoning_summary_text.delta", summary.clone(), json!({"delta": "Hm"})),
        event("reasoning_summary_text.done", summary, json!({"text": "Hmm"})),
        event("content_part.added", at(1, 1), json!({"part": {"type": "refusal", "refusal": ""}})),
        event("refusal.delta", at(1, 1), json!({"delta": "No"})),
        event("refusal.delta", at(1, 1), json!({"delta": "."})),
        event(
            "content_part.added",
            at(1, 0),
            json!({"part": {"type": "output_text", "text": "", "annotations": []}}),
        ),
        event("output_text.delta", at(1, 0), json!({"delta": "a", "logprobs": [{"token": "a"}]})),
        event("output_text.delta", at(1, 0), json!({"delta": "b", "logprobs": [{"token": "b"}]})),
        event(
            "output_text.annotation.added",
            at(1, 0),
            json!({"annotation": {"type": "url_citation"}}),
        ),
        event("function_call_arguments.delta", call.clone(), json!({"delta": "{\"x\""})),
        event("function_call_arguments.delta", call, json!({"delta": ":1}"})),
        event("web_search_call.searching", json!({"output_index": 3}), json!({})),
        event("error", json!({}), json!({"error": {"message": "boom"}})),
    ];
    let answer = value(&folded(Endpoint::Responses, &events.each_ref().map(String::as_str)));
    let text = json!({
        "type": "output_text", "text": "ab", "annotations": [{"type": "url_citation"}],
        "logprobs": [{"token": "a"}, {"token": "b"}],
    });
    let refusal = json!({"type": "refusal", "refusal": "No."});
    let wanted = json!({
        "id": "r", "error": {"message": "boom"}, "weir_incomplete": "the stream ended early",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hmm"}]},
            {"type": "message", "content": [text, refusal], "role": "assistant"},
            {"type": "function_call", "name": "f", "arguments": "{\"x\":1}"},
        ],
    });
    assert_eq!(answer, wanted);
}

#[test]
fn a_response_of_which_the_last_event_alone_is_lost_is_all_but_whole() {
    let events = recorded("responses.sse");
    let mut fold = Fold::new(Endpoint::Responses).unwrap();
    events[..9].iter().for_each(|event| fold.event(event.as_bytes()));
    fold.lose();
    let answer = value(&String::from_utf8(fold.finish().unwrap()).unwrap());
    let why = "an event was longer than 1 MiB; the stream ended early";
    assert_eq!(answer["weir_incomplete"], why);
    assert_eq!(answer["output"][0]["content"][0]["text"], "Hi there! How?");
}

const ENDPOINTS: [Endpoint; 3] =
    [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Responses];

/// Whatever comes, what goes out is JSON; `events` may be anything.
fn survives(events: &[Vec<u8>]) {
    for endpoint in ENDPOINTS {
        let mut fold = Fold::new(endpoint).unwrap();
        for event in events {
            fold.event(event);
            fold.error(event);
        }
        if let Some(answer) = fold.finish() {
            serde_json::from_slice::<&serde_json::value::RawValue>(&answer).unwrap();
        }
    }
}

#[test]
fn deep_nesting_is_survived() {
    let deep = |n: usize| format!(r#"{{"a":{}1{}}}"#, r#"{"a":"#.repeat(n), "}".repeat(n));
    let chunk = |n| format!(r#"{{"choices":[{{"delta":{}}}]}}"#, deep(n)).into_bytes();
    survives(&[chunk(150), chunk(150), chunk(14), chunk(15), chunk(16), chunk(100_000)]);
}

/// Any JSON in the places that a fold looks at.
fn event() -> impl Strategy<Value = Vec<u8>> {
    let names: &[&str] = &[
        "id",
        "choices",
        "delta",
        "index",
        "message",
        "content",
        "tool_calls",
        "function",
        "text",
        "logprobs",
        "type",
        "response",
        "output_index",
        "content_index",
        "summary_index",
        "item",
        "part",
        "error",
        "usage",
        "output",
        "annotation",
        "name",
        "role",
        "summary",
        "arguments",
    ];
    let kinds: &[&str] = &[
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.output_text.annotation.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.refusal.delta",
        "error",
        "response.function_call_arguments.delta",
        "response.created",
        "response.completed",
    ];
    let leaf = prop_oneof![
        fuzzed::value(),
        prop::sample::select(kinds).prop_map(Value::from),
        (0..3_u64).prop_map(Value::from),
    ];
    let inner = leaf.prop_recursive(5, 40, 5, move |inner| {
        let object = prop::collection::btree_map(prop::sample::select(names), inner.clone(), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            object.prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    });
    let object = prop::collection::btree_map(prop::sample::select(names), inner, 0..8);
    object.prop_map(|map| serde_json::to_vec(&map).unwrap())
}

proptest! {
    #[test]
    fn no_bytes_panic(events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6)) {
        survives(&events);
    }

    #[test]
    fn events_that_are_nearly_right_do_not_panic(
        events in prop::collection::vec((event(), fuzzed::changes()), 0..8)
    ) {
        let whole: Vec<_> = events.iter().map(|(event, _)| event.clone()).collect();
        survives(&whole);
        let changed: Vec<_> =
            events.into_iter().map(|(event, changes)| fuzzed::changed(event, &changes)).collect();
        survives(&changed);
    }
}
