//! Traces, as a collector, a provider and a Prometheus meet them.

use serde_json::Value;
use serde_json::json;

use crate::dashboards::Prometheus;
use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::answer::gate;
use crate::support::chat;
use crate::support::collector::Collector;
use crate::support::collector::Span;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::gateway::Builder;
use crate::support::http::Response;
use crate::support::http::get;
use crate::support::http::get_with;
use crate::support::http::post_with;

const ASK: &str = r#"{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str =
    r#"{"model":"gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A gateway that sends its traces there.
fn traced(upstream: &Upstream, collector: &Collector) -> Builder {
    let endpoint = collector.endpoint();
    Gateway::builder(upstream).config(&format!("traces: {{ endpoint: \"{endpoint}\" }}"))
}

/// Asks with these header lines, each without its end.
fn ask(gateway: &Gateway, headers: &[&str], body: &str) -> Response {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    exchange(gateway, post_with("/v1/chat/completions", &headers, body))
}

fn parent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{CALLER}-{flags}")
}

/// The `traceparent` of each request that a provider got, taken apart.
fn parents(upstream: &Upstream) -> Vec<[String; 4]> {
    let requests = upstream.requests();
    let parts = requests.iter().map(|request| {
        let header = request.header("traceparent").unwrap();
        header.split('-').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
    });
    parts.collect()
}

#[track_caller]
fn assert_says(span: &Span, expected: Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(span.get(name), value, "{name} of {span:#?}");
    }
}

#[test]
fn a_request_is_a_span_below_its_callers_and_its_attempt_one_below_it() {
    let (upstream, collector) = (Upstream::always(Answer::chat()), Collector::http());
    let gateway = traced(&upstream, &collector).start();
    let answer = ask(&gateway, &[&parent("01"), "tracestate: vendor=x"], ASK);
    let spans = collector.wait_for(2);
    let [server, client] = &spans[..] else { panic!() };
    assert_eq!((server.trace.as_str(), server.parent.as_str()), (TRACE, CALLER));
    assert_eq!((&client.trace, &client.parent), (&server.trace, &server.id));
    assert_eq!((server.kind, client.kind), ("SERVER", "CLIENT"));
    assert!(server.start <= client.start && client.end <= server.end && client.start < client.end);

    let [version, trace, span, flags] = &parents(&upstream)[0];
    assert_eq!((version.as_str(), trace.as_str(), flags.as_str()), ("00", TRACE, "01"));
    assert_eq!(span, &client.id, "the provider is told of the attempt");
    assert_eq!(upstream.only_request().header("tracestate"), Some("vendor=x"));

    assert_eq!(server.name, "chat gpt-4.1-mini");
    let policy = answer.header("x-weir-policy").unwrap();
    assert_says(
        server,
        json!({
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4.1-mini", "gen_ai.response.model": "gpt-4.1-mini-2025-04-14",
            "gen_ai.response.id": "chatcmpl-1", "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 3,
            "http.response.status_code": 200, "http.request.method": "POST",
            "url.path": "/v1/chat/completions", "error.type": null,
            "weir.id": answer.header("x-weir-id").unwrap(), "weir.policy": policy,
            "weir.route": "default", "weir.cost_status": "exact", "weir.capture": "full",
            "weir.usage_source": "reported",
        }),
    );
    // 9 tokens at 0.40 and 3 at 1.60 USD a million.
    assert!((server.get("weir.cost_usd").as_f64().unwrap() - 0.0000084).abs() < 1e-12);
    let port: u16 = upstream.base_url().split([':', '/']).nth(4).unwrap().parse().unwrap();
    assert_says(
        client,
        json!({
            "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4.1-mini",
            "server.address": "127.0.0.1", "server.port": port, "http.response.status_code": 200,
            "weir.attempt": 1, "weir.attempt.outcome": "ok", "error.type": null,
            // Who adds up tokens over all spans must not find them twice.
            "gen_ai.usage.input_tokens": null,
        }),
    );
    assert!(!server.is_error && !client.is_error && server.events.is_empty());
    assert_eq!(server.resource["service.name"], "weir");
    assert_eq!(server.resource["service.version"], env!("CARGO_PKG_VERSION"));
    eventually("the log names the trace", || gateway.log().contains(&format!("trace_id={TRACE}")));
    eventually("the spans are counted", || {
        gateway.metric("weir_trace_spans_total", &[("outcome", "exported")]) > 1.5
    });
    assert_eq!(answer.header("traceparent"), None);
}

