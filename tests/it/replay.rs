//! Replay: the policy in force decides its own calls again as it did, and another one's cost is told.

use serde_json::Value;
use serde_json::json;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

/// A rule of each kind.
const RICH: &str = r#"
models:
  small: { price: { input: 1, output: 2 }, context: 8000, quality: 0.5 }
  large: { price: { input: 10, output: 20 }, context: 100000, quality: 0.9 }
routes:
  - { name: no, when: 'tag["app"] == "banned"', reject: { message: not here } }
  - { name: night, when: 'header["x-shift"] == "night"', use: small }
  - { name: gold, when: 'request.metadata["plan"] == "gold"', use: large }
  - { name: important, when: importance == "high", use: large, fallback: [small] }
  - { name: pictures, when: request.images > 0, use: large }
  - { name: tooled, when: request.tools > 1 || request.json_schema, use: large }
  - { name: long, when: tokens.prompt > 300, use: large }
  - { name: wordy, when: request.max_tokens > 999, use: large }
  - { name: by-user, when: 'request.model == "split-user"', split: { small: 50, large: 50 }, sticky: user }
  - { name: by-session, when: 'request.model == "split-session"', split: { small: 50, large: 50 }, sticky: session }
  - { name: by-chance, when: 'request.model == "split"', split: { small: 50, large: 50 } }
  - { name: cheap, when: 'request.model == "cheap"', cheapest: { of: [small, large], min_quality: 0.6 } }
  - { name: fast, when: 'request.model == "fast"', fastest: { of: [small, large] } }
  - { name: busy, when: 'request.model == "busy" && model["small"].in_flight < 1000 && model["large"].p95_ms >= 0.0', use: small }
"#;

fn send(gateway: &Gateway, headers: &str, body: &Value) {
    let answer = exchange(gateway, post_with("/v1/chat/completions", headers, body.to_string()));
    assert!(matches!(answer.status, 200 | 403), "{}", answer.text());
}

/// Calls that every rule is met by; returns how many.
fn load(gateway: &Gateway) -> u64 {
    let mut sent = 0;
    let mut go = |headers: &str, more: Value| {
        let mut body = json!({"model": "small", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        send(gateway, headers, &body);
        sent += 1;
    };
    go("", json!({}));
    go("x-weir-tag-app: banned\r\n", json!({}));
    go("x-shift: night\r\n", json!({"model": "large"}));
    go("", json!({"metadata": {"plan": "gold", "note": "not for the record"}}));
    go("x-weir-importance: high\r\n", json!({}));
    let picture = json!([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]);
    go("", json!({"messages": [{"role": "user", "content": picture}]}));
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
    go("", json!({"tools": [tool, tool]}));
    go("", json!({"tools": [tool]}));
    go("", json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}));
    for words in [100, 290, 310, 2000, 30_000] {
        go("", json!({"messages": [{"role": "user", "content": "word ".repeat(words)}]}));
    }
    // Long, and no rule that is reached asks how it is built.
    go(
        "x-shift: night\r\n",
        json!({"messages": [{"role": "user", "content": "word ".repeat(4000)}]}),
    );
    go("", json!({"max_tokens": 1000}));
    go("", json!({"stream": false, "max_completion_tokens": 50, "service_tier": "default"}));
    for n in 0..6 {
        go("", json!({"model": "split-user", "user": format!("user-{n}")}));
        go(&format!("x-weir-session: s-{n}\r\n"), json!({"model": "split-session"}));
        go("", json!({"model": "split"}));
    }
    for model in ["cheap", "fast", "busy", "unheard-of"] {
        go("", json!({"model": model}));
    }
    sent
}

fn replay(gateway: &Gateway, more: &[&str]) -> (Option<i32>, Value, String) {
    let arguments = [&["policy", "replay", "--json"], more].concat();
    let (code, out, error) = weir(gateway.folder(), &arguments, "");
    (code, serde_json::from_str(&out).unwrap_or_default(), error)
}

