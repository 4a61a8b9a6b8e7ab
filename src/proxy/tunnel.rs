//! WebSockets (`/v1/realtime`): the handshake goes through, then bytes in both directions.

use bytes::Bytes;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::openai::error::ApiError;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;

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
    path: &str,
    call: &mut Call,
) -> Result<Outcome, ApiError> {
    let Some(client) = head.extensions.remove::<OnUpgrade>() else {
        return Err(error::bad_head("A WebSocket needs HTTP/1.1 and `Connection: upgrade`."));
    };
    let route = call.policy.passthrough("");
    models::check_query(&call.client, &head.uri)?;
    let mut headers = head::for_upstream(&head.headers);
    auth::credential(&mut headers, &call.client, &route.target.upstream);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let body = OutBody::whole(Bytes::new());
    let (method, path) = (head.method.clone(), path.to_owned());
    let outgoing = Outgoing { method, path, headers, body, upgrade: true };

    let since = Instant::now();
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
    let (mut client, mut provider) = (TokioIo::new(client), TokioIo::new(provider));
    match tokio::io::copy_bidirectional(&mut client, &mut provider).await {
        Ok((sent, received)) => {
            tracing::debug!(id = %call.id, sent_bytes = sent, received_bytes = received, "websocket closed");
            call.complete = true;
        }
        // Either side left without a goodbye: the usual end of a WebSocket.
        Err(error) => {
            tracing::debug!(id = %call.id, %error, "websocket ended");
            call.complete = true;
        }
    }
}
