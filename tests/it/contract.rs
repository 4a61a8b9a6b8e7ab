//! What holds for all routes of the control plane: the shape of lists and errors, the description,
//! the console.

use serde_json::Value;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::http::Response;
use crate::support::http::get;

/// All that the contract names, by method.
const ROUTES: [(&str, &[&str]); 5] = [
    (
        "get",
        &[
            "/",
            "/healthz",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/api/policies",
            "/api/keys",
            "/api/limits",
            "/api/spend",
            "/api/interactions",
            "/api/interactions/{id}",
            "/api/datasets",
            "/api/datasets/{id}",
            "/api/datasets/{id}/export",
            "/api/fine-tune-status",
            "/api/fine-tune-status/stream",
            "/api/fine-tune/{id}/events",
            "/api/fine-tune/{id}/checkpoints",
            "/api/aliases",
            "/api/aliases/{name}",
            "/api/embeddings/sources",
            "/api/embeddings/sources/{id}/runs",
            "/api/embeddings/documents",
            "/api/webhooks",
            "/api/webhooks/{id}/deliveries",
        ],
    ),
    (
        "post",
        &[
            "/api/policies/validate",
            "/api/policies/replay",
            "/api/route/explain",
            "/api/keys",
            "/api/keys/{id}/rotate",
            "/api/feedback",
            "/api/datasets",
            "/api/datasets/{id}/preview",
            "/api/datasets/{id}/publish",
            "/api/fine-tune",
            "/api/fine-tune/{id}/approve",
            "/api/fine-tune/{id}/cancel",
            "/api/fine-tune/{id}/pause",
            "/api/fine-tune/{id}/resume",
            "/api/fine-tune/{id}/retry",
            "/api/fine-tune/{id}/promote",
            "/api/aliases/{name}/rollback",
            "/api/embeddings/sources",
            "/api/embeddings/sources/{id}/refresh",
            "/api/embeddings/indexes/{alias}/reindex",
            "/api/embeddings/indexes/{alias}/rollback",
            "/api/search",
            "/api/webhooks",
            "/api/webhooks/{id}/test",
            "/api/webhooks/{id}/redeliver",
            "/hooks/openai",
            "/hooks/firecrawl/{source_id}",
        ],
    ),
    (
        "delete",
        &[
            "/api/keys/{id}",
            "/api/interactions",
            "/api/datasets/{id}",
            "/api/embeddings/sources/{id}",
            "/api/webhooks/{id}",
        ],
    ),
    ("patch", &["/api/embeddings/sources/{id}"]),
    ("put", &[]),
];
/// Lists that are there without anything made before.
const LISTS: [&str; 11] = [
    "/api/keys",
    "/api/limits",
    "/api/spend",
    "/api/interactions",
    "/api/datasets",
    "/api/fine-tune-status",
    "/api/aliases",
    "/api/embeddings/sources",
    "/api/embeddings/documents",
    "/api/webhooks",
    "/api/models",
];

fn gateway() -> (Upstream, Gateway) {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    (upstream, gateway)
}

fn ask(gateway: &Gateway, method: &str, target: &str, headers: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n");
    let mut raw = Raw::connect(gateway.control());
    raw.send(format!("{head}connection: close\r\n{headers}\r\n{body}"));
    raw.response().unwrap()
}

fn described(gateway: &Gateway) -> Value {
    get(gateway.control(), "/openapi.json").unwrap().json()
}

#[test]
fn every_route_of_the_contract_is_described() {
    let (_upstream, gateway) = gateway();
    let described = described(&gateway);
    for (method, paths) in ROUTES {
        for path in paths {
            let operation = &described["paths"][path][method];
            assert!(operation["responses"].is_object(), "{method} {path}");
        }
    }
}

#[test]
fn what_may_be_answered_is_described() {
    let (_upstream, gateway) = gateway();
    let described = described(&gateway);
    let error = &described["components"]["schemas"]["Error"]["properties"]["error"];
    assert_eq!(error["required"], serde_json::json!(["code", "message", "param", "type"]));
    for (path, item) in described["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                let shape = &response["content"]["application/json"]["schema"];
                let told = status.starts_with(['2', '3']) || shape.is_object();
                assert!(told, "{method} {path}: {status} has no shape");
            }
            if path.starts_with("/api/") {
                assert!(responses.contains_key("401"), "{method} {path}");
                assert!(operation["security"][0]["admin_token"].is_array(), "{method} {path}");
                let named = |name: &str| {
                    let parameters = operation["parameters"].as_array().into_iter().flatten();
                    parameters.into_iter().any(|parameter| parameter["name"] == name)
                };
                assert!(method != "post" || named("Idempotency-Key"), "{method} {path}");
                let listed = named("after") || named("limit") || named("order");
                let pages = named("after") && named("limit") && named("order");
                assert!(!listed || pages, "{method} {path} takes some of after, limit, order");
            }
        }
    }
}

