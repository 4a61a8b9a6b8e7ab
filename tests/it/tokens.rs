//! `weir tokens` as its users meet it: what it prints, and what it says of a file it cannot count.

use std::io::Write;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

/// Exit code, standard output and standard error of `weir tokens` with that input.
fn tokens(arguments: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("tokens")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes the pipe: no failure of the test's.
    let _ = child.stdin.take().unwrap().write_all(input);
    let out = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn report(arguments: &[&str], input: &str) -> Value {
    let (code, out, err) = tokens(&[arguments, &["--json"]].concat(), input.as_bytes());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_request_is_shown_by_part_with_its_cost_for_several_models() {
    let request = r#"{"model":"gpt-4o","messages":[{"role":"user","content":[
        {"type":"text","text":"What is this?"},{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]}"#;
    let (code, out, err) = tokens(&[], request.as_bytes());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    // 3 of frame, 1 for the role, 4 of text, 3 of priming, and an image of 1024 x 1024.
    for line in [
        "input       chat\n",
        "model       gpt-4o (o200k_base)\n",
        "tokens      776\n",
        "  images    765\n",
        "  messages  11\n",
        "flag        unknown_image_size: an image whose size is not in the request counts as 1024 x 1024\n",
        // 776 x 2.50 USD per million.
        "gpt-4o                776  $0.00194\n",
        "\ngpt-6.1-sol ",
    ] {
        assert!(out.contains(line), "{line:?} in\n{out}");
    }
}

#[test]
fn every_kind_of_input_is_told_apart() {
    let of = |input| {
        let report = report(&["--model", "gpt-4o"], input);
        (report["kind"].as_str().unwrap().to_owned(), report["tokens"].as_u64().unwrap())
    };
    let kind = |kind: &str, tokens| (kind.to_owned(), tokens);
    assert_eq!(of("hello world"), kind("text", 2));
    assert_eq!(of("{name}, hello"), kind("text", 3));
    assert_eq!(of("<|endoftext|>"), kind("text", 7));
    assert_eq!(of(r#"{"model":"x","messages":[{"role":"user","content":"Hi"}]}"#), kind("chat", 8));
    assert_eq!(of(r#"{"messages":[{"role":"user","content":"\ud800"}]}"#).0, "example");
    assert_eq!(of(r#"{"input":"hello world"}"#), kind("response", 9));
    assert_eq!(of(r#"{"prompt":"hello world"}"#), kind("completion", 2));
    let embeddings = r#"{"model":"text-embedding-3-small","input":["hello world","Hi"]}"#;
    assert_eq!(report(&[], embeddings)["tokens"], 3);
    assert_eq!(report(&[], embeddings)["models"][1]["model"], "text-embedding-3-large");
    // A fine-tuning example, a line of a batch and a request, with an empty line between.
    let lines = r#"{"messages":[{"role":"user","content":"Hi"}]}

{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"Hi"}]}}
{"input":"hello world"}
"#;
    assert_eq!(of(lines), kind("jsonl", 8 + 8 + 9));
    assert_eq!(report(&["--text", "--model", "gpt-4o"], r#"{"input":"x"}"#)["kind"], "text");
}

#[test]
fn each_model_has_its_count_and_its_price_or_none() {
    let report = report(&["--model", "house-llama", "--model", "gpt-4"], "你好，世界");
    let models = report["models"].as_array().unwrap();
    assert_eq!(models[0]["model"], "house-llama");
    assert_eq!(models[0]["flags"], serde_json::json!(["unknown_model"]));
    assert_eq!(models[0]["encoding"], "o200k_base");
    assert_eq!(models[0]["input_cost_usd"], Value::Null);
    assert_eq!(models[1]["encoding"], "cl100k_base");
    assert!(models[1]["tokens"].as_u64() > models[0]["tokens"].as_u64());
    assert!(models[1]["input_cost_usd"].is_string());
    assert_eq!(report["tokens"], models[0]["tokens"]);
}

#[test]
fn what_cannot_be_counted_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("two.jsonl");
    std::fs::write(&file, "{\"input\":\"a\"}\n{\"input\":\"b\"\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, input, said) in [
        (vec!["/nowhere/at/all"], &b""[..], "weir: cannot read /nowhere/at/all: "),
        (vec!["-"], b"ab\xff", "weir: standard input is not UTF-8: byte 3"),
        (vec![], b"{\"input\":", "weir: standard input: no JSON object: "),
        (vec![], b"{\n\"input\": \"a\",\n}", "line 3 column"),
        (vec![], b"{\"a\":1}", "nothing to count: a request has `messages`, `input` or `prompt`"),
        (vec![file], b"", "two.jsonl, line 2: no JSON object: "),
    ] {
        let (code, out, err) = tokens(&arguments, input);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains(said) && err.lines().count() == 1, "{err}");
    }
    let (code, _, err) = tokens(&["--json", "/nowhere/at/all"], b"");
    assert_eq!(code, Some(1));
    let error: Value = serde_json::from_str(&err).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().starts_with("cannot read"));
    assert_eq!(tokens(&["--modle", "x"], b"").0, Some(2));
}

#[test]
fn long_texts_are_counted_to_the_end() {
    let line = "The quick brown fox jumps over the lazy dog.\n";
    let one = report(&["--model", "gpt-4o"], line)["tokens"].as_u64().unwrap();
    let all = report(&["--model", "gpt-4o"], &line.repeat(30_000))["tokens"].as_u64().unwrap();
    assert_eq!(all, one * 30_000);
    for letter in ["a", " "] {
        let long = report(&["--model", "gpt-4o"], &letter.repeat(1_100_000));
        assert!(long["tokens"].as_u64().unwrap() > 8000, "{letter:?}");
    }
}
