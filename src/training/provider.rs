//! What is known of trainers: limits, prices with their date and source, and the rule of epochs.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::metering::cost::Usd;

/// The table of trainers. Prices are data, with the date that they were read.
static PROFILES: LazyLock<BTreeMap<String, Profile>> = LazyLock::new(|| {
    // A test reads it: what is compiled in cannot be wrong here.
    serde_json::from_str(include_str!("trainers.json")).unwrap_or_default()
});

/// What is known of one trainer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Where it is, unless `trainer.base_url` says otherwise.
    #[serde(default)]
    pub base_url: Option<String>,
    /// The header that carries the key: `authorization` (as a bearer) or its own.
    #[serde(default = "authorization")]
    pub key_header: String,
    /// Fewest examples of a training file.
    pub min_rows: u64,
    /// Longest example that is trained on whole; `None` where nobody knows.
    #[serde(default)]
    tokens_per_example: Option<u64>,
    /// Whether it may train bases that the table does not name.
    #[serde(default)]
    any_model: bool,
    /// When the prices were read.
    #[serde(default)]
    pub prices_as_of: Option<String>,
    /// Where the prices were read.
    #[serde(default)]
    pub prices_from: Option<String>,
    #[serde(default)]
    models: BTreeMap<String, BTreeMap<String, Option<Figure>>>,
}

/// A limit in tokens, or a price in USD per million tokens.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Figure {
    Tokens(u64),
    Price(String),
}

/// What a method costs on a base, and how long its examples may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The price of one trained token; `None` where the table has none.
    pub per_token: Option<Usd>,
    /// Longest example, in tokens.
    pub tokens_per_example: Option<u64>,
}

impl Profile {
    /// The profile of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROFILES.get(name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.keys().map(String::as_str)
    }

    /// On what terms a model is trained with a method.
    ///
    /// # Errors
    /// A sentence that says why it is not.
    pub fn terms(&self, model: &str, method: &str) -> Result<Terms, String> {
        let base = base_of(model);
        // The last one that fits is the longest: a snapshot goes before its base.
        let known = self.models.iter().rev().find(|(name, _)| is_of(base, name));
        let Some(known) = known else {
            if self.any_model && !base.is_empty() {
                return Ok(Terms { per_token: None, tokens_per_example: self.tokens_per_example });
            }
            let names = self.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!("`{model}` cannot be tuned here; there are {names}"));
        };
        let (name, figures) = known;
        let Some(price) = figures.get(method) else {
            let methods = ["supervised", "dpo", "reinforcement"];
            let methods = methods.into_iter().filter(|method| figures.contains_key(*method));
            let methods = methods.collect::<Vec<_>>().join(" and ");
            return Err(format!("`{name}` is trained by {methods}, not by {method}"));
        };
        let limit = match figures.get("tokens_per_example") {
            Some(Some(Figure::Tokens(tokens))) => Some(*tokens),
            _ => self.tokens_per_example,
        };
        let per_token = match price {
            Some(Figure::Price(price)) => Usd::per_token(price).ok(),
            _ => None,
        };
        Ok(Terms { per_token, tokens_per_example: limit })
    }
}

/// Epochs when nobody says how many: three, more of a small file and fewer of a large one (OpenAI's
/// cookbook, `Chat_finetuning_data_prep.ipynb`).
pub fn default_epochs(rows: u64) -> u64 {
    let rows = rows.max(1);
    match rows.saturating_mul(3) {
        ..100 => (100 / rows).min(25),
        25_001.. => (25_000 / rows).max(1),
        _ => 3,
    }
}

/// The base of a tuned model `ft:<base>:<org>:<suffix>:<id>`, or the model itself.
pub fn base_of(model: &str) -> &str {
    match model.strip_prefix("ft:") {
        Some(rest) => rest.split(':').next().unwrap_or_default(),
        None => model,
    }
}

/// Whether it is this base or a dated snapshot of it, such as `gpt-4.1-mini-2025-04-14`.
fn is_of(model: &str, base: &str) -> bool {
    let Some(rest) = model.strip_prefix(base) else { return false };
    let is_date = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    rest.is_empty() || rest.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && is_date(rest))
}

fn authorization() -> String {
    "authorization".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole_and_has_a_date_for_its_prices() {
        let names: Vec<_> = Profile::names().collect();
        assert_eq!(names, ["azure", "fireworks", "openai", "self-hosted", "together"]);
        for name in names {
            let profile = Profile::named(name).unwrap();
            let figures = profile.models.values().flat_map(BTreeMap::values).flatten();
            let prices = figures.filter_map(|figure| match figure {
                Figure::Price(price) => Some(Usd::per_token(price).unwrap()),
                Figure::Tokens(_) => None,
            });
            assert!(prices.count() == 0 || profile.prices_as_of.is_some(), "{name}");
        }
    }

    #[test]
    fn terms_follow_the_base_of_snapshots_and_tuned_models() {
        let openai = Profile::named("openai").unwrap();
        let five = Usd::per_token("5").unwrap();
        for model in ["gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "ft:gpt-4.1-mini:acme::abc"] {
            assert_eq!(openai.terms(model, "supervised").unwrap().per_token, Some(five), "{model}");
        }
        let old = openai.terms("gpt-3.5-turbo-0125", "supervised").unwrap();
        assert_eq!(old.tokens_per_example, Some(16_385));
        let first = openai.terms("gpt-3.5-turbo-0613", "supervised").unwrap();
        assert_eq!(first.tokens_per_example, Some(4096));
        assert!(openai.terms("gpt-6-luna", "supervised").unwrap_err().contains("gpt-4.1-mini"));
        let dpo = openai.terms("gpt-3.5-turbo", "dpo").unwrap_err();
        assert!(dpo.contains("by supervised, not by dpo"), "{dpo}");
    }

    #[test]
    fn what_has_no_price_costs_an_unknown_amount_and_not_nothing() {
        let own = Profile::named("self-hosted").unwrap();
        assert_eq!(own.terms("house-llama", "dpo").unwrap().per_token, None);
    }

    #[test]
    fn epochs_are_three_but_for_small_and_large_files() {
        // 100 div 5 = 20; 100 div 2 = 50, at most 25; 25,000 div 10,000 = 2.
        let cases =
            [(0, 25), (2, 25), (5, 20), (33, 3), (34, 3), (8333, 3), (8334, 2), (10_000, 2)];
        for (rows, epochs) in cases {
            assert_eq!(default_epochs(rows), epochs, "{rows}");
        }
        assert_eq!(default_epochs(1_000_000), 1);
    }
}
