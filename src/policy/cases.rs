//! The policy's own tests, `tests/*.yaml`: requests as they may come, and what must become of them.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::Policy;
use super::choose::Route;
use super::choose::Stop;
use super::diagnostic::Diagnostic;
use super::diagnostic::Place;
use super::explain::Explanation;
use super::facts::ModelState;
use super::file::Named;
use super::findings::File;
use super::findings::Findings;
use super::load::Checked;
use super::load::Settings;
use super::scenario::Assumed;
use super::scenario::AssumedKey;
use super::scenario::Scenario;
use super::scenario::endpoint_named;
use super::scenario::headers;
use super::source::Sources;
use super::units::Moment;
use super::yaml;

/// When tests happen that name no time: 2026-11-23T12:00:00Z, a Monday. Fixed, so that a folder
/// which is accepted today is accepted tomorrow.
const USUAL_TIME: Moment = Moment(1_795_435_200);

/// What became of one test.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// Whether everything was as expected.
    pub passed: bool,
    /// What was expected, and what happened instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a policy's tests say about it.
#[derive(Clone, Debug, Default)]
pub struct Tested {
    /// Every test that could be run, in the order of the files.
    pub cases: Vec<CaseResult>,
    /// What is wrong in the files of tests; then one error for each test that fails.
    pub diagnostics: Vec<Diagnostic>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CaseFile {
    tests: Vec<Spanned<Case>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Spanned<String>,
    request: Spanned<Value>,
    #[serde(default)]
    endpoint: Option<Spanned<String>>,
    #[serde(default)]
    headers: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    key: AssumedKey,
    #[serde(default)]
    time: Option<Moment>,
    #[serde(default)]
    models: Named<AssumedModel>,
    #[serde(default)]
    expected_output: Named<f64>,
    #[serde(default)]
    tokens: Option<u64>,
    expect: Expected,
}

/// How a model is assumed to do; what is left out is as if nothing was known.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AssumedModel {
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    error_rate: Option<f64>,
    in_flight: Option<u64>,
    available: Option<bool>,
    days_to_shutdown: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    #[serde(default)]
    route: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    upstream: Option<String>,
    #[serde(default)]
    fallback: Option<Vec<String>>,
    #[serde(default)]
    rejected: Option<Rejected>,
    #[serde(default)]
    set: Option<BTreeMap<String, Value>>,
}

/// That the request is refused, or the words that it is refused with.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`rejected` must be true, false, or words of the message")]
enum Rejected {
    Whether(bool),
    Saying(String),
}

impl Policy {
    /// Runs the policy's own tests.
    pub fn test(&self, sources: &Sources) -> Tested {
        let mut findings = Findings::default();
        let mut cases = Vec::new();
        let mut failures = Vec::new();
        let mut names: HashMap<String, String> = HashMap::new();
        for source in &sources.tests {
            let file = File(source);
            let parsed: Option<CaseFile> = yaml::read(source, &mut findings);
            for case in parsed.iter().flat_map(|parsed| &parsed.tests) {
                let Case { name, .. } = &case.value;
                let place = file.place(name);
                let first = names.entry(name.value.clone()).or_insert_with(|| place.to_string());
                if *first != place.to_string() {
                    let message = format!("test `{}` is defined twice", name.value);
                    let found = Diagnostic::error(Some(place.clone()), message).help("rename one");
                    findings.push(Diagnostic { first: Some(first.clone()), ..found });
                }
                let Some(why) = run(self, &case.value, file, &mut findings) else { continue };
                let why = (!why.is_empty()).then(|| why.join("; "));
                failures.extend(why.iter().map(|why| failure(&name.value, &place, why)));
                let name = name.value.clone();
                cases.push(CaseResult { name, place, passed: why.is_none(), why });
            }
        }
        let Findings(mut diagnostics) = findings;
        diagnostics.append(&mut failures);
        Tested { cases, diagnostics }
    }

    /// Checks a folder, then runs its tests: what has to be good before a policy is used. The policy
    /// is there when nothing is an error and no test fails.
    pub fn verify(sources: &Sources, settings: &Settings) -> (Checked, Tested) {
        let mut checked = Self::check(sources, settings);
        let Some(policy) = checked.policy.take() else { return (checked, Tested::default()) };
        let tested = policy.test(sources);
        checked.policy = tested.diagnostics.is_empty().then_some(policy);
        checked.diagnostics.extend(tested.diagnostics.iter().cloned());
        (checked, tested)
    }
}

fn failure(name: &str, place: &Place, why: &str) -> Diagnostic {
    Diagnostic::error(Some(place.clone()), format!("test `{name}` fails: {why}"))
}

/// Everything that is not as expected; `None` when the test itself is wrong.
fn run(
    policy: &Policy,
    case: &Case,
    file: File<'_>,
    findings: &mut Findings,
) -> Option<Vec<String>> {
    let before = findings.0.len();
    let scenario = scenario(case, file, findings);
    let live = live(policy, case, file, findings);
    if case.expect.is_empty() {
        let message = format!("test `{}` expects nothing", case.name.value);
        let cure = "give `expect` a route, model, upstream, fallback, rejected or set";
        findings.cure(file, &case.name, message, cure);
    }
    let scenario = scenario.filter(|_| findings.0.len() == before)?;
    match scenario.decide(policy, &live) {
        Ok((explanation, decision)) => Some(case.expect.compare(&explanation, &decision)),
        Err(error) => {
            findings.error(file, &case.request, format!("this is no request: {}", error.message));
            None
        }
    }
}

