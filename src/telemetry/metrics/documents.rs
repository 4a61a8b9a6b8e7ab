//! Documents: how many there are, what refreshes them, and who searches them.

use std::time::Duration;

use prometheus::Histogram;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGaugeVec;

use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counter;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::gauges;
use crate::telemetry::shelf::histogram;

use super::Metrics;

const SEARCH_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];

pub(super) struct Documents {
    counts: IntGaugeVec,
    source_runs: IntCounterVec,
    chunks_embedded: IntCounter,
    searches: IntCounterVec,
    retrievals: IntCounterVec,
    search_duration: Histogram,
}

impl Documents {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            counts: gauges(
                shelf,
                "weir_embeddings_documents",
                "Documents of the indexes that answer, by source and state",
                &["source", "state"],
            )?,
            source_runs: counters(
                shelf,
                "weir_embeddings_runs_total",
                "Refreshes of sources that ended here, by how",
                &["state"],
            )?,
            chunks_embedded: counter(
                shelf,
                "weir_embeddings_chunks_embedded_total",
                "Passages that were sent to an embedding model",
            )?,
            searches: counters(
                shelf,
                "weir_search_total",
                "Searches, by outcome: ok, text_only, refused, failed",
                &["outcome"],
            )?,
            retrievals: counters(
                shelf,
                "weir_retrievals_total",
                "Requests whose rule puts passages of documents into them, by what came of it",
                &["route", "outcome"],
            )?,
            search_duration: histogram(
                shelf,
                "weir_search_duration_seconds",
                "Time that a search took, the question's vector included",
                SEARCH_BUCKETS,
            )?,
        })
    }
}

impl Metrics {
    /// Sets how many documents there are, by source and state.
    pub fn documents<'a>(&self, counts: impl Iterator<Item = (&'a str, &'a str, i64)>) {
        self.documents.counts.reset();
        for (source, state, count) in counts {
            self.documents.counts.with_label_values(&[source, state]).set(count);
        }
    }

    /// Counts a refresh that ended.
    pub fn source_run(&self, state: &str) {
        self.documents.source_runs.with_label_values(&[state]).inc();
    }

    /// Counts passages that were sent to an embedding model.
    pub fn chunks_embedded(&self, chunks: u64) {
        self.documents.chunks_embedded.inc_by(chunks);
    }

    /// Counts a search.
    pub fn search(&self, outcome: &str, took: Duration) {
        self.documents.searches.with_label_values(&[outcome]).inc();
        self.documents.search_duration.observe(took.as_secs_f64());
    }

    /// Counts a request that was to be given passages of documents.
    pub fn retrieval(&self, route: &str, outcome: &str) {
        self.documents.retrievals.with_label_values(&[route, outcome]).inc();
    }
}
