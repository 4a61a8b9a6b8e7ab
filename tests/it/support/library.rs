//! What tests of documents do again and again: sources, their runs, searches.

use serde_json::Value;
use serde_json::json;

use super::Gateway;
use super::Raw;
use super::eventually;
use super::firecrawl::Firecrawl;
use super::firecrawl::Site;
use super::gateway::Builder;
use super::http::Response;
use super::http::get;
use super::http::post;

pub(crate) fn control(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    Raw::connect(gateway.control()).send(request).response().unwrap()
}

pub(crate) fn send(gateway: &Gateway, path: &str, body: &Value) -> Response {
    control(gateway, post(path, body.to_string()))
}

pub(crate) fn read(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.control(), path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

pub(crate) fn simulated() -> Builder {
    Gateway::before("http://127.0.0.1:1/v1").argument("--simulate")
}

/// The last run of a source, once it has ended.
pub(crate) fn ended(gateway: &Gateway, source: &str, runs: usize) -> Value {
    let path = format!("/api/embeddings/sources/{source}/runs");
    let mut all = Value::Null;
    eventually("the run has ended", || {
        all = read(gateway, &path)["data"].clone();
        let of = all.as_array().unwrap();
        of.len() == runs && of[0]["finished_at"].is_string()
    });
    all[0].clone()
}

pub(crate) fn search(gateway: &Gateway, query: &str) -> Value {
    let answer = send(gateway, "/api/search", &json!({"query": query, "source": "docs"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

pub(crate) fn crawled(site: Site) -> (Gateway, Firecrawl) {
    let of = json!({"name": "docs", "kind": "crawl", "url": "http://127.0.0.10:8099/", "deadline_s": 20});
    fetched(site, &of)
}

/// A gateway before a site, with a source of it.
pub(crate) fn fetched(site: Site, source: &Value) -> (Gateway, Firecrawl) {
    let firecrawl = Firecrawl::of(site);
    let gateway = simulated().config(&firecrawl.config()).start();
    let made = send(&gateway, "/api/embeddings/sources", source);
    assert_eq!(made.status, 201, "{}", made.text());
    (gateway, firecrawl)
}

pub(crate) fn refresh(gateway: &Gateway, runs: usize) -> Value {
    assert_eq!(send(gateway, "/api/embeddings/sources/docs/refresh", &json!({})).status, 202);
    ended(gateway, "docs", runs)
}
