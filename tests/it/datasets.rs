//! Datasets as their users meet them: recipes in, files out, on both stores and in a bucket.

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use serde_json::json;
use uuid::Uuid;
use weir::store::Database;
use weir::store::DatasetItem;
use weir::store::Datasets;
use weir::store::NewDataset;
use weir::store::SplitFile;

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
use crate::support::http::post;
use crate::support::http::post_with;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;
use crate::support::s3::S3;
use crate::support::world;

/// 200 conversations of tau-bench's airline agents (Sierra, MIT licence).
const TAU: &[u8] = include_bytes!("../fixtures/tau_airline.jsonl.zst");

/// An upstream that says something else each time.
fn talkative() -> Upstream {
    Upstream::with(|turn, _| told(turn))
}

fn told(turn: usize) -> Answer {
    let text = format!("{}, and so I told ada@example.com", words(1000 + turn));
    let message = json!({"role": "assistant", "content": text, "refusal": null});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let answer = json!({"id": format!("chatcmpl-{turn}"), "object": "chat.completion",
        "model": "gpt-4.1-mini-2025-04-14", "choices": [choice],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}});
    Answer::json(200, answer.to_string())
}

/// Words that no two numbers share.
fn words(n: usize) -> String {
    (0..8).map(|at| format!("w{}", n * 100 + at)).collect::<Vec<_>>().join(" ")
}

