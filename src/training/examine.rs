//! Takes one row through the stages that need no other row.

use serde_json::Value;

use crate::metering::tokens::Encoding;
use crate::metering::tokens::estimate_prompt;
use crate::store::Candidate;

use super::digest::sha256;
use super::example::About;
use super::example::Example;
use super::example::said;
use super::example::text;
use super::read;
use super::recipe::FileSource;
use super::recipe::Method;
use super::recipe::Recipe;
use super::sip::sip;
use super::stages::balance;
use super::stages::chain;
use super::stages::chain::Chain;
use super::stages::consent;
use super::stages::contamination::Holdout;
use super::stages::near::Sketch;
use super::stages::normalise;
use super::stages::outcome;
use super::stages::outcome::Outcome;
use super::stages::quality;
use super::stages::redact;
use super::stages::structure;
use super::tally::Reason;
use super::tally::Tally;

const KEY: [u64; 2] = [0x7765_6972, 0x7379_7374];
/// Characters of what a preview shows of a row.
const EXCERPT: usize = 400;

/// Takes rows through the stages.
#[derive(Debug)]
pub(super) struct Examiner {
    pub(super) recipe: Recipe,
    pub(super) holdout: Holdout,
    /// Whether what is dropped is shown to somebody.
    pub(super) shows: bool,
}

/// A row behind the stages that need no other row.
#[derive(Debug, Default)]
pub(super) struct Examined {
    pub(super) about: About,
    pub(super) tally: Tally,
    pub(super) rating: Option<f64>,
    /// Where it stands in its conversation, when it came so far.
    pub(super) chain: Option<Chain>,
    pub(super) outcome: Option<Result<Fit, Reason>>,
    /// Its last words, where somebody wants to see what is dropped.
    pub(super) excerpt: Option<String>,
}

/// A row that may be learned from.
#[derive(Debug)]
pub(super) struct Fit {
    /// The JSONL line, without its end.
    pub(super) line: String,
    pub(super) content: [u8; 16],
    pub(super) sketch: Sketch,
    pub(super) tokens: u64,
    pub(super) system: u64,
    pub(super) tools: Vec<String>,
    pub(super) refuses: bool,
    pub(super) demonstrated: bool,
}

impl Examiner {
    /// A captured call.
    pub(super) fn call(&self, call: &Candidate) -> Examined {
        let mut examined = Examined { about: about(call), ..Examined::default() };
        let outcome = Outcome {
            status: call.status_code,
            finish_reason: call.finish_reason.as_deref(),
            error_code: call.error_code.as_deref(),
            client_left: call.client_left,
        };
        let example = consent::given(call.consent.as_deref())
            .and_then(|()| outcome::whole(outcome))
            .and_then(|()| call.bodies().ok_or("structure.no_bodies"))
            .and_then(|(request, answer)| read::pair(&call.endpoint, &request, &answer));
        self.finish(&mut examined, example);
        examined
    }

    /// A line of a file, the first of which is 1.
    pub(super) fn line(&self, line: &str, source: &FileSource) -> Examined {
        let mut examined = Examined::default();
        let members = serde_json::from_str::<Value>(line);
        let example = match members.as_ref().ok().and_then(Value::as_object) {
            Some(members) => {
                let named = |field: &Option<String>| {
                    Some(match members.get(field.as_deref()?)? {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    })
                };
                // The family is the wider one of the two.
                let conversation = named(&source.family).or_else(|| named(&source.conversation));
                examined.about.conversation = conversation;
                let rating = source.rating.as_deref().and_then(|field| members.get(field));
                if let Some(rating) = rating {
                    examined.about.verdicts.insert("rating".to_owned(), rating.clone());
                }
                read::line(members)
            }
            None => Err("structure.unreadable_request"),
        };
        self.finish(&mut examined, example);
        examined
    }

    fn finish(&self, examined: &mut Examined, example: Result<Example, Reason>) {
        let outcome = example.and_then(|mut example| {
            let fit = self.fit(&mut example, examined);
            if self.shows {
                examined.excerpt = Some(self.excerpt(&mut example));
            }
            fit
        });
        if let Err(reason) = outcome
            && examined.chain.is_none()
        {
            examined.tally.drop(reason);
        }
        examined.outcome = Some(outcome);
    }

