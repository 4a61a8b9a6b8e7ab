//! What is refused when policies load, with what words, and where.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// Every refusal as the operator reads it: the place, the message, the help.
fn refused(source: &str) -> String {
    let Err(complaints) = Expression::compile(source) else { panic!("{source} was accepted") };
    let mut said = String::new();
    for Complaint { span, message, help } in complaints {
        let place = source.get(span).unwrap();
        write!(said, "[{place}] {message}").unwrap();
        if let Some(help) = help {
            write!(said, " ({help})").unwrap();
        }
        said.push('\n');
    }
    said
}

#[test]
fn refusals_say_what_is_wrong_where_and_the_cure() {
    let sources = [
        // Names
        "request.modle == 'a'",
        "stream",
        "request",
        "request.foo",
        "price > 3",
        "tokns.prompt > 5",
        "request.model.x == 'a'",
        "model['a'].p95 > 1.0",
        "model['a'].foo",
        "model.a.p95_ms > 1.0",
        "model['a']",
        "model[request.model].available",
        "tag['a b'] == 'x'",
        "tag[1] == 'x'",
        "key.tags.x",
        // Functions
        "key.tags.exists(t, t == 'a')",
        "key.tags.all(t, t == 'a')",
        "key.tags.exists_one(t, t == 'a')",
        "key.tags.map(t, t)[0] == 'a'",
        "key.tags.filter(t, true).size() > 0",
        "foo(1)",
        "request.model.startWith('a')",
        "contains(request.model, 'a')",
        "request.model.contains(1)",
        "request.model.contains('a', 'b')",
        "has(request.model)",
        "has(tag['x'])",
        "has(tag)",
        "has(key.tags.x)",
        "size(1) > 0",
        "size(tag) > 0",
        "int(request.stream) > 0",
        "string(key.tags) == ''",
        "request.model.matches('(')",
        "request.model.matches('[z-a]')",
        "request.model.matches(key.team)",
        "timestamp('x') > 1",
        "type(1) == int",
        // Types
        "tokens.prompt > 'x'",
        "request.model == 5",
        "request.stream < true",
        "request.stream && 1",
        "!request.model",
        "-request.model == 'a'",
        "tokens.prompt + 1.5 > 2.0",
        "1.5 % 1.0 == 0.0",
        "request.model",
        "1u + 1u == 2u",
        "request.model in 'gpt'",
        "1 in ['a']",
        "'a' in [1, 'a']",
        "'a' in []",
        "true in [true]",
        "key.tags == ['a']",
        "key.tags['a'] == 'x'",
        "request.model[0] == 'g'",
        "request.stream ? 1 : 'a'",
        "request.stream ? key.tags : key.tags",
        "tag == tag",
        // Literals
        "null == null",
        "b'a' == b'a'",
        "{'a': 1}['a'] == 1",
        "a{b: 1} == 1",
        "9223372036854775808 > 1",
        "18446744073709551615u > 1",
        "1e999 > 1.0",
        "9223372036854775807 + 1 > 0",
        "1 / 0 > 0",
        "-(-9223372036854775808) > 0",
        // Several at once
        "foo == 1 && 'a' > 1 && bar",
        "(foo + 1) * 2 > size(3) || key.tags",
        "(time.hour + 1) * 2 > 'x'",
        "'äöü' == time.hour",
    ];
    let said: String =
        sources.iter().map(|source| format!("{source}\n{}\n", refused(source))).collect();
    insta::assert_snapshot!(said);
}

#[test]
fn wrong_syntax_is_one_clear_sentence() {
    let sources = [
        "",
        "  \n",
        "// nothing",
        "a ==",
        "(a",
        "a)",
        "a b",
        "\"abc",
        "tag[\"app]",
        "tag[app",
        "@",
        "a = b",
        "a & b",
        "a | b",
        "x and y",
        "not x",
        "a <> b",
        "a === b",
        "== 3",
        "[1,",
        "x.",
        "f(a,)",
        "a ? b",
        "if",
        "a.`b`",
        "a.?b",
        "a[?b]",
        "'a\\qb'",
        "'\\ud800' == ''",
        "tokens.prompt > 200_000",
        "tokens.prompt > 200k",
        "'é' ==\n  'é' == ü",
        "ä.x",
    ];
    let said: String =
        sources.iter().map(|source| format!("{source}\n{}\n", refused(source))).collect();
    insta::assert_snapshot!(said);
}