fn scenario(case: &Case, file: File<'_>, findings: &mut Findings) -> Option<Scenario> {
    let endpoint = match &case.endpoint {
        None => None,
        Some(name) => match endpoint_named(&name.value) {
            Ok(endpoint) => Some(endpoint),
            Err(message) => {
                findings.error(file, name, message);
                None
            }
        },
    };
    let pairs = case.headers.iter().map(|(name, value)| (name.as_str(), value.value.as_str()));
    let headers = match headers(pairs) {
        Ok(headers) => headers,
        Err(message) => {
            findings.error(file, &case.name, message);
            return None;
        }
    };
    Some(Scenario {
        body: serde_json::to_vec(&case.request.value).unwrap_or_default(),
        endpoint,
        headers,
        key: case.key.clone(),
        unix_s: case.time.unwrap_or(USUAL_TIME).0,
        tokens: case.tokens,
        draw: case.name.value.clone().into_bytes(),
    })
}

fn live<'a>(
    policy: &'a Policy,
    case: &'a Case,
    file: File<'_>,
    findings: &mut Findings,
) -> Assumed<'a> {
    let mut live = Assumed::new(policy, case.time.unwrap_or(USUAL_TIME).0);
    for (name, assumed) in &case.models.0 {
        if !policy.knows_model(&name.value) {
            let known = policy.models.names();
            let cure = "define it under `models`";
            findings.unknown(file.place(name), ("model", &name.value), known, cure);
        }
        let usual = live.usual(&name.value);
        let state = ModelState {
            p50_ms: assumed.p50_ms.unwrap_or(usual.p50_ms),
            p95_ms: assumed.p95_ms.unwrap_or(usual.p95_ms),
            error_rate: assumed.error_rate.unwrap_or(usual.error_rate),
            in_flight: assumed.in_flight.unwrap_or(usual.in_flight),
            available: assumed.available.unwrap_or(usual.available),
            days_to_shutdown: assumed.days_to_shutdown.unwrap_or(usual.days_to_shutdown),
        };
        live.models.insert(&name.value, state);
    }
    for (route, tokens) in &case.expected_output.0 {
        if !policy.rules().iter().any(|rule| *rule.name == *route.value) {
            let known = policy.rules().iter().map(|rule| &*rule.name);
            let cure = "name a rule of `routes`";
            findings.unknown(file.place(route), ("rule", &route.value), known, cure);
        }
        live.outputs.insert(&route.value, *tokens);
    }
    live
}

impl Expected {
    fn is_empty(&self) -> bool {
        self.route.is_none()
            && self.model.is_none()
            && self.upstream.is_none()
            && self.fallback.is_none()
            && self.rejected.is_none()
            && self.set.is_none()
    }

    /// Everything that is not as expected.
    fn compare(&self, got: &Explanation, decision: &Result<Route, Stop>) -> Vec<String> {
        let mut wrong = Vec::new();
        let refused = || got.refused.as_ref().map(|why| format!("a refusal, \"{why}\""));
        let mut one = |what: &str, wanted: &Option<String>, got: Option<String>| {
            let Some(wanted) = wanted.as_ref().filter(|wanted| Some(*wanted) != got.as_ref())
            else {
                return;
            };
            let got = got.map(|name| format!("`{name}`")).or_else(refused);
            wrong.push(format!("expected {what} `{wanted}`, got {}", got.unwrap_or_default()));
        };
        one("route", &self.route, Some(got.route.clone()));
        one("model", &self.model, got.model.clone());
        one("upstream", &self.upstream, got.upstream.clone());
        if let Some(wanted) = self.fallback.as_ref().filter(|wanted| **wanted != got.fallback) {
            wrong.push(format!("expected fallback {}, got {}", row(wanted), row(&got.fallback)));
        }
        if let Some(wanted) = &self.rejected {
            wrong.extend(wanted.compare(got));
        }
        let set = decision.as_ref().map_or(&[][..], |route| &route.rule.set);
        for (field, wanted) in self.set.iter().flatten() {
            let got = set.iter().find(|(name, _)| name == field).map(|(_, value)| value.get());
            if got.and_then(|got| serde_json::from_str::<Value>(got).ok()).as_ref() != Some(wanted)
            {
                let got = got.unwrap_or("nothing");
                wrong.push(format!("expected `{field}` set to {wanted}, got {got}"));
            }
        }
        wrong
    }
}

impl Rejected {
    fn compare(&self, got: &Explanation) -> Option<String> {
        let model = || format!("model `{}`", got.model.as_deref().unwrap_or_default());
        match (self, &got.refused) {
            (Self::Whether(true), Some(_)) | (Self::Whether(false), None) => None,
            (Self::Saying(words), Some(why)) if why.contains(words) => None,
            (Self::Whether(false), Some(why)) => {
                Some(format!("expected no refusal, got \"{why}\""))
            }
            (Self::Saying(words), Some(why)) => {
                Some(format!("expected a refusal that says \"{words}\", got \"{why}\""))
            }
            (_, None) => Some(format!("expected a refusal, got {}", model())),
        }
    }
}

fn row(names: &[String]) -> String {
    format!("[{}]", names.join(", "))
}

#[cfg(test)]
mod tests;
