//! What a rule can ask about a request: the variables of `when`.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use http::HeaderMap;
use serde::Deserialize;
use serde::Serialize;

use crate::metering::lazy::LazyPrompt;
use crate::openai::endpoint::Endpoint;
use crate::openai::request::RequestView;
use crate::openai::shape::Shape;

/// Everything that a decision is made from. Nothing is read, counted or looked up before a rule
/// that is reached asks for it.
pub struct Facts<'a> {
    /// The endpoint that was called.
    pub endpoint: Endpoint,
    /// The request's fields.
    pub view: &'a RequestView,
    /// The bytes that `view` was read from.
    pub body: &'a [u8],
    /// `tokens.prompt`.
    pub prompt: LazyPrompt<'a>,
    /// The client's headers: `header[…]`, `tag[…]`, `importance`, the session.
    pub headers: &'a HeaderMap,
    /// Who calls.
    pub key: KeyFacts<'a>,
    /// When it was asked, in seconds since 1970 (UTC).
    pub unix_s: u64,
    /// Whether the model asked for is an alias of a promoted one: known, though no policy names it.
    pub is_alias: bool,
    /// How the models are doing.
    pub live: &'a dyn Live,
    /// Decides where chance decides: the record's id, so that a replay decides the same.
    pub draw: &'a [u8],
    /// Where the end user's name is not known any more: its digest.
    pub(super) user_digest: Option<String>,
    /// Whether conditions held that cannot be asked any more, by [`Facts::held_key`].
    pub(super) held: Option<&'a BTreeMap<String, bool>>,
    shape: OnceCell<Shape>,
}

/// The calling key, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct KeyFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its team; empty for none.
    pub team: &'a str,
    /// Its tags.
    pub tags: &'a [String],
    /// `importance` of requests that do not say theirs.
    pub importance: &'static str,
    /// What is left of its tightest budget, in USD; infinite without a budget.
    pub budget_left_usd: f64,
    /// How much of that budget is used, 0 to 1.
    pub budget_used: f64,
}

/// How a model is doing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelState {
    /// Median time to an answer's last byte in milliseconds; 0 as long as nothing is known.
    pub p50_ms: f64,
    /// 95th percentile of it; 0 as long as nothing is known.
    pub p95_ms: f64,
    /// Share of calls that the provider failed, 0 to 1.
    pub error_rate: f64,
    /// Calls that are running.
    pub in_flight: u64,
    /// Whether its provider takes requests: no pause asked, not over its `max_in_flight`.
    pub available: bool,
    /// Days until it stops to answer; [`NO_SHUTDOWN`] where no day is known.
    pub days_to_shutdown: i64,
}

/// `days_to_shutdown` of a model without a day: a hundred years.
pub const NO_SHUTDOWN: i64 = 36_500;

impl Default for ModelState {
    fn default() -> Self {
        Self {
            p50_ms: 0.0,
            p95_ms: 0.0,
            error_rate: 0.0,
            in_flight: 0,
            available: true,
            days_to_shutdown: NO_SHUTDOWN,
        }
    }
}

/// Knows how models are doing: the gateway's live figures, or those that a test assumes.
pub trait Live {
    /// The state of a model of the policy.
    fn model(&self, name: &str) -> ModelState;

    /// The output tokens that answers of `route` usually have; `None` without history.
    fn expected_output(&self, route: &str) -> Option<f64>;
}

impl<'a> Facts<'a> {
    /// The facts of one request. The fields that are not given here are public: set them.
    pub fn new(
        endpoint: Endpoint,
        (view, body): (&'a RequestView, &'a [u8]),
        prompt: LazyPrompt<'a>,
        headers: &'a HeaderMap,
        key: KeyFacts<'a>,
        live: &'a dyn Live,
    ) -> Self {
        let shape = OnceCell::new();
        Self {
            endpoint,
            view,
            body,
            prompt,
            headers,
            key,
            unix_s: 0,
            is_alias: false,
            live,
            draw: b"",
            user_digest: None,
            held: None,
            shape,
        }
    }

    /// Counts of messages, images and tools.
    pub fn shape(&self) -> Shape {
        *self.shape.get_or_init(|| Shape::read(self.view, self.body))
    }

    /// Whether anybody has asked for the shape.
    pub(super) fn knows_shape(&self) -> bool {
        self.shape.get().is_some()
    }

    /// Facts of a request whose body is not there any more.
    pub(super) fn assume_shape(&self, shape: Shape) {
        // Nobody has asked before.
        let _ = self.shape.set(shape);
    }

    /// What a split that sticks to users tells them apart by; empty without a user. A digest, so
    /// that a record can say it without the name.
    pub(super) fn user_digest(&self) -> String {
        if let Some(digest) = &self.user_digest {
            return digest.clone();
        }
        let user = self.user();
        if user.is_empty() {
            return String::new();
        }
        hex(&user, 16)
    }

