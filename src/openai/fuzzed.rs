//! The fuzz targets' bodies, run on random requests and streams that are nearly right.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::openai;

#[path = "../../fuzz/bodies.rs"]
pub(super) mod bodies;

/// Any JSON value of a few levels.
pub(super) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Quarters: serde_json reads them back exactly, as it does not with every float.
        any::<i32>().prop_map(|quarters| (f64::from(quarters) / 4.0).into()),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,3}", "[ -~é\u{1F600}\\n\\\\\"]{0,80}", any::<String>()]
}

/// The fields of a request that is right.
pub(super) fn fields() -> impl Strategy<Value = Map<String, Value>> {
    let others = prop::collection::btree_map(text(), value(), 0..6);
    let stream = prop::option::of(prop_oneof![Just(json!(true)), Just(json!(false))]);
    let options = prop::option::of(prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!({ "include_usage": true })),
        value().prop_map(|value| json!({ "include_usage": value, "x": 1 })),
        value().prop_map(|value| json!({ "a": value, "x": [] })),
    ]);
    let all = (others, text(), stream, options, prop::option::of(conversation()));
    all.prop_map(|(others, model, stream, options, conversation)| {
        let mut fields: Map<_, _> = others.into_iter().collect();
        fields.extend(conversation.map(|(name, said)| (name.to_owned(), said)));
        for (name, value) in [("stream", stream), ("stream_options", options)] {
            fields.remove(name);
            fields.extend(value.map(|value| (name.to_owned(), value)));
        }
        fields.insert("model".to_owned(), format!("m{model}").into());
        fields
    })
}

/// What was said, nearly as it should be.
fn conversation() -> impl Strategy<Value = (&'static str, Value)> {
    let role = prop::sample::select(vec!["user", "user", "assistant", "system", "developer"]);
    let content = prop_oneof![text().prop_map(Value::from), value()];
    let message =
        (role, content).prop_map(|(role, content)| json!({ "role": role, "content": content }));
    let message = prop_oneof![4 => message, 1 => value()];
    let list = prop::collection::vec(message, 0..5).prop_map(Value::from);
    let said = prop_oneof![3 => list, 1 => text().prop_map(Value::from)];
    (prop::sample::select(vec!["messages", "input"]), said)
}

/// The fields as JSON text, with whitespace and escapes where `noise` wants them.
pub(super) fn body() -> impl Strategy<Value = (Map<String, Value>, Vec<u8>)> {
    (fields(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(fields, noise)| {
        let mut out = Vec::new();
        let mut noise = noise.iter().copied().cycle();
        write(&Value::Object(fields.clone()), &mut out, &mut noise);
        (fields, out)
    })
}

fn write(value: &Value, out: &mut Vec<u8>, noise: &mut impl Iterator<Item = u8>) {
    space(out, noise);
    match value {
        Value::Object(map) => {
            out.push(b'{');
            for (index, (name, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                space(out, noise);
                write_string(name, out, noise);
                space(out, noise);
                out.push(b':');
                write(value, out, noise);
            }
            space(out, noise);
            out.push(b'}');
        }
        Value::Array(list) => {
            out.push(b'[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(value, out, noise);
            }
            space(out, noise);
            out.push(b']');
        }
        Value::String(text) => write_string(text, out, noise),
        other => out.extend(other.to_string().into_bytes()),
    }
    space(out, noise);
}

fn space(out: &mut Vec<u8>, noise: &mut impl Iterator<Item = u8>) {
    match noise.next() {
        Some(0..32) => out.push(b' '),
        Some(32..48) => out.extend(b"\r\n\t"),
        _ => {}
    }
}

fn write_string(text: &str, out: &mut Vec<u8>, noise: &mut impl Iterator<Item = u8>) {
    if noise.next() > Some(64) {
        return out.extend(serde_json::to_vec(text).unwrap());
    }
    out.push(b'"');
    for unit in text.encode_utf16() {
        out.extend(format!("\\u{unit:04X}").bytes());
    }
    out.push(b'"');
}

/// A change of one place: at, what, with which byte.
pub(super) type Change = (prop::sample::Index, u8, u8);

pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let byte = prop_oneof![
        4 => prop::sample::select(&b"{}[]\",:\\ \n0123456789-+.eEtfnulrsabx/\r"[..]),
        1 => any::<u8>(),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), 0..5_u8, byte), 0..4)
}

pub(super) fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for (at, what, byte) in changes {
        let at = at.index(bytes.len() + 1);
        match what {
            0 => bytes.truncate(at.max(bytes.len().saturating_sub(9))),
            1 => bytes.insert(at, *byte),
            2 => drop(bytes.splice(at..at, bytes[at / 2..at].to_vec())),
            _ if at == bytes.len() => bytes.push(*byte),
            3 => bytes[at] = *byte,
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

/// Streams out of pieces that mean something to the reader.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"data: ",
        b"data:",
        b"data",
        b"event: error",
        b"event: x",
        b": note",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"[DONE]",
        b"\xEF\xBB\xBF",
        b"\xFF",
        b"\0",
        br#"{"choices":[],"usage":{"total_tokens":3}}"#,
        br#"{"choices":[ ],"#,
        br#""usage":{"a":1}}"#,
        b"{",
        b"}",
        br#"{"model":"m","choices":[{"delta":{"content":"h\"i\n"},"finish_reason":null}]}"#,
        br#"{"choices":[{"text":"so","finish_reason":"stop"}],"usage":null}"#,
        br#"{"type":"response.output_text.delta","delta":"x"}"#,
        br#"{"type":"response.completed","response":{"status":"completed","usage":{"b":2}}}"#,
        br#"{"error":{"message":"no"}}"#,
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_scan_agrees_with_serde_json((_, body) in body(), changes in changes()) {
        bodies::request_view(&body);
        bodies::request_view(&changed(body, &changes));
    }

    #[test]
    fn splicing_is_editing((_, body) in body(), changes in changes()) {
        bodies::splice(&body);
        bodies::splice(&changed(body, &changes));
    }

    #[test]
    fn cuts_make_no_difference(stream in stream(), kind in any::<u8>(), cut in 0..40_u8) {
        bodies::stream_tap(&[&[kind, cut][..], &stream].concat());
    }

    #[test]
    fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        bodies::request_view(&data);
        bodies::splice(&data);
        bodies::stream_tap(&data);
    }
}
