//! What operators count on: scrapes that stay small, savings that add up, backups that can be
//! restored.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weir::metering::cost::Usd;
use weir::openai::usage::Usage;
use weir::telemetry::metrics::CallLabels;
use weir::telemetry::metrics::Metrics;
use weir::telemetry::metrics::Observation;

use crate::support;
use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::chat;
use crate::support::eventually;
use crate::support::http::get;
use crate::support::http::post;
use crate::support::http::post_as;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

const COST: &str = "gen_ai_client_cost_usd_total";

/// A stream that has everything in its usage.
fn seen(cost: &str) -> Observation {
    Observation {
        took: Duration::from_millis(900),
        first_token: Some(Duration::from_millis(120)),
        overhead: Some(Duration::from_micros(180)),
        usage: Some(Usage {
            input: 1_200,
            output: 300,
            cached_input: 600,
            reasoning: 100,
            ..Usage::default()
        }),
        usage_estimated: false,
        cost: Some(cost.parse().unwrap()),
        asked_cost: None,
        trace: None,
    }
}

fn record(metrics: &Metrics, key: usize, model: usize, cost: &str) {
    let (key, team) = (format!("customer-{key:05}"), format!("team-{:03}", key / 50));
    let model = format!("gpt-4.1-mini-2025-{model:03}");
    let labels = CallLabels {
        operation: "chat",
        request_model: &model,
        response_model: &model,
        provider: "openai",
        error_type: "",
        team: &team,
        key: &key,
        model: &model,
        route: "default",
        status: 200,
    };
    metrics.record(&labels, &seen(cost));
}

#[test]
fn a_scrape_of_ten_thousand_keys_and_two_hundred_models_is_small_and_loses_no_cent() {
    let metrics = Metrics::new().unwrap();
    for key in 0..10_000 {
        (0..10).for_each(|turn| record(&metrics, key, (key + turn * 7) % 200, "0.003125"));
    }
    let text = metrics.render();
    assert!(text.len() < 5_000_000, "{} bytes", text.len());
    let (_, open) = metrics.render_for("application/openmetrics-text; version=1.0.0");
    assert!(open.len() < 5_000_000, "{} bytes", open.len());
    let scrape = support::metrics::Metrics::parse(&text);
    // 100,000 calls of 0.003125 USD.
    assert!((scrape.sum(COST, &[]) - 312.5).abs() < 1e-6, "{}", scrape.sum(COST, &[]));
    assert!(scrape.sum(COST, &[("key", "other")]) > 1.0, "most keys are one series");
    assert!(scrape.sum(COST, &[("key", "customer-00001")]) > 0.0, "the first have their own");
    let calls = scrape.sum("gen_ai_server_request_duration_seconds_count", &[]);
    assert!((calls - 100_000.0).abs() < 0.5, "{calls}");
    // A key that came late and spends much gets series of its own, from then on.
    let late = [("key", "customer-09999")];
    assert!(scrape.sum(COST, &late).abs() < 1e-9);
    (0..100).for_each(|_| record(&metrics, 9_999, 3, "1"));
    let scrape = support::metrics::Metrics::parse(&metrics.render());
    assert!(scrape.sum(COST, &late) > 90.0, "{}", scrape.sum(COST, &late));
    assert!((scrape.sum(COST, &[]) - 412.5).abs() < 1e-6);
}

#[test]
fn few_keys_and_models_all_have_series_of_their_own() {
    let metrics = Metrics::new().unwrap();
    for key in 0..200 {
        (0..5).for_each(|model| record(&metrics, key, model, "0.5"));
    }
    let scrape = support::metrics::Metrics::parse(&metrics.render());
    assert!(scrape.sum(COST, &[("key", "other")]).abs() < 1e-9);
    for key in 0..200 {
        let spent = scrape.sum(COST, &[("key", &format!("customer-{key:05}"))]);
        assert!((spent - 2.5).abs() < 1e-9, "{key}: {spent}");
    }
}

