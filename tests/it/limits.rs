//! Limits as clients and operators meet them, on one gateway.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde_json::Value;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::call;
use crate::support::chat;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::gateway::Builder;
use crate::support::http::Response;
use crate::support::http::get;
use crate::support::http::post;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

/// A tenth of a cent an output token, and input for nothing.
pub(crate) const MODELS: &str = "models:
  house: { price: { input: 0, output: 1000 } }
  small: { price: { input: 0, output: 1 } }
";
/// Reserves and costs 10 x 0.001 = 0.01 USD.
pub(crate) const CENT: &str = r#"{"model":"house","messages":[],"max_tokens":10}"#;

/// An answer of ten output tokens.
pub(crate) fn cent() -> Answer {
    Answer::json(
        200,
        r#"{"id":"c","object":"chat.completion","model":"house","choices":[],"usage":{"prompt_tokens":0,"completion_tokens":10,"total_tokens":10}}"#,
    )
}

pub(crate) fn limited(upstream: &Upstream, limits: &str) -> Builder {
    Gateway::builder(upstream).policy(MODELS).policy(&format!("limits:\n{limits}"))
}

/// The lines of `GET /api/limits`.
pub(crate) fn states(gateway: &Gateway) -> Vec<Value> {
    let answer = get(gateway.control(), "/api/limits").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].as_array().unwrap().clone()
}

/// One figure of the only line of that kind.
pub(crate) fn figure(gateway: &Gateway, kind: &str, name: &str) -> Value {
    let lines: Vec<_> = states(gateway).into_iter().filter(|line| line["kind"] == kind).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0][name].clone()
}

fn number(answer: &Response, name: &str) -> u64 {
    let text = answer.header(name).unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    text.parse().unwrap()
}

#[test]
fn of_sixty_four_clients_a_dollar_serves_a_hundred_cents_and_no_more() {
    let upstream = Upstream::always(cent());
    let gateway =
        limited(&upstream, "  - { name: cap, per: global, budget: { usd: 1, every: month } }")
            .start();
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let answer = chat(&gateway, CENT);
                    match answer.status {
                        200 => drop(served.fetch_add(1, Ordering::Relaxed)),
                        _ => answer.assert_error(429, "insufficient_quota", "budget_exceeded"),
                    }
                }
            });
        }
    });
    assert_eq!((served.into_inner(), upstream.count()), (100, 100));
    assert_eq!(figure(&gateway, "budget", "used"), "1");
    assert_eq!(figure(&gateway, "budget", "remaining"), "0");
    let refused = chat(&gateway, CENT);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert!(number(&refused, "retry-after") >= 1);
    let ms = number(&refused, "retry-after-ms");
    assert!(ms.div_ceil(1_000).max(1) == number(&refused, "retry-after"), "{refused:?}");
    eventually("the metric follows", || {
        let text = get(gateway.control(), "/metrics").unwrap().text();
        text.contains("weir_budget_remaining_usd{limit=\"cap\",subject=\"\"} 0\n")
    });
}

#[test]
fn requests_by_the_minute_are_told_in_openais_headers_and_refused_beyond() {
    let theirs = "content-type: application/json\r\nx-ratelimit-remaining-requests: 5000\r\n\
                  x-ratelimit-remaining-tokens: 7\r\nx-ratelimit-limit-tokens: 9\r\n";
    let upstream = Upstream::always(Answer::whole(200, theirs, crate::support::answer::CHAT));
    let limits = "  - { name: slow, per: global, requests: 2/min, tokens: 100000/min }";
    let gateway = limited(&upstream, limits).start();
    let first = chat(&gateway, CENT);
    assert_eq!(number(&first, "x-ratelimit-limit-requests"), 2);
    assert_eq!(number(&first, "x-ratelimit-remaining-requests"), 1);
    assert!(first.header("x-ratelimit-reset-requests").unwrap().ends_with('s'));
    // The provider is tighter here.
    assert_eq!(number(&first, "x-ratelimit-remaining-tokens"), 7);
    assert_eq!(number(&first, "x-ratelimit-limit-tokens"), 9);
    // What is not read counts, too.
    assert_eq!(get(gateway.data(), "/v1/models").unwrap().status, 401, "no key: not counted");
    let models = exchange(
        &gateway,
        "GET /v1/models HTTP/1.1\r\nhost: h\r\nauthorization: Bearer sk-1\r\n\r\n",
    );
    assert_eq!(models.status, 200);
    let refused = chat(&gateway, CENT);
    refused.assert_error(429, "requests", "rate_limit_exceeded");
    assert_eq!(number(&refused, "x-ratelimit-remaining-requests"), 0);
    assert!((1..=65).contains(&number(&refused, "retry-after")));
    assert_eq!(refused.header("x-should-retry"), None, "waiting helps");
    assert_eq!(refused.header("x-weir-route"), Some("default"));
    assert_eq!(upstream.count(), 2);
}

