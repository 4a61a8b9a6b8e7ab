//! What a call costs: one pure function from usage, rates and tier to an exact bill.

use crate::metering::catalogue::Mode;
use crate::metering::catalogue::Model;
use crate::metering::catalogue::UnitPrices;
pub use crate::metering::money::Usd;
use crate::metering::rates::Rates;
use crate::metering::rates::Tier;
use crate::metering::rates::TokenKind;
use crate::metering::split::Split;
use crate::openai::usage::Usage;

/// How far a bill can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PriceStatus {
    /// Reported usage at listed rates.
    Exact,
    /// Listed rates, but usage that was counted here, or a report that contradicts itself.
    Estimated,
    /// No rate for a part of it: there is no cost, which is not a cost of 0.
    Unpriced,
}

impl PriceStatus {
    /// The name in headers, records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Estimated => "estimated",
            Self::Unpriced => "unpriced",
        }
    }
}

/// Who counted the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UsageSource {
    /// The provider, in its answer.
    Reported,
    /// The tokenizer, from the texts that were seen.
    Estimated,
}

impl UsageSource {
    /// The name in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Estimated => "estimated",
        }
    }
}

/// What one call costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// What is billed.
    pub usage: Usage,
    /// Who counted it.
    pub source: UsageSource,
    /// The sum of the parts and the fees; None exactly when `status` is unpriced.
    pub cost: Option<Usd>,
    /// How far `cost` can be trusted.
    pub status: PriceStatus,
    /// The parts with tokens in them. They overlap nowhere and add up to the usage's totals.
    pub parts: Vec<Part>,
    /// What is billed besides tokens.
    pub fees: Vec<Fee>,
}

/// What has a price and is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fee {
    /// What it is.
    pub unit: Unit,
    /// How many, in thousandths.
    pub thousandths: u64,
    /// The price of all of them; None where none is listed.
    pub cost: Option<Usd>,
}

/// A unit that is billed and is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A second of audio heard.
    SecondInput,
    /// A character of text to speak.
    Character,
    /// A search of the web.
    WebSearch,
}

impl Unit {
    /// The name in bills.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SecondInput => "second_input",
            Self::Character => "character",
            Self::WebSearch => "web_search_call",
        }
    }

    /// The listed price of one, as decimal text. All sizes of a search's context cost the same
    /// today; where they do not, the middle one counts, which is the default of requests.
    fn price(self, units: &UnitPrices) -> Option<&str> {
        match self {
            Self::SecondInput => units.second_input.as_deref(),
            Self::Character => units.character.as_deref(),
            Self::WebSearch => {
                let sizes = &units.web_search_call;
                sizes.get("medium").or_else(|| sizes.values().next()).map(String::as_str)
            }
        }
    }
}

/// The tokens of one kind in a bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What they are.
    pub kind: TokenKind,
    /// How many.
    pub tokens: u64,
    /// The price of each; None where none is listed.
    pub price: Option<Usd>,
}

impl Part {
    /// The price of the part.
    pub fn cost(&self) -> Option<Usd> {
        self.price.map(|price| price.times(self.tokens))
    }
}

/// Prices a call. `service_tier` is that of the answer, or `batch` for a line of a batch.
///
/// The rates are those of the tier that answered, never silently the standard ones (see
/// [`Tier::of_answer`]), and those of the request's length for the whole request. Reasoning is
/// output. A kind of token without a rate of its own is billed at the next one that fits (cached
/// input as input, images as text, audio never as text); one without any makes the call unpriced.
pub fn price(
    model: Option<&Model>,
    usage: &Usage,
    source: UsageSource,
    service_tier: Option<&str>,
) -> Bill {
    let rates = model.and_then(|model| rates_of(model, usage, service_tier));
    let split = Split::of(usage, model.map_or(Mode::Chat, |model| model.mode));
    let parts: Vec<Part> = TokenKind::ALL
        .into_iter()
        .zip(split.tokens)
        .filter(|(_, tokens)| *tokens > 0)
        .map(|(kind, tokens)| Part {
            kind,
            tokens,
            price: rates.and_then(|rates| rate(rates, kind)),
        })
        .collect();
    let fees = fees(model, usage);
    let cost = total(rates, &parts, &fees);
    let status = match (cost, source) {
        (None, _) => PriceStatus::Unpriced,
        (Some(_), UsageSource::Reported) if split.agrees => PriceStatus::Exact,
        (Some(_), _) => PriceStatus::Estimated,
    };
    Bill { usage: *usage, source, cost, status, parts, fees }
}

