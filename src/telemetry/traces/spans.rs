//! A finished call as spans, in the words of OpenTelemetry's GenAI conventions. No word of a prompt
//! or an answer, and no key, is in any of them.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use http::Method;
use opentelemetry::InstrumentationScope;
use opentelemetry::KeyValue;
use opentelemetry::StringValue;
use opentelemetry::Value;
use opentelemetry::trace::Event;
use opentelemetry::trace::SpanContext;
use opentelemetry::trace::SpanId;
use opentelemetry::trace::SpanKind;
use opentelemetry::trace::Status;
use opentelemetry::trace::TraceFlags;
use opentelemetry::trace::TraceState;
use opentelemetry_sdk::trace::SpanData;
use opentelemetry_sdk::trace::SpanEvents;
use opentelemetry_sdk::trace::SpanLinks;
use uuid::Uuid;

use crate::metering::cost::Usd;
use crate::openai::usage::Usage;

use super::Trace;

/// Characters of a text that is kept: names that clients and providers choose may have any length.
const LONGEST: usize = 256;

/// A finished call.
#[derive(Debug)]
pub struct CallSpan {
    /// Its place in its trace.
    pub trace: Trace,
    /// Its record.
    pub id: Uuid,
    /// When the request came.
    pub began: SystemTime,
    /// From the request's first byte to the answer's last.
    pub took: Duration,
    /// From the request's first byte to the answer's first event; streams only.
    pub first_token: Option<Duration>,
    /// The gateway's own share of the time until the answer's head left.
    pub overhead: Option<Duration>,
    /// `gen_ai.operation.name`.
    pub operation: &'static str,
    /// The model asked for as a metric's label, which is bounded: for the span's name.
    pub label: String,
    /// HTTP method.
    pub method: Method,
    /// The path, without its query.
    pub path: String,
    /// Status that the client got.
    pub status: u16,
    /// What went wrong; empty for nothing.
    pub error: &'static str,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The model that the client asked for.
    pub asked: Arc<str>,
    /// The upstream that was asked last; empty for none.
    pub provider: String,
    /// The model that the rule chose; empty for none.
    pub chosen: Arc<str>,
    /// The model that the answer names.
    pub answered: Option<String>,
    /// The id that the answer gives itself.
    pub response_id: Option<String>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// What it used, and whether that was reported or estimated.
    pub usage: Option<(Usage, &'static str)>,
    /// What it cost.
    pub cost: Option<Usd>,
    /// Whether that is exact.
    pub cost_status: Option<&'static str>,
    /// The rule that decided.
    pub route: String,
    /// The policy's revision.
    pub policy: String,
    /// What is kept of it.
    pub capture: &'static str,
    /// The key's team; empty for none.
    pub team: String,
    /// The key's name.
    pub key: String,
    /// Each try at an upstream.
    pub attempts: Vec<AttemptSpan>,
}

/// A try at an upstream.
#[derive(Debug)]
pub struct AttemptSpan {
    /// The span that the upstream was told of.
    pub span: SpanId,
    /// The upstream's name.
    pub provider: String,
    /// The model as it is called there.
    pub model: Arc<str>,
    /// The upstream's host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// When it was asked.
    pub began: SystemTime,
    /// When it had answered, or failed.
    pub ended: SystemTime,
    /// What came of it, as `weir_attempts_total` has it.
    pub outcome: &'static str,
    /// The status of its answer.
    pub status: Option<u16>,
    /// What went wrong; empty for nothing.
    pub error: String,
}

impl CallSpan {
    /// How many spans it makes.
    pub(super) fn count(&self) -> usize {
        1 + self.attempts.len()
    }

    /// Its spans: the request's first.
    pub(super) fn into_spans(mut self, scope: &InstrumentationScope) -> Vec<SpanData> {
        let attempts = std::mem::take(&mut self.attempts);
        let mut spans = Vec::with_capacity(1 + attempts.len());
        spans.push(self.server_span(scope));
        for (number, attempt) in (1..).zip(attempts) {
            spans.push(self.client_span(attempt, number, scope));
        }
        spans
    }

