//! Routing rules, as clients and operators notice them.

use std::sync::Arc;

use serde_json::Value;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::Step;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::call;
use crate::support::chat;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::Response;
use crate::support::http::post;

const SECOND: &str = "\
models:
  spare: { upstream: second, as: gpt-4.1 }
  best: { as: gpt-6.1-sol }
";

fn ask(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// A gateway before two providers, with these rules.
fn two(first: &Upstream, second: &Upstream, rules: &str) -> Gateway {
    let upstreams =
        format!("  second: {{ base_url: '{}', api_key: sk-second }}", second.base_url());
    Gateway::builder(first).policy(&upstreams).policy(SECOND).policy(rules).start()
}

fn one(rules: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).policy(rules).start();
    (upstream, gateway)
}

fn with_headers(gateway: &Gateway, headers: &str, model: &str) -> Response {
    let request = post("/v1/chat/completions", ask(model));
    let request = String::from_utf8(request).unwrap();
    exchange(gateway, request.replacen("\r\n", &format!("\r\n{headers}"), 1))
}

fn model_sent(upstream: &Upstream) -> String {
    let last = upstream.requests().last().unwrap().text();
    serde_json::from_str::<Value>(&last).unwrap()["model"].as_str().unwrap().to_owned()
}

#[test]
fn the_first_rule_that_matches_decides_and_the_answer_says_which() {
    let (upstream, gateway) = one("routes:\n  \
        - { name: important, when: importance == \"high\", use: gpt-6.1-sol }\n  \
        - { name: auto, when: request.model == \"auto\", use: gpt-6-luna }\n  \
        - { name: tagged, when: 'tag[\"app\"] == \"x\"', use: gpt-4.1-mini }");
    let cases = [
        ("", "auto", "auto", "gpt-6-luna"),
        ("x-weir-importance: high\r\n", "auto", "important", "gpt-6.1-sol"),
        ("x-weir-tag-app: x\r\n", "gpt-4.1", "tagged", "gpt-4.1-mini"),
        ("", "gpt-4.1", "default", "gpt-4.1"),
    ];
    for (headers, asked, rule, model) in cases {
        let answer = with_headers(&gateway, headers, asked);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-weir-route"), Some(rule), "{headers} {asked}");
        assert_eq!(answer.header("x-weir-model"), Some(model));
        assert_eq!(model_sent(&upstream), model);
    }
    let labels = [("route", "auto"), ("model", "gpt-6-luna")];
    eventually("the decision is counted", || {
        gateway.metric("weir_route_decisions_total", &labels) > 0.5
    });
    // The tag is missing in two of the requests that reach its rule: no match, and counted.
    let errors = || gateway.metric("weir_policy_rule_errors_total", &[("route", "tagged")]);
    eventually("missing tags are counted", || errors() > 0.5);
}

#[test]
fn a_fields_rule_writes_into_the_request_and_touches_nothing_else() {
    let (upstream, gateway) = one("routes:\n  - name: cheap-thoughts\n    \
        when: request.model == \"gpt-6-luna\"\n    set: { reasoning_effort: low, top_logprobs: 2 }");
    let body = r#"{"model":"gpt-6-luna",  "messages":[{"role":"user","content":"hi"}],"x":1.50}"#;
    assert_eq!(chat(&gateway, body).status, 200);
    let sent = upstream.only_request().text();
    assert!(
        sent.starts_with(
            r#"{"model":"gpt-6-luna",  "messages":[{"role":"user","content":"hi"}],"x":1.50"#
        ),
        "{sent}"
    );
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!((&sent["reasoning_effort"], &sent["top_logprobs"]), (&"low".into(), &2.into()));
}

