//! What a model's name says about how its prompts are put together.

use crate::metering::images::Rule;

/// Names that the rules were fitted to, or that are known to follow them.
const KNOWN: [&str; 14] = [
    "gpt-3.5", "gpt-4", "gpt-5", "gpt-6", "gpt-audio", "gpt-realtime", "chatgpt-", "codex-", "computer-use-",
    "text-embedding-", "davinci", "babbage", "curie", "ada",
];

/// A family of models.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// Whether its rules are known.
    pub(super) known: bool,
    /// o-series and everything since gpt-5: one token of priming less.
    pub(super) reasons: bool,
    /// gpt-5 and later show tools with more words around them.
    pub(super) gpt_5: bool,
    /// What frames each message.
    pub(super) message: u64,
    /// Its price of images.
    pub(super) image: Rule,
}

impl Family {
    /// The family of a model.
    pub(super) fn of(model: &str) -> Self {
        let base = model.strip_prefix("ft:").unwrap_or(model);
        let gpt_5 = base.starts_with("gpt-5") || base.starts_with("gpt-6");
        let o_series = matches!(base.as_bytes(), [b'o', digit, ..] if digit.is_ascii_digit());
        Self {
            known: o_series || KNOWN.iter().any(|name| base.starts_with(name)),
            reasons: gpt_5 || o_series,
            gpt_5,
            message: if base == "gpt-3.5-turbo-0301" { 4 } else { 3 },
            image: Rule::of(base),
        }
    }
}
