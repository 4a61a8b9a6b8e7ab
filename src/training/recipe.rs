//! What a dataset is made of: the recipe, read from JSON with the place of whatever is wrong.

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use thiserror::Error;

use super::settings::Caps;
use super::settings::Contamination;
use super::settings::Dedupe;
use super::settings::Normalise;
use super::settings::Quality;
use super::settings::Redact;
use super::settings::Split;
use super::settings::Structure;

/// Characters of a dataset's name.
const LONGEST_NAME: usize = 100;
/// Stages without settings, and those whose settings are members of the recipe.
const PLAIN: [(&str, Option<&str>); 5] = [
    ("consent", None),
    ("outcome", None),
    ("split", Some("split")),
    ("balance", Some("caps")),
    ("emit", None),
];

/// A recipe that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{path}`: {message}")]
pub struct BadRecipe {
    /// Where in the JSON, such as `stages[2].kind`.
    pub path: String,
    /// What is wrong there, and what to write.
    pub message: String,
}

impl BadRecipe {
    /// What is wrong at a place.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// What examples teach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// To answer like this.
    #[default]
    Supervised,
    /// To answer like this rather than like that.
    #[serde(alias = "dpo")]
    Preference,
}

impl Method {
    /// As `datasets.method` and the fine-tuning API call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Supervised => "supervised",
            Self::Preference => "dpo",
        }
    }
}

/// Where rows come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The calls that were captured.
    #[default]
    Rows,
    /// A file of JSON lines, each with `messages`. Whoever imports it answers for the consent.
    File(FileSource),
}

/// A file of examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// Where it is.
    pub path: String,
    /// The member that names the conversation.
    #[serde(default)]
    pub conversation: Option<String>,
    /// The member that names what must not be on both sides of the split, such as a task.
    #[serde(default)]
    pub family: Option<String>,
    /// The member that says how good the answer is: a bool or a number.
    #[serde(default)]
    pub rating: Option<String>,
}

/// A recipe. The stages always run in the same order; entries of `stages` change their settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The dataset's name; each build of it is a version.
    pub name: String,
    /// Whose dataset it is: only this team's calls are read.
    pub team: Option<String>,
    /// What examples teach.
    pub method: Method,
    /// The model that is to be trained: it decides how tokens are counted.
    pub model: String,
    /// Where rows come from.
    pub source: Source,
    /// Which calls, in the words of `GET /api/interactions`.
    pub filter: Map<String, Value>,
    pub(super) stages: Stages,
    pub(super) split: Split,
    pub(super) caps: Caps,
    /// The kinds of `stages` as they were written.
    written: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    #[serde(default)]
    team: Option<String>,
    #[serde(default)]
    method: Method,
    #[serde(default = "model")]
    model: String,
    #[serde(default)]
    source: Source,
    #[serde(default)]
    filter: Map<String, Value>,
    #[serde(default)]
    stages: Vec<Map<String, Value>>,
    #[serde(default)]
    split: Split,
    #[serde(default)]
    caps: Caps,
}

/// The stages that have settings of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stages {
    pub(super) structure: Structure,
    /// Whether the turns of a conversation become one row.
    pub(super) assemble: Switch,
    pub(super) normalise: Normalise,
    pub(super) redact: Redact,
    pub(super) quality: Quality,
    pub(super) dedupe: Dedupe,
    pub(super) contamination: Contamination,
}

/// A stage that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
}

