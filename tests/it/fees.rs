//! What is billed and is no token: seconds, characters, searches; and what estimates are worth.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
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
