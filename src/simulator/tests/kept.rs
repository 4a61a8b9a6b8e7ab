//! Objects that stay: responses, files, uploads, jobs, batches, a realtime session.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{World, chat, examples, ok};

#[tokio::test]
async fn a_response_is_kept_until_deleted() {
    let world = World::start().await;
    let request = json!({"model": "gpt-6-luna", "input": "hi"});
    let created = world.ask("/v1/responses", &request).await;
    let path = format!("/v1/responses/{}", created["id"].as_str().unwrap());
    assert_eq!(world.read(&path).await, created);
    let items = world.read(&format!("{path}/input_items")).await;
    assert_eq!(items["data"][0]["content"][0]["text"], "hi");
    let next = super::with(request, json!({"previous_response_id": created["id"]}));
    world.ask("/v1/responses", &next).await;
    ok(world.delete(&path).send().await.unwrap()).await;
    assert_eq!(world.get(&path).send().await.unwrap().status(), 404);
    let (status, error) = world.refused("/v1/responses", &next).await;
    assert_eq!((status, &error["code"]), (400, &json!("previous_response_not_found")));
}

#[tokio::test]
async fn a_file_comes_back_as_it_went_in() {
    let world = World::start().await;
    let id = world.upload("fine-tune", "{\"a\":1}\n").await;
    let file = world.read(&format!("/v1/files/{id}")).await;
    assert_eq!((&file["bytes"], &file["filename"]), (&json!(8), &json!("data.jsonl")));
    let content = world.get(&format!("/v1/files/{id}/content")).send().await.unwrap();
    assert_eq!(content.text().await.unwrap(), "{\"a\":1}\n");
    assert_eq!(world.read("/v1/files?purpose=fine-tune").await["data"][0]["id"], id.as_str());
    assert_eq!(world.read("/v1/files?purpose=batch").await["data"], json!([]));
    ok(world.delete(&format!("/v1/files/{id}")).send().await.unwrap()).await;
    let gone = world.get(&format!("/v1/files/{id}")).send().await.unwrap();
    assert_eq!(gone.status(), 404);
}

#[tokio::test]
async fn parts_of_an_upload_become_one_file() {
    let world = World::start().await;
    let upload = world
        .ask(
            "/v1/uploads",
            &json!({
                "filename": "a.jsonl", "purpose": "fine-tune", "bytes": 6, "mime_type": "text/jsonl",
            }),
        )
        .await;
    let path = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
    let mut parts = Vec::new();
    for text in ["abc", "def"] {
        let form = Form::new().part("data", Part::text(text).file_name("part"));
        let request = world.post(&format!("{path}/parts")).multipart(form);
        parts.push(ok(request.send().await.unwrap()).await["id"].clone());
    }
    parts.reverse();
    let complete = format!("{path}/complete");
    let (status, error) = world.refused(&complete, &json!({"part_ids": [parts[0]]})).await;
    assert_eq!((status, &error["param"]), (400, &json!("bytes")));
    let done = world.ask(&complete, &json!({"part_ids": parts})).await;
    assert_eq!(done["status"], "completed");
    let file = done["file"]["id"].as_str().unwrap();
    let content = world.get(&format!("/v1/files/{file}/content")).send().await.unwrap();
    assert_eq!(content.text().await.unwrap(), "defabc");
}

#[tokio::test]
async fn a_fine_tune_job_ends_with_a_model_that_answers() {
    let world = World::start().await;
    let file = world.upload("fine-tune", &examples(10)).await;
    let request = json!({
        "model": "gpt-4.1-mini", "training_file": file, "suffix": "support",
        "metadata": {"gateway_job_id": "j1"},
    });
    let job = world.ask("/v1/fine_tuning/jobs", &request).await;
    let path = format!("/v1/fine_tuning/jobs/{}", job["id"].as_str().unwrap());
    let done = world.until(&path, "succeeded").await;
    let model = done["fine_tuned_model"].as_str().unwrap();
    assert!(model.starts_with("ft:gpt-4.1-mini:simulator:support:"), "{model}");
    // 10 examples: 3 * 10 < 100, so 100 / 10 = 10 epochs
    assert_eq!(done["hyperparameters"]["n_epochs"], 10);
    let tokens = u64::try_from(examples(10).len()).unwrap().div_ceil(4);
    assert_eq!(done["trained_tokens"], tokens * 10);
    assert_eq!(world.read(&format!("/v1/models/{model}")).await["id"], model);
    let events = world.read(&format!("{path}/events?limit=1")).await;
    assert_eq!(events["data"][0]["message"], "The job has successfully completed");
    let checkpoints = world.read(&format!("{path}/checkpoints")).await;
    assert_eq!(checkpoints["data"][0]["fine_tuned_model_checkpoint"], model);
    let results = done["result_files"][0].as_str().unwrap();
    let metrics = world.get(&format!("/v1/files/{results}/content")).send().await.unwrap();
    assert!(metrics.text().await.unwrap().starts_with("step,train_loss"));
    let found = world.read("/v1/fine_tuning/jobs?metadata[gateway_job_id]=j1").await;
    assert_eq!(found["data"][0]["id"], job["id"]);
    let none = world.read("/v1/fine_tuning/jobs?metadata[gateway_job_id]=j2").await;
    assert_eq!(none["data"], json!([]));
    ok(world.delete(&format!("/v1/models/{model}")).send().await.unwrap()).await;
    let gone = world.get(&format!("/v1/models/{model}")).send().await.unwrap();
    assert_eq!(gone.status(), 404);
}

