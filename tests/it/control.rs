//! The control plane, and what must never be seen anywhere.

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::delta;
use crate::support::chat;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::get;
use crate::support::http::get_with;
use crate::support::http::post;
use crate::support::postgres::Postgres;

#[test]
fn health_metrics_and_description_need_no_token() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).env("WEIR_ADMIN_TOKEN", "t-1").start();
    assert_eq!(get(gateway.control(), "/healthz").unwrap().json()["status"], "ok");
    assert_eq!(get(gateway.control(), "/readyz").unwrap().json()["status"], "ready");
    let metrics = get(gateway.control(), "/metrics").unwrap();
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let described = get(gateway.control(), "/openapi.json").unwrap().json();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(described["paths"][path]["get"].is_object(), "{path}: {described}");
    }
    let answer = get(gateway.control(), "/v1/models").unwrap();
    answer.assert_error(404, "invalid_request_error", "not_found");
}

#[test]
fn the_documentation_names_every_route_of_the_control_plane() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let described = get(gateway.control(), "/openapi.json").unwrap().json();
    let text = include_str!("../../docs/operating.md");
    let paths = described["paths"].as_object().unwrap().keys();
    let missing: Vec<_> = paths.filter(|path| !text.contains(&format!("`{path}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn health_names_the_work_beside_the_requests_and_what_went_wrong_with_it() {
    let (upstream, server) = (Upstream::always(Answer::chat()), Postgres::start());
    let store = format!("store: {}", server.create("health"));
    let gateway = Gateway::builder(&upstream).config(&store).start();
    let health = || get(gateway.control(), "/healthz").unwrap().json();
    let task = |name: &str| {
        let tasks = health()["tasks"].as_array().unwrap().clone();
        tasks.into_iter().find(|task| task["name"] == name).unwrap_or_default()
    };
    let names = [
        "aliases",
        "canaries",
        "chores",
        "control plane",
        "datasets",
        "documents",
        "events",
        "fine-tune jobs",
        "keys",
        "limits",
        "policies",
        "shutdowns",
        "webhooks",
    ];
    eventually("all run", || names.iter().all(|name| task(name)["running"] == true));
    for name in ["aliases", "documents", "fine-tune jobs", "keys", "policies", "webhooks"] {
        eventually(name, || task(name)["last_success"].is_string());
    }
    assert!(gateway.metric("weir_background_task_up", &[("task", "keys")]) > 0.5);
    server.crash();
    eventually("the store is missed", || task("keys")["last_error"]["message"].is_string());
    let failures = || gateway.metric("weir_background_task_failures_total", &[("task", "keys")]);
    eventually("that is counted", || failures() > 0.5);
    assert_eq!(health()["status"], "ok", "a process that cannot reach its store is not dead");
}

#[test]
fn the_api_wants_its_token() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).env("WEIR_ADMIN_TOKEN", "t-1").start();
    let status = |headers: &str| get_with(gateway.control(), "/api/x", headers).unwrap();
    for headers in ["", "authorization: Bearer t-2\r\n", "authorization: t-1\r\n"] {
        status(headers).assert_error(401, "invalid_request_error", "invalid_api_key");
    }
    status("authorization: Bearer t-1\r\n").assert_error(404, "invalid_request_error", "not_found");
}

#[test]
fn without_a_token_the_api_is_open_on_loopback() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let answer = get(gateway.control(), "/api/x").unwrap();
    answer.assert_error(404, "invalid_request_error", "not_found");
}

#[test]
fn the_metrics_of_the_contract_are_there() {
    let upstream = Upstream::script([
        Answer::chat(),
        Answer::stream(delta("Hi") + DONE),
        Answer::json(400, ""),
    ]);
    let gateway = Gateway::start(&upstream);
    for _ in 0..3 {
        chat(&gateway, r#"{"model":"gpt-4.1-mini"}"#);
    }
    chat(&gateway, r#"{"model":"quote\"back\\slash\nline"}"#);
    let requests = || gateway.metric("weir_requests_total", &[]);
    eventually("all calls are recorded", || requests() > 3.5);
    let text = get(gateway.control(), "/metrics").unwrap().text();
    for name in [
        "gen_ai_client_token_usage_bucket",
        "gen_ai_client_cost_usd_total",
        "gen_ai_server_request_duration_seconds_count",
        "weir_requests_total",
        "weir_overhead_seconds_bucket",
        "weir_attempts_total",
        "weir_policy_info",
        "weir_in_flight_requests",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
}

#[test]
fn keys_and_words_of_people_are_seen_nowhere() {
    let upstream = Upstream::script([
        Answer::chat(),
        Answer::json(500, "{}"),
        Answer::json(401, "{}"),
        Answer::stream(delta("the answer canary-answer") + DONE),
        Answer::events().chunk(delta("canary-answer")).reset(),
        Answer::default().close(),
    ]);
    let gateway = Gateway::builder(&upstream)
        .upstream("api_key", "sk-canary-own")
        .config("log: { level: debug }")
        .start();
    let body = |stream| {
        format!(
            r#"{{"model":"canary-model@example.com","stream":{stream},"user":"canary-user","messages":[{{"role":"user","content":"canary-prompt"}}]}}"#
        )
    };
    let ask = |body: &str| {
        format!(
            "POST /v1/chat/completions?canary-query=1 HTTP/1.1\r\nhost: a\r\n\
             authorization: Bearer sk-canary-caller\r\nx-canary: canary-header\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut errors = String::new();
    for stream in [false, false, true, true, false] {
        let answer = exchange(&gateway, ask(&body(stream)));
        if answer.status >= 400 {
            errors.push_str(&answer.text());
        }
    }
    for broken in [r#"{"model":1,"canary-key":"canary-prompt"}"#, r#"{"canary-prompt"#] {
        errors.push_str(&exchange(&gateway, ask(broken)).text());
    }
    let mut garbage = Raw::connect(gateway.data());
    garbage.send("GET /v1/models HTTP/1.1\r\nauthorization: sk-canary-caller\0\r\n\r\n");
    errors.push_str(&garbage.response().unwrap().text());
    exchange(&gateway, post("/v1/canary-path", body(false)));

    let requests = || gateway.metric("weir_requests_total", &[]);
    eventually("all calls are recorded", || requests() > 7.5);
    let metrics = get(gateway.control(), "/metrics").unwrap().text();
    eventually("all calls are logged", || gateway.log().matches("INFO request").count() >= 8);
    let log = gateway.log();
    let secrets = ["sk-canary", "canary-prompt", "canary-answer", "canary-header", "canary-user"];
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} in the log:\n{log}");
        assert!(!metrics.contains(secret), "{secret} in the metrics:\n{metrics}");
        assert!(!errors.contains(secret), "{secret} in an error:\n{errors}");
    }
    assert!(!log.contains("canary-query"), "queries may hold keys:\n{log}");
    assert!(!metrics.contains("canary"), "labels come from a closed set:\n{metrics}");
}

#[test]
fn a_simulated_provider_needs_no_key_and_no_network() {
    let gateway = Gateway::before("https://api.openai.com/v1").argument("--simulate").start();
    let body = r#"{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hello"}]}"#;
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n";
    let request = format!("{head}content-length: {length}\r\n\r\n{body}");
    let answer = exchange(&gateway, request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["choices"][0]["message"]["content"].is_string());
    assert_eq!(answer.header("x-weir-cost-status"), Some("exact"));
}