    /// Whether a condition holds, as far as a record says so.
    pub(super) fn held(&self, condition: &str) -> Option<bool> {
        self.held?.get(&Self::held_key(condition)).copied()
    }

    /// What a record calls a condition: a digest, since its text may name people and keys.
    pub(super) fn held_key(condition: &str) -> String {
        hex(condition, 8)
    }

    /// `importance`: `low`, `normal` or `high`; whatever else a client writes is `normal`, and
    /// where it writes nothing its key decides.
    pub fn importance(&self) -> &'static str {
        match self.header("x-weir-importance") {
            Some("low") => "low",
            Some("high") => "high",
            Some(_) => "normal",
            None => self.key.importance,
        }
    }

    /// A header's first value; `None` where it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The value of `x-weir-tag-<name>`.
    pub fn tag(&self, name: &str) -> Option<&'a str> {
        const PREFIX: &str = "x-weir-tag-";
        let mut header = String::with_capacity(PREFIX.len() + name.len());
        header.push_str(PREFIX);
        header.push_str(name);
        self.header(&header)
    }

    /// A value of the request's `metadata`.
    pub fn metadata(&self, name: &str) -> Option<Cow<'a, str>> {
        self.view.entry(self.body, "metadata", name)
    }

    /// The platform's name of its end user: `safety_identifier`, else `user`; empty for none.
    pub fn user(&self) -> Cow<'a, str> {
        let named = |name| self.view.string(self.body, name).filter(|text| !text.is_empty());
        named("safety_identifier").or_else(|| named("user")).unwrap_or_default()
    }

    /// Hour of the day, 0 to 23, UTC.
    pub fn hour(&self) -> i64 {
        i64::try_from(self.unix_s / 3_600 % 24).unwrap_or_default()
    }

    /// Day of the week as CEL counts it: 0 is Sunday, 6 is Saturday; UTC.
    pub fn weekday(&self) -> i64 {
        // 1970-01-01 was a Thursday.
        i64::try_from((self.unix_s / 86_400 + 4) % 7).unwrap_or_default()
    }
}

/// The first bytes of a text's digest.
pub(super) fn hex(text: &str, bytes: usize) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::metering::tokens::Encoding;

    /// Models about which nothing is known.
    pub(crate) struct Unknown;

    impl Live for Unknown {
        fn model(&self, _: &str) -> ModelState {
            ModelState::default()
        }

        fn expected_output(&self, _: &str) -> Option<f64> {
            None
        }
    }

    /// A caller without a key of its own.
    pub(crate) const NOBODY: KeyFacts<'static> = KeyFacts {
        name: "passthrough",
        team: "",
        tags: &[],
        importance: "normal",
        budget_left_usd: f64::INFINITY,
        budget_used: 0.0,
    };

    /// Runs `check` on the facts of a chat request.
    pub(crate) fn with_facts<R>(body: &str, check: impl FnOnce(&mut Facts<'_>) -> R) -> R {
        let view = RequestView::parse(body.as_bytes()).unwrap();
        let prompt = LazyPrompt::new(Encoding::O200kBase, "gpt-5", body.as_bytes());
        let headers = HeaderMap::new();
        let request = (&view, body.as_bytes());
        let endpoint = Endpoint::ChatCompletions;
        check(&mut Facts::new(endpoint, request, prompt, &headers, NOBODY, &Unknown))
    }

    #[test]
    fn the_clock_is_read_in_utc() {
        with_facts(r#"{"model":"m"}"#, |facts| {
            // 2026-11-23T13:21:09Z, a Monday.
            facts.unix_s = 1_795_440_069;
            assert_eq!((facts.hour(), facts.weekday()), (13, 1));
            facts.unix_s = 0;
            assert_eq!((facts.hour(), facts.weekday()), (0, 4));
        });
    }

    #[test]
    fn a_user_has_two_names_and_the_newer_one_counts() {
        let user = |body: &str| with_facts(body, |facts| facts.user().into_owned());
        assert_eq!(user(r#"{"model":"m","user":"u","safety_identifier":"s"}"#), "s");
        assert_eq!(user(r#"{"model":"m","user":"u"}"#), "u");
        assert_eq!(user(r#"{"model":"m","user":7}"#), "");
    }

    #[test]
    fn metadata_is_read_by_key() {
        let body = r#"{"model":"m","metadata":{"app":"a\"b","n":1}}"#;
        with_facts(body, |facts| {
            assert_eq!(facts.metadata("app").as_deref(), Some("a\"b"));
            assert_eq!(facts.metadata("n"), None);
            assert_eq!(facts.metadata("x"), None);
        });
    }
}
