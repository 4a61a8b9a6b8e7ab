//! Fine-tune jobs as their users and trainers meet them: no job is made twice, none is lost, and no
//! state moves backwards.

use std::sync::Arc;
use std::sync::Mutex;

use base64::Engine as _;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::Step;
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

/// Builds a dataset of 20 lines, the last ones for validation, from a file.
fn build(gateway: &Gateway, name: &str) -> Value {
    let line = |n: usize| {
        let asked =
            json!({"role": "user", "content": format!("question number{n} about thing{}", n * 7)});
        let told = json!({"role": "assistant", "content": format!("answer word{} other{} more{}", n * 3, n * 5, n * 11)});
        json!({"messages": [asked, told]}).to_string() + "\n"
    };
    let folder = gateway.folder();
    std::fs::write(folder.join("lines.jsonl"), (0..20).map(line).collect::<String>()).unwrap();
    let recipe = json!({"name": name, "source": {"file": {"path": "lines.jsonl"}},
        "split": {"validation": 0.2}});
    std::fs::write(folder.join("recipe.json"), recipe.to_string()).unwrap();
    let (code, out, error) = weir(folder, &["--json", "dataset", "build", "recipe.json"], "");
    assert_eq!(code, Some(0), "{out}{error}");
    serde_json::from_str(&out).unwrap()
}

fn control(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    Raw::connect(gateway.control()).send(request).response().unwrap()
}

fn ask(gateway: &Gateway, key: &str, body: &Value) -> Response {
    let headers = format!("idempotency-key: {key}\r\n");
    control(gateway, post_with("/api/fine-tune", &headers, body.to_string()))
}

