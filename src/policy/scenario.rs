//! A request that somebody imagines: for policy tests, for `explain`, and for the control plane.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use serde::Deserialize;

use crate::metering::catalogue::Mode;
use crate::metering::lazy::LazyPrompt;
use crate::metering::tokens;
use crate::openai::endpoint::Endpoint;
use crate::openai::error::ApiError;
use crate::openai::request::RequestView;

use super::Policy;
use super::choose::Route;
use super::choose::Stop;
use super::explain::Explanation;
use super::facts::Facts;
use super::facts::KeyFacts;
use super::facts::Live;
use super::facts::ModelState;
use super::facts::NO_SHUTDOWN;

/// A request and whatever else a rule can ask about it.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    /// The request's body.
    pub body: Vec<u8>,
    /// The endpoint; where none is given, the one that the body's fields belong to.
    pub endpoint: Option<Endpoint>,
    /// The client's headers.
    pub headers: HeaderMap,
    /// Who calls.
    pub key: AssumedKey,
    /// When, in seconds since 1970 (UTC).
    pub unix_s: u64,
    /// Tokens of the prompt, instead of counting them.
    pub tokens: Option<u64>,
    /// Decides where chance decides.
    pub draw: Vec<u8>,
}

/// A calling key that somebody imagines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AssumedKey {
    /// Its name.
    pub name: String,
    /// Its team; empty for none.
    pub team: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// What is left of its tightest budget in USD; absent without a budget.
    pub budget_left_usd: Option<f64>,
    /// How much of that budget is used, 0 to 1.
    pub budget_used: f64,
}

impl Default for AssumedKey {
    fn default() -> Self {
        Self {
            name: "passthrough".to_owned(),
            team: String::new(),
            tags: Vec::new(),
            budget_left_usd: None,
            budget_used: 0.0,
        }
    }
}

/// Models that do as somebody assumes; of the others nothing is known but their last day.
pub struct Assumed<'a> {
    policy: &'a Policy,
    /// Days since 1970.
    today: i64,
    pub(super) models: BTreeMap<&'a str, ModelState>,
    pub(super) outputs: BTreeMap<&'a str, f64>,
}

impl<'a> Assumed<'a> {
    /// Nothing is known of any model. `unix_s` tells the day, in seconds since 1970.
    pub fn new(policy: &'a Policy, unix_s: u64) -> Self {
        let today = i64::try_from(unix_s / 86_400).unwrap_or(i64::MAX);
        Self { policy, today, models: BTreeMap::new(), outputs: BTreeMap::new() }
    }

    /// A model about which nothing is assumed.
    pub(super) fn usual(&self, name: &str) -> ModelState {
        let row = self.policy.model_of(&self.policy.target(name));
        let day = row.and_then(|row| row.shutdown).map(|day| day.days_since_epoch());
        let days_to_shutdown = day.map_or(NO_SHUTDOWN, |day| day - self.today);
        ModelState { days_to_shutdown, ..ModelState::default() }
    }
}

impl Live for Assumed<'_> {
    fn model(&self, name: &str) -> ModelState {
        self.models.get(name).copied().unwrap_or_else(|| self.usual(name))
    }

    fn expected_output(&self, route: &str) -> Option<f64> {
        self.outputs.get(route).copied()
    }
}

impl Scenario {
    /// Decides as a running gateway does, and says how it came about. Counts a long prompt here:
    /// that takes milliseconds.
    ///
    /// # Errors
    /// The body is no request.
    pub fn decide(
        &self,
        policy: &Policy,
        live: &dyn Live,
    ) -> Result<(Explanation, Result<Route, Stop>), ApiError> {
        let view = RequestView::parse_model_optional(&self.body)?;
        let endpoint = self.endpoint.unwrap_or_else(|| self.endpoint_of(&view, policy));
        if endpoint != Endpoint::Responses {
            RequestView::parse(&self.body)?;
        }
        let model = view.model();
        let encoding = policy.encoding_of(model);
        let prompt = LazyPrompt::of_request(encoding, &view, &self.body);
        if let Some(tokens) = self.tokens {
            prompt.supply(tokens);
        }
        let request = (&view, &self.body[..]);
        let mut facts =
            Facts::new(endpoint, request, prompt, &self.headers, self.key.facts(), live);
        facts.unix_s = self.unix_s;
        facts.draw = &self.draw;
        let (mut explanation, mut decision) = explained(policy, &facts);
        if decision == Err(Stop::NeedsExact) {
            facts.prompt.supply(tokens::estimate_prompt_as(encoding, model, &self.body));
            (explanation, decision) = explained(policy, &facts);
        }
        explanation.conclude(policy.revision(), model, &decision);
        Ok((explanation, decision))
    }

