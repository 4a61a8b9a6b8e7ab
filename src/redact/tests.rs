//! The room as its users see it: a labelled set, real conversations, and properties.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// One text a line. `⟦EMAIL|ada@example.com⟧` marks a value and its type; a `¦` is there so that
/// scanners of repositories see no secret, and is taken out.
const LABELLED: &str = include_str!("../../tests/fixtures/redact.jsonl");
/// From tau-bench's airline trajectories (MIT, Sierra): every message that holds an `@`.
const AIRLINE: &str = include_str!("../../tests/fixtures/tau_airline_details.jsonl");
/// Real requests and answers.
const PAIRS: &str = include_str!("../../tests/fixtures/usage_pairs.jsonl");

const BOTH: Kinds = Kinds { secrets: true, pii: true };
const PERSONAL: [&str; 6] = ["EMAIL", "IBAN", "CARD", "SSN", "IP", "PHONE"];

fn placeholders() -> Placeholders {
    Placeholders::new([7; 16])
}

fn redact(body: &str) -> String {
    let out = json(BOTH, &mut placeholders(), body.as_bytes()).into_owned();
    String::from_utf8(out).unwrap()
}

/// A labelled text: as it comes, as it should leave (placeholders without numbers), its values.
struct Row {
    text: String,
    expected: String,
    values: Vec<(String, String)>,
}

fn rows() -> Vec<Row> {
    let texts = LABELLED.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    texts.map(|line| row(&line["text"].as_str().unwrap().replace('¦', ""))).collect()
}

fn row(marked: &str) -> Row {
    let mut row = Row { text: String::new(), expected: String::new(), values: Vec::new() };
    let mut rest = marked;
    while let Some((head, marked)) = rest.split_once('⟦')
        && let Some((label, marked)) = marked.split_once('|')
        && let Some((value, tail)) = marked.split_once('⟧')
    {
        row.text += &format!("{head}{value}");
        row.expected += &format!("{head}<{label}>");
        row.values.push((label.to_owned(), value.to_owned()));
        rest = tail;
    }
    row.text += rest;
    row.expected += rest;
    row
}

/// `text` with `<EMAIL_12>` as `<EMAIL>`.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for (at, piece) in text.split('<').enumerate() {
        out += if at > 0 { "<" } else { "" };
        let numbered = piece.split_once('>').and_then(|(inside, rest)| {
            let (name, number) = inside.rsplit_once('_')?;
            let known = label::LABELS.iter().any(|(_, known)| *known == name);
            (known && number.parse::<u64>().is_ok()).then(|| format!("{name}>{rest}"))
        });
        out += &numbered.unwrap_or_else(|| piece.to_owned());
    }
    out
}

#[test]
fn labelled_values_are_found_and_little_else() {
    let (mut missed, mut wrong) = (Vec::new(), Vec::new());
    let mut count = [0.0, 0.0];
    let mut lost = [0.0, 0.0];
    for Row { text, expected, values } in rows().into_iter().filter(|row| !row.values.is_empty()) {
        let out = redact(&text);
        for (label, value) in &values {
            let kind = usize::from(PERSONAL.contains(&label.as_str()));
            count[kind] += 1.0;
            if out.contains(value) {
                lost[kind] += 1.0;
                missed.push(format!("{label}: {text}"));
            }
        }
        if without_numbers(&out) != expected {
            wrong.push(format!("{text}\n  -> {out}"));
        }
    }
    println!("secrets: {} of {} missed, personal: {} of {}", lost[0], count[0], lost[1], count[1]);
    println!("missed:\n{}\nwrong:\n{}", missed.join("\n"), wrong.join("\n"));
    assert!(count[0] >= 150.0 && count[1] >= 100.0, "the set was not read");
    assert!(lost[0] <= 0.01 * count[0], "secrets: {} of {} survived", lost[0], count[0]);
    assert!(lost[1] <= 0.10 * count[1], "personal: {} of {} survived", lost[1], count[1]);
    // A value cut at the wrong place, or a label that says less.
    assert!(wrong.len() <= 3, "{} texts are not exact", wrong.len());
}

#[test]
fn what_only_looks_like_a_secret_or_a_person_stays() {
    let plain: Vec<Row> = rows().into_iter().filter(|row| row.values.is_empty()).collect();
    let found = plain.iter().filter_map(|row| {
        let out = redact(&row.text);
        (out != row.text).then(|| format!("{}\n  -> {out}", row.text))
    });
    let found: Vec<String> = found.collect();
    println!("{} of {}:\n{}", found.len(), plain.len(), found.join("\n"));
    assert!(plain.len() >= 150, "the set was not read");
    assert!(found.len() <= plain.len() / 100, "{} of {} were touched", found.len(), plain.len());
}

