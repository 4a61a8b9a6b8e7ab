//! Replay: what a policy would have done with calls that are recorded, and what that would have cost.
//!
//! Pure: a recorded call goes in, and figures come out. The decision is made again from what routing
//! saw; the cost is the recorded usage at the policy's prices.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::metering::cost::PriceStatus;
use crate::metering::cost::UsageSource;
use crate::metering::cost::price;
use crate::metering::lazy::LazyPrompt;
use crate::metering::money::Usd;
use crate::openai::endpoint::Endpoint;
use crate::openai::request::RequestView;
use crate::openai::shape::Shape;
use crate::openai::usage::Usage;

use super::Policy;
use super::basis::Basis;
use super::choose::Stop;
use super::facts::Facts;
use super::facts::KeyFacts;
use super::facts::Live;
use super::facts::ModelState;
use super::rule::Target;
use super::scenario::Assumed;

/// Answers of a model that have to be there before a band is given.
const LEAST_HISTORY: u64 = 20;
/// How wide one class of the histogram of output tokens is: 5 %.
const CLASS: f64 = 1.05;

/// A call as it was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Its id: decides where chance decides.
    pub id: [u8; 16],
    /// When it was asked, in seconds since 1970.
    pub unix_s: u64,
    /// The endpoint's name.
    pub endpoint: String,
    /// The policy that decided.
    pub revision: String,
    /// The rule that decided; empty for none.
    pub route: String,
    /// The model that was asked for.
    pub requested_model: String,
    /// The promoted alias that the model stood for; empty for none.
    pub alias: String,
    /// The model that answered, as the policy names it.
    pub model: String,
    /// Its name at the upstream.
    pub upstream_model: String,
    /// The model that the answer names.
    pub response_model: String,
    /// The calling key.
    pub key: String,
    /// The key's team.
    pub team: String,
    /// `x-weir-tag-<name>`.
    pub tags: BTreeMap<String, String>,
    /// `x-weir-session`.
    pub session: String,
    /// The tier that the answer names.
    pub service_tier: Option<String>,
    /// HTTP status.
    pub status: u16,
    /// What was used; `None` where nothing is known.
    pub usage: Option<Usage>,
    /// Whether the provider said so.
    pub reported: bool,
    /// The rates that were applied, in picodollars a token.
    pub rates: BTreeMap<String, i64>,
    /// What it cost.
    pub cost: Option<Usd>,
    /// What routing saw; `None` where nobody noted it.
    pub basis: Option<Basis>,
    /// The request's body, where that is needed and there.
    pub body: Option<Vec<u8>>,
}

/// Output tokens of each model's answers, by class.
#[derive(Clone, Debug, Default)]
pub struct History(BTreeMap<String, BTreeMap<u32, u64>>);

impl History {
    /// Notes answers of so many output tokens.
    pub fn note(&mut self, model: &str, output: u64, answers: u64) {
        let classes = self.0.entry(model.to_owned()).or_default();
        *classes.entry(class_of(output)).or_default() += answers;
    }

    /// What nine of ten answers write at least, and at most; `None` with too few answers.
    fn band(&self, model: &str) -> Option<(u64, u64)> {
        let classes = self.0.get(model)?;
        let all: u64 = classes.values().sum();
        let quantile = |tenths: u64| {
            let mut before = 0;
            let found = classes.iter().find(|(_, count)| {
                before += **count;
                before * 10 >= all * tenths
            });
            found.map_or(0, |(class, _)| middle_of(*class))
        };
        (all >= LEAST_HISTORY).then(|| (quantile(1), quantile(9)))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a class of a count of tokens is a small number that is not negative"
)]
fn class_of(output: u64) -> u32 {
    ((output as f64 + 1.0).ln() / CLASS.ln()).round() as u32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
fn middle_of(class: u32) -> u64 {
    (CLASS.powf(f64::from(class)) - 1.0).round() as u64
}

/// What replayed calls came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Calls.
    pub requests: u64,
    /// Those that would go to another model first, or be refused, or not be refused.
    pub changed: u64,
    /// Those that would be refused.
    pub refused: u64,
    /// What they cost, those without a price left out.
    pub recorded_cost_usd: Usd,
    /// What they would cost with the tokens that are recorded.
    pub projected_cost_usd: Usd,
    /// The second less the first.
    pub difference_usd: Usd,
    /// What they would cost if the models that they move to wrote as little as in a tenth of their
    /// own answers.
    pub projected_low_usd: Usd,
    /// The same for as much.
    pub projected_high_usd: Usd,
    /// Of the calls that move, those to a model whose own answers are too few for a band.
    pub without_history: u64,
    /// Calls with usage that have no price, recorded or projected: in no sum.
    pub unpriced: u64,
}

