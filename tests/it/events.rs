//! Streams that go well: what is asked for upstream, and what comes back event by event.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::call;
use crate::support::chat;
use crate::support::eventually;
use crate::support::http::post;
use crate::support::recorded;

const STREAM: &str = r#"{"model":"gpt-4.1-mini","stream":true}"#;
const STREAM_WITH_USAGE: &str =
    r#"{"model":"gpt-4.1-mini","stream":true,"stream_options":{"include_usage":true}}"#;

/// A stream of three events, the usage event among them.
fn three_events() -> String {
    format!("{}{USAGE}{DONE}", delta("Hi"))
}

#[test]
fn usage_is_asked_for_and_its_event_taken_out_again_unless_the_client_asked() {
    let kept = three_events();
    let stripped = three_events().replace(USAGE, "");
    let cases = [
        (
            r#"{ "stream":true , "model":"m" }"#,
            r#"{ "stream":true , "model":"m","stream_options":{"include_usage":true} }"#,
            &stripped,
        ),
        (
            r#"{"stream":true,"stream_options" : null,"model":"m"}"#,
            r#"{"stream":true,"stream_options" : {"include_usage":true},"model":"m"}"#,
            &stripped,
        ),
        (
            r#"{"stream":true,"stream_options": { },"model":"m"}"#,
            r#"{"stream":true,"stream_options": {"include_usage":true },"model":"m"}"#,
            &stripped,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_usage" : false},"model":"m"}"#,
            r#"{"stream":true,"stream_options":{"include_usage" : true},"model":"m"}"#,
            &stripped,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_obfuscation":false},"model":"m"}"#,
            r#"{"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true},"model":"m"}"#,
            &stripped,
        ),
        (
            r#"{"stream":true,"stream_options":{ "include_usage" : true },"model":"m"}"#,
            r#"{"stream":true,"stream_options":{ "include_usage" : true },"model":"m"}"#,
            &kept,
        ),
    ];
    let upstream = Upstream::always(Answer::stream(three_events()));
    let gateway = Gateway::start(&upstream);
    for path in ["/v1/chat/completions", "/v1/completions"] {
        for (body, sent, events) in cases {
            let answer = call(&gateway, path, body);
            assert_eq!((answer.status, &answer.text()), (200, events), "{body}");
            assert_eq!(upstream.requests().pop().unwrap().text(), sent);
        }
    }
}

#[test]
fn responses_are_not_asked_for_what_they_do_not_know() {
    let upstream = Upstream::always(Answer::stream(recorded("responses.sse")));
    let gateway = Gateway::start(&upstream);
    let answer = call(&gateway, "/v1/responses", STREAM);
    assert_eq!(answer.body, recorded("responses.sse"));
    assert_eq!(upstream.only_request().text(), STREAM);
    eventually("its tokens are counted", || {
        let sum =
            |kind| gateway.metric("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", kind)]);
        (sum("input") - 37.0).abs() < 0.1 && (sum("output") - 11.0).abs() < 0.1
    });
}

#[test]
fn the_usage_of_a_stream_is_counted_also_where_the_client_does_not_see_it() {
    let upstream = Upstream::always(Answer::stream(three_events()));
    let gateway = Gateway::start(&upstream);
    chat(&gateway, STREAM);
    chat(&gateway, STREAM_WITH_USAGE);
    eventually("both calls' tokens are counted", || {
        let sum =
            |kind| gateway.metric("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", kind)]);
        (sum("input") - 18.0).abs() < 0.1 && (sum("output") - 6.0).abs() < 0.1
    });
    // Twice 9 in at 0.40 and 3 out at 1.60 USD per million.
    let cost = gateway.metric("gen_ai_client_cost_usd_total", &[]);
    assert!((cost - 0.000_016_8).abs() < 1e-12, "{cost}");
    assert!(gateway.metric("weir_usage_estimated_total", &[]) < 0.5);
}

#[test]
fn a_stream_is_dressed_for_proxies_and_not_compressed() {
    let upstream = Upstream::always(Answer::stream(three_events()));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, STREAM);
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(answer.header("x-weir-model"), Some("gpt-4.1-mini"));
    assert_eq!(answer.header("x-weir-cost-usd"), None);
    assert_eq!(upstream.only_request().header("accept-encoding"), Some("identity"));
}

