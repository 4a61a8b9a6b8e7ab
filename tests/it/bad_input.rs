//! Requests that are wrong: each is refused in OpenAI's shape, and nobody else notices.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::Response;
use crate::support::http::good;
use crate::support::http::post;

const INVALID: &str = "invalid_request_error";

/// A gateway and one kept connection to it.
struct World {
    upstream: Upstream,
    gateway: Gateway,
}

impl World {
    fn new() -> Self {
        let upstream = Upstream::always(Answer::chat());
        let gateway = Gateway::builder(&upstream).config("limits: { body: 64KiB }").start();
        Self { upstream, gateway }
    }

    /// Sends a request that must be refused, then a good one on the same connection.
    #[track_caller]
    fn refused(&self, request: impl AsRef<[u8]>) -> Response {
        let before = self.upstream.count();
        let mut raw = Raw::connect(self.gateway.data());
        let answer = raw.send(request).response().unwrap();
        assert!(answer.header("x-weir-id").is_some(), "{answer:?}");
        assert_eq!(self.upstream.count(), before, "{answer:?}");
        let next = raw.send(good()).response().unwrap();
        assert_eq!((next.status, next.text()), (200, CHAT.to_owned()), "after {answer:?}");
        answer
    }

    #[track_caller]
    fn body_refused(&self, body: impl AsRef<[u8]>, code: &str, param: Option<&str>) -> Response {
        let answer = self.refused(post("/v1/chat/completions", body));
        answer.assert_error(400, INVALID, code);
        assert_eq!(answer.json()["error"]["param"].as_str(), param, "{}", answer.text());
        answer
    }
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    let world = World::new();
    let bodies: [&[u8]; 14] = [
        b"hello",
        b"{\"model\":\"gpt-4.1-mini\"",
        b"{\"model\":\"gpt-4.1-mini\",}",
        b"{\"model\":\"gpt-4.1-mini\"} x",
        b"{'model':'gpt-4.1-mini'}",
        b"{\"model\":\"gpt-4.1-mini\",\"n\":01}",
        b"{\"model\":\"gpt-4.1-mini\",\"n\":NaN}",
        b"{\"model\":\"gpt-4.1-mini\",\"n\":\"\\x\"}",
        b"{\"model\":\"gpt-4.1-mini\",\"n\":\"\n\"}",
        b"[{\"model\":\"gpt-4.1-mini\"}]",
        b"\"gpt-4.1-mini\"",
        b"null",
        b"\xEF\xBB\xBF{\"model\":\"gpt-4.1-mini\"}",
        b"{\"model\":\"gpt-4.1-mini\",\"n\":\"\xFF\xFE\"}",
    ];
    for body in bodies {
        let answer = world.body_refused(body, "invalid_json", None);
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("byte"), "{message}");
    }
}

#[test]
fn a_body_that_is_not_there_is_named_as_such() {
    let world = World::new();
    for body in ["", " \r\n\t "] {
        let answer = world.body_refused(body, "invalid_json", None);
        assert!(answer.text().contains("empty"), "{}", answer.text());
    }
    let without =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\r\n";
    world.refused(without).assert_error(400, INVALID, "invalid_json");
}

