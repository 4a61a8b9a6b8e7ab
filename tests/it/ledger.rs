//! The ledger as finance meets it: every call is a row, and the figures agree wherever they are read.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde_json::Value;
use weir::metering::cost::Usd;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::call;
use crate::support::chat;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::get;
use crate::support::http::post;
use crate::support::rows::ids;
use crate::support::rows::rows;

const BODY: &str = r#"{"model":"gpt-4.1-mini","messages":[]}"#;

fn spend(gateway: &Gateway, query: &str) -> Value {
    let answer = get(gateway.control(), &format!("/api/spend{query}")).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

/// What the rows of the store add up to.
fn sum_of_rows(store: &str) -> Usd {
    let costs = rows(store, "select cost_picodollars from interactions").unwrap();
    let costs = costs.iter().filter(|row| row[0] != "null");
    Usd::from_picodollars(costs.map(|row| row[0].parse::<i128>().unwrap()).sum())
}

/// Answers by the request's number: whole, streamed, streamed to nobody, unpriced, refused.
fn mixed() -> Upstream {
    let whole = |model: &str| Answer::json(200, CHAT.replace("gpt-4.1-mini-2025-04-14", model));
    let (stream, cut) = (delta("Hi") + USAGE + DONE, delta("Hi there, and"));
    Upstream::with(move |_, request| {
        let kind = request.header("x-kind").unwrap_or_default();
        match kind {
            "stream" => Answer::stream(&stream),
            "left" => Answer::events().chunk(&cut).stall(),
            "refused" => Answer::json(400, r#"{"error":{}}"#),
            "unpriced" => whole("nobody-knows"),
            _ => whole("gpt-4.1-mini-2025-04-14"),
        }
    })
}

fn ask(kind: &str, model: &str) -> Vec<u8> {
    let stream = matches!(kind, "stream" | "left");
    let body = format!(
        r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"Hello"}}]}}"#
    );
    let request = String::from_utf8(post("/v1/chat/completions", body)).unwrap();
    request.replace("\r\n\r\n", &format!("\r\nx-kind: {kind}\r\n\r\n")).into_bytes()
}