/// What is billed besides tokens.
fn fees(model: Option<&Model>, usage: &Usage) -> Vec<Fee> {
    // Models that search by themselves do it once for each answer, and do not report it.
    let searches_itself = model.is_some_and(|model| {
        model.name.contains("-search-") && !model.units.web_search_call.is_empty()
    });
    let searches = usage.web_searches.max(u64::from(searches_itself && usage.output > 0));
    let counts = [
        (Unit::SecondInput, usage.heard_ms),
        (Unit::Character, usage.characters.saturating_mul(1_000)),
        (Unit::WebSearch, searches.saturating_mul(1_000)),
    ];
    let counts = counts.into_iter().filter(|(_, thousandths)| *thousandths > 0);
    counts
        .map(|(unit, thousandths)| {
            let price = model.and_then(|model| unit.price(&model.units));
            let cost = price.and_then(|price| Usd::of_units(price, thousandths).ok());
            Fee { unit, thousandths, cost }
        })
        .collect()
}

/// Without rates even nothing has no price; with them nothing costs a true 0. What is billed by
/// other units alone needs no rates for tokens.
fn total(rates: Option<&Rates>, parts: &[Part], fees: &[Fee]) -> Option<Usd> {
    if rates.is_none() && (fees.is_empty() || !parts.is_empty()) {
        return None;
    }
    let tokens: Option<Usd> = parts.iter().map(Part::cost).sum();
    let units: Option<Usd> = fees.iter().map(|fee| fee.cost).sum();
    Some(tokens? + units?)
}

fn rates_of<'a>(model: &'a Model, usage: &Usage, service_tier: Option<&str>) -> Option<&'a Rates> {
    let tier = Tier::of_answer(service_tier)?;
    Some(model.tiers.get(&tier)?.of_length(usage.input))
}