/// The calls of one recorded route and model.
#[derive(Clone, Debug, Serialize)]
pub struct ReplayLine {
    /// The rule that decided.
    pub route: String,
    /// The model that answered.
    pub model: String,
    /// Where they would go: how many to which rule and model.
    pub to: BTreeMap<String, u64>,
    /// What they came to.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What a policy would have done.
#[derive(Clone, Debug, Serialize)]
pub struct ReplayReport {
    object: &'static str,
    /// The policy that was replayed.
    pub revision: String,
    /// Everything.
    pub total: Figures,
    /// Calls that this policy decided itself and of which it is known what it saw; and those of them
    /// that it decides alike.
    pub own: u64,
    /// The same.
    pub reproduced: u64,
    /// Calls about which less was recorded than the decision may need.
    pub approximate: u64,
    /// Calls that cannot be decided again: nothing of the request is known, or the row cannot be read.
    pub skipped: u64,
    /// By recorded route and model.
    pub lines: Vec<ReplayLine>,
}

/// Sends recorded calls through a policy.
pub struct Replay<'a> {
    policy: &'a Policy,
    history: &'a History,
    lines: BTreeMap<(String, String), (Figures, BTreeMap<String, u64>)>,
    own: u64,
    reproduced: u64,
    approximate: u64,
    skipped: u64,
}

/// How models were doing when a call was decided.
struct Remembered<'a> {
    basis: Option<&'a Basis>,
    usual: Assumed<'a>,
}

impl Live for Remembered<'_> {
    fn model(&self, name: &str) -> ModelState {
        let basis = self.basis.and_then(|basis| basis.models.get(name).copied());
        basis.unwrap_or_else(|| self.usual.model(name))
    }

    fn expected_output(&self, route: &str) -> Option<f64> {
        self.basis?.outputs.get(route).copied()
    }
}

impl<'a> Replay<'a> {
    /// Nothing is replayed yet. `history` says what each model's answers are like.
    pub fn of(policy: &'a Policy, history: &'a History) -> Self {
        Self {
            policy,
            history,
            lines: BTreeMap::new(),
            own: 0,
            reproduced: 0,
            approximate: 0,
            skipped: 0,
        }
    }

    /// Replays a call.
    pub fn add(&mut self, call: &Recorded) {
        let is_own = call.revision == self.policy.revision();
        // Without rules the model asked for is all there is to know.
        let is_known = call.basis.is_some() || self.policy.rules.is_empty();
        let decision = match is_own && !is_known {
            true => as_recorded(self.policy, call),
            false => decide(self.policy, call),
        };
        let Some(decision) = decision else {
            self.skipped += 1;
            return;
        };
        // Who noted nothing was asked for a model, and asked for it first.
        // An alias is what the policy chose; where it leads is not the policy's to say.
        let unnoted = if call.alias.is_empty() { &call.model } else { &call.alias };
        let chosen = call.basis.as_ref().map_or(unnoted, |basis| &basis.chosen);
        let (route, target) = match &decision {
            Ok((route, target)) => (&**route, Some(&**target)),
            Err(route) => (&**route, None),
        };
        let same = target.map_or("", |target| &target.model) == chosen.as_str();
        if is_own && is_known {
            self.own += 1;
            self.reproduced += u64::from(same && route == call.route);
        }
        let less = call.basis.as_ref().is_none_or(|it| it.shape_in_body && call.body.is_none());
        self.approximate += u64::from(less);
        let key = (call.route.clone(), call.model.clone());
        let (figures, to) = self.lines.entry(key).or_default();
        let place = match target {
            Some(target) => format!("{route}: {}", target.model),
            None => format!("{route}: refused"),
        };
        *to.entry(place).or_default() += 1;
        figures.requests += 1;
        figures.changed += u64::from(!same);
        figures.refused += u64::from(target.is_none());
        let bills = Bills { policy: self.policy, history: self.history, call };
        // One that answered in place of the first, and would be first now, has answered already.
        let stays = same || target.is_some_and(|target| *target.model == *call.model);
        bills.add_to(figures, stays, target);
    }

