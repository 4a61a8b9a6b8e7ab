//! Resolves the `limits:` section, and says whom a limit is for.

use std::borrow::Cow;
use std::sync::Arc;

use serde_saphyr::Spanned;

use crate::metering::cost::UsageSource;
use crate::metering::cost::price;
use crate::metering::lazy::NeedsExact;
use crate::metering::money::Usd;
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;

use super::Policy;
use super::choose::Route;
use super::choose::usual_output;
use super::diagnostic::Diagnostic;
use super::expression::EvalError;
use super::expression::Expression;
use super::facts::Facts;
use super::file::Every;
use super::file::LimitEntry;
use super::file::OnRedisDown;
use super::findings::File;
use super::findings::Findings;
use super::models::Models;
use super::routes::UNKNOWN_MODEL;
use super::rule::Rule;
use super::units::PerMinute;

/// Most limits of a policy: each is asked for each request.
const MOST_LIMITS: usize = 1_000;
/// Greatest rate of a minute, and number of calls at the same time; more is a slip of the pen.
const GREATEST_COUNT: u64 = 1_000_000_000_000;
/// Greatest budget in USD.
const GREATEST_USD: u64 = 100_000_000;
/// Fields that bound an answer's length.
const MOST_OUTPUT: [&str; 3] = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
/// Longest name of a subject that is kept as it is, in bytes; longer ones are told by a digest.
const LONGEST_SUBJECT: usize = 100;

/// A limit of requests, tokens, calls at the same time, and money.
#[derive(Debug)]
pub struct Limit {
    /// Its name. With the subject it is the counter's identity, whatever else changes.
    pub name: Arc<str>,
    /// What is counted together.
    pub per: Per,
    /// Requests of any 60 seconds.
    pub requests: Option<u64>,
    /// Tokens of any 60 seconds.
    pub tokens: Option<u64>,
    /// Calls at the same time.
    pub concurrent: Option<u64>,
    /// Money.
    pub budget: Option<Budget>,
    /// The model that requests go to instead of being refused once the budget is spent.
    pub downgrade: Option<Arc<str>>,
    /// What happens without Redis.
    pub on_redis_down: OnRedisDown,
    matches: Option<Expression>,
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each key's calls.
    Key,
    /// Each team's calls.
    Team,
    /// Each end user's calls.
    User,
    /// The calls of each value of this tag.
    Tag(String),
    /// All calls.
    Global,
}

/// An amount of money and its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The amount.
    pub usd: Usd,
    /// The window, in UTC.
    pub every: Every,
}

/// A limit that holds for a request, and whose counter it goes on.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The limit.
    pub limit: Arc<Limit>,
    /// The key, the team, the user's digest or the tag's value; empty for callers without one, who
    /// share a counter, and for `global`.
    pub subject: String,
}

/// What a request is expected to take at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Its prompt's tokens, and those that its rule may add.
    pub input: u64,
    /// The most that it lets be written, or else what its route's answers usually have.
    pub output: u64,
    /// Answers that it wants.
    pub choices: u64,
    /// The tier that it asks for.
    pub tier: Option<String>,
}

impl Policy {
    /// Every limit.
    pub fn limits(&self) -> &[Arc<Limit>] {
        &self.limits
    }

    /// The limits that hold for a request. A condition that has no value does not hold.
    ///
    /// # Errors
    /// [`EvalError::NeedsExact`]: the prompt has to be counted first.
    pub fn claims(&self, facts: &Facts<'_>) -> Result<Vec<Claim>, EvalError> {
        let mut claims = Vec::new();
        for limit in &self.limits {
            match limit.matches.as_ref().map_or(Ok(true), |matches| matches.eval(facts)) {
                Err(EvalError::NeedsExact) => return Err(EvalError::NeedsExact),
                Ok(true) => {
                    let subject = limit.per.subject(facts);
                    claims.push(Claim { limit: Arc::clone(limit), subject });
                }
                _ => {}
            }
        }
        Ok(claims)
    }
}

impl Policy {
    /// What a request that goes by `rule` is expected to take at most.
    ///
    /// # Errors
    /// [`NeedsExact`]: the prompt has to be counted first.
    pub fn outlook(&self, rule: &Rule, facts: &Facts<'_>) -> Result<Outlook, NeedsExact> {
        let number = |name| {
            let raw = facts.view.raw(facts.body, name)?;
            std::str::from_utf8(raw).ok()?.parse::<u64>().ok()
        };
        let set = rule.set.iter().filter(|(name, _)| MOST_OUTPUT.contains(&name.as_str()));
        let set = set.filter_map(|(_, value)| value.get().parse().ok()).next();
        let output = match facts.endpoint {
            Endpoint::Embeddings => Some(0),
            _ => set.or_else(|| facts.view.max_output_tokens(facts.body)),
        };
        let added = rule.adds_at_most(facts.endpoint);
        Ok(Outlook {
            input: facts.prompt.tokens()?.saturating_add(added),
            output: output.unwrap_or_else(|| usual_output(rule, facts)),
            choices: number("n").unwrap_or(1).max(number("best_of").unwrap_or(1)).max(1),
            tier: facts.view.service_tier(facts.body).map(Cow::into_owned),
        })
    }

