//! OpenTelemetry traces: one span for a request, and one below it for each attempt at an upstream.
//! They are made after the fact, from times that were noted, by a task beside the requests.

mod context;
mod export;
mod spans;

use std::future::Future;
use std::sync::Arc;

use http::HeaderMap;
use http::Uri;
use opentelemetry_http::HttpClient;
use opentelemetry_sdk::trace::IdGenerator as _;
use opentelemetry_sdk::trace::RandomIdGenerator;

pub use opentelemetry::trace::SpanId;
pub use opentelemetry::trace::TraceId;

use super::metrics::Metrics;

use context::Parent;
use context::Traceparent;
use context::first_flags;
use export::Exporter;
use export::Queue;

pub use export::Flushing;
pub use spans::AttemptSpan;
pub use spans::CallSpan;

/// How the collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/HTTP, in protobuf.
    Http,
    /// OTLP/gRPC.
    Grpc,
}

/// Where traces go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector; with its whole path for HTTP.
    pub endpoint: Uri,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// The share of traces that begin here and are kept, 0 to 1.
    pub sample: f64,
    /// Sent with each export.
    pub headers: HeaderMap,
    /// What is said of this process, `service.name` among it.
    pub attributes: Vec<(String, String)>,
}

/// Hands out traces and takes back finished calls.
pub struct Tracer {
    sample: f64,
    queue: Queue,
}

/// A request's place in its trace.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    id: TraceId,
    span: SpanId,
    /// The caller's span.
    parent: Option<SpanId>,
    flags: u8,
    is_sampled: bool,
}

impl Tracer {
    /// A tracer, and the task that exports what it takes in. `client` posts for OTLP/HTTP.
    pub fn new(
        settings: Settings,
        client: impl HttpClient + 'static,
        metrics: Arc<Metrics>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let sample = settings.sample;
        let (queue, waiting) = Queue::new(Arc::clone(&metrics));
        let task = async move {
            match Exporter::new(&settings, client, metrics) {
                Ok(exporter) => exporter.run(waiting).await,
                Err(error) => tracing::error!(%error, "traces cannot be exported"),
            }
        };
        (Arc::new(Self { sample, queue }), task)
    }

    /// A request's place: below its caller's span, and kept where the caller keeps; where nobody
    /// says, a trace of its own, kept by chance.
    pub fn begin(&self, headers: &HeaderMap) -> Trace {
        let ids = RandomIdGenerator::default();
        let span = ids.new_span_id();
        if let Some(caller) = Parent::of(headers) {
            let (id, flags, is_sampled) = (caller.trace, caller.flags(), caller.is_sampled());
            return Trace { id, span, parent: Some(caller.span), flags, is_sampled };
        }
        let id = ids.new_trace_id();
        let is_sampled = is_drawn(id, self.sample);
        Trace { id, span, parent: None, flags: first_flags(is_sampled), is_sampled }
    }

    /// Takes a finished call; where too many wait, it is counted and lost.
    pub fn finish(&self, call: CallSpan) {
        self.queue.offer(Box::new(call));
    }

    /// Asks for everything that waits to be exported now.
    pub fn flush(&self) -> Flushing {
        self.queue.flush()
    }
}

impl Trace {
    /// The trace's id, where it is kept.
    pub fn sampled(&self) -> Option<TraceId> {
        self.is_sampled.then_some(self.id)
    }

    /// The id of one more span below the request's.
    pub fn child(&self) -> SpanId {
        RandomIdGenerator::default().new_span_id()
    }

    /// Names `span` as the caller in the headers of a request that is sent on.
    pub fn pass_on(&self, span: SpanId, headers: &mut HeaderMap) {
        let parent = Traceparent { trace: self.id, span, flags: self.flags };
        parent.write(headers, self.parent.is_some());
    }
}

/// Whether a new trace is one of the share that is kept. Its id decides, so that everybody who
/// draws by it draws the same.
fn is_drawn(id: TraceId, share: f64) -> bool {
    let [.., a, b, c, d] = id.to_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) < share * (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_kept_is_the_share_that_was_asked_for() {
        let ids = RandomIdGenerator::default();
        let kept = |share| (0..10_000).filter(|_| is_drawn(ids.new_trace_id(), share)).count();
        assert_eq!((kept(0.0), kept(1.0)), (0, 10_000));
        // Six standard deviations of a binomial are 260.
        assert!(kept(0.25).abs_diff(2_500) < 260);
        assert!(is_drawn(TraceId::from(u128::MAX), 1.0));
    }
}
