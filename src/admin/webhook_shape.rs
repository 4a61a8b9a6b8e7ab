//! A webhook as the API has it: what may be registered, and what is shown of it.

use std::collections::BTreeMap;
use std::collections::HashMap;

use axum::http::HeaderName;
use axum::http::HeaderValue;
use chrono::DateTime;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::hooks::Receiver;
use crate::openai::error::ApiError;
use crate::policy::unknown_event;
use crate::store::DeliveryRow;
use crate::store::Endpoint;

use super::fine_tune::wrong;

/// Characters of a header's value; headers; events.
const LONGEST_HEADER: usize = 4096;
const MOST_HEADERS: usize = 20;
const MOST_EVENTS: usize = 50;
/// Headers that are the gateway's own.
const RESERVED: [&str; 8] = [
    "content-length",
    "content-type",
    "host",
    "connection",
    "transfer-encoding",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

/// How many deliveries wait or are given up, by receiver and state.
pub(super) type Counts = HashMap<(String, String), i64>;

/// The body that registers one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    pub(super) url: String,
    pub(super) events: Vec<String>,
    pub(super) secret: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) enabled: Option<bool>,
}

/// The body that changes one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub(super) url: Option<String>,
    pub(super) events: Option<Vec<String>>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) enabled: Option<bool>,
}

impl Change {
    /// Changes what is given.
    pub(super) fn apply(self, endpoint: &mut Endpoint) {
        endpoint.url = self.url.unwrap_or_else(|| std::mem::take(&mut endpoint.url));
        endpoint.events = self.events.unwrap_or_else(|| std::mem::take(&mut endpoint.events));
        endpoint.headers = self.headers.unwrap_or_else(|| std::mem::take(&mut endpoint.headers));
        if let Some(enabled) = self.enabled {
            endpoint.enabled = enabled;
            endpoint.disabled_reason = None;
        }
    }
}

/// Says what else of an endpoint cannot be used.
pub(super) fn check(endpoint: &Endpoint) -> Result<(), ApiError> {
    if !(1..=MOST_EVENTS).contains(&endpoint.events.len()) {
        return Err(wrong("events", &format!("has to name 1 to {MOST_EVENTS} events")));
    }
    if let Some(message) = endpoint.events.iter().find_map(|event| unknown_event(event)) {
        return Err(wrong("events", &message));
    }
    if endpoint.headers.len() > MOST_HEADERS {
        return Err(wrong("headers", &format!("are at most {MOST_HEADERS}")));
    }
    for (name, value) in &endpoint.headers {
        // A value is not repeated: it often is a secret.
        let place = format!("headers.{}", name.chars().take(100).collect::<String>());
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(wrong(&place, "is the gateway's own"));
        }
        let usable = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
        if !usable || value.len() > LONGEST_HEADER {
            return Err(wrong(&place, "cannot be a header of that value"));
        }
    }
    Ok(())
}

/// A webhook, without its secret.
pub(super) fn shown(receiver: &Receiver, counts: &Counts) -> Value {
    let id = receiver.id();
    let mut told = match receiver {
        Receiver::Endpoint(endpoint) => json!({
            "source": "api", "url": endpoint.url,
            "events": endpoint.events, "enabled": endpoint.enabled,
            "disabled_reason": endpoint.disabled_reason,
            // Their values may be secrets.
            "headers": endpoint.headers.keys().collect::<Vec<_>>(),
            "created_at": rfc3339(endpoint.created_at),
        }),
        Receiver::Policy(hook, _) => {
            let scheme = hook.receiver.base_url.scheme_str().unwrap_or_default();
            // The path may be a secret.
            let url = format!("{scheme}://{}/…", hook.host());
            json!({ "source": "policy", "url": url, "events": hook.events, "enabled": true })
        }
    };
    for state in ["pending", "dead"] {
        told[state] = counts.get(&(id.clone(), state.to_owned())).copied().unwrap_or(0).into();
    }
    told["object"] = "webhook".into();
    told["id"] = id.into();
    told
}

/// A delivery.
pub(super) fn delivery(row: &DeliveryRow) -> Value {
    let waits = row.state == "pending";
    json!({
        "object": "webhook.delivery", "id": row.id, "message_id": row.message, "type": row.kind,
        "subject": row.subject, "created_at": rfc3339(row.created_at), "state": row.state,
        "attempts": row.attempts, "next_attempt_at": waits.then(|| rfc3339(row.next_at)),
        "last_status": row.last_status, "last_error": row.last_error,
        "finished_at": row.finished_at.map(rfc3339),
    })
}

fn rfc3339(millis: i64) -> String {
    let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
