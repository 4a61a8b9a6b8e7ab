//! Connections that are kept: a stack of idle HTTP/1.1 ones, and HTTP/2 ones that calls share.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper::client::conn::http2;

use super::body::OutBody;

/// Idle connections are closed after this long. Providers close theirs after about a minute.
const IDLE: Duration = Duration::from_secs(50);
/// Idle HTTP/1.1 connections that a stack keeps; more are closed when their call ends.
const MAX_IDLE: usize = 1024;
/// Calls that share one HTTP/2 connection before another is opened.
const MAX_SHARED: usize = 100;

/// Stacks of idle connections. Each thread has a favourite: a connection's task lives on the thread
/// that opened it, and asking it from another costs a wake-up.
const STACKS: usize = 8;

#[derive(Default)]
pub(super) struct Pool {
    idle: [Mutex<Vec<Idle>>; STACKS],
    shared: Mutex<Vec<Shared>>,
    dial: tokio::sync::Mutex<()>,
}

/// The calling thread's favourite stack.
fn favourite() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STACKS;
    }
    MINE.with(|&mine| mine)
}

struct Idle {
    sender: http1::SendRequest<OutBody>,
    since: Instant,
}

struct Shared {
    sender: http2::SendRequest<OutBody>,
    /// Counts the leases; one more is the pool's own.
    users: Arc<()>,
    last_used: Instant,
}

/// The right to send one request on a connection.
pub(super) struct Lease {
    sender: Sender,
    pool: Arc<Pool>,
}

enum Sender {
    /// With the stack that it goes back to.
    Http1(http1::SendRequest<OutBody>, usize),
    Http2(http2::SendRequest<OutBody>, #[expect(dead_code, reason = "held to be counted")] Arc<()>),
}

impl Pool {
    /// A kept connection that can take a request now.
    pub(super) fn take(self: &Arc<Self>) -> Option<Lease> {
        self.take_shared().or_else(|| self.take_idle())
    }

    /// Waits until nobody else opens a connection.
    pub(super) async fn dialling(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.dial.lock().await
    }

    /// Closes what has been idle for too long, or was closed by the other side.
    pub(super) fn sweep(&self) {
        for stack in &self.idle {
            lock(stack).retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE);
        }
        lock(&self.shared).retain(|shared| {
            let idle = Arc::strong_count(&shared.users) == 1 && shared.last_used.elapsed() > IDLE;
            !shared.sender.is_closed() && !idle
        });
    }

    fn take_idle(self: &Arc<Self>) -> Option<Lease> {
        let mine = favourite();
        (0..STACKS).find_map(|step| {
            let stack = (mine + step) % STACKS;
            let mut idle = lock(self.idle.get(stack)?);
            loop {
                let Idle { sender, .. } = idle.pop()?;
                if !sender.is_closed() {
                    let sender = Sender::Http1(sender, stack);
                    return Some(Lease { sender, pool: Arc::clone(self) });
                }
            }
        })
    }

    fn take_shared(self: &Arc<Self>) -> Option<Lease> {
        let mut shared = lock(&self.shared);
        if shared.is_empty() {
            return None;
        }
        shared.retain(|one| !one.sender.is_closed());
        let one = shared.iter_mut().find(|one| Arc::strong_count(&one.users) <= MAX_SHARED)?;
        one.last_used = Instant::now();
        let sender = Sender::Http2(one.sender.clone(), Arc::clone(&one.users));
        Some(Lease { sender, pool: Arc::clone(self) })
    }
}

impl Lease {
    pub(super) fn http1(sender: http1::SendRequest<OutBody>, pool: &Arc<Pool>) -> Self {
        Self { sender: Sender::Http1(sender, favourite()), pool: Arc::clone(pool) }
    }

    pub(super) fn http2(sender: http2::SendRequest<OutBody>, pool: &Arc<Pool>) -> Self {
        let users = Arc::new(());
        let mine = Sender::Http2(sender.clone(), Arc::clone(&users));
        lock(&pool.shared).push(Shared { sender, users, last_used: Instant::now() });
        Self { sender: mine, pool: Arc::clone(pool) }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(..))
    }

    pub(super) async fn send(
        &mut self,
        request: Request<OutBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<OutBody>>> {
        match &mut self.sender {
            // Its last answer was read to the end; the connection's task may not know yet.
            Sender::Http1(sender, _) => {
                // A connection that closed meanwhile gives the request back below.
                let _ = sender.ready().await;
                sender.try_send_request(request).await
            }
            Sender::Http2(sender, _) => sender.try_send_request(request).await,
        }
    }

    /// Returns the connection after an answer that was read to its end.
    pub(super) fn give_back(self) {
        if let Sender::Http1(sender, stack) = self.sender
            && let Some(stack) = self.pool.idle.get(stack)
        {
            let mut stack = lock(stack);
            if stack.len() < MAX_IDLE && !sender.is_closed() {
                stack.push(Idle { sender, since: Instant::now() });
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
