//! Words of users and keys of callers: where they are, and where they must never be.

use serde_json::Value;
use serde_json::json;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::collector::Collector;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::get;

/// What a user says, what a model says, what a provider says when it refuses.
const ASKED: &str = "canary-asked-7f3a";
const SAID: &str = "canary-said-91bc";
const REFUSED: &str = "canary-refused-55de";
/// Keys of a caller, in each place where one may be.
const KEY: &str = "sk-canarykey00112233445566778899aabbccddeeff";
const OWN_KEY: &str = "sk-canaryown00112233445566778899aabbccddeeff";
const QUERY: &str = "canary-query-3c3c";
/// What the collector of traces wants for a password.
const TOKEN: &str = "canary-token-77aa";

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path}?q={QUERY} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {KEY}\r\n\
         api-key: {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn answers() -> Vec<Answer> {
    let chat = json!({"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4.1-mini",
        "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": SAID}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
    .to_string();
    let event = json!({"id": "chatcmpl-2", "choices": [{"index": 0, "delta": {"content": SAID}}]});
    let refusal =
        json!({"error": {"message": REFUSED, "type": "invalid_request_error"}}).to_string();
    vec![
        Answer::json(200, &chat),
        Answer::stream(format!("data: {event}\n\ndata: [DONE]\n\n")),
        // A stream that dies, one that says nonsense, an answer that is no JSON.
        Answer::events().chunk(format!("data: {event}\n\n")).close(),
        Answer::stream(format!("data: {{{SAID}\n\n")),
        Answer::json(200, format!("{{\"{SAID}")),
        Answer::json(400, &refusal),
        Answer::json(500, &refusal),
        Answer::json(500, &refusal),
        Answer::json(500, &refusal),
    ]
}

#[test]
fn no_word_of_users_and_no_key_is_in_logs_metrics_traces_or_errors() {
    let mut script = answers();
    script.extend(vec![Answer::json(200, format!("{{\"text\":\"{SAID}\"}}")); 12]);
    let upstream = Upstream::script(script);
    let collector = Collector::http();
    let traces = format!(
        "traces: {{ endpoint: \"{}\", headers: {{ x-token: {TOKEN} }} }}",
        collector.endpoint()
    );
    let gateway = Gateway::builder(&upstream)
        .config(&traces)
        .upstream("api_key", OWN_KEY)
        .policy(
            r#"routes:
  - { name: no, when: 'request.model == "forbidden"', reject: { message: not here } }
  - { name: long, when: tokens.prompt > 100000, use: gpt-4.1 }"#,
        )
        .config("log: { level: trace }")
        .start();
    let message = json!([{"role": "user", "content": ASKED}]);
    let chat = |more: Value| {
        let mut body = json!({"model": "gpt-4.1-mini", "messages": message, "user": ASKED});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let send = |path: &str, body: &str| exchange(&gateway, post(path, body.as_bytes()));
    let mut shown = String::new();
    send("/v1/chat/completions", &chat(json!({})));
    for _ in 0..3 {
        let raw = post("/v1/chat/completions", chat(json!({"stream": true})).as_bytes());
        // The one that dies ends without its end.
        let _ = crate::support::Raw::connect(gateway.data()).send(raw).response();
    }
    for _ in 0..3 {
        send("/v1/chat/completions", &chat(json!({})));
    }
    for (path, body) in [
        ("/v1/responses", json!({"model": "gpt-5", "input": ASKED}).to_string()),
        ("/v1/completions", json!({"model": "davinci-002", "prompt": ASKED}).to_string()),
        ("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": ASKED}).to_string()),
        ("/v1/moderations", json!({"input": ASKED}).to_string()),
        ("/v1/images/generations", json!({"prompt": ASKED}).to_string()),
        ("/v1/something/new", ASKED.to_owned()),
        ("/v1/files", format!("--x\r\n{ASKED}")),
    ] {
        send(path, &body);
    }
    // What the gateway refuses itself must not repeat it either.
    for (path, body) in [
        ("/v1/chat/completions", format!("{{\"model\":\"m\",\"{ASKED}\":")),
        ("/v1/chat/completions", ASKED.to_owned()),
        ("/v1/chat/completions", json!({"model": [ASKED]}).to_string()),
        ("/v1/chat/completions", json!({"messages": message}).to_string()),
        ("/v1/chat/completions", chat(json!({"model": "forbidden"}))),
        ("/nowhere", ASKED.to_owned()),
        ("/api/feedback", format!("{{\"id\":\"x\",\"name\":\"n\",\"value\":[\"{ASKED}\"]}}")),
    ] {
        let answer = send(path, &body);
        assert!(answer.status >= 400, "{path} {body}");
        shown.push_str(&answer.text());
    }
    eventually("all are recorded", || {
        gateway.metric("weir_in_flight_requests", &[]) < 0.5 && gateway.records("stored") > 15
    });
    for path in ["/metrics", "/api/policies", "/api/spend?group_by=user", "/readyz", "/api/models"]
    {
        shown.push_str(&get(gateway.control(), path).unwrap().text());
    }
    shown.push_str(&gateway.log());
    // Every call has left its span, and every span is on its way as text.
    eventually("traces are exported", || {
        let servers = collector.spans().iter().filter(|span| span.kind == "SERVER").count();
        servers == gateway.log().matches("INFO request").count()
    });
    for export in collector.exports() {
        shown.push_str(&String::from_utf8_lossy(&export.body));
        shown.push('\n');
    }
    for canary in [ASKED, SAID, REFUSED, KEY, OWN_KEY, QUERY, TOKEN] {
        let line = shown.lines().find(|line| line.contains(canary));
        assert_eq!(line, None, "{canary}");
    }
    // The test can tell: what was said is in the store, and in no list.
    let page = get(gateway.control(), "/api/interactions?limit=100").unwrap().text();
    assert!(!page.contains(ASKED) && !page.contains(KEY), "{page}");
    let found = get(gateway.control(), &format!("/api/interactions?q={ASKED}&limit=100")).unwrap();
    assert!(found.json()["data"].as_array().unwrap().len() >= 8, "{}", found.text());
}
