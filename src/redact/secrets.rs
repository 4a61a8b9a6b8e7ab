//! Keys, tokens and passwords: where one can start, and whether one is there.
//!
//! One pass of an automaton over all literals that secrets start with, or stand behind; nothing is
//! looked at elsewhere.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use aho_corasick::AhoCorasickKind;
use aho_corasick::MatchKind;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;

use super::Find;
use super::assignments;
use super::bytes::alnum;
use super::bytes::base64;
use super::bytes::before;
use super::bytes::byte;
use super::bytes::dashed;
use super::bytes::digit;
use super::bytes::distinct;
use super::bytes::dotted;
use super::bytes::hex;
use super::bytes::run_end;
use super::bytes::tail;
use super::bytes::word;
use super::label::Label;

/// A secret that is known by how it starts.
struct Prefixed {
    prefix: &'static str,
    label: Label,
    /// What its body is made of, and of how many such bytes.
    class: fn(u8) -> bool,
    len: RangeInclusive<usize>,
    /// Whether words could stand here as well (`sk-some-long-name`), so that chance must be seen.
    doubted: bool,
}

/// Longer runs of a token's bytes are files.
const LONG: usize = 1024;

const fn sure(
    prefix: &'static str,
    label: Label,
    class: fn(u8) -> bool,
    len: RangeInclusive<usize>,
) -> Prefixed {
    Prefixed { prefix, label, class, len, doubted: false }
}

const fn doubted(prefix: &'static str, label: Label, min: usize) -> Prefixed {
    Prefixed { prefix, label, class: dashed, len: min..=LONG, doubted: true }
}

/// The longest part of a JSON Web Token.
const MAX_PART: usize = 8192;
/// The longest private key: RSA's of 16,384 bits takes 12,500 bytes.
const MAX_PEM: usize = 16 * 1024;

/// Of two with the same start the longer one stands first.
const PREFIXED: &[Prefixed] = &[
    sure("sk-ant-", Label::AnthropicKey, dashed, 20..=LONG),
    doubted("sk-", Label::OpenaiKey, 16),
    doubted("sess-", Label::OpenaiKey, 24),
    sure("AKIA", Label::AwsKey, upper_digit, 16..=16),
    sure("ASIA", Label::AwsKey, upper_digit, 16..=16),
    sure("github_pat_", Label::GithubToken, word, 30..=255),
    sure("ghp_", Label::GithubToken, word, 30..=255),
    sure("gho_", Label::GithubToken, word, 30..=255),
    sure("ghu_", Label::GithubToken, word, 30..=255),
    sure("ghs_", Label::GithubToken, word, 30..=LONG),
    sure("ghr_", Label::GithubToken, word, 30..=255),
    sure("glpat-", Label::GitlabToken, dotted, 20..=300),
    doubted("xoxa-", Label::SlackToken, 16),
    doubted("xoxb-", Label::SlackToken, 16),
    doubted("xoxe-", Label::SlackToken, 16),
    doubted("xoxo-", Label::SlackToken, 16),
    doubted("xoxp-", Label::SlackToken, 16),
    doubted("xoxr-", Label::SlackToken, 16),
    doubted("xoxs-", Label::SlackToken, 16),
    doubted("xapp-", Label::SlackToken, 16),
    sure("sk_live_", Label::StripeKey, alnum, 16..=255),
    sure("sk_test_", Label::StripeKey, alnum, 16..=255),
    sure("rk_live_", Label::StripeKey, alnum, 16..=255),
    sure("rk_test_", Label::StripeKey, alnum, 16..=255),
    sure("whsec_", Label::StripeKey, base64, 24..=255),
    sure("AIza", Label::GoogleKey, dashed, 35..=35),
    sure("GOCSPX-", Label::GoogleKey, dashed, 24..=40),
    sure("ya29.", Label::GoogleKey, dotted, 30..=LONG),
    sure("SG.", Label::SendgridKey, dotted, 40..=100),
    sure("npm_", Label::NpmToken, alnum, 36..=36),
    sure("pypi-Ag", Label::PypiToken, dashed, 40..=LONG),
    sure("hf_", Label::HuggingfaceToken, alnum, 30..=64),
    sure("sbp_", Label::SupabaseKey, hex, 32..=64),
    sure("sb_secret_", Label::SupabaseKey, dashed, 20..=64),
    sure("fc-", Label::FirecrawlKey, hex, 32..=32),
    doubted("weir_sk_", Label::WeirKey, 16),
    doubted("weir-", Label::WeirKey, 16),
    doubted("wr-", Label::WeirKey, 16),
    doubted("gsk_", Label::ApiKey, 32),
    doubted("xai-", Label::ApiKey, 32),
    doubted("pplx-", Label::ApiKey, 32),
    doubted("nvapi-", Label::ApiKey, 32),
    doubted("tvly-", Label::ApiKey, 24),
    doubted("hvs.", Label::ApiKey, 24),
    sure("lin_api_", Label::ApiKey, alnum, 32..=64),
    sure("dckr_pat_", Label::ApiKey, dashed, 20..=64),
    sure("shpat_", Label::ApiKey, hex, 32..=32),
    sure("dop_v1_", Label::ApiKey, hex, 64..=64),
    sure("r8_", Label::ApiKey, alnum, 37..=37),
    // Last: every "sk" of a text comes by here.
    sure("SK", Label::TwilioKey, hex, 32..=32),
];

