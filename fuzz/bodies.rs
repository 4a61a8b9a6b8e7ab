//! What must hold for any input: run by the fuzz targets on bytes that they make up, and by the
//! unit tests on bytes that look like the real thing. Whoever includes this file has the room
//! `openai` in scope.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::openai::endpoint::Endpoint;
use super::openai::question::Insert;
use super::openai::request::{Patch, RequestView};
use super::openai::stream::{StreamSeen, StreamTap};

/// The scan accepts what serde_json accepts, within its own limits, and reads the same from it.
pub(crate) fn request_view(body: &[u8]) {
    let view = match RequestView::parse(body) {
        Ok(view) => view,
        Err(refusal) => {
            let json = is_object(body) && deepest(body) <= 200;
            assert_eq!(refusal.code == "invalid_json", !json, "{}", refusal.message);
            assert_eq!(refusal.status, 400);
            return;
        }
    };
    assert!(is_object(body), "accepted what is no JSON");
    assert!(deepest(body) <= 200);
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(body) else { return };
    assert_eq!(fields.get("model").and_then(Value::as_str), Some(view.model()));
    assert_eq!(fields.get("stream").and_then(Value::as_bool).unwrap_or(false), view.stream());
    for (name, value) in &fields {
        let raw = view.raw(body, name).expect("every field is found");
        assert_eq!(serde_json::from_slice::<Value>(raw).expect("a field's text is JSON"), *value);
        assert_eq!(view.string(body, name).as_deref(), value.as_str());
    }
}

/// A spliced request reads as if the fields had been edited after parsing it.
pub(crate) fn splice(body: &[u8]) {
    let Ok(view) = RequestView::parse(body) else { return };
    let tier = RawValue::from_string("\"flex\"".to_owned()).expect("a string is JSON");
    let set = [("service_tier", &*tier), ("weir \"\u{1}", &*tier)];
    let patch = Patch { model: Some("n\"w\n"), ask_usage: true, set: &set, insert: None };
    let out = view.splice(&Bytes::copy_from_slice(body), &patch).into_bytes();
    let again = RequestView::parse(&out).expect("a spliced request is a request");
    assert_eq!(again.model(), "n\"w\n");
    assert!(again.client_wants_usage());
    assert_eq!(
        again.splice(&out, &patch).first.as_ptr(),
        out.as_ptr(),
        "nothing is left to change"
    );
    let Ok(mut wanted) = serde_json::from_slice::<Value>(body) else { return };
    wanted["model"] = "n\"w\n".into();
    wanted["service_tier"] = "flex".into();
    wanted["weir \"\u{1}"] = "flex".into();
    wanted["stream_options"]["include_usage"] = true.into();
    assert_eq!(serde_json::from_slice::<Value>(&out).expect("valid"), wanted);
    for conversation in ["messages", "input"] {
        insertion(&view, body, conversation);
    }
}

/// A message that is inserted is all that changes.
fn insertion(view: &RequestView, body: &[u8], conversation: &str) {
    let text = "see \"\u{1}\n";
    let patch = Patch { insert: Some(Insert { conversation, text }), ..Patch::default() };
    let out = view.splice(&Bytes::copy_from_slice(body), &patch).into_bytes();
    let Ok(before) = serde_json::from_slice::<Value>(body) else { return };
    let mut after: Value = serde_json::from_slice(&out).expect("valid");
    if out != body {
        let list = after[conversation].as_array_mut().expect("a conversation is a list");
        let ours = list.iter().position(|message| message["content"] == text);
        list.remove(ours.expect("it is there"));
        if before[conversation].is_string() {
            after[conversation] = list[0]["content"].take();
        }
    }
    assert_eq!(after, before);
}

/// Where a stream is cut makes no difference, and without stripping every byte comes out again.
/// The first two bytes choose the endpoint and the cuts.
pub(crate) fn stream_tap(data: &[u8]) {
    let [kind, cut, stream @ ..] = data else { return };
    let endpoint = [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Responses]
        .get(usize::from(kind % 4))
        .copied()
        .unwrap_or(Endpoint::Other);
    let size = usize::from(*cut) + 1;
    for strip in [false, true] {
        let whole = tapped(endpoint, strip, [stream]);
        assert_eq!(whole, tapped(endpoint, strip, stream.chunks(size)));
        assert_eq!(whole, tapped(endpoint, strip, stream.chunks(1)));
        assert!(strip || whole.out == stream);
    }
}

/// What a tap makes of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tapped {
    pub(crate) out: Vec<u8>,
    pub(crate) seen: StreamSeen,
    pub(crate) text: String,
    pub(crate) lost: u64,
}

pub(crate) fn tapped<'a>(
    endpoint: Endpoint,
    strip: bool,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Tapped {
    let mut tap = StreamTap::new(endpoint, strip);
    let mut out = Vec::new();
    let mut hand_on = |bytes: Bytes| {
        assert!(!bytes.is_empty());
        out.extend_from_slice(&bytes);
    };
    for chunk in chunks {
        tap.push(Bytes::copy_from_slice(chunk), &mut hand_on);
    }
    tap.finish(true, &mut hand_on);
    Tapped { out, seen: tap.seen().clone(), text: tap.seen_text(), lost: tap.lost_events() }
}

fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
        && std::str::from_utf8(body).is_ok()
        && serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// The depth of a text that is JSON.
fn deepest(json: &[u8]) -> usize {
    let (mut depth, mut most, mut quoted, mut escape) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escape => escape = false,
            b'\\' => escape = quoted,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}
