use proptest::prelude::*;

use super::*;
use crate::openai::fuzzed;

#[test]
fn a_run_ends_at_the_first_byte_that_cannot_stand_for_itself() {
    for stop in [b'"', b'\\', 0x00, 0x1F] {
        for length in (0..150).chain(4090..4140) {
            let mut text = vec![b'a'; length];
            text.push(stop);
            text.extend([0xFF, b'"', 0x01, b' ', 0x80, 0x21, 0x23]);
            assert_eq!(plain(&text, &mut 0), length, "{stop:#x} behind {length}");
        }
    }
}

#[test]
fn depth_counts_the_outermost_object() {
    // `{"a":` is one level, so 199 arrays fit.
    let nested = |arrays: usize| {
        format!("{{\"a\":{}{}}}", "[".repeat(arrays), "]".repeat(arrays)).into_bytes()
    };
    assert!(members(&nested(199)).is_ok());
    let fault = members(&nested(200)).unwrap_err();
    assert_eq!(fault.what, "nested deeper than the limit of 200 levels");
    assert_eq!(fault.at, 5 + 199);
    assert!(members(&nested(100_000)).is_err());
}

#[test]
fn what_closes_a_level_must_be_what_opened_it_at_any_depth() {
    for kinds in [[true, false], [false, true], [true, true], [false, false]] {
        let open: String =
            (0..199).map(|depth| if kinds[depth % 2] { "{\"a\":" } else { "[" }).collect();
        let close: Vec<_> = (0..199)
            .rev()
            .map(|depth| if kinds[depth % 2] { ",\"b\":0}" } else { ",0]" })
            .collect();
        let text = format!("{{\"x\":{open}1{}}}", close.concat());
        assert!(members(text.as_bytes()).is_ok(), "{kinds:?}");
        for wrong in 0..199 {
            let mut close = close.clone();
            close[wrong] = if close[wrong] == ",0]" { ",0}" } else { ",\"b\":0]" };
            let text = format!("{{\"x\":{open}1{}}}", close.concat());
            assert!(members(text.as_bytes()).is_err(), "{kinds:?} {wrong}");
        }
    }
}

#[test]
fn a_byte_that_is_no_utf8_is_found_wherever_it_stands_in_a_string() {
    for at in 0..150 {
        let mut text = [&b"{\"a\":\""[..], &[b'x'; 150], b"\"}"].concat();
        text[6 + at] = 0xFF;
        let fault = Fault { at: 6 + at, what: "the text is not valid UTF-8" };
        assert_eq!(members(&text).unwrap_err(), fault);
    }
}

#[test]
fn members_know_their_places() {
    let text = br#" { "a" : [1, {"b":2}] , "c\n":"d" } "#;
    let found = members(text).unwrap();
    let shown: Vec<_> =
        found.list.iter().map(|m| (m.name.of(text), m.value.of(text), m.escaped)).collect();
    assert_eq!(
        shown,
        [(&b"a"[..], &b"[1, {\"b\":2}]"[..], false), (&b"c\\n"[..], &b"\"d\""[..], true)]
    );
    assert_eq!(text[found.end..], *b" } ");
}

proptest! {
    #[test]
    fn a_run_is_what_a_byte_by_byte_search_finds(
        text in prop::collection::vec(prop_oneof![8 => 0x20u8..=0xFF, 1 => any::<u8>()], 0..200)
    ) {
        let slow = text.iter().position(|byte| ends_run(*byte)).unwrap_or(text.len());
        let mut high = 0;
        prop_assert_eq!(plain(&text, &mut high), slow);
        // What was passed over was looked at.
        prop_assert!(text[..slow].is_ascii() || high & HIGHS != 0);
    }
}

#[test]
fn an_answer_is_passed_over_by_its_brackets_and_quotes() {
    let text =
        br#"{"a":[{"x":"}]\"\\"},{}, [[ ]] , -1.5e3,true],"usage":{"n":[1]},"b":"]}\\","c":null}"#;
    let (found, inner) = answer_with(text, b"usage").unwrap();
    assert_eq!(found.list, members(text).unwrap().list);
    assert_eq!(inner.unwrap().list[0].value.of(text), b"[1]");
    for cut in 1..text.len() {
        assert!(answer_with(&text[..cut], b"usage").is_err(), "{cut}");
    }
    // What is counted by is judged.
    assert!(answer_with(br#"{"usage":{"n":[1}}"#, b"usage").is_err());
    for bad in [r#"{"a":}"#, r#"{"a":]}"#, r#"{"a":?}"#, r#"{"a":1 2}"#, r#"{"a":[}"#, r#"{"a":"\"#]
    {
        assert!(answer_with(bad.as_bytes(), b"").is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn passing_over_values_finds_the_same_places(
        (_, body) in fuzzed::body(), changes in fuzzed::changes()
    ) {
        let strict = members(&body).unwrap();
        prop_assert_eq!(answer_with(&body, b"").unwrap().0.list, strict.list);
        // Whatever the provider sends, it ends; and what is right is read as it is.
        let changed = fuzzed::changed(body, &changes);
        let passed = answer_with(&changed, b"usage");
        if let Ok(strict) = members(&changed) {
            prop_assert_eq!(passed.unwrap().0.list, strict.list);
        }
    }
}
