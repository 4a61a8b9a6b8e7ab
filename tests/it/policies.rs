//! Policy folders as operators handle them: on the command line, and at the control plane.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use weir::policy::Policy;
use weir::policy::Settings;
use weir::policy::Sources;
use weir::policy::expression::variables;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::call;
use crate::support::cli::weir;
use crate::support::http::Response;

const ROUTES: &str = r#"
routes:
  - { name: support, when: request.model == "bot", use: gpt-6-luna, fallback: [gpt-4.1-mini] }
  - { name: denied, when: request.model == "old", reject: { message: that one is gone } }
"#;
const HOLDS: &str =
    "tests: [{ name: a bot is luna, request: { model: bot }, expect: { model: gpt-6-luna } }]";
const FAILS: &str =
    "tests: [{ name: a bot is sol, request: { model: bot }, expect: { model: gpt-6.1-sol } }]";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("policies/tests")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join("policies").join(name), text).unwrap();
    }
    folder
}

/// Runs `weir policy` in a folder.
fn policy(folder: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    weir(folder, &[&["policy"], arguments].concat(), input)
}

#[test]
fn check_prints_what_is_wrong_and_fails() {
    let good = folder(&[("routing.yaml", ROUTES)]);
    let (code, out, _) = policy(good.path(), &["check"], "");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.starts_with("policies can be used: revision ") && out.contains("2 rules"), "{out}");

    let bad = folder(&[("routing.yaml", "routes:\n  - { name: a, use: gpt-6-lunna }\n")]);
    let (code, out, error) = policy(bad.path(), &["check"], "");
    assert_eq!(code, Some(1));
    for part in
        ["unknown model `gpt-6-lunna`", "policies/routing.yaml:2:21", "did you mean `gpt-6-luna`?"]
    {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert_eq!(error, "weir: policies cannot be used: 1 error, 0 warnings\n");
    let (code, out, _) = policy(bad.path(), &["check", "--json"], "");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &out["ok"], &out["diagnostics"][0]["line"]),
        (Some(1), &json!(false), &json!(2))
    );
    assert_eq!(out["revision"].as_str().map(str::len), Some(12));
}

#[test]
fn the_folder_is_the_one_of_the_settings_unless_one_is_named() {
    let home = folder(&[]);
    std::fs::create_dir(home.path().join("other")).unwrap();
    std::fs::write(home.path().join("other/a.yaml"), ROUTES).unwrap();
    std::fs::write(home.path().join("weir.yaml"), "policies: other\n").unwrap();
    assert!(policy(home.path(), &["check"], "").1.contains("2 rules"));
    assert!(policy(home.path(), &["check", "policies"], "").1.contains("0 rules"));
    let (code, _, error) = policy(home.path(), &["check", "nowhere"], "");
    assert_eq!((code, &*error), (Some(1), "weir: nowhere is no folder; check the path\n"));
    assert_eq!(policy(home.path(), &["chekc"], "").0, Some(2));
}

#[test]
fn test_runs_every_test_and_fails_with_those_that_fail() {
    let good = folder(&[("routing.yaml", ROUTES), ("tests/a.yaml", HOLDS)]);
    let (code, out, _) = policy(good.path(), &["test"], "");
    assert_eq!((code, &*out), (Some(0), "ok     a bot is luna\n1 test, 0 failed\n"));

    let bad = folder(&[("routing.yaml", ROUTES), ("tests/a.yaml", HOLDS), ("tests/b.yaml", FAILS)]);
    let (code, out, error) = policy(bad.path(), &["test"], "");
    assert_eq!((code, &*error), (Some(1), "weir: 2 tests, 1 failed\n"));
    for part in [
        "ok     a bot is luna\n",
        "failed a bot is sol\n",
        "fails: expected model `gpt-6.1-sol`, got `gpt-6-luna`",
        "policies/tests/b.yaml:1:17",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (_, out, _) = policy(bad.path(), &["test", "--json"], "");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&out["ok"], &out["tests"][1]["passed"]), (&json!(false), &json!(false)));

    let broken = folder(&[("routing.yaml", "routes: 7"), ("tests/a.yaml", HOLDS)]);
    let (code, out, _) = policy(broken.path(), &["test"], "");
    assert!(code == Some(1) && out.contains("`routes` must be a list"), "{out}");
}