    /// The tokens of a request and their price, at the dearest of the models that it may go to. 0
    /// USD where no price is known.
    pub fn at_most(&self, outlook: &Outlook, route: &Route) -> (u64, Usd) {
        let mut most = (0, Usd::ZERO);
        for target in std::iter::once(&route.target).chain(&route.fallback) {
            let model = self.model_of(target);
            let cap = model.and_then(|model| model.max_output_tokens).unwrap_or(u64::MAX);
            let output = outlook.output.min(cap).saturating_mul(outlook.choices);
            let usage = Usage { input: outlook.input, output, ..Usage::default() };
            let bill = price(model, &usage, UsageSource::Estimated, outlook.tier.as_deref());
            most.0 = most.0.max(outlook.input.saturating_add(output));
            most.1 = most.1.max(bill.cost.unwrap_or_default());
        }
        most
    }
}

impl Limit {
    /// Whether it counts a request's tokens, or their price.
    pub fn counts_tokens(&self) -> bool {
        self.tokens.is_some() || self.budget.is_some()
    }

    /// Whether it may ask for a request's tokens.
    pub fn reads_tokens(&self) -> bool {
        self.counts_tokens() || self.matches.as_ref().is_some_and(Expression::reads_tokens)
    }

    /// Whether it asks how models are doing, or how long answers usually are.
    pub(super) fn reads_live(&self) -> bool {
        let names_model = |matches: &Expression| matches.models().next().is_some();
        self.counts_tokens() || self.matches.as_ref().is_some_and(names_model)
    }

    /// Whether this limit holds for every request that `other` holds for, and counts the same calls
    /// together.
    fn covers(&self, other: &Self) -> bool {
        let source = |limit: &Self| limit.matches.as_ref().map(|m| m.source().to_owned());
        let everybody = self.matches.as_ref().is_none_or(|m| m.constant() == Some(true));
        self.per == other.per && (everybody || source(self) == source(other))
    }
}

impl Per {
    fn subject(&self, facts: &Facts<'_>) -> String {
        let subject = match self {
            Self::Key => Cow::Borrowed(facts.key.name),
            Self::Team => Cow::Borrowed(facts.key.team),
            Self::User => Cow::Owned(facts.user_digest()),
            Self::Tag(name) => Cow::Borrowed(facts.tag(name).unwrap_or_default()),
            Self::Global => Cow::Borrowed(""),
        };
        if subject.len() > LONGEST_SUBJECT {
            return super::facts::hex(&subject, 16);
        }
        subject.into_owned()
    }

    fn parse(
        per: Option<&Spanned<String>>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let Some(per) = per else { return Some(Self::Key) };
        let tag = per.value.strip_prefix("tag:").filter(|name| !name.is_empty());
        match (&*per.value, tag) {
            ("key", _) => Some(Self::Key),
            ("team", _) => Some(Self::Team),
            ("user", _) => Some(Self::User),
            ("global", _) => Some(Self::Global),
            (_, Some(name)) => Some(Self::Tag(name.to_owned())),
            _ => {
                findings.unknown(
                    file.place(per),
                    ("`per`", &per.value),
                    ["key", "team", "user", "global"],
                    "write key, team, user, global or tag:<name>",
                );
                None
            }
        }
    }
}

