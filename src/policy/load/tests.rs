use std::fs;

use super::*;

const WORKS: &str = "routes: []\n";

fn sources(files: &[(&str, &str)]) -> Sources {
    Sources::of(files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect())
}

fn check(files: &[(&str, &str)], settings: &Settings) -> Checked {
    Policy::check(&sources(files), settings)
}

fn env(pairs: &[(&str, &str)]) -> Settings {
    let env = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Settings { env, ..Settings::default() }
}

/// Everything found in one file, as it is shown.
fn shown(yaml: &str) -> String {
    shown_by(yaml, &Settings::default())
}

fn shown_by(yaml: &str, settings: &Settings) -> String {
    let checked = check(&[("a.yaml", yaml)], settings);
    checked.diagnostics.iter().map(ToString::to_string).collect()
}

/// A policy of one rule with these keys.
fn rule(keys: &str) -> String {
    shown(&format!("routes:\n  - {{ name: r, {keys} }}\n"))
}

fn assert_parts(what: &str, shown: &str, parts: &[&str]) {
    for part in parts {
        assert!(shown.contains(part), "{what}: `{part}` is not in:\n{shown}");
    }
}

#[test]
fn the_shipped_folder_loads_with_and_without_a_key() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    for (key, own) in [("", false), ("sk-1", true)] {
        let policy = Policy::load(&folder, &env(&[("OPENAI_API_KEY", key)])).unwrap();
        assert_eq!(policy.revision().len(), 12);
        let target = policy.target("house-small");
        assert_eq!((&*target.model, &*target.upstream_model), ("house-small", "gpt-6-luna"));
        assert_eq!(target.upstream.authorization.is_some(), own);
        assert!(policy.warnings.is_empty(), "{:#?}", policy.warnings);
    }
}

#[test]
fn the_schema_beside_the_shipped_policies_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/schema.json");
    let committed: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(committed, crate::policy::schema(), "weir policy schema > policies/schema.json");
}

#[test]
fn a_missing_or_empty_folder_means_openai_with_the_callers_key_and_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Path::new("/nowhere/at/all");
    for (path, why) in [(missing, "does not exist"), (folder.path(), "is empty")] {
        let policy = Policy::load(path, &Settings::default()).unwrap();
        assert_eq!(policy.default_upstream().base_url, "https://api.openai.com/v1");
        assert!(policy.default_upstream().authorization.is_none());
        let [warning] = &policy.warnings[..] else { panic!("{:#?}", policy.warnings) };
        let expected =
            format!("warning: the policy folder {why}: every model passes as asked for\n");
        assert_eq!(warning.to_string(), expected);
    }
}

#[test]
fn models_go_where_the_policy_says() {
    let yaml = "upstreams:\n  openai: { base_url: https://api.openai.com/v1 }\n  \
                vllm: { base_url: 'http://127.0.0.1:9/v1', api_key: '${KEY}' }\nmodels:\n  \
                llama: { upstream: vllm, as: meta/llama, price: { input: 0.10, output: 0.30 } }\n";
    let policy = check(&[("a.yaml", yaml)], &env(&[("KEY", "k")])).policy.unwrap();
    assert_eq!(policy.target("llama").upstream.name, "vllm");
    assert_eq!(policy.target("gpt-5").upstream.name, "openai");
    assert!(policy.model("llama").is_some_and(|model| model.is_priced()));
    assert!(policy.knows_model("llama") && !policy.knows_model("nobody"));
}

#[test]
fn comments_alone_line_ends_and_a_byte_order_mark_are_no_mistakes() {
    for text in ["# nothing yet\n", "", "\n\n", "---\n", "\u{feff}routes: []\r\nmodels: {}\r\n"] {
        let checked = check(&[("a.yaml", text)], &Settings::default());
        assert!(checked.policy.is_some() && checked.diagnostics.is_empty(), "{text:?}");
    }
}

