//! One side is faster than the other, or has more to say than it should.

use std::io::Write as _;
use std::time::Duration;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::Step;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::chat;
use crate::support::eventually;
use crate::support::http::good;
use crate::support::http::post;

const KEY: &str = "authorization: Bearer sk-caller\r\n";
const STREAM: &str = r#"{"model":"gpt-4.1-mini","stream":true}"#;
const MIB: usize = 1 << 20;

#[test]
fn a_reader_who_pauses_longer_than_the_provider_may_is_served_on() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 * MIB);
    let upstream = Upstream::always(Answer::raw(head).then(Step::Flood(vec![b'x'; MIB], 64)));
    let gateway = Gateway::builder(&upstream).impatient().start();
    let mut raw = Raw::connect(gateway.data());
    raw.send(format!("GET /v1/files/f/content HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
    raw.head().unwrap();
    for _ in 0..4 {
        raw.take(15 * MIB).unwrap();
        // Silence for longer than `idle`, and it is not the provider's.
        std::thread::sleep(Duration::from_millis(400));
    }
    raw.take(4 * MIB).unwrap();
}

#[test]
fn a_provider_that_does_not_take_an_upload_is_a_gateway_timeout() {
    let upstream = Upstream::always(Answer::default().early().stall());
    let gateway = Gateway::builder(&upstream).impatient().start();
    let mut raw = Raw::connect(gateway.data());
    let length = 32 * MIB;
    raw.send(format!(
        "POST /v1/files HTTP/1.1\r\nhost: a\r\n{KEY}content-length: {length}\r\n\r\n"
    ));
    let sender = raw.sender();
    let sending = std::thread::spawn(move || sender.send_all(&vec![b'x'; length]));
    raw.response().unwrap().assert_error(504, "api_error", "upstream_timeout");
    raw.close();
    sending.join().unwrap();
}

#[test]
fn who_sends_everything_before_reading_still_learns_why_it_was_refused() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config("limits: { body: 64KiB }").start();
    let body = "x".repeat(8 * MIB);
    let length = body.len();
    let path = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n";
    let refusals = [
        (format!("{path}content-length: {length}\r\n\r\n{body}"), 401),
        (format!("{path}{KEY}content-length: {length}\r\n\r\n{body}"), 413),
        (format!("{path}{KEY}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n"), 413),
        (format!("{path}{KEY}content-encoding: br\r\ncontent-length: {length}\r\n\r\n{body}"), 415),
    ];
    for (request, status) in refusals {
        for _ in 0..3 {
            let answer = Raw::connect(gateway.data()).send(&request).response();
            let got = answer.as_ref().map_or(0, |answer| answer.status);
            assert_eq!(got, status, "{answer:?}");
        }
    }
}

#[test]
fn who_hangs_up_makes_room_for_the_next() {
    let upstream = Upstream::script([
        Answer::events().chunk(delta("One")).stall(),
        Answer::default().stall(),
        Answer::chat(),
    ]);
    let gateway = Gateway::builder(&upstream).upstream("max_in_flight", "1").start();
    let mut begun = Raw::connect(gateway.data());
    begun.send(post("/v1/chat/completions", STREAM));
    begun.head().unwrap();
    drop(begun);
    eventually("the first call is over", || upstream.cancelled() == 1);
    let mut waiting = Raw::connect(gateway.data());
    waiting.send(post("/v1/chat/completions", STREAM));
    eventually("the second call is upstream", || upstream.count() == 2);
    drop(waiting);
    eventually("the second call is over", || upstream.cancelled() == 2);
    assert_eq!(chat(&gateway, STREAM).status, 200);
}