impl Default for Switch {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// What cannot be used, and where it stands.
    pub fn parse(json: &[u8]) -> Result<Self, BadRecipe> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let raw: Raw =
            serde_path_to_error::deserialize(&mut reader).map_err(|error| bad("", &error))?;
        reader.end().map_err(|error| BadRecipe::at("recipe", error.to_string()))?;
        named(&raw.name)?;
        raw.split.check()?;
        let kind = |entry: &Map<String, Value>| entry.get("kind").cloned().unwrap_or_default();
        let recipe = Self {
            written: raw.stages.iter().map(kind).collect(),
            stages: Stages::read(raw.stages)?,
            name: raw.name,
            team: raw.team,
            method: raw.method,
            model: raw.model,
            source: raw.source,
            filter: raw.filter,
            split: raw.split,
            caps: raw.caps,
        };
        filter_is_plain(&recipe.filter)?;
        Ok(recipe)
    }

    /// The whole recipe, with all that it left out.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "team": self.team,
            "method": self.method,
            "model": self.model,
            "source": self.source,
            "filter": self.filter,
            "stages": self.stages.to_json(),
            "split": self.split,
            "caps": self.caps,
        })
    }

    /// Tells recipes apart that may give different lines: 64 hex digits. The name says nothing.
    pub fn hash(&self) -> String {
        let mut json = self.to_json();
        if let Some(members) = json.as_object_mut() {
            members.remove("name");
        }
        super::digest::sha256(json.to_string().as_bytes()).hex()
    }

    /// Files of this machine that the recipe reads, by their place in it.
    pub fn files(&self) -> Vec<(String, &str)> {
        let mut files = Vec::new();
        if let Source::File(file) = &self.source {
            files.push(("source.file.path".to_owned(), file.path.as_str()));
        }
        let holdout = self.stages.contamination.files.iter().enumerate();
        let place = |at| self.place_of("contamination", &format!("files[{at}]"));
        files.extend(holdout.map(|(at, path)| (place(at), path.as_str())));
        files
    }

    /// Where a stage's setting stands.
    pub(super) fn place_of(&self, kind: &str, setting: &str) -> String {
        let at = self.written.iter().position(|other| other == kind);
        format!("stages[{}].{setting}", at.unwrap_or_default())
    }
}

impl Stages {
    fn read(list: Vec<Map<String, Value>>) -> Result<Self, BadRecipe> {
        let mut stages = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for (at, mut entry) in list.into_iter().enumerate() {
            let place = format!("stages[{at}]");
            let kind = match entry.remove("kind") {
                Some(Value::String(kind)) => kind,
                _ => return Err(BadRecipe::at(format!("{place}.kind"), "must name the stage")),
            };
            if seen.contains(&kind) {
                let message = format!("`{kind}` stands here a second time");
                return Err(BadRecipe::at(format!("{place}.kind"), message));
            }
            stages.set(&kind, &place, entry)?;
            seen.push(kind);
        }
        Ok(stages)
    }

    fn set(&mut self, kind: &str, place: &str, entry: Map<String, Value>) -> Result<(), BadRecipe> {
        let entry = Value::Object(entry);
        match kind {
            "structure" => self.structure = settings(place, entry)?,
            "assemble" => self.assemble = settings(place, entry)?,
            "normalise" => self.normalise = settings(place, entry)?,
            "redact" => self.redact = settings(place, entry)?,
            "quality" => self.quality = settings(place, entry)?,
            "dedupe" => {
                self.dedupe = settings(place, entry)?;
                self.dedupe.check(place)?;
            }
            "contamination" => {
                self.contamination = settings(place, entry)?;
                self.contamination.check(place)?;
            }
            _ => return plain(kind, place, &entry),
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let with = |kind: &str, settings: Value| {
            let mut entry = settings;
            if let Some(members) = entry.as_object_mut() {
                members.insert("kind".to_owned(), kind.into());
            }
            entry
        };
        json!([
            { "kind": "consent" },
            { "kind": "outcome" },
            with("structure", json!(self.structure)),
            with("assemble", json!(self.assemble)),
            with("normalise", json!(self.normalise)),
            with("redact", json!(self.redact)),
            with("quality", json!(self.quality)),
            with("dedupe", json!(self.dedupe)),
            with("contamination", json!(self.contamination)),
            { "kind": "split" },
            { "kind": "balance" },
            { "kind": "emit" },
        ])
    }
}

/// A stage without settings here.
fn plain(kind: &str, place: &str, entry: &Value) -> Result<(), BadRecipe> {
    let Some((_, elsewhere)) = PLAIN.iter().find(|(known, _)| *known == kind) else {
        let message = format!(
            "`{kind}` is no stage; there are consent, outcome, structure, assemble, normalise, \
             redact, quality, dedupe, contamination, split, balance and emit"
        );
        return Err(BadRecipe::at(format!("{place}.kind"), message));
    };
    match entry.as_object().and_then(|members| members.keys().next()) {
        None => Ok(()),
        Some(name) => {
            let message = match elsewhere {
                Some(member) => format!("is no setting of a stage; write it into `{member}`"),
                None => format!("`{kind}` always runs, and has no settings"),
            };
            Err(BadRecipe::at(format!("{place}.{name}"), message))
        }
    }
}

fn settings<T: DeserializeOwned>(place: &str, entry: Value) -> Result<T, BadRecipe> {
    serde_path_to_error::deserialize(entry).map_err(|error| bad(place, &error))
}

fn bad<E: std::fmt::Display>(place: &str, error: &serde_path_to_error::Error<E>) -> BadRecipe {
    // What is no JSON, or misses a member, has no place of its own.
    let path = error.path().to_string();
    let path = path.trim_end_matches(['?', '.']);
    let path = match (place, path) {
        ("", "") => "recipe".to_owned(),
        ("", path) => path.to_owned(),
        (place, "") => place.to_owned(),
        (place, path) => format!("{place}.{path}"),
    };
    BadRecipe::at(path, error.inner().to_string())
}

fn named(name: &str) -> Result<(), BadRecipe> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_part);
    if fits && !name.starts_with('.') {
        return Ok(());
    }
    let message = format!(
        "must have 1 to {LONGEST_NAME} letters, digits, `-`, `_` or `.`, and not begin with a dot"
    );
    Err(BadRecipe::at("name", message))
}

