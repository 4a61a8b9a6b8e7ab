//! Asks the policy where a request goes; counts its prompt first where a rule needs that.

use std::sync::Arc;
use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use tokio::sync::Semaphore;

use crate::limits::Now;
use crate::metering::lazy::Effort;
use crate::metering::lazy::LazyPrompt;
use crate::metering::tokens;
use crate::openai::error::ApiError;
use crate::openai::request::RequestView;
use crate::policy::Basis;
use crate::policy::Capture;
use crate::policy::CaptureMode;
use crate::policy::Claim;
use crate::policy::EvalError;
use crate::policy::Explanation;
use crate::policy::Facts;
use crate::policy::KeyFacts;
use crate::policy::Noted;
use crate::policy::Outlook;
use crate::policy::Route;
use crate::policy::Rule;
use crate::policy::Stop;
use crate::policy::Trace;
use crate::telemetry::metrics::Metrics;

use super::Gateway;
use super::auth::Client;
use super::call::Call;
use super::capture;
use super::error;
use super::live::LiveView;

const EXPLAIN: HeaderName = HeaderName::from_static("x-weir-explain");

/// Long prompts that are counted at the same time: as many as there are cores. Each takes one for
/// milliseconds; others wait, and the reactor does not.
static COUNTING: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

/// A request that is to be routed.
pub(super) struct Asked<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) view: &'a RequestView,
    pub(super) body: &'a Bytes,
}

/// Where a request goes, and the limits that hold for it.
pub(super) struct Decision {
    pub(super) route: Route,
    pub(super) claims: Vec<Claim>,
    /// What it is expected to take, where a limit asks.
    pub(super) outlook: Option<Outlook>,
}

/// Decides, and writes the decision down where the client wants to see it.
pub(super) async fn decide(
    gateway: &Gateway,
    asked: &Asked<'_>,
    call: &mut Call,
) -> Result<Decision, ApiError> {
    let explains = asked.headers.contains_key(EXPLAIN);
    if call.policy.limits().is_empty()
        && let Some(capture) = call.policy.captures_all()
        && let Some(route) = call.policy.unconditional(asked.view.model()).filter(|_| !explains)
    {
        call.capture = capture.at_most(capture::allowed(asked.headers, &call.client));
        return Ok(Decision { route, claims: Vec::new(), outlook: None });
    }
    let mut decision = choose(gateway, asked, call, None);
    if matches!(decision, Err(Stop::NeedsExact)) {
        let tokens = count(asked, call).await;
        decision = choose(gateway, asked, call, Some(tokens));
    }
    decision.map_err(|stop| match stop {
        Stop::Refused(refusal) => {
            call.refused_by = Some(refusal.rule);
            error::refused(&refusal.why, asked.view.model())
        }
        // A prompt that is supplied is not asked for again.
        Stop::NeedsExact => error::refused_count(),
    })
}

/// What is kept of a call whose body is not read, or not yet: figures at most, by what its head
/// tells.
pub(super) fn capture_of_head(gateway: &Gateway, headers: &HeaderMap, call: &Call) -> Capture {
    let least = Capture::metadata().at_most(capture::allowed(headers, &call.client));
    if call.policy.captures_all().is_some() {
        return least;
    }
    let ruled = by_head(gateway, headers, call, |facts| call.policy.capture(facts));
    Capture { durable: false, ..ruled.and_then(Result::ok).unwrap_or(least).at_most(least.mode) }
}

/// The limits of a call whose body is not read, by what its head tells.
pub(super) fn claims_of_head(gateway: &Gateway, headers: &HeaderMap, call: &Call) -> Vec<Claim> {
    let claims = by_head(gateway, headers, call, |facts| call.policy.claims(facts));
    claims.and_then(Result::ok).unwrap_or_default()
}

/// Asks about a call whose body is not read, or not yet.
fn by_head<T>(
    gateway: &Gateway,
    headers: &HeaderMap,
    call: &Call,
    ask: impl FnOnce(&Facts<'_>) -> T,
) -> Option<T> {
    const NOTHING: &[u8] = b"{}";
    let view = RequestView::parse_model_optional(NOTHING).ok()?;
    let live = LiveView::new(&gateway.live, &gateway.upstreams, &call.policy);
    let prompt = LazyPrompt::new(call.policy.encoding_of(""), "", NOTHING);
    let key = key_of(&call.client);
    let mut facts = Facts::new(call.endpoint, (&view, NOTHING), prompt, headers, key, &live);
    facts.unix_s = call.id.get_timestamp().map_or(0, |time| time.to_unix().0);
    Some(ask(&facts))
}

fn key_of(client: &Client) -> KeyFacts<'_> {
    KeyFacts {
        name: client.key(),
        team: client.team(),
        tags: client.tags(),
        importance: client.importance(),
        budget_left_usd: f64::INFINITY,
        budget_used: 0.0,
    }
}

