//! Streams that go wrong: a side leaves, dies or falls silent.

use serde_json::Value;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::DONE;
use crate::support::answer::delta;
use crate::support::chat;
use crate::support::eventually;
use crate::support::http::post;

const ASK: &str = r#"{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str =
    r#"{"model":"gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

/// The error that ends a stream, whose events before it are `events`.
#[track_caller]
fn error_after(text: &str, events: &str) -> Value {
    assert!(!text.contains("[DONE]"), "{text}");
    let end = text.strip_prefix(events).unwrap_or_else(|| panic!("{events:?} begins {text:?}"));
    let json = end.trim_start().strip_prefix("data: ").and_then(|end| end.strip_suffix("\n\n"));
    let json = json.unwrap_or_else(|| panic!("one event: {end:?}"));
    let event: Value = serde_json::from_str(json).unwrap();
    let error = &event["error"];
    assert_eq!(error["type"], "api_error");
    assert!(error["message"].is_string() && error.get("param").is_some(), "{event}");
    error["code"].clone()
}

#[test]
fn a_client_that_hangs_up_ends_the_call_upstream() {
    let upstream = Upstream::always(Answer::events().chunk(delta("Once upon")).stall());
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(post("/v1/chat/completions", STREAM));
    assert_eq!(raw.head().unwrap().status, 200);
    assert_eq!(raw.chunk().unwrap().unwrap(), delta("Once upon").as_bytes());
    drop(raw);
    eventually("the upstream's connection is closed", || upstream.cancelled() == 1);
    let calls = "gen_ai_server_request_duration_seconds_count";
    let gone = [("error_type", "client_gone"), ("gen_ai_request_model", "gpt-4.1-mini")];
    eventually("the call is recorded", || gateway.metric(calls, &gone) > 0.5);
    eventually("what was seen is counted here", || {
        let estimated = gateway.metric("weir_usage_estimated_total", &[]);
        // "Once upon" is two tokens.
        let output = [("gen_ai_token_type", "output")];
        let output = gateway.metric("gen_ai_client_token_usage_sum", &output);
        (estimated - 1.0).abs() < 0.1 && (output - 2.0).abs() < 0.1
    });
    eventually("the log says so", || gateway.log().contains("usage_source=estimated"));
}

#[test]
fn a_client_that_does_not_wait_for_the_first_byte_ends_the_call_upstream() {
    let stalling =
        [Answer::default().stall(), Answer::events().stall(), Answer::raw("HTTP/1.1 200").stall()];
    for answer in stalling {
        let upstream = Upstream::always(answer);
        let gateway = Gateway::start(&upstream);
        let mut raw = Raw::connect(gateway.data());
        raw.send(post("/v1/chat/completions", STREAM));
        eventually("the call is upstream", || upstream.count() == 1);
        drop(raw);
        eventually("the upstream's connection is closed", || upstream.cancelled() == 1);
        eventually("the call is recorded", || {
            gateway.metric("weir_requests_total", &[("status", "499")]) > 0.5
        });
        assert_eq!(upstream.count(), 1, "nobody waits: it is not tried again");
    }
}

#[test]
fn a_client_that_hangs_up_a_whole_answer_ends_the_call_upstream() {
    let upstream = Upstream::always(Answer::default().stall());
    let gateway = Gateway::start(&upstream);
    for path in ["/v1/chat/completions", "/v1/images/generations"] {
        let before = upstream.count();
        let mut raw = Raw::connect(gateway.data());
        raw.send(post(path, ASK));
        eventually("the call is upstream", || upstream.count() == before + 1);
        drop(raw);
        eventually("it ends", || upstream.cancelled() == before + 1);
    }
}

#[test]
fn a_stream_that_dies_ends_with_an_error_event() {
    let whole = format!("{}{}", delta("One"), delta(" two"));
    let half = "data: {\"choices\":[{\"delta\":{\"con";
    let begun = || Answer::events().chunk(&whole).chunk(half);
    for dead in [begun().close(), begun().reset()] {
        let upstream = Upstream::always(dead);
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, STREAM);
        assert_eq!(answer.status, 200);
        assert_eq!(error_after(&answer.text(), &whole), "upstream_unavailable");
        assert_eq!(upstream.count(), 1, "never again after the first byte");
        eventually("the failure is counted", || {
            let labels = [("error_type", "upstream_unavailable")];
            gateway.metric("gen_ai_server_request_duration_seconds_count", &labels) > 0.5
        });
    }
}

