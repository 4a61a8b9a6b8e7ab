//! Small questions about bytes; past the ends of a text stands NUL.

/// The byte at `at`.
pub(super) fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or_default()
}

/// The byte in front of `at`.
pub(super) fn before(text: &[u8], at: usize) -> u8 {
    at.checked_sub(1).map_or(0, |at| byte(text, at))
}

/// What starts at `at`; empty past the end.
pub(super) fn tail(text: &[u8], at: usize) -> &[u8] {
    text.get(at..).unwrap_or_default()
}

/// Where the run of bytes of `class` that starts at `at` ends, looking at `limit` bytes at most.
pub(super) fn run_end(text: &[u8], at: usize, limit: usize, class: fn(u8) -> bool) -> usize {
    at + tail(text, at).iter().take(limit).take_while(|byte| class(**byte)).count()
}

/// Where the run of bytes of `class` that ends at `end` starts, looking at `limit` bytes at most.
pub(super) fn run_start(text: &[u8], end: usize, limit: usize, class: fn(u8) -> bool) -> usize {
    let head = text.get(..end).unwrap_or_default();
    end - head.iter().rev().take(limit).take_while(|byte| class(**byte)).count()
}

/// Whether one of `words`, in lower case, stands in the `reach` bytes before `at`.
pub(super) fn follows_word(text: &[u8], at: usize, reach: usize, words: &[&[u8]]) -> bool {
    let window = text.get(at.saturating_sub(reach)..at).unwrap_or_default().to_ascii_lowercase();
    words.iter().any(|word| memchr::memmem::find(&window, word).is_some())
}

/// How many different bytes `value` has.
pub(super) fn distinct(value: &[u8]) -> usize {
    let mut seen = [false; 256];
    value.iter().filter(|byte| !std::mem::replace(&mut seen[usize::from(**byte)], true)).count()
}

/// A letter or digit of ASCII. Without branches, as vectors want it.
pub(super) fn alnum(byte: u8) -> bool {
    ((byte | 0x20).wrapping_sub(b'a') < 26) | (byte.wrapping_sub(b'0') < 10)
}

/// A letter, digit or `_`.
pub(super) fn word(byte: u8) -> bool {
    alnum(byte) || byte == b'_'
}

/// A letter, digit, `_` or `-`: base64url, and what tokens are made of.
pub(super) fn dashed(byte: u8) -> bool {
    word(byte) || byte == b'-'
}

/// Base64url and dots.
pub(super) fn dotted(byte: u8) -> bool {
    dashed(byte) || byte == b'.'
}

/// Base64 with its padding.
pub(super) fn base64(byte: u8) -> bool {
    alnum(byte) | (byte == b'+') | (byte == b'/') | (byte == b'=')
}

/// A digit.
pub(super) fn digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

/// A hexadecimal digit.
pub(super) fn hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}