    /// Counts calls that cannot be replayed.
    pub fn skip(&mut self, calls: u64) {
        self.skipped += calls;
    }

    /// What it came to.
    pub fn report(self) -> ReplayReport {
        let mut total = Figures::default();
        let line = |((route, model), (figures, to)): ((String, String), (Figures, _))| ReplayLine {
            route,
            model,
            to,
            figures: figures.finished(),
        };
        let lines: Vec<_> = self.lines.into_iter().map(line).collect();
        lines.iter().for_each(|line| total.add(&line.figures));
        ReplayReport {
            object: "policy.replay",
            revision: self.policy.revision().to_owned(),
            total: total.finished(),
            own: self.own,
            reproduced: self.reproduced,
            approximate: self.approximate,
            skipped: self.skipped,
            lines,
        }
    }
}

impl Figures {
    fn finished(mut self) -> Self {
        self.difference_usd = self.projected_cost_usd - self.recorded_cost_usd;
        self
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.changed += other.changed;
        self.refused += other.refused;
        self.recorded_cost_usd += other.recorded_cost_usd;
        self.projected_cost_usd += other.projected_cost_usd;
        self.projected_low_usd += other.projected_low_usd;
        self.projected_high_usd += other.projected_high_usd;
        self.without_history += other.without_history;
        self.unpriced += other.unpriced;
    }
}

/// A call's recorded cost, and what it would be.
struct Bills<'a> {
    policy: &'a Policy,
    history: &'a History,
    call: &'a Recorded,
}

impl Bills<'_> {
    /// `stays`: the model that answered would answer again.
    fn add_to(&self, figures: &mut Figures, stays: bool, target: Option<&Target>) {
        let Some(usage) = &self.call.usage else { return };
        let recorded = self.call.cost;
        let projected = match (stays, target) {
            (true, _) => self.again(usage),
            (false, Some(target)) => self.at(target, usage),
            // What is refused costs nothing.
            (false, None) => Some(Usd::ZERO),
        };
        let (Some(recorded), Some(projected)) = (recorded, projected) else {
            figures.unpriced += 1;
            return;
        };
        figures.recorded_cost_usd += recorded;
        figures.projected_cost_usd += projected;
        let (mut low, mut high) = (projected, projected);
        if let Some(target) = target.filter(|_| !stays) {
            match self.history.band(&target.model) {
                Some((least, most)) => {
                    let with = |output| self.at(target, &Usage { output, ..*usage });
                    low = with(least).unwrap_or(projected);
                    high = with(most).unwrap_or(projected);
                }
                None => figures.without_history += 1,
            }
        }
        figures.projected_low_usd += low;
        figures.projected_high_usd += high;
    }

    /// The model that answered at the policy's prices; where these are what they were, to the last
    /// digit what was recorded.
    fn again(&self, usage: &Usage) -> Option<Usd> {
        let call = self.call;
        let names = [&call.model, &call.upstream_model, &call.response_model];
        let model = names.into_iter().find_map(|name| self.policy.model(name));
        let source = if call.reported { UsageSource::Reported } else { UsageSource::Estimated };
        let bill = price(model, usage, source, call.service_tier.as_deref());
        let rates = bill.parts.iter().filter_map(|part| {
            Some((part.kind.as_str(), i64::try_from(part.price?.picodollars()).ok()?))
        });
        let unchanged = bill.status != PriceStatus::Unpriced
            && rates.into_iter().all(|(kind, rate)| call.rates.get(kind) == Some(&rate));
        if unchanged { call.cost } else { bill.cost }
    }

    /// Another model for the same usage.
    fn at(&self, target: &Target, usage: &Usage) -> Option<Usd> {
        let model = self.policy.model_of(target);
        // What the other model has cached nobody knows; the client's tier stays.
        price(model, usage, UsageSource::Estimated, self.call.service_tier.as_deref()).cost
    }
}

/// The rule and the model; or the rule that refuses. `None` when nothing of the request is known.
type Decision = Result<(std::sync::Arc<str>, std::sync::Arc<Target>), std::sync::Arc<str>>;

