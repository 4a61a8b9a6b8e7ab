//! Connections that do not speak HTTP as they should.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::good;

const INVALID: &str = "invalid_request_error";
const KEY: &str = "authorization: Bearer sk-caller\r\n";
const BODY: &str = r#"{"model":"gpt-4.1-mini"}"#;

fn world() -> (Upstream, Gateway) {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    (upstream, gateway)
}

/// Sends bytes that must be refused with this status, by a connection that closes then.
#[track_caller]
fn refused_and_closed(gateway: &Gateway, status: u16, code: &str, request: impl AsRef<[u8]>) {
    let mut raw = Raw::connect(gateway.data());
    let answer = raw.send(request).response().unwrap();
    answer.assert_error(status, INVALID, code);
    let rest = raw.rest();
    assert!(rest.is_empty(), "after {answer:?}: {:?}", String::from_utf8_lossy(&rest));
}

#[test]
fn a_length_said_in_two_ways_is_refused() {
    let (upstream, gateway) = world();
    let heads = [
        "content-length: 24\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 24\r\n",
        "content-length: 24\r\ncontent-length: 24\r\n",
        "content-length: 24\r\ncontent-length: 25\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ];
    for head in heads {
        let request =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n{KEY}{head}\r\n{BODY}");
        refused_and_closed(&gateway, 400, "invalid_request", request);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn lines_that_end_without_cr_are_refused() {
    let (upstream, gateway) = world();
    let length = BODY.len();
    let requests = [
        format!(
            "POST /v1/chat/completions HTTP/1.1\nhost: a\n{KEY}content-length: {length}\n\n{BODY}"
        ),
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\n{KEY}content-length: {length}\r\n\r\n{BODY}"
        ),
    ];
    for request in requests {
        refused_and_closed(&gateway, 400, "invalid_request", request);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn hosts_are_one() {
    let (upstream, gateway) = world();
    for hosts in ["", "host: a\r\nhost: b\r\n", "host: a\r\nhost: a\r\n"] {
        let request = format!("GET /v1/models HTTP/1.1\r\n{hosts}{KEY}\r\n");
        exchange(&gateway, request).assert_error(400, INVALID, "invalid_request");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn paths_that_climb_are_refused() {
    let (upstream, gateway) = world();
    let targets = [
        "/v1/../admin",
        "/v1/files/..",
        "/v1/./models",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2E%2Fadmin",
        "/v1/..%2fadmin",
        "/v1/.%2e/admin",
        "/v1/x%5C..%5Cadmin",
        "/v1\\..\\admin",
        "/v1/models#fragment",
    ];
    for target in targets {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\n{KEY}\r\n");
        let answer = exchange(&gateway, request);
        answer.assert_error(400, INVALID, "invalid_request");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn an_absolute_target_is_served_here_whoever_it_names() {
    let (upstream, gateway) = world();
    let request = format!("GET http://elsewhere/v1/models HTTP/1.1\r\nhost: a\r\n{KEY}\r\n");
    assert_eq!(exchange(&gateway, request).status, 200);
    let received = upstream.only_request();
    assert_eq!(received.target, "/v1/models");
    assert!(received.header("host").unwrap().starts_with("127.0.0.1:"), "{received:?}");
}

#[test]
fn trace_and_connect_are_not_served() {
    let (upstream, gateway) = world();
    for start in ["TRACE /v1/models", "CONNECT elsewhere:443", "CONNECT /v1/models"] {
        let mut raw = Raw::connect(gateway.data());
        raw.send(format!("{start} HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
        let answer = raw.response().unwrap();
        assert!(matches!(answer.status, 400 | 405), "{start}: {answer:?}");
        assert_eq!(answer.json()["error"]["type"], INVALID);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_head_that_is_too_large_is_refused_in_words() {
    let (upstream, gateway) = world();
    let long = "x".repeat(100 << 10);
    let code = "request_header_fields_too_large";
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{KEY}x-long: {long}\r\n\r\n");
    // The client is still sending when the answer comes, so the connection may end in a reset.
    let mut raw = Raw::connect(gateway.data());
    raw.send(request).response().unwrap().assert_error(431, INVALID, code);

    let many = "x: y\r\n".repeat(200);
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{KEY}{many}\r\n");
    exchange(&gateway, request).assert_error(431, INVALID, code);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn garbage_is_answered_in_words() {
    let (upstream, gateway) = world();
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
    ];
    for bytes in garbage {
        refused_and_closed(&gateway, 400, "invalid_request", bytes);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn http_1_0_is_served() {
    let (_upstream, gateway) = world();
    let length = BODY.len();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.0\r\n{KEY}content-length: {length}\r\n\r\n{BODY}"
    );
    let mut raw = Raw::connect(gateway.data());
    let answer = raw.send(request).response().unwrap();
    assert_eq!(answer.status, 200);
    assert!(raw.rest().is_empty(), "an HTTP/1.0 connection closes after its answer");
}

#[test]
fn a_body_that_stays_short_of_its_length_never_reaches_the_upstream() {
    let (upstream, gateway) = world();
    let mut raw = Raw::connect(gateway.data());
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n{KEY}content-length: 500");
    raw.send(format!("{head}\r\n\r\n{BODY}")).finish();
    if let Ok(answer) = raw.response() {
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let gone = || gateway.metric("weir_downstream_connections", &[]) < 0.5;
    eventually("the connection is closed", gone);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_head_that_comes_too_slowly_is_given_up() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config("limits: { header_timeout: 300ms }").start();
    let mut first = Raw::connect(gateway.data());
    first.send("GET /v1/models HTTP/1.1\r\nhost: a\r\nx-slow: ");
    assert!(first.rest().len() < 4096, "the connection is closed");

    // The same for a second request, after one that was in time.
    let mut second = Raw::connect(gateway.data());
    assert_eq!(second.send(good()).response().unwrap().status, 200);
    second.send("G");
    second.rest();
    assert_eq!(upstream.count(), 1);
}

#[test]
fn thousands_of_idle_connections_keep_nobody_out() {
    let (_upstream, gateway) = world();
    let count = connections_to_hold();
    let wanted = f64::from(count);
    let idle: Vec<_> = (0..count).map(|_| Raw::connect(gateway.data())).collect();
    let open = || gateway.metric("weir_downstream_connections", &[]);
    eventually("all connections are open", || open() > wanted - 0.5);
    for _ in 0..10 {
        assert_eq!(exchange(&gateway, good()).status, 200);
    }
    drop(idle);
    eventually("all connections are closed", || open() < 0.5);
}

/// 5,000, or what the limit of open files allows.
fn connections_to_hold() -> u32 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: u32 = files.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(1024);
    5_000.min(soft.saturating_sub(400))
}

#[test]
fn more_connections_than_the_limit_are_told_so() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config("limits: { connections: 10 }").start();
    let mut kept: Vec<_> = (0..10).map(|_| Raw::connect(gateway.data())).collect();
    let open = || gateway.metric("weir_downstream_connections", &[]) > 9.5;
    eventually("ten connections are open", open);
    let mut late = Raw::connect(gateway.data());
    let answer = late.response().unwrap();
    answer.assert_error(503, "api_error", "server_overloaded");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(kept[0].send(good()).response().unwrap().status, 200);
    drop(kept);
    eventually("others may come", || {
        Raw::connect(gateway.data()).send(good()).response().is_ok_and(|a| a.status == 200)
    });
}
