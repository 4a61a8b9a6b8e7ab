use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

use super::*;
use crate::openai::events::Event;
use crate::openai::fuzzed;

mod chunks;
mod responses;
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
