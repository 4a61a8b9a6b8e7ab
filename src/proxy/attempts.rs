//! Tries a route's targets until there is an answer that the client should see.
//!
//! An attempt lasts until the first byte for the client is there: the first event of a stream, or a
//! whole answer. Up to then another try is invisible; after it there is none.

use std::pin::pin;
use std::sync::Arc;
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
use crate::policy::Target;
use crate::telemetry::metrics::Metrics;
use crate::upstream::AnswerBody;
use crate::upstream::Failure;
use crate::upstream::Outgoing;
use crate::upstream::Upstreams;
use crate::upstream::root_cause;

use super::auth;
use super::auth::Client;
use super::error;
use super::traced::Traced;

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
    /// Who was asked, and what became of it.
    pub(super) tries: Vec<Try>,
    /// Time spent waiting for the upstream, pauses included.
    pub(super) waited: Duration,
    /// The target that was asked last: the one that answered, where one did.
    pub(super) target: Arc<Target>,
}

/// One attempt: the target and the outcome's name.
pub(super) type Try = (Arc<Target>, &'static str);

/// The way along a route's targets.
struct Walk<'a> {
    client: &'a Client,
    route: &'a Route,
    /// 0 is the first choice, 1 the first fallback.
    at: usize,
    attempts: u32,
    tries: Vec<Try>,
    /// Tries left at this target before the next one is asked.
    here: u32,
    /// Where attempts are noted, when the call is traced.
    trace: Option<&'a mut Traced>,
}

/// Sends what `outgoing` makes to the route's targets as often as it takes and the route, the
/// deadline and the retry budget allow.
pub(super) async fn first_answer(
    upstreams: &Upstreams,
    metrics: &Metrics,
    (client, route, trace): (&Client, &Route, Option<&mut Traced>),
    outgoing: impl Fn(&Target) -> Outgoing,
    since: Instant,
) -> Tried {
    let begun = Instant::now();
    let mut walk = Walk::begin(client, route, trace, upstreams);
    let answer = {
        // Pinned where it is made: it has 5 KB, which moving it would copy with each request.
        let work = pin!(tries(upstreams, metrics, &mut walk, outgoing));
        match route.rule.deadline {
            None => work.await,
            Some(limit) => tokio::time::timeout_at(since + limit, work)
                .await
                .unwrap_or_else(|_| Err(error::deadline(limit))),
        }
    };
    let target = Arc::clone(walk.target());
    Tried { answer, attempts: walk.attempts, tries: walk.tries, waited: begun.elapsed(), target }
}

async fn tries(
    upstreams: &Upstreams,
    metrics: &Metrics,
    walk: &mut Walk<'_>,
    outgoing: impl Fn(&Target) -> Outgoing,
) -> Result<Answer, ApiError> {
    upstreams.budget.request();
    loop {
        walk.attempts += 1;
        let target = Arc::clone(walk.target());
        let mut outgoing = outgoing(&target);
        if let Some(trace) = &mut walk.trace {
            trace.asks(&target, &mut outgoing.headers);
        }
        let result = attempt(upstreams, &target, outgoing).await;
        metrics.attempt(&target.upstream.name, outcome(&result));
        walk.note(&target, &result);
        let last = walk.attempts >= walk.route.rule.attempts;
        // A kept connection that the provider was closing anyway says nothing about the provider.
        if !last && matches!(result, Err(Failure::Closed { reused: true, .. })) {
            continue;
        }
        let pause = judge(upstreams, &target, &result);
        let wait = match walk.next(&result, pause, upstreams) {
            Some(wait) if !last && upstreams.budget.take() => wait,
            _ => return finish(walk.client, &target, result),
        };
        tracing::debug!(upstream = %target.upstream.name, model = %target.model, outcome = outcome(&result), wait_ms = wait.as_millis(), "retry");
        if let Ok(answer) = result {
            drain(answer).await;
        }
        tokio::time::sleep(wait).await;
    }
}

/// Tells the target's gate what became of an attempt; returns the pause that the target asks for.
fn judge(
    upstreams: &Upstreams,
    target: &Target,
    result: &Result<Answer, Failure>,
) -> Option<Duration> {
    let (upstream, model) = (target.upstream.name.as_str(), &*target.upstream_model);
    match result {
        Ok(answer) if answer.head.status.is_server_error() => {
            upstreams.gates.failed(upstream, model)
        }
        Err(failure) if worth_retrying(failure) => upstreams.gates.failed(upstream, model),
        _ => upstreams.gates.answered(upstream, model),
    }
    let answer = result.as_ref().ok().filter(|answer| retryable(answer.head.status))?;
    let asked = upstreams.gates.close(upstream, model, &answer.head.headers);
    asked.max(upstreams.gates.closed_for(upstream, model))
}