#[test]
fn explain_shows_each_rule_and_the_decision() {
    let home = folder(&[("routing.yaml", ROUTES)]);
    let ask = |model: &str, more: &[&str]| {
        let arguments = [&["explain", "--request", "-"], more].concat();
        policy(home.path(), &arguments, &json!({ "model": model, "messages": [] }).to_string())
    };
    let (code, out, _) = ask("bot", &[]);
    assert_eq!(code, Some(0));
    for part in [
        "  hit   support: request.model == \"bot\"\n",
        "  -     denied: not reached\n",
        "`support` sends it to gpt-6-luna at openai, then gpt-4.1-mini\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(ask("old", &[]).1.ends_with("refused by `denied`: that one is gone\n"));
    let (_, out, _) =
        ask("gpt-5.6-sol", &["--json", "--header", "x-weir-importance=high", "--tag", "a"]);
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&out["route"], &out["model"]), (&json!("default"), &json!("gpt-5.6-sol")));
    assert_eq!(out["rules"].as_array().map(Vec::len), Some(2));
    let (_, out, _) = ask("bot", &["--json"]);
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["rules"][1], json!({ "rule": "denied", "outcome": "not reached" }));

    let (code, _, error) = policy(home.path(), &["explain", "--request", "-"], "{}");
    assert!(code == Some(1) && error.starts_with("weir: -: The field `model`"), "{error}");
    assert_eq!(ask("bot", &["--endpoint", "files"]).0, Some(2));
    assert_eq!(ask("bot", &["--header", "nothing"]).0, Some(2));
}

#[test]
fn a_gateway_does_not_start_with_a_test_that_fails() {
    let home = folder(&[("routing.yaml", ROUTES), ("tests/a.yaml", FAILS)]);
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("serve")
        .current_dir(home.path())
        .env_clear()
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("test `a bot is sol` fails"), "{error}");
}

/// The YAML blocks of docs/policies.md with the lines where they begin.
fn documented() -> Vec<(usize, String)> {
    let text = include_str!("../../docs/policies.md");
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut within = false;
    for (line, text) in text.lines().enumerate() {
        match text {
            "```yaml" => {
                within = true;
                blocks.push((line + 1, String::new()));
            }
            "```" => within = false,
            _ if within => blocks.last_mut().unwrap().1.push_str(&format!("{text}\n")),
            _ => {}
        }
    }
    blocks
}

#[test]
fn every_example_of_the_documentation_is_a_policy_and_its_tests_hold() {
    let env = ["OPENAI_API_KEY", "AZURE_API_KEY", "HOOK_SECRET", "HOOK_TOKEN"];
    let env = env.map(|name| (name.to_owned(), "sk-1".to_owned())).into();
    let settings = Settings { env, ..Settings::default() };
    let mut policy = String::new();
    let (mut policies, mut tests) = (0, 0);
    for (line, block) in documented() {
        let name = format!("line {line} of docs/policies.md");
        let mut files = BTreeMap::from([("a.yaml".to_owned(), policy.clone())]);
        if block.starts_with("tests:") {
            files.insert("tests/a.yaml".to_owned(), block);
        } else {
            policy.clone_from(&block);
            policies += 1;
            files.insert("a.yaml".to_owned(), block);
        }
        let (checked, tested) = Policy::verify(&Sources::of(files), &settings);
        let said: String = checked.diagnostics.iter().map(ToString::to_string).collect();
        assert!(checked.policy.is_some(), "{name}:\n{said}");
        tests += tested.cases.len();
    }
    assert!(policies > 10 && tests > 15, "{policies} examples with {tests} tests were found");
}

/// The folder that the contract shows, letter by letter, but for its comments.
const CONTRACT: &str = r#"
upstreams:
  openai:
    base_url: https://api.openai.com/v1
    api_key: ${OPENAI_API_KEY}
    timeouts: { connect: 2s, first_byte: 60s, idle: 120s }
    max_in_flight: 1000

models:
  gpt-6-luna:    { upstream: openai, quality: 0.70 }
  gpt-6.1-terra: { upstream: openai, quality: 0.85 }
  gpt-6.1-sol:   { upstream: openai, quality: 1.00 }
  house-llama:   { upstream: vllm, as: meta-llama/Llama-3.3-70B, price: { input: 0.10, output: 0.30 }, context: 131072, encoding: o200k_base }

routes:
  - name: long-context
    when: tokens.prompt > 200000
    use: gpt-6.1-terra
  - name: important
    when: importance == "high" || "critical" in key.tags
    use: gpt-6.1-sol
    fallback: [gpt-5.6-sol]
    attempts: 3
    deadline: 90s
  - name: auto
    when: request.model == "auto"
    cheapest: { of: [gpt-6-luna, gpt-6.1-terra, gpt-6.1-sol], min_quality: 0.6, max_p95: 8s }
  - name: luna-canary
    when: request.model == "support-bot"
    split: { "ft:gpt-4.1-mini:acme:support:abc": 5, gpt-4.1-mini: 95 }
    sticky: user
  - name: no-preview-models
    when: request.model.contains("preview")
    reject: { message: "preview models are not allowed here" }

