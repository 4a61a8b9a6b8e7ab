//! A streamed answer on its way to the client: passed on byte by byte, watched event by event.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

use crate::openai::endpoint::Endpoint;
use crate::openai::events::{Event, EventSplitter, Verdict};
use crate::openai::fold::Fold;
use crate::openai::fold::ends_response;
use crate::openai::keys::{Keys, Value};
use crate::openai::request::{field, string};
use crate::openai::response::web_searches;
use crate::openai::scan::{self, Member};
use crate::openai::unescape::unescape_text;

/// The most text of an answer that is kept for an estimate.
pub const MAX_SEEN_TEXT_BYTES: usize = 256 << 10;

/// What a stream has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSeen {
    /// JSON text of the last `usage` object; of `response.usage` in the event that ends a response.
    pub usage: Option<Bytes>,
    /// Searches of the web among a response's output.
    pub web_searches: u64,
    /// The answer's own id, of the first event that names it.
    pub id: Option<String>,
    /// The model of the first event that names one.
    pub model: Option<String>,
    /// The tier of the last event that names one.
    pub service_tier: Option<String>,
    /// The last `finish_reason`; of a response its final `status`.
    pub finish_reason: Option<String>,
    /// The stream is complete: `[DONE]` was there, or a response's last event.
    pub done: bool,
    /// An event told of an error: `{"error":…}`, `event: error`, or a failed response.
    pub error: bool,
    /// Events with data, without `[DONE]`.
    pub events: u64,
    /// Bytes of answer text, as escaped on the wire, including what was too much to be kept.
    pub text_bytes: u64,
}

/// Passes a stream on and watches it. No byte is changed; an event leaves when it is whole.
#[derive(Debug)]
pub struct StreamTap {
    splitter: EventSplitter,
    observer: Observer,
    endpoint: Endpoint,
}

impl StreamTap {
    /// A tap for one answer. With `strip_usage` the usage event (no choices, but usage) of
    /// chat/completions and completions is withheld: the client did not ask for it.
    pub fn new(endpoint: Endpoint, strip_usage: bool) -> Self {
        let shape = match endpoint {
            Endpoint::ChatCompletions => Shape::Chat,
            Endpoint::Completions => Shape::Completions,
            Endpoint::Responses => Shape::Responses,
            Endpoint::Embeddings | Endpoint::Other => Shape::Other,
        };
        let strip_usage = strip_usage && matches!(shape, Shape::Chat | Shape::Completions);
        Self {
            splitter: EventSplitter::new(),
            observer: Observer {
                shape,
                strip_usage,
                started: false,
                seen: StreamSeen::default(),
                text: Vec::new(),
                fold: None,
            },
            endpoint,
        }
    }

    /// Has the events folded into one answer, see [`Self::take_folded`].
    pub fn folding(mut self) -> Self {
        self.observer.fold = Fold::new(self.endpoint).map(Box::new);
        self
    }

    /// Takes a chunk of any size and hands on what is whole, at once and in order.
    pub fn push(&mut self, chunk: Bytes, out: &mut impl FnMut(Bytes)) {
        let observer = &mut self.observer;
        self.splitter.push(chunk, &mut |event| observer.see(event), out);
    }

    /// The upstream's body has ended. With `clean` what is left is handed on; without, the half
    /// event is dropped, and an event of the gateway's own may be written next: behind an empty
    /// line when [`Self::mid_event`] says so.
    pub fn finish(&mut self, clean: bool, out: &mut impl FnMut(Bytes)) {
        let observer = &mut self.observer;
        self.splitter.finish(clean, &mut |event| observer.see(event), out);
    }

    /// What was said so far.
    pub fn seen(&self) -> &StreamSeen {
        &self.observer.seen
    }

    /// The text of the answer so far (content, refusal, reasoning, tool arguments; choices and tool
    /// calls as they came, mixed), at most [`MAX_SEEN_TEXT_BYTES`] of it. Decoded at each call.
    pub fn seen_text(&self) -> String {
        unescape_text(&self.observer.text).into_owned()
    }

