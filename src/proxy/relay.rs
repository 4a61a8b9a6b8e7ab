//! The answer on its way to the client: client first, observer second.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::header;
use http::response::Parts;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::openai::endpoint::Endpoint;
use crate::openai::error::ApiError;
use crate::openai::response::AnswerFacts;
use crate::openai::stream::StreamTap;
use crate::openai::usage::Usage;
use crate::policy::OnDisconnect;
use crate::upstream::AnswerBody;
use crate::upstream::BodyError;
use crate::upstream::root_cause;

use super::attempts::Answer;
use super::attempts::is_event_stream;
use super::call::Call;
use super::decode;
use super::error;
use super::head;

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Of a pass-through answer, what is kept to look for its usage.
const COPIED: usize = 1 << 20;
/// Of an answer that is captured, the most that is kept.
const KEPT: usize = 32 << 20;
/// How long an answer's silence may last where no upstream says so.
const IDLE: Duration = Duration::from_secs(120);

/// An answer's body.
pub enum Reply {
    /// All of it, in memory.
    Whole(Option<Bytes>),
    /// Passed on as it comes.
    Relay(Box<Relay>),
}

impl Reply {
    pub(super) fn whole(body: Bytes) -> Self {
        Self::Whole((!body.is_empty()).then_some(body))
    }
}

/// Reads along with an answer.
pub(super) enum Observer {
    /// Events of a stream.
    Events(Box<StreamTap>),
    /// A copy of a body, up to a bound, to look for usage at its end.
    Copy(Vec<u8>),
    /// A whole answer, which is read at once.
    Whole,
    /// Nothing.
    Blind,
}

impl Observer {
    /// The observer of an answer of an endpoint that is understood.
    pub(super) fn of(call: &mut Call, answer: &Answer, strip_usage: bool) -> Self {
        let headers = &answer.head.headers;
        if is_event_stream(headers) {
            // A stream that is compressed although plain text was asked for passes unread.
            if headers.contains_key(header::CONTENT_ENCODING) {
                call.lose_bodies();
                return Self::Blind;
            }
            let tap = StreamTap::new(call.endpoint, strip_usage);
            return Self::Events(Box::new(if call.keeps_bodies() { tap.folding() } else { tap }));
        }
        if answer.rest.is_none() { Self::Whole } else { Self::Copy(Vec::new()) }
    }
}

/// Dresses an answer for the client.
pub(super) async fn reply(answer: Answer, observer: Observer, mut call: Call) -> Response<Reply> {
    let Answer { mut head, begun, rest } = answer;
    let status = head.status.as_u16();
    head::for_client(&mut head.headers);
    if status >= 400 {
        call.error = upstream_error(status);
    }
    let stream = is_event_stream(&head.headers);
    if stream {
        head.headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        // Its length may change: an event may be taken out.
        head.headers.remove(header::CONTENT_LENGTH);
        call.first_event = Some(call.started.elapsed());
    }
    call.answer_with(status, &mut head.headers);
    if let Observer::Whole = observer {
        note_whole(&mut call, &head.headers, &begun);
        call.price_into(&mut head.headers);
        call.complete = true;
        if call.is_durable() && !is_saved(call.record_durably()).await {
            return call.refuse(&error::not_recorded());
        }
        return assemble(head, Reply::whole(begun));
    }
    let idle = call.route.as_ref().map_or(IDLE, |route| route.target.upstream.timeouts.idle);
    let mut relay = Box::new(Relay {
        body: rest.filter(|body| !body.is_end_stream()),
        observer,
        encoding: coding_of(&head.headers),
        pending: VecDeque::new(),
        stream,
        idle: Idle::new(idle),
        ended: false,
        left: false,
        saving: None,
        unsaved: call.is_durable(),
        call,
    });
    relay.take_in(begun);
    if relay.body.is_none() {
        relay.end();
    }
    assemble(head, Reply::Relay(relay))
}

/// Reads an answer to its end for its usage alone: the client left before it began, so there is no
/// status that it saw.
pub(super) async fn read_unseen(answer: Answer, observer: Observer, mut call: Call) {
    if answer.head.status.as_u16() >= 400 {
        return call.leave_unbilled();
    }
    if let Observer::Whole = observer {
        return note_whole(&mut call, &answer.head.headers, &answer.begun);
    }
    if let Reply::Relay(mut relay) = reply(answer, observer, call).await.into_body() {
        relay.left = true;
        relay.call.status = 0;
        relay.read_on().await;
    }
}

fn assemble(head: Parts, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// Only what tells how to read the body.
fn coding_of(headers: &HeaderMap) -> HeaderMap {
    let mut coding = HeaderMap::new();
    if let Some(value) = headers.get(header::CONTENT_ENCODING) {
        coding.insert(header::CONTENT_ENCODING, value.clone());
    }
    coding
}

/// `error_type` of an answer that the upstream refused.
fn upstream_error(status: u16) -> &'static str {
    match status {
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        408 => "408",
        409 => "409",
        413 => "413",
        422 => "422",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        505..=599 => "5xx",
        _ => "4xx",
    }
}

