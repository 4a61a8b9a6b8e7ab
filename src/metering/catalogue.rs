//! The models that are known: prices by service tier, limits, shutdown dates, capabilities.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::metering::builtin;
use crate::metering::money::MoneyError;
use crate::metering::money::Usd;
use crate::metering::rates::Tier;
use crate::metering::rates::TierRates;
use crate::metering::rates::TokenKind;
use crate::metering::tokens::Encoding;

/// The shipped data of November 2026; its `about` field names the source.
const BUILTIN: &str = include_str!("openai-models.json");

/// Days from 0000-03-01 to 1970-01-01 in the proleptic Gregorian calendar.
const DAYS_TO_EPOCH: i64 = 719_468;

/// Every model known by name.
#[derive(Clone, Debug)]
pub struct Catalogue {
    about: String,
    models: BTreeMap<String, Model>,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The name that requests use.
    pub name: String,
    /// What kind of work it does.
    pub mode: Mode,
    /// Prices by service tier. A tier that is absent has no known price.
    pub tiers: BTreeMap<Tier, TierRates>,
    /// Prices of what is not a token.
    pub units: UnitPrices,
    /// Most input tokens of one request.
    pub max_input_tokens: Option<u64>,
    /// Most output tokens of one answer.
    pub max_output_tokens: Option<u64>,
    /// Length of an embedding.
    pub embedding_dimensions: Option<u64>,
    /// The day it stops to answer.
    pub shutdown: Option<Date>,
    /// What it can do, such as `vision` or `function_calling`.
    pub capabilities: Vec<String>,
    /// Paths that serve it, such as `/v1/responses`.
    pub endpoints: Vec<String>,
    /// Whether the shipped data lists it, under this name or as the base of a fine-tuned one.
    pub listed: bool,
    /// The page that its facts were read on.
    pub source: Option<String>,
    /// Its tokenizer where the name alone does not tell.
    pub encoding: Option<Encoding>,
    /// What a policy said about it, and is in the fields above.
    pub changed: ModelOverride,
}

/// A model's kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Chat completions (and mostly Responses).
    #[default]
    Chat,
    /// Responses only.
    Responses,
    /// The older completions.
    Completion,
    /// Vectors.
    Embedding,
    /// Images out.
    ImageGeneration,
    /// Voice sessions.
    Realtime,
    /// Speech to text.
    AudioTranscription,
    /// Text to speech.
    AudioSpeech,
    /// Video out.
    VideoGeneration,
    /// Judgement of content.
    Moderation,
}

/// Prices in USD of what is not counted in tokens, as decimal texts: some have more digits than
/// exact money holds. No bill uses video yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnitPrices {
    /// One character of text to speak.
    pub character: Option<String>,
    /// One second of audio heard.
    pub second_input: Option<String>,
    /// One second of audio spoken.
    pub second_output: Option<String>,
    /// One second of video.
    pub video_second: Option<String>,
    /// One web search, by `search_context_size` (`low`, `medium`, `high`).
    pub web_search_call: BTreeMap<String, String>,
}

/// A calendar day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// Year, such as 2026.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// What a policy's `models:` section says about a model; the rest stays as the catalogue has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelOverride {
    /// USD per million tokens as decimal texts, by kind of token: the names of
    /// [`TokenKind`].
    pub price: BTreeMap<String, String>,
    /// Most input tokens of one request.
    pub context: Option<u64>,
    /// The tokenizer, such as `o200k_base`.
    pub encoding: Option<String>,
}

impl Catalogue {
    /// The shipped catalogue.
    ///
    /// # Panics
    /// Never: the data is compiled in, and a test reads all of it.
    pub fn builtin() -> Self {
        let (about, models) = builtin::read(BUILTIN).expect("a test reads the shipped catalogue");
        Self { about, models }
    }

    /// Where the shipped data comes from and as of when.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// The model of that exact name. A fine-tuned model, `ft:<base>:<org>:<suffix>:<id>`, is found
    /// by its base, `ft:<base>`, or by the dated versions of that base where all of them have one
    /// price. Never by resemblance: any other name that is not listed has no price.
    pub fn get(&self, model: &str) -> Option<&Model> {
        self.models.get(model).or_else(|| {
            let base = model.strip_prefix("ft:")?.split(':').next()?;
            let row = format!("ft:{base}");
            self.models.get(&row).or_else(|| self.dated(&row))
        })
    }

