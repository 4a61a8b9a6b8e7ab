//! The steps of a request's journey, without sockets: what each costs beside the others.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up has nothing to measure")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::BatchSize;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use uuid::Uuid;
use weir::metering::catalogue::Catalogue;
use weir::metering::cost::UsageSource;
use weir::metering::cost::price;
use weir::metering::lazy::LazyPrompt;
use weir::metering::tokens;
use weir::metering::tokens::Encoding;
use weir::openai::endpoint::Endpoint;
use weir::openai::request::Patch;
use weir::openai::request::RequestView;
use weir::openai::response::AnswerFacts;
use weir::openai::stream::StreamTap;
use weir::openai::usage::Usage;
use weir::policy::Facts;
use weir::policy::KeyFacts;
use weir::policy::Live;
use weir::policy::ModelState;
use weir::policy::Policy;
use weir::policy::Settings;
use weir::policy::Sources;
use weir::store::Charge;
use weir::store::Interaction;
use weir::telemetry::metrics::CallLabels;
use weir::telemetry::metrics::Metrics;
use weir::telemetry::metrics::Observation;

/// A conversation of `turns` messages of 2 KB, or one short message.
fn request(turns: usize) -> Bytes {
    let turn = |i: usize| {
        let role = if i.is_multiple_of(2) { "user" } else { "assistant" };
        let text = "the gateway reads a request and finds the model it names ".repeat(36);
        format!(r#"{{"role": "{role}", "content": "{text}"}}"#)
    };
    let mut messages = vec![r#"{"role": "user", "content": "Say hello"}"#.to_owned()];
    messages.extend((0..turns).map(turn));
    let messages = messages.join(", ");
    format!(r#"{{"model": "gpt-4o-mini", "messages": [{messages}], "temperature": 0.7, "stream": true}}"#)
        .into()
}

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":60,"completion_tokens":120,"total_tokens":180,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default"}"#;

const EVENT: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" gateway\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("request");
    for (name, turns) in [("300 B", 0), ("32 KB", 16), ("200 KB", 100)] {
        let body = request(turns);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("parse", name), &body, |b, body| {
            b.iter(|| RequestView::parse(black_box(body)).unwrap());
        });
        let view = RequestView::parse(&body).unwrap();
        let patch = Patch { model: Some("gpt-6-luna"), ask_usage: true, ..Patch::default() };
        group.bench_with_input(BenchmarkId::new("splice", name), &body, |b, body| {
            b.iter(|| view.splice(black_box(body), &patch));
        });
        group.bench_with_input(BenchmarkId::new("estimate tokens", name), &body, |b, body| {
            b.iter(|| tokens::estimate_prompt("gpt-4o-mini", black_box(body)));
        });
        // As a policy asks: the first is decided by lengths, but for the longest.
        for limit in [100_000, 500] {
            group.bench_with_input(
                BenchmarkId::new(format!("over {limit} tokens"), name),
                &body,
                |b, body| {
                    let prompt =
                        || LazyPrompt::new(Encoding::O200kBase, "gpt-4o-mini", black_box(body));
                    b.iter(|| prompt().exceeds(limit));
                },
            );
        }
    }
    group.finish();
}

fn answers(c: &mut Criterion) {
    c.bench_function("answer/facts", |b| {
        b.iter(|| AnswerFacts::read(black_box(ANSWER.as_bytes())).unwrap());
    });
    let event = Bytes::from_static(EVENT.as_bytes());
    let mut tap = StreamTap::new(Endpoint::ChatCompletions, true);
    c.bench_function("answer/event", |b| {
        b.iter(|| tap.push(event.clone(), &mut |piece| drop(black_box(piece))));
    });
    // A hundred, as an answer that grows: it is given up at its bound, and costs nothing then.
    let tap = || StreamTap::new(Endpoint::ChatCompletions, true).folding();
    c.bench_function("answer/100 events, folded", |b| {
        let push = |tap: &mut StreamTap| {
            (0..100).for_each(|_| tap.push(event.clone(), &mut |piece| drop(black_box(piece))));
        };
        b.iter_batched_ref(tap, push, BatchSize::SmallInput);
    });
}