limits:
  - name: support-team
    match: key.team == "support"
    per: key
    budget: { usd: 50, every: day }
    requests: 600/min
    tokens: 1000000/min
    on_budget: { downgrade: gpt-6-luna }

capture:
  - { when: '"no-train" in key.tags', mode: "off" }
  - { when: 'true', mode: full, sample: 1.0, redact: [secrets], keep: 90d }

hooks:
  - { url: https://hook.example/abc, secret: ${HOOK_SECRET}, events: [fine_tune.*, policy.rejected, budget.*] }
"#;
const CONTRACT_TESTS: &str = r#"
tests:
  - name: a short unimportant question goes to the cheapest model
    request: { model: auto, messages: [{ role: user, content: hi }] }
    key: { team: support }
    expect: { route: auto, model: gpt-6-luna }
"#;

#[test]
fn the_contracts_example_is_a_policy_as_it_stands_and_its_test_holds() {
    let env = [("OPENAI_API_KEY", "sk-1"), ("HOOK_SECRET", "a secret")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let settings = Settings { env, ..Settings::default() };
    // The contract shows one provider, and names another.
    let vllm = "upstreams: { vllm: { base_url: \"http://127.0.0.1:8000/v1\" } }";
    let files = [("a.yaml", CONTRACT), ("b.yaml", vllm), ("tests/a.yaml", CONTRACT_TESTS)];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let (checked, tested) = Policy::verify(&Sources::of(files), &settings);
    let said: String = checked.diagnostics.iter().map(ToString::to_string).collect();
    assert!(checked.policy.is_some() && said.is_empty(), "{said}");
    assert!(tested.cases.len() == 1 && tested.cases[0].passed);
}

#[test]
fn every_variable_of_conditions_is_documented() {
    let text = include_str!("../../docs/policies.md");
    for (name, _, _) in variables() {
        assert!(text.contains(&format!("`{name}`")), "`{name}` is not in docs/policies.md");
    }
}

fn post(address: SocketAddr, path: &str, kind: &str, body: &[u8]) -> Response {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\n");
    let mut raw = Raw::connect(address);
    raw.send(format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n")).send(body);
    raw.response().unwrap()
}

fn ask(gateway: &Gateway, path: &str, body: &Value) -> Response {
    post(gateway.control(), path, "application/json", body.to_string().as_bytes())
}

#[test]
fn files_are_validated_without_being_used() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).env("CANARY", "sk-canary").start();
    let validate = |files: Value| {
        let answer = ask(&gateway, "/api/policies/validate", &json!({ "files": files }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let good = validate(json!({ "routing.yaml": ROUTES, "tests/a.yaml": HOLDS }));
    assert_eq!((&good["ok"], &good["diagnostics"]), (&json!(true), &json!([])), "{good}");
    assert_eq!(good["tests"][0]["passed"], true);
    assert_eq!(good["revision"].as_str().map(str::len), Some(12));

    let failing = validate(json!({ "routing.yaml": ROUTES, "tests/a.yaml": FAILS }));
    assert_eq!((&failing["ok"], &failing["tests"][0]["passed"]), (&json!(false), &json!(false)));
    assert_eq!(failing["diagnostics"][0]["file"], "tests/a.yaml");

    let broken = validate(json!({ "a.yaml": "routes: 7", "b.yaml": "modelz: {}" }));
    assert_eq!(broken["diagnostics"].as_array().map(Vec::len), Some(2), "{broken}");
    let secret = "upstreams:\n  a: { base_url: '${CANARY}', api_key: '${CANARY}' }\n";
    let secret = validate(json!({ "a.yaml": secret }));
    assert!(secret["ok"] == false && !secret.to_string().contains("canary"), "{secret}");
}

#[test]
fn a_folder_in_a_tar_file_is_validated() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let home = folder(&[("routing.yaml", ROUTES), ("tests/a.yaml", FAILS), ("schema.json", "{}")]);
    let tar =
        Command::new("tar").args(["-c", "policies"]).current_dir(home.path()).output().unwrap();
    assert!(tar.status.success());
    let path = "/api/policies/validate";
    let answer = post(gateway.control(), path, "application/x-tar", &tar.stdout).json();
    assert_eq!((&answer["ok"], &answer["tests"][0]["passed"]), (&json!(false), &json!(false)));
    assert_eq!(answer["diagnostics"][0]["file"], "tests/a.yaml");
}

#[test]
fn a_body_that_holds_no_files_is_refused() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let send =
        |kind: &str, body: &[u8]| post(gateway.control(), "/api/policies/validate", kind, body);
    let refused = |kind, body: &[u8], code| {
        send(kind, body).assert_error(400, "invalid_request_error", code);
    };
    refused("application/json", b"{", "invalid_json");
    refused("application/json", br#"{"files": {"a.yaml": 1}}"#, "invalid_json");
    refused("application/json", br#"{"files": {}, "more": 1}"#, "invalid_json");
    refused("application/json", br#"{"files": {"notes.txt": ""}}"#, "invalid_file");
    refused("application/x-tar", &[7; 2_000], "invalid_tar");
    send("text/yaml", b"").assert_error(415, "invalid_request_error", "unsupported_media_type");
    let long = vec![b' '; (16 << 20) + 1];
    let answer = send("application/json", &long);
    answer.assert_error(413, "invalid_request_error", "request_too_large");
}

#[test]
fn a_decision_of_the_policy_in_force_is_explained() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).policy(ROUTES).start();
    let explain = |question: Value| ask(&gateway, "/api/route/explain", &question);
    let bot =
        explain(json!({ "request": { "model": "bot", "messages": [] }, "key": { "team": "x" } }));
    assert_eq!(bot.status, 200, "{}", bot.text());
    let bot = bot.json();
    assert_eq!((&bot["route"], &bot["model"]), (&json!("support"), &json!("gpt-6-luna")));
    assert_eq!(bot["rules"][0]["outcome"], "hit");
    let old = explain(json!({ "request": { "model": "old" }, "endpoint": "responses" })).json();
    assert_eq!(old["refused"], "that one is gone");
    let refused = |question, code| {
        explain(question).assert_error(400, "invalid_request_error", code);
    };
    refused(json!({ "request": {} }), "missing_required_parameter");
    refused(json!({ "request": { "model": "m" }, "endpoint": "files" }), "invalid_value");
    refused(json!({ "request": { "model": "m" }, "headers": { "a b": "c" } }), "invalid_value");
    refused(json!({ "reqest": { "model": "m" } }), "invalid_json");
    assert_eq!(upstream.count(), 0, "nothing is asked upstream");
}

#[test]
fn an_explanation_says_what_live_routing_does_on_recorded_requests() {
    let rules = "routes:\n  \
        - { name: long, when: tokens.prompt > 300 && request.messages > 1, use: gpt-4.1 }\n  \
        - { name: tools, when: request.tools > 0 || request.json_schema, use: gpt-6-luna }\n  \
        - { name: seen, when: request.images > 0, use: gpt-4o }\n  \
        - { name: mini, when: 'request.model.contains(\"mini\")', cheapest: { of: [gpt-6-luna, gpt-4.1-mini] } }\n  \
        - { name: tagged, when: 'tag.app == \"x\"', use: gpt-4o }";
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).policy(rules).start();
    let pairs = include_str!("../fixtures/usage_pairs.jsonl").lines();
    let mut routes = std::collections::BTreeSet::new();
    for line in pairs.step_by(4) {
        let pair: Value = serde_json::from_str(line).unwrap();
        let endpoint = pair["endpoint"].as_str().unwrap();
        let mut request = pair["request"].clone();
        request["model"] = pair["model"].clone();
        let live = call(&gateway, endpoint, &request.to_string());
        let name = endpoint.strip_prefix("/v1/").unwrap();
        let question = json!({ "request": request, "endpoint": name });
        let told = ask(&gateway, "/api/route/explain", &question).json();
        assert_eq!(told["route"].as_str(), live.header("x-weir-route"), "{told}");
        assert_eq!(told["model"].as_str(), live.header("x-weir-model"), "{told}");
        assert_eq!(told["policy"].as_str(), live.header("x-weir-policy"));
        routes.insert(told["route"].as_str().unwrap().to_owned());
    }
    // Nobody sends the tag: its rule has no value, here as there.
    let expected = ["default", "long", "mini", "seen", "tools"];
    assert_eq!(routes.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn policies_are_validated_and_explained_only_for_who_has_the_token() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).env("WEIR_ADMIN_TOKEN", "t-1").start();
    for path in ["/api/policies/validate", "/api/route/explain"] {
        let answer = ask(&gateway, path, &json!({}));
        answer.assert_error(401, "invalid_request_error", "invalid_api_key");
    }
    let described = crate::support::http::get(gateway.control(), "/openapi.json").unwrap().json();
    assert!(described["paths"]["/api/policies/validate"]["post"].is_object(), "{described}");
    assert!(described["paths"]["/api/route/explain"]["post"].is_object(), "{described}");
}
