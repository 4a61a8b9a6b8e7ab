//! The decision: which model a request gets, and why. Pure: the same facts give the same answer.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::metering::cost::UsageSource;
use crate::metering::cost::Usd;
use crate::metering::cost::price;
use crate::metering::lazy::NeedsExact;
use crate::openai::usage::Usage;

use super::Policy;
use super::expression::EvalError;
use super::facts::Facts;
use super::file::Sticky;
use super::rule::Action;
use super::rule::Arm;
use super::rule::Pick;
use super::rule::Rule;
use super::rule::Target;
use super::sticky::arm_of;

/// Output tokens to expect of a route that has no history yet.
const USUAL_OUTPUT: f64 = 500.0;
/// Why a model is left out whose context is too small; the one reason that the client can cure.
const TOO_LONG: &str = "the prompt does not fit its context";
/// Why others go before a model that answers; one that does not answer comes last.
const TOO_SLOW: &str = "above max_p95";
/// Successors of successors that are followed; a longer row is a mistake that the check finds.
pub(super) const LONGEST_SUCCESSION: usize = 8;

/// Where a request goes, and by which rule.
#[derive(Clone, Debug)]
pub struct Route {
    /// The rule that decided.
    pub rule: Arc<Rule>,
    /// The model that is asked first.
    pub target: Arc<Target>,
    /// Those that are asked when it fails, in order.
    pub fallback: Vec<Arc<Target>>,
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        let models = |route: &Self| -> Vec<Arc<str>> {
            route.fallback.iter().map(|target| Arc::clone(&target.model)).collect()
        };
        self.rule.name == other.rule.name
            && self.target.model == other.target.model
            && models(self) == models(other)
    }
}

/// Why a request goes nowhere, and the rule that says so.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Why.
    pub why: Why,
}

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        self.rule.name == other.rule.name && self.why == other.why
    }
}

/// Why a rule refuses a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It says so, in these words.
    Denied(String),
    /// It wants known models only.
    UnknownModel,
    /// The prompt fits none of its models.
    TooLong {
        /// Tokens of the prompt.
        tokens: u64,
        /// What the longest of the models takes.
        longest: u64,
    },
    /// None of its models can take the request, for this reason.
    NoneFits(&'static str),
}

/// Why there is no route.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// The request is refused.
    Refused(Refusal),
    /// The prompt is long and has to be counted first: off the reactor, then asked again.
    NeedsExact,
}

impl From<NeedsExact> for Stop {
    fn from(_: NeedsExact) -> Self {
        Self::NeedsExact
    }
}

/// Follows a decision while it is made.
pub trait Trace {
    /// A rule was looked at.
    fn rule(&mut self, rule: &Rule, outcome: &Result<bool, EvalError>, facts: &Facts<'_>) {
        let _ = (rule, outcome, facts);
    }

    /// A model was weighed by `cheapest` or `fastest`.
    fn candidate(&mut self, candidate: &Candidate<'_>) {
        let _ = candidate;
    }
}

/// Nobody follows.
impl Trace for () {}

/// A model that is weighed.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The model.
    pub target: &'a Arc<Target>,
    /// The expected cost of this request; `None` where it is unpriced or not asked for.
    pub cost: Option<Usd>,
    /// 95th percentile of its time to the last byte in milliseconds; 0 when unknown.
    pub p95_ms: f64,
    /// Why it cannot be chosen.
    pub excluded: Option<&'static str>,
    /// Why it is chosen only when all others are worse off: too slow or not available now.
    pub demoted: Option<&'static str>,
}

impl Policy {
    /// Decides. The first rule whose condition holds counts; where none does, the request gets the
    /// model that it asks for. A condition that has no value (a missing tag, say) does not hold.
    ///
    /// # Errors
    /// [`Stop`]: the request is refused, or its prompt has to be counted first.
    pub fn choose(&self, facts: &Facts<'_>, trace: &mut impl Trace) -> Result<Route, Stop> {
        for rule in &self.rules {
            let outcome = rule.when.as_ref().map_or(Ok(true), |when| {
                facts.held(when.source()).map_or_else(|| when.eval(facts), Ok)
            });
            if outcome == Err(EvalError::NeedsExact) {
                return Err(Stop::NeedsExact);
            }
            trace.rule(rule, &outcome, facts);
            if outcome == Ok(true) {
                return self.act(rule, facts, trace);
            }
        }
        Ok(self.route_to(&self.default_rule, self.target(facts.view.model()), facts))
    }