    /// Stages 3 to 9, as far as they look at one row alone.
    fn fit(&self, example: &mut Example, examined: &mut Examined) -> Result<Fit, Reason> {
        let Examined { about, tally, rating, chain, .. } = examined;
        let Recipe { stages, method, .. } = &self.recipe;
        let quality = &stages.quality;
        structure::shape(example, &stages.structure, tally)?;
        if *method == Method::Preference {
            structure::plain(example)?;
        }
        *chain = Some(chain::follow(example));
        *rating = quality::rating(&about.verdicts, quality.rate_by.as_deref());
        let mut demonstrated = false;
        if quality.enabled && quality.demonstrations {
            let was = quality::demonstrate(example, &about.verdicts, tally);
            demonstrated = was.is_some();
            example.rejected = was.filter(|_| *method == Method::Preference);
        }
        normalise::normalise(example, &stages.normalise, tally)?;
        redact::redact(example, &stages.redact, tally);
        if quality.enabled && !demonstrated && *method == Method::Supervised {
            quality::judged(&about.verdicts, &quality.feedback)?;
        }
        if *method == Method::Preference && !demonstrated && rating.is_none() {
            return Err("quality.no_feedback");
        }
        self.measured(example, demonstrated)
    }

    fn measured(&self, example: &Example, demonstrated: bool) -> Result<Fit, Reason> {
        let line = example.line();
        let answer = example.answer().ok_or("structure.no_assistant")?;
        let tokens = self.tokens(example);
        let answer_tokens = Encoding::of(&self.recipe.model).count(&said(answer));
        if self.recipe.stages.quality.enabled {
            quality::sound(example, tokens, answer_tokens, &self.recipe.stages.quality)?;
        }
        self.holdout.check(example)?;
        let mut tools: Vec<String> = example.called().map(str::to_owned).collect();
        tools.sort_unstable();
        tools.dedup();
        let system = normalise::templated(&example.system()).into_owned();
        Ok(Fit {
            content: sha256(without_ids(example).as_bytes()).half(),
            sketch: Sketch::of(example),
            tokens,
            system: sip(KEY, system.as_bytes()),
            tools,
            refuses: balance::refuses(&text(answer)),
            demonstrated,
            line,
        })
    }

    /// What an example costs to train on once: all that is said in it, of a pair both answers.
    fn tokens(&self, example: &Example) -> u64 {
        let chosen = Example { rejected: None, ..example.clone() };
        let count =
            |example: &Example| estimate_prompt(&self.recipe.model, example.line().as_bytes());
        let Some(rejected) = &example.rejected else { return count(&chosen) };
        let other = Example { messages: vec![rejected.clone()], ..Example::default() };
        count(&chosen) + count(&other)
    }

    /// What the last question and the answer were, without what nobody may see.
    fn excerpt(&self, example: &mut Example) -> String {
        let mut tally = Tally::default();
        redact::redact(example, &super::settings::Redact::default(), &mut tally);
        excerpt(&example.messages)
    }
}

/// The last question and the answer.
pub(super) fn excerpt(messages: &[Value]) -> String {
    let last = messages.iter().rev().take(2).rev();
    let told = last.map(|message| format!("{}: {}", super::example::role(message), said(message)));
    told.collect::<Vec<_>>().join("\n").chars().take(EXCERPT).collect()
}

fn about(call: &Candidate) -> About {
    About {
        id: Some(call.id),
        conversation: call.session_id.clone(),
        user: call.end_user_hash.clone(),
        key: call.key_name.clone(),
        team: call.team.clone(),
        model: call.response_model.clone().or_else(|| call.model.clone()),
        verdicts: call.verdicts.clone(),
    }
}

/// The line with its calls numbered: providers give the same call another id each time.
fn without_ids(example: &Example) -> String {
    let mut example = example.clone();
    let mut known: Vec<String> = Vec::new();
    let mut number = |id: &mut Value| {
        let text = id.as_str().unwrap_or_default();
        let at = known.iter().position(|other| other == text).unwrap_or_else(|| {
            known.push(text.to_owned());
            known.len() - 1
        });
        *id = at.into();
    };
    for message in &mut example.messages {
        if let Some(id) = message.get_mut("tool_call_id") {
            number(id);
        }
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            if let Some(id) = call.get_mut("id") {
                number(id);
            }
        }
    }
    example.line()
}
