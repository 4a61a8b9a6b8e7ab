//! Clients that take nothing, say nothing or are gone: what they hold comes back.

use std::time::Duration;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::Step;
use crate::support::answer::delta;
use crate::support::chat;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::good;
use crate::support::http::post_with;
use crate::support::tls;
use crate::support::upstream::Received;
use crate::support::world;

const KEY: &str = "authorization: Bearer sk-caller\r\n";
const STREAM: &str = r#"{"model":"gpt-4.1-mini","stream":true}"#;
const MIB: usize = 1 << 20;
const SOON: &str = "limits: { write_timeout: 400ms }";

/// A stream without end for whoever wants one, a comment of 64 KiB before each event; a whole answer
/// for others.
fn endless(request: &Received) -> Answer {
    if request.header("x-test").is_some() {
        let event = format!(": {}\n\n{}", "x".repeat(64 << 10), delta("Hi ")).into_bytes();
        let chunk = [format!("{:x}\r\n", event.len()).as_bytes(), &event[..], b"\r\n"].concat();
        Answer::events().then(Step::Flood(chunk, 10_000))
    } else {
        Answer::chat()
    }
}

#[test]
fn a_client_that_reads_nothing_of_a_stream_gives_its_place_back_and_is_billed() {
    let upstream = Upstream::with(|_, request| endless(request));
    let gateway = Gateway::builder(&upstream).upstream("max_in_flight", "1").config(SOON).start();
    let before = gateway.resident_bytes();
    let mut raw = Raw::connect(gateway.data());
    raw.send(post_with("/v1/chat/completions", "x-test: endless\r\n", STREAM));
    eventually("the provider is not read any more, and left", || upstream.cancelled() == 1);
    let grown = gateway.resident_bytes().saturating_sub(before) >> 20;
    // The tokenizer's vocabularies are loaded meanwhile, and are a part of it.
    assert!(grown < 250, "of a stream of 600 MiB the gateway holds {grown}");
    assert_eq!(chat(&gateway, r#"{"model":"gpt-4.1-mini"}"#).status, 200);
    let gone = [("error_type", "client_gone"), ("gen_ai_token_type", "output")];
    let billed = || gateway.metric("gen_ai_client_token_usage_sum", &gone);
    eventually("what was seen is billed", || billed() > 0.5);
    eventually("and logged", || gateway.log().contains("error=client_gone"));
}

#[test]
fn a_client_that_reads_nothing_of_a_download_gives_its_place_back() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 256 * MIB);
    let flood = Answer::raw(head).then(Step::Flood(vec![b'x'; MIB], 256));
    let upstream = Upstream::always(flood);
    let gateway = Gateway::builder(&upstream).config(SOON).start();
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!("GET /v1/files/f/content HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
    eventually("the provider is left", || upstream.cancelled() == 1);
    assert!(raw.rest().len() < 256 * MIB, "the download is cut");
}

#[test]
fn a_client_that_reads_a_little_now_and_then_is_served_to_the_end() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 * MIB);
    let upstream = Upstream::always(Answer::raw(head).then(Step::Flood(vec![b'x'; MIB], 64)));
    let gateway = Gateway::builder(&upstream).config("limits: { write_timeout: 3s }").start();
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!("GET /v1/files/f/content HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
    raw.head().unwrap();
    // In all many times as long as it may take nothing.
    for _ in 0..64 {
        raw.take(MIB).unwrap();
        std::thread::sleep(Duration::from_millis(70));
    }
}

#[test]
fn a_client_that_reads_nothing_over_tls_is_no_different() {
    let upstream = Upstream::with(|_, request| endless(request));
    for http1 in [true, false] {
        let (builder, _folder, client) = tls::gateway(&upstream);
        let gateway = builder.config(SOON).start();
        let client = if http1 { client.http1_only() } else { client }.build().unwrap();
        let url = format!("https://{}/v1/chat/completions", gateway.data());
        let before = upstream.cancelled();
        let call = client.post(url).bearer_auth("k").header("x-test", "endless").body(STREAM);
        let unread = world().block_on(call.send());
        assert_eq!(unread.as_ref().unwrap().status(), 200);
        eventually("the provider is left", || upstream.cancelled() > before);
        drop(unread);
    }
}

