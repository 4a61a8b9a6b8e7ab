//! Bodies on their way to a provider and back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::pool::Lease;

/// What can go wrong while a body is read.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body: held in memory, or passed on while it is read.
pub enum OutBody {
    /// The whole body in its pieces, the first and the others; can be sent again.
    Whole(Bytes, std::vec::IntoIter<Bytes>),
    /// Passed on as it comes; sent once.
    Stream {
        /// The client's body.
        inner: Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>,
        /// How far it has come.
        upload: Arc<Upload>,
    },
}

impl std::fmt::Debug for OutBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(..) => write!(f, "Whole({:?})", self.size_hint().exact()),
            Self::Stream { .. } => f.write_str("Stream"),
        }
    }
}

/// How far a body that is passed on has come.
#[derive(Debug, Default)]
pub struct Upload {
    /// Its last byte has been passed on.
    done: AtomicBool,
    /// The provider would take more, and the client has not sent it yet.
    waits_for_client: AtomicBool,
    pieces: AtomicU64,
}

/// Tells how far a request has been sent.
#[derive(Clone)]
pub(super) struct Progress(Option<Arc<Upload>>);

impl Progress {
    pub(super) fn sent(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.done.load(Ordering::Relaxed))
    }

    /// Pieces that the provider has taken.
    pub(super) fn pieces(&self) -> u64 {
        self.0.as_ref().map_or(0, |upload| upload.pieces.load(Ordering::Relaxed))
    }

    /// Whether the provider has taken nothing since there were `pieces`, and could have.
    pub(super) fn stuck_at(&self, pieces: u64) -> bool {
        let waits = |upload: &Arc<Upload>| upload.waits_for_client.load(Ordering::Relaxed);
        self.pieces() == pieces && !self.0.as_ref().is_some_and(waits)
    }
}

impl OutBody {
    /// A body in memory.
    pub fn whole(bytes: Bytes) -> Self {
        Self::pieces(bytes, Vec::new())
    }

    /// A body in memory that is in several pieces, none of them empty unless it is the only one.
    pub fn pieces(first: Bytes, rest: Vec<Bytes>) -> Self {
        Self::Whole(first, rest.into_iter())
    }

    /// A body that is passed on while it is read.
    pub fn stream(inner: impl Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        let upload = Arc::new(Upload::default());
        upload.done.store(inner.is_end_stream(), Ordering::Relaxed);
        Self::Stream { inner: Box::pin(inner), upload }
    }

    /// Whether it can be sent twice.
    pub fn replayable(&self) -> bool {
        matches!(self, Self::Whole(..))
    }

    pub(super) fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Whole(first, rest) => Some(Self::Whole(first.clone(), rest.clone())),
            Self::Stream { .. } => None,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match self {
            Self::Whole(..) => Progress(None),
            Self::Stream { upload, .. } => Progress(Some(Arc::clone(upload))),
        }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(first, rest) => {
                let piece = std::mem::replace(first, rest.next().unwrap_or_default());
                Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
            }
            Self::Stream { inner, upload } => {
                let frame = inner.as_mut().poll_frame(cx);
                upload.waits_for_client.store(frame.is_pending(), Ordering::Relaxed);
                upload.pieces.fetch_add(u64::from(frame.is_ready()), Ordering::Relaxed);
                if matches!(frame, Poll::Ready(None)) || inner.is_end_stream() {
                    upload.done.store(true, Ordering::Relaxed);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(first, _) => first.is_empty(),
            Self::Stream { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(first, rest) => {
                let len = first.len() + rest.as_slice().iter().map(Bytes::len).sum::<usize>();
                SizeHint::with_exact(u64::try_from(len).unwrap_or(u64::MAX))
            }
            Self::Stream { inner, .. } => inner.size_hint(),
        }
    }
}

/// One of an upstream's `max_in_flight`, given back on drop.
#[derive(Debug)]
pub(super) struct Permit(
    #[expect(dead_code, reason = "held for its drop")] pub(super) OwnedSemaphorePermit,
);

/// An answer's body. Read to its end, it gives the connection back; dropped before, it ends the
/// call at the provider.
pub struct AnswerBody {
    inner: Incoming,
    lease: Option<Lease>,
    _permit: Permit,
}

impl AnswerBody {
    pub(super) fn new(inner: Incoming, lease: Lease, permit: Permit) -> Self {
        let mut body = Self { inner, lease: Some(lease), _permit: permit };
        body.give_back_at_end();
        body
    }

    fn give_back_at_end(&mut self) {
        if self.inner.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        match &frame {
            Poll::Ready(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
            }
            Poll::Ready(Some(Ok(_))) => self.give_back_at_end(),
            _ => {}
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

/// The innermost message of an error: hyper's own says only which step failed.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let outer = error.to_string();
    let inner = cause.to_string();
    if outer == inner { outer } else { format!("{outer}: {inner}") }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_in_pieces_is_sent_in_their_order_and_can_be_sent_again() {
        let pieces =
            ["{\"model\":", "\"m\"", "}"].map(|piece| Bytes::from_static(piece.as_bytes()));
        let [first, rest @ ..] = pieces;
        let body = OutBody::pieces(first, rest.to_vec());
        let again = body.try_clone().unwrap();
        for mut body in [body, again] {
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(13), false));
            let mut sent = Vec::new();
            while let Some(frame) = body.frame().await {
                sent.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            assert_eq!((&sent[..], body.is_end_stream()), (&b"{\"model\":\"m\"}"[..], true));
        }
        let nothing = OutBody::whole(Bytes::new());
        assert_eq!((nothing.size_hint().exact(), nothing.is_end_stream()), (Some(0), true));
    }
}