#[test]
fn an_unknown_key_shows_the_one_that_is_meant() {
    insta::assert_snapshot!(shown("upstreams:\n  openai:\n    base_ulr: https://h/v1\n"), @r###"
    error: unknown key `base_ulr`
     --> a.yaml:3:5
      |
    3 |     base_ulr: https://h/v1
      |     ^^^^^^^^
      = help: did you mean `base_url`? Known here are base_url, api_key, api_key_file, ca_file, timeouts, max_in_flight
    "###);
    insta::assert_snapshot!(shown("routes: []\r\nmodelz: {}\r\n"), @r###"
    error: unknown key `modelz`
     --> a.yaml:2:1
      |
    2 | modelz: {}
      | ^^^^^^
      = help: did you mean `models`? Known here are upstreams, models, routes, limits, capture, hooks
    "###);
    insta::assert_snapshot!(shown("colour: red\n"), @r###"
    error: unknown key `colour`
     --> a.yaml:1:1
      |
    1 | colour: red
      | ^^^^^^
      = help: known here are upstreams, models, routes, limits, capture, hooks
    "###);
}

#[test]
fn a_value_of_the_wrong_type_says_what_belongs_there() {
    insta::assert_snapshot!(shown("models:\n  a: { context: many }\n"), @r###"
    error: `context` must be a whole number, 0 or more, not `many`
     --> a.yaml:2:17
      |
    2 |   a: { context: many }
      |                 ^^^^
    "###);
    insta::assert_snapshot!(shown("routes: {}\n"), @r###"
    error: `routes` must be a list, `[a, b]`, not `{`
     --> a.yaml:1:9
      |
    1 | routes: {}
      |         ^
    "###);
    insta::assert_snapshot!(shown("upstreams:\n  a:\n"), @r###"
    error: `a` must be a mapping, `{ key: value }`, and is empty
     --> a.yaml:2:4
      |
    2 |   a:
      |    ^
    "###);
    insta::assert_snapshot!(rule("cheapest: [gpt-5]"), @r###"
    error: `cheapest` must be a mapping, `{ key: value }`, not `[`
     --> a.yaml:2:26
      |
    2 |   - { name: r, cheapest: [gpt-5] }
      |                          ^
    "###);
    insta::assert_snapshot!(rule("known_models_only: yes"), @r###"
    error: `known_models_only` must be true or false, not `yes`
     --> a.yaml:2:35
      |
    2 |   - { name: r, known_models_only: yes }
      |                                   ^^^
    "###);
    insta::assert_snapshot!(rule("sticky: usr, split: { gpt-5: 1 }"), @r###"
    error: `sticky` cannot be `usr`
     --> a.yaml:2:24
      |
    2 |   - { name: r, sticky: usr, split: { gpt-5: 1 } }
      |                        ^^^
      = help: did you mean `user`? Known here are user, session, key
    "###);
    insta::assert_snapshot!(rule("deadline: soon"), @r###"
    error: `soon` is no duration; write it as 250ms, 2s or 5m
     --> a.yaml:2:26
      |
    2 |   - { name: r, deadline: soon }
      |                          ^^^^
    "###);
    insta::assert_snapshot!(shown("routes:\n  - use: gpt-5\n"), @r###"
    error: the key `name` is missing
     --> a.yaml:2:5
      |
    2 |   - use: gpt-5
      |     ^^^
    "###);
}

#[test]
fn a_name_that_is_defined_twice_is_shown_at_both_places() {
    insta::assert_snapshot!(shown("models:\n  # the first\n  m: { quality: 1 }\n\n  m: {}\n"), @r###"
    error: `m` is defined twice
     --> a.yaml:5:3
      |
    5 |   m: {}
      |   ^
      = first at a.yaml:3:3
      = help: keep one of them
    "###);
    let one = "routes:\n  - { name: r, use: gpt-6-luna }\n";
    let other = "routes:\n  - { name: r, when: 'true', use: gpt-6-luna }\n";
    let found = check(&[("one.yaml", one), ("two.yaml", other)], &Settings::default());
    let found: String = found.diagnostics.iter().map(ToString::to_string).collect();
    let parts = ["rule `r` is defined twice", "--> two.yaml:2:13", "first at one.yaml:2:13"];
    assert_parts("across files", &found, &parts);
    let in_line = shown("models: { m: { quality: 1, quality: 0 } }\n");
    assert_parts("in a line", &in_line, &["--> a.yaml:1:28", "first at a.yaml:1:16"]);
}

#[test]
fn a_model_or_an_upstream_that_nobody_knows_is_named() {
    insta::assert_snapshot!(rule("use: gpt-6-lunna"), @r###"
    error: unknown model `gpt-6-lunna`
     --> a.yaml:2:21
      |
    2 |   - { name: r, use: gpt-6-lunna }
      |                     ^^^^^^^^^^^
      = help: did you mean `gpt-6-luna`?
    "###);
    insta::assert_snapshot!(rule("fallback: [gpt-6-luna, nobody-knows-this]"), @r###"
    error: unknown model `nobody-knows-this`
     --> a.yaml:2:39
      |
    2 |   - { name: r, fallback: [gpt-6-luna, nobody-knows-this] }
      |                                       ^^^^^^^^^^^^^^^^^
      = help: define it under `models`
    "###);
    insta::assert_snapshot!(
        shown("upstreams:\n  vllm: { base_url: 'http://h/v1' }\nmodels:\n  m: { upstream: vlm }\n"),
        @r###"
    error: unknown upstream `vlm`
     --> a.yaml:4:18
      |
    4 |   m: { upstream: vlm }
      |                  ^^^
      = help: did you mean `vllm`?
    "###
    );
}

#[test]
fn a_fine_tuned_model_need_not_be_listed() {
    let used = rule("use: 'ft:gpt-4.1-mini-2025-04-14:acme::abc'");
    assert_eq!(used, "");
}

#[test]
fn a_mistake_in_a_condition_is_marked_where_it_stands() {
    insta::assert_snapshot!(rule(r#"when: 'request.modle == "x"', use: gpt-6-luna"#), @r###"
    error: there is no variable `request.modle`
     --> a.yaml:2:23
      |
    2 |   - { name: r, when: 'request.modle == "x"', use: gpt-6-luna }
      |                       ^^^^^^^^^^^^^
      = help: did you mean `request.model`?
    "###);
    insta::assert_snapshot!(rule("when: 'tokens.prompt > \"many\"', use: gpt-6-luna"), @r###"
    error: `>` does not take these: `tokens.prompt` is an int, `"many"` a string
     --> a.yaml:2:23
      |
    2 |   - { name: r, when: 'tokens.prompt > "many"', use: gpt-6-luna }
      |                       ^^^^^^^^^^^^^^^^^^^^^^
    "###);
    insta::assert_snapshot!(rule("when: 'request.stream &&', use: gpt-6-luna"), @r###"
    error: the condition ends too early
     --> a.yaml:2:40
      |
    2 |   - { name: r, when: 'request.stream &&', use: gpt-6-luna }
      |                                        ^
    "###);
    insta::assert_snapshot!(
        shown("routes:\n  - name: r\n    when: >-\n      request.stream\n      && key.team\n    use: gpt-6-luna\n"),
        @r###"
    error: `key.team` is a string, a bool is needed here
     --> a.yaml:5:10
      |
    5 |       && key.team
      |          ^^^^^^^^
    "###
    );
    insta::assert_snapshot!(rule(r#"when: 'model["gpt-6-lunna"].available', use: gpt-6-luna"#), @r###"
    error: unknown model `gpt-6-lunna`
     --> a.yaml:2:29
      |
    2 |   - { name: r, when: 'model["gpt-6-lunna"].available', use: gpt-6-luna }
      |                             ^^^^^^^^^^^^^
      = help: did you mean `gpt-6-luna`?
    "###);
}

#[test]
fn a_rule_that_is_never_reached_is_told_with_the_one_before_it() {
    insta::assert_snapshot!(
        shown("routes:\n  - { name: all, use: gpt-6-luna }\n  - { name: late, when: request.stream, use: gpt-6-luna }\n"),
        @r###"
    error: rule `late` is never reached
     --> a.yaml:3:13
      |
    3 |   - { name: late, when: request.stream, use: gpt-6-luna }
      |             ^^^^
      = first at a.yaml:2:13
      = help: rule `all` before it matches every request; move it to the end
    "###
    );
    insta::assert_snapshot!(rule("when: 'false', use: gpt-6-luna"), @r###"
    warning: this condition never holds
     --> a.yaml:2:22
      |
    2 |   - { name: r, when: 'false', use: gpt-6-luna }
      |                      ^^^^^^^
    "###);
}

#[test]
fn what_a_rule_cannot_do_is_told() {
    insta::assert_snapshot!(rule("use: gpt-6-luna, split: { gpt-6-luna: 1 }"), @r###"
    error: rule `r` has both `use` and `split`
     --> a.yaml:2:13
      |
    2 |   - { name: r, use: gpt-6-luna, split: { gpt-6-luna: 1 } }
      |             ^
      = help: a rule does one thing; make it two rules
    "###);
    insta::assert_snapshot!(rule("split: { gpt-6-luna: 0, gpt-6.1-sol: 0 }"), @r###"
    error: the weights of split `r` add up to 0
     --> a.yaml:2:23
      |
    2 |   - { name: r, split: { gpt-6-luna: 0, gpt-6.1-sol: 0 } }
      |                       ^
      = help: give at least one model a weight above 0
    "###);
    insta::assert_snapshot!(rule("attempts: 0"), @r###"
    error: attempts must be 1 to 10, not 0
     --> a.yaml:2:26
      |
    2 |   - { name: r, attempts: 0 }
      |                          ^
    "###);
    insta::assert_snapshot!(rule("attempts: 11"), @r###"
    error: attempts must be 1 to 10, not 11
     --> a.yaml:2:26
      |
    2 |   - { name: r, attempts: 11 }
      |                          ^^
    "###);
    insta::assert_snapshot!(rule("deadline: 0s"), @r###"
    error: `deadline` must be more than 0
     --> a.yaml:2:26
      |
    2 |   - { name: r, deadline: 0s }
      |                          ^^
    "###);
    insta::assert_snapshot!(rule("set: { model: gpt-6-luna }"), @r###"
    error: `set` cannot change `model`
     --> a.yaml:2:21
      |
    2 |   - { name: r, set: { model: gpt-6-luna } }
      |                     ^
      = help: use `use`
    "###);
    insta::assert_snapshot!(rule("sticky: user, use: gpt-6-luna"), @r###"
    error: rule `r` has `sticky` without `split`
     --> a.yaml:2:13
      |
    2 |   - { name: r, sticky: user, use: gpt-6-luna }
      |             ^
    "###);
    insta::assert_snapshot!(shown("routes:\n  - { name: default, use: gpt-6-luna }\n"), @r###"
    error: `default` is what requests without a rule are called
     --> a.yaml:2:13
      |
    2 |   - { name: default, use: gpt-6-luna }
      |             ^^^^^^^
      = help: choose another name
    "###);
    insta::assert_snapshot!(shown("routes:\n  - { name: 'a b', use: gpt-6-luna }\n"), @r###"
    error: `a b` cannot be the name of a rule
     --> a.yaml:2:13
      |
    2 |   - { name: 'a b', use: gpt-6-luna }
      |             ^^^^^
      = help: use 1 to 64 letters, digits and - _ . : /
    "###);
}

#[test]
fn documents_that_cannot_be_looked_into_are_told() {
    for good in [
        "retrieve: { source: docs }",
        "retrieve: { source: a.b-c_1, top_k: 100, max_tokens: 100, timeout: 250ms }",
        "retrieve: { source: docs, filter: { url_prefix: 'https://a/', metadata: { n: 1, b: true, t: x } } }",
    ] {
        assert_eq!(rule(good), "", "{good}");
    }
    // What is wrong, and where it begins.
    for (keys, message, marked) in [
        ("retrieve: { source: docs, top: 3 }", "unknown key `top`", "top: 3"),
        ("retrieve: { top_k: 3 }", "the key `source` is missing", ""),
        ("retrieve: docs", "`retrieve` must be a mapping", "docs"),
        ("retrieve: { source: 'a b' }", "`a b` cannot be the name of a source", "'a b'"),
        ("retrieve: { source: '' }", "`` cannot be the name of a source", "''"),
        ("retrieve: { source: docs, top_k: 0 }", "top_k must be 1 to 100, not 0", "0 }"),
        ("retrieve: { source: docs, top_k: many }", "`top_k` must be a whole number", "many"),
        (
            "retrieve: { source: docs, max_tokens: 99 }",
            "max_tokens must be 100 to 2000000, not 99",
            "99 }",
        ),
        ("retrieve: { source: docs, timeout: 0s }", "`timeout` must be more than 0", "0s"),
        (
            "retrieve: { source: docs, filter: { metadata: { a: [1] } } }",
            "metadata `a` is compared with no text, number, true or false",
            "{ a:",
        ),
        (
            "reject: { message: no }, retrieve: { source: docs }",
            "rule `r` has both `retrieve` and `reject`",
            "{ source",
        ),
        (
            "set: { input: x }, retrieve: { source: docs }",
            "`set` of `input` replaces the conversation",
            "{ source",
        ),
    ] {
        let found = rule(keys);
        let line = format!("  - {{ name: r, {keys} }}");
        let column = line.rfind(marked).filter(|_| !marked.is_empty()).map(|at| at + 1);
        let place = column.map_or("a.yaml:2:".to_owned(), |column| format!("a.yaml:2:{column}\n"));
        assert_parts(keys, &found, &["error: ", message, &format!("--> {place}")]);
    }
}

#[test]
fn a_choice_among_nothing_is_told() {
    insta::assert_snapshot!(rule("cheapest: { of: [] }"), @r###"
    error: `of` is empty
     --> a.yaml:2:26
      |
    2 |   - { name: r, cheapest: { of: [] } }
      |                          ^
      = help: name the models to choose from
    "###);
    insta::assert_snapshot!(rule("cheapest: { of: [gpt-6-luna], min_quality: 0.5 }"), @r###"
    error: none of these models has the `quality` that min_quality asks for
     --> a.yaml:2:26
      |
    2 |   - { name: r, cheapest: { of: [gpt-6-luna], min_quality: 0.5 } }
      |                          ^
      = help: set `quality` under `models`
    "###);
    insta::assert_snapshot!(rule("fastest: { of: [gpt-6-luna], min_quality: 7 }"), @r###"
    error: min_quality 7 is not within 0 to 1
     --> a.yaml:2:58
      |
    2 |   - { name: r, fastest: { of: [gpt-6-luna], min_quality: 7 } }
      |                                                          ^
    error: none of these models has the `quality` that min_quality asks for
     --> a.yaml:2:25
      |
    2 |   - { name: r, fastest: { of: [gpt-6-luna], min_quality: 7 } }
      |                         ^
      = help: set `quality` under `models`
    "###);
    insta::assert_snapshot!(
        shown("models:\n  m: { context: 9 }\nroutes:\n  - { name: r, cheapest: { of: [m] } }\n"),
        @r###"
    warning: model `m` has no price: its calls are unpriced
     --> a.yaml:4:33
      |
    4 |   - { name: r, cheapest: { of: [m] } }
      |                                 ^
      = help: set `price` under `models`
    error: none of these models has a price, so none is the cheapest
     --> a.yaml:4:26
      |
    4 |   - { name: r, cheapest: { of: [m] } }
      |                          ^
      = help: set `price` under `models`
    "###
    );
}

#[test]
fn a_cycle_of_fallbacks_or_successors_is_told() {
    insta::assert_snapshot!(rule("use: gpt-6-luna, fallback: [gpt-6.1-sol, gpt-6-luna]"), @r###"
    error: `gpt-6-luna` falls back on itself: a cycle
     --> a.yaml:2:57
      |
    2 |   - { name: r, use: gpt-6-luna, fallback: [gpt-6.1-sol, gpt-6-luna] }
      |                                                         ^^^^^^^^^^
      = help: name each model once
    "###);
    insta::assert_snapshot!(
        shown("models:\n  a: { as: gpt-6-luna, successor: b }\n  b: { as: gpt-6-luna, successor: a }\n"),
        @r###"
    error: the successors of `b` form a cycle
     --> a.yaml:2:35
      |
    2 |   a: { as: gpt-6-luna, successor: b }
      |                                   ^
      = help: let the last of them have no successor
    error: the successors of `a` form a cycle
     --> a.yaml:3:35
      |
    3 |   b: { as: gpt-6-luna, successor: a }
      |                                   ^
      = help: let the last of them have no successor
    "###
    );
    insta::assert_snapshot!(shown("models:\n  gpt-5: { successor: gpt-6.1-tera }\n"), @r###"
    error: unknown model `gpt-6.1-tera`
     --> a.yaml:2:23
      |
    2 |   gpt-5: { successor: gpt-6.1-tera }
      |                       ^^^^^^^^^^^^
      = help: did you mean `gpt-6.1-terra`?
    "###);
}

#[test]
fn a_model_near_its_end_is_a_warning_unless_it_has_a_successor() {
    let used = "routes:\n  - { name: r, use: gpt-5 }\n";
    // gpt-5 is shut down on 2026-12-11. Days since 1970 of 2026-12-01, and of 2027-01-01.
    let on =
        |today, yaml: &str| shown_by(yaml, &Settings { today: Some(today), ..Settings::default() });
    insta::assert_snapshot!(on(20_788, used), @r###"
    warning: model `gpt-5` will be shut down on 2026-12-11, in 10 days
     --> a.yaml:2:21
      |
    2 |   - { name: r, use: gpt-5 }
      |                     ^^^^^
      = help: use another model, or name a `successor` under `models`
    "###);
    insta::assert_snapshot!(on(20_819, used), @r###"
    warning: model `gpt-5` was shut down on 2026-12-11
     --> a.yaml:2:21
      |
    2 |   - { name: r, use: gpt-5 }
      |                     ^^^^^
      = help: use another model, or name a `successor` under `models`
    "###);
    assert_eq!(on(20_700, used), "");
    let followed = format!("models:\n  gpt-5: {{ successor: gpt-6.1-terra }}\n{used}");
    assert_eq!(on(20_788, &followed), "");
}

#[test]
fn an_upstream_that_cannot_be_used_is_told() {
    let upstream = |keys: &str| shown(&format!("upstreams:\n  a: {{ {keys} }}\n"));
    insta::assert_snapshot!(upstream("base_url: 'ftp://h'"), @r###"
    error: base_url `ftp://h` has no http or https host
     --> a.yaml:2:18
      |
    2 |   a: { base_url: 'ftp://h' }
      |                  ^^^^^^^^^
      = help: write it as https://host[:port]/v1
    "###);
    insta::assert_snapshot!(upstream("base_url: 'http://u:p@h/'"), @r###"
    error: base_url holds a user name or password
     --> a.yaml:2:18
      |
    2 |   a: { base_url: 'http://…@h/' }
      |                  ^^^^^^^^^^^^^^^
      = help: use `api_key` instead
    "###);
    insta::assert_snapshot!(upstream("base_url: 'http://h', max_in_flight: 0"), @r###"
    error: `max_in_flight` 0 lets no call through
     --> a.yaml:2:45
      |
    2 |   a: { base_url: 'http://h', max_in_flight: 0 }
      |                                             ^
      = help: write 1 or more, or leave it out
    "###);
    insta::assert_snapshot!(upstream("base_url: 'http://h', timeouts: { idle: 0s }"), @r###"
    error: `idle` must be more than 0
     --> a.yaml:2:48
      |
    2 |   a: { base_url: 'http://h', timeouts: { idle: 0s } }
      |                                                ^^
    "###);
    insta::assert_snapshot!(upstream("base_url: 'http://h', api_key: k, api_key_file: f"), @r###"
    error: both `api_key` and `api_key_file` are set; keep one
     --> a.yaml:2:56
      |
    2 |   a: { base_url: 'http://h', api_key: …
      |                                                        ^
    "###);
    insta::assert_snapshot!(upstream("base_url: 'http://h', api_key_file: /nowhere/key"), @r###"
    error: cannot read `api_key_file` /nowhere/key: No such file or directory (os error 2)
     --> a.yaml:2:44
      |
    2 |   a: { base_url: 'http://h', api_key_file: /nowhere/key }
      |                                            ^^^^^^^^^^^^
      = help: check the path and its permissions
    "###);
    let device = upstream("base_url: 'http://h', api_key_file: /dev/zero");
    assert_parts("a device", &device, &["/dev/zero", "no regular file"]);
}

#[test]
fn a_variable_that_is_not_set_is_an_error_but_for_a_key() {
    insta::assert_snapshot!(shown("upstreams:\n  a: { base_url: 'https://${HOST}/v1' }\n"), @r###"
    error: `base_url` needs the environment variable HOST, which is not set
     --> a.yaml:2:18
      |
    2 |   a: { base_url: 'https://${HOST}/v1' }
      |                  ^^^^^^^^^^^^^^^^^^^^
      = help: set HOST, or write the value itself
    "###);
    assert_eq!(shown("upstreams:\n  a: { base_url: 'https://h/v1', api_key: '${NOPE}' }\n"), "");
}

#[test]
fn the_value_of_a_variable_is_in_no_message() {
    let settings = env(&[("SECRET", "sk-canary value")]);
    for yaml in [
        "upstreams:\n  a: { base_url: '${SECRET}' }\n",
        "upstreams:\n  a: { base_url: 'ftp://${SECRET}' }\n",
        "upstreams:\n  a: { base_url: 'http://h', api_key: '${SECRET}' }\n",
        "upstreams:\n  a: { base_url: 'http://h', api_key_file: '${SECRET}' }\n",
        "hooks:\n  - { url: '${SECRET}', events: [policy.rejected] }\n",
        "hooks:\n  - { url: 'http://h', secret_file: '${SECRET}', events: [policy.rejected] }\n",
    ] {
        let found = shown_by(yaml, &settings);
        assert!(found.contains("error: ") && !found.contains("canary"), "{yaml}: {found}");
    }
}

#[test]
fn limits_that_nobody_can_mean_are_refused_where_they_stand() {
    for (entry, message) in [
        ("per: keys, requests: 5/min", "unknown `per` `keys`"),
        ("requests: -1/min", "`-1/min` is no rate; write it as 600/min"),
        ("requests: 0/min", "`0/min` is no rate; write it as 600/min"),
        ("tokens: 9000000000000/min", "`tokens` of 9000000000000 is not between 1 and"),
        ("concurrent: 0", "`concurrent` of 0 is not between 1 and"),
        ("budget: { usd: -5, every: day }", "`-5` is no amount above 0 in USD"),
        ("budget: { usd: 0, every: day }", "`0` is no amount above 0 in USD"),
        ("budget: { usd: 1e9, every: day }", "a budget of 1000000000 USD is more than 100000000"),
        ("budget: { usd: 1, every: year }", "`every` cannot be `year`"),
        ("requests: 5/min, on_redis_down: wait", "`on_redis_down` cannot be `wait`"),
        ("requests: 5/min, on_budget: { downgrade: gpt-4.1-mini }", "has `on_budget` without"),
        (
            "budget: { usd: 1, every: day }, on_budget: { downgrade: gpt-99 }",
            "unknown model `gpt-99`",
        ),
        ("match: 'model[\"gpt-99\"].available', requests: 1/min", "unknown model `gpt-99`"),
        ("match: key.team == 5, requests: 1/min", ""),
        ("per: key", "limit `l` limits nothing"),
    ] {
        let found = shown(&format!("limits:\n  - {{ name: l, {entry} }}\n"));
        assert!(found.contains("error: ") && found.contains(message), "{entry}: {found}");
        assert!(found.contains("--> a.yaml:2:"), "{entry}: {found}");
    }
    insta::assert_snapshot!(shown("limits:\n  - { name: l, concurrent: -3 }\n"), @r"
    error: `concurrent` must be a whole number, 0 or more, not `-3`
     --> a.yaml:2:28
      |
    2 |   - { name: l, concurrent: -3 }
      |                            ^^
    ");
}

#[test]
fn a_limit_that_a_tighter_one_makes_pointless_is_warned_of() {
    let warned = |entries: &str| shown(&format!("limits:\n{entries}"));
    let all = "  - { name: all, per: key, requests: 100/min }\n";
    let some = "  - { name: some, match: key.team == \"a\", requests: 600/min }\n";
    for entries in [format!("{all}{some}"), format!("{some}{all}")] {
        let found = warned(&entries);
        let sentence = "warning: `requests` of limit `some` never decides: limit `all` is tighter";
        assert!(found.contains(sentence), "{found}");
    }
    let budget = |name: &str, usd: u64, every: &str| {
        format!("  - {{ name: {name}, budget: {{ usd: {usd}, every: {every} }} }}\n")
    };
    // A day's ten are gone within the hour that may take twenty.
    let found = warned(&(budget("hourly", 20, "hour") + &budget("daily", 10, "day")));
    assert!(found.contains("`budget` of limit `hourly` never decides"), "{found}");
    assert_eq!(warned(&(budget("hourly", 2, "hour") + &budget("daily", 10, "day"))), "");
    // Other callers, or other calls counted together: both count.
    let team = "  - { name: team, per: team, requests: 600/min }\n";
    assert_eq!(warned(&format!("{all}{team}")), "");
}

#[test]
fn what_is_kept_and_who_is_told_is_checked() {
    insta::assert_snapshot!(shown("capture:\n  - { redact: [secret] }\n"), @r###"
    error: unknown `secret`
     --> a.yaml:2:16
      |
    2 |   - { redact: [secret] }
      |                ^^^^^^
      = help: did you mean `secrets`? Known here are secrets, pii
    "###);
    insta::assert_snapshot!(shown("hooks:\n  - { url: 'https://h', events: [policy.rejcted] }\n"), @r###"
    error: unknown event `policy.rejcted`
     --> a.yaml:2:34
      |
    2 |   - { url: 'https://h', events: [policy.rejcted] }
      |                                  ^^^^^^^^^^^^^^
      = help: did you mean `policy.rejected`?
    "###);
}

#[test]
fn broken_yaml_is_told_in_a_sentence() {
    insta::assert_snapshot!(shown("upstreams: [\n"), @r###"
    error: `upstreams` must be a mapping, `{ key: value }`, not `[`
     --> a.yaml:1:12
      |
    1 | upstreams: [
      |            ^
    "###);
    insta::assert_snapshot!(shown("routes:\n  - name: 'x\n"), @r###"
    error: unclosed quote
     --> a.yaml:2:11
      |
    2 |   - name: 'x
      |           ^^
    "###);
    insta::assert_snapshot!(shown("routes: []\n---\nroutes: []\n"), @r###"
    error: a file holds one document
     --> a.yaml:2:1
      |
    2 | ---
      | ^^^
      = help: take the `---` out, or make it two files
    "###);
    insta::assert_snapshot!(shown("routes: *nobody\n"), @r###"
    error: `*nobody` names no anchor before it
     --> a.yaml:1:9
      |
    1 | routes: *nobody
      |         ^^^^^^^
    "###);
    insta::assert_snapshot!(shown("just words\n"), @r###"
    error: here must be a mapping, `{ key: value }`, not `just`
     --> a.yaml:1:1
      |
    1 | just words
      | ^^^^
    "###);
}

#[test]
fn a_file_of_10_mb_is_refused() {
    let long = format!("#{}", "x".repeat(10 << 20));
    let found = shown(&long);
    let expected = "error: a.yaml is larger than 1 MiB, the limit of a policy file\n  = help: split it into several files\n";
    assert_eq!(found, expected);
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut yaml = "routes:\n  - name: r\n    set:\n      a0: &a0 [x]\n".to_owned();
    for level in 1..=9 {
        // Ten times what the level before it holds: 10^9 in the end.
        let many = format!("*a{}, ", level - 1).repeat(10);
        yaml.push_str(&format!("      a{level}: &a{level} [{many}]\n"));
    }
    assert_parts("a bomb", &shown(&yaml), &["error: this file has more than 100000 values"]);
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!(
        "routes:\n  - name: r\n    set: {{ x: {}{} }}\n",
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    assert_parts("5,000 lists", &shown(&deep), &["more than 32 mappings and lists in each other"]);
}

#[test]
fn ten_thousand_rules_are_refused() {
    let rules: String = (0..10_000)
        .map(|n| format!("  - {{ name: r{n}, when: request.stream, use: gpt-6-luna }}\n"))
        .collect();
    assert!(rules.len() < 1 << 20);
    let found = shown(&format!("routes:\n{rules}"));
    assert_parts("10,000 rules", &found, &["error: "]);
    let per_file = 1_000;
    let files: Vec<(String, String)> = (0..10)
        .map(|file| {
            let rules: String = (0..per_file)
                .map(|n| {
                    format!("  - {{ name: r{file}-{n}, when: request.stream, use: gpt-6-luna }}\n")
                })
                .collect();
            (format!("{file}.yaml"), format!("routes:\n{rules}"))
        })
        .collect();
    let files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let checked = check(&files, &Settings::default());
    let found: String = checked.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        "error: there are 10000 rules; the limit is 2000\n  = help: put them together\n"
    );
    assert!(check(&files[..2], &Settings::default()).policy.is_some());
}

#[test]
fn a_condition_of_5_kib_is_refused() {
    let long = format!("request.model == \"{}\"", "x".repeat(5 << 10));
    let found = rule(&format!("when: '{long}', use: gpt-6-luna"));
    assert_parts("5 KiB", &found, &["error: ", "--> a.yaml:2:"]);
}

#[test]
fn every_mistake_of_a_folder_is_told_at_once() {
    let yaml = "models:\n  m: { upstream: nobody, quality: 2 }\nroutes:\n  - { name: a, use: gpt-7 }\n  - { name: b, attempts: 0 }\n";
    let checked = check(
        &[("a.yaml", yaml), ("b.yaml", "routes: 7\n"), ("c.yaml", WORKS)],
        &Settings::default(),
    );
    let lines: Vec<_> = checked
        .diagnostics
        .iter()
        .map(|found| found.place.as_ref().map(|place| (place.file.as_str(), place.line)))
        .collect();
    assert!(checked.policy.is_none());
    for place in [("b.yaml", 1), ("a.yaml", 2), ("a.yaml", 4), ("a.yaml", 5)] {
        assert!(lines.contains(&Some(place)), "{place:?} in {lines:?}");
    }
}

#[test]
fn a_fallback_that_would_hand_the_callers_key_to_another_provider_is_a_warning() {
    let yaml = |key: &str| {
        format!(
            "upstreams:\n  openai: {{ base_url: 'http://a/v1' }}\n  \
             other: {{ base_url: 'http://b/v1'{key} }}\nmodels:\n  spare: {{ upstream: other, as: gpt-4.1 }}\n\
             routes:\n  - {{ name: r, use: gpt-4.1, fallback: [spare] }}\n"
        )
    };
    let parts =
        ["warning: falling back on `spare` sends the caller's own key to `other`", "a.yaml:7"];
    assert_parts("no key", &shown(&yaml("")), &parts);
    assert_eq!(shown(&yaml(", api_key: k")), "");
}