    /// The rows `<row>-YYYY-MM-DD`, where they agree on every price.
    fn dated(&self, row: &str) -> Option<&Model> {
        let is_version = |name: &str| {
            let date = name.strip_prefix(row).and_then(|rest| rest.strip_prefix('-'));
            date.is_some_and(|date| date.len() == 10 && date.starts_with("20"))
        };
        let mut versions = self.models.range(row.to_owned()..).filter(|(name, _)| is_version(name));
        let (_, first) = versions.next()?;
        versions.all(|(_, other)| other.tiers == first.tiers).then_some(first)
    }

    /// Adds a model, or changes what is said about a known one. A price changes the standard
    /// tier's rates that it names; longer contexts and other tiers keep theirs. What
    /// [`ModelOverride::check`] objects to is left out.
    pub fn with(&mut self, name: &str, change: &ModelOverride) {
        let mut model = self.get(name).cloned().unwrap_or_default();
        name.clone_into(&mut model.name);
        for (kind, text) in &change.price {
            if let (Some(kind), Ok(price)) = (TokenKind::from_name(kind), price_of(text)) {
                model.tiers.entry(Tier::Standard).or_default().base.set(kind, price);
                model.changed.price.insert(kind.as_str().to_owned(), text.clone());
            }
        }
        if change.context.is_some() {
            model.max_input_tokens = change.context;
            model.changed.context = change.context;
        }
        if let Some(encoding) = change.encoding.as_deref().and_then(Encoding::from_name) {
            model.encoding = Some(encoding);
            model.changed.encoding.clone_from(&change.encoding);
        }
        self.models.insert(name.to_owned(), model);
    }

    /// All models, sorted by name.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }
}

impl Model {
    /// Whether any tier has a price for tokens.
    pub fn is_priced(&self) -> bool {
        !self.tiers.is_empty()
    }
}