#[test]
fn fields_of_the_wrong_type_are_named() {
    let world = World::new();
    let missing = "missing_required_parameter";
    for body in
        ["{}", r#"{"model":null}"#, r#"{"model":7}"#, r#"{"model":""}"#, r#"{"model":["a"]}"#]
    {
        world.body_refused(body, missing, Some("model"));
    }
    let model = r#""model":"gpt-4.1-mini""#;
    world.body_refused(format!(r#"{{{model},"stream":"yes"}}"#), "invalid_type", Some("stream"));
    world.body_refused(format!(r#"{{{model},"stream":1}}"#), "invalid_type", Some("stream"));
    let options = Some("stream_options");
    let body = format!(r#"{{{model},"stream":true,"stream_options":5}}"#);
    world.body_refused(body, "invalid_type", options);
    let body = format!(r#"{{{model},"stream":true,"stream_options":[]}}"#);
    world.body_refused(body, "invalid_type", options);
}

#[test]
fn a_key_that_is_there_twice_is_refused_however_it_is_written() {
    let world = World::new();
    let twice = "duplicate_key";
    world.body_refused(r#"{"model":"a","model":"b"}"#, twice, Some("model"));
    world.body_refused(r#"{"model":"a","mod\u0065l":"b"}"#, twice, Some("model"));
    world.body_refused(r#"{"\u006dodel":"a","model":"b"}"#, twice, Some("model"));
    world.body_refused(r#"{"model":"a","user":1,"user":2}"#, twice, Some("user"));
}

#[test]
fn a_body_nested_a_thousand_deep_is_refused_and_does_no_harm() {
    let world = World::new();
    let (open, close) = ("[".repeat(1000), "]".repeat(1000));
    let body = format!(r#"{{"model":"gpt-4.1-mini","x":{open}{close}}}"#);
    world.body_refused(body, "invalid_json", None);
    let (open, close) = (r#"{"a":"#.repeat(1000), "}".repeat(1000));
    let body = format!(r#"{{"model":"gpt-4.1-mini","x":{open}1{close}}}"#);
    world.body_refused(body, "invalid_json", None);
    // Unclosed, and as deep as the limit lets it be.
    world.body_refused("[".repeat(65_000), "invalid_json", None);
}

#[test]
fn what_is_odd_but_valid_passes_as_it_is() {
    let world = World::new();
    let bodies = [
        r#"{"model":"gpt-4.1-mini","x":"\ud800 \udc00\ud800"}"#,
        r#"{"model":"gpt-4.1-mini","x":123456789012345678901234567890,"y":1e999,"z":-0.0}"#,
        r#" {"model" :"gpt-4.1-mini" , "messages":[{"role":"user","role":"user"}] } "#,
        r#"{"model":"gpt-4.1-mini","":"","\u0000":"\u0000"}"#,
    ];
    for body in bodies {
        let answer = exchange(&world.gateway, post("/v1/chat/completions", body));
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(world.upstream.requests().last().unwrap().text(), body);
    }
}

#[test]
fn a_body_that_says_it_is_too_large_is_refused_unread() {
    let world = World::new();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\
                content-length: 1000000000\r\n\r\n";
    let answer = exchange(&world.gateway, head);
    answer.assert_error(413, INVALID, "request_too_large");
    assert!(answer.text().contains("65536"), "it names the limit: {}", answer.text());
    assert_eq!(world.upstream.connections(), 0);
    world.is_well();
}

#[test]
fn a_body_that_grows_too_large_is_cut() {
    let world = World::new();
    let mut raw = Raw::connect(world.gateway.data());
    raw.send(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\
         transfer-encoding: chunked\r\n\r\n",
    );
    for _ in 0..5 {
        raw.send(format!("4000\r\n{}\r\n", "x".repeat(0x4000)));
    }
    raw.response().unwrap().assert_error(413, INVALID, "request_too_large");
    assert_eq!(world.upstream.connections(), 0);
    world.is_well();
}

#[test]
fn a_body_of_just_the_limit_passes() {
    let world = World::new();
    let frame = r#"{"model":"gpt-4.1-mini","x":""}"#.len();
    let body = |length: usize| {
        format!(r#"{{"model":"gpt-4.1-mini","x":"{}"}}"#, "y".repeat(length - frame))
    };
    let send = |length| exchange(&world.gateway, post("/v1/chat/completions", body(length)));
    assert_eq!(send(65_536).status, 200);
    send(65_537).assert_error(413, INVALID, "request_too_large");
}

#[test]
fn a_compressed_body_is_refused() {
    let world = World::new();
    for coding in ["gzip", "br", "identity, gzip"] {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\
             content-encoding: {coding}\r\ncontent-length: 4\r\n\r\nabcd"
        );
        world.refused(request).assert_error(415, INVALID, "unsupported_content_encoding");
    }
}

#[test]
fn who_brings_no_key_is_refused_on_every_path() {
    let world = World::new();
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/files", "/v1/not/there/yet"] {
        let request = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{{}}");
        let answer = world.refused(request);
        answer.assert_error(401, INVALID, "invalid_api_key");
        // Without `Authorization` the SDKs name the cure themselves, from this.
        assert!(answer.text().contains("Authorization"), "{}", answer.text());
    }
}

#[test]
fn refusals_are_counted_and_logged_without_the_body() {
    let world = World::new();
    world.body_refused(
        r#"{"model":7,"x":"sk-canary-body"}"#,
        "missing_required_parameter",
        Some("model"),
    );
    let labels = [("status", "400")];
    let counted = || world.gateway.metric("weir_requests_total", &labels) > 0.5;
    eventually("the refusal is counted", counted);
    eventually("it is logged", || world.gateway.log().contains("missing_required_parameter"));
    assert!(!world.gateway.log().contains("sk-canary"), "{}", world.gateway.log());
}

impl World {
    #[track_caller]
    fn is_well(&self) {
        assert_eq!(exchange(&self.gateway, good()).status, 200);
    }
}
