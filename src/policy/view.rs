//! What is known of a model, for people and machines that ask: every figure, and where it is from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::metering::catalogue::Mode;
use crate::metering::catalogue::Model;
use crate::metering::catalogue::UnitPrices;
use crate::metering::money::Usd;
use crate::metering::rates::Rates;
use crate::metering::rates::Tier;
use crate::metering::rates::TierRates;
use crate::metering::rates::TokenKind;

use super::Policy;
use super::diagnostic::near;
use super::rule::Target;

/// Prices are listed by the million tokens.
const MILLION: u64 = 1_000_000;
/// Most names offered instead of one that is not known.
const MOST_OFFERED: usize = 3;

/// One model under a policy.
#[derive(Clone, Debug, Serialize)]
pub struct ModelView {
    /// The name that requests use.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// What kind of work it does; None where only a policy knows it.
    pub mode: Option<Mode>,
    /// Who serves it.
    pub upstream: String,
    /// Its name there.
    pub upstream_model: String,
    /// 0 to 1, as the policy judges it.
    pub quality: Option<f64>,
    /// Who answers from the shutdown date on.
    pub successor: Option<String>,
    /// Prices by service tier. A tier that is absent has no known price.
    pub usd_per_million_tokens: BTreeMap<&'static str, TierView>,
    /// Prices in USD of one second, character or web search.
    pub usd_per_unit: UnitPrices,
    /// Most input tokens of one request: its context.
    pub max_input_tokens: Option<u64>,
    /// Most output tokens of one answer.
    pub max_output_tokens: Option<u64>,
    /// Length of an embedding.
    pub embedding_dimensions: Option<u64>,
    /// The tokenizer.
    pub encoding: &'static str,
    /// The day on which it stops to answer, YYYY-MM-DD.
    pub shutdown_date: Option<String>,
    /// Days until then; 0 or less when it has stopped.
    pub days_to_shutdown: Option<i64>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Paths that serve it.
    pub endpoints: Vec<String>,
    /// Where these figures come from.
    pub source: Source,
}

/// The prices of one tier by kind of token, in USD per million tokens.
#[derive(Clone, Debug, Serialize)]
pub struct TierView {
    /// Prices of a request of ordinary length.
    #[serde(flatten)]
    pub base: BTreeMap<&'static str, Usd>,
    /// Prices of the whole request once its input exceeds that many tokens.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub above_input_tokens: BTreeMap<u64, BTreeMap<&'static str, Usd>>,
}

/// Where a model's figures come from.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// The data of all that the policy does not say; None for a model that is not in it.
    pub catalogue: Option<CatalogueSource>,
    /// The fields of the view that the policy says, as paths such as
    /// `usd_per_million_tokens.standard.input`.
    pub policy: Vec<String>,
}

/// The shipped data.
#[derive(Clone, Debug, Serialize)]
pub struct CatalogueSource {
    /// Its source and date.
    pub about: String,
    /// The model's row in it: another name for an alias and for a fine-tuned model.
    pub model: String,
    /// The page that the row was read on, where it names one.
    pub page: Option<String>,
}