    /// `chat gpt-4o`; what has no model goes by its method alone, since paths have no bound.
    fn name(&self, model: &str) -> String {
        if model.is_empty() {
            return self.method.as_str().to_owned();
        }
        format!("{} {}", self.operation, clipped(model))
    }

    fn server_span(&self, scope: &InstrumentationScope) -> SpanData {
        SpanData {
            span_context: self.context(self.trace.span),
            parent_span_id: self.trace.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.trace.parent.is_some(),
            span_kind: SpanKind::Server,
            name: self.name(&self.label).into(),
            start_time: self.began,
            end_time: self.began + self.took,
            attributes: self.told().0,
            dropped_attributes_count: 0,
            events: self.events(),
            links: SpanLinks::default(),
            status: self.outcome(),
            instrumentation_scope: scope.clone(),
        }
    }

    fn events(&self) -> SpanEvents {
        let mut events = SpanEvents::default();
        if let Some(first) = self.first_token {
            let seconds = first.as_secs_f64();
            let told = vec![KeyValue::new("gen_ai.server.time_to_first_token", seconds)];
            events.events.push(Event::new("first_token", self.began + first, told, 0));
        }
        events
    }

    fn told(&self) -> Attributes {
        let mut told = Attributes::default();
        told.text("gen_ai.operation.name", self.operation);
        told.some("gen_ai.provider.name", &self.provider);
        told.some("gen_ai.request.model", &self.asked);
        told.maybe("gen_ai.response.model", self.answered.as_deref());
        told.maybe("gen_ai.response.id", self.response_id.as_deref());
        if let Some(reason) = &self.finish_reason {
            let reasons: Vec<StringValue> = vec![clipped(reason).to_owned().into()];
            told.put("gen_ai.response.finish_reasons", Value::Array(reasons.into()));
        }
        self.tell_figures(&mut told);
        told.text("http.request.method", self.method.as_str());
        told.some("url.path", &self.path);
        told.count("http.response.status_code", self.status.into());
        told.some("error.type", self.error);
        told.text("weir.id", &self.id.to_string());
        told.some("weir.route", &self.route);
        told.some("weir.model", &self.chosen);
        told.text("weir.policy", &self.policy);
        told.text("weir.capture", self.capture);
        told.some("weir.team", &self.team);
        told.text("weir.key", &self.key);
        told.put("weir.stream", self.stream.into());
        told
    }

    /// Tokens and money. They are on the request's span alone: who adds them up over all spans must
    /// not count them twice.
    fn tell_figures(&self, told: &mut Attributes) {
        if let Some((usage, source)) = &self.usage {
            told.count("gen_ai.usage.input_tokens", usage.input);
            told.count("gen_ai.usage.output_tokens", usage.output);
            if usage.cached_input > 0 {
                told.count("gen_ai.usage.cache_read.input_tokens", usage.cached_input);
            }
            told.text("weir.usage_source", source);
        }
        if let Some(cost) = self.cost {
            told.put("weir.cost_usd", cost.to_f64().into());
        }
        told.maybe("weir.cost_status", self.cost_status);
        if let Some(overhead) = self.overhead {
            let overhead = u64::try_from(overhead.as_micros()).unwrap_or(u64::MAX);
            told.count("weir.overhead_us", overhead);
        }
    }

    /// A request that is refused is no error of the server, nor is a client that leaves.
    fn outcome(&self) -> Status {
        let broken = self.status < 400 && !self.error.is_empty() && self.error != "client_gone";
        if self.status >= 500 || broken { failed(self.error) } else { Status::Unset }
    }

    fn client_span(
        &self,
        attempt: AttemptSpan,
        number: u64,
        scope: &InstrumentationScope,
    ) -> SpanData {
        let told = self.told_of(&attempt, number);
        let failed = if attempt.error.is_empty() { Status::Unset } else { failed(&attempt.error) };
        SpanData {
            span_context: self.context(attempt.span),
            parent_span_id: self.trace.span,
            parent_span_is_remote: false,
            span_kind: SpanKind::Client,
            name: self.name(&attempt.model).into(),
            start_time: attempt.began,
            end_time: attempt.ended,
            attributes: told.0,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: failed,
            instrumentation_scope: scope.clone(),
        }
    }

