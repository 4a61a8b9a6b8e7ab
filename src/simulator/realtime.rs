//! `GET /v1/realtime`: a WebSocket that keeps a conversation and answers it in text.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::Response;
use serde_json::{Value, json};

use crate::simulator::call::Call;
use crate::simulator::knobs::{Knobs, directive};
use crate::simulator::pages::find;
use crate::simulator::refusal::Refusal;
use crate::simulator::text;
use crate::simulator::validate;
use crate::simulator::world::{World, now};

/// A session lasts an hour, says its `expires_at`.
const SESSION_S: u64 = 3600;

pub(super) async fn connect(
    State(world): State<Arc<World>>,
    Query(query): Query<Vec<(String, String)>>,
    call: Call,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response<Body>, Refusal> {
    let model = find(&query, "model").unwrap_or("gpt-realtime").to_owned();
    if !validate::is_known_model(&model) {
        return Err(Refusal::no_model(&model));
    }
    let upgrade = upgrade.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let talk = Talk::new(world, model, call.knobs);
    Ok(upgrade.protocols(["realtime"]).on_upgrade(|socket| talk.hold(socket)))
}

/// One session: what it is set to, and what was said last.
struct Talk {
    world: Arc<World>,
    knobs: Knobs,
    session: Value,
    conversation: String,
    last_item: Option<String>,
    question: String,
    input_bytes: usize,
}

impl Talk {
    fn new(world: Arc<World>, model: String, knobs: Knobs) -> Self {
        let session = json!({
            "type": "realtime", "object": "realtime.session", "id": world.id("sess_"),
            "model": model, "output_modalities": ["text"], "instructions": "", "tools": [],
            "tool_choice": "auto", "max_output_tokens": "inf", "tracing": null, "prompt": null,
            "expires_at": now() + SESSION_S, "include": null,
        });
        let conversation = world.id("conv_");
        let (question, last_item) = (String::new(), None);
        Self { world, knobs, session, conversation, last_item, question, input_bytes: 0 }
    }

    /// Talks until the client leaves or a knob cuts the line.
    async fn hold(mut self, mut socket: WebSocket) {
        let mut due = vec![json!({"type": "session.created", "session": self.session})];
        loop {
            if self.send(&mut socket, std::mem::take(&mut due)).await.is_none() {
                return;
            }
            due = match socket.recv().await {
                Some(Ok(Message::Text(text))) => self.hear(text.as_str()),
                Some(Ok(Message::Binary(_))) => vec![error("invalid_event", "Send text frames.")],
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Vec::new(),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            };
        }
    }

    /// None when the line is gone.
    async fn send(&self, socket: &mut WebSocket, events: Vec<Value>) -> Option<()> {
        let mut deltas = 0;
        for mut event in events {
            event["event_id"] = json!(self.world.id("event_"));
            if event["type"] == "response.output_text.delta" {
                tokio::time::sleep(self.knobs.chunk_delay).await;
                if self.knobs.cut == Some(deltas) {
                    return None;
                }
                deltas += 1;
            }
            socket.send(Message::Text(event.to_string().into())).await.ok()?;
        }
        Some(())
    }

    /// The events that answer one client event.
    fn hear(&mut self, text: &str) -> Vec<Value> {
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return vec![error("invalid_json", "The event is not valid JSON.")];
        };
        if let Some(text) = directive(text.as_bytes()) {
            self.knobs.amend(text);
        }
        match event["type"].as_str() {
            Some("session.update") => self.update(&event["session"]),
            Some("conversation.item.create") => self.add_item(&event["item"]),
            Some("response.create") => self.respond(),
            Some("response.cancel") => Vec::new(),
            Some(other) if other.starts_with("input_audio_buffer.") => heard_audio(other),
            Some(other) => vec![error("invalid_value", &format!("Invalid value: '{other}'."))],
            None => vec![error("invalid_event", "The 'type' field is missing.")],
        }
    }

    fn update(&mut self, changes: &Value) -> Vec<Value> {
        for (key, value) in changes.as_object().into_iter().flatten() {
            self.session[key] = value.clone();
        }
        vec![json!({"type": "session.updated", "session": self.session})]
    }

    fn add_item(&mut self, item: &Value) -> Vec<Value> {
        let mut item = item.clone();
        let Some(fields) = item.as_object_mut() else {
            return vec![error("missing_required_parameter", "Missing parameter: 'item'.")];
        };
        let id = fields.entry("id").or_insert_with(|| json!(self.world.id("item_"))).clone();
        fields.insert("object".to_owned(), json!("realtime.item"));
        fields.insert("status".to_owned(), json!("completed"));
        self.input_bytes += text::content_bytes(&item["content"]);
        if item["role"] == "user" {
            self.question = text::of_content(&item["content"]);
        }
        let previous = self.last_item.replace(id.as_str().unwrap_or_default().to_owned());
        let said = |name: &str| json!({"type": name, "previous_item_id": previous, "item": item});
        vec![said("conversation.item.added"), said("conversation.item.done")]
    }

    fn respond(&mut self) -> Vec<Value> {
        let words = text::answer(&self.question, &self.knobs);
        let (response, item) = (self.world.id("resp_"), self.world.id("item_"));
        let at = json!({
            "response_id": response, "item_id": item, "output_index": 0, "content_index": 0,
        });
        let with = |kind: &str, name: &str, value: Value| {
            let mut event = at.clone();
            event["type"] = json!(kind);
            event[name] = value;
            event
        };
        let part = |text: &str| json!({"type": "output_text", "text": text});
        let message = |status: &str, content: Value| {
            json!({
                "id": item, "object": "realtime.item", "type": "message", "status": status,
                "role": "assistant", "content": content,
            })
        };
        let whole = message("completed", json!([part(&words)]));
        let mut events = vec![
            json!({"type": "response.created", "response": self.response(&response, None, 0)}),
            with("response.output_item.added", "item", message("in_progress", json!([]))),
            with("response.content_part.added", "part", part("")),
        ];
        let pieces = text::pieces(&words, self.knobs.chunks).into_iter();
        events.extend(pieces.map(|p| with("response.output_text.delta", "delta", json!(p))));
        events.push(with("response.output_text.done", "text", json!(words)));
        events.push(with("response.content_part.done", "part", part(&words)));
        events.push(with("response.output_item.done", "item", whole.clone()));
        let done = self.response(&response, Some(whole), words.len());
        events.push(json!({"type": "response.done", "response": done}));
        self.last_item = Some(item);
        self.input_bytes += words.len();
        events
    }

    fn response(&self, id: &str, item: Option<Value>, output_bytes: usize) -> Value {
        let status = if item.is_some() { "completed" } else { "in_progress" };
        let (input, output) = (text::count(self.input_bytes), text::count(output_bytes));
        let usage = (item.is_some() && !self.knobs.no_usage).then(|| {
            json!({
                "total_tokens": input + output, "input_tokens": input, "output_tokens": output,
                "input_token_details": {
                    "text_tokens": input, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 0,
                },
                "output_token_details": {"text_tokens": output, "audio_tokens": 0},
            })
        });
        json!({
            "object": "realtime.response", "id": id, "status": status, "status_details": null,
            "output": item.into_iter().collect::<Vec<_>>(), "conversation_id": self.conversation,
            "output_modalities": ["text"], "max_output_tokens": "inf", "usage": usage,
            "metadata": null,
        })
    }
}

/// Audio is taken and not understood.
fn heard_audio(event: &str) -> Vec<Value> {
    match event {
        "input_audio_buffer.commit" => vec![json!({"type": "input_audio_buffer.committed"})],
        "input_audio_buffer.clear" => vec![json!({"type": "input_audio_buffer.cleared"})],
        _ => Vec::new(),
    }
}

fn error(code: &str, message: &str) -> Value {
    json!({"type": "error", "error": {
        "type": "invalid_request_error", "code": code, "message": message, "param": null,
        "event_id": null,
    }})
}
