//! What is billed and is no token: seconds, characters, searches; and what estimates are worth.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::call;
use crate::support::chat;
use crate::support::eventually;

/// The cost of all calls so far, in micro-dollars.
fn micros(gateway: &Gateway) -> f64 {
    gateway.metric("gen_ai_client_cost_usd_total", &[]) * 1e6
}

#[track_caller]
fn costs(gateway: &Gateway, expected: f64) {
    eventually(&format!("{expected} micro-dollars are counted"), || {
        (micros(gateway) - expected).abs() < 1e-3
    });
    assert!(gateway.metric("weir_unpriced_requests_total", &[]) < 0.5);
}

#[test]
fn a_transcription_that_is_billed_by_its_length_is_priced() {
    let heard = r#"{"text":"hi","usage":{"type":"duration","seconds":9}}"#;
    let upstream = Upstream::always(Answer::json(200, heard));
    let gateway = Gateway::start(&upstream);
    let body = r#"{"model":"whisper-1","file":"x"}"#;
    assert_eq!(call(&gateway, "/v1/audio/transcriptions", body).status, 200);
    // 9 s x 0.0001 USD
    costs(&gateway, 900.0);
}

#[test]
fn speech_is_priced_by_its_characters() {
    let sound = Answer::whole(200, "content-type: audio/mpeg\r\n", [0xff; 64]);
    let upstream = Upstream::always(sound);
    let gateway = Gateway::start(&upstream);
    let body = r#"{"model":"tts-1","voice":"alloy","input":"h\u00e4llo, world"}"#;
    assert_eq!(call(&gateway, "/v1/audio/speech", body).status, 200);
    // 12 characters x 15 micro-dollars
    costs(&gateway, 180.0);
}