#[test]
fn a_small_answer_that_unpacks_to_a_huge_one_passes_and_is_not_unpacked() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..300 {
        packer.write_all(&vec![b' '; MIB]).unwrap();
    }
    let packed = packer.finish().unwrap();
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let upstream = Upstream::always(Answer::whole(200, headers, &packed));
    let gateway = Gateway::start(&upstream);
    let before = gateway.resident_bytes();
    let answer = chat(&gateway, r#"{"model":"gpt-4.1-mini"}"#);
    assert!(answer.body == packed);
    let grown = gateway.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 200, "the gateway grew by {grown} MiB");
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let hold = gate();
    let upstream = Upstream::with({
        let hold = hold.clone();
        move |turn, request| match turn {
            0 => {
                Answer::default().wait(&hold).write(Answer::json(200, "0").first_bytes()).write("0")
            }
            _ => Answer::json(200, request.target.replace("/v1/", "")),
        }
    });
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    for n in 0..5 {
        raw.send(format!("GET /v1/{n} HTTP/1.1\r\nhost: a\r\n{KEY}\r\n"));
    }
    eventually("the first call is upstream", || upstream.count() == 1);
    hold.add_permits(1);
    for n in 0..5 {
        assert_eq!(raw.response().unwrap().text(), n.to_string());
    }
}

#[test]
fn a_request_sent_ahead_is_looked_at_as_closely_as_any_other() {
    let upstream = Upstream::always(Answer::json(200, "{}"));
    let gateway = Gateway::start(&upstream);
    let ahead = format!("GET /v1/one HTTP/1.1\r\nhost: a\r\n{KEY}\r\n");
    let start = format!("POST /v1/two HTTP/1.1\r\nhost: a\r\n{KEY}");
    let seconds = [
        format!("{start}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{start}content-length: 1\r\ncontent-length: 1\r\n\r\nx"),
        format!("GET /v1/two HTTP/1.1\nhost: a\n{KEY}\n"),
    ];
    for second in seconds {
        let mut raw = Raw::connect(gateway.data());
        raw.send(format!("{ahead}{second}"));
        assert_eq!(raw.response().unwrap().status, 200);
        let answer = raw.response().unwrap();
        assert_eq!(answer.status, 400, "{second}: {answer:?}");
    }
}

#[test]
fn a_request_sent_ahead_behind_chunks_is_served_and_looked_at() {
    let upstream = Upstream::with(|_, request| Answer::json(200, request.target.clone()));
    let gateway = Gateway::start(&upstream);
    let chunks = "6;x=1\r\n{\"a\":1\r\n1\r\n}\r\n0\r\n";
    let start =
        format!("POST /v1/one HTTP/1.1\r\nhost: a\r\n{KEY}transfer-encoding: chunked\r\n\r\n");
    for trailer in ["\r\n", "x-sum: 1\r\n\r\n"] {
        let chunked = format!("{start}{chunks}{trailer}");
        let next = format!("GET /v1/two HTTP/1.1\r\nhost: a\r\n{KEY}\r\n");
        let mut raw = Raw::connect(gateway.data());
        raw.send(format!("{chunked}{next}{chunked}{next}"));
        for path in ["/v1/one", "/v1/two", "/v1/one", "/v1/two"] {
            let answer = raw.response().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, path));
        }
        let twice = format!(
            "{start}0\r\n\r\nGET /v1/two HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        raw.send(twice);
        assert_eq!(raw.response().unwrap().status, 200);
        raw.response().unwrap().assert_error(400, "invalid_request_error", "invalid_request");
    }
}

#[test]
fn a_provider_that_speaks_no_http_is_a_bad_gateway() {
    let nonsense = [
        "hello\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "HTTP/1.1 999999 No\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(MIB)),
    ];
    for bytes in nonsense {
        let upstream = Upstream::always(Answer::raw(&bytes).close());
        let gateway = Gateway::start(&upstream);
        let answer = chat(&gateway, r#"{"model":"gpt-4.1-mini"}"#);
        answer.assert_error(502, "api_error", "upstream_unavailable");
    }
}

#[test]
fn a_providers_interim_answers_stay_behind() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]
    {
        let upstream =
            Upstream::always(Answer::raw(interim).write(Answer::chat().first_bytes()).write(CHAT));
        let gateway = Gateway::start(&upstream);
        let answer = Raw::connect(gateway.data()).send(good()).response().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, CHAT), "{interim}");
    }
}

#[test]
fn a_redirect_is_the_clients_to_follow() {
    let headers = "location: https://elsewhere/v1/files\r\n";
    let upstream = Upstream::always(Answer::whole(307, headers, ""));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, r#"{"model":"gpt-4.1-mini"}"#);
    assert_eq!(
        (answer.status, answer.header("location")),
        (307, Some("https://elsewhere/v1/files"))
    );
    assert_eq!(upstream.count(), 1);
}
