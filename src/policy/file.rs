//! The policy files as they are written: what serde reads, before anything is resolved.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::units::Seconds;

/// One YAML file of the policy folder. Sections that this version does not act on yet are taken as
/// they are, so that a folder written for the whole format loads.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    #[serde(default)]
    pub(super) upstreams: BTreeMap<String, serde_saphyr::Spanned<UpstreamEntry>>,
    #[serde(default)]
    pub(super) models: BTreeMap<String, serde_saphyr::Spanned<ModelEntry>>,
    #[serde(default)]
    pub(super) routes: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(super) limits: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(super) capture: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(super) hooks: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamEntry {
    pub(super) base_url: String,
    #[serde(default)]
    pub(super) api_key: Option<String>,
    #[serde(default)]
    pub(super) api_key_file: Option<String>,
    #[serde(default)]
    pub(super) ca_file: Option<String>,
    #[serde(default)]
    pub(super) timeouts: TimeoutsEntry,
    #[serde(default)]
    pub(super) max_in_flight: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeoutsEntry {
    pub(super) connect: Option<Seconds>,
    pub(super) first_byte: Option<Seconds>,
    pub(super) idle: Option<Seconds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    pub(super) upstream: Option<String>,
    pub(super) r#as: Option<String>,
    /// Read by `cheapest` and `fastest`, which come with the routing rules.
    #[expect(dead_code, reason = "part of the format; the routing rules read it")]
    pub(super) quality: Option<f64>,
    pub(super) price: Option<BTreeMap<String, Decimal>>,
    pub(super) context: Option<u64>,
    pub(super) encoding: Option<String>,
}

/// A price as it is written, so that no digit is lost on the way to exact money.
#[derive(Debug, Clone)]
pub(super) struct Decimal(pub(super) String);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        // YAML scalars are text until somebody asks for a number.
        String::deserialize(input).map(Self)
    }
}
