//! Finished calls on their way to the collector: a queue with a bound, batches, and a collector
//! that may be away or hang without anybody else noticing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc as blocking;
use std::time::Duration;
use std::time::Instant;

use http::uri::Scheme;
use opentelemetry::InstrumentationScope;
use opentelemetry::KeyValue;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_otlp::WithHttpConfig as _;
use opentelemetry_otlp::WithTonicConfig as _;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanData;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::background::note;
use crate::telemetry::metrics::Metrics;

use super::Protocol;
use super::Settings;
use super::spans::CallSpan;

/// Spans that wait, those on their way included; more are dropped.
const MOST_WAITING: usize = 16_384;
/// Spans of one export.
const BATCH: usize = 1_024;
/// How long spans wait for company.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the collector, tries again included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is complained of a collector that does not take spans.
const COMPLAIN: Duration = Duration::from_secs(60);

/// The way into the exporter.
pub(super) struct Queue {
    calls: mpsc::Sender<Box<CallSpan>>,
    flushes: mpsc::Sender<blocking::Sender<()>>,
    /// Spans that wait or are on their way.
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// The other end of it.
pub(super) struct Waiting {
    calls: mpsc::Receiver<Box<CallSpan>>,
    flushes: mpsc::Receiver<blocking::Sender<()>>,
    spans: Arc<AtomicUsize>,
}

/// An export that was asked for.
pub struct Flushing(Option<blocking::Receiver<()>>);

impl Queue {
    pub(super) fn new(metrics: Arc<Metrics>) -> (Self, Waiting) {
        // A call has one span at least: the bound of spans is met first.
        let (calls, taken) = mpsc::channel(MOST_WAITING);
        let (flushes, asked) = mpsc::channel(1);
        let waiting = Arc::new(AtomicUsize::new(0));
        let spans = Arc::clone(&waiting);
        let end = Waiting { calls: taken, flushes: asked, spans };
        (Self { calls, flushes, waiting, metrics }, end)
    }

    pub(super) fn offer(&self, call: Box<CallSpan>) {
        let spans = call.count();
        let before = self.waiting.fetch_add(spans, Ordering::Relaxed);
        if before + spans > MOST_WAITING || self.calls.try_send(call).is_err() {
            self.waiting.fetch_sub(spans, Ordering::Relaxed);
            self.metrics.trace_spans("dropped", spans);
        }
    }

    pub(super) fn flush(&self) -> Flushing {
        let (done, wait) = blocking::channel();
        Flushing(self.flushes.try_send(done).is_ok().then_some(wait))
    }
}

impl Flushing {
    /// Waits until it is done, and no longer than `patience`. Blocks the thread.
    pub fn wait(self, patience: Duration) {
        let Some(done) = self.0 else { return };
        if let Err(blocking::RecvTimeoutError::Timeout) = done.recv_timeout(patience) {
            tracing::warn!("the collector does not answer; the last traces are lost");
        }
    }
}

/// Takes finished calls to the collector.
pub(super) struct Exporter {
    client: SpanExporter,
    scope: InstrumentationScope,
    collector: String,
    metrics: Arc<Metrics>,
    complaints: Complaints,
}

/// Says that something fails, but not all the time.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    /// Spans lost since then.
    lost: usize,
}

