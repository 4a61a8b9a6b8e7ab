//! The policy files as they are written: what serde reads, before anything is resolved.
//!
//! The doc comments here are what `weir policy schema` tells an editor.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_saphyr::Spanned;

use super::units::PerMinute;
use super::units::Seconds;

/// The JSON Schema of a policy file: what `weir policy schema` prints.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(PolicyFile).to_value()
}

/// One YAML file of a weir policy folder. All files of the folder are one policy.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PolicyFile {
    /// Providers that speak OpenAI's API, by name.
    #[schemars(with = "BTreeMap<String, UpstreamEntry>")]
    pub(super) upstreams: Named<UpstreamEntry>,
    /// What differs from the built-in catalogue, by model name.
    #[schemars(with = "BTreeMap<String, ModelEntry>")]
    pub(super) models: Named<ModelEntry>,
    /// Routing rules; the first that matches decides. No match: the model asked for.
    #[schemars(with = "Vec<RouteEntry>")]
    pub(super) routes: Vec<Spanned<RouteEntry>>,
    /// Limits of requests, tokens and money.
    #[schemars(with = "Vec<LimitEntry>")]
    pub(super) limits: Vec<Spanned<LimitEntry>>,
    /// What is kept of requests and answers; the first that matches decides. No match: full.
    #[schemars(with = "Vec<CaptureEntry>")]
    pub(super) capture: Vec<Spanned<CaptureEntry>>,
    /// Webhooks out.
    #[schemars(with = "Vec<HookEntry>")]
    pub(super) hooks: Vec<Spanned<HookEntry>>,
}

/// A provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamEntry {
    /// Stands for the client's /v1: https://api.openai.com/v1
    #[schemars(with = "String")]
    pub(super) base_url: Spanned<String>,
    /// The gateway's own key. Absent or empty: the caller's own key goes through.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) api_key: Option<Spanned<String>>,
    /// The file that holds the key.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) api_key_file: Option<Spanned<String>>,
    /// Certificates (PEM) to trust instead of the system's.
    #[serde(default)]
    pub(super) ca_file: Option<String>,
    #[serde(default)]
    pub(super) timeouts: TimeoutsEntry,
    /// Calls at the same time (1000).
    #[serde(default)]
    #[schemars(with = "Option<u32>")]
    pub(super) max_in_flight: Option<Spanned<usize>>,
}

/// Deadlines of one attempt.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeoutsEntry {
    /// Name look-up, TCP and TLS (2s).
    #[schemars(with = "Option<String>")]
    pub(super) connect: Option<Spanned<Seconds>>,
    /// From the request's last byte to the answer's head (10m).
    #[schemars(with = "Option<String>")]
    pub(super) first_byte: Option<Spanned<Seconds>>,
    /// Between two pieces of an answer (2m).
    #[schemars(with = "Option<String>")]
    pub(super) idle: Option<Spanned<Seconds>>,
}

/// A model, as far as it differs from the catalogue.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ModelEntry {
    /// The upstream that serves it (the one named `openai`, else the first).
    #[schemars(with = "Option<String>")]
    pub(super) upstream: Option<Spanned<String>>,
    /// Its name there.
    pub(super) r#as: Option<String>,
    /// How good it is, 0 to 1, by your own judgement; read by `min_quality`.
    #[schemars(with = "Option<f64>")]
    pub(super) quality: Option<Spanned<f64>>,
    /// USD per million tokens, by kind of token.
    #[schemars(with = "Option<BTreeMap<String, f64>>")]
    pub(super) price: Option<BTreeMap<String, Decimal>>,
    /// Most input tokens of one request.
    pub(super) context: Option<u64>,
    /// Its tokenizer, such as `o200k_base`.
    pub(super) encoding: Option<String>,
    /// The model that takes over on the day this one is shut down.
    #[schemars(with = "Option<String>")]
    pub(super) successor: Option<Spanned<String>>,
}

