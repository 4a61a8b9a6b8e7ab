//! Clients that leave before the answer, on routes that drain and on those that cancel.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::chat;
use crate::support::eventually;
use crate::support::gateway::Builder;
use crate::support::http::get;
use crate::support::http::post;
use crate::support::rows::rows;
use crate::support::world;

const ASK: &str = r#"{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str =
    r#"{"model":"gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const DRAIN: &str = "routes:\n  - { name: drained, on_disconnect: drain }";
/// 9 tokens in at 0.40 USD a million, 3 out at 1.60: 3.6 + 4.8 millionths, in units of 10^-12.
const COST: &str = "8400000";

fn draining(upstream: &Upstream) -> Builder {
    Gateway::builder(upstream).policy(DRAIN)
}

/// An answer that begins when the test says so.
fn held(gate: &Arc<Semaphore>, answer: Answer) -> Answer {
    let mut held = Answer::default().wait(gate);
    held.steps.extend(answer.steps);
    held
}

/// Sends a request and leaves once it is upstream; returns when the gateway knows.
fn leave(gateway: &Gateway, upstream: &Upstream, body: &str) {
    let before = upstream.count();
    let mut raw = Raw::connect(gateway.data());
    raw.send(post("/v1/chat/completions", body));
    eventually("the call is upstream", || upstream.count() > before);
    raw.close();
    has_left(gateway);
}

fn has_left(gateway: &Gateway) {
    eventually("the gateway sees that the client left", || {
        gateway.metric("weir_downstream_connections", &[]) < 0.5
    });
}

/// Of the first call: status, error, whether the client left, tries, whose usage it is, cost.
fn first_row(gateway: &Gateway) -> Vec<String> {
    eventually("the call is in the store", || gateway.records("stored") > 0);
    let columns = "status_code, error_code, client_left, attempts, usage_source, cost_picodollars";
    let sql = format!("select {columns} from interactions order by id limit 1");
    rows(&gateway.store(), &sql).unwrap().remove(0)
}

#[test]
fn an_answer_that_begins_after_the_client_left_is_read_to_its_end_and_billed() {
    let events = format!("{}{USAGE}{DONE}", delta("Hello there!"));
    let (first, second) = CHAT.split_at(100);
    let length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", CHAT.len());
    let go_on = gate();
    let answers = [
        (ASK, held(&go_on, Answer::chat())),
        (ASK, Answer::raw(length).write(first).wait(&go_on).write(second)),
        (STREAM, held(&go_on, Answer::stream(&events))),
        (STREAM, Answer::events().wait(&go_on).chunk(delta("Hi")).chunk(USAGE).chunk(DONE).end()),
    ];
    for (ask, answer) in answers {
        let upstream = Upstream::script([answer, Answer::chat()]);
        let gateway = draining(&upstream).upstream("max_in_flight", "1").start();
        leave(&gateway, &upstream, ask);
        assert!((gateway.metric("weir_in_flight_requests", &[]) - 1.0).abs() < 0.1);
        go_on.add_permits(1);
        assert_eq!(first_row(&gateway), ["499", "client_gone", "1", "1", "reported", COST]);
        let gone = [("error_type", "client_gone")];
        let calls = "gen_ai_server_request_duration_seconds_count";
        assert!((gateway.metric(calls, &gone) - 1.0).abs() < 0.1);
        assert!((gateway.metric("gen_ai_client_cost_usd_total", &[]) - 8.4e-6).abs() < 1e-12);
        // Only a connection whose answer was read to its end takes another call, and the one call
        // that the upstream may have is over.
        assert_eq!(chat(&gateway, ASK).status, 200);
        assert_eq!((upstream.count(), upstream.connections(), upstream.cancelled()), (2, 1, 0));
    }
}

#[test]
fn a_client_that_leaves_over_http2_is_no_different() {
    let go_on = gate();
    let upstream = Upstream::always(held(&go_on, Answer::chat()));
    let gateway = draining(&upstream).start();
    let client = crate::support::http::client().http2_prior_knowledge().no_proxy().build().unwrap();
    let url = gateway.url("/v1/chat/completions");
    let call = world().spawn(client.post(url).bearer_auth("k").body(ASK).send());
    eventually("the call is upstream", || upstream.count() == 1);
    call.abort();
    drop(client);
    has_left(&gateway);
    go_on.add_permits(1);
    assert_eq!(first_row(&gateway), ["499", "client_gone", "1", "1", "reported", COST]);
}

