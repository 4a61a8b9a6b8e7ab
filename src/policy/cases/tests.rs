use super::*;
use crate::policy::Severity;

const POLICY: &str = r#"
upstreams:
  openai: { base_url: https://api.openai.com/v1 }
  house: { base_url: http://127.0.0.1:9/v1 }
models:
  llama: { upstream: house, price: { input: 0.10, output: 0.30 }, context: 1000 }
routes:
  - { name: bot, when: request.model == "bot", use: llama, fallback: [gpt-6-luna], set: { temperature: 0.2 } }
  - { name: no, when: request.model == "no", reject: { message: previews are not allowed here } }
  - { name: auto, when: request.model == "auto", cheapest: { of: [gpt-6.1-sol, llama, gpt-6-luna] } }
"#;

fn sources(tests: &str) -> Sources {
    let files = [("routing.yaml", POLICY), ("tests/t.yaml", tests)];
    Sources::of(files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect())
}

fn tested(tests: &str) -> Tested {
    let (checked, tested) = Policy::verify(&sources(tests), &Settings::default());
    let errors = checked.diagnostics.iter().filter(|found| found.severity == Severity::Error);
    assert_eq!(checked.policy.is_none(), errors.count() > 0);
    tested
}

/// What is found wrong, as it is shown.
fn rendered(tests: &str) -> String {
    tested(tests).diagnostics.iter().map(ToString::to_string).collect()
}

/// Why a test with these keys fails; empty when it passes.
fn why(keys: &str) -> String {
    let tests = format!("tests:\n  - {{ name: t, {keys} }}\n");
    let Tested { cases, diagnostics } = tested(&tests);
    let [case] = &cases[..] else { panic!("{diagnostics:#?}") };
    case.why.clone().unwrap_or_default()
}

#[test]
fn a_test_that_holds_passes() {
    for keys in [
        "request: { model: bot }, expect: { route: bot, model: llama, upstream: house, fallback: [gpt-6-luna], set: { temperature: 0.2 } }",
        "request: { model: bot }, expect: { rejected: false }",
        "request: { model: no }, expect: { route: no, rejected: previews are not }",
        "request: { model: no }, expect: { rejected: true }",
        "request: { model: gpt-4.1, messages: [] }, expect: { route: default, model: gpt-4.1 }",
        // llama, the cheapest, has a context of 1,000 tokens.
        "request: { model: auto, messages: [] }, expect: { model: llama }",
        "request: { model: auto, messages: [] }, tokens: 1001, expect: { model: gpt-6-luna }",
        "request: { model: auto }, models: { llama: { available: false } }, expect: { model: gpt-6-luna }",
    ] {
        assert_eq!(why(keys), "", "{keys}");
    }
}

#[test]
fn a_test_that_fails_says_what_was_expected_and_what_happened() {
    let cases = [
        ("request: { model: bot }, expect: { route: auto }", "expected route `auto`, got `bot`"),
        (
            "request: { model: bot }, expect: { model: gpt-5, upstream: openai }",
            "expected model `gpt-5`, got `llama`; expected upstream `openai`, got `house`",
        ),
        (
            "request: { model: no }, expect: { model: llama }",
            "expected model `llama`, got a refusal, \"previews are not allowed here\"",
        ),
        (
            "request: { model: bot }, expect: { rejected: previews }",
            "expected a refusal, got model `llama`",
        ),
        (
            "request: { model: no }, expect: { rejected: sorry }",
            "expected a refusal that says \"sorry\", got \"previews are not allowed here\"",
        ),
        (
            "request: { model: no }, expect: { rejected: false }",
            "expected no refusal, got \"previews are not allowed here\"",
        ),
        (
            "request: { model: bot }, expect: { fallback: [] }",
            "expected fallback [], got [gpt-6-luna]",
        ),
        (
            "request: { model: bot }, expect: { set: { temperature: 1, top_p: 0 } }",
            "expected `temperature` set to 1, got 0.2; expected `top_p` set to 0, got nothing",
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(why(keys), expected, "{keys}");
    }
}

#[test]
fn a_failing_test_is_an_error_where_it_stands_and_refuses_the_folder() {
    let tests = "tests:\n  - name: a bot gets luna\n    request: { model: bot }\n    expect: { model: gpt-6-luna }\n";
    let expected = "error: test `a bot gets luna` fails: expected model `gpt-6-luna`, got `llama`
 --> tests/t.yaml:2:11
  |
2 |   - name: a bot gets luna
  |           ^^^^^^^^^^^^^^^
";
    assert_eq!(rendered(tests), expected);
    let (checked, _) = Policy::verify(&sources(tests), &Settings::default());
    assert!(checked.policy.is_none());
}

#[test]
fn a_folder_with_a_failing_test_does_not_load() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tests")).unwrap();
    std::fs::write(folder.path().join("a.yaml"), POLICY).unwrap();
    let tests = "tests: [{ name: t, request: { model: bot }, expect: { route: auto } }]\n";
    std::fs::write(folder.path().join("tests/a.yaml"), tests).unwrap();
    let refused = Policy::load(folder.path(), &Settings::default()).unwrap_err().to_string();
    assert!(refused.contains("test `t` fails: expected route `auto`, got `bot`"), "{refused}");
}

#[test]
fn a_test_that_is_wrong_itself_is_named_with_its_place() {
    let cases: [(&str, &[&str]); 10] = [
        ("{ name: t, expect: {} }", &["t.yaml:2", "`request`"]),
        ("{ name: t, request: { model: bot }, expect: {} }", &["2:13", "`t` expects nothing"]),
        ("{ name: t, request: {}, expect: { route: x } }", &["2:25", "`model` is missing"]),
        (
            "{ name: t, request: { model: bot }, expects: { route: x } }",
            &["unknown key `expects`", "`expect`"],
        ),
        (
            "{ name: t, request: { model: bot }, models: { lama: {} }, expect: { route: x } }",
            &["unknown model `lama`", "`llama`", "^^^^\n"],
        ),
        (
            "{ name: t, request: { model: bot }, expected_output: { atuo: 1 }, expect: { route: x } }",
            &["unknown rule `atuo`", "`auto`"],
        ),
        (
            "{ name: t, request: { model: bot }, time: noon, expect: { route: x } }",
            &["2:47", "`noon` is no time", "2026-11-23T13:21:09Z"],
        ),
        (
            "{ name: t, request: { model: bot }, endpoint: files, expect: { route: x } }",
            &["2:51", "`files`", "embeddings"],
        ),
        (
            "{ name: t, request: { model: bot }, headers: { 'a b': x }, expect: { route: x } }",
            &["`a b` is no header"],
        ),
        (
            "{ name: t, request: { model: bot }, key: { teem: x }, expect: {} }",
            &["`teem`", "`team`"],
        ),
    ];
    for (test, expected) in cases {
        let shown = rendered(&format!("tests:\n  - {test}\n"));
        for part in expected {
            assert!(shown.contains(part), "{test}: `{part}` is not in:\n{shown}");
        }
    }
}

#[test]
fn two_tests_of_one_name_are_shown_at_both_places() {
    let one = "{ name: t, request: { model: bot }, expect: { route: bot } }";
    let shown = rendered(&format!("tests:\n  - {one}\n  - {one}\n"));
    for part in ["test `t` is defined twice", "--> tests/t.yaml:3:13", "first at tests/t.yaml:2:13"]
    {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
}

#[test]
fn a_broken_policy_runs_no_tests() {
    let files = [("a.yaml", "routes: 7"), ("tests/t.yaml", "tests: 7")];
    let files = files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
    let (checked, tested) = Policy::verify(&Sources::of(files), &Settings::default());
    assert!(checked.policy.is_none() && tested.diagnostics.is_empty());
    assert_eq!(checked.diagnostics.len(), 1);
}

#[test]
fn the_fastest_is_the_one_with_the_least_95th_percentile_that_is_available() {
    let policy = "routes:\n  - { name: fast, fastest: { of: [gpt-4.1, gpt-6-luna, gpt-4o], max_p95: 5s } }\n";
    let state = |p95, available| format!("{{ p95_ms: {p95}, available: {available} }}");
    let model = |figures: [(u32, bool); 3], expected: &str| {
        let [a, b, c] = figures.map(|(p95, available)| state(p95, available));
        let tests = format!(
            "tests:\n  - name: t\n    request: {{ model: x, messages: [] }}\n    \
             models: {{ gpt-4.1: {a}, gpt-6-luna: {b}, gpt-4o: {c} }}\n    expect: {{ model: {expected} }}\n"
        );
        let files =
            [("routing.yaml".to_owned(), policy.to_owned()), ("tests/t.yaml".to_owned(), tests)];
        let (_, tested) = Policy::verify(&Sources::of(files.into()), &Settings::default());
        let [case] = &tested.cases[..] else { panic!("{:#?}", tested.diagnostics) };
        assert_eq!(case.why, None, "{figures:?}");
    };
    model([(900, true), (400, true), (700, true)], "gpt-6-luna");
    model([(900, true), (400, false), (700, true)], "gpt-4o");
    // Nothing is known of one: it is asked, so that something is.
    model([(900, true), (400, true), (0, true)], "gpt-4o");
    // All are too slow or away: the best of what is left.
    model([(9_000, true), (8_000, true), (400, false)], "gpt-6-luna");
}
