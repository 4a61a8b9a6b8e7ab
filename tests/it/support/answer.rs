//! What a scripted provider says: steps on a raw HTTP/1.1 connection.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// One thing that a provider does.
#[derive(Clone)]
pub(crate) enum Step {
    Write(Vec<u8>),
    /// The same bytes many times.
    Flood(Vec<u8>, usize),
    Pause(Duration),
    /// Goes on when the test adds a permit.
    Wait(Arc<Semaphore>),
    /// Says nothing until the peer leaves.
    Stall,
    /// Sends back whatever comes.
    Echo,
    Close,
    /// Ends the connection with a TCP reset.
    Reset,
}

/// An answer: steps in order. Without a last `Close` the connection is kept.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    pub(crate) steps: Vec<Step>,
    /// Answers before the request's body was read.
    pub(crate) early: bool,
}

/// A chat completion with usage: 9 tokens in, 3 out.
pub(crate) const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1763900000,"model":"gpt-4.1-mini-2025-04-14","choices":[{"index":0,"message":{"role":"assistant","content":"Hello there!","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12},"service_tier":"default"}"#;

impl Answer {
    /// Nothing but these bytes.
    pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::default().write(bytes)
    }

    /// 200 with a chat completion.
    pub(crate) fn chat() -> Self {
        Self::json(200, CHAT)
    }

    pub(crate) fn json(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::whole(status, "content-type: application/json\r\n", body)
    }

    /// A body of known length, with header lines that each end with CR LF.
    pub(crate) fn whole(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        Self::raw(head).write(body)
    }

    /// The head of a chunked answer.
    pub(crate) fn chunked(status: u16, headers: &str) -> Self {
        Self::raw(format!("HTTP/1.1 {status} OK\r\n{headers}transfer-encoding: chunked\r\n\r\n"))
    }

    /// The head of an event stream.
    pub(crate) fn events() -> Self {
        Self::chunked(200, "content-type: text/event-stream; charset=utf-8\r\n")
    }

    /// An event stream of these bytes, in one chunk.
    pub(crate) fn stream(bytes: impl AsRef<[u8]>) -> Self {
        Self::events().chunk(bytes).end()
    }

    /// A gzip-coded JSON answer.
    pub(crate) fn gzip(body: &str) -> (Self, Vec<u8>) {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(body.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
        (Self::whole(200, headers, &packed), packed)
    }

    /// What the first step writes.
    pub(crate) fn first_bytes(&self) -> Vec<u8> {
        match self.steps.first() {
            Some(Step::Write(bytes)) => bytes.clone(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(crate) fn write(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Write(bytes.as_ref().to_vec()))
    }

    /// One HTTP chunk.
    pub(crate) fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(chunk)
    }

    /// The last chunk.
    pub(crate) fn end(self) -> Self {
        self.write("0\r\n\r\n")
    }

    pub(crate) fn wait(self, gate: &Arc<Semaphore>) -> Self {
        self.then(Step::Wait(Arc::clone(gate)))
    }

    pub(crate) fn pause(self, time: Duration) -> Self {
        self.then(Step::Pause(time))
    }

    pub(crate) fn stall(self) -> Self {
        self.then(Step::Stall)
    }

    pub(crate) fn close(self) -> Self {
        self.then(Step::Close)
    }

    pub(crate) fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    /// Answers without waiting for the request's body.
    pub(crate) fn early(mut self) -> Self {
        self.early = true;
        self
    }
}

/// A gate that nobody passes yet.
pub(crate) fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

/// A chat chunk as an event.
pub(crate) fn delta(text: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\
         \"gpt-4.1-mini-2025-04-14\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{}}},\
         \"finish_reason\":null}}]}}\n\n",
        serde_json::to_string(text).unwrap()
    )
}

/// The event that ends a chat stream.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// The event that tells usage: 9 tokens in, 3 out.
pub(crate) const USAGE: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4.1-mini-2025-04-14\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12}}\n\n";