impl ModelOverride {
    /// Whether every price and name in it can be used.
    ///
    /// # Errors
    /// One sentence about the first that cannot.
    pub fn check(&self) -> Result<(), String> {
        for (kind, price) in &self.price {
            if TokenKind::from_name(kind).is_none() {
                let known = TokenKind::ALL.map(TokenKind::as_str).join(", ");
                return Err(format!("`{kind}` is no kind of price; known are {known}"));
            }
            price_of(price).map_err(|error| format!("`price.{kind}: {price}` is {error}"))?;
        }
        match &self.encoding {
            Some(name) if Encoding::from_name(name).is_none() => {
                Err(format!("`{name}` is no encoding; known are {}", Encoding::NAMES.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

/// A price in a policy: exact, and never money back.
fn price_of(text: &str) -> Result<Usd, MoneyError> {
    let price = Usd::per_token(text.trim())?;
    if price < Usd::ZERO { Err(MoneyError::OutOfRange) } else { Ok(price) }
}

impl Date {
    /// Days since 1970-01-01; negative before it.
    pub fn days_since_epoch(self) -> i64 {
        // Years begin in March, so that the leap day is a year's last; 400 years have 146,097 days.
        let month = i64::from(self.month);
        let year = i64::from(self.year) - i64::from(month <= 2);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(self.day) - 1;
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        year * 365 + leap_days + day_of_year - DAYS_TO_EPOCH
    }

    /// Reads `YYYY-MM-DD`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(3, '-');
        let date = Self {
            year: fields.next()?.parse().ok()?,
            month: fields.next()?.parse().ok()?,
            day: fields.next()?.parse().ok()?,
        };
        let real = (1..=12).contains(&date.month) && (1..=31).contains(&date.day);
        real.then_some(date)
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(prices: &[(&str, &str)]) -> ModelOverride {
        let price = prices.iter().map(|(kind, price)| ((*kind).into(), (*price).into())).collect();
        ModelOverride { price, ..ModelOverride::default() }
    }

    fn input_price(catalogue: &Catalogue, model: &str) -> Option<Usd> {
        catalogue.get(model)?.tiers.get(&Tier::Standard)?.base.get(TokenKind::Input)
    }

    #[test]
    fn the_shipped_catalogue_is_read_whole() {
        let catalogue = Catalogue::builtin();
        assert_eq!(catalogue.models().count(), 177);
        assert!(catalogue.models().is_sorted_by_key(|model| &model.name));
        // 13 models are priced by seconds or characters alone.
        assert_eq!(catalogue.models().filter(|model| !model.is_priced()).count(), 13);
    }

    #[test]
    fn a_model_tells_its_limits_and_its_last_day() {
        let catalogue = Catalogue::builtin();
        let model = catalogue.get("gpt-5").unwrap();
        assert_eq!(model.mode, Mode::Chat);
        assert_eq!(model.max_input_tokens, Some(272_000));
        assert_eq!(model.max_output_tokens, Some(128_000));
        assert_eq!(model.shutdown.unwrap().to_string(), "2026-12-11");
        assert!(model.capabilities.iter().any(|name| name == "vision"));
        assert!(model.endpoints.iter().any(|path| path == "/v1/responses"));
        assert_eq!(model.units.web_search_call["high"], "0.01");
    }

    #[test]
    fn a_fine_tuned_model_is_found_by_its_base() {
        let catalogue = Catalogue::builtin();
        let tuned = catalogue.get("ft:gpt-4.1-mini-2025-04-14:acme:support:abc123").unwrap();
        assert_eq!(tuned.name, "ft:gpt-4.1-mini-2025-04-14");
        let tuned = catalogue.get("ft:gpt-4o-mini-2024-07-18:acme::id:ckpt-step-90").unwrap();
        assert_eq!(tuned.name, "ft:gpt-4o-mini-2024-07-18");
    }

    #[test]
    fn a_name_that_is_not_listed_is_not_guessed() {
        let catalogue = Catalogue::builtin();
        for name in ["gpt-5-2030-01-01", "gpt", "GPT-5", "", "ft:", "ft:gpt-6-luna:acme::x", "ft:a"]
        {
            assert_eq!(catalogue.get(name), None, "{name}");
        }
    }

    #[test]
    fn a_policy_adds_a_model_of_its_own() {
        let mut catalogue = Catalogue::builtin();
        let house = ModelOverride {
            context: Some(131_072),
            encoding: Some("cl100k_base".into()),
            ..change(&[("input", "0.10"), ("output", "0.30")])
        };
        assert_eq!(house.check(), Ok(()));
        catalogue.with("house-llama", &house);
        let model = catalogue.get("house-llama").unwrap();
        assert_eq!(model.max_input_tokens, Some(131_072));
        assert_eq!(model.encoding, Some(Encoding::Cl100kBase));
        // 0.10 USD per 10^6 tokens = 100,000 picodollars each.
        assert_eq!(input_price(&catalogue, "house-llama"), Some(Usd::from_picodollars(100_000)));
    }

    #[test]
    fn a_policy_changes_only_what_it_names() {
        let mut catalogue = Catalogue::builtin();
        let before = catalogue.get("gpt-5").unwrap().clone();
        catalogue.with("gpt-5", &change(&[("input", "1")]));
        let after = catalogue.get("gpt-5").unwrap();
        assert_eq!(input_price(&catalogue, "gpt-5"), Some(Usd::from_picodollars(1_000_000)));
        let output = |model: &Model| model.tiers[&Tier::Standard].base.get(TokenKind::Output);
        assert_eq!(output(after), output(&before));
        assert_eq!(after.tiers[&Tier::Flex], before.tiers[&Tier::Flex]);
        assert_eq!(after.max_input_tokens, before.max_input_tokens);
    }

    #[test]
    fn a_context_alone_does_not_make_a_model_priced() {
        let mut catalogue = Catalogue::builtin();
        catalogue.with("new", &ModelOverride { context: Some(9), ..ModelOverride::default() });
        assert!(!catalogue.get("new").unwrap().is_priced());
    }

    #[test]
    fn an_unusable_change_is_told_and_left_out() {
        for (kind, price) in [("inputs", "1"), ("input", "cheap"), ("input", "-1"), ("input", "")] {
            let change = change(&[(kind, price)]);
            assert!(change.check().is_err(), "{kind} {price}");
        }
        let change = ModelOverride { encoding: Some("utf8".into()), ..change(&[("input", "x")]) };
        let mut catalogue = Catalogue::builtin();
        catalogue.with("gpt-5", &change);
        assert_eq!(input_price(&catalogue, "gpt-5"), Some(Usd::from_picodollars(1_250_000)));
        assert_eq!(catalogue.get("gpt-5").unwrap().encoding, None);
    }

    #[test]
    fn a_date_counts_its_days() {
        let days = |text| Date::parse(text).unwrap().days_since_epoch();
        assert_eq!(days("1970-01-01"), 0);
        assert_eq!(days("1969-12-31"), -1);
        assert_eq!(days("2000-02-29"), 11_016);
        assert_eq!(days("2026-12-11") - days("2026-11-23"), 18);
        assert_eq!(days("2024-03-01") - days("2024-02-28"), 2);
        for text in ["2026-13-01", "2026-00-01", "2026-01", "2026-01-32", "x", "2026-01-01-01"] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }
}