/// Adds what stands at a literal, whose place is given.
type Check = fn(&[u8], usize, &mut Vec<Find>);

/// Literals that a secret stands at in another way. Letters are taken in both cases.
const OTHERS: &[(&str, Check)] = &[
    ("eyJ", jwt),
    ("bearer", bearer),
    ("basic", basic),
    ("-----BEGIN", private_key),
    ("://", url_password),
    ("pass", assignments::find),
    ("pwd", assignments::find),
    ("secret", secret),
    ("token", assignments::find),
    ("authorization", assignments::find),
    ("apikey", assignments::find),
    ("api key", assignments::find),
    ("accesskey", assignments::find),
    ("accountkey", assignments::find),
    ("privatekey", assignments::find),
    ("_key", assignments::find),
    ("-key", assignments::find),
];

#[expect(clippy::expect_used, reason = "the patterns are constants, and a test builds this")]
static ANCHORS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let others = OTHERS.iter().map(|(anchor, _)| *anchor);
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostFirst)
        .kind(Some(AhoCorasickKind::DFA))
        .build(PREFIXED.iter().map(|rule| rule.prefix).chain(others))
        .expect("a small automaton")
});

/// Adds the secrets in `text`.
pub(super) fn find(text: &[u8], finds: &mut Vec<Find>) {
    // What a form of its own was found for is not looked at again.
    let mut done = 0;
    for anchor in ANCHORS.find_iter(text) {
        let id = anchor.pattern().as_usize();
        if anchor.start() < done {
            continue;
        }
        if let Some(rule) = PREFIXED.get(id) {
            prefixed(rule, text, anchor.start(), finds);
        } else if let Some((_, check)) = OTHERS.get(id - PREFIXED.len()) {
            check(text, anchor.start(), finds);
        }
        let last = finds.last().filter(|find| find.label < Label::Jwt);
        done = last.map_or(done, |find| find.range.end.max(done));
    }
}

fn prefixed(rule: &Prefixed, text: &[u8], at: usize, finds: &mut Vec<Find>) {
    let joined = rule.doubted && matches!(before(text, at), b'-' | b'_');
    if joined || !tail(text, at).starts_with(rule.prefix.as_bytes()) || !may_start(text, at) {
        return;
    }
    let start = at + rule.prefix.len();
    let end = trimmed_end(text, start, run_end(text, start, rule.len.end() + 1, rule.class));
    let body = text.get(start..end).unwrap_or_default();
    if !rule.len.contains(&body.len()) || word(byte(text, end)) || distinct(body) < 4 {
        return;
    }
    if rule.doubted && !has_random_run(body) {
        return;
    }
    finds.push(Find { range: at..end, label: rule.label });
    if rule.label == Label::AwsKey {
        near_aws_secret(text, end, finds);
    }
}

