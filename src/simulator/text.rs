//! The words of an answer: derived from the request alone, so that the same request gets the same.

use serde_json::Value;

use crate::simulator::knobs::Knobs;

/// What long answers are made of, word by word.
const WORDS: [&str; 24] = [
    " the",
    " gateway",
    " forwards",
    " each",
    " token",
    " as",
    " it",
    " arrives",
    " and",
    " keeps",
    " a",
    " count",
    " of",
    " what",
    " was",
    " used",
    ",",
    " so",
    " costs",
    " can",
    " be",
    " attributed",
    " later",
    ".",
];
/// How much of a question is repeated in its answer.
const ECHO_CHARS: usize = 200;
/// Tokens of one content chunk, when no knob says otherwise.
const WORDS_PER_CHUNK: usize = 2;

/// Tokens of a text, the simple way: a token is four bytes.
pub(super) fn tokens(text: &str) -> u64 {
    count(text.len())
}

/// Tokens of so many bytes of text.
pub(super) fn count(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX)
}

/// FNV-1a, 64 bit: stable between runs and releases, which the standard hasher does not promise.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The next number of a splitmix64 sequence.
pub(super) fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The answer to a question: of the size the knobs ask for, else a sentence about the question.
pub(super) fn answer(question: &str, knobs: &Knobs) -> String {
    match (knobs.bytes, knobs.chunks) {
        (Some(bytes), _) => {
            let mut text = words(bytes.div_ceil(3) + 1);
            text.truncate(bytes);
            text
        }
        (None, Some(chunks)) => words(chunks),
        (None, None) => sentence(&without_directives(question)),
    }
}

fn words(n: usize) -> String {
    WORDS.iter().cycle().take(n).copied().collect()
}

fn sentence(question: &str) -> String {
    let said: String = question.trim().chars().take(ECHO_CHARS).collect();
    if said.is_empty() {
        return "Hello! How can I help you today?".to_owned();
    }
    format!("You said: \"{said}\" That is a good point, and here is a short, helpful answer to it.")
}

/// A text without its `[[simulate …]]`, so that an answer does not carry it into the next request.
fn without_directives(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once("[[simulate ") {
        out.push_str(before);
        rest = after.split_once("]]").map_or("", |(_, behind)| behind);
    }
    out.push_str(rest);
    out
}

/// Cuts a text to `limit` tokens; true if something was lost.
pub(super) fn cut_to_tokens(text: &mut String, limit: Option<u64>) -> bool {
    let bytes = limit.and_then(|limit| usize::try_from(limit.saturating_mul(4)).ok());
    match bytes {
        Some(bytes) if text.len() > bytes => {
            text.truncate(text.floor_char_boundary(bytes));
            true
        }
        _ => false,
    }
}

/// Cuts a text before the first of the request's `stop` sequences.
pub(super) fn cut_at_stop(text: &mut String, stop: &Value) {
    let one = stop.as_str().into_iter();
    let many = stop.as_array().into_iter().flatten().filter_map(Value::as_str);
    let found = one.chain(many).filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop));
    if let Some(at) = found.min() {
        text.truncate(at);
    }
}

/// A text as the pieces of a stream: `chunks` of about equal length, else a few tokens each.
pub(super) fn pieces(text: &str, chunks: Option<usize>) -> Vec<&str> {
    match chunks {
        Some(n) => even(text, n),
        None => by_words(text),
    }
}

fn even(text: &str, n: usize) -> Vec<&str> {
    let mut rest = text;
    let mut out = Vec::with_capacity(n);
    for left in (1..=n).rev() {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(rest.len().div_ceil(left)));
        rest = behind;
        if !piece.is_empty() {
            out.push(piece);
        }
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

fn by_words(text: &str) -> Vec<&str> {
    let mut out = Vec::with_capacity(text.len() / 8 + 1);
    let (mut rest, mut spaces, mut from) = (text, 0, 0);
    while let Some(at) = rest.bytes().skip(from).position(|byte| byte == b' ').map(|at| at + from) {
        spaces += 1;
        from = at + 1;
        if spaces % WORDS_PER_CHUNK == 0 && at > 0 {
            let (piece, behind) = rest.split_at(at);
            out.push(piece);
            (rest, from) = (behind, 1);
        }
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// The text of a `content` value: a string, or the text parts of an array.
pub(super) fn of_content(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join(" ")
        }
        _ => String::new(),
    }
}

/// Bytes of text in a `content` value; parts that are not text count as 340 bytes (85 tokens).
pub(super) fn content_bytes(content: &Value) -> usize {
    match content {
        Value::String(text) => text.len(),
        Value::Array(parts) => {
            parts.iter().map(|part| part["text"].as_str().map_or(340, str::len)).sum()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_put_together_are_the_text() {
        for text in ["", "a", "one two three four five", "  two  spaces ", "äöü ßß 日本語 x"]
        {
            for chunks in [None, Some(0), Some(1), Some(3), Some(100)] {
                assert_eq!(pieces(text, chunks).concat(), text, "{chunks:?}");
            }
        }
        assert_eq!(pieces("one two three four", None), ["one two", " three four"]);
        assert_eq!(pieces("abcdef", Some(3)), ["ab", "cd", "ef"]);
    }

    #[test]
    fn the_answer_has_the_size_its_knobs_ask_for() {
        let sized = |knobs: &str| answer("hi", &Knobs::parse(knobs).unwrap());
        assert_eq!(sized("bytes=1000").len(), 1000);
        assert_eq!(pieces(&sized("bytes=1000 chunks=7"), Some(7)).len(), 7);
        assert_eq!(sized("chunks=2"), " the gateway");
        assert!(!sized("").is_empty());
    }

    #[test]
    fn an_answer_does_not_repeat_the_directive() {
        let text = answer("hi [[simulate latency_ms=1]] there", &Knobs::default());
        assert!(text.contains("hi  there") && !text.contains("simulate"), "{text}");
    }

    #[test]
    fn eight_bytes_are_two_tokens() {
        let mut text = "12345678abc".to_owned();
        assert_eq!(tokens(&text), 3); // 11 bytes, 4 a token, rounded up
        assert!(cut_to_tokens(&mut text, Some(2)));
        assert_eq!(text, "12345678");
        cut_at_stop(&mut text, &serde_json::json!(["zz", "45"]));
        assert_eq!(text, "123");
    }
}
