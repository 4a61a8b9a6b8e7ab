//! One finished call as the store keeps it: a row of `interactions`, written as one JSON object.

use serde::Serialize;
use serde::Serializer;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::metering::cost::Bill;
use crate::metering::cost::Part;
use crate::metering::cost::PriceStatus;
use crate::metering::cost::UsageSource;
use crate::metering::money::Usd;
use crate::openai::usage::Usage;

use super::user::UserHash;

/// One finished call, without a word of what was said in it: that is a [`super::Pair`]. Serialised as the JSON object that the
/// database takes apart: a field's name is its column's name, and what is empty is left out.
#[derive(Clone, Debug, Serialize)]
pub struct Interaction<'a> {
    /// The call's id, a UUIDv7: `x-weir-id`.
    pub id: Uuid,
    /// When the request arrived, in milliseconds since 1970.
    pub created_at: u64,
    /// The name of the caller's key, never the key.
    pub key_name: &'a str,
    /// The key's team.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub team: &'a str,
    /// The key's tags.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub key_tags: &'a [String],
    /// The end user that the request names, as a keyed hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_user_hash: Option<&'a UserHash>,
    /// `x-weir-session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// `x-weir-tag-<name>: value`.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "object")]
    pub tags: &'a [(String, String)],
    /// The path below `/v1/` where it is one that is understood, else `other`.
    pub endpoint: &'a str,
    /// The routing rule.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub route: &'a str,
    /// The policy's revision.
    pub policy_version: &'a str,
    /// The model that the client asked for.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub requested_model: &'a str,
    /// The model that the route chose, as the policy names it: `x-weir-model`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub model: &'a str,
    /// Its name at the upstream.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub upstream_model: &'a str,
    /// The model that the answer names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_model: Option<&'a str>,
    /// The upstream.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub provider: &'a str,
    /// The tier that the answer names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'a str>,
    /// Whether a stream was asked for.
    #[serde(skip_serializing_if = "is_false")]
    pub streamed: bool,
    /// HTTP status; 499 when the client left before it had one.
    pub status_code: u16,
    /// What went wrong; empty when nothing did.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub error_code: &'a str,
    /// Why the model stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<&'a str>,
    /// Whether the client went away before the answer's end.
    #[serde(skip_serializing_if = "is_false")]
    pub client_left: bool,
    /// Tries at upstreams.
    pub attempts: u32,
    /// From the request's first byte to the answer's last.
    pub latency_ms: u64,
    /// From the request's first byte to the first event of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<u64>,
    /// What was used and what it costs; nothing is billed without.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub charge: Option<Charge>,
    /// The id that the answer gives itself, such as `chatcmpl-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_id: Option<&'a str>,
    /// What became of each try.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub attempt_log: &'a [Attempt<'a>],
    /// How much is kept; `None` leaves the word to the spool, which has the bodies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<&'static str>,
    /// When the bodies go, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// What routing saw of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<&'a RawValue>,
    /// The promoted alias that the call was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<&'a str>,
    /// The model that it was meant for; another one answered where that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_arm: Option<&'a str>,
    /// What was looked for in documents, where the rule wants that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<&'a Retrieval>,
}

/// A look into documents for a call, and what was put into its conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// The source of the documents.
    pub source: String,
    /// What came of it, in the words of `weir_retrievals_total`.
    pub outcome: &'static str,
    /// Why it failed, as an error's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// How long the request waited for it.
    pub took_ms: u64,
    /// Tokens that it added to the prompt.
    pub tokens: u64,
    /// The passages that were put in, the best first.
    pub passages: Vec<Cited>,
}

/// A passage without its words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cited {
    /// Its page.
    pub url: String,
    /// The headings above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub heading: String,
    /// How well it fits, as searches tell it.
    pub score: f64,
    /// Its tokens, with those of the words around it.
    pub tokens: u64,
}

/// One try at an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt<'a> {
    /// The upstream.
    pub upstream: &'a str,
    /// The model, as the policy names it.
    pub model: &'a str,
    /// What became of it, in the words of `weir_attempts_total`.
    pub outcome: &'static str,
}

/// What a call used and what that costs.
#[derive(Clone, Debug, Serialize)]
pub struct Charge {
    #[serde(serialize_with = "usage_source")]
    usage_source: UsageSource,
    #[serde(flatten)]
    usage: Tokens,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "object")]
    pub(super) rates: Vec<(&'static str, i64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cost_picodollars: Option<i64>,
    #[serde(serialize_with = "price_status")]
    price_status: PriceStatus,
}

