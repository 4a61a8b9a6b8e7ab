//! What a model's name says about how its prompts are put together.

use crate::metering::images::Rule;

/// Names that the rules were fitted to, or that are known to follow them.
const KNOWN: [&str; 14] = [
    "gpt-3.5",
    "gpt-4",
    "gpt-5",
    "gpt-6",
    "gpt-audio",
    "gpt-realtime",
    "chatgpt-",
    "codex-",
    "computer-use-",
    "text-embedding-",
    "davinci",
    "babbage",
    "curie",
    "ada",
];

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// Whether its rules are known.
    pub(super) known: bool,
    /// o-series and everything since gpt-5.
    pub(super) reasons: bool,
    /// What primes the answer: one token less where it begins with a channel.
    pub(super) priming: u64,
    /// gpt-5 and later: more words around tools, calls and answers.
    pub(super) gpt_5: bool,
    /// What frames each message.
    pub(super) message: u64,
    /// The first chat model shows a name in place of the role.
    pub(super) name_replaces_role: bool,
    /// Whether it turns text into vectors.
    pub(super) embeds: bool,
    /// Its price of images.
    pub(super) image: Rule,
}

impl Family {
    /// The family of a model.
    pub(super) fn of(model: &str) -> Self {
        let base = model.strip_prefix("ft:").unwrap_or(model);
        let gpt_5 = base.starts_with("gpt-5") || base.starts_with("gpt-6");
        let o_series = matches!(base.as_bytes(), [b'o', digit, ..] if digit.is_ascii_digit());
        let reasons = gpt_5 || o_series;
        let first = base == "gpt-3.5-turbo-0301";
        let early = base.starts_with("o1-mini") || base.starts_with("o1-preview");
        Self {
            known: o_series || KNOWN.iter().any(|name| base.starts_with(name)),
            reasons,
            priming: if reasons && !early || base.contains("audio") { 2 } else { 3 },
            gpt_5,
            message: if first { 4 } else { 3 },
            name_replaces_role: first,
            embeds: base.starts_with("text-embedding-"),
            image: Rule::of(base),
        }
    }

    /// The second of two for models that reason.
    pub(super) fn either(&self, (plain, reasoning): (u64, u64)) -> u64 {
        if self.reasons { reasoning } else { plain }
    }
}
