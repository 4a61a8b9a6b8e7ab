//! Conditions as an operator writes them: what they say, and what is refused.

mod oracle;
mod refusals;

use http::HeaderMap;
use http::HeaderValue;

use super::*;
use crate::metering::lazy::LazyPrompt;
use crate::metering::tokens::Encoding;
use crate::openai::endpoint::Endpoint;
use crate::openai::request::RequestView;
use crate::policy::facts::KeyFacts;
use crate::policy::facts::Live;
use crate::policy::facts::ModelState;

const BODY: &str = r#"{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hi"},
    {"role":"user","content":[{"type":"image_url"}]}],"tools":[{}],"max_tokens":500,"user":"u-1",
    "service_tier":"flex","metadata":{"app":"shop","n":1}}"#;
const PROMPT: u64 = 1_000;

/// `slow` is slow, `gone` is not available, and nothing is known about the rest.
struct Models;

impl Live for Models {
    fn model(&self, name: &str) -> ModelState {
        let state = ModelState::default();
        match name {
            "slow" => ModelState { p50_ms: 800.0, p95_ms: 1_500.0, in_flight: 3, ..state },
            "gone" => {
                ModelState { error_rate: 0.25, available: false, days_to_shutdown: 30, ..state }
            }
            _ => state,
        }
    }

    fn expected_output(&self, _: &str) -> Option<f64> {
        None
    }
}

