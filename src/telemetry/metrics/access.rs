//! Who is let in, how much they have left, and whether other gateways count it with this one.

use prometheus::GaugeVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;

use crate::metering::cost::Usd;
use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counter;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::float_gauges;
use crate::telemetry::shelf::gauge;

use super::Metrics;

/// What may be wrong with a caller's key; `not_loaded` says that the gateway has not read its keys
/// yet.
pub const AUTH_FAILURES: [&str; 6] =
    ["missing", "malformed", "unknown", "revoked", "expired", "not_loaded"];

pub(super) struct Access {
    auth_failures: IntCounterVec,
    keys_in_sync: IntGauge,
    budgets: GaugeVec,
    budget_limits: GaugeVec,
    redis_up: IntGauge,
    redis_calls: IntCounter,
    gateways: IntGauge,
}

impl Access {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        let auth_failures = counters(
            shelf,
            "weir_auth_failures_total",
            "Callers that were not let in, by what was wrong with their key",
            &["reason"],
        )?;
        // An alert needs the 0 before the first one.
        for reason in AUTH_FAILURES {
            auth_failures.with_label_values(&[reason]);
        }
        Ok(Self {
            auth_failures,
            keys_in_sync: gauge(
                shelf,
                "weir_keys_in_sync",
                "1 when the virtual keys are as the store has them, 0 when those of an earlier look are in force",
            )?,
            budgets: float_gauges(
                shelf,
                "weir_budget_remaining_usd",
                "What is left of a budget in USD",
                &["limit", "subject"],
            )?,
            budget_limits: float_gauges(
                shelf,
                "weir_budget_limit_usd",
                "What a limit's budget is in USD, for each of its subjects",
                &["limit"],
            )?,
            redis_up: gauge(
                shelf,
                "weir_redis_up",
                "1 when limits are shared by Redis, 0 when it is away or there is none",
            )?,
            redis_calls: counter(
                shelf,
                "weir_redis_calls_total",
                "Round trips to Redis for limits",
            )?,
            gateways: gauge(shelf, "weir_gateways", "Gateways that share limits, as last seen")?,
        })
    }
}

impl Metrics {
    /// Counts a caller that was not let in, by one of [`AUTH_FAILURES`].
    pub fn auth_failure(&self, reason: &str) {
        self.access.auth_failures.with_label_values(&[reason]).inc();
    }

    /// Notes whether the last look at the virtual keys succeeded.
    pub fn keys_in_sync(&self, in_sync: bool) {
        self.access.keys_in_sync.set(in_sync.into());
    }

    /// Sets what is left of all budgets, by limit and subject.
    pub fn budgets<'a>(&self, left: impl Iterator<Item = (&'a str, &'a str, Usd)>) {
        self.access.budgets.reset();
        for (limit, subject, usd) in left {
            self.access.budgets.with_label_values(&[limit, subject]).set(usd.to_f64());
        }
    }

    /// Sets what budgets are, by limit.
    pub fn budget_limits<'a>(&self, limits: impl Iterator<Item = (&'a str, Usd)>) {
        self.access.budget_limits.reset();
        for (limit, usd) in limits {
            self.access.budget_limits.with_label_values(&[limit]).set(usd.to_f64());
        }
    }

    /// Whether Redis shares the limits.
    pub fn redis_up(&self) -> &IntGauge {
        &self.access.redis_up
    }

    /// Round trips to Redis.
    pub fn redis_calls(&self) -> &IntCounter {
        &self.access.redis_calls
    }

    /// Gateways that share limits.
    pub fn gateways(&self) -> &IntGauge {
        &self.access.gateways
    }
}