#[test]
fn the_policy_in_force_decides_its_own_calls_alike_on_both_stores() {
    let server = Postgres::start();
    for store in [None, Some(server.create("replay"))] {
        let upstream = Upstream::always(Answer::chat());
        let config = store.map(|url| format!("store: {url}")).unwrap_or_default();
        let gateway = Gateway::builder(&upstream).policy(RICH).config(&config).start();
        let sent = load(&gateway);
        eventually("all are stored", || gateway.records("stored") == sent);
        let (code, report, error) = replay(&gateway, &["--since", "1h"]);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        let total = &report["total"];
        assert_eq!(
            (&total["requests"], &total["changed"]),
            (&json!(sent), &json!(0)),
            "{report:#}"
        );
        assert_eq!((&report["own"], &report["reproduced"]), (&json!(sent), &json!(sent)));
        assert_eq!((&report["approximate"], &report["skipped"]), (&json!(0), &json!(0)));
        assert_eq!(total["refused"], 1);
        assert_eq!(total["recorded_cost_usd"], total["projected_cost_usd"]);
        assert_eq!(total["difference_usd"], "0");
        let spend = crate::support::http::get(gateway.control(), "/api/spend").unwrap().json();
        assert_eq!(total["recorded_cost_usd"], spend["data"][0]["cost_usd"]);
        let facts = "select count(*) from interactions where facts like '%not for the record%'";
        let store = config.strip_prefix("store: ").map_or(gateway.store(), str::to_owned);
        let facts = facts.replace("facts like", "cast(facts as text) like");
        assert_eq!(rows(&store, &facts).unwrap(), [["0"]]);
    }
}

#[test]
fn what_records_do_not_keep_is_decided_alike_all_the_same() {
    let upstream = Upstream::always(Answer::chat());
    let policy = r#"
models:
  small: { price: { input: 1, output: 2 } }
  large: { price: { input: 10, output: 20 } }
routes:
  - { name: staff, when: 'request.user.startsWith("staff-")', use: large }
  - { name: keyed, when: 'header["x-api-key"] == "sk-of-a-partner"', use: large }
  - { name: important, when: importance == "high", use: large }
  - { name: rest, when: 'true', use: small }
"#;
    let gateway = Gateway::builder(&upstream).policy(policy).start();
    let small = json!({"model": "small", "messages": []});
    for user in ["staff-1", "guest-1"] {
        send(&gateway, "", &json!({"model": "small", "messages": [], "user": user}));
    }
    send(&gateway, "x-api-key: sk-of-a-partner\r\n", &small);
    // Of this one the record keeps nothing that a rule could ask for.
    send(&gateway, "x-weir-importance: high\r\nx-weir-capture: off\r\n", &small);
    eventually("all are stored", || gateway.records("stored") == 4);
    let (code, report, _) = replay(&gateway, &[]);
    assert_eq!(code, Some(0));
    let total = &report["total"];
    assert_eq!((&total["requests"], &total["changed"]), (&json!(4), &json!(0)), "{report:#}");
    // Three at the large one and one at the small: 3 x 150 + 15 millionths.
    assert_eq!(total["recorded_cost_usd"], "0.000465");
    assert_eq!(total["difference_usd"], "0");
    assert_eq!((&report["own"], &report["reproduced"]), (&json!(3), &json!(3)));
    assert_eq!(report["approximate"], 1);
    let names = "select count(*) from interactions where facts like '%staff-%' \
                 or facts like '%guest-%' or facts like '%sk-of-a-partner%'";
    assert_eq!(rows(&gateway.store(), names).unwrap(), [["0"]]);
}

#[test]
fn every_call_is_replayed_once_and_a_page_that_cannot_be_read_is_not_the_end() {
    let server = Postgres::start();
    for store in [None, Some(server.create("pages"))] {
        let upstream = Upstream::always(Answer::chat());
        let config = store.map(|url| format!("store: {url}")).unwrap_or_default();
        let gateway = Gateway::builder(&upstream).policy(RICH).config(&config).start();
        send(&gateway, "", &json!({"model": "small", "messages": []}));
        eventually("it is stored", || gateway.records("stored") == 1);
        let store = config.strip_prefix("store: ").map_or(gateway.store(), str::to_owned);
        copy(&store, 1_199);
        // 9 tokens in and 3 out at 1 and 2: 15 millionths; 1200 x 15 = 18000 millionths.
        let (_, report, _) = replay(&gateway, &[]);
        assert_eq!(report["total"]["recorded_cost_usd"], "0.018", "{report:#}");
        assert_eq!((&report["own"], &report["reproduced"]), (&json!(1200), &json!(1200)));
        // More than a page, from the first on.
        let first = "select id from interactions order by id limit 600";
        rows(&store, &format!("update interactions set rates = '[]' where id in ({first})"))
            .unwrap();
        let (code, report, _) = replay(&gateway, &[]);
        assert_eq!((code, &report["total"]["requests"]), (Some(0), &json!(600)), "{report:#}");
        assert_eq!(report["skipped"], 600);
    }
}

