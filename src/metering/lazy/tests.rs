//! What a prompt is asked, and what it answers.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const O200K: Encoding = Encoding::O200kBase;

fn chat(text: &str) -> String {
    json!({ "messages": [{ "role": "user", "content": text }] }).to_string()
}

fn prompt(body: &str) -> LazyPrompt<'_> {
    LazyPrompt::new(O200K, "gpt-4o", body.as_bytes())
}

#[test]
fn lengths_alone_decide_what_is_far_from_the_limit() {
    let body = chat(&"word ".repeat(800));
    let prompt = prompt(&body);
    assert_eq!(prompt.effort(), Effort::Nothing);
    // 4,000 bytes and 7 of frame are at most 4,009 tokens and at least 39.
    assert_eq!(prompt.exceeds(8000), Ok(false));
    assert_eq!(prompt.exceeds(30), Ok(true));
    assert_eq!(prompt.effort(), Effort::Bound);
    assert_eq!(prompt.exceeds(1000), Ok(false));
    assert_eq!(prompt.effort(), Effort::Counted);
    assert_eq!(prompt.tokens(), Ok(prompt.count().tokens));
}

#[test]
fn a_long_prompt_is_decided_by_samples_when_the_limit_is_far() {
    // 11 tokens a line and 51 bytes of JSON, 2,000 lines: 22,000 tokens.
    let body = chat(&"The quick brown fox jumps over 12 of the lazy dogs\n".repeat(2000));
    let prompt = prompt(&body);
    // Short pieces alone tell these, longer ones those that are nearer.
    assert_eq!(prompt.exceeds(60_000), Ok(false));
    assert_eq!(prompt.exceeds(8_000), Ok(true));
    assert_eq!(prompt.samples[1].get(), None);
    let sampled = prompt.estimate(0);
    assert_eq!(prompt.exceeds(sampled * 2), Ok(false));
    assert_eq!(prompt.exceeds(sampled / 2), Ok(true));
    assert_eq!(prompt.effort(), Effort::Sampled);
    assert_eq!(prompt.exceeds(sampled), Err(NeedsExact));
    assert_eq!(prompt.tokens(), Err(NeedsExact));
    let exact = prompt.count().tokens;
    assert!(sampled.abs_diff(exact) * 100 <= exact * 5, "{sampled} for {exact}");
    assert_eq!(prompt.exceeds(exact), Ok(false));
    assert_eq!(prompt.exceeds(exact - 1), Ok(true));
    assert_eq!(prompt.effort(), Effort::Exact);
}

#[test]
fn a_count_made_elsewhere_is_taken() {
    let body = chat(&"word ".repeat(100_000));
    let prompt = prompt(&body);
    prompt.supply(1234);
    assert_eq!(prompt.tokens(), Ok(1234));
    assert_eq!((prompt.exceeds(1233), prompt.exceeds(1234)), (Ok(true), Ok(false)));
    assert_eq!(prompt.effort(), Effort::Nothing);
}

#[test]
fn tools_are_counted_once_for_all_requests_that_repeat_them() {
    let tool = json!({ "name": "once_for_all", "description": "A tool of this test alone." });
    let body = json!({ "messages": [], "tools": [tool] }).to_string();
    let first = prompt(&body);
    assert_eq!(first.exceeds(100), Ok(false));
    assert_eq!(first.effort(), Effort::Counted);
    let second = prompt(&body);
    assert_eq!(second.exceeds(100), Ok(false));
    assert_eq!(second.effort(), Effort::Bound);
    assert_eq!(second.tokens(), first.tokens());
    assert_eq!(second.count(), first.count());
}

#[test]
fn tools_too_long_to_be_counted_at_once_need_a_thread() {
    let tool = json!({ "name": "f", "description": "word ".repeat(20_000) });
    let body = json!({ "messages": [], "tools": [tool] }).to_string();
    let prompt = prompt(&body);
    assert_eq!(prompt.exceeds(10_000), Err(NeedsExact));
    assert_eq!(prompt.count().tokens / 1000, 20);
    assert_eq!(prompt.exceeds(10_000), Ok(true));
}

#[test]
fn tools_that_become_long_when_rendered_need_a_thread() {
    let mut schema = json!({ "type": "string", "description": "\n".repeat(20_000) });
    for _ in 0..20 {
        schema = json!({ "type": "object", "properties": { "a": schema } });
    }
    let body = json!({ "messages": [], "tools": [{ "name": "f", "parameters": schema }] });
    let body = body.to_string();
    assert!(body.len() < INLINE_BYTES);
    assert_eq!(prompt(&body).exceeds(1000), Err(NeedsExact));
    assert_eq!(prompt(&body).tokens(), Err(NeedsExact));
}

#[test]
fn the_counts_of_many_short_messages_are_sampled_together() {
    let message = json!({ "role": "user", "content": "How are you today, my friend?" });
    let body = json!({ "messages": vec![message; 10_000] }).to_string();
    let prompt = prompt(&body);
    // 8 of text, 4 of frame.
    assert_eq!(prompt.exceeds(60_000), Ok(true));
    assert_eq!(prompt.exceeds(200_000), Ok(false));
    assert_eq!(prompt.effort(), Effort::Sampled);
    let exact = prompt.count().tokens;
    assert_eq!(exact, 10_000 * (4 + 8) + 3);
}

#[test]
fn ten_megabytes_of_one_letter_are_answered_by_samples() {
    let body = chat(&"a".repeat(10_000_000));
    let prompt = prompt(&body);
    assert_eq!(prompt.exceeds(50_000), Ok(true));
    assert_eq!(prompt.exceeds(20_000_000), Ok(false));
    // Eight letters or so are a token.
    let estimate = prompt.estimate(1 << 20);
    assert!((1_000_000..2_000_000).contains(&estimate), "{estimate}");
}

