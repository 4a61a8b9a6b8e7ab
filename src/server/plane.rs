//! The data plane's connections: each is handed over by pingora and served by hyper, HTTP/1.1 or
//! HTTP/2.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use pingora::apps::ServerApp;
use pingora::protocols::ALPN;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::openai::error::ApiError;
use crate::proxy::FramingFault;
use crate::proxy::Gateway;
use crate::proxy::Reply;
use crate::telemetry::metrics::Metrics;
use crate::upstream::BodyError;

use super::guard::Guarded;
use super::guard::Patience;
use super::guard::Running;
use super::guard::Shared;
use super::guard::close_with;
use super::streams::Streams;
use super::streams::asked;
use super::streams::fetched;

/// HTTP/2 limits, those that Envoy recommends for an edge.
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How long a connection that has not asked for anything yet is kept when the process stops, and
/// how often it is looked at.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(5);
/// hyper's least buffer; a smaller header limit cannot be kept.
pub(super) const LEAST_BUFFER: usize = 8192;

/// Serves connections with a [`Gateway`].
pub(super) struct Plane {
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    http: auto::Builder<Streams>,
    patience: Patience,
    max_connections: i64,
}

impl Plane {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        metrics: Arc<Metrics>,
        header_limit: usize,
        patience: Patience,
        max_connections: u32,
    ) -> Self {
        let mut http = auto::Builder::new(Streams { patience: patience.write });
        // Heads, whole answers and events are small: one buffer costs less to send than two.
        http.http1().writev(false).max_buf_size(header_limit.max(LEAST_BUFFER));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(header_limit).unwrap_or(u32::MAX));
        Self { gateway, metrics, http, patience, max_connections: i64::from(max_connections) }
    }
}

/// Counts a connection as open until it is dropped.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connections().inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections().dec();
    }
}

#[async_trait]
impl ServerApp for Plane {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let _open = Open::new(&self.metrics);
        if self.metrics.connections().get() > self.max_connections {
            refuse(&mut stream).await;
            return None;
        }
        let shared = Arc::new(Shared::default());
        let http2 = stream.selected_alpn_proto() == Some(ALPN::H2);
        let io = Guarded::new(stream, Arc::clone(&shared), self.patience, http2);
        let gateway = Arc::clone(&self.gateway);
        let talk = Arc::clone(&shared);
        let service =
            service_fn(move |request| answer(Arc::clone(&gateway), Arc::clone(&talk), request));
        let connection = self.http.serve_connection_with_upgrades(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = stopping(shutdown.clone()) => {
                let mut ended = None;
                // Who has just connected is about to ask: that request must not be lost.
                let deadline = Instant::now() + FIRST_REQUEST;
                while ended.is_none() && shared.begun() == 0 && Instant::now() < deadline {
                    ended = tokio::time::timeout(STEP, connection.as_mut()).await.ok();
                }
                match ended {
                    Some(ended) => ended,
                    None => {
                        // Idle connections close now, busy ones after their answer.
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client connection ended");
        }
        None
    }
}

/// Waits until the server stops.
async fn stopping(mut shutdown: ShutdownWatch) {
    // An error means that the server is gone, which is a stop, too.
    let _ = shutdown.wait_for(|&stopping| stopping).await;
}

async fn answer(
    gateway: Arc<Gateway>,
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<Response<Served>, Infallible> {
    let (running, fault) = shared.begin();
    if fault {
        request.extensions_mut().insert(FramingFault);
    }
    let response = gateway.handle(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        shared.upgraded();
    }
    Ok(response.map(|inner| Served { inner, _running: running }))
}

/// Says that there is no room. The client has not been read, so it may see a reset instead.
async fn refuse(stream: &mut Stream) {
    let error = ApiError::new(
        503,
        "api_error",
        "server_overloaded",
        "The gateway has as many connections as it may (`limits.connections`). Try again.",
    );
    // Nothing is owed to a client that does not take it.
    let _ = stream.write_all(&close_with(503, "Service Unavailable", &error)).await;
    let _ = stream.shutdown().await;
}

/// A reply's body; while it is there, the connection is busy.
struct Served {
    inner: Reply,
    _running: Running,
}

impl Body for Served {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        asked();
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if frame.is_ready() {
            fetched();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