fn interaction() -> Interaction<'static> {
    Interaction {
        id: Uuid::now_v7(),
        created_at: 1_795_392_000_000,
        key_name: "passthrough",
        team: "support",
        key_tags: &[],
        end_user_hash: None,
        session_id: None,
        tags: &[],
        endpoint: "chat/completions",
        route: "default",
        policy_version: "b0cf381f5b46",
        requested_model: "gpt-5",
        model: "gpt-5",
        upstream_model: "gpt-5",
        response_model: Some("gpt-5-2025-08-07"),
        provider: "openai",
        service_tier: Some("default"),
        streamed: false,
        status_code: 200,
        error_code: "",
        finish_reason: Some("stop"),
        client_left: false,
        attempts: 1,
        latency_ms: 812,
        ttft_ms: None,
        response_id: None,
        attempt_log: &[],
        capture: Some("metadata"),
        expires_at: None,
        facts: None,
        alias: None,
        alias_arm: None,
        retrieval: None,
        charge: None,
    }
}

fn records(c: &mut Criterion) {
    let catalogue = Catalogue::builtin();
    let usage = Usage { input: 2006, cached_input: 1920, output: 300, ..Usage::default() };
    let bill = || price(catalogue.get("gpt-5"), &usage, UsageSource::Reported, Some("default"));
    c.bench_function("record/price", |b| b.iter(|| black_box(bill())));

    let metrics = Arc::new(Metrics::new().unwrap());
    let labels = CallLabels {
        operation: "chat",
        request_model: "gpt-5",
        response_model: "gpt-5",
        provider: "openai",
        error_type: "",
        team: "",
        key: "passthrough",
        route: "default",
        model: "gpt-5",
        status: 200,
    };
    let seen = Observation {
        took: Duration::from_millis(800),
        first_token: None,
        overhead: Some(Duration::from_micros(60)),
        usage: Some(usage),
        usage_estimated: false,
        cost: bill().cost,
        asked_cost: None,
        trace: None,
    };
    let call = interaction();
    let mut record = Vec::new();
    c.bench_function("record/serialise", |b| {
        b.iter(|| {
            record.clear();
            let charge = Some(Charge::of(&bill()));
            let call = Interaction { charge, ..call.clone() };
            serde_json::to_writer(&mut record, black_box(&call)).unwrap();
        });
    });
    c.bench_function("record/metrics", |b| b.iter(|| metrics.record(&labels, black_box(&seen))));
}

/// Models about which nothing is known.
struct Idle;

impl Live for Idle {
    fn model(&self, _: &str) -> ModelState {
        ModelState::default()
    }

    fn expected_output(&self, _: &str) -> Option<f64> {
        None
    }
}

/// A policy whose last rule alone matches.
fn policy(rules: usize) -> Policy {
    let misses = [
        "request.model == \"auto\" && !request.stream",
        "importance == \"high\" || \"critical\" in key.tags",
        "key.team == \"research\" && time.hour >= 22",
        "request.model.startsWith(\"gpt-3\") || request.max_tokens > 16000",
        "header[\"x-app\"] == \"batch\"",
    ];
    let mut yaml = "routes:\n".to_owned();
    for (index, when) in misses.iter().cycle().take(rules - 1).enumerate() {
        yaml.push_str(&format!("  - {{ name: r{index}, when: '{when}', use: gpt-6-luna }}\n"));
    }
    yaml.push_str("  - { name: last, use: gpt-6-luna }\n");
    let sources = Sources::of([("bench.yaml".to_owned(), yaml)].into());
    let checked = Policy::check(&sources, &Settings::default());
    checked.policy.unwrap_or_else(|| panic!("{:?}", checked.diagnostics))
}

fn decisions(c: &mut Criterion) {
    let body = request(0);
    let view = RequestView::parse(&body).unwrap();
    let headers = HeaderMap::from_iter([(
        HeaderName::from_static("x-app"),
        HeaderValue::from_static("chat"),
    )]);
    let key = KeyFacts {
        name: "passthrough",
        team: "support",
        tags: &[],
        importance: "normal",
        budget_left_usd: f64::INFINITY,
        budget_used: 0.0,
    };
    let mut group = c.benchmark_group("decide");
    for rules in [1, 5, 50] {
        let policy = policy(rules);
        group.bench_function(BenchmarkId::new("rules", rules), |b| {
            b.iter(|| {
                let prompt = LazyPrompt::new(policy.encoding_of(view.model()), view.model(), &body);
                let request = (&view, &body[..]);
                let endpoint = Endpoint::ChatCompletions;
                let facts = Facts::new(endpoint, request, prompt, &headers, key, &Idle);
                policy.choose(black_box(&facts), &mut ()).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(journey, requests, decisions, answers, records);
criterion_main!(journey);
