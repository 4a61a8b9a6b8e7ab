//! Webhooks out: posts, and the events that wait for them.

use prometheus::IntCounterVec;
use prometheus::IntGauge;

use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::gauge;

use super::Metrics;

pub(super) struct Hooks {
    deliveries: IntCounterVec,
    pending: IntGauge,
    dead: IntGauge,
}

impl Hooks {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            deliveries: counters(
                shelf,
                "weir_hook_deliveries_total",
                "Posts to webhooks: delivered, failed (and tried again), given_up, dropped",
                &["event", "outcome"],
            )?,
            pending: gauge(
                shelf,
                "weir_webhook_pending",
                "Events in the store that wait for a receiver",
            )?,
            dead: gauge(
                shelf,
                "weir_webhook_dead_letters",
                "Events in the store that a receiver was given in vain for a day",
            )?,
        })
    }
}

impl Metrics {
    /// Counts a post to a webhook.
    pub fn hook_delivery(&self, event: &str, outcome: &str) {
        self.hooks.deliveries.with_label_values(&[event, outcome]).inc();
    }

    /// Sets how many events wait for their receivers, and how many are given up.
    pub fn webhooks(&self, pending: i64, dead: i64) {
        self.hooks.pending.set(pending);
        self.hooks.dead.set(dead);
    }
}
