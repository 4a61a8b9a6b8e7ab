//! What routing saw of a request, to be kept with its record: a replay decides again by it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::metering::lazy::Told;
use crate::openai::shape::Shape;

use super::Policy;
use super::choose::Route;
use super::choose::Stop;
use super::expression::Expression;
use super::facts::Facts;
use super::facts::Live;
use super::facts::ModelState;
use super::file::Sticky;
use super::rule::Action;

/// Fields of a request that rules can ask for and that say nothing of what was said: names, and
/// numbers and flags.
const NAMES: [&str; 2] = ["model", "service_tier"];
const NUMBERS: [&str; 4] = ["stream", "max_tokens", "max_completion_tokens", "max_output_tokens"];
/// Bytes of a name that is kept, the model's aside: a tier is a word.
const LONGEST_NAME: usize = 64;
/// Bytes of a body that takes more than some microseconds to read.
const LONG: usize = 8 << 10;
const IMPORTANCE: &str = "x-weir-importance";

/// How models are doing, with a note of what was asked.
pub struct Noted<'a> {
    live: &'a dyn Live,
    models: RefCell<BTreeMap<String, ModelState>>,
    outputs: RefCell<BTreeMap<String, f64>>,
}

impl<'a> Noted<'a> {
    /// Passes questions on to `live`.
    pub fn of(live: &'a dyn Live) -> Self {
        Self { live, models: RefCell::default(), outputs: RefCell::default() }
    }
}

impl Live for Noted<'_> {
    fn model(&self, name: &str) -> ModelState {
        let known = self.models.borrow().get(name).copied();
        // A decision sees one state of a model, however often it asks.
        known.unwrap_or_else(|| {
            let state = self.live.model(name);
            self.models.borrow_mut().insert(name.to_owned(), state);
            state
        })
    }

    fn expected_output(&self, route: &str) -> Option<f64> {
        let output = self.live.expected_output(route)?;
        self.outputs.borrow_mut().insert(route.to_owned(), output);
        Some(output)
    }
}

/// What a decision was made from, as far as the record's other columns do not say it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Basis {
    /// The model that was to be asked first; empty for a refusal.
    pub chosen: String,
    /// The request's fields without what was said.
    pub request: Map<String, Value>,
    /// Its messages.
    #[serde(skip_serializing_if = "is_zero")]
    pub messages: usize,
    /// Its images.
    #[serde(skip_serializing_if = "is_zero")]
    pub images: usize,
    /// Its tools.
    #[serde(skip_serializing_if = "is_zero")]
    pub tools: usize,
    /// Whether the answer had to fit a JSON schema.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub json_schema: bool,
    /// These four are to be read from the body, which is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shape_in_body: bool,
    /// Headers that rules name, and the importance.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The key's tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key_tags: Vec<String>,
    /// What was known of the prompt's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_tokens: Option<u64>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_tokens: Option<u64>,
    /// Tells the end user apart, where a split sticks to users.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Whether conditions held that ask for what no record may keep.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, bool>,
    /// What was left of the tightest budget in USD, where a rule may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_left_usd: Option<f64>,
    /// How much of it was used, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_used: Option<f64>,
    /// How the models that were asked about were doing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelState>,
    /// What answers of the routes that were asked about usually took.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Basis {
    /// What `decision` was made from. Of a long body that is kept, what no rule has asked for is
    /// not read now.
    pub fn of(
        policy: &Policy,
        facts: &Facts<'_>,
        noted: &Noted<'_>,
        decision: &Result<Route, Stop>,
        keeps_body: bool,
    ) -> Self {
        let shape_in_body = keeps_body && !facts.knows_shape() && facts.body.len() > LONG;
        let shape = if shape_in_body { Shape::default() } else { facts.shape() };
        let Shape { messages, images, tools, json_schema } = shape;
        let Told { least, most } = facts.prompt.told();
        Self {
            chosen: decision.as_ref().map_or("", |route| &route.target.model).to_owned(),
            request: fields(policy, facts),
            messages,
            images,
            tools,
            json_schema,
            shape_in_body,
            headers: headers(policy, facts),
            key_tags: facts.key.tags.to_vec(),
            least_tokens: Some(least).filter(|least| *least > Told::NOTHING.least),
            most_tokens: Some(most).filter(|most| *most < Told::NOTHING.most),
            user: if policy.sticks_to_users() { facts.user_digest() } else { String::new() },
            held: held(policy, facts, decision),
            // No budget at all is infinite, which JSON cannot say.
            budget_left_usd: Some(facts.key.budget_left_usd).filter(|left| left.is_finite()),
            budget_used: Some(facts.key.budget_used)
                .filter(|_| facts.key.budget_left_usd.is_finite()),
            models: noted.models.take(),
            outputs: noted.outputs.take(),
        }
    }

    /// How the request was built.
    pub(super) fn shape(&self) -> Shape {
        let &Self { messages, images, tools, json_schema, .. } = self;
        Shape { messages, images, tools, json_schema }
    }
}