#[tokio::test]
async fn too_few_examples_fail_the_job_after_it_was_created() {
    let world = World::start().await;
    let file = world.upload("fine-tune", &examples(3)).await;
    let request = json!({"model": "gpt-4.1-mini", "training_file": file});
    let job = world.ask("/v1/fine_tuning/jobs", &request).await;
    let path = format!("/v1/fine_tuning/jobs/{}", job["id"].as_str().unwrap());
    let failed = world.until(&path, "failed").await;
    assert_eq!(failed["error"]["param"], "training_file");
}

#[tokio::test]
async fn a_job_can_be_paused_resumed_and_cancelled() {
    let world = World::with("job_step_ms=3600000").await;
    let file = world.upload("fine-tune", &examples(10)).await;
    let request = json!({"model": "gpt-4.1-mini", "training_file": file});
    let job = world.ask("/v1/fine_tuning/jobs", &request).await;
    let path = format!("/v1/fine_tuning/jobs/{}", job["id"].as_str().unwrap());
    let mut states = vec![job["status"].clone()];
    for action in ["pause", "resume", "cancel"] {
        states.push(world.ask(&format!("{path}/{action}"), &json!({})).await["status"].clone());
    }
    assert_eq!(states, ["validating_files", "paused", "validating_files", "cancelled"]);
    let (status, _) = world.refused(&format!("{path}/pause"), &json!({})).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_job_without_its_file_is_refused() {
    let world = World::start().await;
    let request = json!({"model": "gpt-4.1-mini", "training_file": "file-none"});
    let (status, error) = world.refused("/v1/fine_tuning/jobs", &request).await;
    assert_eq!((status, &error["param"]), (400, &json!("training_file")));
}

#[tokio::test]
async fn a_batch_answers_every_line() {
    let world = World::start().await;
    let line = |id: &str, body: Value| json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body});
    let lines =
        [line("a", chat("hi")), line("b", chat("ho")), line("c", json!({"model": "gpt-5"}))];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = world.upload("batch", &text).await;
    let request = json!({
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    let batch = world.ask("/v1/batches", &request).await;
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let done = world.until(&path, "completed").await;
    assert_eq!(done["request_counts"], json!({"total": 3, "completed": 2, "failed": 1}));
    // "hi" and "ho": 2 bytes are 1 token, and 4 for each message
    assert_eq!(done["usage"]["input_tokens"], 10);
    let read = async |file: &Value| {
        let path = format!("/v1/files/{}/content", file.as_str().unwrap());
        world.get(&path).send().await.unwrap().text().await.unwrap()
    };
    let output = read(&done["output_file_id"]).await;
    let first: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    assert_eq!((&first["custom_id"], output.lines().count()), (&json!("a"), 2));
    assert_eq!(first["response"]["body"]["object"], "chat.completion");
    let errors: Value = serde_json::from_str(&read(&done["error_file_id"]).await).unwrap();
    assert_eq!(errors["response"]["status_code"], 400);
}

#[tokio::test]
async fn a_batch_that_waits_can_be_cancelled_and_a_broken_one_fails() {
    let world = World::with("job_step_ms=3600000").await;
    let line = json!({"custom_id": "a", "url": "/v1/embeddings", "body": {}}).to_string();
    let ask = async |content: &str| {
        let file = world.upload("batch", content).await;
        let request = json!({
            "input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h",
        });
        world.ask("/v1/batches", &request).await
    };
    let batch = ask(&line).await;
    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
    assert_eq!(world.ask(&path, &json!({})).await["status"], "cancelled");
    let broken = ask("{").await;
    assert_eq!(broken["status"], "failed");
    assert_eq!(broken["errors"]["data"][0]["line"], 1);
}

/// A WebSocket client just big enough: short text frames, masked with zeros.
struct Line {
    socket: TcpStream,
}

impl Line {
    async fn connect(base: &str, path: &str) -> Self {
        let host = base.strip_prefix("http://").unwrap();
        let mut socket = TcpStream::connect(host).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer sk-test\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self { socket }
    }

    async fn say(&mut self, text: &str) {
        let mut frame = vec![0x81, 0xfe];
        frame.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        self.socket.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        assert_eq!(self.socket.read_u8().await.unwrap(), 0x81);
        let length = match self.socket.read_u8().await.unwrap() {
            126 => usize::from(self.socket.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut text = vec![0; length];
        self.socket.read_exact(&mut text).await.unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    async fn hear_until(&mut self, last: &str) -> Vec<Value> {
        let mut heard = vec![self.hear().await];
        while heard.last().unwrap()["type"] != last {
            heard.push(self.hear().await);
        }
        heard
    }
}

#[tokio::test]
async fn a_realtime_session_answers_in_text() {
    let world = World::start().await;
    let mut line = Line::connect(&world.base, "/v1/realtime?model=gpt-realtime").await;
    assert_eq!(line.hear().await["session"]["model"], "gpt-realtime");
    line.say(r#"{"type":"session.update","session":{"instructions":"be brief"}}"#).await;
    assert_eq!(line.hear().await["session"]["instructions"], "be brief");
    line.say("not json").await;
    assert_eq!(line.hear().await["type"], "error");
    let item = json!({"role": "user", "type": "message", "content": [
        {"type": "input_text", "text": "good morning"},
    ]});
    line.say(&json!({"type": "conversation.item.create", "item": item}).to_string()).await;
    assert_eq!(line.hear().await["type"], "conversation.item.added");
    line.say(r#"{"type":"response.create"}"#).await;
    let heard = line.hear_until("response.done").await;
    let deltas = heard.iter().filter(|event| event["type"] == "response.output_text.delta");
    let said: String = deltas.filter_map(|event| event["delta"].as_str()).collect();
    assert!(said.contains("good morning"), "{said}");
    // "good morning" is 12 bytes: 3 tokens
    assert_eq!(heard.last().unwrap()["response"]["usage"]["input_tokens"], 3);
}
