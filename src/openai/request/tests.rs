use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::to_raw_value;

use super::*;
use crate::openai::fuzzed;

fn refused(body: impl AsRef<[u8]>) -> ApiError {
    let error = RequestView::parse(body.as_ref()).unwrap_err();
    assert_eq!((error.status, error.kind), (400, "invalid_request_error"));
    error
}

#[test]
fn the_fields_of_a_request_are_read() {
    let body = r#"{"model":"gpt\u002d4.1", "messages" :[ {"role":"user","content":"hi"} ],
        "stream":true,"stream_options":{"include_usage":false},"service_tier":"flex",
        "user":"ü\n1","max_tokens":7,"max_completion_tokens":null,"seed":1e999}"#
        .as_bytes();
    let view = RequestView::parse(body).unwrap();
    assert_eq!(view.model(), "gpt-4.1");
    assert!(view.stream());
    assert_eq!(view.stream_options(), StreamOptions::UsageOff);
    assert!(!view.client_wants_usage());
    assert_eq!(view.service_tier(body).as_deref(), Some("flex"));
    assert_eq!(view.user(body).as_deref(), Some("ü\n1"));
    assert_eq!(view.max_output_tokens(body), Some(7));
    assert_eq!(view.raw(body, "seed"), Some(&b"1e999"[..]));
    assert_eq!(view.raw(body, "messages"), Some(&br#"[ {"role":"user","content":"hi"} ]"#[..]));
    assert_eq!(view.raw(body, "role"), None);
    assert_eq!(view.string(body, "seed"), None);
}

#[test]
fn output_limits_that_are_no_natural_numbers_count_as_absent() {
    for (field, wanted) in [
        (r#""max_output_tokens":12"#, Some(12)),
        (r#""max_completion_tokens":3,"max_tokens":4"#, Some(3)),
        (r#""max_completion_tokens":"3","max_tokens":4"#, Some(4)),
        (r#""max_tokens":-1"#, None),
        (r#""max_tokens":1.0"#, None),
        (r#""max_tokens":123456789012345678901234567890"#, None),
        (r#""n":1"#, None),
    ] {
        let body = format!(r#"{{"model":"m",{field}}}"#);
        let view = RequestView::parse(body.as_bytes()).unwrap();
        assert_eq!(view.max_output_tokens(body.as_bytes()), wanted, "{field}");
    }
}

#[test]
fn values_that_others_refuse_pass_as_bytes() {
    for value in [
        "123456789012345678901234567890",
        "1e999",
        "-0",
        "-0.0E-12",
        r#""\ud800""#,
        r#""\uDC00x""#,
        r#""\u0000""#,
        "[]",
        "{}",
        "[{}]",
        r#"{"a":1,"a":2}"#,
        "\"\u{7f}\u{2028}é\"",
        " \t\r\n1 ",
        &format!("{}{}", "[".repeat(199), "]".repeat(199)),
    ] {
        let body = format!(r#"{{"x":{value},"model":"m"}}"#);
        let view = RequestView::parse(body.as_bytes()).unwrap_or_else(|e| panic!("{value}: {e:?}"));
        assert_eq!(view.raw(body.as_bytes(), "x"), Some(value.trim().as_bytes()));
    }
}

#[test]
fn what_is_no_json_is_refused_at_the_byte_where_it_goes_wrong() {
    let say = |what: &str| format!("The body is not valid JSON: {what}.");
    for (body, wanted) in [
        ("[1]", "expected a JSON object at byte 0, found `[`"),
        ("\"x\"", "expected a JSON object at byte 0, found `\"`"),
        ("{", "expected a key in double quotes at byte 1, but the body ends there"),
        ("{'a':1}", "expected a key in double quotes at byte 1, found `'`"),
        ("{\"a\" 1}", "expected `:` at byte 5, found `1`"),
        ("{\"a\":1,}", "expected a key in double quotes at byte 7, found `}`"),
        ("{\"a\":[1,]}", "expected a value at byte 8, found `]`"),
        ("{\"a\":[1}", "expected `,` or `]` at byte 7, found `}`"),
        ("{\"a\":{\"b\":1]", "expected `,` or `}` at byte 11, found `]`"),
        ("{\"a\":01}", "expected `,` or `}` at byte 6, found `1`"),
        ("{\"a\":1.}", "expected a digit at byte 7, found `}`"),
        ("{\"a\":-}", "expected a digit at byte 6, found `}`"),
        ("{\"a\":1e+}", "expected a digit at byte 8, found `}`"),
        ("{\"a\":+1}", "expected a value at byte 5, found `+`"),
        ("{\"a\":NaN}", "expected a value at byte 5, found `N`"),
        ("{\"a\":nul}", "expected `true`, `false` or `null` at byte 8, found `}`"),
        ("{\"a\":\"\\x\"}", "expected one of `\"\\/bfnrtu` behind `\\` at byte 7, found `x`"),
        ("{\"a\":\"\\u12g4\"}", "expected four hex digits behind `\\u` at byte 10, found `g`"),
        ("{\"a\":\"\t\"}", "a control character must be escaped at byte 6, found the byte 0x09"),
        ("{\"a\":\"b", "expected `\"` to end the string at byte 7, but the body ends there"),
        ("{} x", "expected nothing more behind the object at byte 3, found `x`"),
        ("{\n \"a\":\n  ?}", "expected a value at byte 10 (line 3, column 3), found `?`"),
        ("{?\n}", "expected a key in double quotes at byte 1 (line 1, column 2), found `?`"),
        ("\u{feff}{}", "a byte order mark (BOM) is not allowed at byte 0, found the byte 0xef"),
    ] {
        let error = refused(body);
        assert_eq!((error.code, &*error.message), ("invalid_json", &*say(wanted)), "{body}");
    }
    let error = refused(b"{\"a\":\"ok \xC3\xA9 \xC3(\"}");
    assert_eq!(error.message, say("the text is not valid UTF-8 at byte 12, found the byte 0xc3"));
    for empty in ["", " \n"] {
        let message = "The body is empty; send a JSON object with the field `model`.";
        assert_eq!((refused(empty).code, &*refused(empty).message), ("invalid_json", message));
    }
}

#[test]
fn depth_has_a_limit_that_is_named() {
    let error = refused(format!(r#"{{"model":"m","x":{}"#, "[".repeat(100_000)));
    assert_eq!(error.code, "invalid_json");
    assert!(error.message.contains("deeper than the limit of 200 levels"), "{}", error.message);
}

#[test]
fn messages_never_repeat_the_body() {
    let secret = "sk-secret";
    for body in [
        format!("{{\"{secret}"),
        format!("{{\"{secret}\":\"{secret}\"{secret}}}"),
        format!("{{\"model\":\"m\",\"stream\":\"{secret}\"}}"),
        format!("{{\"model\":[\"{secret}\"]}}"),
    ] {
        assert!(!refused(&body).message.contains("secret"), "{body}");
    }
}

#[test]
fn a_top_level_key_twice_is_refused_however_it_is_written() {
    for (body, key) in [
        (r#"{"model":"a","model":"b"}"#, "model"),
        (r#"{"model":"a","mod\u0065l":"b"}"#, "model"),
        (r#"{"mod\u0065l":"a","model":"b"}"#, "model"),
        (r#"{"model":"a","\ud83d\ude00":1,"😀":2}"#, "😀"),
        (r#"{"model":"a","":1,"":2}"#, ""),
        (r#"{"model":"a","stream_options":{},"stream_options":null}"#, "stream_options"),
    ] {
        let error = refused(body);
        assert_eq!((error.code, error.param.as_deref()), ("duplicate_key", Some(key)), "{body}");
    }
    assert!(RequestView::parse(br#"{"model":"a","\ud800":1,"\ud801":2}"#).is_ok());
    let error = refused(r#"{"model":"a","model":"b"}"#);
    let message = "A top-level key is there twice, the second time at byte 13; send it once.";
    assert_eq!(error.message, message);
}

#[test]
fn many_members_are_told_apart_up_to_a_limit() {
    let body = |count: usize, last: &str| {
        let members: String = (1..count).map(|n| format!("\"k{n}\":{n},")).collect();
        format!("{{\"model\":\"m\",{}{last}", members)
    };
    // `model`, k1 … k9998, and the last one: 10,000 members.
    assert!(RequestView::parse(body(9_999, "\"z\":1}").as_bytes()).is_ok());
    let error = refused(body(9_999, "\"k5000\":1}"));
    assert_eq!((error.code, error.param.as_deref()), ("duplicate_key", Some("k5000")));
    let error = refused(body(10_000, "\"z\":1}"));
    assert_eq!(error.code, "invalid_json");
    assert!(error.message.contains("more than 10000 members"), "{}", error.message);
}

#[test]
fn a_model_must_be_there_and_be_text() {
    for body in ["{}", r#"{"model":null}"#, r#"{"model":7}"#, r#"{"model":""}"#, r#"{"model":{}}"#]
    {
        let error = refused(body);
        assert_eq!(error.code, "missing_required_parameter", "{body}");
        assert_eq!(error.param.as_deref(), Some("model"), "{body}");
    }
}

#[test]
fn stream_and_its_options_must_have_their_types() {
    for (field, param) in [
        (r#""stream":"true""#, "stream"),
        (r#""stream":1"#, "stream"),
        (r#""stream_options":[]"#, "stream_options"),
        (r#""stream_options":true"#, "stream_options"),
    ] {
        let error = refused(format!(r#"{{"model":"m",{field}}}"#));
        assert_eq!((error.code, error.param.as_deref()), ("invalid_type", Some(param)), "{field}");
    }
    let view = RequestView::parse(br#"{"model":"m","stream":null,"stream_options":null}"#).unwrap();
    assert_eq!((view.stream(), view.stream_options()), (false, StreamOptions::Null));
}

#[test]
fn include_usage_twice_is_refused() {
    let body = r#"{"model":"m","stream_options":{"include_usage":true,"include_\u0075sage":1}}"#;
    let error = refused(body);
    assert_eq!(error.code, "duplicate_key");
    assert_eq!(error.param.as_deref(), Some("stream_options.include_usage"));
    // 13 bytes to `"stream_options"`, 17 to its value, 22 to the second key.
    assert!(error.message.contains("at byte 52;"), "{}", error.message);
}

/// How many bytes `a` and `b` have in common at the head, and behind that at the tail.
fn in_common(a: &[u8], b: &[u8]) -> usize {
    let head = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let tails = a[head..].iter().rev().zip(b[head..].iter().rev());
    head + tails.take_while(|(a, b)| a == b).count()
}

proptest! {
    #[test]
    fn a_spliced_body_reads_like_an_edited_value(
        (fields, body) in fuzzed::body(),
        model in prop::option::of("[a-z\"\\\\\n]{1,9}"),
        ask_usage in any::<bool>(),
        new in prop::collection::vec(("[a-z]{0,2}", fuzzed::value()), 0..4),
    ) {
        let mut wanted = fields;
        wanted.extend(new.clone());
        wanted.extend(model.clone().map(|model| ("model".to_owned(), Value::from(model))));
        let mut wanted = Value::Object(wanted);
        if ask_usage {
            wanted["stream_options"]["include_usage"] = true.into();
        }
        let raw: Vec<_> = new.iter().map(|(_, value)| to_raw_value(value).unwrap()).collect();
        let names = new.iter().map(|(name, _)| name.as_str());
        let set: Vec<_> = names.zip(raw.iter().map(|raw| &**raw)).collect();
        let patch = Patch { model: model.as_deref(), ask_usage, set: &set, insert: None };
        let body = Bytes::from(body);
        let out = RequestView::parse(&body).unwrap().splice(&body, &patch).into_bytes();
        prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), wanted);
    }

    #[test]
    fn bytes_outside_of_the_patched_value_stay((_, body) in fuzzed::body(), other in ".{1,9}") {
        let view = RequestView::parse(&body).unwrap();
        let body = Bytes::from(body);
        let value = view.raw(&body, "model").unwrap();
        let start = value.as_ptr() as usize - body.as_ptr() as usize;
        let quoted = serde_json::to_vec(&other).unwrap();
        let wanted = [&body[..start], &quoted, &body[start + value.len()..]].concat();
        let out = view.splice(&body, &Patch { model: Some(&other), ..Patch::default() }).into_bytes();
        prop_assert!(out == wanted || (out == body && view.model() == other));

        let out = view.splice(&body, &Patch { ask_usage: true, ..Patch::default() }).into_bytes();
        // Of the old bytes at most the value that is replaced is gone.
        let replaced = match view.stream_options() {
            StreamOptions::Null | StreamOptions::UsageOff => view.usage.span.of(&body).len(),
            _ => 0,
        };
        prop_assert!(in_common(&body, &out) >= body.len() - replaced);
    }
}
