//! One finished call as the metrics see it: its labels, and what was observed.

use std::fmt::Write as _;
use std::time::Duration;

use crate::metering::cost::Usd;
use crate::openai::usage::Usage;
use crate::telemetry::traces::TraceId;

/// Labels that all histograms of calls have.
pub(super) const CALL: &[&str] = &[
    "gen_ai_operation_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "gen_ai_provider_name",
    "error_type",
];

/// Label values of one call. All come from a closed set: what policy and catalogue do not know is
/// `other`.
#[derive(Clone, Copy, Debug)]
pub struct CallLabels<'a> {
    /// `gen_ai_operation_name`: chat, text_completion, embeddings or other.
    pub operation: &'a str,
    /// The model that the client asked for.
    pub request_model: &'a str,
    /// The model that answered.
    pub response_model: &'a str,
    /// The upstream's name.
    pub provider: &'a str,
    /// Empty on success.
    pub error_type: &'a str,
    /// The key's team.
    pub team: &'a str,
    /// The key's name.
    pub key: &'a str,
    /// The model that the rule chose; empty for none.
    pub model: &'a str,
    /// The routing rule.
    pub route: &'a str,
    /// HTTP status that the client got.
    pub status: u16,
}

/// One finished call.
#[derive(Clone, Debug)]
pub struct Observation {
    /// From the request's first byte to the answer's last.
    pub took: Duration,
    /// From the request's first byte to the answer's first event; streams only.
    pub first_token: Option<Duration>,
    /// The gateway's own share of the time until the answer's head left; calls that reached an
    /// upstream only.
    pub overhead: Option<Duration>,
    /// What the call used, if anything could be read or counted.
    pub usage: Option<Usage>,
    /// Whether `usage` was counted here because the upstream reported none.
    pub usage_estimated: bool,
    /// What it cost; `None` where there is usage and no rate for it.
    pub cost: Option<Usd>,
    /// What the same usage costs at the model that was asked for, where another one answered and
    /// both have a price.
    pub asked_cost: Option<Usd>,
    /// Its trace, where that is kept.
    pub trace: Option<TraceId>,
}

impl<'a> CallLabels<'a> {
    /// The values of [`CALL`].
    pub(super) fn call(&self) -> [&'a str; 5] {
        let Self { operation, request_model, response_model, provider, error_type, .. } = *self;
        [operation, request_model, response_model, provider, error_type]
    }

    /// All values, as one key.
    pub(super) fn joined(&self) -> String {
        let mut key = String::with_capacity(160);
        for value in [
            self.operation,
            self.request_model,
            self.response_model,
            self.provider,
            self.error_type,
            self.team,
            self.key,
            self.route,
            self.model,
        ] {
            key.push_str(value);
            key.push('\0');
        }
        // Writing to a String cannot fail.
        let _ = write!(key, "{}", self.status);
        key
    }
}
