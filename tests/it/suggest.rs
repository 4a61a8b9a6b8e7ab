//! `weir finetune suggest`: which traffic may pay for a model of its own.

use serde_json::Value;
use serde_json::json;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::post;

/// Words that no two numbers share.
fn words(n: usize) -> String {
    (0..8).map(|at| format!("w{}", n * 100 + at)).collect::<Vec<_>>().join(" ")
}

#[test]
fn groups_of_traffic_are_listed_with_what_training_costs_and_saves() {
    let upstream = Upstream::with(|turn, _| {
        let message = json!({"role": "assistant", "content": words(1000 + turn), "refusal": null});
        let answer = json!({"id": format!("chatcmpl-{turn}"), "object": "chat.completion",
            "model": "gpt-4.1-2025-04-14",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "total_tokens": 1_100_000}});
        Answer::json(200, answer.to_string())
    });
    let gateway = Gateway::builder(&upstream)
        .policy("routes:\n  - { name: support, when: '\"support\" == request.user', use: gpt-4.1 }")
        .start();
    let ask = |n: usize, system: &str| {
        let messages = json!([{"role": "system", "content": system},
            {"role": "user", "content": format!("question {}", words(n))}]);
        let body = json!({"model": "gpt-4.1", "user": "support", "messages": messages});
        let answer = exchange(&gateway, post("/v1/chat/completions", body.to_string()));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    // One prompt, though the day in it changes, and another one with too few calls.
    (0..20).for_each(|n| ask(n, &format!("Be kind. Today is 2026-11-{:02}.", n + 1)));
    (100..104).for_each(|n| ask(n, "Be short."));
    let suggest = ["finetune", "suggest", "--min-pairs", "10"];
    let mut groups = Value::Null;
    eventually("the calls are in the store", || {
        let (code, out, error) = weir(gateway.folder(), &[&["--json"], &suggest[..]].concat(), "");
        assert_eq!(code, Some(0), "{error}");
        groups = serde_json::from_str::<Value>(&out).unwrap()["data"].clone();
        groups[0]["pairs"] == 20
    });
    assert_eq!(groups.as_array().unwrap().len(), 1, "{groups}");
    let group = &groups[0];
    assert_eq!((&group["route"], &group["models"]), (&json!("support"), &json!(["gpt-4.1"])));
    assert_eq!(group["system"], "Be kind. Today is <DATE>.");
    // A million tokens of input and 100,000 of output, 20 times: at 2 and 8 USD per million of
    // gpt-4.1, and at 0.8 and 3.2 of the tuned gpt-4.1-mini.
    assert_eq!(group["usd_per_day"], "56");
    assert_eq!(group["tuned_usd_per_day"], "22.4");
    assert_eq!(group["saves_usd_per_day"], "33.6");
    // 5 USD per million tokens, five epochs of 20 pairs.
    let tokens = group["training_tokens"].as_u64().unwrap();
    let micro = tokens * 5 * 5;
    assert_eq!(group["training_usd"], format!("0.{micro:06}").trim_end_matches('0'));
    assert_eq!(group["even_after_days"], 1);
    let (_, shown, _) = weir(gateway.folder(), &suggest, "");
    assert!(shown.contains("saves 33.6 USD a day"), "{shown}");
    let (code, _, error) = weir(gateway.folder(), &["finetune", "suggest", "--since", "soon"], "");
    assert!(code == Some(1) && error.contains("filter.since"), "{error}");
}
