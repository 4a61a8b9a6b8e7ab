//! Redacts pairs before they reach a disk, with the same placeholders throughout a conversation.

use std::sync::Mutex;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use ring::rand::SecureRandom as _;
use ring::rand::SystemRandom;

use crate::redact::Placeholders;
use crate::redact::json;

use super::pair::Pair;
use super::spool::lock;

/// Conversations whose placeholders are remembered, as far as they take this much memory. A later
/// request of a conversation usually repeats what came before it, and numbers its values alike; only
/// where it does not, as with `previous_response_id`, memory is needed.
const REMEMBERED_BYTES: u64 = 16 << 20;
const USUAL: usize = 4096;

/// Redacts pairs. The memory is locked only to look something up: a thread that has a conversation's
/// placeholders in hand does not hold up others.
pub(super) struct Redactor {
    key: [u8; 16],
    conversations: Mutex<Cache<String, Placeholders, Weight>>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<String, Placeholders> for Weight {
    fn weight(&self, name: &String, placeholders: &Placeholders) -> u64 {
        let bytes = 512 + name.len() + 48 * placeholders.remembered();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl Redactor {
    pub(super) fn new() -> Self {
        let mut key = [0; 16];
        // Without randomness the hashes in memory can be guessed at; there they stay.
        let _ = SystemRandom::new().fill(&mut key);
        let conversations = Cache::with_weighter(USUAL, REMEMBERED_BYTES, Weight);
        Self { key, conversations: Mutex::new(conversations) }
    }

    /// Replaces what the pair's rule wants replaced; returns how much of each type as a JSON object.
    pub(super) fn redact(&self, pair: &mut Pair) -> Option<String> {
        if !pair.redact.any() {
            return None;
        }
        let name = pair.conversation.as_ref();
        let known = name.and_then(|name| lock(&self.conversations).remove(name));
        let mut placeholders =
            known.map_or_else(|| Placeholders::new(self.key), |(_, placeholders)| placeholders);
        placeholders.forget_counts();
        for body in [&mut pair.request, &mut pair.response] {
            let changed = match json(pair.redact, &mut placeholders, body) {
                std::borrow::Cow::Borrowed(_) => None,
                std::borrow::Cow::Owned(changed) => Some(Bytes::from(changed)),
            };
            if let Some(changed) = changed {
                *body = changed;
            }
        }
        let counts: serde_json::Map<_, _> =
            placeholders.counts().map(|(name, count)| (name.to_owned(), count.into())).collect();
        if let Some(name) = pair.conversation.take().filter(|_| placeholders.remembered() > 0) {
            lock(&self.conversations).insert(name, placeholders);
        }
        (!counts.is_empty()).then(|| serde_json::Value::Object(counts).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::Kinds;

    fn redacted(redactor: &Redactor, conversation: Option<&str>, said: &str) -> String {
        let mut pair = Pair {
            request: Bytes::from(said.to_owned()),
            response: Bytes::from_static(b"{}"),
            may_train: true,
            redact: Kinds { secrets: true, pii: true },
            conversation: conversation.map(str::to_owned),
        };
        redactor.redact(&mut pair);
        String::from_utf8(pair.request.to_vec()).unwrap()
    }

    #[test]
    fn placeholders_stay_the_same_throughout_a_conversation() {
        let redactor = Redactor::new();
        let first = redacted(&redactor, Some("k s"), r#"{"a":"ada@example.com"}"#);
        assert_eq!(first, r#"{"a":"<EMAIL_1>"}"#);
        let said = r#"{"a":"bob@example.com and ada@example.com"}"#;
        let second = redacted(&redactor, Some("k s"), said);
        assert_eq!(second, r#"{"a":"<EMAIL_2> and <EMAIL_1>"}"#);
        // Another conversation, or none, begins anew.
        for other in [Some("k t"), None] {
            let fresh = redacted(&redactor, other, said);
            assert_eq!(fresh, r#"{"a":"<EMAIL_1> and <EMAIL_2>"}"#);
        }
    }

    #[test]
    fn what_was_replaced_is_counted_for_each_pair() {
        let redactor = Redactor::new();
        let pair = |said: &'static [u8]| {
            let mut pair = Pair {
                request: Bytes::from_static(said),
                response: Bytes::from_static(b"\"bob@example.com\""),
                may_train: true,
                redact: Kinds { secrets: false, pii: true },
                conversation: Some("k s".to_owned()),
            };
            redactor.redact(&mut pair)
        };
        assert_eq!(pair(b"\"ada@example.com\"").as_deref(), Some(r#"{"EMAIL":2}"#));
        assert_eq!(pair(b"\"nobody\"").as_deref(), Some(r#"{"EMAIL":1}"#));
    }
}