#[test]
fn a_refused_request_never_reaches_the_provider() {
    let (upstream, gateway) = one("routes:\n  \
        - { name: no-previews, when: 'request.model.contains(\"preview\")', reject: { message: preview models are not allowed here } }\n  \
        - { name: known, known_models_only: true }");
    let refused = chat(&gateway, &ask("gpt-4o-audio-preview"));
    assert_eq!(refused.status, 403);
    assert_eq!(refused.header("x-weir-route"), Some("no-previews"));
    let error: Value = serde_json::from_str(&refused.text()).unwrap();
    assert_eq!(error["error"]["code"], "policy_denied");
    assert_eq!(error["error"]["message"], "preview models are not allowed here");
    let unknown = chat(&gateway, &ask("gpt-99"));
    assert_eq!(unknown.status, 404);
    let error: Value = serde_json::from_str(&unknown.text()).unwrap();
    assert_eq!(error["error"]["code"], "model_not_found");
    assert_eq!(upstream.count(), 0);
    let labels = [("route", "no-previews"), ("status", "403")];
    eventually("the refusal is counted", || gateway.metric("weir_requests_total", &labels) > 0.5);
    assert_eq!(chat(&gateway, &ask("gpt-4.1")).status, 200);
}

#[test]
fn when_the_first_provider_fails_the_second_answers_with_its_own_key_and_name() {
    let first = Upstream::always(Answer::json(503, "{}"));
    let second = Upstream::always(Answer::chat());
    let rules =
        "routes:\n  - { name: r, when: request.model == \"auto\", use: best, fallback: [spare] }";
    let gateway = two(&first, &second, rules);
    let answer = chat(&gateway, &ask("auto"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-weir-model"), Some("spare"));
    assert_eq!(answer.header("x-weir-attempts"), Some("3"));
    assert_eq!(first.count(), 2, "the first choice gets the tries that leave one for the fallback");
    let sent = second.only_request();
    assert_eq!(sent.header("authorization"), Some("Bearer sk-second"));
    assert_eq!(model_sent(&second), "gpt-4.1");
    assert_eq!(model_sent(&first), "gpt-6.1-sol");
    let decided = [("route", "r"), ("model", "spare")];
    eventually("the answer's model is counted", || {
        gateway.metric("weir_route_decisions_total", &decided) > 0.5
    });
}

#[test]
fn a_provider_that_refuses_the_gateways_key_is_passed_over() {
    let first = Upstream::always(Answer::json(401, "{}"));
    let second = Upstream::always(Answer::chat());
    let upstreams = format!(
        "  second: {{ base_url: '{}', api_key: sk-second }}\n{SECOND}routes:\n  \
         - {{ name: r, use: best, fallback: [spare] }}",
        second.base_url()
    );
    let gateway = Gateway::builder(&first).upstream("api_key", "sk-old").policy(&upstreams).start();
    let answer = chat(&gateway, &ask("auto"));
    assert_eq!((answer.status, answer.header("x-weir-attempts")), (200, Some("2")));
}

#[test]
fn a_provider_that_keeps_failing_is_left_alone() {
    let first = Upstream::always(Answer::json(500, "{}"));
    let second = Upstream::always(Answer::chat());
    let rules = "routes:\n  - { name: r, use: best, fallback: [spare], attempts: 2 }";
    let gateway = two(&first, &second, rules);
    for _ in 0..5 {
        assert_eq!(chat(&gateway, &ask("auto")).header("x-weir-attempts"), Some("2"));
    }
    assert_eq!(first.count(), 5);
    for _ in 0..5 {
        let answer = chat(&gateway, &ask("auto"));
        assert_eq!((answer.status, answer.header("x-weir-attempts")), (200, Some("1")));
    }
    assert!(first.count() <= 6, "after five failures in a row one request at most tries it again");
}

#[test]
fn a_busy_provider_is_passed_over_without_waiting() {
    let held = gate();
    let mut slow = Answer::chat();
    slow.steps.insert(0, Step::Wait(Arc::clone(&held)));
    let first = Upstream::always(slow);
    let second = Upstream::always(Answer::chat());
    let upstreams = format!(
        "    max_in_flight: 1\n  second: {{ base_url: '{}', api_key: k }}\n{SECOND}routes:\n  \
         - {{ name: r, use: best, fallback: [spare] }}",
        second.base_url()
    );
    let gateway = Gateway::builder(&first).policy(&upstreams).start();
    std::thread::scope(|scope| {
        let one = scope.spawn(|| chat(&gateway, &ask("auto")));
        eventually("the first call is upstream", || first.count() == 1);
        assert_eq!(chat(&gateway, &ask("auto")).header("x-weir-model"), Some("spare"));
        held.add_permits(1);
        assert_eq!(one.join().unwrap().header("x-weir-model"), Some("best"));
    });
}

#[test]
fn a_rules_deadline_holds_over_all_attempts() {
    let upstream = Upstream::always(Answer::default().stall());
    let gateway =
        Gateway::builder(&upstream).policy("routes:\n  - { name: quick, deadline: 300ms }").start();
    let answer = chat(&gateway, &ask("gpt-4.1"));
    assert_eq!(answer.status, 504);
    assert!(answer.text().contains("upstream_timeout"), "{}", answer.text());
}

#[test]
fn cheapest_takes_the_least_expected_cost_among_those_that_fit() {
    let (upstream, gateway) = one("models:\n  \
        tiny: { price: { input: 0.01, output: 0.01 }, context: 20, quality: 0.5 }\n  \
        small: { price: { input: 0.02, output: 0.02 }, context: 1000, quality: 0.5 }\n  \
        poor: { price: { input: 0.001, output: 0.001 }, quality: 0.1 }\n  \
        large: { price: { input: 9, output: 9 }, context: 100000, quality: 0.9 }\n\
        routes:\n  - name: auto\n    when: request.model == \"auto\"\n    \
        cheapest: { of: [large, small, tiny, poor], min_quality: 0.4 }");
    assert_eq!(chat(&gateway, &ask("auto")).header("x-weir-model"), Some("tiny"));
    let long = |words: usize| {
        let text = "word ".repeat(words);
        format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"{text}"}}]}}"#)
    };
    assert_eq!(chat(&gateway, &long(200)).header("x-weir-model"), Some("small"));
    assert_eq!(chat(&gateway, &long(2_000)).header("x-weir-model"), Some("large"));
    let before = upstream.count();
    let refused = chat(&gateway, &long(120_000));
    assert_eq!((refused.status, upstream.count()), (400, before));
    assert!(refused.text().contains("context_length_exceeded"), "{}", refused.text());
}

