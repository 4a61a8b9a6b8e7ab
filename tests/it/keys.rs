//! Virtual keys: who gets in, what they may, and how soon gateways know.

use serde_json::Value;
use serde_json::json;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::gateway::Builder;
use crate::support::http::Response;
use crate::support::http::get;
use crate::support::http::get_with;
use crate::support::postgres::Postgres;
use crate::support::rows::ids;
use crate::support::rows::rows;

const ASK: &str = r#"{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]}"#;
const CHAT: &str = "/v1/chat/completions";

fn with_keys(upstream: &Upstream) -> Builder {
    Gateway::builder(upstream).upstream("api_key", "sk-own").config("auth: keys")
}

/// One request with these header lines, each with CR LF, on a connection of its own.
fn send(gateway: &Gateway, path: &str, headers: &str, body: &str) -> Response {
    exchange(gateway, written(path, headers, body))
}

fn written(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: a\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

fn ask(gateway: &Gateway, key: &str) -> Response {
    send(gateway, CHAT, &bearer(key), ASK)
}

/// A request to the control plane.
fn control(gateway: &Gateway, method: &str, path: &str, body: &str) -> Response {
    let length = body.len();
    let mut raw = Raw::connect(gateway.control());
    raw.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    ));
    raw.response().unwrap()
}

/// Makes a key, and waits until this gateway knows it.
fn made(gateway: &Gateway, new: &Value) -> String {
    let answer = control(gateway, "POST", "/api/keys", &new.to_string());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let secret = answer.json()["key"].as_str().unwrap().to_owned();
    known(gateway, &secret);
    secret
}

fn known(gateway: &Gateway, secret: &str) {
    eventually("the key is known", || {
        // 503: no key was read yet.
        !matches!(send(gateway, "/api/feedback", &bearer(secret), "").status, 401 | 503)
    });
}

/// Runs the command line in the gateway's folder; returns what it wrote to standard output.
fn run(gateway: &Gateway, arguments: &[&str]) -> String {
    let (code, out, err) = weir(gateway.folder(), arguments, "");
    assert_eq!(code, Some(0), "{err}");
    out
}

#[test]
fn only_virtual_keys_get_in_and_none_goes_upstream() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = with_keys(&upstream).start();
    let secret = run(
        &gateway,
        &["key", "create", "--name", "app", "--team", "support", "--tags", "a,b", "--models"]
            .into_iter()
            .chain(["gpt-*", "--expires", "90d"])
            .collect::<Vec<_>>(),
    );
    let secret = secret.trim_end();
    assert_eq!((secret.len(), secret.starts_with("wk_")), (52, true));
    known(&gateway, secret);
    assert_eq!(ask(&gateway, secret).status, 200);
    let as_azure = format!("api-key: {secret}\r\n");
    assert_eq!(send(&gateway, CHAT, &as_azure, ASK).status, 200);
    for request in upstream.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer sk-own"));
        let sent = format!("{:?}", request.headers);
        assert!(!sent.contains(secret) && request.header("api-key").is_none(), "{sent}");
    }
    let cut = secret.strip_suffix(char::is_alphanumeric).unwrap();
    let wrong: Vec<String> =
        ["sk-caller", "wk_", cut, "wk_\u{e9}"].map(bearer).into_iter().collect();
    let mut bodies: Vec<String> = Vec::new();
    for headers in &wrong {
        let answer = send(&gateway, CHAT, headers, ASK);
        answer.assert_error(401, "invalid_request_error", "invalid_api_key");
        assert!(answer.header("x-weir-id").is_some());
        bodies.push(answer.text());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "who guesses learns nothing");
    let missing = send(&gateway, CHAT, "", ASK);
    missing.assert_error(401, "invalid_request_error", "invalid_api_key");
    for path in ["/v1/models", "/v1/files"] {
        get(gateway.data(), path).unwrap().assert_error(
            401,
            "invalid_request_error",
            "invalid_api_key",
        );
    }
    assert_eq!(upstream.count(), 2, "nobody else was let through");
    let failures = |reason| gateway.metric("weir_auth_failures_total", &[("reason", reason)]);
    assert!((failures("malformed") - 4.0).abs() < 0.1 && (failures("missing") - 3.0).abs() < 0.1);
}

