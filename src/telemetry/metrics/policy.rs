//! The policy in force, its rules, and the aliases that share calls out among models.

use prometheus::GaugeVec;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;

use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::float_gauges;
use crate::telemetry::shelf::gauge;
use crate::telemetry::shelf::gauges;

use super::Metrics;

pub(super) struct Policy {
    info: IntGaugeVec,
    reloads: IntCounterVec,
    in_sync: IntGauge,
    rule_errors: IntCounterVec,
    alias_shares: GaugeVec,
}

impl Policy {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            info: gauges(shelf, "weir_policy_info", "The policy revision in force", &["revision"])?,
            reloads: counters(
                shelf,
                "weir_policy_reloads_total",
                "Changes of the policy folder, by whether they were applied or rejected",
                &["result"],
            )?,
            in_sync: gauge(
                shelf,
                "weir_policy_in_sync",
                "1 when the folder's content is in force, 0 when it was rejected",
            )?,
            rule_errors: counters(
                shelf,
                "weir_policy_rule_errors_total",
                "Conditions that had no value for a request, such as a missing tag: no match",
                &["route"],
            )?,
            alias_shares: float_gauges(
                shelf,
                "weir_alias_share",
                "Share of an alias's calls that a model gets, 0 to 1",
                &["alias", "model"],
            )?,
        })
    }
}

impl Metrics {
    /// Names the policy in force.
    pub fn policy_loaded(&self, revision: &str) {
        self.policy.info.reset();
        self.policy.info.with_label_values(&[revision]).set(1);
        self.policy.in_sync.set(1);
    }

    /// Counts a change of the folder that was put in force.
    pub fn policy_applied(&self) {
        self.policy.reloads.with_label_values(&["applied"]).inc();
    }

    /// Counts a change of the folder that was refused.
    pub fn policy_rejected(&self) {
        self.policy.reloads.with_label_values(&["rejected"]).inc();
        self.policy.in_sync.set(0);
    }

    /// Counts a condition that had no value.
    pub fn rule_error(&self, rule: &str) {
        self.policy.rule_errors.with_label_values(&[rule]).inc();
    }

    /// Sets the shares, in percent, of the models that aliases lead to.
    pub fn alias_shares(&self, shares: Vec<(String, String, f64)>) {
        self.policy.alias_shares.reset();
        for (alias, model, percent) in shares {
            self.policy.alias_shares.with_label_values(&[&alias, &model]).set(percent / 100.0);
        }
    }
}
