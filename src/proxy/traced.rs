//! What a call keeps for its trace: its place in it, and when each attempt began and ended. The spans
//! are made of it and of the record when the call is over.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::uri::Scheme;
use tokio::time::Instant;

use crate::policy::Target;
use crate::telemetry::traces::AttemptSpan;
use crate::telemetry::traces::CallSpan;
use crate::telemetry::traces::SpanId;
use crate::telemetry::traces::Trace;
use crate::telemetry::traces::TraceId;
use crate::telemetry::traces::Tracer;

/// What is said of an attempt that was given up: its client left, or the deadline came.
const UNFINISHED: &str = "unfinished";

/// A call's part in its trace.
pub(super) struct Traced {
    tracer: Arc<Tracer>,
    trace: Trace,
    attempts: Vec<Asked>,
}

/// An attempt at a target.
struct Asked {
    span: SpanId,
    target: Arc<Target>,
    began: Instant,
    /// `None` while it goes on.
    ended: Option<Instant>,
    outcome: &'static str,
    status: Option<u16>,
}

impl Traced {
    pub(super) fn begin(tracer: &Arc<Tracer>, headers: &HeaderMap) -> Box<Self> {
        let trace = tracer.begin(headers);
        Box::new(Self { tracer: Arc::clone(tracer), trace, attempts: Vec::new() })
    }

    /// The trace's id, where it is kept.
    pub(super) fn sampled(&self) -> Option<TraceId> {
        self.trace.sampled()
    }

    /// Notes that a target is asked, and tells it by whom.
    pub(super) fn asks(&mut self, target: &Arc<Target>, headers: &mut HeaderMap) {
        let span = self.trace.child();
        self.trace.pass_on(span, headers);
        if self.sampled().is_some() {
            let (target, began) = (Arc::clone(target), Instant::now());
            let (ended, outcome, status) = (None, UNFINISHED, None);
            self.attempts.push(Asked { span, target, began, ended, outcome, status });
        }
    }

    /// Notes what came of the attempt that was noted last.
    pub(super) fn heard(&mut self, outcome: &'static str, status: Option<u16>) {
        if let Some(last) = self.attempts.last_mut() {
            last.ended = Some(Instant::now());
            last.outcome = outcome;
            last.status = status;
        }
    }

    /// Notes that its answer still comes: the attempt ends with the call.
    pub(super) fn goes_on(&mut self) {
        if let Some(last) = self.attempts.last_mut() {
            last.ended = None;
        }
    }
}

/// How points of the steady clock become times of day.
pub(super) struct Clock {
    steady: Instant,
    day: SystemTime,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self { steady: Instant::now(), day: SystemTime::now() }
    }

    pub(super) fn at(&self, point: Instant) -> SystemTime {
        self.day - self.steady.saturating_duration_since(point)
    }
}

impl Traced {
    /// Hands the finished call to the tracer, where its trace is kept. `call` makes it of its place
    /// and its attempts; those that go on end now, as the call did.
    pub(super) fn finish(
        self,
        (began, took): (Instant, Duration),
        error: &str,
        call: impl FnOnce(Trace, SystemTime, Vec<AttemptSpan>) -> CallSpan,
    ) {
        if self.sampled().is_none() {
            return;
        }
        let clock = Clock::now();
        let spans = self.attempts.into_iter().map(|asked| asked.span(&clock, began + took, error));
        self.tracer.finish(call(self.trace, clock.at(began), spans.collect()));
    }
}

impl Asked {
    fn span(self, clock: &Clock, over: Instant, error: &str) -> AttemptSpan {
        let upstream = &self.target.upstream;
        let default_port =
            if upstream.base_url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        AttemptSpan {
            span: self.span,
            provider: upstream.name.clone(),
            model: Arc::clone(&self.target.upstream_model),
            host: upstream.base_url.host().unwrap_or_default().to_owned(),
            port: upstream.base_url.port_u16().unwrap_or(default_port),
            began: clock.at(self.began),
            ended: clock.at(self.ended.unwrap_or(over)),
            outcome: self.outcome,
            status: self.status,
            error: self.error(error),
        }
    }

    /// What went wrong with it. What ended the call ended an attempt that went on until then.
    fn error(&self, of_call: &str) -> String {
        match self.status {
            Some(status) if status >= 400 => status.to_string(),
            _ if self.ended.is_none() && !of_call.is_empty() => of_call.to_owned(),
            _ if self.outcome == "ok" => String::new(),
            _ => self.outcome.to_owned(),
        }
    }
}