    /// Folds in an error event that the gateway writes itself; its data.
    pub fn fold_error(&mut self, data: &[u8]) {
        if let Some(fold) = &mut self.observer.fold {
            fold.error(data);
        }
    }

    /// The events as the answer without streaming, to be taken once, at the end. None without
    /// [`Self::folding`], for an endpoint that has no such answer, when nothing came, or when it
    /// would take over [`MAX_FOLDED_BYTES`](crate::openai::fold::MAX_FOLDED_BYTES).
    pub fn take_folded(&mut self) -> Option<Vec<u8>> {
        let mut fold = self.observer.fold.take()?;
        if self.observer.seen.done {
            fold.done();
        }
        if self.splitter.lost() > 0 {
            fold.lose();
        }
        fold.finish()
    }

    /// Events longer than 1 MiB, which passed without being looked at.
    pub fn lost_events(&self) -> u64 {
        self.splitter.lost()
    }

    /// Whether the client has the head of such an event, but not yet its end.
    pub fn mid_event(&self) -> bool {
        self.splitter.mid_event()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Chat,
    Completions,
    Responses,
    /// No text is known, and no event withheld; `usage` and `model` are where chunks have them.
    Other,
}

#[derive(Debug)]
struct Observer {
    shape: Shape,
    strip_usage: bool,
    started: bool,
    seen: StreamSeen,
    /// Pieces of text as they were escaped, decoded only when somebody asks: nearly nobody does.
    text: Vec<u8>,
    fold: Option<Box<Fold>>,
}

impl Observer {
    fn see(&mut self, bytes: &[u8]) -> Verdict {
        let first = !std::mem::replace(&mut self.started, true);
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").filter(|_| first).unwrap_or(bytes);
        let Some(event) = Event::read(bytes) else { return Verdict::Keep };
        if event.data.trim_ascii() == b"[DONE]" {
            self.seen.done = true;
            return Verdict::Keep;
        }
        self.seen.events += 1;
        self.seen.error |= event.name == b"error";
        if let Some(fold) = &mut self.fold {
            match event.name {
                b"error" => fold.error(&event.data),
                _ => fold.event(&event.data),
            }
        }
        if self.shape == Shape::Responses {
            self.see_response(&event.data);
            return Verdict::Keep;
        }
        if self.tells_more_than_text(&event.data) {
            return self.read_chunk(&event.data);
        }
        Verdict::Keep
    }

    /// Collects a chunk's text; true when something else in it may be new.
    fn tells_more_than_text(&mut self, data: &[u8]) -> bool {
        let mut more = false;
        for key in Keys::of(data) {
            match (key.depth, key.name, key.value) {
                (1, b"usage" | b"error", Value::Text(_) | Value::Other) => more = true,
                (1, b"model", Value::Text(_)) => more |= self.seen.model.is_none(),
                (1, b"service_tier", Value::Text(tier)) => {
                    more |= self.seen.service_tier.as_ref().map(String::as_bytes) != Some(tier);
                }
                (3, b"finish_reason", Value::Text(_)) => more = true,
                (4.., name, Value::Text(text)) if self.shape == Shape::Chat && is_said(name) => {
                    self.keep_text(text);
                }
                (3, b"text", Value::Text(text)) if self.shape == Shape::Completions => {
                    self.keep_text(text);
                }
                _ => {}
            }
        }
        more
    }

    fn read_chunk(&mut self, data: &[u8]) -> Verdict {
        let Ok(members) = scan::members(data) else { return Verdict::Keep };
        let chunk = Object { text: data, members: members.list };
        self.see_model_and_tier(&chunk);
        let error = chunk.get("error").is_some();
        self.seen.error |= error;
        let choices = chunk.get("choices");
        if let Some(reason) = choices.and_then(finish_reason) {
            self.seen.finish_reason = Some(reason);
        }
        let usage = self.see_usage(&chunk);
        let withhold = self.strip_usage && usage && !error && choices.is_some_and(is_empty_array);
        if withhold { Verdict::Withhold } else { Verdict::Keep }
    }