    /// The route of a model where there is nothing to decide: no rules, and no successor.
    pub fn unconditional(&self, model: &str) -> Option<Route> {
        if !self.rules.is_empty() {
            return None;
        }
        let target = self.target(model);
        let rule = Arc::clone(&self.default_rule);
        target.successor.is_none().then_some(Route { rule, target, fallback: Vec::new() })
    }

    /// The way of what is not routed by model, such as an upload: to the default upstream. `model`
    /// is the one that it names, for the record.
    pub fn passthrough(&self, model: &str) -> Route {
        let rule = Arc::clone(&self.passthrough_rule);
        Route { rule, target: self.models.plain(model), fallback: Vec::new() }
    }

    fn act(
        &self,
        rule: &Arc<Rule>,
        facts: &Facts<'_>,
        trace: &mut impl Trace,
    ) -> Result<Route, Stop> {
        let asked = facts.view.model();
        if rule.known_models_only && !facts.is_alias && !self.knows_model(asked) {
            return Err(refuse(rule, Why::UnknownModel));
        }
        match &rule.action {
            Action::Asked => Ok(self.route_to(rule, self.target(asked), facts)),
            Action::Use(target) => Ok(self.route_to(rule, Arc::clone(target), facts)),
            Action::Split { arms, sticky } => {
                Ok(self.route_to(rule, split(rule, arms, *sticky, facts), facts))
            }
            Action::Cheapest(pick) => {
                let order = |a: &Candidate<'_>, b: &Candidate<'_>| a.cost.cmp(&b.cost);
                self.pick(rule, pick, true, order, facts, trace)
            }
            Action::Fastest(pick) => {
                let order = |a: &Candidate<'_>, b: &Candidate<'_>| a.p95_ms.total_cmp(&b.p95_ms);
                self.pick(rule, pick, false, order, facts, trace)
            }
            Action::Reject(message) => Err(refuse(rule, Why::Denied(message.clone()))),
        }
    }

    fn route_to(&self, rule: &Arc<Rule>, target: Arc<Target>, facts: &Facts<'_>) -> Route {
        let target = self.alive(target, facts);
        let fallback = rule.fallback.iter().map(|next| self.alive(Arc::clone(next), facts));
        let fallback = fallback.filter(|next| next.model != target.model).collect();
        Route { rule: Arc::clone(rule), target, fallback }
    }

    /// The model itself, or the one that took over from it.
    fn alive(&self, mut target: Arc<Target>, facts: &Facts<'_>) -> Arc<Target> {
        for _ in 0..LONGEST_SUCCESSION {
            let Some(successor) = &target.successor else { break };
            if facts.live.model(&target.model).days_to_shutdown > 0 {
                break;
            }
            target = self.target(successor);
        }
        target
    }

