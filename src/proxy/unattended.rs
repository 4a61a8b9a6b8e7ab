//! The call of a route that drains: when its client leaves before the answer, it goes on for nobody.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::runtime::Handle;

use crate::openai::error::ApiError;

use super::attempts::Answer;
use super::call::Call;
use super::relay;
use super::relay::Observer;

/// What a call led to, and the call itself.
type Answered = (Result<(Answer, Observer), ApiError>, Call);

/// Waits for an answer. Dropped before it is there, which means that the client left, it goes on in
/// a task of its own: the same attempts, then the answer to its end. While the client waits there is
/// no task, and nothing to be woken but the client's own.
pub(super) struct Unattended(Option<Pin<Box<dyn Future<Output = Answered> + Send>>>);

impl Unattended {
    pub(super) fn new(work: impl Future<Output = Answered> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl Future for Unattended {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let answered = ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(answered)
    }
}

impl Drop for Unattended {
    fn drop(&mut self) {
        if let Some(work) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async {
                match work.await {
                    (Ok((answer, observer)), call) => {
                        relay::read_unseen(answer, observer, call).await
                    }
                    (Err(_), call) => call.leave_unbilled(),
                }
            });
        }
    }
}