/// Makes a job and returns its id.
fn create(gateway: &Gateway, key: &str) -> String {
    let answer = ask(gateway, key, &json!({"dataset_id": "d", "model": "gpt-4.1-mini"}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["job_id"].as_str().unwrap().to_owned()
}

fn read(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.control(), path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn status(gateway: &Gateway, job: &str) -> Value {
    read(gateway, &format!("/api/fine-tune-status?job_id={job}"))
}

/// As the trainer tells it now.
fn refreshed(gateway: &Gateway, job: &str) -> Value {
    read(gateway, &format!("/api/fine-tune-status?job_id={job}&refresh=true"))
}

fn until(gateway: &Gateway, job: &str, wanted: &str) -> Value {
    eventually(&format!("the job is {wanted}"), || status(gateway, job)["status"] == wanted);
    status(gateway, job)
}

fn act(gateway: &Gateway, job: &str, action: &str) -> Response {
    control(gateway, post(&format!("/api/fine-tune/{job}/{action}"), ""))
}

/// A trainer that takes files, and answers about jobs as it is told: by method and target.
fn trainer(jobs: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Upstream {
    Upstream::with(move |turn, request| match (request.method.as_str(), request.target.as_str()) {
        ("POST", "/v1/files") => {
            Answer::json(200, json!({"id": format!("file-{turn}")}).to_string())
        }
        ("GET", target) if target.starts_with("/v1/files") => empty(),
        ("DELETE", _) => Answer::json(200, r#"{"deleted":true}"#),
        (method, target) => jobs(method, target),
    })
}

fn empty() -> Answer {
    Answer::json(200, r#"{"object":"list","data":[],"has_more":false}"#)
}

fn job(status: &str) -> Answer {
    let model = (status == "succeeded").then_some("ft:gpt-4.1-mini:acme::1");
    let job = json!({"id": "ftjob-1", "status": status, "fine_tuned_model": model,
        "trained_tokens": 1000, "error": {"code": null, "message": null, "param": null}});
    Answer::json(200, job.to_string())
}

/// The list that the query's metadata filter asks for.
fn listed(target: &str) -> Answer {
    let id = target.split("gateway_job_id%5D=").nth(1).unwrap_or_default();
    let found = json!({"id": "ftjob-1", "status": "running", "metadata": {"gateway_job_id": id}});
    Answer::json(200, json!({"object": "list", "data": [found], "has_more": false}).to_string())
}

fn before(trainer: &Upstream) -> Builder {
    let at = format!("trainer: {{ base_url: \"{}\", api_key: sk-1 }}", trainer.base_url());
    Gateway::before("http://127.0.0.1:1/v1").config(&at)
}

fn made(trainer: &Upstream) -> usize {
    let requests = trainer.requests();
    let makes = |method: &str, target: &str| method == "POST" && target == "/v1/fine_tuning/jobs";
    requests.iter().filter(|request| makes(&request.method, &request.target)).count()
}

#[test]
fn a_job_goes_from_a_dataset_to_a_tuned_model_on_both_stores() {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    let stores = [format!("sqlite:{}/weir.db", folder.path().display()), server.create("tuned")];
    for store in stores {
        let gateway = Gateway::before("http://127.0.0.1:1/v1")
            .config(&format!("store: {store}"))
            .argument("--simulate")
            .start();
        let dataset = build(&gateway, "d");
        let body = json!({"dataset_id": "d", "model": "gpt-4.1-mini", "suffix": "ours",
            "hyperparameters": {"n_epochs": 2}});
        let first = ask(&gateway, "k-1", &body);
        assert_eq!(first.status, 202, "{}", first.text());
        let id = first.json()["job_id"].as_str().unwrap().to_owned();
        // Two epochs at 5 USD per million tokens.
        let tokens = dataset["train"]["tokens"].as_u64().unwrap();
        let micro = tokens * 2 * 5;
        let estimate = first.json()["cost_estimate"].as_str().unwrap().to_owned();
        assert_eq!(estimate, format!("0.{micro:06}").trim_end_matches('0'));
        let again = ask(&gateway, "k-1", &body);
        assert_eq!((again.status, again.header("idempotent-replayed")), (202, Some("true")));
        assert_eq!(again.json()["job_id"], id.as_str());
        let other = ask(&gateway, "k-1", &json!({"dataset_id": "d", "model": "gpt-4.1"}));
        other.assert_error(409, "invalid_request_error", "idempotency_key_reused");
        let done = until(&gateway, &id, "succeeded");
        let model = done["fine_tuned_model"].as_str().unwrap();
        assert!(model.starts_with("ft:gpt-4.1-mini:simulator:ours:"), "{done}");
        assert!(done["trained_tokens"].as_u64().unwrap() > 0);
        assert!(done["cost_actual"].as_str().unwrap().starts_with("0."), "{done}");
        assert!(done["completion_log"].as_str().unwrap().contains("successfully completed"));
        eventually("the training files are deleted", || {
            let files =
                exchange(&gateway, "GET /v1/files HTTP/1.1\r\nhost: gateway\r\n\r\n").json();
            let data = files["data"].as_array().unwrap();
            !data.is_empty() && data.iter().all(|file| file["purpose"] == "fine-tune-results")
        });
        let events = read(&gateway, &format!("/api/fine-tune/{id}/events?limit=2"));
        assert_eq!(events["data"][0]["message"], "The job has successfully completed");
        assert_eq!(events["has_more"], true);
        let next = format!(
            "/api/fine-tune/{id}/events?limit=100&after={}",
            events["last_id"].as_str().unwrap()
        );
        let rest = read(&gateway, &next)["data"].as_array().unwrap().len();
        // Two at the beginning, two on the way, ten steps, two at the end; two were read before.
        assert_eq!(rest, 14);
        let checkpoints = read(&gateway, &format!("/api/fine-tune/{id}/checkpoints"));
        assert_eq!(checkpoints["data"][0]["fine_tuned_model_checkpoint"], model);
        let listed = read(&gateway, "/api/fine-tune-status?status=succeeded");
        assert_eq!(listed["data"][0]["job_id"], id.as_str());
        let taken = control(&gateway, "DELETE /api/datasets/d HTTP/1.1\r\nhost: gateway\r\n\r\n");
        taken.assert_error(409, "invalid_request_error", "dataset_in_use");
        eventually("the metric tells of it", || {
            let text = get(gateway.control(), "/metrics").unwrap().text();
            text.contains(r#"weir_training_jobs{status="succeeded"} 1"#)
                && text.contains(r#"weir_training_jobs{status="running"} 0"#)
                && text.contains(r#"weir_datasets{status="ready"} 1"#)
        });
    }
}

#[test]
fn a_job_whose_answer_was_lost_is_found_and_not_made_twice() {
    let trainer = trainer(|method, target| match (method, target) {
        ("POST", _) => Answer::default().then(Step::Close),
        (_, target) if target.contains("gateway_job_id") => listed(target),
        (_, target) if target.ends_with("/ftjob-1") => job("succeeded"),
        _ => empty(),
    });
    let gateway = before(&trainer).start();
    build(&gateway, "d");
    let id = create(&gateway, "k");
    until(&gateway, &id, "submit_unknown");
    let found = refreshed(&gateway, &id);
    assert_eq!(
        (&found["status"], &found["provider_job_id"]),
        (&json!("running"), &json!("ftjob-1"))
    );
    assert_eq!(refreshed(&gateway, &id)["status"], "succeeded");
    assert_eq!(made(&trainer), 1);
    let requests = trainer.requests();
    let request = requests.iter().find(|r| r.target == "/v1/fine_tuning/jobs").unwrap();
    let sent: Value = serde_json::from_str(&request.text()).unwrap();
    assert_eq!(sent["metadata"]["gateway_job_id"], id.as_str());
    assert_eq!(request.header("authorization"), Some("Bearer sk-1"));
}

#[test]
fn a_job_that_was_being_submitted_at_a_kill_is_found_by_the_next_process() {
    let trainer = trainer(|method, target| match (method, target) {
        ("POST", _) => Answer::default().then(Step::Stall),
        (_, target) if target.contains("gateway_job_id") => listed(target),
        (_, target) if target.ends_with("/ftjob-1") => job("succeeded"),
        _ => empty(),
    });
    let mut gateway = before(&trainer).start();
    build(&gateway, "d");
    let id = create(&gateway, "k");
    eventually("the job is being made", || made(&trainer) == 1);
    gateway.kill();
    assert_eq!(lease_runs_out(&gateway), "submitting");
    gateway.start_again();
    until(&gateway, &id, "submit_unknown");
    assert_eq!(refreshed(&gateway, &id)["status"], "running");
    assert_eq!(refreshed(&gateway, &id)["status"], "succeeded");
    assert_eq!(made(&trainer), 1);
}

#[test]
fn an_upload_that_was_cut_off_by_a_kill_is_taken_up_and_leaves_no_second_file() {
    let gate = Arc::new(Semaphore::new(0));
    // The first file arrives, and nobody hears of it.
    let trainer = Upstream::with(move |_, request| {
        match (request.method.as_str(), request.target.as_str()) {
            ("POST", "/v1/files") => Answer::default().wait(&gate),
            _ => empty(),
        }
    });
    let mut gateway = before(&trainer).start();
    build(&gateway, "d");
    let id = create(&gateway, "k");
    eventually("the file is on its way", || trainer.count() == 1);
    gateway.kill();
    assert_eq!(lease_runs_out(&gateway), "uploading");
    let name = format!("weir-{id}-train.jsonl");
    let left = json!({"data": [{"id": "file-left", "filename": name}], "has_more": false});
    let next = Upstream::with(move |_, request| {
        match (request.method.as_str(), request.target.as_str()) {
            ("GET", target) if target.starts_with("/v1/files") => {
                Answer::json(200, left.to_string())
            }
            ("POST", "/v1/files") => Answer::json(200, r#"{"id":"file-validation"}"#),
            _ => job("queued"),
        }
    });
    let yaml = gateway.folder().join("weir.yaml");
    let config = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(&yaml, config.replace(&trainer.base_url(), &next.base_url())).unwrap();
    gateway.start_again();
    let row = until(&gateway, &id, "queued");
    assert_eq!(row["training_file_id"], "file-left");
    assert_eq!((made(&trainer), made(&next)), (0, 1));
}

#[test]
fn an_unknown_status_is_kept_and_three_404_are_the_end() {
    let said = Arc::new(Mutex::new("validating_files"));
    let says = Arc::clone(&said);
    let trainer = trainer(move |method, target| match (method, *says.lock().unwrap()) {
        ("GET", "gone") if target.ends_with("/ftjob-1") => Answer::json(
            404,
            r#"{"error":{"message":"no such job","type":"x","param":null,"code":null}}"#,
        ),
        (_, status) => job(status),
    });
    let gateway = before(&trainer).start();
    build(&gateway, "d");
    let id = create(&gateway, "k");
    until(&gateway, &id, "validating_files");
    let say = |status| *said.lock().unwrap() = status;
    say("running");
    assert_eq!(refreshed(&gateway, &id)["status"], "running");
    say("awaiting_GPU");
    let odd = refreshed(&gateway, &id);
    assert_eq!(
        (&odd["status"], &odd["provider_status"]),
        (&json!("running"), &json!("awaiting_GPU"))
    );
    assert_eq!(odd["status_reason"], "unknown provider status");
    say("queued");
    assert_eq!(refreshed(&gateway, &id)["status"], "running", "it does not move backwards");
    say("gone");
    for _ in 0..2 {
        assert_eq!(refreshed(&gateway, &id)["status"], "running");
    }
    let failed = refreshed(&gateway, &id);
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!("provider_job_missing"))
    );
    let again = act(&gateway, &id, "retry").json();
    assert_ne!(again["job_id"], id.as_str());
    assert_eq!(
        act(&gateway, &id, "retry").json()["job_id"],
        again["job_id"],
        "one retry is one job"
    );
}

#[test]
fn two_gateways_at_one_store_make_each_job_once() {
    let trainer = trainer(|method, _| match method {
        "POST" => Answer::json(
            200,
            json!({"id": uuid::Uuid::now_v7().to_string(), "status": "queued"}).to_string(),
        ),
        _ => empty(),
    });
    let folder = tempfile::tempdir().unwrap();
    let store =
        format!("store: sqlite:{0}/weir.db\nobjects: file:{0}/objects", folder.path().display());
    let one = before(&trainer).config(&store).start();
    build(&one, "d");
    let two = before(&trainer).config(&store).start();
    let jobs: Vec<String> =
        (0..6).map(|n| create(if n % 2 == 0 { &one } else { &two }, &format!("k-{n}"))).collect();
    for job in &jobs {
        until(&two, job, "queued");
    }
    assert_eq!(made(&trainer), 6);
}

#[test]
fn what_may_cost_more_than_its_ceiling_waits_for_a_word() {
    let trainer = trainer(|_, _| job("queued"));
    let gateway = before(&trainer).start();
    build(&gateway, "d");
    let body = json!({"dataset_id": "d", "model": "gpt-4.1-mini", "max_cost_usd": "0.000001"});
    let dry = control(
        &gateway,
        post(
            "/api/fine-tune",
            json!({"dataset_id": "d", "model": "gpt-4.1-mini", "dry_run": true}).to_string(),
        ),
    );
    assert_eq!((dry.status, &dry.json()["dry_run"]), (200, &json!(true)));
    assert_eq!(read(&gateway, "/api/fine-tune-status")["data"], json!([]));
    let waits = ask(&gateway, "k-1", &body).json();
    let stays = ask(&gateway, "k-2", &body).json();
    assert_eq!(waits["status"], "awaiting_approval");
    assert!(waits["status_reason"].as_str().unwrap().contains("the ceiling is 0.000001"));
    let (waits, stays) = (waits["job_id"].as_str().unwrap(), stays["job_id"].as_str().unwrap());
    assert_eq!(act(&gateway, stays, "cancel").json()["status"], "cancelled");
    assert_eq!(act(&gateway, waits, "approve").json()["status"], "pending");
    until(&gateway, waits, "queued");
    let twice = act(&gateway, waits, "approve");
    twice.assert_error(409, "invalid_request_error", "invalid_job_state");
    assert_eq!(made(&trainer), 1);
}

#[test]
fn a_job_is_paused_resumed_and_cancelled_at_the_trainer_on_both_stores() {
    let server = Postgres::start();
    for store in ["sqlite:data/weir.db".to_owned(), server.create("paused")] {
        paused_resumed_and_cancelled(&store);
    }
}

fn paused_resumed_and_cancelled(store: &str) {
    let said = Arc::new(Mutex::new("running"));
    let says = Arc::clone(&said);
    let trainer = trainer(move |_, target| {
        let mut status = says.lock().unwrap();
        match target.rsplit('/').next().unwrap() {
            "pause" => *status = "paused",
            "resume" => *status = "queued",
            "cancel" => *status = "cancelled",
            other if other.starts_with("events") || other.starts_with("checkpoints") => {
                return empty();
            }
            _ => {}
        }
        job(*status)
    });
    let gateway = before(&trainer).config(&format!("store: {store}")).start();
    build(&gateway, "d");
    let id = create(&gateway, "k");
    until(&gateway, &id, "running");
    let oldest = |status| gateway.metric("weir_training_oldest_job_seconds", &[("status", status)]);
    eventually("the metric tells how long it has been running", || oldest("running") > 0.5);
    assert!(oldest("queued").abs() < 0.1, "nothing else waits");
    for (action, status) in [("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")] {
        assert_eq!(act(&gateway, &id, action).status, 202, "{action}");
        until(&gateway, &id, status);
    }
    let over = act(&gateway, &id, "cancel");
    over.assert_error(409, "invalid_request_error", "invalid_job_state");
}

#[test]
fn a_refusal_of_the_trainer_is_told_in_the_row() {
    let trainer = trainer(|_, _| {
        Answer::json(
            400,
            r#"{"error":{"message":"Your organisation may not train.","type":"invalid_request_error","param":"model","code":"not_allowed"}}"#,
        )
    });
    let gateway = before(&trainer).start();
    build(&gateway, "d");
    let row = until(&gateway, &create(&gateway, "k"), "failed");
    assert_eq!(row["status_reason"], "Your organisation may not train.");
    assert_eq!(
        (&row["error"]["code"], &row["error"]["param"]),
        (&json!("not_allowed"), &json!("model"))
    );
}

#[test]
fn bad_orders_are_refused_with_the_place_that_is_wrong() {
    let trainer = trainer(|_, _| empty());
    let gateway = before(&trainer).start();
    build(&gateway, "d");
    let unkeyed = post("/api/fine-tune", r#"{"dataset_id":"d","model":"gpt-4.1-mini"}"#);
    control(&gateway, unkeyed).assert_error(
        400,
        "invalid_request_error",
        "missing_idempotency_key",
    );
    let cases = [
        (json!({"dataset_id": "none", "model": "gpt-4.1-mini"}), 404, "dataset_not_found"),
        (json!({"dataset_id": "d", "model": "gpt-6-luna"}), 400, "model_not_tunable"),
        (
            json!({"dataset_id": "d", "model": "gpt-4.1-mini", "method": "dpo"}),
            400,
            "method_mismatch",
        ),
        (
            json!({"dataset_id": "d", "model": "gpt-4.1-mini", "sufix": "x"}),
            400,
            "invalid_parameter",
        ),
        (
            json!({"dataset_id": "d", "model": "gpt-4.1-mini", "hyperparameters": {"n_epochs": 99}}),
            400,
            "invalid_parameter",
        ),
    ];
    for (body, status, code) in cases {
        ask(&gateway, "k", &body).assert_error(status, "invalid_request_error", code);
    }
    for path in ["/api/fine-tune-status?job_id=nope", "/api/fine-tune/nope/events"] {
        let answer = get(gateway.control(), path).unwrap();
        answer.assert_error(404, "invalid_request_error", "not_found");
    }
    let wait = get(gateway.control(), "/api/fine-tune-status?wait=soon").unwrap();
    wait.assert_error(400, "invalid_request_error", "invalid_parameter");
    assert_eq!(trainer.count(), 0);
}

#[test]
fn the_stream_tells_each_status_until_the_end() {
    let gateway = Gateway::before("http://127.0.0.1:1/v1").argument("--simulate").start();
    build(&gateway, "d");
    let id = create(&gateway, "k");
    let path = format!("/api/fine-tune-status/stream?job_id={id}");
    let told = get(gateway.control(), &path).unwrap().text();
    let statuses: Vec<String> = told
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| {
            serde_json::from_str::<Value>(data).unwrap()["status"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(statuses.last().unwrap(), "succeeded", "{told}");
    let mut once = statuses.clone();
    once.dedup();
    assert_eq!(once, statuses);
}

#[test]
fn the_command_line_makes_jobs_that_a_gateway_moves_on() {
    let trainer = trainer(|method, _| if method == "POST" { job("queued") } else { empty() });
    let gateway = before(&trainer).start();
    build(&gateway, "d");
    let run = |arguments: &[&str]| weir(gateway.folder(), arguments, "");
    let (code, out, error) = run(&["--json", "finetune", "create", "d", "--model", "gpt-4.1-mini"]);
    assert_eq!(code, Some(0), "{error}");
    let made: Value = serde_json::from_str(&out).unwrap();
    let id = made["job_id"].as_str().unwrap();
    until(&gateway, id, "queued");
    let (_, out, _) = run(&["finetune", "status", id]);
    assert!(out.contains("queued"), "{out}");
    assert_eq!(run(&["finetune", "cancel", id]).0, Some(0));
    let (code, _, error) = run(&["finetune", "create", "d", "--model", "gpt-6-luna"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot be tuned"), "{error}");
    let toy = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/toy_chat_fine_tuning.jsonl");
    let (code, out, _) = run(&["--json", "dataset", "validate", toy, "--model", "gpt-3.5-turbo"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &report["tokens"], &report["billable_tokens"]),
        (Some(1), &json!(4306), &json!(86_120))
    );
}

#[test]
fn a_signed_webhook_has_the_job_looked_at_and_is_not_believed() {
    let said = Arc::new(Mutex::new("running"));
    let says = Arc::clone(&said);
    let trainer = trainer(move |_, target| match target {
        target if target.contains("events") || target.contains("checkpoints") => empty(),
        _ => job(*says.lock().unwrap()),
    });
    let gateway = before(&trainer).env("OPENAI_WEBHOOK_SECRET", "whsec_c2VjcmV0").start();
    build(&gateway, "d");
    let id = create(&gateway, "k");
    until(&gateway, &id, "running");
    *said.lock().unwrap() = "succeeded";
    // It says failed; the trainer, asked, says succeeded.
    let body = r#"{"id":"evt_1","object":"event","type":"fine_tuning.job.failed","data":{"id":"ftjob-1"}}"#;
    let hook = |signature: &str, sent: u64| {
        let headers = format!(
            "webhook-id: wh_1\r\nwebhook-timestamp: {sent}\r\nwebhook-signature: {signature}\r\n"
        );
        control(&gateway, post_with("/hooks/openai", &headers, body))
    };
    let now = unix_now();
    hook("v1,AAAA", now).assert_error(400, "invalid_request_error", "invalid_signature");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
    let tag = ring::hmac::sign(&key, format!("wh_1.{now}.{body}").as_bytes());
    let signature = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(tag));
    assert_eq!(hook(&signature, now).status, 200);
    until(&gateway, &id, "succeeded");
    assert_eq!(hook(&signature, now).status, 200, "the same again is fine");
}

fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Ends the lease of a process that was killed, and returns the job's status.
fn lease_runs_out(gateway: &Gateway) -> String {
    let store = format!("sqlite:{}", gateway.folder().join("data/weir.db").display());
    let sql = "update training_queue set lease_until = 0 returning status";
    rows(&store, sql).unwrap()[0][0].clone()
}
