//! Prices of tokens: by kind of token, service tier and length of the request.

use std::collections::BTreeMap;

use crate::metering::money::Usd;

/// A kind of token that can have a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum TokenKind {
    /// Text input, and whatever input has no price of its own.
    Input,
    /// Input read from the prompt cache.
    CachedInput,
    /// Input written to the prompt cache.
    CacheWrite,
    /// The same with extended retention.
    CacheWriteLongTtl,
    /// Audio input.
    AudioInput,
    /// Audio read from the prompt cache.
    CachedAudioInput,
    /// Image input.
    ImageInput,
    /// Images read from the prompt cache.
    CachedImageInput,
    /// Text output, hidden reasoning included.
    Output,
    /// Audio output.
    AudioOutput,
    /// Image output.
    ImageOutput,
}

impl TokenKind {
    /// Every kind, in the order of a bill.
    pub const ALL: [Self; 11] = [
        Self::Input,
        Self::CachedInput,
        Self::CacheWrite,
        Self::CacheWriteLongTtl,
        Self::AudioInput,
        Self::CachedAudioInput,
        Self::ImageInput,
        Self::CachedImageInput,
        Self::Output,
        Self::AudioOutput,
        Self::ImageOutput,
    ];

    /// The name in the catalogue and in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::CacheWrite => "cache_write",
            Self::CacheWriteLongTtl => "cache_write_long_ttl",
            Self::AudioInput => "audio_input",
            Self::CachedAudioInput => "cached_audio_input",
            Self::ImageInput => "image_input",
            Self::CachedImageInput => "cached_image_input",
            Self::Output => "output",
            Self::AudioOutput => "audio_output",
            Self::ImageOutput => "image_output",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The price of one token of each kind; None where none is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates([Option<Usd>; TokenKind::ALL.len()]);

impl Rates {
    /// The listed price of one token of this kind.
    pub fn get(&self, kind: TokenKind) -> Option<Usd> {
        self.0[kind as usize]
    }

    /// Lists a price of one token of this kind.
    pub fn set(&mut self, kind: TokenKind, price: Usd) {
        self.0[kind as usize] = Some(price);
    }
}

/// OpenAI's service tiers, as prices are listed by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The default.
    Standard,
    /// The Batch API.
    Batch,
    /// Slow and cheap.
    Flex,
    /// Fast and dear.
    Priority,
    /// Faster and dearer.
    Ultrafast,
}

impl Tier {
    /// The tier that an answer's `service_tier` is billed in; None when it is not known.
    ///
    /// No tier, `default` and `auto` are standard. So is `scale`: Scale Tier is prepaid capacity
    /// without a price per token, and its calls are valued as if they had been bought one by one.
    /// `fast` is the newer name of `priority`.
    pub fn of_answer(service_tier: Option<&str>) -> Option<Self> {
        match service_tier {
            None | Some("default" | "auto" | "standard" | "scale") => Some(Self::Standard),
            Some("batch") => Some(Self::Batch),
            Some("flex") => Some(Self::Flex),
            Some("priority" | "fast") => Some(Self::Priority),
            Some("ultrafast") => Some(Self::Ultrafast),
            Some(_) => None,
        }
    }
}

/// The prices of one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierRates {
    /// Prices of a request of ordinary length.
    pub base: Rates,
    /// Prices of the whole request once its input exceeds that many tokens.
    pub above: BTreeMap<u64, Rates>,
}

impl TierRates {
    /// The prices of a request with that many input tokens: those of the highest threshold that it
    /// exceeds, for the whole request.
    pub fn of_length(&self, input_tokens: u64) -> &Rates {
        self.above.range(..input_tokens).next_back().map_or(&self.base, |(_, rates)| rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_token_is_found_by_its_name_and_has_a_place() {
        let mut rates = Rates::default();
        for (place, kind) in TokenKind::ALL.into_iter().enumerate() {
            assert_eq!(TokenKind::from_name(kind.as_str()), Some(kind));
            assert_eq!(kind as usize, place);
            assert_eq!(rates.get(kind), None);
            rates.set(kind, Usd::from_picodollars(1));
            assert_eq!(rates.get(kind), Some(Usd::from_picodollars(1)));
        }
        assert_eq!(TokenKind::from_name("inputs"), None);
    }

    #[test]
    fn a_threshold_counts_once_it_is_exceeded() {
        let mut long = Rates::default();
        long.set(TokenKind::Input, Usd::from_picodollars(2));
        let rates = TierRates { base: Rates::default(), above: [(272_000, long)].into() };
        assert_eq!(rates.of_length(0), &Rates::default());
        assert_eq!(rates.of_length(272_000), &Rates::default());
        assert_eq!(rates.of_length(272_001), &long);
    }

    #[test]
    fn an_unknown_tier_is_not_taken_for_the_standard_one() {
        assert_eq!(Tier::of_answer(None), Some(Tier::Standard));
        assert_eq!(Tier::of_answer(Some("default")), Some(Tier::Standard));
        assert_eq!(Tier::of_answer(Some("flex")), Some(Tier::Flex));
        assert_eq!(Tier::of_answer(Some("turbo")), None);
        assert_eq!(Tier::of_answer(Some("")), None);
    }
}
