//! A decision that explains itself: every rule that was looked at, and what it saw.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::choose::Candidate;
use super::choose::Route;
use super::choose::Stop;
use super::choose::Trace;
use super::choose::Why;
use super::expression::EvalError;
use super::facts::Facts;
use super::rule::Rule;

/// Longest JSON in a header, in bytes; base64 makes a third more of it.
const LONGEST_HEADER: usize = 5_000;

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How a decision came about.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    /// The revision that decided.
    pub policy: String,
    /// The model that was asked for.
    pub asked: String,
    /// The rule that decided; `default` where none matched.
    pub route: String,
    /// The model that was chosen; absent when the request is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The provider of that model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The models to try when it fails.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
    /// The documents of which the rule puts passages into conversations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieve: Option<Retrieved>,
    /// Why the request is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Every rule that was looked at, in order.
    pub rules: Vec<Step>,
    /// Rules that are left out of a header, which has to stay short.
    #[serde(skip_serializing_if = "is_zero")]
    pub omitted: usize,
    /// Every model that `cheapest` or `fastest` weighed, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Weighed>,
}

/// What a rule would look for; explaining searches nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Retrieved {
    /// The source of documents.
    pub source: String,
    /// Passages at most.
    pub top_k: u32,
    /// Tokens at most.
    pub max_tokens: u64,
}

/// One rule that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The rule.
    pub rule: String,
    /// Its condition; absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// `hit`, `miss`, or `error`, which counts as a miss.
    pub outcome: &'static str,
    /// Why the condition had no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The variables that it read, with what they were.
    pub inputs: Vec<Input>,
}

/// A variable and its value.
#[derive(Clone, Debug, Serialize)]
pub struct Input {
    /// The variable as it is written.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// One model that was weighed.
#[derive(Clone, Debug, Serialize)]
pub struct Weighed {
    /// The model.
    pub model: String,
    /// Expected cost of this request in USD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_cost_usd: Option<String>,
    /// 95th percentile of its time to the last byte; 0 when nothing is known.
    pub p95_ms: f64,
    /// Why it cannot be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded: Option<&'static str>,
    /// Why others go before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demoted: Option<&'static str>,
}

impl Trace for Explanation {
    fn rule(&mut self, rule: &Rule, outcome: &Result<bool, EvalError>, facts: &Facts<'_>) {
        let inputs = rule.when.iter().flat_map(|when| when.inputs(facts));
        self.rules.push(Step {
            rule: rule.name.to_string(),
            when: rule.when.as_ref().map(|when| when.source().to_owned()),
            outcome: match outcome {
                Ok(true) => "hit",
                Ok(false) => "miss",
                Err(_) => "error",
            },
            error: outcome.as_ref().err().map(ToString::to_string),
            inputs: inputs.map(|(name, value)| Input { name, value }).collect(),
        });
    }

    fn candidate(&mut self, candidate: &Candidate<'_>) {
        self.candidates.push(Weighed {
            model: candidate.target.model.to_string(),
            expected_cost_usd: candidate.cost.map(|cost| cost.to_string()),
            p95_ms: candidate.p95_ms,
            excluded: candidate.excluded,
            demoted: candidate.demoted,
        });
    }
}

impl Explanation {
    /// Notes what was decided.
    pub fn conclude(&mut self, policy: &str, asked: &str, decision: &Result<Route, Stop>) {
        policy.clone_into(&mut self.policy);
        asked.clone_into(&mut self.asked);
        match decision {
            Ok(route) => {
                self.route = route.rule.name.to_string();
                self.model = Some(route.target.model.to_string());
                self.upstream = Some(route.target.upstream.name.clone());
                self.retrieve = route.rule.retrieve.as_ref().map(|wanted| Retrieved {
                    source: wanted.source.clone(),
                    top_k: wanted.top_k,
                    max_tokens: wanted.max_tokens,
                });
                self.fallback = route.fallback.iter().map(|t| t.model.to_string()).collect();
            }
            Err(Stop::Refused(refusal)) => {
                self.route = refusal.rule.name.to_string();
                self.refused = Some(refusal.why.to_string());
            }
            Err(Stop::NeedsExact) => {}
        }
    }

    /// The form of the header `x-weir-decision`: JSON in base64url. The values that conditions
    /// read are in it, and nothing of what the messages say.
    ///
    /// Many clients take no header of more than 8 KB: of a long explanation the rules that did not
    /// match are left out, and then all of them.
    pub fn to_header(&self) -> String {
        let json = |explanation: &Self| serde_json::to_vec(explanation).unwrap_or_default();
        let mut short = self.clone();
        let mut text = json(&short);
        if text.len() > LONGEST_HEADER {
            short.rules.retain(|step| step.outcome != "miss");
            short.omitted = self.rules.len() - short.rules.len();
            text = json(&short);
        }
        if text.len() > LONGEST_HEADER {
            (short.rules, short.omitted) = (Vec::new(), self.rules.len());
            text = json(&short);
        }
        URL_SAFE_NO_PAD.encode(text)
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(message) => f.write_str(message),
            Self::UnknownModel => f.write_str("the model is not known"),
            Self::NoneFits(reason) => write!(f, "none of the models can take it: {reason}"),
            Self::TooLong { tokens, longest } => {
                write!(
                    f,
                    "the prompt has {tokens} tokens; the longest of the models takes {longest}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_stays_short_however_many_rules_there_are() {
        let step = |index: usize, outcome| Step {
            rule: format!("rule-{index}"),
            when: Some("request.model == \"x\"".to_owned()),
            outcome,
            error: None,
            inputs: Vec::new(),
        };
        let mut rules: Vec<_> = (0..2_000).map(|index| step(index, "miss")).collect();
        rules.push(step(2_000, "hit"));
        let explanation = Explanation { rules, ..Explanation::default() };
        let header = explanation.to_header();
        assert!(header.len() < 8_000, "{}", header.len());
        let json = URL_SAFE_NO_PAD.decode(header).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (&told["omitted"], &told["rules"][0]["rule"]),
            (&2_000.into(), &"rule-2000".into())
        );
        let short = Explanation { rules: vec![step(1, "miss")], ..Explanation::default() };
        let json = URL_SAFE_NO_PAD.decode(short.to_header()).unwrap();
        assert!(!String::from_utf8(json).unwrap().contains("omitted"));
    }
}