fn ask(gateway: &Gateway, headers: &str, messages: &Value) -> Response {
    let body = json!({"model": "gpt-4.1-mini", "messages": messages}).to_string();
    let answer = exchange(gateway, post_with("/v1/chat/completions", headers, body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// Asks so many questions and waits until they are stored beside `before` others.
fn ask_many(gateway: &Gateway, store: &str, before: usize, count: usize) {
    for n in before..before + count {
        ask(gateway, &format!("x-weir-session: s-{n}\r\n"), &json!([user(&words(n))]));
    }
    wait_for(store, before + count);
}

fn wait_for(store: &str, count: usize) {
    let sql = "select cast(count(*) as text) from interactions";
    eventually("all calls are stored", || {
        rows(store, sql).is_ok_and(|rows| rows[0][0] == count.to_string())
    });
}

fn control(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    Raw::connect(gateway.control()).send(request).response().unwrap()
}

fn build(gateway: &Gateway, recipe: &Value) -> Value {
    let answer = control(gateway, post("/api/datasets", recipe.to_string()));
    assert!([201, 202].contains(&answer.status), "{}", answer.text());
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    eventually("the dataset is built", || {
        read(gateway, &format!("/api/datasets/{id}"))["status"] != "building"
    });
    let row = read(gateway, &format!("/api/datasets/{id}"));
    assert_eq!(row["status"], "ready", "{row}");
    row
}

fn read(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.control(), path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn delete(gateway: &Gateway, path: &str) -> Response {
    control(gateway, format!("DELETE {path} HTTP/1.1\r\nhost: gateway\r\n\r\n"))
}

fn lines(gateway: &Gateway, id: &Value, split: &str) -> Vec<Value> {
    let path = format!("/api/datasets/{}/export?split={split}", id.as_str().unwrap());
    let answer = get(gateway.control(), &path).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a test on both stores.
fn on_both(name: &str, holds: impl Fn(&str, Builder)) {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    let stores = [format!("sqlite:{}/weir.db", folder.path().display()), server.create(name)];
    for store in stores {
        let upstream = talkative();
        holds(&store, Gateway::builder(&upstream).config(&format!("store: {store}")));
    }
}

/// The format errors of OpenAI's cookbook, `Chat_finetuning_data_prep.ipynb`.
fn openai_s_check_accepts(line: &Value) -> bool {
    let messages = line["messages"].as_array().unwrap();
    let known = ["role", "content", "name", "function_call", "weight"];
    let roles = ["system", "user", "assistant", "function"];
    let is_fine = |message: &Value| {
        let members = message.as_object().unwrap();
        members.keys().all(|name| known.contains(&name.as_str()))
            && roles.contains(&message["role"].as_str().unwrap())
            && message["content"].as_str().is_some_and(|text| !text.is_empty())
    };
    !messages.is_empty()
        && messages.iter().all(is_fine)
        && messages.iter().any(|message| message["role"] == "assistant")
}

#[test]
fn captured_calls_become_lines_on_both_stores() {
    on_both("lines", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 20);
        // Not to be learned from: not kept, and without its words.
        ask(&gateway, "x-weir-capture: off\r\n", &json!([user("secret")]));
        ask(&gateway, "x-weir-capture: metadata\r\n", &json!([user("secret")]));
        // Two turns of one conversation.
        let (first, second) = (user("one two"), user("three four"));
        let said = ask(&gateway, "x-weir-session: long\r\n", &json!([first])).json();
        let said = said["choices"][0]["message"].clone();
        ask(&gateway, "x-weir-session: long\r\n", &json!([first, said, second]));
        wait_for(store, 24);
        let row = build(&gateway, &json!({"name": "chats", "split": {"validation": 0.3}}));
        let stats = &row["stats"];
        assert_eq!((&stats["rows_read"], &stats["rows_kept"]), (&json!(23), &json!(21)), "{stats}");
        let dropped = json!({"consent.not_given": 1, "assemble.earlier_turn": 1});
        assert_eq!(stats["dropped"], dropped);
        assert_eq!(stats["models"], json!({"gpt-4.1-mini-2025-04-14": 21}));
        let train = lines(&gateway, &row["id"], "train");
        let validation = lines(&gateway, &row["id"], "validation");
        assert_eq!(train.len() + validation.len(), 21);
        assert_eq!(row["train"]["rows"], train.len());
        assert_eq!(row["validation"]["rows"], validation.len());
        for line in train.iter().chain(&validation) {
            let messages = line["messages"].as_array().unwrap();
            let answer = messages.last().unwrap();
            assert!(openai_s_check_accepts(line), "{line}");
            assert_eq!(answer["role"], "assistant");
            assert!(answer["content"].as_str().unwrap().ends_with("<EMAIL_1>"), "{line}");
            assert_eq!(answer.as_object().unwrap().len(), 2, "no refusal: {line}");
        }
        let lengths: HashSet<usize> = train
            .iter()
            .chain(&validation)
            .map(|line| line["messages"].as_array().unwrap().len())
            .collect();
        assert_eq!(lengths, [2, 4].into());
        let items =
            "select cast(count(*) as text), cast(count(interaction_id) as text) from dataset_items";
        assert_eq!(rows(store, items).unwrap(), [["21", "21"]]);
    });
}

#[test]
fn the_same_recipe_over_the_same_calls_gives_the_same_files() {
    on_both("same", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 15);
        let recipe = json!({"name": "chats"});
        let (one, two) = (build(&gateway, &recipe), build(&gateway, &recipe));
        assert_eq!((&one["version"], &two["version"]), (&json!(1), &json!(2)));
        for same in ["recipe_hash", "train", "validation"] {
            assert_eq!(one[same], two[same], "{same}");
        }
        assert_eq!(one["stats"]["hash"], two["stats"]["hash"]);
        // The file stays as long as one of them has it.
        let path = |row: &Value| format!("/api/datasets/{}", row["id"].as_str().unwrap());
        assert_eq!(delete(&gateway, &path(&one)).status, 200);
        assert_eq!(lines(&gateway, &two["id"], "train").len(), two["train"]["rows"]);
        let key = two["train"]["key"].as_str().unwrap();
        let file = gateway.folder().join("data/objects").join(key);
        assert!(file.exists());
        let published = control(&gateway, post(&format!("{}/publish", path(&two)), ""));
        assert_eq!(published.status, 200, "{}", published.text());
        let manifest = gateway.folder().join("data/objects/datasets/chats/2/manifest.json");
        assert!(manifest.exists());
        assert_eq!(delete(&gateway, &path(&two)).status, 200);
        assert!(!file.exists() && !manifest.exists(), "nobody has it any more");
        delete(&gateway, &path(&two)).assert_error(404, "invalid_request_error", "not_found");
    });
}

#[test]
fn datasets_are_listed_in_pages_and_found_by_name() {
    on_both("pages", |store, gateway| {
        let gateway = gateway.start();
        assert_eq!(read(&gateway, "/api/datasets")["data"], json!([]));
        ask_many(&gateway, store, 0, 12);
        for _ in 0..3 {
            build(&gateway, &json!({"name": "chats"}));
        }
        let versions = |page: &Value| -> Vec<i64> {
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["version"].as_i64().unwrap())
                .collect()
        };
        let first = read(&gateway, "/api/datasets?limit=2");
        assert_eq!((versions(&first), &first["has_more"]), (vec![3, 2], &json!(true)));
        let rest = format!("/api/datasets?limit=2&after={}", first["last_id"].as_str().unwrap());
        let rest = read(&gateway, &rest);
        assert_eq!((versions(&rest), &rest["has_more"]), (vec![1], &json!(false)));
        assert_eq!(versions(&read(&gateway, "/api/datasets?order=asc&status=ready")), [1, 2, 3]);
        assert_eq!(versions(&read(&gateway, "/api/datasets?name=others")), Vec::<i64>::new());
        assert_eq!(read(&gateway, "/api/datasets/chats")["version"], 3);
        assert_eq!(read(&gateway, "/api/datasets/chats@2")["version"], 2);
        let wrong = get(gateway.control(), "/api/datasets?limit=0").unwrap();
        wrong.assert_error(400, "invalid_request_error", "invalid_parameter");
    });
}

