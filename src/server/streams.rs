//! Streams of HTTP/2. A client may take nothing of one of them while it reads the others: the
//! connection does not show it, and the engine waits for room without asking the answer's body. So
//! each stream watches for itself, and is reset when its client has taken nothing for too long.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use hyper::rt::Executor;

use super::guard::Stall;

tokio::task_local! {
    /// Pieces that the engine has fetched for its client, and whether it has not come back since.
    static FETCHED: Cell<(u64, bool)>;
}

/// Runs the streams of HTTP/2 connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// How long a client may take nothing of what is there for it.
    pub(super) patience: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(FETCHED.scope(Cell::default(), watched(stream, self.patience)));
    }
}

/// The engine asks an answer's body for more.
pub(super) fn asked() {
    // HTTP/1.1 has no streams, and its connection is watched as a whole.
    let _ = FETCHED.try_with(|fetched| fetched.set((fetched.get().0, false)));
}

/// The engine got a piece, and comes back when its client has taken it.
pub(super) fn fetched() {
    let _ = FETCHED.try_with(|fetched| fetched.set((fetched.get().0.wrapping_add(1), true)));
}

/// A stream that ends when its client takes nothing for too long. Dropping it resets it.
async fn watched(stream: impl Future<Output = ()>, patience: Duration) {
    let (mut stream, mut stall, mut last) = (pin!(stream), Stall::new(patience), 0);
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let (pieces, waits) = FETCHED.with(Cell::get);
        if !waits || pieces != last {
            last = pieces;
            stall.over();
        }
        if !waits {
            return Poll::Pending;
        }
        ready!(stall.poll_too_long(cx));
        tracing::debug!("a client took nothing of a stream for too long");
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// Runs a stream to its end; whether it came there by itself.
    async fn ends(stream: impl Future<Output = ()>) -> bool {
        let done = Cell::new(false);
        let marked = async {
            stream.await;
            done.set(true);
        };
        FETCHED.scope(Cell::default(), watched(marked, PATIENCE)).await;
        done.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_ends_its_stream() {
        let stream = async {
            fetched();
            sleep(PATIENCE * 10).await;
        };
        assert!(!ends(stream).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_piece_now_and_then_is_served_on() {
        let stream = async {
            for _ in 0..10 {
                asked();
                fetched();
                sleep(PATIENCE - Duration::from_secs(1)).await;
            }
            asked();
        };
        assert!(ends(stream).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_takes_its_time_is_not_its_clients_fault() {
        let stream = async {
            asked();
            fetched();
            asked();
            sleep(PATIENCE * 10).await;
        };
        assert!(ends(stream).await);
    }
}