impl Exporter {
    /// To be called on the runtime that it runs on.
    pub(super) fn new(
        settings: &Settings,
        http: impl HttpClient + 'static,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let mut client = match settings.protocol {
            Protocol::Http => over_http(settings, http)?,
            Protocol::Grpc => over_grpc(settings)?,
        };
        client.set_resource(&resource(settings));
        let version = env!("CARGO_PKG_VERSION");
        let scope = InstrumentationScope::builder("weir").with_version(version).build();
        let collector = settings.endpoint.authority().map(ToString::to_string).unwrap_or_default();
        Ok(Self { client, scope, collector, metrics, complaints: Complaints::default() })
    }

    /// Exports once a second, when a batch is full, and when asked to.
    pub(super) async fn run(mut self, mut waiting: Waiting) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                call = waiting.calls.recv() => {
                    let Some(call) = call else { return };
                    batch.extend(call.into_spans(&self.scope));
                    if batch.len() >= BATCH {
                        self.export(&mut batch, &waiting.spans).await;
                    }
                }
                _ = tick.tick() => self.export(&mut batch, &waiting.spans).await,
                Some(done) = waiting.flushes.recv() => {
                    while let Ok(call) = waiting.calls.try_recv() {
                        batch.extend(call.into_spans(&self.scope));
                        if batch.len() >= BATCH {
                            self.export(&mut batch, &waiting.spans).await;
                        }
                    }
                    self.export(&mut batch, &waiting.spans).await;
                    // Who asked may have gone.
                    let _ = done.send(());
                }
            }
        }
    }

    async fn export(&mut self, batch: &mut Vec<SpanData>, waiting: &AtomicUsize) {
        if batch.is_empty() {
            return;
        }
        let spans = std::mem::replace(batch, Vec::with_capacity(BATCH));
        let count = spans.len();
        let sent = tokio::time::timeout(PATIENCE, self.client.export(spans)).await;
        waiting.fetch_sub(count, Ordering::Relaxed);
        let sent = match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(OTelSdkError::InternalFailure(reason))) => Err(reason),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        self.metrics.trace_spans(if sent.is_ok() { "exported" } else { "failed" }, count);
        if let Err(error) = note(sent)
            && let Some(lost) = self.complaints.of(count)
        {
            let collector = &self.collector;
            tracing::warn!(collector, error, spans_lost = lost, "the collector takes no traces");
        }
    }
}

impl Complaints {
    /// Notes that spans were lost; when it is time to say so, returns how many since the last time.
    fn of(&mut self, lost: usize) -> Option<usize> {
        self.lost += lost;
        if self.last.is_some_and(|last| last.elapsed() < COMPLAIN) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.lost))
    }
}

fn over_http(
    settings: &Settings,
    client: impl HttpClient + 'static,
) -> Result<SpanExporter, String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = settings.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    SpanExporter::builder()
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(settings.endpoint.to_string())
        .with_timeout(PATIENCE)
        .with_headers(headers.collect::<HashMap<_, _>>())
        .with_http_client(client)
        .build()
        .map_err(|error| error.to_string())
}

fn over_grpc(settings: &Settings) -> Result<SpanExporter, String> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(settings.endpoint.to_string())
        .with_timeout(PATIENCE)
        .with_metadata(MetadataMap::from_headers(settings.headers.clone()));
    let is_tls = settings.endpoint.scheme() == Some(&Scheme::HTTPS);
    let exporter = if is_tls {
        exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots())
    } else {
        exporter
    };
    exporter.build().map_err(|error| error.to_string())
}

/// What is said of this process. Operators' own words go before ours.
fn resource(settings: &Settings) -> Resource {
    let ours = [
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id".to_owned(), Uuid::now_v7().to_string()),
    ];
    let all = ours.into_iter().chain(settings.attributes.iter().cloned());
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(all.map(|(name, value)| KeyValue::new(name, value)))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::spans::tests::call;

    fn dropped(metrics: &Metrics) -> String {
        const SERIES: &str = "weir_trace_spans_total{outcome=\"dropped\"} ";
        let text = metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(SERIES)).unwrap();
        line.to_owned()
    }

    #[test]
    fn more_spans_than_may_wait_are_dropped_and_counted() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (queue, mut waiting) = Queue::new(Arc::clone(&metrics));
        let calls = MOST_WAITING / 4;
        for _ in 0..calls {
            queue.offer(Box::new(call(3)));
        }
        assert_eq!(dropped(&metrics), "0");
        queue.offer(Box::new(call(2)));
        assert_eq!(dropped(&metrics), "3");
        // There is room again once spans have gone, and not when they are only taken.
        waiting.calls.try_recv().unwrap();
        queue.offer(Box::new(call(0)));
        assert_eq!(dropped(&metrics), "4");
        waiting.spans.fetch_sub(4, Ordering::Relaxed);
        queue.offer(Box::new(call(3)));
        assert_eq!(dropped(&metrics), "4");
    }

    #[test]
    fn it_is_complained_once_a_minute_and_of_everything() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.of(2), Some(2));
        assert_eq!((complaints.of(3), complaints.of(4)), (None, None));
        complaints.last = Instant::now().checked_sub(COMPLAIN);
        assert_eq!(complaints.of(1), Some(8));
    }

    #[test]
    fn nobody_waits_for_an_exporter_that_is_not_there() {
        let (queue, waiting) = Queue::new(Arc::new(Metrics::new().unwrap()));
        drop(waiting);
        queue.flush().wait(Duration::from_secs(3600));
    }
}