/// What this policy has decided: of a call of its own that it cannot decide again.
fn as_recorded(policy: &Policy, call: &Recorded) -> Option<Decision> {
    let route = call.route.as_str().into();
    Some(match call.model.as_str() {
        "" => Err(route),
        model => Ok((route, policy.target(model))),
    })
}

fn decide(policy: &Policy, call: &Recorded) -> Option<Decision> {
    let synthetic;
    let body: &[u8] = match (&call.basis, &call.body) {
        (Some(basis), _) => {
            synthetic = serde_json::to_vec(&basis.request).ok()?;
            &synthetic
        }
        (None, Some(body)) => body,
        (None, None) if call.requested_model.is_empty() => return None,
        (None, None) => {
            synthetic = json!({ "model": call.requested_model }).to_string().into_bytes();
            &synthetic
        }
    };
    let endpoint = super::endpoint_named(&call.endpoint).ok()?;
    let view = match endpoint {
        Endpoint::Responses => RequestView::parse_model_optional(body),
        _ => RequestView::parse(body),
    };
    let view = view.ok()?;
    let prompt = LazyPrompt::of_request(policy.encoding_of(view.model()), &view, body);
    if let Some(tokens) = tokens(call) {
        prompt.supply(tokens);
    }
    let headers = headers(call);
    let live = Remembered { basis: call.basis.as_ref(), usual: Assumed::new(policy, call.unix_s) };
    let noted = call.basis.as_ref();
    let key = KeyFacts {
        name: &call.key,
        team: &call.team,
        tags: noted.map_or(&[], |basis| &basis.key_tags),
        importance: "normal",
        budget_left_usd: noted.and_then(|basis| basis.budget_left_usd).unwrap_or(f64::INFINITY),
        budget_used: noted.and_then(|basis| basis.budget_used).unwrap_or(0.0),
    };
    let mut facts = Facts::new(endpoint, (&view, body), prompt, &headers, key, &live);
    facts.unix_s = call.unix_s;
    facts.is_alias = !call.alias.is_empty();
    facts.draw = &call.id;
    if let Some(basis) = &call.basis {
        facts.assume_shape(shape(basis, call));
        facts.user_digest = Some(basis.user.clone());
        facts.held = Some(&basis.held);
    }
    match policy.choose(&facts, &mut ()) {
        Ok(route) => Some(Ok((std::sync::Arc::clone(&route.rule.name), route.target))),
        Err(Stop::Refused(refusal)) => Some(Err(std::sync::Arc::clone(&refusal.rule.name))),
        Err(Stop::NeedsExact) => None,
    }
}

fn shape(basis: &Basis, call: &Recorded) -> Shape {
    let body = call.body.as_ref().filter(|_| basis.shape_in_body);
    let read = body.and_then(|body| {
        let view = RequestView::parse_model_optional(body).ok()?;
        Some(Shape::read(&view, body))
    });
    read.unwrap_or_else(|| basis.shape())
}

/// The prompt's tokens: what was billed, within what routing knew of them.
fn tokens(call: &Recorded) -> Option<u64> {
    let billed = call.usage.map(|usage| usage.input);
    let Some(basis) = &call.basis else { return billed };
    let least = basis.least_tokens.unwrap_or(0);
    let most = basis.most_tokens.unwrap_or(u64::MAX).max(least);
    // Without a bill, one that routing did not rule out. Without both, none has any.
    Some(billed.unwrap_or(least).clamp(least, most))
}

fn headers(call: &Recorded) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let tags = call.tags.iter().map(|(name, value)| (format!("x-weir-tag-{name}"), value.as_str()));
    let session = Some(("x-weir-session".to_owned(), call.session.as_str()));
    let basis = call.basis.iter().flat_map(|basis| &basis.headers);
    let basis = basis.map(|(name, value)| (name.clone(), value.as_str()));
    for (name, value) in tags.chain(session.filter(|(_, value)| !value.is_empty())).chain(basis) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Reads what routing saw from the record's `facts`; `None` where it holds nothing.
pub fn basis_of(facts: &str) -> Option<Basis> {
    let value: Value = serde_json::from_str(facts).ok()?;
    let noted = value.as_object().is_some_and(|facts| facts.contains_key("chosen"));
    noted.then(|| serde_json::from_value(value).ok())?
}
