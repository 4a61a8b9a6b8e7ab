//! Tries at an upstream, as clients and providers notice them.

use std::net::TcpListener;
use std::time::Duration;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::gate;
use crate::support::call;
use crate::support::chat;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::post;

const ASK: &str = r#"{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]}"#;
/// An error as no gateway would write it, so that a copy is recognised.
const ODD_ERROR: &str =
    r#"{ "error" : {"message":"No \u00fc","type":"x","param":null,"code":1e1} }"#;

fn failing(status: u16) -> Answer {
    Answer::json(status, ODD_ERROR)
}

#[test]
fn a_failure_before_the_first_byte_is_invisible() {
    for failure in [failing(500), failing(503), failing(408), failing(409), failing(429)] {
        let upstream = Upstream::script([failure, Answer::chat()]);
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, ASK);
        assert_eq!((answer.status, answer.text()), (200, CHAT.to_owned()));
        assert_eq!(answer.header("x-weir-attempts"), Some("2"));
        assert_eq!(answer.header("x-should-retry"), None);
        let bodies: Vec<_> = upstream.requests().iter().map(|request| request.text()).collect();
        assert_eq!(bodies, [ASK, ASK]);
    }
}

#[test]
fn every_try_is_counted_by_what_came_of_it() {
    let upstream = Upstream::script([failing(500), failing(429), Answer::chat()]);
    let gateway = Gateway::start(&upstream);
    assert_eq!(chat(&gateway, ASK).header("x-weir-attempts"), Some("3"));
    for outcome in ["server_error", "rate_limited", "ok"] {
        let labels = [("upstream", "openai"), ("outcome", outcome)];
        let counted = || gateway.metric("weir_attempts_total", &labels) > 0.5;
        eventually(&format!("{outcome} is counted"), counted);
    }
}

#[test]
fn a_provider_that_says_when_to_come_back_is_asked_again_then() {
    let busy = Answer::whole(429, "retry-after-ms: 50\r\n", "{}");
    let upstream = Upstream::script([busy, Answer::chat()]);
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, ASK);
    assert_eq!((answer.status, answer.header("x-weir-attempts")), (200, Some("2")));
}

#[test]
fn a_provider_that_wants_a_long_pause_is_not_asked_again() {
    let headers = "retry-after: 60\r\nx-ratelimit-remaining-requests: 0\r\n\
                   x-ratelimit-reset-requests: 1m0s\r\ncontent-type: application/json\r\n";
    let upstream = Upstream::always(Answer::whole(429, headers, ODD_ERROR));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, ASK);
    assert_eq!((answer.status, answer.text()), (429, ODD_ERROR.to_owned()));
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(answer.header("x-ratelimit-reset-requests"), Some("1m0s"));
    assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    // The client may come back by itself: the gateway has not.
    assert_eq!(answer.header("x-should-retry"), None);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn when_every_try_fails_the_last_answer_reaches_the_client() {
    let last = Answer::whole(503, "x-mine: last\r\n", ODD_ERROR);
    let upstream = Upstream::script([failing(500), failing(502), last]);
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, ASK);
    assert_eq!((answer.status, answer.text()), (503, ODD_ERROR.to_owned()));
    assert_eq!(answer.header("x-mine"), Some("last"));
    assert_eq!(answer.header("x-weir-attempts"), Some("3"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.count(), 3);
}

#[test]
fn a_request_that_is_wrong_by_itself_is_not_sent_again() {
    for status in [400, 401, 403, 404, 422] {
        let upstream = Upstream::always(failing(status));
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, ASK);
        assert_eq!((answer.status, answer.text()), (status, ODD_ERROR.to_owned()));
        assert_eq!(upstream.count(), 1, "{status}");
    }
}

#[test]
fn a_provider_that_cannot_be_reached_is_a_bad_gateway() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::before(&format!("http://{port}/v1")).start();
    let answer = chat(&gateway, ASK);
    answer.assert_error(502, "api_error", "upstream_unavailable");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert!(answer.header("x-weir-id").is_some());
}

#[test]
fn a_provider_that_never_answers_is_a_gateway_timeout() {
    let upstream = Upstream::always(Answer::default().stall());
    let gateway = Gateway::builder(&upstream).impatient().start();
    let answer = chat(&gateway, ASK);
    answer.assert_error(504, "api_error", "upstream_timeout");
    assert_eq!(upstream.count(), 3);
    eventually("the calls upstream end", || upstream.cancelled() == 3);
}

#[test]
fn a_provider_that_stalls_within_a_whole_answer_is_asked_again() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":";
    let upstream = Upstream::script([Answer::raw(head).stall(), Answer::chat()]);
    let gateway = Gateway::builder(&upstream).impatient().start();
    let answer = chat(&gateway, ASK);
    assert_eq!((answer.status, answer.text()), (200, CHAT.to_owned()));
}