/// Users are hashed in the store, and their names are not for a recipe, which is kept.
fn filter_is_plain(filter: &Map<String, Value>) -> Result<(), BadRecipe> {
    for (name, value) in filter {
        let place = format!("filter.{name}");
        if matches!(name.as_str(), "limit" | "after" | "order" | "user") {
            return Err(BadRecipe::at(place, "is no filter of a dataset"));
        }
        let is_plain =
            |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
        let many = value.as_array().is_some_and(|list| name == "tag" && list.iter().all(is_plain));
        if !is_plain(value) && !many {
            let message = "must be a text, a number, true or false; only `tag` may be a list";
            return Err(BadRecipe::at(place, message));
        }
    }
    Ok(())
}

fn model() -> String {
    "gpt-4.1-mini".to_owned()
}

pub(super) fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        Recipe::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (json, part) in [
            ("{", "`recipe`: EOF"),
            ("{}", "`recipe`: missing field `name`"),
            (r#"{"name":"a b"}"#, "`name`: must have 1 to 100"),
            (r#"{"name":"n","colour":1}"#, "`colour`: unknown field `colour`"),
            (r#"{"name":"n","method":"magic"}"#, "`method`: unknown variant `magic`"),
            (r#"{"name":"n","filter":{"limit":3}}"#, "`filter.limit`: is no filter"),
            (r#"{"name":"n","filter":{"since":{}}}"#, "`filter.since`: must be a text"),
            (
                r#"{"name":"n","stages":[{"kind":"dedupe"},{"kind":"magic"}]}"#,
                "`stages[1].kind`: `magic` is no stage",
            ),
            (r#"{"name":"n","stages":[{}]}"#, "`stages[0].kind`: must name"),
            (
                r#"{"name":"n","stages":[{"kind":"dedupe","near":"x"}]}"#,
                "`stages[0].near`: invalid type",
            ),
            (r#"{"name":"n","stages":[{"kind":"dedupe","near":2}]}"#, "`stages[0].near`: must be"),
            (
                r#"{"name":"n","stages":[{"kind":"dedupe","far":2}]}"#,
                "`stages[0].far`: unknown field",
            ),
            (
                r#"{"name":"n","stages":[{"kind":"consent","off":true}]}"#,
                "`stages[0].off`: `consent` always",
            ),
            (
                r#"{"name":"n","stages":[{"kind":"split","seed":1}]}"#,
                "`stages[0].seed`: is no setting of a stage; write it into `split`",
            ),
            (
                r#"{"name":"n","stages":[{"kind":"redact"},{"kind":"redact"}]}"#,
                "`stages[1].kind`: `redact` stands here a second time",
            ),
            (r#"{"name":"n","split":{"validation":1.5}}"#, "`split.validation`: must be"),
            (r#"{"name":"n","source":{"file":{"path":"x","hue":1}}}"#, "unknown field `hue`"),
        ] {
            let error = refused(json);
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn a_recipe_written_down_whole_is_the_same_recipe() {
        let short = br#"{"name":"n","stages":[{"kind":"dedupe","near":0.9}],"caps":{"rows":5}}"#;
        let short = Recipe::parse(short).unwrap();
        let whole = Recipe::parse(short.to_json().to_string().as_bytes()).unwrap();
        assert_eq!(whole.to_json(), short.to_json());
        assert_eq!(whole.hash(), short.hash());
    }

    #[test]
    fn the_hash_tells_recipes_apart_but_not_names() {
        let hash = |json: &[u8]| Recipe::parse(json).unwrap().hash();
        assert_eq!(hash(br#"{"name":"a"}"#), hash(br#"{"name":"b"}"#));
        assert_ne!(hash(br#"{"name":"a"}"#), hash(br#"{"name":"a","split":{"seed":7}}"#));
    }
}
