//! A stand-in for a collector of traces, over HTTP or gRPC: it remembers the spans that it was sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use prost::Message as _;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;

use super::Answer;
use super::Upstream;
use super::eventually;
use super::world;

/// What a span says, as JSON.
type Said = BTreeMap<String, Value>;

/// A span as it was sent; ids are in hexadecimal.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for none.
    pub(crate) parent: String,
    pub(crate) name: String,
    /// SERVER or CLIENT.
    pub(crate) kind: &'static str,
    /// Nanoseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) is_error: bool,
    pub(crate) events: Vec<(String, u64, Said)>,
    pub(crate) said: Said,
    /// What was said of the process.
    pub(crate) resource: Said,
}

impl Span {
    /// What it says under a name; null for nothing.
    pub(crate) fn get(&self, name: &str) -> &Value {
        self.said.get(name).unwrap_or(&Value::Null)
    }
}

/// A collector.
pub(crate) struct Collector {
    endpoint: String,
    source: Source,
}

enum Source {
    Http(Upstream),
    Grpc(Arc<Mutex<Vec<Export>>>),
}

/// The headers and the message of an export.
pub(crate) struct Export {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Collector {
    pub(crate) fn http() -> Self {
        Self::that(Answer::whole(200, "content-type: application/x-protobuf\r\n", ""))
    }

    /// One that gives this answer to every export.
    pub(crate) fn that(answer: Answer) -> Self {
        let upstream = Upstream::always(answer);
        let endpoint = upstream.base_url().trim_end_matches("/v1").to_owned();
        Self { endpoint, source: Source::Http(upstream) }
    }

    pub(crate) fn grpc() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let exports = Arc::<Mutex<Vec<Export>>>::default();
        let taken = Arc::clone(&exports);
        world().spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&taken);
                let service = hyper::service::service_fn(move |request| {
                    let taken = Arc::clone(&taken);
                    async move { Ok::<_, Infallible>(take_in(request, taken).await) }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { endpoint: format!("http://{address}"), source: Source::Grpc(exports) }
    }

    /// Where it is, without a path.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What it was sent so far.
    pub(crate) fn exports(&self) -> Vec<Export> {
        match &self.source {
            Source::Grpc(exports) => {
                let exports = exports.lock().unwrap();
                let copy = |one: &Export| {
                    let (headers, body) = (one.headers.clone(), one.body.clone());
                    Export { headers, body }
                };
                exports.iter().map(copy).collect()
            }
            Source::Http(upstream) => {
                let whole = upstream.requests().into_iter().filter(|request| request.complete);
                let export = whole.map(|request| {
                    assert_eq!(request.target, "/v1/traces");
                    assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
                    Export { headers: request.headers, body: request.body }
                });
                export.collect()
            }
        }
    }

    /// The spans that it was sent so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for export in self.exports() {
            let request = ExportTraceServiceRequest::decode(&export.body[..]).unwrap();
            for of_process in request.resource_spans {
                let resource = said(of_process.resource.unwrap().attributes);
                let sent = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(sent.map(|one| span(one, &resource)));
            }
        }
        spans
    }

    /// The spans, once there are so many: those of requests first, and in the order they began in.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans are exported"), || self.spans().len() >= count);
        let mut spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans.sort_by_key(|span| (span.kind != "SERVER", span.start));
        spans
    }
}

/// Takes one call of gRPC: a byte that says "not compressed", a length, a message.
async fn take_in(
    request: hyper::Request<Incoming>,
    taken: Arc<Mutex<Vec<Export>>>,
) -> hyper::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
    let (head, body) = request.into_parts();
    assert_eq!(head.uri.path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(body[0], 0);
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    let export = Export { headers: headers.collect(), body: body[5..].to_vec() };
    taken.lock().unwrap().push(export);
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    let empty = Full::new(Bytes::from_static(&[0; 5]));
    let body = empty.with_trailers(async move { Some(Ok(trailers)) });
    let response = hyper::Response::builder().header("content-type", "application/grpc");
    response.body(body).unwrap()
}

fn span(sent: Sent, resource: &Said) -> Span {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let events = sent.events.into_iter();
    Span {
        trace: hex(&sent.trace_id),
        id: hex(&sent.span_id),
        parent: hex(&sent.parent_span_id),
        name: sent.name,
        kind: match sent.kind {
            2 => "SERVER",
            3 => "CLIENT",
            other => panic!("a span of kind {other}"),
        },
        start: sent.start_time_unix_nano,
        end: sent.end_time_unix_nano,
        is_error: sent.status.is_some_and(|status| status.code == 2),
        events: events
            .map(|event| (event.name, event.time_unix_nano, said(event.attributes)))
            .collect(),
        said: said(sent.attributes),
        resource: resource.clone(),
    }
}

fn said(pairs: Vec<KeyValue>) -> Said {
    let value =
        |value: Option<AnyValue>| value.and_then(|value| value.value).map_or(Value::Null, plain);
    pairs.into_iter().map(|pair| (pair.key, value(pair.value))).collect()
}

fn plain(value: Any) -> Value {
    match value {
        Any::StringValue(text) => json!(text),
        Any::BoolValue(value) => json!(value),
        Any::IntValue(value) => json!(value),
        Any::DoubleValue(value) => json!(value),
        Any::ArrayValue(list) => {
            list.values.into_iter().map(|one| one.value.map_or(Value::Null, plain)).collect()
        }
        other => panic!("{other:?}"),
    }
}
