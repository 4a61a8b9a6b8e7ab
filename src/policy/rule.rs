//! A routing rule as it is after the check: every name resolved, every condition compiled.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde_json::value::RawValue;

use crate::openai::endpoint::Endpoint;

use super::Upstream;
use super::expression::Expression;
use super::file::OnDisconnect;
use super::file::Sticky;
use super::retrieve::Retrieve;

/// Tries of a rule that names no number. OpenAI's clients make the same three.
pub(super) const DEFAULT_ATTEMPTS: u32 = 3;

/// One rule of the policy.
#[derive(Debug)]
pub struct Rule {
    /// Its name, in headers, records and metrics.
    pub name: Arc<str>,
    /// The name as `x-weir-route` carries it.
    pub header: HeaderValue,
    /// Tries in all, the first included.
    pub attempts: u32,
    /// From the request's arrival to the answer's first byte, over all attempts.
    pub deadline: Option<Duration>,
    /// Top-level fields written into the request.
    pub set: Vec<(String, Box<RawValue>)>,
    /// What becomes of the call upstream when the client leaves.
    pub on_disconnect: OnDisconnect,
    /// The documents that its conversations are given passages of.
    pub retrieve: Option<Retrieve>,
    pub(super) when: Option<Expression>,
    pub(super) action: Action,
    pub(super) fallback: Vec<Arc<Target>>,
    pub(super) known_models_only: bool,
}

/// A model at its provider.
#[derive(Debug)]
pub struct Target {
    /// The model as the policy knows it.
    pub model: Arc<str>,
    /// The model's name at the upstream.
    pub upstream_model: Arc<str>,
    /// The provider.
    pub upstream: Arc<Upstream>,
    /// How good it is, 0 to 1, where the policy says.
    pub(super) quality: Option<f64>,
    /// The model that takes over on the day this one is shut down.
    pub(super) successor: Option<Arc<str>>,
}

/// What a rule does with the requests that it matches.
#[derive(Debug)]
pub(super) enum Action {
    /// They get the model that they ask for.
    Asked,
    /// They get this model.
    Use(Arc<Target>),
    /// They are divided.
    Split { arms: Vec<Arm>, sticky: Option<Sticky> },
    /// They get the model with the least expected cost.
    Cheapest(Pick),
    /// They get the model with the least 95th percentile of time.
    Fastest(Pick),
    /// They are refused with this sentence.
    Reject(String),
}

/// One arm of a split.
#[derive(Debug)]
pub(super) struct Arm {
    pub(super) weight: f64,
    pub(super) target: Arc<Target>,
}

/// Models to choose from.
#[derive(Debug)]
pub(super) struct Pick {
    pub(super) of: Vec<Arc<Target>>,
    pub(super) min_quality: Option<f64>,
    pub(super) max_p95: Option<Duration>,
}

impl Pick {
    /// Whether a model is good enough. One without a quality is, where none is demanded.
    pub(super) fn is_good(&self, target: &Target) -> bool {
        self.min_quality.is_none_or(|least| target.quality.is_some_and(|quality| quality >= least))
    }
}

impl Rule {
    /// Tokens that it may add to the prompt of a request.
    pub(super) fn adds_at_most(&self, endpoint: Endpoint) -> u64 {
        self.retrieve.as_ref().map_or(0, |retrieve| retrieve.at_most(endpoint))
    }

    /// What happens where no rule decides.
    pub(super) fn unruled(name: &'static str) -> Self {
        Self {
            name: Arc::from(name),
            header: HeaderValue::from_static(name),
            attempts: DEFAULT_ATTEMPTS,
            deadline: None,
            set: Vec::new(),
            on_disconnect: OnDisconnect::Cancel,
            retrieve: None,
            when: None,
            action: Action::Asked,
            fallback: Vec::new(),
            known_models_only: false,
        }
    }

    /// Whether its decision may depend on the prompt's tokens.
    pub(super) fn reads_tokens(&self) -> bool {
        matches!(self.action, Action::Cheapest(_) | Action::Fastest(_))
            || self.when.as_ref().is_some_and(Expression::reads_tokens)
    }

    /// Whether its decision depends on what is left of a budget.
    pub(super) fn reads_budget(&self) -> bool {
        self.when.as_ref().is_some_and(Expression::reads_budget)
    }

    /// Whether its decision depends on how models are doing.
    pub(super) fn reads_live(&self) -> bool {
        matches!(self.action, Action::Cheapest(_) | Action::Fastest(_))
            || self.when.as_ref().is_some_and(|when| when.models().next().is_some())
    }
}
