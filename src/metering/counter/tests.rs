//! The counter beside tiktoken-rs, whose encoder is the one that defines the encodings.

use proptest::prelude::Strategy;
use proptest::prop_assert_eq;
use tiktoken_rs::CoreBPE;

use super::*;

const ALL: [Family; FAMILIES] = [Family::O200k, Family::Cl100k, Family::P50k, Family::R50k];

fn oracle(family: Family) -> &'static CoreBPE {
    match family {
        Family::O200k => tiktoken_rs::o200k_base_singleton(),
        Family::Cl100k => tiktoken_rs::cl100k_base_singleton(),
        Family::P50k => tiktoken_rs::p50k_base_singleton(),
        Family::R50k => tiktoken_rs::r50k_base_singleton(),
    }
}

fn count(family: Family, text: &str) -> usize {
    usize::try_from(family.count(text, u64::MAX).expect("no limit")).unwrap()
}

#[track_caller]
fn assert_as_tiktoken(text: &str) {
    for family in ALL {
        let expected = oracle(family).count_ordinary(text);
        assert_eq!(
            count(family, text),
            expected,
            "{family:?} {:?}",
            text.get(..200).unwrap_or(text)
        );
    }
}

/// Tokens in o200k, cl100k, p50k and r50k, from Python's tiktoken 0.14.0.
const FROZEN: &[(&str, [usize; FAMILIES])] = &[
    ("X'ſy", [4, 5, 5, 5]),
    ("it'ſ", [3, 4, 4, 4]),
    ("'K", [2, 2, 2, 2]),
    ("10 \u{212a}'s", [4, 4, 5, 5]),
    ("a\u{85}b", [4, 4, 4, 4]),
    ("a \u{85}\u{85} b", [6, 6, 6, 6]),
    ("\u{feff}Hello", [2, 2, 4, 4]),
    ("a\u{feff} b", [3, 3, 5, 5]),
    ("a\u{180e}b", [5, 5, 5, 5]),
    ("end of text   ", [4, 4, 4, 6]),
    ("end\n \n  ", [3, 3, 5, 6]),
    ("\n  x", [3, 3, 3, 3]),
    (" \n\n\t x", [3, 3, 4, 4]),
    ("ǅabc", [3, 3, 3, 3]),
    ("xǅ", [3, 3, 3, 3]),
    ("ʰello Aʰ", [6, 6, 6, 6]),
    ("\u{301}A", [2, 2, 3, 3]),
    ("\u{301} \u{301}a", [4, 4, 6, 6]),
    ("e\u{301}\u{301}x", [4, 4, 6, 6]),
    ("CamelCase'S", [3, 4, 5, 5]),
    ("HTTPServer'll've", [4, 4, 5, 5]),
    ("DON'T don'T", [4, 4, 6, 6]),
    ("//\n", [1, 1, 2, 2]),
    ("x //\n\n/", [3, 3, 5, 5]),
    ("+++\r\n\r\n", [2, 2, 5, 5]),
    ("<|endoftext|>", [7, 7, 7, 7]),
    ("<|fim_prefix|>a", [7, 8, 9, 9]),
    ("12345678", [3, 3, 3, 3]),
    ("٣٤٥٦", [4, 8, 8, 8]),
    ("  12", [3, 3, 2, 2]),
    ("'", [1, 1, 1, 1]),
    ("''s", [2, 2, 2, 2]),
    ("'S 'LL 'lL", [6, 6, 7, 7]),
    ("   ", [1, 1, 1, 3]),
    ("a\u{a0}\u{a0}b", [4, 4, 4, 4]),
    ("\u{3000}\u{3000}你好", [3, 4, 8, 8]),
    ("👩\u{200d}👩\u{200d}👧", [8, 13, 10, 10]),
    ("\u{0}\u{0}\u{0}", [2, 3, 3, 3]),
    ("\r\r\n \r", [3, 3, 5, 5]),
];

