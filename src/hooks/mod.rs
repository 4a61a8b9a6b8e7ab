//! Webhooks out: tells the receivers that the policy names what has happened.
//!
//! At least once, as long as the process lives: a receiver that does not answer with 2xx gets the event
//! again, under the same `webhook-id`. Nobody waits for a receiver.

mod sign;

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::Utc;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::policy::Hook;
use crate::policy::Policy;
use crate::telemetry::metrics::Metrics;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Upstreams;

/// Deliveries that wait or run at the same time; more are dropped and counted.
const MOST: usize = 1_000;
/// Pauses before further tries.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(30 * 60),
];

/// Posts events to the hooks of a policy.
pub struct Hooks {
    upstreams: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    room: Arc<Semaphore>,
}

/// One event on its way to one receiver.
struct Delivery {
    hook: Arc<Hook>,
    event: &'static str,
    id: String,
    body: Bytes,
}

impl Hooks {
    /// Posts over connections of `upstreams`.
    pub fn new(upstreams: Arc<Upstreams>, metrics: Arc<Metrics>) -> Self {
        Self { upstreams, metrics, room: Arc::new(Semaphore::new(MOST)) }
    }

    /// Tells every hook of `policy` that wants this event. Returns at once; to be called within a
    /// runtime.
    pub fn post(&self, policy: &Policy, event: &'static str, data: &Value) {
        let now = DateTime::<Utc>::from(SystemTime::now());
        let timestamp = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        let body = json!({ "type": event, "timestamp": timestamp, "data": data }).to_string();
        let body = Bytes::from(body);
        for hook in policy.hooks().iter().filter(|hook| hook.wants(event)) {
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                self.metrics.hook_delivery(event, "dropped");
                continue;
            };
            let id = format!("msg_{}", Uuid::now_v7().simple());
            let delivery = Delivery { hook: Arc::clone(hook), event, id, body: body.clone() };
            let (upstreams, metrics) = (Arc::clone(&self.upstreams), Arc::clone(&self.metrics));
            tokio::spawn(async move {
                delivery.run(&upstreams, &metrics).await;
                drop(permit);
            });
        }
    }
}

impl Delivery {
    async fn run(self, upstreams: &Upstreams, metrics: &Metrics) {
        let mut pauses = PAUSES.iter();
        loop {
            let Err(reason) = self.attempt(upstreams).await else {
                metrics.hook_delivery(self.event, "delivered");
                return;
            };
            let (event, id, host) = (self.event, &self.id, self.hook.host());
            let Some(pause) = pauses.next() else {
                metrics.hook_delivery(event, "given_up");
                tracing::error!(event, id, host, reason, "a hook is given up");
                return;
            };
            metrics.hook_delivery(event, "failed");
            tracing::warn!(event, id, host, reason, again_in_s = pause.as_secs(), "a hook failed");
            tokio::time::sleep(*pause).await;
        }
    }

    async fn attempt(&self, upstreams: &Upstreams) -> Result<(), String> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = since.as_secs();
        let mut headers = self.hook.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("weir"));
        headers.insert(HeaderName::from_static("webhook-timestamp"), now.into());
        let text = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
        headers.insert(HeaderName::from_static("webhook-id"), text(&self.id)?);
        if !self.hook.secret.is_empty() {
            let signature = sign::signature(&self.hook.secret, &self.id, now, &self.body);
            headers.insert(HeaderName::from_static("webhook-signature"), text(&signature)?);
        }
        let body = OutBody::whole(self.body.clone());
        let (method, path) = (Method::POST, self.hook.query.clone());
        let outgoing = Outgoing { method, path, headers, body, upgrade: false };
        let sent = upstreams.send(&self.hook.receiver, outgoing).await;
        let status = sent.map_err(|failure| failure.to_string())?.status();
        // A redirect is not followed: whoever moves a receiver changes the policy.
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}