/// A routing rule. At most one of `use`, `split`, `cheapest`, `fastest`, `reject`; none of them
/// keeps the model asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteEntry {
    /// Its name, in `x-weir-route` and in metrics.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// A condition in CEL. Absent: always.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) when: Option<Spanned<String>>,
    /// The model to take.
    #[serde(default, rename = "use")]
    #[schemars(with = "Option<String>")]
    pub(super) target: Option<Spanned<String>>,
    /// Models to try when the chosen one fails, in order.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) fallback: Vec<Spanned<String>>,
    /// Shares of the traffic by model.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, u32>>")]
    pub(super) split: Option<Spanned<Named<u32>>>,
    /// Who always gets the same arm of a split.
    #[serde(default)]
    pub(super) sticky: Option<Sticky>,
    /// The model with the least expected cost.
    #[serde(default)]
    #[schemars(with = "Option<PickEntry>")]
    pub(super) cheapest: Option<Spanned<PickEntry>>,
    /// The model with the least 95th percentile of time to the last byte.
    #[serde(default)]
    #[schemars(with = "Option<PickEntry>")]
    pub(super) fastest: Option<Spanned<PickEntry>>,
    /// Refuses the request with 403.
    #[serde(default)]
    pub(super) reject: Option<RejectEntry>,
    /// Top-level fields written into the request.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(super) set: Option<Spanned<BTreeMap<String, serde_json::Value>>>,
    /// Tries in all, the first included (3).
    #[serde(default)]
    #[schemars(with = "Option<u32>")]
    pub(super) attempts: Option<Spanned<u32>>,
    /// From the request's arrival to the answer's first byte, over all attempts.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) deadline: Option<Spanned<Seconds>>,
    /// What becomes of the call upstream when the client leaves.
    #[serde(default)]
    pub(super) on_disconnect: OnDisconnect,
    /// Refuses models that neither policy nor catalogue knows with 404.
    #[serde(default)]
    pub(super) known_models_only: bool,
    /// Puts what documents say about the last question before it.
    #[serde(default)]
    #[schemars(with = "Option<RetrieveEntry>")]
    pub(super) retrieve: Option<Spanned<RetrieveEntry>>,
}

/// Passages of documents for a conversation's last question.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetrieveEntry {
    /// Where they are from: the name of a source of documents.
    #[schemars(with = "String")]
    pub(super) source: Spanned<String>,
    /// Passages at most, 1 to 100 (6).
    #[serde(default)]
    #[schemars(with = "Option<u32>")]
    pub(super) top_k: Option<Spanned<u32>>,
    /// Tokens that they add to the prompt at most, all told (2000).
    #[serde(default)]
    #[schemars(with = "Option<u32>")]
    pub(super) max_tokens: Option<Spanned<u32>>,
    /// Longest wait for them; then the request goes without (1s).
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) timeout: Option<Spanned<Seconds>>,
    /// Which pages count. Absent: all of the source's.
    #[serde(default)]
    pub(super) filter: PagesEntry,
}

/// Pages of a source.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PagesEntry {
    /// What their URLs begin with.
    pub(super) url_prefix: Option<String>,
    /// What their metadata say, by name: a text, a number, true or false.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(super) metadata: Option<Spanned<BTreeMap<String, serde_json::Value>>>,
}

/// Who is kept on one arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sticky {
    /// `safety_identifier`, else `user`.
    User,
    /// `x-weir-session`.
    Session,
    /// The calling key.
    Key,
}

/// What becomes of the call upstream when the client leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It is cancelled at once; what was seen is counted.
    #[default]
    Cancel,
    /// It is read to its end, for its usage.
    Drain,
}

/// A choice among models.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PickEntry {
    /// The models to choose from.
    #[schemars(with = "Vec<String>")]
    pub(super) of: Vec<Spanned<String>>,
    /// Least `quality`.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(super) min_quality: Option<Spanned<f64>>,
    /// Greatest 95th percentile of time to the last byte.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) max_p95: Option<Seconds>,
}

/// What a refused caller is told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RejectEntry {
    /// The sentence in the error.
    pub(super) message: String,
}