#[test]
fn each_attempt_is_a_span_with_its_outcome() {
    let upstream =
        Upstream::script([Answer::json(500, "{}"), Answer::json(429, "{}"), Answer::chat()]);
    let collector = Collector::http();
    let gateway = traced(&upstream, &collector)
        .policy(
            "models:\n  spare: { upstream: openai, as: gpt-4.1-nano }\n\
             routes:\n  - { name: r, use: gpt-4.1-mini, fallback: [spare], attempts: 3 }",
        )
        .start();
    assert_eq!(ask(&gateway, &[], ASK).header("x-weir-attempts"), Some("3"));
    let spans = collector.wait_for(4);
    let (server, attempts) = spans.split_first().unwrap();
    assert_eq!((server.parent.as_str(), server.is_error), ("", false));
    assert_says(server, json!({"weir.route": "r", "weir.model": "spare", "error.type": null}));
    assert!(attempts.iter().all(|span| span.parent == server.id && span.trace == server.trace));
    let told: Vec<_> = attempts.iter().map(|span| (span.trace.clone(), span.id.clone())).collect();
    let got = parents(&upstream).into_iter().map(|[_, trace, span, _]| (trace, span));
    assert_eq!(told, got.collect::<Vec<_>>(), "each provider was told of its own attempt");
    let expected = [
        ("gpt-4.1-mini", 500, json!("500"), "server_error", true),
        ("gpt-4.1-mini", 429, json!("429"), "rate_limited", true),
        ("gpt-4.1-nano", 200, Value::Null, "ok", false),
    ];
    for ((number, span), (model, status, error, outcome, is_error)) in
        (1..).zip(attempts).zip(expected)
    {
        assert_says(
            span,
            json!({
                "gen_ai.request.model": model, "http.response.status_code": status,
                "error.type": error, "weir.attempt.outcome": outcome, "weir.attempt": number,
            }),
        );
        assert_eq!(span.is_error, is_error, "{span:#?}");
    }
    assert!(attempts.windows(2).all(|pair| pair[0].end <= pair[1].start));
}