#[test]
fn a_stream_that_dies_within_a_long_event_still_ends_with_one_that_can_be_read() {
    let long = delta(&"x".repeat(2 << 20));
    let (half, _) = long.split_at(1 << 21);
    let upstream = Upstream::always(Answer::events().chunk(delta("One")).chunk(half).close());
    let gateway = Gateway::start(&upstream);
    let text = chat(&gateway, STREAM).text();
    let (_, last) = text.trim_end().rsplit_once("\n\n").unwrap();
    assert!(last.starts_with("data: {\"error\":"), "{}", last.len());
}

#[test]
fn a_stream_that_falls_silent_ends_with_an_error_event() {
    let upstream = Upstream::always(Answer::events().chunk(delta("One")).stall());
    let gateway = Gateway::builder(&upstream).impatient().start();
    let answer = chat(&gateway, STREAM);
    assert_eq!(error_after(&answer.text(), &delta("One")), "upstream_timeout");
    eventually("the upstream's connection is closed", || upstream.cancelled() == 1);
}

#[test]
fn a_stream_that_ends_without_done_passes_as_it_is() {
    let halves = [delta("One"), format!("{}data: {{\"half", delta("One")), ": hi\n\n".to_owned()];
    for stream in halves {
        let upstream = Upstream::always(Answer::stream(&stream));
        let gateway = Gateway::start(&upstream);
        assert_eq!(chat(&gateway, STREAM).text(), stream);
    }
}

#[test]
fn a_stream_without_a_length_ends_with_its_connection() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let events = format!("{}{DONE}", delta("One"));
    let upstream = Upstream::always(Answer::raw(head).write(&events).close());
    let gateway = Gateway::start(&upstream);
    assert_eq!(chat(&gateway, STREAM).text(), events);
}

#[test]
fn an_error_that_the_upstream_puts_into_a_stream_passes_and_is_counted() {
    let stream = format!("{}data: {{\"error\":{{\"message\":\"boom\"}}}}\n\n", delta("One"));
    let upstream = Upstream::always(Answer::stream(&stream));
    let gateway = Gateway::start(&upstream);
    assert_eq!(chat(&gateway, STREAM).text(), stream);
    eventually("it is counted", || {
        let labels = [("error_type", "upstream_error_event")];
        gateway.metric("gen_ai_server_request_duration_seconds_count", &labels) > 0.5
    });
}

#[test]
fn a_download_that_is_cut_does_not_pass_for_a_whole_one() {
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf";
    let cuts = [
        Answer::chunked(200, "").chunk("half").close(),
        Answer::chunked(200, "").chunk("half").reset(),
        Answer::raw(length).close(),
        Answer::raw(length).reset(),
        Answer::raw(length).stall(),
    ];
    for cut in cuts {
        let upstream = Upstream::always(cut);
        let gateway = Gateway::builder(&upstream).impatient().start();
        let mut raw = Raw::connect(gateway.data());
        raw.send("GET /v1/files/f/content HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\r\n");
        let answer = raw.response();
        assert!(answer.is_err() || answer.as_ref().unwrap().status == 502, "{answer:?}");
    }
}

#[test]
fn usage_that_the_upstream_does_not_report_is_counted_here() {
    let stream = format!("{}{DONE}", delta("Hello there!"));
    let silent =
        CHAT.replace(r#","usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#, "");
    let answers = [(Answer::stream(stream), STREAM), (Answer::json(200, silent), ASK)];
    for (answer, ask) in answers {
        let upstream = Upstream::always(answer);
        let gateway = Gateway::start(&upstream);
        assert_eq!(chat(&gateway, ask).status, 200);
        eventually("the estimate is counted", || {
            let sum = |kind| {
                gateway.metric("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", kind)])
            };
            // "hi" is one token, a message's frame and the answer's opening are seven more;
            // "Hello there!" is three.
            (sum("input") - 8.0).abs() < 0.1 && (sum("output") - 3.0).abs() < 0.1
        });
        assert!((gateway.metric("weir_usage_estimated_total", &[]) - 1.0).abs() < 0.1);
    }
}

#[test]
fn an_unpriced_call_is_counted_as_such() {
    let body = CHAT.replace("gpt-4.1-mini-2025-04-14", "nobody-knows");
    let upstream = Upstream::always(Answer::json(200, body));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, r#"{"model":"nobody-knows"}"#);
    assert_eq!(answer.header("x-weir-cost-status"), Some("unpriced"));
    assert_eq!(answer.header("x-weir-cost-usd"), None);
    eventually("it is counted", || {
        // A name from outside is no label.
        gateway.metric("weir_unpriced_requests_total", &[("model", "other")]) > 0.5
    });
    assert!(gateway.metric("gen_ai_client_cost_usd_total", &[]).abs() < 1e-12);
}
