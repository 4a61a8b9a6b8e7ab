//! A webhook out, as the policy names it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::Uri;

use super::Timeouts;
use super::Upstream;

/// Where events are posted.
pub struct Hook {
    /// The receiver, as a provider without a key.
    pub receiver: Arc<Upstream>,
    /// What follows the receiver's path: its query, with the `?`.
    pub query: String,
    /// Fixed headers, for receivers that check no signature.
    pub headers: HeaderMap,
    /// Signs each post; empty for none.
    pub secret: Vec<u8>,
    /// Which events: names, or beginnings that end with `*`.
    pub events: Vec<String>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither secret nor headers, nor a path or query, which often are secrets themselves.
        write!(f, "Hook({})", self.host())
    }
}

impl Hook {
    pub(super) fn new(url: &Uri, secret: Vec<u8>, headers: HeaderMap, events: Vec<String>) -> Self {
        let timeout = Duration::from_secs(10);
        let timeouts = Timeouts { connect: timeout, first_byte: timeout, idle: timeout };
        let receiver = Upstream {
            name: "hook".to_owned(),
            identity: format!("hook {url}").into(),
            base_url: url.clone(),
            authorization: None,
            ca_file: None,
            timeouts,
            max_in_flight: 8,
        };
        let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
        Self { receiver: Arc::new(receiver), query, headers, secret, events }
    }

    /// Whether the hook wants an event of that name.
    pub fn wants(&self, event: &str) -> bool {
        wants(&self.events, event)
    }

    /// The receiver's host, which may be shown.
    pub fn host(&self) -> &str {
        self.receiver.base_url.host().unwrap_or_default()
    }
}

/// Whether an event is among those that are named, or that begin so where a name ends with `*`.
pub fn wants(named: &[String], event: &str) -> bool {
    named.iter().any(|wanted| match wanted.strip_suffix('*') {
        Some(beginning) => event.starts_with(beginning),
        None => wanted == event,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_wants_what_it_names_and_shows_no_secret() {
        let url = Uri::from_static("https://hook.example/abc?token=s3cret");
        let events = vec!["policy.*".to_owned(), "budget.exceeded".to_owned()];
        let hook = Hook::new(&url, b"s3cret".to_vec(), HeaderMap::new(), events);
        assert!(hook.wants("policy.rejected") && hook.wants("budget.exceeded"));
        assert!(!hook.wants("budget.threshold") && !hook.wants("policy"));
        assert_eq!(format!("{hook:?}"), "Hook(hook.example)");
        assert_eq!(hook.query, "?token=s3cret");
    }
}