#[test]
fn a_route_that_cancels_ends_the_call_upstream() {
    for ask in [ASK, STREAM] {
        let upstream = Upstream::always(Answer::default().stall());
        let gateway = Gateway::builder(&upstream)
            .policy("routes:\n  - { name: cancelled, on_disconnect: cancel }")
            .start();
        leave(&gateway, &upstream, ask);
        eventually("the upstream's connection is closed", || upstream.cancelled() == 1);
        let row = first_row(&gateway);
        assert_eq!(row[..5], ["499", "client_gone", "1", "0", "estimated"]);
    }
}

#[test]
fn tries_go_on_after_the_client_left() {
    let go_on = gate();
    let failure = held(&go_on, Answer::json(500, r#"{"error":{}}"#));
    let upstream = Upstream::script([failure, Answer::json(503, "{}"), Answer::chat()]);
    let gateway = draining(&upstream).start();
    leave(&gateway, &upstream, ASK);
    go_on.add_permits(1);
    assert_eq!(first_row(&gateway), ["499", "client_gone", "1", "3", "reported", COST]);
    let bodies: Vec<_> = upstream.requests().iter().map(|request| request.text()).collect();
    assert_eq!(bodies, [ASK, ASK, ASK]);
}

#[test]
fn what_the_provider_refuses_after_the_client_left_costs_nothing() {
    let go_on = gate();
    let refusal = held(&go_on, Answer::json(400, r#"{"error":{}}"#));
    let dead = held(&go_on, Answer::default().close());
    for (answer, attempts) in [(refusal, "1"), (dead, "3")] {
        let upstream = Upstream::always(answer);
        let gateway = draining(&upstream).start();
        leave(&gateway, &upstream, ASK);
        go_on.add_permits(attempts.parse().unwrap());
        assert_eq!(first_row(&gateway), ["499", "client_gone", "1", attempts, "null", "null"]);
    }
}

#[test]
fn a_stream_that_dies_unseen_is_still_one_whose_client_left() {
    let go_on = gate();
    let dying = Answer::events().wait(&go_on).chunk(delta("Once upon")).close();
    let upstream = Upstream::always(dying);
    let gateway = draining(&upstream).start();
    leave(&gateway, &upstream, STREAM);
    go_on.add_permits(1);
    // 8 tokens in at 0.40 USD a million, 2 out at 1.60: 3.2 + 3.2 millionths.
    assert_eq!(first_row(&gateway), ["499", "client_gone", "1", "1", "estimated", "6400000"]);
}

#[test]
fn deadlines_hold_when_nobody_waits() {
    let silent = Upstream::always(Answer::default().stall());
    let route = "routes:\n  - { name: drained, on_disconnect: drain, deadline: 1s }";
    let gateway = Gateway::builder(&silent).policy(route).start();
    leave(&gateway, &silent, ASK);
    eventually("the route's deadline ends the call", || silent.cancelled() == 1);
    assert_eq!(first_row(&gateway)[3..], ["1", "null", "null"]);

    let go_on = gate();
    let falls_silent = Answer::events().wait(&go_on).chunk(delta("Once upon")).stall();
    let upstream = Upstream::always(falls_silent);
    let timeouts = "{ connect: 1s, first_byte: 60s, idle: 1s }";
    let gateway = draining(&upstream).upstream("timeouts", timeouts).start();
    leave(&gateway, &upstream, STREAM);
    go_on.add_permits(1);
    eventually("the upstream's idle time ends the call", || upstream.cancelled() == 1);
    assert_eq!(first_row(&gateway)[..5], ["499", "client_gone", "1", "1", "estimated"]);
}

#[test]
fn on_sigterm_a_call_that_nobody_waits_for_may_end() {
    let go_on = gate();
    let upstream = Upstream::always(held(&go_on, Answer::chat()));
    let mut gateway = draining(&upstream).start();
    leave(&gateway, &upstream, ASK);
    gateway.process.signal("TERM");
    eventually("it is not ready", || get(gateway.control(), "/readyz").unwrap().status == 503);
    go_on.add_permits(1);
    assert_eq!(gateway.process.exit().code(), Some(0));
    assert_eq!(upstream.cancelled(), 0);
    let row = rows(&gateway.store(), "select usage_source, cost_picodollars from interactions");
    assert_eq!(row.unwrap(), [["reported", COST]]);
}

#[test]
fn a_call_that_nobody_waits_for_does_not_outlast_the_drain_time() {
    let upstream = Upstream::always(Answer::default().stall());
    let mut gateway = draining(&upstream).config("drain: 300ms").start();
    leave(&gateway, &upstream, ASK);
    assert_eq!(upstream.cancelled(), 0);
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0));
    assert!(gateway.log().contains("drain time is over"), "{}", gateway.log());
}