#[test]
fn too_few_rows_are_told_with_what_became_of_the_others() {
    on_both("few", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 9);
        for _ in 0..3 {
            ask(&gateway, "x-weir-capture: metadata\r\n", &json!([user("secret")]));
        }
        wait_for(store, 12);
        let answer = control(&gateway, post("/api/datasets", r#"{"name":"few"}"#));
        assert_eq!(answer.status, 422, "{}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["rows"]), (&json!("too_few_rows"), &json!(9)));
        assert_eq!(error["counts"], json!({"consent.not_given": 3}));
        let message = error["message"].as_str().unwrap();
        assert_eq!(
            message,
            "9 rows are left after cleaning, and 10 are needed; dropped: consent.not_given: 3."
        );
        let row =
            read(&gateway, &format!("/api/datasets/{}", error["dataset_id"].as_str().unwrap()));
        assert_eq!(
            (&row["status"], &row["error"]["code"]),
            (&json!("failed"), &json!("too_few_rows"))
        );
        assert_eq!(row["stats"]["rows_kept"], 9);
        let path = format!("/api/datasets/{}/export", row["id"].as_str().unwrap());
        let refused = get(gateway.control(), &path).unwrap();
        refused.assert_error(409, "invalid_request_error", "dataset_not_ready");
        ask_many(&gateway, store, 12, 1);
        build(&gateway, &json!({"name": "few"}));
    });
}

#[test]
fn an_object_store_that_takes_nothing_is_told_and_nothing_is_left_half_built() {
    let upstream = talkative();
    let gateway = Gateway::builder(&upstream).config("objects: file:/dev/null/objects").start();
    ask_many(&gateway, &gateway.store(), 0, 12);
    let answer = control(&gateway, post("/api/datasets", r#"{"name":"chats"}"#));
    answer.assert_error(503, "api_error", "objects_unavailable");
    let row = read(&gateway, "/api/datasets/chats");
    assert_eq!((&row["status"], &row["train"]), (&json!("failed"), &json!(null)));
    assert_eq!(row["error"]["code"], "objects_unavailable");
    let items = "select cast(count(*) as text) from dataset_items";
    assert_eq!(rows(&gateway.store(), items).unwrap(), [["0"]]);
}

#[test]
fn a_recipe_that_cannot_be_used_is_told_with_the_place() {
    let upstream = talkative();
    let gateway = Gateway::start(&upstream);
    for (recipe, place) in [
        (json!({"name": "n", "stages": [{"kind": "dedupe"}, {"kind": "magic"}]}), "stages[1].kind"),
        (json!({"name": "n", "filter": {"since": "yesterday"}}), "filter.since"),
        (json!({"name": "n", "filter": {"colour": "red"}}), "filter.colour"),
        (json!({"name": "n", "split": {"validation": 2}}), "split.validation"),
        (json!({"name": "n", "source": {"file": {"path": "/etc/passwd"}}}), "source.file.path"),
        (
            json!({"name": "n", "stages": [{"kind": "contamination", "files": ["/x"]}]}),
            "stages[0].files[0]",
        ),
        (json!({}), "recipe"),
    ] {
        for path in ["/api/datasets", "/api/datasets/preview"] {
            let answer = control(&gateway, post(path, recipe.to_string()));
            answer.assert_error(400, "invalid_request_error", "invalid_recipe");
            assert_eq!(answer.json()["error"]["param"], place, "{recipe}");
        }
    }
    let (code, _, told) =
        weir(gateway.folder(), &["dataset", "build", "-"], r#"{"name":"n","x":1}"#);
    assert_eq!(code, Some(1));
    assert!(told.contains("-: `x`: unknown field"), "{told}");
}

#[test]
fn a_preview_shows_what_each_stage_drops_and_changes_nothing() {
    let upstream = Upstream::always(told(0));
    let gateway = Gateway::start(&upstream);
    ask_many(&gateway, &gateway.store(), 0, 3);
    ask(&gateway, "", &json!([user(&words(0))]));
    wait_for(&gateway.store(), 4);
    let answer = control(&gateway, post("/api/datasets/preview", r#"{"name":"n"}"#));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    assert_eq!((&seen["rows_read"], &seen["all_rows_read"]), (&json!(4), &json!(true)));
    let stage = |kind: &str| {
        let stages = seen["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["kind"] == kind).unwrap().clone()
    };
    assert_eq!(seen["stages"].as_array().unwrap().len(), 12);
    let dedupe = stage("dedupe");
    assert_eq!(dedupe["dropped"], json!({"exact": 1}));
    let sample = dedupe["samples"][0]["excerpt"].as_str().unwrap();
    assert!(sample.starts_with(&format!("user: {}", words(0))), "{sample}");
    assert_eq!(stage("redact")["rewritten"], json!({"email": 4}));
    assert_eq!(seen["examples"].as_array().unwrap().len(), 3);
    assert_eq!(read(&gateway, "/api/datasets")["data"], json!([]));
}

#[test]
fn feedback_chooses_and_mends_what_is_learned() {
    on_both("feedback", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 14);
        let judge = |n: usize, name: &str, value: Value| {
            let verdict = json!({"id": format!("s-{n}"), "name": name, "value": value});
            let answer = exchange(&gateway, post("/api/feedback", verdict.to_string()));
            assert_eq!(answer.status, 200, "{}", answer.text());
        };
        judge(0, "thumbs", json!(false));
        judge(1, "thumbs", json!(true));
        let better = json!({"role": "assistant", "content": "better said"});
        judge(2, "better", json!({"demonstration": better}));
        eventually("verdicts are stored", || {
            rows(store, "select cast(count(*) as text) from feedback").unwrap()[0][0] == "3"
        });
        let feedback = json!([{"name": "thumbs", "min": 1}]);
        let stages = json!([{"kind": "quality", "feedback": feedback}]);
        let row = build(&gateway, &json!({"name": "good", "stages": stages}));
        assert_eq!(row["stats"]["dropped"], json!({"quality.feedback": 1}));
        assert_eq!(row["stats"]["rewritten"]["quality.demonstration"], 1);
        let all = [lines(&gateway, &row["id"], "train"), lines(&gateway, &row["id"], "validation")]
            .concat();
        let answers: Vec<_> =
            all.iter().map(|line| line["messages"][1]["content"].clone()).collect();
        assert!(answers.contains(&json!("better said")), "{answers:?}");
        let origins =
            "select origin, cast(count(*) as text) from dataset_items group by origin order by 1";
        assert_eq!(rows(store, origins).unwrap(), [["captured", "12"], ["relabelled_human", "1"]]);
    });
}

#[test]
fn nothing_is_learned_from_another_datasets_validation_set() {
    on_both("holdout", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 40);
        let judged_by = build(&gateway, &json!({"name": "eval", "split": {"validation": 0.5}}));
        let kept = judged_by["validation"]["rows"].as_u64().unwrap();
        let holdout = |id: &Value| json!([{"kind": "contamination", "datasets": [id]}]);
        let row = build(&gateway, &json!({"name": "chats", "stages": holdout(&judged_by["id"])}));
        assert!(kept > 0);
        assert_eq!(row["stats"]["dropped"], json!({"contamination.holdout": kept}));
        let missing = holdout(&json!("00000000-0000-7000-8000-000000000000"));
        let recipe = json!({"name": "chats", "stages": missing}).to_string();
        let refused = control(&gateway, post("/api/datasets", recipe));
        refused.assert_error(400, "invalid_request_error", "invalid_recipe");
        assert_eq!(refused.json()["error"]["param"], "stages[0].datasets[0]");
        // What the filter leaves out is not read.
        let one = json!({"name": "one", "filter": {"session": "s-1", "since": "1h"}}).to_string();
        let refused = control(&gateway, post("/api/datasets", one));
        assert_eq!((refused.status, &refused.json()["error"]["rows"]), (422, &json!(1)));
    });
}

#[test]
fn words_that_are_erased_take_their_datasets_with_them() {
    on_both("erased", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 12);
        let row = build(&gateway, &json!({"name": "chats"}));
        let file =
            gateway.folder().join("data/objects").join(row["train"]["key"].as_str().unwrap());
        assert!(file.exists());
        // The last one's words came later than the dataset.
        ask_many(&gateway, store, 12, 1);
        assert_eq!(delete(&gateway, "/api/interactions?session=s-12").status, 200);
        assert_eq!(read(&gateway, "/api/datasets/chats")["status"], "ready");
        let erased = delete(&gateway, "/api/interactions?session=s-3");
        assert_eq!(erased.json()["datasets"][0]["name"], "chats", "{}", erased.text());
        let row = read(&gateway, "/api/datasets/chats");
        assert_eq!(
            (&row["status"], &row["error"]["message"]),
            (&json!("archived"), &json!("words in it were erased"))
        );
        assert!(!file.exists());
        let again = build(&gateway, &json!({"name": "chats"}));
        assert_eq!(again["stats"]["rows_kept"], 11);
    });
}

#[test]
fn words_that_are_erased_during_a_build_are_not_in_it() {
    on_both("race", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 1);
        let call = crate::support::rows::ids(store).remove(0);
        let database = Database::parse(store).unwrap().unwrap();
        let datasets = world().block_on(Datasets::open(&database)).unwrap();
        let (file, none) = (SplitFile::default(), json!({}));
        // Asked for, read, and written down: the erasure comes between any two of these.
        for (name, erased_first) in [("before", true), ("after", false)] {
            let recipe = json!({"name": name});
            let new = NewDataset {
                id: Uuid::now_v7(),
                created_at: 1_000_000_000_000,
                team: None,
                name,
                method: "supervised",
                recipe: &recipe,
                recipe_hash: "x",
            };
            let row = world().block_on(datasets.create(&new)).unwrap();
            let item = DatasetItem {
                interaction_id: Some(call.parse().unwrap()),
                conversation_id: "c".to_owned(),
                split: "train",
                origin: "captured",
                content_hash: "h".to_owned(),
                tokens: 1,
                ordinal: 0,
            };
            let add = || {
                world().block_on(datasets.add_items(row.id, std::slice::from_ref(&item))).unwrap()
            };
            let erase =
                || assert_eq!(delete(&gateway, "/api/interactions?session=s-0").status, 200);
            if erased_first {
                erase();
                add();
            } else {
                add();
                erase();
            }
            let frozen = datasets.freeze((row.id, 1), 1_000_000_000_000, 1, &none, [&file, &file]);
            assert!(!world().block_on(frozen).unwrap(), "erased {name} it was written");
            assert_eq!(read(&gateway, &format!("/api/datasets/{name}"))["status"], "archived");
        }
    });
}