/// The price of one token of a kind. Where it has none of its own: what is cached or written to the
/// cache costs what it would without the cache (no discount is listed, and no surcharge), and
/// images cost what text does, as they do for every model that sees but does not draw. Audio is
/// never priced as text.
fn rate(rates: &Rates, kind: TokenKind) -> Option<Usd> {
    use TokenKind as K;
    let or = |other| rate(rates, other);
    rates.get(kind).or_else(|| match kind {
        K::CachedInput | K::CacheWrite | K::ImageInput => or(K::Input),
        K::CacheWriteLongTtl => or(K::CacheWrite),
        K::CachedAudioInput => or(K::AudioInput),
        K::CachedImageInput => rates.get(K::ImageInput).or_else(|| or(K::CachedInput)),
        K::Input | K::AudioInput | K::Output | K::AudioOutput | K::ImageOutput => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::catalogue::Catalogue;

    fn shipped() -> &'static Catalogue {
        static SHIPPED: std::sync::LazyLock<Catalogue> =
            std::sync::LazyLock::new(Catalogue::builtin);
        &SHIPPED
    }

    fn bill(model: &str, usage: Usage, tier: Option<&str>) -> Bill {
        let catalogue = shipped();
        price(catalogue.get(model), &usage, UsageSource::Reported, tier)
    }

    fn cost(model: &str, usage: Usage, tier: Option<&str>) -> String {
        let bill = bill(model, usage, tier);
        assert_eq!(bill.cost.is_none(), bill.status == PriceStatus::Unpriced);
        bill.cost.map_or_else(|| "unpriced".into(), |cost| cost.to_string())
    }

    fn text(input: u64, cached_input: u64, output: u64) -> Usage {
        Usage { input, cached_input, output, ..Usage::default() }
    }

    #[test]
    fn cached_input_is_billed_at_its_own_rate_and_reasoning_as_output() {
        let usage = Usage { reasoning: 128, ..text(2006, 1920, 300) };
        // 86 x 1.25e-6 + 1920 x 0.125e-6 + 300 x 10e-6 = 0.0001075 + 0.00024 + 0.003
        assert_eq!(cost("gpt-5", usage, None), "0.0033475");
        assert_eq!(cost("gpt-5", usage, Some("default")), "0.0033475");
        assert_eq!(bill("gpt-5", usage, None).status, PriceStatus::Exact);
    }

    #[test]
    fn the_tier_of_the_answer_decides_the_rates() {
        let usage = text(2006, 1920, 300);
        // Flex and batch halve: 86 x 0.625e-6 + 1920 x 0.0625e-6 + 300 x 5e-6
        assert_eq!(cost("gpt-5", usage, Some("flex")), "0.00167375");
        assert_eq!(cost("gpt-5", usage, Some("batch")), "0.00167375");
        // Priority doubles: 86 x 2.5e-6 + 1920 x 0.25e-6 + 300 x 20e-6
        assert_eq!(cost("gpt-5", usage, Some("priority")), "0.006695");
    }

    #[test]
    fn a_cached_token_without_a_cached_rate_costs_what_input_costs() {
        // gpt-4o lists no cached rate for batches: 1000 x 1.25e-6 + 100 x 5e-6
        assert_eq!(cost("gpt-4o", text(1000, 400, 100), Some("batch")), "0.00175");
    }

    #[test]
    fn a_fine_tuned_model_has_the_rates_of_its_tuned_base() {
        let tuned = "ft:gpt-4.1-mini-2025-04-14:acme:support:abc";
        // 500 x 0.8e-6 + 500 x 0.2e-6 + 200 x 3.2e-6 = 0.0004 + 0.0001 + 0.00064
        assert_eq!(cost(tuned, text(1000, 500, 200), None), "0.00114");
        assert_eq!(cost("ft:gpt-6-luna:acme::abc", text(1000, 500, 200), None), "unpriced");
    }

    #[test]
    fn a_long_request_pays_the_long_rates_for_all_of_it() {
        // At the threshold still 272000 x 2.5e-6; one more and each token costs 5e-6.
        assert_eq!(cost("gpt-5.4", text(272_000, 0, 0), None), "0.68");
        assert_eq!(cost("gpt-5.4", text(272_001, 0, 0), None), "1.360005");
        // 200000 x 5e-6 + 100000 x 0.5e-6 + 1000 x 22.5e-6 = 1 + 0.05 + 0.0225
        assert_eq!(cost("gpt-5.4", text(300_000, 100_000, 1000), None), "1.0725");
    }

    #[test]
    fn what_is_written_to_the_cache_is_billed_once_at_its_rate() {
        let usage = Usage { cache_write: 5000, ..text(10_000, 2000, 100) };
        // 3000 x 0.1e-6 + 2000 x 0.01e-6 + 5000 x 0.125e-6 + 100 x 0.5e-6
        // = 0.0003 + 0.00002 + 0.000625 + 0.00005
        assert_eq!(cost("gpt-6-luna", usage, None), "0.000995");
        // gpt-5 lists no price for writing: 8000 x 1.25e-6 + 2000 x 0.125e-6 + 100 x 10e-6
        assert_eq!(cost("gpt-5", usage, None), "0.01125");
    }

    #[test]
    fn audio_is_billed_as_audio_and_the_rest_as_text() {
        let usage =
            Usage { audio_input: 800, audio_output: 400, reasoning: 0, ..text(1000, 0, 500) };
        // 200 x 2.5e-6 + 800 x 32e-6 + 100 x 10e-6 + 400 x 64e-6 = 0.0005+0.0256+0.001+0.0256
        assert_eq!(cost("gpt-audio", usage, None), "0.0527");
        // gpt-5 does not hear: audio has no rate.
        assert_eq!(cost("gpt-5", usage, None), "unpriced");
    }

    #[test]
    fn a_voice_session_splits_its_cached_tokens_by_kind() {
        let usage = Usage {
            audio_input: 600,
            image_input: 100,
            cached_audio_input: 300,
            cached_image_input: 50,
            audio_output: 150,
            ..text(1000, 500, 200)
        };
        // Text 150 x 4 + 150 cached x 0.4, audio 300 x 32 + 300 cached x 0.4, images 50 x 5 +
        // 50 cached x 0.5 = 600 + 60 + 9600 + 120 + 250 + 25 = 10655; out 50 x 16 + 150 x 64 =
        // 10400; together 21055 x 10^-6.
        assert_eq!(cost("gpt-realtime", usage, None), "0.021055");
    }

    #[test]
    fn images_are_billed_in_and_out() {
        let usage = Usage { image_input: 40, ..text(50, 0, 50) };
        // An images answer need not say that its output is images:
        // 10 x 5 + 40 x 10 + 50 x 40 = 2450 x 10^-6
        assert_eq!(cost("gpt-image-1", usage, None), "0.00245");
        // A chat model without an image rate sees at the price of text: 50 x 1.25 + 50 x 10
        assert_eq!(cost("gpt-5", usage, None), "0.0005625");
        // No image output is listed for batches.
        assert_eq!(cost("gpt-image-1", usage, Some("batch")), "unpriced");
    }

    #[test]
    fn seconds_characters_and_searches_have_prices_of_their_own() {
        let heard = Usage { heard_ms: 9_500, ..Usage::default() };
        // 9.5 x 0.0001
        assert_eq!(cost("whisper-1", heard, None), "0.00095");
        assert_eq!(cost("gpt-5", heard, None), "unpriced");
        let spoken = Usage { characters: 2_000, ..Usage::default() };
        // 2000 x 15e-6
        assert_eq!(cost("tts-1", spoken, None), "0.03");
        let searched = Usage { web_searches: 3, ..text(1000, 0, 100) };
        // 1000 x 1.25e-6 + 100 x 10e-6 + 3 x 0.01 = 0.00125 + 0.001 + 0.03
        assert_eq!(cost("gpt-5", searched, None), "0.03225");
        // One search for each answer: 1000 x 2.5e-6 + 100 x 10e-6 + 0.025
        assert_eq!(cost("gpt-4o-search-preview", text(1000, 0, 100), None), "0.0285");
        // No price for searches is listed: the call is not cheap, it is unpriced.
        assert_eq!(cost("gpt-4.1-nano", searched, None), "unpriced");
    }

    #[test]
    fn a_cache_that_is_kept_for_longer_has_its_own_price_of_writing() {
        let usage = Usage { cache_write: 5000, ..text(10_000, 2000, 100) };
        let short = bill("gpt-6-luna", usage, None);
        let long = bill("gpt-6-luna", Usage { long_retention: true, ..usage }, None);
        let priced = |bill: &Bill, kind| {
            bill.parts.iter().find(|part| part.kind == kind).map(|part| part.tokens)
        };
        assert_eq!(priced(&short, TokenKind::CacheWrite), Some(5000));
        assert_eq!(priced(&long, TokenKind::CacheWriteLongTtl), Some(5000));
        assert!(long.cost > short.cost, "{:?} {:?}", long.cost, short.cost);
    }

    #[test]
    fn without_a_rate_there_is_no_cost_at_all() {
        let usage = text(10, 0, 10);
        assert_eq!(cost("a-model-nobody-knows", usage, None), "unpriced");
        assert_eq!(cost("a-model-nobody-knows", Usage::default(), None), "unpriced");
        assert_eq!(cost("gpt-4o", usage, Some("flex")), "unpriced");
        assert_eq!(cost("gpt-5", usage, Some("turbo")), "unpriced");
        assert_eq!(cost("whisper-1", Usage::default(), None), "unpriced");
        let bill = bill("whisper-1", usage, None);
        assert_eq!((bill.status.as_str(), bill.parts.len()), ("unpriced", 2));
    }

    #[test]
    fn nothing_used_of_a_priced_model_costs_a_true_nothing() {
        assert_eq!(cost("gpt-5", Usage::default(), None), "0");
        assert_eq!(cost("omni-moderation-latest", text(9, 0, 0), None), "0");
    }

    #[test]
    fn a_bill_for_counted_usage_is_an_estimate() {
        let catalogue = shipped();
        let usage = text(10, 0, 10);
        let bill = price(catalogue.get("gpt-5"), &usage, UsageSource::Estimated, None);
        assert_eq!((bill.status.as_str(), bill.source.as_str()), ("estimated", "estimated"));
        assert_eq!(bill.cost.unwrap().to_string(), "0.0001125");
    }

    #[test]
    fn a_report_that_contradicts_itself_is_never_called_exact() {
        // More cached than there is: 10 x 0.125e-6 + 0
        let bill = bill("gpt-5", text(10, 20, 0), None);
        assert_eq!(bill.status, PriceStatus::Estimated);
        assert_eq!(bill.cost.unwrap().to_string(), "0.00000125");
    }

    proptest::proptest! {
        #[test]
        fn no_usage_whatever_makes_a_bill_fail(counts: [u64; 11], model in 0..177_usize) {
            let catalogue = shipped();
            let model = catalogue.models().nth(model);
            let [input, cached_input, cached_audio_input, cached_image_input, cache_write,
                audio_input, image_input, output, reasoning, audio_output, image_output] = counts;
            let usage = Usage { input, cached_input, cached_audio_input, cached_image_input,
                cache_write, audio_input, image_input, output, reasoning, audio_output,
                image_output, ..Usage::default() };
            let bill = price(model, &usage, UsageSource::Reported, None);
            let tokens: u128 = bill.parts.iter().map(|part| u128::from(part.tokens)).sum();
            proptest::prop_assert_eq!(tokens, u128::from(input) + u128::from(output));
            if let Some(cost) = bill.cost {
                let parts: Usd = bill.parts.iter().filter_map(Part::cost).sum();
                let fees: Usd = bill.fees.iter().filter_map(|fee| fee.cost).sum();
                proptest::prop_assert_eq!(cost, parts + fees);
            }
        }

        #[test]
        fn one_more_token_of_any_kind_never_costs_less(
            counts in proptest::array::uniform9(0..400_000_u64), more in 0..9_usize,
        ) {
            let usage_of = |[text, cached, audio, image, cached_audio, cached_image, write, out,
                spoken]: [u64; 9]| Usage {
                input: text + cached + audio + image + cached_audio + cached_image + write,
                cached_input: cached + cached_audio + cached_image,
                cached_audio_input: cached_audio,
                cached_image_input: cached_image,
                cache_write: write,
                audio_input: audio + cached_audio,
                image_input: image + cached_image,
                output: out + spoken,
                audio_output: spoken,
                ..Usage::default()
            };
            let mut raised = counts;
            raised[more] += 1;
            let catalogue = shipped();
            for model in ["gpt-realtime", "gpt-6.1-sol", "gpt-5.4"] {
                let model = catalogue.get(model);
                let bill = |counts| price(model, &usage_of(counts), UsageSource::Reported, None);
                let (before, after) = (bill(counts), bill(raised));
                if let (Some(before), Some(after)) = (before.cost, after.cost) {
                    proptest::prop_assert!(before <= after);
                }
            }
        }
    }
}