#[test]
fn a_streams_spans_end_when_the_stream_ends() {
    let go_on = gate();
    let answer = Answer::events().chunk(delta("One")).wait(&go_on);
    let upstream = Upstream::always(answer.chunk(delta("Two") + USAGE + DONE).end());
    let collector = Collector::http();
    let gateway = traced(&upstream, &collector).start();
    let mut stream = Raw::connect(gateway.data());
    stream.send(post_with("/v1/chat/completions", "", STREAM));
    stream.head().unwrap();
    stream.chunk().unwrap();
    let other = ask(&gateway, &[&parent("01")], r#"{"model":"#);
    assert_eq!(other.status, 400);
    // A request that came after it is exported: the stream has no span yet.
    assert_eq!(collector.wait_for(1)[0].parent, CALLER);
    let began = now();
    go_on.add_permits(1);
    while stream.chunk().unwrap().is_some() {}
    let spans = collector.wait_for(3);
    let [server, _, client] = &spans[..] else { panic!() };
    assert!(server.end >= began && client.end >= began, "{began} {spans:#?}");
    assert_says(
        server,
        json!({
            "gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 3, "weir.stream": true,
            "error.type": null,
        }),
    );
    let [(name, at, said)] = &server.events[..] else { panic!("{server:#?}") };
    assert_eq!(name, "first_token");
    assert!(server.start < *at && *at < began);
    let waited = said["gen_ai.server.time_to_first_token"].as_f64().unwrap();
    assert!(waited > 0.0);
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

#[test]
fn what_went_wrong_is_on_the_spans() {
    let answers = [
        Answer::events().chunk(delta("One")).close(),
        Answer::events().chunk(delta("One")).stall(),
        Answer::json(400, "{}"),
    ];
    let (upstream, collector) = (Upstream::script(answers), Collector::http());
    let gateway = traced(&upstream, &collector).start();
    ask(&gateway, &[], STREAM);
    let mut leaves = Raw::connect(gateway.data());
    leaves.send(post_with("/v1/chat/completions", "", STREAM));
    leaves.head().unwrap();
    leaves.chunk().unwrap();
    leaves.close();
    eventually("it is cancelled", || upstream.cancelled() == 1);
    assert_eq!(ask(&gateway, &[], ASK).status, 400);
    let spans = collector.wait_for(6);
    let (servers, clients) = spans.split_at(3);
    let said = |spans: &[Span]| -> Vec<_> {
        spans.iter().map(|span| (span.get("error.type").clone(), span.is_error)).collect()
    };
    let (died, left, refused) = (json!("upstream_unavailable"), json!("client_gone"), json!("400"));
    assert_eq!(
        said(servers),
        [(died.clone(), true), (left.clone(), false), (refused.clone(), false)],
        "a client's mistake, and its leaving, are no error of the server"
    );
    assert_eq!(said(clients), [(died, true), (left, true), (refused, true)]);
}

#[test]
fn a_call_without_an_answer_shows_how_far_it_came() {
    let (upstream, collector) = (Upstream::always(Answer::default().stall()), Collector::http());
    let gateway = traced(&upstream, &collector)
        .policy("routes:\n  - { name: r, use: gpt-4.1-mini, deadline: 200ms }")
        .start();
    assert_eq!(ask(&gateway, &[], ASK).status, 504);
    let spans = collector.wait_for(2);
    assert_says(
        &spans[0],
        json!({"error.type": "upstream_timeout", "http.response.status_code": 504}),
    );
    assert_says(
        &spans[1],
        json!({"error.type": "upstream_timeout", "weir.attempt.outcome": "unfinished"}),
    );
    assert!(spans[0].is_error && spans[1].is_error);
}

#[test]
fn a_caller_decides_for_its_own_trace_and_the_share_for_new_ones() {
    let (upstream, collector) = (Upstream::always(Answer::chat()), Collector::http());
    let endpoint = collector.endpoint();
    let config = format!("traces: {{ endpoint: \"{endpoint}\", sample: 0 }}");
    let gateway = Gateway::builder(&upstream).config(&config).start();
    ask(&gateway, &[], ASK);
    ask(&gateway, &[&parent("00")], ASK);
    ask(&gateway, &[&parent("01")], ASK);
    let spans = collector.wait_for(2);
    assert_eq!((spans[0].trace.as_str(), spans[0].parent.as_str()), (TRACE, CALLER));
    let parents = parents(&upstream);
    let flags: Vec<_> = parents.iter().map(|[.., flags]| flags.as_str()).collect();
    assert_eq!(flags, ["02", "00", "01"], "who is called is told, too");
    assert_eq!([&parents[1][1], &parents[2][1]], [TRACE; 2]);
    assert_ne!(parents[1][2], CALLER);

    // Everything is kept, but for what a caller does not keep.
    let gateway = traced(&upstream, &collector).start();
    ask(&gateway, &[&parent("00")], ASK);
    ask(&gateway, &[], ASK);
    assert_eq!(collector.wait_for(4).iter().filter(|span| span.trace == TRACE).count(), 2);
}

#[test]
fn a_malformed_parent_is_ignored_and_its_state_with_it() {
    let (upstream, collector) = (Upstream::always(Answer::chat()), Collector::http());
    let gateway = traced(&upstream, &collector).start();
    let broken = format!("traceparent: 00-{TRACE}-{CALLER}-1");
    ask(&gateway, &[&broken, "tracestate: vendor=x"], ASK);
    let spans = collector.wait_for(2);
    assert_eq!(spans[0].parent, "");
    assert_ne!(spans[0].trace, TRACE);
    let got = upstream.only_request();
    assert_eq!(parents(&upstream)[0][1], spans[0].trace);
    assert_eq!(got.header("tracestate"), None);
}

#[test]
fn without_traces_a_callers_headers_pass_as_they_are_and_nothing_is_added() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    chat(&gateway, ASK);
    ask(&gateway, &["traceparent: 00-odd", "tracestate: a=b", "tracestate: c=d"], ASK);
    let [bare, given] = &upstream.requests()[..] else { panic!() };
    let of = |name: &str| given.headers.iter().filter(|(n, _)| n == name).count();
    assert_eq!((bare.header("traceparent"), bare.header("tracestate")), (None, None));
    assert_eq!((given.header("traceparent"), of("tracestate")), (Some("00-odd"), 2));
    eventually("both are logged", || gateway.log().matches("INFO request").count() == 2);
    assert!(!gateway.log().contains("trace_id"));
    let text = get_with(gateway.control(), "/metrics", "accept: application/openmetrics-text\r\n");
    assert!(!text.unwrap().text().contains("trace_id"));
}

#[test]
fn what_passes_through_is_traced_and_so_is_what_the_gateway_refuses() {
    let upstream = Upstream::always(Answer::json(200, r#"{"object":"list","data":[]}"#));
    let collector = Collector::http();
    let gateway = traced(&upstream, &collector).start();
    let request = format!(
        "GET /v1/models?secret=1 HTTP/1.1\r\nhost: g\r\nauthorization: Bearer k\r\n{}\r\n\r\n",
        parent("01")
    );
    assert_eq!(exchange(&gateway, request).status, 200);
    let spans = collector.wait_for(2);
    assert_eq!((spans[0].name.as_str(), spans[1].name.as_str()), ("GET", "GET"));
    assert_says(&spans[0], json!({"url.path": "/v1/models", "http.response.status_code": 200}));
    assert_eq!(parents(&upstream)[0][2], spans[1].id);
    // Nobody fills a collector from outside.
    let nobody = "GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n";
    assert_eq!(exchange(&gateway, nobody).status, 401);
    let refused = ask(&gateway, &[], "no JSON");
    assert_eq!(refused.status, 400);
    let spans = collector.wait_for(3);
    let refusal = spans.iter().find(|span| span.trace != TRACE).unwrap();
    assert_says(
        refusal,
        json!({"error.type": "invalid_json", "weir.id": refused.header("x-weir-id")}),
    );
}

#[test]
fn traces_go_over_grpc_and_by_the_standard_variables() {
    let (upstream, collector) = (Upstream::always(Answer::chat()), Collector::grpc());
    let gateway = Gateway::builder(&upstream)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-standard=a%20b")
        .env("WEIR_TRACES_HEADERS", "x-tenant=sk-canary")
        .env("OTEL_SERVICE_NAME", "edge")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .start();
    ask(&gateway, &[&parent("01")], ASK);
    let spans = collector.wait_for(2);
    assert_eq!(
        (spans[0].parent.as_str(), spans[1].parent.as_str()),
        (CALLER, spans[0].id.as_str())
    );
    assert_eq!(spans[0].resource["service.name"], "edge");
    assert_eq!(spans[0].resource["deployment.environment.name"], "test");
    let export = collector.exports().remove(0);
    let header =
        |name: &str| export.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    assert_eq!(header("x-standard").as_deref(), Some("a b"));
    assert_eq!(header("x-tenant").as_deref(), Some("sk-canary"));
    assert!(!gateway.log().contains("canary"));
}

#[test]
fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream)
        .config("traces: { endpoint: \"http://127.0.0.1:1\", headers: { x-key: sk-canary } }")
        .start();
    for _ in 0..3 {
        assert_eq!(chat(&gateway, ASK).text(), CHAT);
        let failed = || gateway.metric("weir_trace_spans_total", &[("outcome", "failed")]);
        let before = failed();
        eventually("the spans are given up", || failed() > before + 1.5);
    }
    let complaints = gateway.log().matches("the collector takes no traces").count();
    assert_eq!(complaints, 1, "one line a minute:\n{}", gateway.log());
    assert!(!gateway.log().contains("canary"));
    let health = get(gateway.control(), "/healthz").unwrap().json();
    let tasks = health["tasks"].as_array().unwrap();
    let task = tasks.iter().find(|task| task["name"] == "traces").unwrap();
    assert!(task["running"] == true && task["failures"].as_u64().unwrap() >= 3, "{task}");
}

#[test]
fn a_collector_that_hangs_holds_up_neither_calls_nor_the_end() {
    let upstream = Upstream::always(Answer::chat());
    let collector = Collector::that(Answer::default().stall());
    let mut gateway = traced(&upstream, &collector).config("drain: 1s").start();
    for _ in 0..20 {
        assert_eq!(chat(&gateway, ASK).text(), CHAT);
    }
    eventually("the collector is asked", || !collector.exports().is_empty());
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0));
    assert!(gateway.log().contains("the last traces are lost"), "{}", gateway.log());
}