/// Counts a long prompt away from the reactor.
async fn count(asked: &Asked<'_>, call: &Call) -> u64 {
    let model = asked.view.model().to_owned();
    let encoding = call.policy.encoding_of(&model);
    let body = asked.body.clone();
    let _turn = COUNTING.acquire().await;
    let counted =
        tokio::task::spawn_blocking(move || tokens::estimate_prompt_as(encoding, &model, &body));
    // It does not panic; were it to, the prompt would count as empty.
    counted.await.unwrap_or_default()
}

/// One pass over the rules. `tokens` is the prompt's count where it is known already.
fn choose(
    gateway: &Gateway,
    asked: &Asked<'_>,
    call: &mut Call,
    tokens: Option<u64>,
) -> Result<Decision, Stop> {
    let policy = Arc::clone(&call.policy);
    let view = LiveView::new(&gateway.live, &gateway.upstreams, &policy);
    let noted = Noted::of(&view);
    let model = asked.view.model();
    let prompt = LazyPrompt::of_request(policy.encoding_of(model), asked.view, asked.body);
    if let Some(tokens) = tokens {
        prompt.supply(tokens);
    }
    let client = call.client.clone();
    let key = key_of(&client);
    let request = (asked.view, &asked.body[..]);
    let mut facts = Facts::new(call.endpoint, request, prompt, asked.headers, key, &noted);
    facts.unix_s = call.id.get_timestamp().map_or(0, |time| time.to_unix().0);
    facts.is_alias = gateway.aliases.get(model).is_some();
    let id = call.id.into_bytes();
    facts.draw = &id;
    let claims = policy.claims(&facts).map_err(|_| Stop::NeedsExact)?;
    if policy.reads_budget()
        && let Some((left, used)) = gateway.access.limits.budget_left(&claims, Now::read())
    {
        (facts.key.budget_left_usd, facts.key.budget_used) = (left.to_f64(), used);
    }
    let mut counted = Counted(&gateway.metrics);
    let mut decision = policy.choose(&facts, &mut counted);
    let mut outlook = None;
    if let Ok(route) = &decision
        && claims.iter().any(|claim| claim.limit.counts_tokens())
    {
        outlook = Some(policy.outlook(&route.rule, &facts)?);
    }
    // Also of a call that is refused: its record must not say more than the policy wants.
    if decision != Err(Stop::NeedsExact) {
        match policy.capture(&facts) {
            Ok(capture) => {
                call.capture = capture.at_most(capture::allowed(asked.headers, &client));
            }
            Err(_) => decision = Err(Stop::NeedsExact),
        }
    }
    if decision != Err(Stop::NeedsExact) {
        if gateway.recorder.is_some() && call.capture.mode != CaptureMode::Off {
            let seen = Basis::of(&policy, &facts, &noted, &decision, call.keeps_bodies());
            call.facts = serde_json::value::to_raw_value(&seen).ok();
        }
        note_effort(&facts.prompt, tokens.is_some(), &gateway.metrics);
        // The same decision once more, and followed: few ask for it.
        if asked.headers.get(EXPLAIN).is_some_and(|wanted| wanted == "1") {
            let mut explanation = Explanation::default();
            let again = policy.choose(&facts, &mut explanation);
            explanation.conclude(policy.revision(), model, &again);
            call.explanation = Some(explanation.to_header());
        }
    }
    decision.map(|route| Decision { route, claims, outlook })
}

/// Counts what it took to know the prompt's tokens, where a rule asked for them.
fn note_effort(prompt: &LazyPrompt<'_>, supplied: bool, metrics: &Metrics) {
    match prompt.effort() {
        _ if supplied => metrics.prompt_counted("exact"),
        Effort::Nothing => {}
        Effort::Bound => metrics.prompt_counted("bound"),
        Effort::Counted => metrics.prompt_counted("counted"),
        Effort::Sampled => metrics.prompt_counted("sampled"),
        Effort::Exact => metrics.prompt_counted("exact"),
    }
}

/// Counts conditions that have no value.
struct Counted<'a>(&'a Metrics);

impl Trace for Counted<'_> {
    fn rule(&mut self, rule: &Rule, outcome: &Result<bool, EvalError>, _: &Facts<'_>) {
        if outcome.is_err() {
            self.0.rule_error(&rule.name);
        }
    }
}
