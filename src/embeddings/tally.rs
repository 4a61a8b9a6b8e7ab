//! What a run has done: counts, by which its row tells.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::Error as _;

use crate::metering::money::Usd;

/// Counts of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Pages that the crawl has fetched, as it says while it goes on.
    pub pages_fetched: u64,
    /// Pages that it means to fetch, as far as it knows.
    pub pages_total: u64,
    /// Pages that came, each once.
    pub pages_seen: u64,
    /// Pages whose text is the same as before.
    pub pages_unchanged: u64,
    /// Pages whose text is another one.
    pub pages_changed: u64,
    /// Pages that were not there before.
    pub pages_new: u64,
    /// Pages that were taken out: gone, or missing from two complete runs.
    pub pages_removed: u64,
    /// Pages that are not in the index although they came, by reason.
    pub pages_failed: BTreeMap<String, u64>,
    /// Chunks that were sent to the embedding model.
    pub chunks_embedded: u64,
    /// Chunks whose vector was there already.
    pub chunks_reused: u64,
    /// What the embedding model counted.
    pub tokens: u64,
    /// What it cost, in USD; what has no price is not in it.
    #[serde(deserialize_with = "money")]
    pub cost_usd: Usd,
}

fn money<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

impl Tally {
    /// Counts a page that is not taken.
    pub fn fail(&mut self, reason: &str) {
        *self.pages_failed.entry(reason.to_owned()).or_default() += 1;
    }

    /// Pages that are in the index after the run.
    pub fn taken(&self) -> u64 {
        self.pages_unchanged + self.pages_changed + self.pages_new
    }

    /// What did not get in, in one sentence; `None` where all did.
    pub fn complaint(&self) -> Option<String> {
        let pages: u64 = self.pages_failed.values().sum();
        let by_reason = self.pages_failed.iter().map(|(reason, count)| format!("{reason} {count}"));
        let by_reason: Vec<_> = by_reason.collect();
        let one = if pages == 1 { "page is" } else { "pages are" };
        (pages > 0).then(|| format!("{pages} {one} not in the index: {}", by_reason.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_by_reason() {
        let mut tally = Tally::default();
        assert_eq!(tally.complaint(), None);
        tally.fail("not_found");
        assert_eq!(tally.complaint().unwrap(), "1 page is not in the index: not_found 1");
        tally.fail("empty");
        tally.fail("empty");
        assert_eq!(
            tally.complaint().unwrap(),
            "3 pages are not in the index: empty 2, not_found 1"
        );
    }

    #[test]
    fn a_tally_is_read_as_it_was_written() {
        let tally = Tally { cost_usd: "0.025".parse().unwrap(), ..Tally::default() };
        let written = serde_json::to_value(&tally).unwrap();
        assert_eq!(written["cost_usd"], "0.025");
        assert_eq!(serde_json::from_value::<Tally>(written).unwrap(), tally);
        assert_eq!(serde_json::from_str::<Tally>("{}").unwrap(), Tally::default());
    }
}