/// A page of models.
#[derive(Clone, Debug, Serialize)]
pub struct ModelPage {
    /// `list`.
    pub object: &'static str,
    /// The models, in order of id.
    pub data: Vec<ModelView>,
    /// The id of the first.
    pub first_id: Option<String>,
    /// The id of the last, for `after`.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

impl ModelPage {
    /// The page of these models.
    pub fn of(data: Vec<ModelView>, has_more: bool) -> Self {
        let id = |view: Option<&ModelView>| view.map(|view| view.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

impl Policy {
    /// The names of all models, those of the policy and those of the catalogue, in order.
    pub fn model_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.models.targets.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// What is known of a model; None when neither policy nor catalogue knows it. `today` in days
    /// since 1970.
    pub fn view(&self, name: &str, today: i64) -> Option<ModelView> {
        if !self.models.is_known(name) {
            return None;
        }
        let target = self.target(name);
        let row = self.models.row(&target);
        Some(self.view_of(&target, row, today))
    }

    fn view_of(&self, target: &Target, row: Option<&Model>, today: i64) -> ModelView {
        let Model { tiers, units, shutdown, capabilities, endpoints, .. } =
            row.cloned().unwrap_or_default();
        ModelView {
            id: target.model.to_string(),
            object: "model",
            mode: row.filter(|row| row.listed).map(|row| row.mode),
            upstream: target.upstream.name.clone(),
            upstream_model: target.upstream_model.to_string(),
            quality: target.quality,
            successor: target.successor.as_deref().map(str::to_owned),
            usd_per_million_tokens: tiers
                .iter()
                .map(|(tier, rates)| (name_of(*tier), rates.into()))
                .collect(),
            usd_per_unit: units,
            max_input_tokens: row.and_then(|row| row.max_input_tokens),
            max_output_tokens: row.and_then(|row| row.max_output_tokens),
            embedding_dimensions: row.and_then(|row| row.embedding_dimensions),
            encoding: self.encoding_of(&target.model).as_str(),
            shutdown_date: shutdown.map(|day| day.to_string()),
            days_to_shutdown: shutdown.map(|day| day.days_since_epoch() - today),
            capabilities,
            endpoints,
            source: self.source(target, row),
        }
    }

    fn source(&self, target: &Target, row: Option<&Model>) -> Source {
        let catalogue = row.filter(|row| row.listed).map(|row| CatalogueSource {
            about: self.models.catalogue.about().to_owned(),
            model: row.name.clone(),
            page: row.source.clone(),
        });
        let said = [
            ("upstream", !Arc::ptr_eq(&target.upstream, &self.models.default_upstream)),
            ("upstream_model", target.upstream_model != target.model),
            ("quality", target.quality.is_some()),
            ("successor", target.successor.is_some()),
            ("max_input_tokens", row.is_some_and(|row| row.changed.context.is_some())),
            ("encoding", row.is_some_and(|row| row.changed.encoding.is_some())),
        ];
        let said = said.into_iter().filter(|(_, said)| *said).map(|(field, _)| field.to_owned());
        let prices = row.into_iter().flat_map(|row| row.changed.price.keys());
        let prices = prices.map(|kind| format!("usd_per_million_tokens.standard.{kind}"));
        Source { catalogue, policy: said.chain(prices).collect() }
    }

    /// The known names that are nearest to one that is not known, the nearest first.
    pub fn names_like(&self, name: &str) -> Vec<&str> {
        let mut names = near(name, self.models.names());
        names.truncate(MOST_OFFERED);
        names
    }
}

impl From<&TierRates> for TierView {
    fn from(rates: &TierRates) -> Self {
        let above = rates.above.iter().map(|(length, rates)| (*length, listed(rates))).collect();
        Self { base: listed(&rates.base), above_input_tokens: above }
    }
}

fn listed(rates: &Rates) -> BTreeMap<&'static str, Usd> {
    let price = |kind: TokenKind| Some((kind.as_str(), rates.get(kind)?.times(MILLION)));
    TokenKind::ALL.into_iter().filter_map(price).collect()
}

fn name_of(tier: Tier) -> &'static str {
    match tier {
        Tier::Standard => "standard",
        Tier::Batch => "batch",
        Tier::Flex => "flex",
        Tier::Priority => "priority",
        Tier::Ultrafast => "ultrafast",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use serde_json::json;

    use super::*;
    use crate::policy::Settings;
    use crate::policy::Sources;

    /// 2026-11-23.
    const TODAY: i64 = 20_780;

    fn policy(yaml: &str) -> Policy {
        let files = [("a.yaml".to_owned(), yaml.to_owned())].into();
        let checked = Policy::check(&Sources::of(files), &Settings::default());
        checked.policy.unwrap_or_else(|| panic!("{:?}", checked.diagnostics))
    }

    fn view(yaml: &str, model: &str) -> Value {
        json!(policy(yaml).view(model, TODAY).unwrap())
    }

    #[test]
    fn a_model_of_the_catalogue_is_shown_with_its_prices_and_their_source() {
        let view = view("", "gpt-5.4");
        assert_eq!(view["usd_per_million_tokens"]["standard"]["input"], "2.5");
        let long = &view["usd_per_million_tokens"]["standard"]["above_input_tokens"]["272000"];
        assert_eq!(long, &json!({ "input": "5", "cached_input": "0.5", "output": "22.5" }));
        assert_eq!(view["source"]["policy"], json!([]));
        assert_eq!(view["source"]["catalogue"]["model"], "gpt-5.4");
        let about = view["source"]["catalogue"]["about"].as_str().unwrap();
        assert!(about.contains("litellm 1.109.1 (MIT) in November 2026"), "{about}");
    }

    #[test]
    fn the_days_to_a_shutdown_are_counted_from_today() {
        let gpt_5 = view("", "gpt-5");
        // From 23 November to 11 December: 7 + 11.
        assert_eq!(
            (&gpt_5["shutdown_date"], &gpt_5["days_to_shutdown"]),
            (&json!("2026-12-11"), &json!(18))
        );
        assert_eq!(gpt_5["usd_per_unit"]["web_search_call"]["high"], "0.01");
        assert_eq!(view("", "gpt-6-luna")["days_to_shutdown"], Value::Null);
    }

    #[test]
    fn what_a_policy_says_is_told_from_what_the_catalogue_says() {
        let yaml = "models: { gpt-5: { price: { input: 1.1 }, context: 9000, quality: 0.5, successor: gpt-6-luna } }";
        let view = view(yaml, "gpt-5");
        let standard = &view["usd_per_million_tokens"]["standard"];
        assert_eq!((&standard["input"], &standard["output"]), (&json!("1.1"), &json!("10")));
        assert_eq!(view["max_input_tokens"], 9000);
        let fields =
            ["quality", "successor", "max_input_tokens", "usd_per_million_tokens.standard.input"];
        assert_eq!(view["source"]["policy"], json!(fields));
        assert_eq!(view["source"]["catalogue"]["model"], "gpt-5");
    }

    #[test]
    fn an_alias_has_the_figures_of_the_model_behind_it() {
        let yaml = "models: { bot: { as: gpt-5 }, gpt-5: { price: { output: 9 } } }";
        let view = view(yaml, "bot");
        assert_eq!((&view["id"], &view["upstream_model"]), (&json!("bot"), &json!("gpt-5")));
        assert_eq!(view["max_input_tokens"], 272_000);
        let said = ["upstream_model", "usd_per_million_tokens.standard.output"];
        assert_eq!(view["source"]["policy"], json!(said));
        assert_eq!(view["source"]["catalogue"]["model"], "gpt-5");
    }

    #[test]
    fn a_model_of_the_policy_alone_claims_nothing_of_the_catalogue() {
        let view = view("models: { 'a/b:c': { price: { input: '0.10' } } }", "a/b:c");
        assert_eq!((&view["mode"], &view["source"]["catalogue"]), (&Value::Null, &Value::Null));
        let prices = json!({ "standard": { "input": "0.1" } });
        assert_eq!(view["usd_per_million_tokens"], prices);
        let unpriced = self::view("models: { local: { quality: 0.1 } }", "local");
        assert_eq!(unpriced["usd_per_million_tokens"], json!({}));
    }

    #[test]
    fn a_fine_tuned_model_keeps_what_the_policy_says_of_its_base() {
        let yaml = "models: { 'ft:gpt-4.1-mini-2025-04-14': { price: { input: 7 } } }";
        let view = view(yaml, "ft:gpt-4.1-mini-2025-04-14:acme::x");
        assert_eq!(view["usd_per_million_tokens"]["standard"]["input"], "7");
        assert_eq!(view["source"]["catalogue"]["model"], "ft:gpt-4.1-mini-2025-04-14");
        assert_eq!(view["source"]["policy"], json!(["usd_per_million_tokens.standard.input"]));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_ones() {
        let policy = policy("models: { house-small: { as: gpt-5 } }");
        assert!(policy.view("house-smal", TODAY).is_none());
        assert_eq!(policy.names_like("house-smal"), ["house-small"]);
        assert!(policy.names_like("gpt-6-lunna").len() <= MOST_OFFERED);
        assert_eq!(policy.names_like("gpt-6-lunna")[0], "gpt-6-luna");
        assert!(policy.names_like("zzzzzzzzzzzz").is_empty());
    }

    #[test]
    fn every_model_has_a_view_and_every_tier_a_name_of_its_own() {
        let policy = policy("");
        for name in policy.model_names() {
            let view = policy.view(&name, TODAY).unwrap();
            assert_eq!(view.id, *name);
            assert!(view.source.catalogue.is_some() && view.mode.is_some(), "{name}");
            let tiers = policy.model(&name).unwrap().tiers.len();
            assert_eq!(view.usd_per_million_tokens.len(), tiers, "{name}");
        }
    }
}