#[test]
fn rows_counter_and_api_tell_one_sum_also_after_a_kill() {
    let upstream = mixed();
    let mut gateway = Gateway::start(&upstream);
    let address = gateway.data();
    let sent = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let sent = Arc::clone(&sent);
            std::thread::spawn(move || {
                for turn in 0..25 {
                    let kind =
                        ["whole", "stream", "left", "refused", "unpriced"][(client + turn) % 5];
                    let model = match kind {
                        "unpriced" => "nobody-knows",
                        _ => ["gpt-4.1-mini", "gpt-5", "gpt-6-luna"][turn % 3],
                    };
                    let mut raw = Raw::connect(address);
                    raw.send(ask(kind, model));
                    if kind == "left" {
                        raw.head().unwrap();
                        raw.chunk().unwrap();
                        raw.close();
                    } else {
                        raw.response().unwrap();
                    }
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let sent = sent.load(Ordering::SeqCst);
    assert_eq!(sent, 200);
    eventually("every call is in the store", || gateway.records("stored") == 200);

    let counter = gateway.metric("gen_ai_client_cost_usd_total", &[]);
    let rows = sum_of_rows(&gateway.store());
    let total = spend(&gateway, "");
    let total = &total["data"][0];
    assert!(rows > Usd::ZERO);
    // The scrape is a float; nothing less than a tenth of a picodollar may be between them.
    assert!((counter - rows.to_f64()).abs() < 1e-13, "{counter} {rows}");
    assert_eq!(usd(total["cost_usd"].as_str().unwrap()), rows);
    let parts = ["exact_cost_usd", "estimated_cost_usd"].map(|p| usd(total[p].as_str().unwrap()));
    assert_eq!(parts.into_iter().sum::<Usd>(), rows);
    // 200 calls of 5 kinds: 40 of each.
    let counts = ["requests", "exact_requests", "estimated_requests", "unpriced_requests"];
    assert_eq!(counts.map(|name| total[name].as_i64().unwrap()), [200, 80, 40, 40]);
    // Each unpriced one has 9 tokens in and 3 out.
    assert_eq!(total["unpriced_input_tokens"], 360);
    assert_eq!(total["unpriced_output_tokens"], 120);
    let by_model = spend(&gateway, "?group_by=model,key,hour");
    let lines = by_model["data"].as_array().unwrap();
    let priced = lines.iter().filter_map(|line| line["cost_usd"].as_str());
    assert_eq!(priced.map(usd).sum::<Usd>(), rows);
    let unknown = lines.iter().find(|line| line["model"] == "nobody-knows").unwrap();
    assert_eq!(unknown["cost_usd"], Value::Null, "unpriced is not nothing");

    gateway.kill();
    gateway.start_again();
    assert_eq!(sum_of_rows(&gateway.store()), rows);
    assert_eq!(spend(&gateway, "")["data"][0], *total);
}

#[test]
fn a_row_says_what_became_of_its_call() {
    let upstream = mixed();
    let gateway = Gateway::start(&upstream);
    let body = r#"{"model":"gpt-4.1-mini","user":"ada@example.com","messages":[]}"#;
    let request = String::from_utf8(post("/v1/chat/completions", body)).unwrap();
    let noted = "\r\nx-weir-tag-app: bot\r\nx-weir-session: s-1\r\n\r\n";
    let answer = exchange(&gateway, request.replace("\r\n\r\n", noted));
    let id = answer.header("x-weir-id").unwrap().to_owned();
    let mut raw = Raw::connect(gateway.data());
    raw.send(ask("left", "gpt-5"));
    let left = raw.head().unwrap().header("x-weir-id").unwrap().to_owned();
    raw.chunk().unwrap();
    raw.close();
    let not_found = exchange(&gateway, "GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("all are stored", || ids(&gateway.store()).len() == 3);

    let store = gateway.store();
    let row = |id: &str, columns: &str| {
        let sql = format!("select {columns} from interactions where id = '{id}'");
        rows(&store, &sql).unwrap().remove(0)
    };
    let columns = "requested_model, model, response_model, provider, route, substr(key_name, 1, 3), endpoint, \
                   status_code, attempts, client_left, usage_source, price_status, \
                   cost_picodollars, tags, session_id, policy_version";
    let policy = answer.header("x-weir-policy").unwrap();
    // 9 x 0.4e-6 + 3 x 1.6e-6 = 8.4e-6
    let expected = [
        "gpt-4.1-mini",
        "gpt-4.1-mini",
        "gpt-4.1-mini-2025-04-14",
        "openai",
        "default",
        "fp_",
        "chat/completions",
        "200",
        "1",
        "0",
        "reported",
        "exact",
        "8400000",
        r#"{"app":"bot"}"#,
        "s-1",
        policy,
    ];
    assert_eq!(row(&id, columns), expected);
    let columns = "client_left, error_code, usage_source, price_status, streamed, ttft_ms >= 0";
    let expected = ["1", "client_gone", "estimated", "estimated", "1", "1"];
    assert_eq!(row(&left, columns), expected);
    let not_found = not_found.header("x-weir-id").unwrap();
    let columns = "status_code, error_code, usage_source, price_status, cost_picodollars, attempts";
    assert_eq!(row(not_found, columns), ["404", "unknown_url", "null", "null", "null", "0"]);
    let users = "select distinct end_user_hash from interactions where end_user_hash is not null";
    let users = rows(&store, users).unwrap();
    assert_eq!((users.len(), users[0][0].len()), (1, 24));
}

#[test]
fn nothing_that_was_said_and_no_key_is_written_to_disk() {
    let upstream = Upstream::script([
        Answer::json(200, CHAT.replace("Hello there!", "canary-answer")),
        Answer::events().chunk(delta("canary-answer")).reset(),
    ]);
    let gateway = Gateway::builder(&upstream)
        .upstream("api_key", "sk-canary-own")
        .config("store: postgres://u:canary-password@127.0.0.1:9/db")
        .start();
    for stream in [false, true] {
        let body = format!(
            r#"{{"model":"gpt-5","stream":{stream},"user":"canary-user","safety_identifier":"canary-user","messages":[{{"role":"user","content":"canary-prompt"}}]}}"#
        );
        let request = String::from_utf8(post("/v1/chat/completions?q=canary-query", body)).unwrap();
        exchange_any(&gateway, &request.replace("sk-caller", "sk-canary-caller"));
    }
    eventually("both are spooled", || gateway.records("appended") == 2);
    eventually("the store is missed", || gateway.log().contains("wait in the spool"));
    let answer = get(gateway.control(), "/api/spend").unwrap();
    answer.assert_error(503, "api_error", "store_unavailable");
    let mut seen = gateway.log() + &answer.text();
    for file in files(&gateway.folder().join("data")) {
        seen.push_str(&String::from_utf8_lossy(&std::fs::read(file).unwrap()));
    }
    assert!(seen.contains("gpt-5"));
    assert!(!seen.contains("canary"), "{seen}");
}

/// Sends a request and reads whatever comes.
fn exchange_any(gateway: &Gateway, request: &str) {
    let _ = Raw::connect(gateway.data()).send(request).response();
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_question_that_cannot_be_answered_is_told_what_is_wrong() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    for (query, param, said) in [
        ("?group_by=colour", "group_by", "colour"),
        ("?since=yesterday", "since", "24h"),
        ("?limit=-1", "limit", "10000"),
        ("?sicne=24h", "sicne", "since"),
    ] {
        let answer = get(gateway.control(), &format!("/api/spend{query}")).unwrap();
        answer.assert_error(400, "invalid_request_error", "invalid_parameter");
        let error = &answer.json()["error"];
        assert_eq!(error["param"], param);
        assert!(error["message"].as_str().unwrap().contains(said), "{}", answer.text());
    }
    let list = spend(&gateway, "?group_by=model&since=2026-01-01T00:00:00%2B02:00");
    assert_eq!((&list["object"], &list["has_more"]), (&"list".into(), &false.into()));
    assert_eq!((&list["first_id"], &list["data"]), (&Value::Null, &Value::Array(Vec::new())));
}

#[test]
fn without_a_store_nothing_is_written_and_traffic_flows() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config("store: \"off\"").start();
    assert_eq!(chat(&gateway, BODY).status, 200);
    assert_eq!(get(gateway.control(), "/readyz").unwrap().json()["store"], "off");
    let answer = get(gateway.control(), "/api/spend").unwrap();
    answer.assert_error(404, "invalid_request_error", "store_off");
    assert!(!gateway.folder().join("data/spool").exists());
    assert!(!gateway.folder().join("data/weir.db").exists());
}

#[test]
fn the_command_line_reads_the_ledger_and_prices_it_again() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream)
        .policy("models:\n  house: { price: { input: 1, output: 2 } }")
        .start();
    let body = r#"{"model":"house","messages":[]}"#;
    call(&gateway, "/v1/chat/completions", body);
    call(&gateway, "/v1/chat/completions", body);
    eventually("both are stored", || gateway.records("stored") == 2);
    let folder = gateway.folder();

    // 2 x (9 x 1e-6 + 3 x 2e-6) = 0.00003
    let (code, table, _) =
        weir(folder, &["spend", "--since", "24h", "--group-by", "model,team"], "");
    assert_eq!(code, Some(0));
    let line: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line, ["house", "-", "2", "0.00003", "0", "0", "18", "6", "0"], "{table}");
    let (_, list, _) = weir(folder, &["spend", "--json", "--group-by", "model"], "");
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list, spend(&gateway, "?group_by=model"));

    let policy = folder.join("policies/main.yaml");
    let text = std::fs::read_to_string(&policy).unwrap().replace("output: 2", "output: 12");
    std::fs::write(&policy, text).unwrap();
    // 2 x (9 x 1e-6 + 3 x 12e-6) = 0.00009
    let (code, said, error) = weir(folder, &["spend", "recost", "--since", "1h", "--json"], "");
    assert_eq!(code, Some(0), "{error}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["requests"], &said["changed"]), (&2.into(), &2.into()));
    assert_eq!(said["cost_recosted_usd"], "0.00009");
    let line = &spend(&gateway, "?group_by=model")["data"][0];
    assert_eq!(
        (&line["cost_usd"], &line["cost_recosted_usd"]),
        (&"0.00003".into(), &"0.00009".into())
    );

    for (arguments, expected, said) in [
        (&["spend", "--since", "soon"][..], 1, "`since`"),
        (&["spend", "--group-by", "colour"], 1, "colour"),
        (&["spend", "--colour"], 2, "--colour"),
        (&["spend", "--config", "nowhere.yaml"], 1, "nowhere.yaml"),
    ] {
        let (code, out, error) = weir(folder, arguments, "");
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{arguments:?}");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}

#[test]
fn a_store_without_a_ledger_is_told_and_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = weir(folder.path(), &["spend"], "");
    assert_eq!(code, Some(1));
    assert!(error.contains("sqlite:data/weir.db"), "{error}");
    assert!(!folder.path().join("data").exists(), "reading makes nothing");
    let (code, said, _) = weir(folder.path(), &["migrate", "--json"], "");
    assert_eq!(code, Some(0));
    assert_eq!(
        said,
        "{\"applied\":[\"interactions\",\"capture\",\"datasets\",\"keys\",\"limits\",\"training_queue\",\"documents\"],\"store\":\"sqlite:data/weir.db\"}\n"
    );
    let (_, said, _) = weir(folder.path(), &["migrate"], "");
    assert_eq!(said, "sqlite:data/weir.db is up to date\n");
    let (code, said, _) = weir(folder.path(), &["spend"], "");
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
}
