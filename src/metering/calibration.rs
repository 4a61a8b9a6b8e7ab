//! The rules against recorded requests and the prompt tokens that were billed for them.

use serde::Deserialize;
use serde_json::value::RawValue;

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
        let body = self.request.get().as_bytes();
        LazyPrompt::new(Encoding::of(&self.model), &self.model, body).count()
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
            pair.category, pair.predictable, pair.model, pair.prompt_tokens, count.tokens, count.parts, count.flags, pair.source
        );
    }
}
