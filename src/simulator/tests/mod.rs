//! The stand-in as its users meet it: over a real socket.

mod answers;
mod faults;
mod kept;
mod refusals;

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::simulator::{Knobs, Simulator};

/// A stand-in on a port of its own, stopped when dropped.
struct World {
    base: String,
    client: Client,
    _stop: oneshot::Sender<()>,
}

impl World {
    async fn start() -> Self {
        Self::with("job_step_ms=5").await
    }

    async fn with(knobs: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let simulator = Simulator::new(Knobs::parse(knobs).unwrap());
        tokio::spawn(simulator.serve(listener, async {
            let _ = stopped.await;
        }));
        Self { base, client: client().build().unwrap(), _stop: stop }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base)).bearer_auth("sk-test")
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.base)).bearer_auth("sk-test")
    }

    fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(format!("{}{path}", self.base)).bearer_auth("sk-test")
    }

    /// The JSON of a path, which must be there.
    async fn read(&self, path: &str) -> Value {
        ok(self.get(path).send().await.unwrap()).await
    }

    /// Sends JSON, which must be accepted.
    async fn ask(&self, path: &str, body: &Value) -> Value {
        ok(self.post(path).json(body).send().await.unwrap()).await
    }

    /// Sends JSON, which must be refused; the status and the error.
    async fn refused(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path).json(body).send().await.unwrap();
        let status = response.status().as_u16();
        let mut body: Value = response.json().await.unwrap();
        (status, body["error"].take())
    }

    /// The text of a stream.
    async fn stream(&self, path: &str, body: &Value) -> String {
        let response = self.post(path).json(body).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        response.text().await.unwrap()
    }

    /// Uploads a file and answers its id.
    async fn upload(&self, purpose: &str, content: &str) -> String {
        let file = reqwest::multipart::Part::text(content.to_owned()).file_name("data.jsonl");
        let form =
            reqwest::multipart::Form::new().text("purpose", purpose.to_owned()).part("file", file);
        let file = ok(self.post("/v1/files").multipart(form).send().await.unwrap()).await;
        file["id"].as_str().unwrap().to_owned()
    }

    /// Reads a path until its `status` is the wanted one.
    async fn until(&self, path: &str, status: &str) -> Value {
        for _ in 0..2000 {
            let value = self.read(path).await;
            if value["status"] == status {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{path} never became {status}");
    }
}

async fn ok(response: Response) -> Value {
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A chat request that says `text`.
fn chat(text: &str) -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]})
}

/// The same with more fields.
fn with(mut request: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

/// The JSON of every `data:` line but `[DONE]`.
fn data(stream: &str) -> Vec<Value> {
    let lines = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A training file of so many examples.
fn examples(n: usize) -> String {
    let line = json!({"messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
    ]});
    format!("{line}\n").repeat(n)
}

/// A client. It wants to know how to speak TLS although nobody here does.
pub(crate) fn client() -> reqwest::ClientBuilder {
    // Whoever came first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
}
