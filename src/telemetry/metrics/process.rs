//! The process itself: its memory and time, its background tasks, and its traces.

use prometheus::IntCounterVec;
use prometheus::IntGaugeVec;
use prometheus::process_collector::ProcessCollector;

use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::gauges;

use super::Metrics;

/// What becomes of a span: it is taken by the collector, lost because too many wait, or lost
/// because the collector does not take it.
pub const SPAN_OUTCOMES: [&str; 3] = ["exported", "dropped", "failed"];

pub(super) struct Process {
    task_up: IntGaugeVec,
    task_failures: IntCounterVec,
    trace_spans: IntCounterVec,
}

impl Process {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        // Its names are Prometheus' own, so they are not among those that are described.
        shelf.registry.register(Box::new(ProcessCollector::for_self()))?;
        let trace_spans = counters(
            shelf,
            "weir_trace_spans_total",
            "Spans of traces, by what became of them",
            &["outcome"],
        )?;
        // An alert on losses needs the 0 before the first one.
        for outcome in SPAN_OUTCOMES {
            trace_spans.with_label_values(&[outcome]);
        }
        Ok(Self {
            task_up: gauges(
                shelf,
                "weir_background_task_up",
                "1 while a background task runs, 0 once it has ended before its process",
                &["task"],
            )?,
            task_failures: counters(
                shelf,
                "weir_background_task_failures_total",
                "Turns of a background task that failed",
                &["task"],
            )?,
            trace_spans,
        })
    }
}

impl Metrics {
    /// Sets which background tasks run, and how many turns of theirs have failed.
    pub fn background(&self, tasks: impl Iterator<Item = (&'static str, bool, u64)>) {
        for (task, up, failures) in tasks {
            self.process.task_up.with_label_values(&[task]).set(up.into());
            let counter = self.process.task_failures.with_label_values(&[task]);
            counter.inc_by(failures.saturating_sub(counter.get()));
        }
    }

    /// Counts spans by what became of them, one of [`SPAN_OUTCOMES`].
    pub fn trace_spans(&self, outcome: &str, spans: usize) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        self.process.trace_spans.with_label_values(&[outcome]).inc_by(spans);
    }
}
