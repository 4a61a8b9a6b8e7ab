//! The rules against recorded requests and the prompt tokens that were billed for them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::metering::json::Fields;
use crate::metering::lazy::LazyPrompt;
use crate::metering::parts::PromptCount;
use crate::metering::tokens::Encoding;

const PAIRS: &str = include_str!("../../tests/fixtures/usage_pairs.jsonl");

#[derive(Deserialize)]
struct Pair<'a> {
    source: String,
    category: String,
    predictable: bool,
    model: String,
    #[serde(borrow)]
    request: &'a RawValue,
    prompt_tokens: u64,
}

impl Pair<'_> {
    fn count(&self) -> PromptCount {
        let asked = Fields::of(self.request).unwrap().text("model");
        // The model that answered, as names without a date have moved on since. Completions answer
        // under names from the engine room, `davinci:2023-07-21-v2`.
        let answered = Some(self.model.as_str()).filter(|model| !model.contains(':'));
        let model = answered.or(asked.as_deref()).unwrap();
        LazyPrompt::new(Encoding::of(model), model, self.request.get().as_bytes()).count()
    }
}

#[test]
#[ignore = "prints"]
fn print_all() {
    for line in PAIRS.lines() {
        let pair: Pair<'_> = serde_json::from_str(line).unwrap();
        let count = pair.count();
        println!(
            "{}\t{}\t{}\t{}\t{}\t{:?}\t{:?}\t{}",
            pair.category,
            pair.predictable,
            pair.model,
            pair.prompt_tokens,
            count.tokens,
            count.parts,
            count.flags,
            pair.source
        );
    }
}
