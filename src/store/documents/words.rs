//! Text as the full-text indexes of both databases get it, and questions that have no syntax.
//!
//! What is a word is decided here, before either database does: punctuation separates, and each
//! character of a script without spaces is a word of its own, so that both find the same.

use std::collections::HashSet;

use serde_json::json;

/// Words of a question that are looked for; further ones are left out.
const MOST_WORDS: usize = 64;
/// Bytes of one; longer ones are no words.
const LONGEST_WORD: usize = 256;

/// Words that are in most passages: they find nothing, and take time. Postgres leaves them out by
/// itself.
const COMMON: [&str; 58] = [
    "a", "about", "an", "and", "are", "as", "at", "be", "by", "can", "could", "did", "do", "does",
    "for", "from", "get", "had", "has", "have", "how", "i", "if", "in", "into", "is", "it", "its",
    "me", "my", "not", "of", "on", "or", "our", "should", "so", "that", "the", "their", "there",
    "these", "they", "this", "to", "was", "we", "what", "when", "where", "which", "who", "why",
    "will", "with", "would", "you", "your",
];

/// A text's words, separated by blanks.
pub(super) fn words(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unspaced(c) {
            words.extend([' ', c, ' ']);
        } else if c.is_control() || (c.is_ascii() && !c.is_ascii_alphanumeric()) {
            words.push(' ');
        } else {
            words.push(c);
        }
    }
    words
}

/// What is looked for: phrases of one or two words, any of which will do. Empty where there is
/// nothing to look for.
pub(super) fn phrases(question: &str) -> Vec<String> {
    let lower = question.to_lowercase();
    let mut phrases = Vec::new();
    for piece in lower.split_whitespace() {
        unspaced_pairs(piece, &mut phrases);
        let spaced = words(piece);
        let spaced = spaced.split_whitespace().filter(|word| !word.starts_with(is_unspaced));
        phrases.extend(spaced.filter(|word| is_word(word)).map(str::to_owned));
    }
    let mut seen = HashSet::new();
    phrases.retain(|phrase| seen.insert(phrase.clone()));
    let rare = |phrase: &String| !COMMON.contains(&phrase.as_str());
    if phrases.iter().any(rare) {
        phrases.retain(rare);
    }
    phrases.truncate(MOST_WORDS);
    phrases
}

/// As FTS5 reads it: `"one" OR "two words"`. There is no quote in a phrase.
pub(super) fn for_sqlite(phrases: &[String]) -> String {
    let quoted: Vec<String> = phrases.iter().map(|phrase| format!("\"{phrase}\"")).collect();
    quoted.join(" OR ")
}

/// Each as `to_tsquery` reads it, `'two' <-> 'words'`, in a JSON array: each has a weight of its own.
/// There is no quote in a phrase.
pub(super) fn for_postgres(phrases: &[String]) -> String {
    let followed = |phrase: &String| {
        let words: Vec<String> = phrase.split(' ').map(|word| format!("'{word}'")).collect();
        words.join(" <-> ")
    };
    json!(phrases.iter().map(followed).collect::<Vec<_>>()).to_string()
}

/// Neighbours among characters of scripts without spaces: what they mean is in pairs.
fn unspaced_pairs(piece: &str, phrases: &mut Vec<String>) {
    for run in piece.split(|c| !is_unspaced(c)).filter(|run| !run.is_empty()) {
        let characters: Vec<char> = run.chars().collect();
        match characters.as_slice() {
            [one] => phrases.push(one.to_string()),
            many => phrases.extend(many.windows(2).filter_map(|pair| match pair {
                [one, other] => Some(format!("{one} {other}")),
                _ => None,
            })),
        }
    }
}

fn is_word(word: &str) -> bool {
    word.len() <= LONGEST_WORD && word.contains(char::is_alphanumeric)
}

/// Scripts that are written without spaces between words: Thai to Khmer, kana, Han, Hangul.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}'
        | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn punctuation_separates_and_unspaced_characters_stand_alone() {
        assert_eq!(words("a-b_c.d"), "a b c d");
        assert_eq!(words("über 3.5€"), "über 3 5€");
        assert_eq!(words("x東京y\0z"), "x 東  京 y z");
    }

    #[test]
    fn a_question_becomes_its_rare_words_and_pairs() {
        assert_eq!(phrases("How do I rotate the key? Rotate!"), ["rotate", "key"]);
        assert_eq!(phrases("to be or not to be"), ["to", "be", "or", "not"]);
        assert_eq!(phrases("東京都の天気"), ["東 京", "京 都", "都 の", "の 天", "天 気"]);
        assert_eq!(phrases("é -- \u{201c}\u{201d} \" ' * ( NEAR"), ["é", "near"]);
        assert!(phrases("?! \u{0} …").is_empty());
    }

    #[test]
    fn each_database_reads_any_of_the_phrases() {
        let phrases = ["one".to_owned(), "two three".to_owned()];
        assert_eq!(for_sqlite(&phrases), "\"one\" OR \"two three\"");
        assert_eq!(for_postgres(&phrases), r#"["'one'","'two' <-> 'three'"]"#);
    }

    proptest! {
        #[test]
        fn no_question_brings_syntax_along(question in any::<String>()) {
            for phrase in phrases(&question) {
                prop_assert!(!phrase.contains(['"', '\'', '\\', '\0', '*', ':', '(', '&', '|']));
                prop_assert!(!phrase.trim().is_empty());
            }
        }
    }
}