#[test]
fn a_request_that_none_of_the_models_can_take_is_told_why() {
    let (upstream, gateway) =
        one("routes:\n  - { name: auto, cheapest: { of: [gpt-6-luna, gpt-6.1-sol] } }");
    let body = r#"{"model":"auto","max_completion_tokens":100000000,"messages":[]}"#;
    let refused = chat(&gateway, body);
    assert_eq!((refused.status, upstream.count()), (400, 0));
    let text = refused.text();
    assert!(text.contains("no_model_fits") && text.contains("as many tokens as"), "{text}");
}

#[test]
fn the_others_that_fit_are_the_fallback_of_the_cheapest() {
    let first = Upstream::always(Answer::json(503, "{}"));
    let second = Upstream::always(Answer::chat());
    let rules = "routes:\n  - { name: auto, cheapest: { of: [gpt-6-luna, spare] }, attempts: 2 }";
    let gateway = two(&first, &second, rules);
    let answer = chat(&gateway, &ask("auto"));
    assert_eq!((answer.status, answer.header("x-weir-model")), (200, Some("spare")));
}

#[test]
fn a_split_is_sticky_for_a_user() {
    let (_upstream, gateway) =
        one("routes:\n  - name: canary\n    when: request.model == \"bot\"\n    \
        split: { gpt-4.1-mini: 50, gpt-6-luna: 50 }\n    sticky: user");
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let body = format!(
            r#"{{"model":"bot","user":"u{user}","messages":[{{"role":"user","content":"hi"}}]}}"#
        );
        let arm = || chat(&gateway, &body).header("x-weir-model").unwrap().to_owned();
        let first = arm();
        assert_eq!(arm(), first, "user {user}");
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "twenty users fall on both arms but for one in half a million runs");
}

