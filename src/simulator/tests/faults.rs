//! Knobs: answers that are slow, short, broken or refused.

use std::time::Duration;

use serde_json::{Value, json};

use super::{World, chat, data, with};

const CHAT: &str = "/v1/chat/completions";

fn streamed(text: &str) -> Value {
    with(chat(text), json!({"stream": true}))
}

/// What arrives of a body, and whether it ended as it should.
async fn received(response: reqwest::Response) -> (Vec<u8>, bool) {
    let mut response = response;
    let mut all = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => all.extend_from_slice(&chunk),
            Ok(None) => return (all, true),
            Err(_) => return (all, false),
        }
    }
}

#[tokio::test]
async fn a_header_asks_for_a_rate_limit() {
    let world = World::start().await;
    let request = world.post(CHAT).json(&chat("hi"));
    let response = request.header("x-simulate", "status=429 retry_after=1.5").send().await.unwrap();
    assert_eq!(response.status(), 429);
    let headers = response.headers();
    assert_eq!(
        (&headers["retry-after"], &headers["retry-after-ms"]),
        (&"2".parse().unwrap(), &"1500".parse().unwrap())
    );
    assert_eq!(headers["x-ratelimit-remaining-requests"], "0");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
}

#[tokio::test]
async fn a_directive_fails_the_first_two_requests() {
    let world = World::start().await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = chat("hi [[simulate status=500 fail_first=2]]");
        let response = world.post(CHAT).json(&request).send().await.unwrap();
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses, [500, 500, 200]);
}

#[tokio::test]
async fn a_cut_stream_ends_without_its_end() {
    let world = World::start().await;
    let request = streamed("[[simulate chunks=5 cut=2]]");
    let response = world.post(CHAT).json(&request).send().await.unwrap();
    let (body, whole) = received(response).await;
    assert!(!whole);
    let text = String::from_utf8(body).unwrap();
    // the role and two chunks
    assert_eq!(data(&text).len(), 3);
    assert!(!text.contains("[DONE]"));
}

#[tokio::test]
async fn a_cut_answer_ends_before_its_declared_length() {
    let world = World::start().await;
    let request = chat("[[simulate cut=1]]");
    let response = world.post(CHAT).json(&request).send().await.unwrap();
    let declared = response.content_length().unwrap();
    let (body, whole) = received(response).await;
    assert!(!whole);
    assert_eq!(u64::try_from(body.len()).unwrap(), declared / 2);
}

#[tokio::test]
async fn a_stalled_stream_says_nothing_after_its_chunks() {
    let world = World::start().await;
    let request = streamed("[[simulate chunks=5 stall_after=1]]");
    let mut response = world.post(CHAT).json(&request).send().await.unwrap();
    let mut text = String::new();
    while data_lines(&text) < 2 {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    let more = tokio::time::timeout(Duration::from_millis(50), response.chunk()).await;
    assert!(more.is_err(), "{more:?}");
}

fn data_lines(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("data: ")).count()
}

#[tokio::test]
async fn a_stalled_request_is_never_answered() {
    let world = World::start().await;
    let request = world.post(CHAT).json(&chat("[[simulate stall]]")).send();
    assert!(tokio::time::timeout(Duration::from_millis(50), request).await.is_err());
}

#[tokio::test]
async fn garbage_and_drip_do_not_change_what_is_said() {
    let world = World::start().await;
    let said = |text: &str| -> String {
        let chunks = data(text);
        chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect()
    };
    let plain = world.stream(CHAT, &streamed("[[simulate chunks=6]]")).await;
    let garbled = world.stream(CHAT, &streamed("[[simulate chunks=6 garbage]]")).await;
    assert_eq!(said(&plain), said(&garbled));
    assert!(garbled.contains("\r\n") && garbled.contains(": keep-alive"));
    let dripped = world.ask(CHAT, &chat("[[simulate chunks=6 drip_ms=0]]")).await;
    assert_eq!(dripped["choices"][0]["message"]["content"], said(&plain));
    let request = json!({"model": "gpt-5", "input": "x [[simulate drip_ms=1]]"});
    let response = world.post("/v1/responses/input_tokens").json(&request).send().await.unwrap();
    assert!(received(response).await.1);
}

#[tokio::test]
async fn the_number_of_chunks_and_the_size_are_as_asked() {
    let world = World::start().await;
    let request = streamed("[[simulate chunks=50 bytes=1000 chunk_delay_ms=1 latency_ms=1]]");
    let chunks = data(&world.stream(CHAT, &request).await);
    let said: Vec<&str> =
        chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said.len(), 51); // the role chunk has an empty content
    assert_eq!(said.concat().len(), 1000);
}

#[tokio::test]
async fn usage_can_be_left_out_and_the_answer_compressed() {
    let world = World::with("usage=off gzip=on").await;
    let request = world.post(CHAT).header("accept-encoding", "gzip").json(&chat("hi"));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let zipped = response.bytes().await.unwrap();
    let answer: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&zipped[..])).unwrap();
    assert!(answer.get("usage").is_none());
    assert_eq!(answer["object"], "chat.completion");
}

#[tokio::test]
async fn a_spent_quota_has_its_own_code() {
    let world = World::start().await;
    let request = chat("[[simulate status=429 code=insufficient_quota]]");
    let (status, error) = world.refused(CHAT, &request).await;
    assert_eq!((status, &error["type"]), (429, &json!("insufficient_quota")));
}

#[tokio::test]
async fn a_dropped_connection_carries_no_answer() {
    let world = World::start().await;
    let request = world.post(CHAT).json(&chat("[[simulate drop]]"));
    assert!(request.send().await.is_err());
}

#[tokio::test]
async fn unknown_fields_pass_when_lenient() {
    let world = World::start().await;
    let request = with(chat("hi [[simulate lenient]]"), json!({"top_k": 5}));
    assert_eq!(world.ask(CHAT, &request).await["object"], "chat.completion");
}