/// Copies the one call so many times, each under an id that comes after its own.
fn copy(store: &str, times: u32) {
    let (numbers, id) = match store.starts_with("sqlite") {
        true => (
            format!("recursive n(i) as (select 1 union all select i + 1 from n limit {times})"),
            "substr(id, 1, 24) || printf('f%011d', i)",
        ),
        false => (
            format!("n(i) as (select generate_series(1, {times}))"),
            "cast(substr(cast(id as text), 1, 24) || 'f' || lpad(cast(i as text), 11, '0') as uuid)",
        ),
    };
    let columns = "created_at, key_name, tags, endpoint, route, policy_version, requested_model, \
                   model, upstream_model, streamed, status_code, client_left, attempts, \
                   latency_ms, usage_source, input_tokens, cached_input_tokens, \
                   cached_audio_input_tokens, cached_image_input_tokens, cache_write_tokens, \
                   audio_input_tokens, image_input_tokens, output_tokens, reasoning_tokens, \
                   audio_output_tokens, image_output_tokens, rates, cost_picodollars, \
                   price_status, facts";
    let copies = format!("select {id}, {columns} from interactions, n");
    rows(store, &format!("with {numbers} insert into interactions (id, {columns}) {copies}"))
        .unwrap();
}

#[test]
fn a_body_that_is_no_question_gets_an_error_like_all_others() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).policy("routes: []").start();
    for body in ["{", r#"{"sinse":"1h"}"#, r#"{"since":1}"#] {
        let mut control = Raw::connect(gateway.control());
        let answer = control.send(post_with("/api/policies/replay", "", body)).response().unwrap();
        answer.assert_error(400, "invalid_request_error", "invalid_json");
    }
}

