//! Everything else below `/v1`: streamed in both directions, whatever its size. Where the answer of
//! a call that makes something holds `usage`, it is priced.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http::Method;
use http::Response;
use http::header;
use http::request::Parts;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use serde::Deserialize;
use tokio::time::Instant;

use crate::openai::endpoint::Endpoint;
use crate::openai::error::ApiError;
use crate::openai::stream::StreamTap;
use crate::openai::usage::Usage;
use crate::policy::Route;
use crate::upstream::AnswerBody;
use crate::upstream::BodyError;
use crate::upstream::Failure;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Path;

use super::Gateway;
use super::Outcome;
use super::attempts::Answer;
use super::attempts::is_event_stream;
use super::auth;
use super::body;
use super::body::Paced;
use super::call::Call;
use super::error;
use super::head;
use super::models;
use super::outgoing;
use super::quota;
use super::relay::Observer;

/// Where text becomes speech.
const SPEECH: &str = "/v1/audio/speech";
/// Of a JSON request, what is kept to find the model's name.
const COPIED: usize = 64 << 10;

pub(super) async fn forward<B>(
    gateway: &Gateway,
    head: &Parts,
    path: Path,
    body: B,
    call: &mut Call,
) -> Result<Outcome, ApiError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let route = call.policy.passthrough("");
    call.check_key(&route.target.upstream)?;
    quota::admit_head(gateway, head, call).await?;
    let mut headers = head::for_upstream(&head.headers);
    auth::credential(&mut headers, &call.client, &route.target.upstream);
    let copy = Copied::default();
    let body = if body.is_end_stream() {
        models::check(&call.client, head, b"")?;
        OutBody::whole(Bytes::new())
    } else if models::is_read(&call.client, head) {
        let whole = body::read(&head.headers, body, gateway.body_limit).await?;
        models::check(&call.client, head, &whole)?;
        copy.push(&whole);
        headers.remove(header::CONTENT_LENGTH);
        OutBody::whole(whole)
    } else {
        OutBody::stream(Tee { inner: Paced::new(body), copy: copy.clone() })
    };
    call.route = Some(route.clone());
    let since = Instant::now();
    let sent = send(gateway, &route, outgoing(head, path, headers, body), call).await;
    call.waited = since.elapsed();
    let answer = sent.map_err(|failure| error::of_failure(&failure))?;
    auth::check_answer(&call.client, &route.target.upstream, answer.head.status)?;
    if head.method == Method::POST {
        let route = call.policy.passthrough(&copy.model().unwrap_or_default());
        call.asked = Arc::clone(&route.target.model);
        // Speech answers are sound: where text is billed by its length, that is known now.
        let by_characters = call.policy.model_of(&route.target);
        let by_characters = by_characters.is_some_and(|model| model.units.character.is_some());
        if by_characters && head.uri.path() == SPEECH && answer.head.status.is_success() {
            let characters = copy.characters();
            call.usage = characters.map(|characters| Usage { characters, ..Usage::default() });
        }
        call.route = Some(route);
    }
    let observer = observer(&head.method, head.uri.path(), &answer);
    Ok(Outcome::Answered(answer, observer))
}

/// One try; another only when no connection could be opened and the body is still there.
async fn send(
    gateway: &Gateway,
    route: &Route,
    outgoing: Outgoing,
    call: &mut Call,
) -> Result<Answer, Failure> {
    let again = outgoing.try_clone();
    let mut result = ask(gateway, route, outgoing, call).await;
    if let (Err(Failure::Connect { .. }), Some(again)) = (&result, again) {
        result = ask(gateway, route, again, call).await;
    }
    let (head, body) = result?.into_parts();
    Ok(Answer { head, begun: Bytes::new(), rest: Some(body) })
}

/// One try: counted, and told to the call's trace.
pub(super) async fn ask(
    gateway: &Gateway,
    route: &Route,
    mut outgoing: Outgoing,
    call: &mut Call,
) -> Result<Response<AnswerBody>, Failure> {
    call.attempts += 1;
    if let Some(trace) = &mut call.trace {
        trace.asks(&route.target, &mut outgoing.headers);
    }
    let result = gateway.upstreams.send(&route.target.upstream, outgoing).await;
    let outcome = result.as_ref().map_or_else(Failure::outcome, |_| "ok");
    gateway.metrics.attempt(&route.target.upstream.name, outcome);
    if let Some(trace) = &mut call.trace {
        let status = result.as_ref().ok().map(|answer| answer.status().as_u16());
        trace.heard(outcome, status);
    }
    // Its answer is passed on while it comes.
    call.answer_goes_on(result.is_ok());
    result
}

/// Looks for usage where a call made something: reading a stored answer again costs nothing.
fn observer(method: &Method, path: &str, answer: &Answer) -> Observer {
    let headers: &HeaderMap = &answer.head.headers;
    if method != Method::POST || path.ends_with("/cancel") || !answer.head.status.is_success() {
        return Observer::Blind;
    }
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    if is_event_stream(headers) && !headers.contains_key(header::CONTENT_ENCODING) {
        return Observer::Events(Box::new(StreamTap::new(Endpoint::Other, false)));
    }
    if kind.starts_with(b"application/json") { Observer::Copy(Vec::new()) } else { Observer::Blind }
}

/// The beginning of a request's body.
#[derive(Clone, Default)]
struct Copied(Arc<Mutex<Vec<u8>>>);

impl Copied {
    fn push(&self, data: &[u8]) {
        let mut copy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = COPIED.saturating_sub(copy.len()).min(data.len());
        copy.extend(data.iter().take(room));
    }

    /// Characters of a JSON body's `input`; `None` where that is not all there.
    fn characters(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Spoken {
            input: String,
        }
        let copy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spoken: Spoken = serde_json::from_slice(&copy).ok()?;
        u64::try_from(spoken.input.chars().count()).ok()
    }

    /// `model` of a JSON body or of a form.
    fn model(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Named {
            model: String,
        }
        let copy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if copy.first() == Some(&b'{') {
            return serde_json::from_slice::<Named>(&copy).ok().map(|named| named.model);
        }
        let field = b"name=\"model\"\r\n\r\n";
        let at = memchr::memmem::find(&copy, field)? + field.len();
        let value = copy.get(at..)?.split(|&byte| byte == b'\r').next()?;
        (value.len() <= 256).then(|| String::from_utf8_lossy(value).into_owned())
    }
}

/// Passes a body on and keeps its beginning.
struct Tee<B> {
    inner: Paced<B>,
    copy: Copied,
}

impl<B> Body for Tee<B>
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
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.copy.push(data);
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