/// Checks the limits of a policy.
pub(super) struct Section<'a> {
    models: &'a Models,
    limits: Vec<Arc<Limit>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(models: &'a Models) -> Self {
        Self { models, limits: Vec::new() }
    }

    /// The limits that can be used, in the order written.
    pub(super) fn into_limits(self) -> Vec<Arc<Limit>> {
        self.limits
    }

    /// Checks one entry.
    pub(super) fn add(&mut self, entry: &LimitEntry, file: File<'_>, findings: &mut Findings) {
        if self.limits.len() == MOST_LIMITS {
            let message = format!("there are more than {MOST_LIMITS} limits");
            findings.cure(file, &entry.name, message, "put them together");
            return;
        }
        let Some(limit) = self.resolve(entry, file, findings) else { return };
        self.warn_of_idle(&limit, entry, file, findings);
        self.limits.push(Arc::new(limit));
    }

    fn resolve(
        &self,
        entry: &LimitEntry,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Limit> {
        let matches = entry.matches.as_ref().map(|m| self.condition(m, file, findings));
        let per = Per::parse(entry.per.as_ref(), file, findings);
        let rate = |what, given: &Option<Spanned<PerMinute>>, findings: &mut Findings| {
            let given = given.as_ref()?;
            check_count(what, given.value.0, given, file, findings);
            Some(given.value.0)
        };
        let requests = rate("requests", &entry.requests, findings);
        let tokens = rate("tokens", &entry.tokens, findings);
        let concurrent = entry.concurrent.as_ref().map(|given| {
            let count = u64::from(given.value);
            check_count("concurrent", count, given, file, findings);
            count
        });
        let budget = match &entry.budget {
            Some(budget) => {
                Some(Budget { usd: amount(&budget.usd, file, findings)?, every: budget.every })
            }
            None => None,
        };
        if budget.is_none() && requests.or(tokens).or(concurrent).is_none() {
            let message = format!("limit `{}` limits nothing", entry.name.value);
            let cure = "give it `budget`, `requests`, `tokens` or `concurrent`";
            findings.cure(file, &entry.name, message, cure);
        }
        let downgrade = self.on_budget(entry, file, findings);
        let matches = match matches {
            Some(compiled) => Some(compiled?),
            None => None,
        };
        Some(Limit {
            name: Arc::from(&*entry.name.value),
            per: per?,
            requests,
            tokens,
            concurrent,
            budget,
            downgrade,
            on_redis_down: entry.on_redis_down.unwrap_or(OnRedisDown::LocalShare),
            matches,
        })
    }

    fn condition(
        &self,
        matches: &Spanned<String>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Expression> {
        let compiled = findings.expression(file, matches)?;
        for (model, span) in compiled.models().filter(|(model, _)| !self.models.is_known(model)) {
            let place = file.place_in(matches, &span);
            findings.unknown(place, ("model", model), self.models.names(), UNKNOWN_MODEL);
        }
        if compiled.constant() == Some(false) {
            let message = "this condition never holds".to_owned();
            findings.push(Diagnostic::warning(Some(file.place(matches)), message));
        }
        Some(compiled)
    }

    fn on_budget(
        &self,
        entry: &LimitEntry,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Arc<str>> {
        let choice = entry.on_budget.as_ref().filter(|choice| choice.value != "reject")?;
        if entry.budget.is_none() {
            let message = format!("limit `{}` has `on_budget` without `budget`", entry.name.value);
            findings.cure(file, choice, message, "give it a `budget`");
        }
        let model = choice.value.as_object().filter(|map| map.len() == 1);
        let model = model.and_then(|map| map.get("downgrade")).and_then(serde_json::Value::as_str);
        let Some(model) = model else {
            let cure = "write `reject` or `{ downgrade: model }`";
            findings.cure(file, choice, "unknown `on_budget`".to_owned(), cure);
            return None;
        };
        if !self.models.is_known(model) {
            let place = file.place(choice);
            findings.unknown(place, ("model", model), self.models.names(), UNKNOWN_MODEL);
        }
        Some(Arc::from(model))
    }

    /// Warns of what a tighter limit makes pointless: the tightest decides.
    fn warn_of_idle(
        &self,
        limit: &Limit,
        entry: &LimitEntry,
        file: File<'_>,
        findings: &mut Findings,
    ) {
        for other in &self.limits {
            if other.covers(limit)
                && let Some(what) = pointless(limit, other)
            {
                let found = idle(limit, what, other);
                findings.push(Diagnostic::warning(Some(file.place(&entry.name)), found));
            } else if limit.covers(other)
                && let Some(what) = pointless(other, limit)
            {
                let found = idle(other, what, limit);
                findings.push(Diagnostic::warning(Some(file.place(&entry.name)), found));
            }
        }
    }
}

fn idle(limit: &Limit, what: &str, tighter: &Limit) -> String {
    let (limit, tighter) = (&limit.name, &tighter.name);
    format!(
        "`{what}` of limit `{limit}` never decides: limit `{tighter}` is tighter for the same calls"
    )
}

/// What of `limit` cannot be reached as long as `other`, which covers it, holds.
fn pointless(limit: &Limit, other: &Limit) -> Option<&'static str> {
    let reached =
        |one: Option<u64>, other: Option<u64>| one.zip(other).is_some_and(|(a, b)| a >= b);
    if reached(limit.requests, other.requests) {
        return Some("requests");
    }
    if reached(limit.tokens, other.tokens) {
        return Some("tokens");
    }
    if reached(limit.concurrent, other.concurrent) {
        return Some("concurrent");
    }
    let (one, other) = limit.budget.zip(other.budget)?;
    // As much in a shorter window: the longer one is spent first.
    (one.usd >= other.usd && one.every <= other.every).then_some("budget")
}

fn check_count<T>(
    what: &str,
    count: u64,
    at: &Spanned<T>,
    file: File<'_>,
    findings: &mut Findings,
) {
    if !(1..=GREATEST_COUNT).contains(&count) {
        let message = format!("`{what}` of {count} is not between 1 and {GREATEST_COUNT}");
        findings.error(file, at, message);
    }
}

fn amount(
    usd: &Spanned<super::file::Decimal>,
    file: File<'_>,
    findings: &mut Findings,
) -> Option<Usd> {
    let text = usd.value.0.trim();
    let amount = text.parse::<Usd>().ok().filter(|amount| *amount > Usd::ZERO);
    let greatest = Usd::from_picodollars(1_000_000_000_000).times(GREATEST_USD);
    match amount {
        None => findings.error(file, usd, format!("`{text}` is no amount above 0 in USD")),
        Some(amount) if amount > greatest => {
            let message = format!("a budget of {amount} USD is more than {GREATEST_USD}");
            findings.cure(file, usd, message, "leave the budget out where there is none");
        }
        Some(_) => {}
    }
    amount
}
