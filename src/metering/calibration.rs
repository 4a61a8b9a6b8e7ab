//! The rules against recorded requests and the prompt tokens that were billed for them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::metering::json::Fields;
use crate::metering::json::Raw;
use crate::metering::lazy::LazyPrompt;
use crate::metering::parts::Flag;
use crate::metering::parts::PromptCount;
use crate::metering::tokens::Encoding;
use crate::metering::tokens::count_text;

const PAIRS: &str = include_str!("../../tests/fixtures/usage_pairs.jsonl");
const DOCS: &str = include_str!("../../docs/tokens.md");

/// What the documentation calls a class, and the categories in it.
const CLASSES: [(&str, &[&str]); 12] = [
    ("chat, text alone", &["chat:plain text"]),
    ("chat, tools", &["chat:tools"]),
    ("chat, calls and results of tools", &["chat:tool turns"]),
    ("chat, schema", &["chat:schema"]),
    ("chat, images in the request", &["chat:image data"]),
    ("responses, text alone", &["resp:plain text"]),
    ("responses, tools", &["resp:tools"]),
    ("responses, calls and results of tools", &["resp:tool turns"]),
    ("responses, schema", &["resp:schema"]),
    ("responses, images in the request", &["resp:image data"]),
    ("embeddings", &["embeddings"]),
    ("completions", &["completions"]),
];

/// Names that OpenAI answers with a dated one: an answer under the bare name is from a mock.
const ALIASES: [&str; 4] = ["gpt-3.5-turbo", "gpt-4o-mini", "gpt-4.1-mini", "gpt-5"];

#[derive(Deserialize)]
struct Pair<'a> {
    category: String,
    predictable: bool,
    model: String,
    #[serde(borrow)]
    request: &'a RawValue,
    prompt_tokens: u64,
    completion_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    response_text: Option<String>,
}

impl Pair<'_> {
    fn all() -> Vec<Self> {
        PAIRS.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn count(&self) -> PromptCount {
        let asked = Fields::of(Raw::new(self.request.get().as_bytes())).unwrap().text("model");
        // The model that answered, as names without a date have moved on since. Completions answer
        // under names from the engine room, `davinci:2023-07-21-v2`.
        let answered = Some(self.model.as_str()).filter(|model| !model.contains(':'));
        let model = answered.or(asked.as_deref()).unwrap();
        LazyPrompt::new(Encoding::of(model), model, self.request.get().as_bytes()).count()
    }

    /// Whether OpenAI can have reported that usage: it answers under dated names, and a chat's
    /// stream has no usage unless it was asked for.
    fn is_billed(&self) -> bool {
        let body = Fields::of(Raw::new(self.request.get().as_bytes())).unwrap();
        let is =
            |fields: &Fields<'_>, name| fields.get(name).is_some_and(|raw| raw.get() == b"true");
        let asked = body.object("stream_options").is_some_and(|o| is(&o, "include_usage"));
        let silent = self.category.starts_with("chat:") && is(&body, "stream") && !asked;
        !silent && !ALIASES.contains(&self.model.as_str())
    }
}

/// How near the counts of some pairs come to what was billed.
#[derive(Default)]
struct Score {
    all: usize,
    exact: usize,
    within_2: usize,
    within_5: usize,
}

impl Score {
    fn of(categories: &[&str]) -> Self {
        let mut score = Self::default();
        let pairs = Pair::all();
        let pairs = pairs.iter().filter(|pair| pair.is_billed());
        for pair in pairs.filter(|pair| categories.contains(&&*pair.category)) {
            let off = pair.count().tokens.abs_diff(pair.prompt_tokens);
            score.all += 1;
            score.exact += usize::from(off == 0);
            score.within_2 += usize::from(off * 50 <= pair.prompt_tokens);
            score.within_5 += usize::from(off * 20 <= pair.prompt_tokens);
        }
        score
    }
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * f64::from(u32::try_from(part).unwrap()) / f64::from(u32::try_from(all).unwrap())
}

#[test]
fn plain_chats_and_embeddings_are_counted_to_the_token() {
    let chats = Score::of(&["chat:plain text"]);
    assert_eq!(chats.all, 78);
    assert!(percent(chats.exact, chats.all) >= 98.0, "{} of {}", chats.exact, chats.all);
    let embeddings = Score::of(&["embeddings"]);
    assert_eq!((embeddings.exact, embeddings.all), (14, 14));
    let responses = Score::of(&["resp:plain text"]);
    assert_eq!(responses.all, 65);
    assert!(percent(responses.exact, responses.all) >= 85.0, "{}", responses.exact);
}

#[test]
fn tools_and_schemas_are_counted_within_five_percent() {
    for (categories, all) in [
        (["chat:tools", "chat:tool turns"], 102),
        (["resp:tools", "resp:tool turns"], 79),
        (["chat:schema", "resp:schema"], 32),
    ] {
        let score = Score::of(&categories);
        assert_eq!(score.all, all);
        let share = percent(score.within_5, all);
        assert!(share >= 90.0, "{categories:?}: {share} % of {all}");
    }
}

#[test]
fn images_in_the_request_are_counted_within_two_percent() {
    let score = Score::of(&["chat:image data", "resp:image data"]);
    assert_eq!(score.all, 34);
    assert!(percent(score.within_2, score.all) >= 90.0, "{} of 34", score.within_2);
}

#[test]
fn what_a_request_does_not_tell_is_flagged_and_nothing_else_is() {
    let pairs = Pair::all();
    assert_eq!(pairs.len(), 566);
    for pair in pairs {
        let count = pair.count();
        let told = count.flags.is_empty();
        assert_eq!(told, pair.predictable, "{}: {:?}", pair.category, count.flags);
        let flag = match pair.category.as_str() {
            "chat:audio" => Flag::Audio,
            "chat:file/pdf" | "resp:file/pdf" => Flag::Files,
            "chat:image url" | "resp:image url" => Flag::UnknownImageSize,
            "chat:unknown model" => Flag::UnknownModel,
            "resp:reasoning items" => Flag::EncryptedReasoning,
            "resp:server state" => Flag::StoredState,
            _ => continue,
        };
        assert!(count.flags.has(flag), "{}: {:?}", pair.category, count.flags);
    }
}

#[test]
fn the_text_of_an_answer_is_its_output_tokens_or_one_less() {
    let pairs = Pair::all();
    let plain = pairs.iter().filter(|pair| pair.category == "chat:plain text" && pair.is_billed());
    let (mut all, mut near) = (0, 0);
    for pair in plain.filter(|pair| pair.reasoning_tokens == Some(0)) {
        let (Some(text), Some(billed)) = (&pair.response_text, pair.completion_tokens) else {
            continue;
        };
        if text.is_empty() {
            continue;
        }
        all += 1;
        near += usize::from(billed.abs_diff(count_text(&pair.model, text)) <= 1);
    }
    assert!(all >= 50 && percent(near, all) >= 90.0, "{near} of {all}");
}

#[test]
fn the_documentation_has_the_figures_that_are_measured() {
    let rows = CLASSES.map(|(name, categories)| {
        let Score { all, exact, within_2, within_5 } = Score::of(categories);
        format!("| {name} | {all} | {exact} | {within_2} | {within_5} |")
    });
    let missing: Vec<_> = rows.iter().filter(|row| !DOCS.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "docs/tokens.md should have\n{}", rows.join("\n"));
}
