//! Tries a route's target until there is an answer that the client should see.
//!
//! An attempt lasts until the first byte for the client is there: the first event of a stream, or a
//! whole answer. Up to then another try is invisible; after it there is none.

use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use http::response::Parts;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::openai::error::ApiError;
use crate::policy::Route;
use crate::telemetry::metrics::Metrics;
use crate::upstream::AnswerBody;
use crate::upstream::Failure;
use crate::upstream::Outgoing;
use crate::upstream::Upstreams;
use crate::upstream::root_cause;

use super::error;

/// First pause between two tries; doubled each time, and shortened by chance so that clients which
/// failed together do not come back together.
const BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// A target that wants more time than this gets no retry: its answer goes to the client.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Whole answers up to this size are held until their usage is known.
const HELD: usize = 8 << 20;
/// What is read of an answer that nobody will see, to keep its connection.
const DRAINED: usize = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// An answer whose first byte is there.
pub(super) struct Answer {
    pub(super) head: Parts,
    /// What has come of the body.
    pub(super) begun: Bytes,
    /// The remainder; `None` when `begun` is all of it.
    pub(super) rest: Option<AnswerBody>,
}

/// What became of a call upstream.
pub(super) struct Tried {
    pub(super) answer: Result<Answer, ApiError>,
    pub(super) attempts: u32,
    /// Time spent waiting for the upstream, pauses included.
    pub(super) waited: Duration,
}

/// Sends what `outgoing` makes to the route's target as often as it takes and the route, the deadline and the
/// retry budget allow.
pub(super) async fn first_answer(
    upstreams: &Upstreams,
    metrics: &Metrics,
    route: &Route,
    outgoing: impl Fn() -> Outgoing,
    since: Instant,
) -> Tried {
    let begun = Instant::now();
    let mut attempts = 0;
    let work = tries(upstreams, metrics, route, outgoing, &mut attempts);
    let answer = match route.deadline {
        None => work.await,
        Some(limit) => tokio::time::timeout_at(since + limit, work)
            .await
            .unwrap_or_else(|_| Err(error::deadline(limit))),
    };
    Tried { answer, attempts, waited: begun.elapsed() }
}

async fn tries(
    upstreams: &Upstreams,
    metrics: &Metrics,
    route: &Route,
    outgoing: impl Fn() -> Outgoing,
    attempts: &mut u32,
) -> Result<Answer, ApiError> {
    upstreams.budget.request();
    loop {
        *attempts += 1;
        let result = attempt(upstreams, route, outgoing()).await;
        metrics.attempt(&route.upstream.name, outcome(&result));
        let last = *attempts >= route.attempts;
        // A kept connection that the provider was closing anyway says nothing about the provider.
        if !last && matches!(result, Err(Failure::Closed { reused: true, .. })) {
            continue;
        }
        let pause = match &result {
            Ok(answer) if retryable(answer.head.status) => {
                pause_asked(upstreams, route, &answer.head.headers)
            }
            Err(failure) if worth_retrying(failure) => None,
            _ => return finish(route, result),
        };
        let wait = pause.unwrap_or_else(|| backoff(*attempts));
        if last || wait > LONGEST_PAUSE || !upstreams.budget.take() {
            return finish(route, result);
        }
        tracing::debug!(upstream = %route.upstream.name, model = %route.model, outcome = outcome(&result), wait_ms = wait.as_millis(), "retry");
        if let Ok(answer) = result {
            drain(answer).await;
        }
        tokio::time::sleep(wait).await;
    }
}

async fn attempt(
    upstreams: &Upstreams,
    route: &Route,
    outgoing: Outgoing,
) -> Result<Answer, Failure> {
    let response = upstreams.send(&route.upstream, outgoing).await?;
    let (head, mut body) = response.into_parts();
    let stream = is_event_stream(&head.headers);
    let mut begun = Begun::default();
    let idle = route.upstream.timeouts.idle;
    let name = || route.upstream.name.clone();
    while !body.is_end_stream() {
        let frame = tokio::time::timeout(idle, body.frame())
            .await
            .map_err(|_| Failure::Timeout { upstream: name(), after: idle })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Failure::Closed {
            upstream: name(),
            reason: root_cause(&error),
            reused: false,
        })?;
        if let Ok(data) = frame.into_data() {
            begun.push(data);
            if stream || begun.len() > HELD {
                return Ok(Answer { head, begun: begun.into(), rest: Some(body) });
            }
        }
    }
    Ok(Answer { head, begun: begun.into(), rest: None })
}

/// Pieces of a body; the first is not copied as long as it is the only one.
#[derive(Default)]
struct Begun {
    first: Bytes,
    more: BytesMut,
}

impl Begun {
    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(&data);
    }

    fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }
}

impl From<Begun> for Bytes {
    fn from(begun: Begun) -> Self {
        if begun.more.is_empty() { begun.first } else { begun.more.freeze() }
    }
}

/// Statuses after which another try may help; the same as OpenAI's clients retry.
fn retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 429 | 500..=599)
}

fn worth_retrying(failure: &Failure) -> bool {
    matches!(failure, Failure::Connect { .. } | Failure::Closed { .. } | Failure::Timeout { .. })
}

fn outcome(result: &Result<Answer, Failure>) -> &'static str {
    match result {
        Err(failure) => failure.outcome(),
        Ok(answer) => match answer.head.status.as_u16() {
            429 => "rate_limited",
            408 => "timeout",
            409 => "conflict",
            500..=599 => "server_error",
            400..=499 => "client_error",
            _ => "ok",
        },
    }
}

/// Closes the target's gate when its answer asks for a pause.
fn pause_asked(upstreams: &Upstreams, route: &Route, headers: &HeaderMap) -> Option<Duration> {
    let (upstream, model) = (route.upstream.name.as_str(), &*route.upstream_model);
    upstreams.gates.close(upstream, model, headers).max(upstreams.gates.closed_for(upstream, model))
}

fn finish(route: &Route, result: Result<Answer, Failure>) -> Result<Answer, ApiError> {
    let answer = result.map_err(|failure| error::of_failure(&failure))?;
    // A caller must not be told that its key is wrong when it is the gateway's.
    if answer.head.status == StatusCode::UNAUTHORIZED && route.upstream.authorization.is_some() {
        tracing::error!(upstream = %route.upstream.name, "the upstream refuses the gateway's own key; renew its api_key");
        return Err(error::upstream_credentials(&route.upstream.name));
    }
    Ok(answer)
}

fn backoff(attempt: u32) -> Duration {
    let full = BACKOFF.saturating_mul(1 << attempt.min(6)).min(LONGEST_BACKOFF) / 2;
    full.mul_f64(0.5 + chance() / 2.0)
}

/// A number between 0 and 1 from the random half of a UUID: no generator to seed or to share.
fn chance() -> f64 {
    let [.., high, low] = *uuid::Uuid::now_v7().as_bytes();
    f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
}

async fn drain(answer: Answer) {
    let Some(mut rest) = answer.rest else { return };
    let mut read = 0;
    let reading = async {
        while let Some(Ok(frame)) = rest.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DRAINED {
                break;
            }
        }
    };
    // What does not come in time is not worth waiting for: the connection is closed instead.
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

/// Whether an answer is a stream of events.
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.len() >= 17 && kind[..17].eq_ignore_ascii_case(b"text/event-stream")
    })
}