/// 127 of tau-bench's messages hold an address, of 39 people; dates of birth, flights, prices and
/// ids of payment methods around them stay.
#[test]
fn a_real_conversation_loses_its_addresses_alone() {
    let mut p = placeholders();
    let out = json(BOTH, &mut p, AIRLINE.as_bytes());
    assert_eq!(p.counts().collect::<Vec<_>>(), [("EMAIL", 127)]);
    let out = String::from_utf8(out.into_owned()).unwrap();
    assert!(out.contains("<EMAIL_39>") && !out.contains("<EMAIL_40>"));
    assert!(!out.contains('@'));
}

/// Structure as text: names and values, strings blanked.
fn shape(value: &Value) -> String {
    match value {
        Value::String(_) => "s".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(shape).collect::<String>()),
        Value::Object(members) => {
            format!("{{{}}}", members.values().map(shape).collect::<String>())
        }
        other => other.to_string(),
    }
}

#[test]
fn recorded_calls_keep_their_structure() {
    let mut p = placeholders();
    let mut lines = 0;
    for line in PAIRS.lines() {
        let out = json(BOTH, &mut p, line.as_bytes());
        let (before, after): (Value, Value) =
            (serde_json::from_str(line).unwrap(), serde_json::from_slice(&out).unwrap());
        assert_eq!(shape(&before), shape(&after));
        lines += 1;
    }
    println!("{lines} lines: {:?}", p.counts().collect::<Vec<_>>());
    assert!(lines >= 500, "{lines}");
}

/// Not a key of anybody's.
fn planted() -> String {
    ["sk", "-proj-", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4"].concat()
}

#[test]
fn text_without_a_find_is_the_same_memory() {
    let body = br#"{ "messages" : [ {"content":"na\u00efve \/ caf\u00e9 1.0e5"} ], "n": 1.00 }"#;
    assert!(matches!(json(BOTH, &mut placeholders(), body), Cow::Borrowed(_)));
    let off = Kinds::default();
    assert!(!off.any());
    assert!(matches!(text(off, &mut placeholders(), "a@example.com"), Cow::Borrowed(_)));
}

#[test]
fn kinds_are_found_apart() {
    let both = format!("{} ada@example.com", planted());
    let secrets = Kinds { secrets: true, pii: false };
    let pii = Kinds { secrets: false, pii: true };
    assert_eq!(text(secrets, &mut placeholders(), &both), "<OPENAI_KEY_1> ada@example.com");
    assert_eq!(text(pii, &mut placeholders(), &both), format!("{} <EMAIL_1>", planted()));
}

#[test]
fn everything_around_a_find_stays_byte_for_byte() {
    let body =
        r#"{ "a" : "x\u00e9\/ ada\u0040example.com \u00e9", "n":1.00 ,"b@example.com":null}"#;
    let kept = r#"{ "a" : "x\u00e9\/ <EMAIL_1> \u00e9", "n":1.00 ,"<EMAIL_2>":null}"#;
    assert_eq!(redact(body), kept);
}

#[test]
fn arguments_of_tools_are_json_once_more() {
    let body = r#"{"arguments":"{\"to\":\"a\\u0040example.com\",\"password\":\"Summer2024!\"}"}"#;
    assert_eq!(
        redact(body),
        r#"{"arguments":"{\"to\":\"<EMAIL_1>\",\"password\":\"<PASSWORD_1>\"}"}"#
    );
}

#[test]
fn events_of_a_stream_are_read_as_text() {
    let body =
        "data: {\"delta\":{\"content\":\"mail\\u0020a\\u0040example.com\\n\"}}\n\ndata: [DONE]\n\n";
    let kept = "data: {\"delta\":{\"content\":\"mail\\u0020<EMAIL_1>\\n\"}}\n\ndata: [DONE]\n\n";
    assert_eq!(redact(body), kept);
}

#[test]
fn bytes_that_are_no_text_stay_around_a_find() {
    let body = b"\xff\xfe ada@example.com \xff";
    assert_eq!(&*json(BOTH, &mut placeholders(), body), b"\xff\xfe <EMAIL_1> \xff");
}

#[test]
fn a_conversation_numbers_its_values_by_first_appearance() {
    let mut p = placeholders();
    assert_eq!(text(BOTH, &mut p, "b@example.com, a@example.com"), "<EMAIL_1>, <EMAIL_2>");
    assert_eq!(text(BOTH, &mut p, "a@example.com"), "<EMAIL_2>");
    let escaped = br#"["c@example.com", "{\"a\":\"b\\u0040example.com\"}"]"#;
    let kept = br#"["<EMAIL_3>", "{\"a\":\"<EMAIL_1>\"}"]"#;
    assert_eq!(&*json(BOTH, &mut p, escaped), kept);
    assert_eq!(p.counts().collect::<Vec<_>>(), [("EMAIL", 5)]);
}

#[test]
fn a_file_in_base64_holds_nothing_and_what_stands_beside_it_is_found() {
    // A generator of numbers (xorshift64), so that every run sees the same megabyte.
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let file: String =
        (0..1_000_000).map(|_| char::from(alphabet[usize::from(next() % 64)])).collect();
    let body = |key: &str| {
        format!(
            r#"{{"a":"data:image/png;base64,{file}","b":{{"data":"{file}"}},"c":"![]({file}) {key}"}}"#
        )
    };
    let kept = redact(&body(&planted()));
    assert!(kept == body("<OPENAI_KEY_1>"), "something else was found");
}

#[test]
fn a_long_list_of_numbers_is_no_file() {
    let list = "4111111111111111\n5555555555554444\n".repeat(20);
    let kept = "<CARD_1>\n<CARD_2>\n".repeat(20);
    assert_eq!(redact(&list), kept);
    let json = |list: &str| serde_json::json!({ "list": list }).to_string();
    assert_eq!(redact(&json(&list)), json(&kept));
}

/// JSON of any nesting around `leaf`.
fn nested(leaf: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{0,12}|password|api_key", inner.clone(), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
            inner.prop_map(|value| Value::from(value.to_string())),
        ]
    })
}