/// Runs `check` on the facts of [`BODY`].
fn with_facts<R>(check: impl FnOnce(&mut Facts<'_>) -> R) -> R {
    let view = RequestView::parse(BODY.as_bytes()).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-weir-tag-app", "shop"),
        ("x-weir-importance", "high"),
        ("x-region", "eu"),
        ("authorization", "Bearer sk-secret"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let prompt = LazyPrompt::new(Encoding::O200kBase, "gpt-5", BODY.as_bytes());
    prompt.supply(PROMPT);
    let tags = ["critical".to_owned(), "beta".to_owned()];
    let key = KeyFacts {
        name: "k1",
        team: "support",
        tags: &tags,
        importance: "normal",
        budget_left_usd: 12.5,
        budget_used: 0.75,
    };
    let request = (&view, BODY.as_bytes());
    let mut facts = Facts::new(Endpoint::ChatCompletions, request, prompt, &headers, key, &Models);
    // 2026-11-23T13:21:09Z, a Monday.
    facts.unix_s = 1_795_440_069;
    check(&mut facts)
}

fn eval(source: &str) -> Result<bool, EvalError> {
    let compiled =
        Expression::compile(source).unwrap_or_else(|wrong| panic!("{source}: {wrong:?}"));
    with_facts(|facts| compiled.eval(facts))
}

fn all_hold(sources: &[&str]) {
    for source in sources {
        assert_eq!(eval(source), Ok(true), "{source}");
    }
}

#[test]
fn every_variable_is_read() {
    all_hold(&[
        r#"request.model == "gpt-5""#,
        r#"request.endpoint == "chat/completions""#,
        r#"request.user == "u-1""#,
        r#"request.service_tier == "flex""#,
        "request.stream",
        "!request.json_schema",
        "request.messages == 2",
        "request.images == 1",
        "request.tools == 1",
        "request.max_tokens == 500",
        r#"request.metadata.app == "shop""#,
        "tokens.prompt == 1000",
        r#"importance == "high""#,
        r#"key.name == "k1""#,
        r#"key.team == "support""#,
        r#"key.tags[1] == "beta""#,
        "key.budget_left_usd == 12.5",
        "key.budget_used == 0.75",
        r#"tag["app"] == "shop""#,
        r#"header["x-region"] == "eu""#,
        "time.hour == 13",
        "time.weekday == 1",
        r#"model["slow"].p50_ms == 800.0"#,
        r#"model["slow"].p95_ms == 1500.0"#,
        r#"model["gone"].error_rate == 0.25"#,
        r#"model["slow"].in_flight == 3"#,
        r#"model["slow"].available && !model["gone"].available"#,
        r#"model["gone"].days_to_shutdown == 30"#,
    ]);
}

#[test]
fn every_operator_works() {
    all_hold(&[
        "true && true && !false",
        "false || request.stream",
        "request.stream ? time.hour == 13 : false",
        "(request.json_schema ? 1 : 2) == 2",
        r#"(request.stream ? "a" : "b") == "a""#,
        "(request.stream ? 1.5 : 2.5) == 1.5",
        "request.stream == true && request.stream != request.json_schema",
        "time.hour != 12 && time.hour < 14 && time.hour <= 13 && time.hour > 12 && time.hour >= 13",
        r#"request.model != "a" && request.model < "gpt-6" && request.model >= "gpt-5""#,
        "key.budget_used < 0.8 && key.budget_used <= 0.75 && key.budget_used > 0.7",
        "time.hour + 2 == 15 && time.hour - 2 == 11 && time.hour * 2 == 26",
        "time.hour / 2 == 6 && time.hour % 2 == 1 && -time.hour == -13",
        "key.budget_used * 2.0 + 1.0 - 0.5 == 2.0 && key.budget_used / 0.25 == 3.0",
        "-key.budget_used == -0.75",
        r#"request.model + "-" + key.team == "gpt-5-support""#,
        r#""critical" in key.tags && !("gold" in key.tags)"#,
        r#"request.model in ["gpt-4", "gpt-5"] && !(request.model in ["a", key.team])"#,
        "time.hour in [9, 13] && !(time.hour in [1, 2 * time.hour])",
        "key.budget_used in [0.75] && !(key.budget_used in [0.5, 1.5])",
        r#""app" in tag && !("x" in tag) && "X-Region" in header && "app" in request.metadata"#,
        r#"["a", request.model][1] == "gpt-5" && [1, 2][0] == 1 && [0.5][0] == 0.5"#,
    ]);
}

#[test]
fn every_function_works() {
    all_hold(&[
        r#"request.model.contains("pt-") && !request.model.contains("x")"#,
        r#"request.model.startsWith("gpt-") && !request.model.startsWith("pt")"#,
        r#"request.model.endsWith("-5") && !request.model.endsWith("gpt")"#,
        r#"request.model.matches("^gpt-[0-9]$") && matches(request.model, "pt")"#,
        r#"request.model.upperAscii() == "GPT-5" && "ÄB".lowerAscii() == "Äb""#,
        r#"size(key.tags) == 2 && key.tags.size() == 2 && size("päd") == 3 && "".size() == 0"#,
        r#"size(["a", request.model]) == 2"#,
        "has(tag.app) && !has(tag.x) && has(request.metadata.app) && !has(header.x)",
        r#"int("12") == 12 && int(1.9) == 1 && int(-1.9) == -1 && int(time.hour) == 13 && int(5u) == 5"#,
        r#"double("0.5") == 0.5 && double(time.hour) == 13.0 && double(0.5) == 0.5"#,
        r#"string(time.hour) == "13" && string(0.5) == "0.5" && string(request.stream) == "true""#,
        r#"string(request.model) == "gpt-5""#,
    ]);
}

#[test]
fn numbers_compare_across_types_but_do_not_mix_in_arithmetic() {
    all_hold(&[
        "time.hour < 13.5 && 12.5 < time.hour && time.hour == 13.0 && time.hour == 13u",
        "key.budget_left_usd > 5 && 13 > key.budget_left_usd && key.budget_left_usd > 5u",
        "1 == 1.0 && 1u == 1 && 1u < 1.5",
    ]);
}

#[test]
fn a_limit_on_the_prompt_is_exact_at_its_edge() {
    // The prompt has 1000 tokens.
    all_hold(&[
        "tokens.prompt > 999 && !(tokens.prompt > 1000) && 999 < tokens.prompt && !(1000 < tokens.prompt)",
        "tokens.prompt >= 1000 && !(tokens.prompt >= 1001) && 1000 <= tokens.prompt",
        "tokens.prompt < 1001 && !(tokens.prompt < 1000) && 1001 > tokens.prompt",
        "tokens.prompt <= 1000 && !(tokens.prompt <= 999) && 1000 >= tokens.prompt",
        "tokens.prompt != 1001 && tokens.prompt + 1 == 1001",
        "tokens.prompt < 9223372036854775807 && tokens.prompt > 10 * 50 && tokens.prompt > 999u",
    ]);
}

#[test]
fn a_limit_that_every_prompt_keeps_needs_no_count() {
    for (source, always) in [
        ("tokens.prompt > -1", true),
        ("tokens.prompt >= 0", true),
        ("tokens.prompt >= -9223372036854775808", true),
        ("tokens.prompt < 0", false),
        ("tokens.prompt <= -1", false),
        ("-5 < tokens.prompt", true),
    ] {
        let compiled = Expression::compile(source).unwrap();
        assert_eq!(compiled.constant(), Some(always), "{source}");
        assert!(!compiled.reads_tokens(), "{source}");
    }
    for source in ["tokens.prompt > 0", "tokens.prompt >= 1", "tokens.prompt <= 0"] {
        let compiled = Expression::compile(source).unwrap();
        assert_eq!((compiled.constant(), compiled.reads_tokens()), (None, true), "{source}");
    }
}

#[test]
fn errors_at_run_time_are_told_apart() {
    let missing = |label: &str| Err(EvalError::Missing(label.into()));
    assert_eq!(eval(r#"tag["x"] == "a""#), missing("tag[\"x\"]"));
    assert_eq!(eval(r#"tag.x == "a""#), missing("tag[\"x\"]"));
    assert_eq!(eval(r#"tag[key.team] == "a""#), missing("tag[\"support\"]"));
    assert_eq!(eval(r#"request.metadata.n == "1""#), missing("request.metadata[\"n\"]"));
    assert_eq!(eval("time.hour * 9223372036854775807 > 0"), Err(EvalError::Overflow));
    assert_eq!(eval("int(key.budget_left_usd * 1e300) > 0"), Err(EvalError::Overflow));
    // CEL leaves out -2^63 too, although it would fit.
    assert_eq!(eval("int(-9223372036854775808.0) < 0"), Err(EvalError::Overflow));
    assert_eq!(eval("1 / (time.hour - 13) == 0"), Err(EvalError::DivisionByZero));
    assert_eq!(eval("1 % (time.hour - 13) == 0"), Err(EvalError::DivisionByZero));
    assert_eq!(eval(r#"key.tags[2] == "a""#), Err(EvalError::OutOfRange));
    assert_eq!(eval(r#"key.tags[-1] == "a""#), Err(EvalError::OutOfRange));
    assert_eq!(eval("int(request.model) == 1"), Err(EvalError::NotANumber));
    assert_eq!(eval("0.0 / (key.budget_used - 0.75) < 1.0"), Err(EvalError::NotANumber));
}

#[test]
fn a_side_that_decides_outweighs_an_error_of_the_other() {
    all_hold(&[
        r#"tag.x == "a" || request.stream"#,
        r#"request.stream || tag.x == "a""#,
        r#"!(tag.x == "a" && request.json_schema)"#,
        r#"has(tag.x) && tag.x == "a" ? false : true"#,
    ]);
    assert!(eval(r#"tag.x == "a" || request.json_schema"#).is_err());
    assert!(eval(r#"tag.x == "a" && request.stream"#).is_err());
}

#[test]
fn what_is_the_same_for_every_request_is_known() {
    for (source, constant) in [
        ("true", Some(true)),
        ("!true", Some(false)),
        ("1 < 2 && 'a' != 'b'", Some(true)),
        ("2.5 < 1", Some(false)),
        ("true || tag.x == 'a'", Some(true)),
        ("tag.x == 'a' && false", Some(false)),
        ("true ? 1 > 2 : request.stream", Some(false)),
        ("(request.stream || true) == false", Some(false)),
        ("request.stream", None),
        ("request.stream && true", None),
        ("false ? true : request.stream", None),
    ] {
        let compiled = Expression::compile(source).unwrap();
        assert_eq!(compiled.constant(), constant, "{source}");
    }
    let compiled = Expression::compile("true ? request.stream : tokens.prompt > 5").unwrap();
    assert!(!compiled.reads_tokens());
}

#[test]
fn models_are_listed_with_their_place() {
    let source = r#"model["slow"].available && (model['gone'].p95_ms > 1.0 || false)"#;
    let compiled = Expression::compile(source).unwrap();
    let named: Vec<_> = compiled
        .models()
        .map(|(name, span)| (name.to_owned(), source.get(span).unwrap()))
        .collect();
    assert_eq!(named, [("slow".to_owned(), "\"slow\""), ("gone".to_owned(), "'gone'")]);
}

#[test]
fn inputs_are_shown_once_each_in_order() {
    let source = r#"tokens.prompt > 5 && tag.app == "shop" && tag["x"] == "a" && time.hour > 2
        && "critical" in key.tags && tag["app"] != "" && header.authorization != ""
        && model["gone"].available && key.budget_used < 1.0 && !has(request.metadata.y)
        && tag[key.team] == """#;
    let compiled = Expression::compile(source).unwrap();
    assert!(compiled.reads_tokens());
    assert_eq!(compiled.source(), source);
    let seen = with_facts(|facts| compiled.inputs(facts));
    let seen: Vec<_> = seen.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("tokens.prompt", "1000"),
            (r#"tag["app"]"#, "\"shop\""),
            (r#"tag["x"]"#, "absent"),
            ("time.hour", "13"),
            ("key.tags", r#"["critical", "beta"]"#),
            (r#"header["authorization"]"#, "hidden"),
            (r#"model["gone"].available"#, "false"),
            ("key.budget_used", "0.75"),
            (r#"request.metadata["y"]"#, "absent"),
            ("key.team", "\"support\""),
            ("tag[key.team]", "absent"),
        ]
    );
}

#[test]
fn cheap_operands_are_asked_first() {
    let compiled = Expression::compile("tokens.prompt > 5 && request.tools > 9 && time.hour > 20");
    let Bool::Logic { clauses, .. } = compiled.unwrap().root else { panic!("not an &&") };
    assert!(matches!(clauses[0], Bool::Ints(..)), "{clauses:?}");
    assert!(matches!(clauses[2], Bool::PromptExceeds(5)), "{clauses:?}");
}

#[test]
fn an_expression_is_shared_between_threads() {
    fn is_shared<T: Send + Sync + std::fmt::Debug>() {}
    is_shared::<Expression>();
}

#[test]
fn the_documented_variables_compile_with_their_type() {
    for (name, kind, about) in variables() {
        let source = match kind {
            "bool" => name.clone(),
            "int" => format!("{name} == 1"),
            "double" => format!("{name} == 1.0"),
            "string" => format!("{name} == \"\""),
            "list(string)" => format!("\"\" in {name}"),
            _ => format!("\"a\" in {name}"),
        };
        assert!(Expression::compile(&source).is_ok(), "{source}");
        assert!(!about.is_empty(), "{name}");
    }
}