#[test]
fn an_attempt_that_another_one_took_over_changes_nothing() {
    on_both("attempts", |store, gateway| {
        let gateway = gateway.start();
        ask_many(&gateway, store, 0, 1);
        let database = Database::parse(store).unwrap().unwrap();
        let datasets = world().block_on(Datasets::open(&database)).unwrap();
        let recipe = json!({"name": "slow"});
        let new = NewDataset {
            id: Uuid::now_v7(),
            created_at: 5000,
            team: None,
            name: "slow",
            method: "supervised",
            recipe: &recipe,
            recipe_hash: "x",
        };
        world().block_on(async {
            let row = datasets.create(&new).await.unwrap();
            assert!(datasets.beat(row.id, 1, 10, 6000).await.unwrap());
            assert!(datasets.adopt(6000, 9000).await.unwrap().is_none(), "it lives");
            let adopted = datasets.adopt(6001, 9_000_000_000_000).await.unwrap().unwrap();
            assert_eq!((adopted.id, &adopted.stats["attempt"]), (row.id, &json!(2)));
            assert!(datasets.adopt(6001, 9000).await.unwrap().is_none(), "it is somebody's");
            assert!(!datasets.beat(row.id, 1, 20, 7000).await.unwrap());
            datasets.fail((row.id, 1), "disk", "full", &json!({})).await.unwrap();
            let (file, none) = (SplitFile::default(), json!({}));
            let frozen = datasets.freeze((row.id, 1), 5000, 1, &none, [&file, &file]);
            assert!(!frozen.await.unwrap());
            let row = datasets.find("slow").await.unwrap().unwrap();
            assert_eq!(row.status, "building");
            datasets.fail((row.id, 2), "disk", "full", &json!({})).await.unwrap();
        });
    });
}

