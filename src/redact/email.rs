//! E-mail addresses around an `@`.

use super::Find;
use super::bytes::alnum;
use super::bytes::byte;
use super::bytes::digit;
use super::bytes::run_end;
use super::bytes::run_start;
use super::bytes::tail;
use super::label::Label;

/// The longest local part and label of a domain (RFC 5321, RFC 1035).
const MAX_PART: usize = 64;
/// The longest domain.
const MAX_DOMAIN: usize = 253;

/// Ends of file names, `logo@2x.png`, that are no top-level domains.
const FILES: &[&[u8]] = &[
    b"avif", b"bmp", b"css", b"csv", b"exe", b"gif", b"gz", b"html", b"ico", b"jpeg", b"jpg",
    b"js", b"json", b"jsx", b"lock", b"mjs", b"mp3", b"pdf", b"png", b"svg", b"tar", b"tgz",
    b"tsx", b"txt", b"webp", b"xml", b"yaml", b"yml", b"service", b"socket", b"timer",
];

/// An address whose `@`, `len` bytes long, stands at `at`.
pub(super) fn at(text: &[u8], at: usize, len: usize) -> Option<Find> {
    let start = local_start(text, at);
    let end = domain_end(text, at + len)?;
    let local = text.get(start..at)?;
    let remote = local == b"git" && byte(text, end) == b':';
    if local.is_empty() || remote || is_password_of_url(text, start) {
        return None;
    }
    Some(Find { range: start..end, label: Label::Email })
}

/// The same behind an `@` that a URL escapes, if there is one at `at`.
pub(super) fn escaped_at(text: &[u8], place: usize) -> Option<Find> {
    if tail(text, place).starts_with(b"%40") { at(text, place, 3) } else { None }
}

fn local_start(text: &[u8], at: usize) -> usize {
    let mut start = at;
    while at - start < MAX_PART {
        let step = match text.get(..start).unwrap_or_default() {
            [.., last] if local_part(*last) => 1,
            [.., first, last] if is_latin(*first, *last) => 2,
            _ => break,
        };
        start -= step;
    }
    // What an escape in front has left: `\nada@example.com`.
    let escaped =
        start > 0 && byte(text, start - 1) == b'\\' && b"nrt".contains(&byte(text, start));
    start += usize::from(escaped);
    run_end(text, start, at - start, |byte| b".-+%'=/".contains(&byte))
}

fn local_part(byte: u8) -> bool {
    alnum(byte) || b"._%+-'".contains(&byte)
}

/// Letters like é and ß in UTF-8. Other scripts are written without spaces around an address.
fn is_latin(first: u8, second: u8) -> bool {
    (0xC3..=0xC9).contains(&first) && (0x80..0xC0).contains(&second)
}

/// Where the domain at `start` ends: labels, the last one of letters.
fn domain_end(text: &[u8], start: usize) -> Option<usize> {
    let part =
        |byte: u8| alnum(byte) || matches!(byte, b'.' | b'-') || (0x80..0xCA).contains(&byte);
    let mut end = run_end(text, start, MAX_DOMAIN, part);
    while end > start {
        let head = text.get(start..end)?;
        let top = head.iter().rposition(|byte| *byte == b'.')?;
        let label = tail(head, top + 1);
        let letters = label.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let named = label.starts_with(b"xn--") || letters >= 2;
        let file = FILES.iter().any(|file| label.eq_ignore_ascii_case(file));
        if named && !label.iter().take(1).any(|byte| digit(*byte)) {
            let len = if label.starts_with(b"xn--") { label.len() } else { letters };
            return (!file && is_domain(head.get(..top)?)).then_some(start + top + 1 + len);
        }
        end = start + top;
    }
    None
}

fn is_domain(labels: &[u8]) -> bool {
    let sound = |label: &[u8]| !label.is_empty() && label.len() <= MAX_PART && label[0] != b'-';
    labels.split(|byte| *byte == b'.').all(sound)
}

/// Whether what starts here is the password in `scheme://user:password@host`.
fn is_password_of_url(text: &[u8], start: usize) -> bool {
    let from = run_start(text, start, 256, |byte| byte > b' ' && !b"\"'<>".contains(&byte));
    let head = text.get(from..start).unwrap_or_default();
    let Some(authority) = memchr::memmem::rfind(head, b"://").map(|at| tail(head, at + 3)) else {
        return false;
    };
    authority.contains(&b':') && !authority.contains(&b'/') && !authority.contains(&b'?')
}
