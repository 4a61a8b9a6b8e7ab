//! The world around a gateway under test: scripted providers, the real process, clients.

pub(crate) mod answer;
pub(crate) mod cli;
pub(crate) mod collector;
pub(crate) mod embeddings;
pub(crate) mod firecrawl;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod library;
pub(crate) mod metrics;
pub(crate) mod minilm;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod rows;
pub(crate) mod s3;
pub(crate) mod tls;
pub(crate) mod upstream;

use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use tokio::runtime::Runtime;

pub(crate) use answer::Answer;
pub(crate) use gateway::Gateway;
pub(crate) use http::Raw;
pub(crate) use upstream::Upstream;

use gateway::PATIENCE;

/// What providers live on: a runtime that no test can block.
pub(crate) fn world() -> &'static Runtime {
    static WORLD: OnceLock<Runtime> = OnceLock::new();
    WORLD.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends one chat request on a connection of its own.
#[track_caller]
pub(crate) fn chat(gateway: &Gateway, body: &str) -> http::Response {
    call(gateway, "/v1/chat/completions", body)
}

/// Posts JSON on a connection of its own.
#[track_caller]
pub(crate) fn call(gateway: &Gateway, path: &str, body: &str) -> http::Response {
    exchange(gateway, http::post(path, body))
}

/// Sends these bytes on a connection of its own and reads one answer.
#[track_caller]
pub(crate) fn exchange(gateway: &Gateway, request: impl AsRef<[u8]>) -> http::Response {
    match Raw::connect(gateway.data()).send(request).response() {
        Ok(response) => response,
        Err(cut) => panic!("no answer: {:?}", String::from_utf8_lossy(&cut.bytes)),
    }
}

/// A stream's recorded bytes.
pub(crate) fn recorded(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/streams/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}