#[test]
fn the_last_traces_are_exported_before_the_end() {
    let go_on = gate();
    let answer = Answer::events().chunk(delta("One")).wait(&go_on).chunk(USAGE.to_owned() + DONE);
    let (upstream, collector) = (Upstream::always(answer.end()), Collector::http());
    let mut gateway = traced(&upstream, &collector).start();
    let mut stream = Raw::connect(gateway.data());
    stream.send(post_with("/v1/chat/completions", "", STREAM));
    stream.head().unwrap();
    stream.chunk().unwrap();
    gateway.process.signal("TERM");
    eventually("it is not ready", || get(gateway.control(), "/readyz").unwrap().status == 503);
    go_on.add_permits(1);
    while stream.chunk().unwrap().is_some() {}
    assert_eq!(gateway.process.exit().code(), Some(0));
    assert_says(&collector.wait_for(2)[0], json!({"gen_ai.usage.output_tokens": 3}));
}

#[test]
fn openmetrics_carries_the_last_trace_of_each_bucket() {
    let stream = delta("Hi") + USAGE + DONE;
    let (upstream, collector) = (Upstream::always(Answer::stream(stream)), Collector::http());
    let gateway = traced(&upstream, &collector).start();
    ask(&gateway, &[&parent("01")], STREAM);
    collector.wait_for(2);
    let wanted = "accept: application/openmetrics-text; version=1.0.0\r\n";
    let answer = get_with(gateway.control(), "/metrics", wanted).unwrap();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(kind));
    let text = answer.text();
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    for name in
        ["gen_ai_server_request_duration_seconds", "gen_ai_server_time_to_first_token_seconds"]
    {
        let bucket = format!("{name}_bucket{{");
        let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} ");
        let with =
            text.lines().filter(|line| line.starts_with(&bucket) && line.contains(&exemplar));
        assert_eq!(with.count(), 1, "{name}:\n{text}");
    }
    let plain = get(gateway.control(), "/metrics").unwrap();
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!plain.text().contains("trace_id") && !plain.text().contains("# EOF"));
}

#[test]
fn a_real_prometheus_finds_the_trace_behind_a_bucket() {
    let stream = delta("Hi") + USAGE + DONE;
    let (upstream, collector) = (Upstream::always(Answer::stream(stream)), Collector::http());
    let gateway = traced(&upstream, &collector).start();
    let prometheus = Prometheus::scraping(&gateway);
    let query = "gen_ai_server_request_duration_seconds_bucket";
    // The first sample of a series may have no exemplar: it is new to Prometheus.
    eventually("Prometheus has the exemplar", || {
        ask(&gateway, &[&parent("01")], STREAM);
        let found = prometheus.ask("query_exemplars", query).unwrap_or_default();
        let series = found["data"].as_array().into_iter().flatten();
        let mut exemplars = series.flat_map(|one| one["exemplars"].as_array().unwrap().clone());
        exemplars.any(|one| one["labels"]["trace_id"] == TRACE)
    });
    for series in [query, "gen_ai_client_cost_usd_total", "weir_trace_spans_total", "up == 1"] {
        let samples = || prometheus.ask("query", series).unwrap()["data"]["result"].clone();
        eventually(&format!("{series} is scraped"), || !samples().as_array().unwrap().is_empty());
    }
}