/// A limit. The tightest of those that match decides.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitEntry {
    /// Its name.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// Whom it is for, a condition in CEL. Absent: everybody.
    #[serde(default, rename = "match")]
    #[schemars(with = "Option<String>")]
    pub(super) matches: Option<Spanned<String>>,
    /// What is counted together: key, team, user, tag:<name> or global.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) per: Option<Spanned<String>>,
    /// Money.
    #[serde(default)]
    pub(super) budget: Option<BudgetEntry>,
    /// Such as 600/min.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) requests: Option<Spanned<PerMinute>>,
    /// Such as 1000000/min.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) tokens: Option<Spanned<PerMinute>>,
    /// Calls at the same time.
    #[serde(default)]
    #[schemars(with = "Option<u32>")]
    pub(super) concurrent: Option<Spanned<u32>>,
    /// `reject` (default) or `{downgrade: model}`.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) on_budget: Option<Spanned<serde_json::Value>>,
    /// local_share (default), reject or allow.
    #[serde(default)]
    pub(super) on_redis_down: Option<OnRedisDown>,
}

/// An amount and its window.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetEntry {
    /// US dollars.
    #[schemars(with = "f64")]
    pub(super) usd: Spanned<Decimal>,
    /// The window, in UTC.
    pub(super) every: Every,
}

/// A window of a budget, in UTC; each longer than the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// On the hour.
    Hour,
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    Month,
}

/// What limits do without Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRedisDown {
    /// The limit divided by the gateways last seen.
    LocalShare,
    /// No request passes.
    Reject,
    /// Every request passes.
    Allow,
}

/// What is kept of some requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureEntry {
    /// A condition in CEL. Absent: always.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) when: Option<Spanned<String>>,
    /// Everything, everything but the bodies, or nothing.
    #[serde(default)]
    pub(super) mode: CaptureMode,
    /// Share of the requests whose bodies are kept, 0 to 1.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(super) sample: Option<Spanned<f64>>,
    /// What is replaced by placeholders before it reaches a disk ([secrets]).
    #[serde(default)]
    #[schemars(with = "Option<Vec<Redact>>")]
    pub(super) redact: Option<Vec<Redact>>,
    /// How long bodies are kept, such as 90d. Absent: until somebody erases them.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) keep: Option<Seconds>,
    /// On disk before the answer's last byte leaves; without room for that the request is refused.
    #[serde(default)]
    pub(super) durable: bool,
}

/// How much is kept; each less than the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// Bodies and figures.
    #[default]
    Full,
    /// Figures only.
    Metadata,
    /// Nothing but the bill.
    Off,
}

impl CaptureMode {
    /// As policies and `x-weir-capture` spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Metadata => "metadata",
            Self::Off => "off",
        }
    }
}

/// What is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Redact {
    /// Keys, tokens, passwords.
    Secrets,
    /// E-mail addresses, phone numbers, cards, IBANs, SSNs, IP addresses.
    Pii,
}

/// A webhook out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HookEntry {
    /// Where events are posted.
    #[schemars(with = "String")]
    pub(super) url: Spanned<String>,
    /// Signs each post (Standard Webhooks).
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) secret: Option<Spanned<String>>,
    /// The file that holds the secret.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) secret_file: Option<Spanned<String>>,
    /// Fixed headers, for receivers that check no signature.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) headers: BTreeMap<String, Spanned<String>>,
    /// Which events, such as `policy.rejected` or `budget.*`.
    #[schemars(with = "Vec<String>")]
    pub(super) events: Vec<Spanned<String>>,
}

/// A price as it is written, so that no digit is lost on the way to exact money.
#[derive(Debug, Clone)]
pub(super) struct Decimal(pub(super) String);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        // YAML scalars are text until somebody asks for a number.
        String::deserialize(input).map(Self)
    }
}

/// The entries of a mapping with the place of each name, in the order written.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) Vec<(Spanned<String>, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }

            fn visit_unit<E>(self) -> Result<Named<T>, E> {
                Ok(Named::default())
            }
        }

        input.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_place() {
        let yaml = "models:\n  a: { as: x }\n  b: {}\n";
        let file: PolicyFile = serde_saphyr::from_str(yaml).unwrap();
        let place = |(name, _): &(Spanned<String>, ModelEntry)| {
            (name.value.clone(), name.referenced.line(), name.referenced.column())
        };
        let places: Vec<_> = file.models.0.iter().map(place).collect();
        assert_eq!(places, [("a".to_owned(), 2, 3), ("b".to_owned(), 3, 3)]);
    }
}
