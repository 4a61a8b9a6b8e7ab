//! Personal data: one pass over a text that stops at digits, `@`, `%40` and `:`.

use core::net::Ipv4Addr;
use core::net::Ipv6Addr;

use super::Find;
use super::bytes::alnum;
use super::bytes::before;
use super::bytes::byte;
use super::bytes::digit;
use super::bytes::follows_word;
use super::bytes::hex;
use super::bytes::run_end;
use super::bytes::run_start;
use super::bytes::tail;
use super::bytes::word;
use super::email;
use super::label::Label;
use super::numbers;

/// Words in front of four numbers that make them a version.
const VERSION_WORDS: &[&[u8]] =
    &[b"version", b"ver.", b"release", b"build", b"section", b"chapter", b"clause", b"firmware"];

/// Adds the personal data in `text`.
pub(super) fn find(text: &[u8], finds: &mut Vec<Find>) {
    let mut at = 0;
    while let Some(stop) = next_stop(text, at) {
        at = stop;
        let (found, behind) = match byte(text, at) {
            b'@' => (email::at(text, at, 1), at + 1),
            b'%' => (email::escaped_at(text, at), at + 1),
            b':' => (ipv6(text, at), at + 1),
            _ => (number(text, at), run_end(text, at, usize::MAX, digit)),
        };
        at = found.as_ref().map_or(behind, |find| find.range.end.max(behind));
        finds.extend(found);
    }
}

/// Where the next digit, `:`, `@` or `%` stands; by blocks, which compilers make vectors of.
fn next_stop(text: &[u8], at: usize) -> Option<usize> {
    // A colon follows the nine.
    let stop = |byte: u8| (byte.wrapping_sub(b'0') < 11) | (byte == b'@') | (byte == b'%');
    let rest = tail(text, at);
    let (blocks, _) = rest.as_chunks::<32>();
    let clear = |block: &&[u8; 32]| !block.iter().fold(false, |any, byte| any | stop(*byte));
    let passed = 32 * blocks.iter().take_while(clear).count();
    let step = tail(rest, passed).iter().position(|byte| stop(*byte))?;
    Some(at + passed + step)
}

/// What a run of digits at `at` belongs to.
fn number(text: &[u8], at: usize) -> Option<Find> {
    ipv6_head(text, at).or_else(|| ipv4(text, at)).or_else(|| numbers::find(text, at))
}

/// Four octets. Not an address of somebody: this host, any host, a mask. Not an address: what a
/// version's words or signs stand before, what is part of a name (`Chrome/120.0.0.0`), and four
/// single digits, which number versions and sections.
fn ipv4(text: &[u8], at: usize) -> Option<Find> {
    let end = run_end(text, at, 16, |byte| digit(byte) || byte == b'.');
    let end = if before(text, end) == b'.' { end - 1 } else { end };
    let run = text.get(at..end)?;
    if run.len() < 8 || !ends_free(text, end) || !starts_as_address(text, at) {
        return None;
    }
    let address: Ipv4Addr = std::str::from_utf8(run).ok()?.parse().ok()?;
    let [first, second, ..] = address.octets();
    let nobody = address.is_loopback() || first == 0 || (first, second) == (255, 255);
    let find = Find { range: at..end, label: Label::Ip };
    (!nobody && !follows_word(text, at, 12, VERSION_WORDS)).then_some(find)
}

fn starts_as_address(text: &[u8], at: usize) -> bool {
    let prior = before(text, at);
    let sign = at.checked_sub(2).map_or(0, |at| byte(text, at));
    let compared = prior == b'=' && b"=<>~!^".contains(&sign);
    let product = prior == b'/' && sign != b'/';
    !word(prior) && !b".-^~+#".contains(&prior) && !compared && !product
}

/// Whether nothing goes on at `end` that makes what ends there part of something longer.
fn ends_free(text: &[u8], end: usize) -> bool {
    let next = byte(text, end.saturating_add(1));
    match byte(text, end) {
        b'.' => !digit(next),
        b'-' => !alnum(next),
        other => !word(other),
    }
}

/// An address of version 6 that starts with digits: its `:` comes too late for them.
fn ipv6_head(text: &[u8], at: usize) -> Option<Find> {
    let colon = run_end(text, at, 4, hex);
    (byte(text, colon) == b':').then(|| ipv6(text, colon)).flatten()
}

/// Eight groups, or fewer with `::`. Paths of languages look alike, `Face::B12`, so that few groups
/// must start with one of three or four digits, a decimal one among them, and be of one case.
fn ipv6(text: &[u8], colon: usize) -> Option<Find> {
    let next = byte(text, colon + 1);
    if next != b':' && !(hex(next) && hex(before(text, colon))) {
        return None;
    }
    let part = |byte: u8| hex(byte) || byte == b':';
    let start = run_start(text, colon, 40, part);
    let mut end = run_end(text, colon, 40, |byte| hex(byte) || matches!(byte, b':' | b'.'));
    while matches!(before(text, end), b'.' | b':') && !text.get(..end)?.ends_with(b"::") {
        end -= 1;
    }
    let run = text.get(start..end)?;
    let first = run.split(|byte| *byte == b':').next().unwrap_or_default();
    let numbered = first.len() > 2 && first.iter().any(u8::is_ascii_digit);
    let groups = run.split(|byte| *byte == b':').filter(|group| !group.is_empty()).count();
    let mixed = run.iter().any(u8::is_ascii_lowercase) && run.iter().any(u8::is_ascii_uppercase);
    let doubtful = (!numbered || mixed) && groups < 4 && !run.starts_with(b"::ffff:");
    let prior = before(text, start);
    if doubtful || word(prior) || prior == b'-' || word(byte(text, end)) {
        return None;
    }
    let address: Ipv6Addr = std::str::from_utf8(run).ok()?.parse().ok()?;
    let groups = address.segments().iter().filter(|group| **group != 0).count();
    (groups > 1).then_some(Find { range: start..end, label: Label::Ip })
}