    /// The best of the models that can take the request; the others that can are its fallback,
    /// where the rule names none.
    fn pick(
        &self,
        rule: &Arc<Rule>,
        pick: &Pick,
        by_cost: bool,
        order: impl Fn(&Candidate<'_>, &Candidate<'_>) -> Ordering,
        facts: &Facts<'_>,
        trace: &mut impl Trace,
    ) -> Result<Route, Stop> {
        // What the rule adds has to fit as well, and costs the same.
        let tokens = facts.prompt.tokens()?.saturating_add(rule.adds_at_most(facts.endpoint));
        let usage = by_cost.then(|| expected_usage(rule, tokens, facts));
        let weigh = |target| self.weigh(pick, target, tokens, usage.as_ref(), facts);
        let mut all: Vec<_> = pick.of.iter().map(weigh).collect();
        // Stable: of equals the one that is listed first.
        all.sort_by(|a, b| {
            let demoted = |c: &Candidate<'_>| match c.demoted {
                None => 0,
                Some(TOO_SLOW) => 1,
                Some(_) => 2,
            };
            let rank = |c: &Candidate<'_>| (c.excluded.is_some(), demoted(c));
            rank(a).cmp(&rank(b)).then_with(|| order(a, b))
        });
        all.iter().for_each(|candidate| trace.candidate(candidate));
        let mut fit = all.iter().filter(|candidate| candidate.excluded.is_none());
        let Some(best) = fit.next() else {
            return Err(refuse(rule, self.none_fits(pick, tokens, &all)));
        };
        let mut route = self.route_to(rule, Arc::clone(best.target), facts);
        if rule.fallback.is_empty() {
            let rest = fit.map(|next| self.alive(Arc::clone(next.target), facts));
            route.fallback = rest.filter(|next| next.model != route.target.model).collect();
        }
        Ok(route)
    }

    fn weigh<'a>(
        &self,
        pick: &Pick,
        target: &'a Arc<Target>,
        tokens: u64,
        usage: Option<&Usage>,
        facts: &Facts<'_>,
    ) -> Candidate<'a> {
        let model = self.model_of(target);
        let state = facts.live.model(&target.model);
        let tier = facts.view.service_tier(facts.body);
        let cost = usage
            .and_then(|usage| price(model, usage, UsageSource::Estimated, tier.as_deref()).cost);
        let most = |limit: Option<u64>, wanted| limit.is_some_and(|limit| wanted > limit);
        let wanted = facts.view.max_output_tokens(facts.body).unwrap_or(0);
        let excluded = if !pick.is_good(target) {
            Some("below min_quality")
        } else if most(model.and_then(|model| model.max_input_tokens), tokens) {
            Some(TOO_LONG)
        } else if most(model.and_then(|model| model.max_output_tokens), wanted) {
            Some("it cannot write as many tokens as are asked for")
        } else if usage.is_some() && cost.is_none() {
            Some("unpriced")
        } else if state.days_to_shutdown <= 0 && target.successor.is_none() {
            Some("shut down")
        } else {
            None
        };
        let slow = pick.max_p95.is_some_and(|most| state.p95_ms > most.as_secs_f64() * 1e3);
        let demoted = match (state.available, slow) {
            (false, _) => Some("not available now"),
            (true, true) => Some(TOO_SLOW),
            (true, false) => None,
        };
        Candidate { target, cost, p95_ms: state.p95_ms, excluded, demoted }
    }

    fn none_fits(&self, pick: &Pick, tokens: u64, all: &[Candidate<'_>]) -> Why {
        let mut reasons = all.iter().filter_map(|candidate| candidate.excluded);
        if let Some(reason) = reasons.clone().next()
            && !reasons.any(|reason| reason == TOO_LONG)
        {
            return Why::NoneFits(reason);
        }
        let limits = pick.of.iter().filter_map(|t| self.model_of(t)?.max_input_tokens);
        Why::TooLong { tokens, longest: limits.max().unwrap_or_default() }
    }
}

fn refuse(rule: &Arc<Rule>, why: Why) -> Stop {
    Stop::Refused(Refusal { rule: Arc::clone(rule), why })
}

/// What the request is expected to use: its prompt, and what the route's answers usually take,
/// at most what the client lets be made.
fn expected_usage(rule: &Rule, input: u64, facts: &Facts<'_>) -> Usage {
    let usual = usual_output(rule, facts);
    let most = facts.view.max_output_tokens(facts.body).unwrap_or(u64::MAX);
    Usage { input, output: usual.min(most), ..Usage::default() }
}

/// The output tokens that answers of a rule usually have.
pub(super) fn usual_output(rule: &Rule, facts: &Facts<'_>) -> u64 {
    let usual = facts.live.expected_output(&rule.name).unwrap_or(USUAL_OUTPUT);
    // A mean of token counts is small and not negative.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    let usual = usual.clamp(0.0, 1e9).round() as u64;
    usual
}

/// The arm of a request: always the same for whom the split sticks to, else by chance.
fn split(rule: &Rule, arms: &[Arm], sticky: Option<Sticky>, facts: &Facts<'_>) -> Arc<Target> {
    let user;
    let who = match sticky {
        Some(Sticky::User) => {
            user = facts.user_digest();
            user.as_bytes()
        }
        Some(Sticky::Session) => facts.header("x-weir-session").unwrap_or_default().as_bytes(),
        Some(Sticky::Key) => facts.key.name.as_bytes(),
        None => b"",
    };
    let who = if who.is_empty() { facts.draw } else { who };
    Arc::clone(&arm_of(&rule.name, arms, who).target)
}