#[test]
fn what_routing_saves_is_what_the_model_asked_for_would_have_cost() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream)
        .policy("routes:\n  - { name: thrifty, when: 'true', use: gpt-4.1-mini }\n")
        .start();
    let total = |name| gateway.metric(name, &[("route", "thrifty")]);
    // Asked for what answers, and for names without a price: there is nothing to compare.
    for model in ["gpt-4.1-mini", "auto", "nobody-knows"] {
        assert_eq!(chat(&gateway, &format!(r#"{{"model":"{model}","messages":[]}}"#)).status, 200);
    }
    eventually("they are counted", || gateway.metric("weir_requests_total", &[]) > 2.5);
    assert!(total("weir_rerouted_asked_cost_usd_total").abs() < 1e-12);
    for _ in 0..2 {
        chat(&gateway, r#"{"model":"gpt-4.1","messages":[]}"#);
    }
    chat(&gateway, r#"{"model":"gpt-4.1-nano","messages":[]}"#);
    eventually("they are counted", || gateway.metric("weir_requests_total", &[]) > 5.5);
    // 9 tokens in and 3 out. gpt-4.1-mini: 9 x 0.40 + 3 x 1.60 = 8.4 micro-USD, three times.
    let real = total("weir_rerouted_cost_usd_total");
    assert!((real - 25.2e-6).abs() < 1e-12, "{real}");
    // gpt-4.1: 9 x 2 + 3 x 8 = 42, twice; gpt-4.1-nano: 9 x 0.10 + 3 x 0.40 = 2.1.
    let asked = total("weir_rerouted_asked_cost_usd_total");
    assert!((asked - 86.1e-6).abs() < 1e-12, "{asked}");
    let labels = [("gen_ai_request_model", "gpt-4.1-nano")];
    assert!((gateway.metric("weir_rerouted_asked_cost_usd_total", &labels) - 2.1e-6).abs() < 1e-12);
}

/// A key of a team, which the gateway knows.
fn key(gateway: &Gateway) -> String {
    let made = post("/api/keys", r#"{"name":"app","team":"support"}"#);
    let made = Raw::connect(gateway.control()).send(made).response().unwrap();
    let key = made.json()["key"].as_str().unwrap().to_owned();
    eventually("the key opens", || ask(gateway, &key) == 200);
    key
}

fn ask(gateway: &Gateway, key: &str) -> u16 {
    let body = r#"{"model":"gpt-4.1-mini","messages":[],"user":"ada"}"#;
    let request = post_as(key, "/v1/chat/completions", "", body);
    Raw::connect(gateway.data()).send(request).response().unwrap().status
}

fn spend(gateway: &Gateway) -> Value {
    get(gateway.control(), "/api/spend?group_by=key").unwrap().json()["data"].clone()
}

/// What the rows of a store add up to, and how many there are.
fn rows_of(store: &str) -> (u64, Usd) {
    let rows = rows(store, "select cost_picodollars from interactions").unwrap();
    let sum = rows.iter().map(|row| row[0].parse::<i128>().unwrap()).sum();
    (rows.len().try_into().unwrap(), Usd::from_picodollars(sum))
}

/// Calls until the ledger has so many.
fn calls(gateway: &Gateway, key: &str, count: usize) {
    (0..count).for_each(|_| assert_eq!(ask(gateway, key), 200));
}

#[test]
fn a_copy_of_sqlite_that_is_made_under_traffic_is_a_backup() {
    let upstream = Upstream::always(Answer::chat());
    let mut gateway =
        Gateway::builder(&upstream).upstream("api_key", "sk-own").config("auth: keys").start();
    let key = key(&gateway);
    let (data, backup) = (gateway.folder().join("data"), gateway.folder().join("backup.db"));
    calls(&gateway, &key, 50);
    eventually("some are in the store", || gateway.records("stored") > 20);
    // Calls go on while the copy is made, as docs/operating.md says.
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| calls(&gateway, &key, 50));
        rows(&gateway.store(), &format!("vacuum into '{}'", backup.display())).unwrap();
        traffic.join().unwrap();
    });
    fs::copy(data.join("user.key"), gateway.folder().join("user.key")).unwrap();
    let (count, sum) = rows_of(&format!("sqlite:{}", backup.display()));
    assert!(count > 20, "{count}");

    // The disk is lost, and so is the spool.
    gateway.kill();
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    fs::rename(&backup, data.join("weir.db")).unwrap();
    fs::rename(gateway.folder().join("user.key"), data.join("user.key")).unwrap();
    gateway.start_again();
    let told = spend(&gateway);
    assert_eq!(told[0]["requests"], count, "{told}");
    assert_eq!(told[0]["cost_usd"], sum.to_string(), "{told}");
    let of_user = get(gateway.control(), "/api/interactions?user=ada&limit=1").unwrap().json();
    assert_eq!(of_user["data"].as_array().unwrap().len(), 1, "users are known by the same hash");
    assert_eq!(ask(&gateway, &key), 200, "keys open");
    eventually("and it goes on", || spend(&gateway)[0]["requests"] == count + 1);
}

#[test]
fn a_dump_of_postgres_that_is_made_under_traffic_is_a_backup() {
    let (upstream, server) = (Upstream::always(Answer::chat()), Postgres::start());
    let start = |database: &str| {
        let config = format!("auth: keys\nstore: {}", server.url(database));
        Gateway::builder(&upstream).upstream("api_key", "sk-own").config(&config).start()
    };
    server.create("first");
    let gateway = start("first");
    let key = key(&gateway);
    calls(&gateway, &key, 50);
    eventually("some are in the store", || gateway.records("stored") > 20);
    let dump = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| calls(&gateway, &key, 50));
        let dump = server.dump("first");
        traffic.join().unwrap();
        dump
    });
    drop(gateway);

    server.create("second");
    server.restore("second", Path::new(&dump));
    let (count, sum) = rows_of(&server.url("second"));
    assert!(count > 20, "{count}");
    let gateway = start("second");
    let told = spend(&gateway);
    assert_eq!(
        (&told[0]["requests"], &told[0]["cost_usd"]),
        (&count.into(), &sum.to_string().into())
    );
    assert_eq!(ask(&gateway, &key), 200, "keys open");
    eventually("and it goes on", || spend(&gateway)[0]["requests"] == count + 1);
}
