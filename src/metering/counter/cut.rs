//! Cuts text into the pieces that are encoded apart, as the encodings' regular expressions do.
//!
//! Written by hand because a regex engine takes ten times as long, and stops at a million spaces.

use crate::metering::counter::classes::Classes;
use crate::metering::counter::classes::END;
use crate::metering::counter::classes::LETTER;
use crate::metering::counter::classes::LOWER;
use crate::metering::counter::classes::NEWLINE;
use crate::metering::counter::classes::NUMBER;
use crate::metering::counter::classes::SPACE;
use crate::metering::counter::classes::UPPER;

/// Cuts by the pattern of o200k_base and o200k_harmony. Gives the end of the piece that begins at
/// `at`, which must be a character of the text.
///
/// ```text
/// [^\r\n\p{L}\p{N}]?[UPPER]*[LOWER]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
/// [^\r\n\p{L}\p{N}]?[UPPER]+[LOWER]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
/// \p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
/// ```
#[inline]
pub(super) fn o200k(classes: &Classes, text: &[u8], at: usize) -> usize {
    let (class, bytes) = classes.at(text, at);
    if class & LETTER != 0 {
        return contraction(text, Word::at(classes, text, at).end());
    }
    if class & NUMBER != 0 {
        return up_to_three_digits(classes, text, at + bytes);
    }
    if class & NEWLINE == 0 {
        if let Some(end) = prefixed_word(classes, text, at) {
            return contraction(text, end);
        }
        if let Some(end) = symbols(classes, text, at) {
            return end + run_of(text, end, b"\r\n/");
        }
    }
    whitespace(classes, text, at, false)
}

/// Cuts by the pattern of cl100k_base. See [`o200k`].
///
/// ```text
/// '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
/// | ?[^\s\p{L}\p{N}]+[\r\n]*|\s+$|\s*[\r\n]|\s+(?!\S)|\s
/// ```
#[inline]
pub(super) fn cl100k(classes: &Classes, text: &[u8], at: usize) -> usize {
    let (class, bytes) = classes.at(text, at);
    if class & LETTER != 0 {
        return classes.run(text, at + bytes, LETTER);
    }
    if class & NUMBER != 0 {
        return up_to_three_digits(classes, text, at + bytes);
    }
    let contracted = contraction(text, at);
    if contracted > at {
        return contracted;
    }
    if class & NEWLINE == 0 {
        let word = classes.run(text, at + bytes, LETTER);
        if word > at + bytes {
            return word;
        }
        if let Some(end) = symbols(classes, text, at) {
            return end + run_of(text, end, b"\r\n");
        }
    }
    whitespace(classes, text, at, true)
}

/// Cuts by the pattern of p50k_base and r50k_base. See [`o200k`].
///
/// ```text
/// '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s+(?!\S)|\s
/// ```
#[inline]
pub(super) fn gpt2(classes: &Classes, text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let contracted = match rest {
        [b'\'', b's' | b'd' | b'm' | b't', ..] => 2,
        [b'\'', b'l', b'l', ..] | [b'\'', b'v' | b'r', b'e', ..] => 3,
        _ => 0,
    };
    if contracted > 0 {
        return at + contracted;
    }
    let word = at + usize::from(rest.first() == Some(&b' '));
    for kind in [LETTER, NUMBER] {
        let end = classes.run(text, word, kind);
        if end > word {
            return end;
        }
    }
    symbols(classes, text, at).unwrap_or_else(|| spaces(classes, text, at))
}

/// An o200k word without its prefix and contraction: where the two alternatives of the pattern end.
struct Word {
    /// `[UPPER]*[LOWER]+`, which goes first.
    lower: Option<usize>,
    /// `[UPPER]+[LOWER]*`.
    upper: Option<usize>,
}

impl Word {
    #[inline]
    fn at(classes: &Classes, text: &[u8], at: usize) -> Self {
        let (mut end, mut last_of_both) = (at, None);
        loop {
            let (class, bytes) = classes.at(text, end);
            if class & UPPER == 0 {
                break;
            }
            end += bytes;
            if class & LOWER != 0 {
                last_of_both = Some(end);
            }
        }
        let lower = classes.run(text, end, LOWER);
        if lower > end {
            return Self { lower: Some(lower), upper: None };
        }
        // The first alternative gives capitals back until it ends in what may be lower, too.
        Self { lower: last_of_both, upper: (end > at).then_some(end) }
    }

    fn end(&self) -> usize {
        self.lower.or(self.upper).unwrap_or_default()
    }
}

/// An o200k word that begins with a character that is neither letter, number nor newline: that
/// character is its prefix if a word follows; a mark may also be the word itself.
#[inline]
fn prefixed_word(classes: &Classes, text: &[u8], at: usize) -> Option<usize> {
    let (class, bytes) = classes.at(text, at);
    let after = Word::at(classes, text, at + bytes);
    let alone = (class & UPPER != 0).then_some(at + bytes);
    after.lower.or(alone).or(after.upper)
}