    fn told_of(&self, attempt: &AttemptSpan, number: u64) -> Attributes {
        let mut told = Attributes::default();
        told.text("gen_ai.operation.name", self.operation);
        told.some("gen_ai.provider.name", &attempt.provider);
        told.some("gen_ai.request.model", &attempt.model);
        told.text("http.request.method", self.method.as_str());
        told.some("server.address", &attempt.host);
        told.count("server.port", attempt.port.into());
        if let Some(status) = attempt.status {
            told.count("http.response.status_code", status.into());
        }
        if number > 1 {
            told.count("http.request.resend_count", number - 1);
        }
        told.some("error.type", &attempt.error);
        told.text("weir.id", &self.id.to_string());
        told.count("weir.attempt", number);
        told.text("weir.attempt.outcome", attempt.outcome);
        told
    }

    fn context(&self, span: SpanId) -> SpanContext {
        let flags = TraceFlags::new(self.trace.flags);
        SpanContext::new(self.trace.id, span, flags, false, TraceState::NONE)
    }
}

fn failed(error: &str) -> Status {
    Status::error(error.to_owned())
}

/// What a span says.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn put(&mut self, name: &'static str, value: Value) {
        self.0.push(KeyValue::new(name, value));
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.put(name, clipped(text).to_owned().into());
    }

    /// A text that may be empty, which says nothing.
    fn some(&mut self, name: &'static str, text: &str) {
        self.maybe(name, Some(text).filter(|text| !text.is_empty()));
    }

    fn maybe(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn count(&mut self, name: &'static str, count: u64) {
        self.put(name, i64::try_from(count).unwrap_or(i64::MAX).into());
    }
}

/// The first characters of a text.
fn clipped(text: &str) -> &str {
    text.char_indices().nth(LONGEST).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::telemetry::traces::TraceId;

    /// A call with so many attempts.
    pub(in crate::telemetry::traces) fn call(attempts: usize) -> CallSpan {
        let (id, span) = (TraceId::from(1), SpanId::from(2));
        let now = SystemTime::now();
        let attempt = |_| AttemptSpan {
            span: SpanId::from(3),
            provider: "openai".to_owned(),
            model: "gpt-4o".into(),
            host: "api.openai.com".to_owned(),
            port: 443,
            began: now,
            ended: now,
            outcome: "ok",
            status: Some(200),
            error: String::new(),
        };
        CallSpan {
            trace: Trace { id, span, parent: None, flags: 1, is_sampled: true },
            id: Uuid::nil(),
            began: now,
            took: Duration::from_secs(1),
            first_token: None,
            overhead: None,
            operation: "chat",
            label: "gpt-4o".to_owned(),
            method: Method::POST,
            path: "/v1/chat/completions".to_owned(),
            status: 200,
            error: "",
            stream: false,
            asked: "gpt-4o".into(),
            chosen: "gpt-4o".into(),
            provider: "openai".to_owned(),
            answered: None,
            response_id: None,
            finish_reason: None,
            usage: None,
            cost: None,
            cost_status: None,
            route: "default".to_owned(),
            policy: "0123456789ab".to_owned(),
            capture: "full",
            team: String::new(),
            key: "passthrough".to_owned(),
            attempts: (0..attempts).map(attempt).collect(),
        }
    }

    #[test]
    fn a_call_makes_as_many_spans_as_it_says() {
        let scope = InstrumentationScope::default();
        for attempts in [0, 1, 3] {
            let count = call(attempts).count();
            let spans = call(attempts).into_spans(&scope);
            assert_eq!((count, spans.len()), (attempts + 1, attempts + 1));
            let below = spans.iter().filter(|span| span.parent_span_id == SpanId::from(2));
            assert_eq!(below.count(), attempts);
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(clipped("gpt-4o"), "gpt-4o");
        assert_eq!(clipped(&"ä".repeat(300)), "ä".repeat(256));
        assert_eq!(clipped(""), "");
    }
}
