//! Everything below `/v1` that the gateway does not read: streamed in both directions.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::Step;
use crate::support::answer::gate;
use crate::support::eventually;
use crate::support::exchange;

const KEY: &str = "authorization: Bearer sk-caller\r\n";
const MIB: usize = 1 << 20;

#[test]
fn every_method_and_path_below_v1_passes_with_its_query() {
    let upstream = Upstream::always(Answer::json(200, "{\"ok\":true}"));
    let gateway = Gateway::start(&upstream);
    let requests = [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/ft:gpt-4.1-mini:acme::a%2Fb?x=1&y=%20a+b&&z"),
        ("DELETE", "/v1/files/file-1"),
        ("PUT", "/v1/not/there/yet"),
        ("PATCH", "/v1/x?include[]=a&include[]=b"),
        ("POST", "/v1/chat/completions/"),
        ("GET", "/v1/chat/completions?limit=2"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/files//double"),
    ];
    for (method, target) in requests {
        let body = if matches!(method, "GET" | "DELETE") { "" } else { "{\"a\" : 1}" };
        let length = body.len();
        let answer = exchange(
            &gateway,
            format!(
                "{method} {target} HTTP/1.1\r\nhost: a\r\n{KEY}content-length: {length}\r\n\r\n{body}"
            ),
        );
        assert_eq!((answer.status, answer.text().as_str()), (200, "{\"ok\":true}"), "{target}");
        assert_eq!(answer.header("x-weir-route"), Some("passthrough"));
        let received = upstream.requests().pop().unwrap();
        let got = (received.method.as_str(), received.target.as_str());
        assert_eq!((got, received.text().as_str()), ((method, target), body));
    }
}

#[test]
fn paths_outside_of_v1_are_not_there() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let paths =
        ["/", "/v2/models", "/v10/models", "/api/policies", "/metrics", "/healthz", "/readyz"];
    for path in paths {
        let answer = exchange(&gateway, format!("GET {path} HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
        answer.assert_error(404, "invalid_request_error", "unknown_url");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_base_url_with_a_path_of_its_own_takes_the_place_of_v1() {
    let upstream = Upstream::always(Answer::chat());
    let base_url = upstream.base_url().replace("/v1", "/openai/deployments/x/");
    let gateway = Gateway::before(&base_url).start();
    exchange(&gateway, format!("GET /v1/models?a=b HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
    assert_eq!(upstream.only_request().target, "/openai/deployments/x/models?a=b");
}

#[test]
fn head_has_a_length_and_no_body() {
    let upstream = Upstream::always(Answer::raw(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12345\r\n\r\n",
    ));
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    for _ in 0..2 {
        raw.send(format!("HEAD /v1/files/file-1/content HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
        let head = raw.head().unwrap();
        assert_eq!((head.status, head.header("content-length")), (200, Some("12345")));
    }
}

#[test]
fn a_preflight_needs_no_key() {
    let allow = "access-control-allow-origin: *\r\n";
    let upstream = Upstream::always(Answer::whole(204, allow, ""));
    let gateway = Gateway::start(&upstream);
    let answer = exchange(
        &gateway,
        "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: a\r\norigin: https://app.example\r\n\
         access-control-request-method: POST\r\n\r\n",
    );
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("*")));
}

#[test]
fn an_answer_without_a_body_has_none() {
    for head in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n"] {
        let upstream = Upstream::always(Answer::raw(head));
        let gateway = Gateway::start(&upstream);
        let mut raw = Raw::connect(gateway.data());
        for _ in 0..2 {
            raw.send(format!("DELETE /v1/x HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
            assert!(matches!(raw.response().unwrap().status, 204 | 304), "{head}");
        }
    }
}

#[test]
fn an_upload_reaches_the_upstream_while_the_client_sends_it() {
    let upstream = Upstream::always(Answer::json(200, "{}"));
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!("POST /v1/files HTTP/1.1\r\nhost: a\r\n{KEY}content-length: 10\r\n\r\nhello"));
    eventually("the first half is upstream", || upstream.received_bytes() == 5);
    raw.send("world");
    assert_eq!(raw.response().unwrap().status, 200);
    assert_eq!(upstream.only_request().text(), "helloworld");
}

#[test]
fn a_chunked_upload_stays_chunked_without_its_trailers() {
    let upstream = Upstream::always(Answer::json(200, "{}"));
    let gateway = Gateway::start(&upstream);
    let request = format!(
        "POST /v1/files HTTP/1.1\r\nhost: a\r\n{KEY}transfer-encoding: chunked\r\n\r\n\
         3;name=value\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n"
    );
    assert_eq!(exchange(&gateway, request).status, 200);
    assert_eq!(upstream.only_request().text(), "abc0123456789");
}

#[test]
fn a_large_upload_takes_no_memory() {
    let upstream = Upstream::always(Answer::json(200, "{}"));
    let gateway = Gateway::start(&upstream);
    let before = gateway.resident_bytes();
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!(
        "POST /v1/files HTTP/1.1\r\nhost: a\r\n{KEY}content-length: {}\r\n\r\n",
        64 * MIB
    ));
    let piece = vec![b'x'; MIB];
    for _ in 0..64 {
        raw.send(&piece);
    }
    assert_eq!(raw.response().unwrap().status, 200);
    assert_eq!(upstream.received_bytes(), 64 * MIB);
    assert_little_growth(before, gateway.resident_bytes());
}

#[test]
fn a_large_download_takes_no_memory() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 * MIB);
    let upstream = Upstream::always(Answer::raw(head).then(Step::Flood(vec![b'x'; MIB], 64)));
    let gateway = Gateway::start(&upstream);
    let before = gateway.resident_bytes();
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!("GET /v1/files/file-1/content HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
    assert_eq!(raw.head().unwrap().header("content-length"), Some(&*(64 * MIB).to_string()));
    for _ in 0..64 {
        assert!(raw.take(MIB).unwrap().iter().all(|&byte| byte == b'x'));
    }
    assert_little_growth(before, gateway.resident_bytes());
}

#[test]
fn a_slow_reader_holds_the_provider_back() {
    let chunked = "HTTP/1.1 200 OK\r\ncontent-length: 268435456\r\n\r\n";
    let upstream = Upstream::always(Answer::raw(chunked).then(Step::Flood(vec![b'x'; MIB], 256)));
    let gateway = Gateway::start(&upstream);
    let before = gateway.resident_bytes();
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!("GET /v1/files/file-1/content HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
    raw.head().unwrap();
    // Half of it read, the other half waits at the provider.
    for _ in 0..128 {
        raw.take(MIB).unwrap();
    }
    assert_little_growth(before, gateway.resident_bytes());
    drop(raw);
    eventually("the provider's connection is closed", || upstream.open_connections() == 0);
}

#[track_caller]
fn assert_little_growth(before: u64, after: u64) {
    let grown = after.saturating_sub(before) >> 20;
    assert!(grown < 40, "the gateway grew by {grown} MiB");
}

#[test]
fn a_websocket_carries_bytes_both_ways() {
    let accepted = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                    connection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    x-mine: 1\r\n\r\n";
    let upstream = Upstream::always(Answer::raw(accepted).then(Step::Echo));
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!(
        "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: a\r\n{KEY}connection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nopenai-beta: realtime=v1\r\n\r\n"
    ));
    let head = raw.head().unwrap();
    assert_eq!(head.status, 101);
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.header("x-mine"), Some("1"));
    let received = upstream.only_request();
    assert_eq!(received.target, "/v1/realtime?model=gpt-realtime");
    assert_eq!(received.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(received.header("openai-beta"), Some("realtime=v1"));
    // A masked text frame, a ping, and bytes that are no frame at all.
    for frame in [&b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"[..], b"\x89\x00", b"\xff\x00\n"]
    {
        assert_eq!(raw.send(frame).take(frame.len()).unwrap(), frame);
    }
    assert!(gateway.metric("weir_in_flight_requests", &[]) > 0.5);
    drop(raw);
    eventually("the provider's connection is closed", || upstream.open_connections() == 0);
}

#[test]
fn a_refused_websocket_tells_the_client_why() {
    let upstream = Upstream::always(Answer::json(403, "{\"error\":{}}"));
    let gateway = Gateway::start(&upstream);
    let handshake = format!(
        "GET /v1/realtime HTTP/1.1\r\nhost: a\r\n{KEY}connection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let answer = exchange(&gateway, handshake);
    assert_eq!((answer.status, answer.text().as_str()), (403, "{\"error\":{}}"));
}

#[test]
fn an_answer_may_come_before_the_upload_is_over() {
    let refuse = Answer::json(413, "{\"error\":{}}").early().wait(&gate());
    let upstream = Upstream::always(refuse);
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!("POST /v1/files HTTP/1.1\r\nhost: a\r\n{KEY}content-length: 100000\r\n\r\nx"));
    let answer = raw.response().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "{\"error\":{}}"));
}
