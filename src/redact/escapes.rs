//! Text without its JSON escapes, and the way back to where each byte came from.

use std::borrow::Cow;

use super::Find;
use super::bytes::tail;

/// Escapes of escapes that are resolved: JSON in JSON in JSON.
const MAX_DEPTH: usize = 6;

/// An unescaped text.
pub(super) struct View {
    pub(super) text: Vec<u8>,
    /// Behind each escape: the place in `text`, and the one in the raw text.
    escapes: Vec<(usize, usize)>,
}

impl View {
    /// `raw` with all of JSON's escapes resolved, a lone surrogate as U+FFFD; what is no escape
    /// stays. None when there is no escape.
    pub(super) fn of(raw: &[u8]) -> Option<Self> {
        let mut view = Self { text: Vec::new(), escapes: Vec::new() };
        let mut copied = 0;
        let mut at = 0;
        while let Some(step) = memchr::memchr(b'\\', tail(raw, at)) {
            at += step;
            let Some((character, len)) = escape(tail(raw, at)) else {
                at += 1;
                continue;
            };
            if view.escapes.is_empty() {
                view.text.reserve(raw.len());
                view.escapes.reserve(4 + raw.len() / 32);
            }
            view.text.extend_from_slice(raw.get(copied..at).unwrap_or_default());
            view.text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            at += len;
            copied = at;
            view.escapes.push((view.text.len(), at));
        }
        view.text.extend_from_slice(tail(raw, copied));
        (!view.escapes.is_empty()).then_some(view)
    }

    /// Finds of the view as finds of the raw text.
    pub(super) fn mapped(&self, mut finds: Vec<Find>) -> Vec<Find> {
        for find in &mut finds {
            find.range = self.raw(find.range.start)..self.raw(find.range.end);
        }
        finds
    }

    /// Where in the raw text the character at `at` starts.
    fn raw(&self, at: usize) -> usize {
        let passed = self.escapes.partition_point(|(behind, _)| *behind <= at);
        let last = passed.checked_sub(1).and_then(|last| self.escapes.get(last));
        let (text, raw) = last.copied().unwrap_or_default();
        raw + (at - text)
    }
}

/// `value` without escapes at any depth, to tell whether two values are the same.
pub(super) fn resolved(value: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Cow::Borrowed(value);
    for _ in 0..MAX_DEPTH {
        let Some(view) = View::of(&out) else { break };
        out = Cow::Owned(view.text);
    }
    out
}

/// The character that the escape at the head of `rest` stands for, and the escape's length.
fn escape(rest: &[u8]) -> Option<(char, usize)> {
    let character = match rest.get(1)? {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => return unicode(rest),
        quoted @ (b'"' | b'\\' | b'/') => char::from(*quoted),
        _ => return None,
    };
    Some((character, 2))
}

fn unicode(rest: &[u8]) -> Option<(char, usize)> {
    let units = [code_unit(rest)?, code_unit(tail(rest, 6)).unwrap_or_default()];
    let decoded = char::decode_utf16(units).next()?;
    let len = if matches!(decoded, Ok(beyond) if beyond > '\u{FFFF}') { 12 } else { 6 };
    Some((decoded.unwrap_or(char::REPLACEMENT_CHARACTER), len))
}

/// The number of a `\uXXXX` at the head of `rest`.
fn code_unit(rest: &[u8]) -> Option<u16> {
    let digits = rest.strip_prefix(b"\\u")?.get(..4)?;
    let value = digits
        .iter()
        .try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))?;
    u16::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_character_of_the_view_knows_where_it_came_from() {
        let view = View::of(br"a\n\u0041b\\c").unwrap();
        assert_eq!(view.text, b"a\nAb\\c");
        let places: Vec<_> = (0..=view.text.len()).map(|at| view.raw(at)).collect();
        assert_eq!(places, [0, 1, 3, 9, 10, 12, 13]);
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert!(View::of(br"C:\users\x \u12g4 \").is_none());
        assert_eq!(View::of(br"\q\/").unwrap().text, br"\q/");
    }

    #[test]
    fn lone_surrogates_are_marked_and_pairs_joined() {
        assert_eq!(View::of(br"\ud83d\ude00\ud83dA").unwrap().text, "😀\u{FFFD}A".as_bytes());
        assert_eq!(View::of(br"\ud83d\u0041").unwrap().text, "\u{FFFD}A".as_bytes());
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_back(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let raw = &json.as_bytes()[1..json.len() - 1];
            let read = View::of(raw).map_or(raw.to_vec(), |view| view.text);
            prop_assert_eq!(read, text.into_bytes());
        }
    }
}