/// Reads the facts of a whole answer.
fn note_whole(call: &mut Call, headers: &HeaderMap, body: &Bytes) {
    let Some(plain) = decode::plain(headers, body) else { return call.lose_bodies() };
    if call.keeps_bodies() {
        call.response = match &plain {
            Cow::Borrowed(_) => body.clone(),
            Cow::Owned(plain) => Bytes::copy_from_slice(plain),
        };
    }
    if call.status >= 400 {
        return;
    }
    let Some(facts) = AnswerFacts::read(&plain) else { return };
    if facts.usage.is_none() && call.endpoint != Endpoint::Other {
        call.seen_text = Some(AnswerFacts::output_text(&plain));
    }
    call.answer_id = facts.id;
    call.usage = facts.usage;
    call.answered = facts.model;
    call.service_tier = facts.service_tier;
    call.finish_reason = facts.finish_reason;
}

/// An answer that is passed on while it comes. Dropping it before its end means that the client
/// left: the provider's connection closes with it.
pub struct Relay {
    body: Option<AnswerBody>,
    observer: Observer,
    encoding: HeaderMap,
    /// Pieces for the client, in order.
    pending: VecDeque<Bytes>,
    stream: bool,
    idle: Idle,
    /// Nothing more comes after `pending`.
    ended: bool,
    /// The client has gone and the answer is read on.
    left: bool,
    /// The last piece is held back until the record is on disk.
    unsaved: bool,
    saving: Option<oneshot::Receiver<()>>,
    call: Call,
}

/// Whether a record is on disk.
async fn is_saved(saving: Option<oneshot::Receiver<()>>) -> bool {
    match saving {
        Some(saving) => saving.await.is_ok(),
        None => false,
    }
}

impl Relay {
    fn take_in(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        match &mut self.observer {
            Observer::Events(tap) => {
                let pending = &mut self.pending;
                tap.push(chunk, &mut |piece| pending.push_back(piece));
            }
            Observer::Copy(copy) => {
                let most = if self.call.keeps_bodies() { KEPT } else { COPIED };
                if copy.len() + chunk.len() <= most {
                    copy.extend_from_slice(&chunk);
                } else {
                    // Too large to read: what was copied is of no use.
                    self.observer = Observer::Blind;
                    self.call.lose_bodies();
                }
                self.pending.push_back(chunk);
            }
            Observer::Whole | Observer::Blind => self.pending.push_back(chunk),
        }
    }

    /// The upstream's clean end.
    fn end(&mut self) {
        if let Observer::Events(tap) = &mut self.observer {
            let pending = &mut self.pending;
            tap.finish(true, &mut |piece| pending.push_back(piece));
        }
        self.note();
        self.call.complete = true;
        self.ended = true;
    }

    /// The upstream died. A stream ends with an event that says so and without `[DONE]`; any other
    /// body ends with an error, so that what came cannot pass for the whole.
    fn die(&mut self, code: &'static str, reason: &str) -> Option<BodyError> {
        self.body = None;
        self.call.error = code;
        self.ended = true;
        tracing::warn!(id = %self.call.id, reason, "the upstream ended an answer early");
        if !self.stream {
            self.note();
            return Some(reason.into());
        }
        let message = format!("The upstream ended the stream early: {reason}.");
        let error = ApiError::new(502, "api_error", code, message).to_json();
        let mut cut = true;
        if let Observer::Events(tap) = &mut self.observer {
            let pending = &mut self.pending;
            tap.finish(false, &mut |piece| pending.push_back(piece));
            tap.fold_error(&error);
            cut = tap.mid_event();
        }
        self.note();
        // An empty line ends what may have been the half of an event.
        let start = if cut { "\n\ndata: " } else { "data: " };
        self.pending.push_back([start.as_bytes(), &error[..], b"\n\n"].concat().into());
        None
    }

    /// Moves what the observer saw into the record.
    fn note(&mut self) {
        match std::mem::replace(&mut self.observer, Observer::Blind) {
            Observer::Events(mut tap) => note_events(&mut self.call, &mut tap),
            Observer::Copy(copy) => note_whole(&mut self.call, &self.encoding, &copy.into()),
            Observer::Whole | Observer::Blind => {}
        }
    }

    /// Whether the only piece at hand ends the answer, and the record is not on disk yet.
    fn holds_last(&self) -> bool {
        let done = || matches!(&self.observer, Observer::Events(tap) if tap.seen().done);
        self.unsaved && self.pending.len() == 1 && done()
    }

