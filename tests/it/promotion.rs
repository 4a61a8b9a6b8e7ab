//! Promotion as its users meet it: a tuned model takes over a name step by step, and goes back by
//! itself when it is worse.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;
use weir::store::Aliases;
use weir::store::Arm;
use weir::store::Database;
use weir::training::promotion;
use weir::training::promotion::Promotion;
use weir::training::promotion::Terms;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::exchange;
use crate::support::http::Response;
use crate::support::http::get;
use crate::support::http::post;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;

fn control(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    Raw::connect(gateway.control()).send(request).response().unwrap()
}

fn read(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.control(), path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// A gateway with the stand-in as provider, and as a trainer of any base: those of the catalogue end
/// some day.
fn simulated(config: &str) -> Gateway {
    Gateway::before("http://127.0.0.1:1/v1")
        .config("trainer: { profile: self-hosted, base_url: \"http://127.0.0.1:1/v1\" }")
        .config(config)
        .policy(
            "models:\n  house-llama: { upstream: openai, price: { input: 0.1, output: 0.3 } }\n  \
             \"ft:house-llama\": { upstream: openai, price: { input: 0.2, output: 0.3 } }",
        )
        .argument("--simulate")
        .start()
}

/// Builds a dataset of lines whose system prompt is pruned of a piece.
fn build(gateway: &Gateway) {
    let line = |n: usize| {
        json!({"messages": [
            {"role": "system", "content": "Long preamble. Be kind."},
            {"role": "user", "content": format!("question number{n} about thing{}", n * 7)},
            {"role": "assistant", "content": format!("answer word{} other{}", n * 3, n * 5)},
        ]})
        .to_string()
            + "\n"
    };
    let folder = gateway.folder();
    std::fs::write(folder.join("lines.jsonl"), (0..20).map(line).collect::<String>()).unwrap();
    let recipe = json!({"name": "d", "source": {"file": {"path": "lines.jsonl"}},
        "stages": [{"kind": "normalise", "prune": ["Long preamble."]}]});
    std::fs::write(folder.join("recipe.json"), recipe.to_string()).unwrap();
    let (code, out, error) = weir(folder, &["dataset", "build", "recipe.json"], "");
    assert_eq!(code, Some(0), "{out}{error}");
}

/// Trains a base on them; returns job and model.
fn train(gateway: &Gateway, base: &str) -> (String, String) {
    let body = json!({"dataset_id": "d", "model": base}).to_string();
    let key = format!("idempotency-key: {base}\r\n");
    let made = control(gateway, post_with("/api/fine-tune", &key, body));
    assert_eq!(made.status, 202, "{}", made.text());
    let job = made.json()["job_id"].as_str().unwrap().to_owned();
    let path = format!("/api/fine-tune-status?job_id={job}");
    eventually("the model is trained", || read(gateway, &path)["status"] == "succeeded");
    let model = read(gateway, &path)["fine_tuned_model"].as_str().unwrap().to_owned();
    (job, model)
}

fn trained(gateway: &Gateway) -> (String, String) {
    build(gateway);
    train(gateway, "house-llama")
}

fn promote(gateway: &Gateway, job: &str, body: &Value) -> Response {
    control(gateway, post(&format!("/api/fine-tune/{job}/promote"), body.to_string()))
}

/// Asks the alias in the name of a user, with the preamble that was pruned for training.
fn ask(gateway: &Gateway, user: usize) -> Response {
    let body = json!({"model": "support-bot", "user": format!("user-{user}"), "messages": [
        {"role": "system", "content": "Long preamble. Be kind."},
        {"role": "user", "content": "hi"},
    ]});
    exchange(gateway, post("/v1/chat/completions", body.to_string()))
}

fn model_for(gateway: &Gateway, user: usize) -> String {
    let answer = ask(gateway, user);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-weir-model").unwrap().to_owned()
}

fn alias(gateway: &Gateway) -> Value {
    read(gateway, "/api/aliases/support-bot")
}

fn said(text: &str) -> Answer {
    let message = json!({"role": "assistant", "content": text});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let answer = json!({"id": "chatcmpl-1", "object": "chat.completion", "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}});
    Answer::json(200, answer.to_string())
}

#[test]
fn a_tuned_model_takes_over_step_by_step_and_can_be_taken_back_on_both_stores() {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    let stores = [format!("sqlite:{}/weir.db", folder.path().display()), server.create("aliases")];
    for store in stores {
        let gateway = simulated(&format!("store: {store}"));
        let (job, model) = trained(&gateway);
        let terms = json!({"alias": "support-bot", "percent": 40, "steps": [80, 100],
            "step_minutes": 0, "min_calls": 10});
        let begun = promote(&gateway, &job, &terms);
        assert_eq!(begun.status, 202, "{}", begun.text());
        assert_eq!(begun.json()["canary"]["percent"], 40.0);
        assert_eq!(begun.json()["model"], "house-llama", "the job's base serves the others");
        // Its input costs twice as much, its output the same.
        assert_eq!(begun.json()["canary"]["price_ratio"], 2.0);
        eventually("the gateway leads to it", || ask(&gateway, 1).status == 200);
        let arms: Vec<String> = (0..40).map(|user| model_for(&gateway, user)).collect();
        let names: BTreeSet<&str> = arms.iter().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["house-llama", &model]), "both arms answer");
        eventually("it has all calls in the end", || {
            (0..10).for_each(|user| drop(ask(&gateway, user)));
            alias(&gateway)["status"] == "stable"
        });
        let done = alias(&gateway);
        assert_eq!(
            (&done["model"], &done["last_outcome"]["result"]),
            (&json!(model), &json!("promoted"))
        );
        assert_eq!(done["previous"]["model"], "house-llama");
        let kinds: Vec<&str> = done["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["promoted", "share_changed", "canary_started"]);
        eventually("all callers get it", || (0..20).all(|user| model_for(&gateway, user) == model));
        let again = promote(&gateway, &job, &terms);
        again.assert_error(409, "invalid_request_error", "already_promoted");
        let back = control(&gateway, post("/api/aliases/support-bot/rollback", ""));
        assert_eq!((back.status, &back.json()["model"]), (200, &json!("house-llama")));
        eventually("nobody gets it any more", || {
            (0..20).all(|user| model_for(&gateway, user) == "house-llama")
        });
        let nothing = control(&gateway, post("/api/aliases/support-bot/rollback", ""));
        nothing.assert_error(409, "invalid_request_error", "nothing_to_roll_back");
        let told =
            rows(&store, "select kind from outbox where subject = 'support-bot' order by id");
        assert_eq!(told.unwrap(), [["alias.promoted"], ["alias.rolled_back"]]);
        let gone = "DELETE /api/aliases/support-bot HTTP/1.1\r\nhost: gateway\r\n\r\n";
        assert_eq!(control(&gateway, gone).status, 200);
        assert_eq!(read(&gateway, "/api/aliases")["data"], json!([]));
    }
}

/// Leads `percent` of the calls for `support-bot` to `tuned-llama`, trained without some pieces of its
/// prompts, and the others to `house-llama`.
pub(crate) fn promoted(
    gateway: &Gateway,
    percent: u8,
    prune: &[&str],
) -> (Aliases, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Database::parse(&gateway.store()).unwrap().unwrap();
    let aliases = runtime.block_on(async { Aliases::of(&store).unwrap() });
    let arm = Arm {
        model: "tuned-llama".to_owned(),
        prune: prune.iter().map(|piece| (*piece).to_owned()).collect(),
        ..Arm::default()
    };
    let terms = json!({"alias": "support-bot", "percent": percent, "steps": []});
    let terms = Terms::parse(terms.to_string().as_bytes()).unwrap();
    let asked = Promotion { terms, arm, base: "house-llama".to_owned(), cost_ratio: Some(1.0) };
    runtime.block_on(promotion::begin(&aliases, &asked, now())).unwrap();
    (aliases, runtime)
}

/// Two models, each on a server of the test's; `tuned` is on trial for half of the calls.
struct Trial {
    gateway: Gateway,
    tuned: Upstream,
    aliases: Aliases,
    runtime: tokio::runtime::Runtime,
}

impl Trial {
    fn of(tuned: Upstream, prune: &[&str]) -> Self {
        let serving = Upstream::with(|_, _| said("hello"));
        let models = format!(
            "  tuned: {{ base_url: \"{}\", api_key: k }}\nmodels:\n  \
             house-llama: {{ upstream: openai, price: {{ input: 1, output: 1 }} }}\n  \
             tuned-llama: {{ upstream: tuned, price: {{ input: 1, output: 1 }} }}\n",
            tuned.base_url()
        );
        let gateway = Gateway::builder(&serving).upstream("api_key", "k").policy(&models).start();
        let (aliases, runtime) = promoted(&gateway, 50, prune);
        let trial = Self { gateway, tuned, aliases, runtime };
        eventually("the gateway leads to it", || {
            (0..20).any(|_| ask(&trial.gateway, 1).header("x-weir-model") != Some("support-bot"))
        });
        trial
    }

    /// Compares the calls once so many are in the store.
    fn look_at(&self, calls: u64) -> Value {
        eventually("the calls are in the store", || {
            let compared = &alias(&self.gateway)["comparison"];
            let of = |arm: &str| compared[arm]["calls"].as_u64().unwrap();
            of("canary") + of("serving") >= calls
        });
        self.runtime.block_on(async {
            let mut row = self.aliases.find("support-bot").await.unwrap().unwrap();
            promotion::look(&self.aliases, &mut row, now()).await.unwrap();
        });
        alias(&self.gateway)
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

#[test]
fn a_canary_that_fails_goes_back_by_itself_and_no_client_sees_it() {
    let broken = Upstream::with(|_, _| Answer::json(500, r#"{"error":{"message":"no"}}"#));
    let trial = Trial::of(broken, &[]);
    for user in 0..60 {
        assert_eq!(model_for(&trial.gateway, user), "house-llama");
    }
    assert!(!trial.tuned.requests().is_empty(), "it was asked");
    let seen = trial.look_at(60);
    assert_eq!(seen["status"], "stable", "{seen}");
    let outcome = &seen["last_outcome"];
    assert_eq!(
        (&outcome["result"], &outcome["measure"]),
        (&json!("rolled_back"), &json!("errors"))
    );
    assert!(outcome["evidence"]["evidence"].as_f64().unwrap() >= 80.0, "{outcome}");
    assert_eq!(seen["events"][0]["kind"], "rolled_back");
    eventually("nobody asks it any more", || {
        let before = trial.tuned.requests().len();
        (0..20).for_each(|user| drop(ask(&trial.gateway, user)));
        trial.tuned.requests().len() == before
    });
}

#[test]
fn a_canary_that_is_no_worse_stays() {
    let trial = Trial::of(Upstream::with(|_, _| said("hello")), &[]);
    for user in 0..300 {
        assert_eq!(ask(&trial.gateway, user).status, 200);
    }
    let seen = trial.look_at(300);
    assert_eq!((&seen["status"], &seen["canary"]["percent"]), (&json!("canary"), &json!(50.0)));
    let compared = &seen["comparison"];
    // 9 input and 3 output tokens at 1 USD per million.
    assert_eq!(compared["canary"]["mean_cost_usd"], "0.000012");
    assert_eq!(compared["serving"]["error_rate"], 0.0);
    let errors = &compared["test"]["errors"];
    let of = |arm: &str| errors[arm]["of"].as_u64().unwrap();
    assert!(of("canary") + of("serving") >= 300 && errors["finding"] == "fine", "{errors}");
}

#[test]
fn prompts_of_a_model_that_was_trained_without_a_piece_go_without_it() {
    let trial = Trial::of(Upstream::with(|_, _| said("hello")), &["Long preamble."]);
    let gateway = &trial.gateway;
    eventually("it is asked", || {
        (0..20).for_each(|user| drop(ask(gateway, user)));
        !trial.tuned.requests().is_empty()
    });
    let sent = String::from_utf8(trial.tuned.requests()[0].body.clone()).unwrap();
    assert!(sent.contains(r#""content":"Be kind.""#), "{sent}");
    assert!(sent.contains(r#""model":"tuned-llama""#), "{sent}");
    eventually("the call is recorded as the client sent it", || {
        let list = read(gateway, "/api/interactions?model=tuned-llama&limit=1");
        let Some(id) = list["data"][0]["id"].as_str() else { return false };
        let call = read(gateway, &format!("/api/interactions/{id}"));
        call.to_string().contains("Long preamble. Be kind.")
    });
    let replayed = weir(gateway.folder(), &["--json", "policy", "replay"], "");
    let report: Value = serde_json::from_str(&replayed.1).expect(&replayed.2);
    assert_eq!(report["total"]["changed"], 0, "an alias leads where it led: {report}");
}

#[test]
fn what_bad_verdicts_say_takes_a_canary_back() {
    let gateway = simulated("");
    let (job, model) = trained(&gateway);
    let terms = json!({"alias": "support-bot", "percent": 50, "steps": []});
    assert_eq!(promote(&gateway, &job, &terms).status, 202);
    eventually("the gateway leads to it", || ask(&gateway, 1).status == 200);
    let mut user = 0;
    eventually("people do not like it, and it goes", || {
        for _ in 0..10 {
            user += 1;
            let answer = ask(&gateway, user);
            let liked = answer.header("x-weir-model") != Some(model.as_str());
            let verdict =
                json!({"id": answer.header("x-weir-id"), "name": "thumbs", "value": liked});
            let taken = exchange(&gateway, post("/api/feedback", verdict.to_string()));
            assert!(taken.status < 300, "{}", taken.text());
        }
        alias(&gateway)["status"] == "stable"
    });
    assert_eq!(alias(&gateway)["last_outcome"]["measure"], "feedback");
}

#[test]
fn a_model_is_promoted_from_the_command_line() {
    let gateway = simulated("");
    let (job, model) = trained(&gateway);
    let promote = ["finetune", "promote", &job, "--alias", "support-bot", "--percent", "100"];
    let (code, out, error) = weir(gateway.folder(), &promote, "");
    assert_eq!(
        (code, out),
        (Some(0), format!("support-bot: all calls go to {model}\n")),
        "{error}"
    );
    eventually("the gateway leads to it", || {
        ask(&gateway, 1).header("x-weir-model") == Some(model.as_str())
    });
    assert_eq!(alias(&gateway)["serving"]["pruned_texts"], 1);
}

#[test]
fn a_promotion_that_cannot_be_is_refused_in_words() {
    let gateway = simulated("");
    let (job, _) = trained(&gateway);
    let nobody = "00000000-0000-7000-8000-000000000000";
    promote(&gateway, nobody, &json!({"alias": "a"})).assert_error(
        404,
        "invalid_request_error",
        "not_found",
    );
    let wrong = promote(&gateway, &job, &json!({"alias": "a", "percent": 101}));
    wrong.assert_error(400, "invalid_request_error", "invalid_parameter");
    assert_eq!(wrong.json()["error"]["param"], "percent");
    let none = get(gateway.control(), "/api/aliases/a").unwrap();
    none.assert_error(404, "invalid_request_error", "not_found");
    // Shut down since 2026-10-23.
    let (old, _) = train(&gateway, "gpt-4.1-nano");
    let over = promote(&gateway, &old, &json!({"alias": "a"}));
    over.assert_error(422, "invalid_request_error", "base_near_shutdown");
    assert!(over.text().contains("2026-10-23"), "{}", over.text());
}
