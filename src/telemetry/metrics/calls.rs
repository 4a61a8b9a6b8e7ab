//! Calls of clients: those that are open, those that are finished, and the way of a finished one
//! through the groups that count its times, tokens and money.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;

use crate::telemetry::room::OTHER;
use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::gauge;

use super::Metrics;
use super::labels::CallLabels;
use super::labels::Observation;
use super::money::CallMoney;
use super::money::Counted;
use super::times::CallTimes;
use super::tokens::CallTokens;

pub(super) struct Calls {
    requests: IntCounterVec,
    decisions: IntCounterVec,
    in_flight: IntGauge,
    connections: IntGauge,
    /// Series by their joined label values: one look-up for a call instead of a dozen.
    known: DashMap<String, Arc<Series>, RandomState>,
}

/// The series of one set of labels, looked up once.
struct Series {
    requests: IntCounter,
    decisions: Option<IntCounter>,
    times: CallTimes,
    tokens: CallTokens,
    money: CallMoney,
}

impl Calls {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            requests: counters(
                shelf,
                "weir_requests_total",
                "Answers by routing rule and HTTP status",
                &["route", "status"],
            )?,
            decisions: counters(
                shelf,
                "weir_route_decisions_total",
                "Routing decisions by rule and chosen model",
                &["route", "model"],
            )?,
            in_flight: gauge(shelf, "weir_in_flight_requests", "Requests being served")?,
            connections: gauge(
                shelf,
                "weir_downstream_connections",
                "Open client connections on the data plane",
            )?,
            known: DashMap::default(),
        })
    }
}

impl Metrics {
    /// Records a finished call under its labels.
    pub fn record(&self, labels: &CallLabels<'_>, seen: &Observation) {
        let series = self.series(labels);
        series.requests.inc();
        if let Some(decisions) = &series.decisions {
            decisions.inc();
        }
        // The histograms of calls share room: in this order they take it.
        let call = labels.call();
        self.times.note(&series.times, call, seen);
        let Some(usage) = &seen.usage else { return };
        self.tokens.note(&series.tokens, call, usage, seen.usage_estimated);
        self.times.note_pace(&series.times, call, seen, usage);
        self.money.note(&series.money, labels, seen);
    }

    /// Requests being served.
    pub fn in_flight(&self) -> &IntGauge {
        &self.calls.in_flight
    }

    /// Open client connections on the data plane.
    pub fn connections(&self) -> &IntGauge {
        &self.calls.connections
    }

    fn series(&self, labels: &CallLabels<'_>) -> Arc<Series> {
        let known = &self.calls.known;
        let key = labels.joined();
        if let Some(series) = known.get(&key) {
            return Arc::clone(&series);
        }
        let counted = self.money.counted(labels);
        if !counted.shared {
            let series = Arc::new(self.make_series(labels, counted));
            known.insert(key, Arc::clone(&series));
            return series;
        }
        // All that share a cost series share the rest: what is kept here is bounded, too.
        let shared = CallLabels { team: counted.team(), key: OTHER, ..*labels };
        let make = || Arc::new(self.make_series(labels, counted.clone()));
        Arc::clone(&known.entry(shared.joined()).or_insert_with(make))
    }

    fn make_series(&self, labels: &CallLabels<'_>, counted: Counted) -> Series {
        let status = labels.status.to_string();
        let decided = !labels.model.is_empty();
        let Calls { requests, decisions, .. } = &self.calls;
        Series {
            requests: requests.with_label_values(&[labels.route, status.as_str()]),
            decisions: decided.then(|| decisions.with_label_values(&[labels.route, labels.model])),
            times: CallTimes::default(),
            tokens: self.tokens.of(labels.response_model),
            money: self.money.of(labels.response_model, counted),
        }
    }
}