/// Texts that come close to something, in pieces that meet by chance.
fn nearly() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "a@example.com",
        "@",
        "password=",
        "password",
        "\"",
        "'",
        ": ",
        "sk-",
        "Bearer ",
        "eyJ",
        "://",
        "+49 30 1234567",
        "555-123-4567",
        "<EMAIL_1>",
        "<",
        ">",
        "_1>",
        "secret ",
        "\\u0040",
        "\\n",
        "\\",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----END",
        "-----",
        "abcdefGHIJ1234567890",
        "DE89",
        "3704 0044",
        "4111 1111 1111 1111",
        "10.20.30.40",
        " ",
        ".",
        "-",
        "user:",
        "x1y2z3A4",
        "é",
        "token: ",
        "&",
        "=",
        "-key>",
        "Basic ",
        "YTpi",
        "AKIA",
        "wJalrXUtnFEMIK7MDENGbPxRfiCYabcdefghij12",
        "::",
        "2001:db8",
    ]);
    prop::collection::vec(prop_oneof![4 => pieces.prop_map(str::to_owned), 1 => ".{0,4}"], 0..24)
        .prop_map(|pieces| pieces.concat())
}

/// `text` as the inside of a JSON string, some of its characters as `\u0041`.
fn escaped(text: &str, which: &[bool]) -> String {
    let letters = text.chars().zip(which.iter().cycle());
    letters
        .map(|(letter, escape)| match escape {
            true => letter
                .encode_utf16(&mut [0; 2])
                .iter()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect(),
            false => {
                let quoted = serde_json::to_string(&letter.to_string()).unwrap();
                quoted.strip_prefix('"').unwrap().strip_suffix('"').unwrap().to_owned()
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn json_stays_json_of_the_same_structure(
        value in nested(prop_oneof![nearly().prop_map(Value::from), any::<i64>().prop_map(Value::from)])
    ) {
        let body = value.to_string();
        let after: Value = serde_json::from_str(&redact(&body)).unwrap();
        prop_assert_eq!(shape(&value), shape(&after));
    }

    #[test]
    fn redacting_twice_changes_nothing(text in nearly(), value in nested(nearly().prop_map(Value::from))) {
        for body in [text, value.to_string()] {
            let once = redact(&body);
            prop_assert_eq!(redact(&once), once.clone());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in nearly()) {
        json(BOTH, &mut placeholders(), &bytes);
        json(BOTH, &mut placeholders(), &[text.as_bytes(), &bytes, text.as_bytes()].concat());
    }

    #[test]
    fn any_cut_of_a_text_can_be_read(text in nearly(), at in any::<prop::sample::Index>()) {
        let bytes = text.as_bytes();
        json(BOTH, &mut placeholders(), &bytes[..at.index(bytes.len() + 1)]);
        json(BOTH, &mut placeholders(), &bytes[at.index(bytes.len() + 1)..]);
    }

    #[test]
    fn a_planted_secret_never_survives(
        mut value in nested("[ -~é\n]{0,20}".prop_map(Value::from)),
        around in ("[ -~]{0,12}[ \n,:;(]", "[ \n,;)][ -~]{0,12}"),
        which in prop::collection::vec(any::<bool>(), 1..40),
        depth in 0..4,
    ) {
        let text = format!("{}{}{}", around.0, planted(), around.1);
        let mut json = format!("\"{}\"", escaped(&text, &which));
        for _ in 0..depth {
            json = format!("{{\"a\":[{}]}}", serde_json::to_string(&json).unwrap());
        }
        if let Some(members) = value.as_object_mut() {
            members.insert("planted".to_owned(), Value::from(1));
        }
        let body = format!("[{value}, {json}]");
        let mut seen = redact(&body);
        for _ in 0..8 {
            seen = String::from_utf8(escapes::resolved(seen.as_bytes()).into_owned()).unwrap();
        }
        prop_assert!(!seen.contains(&planted()), "{}", seen);
    }
}

#[test]
fn no_type_has_two_names() {
    let names: BTreeSet<&str> = label::LABELS.iter().map(|(_, name)| *name).collect();
    assert_eq!(names.len(), label::LABELS.len());
}