#[test]
fn a_build_whose_process_died_is_taken_up_again() {
    on_both("died", |store, gateway| {
        let mut gateway = gateway.start();
        ask_many(&gateway, store, 0, 12);
        build(&gateway, &json!({"name": "chats"}));
        gateway.kill();
        // As a process leaves it that dies in the middle.
        let now =
            if store.starts_with("sqlite") { "1000000000000" } else { "to_timestamp(1000000000)" };
        for (name, recipe) in [("cut", r#"{"name":"cut"}"#), ("hopeless", r#"{"name":"hopeless"}"#)]
        {
            let attempt = if name == "cut" { "{}" } else { r#"{"attempt":3,"at":5}"# };
            let id = if name == "cut" { 1 } else { 2 };
            let sql = format!(
                "insert into datasets (id, created_at, name, version, method, status, recipe, recipe_hash, stats) \
                 values ('00000000-0000-7000-8000-00000000000{id}', {now}, '{name}', 1, 'supervised', 'building', '{recipe}', 'x', '{attempt}')"
            );
            rows(store, &sql).unwrap();
        }
        gateway.start_again();
        let status = |name: &str| read(&gateway, &format!("/api/datasets/{name}"));
        eventually("both are decided", || {
            ["cut", "hopeless"].iter().all(|name| status(name)["status"] != "building")
        });
        // It reads what was there when it was asked for: nothing, in 2001.
        assert_eq!(status("cut")["error"]["code"], "too_few_rows");
        assert_eq!(status("hopeless")["error"]["code"], "died");
        delete(&gateway, "/api/datasets/cut");
    });
}

#[test]
fn a_dataset_is_published_in_a_bucket_and_nothing_is_sent_twice() {
    let server = S3::start();
    let bucket = server.bucket("weir");
    let credentials = server.lock();
    let upstream = talkative();
    let secret = secrecy::ExposeSecret::expose_secret(credentials.secret.as_ref().unwrap());
    let gateway = Gateway::builder(&upstream)
        .config(&format!("objects: {bucket}"))
        .env("AWS_ACCESS_KEY_ID", credentials.key_id.as_ref().unwrap())
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .start();
    ask_many(&gateway, &gateway.store(), 0, 15);
    let row = build(&gateway, &json!({"name": "chats"}));
    let path = format!("/api/datasets/{}/publish", row["id"].as_str().unwrap());
    let published = control(&gateway, post(&path, "")).json();
    assert_eq!(published["manifest"], "datasets/chats/1/manifest.json");
    assert_eq!(published["files"]["train"]["sent"], false, "the build has put it there");
    assert_eq!(published["files"]["train"]["key"], row["train"]["key"]);
    assert_eq!(lines(&gateway, &row["id"], "train").len(), row["train"]["rows"]);
    // To another place, as the command line does it.
    let elsewhere = gateway.folder().join("elsewhere");
    let to = format!("file:{}", elsewhere.display());
    let environment = [
        ("AWS_ACCESS_KEY_ID", credentials.key_id.as_ref().unwrap().as_str()),
        ("AWS_SECRET_ACCESS_KEY", secret),
    ];
    for sent in [true, false] {
        let (code, out, told) = weir_with(
            gateway.folder(),
            &["dataset", "publish", "chats", "--to", &to],
            &environment,
        );
        assert_eq!(code, Some(0), "{told}");
        let published: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(published["files"]["train"]["sent"], sent);
    }
    let copied =
        std::fs::read_to_string(elsewhere.join(row["train"]["key"].as_str().unwrap())).unwrap();
    assert_eq!(copied.lines().count(), row["train"]["rows"]);
    assert!(elsewhere.join("datasets/chats/1/manifest.json").exists());
}

fn weir_with(
    folder: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

/// The conversations on disk, and a recipe for them.
fn tau(folder: &Path, recipe: &Value) -> Value {
    let plain = zstd::stream::decode_all(TAU).unwrap();
    std::fs::write(folder.join("tau.jsonl"), plain).unwrap();
    let file = json!({"path": "tau.jsonl", "conversation": "conversation_id", "family": "task_id", "rating": "reward"});
    let mut whole = json!({"name": "tau", "model": "gpt-4o", "source": {"file": file}});
    whole.as_object_mut().unwrap().extend(recipe.as_object().unwrap().clone());
    let (code, out, told) = weir(folder, &["--json", "dataset", "build", "-"], &whole.to_string());
    assert_eq!(code, Some(0), "{told}");
    serde_json::from_str(&out).unwrap()
}

fn exported(folder: &Path, split: &str) -> Vec<Value> {
    let (code, out, told) = weir(folder, &["dataset", "export", "tau", "--split", split], "");
    assert_eq!(code, Some(0), "{told}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The counts were made by hand with Python over the same file.
#[test]
fn the_counts_of_tau_bench_come_out() {
    let folder = tempfile::tempdir().unwrap();
    let stages = json!([
        {"kind": "structure", "sentinels": ["###STOP###"]},
        {"kind": "redact", "fields": {"dob": "BIRTH_DATE", "last_four": "CARD_LAST_FOUR"}},
    ]);
    let row = tau(folder.path(), &json!({"stages": stages, "split": {"validation": 0.2}}));
    let stats = &row["stats"];
    assert_eq!((&stats["rows_read"], &stats["rows_kept"]), (&json!(200), &json!(200)));
    assert_eq!(stats["dropped"], json!({}), "there are no duplicates");
    let seen = &stats["seen"];
    for (what, count) in [
        ("tool_calls", 1164),
        ("ends_with_user", 149),
        ("ends_with_tool", 51),
        ("tool_errors", 73),
        ("rows_with_tool_errors", 36),
    ] {
        assert_eq!(seen[what], count, "{what}");
    }
    let rewritten = &stats["rewritten"];
    assert_eq!(rewritten["structure.sentinel"], 147);
    // What does not end with the sentinel ends with a tool or a user all the same.
    assert_eq!(rewritten["structure.trailing_turns"], 200 - 147);
    assert_eq!(rewritten["redact.email"], 127);
    let all = [exported(folder.path(), "train"), exported(folder.path(), "validation")].concat();
    assert_eq!(all.len(), 200);
    assert!(all.iter().all(|line| line["messages"].as_array().unwrap().last().unwrap()["role"] == "assistant"));
    let text = Value::from(all.clone()).to_string();
    assert!(!text.contains("###STOP###") && !text.contains("@example.com"));
    let transferred =
        all.iter().filter(|line| line.to_string().contains("transfer_to_human_agents\"")).count();
    assert_eq!(transferred, 48);
}

#[test]
fn no_task_of_tau_bench_is_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..3 {
        let split = json!({"validation": 0.2, "seed": seed});
        let as_said =
            json!([{"kind": "redact", "kinds": []}, {"kind": "normalise", "enabled": false}]);
        let row = tau(folder.path(), &json!({"split": split, "stages": as_said}));
        assert!(row["validation"]["rows"].as_u64().unwrap() > 0, "{row}");
        // Lines are found again by what the customer says first. Tasks that share that are on one side.
        let plain = zstd::stream::decode_all(TAU).unwrap();
        let mut tasks: HashMap<String, HashSet<u64>> = HashMap::new();
        for line in String::from_utf8(plain).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let opening = line["messages"][1]["content"].as_str().unwrap().to_owned();
            let task = line["task_id"].as_u64().unwrap();
            tasks.entry(opening).or_default().insert(task);
        }
        let of = |split: &str| -> HashSet<u64> {
            let opening =
                |line: &Value| line["messages"][1]["content"].as_str().unwrap().to_owned();
            let lines = exported(folder.path(), split);
            lines.iter().flat_map(|line| tasks[&opening(line)].iter().copied()).collect()
        };
        let (train, validation) = (of("train"), of("validation"));
        assert_eq!(train.len() + validation.len(), 50);
        assert_eq!(train.intersection(&validation).count(), 0);
    }
}