#[test]
fn two_gateways_follow_one_store() {
    let server = Postgres::start();
    let store = format!("store: {}", server.create("keys"));
    let upstream = Upstream::always(Answer::chat());
    let [first, second] = [(); 2].map(|()| with_keys(&upstream).config(&store).start());
    let secret = made(&first, &json!({"name": "app", "models": ["gpt-*"]}));
    known(&second, &secret);
    assert_eq!((ask(&first, &secret).status, ask(&second, &secret).status), (200, 200));

    // Renewed on one, both know the new secret, and for a while the old one.
    let rotated = control(&second, "POST", "/api/keys/app/rotate", r#"{"grace":"1h"}"#);
    assert_eq!(rotated.status, 201, "{}", rotated.text());
    assert_eq!(rotated.header("cache-control"), Some("no-store"));
    let rotated = rotated.json();
    let renewed = rotated["key"].as_str().unwrap();
    assert_eq!((&rotated["name"], &rotated["models"]), (&json!("app"), &json!(["gpt-*"])));
    for gateway in [&first, &second] {
        known(gateway, renewed);
        assert_eq!((ask(gateway, renewed).status, ask(gateway, &secret).status), (200, 200));
    }
    let listed = control(&first, "GET", "/api/keys", "").json();
    let states: Vec<_> = listed["data"].as_array().unwrap().iter().map(|k| &k["status"]).collect();
    assert_eq!(states, ["active", "grace"]);
    assert_eq!(listed["data"][0]["rotated_from"], listed["data"][1]["id"]);

    // Revoked by its name on one, nobody takes either secret.
    let revoked = control(&first, "DELETE", "/api/keys/app", "");
    assert_eq!((revoked.status, &revoked.json()["id"]), (200, &rotated["id"]));
    for gateway in [&first, &second] {
        for key in [secret.as_str(), renewed] {
            eventually("a revoked key is refused", || ask(gateway, key).status == 401);
        }
        let reason = [("reason", "revoked")];
        assert!(gateway.metric("weir_auth_failures_total", &reason) > 1.5);
    }
    control(&second, "DELETE", "/api/keys/app", "").assert_error(
        404,
        "invalid_request_error",
        "not_found",
    );

    // A name that is free again; a rotation without grace.
    let again = made(&second, &json!({"name": "app"}));
    known(&first, &again);
    let rotated = control(&first, "POST", "/api/keys/app/rotate", r#"{"grace":"0"}"#);
    assert_eq!(rotated.status, 201, "{}", rotated.text());
    eventually("the old secret ends", || ask(&second, &again).status == 401);
    let unused = "select cast(id as text) from virtual_keys where last_used_at is null";
    eventually("all but the last were used", || {
        rows(&server.url("keys"), unused).unwrap() == [[rotated.json()["id"].as_str().unwrap()]]
    });
}

#[test]
fn the_keys_of_the_last_look_stay_in_force_while_the_store_is_away() {
    let server = Postgres::start();
    let store = format!("store: {}", server.create("keys"));
    let upstream = Upstream::always(Answer::chat());
    let gateway = with_keys(&upstream).config(&store).start();
    let secret = made(&gateway, &json!({"name": "app"}));
    server.crash();
    eventually("the loss is seen", || gateway.metric("weir_keys_in_sync", &[]) < 0.5);
    assert_eq!(ask(&gateway, &secret).status, 200);
    assert_eq!(ask(&gateway, "wk_nobody").status, 401);
    let made_now = control(&gateway, "POST", "/api/keys", r#"{"name":"other"}"#);
    made_now.assert_error(503, "api_error", "store_unavailable");
    server.resume();
    eventually("it heals", || gateway.metric("weir_keys_in_sync", &[]) > 0.5);
    made(&gateway, &json!({"name": "other"}));
    assert_eq!(ask(&gateway, &secret).status, 200);
}

#[test]
fn a_start_without_the_store_asks_for_patience_and_not_for_another_key() {
    let server = Postgres::stopped();
    let upstream = Upstream::always(Answer::chat());
    let gateway = with_keys(&upstream)
        .config(&format!("store: {}", server.url("postgres")))
        .start_until("waiting");
    let ready = get(gateway.control(), "/readyz").unwrap();
    assert_eq!((ready.status, &ready.json()["missing"]), (503, &json!(["keys"])));
    let unknown = well_formed();
    let answer = ask(&gateway, &unknown);
    answer.assert_error(503, "api_error", "server_overloaded");
    assert!(answer.header("retry-after").is_some());
    // What cannot be a key at all is told without the store.
    assert_eq!(ask(&gateway, "wk_nobody").status, 401);
    server.resume();
    eventually("the keys are read", || ask(&gateway, &unknown).status == 401);
    let ready = get(gateway.control(), "/readyz").unwrap();
    assert_eq!((ready.status, &ready.json()["missing"]), (200, &json!([])));
}

/// A key that can be one, and that only a store of its own knows.
fn well_formed() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, _) = weir(folder.path(), &["key", "create", "--name", "elsewhere"], "");
    assert_eq!(code, Some(0));
    out.trim_end().to_owned()
}

#[test]
fn wrong_keys_leave_nothing_in_the_store_however_many_they_are() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = with_keys(&upstream).start();
    let secret = made(&gateway, &json!({"name": "app"}));
    let unknown = well_formed();
    let failures = |reason| gateway.metric("weir_auth_failures_total", &[("reason", reason)]);
    // Those of the wait for the key.
    let before = failures("unknown");
    let mut raw = Raw::connect(gateway.data());
    for turn in 0..10_000 {
        let key = if turn % 2 == 0 { unknown.as_str() } else { "wk_guess" };
        raw.send(written(CHAT, &bearer(key), ASK));
        let answer = raw.response().unwrap();
        assert_eq!((answer.status, answer.header("x-weir-capture")), (401, Some("off")));
    }
    assert!((failures("unknown") - before - 5000.0).abs() < 0.1, "{}", failures("unknown"));
    assert!((failures("malformed") - 5000.0).abs() < 0.1, "{}", failures("malformed"));
    let kept = ask(&gateway, &secret).header("x-weir-id").unwrap().to_owned();
    eventually("the good call is stored", || ids(&gateway.store()) == [kept.clone()]);
    assert!(
        (gateway.metric("weir_capture_records_total", &[("outcome", "appended")]) - 1.0).abs()
            < 0.1
    );
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_key_may_use_its_models_and_no_others() {
    let upstream = Upstream::script([Answer::json(503, "{}"), Answer::chat()]);
    let gateway = with_keys(&upstream)
        .policy(
            "models: { gpt-4o: { upstream: openai }, o3: { upstream: openai } }\nroutes:\n\
             - { name: auto, when: 'request.model == \"auto\"', use: gpt-4o, \
             fallback: [o3, gpt-4.1-mini], attempts: 2 }\n\
             - { name: dear, when: 'importance == \"high\"', use: o3 }",
        )
        .start();
    let secret = made(&gateway, &json!({"name": "app", "models": ["gpt-4*", "whisper-1"]}));
    let asked = |path: &str, headers: &str, body: &str| {
        send(&gateway, path, &(bearer(&secret) + headers), body)
    };
    let chat = |model: &str, headers: &str| {
        asked(CHAT, headers, &format!(r#"{{"model":"{model}","messages":[]}}"#))
    };
    let refused = |answer: Response, model: &str| {
        answer.assert_error(403, "invalid_request_error", "model_not_allowed");
        assert_eq!(answer.json()["error"]["param"], "model");
        assert!(answer.text().contains(model), "{}", answer.text());
    };
    // A name that is no model is judged by where it leads, and a fallback that is not allowed is
    // passed over.
    let auto = chat("auto", "");
    assert_eq!((auto.status, auto.header("x-weir-model")), (200, Some("gpt-4.1-mini")));
    refused(chat("o3", ""), "`o3`");
    refused(chat("gpt-4.1-mini", "x-weir-importance: high\r\n"), "`o3`");
    refused(
        asked("/v1/images/generations", "", r#"{"model":"dall-e-3","prompt":"a"}"#),
        "dall-e-3",
    );
    refused(asked("/v1/images/generations", "", r#"{"prompt":"a"}"#), "/v1/images/generations");
    refused(asked("/v1/batches", "", r#"{"input_file_id":"file-1"}"#), "/v1/batches");
    assert_eq!(upstream.count(), 2);
    let form =
        "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--\r\n";
    let kind = "content-type: multipart/form-data; boundary=b\r\n";
    assert_eq!(asked("/v1/audio/transcriptions", kind, form).status, 200);
    assert_eq!(upstream.requests()[2].text(), form, "to the byte");
    assert_eq!(asked("/v1/files", "", "anything").status, 200);
    let list = get_with(gateway.data(), "/v1/models", &bearer(&secret)).unwrap();
    assert_eq!(list.status, 200);
    let realtime = |query: &str| {
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let headers = bearer(&secret) + upgrade;
        get_with(gateway.data(), &format!("/v1/realtime{query}"), &headers).unwrap()
    };
    refused(realtime("?model=gpt-realtime"), "gpt-realtime");
    refused(realtime(""), "/v1/realtime");
}

#[test]
fn rules_capture_and_the_ledger_know_the_key() {
    let server = Postgres::start();
    for store in [None, Some(server.create("known"))] {
        let upstream = Upstream::always(Answer::chat());
        let config = store.as_ref().map(|url| format!("store: {url}")).unwrap_or_default();
        let gateway = with_keys(&upstream)
            .config(&config)
            .policy(
                "routes:\n- { name: dear, when: 'importance == \"high\" && \"vip\" in key.tags \
                 && key.team == \"support\"', use: gpt-4.1 }\n\
                 capture: [{ when: '\"quiet\" in key.tags', mode: \"off\" }, { mode: full }]",
            )
            .start();
        let key = |name: &str, more: Value| {
            let mut new = json!({"name": name, "team": "support"});
            new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            made(&gateway, &new)
        };
        let vip = key("vip", json!({"tags": ["vip"], "importance": "high"}));
        let logged = key("logged", json!({"consent": "log", "team": "sales"}));
        let mute = key("mute", json!({"consent": "none", "team": null}));
        let quiet = key("quiet", json!({"tags": ["quiet"]}));
        let sent = |key: &str, headers: &str| send(&gateway, CHAT, &(bearer(key) + headers), ASK);
        let told = |answer: &Response| {
            let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
            (header("x-weir-route"), header("x-weir-capture"))
        };
        let is = |route: &str, capture: &str| (route.to_owned(), capture.to_owned());
        assert_eq!(told(&sent(&vip, "")), is("dear", "full"));
        assert_eq!(told(&sent(&vip, "x-weir-importance: low\r\n")), is("default", "full"));
        assert_eq!(told(&sent(&vip, "x-weir-capture: off\r\n")), is("dear", "off"));
        assert_eq!(told(&sent(&logged, "")), is("default", "full"));
        assert_eq!(told(&sent(&mute, "x-weir-capture: full\r\n")), is("default", "off"));
        assert_eq!(told(&sent(&quiet, "")), is("default", "off"));

        let store = store.unwrap_or_else(|| gateway.store());
        eventually("all are stored", || ids(&store).len() == 6);
        let consents = "select key_name, consent from interactions where capture = 'full' \
                        order by id";
        let consents = rows(&store, consents).unwrap();
        assert_eq!(consents, [["vip", "train"], ["vip", "train"], ["logged", "null"]]);

        let spend = |group: &str| {
            let page = get(gateway.control(), &format!("/api/spend?group_by={group}")).unwrap();
            let page = page.json();
            let lines = page["data"].as_array().unwrap().iter();
            let line = |line: &Value| (line["id"].to_string(), line["requests"].as_i64().unwrap());
            lines.map(line).collect::<Vec<_>>()
        };
        let line = |id: &str, requests| (format!("\"{id}\""), requests);
        assert_eq!(
            spend("team,key"),
            [
                line(",mute", 1),
                line("sales,logged", 1),
                line("support,quiet", 1),
                line("support,vip", 3)
            ]
        );
        assert_eq!(spend("tag:vip"), [line("", 3), line("true", 3)]);
        let replayed = run(&gateway, &["--json", "policy", "replay", "--since", "1h"]);
        let replayed: Value = serde_json::from_str(&replayed).unwrap();
        // Three were kept; they were decided by what their keys are.
        let (own, same) = (&replayed["own"], &replayed["reproduced"]);
        assert_eq!((own, same), (&json!(3), &json!(3)), "{replayed:#}");
    }
}

#[test]
fn callers_with_keys_of_their_own_are_told_apart() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let secret = made(&gateway, &json!({"name": "app"}));
    for key in ["sk-one", "sk-two", "sk-one"] {
        assert_eq!(ask(&gateway, key).status, 200);
    }
    // Known, it opens; the upstream has no key of the gateway's, and this one is not for it.
    assert_eq!(ask(&gateway, &secret).status, 200);
    let credentials: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.header("authorization").map(str::to_owned))
        .collect();
    let own = |key: &str| Some(format!("Bearer {key}"));
    assert_eq!(credentials, [own("sk-one"), own("sk-two"), own("sk-one"), None]);
    ask(&gateway, "wk_lost").assert_error(401, "invalid_request_error", "invalid_api_key");

    eventually("all are stored", || ids(&gateway.store()).len() == 4);
    let names = "select key_name from interactions order by id";
    let names = rows(&gateway.store(), names).unwrap().concat();
    assert_eq!((&names[0], &names[3]), (&names[2], &"app".to_owned()));
    assert_ne!(names[0], names[1]);
    assert!(names[0].starts_with("fp_") && names[0].len() == 19, "{}", names[0]);
    let cost = |key| gateway.metric("gen_ai_client_cost_usd_total", &[("key", key)]);
    assert!(cost("passthrough") > cost("app") && cost("app") > 0.0, "one series for all of them");
}

#[test]
fn an_upstream_that_wants_a_key_of_the_gateways_is_the_operators_matter() {
    let upstream = Upstream::always(Answer::json(401, r#"{"error":{"message":"no key"}}"#));
    let gateway = Gateway::builder(&upstream).config("auth: keys").start();
    let secret = made(&gateway, &json!({"name": "app"}));
    ask(&gateway, &secret).assert_error(502, "api_error", "upstream_credentials");
    let models = get_with(gateway.data(), "/v1/models", &bearer(&secret)).unwrap();
    models.assert_error(502, "api_error", "upstream_credentials");
    assert!(upstream.requests().iter().all(|request| request.header("authorization").is_none()));
    assert!(gateway.log().contains("has no `api_key`"), "{}", gateway.log());
}

#[test]
fn the_secret_is_seen_once_and_what_is_wrong_is_said_in_a_sentence() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = with_keys(&upstream).start();
    let secret = run(&gateway, &["key", "create", "--name", "app", "--expires", "2099-01-01"]);
    let secret = secret.trim_end();
    known(&gateway, secret);
    let listed = run(&gateway, &["key", "list"]);
    assert!(listed.contains("app") && listed.contains("active") && listed.contains("2099-01-01"));
    let json: Value = serde_json::from_str(&run(&gateway, &["--json", "key", "list"])).unwrap();
    let key = &json["data"][0];
    assert_eq!((&key["object"], &key["consent"]), (&json!("key"), &json!("train")));
    let api = control(&gateway, "GET", "/api/keys", "").text();
    for shown in [&listed, &json.to_string(), &api, &gateway.log()] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!shown.contains("digest"), "{shown}");
    }
    for file in ["data/weir.db", "data/weir.db-wal"] {
        let bytes = std::fs::read(gateway.folder().join(file)).unwrap_or_default();
        assert!(memchr::memmem::find(&bytes, secret.as_bytes()).is_none(), "{file}");
    }
    let long = "x".repeat(65);
    for (arguments, part) in [
        (vec!["create", "--name", "app"], "there is a key `app` already"),
        (vec!["create", "--name", &long], "`name`: must have 1 to 64"),
        (vec!["create", "--name", "x", "--expires", "soon"], "`soon` is no time"),
        (vec!["create", "--name", "x", "--consent", "full"], "unknown variant `full`"),
        (vec!["revoke", "nobody"], "there is no key `nobody`"),
        (vec!["rotate", "app", "--grace", "long"], "`grace`: `long` cannot be used"),
    ] {
        let arguments: Vec<_> = ["key"].into_iter().chain(arguments).collect();
        let (code, out, err) = weir(gateway.folder(), &arguments, "");
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(err.starts_with("weir: ") && err.contains(part), "{arguments:?}: {err}");
    }
    assert_eq!(weir(gateway.folder(), &["key", "create"], "").0, Some(2), "usage");
    for (body, param) in [
        (r#"{"name":"x","models":[""]}"#, "models"),
        ("[]", "body"),
        (r#"{"name":"fp_1"}"#, "name"),
    ] {
        let answer = control(&gateway, "POST", "/api/keys", body);
        answer.assert_error(400, "invalid_request_error", "invalid_parameter");
        assert_eq!(answer.json()["error"]["param"], param);
    }
    let taken = control(&gateway, "POST", "/api/keys", r#"{"name":"app"}"#);
    taken.assert_error(409, "invalid_request_error", "name_taken");
    run(&gateway, &["key", "revoke", "app"]);
    eventually("it is refused", || ask(&gateway, secret).status == 401);
    assert!(!run(&gateway, &["key", "list"]).contains("app"));
    assert!(run(&gateway, &["key", "list", "--all"]).contains("revoked"));
}

#[test]
fn a_key_ends_by_itself_and_verdicts_need_one() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = with_keys(&upstream).start();
    let short = made(&gateway, &json!({"name": "short", "expires": "3s"}));
    let long = made(&gateway, &json!({"name": "long"}));
    eventually("it ends", || ask(&gateway, &short).status == 401);
    assert!(gateway.metric("weir_auth_failures_total", &[("reason", "expired")]) > 0.5);
    // Its name is free again.
    made(&gateway, &json!({"name": "short"}));

    let verdict = r#"{"id":"chatcmpl-1","name":"thumbs","value":true}"#;
    let judge = |headers: &str| send(&gateway, "/api/feedback", headers, verdict);
    judge("").assert_error(401, "invalid_request_error", "invalid_api_key");
    judge(&bearer(&short)).assert_error(401, "invalid_request_error", "invalid_api_key");
    let judged = judge(&bearer(&long));
    assert_eq!((judged.status, &judged.json()["key_name"]), (200, &json!("long")));
}