#[test]
fn tokens_are_reserved_before_a_call_and_settled_after_it() {
    let hold = gate();
    let upstream = Upstream::always(Answer::events().chunk(delta("Hello")).wait(&hold).chunk(
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"house\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12}}\n\ndata: [DONE]\n\n",
    ).end());
    let gateway = limited(&upstream, "  - { name: t, per: global, tokens: 1000/min }").start();
    let body = r#"{"model":"house","stream":true,"messages":[],"max_tokens":800}"#;
    let mut client = Raw::connect(gateway.data());
    client.send(post("/v1/chat/completions", body));
    let head = client.any_head().unwrap();
    let reserved = figure(&gateway, "tokens", "reserved").as_u64().unwrap();
    assert!((800..820).contains(&reserved), "800 and the prompt's own: {reserved}");
    assert_eq!(number(&head, "x-ratelimit-remaining-tokens"), 1_000 - reserved);
    chat(&gateway, body).assert_error(429, "tokens", "rate_limit_exceeded");
    hold.add_permits(1);
    while client.chunk().unwrap().is_some() {}
    eventually("it is settled", || figure(&gateway, "tokens", "used") == 12);
    assert_eq!(figure(&gateway, "tokens", "reserved"), 0);
    let huge = chat(&gateway, &body.replace("800", "2000"));
    huge.assert_error(429, "tokens", "rate_limit_exceeded");
    assert_eq!(huge.header("x-should-retry"), Some("false"), "no time will make it fit");
}

#[test]
fn a_call_that_fails_or_whose_client_leaves_gives_back_what_it_held() {
    let upstream = Upstream::with(|turn, _| match turn {
        0 => Answer::json(500, "{}"),
        _ => Answer::default().stall(),
    });
    let limits = "  - { name: l, per: global, concurrent: 1, tokens: 5000/min, requests: 5/min, \
                  budget: { usd: 1, every: day } }";
    let routes = "routes: [{ name: once, attempts: 1 }]";
    let gateway = limited(&upstream, limits).policy(routes).start();
    assert_eq!(chat(&gateway, CENT).status, 500);
    let left = |kind| figure(&gateway, kind, "remaining");
    let nothing_is_held = || {
        left("concurrent") == 1
            && left("requests") == 5
            && left("tokens") == 5_000
            && left("budget") == "1"
    };
    assert!(nothing_is_held(), "{:?}", states(&gateway));
    let mut client = Raw::connect(gateway.data());
    client.send(post("/v1/chat/completions", CENT));
    eventually("it runs", || left("concurrent") == 0);
    assert_eq!(left("budget"), "0.99");
    chat(&gateway, CENT).assert_error(429, "requests", "rate_limit_exceeded");
    client.close();
    // It may have cost its prompt, which is for nothing here, and counts as a request.
    eventually("it is given back", || left("concurrent") == 1 && left("budget") == "1");
    assert_eq!(left("requests"), 4);
}

#[test]
fn a_provider_that_never_answers_leaves_nothing_reserved() {
    let upstream = Upstream::always(Answer::default().stall());
    let limits = "  - { name: l, per: global, budget: { usd: 1, every: day } }";
    let gateway = limited(&upstream, limits)
        .impatient()
        .policy("routes: [{ name: once, attempts: 1 }]")
        .start();
    assert_eq!(chat(&gateway, CENT).status, 504);
    assert_eq!(figure(&gateway, "budget", "remaining"), "1");
}