    fn see_response(&mut self, data: &[u8]) {
        let (mut kind, mut delta, mut nested, mut error) = (&b""[..], None, false, false);
        for key in Keys::of(data) {
            match (key.depth, key.name, key.value) {
                (1, b"type", Value::Text(text)) => kind = text,
                (1, b"delta", Value::Text(text)) => delta = Some(text),
                (1, b"response", Value::Other) => nested = true,
                (1, b"error", Value::Text(_) | Value::Other) => error = true,
                _ => {}
            }
        }
        // These deltas are sound in base64.
        let audio = matches!(kind, b"response.audio.delta" | b"response.output_audio.delta");
        if let Some(text) = delta.filter(|_| !audio) {
            self.keep_text(text);
        }
        let last = ends_response(kind);
        error |= kind == b"error";
        if last || error || (nested && self.seen.model.is_none()) {
            self.read_response(data, last, error || kind == b"response.failed");
        }
    }

    fn read_response(&mut self, data: &[u8], last: bool, error: bool) {
        let Ok(event) = scan::members(data) else { return };
        self.seen.done |= last;
        self.seen.error |= error;
        let Some(text) = (Object { text: data, members: event.list }).get("response") else {
            return;
        };
        let Ok(response) = scan::members(text) else { return };
        let response = Object { text, members: response.list };
        self.see_model_and_tier(&response);
        if last {
            self.see_usage(&response);
            self.seen.web_searches = response.get("output").map_or(0, web_searches);
            let status = response.string("status").map(Cow::into_owned);
            self.seen.finish_reason = status.or(self.seen.finish_reason.take());
        }
    }

    fn see_model_and_tier(&mut self, object: &Object<'_>) {
        if self.seen.id.is_none() {
            self.seen.id = object.string("id").map(Cow::into_owned);
        }
        if self.seen.model.is_none() {
            let model = object.string("model").filter(|model| !model.is_empty());
            self.seen.model = model.map(Cow::into_owned);
        }
        if let Some(tier) = object.string("service_tier") {
            self.seen.service_tier = Some(tier.into_owned());
        }
    }

    /// Keeps `usage`; false when there is none.
    fn see_usage(&mut self, object: &Object<'_>) -> bool {
        let Some(usage) = object.get("usage").filter(|usage| usage.starts_with(b"{")) else {
            return false;
        };
        self.seen.usage = Some(Bytes::copy_from_slice(usage));
        true
    }

    fn keep_text(&mut self, raw: &[u8]) {
        self.seen.text_bytes += u64::try_from(raw.len()).unwrap_or(u64::MAX);
        if self.text.len() + raw.len() <= MAX_SEEN_TEXT_BYTES {
            self.text.extend_from_slice(raw);
        }
    }
}

/// Whether a key of a chat chunk's delta holds what the model says.
fn is_said(name: &[u8]) -> bool {
    matches!(name, b"content" | b"arguments" | b"refusal" | b"reasoning_content" | b"reasoning")
}

/// A JSON object that was scanned.
struct Object<'a> {
    text: &'a [u8],
    members: Vec<Member>,
}

impl<'a> Object<'a> {
    /// The JSON text of a member that is not null.
    fn get(&self, name: &str) -> Option<&'a [u8]> {
        let value = field(self.text, &self.members, name)?.value.of(self.text);
        (value != b"null").then_some(value)
    }

    fn string(&self, name: &str) -> Option<Cow<'a, str>> {
        string(self.get(name)?)
    }
}

fn is_empty_array(json: &[u8]) -> bool {
    json.strip_prefix(b"[").is_some_and(|rest| rest.trim_ascii_start() == b"]")
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

/// The last choice's reason that is given.
fn finish_reason(choices: &[u8]) -> Option<String> {
    let choices: Vec<Choice<'_>> = serde_json::from_slice(choices).ok()?;
    choices.into_iter().rev().find_map(|choice| choice.finish_reason).map(Cow::into_owned)
}

#[cfg(test)]
mod tests;
