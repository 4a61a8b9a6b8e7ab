//! The shipped catalogue as its file is written, and nothing that the file does not list.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde_json::value::RawValue;

use crate::metering::catalogue::Date;
use crate::metering::catalogue::Mode;
use crate::metering::catalogue::Model;
use crate::metering::catalogue::ModelOverride;
use crate::metering::catalogue::UnitPrices;
use crate::metering::money::Usd;
use crate::metering::rates::Rates;
use crate::metering::rates::Tier;
use crate::metering::rates::TierRates;
use crate::metering::rates::TokenKind;

/// The file. A key that is not named here is an error, so that no kind of price is overlooked when
/// the data is renewed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    /// Source of the facts and what the fields mean.
    about: &'a str,
    #[serde(borrow)]
    models: BTreeMap<String, Row<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<'a> {
    mode: Mode,
    capabilities: Vec<String>,
    #[serde(default)]
    endpoints: Vec<String>,
    source: Option<String>,
    deprecation_date: Option<Date>,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    embedding_dimensions: Option<u64>,
    #[serde(default)]
    usd_per_million_tokens: BTreeMap<Tier, TierRates>,
    #[serde(borrow)]
    usd_per_character: Option<&'a RawValue>,
    #[serde(borrow)]
    usd_per_second_input: Option<&'a RawValue>,
    #[serde(borrow)]
    usd_per_second_output: Option<&'a RawValue>,
    #[serde(borrow)]
    usd_per_video_second: Option<&'a RawValue>,
    #[serde(borrow)]
    usd_per_web_search_call: Option<WebSearch<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebSearch<'a> {
    #[serde(borrow)]
    search_context_size_low: Option<&'a RawValue>,
    #[serde(borrow)]
    search_context_size_medium: Option<&'a RawValue>,
    #[serde(borrow)]
    search_context_size_high: Option<&'a RawValue>,
}

/// Reads a catalogue file: what it says about itself, and its models.
///
/// # Errors
/// When it is not JSON, has an unknown key, or a token price that is not exact.
pub(super) fn read(text: &str) -> Result<(String, BTreeMap<String, Model>), serde_json::Error> {
    let file: File<'_> = serde_json::from_str(text)?;
    let named = |(name, row): (String, Row<'_>)| (name.clone(), row.into_model(name));
    Ok((file.about.to_owned(), file.models.into_iter().map(named).collect()))
}

impl Row<'_> {
    fn into_model(self, name: String) -> Model {
        Model {
            name,
            mode: self.mode,
            units: UnitPrices {
                character: decimal(self.usd_per_character),
                second_input: decimal(self.usd_per_second_input),
                second_output: decimal(self.usd_per_second_output),
                video_second: decimal(self.usd_per_video_second),
                web_search_call: self.usd_per_web_search_call.map_or_else(BTreeMap::new, prices),
            },
            tiers: self.usd_per_million_tokens,
            max_input_tokens: self.max_input_tokens,
            max_output_tokens: self.max_output_tokens,
            embedding_dimensions: self.embedding_dimensions,
            shutdown: self.deprecation_date,
            capabilities: self.capabilities,
            endpoints: self.endpoints,
            listed: true,
            source: self.source,
            encoding: None,
            changed: ModelOverride::default(),
        }
    }
}

fn prices(call: WebSearch<'_>) -> BTreeMap<String, String> {
    let sizes = [
        ("low", call.search_context_size_low),
        ("medium", call.search_context_size_medium),
        ("high", call.search_context_size_high),
    ];
    sizes.into_iter().filter_map(|(size, price)| Some((size.to_owned(), decimal(price)?))).collect()
}

/// A number as it is written: a float would lose digits.
fn decimal(number: Option<&RawValue>) -> Option<String> {
    number.map(|number| number.get().to_owned())
}

impl<'de> Deserialize<'de> for TierRates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut row = BTreeMap::<&str, &RawValue>::deserialize(deserializer)?;
        let above = match row.remove("above_input_tokens") {
            Some(table) => serde_json::from_str(table.get()).map_err(D::Error::custom)?,
            None => BTreeMap::new(),
        };
        Ok(Self { base: rates(row).map_err(D::Error::custom)?, above })
    }
}

impl<'de> Deserialize<'de> for Rates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        rates(BTreeMap::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn rates(row: BTreeMap<&str, &RawValue>) -> Result<Rates, String> {
    let mut rates = Rates::default();
    for (name, price) in row {
        let kind = TokenKind::from_name(name).ok_or(format!("unknown price `{name}`"))?;
        let price = price.get();
        rates.set(kind, Usd::per_token(price).map_err(|error| format!("`{price}` is {error}"))?);
    }
    Ok(rates)
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::parse(text).ok_or_else(|| D::Error::custom("not a date"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(row: &str) -> Result<BTreeMap<String, Model>, String> {
        let text = format!(
            "{{\"about\":\"\",\"models\":{{\"m\":{{\"mode\":\"chat\",\"capabilities\":[],{row}}}}}}}"
        );
        read(&text).map(|(_, models)| models).map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_key_anywhere_is_an_error() {
        for row in [
            r#""usd_per_banana":1"#,
            r#""usd_per_million_tokens":{"gold":{"input":1}}"#,
            r#""usd_per_million_tokens":{"standard":{"smell_input":1}}"#,
            r#""usd_per_million_tokens":{"standard":{"above_input_tokens":{"9":{"smell":1}}}}"#,
            r#""usd_per_web_search_call":{"search_context_size_huge":1}"#,
            r#""deprecation_date":"soon""#,
        ] {
            assert!(read_with(row).is_err(), "{row}");
        }
    }

    #[test]
    fn a_token_price_with_more_than_six_decimals_is_an_error() {
        let row = r#""usd_per_million_tokens":{"standard":{"input":0.1234567}}"#;
        assert!(read_with(row).unwrap_err().contains("0.1234567"));
    }

    #[test]
    fn every_price_of_a_row_is_read() {
        let models = read_with(
            r#""usd_per_million_tokens":{"flex":{"input":0.05,
                "above_input_tokens":{"272000":{"output":0.375}}}},
              "usd_per_second_input":0.000283333333333,
              "usd_per_web_search_call":{"search_context_size_low":0.01},
              "deprecation_date":"2026-12-11""#,
        );
        let model = &models.unwrap()["m"];
        let flex = &model.tiers[&Tier::Flex];
        // 0.05 USD per 10^6 tokens = 50,000 picodollars each; 0.375: 375,000.
        assert_eq!(flex.base.get(TokenKind::Input), Some(Usd::from_picodollars(50_000)));
        let long = flex.of_length(272_001);
        assert_eq!(long.get(TokenKind::Output), Some(Usd::from_picodollars(375_000)));
        assert_eq!(model.units.second_input.as_deref(), Some("0.000283333333333"));
        assert_eq!(model.units.web_search_call["low"], "0.01");
        assert_eq!(model.shutdown, Some(Date { year: 2026, month: 12, day: 11 }));
    }
}
