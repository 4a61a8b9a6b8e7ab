//! Capture: what is kept of a call, who may lower it, and how it is read again.

use serde_json::Value;
use serde_json::json;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::answer::CHAT;
use crate::support::answer::gate;
use crate::support::chat;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::Response;
use crate::support::http::get;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

/// Spaces, an unknown field and an escape, as a client may send them.
const ASKED: &str = "{ \"model\" : \"gpt-4.1-mini\",\"odd\":1.50e+0, \"messages\":[{\"role\":\"user\",\
                     \"content\":\"caf\\u00e9 \u{1F600}\"}]}";

fn ask(gateway: &Gateway, headers: &str, body: &str) -> Response {
    exchange(gateway, post_with("/v1/chat/completions", headers, body))
}

fn id_of(answer: &Response) -> String {
    answer.header("x-weir-id").unwrap().to_owned()
}

fn read(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.control(), path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// An interaction, once it is in the store.
fn stored(gateway: &Gateway, id: &str) -> Value {
    let path = format!("/api/interactions/{id}");
    eventually("the interaction is stored", || {
        get(gateway.control(), &path).is_some_and(|answer| answer.status == 200)
    });
    read(gateway, &path)
}

/// The ids of a page.
fn ids(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

#[test]
fn a_pair_is_kept_as_it_was_said_on_both_stores() {
    let server = Postgres::start();
    for store in [None, Some(server.create("pairs"))] {
        let upstream = Upstream::always(Answer::chat());
        let config = store.map(|url| format!("store: {url}")).unwrap_or_default();
        let gateway = Gateway::builder(&upstream).config(&config).start();
        let answer = ask(&gateway, "x-weir-session: s-1\r\nx-weir-tag-app: chat\r\n", ASKED);
        assert_eq!(answer.header("x-weir-capture"), Some("full"));
        let kept = stored(&gateway, &id_of(&answer));
        let raw = get(gateway.control(), &format!("/api/interactions/{}", id_of(&answer)));
        assert!(raw.unwrap().text().contains(ASKED), "byte for byte");
        assert_eq!(kept["response"], serde_json::from_str::<Value>(CHAT).unwrap());
        for (name, value) in [
            ("object", json!("interaction")),
            ("id", json!(id_of(&answer))),
            ("endpoint", json!("chat/completions")),
            ("requested_model", json!("gpt-4.1-mini")),
            ("response_model", json!("gpt-4.1-mini-2025-04-14")),
            ("response_id", json!("chatcmpl-1")),
            ("status_code", json!(200)),
            ("finish_reason", json!("stop")),
            ("session_id", json!("s-1")),
            ("tags", json!({ "app": "chat" })),
            ("streamed", json!(false)),
            ("client_left", json!(false)),
            ("capture", json!("full")),
            ("consent", json!("train")),
            ("usage_source", json!("reported")),
            ("cost_usd", json!("0.0000084")),
            ("expires_at", Value::Null),
            (
                "attempt_log",
                json!([{ "upstream": "openai", "model": "gpt-4.1-mini", "outcome": "ok" }]),
            ),
            ("feedback", json!({})),
        ] {
            assert_eq!(kept[name], value, "{name}");
        }
        let created = kept["created_at"].as_str().unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(created).is_ok(), "{created}");
        // The same by the answer's own name.
        assert_eq!(stored(&gateway, "chatcmpl-1")["id"], kept["id"]);
        let unknown = get(gateway.control(), "/api/interactions/chatcmpl-2").unwrap();
        unknown.assert_error(404, "invalid_request_error", "not_found");
    }
}

#[test]
fn a_compressed_answer_is_kept_plain() {
    let (answer, packed) = Answer::gzip(CHAT);
    let upstream = Upstream::always(answer);
    let gateway = Gateway::start(&upstream);
    let answer = ask(&gateway, "accept-encoding: gzip\r\n", ASKED);
    assert_eq!(answer.body, packed);
    let kept = stored(&gateway, &id_of(&answer));
    assert_eq!(kept["response"]["id"], "chatcmpl-1");
}

#[test]
fn an_answer_that_refuses_is_kept_with_its_request() {
    let refusal = r#"{"error":{"message":"no","type":"invalid_request_error"}}"#;
    let upstream = Upstream::always(Answer::json(400, refusal));
    let gateway = Gateway::start(&upstream);
    let kept = stored(&gateway, &id_of(&chat(&gateway, ASKED)));
    assert_eq!(kept["response"]["error"]["message"], "no");
    assert_eq!((&kept["status_code"], &kept["error_code"]), (&json!(400), &json!("400")));
}

#[test]
fn the_first_capture_rule_that_holds_decides_and_a_request_can_only_lower() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream)
        .policy(
            r#"capture:
  - { when: 'request.model == "quiet"', mode: "off" }
  - { when: 'request.model == "figures"', mode: metadata }
  - { when: 'request.model == "month"', keep: 30d }
"#,
        )
        .start();
    let with = |model: &str, headers: &str| {
        let body = ASKED.replace("gpt-4.1-mini", model);
        let answer = ask(&gateway, &format!("x-weir-session: s\r\n{headers}"), &body);
        (id_of(&answer), answer.header("x-weir-capture").unwrap().to_owned())
    };
    for (model, headers, expected) in [
        ("month", "", "full"),
        ("month", "x-weir-capture: full\r\n", "full"),
        ("month", "x-weir-capture: metadata\r\n", "metadata"),
        ("month", "x-weir-capture: off\r\n", "off"),
        ("month", "x-weir-capture: no\r\n", "off"),
        ("figures", "", "metadata"),
        ("figures", "x-weir-capture: full\r\n", "metadata"),
        ("quiet", "", "off"),
        ("quiet", "x-weir-capture: full\r\n", "off"),
    ] {
        let (id, told) = with(model, headers);
        assert_eq!(told, expected, "{model} {headers}");
        eventually("the bill is there", || {
            let sql = format!("select capture from interactions where id = '{id}'");
            rows(&gateway.store(), &sql).is_ok_and(|rows| rows == [[expected]])
        });
        let bodies =
            format!("select count(*) from interaction_bodies where interaction_id = '{id}'");
        let full = u8::from(expected == "full").to_string();
        assert_eq!(rows(&gateway.store(), &bodies).unwrap(), [[full]]);
        let path = format!("/api/interactions/{id}");
        let shown = get(gateway.control(), &path).unwrap();
        assert_eq!(shown.status, if expected == "off" { 404 } else { 200 });
        if expected != "off" {
            assert_eq!(shown.json()["session_id"], "s");
        }
        // Whatever is kept, the money is.
        let known = format!(
            "select price_status, coalesce(session_id, '-') from interactions where id = '{id}'"
        );
        let session = if expected == "off" { "-" } else { "s" };
        assert_eq!(rows(&gateway.store(), &known).unwrap(), [["exact", session]]);
    }
    let kept = "select count(*) from interactions where capture = 'full' \
                and expires_at = created_at + 30 * 86400000";
    assert_eq!(rows(&gateway.store(), kept).unwrap(), [["2"]]);
}