    /// The endpoint that the body's fields belong to. `input` is what both responses and embeddings
    /// have: there the model tells.
    fn endpoint_of(&self, view: &RequestView, policy: &Policy) -> Endpoint {
        let has = |name| view.raw(&self.body, name).is_some();
        let is_text = |raw: &[u8]| raw.starts_with(b"\"") || raw.starts_with(b"[");
        let embeds = || {
            let mode = policy.model_of(&policy.target(view.model())).map(|model| model.mode);
            mode == Some(Mode::Embedding) || has("encoding_format") || has("dimensions")
        };
        match () {
            () if has("messages") => Endpoint::ChatCompletions,
            () if has("input") && embeds() => Endpoint::Embeddings,
            () if has("input") => Endpoint::Responses,
            () if view.raw(&self.body, "prompt").is_some_and(is_text) => Endpoint::Completions,
            () if has("prompt") => Endpoint::Responses,
            () => Endpoint::ChatCompletions,
        }
    }
}

fn explained(policy: &Policy, facts: &Facts<'_>) -> (Explanation, Result<Route, Stop>) {
    let mut explanation = Explanation::default();
    let decision = policy.choose(facts, &mut explanation);
    (explanation, decision)
}

impl AssumedKey {
    fn facts(&self) -> KeyFacts<'_> {
        KeyFacts {
            name: &self.name,
            team: &self.team,
            tags: &self.tags,
            importance: "normal",
            budget_left_usd: self.budget_left_usd.unwrap_or(f64::INFINITY),
            budget_used: self.budget_used,
        }
    }
}

/// The endpoint of that name, with or without `/v1/` before it.
///
/// # Errors
/// A sentence that says what is known.
pub fn endpoint_named(name: &str) -> Result<Endpoint, String> {
    let path = name.trim_start_matches('/');
    let path = path.strip_prefix("v1/").unwrap_or(path);
    [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Completions, Endpoint::Embeddings]
        .into_iter()
        .find(|endpoint| endpoint.name() == path)
        .ok_or_else(|| {
            format!(
                "`{name}` is not routed by model; write chat/completions, responses, completions \
                 or embeddings"
            )
        })
}

/// Headers by name.
///
/// # Errors
/// A sentence about the first name or value that no header can have. The value is not shown.
pub fn headers<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of header `{name}` holds a control character"))?;
        let name = HeaderName::try_from(name).map_err(|_| format!("`{name}` is no header"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Settings;
    use crate::policy::Sources;

    fn policy(yaml: &str) -> Policy {
        let sources = Sources::of([("a.yaml".to_owned(), yaml.to_owned())].into());
        Policy::check(&sources, &Settings::default()).policy.unwrap()
    }

    fn seen(body: &str) -> Endpoint {
        let view = RequestView::parse_model_optional(body.as_bytes()).unwrap();
        let scenario = Scenario { body: body.into(), ..Scenario::default() };
        scenario.endpoint_of(&view, &policy("routes: []"))
    }

    #[test]
    fn a_body_tells_its_endpoint() {
        use Endpoint::ChatCompletions;
        use Endpoint::Completions;
        use Endpoint::Embeddings;
        use Endpoint::Responses;
        assert_eq!(seen(r#"{"model":"m","messages":[]}"#), ChatCompletions);
        assert_eq!(seen(r#"{"model":"m","input":"x"}"#), Responses);
        assert_eq!(seen(r#"{"prompt":{"id":"p"}}"#), Responses);
        assert_eq!(seen(r#"{"model":"text-embedding-3-small","input":"x"}"#), Embeddings);
        assert_eq!(seen(r#"{"model":"m","input":"x","dimensions":8}"#), Embeddings);
        assert_eq!(seen(r#"{"model":"m","prompt":"x"}"#), Completions);
        assert_eq!(seen(r#"{"model":"m"}"#), ChatCompletions);
    }

    #[test]
    fn an_endpoint_is_named_by_its_path() {
        assert_eq!(endpoint_named("/v1/responses"), Ok(Endpoint::Responses));
        assert_eq!(endpoint_named("chat/completions"), Ok(Endpoint::ChatCompletions));
        assert!(endpoint_named("files").unwrap_err().contains("embeddings"));
    }

    #[test]
    fn a_model_ends_on_its_day() {
        let policy = policy("models:\n  gpt-5: { successor: gpt-6.1-terra }\n");
        let body = br#"{"model":"gpt-5","messages":[]}"#.to_vec();
        let model = |unix_s| {
            let scenario = Scenario { body: body.clone(), unix_s, ..Scenario::default() };
            let (explanation, _) =
                scenario.decide(&policy, &Assumed::new(&policy, unix_s)).unwrap();
            explanation.model.unwrap()
        };
        // 2026-12-10T23:59:59Z and the second after it; gpt-5 ends on 2026-12-11.
        assert_eq!(model(1_796_947_199), "gpt-5");
        assert_eq!(model(1_796_947_200), "gpt-6.1-terra");
    }

    #[test]
    fn a_body_that_is_no_request_is_an_error() {
        let policy = policy("routes: []");
        let decide = |body: &str| {
            let scenario = Scenario { body: body.into(), ..Scenario::default() };
            scenario.decide(&policy, &Assumed::new(&policy, 0)).map(|_| ()).unwrap_err().code
        };
        assert_eq!(decide("[]"), "invalid_json");
        assert_eq!(decide(r#"{"messages":[]}"#), "missing_required_parameter");
    }
}
