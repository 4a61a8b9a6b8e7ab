//! Webhooks out, as their receivers meet them.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::chat;
use crate::support::eventually;
use crate::support::upstream::Received;

const ASK: &str = r#"{"model":"gpt-4.1","messages":[]}"#;

/// The signature that a receiver works out for itself.
fn expected_signature(post: &Received) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"hook-secret");
    let (id, time) =
        (post.header("webhook-id").unwrap(), post.header("webhook-timestamp").unwrap());
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", &post.body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)))
}

fn hooks(receiver: &Upstream, events: &str) -> String {
    let url = receiver.base_url();
    format!(
        "hooks:\n  - {{ url: '{url}/in?a=1', secret: '${{SECRET}}', headers: {{ x-static: s }}, events: [{events}] }}"
    )
}

#[test]
fn a_refused_policy_is_told_to_who_wants_to_hear_it_until_it_is_heard_with_and_without_a_store() {
    for store in ["sqlite:data/weir.db", "\"off\""] {
        a_refused_policy_is_told(store);
    }
}

fn a_refused_policy_is_told(store: &str) {
    let receiver = Upstream::script([Answer::json(500, "{}"), Answer::json(200, "{}")]);
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream)
        .policy(&hooks(&receiver, "policy.rejected"))
        .env("SECRET", "hook-secret")
        .config(&format!("store: {store}"))
        .start();
    let in_force = chat(&gateway, ASK).header("x-weir-policy").unwrap().to_owned();
    fs::write(
        gateway.folder().join("policies/more.yaml"),
        "routes:\n  - { name: r, use: gpt-99 }\n",
    )
    .unwrap();
    eventually("it is posted twice", || receiver.complete().len() == 2);
    let posts = receiver.requests();
    for post in &posts {
        assert_eq!((&*post.method, &*post.target), ("POST", "/v1/in?a=1"));
        assert_eq!(post.header("webhook-signature"), Some(&*expected_signature(post)));
        assert_eq!(post.header("x-static"), Some("s"));
        assert_eq!(post.header("authorization"), None);
    }
    assert_eq!(posts[0].header("webhook-id"), posts[1].header("webhook-id"));
    let event: serde_json::Value = serde_json::from_slice(&posts[1].body).unwrap();
    assert_eq!(event["type"], "policy.rejected");
    assert_eq!(event["data"]["in_force"], in_force);
    assert_eq!(event["data"]["diagnostics"][0]["message"], "unknown model `gpt-99`");
    assert!(!posts[1].text().contains("hook-secret") && !gateway.log().contains("hook-secret"));
    let told = [("event", "policy.rejected"), ("outcome", "delivered")];
    eventually("it is counted", || gateway.metric("weir_hook_deliveries_total", &told) > 0.5);
}

#[test]
fn a_receiver_that_is_away_disturbs_neither_traffic_nor_reload() {
    let upstream = Upstream::always(Answer::chat());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = format!(
        "hooks:\n  - {{ url: 'http://{}', events: ['policy.*'] }}",
        nobody.local_addr().unwrap()
    );
    drop(nobody);
    let gateway = Gateway::builder(&upstream).policy(&away).start();
    let rule = "routes:\n  - { name: r, use: gpt-4.1-mini }\n";
    fs::write(gateway.folder().join("policies/more.yaml"), rule).unwrap();
    eventually("the change is in force", || {
        chat(&gateway, ASK).header("x-weir-model") == Some("gpt-4.1-mini")
    });
    let failed = [("event", "policy.reloaded"), ("outcome", "failed")];
    eventually("it is counted", || gateway.metric("weir_hook_deliveries_total", &failed) > 0.5);
    assert_eq!(chat(&gateway, ASK).status, 200);
}
