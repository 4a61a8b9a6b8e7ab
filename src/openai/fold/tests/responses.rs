//! What becomes of responses, whole and cut.

use serde_json::Value;
use serde_json::json;

use super::folded;
use super::recorded;
use super::recorded_folded;
use super::value;
use crate::openai::endpoint::Endpoint;
use crate::openai::fold::Fold;

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
