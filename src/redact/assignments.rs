//! Values that only their name gives away: `password=…`, `"api_key": "…"`.

use super::Find;
use super::bytes::alnum;
use super::bytes::before;
use super::bytes::byte;
use super::bytes::digit;
use super::bytes::distinct;
use super::bytes::hex;
use super::bytes::run_end;
use super::bytes::run_start;
use super::bytes::tail;
use super::bytes::word;
use super::label::Label;
use super::placeholders::spared;
use super::secrets::is_aws_secret;

/// Longer values are texts, not secrets.
const MAX_VALUE: usize = 512;
/// The longest name that is read.
const MAX_NAME: usize = 48;

/// Ends of names, lower case without separators, and what they promise.
const NAMES: &[(&str, Label)] = &[
    ("password", Label::Password),
    ("passwd", Label::Password),
    ("passphrase", Label::Password),
    ("passcode", Label::Password),
    ("passwort", Label::Password),
    ("dbpass", Label::Password),
    ("pwd", Label::Password),
    ("passwordconfirmation", Label::Password),
    ("secret", Label::Secret),
    ("secretkey", Label::Secret),
    ("secretaccesskey", Label::Secret),
    ("secretkeybase", Label::Secret),
    ("secretvalue", Label::Secret),
    ("token", Label::Secret),
    ("authorization", Label::Secret),
    ("privatekey", Label::Secret),
    ("accountkey", Label::Secret),
    ("signingkey", Label::Secret),
    ("encryptionkey", Label::Secret),
    ("masterkey", Label::Secret),
    ("apikey", Label::ApiKey),
    ("accesskey", Label::ApiKey),
    ("authkey", Label::ApiKey),
    ("rolekey", Label::ApiKey),
    ("servicekey", Label::ApiKey),
    ("functionkey", Label::ApiKey),
    ("subscriptionkey", Label::ApiKey),
];

/// Where lists are paged, the token is a place.
const NO_SECRETS: &[&str] = &["pagetoken", "continuationtoken", "synctoken", "nexttoken"];

/// What follows `password:` in documentation and schemas.
const WORDS: &[&[u8]] = &[
    b"argon2", b"base64", b"bcrypt", b"int32", b"int64", b"md5", b"oauth2", b"pbkdf2", b"rot13",
    b"scrypt", b"sha-", b"sha1", b"sha2", b"sha3", b"sha5", b"utf-8", b"utf8", b"varchar",
];

/// Adds the value of the name in which the literal at `at` stands.
pub(super) fn find(text: &[u8], at: usize, finds: &mut Vec<Find>) {
    let start = run_start(text, at, MAX_NAME, name_part);
    // The literal itself may hold a space, "api key".
    let literal = if tail(text, at).get(3) == Some(&b' ') { at + 4 } else { at };
    let end = run_end(text, literal, MAX_NAME, name_part);
    let Some(label) = text.get(start..end).and_then(promised) else { return };
    let Some((value_at, quote)) = value_start(text, start, end, label) else { return };
    let value_end = match quote {
        Some(quote) => quoted_end(text, value_at, quote),
        None => unquoted_end(text, value_at),
    };
    let value = text.get(value_at..value_end).unwrap_or_default();
    if accepted(label, value, quote.is_some()) {
        // A sign behind a password may be its end, or the sentence's.
        let end = run_end(text, value_end, 2, |byte| matches!(byte, b'!' | b'?'));
        finds.push(Find { range: value_at..end, label });
    }
}

/// `value` as a whole, where it belongs to a member called `name` that promises a secret.
pub(super) fn named(name: &[u8], value: &[u8]) -> Vec<Find> {
    let label = promised(name).and_then(|label| {
        let amazons = label == Label::Secret && is_aws_secret(value) && says_secret(name);
        if amazons { Some(Label::AwsSecret) } else { accepted(label, value, true).then_some(label) }
    });
    label.map_or_else(Vec::new, |label| spared(value, Find { range: 0..value.len(), label }))
}

fn says_secret(name: &[u8]) -> bool {
    memchr::memmem::find(&name.to_ascii_lowercase(), b"secret").is_some()
}

fn name_part(byte: u8) -> bool {
    word(byte) || matches!(byte, b'-' | b'.')
}