impl<'a> Walk<'a> {
    /// Begins at the first target whose gate is open; at the first of all where none is.
    fn begin(
        client: &'a Client,
        route: &'a Route,
        trace: Option<&'a mut Traced>,
        upstreams: &Upstreams,
    ) -> Self {
        let mut walk =
            Self { client, route, at: 0, attempts: 0, tries: Vec::new(), here: 0, trace };
        if !route.fallback.is_empty() && !is_open(upstreams, &route.target) {
            walk.at = walk.open_after(0, upstreams).unwrap_or(0);
        }
        walk.here = walk.patience();
        walk
    }

    fn target(&self) -> &'a Arc<Target> {
        match self.at.checked_sub(1).and_then(|index| self.route.fallback.get(index)) {
            Some(fallback) => fallback,
            None => &self.route.target,
        }
    }

    /// Notes what came of an attempt.
    fn note(&mut self, target: &Arc<Target>, result: &Result<Answer, Failure>) {
        self.tries.push((Arc::clone(target), outcome(result)));
        if let Some(trace) = &mut self.trace {
            let status = result.as_ref().ok().map(|answer| answer.head.status.as_u16());
            trace.heard(outcome(result), status);
        }
    }

    /// Tries at a target: as many as leave one for each fallback behind it.
    fn patience(&self) -> u32 {
        let behind = self.route.fallback.len().saturating_sub(self.at);
        let behind = u32::try_from(behind).unwrap_or(u32::MAX);
        let left = self.route.rule.attempts.saturating_sub(self.attempts);
        left.saturating_sub(behind).max(1)
    }

    /// The next target after `at` whose gate is open.
    fn open_after(&self, at: usize, upstreams: &Upstreams) -> Option<usize> {
        let rest = self.route.fallback.iter().enumerate().skip(at);
        let mut open = rest.filter(|(_, target)| is_open(upstreams, target));
        open.next().map(|(index, _)| index + 1)
    }

    /// Where to try again, and after which time; `None` where nothing is left that may help.
    fn next(
        &mut self,
        result: &Result<Answer, Failure>,
        pause: Option<Duration>,
        upstreams: &Upstreams,
    ) -> Option<Duration> {
        let (here, elsewhere) = match result {
            Ok(answer) if retryable(answer.head.status) => (true, true),
            // The gateway's own key: the same target refuses it again.
            Ok(answer) => (false, {
                let upstream = &self.target().upstream;
                auth::refuses_own_key(self.client, upstream, answer.head.status)
            }),
            Err(Failure::Full { .. }) => (false, true),
            Err(failure) => (worth_retrying(failure), worth_retrying(failure)),
        };
        self.here = self.here.saturating_sub(1);
        let wait = pause.unwrap_or_else(|| backoff(self.attempts));
        if here && self.here > 0 && wait <= LONGEST_PAUSE {
            return Some(wait);
        }
        if elsewhere && let Some(next) = self.open_after(self.at, upstreams) {
            self.at = next;
            self.here = self.patience();
            return Some(Duration::ZERO);
        }
        // Nowhere else to go: what is left of the attempts is spent here.
        (here && wait <= LONGEST_PAUSE).then_some(wait)
    }
}

fn is_open(upstreams: &Upstreams, target: &Target) -> bool {
    upstreams.gates.lets_in(&target.upstream.name, &target.upstream_model)
}

async fn attempt(
    upstreams: &Upstreams,
    target: &Target,
    outgoing: Outgoing,
) -> Result<Answer, Failure> {
    let response = upstreams.send(&target.upstream, outgoing).await?;
    let (head, mut body) = response.into_parts();
    let stream = is_event_stream(&head.headers);
    let mut begun = Begun::default();
    let idle = target.upstream.timeouts.idle;
    let name = || target.upstream.name.clone();
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

fn finish(
    client: &Client,
    target: &Target,
    result: Result<Answer, Failure>,
) -> Result<Answer, ApiError> {
    let answer = result.map_err(|failure| error::of_failure(&failure))?;
    auth::check_answer(client, &target.upstream, answer.head.status)?;
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
