//! Tries at upstreams, and what keeps calls away from their models.

use prometheus::IntCounterVec;
use prometheus::IntGaugeVec;

use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::gauges;

use super::Metrics;

/// Why a model of an upstream is left alone: it asked for a pause, or it failed again and again.
pub const GATE_REASONS: [&str; 2] = ["asked", "failing"];

pub(super) struct Upstreams {
    attempts: IntCounterVec,
    gates_open: IntGaugeVec,
    days_to_shutdown: IntGaugeVec,
}

impl Upstreams {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            attempts: counters(
                shelf,
                "weir_attempts_total",
                "Tries at an upstream, by what came of them",
                &["upstream", "outcome"],
            )?,
            gates_open: gauges(
                shelf,
                "weir_gates_open",
                "Models of an upstream that are left alone now, because it asked for it or is failing",
                &["upstream", "reason"],
            )?,
            days_to_shutdown: gauges(
                shelf,
                "weir_model_days_to_shutdown",
                "Days until OpenAI shuts a model down; negative after it",
                &["model"],
            )?,
        })
    }
}

impl Metrics {
    /// Records one try at an upstream.
    pub fn attempt(&self, upstream: &str, outcome: &str) {
        self.upstreams.attempts.with_label_values(&[upstream, outcome]).inc();
    }

    /// Sets how many models of each upstream are left alone, for each of [`GATE_REASONS`].
    pub fn gates_open<'a>(&self, open: impl Iterator<Item = (&'a str, [i64; 2])>) {
        let gates = &self.upstreams.gates_open;
        gates.reset();
        for (upstream, counts) in open {
            for (reason, count) in GATE_REASONS.iter().zip(counts) {
                gates.with_label_values(&[upstream, reason]).set(count);
            }
        }
    }

    /// Sets the days that a model has left.
    pub fn model_shutdown(&self, model: &str, days: i64) {
        self.upstreams.days_to_shutdown.with_label_values(&[model]).set(days);
    }
}