/// What a name ends with, apart from digits: `password2`, `X-Api-Key`, `aws.secretAccessKey`.
fn promised(name: &[u8]) -> Option<Label> {
    if name.len() < 3 || name.len() > 2 * MAX_NAME {
        return None;
    }
    let digits = name.iter().rev().take_while(|byte| digit(**byte)).count();
    let name = name.get(..name.len() - digits)?;
    let (rest, last) =
        name.split_last_chunk().map_or((name, *b"    "), |(rest, last)| (rest, *last));
    if last.eq_ignore_ascii_case(b"pass") && matches!(rest.last(), Some(b'_' | b'-')) {
        return Some(Label::Password);
    }
    let paged = NO_SECRETS.iter().any(|end| ends_with(name, end));
    let promise = NAMES.iter().find(|(end, _)| ends_with(name, end));
    promise.filter(|_| !paged).map(|(_, label)| *label)
}

/// Whether `name` without its separators and in lower case ends with `end`.
fn ends_with(name: &[u8], end: &str) -> bool {
    let mut letters = name.iter().rev().filter(|byte| alnum(**byte));
    end.bytes().rev().all(|byte| letters.next().is_some_and(|at| at.to_ascii_lowercase() == byte))
}

/// Where the value of the name at `start..end` starts, and its quote if it has one.
fn value_start(text: &[u8], start: usize, end: usize, label: Label) -> Option<(usize, Option<u8>)> {
    let close = run_end(text, end, 6, |byte| b"\\\"'`]*".contains(&byte));
    let sign = run_end(text, close, 4, |byte| byte == b' ' || byte == b'\t');
    let mut at = run_end(text, sign, 3, |byte| b"=:>".contains(&byte));
    let signs = text.get(sign..at).unwrap_or_default();
    let option = signs.is_empty() && sign > close && text.get(start..)?.starts_with(b"--");
    let element = signs == b">" && before(text, start) == b'<' && !digit(before(text, end));
    let spoken =
        signs.is_empty() && label == Label::Password && text.get(sign..)?.starts_with(b"is ");
    match signs {
        b"" if spoken => at += 3,
        b"" if option => {}
        b">" if element => {}
        b"=" | b":" | b"=>" | b":=" | b"==" | b"===" => {}
        _ => return None,
    }
    at = run_end(text, at, 6, |byte| b" \t*".contains(&byte));
    let open = run_end(text, at, 8, |byte| byte == b'\\');
    let quote = byte(text, open);
    if spoken && !speaks(text, open) {
        return None;
    }
    Some(if b"\"'`".contains(&quote) { (open + 1, Some(quote)) } else { (at, None) })
}

/// Whether what follows "password is" is one: prose goes on with words, and with names of methods.
fn speaks(text: &[u8], at: usize) -> bool {
    let end = run_end(text, at, 64, |byte| byte > b' ');
    let value = text.get(at..end).unwrap_or_default();
    let any = |class: fn(&u8) -> bool| value.iter().any(class);
    let mixed = any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase);
    let special = value.iter().any(|byte| b"!@#$%^&*?".contains(byte));
    any(u8::is_ascii_digit) && (mixed || special) && !value.contains(&b'-')
}

fn quoted_end(text: &[u8], start: usize, quote: u8) -> usize {
    let value = tail(text, start);
    let ends = |byte: &u8| *byte == quote || matches!(byte, b'\n' | b'\\');
    start
        + value.iter().take(MAX_VALUE + 1).position(ends).unwrap_or(MAX_VALUE + 1).min(value.len())
}

/// To a space, a separator or a bracket; without the sentence's punctuation.
fn unquoted_end(text: &[u8], start: usize) -> usize {
    let value = tail(text, start);
    let value = value.get(..value.len().min(MAX_VALUE + 1)).unwrap_or_default();
    let ends = |at: &usize| {
        let here = byte(value, *at);
        here <= b' '
            || b"\"'`,;<>\\|".contains(&here)
            || (here == b'&' && starts_pair(value, at + 1))
    };
    let len = (0..value.len()).find(ends).unwrap_or(value.len());
    let value = value.get(..len).unwrap_or_default();
    let closing = |byte: &&u8| b".:!?)]}*".contains(*byte);
    start + len - value.iter().rev().take_while(closing).count()
}

