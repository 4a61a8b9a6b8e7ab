//! Resolves the `routes:` section.

use std::collections::HashSet;
use std::sync::Arc;

use http::HeaderValue;
use serde_json::value::RawValue;
use serde_saphyr::Spanned;

use super::diagnostic::Diagnostic;
use super::file::Named;
use super::file::PickEntry;
use super::file::RouteEntry;
use super::findings::File;
use super::findings::Findings;
use super::models::Models;
use super::retrieve::retrieve;
use super::rule::Action;
use super::rule::Arm;
use super::rule::DEFAULT_ATTEMPTS;
use super::rule::Pick;
use super::rule::Rule;
use super::rule::Target;

/// Most rules of a policy: each is looked at for each request that none before it matches.
pub(super) const MOST_RULES: usize = 2_000;
/// Most attempts of a rule.
const MOST_ATTEMPTS: u32 = 10;

/// Checks the rules of a policy, one after the other in the order in which they are tried.
pub(super) struct Routes<'a> {
    pub(super) models: &'a Models,
    /// The rule that matches everything, once there was one, and its place.
    always: Option<(Arc<str>, String)>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(models: &'a Models) -> Self {
        Self { models, always: None }
    }

    /// One rule; `None` when it cannot be used.
    pub(super) fn rule(
        &mut self,
        entry: &RouteEntry,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Rule> {
        let name = &entry.name;
        if let Some((always, place)) = &self.always {
            let message = format!("rule `{}` is never reached", name.value);
            let mut found = Diagnostic::error(Some(file.place(name)), message).help(format!(
                "rule `{always}` before it matches every request; move it to the end"
            ));
            found.first = Some(place.clone());
            findings.push(found);
        }
        let header = header(name, file, findings);
        let when = entry.when.as_ref().map(|when| self.condition(when, file, findings));
        let action = self.action(entry, file, findings);
        let fallback = self.fallback(entry, action.as_ref(), file, findings);
        let attempts = attempts(entry, file, findings);
        let set = fields(entry, file, findings);
        let wanted = entry.retrieve.as_ref();
        let retrieve = wanted.map(|wanted| retrieve(entry, wanted, file, findings));
        let deadline = findings.duration("deadline", &entry.deadline, file);
        let when = match when {
            None => None,
            Some(compiled) => Some(compiled?),
        };
        let retrieve = match retrieve {
            None => None,
            Some(checked) => Some(checked?),
        };
        let rule_name: Arc<str> = Arc::from(&*name.value);
        if when.as_ref().is_none_or(|when| when.constant() == Some(true)) {
            self.always = Some((Arc::clone(&rule_name), file.place(name).to_string()));
        }
        Some(Rule {
            name: rule_name,
            header: header?,
            attempts: attempts?,
            deadline,
            set: set?,
            on_disconnect: entry.on_disconnect,
            when,
            action: action?,
            fallback,
            known_models_only: entry.known_models_only,
            retrieve,
        })
    }

    fn condition(
        &self,
        when: &Spanned<String>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<super::expression::Expression> {
        let compiled = findings.expression(file, when)?;
        for (model, span) in compiled.models() {
            if !self.models.is_known(model) {
                let place = file.place_in(when, &span);
                findings.unknown(place, ("model", model), self.models.names(), UNKNOWN_MODEL);
            }
        }
        if compiled.constant() == Some(false) {
            let message = "this condition never holds".to_owned();
            findings.push(Diagnostic::warning(Some(file.place(when)), message));
        }
        Some(compiled)
    }

    fn action(
        &self,
        entry: &RouteEntry,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Action> {
        let given = [
            ("use", entry.target.is_some()),
            ("split", entry.split.is_some()),
            ("cheapest", entry.cheapest.is_some()),
            ("fastest", entry.fastest.is_some()),
            ("reject", entry.reject.is_some()),
        ];
        let given: Vec<_> = given.iter().filter(|(_, there)| *there).map(|(key, _)| *key).collect();
        if let [one, other, ..] = &given[..] {
            let message = format!("rule `{}` has both `{one}` and `{other}`", entry.name.value);
            findings.cure(file, &entry.name, message, "a rule does one thing; make it two rules");
            return None;
        }
        if entry.sticky.is_some() && entry.split.is_none() {
            let message = format!("rule `{}` has `sticky` without `split`", entry.name.value);
            findings.error(file, &entry.name, message);
        }
        if let Some(target) = &entry.target {
            return self.target(target, file, findings).map(Action::Use);
        }
        if let Some(split) = &entry.split {
            return self.split(entry, split, file, findings);
        }
        if let Some(pick) = &entry.cheapest {
            return self.pick(pick, true, file, findings).map(Action::Cheapest);
        }
        if let Some(pick) = &entry.fastest {
            return self.pick(pick, false, file, findings).map(Action::Fastest);
        }
        Some(match &entry.reject {
            Some(reject) => Action::Reject(reject.message.clone()),
            None => Action::Asked,
        })
    }

    fn target(
        &self,
        name: &Spanned<String>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Arc<Target>> {
        self.models.target(name, file, findings)
    }

    fn split(
        &self,
        entry: &RouteEntry,
        split: &Spanned<Named<u32>>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Action> {
        let Named(weights) = &split.value;
        let arms = weights.iter().map(|(name, weight)| {
            let target = self.target(name, file, findings)?;
            Some(Arm { weight: f64::from(*weight), target })
        });
        let arms: Option<Vec<Arm>> = arms.collect();
        if weights.iter().all(|(_, weight)| *weight == 0) {
            let message = format!("the weights of split `{}` add up to 0", entry.name.value);
            findings.cure(file, split, message, "give at least one model a weight above 0");
            return None;
        }
        let mut arms = arms?;
        arms.retain(|arm| arm.weight > 0.0);
        Some(Action::Split { arms, sticky: entry.sticky })
    }

    fn pick(
        &self,
        entry: &Spanned<PickEntry>,
        by_cost: bool,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Pick> {
        let of = entry.value.of.iter().map(|name| self.target(name, file, findings));
        let of: Vec<_> = of.collect::<Vec<_>>().into_iter().collect::<Option<_>>()?;
        if of.is_empty() {
            findings.cure(
                file,
                entry,
                "`of` is empty".to_owned(),
                "name the models to choose from",
            );
            return None;
        }
        let least = entry.value.min_quality.as_ref();
        if let Some(least) = least.filter(|least| !(0.0..=1.0).contains(&least.value)) {
            findings.error(
                file,
                least,
                format!("min_quality {} is not within 0 to 1", least.value),
            );
        }
        let max_p95 = entry.value.max_p95.map(|most| most.0);
        let pick = Pick { of, min_quality: least.map(|least| least.value), max_p95 };
        if !pick.of.iter().any(|target| pick.is_good(target)) {
            let message = "none of these models has the `quality` that min_quality asks for";
            findings.cure(file, entry, message.to_owned(), "set `quality` under `models`");
            return None;
        }
        if by_cost && !pick.of.iter().any(|target| self.models.is_priced(target)) {
            let message = "none of these models has a price, so none is the cheapest";
            findings.cure(file, entry, message.to_owned(), "set `price` under `models`");
            return None;
        }
        Some(pick)
    }

    /// The row of models to fall back on; each of them once, and never the first choice again.
    fn fallback(
        &self,
        entry: &RouteEntry,
        action: Option<&Action>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Vec<Arc<Target>> {
        let mut seen: HashSet<&str> = HashSet::new();
        if let Some(Action::Use(first)) = action {
            seen.insert(&first.model);
        }
        let mut fallback = Vec::new();
        for name in &entry.fallback {
            if !seen.insert(&name.value) {
                let message = format!("`{}` falls back on itself: a cycle", name.value);
                findings.cure(file, name, message, "name each model once");
            }
            let Some(target) = self.target(name, file, findings) else { continue };
            if let Some(Action::Use(first)) = action
                && first.upstream.name != target.upstream.name
                && target.upstream.authorization.is_none()
            {
                let upstream = &target.upstream.name;
                let message = format!(
                    "falling back on `{}` sends the caller's own key to `{upstream}`",
                    name.value
                );
                let warning = Diagnostic::warning(Some(file.place(name)), message);
                findings.push(warning.help(format!("give `{upstream}` an `api_key`")));
            }
            fallback.push(target);
        }
        fallback
    }
}

pub(super) const UNKNOWN_MODEL: &str = "define it under `models`";

fn header(name: &Spanned<String>, file: File<'_>, findings: &mut Findings) -> Option<HeaderValue> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if name.value.is_empty() || name.value.len() > 64 || !name.value.bytes().all(plain) {
        let message = format!("`{}` cannot be the name of a rule", name.value);
        let cure = "use 1 to 64 letters, digits and - _ . : /";
        findings.cure(file, name, message, cure);
        return None;
    }
    if matches!(&*name.value, "default" | "none") {
        let message = format!("`{}` is what requests without a rule are called", name.value);
        findings.cure(file, name, message, "choose another name");
        return None;
    }
    HeaderValue::from_str(&name.value).ok()
}

fn attempts(entry: &RouteEntry, file: File<'_>, findings: &mut Findings) -> Option<u32> {
    let Some(attempts) = &entry.attempts else {
        let targets = u32::try_from(entry.fallback.len() + 1).unwrap_or(u32::MAX);
        return Some(DEFAULT_ATTEMPTS.max(targets).min(MOST_ATTEMPTS));
    };
    if !(1..=MOST_ATTEMPTS).contains(&attempts.value) {
        let message = format!("attempts must be 1 to {MOST_ATTEMPTS}, not {}", attempts.value);
        findings.error(file, attempts, message);
        return None;
    }
    Some(attempts.value)
}

/// Fields that are written into requests. `model` is what routes are for, and the stream's form
/// is the client's business.
fn fields(
    entry: &RouteEntry,
    file: File<'_>,
    findings: &mut Findings,
) -> Option<Vec<(String, Box<RawValue>)>> {
    let Some(set) = &entry.set else { return Some(Vec::new()) };
    if let Some(key) = set.value.keys().find(|key| matches!(&***key, "model" | "stream")) {
        let message = format!("`set` cannot change `{key}`");
        let cure = if key == "model" { "use `use`" } else { "only the client can" };
        findings.cure(file, set, message, cure);
        return None;
    }
    let raw = |value| serde_json::value::to_raw_value(value).ok();
    set.value.iter().map(|(key, value)| Some((key.clone(), raw(value)?))).collect()
}