/// `'s`, `'ll` and the like in either case; ſ (U+017F) is a small s.
#[inline]
fn contraction(text: &[u8], at: usize) -> usize {
    let Some([b'\'', rest @ ..]) = text.get(at..) else { return at };
    let lower = |place| rest.get(place).map(|byte: &u8| byte.to_ascii_lowercase());
    match (lower(0), lower(1)) {
        (Some(b's' | b'd' | b'm' | b't'), _) => at + 2,
        (Some(b'l'), Some(b'l')) | (Some(b'v' | b'r'), Some(b'e')) => at + 3,
        (Some(0xc5), Some(0xbf)) => at + 3,
        _ => at,
    }
}

/// The end of a number whose first digit ends at `end`.
#[inline]
fn up_to_three_digits(classes: &Classes, text: &[u8], mut end: usize) -> usize {
    for _ in 0..2 {
        let (class, bytes) = classes.at(text, end);
        if class & NUMBER == 0 {
            break;
        }
        end += bytes;
    }
    end
}

/// ` ?[^\s\p{L}\p{N}]+`.
#[inline]
fn symbols(classes: &Classes, text: &[u8], at: usize) -> Option<usize> {
    let first = at + usize::from(text.get(at) == Some(&b' '));
    let end = classes.run_without(text, first, SPACE | LETTER | NUMBER);
    (end > first).then_some(end)
}

/// How many of these bytes follow.
#[inline]
fn run_of(text: &[u8], at: usize, bytes: &[u8]) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.iter().take_while(|byte| bytes.contains(byte)).count()
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`: to the last newline of the run, else up to its last character, which
/// belongs to the word that follows. `end_first`: all of it when the text ends there (`\s+$`).
#[inline]
fn whitespace(classes: &Classes, text: &[u8], at: usize, end_first: bool) -> usize {
    let (mut end, mut after_newline) = (at, None);
    let class = loop {
        let (class, bytes) = classes.at(text, end);
        if class & SPACE == 0 {
            break class;
        }
        end += bytes;
        if class & NEWLINE != 0 {
            after_newline = Some(end);
        }
    };
    match after_newline {
        Some(after) if !(end_first && class == END) => after,
        _ => spaces(classes, text, at),
    }
}

/// `\s+(?!\S)|\s`: a run of whitespace up to its last character, unless the text ends there.
fn spaces(classes: &Classes, text: &[u8], at: usize) -> usize {
    let (mut end, mut last) = (at, at);
    loop {
        let (class, bytes) = classes.at(text, end);
        if class & SPACE == 0 {
            return if class == END || last == at { end } else { last };
        }
        last = end;
        end += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Cut = fn(&Classes, &[u8], usize) -> usize;

    fn pieces(cut: Cut, text: &str) -> Vec<String> {
        let (mut at, mut pieces) = (0, Vec::new());
        while at < text.len() {
            let end = cut(Classes::get(), text.as_bytes(), at);
            pieces.push(text.get(at..end).expect("a cut between characters").to_owned());
            at = end;
        }
        pieces
    }

    #[test]
    fn o200k_cuts_words_at_capitals_and_keeps_contractions() {
        assert_eq!(pieces(o200k, "HTTPServer isn't"), ["HTTPServer", " isn't"]);
        assert_eq!(pieces(o200k, "camelCase's"), ["camel", "Case's"]);
        assert_eq!(pieces(o200k, "ABC'ſx"), ["ABC'ſ", "x"]);
        assert_eq!(pieces(o200k, "漢ABC"), ["漢", "ABC"]);
        assert_eq!(pieces(o200k, "\u{301}A"), ["\u{301}", "A"]);
        assert_eq!(pieces(o200k, "x //\n//"), ["x", " //\n//"]);
    }

    #[test]
    fn cl100k_cuts_contractions_off_and_takes_the_space_at_the_end_whole() {
        assert_eq!(pieces(cl100k, "isn't X'LL"), ["isn", "'t", " X", "'LL"]);
        assert_eq!(pieces(cl100k, "12345 a"), ["123", "45", " a"]);
        assert_eq!(pieces(cl100k, "a \n  "), ["a", " \n  "]);
        assert_eq!(pieces(o200k, "a \n  "), ["a", " \n", "  "]);
        assert_eq!(pieces(cl100k, "a \n  b"), ["a", " \n", " ", " b"]);
    }

    #[test]
    fn gpt2_cuts_numbers_whole_and_newlines_as_spaces() {
        assert_eq!(pieces(gpt2, "isn't X'LL 12345"), ["isn", "'t", " X", "'", "LL", " 12345"]);
        assert_eq!(pieces(gpt2, "a\n\n b  "), ["a", "\n\n", " b", "  "]);
    }
}
