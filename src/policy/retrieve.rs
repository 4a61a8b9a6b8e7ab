//! `retrieve` of a rule: which documents its conversations are given passages of.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Map;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::openai::endpoint::Endpoint;

use super::file::RetrieveEntry;
use super::file::RouteEntry;
use super::findings::File;
use super::findings::Findings;

/// Passages when nobody says how many, and the most; the same as of a search.
const TOP_K: u32 = 6;
const MOST_PASSAGES: u32 = 100;
/// Tokens when nobody says how many. With fewer than the least not even one short passage fits beside
/// the words around it; the most is what the largest models of 2026 hold, and some.
const MAX_TOKENS: u32 = 2_000;
const TOKENS: RangeInclusive<u32> = 100..=2_000_000;
const TIMEOUT: Duration = Duration::from_secs(1);
/// Fields that hold a conversation.
const CONVERSATIONS: [&str; 2] = ["messages", "input"];

/// The documents of a rule.
#[derive(Clone, Debug)]
pub struct Retrieve {
    /// The source's name. Whether there is one shows when it is searched: documents are not the
    /// policy's.
    pub source: String,
    /// Passages at most.
    pub top_k: u32,
    /// Tokens of the message with them at most, all told.
    pub max_tokens: u64,
    /// Longest wait.
    pub timeout: Duration,
    /// What the pages' URLs begin with.
    pub url_prefix: Option<String>,
    /// What the pages' metadata say.
    pub metadata: Map<String, Value>,
}

impl Retrieve {
    /// Tokens that it may add to a request's prompt.
    pub(super) fn at_most(&self, endpoint: Endpoint) -> u64 {
        endpoint.conversation().map_or(0, |_| self.max_tokens)
    }
}

/// Checks what a rule wants retrieved; `None` when it cannot be.
pub(super) fn retrieve(
    rule: &RouteEntry,
    entry: &Spanned<RetrieveEntry>,
    file: File<'_>,
    findings: &mut Findings,
) -> Option<Retrieve> {
    check_rule(rule, entry, file, findings);
    let RetrieveEntry { source, top_k, max_tokens, timeout, filter } = &entry.value;
    if !is_name(&source.value) {
        let message = format!("`{}` cannot be the name of a source", source.value);
        let cure = "write it as `weir sources list` does";
        findings.cure(file, source, message, cure);
    }
    let top_k = number("top_k", top_k.as_ref(), TOP_K, 1..=MOST_PASSAGES, file, findings);
    let tokens = number("max_tokens", max_tokens.as_ref(), MAX_TOKENS, TOKENS, file, findings);
    let timeout = findings.duration("timeout", timeout, file).unwrap_or(TIMEOUT);
    Some(Retrieve {
        source: source.value.clone(),
        top_k: top_k?,
        max_tokens: tokens?.into(),
        timeout,
        url_prefix: filter.url_prefix.clone(),
        metadata: metadata(filter.metadata.as_ref(), file, findings)?,
    })
}

/// What else the rule does may leave nothing to put passages into.
fn check_rule(
    rule: &RouteEntry,
    entry: &Spanned<RetrieveEntry>,
    file: File<'_>,
    findings: &mut Findings,
) {
    if rule.reject.is_some() {
        let message = format!("rule `{}` has both `retrieve` and `reject`", rule.name.value);
        findings.cure(file, entry, message, "who is refused needs no documents; take one out");
    }
    let set = rule.set.as_ref().map(|set| &set.value);
    let replaced =
        CONVERSATIONS.iter().find(|name| set.is_some_and(|set| set.contains_key(**name)));
    if let Some(name) = replaced {
        let message =
            format!("`set` of `{name}` replaces the conversation that `retrieve` adds to");
        findings.cure(file, entry, message, "take one of them out");
    }
}

fn number(
    key: &str,
    given: Option<&Spanned<u32>>,
    usual: u32,
    fits: RangeInclusive<u32>,
    file: File<'_>,
    findings: &mut Findings,
) -> Option<u32> {
    let Some(given) = given else { return Some(usual) };
    if !fits.contains(&given.value) {
        let (least, most) = (fits.start(), fits.end());
        findings.error(
            file,
            given,
            format!("{key} must be {least} to {most}, not {}", given.value),
        );
        return None;
    }
    Some(given.value)
}

fn metadata(
    given: Option<&Spanned<BTreeMap<String, Value>>>,
    file: File<'_>,
    findings: &mut Findings,
) -> Option<Map<String, Value>> {
    let Some(given) = given else { return Some(Map::new()) };
    let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    if let Some((name, _)) = given.value.iter().find(|(_, value)| !plain(value)) {
        let message = format!("metadata `{name}` is compared with no text, number, true or false");
        findings.error(file, given, message);
        return None;
    }
    Some(given.value.clone().into_iter().collect())
}

/// As sources are named.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain)
}
