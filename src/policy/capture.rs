//! What is kept of a call: the first entry of `capture` whose condition holds decides.

use std::time::Duration;

use super::Policy;
use super::expression::EvalError;
use super::expression::Expression;
use super::facts::Facts;
use super::file::CaptureEntry;
use super::file::CaptureMode;
use super::file::Redact;
use super::findings::File;
use super::findings::Findings;

/// What is kept of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// How much.
    pub mode: CaptureMode,
    /// Whether keys, tokens and passwords are replaced before anything reaches a disk.
    pub redact_secrets: bool,
    /// Whether e-mail addresses, phone numbers and the like are.
    pub redact_pii: bool,
    /// How long bodies are kept; `None` for as long as the store is.
    pub keep: Option<Duration>,
    /// Whether it is on disk before the answer's last byte leaves.
    pub durable: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            mode: CaptureMode::Full,
            redact_secrets: true,
            redact_pii: false,
            keep: None,
            durable: false,
        }
    }
}

impl Capture {
    /// What is kept of calls whose body is not read.
    pub fn metadata() -> Self {
        Self { mode: CaptureMode::Metadata, ..Self::default() }
    }

    /// No more than `mode`: what a request asks for can only lower it.
    #[must_use]
    pub fn at_most(self, mode: CaptureMode) -> Self {
        Self { mode: self.mode.max(mode), ..self }
    }
}

/// One entry after the check.
#[derive(Debug)]
pub(super) struct CaptureRule {
    when: Option<Expression>,
    /// Share of the calls whose bodies are kept, 0 to 1.
    sample: f64,
    capture: Capture,
}

/// Checks one entry.
pub(super) fn rule(
    entry: &CaptureEntry,
    file: File<'_>,
    findings: &mut Findings,
) -> Option<CaptureRule> {
    let when = match &entry.when {
        Some(when) => Some(findings.expression(file, when)?),
        None => None,
    };
    let sample = entry.sample.as_ref().map_or(1.0, |sample| sample.value);
    if let Some(wrong) = entry.sample.as_ref().filter(|s| !(0.0..=1.0).contains(&s.value)) {
        findings.error(file, wrong, format!("sample {} is not within 0 to 1", wrong.value));
    }
    let redacts = |kind| entry.redact.as_ref().is_none_or(|kinds| kinds.contains(&kind));
    let capture = Capture {
        mode: entry.mode,
        redact_secrets: redacts(Redact::Secrets),
        redact_pii: entry.redact.is_some() && redacts(Redact::Pii),
        keep: entry.keep.as_ref().map(|keep| keep.0),
        durable: entry.durable,
    };
    Some(CaptureRule { when, sample, capture })
}

impl CaptureRule {
    pub(super) fn reads_tokens(&self) -> bool {
        self.when.as_ref().is_some_and(Expression::reads_tokens)
    }

    pub(super) fn reads_budget(&self) -> bool {
        self.when.as_ref().is_some_and(Expression::reads_budget)
    }

    pub(super) fn reads_live(&self) -> bool {
        self.when.as_ref().is_some_and(|when| when.models().next().is_some())
    }
}

impl Policy {
    /// What is kept of every call, where that depends on nothing.
    pub fn captures_all(&self) -> Option<Capture> {
        self.captures.is_empty().then(Capture::default)
    }

    /// Whether any call's personal data is replaced: then a verdict's is, too, since nobody knows yet
    /// which call it is about.
    pub fn redacts_pii(&self) -> bool {
        self.captures.iter().any(|rule| rule.capture.redact_pii)
    }

    /// What is kept of a call. A condition that has no value does not hold.
    ///
    /// # Errors
    /// [`EvalError::NeedsExact`]: the prompt has to be counted first.
    pub fn capture(&self, facts: &Facts<'_>) -> Result<Capture, EvalError> {
        for rule in &self.captures {
            match rule.when.as_ref().map_or(Ok(true), |when| when.eval(facts)) {
                Err(EvalError::NeedsExact) => return Err(EvalError::NeedsExact),
                Ok(true) if drawn(facts.draw, rule.sample) => return Ok(rule.capture),
                Ok(true) => return Ok(rule.capture.at_most(CaptureMode::Metadata)),
                _ => {}
            }
        }
        Ok(Capture::default())
    }
}

/// Whether a call is among that share of all: by the random end of its id.
fn drawn(draw: &[u8], share: f64) -> bool {
    let mut last = [0; 4];
    last.iter_mut().zip(draw.iter().rev()).for_each(|(to, from)| *to = *from);
    f64::from(u32::from_be_bytes(last)) < share * 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Settings;
    use crate::policy::Sources;
    use crate::policy::facts::tests::with_facts;

    fn policy(yaml: &str) -> Policy {
        let sources = Sources::of([("a.yaml".to_owned(), yaml.to_owned())].into());
        Policy::check(&sources, &Settings::default()).policy.unwrap()
    }

    fn captured(policy: &Policy, body: &str, draw: &'static [u8]) -> Capture {
        with_facts(body, |facts| {
            facts.draw = draw;
            policy.capture(facts).unwrap()
        })
    }

    #[test]
    fn without_a_word_everything_is_kept_but_secrets() {
        let kept = policy("routes: []").captures_all().unwrap();
        assert_eq!(
            (kept.mode, kept.redact_secrets, kept.redact_pii),
            (CaptureMode::Full, true, false)
        );
        assert_eq!((kept.keep, kept.durable), (None, false));
    }

    #[test]
    fn the_first_entry_that_holds_decides() {
        let policy = policy(
            r#"capture:
  - { when: 'tag["missing"] == "x"', mode: "off" }
  - { when: request.model == "quiet", mode: "off" }
  - { when: request.model == "dear", redact: [secrets, pii], keep: 90d, durable: true }
  - { when: request.model == "open", redact: [] }
  - { mode: metadata }
"#,
        );
        assert_eq!(policy.captures_all(), None);
        let kept = |model: &str| captured(&policy, &format!(r#"{{"model":"{model}"}}"#), b"");
        assert_eq!(kept("quiet").mode, CaptureMode::Off);
        let dear = kept("dear");
        assert!(dear.durable && dear.redact_secrets && dear.redact_pii);
        // 90 days of 86,400 s.
        assert_eq!(dear.keep, Some(Duration::from_secs(7_776_000)));
        let open = kept("open");
        assert!(!open.redact_secrets && !open.redact_pii);
        assert_eq!(kept("other").mode, CaptureMode::Metadata);
    }

    #[test]
    fn a_sample_keeps_the_bodies_of_its_share() {
        let policy = policy("capture: [{ sample: 0.25 }]");
        let mode = |draw| captured(&policy, r#"{"model":"m"}"#, draw).mode;
        // The last four bytes, the last first, are a number below a quarter of 2^32, and a quarter.
        assert_eq!(mode(&[9, 9, 0xff, 0xff, 0xff, 0x3f]), CaptureMode::Full);
        assert_eq!(mode(&[9, 9, 0, 0, 0, 0x40]), CaptureMode::Metadata);
    }

    #[test]
    fn a_request_can_only_lower() {
        let metadata = Capture::metadata();
        assert_eq!(metadata.at_most(CaptureMode::Full).mode, CaptureMode::Metadata);
        assert_eq!(metadata.at_most(CaptureMode::Off).mode, CaptureMode::Off);
    }
}