/// Whether the next pair of a query string stands at `at`.
fn starts_pair(text: &[u8], at: usize) -> bool {
    let end = run_end(text, at, MAX_NAME, name_part);
    end > at && byte(text, end) == b'='
}

/// Whether `value` is worth its name.
fn accepted(label: Label, value: &[u8], quoted: bool) -> bool {
    let text = value.len() > MAX_VALUE || value.iter().any(u8::is_ascii_whitespace);
    if text || is_template(value) || (!quoted && is_path(value)) {
        return false;
    }
    match label {
        Label::Password => is_password(value, quoted),
        _ => is_key(value, 12),
    }
}

/// Where a value belongs, but none is: `${KEY}`, `{{ key }}`, `%s`, `****`, `<your key>`, `YOUR_KEY`.
pub(super) fn is_template(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let has = |part: &[u8]| memchr::memmem::find(&lower, part).is_some();
    let marked = matches!(value, [b'$', next, ..] if next.is_ascii_uppercase() || b"{(".contains(next))
        || matches!(value, [b'{' | b'[' | b'<' | b'(', ..] | [b'%', b's' | b'(' | b'd', ..]);
    let shown = distinct(value) < 4 && value.iter().any(|byte| b"*x.#-_".contains(byte));
    let masked = [&b"***"[..], b"xxxx", b"...", "•••".as_bytes(), "…".as_bytes()];
    let words = [&b"your_"[..], b"your-", b"yourpass", b"redacted", b"placeholder", b"{{", b"${"];
    marked || shown || masked.iter().any(|part| has(part)) || words.iter().any(|part| has(part))
}

/// Whether this is a place in a program rather than a value: `args.password2`, `env["X"]`, `/run/x`.
fn is_path(value: &[u8]) -> bool {
    let starts = matches!(value, [b'/' | b'.' | b'~' | b'&' | b'@' | b'*' | b'%', ..]);
    let names = |part: &[u8]| part.first().is_some_and(u8::is_ascii_alphabetic) && part.len() < 20;
    let dotted = value.contains(&b'.')
        && value.iter().all(|byte| word(*byte) || *byte == b'.')
        && value.split(|byte| *byte == b'.').all(names);
    starts || dotted || value.iter().any(|byte| b"()[]{}".contains(byte))
}

/// Letters with digits or signs, or at least six digits.
fn is_password(value: &[u8], quoted: bool) -> bool {
    let lower = value.to_ascii_lowercase();
    if value.len() < 6 || distinct(value) < 4 || WORDS.iter().any(|word| lower.starts_with(word)) {
        return false;
    }
    let letters = value.iter().any(u8::is_ascii_alphabetic) || !value.is_ascii();
    let digits = value.iter().filter(|byte| digit(**byte)).count();
    let signs = value.iter().any(|byte| b"!@#$%^&*?+~".contains(byte));
    let named_like_a_variable = !quoted && digits <= 1 && value.contains(&b'_') && !signs;
    match (letters, digits) {
        _ if named_like_a_variable => false,
        (true, 0) => signs,
        (letters, _) => letters || digits == value.len(),
    }
}

/// Whether chance shows in `value`: letters and digits mixed, not words that are joined.
pub(super) fn is_key(value: &[u8], min: usize) -> bool {
    let part = |byte: &u8| alnum(*byte) || b"_-./+=:~!@#$%^&*".contains(byte);
    let letters = value.iter().any(u8::is_ascii_alphabetic);
    let digits = value.iter().any(u8::is_ascii_digit);
    let all_hex = value.len() >= 32 && value.iter().all(|byte| hex(*byte));
    let joined = value.split(|byte| b"_-./:=".contains(byte)).all(is_wordish);
    value.len() >= min.max(8)
        && value.iter().all(part)
        && distinct(value) >= 6
        && (all_hex || (letters && digits && !joined))
}

/// Letters with up to two digits behind them, or up to four digits.
fn is_wordish(part: &[u8]) -> bool {
    let letters = part.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let rest = tail(part, letters);
    let max = if letters == 0 { 4 } else { 2 };
    letters < 20 && rest.len() <= max && rest.iter().all(u8::is_ascii_digit)
}