fn fields(policy: &Policy, facts: &Facts<'_>) -> Map<String, Value> {
    let mut fields = Map::new();
    for name in NAMES.into_iter().chain(NUMBERS) {
        let value = facts.view.raw(facts.body, name);
        let value = value.and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
        // A client that writes a text where a number belongs may have written anything.
        if let Some(value) = value.filter(|value| match value {
            Value::String(text) => match name {
                "model" => true,
                name => NAMES.contains(&name) && text.len() <= LONGEST_NAME,
            },
            value => value.is_number() || value.is_boolean(),
        }) {
            fields.insert(name.to_owned(), value);
        }
    }
    let entries = policy.entries_of("request.metadata");
    let metadata: Map<String, Value> =
        entries.filter_map(|name| Some((name.to_owned(), facts.metadata(name)?.into()))).collect();
    if !metadata.is_empty() {
        fields.insert("metadata".to_owned(), metadata.into());
    }
    fields
}

fn headers(policy: &Policy, facts: &Facts<'_>) -> BTreeMap<String, String> {
    let named = policy.entries_of("header").chain([IMPORTANCE]);
    let named = named.filter_map(|name| Some((name.to_owned(), facts.header(name)?.to_owned())));
    let mut headers: BTreeMap<_, _> = named.collect();
    // The key's word, as if the client had said it.
    if facts.importance() != "normal" {
        headers.entry(IMPORTANCE.to_owned()).or_insert_with(|| facts.importance().to_owned());
    }
    headers
}

/// The outcomes of conditions that cannot be asked again; of those that were asked.
fn held(
    policy: &Policy,
    facts: &Facts<'_>,
    decision: &Result<Route, Stop>,
) -> BTreeMap<String, bool> {
    let decisive = match decision {
        Ok(route) => Some(&route.rule),
        Err(Stop::Refused(refusal)) => Some(&refusal.rule),
        Err(Stop::NeedsExact) => None,
    };
    let mut asked = Vec::new();
    for rule in &policy.rules {
        asked.extend(rule.when.as_ref().filter(|when| when.reads_private()));
        if decisive.is_some_and(|decisive| Arc::ptr_eq(decisive, rule)) {
            break;
        }
    }
    let outcome =
        |when: &Expression| (Facts::held_key(when.source()), when.eval(facts) == Ok(true));
    asked.into_iter().map(outcome).collect()
}

impl Policy {
    /// The keys by which conditions read one of `header` and `request.metadata`.
    fn entries_of<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        let conditions = self.rules.iter().filter_map(|rule| rule.when.as_ref());
        conditions
            .flat_map(|when| when.entries())
            .filter_map(move |(map, key)| (map == wanted).then_some(key))
    }

    fn sticks_to_users(&self) -> bool {
        let sticks =
            |action: &Action| matches!(action, Action::Split { sticky: Some(Sticky::User), .. });
        self.rules.iter().any(|rule| sticks(&rule.action))
    }
}
