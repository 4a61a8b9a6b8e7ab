//! Resolves the `hooks:` section.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;

use super::diagnostic::nearest;
use super::file::HookEntry;
use super::findings::File;
use super::findings::Findings;
use super::hook::Hook;
use super::load::Secrets;

/// What a hook can ask for; `*` stands for the rest of a name.
const EVENTS: [&str; 11] = [
    "policy.rejected",
    "policy.reloaded",
    "budget.threshold",
    "budget.exceeded",
    "dataset.ready",
    "fine_tune.status_changed",
    "fine_tune.succeeded",
    "fine_tune.failed",
    "alias.promoted",
    "alias.rolled_back",
    "webhook.test",
];

/// What is wrong with a name of an event, or with a beginning that ends with `*`.
pub fn unknown_event(name: &str) -> Option<String> {
    if is_known(name) {
        return None;
    }
    let meant = nearest(name, EVENTS).map(|meant| format!("; did you mean `{meant}`?"));
    let meant = meant.unwrap_or_else(|| ";".to_owned());
    Some(format!("`{name}` is no event{meant} Known are {}", EVENTS.join(", ")))
}

/// One webhook; `None` when something in its entry cannot be used.
pub(super) fn hook(
    entry: &HookEntry,
    file: File<'_>,
    secrets: &mut Secrets<'_>,
    findings: &mut Findings,
) -> Option<Hook> {
    check_events(entry, file, findings);
    let url = secrets.expand("url", &entry.url, file, findings);
    let url = url.and_then(|url| {
        let uri = url.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
        });
        if uri.is_none() {
            let message = format!("`{}` is no URL to post to", entry.url.value);
            findings.cure(file, &entry.url, message, "write it as https://host/path");
        }
        uri
    });
    let secret = match (&entry.secret, &entry.secret_file) {
        (Some(_), Some(both)) => {
            let message = "both `secret` and `secret_file` are set; keep one".to_owned();
            findings.error(file, both, message);
            return None;
        }
        (Some(secret), None) => secrets.expand("secret", secret, file, findings)?,
        (None, Some(path)) => secrets.file("secret_file", path, file, findings)?,
        (None, None) => String::new(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &entry.headers {
        let text = secrets.expand("headers", value, file, findings)?;
        match (HeaderName::try_from(name), HeaderValue::try_from(text)) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            _ => findings.error(file, value, format!("`{name}` cannot be a header of that value")),
        }
    }
    let events = entry.events.iter().map(|event| event.value.clone()).collect();
    Some(Hook::new(&url?, secret.trim().as_bytes().to_vec(), headers, events))
}

fn check_events(entry: &HookEntry, file: File<'_>, findings: &mut Findings) {
    for event in &entry.events {
        if !is_known(&event.value) {
            let cure = format!("known are {}", EVENTS.join(", "));
            findings.unknown(file.place(event), ("event", &event.value), EVENTS, &cure);
        }
    }
}

fn is_known(name: &str) -> bool {
    match name.strip_suffix('*') {
        Some(beginning) => EVENTS.iter().any(|event| event.starts_with(beginning)),
        None => EVENTS.contains(&name),
    }
}
