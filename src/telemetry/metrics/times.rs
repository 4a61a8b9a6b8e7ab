//! How long calls take, and which traced calls show it.

use std::sync::Arc;
use std::sync::OnceLock;

use prometheus::Histogram;
use prometheus::proto::LabelPair;

use crate::openai::usage::Usage;
use crate::telemetry::exemplars::Exemplars;
use crate::telemetry::exemplars::Lasts;
use crate::telemetry::room::Histograms;
use crate::telemetry::room::Lazy;
use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::histogram;
use crate::telemetry::shelf::histograms_of_models;
use crate::telemetry::traces::TraceId;

use super::labels::CALL;
use super::labels::Observation;

const DURATION: &str = "gen_ai_server_request_duration_seconds";
const FIRST_TOKEN: &str = "gen_ai_server_time_to_first_token_seconds";

// Buckets of the GenAI conventions, as Envoy AI Gateway ships them.
const DURATION_BUCKETS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    15.0, 20.0, 30.0, 45.0, 60.0,
];
const PER_TOKEN_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// The gateway's own share is far shorter than a model's.
const OVERHEAD_BUCKETS: &[f64] =
    &[0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

pub(super) struct Times {
    duration: Histograms,
    first_token: Histograms,
    per_token: Histograms,
    overhead: Histogram,
    duration_exemplars: Exemplars,
    first_token_exemplars: Exemplars,
}

/// The times of one set of labels.
#[derive(Default)]
pub(super) struct CallTimes {
    duration: Lazy,
    first_token: Lazy,
    per_token: Lazy,
    /// The last traced calls; there from the first one on.
    traced: OnceLock<Traced>,
}

/// The last traced calls of a set of labels, by bucket.
struct Traced {
    duration: Arc<Lasts>,
    first_token: Arc<Lasts>,
}

impl Times {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        Ok(Self {
            duration: histograms_of_models(
                shelf,
                DURATION,
                "From the request's first byte to the answer's last",
                CALL,
                DURATION_BUCKETS,
            )?,
            first_token: histograms_of_models(
                shelf,
                FIRST_TOKEN,
                "From the request's first byte to the first event of a stream",
                CALL,
                FIRST_TOKEN_BUCKETS,
            )?,
            per_token: histograms_of_models(
                shelf,
                "gen_ai_server_time_per_output_token_seconds",
                "Time after the first token, by output token, of a stream",
                CALL,
                PER_TOKEN_BUCKETS,
            )?,
            overhead: histogram(
                shelf,
                "weir_overhead_seconds",
                "The gateway's own share of the time until the answer's head left",
                OVERHEAD_BUCKETS,
            )?,
            duration_exemplars: Exemplars::new(DURATION_BUCKETS, CALL),
            first_token_exemplars: Exemplars::new(FIRST_TOKEN_BUCKETS, CALL),
        })
    }

    /// Notes what any call has; its pace is noted apart, for only some have one.
    pub(super) fn note(&self, series: &CallTimes, call: [&str; 5], seen: &Observation) {
        series.duration.observe(seen.took.as_secs_f64(), || self.duration.of(&call));
        if let Some(overhead) = seen.overhead {
            self.overhead.observe(overhead.as_secs_f64());
        }
        if let Some(first) = seen.first_token {
            series.first_token.observe(first.as_secs_f64(), || self.first_token.of(&call));
        }
        if let Some(trace) = seen.trace {
            self.note_traced(series, call, seen, trace);
        }
    }

    /// Notes how fast the tokens of a stream came after the first one.
    pub(super) fn note_pace(
        &self,
        series: &CallTimes,
        call: [&str; 5],
        seen: &Observation,
        usage: &Usage,
    ) {
        if let Some(pace) = token_pace(seen, usage) {
            series.per_token.observe(pace, || self.per_token.of(&call));
        }
    }

    fn note_traced(&self, series: &CallTimes, call: [&str; 5], seen: &Observation, trace: TraceId) {
        let traced = series.traced.get_or_init(|| {
            let duration = self.duration_exemplars.with(&call);
            Traced { duration, first_token: self.first_token_exemplars.with(&call) }
        });
        traced.duration.note(trace, seen.took.as_secs_f64());
        if let Some(first) = seen.first_token {
            traced.first_token.note(trace, first.as_secs_f64());
        }
    }

    /// The last traced calls of a series that was gathered, where its family keeps them.
    pub(super) fn exemplars(&self, family: &str, labels: &[LabelPair]) -> Option<Arc<Lasts>> {
        match family {
            DURATION => self.duration_exemplars.of(labels),
            FIRST_TOKEN => self.first_token_exemplars.of(labels),
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean pace needs no more digits")]
fn token_pace(seen: &Observation, usage: &Usage) -> Option<f64> {
    let (first, 2..) = (seen.first_token?, usage.output) else { return None };
    let rest = seen.took.saturating_sub(first).as_secs_f64();
    Some(rest / (usage.output - 1) as f64)
}