#[test]
fn nothing_is_counted_unless_a_rule_that_is_reached_asks() {
    let (_upstream, gateway) = one("routes:\n  \
        - { name: plain, when: request.model == \"gpt-4.1\", use: gpt-4.1-mini }\n  \
        - { name: long, when: tokens.prompt > 200000, use: gpt-4.1 }");
    assert_eq!(chat(&gateway, &ask("gpt-4.1")).status, 200);
    assert!(gateway.metric("weir_prompt_counts_total", &[]) < 0.5);
    assert_eq!(chat(&gateway, &ask("gpt-4o")).header("x-weir-route"), Some("default"));
    // So short a request cannot have so many tokens: its length answers the question.
    assert!((gateway.metric("weir_prompt_counts_total", &[("method", "bound")]) - 1.0).abs() < 0.1);
    assert!((gateway.metric("weir_prompt_counts_total", &[]) - 1.0).abs() < 0.1);
}

#[test]
fn a_long_prompt_goes_to_the_model_that_can_hold_it() {
    let (upstream, gateway) =
        one("routes:\n  - { name: long, when: tokens.prompt > 50000, use: gpt-4.1 }");
    let text = "some words of it ".repeat(20_000);
    let body = format!(r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let answer = call(&gateway, "/v1/chat/completions", &body);
    assert_eq!(answer.header("x-weir-route"), Some("long"));
    assert_eq!(model_sent(&upstream), "gpt-4.1");
    // 12,500 repetitions are 50,000 tokens and a few: too near to the limit for a sample.
    let text = "some words of it ".repeat(12_500);
    let body = format!(r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    assert_eq!(call(&gateway, "/v1/chat/completions", &body).header("x-weir-route"), Some("long"));
    assert!(gateway.metric("weir_prompt_counts_total", &[("method", "exact")]) > 0.5);
}

#[test]
fn a_decision_explains_itself_when_asked() {
    use base64::Engine as _;
    let (_upstream, gateway) = one("routes:\n  \
        - { name: important, when: importance == \"high\", use: gpt-6.1-sol }\n  \
        - { name: auto, when: request.model == \"auto\", use: gpt-6-luna }");
    let answer = with_headers(&gateway, "x-weir-explain: 1\r\n", "auto");
    let header = answer.header("x-weir-decision").unwrap();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
    let decision: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(decision["route"], "auto");
    assert_eq!(decision["model"], "gpt-6-luna");
    assert_eq!(decision["policy"], answer.header("x-weir-policy").unwrap());
    let outcomes: Vec<_> =
        decision["rules"].as_array().unwrap().iter().map(|r| &r["outcome"]).collect();
    assert_eq!(outcomes, ["miss", "hit"]);
    assert_eq!(decision["rules"][0]["inputs"][0]["value"], "\"normal\"");
    assert!(with_headers(&gateway, "", "auto").header("x-weir-decision").is_none());
}

#[test]
fn a_model_past_its_end_is_followed_by_its_successor() {
    // The catalogue says that gpt-4 was shut down on 2026-10-23.
    let (upstream, gateway) = one("models:\n  gpt-4: { successor: gpt-4.1 }");
    let answer = chat(&gateway, &ask("gpt-4"));
    assert_eq!(answer.header("x-weir-model"), Some("gpt-4.1"));
    assert_eq!(model_sent(&upstream), "gpt-4.1");
}

#[test]
fn a_rule_may_have_an_answer_read_on_after_the_client_left() {
    let held = gate();
    let answer = Answer::events().chunk(delta("a")).wait(&held).chunk(USAGE).chunk(DONE).end();
    let upstream = Upstream::always(answer);
    let gateway = Gateway::builder(&upstream)
        .policy("routes:\n  - { name: drained, on_disconnect: drain }")
        .start();
    let body = ask("gpt-4.1-mini").replace("}]}", "}],\"stream\":true}");
    let mut client = Raw::connect(gateway.data());
    client.send(post("/v1/chat/completions", body));
    assert_eq!(client.head().unwrap().status, 200);
    client.chunk().unwrap();
    client.close();
    held.add_permits(1);
    // 9 tokens in, 3 out, as the provider says, not as they were counted here.
    let spent =
        |kind| gateway.metric("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", kind)]);
    eventually("the usage is recorded", || spent("input") > 8.5);
    assert!((spent("input") - 9.0).abs() < 0.1 && (spent("output") - 3.0).abs() < 0.1);
    assert!(gateway.metric("weir_usage_estimated_total", &[]) < 0.5);
    assert_eq!(upstream.cancelled(), 0);
}
