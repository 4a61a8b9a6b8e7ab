//! What can be set for the stages of a recipe.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::recipe::BadRecipe;
use super::recipe::yes;

/// The longest example that OpenAI's gpt-4o family trains on whole (Azure's documentation, 2026).
const LONGEST_EXAMPLE: u64 = 65_536;

/// What becomes of a turn whose tool call went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToolErrors {
    /// It is not learned: `weight: 0`.
    #[default]
    Weight,
    /// The whole row goes.
    Drop,
    /// It is learned like any other.
    Keep,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Structure {
    /// Whether arguments of tool calls have to satisfy their schemas.
    #[serde(default = "yes")]
    pub(super) schemas: bool,
    #[serde(default)]
    pub(super) tool_errors: ToolErrors,
    /// Texts that end a conversation: the message that holds one, and all after it, go.
    #[serde(default)]
    pub(super) sentinels: Vec<String>,
}

impl Default for Structure {
    fn default() -> Self {
        Self { schemas: true, tool_errors: ToolErrors::default(), sentinels: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Normalise {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    /// Whether dates, times and UUIDs in system prompts become `<DATE>`, `<TIME>` and `<UUID>`.
    #[serde(default)]
    pub(super) volatile: bool,
    /// Texts that are cut from system and user messages. A model trained without them is to be
    /// asked without them.
    #[serde(default)]
    pub(super) prune: Vec<String>,
}

impl Default for Normalise {
    fn default() -> Self {
        Self { enabled: true, volatile: false, prune: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Redacted {
    Secrets,
    Pii,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Redact {
    #[serde(default = "all_kinds")]
    pub(super) kinds: Vec<Redacted>,
    /// Members of JSON in messages whose values are replaced: name and placeholder, such as
    /// `"dob": "BIRTH_DATE"`.
    #[serde(default)]
    pub(super) fields: BTreeMap<String, String>,
}

impl Default for Redact {
    fn default() -> Self {
        Self { kinds: all_kinds(), fields: BTreeMap::new() }
    }
}

fn all_kinds() -> Vec<Redacted> {
    vec![Redacted::Secrets, Redacted::Pii]
}

/// What a verdict has to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feedback {
    pub(super) name: String,
    /// At least this much; true counts as 1, false as 0.
    #[serde(default)]
    pub(super) min: Option<f64>,
    /// Exactly this text.
    #[serde(default)]
    pub(super) is: Option<String>,
    /// Whether rows go that nobody judged.
    #[serde(default)]
    pub(super) required: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quality {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    #[serde(default)]
    pub(super) feedback: Vec<Feedback>,
    /// Whether what should have been said takes the place of what was said.
    #[serde(default = "yes")]
    pub(super) demonstrations: bool,
    /// The verdict that says which of two answers is better; without it the mean of all that are
    /// bools and numbers.
    #[serde(default)]
    pub(super) rate_by: Option<String>,
    /// By how much the better answer of a pair has to be better.
    #[serde(default = "margin")]
    pub(super) margin: f64,
    #[serde(default)]
    pub(super) min_tokens: u64,
    #[serde(default = "longest")]
    pub(super) max_tokens: u64,
    #[serde(default = "one")]
    pub(super) min_answer_tokens: u64,
    /// The largest part of an answer that may repeat what it said before, from 0 to 1.
    #[serde(default = "repetition")]
    pub(super) max_repetition: f64,
    /// Languages of answers (ISO 639-3, such as `eng`); all of them where there is none.
    #[serde(default)]
    pub(super) languages: Vec<String>,
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            enabled: true,
            feedback: Vec::new(),
            demonstrations: true,
            rate_by: None,
            margin: margin(),
            min_tokens: 0,
            max_tokens: longest(),
            min_answer_tokens: one(),
            max_repetition: repetition(),
            languages: Vec::new(),
        }
    }
}

fn margin() -> f64 {
    0.5
}

fn longest() -> u64 {
    LONGEST_EXAMPLE
}

fn one() -> u64 {
    1
}

fn repetition() -> f64 {
    0.5
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dedupe {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    /// How much of two answers and their questions may be the same, from 0 to 1.
    #[serde(default = "near")]
    pub(super) near: f64,
}

impl Default for Dedupe {
    fn default() -> Self {
        Self { enabled: true, near: near() }
    }
}

impl Dedupe {
    pub(super) fn check(&self, place: &str) -> Result<(), BadRecipe> {
        if self.near > 0.0 && self.near <= 1.0 {
            return Ok(());
        }
        Err(BadRecipe::at(format!("{place}.near"), "must be over 0 and at most 1"))
    }
}

fn near() -> f64 {
    0.8
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contamination {
    /// Files of JSON lines or text that nothing may be learned from.
    #[serde(default)]
    pub(super) files: Vec<String>,
    /// Ids of datasets whose validation sets nothing may be learned from.
    #[serde(default)]
    pub(super) datasets: Vec<uuid::Uuid>,
    /// So many words in a row that both have are too many.
    #[serde(default = "ngram")]
    pub(super) ngram: usize,
}

impl Default for Contamination {
    fn default() -> Self {
        Self { files: Vec::new(), datasets: Vec::new(), ngram: ngram() }
    }
}

impl Contamination {
    pub(super) fn check(&self, place: &str) -> Result<(), BadRecipe> {
        if (3..=100).contains(&self.ngram) {
            return Ok(());
        }
        Err(BadRecipe::at(format!("{place}.ngram"), "must be between 3 and 100"))
    }
}

fn ngram() -> usize {
    13
}

/// What keeps to one side of the split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SplitBy {
    #[default]
    Conversation,
    User,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Split {
    /// The part of the families that is kept for validation, from 0 to under 1.
    #[serde(default = "tenth")]
    pub(super) validation: f64,
    #[serde(default)]
    pub(super) seed: u64,
    #[serde(default)]
    pub(super) by: SplitBy,
}

impl Default for Split {
    fn default() -> Self {
        Self { validation: tenth(), seed: 0, by: SplitBy::default() }
    }
}

impl Split {
    pub(super) fn check(&self) -> Result<(), BadRecipe> {
        if (0.0..1.0).contains(&self.validation) {
            return Ok(());
        }
        Err(BadRecipe::at("split.validation", "must be at least 0 and under 1"))
    }
}

fn tenth() -> f64 {
    0.1
}

/// How many rows of a kind there may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Caps {
    #[serde(default)]
    pub(super) rows: Option<u64>,
    #[serde(default)]
    pub(super) per_team: Option<u64>,
    #[serde(default)]
    pub(super) per_key: Option<u64>,
    #[serde(default)]
    pub(super) per_system_prompt: Option<u64>,
    #[serde(default)]
    pub(super) per_tool: Option<u64>,
    /// The largest part of the rows whose answer refuses, from 0 to 1.
    #[serde(default)]
    pub(super) refusals: Option<f64>,
}
