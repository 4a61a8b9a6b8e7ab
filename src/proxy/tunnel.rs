//! WebSockets (`/v1/realtime`): the handshake goes through, then bytes in both directions. What the
//! provider says of usage is read along.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderValue;
use http::StatusCode;
use http::Uri;
use http::header;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::openai::error::ApiError;
use crate::openai::realtime::SessionTap;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Path;

use super::Gateway;
use super::Outcome;
use super::attempts::Answer;
use super::auth;
use super::call::Call;
use super::error;
use super::head;
use super::models;
use super::passthrough;
use super::relay::Observer;
use super::relay::Reply;

/// Sends the handshake on; when both sides agree, a task carries the bytes until one of them ends.
pub(super) async fn open(
    gateway: &Gateway,
    head: &mut Parts,
    path: Path,
    call: &mut Call,
) -> Result<Outcome, ApiError> {
    let Some(client) = head.extensions.remove::<OnUpgrade>() else {
        return Err(error::bad_head("A WebSocket needs HTTP/1.1 and `Connection: upgrade`."));
    };
    let route = call.policy.passthrough(&model_of(&head.uri));
    models::check_query(&call.client, &head.uri)?;
    let mut headers = head::for_upstream(&head.headers);
    auth::credential(&mut headers, &call.client, &route.target.upstream);
    // Else the frames may come compressed, and nobody could read what the session used.
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let body = OutBody::whole(Bytes::new());
    let method = head.method.clone();
    let outgoing = Outgoing { method, path, headers, body, upgrade: true };

    let since = Instant::now();
    call.asked = Arc::clone(&route.target.model);
    call.route = Some(route.clone());
    let sent = passthrough::ask(gateway, &route, outgoing, call).await;
    call.waited = since.elapsed();
    let mut response = sent.map_err(|failure| error::of_failure(&failure))?;
    auth::check_answer(&call.client, &route.target.upstream, response.status())?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        let answer = Answer { head, begun: Bytes::new(), rest: Some(body) };
        return Ok(Outcome::Answered(answer, Observer::Blind));
    }
    let provider = hyper::upgrade::on(&mut response);
    let (mut upgraded, _) = response.into_parts();
    call.answer_with(101, &mut upgraded.headers);
    let call = call.hand_over();
    // Ends with either side's connection.
    tokio::spawn(carry(client, provider, call));
    let mut reply = http::Response::new(Reply::Whole(None));
    *reply.status_mut() = upgraded.status;
    *reply.headers_mut() = upgraded.headers;
    Ok(Outcome::Tunnel(reply))
}

async fn carry(client: OnUpgrade, provider: OnUpgrade, mut call: Call) {
    let (Ok(client), Ok(provider)) = tokio::join!(client, provider) else {
        call.error = "upgrade_failed";
        return;
    };
    let mut provider = Tapped { inner: TokioIo::new(provider), tap: SessionTap::default() };
    let mut client = TokioIo::new(client);
    match tokio::io::copy_bidirectional(&mut client, &mut provider).await {
        Ok((sent, received)) => {
            tracing::debug!(id = %call.id, sent_bytes = sent, received_bytes = received, "websocket closed");
        }
        // Either side left without a goodbye: the usual end of a WebSocket.
        Err(error) => tracing::debug!(id = %call.id, %error, "websocket ended"),
    }
    call.complete = true;
    call.usage = provider.tap.usage();
    call.answer_id = provider.tap.answer_id().map(str::to_owned);
}

/// The model that a session is for, from the query.
fn model_of(uri: &Uri) -> String {
    let mut pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == "model").map(|(_, model)| model.into_owned()).unwrap_or_default()
}

/// The provider's side; what comes from it is read along.
struct Tapped<S> {
    inner: S,
    tap: SessionTap,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.tap.push(buf.filled().get(before..).unwrap_or_default());
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
