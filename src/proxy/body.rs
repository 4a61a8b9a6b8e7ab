//! The client's body: read whole for the endpoints that are understood, passed on for the others.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::header;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::openai::error::ApiError;
use crate::upstream::BodyError;

use super::error;

/// A body may take this long, and longer by what has come at [`MIN_RATE`].
const GRACE: Duration = Duration::from_secs(30);
/// Bytes a second below which a sender is slow.
const MIN_RATE: u64 = 16 << 10;
/// Room that is made for a body on its word alone.
const TRUSTED_LENGTH: u64 = 1 << 20;

/// Reads a whole body of at most `limit` bytes. One that comes in one piece is not copied.
pub(super) async fn read<B>(headers: &HeaderMap, body: B, limit: u64) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(error::encoded_body(&String::from_utf8_lossy(encoding.as_bytes())));
    }
    let declared = body.size_hint().exact().unwrap_or(0);
    if declared > limit {
        return Err(error::too_large(limit));
    }
    let mut body = Paced::new(body);
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    let room = declared.min(TRUSTED_LENGTH);
    if body.is_end_stream() {
        return within(first, limit);
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(room).unwrap_or(0));
    whole.extend_from_slice(&within(first, limit)?);
    while let Some(piece) = next(&mut body).await? {
        whole.extend_from_slice(&piece);
        if length(&whole) > limit {
            return Err(error::too_large(limit));
        }
    }
    Ok(whole.freeze())
}

fn within(bytes: Bytes, limit: u64) -> Result<Bytes, ApiError> {
    if length(&bytes) > limit { Err(error::too_large(limit)) } else { Ok(bytes) }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The next piece of data; trailers are passed over.
async fn next<B>(body: &mut Paced<B>) -> Result<Option<Bytes>, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|failure| match failure.downcast::<TooSlow>() {
            Ok(_) => error::slow_body(),
            Err(failure) => error::broken_body(&failure.to_string()),
        })?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A sender that keeps a connection busy with nothing.
#[derive(Debug, thiserror::Error)]
#[error("it came more slowly than {MIN_RATE} bytes a second")]
pub(super) struct TooSlow;

/// A body that must come at a minimum rate. The time that the other side needs to take it does not
/// count: the clock runs only while the gateway waits for the client.
pub(super) struct Paced<B> {
    inner: B,
    received: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(super) fn new(inner: B) -> Self {
        Self { inner, received: 0, waited: Duration::ZERO, waiting_since: None, timer: None }
    }

    fn allowed(&self) -> Duration {
        GRACE + Duration::from_secs(self.received / MIN_RATE)
    }

    /// Starts or checks the clock; ready when the sender has used up its time.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.allowed().saturating_sub(self.waited);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => match this.poll_too_slow(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(Box::new(TooSlow)))),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(frame) => {
                if let Some(since) = this.waiting_since.take() {
                    this.waited += since.elapsed();
                }
                if let Some(Ok(frame)) = &frame {
                    this.received += frame.data_ref().map_or(0, |data| length(data));
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender of `pieces` of `size` bytes, each a pause after the last one was taken.
    struct Drip {
        pieces: u32,
        size: usize,
        pause: Duration,
        timer: Option<Pin<Box<Sleep>>>,
    }

    impl Drip {
        fn new(pieces: u32, size: usize, pause: Duration) -> Self {
            Self { pieces, size, pause, timer: None }
        }
    }

    impl Body for Drip {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            if self.pieces == 0 {
                return Poll::Ready(None);
            }
            let pause = self.pause;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            std::task::ready!(timer.as_mut().poll(cx));
            self.timer = None;
            self.pieces -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; self.size])))))
        }
    }

    async fn taken(body: Drip) -> Result<usize, u16> {
        let whole = read(&HeaderMap::new(), body, 1 << 30).await;
        whole.map(|bytes| bytes.len()).map_err(|error| error.status)
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_nothing_or_next_to_nothing_is_given_up() {
        assert_eq!(taken(Drip::new(1, 1, Duration::from_secs(3600))).await, Err(408));
        // A byte a second: 30 s of grace are over long before a hundred bytes are there.
        assert_eq!(taken(Drip::new(100, 1, Duration::from_secs(1))).await, Err(408));
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_steadily_may_take_its_time() {
        // 32 KiB a second is twice the least rate: ten minutes are fine.
        let size = 32 << 10;
        assert_eq!(taken(Drip::new(600, size, Duration::from_secs(1))).await, Ok(600 * size));
        assert_eq!(taken(Drip::new(1, 1, Duration::from_secs(29))).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_the_other_side_takes_is_not_the_senders() {
        let mut body = Paced::new(Drip::new(3, 1, Duration::from_secs(9)));
        for _ in 0..3 {
            assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
            // The upstream does not take more for an hour.
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        assert!(body.frame().await.is_none());
    }
}
