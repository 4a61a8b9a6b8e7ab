//! What the text between the quotes of a JSON string means.

use std::borrow::Cow;

/// Resolves the escapes of `raw`, the text between the quotes. A lone surrogate becomes the three
/// bytes that UTF-8 would give it, so that equal strings have equal bytes and different ones not;
/// an escape that JSON does not know stays as it is.
pub(super) fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\\', raw) else { return Cow::Borrowed(raw) };
    let mut out = Vec::with_capacity(raw.len());
    let (head, mut rest) = raw.split_at_checked(first).unwrap_or((raw, &[]));
    out.extend_from_slice(head);
    while !rest.is_empty() {
        let taken = escape(rest, &mut out);
        rest = rest.get(taken..).unwrap_or_default();
        let run = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
        let (plain, next) = rest.split_at_checked(run).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        rest = next;
    }
    Cow::Owned(out)
}

/// The same as text, with U+FFFD for what is no character.
pub(crate) fn unescape_text(raw: &[u8]) -> Cow<'_, str> {
    match unescape(raw) {
        // Nearly always: much quicker than looking for what is no character.
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(bytes),
        },
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Cow::Owned(text),
            Err(bad) => Cow::Owned(String::from_utf8_lossy(bad.as_bytes()).into_owned()),
        },
    }
}

/// Writes the escape at the head of `rest`, which starts with a backslash; says how long it was.
fn escape(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let byte = match rest.get(1) {
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'r') => b'\r',
        Some(b'b') => 0x08,
        Some(b'f') => 0x0C,
        Some(b'u') => return unicode(rest, out),
        Some(quoted @ (b'"' | b'\\' | b'/')) => *quoted,
        _ => {
            out.push(b'\\');
            return 1;
        }
    };
    out.push(byte);
    2
}

fn unicode(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let Some(unit) = code_unit(rest) else {
        out.push(b'\\');
        return 1;
    };
    let low = rest.get(6..).and_then(code_unit).filter(|low| (0xDC00..0xE000).contains(low));
    if let (0xD800..0xDC00, Some(low)) = (unit, low) {
        push_code_point(0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00), out);
        return 12;
    }
    push_code_point(unit, out);
    6
}

/// The number of a `\uXXXX` at the head of `rest`.
fn code_unit(rest: &[u8]) -> Option<u32> {
    let digits = rest.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
}

fn push_code_point(point: u32, out: &mut Vec<u8>) {
    if let Some(character) = char::from_u32(point) {
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        return;
    }
    // A lone surrogate: 1110xxxx 10xxxxxx 10xxxxxx.
    let six = |shift: u32| u8::try_from(point >> shift & 0x3F).unwrap_or_default() | 0x80;
    out.extend([u8::try_from(point >> 12 & 0x0F).unwrap_or_default() | 0xE0, six(6), six(0)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_become_what_they_stand_for() {
        assert_eq!(unescape_text(br#"mod\u0065l"#), "model");
        assert_eq!(unescape_text(br#"\"\\\/\b\f\n\r\t"#), "\"\\/\u{8}\u{c}\n\r\t");
        assert_eq!(unescape_text(br#"\uD83D\ude00!"#), "😀!");
        assert!(matches!(unescape("grüß".as_bytes()), Cow::Borrowed(_)));
    }

    #[test]
    fn lone_surrogates_differ_from_each_other_and_are_marked_in_text() {
        assert_eq!(unescape(br#"\ud800"#), unescape(br#"\uD800"#));
        assert_ne!(unescape(br#"\ud800"#), unescape(br#"\ud801"#));
        assert_eq!(unescape(br#"\ud800\ud800"#).len(), 6);
        assert!(unescape_text(br#"a\ud800b"#).contains('\u{FFFD}'));
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for broken in [r"\", r"\x", r"\u12", r"\u12g4", r"a\"] {
            assert_eq!(unescape_text(broken.as_bytes()), broken);
        }
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_back(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let raw = &json.as_bytes()[1..json.len() - 1];
            prop_assert_eq!(unescape_text(raw), text);
        }

        #[test]
        fn no_bytes_panic(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            unescape_text(&raw);
        }
    }
}