impl Charge {
    /// What the ledger keeps of a bill.
    pub fn of(bill: &Bill) -> Self {
        let whole = |money: Usd| i64::try_from(money.picodollars()).unwrap_or(i64::MAX);
        let rate = |part: &Part| Some((part.kind.as_str(), whole(part.price?)));
        Self {
            usage_source: bill.source,
            usage: Tokens(bill.usage),
            rates: bill.parts.iter().filter_map(rate).collect(),
            cost_picodollars: bill.cost.map(whole),
            price_status: bill.status,
        }
    }
}

/// A place in a usage.
type TokenField = fn(&mut Usage) -> &mut u64;

/// The columns of a usage's parts.
pub(super) const TOKENS: [(&str, TokenField); 11] = [
    ("input_tokens", |usage| &mut usage.input),
    ("cached_input_tokens", |usage| &mut usage.cached_input),
    ("cached_audio_input_tokens", |usage| &mut usage.cached_audio_input),
    ("cached_image_input_tokens", |usage| &mut usage.cached_image_input),
    ("cache_write_tokens", |usage| &mut usage.cache_write),
    ("audio_input_tokens", |usage| &mut usage.audio_input),
    ("image_input_tokens", |usage| &mut usage.image_input),
    ("output_tokens", |usage| &mut usage.output),
    ("reasoning_tokens", |usage| &mut usage.reasoning),
    ("audio_output_tokens", |usage| &mut usage.audio_output),
    ("image_output_tokens", |usage| &mut usage.image_output),
];

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Id,
    /// Milliseconds since 1970 in a record.
    Time,
    Text,
    Number,
    /// A number that is 0 where the record leaves it out.
    Count,
    Flag,
    Json,
    /// A JSON array.
    List,
}

/// Every column that a record fills, in the order of the statement that inserts it.
pub(super) const COLUMNS: [(&str, Kind); 50] = [
    ("id", Kind::Id),
    ("created_at", Kind::Time),
    ("key_name", Kind::Text),
    ("team", Kind::Text),
    ("end_user_hash", Kind::Text),
    ("session_id", Kind::Text),
    ("tags", Kind::Json),
    ("endpoint", Kind::Text),
    ("route", Kind::Text),
    ("policy_version", Kind::Text),
    ("requested_model", Kind::Text),
    ("model", Kind::Text),
    ("upstream_model", Kind::Text),
    ("response_model", Kind::Text),
    ("provider", Kind::Text),
    ("service_tier", Kind::Text),
    ("streamed", Kind::Flag),
    ("status_code", Kind::Number),
    ("error_code", Kind::Text),
    ("finish_reason", Kind::Text),
    ("client_left", Kind::Flag),
    ("attempts", Kind::Count),
    ("latency_ms", Kind::Count),
    ("ttft_ms", Kind::Number),
    ("usage_source", Kind::Text),
    ("input_tokens", Kind::Count),
    ("cached_input_tokens", Kind::Count),
    ("cached_audio_input_tokens", Kind::Count),
    ("cached_image_input_tokens", Kind::Count),
    ("cache_write_tokens", Kind::Count),
    ("audio_input_tokens", Kind::Count),
    ("image_input_tokens", Kind::Count),
    ("output_tokens", Kind::Count),
    ("reasoning_tokens", Kind::Count),
    ("audio_output_tokens", Kind::Count),
    ("image_output_tokens", Kind::Count),
    ("rates", Kind::Json),
    ("cost_picodollars", Kind::Number),
    ("price_status", Kind::Text),
    ("response_id", Kind::Text),
    ("attempt_log", Kind::List),
    ("capture", Kind::Text),
    ("consent", Kind::Text),
    ("redaction", Kind::Json),
    ("facts", Kind::Json),
    ("expires_at", Kind::Time),
    ("key_tags", Kind::List),
    ("alias", Kind::Text),
    ("alias_arm", Kind::Text),
    ("retrieval", Kind::Json),
];

/// A usage as its columns; zeros are left out.
#[derive(Clone, Debug)]
struct Tokens(Usage);

impl Serialize for Tokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut usage = self.0;
        let parts = TOKENS.map(|(name, field)| (name, *field(&mut usage)));
        serializer.collect_map(parts.into_iter().filter(|(_, tokens)| *tokens > 0))
    }
}

fn object<K, V, S>(pairs: &[(K, V)], serializer: S) -> Result<S::Ok, S::Error>
where
    K: Serialize,
    V: Serialize,
    S: Serializer,
{
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn usage_source<S: Serializer>(source: &UsageSource, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(source.as_str())
}

fn price_status<S: Serializer>(status: &PriceStatus, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.as_str())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}