#[test]
fn a_spent_budget_sends_requests_to_the_cheaper_model() {
    let upstream = Upstream::always(cent());
    let limits = "  - { name: l, budget: { usd: 0.02, every: day }, \
                  on_budget: { downgrade: small } }";
    let gateway = limited(&upstream, limits).start();
    let model = || chat(&gateway, CENT).header("x-weir-model").unwrap().to_owned();
    assert_eq!([model(), model(), model()], ["house", "house", "small"]);
    assert!(upstream.requests()[2].text().contains(r#""model":"small""#));
}

#[test]
fn rules_see_what_is_left_of_a_budget() {
    let upstream = Upstream::always(cent());
    let rules = "routes:\n  - { name: nearly, when: key.budget_used >= 0.5 && key.budget_left_usd <= 0.02, use: small }";
    let limits = "  - { name: l, budget: { usd: 0.04, every: day } }";
    let gateway = limited(&upstream, limits).policy(rules).start();
    let route = || chat(&gateway, CENT).header("x-weir-route").unwrap().to_owned();
    assert_eq!([route(), route(), route()], ["default", "default", "nearly"]);
}

#[test]
fn users_and_tags_have_limits_of_their_own() {
    let upstream = Upstream::always(cent());
    let limits = "  - { name: u, per: user, requests: 1/min }
  - { name: t, match: 'tag[\"app\"] != \"free\"', per: 'tag:app', requests: 2/min }";
    let gateway = limited(&upstream, limits).start();
    let ask = |user: &str, app: &str| {
        let body = format!(r#"{{"model":"house","messages":[],"user":"{user}"}}"#);
        let headers = format!("x-weir-tag-app: {app}\r\n");
        exchange(&gateway, post_with("/v1/chat/completions", &headers, body)).status
    };
    assert_eq!((ask("ada", "a"), ask("ada", "a"), ask("bob", "a")), (200, 429, 200));
    // The app has had its two; the refused one did not count.
    assert_eq!((ask("eve", "a"), ask("eve", "b"), ask("joe", "free")), (429, 200, 200));
    let shown = states(&gateway);
    assert!(!format!("{shown:?}").contains("ada"), "users are told by a digest: {shown:?}");
}

#[test]
fn a_change_of_the_folder_keeps_counters_and_changes_limits() {
    let upstream = Upstream::always(cent());
    let limits = "  - { name: l, per: global, requests: 2/min }";
    let gateway = limited(&upstream, limits).start();
    assert_eq!([chat(&gateway, CENT).status, chat(&gateway, CENT).status], [200, 200]);
    let file = gateway.folder().join("policies/main.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("2/min", "3/min")).unwrap();
    eventually("it is in force", || figure(&gateway, "requests", "limit") == 3);
    assert_eq!([chat(&gateway, CENT).status, chat(&gateway, CENT).status], [200, 429]);
}

#[test]
fn neither_a_kill_nor_a_stop_refills_a_budget() {
    refills_nothing(None);
}

#[test]
fn nor_do_they_with_postgres() {
    let postgres = Postgres::start();
    refills_nothing(Some(&postgres.create("weir")));
}

/// Without a URL, in the store that is used by default.
fn refills_nothing(store: Option<&str>) {
    let upstream = Upstream::always(cent());
    let limits = "  - { name: l, per: global, budget: { usd: 0.05, every: month } }";
    let config = store.map_or_else(String::new, |url| format!("store: \"{url}\""));
    let mut gateway = limited(&upstream, limits).config(&config).start();
    let store = store.map_or_else(|| gateway.store(), str::to_owned);
    assert_eq!([chat(&gateway, CENT).status, chat(&gateway, CENT).status], [200, 200]);
    // 0.02 USD in 10^-12 USD.
    let written = || rows(&store, "select used from limit_counters").unwrap_or_default();
    eventually("it is written", || written() == [["20000000000"]]);
    gateway.kill();
    gateway.start_again();
    assert_eq!(figure(&gateway, "budget", "used"), "0.02");
    assert_eq!(chat(&gateway, CENT).status, 200);
    gateway.process.signal("TERM");
    gateway.process.exit();
    gateway.start_again();
    assert_eq!(figure(&gateway, "budget", "used"), "0.03");
    assert_eq!([chat(&gateway, CENT).status, chat(&gateway, CENT).status], [200, 200]);
    chat(&gateway, CENT).assert_error(429, "insufficient_quota", "budget_exceeded");
}

#[test]
fn hooks_hear_once_of_four_fifths_and_once_of_the_end() {
    let receiver = Upstream::always(Answer::json(200, "{}"));
    let upstream = Upstream::always(cent());
    let hooks = format!("hooks:\n  - {{ url: '{}', events: ['budget.*'] }}", receiver.base_url());
    let limits = "  - { name: l, per: global, budget: { usd: 0.05, every: day } }";
    let gateway = limited(&upstream, limits).policy(&hooks).start();
    for status in [200, 200, 200, 200, 200, 429, 429] {
        assert_eq!(chat(&gateway, CENT).status, status);
    }
    eventually("both are told", || receiver.complete().len() == 2);
    let mut told: Vec<Value> = receiver
        .complete()
        .iter()
        .map(|post| serde_json::from_slice(&post.body).unwrap())
        .collect();
    told.sort_by_key(|event| event["type"].to_string());
    assert_eq!(told[0]["type"], "budget.exceeded");
    assert_eq!(told[0]["data"]["spent_usd"], "0.05");
    assert_eq!(told[1]["type"], "budget.threshold");
    assert_eq!(told[1]["data"]["spent_usd"], "0.04");
    assert_eq!(told[1]["data"]["budget_usd"], "0.05");
    assert_eq!(told[1]["data"]["limit"], "l");
}

#[test]
fn embeddings_count_and_reserve_their_input_alone() {
    let answer = r#"{"object":"list","data":[],"model":"house","usage":{"prompt_tokens":4,"total_tokens":4}}"#;
    let upstream = Upstream::always(Answer::json(200, answer));
    let gateway = limited(&upstream, "  - { name: t, per: global, tokens: 20/min }").start();
    // An answer's usual 500 tokens would not fit.
    let body = r#"{"model":"house","input":"one two three"}"#;
    assert_eq!(call(&gateway, "/v1/embeddings", body).status, 200);
    assert_eq!(figure(&gateway, "tokens", "used"), 4);
}