#[test]
fn an_answer_that_is_cut_before_the_client_saw_it_is_fetched_again() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":";
    let chunked = Answer::chunked(200, "content-type: application/json\r\n").chunk("{\"half\":");
    for cut in [Answer::raw(cut).close(), Answer::raw(cut).reset(), chunked.close()] {
        let upstream = Upstream::script([cut.clone(), Answer::chat()]);
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, ASK);
        assert_eq!((answer.status, answer.text()), (200, CHAT.to_owned()));
        drop(gateway);

        let upstream = Upstream::always(cut);
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, ASK);
        answer.assert_error(502, "api_error", "upstream_unavailable");
        assert_eq!(upstream.count(), 3);
    }
}

#[test]
fn a_stream_that_dies_before_its_first_event_is_begun_again() {
    let full = format!("data: {CHAT}\n\ndata: [DONE]\n\n");
    let dead = [Answer::events().close(), Answer::events().reset(), Answer::default().close()];
    for dead in dead {
        let upstream = Upstream::script([dead, Answer::stream(&full)]);
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, r#"{"model":"gpt-4.1-mini","stream":true,"messages":[]}"#);
        assert_eq!((answer.status, answer.text()), (200, full.clone()));
    }
}

#[test]
fn a_refusal_of_the_gateways_own_key_does_not_reach_the_caller() {
    let upstream = Upstream::always(Answer::json(401, r#"{"error":{"message":"sk-ow...ret"}}"#));
    let gateway = Gateway::builder(&upstream).upstream("api_key", "sk-own-secret").start();
    let answer = chat(&gateway, ASK);
    answer.assert_error(502, "api_error", "upstream_credentials");
    assert!(!answer.text().contains("sk-ow"), "{}", answer.text());
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_provider_in_trouble_gets_hardly_more_traffic_than_clients_make() {
    let upstream = Upstream::always(failing(500));
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    for _ in 0..200 {
        assert_eq!(raw.send(post("/v1/chat/completions", ASK)).response().unwrap().status, 500);
    }
    // 200 and a tenth of it.
    assert!(upstream.count() <= 220, "{} requests upstream", upstream.count());
    assert!(upstream.count() > 200, "some were retried");
}

#[test]
fn a_call_that_makes_something_is_not_sent_twice() {
    let dead = [failing(500), Answer::default().close(), Answer::default().reset()];
    for dead in dead {
        let upstream = Upstream::always(dead);
        let gateway = Gateway::start(&upstream);
        let answer = call(&gateway, "/v1/images/generations", r#"{"model":"gpt-image-1"}"#);
        assert!(answer.status >= 500, "{answer:?}");
        assert_eq!(answer.header("x-weir-attempts"), Some("1"));
        assert_eq!(upstream.count(), 1);
    }
}

#[test]
fn more_calls_than_an_upstream_may_have_are_refused_at_once() {
    let hold = gate();
    let upstream = Upstream::always(
        Answer::default()
            .wait(&hold)
            .write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{CHAT}", CHAT.len())),
    );
    let gateway = Gateway::builder(&upstream).upstream("max_in_flight", "1").start();
    let mut first = Raw::connect(gateway.data());
    first.send(post("/v1/chat/completions", ASK));
    eventually("the first call is upstream", || upstream.count() == 1);

    let second = chat(&gateway, ASK);
    second.assert_error(503, "api_error", "server_overloaded");
    assert!(second.header("retry-after").is_some());

    hold.add_permits(2);
    assert_eq!(first.response().unwrap().status, 200);
    assert_eq!(chat(&gateway, ASK).status, 200);
}

#[test]
fn a_kept_connection_that_the_provider_closed_costs_no_error() {
    let upstream = Upstream::always(Answer::chat().close());
    let gateway = Gateway::start(&upstream);
    for _ in 0..20 {
        assert_eq!(chat(&gateway, ASK).status, 200);
    }
    assert_eq!(upstream.count(), 20);
}

#[test]
fn a_kept_connection_that_dies_under_a_request_costs_no_error() {
    // The provider takes the second request of a connection, and resets instead of answering.
    let upstream = Upstream::with(|_, request| match request.header("x-turn") {
        Some("1") if request.connection == 0 => Answer::default().reset(),
        _ => Answer::chat(),
    });
    let gateway = Gateway::start(&upstream);
    let turn = |n: usize| {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\n\
             x-turn: {n}\r\ncontent-length: {}\r\n\r\n{ASK}",
            ASK.len()
        );
        exchange(&gateway, request).status
    };
    assert_eq!((turn(0), turn(1), turn(2)), (200, 200, 200));
}

#[test]
fn calls_one_after_another_share_a_connection() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    for _ in 0..100 {
        assert_eq!(raw.send(post("/v1/chat/completions", ASK)).response().unwrap().status, 200);
    }
    assert_eq!((upstream.count(), upstream.connections()), (100, 1));
}

#[test]
fn a_slow_provider_is_waited_for() {
    let slow = Answer::default()
        .write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        .write("{")
        .pause(Duration::from_millis(150))
        .write("\"\"")
        .pause(Duration::from_millis(150))
        .write("}");
    let upstream = Upstream::always(slow);
    // Each pause is shorter than `idle`, all of them together are longer.
    let timeouts = "{ connect: 200ms, first_byte: 10s, idle: 250ms }";
    let gateway = Gateway::builder(&upstream).upstream("timeouts", timeouts).start();
    assert_eq!(chat(&gateway, ASK).text(), "{\"\"}");
}