#[test]
fn another_policy_is_told_with_what_it_would_cost() {
    let upstream = Upstream::always(Answer::chat());
    let small = "models:\n  small: { price: { input: 1, output: 2 } }\n  \
                 large: { price: { input: 10, output: 20 } }\n";
    let rules = "routes: [{ name: all, when: 'true', use: small }]";
    let gateway = Gateway::builder(&upstream).policy(&format!("{small}{rules}")).start();
    for n in 0..30 {
        let headers = if n < 10 { "x-weir-importance: high\r\n" } else { "" };
        send(&gateway, headers, &json!({"model": "auto", "messages": []}));
    }
    eventually("all are stored", || gateway.records("stored") == 30);
    let other = gateway.folder().join("other");
    std::fs::create_dir(&other).unwrap();
    let base = std::fs::read_to_string(gateway.folder().join("policies/main.yaml")).unwrap();
    let dearer = "routes:\n  - { name: top, when: importance == \"high\", use: large }\n  \
                  - { name: rest, when: 'true', use: small }";
    std::fs::write(other.join("main.yaml"), base.replace(rules, dearer)).unwrap();
    let (code, report, _) = replay(&gateway, &["--policies", "other"]);
    assert_eq!(code, Some(0));
    let [line] = &report["lines"].as_array().unwrap()[..] else { panic!("{report:#}") };
    assert_eq!((&line["route"], &line["model"]), (&json!("all"), &json!("small")));
    assert_eq!((&line["requests"], &line["changed"]), (&json!(30), &json!(10)));
    assert_eq!(line["to"], json!({"top: large": 10, "rest: small": 20}));
    // 9 tokens in and 3 out: 15 millionths at the small one, 150 at the large one.
    // 30 x 15 = 450; 20 x 15 + 10 x 150 = 1800.
    assert_eq!(line["recorded_cost_usd"], "0.00045");
    assert_eq!(line["projected_cost_usd"], "0.0018");
    assert_eq!(line["difference_usd"], "0.00135");
    assert_eq!(line["without_history"], 10, "the large one has never answered");
    assert_eq!((&report["own"], &report["total"]["unpriced"]), (&json!(0), &json!(0)));
    // 300 % more.
    let (code, _, error) =
        replay(&gateway, &["--policies", "other", "--fail-if-cost-rises", "299%"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("rises by 300.0 %, from 0.00045 to 0.0018 USD"), "{error}");
    let (code, _, _) = replay(&gateway, &["--policies", "other", "--fail-if-cost-rises", "300"]);
    assert_eq!(code, Some(0));
    let (code, out, _) = weir(gateway.folder(), &["policy", "replay", "--policies", "other"], "");
    assert_eq!(code, Some(0));
    assert!(out.contains("rest: small (20), top: large (10)"), "{out}");
    let (code, _, error) = replay(&gateway, &["--since", "yesterday"]);
    assert!(code == Some(1) && error.contains("24h"), "{error}");
    // The same over the control plane.
    let ask = |body: Value| {
        let mut control = Raw::connect(gateway.control());
        control.send(post_with("/api/policies/replay", "", body.to_string())).response().unwrap()
    };
    let files = json!({"main.yaml": base.replace(rules, dearer)});
    let answer = ask(json!({"since": "1h", "files": files}));
    assert_eq!(answer.json()["total"], report["total"], "{}", answer.text());
    let in_force = ask(json!({})).json();
    assert_eq!((&in_force["reproduced"], &in_force["own"]), (&json!(30), &json!(30)));
    let broken = ask(json!({"files": {"main.yaml": "routes: [{ name: x, use: nobody }]"}}));
    broken.assert_error(400, "invalid_request_error", "invalid_policy");
    assert!(broken.text().contains("nobody"), "{}", broken.text());
    ask(json!({"since": "never"})).assert_error(400, "invalid_request_error", "invalid_parameter");
}

#[test]
fn a_band_says_what_the_other_models_own_answers_cost() {
    let chat = |output: u64| {
        let answer = json!({"id": "c", "choices": [{"message": {"content": "x"}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": output}});
        Answer::json(200, answer.to_string())
    };
    // The large model writes 100 tokens, the small one 10.
    let mut answers = vec![chat(100); 20];
    answers.extend(vec![chat(10); 5]);
    let upstream = Upstream::script(answers);
    let policy = "models:\n  small: { price: { input: 0, output: 1 } }\n  \
                  large: { price: { input: 0, output: 2 } }\n\
                  routes: [{ name: asked, when: request.model == \"small\", use: small }]";
    let gateway = Gateway::builder(&upstream).policy(policy).start();
    for n in 0..25 {
        let model = if n < 20 { "large" } else { "small" };
        send(&gateway, "", &json!({"model": model, "messages": []}));
    }
    eventually("all are stored", || gateway.records("stored") == 25);
    let main = gateway.folder().join("policies/main.yaml");
    let text = std::fs::read_to_string(&main).unwrap().replace("use: small", "use: large");
    let other = gateway.folder().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("main.yaml"), text).unwrap();
    let (_, report, _) = replay(&gateway, &["--policies", "other"]);
    let line = report["lines"].as_array().unwrap().iter().find(|line| line["route"] == "asked");
    let line = line.unwrap();
    // 5 x 10 x 2 millionths with the tokens that are recorded.
    assert_eq!(line["projected_cost_usd"], "0.0001");
    // The large one's classes of 5 % put 100 tokens at 1.05^95 - 1 = 102: 5 x 102 x 2 millionths.
    assert_eq!(
        (&line["projected_low_usd"], &line["projected_high_usd"]),
        (&json!("0.00102"), &json!("0.00102"))
    );
    assert_eq!(line["without_history"], 0);
}

#[test]
fn calls_without_rules_are_replayed_by_their_bodies() {
    let upstream = Upstream::always(Answer::chat());
    let models = "models:\n  small: { price: { input: 1, output: 2 } }\n  \
                  large: { price: { input: 10, output: 20 } }\n";
    let gateway = Gateway::builder(&upstream).policy(models).start();
    let picture = json!([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]);
    send(
        &gateway,
        "",
        &json!({"model": "small", "messages": [{"role": "user", "content": picture}]}),
    );
    send(&gateway, "", &json!({"model": "small", "messages": []}));
    send(&gateway, "x-weir-capture: metadata\r\n", &json!({"model": "small", "messages": []}));
    eventually("all are stored", || gateway.records("stored") == 3);
    let other = gateway.folder().join("other");
    std::fs::create_dir(&other).unwrap();
    let base = std::fs::read_to_string(gateway.folder().join("policies/main.yaml")).unwrap();
    let rules = "routes: [{ name: seeing, when: request.images > 0, use: large }]";
    std::fs::write(other.join("main.yaml"), format!("{base}{rules}")).unwrap();
    let (_, report, _) = replay(&gateway, &["--policies", "other"]);
    assert_eq!((&report["total"]["requests"], &report["total"]["changed"]), (&json!(3), &json!(1)));
    assert_eq!(report["approximate"], 3, "{report:#}");
}