#[test]
fn a_rule_holds_for_calls_that_are_refused_or_not_read_as_well() {
    let upstream = Upstream::always(Answer::json(200, "{}"));
    let gateway = Gateway::builder(&upstream)
        .policy(
            r#"routes: [{ name: no, when: request.model == "forbidden", reject: { message: no } }]
capture: [{ when: 'tag["app"] == "clinic"', mode: "off" }]"#,
        )
        .start();
    let send = |path: &str, app: &str, body: &str| {
        let headers = format!("x-weir-session: s\r\nx-weir-tag-app: {app}\r\n");
        exchange(&gateway, post_with(path, &headers, body))
    };
    let chat = "/v1/chat/completions";
    for (path, body, status) in [
        (chat, r#"{"model":"forbidden","messages":[]}"#, 403),
        (chat, "no JSON", 400),
        ("/v1/moderations", "{}", 200),
    ] {
        for (app, expected) in [("clinic", "off"), ("shop", "metadata")] {
            let answer = send(path, app, body);
            assert_eq!(answer.status, status, "{path} {body}");
            assert_eq!(answer.header("x-weir-capture"), Some(expected), "{path} {body} {app}");
        }
    }
    eventually("all are stored", || gateway.records("stored") == 6);
    let named = "select count(*) from interactions where session_id is not null or tags <> '{}'";
    assert_eq!(rows(&gateway.store(), named).unwrap(), [["3"]]);
}

#[test]
fn without_a_store_nothing_is_kept_and_that_is_said() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config("store: \"off\"").start();
    assert_eq!(chat(&gateway, ASKED).header("x-weir-capture"), Some("off"));
    let page = get(gateway.control(), "/api/interactions").unwrap();
    page.assert_error(404, "invalid_request_error", "store_off");
    let verdict = post_with("/api/feedback", "", r#"{"id":"x","name":"n","value":true}"#);
    exchange(&gateway, verdict).assert_error(404, "invalid_request_error", "store_off");
}

#[test]
fn a_durable_record_is_on_disk_before_the_answer_ends() {
    let event = "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let stream = Answer::stream(format!("{event}data: [DONE]\n\n"));
    let upstream = Upstream::script([Answer::chat(), stream]);
    let mut gateway = Gateway::builder(&upstream)
        .policy("capture: [{ durable: true }]")
        // Nothing is shipped: what is on disk is in the spool.
        .config("store: postgres://weir@127.0.0.1:1/none")
        .start();
    let whole = chat(&gateway, ASKED);
    let streamed = chat(&gateway, &ASKED.replace("\"odd\":1.50e+0", "\"stream\":true"));
    assert!(streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    // No moment for a thread to catch up.
    gateway.kill();
    let spool = crate::spool::all_spooled(&gateway);
    assert_eq!(spool, [id_of(&whole), id_of(&streamed)]);
}

#[test]
fn a_durable_request_is_refused_where_its_record_cannot_be_kept() {
    let upstream = Upstream::always(Answer::chat());
    let policy = "capture: [{ when: 'request.model == \"dear\"', durable: true }]";
    let gateway = Gateway::builder(&upstream)
        .policy(policy)
        // A file is in the way of the folder.
        .config("spool: { dir: weir.yaml/spool }")
        .start();
    let dear = ASKED.replace("gpt-4.1-mini", "dear");
    // The first one finds out, after the provider has answered.
    let first = chat(&gateway, &dear);
    first.assert_error(503, "api_error", "server_overloaded");
    assert!(first.text().contains("on disk"), "{}", first.text());
    let asked = upstream.count();
    chat(&gateway, &dear).assert_error(503, "api_error", "server_overloaded");
    assert_eq!(upstream.count(), asked, "this one was not sent");
    assert_eq!(chat(&gateway, ASKED).status, 200, "others go on");
}

#[test]
fn a_client_that_leaves_is_in_the_record() {
    let open = gate();
    let event = "data: {\"id\":\"chatcmpl-9\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let upstream = Upstream::always(Answer::events().chunk(event).wait(&open));
    let gateway = Gateway::start(&upstream);
    let mut client = crate::support::Raw::connect(gateway.data());
    client.send(post_with(
        "/v1/chat/completions",
        "",
        ASKED.replace("\"odd\":1.50e+0", "\"stream\":true"),
    ));
    let id = client.head().unwrap().header("x-weir-id").unwrap().to_owned();
    client.chunk().unwrap();
    client.close();
    let kept = stored(&gateway, &id);
    assert_eq!((&kept["client_left"], &kept["usage_source"]), (&json!(true), &json!("estimated")));
    assert_eq!(kept["request"]["stream"], true);
    assert_eq!(kept["response"]["choices"][0]["message"]["content"], "hi");
    assert_eq!(kept["response"]["weir_incomplete"], "the stream ended early");
}

#[test]
fn a_stream_is_kept_as_the_answer_that_it_amounts_to() {
    let chunk = |delta: Value, end: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": end});
        let chunk = json!({"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1,
            "model": "gpt-4.1-mini", "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    let usage = json!({"id": "chatcmpl-7", "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3}});
    let events = [
        chunk(json!({"role": "assistant", "content": "Hel"}), Value::Null),
        chunk(json!({"content": "lo"}), Value::Null),
        chunk(json!({}), json!("stop")),
        format!("data: {usage}\n\ndata: [DONE]\n\n"),
    ];
    let upstream = Upstream::always(Answer::stream(events.concat()));
    let gateway = Gateway::start(&upstream);
    let answer = chat(&gateway, &ASKED.replace("\"odd\":1.50e+0", "\"stream\":true"));
    let kept = stored(&gateway, &id_of(&answer));
    // Usage is there although the client did not ask for it.
    let whole = json!({"id": "chatcmpl-7", "object": "chat.completion", "created": 1,
        "model": "gpt-4.1-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3}});
    assert_eq!(kept["response"], whole);
    assert_eq!((&kept["streamed"], &kept["response_id"]), (&json!(true), &json!("chatcmpl-7")));
    assert_eq!(kept["usage_source"], "reported");
}

#[test]
fn what_cannot_be_read_is_left_out_and_counted() {
    // An answer in a coding that nobody here reads.
    let coded =
        Answer::whole(200, "content-type: application/json\r\ncontent-encoding: br\r\n", "x");
    let upstream = Upstream::always(coded);
    let gateway = Gateway::start(&upstream);
    let kept = stored(&gateway, &id_of(&chat(&gateway, ASKED)));
    assert_eq!((&kept["capture"], &kept["request"]), (&json!("metadata"), &Value::Null));
    assert_eq!(gateway.records("body_dropped"), 1);
}

#[test]
fn interactions_are_found_by_what_is_known_of_them_on_both_stores() {
    let server = Postgres::start();
    for store in [None, Some(server.create("pages"))] {
        let refusal = Answer::json(429, r#"{"error":{"message":"slow down"}}"#);
        let mut answers = vec![Answer::chat(); 6];
        answers.push(refusal);
        let upstream = Upstream::script(answers);
        let config = store.map(|url| format!("store: {url}")).unwrap_or_default();
        let policy = "routes: [{ name: once, when: 'true', attempts: 1 }]";
        let gateway = Gateway::builder(&upstream).policy(policy).config(&config).start();
        let mut sent = Vec::new();
        for (n, model) in
            ["gpt-4.1", "gpt-4.1", "gpt-4o", "gpt-4o", "gpt-4o", "gpt-4.1"].into_iter().enumerate()
        {
            let headers = format!("x-weir-session: s-{}\r\nx-weir-tag-n: {n}\r\n", n % 2);
            let body = json!({"model": model, "user": "ada", "messages":
                [{"role": "user", "content": format!("Nummer {n} für \"dich\"")}]});
            sent.push(id_of(&ask(&gateway, &headers, &body.to_string())));
        }
        sent.push(id_of(&chat(&gateway, ASKED)));
        eventually("all are stored", || {
            ids(&read(&gateway, "/api/interactions")).len() == sent.len()
        });
        let find = |query: &str| -> Vec<usize> {
            let page = read(&gateway, &format!("/api/interactions?{query}"));
            let place = |id: &str| sent.iter().position(|sent| sent == id).unwrap();
            ids(&page).into_iter().map(place).collect()
        };
        assert_eq!(find(""), [6, 5, 4, 3, 2, 1, 0], "the newest first");
        assert_eq!(find("order=asc&limit=2"), [0, 1]);
        assert_eq!(find(&format!("order=asc&limit=2&after={}", sent[1])), [2, 3]);
        assert_eq!(find("requested_model=gpt-4o"), [4, 3, 2]);
        assert_eq!(find("session=s-1&model=gpt-4.1"), [5, 1]);
        assert_eq!(find("tag=n:2"), [2]);
        assert_eq!(find("user=ada&limit=1"), [5]);
        assert_eq!(find("user=eve"), [0_usize; 0]);
        assert_eq!(find("status=429"), [6]);
        assert_eq!(find("route=once&status=200&limit=1"), [5]);
        assert_eq!(find("key=passthrough&team=x"), [0_usize; 0]);
        assert_eq!(find("since=1h").len(), 7);
        assert_eq!(find("until=1h"), [0_usize; 0]);
        assert_eq!(find("q=NUMMER+3+F%C3%9CR+%22dich%22"), [3], "in whatever case and escaped");
        assert_eq!(find("q=hello+there&limit=2"), [5, 4], "in the answer");
        assert_eq!(find("q=nowhere"), [0_usize; 0]);
        let page = read(&gateway, "/api/interactions?limit=3");
        assert_eq!(page["object"], "list");
        assert_eq!((&page["has_more"], &page["last_id"]), (&json!(true), &json!(sent[4])));
        assert_eq!(page["first_id"], json!(sent[6]));
        for (wrong, part) in [
            ("colour=red", "has_feedback"),
            ("limit=0", "1 and 1000"),
            ("since=yesterday", "24h"),
            ("tag=n", "name:value"),
            ("after=x", "no interaction"),
            ("has_feedback=maybe", "true nor false"),
            ("status=fine", "HTTP status"),
        ] {
            let answer = get(gateway.control(), &format!("/api/interactions?{wrong}")).unwrap();
            answer.assert_error(400, "invalid_request_error", "invalid_parameter");
            assert!(answer.text().contains(part), "{wrong}: {}", answer.text());
        }
    }
}

#[test]
fn the_last_verdict_of_a_name_counts_and_may_come_before_the_record() {
    let server = Postgres::start();
    for store in [None, Some(server.create("feedback"))] {
        let upstream = Upstream::always(Answer::chat());
        let config = store.map(|url| format!("store: {url}")).unwrap_or_default();
        let gateway = Gateway::builder(&upstream).config(&config).start();
        let judge = |body: &Value, headers: &str| {
            let answer = exchange(&gateway, post_with("/api/feedback", headers, body.to_string()));
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.json()
        };
        // Before there is anything to judge.
        let early = judge(&json!({"id": "chatcmpl-1", "name": "thumbs", "value": true}), "");
        assert_eq!(
            (&early["object"], &early["target"]),
            (&json!("feedback"), &json!("chatcmpl-1"))
        );
        assert!(early["key_name"].as_str().unwrap().starts_with("fp_"), "{early}");
        let id = id_of(&ask(&gateway, "x-weir-session: s-1\r\n", ASKED));
        let verdicts = |gateway: &Gateway| {
            let kept = stored(gateway, &id);
            (kept["feedback"].clone(), kept["feedback_history"].as_array().unwrap().len())
        };
        eventually("it joins", || verdicts(&gateway) == (json!({"thumbs": true}), 1));
        // Once more the same says nothing new.
        judge(&json!({"id": "chatcmpl-1", "name": "thumbs", "value": true}), "");
        judge(&json!({"id": id, "name": "score", "value": 0.5}), "");
        let told = json!({"role": "assistant", "content": "Hello, Ada."});
        judge(&json!({"id": "s-1", "name": "better", "value": {"demonstration": told}}), "");
        judge(&json!({"id": "chatcmpl-1", "name": "thumbs", "value": false}), "");
        judge(
            &json!({"id": "chatcmpl-1", "name": "thumbs", "value": true}),
            "idempotency-key: k\r\n",
        );
        judge(
            &json!({"id": "chatcmpl-1", "name": "thumbs", "value": true}),
            "idempotency-key: k\r\n",
        );
        let expected = json!({"thumbs": true, "score": 0.5, "better": {"demonstration": told}});
        eventually("all are there", || verdicts(&gateway) == (expected.clone(), 5));
        assert_eq!(ids(&read(&gateway, "/api/interactions?has_feedback=true")), [id.as_str()]);
        let none = read(&gateway, "/api/interactions?has_feedback=false");
        assert_eq!(ids(&none), [""; 0]);
        let bad = post_with("/api/feedback", "", r#"{"id":"x","name":"n","value":null}"#);
        let bad = exchange(&gateway, bad);
        bad.assert_error(400, "invalid_request_error", "invalid_parameter");
        assert_eq!(bad.json()["error"]["param"], "value");
        // The control plane takes them too.
        let mut control = crate::support::Raw::connect(gateway.control());
        let body = json!({"id": id, "name": "audit", "value": "fine"}).to_string();
        let answer = control.send(post_with("/api/feedback", "", &body)).response().unwrap();
        assert_eq!((answer.status, &answer.json()["key_name"]), (200, &json!("admin")));
    }
}

#[test]
fn the_command_line_shows_what_was_captured() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let sent: Vec<String> = (0..3).map(|_| id_of(&chat(&gateway, ASKED))).collect();
    stored(&gateway, &sent[2]);
    let (code, out, _) = weir(gateway.folder(), &["interactions", "tail", "-n", "2"], "");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 2));
    // The newest at the end; 9 and 3 tokens, and what they cost.
    assert!(lines[0].contains(&sent[1]) && lines[1].contains(&sent[2]), "{out}");
    assert!(lines[1].contains("gpt-4.1-mini  9  3  0.0000084"), "{out}");
    let arguments = ["interactions", "tail", "--where", "model=other", "--json"];
    assert_eq!(weir(gateway.folder(), &arguments, ""), (Some(0), String::new(), String::new()));
    let (_, out, _) = weir(gateway.folder(), &["interactions", "show", &sent[0]], "");
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["request"]["messages"][0]["content"], "caf\u{e9} \u{1F600}");
    let (code, _, error) = weir(gateway.folder(), &["interactions", "show", "nobody"], "");
    assert_eq!(code, Some(1));
    assert!(error.contains("no interaction `nobody` in sqlite:data/weir.db"), "{error}");
    for (wrong, part) in [("model", "name=value"), ("colour=red", "has_feedback")] {
        let arguments = ["interactions", "tail", "--where", wrong];
        let (code, _, error) = weir(gateway.folder(), &arguments, "");
        assert!(code == Some(1) && error.contains(part), "{wrong}: {error}");
    }
}

#[test]
fn secrets_and_personal_data_are_replaced_before_anything_reaches_a_disk() {
    let key = concat!("sk-", "proj-", "A1b2C3d4E5f6G7h8I9j0K1l2M3n4");
    let said = format!("Ask ada@example.com, the key is {key}.");
    let arguments = json!({ "to": "ada@example.com" }).to_string();
    let answer = json!({"id": "chatcmpl-1", "choices": [{"index": 0, "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type":
            "function", "function": {"name": "mail", "arguments": arguments}}]}}]});
    let upstream = Upstream::always(Answer::json(200, answer.to_string()));
    let gateway = Gateway::builder(&upstream)
        .policy(
            r#"capture:
  - { when: 'request.model == "both"', redact: [secrets, pii] }
  - { when: 'request.model == "none"', redact: [] }"#,
        )
        // Nothing is shipped: all that is on disk is in the spool.
        .config("store: postgres://weir@127.0.0.1:1/none")
        .start();
    let send = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": said}]});
        id_of(&ask(&gateway, "x-weir-session: s\r\n", &body.to_string()))
    };
    let sent = ["both", "usual", "none"].map(send);
    let verdict = json!({"id": sent[0], "name": "note", "value": format!("it knew {key}")});
    let judged = exchange(&gateway, post_with("/api/feedback", "", verdict.to_string()));
    assert_eq!(judged.json()["value"], "it knew <OPENAI_KEY_1>");
    eventually("all are spooled", || gateway.records("appended") == 4);
    let spooled = crate::spool::spooled_bodies(&gateway);
    let of = |id: &str| spooled.iter().find(|(it, _)| it == id).unwrap().1.clone();
    let both = of(&sent[0]);
    assert!(both.contains("Ask <EMAIL_1>, the key is <OPENAI_KEY_1>."), "{both}");
    // The same one in what a tool is called with, JSON in JSON.
    assert!(both.contains(r#"{\"to\":\"<EMAIL_1>\"}"#), "{both}");
    assert!(both.contains(r#""redaction":{"EMAIL":2,"OPENAI_KEY":1}"#), "{both}");
    let usual = of(&sent[1]);
    assert!(usual.contains("Ask ada@example.com, the key is <OPENAI_KEY_1>."), "{usual}");
    assert!(of(&sent[2]).contains(&said), "{}", of(&sent[2]));
    // The key of the one that asked for nothing to be replaced, and of no other.
    let everything: String = spooled.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(everything.matches(key).count(), 1);
}

/// Text that cannot be compressed much: hexadecimal digits of a counter's hash.
fn noise(bytes: usize) -> String {
    let digest = |n: usize| ring::digest::digest(&ring::digest::SHA256, &n.to_be_bytes());
    let digests = (0..bytes.div_ceil(44)).map(digest);
    let text: String = digests
        .map(|digest| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, digest))
        .collect();
    text.chars().take(bytes).collect()
}

/// Files below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn what_is_too_large_for_a_row_is_kept_as_an_object_and_goes_with_its_row() {
    let upstream = Upstream::always(Answer::chat());
    // A file is in the way of the folder.
    let gateway = Gateway::builder(&upstream).config("objects: file:blocked/objects").start();
    std::fs::write(gateway.folder().join("blocked"), "").unwrap();
    let noise = noise(400_000);
    let said = format!("A needle {noise}");
    let body = json!({"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": said}]});
    let id = id_of(&ask(&gateway, "x-weir-session: s-1\r\n", &body.to_string()));
    eventually("the object store is missed", || gateway.log().contains("of objects"));
    assert_eq!(gateway.records("stored"), 0, "the record waits with its body");
    std::fs::remove_file(gateway.folder().join("blocked")).unwrap();
    let kept = stored(&gateway, &id);
    assert_eq!(kept["request"]["messages"][0]["content"], said.as_str());
    assert_eq!(kept["response"]["id"], "chatcmpl-1");
    let objects = files(&gateway.folder().join("blocked/objects"));
    let [object] = &objects[..] else { panic!("{objects:?}") };
    assert!(object.to_str().unwrap().ends_with(&format!("/{id}.request.zst")), "{object:?}");
    let found = read(&gateway, "/api/interactions?q=a+needle");
    assert_eq!(ids(&found), [id.as_str()]);
    let mut control = crate::support::Raw::connect(gateway.control());
    let delete = "DELETE /api/interactions?session=s-1 HTTP/1.1\r\nhost: gateway\r\n\r\n";
    assert_eq!(control.send(delete).response().unwrap().json()["bodies"], 1);
    assert_eq!(
        files(&gateway.folder().join("blocked/objects")),
        [""; 0].map(std::path::PathBuf::from)
    );
}