#[test]
fn texts_that_are_cut_in_surprising_places_count_as_in_tiktoken() {
    for (text, tokens) in FROZEN {
        assert_eq!(ALL.map(|family| count(family, text)), *tokens, "{text:?}");
        assert_as_tiktoken(text);
    }
}

#[test]
fn every_token_of_a_vocabulary_counts_as_in_tiktoken() {
    for family in ALL {
        for rank in 0..1 << 18 {
            let Ok(bytes) = oracle(family).decode_bytes(&[rank]) else { continue };
            let Ok(text) = str::from_utf8(&bytes) else { continue };
            assert_eq!(count(family, text), oracle(family).count_ordinary(text), "{text:?}");
        }
    }
}

#[test]
fn pieces_longer_than_a_window_count_as_in_tiktoken() {
    let words = "thequickbrownfoxjumpsoverthelazydogandrunsawayfromthehunter";
    let all_letters: String = ('a'..='z').chain('A'..='Z').chain('à'..='ÿ').collect();
    for unit in
        [" ", "\n", "\t ", "a", "ab", "-", "=-", "ABCd", "7", "你好世界", "é", words, &all_letters]
    {
        for bytes in [2047, 2049, 2310, 9000] {
            assert_as_tiktoken(&unit.repeat(bytes / unit.len() + 1));
            assert_as_tiktoken(&format!("{}x", unit.repeat(bytes / unit.len() + 1)));
        }
    }
}

#[test]
fn a_limit_is_told_from_the_count_at_the_token() {
    let text = "The quick brown fox jumps over the lazy dog, 1234567 times. ".repeat(20);
    for family in ALL {
        let tokens = family.count(&text, u64::MAX).unwrap();
        assert_eq!(family.count(&text, tokens), Some(tokens));
        assert_eq!(family.count(&text, tokens - 1), None);
        assert_eq!((family.count("", 0), family.count("a", 0)), (Some(0), None));
        // 1 MB can not be 100 tokens: o200k's longest has 128 bytes.
        assert_eq!(family.count(&"-".repeat(1_000_000), 100), None);
    }
}

#[test]
fn counting_allocates_nothing_after_the_first_call() {
    let word = "Pneumonoultramicroscopicsilicovolcanoconiosis";
    let text = format!("{}, {} {}\n", word.to_lowercase(), word, "你好世界".repeat(300)).repeat(9);
    for family in ALL {
        count(family, &text);
        let seen = allocation_counter::measure(|| assert!(count(family, &text) > 0));
        assert_eq!(seen.count_total, 0, "{family:?}");
    }
}

/// Characters of each class that the patterns know, and of those that are told apart with care.
const ALPHABET: &str = "abstdmrvelIXAZſKéÉßǅʰªº你好あアقيд\u{301}\u{903}\u{20dd}0189٣Ⅷ½²\
     '\u{2019}.,-_/\\{}\"€😀\u{200d}\u{fe0f}\u{feff}\u{180e}\u{0}\u{7f} \t\r\n\u{85}\u{a0}\u{2028}\u{3000}";

fn tricky_text() -> impl Strategy<Value = String> {
    let chars: Vec<char> = ALPHABET.chars().collect();
    let tricky = proptest::sample::select(chars);
    let spaces = proptest::sample::select(vec![' ', '\n', '\r', '\t', 'a', '\u{a0}']);
    let char = proptest::prop_oneof![6 => tricky, 2 => proptest::char::any(), 2 => spaces];
    proptest::collection::vec(char, 0..60).prop_map(|chars| chars.into_iter().collect())
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(3000))]
    #[test]
    fn any_text_counts_as_in_tiktoken(text in tricky_text()) {
        for family in ALL {
            prop_assert_eq!(count(family, &text), oracle(family).count_ordinary(&text), "{:?}", family);
        }
    }

    #[test]
    fn any_word_counts_as_in_tiktoken(word in "[a-zA-Z]{1,80}|[一-龥]{1,40}|[а-яё]{1,50}|[!-/]{1,90}") {
        for family in ALL {
            prop_assert_eq!(count(family, &word), oracle(family).count_ordinary(&word), "{:?}", family);
        }
    }
}
