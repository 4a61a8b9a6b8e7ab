//! One post to one receiver: the policy's own hooks may be anywhere, endpoints that users have
//! registered only on the public internet or where `outbound.allow` says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use chrono::DateTime;
use chrono::SecondsFormat;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;
use ring::digest;
use serde_json::Value;
use serde_json::json;

use crate::policy;
use crate::policy::Hook;
use crate::policy::Policy;
use crate::store::Endpoint;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Upstreams;
use crate::upstream::outside::Outside;

use super::sign;

/// Longest wait for a receiver, connecting included.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who gets events.
#[derive(Clone, Debug)]
pub enum Receiver {
    /// A hook of the policy, and what it is called here.
    Policy(Arc<Hook>, String),
    /// One that somebody registered.
    Endpoint(Box<Endpoint>),
}

/// An event as it is posted.
#[derive(Clone, Debug)]
pub struct Message {
    /// The header `webhook-id`.
    pub id: String,
    /// The same at every attempt.
    pub body: Bytes,
}

/// What a receiver answered.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its status.
    pub status: StatusCode,
    /// The begin of its body, where it was read.
    pub body: Bytes,
}

/// Posts.
pub struct Sender {
    upstreams: Arc<Upstreams>,
    outside: Outside,
}

/// Everybody who may get events: the policy's hooks, and those endpoints.
pub fn receivers(policy: &Policy, endpoints: Vec<Endpoint>) -> Vec<Receiver> {
    let mut seen = HashMap::<String, u32>::new();
    let hooks = policy.hooks().iter().map(|hook| {
        // A digest of its URL, which may be a secret; one URL may stand in several hooks.
        let digest = digest::digest(&digest::SHA256, hook.receiver.identity.as_bytes());
        let digest = digest.as_ref().first_chunk().copied().map_or(0, u128::from_be_bytes);
        let mut id = format!("policy_{digest:032x}");
        let count = seen.entry(id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            id = format!("{id}_{count}");
        }
        Receiver::Policy(Arc::clone(hook), id)
    });
    let hooks: Vec<_> = hooks.collect();
    let endpoints = endpoints.into_iter().map(|endpoint| Receiver::Endpoint(Box::new(endpoint)));
    endpoints.chain(hooks).collect()
}

impl Receiver {
    /// What the outbox calls it.
    pub fn id(&self) -> String {
        match self {
            Self::Policy(_, id) => id.clone(),
            Self::Endpoint(endpoint) => endpoint.id.to_string(),
        }
    }

    /// Whether it gets events of that name.
    pub fn wants(&self, kind: &str) -> bool {
        match self {
            Self::Policy(hook, _) => hook.wants(kind),
            Self::Endpoint(endpoint) => endpoint.enabled && policy::wants(&endpoint.events, kind),
        }
    }

    /// Its host, which may be shown.
    pub fn host(&self) -> &str {
        match self {
            Self::Policy(hook, _) => hook.host(),
            Self::Endpoint(endpoint) => {
                let rest = endpoint.url.split_once("://").map_or("", |(_, rest)| rest);
                rest.split(['/', '?', '#']).next().unwrap_or_default()
            }
        }
    }
}

impl Message {
    /// An event that happened at a time in milliseconds since 1970.
    pub fn new(id: String, kind: &str, created_at: i64, data: &Value) -> Self {
        let time = DateTime::from_timestamp_millis(created_at).unwrap_or_default();
        let timestamp = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let body = json!({ "type": kind, "timestamp": timestamp, "data": data }).to_string();
        Self { id, body: Bytes::from(body) }
    }
}

impl Sender {
    /// Posts to hooks over connections of `upstreams`, and to endpoints by `outside`.
    pub fn new(upstreams: Arc<Upstreams>, outside: Outside) -> Self {
        Self { upstreams, outside }
    }

    /// The way to endpoints.
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Posts once. A redirect is not followed: it is an answer like any other.
    ///
    /// # Errors
    /// A sentence, where there is no answer.
    pub async fn post(&self, to: &Receiver, message: &Message) -> Result<Said, String> {
        let posted = async {
            match to {
                Receiver::Policy(hook, _) => self.to_hook(hook, message).await,
                Receiver::Endpoint(endpoint) => self.to_endpoint(endpoint, message).await,
            }
        };
        let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
        tokio::time::timeout(PATIENCE, posted).await.map_err(late)?
    }

    async fn to_hook(&self, hook: &Hook, message: &Message) -> Result<Said, String> {
        let headers = headers(hook.headers.clone(), &hook.secret, message)?;
        let body = OutBody::whole(message.body.clone());
        let (method, path) = (Method::POST, hook.query.clone().into());
        let outgoing = Outgoing { method, path, headers, body, upgrade: false };
        let sent = self.upstreams.send(&hook.receiver, outgoing).await;
        let status = sent.map_err(|failure| failure.to_string())?.status();
        Ok(Said { status, body: Bytes::new() })
    }

    async fn to_endpoint(&self, endpoint: &Endpoint, message: &Message) -> Result<Said, String> {
        let mut fixed = HeaderMap::new();
        for (name, value) in &endpoint.headers {
            let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let mut value = text(value)?;
            value.set_sensitive(true);
            fixed.insert(name, value);
        }
        let headers = headers(fixed, endpoint.secret.as_bytes(), message)?;
        let answer = self.outside.post(&endpoint.url, headers, message.body.clone()).await?;
        Ok(Said { status: answer.status, body: answer.body })
    }
}

fn headers(mut headers: HeaderMap, secret: &[u8], message: &Message) -> Result<HeaderMap, String> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = since.as_secs();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("weir"));
    headers.insert(HeaderName::from_static("webhook-timestamp"), now.into());
    headers.insert(HeaderName::from_static("webhook-id"), text(&message.id)?);
    if !secret.is_empty() {
        let signature = sign::signature(secret, &message.id, now, &message.body);
        headers.insert(HeaderName::from_static("webhook-signature"), text(&signature)?);
    }
    Ok(headers)
}

fn text(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|error| error.to_string())
}