    /// Ready when the record is on disk. Where that fails the answer does not end as if it had: a
    /// stream ends with an event that says so, any other body with an error.
    fn poll_save(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.saving.is_none() {
            self.saving = self.call.record_durably();
        }
        let saved = match &mut self.saving {
            Some(saving) => ready!(Pin::new(saving).poll(cx)).is_ok(),
            None => false,
        };
        self.unsaved = false;
        if saved {
            return Poll::Ready(Ok(()));
        }
        self.call.error = "not_recorded";
        let error = error::not_recorded();
        self.pending.clear();
        if !self.stream {
            return Poll::Ready(Err(error.message.into()));
        }
        self.pending.push_back([b"\n\ndata: ", &error.to_json()[..], b"\n\n"].concat().into());
        Poll::Ready(Ok(()))
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<BodyError>> {
        let Some(body) = &mut self.body else {
            self.end();
            return Poll::Ready(None);
        };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.touch();
                // Asked now: who knows the length does not ask for the end.
                let last = body.is_end_stream();
                if let Ok(data) = frame.into_data() {
                    self.take_in(data);
                }
                if last {
                    self.body = None;
                    self.end();
                }
                Poll::Ready(None)
            }
            Poll::Ready(None) => {
                self.body = None;
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(self.die("upstream_unavailable", &root_cause(&error)))
            }
            Poll::Pending => {
                ready!(self.idle.poll_over(cx));
                let reason = format!("nothing came for {} s", self.idle.limit.as_secs_f64());
                Poll::Ready(self.die("upstream_timeout", &reason))
            }
        }
    }
}

/// Moves what a tap saw into the record.
fn note_events(call: &mut Call, tap: &mut StreamTap) {
    if call.keeps_bodies() {
        match tap.take_folded() {
            Some(answer) => call.response = answer.into(),
            None if tap.seen().events > 0 => call.lose_bodies(),
            None => {}
        }
    }
    let seen = tap.seen();
    call.usage = seen.usage.as_deref().and_then(Usage::from_json).map(|usage| {
        let web_searches = seen.web_searches;
        Usage { web_searches, ..usage }
    });
    call.answer_id.clone_from(&seen.id);
    call.answered.clone_from(&seen.model);
    call.service_tier.clone_from(&seen.service_tier);
    call.finish_reason.clone_from(&seen.finish_reason);
    if seen.error && call.error.is_empty() {
        call.error = "upstream_error_event";
    }
    if call.usage.is_none() || (seen.done && call.is_sampled()) {
        call.seen_text = Some(tap.seen_text());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let route = self.call.route.as_ref();
        let drains = route.is_some_and(|route| route.rule.on_disconnect == OnDisconnect::Drain);
        if !self.ended
            && !self.left
            && drains
            && let Some(body) = self.body.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // The route wants the answer's true usage: it is read on, for nobody.
            let observer = std::mem::replace(&mut self.observer, Observer::Blind);
            let rest = Self {
                body: Some(body),
                observer,
                encoding: std::mem::take(&mut self.encoding),
                pending: VecDeque::new(),
                stream: self.stream,
                idle: Idle::new(self.idle.limit),
                ended: false,
                left: true,
                // Nobody waits for it any more.
                unsaved: false,
                saving: None,
                call: self.call.hand_over(),
            };
            runtime.spawn(rest.read_on());
            return;
        }
        // The client left: what was seen until now is what is billed.
        self.note();
    }
}

impl Relay {
    /// Reads an answer to its end after the client has left.
    async fn read_on(mut self) {
        while !self.ended {
            self.pending.clear();
            std::future::poll_fn(|cx| self.poll_upstream(cx)).await;
        }
        // Whatever else went wrong then: nobody was there to see it.
        self.call.error = "client_gone";
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let relay = match self.get_mut() {
            Self::Whole(body) => return Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Relay(relay) => relay,
        };
        loop {
            if relay.ended
                && relay.unsaved
                && relay.pending.len() <= 1
                && let Err(error) = ready!(relay.poll_save(cx))
            {
                return Poll::Ready(Some(Err(error)));
            }
            if !relay.holds_last()
                && let Some(piece) = relay.pending.pop_front()
            {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if relay.ended {
                return Poll::Ready(None);
            }
            if let Some(error) = ready!(relay.poll_upstream(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_none(),
            Self::Relay(relay) => relay.ended && relay.pending.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => {
                let len = body.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(len).unwrap_or(u64::MAX))
            }
            Self::Relay(_) => SizeHint::default(),
        }
    }
}

/// Notices silence. The timer is set once and looked at when it fires, not moved by every event.
struct Idle {
    limit: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, last: Instant::now(), timer: None }
    }

    fn touch(&mut self) {
        self.last = Instant::now();
    }

    /// Ready when nothing came for `limit`.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.last + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