/// Whether a secret can start at `at`: behind no letter or digit, but for one that is escaped in a URL.
fn may_start(text: &[u8], at: usize) -> bool {
    let percent = at.checked_sub(3).map_or(0, |at| byte(text, at));
    !alnum(before(text, at)) || (percent == b'%' && hex(before(text, at)))
}

/// Without what ends a sentence or is drawn around a word.
fn trimmed_end(text: &[u8], start: usize, end: usize) -> usize {
    let run = text.get(start..end).unwrap_or_default();
    end - run.iter().rev().take_while(|byte| matches!(byte, b'.' | b'-')).count()
}

/// Whether there is a stretch, or in parts a length, that words do not have.
fn has_random_run(body: &[u8]) -> bool {
    let longest = body.split(|byte| !alnum(*byte)).map(<[u8]>::len).max().unwrap_or_default();
    let digits = body.iter().filter(|byte| digit(**byte)).count();
    digits >= 2 && digits < body.len() && (longest >= 16 || (longest >= 10 && body.len() >= 24))
}

fn upper_digit(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

/// Header, claims and signature (an encrypted one has five parts); what is cut short counts from
/// two parts that are JSON.
fn jwt(text: &[u8], at: usize, finds: &mut Vec<Find>) {
    if !tail(text, at).starts_with(b"eyJ") || dashed(before(text, at)) {
        return;
    }
    let header = run_end(text, at, MAX_PART, dashed);
    let claims = run_end(text, header + 1, MAX_PART, dashed);
    if header < at + 10 || byte(text, header) != b'.' || claims < header + 5 {
        return;
    }
    let mut end = claims;
    for _ in 0..3 {
        if byte(text, end) == b'.' {
            end = run_end(text, end + 1, MAX_PART, dashed);
        }
    }
    let end = trimmed_end(text, at, end);
    if end > claims || tail(text, header + 1).starts_with(b"eyJ") {
        finds.push(Find { range: at..end, label: Label::Jwt });
    }
}

/// `Bearer <token>`: the word stays.
fn bearer(text: &[u8], at: usize, finds: &mut Vec<Find>) {
    let Some(start) = behind_word(text, at, b"bearer") else { return };
    let token_part = |byte: u8| dotted(byte) || matches!(byte, b'~' | b'+' | b'/' | b'=');
    let end = trimmed_end(text, start, run_end(text, start, LONG, token_part));
    let token = text.get(start..end).unwrap_or_default();
    if assignments::is_key(token, 8) {
        finds.push(Find { range: start..end, label: Label::BearerToken });
    }
}

/// `Basic <base64 of user:password>`: the word stays.
fn basic(text: &[u8], at: usize, finds: &mut Vec<Find>) {
    let Some(start) = behind_word(text, at, b"basic") else { return };
    let end = run_end(text, start, LONG, base64);
    let decoded = STANDARD.decode(text.get(start..end).unwrap_or_default()).unwrap_or_default();
    let printable = |byte: &u8| *byte >= b' ' && *byte != 0x7F;
    if decoded.contains(&b':') && decoded.iter().all(printable) {
        finds.push(Find { range: start..end, label: Label::BasicAuth });
    }
}

/// Where something starts behind the word `name` at `at` and its spaces.
fn behind_word(text: &[u8], at: usize, name: &[u8]) -> Option<usize> {
    let end = at + name.len();
    let start = run_end(text, end, 4, |byte| byte == b' ');
    (!alnum(before(text, at)) && start > end).then_some(start)
}

/// A PEM block to its end; what is cut short, to a quote or the text's end. A header alone is no secret.
fn private_key(text: &[u8], at: usize, finds: &mut Vec<Find>) {
    let head = tail(text, at + "-----BEGIN".len());
    let Some(name_len) = memmem::find(head.get(..head.len().min(48)).unwrap_or_default(), b"-----")
    else {
        return;
    };
    let (name, body) = head.split_at_checked(name_len).unwrap_or_default();
    if memmem::find(name, b"PRIVATE KEY").is_none() || !is_pem_body(tail(body, 5)) {
        return;
    }
    let from = text.len() - body.len() + 5;
    let body = tail(text, from);
    let near = body.get(..body.len().min(MAX_PEM)).unwrap_or_default();
    let end = memmem::find(near, b"-----END").map(|found| found + 8);
    let closed = end.and_then(|end| Some(end + memmem::find(tail(near, end), b"-----")? + 5));
    let cut = || memchr::memchr(b'"', body).unwrap_or(body.len());
    let range = at..from + closed.unwrap_or_else(cut);
    finds.push(Find { range, label: Label::PrivateKey });
}

/// Whether key material follows: behind line ends, as such or as escapes, quotes and indents.
fn is_pem_body(body: &[u8]) -> bool {
    let skip = |byte: u8| byte.is_ascii_whitespace() || b"\\nr\"'+,`>|*#/-".contains(&byte);
    let start = run_end(body, 0, 64, skip);
    let material = run_end(body, start, 16, base64) - start >= 16;
    material
        || [&b"Proc-Type"[..], b"Comment:", b"Version:"]
            .iter()
            .any(|head| tail(body, start).starts_with(head))
}

/// The password of `scheme://user:password@host`.
fn url_password(text: &[u8], at: usize, finds: &mut Vec<Find>) {
    if !alnum(before(text, at)) {
        return;
    }
    let start = at + 3;
    let strict = |byte: u8| !outside_url(byte) && !matches!(byte, b'/' | b'?' | b'#');
    let mut end = run_end(text, start, 512, strict);
    let authority = |end: usize| text.get(start..end).unwrap_or_default();
    if !authority(end).contains(&b'@') {
        // A password with a slash in it, unless what looks like one is a port.
        end = run_end(text, start, 512, |byte| !outside_url(byte));
        let port = authority(end).split(|byte| *byte == b':').nth(1).unwrap_or_default();
        if port.first().is_none_or(|byte| digit(*byte)) {
            return;
        }
    }
    let authority = authority(end);
    let Some(colon) = memchr::memchr(b':', authority) else { return };
    let Some(host) = memchr::memrchr(b'@', authority) else { return };
    let password = authority.get(colon + 1..host).unwrap_or_default();
    let user = authority.get(..colon).unwrap_or_default();
    if !password.is_empty() && !user.contains(&b'/') && !assignments::is_template(password) {
        let range = start + colon + 1..start + host;
        finds.push(Find { range, label: Label::Password });
    }
}

fn outside_url(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7F || b"\"'`<>\\|^".contains(&byte)
}

/// The word "secret": a value of its own, or one of Amazon's, which nothing marks but this word.
fn secret(text: &[u8], at: usize, finds: &mut Vec<Find>) {
    assignments::find(text, at, finds);
    near_aws_secret(text, at + "secret".len(), finds);
}

/// The first 40 bytes of base64 that start within 64 bytes from `at`.
fn near_aws_secret(text: &[u8], mut at: usize, finds: &mut Vec<Find>) {
    let limit = at + 64;
    at = run_end(text, at, 64, base64);
    while at < limit {
        at = run_end(text, at, 64, |byte| !base64(byte) || byte == b'=');
        let end = run_end(text, at, 64, |byte| base64(byte) && byte != b'=');
        let free = !dashed(byte(text, end)) && !dashed(before(text, at));
        if free && is_aws_secret(text.get(at..end).unwrap_or_default()) {
            finds.push(Find { range: at..end, label: Label::AwsSecret });
            return;
        }
        at = end.max(at + 1);
    }
}

/// Whether `value` has the form of an Amazon secret access key: 40 bytes in which chance shows.
pub(super) fn is_aws_secret(value: &[u8]) -> bool {
    let has = |class: fn(&u8) -> bool| value.iter().any(class);
    value.len() == 40
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_digit)
        && value.iter().all(|byte| base64(*byte))
        && distinct(value) >= 16
}
