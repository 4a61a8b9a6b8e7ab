//! HTTP/2 as clients speak it, and as nobody should.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::good;
use crate::support::world;

const STREAM: &str = r#"{"model":"gpt-4.1-mini","stream":true}"#;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let [_, length @ ..] = length;
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface and our settings.
fn hello() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat()
}

/// `GET /v1/models` with a key, in HPACK without Huffman codes.
fn get_models() -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in
        [(&[0x04][..], "/v1/models"), (&[0x01], "gateway"), (&[0x0f, 0x08], "Bearer k")]
    {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    block
}

#[track_caller]
fn others_are_served(gateway: &Gateway) {
    assert_eq!(exchange(gateway, good()).status, 200);
}

/// Answers chat at once and nothing else ever.
fn stalling_but_for_chat() -> Upstream {
    Upstream::with(|_, request| match request.target.as_str() {
        "/v1/chat/completions" => Answer::chat(),
        _ => Answer::default().stall(),
    })
}

#[test]
fn requests_that_are_reset_as_soon_as_they_are_sent_leave_nothing_behind() {
    let upstream = stalling_but_for_chat();
    let gateway = Gateway::start(&upstream);
    let before = gateway.resident_bytes();
    for _ in 0..5 {
        let mut raw = Raw::connect(gateway.data());
        raw.send(hello());
        let cancel = 8_u32.to_be_bytes();
        let attack: Vec<u8> = (0..1_000)
            .flat_map(|n| {
                let stream = 2 * n + 1;
                let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_models());
                [request, frame(RST_STREAM, 0, stream, &cancel)].concat()
            })
            .collect();
        raw.send(attack);
        others_are_served(&gateway);
    }
    let running = || gateway.metric("weir_in_flight_requests", &[]);
    eventually("nothing runs any more", || running() < 0.5);
    eventually("nothing runs upstream any more", || {
        upstream.cancelled() + 1 >= upstream.open_connections()
    });
    others_are_served(&gateway);
    let grown = gateway.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 50, "the gateway grew by {grown} MiB");
}

#[test]
fn a_head_without_end_is_cut_off() {
    let upstream = stalling_but_for_chat();
    let gateway = Gateway::start(&upstream);
    let before = gateway.resident_bytes();
    let mut raw = Raw::connect(gateway.data());
    raw.send(hello()).send(frame(HEADERS, END_STREAM, 1, &get_models()));
    let more: Vec<u8> = [&[0x00, 1, b'x', 0x7f, 0x81, 0x07][..], &[b'y'; 1024]].concat();
    for _ in 0..5_000 {
        raw.send(frame(CONTINUATION, 0, 1, &more));
    }
    raw.rest();
    others_are_served(&gateway);
    let grown = gateway.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 20, "the gateway grew by {grown} MiB");
}

#[test]
fn a_small_head_that_unpacks_to_a_huge_one_is_refused() {
    let upstream = stalling_but_for_chat();
    let gateway = Gateway::start(&upstream);
    let mut raw = Raw::connect(gateway.data());
    let mut block = get_models();
    // A header of 4,000 bytes that the table keeps, and a thousand references to it: 4 MB.
    block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend_from_slice(&[b'y'; 4_000]);
    block.extend_from_slice(&[0xbe; 1_000]);
    raw.send(hello()).send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    let labels = [("route", "passthrough")];
    others_are_served(&gateway);
    drop(raw);
    let open = || gateway.metric("weir_downstream_connections", &[]);
    eventually("the connection is closed", || open() < 0.5);
    assert!(gateway.metric("weir_requests_total", &labels) < 0.5);
    assert!(upstream.requests().iter().all(|request| request.target != "/v1/models"));
}

#[test]
fn frames_that_make_no_sense_end_the_connection() {
    let upstream = stalling_but_for_chat();
    let gateway = Gateway::start(&upstream);
    let senseless = [
        frame(0, 0, 1, b"data on a stream that nobody opened"),
        frame(HEADERS, END_HEADERS | END_STREAM, 2, &get_models()),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff"),
        frame(SETTINGS, 0, 0, b"odd"),
        frame(CONTINUATION, END_HEADERS, 1, b""),
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
    ];
    for bytes in senseless {
        let mut raw = Raw::connect(gateway.data());
        raw.send(hello()).send(&bytes).finish();
        raw.rest();
        others_are_served(&gateway);
    }
    assert!(upstream.requests().iter().all(|request| request.target != "/v1/models"));
}

fn client() -> reqwest::Client {
    crate::support::http::client().http2_prior_knowledge().no_proxy().build().unwrap()
}

#[test]
fn a_stream_over_http2_comes_event_by_event_and_ends_when_the_client_leaves() {
    let heard = gate();
    let events = Answer::events().chunk(delta("One")).wait(&heard).chunk(delta(" two")).stall();
    let upstream = Upstream::always(events);
    let gateway = Gateway::start(&upstream);
    let client = client();
    world().block_on(async {
        let call = client.post(gateway.url("/v1/chat/completions")).bearer_auth("k").body(STREAM);
        let mut answer = call.send().await.unwrap();
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        assert_eq!(answer.chunk().await.unwrap().unwrap(), delta("One"));
        heard.add_permits(1);
        assert_eq!(answer.chunk().await.unwrap().unwrap(), delta(" two"));
    });
    eventually("the call upstream ends", || upstream.cancelled() == 1);
}

#[test]
fn a_stream_over_http2_that_dies_ends_with_an_error_event() {
    let upstream = Upstream::always(Answer::events().chunk(delta("One")).chunk("data: {").close());
    let gateway = Gateway::start(&upstream);
    let text = world().block_on(async {
        let call = client().post(gateway.url("/v1/chat/completions")).bearer_auth("k").body(STREAM);
        call.send().await.unwrap().text().await.unwrap()
    });
    let end = text.strip_prefix(&delta("One")).unwrap();
    assert!(end.starts_with("data: {\"error\":") && end.ends_with("\n\n"), "{end}");
    assert!(!end.contains(DONE));
}

#[test]
fn a_download_over_http2_that_is_cut_does_not_pass_for_a_whole_one() {
    let upstream = Upstream::always(Answer::chunked(200, "").chunk("half").close());
    let gateway = Gateway::start(&upstream);
    let body = world().block_on(async {
        let call = client().get(gateway.url("/v1/files/f/content")).bearer_auth("k");
        // The end may come before the beginning has left: that is an error as well.
        call.send().await?.text().await
    });
    assert!(body.is_err(), "{body:?}");
}

#[test]
fn refusals_over_http2_have_openais_shape() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let (status, body) = world().block_on(async {
        let call = client().post(gateway.url("/v1/chat/completions")).body("{}");
        let answer = call.send().await.unwrap();
        (answer.status(), answer.json::<serde_json::Value>().await.unwrap())
    });
    assert_eq!((status.as_u16(), &body["error"]["code"]), (401, &"invalid_api_key".into()));
}