#[test]
fn a_million_spaces_are_counted() {
    for space in [" ", "\t", "\n", "\u{a0}"] {
        let body = chat(&space.repeat(1_100_000));
        assert!(prompt(&body).exceeds(100).is_ok_and(|more| more), "{space:?}");
        assert!(prompt(&body).count().tokens > 1000, "{space:?}");
    }
}

#[test]
fn text_of_special_tokens_is_text() {
    assert_eq!(prompt(&chat("<|endoftext|>")).count().tokens, 4 + 7 + 3);
    assert_eq!(
        prompt(&chat("<|im_start|>")).tokens(),
        Ok(prompt(&chat("<|im_start|>")).count().tokens)
    );
}

#[test]
fn lone_surrogates_are_counted() {
    let body =
        format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, r"\ud800".repeat(500));
    let count = prompt(&body).count().tokens;
    assert!(count > 7);
    assert_eq!(prompt(&body).exceeds(count), Ok(false));
    assert_eq!(prompt(&body).exceeds(count - 1), Ok(true));
}

/// A text as JSON, some of it escaped in ways that nobody needs.
fn text() -> impl Strategy<Value = String> {
    let words = prop_oneof![
        "[ -~]{0,40}".prop_map(|text| json!(text).to_string()),
        "\\PC{0,20}".prop_map(|text| json!(text).to_string()),
        "[a-z ]{0,6}".prop_map(|text| {
            let escaped = text.bytes().map(|byte| format!("\\u00{byte:02x}"));
            format!("\"{}\"", escaped.collect::<String>())
        }),
        Just(r#""\ud800\udc00\ud800x\udc00""#.to_owned()),
        Just(r#""<|endoftext|>  \n\n   \t""#.to_owned()),
    ];
    words.boxed()
}

fn message() -> impl Strategy<Value = String> {
    let role = prop_oneof![
        Just("system"),
        Just("user"),
        Just("assistant"),
        Just("tool"),
        Just("house"),
        Just("")
    ];
    (role, text(), text(), text(), 0..9_u8).prop_map(|(role, one, two, three, shape)| {
        let content = match shape % 3 {
            0 => one,
            1 => {
                format!(r#"[{{"type":"text","text":{one}}},{{"type":"text","text":{three}}}]"#)
            }
            _ => format!(
                r#"[{{"type":"image_url","image_url":{{"url":{one}}}}},{{"text":{three}}}]"#
            ),
        };
        let more = match shape / 3 {
            0 => String::new(),
            1 => format!(r#","name":{two}"#),
            _ => format!(
                r#","tool_calls":[{{"id":"c","function":{{"name":{two},"arguments":{two}}}}}]"#
            ),
        };
        format!(r#"{{"role":"{role}","tool_call_id":"c","content":{content}{more}}}"#)
    })
}

fn tools() -> impl Strategy<Value = String> {
    prop::collection::vec((text(), text()), 0..3).prop_map(|tools| {
        let tools = tools.iter().map(|(name, about)| {
            let properties = format!(r#"{{{name}:{{"type":"string","title":{about}}}}}"#);
            format!(
                r#"{{"type":"function","function":{{"name":{name},"description":{about},
                "parameters":{{"properties":{properties}}}}}}}"#
            )
        });
        format!("[{}]", tools.collect::<Vec<_>>().join(","))
    })
}

fn request() -> impl Strategy<Value = String> {
    let messages = prop::collection::vec(message(), 0..5);
    (messages, tools(), text(), 0..3_u8).prop_map(|(messages, tools, more, shape)| {
        let list = messages.join(",");
        match shape {
            0 => format!(r#"{{"messages":[{list}],"tools":{tools}}}"#),
            1 => format!(r#"{{"input":[{list}],"instructions":{more},"tools":{tools},
                "text":{{"format":{{"name":{more},"schema":{{"title":{more},"enum":[{more}]}}}}}}}}"#),
            _ => format!(r#"{{"prompt":[{more},{more},[1,2],3]}}"#),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whether_a_limit_is_exceeded_is_what_the_count_says(body in request(), gpt_5: bool) {
        prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&body).is_ok(), "{}", body);
        let model = if gpt_5 { "gpt-5-mini" } else { "gpt-4o" };
        let fresh = || LazyPrompt::new(O200K, model, body.as_bytes());
        // Counted last, so that nothing is remembered of it yet.
        let answers = |limits: &[u64]| {
            let shared = fresh();
            limits.iter().map(|limit| shared.exceeds(*limit)).collect::<Vec<_>>()
        };
        let up: Vec<u64> = (0..400).chain([1000, 10_000, 100_000]).collect();
        let down: Vec<u64> = up.iter().rev().copied().collect();
        let (rising, falling) = (answers(&up), answers(&down));
        let count = fresh().count();
        prop_assert_eq!(count.tokens, count.parts.total());
        prop_assert_eq!(fresh().tokens(), Ok(count.tokens));
        for (limit, answer) in up.iter().zip(rising).chain(down.iter().zip(falling)) {
            prop_assert_eq!(answer, Ok(count.tokens > *limit), "{} {}", limit, count.tokens);
        }
        for limit in [count.tokens.saturating_sub(1), count.tokens, count.tokens + 1] {
            prop_assert_eq!(fresh().exceeds(limit), Ok(count.tokens > limit));
        }
    }

    #[test]
    fn no_body_panics(body in "[\\[\\]{}\",:a-z0-9\\\\]{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for body in [body.as_bytes(), &bytes] {
            let prompt = LazyPrompt::new(O200K, "gpt-4o", body);
            prop_assert_eq!(prompt.exceeds(0), Ok(prompt.count().tokens > 0));
        }
    }
}
