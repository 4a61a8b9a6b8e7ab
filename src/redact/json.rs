//! Which pieces of a body are text: JSON's strings, and what they hold in turn.

use serde::de::IgnoredAny;

use super::Find;
use super::Kinds;
use super::assignments;
use super::bytes::base64;
use super::bytes::byte;
use super::bytes::tail;
use super::detected;
use super::escapes::View;

/// JSON in a string of JSON, and escapes of escapes: tool arguments are at depth 1, and an agent
/// that quotes another one's request gets to 3. What is deeper is read as it stands.
const MAX_DEPTH: usize = 6;
/// The shortest text that can hold something: `a@b.cd`, a password of six.
const MIN_LEN: usize = 6;
/// From this length a string of base64 alone is a file, not a key.
const BLOB_LEN: usize = 200;

/// Everything to replace in `body`; not in order, and some may overlap.
pub(super) fn find(kinds: Kinds, body: &[u8]) -> Vec<Find> {
    if kinds.any() { find_in(kinds, body, 0) } else { Vec::new() }
}

/// The same for a body in which something was just replaced, at the places `changed`, in order:
/// other strings than these hold nothing.
pub(super) fn find_again(kinds: Kinds, body: &[u8], changed: &[usize]) -> Vec<Find> {
    if !is_json(body) {
        return find(kinds, body);
    }
    find_in_strings(kinds, body, 0, |start, end| {
        let next = changed.partition_point(|place| *place < start);
        changed.get(next).is_some_and(|place| *place < end)
    })
}

fn find_in(kinds: Kinds, text: &[u8], depth: usize) -> Vec<Find> {
    if text.len() < MIN_LEN || is_blob(text) {
        return Vec::new();
    }
    if depth < MAX_DEPTH && is_json(text) {
        return find_in_strings(kinds, text, depth, |_, _| true);
    }
    let mut finds = detected(kinds, text);
    // Text that was cut from JSON, a stream's events, source code with literals.
    if depth < MAX_DEPTH
        && let Some(view) = View::of(text)
    {
        finds.extend(view.mapped(find_in(kinds, &view.text, depth + 1)));
    }
    finds
}

/// The strings of `text`, which is valid JSON, that are `wanted` by where they start and end. A value
/// is judged by its member's name too.
fn find_in_strings(
    kinds: Kinds,
    text: &[u8],
    depth: usize,
    wanted: impl Fn(usize, usize) -> bool,
) -> Vec<Find> {
    let mut finds = Vec::new();
    let mut name: &[u8] = b"";
    let mut at = 0;
    while let Some(quote) = memchr::memchr(b'"', tail(text, at)) {
        let start = at + quote + 1;
        let end = string_end(text, start);
        let raw = text.get(start..end).unwrap_or_default();
        at = end + 1;
        let is_name = starts_with_colon(tail(text, at));
        let found = match wanted(start, end) {
            true => find_in_string(kinds, if is_name { b"" } else { name }, raw, depth),
            false => Vec::new(),
        };
        if is_name {
            name = raw;
        }
        finds.extend(found.into_iter().map(|Find { range, label }| Find {
            range: start + range.start..start + range.end,
            label,
        }));
    }
    finds
}

/// What stands between a string's quotes, the value of the member `name` if it is one.
fn find_in_string(kinds: Kinds, name: &[u8], raw: &[u8], depth: usize) -> Vec<Find> {
    let decoded = |text: &[u8]| {
        let mut finds = find_in(kinds, text, depth + 1);
        if kinds.secrets {
            finds.extend(assignments::named(name, text));
        }
        finds
    };
    match View::of(raw) {
        Some(view) => view.mapped(decoded(&view.text)),
        None => decoded(raw),
    }
}

/// Where the string whose text starts at `at` has its closing quote.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(step) = memchr::memchr2(b'"', b'\\', tail(text, at)) {
        at += step;
        if byte(text, at) == b'"' {
            return at;
        }
        at += 2;
    }
    text.len()
}

fn starts_with_colon(rest: &[u8]) -> bool {
    rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

/// Whether `text` is an array, an object or a string of JSON. Deeper than 128 it counts as text.
fn is_json(text: &[u8]) -> bool {
    let trimmed = text.trim_ascii();
    matches!(
        (trimmed.first(), trimmed.last()),
        (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')) | (Some(b'"'), Some(b'"'))
    ) && serde_json::from_slice::<IgnoredAny>(trimmed).is_ok()
}

/// Whether `text` is a file in base64, as a data URL or alone. It holds nothing that can be found,
/// but for what chance makes of it.
fn is_blob(text: &[u8]) -> bool {
    let head = text.get(..text.len().min(128)).unwrap_or_default();
    let comma = text.starts_with(b"data:").then(|| memchr::memmem::find(head, b";base64,"));
    let file = comma.flatten().map_or(text, |at| tail(text, at + ";base64,".len()));
    // By blocks, which compilers make vectors of: files are most of the bytes of some bodies.
    let part = |byte: u8| base64(byte) | (byte == b'\r') | (byte == b'\n');
    let (blocks, rest) = file.as_chunks::<32>();
    // Files are wrapped at 64 or 76; short lines are a list, of keys or numbers for example.
    file.len() >= BLOB_LEN
        && !file.iter().take(60).any(|byte| *byte == b'\n')
        && blocks.iter().all(|block| block.iter().fold(true, |all, byte| all & part(*byte)))
        && rest.iter().all(|byte| part(*byte))
}