#[test]
fn four_kibibytes_are_the_most() {
    let padded = |length: usize| format!("true{}", " ".repeat(length - 4));
    assert!(Expression::compile(&padded(4_096)).is_ok());
    let wrong = Expression::compile(&padded(4_097)).unwrap_err();
    assert_eq!(wrong[0].message, "the condition has 4097 bytes, 4096 are allowed");
}

#[test]
fn long_conditions_that_are_flat_are_fine() {
    let models = "request.model == \"gpt-5\" || ".repeat(140) + "false";
    assert_eq!(eval(&models), Ok(true));
    let list = format!("request.model in [{}\"gpt-5\"]", "\"a\", ".repeat(800));
    assert_eq!(eval(&list), Ok(true));
}

#[test]
fn deep_nesting_is_refused() {
    let brackets = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(eval(&brackets(30)), Ok(true));
    let chain = |length: usize| format!("1{} > 0", " + 1".repeat(length));
    assert_eq!(eval(&chain(60)), Ok(true));
    let choices = |count: usize| "request.json_schema ? true : ".repeat(count) + "true";
    assert_eq!(eval(&choices(30)), Ok(true));
    for deep in [brackets(40), chain(70), choices(40)] {
        let wrong = Expression::compile(&deep).unwrap_err();
        assert_eq!(wrong[0].message, "the condition is nested too deeply", "{deep}");
    }
}

#[test]
fn four_kibibytes_of_anything_are_answered() {
    for unit in [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "1+",
        "1==",
        "<",
        "a&&",
        "a||",
        "a&&b||",
        "!",
        "-",
        "- ",
        "a.",
        "a[",
        "[0]",
        "f(",
        ".f()",
        "a?b:",
        "a?",
        "\"",
        "'",
        "'''",
        "@",
        "@ a ",
        "1,",
        "a ",
        "`",
        "a in ",
        "\u{1f600}",
        "a{b:",
        "(a+[b?c:",
        "a.b[c](d,",
        "\\",
        "/",
        "//",
        "\n",
        "\0",
        "r'",
        "\"\\",
        "0x",
        "1e",
        "9",
        "a\n",
        "[[1]][",
        "!(",
        "-(",
        "has(",
        "size(",
        "tag[",
        "model['a'].",
        "request.",
        "request.model.contains(",
        "'a'+",
        "x?(",
    ] {
        for text in [unit.repeat(4_096 / unit.len()), unit.repeat(30)] {
            // Whatever it says, it says it, within its text.
            if let Err(wrong) = Expression::compile(&text) {
                assert!(!wrong.is_empty(), "{unit}");
                assert!(wrong.iter().all(|one| text.get(one.span.clone()).is_some()), "{wrong:?}");
            }
        }
    }
}

/// Pieces that conditions are made of, right and wrong.
const PIECES: &[&str] = &[
    "request",
    ".",
    "model",
    "[",
    "]",
    "(",
    ")",
    "\"a\"",
    "'b",
    "\"",
    "tokens.prompt",
    ">",
    "<=",
    "==",
    "&&",
    "||",
    "!",
    "?",
    ":",
    "1",
    "2.5",
    "3u",
    "-",
    "+",
    "%",
    "/",
    "in",
    "key.tags",
    "tag",
    "header",
    "has",
    "size",
    "matches",
    "contains",
    ",",
    "{",
    "}",
    "true",
    " ",
    "\n",
    "//",
    "é",
    "\u{1f600}",
    "\\",
    "`",
    "r\"",
    "'''",
    "b'",
    "0x",
    "null",
    "exists",
    "e9",
    "9223372036854775807",
    "if",
    "@",
    "request.model",
    "metadata",
    "time.hour",
    "importance",
];

fn answers(text: &str) -> Result<(), TestCaseError> {
    match Expression::compile(text) {
        Ok(compiled) => {
            with_facts(|facts| {
                let _any_result = compiled.eval(facts);
                let shown = compiled.inputs(facts);
                prop_assert!(shown.iter().all(|(_, value)| !value.is_empty()));
                Ok(())
            })?;
            for (_, span) in compiled.models() {
                prop_assert!(text.get(span).is_some());
            }
        }
        Err(complaints) => {
            prop_assert!(!complaints.is_empty());
            prop_assert!(complaints.is_sorted_by_key(|complaint| complaint.span.start));
            for complaint in complaints {
                prop_assert!(text.get(complaint.span.clone()).is_some(), "{complaint:?}");
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}") {
        answers(&text)?;
    }

    #[test]
    fn any_pieces_are_answered(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24)) {
        answers(&pieces.concat())?;
        answers(&pieces.join(" "))?;
    }
}