#[test]
fn each_event_leaves_as_soon_as_it_has_come() {
    // The provider says the next word only after the client has heard the last one.
    let heard = gate();
    let words = ["One", " after", " the", " other"];
    let mut answer = Answer::events();
    for word in words {
        answer = answer.chunk(delta(word)).wait(&heard);
    }
    let upstream = Upstream::always(answer.chunk(USAGE).chunk(DONE).end());
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(post("/v1/chat/completions", STREAM));
    assert_eq!(raw.head().unwrap().status, 200);
    for word in words {
        assert_eq!(raw.chunk().unwrap().unwrap(), delta(word).as_bytes());
        heard.add_permits(1);
    }
    assert_eq!(raw.chunk().unwrap().unwrap(), DONE.as_bytes());
    assert_eq!(raw.chunk().unwrap(), None);
    // The connection serves the next request.
    heard.add_permits(words.len());
    assert_eq!(raw.send(post("/v1/chat/completions", STREAM)).response().unwrap().status, 200);
}

#[test]
fn an_event_of_a_stream_that_passes_through_leaves_at_once_too() {
    let heard = gate();
    let answer = Answer::events().chunk("data: 1\n\n").wait(&heard).chunk("data: 2\n\n").end();
    let upstream = Upstream::always(answer);
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(post("/v1/audio/speech", r#"{"model":"gpt-4o-mini-tts","stream_format":"sse"}"#));
    raw.head().unwrap();
    assert_eq!(raw.chunk().unwrap().unwrap(), b"data: 1\n\n");
    heard.add_permits(1);
    assert_eq!(raw.chunk().unwrap().unwrap(), b"data: 2\n\n");
    assert_eq!(raw.chunk().unwrap(), None);
}

#[test]
fn recorded_streams_pass_as_they_are() {
    let names = [
        "chat_sample.sse",
        "chat_sample_function.sse",
        "chat_tools.sse",
        "chat_usage.sse",
        "chat_usage_cr.sse",
        "chat_usage_crlf.sse",
        "comments_multiline.sse",
        "completions.sse",
        "garbage.sse",
    ];
    for name in names {
        let stream = recorded(name);
        let upstream = Upstream::always(Answer::stream(&stream));
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, STREAM_WITH_USAGE);
        assert_eq!(answer.text(), String::from_utf8_lossy(&stream), "{name}");
        assert_eq!(answer.body, stream, "{name}");
    }
}

/// Sends a recorded stream once for each place where it can be cut in two.
fn cut_everywhere(name: &str, ask: &str, wanted: &[u8]) {
    let stream = recorded(name);
    let length = stream.len();
    let upstream = Upstream::with(move |turn, _| {
        let (first, second) = stream.split_at(turn + 1);
        Answer::events().chunk(first).chunk(second).end()
    });
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    for cut in 1..length {
        let answer = raw.send(post("/v1/chat/completions", ask)).response().unwrap();
        let text = || String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.body == wanted, "{name} cut at {cut}: {}", text());
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_comes_out_whole() {
    for name in ["comments_multiline.sse", "garbage.sse", "completions.sse"] {
        cut_everywhere(name, STREAM_WITH_USAGE, &recorded(name));
    }
}

#[test]
fn the_usage_event_is_taken_out_wherever_the_stream_is_cut() {
    for (name, end) in [("chat_usage.sse", "\n\n"), ("chat_usage_crlf.sse", "\r\n\r\n")] {
        let text = String::from_utf8(recorded(name)).unwrap();
        let kept: String =
            text.split_inclusive(end).filter(|event| !event.contains("\"choices\":[],")).collect();
        assert_eq!(text.matches(end).count(), kept.matches(end).count() + 1);
        cut_everywhere(name, STREAM, kept.as_bytes());
    }
}

#[test]
fn an_event_longer_than_a_mebibyte_passes() {
    let long = delta(&"x".repeat(3 << 20));
    let upstream = Upstream::always(Answer::stream(format!("{long}{DONE}")));
    let gateway = Gateway::start(&upstream);
    assert!(chat(&gateway, STREAM_WITH_USAGE).text() == format!("{long}{DONE}"));
}

#[test]
fn an_error_before_a_stream_is_an_ordinary_answer() {
    let body = r#"{"error":{"message":"no such model","type":"invalid_request_error"}}"#;
    let upstream = Upstream::always(Answer::json(404, body));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, STREAM);
    assert_eq!((answer.status, answer.text().as_str()), (404, body));
    assert_eq!(answer.header("content-length"), Some(&*body.len().to_string()));
}

#[test]
fn a_whole_answer_to_a_stream_request_passes() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, STREAM);
    assert_eq!(answer.text(), crate::support::answer::CHAT);
    assert_eq!(answer.header("content-type"), Some("application/json"));
}
