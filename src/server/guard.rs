//! A client's connection as the HTTP engine sees it, with what the engine lacks: a deadline for the
//! whole head, one for idling that costs no timer per request, one for a client that takes nothing, a
//! look at the raw head, and errors in OpenAI's shape where the engine answers by itself.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::openai::error::ApiError;

use super::head_check::HeadCheck;
use super::head_check::Preface;

/// What connection and request handler tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Requests that were begun on this connection.
    begun: AtomicU64,
    /// Requests that ended.
    ended: AtomicU64,
    /// Requests whose heads were looked at and are fine; all of them with HTTP/2.
    checked: AtomicU64,
    /// The connection is a WebSocket now: it may be silent.
    upgraded: AtomicBool,
}

/// Counts a request as running until it is dropped.
pub(super) struct Running(Arc<Shared>);

impl Shared {
    /// A request's head was read; returns whether it must be refused.
    pub(super) fn begin(self: &Arc<Self>) -> (Running, bool) {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        (Running(Arc::clone(self)), number > self.checked.load(Ordering::Relaxed))
    }

    pub(super) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Requests that were begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    fn busy(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed) || self.begun() != self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the whole head, from its first byte.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// Without taking anything of what is there for it.
    pub(super) write: Duration,
}

/// Notices a client that takes nothing. The time is looked up only while it does not.
pub(super) struct Stall {
    limit: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: None, timer: None }
    }

    /// The client took something, or nothing is there for it.
    pub(super) fn over(&mut self) {
        self.since = None;
    }

    /// Something is there for the client; ready when it has taken nothing for too long.
    pub(super) fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.limit;
        poll_until(&mut self.timer, deadline, cx)
    }

    /// What a write came to; an error when the client has taken nothing for too long.
    fn judge<T>(
        &mut self,
        write: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.over();
            return write;
        }
        ready!(self.poll_too_long(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

/// Ready at the deadline, which may have moved since the last look: the timer is moved only when it
/// fires, or when it would be late.
fn poll_until(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    if timer.deadline() > deadline {
        timer.as_mut().reset(deadline);
    }
    loop {
        ready!(timer.as_mut().poll(cx));
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
    }
}

/// The guarded connection.
pub(super) struct Guarded<S> {
    inner: S,
    shared: Arc<Shared>,
    patience: Patience,
    /// Requests begun when the client was last waited for.
    seen: u64,
    check: HeadCheck,
    /// When the wait for the remainder of a head began.
    head_since: Option<Instant>,
    preface: Preface,
    http2: bool,
    quiet_since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    stall: Stall,
    /// An error in our words that replaces the engine's, and how much of it is written.
    instead: Option<(Vec<u8>, usize)>,
}

impl<S> Guarded<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, patience: Patience, http2: bool) -> Self {
        let mut guarded = Self {
            inner,
            shared,
            patience,
            seen: 0,
            check: HeadCheck::new(),
            head_since: None,
            preface: Preface::default(),
            http2: false,
            quiet_since: Instant::now(),
            timer: None,
            stall: Stall::new(patience.write),
            instead: None,
        };
        if http2 {
            guarded.speaks_http2();
        }
        guarded
    }

    /// HTTP/2 has no heads of lines, and one way to say where a body ends.
    fn speaks_http2(&mut self) {
        self.http2 = true;
        self.shared.checked.store(u64::MAX, Ordering::Relaxed);
    }

    /// Looks at what the client sent.
    fn inspect(&mut self, bytes: &[u8]) {
        if self.http2 || bytes.is_empty() {
            return;
        }
        if self.preface.complete(bytes) {
            return self.speaks_http2();
        }
        self.check.feed(bytes);
        self.shared.checked.store(self.check.good(), Ordering::Relaxed);
    }

    /// Ready when the client has used up its patience.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.busy() {
            return Poll::Pending;
        }
        if self.shared.begun() != self.seen {
            self.seen = self.shared.begun();
            self.head_since = None;
            self.quiet_since = Instant::now();
        }
        let deadline = if self.check.in_head() && !self.http2 {
            *self.head_since.get_or_insert_with(Instant::now) + self.patience.head
        } else {
            self.quiet_since + self.patience.idle
        };
        poll_until(&mut self.timer, deadline, cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            this.inspect(buf.filled().get(before..).unwrap_or_default());
            return Poll::Ready(result);
        }
        ready!(this.poll_over(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Writes our error instead of the engine's; ready when it is out.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((error, written)) = &mut self.instead {
            let rest = error.get(*written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            *written += ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_none() {
            this.instead = (!this.http2).then(|| in_our_words(buf)).flatten().map(|e| (e, 0));
        }
        let written = if this.instead.is_some() {
            this.poll_instead(cx).map_ok(|()| buf.len())
        } else {
            Pin::new(&mut this.inner).poll_write(cx, buf)
        };
        this.stall.judge(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        if this.instead.is_some() || (!this.http2 && engine_status(first).is_some()) {
            return Pin::new(this).poll_write(cx, first);
        }
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.stall.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.stall.judge(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.stall.judge(shut, cx)
    }
}

/// The status of an answer that the HTTP engine made by itself: it refuses heads that it cannot
/// read with an empty body. Every answer of the gateway carries `x-weir-id`.
fn engine_status(bytes: &[u8]) -> Option<u16> {
    let status = bytes.strip_prefix(b"HTTP/1.1 4").or_else(|| bytes.strip_prefix(b"HTTP/1.0 4"))?;
    if memchr::memmem::find(bytes, b"x-weir-id:").is_some() {
        return None;
    }
    let [tens, ones, ..] = *status else { return None };
    Some(400 + u16::from(tens.wrapping_sub(b'0')) * 10 + u16::from(ones.wrapping_sub(b'0')))
}

fn in_our_words(bytes: &[u8]) -> Option<Vec<u8>> {
    let status = engine_status(bytes)?;
    let (reason, code, message) = match status {
        431 => (
            "Request Header Fields Too Large",
            "request_header_fields_too_large",
            "The request's headers are larger than the gateway's limit (`limits.header`).",
        ),
        414 => ("URI Too Long", "uri_too_long", "The request's target is too long."),
        _ => (
            "Bad Request",
            "invalid_request",
            "The request is not well-formed HTTP; check its request line, its headers and how its \
             length is given.",
        ),
    };
    Some(close_with(status, reason, &ApiError::new(status, "invalid_request_error", code, message)))
}

/// An error as raw HTTP/1.1, for connections that no engine serves.
pub(super) fn close_with(status: u16, reason: &str, error: &ApiError) -> Vec<u8> {
    let body = error.to_json();
    let mut out = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n{}\r\n",
        body.len(),
        if status == 503 { "retry-after: 1\r\n" } else { "" },
    )
    .into_bytes();
    out.extend_from_slice(&body);
    out
}