#[test]
fn a_stream_over_http2_that_nobody_reads_is_reset_and_the_others_go_on() {
    let upstream = Upstream::with(|_, request| endless(request));
    let gateway = Gateway::builder(&upstream).upstream("max_in_flight", "2").config(SOON).start();
    let client = crate::support::http::client().http2_prior_knowledge().no_proxy().build().unwrap();
    let ask = || client.post(gateway.url("/v1/chat/completions")).bearer_auth("k");
    world().block_on(async {
        let unread = ask().header("x-test", "endless").body(STREAM).send().await.unwrap();
        while upstream.cancelled() == 0 {
            let answer = ask().body(r#"{"model":"gpt-4.1-mini"}"#).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(unread.bytes().await.is_err(), "the stream was reset");
        let answer = ask().body(r#"{"model":"gpt-4.1-mini"}"#).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    });
    let connections = gateway.metric("weir_downstream_connections", &[]);
    assert!(connections < 1.5, "{connections} connections: all went by one");
}

#[test]
fn a_websocket_client_that_reads_nothing_is_left() {
    let hello =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let upstream = Upstream::always(Answer::raw(hello).then(Step::Flood(vec![b'x'; MIB], 256)));
    let gateway = Gateway::builder(&upstream).config(SOON).start();
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!(
        "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: a\r\n{KEY}connection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ));
    assert_eq!(raw.head().unwrap().status, 101);
    eventually("the provider is left", || upstream.cancelled() == 1);
}

#[test]
fn a_connection_that_asks_nothing_more_is_closed() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config("limits: { idle_timeout: 1s }").start();
    let mut raw = Raw::connect(gateway.data());
    assert_eq!(raw.send(good()).response().unwrap().status, 200);
    assert!(raw.rest().is_empty(), "the connection is closed without a word");
}

#[test]
fn a_silent_client_is_asked_whether_it_is_still_there() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    assert_eq!(raw.send(good()).response().unwrap().status, 200);
    let port = gateway.data().port();
    eventually("the kernel's keep-alive is on", || is_kept_alive(port));
}

/// Whether the kernel's timer of a connection to this local port is the one of its keep-alive.
fn is_kept_alive(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        let established = fields.get(3) == Some(&"01");
        let ours = fields.get(1).is_some_and(|address| address.ends_with(&local));
        established && ours && fields.get(5).is_some_and(|timer| timer.starts_with("02:"))
    })
}

#[test]
fn five_thousand_silent_connections_are_held_and_others_are_served() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let before = gateway.resident_bytes();
    let silent: Vec<_> = (0..5_000).map(|_| Raw::connect(gateway.data())).collect();
    let open = || gateway.metric("weir_downstream_connections", &[]);
    eventually("all are open", || open() > 4_999.5);
    for _ in 0..20 {
        assert_eq!(exchange(&gateway, good()).status, 200);
    }
    let grown = gateway.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 150, "the gateway grew by {grown} MiB");
    drop(silent);
    eventually("all are closed", || open() < 0.5);
}

#[test]
fn five_hundred_slow_senders_hold_up_nobody_and_are_given_up() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config("limits: { header_timeout: 2s }").start();
    let mut slow: Vec<_> = (0..500).map(|_| Raw::connect(gateway.data())).collect();
    for raw in &mut slow {
        raw.send("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n");
    }
    for _ in 0..20 {
        assert_eq!(exchange(&gateway, good()).status, 200);
        for raw in &mut slow {
            raw.send("x");
        }
    }
    let open = || gateway.metric("weir_downstream_connections", &[]);
    eventually("all are closed", || open() < 0.5);
    assert_eq!(upstream.count(), 20);
}

#[test]
fn a_slow_sender_of_a_body_holds_no_place_upstream() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).upstream("max_in_flight", "1").start();
    let mut slow: Vec<_> = (0..50).map(|_| Raw::connect(gateway.data())).collect();
    for raw in &mut slow {
        raw.send(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n{KEY}content-length: 100\r\n\r\n{{"
        ));
    }
    for _ in 0..20 {
        assert_eq!(exchange(&gateway, good()).status, 200);
    }
    assert_eq!(upstream.count(), 20);
}