#[test]
fn every_list_has_one_shape_and_is_asked_for_in_one_way() {
    let (_upstream, gateway) = gateway();
    for path in LISTS {
        let ask = |query: &str| get(gateway.control(), &format!("{path}?{query}")).unwrap();
        for query in ["", "limit=1", "order=asc", "order=desc", "limit=1&order=asc"] {
            let page = ask(query);
            assert_eq!(page.status, 200, "{path}?{query}: {}", page.text());
            let page = page.json();
            let data = page["data"].as_array().unwrap();
            let end = |at: Option<&Value>| at.map_or(Value::Null, |one| one["id"].clone());
            assert_eq!(page["object"], "list", "{path}");
            assert_eq!(page["first_id"], end(data.first()), "{path}");
            assert_eq!(page["last_id"], end(data.last()), "{path}");
            assert!(page["has_more"].is_boolean(), "{path}");
        }
        for (query, param) in [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order")] {
            let refused = ask(query);
            refused.assert_error(400, "invalid_request_error", "invalid_parameter");
            assert_eq!(refused.json()["error"]["param"], param, "{path}?{query}");
        }
    }
}

#[test]
fn pages_of_sources_come_in_either_order_and_end() {
    let (_upstream, gateway) = gateway();
    for name in ["b", "a", "c"] {
        let body = format!(r#"{{"name":"{name}","kind":"files"}}"#);
        let made = ask(&gateway, "POST", "/api/embeddings/sources", "", &body);
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let walk = |order: &str| {
        let (mut names, mut after) = (String::new(), String::new());
        loop {
            let target = format!("/api/embeddings/sources?limit=2&order={order}{after}");
            let page = get(gateway.control(), &target).unwrap().json();
            for source in page["data"].as_array().unwrap() {
                names.push_str(source["name"].as_str().unwrap());
            }
            if page["has_more"] == false {
                return names;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
    };
    assert_eq!((walk("asc").as_str(), walk("desc").as_str()), ("abc", "cba"));
    let nobody = get(gateway.control(), "/api/embeddings/sources?after=nobody").unwrap();
    nobody.assert_error(400, "invalid_request_error", "invalid_parameter");
}

#[test]
fn whatever_cannot_be_read_is_refused_in_openais_shape() {
    let (_upstream, gateway) = gateway();
    let (json, text) = ("content-type: application/json\r\n", "content-type: text/plain\r\n");
    let cases = [
        ("GET", "/api/keys/%ff", "", "", 405),
        ("DELETE", "/api/keys/%ff", "", "", 400),
        ("GET", "/api/interactions/%ff", "", "", 400),
        ("POST", "/api/embeddings/sources", text, "nonsense", 400),
        ("POST", "/api/embeddings/sources", json, "nonsense", 400),
        ("POST", "/api/embeddings/sources", "", "[]", 400),
        ("PATCH", "/api/embeddings/sources/x", json, "{", 400),
        ("PUT", "/api/keys", json, "{}", 405),
        ("POST", "/", json, "{}", 405),
    ];
    for (method, target, headers, body, status) in cases {
        let answer = ask(&gateway, method, target, headers, body);
        let error = answer.json();
        assert_eq!(answer.status, status, "{method} {target}: {error}");
        assert_eq!(error["error"]["type"], "invalid_request_error", "{method} {target}: {error}");
        let said = error["error"]["message"].as_str().is_some_and(|said| !said.is_empty());
        assert!(said && error["error"]["code"].is_string(), "{method} {target}: {error}");
    }
    // No more than what shows that it is too much: who is still sending may lose the answer.
    let mut raw = Raw::connect(gateway.control());
    raw.send("POST /api/keys HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n");
    raw.send(vec![b'x'; (2 << 20) + 1]);
    raw.response().unwrap().assert_error(413, "invalid_request_error", "request_too_large");
}

#[test]
fn the_console_is_one_page_that_loads_nothing_and_knows_nothing() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).env("WEIR_ADMIN_TOKEN", "t-1").start();
    let page = get(gateway.control(), "/").unwrap();
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let text = page.text();
    assert!(!text.contains("://") && !text.contains("innerHTML"), "nothing from elsewhere");
    let described = described(&gateway);
    let asked = text.split("path: \"").skip(1).filter_map(|rest| rest.split(['?', '"']).next());
    let asked: Vec<&str> = asked.collect();
    assert!(asked.len() > 10, "{asked:?}");
    for path in asked {
        assert!(described["paths"][path]["get"].is_object(), "the console asks for {path}");
    }
}