#[test]
fn searches_of_the_web_are_part_of_the_price() {
    let answer = r#"{"object":"response","status":"completed","model":"gpt-5","output":[
        {"type":"web_search_call","action":{"type":"search"}},
        {"type":"web_search_call","action":{"type":"open_page"}}],
        "usage":{"input_tokens":1000,"output_tokens":100,"total_tokens":1100}}"#;
    let stream = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{}}}\n\n",
        answer.replace('\n', "")
    );
    let upstream = Upstream::script([Answer::json(200, answer), Answer::stream(stream)]);
    let gateway = Gateway::start(&upstream);
    let whole = call(&gateway, "/v1/responses", r#"{"model":"gpt-5","input":"x"}"#);
    // 1000 x 1.25e-6 + 100 x 10e-6 + one search at 0.01
    assert_eq!(whole.header("x-weir-cost-usd"), Some("0.01225"));
    assert_eq!(whole.header("x-weir-cost-status"), Some("exact"));
    call(&gateway, "/v1/responses", r#"{"model":"gpt-5","input":"x","stream":true}"#);
    costs(&gateway, 2.0 * 12_250.0);
}

#[test]
fn what_estimates_are_worth_is_measured_on_streams_that_report() {
    let stream = [&delta("Hello there!"), USAGE, DONE].concat();
    let upstream = Upstream::always(Answer::stream(stream));
    let gateway = Gateway::start(&upstream);
    let body =
        r#"{"model":"gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(chat(&gateway, body).status, 200);
    let count = |kind| {
        let labels = [("gen_ai_token_type", kind)];
        gateway.metric("weir_usage_estimate_error_ratio_count", &labels)
    };
    eventually("the first stream is a sample", || count("input") > 0.5 && count("output") > 0.5);
    // 3 + 1 + 1 + 3 = 8 where 9 are reported: 1/9; "Hello there!" is 3 of 3.
    let sum = gateway.metric("weir_usage_estimate_error_ratio_sum", &[]);
    assert!((sum - 1.0 / 9.0).abs() < 1e-6, "{sum}");
    assert!(gateway.metric("weir_usage_estimated_total", &[]) < 0.5, "the bill is not touched");
    assert_eq!(chat(&gateway, body).status, 200);
    assert!(count("input") < 1.5, "and the second is none");
}

const HI: &str = r#"{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]}"#;
const HI_STREAM: &str =
    r#"{"model":"gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

#[test]
fn usage_that_makes_no_sense_is_counted_here_instead() {
    for absurd in ["-9", "9.5", "\"9\"", "1e30", "99999999999999999999", "[9]"] {
        let answer = CHAT.replace(r#""prompt_tokens":9"#, &format!(r#""prompt_tokens":{absurd}"#));
        let event = USAGE.replace(r#""prompt_tokens":9"#, &format!(r#""prompt_tokens":{absurd}"#));
        let stream = [&delta("Hello there!"), &*event, DONE].concat();
        let upstream = Upstream::script([Answer::json(200, &answer), Answer::stream(stream)]);
        let gateway = Gateway::start(&upstream);
        let whole = chat(&gateway, HI);
        assert_eq!(whole.text(), answer, "what the provider says passes as it is");
        assert_eq!(whole.header("x-weir-cost-status"), Some("estimated"), "{absurd}");
        // 8 in and 3 out are counted: 8 x 0.4 + 3 x 1.6
        assert_eq!(whole.header("x-weir-cost-usd"), Some("0.000008"), "{absurd}");
        assert_eq!(chat(&gateway, HI_STREAM).status, 200);
        costs(&gateway, 16.0);
        assert!((gateway.metric("weir_usage_estimated_total", &[]) - 2.0).abs() < 0.1, "{absurd}");
    }
}

#[test]
fn usage_that_comes_twice_in_a_stream_is_billed_once() {
    let first = USAGE.replace(r#""completion_tokens":3"#, r#""completion_tokens":1"#);
    let stream = [&delta("Hello there!"), &*first, USAGE, DONE].concat();
    let upstream = Upstream::always(Answer::stream(&stream));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, HI_STREAM);
    assert_eq!(answer.text(), [&delta("Hello there!"), DONE].concat(), "both were asked for by us");
    // The last one holds: 9 x 0.4 + 3 x 1.6
    costs(&gateway, 8.4);
}

#[test]
fn more_cached_tokens_than_tokens_cost_what_all_of_them_cost_cached() {
    let details = r#""prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":50}"#;
    let answer = CHAT.replace(r#""prompt_tokens":9"#, details);
    let upstream = Upstream::always(Answer::json(200, &answer));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, HI);
    // 9 x 0.1 + 3 x 1.6
    assert_eq!(answer.header("x-weir-cost-usd"), Some("0.0000057"));
    assert_eq!(answer.header("x-weir-cost-status"), Some("estimated"), "the parts do not fit");
    costs(&gateway, 5.7);
}

/// A text frame of a server's, of less than 64 KiB.
fn frame(event: &str) -> Vec<u8> {
    let length = u16::try_from(event.len()).unwrap().to_be_bytes();
    [&[0x81, 126][..], &length, event.as_bytes()].concat()
}

#[test]
fn a_realtime_session_costs_what_its_responses_used_together() {
    let accepted =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let done = |text, audio_in, audio_out| {
        frame(&format!(
            r#"{{"type":"response.done","response":{{"object":"realtime.response","id":"resp_1","usage":
               {{"input_tokens":{},"output_tokens":{audio_out},
               "input_token_details":{{"text_tokens":{text},"audio_tokens":{audio_in}}},
               "output_token_details":{{"audio_tokens":{audio_out}}}}}}}}}"#,
            text + audio_in
        ))
    };
    let delta = frame(r#"{"type":"response.output_text.delta","delta":"hi"}"#);
    let frames = [delta, done(100, 20, 30), done(50, 0, 10)].concat();
    let upstream = Upstream::always(Answer::raw(accepted).write(&frames).stall());
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(
        "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\
         connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-extensions: permessage-deflate\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(raw.head().unwrap().status, 101);
    assert_eq!(raw.take(frames.len()).unwrap(), frames, "every byte passes");
    drop(raw);
    let asked = upstream.only_request();
    assert_eq!(asked.header("sec-websocket-extensions"), None, "frames stay readable");
    // 150 x 4 + 20 x 32 + 40 x 64 = 3800
    costs(&gateway, 3800.0);
    let labels = [("gen_ai_request_model", "gpt-realtime"), ("gen_ai_token_type", "input")];
    assert!((gateway.metric("gen_ai_client_token_usage_sum", &labels) - 170.0).abs() < 0.1);
}
